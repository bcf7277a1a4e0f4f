// The search for starts of models of several terms. Curves come in groups (of one delay, say); in a
// group every curve of one set may be paired with every curve of another, with amplitudes that are
// not negative. The scan finds the pair of each group that explains most of a voxel's curve.
#pragma once
#include "lanes.hpp"
#include "types.hpp"

namespace KETY_NS {

constexpr int kMaxPairRank = 32, kMaxCandidates = 64;
// Relative to a curve's sum of squares: the error of a node, and what is left of a curve so clean
// that it decides.
constexpr int kKind = 1000;
constexpr float kNodeError = 5e-3f, kFaintNode = 3e-3f;

// The groups that are worth a start, the best first: those that peak among their neighbours in the
// same stretch and come near the best of all. Returns how many.
KETY_FN int choose_groups(const PairsCall& call, float total, const float* energy, int* chosen) {
  const int groups = call.groups;
  int leader = 0;
  for (int g = 1; g < groups; ++g)
    if (energy[g] > energy[leader]) leader = g;
  // Centres of nodes stand for curves between them, so what they leave is known to a share of the
  // signal only; where noise leaves less, a neighbour across a wall may turn out the better one.
  const float least = total - energy[leader];
  const float limit = least + call.ratio * least + kNodeError * total;
  const bool faint = least <= kFaintNode * total;
  const int room = call.candidates < kMaxCandidates ? call.candidates : kMaxCandidates;
  int count = 1;
  chosen[0] = leader;
  for (int g = 0; g < groups; ++g) {
    if (g == leader) continue;
    // Bands that belong to different kinds of pair are numbered in different thousands.
    const int apart = call.band[g] % kKind - call.band[leader] % kKind;
    const bool beside = faint && apart >= -1 && apart <= 1;
    if (!beside && !(total - energy[g] <= limit)) continue;
    if (g > 0 && call.band[g - 1] == call.band[g] && energy[g - 1] > energy[g]) continue;
    if (g < groups - 1 && call.band[g + 1] == call.band[g] && energy[g + 1] >= energy[g]) continue;
    int at = count;
    while (at > 1 && energy[g] > energy[chosen[at - 1]]) --at;
    if (at >= room) continue;
    count = count < room ? count + 1 : room;
    for (int q = count - 1; q > at; --q) chosen[q] = chosen[q - 1];
    chosen[at] = g;
  }
  return count;
}

template <int W>
void pairs_range(const PairsCall& call, long begin, long end) {
  using V = Lanes<float, W>;
  using I = Lanes<int, W>;
  using M = Mask<float, W>;
  const int groups = call.groups, rank = call.rank;
  auto* products = static_cast<V*>(kety_allocate((call.rows + 3L) * static_cast<long>(sizeof(V))));
  auto* best = static_cast<V*>(kety_allocate(groups * static_cast<long>(sizeof(V))));
  auto* where = static_cast<I*>(kety_allocate(groups * static_cast<long>(sizeof(I))));
  auto* energy = static_cast<float*>(kety_allocate(groups * static_cast<long>(sizeof(float))));
  auto* tile = static_cast<float*>(
      kety_allocate(static_cast<long>(call.frames) * W * static_cast<long>(sizeof(float))));
  for (long v0 = begin; v0 < end; v0 += W) {
    // Products are formed here, lane by lane: a library's product of matrices may round a row
    // differently beside other rows.
    V z[kMaxPairRank] = {}, away[4] = {}, square = {};
    for (int l = 0; l < W; ++l) {
      const float* y = call.y_curves + (v0 + l < end ? v0 + l : v0) * call.frames;
      for (int j = 0; j < call.frames; ++j) tile[j * W + l] = y[j];
    }
    for (int j = 0; j < call.frames; ++j) {
      const V y = load<float, W>(tile + j * W);
      square += y * y;
      for (int r = 0; r < rank; ++r) z[r] += call.basis[j * rank + r] * y;
      for (int r = 0; r < call.unseen; ++r) away[r] += call.outside[j * call.unseen + r] * y;
    }
    for (int r = 0; r < call.unseen; ++r) square -= away[r] * away[r];
    square = upper(square, V{});
    for (int l = 0; l < W && v0 + l < end; ++l) {
      for (int r = 0; r < rank; ++r) call.z[(v0 + l) * rank + r] = get<float, W>(z[r], l);
      call.square[v0 + l] = get<float, W>(square, l);
    }
    for (int i = 0; i < call.rows; i += 4) {  // four at a time share what they load
      const float* row[4];
      V sum[4] = {};
      for (int q = 0; q < 4; ++q)
        row[q] = call.row + static_cast<long>(i + q < call.rows ? i + q : i) * rank;
      for (int r = 0; r < rank; ++r)
        for (int q = 0; q < 4; ++q) sum[q] += row[q][r] * z[r];
      for (int q = 0; q < 4; ++q) products[i + q] = sum[q];
    }
    for (int g = 0; g < groups; ++g) {
      V most = V{} - 1.0f;
      I at = {};
      for (int p = call.first_pair[g]; p < call.first_pair[g + 1]; ++p) {
        const V a = products[call.pair_a[p]], b = products[call.pair_b[p]];
        const float c = call.cosine[p];
        const V x = a - c * b, y = b - c * a;
        const V single = upper(upper(a, b), V{});
        const M both = (x > 0.0f) & (y > 0.0f);
        const V explained = both ? V((x * a + y * b) * call.inverse[p]) : V(single * single);
        const M better = explained > most;
        most = better ? explained : most;
        at = better ? I{} + p : at;
      }
      best[g] = most;
      where[g] = at;
    }
    for (int l = 0; l < W && v0 + l < end; ++l) {
      const long out = (v0 + l) * call.candidates;
      const float total = get<float, W>(square, l);
      for (int g = 0; g < groups; ++g) energy[g] = get<float, W>(best[g], l);
      int chosen[kMaxCandidates];
      const int count = choose_groups(call, total, energy, chosen);
      for (int q = 0; q < call.candidates; ++q) {
        if (q >= count) {
          call.pair[out + q] = -1;
          call.x[out + q] = call.y[out + q] = call.left[out + q] = 0;
          continue;
        }
        const int p = get<int, W>(where[chosen[q]], l);
        const float a = get<float, W>(products[call.pair_a[p]], l),
                    b = get<float, W>(products[call.pair_b[p]], l), c = call.cosine[p];
        const float x = a - c * b, y = b - c * a;
        const bool both = x > 0 && y > 0, first = a >= b;
        call.pair[out + q] = p;
        call.x[out + q] = both ? x * call.inverse[p] : first && a > 0 ? a : 0.0f;
        call.y[out + q] = both ? y * call.inverse[p] : !first && b > 0 ? b : 0.0f;
        call.left[out + q] = total - energy[chosen[q]];
      }
    }
  }
  kety_release(tile);
  kety_release(energy);
  kety_release(products);
  kety_release(best);
  kety_release(where);
}

}  // namespace KETY_NS
