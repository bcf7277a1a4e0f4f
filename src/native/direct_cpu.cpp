// Python bindings of the sampled models and the direct searches.
#include "bindings.hpp"

namespace {

using Any = nb::ndarray<nb::c_contig, nb::device::cpu>;

// A model ready to be evaluated: it keeps alive the arrays that its record points into.
class SampledModel {
 public:
  SampledModel(nb::dict d, bool single, const std::string& instruction_set)
      : kept_(d), engine_(engine_named(instruction_set)), single_(single) {
    call_.kind = nb::cast<int>(d["kind"]);
    call_.filter = nb::cast<int>(d["filter"]);
    const auto times = nb::cast<Array<double>>(d["times"]);
    call_.samples = static_cast<int>(times.size());
    call_.times = times.data();
    nb::list levels = nb::cast<nb::list>(d["levels"]);
    if (levels.size() > kLevels) throw std::invalid_argument("too many piece levels");
    for (size_t i = 0; i < levels.size(); ++i)
      call_.input[i] = pieces_of(nb::cast<nb::dict>(levels[i]));
    call_.rate = nb::cast<double>(d["rate"]);
    call_.lead = nb::cast<int>(d["lead"]);
    call_.ahead = nb::cast<int>(d["ahead"]);
    const size_t front = nb::cast<size_t>(d["front"]);
    if (call_.kind != kExact) {
      const auto x = typed(d["x"]);
      if (front > x.size()) throw std::invalid_argument("x is shorter than its front");
      call_.x = static_cast<const char*>(x.data()) + front * size();
    }
    if (call_.kind == kFir) {
      const auto window = typed(d["window"]);
      const auto cosine = typed(d["cosine"]), sine = typed(d["sine"]);
      call_.taps = static_cast<int>(window.size());
      call_.transform = static_cast<int>(cosine.size());
      call_.window = window.data();
      call_.cosine = cosine.data();
      call_.sine = sine.data();
      // With an exact delay every lane has an input of its own and there is nothing to prepare.
      const bool shared = call_.filter != kDelayExact;
      const void** parts[4] = {&call_.p_re, &call_.p_im, &call_.q_re, &call_.q_im};
      const char* names[4] = {"p_re", "p_im", "q_re", "q_im"};
      for (int i = 0; shared && i < 4; ++i) {
        const auto part = typed(d[names[i]]);
        if (part.size() != cosine.size())
          throw std::invalid_argument("arrays of the transform have inconsistent lengths");
        *parts[i] = part.data();
      }
      if (sine.size() != cosine.size() || window.size() > (shared ? 2 : 1) * cosine.size())
        throw std::invalid_argument("arrays of the transform have inconsistent lengths");
    }
    if (!d["weights"].is_none()) {
      const auto weights = typed(d["weights"]);
      if (weights.size() != times.size()) throw std::invalid_argument("weights must be (samples)");
      call_.weights = weights.data();
    }
    call_.baseline = nb::cast<bool>(d["baseline"]);
    call_.weight_sum = nb::cast<double>(d["weight_sum"]);
    const auto lo = nb::cast<std::vector<double>>(d["lo"]);
    const auto hi = nb::cast<std::vector<double>>(d["hi"]);
    for (int i = 0; i < 4; ++i) {
      call_.lo[i] = lo.at(i);
      call_.hi[i] = hi.at(i);
      free_ += hi.at(i) > lo.at(i);
    }
    if (free_ == 0) throw std::invalid_argument("no free parameter");
  }

  void costs(Any curve, Array<double> points, Out<double> out, int threads) const {
    CurvesCall call = points_of(points);
    check_type(curve);
    if (curve.size() != static_cast<size_t>(call_.samples) || out.size() != points.shape(0))
      throw std::invalid_argument("curve must be (samples) and out (points)");
    call.curve = curve.data();
    call.costs = out.data();
    run(call, threads);
  }

  void values(Array<double> points, Out<double> out, int threads) const {
    CurvesCall call = points_of(points);
    if (out.size() != points.shape(0) * static_cast<size_t>(call_.samples))
      throw std::invalid_argument("out must be (points, samples)");
    call.values = out.data();
    run(call, threads);
  }

