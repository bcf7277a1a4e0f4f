// One pass over the rows of a linear system on a graph of voxels (see multigrid.hpp), of P
// parameters each, 4 to 8.
#pragma once
#include "lanes.hpp"
#include "types.hpp"

namespace KETY_NS {

// The parameters of a voxel: in a register where there are four.
template <class T, int P>
struct VectorType {
  using type = Pack<T, P>;
};
template <class T>
struct VectorType<T, 4> {
  using type = Lanes<T, 4>;
};
template <class T, int P>
using Vector = typename VectorType<T, P>::type;

// Product of a packed symmetric P x P matrix (lower triangle) with a vector.
template <class T, int P>
KETY_FN Vector<T, P> packed_times(const T* m, const Vector<T, P>& x) {
  using V = Vector<T, P>;
  if constexpr (P != 4) {
    V y = {};
#pragma GCC unroll 8
    for (int i = 0; i < P; ++i)
#pragma GCC unroll 8
      for (int j = 0; j <= i; ++j, ++m) {
        y[i] = fused(*m, x[j], y[i]);
        if (j < i) y[j] = fused(*m, x[i], y[j]);
      }
    return y;
  } else {
    const V c0 = {m[0], m[1], m[3], m[6]}, c1 = {m[1], m[2], m[4], m[7]},
            c2 = {m[3], m[4], m[5], m[8]}, c3 = {m[6], m[7], m[8], m[9]};
    return add_product(V(c1 * x[1]), c0, x[0]) + add_product(V(c3 * x[3]), c2, x[2]);
  }
}

template <class T, int P>
KETY_FN T sum_of(const Vector<T, P>& x) {
  if constexpr (P == 4) return (x[0] + x[1]) + (x[2] + x[3]);
  T sum = 0;
  for (int i = 0; i < P; ++i) sum += x[i];
  return sum;
}

// x = (L L')^-1 b with the packed factor of a voxel's block; its diagonal holds inverse pivots, 0
// for parameters that are held or undetermined.
template <class T, int P>
KETY_FN Vector<T, P> factor_solve(const T* f, Vector<T, P> x) {
  auto at = [](int i, int j) { return i * (i + 1) / 2 + j; };
#pragma GCC unroll 8
  for (int i = 0; i < P; ++i) {
    T s = x[i];
#pragma GCC unroll 8
    for (int q = 0; q < i; ++q) s = less_product(s, f[at(i, q)], x[q]);
    x[i] = s * f[at(i, i)];
  }
#pragma GCC unroll 8
  for (int i = P - 1; i >= 0; --i) {
    T s = x[i];
#pragma GCC unroll 8
    for (int q = i + 1; q < P; ++q) s = less_product(s, f[at(q, i)], x[q]);
    x[i] = s * f[at(i, i)];
  }
  return x;
}

// Row i of u = Q x.
template <class T, int P>
KETY_FN void metric_row(const SweepCall& call, long i) {
  constexpr int kPacked = P * (P + 1) / 2;
  using V = Vector<T, P>;
  const T *q = static_cast<const T*>(call.metric), *x = static_cast<const T*>(call.x);
  put_vector(static_cast<T*>(call.u) + P * i,
             packed_times<T, P>(q + kPacked * i, vector_at<V>(x + P * i)));
}

// Row i of y = A x, or b - A x where there is a b, over the free parameters; without blocks the
// penalty's part alone. u = Q x is given. Returns its part of x'A x.
template <class T, int P>
KETY_FN double system_row(const SweepCall& call, long i) {
  constexpr int kPacked = P * (P + 1) / 2;
  using V = Vector<T, P>;
  const T *q = static_cast<const T*>(call.metric), *block = static_cast<const T*>(call.block),
          *pulled = static_cast<const T*>(call.pulled), *x = static_cast<const T*>(call.x),
          *u = static_cast<const T*>(call.u), *b = static_cast<const T*>(call.b);
  V s = {}, t = {};
  for (long long k = call.row[i]; k < call.row[i + 1]; ++k) {
    const T w = static_cast<T>(call.weight[k]);
    const long j = static_cast<long>(P) * call.column[k];
    s = add_product(s, w, vector_at<V>(x + j));
    t = add_product(t, w, vector_at<V>(u + j));
  }
  const V own = vector_at<V>(x + P * i);
  V r = packed_times<T, P>(pulled + kPacked * i, own) -
        static_cast<T>(0.5 * call.strength) * (packed_times<T, P>(q + kPacked * i, s) + t);
  if (block) r += packed_times<T, P>(block + kPacked * i, own);
  const unsigned free = call.free ? call.free[i] : (1u << P) - 1;
  for (int c = 0; c < P; ++c)
    if (!(free >> c & 1)) r[c] = 0;
  put_vector(static_cast<T*>(call.y) + P * i, b ? V(vector_at<V>(b + P * i) - r) : r);
  return static_cast<double>(sum_of<T, P>(r * own));
}

// Row i of z = factor * (blocks' inverse) b, added to z where asked for. Returns its part of z'b.
template <class T, int P>
KETY_FN double block_row(const SweepCall& call, long i) {
  constexpr int kPacked = P * (P + 1) / 2;
  using V = Vector<T, P>;
  const T *f = static_cast<const T*>(call.pivot), *b = static_cast<const T*>(call.b);
  T* z = static_cast<T*>(call.y);
  const V rest = vector_at<V>(b + P * i);
  V move = static_cast<T>(call.factor) * factor_solve<T, P>(f + kPacked * i, rest);
  const double total = static_cast<double>(sum_of<T, P>(move * rest));
  if (call.add) move += vector_at<V>(z + P * i);
  put_vector(z + P * i, move);
  return total;
}

// Row i's part of x'b.
template <class T, int P>
KETY_FN double dot_row(const SweepCall& call, long i) {
  const T *x = static_cast<const T*>(call.x), *b = static_cast<const T*>(call.b);
  double sum = 0;
  for (int c = 0; c < P; ++c) sum += static_cast<double>(x[P * i + c]) * b[P * i + c];
  return sum;
}

// Rows that are added up by halves: a block of a card's threads.
constexpr int kSumRows = 128;

#ifndef KETY_CUDA

// Sum of the rows' numbers, formed as on a card: by halves in each block, block after block.
template <class Row>
KETY_FN double sum_rows(long begin, long end, const Row& row) {
  double total = 0;
  for (long first = begin; first < end; first += kSumRows) {
    double part[kSumRows] = {};
    for (int t = 0; t < kSumRows && first + t < end; ++t) part[t] = row(first + t);
    for (int half = kSumRows / 2; half > 0; half /= 2)
      for (int t = 0; t < half; ++t) part[t] += part[t + half];
    total += part[0];
  }
  return total;
}

template <class T, int P>
double sweep_rows(const SweepCall& call, long begin, long end) {
  switch (call.what) {
    case kSweepMetric:
      for (long i = begin; i < end; ++i) metric_row<T, P>(call, i);
      return 0;
    case kSweepRows:
      return sum_rows(begin, end, [&](long i) { return system_row<T, P>(call, i); });
    case kSweepBlocks:
      return sum_rows(begin, end, [&](long i) { return block_row<T, P>(call, i); });
    default:
      return sum_rows(begin, end, [&](long i) { return dot_row<T, P>(call, i); });
  }
}

// In float systems of four parameters alone: blocks of models of several terms are nearly singular.
template <class T>
double sweep_range(const SweepCall& call, long begin, long end) {
  if constexpr (sizeof(T) == sizeof(double)) switch (call.size) {
      case 5:
        return sweep_rows<T, 5>(call, begin, end);
      case 6:
        return sweep_rows<T, 6>(call, begin, end);
      case 7:
        return sweep_rows<T, 7>(call, begin, end);
      case 8:
        return sweep_rows<T, 8>(call, begin, end);
    }
  return sweep_rows<T, 4>(call, begin, end);
}

#endif

}  // namespace KETY_NS
