// Linear systems on a graph of voxels on a GPU: the passes over them, of KETY_SIZE parameters each.
#include "blocks.hpp"
#include "cuda.hpp"
#include "cuda_types.hpp"
#include "sweep.hpp"

using namespace KETY_NS;
using T = KETY_REAL;
constexpr int P = KETY_SIZE, kSymmetric = P * (P + 1) / 2;

// The sum of a block's values by halves, in an order that is always the same.
KETY_FN void sum_block(double value, double* partial) {
  KETY_SHARED double sums[kSumRows];
  sums[threadIdx.x] = value;
  barrier();
  for (int half = kSumRows / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    barrier();
  }
  if (threadIdx.x == 0) partial[blockIdx.x] = sums[0];
}

// A row for each thread; the sum of each block in `partial`.
KETY_KERNEL sweep_metric(SweepCard* card) {
  const long i = KETY_INDEX;
  if (i < card->rows) metric_row<T, P>(*card, i);
}
KETY_KERNEL sweep_rows(SweepCard* card) {
  const long i = KETY_INDEX;
  sum_block(i < card->rows ? system_row<T, P>(*card, i) : 0.0, card->partial);
}
KETY_KERNEL sweep_blocks(SweepCard* card) {
  const long i = KETY_INDEX;
  sum_block(i < card->rows ? block_row<T, P>(*card, i) : 0.0, card->partial);
}
KETY_KERNEL sweep_dot(SweepCard* card) {
  const long i = KETY_INDEX;
  sum_block(i < card->rows ? dot_row<T, P>(*card, i) : 0.0, card->partial);
}

// Sums, or means, over the members of groups: (rows, width) to (groups, width).
KETY_KERNEL sweep_gather(SweepCard* card) {
  const T* from = static_cast<const T*>(card->from);
  T* to = static_cast<T*>(card->to);
  const long i = KETY_INDEX;
  if (i >= card->groups * card->width) return;
  const long g = i / card->width, c = i % card->width;
  const long long begin = card->member_first[g], end = card->member_first[g + 1];
  T sum = 0;
  for (long long k = begin; k < end; ++k)
    sum += from[static_cast<long>(card->member[k]) * card->width + c];
  to[i] = card->mean ? sum / static_cast<T>(end - begin) : sum;
}

// An element for each thread: the next of what is kept, and of `from` times the factor.
KETY_KERNEL sweep_update(SweepCard* card) {
  const T *from = static_cast<const T*>(card->from), *mask = static_cast<const T*>(card->mask);
  T* to = static_cast<T*>(card->to);
  const long i = KETY_INDEX;
  if (i >= card->rows * P) return;
  const T kept = static_cast<T>(card->kept);
  T sum = kept != 0 ? kept * to[i] : T(0);  // what was never written is not read
  if (from) sum += static_cast<T>(card->factor) * from[i];
  to[i] = mask ? sum * mask[i] : sum;
}

// A coarse vector added to its members.
KETY_KERNEL sweep_spread(SweepCard* card) {
  const T *from = static_cast<const T*>(card->from), *mask = static_cast<const T*>(card->mask);
  const long i = KETY_INDEX;
  if (i >= card->rows * P) return;
  const long row = static_cast<long>(card->group[i / P]);
  static_cast<T*>(card->to)[i] += from[row * P + i % P] * mask[i];
}

KETY_KERNEL sweep_pull(SweepCard* card) {
  const long i = KETY_INDEX;
  if (i < card->rows)
    pull_block<T, P>(i, card->row, card->column, card->weight, card->strength,
                     static_cast<const T*>(card->metric), static_cast<T*>(card->to));
}

// The factor of A's diagonal blocks.
KETY_KERNEL sweep_factor(SweepCard* card) {
  const long i = KETY_INDEX;
  if (i >= card->rows) return;
  const T *block = static_cast<const T*>(card->block),
          *pulled = static_cast<const T*>(card->pulled);
  double a[kSymmetric];
  for (int c = 0; c < kSymmetric; ++c)
    a[c] = static_cast<double>(block[kSymmetric * i + c]) + pulled[kSymmetric * i + c];
  factor<T, P>(a, card->free[i], static_cast<T*>(card->to) + kSymmetric * i);
}
