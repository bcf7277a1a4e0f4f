// Python bindings: checked arrays in, the fastest instruction set of this processor, threads.
#include <cstdlib>
#include <new>

#include "bindings.hpp"

void* kety_allocate(long bytes) {
  void* memory = std::aligned_alloc(64, (static_cast<size_t>(bytes) + 127) / 64 * 64);
  if (!memory) std::abort();  // no exception may cross the threads; memory is bounded by the block
  return memory;
}
void kety_release(void* memory) { std::free(memory); }

namespace plain {
extern const Engine engine;
}
#ifdef KETY_X86
namespace avx2 {
extern const Engine engine;
}
namespace avx512 {
extern const Engine engine;
}
#endif

std::vector<const Engine*> engines() {
  std::vector<const Engine*> found;
#ifdef KETY_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v4")) found.push_back(&avx512::engine);
  if (__builtin_cpu_supports("x86-64-v3")) found.push_back(&avx2::engine);
#endif
  found.push_back(&plain::engine);
  return found;
}

const Engine& engine_named(const std::string& name) {
  const auto all = engines();
  if (name.empty()) return *all.front();
  std::string known;
  for (const Engine* e : all) {
    if (name == e->name) return *e;
    known += (known.empty() ? "" : ", ") + std::string(e->name);
  }
  throw std::invalid_argument("unknown instruction set '" + name + "'; this processor has " +
                              known);
}

PiecesCall pieces_of(nb::dict d) {
  const auto start = nb::cast<Array<double>>(d["start"]);
  const auto taylor = nb::cast<Array<double>>(d["taylor"]);
  const auto step = nb::cast<Array<double>>(d["step"]);
  const auto bucket = nb::cast<Array<int>>(d["bucket"]);
  PiecesCall p = {};
  p.count = static_cast<int>(step.size());
  if (start.size() != step.size() + 1 || taylor.size() != 4 * step.size() || bucket.size() == 0)
    throw std::invalid_argument("pieces of the input have inconsistent lengths");
  p.start = start.data();
  p.taylor = taylor.data();
  p.step = step.data();
  p.bucket = bucket.data();
  p.buckets = static_cast<int>(bucket.size());
  p.bucket_origin = nb::cast<double>(d["bucket_origin"]);
  p.bucket_rate = nb::cast<double>(d["bucket_rate"]);
  p.rate_limit = nb::cast<double>(d["rate_limit"]);
  return p;
}

