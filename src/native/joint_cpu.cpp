// Python bindings of joint estimation: normal equations, voxel graphs and the systems on them.
#include <nanobind/stl/pair.h>

#include <memory>
#include <type_traits>

#include "multigrid.hpp"

namespace {

template <class T>
void normals(nb::list levels, Array<double> times, Array<T> curves, nb::object weights,
             nb::dict options, Array<double> parameters, Array<double> factor, Out<double> cost,
             Out<double> unweighted, Out<double> gradient, Out<double> hessian, nb::object offset,
             int threads, const std::string& instruction_set) {
  NormalsCall call = {};
  read_kernel<T>(call, levels, times, weights, options);
  call.curves = curves.data();
  call.voxels = static_cast<long>(curves.shape(0));
  const size_t n = curves.shape(0);
  if (curves.ndim() != 2 || curves.shape(1) != times.size() || parameters.size() != 4 * n ||
      factor.size() != n || cost.size() != n || unweighted.size() != n ||
      gradient.size() != 4 * n || hessian.size() != 10 * n)
    throw std::invalid_argument("arrays of the normal equations do not fit the voxels");
  call.baseline = nb::cast<bool>(options["baseline"]);
  call.tau_lo = nb::cast<double>(options["tau_lo"]);
  call.tau_hi = nb::cast<double>(options["tau_hi"]);
  call.parameters = parameters.data();
  call.factor = factor.data();
  call.cost = cost.data();
  call.unweighted = unweighted.data();
  call.gradient = gradient.data();
  call.hessian = hessian.data();
  if (!offset.is_none()) {
    auto o = nb::cast<Out<double>>(offset);
    if (o.size() != n) throw std::invalid_argument("offset must be (voxels)");
    call.offset = o.data();
  }
  const Engine& engine = engine_named(instruction_set);
  nb::gil_scoped_release release;
  parallel(call.voxels, 2048, threads,
           [&](long begin, long end) { engine.normals(call, begin, end, sizeof(T) == 4); });
}

// Change of a quadratic, 2 g'm + m'H m, with packed matrices (voxels, 10).
void quadratic(Array<double> gradient, Array<double> hessian, Array<double> move,
               Out<double> change, int threads) {
  const size_t n = change.size();
  if (gradient.size() != 4 * n || hessian.size() != 10 * n || move.size() != 4 * n)
    throw std::invalid_argument("arrays of the quadratic do not fit the voxels");
  nb::gil_scoped_release release;
  parallel(static_cast<long>(n), 8192, threads, [&](long begin, long end) {
    for (long v = begin; v < end; ++v) {
      const double *g = gradient.data() + 4 * v, *h = hessian.data() + 10 * v,
                   *m = move.data() + 4 * v;
      double total = 0;
      for (int i = 0; i < 4; ++i) {
        double row = 2 * g[i] + h[i * (i + 1) / 2 + i] * m[i];
        for (int j = 0; j < i; ++j) row += 2 * h[i * (i + 1) / 2 + j] * m[j];
        total += row * m[i];
      }
      change.data()[v] = total;
    }
  });
}

// Neighbours within a window whose features agree within their noise. Called twice: without
// `columns` it counts the neighbours of every voxel, with them it fills the rows.
//
// grid (X, Y, Z): number of the voxel or -1; place (V, 3): its indices; features (V, 8), padded
// with zeros; variance (V): of each feature; the statistic is |f_i - f_j|^2 / (s_i + s_j).
void window_graph(Array<int32_t> grid, Array<int32_t> place, Array<float> features,
                  Array<float> variance, Array<int32_t> offsets, float threshold, bool soft,
                  Out<int64_t> rows, nb::object columns, nb::object weights, int threads) {
  typedef float Eight __attribute__((vector_size(32)));
  if (grid.ndim() != 3) throw std::invalid_argument("grid must be (X, Y, Z)");
  const long nx = grid.shape(0), ny = grid.shape(1), nz = grid.shape(2);
  const long n = static_cast<long>(variance.size());
  const long count = static_cast<long>(offsets.size() / 3);
  if (place.size() != 3 * variance.size() || features.size() != 8 * variance.size() ||
      rows.size() != variance.size() + 1)
    throw std::invalid_argument("arrays of the window's graph do not fit the voxels");
  int32_t* column = nullptr;
  float* weight = nullptr;
  if (!columns.is_none()) {
    auto c = nb::cast<Out<int32_t>>(columns);
    auto w = nb::cast<Out<float>>(weights);
    if (static_cast<int64_t>(c.size()) != rows.data()[n] || c.size() != w.size())
      throw std::invalid_argument("columns and weights must have the number of edges");
    column = c.data();
    weight = w.data();
  }
  nb::gil_scoped_release release;
  parallel(n, 1024, threads, [&](long begin, long end) {
    for (long i = begin; i < end; ++i) {
      const int32_t* at = place.data() + 3 * i;
      Eight own;
      __builtin_memcpy(&own, features.data() + 8 * i, sizeof own);
      const float own_variance = variance.data()[i];
      int64_t next = column ? rows.data()[i] : 0;
      for (long o = 0; o < count; ++o) {
        const int32_t* step = offsets.data() + 3 * o;
        const long x = at[0] + step[0], y = at[1] + step[1], z = at[2] + step[2];
        if (x < 0 || y < 0 || z < 0 || x >= nx || y >= ny || z >= nz) continue;
        const int32_t j = grid.data()[(x * ny + y) * nz + z];
        if (j < 0) continue;
        Eight other;
        __builtin_memcpy(&other, features.data() + 8L * j, sizeof other);
        const Eight d = own - other, s = d * d;
        const float square = ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
        const float limit = threshold * (own_variance + variance.data()[j]);
        if (!(square < limit)) continue;
        if (column) {
          column[next] = j;
          weight[next] = soft ? std::min(1.0f, 2 - 2 * square / limit) : 1;
        }
        ++next;
      }
      if (!column) rows.data()[i + 1] = next;
    }
  });
}

// Weighted mean of every row with its neighbours: out_i = (x_i + sum w_ij x_j) / (1 + sum w_ij).
void average(Array<int64_t> rows, Array<int32_t> columns, Array<float> weights, Array<float> x,
             Out<float> out, int threads) {
  const long n = static_cast<long>(rows.size()) - 1;
  const long width = n > 0 ? static_cast<long>(x.size()) / n : 0;
  if (static_cast<long>(x.size()) != n * width || out.size() != x.size())
    throw std::invalid_argument("rows to average do not fit the graph");
  nb::gil_scoped_release release;
  parallel(n, 1024, threads, [&](long begin, long end) {
    for (long i = begin; i < end; ++i) {
      float* to = out.data() + i * width;
      const float* from = x.data() + i * width;
      for (long c = 0; c < width; ++c) to[c] = from[c];
      float total = 1;
      for (int64_t e = rows.data()[i]; e < rows.data()[i + 1]; ++e) {
        const float w = weights.data()[e];
        const float* other = x.data() + columns.data()[e] * width;
        for (long c = 0; c < width; ++c) to[c] += w * other[c];
        total += w;
      }
      for (long c = 0; c < width; ++c) to[c] /= total;
    }
  });
}

// An array that owns the numbers of a vector.
template <class T>
nb::object owned(std::vector<T> numbers) {
  auto* kept = new std::vector<T>(std::move(numbers));
  nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return nb::cast(nb::ndarray<nb::numpy, T, nb::ndim<1>>(kept->data(), {kept->size()}, owner));
}

// The coarser levels of a graph, finest first: the group of each voxel of the level before, and the
// rows, columns and weights of the graph between the groups.
nb::list graph_levels(Array<int64_t> rows, Array<int32_t> columns, Array<float> weights) {
  graph::Edges fine;
  fine.n = static_cast<long>(rows.size()) - 1;
  fine.row = reinterpret_cast<const long long*>(rows.data());
  fine.column = columns.data();
  fine.weight = weights.data();
  nb::list levels;
  for (size_t level = 1; level < graph::kMostLevels; ++level) {
    std::vector<int> group;
    graph::Edges coarse;
    if (!graph::coarsen_once(fine, group, coarse)) break;
    const std::vector<int64_t> own_rows(coarse.own_row.begin(), coarse.own_row.end());
    levels.append(nb::make_tuple(owned(std::move(group)), owned(own_rows), owned(coarse.own_column),
                                 owned(coarse.own_weight)));
    fine = std::move(coarse);
  }
  return levels;
}

// A system on a graph of voxels of P parameters, kept for several right-hand sides. The penalty is
// applied in double; linear systems are solved in the precision asked for.
template <int P>
class GraphSystem {
  // Of four parameters only; of others this stays empty.
  using Quick = std::conditional_t<P == 4, graph::Solver<float, P>, graph::Solver<double, P>>;

