// The P x P blocks of a system on a graph of voxels, packed lower triangles: what the penalty adds
// to them, and their factors.
#pragma once
#include "lanes.hpp"

// Cholesky factor of a packed matrix over the free parameters; those held or undetermined are left
// out. The diagonal holds inverse pivots.
template <class T, int P>
KETY_FN void factor(const double* m, unsigned free, T* out) {
  auto at = [](int i, int j) { return i * (i + 1) / 2 + j; };
  double scale[P], f[P * (P + 1) / 2];
  for (int i = 0; i < P; ++i) {
    const double d = m[at(i, i)];
    scale[i] = (free >> i & 1) && d > 0 ? 1 / __builtin_sqrt(d) : 0;
  }
  for (int i = 0; i < P; ++i)
    for (int j = 0; j <= i; ++j) f[at(i, j)] = m[at(i, j)] * scale[i] * scale[j];
  for (int i = 0; i < P; ++i) {
    double d = f[at(i, i)];
    for (int q = 0; q < i; ++q) d -= f[at(i, q)] * f[at(i, q)];
    const double inverse = d > 1e-13 ? 1 / __builtin_sqrt(d) : 0;
    for (int r = i + 1; r < P; ++r) {
      double s = f[at(r, i)];
      for (int q = 0; q < i; ++q) s -= f[at(r, q)] * f[at(i, q)];
      f[at(r, i)] = s * inverse;
    }
    f[at(i, i)] = inverse;
  }
  // The scales folded in, so that the solution needs none of its own.
  for (int i = 0; i < P; ++i) {
    for (int j = 0; j < i; ++j)
      out[at(i, j)] = static_cast<T>(scale[i] > 0 ? f[at(i, j)] / scale[i] : 0.0);
    out[at(i, i)] = static_cast<T>(f[at(i, i)] * scale[i]);
  }
}

// What the penalty adds to A's diagonal block of voxel i, strength/2 (d_i Q_i + sum_j w_ij Q_j).
template <class T, int P>
KETY_FN void pull_block(long i, const long long* row, const int* column, const float* weight,
                        double strength, const T* metric, T* pulled) {
  constexpr int kPacked = P * (P + 1) / 2;
  double around[kPacked] = {}, total = 0;
  for (long long k = row[i]; k < row[i + 1]; ++k) {
    const double w = weight[k];
    const T* q = metric + static_cast<long>(column[k]) * kPacked;
    for (int c = 0; c < kPacked; ++c) around[c] += w * q[c];
    total += w;
  }
  for (int c = 0; c < kPacked; ++c)
    pulled[i * kPacked + c] =
        static_cast<T>(0.5 * strength * (total * metric[i * kPacked + c] + around[c]));
}

// A data block with its diagonal times 1 + damping.
template <class T, int P>
KETY_FN void damp_block(const double* block, double damping, T* out) {
  for (int r = 0, c = 0; r < P; ++r)
    for (int q = 0; q <= r; ++q, ++c)
      out[c] = static_cast<T>(block[c] * (q == r ? 1 + damping : 1.0));
}