namespace {

void forward(nb::dict pieces, Array<double> times, Array<double> parameters, Out<double> values,
             nb::object jacobian, bool single, int threads, const std::string& instruction_set) {
  ForwardCall call = {};
  call.input = pieces_of(pieces);
  call.times = times.data();
  call.frames = static_cast<int>(times.size());
  if (parameters.ndim() != 2 || (parameters.shape(1) != 4 && parameters.shape(1) != 6))
    throw std::invalid_argument("parameters must be (voxels, 4) or (voxels, 6)");
  call.voxels = static_cast<long>(parameters.shape(0));
  call.exponentials = static_cast<int>(parameters.shape(1) - 2) / 2;
  call.parameters = parameters.data();
  if (values.size() != parameters.shape(0) * times.size())
    throw std::invalid_argument("values must be (voxels, frames)");
  call.values = values.data();
  if (!jacobian.is_none()) {
    auto j = nb::cast<Out<double>>(jacobian);
    if (j.size() != values.size() * parameters.shape(1))
      throw std::invalid_argument("jacobian must be (voxels, frames, parameters)");
    call.jacobian = j.data();
  }
  const Engine& engine = engine_named(instruction_set);
  nb::gil_scoped_release release;
  parallel(call.voxels, 1024, threads,
           [&](long begin, long end) { engine.forward(call, begin, end, single); });
}

// Derivatives d^n G / dk^n (n = 0..3) of the convolution and of the input at the times x, with
// their derivatives of order 0..3 in time: c (4, times) and g (rates, 4, 4, times). Each obeys y' =
// -k y - n y_(n-1), the first with the input added, so one recursion gives all.
void taylor_rows(nb::dict pieces, Array<double> rates, Array<double> x, Out<double> c,
                 Out<double> g, int threads) {
  constexpr int terms = 14;
  const PiecesCall in = pieces_of(pieces);
  const long n = static_cast<long>(x.size()), count = static_cast<long>(rates.size());
  if (c.size() != 4 * x.size() || g.size() != 16 * rates.size() * x.size())
    throw std::invalid_argument("taylor_rows: output arrays have the wrong size");
  auto advance = [&](double k, const double* p, const double* from, double u, double* to) {
    double d[4], power = 1;
    for (int q = 0; q < 4; ++q) to[q] = d[q] = from[q];
    for (int m = 0; m < terms; ++m) {
      double next[4];
      for (int q = 0; q < 4; ++q) next[q] = -k * d[q] - (q ? q * d[q - 1] : (m < 4 ? -p[m] : 0.0));
      power *= u / (m + 1);
      for (int q = 0; q < 4; ++q) to[q] += (d[q] = next[q]) * power;
    }
  };
  std::vector<int> piece(n);
  for (long i = 0; i < n; ++i) {
    const double* after = std::upper_bound(in.start + 1, in.start + in.count, x.data()[i]);
    piece[i] = static_cast<int>(after - in.start) - 1;
    const double* p = in.taylor + 4L * piece[i];
    const double u = piece[i] > 0 ? x.data()[i] - in.start[piece[i]] : 0.0;
    double* out = c.data();
    out[i] = p[0] + u * (p[1] + u / 2 * (p[2] + u / 3 * p[3]));
    out[n + i] = p[1] + u * (p[2] + u / 2 * p[3]);
    out[2 * n + i] = p[2] + u * p[3];
    out[3 * n + i] = p[3];
  }
  nb::gil_scoped_release release;
  parallel(count, 1, threads, [&](long begin, long) {
    const double k = rates.data()[begin];
    std::vector<double> state(4L * in.count);
    double at[4] = {};
    for (int i = 0; i < in.count; ++i) {
      std::copy(at, at + 4, state.data() + 4L * i);
      double next[4];
      advance(k, in.taylor + 4L * i, at, in.step[i], next);
      std::copy(next, next + 4, at);
    }
    double* out = g.data() + begin * 16 * n;
    for (long i = 0; i < n; ++i) {
      const double u = piece[i] > 0 ? x.data()[i] - in.start[piece[i]] : 0.0;
      double y[4][4];
      double value[4];
      advance(k, in.taylor + 4L * piece[i], state.data() + 4L * piece[i], u, value);
      for (int q = 0; q < 4; ++q) y[q][0] = value[q];
      for (int m = 0; m < 3; ++m)
        for (int q = 0; q < 4; ++q)
          y[q][m + 1] = -k * y[q][m] - (q ? q * y[q - 1][m] : -c.data()[m * n + i]);
      for (int q = 0; q < 4; ++q)
        for (int m = 0; m < 4; ++m) out[(q * 4 + m) * n + i] = y[q][m];
    }
  });
}

template <class T>
void fit(nb::list levels, Array<double> times,
         nb::ndarray<const T, nb::ndim<2>, nb::device::cpu> curves, nb::object weights,
         nb::dict dictionary, nb::dict options, nb::object offset, Out<T> parameters,
         Out<T> covariance, Out<T> cost, Out<T> r2, Out<unsigned short> evaluations,
         Out<unsigned char> status, Out<unsigned char> undetermined, int threads,
         const std::string& instruction_set) {
  FitCall call = {};
  read_kernel<T>(call, levels, times, weights, options);
  if (curves.shape(1) != times.size())
    throw std::invalid_argument("curves must be (voxels, frames)");
  call.curves = curves.data();
  call.voxels = static_cast<long>(curves.shape(0));
  call.voxel_stride = curves.stride(0);
  call.frame_stride = curves.stride(1);
  nb::object search_weights = options["search_weights"];
  if (!search_weights.is_none()) {
    auto w = nb::cast<Array<T>>(search_weights);
    if (w.size() != times.size()) throw std::invalid_argument("search_weights must be (frames)");
    call.search_weights = w.data();
    call.search_weight_sum = nb::cast<double>(options["search_weight_sum"]);
  }
  const auto lo = nb::cast<std::vector<double>>(options["lo"]);
  const auto hi = nb::cast<std::vector<double>>(options["hi"]);
  const auto xfloor = nb::cast<std::vector<double>>(options["xfloor"]);
  const auto span = nb::cast<std::vector<double>>(options["span"]);
  for (int i = 0; i < 4; ++i) {
    call.lo[i] = lo.at(i);
    call.hi[i] = hi.at(i);
    call.xfloor[i] = xfloor.at(i);
    call.span[i] = span.at(i);
  }
  call.baseline = !offset.is_none();
  call.frames_used = nb::cast<int>(options["frames_used"]);
  call.max_evaluations = nb::cast<int>(options["max_evaluations"]);
  call.ftol = nb::cast<double>(options["ftol"]);
  call.xtol = nb::cast<double>(options["xtol"]);
  call.rounding = nb::cast<double>(options["rounding"]);
  call.candidate_ratio = nb::cast<float>(options["candidate_ratio"]);
  call.rival = nb::cast<float>(options["rival"]);
  call.enhancement = nb::cast<float>(options["enhancement"]);
  call.dictionary_error = nb::cast<float>(options["dictionary_error"]);

  const size_t m = nb::cast<size_t>(dictionary["delays"]),
               k = nb::cast<size_t>(dictionary["rates"]), r = nb::cast<size_t>(dictionary["rank"]);
  if (m > 64) throw std::invalid_argument("at most 64 delay cells");
  if (r == 0 || r > 32 || r % 8) throw std::invalid_argument("rank must be 8, 16, 24 or 32");
  call.delays = static_cast<int>(m);
  call.rates = static_cast<int>(k);
  call.rank = static_cast<int>(r);
  const size_t q = nb::cast<size_t>(dictionary["scan_rank"]);
  if (q == 0 || q > r) throw std::invalid_argument("scan_rank must be 1 to rank");
  call.scan_rank = static_cast<int>(q);
  call.delay_centre = checked<float>(dictionary, "delay_centre", m);
  call.delay_half = checked<float>(dictionary, "delay_half", m);
  call.band_lo = checked<double>(dictionary, "band_lo", m);
  call.band = checked<int>(dictionary, "band", m);
  call.band_hi = checked<double>(dictionary, "band_hi", m);
  call.rate_centre = checked<float>(dictionary, "rate_centre", k);
  call.rate_half = checked<float>(dictionary, "rate_half", k);
  call.c_unit = checked<float>(dictionary, "c_unit", m * q);
  call.c_norm = checked<float>(dictionary, "c_norm", m);
  call.g_unit = checked<float>(dictionary, "g_unit", m * k * q);
  call.g_along = checked<float>(dictionary, "g_along", m * k);
  call.g_across = checked<float>(dictionary, "g_across", m * k);
  call.table = checked<float>(dictionary, "table", m * k * r * 16);
  call.curves_table = checked<float>(dictionary, "curves", m * k * r * 14);
  call.poly = checked<float>(dictionary, "poly", m * k * kPolySize);
  call.basis = checked<float>(dictionary, "basis", times.size() * r);
  call.use_v = nb::cast<bool>(dictionary["use_v"]);
  call.later = nb::cast<float>(dictionary["later"]);
  call.plain = nb::cast<bool>(dictionary["plain"]);

  const size_t n = curves.shape(0);
  if (parameters.size() != 4 * n || covariance.size() != 10 * n || cost.size() != n ||
      r2.size() != n || evaluations.size() != n || status.size() != n || undetermined.size() != n)
    throw std::invalid_argument("output arrays do not fit the number of voxels");
  if (call.baseline) {
    auto o = nb::cast<Out<T>>(offset);
    if (o.size() != 2 * n) throw std::invalid_argument("offset must be (voxels, 2)");
    call.offset = o.data();
  }
  call.parameters = parameters.data();
  call.covariance = covariance.data();
  call.cost = cost.data();
  call.r2 = r2.data();
  call.evaluations = evaluations.data();
  call.status = status.data();
  call.undetermined = undetermined.data();

  const Engine& engine = engine_named(instruction_set);
  nb::gil_scoped_release release;
  parallel(call.voxels, 8192, threads, [&](long begin, long end) {
    if constexpr (sizeof(T) == 4)
      engine.fit_single(call, begin, end);
    else
      engine.fit_double(call, begin, end);
  });
}

}  // namespace