  void search(Any curves, nb::dict options, Out<double> points, Out<double> cost,
              Out<unsigned> evaluations, Out<unsigned char> status, int threads) const {
    SearchCall call = {};
    call.model = call_;
    check_type(curves);
    if (curves.ndim() != 2 || curves.shape(1) != static_cast<size_t>(call_.samples))
      throw std::invalid_argument("curves must be (voxels, samples)");
    call.curves = curves.data();
    call.voxels = static_cast<long>(curves.shape(0));
    call.method = nb::cast<int>(options["method"]);
    const auto start = nb::cast<Array<double>>(options["start"]);
    if (start.ndim() != 2 || start.shape(1) != static_cast<size_t>(free_) || start.shape(0) == 0)
      throw std::invalid_argument("start must be (starts, free parameters)");
    call.start = start.data();
    call.starts = static_cast<int>(start.shape(0));
    if (call.method == kEvolution && call.starts < 4)
      throw std::invalid_argument("a population needs at least 4 members");
    call.max_iterations = nb::cast<int>(options["max_iterations"]);
    call.ftol = nb::cast<double>(options["ftol"]);
    call.relative_ftol = nb::cast<double>(options["relative_ftol"]);
    call.xtol = nb::cast<double>(options["xtol"]);
    call.step = nb::cast<double>(options["step"]);
    call.weight = nb::cast<double>(options["weight"]);
    call.crossover = nb::cast<double>(options["crossover"]);
    call.from_best = nb::cast<bool>(options["from_best"]);
    call.seed = nb::cast<unsigned long long>(options["seed"]);
    const size_t n = curves.shape(0);
    if (points.size() != 4 * n || cost.size() != n || evaluations.size() != n || status.size() != n)
      throw std::invalid_argument("output arrays do not fit the number of voxels");
    call.points = points.data();
    call.cost = cost.data();
    call.evaluations = evaluations.data();
    call.status = status.data();
    // Few voxels a turn, so that threads end together; enough to keep the lanes busy.
    const long share = (call.voxels + 4L * threads - 1) / (4L * threads);
    const long grain = std::clamp(share, 1L, 64L);
    nb::gil_scoped_release release;
    parallel(call.voxels, grain, threads,
             [&](long begin, long end) { engine_.search(call, begin, end, single_); });
  }

 private:
  size_t size() const { return single_ ? sizeof(float) : sizeof(double); }

  void check_type(const Any& a) const {
    if (a.dtype() != (single_ ? nb::dtype<float>() : nb::dtype<double>()))
      throw std::invalid_argument("array of the wrong precision");
  }

  Any typed(nb::handle h) const {
    Any a = nb::cast<Any>(h);
    check_type(a);
    return a;
  }

  CurvesCall points_of(const Array<double>& points) const {
    if (points.ndim() != 2 || points.shape(1) != static_cast<size_t>(free_))
      throw std::invalid_argument("points must be (points, free parameters)");
    CurvesCall call = {};
    call.model = call_;
    call.points = points.data();
    call.count = static_cast<long>(points.shape(0));
    return call;
  }

  void run(const CurvesCall& call, int threads) const {
    nb::gil_scoped_release release;
    parallel(call.count, 64, threads,
             [&](long begin, long end) { engine_.sampled(call, begin, end, single_); });
  }

  nb::dict kept_;
  const Engine& engine_;
  SampledCall call_ = {};
  int free_ = 0;
  bool single_;
};

}  // namespace

void bind_direct(nb::module_& module) {
  module.attr("NELDER_MEAD") = static_cast<int>(kNelderMead);
  module.attr("EVOLUTION") = static_cast<int>(kEvolution);
  nb::class_<SampledModel>(module, "SampledModel")
      .def(nb::init<nb::dict, bool, const std::string&>(), nb::arg("model"), nb::arg("single"),
           nb::arg("instruction_set"))
      .def("costs", &SampledModel::costs, nb::arg("curve"), nb::arg("points"), nb::arg("out"),
           nb::arg("threads"))
      .def("values", &SampledModel::values, nb::arg("points"), nb::arg("out"), nb::arg("threads"))
      .def("search", &SampledModel::search, nb::arg("curves"), nb::arg("options"),
           nb::arg("points"), nb::arg("cost"), nb::arg("evaluations"), nb::arg("status"),
           nb::arg("threads"));
}
