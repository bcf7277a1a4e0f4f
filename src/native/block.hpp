// The fit of one block of voxels: load, project, scan, refine, then the exact kernel to
// convergence.
#pragma once
#include "dictionary.hpp"
#include "solver.hpp"
#include "types.hpp"

namespace KETY_NS {

constexpr int kCandidates = 8;  // cells refined for one voxel
constexpr int kRateStarts = 4;  // rates tried again beside the best cell, in clean data
constexpr int kRepeats = (2 + kRateStarts) * kCandidates;  // further climbs of one voxel
constexpr int kVisits = 3;  // cells that one refinement may walk through
constexpr int kMaxBlock = 2048;
// Squared errors relative to the sum of squares: of the curves in a cell as a rule and at worst,
// and the residual below which a curve has so little noise that only the worst is safe.
constexpr float kCleanError = 1e-3f, kClean = 1e-4f;
constexpr float kCentreError = 2e-3f;                    // of a cell's centre, before refinement
constexpr float kBoundedRatio = 2.0f, kPressed = 0.03f;  // the same where amplitudes are bounded
// Residual at a centre below which noise does not decide, and how much worse a rival may then be.
constexpr float kFaint = 5e-3f, kFaintRatio = 4.0f;
constexpr int kBins = 1024;  // of the delay, to bring like voxels together

struct Candidate {
  int voxel, delay, rate, visit;
  float x, y;                // where the climb starts, in half widths
  float v, a, k, tau, miss;  // where it ended, and the residual in the basis
};

// Working memory of one thread, sized once; nothing is allocated per voxel.
template <class T, int W, int F>
struct Scratch {
  T* y = nullptr;            // (block, frames)
  T* tile = nullptr;         // (frames, W)
  float* z = nullptr;        // (block, rank)
  float* z_lanes = nullptr;  // (rank, F)
  float* best = nullptr;     // (delays, F)
  int* arg = nullptr;        // (delays, F)
  Lanes<T, W>* knots = nullptr;
  Candidate* candidates = nullptr;
  Candidate* repeats = nullptr;
  int* origin = nullptr;  // candidate that a repeat stands for
  int* order = nullptr;
  int* sorted = nullptr;
  int* node_count = nullptr;  // (delays * rates + 1)
  int* queue = nullptr;
  T *p = nullptr, *trial = nullptr, *g = nullptr, *h = nullptr, *cost = nullptr, *plain = nullptr,
    *damping = nullptr, *fall = nullptr, *band = nullptr, *offset = nullptr, *slope = nullptr,
    *mean = nullptr, *square = nullptr, *spread = nullptr;
  int *evaluations = nullptr, *owner = nullptr, *state = nullptr, *first = nullptr, *bin = nullptr;
  int block = 0, tasks = 0;
  void* memory = nullptr;
};

enum TaskState { kRunning = 0, kDone = 1, kLimit = 2 };

template <class T, int W, int F>
Scratch<T, W, F> make_scratch(const FitCall& call) {
  Scratch<T, W, F> s;
  // Large, so that voxels of like delay meet in one register; a block's curves stay in cache.
  long block = (1L << 20) / (static_cast<long>(sizeof(T)) * call.frames);
  block = block < 256 ? 256 : block > kMaxBlock ? kMaxBlock : block / 64 * 64;
  s.block = static_cast<int>(block);
  s.tasks = (kCandidates + kRepeats) * s.block;
  for (int pass = 0; pass < 2; ++pass) {
    long used = 0;
    auto take = [&]<class E>(E*& p, long n) {
      if (pass == 1) p = reinterpret_cast<E*>(static_cast<char*>(s.memory) + used);
      used += (n * static_cast<long>(sizeof(E)) + 127) / 64 * 64;
    };
    const int rank = call.rank, n = s.tasks;
    take(s.y, static_cast<long>(call.frames) * s.block);
    take(s.tile, static_cast<long>(call.frames) * W);
    take(s.z, static_cast<long>(s.block + F) * rank);
    take(s.z_lanes, static_cast<long>(rank) * F);
    take(s.best, static_cast<long>(call.delays) * F);
    take(s.arg, static_cast<long>(call.delays) * F);
    take(s.knots, 2L * call.pieces);
    take(s.candidates, static_cast<long>(s.block) * kCandidates);
    take(s.repeats, static_cast<long>(kRepeats) * s.block);
    take(s.origin, static_cast<long>(kRepeats) * s.block);
    take(s.order, s.tasks);
    take(s.sorted, s.tasks);
    take(s.node_count, static_cast<long>(call.delays) * call.rates + 1);
    take(s.queue, n);
    take(s.p, kParameters * n);
    take(s.trial, kParameters * n);
    take(s.g, kParameters * n);
    take(s.h, kPairs * n);
    take(s.cost, n);
    take(s.plain, n);
    take(s.offset, n);
    take(s.slope, kParameters * n);
    take(s.mean, s.block);
    take(s.damping, n);
    take(s.fall, n);
    take(s.band, 2L * n);
    take(s.square, s.block);
    take(s.spread, s.block);
    take(s.evaluations, n);
    take(s.owner, n);
    take(s.state, n);
    take(s.bin, n);
    take(s.first, s.block);
    if (pass == 0) s.memory = kety_allocate(used);
  }
  return s;
}

// Curves of a block, contiguous, with what their samples say of themselves.
template <class T, int W, int F>
KETY_STAGE void load_block(const FitCall& call, long start, int n, Scratch<T, W, F>& s,
                           unsigned char* status) {
  using V = Lanes<T, W>;
  const int frames = call.frames, whole = frames / W * W;
  const T* weights = static_cast<const T*>(call.weights);
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
    V sum = {}, square = {}, deviation = {};
    auto add = [&](const V& v, const V& w) {
      sum += v - origin;
      deviation += (v - origin) * (v - origin);
      square += w * v * v;
    };
    const V one = V{} + T(1);
    for (int j = 0; j < whole; j += W)
      add(load<T, W>(y + j), weights ? load<T, W>(weights + j) : one);
    if (whole < frames) {
      V rest = V{} + origin, w = {};
      for (int j = whole; j < frames; ++j) {
        set<T, W>(rest, j - whole, y[j]);
        set<T, W>(w, j - whole, weights ? weights[j] : T(1));
      }
      add(rest, w);
    }
    T total = 0, spread = 0, all = 0;
    for (int l = 0; l < W; ++l) {
      total += get<T, W>(sum, l);
      spread += get<T, W>(deviation, l);
      all += get<T, W>(square, l);
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
      s.square[b] = moment - sum * sum / static_cast<T>(call.weight_sum);
    }
    if (status[b] != kOutside)  // keeps the lanes beside it busy with numbers
      for (int j = 0; j < frames; ++j) y[j] = 0;
  }
}

