// One pass over the rows of a linear system on a graph of voxels (see multigrid.hpp), of P
// parameters each: 4 in the core, any number on a card.
#pragma once
#include "lanes.hpp"
#include "types.hpp"

namespace KETY_NS {

// Product of a packed symmetric P x P matrix (lower triangle) with a vector.
template <class T, int P = 4>
KETY_FN Lanes<T, P> packed_times(const T* m, const Lanes<T, P>& x) {
  typedef Lanes<T, P> V;
  if constexpr (P != 4) {
    V y = {};
    for (int i = 0; i < P; ++i)
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
KETY_FN T sum_of(const Lanes<T, P>& x) {
  if constexpr (P == 4) return (x[0] + x[1]) + (x[2] + x[3]);
  T sum = 0;
  for (int i = 0; i < P; ++i) sum += x[i];
  return sum;
}

// x = (L L')^-1 b with the packed factor of a voxel's block; its diagonal holds inverse pivots, 0
// for parameters that are held or undetermined.
template <class T, int P = 4>
KETY_FN Lanes<T, P> factor_solve(const T* f, const Lanes<T, P>& b) {
  if constexpr (P != 4) {
    auto at = [](int i, int j) { return i * (i + 1) / 2 + j; };
    Lanes<T, P> y = b;
    for (int i = 0; i < P; ++i) {
      for (int q = 0; q < i; ++q) y[i] = less_product(y[i], f[at(i, q)], y[q]);
      y[i] *= f[at(i, i)];
    }
    for (int i = P - 1; i >= 0; --i) {
      for (int q = i + 1; q < P; ++q) y[i] = less_product(y[i], f[at(q, i)], y[q]);
      y[i] *= f[at(i, i)];
    }
    return y;
  } else {
    T x[4];
    x[0] = b[0] * f[0];
    x[1] = (b[1] - f[1] * x[0]) * f[2];
    x[2] = (b[2] - f[3] * x[0] - f[4] * x[1]) * f[5];
    x[3] = (b[3] - f[6] * x[0] - f[7] * x[1] - f[8] * x[2]) * f[9];
    x[3] = x[3] * f[9];
    x[2] = (x[2] - f[8] * x[3]) * f[5];
    x[1] = (x[1] - f[4] * x[2] - f[7] * x[3]) * f[2];
    x[0] = (x[0] - f[1] * x[1] - f[3] * x[2] - f[6] * x[3]) * f[0];
    return Lanes<T, 4>{x[0], x[1], x[2], x[3]};
  }
}

// u = Q x.
template <class T, int P = 4>
void metric_range(const SweepCall& call, long begin, long end) {
  constexpr int kPacked = P * (P + 1) / 2;
  const T *q = static_cast<const T*>(call.metric), *x = static_cast<const T*>(call.x);
  T* u = static_cast<T*>(call.u);
  for (long i = begin; i < end; ++i)
    store<T, P>(u + P * i, packed_times<T, P>(q + kPacked * i, load<T, P>(x + P * i)));
}

// y = A x, or b - A x where there is a b, over the free parameters; without blocks the penalty's
// part alone. u = Q x is given. Returns y'x.
template <class T, int P = 4>
double rows_range(const SweepCall& call, long begin, long end) {
  constexpr int kPacked = P * (P + 1) / 2;
  typedef Lanes<T, P> V;
  const T *q = static_cast<const T*>(call.metric), *block = static_cast<const T*>(call.block),
          *pulled = static_cast<const T*>(call.pulled), *x = static_cast<const T*>(call.x),
          *u = static_cast<const T*>(call.u), *b = static_cast<const T*>(call.b);
  T* y = static_cast<T*>(call.y);
  const T half = static_cast<T>(0.5 * call.strength);
  double total = 0;
  for (long i = begin; i < end; ++i) {
    V s = {}, t = {};
    for (long long k = call.row[i]; k < call.row[i + 1]; ++k) {
      const T w = static_cast<T>(call.weight[k]);
      const long j = static_cast<long>(P) * call.column[k];
      s = add_product(s, w, load<T, P>(x + j));
      t = add_product(t, w, load<T, P>(u + j));
    }
    const V own = load<T, P>(x + P * i);
    V r = packed_times<T, P>(pulled + kPacked * i, own) -
          half * (packed_times<T, P>(q + kPacked * i, s) + t);
    if (block) r += packed_times<T, P>(block + kPacked * i, own);
    const unsigned free = call.free ? call.free[i] : (1u << P) - 1;
    for (int c = 0; c < P; ++c)
      if (!(free >> c & 1)) r[c] = 0;
    const V product = r * own;
    total += static_cast<double>(sum_of<T, P>(product));
    store<T, P>(y + P * i, b ? V(load<T, P>(b + P * i) - r) : r);
  }
  return total;
}

// z = factor * (blocks' inverse) b, added to z where asked for. Returns z'b.
template <class T, int P = 4>
double blocks_range(const SweepCall& call, long begin, long end) {
  constexpr int kPacked = P * (P + 1) / 2;
  typedef Lanes<T, P> V;
  const T *f = static_cast<const T*>(call.pivot), *b = static_cast<const T*>(call.b);
  T* z = static_cast<T*>(call.y);
  const T factor = static_cast<T>(call.factor);
  double total = 0;
  for (long i = begin; i < end; ++i) {
    const V rest = load<T, P>(b + P * i);
    V move = factor * factor_solve<T, P>(f + kPacked * i, rest);
    const V product = move * rest;
    total += static_cast<double>(sum_of<T, P>(product));
    if (call.add) move += load<T, P>(z + P * i);
    store<T, P>(z + P * i, move);
  }
  return total;
}

template <class T>
double sweep_range(const SweepCall& call, long begin, long end) {
  if (call.what == kSweepRows) return rows_range<T>(call, begin, end);
  if (call.what == kSweepBlocks) return blocks_range<T>(call, begin, end);
  metric_range<T>(call, begin, end);
  return 0;
}

}  // namespace KETY_NS
