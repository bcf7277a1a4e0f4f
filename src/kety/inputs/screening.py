"""The first look at every voxel of a series: which may rise and fall like a vessel."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kety.inputs.bolus import LATE, MAD_TO_SD, noise_of
from kety.signal.baseline import columns

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

FIRST_PASS: Final = 60.0
"""Seconds after the first enhancement within which a vessel has to peak."""
DETECTED: Final = 4.0
"""Times the noise that a voxel's first pass has to reach."""
MEASURED: Final[tuple[str, ...]] = ("hu", "signal")
"""Quantities whose baseline is in the series."""
SAMPLE: Final = 100_000
"""Voxels, at most, that tell of a series as a whole; drawn from more."""
_CLEAR: Final = (1.0 + 1e-3) * 6.0**0.5 / (MAD_TO_SD * DETECTED)
"""Median bend, over the first pass, below which that is clear of the noise (see `noise_of`), and
a little more for single precision."""
_SHARE: Final = 1 << 17
"""Voxels that a thread takes at a time."""


def drawn(voxels: Indices) -> Indices:
    """The voxels, or `SAMPLE` of them in their order, drawn with a fixed seed."""
    if voxels.size <= SAMPLE:
        return voxels
    chance = np.random.default_rng(0)
    return np.sort(chance.choice(voxels, SAMPLE, replace=False, shuffle=False))


@dataclass(frozen=True)
class Passage:
    """Where the first pass of a curve is looked for, and the level after it.

    Attributes
    ----------
    baseline
        Frames before contrast agent.
    first, last
        Pairs of frames n and n + 1 that may be the peak: first <= n < last.
    middle
        (R,) their times, s.
    start, stop
        (R,) frames after each of them whose mean is the level that stays: start <= frame < stop.
    known
        (R,) whether these lie behind the peak.
    """

    baseline: Indices
    first: int
    last: int
    middle: Floats
    start: Indices
    stop: Indices
    known: NDArray[np.bool_]

    @classmethod
    def of(cls, times: Floats, baseline: Indices) -> Passage:
        """The passage of a series with these frame times (s) and frames before contrast agent."""
        begin = int(baseline[-1])
        middle = 0.5 * (times[1:] + times[:-1])
        end = max(int(np.searchsorted(middle, times[begin] + FIRST_PASS, side="right")), begin + 1)
        rising = np.arange(begin, end)
        spans = np.searchsorted(times, middle[rising, None] + LATE)
        # A short series ends before that: its last frames, if behind the peak, stand for it.
        stop = np.maximum(spans[:, 1], np.minimum(spans[:, 0] + 1, times.size))
        start = np.minimum(spans[:, 0], times.size - 2)
        return cls(baseline, begin, end, middle[rising], start, stop, start > rising + 1)


@dataclass(frozen=True)
class Rises:
    """First passes of some voxels, exactly.

    Attributes
    ----------
    curves
        (V, T) enhancement.
    noise
        (V,) standard deviation of the noise.
    drop
        (V,) how far the highest two frames in a row lie above the level after them.
    score
        (V,) drop² / total variation, with the sign of the drop.
    when
        (V,) time of the highest two frames, s.
    """

    curves: Floats
    noise: Floats
    drop: Floats
    score: Floats
    when: Floats


def rises_of(values: NDArray[Any], passage: Passage, quantity: str) -> Rises:
    """First passes of curves (V, T)."""
    curves = _enhancement(values, passage.baseline, quantity)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        pairs = 0.5 * (
            curves[:, passage.first : passage.last]
            + curves[:, passage.first + 1 : passage.last + 1]
        )
        best = np.argmax(np.nan_to_num(pairs, nan=-np.inf), axis=1)
        sums = np.cumsum(np.pad(curves, ((0, 0), (1, 0))), axis=1)
        each, start, stop = np.arange(len(curves)), passage.start[best], passage.stop[best]
        late = (sums[each, stop] - sums[each, start]) / (stop - start)
        drop = pairs[each, best] - np.where(passage.known[best], late, 0.0)
        score = drop * np.abs(drop) / np.abs(np.diff(curves, axis=1)).sum(axis=1)
        noise = noise_of(curves)
    return Rises(curves, noise, drop, score, passage.middle[best])


