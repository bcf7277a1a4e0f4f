// Descent of pairs of exponentials in the dictionary: the two rates and the delay by a damped
// Gauss-Newton on the few products of a curve with the basis (taylor_rows.hpp), the amplitudes
// eliminated, so that a step costs a tenth of an exact evaluation. Sixteen voxels go side by side;
// each goes through its own starts, the most promising first, and gives up those that can no longer
// win.
#pragma once
#include "taylor_rows.hpp"

namespace KETY_NS {

constexpr int kDescents = 16, kMostEnds = 16;
// The algebra of a step, for sixteen descents at once.
using Lanes16 = Lanes<float, kDescents>;
using Mask16 = Mask<float, kDescents>;
using Cells16 = Lanes<int, kDescents>;

// Where sixteen descents stand.
struct Descents {
  Lanes16 k1, k2, tau;                    // to be tried
  Lanes16 best, fast, slow, delay, x, y;  // the best so far: residual, rates, delay, amplitudes
  Lanes16 damping, expected, steps;
  Lanes16 g[3], h[6];
  Lanes16 walled, band_lo, band_hi;
  Cells16 first_cell, last_cell;  // those of the band's delays
  Lanes16 off, square,
      top;  // of the voxel: what lies off the basis, all, and the least left so far
};

// Amplitudes of both curves, not negative.
struct Amplitudes {
  Lanes16 a, b, inverse;  // inverse of the determinant
  Mask16 both, only_first;
};

enum { kU1, kU2, kRate1, kRate2, kDelay1, kDelay2, kZ };

KETY_FN Amplitudes amplitudes_of(const Lanes16* in) {
  const Lanes16 zero = {};
  const Lanes16 &g11 = in[pair(kU1, kU1)], &g22 = in[pair(kU2, kU2)], &g12 = in[pair(kU1, kU2)],
                &b1 = in[pair(kU1, kZ)], &b2 = in[pair(kU2, kZ)];
  Amplitudes r;
  const Lanes16 det = g11 * g22 - g12 * g12;
  const Mask16 regular = det > 1e-6f * g11 * g22;
  r.inverse = regular ? 1 / det : zero;
  r.a = (b1 * g22 - b2 * g12) * r.inverse;
  r.b = (b2 * g11 - b1 * g12) * r.inverse;
  r.both = (r.a > 0) & (r.b > 0);
  const Lanes16 one = ((b1 > 0) & (g11 > 0)) ? b1 / g11 : zero,
                two = ((b2 > 0) & (g22 > 0)) ? b2 / g22 : zero;
  r.only_first = one * b1 >= two * b2;
  r.a = r.both ? r.a : r.only_first ? one : zero;
  r.b = r.both ? r.b : r.only_first ? zero : two;
  return r;
}

// Gradient and Gauss-Newton matrix in (transit time of the faster term, slower rate, delay). The
// amplitudes follow, so that what of a column lies along the curves does not count.
KETY_STAGE void linearise(const Lanes16* in, const Amplitudes& at, bool slow_held,
                          const Mask16& accept, Descents& s) {
  auto with = [&](int i, int j) -> const Lanes16& { return in[pair(i, j)]; };
  const Lanes16 zero = {}, &a = at.a, &b = at.b;
  const Lanes16 &g11 = with(kU1, kU1), &g22 = with(kU2, kU2), &g12 = with(kU1, kU2);
  auto by_tau = [&](int v) -> Lanes16 { return a * with(kDelay1, v) + b * with(kDelay2, v); };
  const Lanes16 slower = slow_held ? zero : b, faster = -s.k1 * s.k1 * a;
  Lanes16 p[3] = {faster * with(kRate1, kU1), slower * with(kRate2, kU1), by_tau(kU1)};
  Lanes16 q[3] = {faster * with(kRate1, kU2), slower * with(kRate2, kU2), by_tau(kU2)};
  Lanes16 z[3] = {faster * with(kRate1, kZ), slower * with(kRate2, kZ), by_tau(kZ)};
  const Lanes16 tau_tau = a * by_tau(kDelay1) + b * by_tau(kDelay2);
  // Packed lower triangle.
  Lanes16 c[6] = {faster * faster * with(kRate1, kRate1),
                  faster * slower * with(kRate1, kRate2),
                  slower * slower * with(kRate2, kRate2),
                  faster * by_tau(kRate1),
                  slower * by_tau(kRate2),
                  tau_tau};
  const Lanes16 along = z[2] - a * p[2] - b * q[2];
  // Along the transit time of the faster term its mean arrival stays, since a valley that is bent
  // in the rates is straight so; at a wall the delay stays instead.
  const Mask16 wall = (s.band_hi <= s.band_lo) | ((s.tau <= s.band_lo) & (along < 0)) |
                      ((s.tau >= s.band_hi) & (along > 0));
  s.walled = accept ? (wall ? zero + 1 : zero) : s.walled;
  const Lanes16 shift = wall ? zero : zero + 1;
  p[0] -= shift * p[2];
  q[0] -= shift * q[2];
  z[0] -= shift * z[2];
  c[0] += shift * (tau_tau - 2 * c[3]);
  c[1] -= shift * c[4];
  c[3] -= shift * tau_tau;
  const Lanes16 inverse_1 = g11 > 0 ? 1 / g11 : zero, inverse_2 = g22 > 0 ? 1 / g22 : zero;
  for (int i = 0; i < 3; ++i) {
    const Lanes16 gi = z[i] - a * p[i] - b * q[i];
    s.g[i] = accept ? gi : s.g[i];
    for (int j = 0; j <= i; ++j) {
      const Lanes16 two =
          (p[i] * (p[j] * g22 - q[j] * g12) + q[i] * (q[j] * g11 - p[j] * g12)) * at.inverse;
      const Lanes16 shared = at.both         ? two
                             : at.only_first ? p[i] * p[j] * inverse_1
                                             : q[i] * q[j] * inverse_2;
      const Lanes16 own = c[pair(i, j)];
      Lanes16 rest = own - shared;
      // Of a column that lies along the curves rounding may leave less than nothing.
      if (i == j) rest = rest < 1e-6f * own ? zero : rest;
      Lanes16& to = s.h[pair(i, j)];
      to = accept ? rest : to;
    }
  }
}

// The next point to try, from the best one, and what it should gain.
KETY_STAGE void next_point(bool slow_held, float fastest, float slowest, Descents& s) {
  const Lanes16 zero = {}, one = zero + 1;
  const Lanes16 t1 = 1 / s.fast;
  const Mask16 walled = s.walled > 0;
  Mask16 held[3] = {((s.fast >= fastest) & (s.g[0] < 0)) | (s.h[0] <= 0),
                    ((s.slow <= slowest) & (s.g[1] < 0)) | (s.h[2] <= 0), walled | (s.h[5] <= 0)};
  if (slow_held) held[1] = zero == zero;
  Lanes16 m[6], r[3];
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < i; ++j) m[pair(i, j)] = (held[i] | held[j]) ? zero : s.h[pair(i, j)];
    const Lanes16& own = s.h[pair(i, i)];
    m[pair(i, i)] = held[i] ? one : own * (1 + s.damping);
    r[i] = held[i] ? zero : s.g[i];
  }
  // By elimination; a pivot that rounding took leaves its parameter where it is.
  auto inverse = [&](const Lanes16& d) -> Lanes16 { return d > 1e-30f ? 1 / d : zero; };
  const Lanes16 i0 = inverse(m[0]), f1 = m[1] * i0, f2 = m[3] * i0;
  const Lanes16 d1 = m[2] - f1 * m[1], e = m[4] - f2 * m[1], i1 = inverse(d1), f3 = e * i1;
  const Lanes16 d2 = m[5] - f2 * m[3] - f3 * e;
  const Lanes16 r1 = r[1] - f1 * r[0], r2 = r[2] - f2 * r[0] - f3 * r1;
  Lanes16 step[3];
  step[2] = r2 * inverse(d2);
  step[1] = (r1 - e * step[2]) * i1;
  step[0] = (r[0] - m[1] * step[1] - m[3] * step[2]) * i0;
  s.expected = zero;
  for (int i = 0; i < 3; ++i) {
    Lanes16 row = 2 * s.g[i];
    for (int j = 0; j < 3; ++j) row -= s.h[pair(i, j)] * step[j];
    s.expected += step[i] * row;
  }
  Lanes16 t = t1 + step[0];
  t = lower(upper(t, Lanes16(0.3f * t1)), Lanes16(3 * t1));
  s.k1 = lower(Lanes16(1 / t), zero + fastest);
  s.k2 = lower(upper(Lanes16(s.slow + step[1]), zero + slowest), Lanes16(0.95f * s.k1));
  s.tau = s.delay + step[2] + (walled ? zero : Lanes16(t1 - 1 / s.k1));
  s.tau = lower(upper(s.tau, s.band_lo), s.band_hi);
}

