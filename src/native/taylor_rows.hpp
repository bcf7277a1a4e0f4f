// Curves of the dictionary between its nodes, from the Taylor rows of the (rate, delay) cell that a
// rate lies in (dictionary.hpp): products with the basis, sixteen to a register; of D descents at
// once, one on a card.
#pragma once
#include "bounded.hpp"
#include "types.hpp"

namespace KETY_NS {

constexpr int kTaylorRows = 10;
// Products with the leading vectors of the basis: what those beyond hold is too little to matter
// for where a descent ends.
constexpr int kWidth = 16;
using Row16 = Lanes<float, kWidth>;

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

// N products at p, which a card loads four at a time.
template <int N>
KETY_FN Lanes<float, N> row_at(const float* p) {
  Lanes<float, N> row;
#ifdef KETY_CUDA
  p = static_cast<const float*>(__builtin_assume_aligned(p, 16));
#endif
  __builtin_memcpy(&row, p, sizeof row);
  return row;
}

// N products of the curve of one rate at one delay, and of its slopes in both.
template <int N>
struct RateCurve {
  Lanes<float, N> u, by_rate, by_delay;
};

// From the rows of a cell and element l of the monomials.
template <int N, int D>
KETY_FN RateCurve<N> rate_curve(const float* rows, const Monomials<D>& m, int l) {
  RateCurve<N> c = {};
#pragma GCC unroll 10
  for (int i = 0; i < kTaylorRows; ++i) {
    const Lanes<float, N> row = row_at<N>(rows + kWidth * i);
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
constexpr int kVectors = 7;
enum { kU1, kU2, kRate1, kRate2, kDelay1, kDelay2, kZ };
template <int D>
struct PairCurves {
  Row16 u1[D], u2[D];
  Lanes<float, D> in[32];
};

#ifndef KETY_CUDA

#if defined(__clang__) || __GNUC__ >= 12
#define KETY_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int Index16 __attribute__((vector_size(64)));
#define KETY_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (Index16){__VA_ARGS__})
#endif

// The sums of the elements of 16 rows, side by side: half the work of adding up one by one.
KETY_FN Row16 sums_of(const Row16* rows) {
  Row16 two[8], four[4], eight[2];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    const Row16 &a = rows[2 * i], &b = rows[2 * i + 1];
    two[i] = KETY_SHUFFLE(a, b, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30) +
             KETY_SHUFFLE(a, b, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);
  }
#pragma GCC unroll 4
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

// Element j of row i becomes element i of row j: blocks off the diagonal change places, of twice
// the size each time.
KETY_FN void transpose(Row16 rows[16]) {
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    const Row16 a = rows[i], b = rows[i + 1];
    rows[i] = KETY_SHUFFLE(a, b, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30);
    rows[i + 1] = KETY_SHUFFLE(a, b, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);
  }
#pragma GCC unroll 8
  for (int q = 0; q < 8; ++q) {
    const int i = q / 2 * 4 + q % 2;
    const Row16 a = rows[i], b = rows[i + 2];
    rows[i] = KETY_SHUFFLE(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
    rows[i + 2] = KETY_SHUFFLE(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
  }
#pragma GCC unroll 8
  for (int q = 0; q < 8; ++q) {
    const int i = q / 4 * 8 + q % 4;
    const Row16 a = rows[i], b = rows[i + 4];
    rows[i] = KETY_SHUFFLE(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27);
    rows[i + 4] = KETY_SHUFFLE(a, b, 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    const Row16 a = rows[i], b = rows[i + 8];
    rows[i] = KETY_SHUFFLE(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
    rows[i + 8] = KETY_SHUFFLE(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
  }
}

// In pieces as long as a register.
template <int D>
KETY_FN RateCurve<kWidth> whole_curve(const float* rows, const Monomials<D>& m, int l) {
  constexpr int N = KETY_LANES < kWidth ? KETY_LANES : kWidth;
  RateCurve<kWidth> c;
#pragma GCC unroll 4
  for (int from = 0; from < kWidth; from += N) {
    const RateCurve<N> part = rate_curve<N>(rows + from, m, l);
    __builtin_memcpy(reinterpret_cast<float*>(&c.u) + from, &part.u, sizeof part.u);
    __builtin_memcpy(reinterpret_cast<float*>(&c.by_rate) + from, &part.by_rate, sizeof part.u);
    __builtin_memcpy(reinterpret_cast<float*>(&c.by_delay) + from, &part.by_delay, sizeof part.u);
  }
  return c;
}

// Inner products of 7 vectors with each other: element pair(i, j) of the two rows.
KETY_FN void inner_products(const Row16* const* vectors, Row16& low, Row16& high) {
  Row16 rows[32];
#pragma GCC unroll 7
  for (int i = 0; i < kVectors; ++i)
#pragma GCC unroll 7
    for (int j = 0; j <= i; ++j) rows[pair(i, j)] = *vectors[i] * *vectors[j];
  for (int i = pair(kVectors - 1, kVectors - 1) + 1; i < 32; ++i) rows[i] = Row16{};
  low = sums_of(rows);
  high = sums_of(rows + 16);
}

template <int D>
KETY_FN void pair_curves(const float* const* fast_rows, const float* const* slow_rows,
                         const Monomials<D>& fast, const Monomials<D>& slow, const Row16* z,
                         const bool* live, PairCurves<D>& c) {
  static_assert(D == kWidth);
  for (int l = 0; l < D; ++l) {
    if (!live[l]) {
      c.in[l] = c.in[16 + l] = c.u1[l] = c.u2[l] = Row16{};
      continue;
    }
    const RateCurve<kWidth> first = whole_curve<D>(fast_rows[l], fast, l);
    const RateCurve<kWidth> second = whole_curve<D>(slow_rows[l], slow, l);
    const Row16* vectors[kVectors] = {
        &first.u,        &second.u,        &first.by_rate, &second.by_rate,
        &first.by_delay, &second.by_delay, &z[l]};
    inner_products(vectors, c.in[l], c.in[16 + l]);
    c.u1[l] = first.u;
    c.u2[l] = second.u;
  }
  transpose(c.in);
  transpose(c.in + 16);
}

// The sums of squares of rows.
template <int D>
KETY_FN Lanes<float, D> squares_of(const Row16* rows) {
  Row16 squares[D];
  for (int l = 0; l < D; ++l) squares[l] = rows[l] * rows[l];
  return sums_of(squares);
}

#else

// Products that a card's thread looks at together: all sixteen would not fit its registers.
#ifndef KETY_PART
#define KETY_PART 8
#endif
constexpr int kPart = KETY_PART;

// The sum of a row's elements, added up as in sums_of.
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
  using Part = Lanes<float, kPart>;
#pragma GCC unroll 2
  for (int from = 0; from < kWidth; from += kPart) {
    const RateCurve<kPart> first = rate_curve<kPart>(fast_rows[0] + from, fast, 0);
    const RateCurve<kPart> second = rate_curve<kPart>(slow_rows[0] + from, slow, 0);
    Part own;
    for (int i = 0; i < kPart; ++i) {
      own[i] = z[0][from + i];
      c.u1[0][from + i] = first.u[i];
      c.u2[0][from + i] = second.u[i];
    }
    const Part* vectors[kVectors] = {
        &first.u,         &second.u, &first.by_rate, &second.by_rate, &first.by_delay,
        &second.by_delay, &own};
#pragma GCC unroll 7
    for (int i = 0; i < kVectors; ++i)
#pragma GCC unroll 7
      for (int j = 0; j <= i; ++j) {
        const Part product = *vectors[i] * *vectors[j];
        const float sum = sum_of<kPart>(product.part);
        float& to = c.in[pair(i, j)];
        to = from == 0 ? sum : to + sum;
      }
  }
}

template <int D>
KETY_FN float squares_of(const Row16* rows) {
  const Row16 square = rows[0] * rows[0];
  return sum_of<kWidth>(square.part);
}

#endif

}  // namespace KETY_NS
