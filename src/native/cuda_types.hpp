// Records that pass from Python to the kernels of a GPU: the calls of types.hpp with the chunk's
// working memory. Python reads the layout of both files from their text, so a member is declared as
// `type name, name;` or `type name[constant];` and nothing else.
#pragma once
#include "types.hpp"

constexpr int kMaxDelays = 64;

// `voxels` is the chunk's. Arrays of T but where another type is named.
struct FitCard : FitCall {
  // of voxels
  void *y, *square, *mean, *spread;  // y: (voxels, frames)
  float* z;                          // (voxels, rank)
  unsigned char* outcome;
  int *first, *candidate_first, *candidate_count, *repeat_first, *repeat_count, *task_first,
      *task_count;
  // lists
  void *candidates, *repeats;  // Candidate, (voxels, 8) and (voxels, 48)
  int* origin;                 // (voxels, 48)
  // of tasks, the more-dimensional ones with tasks last
  int tasks;  // room for so many
  void *p, *trial, *g, *h, *slope, *walls, *cost_of, *plain_of, *damping, *fall, *offset_of;
  int *evaluations_of, *owner, *state;
  // counters, 0 at the start
  unsigned candidate_total, repeat_total, task_total, next_task;
};

struct SearchCard : SearchCall {
  void* square;      // (voxels) of T
  void* found;       // (voxels, starts) of Found
  void* transforms;  // FIR: (threads, 4, length) of T
  unsigned next_start;
};

struct TermsCard : TermsCall {
  void* knots;  // (threads, groups, pieces, 4) of T
  void* tile;   // (threads, frames) of T
  // fit: of voxels
  void *y, *mean, *square, *spread;
  bool* finite;
  int* best;
  // and of tasks, the more-dimensional ones with tasks last
  int tasks;
  void *p, *trial, *g, *h, *slope, *cost_of, *plain_of, *damping, *fall, *offset_of;
  int *owner, *evaluations_of, *state, *queue;
  unsigned next_voxel;
};

// The search for starts of models of several terms: curves made ready and their best pairs.
struct PairsCard : PairsCall {
  long voxels;
  const void *curves, *weighted;  // (voxels, frames) and (frames) of T; the latter roots of weights
  double scale;
  bool baseline;
  // of voxels: what becomes y_curves, whether they are of use, and their first sample, of T
  float* ready;
  bool* usable;
  void* at_first;
  float* least;  // what the best pair leaves of each
  // of threads, which come last: products with the rows, and of groups the best pair
  float *products, *best;
  int* where;
};

struct DescentCard : DescentCall {
  long voxels;
  const bool* usable;  // (voxels)
  unsigned next_voxel;
};

// From what the search found of each voxel, (voxels, candidates), to parameters. The program's
// inputs are the values of a start, its amplitudes and the curve's first sample.
constexpr int kMaxStartValues = 13;
struct StartsCard {
  ProgramCall program;
  long voxels;
  int candidates, values;
  const int* list;                   // pairs, or groups where descents ended; -1: no more
  const bool* usable;                // (voxels)
  const void* at_first;              // (voxels) of T
  const double* of_pair;             // (pairs, values), or null:
  const float *fast, *slow, *delay;  // where descents ended
  const float *x, *y;
  const int* group_of;       // (pairs), or null
  const double* group_band;  // (groups, 2): s
  double lo[kMaxParameters], hi[kMaxParameters];
  // results: how many starts; and from `first` on their parameters, and bands
  int* count;              // (voxels)
  const long long* first;  // (voxels + 1)
  double *start, *start_band;
};

struct CrossingsCard : CrossingsCall {
  long voxels;
  // parameters of every voxel, and of each input alone at its delays: (voxels, first + second, ...)
  int parameters, share, delay, delay_second;  // places of parameters
  const double *theta, *delays, *delays_second;
  double* points;
  // of threads, which come last
  double *own, *early, *early_square, *early_product, *late, *late_square, *late_product, *gains;
};

struct NormalsCard : NormalsCall {
  void* tile;  // (threads, frames) of T
};

// Sums over rows are formed block by block, so that they do not depend on the order of blocks.
struct SweepCard : SweepCall {
  long rows;
  double* partial;  // (blocks)
  // sums over the members of groups
  const long long* member_first;  // (groups + 1)
  const int* member;
  long groups;
  int width;
  const void* from;
  void* to;
  bool mean;
  // vectors (rows, P): what is kept of `to`, what it is multiplied by in the end, or null, and the
  // row of `from` that each takes
  double kept;
  const void* mask;
  const int* group;
};
