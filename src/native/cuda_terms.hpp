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

// Each start to its minimum; a thread that has arrived takes the next.
KETY_KERNEL terms_walk(TermsCard* card) {
  KETY_SHARED_OBJECT(Shared, problem, *card);
  const Curves<T> curves = curves_of(*card);
  for (;;) {
    const unsigned t = take(&card->next_task, 1);
    if (t >= static_cast<unsigned>(card->tasks)) break;
    int queue, order, bin, item;
    Walks<T, P> s = walks_of(*card);
    for (T** part :
         {&s.p, &s.trial, &s.g, &s.h, &s.slope, &s.cost, &s.plain, &s.damping, &s.fall, &s.offset})
      *part += t;
    s.owner += t;
    s.evaluations += t;
    s.state += t;
    s.queue = &queue;
    s.order = &order;
    s.bin = &bin;
    s.item = &item;
    walk<T, 1, P>(*card, problem, t, 1, curves, tile_of(*card), knots_of(*card), s);
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
