// Where the descents of a voxel ended, and which of these minima are worth solving exactly.
#pragma once
#include "lanes.hpp"
#include "types.hpp"

namespace KETY_NS {

constexpr int kMostEnds = 16;

// What a voxel has found.
struct Ends {
  long voxel;
  int start, count;
  struct End {
    float fast, slow, delay, x, y, left;
    int group;
    float band;  // its lower wall
  } end[kMostEnds];
};

KETY_FN bool is_beside(float x, float y, float floor) {
  return __builtin_fabsf(x - y) <= 0.02f * __builtin_fabsf(y) + floor;
}
KETY_FN bool is_same(float fast, float slow, float delay, float band, const Ends::End& e) {
  // Minima on both sides of a wall are two.
  return band == e.band && is_beside(fast, e.fast, 1e-3f) && is_beside(slow, e.slow, 1e-4f) &&
         is_beside(delay, e.delay, 0.05f);
}

// The ends of a voxel that are too close to its best to call, each minimum once.
KETY_STAGE void write_ends(const DescentCall& call, float square, Ends& ends) {
  for (int i = 1; i < ends.count; ++i)  // the best first
    for (int j = i; j > 0 && ends.end[j].left < ends.end[j - 1].left; --j) {
      const Ends::End other = ends.end[j];
      ends.end[j] = ends.end[j - 1];
      ends.end[j - 1] = other;
    }
  const long out = ends.voxel * call.candidates;
  int kept = 0, chosen[kMostEnds];
  for (int i = 0; i < ends.count; ++i) {
    const Ends::End& e = ends.end[i];
    // Of a curve of almost no noise the dictionary's own error decides.
    const float unsure = e.left < call.clean * square ? call.clean_unsure : call.unsure;
    if (!(e.left <= ends.end[0].left * (1 + call.rival) + unsure * square)) continue;
    bool again = false;
    for (int q = 0; q < kept; ++q)
      again |= is_same(e.fast, e.slow, e.delay, e.band, ends.end[chosen[q]]);
    if (again) continue;
    chosen[kept] = i;
    const long o = out + kept++;
    call.group[o] = e.group;
    call.fast[o] = e.fast;
    call.slow[o] = e.slow;
    call.delay[o] = e.delay;
    call.x[o] = e.x;
    call.y[o] = e.y;
    call.left[o] = e.left;
  }
  for (; kept < call.candidates; ++kept) call.group[out + kept] = -1;
}

}  // namespace KETY_NS