// What one of the sixteen voxels has found.
struct Ends {
  long voxel;
  int start, count;
  struct End {
    float fast, slow, delay, x, y, left;
    int group;
    float band;  // its lower wall
  } end[kMostEnds];
};

KETY_FN bool is_beside(float x, float y, float floor) {
  return __builtin_fabsf(x - y) <= 0.02f * __builtin_fabsf(y) + floor;
}
KETY_FN bool is_same(float fast, float slow, float delay, float band, const Ends::End& e) {
  // Minima on both sides of a wall are two.
  return band == e.band && is_beside(fast, e.fast, 1e-3f) && is_beside(slow, e.slow, 1e-4f) &&
         is_beside(delay, e.delay, 0.05f);
}

// The ends of a voxel that are too close to its best to call, each minimum once.
KETY_STAGE void write_ends(const DescentCall& call, float square, Ends& ends) {
  for (int i = 1; i < ends.count; ++i)  // the best first
    for (int j = i; j > 0 && ends.end[j].left < ends.end[j - 1].left; --j) {
      const Ends::End other = ends.end[j];
      ends.end[j] = ends.end[j - 1];
      ends.end[j - 1] = other;
    }
  const long out = ends.voxel * call.candidates;
  int kept = 0, chosen[kMostEnds];
  for (int i = 0; i < ends.count; ++i) {
    const Ends::End& e = ends.end[i];
    // Of a curve of almost no noise the dictionary's own error decides.
    const float unsure = e.left < call.clean * square ? call.clean_unsure : call.unsure;
    if (!(e.left <= ends.end[0].left * (1 + call.rival) + unsure * square)) continue;
    bool again = false;
    for (int q = 0; q < kept; ++q)
      again |= is_same(e.fast, e.slow, e.delay, e.band, ends.end[chosen[q]]);
    if (again) continue;
    chosen[kept] = i;
    const long o = out + kept++;
    call.group[o] = e.group;
    call.fast[o] = e.fast;
    call.slow[o] = e.slow;
    call.delay[o] = e.delay;
    call.x[o] = e.x;
    call.y[o] = e.y;
    call.left[o] = e.left;
  }
  for (; kept < call.candidates; ++kept) call.group[out + kept] = -1;
}

