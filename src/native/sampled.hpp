// The model as the direct searches see it: its values at the samples of a curve, either by the
// exact kernel or as a discrete system on a uniform grid (Svistoun et al., Tomography 5:209, 2019):
//
//   u = convolution of the input with exp(-k t): bilinear transform (IIR) or windowed impulse
//       response by FFT (FIR),     y = v x + a u,     y delayed by tau / T samples.
//
// The delay is a whole number of samples (round), that and a first-order all-pass (Thiran), or
// exact, by shifting the continuous input. Every system is linear and time-invariant, so the whole
// part of the delay is read off the input, which costs nothing but the gather.
#pragma once
#include "fft.hpp"
#include "kernel.hpp"
#include "shuffles.hpp"

namespace KETY_NS {

template <class T>
struct Sampled {
  int kind, filter;  // DiscretizationKind, DelayFilter
  int samples;
  const double* times;  // (samples) s
  Pieces<T> input[kLevels];
  T limit[kLevels];  // 1/s, largest rate of each level
  // Grid: x[i] is the input at times[0] + i / rate, for -front <= i < samples + ahead; zero before
  // its first sample at i = -lead. All pointers stand at i = 0.
  double rate;
  int lead, ahead;
  const T* x;
  // FIR: window of the impulse response, and what stands for the spectrum of x (from i = -lead on).
  int taps;
  const T* window;
  const T *p_re, *p_im, *q_re, *q_im;  // see convolve
  Twiddles<T> twiddles;
  // What is fitted.
  const T* weights;  // (samples) or null
  bool baseline;
  T weight_sum;
  T lo[4], span[4];
  int free[4], free_count;
};

// Working memory of one thread.
template <class T, int W>
struct SampledScratch {
  Lanes<T, W>* knots;               // exact: G and H at the pieces
  Lanes<T, W>*re, *im, *re2, *im2;  // FIR: transforms
};

KETY_FN int whole_below(double x) {  // floor
  const int i = static_cast<int>(x);
  return i > x ? i - 1 : i;
}

// The delay of every lane as whole samples and the coefficient of the all-pass.
template <class T, int W>
struct Delay {
  int shift[W];
  Lanes<T, W> alpha;
};

template <class T, int W>
KETY_FN Delay<T, W> split_delay(const Sampled<T>& m, const Lanes<T, W>& tau) {
  Delay<T, W> d = {};
  for (int l = 0; l < W; ++l) {
    const double samples = static_cast<double>(get<T, W>(tau, l)) * m.rate;
    if (m.filter == kRound) d.shift[l] = whole_below(samples + 0.5);
    if (m.filter == kThiran) {
      // The fraction between 0.5 and 1.5, where the filter is accurate and its pole far from -1.
      d.shift[l] = whole_below(samples - 0.5);
      const T fraction = static_cast<T>(samples - d.shift[l]);
      set<T, W>(d.alpha, l, (T(1) - fraction) / (T(1) + fraction));
    }
  }
  return d;
}

// The input at W successive samples from n on, delayed by whole samples or exactly.
template <class T, int W>
KETY_FN void delayed_input(const Sampled<T>& m, int n, const Delay<T, W>& d, const Lanes<T, W>& tau,
                           Lanes<T, W> x[W]) {
  if (m.filter == kDelayExact) {
    const Pieces<T>& in = m.input[0];
    for (int i = 0; i < W; ++i) {
      const double t = m.times[0] + (n + i) / m.rate;
      for (int l = 0; l < W; ++l) {
        const T delay = get<T, W>(tau, l);
        const int piece = locate(in, t, delay);
        const T u = piece > 0 ? static_cast<T>(t - in.start[piece]) - delay : T(0);
        const T* p = in.taylor + 4 * piece;
        set<T, W>(x[i], l, p[0] + u * (p[1] + u * T(0.5) * (p[2] + u * T(1.0 / 3) * p[3])));
      }
    }
    return;
  }
  for (int l = 0; l < W; ++l) x[l] = load<T, W>(m.x + (n - d.shift[l]));
  transpose<T, W>(x);
}

// Samples before the first of the curve at which some lane's delayed input is not yet zero.
template <class T, int W>
KETY_FN int run_up(const Sampled<T>& m, const Delay<T, W>& d, const Lanes<T, W>& tau) {
  int most = 0;
  for (int l = 0; l < W; ++l) {
    const int shift = m.filter == kDelayExact
                          ? whole_below(static_cast<double>(get<T, W>(tau, l)) * m.rate)
                          : d.shift[l];
    most = m.lead - shift > most ? m.lead - shift : most;
  }
  return most;
}

// Calls visit(n, g, value) for every sample n and group g of W lanes; p[g] are v, a, k, tau.
template <class T, int W, int G, class Visit>
KETY_FN void walk_iir(const Sampled<T>& m, const Lanes<T, W> (*p)[4], const Visit& visit) {
  using V = Lanes<T, W>;
  const T step = static_cast<T>(1.0 / m.rate);
  V decay[G], gain[G], u[G] = {}, before[G] = {}, last[G] = {}, out[G] = {};
  Delay<T, W> delay[G];
  int early = 0;
  for (int g = 0; g < G; ++g) {
    const V k = p[g][2] * step;
    decay[g] = (T(2) - k) / (T(2) + k);
    gain[g] = p[g][1] * step / (T(2) + k);
    delay[g] = split_delay<T, W>(m, p[g][3]);
    const int needed = run_up<T, W>(m, delay[g], p[g][3]);
    early = needed > early ? needed : early;
  }
  const bool thiran = m.filter == kThiran;
  for (int n0 = -((early + W - 1) / W) * W; n0 < m.samples; n0 += W) {
    V x[G][W];
    for (int g = 0; g < G; ++g) delayed_input<T, W>(m, n0, delay[g], p[g][3], x[g]);
    const int count = m.samples - n0 < W ? m.samples - n0 : W;
    for (int i = 0; i < count; ++i)
      for (int g = 0; g < G; ++g) {
        const V now = x[g][i];
        u[g] = add_product(V(gain[g] * (now + before[g])), decay[g], u[g]);
        before[g] = now;
        const V y = add_product(u[g], p[g][0], now);
        out[g] = thiran ? add_product(last[g], delay[g].alpha, y - out[g]) : y;
        last[g] = y;
        if (n0 >= 0) visit(n0 + i, g, out[g]);
      }
  }
}

// Calls put(n, h) for every tap of the windowed impulse response T exp(-k n T).
template <class T, int W, class Put>
KETY_FN void impulse_response(const Sampled<T>& m, const Lanes<T, W>& k, const Put& put) {
  using V = Lanes<T, W>;
  constexpr int run = 16;  // powers by short runs, so that rounding does not pile up
  const T step = static_cast<T>(1.0 / m.rate);
  const V r = decay_of<T, W>(V(k * step));
  V power[run], base = V{} + step;
  power[0] = V{} + T(1);
  for (int i = 1; i < run; ++i) power[i] = power[i - 1] * r;
  const V next = power[run - 1] * r;
  for (int n = 0; n < m.taps; n += run) {
    for (int i = 0; i < run && n + i < m.taps; ++i)
      put(n + i, V(base * power[i] * m.window[n + i]));
    base *= next;
  }
}

// The impulse response convolved with the input: sample n in re[n / 2] or, where n is odd,
// im[n / 2], from n = 0 at the first sample of x.
//
// Even and odd samples go as real and imaginary part z through one transform of half the length,
// Z. With those of x as A and B = V Xodd + i Xeven, V the delay by one sample, the transform of the
// result in the same form is P Z[k] + Q conj Z[-k], P = (A - i B) / 2, Q = (A + i B) / 2.
template <class T, int W>
KETY_FN void convolve(const Sampled<T>& m, const Lanes<T, W>& k, SampledScratch<T, W>& s) {
  using V = Lanes<T, W>;
  const int length = m.twiddles.length;
  for (int n = m.taps / 2; n < length; ++n) s.re[n] = s.im[n] = V{};
  impulse_response<T, W>(m, k, [&](int n, const V& h) { (n % 2 ? s.im : s.re)[n / 2] = h; });
  fft_forward<T, W>(m.twiddles, s.re, s.im);
  const auto combine = [&](int j, const V& x, const V& y, const V& u, const V& v) {
    s.re[j] =
        less_product(V(m.p_re[j] * x), m.p_im[j], y) + add_product(V(m.q_re[j] * u), m.q_im[j], v);
    s.im[j] =
        add_product(V(m.p_re[j] * y), m.p_im[j], x) + less_product(V(m.q_im[j] * u), m.q_re[j], v);
  };
  // In bit-reversed order the opposite frequency is found by turning the bits below the highest.
  for (int j = 0, top = 1; j < length; ++j) {
    if (j == 2 * top) top *= 2;
    const int other = j < 2 ? j : j ^ (top - 1);
    if (other < j) continue;
    const V x = s.re[j], y = s.im[j], u = s.re[other], v = s.im[other];
    combine(j, x, y, u, v);
    if (other > j) combine(other, u, v, x, y);
  }
  fft_inverse<T, W>(m.twiddles, s.re, s.im);
}

// The same where every lane has an input of its own, delayed exactly; `early` samples before the
// first of the curve are the run-up. Sample n in re[early + n], times the length.
template <class T, int W>
KETY_FN void convolve_delayed(const Sampled<T>& m, const Lanes<T, W>& k, const Lanes<T, W>& tau,
                              int early, SampledScratch<T, W>& s) {
  using V = Lanes<T, W>;
  const int length = m.twiddles.length;
  for (int n = 0; n < length; ++n) s.re[n] = s.im[n] = s.re2[n] = s.im2[n] = V{};
  impulse_response<T, W>(m, k, [&](int n, const V& h) { s.re[n] = h; });
  for (int n0 = 0; n0 < early + m.samples; n0 += W) {
    V x[W];
    delayed_input<T, W>(m, n0 - early, Delay<T, W>{}, tau, x);
    for (int i = 0; i < W && n0 + i < early + m.samples; ++i) s.re2[n0 + i] = x[i];
  }
  fft_forward<T, W>(m.twiddles, s.re, s.im);
  fft_forward<T, W>(m.twiddles, s.re2, s.im2);
  for (int n = 0; n < length; ++n) {
    const V re = less_product(V(s.re[n] * s.re2[n]), s.im[n], s.im2[n]);
    s.im[n] = add_product(V(s.re[n] * s.im2[n]), s.im[n], s.re2[n]);
    s.re[n] = re;
  }
  fft_inverse<T, W>(m.twiddles, s.re, s.im);
}

template <class T, int W, int G, class Visit>
KETY_FN void walk_fir(const Sampled<T>& m, const Lanes<T, W> (*p)[4], SampledScratch<T, W>& s,
                      const Visit& visit) {
  using V = Lanes<T, W>;
  const T norm = T(1) / static_cast<T>(m.twiddles.length);
  for (int g = 0; g < G; ++g) {
    const V tau = p[g][3], gain = p[g][1] * norm;
    const Delay<T, W> delay = split_delay<T, W>(m, tau);
    const bool exact = m.filter == kDelayExact, thiran = m.filter == kThiran;
    // What is transformed must not begin elsewhere because of the lanes beside it.
    const int early = exact ? run_up<T, W>(m, delay, V(V{} + m.lo[3]))
                            : (run_up<T, W>(m, delay, tau) + W - 1) / W * W;
    if (exact)
      convolve_delayed<T, W>(m, p[g][2], tau, early, s);
    else
      convolve<T, W>(m, p[g][2], s);
    V out = {}, last = {};
    for (int n0 = exact ? 0 : -early; n0 < m.samples; n0 += W) {
      V x[W];
      delayed_input<T, W>(m, n0, delay, tau, x);
      for (int i = 0; i < W && n0 + i < m.samples; ++i) {
        const int n = n0 + i;
        V w = {};
        if (exact)
          w = s.re[early + n];
        else
          for (int l = 0; l < W; ++l) {
            const int at = n - delay.shift[l] + m.lead;
            if (at >= 0) set<T, W>(w, l, get<T, W>((at % 2 ? s.im : s.re)[at / 2], l));
          }
        const V y = add_product(V(gain * w), p[g][0], x[i]);
        out = thiran ? add_product(last, delay.alpha, y - out) : y;
        last = y;
        if (n >= 0) visit(n, g, out);
      }
    }
  }
}

// The exact kernel. A lane's own rate decides which pieces it uses; lanes of another level are
// evaluated again.
template <class T, int W, int G, class Visit>
KETY_FN void walk_exact(const Sampled<T>& m, const Lanes<T, W> (*p)[4], SampledScratch<T, W>& s,
                        const Visit& visit) {
  using V = Lanes<T, W>;
  using M = Mask<T, W>;
  for (int g = 0; g < G; ++g) {
    V tau = p[g][3];
    if (m.filter == kRound)
      for (int l = 0; l < W; ++l)
        set<T, W>(tau, l,
                  static_cast<T>(
                      whole_below(static_cast<double>(get<T, W>(tau, l)) * m.rate + 0.5) / m.rate));
    T low, high;
    extremes<T, W>(tau, low, high);
    for (int level = 0; level < kLevels; ++level) {
      M mine = level + 1 < kLevels ? M(p[g][2] <= m.limit[level]) : M(p[g][2] == p[g][2]);
      if (level > 0) mine &= p[g][2] > m.limit[level - 1];
      if (!any<T, W>(mine)) continue;
      const V k[1] = {lower(p[g][2], V(V{} + m.limit[level]))};
      Knots<T, W, 1> along(m.input[level], k, s.knots);
      for (int j = 0; j < m.samples; ++j) {
        Point<T, W, 1> q = {};
        along.at(m.input[level], m.times[j], k, tau, low, high, q);
        visit(j, g, add_product(V(p[g][1] * q.g[0]), p[g][0], q.c), mine);
      }
    }
  }
}

// Calls visit(n, g, value) or, for the lanes of a mask only, visit(n, g, value, mask).
template <class T, int W, int G, class Visit>
KETY_FN void walk(const Sampled<T>& m, const Lanes<T, W> (*p)[4], SampledScratch<T, W>& s,
                  const Visit& visit) {
  if (m.kind == kIir)
    walk_iir<T, W, G>(m, p, visit);
  else if (m.kind == kFir)
    walk_fir<T, W, G>(m, p, s, visit);
  else
    walk_exact<T, W, G>(m, p, s, visit);
}

// Weighted residual sum of squares, less what a fitted baseline explains.
template <class T, int W, bool Plain>
struct Residual {
  Lanes<T, W> cost = {}, sum = {};

