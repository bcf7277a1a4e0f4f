// The search for starts of models of several terms on a GPU, W = 1: curves made ready, their best
// pairs, the descents from these, and the parameters that a model's recipe makes of what was found.
// T is the precision of the curves; the search itself is float.
#include "crossings.hpp"
#include "cuda.hpp"
#include "cuda_types.hpp"
#include "descend.hpp"
#include "pairs.hpp"
#include "program.hpp"
#include "ready.hpp"

using namespace KETY_NS;
using T = KETY_REAL;

KETY_KERNEL starts_ready(PairsCard* card) {
  const int frames = card->frames;
  for (long v = KETY_INDEX; v < card->voxels; v += KETY_THREADS)
    card->usable[v] = ready_curve<T>(static_cast<const T*>(card->curves) + v * frames, frames,
                                     static_cast<T>(card->scale),
                                     static_cast<const T*>(card->weighted), card->baseline,
                                     card->ready + v * frames, static_cast<T*>(card->at_first)[v]);
}

KETY_KERNEL starts_scan(PairsCard* card) {
  KETY_SHARED_OBJECT(PairsCall, call, *card);
  PairsRoom<1> room = {};
  room.products = card->products + KETY_INDEX;
  room.best = card->best + KETY_INDEX;
  room.where = card->where + KETY_INDEX;
  room.threads = static_cast<int>(KETY_THREADS);
  for (long v = KETY_INDEX; v < card->voxels; v += KETY_THREADS) {
    scan_pairs<1>(call, v, v + 1, room);
    card->least[v] = call.left[v * call.candidates];
  }
}

// A thread whose voxel is done takes the next.
KETY_KERNEL starts_descend(DescentCard* card) {
  KETY_SHARED_OBJECT(DescentCall, call, *card);
  descend_voxels<1>(call, [&](long& voxel) {
    for (;;) {
      voxel = take(&card->next_voxel, 1);
      if (voxel >= card->voxels) return false;
      if (card->usable[voxel]) return true;
      for (int q = 0; q < call.candidates; ++q) call.group[voxel * call.candidates + q] = -1;
    }
  });
}

KETY_KERNEL starts_count(StartsCard* card) {
  for (long v = KETY_INDEX; v < card->voxels; v += KETY_THREADS) {
    int count = 0;
    if (card->usable[v])
      while (count < card->candidates && card->list[v * card->candidates + count] >= 0) ++count;
    card->count[v] = count;
  }
}

KETY_KERNEL starts_write(StartsCard* card) {
  KETY_SHARED_OBJECT(Program, program, make_program(card->program));
  const int values = card->values, parameters = card->program.outputs;
  for (long v = KETY_INDEX; v < card->voxels; v += KETY_THREADS)
    for (int q = 0; q < card->count[v]; ++q) {
      const long from = v * card->candidates + q, to = card->first[v] + q;
      const int one = card->list[from];
      double in[kMaxStartValues + 3];
      if (card->of_pair) {
        for (int i = 0; i < values; ++i) in[i] = card->of_pair[static_cast<long>(one) * values + i];
      } else {
        in[0] = card->fast[from];
        in[1] = card->slow[from];
        in[2] = card->delay[from];
      }
      in[values] = card->x[from];
      in[values + 1] = card->y[from];
      in[values + 2] = static_cast<double>(static_cast<const T*>(card->at_first)[v]);
      Jet<double, 1, 0> out[kMaxOutputs];
      run_program<double, 1, 0>(program, in, out);
      for (int i = 0; i < parameters; ++i) {
        const double lo = card->lo[i], hi = card->hi[i], x = out[i].f;
        // What is not a number starts in the middle.
        card->start[to * parameters + i] = x != x ? 0.5 * (lo + hi) : x < lo ? lo : x > hi ? hi : x;
      }
      const long group = card->group_of ? card->group_of[one] : one;
      for (int i = 0; i < 2; ++i) card->start_band[2 * to + i] = card->group_band[2 * group + i];
    }
}

// The parameters of every voxel with each input alone, at its delays.
KETY_KERNEL starts_shift(CrossingsCard* card) {
  const int first = card->first, every = first + card->second, parameters = card->parameters;
  for (long k = KETY_INDEX; k < card->voxels * every; k += KETY_THREADS) {
    const long v = k / every;
    const int d = static_cast<int>(k % every);
    double* to = card->points + k * parameters;
    for (int i = 0; i < parameters; ++i) to[i] = card->theta[v * parameters + i];
    to[card->share] = d < first;
    to[d < first ? card->delay : card->delay_second] =
        d < first ? card->delays[d] : card->delays_second[d - first];
  }
}

KETY_KERNEL starts_cross(CrossingsCard* card) {
  KETY_SHARED_OBJECT(CrossingsCall, call, *card);
  const long t = KETY_INDEX;
  const CrossingsRoom<1> room = {
      card->own + t,           card->early + t, card->early_square + t,
      card->early_product + t, card->late + t,  card->late_square + t,
      card->late_product + t,  card->gains + t, static_cast<int>(KETY_THREADS)};
  for (long v = t; v < card->voxels; v += KETY_THREADS) cross_delays<1>(call, v, room);
}
