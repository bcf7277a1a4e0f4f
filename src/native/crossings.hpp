// Of models with two inputs, at a given residue: where a sum of a curve at one of the first input's
// delays and one at one of the second's comes nearest to a voxel's curve. W of the latter go side
// by side.
#pragma once
#include "lanes.hpp"
#include "types.hpp"

namespace KETY_NS {

constexpr int kRows = 4;

// Working memory of a voxel. On a card that of neighbouring threads lies side by side.
template <int W>
struct CrossingsRoom {
  using V = Lanes<double, W>;
  // Curves: the voxel's (frames), the first input's (first, frames), the second's (blocks, frames),
  // and their products with themselves and with the voxel's.
  double *own, *early, *early_square, *early_product;
  V *late, *late_square, *late_product;
  double* gain;  // (first, second, filled up to whole blocks)
  int threads;

  KETY_FN long at(int i) const {
#ifdef KETY_CUDA
    return static_cast<long>(i) * threads;
#else
    return i;
#endif
  }

  // Brings N curves to place `to`: weighted, and less the constant that is fitted along.
  template <int N>
  KETY_FN void bring(const CrossingsCall& call, const double* from, int curves, double scale,
                     Lanes<double, N>* to, int place) const {
    Lanes<double, N> along = {};
    for (int t = 0; t < call.frames; ++t) {
      double sample[N] = {};
      for (int l = 0; l < N && l < curves; ++l) sample[l] = from[l * call.frames + t];
      const Lanes<double, N> c = load<double, N>(sample) * (scale * call.weighted[t]);
      if (call.constant) along = add_product(along, c, call.constant[t]);
      to[at(place + t)] = c;
    }
    if (call.constant)
      for (int t = 0; t < call.frames; ++t) to[at(place + t)] -= along * call.constant[t];
  }
};

// What the sum of two curves explains, their amplitudes, and whether both are above 0.
template <int W>
struct Crossing {
  Lanes<double, W> gain, x, z;
  Mask<double, W> both;
};

// From products of both curves with themselves, with each other and with the voxel's.
template <int W>
KETY_FN Crossing<W> crossing_of(double aa, const Lanes<double, W>& bb, const Lanes<double, W>& ab,
                                double ay, const Lanes<double, W>& by) {
  using V = Lanes<double, W>;
  const V zero = {};
  const V rest = upper(less_product(V(aa * bb), ab, ab), V(1e-12 * aa * bb));
  Crossing<W> c;
  c.x = less_product(V(bb * ay), ab, by) / rest;
  c.z = less_product(V(aa * by), ab, ay) / rest;
  c.both = (c.x > zero) & (c.z > zero);
  const V one = upper(V(zero + ay), zero), other = upper(by, zero);
  c.gain =
      c.both ? add_product(V(c.z * by), c.x, ay) : upper(V(one * one / aa), V(other * other / bb));
  return c;
}

// The curves of a voxel, and their products.
template <int W>
KETY_FN void bring_curves(const CrossingsCall& call, long v, const CrossingsRoom<W>& room) {
  const int frames = call.frames;
  const double *a = call.a + v * call.stride_a, *b = call.b + v * call.stride_b;
  room.template bring<1>(call, call.y + v * frames, 1, 1.0, room.own, 0);
  auto finish = [&]<class V>(const V* curve, int place, V& square, V& product) {
    V with_self = {}, with_own = {};
    for (int t = 0; t < frames; ++t) {
      const V c = curve[room.at(place + t)];
      with_self = add_product(with_self, c, c);
      with_own = add_product(with_own, c, room.own[room.at(t)]);
    }
    square = upper(with_self, V(V{} + 1e-300));
    product = with_own;
  };
  for (int i = 0; i < call.first; ++i) {
    room.template bring<1>(call, a + i * frames, 1, call.scale, room.early, i * frames);
    finish(room.early, i * frames, room.early_square[room.at(i)], room.early_product[room.at(i)]);
  }
  for (int k = 0; k * W < call.second; ++k) {
    room.template bring<W>(call, b + k * W * frames, call.second - k * W, call.scale, room.late,
                           k * frames);
    finish(room.late, k * frames, room.late_square[room.at(k)], room.late_product[room.at(k)]);
  }
}

template <int W>
KETY_FN void cross_delays(const CrossingsCall& call, long v, const CrossingsRoom<W>& room) {
  using V = Lanes<double, W>;
  const int frames = call.frames, first = call.first, second = call.second;
  const int wide = (second + W - 1) / W * W;
  bring_curves<W>(call, v, room);
  // With kRows curves of the first input at once: sums that do not wait for each other.
  auto products = [&](int i, int k, V* ab) {
    for (int r = 0; r < kRows; ++r) ab[r] = V{};
    for (int t = 0; t < frames; ++t) {
      const V c = room.late[room.at(k * frames + t)];
      for (int r = 0; r < kRows; ++r)
        ab[r] =
            add_product(ab[r], room.early[room.at((i + r < first ? i + r : i) * frames + t)], c);
    }
  };
  auto cross = [&](int i, int k, const V& ab) {
    return crossing_of<W>(room.early_square[room.at(i)], room.late_square[room.at(k)], ab,
                          room.early_product[room.at(i)], room.late_product[room.at(k)]);
  };
  for (int i = 0; i < first; i += kRows)
    for (int k = 0; k * W < second; ++k) {
      V ab[kRows];
      products(i, k, ab);
      for (int r = 0; r < kRows && i + r < first; ++r) {
        const Crossing<W> c = cross(i + r, k, ab[r]);
        store<double, W>(room.gain + room.at((i + r) * wide + k * W), c.gain);
      }
    }
  const long out = v * call.most;
  int count = 0;
  for (int i = 0; i < first; ++i)
    for (int j = 0; j < second; ++j) {
      const double gain = room.gain[room.at(i * wide + j)];
      bool peak = true;
      for (int p = i > 0 ? i - 1 : 0; peak && p <= i + 1 && p < first; ++p)
        for (int q = j > 0 ? j - 1 : 0; peak && q <= j + 1 && q < second; ++q)
          peak = gain >= room.gain[room.at(p * wide + q)];
      int at = count;
      while (at > 0 && gain > call.gain[out + at - 1]) --at;
      if (!peak || at >= call.most) continue;
      V ab[kRows];
      products(i, j / W, ab);
      const Crossing<W> c = cross(i, j / W, ab[0]);
      if (!is_set<double, W>(c.both, j % W)) continue;
      count = count < call.most ? count + 1 : call.most;
      for (long q = out + count - 1; q > out + at; --q) {
        call.gain[q] = call.gain[q - 1];
        call.i[q] = call.i[q - 1];
        call.j[q] = call.j[q - 1];
        call.x[q] = call.x[q - 1];
        call.z[q] = call.z[q - 1];
      }
      call.gain[out + at] = gain;
      call.i[out + at] = i;
      call.j[out + at] = j;
      call.x[out + at] = get<double, W>(c.x, j % W);
      call.z[out + at] = get<double, W>(c.z, j % W);
    }
  for (int q = count; q < call.most; ++q) call.i[out + q] = -1;
}

template <int W>
void crossings_range(const CrossingsCall& call, long begin, long end) {
  const long blocks = (call.second + W - 1) / W;
  auto take = [](auto*& p, long count) {
    p = static_cast<decltype(+p)>(kety_allocate(count * static_cast<long>(sizeof *p)));
  };
  CrossingsRoom<W> room = {};
  take(room.own, call.frames);
  take(room.early, static_cast<long>(call.first) * call.frames);
  take(room.late, blocks * call.frames);
  take(room.early_square, call.first);
  take(room.early_product, call.first);
  take(room.late_square, blocks);
  take(room.late_product, blocks);
  take(room.gain, call.first * blocks * W);
  for (long v = begin; v < end; ++v) cross_delays<W>(call, v, room);
  kety_release(room.gain);
  kety_release(room.late_product);
  kety_release(room.late_square);
  kety_release(room.early_product);
  kety_release(room.early_square);
  kety_release(room.late);
  kety_release(room.early);
  kety_release(room.own);
}

}  // namespace KETY_NS
