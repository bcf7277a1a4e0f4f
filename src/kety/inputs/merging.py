"""One curve of voxels whose slices were acquired at different times: more samples of the input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CLOSE: Final = 0.1
"""Share of the interval between frames within which samples are averaged, times and values alike:
a curve through noisy samples any closer would follow their differences. What bends within that span
is lost, at most an 800th of the second difference of neighbouring frames."""


@dataclass(frozen=True, eq=False)
class Together:
    """Voxels of one time row: their times (T,), mean curve (T,) and number."""

    times: Floats
    mean: Floats
    voxels: int


def grouped(curves: Floats, times: Floats) -> list[Together]:
    """Mean curves of voxels (n, T) that share their times (n, T)."""
    rows, group = np.unique(times, axis=0, return_inverse=True)
    group = group.reshape(-1)
    return [
        Together(row, curves[group == g].mean(axis=0), int(np.count_nonzero(group == g)))
        for g, row in enumerate(rows)
    ]


def merged(groups: Sequence[Together]) -> tuple[Floats, Floats]:
    """Times and values (n,) of all groups' samples in their order, close ones averaged.

    Averages count voxels, so groups at equal times give the mean over all their voxels.
    """
    if len(groups) == 1:
        return groups[0].times, groups[0].mean
    times = np.concatenate([one.times for one in groups])
    values = np.concatenate([one.mean for one in groups])
    weights = np.concatenate([np.full(one.times.size, float(one.voxels)) for one in groups])
    order = np.argsort(times, kind="stable")
    times, values, weights = times[order], values[order], weights[order]
    width = CLOSE * min(_interval(one.times) for one in groups)
    starts = [0]
    for i in range(1, times.size):
        if times[i] - times[starts[-1]] > width:
            starts.append(i)
    total = np.add.reduceat(weights, starts)
    # From the first sample on, or rounding would move times that are equal.
    first = np.repeat(times[starts], np.diff([*starts, times.size]))
    moved = np.add.reduceat(weights * (times - first), starts) / total
    return times[starts] + moved, np.add.reduceat(weights * values, starts) / total


def _interval(times: Floats) -> float:
    """Shortest interval between frames, as the mean of two: a table that goes to and fro takes the
    slices near its ends at long and short ones in turn."""
    return float((times[2:] - times[:-2]).min() / 2 if times.size > 2 else times[1] - times[0])


def disagreement(groups: Sequence[Together]) -> float:
    """Largest relative difference of the groups' areas, over the time that all of them cover."""
    if len(groups) == 1:
        return 0.0
    start = max(float(one.times[0]) for one in groups)
    end = min(float(one.times[-1]) for one in groups)
    areas = []
    for one in groups:
        inside = one.times[(one.times > start) & (one.times < end)]
        knots = np.concatenate([[start], inside, [end]])
        values = np.interp(knots, one.times, one.mean)
        areas.append(float(np.sum(np.diff(knots) * (values[1:] + values[:-1])) / 2))
    mean = float(np.mean(areas))
    return (max(areas) - min(areas)) / mean if mean > 0 else float("inf")
