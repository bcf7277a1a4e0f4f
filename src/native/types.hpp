// Plain records that pass between the Python bindings and the kernels of each instruction set.
#pragma once

enum StatusCode : unsigned char {  // kety.fitting.status.Status
  kOutside = 0,
  kConverged = 1,
  kAtBound = 2,
  kIterationLimit = 3,
  kNotEnhancing = 4,
  kNotFinite = 5,
  kNotIdentifiable = 6,
  // Inside the core and its caller only: as kNotIdentifiable, but by the size of an error instead
  // of
  // by cancellation, so that more precision would not change it.
  kTooWide = 7,
};

// Pieces are cut once for each level; a voxel uses the coarsest whose limit its rates respect.
constexpr int kLevels = 3;

// Gram polynomials of a dictionary cell have this total degree (see dictionary.hpp).
constexpr int kDegree = 5;
constexpr int kPolyC = kDegree + 1;                        // c.c, in the delay alone
constexpr int kPolyG = (kDegree + 1) * (kDegree + 2) / 2;  // c.G and G.G
constexpr int kPolySize = kPolyC + 2 * kPolyG;

// The input as pieces of a cubic, in double; each kernel casts what it needs.
struct PiecesCall {
  int count;
  const double* start;   // (count + 1)
  const double* taylor;  // (count, 4)
  const double* step;    // (count)
  const int* bucket;
  int buckets;
  double bucket_origin, bucket_rate;
  double rate_limit;  // 1/s, largest rate for which the series is exact
};

struct ForwardCall {
  PiecesCall input;
  const double* times;
  int frames, exponentials;
  long voxels;
  const double* parameters;  // (voxels, 2 + 2 exponentials)
  double* values;            // (voxels, frames)
  double* jacobian;          // (voxels, frames, 2 + 2 exponentials) or null
};

// What every evaluation of the kernel against measured curves needs.
struct CurvesOfVoxels {
  PiecesCall input[kLevels];
  const double* times;
  int frames, pieces;  // pieces: the most of any level
  const void* curves;  // T
  long voxels;
  const void* weights;  // (frames) of T, or null
  bool baseline;        // fit a constant of every voxel along
  double weight_sum;
  double curve_scale;  // brings the curves to the scale of the input, a power of two
};

struct FitCall : CurvesOfVoxels {
  long voxel_stride, frame_stride;
  // Where the search looks at some of the frames only: its weights, 0 for the others; or null.
  const void* search_weights;
  double search_weight_sum;
  int frames_used;               // frames of weight above 0
  double lo[4], hi[4], span[4];  // span: an error from which on a parameter is not determined
  // dictionary
  int delays, rates, rank, scan_rank;
  const float *delay_centre, *delay_half, *rate_centre, *rate_half;
  const double *band_lo, *band_hi;
  const int* band;
  const float *c_unit, *c_norm, *g_unit, *g_along, *g_across, *table, *curves_table, *poly, *basis;
  bool use_v, plain;
  float later;
  // options
  int max_evaluations;
  double ftol, xtol, rounding, xfloor[4];
  float candidate_ratio, rival, enhancement;
  float dictionary_error;  // squared error of the dictionary's curves, relative to their squares
  // results
  void *parameters, *covariance, *cost, *r2;  // T
  void* offset;  // (voxels, 2) of T: fitted constant and its variance; null without baseline
  unsigned short* evaluations;
  unsigned char* status;
  unsigned char* undetermined;  // bit i: parameter i is not determined
};

// Sums of squares and normal equations of many voxels at given parameters (see normals.hpp).
struct NormalsCall : CurvesOfVoxels {  // curves are (voxels, frames)
  double tau_lo, tau_hi;
  const double* parameters;  // (voxels, 4)
  const double* factor;      // (voxels): of cost, gradient and hessian, beside the input's scale
  // results, in the unit of the curves
  double *cost, *unweighted;  // (voxels)
  double* gradient;           // (voxels, 4): J'r
  double* hessian;            // (voxels, 10): J'J, packed lower triangle
  double* offset;             // (voxels): fitted constant; or null
};

// A model as a program: straight-line arithmetic that makes the amplitudes, rates and delays of its
// terms out of its parameters (see program.hpp and terms.hpp).
enum ProgramStep {
  kConstant = 0,
  kAdd = 1,
  kSubtract = 2,
  kMultiply = 3,
  kDivide = 4,
  kRoot = 5,
  kExponential = 6,
  kMaximum = 7,
};
constexpr int kMaxParameters = 8;
constexpr int kMaxRegisters = 96;
constexpr int kMaxOutputs = 12;
constexpr int kMaxGroups = 2;
constexpr int kMaxInputs = 2;

