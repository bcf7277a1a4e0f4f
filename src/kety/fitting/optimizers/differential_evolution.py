"""Differential evolution (Price, Storn and Lampinen, Springer 2005)."""

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
    check_choice,
    check_number,
    check_whole,
    halton_starts,
    scipy_optimize,
    starting_points,
)

STRATEGIES = ("rand1bin", "best1bin")


@dataclass(frozen=True)
class DifferentialEvolution(Optimizer):
    """Differential evolution of one population that starts from Halton points.

    Attributes
    ----------
    population : int
        Number of members.
    max_iterations : int
        Limit of the generations.
    ftol : float
        Converged when the costs in the population differ by no more than this, in the squared unit
        of the curves.
    relative_ftol : float
        `ftol` relative to the sum of squares of the curve; the larger one counts.
    weight : float
        Factor of the difference of two members, Price's F.
    crossover : float
        Probability that a coordinate is taken from the mutant, Price's CR.
    seed : int
        Seed of the random numbers, the same for every voxel.
    strategy : {"rand1bin", "best1bin"}
        The member to which the difference is added: any, or the best.
    backend : {"native", "scipy"}
        kety's own core, or `scipy.optimize.differential_evolution` voxel by voxel.

    Notes
    -----
    Source: Svistoun et al., Tomography 5:209, 2019, doi 10.18383/j.tom.2018.00048. The paper does
    not state F and CR; the values here are set in the code that accompanies the book of Price et
    al., which the paper ran.
    """

    PAPER: ClassVar[Mapping[str, Any]] = {
        "population": 64,
        "max_iterations": 1000,
        "ftol": 1e-8,
        "relative_ftol": 0.0,
    }

    population: int = 32
    max_iterations: int = 1000
    ftol: float = 0.0
    relative_ftol: float = 1e-6
    weight: float = 0.85
    crossover: float = 1.0
    seed: int = 1
    strategy: str = "rand1bin"
    backend: str = "native"

    def __post_init__(self) -> None:
        check_whole("population", self.population, 5)
        check_whole("max_iterations", self.max_iterations, 1)
        for name in ("ftol", "relative_ftol"):
            check_number(name, getattr(self, name))
        check_number("weight", self.weight, 0.0, 2.0)
        check_number("crossover", self.crossover, 0.0, 1.0)
        check_whole("seed", self.seed, 0)
        check_choice("strategy", self.strategy, STRATEGIES)
        check_choice("backend", self.backend, ("native", "scipy"))

    def minimise(
        self,
        objective: Objective,
        dimension: int,
        starts: ArrayLike | None = None,
        *,
        scale: float,
    ) -> Solution:
        """See `Optimizer.minimise`; `starts` replace the first members of the population."""
        if self.backend != "scipy":
            raise KetyError(
                f"the backend {self.backend!r} solves blocks of voxels; "
                "only backend='scipy' minimises an objective"
            )
        tolerance = max(self.ftol, self.relative_ftol * scale)
        counted = Counted(objective)

        def settled(intermediate_result: Any) -> bool:
            return float(np.ptp(intermediate_result.population_energies)) <= tolerance

        result = scipy_optimize().differential_evolution(
            lambda columns: counted(np.ascontiguousarray(columns.T)),
            bounds=[(0.0, 1.0)] * dimension,
            strategy=self.strategy,
            maxiter=self.max_iterations,
            init=self._first_population(dimension, starts),
            mutation=self.weight,
            recombination=self.crossover,
            tol=0.0,
            atol=0.0,
            polish=False,
            updating="deferred",
            vectorized=True,
            callback=settled,
            seed=self.seed,
        )
        return Solution(result.x, float(result.fun), counted.evaluations, settled(result))

    def _first_population(self, dimension: int, starts: ArrayLike | None) -> Floats:
        members = halton_starts(self.population, dimension).copy()
        if starts is not None:
            given = starting_points(0, dimension, starts)
            if len(given) > len(members):
                raise KetyError(f"{len(given)} starts exceed the population of {len(members)}")
            members[: len(given)] = given
        return members
