// Conjugate gradients on a graph of voxels, and the multigrid that preconditions them where the
// penalty is strong: without it, the smooth part of the error would take as many steps as the graph
// is wide.
#pragma once
#include <cmath>

#include "voxel_graph.hpp"

namespace graph {

constexpr long kCoarsest = 64;  // voxels at which groups are not grouped again
constexpr size_t kMostLevels = 32;
constexpr int kGroup = 10;       // most voxels of a group
constexpr double kRelax = 0.65;  // of the smoother: the blocks alone would overshoot on the edges
constexpr int kCoarsestSweeps = 16;

// Groups of neighbours; a voxel left alone joins the group of its closest neighbour.
inline long group_voxels(const Edges& e, std::vector<int>& group) {
  group.assign(e.n, -1);
  long count = 0;
  for (long i = 0; i < e.n; ++i) {
    if (group[i] >= 0) continue;
    int members = 1;
    group[i] = static_cast<int>(count);
    for (long long k = e.row[i]; k < e.row[i + 1] && members < kGroup; ++k)
      if (group[e.column[k]] < 0) {
        group[e.column[k]] = static_cast<int>(count);
        ++members;
      }
    if (members == 1 && e.row[i + 1] > e.row[i]) {
      long long best = e.row[i];
      for (long long k = best; k < e.row[i + 1]; ++k)
        if (e.weight[k] > e.weight[best]) best = k;
      group[i] = group[e.column[best]];
    } else {
      ++count;
    }
  }
  return count;
}

// The graph between groups: weights of all edges from one to the other, added.
inline void join(const Edges& fine, const std::vector<int>& group, long count, Edges& coarse) {
  std::vector<long long> first(count + 1), place, seen(count, -1);
  for (long i = 0; i < fine.n; ++i) ++first[group[i] + 1];
  for (long g = 0; g < count; ++g) first[g + 1] += first[g];
  place = first;
  std::vector<int> member(fine.n);
  for (long i = 0; i < fine.n; ++i) member[place[group[i]]++] = static_cast<int>(i);
  coarse.n = count;
  coarse.own_row.assign(1, 0);
  for (long g = 0; g < count; ++g) {
    const long long begin = static_cast<long long>(coarse.own_column.size());
    for (long long m = first[g]; m < first[g + 1]; ++m) {
      const int i = member[m];
      for (long long k = fine.row[i]; k < fine.row[i + 1]; ++k) {
        const int other = group[fine.column[k]];
        if (other == g) continue;
        if (seen[other] < begin) {
          seen[other] = static_cast<long long>(coarse.own_column.size());
          coarse.own_column.push_back(other);
          coarse.own_weight.push_back(fine.weight[k]);
        } else {
          coarse.own_weight[seen[other]] += fine.weight[k];
        }
      }
    }
    coarse.own_row.push_back(static_cast<long long>(coarse.own_column.size()));
  }
  coarse.row = coarse.own_row.data();
  coarse.column = coarse.own_column.data();
  coarse.weight = coarse.own_weight.data();
}

// The next, coarser graph and the group of each voxel there; false where it does not pay.
inline bool coarsen_once(const Edges& fine, std::vector<int>& group, Edges& coarse) {
  long alone = 0;  // voxels without edges stay so on every level
  for (long i = 0; i < fine.n; ++i) alone += fine.row[i] == fine.row[i + 1];
  if (fine.n - alone <= kCoarsest) return false;
  const long count = group_voxels(fine, group);
  if (2 * (count - alone) > fine.n - alone) return false;  // hardly any edges left
  join(fine, group, count, coarse);
  return true;
}

template <class T, int P>
class Solver {
  static constexpr int kPacked = graph::kPacked<P>;

 public:
  Solver(const Edges& edges, const Engine& engine, int threads) : engine_(engine), team_(threads) {
    levels_.reserve(kMostLevels);  // edges point into their level
    levels_.emplace_back().edges = edges;
  }

  // Metrics (n, P (P + 1) / 2) and strength of the penalty.
  void penalty(const double* metric, double strength, bool multigrid) {
    if (multigrid && levels_.size() == 1) coarsen();
    used_ = multigrid ? levels_.size() : 1;
    strength_ = strength;
    levels_[0].metric.assign(metric, metric + levels_[0].edges.n * kPacked);
    for (size_t l = 0; l < used_; ++l) {
      Level<T>& level = levels_[l];
      const long n = level.edges.n;
      if (l > 0) {
        gather(l, &Level<T>::metric);
        const std::vector<int>& group = levels_[l - 1].group;
        std::vector<int> members(n);
        for (int g : group) ++members[g];
        for (long g = 0; g < n; ++g)
          for (int c = 0; c < kPacked; ++c) level.metric[g * kPacked + c] /= members[g];
      }
      pull_blocks<P>(level, strength, team_);
      for (auto* v : {&level.x, &level.r, &level.u, &level.a}) v->resize(n * P);
    }
  }

