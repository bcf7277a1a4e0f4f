// Curves of the dictionary between its nodes, from the Taylor rows of the (rate, delay) cell that a
// rate lies in (dictionary.hpp): products with the basis, sixteen to a register.
#pragma once
#include "bounded.hpp"
#include "types.hpp"

namespace KETY_NS {

constexpr int kTaylorRows = 10;
// Products with the leading vectors of the basis: what those beyond hold is too little to matter
// for where a descent ends.
constexpr int kWidth = 16;
typedef float Row16 __attribute__((vector_size(4 * kWidth)));

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

// Inner products of 7 vectors with each other: element pair(i, j) of the two rows.
constexpr int kVectors = 7;
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

// The monomials of rate and delay about the centre of a cell that go with its rows, in the orders
// (rate, delay) 00 10 20 30, 01 11 21, 02 12, 03, and their slopes; for sixteen curves at once.
struct Monomials {
  Row16 of[kTaylorRows], by_rate[kTaylorRows], by_delay[kTaylorRows];
};

KETY_FN void monomials_at(const Row16& rate, const Row16& rate_centre, const Row16& rate_half,
                          const Row16& delay, const Row16& delay_centre, const Row16& delay_half,
                          Monomials& m) {
  const Row16 zero = {}, one = zero + 1, rx = 1 / rate_half,
              ry = delay_half > 0 ? 1 / delay_half : zero, x = (rate - rate_centre) / rate_half,
              y = delay_half > 0 ? (delay - delay_centre) / delay_half : zero;
  const Row16 of[kTaylorRows] = {one,   x,         x * x, x * x * x, y,
                                 x * y, x * x * y, y * y, x * y * y, y * y * y};
  const Row16 by_rate[kTaylorRows] = {
      zero, rx, 2 * x * rx, 3 * x * x * rx, zero, y * rx, 2 * x * y * rx, zero, y * y * rx, zero};
  const Row16 by_delay[kTaylorRows] = {
      zero, zero, zero, zero, ry, x * ry, x * x * ry, 2 * y * ry, 2 * x * y * ry, 3 * y * y * ry};
  for (int i = 0; i < kTaylorRows; ++i) {
    m.of[i] = of[i];
    m.by_rate[i] = by_rate[i];
    m.by_delay[i] = by_delay[i];
  }
}

// The curve of one rate at one delay and its slopes in both.
struct RateCurve {
  Row16 u, by_rate, by_delay;
};

// From the rows of a cell and element l of the monomials.
KETY_FN RateCurve rate_curve(const float* rows, const Monomials& m, int l) {
  RateCurve c = {};
#pragma GCC unroll 10
  for (int i = 0; i < kTaylorRows; ++i) {
    Row16 row;
    __builtin_memcpy(&row, rows + kWidth * i, sizeof row);
    c.u += m.of[i][l] * row;
    if (i > 0 && i != 4 && i != 7 && i != 9) c.by_rate += m.by_rate[i][l] * row;
    if (i >= 4) c.by_delay += m.by_delay[i][l] * row;
  }
  return c;
}

// The cells (edges[i], edges[i + 1]] that hold sixteen numbers; the first and last hold what lies
// beyond them. Counting takes longer than stepping on from the last cell would, had stepping no
// branches.
KETY_FN Lanes<int, kWidth> cells_of(const float* edges, int cells, const Row16& x) {
  Lanes<int, kWidth> cell = {};
  for (int i = 1; i < cells; ++i) cell -= x > edges[i];
  return cell;
}

}  // namespace KETY_NS