// Products with the basis, (block, rank).
template <class T, int W, int F>
KETY_STAGE void project(const Dictionary& d, int frames, int n, Scratch<T, W, F>& s) {
  constexpr int R = 8, B = 4;
  typedef float Part __attribute__((vector_size(R * sizeof(float))));
  for (int b0 = 0; b0 < n; b0 += B) {
    const T* y[B];
    for (int i = 0; i < B; ++i) y[i] = s.y + static_cast<long>(b0 + i < n ? b0 + i : b0) * frames;
    for (int r0 = 0; r0 < d.rank; r0 += R) {
      Part acc[B] = {};
      for (int j = 0; j < frames; ++j) {
        Part u;
        __builtin_memcpy(&u, d.basis + static_cast<long>(j) * d.rank + r0, sizeof u);
        for (int i = 0; i < B; ++i) acc[i] += static_cast<float>(y[i][j]) * u;
      }
      for (int i = 0; i < B && b0 + i < n; ++i)
        __builtin_memcpy(s.z + static_cast<long>(b0 + i) * d.rank + r0, &acc[i], sizeof acc[i]);
    }
  }
  const int padded = (n + F - 1) / F * F;
  for (int i = n * d.rank; i < padded * d.rank; ++i) s.z[i] = 0;
}

// The cells worth refining: peaks of the explained sum of squares along the delay.
template <class T, int W, int F>
KETY_STAGE int choose(const FitCall& call, const Dictionary& d, int n, Scratch<T, W, F>& s,
                      const unsigned char* status) {
  using V = Lanes<float, F>;
  using I = Lanes<int, F>;
  int count = 0;
  for (int b0 = 0; b0 < n; b0 += F) {
    V z[kMaxRank];
    for (int r = 0; r < d.scan_rank; ++r)
      for (int l = 0; l < F; ++l) s.z_lanes[r * F + l] = s.z[(b0 + l) * d.rank + r];
    for (int r = 0; r < d.scan_rank; ++r) z[r] = load<float, F>(s.z_lanes + r * F);
    scan<F>(d, z, s.best, s.arg);
    // Delay cells whose explained sum of squares peaks, and either comes near the best cell's or,
    // in data of little noise, lies across the wall next to it, where centres of cells compare
    // badly.
    V top = load<float, F>(s.best), square = {};
    I band = I{} + d.band[0], low = {}, high = {};
    for (int m = 1; m < d.delays; ++m) {
      const V e = load<float, F>(s.best + m * F);
      band = e > top ? I{} + d.band[m] : band;
      top = upper(top, e);
    }
    for (int l = 0; l < F && b0 + l < n; ++l)
      set<float, F>(square, l, static_cast<float>(s.square[b0 + l]));
    const V left = square - top;
    const I faint = left <= kFaint * square;
    const V ratio =
        faint ? V{} + kFaintRatio : V{} + (d.plain ? call.candidate_ratio : kBoundedRatio);
    const V floor = square - upper(V(ratio * left), V(kCentreError * square));
    for (int m = 0; m < d.delays; ++m) {
      const V e = load<float, F>(s.best + m * F);
      const I apart = band - d.band[m];
      I keep = (e >= floor) | (faint & (apart >= -1) & (apart <= 1));
      if (m > 0 && d.band[m - 1] == d.band[m]) keep &= load<float, F>(s.best + (m - 1) * F) <= e;
      if (m < d.delays - 1 && d.band[m + 1] == d.band[m])
        keep &= load<float, F>(s.best + (m + 1) * F) < e;
      (m < 32 ? low : high) |= keep & static_cast<int>(1u << (m % 32));
    }
    for (int l = 0; l < F && b0 + l < n; ++l) {
      const int b = b0 + l;
      s.first[b] = -1;
      if (status[b] != kOutside) continue;
      unsigned long long cells = static_cast<unsigned>(get<int, F>(low, l)) |
                                 static_cast<unsigned long long>(get<int, F>(high, l)) << 32;
      while (__builtin_popcountll(cells) > kCandidates) {  // the weakest go
        int weakest = __builtin_ctzll(cells);
        for (unsigned long long rest = cells; rest; rest &= rest - 1) {
          const int m = __builtin_ctzll(rest);
          if (s.best[m * F + l] < s.best[weakest * F + l]) weakest = m;
        }
        cells &= ~(1ull << weakest);
      }
      for (; cells; cells &= cells - 1) {
        Candidate& c = s.candidates[count++];
        c.voxel = b;
        c.delay = __builtin_ctzll(cells);
        c.rate = s.arg[c.delay * F + l];
        c.x = c.y = 0;
      }
    }
  }
  return count;
}

