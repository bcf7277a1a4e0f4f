// A linear system on a graph of voxels: a P x P block of every voxel and a penalty on every edge,
//
//   (A x)_i = D_i x_i + sum_j w_ij 1/2 (Q_i + Q_j) (x_i - x_j),
//
// and the levels on which it is solved: on a coarser one a group of voxels is a voxel again, its
// block the sum of its members', its edges the sums of theirs.
#pragma once
#include <cstdint>
#include <functional>
#include <vector>

#include "bindings.hpp"
#include "blocks.hpp"

namespace graph {

template <int P>
constexpr int kPacked = P * (P + 1) / 2;
// Voxels in one partial sum, so that sums do not depend on threads; graph.py adds up alike.
constexpr long kGrain = 4096;

// Threads that stay for many short passes.
class Team {
 public:
  explicit Team(int threads) {
    for (int i = 1; i < threads; ++i) crew_.emplace_back([this] { serve(); });
  }
  ~Team() {
    stop_ = true;
    begin();
    for (auto& t : crew_) t.join();
  }
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  // Chunks of `kGrain`; the terms that they return are added in their order.
  double run(long count, const std::function<double(long, long)>& work) {
    const long chunks = (count + kGrain - 1) / kGrain;
    parts_.assign(chunks, 0.0);
    count_ = count;
    work_ = &work;
    next_ = 0;
    if (chunks > 1 && !crew_.empty()) {
      busy_ = static_cast<int>(crew_.size());
      begin();
      take();
      for (int left = busy_; left > 0; left = busy_) busy_.wait(left);
    } else {
      take();
    }
    double sum = 0;
    for (double part : parts_) sum += part;
    return sum;
  }

 private:
  void begin() {
    ++turn_;
    turn_.notify_all();
  }
  void take() {
    const long chunks = static_cast<long>(parts_.size());
    for (long c; (c = next_.fetch_add(1)) < chunks;)
      parts_[c] = (*work_)(c * kGrain, std::min((c + 1) * kGrain, count_));
  }
  void serve() {
    for (unsigned seen = 0;;) {
      turn_.wait(seen);
      seen = turn_;
      if (stop_) return;
      take();
      --busy_;
      busy_.notify_one();
    }
  }

  std::vector<std::thread> crew_;
  std::vector<double> parts_;
  const std::function<double(long, long)>* work_ = nullptr;
  long count_ = 0;
  std::atomic<long> next_{0};
  std::atomic<unsigned> turn_{0};
  std::atomic<int> busy_{0};
  std::atomic<bool> stop_{false};
};

// Neighbours of every voxel, rows of a sparse symmetric matrix without diagonal.
struct Edges {
  long n = 0;
  const long long* row = nullptr;  // (n + 1)
  const int* column = nullptr;
  const float* weight = nullptr;
  std::vector<long long> own_row;
  std::vector<int> own_column;
  std::vector<float> own_weight;
};

template <class T>  // packed matrices (n, P (P + 1) / 2) and vectors (n, P)
struct Level {
  Edges edges;
  std::vector<int> group;           // of the next, coarser level
  std::vector<T> metric;            // Q
  std::vector<T> pulled;            // what the edges add to A's diagonal block
  std::vector<T> block;             // D
  std::vector<T> pivot;             // the factor of A's diagonal block
  std::vector<unsigned char> free;  // (n) bits
  std::vector<T> x, r, u, a;        // working vectors of the cycle
};

// What the penalty adds to A's diagonal blocks, strength/2 (d_i Q_i + sum_j w_ij Q_j).
template <int P, class T>
void pull_blocks(Level<T>& level, double strength, Team& team) {
  const Edges& e = level.edges;
  level.pulled.resize(e.n * kPacked<P>);
  team.run(e.n, [&](long begin, long end) {
    for (long i = begin; i < end; ++i)
      pull_block<T, P>(i, e.row, e.column, e.weight, strength, level.metric.data(),
                       level.pulled.data());
    return 0.0;
  });
}

template <int P, class T>
SweepCall call_of(const Level<T>& level, double strength) {
  SweepCall c = {};
  c.size = P;
  c.row = level.edges.row;
  c.column = level.edges.column;
  c.weight = level.edges.weight;
  c.strength = strength;
  c.metric = level.metric.data();
  c.block = level.block.empty() ? nullptr : level.block.data();
  c.pulled = level.pulled.data();
  c.pivot = level.pivot.data();
  c.free = level.free.empty() ? nullptr : level.free.data();
  c.factor = 1;
  return c;
}

}  // namespace graph
