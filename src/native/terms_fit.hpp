// Bounded Levenberg-Marquardt for models of several terms, from given starts, in rounds over the
// starts that still run.
#pragma once
#include "walks.hpp"

namespace KETY_NS {

constexpr int kBends = 4;

// A step taken in the model's inner coordinates, in which its curves are nearly linear: valleys of
// the sum of squares that are bent in the parameters are straight in these. Where it stays inside
// the bounds it replaces the step and its predicted fall.
template <class T, int W, int P>
KETY_STAGE void bend(const TermsProblem<T>& problem, const bool* fixed, const Lanes<T, W>* p,
                     const Lanes<T, W>* g, const Lanes<T, W>* h, const Lanes<T, W>& damping,
                     const Lanes<T, W>* lo, const Lanes<T, W>* hi, Lanes<T, W>* step,
                     Lanes<T, W>& fall) {
  using V = Lanes<T, W>;
  using M = Mask<T, W>;
  const int n = problem.model->parameters;
  Jet<T, W, 0> inner[P];
  run_program<T, W, 0>(problem.inner, p, inner);
  V at[P] = {};
  for (int i = 0; i < n; ++i) at[i] = inner[i].f;
  Jet<T, W, P> back[P];
  run_program<T, W, P>(problem.back, at, back);
  // Normal equations in the inner coordinates: D'g and D'HD with D = d parameters / d inner.
  V gi[P] = {}, hi_[kPacked<P>] = {}, hd[P][P];
  for (int i = 0; i < n; ++i)
    for (int q = 0; q < n; ++q) {
      V s = {};
      for (int r = 0; r < n; ++r)
        if (!fixed[r]) s = add_product(s, h[pair(i, r)], back[r].d[q]);
      hd[i][q] = s;
    }
  for (int i = 0; i < n; ++i) {
    for (int r = 0; r < n; ++r)
      if (!fixed[r]) gi[i] = add_product(gi[i], g[r], back[r].d[i]);
    for (int q = 0; q <= i; ++q) {
      V s = {};
      for (int r = 0; r < n; ++r)
        if (!fixed[r]) s = add_product(s, back[r].d[i], hd[r][q]);
      hi_[pair(i, q)] = s;
    }
  }
  const T far = sizeof(T) == 4 ? T(1e30) : T(1e200);
  V low[P], high[P], move[P];
  for (int i = 0; i < P; ++i) {
    low[i] = V{} - far;
    high[i] = V{} + far;
  }
  const V gained = bounded_step<T, W, P>(fixed, at, gi, hi_, damping, low, high, move);
  // As far along as the bounds allow; else the step stays as it was.
  M open = gained > V{};
  V share = V{} + T(1);
  for (int attempt = 0; attempt < kBends && any<T, W>(open); ++attempt) {
    V to[P] = {};
    for (int i = 0; i < n; ++i) to[i] = add_product(at[i], share, move[i]);
    Jet<T, W, 0> there[P];
    run_program<T, W, 0>(problem.back, to, there);
    M good = open;
    for (int i = 0; i < n; ++i)
      if (!fixed[i]) good &= (there[i].f >= lo[i]) & (there[i].f <= hi[i]);
    for (int i = 0; i < n; ++i)
      if (!fixed[i]) step[i] = good ? V(there[i].f - p[i]) : step[i];
    fall = good ? V(share * (T(2) - share) * gained) : fall;
    open &= none_of(good);
    share *= T(0.5);
  }
}

// Leaves out of the queue the starts that would not come down to the best of their voxel even if
// they fell several times as far as the quadratic promises. In double precision, which is there for
// the last digits, only what is far off is left out.
template <class T>
constexpr T kTrust = sizeof(T) == 4 ? T(12) : T(1e4);
template <class T, int P>
KETY_STAGE int still_in_question(int* queue, int active, int tasks, const Walks<T, P>& s) {
  int kept = 0;
  for (int q = 0; q < active; ++q) {
    const int t = queue[q];
    T best = s.cost[t];
    for (int r = t - 1; r >= 0 && s.owner[r] == s.owner[t]; --r)
      best = s.cost[r] < best ? s.cost[r] : best;
    for (int r = t + 1; r < tasks && s.owner[r] == s.owner[t]; ++r)
      best = s.cost[r] < best ? s.cost[r] : best;
    const bool lost = s.damping[t] <= T(kFree) && s.cost[t] - kTrust<T> * s.fall[t] > best;
    if (!lost) queue[kept++] = t;
  }
  return kept;
}

// One step of up to W starts of a level: their trial points evaluated, the next ones chosen. Those
// that have arrived are then kArrived.
template <class T, int W, int P>
KETY_STAGE void walk_step(const TermsCall& call, const TermsProblem<T>& problem, int level,
                          long first_task, const int id[W], int count, const Curves<T>& curves,
                          T* tile, Lanes<T, W>* knots, const Walks<T, P>& s) {
  using V = Lanes<T, W>;
  using M = Mask<T, W>;
  const V zero = {};
  const int parameters = call.model.parameters, jumps = call.model.jumps;
  const T ftol = static_cast<T>(call.ftol), xtol = static_cast<T>(call.xtol);
  const T rounding = static_cast<T>(call.rounding);
  for (int l = 0; l < W; ++l) {
    const T* y = curves.y + static_cast<long>(s.owner[id[l]]) * call.frames;
    for (int j = 0; j < call.frames; ++j) tile[j * W + l] = y[j];
  }
  auto gather = [&](const T* from, int i = 0, int of = 1) {
    V v;
    for (int l = 0; l < W; ++l) set<T, W>(v, l, from[s.at(i, id[l], of)]);
    return v;
  };
  V trial[P];
  for (int i = 0; i < P; ++i) trial[i] = gather(s.trial, i, P);
  Normal<T, W, P> now;
  evaluate_terms_at<T, W, P>(problem, level, trial, tile, knots, now);
  const V before = gather(s.cost);
  const V gain = gain_of<T, W>(before, now.cost, gather(s.fall));
  const M accept = gain >= zero;
  V p[P], g[P], h[kPacked<P>], slope[P], lo[P], hi[P], step[P];
  for (int i = 0; i < P; ++i) {
    p[i] = accept ? trial[i] : gather(s.p, i, P);
    g[i] = accept ? now.gradient[i] : gather(s.g, i, P);
    slope[i] = accept ? now.slope[i] : gather(s.slope, i, P);
    lo[i] = zero + static_cast<T>(call.lo[i]);
    hi[i] = zero + static_cast<T>(call.hi[i]);
  }
  for (int i = 0; i < kPacked<P>; ++i) h[i] = accept ? now.hessian[i] : gather(s.h, i, kPacked<P>);
  for (int j = 0; j < jumps; ++j) {
    const int delay = call.model.jump[j];
    for (int l = 0; delay >= 0 && l < W; ++l) {
      const double* band = call.band + 2 * ((first_task + id[l]) * jumps + j);
      set<T, W>(lo[delay], l, static_cast<T>(band[0]));
      set<T, W>(hi[delay], l, static_cast<T>(band[1]));
    }
  }
  const V cost = accept ? now.cost : before, plain = accept ? now.unweighted : gather(s.plain),
          offset = accept ? now.offset : gather(s.offset);
  const V damping = next_damping<T, W>(accept, gain, gather(s.fall), gather(s.damping));
  V fall = bounded_step<T, W, P>(call.fixed, p, g, h, damping, lo, hi, step);
  if (call.model.inner.outputs > 0)
    bend<T, W, P>(problem, call.fixed, p, g, h, damping, lo, hi, step, fall);
  V square;
  for (int l = 0; l < W; ++l) set<T, W>(square, l, curves.square[s.owner[id[l]]]);
  const V floor = (ftol < kCostRounding<T> ? kCostRounding<T> : ftol) * cost + rounding * square;
  const V nothing = floor + T(1e3) * rounding * square;
  const M small = is_small<T, W, P>(step, p, xtol, call.xfloor),
          near = is_small<T, W, P>(step, p, xtol, call.xfloor, T(kNear) / xtol);
  // A small fall or step tells of a minimum only where the damping is not what makes it small.
  const M settled = (((fall <= floor) | small) & (damping <= T(kFree))) | (damping > T(1e6));
  for (int l = 0; l < W && l < count; ++l) {
    const int t = id[l];
    const bool finished = is_set<T, W>(settled, l);
    const T left = get<T, W>(cost, l), gained = get<T, W>(fall, l);
    // The last step is taken without another evaluation, if downhill and short: its fall is known
    // well enough.
    const bool last = finished && gained > 0 && is_set<T, W>(near, l);
    T share = last && left > 0 ? 1 - gained / left : T(1);
    share = share > 0 ? share : T(0);
    T constant = get<T, W>(offset, l);
    for (int i = 0; i < P; ++i) {
      const T at = get<T, W>(p[i], l);
      T to = at + get<T, W>(step[i], l);
      const T low = get<T, W>(lo[i], l), high = get<T, W>(hi[i], l);
      if (!call.fixed[i]) to = to < low ? low : to > high ? high : to;
      // What could as well be at its lower bound is put there: what it alone determines is then
      // seen to be undetermined.
      const T move = low - at;
      const bool empty = i < parameters && call.vanishing[i] && !call.fixed[i] &&
                         get<T, W>(h[pair(i, i)], l) * move * move +
                                 2 * __builtin_fabs(get<T, W>(g[i], l) * move) <=
                             10 * get<T, W>(nothing, l);
      if (problem.baseline && last)
        constant -= get<T, W>(slope[i], l) * get<T, W>(step[i], l) / problem.weight_sum;
      s.p[s.at(i, t, P)] = finished && empty ? low : last ? to : at;
      s.trial[s.at(i, t, P)] = to;
      s.g[s.at(i, t, P)] = get<T, W>(g[i], l);
      s.slope[s.at(i, t, P)] = get<T, W>(slope[i], l);
    }
    for (int i = 0; i < kPacked<P>; ++i) s.h[s.at(i, t, kPacked<P>)] = get<T, W>(h[i], l);
    s.offset[t] = constant;
    s.cost[t] = share * left;
    s.plain[t] = share * get<T, W>(plain, l);
    s.damping[t] = get<T, W>(damping, l);
    s.fall[t] = gained;
    s.evaluations[t]++;
    s.state[t] = finished ? kArrived : kOutOfSteps;
  }
}

#ifndef KETY_CUDA  // a card's thread goes through the starts of its voxel (cuda_terms.hpp)

// All starts of a chunk to their minima.
template <class T, int W, int P>
KETY_STAGE void walk(const TermsCall& call, const TermsProblem<T>& problem, long first_task,
                     int tasks, const Curves<T>& curves, T* tile, Lanes<T, W>* knots,
                     Walks<T, P>& s) {
  int active = tasks;
  for (int i = 0; i < tasks; ++i) s.queue[i] = i;
  for (int round = 0; round < call.max_evaluations && active > 0; ++round) {
    if (round > 0) active = still_in_question<T, P>(s.queue, active, tasks, s);
    int begins[kFastLevel + 2];
    sort_terms<T, W, P>(
        problem, active, [&](int q, int i) { return s.trial[s.at(i, s.queue[q], P)]; }, s.bin,
        s.item, begins);
    for (int q = 0; q < active; ++q) s.order[q] = s.queue[s.item[q]];
    int next = 0;
    for (int level = 0; level <= kFastLevel; ++level)
      for (int q0 = begins[level]; q0 < begins[level + 1]; q0 += W) {
        const int left = begins[level + 1] - q0, count = left < W ? left : W;
        int id[W];
        for (int l = 0; l < W; ++l) id[l] = s.order[l < count ? q0 + l : q0];
        walk_step<T, W, P>(call, problem, level, first_task, id, count, curves, tile, knots, s);
        for (int l = 0; l < count; ++l)
          if (s.state[id[l]] != kArrived) s.queue[next++] = id[l];
      }
    active = next;
  }
}

#endif

// The best walk of every voxel into the caller's arrays.
template <class T, int W, int P>
KETY_STAGE void write_fits(const TermsCall& call, long start, int n, const Curves<T>& curves,
                           const int* best, Walks<T, P>& s) {
  using V = Lanes<T, W>;
  using M = Mask<T, W>;
  const V zero = {};
  const int parameters = call.model.parameters, packed = parameters * (parameters + 1) / 2;
  const T nan = static_cast<T>(__builtin_nan(""));
  const T scale = static_cast<T>(call.curve_scale), scale2 = scale * scale;
  T* par = static_cast<T*>(call.fit_parameters) + start * parameters;
  T* cov = static_cast<T*>(call.fit_covariance) + start * packed;
  T *cost = static_cast<T*>(call.fit_cost) + start, *r2 = static_cast<T*>(call.fit_r2) + start;
  T* offset = static_cast<T*>(call.fit_offset) + (call.baseline ? 2 * start : 0);
  int freed = 0;
  for (int i = 0; i < parameters; ++i) freed += !call.fixed[i];
  const int spare = call.frames_used - freed - (call.baseline ? 1 : 0);
  for (int b0 = 0; b0 < n; b0 += W) {
    V p[P], h[kPacked<P>], c[kPacked<P>];
    M bound[P], lost[P];
    int id[W];
    for (int l = 0; l < W; ++l) {
      id[l] = best[b0 + l < n ? b0 + l : b0];
      const int t = id[l] < 0 ? 0 : id[l];
      for (int i = 0; i < P; ++i) set<T, W>(p[i], l, id[l] < 0 ? T(0) : s.p[s.at(i, t, P)]);
      for (int i = 0; i < kPacked<P>; ++i)
        set<T, W>(h[i], l, id[l] < 0 ? T(0) : s.h[s.at(i, t, kPacked<P>)]);
    }
    for (int i = 0; i < P; ++i) {
      // A delay just beyond a jump that stands at its bound is at the bound.
      const T near = jump_of(call.model, i) >= 0 ? T(1e-5) : T(0);
      bound[i] =
          (p[i] <= static_cast<T>(call.lo[i]) + near) | (p[i] >= static_cast<T>(call.hi[i]) - near);
      if (call.fixed[i]) bound[i] = zero == zero;
      lost[i] = zero != zero;
    }
    inverse_of<T, W, P>(call.fixed, h, bound, c, lost);
    V variance;
    M wide[P];
    for (int l = 0; l < W; ++l)
      set<T, W>(variance, l,
                id[l] < 0 || spare <= 0 ? T(0) : s.cost[id[l]] / static_cast<T>(spare));
    too_wide<T, W, P>(call.fixed, h, bound, c, call.span, variance, wide);
    for (int l = 0; l < W && b0 + l < n; ++l) {
      const long o = b0 + l;
      const int t = id[l];
      if (t < 0) {
        for (int i = 0; i < parameters; ++i) par[o * parameters + i] = nan;
        for (int i = 0; i < packed; ++i) cov[o * packed + i] = nan;
        cost[o] = r2[o] = nan;
        if (call.baseline) offset[2 * o] = offset[2 * o + 1] = nan;
        call.evaluations[start + o] = 0;
        call.undetermined[start + o] = 0;
        call.status[start + o] = curves.finite[o] ? kNotEnhancing : kNotFinite;
        continue;
      }
      bool at_bound = false, undetermined = false, unknown = false, gone[P];
      unsigned missing = 0;
      for (int i = 0; i < parameters; ++i) {
        const bool loose = is_set<T, W>(lost[i], l), stopped = is_set<T, W>(bound[i], l);
        const bool broad = is_set<T, W>(wide[i], l);
        undetermined |= loose;
        unknown |= broad;
        at_bound |= stopped && !call.fixed[i];
        gone[i] = loose || stopped;
        par[o * parameters + i] = s.p[s.at(i, t, P)];
        if (loose || broad) missing |= 1u << i;
      }
      const T noise = spare > 0 ? s.cost[t] / static_cast<T>(spare) : nan;
      for (int i = 0; i < parameters; ++i)
        for (int j = 0; j <= i; ++j)
          cov[o * packed + pair(i, j)] =
              gone[i] || gone[j] ? nan : noise * get<T, W>(c[pair(i, j)], l);
      if (call.baseline) {
        const T variance =
            baseline_variance(parameters, noise, static_cast<T>(call.weight_sum),
                              s.slope + s.at(0, t, P), s.at(1, 0, P), gone, cov + o * packed);
        offset[2 * o] = (curves.mean[o] + s.offset[t]) / scale;
        offset[2 * o + 1] = variance / scale2;
      }
      call.undetermined[start + o] = static_cast<unsigned char>(missing);
      cost[o] = s.plain[t] / scale2;
      r2[o] = 1 - s.plain[t] / curves.spread[o];
      const int e = s.evaluations[t];
      call.evaluations[start + o] = static_cast<unsigned short>(e < 65535 ? e : 65535);
      call.status[start + o] = s.state[t] == kOutOfSteps ? kIterationLimit
                               : undetermined            ? kNotIdentifiable
                               : unknown                 ? kTooWide
                               : at_bound                ? kAtBound
                                                         : kConverged;
    }
  }
}

template <class T, int W, int P>
void terms_fit_range(const TermsCall& call, long begin, long end) {
  TermsProblem<T> problem(call);
  const long frames = call.frames;
  T* tile = static_cast<T*>(kety_allocate(static_cast<long>(sizeof(T)) * frames * W));
  auto* knots = static_cast<Lanes<T, W>*>(
      kety_allocate(static_cast<long>(sizeof(Lanes<T, W>)) * knots_of<T, W>(problem)));
  T* memory =
      static_cast<T*>(kety_allocate(static_cast<long>(sizeof(T)) * kTermVoxels * (frames + 3)));
  bool finite[kTermVoxels];
  Curves<T> curves = {memory, memory + kTermVoxels * frames, memory + kTermVoxels * (frames + 1),
                      memory + kTermVoxels * (frames + 2), finite};
  for (long v = begin; v < end; v += kTermVoxels) {
    const int n = static_cast<int>(end - v < kTermVoxels ? end - v : kTermVoxels);
    load_curves<T>(call, v, n, curves);
    const long first = call.first[v];
    const int tasks = static_cast<int>(call.first[v + n] - first);
    Walks<T, P> s = make_walks<T, P>(tasks > 0 ? tasks : 1);
    int running = 0, best[kTermVoxels];
    for (int b = 0; b < n; ++b)
      for (long q = call.first[v + b]; q < call.first[v + b + 1]; ++q, ++running)
        begin_walk<T, P>(call, q, b, running, s);
    walk<T, W, P>(call, problem, first, tasks, curves, tile, knots, s);
    for (int b = 0; b < n; ++b) best[b] = -1;
    for (int t = 0; t < tasks; ++t) compare_walk<T, P>(curves, t, s, best[s.owner[t]]);
    write_fits<T, W, P>(call, v, n, curves, best, s);
    kety_release(s.memory);
  }
  kety_release(tile);
  kety_release(knots);
  kety_release(memory);
  problem.close();
}

}  // namespace KETY_NS
