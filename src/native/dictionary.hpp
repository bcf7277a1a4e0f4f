// The search for a voxel's start, on a dictionary of (rate, delay) cells that all voxels share.
//
// Every cell holds the curves c(t - tau) and G_k(t - tau) and their Taylor coefficients about its
// centre, projected on a few basis curves. The scan gives each voxel its best cell for every delay,
// one matrix product; refinement climbs inside a cell on polynomials in two variables. Cells end
// where the curves jump (a frame meets the first sample of the input), so each search is smooth.
#pragma once
#include "lanes.hpp"
#include "types.hpp"

namespace KETY_NS {

constexpr int kRows = 14;  // Taylor rows of a cell: 4 for c, 10 for G
constexpr int kRowsPadded = 16;
// Gram polynomials keep more than degree 3: products of the cubic rows cut there would no longer be
// the Gram matrix of any curve, and the error would be relative to the signal, not the residual.
constexpr int kPoly = kPolySize;
constexpr int kMaxRank = 32;

struct Dictionary {
  int delays, rates, rank, scan_rank;  // the scan uses the leading basis curves only
  const float* delay_centre;           // (delays) s
  const float* delay_half;
  const double* band_lo;  // (delays) s, jumps between which the cell lies
  const double* band_hi;
  const int* band;           // (delays) number of its stretch between walls, jumps and sharp bends
  const float* rate_centre;  // (rates) 1/s
  const float* rate_half;
  const float* c_unit;    // (delays, rank) unit vector along c
  const float* c_norm;    // (delays)
  const float* g_unit;    // (delays, rates, rank) unit vector along G less its part along c
  const float* g_along;   // (delays, rates) G . c_unit
  const float* g_across;  // (delays, rates) length of G less its part along c
  const float* table;     // (delays, rates, rank, 16) Taylor rows, and the same
  const float* curves;    // (delays, rates, 14, rank) the other way round
  const float* poly;      // (delays, rates, kPoly)
  const float* basis;     // (frames, rank), weights folded in
  float lo_v, hi_v, lo_a, hi_a;
  float later;        // s, by which a vascular term usually shifts the best delay
  bool use_v, plain;  // plain: amplitudes bounded by 0 alone as far as the scan goes
};

KETY_FN Dictionary make_dictionary(const FitCall& call) {
  Dictionary d = {};
  d.delays = call.delays;
  d.rates = call.rates;
  d.rank = call.rank;
  d.scan_rank = call.scan_rank;
  d.delay_centre = call.delay_centre;
  d.delay_half = call.delay_half;
  d.band_lo = call.band_lo;
  d.band_hi = call.band_hi;
  d.band = call.band;
  d.rate_centre = call.rate_centre;
  d.rate_half = call.rate_half;
  d.c_unit = call.c_unit;
  d.c_norm = call.c_norm;
  d.g_unit = call.g_unit;
  d.g_along = call.g_along;
  d.g_across = call.g_across;
  d.table = call.table;
  d.curves = call.curves_table;
  d.poly = call.poly;
  d.basis = call.basis;
  d.lo_v = static_cast<float>(call.lo[0]);
  d.hi_v = static_cast<float>(call.hi[0]);
  d.lo_a = static_cast<float>(call.lo[1]);
  d.hi_a = static_cast<float>(call.hi[1]);
  d.use_v = call.use_v;
  d.later = call.later;
  d.plain = call.plain;
  return d;
}

// Amplitudes in their box that explain most; returns what they explain, 2 x'b - x'A x.
template <int W>
KETY_FN Lanes<float, W> box_amplitudes(const Dictionary& d, const Lanes<float, W>& b1,
                                       const Lanes<float, W>& b2, const Lanes<float, W>& a11,
                                       const Lanes<float, W>& a12, const Lanes<float, W>& a22,
                                       Lanes<float, W>& v, Lanes<float, W>& a) {
  using V = Lanes<float, W>;
  using M = Mask<float, W>;
  const V zero = {}, one = zero + 1.0f;
  const float tiny = 1e-30f;
  const V safe11 = a11 > tiny ? a11 : one, safe22 = a22 > tiny ? a22 : one;
  auto clip = [](const V& x, float lo, float hi) {
    const V l = V{} + lo, h = V{} + hi;
    return upper(lower(x, h), l);
  };
  auto explained = [&](const V& x, const V& y) {
    const V along_x = less_product(less_product(V(2.0f * b1), a11, x), a12, y),
            along_y = less_product(less_product(V(2.0f * b2), a12, x), a22, y);
    return add_product(V(y * along_y), x, along_x);
  };
  if (!d.use_v) {
    v = zero;
    a = clip(b2 / safe22, d.lo_a, d.hi_a);
    return explained(v, a);
  }
  const V det = less_product(V(a11 * a22), a12, a12);
  const M regular = det > 1e-6f * a11 * a22;
  const V inv = one / (regular ? det : one);
  v = less_product(V(b1 * a22), b2, a12) * inv;
  a = less_product(V(b2 * a11), b1, a12) * inv;
  const M inside = regular & (v >= d.lo_v) & (v <= d.hi_v) & (a >= d.lo_a) & (a <= d.hi_a);
  V best = explained(v, a);
  if (!any<float, W>(inside == M{})) return best;
  best = inside ? best : zero - 3e38f;
  auto consider = [&](const V& x, const V& y) {
    const V e = explained(x, y);
    const M better = (inside == M{}) & (e > best);
    best = better ? e : best;
    v = better ? x : v;
    a = better ? y : a;
  };
  const float v_edges[2] = {d.lo_v, d.hi_v}, a_edges[2] = {d.lo_a, d.hi_a};
  for (float edge : v_edges)
    consider(zero + edge, clip((b2 - a12 * edge) / safe22, d.lo_a, d.hi_a));
  for (float edge : a_edges)
    consider(clip((b1 - a12 * edge) / safe11, d.lo_v, d.hi_v), zero + edge);
  return best;
}

// Scan of W voxels: for each delay cell the best explained sum of squares and its rate cell.
template <int W>
KETY_FN void scan(const Dictionary& d, const Lanes<float, W>* z, float* best, int* arg) {
  using V = Lanes<float, W>;
  using M = Mask<float, W>;
  using I = Lanes<int, W>;
  const V zero = {}, one = zero + 1.0f;
  for (int m = 0; m < d.delays; ++m) {
    V q1 = {};
    const float* cu = d.c_unit + m * d.scan_rank;
    for (int r = 0; r < d.scan_rank; ++r) q1 = add_product(q1, z[r], cu[r]);
    V top = zero - 1.0f;
    I where = {};
    for (int i = 0; i < d.rates; ++i) {
      const int node = m * d.rates + i;
      const float* gu = d.g_unit + static_cast<long>(node) * d.scan_rank;
      V q2 = {};
      for (int r = 0; r < d.scan_rank; ++r) q2 = add_product(q2, z[r], gu[r]);
      const float along = d.g_along[node], across = d.g_across[node];
      const float norm = __builtin_sqrtf(along * along + across * across);
      V e;
      if (d.plain) {
        const float inverse = norm > 0 ? 1 / norm : 0;
        const V g_alone = upper(V(add_product(V(q2 * across), q1, along) * inverse), zero);
        const V single = g_alone * g_alone;
        if (d.use_v) {
          const V c_alone = upper(q1, zero);
          const M both = (q2 >= zero) & (q1 * across >= q2 * along);
          e = both ? add_product(V(q2 * q2), q1, q1) : upper(single, V(c_alone * c_alone));
        } else {
          e = single;
        }
      } else {
        const float cn = d.c_norm[m];
        V v, a;
        e = box_amplitudes<W>(d, V(q1 * cn), add_product(V(q2 * across), q1, along),
                              V(one * (cn * cn)), V(one * (cn * along)), V(one * (norm * norm)), v,
                              a);
      }
      const M better = e > top;
      top = better ? e : top;
      where = better ? I{} + i : where;
    }
    store<float, W>(best + m * W, top);
    __builtin_memcpy(arg + m * W, &where, sizeof where);
  }
}

// A polynomial of total degree D in x and y with its gradient and Hessian. Coefficients by power of
// y, then of x: 1, x, .., x^D, y, yx, .., yx^(D-1), .., y^D.
template <int W>
struct Jet {
  Lanes<float, W> f, x, y, xx, xy, yy;
};

template <int W, int D>
KETY_FN Jet<W> jet(const Lanes<float, W>* c, const Lanes<float, W>& x, const Lanes<float, W>& y) {
  using V = Lanes<float, W>;
  Jet<W> j = {};
  V half_xx = {}, half_yy = {};
  int at = (D + 1) * (D + 2) / 2;
#pragma GCC unroll 8
  for (int q = D; q >= 0; --q) {
    const int n = D - q;
    at -= n + 1;
    V f = c[at + n], d = {}, h = {};  // value, slope, half curvature of this row in x
#pragma GCC unroll 8
    for (int p = n - 1; p >= 0; --p) {
      h = fused(h, x, d);
      d = fused(d, x, f);
      f = fused(f, x, c[at + p]);
    }
    half_yy = fused(half_yy, y, j.y);
    j.y = fused(j.y, y, j.f);
    j.f = fused(j.f, y, f);
    j.xy = fused(j.xy, y, j.x);
    j.x = fused(j.x, y, d);
    half_xx = fused(half_xx, y, h);
  }
  j.xx = 2.0f * half_xx;
  j.yy = 2.0f * half_yy;
  return j;
}

template <int W, int D>
KETY_FN Jet<W> jet_y(const Lanes<float, W>* c, const Lanes<float, W>& y) {
  using V = Lanes<float, W>;
  Jet<W> j = {};
  V half = {};
#pragma GCC unroll 8
  for (int q = D; q >= 0; --q) {
    half = fused(half, y, j.y);
    j.y = fused(j.y, y, j.f);
    j.f = fused(j.f, y, c[q]);
  }
  j.yy = 2.0f * half;
  return j;
}

// Squared distance, in the basis, of a voxel's products z from the curve v c + a G at the place
// (x, y) of a cell. The polynomials of a climb give explained sums of squares as differences of
// large numbers; minima are compared by this residual instead.
KETY_FN float residual(const Dictionary& d, int node, const float* z, float x, float y, float v,
                       float a) {
  const float ax = a * x, ay = a * y, axx = ax * x, ayy = ay * y;
  const float c[kRows] = {v,       v * y, v * y * y, v * y * y * y, a,   ax,      axx,
                          axx * x, ay,    ay * x,    ay * x * x,    ayy, ayy * x, ayy * y};
  typedef Lanes<float, 8> Part;
  const float* rows = d.curves + static_cast<long>(node) * kRows * d.rank;
  Part sum = {};
  for (int r = 0; r < d.rank; r += 8) {
    Part miss, other = {};
    __builtin_memcpy(&miss, z + r, sizeof miss);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; i += 2) {
      Part even, odd;
      __builtin_memcpy(&even, rows + i * d.rank + r, sizeof even);
      __builtin_memcpy(&odd, rows + (i + 1) * d.rank + r, sizeof odd);
      miss = less_product(miss, c[i], even);
      other = add_product(other, c[i + 1], odd);
    }
    miss -= other;
    sum = add_product(sum, miss, miss);
  }
  return ((sum[0] + sum[4]) + (sum[1] + sum[5])) + ((sum[2] + sum[6]) + (sum[3] + sum[7]));
}

