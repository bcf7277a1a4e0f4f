"""Sums of squares and normal equations of all voxels at given parameters, by the native kernel."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kety.fitting.engine import kernel_input

if TYPE_CHECKING:
    from kety.fitting.problem import Problem

Doubles = NDArray[np.float64]
DIAGONAL = [0, 2, 5, 9]
"""Places of the diagonal in a packed lower triangle of 4 x 4."""


@dataclass(frozen=True)
class Normals:
    """``cost`` (V,) weighted, ``unweighted`` (V,), ``gradient`` (V, 4) = J'r, packed ``hessian``
    (V, 10) = J'J, and the fitted constant ``baseline`` (V,) where the problem has one."""

    cost: Doubles
    unweighted: Doubles
    gradient: Doubles
    hessian: Doubles
    baseline: Doubles | None


@dataclass(frozen=True, eq=False)
class Voxels:
    """The curves of a joint fit and what the kernel needs to evaluate them.

    ``curves`` (V, T), finite, in the unit of the input; ``scale``: the input's, by which costs are
    divided twice inside the kernel. Parameters are v, a, k, tau in kernel units.
    """

    problem: Problem
    curves: NDArray[Any]
    scale: float
    weights: Doubles | None
    levels: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.curves)

    def subset(self, rows: NDArray[np.intp]) -> Voxels:
        """Some of the voxels."""
        return replace(self, curves=self.curves[rows])

    @property
    def weight_sum(self) -> float:
        """Sum of the kernel's weights over the frames."""
        weights = self.weights
        return float(len(self.problem.times) if weights is None else weights.sum())

    def normals(self, parameters: Doubles, precision: Doubles | None = None) -> Normals:
        """Normal equations at ``parameters`` (V, 4), in the square of the curves' unit.

        Weighted quantities refer to the weights divided by a power of two (`kernel_input`), and are
        multiplied by the ``precision`` (V,) of each voxel.
        """
        from kety import _native

        count, problem = len(self), self.problem
        lo, hi = problem.kernel_bounds()
        single = problem.dtype == np.float32
        cost, unweighted = np.empty(count), np.empty(count)
        gradient, hessian = np.empty((count, 4)), np.empty((count, 10))
        baseline = np.empty(count) if problem.baseline else None
        weights = self.weights
        solver = _native.normals_single if single else _native.normals_double
        solver(
            self.levels,
            problem.times,
            self.curves,
            None if weights is None else np.ascontiguousarray(weights, dtype=problem.dtype),
            {
                "baseline": problem.baseline,
                "weight_sum": self.weight_sum,
                "curve_scale": 1.0 / self.scale,
                "tau_lo": float(lo[3]),
                "tau_hi": float(hi[3]),
            },
            np.ascontiguousarray(parameters, dtype=np.float64),
            np.ones(count) if precision is None else precision,
            cost,
            unweighted,
            gradient,
            hessian,
            baseline,
            problem.threads,
            "",
        )
        return Normals(cost, unweighted, gradient, hessian, baseline)


def make_voxels(problem: Problem, curves: NDArray[Any]) -> Voxels:
    """Curves (V, T), all finite, ready for `Voxels.normals`."""
    scale, _, weights, levels = kernel_input(problem)
    data = np.ascontiguousarray(curves, dtype=problem.dtype)
    return Voxels(problem, data, scale, weights, levels)


def unpack(packed: Doubles) -> Doubles:
    """Symmetric matrices (..., 4, 4) from packed lower triangles (..., 10)."""
    i, j = np.tril_indices(4)
    full = np.empty((*packed.shape[:-1], 4, 4))
    full[..., i, j] = packed
    full[..., j, i] = packed
    return full


def pack(full: Doubles) -> Doubles:
    """Packed lower triangles (..., 10) of symmetric matrices (..., 4, 4)."""
    i, j = np.tril_indices(4)
    return np.ascontiguousarray(full[..., i, j])


def rows_of(normals: Normals, rows: NDArray[Any]) -> Normals:
    """The normal equations of some of the voxels."""
    every = {f.name: getattr(normals, f.name) for f in fields(Normals)}
    some: dict[str, Any] = {n: None if v is None else v[rows] for n, v in every.items()}
    return Normals(**some)


def put(normals: Normals, rows: NDArray[np.intp], part: Normals) -> None:
    """Put the normal equations of some voxels in their places."""
    for f in fields(Normals):
        target, source = getattr(normals, f.name), getattr(part, f.name)
        if target is not None:
            target[rows] = source
