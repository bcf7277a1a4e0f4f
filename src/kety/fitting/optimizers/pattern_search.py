"""Pattern search (Audet and Dennis, SIAM J Optim 13:889, 2002) by NOMAD from many starts."""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from kety.errors import MissingDependencyError
from kety.fitting.optimizers.base import (
    Floats,
    Objective,
    Optimizer,
    Solution,
    best,
    check_choice,
    check_number,
    check_whole,
    starting_points,
)

# NOMAD takes values that differ by less than this as equal.
NOMAD_EPSILON = 1e-13

# The value of points that have none; told that they failed, NOMAD can end the process.
UNUSABLE = 1e19

# NOMAD keeps its state in static variables: a second search at the same time ends the process.
_ALONE = threading.Lock()


@dataclass(frozen=True)
class PatternSearch(Optimizer):
    """Pattern search from `starts` Halton points; the best end is kept.

    Attributes
    ----------
    starts : int
        Number of starting points.
    max_iterations : int
        Limit of the polls from one start; a poll evaluates up to 2n points.
    ftol : float
        Least fall of the cost that counts as success of a poll, in the squared unit of the curves.
    xtol : float
        A start has converged when the distance of polled points, halved after every poll without
        success, is below this fraction of the distance between bounds.
    relative_ftol : float
        `ftol` relative to the sum of squares of the curve; the larger one counts.
    directions : {"coordinate", "ortho"}
        Poll along the axes, or along orthogonal directions that change (Abramson et al., SIAM J
        Optim 20:948, 2009), which follow narrow valleys.
    seed : int
        Seed of the random numbers, the same for every voxel.

    Notes
    -----
    Source: Svistoun et al., Tomography 5:209, 2019, doi 10.18383/j.tom.2018.00048. The paper ran
    Matlab's pattern search with no tolerance of its own for the points; its `xtol` here is Matlab's
    default. NOMAD 4 does not enlarge the pattern along coordinates, as Matlab does. Searches of
    several threads wait for one another; processes run side by side.
    """

    PAPER: ClassVar[Mapping[str, Any]] = {
        "starts": 32,
        "max_iterations": 1000,
        "ftol": 1e-8,
        "relative_ftol": 0.0,
        "directions": "coordinate",
    }

    starts: int = 4
    max_iterations: int = 1000
    ftol: float = 0.0
    xtol: float = 1e-6
    relative_ftol: float = 1e-8
    directions: str = "ortho"
    seed: int = 1

    def __post_init__(self) -> None:
        check_whole("starts", self.starts, 1)
        check_whole("max_iterations", self.max_iterations, 1)
        for name in ("ftol", "xtol", "relative_ftol"):
            check_number(name, getattr(self, name))
        check_number("xtol", self.xtol, 1e-12, 1.0)
        check_choice("directions", self.directions, ("coordinate", "ortho"))
        check_whole("seed", self.seed, 0)

    def minimise(
        self,
        objective: Objective,
        dimension: int,
        starts: ArrayLike | None = None,
        *,
        scale: float,
    ) -> Solution:
        """See `Optimizer.minimise`.

        Raises
        ------
        MissingDependencyError
            Without the library PyNomadBBO.
        """
        nomad = _nomad()
        tolerance = max(self.ftol, self.relative_ftol * scale, 1e-15 * scale) or NOMAD_EPSILON
        points = starting_points(self.starts, dimension, starts)
        return best(self._search(nomad, objective, x0, tolerance) for x0 in points)

    def _search(
        self, nomad: ModuleType, objective: Objective, x0: Floats, tolerance: float
    ) -> Solution:
        n = len(x0)
        budget = self.max_iterations * 2 * n
        poll = _Poll(objective, n, NOMAD_EPSILON / tolerance)
        with _ALONE:
            poll.handler = _get_handler(signal.SIGINT)
            try:
                nomad.optimize(poll, x0.tolist(), [0.0] * n, [1.0] * n, self._settings(n, budget))
            finally:
                _set_handler(signal.SIGINT, poll.handler)
        if poll.error is not None:
            raise poll.error
        return Solution(poll.x, poll.cost, poll.evaluations, poll.evaluations < budget)

    def _settings(self, n: int, budget: int) -> list[str]:
        along = self.directions == "coordinate"
        # The pattern is twice the mesh along coordinates and about its root otherwise.
        mesh = self.xtol / 2 if along else self.xtol**2
        return [
            f"DIMENSION {n}",
            "BB_OUTPUT_TYPE OBJ",
            f"BB_MAX_BLOCK_SIZE {2 * n}",
            f"MAX_BB_EVAL {budget}",
            f"MIN_MESH_SIZE ( {' '.join([repr(mesh)] * n)} )",
            "DIRECTION_TYPE CS" if along else "DIRECTION_TYPE ORTHO 2N",
            f"CS_OPTIMIZATION {'yes' if along else 'no'}",
            "QUAD_MODEL_SEARCH no",
            "NM_SEARCH no",
            "SPECULATIVE_SEARCH no",
            "EVAL_USE_CACHE no",  # looking a point up takes longer than evaluating it
            "DISPLAY_DEGREE 0",
            f"SEED {self.seed}",
        ]


class _Poll:
    """What NOMAD calls with a block of points: evaluates them in one call, keeps the best."""

    def __init__(self, objective: Objective, dimension: int, factor: float) -> None:
        self.objective, self.dimension, self.factor = objective, dimension, factor
        self.x, self.cost, self.evaluations = np.zeros(dimension), np.inf, 0
        self.error: BaseException | None = None
        self.handler: int | None = None

    def __call__(self, block: Any) -> list[bool]:
        points = [block.get_x(k) for k in range(block.size())]
        costs = np.full(len(points), UNUSABLE)
        if self.error is None:
            try:
                # NOMAD takes Ctrl-C for itself; Python is to have it.
                _set_handler(signal.SIGINT, self.handler)
                costs = np.nan_to_num(self._evaluate(points), nan=UNUSABLE, posinf=UNUSABLE)
            except BaseException as error:  # cannot pass through NOMAD; raised when it returns
                self.error = error
        for point, cost in zip(points, costs.tolist(), strict=True):
            point.setBBO(repr(cost).encode())
        return [True] * len(points)

    def _evaluate(self, points: list[Any]) -> Floats:
        axes = range(self.dimension)
        x = np.array([[point.get_coord(j) for j in axes] for point in points])
        costs = self.objective(x)
        self.evaluations += len(x)
        least = int(np.argmin(costs))
        if costs[least] < self.cost:
            self.x, self.cost = x[least], float(costs[least])
        return costs * self.factor


def _nomad() -> ModuleType:
    try:
        return import_module("PyNomad")
    except ImportError:
        raise MissingDependencyError(
            "pattern search needs NOMAD; install it with: pip install 'kety[pattern-search]'"
        ) from None


def _get_handler(number: int) -> int | None:
    call = ctypes.pythonapi.PyOS_getsig
    call.restype, call.argtypes = ctypes.c_void_p, [ctypes.c_int]
    handler: int | None = call(number)
    return handler


def _set_handler(number: int, handler: int | None) -> None:
    call = ctypes.pythonapi.PyOS_setsig
    call.restype, call.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
    call(number, handler)
