"""Voxels that rise and fall like a vessel, and the clusters of them that agree."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kety.inputs.bolus import LATE, noise_of
from kety.signal.baseline import blocks, memory_order

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

FIRST_PASS: Final = 60.0
"""Seconds after the first enhancement within which a vessel has to peak."""
BLOOD_HU: Final[tuple[float, float]] = (-100.0, 200.0)
"""CT numbers before contrast agent that blood, with noise and some fat or calcium, may have."""
LEAST_SIGNAL: Final = 0.1
"""MR signal before contrast agent, over the 99th percentile, below which there is only noise."""
_MEASURED: Final[tuple[str, ...]] = ("hu", "signal")
"""Quantities whose baseline is in the series."""
_CALM: Final = 2.0
"""Times the median noise that voxels of the mean tissue may have."""
_LATER: Final = 8.0
"""Seconds by which a later peak counts for 1/e as an artery's."""
_POOL: Final = 0.02
_POOL_LIMITS: Final[tuple[int, int]] = (2_000, 30_000)
_DETECTED: Final = 4.0
"""Times the noise that a voxel's first pass has to reach."""
_VESSEL, _TYPICAL = 0.25, 50
"""Share of the median first pass of the 50 likeliest voxels beyond which a voxel is no tissue."""
_SOME: Final = 50_000
"""Voxels, at least, whose mean shows how tissue enhances."""
_UNLIKE: Final = 0.2
"""Distance from the cluster's curve, over its root mean square, that noise need not explain."""
_WEAKEST, _STRONGEST = 0.4, 2.5
_ROUNDS: Final = 4
_MOST_CLUSTERS: Final = 30
_MOST_SEEDS: Final = 200


@dataclass(frozen=True)
class Pool:
    """The voxels of a series that rise and fall most, and the curve of those that only enhance.

    Attributes
    ----------
    places
        (P, 3) voxel indices, the likeliest first.
    curves
        (P, T) enhancement: HU or mM above baseline, or of an MR signal (S - S0) / S0.
    noise
        (P,) its standard deviation.
    drop
        (P,) how far the first pass rises above what follows.
    early
        Rows, the likeliest to be an artery first: the rank counts less the later a voxel peaks.
    tissue
        (T,) mean enhancement of the tissue: voxels that enhance without a vessel's first pass;
        zeros where there are none.
    tissue_voxels
        Number of these.
    inside
        (X, Y, Z) voxels that were looked at: in the mask, finite, and not air or only noise.
    """

    places: Indices
    curves: Floats
    noise: Floats
    drop: Floats
    early: Indices
    tissue: Floats
    tissue_voxels: int
    inside: NDArray[np.bool_]


