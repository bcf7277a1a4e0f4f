// The fit of one block of voxels: load, project, scan, refine, then the exact kernel to
// convergence.
#pragma once
#include "polish.hpp"
#include "search.hpp"

namespace KETY_NS {
// Curves of a block, contiguous, with what their samples say of themselves.
template <class T, int W, int F>
KETY_STAGE void load_block(const FitCall& call, long start, int n, Scratch<T, W, F>& s,
                           unsigned char* status) {
  using V = Lanes<T, W>;
  // Sums of a curve are formed in as many parts whatever W is, so that they have the same digits.
  constexpr int kParts = 16;
  const int frames = call.frames;
  // What the search compares: the frames that it looks at.
  const T* weights =
      static_cast<const T*>(call.search_weights ? call.search_weights : call.weights);
  const double weight_sum = call.search_weights ? call.search_weight_sum : call.weight_sum;
  for (int b = 0; b < n; ++b) {
    const T* from = static_cast<const T*>(call.curves) + (start + b) * call.voxel_stride;
    T* y = s.y + static_cast<long>(b) * frames;
    const T scale = static_cast<T>(call.curve_scale);
    if (call.frame_stride == 1)
      for (int j = 0; j < frames; ++j) y[j] = scale * from[j];
    else
      for (int j = 0; j < frames; ++j) y[j] = scale * from[j * call.frame_stride];
    // Moments about the first sample, so that a high offset costs no precision.
    const T origin = y[0];
    T total = 0, spread = 0, all = 0;
    for (int part = 0; part < kParts; part += W) {
      V sum = {}, square = {}, deviation = {};
      for (int j = part; j < frames; j += kParts) {
        V v = V{} + origin, w = {};
        if (j + W <= frames) {
          v = load<T, W>(y + j);
          w = weights ? load<T, W>(weights + j) : V(V{} + T(1));
        } else {
          for (int l = 0; j + l < frames; ++l) {
            set<T, W>(v, l, y[j + l]);
            set<T, W>(w, l, weights ? weights[j + l] : T(1));
          }
        }
        const V away = v - origin;
        sum += away;
        deviation = add_product(deviation, away, away);
        square = add_product(square, w * v, v);
      }
      for (int l = 0; l < W; ++l) {
        total += get<T, W>(sum, l);
        spread += get<T, W>(deviation, l);
        all += get<T, W>(square, l);
      }
    }
    const bool finite = (all - all == 0) && (spread - spread == 0);
    s.spread[b] = spread - total * total / static_cast<T>(frames);
    s.square[b] = all;
    s.mean[b] = 0;
    status[b] = !finite ? kNotFinite : !(spread > 0) ? kNotEnhancing : kOutside;
    if (call.baseline && status[b] == kOutside) {
      // A fitted baseline makes the curves' level irrelevant; without it sums keep their precision.
      s.mean[b] = origin + total / static_cast<T>(frames);
      T sum = 0, moment = 0;
      for (int j = 0; j < frames; ++j) {
        const T w = weights ? weights[j] : T(1);
        y[j] -= s.mean[b];
        sum += w * y[j];
        moment += w * y[j] * y[j];
      }
      s.square[b] = moment - sum * sum / static_cast<T>(weight_sum);
    }
    if (status[b] != kOutside)  // keeps the lanes beside it busy with numbers
      for (int j = 0; j < frames; ++j) y[j] = 0;
  }
}

// Products with the basis, (block, rank).
template <class T, int W, int F>
KETY_STAGE void project(const Dictionary& d, int frames, int n, Scratch<T, W, F>& s) {
  constexpr int R = 8, B = F == 1 ? 1 : 4;
  typedef Lanes<float, R> Part;
  for (int b0 = 0; b0 < n; b0 += B) {
    const T* y[B];
    for (int i = 0; i < B; ++i) y[i] = s.y + static_cast<long>(b0 + i < n ? b0 + i : b0) * frames;
    for (int r0 = 0; r0 < d.rank; r0 += R) {
      Part acc[B] = {};
      for (int j = 0; j < frames; ++j) {
        Part u;
        __builtin_memcpy(&u, d.basis + static_cast<long>(j) * d.rank + r0, sizeof u);
        for (int i = 0; i < B; ++i) acc[i] = add_product(acc[i], static_cast<float>(y[i][j]), u);
      }
      for (int i = 0; i < B && b0 + i < n; ++i)
        __builtin_memcpy(s.z + static_cast<long>(b0 + i) * d.rank + r0, &acc[i], sizeof acc[i]);
    }
  }
  const int padded = (n + F - 1) / F * F;
  for (int i = n * d.rank; i < padded * d.rank; ++i) s.z[i] = 0;
}

// Results of one block into the caller's arrays.
template <class T, int W, int F>
KETY_STAGE void write_block(const FitCall& call, const Problem<T>& problem, long start, int n,
                            Scratch<T, W, F>& s, const unsigned char* status) {
  using V = Lanes<T, W>;
  using M = Mask<T, W>;
  constexpr int P = kParameters;
  const T nan = static_cast<T>(__builtin_nan(""));
  const T scale = static_cast<T>(call.curve_scale), scale2 = scale * scale;
  T* par = static_cast<T*>(call.parameters) + start * P;
  T* cov = static_cast<T*>(call.covariance) + start * kPairs;
  T* cost = static_cast<T*>(call.cost) + start;
  T* r2 = static_cast<T*>(call.r2) + start;
  T* offset = static_cast<T*>(call.offset) + (call.baseline ? 2 * start : 0);
  int freed = 0;
  for (int i = 0; i < P; ++i) freed += !problem.fixed[i];
  const int spare = call.frames_used - freed - (call.baseline ? 1 : 0);
  for (int b0 = 0; b0 < n; b0 += W) {
    V p[P], h[kPairs], c[kPairs];
    M bound[P], lost[P];
    int id[W];
    for (int l = 0; l < W; ++l) {
      const int b = b0 + l < n ? b0 + l : b0;
      id[l] = s.first[b];
      for (int i = 0; i < P; ++i) set<T, W>(p[i], l, id[l] < 0 ? T(0) : s.p[i * s.tasks + id[l]]);
      for (int i = 0; i < kPairs; ++i)
        set<T, W>(h[i], l, id[l] < 0 ? T(0) : s.h[i * s.tasks + id[l]]);
    }
    covariance<T, W>(problem, p, h, c, bound, lost);
    V variance;
    M wide[P];
    for (int l = 0; l < W; ++l)
      set<T, W>(variance, l,
                id[l] < 0 || spare <= 0 ? T(0) : s.cost[id[l]] / static_cast<T>(spare));
    too_wide<T, W, P>(problem.fixed, h, bound, c, call.span, variance, wide);
    for (int l = 0; l < W && b0 + l < n; ++l) {
      const int b = b0 + l, t = id[l];
      const long o = b;
      if (t < 0) {
        for (int i = 0; i < P; ++i) par[o * P + i] = nan;
        for (int i = 0; i < kPairs; ++i) cov[o * kPairs + i] = nan;
        cost[o] = r2[o] = nan;
        if (call.baseline) offset[2 * o] = offset[2 * o + 1] = nan;
        call.evaluations[start + b] = 0;
        call.undetermined[start + b] = 0;
        // Numbers too large to square leave no cell to start from.
        call.status[start + b] = status[b];
        if (status[b] == kOutside) call.status[start + b] = kNotFinite;
        continue;
      }
      bool at_bound = false, undetermined = false, unknown = false, gone[P];
      unsigned missing = 0;
      for (int i = 0; i < P; ++i) {
        const bool loose = is_set<T, W>(lost[i], l), stopped = is_set<T, W>(bound[i], l);
        const bool broad = is_set<T, W>(wide[i], l);
        undetermined |= loose;
        unknown |= broad;
        at_bound |= stopped && !problem.fixed[i];
        gone[i] = loose || stopped;
        par[o * P + i] = s.p[i * s.tasks + t];
        if (loose || broad) missing |= 1u << i;
      }
      const T noise = spare > 0 ? s.cost[t] / static_cast<T>(spare) : nan;
      for (int i = 0; i < P; ++i)
        for (int j = 0; j <= i; ++j)
          cov[o * kPairs + pair(i, j)] =
              gone[i] || gone[j] ? nan : noise * get<T, W>(c[pair(i, j)], l);
      if (call.baseline) {
        const T variance = baseline_variance(P, noise, static_cast<T>(call.weight_sum), s.slope + t,
                                             s.tasks, gone, cov + o * kPairs);
        offset[2 * o] = (s.mean[b] + s.offset[t]) / scale;
        offset[2 * o + 1] = variance / scale2;
      }
      call.undetermined[start + b] = static_cast<unsigned char>(missing);
      cost[o] = s.plain[t] / scale2;
      r2[o] = 1 - s.plain[t] / s.spread[b];
      const int e = s.evaluations[t];
      call.evaluations[start + b] = static_cast<unsigned short>(e < 65535 ? e : 65535);
      call.status[start + b] = s.state[t] == kLimit ? kIterationLimit
                               : undetermined       ? kNotIdentifiable
                               : unknown            ? kTooWide
                               : at_bound           ? kAtBound
                                                    : kConverged;
    }
  }
}

// The starts of a voxel that the exact solver takes: of its candidates i to end and the repeated
// climbs all minima too close to call, for the voxel's noise or the dictionary. None where the
// voxel does not enhance.
template <class T, int W, int F, class Add>
KETY_FN void choose_starts(const FitCall& call, const Dictionary& d, const Scratch<T, W, F>& s,
                           int i, int end, int best, int repeat, int repeats, unsigned char& status,
                           const Add& add) {
  const int b = s.candidates[i].voxel;
  const float square = static_cast<float>(s.square[b]);
  const float rest = left_over(d, s, b, s.candidates[best].miss);
  if (call.enhancement > 0 && !(square - rest > call.enhancement * rest)) {
    status = kNotEnhancing;
    return;
  }
  const float unsure = rest < kClean * square ? kCleanError : call.dictionary_error;
  // An amplitude held at a tight bound makes the climb's end less sure.
  auto limit = [&](const Candidate& c) {
    const bool held = !d.plain && (pressed(d, c) || pressed(d, s.candidates[best]));
    float share = held && call.rival < kPressed ? kPressed : call.rival;
    if (alone(d, c.delay) && share < kAlone) share = kAlone;
    return s.candidates[best].miss + share * rest + unsure * square;
  };
  for (int q = i; q < end; ++q)
    if (q == best || s.candidates[q].miss <= limit(s.candidates[q])) add(s.candidates[q]);
  for (; repeat < repeats; ++repeat)
    if (s.repeats[repeat].miss <= limit(s.repeats[repeat])) add(s.repeats[repeat]);
}

// Of the tasks of a voxel the first of least cost, with the evaluations of all.
template <class T, int W, int F>
KETY_FN void compare_task(int t, Scratch<T, W, F>& s) {
  int& f = s.first[s.owner[t]];
  if (f < 0) {
    f = t;
  } else {
    const int spent = s.evaluations[f] + s.evaluations[t];
    if (s.cost[t] < s.cost[f]) f = t;
    s.evaluations[f] = spent;
  }
}

template <class T, int W, int F, bool Plain>
void fit_block(const FitCall& call, const Dictionary& d, const Problem<T>& problem, long start,
               int n, Scratch<T, W, F>& s) {
  unsigned char status[kMaxBlock];
  load_block<T, W, F>(call, start, n, s, status);
  project<T, W, F>(d, call.frames, n, s);
  const int count = choose<T, W, F>(call, d, n, s, status);
  refine<T, W, F>(d, s.candidates, count, s);
  const int repeats = look_again<T, W, F>(d, count, s);
  int tasks = 0, repeat = 0;
  for (int i = 0, best, end; i < count; i = end) {
    end = group_end(s.candidates, count, i, best);
    const int b = s.candidates[i].voxel, from = repeat;
    while (repeat < repeats && s.repeats[repeat].voxel == b) ++repeat;
    choose_starts(call, d, s, i, end, best, from, repeat, status[b],
                  [&](const Candidate& c) { add_task(d, problem, c, tasks++, s); });
  }
  polish<T, W, F, Plain>(call, problem, tasks, s);
  for (int t = 0; t < tasks; ++t) compare_task(t, s);
  write_block<T, W, F>(call, problem, start, n, s, status);
}

}  // namespace KETY_NS
