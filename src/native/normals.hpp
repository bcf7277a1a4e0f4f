// Normal equations of every voxel at given parameters, for solvers that look at many voxels at
// once.
#pragma once
#include "pieces.hpp"

namespace KETY_NS {

constexpr int kNormalBlock = 2048;
constexpr int kNormalBins = 1024;

// Voxels of a block in order of level and delay, so that the lanes of a register share pieces.
template <class T>
KETY_STAGE void sort_block(const NormalsCall& call, const Problem<T>& problem, long start, int n,
                           int* order, int begins[kLevels + 1]) {
  const double lo = call.tau_lo, hi = call.tau_hi;
  const double rate = hi > lo ? (kNormalBins - 1) / (hi - lo) : 0;
  int counts[kLevels * kNormalBins + 1] = {};
  int bins[kNormalBlock];
  for (int b = 0; b < n; ++b) {
    const double* p = call.parameters + (start + b) * kParameters;
    const int level = level_of(problem, static_cast<T>(p[2]));
    const int bin = static_cast<int>((p[3] - lo) * rate);
    bins[b] = level * kNormalBins + (bin < 0 ? 0 : bin >= kNormalBins ? kNormalBins - 1 : bin);
    ++counts[bins[b] + 1];
  }
  for (int i = 0; i < kLevels * kNormalBins; ++i) counts[i + 1] += counts[i];
  for (int i = 0; i <= kLevels; ++i) begins[i] = counts[i * kNormalBins];
  for (int b = 0; b < n; ++b) order[counts[bins[b]]++] = b;
}

// Normal equations of up to W voxels of a level.
template <class T, int W, bool Plain>
KETY_FN void normals_of_voxels(const NormalsCall& call, const Problem<T>& problem, int level,
                               const long id[W], int count, T* tile, Lanes<T, W>* knots) {
  using V = Lanes<T, W>;
  constexpr int P = kParameters;
  const T scale = static_cast<T>(call.curve_scale);
  V p[P];
  T mean[W];
  for (int l = 0; l < W; ++l) {
    const long v = id[l];
    const T* y = static_cast<const T*>(call.curves) + v * call.frames;
    // A fitted baseline makes the level irrelevant; without it sums keep their precision.
    mean[l] = 0;
    if (call.baseline) {
      for (int j = 0; j < call.frames; ++j) mean[l] += scale * y[j];
      mean[l] /= static_cast<T>(call.frames);
    }
    for (int j = 0; j < call.frames; ++j) tile[j * W + l] = scale * y[j] - mean[l];
    for (int i = 0; i < P; ++i) set<T, W>(p[i], l, static_cast<T>(call.parameters[v * P + i]));
  }
  Normal<T, W, P> now;
  evaluate<T, W, Plain>(problem, problem.input[level], p, tile, knots, now);
  for (int l = 0; l < count; ++l) {
    const long v = id[l];
    const double unscale = 1 / (call.curve_scale * call.curve_scale);
    const double factor = unscale * call.factor[v];
    call.cost[v] = factor * get<T, W>(now.cost, l);
    call.unweighted[v] = unscale * get<T, W>(now.unweighted, l);
    for (int i = 0; i < P; ++i) call.gradient[v * P + i] = factor * get<T, W>(now.gradient[i], l);
    for (int i = 0; i < kPairs; ++i)
      call.hessian[v * kPairs + i] = factor * get<T, W>(now.hessian[i], l);
    if (call.offset) call.offset[v] = (mean[l] + get<T, W>(now.offset, l)) / call.curve_scale;
  }
}

template <class T, int W, bool Plain>
KETY_STAGE void normals_block(const NormalsCall& call, const Problem<T>& problem, long start, int n,
                              T* tile, Lanes<T, W>* knots) {
  int order[kNormalBlock], begins[kLevels + 1];
  sort_block<T>(call, problem, start, n, order, begins);
  for (int level = 0; level < kLevels; ++level)
    for (int q0 = begins[level]; q0 < begins[level + 1]; q0 += W) {
      const int left = begins[level + 1] - q0, count = left < W ? left : W;
      long id[W];
      for (int l = 0; l < W; ++l) id[l] = start + order[l < count ? q0 + l : q0];
      normals_of_voxels<T, W, Plain>(call, problem, level, id, count, tile, knots);
    }
}

template <class T, int W>
void normals_range(const NormalsCall& call, long begin, long end) {
  OwnProblem<T> own(call);
  T* tile = static_cast<T*>(kety_allocate(static_cast<long>(sizeof(T)) * call.frames * W));
  auto* knots = static_cast<Lanes<T, W>*>(
      kety_allocate(static_cast<long>(sizeof(Lanes<T, W>)) * 2 * call.pieces));
  for (long v = begin; v < end; v += kNormalBlock) {
    const int n = static_cast<int>(end - v < kNormalBlock ? end - v : kNormalBlock);
    if (own.plain)
      normals_block<T, W, true>(call, own.problem, v, n, tile, knots);
    else
      normals_block<T, W, false>(call, own.problem, v, n, tile, knots);
  }
  kety_release(tile);
  kety_release(knots);
  own.close();
}

}  // namespace KETY_NS
