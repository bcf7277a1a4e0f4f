// The direct searches on a GPU, W = 1: a thread runs one simplex after another, a block the
// population of one voxel after another.
#include "cuda.hpp"
#include "cuda_types.hpp"
#include "direct.hpp"

using namespace KETY_NS;
using T = KETY_REAL;

// What one start of a voxel came to.
struct Found {
  T unit[4], cost;
  unsigned evaluations;
  bool converged;
};

// The model with its pieces, which lie ready in the precision of the arithmetic.
struct Model {
  Sampled<T> m;

  explicit Model(const SampledCall& call) : m(make_sampled<T>(call)) {
    for (int i = 0; i < kLevels; ++i)
      if (call.input[i].count > 0) m.input[i] = cast_pieces<T>(call.input[i]).pieces;
  }
};

KETY_FN SampledScratch<T, 1> scratch_of(const SearchCard& card) {
  const long length = card.model.transform;
  T* memory = static_cast<T*>(card.transforms) + 4 * length * KETY_INDEX;
  return {nullptr, memory, memory + length, memory + 2 * length, memory + 3 * length};
}

KETY_FN const T* curve_of(const SearchCard& card, long voxel) {
  return static_cast<const T*>(card.curves) + voxel * card.model.samples;
}

// Sums of squares; voxels that are not finite are done.
KETY_KERNEL search_begin(SearchCard* card) {
  KETY_SHARED_OBJECT(Model, model, card->model);
  for (long v = KETY_INDEX; v < card->voxels; v += KETY_THREADS) {
    const T square = curve_square(model.m, curve_of(*card, v));
    static_cast<T*>(card->square)[v] = square;
    if (!(square - square == T(0))) write_nothing<T>(*card, v);
  }
}

// All starts of all voxels form one queue; a thread takes the next when its simplex has converged.
KETY_KERNEL nelder_mead(SearchCard* card) {
  KETY_SHARED_OBJECT(Model, model, card->model);
  const Sampled<T>& m = model.m;
  SampledScratch<T, 1> scratch = scratch_of(*card);
  const unsigned starts = card->starts, total = static_cast<unsigned>(card->voxels) * starts;
  Simplex<T> simplex;
  SimplexRules<T> rules;
  T p[1][4], cost[1];
  unsigned item = 0;
  const T* y = nullptr;
  for (bool running = false;;) {
    if (!running) {
      item = take(&card->next_start, 1);
      if (item >= total) break;
      const T square = static_cast<T*>(card->square)[item / starts];
      if (!(square - square == T(0))) continue;
      rules = {m.free_count, card->max_iterations, tolerance(*card, square),
               static_cast<T>(card->xtol), static_cast<T>(card->step)};
      y = curve_of(*card, item / starts);
      simplex.start(rules, card->start + static_cast<long>(item % starts) * m.free_count);
      running = true;
    }
    unfold(m, simplex.ask, p[0]);
    any_costs<T, 1, 1, false>(m, p, y, scratch, cost);
    running = simplex.take(rules, cost[0]);
    if (running) continue;
    Found& found = static_cast<Found*>(card->found)[item];
    for (int i = 0; i < 4; ++i) found.unit[i] = i < m.free_count ? simplex.x[0][i] : T(0);
    found.cost = simplex.f[0];
    found.evaluations = static_cast<unsigned>(simplex.evaluations);
    found.converged = simplex.converged;
  }
}

// The least cost wins, of equals the first start.
KETY_KERNEL search_best(SearchCard* card) {
  KETY_SHARED_OBJECT(Model, model, card->model);
  for (long v = KETY_INDEX; v < card->voxels; v += KETY_THREADS) {
    const T square = static_cast<T*>(card->square)[v];
    if (!(square - square == T(0))) continue;
    const Found* found = static_cast<Found*>(card->found) + v * card->starts;
    int best = 0;
    unsigned evaluations = 0;
    for (int s = 0; s < card->starts; ++s) {
      evaluations += found[s].evaluations;
      if (found[s].cost < found[best].cost) best = s;
    }
    write_voxel(*card, model.m, v, found[best].unit, found[best].cost, evaluations,
                found[best].converged);
  }
}

// The members of a voxel's population are shared out among the threads of a block. They meet after
// the costs, which tell every thread the best, and after the rivals, which read other members.
KETY_KERNEL evolution(SearchCard* card) {
  KETY_SHARED_OBJECT(Model, model, card->model);
  const Sampled<T>& m = model.m;
  SampledScratch<T, 1> scratch = scratch_of(*card);
  const int members = card->starts;
  const EvolutionRules<T> rules = {m.free_count,    members,         card->weight,
                                   card->crossover, card->from_best, {card->seed}};
  T *x = reinterpret_cast<T*>(block_memory()), *rival = x + 4 * members, *f = x + 8 * members;
  for (long v = blockIdx.x; v < card->voxels; v += gridDim.x) {
    const T square = static_cast<T*>(card->square)[v];
    if (!(square - square == T(0))) continue;
    const T ftol = tolerance(*card, square);
    const T* y = curve_of(*card, v);
    for (int i = threadIdx.x; i < members; i += blockDim.x) first_rival(*card, m, i, rival + 4 * i);
    int best = 0, generation = 0;
    bool converged = false;
    for (;; ++generation) {
      for (int i = threadIdx.x; i < members; i += blockDim.x) {
        T p[1][4], cost[1];
        unfold(m, rival + 4 * i, p[0]);
        any_costs<T, 1, 1, true>(m, p, y, scratch, cost);
        compete(generation, rival + 4 * i, cost[0], x + 4 * i, f[i]);
      }
      barrier();
      converged = together(f, members, ftol, best);
      if (converged || generation >= card->max_iterations) break;
      for (int i = threadIdx.x; i < members; i += blockDim.x)
        mutate<T>(rules, x, best, generation, i, rival + 4 * i);
      barrier();
    }
    if (threadIdx.x == 0)
      write_voxel(*card, m, v, x + 4 * best, f[best],
                  static_cast<unsigned>(members) * (generation + 1), converged);
    barrier();
  }
}
