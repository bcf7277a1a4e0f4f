"""The first pass of a bolus as a gamma-variate, without what recirculates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError
from kety.inputs.bolus import bolus_of
from kety.inputs.function import InputFunction

Floats = NDArray[np.float64]

FALLEN: Final = 0.5
"""The fit ends where the curve has fallen to this share of its peak: later blood recirculates."""


@dataclass(frozen=True)
class GammaVariate:
    """``peak (s exp(1 - s))^shape`` with s = (t - arrival) / rise, 0 before arrival.

    Madsen's form (Phys Med Biol 1992, doi:10.1088/0031-9155/37/7/010), whose parameters are the
    peak, in the curve's unit, and the time from arrival to it, s.
    """

    peak: float
    arrival: float
    rise: float
    shape: float

    def __call__(self, t: ArrayLike) -> Floats:
        """Evaluate at times in s, any shape."""
        s = np.maximum((np.asarray(t, dtype=np.float64) - self.arrival) / self.rise, 0.0)
        with np.errstate(under="ignore"):
            return np.asarray(self.peak * (s * np.exp(1.0 - s)) ** self.shape)

    @property
    def area(self) -> float:
        """Integral from arrival to infinity, in the curve's unit times s."""
        from scipy.special import gammaln

        a = self.shape
        return float(self.peak * self.rise * np.exp(a - (a + 1.0) * np.log(a) + gammaln(a + 1.0)))


def first_pass(aif: InputFunction) -> GammaVariate:
    """Fit a gamma-variate to a curve up to where it has fallen to half its peak.

    Raises
    ------
    KetyError
        If the curve does not fall to half, has fewer than five samples up to there, or is no
        first pass.
    """
    from scipy.optimize import least_squares

    times, values = aif.times, aif.concentration
    bolus = bolus_of(values, times)
    if not np.isfinite(bolus.width):
        raise KetyError(
            f"{_named(aif)} does not fall to half its peak before {times[-1]:g} s, so it shows no "
            "first pass whose area could be told"
        )
    end = bolus.rise_time + bolus.width
    used = times <= end
    # The first sample beyond half the peak still says how steep the fall is.
    used[min(int(np.count_nonzero(used)), used.size - 1)] = True
    if np.count_nonzero(used) < 5 or np.count_nonzero(values[used] > 0.1 * bolus.peak) < 3:
        raise KetyError(
            f"{_named(aif)} has {np.count_nonzero(used)} samples up to the end of its first pass, "
            "at least 5 are needed, three of them above a tenth of the peak; give a series with "
            "shorter intervals"
        )
    t, c = times[used], values[used]
    scale = np.array([bolus.peak, 1.0, 1.0, 1.0])

    def rest(p: Floats) -> Floats:
        return GammaVariate(*(p * scale).tolist())(t) - c

    best = None
    for share in (1.5, 2.5, 4.0):
        rise = max(share * bolus.rise, 0.5)
        start = np.array([1.0, bolus.peak_time - rise, rise, 3.0])
        lower = np.array([0.2, times[0] - bolus.width, 0.1, 0.2])
        upper = np.array([3.0, bolus.rise_time + bolus.rise, 10.0 * bolus.width + 1.0, 50.0])
        start = np.clip(start, lower + 1e-6, upper - 1e-6)
        fit = least_squares(rest, start, bounds=(lower, upper), x_scale=np.maximum(start, 0.1))
        if best is None or fit.cost < best.cost:
            best = fit
    assert best is not None
    off = float(np.sqrt(2.0 * best.cost / t.size)) / bolus.peak
    if off > 0.15:
        raise KetyError(
            f"{_named(aif)} is no first pass: a gamma-variate misses it by {100 * off:.0f} % of "
            "its peak; at most 15 % are allowed"
        )
    return GammaVariate(*(best.x * scale).tolist())


def _named(aif: InputFunction) -> str:
    return f"the curve '{aif.name}'" if aif.name else "the curve"
