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

// Inner products of 7 vectors with each other; element pair(i, j) of the result.
constexpr int kVectors = 7;
KETY_FN void inner_products(const Row16* const* vectors, float out[32]) {
  Row16 rows[32];
#pragma GCC unroll 7
  for (int i = 0; i < kVectors; ++i)
#pragma GCC unroll 7
    for (int j = 0; j <= i; ++j) rows[pair(i, j)] = *vectors[i] * *vectors[j];
  for (int i = pair(kVectors - 1, kVectors - 1) + 1; i < 32; ++i) rows[i] = Row16{};
  for (int half = 0; half < 2; ++half) {
    const Row16 s = sums_of(rows + 16 * half);
    __builtin_memcpy(out + 16 * half, &s, sizeof s);
  }
}

// The curve of one rate at one delay and its slopes in both.
struct RateCurve {
  Row16 u, by_rate, by_delay;
};

KETY_FN RateCurve rate_curve(const DescentCall& call, int delay, int rate, float k, float tau) {
  const float x = (k - call.rate_centre[rate]) / call.rate_half[rate];
  const float dh = call.delay_half[delay];
  const float y = dh > 0 ? (tau - call.delay_centre[delay]) / dh : 0.0f;
  const float* rows =
      call.table + (static_cast<long>(delay) * call.rates + rate) * kTaylorRows * kWidth;
  // Orders (rate, delay): 00 10 20 30, 01 11 21, 02 12, 03.
  const float m[kTaylorRows] = {1,     x,         x * x, x * x * x, y,
                                x * y, x * x * y, y * y, x * y * y, y * y * y};
  const float rx = 1 / call.rate_half[rate], ry = dh > 0 ? 1 / dh : 0.0f;
  const float mx[kTaylorRows] = {
      0, rx, 2 * x * rx, 3 * x * x * rx, 0, y * rx, 2 * x * y * rx, 0, y * y * rx, 0};
  const float my[kTaylorRows] = {
      0, 0, 0, 0, ry, x * ry, x * x * ry, 2 * y * ry, 2 * x * y * ry, 3 * y * y * ry};
  RateCurve c = {};
#pragma GCC unroll 10
  for (int i = 0; i < kTaylorRows; ++i) {
    Row16 row;
    __builtin_memcpy(&row, rows + kWidth * i, sizeof row);
    c.u += m[i] * row;
    if (i > 0 && i != 4 && i != 7) c.by_rate += mx[i] * row;
    if (i >= 4) c.by_delay += my[i] * row;
  }
  return c;
}

KETY_FN int cell_of(const float* edges, int cells, int from, float x) {
  while (from > 0 && x < edges[from]) --from;
  while (from < cells - 1 && x > edges[from + 1]) ++from;
  return from;
}

}  // namespace KETY_NS
