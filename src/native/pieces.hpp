// The input's pieces as the bindings pass them, brought to the precision of the arithmetic.
#pragma once
#include "solver.hpp"

namespace KETY_NS {

template <class T>
struct OwnPieces {
  Pieces<T> pieces;
  void* memory;
};

#ifdef KETY_CUDA
// On a GPU the caller has brought them there in that precision, and keeps them.
template <class T>
OwnPieces<T> cast_pieces(const PiecesCall& in) {
  return {{in.count, in.start, reinterpret_cast<const T*>(in.taylor),
           reinterpret_cast<const T*>(in.step), in.bucket, in.buckets, in.bucket_origin,
           in.bucket_rate},
          nullptr};
}
#else
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
#endif

// The part of a solver's problem that measured curves give; its memory is released with `close`.
template <class T>
struct OwnProblem {
  Problem<T> problem = {};
  OwnPieces<T> levels[kLevels];
  T* ones = nullptr;  // weights where there are none
  bool plain;         // no weights, no baseline

  explicit OwnProblem(const CurvesOfVoxels& call) : plain(!call.weights && !call.baseline) {
    for (int i = 0; i < kLevels; ++i) {
      levels[i] = cast_pieces<T>(call.input[i]);
      problem.input[i] = levels[i].pieces;
      problem.limit[i] = static_cast<T>(call.input[i].rate_limit);
    }
    problem.times = call.times;
    problem.frames = call.frames;
    problem.baseline = call.baseline;
    problem.weight_sum = static_cast<T>(call.weight_sum);
#ifndef KETY_CUDA  // there the caller gives weights wherever they are needed
    if (!plain && !call.weights) {
      ones = static_cast<T*>(kety_allocate(static_cast<long>(sizeof(T)) * call.frames));
      for (int j = 0; j < call.frames; ++j) ones[j] = 1;
    }
#endif
    problem.weights = ones ? ones : static_cast<const T*>(call.weights);
  }
  void close() {
    if (ones) kety_release(ones);
    for (auto& level : levels) kety_release(level.memory);
  }
};

}  // namespace KETY_NS
