"""The shape of a bolus: when a curve rises, how high, how wide, and what follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

TOP: Final = 0.9
"""Frames above this share of the peak tell its time: the highest one alone is noise's choice."""
LATE: Final[tuple[float, float]] = (25.0, 100.0)
"""Seconds after the peak between which the level after the first pass is taken."""
MAD_TO_SD: Final = 1.4826


@dataclass(frozen=True)
class Bolus:
    """The first pass of a curve.

    Attributes
    ----------
    peak
        Largest value, in the curve's unit.
    peak_time
        Where it peaks, s: the centre of the frames within 10 % of the peak.
    rise_time
        When it first reaches half its peak, s.
    width
        Full width at half maximum, s; infinite where it does not fall to half within the series.
    late
        Median between 25 and 100 s after the peak over the peak; NaN without such frames.
    roughness
        Root mean square of each frame's distance from the mean of its neighbours, before the rise
        and after the first pass, over the peak; what motion and pulsation do to a curve.
    """

    peak: float
    peak_time: float
    rise_time: float
    width: float
    late: float
    roughness: float

    @property
    def rise(self) -> float:
        """Time from half the peak to the peak, s."""
        return self.peak_time - self.rise_time


def bolus_of(curve: Floats, times: Floats) -> Bolus:
    """Measure a curve (T,) that is about 0 before contrast agent, at times (T,) in s."""
    top = int(np.argmax(curve))
    peak = float(curve[top])
    if peak <= 0.0:
        return Bolus(peak, float(times[top]), float(times[top]), np.inf, np.nan, np.inf)
    first, last = _run(curve, top, TOP * peak)
    high = slice(first, last + 1)
    weights = np.gradient(times)[high] * curve[high]
    peak_time = float(np.sum(weights * times[high]) / np.sum(weights))
    left, right = _run(curve, top, 0.5 * peak)
    rise_time = float(times[0])
    if left > 0:
        rise_time = _crossing(curve, times, left - 1, 0.5 * peak)
    end = np.inf
    if right < curve.size - 1:
        end = _crossing(curve, times, right, 0.5 * peak)
    after = (times > peak_time + LATE[0]) & (times <= peak_time + LATE[1])
    late = float(np.median(curve[after]) / peak) if after.any() else np.nan
    return Bolus(
        peak,
        peak_time,
        rise_time,
        end - rise_time,
        late,
        _roughness(curve, times, rise_time, end) / peak,
    )


def _run(curve: Floats, top: int, level: float) -> tuple[int, int]:
    """First and last frame of the stretch around `top` that stays at `level` or above."""
    below = np.flatnonzero(curve < level)
    place = int(np.searchsorted(below, top))
    first = int(below[place - 1]) + 1 if place > 0 else 0
    last = int(below[place]) - 1 if place < below.size else curve.size - 1
    return first, last


def _crossing(curve: Floats, times: Floats, frame: int, level: float) -> float:
    """Where the line from `frame` to the next one crosses `level`."""
    low, high = curve[frame], curve[frame + 1]
    share = (level - low) / (high - low)
    return float(times[frame] + share * (times[frame + 1] - times[frame]))


def _roughness(curve: Floats, times: Floats, start: float, end: float) -> float:
    inner = slice(1, -1)
    share = (times[inner] - times[:-2]) / (times[2:] - times[:-2])
    apart = curve[inner] - (curve[:-2] + share * (curve[2:] - curve[:-2]))
    # The bends of the first pass itself are no roughness.
    width = end - start if np.isfinite(end) else 0.0
    calm = (times[2:] < start - 0.5 * width) | (times[:-2] > start + 2.0 * width)
    if not calm.any():
        return 0.0
    # A single frame of white noise has this much more variance than its distance's.
    factor = 1.0 + share**2 + (1.0 - share) ** 2
    return float(np.sqrt(np.mean(apart[calm] ** 2 / factor[calm])))


def noise_of(curves: Floats) -> Floats:
    """Standard deviation of the noise of curves (V, T) from their second differences, (V,)."""
    bends = np.abs(np.diff(curves, n=2, axis=1))
    return np.asarray(MAD_TO_SD / np.sqrt(6.0) * np.median(bends, axis=1))