template <int F>
KETY_FN void transpose_rows(const float* const rows[F], int n, Lanes<float, F>* out) {
  for (int r = 0; r < n; ++r)
    for (int l = 0; l < F; ++l) set<float, F>(out[r], l, rows[l][r]);
}

// Refinement inside cells, walking to a neighbour where the climb leaves its cell.
template <class T, int W, int F>
KETY_STAGE void refine(const Dictionary& d, Candidate* list, int count, Scratch<T, W, F>& s) {
  using V = Lanes<float, F>;
  typedef float Row __attribute__((vector_size(kRowsPadded * sizeof(float))));
  int active = count;
  for (int i = 0; i < count; ++i) s.order[i] = i;
  for (int visit = 0; visit < kVisits && active > 0; ++visit) {
    // Voxels of one cell follow each other, so that its tables stay in the first-level cache.
    const int nodes = d.delays * d.rates;
    for (int i = 0; i <= nodes; ++i) s.node_count[i] = 0;
    for (int i = 0; i < active; ++i) {
      const Candidate& c = list[s.order[i]];
      ++s.node_count[c.delay * d.rates + c.rate + 1];
    }
    for (int i = 0; i < nodes; ++i) s.node_count[i + 1] += s.node_count[i];
    for (int i = 0; i < active; ++i) {
      const Candidate& c = list[s.order[i]];
      s.sorted[s.node_count[c.delay * d.rates + c.rate]++] = s.order[i];
    }
    int next = 0;
    for (int t0 = 0; t0 < active; t0 += F) {
      float products[F][kRowsPadded];
      const float *rows[F], *polys[F];
      V x, y, lo_x, hi_x, lo_y, hi_y, zc[kRows], poly[kPoly];
      for (int l = 0; l < F; ++l) {
        const Candidate& c = list[s.sorted[t0 + l < active ? t0 + l : t0]];
        const int node = c.delay * d.rates + c.rate;
        const float* table = d.table + static_cast<long>(node) * d.rank * kRowsPadded;
        const float* z = s.z + static_cast<long>(c.voxel) * d.rank;
        Row sum[4] = {};  // four chains: their latency, not their number, is the cost
        for (int r = 0; r < d.rank; r += 4)
          for (int i = 0; i < 4; ++i) {
            Row row;
            __builtin_memcpy(&row, table + (r + i) * kRowsPadded, sizeof row);
            sum[i] += z[r + i] * row;
          }
        sum[0] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
        __builtin_memcpy(products[l], &sum[0], sizeof sum[0]);
        rows[l] = products[l];
        polys[l] = d.poly + static_cast<long>(node) * kPoly;
        // A cell may be left a little, towards a neighbour, but never through a wall.
        const float overlap = 1.1f;
        const bool wall_lo = walled(d, c.delay - 1), wall_hi = walled(d, c.delay);
        set<float, F>(x, l, c.x);
        set<float, F>(y, l, c.y);
        set<float, F>(lo_x, l, c.rate == 0 ? -1.0f : -overlap);
        set<float, F>(hi_x, l, c.rate == d.rates - 1 ? 1.0f : overlap);
        set<float, F>(lo_y, l, wall_lo ? -1.0f : -overlap);
        set<float, F>(hi_y, l, wall_hi ? 1.0f : overlap);
      }
      transpose_rows<F>(rows, kRows, zc);
      transpose_rows<F>(polys, kPoly, poly);
      const Climb<F> end = climb<F>(d, zc, poly, x, y, lo_x, hi_x, lo_y, hi_y, 4);
      for (int l = 0; l < F && t0 + l < active; ++l) {
        const int id = s.sorted[t0 + l];
        Candidate& c = list[id];
        const float ex = get<float, F>(end.x, l), ey = get<float, F>(end.y, l);
        const float kh = d.rate_half[c.rate], th = d.delay_half[c.delay];
        c.k = d.rate_centre[c.rate] + kh * ex;
        c.tau = d.delay_centre[c.delay] + th * ey;
        c.v = get<float, F>(end.v, l);
        c.a = get<float, F>(end.a, l);
        c.miss = residual(d, c.delay * d.rates + c.rate, s.z + static_cast<long>(c.voxel) * d.rank,
                          ex, ey, c.v, c.a);
        int rate = c.rate, delay = c.delay;
        if (ex > 1.05f) ++rate;
        if (ex < -1.05f) --rate;
        if (ey > 1.05f) ++delay;
        if (ey < -1.05f) --delay;
        if (rate == c.rate && delay == c.delay) continue;
        c.rate = rate;
        c.delay = delay;
        c.x = d.rate_half[rate] > 0 ? (c.k - d.rate_centre[rate]) / d.rate_half[rate] : 0.0f;
        c.y =
            d.delay_half[delay] > 0 ? (c.tau - d.delay_centre[delay]) / d.delay_half[delay] : 0.0f;
        s.order[next++] = id;
      }
    }
    active = next;
  }
}

