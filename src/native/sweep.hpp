// One pass over the rows of a linear system on a graph of voxels (see multigrid.hpp).
#pragma once
#include "lanes.hpp"
#include "types.hpp"

namespace KETY_NS {

// Product of a packed symmetric 4 x 4 matrix (lower triangle) with a vector.
template <class T>
KETY_FN Lanes<T, 4> packed_times(const T* m, const Lanes<T, 4>& x) {
  typedef Lanes<T, 4> V;
  const V c0 = {m[0], m[1], m[3], m[6]}, c1 = {m[1], m[2], m[4], m[7]},
          c2 = {m[3], m[4], m[5], m[8]}, c3 = {m[6], m[7], m[8], m[9]};
  return (c0 * x[0] + c1 * x[1]) + (c2 * x[2] + c3 * x[3]);
}

// x = (L L')^-1 b with the packed factor of a voxel's block; its diagonal holds inverse pivots, 0
// for parameters that are held or undetermined.
template <class T>
KETY_FN Lanes<T, 4> factor_solve(const T* f, const Lanes<T, 4>& b) {
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

// u = Q x.
template <class T>
void metric_range(const SweepCall& call, long begin, long end) {
  const T *q = static_cast<const T*>(call.metric), *x = static_cast<const T*>(call.x);
  T* u = static_cast<T*>(call.u);
  for (long i = begin; i < end; ++i)
    store<T, 4>(u + 4 * i, packed_times<T>(q + 10 * i, load<T, 4>(x + 4 * i)));
}

// y = A x, or b - A x where there is a b, over the free parameters; without blocks the penalty's
// part alone. u = Q x is given. Returns y'x.
template <class T>
double rows_range(const SweepCall& call, long begin, long end) {
  typedef Lanes<T, 4> V;
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
      const long j = 4L * call.column[k];
      s += w * load<T, 4>(x + j);
      t += w * load<T, 4>(u + j);
    }
    const V own = load<T, 4>(x + 4 * i);
    V r = packed_times<T>(pulled + 10 * i, own) - half * (packed_times<T>(q + 10 * i, s) + t);
    if (block) r += packed_times<T>(block + 10 * i, own);
    const unsigned free = call.free ? call.free[i] : 15u;
    for (int c = 0; c < 4; ++c)
      if (!(free >> c & 1)) r[c] = 0;
    const V product = r * own;
    total += static_cast<double>((product[0] + product[1]) + (product[2] + product[3]));
    store<T, 4>(y + 4 * i, b ? V(load<T, 4>(b + 4 * i) - r) : r);
  }
  return total;
}

// z = factor * (blocks' inverse) b, added to z where asked for. Returns z'b.
template <class T>
double blocks_range(const SweepCall& call, long begin, long end) {
  typedef Lanes<T, 4> V;
  const T *f = static_cast<const T*>(call.pivot), *b = static_cast<const T*>(call.b);
  T* z = static_cast<T*>(call.y);
  const T factor = static_cast<T>(call.factor);
  double total = 0;
  for (long i = begin; i < end; ++i) {
    const V rest = load<T, 4>(b + 4 * i);
    V move = factor * factor_solve<T>(f + 10 * i, rest);
    const V product = move * rest;
    total += static_cast<double>((product[0] + product[1]) + (product[2] + product[3]));
    if (call.add) move += load<T, 4>(z + 4 * i);
    store<T, 4>(z + 4 * i, move);
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
