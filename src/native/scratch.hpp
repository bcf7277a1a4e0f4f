// Working memory of one thread and the constants of the search.
#pragma once
#include "dictionary.hpp"
#include "solver.hpp"
#include "types.hpp"

namespace KETY_NS {

constexpr int kCandidates = 8;  // cells refined for one voxel
constexpr int kRateStarts = 4;  // rates tried again beside the best cell, in clean data
constexpr int kRepeats = (2 + kRateStarts) * kCandidates;  // further climbs of one voxel
constexpr int kVisits = 3;  // cells that one refinement may walk through
constexpr int kMaxBlock = 2048;
// Relative to a curve's sum of squares: the worst squared error of a cell's curves, the residual
// below which a curve is so clean that this worst decides, and the error of an unrefined centre.
constexpr float kCleanError = 1e-3f, kClean = 1e-4f, kCentreError = 2e-3f;
// Where a tight bound holds an amplitude: how much worse a rival's centre and its refined minimum
// may be.
constexpr float kBoundedRatio = 2.0f, kPressed = 0.03f;
// A jump that stands at the bound of the delay leaves that one delay a cell of its own, which
// differs from its neighbour by little more than a sample: more than the basis may see.
constexpr float kAloneRatio = 2.0f, kAlone = 0.25f;
// Residual at a centre below which noise does not decide, and how much worse a rival may then be.
constexpr float kFaint = 5e-3f, kFaintRatio = 4.0f;
constexpr int kBins = 1024;  // of the delay, to bring like voxels together

struct Candidate {
  int voxel, delay, rate;
  float x, y;                // where the climb starts, in half widths
  float v, a, k, tau, miss;  // where it ended, and the residual in the basis
};

// The bounds of a fit in the precision of its problem.
template <class T>
KETY_FN void bound_problem(const FitCall& call, Problem<T>& problem) {
  for (int i = 0; i < kParameters; ++i) {
    problem.lo[i] = static_cast<T>(call.lo[i]);
    problem.hi[i] = static_cast<T>(call.hi[i]);
    problem.fixed[i] = !(call.hi[i] > call.lo[i]);
  }
}

// Working memory of one thread, sized once; nothing is allocated per voxel.
template <class T, int W, int F>
struct Scratch {
  T* y = nullptr;            // (block, frames)
  T* tile = nullptr;         // (frames, W)
  float* z = nullptr;        // (block, rank)
  float* z_lanes = nullptr;  // (rank, F)
  float* best = nullptr;     // (delays, F)
  int* arg = nullptr;        // (delays, F)
  Lanes<T, W>* knots = nullptr;
  Candidate* candidates = nullptr;
  Candidate* repeats = nullptr;
  int* origin = nullptr;  // candidate that a repeat stands for
  int* order = nullptr;
  int* sorted = nullptr;
  int* node_count = nullptr;  // (delays * rates + 1)
  int* queue = nullptr;
  T *p = nullptr, *trial = nullptr, *g = nullptr, *h = nullptr, *cost = nullptr, *plain = nullptr,
    *damping = nullptr, *fall = nullptr, *band = nullptr, *offset = nullptr, *slope = nullptr,
    *mean = nullptr, *square = nullptr, *spread = nullptr;
  int *evaluations = nullptr, *owner = nullptr, *state = nullptr, *first = nullptr, *bin = nullptr;
  int block = 0, tasks = 0;
  void* memory = nullptr;
};

enum TaskState { kRunning = 0, kDone = 1, kLimit = 2 };

template <class T, int W, int F>
Scratch<T, W, F> make_scratch(const FitCall& call) {
  Scratch<T, W, F> s;
  // Large, so that voxels of like delay meet in one register; a block's curves stay in cache.
  long block = (1L << 20) / (static_cast<long>(sizeof(T)) * call.frames);
  block = block < 256 ? 256 : block > kMaxBlock ? kMaxBlock : block / 64 * 64;
  // Of very long series less fits into memory.
  const long most = (1L << 28) / (static_cast<long>(sizeof(T)) * call.frames);
  if (block > most) block = most < W ? W : most / W * W;
  s.block = static_cast<int>(block);
  s.tasks = (kCandidates + kRepeats) * s.block;
  for (int pass = 0; pass < 2; ++pass) {
    long used = 0;
    auto take = [&]<class E>(E*& p, long n) {
      if (pass == 1) p = reinterpret_cast<E*>(static_cast<char*>(s.memory) + used);
      used += (n * static_cast<long>(sizeof(E)) + 127) / 64 * 64;
    };
    const int rank = call.rank, n = s.tasks;
    take(s.y, static_cast<long>(call.frames) * s.block);
    take(s.tile, static_cast<long>(call.frames) * W);
    take(s.z, static_cast<long>(s.block + F) * rank);
    take(s.z_lanes, static_cast<long>(rank) * F);
    take(s.best, static_cast<long>(call.delays) * F);
    take(s.arg, static_cast<long>(call.delays) * F);
    take(s.knots, 2L * call.pieces);
    take(s.candidates, static_cast<long>(s.block) * kCandidates);
    take(s.repeats, static_cast<long>(kRepeats) * s.block);
    take(s.origin, static_cast<long>(kRepeats) * s.block);
    take(s.order, s.tasks);
    take(s.sorted, s.tasks);
    take(s.node_count, static_cast<long>(call.delays) * call.rates + 1);
    take(s.queue, n);
    take(s.p, kParameters * n);
    take(s.trial, kParameters * n);
    take(s.g, kParameters * n);
    take(s.h, kPairs * n);
    take(s.cost, n);
    take(s.plain, n);
    take(s.offset, n);
    take(s.slope, kParameters * n);
    take(s.mean, s.block);
    take(s.damping, n);
    take(s.fall, n);
    take(s.band, 2L * n);
    take(s.square, s.block);
    take(s.spread, s.block);
    take(s.evaluations, n);
    take(s.owner, n);
    take(s.state, n);
    take(s.bin, n);
    take(s.first, s.block);
    if (pass == 0) s.memory = kety_allocate(used);
  }
  return s;
}

}  // namespace KETY_NS
