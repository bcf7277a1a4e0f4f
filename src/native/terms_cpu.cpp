// Python bindings of models of several terms: forward, normal equations, fits, search for starts.
#include "bindings.hpp"
#include "ready.hpp"

namespace {

// A program, and what keeps its arrays alive.
struct OwnProgram {
  std::vector<int> code, output;
  std::vector<double> constant;

  ProgramCall read(nb::dict d, int parameters) {
    code = nb::cast<std::vector<int>>(d["code"]);
    constant = nb::cast<std::vector<double>>(d["constant"]);
    output = nb::cast<std::vector<int>>(d["output"]);
    const int steps = static_cast<int>(constant.size()), outputs = static_cast<int>(output.size());
    if (code.size() != 3 * constant.size() || parameters + steps > kMaxRegisters ||
        outputs > kMaxOutputs)
      throw std::invalid_argument("the model's program is too long");
    for (int s = 0; s < steps; ++s)
      for (int i = 1; i < 3; ++i)
        if (code[3 * s] != kConstant && (code[3 * s + i] < 0 || code[3 * s + i] >= parameters + s))
          throw std::invalid_argument("a step of the program reads what is not there yet");
    for (int k : output)
      if (k < 0 || k >= parameters + steps)
        throw std::invalid_argument("an output names a register that is not there");
    return {parameters, steps, outputs, code.data(), constant.data(), output.data()};
  }
};

struct OwnModel {
  TermsModel model = {};
  OwnProgram terms, inner, back;
};

void read_model(OwnModel& own, nb::dict d, nb::list inputs, int& pieces) {
  TermsModel& m = own.model;
  m.parameters = nb::cast<int>(d["parameters"]);
  if (m.parameters < 1 || m.parameters > kMaxParameters)
    throw std::invalid_argument("a model has 1 to 8 parameters");
  m.terms = own.terms.read(nb::cast<nb::dict>(d["terms"]), m.parameters);
  m.outputs = m.terms.outputs;
  nb::object inner = d["inner"];
  if (!inner.is_none()) {
    m.inner = own.inner.read(nb::cast<nb::dict>(inner), m.parameters);
    m.back = own.back.read(nb::cast<nb::dict>(d["back"]), m.parameters);
    if (m.inner.outputs != m.parameters || m.back.outputs != m.parameters)
      throw std::invalid_argument("inner coordinates are as many as the parameters");
  }
  auto output = [&](int k, bool optional) {
    if (k >= m.outputs || k < (optional ? -1 : 0))
      throw std::invalid_argument("a term names an output that is not there");
    return k;
  };
  m.inputs = static_cast<int>(inputs.size());
  if (m.inputs < 1 || m.inputs > kMaxInputs) throw std::invalid_argument("1 or 2 inputs");
  for (int i = 0; i < m.inputs; ++i) {
    auto levels = nb::cast<nb::list>(inputs[i]);
    if (levels.size() != kLevels) throw std::invalid_argument("wrong number of piece levels");
    for (int l = 0; l < kLevels; ++l) {
      m.input[i][l] = pieces_of(nb::cast<nb::dict>(levels[l]));
      pieces = std::max(pieces, m.input[i][l].count);
    }
  }
  auto groups = nb::cast<nb::list>(d["groups"]);
  m.groups = static_cast<int>(groups.size());
  if (m.groups < 1 || m.groups > kMaxGroups) throw std::invalid_argument("1 or 2 groups of terms");
  for (int g = 0; g < m.groups; ++g) {
    auto from = nb::cast<nb::dict>(groups[g]);
    GroupCall& to = m.group[g];
    to.input = nb::cast<int>(from["input"]);
    if (to.input < 0 || to.input >= m.inputs)
      throw std::invalid_argument("a group names an input that is not there");
    to.delay = output(nb::cast<int>(from["delay"]), false);
    to.direct = output(nb::cast<int>(from["direct"]), true);
    const auto amplitude = nb::cast<std::vector<int>>(from["amplitude"]);
    const auto rate = nb::cast<std::vector<int>>(from["rate"]);
    to.terms = static_cast<int>(amplitude.size());
    if (to.terms < 1 || to.terms > 2 || rate.size() != amplitude.size())
      throw std::invalid_argument("a group has 1 or 2 exponentials");
    for (int e = 0; e < to.terms; ++e) {
      to.amplitude[e] = output(amplitude[e], false);
      to.rate[e] = output(rate[e], false);
    }
  }
  const auto amplitude = nb::cast<std::vector<int>>(d["decay_amplitude"]);
  const auto rate = nb::cast<std::vector<int>>(d["decay_rate"]);
  m.decays = static_cast<int>(amplitude.size());
  if (m.decays > 2 || rate.size() != amplitude.size())
    throw std::invalid_argument("up to 2 terms of an initial concentration");
  for (int e = 0; e < m.decays; ++e) {
    m.decay_amplitude[e] = output(amplitude[e], false);
    m.decay_rate[e] = output(rate[e], false);
  }
  const auto jumps = nb::cast<std::vector<int>>(d["jumps"]);
  m.jumps = static_cast<int>(jumps.size());
  if (m.jumps > m.inputs) throw std::invalid_argument("more delays that jump than inputs");
  for (int j = 0; j < m.jumps; ++j) {
    m.jump[j] = jumps[j];
    if (jumps[j] >= m.parameters) throw std::invalid_argument("the delay is no parameter");
  }
}

void forward(nb::dict model, nb::list inputs, Array<double> times, Array<double> parameters,
             Out<double> values, nb::object jacobian, bool single, int threads,
             const std::string& instruction_set) {
  TermsCall call = {};
  OwnModel own;
  read_model(own, model, inputs, call.pieces);
  call.model = own.model;
  call.times = times.data();
  call.frames = static_cast<int>(times.size());
  const size_t p = static_cast<size_t>(own.model.parameters);
  if (parameters.ndim() != 2 || parameters.shape(1) != p)
    throw std::invalid_argument("parameters must be (voxels, parameters)");
  call.voxels = static_cast<long>(parameters.shape(0));
  call.points = parameters.data();
  if (values.size() != parameters.shape(0) * times.size())
    throw std::invalid_argument("values must be (voxels, frames)");
  call.values = values.data();
  if (!jacobian.is_none()) {
    auto j = nb::cast<Out<double>>(jacobian);
    if (j.size() != values.size() * p)
      throw std::invalid_argument("jacobian must be (voxels, frames, parameters)");
    call.jacobian = j.data();
  }
  const Engine& engine = engine_named(instruction_set);
  nb::gil_scoped_release release;
  parallel(call.voxels, 1024, threads,
           [&](long begin, long end) { engine.terms_forward(call, begin, end, single); });
}

template <class T>
void measured(TermsCall& call, const Array<double>& times, const Array<T>& curves,
              const Array<T>& weights, nb::dict options) {
  call.times = times.data();
  call.frames = static_cast<int>(times.size());
  if (curves.ndim() != 2 || curves.shape(1) != times.size() || weights.size() != times.size())
    throw std::invalid_argument("curves must be (voxels, frames) and weights (frames)");
  call.curves = curves.data();
  call.voxels = static_cast<long>(curves.shape(0));
  call.weights = weights.data();
  call.baseline = nb::cast<bool>(options["baseline"]);
  call.weight_sum = nb::cast<double>(options["weight_sum"]);
  call.curve_scale = nb::cast<double>(options["curve_scale"]);
}

template <class T>
void normals(nb::dict model, nb::list inputs, Array<double> times, Array<T> curves,
             Array<T> weights, nb::dict options, Array<double> parameters, Array<double> factor,
             Out<double> cost, Out<double> unweighted, Out<double> gradient, Out<double> hessian,
             nb::object offset, int threads, const std::string& instruction_set) {
  TermsCall call = {};
  OwnModel own;
  read_model(own, model, inputs, call.pieces);
  call.model = own.model;
  measured<T>(call, times, curves, weights, options);
  const size_t n = curves.shape(0), p = static_cast<size_t>(own.model.parameters);
  if (parameters.size() != p * n || factor.size() != n || cost.size() != n ||
      unweighted.size() != n || gradient.size() != p * n || hessian.size() != p * (p + 1) / 2 * n)
    throw std::invalid_argument("arrays of the normal equations do not fit the voxels");
  call.points = parameters.data();
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
           [&](long begin, long end) { engine.terms_normals(call, begin, end, sizeof(T) == 4); });
}

