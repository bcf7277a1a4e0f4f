// The exact solution from each start, in rounds over the voxels that still run.
#pragma once
#include "scratch.hpp"

namespace KETY_NS {
// A start of the exact solver. A voxel stays between the walls of its start; other stretches have
// starts of their own.
template <class T, int W, int F>
KETY_FN void add_task(const Dictionary& d, const Problem<T>& problem, const Candidate& c, int task,
                      Scratch<T, W, F>& s) {
  T* band = s.band + 2 * task;
  band[0] = static_cast<T>(d.band_lo[c.delay]);
  band[1] = static_cast<T>(d.band_hi[c.delay]);
  const float start[kParameters] = {c.v, c.a, c.k, c.tau};
  for (int m = 0; m < kParameters; ++m) {
    const T lo = m == 3 ? band[0] : problem.lo[m], hi = m == 3 ? band[1] : problem.hi[m];
    const T x = static_cast<T>(start[m]);
    s.trial[m * s.tasks + task] = x < lo ? lo : x > hi ? hi : x;
  }
  s.owner[task] = c.voxel;
  s.cost[task] = static_cast<T>(__builtin_inf());
  s.fall[task] = 0;
  s.damping[task] = static_cast<T>(1e-3);
  s.evaluations[task] = 0;
  s.state[task] = kRunning;
}

// The running tasks in order of level and delay, so that the lanes of a register share pieces.
template <class T, int W, int F>
KETY_STAGE void arrange(const Problem<T>& problem, int active, Scratch<T, W, F>& s,
                        int waiting[kLevels + 1]) {
  const float lo = static_cast<float>(problem.lo[3]), hi = static_cast<float>(problem.hi[3]);
  const float rate = hi > lo ? (kBins - 1) / (hi - lo) : 0;
  int counts[kLevels * kBins + 1] = {};
  for (int q = 0; q < active; ++q) {
    const int t = s.queue[q];
    const int level = level_of(problem, s.trial[2 * s.tasks + t]);
    const int bin = static_cast<int>((static_cast<float>(s.trial[3 * s.tasks + t]) - lo) * rate);
    s.bin[t] = level * kBins + (bin < 0 ? 0 : bin >= kBins ? kBins - 1 : bin);
    ++counts[s.bin[t] + 1];
  }
  for (int i = 0; i < kLevels * kBins; ++i) counts[i + 1] += counts[i];
  for (int i = 0; i <= kLevels; ++i) waiting[i] = counts[i * kBins];
  for (int q = 0; q < active; ++q) s.order[counts[s.bin[s.queue[q]]]++] = s.queue[q];
}

// One round of up to W tasks of a level: their trial points evaluated, the next ones chosen. Those
// that have arrived are then kDone.
template <class T, int W, int F, bool Plain>
KETY_FN void polish_round(const FitCall& call, const Problem<T>& problem, int level,
                          const int id[W], int count, Scratch<T, W, F>& s) {
  using V = Lanes<T, W>;
  using M = Mask<T, W>;
  constexpr int P = kParameters;
  const V zero = {};
  const T ftol = static_cast<T>(call.ftol), xtol = static_cast<T>(call.xtol);
  const int n = s.tasks;
  const T* tile = s.y + static_cast<long>(s.owner[id[0]]) * call.frames;
  if constexpr (W > 1) {
    for (int l = 0; l < W; ++l) {
      const T* y = s.y + static_cast<long>(s.owner[id[l]]) * call.frames;
      for (int j = 0; j < call.frames; ++j) s.tile[j * W + l] = y[j];
    }
    tile = s.tile;
  }
  auto gather = [&](const T* from) {
    V v;
    for (int l = 0; l < W; ++l) set<T, W>(v, l, from[id[l]]);
    return v;
  };
  V trial[P];
  for (int i = 0; i < P; ++i) trial[i] = gather(s.trial + i * n);
  Normal<T, W, P> now;
  evaluate<T, W, Plain>(problem, problem.input[level], trial, tile, s.knots, now);
  // Keep the better of the trial and the point before it.
  const V before = gather(s.cost), expected = gather(s.fall);
  V damping = gather(s.damping);
  const V gain = gain_of<T, W>(before, now.cost, expected);
  const M accept = gain >= zero;
  V p[P], g[P], h[kPairs];
  for (int i = 0; i < P; ++i) {
    p[i] = accept ? trial[i] : gather(s.p + i * n);
    g[i] = accept ? now.gradient[i] : gather(s.g + i * n);
  }
  for (int i = 0; i < kPairs; ++i) h[i] = accept ? now.hessian[i] : gather(s.h + i * n);
  const V cost = accept ? now.cost : before, plain = accept ? now.unweighted : gather(s.plain),
          offset = accept ? now.offset : gather(s.offset);
  damping = next_damping<T, W>(accept, gain, expected, damping);
  V step[P];
  V lo[P], hi[P];
  for (int i = 0; i < P; ++i) {
    lo[i] = zero + problem.lo[i];
    hi[i] = zero + problem.hi[i];
  }
  for (int l = 0; l < W; ++l) {
    set<T, W>(lo[3], l, s.band[2 * id[l]]);
    set<T, W>(hi[3], l, s.band[2 * id[l] + 1]);
  }
  const V fall = bounded_step<T, W, P>(problem.fixed, p, g, h, damping, lo, hi, step);
  const V square = [&] {
    V v;
    for (int l = 0; l < W; ++l) set<T, W>(v, l, s.square[s.owner[id[l]]]);
    return v;
  }();
  const V floor = (ftol < kCostRounding<T> ? kCostRounding<T> : ftol) * cost +
                  static_cast<T>(call.rounding) * square;
  const V nothing = floor + T(1e3) * static_cast<T>(call.rounding) * square;
  const M small = is_small<T, W, P>(step, p, xtol, call.xfloor),
          near = is_small<T, W, P>(step, p, xtol, call.xfloor, T(kNear) / xtol);
  const M settled = (fall <= floor) | small | (damping > T(1e6));
  for (int l = 0; l < W && l < count; ++l) {
    const int t = id[l];
    const bool finished = is_set<T, W>(settled, l);
    // The last step is taken without another evaluation, if downhill and short: its fall is known
    // well enough.
    const bool last = finished && get<T, W>(fall, l) > 0 && is_set<T, W>(near, l);
    for (int i = 0; i < P; ++i) {
      const T at = get<T, W>(p[i], l);
      T to = at + get<T, W>(step[i], l);
      const T low = get<T, W>(lo[i], l), high = get<T, W>(hi[i], l);
      to = to < low ? low : to > high ? high : to;
      // An amplitude that could as well be at its lower bound is put there: with a vascular
      // term of almost 0 the delay is undetermined to first order, with none it is not.
      const T move = low - at;
      const bool empty = i < 2 && get<T, W>(h[pair(i, i)], l) * move * move +
                                          2 * __builtin_fabs(get<T, W>(g[i], l) * move) <=
                                      10 * get<T, W>(nothing, l);
      s.p[i * n + t] = finished && empty ? low : last ? to : at;
      s.trial[i * n + t] = to;
      s.g[i * n + t] = get<T, W>(g[i], l);
    }
    for (int i = 0; i < kPairs; ++i) s.h[i * n + t] = get<T, W>(h[i], l);
    s.offset[t] = get<T, W>(offset, l);
    if (!Plain && is_set<T, W>(accept, l))
      for (int i = 0; i < P; ++i) s.slope[i * n + t] = get<T, W>(now.slope[i], l);
    T left = get<T, W>(cost, l), share = 1;
    if (last && left > 0) {
      share = 1 - get<T, W>(fall, l) / left;
      share = share > 0 ? share : T(0);
    }
    if (!Plain && problem.baseline && share < 1)
      for (int i = 0; i < P; ++i)
        s.offset[t] -= s.slope[i * n + t] * get<T, W>(step[i], l) / problem.weight_sum;
    s.cost[t] = share * left;
    s.plain[t] = share * get<T, W>(plain, l);
    s.damping[t] = get<T, W>(damping, l);
    s.fall[t] = get<T, W>(fall, l);
    s.evaluations[t]++;
    s.state[t] = finished ? kDone : kLimit;
  }
}

// Exact Levenberg-Marquardt for all tasks of a block.
template <class T, int W, int F, bool Plain>
KETY_STAGE void polish(const FitCall& call, const Problem<T>& problem, int tasks,
                       Scratch<T, W, F>& s) {
  int active = tasks;
  for (int i = 0; i < tasks; ++i) s.queue[i] = i;
  int waiting[kLevels + 1];
  for (int round = 0; round < call.max_evaluations && active > 0; ++round) {
    arrange<T, W, F>(problem, active, s, waiting);
    int next = 0;
    for (int level = 0; level < kLevels; ++level)
      for (int q0 = waiting[level]; q0 < waiting[level + 1]; q0 += W) {
        const int left = waiting[level + 1] - q0, count = left < W ? left : W;
        int id[W];
        for (int l = 0; l < W; ++l) id[l] = s.order[l < count ? q0 + l : q0];
        polish_round<T, W, F, Plain>(call, problem, level, id, count, s);
        for (int l = 0; l < count; ++l)
          if (s.state[id[l]] != kDone) s.queue[next++] = id[l];
      }
    active = next;
  }
}

}  // namespace KETY_NS
