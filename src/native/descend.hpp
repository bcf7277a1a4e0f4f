// Descent of pairs of exponentials in the dictionary: the two rates and the delay by a damped
// Gauss-Newton on the few products of a curve with the basis (taylor_rows.hpp), the amplitudes
// eliminated, so that a step costs a tenth of an exact evaluation. D voxels go side by side,
// as many as a register holds and one for a card's thread; each goes through its own starts, the
// most promising first, and gives up those that can no longer win.
#pragma once
#include "ends.hpp"
#include "taylor_rows.hpp"

namespace KETY_NS {

// The parts of a step: on a card in one piece with the loop around them, since what functions apart
// pass to each other lies in memory.
#ifdef KETY_CUDA
#define KETY_STEP KETY_FN
#else
#define KETY_STEP KETY_STAGE
#endif

// Where D descents stand.
template <int D>
struct Descents {
  using V = Lanes<float, D>;
  V k1, k2, tau;                    // to be tried
  V best, fast, slow, delay, x, y;  // the best so far: residual, rates, delay, amplitudes
  V damping, expected, steps;
  V g[3], h[6];
  V walled, band_lo, band_hi;
  Lanes<int, D> first_cell, last_cell;  // those of the band's delays
  V off, square,
      top;  // of the voxel: what lies off the basis, all, and the least left so far
};

// Amplitudes of both curves, not negative.
template <int D>
struct Amplitudes {
  using V = Lanes<float, D>;
  using M = Mask<float, D>;
  V a, b, inverse;  // inverse of the determinant
  M both, only_first;
};

template <int D>
KETY_FN Amplitudes<D> amplitudes_of(const Lanes<float, D>* in) {
  using V = Lanes<float, D>;
  using M = Mask<float, D>;
  const V zero = {};
  const V &g11 = in[pair(kU1, kU1)], &g22 = in[pair(kU2, kU2)], &g12 = in[pair(kU1, kU2)],
          &b1 = in[pair(kU1, kZ)], &b2 = in[pair(kU2, kZ)];
  Amplitudes<D> r;
  const V det = less_product(V(g11 * g22), g12, g12);
  const M regular = det > 1e-6f * g11 * g22;
  r.inverse = regular ? 1 / det : zero;
  r.a = less_product(V(b1 * g22), b2, g12) * r.inverse;
  r.b = less_product(V(b2 * g11), b1, g12) * r.inverse;
  r.both = (r.a > 0) & (r.b > 0);
  const V one = ((b1 > 0) & (g11 > 0)) ? b1 / g11 : zero,
          two = ((b2 > 0) & (g22 > 0)) ? b2 / g22 : zero;
  r.only_first = one * b1 >= two * b2;
  r.a = r.both ? r.a : r.only_first ? one : zero;
  r.b = r.both ? r.b : r.only_first ? zero : two;
  return r;
}

// Gradient and Gauss-Newton matrix in (transit time of the faster term, slower rate, delay). The
// amplitudes follow, so that what of a column lies along the curves does not count.
template <int D>
KETY_STEP void linearise(const Lanes<float, D>* in, const Amplitudes<D>& at, bool slow_held,
                         const Mask<float, D>& accept, Descents<D>& s) {
  using V = Lanes<float, D>;
  using M = Mask<float, D>;
  auto with = [&](int i, int j) -> const V& { return in[pair(i, j)]; };
  const V zero = {}, &a = at.a, &b = at.b;
  const V &g11 = with(kU1, kU1), &g22 = with(kU2, kU2), &g12 = with(kU1, kU2);
  auto by_tau = [&](int v) -> V {
    return add_product(V(b * with(kDelay2, v)), a, with(kDelay1, v));
  };
  const V slower = slow_held ? zero : b, faster = -s.k1 * s.k1 * a;
  V p[3] = {faster * with(kRate1, kU1), slower * with(kRate2, kU1), by_tau(kU1)};
  V q[3] = {faster * with(kRate1, kU2), slower * with(kRate2, kU2), by_tau(kU2)};
  V z[3] = {faster * with(kRate1, kZ), slower * with(kRate2, kZ), by_tau(kZ)};
  const V tau_tau = add_product(V(b * by_tau(kDelay2)), a, by_tau(kDelay1));
  // Packed lower triangle.
  V c[6] = {faster * faster * with(kRate1, kRate1),
            faster * slower * with(kRate1, kRate2),
            slower * slower * with(kRate2, kRate2),
            faster * by_tau(kRate1),
            slower * by_tau(kRate2),
            tau_tau};
  const V along = less_product(less_product(z[2], a, p[2]), b, q[2]);
  // Along the transit time of the faster term its mean arrival stays, since a valley that is bent
  // in the rates is straight so; at a wall the delay stays instead.
  const M wall = (s.band_hi <= s.band_lo) | ((s.tau <= s.band_lo) & (along < 0)) |
                 ((s.tau >= s.band_hi) & (along > 0));
  s.walled = accept ? (wall ? zero + 1 : zero) : s.walled;
  const V shift = wall ? zero : zero + 1;
  p[0] -= shift * p[2];
  q[0] -= shift * q[2];
  z[0] -= shift * z[2];
  c[0] += shift * (tau_tau - 2 * c[3]);
  c[1] -= shift * c[4];
  c[3] -= shift * tau_tau;
  const V inverse_1 = g11 > 0 ? 1 / g11 : zero, inverse_2 = g22 > 0 ? 1 / g22 : zero;
  for (int i = 0; i < 3; ++i) {
    const V gi = less_product(less_product(z[i], a, p[i]), b, q[i]);
    s.g[i] = accept ? gi : s.g[i];
    for (int j = 0; j <= i; ++j) {
      const V pj = less_product(V(p[j] * g22), q[j], g12),
              qj = less_product(V(q[j] * g11), p[j], g12);
      const V two = add_product(V(q[i] * qj), p[i], pj) * at.inverse;
      const V shared = at.both         ? two
                       : at.only_first ? p[i] * p[j] * inverse_1
                                       : q[i] * q[j] * inverse_2;
      const V own = c[pair(i, j)];
      V rest = own - shared;
      // Of a column that lies along the curves rounding may leave less than nothing.
      if (i == j) rest = rest < 1e-6f * own ? zero : rest;
      V& to = s.h[pair(i, j)];
      to = accept ? rest : to;
    }
  }
}

// The next point to try, from the best one, and what it should gain.
template <int D>
KETY_STEP void next_point(bool slow_held, float fastest, float slowest, Descents<D>& s) {
  using V = Lanes<float, D>;
  using M = Mask<float, D>;
  const V zero = {}, one = zero + 1;
  const V t1 = 1 / s.fast;
  const M walled = s.walled > 0;
  M held[3];
  held[0] = ((s.fast >= fastest) & (s.g[0] < 0)) | (s.h[0] <= 0);
  held[1] = ((s.slow <= slowest) & (s.g[1] < 0)) | (s.h[2] <= 0);
  held[2] = walled | (s.h[5] <= 0);
  if (slow_held) held[1] = zero == zero;
  V m[6], r[3];
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < i; ++j) m[pair(i, j)] = (held[i] | held[j]) ? zero : s.h[pair(i, j)];
    const V& own = s.h[pair(i, i)];
    m[pair(i, i)] = held[i] ? one : own * (1 + s.damping);
    r[i] = held[i] ? zero : s.g[i];
  }
  // By elimination; a pivot that rounding took leaves its parameter where it is.
  auto inverse = [&](const V& d) -> V { return d > 1e-30f ? 1 / d : zero; };
  const V i0 = inverse(m[0]), f1 = m[1] * i0, f2 = m[3] * i0;
  const V d1 = less_product(m[2], f1, m[1]), e = less_product(m[4], f2, m[1]), i1 = inverse(d1),
          f3 = e * i1;
  const V d2 = less_product(less_product(m[5], f2, m[3]), f3, e);
  const V r1 = less_product(r[1], f1, r[0]),
          r2 = less_product(less_product(r[2], f2, r[0]), f3, r1);
  V step[3];
  step[2] = r2 * inverse(d2);
  step[1] = less_product(r1, e, step[2]) * i1;
  step[0] = less_product(less_product(r[0], m[1], step[1]), m[3], step[2]) * i0;
  s.expected = zero;
  for (int i = 0; i < 3; ++i) {
    V row = 2 * s.g[i];
    for (int j = 0; j < 3; ++j) row = less_product(row, s.h[pair(i, j)], step[j]);
    s.expected = add_product(s.expected, step[i], row);
  }
  V t = t1 + step[0];
  t = lower(upper(t, V(0.3f * t1)), V(3 * t1));
  s.k1 = lower(V(1 / t), zero + fastest);
  s.k2 = lower(upper(V(s.slow + step[1]), zero + slowest), V(0.95f * s.k1));
  s.tau = s.delay + step[2] + (walled ? zero : V(t1 - 1 / s.k1));
  s.tau = lower(upper(s.tau, s.band_lo), s.band_hi);
}