template <class T>
void fit(nb::dict model, nb::list inputs, Array<double> times, Array<T> curves, Array<T> weights,
         nb::dict options, Array<long long> first, Array<double> start, Array<double> band,
         nb::object offset, Out<T> parameters, Out<T> covariance, Out<T> cost, Out<T> r2,
         Out<unsigned short> evaluations, Out<unsigned char> status,
         Out<unsigned char> undetermined, int threads, const std::string& instruction_set) {
  TermsCall call = {};
  OwnModel own;
  read_model(own, model, inputs, call.pieces);
  call.model = own.model;
  measured<T>(call, times, curves, weights, options);
  const size_t n = curves.shape(0), p = static_cast<size_t>(own.model.parameters);
  if (first.size() != n + 1) throw std::invalid_argument("first must be (voxels + 1)");
  const long long tasks = first.data()[n];
  for (size_t v = 0; v < n; ++v)
    if (first.data()[v] < 0 || first.data()[v] > first.data()[v + 1])
      throw std::invalid_argument("first must not fall");
  if (start.size() != static_cast<size_t>(tasks) * p ||
      band.size() != static_cast<size_t>(tasks) * 2 * own.model.jumps)
    throw std::invalid_argument("start and band do not fit the tasks");
  call.first = first.data();
  call.start = start.data();
  call.band = band.data();
  const auto lo = nb::cast<std::vector<double>>(options["lo"]);
  const auto hi = nb::cast<std::vector<double>>(options["hi"]);
  const auto xfloor = nb::cast<std::vector<double>>(options["xfloor"]);
  const auto span = nb::cast<std::vector<double>>(options["span"]);
  const auto fixed = nb::cast<std::vector<int>>(options["fixed"]);
  const auto vanishing = nb::cast<std::vector<int>>(options["vanishing"]);
  for (int i = 0; i < kMaxParameters; ++i) {
    const bool used = i < own.model.parameters;
    call.lo[i] = used ? lo.at(i) : 0;
    call.hi[i] = used ? hi.at(i) : 0;
    call.xfloor[i] = used ? xfloor.at(i) : 0;
    call.span[i] = used ? span.at(i) : 0;
    call.fixed[i] = used ? fixed.at(i) != 0 : true;
    call.vanishing[i] = used && vanishing.at(i) != 0;
  }
  call.frames_used = nb::cast<int>(options["frames_used"]);
  call.max_evaluations = nb::cast<int>(options["max_evaluations"]);
  call.ftol = nb::cast<double>(options["ftol"]);
  call.xtol = nb::cast<double>(options["xtol"]);
  call.rounding = nb::cast<double>(options["rounding"]);
  if (parameters.size() != p * n || covariance.size() != p * (p + 1) / 2 * n || cost.size() != n ||
      r2.size() != n || evaluations.size() != n || status.size() != n || undetermined.size() != n)
    throw std::invalid_argument("output arrays do not fit the number of voxels");
  if (call.baseline) {
    auto o = nb::cast<Out<T>>(offset);
    if (o.size() != 2 * n) throw std::invalid_argument("offset must be (voxels, 2)");
    call.fit_offset = o.data();
  }
  call.fit_parameters = parameters.data();
  call.fit_covariance = covariance.data();
  call.fit_cost = cost.data();
  call.fit_r2 = r2.data();
  call.evaluations = evaluations.data();
  call.status = status.data();
  call.undetermined = undetermined.data();
  const Engine& engine = engine_named(instruction_set);
  nb::gil_scoped_release release;
  // Few voxels are shared out evenly, many in whole chunks.
  const long share = (call.voxels + threads - 1) / std::max(threads, 1);
  parallel(call.voxels, std::clamp(share, 1L, 4096L), threads,
           [&](long begin, long end) { engine.terms_fit(call, begin, end, sizeof(T) == 4); });
}

