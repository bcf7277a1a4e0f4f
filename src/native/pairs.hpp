// The search for starts of models of several terms. Curves come in groups (of one delay, say); in a
// group every curve of one set may be paired with every curve of another, with amplitudes that are
// not negative. The scan finds the pair of each group that explains most of a voxel's curve.
#pragma once
#include "lanes.hpp"
#include "types.hpp"

namespace KETY_NS {

constexpr int kMaxPairRank = 32;
// Relative to a curve's sum of squares: the error of a node, and what is left of a curve so clean
// that it decides.
constexpr int kKind = 1000;
constexpr float kNodeError = 5e-3f, kFaintNode = 3e-3f;

template <int W>
void pairs_range(const PairsCall& call, long begin, long end) {
  using V = Lanes<float, W>;
  using I = Lanes<int, W>;
  using M = Mask<float, W>;
  const int groups = call.groups, rank = call.rank;
  int most = 0;
  for (int g = 0; g < groups; ++g) {
    const int a = call.first_a[g + 1] - call.first_a[g], b = call.first_b[g + 1] - call.first_b[g];
    most = a > most ? a : most;
    most = b > most ? b : most;
  }
  V* products = static_cast<V*>(kety_allocate(2L * most * static_cast<long>(sizeof(V))));
  V* top = static_cast<V*>(kety_allocate(static_cast<long>(groups) * 3 * sizeof(V)));
  V *best = top, *best_x = top + groups, *best_y = top + 2 * groups;
  float* tile = static_cast<float*>(
      kety_allocate(static_cast<long>(call.frames) * W * static_cast<long>(sizeof(float))));
  I* where = static_cast<I*>(kety_allocate(static_cast<long>(groups) * sizeof(I)));
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
    for (int g = 0; g < groups; ++g) {
      const int a0 = call.first_a[g], a1 = call.first_a[g + 1];
      const int b0 = call.first_b[g], b1 = call.first_b[g + 1];
      V *qa = products, *qb = products + most;
      auto project = [&](const float* rows, int n, V* out) {
        for (int i = 0; i < n; ++i) {
          V s = {}, t = {};
          for (int r = 0; r < rank; r += 2) {
            s += z[r] * rows[i * rank + r];
            t += z[r + 1] * rows[i * rank + r + 1];
          }
          out[i] = s + t;
        }
      };
      project(call.a + static_cast<long>(a0) * rank, a1 - a0, qa);
      project(call.b + static_cast<long>(b0) * rank, b1 - b0, qb);
      const float* cosine = call.cosine + call.first_pair[g];
      V most_explained = V{} - 1.0f, x = {}, y = {};
      I at = {};
      for (int i = 0; i < a1 - a0; ++i)
        for (int j = 0; j < b1 - b0; ++j) {
          const float c = *cosine++;
          if (c > 1) continue;
          const float sine2 = 1 - c * c, inverse = sine2 > 1e-6f ? 1 / sine2 : 0;
          const V both_x = (qa[i] - c * qb[j]) * inverse, both_y = (qb[j] - c * qa[i]) * inverse;
          const V one_x = upper(qa[i], V{}), one_y = upper(qb[j], V{});
          const M both = (both_x > 0.0f) & (both_y > 0.0f);
          const M first = one_x >= one_y;
          const V px = both ? both_x : first ? one_x : V{};
          const V py = both ? both_y : first ? V{} : one_y;
          const V explained = px * qa[i] + py * qb[j];
          const M better = explained > most_explained;
          most_explained = better ? explained : most_explained;
          x = better ? px : x;
          y = better ? py : y;
          at = better ? I{} + (i * (b1 - b0) + j) : at;
        }
      best[g] = most_explained;
      best_x[g] = x;
      best_y[g] = y;
      where[g] = at;
    }
    // A group is a candidate where it peaks among its neighbours in the same stretch and comes near
    // the best; the best first.
    for (int l = 0; l < W && v0 + l < end; ++l) {
      const long out = (v0 + l) * call.candidates;
      const float total = get<float, W>(square, l);
      auto energy = [&](int g) { return get<float, W>(best[g], l); };
      int leader = 0;
      for (int g = 1; g < groups; ++g)
        if (energy(g) > energy(leader)) leader = g;
      // Centres of nodes stand for curves between them, so what they leave is known to a share of
      // the signal only; where noise leaves less, a neighbour across a wall may turn out the better
      // one.
      const float least = total - energy(leader);
      const float limit = least + call.ratio * least + kNodeError * total;
      const bool faint = least <= kFaintNode * total;
      int count = 0, chosen[64];
      const int room = call.candidates < 64 ? call.candidates : 64;
      for (; count < room; ++count) {
        int next = -1;
        for (int g = 0; g < groups; ++g) {
          if (count == 0 && g != leader) continue;
          if (count > 0) {
            // Bands that belong to different kinds of pair are numbered in different thousands.
            const int apart = call.band[g] % kKind - call.band[leader] % kKind;
            const bool beside = faint && apart >= -1 && apart <= 1;
            if (!beside && !(total - energy(g) <= limit)) continue;
            if (g > 0 && call.band[g - 1] == call.band[g] && energy(g - 1) > energy(g)) continue;
            if (g < groups - 1 && call.band[g + 1] == call.band[g] && energy(g + 1) >= energy(g))
              continue;
            bool taken = false;
            for (int q = 0; q < count; ++q) taken |= chosen[q] == g;
            if (taken) continue;
          }
          if (next < 0 || energy(g) > energy(next)) next = g;
        }
        if (next < 0) break;
        chosen[count] = next;
      }
      for (int q = 0; q < call.candidates; ++q) {
        const bool there = q < count;
        const int g = there ? chosen[q] : 0;
        const int width = call.first_b[g + 1] - call.first_b[g];
        const int node = get<int, W>(where[g], l);
        call.node_a[out + q] = there ? call.first_a[g] + node / width : -1;
        call.node_b[out + q] = there ? call.first_b[g] + node % width : -1;
        call.x[out + q] = there ? get<float, W>(best_x[g], l) : 0.0f;
        call.y[out + q] = there ? get<float, W>(best_y[g], l) : 0.0f;
        call.left[out + q] = there ? total - energy(g) : 0.0f;
      }
    }
  }
  kety_release(tile);
  kety_release(products);
  kety_release(top);
  kety_release(where);
}

}  // namespace KETY_NS
