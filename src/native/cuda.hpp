// A GPU's threads as the kernels see them, and the same on a processor for tests: there KETY_CUDA
// is set without NVRTC, the threads of a block take turns, and blocks follow one another.
#pragma once

#ifdef __CUDACC_RTC__

#define KETY_KERNEL extern "C" __global__ void
#define KETY_SHARED __shared__

__device__ __forceinline__ void barrier() { __syncthreads(); }
// Counts n things and returns the number before them.
__device__ __forceinline__ unsigned take(unsigned* counter, unsigned n) {
  return atomicAdd(counter, n);
}
__device__ __forceinline__ unsigned char* block_memory() {
  extern __shared__ unsigned char kety_block_memory[];
  return kety_block_memory;
}

#else

#include <new>

struct GridIndex {
  int x;
};
extern GridIndex threadIdx, blockIdx, blockDim, gridDim;
void barrier();
unsigned char* block_memory();
inline unsigned take(unsigned* counter, unsigned n) {
  const unsigned before = *counter;
  *counter += n;
  return before;
}

#define KETY_KERNEL extern "C" void
#define KETY_SHARED static

#endif

// An object that the threads of a block share; the first of them makes it.
#define KETY_SHARED_OBJECT(Type, name, ...)                                          \
  KETY_SHARED unsigned long long name##_memory[(sizeof(Type) + 7) / 8];              \
  if (threadIdx.x == 0) ::new (static_cast<void*>(name##_memory)) Type(__VA_ARGS__); \
  barrier();                                                                         \
  Type& name = *reinterpret_cast<Type*>(name##_memory)

// Number of this thread among all, and how many there are.
#define KETY_INDEX (static_cast<long>(blockIdx.x) * blockDim.x + threadIdx.x)
#define KETY_THREADS (static_cast<long>(gridDim.x) * blockDim.x)