template <class T>
void ready_curves(Array<T> curves, Array<T> weighted, double scale, bool baseline, Out<float> y,
                  Out<unsigned char> usable, Out<T> first, int threads) {
  const size_t n = curves.shape(0), frames = weighted.size();
  if (curves.ndim() != 2 || curves.shape(1) != frames || frames == 0 || y.size() != curves.size() ||
      usable.size() != n || first.size() != n)
    throw std::invalid_argument("curves must be (voxels, frames), and so the results");
  nb::gil_scoped_release release;
  parallel(static_cast<long>(n), 4096, threads, [&](long begin, long end) {
    for (long v = begin; v < end; ++v)
      usable.data()[v] = KETY_NS::ready_curve<T>(
          curves.data() + v * static_cast<long>(frames), static_cast<int>(frames),
          static_cast<T>(scale), weighted.data(), baseline,
          y.data() + v * static_cast<long>(frames), first.data()[v]);
  });
}

void pairs(nb::dict d, Array<float> y, Out<float> z, Out<float> square, Out<int> pair, Out<float> x,
           Out<float> second, Out<float> left, int threads, const std::string& instruction_set) {
  PairsCall call = {};
  call.groups = nb::cast<int>(d["groups"]);
  call.rank = nb::cast<int>(d["rank"]);
  const size_t g = static_cast<size_t>(call.groups), r = static_cast<size_t>(call.rank);
  if (call.groups < 1 || r == 0 || r > 32)
    throw std::invalid_argument("rank must be at most 32, with at least one group");
  const size_t rows = nb::cast<Array<float>>(d["row"]).size() / r;
  call.rows = static_cast<int>(rows);
  call.row = checked<float>(d, "row", rows * r);
  call.first_pair = checked<int>(d, "first_pair", g + 1);
  const size_t count = static_cast<size_t>(call.first_pair[g]);
  call.pair_a = checked<int>(d, "pair_a", count);
  call.pair_b = checked<int>(d, "pair_b", count);
  for (size_t i = 0; i < g; ++i)
    if (call.first_pair[i] < 0 || call.first_pair[i] >= call.first_pair[i + 1])
      throw std::invalid_argument("every group has at least one pair");
  for (size_t i = 0; i < count; ++i)
    if (call.pair_a[i] < 0 || call.pair_a[i] >= call.rows || call.pair_b[i] < 0 ||
        call.pair_b[i] >= call.rows)
      throw std::invalid_argument("a pair names a row that is not there");
  call.cosine = checked<float>(d, "cosine", count);
  call.inverse = checked<float>(d, "inverse", count);
  call.band = checked<int>(d, "band", g);
  call.ratio = nb::cast<float>(d["ratio"]);
  const size_t n = square.size();
  if (y.ndim() != 2 || y.shape(0) != n || z.size() != n * r || n == 0 || pair.size() % n)
    throw std::invalid_argument("y must be (voxels, frames) and z (voxels, rank)");
  const size_t frames = y.shape(1);
  call.frames = static_cast<int>(frames);
  call.unseen = nb::cast<int>(d["unseen"]);
  if (call.unseen < 0 || call.unseen > 4)
    throw std::invalid_argument("at most 4 curves may be left out of account");
  call.basis = checked<float>(d, "basis", frames * r);
  call.outside = checked<float>(d, "outside", frames * static_cast<size_t>(call.unseen));
  const size_t k = pair.size() / n;
  if (x.size() != n * k || second.size() != n * k || left.size() != n * k)
    throw std::invalid_argument("results must be (voxels, candidates)");
  call.candidates = static_cast<int>(k);
  call.y_curves = y.data();
  call.z = z.data();
  call.square = square.data();
  call.pair = pair.data();
  call.x = x.data();
  call.y = second.data();
  call.left = left.data();
  const Engine& engine = engine_named(instruction_set);
  nb::gil_scoped_release release;
  parallel(static_cast<long>(n), 1024, threads,
           [&](long begin, long end) { engine.pairs(call, begin, end); });
}