 public:
  GraphSystem(Array<int64_t> rows, Array<int32_t> columns, Array<float> weights, bool single,
              int threads, const std::string& instruction_set)
      : rows_(rows), columns_(columns), weights_(weights) {
    if (rows.size() == 0 || columns.size() != weights.size() ||
        rows.data()[rows.size() - 1] != static_cast<int64_t>(columns.size()))
      throw std::invalid_argument("rows, columns and weights of the graph do not agree");
    graph::Edges e;
    e.n = static_cast<long>(rows.size()) - 1;
    e.row = reinterpret_cast<const long long*>(rows.data());
    e.column = columns.data();
    e.weight = weights.data();
    const Engine& engine = engine_named(instruction_set);
    exact_ = std::make_unique<graph::Solver<double, P>>(e, engine, threads);
    if (single && P != 4) throw std::invalid_argument("systems in float32 have four parameters");
    if (single) quick_ = std::make_unique<Quick>(e, engine, threads);
  }

  // Q (n, P (P + 1) / 2) of every voxel; `strength` multiplies the weights.
  void prepare(Array<double> metric, double strength, bool multigrid) {
    if (metric.size() != graph::kPacked<P> * size())
      throw std::invalid_argument("metric does not fit the graph");
    nb::gil_scoped_release release;
    exact_->penalty(metric.data(), strength, multigrid && !quick_);
    if (quick_) quick_->penalty(metric.data(), strength, multigrid);
  }

