// The one forward kernel: a vascular term plus exponentials convolved with the input,
//
//   C(t) = v c(t - tau) + sum_e a_e G_e(t - tau),   G_e(x) = int_0^x c(u) exp(-k_e (x - u)) du,
//
// with c a piecewise cubic. Inside one piece G obeys G' = c - k G, so its Taylor coefficients at
// the piece's start follow by a two-term recursion; H = -dG/dk obeys H' = G - k H in the same way.
// Pieces are cut so short (k h <= 0.35) that a fixed number of terms gives full precision: there is
// no exponential to call, no 0/0 at k = 0 and no quadrature error on any time grid.
#pragma once
#include "lanes.hpp"
#include "types.hpp"

namespace KETY_NS {

// Terms of the series: 0.35^(n+1) / (n+1)! at the rounding of T.
template <class T>
constexpr int kTerms = sizeof(T) == 4 ? 6 : 12;

// The input's pieces. Piece 0 stands for "before the first sample": all zeros.
template <class T>
struct Pieces {
  int count;
  const double* start;  // (count + 1) s; start[0] is finite but never used as an origin
  const T* taylor;      // (count, 4): m! times the coefficient of u^m
  const T* step;        // (count) s, length of the piece; 0 for piece 0
  const int* bucket;    // piece that holds the left edge of each equal bin of the time axis
  int buckets;
  double bucket_origin, bucket_rate;
};

// Whether a voxel of delay tau has passed the start of piece i at time t. The difference of the
// two shared times is taken in double, so that float32 keeps its precision in long series.
template <class T>
KETY_FN bool passed(const Pieces<T>& in, int i, double t, T tau) {
  return static_cast<T>(t - in.start[i]) - tau >= T(0);
}

template <class T>
KETY_FN int locate(const Pieces<T>& in, double t, T tau) {
  const double x = (t - static_cast<double>(tau) - in.bucket_origin) * in.bucket_rate;
  const int bin = x < in.buckets - 1 ? static_cast<int>(x) : in.buckets - 1;
  int i = in.bucket[bin < 0 ? 0 : bin];
  while (i > 0 && !passed(in, i, t, tau)) --i;
  while (i < in.count - 1 && passed(in, i + 1, t, tau)) ++i;
  return i;
}

template <class T>
KETY_FN constexpr T inverse_factorial(int n) {
  T f = 1;
  for (int i = 2; i <= n; ++i) f /= static_cast<T>(i);
  return f;
}

// phi_1 .. phi_5 of -x (phi_j(z) = sum z^n / (n + j)!) by series and downward recursion, and
// exp(-x).
template <class T, int W>
KETY_FN void phi_functions(const Lanes<T, W>& x, Lanes<T, W> phi[6]) {
  using V = Lanes<T, W>;
  constexpr int terms = kTerms<T>;
  V s = spread<V>(inverse_factorial<T>(terms + 5));
#pragma GCC unroll 16
  for (int n = terms - 1; n >= 0; --n)
    s = less_product(spread<V>(inverse_factorial<T>(n + 5)), x, s);
  phi[5] = s;
#pragma GCC unroll 8
  for (int j = 4; j >= 0; --j)
    phi[j] = less_product(spread<V>(inverse_factorial<T>(j)), x, phi[j + 1]);
}

// The same for any x >= 0: a longer series below 1.2, above it exp(-x) and the recursion upwards,
// which loses little there.
template <class T, int W>
KETY_FN void phi_anywhere(const Lanes<T, W>& x, Lanes<T, W> phi[6]) {
  using V = Lanes<T, W>;
  constexpr int terms = sizeof(T) == 4 ? 10 : 18;
  constexpr T border = T(1.2);
  const V near = x < border ? x : V{} + border, far = x < border ? V{} + border : x;
  V s = spread<V>(inverse_factorial<T>(terms + 5));
#pragma GCC unroll 32
  for (int n = terms - 1; n >= 0; --n)
    s = less_product(spread<V>(inverse_factorial<T>(n + 5)), near, s);
  V small[6];
  small[5] = s;
#pragma GCC unroll 8
  for (int j = 4; j >= 0; --j)
    small[j] = less_product(spread<V>(inverse_factorial<T>(j)), near, small[j + 1]);
  const V inverse = T(1) / far;
  V large = decay_of<T, W>(far);
  phi[0] = x < border ? small[0] : large;
#pragma GCC unroll 8
  for (int j = 0; j < 5; ++j) {
    large = (inverse_factorial<T>(j) - large) * inverse;
    phi[j + 1] = x < border ? small[j + 1] : large;
  }
}

// G and H of every rate at the start of a piece, and the way to the next. Fast: for rates that the
// pieces are not cut for.
template <class T, int W, int E, bool Fast = false>
struct March {
  using V = Lanes<T, W>;
  V g[E] = {}, h[E] = {}, decay[E] = {}, decayed_step[E] = {}, w[E][4] = {}, d[E][4] = {};
  T last = -1;
  int piece = 0;

