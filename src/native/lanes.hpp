// Lanes: W voxels side by side in one SIMD register, or one voxel (W = 1, also on a GPU).
// Everything is written on GCC/Clang vector types, so one source serves every instruction set.
#pragma once
#include "device.hpp"
#include "fused.hpp"

// The stages of a block, kept apart so that a profile names them.
#ifdef __CUDACC_RTC__
#define KETY_STAGE __noinline__
#else
#define KETY_STAGE __attribute__((noinline))
#endif

namespace KETY_NS {

template <class T, int W>
struct LaneType {
#ifdef KETY_CUDA
  using type = Pack<T, W>;
#else
  typedef T type __attribute__((vector_size(W * sizeof(T))));
#endif
};
template <class T>
struct LaneType<T, 1> {
  using type = T;
};
template <class T, int W>
using Lanes = typename LaneType<T, W>::type;

template <class T, int W>
KETY_FN T get(const Lanes<T, W>& v, int lane) {
  if constexpr (W == 1)
    return v;
  else
    return v[lane];
}

template <class T, int W>
KETY_FN void set(Lanes<T, W>& v, int lane, T x) {
  if constexpr (W == 1)
    v = x;
  else
    v[lane] = x;
}

template <class V, class T>
KETY_FN V vector_at(const T* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <class T, int W>
KETY_FN Lanes<T, W> load(const T* p) {
  return vector_at<Lanes<T, W>>(p);
}

template <class T, class V>
KETY_FN void put_vector(T* p, const V& v) {
  __builtin_memcpy(p, &v, sizeof v);
}
template <class T, int W>
KETY_FN void store(T* p, const Lanes<T, W>& v) {
  put_vector(p, v);
}

template <class V>
KETY_FN V lower(const V& a, const V& b) {
  return a < b ? a : b;
}
template <class V>
KETY_FN V upper(const V& a, const V& b) {
  return a > b ? a : b;
}

template <class T, int W>
KETY_FN Lanes<T, W> root(const Lanes<T, W>& x) {
  Lanes<T, W> r;
  for (int l = 0; l < W; ++l) {
    if constexpr (sizeof(T) == 4)
      set<T, W>(r, l, __builtin_sqrtf(get<T, W>(x, l)));
    else
      set<T, W>(r, l, __builtin_sqrt(get<T, W>(x, l)));
  }
  return r;
}

// exp(-x) of every lane, for x >= 0; 0 where that is too small for a normal number.
template <class T, int W>
KETY_FN Lanes<T, W> decay_of(const Lanes<T, W>& x) {
  using V = Lanes<T, W>;
  [[maybe_unused]] typedef decltype(V{} < V{}) I;
  constexpr bool single = sizeof(T) == 4;
  constexpr int terms = single ? 7 : 13;
  constexpr T largest = single ? T(87) : T(708);
  const V in = x < largest ? x : V{} + largest;
  // x = n ln 2 + r with |r| <= ln 2 / 2, and ln 2 in two parts so that the product loses nothing.
  V n;
  if constexpr (W == 1) n = static_cast<T>(static_cast<int>(in * T(1.4426950408889634) + T(0.5)));
#ifndef KETY_CUDA
  else
    n = __builtin_convertvector(__builtin_convertvector(in * T(1.4426950408889634) + T(0.5), I), V);
#endif
  const T high = single ? T(0.693359375) : T(6.93147180369123816490e-01);
  const T low = single ? T(-2.12194440e-4) : T(1.90821492927058770002e-10);
  const V one = V{} + T(1), r = less_product(less_product(in, n, high), n, low);
  V sum = one;
#pragma GCC unroll 16
  for (int i = terms; i > 0; --i) sum = less_product(one, r * sum, T(1) / T(i));
  V power;
  if constexpr (W == 1) {
    power = single ? __builtin_ldexpf(1.0f, -static_cast<int>(n))
                   : __builtin_ldexp(1.0, -static_cast<int>(n));
  }
#ifndef KETY_CUDA
  else {
    const I bits = ((single ? 127 : 1023) - __builtin_convertvector(n, I)) << (single ? 23 : 52);
    __builtin_memcpy(&power, &bits, sizeof power);
  }
#endif
  return x < largest ? V(sum * power) : V{};
}

// A mask is what a comparison of lanes gives: bool for one lane, an integer vector for more.
template <class T, int W>
using Mask = decltype(Lanes<T, W>{} < Lanes<T, W>{});

template <class T, int W>
KETY_FN bool any(const Mask<T, W>& m) {
  if constexpr (W == 1) {
    return m;
  } else {
    bool r = false;
    for (int l = 0; l < W; ++l) r |= m[l] != 0;
    return r;
  }
}

template <class M>
KETY_FN M none_of(const M& m) {
  return m == M{};
}

template <class T, int W>
KETY_FN bool is_set(const Mask<T, W>& m, int lane) {
  if constexpr (W == 1)
    return m;
  else
    return m[lane] != 0;
}

}  // namespace KETY_NS
