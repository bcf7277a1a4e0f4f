"""T1 and S0 of a block of voxels from spoiled gradient echoes with several flip angles."""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kety.signal.spgr import Angles, Float, row_sum

_GRID_RATIO: Final = 1.35
"""Step of the starting grid over R1; the profile varies on the scale of a decade of R1."""
_STEP_TOLERANCE: Final = 1e-9
_MOST_STEPS: Final = 100


class T1Status(enum.IntEnum):
    """Outcome of one voxel's T1 estimate."""

    OUTSIDE = 0
    ESTIMATED = 1
    NOT_FINITE = 2
    NO_SIGNAL = 3
    OUT_OF_RANGE = 4
    ITERATION_LIMIT = 5


T1_SENTENCES: Final[dict[T1Status, str]] = {
    T1Status.OUTSIDE: "The voxel lies outside the mask; nothing was estimated.",
    T1Status.ESTIMATED: "T1 and S0 were estimated.",
    T1Status.NOT_FINITE: "A signal is NaN or infinite, or B1 is missing or out of range.",
    T1Status.NO_SIGNAL: "The signals are zero or negative.",
    T1Status.OUT_OF_RANGE: "The best T1 lies outside the given range.",
    T1Status.ITERATION_LIMIT: "The iteration limit was reached before the fit converged.",
}


class _Profile(NamedTuple):
    """Optimum over u = 1 - E of scaled signals, each (B,)."""

    u: Float
    amplitude: Float  # S0 u, scaled
    spread: Float  # standard error of u per standard deviation of the scaled noise
    status: NDArray[np.uint8]


def estimate_block(
    signal: Float, angles: Angles, tr: float, method: str, t1_range: tuple[float, float]
) -> tuple[Float, NDArray[np.uint8]]:
    """T1, S0, standard error and residual (4, B) of `signal` (A, B)."""
    finite = np.all(np.isfinite(signal), axis=0)
    finite &= np.all(np.isfinite(angles.sine), axis=0)
    largest = signal.max(axis=0)
    usable = finite & (largest > 0.0)
    scaled = np.where(usable, signal / largest, 0.0)
    if method == "linear":
        profile = _linear(scaled, angles)
    else:
        profile = _nonlinear(scaled, angles, tr, t1_range)
    u, amplitude = profile.u, profile.amplitude

    t1 = -tr / np.log1p(-u)
    residual = scaled - amplitude * angles.sine / (angles.rest + u * angles.cosine)
    freedom = signal.shape[0] - 2
    sd = np.sqrt(row_sum(residual * residual) / freedom) if freedom else np.nan * u
    t1_se = t1 * t1 / (tr * (1.0 - u)) * profile.spread * sd

    inside = (t1 >= t1_range[0]) & (t1 <= t1_range[1]) & (amplitude > 0.0)
    status = np.where(inside, profile.status, np.uint8(T1Status.OUT_OF_RANGE))
    status[~usable] = T1Status.NO_SIGNAL
    status[~finite] = T1Status.NOT_FINITE
    return np.stack([t1, amplitude / u * largest, t1_se, sd * largest]), status


def _linear(signal: Float, angles: Angles) -> _Profile:
    """Regress S / sin a - S / tan a on S / tan a: the slope is E - 1, the intercept S0 (1 - E)."""
    x = signal * angles.cosine / angles.sine
    x -= row_sum(x) / len(x)
    square = row_sum(x * x)
    u = -row_sum(x * (signal * angles.rest / angles.sine)) / square
    inverse = (angles.rest + u * angles.cosine) / angles.sine
    amplitude = row_sum(signal * inverse) / len(x)
    spread = np.sqrt(row_sum((x * inverse) ** 2)) / square
    return _Profile(u, amplitude, spread, np.full(u.size, T1Status.ESTIMATED, dtype=np.uint8))


def _nonlinear(signal: Float, angles: Angles, tr: float, t1_range: tuple[float, float]) -> _Profile:
    """Maximise p² / n, where p = sum s g, n = sum g² and g = S / S0u, over log u."""
    count = 2 + int(np.log(t1_range[1] / t1_range[0]) / np.log(_GRID_RATIO))
    grid = np.log(-np.expm1(-tr * np.geomspace(1.0 / t1_range[1], 1.0 / t1_range[0], count)))
    best = np.full(signal.shape[1], -np.inf)
    index = np.zeros(signal.shape[1], dtype=np.intp)
    for number, u in enumerate(np.exp(grid)):
        shape = angles.sine / (angles.rest + u * angles.cosine)
        shape /= np.sqrt(row_sum(shape * shape))
        score = row_sum(signal * shape)
        index[score > best] = number
        np.maximum(best, score, out=best)

    # The optimum lies between the best grid point and its uphill neighbour.
    here = grid[index]
    uphill, _ = _derivatives(signal, angles, here)
    target = index + np.where(uphill > 0.0, 1, -1)
    status = np.full(index.size, T1Status.ESTIMATED, dtype=np.uint8)
    status[(target < 0) | (target >= count)] = T1Status.OUT_OF_RANGE
    there = grid[np.clip(target, 0, count - 1)]
    low, high = np.minimum(here, there), np.maximum(here, there)
    active = np.flatnonzero((status == T1Status.ESTIMATED) & (best > 0.0))
    for _ in range(_MOST_STEPS):
        if active.size == 0:
            break
        at = here[active]
        own = angles.take(active)
        first, second = _derivatives(signal[:, active], own, at)
        low[active] = np.where(first > 0.0, at, low[active])
        high[active] = np.where(first > 0.0, high[active], at)
        step = -first / second
        newton = (second < 0.0) & (at + step >= low[active]) & (at + step <= high[active])
        step = np.where(newton, step, 0.5 * (low[active] + high[active]) - at)
        here[active] = at + step
        active = active[np.abs(step) > _STEP_TOLERANCE]
    status[active] = T1Status.ITERATION_LIMIT

    u = np.exp(here)
    fraction = 1.0 / (angles.rest + u * angles.cosine)
    shape = angles.sine * fraction
    slope = shape * angles.cosine * fraction
    norm = row_sum(shape * shape)
    amplitude = row_sum(signal * shape) / norm
    slope -= shape * (row_sum(shape * slope) / norm)
    spread = 1.0 / (amplitude * np.sqrt(row_sum(slope * slope)))
    return _Profile(u, amplitude, spread, status)


def _derivatives(signal: Float, angles: Angles, log_u: Float) -> tuple[Float, Float]:
    """First and second derivative of log(p / sqrt n) with respect to log u.

    With w = cos a / (rest + u cos a), dg/du = -g w and d²g/du² = 2 g w².
    """
    u = np.exp(log_u)
    fraction = 1.0 / (angles.rest + u * angles.cosine)
    shape = angles.sine * fraction
    fraction *= angles.cosine
    norm = row_sum(shape * shape)
    slope = shape * fraction
    mean = row_sum(shape * slope) / norm
    square = 3.0 * row_sum(slope * slope) / norm
    weighted = signal * shape
    product = row_sum(weighted)
    weighted *= fraction
    ratio = -row_sum(weighted) / product
    curvature = 2.0 * row_sum(weighted * fraction) / product
    first = u * (ratio + mean)
    second = first + u * u * (curvature - ratio * ratio - square + 2.0 * mean * mean)
    return first, second