  KETY_FN void step(const Pieces<T>& in, const V k[E]) {
    const T step = in.step[piece];
    if (step != last) {
      last = step;
      for (int e = 0; e < E; ++e) {
        V phi[6];
        if constexpr (Fast)
          phi_anywhere<T, W>(k[e] * step, phi);
        else
          phi_functions<T, W>(k[e] * step, phi);
        decay[e] = phi[0];
        decayed_step[e] = phi[0] * step;
        T power = step;
        for (int m = 0; m < 4; ++m) {
          w[e][m] = power * phi[m + 1];
          power *= step;
          d[e][m] = power * less_product(phi[m + 1], T(m + 1), phi[m + 2 <= 5 ? m + 2 : 5]);
        }
      }
    }
    const T* p = in.taylor + 4 * piece;
    for (int e = 0; e < E; ++e) {
      // What does not wait for g and h comes first, so that each step is one fused operation long.
      const V from_input_h = add_product(V(p[0] * d[e][0]), p[1], d[e][1]) +
                             add_product(V(p[2] * d[e][2]), p[3], d[e][3]);
      const V from_input_g = add_product(V(p[0] * w[e][0]), p[1], w[e][1]) +
                             add_product(V(p[2] * w[e][2]), p[3], w[e][3]);
      h[e] = add_product(add_product(from_input_h, decayed_step[e], g[e]), decay[e], h[e]);
      g[e] = add_product(from_input_g, decay[e], g[e]);
    }
    ++piece;
  }
};

// G and H at the start of every piece, into knots[piece][2 E].
template <class T, int W, int E, bool Fast = false>
KETY_FN void sweep(const Pieces<T>& in, const Lanes<T, W> k[E], Lanes<T, W>* knots) {
  March<T, W, E, Fast> march;
  while (march.piece < in.count) {
    for (int e = 0; e < E; ++e) {
      knots[2 * (march.piece * E + e)] = march.g[e];
      knots[2 * (march.piece * E + e) + 1] = march.h[e];
    }
    march.step(in, k);
  }
}

// c, c', G and H at one time.
template <class T, int W, int E>
struct Point {
  Lanes<T, W> c, dc, g[E], h[E];
};

template <class T, int W, int E, bool Fast, class P>
KETY_FN void expand(const P p[4], const Lanes<T, W>* knot, const Lanes<T, W> k[E],
                    const Lanes<T, W>& u, Point<T, W, E>& out) {
  using V = Lanes<T, W>;
  constexpr int N = kTerms<T>;
  const V u2 = u * T(0.5), u3 = u * T(1.0 / 3);
  const V p0 = spread<V>(p[0]), p1 = spread<V>(p[1]), p2 = spread<V>(p[2]);
  out.dc = add_product(p1, u, add_product(p2, u2, p[3]));
  out.c = add_product(p0, u, add_product(p1, u2, add_product(p2, u3, p[3])));
  for (int e = 0; e < E; ++e) {
    if constexpr (Fast) {
      V phi[6];
      phi_anywhere<T, W>(k[e] * u, phi);
      V g = phi[0] * knot[2 * e], h = phi[0] * add_product(knot[2 * e + 1], u, knot[2 * e]),
        power = u;
      for (int m = 0; m < 4; ++m) {
        g = add_product(g, p[m], power * phi[m + 1]);
        power *= u;
        h = add_product(h, p[m],
                        power * less_product(phi[m + 1], T(m + 1), phi[m + 2 <= 5 ? m + 2 : 5]));
      }
      out.g[e] = g;
      out.h[e] = h;
      continue;
    }
    V g[N + 1], h[N + 1];
    g[0] = knot[2 * e];
    h[0] = knot[2 * e + 1];
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
      g[n + 1] = n < 4 ? less_product(spread<V>(p[n < 4 ? n : 0]), k[e], g[n]) : V(-(k[e] * g[n]));
      h[n + 1] = less_product(g[n], k[e], h[n]);
    }
    V sg = g[N], sh = h[N];
#pragma GCC unroll 16
    for (int n = N; n > 0; --n) {
      const V un = u * (T(1) / T(n));
      sg = add_product(g[n - 1], un, sg);
      sh = add_product(h[n - 1], un, sh);
    }
    out.g[e] = sg;
    out.h[e] = sh;
  }
}