// Terms that share an input and a delay: a copy of the input and up to two exponentials. Numbers
// are those of outputs, -1 for none.
struct GroupCall {
  int input, delay, direct, terms, amplitude[2], rate[2];
};

struct ProgramCall {
  int parameters, steps, outputs;
  const int* code;         // (steps, 3): what to do, and with which registers
  const double* constant;  // (steps)
  const int* output;       // (outputs): registers
};

struct TermsModel {
  int parameters, outputs, groups, decays, inputs;
  ProgramCall terms;        // of the parameters
  ProgramCall inner, back;  // coordinates in which steps are taken, and the way back; or no outputs
  GroupCall group[kMaxGroups];
  int decay_amplitude[2], decay_rate[2];  // of what is there at the first frame
  // Parameters that are delays along which the curve jumps: the first group's, or -1, and that of
  // another input with a direct term.
  int jumps, jump[kMaxInputs];
  PiecesCall input[kMaxInputs][kLevels];
};

struct TermsCall {
  TermsModel model;
  const double* times;
  int frames, pieces;
  long voxels;
  // forward: values (voxels, frames) and their slopes (voxels, frames, parameters) or null
  const double* points;  // (voxels, parameters)
  double *values, *jacobian;
  // measured curves, (voxels, frames) of T
  const void* curves;
  const void* weights;  // (frames) of T
  bool baseline;
  double weight_sum, curve_scale;
  // normal equations at the points
  const double* factor;  // (voxels), or null
  double *cost, *unweighted, *gradient, *hessian, *offset;
  // fit from given starts
  const long long* first;  // (voxels + 1): the tasks of each voxel
  const double* start;     // (tasks, parameters)
  const double* band;      // (tasks, jumps, 2): s, jumps that those delays do not cross
  double lo[kMaxParameters], hi[kMaxParameters], xfloor[kMaxParameters], span[kMaxParameters];
  bool fixed[kMaxParameters], vanishing[kMaxParameters];
  int max_evaluations, frames_used;
  double ftol, xtol, rounding;
  void *fit_parameters, *fit_covariance, *fit_cost, *fit_r2, *fit_offset;  // T
  unsigned short* evaluations;
  unsigned char *status, *undetermined;
};

// One pass over the rows of a system on a graph of voxels of `size` parameters each (see
// sweep.hpp). Pointers to T, float or double: packed matrices of every voxel, or vectors.
enum SweepKind { kSweepMetric = 0, kSweepRows = 1, kSweepBlocks = 2, kSweepDot = 3 };

struct SweepCall {
  int what, size;
  const long long* row;  // (voxels + 1)
  const int* column;
  const float* weight;
  double strength;
  const void *metric, *block, *pulled, *pivot;
  const unsigned char* free;  // (voxels) bits, or null: all
  const void *x, *b;
  void *u, *y;
  double factor;
  bool add;
};

// The search for starts among pairs of curves (see pairs.hpp).
struct PairsCall {
  int groups, rows, rank, candidates;
  const float* row;               // (rows, rank) unit vectors, each once
  const int* first_pair;          // (groups + 1): the pairs of each group
  const int *pair_a, *pair_b;     // (pairs): rows
  const float *cosine, *inverse;  // (pairs) of the angle between, and 1 / sine^2
  const int* band;                // (groups): number of the stretch between walls
  float ratio;  // residual, relative to the best, up to which a group is a candidate
  int frames, unseen;
  const float* y_curves;  // (voxels, frames) weighted curves
  const float* basis;     // (frames, rank)
  const float* outside;   // (frames, unseen) orthonormal, and to the basis: what does not count
  // results: products with the basis (voxels, rank), sums of squares (voxels)
  float *z, *square;
  // results: (voxels, candidates), best first; -1 where there are no more
  int* pair;
  float *x, *y, *left;  // amplitudes of the unit vectors, and the residual
};

