"""The same model fitted by SciPy's `least_squares`: the yardstick for optimum and speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kety.fitting.pieces import kernel_pieces
from kety.inputs import InputFunction
from kety.models import EXTENDED_TOFTS, ROLES
from kety.studies.optimization.data import NAMES, Array

ORDER = [ROLES.index(EXTENDED_TOFTS.parameter(name).role) for name in NAMES]


@dataclass(frozen=True)
class Setting:
    """What all voxels of a peer's fit share; bounds in public units, tolerances SciPy's."""

    aif: InputFunction
    times: Array
    bounds: Mapping[str, tuple[float, float]]
    tolerance: float = 1e-8
    jacobian: str = "exact"


def default_bounds() -> dict[str, tuple[float, float]]:
    """kety's own bounds of the extended Tofts model."""
    return {name: EXTENDED_TOFTS.parameter(name).bounds for name in NAMES}


def halton_starts(count: int) -> Array:
    """The first Halton points (count, 4) of the open unit box, without the origin."""
    from scipy.stats import qmc

    return np.asarray(qmc.Halton(4, scramble=False).random(count + 1)[1:])


def curve_function(setting: Setting) -> Callable[[Array], tuple[Array, Array]]:
    """Values (T,) and derivatives (T, 4) of kety's exact curve at public parameters (4,)."""
    from kety import _native

    factor = np.array([EXTENDED_TOFTS.parameter(n).kernel_factor(setting.aif) for n in NAMES])
    lo = min(setting.bounds["delay"][0], 0.0)
    pieces = kernel_pieces(
        setting.aif, setting.bounds["kep"][1] / 60.0, float(setting.times[-1]) - lo
    )
    kernel = np.empty((1, 4))
    values = np.empty((1, setting.times.size))
    slopes = np.empty((1, setting.times.size, 4))

    def curve(parameters: Array) -> tuple[Array, Array]:
        kernel[0, ORDER] = parameters * factor
        _native.forward(pieces, setting.times, kernel, values, slopes, False, 1, "")
        return values[0], slopes[0][:, ORDER] * factor

    return curve


def solver(setting: Setting) -> Callable[[Array, Array], tuple[float, Array]]:
    """A function of a measured curve and a start in the unit box: cost and public parameters."""
    from scipy.optimize import least_squares

    curve = curve_function(setting)
    lo, hi = np.array([setting.bounds[name] for name in NAMES]).T
    width = hi - lo
    options: dict[str, Any] = {"jac": "2-point"}

    def residuals(unit: Array, measured: Array) -> Array:
        return np.asarray(curve(lo + unit * width)[0] - measured)

    def slopes(unit: Array, _: Array) -> Array:
        return np.asarray(curve(lo + unit * width)[1] * width)

    if setting.jacobian == "exact":
        options["jac"] = slopes

    def solve(measured: Array, start: Array) -> tuple[float, Array]:
        found = least_squares(
            residuals,
            start,
            bounds=(0.0, 1.0),
            ftol=setting.tolerance,
            xtol=setting.tolerance,
            gtol=setting.tolerance,
            args=(measured,),
            **options,
        )
        return 2.0 * float(found.cost), lo + found.x * width

    return solve


def fit_many(setting: Setting, curves: Array, starts: Array) -> tuple[Array, Array, float]:
    """Best cost (V,) and parameters (V, 4) over the starts (n, 4) of each curve, and the s taken.

    Made for a process of its own, whose linear algebra runs on one thread.
    """
    solve = solver(setting)
    costs, parameters = np.empty(len(curves)), np.empty((len(curves), len(NAMES)))
    begin = time.perf_counter()
    for i, measured in enumerate(curves):
        tries = [solve(measured, start) for start in starts]
        costs[i], parameters[i] = min(tries, key=lambda found: found[0])
    return costs, parameters, time.perf_counter() - begin
