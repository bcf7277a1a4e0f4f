"""Clusters of voxels whose curves agree, and the part of them that shows blood alone."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kety.inputs.pool import Pool

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

_UNLIKE: Final = 0.2
"""Distance from the cluster's curve, over its root mean square, that noise need not explain."""
_WEAKEST, _STRONGEST = 0.4, 2.5
_ROUNDS: Final = 4
_MOST_CLUSTERS: Final = 30
_MOST_SEEDS: Final = 200


@dataclass(frozen=True)
class Cluster:
    """Connected voxels whose curves agree but for their height.

    Attributes
    ----------
    members
        Rows of the pool.
    heights
        Their height relative to the mean curve, by least squares over all frames.
    spread
        Standard deviation of a height by noise.
    agreement
        Mean correlation of the members with the cluster's curve.
    """

    members: Indices
    heights: Floats
    spread: float
    agreement: float


def clusters_of(pool: Pool, order: Indices) -> list[Cluster]:
    """Grow clusters from the voxels of the pool, tried in that order.

    A cluster starts with a voxel and those beside it; then it is, in turn, all connected voxels
    whose curve is that of the cluster but for a height and their noise, and the mean of these.
    """
    from scipy.sparse.csgraph import connected_components

    graph = _adjacency(pool.places)
    frames = pool.curves.shape[1]
    # Without their means: the noise of its baseline shifts a curve as a whole, and would decide.
    curves = pool.curves - pool.curves.mean(axis=1, keepdims=True)
    energy = np.sum(curves**2, axis=1)
    allowed = pool.noise**2 * (1.0 + 3.0 * np.sqrt(2.0 / frames))
    free, rows = np.ones(len(curves), dtype=np.bool_), np.arange(len(curves))
    found: list[Cluster] = []
    tried = 0
    for seed in order.tolist():
        if not free[seed]:
            continue
        tried += 1
        if tried > _MOST_SEEDS or len(found) == _MOST_CLUSTERS:
            break
        beside = graph.indices[graph.indptr[seed] : graph.indptr[seed + 1]]
        members = np.append(beside[free[beside]], seed)
        free[seed] = False
        start = curves[members]
        members = members[start @ curves[seed] > 0.5 * np.sqrt(energy[members] * energy[seed])]
        for _ in range(_ROUNDS):
            if members.size < 3:
                break
            mean = curves[members].mean(axis=0)
            size = float(mean @ mean)
            heights = curves @ mean / size
            apart = (energy - heights**2 * size) / (frames - 1)
            like = apart <= allowed + heights**2 * _UNLIKE**2 * size / frames
            like &= (heights > _WEAKEST) & (heights < _STRONGEST) & (free | (rows == seed))
            if not like[seed]:
                members = rows[:0]
                break
            alike = np.flatnonzero(like)
            _, labels = connected_components(graph[alike][:, alike], directed=False)
            members = alike[labels == labels[np.searchsorted(alike, seed)]]
        if members.size < 3:
            continue
        free[members] = False
        mean = curves[members].mean(axis=0)
        size = float(mean @ mean)
        heights = curves[members] @ mean / size
        similar = curves[members] @ mean / np.sqrt(energy[members] * size)
        spread = float(np.median(pool.noise[members])) / np.sqrt(size)
        found.append(Cluster(members, heights, spread, float(similar.mean())))
    return found


def _adjacency(places: Indices) -> Any:
    """Sparse (P, P) matrix of the 26 neighbours of every voxel."""
    from scipy.sparse import coo_matrix

    extent = places.max(axis=0) + 3
    flat = np.ravel_multi_index(tuple((places + 1).T), tuple(extent))
    sorting = np.argsort(flat)
    ordered = flat[sorting]
    pairs = []
    for offset in product((-1, 0, 1), repeat=3):
        if not any(offset):
            continue
        wanted = np.ravel_multi_index(tuple((places + 1 + offset).T), tuple(extent))
        spot = np.minimum(np.searchsorted(ordered, wanted), flat.size - 1)
        hit = ordered[spot] == wanted
        pairs.append(np.stack([np.flatnonzero(hit), sorting[spot[hit]]]))
    rows, columns = np.concatenate(pairs, axis=1)
    return coo_matrix((np.ones(rows.size), (rows, columns)), (len(places),) * 2).tocsr()


def core_of(pool: Pool, cluster: Cluster) -> NDArray[np.bool_]:
    """Members of a cluster that show blood alone: whose height is not below that of its inside.

    Voxels at the edge share their volume with the wall and show a lower curve. The level is the
    median of the voxels whose four neighbours in the plane are members too, or, in a vessel too
    thin for that, the upper quartile. Height over all frames, not the peak, decides, and by more
    than its noise, so that the mean of the rest is not of those whose noise happens to be high.
    """
    heights = cluster.heights
    inner = _inner(pool.places[cluster.members])
    level = (
        float(np.median(heights[inner]))
        if inner.sum() >= 4
        else float(np.percentile(heights, 75.0))
    )
    below = max(0.1 * level, 2.5 * cluster.spread)
    above = max(0.3 * level, 3.0 * cluster.spread)
    core = (heights >= level - below) & (heights <= level + above)
    # A hole in the middle of blood is blood whose noise was low.
    beside = _beside(pool.places[cluster.members], core)
    return np.asarray(core | (beside >= 3))


def _inner(places: Indices) -> NDArray[np.bool_]:
    return np.asarray(_beside(places, np.ones(len(places), dtype=np.bool_)) == 4)


def _beside(places: Indices, chosen: NDArray[np.bool_]) -> NDArray[np.int_]:
    """How many of the four neighbours in the plane of each voxel are chosen."""
    local = places - places.min(axis=0) + 1
    volume = np.zeros(local.max(axis=0) + 2, dtype=np.int_)
    x, y, z = local.T
    volume[x, y, z] = chosen
    total = volume[x - 1, y, z] + volume[x + 1, y, z] + volume[x, y - 1, z] + volume[x, y + 1, z]
    return np.asarray(total)