def _enhancement(values: NDArray[Any], baseline: Indices, quantity: str) -> Floats:
    """Enhancement (V, T) of curves."""
    result = np.asarray(values, dtype=np.float64)
    before = result[:, baseline].mean(axis=1, keepdims=True)
    if quantity in MEASURED:
        result = result - before
    if quantity == "signal":
        with np.errstate(divide="ignore", invalid="ignore"):
            result /= before
    return result


@dataclass(frozen=True)
class Screening:
    """What the first look tells of every voxel, in single precision.

    Attributes
    ----------
    before
        (V,) mean before contrast agent.
    score
        (V,) as of `Rises`.
    usable
        (V,) finite in all frames, and not constant.
    clear
        (V,) the first pass reaches `DETECTED` times the noise, or just misses it.
    """

    before: NDArray[np.float32]
    score: NDArray[np.float32]
    usable: NDArray[np.bool_]
    clear: NDArray[np.bool_]


def screen(flat: NDArray[Any], voxels: Indices, passage: Passage, quantity: str) -> Screening:
    """Look at the voxels (their rows in `flat`, (N, T)), block by block and frame by frame.

    All voxels that `rises_of` finds to be clear are among those found here.
    """
    count = voxels.size
    seen = Screening(
        np.empty(count, np.float32),
        np.empty(count, np.float32),
        np.empty(count, np.bool_),
        np.empty(count, np.bool_),
    )

    def look(first: int) -> None:
        share = slice(first, first + _SHARE)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            for part, values in columns(flat, voxels[share]):
                place = slice(first + part.start, first + part.stop)
                _look(values, passage, quantity, seen, place)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(look, range(0, count, _SHARE)))
    return seen


def _look(
    values: NDArray[np.float32], passage: Passage, quantity: str, seen: Screening, place: slice
) -> None:
    """Look at the voxels at a place of `seen`, whose values (T, B) are overwritten.

    No noise is computed: it is a median, and to tell whether a median is below a limit it takes to
    count.
    """
    frames, rising = len(values), passage.middle.size
    level = values[passage.baseline].mean(axis=0)
    tops = values[passage.first : passage.last] + values[passage.first + 1 : passage.last + 1]
    top = tops.max(axis=0)
    # The first of the highest pairs; argmax along this axis is ten times as slow.
    rank = np.arange(rising, 0, -1, dtype=np.min_scalar_type(rising))[:, None]
    best = rising - ((tops == top).view(np.uint8) * rank).max(axis=0)
    best = np.minimum(best, rising - 1)  # a voxel with NaN has none
    steps = values[1:] - values[:-1]
    bends = steps[1:] - steps[:-1]
    np.abs(steps, out=steps)
    np.abs(bends, out=bends)
    variation = steps.sum(axis=0)
    for frame in range(passage.first + 1, frames):  # cumsum along this axis is slow
        np.add(values[frame - 1], values[frame], out=values[frame])
    each, start, stop = np.arange(best.size), passage.start[best], passage.stop[best]
    # Running sums up to the last frame and up to the one in front of the first.
    late = (values[stop - 1, each] - values[start - 1, each]) / (stop - start).astype(np.float32)
    base = level if quantity in MEASURED else np.float32(0.0)
    drop = 0.5 * top - np.where(passage.known[best], late, base)
    below = (bends < np.float32(_CLEAR) * drop).view(np.uint8)
    # Half of the bends below the limit: their median is, or just misses it.
    clear = below.sum(axis=0, dtype=np.min_scalar_type(frames)) >= (frames - 2) // 2
    usable = np.isfinite(variation) & (variation > 0.0)
    score = drop * np.abs(drop) / variation
    if quantity == "signal":
        score /= level
        usable &= level != 0.0
    seen.before[place], seen.score[place] = level, score
    seen.usable[place], seen.clear[place] = usable, clear
