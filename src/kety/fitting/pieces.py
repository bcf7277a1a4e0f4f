"""The input function as the kernel reads it: short pieces of a cubic on a refined knot grid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from kety.inputs import InputFunction

SERIES_REACH = 0.35
"""Largest rate x length of a piece for which the kernel's series are exact to rounding."""

# Largest rates of the three sets of pieces, as multiples of the bound; a voxel uses the coarsest
# set that is exact for its own rate.
LEVEL_RATES = (5.0 / 60, 20.0 / 60)

MAX_BUCKETS = 1 << 20


def _refined(
    knots: NDArray[np.float64], coefficients: NDArray[np.float64], longest: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cut pieces longer than `longest` into equal parts and expand each about its own start."""
    steps = np.diff(knots)
    # Rounding must not cut a piece that just fits.
    parts = np.maximum(1, np.ceil(steps / longest - 1e-9)).astype(int)
    owner = np.repeat(np.arange(len(steps)), parts)
    first = np.repeat(np.cumsum(parts) - parts, parts)
    offset = (np.arange(len(owner)) - first) * (steps / parts)[owner]
    c = coefficients[owner]
    u = offset
    taylor = np.stack(
        [
            c[:, 0] + u * (c[:, 1] + u * (c[:, 2] + u * c[:, 3])),
            c[:, 1] + u * (2 * c[:, 2] + u * 3 * c[:, 3]),
            2 * c[:, 2] + 6 * u * c[:, 3],
            6 * c[:, 3],
        ],
        axis=1,
    )
    start = np.append(knots[owner] + offset, knots[-1])
    return start, taylor


def kernel_pieces(aif: InputFunction, rate_limit: float, end: float) -> dict[str, Any]:
    """Pieces of the input that are exact for rates up to `rate_limit`.

    Parameters
    ----------
    aif : InputFunction
    rate_limit : float
        Largest rate constant, 1/s.
    end : float
        Last time at which the input is asked for, s. Beyond its last sample the input keeps that
        sample's value.

    Returns
    -------
    dict
        ``start`` (n + 1) s, ``taylor`` (n, 4) the derivatives of order 0 to 3 at each start,
        ``step`` (n) s, and a table of equal bins to find a piece. Piece 0 is the time before the
        first sample, where the input is 0.
    """
    knots, coefficients = aif.times, aif.coefficients()
    if end > knots[-1]:
        knots = np.append(knots, end)
        held = np.array([[aif.concentration[-1], 0.0, 0.0, 0.0]])
        coefficients = np.concatenate([coefficients, held])
    longest = SERIES_REACH / rate_limit if rate_limit > 0 else np.inf
    start, taylor = _refined(knots, coefficients, longest)
    step = np.diff(start)
    # Steps that differ by rounding alone are made equal, so that the kernel can share weights.
    order = np.argsort(step, kind="stable")
    jumps = np.diff(step[order]) > 1e-9 * step[order][1:]
    group = np.concatenate([[0], np.cumsum(jumps)])
    smallest = step[order][np.concatenate([[True], jumps])]
    even = np.empty_like(step)
    even[order] = smallest[group]
    start = np.concatenate([[start[0] - 1.0], start])
    taylor = np.concatenate([np.zeros((1, 4)), taylor])
    even = np.concatenate([[0.0], even])
    span = start[-1] - start[1]
    bins = int(np.clip(np.ceil(span / max(step.min(), span / MAX_BUCKETS)), 1, MAX_BUCKETS))
    rate = bins / span
    edges = start[1] + np.arange(bins) / rate
    bucket = np.clip(np.searchsorted(start[1:-1], edges, side="right"), 1, len(even) - 1)
    return {
        "start": np.ascontiguousarray(start),
        "taylor": np.ascontiguousarray(taylor),
        "step": np.ascontiguousarray(even),
        "bucket": bucket.astype(np.int32),
        "bucket_origin": float(start[1]),
        "bucket_rate": float(rate),
        "rate_limit": float(rate_limit),
    }
