// Lanes: W voxels side by side in one SIMD register, or one voxel (W = 1, also on a GPU).
// Everything is written on GCC/Clang vector types, so one source serves every instruction set.
#pragma once

#ifndef KETY_NS
#define KETY_NS kety_plain
#endif
#ifdef __CUDACC__
#define KETY_FN __device__ __forceinline__
#else
#define KETY_FN inline __attribute__((always_inline))
#endif

// The stages of a block, kept apart so that a profile names them.
#define KETY_STAGE __attribute__((noinline))

namespace KETY_NS {

template <class T, int W>
struct LaneType {
  typedef T type __attribute__((vector_size(W * sizeof(T))));
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

template <class T, int W>
KETY_FN Lanes<T, W> broadcast(T x) {
  return Lanes<T, W>{} + x;
}

template <class T, int W>
KETY_FN Lanes<T, W> load(const T* p) {
  Lanes<T, W> v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

template <class T, int W>
KETY_FN void store(T* p, const Lanes<T, W>& v) {
  __builtin_memcpy(p, &v, sizeof v);
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
