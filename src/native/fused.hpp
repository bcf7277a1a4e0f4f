// Sums of products rounded once. The compiler chooses none by itself, neither for processors nor
// for cards: what is fused is written down, so that all that can fuse give the same digits.
#pragma once
#include "device.hpp"

#ifndef KETY_NS
#define KETY_NS kety_plain
#endif
#ifdef __CUDACC_RTC__
#define KETY_FN __device__ __forceinline__
#else
#define KETY_FN inline __attribute__((always_inline))
#endif

#if defined(__FMA__) && !defined(KETY_CUDA)
#define KETY_X86_FMA
#include <immintrin.h>
#endif

namespace KETY_NS {

// Old processors have no instruction for it: theirs are the only digits that differ.
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA) || defined(__CUDACC_RTC__)
constexpr bool kFuses = true;
#else
constexpr bool kFuses = false;
#endif

// a b + c
KETY_FN float fused(float a, float b, float c) {
  return kFuses ? __builtin_fmaf(a, b, c) : a * b + c;
}
KETY_FN double fused(double a, double b, double c) {
  return kFuses ? __builtin_fma(a, b, c) : a * b + c;
}

template <class T, int N>
KETY_FN Pack<T, N> fused(const Pack<T, N>& a, const Pack<T, N>& b, const Pack<T, N>& c) {
  Pack<T, N> r;
  for (int i = 0; i < N; ++i) r.part[i] = fused(a.part[i], b.part[i], c.part[i]);
  return r;
}
#ifndef KETY_CUDA
// Of vectors no longer than a register.
template <class V>
KETY_FN V fused(const V& a, const V& b, const V& c) {
  if constexpr (!kFuses) {
    return a * b + c;
  } else {
#ifdef KETY_X86_FMA
    constexpr bool single = sizeof a[0] == sizeof(float);
    if constexpr (sizeof(V) == 16)
      if constexpr (single)
        return (V)_mm_fmadd_ps((__m128)a, (__m128)b, (__m128)c);
      else
        return (V)_mm_fmadd_pd((__m128d)a, (__m128d)b, (__m128d)c);
    else if constexpr (sizeof(V) == 32)
      if constexpr (single)
        return (V)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
      else
        return (V)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#ifdef __AVX512F__
    else if constexpr (single)
      return (V)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
    else
      return (V)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#else
    else
      static_assert(sizeof(V) <= 32, "longer than a register");
#endif
#else
    V r;
    for (unsigned l = 0; l < sizeof(V) / sizeof a[0]; ++l) r[l] = fused(a[l], b[l], c[l]);
    return r;
#endif
  }
}
#endif

template <class V, class X>
constexpr bool kSame = false;
template <class V>
constexpr bool kSame<V, V> = true;
template <class V>
constexpr bool kIsPack = false;
template <class T, int N>
constexpr bool kIsPack<Pack<T, N>> = true;

// A number in every lane, or lanes as they are.
template <class V, class X>
KETY_FN V spread(const X& x) {
  if constexpr (kSame<V, X>) {
    return x;
  } else if constexpr (kIsPack<V>) {
    V v;
    for (auto& part : v.part) part = x;
    return v;
  } else {
    return x - V{};  // x + V{} would not be x where x is -0
  }
}

// c + a b and c - a b, fused; a and b are lanes or single numbers.
template <class V, class A, class B>
KETY_FN V add_product(const V& c, const A& a, const B& b) {
  return fused(spread<V>(a), spread<V>(b), c);
}
template <class V, class A, class B>
KETY_FN V less_product(const V& c, const A& a, const B& b) {
  return fused(spread<V>(A(-a)), spread<V>(b), c);
}

}  // namespace KETY_NS
