// Models of several terms at given parameters: their curves, and the normal equations of measured
// ones.
#pragma once
#include "terms.hpp"

namespace KETY_NS {

// Normal equations at given parameters, as normals.hpp.
template <class T, int W, int P>
void terms_normals_of(const TermsCall& call, const TermsProblem<T>& problem, long begin, long end,
                      T* tile, Lanes<T, W>* knots) {
  using V = Lanes<T, W>;
  const long frames = call.frames;
  const int parameters = call.model.parameters, packed = parameters * (parameters + 1) / 2;
  const T scale = static_cast<T>(call.curve_scale);
  for (long v0 = begin; v0 < end; v0 += kTermVoxels) {
    const int n = static_cast<int>(end - v0 < kTermVoxels ? end - v0 : kTermVoxels);
    int bin[kTermVoxels], order[kTermVoxels], begins[kFastLevel + 2];
    sort_terms<T, W, P>(
        problem, n,
        [&](int b, int i) { return static_cast<T>(call.points[(v0 + b) * parameters + i]); }, bin,
        order, begins);
    for (int level = 0; level <= kFastLevel; ++level)
      for (int q0 = begins[level]; q0 < begins[level + 1]; q0 += W) {
        const int stop = begins[level + 1];
        V p[P] = {};
        T mean[W];
        for (int l = 0; l < W; ++l) {
          const long v = v0 + order[q0 + l < stop ? q0 + l : q0];
          const T* y = static_cast<const T*>(call.curves) + v * frames;
          mean[l] = 0;
          if (call.baseline) {
            for (int j = 0; j < frames; ++j) mean[l] += scale * y[j];
            mean[l] /= static_cast<T>(frames);
          }
          for (int j = 0; j < frames; ++j) tile[j * W + l] = scale * y[j] - mean[l];
          for (int i = 0; i < parameters; ++i)
            set<T, W>(p[i], l, static_cast<T>(call.points[v * parameters + i]));
        }
        Normal<T, W, P> now;
        evaluate_terms_at<T, W, P>(problem, level, p, tile, knots, now);
        for (int l = 0; l < W && q0 + l < stop; ++l) {
          const long v = v0 + order[q0 + l];
          const double unscale = 1 / (call.curve_scale * call.curve_scale);
          const double factor = unscale * call.factor[v];
          call.cost[v] = factor * get<T, W>(now.cost, l);
          call.unweighted[v] = unscale * get<T, W>(now.unweighted, l);
          for (int i = 0; i < parameters; ++i)
            call.gradient[v * parameters + i] = factor * get<T, W>(now.gradient[i], l);
          for (int i = 0; i < packed; ++i)
            call.hessian[v * packed + i] = factor * get<T, W>(now.hessian[i], l);
          if (call.offset) call.offset[v] = (mean[l] + get<T, W>(now.offset, l)) / call.curve_scale;
        }
      }
  }
}

template <class T, int W, int P>
void terms_normals_range(const TermsCall& call, long begin, long end) {
  using V = Lanes<T, W>;
  TermsProblem<T> problem(call);
  T* tile = static_cast<T*>(kety_allocate(static_cast<long>(sizeof(T)) * call.frames * W));
  auto* knots =
      static_cast<V*>(kety_allocate(static_cast<long>(sizeof(V)) * knots_of<T, W>(problem)));
  terms_normals_of<T, W, P>(call, problem, begin, end, tile, knots);
  kety_release(tile);
  kety_release(knots);
  problem.close();
}

// Model values, and their slopes, at given parameters.
template <class T, int W, int P>
void terms_forward_of(const TermsCall& call, const TermsProblem<T>& problem, long begin, long end,
                      Lanes<T, W>* knots) {
  using V = Lanes<T, W>;
  const int parameters = call.model.parameters;
  for (long v0 = begin; v0 < end; v0 += kTermVoxels) {
    const int n = static_cast<int>(end - v0 < kTermVoxels ? end - v0 : kTermVoxels);
    int bin[kTermVoxels], order[kTermVoxels], begins[kFastLevel + 2];
    sort_terms<T, W, P>(
        problem, n,
        [&](int b, int i) { return static_cast<T>(call.points[(v0 + b) * parameters + i]); }, bin,
        order, begins);
    for (int level = 0; level <= kFastLevel; ++level)
      for (int q0 = begins[level]; q0 < begins[level + 1]; q0 += W) {
        const int stop = begins[level + 1];
        V p[P] = {};
        for (int l = 0; l < W; ++l)
          for (int i = 0; i < parameters; ++i)
            set<T, W>(p[i], l,
                      static_cast<T>(
                          call.points[(v0 + order[q0 + l < stop ? q0 + l : q0]) * parameters + i]));
        Terms<T, W, P> terms;
        if (level == kFastLevel)
          place_terms<T, W, P, true>(problem, level, p, knots, terms);
        else
          place_terms<T, W, P, false>(problem, level, p, knots, terms);
        for (int j = 0; j < call.frames; ++j) {
          V slopes[P];
          const V value = level == kFastLevel
                              ? model_at<T, W, P, true>(problem, level, j, terms, knots, slopes)
                              : model_at<T, W, P, false>(problem, level, j, terms, knots, slopes);
          for (int l = 0; l < W && q0 + l < stop; ++l) {
            const long o = (v0 + order[q0 + l]) * call.frames + j;
            call.values[o] = static_cast<double>(get<T, W>(value, l));
            if (call.jacobian)
              for (int i = 0; i < parameters; ++i)
                call.jacobian[o * parameters + i] = static_cast<double>(get<T, W>(slopes[i], l));
          }
        }
      }
  }
}

template <class T, int W, int P>
void terms_forward_range(const TermsCall& call, long begin, long end) {
  using V = Lanes<T, W>;
  TermsProblem<T> problem(call);
  auto* knots =
      static_cast<V*>(kety_allocate(static_cast<long>(sizeof(V)) * knots_of<T, W>(problem)));
  terms_forward_of<T, W, P>(call, problem, begin, end, knots);
  kety_release(knots);
  problem.close();
}

}  // namespace KETY_NS