  KETY_FN void add(const Sampled<T>& m, int n, const Lanes<T, W>& r) {
    if constexpr (Plain) {
      cost = add_product(cost, r, r);
    } else {
      const Lanes<T, W> wr = m.weights ? m.weights[n] * r : r;
      cost = add_product(cost, wr, r);
      sum += wr;
    }
  }

  KETY_FN Lanes<T, W> total(const Sampled<T>& m) const {
    if (Plain || !m.baseline) return cost;
    return upper(Lanes<T, W>(cost - sum * sum / m.weight_sum), Lanes<T, W>{});
  }
};

// Costs of G x W points. With `Shared` all lanes fit the curve y (samples), otherwise each its own
// in y (samples, G, W).
template <class T, int W, int G, bool Shared, bool Plain>
KETY_STAGE void costs(const Sampled<T>& m, const Lanes<T, W> (*p)[4], const T* y,
                      SampledScratch<T, W>& s, Lanes<T, W>* out) {
  using V = Lanes<T, W>;
  using M = Mask<T, W>;
  struct Visit {
    const Sampled<T>& m;
    const T* y;
    Residual<T, W, Plain>* sums;

    KETY_FN V residual(int n, int g, const V& value) const {
      if constexpr (Shared)
        return value - y[n];
      else
        return value - load<T, W>(y + (static_cast<long>(n) * G + g) * W);
    }
    KETY_FN void operator()(int n, int g, const V& value) const {
      sums[g].add(m, n, residual(n, g, value));
    }
    KETY_FN void operator()(int n, int g, const V& value, const M& mine) const {
      sums[g].add(m, n, mine ? residual(n, g, value) : V{});
    }
  };
  Residual<T, W, Plain> sums[G];
  walk<T, W, G>(m, p, s, Visit{m, y, sums});
  for (int g = 0; g < G; ++g) out[g] = sums[g].total(m);
}

// A point of the unit box as v, a, k, tau.
template <class T>
KETY_FN void unfold(const Sampled<T>& m, const T* unit, T p[4]) {
  for (int i = 0; i < 4; ++i) p[i] = m.lo[i];
  for (int i = 0; i < m.free_count; ++i) {
    const int q = m.free[i];
    const T x = m.lo[q] + unit[i] * m.span[q], top = m.lo[q] + m.span[q];
    p[q] = x < m.lo[q] ? m.lo[q] : x > top ? top : x;
  }
}

}  // namespace KETY_NS