// Pieces between the lanes' delays from which on it is cheaper to fetch each lane's own than to
// choose among all of them.
constexpr int kManyPieces = 24;

// The point of every lane at frame time t. Lanes share the pieces between those of the least and
// the largest delay, usually one or two since voxels are taken in order of delay; each lane picks
// its own among them, by a rule that does not depend on the other lanes.
// Returns false where no lane has seen the input yet (the point is zero then).
template <class T, int W, int E, bool Fast = false>
KETY_FN bool sample(const Pieces<T>& in, double t, const Lanes<T, W> k[E], const Lanes<T, W>& tau,
                    T tau_min, T tau_max, const Lanes<T, W>* knots, Point<T, W, E>& out) {
  using V = Lanes<T, W>;
  const int last = locate(in, t, tau_min);
  if (last == 0) return false;
  int first = last;
  while (first > 0 && !passed(in, first, t, tau_max)) --first;
  const T* p = in.taylor + 4 * first;
  V u = static_cast<T>(t - in.start[first]) - tau;
  if (first == last) {
    expand<T, W, E, Fast>(p, knots + 2 * E * first, k, u, out);
    return true;
  }
  V q[4], knot[2 * E];
  if (last - first > kManyPieces) {
    T own[5 + 2 * E][W];  // in memory, since single lanes of a register are slow to set
    for (int l = 0; l < W; ++l) {
      const T delay = get<T, W>(tau, l);
      const int i = locate(in, t, delay);
      own[4][l] = i > 0 ? static_cast<T>(t - in.start[i]) - delay : T(0);
      for (int m = 0; m < 4; ++m) own[m][l] = in.taylor[4 * i + m];
      for (int e = 0; e < 2 * E; ++e) own[5 + e][l] = get<T, W>(knots[2 * E * i + e], l);
    }
    for (int m = 0; m < 4; ++m) q[m] = load<T, W>(own[m]);
    for (int e = 0; e < 2 * E; ++e) knot[e] = load<T, W>(own[5 + e]);
    u = load<T, W>(own[4]);
    expand<T, W, E, Fast>(q, knot, k, u, out);
    return true;
  }
  if (first == 0) u = V{};
  for (int m = 0; m < 4; ++m) q[m] = V{} + p[m];
  for (int e = 0; e < 2 * E; ++e) knot[e] = knots[2 * E * first + e];
  for (int i = first + 1; i <= last; ++i) {
    const V ui = static_cast<T>(t - in.start[i]) - tau;
    const Mask<T, W> here = ui >= V{};
    p = in.taylor + 4 * i;
    u = here ? ui : u;
    for (int m = 0; m < 4; ++m) q[m] = here ? V{} + p[m] : q[m];
    for (int e = 0; e < 2 * E; ++e) knot[e] = here ? knots[2 * E * i + e] : knot[e];
  }
  expand<T, W, E, Fast>(q, knot, k, u, out);
  return true;
}