NB_MODULE(_native, module) {
  module.doc() =
      "The C++ core: forward kernel and solvers. Arrays are checked in kety.fitting.engine.";
  module.attr("GRAM_DEGREE") = kDegree;
  module.def("instruction_sets", [] {
    std::vector<std::string> names;
    for (const Engine* e : engines()) names.emplace_back(e->name);
    return names;
  });
  module.def("forward", &forward, nb::arg("pieces"), nb::arg("times"), nb::arg("parameters"),
             nb::arg("values"), nb::arg("jacobian").none(), nb::arg("single"), nb::arg("threads"),
             nb::arg("instruction_set"));
  module.def("taylor_rows", &taylor_rows, nb::arg("pieces"), nb::arg("rates"), nb::arg("x"),
             nb::arg("c"), nb::arg("g"), nb::arg("threads"));
  module.def("fit_single", &fit<float>, nb::arg("levels"), nb::arg("times"), nb::arg("curves"),
             nb::arg("weights").none(), nb::arg("dictionary"), nb::arg("options"),
             nb::arg("offset").none(), nb::arg("parameters"), nb::arg("covariance"),
             nb::arg("cost"), nb::arg("r2"), nb::arg("evaluations"), nb::arg("status"),
             nb::arg("undetermined"), nb::arg("threads"), nb::arg("instruction_set"));
  module.def("fit_double", &fit<double>, nb::arg("levels"), nb::arg("times"), nb::arg("curves"),
             nb::arg("weights").none(), nb::arg("dictionary"), nb::arg("options"),
             nb::arg("offset").none(), nb::arg("parameters"), nb::arg("covariance"),
             nb::arg("cost"), nb::arg("r2"), nb::arg("evaluations"), nb::arg("status"),
             nb::arg("undetermined"), nb::arg("threads"), nb::arg("instruction_set"));
  bind_direct(module);
  bind_joint(module);
  bind_terms(module);
}
