// Of models with two inputs, at a given residue: where a sum of a curve at one of the first input's
// delays and one at one of the second's comes nearest to a voxel's curve. W of the latter go side
// by side.
#pragma once
#include "lanes.hpp"
#include "types.hpp"

namespace KETY_NS {

// Working memory of a voxel. On a card that of neighbouring threads lies side by side.
template <int W>
struct CrossingsRoom {
  using V = Lanes<double, W>;
  double *own, *early;         // curves: the voxel's (frames), the first input's (first, frames)
  V *late, *square, *product;  // the second's (blocks, frames), and products of these (blocks)
  double* gain;                // (first, second)
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
      Lanes<double, N> c = {};
      for (int l = 0; l < N && l < curves; ++l) set<double, N>(c, l, from[l * call.frames + t]);
      c *= scale * call.weighted[t];
      if (call.constant) along += c * call.constant[t];
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
  const V rest = upper(V(aa * bb - ab * ab), V(1e-12 * aa * bb));
  Crossing<W> c;
  c.x = (bb * ay - ab * by) / rest;
  c.z = (aa * by - ab * ay) / rest;
  c.both = (c.x > zero) & (c.z > zero);
  const V one = upper(V(zero + ay), zero), other = upper(by, zero);
  c.gain = c.both ? V(c.x * ay + c.z * by) : upper(V(one * one / aa), V(other * other / bb));
  return c;
}

template <int W>
KETY_FN void cross_delays(const CrossingsCall& call, long v, const CrossingsRoom<W>& room) {
  using V = Lanes<double, W>;
  const int frames = call.frames, first = call.first, second = call.second;
  const int blocks = (second + W - 1) / W;
  const double *a = call.a + v * call.stride_a, *b = call.b + v * call.stride_b;
  room.template bring<1>(call, call.y + v * frames, 1, 1.0, room.own, 0);
  for (int i = 0; i < first; ++i)
    room.template bring<1>(call, a + i * frames, 1, call.scale, room.early, i * frames);
  for (int k = 0; k < blocks; ++k) {
    room.template bring<W>(call, b + k * W * frames, second - k * W, call.scale, room.late,
                           k * frames);
    V square = {}, product = {};
    for (int t = 0; t < frames; ++t) {
      const V c = room.late[room.at(k * frames + t)];
      square += c * c;
      product += c * room.own[room.at(t)];
    }
    room.square[room.at(k)] = upper(square, V(V{} + 1e-300));
    room.product[room.at(k)] = product;
  }
  auto cross = [&](int i, double aa, double ay, int k) {
    V ab = {};
    for (int t = 0; t < frames; ++t)
      ab += room.early[room.at(i * frames + t)] * room.late[room.at(k * frames + t)];
    return crossing_of<W>(aa, room.square[room.at(k)], ab, ay, room.product[room.at(k)]);
  };
  auto products_of = [&](int i, double& aa, double& ay) {
    aa = ay = 0;
    for (int t = 0; t < frames; ++t) {
      const double c = room.early[room.at(i * frames + t)];
      aa += c * c;
      ay += c * room.own[room.at(t)];
    }
    aa = upper(aa, 1e-300);
  };
  for (int i = 0; i < first; ++i) {
    double aa, ay;
    products_of(i, aa, ay);
    for (int k = 0; k < blocks; ++k) {
      const Crossing<W> c = cross(i, aa, ay, k);
      for (int l = 0; l < W && k * W + l < second; ++l)
        room.gain[room.at(i * second + k * W + l)] = get<double, W>(c.gain, l);
    }
  }
  const long out = v * call.most;
  int count = 0;
  for (int i = 0; i < first; ++i)
    for (int j = 0; j < second; ++j) {
      const double gain = room.gain[room.at(i * second + j)];
      bool peak = true;
      for (int p = i > 0 ? i - 1 : 0; p <= i + 1 && p < first; ++p)
        for (int q = j > 0 ? j - 1 : 0; q <= j + 1 && q < second; ++q)
          peak &= gain >= room.gain[room.at(p * second + q)];
      int at = count;
      while (at > 0 && gain > call.gain[out + at - 1]) --at;
      if (!peak || at >= call.most) continue;
      double aa, ay;
      products_of(i, aa, ay);
      const Crossing<W> c = cross(i, aa, ay, j / W);
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
  take(room.square, blocks);
  take(room.product, blocks);
  take(room.gain, static_cast<long>(call.first) * call.second);
  for (long v = begin; v < end; ++v) cross_delays<W>(call, v, room);
  kety_release(room.gain);
  kety_release(room.product);
  kety_release(room.square);
  kety_release(room.late);
  kety_release(room.early);
  kety_release(room.own);
}

}  // namespace KETY_NS
