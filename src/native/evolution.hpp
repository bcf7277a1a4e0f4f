// Differential evolution in the unit box (Price, Storn and Lampinen, Differential Evolution, 2005):
// rand/1/bin or best/1/bin, one generation at a time, bounds by bouncing back towards the base.
//
// Random numbers are a function of seed, generation, member and draw alone, so that a voxel's
// result does not depend on where or beside what it is computed.
#pragma once
#include "lanes.hpp"

namespace KETY_NS {

struct Random {
  unsigned long long key;

  // Output function of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
  KETY_FN unsigned long long bits(unsigned long long counter) const {
    unsigned long long z = key + (counter + 1) * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }
  KETY_FN double uniform(unsigned long long counter) const {
    return static_cast<double>(bits(counter) >> 11) * 0x1p-53;
  }
  KETY_FN int below(unsigned long long counter, int n) const {
    return static_cast<int>((bits(counter) >> 32) * static_cast<unsigned long long>(n) >> 32);
  }
};

template <class T>
struct EvolutionRules {
  int dimension, members;
  double weight, crossover;
  bool from_best;
  Random random;
};

constexpr int kDraws = 16;  // random numbers set aside for one member and generation

// The rival of one member: x is (members, 4).
template <class T>
KETY_FN void mutate(const EvolutionRules<T>& rules, const T* x, int best, int generation,
                    int member, T rival[4]) {
  const unsigned long long base =
      (static_cast<unsigned long long>(generation) * rules.members + member) * kDraws;
  const int n = rules.members;
  // Three others, all different: each is drawn from those left, and steps over the ones taken.
  int taken[4] = {member}, chosen[3];
  for (int i = 0; i < 3; ++i) {
    int r = rules.random.below(base + i, n - 1 - i);
    for (int q = 0; q <= i; ++q) r += r >= taken[q];
    chosen[i] = r;
    int q = i + 1;
    for (; q > 0 && taken[q - 1] > r; --q) taken[q] = taken[q - 1];
    taken[q] = r;
  }
  const T* origin = x + 4 * (rules.from_best ? best : chosen[0]);
  const T *a = x + 4 * chosen[1], *b = x + 4 * chosen[2];
  const int forced = rules.random.below(base + 3, rules.dimension);
  for (int j = 0; j < rules.dimension; ++j) {
    rival[j] = x[4 * member + j];
    if (j != forced && rules.random.uniform(base + 4 + j) >= rules.crossover) continue;
    T v = origin[j] + static_cast<T>(rules.weight) * (a[j] - b[j]);
    const T part = static_cast<T>(rules.random.uniform(base + 8 + j));
    if (v < T(0)) v = part * origin[j];
    if (v > T(1)) v = T(1) - part * (T(1) - origin[j]);
    rival[j] = v;
  }
}

}  // namespace KETY_NS
