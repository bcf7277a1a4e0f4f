"""Sums of squares and normal equations of all voxels at given parameters.

Models of one exponential and of several have native kernels. Any other is taken through its curves
and their slopes by plain NumPy, which is also the slow twin of both.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from math import isqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kety.fitting.engine import kernel_input
from kety.fitting.forward import kernel_curves
from kety.fitting.problem import power_of_two
from kety.fitting.solve import problem_curves, problem_slopes
from kety.fitting.terms import TermsKernel, terms_kernel

if TYPE_CHECKING:
    from collections.abc import Callable

    from kety.fitting.cuda import Card
    from kety.fitting.problem import Problem

Doubles = NDArray[np.float64]
BLOCK = 1024
"""Voxels whose slopes plain NumPy holds at a time."""


def size_of(packed: NDArray[Any]) -> int:
    """P of packed lower triangles (..., P (P + 1) / 2)."""
    return (isqrt(8 * packed.shape[-1] + 1) - 1) // 2


def diagonal_places(size: int) -> list[int]:
    """Places of the diagonal in a packed lower triangle of size x size."""
    return [i * (i + 3) // 2 for i in range(size)]


DIAGONAL = diagonal_places(4)
"""Places for v, a, k and tau."""


def diagonal(packed: Doubles) -> Doubles:
    """Diagonals (..., P) of packed symmetric matrices (..., P (P + 1) / 2)."""
    return packed[..., diagonal_places(size_of(packed))]


@dataclass(frozen=True)
class Normals:
    """``cost`` (V,) weighted, ``unweighted`` (V,), ``gradient`` (V, P) = J'r, packed ``hessian``
    (V, P (P + 1) / 2) = J'J, and the fitted constant ``baseline`` (V,) where the problem has one.
    """

    cost: Doubles
    unweighted: Doubles
    gradient: Doubles
    hessian: Doubles
    baseline: Doubles | None


@dataclass(frozen=True, eq=False)
class Voxels:
    """The curves of a joint fit and what the kernel needs to evaluate them.

    ``curves`` (V, T), finite, in the unit of the input; ``scale``: the input's, by which costs are
    divided twice inside the kernel; ``kernel``: a model of one exponential's pieces, or all that
    one of several needs; None of a model without one. Parameters are the solver's quantities.
    """

    problem: Problem
    curves: NDArray[Any]
    scale: float
    weights: Doubles | None
    kernel: list[dict[str, Any]] | TermsKernel | None
    _model_there: dict[str, Any] = field(default_factory=dict)
    _curves_there: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.curves)

    def subset(self, rows: NDArray[np.intp]) -> Voxels:
        """Some of the voxels."""
        return replace(self, curves=self.curves[rows], _curves_there={})

    @property
    def weight_sum(self) -> float:
        """Sum of the kernel's weights over the frames."""
        weights = self.weights
        return float(len(self.problem.times) if weights is None else weights.sum())

    def normals(self, parameters: Doubles, precision: Doubles | None = None) -> Normals:
        """Normal equations at ``parameters`` (V, P), in the square of the curves' unit.

        Weighted quantities refer to the weights divided by a power of two (`kernel_input`), and are
        multiplied by the ``precision`` (V,) of each voxel.
        """
        from kety import _native

        if self.kernel is None:
            return plain_normals(self.problem, self.curves, parameters, precision)
        count, problem, size = len(self), self.problem, self.problem.size
        out = Normals(
            np.empty(count),
            np.empty(count),
            np.empty((count, size)),
            np.empty((count, size * (size + 1) // 2)),
            np.empty(count) if problem.baseline else None,
        )
        written = (out.cost, out.unweighted, out.gradient, out.hessian, out.baseline)
        theta = np.ascontiguousarray(parameters, dtype=np.float64)
        factor = np.ones(count) if precision is None else precision
        kernel, times, threads = self.kernel, problem.times, problem.threads
        if problem.card is not None:
            names = ("cost", "unweighted", "gradient", "hessian", "offset")
            outputs = dict(zip(names, written, strict=True))
            self._on_card(problem.card)(self.curves, theta, factor, outputs)
            return out
        if isinstance(kernel, TermsKernel):
            _native.terms_normals_double(
                kernel.program,
                kernel.levels,
                times,
                self.curves,
                kernel.weights,
                kernel.options(),
                theta,
                factor,
                *written,
                threads,
                "",
            )
            return out
        lo, hi = problem.kernel_bounds()
        options = self._options() | {"tau_lo": float(lo[3]), "tau_hi": float(hi[3])}
        single = problem.dtype == np.float32
        solver = _native.normals_single if single else _native.normals_double
        weights = self.weights
        if weights is not None:
            weights = np.ascontiguousarray(weights, dtype=problem.dtype)
        solver(kernel, times, self.curves, weights, options, theta, factor, *written, threads, "")
        return out

    def _options(self) -> dict[str, Any]:
        return {
            "baseline": self.problem.baseline,
            "weight_sum": self.weight_sum,
            "curve_scale": 1.0 / self.scale,
        }

    def _on_card(self, card: Card) -> Callable[..., None]:
        """What forms the normal equations on a card; model and curves are brought there once."""
        from kety.fitting.cuda.normals import CurvesOnCard, NormalsOnCard

        kernel = self.kernel
        if isinstance(kernel, TermsKernel):
            return kernel.on_card(np.float64).normals
        assert kernel is not None
        if not self._model_there:
            dtype = self.problem.dtype
            self._model_there["model"] = NormalsOnCard(
                card, kernel, self.problem.times, self.weights, self._options(), dtype
            )
        if not self._curves_there:
            self._curves_there["curves"] = CurvesOnCard(self._model_there["model"], self.curves)
        normals: Callable[..., None] = self._curves_there["curves"].normals
        return normals


def make_voxels(problem: Problem, curves: NDArray[Any]) -> Voxels:
    """Curves (V, T), all finite, ready for `Voxels.normals`.

    Parameters of models of several terms depend on each other so much that their normal equations
    are formed in double precision, whatever the problem's.
    """
    if problem.by_ode:
        weights = None if problem.weights is None else plain_weights(problem)
        data = np.ascontiguousarray(curves, dtype=np.float64)
        return Voxels(problem, data, problem.scale, weights, None)
    if problem.by_terms:
        kernel = terms_kernel(problem)
        data = np.ascontiguousarray(curves, dtype=np.float64)
        return Voxels(problem, data, kernel.scale, kernel.weights, kernel)
    scale, _, weights, levels = kernel_input(problem)
    data = np.ascontiguousarray(curves, dtype=problem.dtype)
    return Voxels(problem, data, scale, weights, levels)


def plain_weights(problem: Problem) -> Doubles:
    """Weights (T,) of the frames divided by a power of two, as in `kernel_input`."""
    if problem.weights is None:
        return np.ones(len(problem.times))
    return problem.weights / power_of_two(float(problem.weights.max()))


def plain_normals(
    problem: Problem, curves: NDArray[Any], parameters: Doubles, precision: Doubles | None = None
) -> Normals:
    """`Voxels.normals` by curves and slopes, for any model; arguments and results as there."""
    weights = plain_weights(problem)
    parts = []
    for first in range(0, max(len(curves), 1), BLOCK):
        values, slopes = problem_slopes(problem, parameters[first : first + BLOCK])
        r = values - curves[first : first + BLOCK]
        offset = np.zeros(len(r))
        if problem.baseline:
            share = weights / weights.sum()
            offset = -(r @ share)
            r = r + offset[:, None]
            slopes = slopes - np.einsum("t,vtp->vp", share, slopes)[:, None]
        weighted = weights[:, None] * slopes
        part = Normals(
            (r * r) @ weights,
            np.einsum("vt,vt->v", r, r),
            np.einsum("vtp,vt->vp", weighted, r),
            pack(np.einsum("vtp,vtq->vpq", weighted, slopes)),
            offset if problem.baseline else None,
        )
        parts.append(part)
    every = {f.name: [getattr(part, f.name) for part in parts] for f in fields(Normals)}
    joined: dict[str, Any] = {
        name: None if values[0] is None else np.concatenate(values)
        for name, values in every.items()
    }
    whole = Normals(**joined)
    return whole if precision is None else weighted_normals(whole, precision)


def weighted_normals(normals: Normals, factor: Doubles) -> Normals:
    """Cost, gradient and Hessian times a factor (V,) of each voxel."""
    return replace(
        normals,
        cost=normals.cost * factor,
        gradient=normals.gradient * factor[:, None],
        hessian=normals.hessian * factor[:, None],
    )


def exact_curves(problem: Problem, parameters: Doubles) -> Doubles:
    """Curves (V, T) of the exact model, in double precision."""
    if problem.by_terms:
        return problem_curves(replace(problem, dtype=np.dtype(np.float64)), parameters)
    return kernel_curves(problem.aif, problem.times, parameters, threads=problem.threads)[0]


def predicted(problem: Problem, frames: NDArray[np.intp], parameters: Doubles) -> Doubles:
    """The model's curves (V, n) at some of the frames."""
    if problem.by_terms:  # what the tissue holds at first is told from the first frame on
        return problem_curves(problem, parameters)[:, frames]
    times = problem.times[frames]
    return kernel_curves(problem.aif, times, parameters, dtype="float32", threads=problem.threads)[
        0
    ]


def unpack(packed: Doubles) -> Doubles:
    """Symmetric matrices (..., P, P) from packed lower triangles (..., P (P + 1) / 2)."""
    size = size_of(packed)
    i, j = np.tril_indices(size)
    full = np.empty((*packed.shape[:-1], size, size))
    full[..., i, j] = packed
    full[..., j, i] = packed
    return full


def pack(full: Doubles) -> Doubles:
    """Packed lower triangles (..., P (P + 1) / 2) of symmetric matrices (..., P, P)."""
    i, j = np.tril_indices(full.shape[-1])
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
