"""The regular grid of a deconvolution, and curves and input on it."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Final

import numpy as np

from kety.errors import KetyError
from kety.fitting.forward import check_coverage
from kety.modelfree.weights import Floats, area_weights

if TYPE_CHECKING:
    from kety.inputs import InputFunction

_LONGEST: Final = 2048
_FEWEST_IN_PASS: Final = 2
_PRESENT: Final = 0.1
"""Share of its peak that an input may have at the first frame before it is warned of."""


def regular_grid(times: Floats, interval: float) -> Floats:
    """Regular grid from the first frame on that ends at or before the last."""
    if not (np.isfinite(interval) and interval > 0):
        raise KetyError(f"interval must be a positive number of s, found {interval!r}")
    span = times[-1] - times[0]
    count = int(np.floor(span / interval + 1e-6)) + 1
    if not 3 <= count <= _LONGEST:
        raise KetyError(
            f"an interval of {interval:g} s makes {count} grid points of the {span:g} s of the "
            f"series; expected 3 to {_LONGEST}"
        )
    return np.asarray(times[0] + interval * np.arange(count), dtype=np.float64)


def sampled_input(aif: InputFunction, times: Floats, grid: Floats) -> Floats:
    """The input in whole blood on the grid, checked to go with the frames."""
    from kety.inputs import InputFunction

    if not isinstance(aif, InputFunction):
        raise KetyError(
            f"aif must be a kety.InputFunction, found {type(aif).__name__}; "
            "make one with kety.InputFunction(times, concentration, hematocrit=..., site=...)"
        )
    check_coverage(aif, times, float(grid[-1]))
    blood = aif.blood()
    ca: Floats = blood(grid)
    peak = float(ca.max())
    if peak <= 0 or trapezoid(grid) @ ca <= 0:
        raise KetyError(
            f"the input has no positive area between {grid[0]:g} and {grid[-1]:g} s; check its "
            "times and sign"
        )
    passing = int(np.count_nonzero(blood(times) >= 0.5 * peak))
    if passing < _FEWEST_IN_PASS:
        raise KetyError(
            f"the frames are too far apart to deconvolve: {passing} of them falls where the input "
            f"is above half its peak, at least {_FEWEST_IN_PASS} are needed; fit a model instead"
        )
    if ca[0] > _PRESENT * peak:
        warnings.warn(
            f"the input is at {100 * ca[0] / peak:.0f} % of its peak at the first frame; what came "
            "before is not known to the deconvolution",
            stacklevel=4,
        )
    return ca


def resampling(times: Floats, grid: Floats) -> Floats:
    """Matrix (n, T) of straight lines between frames."""
    after = np.clip(np.searchsorted(times, grid, side="right"), 1, times.size - 1)
    share = (grid - times[after - 1]) / (times[after] - times[after - 1])
    matrix = np.zeros((grid.size, times.size))
    rows = np.arange(grid.size)
    matrix[rows, after - 1] = 1.0 - share
    matrix[rows, after] = share
    return matrix


def trapezoid(times: Floats) -> Floats:
    """Weights (T,) of the area under the lines between all samples."""
    return area_weights(times, times[0], times[-1])
