// Tiles of W vectors of W elements: their transpose, and the sums of each.
#pragma once
#include "lanes.hpp"

namespace KETY_NS {

template <int... I>
struct Indices {};
template <int N, int... I>
struct MakeIndices : MakeIndices<N - 1, N - 1, I...> {};
template <int... I>
struct MakeIndices<0, I...> {
  using type = Indices<I...>;
};

template <int S, class V, int... I>
KETY_FN void exchange(V& a, V& b, Indices<I...>) {
  constexpr int W = sizeof...(I);
  const V low = __builtin_shufflevector(a, b, ((I & S) ? W + I - S : I)...);
  b = __builtin_shufflevector(a, b, ((I & S) ? W + I : I + S)...);
  a = low;
}

// Rows to columns of a W x W tile.
template <class T, int W, int S = W / 2>
KETY_FN void transpose(Lanes<T, W> m[W]) {
  if constexpr (S > 0) {
    for (int i = 0; i < W; ++i)
      if (!(i & S)) exchange<S>(m[i], m[i + S], typename MakeIndices<W>::type{});
    transpose<T, W, S / 2>(m);
  }
}

// The sum of the elements of row i in element i, by halves: half the work of adding up one by one.
template <int S, class V, int... I>
KETY_FN V sums_of_neighbours(const V& a, const V& b, Indices<I...>) {
  constexpr int W = sizeof...(I);
  return __builtin_shufflevector(a, b, ((I & S ? W : 0) + (I & ~S))...) +
         __builtin_shufflevector(a, b, ((I & S ? W : 0) + (I | S))...);
}
template <class T, int W, int S = 1>
KETY_FN Lanes<T, W> sums_of_rows(Lanes<T, W>* rows) {
  if constexpr (S == W) {
    return rows[0];
  } else {
#pragma GCC unroll 8
    for (int i = 0; i < W / S / 2; ++i)
      rows[i] =
          sums_of_neighbours<S>(rows[2 * i], rows[2 * i + 1], typename MakeIndices<W>::type{});
    return sums_of_rows<T, W, 2 * S>(rows);
  }
}

}  // namespace KETY_NS