void descend(nb::dict d, Array<float> z, Array<float> square, Array<int> pair, Out<int> group,
             Out<float> fast, Out<float> slow, Out<float> delay, Out<float> x, Out<float> y,
             Out<float> left, int threads, const std::string& instruction_set) {
  DescentCall call = {};
  call.rank = nb::cast<int>(d["rank"]);
  call.iterations = nb::cast<int>(d["iterations"]);
  call.slow_held = nb::cast<bool>(d["slow_held"]);
  call.rival = nb::cast<float>(d["rival"]);
  call.unsure = nb::cast<float>(d["unsure"]);
  call.clean = nb::cast<float>(d["clean"]);
  call.clean_unsure = nb::cast<float>(d["clean_unsure"]);
  call.flat = nb::cast<float>(d["flat"]);
  call.trust = nb::cast<float>(d["trust"]);
  const size_t m = nb::cast<size_t>(d["delays"]), k = nb::cast<size_t>(d["rates"]);
  call.delays = static_cast<int>(m);
  call.rates = static_cast<int>(k);
  call.delay_centre = checked<float>(d, "delay_centre", m);
  call.delay_half = checked<float>(d, "delay_half", m);
  call.delay_edge = checked<float>(d, "delay_edge", m + 1);
  call.band_lo = checked<float>(d, "band_lo", m);
  call.band_hi = checked<float>(d, "band_hi", m);
  call.rate_centre = checked<float>(d, "rate_centre", k);
  call.rate_half = checked<float>(d, "rate_half", k);
  call.rate_edge = checked<float>(d, "rate_edge", k + 1);
  call.table = checked<float>(d, "table", m * k * 10 * 16);
  const size_t pairs = nb::cast<Array<float>>(d["fast_of"]).size(),
               groups = nb::cast<Array<int>>(d["cell"]).size();
  call.fast_of = checked<float>(d, "fast_of", pairs);
  call.slow_of = checked<float>(d, "slow_of", pairs);
  call.group_of = checked<int>(d, "group_of", pairs);
  call.cell = checked<int>(d, "cell", groups);
  const size_t voxels = square.size(), n = pair.size();
  if (call.rank < 1 || voxels == 0 || z.size() != voxels * static_cast<size_t>(call.rank) ||
      n % voxels || n / voxels > 16 || group.size() != n || fast.size() != n || slow.size() != n ||
      delay.size() != n || x.size() != n || y.size() != n || left.size() != n)
    throw std::invalid_argument("arrays of the descent do not fit each other");
  for (size_t i = 0; i < pairs; ++i)
    if (call.group_of[i] < 0 || static_cast<size_t>(call.group_of[i]) >= groups)
      throw std::invalid_argument("a pair lies in no group");
  for (size_t i = 0; i < groups; ++i)
    if (call.cell[i] < 0 || static_cast<size_t>(call.cell[i]) >= m)
      throw std::invalid_argument("a group lies in no delay cell");
  for (size_t i = 0; i < n; ++i)
    if (pair.data()[i] >= static_cast<int>(pairs))
      throw std::invalid_argument("a start of the descent is no pair");
  call.candidates = static_cast<int>(n / voxels);
  call.z = z.data();
  call.square = square.data();
  call.pair = pair.data();
  call.group = group.data();
  call.fast = fast.data();
  call.slow = slow.data();
  call.delay = delay.data();
  call.x = x.data();
  call.y = y.data();
  call.left = left.data();
  const Engine& engine = engine_named(instruction_set);
  nb::gil_scoped_release release;
  parallel(static_cast<long>(voxels), 1024, threads,
           [&](long begin, long end) { engine.descend(call, begin, end); });
}

