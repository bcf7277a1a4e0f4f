"""Maps that are linear in a curve, as weights of its samples."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ROUNDING: Final = 1e-6
"""s by which frame times may miss an end."""


def area_weights(times: Floats, begin: float, end: float) -> Floats:
    """Weights (T,) of the samples in the area, from begin to end, under the lines between them."""
    weights = np.zeros(times.size)
    low = np.clip(begin, times[:-1], times[1:])
    high = np.clip(end, times[:-1], times[1:])
    gaps = np.diff(times)
    # Where the middle of the covered part lies in its interval shares its length between the ends.
    share = (0.5 * (low + high) - times[:-1]) / gaps
    weights[:-1] += (high - low) * (1.0 - share)
    weights[1:] += (high - low) * share
    return weights


def lines(times: Floats, window: float) -> tuple[Floats, Floats, NDArray[np.intp]]:
    """Least-squares lines through the frames of every stretch of ``window`` s.

    Returns the weights (N, T) of their slopes and of the values at their centres, and their first
    frames (N,). A stretch has at least two frames.
    """
    starts = np.arange(times.size - 1)
    ends = np.searchsorted(times, times[:-1] + window + ROUNDING, side="right") - 1
    ends = np.maximum(ends, starts + 1)
    # What is cut off by the end of the series would be shorter and noisier than the others.
    whole = (times[-1] >= times[:-1] + window - ROUNDING) | (starts == 0)
    starts, ends = starts[whole], ends[whole]
    inside = (np.arange(times.size) >= starts[:, None]) & (np.arange(times.size) <= ends[:, None])
    means = inside / inside.sum(axis=1, keepdims=True)
    offsets = np.where(inside, times - (means @ times)[:, None], 0.0)
    return offsets / np.sum(offsets**2, axis=1, keepdims=True), means, starts
