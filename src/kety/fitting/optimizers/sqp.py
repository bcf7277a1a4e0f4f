"""Sequential quadratic programming (Kraft's SLSQP in SciPy) from many starts."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from kety.fitting.optimizers.base import (
    Counted,
    Floats,
    Objective,
    Optimizer,
    Solution,
    best,
    check_choice,
    check_number,
    check_whole,
    scipy_optimize,
    starting_points,
)

# Steps that balance rounding against the error of the formula, for costs exact to rounding.
DIFFERENCE_STEPS = {"forward": 2.0**-26, "central": 2.0**-17}


@dataclass(frozen=True)
class SQP(Optimizer):
    """Sequential quadratic programming from `starts` Halton points; the best end is kept.

    Attributes
    ----------
    starts : int
        Number of starting points.
    max_iterations : int
        Limit of the iterations from one start.
    ftol : float
        A start has converged when the cost changes by less than this, in the squared unit of the
        curves.
    xtol : float
        It has converged as well when no coordinate moved by more than this in one iteration, as a
        fraction of the distance between bounds.
    relative_ftol : float
        `ftol` relative to the sum of squares of the curve; the larger one counts.
    gradient : {"forward", "central"}
        Finite differences for the gradient.

    Notes
    -----
    Source: Svistoun et al., Tomography 5:209, 2019, doi 10.18383/j.tom.2018.00048. The paper ran
    Matlab's SQP.
    """

    PAPER: ClassVar[Mapping[str, Any]] = {
        "starts": 32,
        "max_iterations": 1000,
        "ftol": 1e-8,
        "xtol": 1e-8,
        "relative_ftol": 0.0,
    }

    starts: int = 16
    max_iterations: int = 1000
    ftol: float = 0.0
    xtol: float = 1e-5
    relative_ftol: float = 1e-8
    gradient: str = "central"

    def __post_init__(self) -> None:
        check_whole("starts", self.starts, 1)
        check_whole("max_iterations", self.max_iterations, 1)
        for name in ("ftol", "xtol", "relative_ftol"):
            check_number(name, getattr(self, name))
        check_choice("gradient", self.gradient, DIFFERENCE_STEPS)

    def minimise(
        self,
        objective: Objective,
        dimension: int,
        starts: ArrayLike | None = None,
        *,
        scale: float,
    ) -> Solution:
        """See `Optimizer.minimise`."""
        tolerance = max(self.ftol, self.relative_ftol * scale)
        points = starting_points(self.starts, dimension, starts)
        return best(self._search(objective, x0, tolerance, scale or 1.0) for x0 in points)

    def _search(self, objective: Objective, x0: Floats, tolerance: float, unit: float) -> Solution:
        counted = Counted(objective)
        least, place, last, settled = np.inf, x0, x0, False

        def cost_and_gradient(x: Floats) -> tuple[float, Floats]:
            nonlocal least, place
            cost, slope = differences(counted, x, self.gradient)
            if cost < least:
                least, place = cost, np.clip(x, 0.0, 1.0)
            return cost / unit, slope / unit

        def watch(x: Floats) -> None:
            nonlocal last, settled
            settled = bool(np.abs(x - last).max() <= self.xtol)
            last = x.copy()
            if settled:
                raise StopIteration

        # Not every version of SciPy takes StopIteration as the end of SLSQP.
        with suppress(StopIteration):
            result = scipy_optimize().minimize(
                cost_and_gradient,
                x0,
                jac=True,
                method="SLSQP",
                bounds=[(0.0, 1.0)] * len(x0),
                callback=watch,
                # The first step goes along the gradient: costs are made of the order of 1.
                options={"ftol": tolerance / unit, "maxiter": self.max_iterations},
            )
            settled |= bool(result.success)
        return Solution(place, least, counted.evaluations, settled)


def differences(objective: Objective, x: Floats, kind: str) -> tuple[float, Floats]:
    """Cost and gradient (n,) at `x` from one call of the objective, with no point off the box.

    Near a bound the points of ``central`` lie on one side, at one and two steps, and the slope is
    that of the parabola through the three costs: exact to the same order.
    """
    x = np.clip(x, 0.0, 1.0)
    step = DIFFERENCE_STEPS[kind]
    one = np.where(x + step <= 1.0, step, -step)
    if kind == "forward":
        costs = objective(np.vstack([x, x + np.diag(one)]))
        return float(costs[0]), (costs[1:] - costs[0]) / one
    two = np.where((x >= step) & (x + step <= 1.0), -one, 2 * one)
    costs = objective(np.vstack([x, x + np.diag(one), x + np.diag(two)]))
    near, far = (costs[1:] - costs[0]).reshape(2, -1)
    return float(costs[0]), (two * near / one - one * far / two) / (two - one)
