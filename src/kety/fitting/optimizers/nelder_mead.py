"""The downhill simplex of Nelder and Mead (Comput J 7:308, 1965) from many starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from kety.errors import KetyError
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


@dataclass(frozen=True)
class NelderMead(Optimizer):
    """Downhill simplex from `starts` Halton points; the best end is kept.

    Attributes
    ----------
    starts : int
        Number of starting points.
    max_iterations : int
        Limit of the iterations from one start.
    ftol : float
        A start has converged when the costs of its simplex differ by no more than this, in the
        squared unit of the curves, and its points by no more than `xtol`.
    xtol : float
        Largest difference of coordinates, as a fraction of the distance between bounds.
    relative_ftol : float
        `ftol` relative to the sum of squares of the curve; the larger one counts.
    step : float
        Edge of the first simplex, as a fraction of the distance between bounds.
    backend : {"native", "scipy"}
        kety's own core, or `scipy.optimize.minimize` voxel by voxel.

    Notes
    -----
    Source: Svistoun et al., Tomography 5:209, 2019, doi 10.18383/j.tom.2018.00048.
    """

    PAPER: ClassVar[Mapping[str, Any]] = {
        "starts": 32,
        "max_iterations": 1000,
        "ftol": 1e-8,
        "xtol": 1e-8,
        "relative_ftol": 0.0,
    }

    starts: int = 12
    max_iterations: int = 1000
    ftol: float = 0.0
    xtol: float = 1e-4
    relative_ftol: float = 1e-6
    step: float = 0.25
    backend: str = "native"

    def __post_init__(self) -> None:
        check_whole("starts", self.starts, 1)
        check_whole("max_iterations", self.max_iterations, 1)
        for name in ("ftol", "xtol", "relative_ftol"):
            check_number(name, getattr(self, name))
        check_number("step", self.step, 1e-6, 0.5)
        check_choice("backend", self.backend, ("native", "scipy"))

    def minimise(
        self,
        objective: Objective,
        dimension: int,
        starts: ArrayLike | None = None,
        *,
        scale: float,
    ) -> Solution:
        """See `Optimizer.minimise`; serves the backend ``scipy``."""
        if self.backend != "scipy":
            raise KetyError(
                f"the backend {self.backend!r} solves blocks of voxels; "
                "only backend='scipy' minimises an objective"
            )
        tolerance = max(self.ftol, self.relative_ftol * scale)
        points = starting_points(self.starts, dimension, starts)
        return best(self._search(objective, x0, tolerance) for x0 in points)

    def _search(self, objective: Objective, x0: Floats, tolerance: float) -> Solution:
        counted = Counted(objective)
        result = scipy_optimize().minimize(
            counted.one,
            x0,
            method="Nelder-Mead",
            bounds=[(0.0, 1.0)] * len(x0),
            options={
                "initial_simplex": first_simplex(x0, self.step),
                "maxiter": self.max_iterations,
                "fatol": tolerance,
                "xatol": self.xtol,
            },
        )
        return Solution(result.x, float(result.fun), counted.evaluations, bool(result.success))


def first_simplex(x0: Floats, step: float) -> Floats:
    """Simplex (n + 1, n) of `x0` and a step along each axis, turned back where it would leave."""
    edges = np.where(x0 + step <= 1.0, step, -step)
    return np.vstack([x0, x0 + np.diag(edges)])
