// Direct searches over a range of voxels: simplices and populations served by the lanes.
#pragma once
#include "evolution.hpp"
#include "nelder_mead.hpp"
#include "pieces.hpp"
#include "sampled.hpp"

namespace KETY_NS {

constexpr int kGroups = 2;  // registers worked on side by side, which hides the recursion's latency

template <class T>
Sampled<T> make_sampled(const SampledCall& call) {
  Sampled<T> m = {};
  m.kind = call.kind;
  m.filter = call.filter;
  m.samples = call.samples;
  m.times = call.times;
  m.rate = call.rate;
  m.lead = call.lead;
  m.ahead = call.ahead;
  m.x = static_cast<const T*>(call.x);
  m.taps = call.taps;
  m.window = static_cast<const T*>(call.window);
  m.p_re = static_cast<const T*>(call.p_re);
  m.p_im = static_cast<const T*>(call.p_im);
  m.q_re = static_cast<const T*>(call.q_re);
  m.q_im = static_cast<const T*>(call.q_im);
  m.twiddles = {call.transform, static_cast<const T*>(call.cosine),
                static_cast<const T*>(call.sine)};
  m.weights = static_cast<const T*>(call.weights);
  m.baseline = call.baseline;
  m.weight_sum = static_cast<T>(call.weight_sum);
  for (int i = 0; i < kLevels; ++i) m.limit[i] = static_cast<T>(call.input[i].rate_limit);
  for (int i = 0; i < 4; ++i) {
    m.lo[i] = static_cast<T>(call.lo[i]);
    m.span[i] = static_cast<T>(call.hi[i] - call.lo[i]);
    if (call.hi[i] > call.lo[i]) m.free[m.free_count++] = i;
  }
  return m;
}

// Memory of one thread, in one piece.
template <class T, int W>
struct DirectMemory {
  OwnPieces<T> pieces[kLevels] = {};
  SampledScratch<T, W> scratch = {};
  void* memory = nullptr;

