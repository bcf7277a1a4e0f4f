// The input's pieces as the bindings pass them, brought to the precision of the arithmetic.
#pragma once
#include "kernel.hpp"

namespace KETY_NS {

template <class T>
struct OwnPieces {
  Pieces<T> pieces;
  void* memory;
};

template <class T>
OwnPieces<T> cast_pieces(const PiecesCall& in) {
  const long bytes = static_cast<long>(sizeof(T)) * in.count * 5 + 64;
  T* memory = static_cast<T*>(kety_allocate(bytes));
  T *taylor = memory, *step = memory + 4L * in.count;
  for (long i = 0; i < 4L * in.count; ++i) taylor[i] = static_cast<T>(in.taylor[i]);
  for (int i = 0; i < in.count; ++i) step[i] = static_cast<T>(in.step[i]);
  return {
      {in.count, in.start, taylor, step, in.bucket, in.buckets, in.bucket_origin, in.bucket_rate},
      memory};
}

}  // namespace KETY_NS
