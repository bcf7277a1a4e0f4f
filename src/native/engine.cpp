// The kernels of one instruction set; compiled once for each, with KETY_NS its name. Nothing here
// uses the standard library, so that no inline function compiled for a newer processor can be
// picked by the linker for an older one.
#include "block.hpp"
#include "direct.hpp"
#include "normals.hpp"
#include "sweep.hpp"

namespace KETY_NS {

template <class T, int W, int E>
void forward_range(const ForwardCall& call, long begin, long end) {
  constexpr int P = 2 + 2 * E;
  using V = Lanes<T, W>;
  OwnPieces<T> in = cast_pieces<T>(call.input);
  V* knots = static_cast<V*>(kety_allocate(sizeof(V) * 2 * E * call.input.count));
  V* values = static_cast<V*>(kety_allocate(sizeof(V) * call.frames));
  V* jacobian = call.jacobian
                    ? static_cast<V*>(kety_allocate(static_cast<long>(sizeof(V)) * call.frames * P))
                    : nullptr;
  for (long v0 = begin; v0 < end; v0 += W) {
    V par[P] = {};
    for (int l = 0; l < W; ++l) {
      const long v = v0 + l < end ? v0 + l : v0;
      for (int i = 0; i < P; ++i) set<T, W>(par[i], l, static_cast<T>(call.parameters[v * P + i]));
    }
    forward<T, W, E>(in.pieces, call.times, call.frames, par, knots, values, jacobian);
    for (int l = 0; l < W && v0 + l < end; ++l)
      for (int j = 0; j < call.frames; ++j) {
        const long o = (v0 + l) * call.frames + j;
        call.values[o] = static_cast<double>(get<T, W>(values[j], l));
        if (jacobian)
          for (int i = 0; i < P; ++i)
            call.jacobian[o * P + i] = static_cast<double>(get<T, W>(jacobian[j * P + i], l));
      }
  }
  kety_release(in.memory);
  kety_release(knots);
  kety_release(values);
  if (jacobian) kety_release(jacobian);
}

void forward_any(const ForwardCall& call, long begin, long end, bool single) {
  if (single) {
    if (call.exponentials == 1)
      forward_range<float, KETY_LANES, 1>(call, begin, end);
    else
      forward_range<float, KETY_LANES, 2>(call, begin, end);
  } else {
    if (call.exponentials == 1)
      forward_range<double, (KETY_LANES + 1) / 2, 1>(call, begin, end);
    else
      forward_range<double, (KETY_LANES + 1) / 2, 2>(call, begin, end);
  }
}

template <class T, int W>
void fit_range(const FitCall& call, long begin, long end) {
  constexpr int F = KETY_LANES;
  OwnProblem<T> own(call);
  Problem<T>& problem = own.problem;
  bound_problem(call, problem);
  const Dictionary d = make_dictionary(call);
  Scratch<T, W, F> scratch = make_scratch<T, W, F>(call);
  for (long v = begin; v < end; v += scratch.block) {
    const int n = static_cast<int>(end - v < scratch.block ? end - v : scratch.block);
    if (own.plain)
      fit_block<T, W, F, true>(call, d, problem, v, n, scratch);
    else
      fit_block<T, W, F, false>(call, d, problem, v, n, scratch);
  }
  kety_release(scratch.memory);
  own.close();
}

void fit_single(const FitCall& call, long begin, long end) {
  fit_range<float, KETY_LANES>(call, begin, end);
}
void fit_double(const FitCall& call, long begin, long end) {
  fit_range<double, (KETY_LANES + 1) / 2>(call, begin, end);
}

template <class T, int W>
void search_range(const SearchCall& call, long begin, long end) {
  if (call.method == kNelderMead)
    nelder_mead_range<T, W>(call, begin, end);
  else
    evolution_range<T, W>(call, begin, end);
}

void sampled_any(const CurvesCall& call, long begin, long end, bool single) {
  if (single)
    sampled_range<float, KETY_LANES>(call, begin, end);
  else
    sampled_range<double, (KETY_LANES + 1) / 2>(call, begin, end);
}

void search_any(const SearchCall& call, long begin, long end, bool single) {
  if (single)
    search_range<float, KETY_LANES>(call, begin, end);
  else
    search_range<double, (KETY_LANES + 1) / 2>(call, begin, end);
}

void normals_any(const NormalsCall& call, long begin, long end, bool single) {
  if (single)
    normals_range<float, KETY_LANES>(call, begin, end);
  else
    normals_range<double, (KETY_LANES + 1) / 2>(call, begin, end);
}

double sweep_any(const SweepCall& call, long begin, long end, bool single) {
  return single ? sweep_range<float>(call, begin, end) : sweep_range<double>(call, begin, end);
}

// In terms_engine.cpp.
void terms_forward_any(const TermsCall& call, long begin, long end, bool single);
void terms_normals_any(const TermsCall& call, long begin, long end, bool single);
void terms_fit_any(const TermsCall& call, long begin, long end, bool single);
void pairs_any(const PairsCall& call, long begin, long end);
void descend_any(const DescentCall& call, long begin, long end);
void crossings_any(const CrossingsCall& call, long begin, long end);

extern const Engine engine;
const Engine engine = {KETY_NAME,         forward_any,       fit_single,    fit_double,
                       sampled_any,       search_any,        normals_any,   sweep_any,
                       terms_forward_any, terms_normals_any, terms_fit_any, pairs_any,
                       descend_any,       crossings_any};

}  // namespace KETY_NS
