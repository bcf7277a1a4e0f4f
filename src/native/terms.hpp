// Models of several terms: groups of exponentials that share an input and a delay, and what is left
// of an initial concentration. Parameters are the model's own; a program (program.hpp) makes the
// terms of them.
#pragma once
#include "bounded.hpp"
#include "kernel.hpp"
#include "pieces.hpp"
#include "program.hpp"

namespace KETY_NS {

// A level beyond the last: rates that no set of pieces is cut for, evaluated by exponentials.
constexpr int kFastLevel = kLevels;

template <class T>
struct TermsProblem {
  Program program, inner, back;
  const TermsModel* model;
  OwnPieces<T> own[kMaxInputs][kLevels];
  T limit[kLevels];
  const double* times;
  const T* weights;
  int frames, pieces;
  bool baseline;
  T weight_sum;

  explicit TermsProblem(const TermsCall& call)
      : program(make_program(call.model.terms)),
        inner(make_program(call.model.inner)),
        back(make_program(call.model.back)),
        model(&call.model) {
    for (int i = 0; i < model->inputs; ++i)
      for (int l = 0; l < kLevels; ++l) own[i][l] = cast_pieces<T>(model->input[i][l]);
    for (int l = 0; l < kLevels; ++l) limit[l] = static_cast<T>(model->input[0][l].rate_limit);
    times = call.times;
    frames = call.frames;
    pieces = call.pieces;
    weights = static_cast<const T*>(call.weights);
    baseline = call.baseline;
    weight_sum = static_cast<T>(call.weight_sum);
  }
  void close() {
    for (int i = 0; i < model->inputs; ++i)
      for (auto& level : own[i]) kety_release(level.memory);
  }
  const Pieces<T>& input(int which, int level) const {
    return own[which][level == kFastLevel ? 0 : level].pieces;
  }
};

// Place of a parameter among the delays that jump, or -1.
KETY_FN int jump_of(const TermsModel& model, int parameter) {
  for (int j = 0; j < model.jumps; ++j)
    if (model.jump[j] == parameter) return j;
  return -1;
}

// Knots of all groups, (groups, pieces, 4).
template <class T, int W>
long knots_of(const TermsProblem<T>& problem) {
  return 4L * problem.pieces * problem.model->groups;
}

// Where the terms of W voxels stand, ready to be sampled at any frame.
template <class T, int W, int P>
struct Terms {
  Jet<T, W, P> out[kMaxOutputs];
  T low[kMaxGroups], high[kMaxGroups];
};

template <class T, int W, int P, bool Fast>
KETY_STAGE void place_terms(const TermsProblem<T>& problem, int level, const Lanes<T, W>* p,
                            Lanes<T, W>* knots, Terms<T, W, P>& terms) {
  using V = Lanes<T, W>;
  const TermsModel& model = *problem.model;
  run_program<T, W, P>(problem.program, p, terms.out);
  for (int g = 0; g < model.groups; ++g) {
    const GroupCall& group = model.group[g];
    V k[2] = {};
    for (int e = 0; e < group.terms; ++e) k[e] = terms.out[group.rate[e]].f;
    extremes<T, W>(terms.out[group.delay].f, terms.low[g], terms.high[g]);
    V* own = knots + 4L * problem.pieces * g;
    const Pieces<T>& input = problem.input(group.input, level);
    if (group.terms == 2)
      sweep<T, W, 2, Fast>(input, k, own);
    else
      sweep<T, W, 1, Fast>(input, k, own);
  }
}

// One group's share of the model at a time, and of the derivatives with respect to the outputs.
template <class T, int W, int P, int E, bool Fast>
KETY_FN void add_group(const TermsProblem<T>& problem, int level, int g, double t,
                       const Terms<T, W, P>& terms, const Lanes<T, W>* knots, Lanes<T, W>& value,
                       Lanes<T, W>* by_output) {
  using V = Lanes<T, W>;
  const GroupCall& group = problem.model->group[g];
  V k[E];
  for (int e = 0; e < E; ++e) k[e] = terms.out[group.rate[e]].f;
  const V tau = terms.out[group.delay].f;
  Point<T, W, E> q;
  if (!sample<T, W, E, Fast>(problem.input(group.input, level), t, k, tau, terms.low[g],
                             terms.high[g], knots + 4L * problem.pieces * g, q))
    return;
  V slope = {};
  if (group.direct >= 0) {
    const V v = terms.out[group.direct].f;
    value = add_product(value, v, q.c);
    slope = v * q.dc;
    by_output[group.direct] += q.c;
  }
  for (int e = 0; e < E; ++e) {
    const V a = terms.out[group.amplitude[e]].f;
    value = add_product(value, a, q.g[e]);
    slope = add_product(slope, a, less_product(q.c, k[e], q.g[e]));
    by_output[group.amplitude[e]] += q.g[e];
    by_output[group.rate[e]] = less_product(by_output[group.rate[e]], a, q.h[e]);
  }
  by_output[group.delay] -= slope;
}

// The model at frame j and its derivatives with respect to the parameters.
template <class T, int W, int P, bool Fast>
KETY_FN Lanes<T, W> model_at(const TermsProblem<T>& problem, int level, int j,
                             const Terms<T, W, P>& terms, const Lanes<T, W>* knots,
                             Lanes<T, W>* by_parameter) {
  using V = Lanes<T, W>;
  const TermsModel& model = *problem.model;
  const double t = problem.times[j];
  V value = {}, by_output[kMaxOutputs];
  for (int k = 0; k < model.outputs; ++k) by_output[k] = V{};
  for (int g = 0; g < model.groups; ++g) {
    if (model.group[g].terms == 2)
      add_group<T, W, P, 2, Fast>(problem, level, g, t, terms, knots, value, by_output);
    else
      add_group<T, W, P, 1, Fast>(problem, level, g, t, terms, knots, value, by_output);
  }
  if (model.decays > 0) {
    const T since = static_cast<T>(t - problem.times[0]);
    for (int e = 0; e < model.decays; ++e) {
      const V a = terms.out[model.decay_amplitude[e]].f;
      const V left = decay_of<T, W>(terms.out[model.decay_rate[e]].f * since);
      value = add_product(value, a, left);
      by_output[model.decay_amplitude[e]] += left;
      V& by_rate = by_output[model.decay_rate[e]];
      by_rate = less_product(by_rate, since, a * left);
    }
  }
  for (int i = 0; i < P; ++i) by_parameter[i] = V{};
  const Program& program = problem.program;
  for (int i = 0; i < program.link_count; ++i) {
    const auto link = program.links[i];
    V& to = by_parameter[link.parameter];
    to = add_product(to, by_output[link.output], terms.out[link.output].d[link.parameter]);
  }
  return value;
}

// Normal equations at the parameters p; y is (frames, W). As `evaluate` of solver.hpp.
template <class T, int W, int P, bool Fast>
KETY_STAGE void evaluate_terms(const TermsProblem<T>& problem, int level, const Lanes<T, W>* p,
                               const T* y, Lanes<T, W>* knots, Normal<T, W, P>& out) {
  using V = Lanes<T, W>;
  Terms<T, W, P> terms;
  place_terms<T, W, P, Fast>(problem, level, p, knots, terms);
  V cost = {}, unweighted = {}, sum = {}, unweighted_sum = {}, g[P] = {}, h[kPacked<P>] = {},
    slope[P] = {};
  for (int j = 0; j < problem.frames; ++j) {
    V col[P];
    const V value = model_at<T, W, P, Fast>(problem, level, j, terms, knots, col);
    const T w = problem.weights[j];
    const V r = value - load<T, W>(y + j * W), wr = w * r;
    cost = add_product(cost, wr, r);
    unweighted = add_product(unweighted, r, r);
    sum += wr;
    unweighted_sum += r;
#pragma GCC unroll 8
    for (int i = 0; i < P; ++i) {
      const V wc = w * col[i];
      g[i] = add_product(g[i], wc, r);
      slope[i] += wc;
#pragma GCC unroll 8
      for (int m = 0; m <= i; ++m) h[pair(i, m)] = add_product(h[pair(i, m)], wc, col[m]);
    }
  }
  out.offset = V{};
  if (problem.baseline) {
    const V offset = -sum / problem.weight_sum;
    cost = upper(V(cost + offset * sum), V{});
    unweighted = upper(
        V(unweighted + offset * (T(2) * unweighted_sum + static_cast<T>(problem.frames) * offset)),
        V{});
    for (int i = 0; i < P; ++i) {
      g[i] += offset * slope[i];
      for (int m = 0; m <= i; ++m) h[pair(i, m)] -= slope[i] * slope[m] / problem.weight_sum;
    }
    out.offset = offset;
  }
  out.cost = cost;
  out.unweighted = unweighted;
  for (int i = 0; i < P; ++i) {
    out.gradient[i] = g[i];
    out.slope[i] = slope[i];
  }
  for (int i = 0; i < kPacked<P>; ++i) out.hessian[i] = h[i];
}

template <class T, int W, int P>
KETY_FN void evaluate_terms_at(const TermsProblem<T>& problem, int level, const Lanes<T, W>* p,
                               const T* y, Lanes<T, W>* knots, Normal<T, W, P>& out) {
  if (level == kFastLevel)
    evaluate_terms<T, W, P, true>(problem, level, p, y, knots, out);
  else
    evaluate_terms<T, W, P, false>(problem, level, p, y, knots, out);
}

#ifdef KETY_CUDA
constexpr int kTermVoxels = 1;  // a thread has one
#else
constexpr int kTermVoxels = 4096;  // of a chunk: so many that the last to arrive still fill lanes
#endif

// Level of the pieces that a rate needs.
template <class T>
KETY_FN int level_of(const TermsProblem<T>& problem, T k) {
  int level = 0;
  while (level < kFastLevel && !(k <= problem.limit[level])) ++level;
  return level;
}

// The fastest rate of a model's outputs.
template <class T, int W, int P>
KETY_FN Lanes<T, W> fastest_of(const TermsModel& model, const Jet<T, W, P>* out) {
  Lanes<T, W> rate = {};
  for (int g = 0; g < model.groups; ++g)
    for (int e = 0; e < model.group[g].terms; ++e)
      rate = upper(rate, out[model.group[g].rate[e]].f);
  return rate;
}

// Level of the pieces that a model needs at the parameters p.
template <class T, int P>
KETY_FN int level_at(const TermsProblem<T>& problem, const T p[P]) {
  Jet<T, 1, 0> out[kMaxOutputs];
  run_program<T, 1, 0>(problem.program, p, out);
  return level_of(problem, fastest_of<T, 1, 0>(*problem.model, out));
}

// The items 0 .. n - 1 in order of level and delay, so that the lanes of a register share pieces.
// `parameters(item, i)` is parameter i of an item; begins[l] is the first item of level l.
constexpr int kTermBins = 1024;
#ifdef KETY_CUDA
template <class T, int W, int P, class Parameters>
KETY_STAGE void sort_terms(const TermsProblem<T>& problem, int, const Parameters& parameters, int*,
                           int* order, int begins[kFastLevel + 2]) {
  T p[P] = {};
  for (int i = 0; i < problem.model->parameters; ++i) p[i] = parameters(0, i);
  const int level = level_at<T, P>(problem, p);
  for (int l = 0; l <= kFastLevel + 1; ++l) begins[l] = l > level;
  order[0] = 0;
}
#else
template <class T, int W, int P, class Parameters>
KETY_STAGE void sort_terms(const TermsProblem<T>& problem, int n, const Parameters& parameters,
                           int* bin, int* order, int begins[kFastLevel + 2]) {
  using V = Lanes<T, W>;
  const TermsModel& model = *problem.model;
  int counts[(kFastLevel + 1) * kTermBins + 1] = {};
  const T span = static_cast<T>(problem.times[problem.frames - 1] - problem.times[0]);
  for (int i0 = 0; i0 < n; i0 += W) {
    V p[P] = {};
    for (int l = 0; l < W; ++l)
      for (int i = 0; i < model.parameters; ++i)
        set<T, W>(p[i], l, parameters(i0 + l < n ? i0 + l : i0, i));
    Jet<T, W, 0> out[kMaxOutputs];
    run_program<T, W, 0>(problem.program, p, out);
    const V rate = fastest_of<T, W, 0>(model, out);
    const V tau = out[model.group[0].delay].f;
    for (int l = 0; l < W && i0 + l < n; ++l) {
      const T at = get<T, W>(tau, l);
      const int level = level_of(problem, get<T, W>(rate, l));
      // Delays of a few seconds about 0 fill the bins, whatever the length of the series.
      const T x = (at + T(8)) * (T(kTermBins) / (T(48) < span ? T(48) : span + T(8)));
      const int b = x > 0 ? (x < T(kTermBins - 1) ? static_cast<int>(x) : kTermBins - 1) : 0;
      bin[i0 + l] = level * kTermBins + b;
      ++counts[bin[i0 + l] + 1];
    }
  }
  for (int i = 0; i < (kFastLevel + 1) * kTermBins; ++i) counts[i + 1] += counts[i];
  for (int l = 0; l <= kFastLevel + 1; ++l) begins[l] = counts[l * kTermBins];
  for (int i = 0; i < n; ++i) order[counts[bin[i]]++] = i;
}
#endif

}  // namespace KETY_NS
