// The default solver on a GPU: the stages of block.hpp as kernels over a chunk of voxels, one
// voxel, candidate or start for a thread, with W = 1. Lists between the stages are filled by
// counters, so their order differs from run to run; what becomes of a voxel does not depend on it.
#include "block.hpp"
#include "cuda.hpp"
#include "cuda_types.hpp"
#include "pieces.hpp"

using namespace KETY_NS;
using T = KETY_REAL;
using Memory = Scratch<T, 1, 1>;
using Own = OwnProblem<T>;

// The arrays of a chunk as the stages know them.
KETY_FN Memory memory_of(const FitCard& card) {
  Memory s;
  s.y = static_cast<T*>(card.y);
  s.z = card.z;
  s.candidates = static_cast<Candidate*>(card.candidates);
  s.repeats = static_cast<Candidate*>(card.repeats);
  s.origin = card.origin;
  s.square = static_cast<T*>(card.square);
  s.mean = static_cast<T*>(card.mean);
  s.spread = static_cast<T*>(card.spread);
  s.first = card.first;
  s.p = static_cast<T*>(card.p);
  s.trial = static_cast<T*>(card.trial);
  s.g = static_cast<T*>(card.g);
  s.h = static_cast<T*>(card.h);
  s.slope = static_cast<T*>(card.slope);
  s.band = static_cast<T*>(card.walls);
  s.cost = static_cast<T*>(card.cost_of);
  s.plain = static_cast<T*>(card.plain_of);
  s.damping = static_cast<T*>(card.damping);
  s.fall = static_cast<T*>(card.fall);
  s.offset = static_cast<T*>(card.offset_of);
  s.evaluations = card.evaluations_of;
  s.owner = card.owner;
  s.state = card.state;
  s.tasks = card.tasks;
  return s;
}

// Those of one voxel, as a block of one.
KETY_FN Memory memory_of(const FitCard& card, long i) {
  Memory s = memory_of(card);
  s.y += i * card.frames;
  s.z += i * card.rank;
  s.square += i;
  s.mean += i;
  s.spread += i;
  s.first += i;
  return s;
}

// Curves, their products with the basis, and the cells worth refining.
KETY_KERNEL fit_search(FitCard* card) {
  KETY_SHARED_OBJECT(Dictionary, d, make_dictionary(*card));
  for (long i = KETY_INDEX; i < card->voxels; i += KETY_THREADS) {
    Memory s = memory_of(*card, i);
    float z[kMaxRank], best[kMaxDelays];
    int arg[kMaxDelays];
    Candidate found[kCandidates];
    s.z_lanes = z;
    s.best = best;
    s.arg = arg;
    s.candidates = found;
    load_block<T, 1, 1>(*card, i, 1, s, card->outcome + i);
    project<T, 1, 1>(d, card->frames, 1, s);
    const int count = choose<T, 1, 1>(*card, d, 1, s, card->outcome + i);
    const unsigned at = take(&card->candidate_total, count);
    card->candidate_first[i] = at;
    card->candidate_count[i] = count;
    for (int q = 0; q < count; ++q) {
      found[q].voxel = static_cast<int>(i);
      static_cast<Candidate*>(card->candidates)[at + q] = found[q];
    }
  }
}

KETY_FN void climb_all(const Dictionary& d, Candidate* list, unsigned count, const float* z) {
  for (long i = KETY_INDEX; i < count; i += KETY_THREADS) {
    const int id = static_cast<int>(i);
    bool moved = true;
    for (int visit = 0; visit < kVisits && moved; ++visit)
      climb_cells<1>(d, list, &id, 1, z, &moved);
  }
}

KETY_KERNEL fit_climb(FitCard* card) {
  KETY_SHARED_OBJECT(Dictionary, d, make_dictionary(*card));
  climb_all(d, static_cast<Candidate*>(card->candidates), card->candidate_total, card->z);
}