inline void descend_range(const DescentCall& call, long begin, long end) {
  const float fastest = call.rate_edge[call.rates], slowest = call.rate_edge[0];
  const Lanes16 zero = {};
  Descents s = {};
  Ends ends[kDescents] = {};
  Row16 z[kDescents];
  long next = begin;
  int running = 0;
  bool live[kDescents] = {};
  // The voxel's next start that has a node, or the next voxel.
  auto begin_next = [&](int l) {
    for (;;) {
      Ends& e = ends[l];
      if (live[l]) {
        if (++e.start < call.candidates && call.pair[e.voxel * call.candidates + e.start] >= 0)
          break;
        write_ends(call, s.square[l], e);
        live[l] = false;
        --running;
      }
      if (next >= end) return;
      e.voxel = next++;
      e.start = -1;
      e.count = 0;
      s.top[l] = 3e38f;
      live[l] = true;
      ++running;
      float padded[kWidth] = {}, own = 0;
      for (int r = 0; r < call.rank && r < kWidth; ++r) {
        padded[r] = call.z[e.voxel * call.rank + r];
        own += padded[r] * padded[r];
      }
      __builtin_memcpy(&z[l], padded, sizeof z[l]);
      s.square[l] = call.square[e.voxel];
      s.off[l] = s.square[l] > own ? s.square[l] - own : 0.0f;
    }
    Ends& e = ends[l];
    const int pair = call.pair[e.voxel * call.candidates + e.start];
    const int cell = call.cell[call.group_of[pair]];
    s.k1[l] = call.fast_of[pair];
    s.k2[l] = call.slow_of[pair];
    s.tau[l] = call.delay_centre[cell];
    s.band_lo[l] = call.band_lo[cell];
    s.band_hi[l] = call.band_hi[cell];
    int first = cell, last = cell;
    while (first > 0 && call.delay_centre[first - 1] >= call.band_lo[cell]) --first;
    while (last < call.delays - 1 && call.delay_centre[last + 1] <= call.band_hi[cell]) ++last;
    s.first_cell[l] = first;
    s.last_cell[l] = last;
    s.best[l] = 3e38f;
    s.damping[l] = 1e-2f;
    s.expected[l] = 0;
    s.steps[l] = 0;
  };
  for (int l = 0; l < kDescents; ++l) {
    s.k1[l] = s.k2[l] = 1;
    begin_next(l);
  }
  while (running > 0) {
    Lanes16 in[32], squares[kDescents];
    Row16 u1[kDescents], u2[kDescents];
    const Cells16 fast_cell = cells_of(call.rate_edge, call.rates, s.k1),
                  slow_cell = cells_of(call.rate_edge, call.rates, s.k2);
    Cells16 cell = cells_of(call.delay_edge, call.delays, s.tau);
    // Cells do not share the curves of both sides of a jump.
    cell = cell > s.last_cell ? s.last_cell : cell;
    cell = cell < s.first_cell ? s.first_cell : cell;
    const float *fast_rows[kDescents], *slow_rows[kDescents];
    float fast_centre[kDescents], fast_half[kDescents], slow_centre[kDescents],
        slow_half[kDescents], delay_centre[kDescents], delay_half[kDescents];
    for (int l = 0; l < kDescents; ++l) {
      const int f = fast_cell[l], g = slow_cell[l], c = cell[l];
      const float* rows = call.table + static_cast<long>(c) * call.rates * kTaylorRows * kWidth;
      fast_rows[l] = rows + f * kTaylorRows * kWidth;
      slow_rows[l] = rows + g * kTaylorRows * kWidth;
      fast_centre[l] = call.rate_centre[f];
      fast_half[l] = call.rate_half[f];
      slow_centre[l] = call.rate_centre[g];
      slow_half[l] = call.rate_half[g];
      delay_centre[l] = call.delay_centre[c];
      delay_half[l] = call.delay_half[c];
    }
    Monomials fast, slow;
    const Row16 tau_centre = load<float, kDescents>(delay_centre),
                tau_half = load<float, kDescents>(delay_half);
    monomials_at(s.k1, load<float, kDescents>(fast_centre), load<float, kDescents>(fast_half),
                 s.tau, tau_centre, tau_half, fast);
    monomials_at(s.k2, load<float, kDescents>(slow_centre), load<float, kDescents>(slow_half),
                 s.tau, tau_centre, tau_half, slow);
    for (int l = 0; l < kDescents; ++l) {
      if (!live[l]) {
        in[l] = in[16 + l] = u1[l] = u2[l] = z[l] = Row16{};
        continue;
      }
      const RateCurve first = rate_curve(fast_rows[l], fast, l);
      const RateCurve second = rate_curve(slow_rows[l], slow, l);
      const Row16* vectors[kVectors] = {
          &first.u,        &second.u,        &first.by_rate, &second.by_rate,
          &first.by_delay, &second.by_delay, &z[l]};
      inner_products(vectors, in[l], in[16 + l]);
      u1[l] = first.u;
      u2[l] = second.u;
    }
    transpose(in);
    transpose(in + 16);
    const Amplitudes at = amplitudes_of(in);
    // The residual itself, since the difference of the products would lose what noise leaves.
    for (int l = 0; l < kDescents; ++l) {
      const Row16 r = z[l] - at.a[l] * u1[l] - at.b[l] * u2[l];
      squares[l] = r * r;
    }
    const Lanes16 cost = sums_of(squares);
    const Mask16 accept = cost < s.best, started = s.steps > 0;
    const Lanes16 fall = s.best - cost;
    s.damping =
        started ? next_damping<float, kDescents>(accept, fall, s.expected, s.damping) : s.damping;
    s.best = accept ? cost : s.best;
    s.fast = accept ? s.k1 : s.fast;
    s.slow = accept ? s.k2 : s.slow;
    s.delay = accept ? s.tau : s.delay;
    s.x = accept ? at.a : s.x;
    s.y = accept ? at.b : s.y;
    const Lanes16 total = s.best + s.off;
    Mask16 done = (accept & started & (fall < call.flat * total)) | (s.damping > 1e4f) |
                  (s.steps >= static_cast<float>(call.iterations));
    linearise(in, at, call.slow_held, accept, s);
    next_point(call.slow_held, fastest, slowest, s);
    done |= !(s.expected > 0.1f * call.flat * total);
    // What the quadratic promises, several times over, would not suffice.
    const Mask16 hopeless =
        started & (s.damping <= 0.02f) &
        (total - call.trust * s.expected > s.top * (1 + call.rival) + call.clean_unsure * s.square);
    s.steps += 1;
    for (int l = 0; l < kDescents; ++l) {
      if (!live[l]) continue;
      Ends& e = ends[l];
      bool over = done[l] != 0 || hopeless[l] != 0;
      if (!over)
        for (int q = 0; q < e.count; ++q)
          over |= is_same(s.fast[l], s.slow[l], s.delay[l], s.band_lo[l], e.end[q]);
      if (!over) continue;
      if (e.count < kMostEnds && !hopeless[l])
        e.end[e.count++] = {s.fast[l],
                            s.slow[l],
                            s.delay[l],
                            s.x[l],
                            s.y[l],
                            total[l],
                            call.group_of[call.pair[e.voxel * call.candidates + e.start]],
                            s.band_lo[l]};
      s.top[l] = total[l] < s.top[l] ? total[l] : s.top[l];
      begin_next(l);
    }
  }
}

}  // namespace KETY_NS