  // Data blocks (n, P (P + 1) / 2), their diagonal times 1 + damping (n), and free parameters (n).
  void blocks(const double* block, const double* damping, const unsigned char* free) {
    Level<T>& top = levels_[0];
    top.block.resize(top.edges.n * kPacked);
    team_.run(top.edges.n, [&](long begin, long end) {
      for (long i = begin; i < end; ++i)
        damp_block<T, P>(block + i * kPacked, damping[i], top.block.data() + i * kPacked);
      return 0.0;
    });
    top.free.assign(free, free + top.edges.n);
    for (size_t l = 0; l < used_; ++l) {
      Level<T>& level = levels_[l];
      const long n = level.edges.n;
      if (l > 0) {
        const Level<T>& fine = levels_[l - 1];
        gather(l, &Level<T>::block);
        level.free.assign(n, 0);
        for (long i = 0; i < fine.edges.n; ++i) level.free[fine.group[i]] |= fine.free[i];
      }
      level.pivot.resize(n * kPacked);
      team_.run(n, [&](long begin, long end) {
        for (long i = begin; i < end; ++i) {
          double a[kPacked];
          for (int c = 0; c < kPacked; ++c)
            a[c] =
                static_cast<double>(level.block[i * kPacked + c]) + level.pulled[i * kPacked + c];
          factor<T, P>(a, level.free[i], level.pivot.data() + i * kPacked);
        }
        return 0.0;
      });
    }
  }

  // A x = b by conjugate gradients from the given x: steps, and the residual relative to b's in the
  // preconditioner's norm.
  std::pair<int, double> solve(const double* b, double* x, double tolerance, int limit) {
    Level<T>& top = levels_[0];
    const long n = top.edges.n;
    std::vector<T> at(x, x + n * P), r(n * P), z(n * P), p(n * P), ap(n * P), rhs(b, b + n * P);
    for (long i = 0; i < n; ++i)
      for (int c = 0; c < P; ++c)
        if (!(top.free[i] >> c & 1)) at[i * P + c] = rhs[i * P + c] = 0;
    // Voxels without edges are solved for at once, so that they do not decide when to stop.
    std::vector<long> alone;
    for (long i = 0; i < n; ++i)
      if (top.edges.row[i] == top.edges.row[i + 1]) alone.push_back(i);
    std::vector<T> own;
    if (!alone.empty()) {
      relax(0, rhs.data(), z.data(), 1.0, false);
      for (long i : alone)
        for (int c = 0; c < P; ++c) {
          own.push_back(z[i * P + c]);
          at[i * P + c] = rhs[i * P + c] = 0;
        }
    }
    auto finish = [&] {
      for (size_t k = 0; k < alone.size(); ++k)
        for (int c = 0; c < P; ++c) at[alone[k] * P + c] = own[k * P + c];
      std::copy(at.begin(), at.end(), x);
    };
    const double whole = precondition(rhs, z);
    if (!(whole > 0)) {
      std::fill(at.begin(), at.end(), T(0));
      finish();
      return {0, 0.0};
    }
    rows(0, at.data(), rhs.data(), r.data());
    double rz = precondition(r, z);
    p = z;
    int step = 0;
    while (step < limit && rz > tolerance * tolerance * whole) {
      const double curvature = rows(0, p.data(), nullptr, ap.data());
      if (!(curvature > 0)) break;
      const T alpha = static_cast<T>(rz / curvature);
      team_.run(n, [&](long begin, long end) {
        for (long i = begin * P; i < end * P; ++i) at[i] += alpha * p[i];
        for (long i = begin * P; i < end * P; ++i) r[i] -= alpha * ap[i];
        return 0.0;
      });
      const double before = rz;
      rz = precondition(r, z);
      const T beta = static_cast<T>(rz / before);
      team_.run(n, [&](long begin, long end) {
        for (long i = begin * P; i < end * P; ++i) p[i] = z[i] + beta * p[i];
        return 0.0;
      });
      ++step;
    }
    finish();
    return {step, std::sqrt(std::max(rz, 0.0) / whole)};
  }