void crossings(Array<double> a, Array<double> b, Array<double> y, Array<double> weighted,
               nb::object constant, Out<int> i, Out<int> j, Out<double> x, Out<double> z,
               Out<double> gain, int threads, const std::string& instruction_set) {
  CrossingsCall call = {};
  const size_t n = y.shape(0), frames = weighted.size();
  if (a.ndim() != 3 || b.ndim() != 3 || y.ndim() != 2 || a.shape(0) != n || b.shape(0) != n ||
      a.shape(2) != frames || b.shape(2) != frames || y.shape(1) != frames || i.ndim() != 2 ||
      i.shape(0) != n || j.size() != i.size() || x.size() != i.size() || z.size() != i.size() ||
      gain.size() != i.size())
    throw std::invalid_argument("curves must be (voxels, delays, frames) and (voxels, frames)");
  call.frames = static_cast<int>(frames);
  call.first = static_cast<int>(a.shape(1));
  call.second = static_cast<int>(b.shape(1));
  call.most = static_cast<int>(i.shape(1));
  call.a = a.data();
  call.b = b.data();
  call.y = y.data();
  call.stride_a = static_cast<long>(a.shape(1) * frames);
  call.stride_b = static_cast<long>(b.shape(1) * frames);
  call.scale = 1;
  call.weighted = weighted.data();
  if (!constant.is_none()) {
    auto c = nb::cast<Array<double>>(constant);
    if (c.size() != frames) throw std::invalid_argument("constant must be (frames)");
    call.constant = c.data();
  }
  call.i = i.data();
  call.j = j.data();
  call.x = x.data();
  call.z = z.data();
  call.gain = gain.data();
  const Engine& engine = engine_named(instruction_set);
  nb::gil_scoped_release release;
  parallel(static_cast<long>(n), 64, threads,
           [&](long begin, long end) { engine.crossings(call, begin, end); });
}

}  // namespace

