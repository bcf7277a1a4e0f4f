// Bounded Levenberg-Marquardt for W voxels at once: the step, its damping, the covariance. Knows
// nothing of models, only their normal equations.
#pragma once
#include "lanes.hpp"

namespace KETY_NS {

template <int P>
constexpr int kPacked = P * (P + 1) / 2;

KETY_FN constexpr int pair(int i, int j) {  // packed lower triangle
  return i >= j ? i * (i + 1) / 2 + j : j * (j + 1) / 2 + i;
}

// Sum of squares, J'r and J'J of W voxels.
template <class T, int W, int P>
struct Normal {
  Lanes<T, W> cost, unweighted, gradient[P], hessian[kPacked<P>];
  Lanes<T, W> offset, slope[P];  // fitted baseline, and J'w
};

// Cholesky factor (packed lower triangle, in place) of a matrix with unit diagonal scaling.
// Pivots below `floor` mark the column as undetermined: it is left out (pivot 1, zero column).
template <class T, int W, int P>
KETY_FN void factorise(Lanes<T, W>* m, Lanes<T, W>* inverse_pivot, T floor, Mask<T, W>* lost) {
  using V = Lanes<T, W>;
  const V zero = {}, one = zero + T(1);
  for (int i = 0; i < P; ++i) {
    V d = m[pair(i, i)];
    for (int q = 0; q < i; ++q) d = less_product(d, m[pair(i, q)], m[pair(i, q)]);
    lost[i] = d < floor;
    d = lost[i] ? one : d;
    inverse_pivot[i] = one / root<T, W>(d);
    for (int r = i + 1; r < P; ++r) {
      V s = m[pair(r, i)];
      for (int q = 0; q < i; ++q) s = less_product(s, m[pair(r, q)], m[pair(i, q)]);
      m[pair(r, i)] = lost[i] ? zero : V(s * inverse_pivot[i]);
    }
  }
}

// The step of bounded least squares, by an active set: parameters pushed against a bound by the
// gradient stay there; the first that the step would carry over a bound is held on it and the
// others are solved for again. Returns the predicted fall of the cost.
template <class T, int W, int P>
KETY_FN Lanes<T, W> bounded_step(const bool* fixed, const Lanes<T, W>* p, const Lanes<T, W>* g,
                                 const Lanes<T, W>* h, const Lanes<T, W>& damping,
                                 const Lanes<T, W>* lo, const Lanes<T, W>* hi, Lanes<T, W>* step) {
  using V = Lanes<T, W>;
  using M = Mask<T, W>;
  const V zero = {}, one = zero + T(1);
  const T tiny = sizeof(T) == 4 ? T(1e-30) : T(1e-200);
  M held[P];
  V scale[P];
  for (int i = 0; i < P; ++i) {
    const V d = h[pair(i, i)];
    held[i] = (d <= tiny) | ((p[i] <= lo[i]) & (g[i] > zero)) | ((p[i] >= hi[i]) & (g[i] < zero));
    if (fixed[i]) held[i] = zero == zero;
    scale[i] = one / root<T, W>(d <= tiny ? one : d);
    step[i] = zero;
  }
  // A lane that has arrived keeps its step: the rounds of others must not change a digit of it.
  M open = zero == zero;
  for (int round = 0; round <= P; ++round) {
    V m[kPacked<P>], rhs[P], pivot[P];
    M lost[P];
    for (int i = 0; i < P; ++i) {
      V b = g[i];
      for (int j = 0; j < P; ++j)
        if (j != i) b = add_product(b, h[pair(i, j)], held[j] ? step[j] : zero);
      rhs[i] = held[i] ? zero : V(-b * scale[i]);
      for (int j = 0; j < i; ++j)
        m[pair(i, j)] = (held[i] | held[j]) ? zero : V(h[pair(i, j)] * scale[i] * scale[j]);
      m[pair(i, i)] = one + damping;
    }
    factorise<T, W, P>(m, pivot, sizeof(T) == 4 ? T(1e-7) : T(1e-15), lost);
    for (int i = 0; i < P; ++i) {
      V s = rhs[i];
      for (int q = 0; q < i; ++q) s = less_product(s, m[pair(i, q)], rhs[q]);
      rhs[i] = lost[i] ? zero : V(s * pivot[i]);
    }
    for (int i = P - 1; i >= 0; --i) {
      V s = rhs[i];
      for (int q = i + 1; q < P; ++q) s = less_product(s, m[pair(q, i)], rhs[q]);
      rhs[i] = lost[i] ? zero : V(s * pivot[i]);
    }
    // Towards this minimum as far as the first bound, which is then held: the damped quadratic
    // falls in every round.
    V length = one, part[P];
    for (int i = 0; i < P; ++i) {
      const V s = rhs[i] * scale[i], d = s - step[i];
      const V to_lo = lo[i] - p[i], to_hi = hi[i] - p[i];
      const M below = none_of(held[i]) & (s < to_lo), above = none_of(held[i]) & (s > to_hi);
      rhs[i] = held[i] ? zero : d;
      part[i] = below ? V((to_lo - step[i]) / d) : above ? V((to_hi - step[i]) / d) : one + one;
      length = lower(length, part[i]);
    }
    length = upper(length, zero);
    for (int i = 0; i < P; ++i) {
      const M first = open & (part[i] <= length);
      const V edge = rhs[i] < zero ? V(lo[i] - p[i]) : V(hi[i] - p[i]);
      step[i] = first ? edge : open ? add_product(step[i], length, rhs[i]) : step[i];
      held[i] |= first;
    }
    open &= length < one;
    if (!any<T, W>(open)) break;
  }
  V fall = zero;
  for (int i = 0; i < P; ++i) {
    V row = T(2) * g[i];
    for (int j = 0; j < P; ++j) row = add_product(row, h[pair(i, j)], step[j]);
    fall = less_product(fall, step[i], row);
  }
  return fall;
}

// Relative rounding of a sum of squares.
template <class T>
constexpr T kCostRounding = sizeof(T) == 4 ? T(2.5e-7) : T(5e-16);

// What a trial gained; it is accepted where that is not negative. A step that promises no more than
// sums of squares are rounded by, and changes them by no more, gains what it promises.
template <class T, int W>
KETY_FN Lanes<T, W> gain_of(const Lanes<T, W>& before, const Lanes<T, W>& now,
                            const Lanes<T, W>& expected) {
  using V = Lanes<T, W>;
  const V gain = before - now, noise = kCostRounding<T> * now;
  return ((gain <= noise) & (gain >= -noise) & (expected <= T(4) * noise)) ? expected : gain;
}

// Damping up to which a step counts as one of Gauss-Newton.
constexpr double kFree = 1.0;

// Damping after a trial. A step that gained little went too far: Gauss-Newton would swing about the
// minimum.
template <class T, int W>
KETY_FN Lanes<T, W> next_damping(const Mask<T, W>& accept, const Lanes<T, W>& gain,
                                 const Lanes<T, W>& expected, const Lanes<T, W>& damping) {
  using V = Lanes<T, W>;
  const V one = V{} + T(1);
  const V less = damping * T(0.1), more = upper(V(damping * T(4)), V(one * T(0.1)));
  const V next = accept ? (gain > T(0.75) * expected   ? less
                           : gain > T(0.25) * expected ? damping
                                                       : more)
                        : more;
  return next < T(1e-7) ? one * T(1e-7) : next;
}

// Relative step up to which what the normal equations promise of it holds.
constexpr double kNear = 0.05;

// Whether every parameter moves by no more than `times` what matters.
template <class T, int W, int P>
KETY_FN Mask<T, W> is_small(const Lanes<T, W>* step, const Lanes<T, W>* p, T xtol,
                            const double* floor, T times = 1) {
  using V = Lanes<T, W>;
  const V zero = {};
  Mask<T, W> small = zero == zero;
  for (int i = 0; i < P; ++i) {
    const V size = step[i] < zero ? V(-step[i]) : step[i];
    const V at = p[i] < zero ? V(-p[i]) : p[i];
    small &= size <= times * (xtol * at + static_cast<T>(floor[i]));
  }
  return small;
}

// Inverse of J'J over the parameters that are not `bound` (at a bound, or fixed); the rows of
// others are left zero. `lost` marks parameters that the data do not determine, on entry those that
// are known to be so.
template <class T, int W, int P>
KETY_FN void inverse_of(const bool* fixed, const Lanes<T, W>* h, const Mask<T, W>* bound,
                        Lanes<T, W>* out, Mask<T, W>* lost) {
  using V = Lanes<T, W>;
  using M = Mask<T, W>;
  const V zero = {}, one = zero + T(1);
  const T tiny = sizeof(T) == 4 ? T(1e-30) : T(1e-200);
  V m[kPacked<P>], scale[P], pivot[P], inverse[kPacked<P>];
  M out_of[P];
  for (int i = 0; i < P; ++i) {
    const V d = h[pair(i, i)];
    lost[i] |= d <= tiny;
    if (fixed[i]) lost[i] = zero != zero;
    out_of[i] = bound[i] | lost[i];
    scale[i] = one / root<T, W>(d <= tiny ? one : d);
    for (int j = 0; j < i; ++j)
      m[pair(i, j)] = (out_of[i] | out_of[j]) ? zero : V(h[pair(i, j)] * scale[i] * scale[j]);
    m[pair(i, i)] = one;
  }
  M weak[P];
  factorise<T, W, P>(m, pivot, sizeof(T) == 4 ? T(2e-6) : T(1e-13), weak);
  // A weak column depends on earlier ones: those that take part in it are undetermined as well.
  for (int i = 1; i < P; ++i) {
    if (!any<T, W>(weak[i])) continue;
    V x[P];
    for (int q = i - 1; q >= 0; --q) {
      V s = m[pair(i, q)];
      for (int r = q + 1; r < i; ++r) s = less_product(s, m[pair(r, q)], x[r]);
      x[q] = s * pivot[q];
      lost[q] |= weak[i] & none_of(out_of[i]) & none_of(out_of[q]) &
                 ((x[q] > T(0.01)) | (x[q] < T(-0.01)));
    }
  }
  // Inverse of the factor, then its square.
  for (int c = 0; c < P; ++c)
    for (int r = c; r < P; ++r) {
      V s = r == c ? one : zero;
      for (int q = c; q < r; ++q) s = less_product(s, m[pair(r, q)], inverse[pair(q, c)]);
      inverse[pair(r, c)] = s * pivot[r];
    }
  for (int i = 0; i < P; ++i)
    for (int j = 0; j <= i; ++j) {
      V s = zero;
      for (int q = i; q < P; ++q) s = add_product(s, inverse[pair(q, i)], inverse[pair(q, j)]);
      const M gone = out_of[i] | out_of[j] | weak[i] | weak[j] | lost[i] | lost[j];
      out[pair(i, j)] = gone ? zero : V(s * scale[i] * scale[j]);
    }
  for (int i = 0; i < P; ++i) lost[i] |= weak[i];
}

// Parameters with an error as large as `span`, half the range that they come in at all. Those that
// stand at a bound are judged as if they were free. `variance` is that of the noise; `c` the
// inverse of J'J off the bounds.
template <class T, int W, int P>
KETY_FN void too_wide(const bool* fixed, const Lanes<T, W>* h, const Mask<T, W>* bound,
                      const Lanes<T, W>* c, const double* span, const Lanes<T, W>& variance,
                      Mask<T, W>* wide) {
  using V = Lanes<T, W>;
  using M = Mask<T, W>;
  const V zero = {};
  M any_bound = zero != zero, held[P];
  for (int i = 0; i < P; ++i) {
    held[i] = fixed[i] ? M(zero == zero) : M(zero != zero);
    any_bound |= bound[i] & none_of(held[i]);
  }
  V free[kPacked<P>] = {};
  M lost[P];
  for (int i = 0; i < P; ++i) lost[i] = zero != zero;
  if (any<T, W>(any_bound)) inverse_of<T, W, P>(fixed, h, held, free, lost);
  for (int i = 0; i < P; ++i) {
    const T half = static_cast<T>(span[i]);
    const V own = bound[i] ? free[pair(i, i)] : c[pair(i, i)];
    wide[i] = none_of(held[i]) & (own * variance > half * half);
    if (span[i] < 1e30) wide[i] |= none_of(held[i]) & bound[i] & lost[i];
  }
}

// Variance of a fitted baseline, s^2 / sum w + m' Cov m, with m the mean of the Jacobian's rows:
// sums of n columns, `stride` apart. `cov` is packed, without what is gone. NaN where rounding of a
// nearly singular covariance leaves less than nothing.
template <class T>
KETY_FN T baseline_variance(int n, T noise, T weight_sum, const T* slope, long stride,
                            const bool* gone, const T* cov) {
  T variance = noise / weight_sum;
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < n; ++j)
      if (!gone[i] && !gone[j])
        variance +=
            slope[i * stride] * slope[j * stride] * cov[pair(i, j)] / (weight_sum * weight_sum);
  return variance >= 0 ? variance : static_cast<T>(__builtin_nan(""));
}

}  // namespace KETY_NS
