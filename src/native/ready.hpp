// A curve as the search for starts of models of several terms compares it.
#pragma once
#include "lanes.hpp"

namespace KETY_NS {

// Scaled, less its mean where a baseline is fitted, weighted; one that is not finite, or constant,
// is 0 and of no use. `start`: the first sample, if not negative. Returns whether it is of use.
template <class T>
KETY_FN bool ready_curve(const T* from, int frames, T factor, const T* weighted, bool baseline,
                         float* to, T& start) {
  T total = 0, low = factor * from[0], high = low;
  for (int j = 0; j < frames; ++j) {
    const T x = factor * from[j];
    total += x;
    low = x < low ? x : low;
    high = x > high ? x : high;
  }
  const bool good = total - total == 0 && high > low;
  const T mean = good && baseline ? total / static_cast<T>(frames) : T(0), first = factor * from[0];
  for (int j = 0; j < frames; ++j)
    to[j] = good ? static_cast<float>((factor * from[j] - mean) * weighted[j]) : 0.0f;
  start = good && first > 0 ? first : T(0);
  return good;
}

}  // namespace KETY_NS