// Sum of squares that a refined cell leaves of a voxel: off the basis, and in it.
template <class T, int W, int F>
KETY_FN float left_over(const Dictionary& d, const Scratch<T, W, F>& s, int voxel, float miss) {
  float inside = 0;
  for (int r = 0; r < d.rank; ++r) {
    const float z = s.z[voxel * d.rank + r];
    inside += z * z;
  }
  const float off = static_cast<float>(s.square[voxel]) - inside;
  return (off > 0 ? off : 0) + miss;
}

// Whether the cell's best amplitudes lie on a bound other than 0.
KETY_FN bool pressed(const Dictionary& d, const Candidate& c) {
  return (d.use_v && (c.v >= d.hi_v || (d.lo_v > 0 && c.v <= d.lo_v))) || c.a >= d.hi_a ||
         (d.lo_a > 0 && c.a <= d.lo_a);
}

// One past the last candidate of the voxel of candidate i; `best` is the one that misses least.
KETY_FN int group_end(const Candidate* list, int count, int i, int& best) {
  int end = best = i;
  for (; end < count && list[end].voxel == list[i].voxel; ++end)
    if (list[end].miss < list[best].miss) best = end;
  return end;
}

// A cell can hold a second peak, seldom: one without a vascular term beside one with it, or, in
// data of very little noise, any. Such cells are climbed once more from the other side.
template <class T, int W, int F>
KETY_STAGE int look_again(const Dictionary& d, int count, Scratch<T, W, F>& s) {
  int repeats = 0;
  for (int i = 0, best, end; i < count; i = end) {
    end = group_end(s.candidates, count, i, best);
    const int b = s.candidates[i].voxel;
    const float square = static_cast<float>(s.square[b]);
    const bool clean = left_over(d, s, b, s.candidates[best].miss) < kClean * square;
    for (int q = i; q < end; ++q) {
      const Candidate& c = s.candidates[q];
      const bool empty = d.use_v && c.v <= d.lo_v;
      if (!clean && !empty) continue;
      Candidate& again = s.repeats[repeats];
      s.origin[repeats++] = q;
      again = c;
      const float half = d.rate_half[c.rate];
      again.x = half > 0 ? (c.k - d.rate_centre[c.rate]) / half : 0.0f;
      // A vascular term fills the early samples, so the peak with one lies at a later delay.
      again.y = empty ? 0.8f : c.tau < d.delay_centre[c.delay] ? 0.6f : -0.6f;
      if (empty)
        while (!walled(d, again.delay) && d.delay_centre[again.delay] < c.tau + d.later) {
          ++again.delay;
          again.y = 0;
        }
      if (!clean || q == best) continue;
      // And from the rate of the best cell, which another delay may share.
      Candidate& beside = s.repeats[repeats];
      s.origin[repeats++] = q;
      beside = s.candidates[best];
      beside.delay = c.delay;
      const float best_half = d.rate_half[beside.rate];
      beside.x = best_half > 0 ? (beside.k - d.rate_centre[beside.rate]) / best_half : 0.0f;
      beside.y = 0;
      const int apart = d.band[c.delay] - d.band[s.candidates[best].delay];
      if (apart < -1 || apart > 1) continue;
      // Next to the best, from rates all over their range.
      for (int i2 = 1; i2 <= kRateStarts; ++i2) {
        Candidate& other = s.repeats[repeats];
        s.origin[repeats++] = q;
        other = beside;
        other.rate = d.rates * i2 / (kRateStarts + 1);
        other.x = 0;
      }
    }
  }
  refine<T, W, F>(d, s.repeats, repeats, s);
  for (int i = 0; i < repeats; ++i) {
    Candidate& c = s.candidates[s.origin[i]];
    if (!(s.repeats[i].miss < c.miss)) continue;
    const Candidate worse = c;
    c = s.repeats[i];
    s.repeats[i] = worse;
  }
  return repeats;
}

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
    const T k = s.trial[2 * s.tasks + t];
    int level = 0;
    while (level < kLevels - 1 && k > problem.limit[level]) ++level;
    const int bin = static_cast<int>((static_cast<float>(s.trial[3 * s.tasks + t]) - lo) * rate);
    s.bin[t] = level * kBins + (bin < 0 ? 0 : bin >= kBins ? kBins - 1 : bin);
    ++counts[s.bin[t] + 1];
  }
  for (int i = 0; i < kLevels * kBins; ++i) counts[i + 1] += counts[i];
  for (int i = 0; i <= kLevels; ++i) waiting[i] = counts[i * kBins];
  for (int q = 0; q < active; ++q) s.order[counts[s.bin[s.queue[q]]]++] = s.queue[q];
}