def make_pool(
    data: NDArray[Any],
    times: Floats,
    baseline: Indices,
    voxels: Indices,
    quantity: str,
) -> Pool:
    """Rank the voxels of a series (X, Y, Z, T), worked through in blocks.

    A voxel's rank is b²/TV: b is how far the highest two frames in a row lie above the level 25 to
    100 s later, TV the total variation of the curve, which motion and noise raise. Tissue keeps
    what it took up and has a small b.

    Parameters
    ----------
    data, times
        Series and frame times in s.
    baseline
        Frames before contrast agent.
    voxels
        Flat numbers of those to look at, in the order of `kety.signal.baseline.memory_order`.
    quantity
        ``"hu"``, ``"enhancement"``, ``"signal"`` or ``"concentration"``.
    """
    shape, order = data.shape[:3], memory_order(data)
    flat = data.reshape(-1, times.size, order=order)
    start = int(baseline[-1]) + 1
    middle = 0.5 * (times[1:] + times[:-1])
    rising = np.flatnonzero(
        (np.arange(middle.size) >= start - 1) & (middle <= times[start - 1] + FIRST_PASS)
    )
    spans = np.searchsorted(times, middle[rising, None] + LATE)
    # A short series ends before that: its last frames, if they lie behind the peak, stand for it.
    spans[:, 1] = np.maximum(spans[:, 1], np.minimum(spans[:, 0] + 1, times.size))
    spans[:, 0] = np.minimum(spans[:, 0], times.size - 2)
    known = spans[:, 0] > rising + 1
    score, drop, noise, before, when = (np.zeros(voxels.size) for _ in range(5))
    done = 0
    for block in blocks(voxels, times.size):
        part = slice(done, done + block.size)
        values = _enhancement(flat[block], baseline, quantity, before[part])
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            noise[part] = noise_of(values)
            pairs = 0.5 * (values[:, rising] + values[:, rising + 1])
            best = np.argmax(np.nan_to_num(pairs, nan=-np.inf), axis=1)
            when[part] = middle[rising[best]]
            sums = np.cumsum(np.pad(values, ((0, 0), (1, 0))), axis=1)
            each, span = np.arange(block.size), spans[best]
            late = (sums[each, span[:, 1]] - sums[each, span[:, 0]]) / (span[:, 1] - span[:, 0])
            drop[part] = pairs[each, best] - np.where(known[best], late, 0.0)
            variation = np.abs(np.diff(values, axis=1)).sum(axis=1)
            score[part] = drop[part] * np.abs(drop[part]) / variation
        done += block.size
    good = np.isfinite(score) & np.isfinite(noise) & np.isfinite(before)
    good &= _plausible(before, good, quantity)
    likely = np.flatnonzero(good & (drop > _DETECTED * noise))
    count = int(np.clip(_POOL * np.count_nonzero(good), *_POOL_LIMITS))
    likely = likely[np.argsort(-score[likely], kind="stable")[:count]]
    others = good & ~_vessel_like(drop, noise, likely)
    others &= noise <= _CALM * (np.median(noise[good]) if good.any() else 0.0)
    tissue, enhancing = _tissue(flat, baseline, voxels[others], noise[others], quantity)
    inside = np.zeros(flat.shape[0], dtype=np.bool_)
    inside[voxels[good]] = True
    places = np.stack(np.unravel_index(voxels[likely], shape, order=order), axis=1)
    return Pool(
        places,
        _enhancement(flat[voxels[likely]], baseline, quantity, np.empty(likely.size)),
        noise[likely],
        drop[likely],
        np.argsort(
            -score[likely] * np.exp((when[likely].min(initial=np.inf) - when[likely]) / _LATER),
            kind="stable",
        ),
        tissue,
        enhancing,
        inside.reshape(shape, order=order),
    )


def _vessel_like(drop: Floats, noise: Floats, likely: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Voxels of so large a first pass that they are no tissue."""
    if not likely.size:
        return np.zeros(drop.shape, dtype=np.bool_)
    # The baseline's noise shifts a voxel's rise, not its drop, which so selects no baselines.
    typical = float(np.median(drop[likely[:_TYPICAL]]))
    return np.asarray(drop > np.maximum(_DETECTED * noise, _VESSEL * typical))


def _tissue(
    flat: NDArray[Any], baseline: Indices, voxels: Indices, noise: Floats, quantity: str
) -> tuple[Floats, int]:
    """Mean curve (T,) of the voxels that enhance, and their number.

    These are the ones that go along with the mean of all by more than their noise. To ask for a
    high mean over the frames instead would select voxels whose baseline happens to be low.
    """
    frames = flat.shape[1]
    total, number = np.zeros(frames), 0
    if not voxels.size:
        return total, number
    some = voxels[:: max(1, voxels.size // _SOME)]
    mean = np.zeros(frames)
    for block in blocks(some, frames):
        mean += _enhancement(flat[block], baseline, quantity, np.empty(block.size)).sum(axis=0)
    mean = (mean - mean.mean()) / some.size
    size = float(np.sqrt(mean @ mean))
    if size == 0.0:
        return total, number
    done = 0
    for block in blocks(voxels, frames):
        values = _enhancement(flat[block], baseline, quantity, np.empty(block.size))
        along = values @ mean / size
        chosen = along > _DETECTED * noise[done : done + block.size]
        total += values[chosen].sum(axis=0)
        number += int(np.count_nonzero(chosen))
        done += block.size
    return total / max(number, 1), number


def _enhancement(values: NDArray[Any], baseline: Indices, quantity: str, before: Floats) -> Floats:
    """Enhancement (B, T) of curves; `before` gets their mean before contrast agent."""
    result = np.asarray(values, dtype=np.float64)
    before[:] = result[:, baseline].mean(axis=1)
    if quantity in _MEASURED:
        result = result - before[:, None]
    if quantity == "signal":
        with np.errstate(divide="ignore", invalid="ignore"):
            result /= before[:, None]
    return result


def _plausible(before: Floats, good: NDArray[np.bool_], quantity: str) -> NDArray[np.bool_]:
    if quantity == "hu":
        return (before >= BLOOD_HU[0]) & (before <= BLOOD_HU[1])
    if quantity == "signal" and good.any():
        return before > max(LEAST_SIGNAL * float(np.percentile(before[good], 99.0)), 0.0)
    return np.ones(before.shape, dtype=np.bool_)


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