  DirectMemory(const SampledCall& call, Sampled<T>& m) {
    int most = 0;
    for (int i = 0; i < kLevels; ++i) {
      if (call.input[i].count == 0) continue;
      pieces[i] = cast_pieces<T>(call.input[i]);
      m.input[i] = pieces[i].pieces;
      most = call.input[i].count > most ? call.input[i].count : most;
    }
    using V = Lanes<T, W>;
    const long transforms = m.kind != kFir ? 0 : m.filter == kDelayExact ? 4 : 2;
    const long knots = m.kind == kExact ? 2L * most : 0, length = m.twiddles.length;
    memory = kety_allocate((knots + transforms * length) * static_cast<long>(sizeof(V)));
    V* at = static_cast<V*>(memory);
    scratch.knots = at;
    V** buffers[4] = {&scratch.re, &scratch.im, &scratch.re2, &scratch.im2};
    for (int i = 0; i < transforms; ++i) *buffers[i] = at + knots + i * length;
  }
  DirectMemory(const DirectMemory&) = delete;
  ~DirectMemory() {
    for (auto& own : pieces)
      if (own.memory) kety_release(own.memory);
    kety_release(memory);
  }
};

// Points of the unit box in the lanes.
template <class T, int W, int G>
KETY_FN void load_point(const Sampled<T>& m, const T* unit, int lane, Lanes<T, W> p[G][4]) {
  T q[4];
  unfold(m, unit, q);
  for (int i = 0; i < 4; ++i) set<T, W>(p[lane / W][i], lane % W, q[i]);
}

template <class T, int W, int G, bool Shared>
KETY_FN void any_costs(const Sampled<T>& m, const Lanes<T, W> (*p)[4], const T* y,
                       SampledScratch<T, W>& s, Lanes<T, W>* out) {
  if (m.weights || m.baseline)
    costs<T, W, G, Shared, false>(m, p, y, s, out);
  else
    costs<T, W, G, Shared, true>(m, p, y, s, out);
}

// Costs or values of a range of points.
template <class T, int W>
void sampled_range(const CurvesCall& call, long begin, long end) {
  constexpr int G = kGroups, L = G * W;
  using V = Lanes<T, W>;
  using M = Mask<T, W>;
  Sampled<T> m = make_sampled<T>(call.model);
  DirectMemory<T, W> memory(call.model, m);
  struct Visit {
    double* values;
    long stride;
    int count;
    KETY_FN void operator()(int n, int g, const V& value) const {
      for (int l = 0; l < W && g * W + l < count; ++l)
        values[(g * W + l) * stride + n] = static_cast<double>(get<T, W>(value, l));
    }
    KETY_FN void operator()(int n, int g, const V& value, const M& mine) const {
      for (int l = 0; l < W && g * W + l < count; ++l)
        if (is_set<T, W>(mine, l))
          values[(g * W + l) * stride + n] = static_cast<double>(get<T, W>(value, l));
    }
  };
  for (long first = begin; first < end; first += L) {
    const int count = static_cast<int>(end - first < L ? end - first : L);
    V p[G][4], out[G];
    for (int l = 0; l < L; ++l) {
      const double* from = call.points + (first + (l < count ? l : 0)) * m.free_count;
      T unit[4];
      for (int i = 0; i < m.free_count; ++i) unit[i] = static_cast<T>(from[i]);
      load_point<T, W, G>(m, unit, l, p);
    }
    if (call.curve) {
      any_costs<T, W, G, true>(m, p, static_cast<const T*>(call.curve), memory.scratch, out);
      for (int l = 0; l < count; ++l)
        call.costs[first + l] = static_cast<double>(get<T, W>(out[l / W], l % W));
    } else {
      walk<T, W, G>(m, p, memory.scratch, Visit{call.values + first * m.samples, m.samples, count});
    }
  }
}

// The sum of squares that the curve has about 0 or, with a baseline, about its mean; NaN where it
// is not finite.
template <class T>
T curve_square(const Sampled<T>& m, const T* y) {
  T sum = 0, square = 0;
  for (int n = 0; n < m.samples; ++n) {
    const T w = m.weights ? m.weights[n] : T(1);
    sum += w * y[n];
    square += w * y[n] * y[n];
  }
  return m.baseline ? square - sum * sum / m.weight_sum : square;
}

// Spread of costs at which a search of a curve of that sum of squares ends.
template <class T>
KETY_FN T tolerance(const SearchCall& call, T square) {
  return upper(static_cast<T>(call.ftol), static_cast<T>(call.relative_ftol) * square);
}

template <class T>
void write_voxel(const SearchCall& call, const Sampled<T>& m, long voxel, const T* unit, T cost,
                 unsigned evaluations, bool converged) {
  T p[4];
  unfold(m, unit, p);
  for (int i = 0; i < 4; ++i) call.points[4 * voxel + i] = static_cast<double>(p[i]);
  call.cost[voxel] = static_cast<double>(cost);
  call.evaluations[voxel] = evaluations;
  call.status[voxel] = converged ? kConverged : kIterationLimit;
}

template <class T>
void write_nothing(const SearchCall& call, long voxel) {
  for (int i = 0; i < 4; ++i) call.points[4 * voxel + i] = __builtin_nan("");
  call.cost[voxel] = __builtin_nan("");
  call.evaluations[voxel] = 0;
  call.status[voxel] = kNotFinite;
}

// All starts of all voxels of a range form one queue; a lane takes the next when its simplex has
// converged, so that none waits for the slowest.
template <class T, int W>
void nelder_mead_range(const SearchCall& call, long begin, long end) {
  constexpr int G = kGroups, L = G * W;
  using V = Lanes<T, W>;
  Sampled<T> m = make_sampled<T>(call.model);
  DirectMemory<T, W> memory(call.model, m);
  const T* curves = static_cast<const T*>(call.curves);
  const long samples = m.samples;
  T* tile = static_cast<T*>(kety_allocate(samples * L * static_cast<long>(sizeof(T))));
  __builtin_memset(tile, 0, samples * L * sizeof(T));
  struct Best {
    T unit[4], cost;
    int start;
    unsigned evaluations;
    bool converged;
  };
  Best* best = static_cast<Best*>(kety_allocate((end - begin) * static_cast<long>(sizeof(Best))));
  Simplex<T> simplex[L];
  SimplexRules<T> rules[L];
  long voxel[L];
  int start[L], running = 0;
  for (int l = 0; l < L; ++l) voxel[l] = -1;
  bool active[L] = {};
  long next_voxel = begin;
  int next_start = 0;
  V p[G][4] = {}, out[G];
  for (int g = 0; g < G; ++g)
    for (int i = 0; i < 4; ++i) p[g][i] += m.lo[i];

  auto refill = [&](int l) {
    active[l] = false;
    if (next_start == call.starts) {
      next_start = 0;
      ++next_voxel;
    }
    if (next_voxel >= end) return;
    const T* y = curves + next_voxel * samples;
    if (next_start == 0) {
      Best& b = best[next_voxel - begin];
      b = {{}, static_cast<T>(__builtin_inf()), call.starts, 0, false};
      T square = curve_square(m, y);
      while (!(square - square == T(0))) {  // not finite: nothing to search
        write_nothing<T>(call, next_voxel);
        best[next_voxel - begin].start = -1;
        if (++next_voxel >= end) return;
        y = curves + next_voxel * samples;
        best[next_voxel - begin] = b;
        square = curve_square(m, y);
      }
    }
    if (voxel[l] != next_voxel) {
      voxel[l] = next_voxel;
      const T square = curve_square(m, y);
      rules[l] = {m.free_count, call.max_iterations, tolerance(call, square),
                  static_cast<T>(call.xtol), static_cast<T>(call.step)};
      for (long n = 0; n < samples; ++n) tile[n * L + l] = y[n];
    }
    start[l] = next_start++;
    simplex[l].start(rules[l], call.start + static_cast<long>(start[l]) * m.free_count);
    load_point<T, W, G>(m, simplex[l].ask, l, p);
    active[l] = true;
    ++running;
  };

  for (int l = 0; l < L; ++l) refill(l);
  while (running > 0) {
    any_costs<T, W, G, false>(m, p, tile, memory.scratch, out);
    for (int l = 0; l < L; ++l) {
      if (!active[l]) continue;
      Simplex<T>& s = simplex[l];
      if (s.take(rules[l], get<T, W>(out[l / W], l % W))) {
        load_point<T, W, G>(m, s.ask, l, p);
        continue;
      }
      // The least cost wins, of equals the first start: in whatever order they end.
      Best& b = best[voxel[l] - begin];
      b.evaluations += static_cast<unsigned>(s.evaluations);
      if (s.f[0] < b.cost || (s.f[0] == b.cost && start[l] < b.start)) {
        b.cost = s.f[0];
        b.start = start[l];
        b.converged = s.converged;
        for (int i = 0; i < 4; ++i) b.unit[i] = i < m.free_count ? s.x[0][i] : T(0);
      }
      --running;
      refill(l);
    }
  }
  for (long v = begin; v < end; ++v) {
    const Best& b = best[v - begin];
    if (b.start >= 0) write_voxel(call, m, v, b.unit, b.cost, b.evaluations, b.converged);
  }
  kety_release(tile);
  kety_release(best);
}

// A start of the population, member i of it.
template <class T>
KETY_FN void first_rival(const SearchCall& call, const Sampled<T>& m, int i, T rival[4]) {
  for (int j = 0; j < 4; ++j)
    rival[j] = j < m.free_count
                   ? static_cast<T>(call.start[static_cast<long>(i) * m.free_count + j])
                   : T(0);
}

// A rival that costs no more than its member takes its place.
template <class T>
KETY_FN void compete(int generation, const T rival[4], T cost, T member[4], T& member_cost) {
  if (generation > 0 && !(cost <= member_cost)) return;
  member_cost = cost;
  for (int j = 0; j < 4; ++j) member[j] = rival[j];
}

// Whether the costs of a population have come together; finds the best member.
template <class T>
KETY_FN bool together(const T* f, int members, T ftol, int& best) {
  T most = f[0];
  best = 0;
  for (int i = 1; i < members; ++i) {
    if (f[i] < f[best]) best = i;
    most = f[i] > most ? f[i] : most;
  }
  const T rounding = kRounding<T> * f[best];
  return most - f[best] <= (ftol > rounding ? ftol : rounding);
}

// The members of one voxel's population fill the lanes; voxels follow one another.
template <class T, int W>
void evolution_range(const SearchCall& call, long begin, long end) {
  constexpr int G = kGroups, L = G * W;
  using V = Lanes<T, W>;
  Sampled<T> m = make_sampled<T>(call.model);
  DirectMemory<T, W> memory(call.model, m);
  const int members = call.starts;
  const EvolutionRules<T> rules = {m.free_count,   members,        call.weight,
                                   call.crossover, call.from_best, {call.seed}};
  T* x = static_cast<T*>(kety_allocate(9L * members * static_cast<long>(sizeof(T))));
  T *rival = x + 4 * members, *f = x + 8 * members;
  const T* curves = static_cast<const T*>(call.curves);
  for (long v = begin; v < end; ++v) {
    const T* y = curves + v * m.samples;
    const T square = curve_square(m, y);
    if (!(square - square == T(0))) {
      write_nothing<T>(call, v);
      continue;
    }
    const T ftol = tolerance(call, square);
    for (int i = 0; i < members; ++i) first_rival(call, m, i, rival + 4 * i);
    int best = 0, generation = 0;
    bool converged = false;
    unsigned evaluations = 0;
    for (;; ++generation) {
      for (int first = 0; first < members; first += L) {
        V p[G][4], out[G];
        for (int l = 0; l < L; ++l)
          load_point<T, W, G>(m, rival + 4 * (first + l < members ? first + l : first), l, p);
        any_costs<T, W, G, true>(m, p, y, memory.scratch, out);
        for (int l = 0; l < L && first + l < members; ++l) {
          const int i = first + l;
          compete(generation, rival + 4 * i, get<T, W>(out[l / W], l % W), x + 4 * i, f[i]);
        }
      }
      evaluations += static_cast<unsigned>(members);
      converged = together(f, members, ftol, best);
      if (converged || generation >= call.max_iterations) break;
      for (int i = 0; i < members; ++i) mutate<T>(rules, x, best, generation, i, rival + 4 * i);
    }
    write_voxel(call, m, v, x + 4 * best, f[best], evaluations, converged);
  }
  kety_release(x);
}

}  // namespace KETY_NS