template <class T, int W>
KETY_FN void extremes(const Lanes<T, W>& x, T& low, T& high) {
  low = high = get<T, W>(x, 0);
  for (int l = 1; l < W; ++l) {
    const T v = get<T, W>(x, l);
    low = v < low ? v : low;
    high = v > high ? v : high;
  }
}

// What the frames of W voxels need of the pieces before them, asked for in the order of time.
template <class T, int W, int E, bool Fast = false>
class Knots {
  Lanes<T, W>* kept_;

 public:
  // `memory` (pieces, 2 E)
  KETY_FN Knots(const Pieces<T>& in, const Lanes<T, W> k[E], Lanes<T, W>* memory) : kept_(memory) {
    sweep<T, W, E, Fast>(in, k, kept_);
  }
  KETY_FN bool at(const Pieces<T>& in, double t, const Lanes<T, W> k[E], const Lanes<T, W>& tau,
                  T tau_min, T tau_max, Point<T, W, E>& out) {
    return sample<T, W, E, Fast>(in, t, k, tau, tau_min, tau_max, kept_, out);
  }
};

// One voxel alone walks along the pieces with its frames and needs no memory.
template <class T, int E, bool Fast>
class Knots<T, 1, E, Fast> {
  March<T, 1, E, Fast> march_;

 public:
  KETY_FN Knots(const Pieces<T>&, const T*, T*) {}
  KETY_FN bool at(const Pieces<T>& in, double t, const T k[E], const T& tau, T, T,
                  Point<T, 1, E>& out) {
    const int i = locate(in, t, tau);
    if (i == 0) return false;
    while (march_.piece < i) march_.step(in, k);
    T knot[2 * E];
    for (int e = 0; e < E; ++e) {
      knot[2 * e] = march_.g[e];
      knot[2 * e + 1] = march_.h[e];
    }
    const T u = static_cast<T>(t - in.start[i]) - tau;
    expand<T, 1, E, Fast>(in.taylor + 4 * i, knot, k, u, out);
    return true;
  }
};

// Model values (and derivatives with respect to v, a_e, k_e, tau) at the frames; parameters in the
// order v, a_1, k_1, .., tau. `values` is (frames, W), `jacobian` (frames, 2 + 2 E, W) or null.
template <class T, int W, int E>
KETY_FN void forward(const Pieces<T>& in, const double* times, int frames,
                     const Lanes<T, W> par[2 + 2 * E], Lanes<T, W>* knots, Lanes<T, W>* values,
                     Lanes<T, W>* jacobian) {
  using V = Lanes<T, W>;
  constexpr int P = 2 + 2 * E;
  V k[E];
  for (int e = 0; e < E; ++e) k[e] = par[2 + 2 * e];
  const V v = par[0], tau = par[P - 1];
  T low, high;
  extremes<T, W>(tau, low, high);
  Knots<T, W, E> along(in, k, knots);
  for (int j = 0; j < frames; ++j) {
    Point<T, W, E> q = {};
    along.at(in, times[j], k, tau, low, high, q);
    V f = v * q.c, slope = v * q.dc;
    for (int e = 0; e < E; ++e) {
      const V a = par[1 + 2 * e];
      f = add_product(f, a, q.g[e]);
      slope = add_product(slope, a, less_product(q.c, k[e], q.g[e]));
      if (jacobian) {
        jacobian[j * P + 1 + 2 * e] = q.g[e];
        jacobian[j * P + 2 + 2 * e] = -(a * q.h[e]);
      }
    }
    values[j] = f;
    if (jacobian) {
      jacobian[j * P] = q.c;
      jacobian[j * P + P - 1] = -slope;
    }
  }
}

}  // namespace KETY_NS
