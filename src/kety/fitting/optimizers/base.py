"""What the optimisers share: starts, presets, checks and the form of a solution.

An optimiser searches the unit box [0, 1]^n for the least cost. Its objective takes points (m, n)
and returns their costs (m,), finite everywhere, so that many points cost little more than one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError

Floats = NDArray[np.float64]
Objective = Callable[[Floats], Floats]


class Solution(NamedTuple):
    """The best point that a search found.

    Attributes
    ----------
    x : (n,) array
        The point, in the unit box.
    cost : float
        The objective there.
    evaluations : int
        Points evaluated, over all starts.
    converged : bool
        The best start met its tolerances before its limit of iterations.
    """

    x: Floats
    cost: float
    evaluations: int
    converged: bool


@dataclass(frozen=True)
class Optimizer(ABC):
    """Options of a search of the unit box; its defaults are the preset ``default``."""

    PAPER: ClassVar[Mapping[str, Any]]
    """Options of the preset ``paper``: table 3 of Svistoun et al., Tomography 5:209, 2019,
    doi 10.18383/j.tom.2018.00048."""

    @classmethod
    def preset(cls, name: str) -> Self:
        """Options by name: ``paper``, as published, or ``default``, as exact where noise rules."""
        presets: dict[str, Mapping[str, Any]] = {"paper": cls.PAPER, "default": {}}
        check_choice("preset", name, presets)
        return cls(**presets[name])

    @property
    def start_count(self) -> int:
        """Number of points that a search begins from."""
        options = vars(self)
        return int(options["population"] if "population" in options else options["starts"])

    @abstractmethod
    def minimise(
        self,
        objective: Objective,
        dimension: int,
        starts: ArrayLike | None = None,
        *,
        scale: float,
    ) -> Solution:
        """Search the unit box for the least cost.

        Parameters
        ----------
        objective : callable
            Costs (m,) of points (m, n).
        dimension : int
            n, at least 1.
        starts : (k, n) array, optional
            Points to start from instead of Halton's.
        scale : float
            Sum of squares of the curve, to which `relative_ftol` refers.

        Raises
        ------
        KetyError
            For starts of another shape or outside the box.
        """


class Counted:
    """An objective that counts its points and can be asked for one."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self.evaluations = 0

    def __call__(self, points: Floats) -> Floats:
        self.evaluations += len(points)
        return self._objective(points)

    def one(self, x: Floats) -> float:
        """Cost of a single point (n,), moved into the box where rounding left it."""
        return float(self(np.clip(x, 0.0, 1.0)[None])[0])


def best(solutions: Iterable[Solution]) -> Solution:
    """The solution of least cost, with the evaluations of all."""
    found = list(solutions)
    winner = min(found, key=lambda s: s.cost)
    return winner._replace(evaluations=sum(s.evaluations for s in found))


def scipy_optimize() -> Any:
    """`scipy.optimize`, loaded when it is needed; Any, as its stubs refuse what it accepts."""
    import scipy.optimize

    return scipy.optimize


@lru_cache(maxsize=64)
def halton_starts(count: int, dimension: int, seed: int | None = None) -> Floats:
    """Halton's quasi-random points (count, dimension) in the unit cube, read-only.

    Without a seed they are the plain sequence from its second point, since the first is a corner
    of the cube; with a seed they are scrambled.
    """
    from scipy.stats import qmc

    sequence = qmc.Halton(dimension, scramble=seed is not None, seed=seed)
    if seed is None:
        sequence.fast_forward(1)
    points: Floats = sequence.random(count)
    points.flags.writeable = False
    return points


def starting_points(count: int, dimension: int, starts: ArrayLike | None) -> Floats:
    """The caller's starts (k, n), checked, or `count` points of Halton's sequence."""
    if starts is None:
        return halton_starts(count, dimension)
    points = np.array(starts, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != dimension or not len(points):
        raise KetyError(f"starts must have shape (k, {dimension}), found {points.shape}")
    if not ((points >= 0) & (points <= 1)).all():
        raise KetyError("starts must lie in the unit box; scale parameters by their bounds")
    return points


def check_whole(name: str, value: object, least: int) -> None:
    """Refuse anything but a whole number from `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise KetyError(f"{name} must be a whole number from {least}, found {value!r}")


def check_number(name: str, value: object, low: float = 0.0, high: float = np.inf) -> None:
    """Refuse anything but a finite number from `low` to `high`."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high or value in (np.inf, -np.inf):  # type: ignore[operator]
        expected = f"from {low:g} to {high:g}" if np.isfinite(high) else f"not below {low:g}"
        raise KetyError(f"{name} must be a number {expected}, found {value!r}")


def check_choice(name: str, value: object, valid: Iterable[str]) -> None:
    """Refuse anything but one of the `valid` words."""
    choices = list(valid)
    if value not in choices:
        raise KetyError(f"unknown {name} {value!r}; valid: {', '.join(choices)}")
