// Models of several terms on a GPU, W = 1: the exact solution from given starts, normal equations
// and curves. cuda_starts.hpp searches for the starts.
#include "cuda.hpp"
#include "cuda_types.hpp"
#include "terms_at.hpp"
#include "terms_fit.hpp"

using namespace KETY_NS;
using T = KETY_REAL;
constexpr int P = KETY_SIZE;
using Shared = TermsProblem<T>;

KETY_FN T* knots_of(const TermsCard& card) {
  return static_cast<T*>(card.knots) + 4L * card.pieces * card.model.groups * KETY_INDEX;
}
KETY_FN T* tile_of(const TermsCard& card) {
  return static_cast<T*>(card.tile) + static_cast<long>(card.frames) * KETY_INDEX;
}
KETY_FN Curves<T> curves_of(const TermsCard& card) {
  return {static_cast<T*>(card.y), static_cast<T*>(card.mean), static_cast<T*>(card.square),
          static_cast<T*>(card.spread), card.finite};
}
KETY_FN Curves<T> curves_of(const TermsCard& card, long i) {
  Curves<T> c = curves_of(card);
  return {c.y + i * card.frames, c.mean + i, c.square + i, c.spread + i, c.finite + i};
}
KETY_FN Walks<T, P> walks_of(const TermsCard& card) {
  Walks<T, P> s = {};
  s.n = card.tasks;
  s.p = static_cast<T*>(card.p);
  s.trial = static_cast<T*>(card.trial);
  s.g = static_cast<T*>(card.g);
  s.h = static_cast<T*>(card.h);
  s.slope = static_cast<T*>(card.slope);
  s.cost = static_cast<T*>(card.cost_of);
  s.plain = static_cast<T*>(card.plain_of);
  s.damping = static_cast<T*>(card.damping);
  s.fall = static_cast<T*>(card.fall);
  s.offset = static_cast<T*>(card.offset_of);
  s.owner = card.owner;
  s.evaluations = card.evaluations_of;
  s.state = card.state;
  s.queue = card.queue;
  return s;
}

KETY_KERNEL terms_forward(TermsCard* card) {
  KETY_SHARED_OBJECT(Shared, problem, *card);
  for (long v = KETY_INDEX; v < card->voxels; v += KETY_THREADS)
    terms_forward_of<T, 1, P>(*card, problem, v, v + 1, knots_of(*card));
}

KETY_KERNEL terms_normals(TermsCard* card) {
  KETY_SHARED_OBJECT(Shared, problem, *card);
  for (long v = KETY_INDEX; v < card->voxels; v += KETY_THREADS)
    terms_normals_of<T, 1, P>(*card, problem, v, v + 1, tile_of(*card), knots_of(*card));
}

// Curves and starts. `first` counts from the first task of the chunk.
KETY_KERNEL terms_begin(TermsCard* card) {
  Walks<T, P> s = walks_of(*card);
  for (long v = KETY_INDEX; v < card->voxels; v += KETY_THREADS) {
    Curves<T> own = curves_of(*card, v);
    load_curves<T>(*card, v, 1, own);
    for (long q = card->first[v]; q < card->first[v + 1]; ++q)
      begin_walk<T, P>(*card, q, static_cast<int>(v), static_cast<int>(q), s);
  }
}

// The starts of each voxel to their minima, in rounds over those that still run, as on a processor;
// a thread that has done with a voxel takes the next. Each turn of its loop is a step of one start,
// so that none waits for a thread with more of them.
KETY_KERNEL terms_walk(TermsCard* card) {
  KETY_SHARED_OBJECT(Shared, problem, *card);
  const Curves<T> curves = curves_of(*card);
  const Walks<T, P> s = walks_of(*card);
  int *queue = nullptr, active = 0, at = 0, next = 0, round = 0;
  for (;;) {
    if (at == active) {  // the round is over
      active = ++round < card->max_evaluations && next > 0
                   ? still_in_question<T, P>(queue, next, card->tasks, s)
                   : 0;
      at = next = 0;
      while (active == 0) {
        const unsigned v = take(&card->next_voxel, 1);
        if (v >= static_cast<unsigned long>(card->voxels)) return;
        const int first = static_cast<int>(card->first[v]);
        active = static_cast<int>(card->first[v + 1]) - first;
        queue = s.queue + first;
        for (int i = 0; i < active; ++i) queue[i] = first + i;
        round = 0;
      }
    }
    const int id[1] = {queue[at++]};
    T p[P];
    for (int i = 0; i < P; ++i) p[i] = s.trial[s.at(i, id[0], P)];
    const int level = level_at<T, P>(problem, p);
    walk_step<T, 1, P>(*card, problem, level, 0, id, 1, curves, tile_of(*card), knots_of(*card), s);
    if (s.state[id[0]] != kArrived) queue[next++] = id[0];
  }
}

KETY_KERNEL terms_write(TermsCard* card) {
  Walks<T, P> s = walks_of(*card);
  const Curves<T> curves = curves_of(*card);
  for (long v = KETY_INDEX; v < card->voxels; v += KETY_THREADS) {
    int& best = card->best[v];
    best = -1;
    for (long t = card->first[v]; t < card->first[v + 1]; ++t)
      compare_walk<T, P>(curves, static_cast<int>(t), s, best);
    write_fits<T, 1, P>(*card, v, 1, curves_of(*card, v), &best, s);
  }
}
