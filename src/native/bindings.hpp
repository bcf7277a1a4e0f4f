// What the bindings share: arrays, the choice of instruction set, threads.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "types.hpp"

namespace nb = nanobind;

// Instruction sets of this processor, best first; the one of that name, or the best where empty.
std::vector<const Engine*> engines();
const Engine& engine_named(const std::string& name);

// Blocks are handed out in order; which thread takes one does not change its result.
template <class Work>
void parallel(long count, long grain, int threads, const Work& work) {
  std::atomic<long> next{0};
  auto run = [&] {
    for (long begin; (begin = next.fetch_add(grain)) < count;)
      work(begin, std::min(begin + grain, count));
  };
  const long useful = std::max<long>(1, std::min<long>(threads, (count + grain - 1) / grain));
  std::vector<std::thread> pool;
  for (long i = 1; i < useful; ++i) pool.emplace_back(run);
  run();
  for (auto& t : pool) t.join();
}

template <class T>
using Array = nb::ndarray<const T, nb::c_contig, nb::device::cpu>;
template <class T>
using Out = nb::ndarray<T, nb::c_contig, nb::device::cpu>;

PiecesCall pieces_of(nb::dict d);

template <class T>
const T* checked(nb::dict d, const char* name, size_t size) {
  const auto a = nb::cast<Array<T>>(d[name]);
  if (a.size() != size)
    throw std::invalid_argument(std::string(name) + " has " + std::to_string(a.size()) +
                                " elements, expected " + std::to_string(size));
  return a.data();
}

// Input, frames, weights and scales that every call with measured curves takes.
template <class T>
void read_kernel(CurvesOfVoxels& call, nb::list levels, const Array<double>& times,
                 nb::object weights, nb::dict options) {
  if (levels.size() != kLevels) throw std::invalid_argument("wrong number of piece levels");
  for (int i = 0; i < kLevels; ++i) {
    call.input[i] = pieces_of(nb::cast<nb::dict>(levels[i]));
    call.pieces = std::max(call.pieces, call.input[i].count);
  }
  call.times = times.data();
  call.frames = static_cast<int>(times.size());
  if (!weights.is_none()) {
    auto w = nb::cast<Array<T>>(weights);
    if (w.size() != times.size()) throw std::invalid_argument("weights must be (frames)");
    call.weights = w.data();
  }
  call.weight_sum = nb::cast<double>(options["weight_sum"]);
  call.curve_scale = nb::cast<double>(options["curve_scale"]);
}

// Adds the sampled models and the direct searches to the module.
void bind_direct(nb::module_& module);
// Adds what joint estimation needs: normal equations, voxel graphs, the linear systems on them.
void bind_joint(nb::module_& module);
// Adds models of several terms to the module.
void bind_terms(nb::module_& module);