  // D (n, P (P + 1) / 2) of every voxel, its diagonal times 1 + damping (n), and its free
  // parameters (n) as bits.
  void blocks(Array<double> block, Array<double> damping, Array<unsigned char> free) {
    check_ready();
    if (block.size() != graph::kPacked<P> * size() || damping.size() != size() ||
        free.size() != size())
      throw std::invalid_argument("blocks do not fit the graph");
    nb::gil_scoped_release release;
    if (quick_)
      quick_->blocks(block.data(), damping.data(), free.data());
    else
      exact_->blocks(block.data(), damping.data(), free.data());
  }

  // Solves A x = b from the given x; returns steps and the relative residual in the
  // preconditioner's norm.
  std::pair<int, double> solve(Array<double> b, Out<double> x, double tolerance, int limit) {
    check(b, x);
    if (!(quick_ ? quick_->has_blocks() : exact_->has_blocks()))
      throw std::invalid_argument("the system has no blocks yet");
    nb::gil_scoped_release release;
    return quick_ ? quick_->solve(b.data(), x.data(), tolerance, limit)
                  : exact_->solve(b.data(), x.data(), tolerance, limit);
  }

  // y = L x, the penalty's gradient; its matrix depends on Q and `strength` alone.
  void penalty(Array<double> x, Out<double> y) {
    check(x, y);
    nb::gil_scoped_release release;
    exact_->pull(x.data(), y.data());
  }

  size_t levels() const { return quick_ ? quick_->levels() : exact_->levels(); }

 private:
  size_t size() const { return static_cast<size_t>(exact_->size()); }
  void check_ready() const {
    if (!exact_->ready()) throw std::invalid_argument("the system has no penalty yet");
  }
  void check(const Array<double>& a, const Out<double>& b) const {
    check_ready();
    if (a.size() != P * size() || b.size() != P * size())
      throw std::invalid_argument("vectors do not fit the graph");
  }

  Array<int64_t> rows_;
  Array<int32_t> columns_;
  Array<float> weights_;
  std::unique_ptr<graph::Solver<double, P>> exact_;
  std::unique_ptr<Quick> quick_;
};

template <int P>
void bind_system(nb::module_& module, const char* name) {
  using System = GraphSystem<P>;
  nb::class_<System>(module, name)
      .def(nb::init<Array<int64_t>, Array<int32_t>, Array<float>, bool, int, const std::string&>(),
           nb::arg("rows"), nb::arg("columns"), nb::arg("weights"), nb::arg("single"),
           nb::arg("threads"), nb::arg("instruction_set"))
      .def("prepare", &System::prepare, nb::arg("metric"), nb::arg("strength"),
           nb::arg("multigrid"))
      .def("blocks", &System::blocks, nb::arg("block"), nb::arg("damping"), nb::arg("free"))
      .def("solve", &System::solve, nb::arg("b"), nb::arg("x"), nb::arg("tolerance"),
           nb::arg("limit"))
      .def("penalty", &System::penalty, nb::arg("x"), nb::arg("y"))
      .def_prop_ro("levels", &System::levels);
}

}  // namespace

void bind_joint(nb::module_& module) {
  module.def("normals_single", &normals<float>, nb::arg("levels"), nb::arg("times"),
             nb::arg("curves"), nb::arg("weights").none(), nb::arg("options"),
             nb::arg("parameters"), nb::arg("factor"), nb::arg("cost"), nb::arg("unweighted"),
             nb::arg("gradient"), nb::arg("hessian"), nb::arg("offset").none(), nb::arg("threads"),
             nb::arg("instruction_set"));
  module.def("normals_double", &normals<double>, nb::arg("levels"), nb::arg("times"),
             nb::arg("curves"), nb::arg("weights").none(), nb::arg("options"),
             nb::arg("parameters"), nb::arg("factor"), nb::arg("cost"), nb::arg("unweighted"),
             nb::arg("gradient"), nb::arg("hessian"), nb::arg("offset").none(), nb::arg("threads"),
             nb::arg("instruction_set"));
  module.def("quadratic", &quadratic, nb::arg("gradient"), nb::arg("hessian"), nb::arg("move"),
             nb::arg("change"), nb::arg("threads"));
  module.def("window_graph", &window_graph, nb::arg("grid"), nb::arg("place"), nb::arg("features"),
             nb::arg("variance"), nb::arg("offsets"), nb::arg("threshold"), nb::arg("soft"),
             nb::arg("rows"), nb::arg("columns").none(), nb::arg("weights").none(),
             nb::arg("threads"));
  module.def("average", &average, nb::arg("rows"), nb::arg("columns"), nb::arg("weights"),
             nb::arg("x"), nb::arg("out"), nb::arg("threads"));
  module.def("graph_levels", &graph_levels, nb::arg("rows"), nb::arg("columns"),
             nb::arg("weights"));
  bind_system<4>(module, "GraphSystem4");
  bind_system<5>(module, "GraphSystem5");
  bind_system<6>(module, "GraphSystem6");
  bind_system<7>(module, "GraphSystem7");
  bind_system<8>(module, "GraphSystem8");
}
