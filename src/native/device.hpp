// What differs where the headers are compiled for a GPU: KETY_CUDA is set by NVRTC's caller and, to
// run the same device code on a processor, by the tests. One voxel is then one lane, W = 1.
#pragma once

// The compiler's built-in functions that NVRTC lacks, by CUDA's own.
#ifdef __CUDACC_RTC__
__device__ __forceinline__ float __builtin_sqrtf(float x) { return sqrtf(x); }
__device__ __forceinline__ double __builtin_sqrt(double x) { return sqrt(x); }
__device__ __forceinline__ float __builtin_fmaf(float x, float y, float z) { return fmaf(x, y, z); }
__device__ __forceinline__ double __builtin_fma(double x, double y, double z) {
  return fma(x, y, z);
}
__device__ __forceinline__ float __builtin_ldexpf(float x, int n) { return ldexpf(x, n); }
__device__ __forceinline__ double __builtin_ldexp(double x, int n) { return ldexp(x, n); }
__device__ __forceinline__ float __builtin_fabs(float x) { return fabsf(x); }
__device__ __forceinline__ double __builtin_fabs(double x) { return fabs(x); }
__device__ __forceinline__ float __builtin_fabsf(float x) { return fabsf(x); }
__device__ __forceinline__ double __builtin_inf() {
  return __longlong_as_double(0x7ff0000000000000ll);
}
__device__ __forceinline__ double __builtin_nan(const char*) {
  return __longlong_as_double(0x7ff8000000000000ll);
}
__device__ __forceinline__ int __builtin_popcountll(unsigned long long x) { return __popcll(x); }
__device__ __forceinline__ int __builtin_ctzll(unsigned long long x) {
  return __ffsll(static_cast<long long>(x)) - 1;
}
#define KETY_PACK_FN __device__ __forceinline__
#else
#define KETY_PACK_FN inline __attribute__((always_inline))
#endif

// A few numbers side by side: on a GPU, which has no vector types, rows of tables and small
// vectors, never voxels; on a processor vectors of parameters that are not a power of 2, or too
// many.
template <class T, int N>
struct Pack {
  T part[N];

  KETY_PACK_FN T& operator[](int i) { return part[i]; }
  KETY_PACK_FN const T& operator[](int i) const { return part[i]; }
#define KETY_PACK_OPERATOR(OP)                                  \
  KETY_PACK_FN Pack& operator OP## = (const Pack& b) {          \
    for (int i = 0; i < N; ++i) part[i] OP## = b.part[i];       \
    return *this;                                               \
  }                                                             \
  KETY_PACK_FN Pack& operator OP## = (T b) {                    \
    for (int i = 0; i < N; ++i) part[i] OP## = b;               \
    return *this;                                               \
  }                                                             \
  KETY_PACK_FN friend Pack operator OP(Pack a, const Pack& b) { \
    a OP## = b;                                                 \
    return a;                                                   \
  }                                                             \
  KETY_PACK_FN friend Pack operator OP(Pack a, T b) {           \
    a OP## = b;                                                 \
    return a;                                                   \
  }
  KETY_PACK_OPERATOR(+)
  KETY_PACK_OPERATOR(-)
  KETY_PACK_OPERATOR(*)
#undef KETY_PACK_OPERATOR
  KETY_PACK_FN friend Pack operator-(Pack a) {
    for (int i = 0; i < N; ++i) a.part[i] = -a.part[i];
    return a;
  }
  KETY_PACK_FN friend Pack operator*(T a, Pack b) {
    b *= a;
    return b;
  }
};

#ifdef __CUDACC_RTC__
// Element by element: NVRTC forgets how arrays lie and would copy byte by byte.
template <class T>
KETY_PACK_FN void __builtin_memcpy(T* to, const T* from, unsigned long) {
  *to = *from;
}
template <class T, int N>
KETY_PACK_FN void __builtin_memcpy(Pack<T, N>* to, const T* from, unsigned long) {
  for (int i = 0; i < N; ++i) to->part[i] = from[i];
}
template <class T, int N>
KETY_PACK_FN void __builtin_memcpy(T* to, const Pack<T, N>* from, unsigned long) {
  for (int i = 0; i < N; ++i) to[i] = from->part[i];
}
#endif

// As __builtin_shufflevector of two packs.
template <int... I, class T, int N>
KETY_PACK_FN Pack<T, N> shuffled(const Pack<T, N>& a, const Pack<T, N>& b) {
  return {{(I < N ? a.part[I < N ? I : 0] : b.part[I < N ? 0 : I - N])...}};
}
