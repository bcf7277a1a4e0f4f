// Bounded Levenberg-Marquardt for W voxels at once, on the normal equations of the exact kernel.
#pragma once
#include "kernel.hpp"

namespace KETY_NS {

constexpr int kParameters = 4;  // v, a, k, tau
constexpr int kPairs = kParameters * (kParameters + 1) / 2;

KETY_FN constexpr int pair(int i, int j) {  // packed lower triangle
  return i >= j ? i * (i + 1) / 2 + j : j * (j + 1) / 2 + i;
}

// What is common to all voxels of a fit.
template <class T>
struct Problem {
  Pieces<T> input[kLevels];
  T limit[kLevels];     // 1/s, largest rate of each level
  const double* times;  // (frames) s
  const T* weights;     // (frames)
  int frames;
  T lo[kParameters], hi[kParameters];
  bool fixed[kParameters];
  bool baseline;  // fit a constant of every voxel along
  T weight_sum;
};

template <class T, int W>
struct Normal {
  Lanes<T, W> cost, unweighted, gradient[kParameters], hessian[kPairs];
  Lanes<T, W> offset, slope[kParameters];  // fitted baseline, and J'w
};

// Residual sum of squares, J'r and J'J at the parameters p; y is (frames, W).
//
// Plain: weights of 1 and no baseline. Otherwise residuals are weighted and, where the problem asks
// for it, a constant of every voxel is fitted along: being linear it is eliminated from the normal
// equations, C'WC = J'WJ - (J'w)(J'w)' / sum w and so on, and costs next to nothing.
template <class T, int W, bool Plain>
KETY_FN void evaluate(const Problem<T>& problem, const Pieces<T>& input,
                      const Lanes<T, W> p[kParameters], const T* y, Lanes<T, W>* knots,
                      Normal<T, W>& out) {
  using V = Lanes<T, W>;
  const V v = p[0], a = p[1], k[1] = {p[2]}, tau = p[3];
  T low, high;
  extremes<T, W>(tau, low, high);
  sweep<T, W, 1>(input, k, knots);
  // Accumulated with the plain columns c, G, H, tau; the factor -a of dC/dk follows at the end.
  V cost = {}, unweighted = {}, sum = {}, unweighted_sum = {}, g[4] = {}, h[kPairs] = {},
    slope[4] = {};
  for (int j = 0; j < problem.frames; ++j) {
    Point<T, W, 1> q;
    const V sample_y = load<T, W>(y + j * W);
    const T w = Plain ? T(1) : problem.weights[j];
    const bool seen = sample<T, W, 1>(input, problem.times[j], k, tau, low, high, knots, q);
    const V r = seen ? V(v * q.c + a * q.g[0] - sample_y) : V(-sample_y);
    const V wr = Plain ? r : V(w * r);
    cost += wr * r;
    if constexpr (!Plain) {
      unweighted += r * r;
      sum += wr;
      unweighted_sum += r;
    }
    if (!seen) continue;
    const V col[4] = {q.c, q.g[0], q.h[0], -(v * q.dc + a * (q.c - k[0] * q.g[0]))};
    for (int i = 0; i < 4; ++i) {
      const V wc = Plain ? col[i] : V(w * col[i]);
      g[i] += wc * r;
      for (int m = 0; m <= i; ++m) h[pair(i, m)] += wc * col[m];
      if constexpr (!Plain) slope[i] += wc;
    }
  }
  const V factor[4] = {V{} + T(1), V{} + T(1), -a, V{} + T(1)};
  for (int i = 0; i < 4; ++i) {
    g[i] *= factor[i];
    slope[i] *= factor[i];
    for (int m = 0; m <= i; ++m) h[pair(i, m)] *= factor[i] * factor[m];
  }
  V offset = {};
  if (!Plain && problem.baseline) {
    offset = -sum / problem.weight_sum;
    cost += offset * sum;
    unweighted += offset * (T(2) * unweighted_sum + static_cast<T>(problem.frames) * offset);
    // Of a perfect fit rounding may leave less than nothing.
    cost = upper(cost, V{});
    unweighted = upper(unweighted, V{});
    for (int i = 0; i < 4; ++i) {
      g[i] += offset * slope[i];
      for (int m = 0; m <= i; ++m) h[pair(i, m)] -= slope[i] * slope[m] / problem.weight_sum;
    }
  }
  out.cost = cost;
  out.unweighted = Plain ? cost : unweighted;
  out.offset = offset;
  for (int i = 0; i < 4; ++i) {
    out.gradient[i] = g[i];
    out.slope[i] = slope[i];
  }
  for (int i = 0; i < kPairs; ++i) out.hessian[i] = h[i];
}

// Cholesky factor (packed lower triangle, in place) of a matrix with unit diagonal scaling.
// Pivots below `floor` mark the column as undetermined: it is left out (pivot 1, zero column).
template <class T, int W>
KETY_FN void factorise(Lanes<T, W> m[kPairs], Lanes<T, W> inverse_pivot[kParameters], T floor,
                       Mask<T, W> lost[kParameters]) {
  using V = Lanes<T, W>;
  const V zero = {}, one = zero + T(1);
  for (int i = 0; i < kParameters; ++i) {
    V d = m[pair(i, i)];
    for (int q = 0; q < i; ++q) d -= m[pair(i, q)] * m[pair(i, q)];
    lost[i] = d < floor;
    d = lost[i] ? one : d;
    inverse_pivot[i] = one / root<T, W>(d);
    for (int r = i + 1; r < kParameters; ++r) {
      V s = m[pair(r, i)];
      for (int q = 0; q < i; ++q) s -= m[pair(r, q)] * m[pair(i, q)];
      m[pair(r, i)] = lost[i] ? zero : V(s * inverse_pivot[i]);
    }
  }
}

// The step of bounded least squares, by an active set: parameters pushed against a bound by the
// gradient stay there; the first that the step would carry over a bound is held on it and the
// others are solved for again. Returns the predicted fall of the cost.
template <class T, int W>
KETY_FN Lanes<T, W> bounded_step(const Problem<T>& problem, const Lanes<T, W> p[kParameters],
                                 const Lanes<T, W> g[kParameters], const Lanes<T, W> h[kPairs],
                                 const Lanes<T, W>& damping, const Lanes<T, W> lo[kParameters],
                                 const Lanes<T, W> hi[kParameters], Lanes<T, W> step[kParameters]) {
  using V = Lanes<T, W>;
  using M = Mask<T, W>;
  constexpr int P = kParameters;
  const V zero = {}, one = zero + T(1);
  const T tiny = sizeof(T) == 4 ? T(1e-30) : T(1e-200);
  M held[P];
  V scale[P];
  for (int i = 0; i < P; ++i) {
    const V d = h[pair(i, i)];
    held[i] = (d <= tiny) | ((p[i] <= lo[i]) & (g[i] > zero)) | ((p[i] >= hi[i]) & (g[i] < zero));
    if (problem.fixed[i]) held[i] = zero == zero;
    scale[i] = one / root<T, W>(d <= tiny ? one : d);
    step[i] = zero;
  }
  for (int round = 0; round <= P; ++round) {
    V m[kPairs], rhs[P], pivot[P];
    M lost[P];
    for (int i = 0; i < P; ++i) {
      V b = g[i];
      for (int j = 0; j < P; ++j)
        if (j != i) b += h[pair(i, j)] * (held[j] ? step[j] : zero);
      rhs[i] = held[i] ? zero : V(-b * scale[i]);
      for (int j = 0; j < i; ++j)
        m[pair(i, j)] = (held[i] | held[j]) ? zero : V(h[pair(i, j)] * scale[i] * scale[j]);
      m[pair(i, i)] = one + damping;
    }
    factorise<T, W>(m, pivot, sizeof(T) == 4 ? T(1e-7) : T(1e-15), lost);
    for (int i = 0; i < P; ++i) {
      V s = rhs[i];
      for (int q = 0; q < i; ++q) s -= m[pair(i, q)] * rhs[q];
      rhs[i] = lost[i] ? zero : V(s * pivot[i]);
    }
    for (int i = P - 1; i >= 0; --i) {
      V s = rhs[i];
      for (int q = i + 1; q < P; ++q) s -= m[pair(q, i)] * rhs[q];
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
      const M first = part[i] <= length;
      const V edge = rhs[i] < zero ? V(lo[i] - p[i]) : V(hi[i] - p[i]);
      step[i] = first ? edge : V(step[i] + length * rhs[i]);
      held[i] |= first;
    }
    if (!any<T, W>(length < one)) break;
  }
  V fall = zero;
  for (int i = 0; i < P; ++i) {
    V row = T(2) * g[i];
    for (int j = 0; j < P; ++j) row += h[pair(i, j)] * step[j];
    fall -= step[i] * row;
  }
  return fall;
}

// Inverse of J'J over the parameters that are free and off their bounds; the rows of others are
// left zero and marked. `lost` marks parameters that the data do not determine.
template <class T, int W>
KETY_FN void covariance(const Problem<T>& problem, const Lanes<T, W> p[kParameters],
                        const Lanes<T, W> h[kPairs], Lanes<T, W> out[kPairs],
                        Mask<T, W> bound[kParameters], Mask<T, W> lost[kParameters]) {
  using V = Lanes<T, W>;
  using M = Mask<T, W>;
  constexpr int P = kParameters;
  const V zero = {}, one = zero + T(1);
  const T tiny = sizeof(T) == 4 ? T(1e-30) : T(1e-200);
  V m[kPairs], scale[P], pivot[P], inverse[kPairs];
  M out_of[P];
  for (int i = 0; i < P; ++i) {
    const V d = h[pair(i, i)];
    // A delay just beyond a wall that stands at its bound is at the bound.
    const T near = i == 3 ? T(1e-5) : T(0);
    bound[i] = (p[i] <= problem.lo[i] + near) | (p[i] >= problem.hi[i] - near);
    if (problem.fixed[i]) bound[i] = zero == zero;
    // A rate without its amplitude is undetermined, wherever it stands; so is a delay of nothing.
    lost[i] = d <= tiny;
    if (i == 2) lost[i] |= p[1] == zero;
    if (i == 3) lost[i] |= (p[0] == zero) & (p[1] == zero);
    if (problem.fixed[i]) lost[i] = zero != zero;
    out_of[i] = bound[i] | lost[i];
    scale[i] = one / root<T, W>(d <= tiny ? one : d);
    for (int j = 0; j < i; ++j)
      m[pair(i, j)] = (out_of[i] | out_of[j]) ? zero : V(h[pair(i, j)] * scale[i] * scale[j]);
    m[pair(i, i)] = one;
  }
  M weak[P];
  factorise<T, W>(m, pivot, sizeof(T) == 4 ? T(2e-6) : T(1e-13), weak);
  // A weak column depends on earlier ones: those that take part in it are undetermined as well.
  for (int i = 1; i < P; ++i) {
    if (!any<T, W>(weak[i])) continue;
    V x[P];
    for (int q = i - 1; q >= 0; --q) {
      V s = m[pair(i, q)];
      for (int r = q + 1; r < i; ++r) s -= m[pair(r, q)] * x[r];
      x[q] = s * pivot[q];
      lost[q] |= weak[i] & none_of(out_of[i]) & none_of(out_of[q]) &
                 ((x[q] > T(0.01)) | (x[q] < T(-0.01)));
    }
  }
  // Inverse of the factor, then its square.
  for (int c = 0; c < P; ++c)
    for (int r = c; r < P; ++r) {
      V s = r == c ? one : zero;
      for (int q = c; q < r; ++q) s -= m[pair(r, q)] * inverse[pair(q, c)];
      inverse[pair(r, c)] = s * pivot[r];
    }
  for (int i = 0; i < P; ++i)
    for (int j = 0; j <= i; ++j) {
      V s = zero;
      for (int q = i; q < P; ++q) s += inverse[pair(q, i)] * inverse[pair(q, j)];
      const M gone = out_of[i] | out_of[j] | weak[i] | weak[j] | lost[i] | lost[j];
      out[pair(i, j)] = gone ? zero : V(s * scale[i] * scale[j]);
    }
  for (int i = 0; i < P; ++i) lost[i] |= weak[i];
}

}  // namespace KETY_NS
