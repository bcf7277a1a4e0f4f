// Curves of the dictionary between its nodes, from the Taylor rows of the (rate, delay) cell that a
// rate lies in (dictionary.hpp): sixteen products with the basis each; of D descents at once, as
// many as a register holds, or one on a card.
#pragma once
#include "bounded.hpp"
#include "shuffles.hpp"
#include "types.hpp"

namespace KETY_NS {

constexpr int kTaylorRows = 10;
// Products with the leading vectors of the basis: what those beyond hold is too little to matter
// for where a descent ends.
constexpr int kWidth = 16;
// In pieces as long as a register. A card's thread looks at eight together: all would not fit its
// registers.
#ifdef KETY_CUDA
constexpr int kPart = 8;
#else
constexpr int kPart = KETY_LANES < kWidth ? KETY_LANES : kWidth;
#endif
constexpr int kParts = kWidth / kPart;
using Part = Lanes<float, kPart>;
struct Row16 {
  Part part[kParts];
};

// Sums over parts, by halves.
template <int N, class V>
KETY_FN V sum_of_parts(const V* parts) {
  if constexpr (N == 1)
    return parts[0];
  else
    return sum_of_parts<N / 2>(parts) + sum_of_parts<N / 2>(parts + N / 2);
}

// The monomials of rate and delay about the centre of a cell that go with its rows, in the orders
// (rate, delay) 00 10 20 30, 01 11 21, 02 12, 03, and their slopes.
template <int D>
struct Monomials {
  Lanes<float, D> of[kTaylorRows], by_rate[kTaylorRows], by_delay[kTaylorRows];
};

template <int D>
KETY_FN void monomials_at(const Lanes<float, D>& rate, const Lanes<float, D>& rate_centre,
                          const Lanes<float, D>& rate_half, const Lanes<float, D>& delay,
                          const Lanes<float, D>& delay_centre, const Lanes<float, D>& delay_half,
                          Monomials<D>& m) {
  using V = Lanes<float, D>;
  const V zero = {}, one = zero + 1, rx = 1 / rate_half,
          ry = delay_half > 0 ? 1 / delay_half : zero, x = (rate - rate_centre) / rate_half,
          y = delay_half > 0 ? (delay - delay_centre) / delay_half : zero;
  const V of[kTaylorRows] = {one,   x,         x * x, x * x * x, y,
                             x * y, x * x * y, y * y, x * y * y, y * y * y};
  const V by_rate[kTaylorRows] = {
      zero, rx, 2 * x * rx, 3 * x * x * rx, zero, y * rx, 2 * x * y * rx, zero, y * y * rx, zero};
  const V by_delay[kTaylorRows] = {zero,   zero,       zero,       zero,           ry,
                                   x * ry, x * x * ry, 2 * y * ry, 2 * x * y * ry, 3 * y * y * ry};
  for (int i = 0; i < kTaylorRows; ++i) {
    m.of[i] = of[i];
    m.by_rate[i] = by_rate[i];
    m.by_delay[i] = by_delay[i];
  }
}

// Products at p, which a card loads four at a time.
KETY_FN Part part_at(const float* p) {
  Part part;
#ifdef KETY_CUDA
  p = static_cast<const float*>(__builtin_assume_aligned(p, 16));
#endif
  __builtin_memcpy(&part, p, sizeof part);
  return part;
}

// A part of the products of the curve of one rate at one delay, and of its slopes in both.
struct RateCurve {
  Part u, by_rate, by_delay;
};

// From the rows of a cell and element l of the monomials.
template <int D>
KETY_FN RateCurve rate_curve(const float* rows, const Monomials<D>& m, int l) {
  RateCurve c = {};
#pragma GCC unroll 10
  for (int i = 0; i < kTaylorRows; ++i) {
    const Part row = part_at(rows + kWidth * i);
    c.u = add_product(c.u, get<float, D>(m.of[i], l), row);
    if (i > 0 && i != 4 && i != 7 && i != 9)
      c.by_rate = add_product(c.by_rate, get<float, D>(m.by_rate[i], l), row);
    if (i >= 4) c.by_delay = add_product(c.by_delay, get<float, D>(m.by_delay[i], l), row);
  }
  return c;
}

// The cells (edges[i], edges[i + 1]] that hold D numbers; the first and last hold what lies beyond
// them. Counting takes longer than stepping on from the last cell would, had stepping no branches.
template <int D>
KETY_FN Lanes<int, D> cells_of(const float* edges, int cells, const Lanes<float, D>& x) {
  Lanes<int, D> cell = {};
  for (int i = 1; i < cells; ++i) {
    if constexpr (D > 1)
      cell -= x > edges[i];  // true is -1
    else
      cell += x > edges[i];
  }
  return cell;
}

// Of D descents the curves of both rates, and the inner products of these, their slopes and the
// voxel's own products: element pair(i, j) of `in`.
constexpr int kVectors = 7, kProducts = 32;  // 28, filled up
enum { kU1, kU2, kRate1, kRate2, kDelay1, kDelay2, kZ };
template <int D>
struct PairCurves {
  Row16 u1[D], u2[D];
  Lanes<float, D> in[kProducts];
};

// What the curves leave of the voxel's own products with amplitudes a and b.
KETY_FN Row16 rest_of(const Row16& z, float a, const Row16& u1, float b, const Row16& u2) {
  Row16 rest;
  for (int k = 0; k < kParts; ++k)
    rest.part[k] = less_product(less_product(z.part[k], a, u1.part[k]), b, u2.part[k]);
  return rest;
}

#ifndef KETY_CUDA

template <int D>
KETY_FN void pair_curves(const float* const* fast_rows, const float* const* slow_rows,
                         const Monomials<D>& fast, const Monomials<D>& slow, const Row16* z,
                         const bool* live, PairCurves<D>& c) {
  static_assert(D == kPart);
  for (int l = 0; l < D; ++l) {
    if (!live[l]) {
      for (int i = 0; i < kProducts / kPart; ++i) c.in[i * kPart + l] = Part{};
      c.u1[l] = c.u2[l] = Row16{};
      continue;
    }
    Part sums[kProducts / kPart][kParts];
    for (int k = 0; k < kParts; ++k) {
      const RateCurve first = rate_curve<D>(fast_rows[l] + k * kPart, fast, l);
      const RateCurve second = rate_curve<D>(slow_rows[l] + k * kPart, slow, l);
      c.u1[l].part[k] = first.u;
      c.u2[l].part[k] = second.u;
      const Part vectors[kVectors] = {first.u,        second.u,       first.by_rate,
                                      second.by_rate, first.by_delay, second.by_delay,
                                      z[l].part[k]};
      Part rows[kProducts];
#pragma GCC unroll 7
      for (int i = 0; i < kVectors; ++i)
#pragma GCC unroll 7
        for (int j = 0; j <= i; ++j) rows[pair(i, j)] = vectors[i] * vectors[j];
      for (int i = pair(kVectors - 1, kVectors - 1) + 1; i < kProducts; ++i) rows[i] = Part{};
      for (int i = 0; i < kProducts / kPart; ++i)
        sums[i][k] = sums_of_rows<float, kPart>(rows + i * kPart);
    }
    for (int i = 0; i < kProducts / kPart; ++i) c.in[i * kPart + l] = sum_of_parts<kParts>(sums[i]);
  }
  for (int i = 0; i < kProducts / kPart; ++i) transpose<float, kPart>(c.in + i * kPart);
}

// The sums of squares of rows.
template <int D>
KETY_FN Lanes<float, D> squares_of(const Row16* rows) {
  static_assert(D == kPart);
  Part sums[kParts];
  for (int k = 0; k < kParts; ++k) {
    Part squares[D];
    for (int l = 0; l < D; ++l) squares[l] = rows[l].part[k] * rows[l].part[k];
    sums[k] = sums_of_rows<float, kPart>(squares);
  }
  return sum_of_parts<kParts>(sums);
}

#else

// The sum of a row's elements, added up as in sums_of_rows.
template <int N>
KETY_FN float sum_of(const float* row) {
  if constexpr (N == 1) {
    return row[0];
  } else {
    float half[N / 2];
#pragma GCC unroll 8
    for (int i = 0; i < N / 2; ++i) half[i] = row[2 * i] + row[2 * i + 1];
    return sum_of<N / 2>(half);
  }
}

template <int D>
KETY_FN void pair_curves(const float* const* fast_rows, const float* const* slow_rows,
                         const Monomials<D>& fast, const Monomials<D>& slow, const Row16* z,
                         const bool*, PairCurves<D>& c) {
  static_assert(D == 1);
#pragma GCC unroll 2
  for (int k = 0; k < kParts; ++k) {
    const RateCurve first = rate_curve<D>(fast_rows[0] + k * kPart, fast, 0);
    const RateCurve second = rate_curve<D>(slow_rows[0] + k * kPart, slow, 0);
    c.u1[0].part[k] = first.u;
    c.u2[0].part[k] = second.u;
    const Part* vectors[kVectors] = {&first.u,        &second.u,       &first.by_rate,
                                     &second.by_rate, &first.by_delay, &second.by_delay,
                                     &z[0].part[k]};
#pragma GCC unroll 7
    for (int i = 0; i < kVectors; ++i)
#pragma GCC unroll 7
      for (int j = 0; j <= i; ++j) {
        const Part product = *vectors[i] * *vectors[j];
        const float sum = sum_of<kPart>(product.part);
        float& to = c.in[pair(i, j)];
        to = k == 0 ? sum : to + sum;
      }
  }
}

template <int D>
KETY_FN float squares_of(const Row16* rows) {
  float sums[kParts];
  for (int k = 0; k < kParts; ++k) {
    const Part square = rows[0].part[k] * rows[0].part[k];
    sums[k] = sum_of<kPart>(square.part);
  }
  return sum_of_parts<kParts>(sums);
}

#endif

}  // namespace KETY_NS
