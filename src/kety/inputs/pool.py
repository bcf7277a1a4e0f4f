"""The voxels of a series that rise and fall like a vessel, and how its tissue enhances."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kety.inputs.screening import (
    DETECTED,
    Passage,
    Rises,
    drawn,
    rises_of,
    screen,
)
from kety.signal.baseline import blocks, memory_order

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

BLOOD_HU: Final[tuple[float, float]] = (-100.0, 200.0)
"""CT numbers before contrast agent that blood, with noise and some fat or calcium, may have."""
LEAST_SIGNAL: Final = 0.1
"""MR signal before contrast agent, over the 99th percentile, below which there is only noise."""
_CALM: Final = 2.0
"""Times the median noise that voxels of the mean tissue may have."""
_LATER: Final = 8.0
"""Seconds by which a later peak counts for 1/e as an artery's."""
_POOL: Final = 0.02
_POOL_LIMITS: Final[tuple[int, int]] = (2_000, 30_000)
_MORE: Final = 1.25
"""Times as many voxels are looked at closely as are wanted: some just miss being clear."""
_VESSEL, _TYPICAL = 0.25, 50
"""Share of the median first pass of the 50 likeliest voxels beyond which a voxel is no tissue."""


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
        Number of these among those looked at, at most 100,000.
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
    """Rank the voxels of a series (X, Y, Z, T).

    A voxel's rank is b²/TV: b is how far the highest two frames in a row lie above the level 25 to
    100 s later, TV the total variation of the curve, which motion and noise raise. Tissue keeps
    what it took up and has a small b. All voxels are screened in single precision; the likeliest
    are then ranked in double, so that the ranking is that of double precision throughout.

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
    passage = Passage.of(times, baseline)
    seen = screen(flat, voxels, passage, quantity)
    good = seen.usable & np.isfinite(seen.before)
    good &= _plausible(seen.before, good, quantity)
    count = int(np.clip(_POOL * np.count_nonzero(good), *_POOL_LIMITS))
    likely, rises = _likeliest(
        flat, voxels, passage, quantity, good & seen.clear, seen.score, count
    )
    tissue, enhancing = _tissue(flat, drawn(voxels[good]), passage, quantity, rises.drop)
    inside = np.zeros(flat.shape[0], dtype=np.bool_)
    inside[voxels[good]] = True
    places = np.stack(np.unravel_index(likely, shape, order=order), axis=1)
    later = (rises.when - rises.when.min(initial=np.inf)) / _LATER
    return Pool(
        places,
        rises.curves,
        rises.noise,
        rises.drop,
        np.argsort(-rises.score * np.exp(-later), kind="stable"),
        tissue,
        enhancing,
        inside.reshape(shape, order=order),
    )


def _likeliest(
    flat: NDArray[Any],
    voxels: Indices,
    passage: Passage,
    quantity: str,
    clear: NDArray[np.bool_],
    score: NDArray[np.float32],
    count: int,
) -> tuple[Indices, Rises]:
    """The `count` voxels of the highest score whose first pass is clear, and their first passes."""
    rows = np.flatnonzero(clear)
    few = int(_MORE * count)
    close = rows
    if rows.size > few:
        close = np.sort(rows[np.argpartition(-score[rows], few)[:few]])
    for tried in (close, rows):
        rises = rises_of(flat[voxels[tried]], passage, quantity)
        found = np.flatnonzero(rises.drop > DETECTED * rises.noise)
        if found.size >= count or tried.size == rows.size:
            break
    best = found[np.argsort(-rises.score[found], kind="stable")[:count]]
    kept = Rises(*(getattr(rises, field.name)[best] for field in fields(Rises)))
    return voxels[tried[best]], kept


def _tissue(
    flat: NDArray[Any], voxels: Indices, passage: Passage, quantity: str, drops: Floats
) -> tuple[Floats, int]:
    """Mean curve (T,) of the voxels that enhance, and their number.

    These are the ones that go along with the mean of all by more than their noise. To ask for a
    high mean over the frames instead would select voxels whose baseline happens to be low. Voxels
    of much noise are left out, and those of so large a first pass, beside the likeliest voxels'
    `drops`, that they are no tissue.
    """
    frames = flat.shape[1]
    none = np.zeros(frames), 0
    if not voxels.size:
        return none
    parts = [rises_of(flat[block], passage, quantity) for block in blocks(voxels, frames)]
    noise = np.concatenate([part.noise for part in parts])
    others = noise <= _CALM * np.median(noise)
    if drops.size:
        # The baseline's noise shifts a voxel's rise, not its drop, which so selects no baselines.
        least = np.maximum(DETECTED * noise, _VESSEL * float(np.median(drops[:_TYPICAL])))
        others &= np.concatenate([part.drop for part in parts]) <= least
    curves = np.concatenate([part.curves for part in parts])[others]
    mean = curves.mean(axis=0)
    mean -= mean.mean()
    size = float(np.sqrt(mean @ mean))
    if not size > 0.0:
        return none
    chosen = curves @ mean / size > DETECTED * noise[others]
    number = int(np.count_nonzero(chosen))
    return curves[chosen].sum(axis=0) / max(number, 1), number


def _plausible(
    before: NDArray[np.float32], good: NDArray[np.bool_], quantity: str
) -> NDArray[np.bool_]:
    if quantity == "hu":
        return (before >= BLOOD_HU[0]) & (before <= BLOOD_HU[1])
    if quantity == "signal" and good.any():
        return before > max(LEAST_SIGNAL * float(np.percentile(before[good], 99.0)), 0.0)
    return np.ones(before.shape, dtype=np.bool_)