void bind_terms(nb::module_& module) {
  module.def("terms_forward", &forward, nb::arg("model"), nb::arg("inputs"), nb::arg("times"),
             nb::arg("parameters"), nb::arg("values"), nb::arg("jacobian").none(),
             nb::arg("single"), nb::arg("threads"), nb::arg("instruction_set"));
  auto with_normals = [&](const char* name, auto function) {
    module.def(name, function, nb::arg("model"), nb::arg("inputs"), nb::arg("times"),
               nb::arg("curves"), nb::arg("weights"), nb::arg("options"), nb::arg("parameters"),
               nb::arg("factor"), nb::arg("cost"), nb::arg("unweighted"), nb::arg("gradient"),
               nb::arg("hessian"), nb::arg("offset").none(), nb::arg("threads"),
               nb::arg("instruction_set"));
  };
  with_normals("terms_normals_single", &normals<float>);
  with_normals("terms_normals_double", &normals<double>);
  auto with_fit = [&](const char* name, auto function) {
    module.def(name, function, nb::arg("model"), nb::arg("inputs"), nb::arg("times"),
               nb::arg("curves"), nb::arg("weights"), nb::arg("options"), nb::arg("first"),
               nb::arg("start"), nb::arg("band"), nb::arg("offset").none(), nb::arg("parameters"),
               nb::arg("covariance"), nb::arg("cost"), nb::arg("r2"), nb::arg("evaluations"),
               nb::arg("status"), nb::arg("undetermined"), nb::arg("threads"),
               nb::arg("instruction_set"));
  };
  with_fit("terms_fit_single", &fit<float>);
  with_fit("terms_fit_double", &fit<double>);
  auto with_curves = [&](const char* name, auto function) {
    module.def(name, function, nb::arg("curves"), nb::arg("weighted"), nb::arg("scale"),
               nb::arg("baseline"), nb::arg("y"), nb::arg("usable"), nb::arg("first"),
               nb::arg("threads"));
  };
  with_curves("ready_curves_single", &ready_curves<float>);
  with_curves("ready_curves_double", &ready_curves<double>);
  module.def("pairs", &pairs, nb::arg("dictionary"), nb::arg("curves"), nb::arg("z"),
             nb::arg("square"), nb::arg("pair"), nb::arg("x"), nb::arg("y"), nb::arg("left"),
             nb::arg("threads"), nb::arg("instruction_set"));
  module.def("descend", &descend, nb::arg("dictionary"), nb::arg("z"), nb::arg("square"),
             nb::arg("pair"), nb::arg("group"), nb::arg("fast"), nb::arg("slow"), nb::arg("delay"),
             nb::arg("x"), nb::arg("y"), nb::arg("left"), nb::arg("threads"),
             nb::arg("instruction_set"));
  module.def("crossings", &crossings, nb::arg("a"), nb::arg("b"), nb::arg("y"), nb::arg("weighted"),
             nb::arg("constant").none(), nb::arg("i"), nb::arg("j"), nb::arg("x"), nb::arg("z"),
             nb::arg("gain"), nb::arg("threads"), nb::arg("instruction_set"));
}
