// Normal equations of the kernel with one exponential, which the fastest solver is made for.
#pragma once
#include "bounded.hpp"
#include "kernel.hpp"

namespace KETY_NS {

constexpr int kParameters = 4;  // v, a, k, tau
constexpr int kPairs = kPacked<kParameters>;

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

// Level of the pieces that a rate needs.
template <class T>
KETY_FN int level_of(const Problem<T>& problem, T k) {
  int level = 0;
  while (level < kLevels - 1 && k > problem.limit[level]) ++level;
  return level;
}

// Residual sum of squares, J'r and J'J at the parameters p; y is (frames, W).
//
// Plain: weights of 1 and no baseline. Otherwise residuals are weighted and, where the problem asks
// for it, a constant of every voxel is fitted along: being linear it is eliminated from the normal
// equations, C'WC = J'WJ - (J'w)(J'w)' / sum w and so on, and costs next to nothing.
template <class T, int W, bool Plain>
KETY_FN void evaluate(const Problem<T>& problem, const Pieces<T>& input,
                      const Lanes<T, W> p[kParameters], const T* y, Lanes<T, W>* knots,
                      Normal<T, W, kParameters>& out) {
  using V = Lanes<T, W>;
  const V v = p[0], a = p[1], k[1] = {p[2]}, tau = p[3];
  T low, high;
  extremes<T, W>(tau, low, high);
  Knots<T, W, 1> along(input, k, knots);
  // Accumulated with the plain columns c, G, H, tau; the factor -a of dC/dk follows at the end.
  V cost = {}, unweighted = {}, sum = {}, unweighted_sum = {}, g[4] = {}, h[kPairs] = {},
    slope[4] = {};
  for (int j = 0; j < problem.frames; ++j) {
    Point<T, W, 1> q;
    const V sample_y = load<T, W>(y + j * W);
    const T w = Plain ? T(1) : problem.weights[j];
    const bool seen = along.at(input, problem.times[j], k, tau, low, high, q);
    const V r = seen ? V(add_product(V(a * q.g[0]), v, q.c) - sample_y) : V(-sample_y);
    const V wr = Plain ? r : V(w * r);
    cost = add_product(cost, wr, r);
    if constexpr (!Plain) {
      unweighted = add_product(unweighted, r, r);
      sum += wr;
      unweighted_sum += r;
    }
    if (!seen) continue;
    const V along = less_product(q.c, k[0], q.g[0]);
    const V col[4] = {q.c, q.g[0], q.h[0], -add_product(V(a * along), v, q.dc)};
    for (int i = 0; i < 4; ++i) {
      const V wc = Plain ? col[i] : V(w * col[i]);
      g[i] = add_product(g[i], wc, r);
      for (int m = 0; m <= i; ++m) h[pair(i, m)] = add_product(h[pair(i, m)], wc, col[m]);
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

// Covariance of the parameters without s^2, which of them stand at a bound, and which are lost.
template <class T, int W>
KETY_FN void covariance(const Problem<T>& problem, const Lanes<T, W> p[kParameters],
                        const Lanes<T, W> h[kPairs], Lanes<T, W> out[kPairs],
                        Mask<T, W> bound[kParameters], Mask<T, W> lost[kParameters]) {
  const Lanes<T, W> zero = {};
  for (int i = 0; i < kParameters; ++i) {
    // A delay just beyond a wall that stands at its bound is at the bound.
    const T near = i == 3 ? T(1e-5) : T(0);
    bound[i] = (p[i] <= problem.lo[i] + near) | (p[i] >= problem.hi[i] - near);
    if (problem.fixed[i]) bound[i] = zero == zero;
    lost[i] = zero != zero;
  }
  // A rate without its amplitude is undetermined, wherever it stands; so is a delay of nothing.
  lost[2] = p[1] == zero;
  lost[3] = (p[0] == zero) & (p[1] == zero);
  inverse_of<T, W, kParameters>(problem.fixed, h, bound, out, lost);
}

}  // namespace KETY_NS
