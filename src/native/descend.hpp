// Descent of pairs of exponentials in the dictionary: the two rates and the delay by a damped
// Gauss-Newton on the few products of a curve with the basis, the amplitudes eliminated. Curves
// come from the Taylor rows of the (rate, delay) cell that each rate lies in (dictionary.hpp), so
// that a step costs a tenth of an exact evaluation.
#pragma once
#include "lanes.hpp"
#include "types.hpp"

namespace KETY_NS {

constexpr int kTaylorRows = 10;
typedef float Row16 __attribute__((vector_size(64)));

// Products with the basis, padded with zeros to 16 N.
template <int N>
struct Products {
  Row16 part[N];
};
#if defined(__clang__) || __GNUC__ >= 12
#define KETY_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int Index16 __attribute__((vector_size(64)));
#define KETY_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (Index16){__VA_ARGS__})
#endif

// The sums of the elements of 16 rows, side by side: half the work of adding up one by one.
KETY_FN Row16 sums_of(const Row16* rows) {
  Row16 two[8], four[4], eight[2];
  for (int i = 0; i < 8; ++i) {
    const Row16 &a = rows[2 * i], &b = rows[2 * i + 1];
    two[i] = KETY_SHUFFLE(a, b, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30) +
             KETY_SHUFFLE(a, b, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);
  }
  for (int i = 0; i < 4; ++i) {
    const Row16 &a = two[2 * i], &b = two[2 * i + 1];
    four[i] = KETY_SHUFFLE(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
              KETY_SHUFFLE(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
  }
  for (int i = 0; i < 2; ++i) {
    const Row16 &a = four[2 * i], &b = four[2 * i + 1];
    eight[i] = KETY_SHUFFLE(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27) +
               KETY_SHUFFLE(a, b, 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31);
  }
  const Row16 &a = eight[0], &b = eight[1];
  return KETY_SHUFFLE(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
         KETY_SHUFFLE(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
}

// Inner products of 7 vectors with each other; element pair_of(i, j) of the result.
constexpr int kVectors = 7;
KETY_FN constexpr int pair_of(int i, int j) {
  return i >= j ? i * (i + 1) / 2 + j : j * (j + 1) / 2 + i;
}
template <int N>
KETY_FN void inner_products(const Products<N>* const* vectors, float out[32]) {
  Row16 rows[32];
  for (int i = 0; i < kVectors; ++i)
    for (int j = 0; j <= i; ++j) {
      Row16 p = vectors[i]->part[0] * vectors[j]->part[0];
      for (int q = 1; q < N; ++q) p += vectors[i]->part[q] * vectors[j]->part[q];
      rows[pair_of(i, j)] = p;
    }
  for (int i = pair_of(kVectors - 1, kVectors - 1) + 1; i < 32; ++i) rows[i] = Row16{};
  for (int half = 0; half < 2; ++half) {
    const Row16 s = sums_of(rows + 16 * half);
    __builtin_memcpy(out + 16 * half, &s, sizeof s);
  }
}

// The curve of one rate at one delay and its slopes in both.
template <int N>
struct RateCurve {
  Products<N> u, by_rate, by_delay;
};

template <int N>
KETY_FN RateCurve<N> rate_curve(const DescentCall& call, int delay, int rate, float k, float tau) {
  const float x = (k - call.rate_centre[rate]) / call.rate_half[rate];
  const float dh = call.delay_half[delay];
  const float y = dh > 0 ? (tau - call.delay_centre[delay]) / dh : 0.0f;
  const float* rows =
      call.table + (static_cast<long>(delay) * call.rates + rate) * kTaylorRows * 16 * N;
  // Orders (rate, delay): 00 10 20 30, 01 11 21, 02 12, 03.
  const float m[kTaylorRows] = {1,     x,         x * x, x * x * x, y,
                                x * y, x * x * y, y * y, x * y * y, y * y * y};
  const float rx = 1 / call.rate_half[rate], ry = dh > 0 ? 1 / dh : 0.0f;
  const float mx[kTaylorRows] = {
      0, rx, 2 * x * rx, 3 * x * x * rx, 0, y * rx, 2 * x * y * rx, 0, y * y * rx, 0};
  const float my[kTaylorRows] = {
      0, 0, 0, 0, ry, x * ry, x * x * ry, 2 * y * ry, 2 * x * y * ry, 3 * y * y * ry};
  RateCurve<N> c = {};
  for (int i = 0; i < kTaylorRows; ++i) {
    Products<N> row;
    __builtin_memcpy(&row, rows + i * 16 * N, sizeof row);
    for (int q = 0; q < N; ++q) {
      c.u.part[q] += m[i] * row.part[q];
      if (i > 0) c.by_rate.part[q] += mx[i] * row.part[q];
      if (i >= 4) c.by_delay.part[q] += my[i] * row.part[q];
    }
  }
  return c;
}

KETY_FN int cell_of(const float* edges, int cells, int from, float x) {
  while (from > 0 && x < edges[from]) --from;
  while (from < cells - 1 && x > edges[from + 1]) ++from;
  return from;
}

template <int N>
void descend_range(const DescentCall& call, long begin, long end) {
  const float fastest = call.rate_edge[call.rates], slowest = call.rate_edge[0];
  for (long c = begin; c < end; ++c) {
    Products<N> z = {};
    {
      float padded[16 * N] = {};
      for (int r = 0; r < call.rank; ++r)
        padded[r] = call.z[static_cast<long>(call.voxel[c]) * call.rank + r];
      __builtin_memcpy(&z, padded, sizeof z);
    }
    const float band_lo = call.band_lo[call.cell[c]], band_hi = call.band_hi[call.cell[c]];
    int delay_cell = call.cell[c], fast_cell = 0, slow_cell = 0;
    float k1 = call.fast[c], k2 = call.slow[c], tau = call.delay[c];
    float best = 3e38f, best_k1 = k1, best_k2 = k2, best_tau = tau, best_a = 0, best_b = 0;
    float damping = 1e-2f, expected = 0;
    float h[3][3] = {}, g[3] = {};
    bool held[3] = {}, walled = false;
    for (int it = 0;; ++it) {
      delay_cell = cell_of(call.delay_edge, call.delays, delay_cell, tau);
      // Cells do not share the curves of both sides of a jump.
      while (delay_cell > 0 && call.delay_centre[delay_cell] > band_hi) --delay_cell;
      while (delay_cell < call.delays - 1 && call.delay_centre[delay_cell] < band_lo) ++delay_cell;
      fast_cell = cell_of(call.rate_edge, call.rates, fast_cell, k1);
      slow_cell = cell_of(call.rate_edge, call.rates, slow_cell, k2);
      const RateCurve<N> first = rate_curve<N>(call, delay_cell, fast_cell, k1, tau);
      const RateCurve<N> second = rate_curve<N>(call, delay_cell, slow_cell, k2, tau);
      enum { kU1, kU2, kRate1, kRate2, kDelay1, kDelay2, kZ };
      const Products<N>* vectors[kVectors] = {
          &first.u,         &second.u, &first.by_rate, &second.by_rate, &first.by_delay,
          &second.by_delay, &z};
      float in[32];
      inner_products<N>(vectors, in);
      auto with = [&](int i, int j) { return in[pair_of(i, j)]; };
      const float g11 = with(kU1, kU1), g22 = with(kU2, kU2), g12 = with(kU1, kU2),
                  b1 = with(kU1, kZ), b2 = with(kU2, kZ);
      float a = 0, b = 0;
      const float det = g11 * g22 - g12 * g12;
      const bool regular = det > 1e-6f * g11 * g22;
      if (regular) {
        a = (b1 * g22 - b2 * g12) / det;
        b = (b2 * g11 - b1 * g12) / det;
      }
      const bool both = regular && a > 0 && b > 0;
      bool only_first = false;
      if (!both) {
        const float one = b1 > 0 && g11 > 0 ? b1 / g11 : 0.0f,
                    two = b2 > 0 && g22 > 0 ? b2 / g22 : 0.0f;
        only_first = one * b1 >= two * b2;
        a = only_first ? one : 0.0f;
        b = only_first ? 0.0f : two;
      }
      // The residual itself, since the difference of the products would lose what noise leaves.
      Row16 squares = {};
      for (int q = 0; q < N; ++q) {
        const Row16 r = z.part[q] - a * first.u.part[q] - b * second.u.part[q];
        squares += r * r;
      }
      Row16 alone[16] = {squares};
      const float cost = sums_of(alone)[0];
      const bool accept = cost < best;
      if (it > 0) {
        const float gain = best - cost;
        damping = accept && gain > 0.25f * expected ? damping * (gain > 0.75f * expected ? 0.1f : 1)
                                                    : (damping > 0.025f ? damping * 4 : 0.1f);
        if (damping < 1e-6f) damping = 1e-6f;
      }
      if (accept) {
        const float fall = best - cost;
        best = cost;
        best_k1 = k1;
        best_k2 = k2;
        best_tau = tau;
        best_a = a;
        best_b = b;
        if (it >= call.iterations || (it > 0 && fall < 1e-4f * cost)) break;
        // Columns of the Jacobian: the delay, the slower rate, the faster term's transit time. The
        // amplitudes follow, so that what of a column lies along the curves does not count.
        auto by_tau = [&](int v) { return a * with(kDelay1, v) + b * with(kDelay2, v); };
        const float slower = call.slow_held ? 0.0f : b, faster = -k1 * k1 * a;
        float p[3] = {faster * with(kRate1, kU1), slower * with(kRate2, kU1), by_tau(kU1)};
        float q[3] = {faster * with(kRate1, kU2), slower * with(kRate2, kU2), by_tau(kU2)};
        float along_z[3] = {faster * with(kRate1, kZ), slower * with(kRate2, kZ), by_tau(kZ)};
        const float tau_tau = a * by_tau(kDelay1) + b * by_tau(kDelay2);
        float c[3][3] = {
            {faster * faster * with(kRate1, kRate1)},
            {faster * slower * with(kRate1, kRate2), slower * slower * with(kRate2, kRate2)},
            {faster * by_tau(kRate1), slower * by_tau(kRate2), tau_tau}};
        g[2] = along_z[2] - a * p[2] - b * q[2];
        // Along the transit time of the faster term its mean arrival stays, since a valley that is
        // bent in the rates is straight so; at a wall the delay stays instead.
        walled = band_hi <= band_lo || (tau <= band_lo && g[2] < 0) || (tau >= band_hi && g[2] > 0);
        if (!walled) {
          p[0] -= p[2];
          q[0] -= q[2];
          along_z[0] -= along_z[2];
          c[0][0] += tau_tau - 2 * c[2][0];
          c[1][0] -= c[2][1];
          c[2][0] -= tau_tau;
        }
        for (int i = 0; i < 3; ++i) {
          g[i] = along_z[i] - a * p[i] - b * q[i];
          for (int j = 0; j <= i; ++j) {
            float shared = 0;
            if (both)
              shared = (p[i] * (p[j] * g22 - q[j] * g12) + q[i] * (q[j] * g11 - p[j] * g12)) / det;
            else if (only_first)
              shared = g11 > 0 ? p[i] * p[j] / g11 : 0.0f;
            else
              shared = g22 > 0 ? q[i] * q[j] / g22 : 0.0f;
            const float rest = c[i][j] - shared;
            // Of a column that lies along the curves rounding may leave less than nothing.
            h[i][j] = h[j][i] = i == j && rest < 1e-6f * c[i][i] ? 0.0f : rest;
          }
        }
      } else if (it >= call.iterations || damping > 1e4f) {
        break;
      }
      // The step in (transit time, slower rate, arrival), from the best point.
      const float t1 = 1 / best_k1;
      held[0] = (best_k1 >= fastest && g[0] < 0) || h[0][0] <= 0;
      held[1] = (best_k2 <= slowest && g[1] < 0) || h[1][1] <= 0 || call.slow_held;
      held[2] = walled || h[2][2] <= 0;
      float m[3][4];
      for (int i = 0; i < 3; ++i) {
        for (int j = 0; j < 3; ++j)
          m[i][j] =
              held[i] || held[j] ? (i == j ? 1.0f : 0.0f) : h[i][j] * (i == j ? 1 + damping : 1.0f);
        m[i][3] = held[i] ? 0.0f : g[i];
      }
      for (int i = 0; i < 3; ++i)
        for (int j = i + 1; j < 3; ++j) {
          const float f = m[i][i] > 0 ? m[j][i] / m[i][i] : 0.0f;
          for (int q = i; q < 4; ++q) m[j][q] -= f * m[i][q];
        }
      float step[3];
      for (int i = 2; i >= 0; --i) {
        float s = m[i][3];
        for (int j = i + 1; j < 3; ++j) s -= m[i][j] * step[j];
        step[i] = m[i][i] > 1e-30f ? s / m[i][i] : 0.0f;
      }
      expected = 0;
      for (int i = 0; i < 3; ++i) {
        float row = 2 * g[i];
        for (int j = 0; j < 3; ++j) row -= h[i][j] * step[j];
        expected += step[i] * row;
      }
      if (!(expected > 1e-5f * best)) break;
      float t = t1 + step[0];
      t = t > 3 * t1 ? 3 * t1 : t < 0.3f * t1 ? 0.3f * t1 : t;
      k1 = 1 / t;
      k1 = k1 > fastest ? fastest : k1;
      k2 = best_k2 + step[1];
      k2 = k2 < slowest ? slowest : k2 > 0.95f * k1 ? 0.95f * k1 : k2;
      tau = best_tau + step[2];
      if (!walled) tau += t1 - 1 / k1;
      tau = tau < band_lo ? band_lo : tau > band_hi ? band_hi : tau;
    }
    call.fast[c] = best_k1;
    call.slow[c] = best_k2;
    call.delay[c] = best_tau;
    call.x[c] = best_a;
    call.y[c] = best_b;
    call.left[c] = best;
  }
}

}  // namespace KETY_NS
