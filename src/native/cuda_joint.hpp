// Joint estimation on a GPU: normal equations of every voxel.
#include "cuda.hpp"
#include "cuda_types.hpp"
#include "normals.hpp"

using namespace KETY_NS;
using T = KETY_REAL;
using Own = OwnProblem<T>;

KETY_KERNEL normals_at(NormalsCard* card) {
  KETY_SHARED_OBJECT(Own, own, *card);
  T* tile = static_cast<T*>(card->tile) + KETY_INDEX * card->frames;
  for (long v = KETY_INDEX; v < card->voxels; v += KETY_THREADS) {
    const int level = level_of(own.problem, static_cast<T>(card->parameters[4 * v + 2]));
    if (own.plain)
      normals_of_voxels<T, 1, true>(*card, own.problem, level, &v, 1, tile, nullptr);
    else
      normals_of_voxels<T, 1, false>(*card, own.problem, level, &v, 1, tile, nullptr);
  }
}
