// Conjugate gradients on a graph of voxels, and the multigrid that preconditions them where the
// penalty is strong: without it, the smooth part of the error would take as many steps as the graph
// is wide.
#pragma once
#include <nanobind/stl/pair.h>

#include "voxel_graph.hpp"

namespace graph {

constexpr long kCoarsest = 64;   // voxels at which groups are not grouped again
constexpr int kGroup = 10;       // most voxels of a group
constexpr double kRelax = 0.65;  // of the smoother: the blocks alone would overshoot on the edges
constexpr int kCoarsestSweeps = 16;

// Groups of neighbours; a voxel left alone joins the group of its closest neighbour.
inline long group_voxels(const Edges& e, std::vector<int32_t>& group) {
  group.assign(e.n, -1);
  long count = 0;
  for (long i = 0; i < e.n; ++i) {
    if (group[i] >= 0) continue;
    int members = 1;
    group[i] = static_cast<int32_t>(count);
    for (int64_t k = e.row[i]; k < e.row[i + 1] && members < kGroup; ++k)
      if (group[e.column[k]] < 0) {
        group[e.column[k]] = static_cast<int32_t>(count);
        ++members;
      }
    if (members == 1 && e.row[i + 1] > e.row[i]) {
      int64_t best = e.row[i];
      for (int64_t k = best; k < e.row[i + 1]; ++k)
        if (e.weight[k] > e.weight[best]) best = k;
      group[i] = group[e.column[best]];
    } else {
      ++count;
    }
  }
  return count;
}

// The graph between groups: weights of all edges from one to the other, added.
inline void join(const Edges& fine, const std::vector<int32_t>& group, long count, Edges& coarse) {
  std::vector<int64_t> first(count + 1), place(count + 1);
  for (long i = 0; i < fine.n; ++i) ++first[group[i] + 1];
  for (long g = 0; g < count; ++g) first[g + 1] += first[g];
  place = first;
  std::vector<int32_t> member(fine.n);
  for (long i = 0; i < fine.n; ++i) member[place[group[i]]++] = static_cast<int32_t>(i);
  std::vector<int64_t> seen(count, -1);
  coarse.n = count;
  coarse.own_row.assign(1, 0);
  for (long g = 0; g < count; ++g) {
    const int64_t begin = static_cast<int64_t>(coarse.own_column.size());
    for (int64_t m = first[g]; m < first[g + 1]; ++m) {
      const int32_t i = member[m];
      for (int64_t k = fine.row[i]; k < fine.row[i + 1]; ++k) {
        const int32_t other = group[fine.column[k]];
        if (other == g) continue;
        if (seen[other] < begin) {
          seen[other] = static_cast<int64_t>(coarse.own_column.size());
          coarse.own_column.push_back(other);
          coarse.own_weight.push_back(fine.weight[k]);
        } else {
          coarse.own_weight[seen[other]] += fine.weight[k];
        }
      }
    }
    coarse.own_row.push_back(static_cast<int64_t>(coarse.own_column.size()));
  }
  coarse.row = coarse.own_row.data();
  coarse.column = coarse.own_column.data();
  coarse.weight = coarse.own_weight.data();
}

inline void coarsen(std::vector<Level>& levels) {
  levels.reserve(32);  // edges point into their level
  while (levels.size() < 32 && levels.back().edges.n > kCoarsest) {
    Level& fine = levels.back();
    const long count = group_voxels(fine.edges, fine.group);
    if (2 * count > fine.edges.n) break;  // hardly any edges left
    Level& coarse = levels.emplace_back();
    join(fine.edges, fine.group, count, coarse.edges);
  }
}

// What the penalty alone decides: metrics, and its part of A's diagonal blocks,
// strength/2 (d_i Q_i + sum_j w_ij Q_j).
inline void set_penalty(std::vector<Level>& levels, double strength, size_t used, int threads) {
  for (size_t l = 0; l < used; ++l) {
    Level& level = levels[l];
    const Edges& e = level.edges;
    if (l > 0) {
      const Level& fine = levels[l - 1];
      level.metric.assign(e.n * kPacked, 0);
      std::vector<int32_t> members(e.n);
      for (long i = 0; i < fine.edges.n; ++i) {
        const long g = fine.group[i];
        for (int c = 0; c < kPacked; ++c)
          level.metric[g * kPacked + c] += fine.metric[i * kPacked + c];
        ++members[g];
      }
      for (long g = 0; g < e.n; ++g)
        for (int c = 0; c < kPacked; ++c) level.metric[g * kPacked + c] /= members[g];
    }
    level.pulled.resize(e.n * kPacked);
    parallel(e.n, kGrain, threads, [&](long begin, long end) {
      for (long i = begin; i < end; ++i) {
        double around[kPacked] = {}, total = 0;
        for (int64_t k = e.row[i]; k < e.row[i + 1]; ++k) {
          const double w = e.weight[k];
          const double* q = level.metric.data() + static_cast<long>(e.column[k]) * kPacked;
          for (int c = 0; c < kPacked; ++c) around[c] += w * q[c];
          total += w;
        }
        for (int c = 0; c < kPacked; ++c)
          level.pulled[i * kPacked + c] =
              0.5 * strength * (total * level.metric[i * kPacked + c] + around[c]);
      }
    });
    for (auto* v : {&level.x, &level.r, &level.u, &level.a}) v->resize(e.n * P);
  }
}

// Data blocks and free parameters of every level, and the factors of A's diagonal blocks.
inline void set_blocks(std::vector<Level>& levels, size_t used, int threads) {
  for (size_t l = 0; l < used; ++l) {
    Level& level = levels[l];
    const long n = level.edges.n;
    if (l > 0) {
      const Level& fine = levels[l - 1];
      level.block.assign(n * kPacked, 0);
      level.free.assign(n, 0);
      for (long i = 0; i < fine.edges.n; ++i) {
        const long g = fine.group[i];
        for (int c = 0; c < kPacked; ++c)
          level.block[g * kPacked + c] += fine.block[i * kPacked + c];
        level.free[g] |= fine.free[i];
      }
    }
    level.pivot.resize(n * kPacked);
    parallel(n, kGrain, threads, [&](long begin, long end) {
      for (long i = begin; i < end; ++i) {
        double a[kPacked];
        for (int c = 0; c < kPacked; ++c)
          a[c] = level.block[i * kPacked + c] + level.pulled[i * kPacked + c];
        factor4(a, level.free[i], level.pivot.data() + i * kPacked);
      }
    });
  }
}

inline Four held(const Four& x, unsigned free) {
  Four y = x;
  for (int i = 0; i < P; ++i)
    if (!(free >> i & 1)) y[i] = 0;
  return y;
}

// u = Q x, which the edges read of the neighbours.
inline void metric_times(Level& level, const double* x, int threads) {
  parallel(level.edges.n, kGrain, threads, [&](long begin, long end) {
    for (long i = begin; i < end; ++i)
      store4(level.u.data() + i * P, times(level.metric.data() + i * kPacked, load4(x + i * P)));
  });
}

// sum_j w_ij (Q_i + Q_j) x_j, given u = Q x.
inline Four pull(const Level& level, const double* x, long i) {
  const Edges& e = level.edges;
  Four s = {}, t = {};
  for (int64_t k = e.row[i]; k < e.row[i + 1]; ++k) {
    const double w = e.weight[k];
    const long j = static_cast<long>(e.column[k]) * P;
    s += w * load4(x + j);
    t += w * load4(level.u.data() + j);
  }
  return times(level.metric.data() + i * kPacked, s) + t;
}

// (A x)_i over the free parameters, given u = Q x.
inline Four row(const Level& level, double strength, const double* x, long i) {
  const Four own = load4(x + i * P);
  const Four y =
      times(level.block.data() + i * kPacked, own) +
      (times(level.pulled.data() + i * kPacked, own) - 0.5 * strength * pull(level, x, i));
  return held(y, level.free[i]);
}

// One cycle: z is about A^-1 b. Symmetric, so that conjugate gradients may use it.
inline void cycle(std::vector<Level>& levels, size_t l, double strength, const double* b, double* z,
                  int threads) {
  Level& level = levels[l];
  const long n = level.edges.n;
  parallel(n, kGrain, threads, [&](long begin, long end) {
    for (long i = begin; i < end; ++i)
      store4(z + i * P, kRelax * solve4(level.pivot.data() + i * kPacked, load4(b + i * P)));
  });
  auto smooth = [&] {
    metric_times(level, z, threads);
    parallel(n, kGrain, threads, [&](long begin, long end) {
      for (long i = begin; i < end; ++i) {
        const Four rest = load4(b + i * P) - row(level, strength, z, i);
        store4(level.a.data() + i * P, solve4(level.pivot.data() + i * kPacked, rest));
      }
    });
    parallel(n, kGrain, threads, [&](long begin, long end) {
      for (long i = begin * P; i < end * P; ++i) z[i] += kRelax * level.a[i];
    });
  };
  if (l + 1 == levels.size()) {
    if (level.edges.row[n] > 0)
      for (int s = 0; s < kCoarsestSweeps; ++s) smooth();
    return;
  }
  Level& coarse = levels[l + 1];
  auto correct = [&] {
    metric_times(level, z, threads);
    std::vector<double>& rest = level.a;
    parallel(n, kGrain, threads, [&](long begin, long end) {
      for (long i = begin; i < end; ++i)
        store4(rest.data() + i * P, load4(b + i * P) - row(level, strength, z, i));
    });
    std::fill(coarse.r.begin(), coarse.r.end(), 0.0);
    for (long i = 0; i < n; ++i) {
      const long g = static_cast<long>(level.group[i]) * P;
      for (int c = 0; c < P; ++c) coarse.r[g + c] += rest[i * P + c];
    }
    cycle(levels, l + 1, strength, coarse.r.data(), coarse.x.data(), threads);
    parallel(n, kGrain, threads, [&](long begin, long end) {
      for (long i = begin; i < end; ++i) {
        const Four move = load4(coarse.x.data() + static_cast<long>(level.group[i]) * P);
        store4(z + i * P, load4(z + i * P) + held(move, level.free[i]));
      }
    });
  };
  correct();
  smooth();
}

// The penalty's gradient L x of the finest level.
inline void penalty(Level& level, double strength, const double* x, double* y, int threads) {
  metric_times(level, x, threads);
  parallel(level.edges.n, kGrain, threads, [&](long begin, long end) {
    for (long i = begin; i < end; ++i)
      store4(y + i * P, times(level.pulled.data() + i * kPacked, load4(x + i * P)) -
                            0.5 * strength * pull(level, x, i));
  });
}

inline std::pair<int, double> conjugate_gradients(std::vector<Level>& levels, double strength,
                                                  bool multigrid, const double* b, double* x,
                                                  double tolerance, int limit, int threads) {
  Level& level = levels[0];
  const long n = level.edges.n;
  std::vector<double> r(n * P), z(n * P), p(n * P), ap(n * P);
  auto precondition = [&] {
    if (multigrid)
      cycle(levels, 0, strength, r.data(), z.data(), threads);
    else
      parallel(n, kGrain, threads, [&](long begin, long end) {
        for (long i = begin; i < end; ++i)
          store4(z.data() + i * P,
                 solve4(level.pivot.data() + i * kPacked, load4(r.data() + i * P)));
      });
    return sum(n, threads,
               [&](long i) { return dot4(load4(r.data() + i * P), load4(z.data() + i * P)); });
  };
  parallel(n, kGrain, threads, [&](long begin, long end) {
    for (long i = begin; i < end; ++i) {
      store4(x + i * P, Four{});
      store4(r.data() + i * P, held(load4(b + i * P), level.free[i]));
    }
  });
  double rz = precondition();
  const double first = rz;
  p = z;
  int step = 0;
  while (step < limit && rz > tolerance * tolerance * first && rz > 0) {
    metric_times(level, p.data(), threads);
    const double curvature = sum(n, threads, [&](long i) {
      const Four y = row(level, strength, p.data(), i);
      store4(ap.data() + i * P, y);
      return dot4(y, load4(p.data() + i * P));
    });
    if (!(curvature > 0)) break;
    const double alpha = rz / curvature;
    parallel(n, kGrain, threads, [&](long begin, long end) {
      for (long i = begin * P; i < end * P; i += P) {
        store4(x + i, load4(x + i) + alpha * load4(p.data() + i));
        store4(r.data() + i, load4(r.data() + i) - alpha * load4(ap.data() + i));
      }
    });
    const double before = rz;
    rz = precondition();
    const double beta = rz / before;
    parallel(n, kGrain, threads, [&](long begin, long end) {
      for (long i = begin * P; i < end * P; i += P)
        store4(p.data() + i, load4(z.data() + i) + beta * load4(p.data() + i));
    });
    ++step;
  }
  return {step, first > 0 ? std::sqrt(std::max(rz, 0.0) / first) : 0.0};
}

}  // namespace graph
