// Fast Fourier transform of W signals side by side, for convolution: forward leaves the spectrum in
// bit-reversed order, inverse reads it so, and no reordering is ever done. Pairs of radix-2 stages
// are joined, which halves the passes through memory; in place.
#pragma once
#include "lanes.hpp"

namespace KETY_NS {

// exp(-2 pi i j / length) for j < length, cosine and sine apart.
template <class T>
struct Twiddles {
  int length;
  const T *cosine, *sine;
};

// (re, im) times the factor of index j, or its conjugate where `back`.
template <class T, int W, bool Back>
KETY_FN void turn(const Twiddles<T>& w, int j, Lanes<T, W>& re, Lanes<T, W>& im) {
  const T c = w.cosine[j], s = Back ? -w.sine[j] : w.sine[j];
  const Lanes<T, W> x = less_product(Lanes<T, W>(c * re), s, im);
  im = add_product(Lanes<T, W>(c * im), s, re);
  re = x;
}

// Sums and differences of neighbours: the stage without factors.
template <class T, int W>
KETY_FN void neighbours(int length, Lanes<T, W>* x) {
  for (int i = 0; i < length; i += 2) {
    const Lanes<T, W> d = x[i] - x[i + 1];
    x[i] += x[i + 1];
    x[i + 1] = d;
  }
}

// Decimation in frequency: natural order in, bit-reversed out.
template <class T, int W>
KETY_FN void fft_forward(const Twiddles<T>& w, Lanes<T, W>* re, Lanes<T, W>* im) {
  using V = Lanes<T, W>;
  int size = w.length, stride = 1;
  for (; size >= 4; size /= 4, stride *= 4) {
    const int q = size / 4;
    for (int begin = 0; begin < w.length; begin += size)
      for (int j = 0; j < q; ++j) {
        const int a = begin + j, b = a + q, c = b + q, d = c + q;
        const V sx = re[a] + re[c], sy = im[a] + im[c], dx = re[a] - re[c], dy = im[a] - im[c];
        const V tx = re[b] + re[d], ty = im[b] + im[d], ex = re[b] - re[d], ey = im[b] - im[d];
        re[a] = sx + tx;
        im[a] = sy + ty;
        V x = sx - tx, y = sy - ty;
        turn<T, W, false>(w, 2 * j * stride, x, y);
        re[b] = x;
        im[b] = y;
        x = dx + ey;
        y = dy - ex;
        turn<T, W, false>(w, j * stride, x, y);
        re[c] = x;
        im[c] = y;
        x = dx - ey;
        y = dy + ex;
        turn<T, W, false>(w, 3 * j * stride, x, y);
        re[d] = x;
        im[d] = y;
      }
  }
  if (size == 2) {
    neighbours<T, W>(w.length, re);
    neighbours<T, W>(w.length, im);
  }
}

// Decimation in time: bit-reversed order in, natural out; without the factor 1 / length.
template <class T, int W>
KETY_FN void fft_inverse(const Twiddles<T>& w, Lanes<T, W>* re, Lanes<T, W>* im) {
  using V = Lanes<T, W>;
  int size = 4;
  for (int rest = w.length; rest > 1; rest /= 4)
    if (rest == 2) {
      neighbours<T, W>(w.length, re);
      neighbours<T, W>(w.length, im);
      size = 8;
    }
  for (; size <= w.length; size *= 4) {
    const int q = size / 4, stride = w.length / size;
    for (int begin = 0; begin < w.length; begin += size)
      for (int j = 0; j < q; ++j) {
        const int a = begin + j, b = a + q, c = b + q, d = c + q;
        V bx = re[b], by = im[b], cx = re[c], cy = im[c], dx = re[d], dy = im[d];
        turn<T, W, true>(w, 2 * j * stride, bx, by);
        turn<T, W, true>(w, j * stride, cx, cy);
        turn<T, W, true>(w, 3 * j * stride, dx, dy);
        const V sx = re[a] + bx, sy = im[a] + by, tx = re[a] - bx, ty = im[a] - by;
        const V ux = cx + dx, uy = cy + dy, vx = cx - dx, vy = cy - dy;
        re[a] = sx + ux;
        im[a] = sy + uy;
        re[c] = sx - ux;
        im[c] = sy - uy;
        re[b] = tx - vy;
        im[b] = ty + vx;
        re[d] = tx + vy;
        im[d] = ty - vx;
      }
  }
}

}  // namespace KETY_NS
