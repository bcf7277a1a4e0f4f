// Linear systems on a graph of voxels: a 4 x 4 block of every voxel and a penalty along every edge,
//
//   (A x)_i = D_i x_i + sum_j w_ij 1/2 (Q_i + Q_j) (x_i - x_j),
//
// solved by conjugate gradients, preconditioned by the blocks on the diagonal or by a multigrid in
// which a group of voxels is a voxel again: its block the sum of its members', its edges the sums
// of theirs.
#pragma once
#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

#include "bindings.hpp"

namespace graph {

constexpr int P = 4;
constexpr int kPacked = 10;
constexpr long kGrain = 4096;  // voxels in one partial sum, so that sums do not depend on threads

typedef double Four __attribute__((vector_size(32)));

inline Four load4(const double* p) {
  Four v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
inline void store4(double* p, const Four& v) { __builtin_memcpy(p, &v, sizeof v); }
inline double dot4(const Four& a, const Four& b) {
  const Four c = a * b;
  return (c[0] + c[1]) + (c[2] + c[3]);
}

// Product of a packed symmetric 4 x 4 matrix (lower triangle) with a vector.
inline Four times(const double* m, const Four& x) {
  const Four c0 = {m[0], m[1], m[3], m[6]}, c1 = {m[1], m[2], m[4], m[7]},
             c2 = {m[3], m[4], m[5], m[8]}, c3 = {m[6], m[7], m[8], m[9]};
  return (c0 * x[0] + c1 * x[1]) + (c2 * x[2] + c3 * x[3]);
}

// Cholesky factor of a packed matrix, scaled to unit diagonal, over the free parameters; those held
// or undetermined are left out. The diagonal holds inverse pivots.
inline void factor4(const double* m, unsigned free, double* f) {
  double scale[P];
  for (int i = 0; i < P; ++i) {
    const double d = m[i * (i + 1) / 2 + i];
    scale[i] = (free >> i & 1) && d > 0 ? 1 / std::sqrt(d) : 0;
  }
  for (int i = 0; i < P; ++i)
    for (int j = 0; j <= i; ++j)
      f[i * (i + 1) / 2 + j] = m[i * (i + 1) / 2 + j] * scale[i] * scale[j];
  for (int i = 0; i < P; ++i) {
    double d = f[i * (i + 1) / 2 + i];
    for (int q = 0; q < i; ++q) d -= f[i * (i + 1) / 2 + q] * f[i * (i + 1) / 2 + q];
    const double inverse = d > 1e-13 ? 1 / std::sqrt(d) : 0;
    for (int r = i + 1; r < P; ++r) {
      double s = f[r * (r + 1) / 2 + i];
      for (int q = 0; q < i; ++q) s -= f[r * (r + 1) / 2 + q] * f[i * (i + 1) / 2 + q];
      f[r * (r + 1) / 2 + i] = s * inverse;
    }
    f[i * (i + 1) / 2 + i] = inverse;
  }
  // Folded in, so that the solution needs no scales of its own.
  for (int i = 0; i < P; ++i) {
    for (int j = 0; j < i; ++j) f[i * (i + 1) / 2 + j] *= scale[i] > 0 ? 1 / scale[i] : 0;
    f[i * (i + 1) / 2 + i] *= scale[i];
  }
}

inline Four solve4(const double* f, const Four& b) {
  double x[P];
  for (int i = 0; i < P; ++i) {
    double s = b[i];
    for (int q = 0; q < i; ++q) s -= f[i * (i + 1) / 2 + q] * x[q];
    x[i] = s * f[i * (i + 1) / 2 + i];
  }
  for (int i = P - 1; i >= 0; --i) {
    double s = x[i];
    for (int q = i + 1; q < P; ++q) s -= f[q * (q + 1) / 2 + i] * x[q];
    x[i] = s * f[i * (i + 1) / 2 + i];
  }
  return Four{x[0], x[1], x[2], x[3]};
}

// A sum over voxels in chunks of fixed size, added in order.
template <class Term>
double sum(long n, int threads, const Term& term) {
  std::vector<double> parts((n + kGrain - 1) / kGrain);
  parallel(n, kGrain, threads, [&](long begin, long end) {
    double s = 0;
    for (long i = begin; i < end; ++i) s += term(i);
    parts[begin / kGrain] = s;
  });
  double s = 0;
  for (double part : parts) s += part;
  return s;
}

// Neighbours of every voxel, rows of a sparse symmetric matrix without diagonal.
struct Edges {
  long n = 0;
  const int64_t* row = nullptr;  // (n + 1)
  const int32_t* column = nullptr;
  const float* weight = nullptr;
  std::vector<int64_t> own_row;
  std::vector<int32_t> own_column;
  std::vector<float> own_weight;
};

struct Level {
  Edges edges;
  std::vector<int32_t> group;       // of the next, coarser level
  std::vector<double> metric;       // (n, 10): Q
  std::vector<double> pulled;       // (n, 10): what the edges add to A's diagonal block
  std::vector<double> block;        // (n, 10): D
  std::vector<double> pivot;        // (n, 10): the factor of A's diagonal block
  std::vector<unsigned char> free;  // (n) bits
  std::vector<double> x, r, u, a;   // (n, 4): working vectors of the cycle
};

}  // namespace graph