// Exact Levenberg-Marquardt for all tasks of a block.
template <class T, int W, int F, bool Plain>
KETY_STAGE void polish(const FitCall& call, const Problem<T>& problem, int tasks,
                       Scratch<T, W, F>& s) {
  using V = Lanes<T, W>;
  using M = Mask<T, W>;
  constexpr int P = kParameters;
  const V zero = {}, one = zero + T(1);
  const T ftol = static_cast<T>(call.ftol), xtol = static_cast<T>(call.xtol);
  const int n = s.tasks;
  int active = tasks;
  for (int i = 0; i < tasks; ++i) s.queue[i] = i;
  int waiting[kLevels + 1];
  for (int round = 0; round < call.max_evaluations && active > 0; ++round) {
    arrange<T, W, F>(problem, active, s, waiting);
    int next = 0;
    for (int level = 0; level < kLevels; ++level)
      for (int q0 = waiting[level]; q0 < waiting[level + 1]; q0 += W) {
        const int stop = waiting[level + 1];
        int id[W];
        for (int l = 0; l < W; ++l) id[l] = s.order[q0 + l < stop ? q0 + l : q0];
        for (int l = 0; l < W; ++l) {
          const T* y = s.y + static_cast<long>(s.owner[id[l]]) * call.frames;
          for (int j = 0; j < call.frames; ++j) s.tile[j * W + l] = y[j];
        }
        auto gather = [&](const T* from) {
          V v;
          for (int l = 0; l < W; ++l) set<T, W>(v, l, from[id[l]]);
          return v;
        };
        V trial[P];
        for (int i = 0; i < P; ++i) trial[i] = gather(s.trial + i * n);
        Normal<T, W> now;
        evaluate<T, W, Plain>(problem, problem.input[level], trial, s.tile, s.knots, now);
        // Keep the better of the trial and the point before it.
        const V before = gather(s.cost), expected = gather(s.fall);
        V damping = gather(s.damping);
        const M accept = now.cost <= before;
        const V gain = before - now.cost;
        V p[P], g[P], h[kPairs];
        for (int i = 0; i < P; ++i) {
          p[i] = accept ? trial[i] : gather(s.p + i * n);
          g[i] = accept ? now.gradient[i] : gather(s.g + i * n);
        }
        for (int i = 0; i < kPairs; ++i) h[i] = accept ? now.hessian[i] : gather(s.h + i * n);
        const V cost = accept ? now.cost : before,
                plain = accept ? now.unweighted : gather(s.plain),
                offset = accept ? now.offset : gather(s.offset);
        // A step that gained little went too far: Gauss-Newton would swing about the minimum.
        const V less = damping * T(0.1), more = upper(V(damping * T(4)), V(one * T(0.1)));
        damping = accept ? (gain > T(0.75) * expected   ? less
                            : gain > T(0.25) * expected ? damping
                                                        : more)
                         : more;
        damping = damping < T(1e-7) ? one * T(1e-7) : damping;
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
        const V fall = bounded_step<T, W>(problem, p, g, h, damping, lo, hi, step);
        const V square = [&] {
          V v;
          for (int l = 0; l < W; ++l) set<T, W>(v, l, s.square[s.owner[id[l]]]);
          return v;
        }();
        const V floor = ftol * cost + static_cast<T>(call.rounding) * square;
        const V nothing = floor + T(1e3) * static_cast<T>(call.rounding) * square;
        M small = zero == zero;
        for (int i = 0; i < P; ++i) {
          const V size = step[i] < zero ? V(-step[i]) : step[i];
          const V at = p[i] < zero ? V(-p[i]) : p[i];
          small &= size <= xtol * at + static_cast<T>(call.xfloor[i]);
        }
        const M settled = (fall <= floor) | small | (damping > T(1e6));
        for (int l = 0; l < W && q0 + l < stop; ++l) {
          const int t = id[l];
          const bool finished = is_set<T, W>(settled, l);
          // A step that no longer matters is taken only where it was found downhill.
          const bool take = get<T, W>(fall, l) > 0;
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
            s.p[i * n + t] = finished && empty                            ? low
                             : finished && take && is_set<T, W>(small, l) ? to
                                                                          : at;
            s.trial[i * n + t] = to;
            s.g[i * n + t] = get<T, W>(g[i], l);
          }
          for (int i = 0; i < kPairs; ++i) s.h[i * n + t] = get<T, W>(h[i], l);
          s.offset[t] = get<T, W>(offset, l);
          if (!Plain && is_set<T, W>(accept, l))
            for (int i = 0; i < P; ++i) s.slope[i * n + t] = get<T, W>(now.slope[i], l);
          // The last step is taken without another evaluation; its fall is known well enough.
          T left = get<T, W>(cost, l), share = 1;
          if (finished && take && is_set<T, W>(small, l) && left > 0) {
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
          if (!finished) s.queue[next++] = t;
        }
      }
    active = next;
  }
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
      bool at_bound = false, undetermined = false, gone[P];
      int freed = 0;
      unsigned missing = 0;
      for (int i = 0; i < P; ++i) {
        const bool loose = is_set<T, W>(lost[i], l), stopped = is_set<T, W>(bound[i], l);
        undetermined |= loose;
        at_bound |= stopped && !problem.fixed[i];
        freed += !problem.fixed[i];
        gone[i] = loose || stopped;
        par[o * P + i] = s.p[i * s.tasks + t];
        if (loose) missing |= 1u << i;
      }
      const int spare = call.frames_used - freed - (call.baseline ? 1 : 0);
      const T noise = spare > 0 ? s.cost[t] / static_cast<T>(spare) : nan;
      for (int i = 0; i < P; ++i)
        for (int j = 0; j <= i; ++j)
          cov[o * kPairs + pair(i, j)] =
              gone[i] || gone[j] ? nan : noise * get<T, W>(c[pair(i, j)], l);
      if (call.baseline) {
        // Var(b) = s^2 / sum w + m' Cov m, with m the weighted mean of the Jacobian's rows.
        T variance = noise / static_cast<T>(call.weight_sum);
        for (int i = 0; i < P; ++i)
          for (int j = 0; j < P; ++j)
            if (!gone[i] && !gone[j])
              variance += s.slope[i * s.tasks + t] * s.slope[j * s.tasks + t] *
                          cov[o * kPairs + pair(i, j)] /
                          static_cast<T>(call.weight_sum * call.weight_sum);
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
                               : at_bound           ? kAtBound
                                                    : kConverged;
    }
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
    const int b = s.candidates[i].voxel;
    const float square = static_cast<float>(s.square[b]);
    const float rest = left_over(d, s, b, s.candidates[best].miss);
    if (call.enhancement > 0 && !(square - rest > call.enhancement * rest)) {
      status[b] = kNotEnhancing;
      continue;
    }
    // Minima too close to call, for the voxel's noise or the dictionary, are all solved exactly.
    const float unsure = rest < kClean * square ? kCleanError : call.dictionary_error;
    // An amplitude held at a tight bound makes the climb's end less sure.
    auto limit = [&](const Candidate& c) {
      const bool held = !d.plain && (pressed(d, c) || pressed(d, s.candidates[best]));
      const float share = held && call.rival < kPressed ? kPressed : call.rival;
      return s.candidates[best].miss + share * rest + unsure * square;
    };
    for (int q = i; q < end; ++q)
      if (q == best || s.candidates[q].miss <= limit(s.candidates[q]))
        add_task(d, problem, s.candidates[q], tasks++, s);
    while (repeat < repeats && s.repeats[repeat].voxel < b) ++repeat;
    for (; repeat < repeats && s.repeats[repeat].voxel == b; ++repeat)
      if (s.repeats[repeat].miss <= limit(s.repeats[repeat]))
        add_task(d, problem, s.repeats[repeat], tasks++, s);
  }
  polish<T, W, F, Plain>(call, problem, tasks, s);
  for (int t = 0; t < tasks; ++t) {
    int& f = s.first[s.owner[t]];
    if (f < 0) {
      f = t;
    } else {
      const int spent = s.evaluations[f] + s.evaluations[t];
      if (s.cost[t] < s.cost[f]) f = t;
      s.evaluations[f] = spent;
    }
  }
  write_block<T, W, F>(call, problem, start, n, s, status);
}

}  // namespace KETY_NS
