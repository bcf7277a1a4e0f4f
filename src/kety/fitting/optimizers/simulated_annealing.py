"""Simulated annealing (SciPy's generalised annealing, no local search) from many starts."""

from __future__ import annotations

from collections.abc import Mapping
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
    check_number,
    check_whole,
    scipy_optimize,
    starting_points,
)


@dataclass(frozen=True)
class SimulatedAnnealing(Optimizer):
    """Simulated annealing from `starts` Halton points; the best point met is kept.

    Attributes
    ----------
    starts : int
        Number of starting points.
    max_iterations : int
        Limit of the temperatures from one start; each one tries 2n points.
    ftol : float
        A start has converged when the best cost has not fallen by more than this, in the squared
        unit of the curves, for `stall` iterations.
    relative_ftol : float
        `ftol` relative to the sum of squares of the curve; the larger one counts.
    stall : int
        Iterations without improvement after which a start ends.
    temperature : float
        First temperature: the rise of cost accepted at first, relative to the sum of squares of
        the curve.
    visit : float
        Heaviness of the tail of the steps, above 1 and up to 3.
    accept : float
        Acceptance parameter, from -10000 to -5; the lower, the fewer rises are accepted.
    seed : int
        Seed of the random numbers, the same for every voxel.

    Notes
    -----
    Source: Svistoun et al., Tomography 5:209, 2019, doi 10.18383/j.tom.2018.00048. The paper ran
    Matlab's annealing, whose steps and cooling differ from those of SciPy (Xiang et al., Phys Lett
    A 233:216, 1997).
    """

    PAPER: ClassVar[Mapping[str, Any]] = {
        "starts": 32,
        "max_iterations": 1000,
        "ftol": 1e-8,
        "relative_ftol": 0.0,
    }

    starts: int = 2
    max_iterations: int = 1000
    ftol: float = 0.0
    relative_ftol: float = 1e-6
    stall: int = 250
    temperature: float = 1.0
    visit: float = 2.0
    accept: float = -5.0
    seed: int = 1

    def __post_init__(self) -> None:
        check_whole("starts", self.starts, 1)
        check_whole("max_iterations", self.max_iterations, 1)
        for name in ("ftol", "relative_ftol"):
            check_number(name, getattr(self, name))
        check_whole("stall", self.stall, 1)
        check_number("temperature", self.temperature, 1e-9, 1e9)
        check_number("visit", self.visit, 1.0 + 1e-6, 3.0)
        check_number("accept", self.accept, -1e4, -5.0)
        check_whole("seed", self.seed, 0)

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
        return best(
            self._search(objective, x0, tolerance, scale or 1.0, self.seed + i)
            for i, x0 in enumerate(points)
        )

    def _search(
        self, objective: Objective, x0: Floats, tolerance: float, unit: float, seed: int
    ) -> Solution:
        watch = _Watch(objective, tolerance, self.stall * 2 * len(x0))
        # SciPy accepts rises of the cost up to about a thousandth of its temperature.
        try:
            scipy_optimize().dual_annealing(
                lambda x: watch(x) / unit,
                bounds=[(0.0, 1.0)] * len(x0),
                maxiter=self.max_iterations,
                initial_temp=self.temperature,
                visit=self.visit,
                accept=self.accept,
                no_local_search=True,
                seed=seed,
                x0=x0,
            )
            converged = False
        except _Stalled:
            converged = True
        return Solution(watch.x, watch.cost, watch.counted.evaluations, converged)


class _Stalled(Exception):
    """Ends a search whose best cost has not improved for long."""


class _Watch:
    """Keeps the best point and ends the search when it stays the best for `patience` points.

    SciPy's callback hears of improvements only, so it cannot tell when there are none.
    """

    def __init__(self, objective: Objective, tolerance: float, patience: int) -> None:
        self.counted = Counted(objective)
        self.tolerance, self.patience = tolerance, patience
        self.x, self.cost = np.empty(0), np.inf
        self.level, self.since = np.inf, 0

    def __call__(self, x: Floats) -> float:
        cost = self.counted.one(x)
        if cost < self.cost:
            self.x, self.cost = np.clip(x, 0.0, 1.0), cost
        if cost < self.level - self.tolerance:
            self.level, self.since = cost, self.counted.evaluations
        if self.counted.evaluations - self.since >= self.patience:
            raise _Stalled
        return cost