// Descents of the voxels that `next_voxel` tells, until it has no more.
template <int D, class Next>
KETY_FN void descend_voxels(const DescentCall& call, const Next& next_voxel) {
  using V = Lanes<float, D>;
  using I = Lanes<int, D>;
  using M = Mask<float, D>;
  const float fastest = call.rate_edge[call.rates], slowest = call.rate_edge[0];
  Descents<D> s = {};
  Ends ends[D] = {};
  Row16 z[D];
  int running = 0;
  bool live[D] = {};
  // The voxel's next start that has a node, or the next voxel.
  auto begin_next = [&](int l) {
    auto put = [l](V& to, float x) { set<float, D>(to, l, x); };
    for (;;) {
      Ends& e = ends[l];
      if (live[l]) {
        if (++e.start < call.candidates && call.pair[e.voxel * call.candidates + e.start] >= 0)
          break;
        write_ends(call, get<float, D>(s.square, l), e);
        live[l] = false;
        --running;
      }
      if (!next_voxel(e.voxel)) return;
      e.start = -1;
      e.count = 0;
      put(s.top, 3e38f);
      live[l] = true;
      ++running;
      float padded[kWidth] = {}, own = 0;
      for (int r = 0; r < call.rank && r < kWidth; ++r) {
        padded[r] = call.z[e.voxel * call.rank + r];
        own += padded[r] * padded[r];
      }
      for (int k = 0; k < kParts; ++k) z[l].part[k] = load<float, kPart>(padded + k * kPart);
      const float square = call.square[e.voxel];
      put(s.square, square);
      put(s.off, square > own ? square - own : 0.0f);
    }
    Ends& e = ends[l];
    const int pair = call.pair[e.voxel * call.candidates + e.start];
    const int cell = call.cell[call.group_of[pair]];
    put(s.k1, call.fast_of[pair]);
    put(s.k2, call.slow_of[pair]);
    put(s.tau, call.delay_centre[cell]);
    put(s.band_lo, call.band_lo[cell]);
    put(s.band_hi, call.band_hi[cell]);
    int first = cell, last = cell;
    while (first > 0 && call.delay_centre[first - 1] >= call.band_lo[cell]) --first;
    while (last < call.delays - 1 && call.delay_centre[last + 1] <= call.band_hi[cell]) ++last;
    set<int, D>(s.first_cell, l, first);
    set<int, D>(s.last_cell, l, last);
    put(s.best, 3e38f);
    put(s.damping, 1e-2f);
    put(s.expected, 0);
    put(s.steps, 0);
  };
  for (int l = 0; l < D; ++l) {
    set<float, D>(s.k1, l, 1);
    set<float, D>(s.k2, l, 1);
    begin_next(l);
  }
  while (running > 0) {
    const I fast_cell = cells_of<D>(call.rate_edge, call.rates, s.k1),
            slow_cell = cells_of<D>(call.rate_edge, call.rates, s.k2);
    I cell = cells_of<D>(call.delay_edge, call.delays, s.tau);
    // Cells do not share the curves of both sides of a jump.
    cell = cell > s.last_cell ? s.last_cell : cell;
    cell = cell < s.first_cell ? s.first_cell : cell;
    const float *fast_rows[D], *slow_rows[D];
    V fast_centre, fast_half, slow_centre, slow_half, tau_centre, tau_half;
    for (int l = 0; l < D; ++l) {
      const int f = get<int, D>(fast_cell, l), g = get<int, D>(slow_cell, l),
                c = get<int, D>(cell, l);
      const float* rows = call.table + static_cast<long>(c) * call.rates * kTaylorRows * kWidth;
      fast_rows[l] = rows + f * kTaylorRows * kWidth;
      slow_rows[l] = rows + g * kTaylorRows * kWidth;
      set<float, D>(fast_centre, l, call.rate_centre[f]);
      set<float, D>(fast_half, l, call.rate_half[f]);
      set<float, D>(slow_centre, l, call.rate_centre[g]);
      set<float, D>(slow_half, l, call.rate_half[g]);
      set<float, D>(tau_centre, l, call.delay_centre[c]);
      set<float, D>(tau_half, l, call.delay_half[c]);
    }
    Monomials<D> fast, slow;
    monomials_at<D>(s.k1, fast_centre, fast_half, s.tau, tau_centre, tau_half, fast);
    monomials_at<D>(s.k2, slow_centre, slow_half, s.tau, tau_centre, tau_half, slow);
    PairCurves<D> curves;
    pair_curves<D>(fast_rows, slow_rows, fast, slow, z, live, curves);
    const Amplitudes<D> at = amplitudes_of<D>(curves.in);
    // The residual itself, since the difference of the products would lose what noise leaves.
    Row16 rest[D];
    for (int l = 0; l < D; ++l)
      rest[l] =
          rest_of(z[l], get<float, D>(at.a, l), curves.u1[l], get<float, D>(at.b, l), curves.u2[l]);
    const V cost = squares_of<D>(rest);
    const M accept = cost < s.best, started = s.steps > 0;
    const V fall = s.best - cost;
    s.damping = started ? next_damping<float, D>(accept, fall, s.expected, s.damping) : s.damping;
    s.best = accept ? cost : s.best;
    s.fast = accept ? s.k1 : s.fast;
    s.slow = accept ? s.k2 : s.slow;
    s.delay = accept ? s.tau : s.delay;
    s.x = accept ? at.a : s.x;
    s.y = accept ? at.b : s.y;
    const V total = s.best + s.off;
    M done = (accept & started & (fall < call.flat * total)) | (s.damping > 1e4f) |
             (s.steps >= static_cast<float>(call.iterations));
    linearise<D>(curves.in, at, call.slow_held, accept, s);
    next_point<D>(call.slow_held, fastest, slowest, s);
    done |= none_of(s.expected > 0.1f * call.flat * total);
    // What the quadratic promises, several times over, would not suffice.
    const M hopeless =
        started & (s.damping <= 0.02f) &
        (total - call.trust * s.expected > s.top * (1 + call.rival) + call.clean_unsure * s.square);
    s.steps += 1;
    for (int l = 0; l < D; ++l) {
      if (!live[l]) continue;
      Ends& e = ends[l];
      const bool given_up = is_set<float, D>(hopeless, l);
      const float fast_now = get<float, D>(s.fast, l), slow_now = get<float, D>(s.slow, l),
                  delay = get<float, D>(s.delay, l), band = get<float, D>(s.band_lo, l),
                  left = get<float, D>(total, l), top = get<float, D>(s.top, l);
      bool over = given_up || is_set<float, D>(done, l);
      if (!over)
        for (int q = 0; q < e.count; ++q)
          over |= is_same(fast_now, slow_now, delay, band, e.end[q]);
      if (!over) continue;
      if (e.count < kMostEnds && !given_up)
        e.end[e.count++] = {fast_now,
                            slow_now,
                            delay,
                            get<float, D>(s.x, l),
                            get<float, D>(s.y, l),
                            left,
                            call.group_of[call.pair[e.voxel * call.candidates + e.start]],
                            band};
      set<float, D>(s.top, l, left < top ? left : top);
      begin_next(l);
    }
  }
}

template <int D>
void descend_range(const DescentCall& call, long begin, long end) {
  descend_voxels<D>(call, [&](long& voxel) {
    if (begin >= end) return false;
    voxel = begin++;
    return true;
  });
}

}  // namespace KETY_NS