// Descent of pairs of exponentials from the nodes that the scan found (see descend.hpp).
struct DescentCall {
  int delays, rates, rank, candidates, iterations;
  const float *delay_centre, *delay_half, *delay_edge;  // edge: (delays + 1)
  const float *band_lo, *band_hi;                       // (delays)
  const float *rate_centre, *rate_half, *rate_edge;
  const float* table;  // (delays, rates, 10, 16) Taylor rows on the leading vectors of the basis
  bool slow_held;
  // Relative to what the best leaves, and to a curve's sum of squares: how near to the best a
  // descent must come. `flat`: the fall that no longer matters; `trust`: how much more than the
  // quadratic promises a step may gain.
  float rival, unsure, clean, clean_unsure, flat, trust;
  const float *fast_of, *slow_of;  // (pairs) rates
  const int *group_of, *cell;      // the group of a pair, the delay cell of a group
  const int* pair;                 // (voxels, candidates), the best first; -1: no more
  const float *z, *square;         // (voxels, rank), (voxels)
  // results (voxels, candidates), the best first: -1 where there are no more; the residual is that
  // of the whole curve
  int* group;
  float *fast, *slow, *delay, *x, *y, *left;
};

// Sums of a curve at a delay of the first input and one at a delay of the second (see
// crossings.hpp).
struct CrossingsCall {
  int frames, first, second, most;  // numbers of delays; most: pairs that are kept
  // curves (first, frames), (second, frames) and (frames) of each voxel
  const double *a, *b, *y;
  long stride_a, stride_b;  // from voxel to voxel
  double scale;             // of a and b
  const double *weighted,
      *constant;  // (frames): roots of the weights; unit vector left out, or null
  // results (voxels, most), the best first: places in a and b, -1 where there are no more;
  // amplitudes, and what they explain
  int *i, *j;
  double *x, *z, *gain;
};

// How a model becomes values at the samples of a curve (see sampled.hpp).
enum DiscretizationKind { kExact = 0, kIir = 1, kFir = 2 };
enum DelayFilter { kDelayExact = 0, kThiran = 1, kRound = 2 };

// All pointers to T, float or double as the entry point says.
struct SampledCall {
  int kind, filter, samples;
  const double* times;  // (samples)
  PiecesCall input[kLevels];
  double rate;
  int lead, ahead;
  const void* x;  // at sample 0 of the grid
  int taps, transform;
  const void *window, *p_re, *p_im, *q_re, *q_im, *cosine, *sine;
  const void* weights;
  bool baseline;
  double weight_sum, lo[4], hi[4];
};

struct CurvesCall {
  SampledCall model;
  const double* points;  // (count, free parameters) in the unit box
  long count;
  const void* curve;  // (samples) of T, or null
  double* costs;      // (count), with a curve
  double* values;     // (count, samples), without
};

enum SearchMethod { kNelderMead = 0, kEvolution = 1 };

struct SearchCall {
  SampledCall model;
  const void* curves;  // T, (voxels, samples)
  long voxels;
  int method, starts;   // starts: simplices, or members of the population
  const double* start;  // (starts, free parameters) in the unit box
  int max_iterations;
  double ftol, relative_ftol, xtol;
  double step;               // Nelder-Mead: edge of the first simplex, in the unit box
  double weight, crossover;  // differential evolution
  bool from_best;            // mutate the best member instead of a random one
  unsigned long long seed;
  // results
  double* points;         // (voxels, 4): v, a, k, tau
  double* cost;           // (voxels)
  unsigned* evaluations;  // (voxels)
  unsigned char* status;  // kConverged, kIterationLimit or kNotFinite
};

// One instruction set's entry points.
struct Engine {
  const char* name;
  void (*forward)(const ForwardCall&, long begin, long end, bool single);
  void (*fit_single)(const FitCall&, long begin, long end);
  void (*fit_double)(const FitCall&, long begin, long end);
  void (*sampled)(const CurvesCall&, long begin, long end, bool single);
  void (*search)(const SearchCall&, long begin, long end, bool single);
  void (*normals)(const NormalsCall&, long begin, long end, bool single);
  double (*sweep)(const SweepCall&, long begin, long end, bool single);
  void (*terms_forward)(const TermsCall&, long begin, long end, bool single);
  void (*terms_normals)(const TermsCall&, long begin, long end, bool single);
  void (*terms_fit)(const TermsCall&, long begin, long end, bool single);
  void (*pairs)(const PairsCall&, long begin, long end);
  void (*descend)(const DescentCall&, long begin, long end);
  void (*crossings)(const CrossingsCall&, long begin, long end);
};

void* kety_allocate(long bytes);  // 64-byte aligned
void kety_release(void* memory);
