// The search for a voxel's starts: delay cells chosen from the scan, refined, some of them twice.
#pragma once
#include "scratch.hpp"

namespace KETY_NS {
// The cells worth refining: peaks of the explained sum of squares along the delay.
template <class T, int W, int F>
KETY_STAGE int choose(const FitCall& call, const Dictionary& d, int n, Scratch<T, W, F>& s,
                      const unsigned char* status) {
  using V = Lanes<float, F>;
  using I = Lanes<int, F>;
  using M = Mask<float, F>;
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
    const M faint = left <= kFaint * square;
    const V ratio =
        faint ? V{} + kFaintRatio : V{} + (d.plain ? call.candidate_ratio : kBoundedRatio);
    const V floor = square - upper(V(ratio * left), V(kCentreError * square));
    for (int m = 0; m < d.delays; ++m) {
      const V e = load<float, F>(s.best + m * F);
      const I apart = band - d.band[m];
      const V least = alone(d, m)
                          ? V(square - upper(V(V{} + kAloneRatio * left), V(kCentreError * square)))
                          : floor;
      M keep = (e >= least) | (faint & (apart >= -1) & (apart <= 1));
      if (m > 0 && d.band[m - 1] == d.band[m]) keep &= load<float, F>(s.best + (m - 1) * F) <= e;
      if (m < d.delays - 1 && d.band[m + 1] == d.band[m])
        keep &= load<float, F>(s.best + (m + 1) * F) < e;
      (m < 32 ? low : high) |= keep ? I{} + static_cast<int>(1u << (m % 32)) : I{};
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

// One climb of up to F candidates inside their cells. Where it leaves its cell, a candidate is put
// into the next and `moved` is set.
template <int F>
KETY_FN void climb_cells(const Dictionary& d, Candidate* list, const int* ids, int n,
                         const float* all_z, bool* moved) {
  using V = Lanes<float, F>;
  constexpr int R = F > 1 && F < kRowsPadded ? F : kRowsPadded;
  using Row = Lanes<float, R>;
  float products[F][kRowsPadded];
  const float *rows[F], *polys[F];
  V x, y, lo_x, hi_x, lo_y, hi_y, zc[kRows], poly[kPoly];
  for (int l = 0; l < F; ++l) {
    const Candidate& c = list[ids[l < n ? l : 0]];
    const int node = c.delay * d.rates + c.rate;
    const float* table = d.table + static_cast<long>(node) * d.rank * kRowsPadded;
    const float* z = all_z + static_cast<long>(c.voxel) * d.rank;
    for (int from = 0; from < kRowsPadded; from += R) {
      Row sum[4] = {};  // four chains: their latency, not their number, is the cost
      for (int r = 0; r < d.rank; r += 4)
        for (int i = 0; i < 4; ++i)
          sum[i] =
              add_product(sum[i], z[r + i], load<float, R>(table + (r + i) * kRowsPadded + from));
      store<float, R>(products[l] + from, (sum[0] + sum[1]) + (sum[2] + sum[3]));
    }
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
  for (int l = 0; l < F && l < n; ++l) {
    Candidate& c = list[ids[l]];
    const float ex = get<float, F>(end.x, l), ey = get<float, F>(end.y, l);
    const float kh = d.rate_half[c.rate], th = d.delay_half[c.delay];
    c.k = d.rate_centre[c.rate] + kh * ex;
    c.tau = d.delay_centre[c.delay] + th * ey;
    c.v = get<float, F>(end.v, l);
    c.a = get<float, F>(end.a, l);
    c.miss = residual(d, c.delay * d.rates + c.rate, all_z + static_cast<long>(c.voxel) * d.rank,
                      ex, ey, c.v, c.a);
    int rate = c.rate, delay = c.delay;
    if (ex > 1.05f) ++rate;
    if (ex < -1.05f) --rate;
    if (ey > 1.05f) ++delay;
    if (ey < -1.05f) --delay;
    moved[l] = rate != c.rate || delay != c.delay;
    if (!moved[l]) continue;
    c.rate = rate;
    c.delay = delay;
    c.x = d.rate_half[rate] > 0 ? (c.k - d.rate_centre[rate]) / d.rate_half[rate] : 0.0f;
    c.y = d.delay_half[delay] > 0 ? (c.tau - d.delay_centre[delay]) / d.delay_half[delay] : 0.0f;
  }
}

// Refinement inside cells, walking to a neighbour where the climb leaves its cell.
template <class T, int W, int F>
KETY_STAGE void refine(const Dictionary& d, Candidate* list, int count, Scratch<T, W, F>& s) {
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
      const int n = active - t0 < F ? active - t0 : F;
      bool moved[F];
      climb_cells<F>(d, list, s.sorted + t0, n, s.z, moved);
      for (int l = 0; l < n; ++l)
        if (moved[l]) s.order[next++] = s.sorted[t0 + l];
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
// data of very little noise, any. Such cells of a voxel, whose candidates are i to end, are climbed
// once more from the other side; add(q) gives the place of one that stands for candidate q.
template <class T, int W, int F, class Add>
KETY_FN void climbs_again(const Dictionary& d, const Scratch<T, W, F>& s, int i, int end, int best,
                          const Add& add) {
  const int b = s.candidates[i].voxel;
  const float square = static_cast<float>(s.square[b]);
  const bool clean = left_over(d, s, b, s.candidates[best].miss) < kClean * square;
  for (int q = i; q < end; ++q) {
    const Candidate c = s.candidates[q];
    const bool empty = d.use_v && c.v <= d.lo_v;
    if (!clean && !empty) continue;
    Candidate& again = add(q);
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
    Candidate beside = s.candidates[best];
    const int apart = d.band[c.delay] - d.band[beside.delay];
    beside.delay = c.delay;
    const float best_half = d.rate_half[beside.rate];
    beside.x = best_half > 0 ? (beside.k - d.rate_centre[beside.rate]) / best_half : 0.0f;
    beside.y = 0;
    add(q) = beside;
    if (apart < -1 || apart > 1) continue;
    // Next to the best, from rates all over their range.
    for (int i2 = 1; i2 <= kRateStarts; ++i2) {
      beside.rate = d.rates * i2 / (kRateStarts + 1);
      beside.x = 0;
      add(q) = beside;
    }
  }
}

// The better of a candidate and a climb that stands for it becomes the candidate.
KETY_FN void keep_better(Candidate& kept, Candidate& again) {
  if (!(again.miss < kept.miss)) return;
  const Candidate worse = kept;
  kept = again;
  again = worse;
}

template <class T, int W, int F>
KETY_STAGE int look_again(const Dictionary& d, int count, Scratch<T, W, F>& s) {
  int repeats = 0;
  for (int i = 0, best, end; i < count; i = end) {
    end = group_end(s.candidates, count, i, best);
    climbs_again(d, s, i, end, best, [&](int q) -> Candidate& {
      s.origin[repeats] = q;
      return s.repeats[repeats++];
    });
  }
  refine<T, W, F>(d, s.repeats, repeats, s);
  for (int i = 0; i < repeats; ++i) keep_better(s.candidates[s.origin[i]], s.repeats[i]);
  return repeats;
}

}  // namespace KETY_NS