  // The penalty's gradient L x.
  void pull(const double* x, double* y) {
    Level<T>& top = levels_[0];
    const long n = top.edges.n;
    std::vector<T> at(x, x + n * P), out(n * P);
    SweepCall c = call_of<P>(top, strength_);
    c.block = nullptr;
    c.free = nullptr;
    c.x = at.data();
    c.u = top.u.data();
    c.y = out.data();
    pass(n, c, kSweepMetric);
    pass(n, c, kSweepRows);
    std::copy(out.begin(), out.end(), y);
  }

  bool ready() const { return used_ > 0; }
  bool has_blocks() const { return !levels_[0].pivot.empty(); }
  long size() const { return levels_[0].edges.n; }
  size_t levels() const { return levels_.size(); }

 private:
  void coarsen() {
    while (levels_.size() < kMostLevels) {
      Edges coarse;
      if (!coarsen_once(levels_.back().edges, levels_.back().group, coarse)) break;
      levels_.emplace_back().edges = std::move(coarse);
    }
  }

  // Sums over the members of each group of level l.
  void gather(size_t l, std::vector<T> Level<T>::* part) {
    const Level<T>& fine = levels_[l - 1];
    std::vector<T>& out = levels_[l].*part;
    out.assign(levels_[l].edges.n * kPacked, 0);
    for (long i = 0; i < fine.edges.n; ++i)
      for (int c = 0; c < kPacked; ++c)
        out[static_cast<long>(fine.group[i]) * kPacked + c] += (fine.*part)[i * kPacked + c];
  }

  double pass(long n, SweepCall& call, SweepKind what) {
    call.what = what;
    return team_.run(
        n, [&](long begin, long end) { return engine_.sweep(call, begin, end, sizeof(T) == 4); });
  }

  // y = A x, or b - A x; returns x'A x.
  double rows(size_t l, const T* x, const T* b, T* y) {
    Level<T>& level = levels_[l];
    SweepCall c = call_of<P>(level, strength_);
    c.x = x;
    c.b = b;
    c.u = level.u.data();
    c.y = y;
    pass(level.edges.n, c, kSweepMetric);
    return pass(level.edges.n, c, kSweepRows);
  }

  // z = factor B^-1 b, or added to z; returns its product with b.
  double relax(size_t l, const T* b, T* z, double factor, bool add) {
    SweepCall c = call_of<P>(levels_[l], strength_);
    c.b = b;
    c.y = z;
    c.factor = factor;
    c.add = add;
    return pass(levels_[l].edges.n, c, kSweepBlocks);
  }

  double precondition(const std::vector<T>& r, std::vector<T>& z) {
    if (used_ == 1) return relax(0, r.data(), z.data(), 1.0, false);
    cycle(0, r.data(), z.data());
    SweepCall c = call_of<P>(levels_[0], strength_);
    c.x = z.data();
    c.b = r.data();
    return pass(levels_[0].edges.n, c, kSweepDot);
  }

  // One cycle: z is about A^-1 b. Symmetric, so that conjugate gradients may use it.
  void cycle(size_t l, const T* b, T* z) {
    Level<T>& level = levels_[l];
    const long n = level.edges.n;
    relax(l, b, z, kRelax, false);
    auto smooth = [&] {
      rows(l, z, b, level.a.data());
      relax(l, level.a.data(), z, kRelax, true);
    };
    if (l + 1 == used_) {
      if (level.edges.row[n] > 0)
        for (int s = 0; s < kCoarsestSweeps; ++s) smooth();
      return;
    }
    Level<T>& coarse = levels_[l + 1];
    rows(l, z, b, level.a.data());
    std::fill(coarse.r.begin(), coarse.r.end(), T(0));
    for (long i = 0; i < n; ++i)
      for (int c = 0; c < P; ++c)
        coarse.r[static_cast<long>(level.group[i]) * P + c] += level.a[i * P + c];
    cycle(l + 1, coarse.r.data(), coarse.x.data());
    team_.run(n, [&](long begin, long end) {
      for (long i = begin; i < end; ++i)
        for (int c = 0; c < P; ++c)
          if (level.free[i] >> c & 1)
            z[i * P + c] += coarse.x[static_cast<long>(level.group[i]) * P + c];
      return 0.0;
    });
    smooth();
  }

  const Engine& engine_;
  Team team_;
  std::vector<Level<T>> levels_;
  size_t used_ = 0;
  double strength_ = 0;
};

}  // namespace graph