// Whether a wall stands between delay cell m and the next.
KETY_FN bool walled(const Dictionary& d, int m) {
  return m < 0 || m >= d.delays - 1 || d.band[m] != d.band[m + 1];
}

template <int W>
struct Climb {
  Lanes<float, W> x, y, v, a, explained;
};

// Projected Newton ascent of the explained sum of squares inside a cell. `zc` are the voxel's
// products with the cell's Taylor rows, `poly` the cell's Gram polynomials, the box is
// [lo_x, hi_x] x [lo_y, hi_y] in units of the cell's half width.
template <int W>
KETY_FN Climb<W> climb(const Dictionary& d, const Lanes<float, W>* zc, const Lanes<float, W>* poly,
                       const Lanes<float, W>& x0, const Lanes<float, W>& y0,
                       const Lanes<float, W>& lo_x, const Lanes<float, W>& hi_x,
                       const Lanes<float, W>& lo_y, const Lanes<float, W>& hi_y, int iterations) {
  using V = Lanes<float, W>;
  using M = Mask<float, W>;
  const V zero = {}, one = zero + 1.0f;
  Climb<W> at;
  V x = x0, y = y0;
  at.explained = zero - 3e38f;
  for (int it = 0;; ++it) {
    const Jet<W> b1 = jet_y<W, 3>(zc, y), b2 = jet<W, 3>(zc + 4, x, y);
    const Jet<W> a11 = jet_y<W, kDegree>(poly, y), a12 = jet<W, kDegree>(poly + kPolyC, x, y),
                 a22 = jet<W, kDegree>(poly + kPolyC + kPolyG, x, y);
    V v, a;
    const V e = box_amplitudes<W>(d, b1.f, b2.f, a11.f, a12.f, a22.f, v, a);
    const M better = e > at.explained;
    at.x = better ? x : at.x;
    at.y = better ? y : at.y;
    at.v = better ? v : at.v;
    at.a = better ? a : at.a;
    at.explained = better ? e : at.explained;
    if (it == iterations) return at;
    const V vv = v * v, va = 2.0f * v * a, aa = a * a;
    auto of_g = [&](const V& product, const V& with_c, const V& with_g) {
      return less_product(less_product(V(2.0f * a * product), va, with_c), aa, with_g);
    };
    auto of_both = [&](const V& product_c, const V& c_c, const V& product_g, const V& c_g,
                       const V& g_g) {
      return less_product(add_product(of_g(product_g, c_g, g_g), 2.0f * v, product_c), vv, c_c);
    };
    const V gx = of_g(b2.x, a12.x, a22.x), gy = of_both(b1.y, a11.y, b2.y, a12.y, a22.y);
    V hxx = of_g(b2.xx, a12.xx, a22.xx), hxy = of_g(b2.xy, a12.xy, a22.xy),
      hyy = of_both(b1.yy, a11.yy, b2.yy, a12.yy, a22.yy);
    // How the amplitudes follow; those at a bound do not.
    const M v_free = (v > d.lo_v) & (v < d.hi_v), a_free = (a > d.lo_a) & (a < d.hi_a);
    const V ux = v_free ? V(-(a12.x * a)) : zero,
            uy = v_free ? less_product(less_product(b1.y, a11.y, v), a12.y, a) : zero;
    const V wx = a_free ? less_product(less_product(b2.x, a12.x, v), a22.x, a) : zero,
            wy = a_free ? less_product(less_product(b2.y, a12.y, v), a22.y, a) : zero;
    const V i11 = v_free ? a11.f : one, i22 = a_free ? a22.f : one,
            i12 = (v_free & a_free) ? a12.f : zero;
    V det = less_product(V(i11 * i22), i12, i12);
    det = det > 1e-6f * i11 * i22 ? det : V(1e-6f * i11 * i22);
    const V inv = 2.0f / (det > 1e-30f ? det : one);
    const V mx = less_product(V(ux * i22), wx, i12), nx = less_product(V(wx * i11), ux, i12);
    const V my = less_product(V(uy * i22), wy, i12), ny = less_product(V(wy * i11), uy, i12);
    hxx = add_product(hxx, inv, add_product(V(wx * nx), ux, mx));
    hxy = add_product(hxy, inv, add_product(V(wy * nx), uy, mx));
    hyy = add_product(hyy, inv, add_product(V(wy * ny), uy, my));
    // Coordinates pressed against the box stay; the rest take a Newton step, made uphill and no
    // longer than the cell's half width.
    const M stay_x = ((x >= hi_x) & (gx > zero)) | ((x <= lo_x) & (gx < zero));
    const M stay_y = ((y >= hi_y) & (gy > zero)) | ((y <= lo_y) & (gy < zero));
    const V fx = stay_x ? zero : gx, fy = stay_y ? zero : gy;
    V nxx = -hxx, nyy = -hyy, nxy = (stay_x | stay_y) ? zero : V(-hxy);
    const V ax = fx < zero ? -fx : fx, ay = fy < zero ? -fy : fy;
    nxx = nxx > ax ? nxx : ax + 1e-30f;  // step of at most 1 along each axis alone
    nyy = nyy > ay ? nyy : ay + 1e-30f;
    V dd = less_product(V(nxx * nyy), nxy, nxy);
    const M bent = dd > 0.05f * nxx * nyy;
    nxy = bent ? nxy : zero;
    dd = bent ? dd : nxx * nyy;
    const V id = one / (dd > 1e-30f ? dd : one);
    V sx = less_product(V(fx * nyy), fy, nxy) * id, sy = less_product(V(fy * nxx), fx, nxy) * id;
    sx = upper(lower(sx, one), V(-one));
    sy = upper(lower(sy, one), V(-one));
    x = upper(lower(V(x + sx), hi_x), lo_x);
    y = upper(lower(V(y + sy), hi_y), lo_y);
  }
}

// Whether a cell is a single delay beside others: a jump stands at the bound there.
KETY_FN bool alone(const Dictionary& d, int delay) {
  return d.delays > 1 && d.band_lo[delay] == d.band_hi[delay];
}

}  // namespace KETY_NS
