"""Which estimates the data do not determine, by the errors of those they depend on.

A rate tells nothing where its amplitude could as well be 0, and the confidence interval of a ratio
has no end where its denominator could (Fieller, J R Stat Soc B 16:175, 1954). Linearised errors do
not show this, since at the estimate itself everything is smooth; so every parameter names what it
needs (`Parameter.needs`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kety.fitting.problem import Problem
from kety.fitting.status import FITTED, Status
from kety.models import Derived, Parameter

NEEDED: Final = 3.2
"""What others need exceeds so many of its standard errors. More than the 1.96 of a single test: an
amplitude is estimated with the rate that fits best, which makes it larger, and the error of a
transit that the frames do not resolve is skewed."""
DENOMINATOR: Final = 1.96
"""A denominator exceeds so many, or the 95 % interval of the ratio has no end."""


def lost_by_needs(
    problem: Problem,
    status: NDArray[np.uint8],
    values: Mapping[str, NDArray[Any]],
    errors: Mapping[str, NDArray[Any]],
) -> dict[str, NDArray[np.bool_]]:
    """Where (V,) each quantity is not determined for want of what it needs.

    ``values`` and ``errors`` (V,) of all parameters and derived quantities, in public units. An
    estimate without an error counts as known unless it is 0: it is fixed, or at its upper bound.
    """
    fitted = np.isin(status, [s.value for s in FITTED])

    def known(name: str, level: float) -> NDArray[np.bool_]:
        value, error = values[name], errors[name]
        with np.errstate(invalid="ignore"):
            return np.where(np.isnan(error), value > 0, value > level * error)

    lost = {}
    fixed = {name for name, (lo, hi) in problem.bounds.items() if not hi > lo}
    quantities: tuple[Parameter | Derived, ...] = (*problem.parameters, *problem.model.derived)
    for quantity in quantities:
        if quantity.name in fixed or not (quantity.needs or quantity.over):
            continue
        lacking = [np.zeros(len(status), np.bool_)]
        for group in quantity.needs:
            present = [name for name in group if name in values]
            if not fixed.issuperset(present):
                lacking.append(~np.any([known(name, NEEDED) for name in present], axis=0))
        lacking += [~known(name, DENOMINATOR) for name in quantity.over]
        without: NDArray[np.bool_] = np.any(lacking, axis=0)
        if isinstance(quantity, Parameter) and quantity.is_delay:
            lower, upper = problem.bounds[quantity.name]
            if lower > quantity.bounds[0] or upper < quantity.bounds[1]:
                # At a bound that is tighter than it need be, that is what to see to, unless there
                # is no enhancement at all.
                without &= ~np.isnan(errors[quantity.name]) | np.all(lacking[1:], axis=0)
        lost[quantity.name] = without & fitted
    return lost


def with_lost(status: NDArray[np.uint8], lost: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Statuses where some quantity is lost: not identifiable, unless the fit did not converge."""
    converged = (status == Status.CONVERGED) | (status == Status.AT_BOUND)
    return np.where(lost & converged, np.uint8(Status.NOT_IDENTIFIABLE), status)