// Cells that are climbed again.
KETY_KERNEL fit_again(FitCard* card) {
  KETY_SHARED_OBJECT(Dictionary, d, make_dictionary(*card));
  const Memory s = memory_of(*card);
  for (long i = KETY_INDEX; i < card->voxels; i += KETY_THREADS) {
    const int from = card->candidate_first[i], count = card->candidate_count[i];
    card->repeat_first[i] = card->repeat_count[i] = 0;
    if (count == 0) continue;
    int best, end = group_end(s.candidates, from + count, from, best);
    int n = 0;
    Candidate unused;
    climbs_again(d, s, from, end, best, [&](int) -> Candidate& {
      ++n;
      return unused;
    });
    if (n == 0) continue;
    int at = card->repeat_first[i] = take(&card->repeat_total, n);
    card->repeat_count[i] = n;
    climbs_again(d, s, from, end, best, [&](int q) -> Candidate& {
      s.origin[at] = q;
      return s.repeats[at++];
    });
  }
}

KETY_KERNEL fit_climb_again(FitCard* card) {
  KETY_SHARED_OBJECT(Dictionary, d, make_dictionary(*card));
  climb_all(d, static_cast<Candidate*>(card->repeats), card->repeat_total, card->z);
}

// The starts of the exact solution.
KETY_KERNEL fit_starts(FitCard* card) {
  KETY_SHARED_OBJECT(Dictionary, d, make_dictionary(*card));
  KETY_SHARED_OBJECT(Own, own, *card);
  if (threadIdx.x == 0) bound_problem(*card, own.problem);
  barrier();
  Memory s = memory_of(*card);
  for (long i = KETY_INDEX; i < card->voxels; i += KETY_THREADS) {
    card->task_first[i] = card->task_count[i] = 0;
    const int from = card->candidate_first[i], count = card->candidate_count[i];
    if (count == 0) continue;
    const int again = card->repeat_first[i], end_again = again + card->repeat_count[i];
    for (int q = again; q < end_again; ++q) keep_better(s.candidates[s.origin[q]], s.repeats[q]);
    int best, end = group_end(s.candidates, from + count, from, best);
    int n = 0;
    choose_starts(*card, d, s, from, end, best, again, end_again, card->outcome[i],
                  [&](const Candidate&) { ++n; });
    if (n == 0) continue;
    int task = card->task_first[i] = take(&card->task_total, n);
    card->task_count[i] = n;
    choose_starts(*card, d, s, from, end, best, again, end_again, card->outcome[i],
                  [&](const Candidate& c) { add_task(d, own.problem, c, task++, s); });
  }
}

// The exact solution of every start. A thread that has arrived takes the next.
template <bool Plain>
KETY_FN void polish_all(FitCard* card, const Problem<T>& problem) {
  Memory s = memory_of(*card);
  const unsigned total = card->task_total;
  int task = -1, round = 0;
  for (;;) {
    if (task < 0) {
      const unsigned next = take(&card->next_task, 1);
      if (next >= total) break;
      task = static_cast<int>(next);
      round = 0;
    }
    const int level = level_of(problem, s.trial[2 * s.tasks + task]);
    polish_round<T, 1, 1, Plain>(*card, problem, level, &task, 1, s);
    if (s.state[task] == kDone || ++round >= card->max_evaluations) task = -1;
  }
}

KETY_KERNEL fit_polish(FitCard* card) {
  KETY_SHARED_OBJECT(Own, own, *card);
  if (threadIdx.x == 0) bound_problem(*card, own.problem);
  barrier();
  if (own.plain)
    polish_all<true>(card, own.problem);
  else
    polish_all<false>(card, own.problem);
}

KETY_KERNEL fit_write(FitCard* card) {
  KETY_SHARED_OBJECT(Own, own, *card);
  if (threadIdx.x == 0) bound_problem(*card, own.problem);
  barrier();
  for (long i = KETY_INDEX; i < card->voxels; i += KETY_THREADS) {
    Memory all = memory_of(*card), s = memory_of(*card, i);
    for (int q = 0; q < card->task_count[i]; ++q) compare_task(card->task_first[i] + q, all);
    write_block<T, 1, 1>(*card, own.problem, i, 1, s, card->outcome + i);
  }
}
