// The search for starts of models of several terms. Curves come in groups (of one delay, say); in a
// group every curve of one set may be paired with every curve of another, with amplitudes that are
// not negative. The scan finds the pair of each group that explains most of a voxel's curve.
#pragma once
#include "lanes.hpp"
#include "types.hpp"

namespace KETY_NS {

constexpr int kMaxPairRank = 32, kMaxCandidates = 64;
constexpr int kKind = 1000;
// Relative to a curve's sum of squares: the error of a node, and what is left of a curve so clean
// that it decides.
constexpr float kNodeError = 5e-3f, kFaintNode = 3e-3f;

// The groups that are worth a start, the best first: those that peak among their neighbours in the
// same stretch and come near the best of all. `energy` tells what a group explains. Returns how
// many.
template <class Energy>
KETY_FN int choose_groups(const PairsCall& call, float total, const Energy& energy, int* chosen) {
  const int groups = call.groups;
  int leader = 0;
  for (int g = 1; g < groups; ++g)
    if (energy(g) > energy(leader)) leader = g;
  // Centres of nodes stand for curves between them, so what they leave is known to a share of the
  // signal only; where noise leaves less, a neighbour across a wall may turn out the better one.
  const float least = total - energy(leader);
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
    if (!beside && !(total - energy(g) <= limit)) continue;
    if (g > 0 && call.band[g - 1] == call.band[g] && energy(g - 1) > energy(g)) continue;
    if (g < groups - 1 && call.band[g + 1] == call.band[g] && energy(g + 1) >= energy(g)) continue;
    int at = count;
    while (at > 1 && energy(g) > energy(chosen[at - 1])) --at;
    if (at >= room) continue;
    count = count < room ? count + 1 : room;
    for (int q = count - 1; q > at; --q) chosen[q] = chosen[q - 1];
    chosen[at] = g;
  }
  return count;
}

// Working memory of W voxels. On a card that of neighbouring threads lies side by side.
template <int W>
struct PairsRoom {
  Lanes<float, W>* products;  // with every row
  Lanes<float, W>* best;      // of every group: what its best pair explains
  Lanes<int, W>* where;       // and that pair
  float *energy, *tile;       // of one voxel; of curves: W > 1 only
  int threads;

  KETY_FN long at(int i) const {
#ifdef KETY_CUDA
    return static_cast<long>(i) * threads;
#else
    return i;
#endif
  }
};

// The best pairs of voxels v0 ... v0 + W - 1, those beyond `end` left out.
template <int W>
KETY_FN void scan_pairs(const PairsCall& call, long v0, long end, const PairsRoom<W>& room) {
  using V = Lanes<float, W>;
  using I = Lanes<int, W>;
  using M = Mask<float, W>;
  const int groups = call.groups, rank = call.rank;
  // Products are formed here, lane by lane: a library's product of matrices may round a row
  // differently beside other rows.
  V z[kMaxPairRank] = {}, away[4] = {}, square = {};
  const float* samples = call.y_curves + v0 * call.frames;
  if constexpr (W > 1) {
    for (int l = 0; l < W; ++l) {
      const float* y = call.y_curves + (v0 + l < end ? v0 + l : v0) * call.frames;
      for (int j = 0; j < call.frames; ++j) room.tile[j * W + l] = y[j];
    }
    samples = room.tile;
  }
  for (int j = 0; j < call.frames; ++j) {
    const V y = load<float, W>(samples + j * W);
    square = add_product(square, y, y);
    for (int r = 0; r < rank; ++r) z[r] = add_product(z[r], call.basis[j * rank + r], y);
    for (int r = 0; r < call.unseen; ++r)
      away[r] = add_product(away[r], call.outside[j * call.unseen + r], y);
  }
  for (int r = 0; r < call.unseen; ++r) square = less_product(square, away[r], away[r]);
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
      for (int q = 0; q < 4; ++q) sum[q] = add_product(sum[q], row[q][r], z[r]);
    for (int q = 0; q < 4; ++q) room.products[room.at(i + q)] = sum[q];
  }
  for (int g = 0; g < groups; ++g) {
    V most = V{} - 1.0f;
    I at = {};
    for (int p = call.first_pair[g]; p < call.first_pair[g + 1]; ++p) {
      const V a = room.products[room.at(call.pair_a[p])],
              b = room.products[room.at(call.pair_b[p])];
      const float c = call.cosine[p];
      const V x = less_product(a, c, b), y = less_product(b, c, a);
      const V single = upper(upper(a, b), V{});
      const M both = (x > 0.0f) & (y > 0.0f);
      const V explained =
          both ? V(add_product(V(y * b), x, a) * call.inverse[p]) : V(single * single);
      const M better = explained > most;
      most = better ? explained : most;
      at = better ? I{} + p : at;
    }
    room.best[room.at(g)] = most;
    room.where[room.at(g)] = at;
  }
  for (int l = 0; l < W && v0 + l < end; ++l) {
    const long out = (v0 + l) * call.candidates;
    const float total = get<float, W>(square, l);
    if constexpr (W > 1)
      for (int g = 0; g < groups; ++g) room.energy[g] = get<float, W>(room.best[g], l);
    auto energy = [&](int g) -> float {
      if constexpr (W > 1)
        return room.energy[g];
      else
        return room.best[room.at(g)];
    };
    int chosen[kMaxCandidates];
    const int count = choose_groups(call, total, energy, chosen);
    for (int q = 0; q < call.candidates; ++q) {
      if (q >= count) {
        call.pair[out + q] = -1;
        call.x[out + q] = call.y[out + q] = call.left[out + q] = 0;
        continue;
      }
      const int p = get<int, W>(room.where[room.at(chosen[q])], l);
      const float a = get<float, W>(room.products[room.at(call.pair_a[p])], l),
                  b = get<float, W>(room.products[room.at(call.pair_b[p])], l), c = call.cosine[p];
      const float x = less_product(a, c, b), y = less_product(b, c, a);
      const bool both = x > 0 && y > 0, first = a >= b;
      call.pair[out + q] = p;
      call.x[out + q] = both ? x * call.inverse[p] : first && a > 0 ? a : 0.0f;
      call.y[out + q] = both ? y * call.inverse[p] : !first && b > 0 ? b : 0.0f;
      call.left[out + q] = total - energy(chosen[q]);
    }
  }
}

template <int W>
void pairs_range(const PairsCall& call, long begin, long end) {
  auto take = [](auto*& p, long count) {
    p = static_cast<decltype(+p)>(kety_allocate(count * static_cast<long>(sizeof *p)));
  };
  PairsRoom<W> room = {};
  take(room.products, call.rows + 3L);
  take(room.best, call.groups);
  take(room.where, call.groups);
  take(room.energy, call.groups);
  take(room.tile, static_cast<long>(call.frames) * W);
  for (long v0 = begin; v0 < end; v0 += W) scan_pairs<W>(call, v0, end, room);
  kety_release(room.tile);
  kety_release(room.energy);
  kety_release(room.where);
  kety_release(room.best);
  kety_release(room.products);
}

}  // namespace KETY_NS
