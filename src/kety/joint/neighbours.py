"""Graphs of the multi-task paper's similarities, dense as written or sparse for larger images.

As its last paragraph suggests, a larger image keeps the nearest neighbours of each voxel, with
weights of 1. Temporal neighbours are found in the coordinates in which distance (5) is Euclidean.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kety.joint.graph import Graph, Places, graph_of
from kety.joint.similarity import (
    KernelRidge,
    gaussian_similarity,
    kernel_width,
    spatial_distance,
    temporal_distance,
    temporal_embedding,
)

MOST_COORDINATES = 8
"""Coordinates in which nearest neighbours are looked for; the others hold little but noise."""
BLOCK = 4096

Doubles = NDArray[np.float64]


def dense_spatial(coordinates: Doubles) -> Graph:
    """Equation (4) between voxels at ``coordinates`` (V, 3), gamma the inverse variance of the
    distance."""
    distance = spatial_distance(coordinates)
    return graph_of(gaussian_similarity(distance, kernel_width(distance)))


def dense_temporal(ridge: KernelRidge) -> Graph:
    """Equation (5) between the voxels of smoothed curves."""
    distance = temporal_distance(ridge)
    return graph_of(gaussian_similarity(distance, kernel_width(distance)))


def nearest_temporal(
    ridge: KernelRidge, count: int, where: Places | None, offsets: NDArray[np.int32] | None
) -> Graph:
    """The ``count`` nearest neighbours of each voxel in distance (5), in a window or anywhere."""
    coordinates = temporal_embedding(ridge)[:, :MOST_COORDINATES]
    if where is None or offsets is None:
        return nearest(coordinates, count)
    return nearest_in_window(where, offsets, coordinates, count)


def nearest(coordinates: Doubles, count: int) -> Graph:
    """The ``count`` nearest neighbours of each voxel in ``coordinates`` (V, n), made symmetric."""
    from scipy.spatial import KDTree

    voxels = len(coordinates)
    count = min(count, voxels - 1)
    if count < 1:
        return _joined(voxels, np.empty(0, np.intp), np.empty(0, np.intp))
    _, found = KDTree(coordinates).query(coordinates, k=count + 1, workers=-1)
    others = np.asarray(found) != np.arange(voxels)[:, None]
    # Of voxels at one place the tree may not name the own one; then the last goes.
    others &= np.cumsum(others, axis=1) <= count
    own, place = np.nonzero(others)
    return _joined(voxels, own, np.asarray(found)[own, place])


def nearest_in_window(
    where: Places, offsets: NDArray[np.int32], coordinates: Doubles | None, count: int
) -> Graph:
    """The ``count`` voxels within a window that are nearest in ``coordinates``.

    Without coordinates: nearest in space, in the order of the ``offsets``.
    """
    voxels = len(where.indices)
    size = np.array(where.grid.shape)
    rows, columns = [], []
    for first in range(0, voxels, BLOCK):
        at = where.indices[first : first + BLOCK, None, :] + offsets
        inside = np.asarray(((at >= 0) & (at < size)).all(axis=2))
        held = np.where(inside[..., None], at, 0)
        other = np.where(inside, where.grid[held[..., 0], held[..., 1], held[..., 2]], -1)
        if coordinates is None:
            rank = np.broadcast_to(np.arange(float(len(offsets))), other.shape)
        else:
            own = coordinates[first : first + BLOCK, None, :]
            rank = ((coordinates[other] - own) ** 2).sum(axis=2)
        rank = np.where(other >= 0, rank, np.inf)
        chosen = np.argsort(rank, axis=1, kind="stable")[:, :count]
        number = np.take_along_axis(other, chosen, axis=1)
        i, j = np.nonzero(number >= 0)
        rows.append(i + first)
        columns.append(number[i, j])
    return _joined(voxels, np.concatenate(rows), np.concatenate(columns))


def _joined(voxels: int, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Graph:
    """A graph with weight 1 wherever one of two voxels chose the other."""
    from scipy.sparse import coo_array

    one = coo_array((np.ones(len(rows)), (rows, columns)), shape=(voxels, voxels)).tocsr()
    one.data[:] = 1.0
    return graph_of(one.maximum(one.T))
