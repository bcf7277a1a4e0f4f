// The starts of a chunk of voxels on their way to minima (terms_fit.hpp), and the curves that they
// are compared with.
#pragma once
#include "terms.hpp"

namespace KETY_NS {

template <class T, int P>
struct Walks {  // of a chunk's starts
  long n;
  T *p, *trial, *g, *h, *slope, *cost, *plain, *damping, *fall, *offset;
  int *owner, *evaluations, *state, *queue, *order, *bin, *item;
  void* memory;

  // Where element i of `count` of start t lies. On the processor those of a start lie together, so
  // that the starts of a register's lanes come from few lines of the cache; on a card those of
  // neighbouring threads do.
  KETY_FN long at(int i, long t, int count) const {
#ifdef KETY_CUDA
    return i * n + t + 0L * count;
#else
    return t * count + i;
#endif
  }
};

template <class T, int P>
Walks<T, P> make_walks(long n) {
  Walks<T, P> s = {};
  s.n = n;
  for (int pass = 0; pass < 2; ++pass) {
    long used = 0;
    auto take = [&]<class E>(E*& p, long count) {
      if (pass == 1) p = reinterpret_cast<E*>(static_cast<char*>(s.memory) + used);
      used += (count * static_cast<long>(sizeof(E)) + 127) / 64 * 64;
    };
    take(s.p, P * n);
    take(s.trial, P * n);
    take(s.g, P * n);
    take(s.slope, P * n);
    take(s.h, kPacked<P> * n);
    take(s.cost, n);
    take(s.plain, n);
    take(s.damping, n);
    take(s.fall, n);
    take(s.offset, n);
    take(s.owner, n);
    take(s.evaluations, n);
    take(s.state, n);
    take(s.queue, n);
    take(s.order, n);
    take(s.bin, n);
    take(s.item, n);
    if (pass == 0) s.memory = kety_allocate(used);
  }
  return s;
}

enum WalkState { kWalking = 0, kArrived = 1, kOutOfSteps = 2 };

// What the samples of a chunk's curves say of themselves, and the curves, ready to be compared.
template <class T>
struct Curves {
  T *y, *mean, *square, *spread;
  bool* finite;
};

template <class T>
KETY_STAGE void load_curves(const TermsCall& call, long start, int n, Curves<T>& c) {
  const int frames = call.frames;
  const T* weights = static_cast<const T*>(call.weights);
  const T scale = static_cast<T>(call.curve_scale);
  for (int b = 0; b < n; ++b) {
    const T* from = static_cast<const T*>(call.curves) + (start + b) * frames;
    T* y = c.y + static_cast<long>(b) * frames;
    T total = 0;
    for (int j = 0; j < frames; ++j) total += y[j] = scale * from[j];
    const T mean = total / static_cast<T>(frames);
    T spread = 0, square = 0, sum = 0;
    for (int j = 0; j < frames; ++j) {
      spread += (y[j] - mean) * (y[j] - mean);
      // A fitted baseline makes the level irrelevant; without it sums keep their precision.
      if (call.baseline) y[j] -= mean;
      sum += weights[j] * y[j];
      square += weights[j] * y[j] * y[j];
    }
    if (call.baseline) square -= sum * sum / static_cast<T>(call.weight_sum);
    c.mean[b] = call.baseline ? mean : T(0);
    c.spread[b] = spread;
    c.square[b] = square;
    c.finite[b] = square - square == 0 && spread - spread == 0;
    if (!c.finite[b])
      for (int j = 0; j < frames; ++j) y[j] = 0;
  }
}

// Start q of the call as walk t, of the voxel b.
template <class T, int P>
KETY_FN void begin_walk(const TermsCall& call, long q, int b, int t, Walks<T, P>& s) {
  for (int i = 0; i < P; ++i) {
    T x = 0;
    if (i < call.model.parameters) {
      x = static_cast<T>(call.start[q * call.model.parameters + i]);
      const int jump = jump_of(call.model, i);
      const double* band = call.band + 2 * (q * call.model.jumps + jump);
      const T lo = static_cast<T>(jump >= 0 ? band[0] : call.lo[i]);
      const T hi = static_cast<T>(jump >= 0 ? band[1] : call.hi[i]);
      if (!call.fixed[i]) x = x < lo ? lo : x > hi ? hi : x;
    }
    s.trial[s.at(i, t, P)] = s.p[s.at(i, t, P)] = x;
    s.g[s.at(i, t, P)] = s.slope[s.at(i, t, P)] = 0;
  }
  for (int i = 0; i < kPacked<P>; ++i) s.h[s.at(i, t, kPacked<P>)] = 0;
  s.owner[t] = b;
  s.cost[t] = static_cast<T>(__builtin_inf());
  s.plain[t] = s.fall[t] = s.offset[t] = 0;
  s.damping[t] = static_cast<T>(1e-3);
  s.evaluations[t] = 0;
  s.state[t] = kWalking;
}

// Of the walks of a voxel the first of least cost, with the evaluations of all; f is -1 at first.
template <class T, int P>
KETY_FN void compare_walk(const Curves<T>& curves, int t, Walks<T, P>& s, int& f) {
  if (!curves.finite[s.owner[t]] || !(s.cost[t] - s.cost[t] == 0)) return;
  if (f < 0) {
    f = t;
  } else {
    const int spent = s.evaluations[f] + s.evaluations[t];
    if (s.cost[t] < s.cost[f]) f = t;
    s.evaluations[f] = spent;
  }
}

}  // namespace KETY_NS
