"""Joint estimates by the interior-point method, as in the multi-task paper: IPOPT through CasADi.

A reference: an optimiser of its own, slow beside the solver of this package, on the same exact
forward model in double precision (Wächter and Biegler, Math Program 106:25, 2006).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError, MissingDependencyError
from kety.fitting.problem import Problem
from kety.joint.energy import (
    Terms,
    checked_parameters,
    checked_terms,
    residuals,
    value_and_gradient,
)

Floats = NDArray[np.float64]
Whole = NDArray[np.intp]
Call = Callable[[list[Floats]], Sequence[float | Floats]]
"""Numbers of a CasADi function's outputs from those of its inputs, all as flat arrays."""

HESSIANS = ("bfgs", "gauss_newton")
HISTORY = 200
"""Steps that BFGS remembers, at most as many as there are unknowns."""
ROUNDING = 1e-10
"""Energy that is taken as none in scaling, relative to the squares of the curves."""
ROUNDS = 4
"""Solutions at most, each from the end of the last one and scaled there."""


@dataclass(frozen=True)
class InteriorPoint:
    """Where the interior-point method ended.

    Attributes
    ----------
    parameters : (V, P) array
        The solver's quantities, such as v, a [1/s], k [1/s], tau [s], within their bounds.
    energy : float
        Energy there (see `kety.joint.energy`).
    iterations : int
    converged : bool
        The optimality conditions are met to the tolerance, or nothing but rounding is left of the
        energy. If not, the parameters are those of least energy among all that were tried.
    message : str
        IPOPT's own word for the end, e.g. ``"Solve_Succeeded"``.
    """

    parameters: Floats
    energy: float
    iterations: int
    converged: bool
    message: str


def interior_point(
    problem: Problem,
    curves: ArrayLike,
    edges: Any,
    metric: ArrayLike,
    start: ArrayLike,
    *,
    hessian: str = "bfgs",
    tolerance: float = 1e-10,
    max_iterations: int = 3000,
) -> InteriorPoint:
    """Minimise the energy of `kety.joint.energy` within the problem's bounds.

    Where delays are free and the input begins above 0, the model jumps as a delay passes a frame;
    the method can stall beside such a jump and then says that it has not converged.

    Parameters
    ----------
    problem : Problem
        Model, input, frames, weights, baseline and bounds; equal bounds fix a parameter.
    curves : (V, T) array
    edges : (V, V) sparse or dense
        Weights of the pairs, symmetric, 0 on the diagonal.
    metric : (P, P) or (V, P, P) array
        Q in kernel units.
    start : (V, P) array
        Kernel quantities to start from; clipped to the bounds.
    hessian : {"bfgs", "gauss_newton"}
        Limited-memory BFGS, as in the paper, or the penalty's Hessian with JᵀJ for the data's.
    tolerance : float
        Of the optimality conditions, with the energy relative to its value and parameters in units
        of their curvature.
    max_iterations : int

    Returns
    -------
    InteriorPoint
        A local minimum; the energy has others.

    Raises
    ------
    MissingDependencyError
        Without CasADi.
    KetyError
        If arguments do not agree, or nothing is free.
    """
    casadi = _casadi()
    if hessian not in HESSIANS:
        raise KetyError(f"hessian must be one of {', '.join(HESSIANS)}, found {hessian!r}")
    if not 0 < tolerance < 1:
        raise KetyError(f"tolerance must be between 0 and 1, found {tolerance!r}")
    if max_iterations < 1:
        raise KetyError(f"max_iterations must be at least 1, found {max_iterations!r}")
    terms = checked_terms(problem, curves, edges, metric)
    theta, iterations = checked_parameters(start, len(terms.curves), problem.size), 0
    for _ in range(ROUNDS):
        scaled = _Scaled(terms, theta)
        left = max_iterations - iterations
        theta, end = _solve(casadi, scaled, hessian, tolerance, left)
        iterations += int(end["iter_count"])
        if not end["success"]:
            theta = scaled.best
        found = value_and_gradient(terms, theta)[0]
        # The tolerance is relative to the energy at the start, which may be far above.
        far = scaled.unit > 2.0 * found and scaled.unit > scaled.none
        if not end["success"] or not far or iterations >= max_iterations:
            break
    converged = bool(end["success"]) or found <= scaled.none
    return InteriorPoint(theta, found, iterations, converged, str(end["return_status"]))


def _solve(
    casadi: Any, scaled: _Scaled, hessian: str, tolerance: float, max_iterations: int
) -> tuple[Floats, dict[str, Any]]:
    """Kernel quantities (V, P) where IPOPT ends, and its statistics."""
    options: dict[str, Any] = {
        "no_nlp_grad": True,
        "print_time": False,
        "show_eval_warnings": False,
        "ipopt.sb": "yes",
        "ipopt.print_level": 0,
        "ipopt.tol": tolerance,
        "ipopt.acceptable_iter": 0,
        "ipopt.max_iter": max_iterations,
        "ipopt.bound_relax_factor": 0.0,
        "ipopt.nlp_scaling_method": "none",
    }
    n, failures = scaled.start.size, list[BaseException]()
    x, one, nothing = (casadi.Sparsity.dense(k, 1) for k in (n, 1, 0))
    make = partial(_function, casadi, failures)
    value = make("value", [x], [one], lambda a: scaled.value(a[0])[:1])
    slope = make("nlp_grad_f", [x, nothing], [one, x], lambda a: scaled.value(a[0]))
    options["grad_f"] = slope
    if hessian == "bfgs":
        options["ipopt.hessian_approximation"] = "limited-memory"
        options["ipopt.limited_memory_max_history"] = min(n, HISTORY)
    else:
        rows, columns, fill = scaled.curvature()
        pattern = casadi.Sparsity.triplet(n, n, rows.tolist(), columns.tolist())
        inputs = [x, nothing, one, nothing]  # x, no parameters, factor of E, no constraints
        curvature = make("nlp_hess_l", inputs, [pattern], lambda a: [a[2] * fill(a[0])])
        options["hess_lag"] = curvature
    unknowns = casadi.MX.sym("x", n)
    solver = casadi.nlpsol("joint", "ipopt", {"x": unknowns, "f": value(unknowns)}, options)
    found = solver(x0=scaled.start, lbx=scaled.lower, ubx=scaled.upper)
    if failures:
        raise failures[0]
    return scaled.theta(np.asarray(found["x"]).ravel()), solver.stats()


class _Scaled:
    """An energy over its first value, of the free parameters in units of their curvature there."""

    def __init__(self, terms: Terms, start: Floats) -> None:
        lo, hi = terms.problem.kernel_bounds()
        free = np.flatnonzero(hi > lo)
        if not free.size:
            raise KetyError("every parameter is fixed by its bounds; there is nothing to estimate")
        self.terms, self.lo, self.hi, self.free = terms, lo, hi, free
        self.whole = np.clip(start, lo, hi)
        self.best, self.least = self.whole, value_and_gradient(terms, self.whole)[0]
        # Scaled by less, rounding would keep the tolerance from being met.
        self.none = ROUNDING * float(np.sum(terms.curves**2))
        self.unit = max(self.least, self.none) or 1.0
        bend = np.diagonal(self._blocks(self.whole), axis1=1, axis2=2)
        span = np.broadcast_to((hi - lo)[free], bend.shape)
        # Where hardly anything bends the energy, the distance of the bounds is the scale.
        self.scale = np.sqrt(self.unit / np.maximum(bend, self.unit / span**2))
        self.start = (self.whole[:, free] / self.scale).ravel()
        self.lower, self.upper = ((b[free] / self.scale).ravel() for b in (lo, hi))
        self._last: tuple[bytes, list[float | Floats]] = (b"", [])

    def theta(self, x: Floats) -> Floats:
        """Kernel quantities (V, P) of the unknowns."""
        theta = self.whole.copy()
        theta[:, self.free] = x.reshape(self.scale.shape) * self.scale
        return np.clip(theta, self.lo, self.hi)

    def value(self, x: Floats) -> list[float | Floats]:
        """Energy and derivatives; IPOPT asks for them one after the other at the same place."""
        key = x.tobytes()
        if key != self._last[0]:
            theta = self.theta(x)
            e, slope = value_and_gradient(self.terms, theta)
            if e < self.least:
                self.best, self.least = theta, e
            scaled = (slope[:, self.free] * self.scale).ravel() / self.unit
            self._last = key, [e / self.unit, scaled]
        return self._last[1]

    def curvature(self) -> tuple[Whole, Whole, Callable[[Floats], Floats]]:
        """Rows and columns of the Hessian's upper triangle, and what gives its values."""
        m = self.free.size
        pairs = self.terms.edges.tocoo()
        once = pairs.row < pairs.col
        i, j = (np.asarray(k[once], dtype=np.intp) for k in (pairs.row, pairs.col))
        metric = self.terms.metric[:, self.free[:, None], self.free]
        scale = self.scale[:, :, None] * self.scale[:, None, :] / self.unit
        pull = -pairs.data[once, None, None] * (metric[i] + metric[j])
        pull *= self.scale[i][:, :, None] * self.scale[j][:, None, :] / self.unit
        own = np.arange(len(self.scale))
        first, second = (np.concatenate(k)[:, None, None] for k in ((own, i), (own, j)))
        of = np.arange(m)
        rows = np.broadcast_to(first * m + of[:, None], (len(first), m, m)).ravel()
        columns = np.broadcast_to(second * m + of, (len(second), m, m)).ravel()
        # CasADi holds the values of its pattern column by column.
        order = np.lexsort((rows, columns))
        order = order[rows[order] <= columns[order]]

        def fill(x: Floats) -> Floats:
            blocks = self._blocks(self.theta(x)) * scale
            return np.concatenate([blocks.ravel(), pull.ravel()])[order]

        return rows[order], columns[order], fill

    def _blocks(self, theta: Floats) -> Floats:
        """Second derivatives (V, m, m) within voxels, those of the data by their slopes alone."""
        slopes = residuals(self.terms.problem, self.terms.curves, theta, jacobian=True)[1]
        assert slopes is not None
        w, q = self.terms.edges, self.terms.metric
        degree: Floats = np.asarray(w.sum(axis=1))
        around: Floats = np.asarray(w @ q.reshape(len(q), -1)).reshape(q.shape)
        data: Floats = 2.0 * np.einsum("vtp,vtq->vpq", slopes, slopes)
        blocks = data + degree[:, None, None] * q + around
        return blocks[:, self.free[:, None], self.free]


def _function(
    casadi: Any,
    failures: list[BaseException],
    name: str,
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    call: Call,
) -> Any:
    """A CasADi function of given sparsities; what `call` raises is kept, since CasADi drops it."""

    class Function(casadi.Callback):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.construct(name, {})

        def get_n_in(self) -> int:
            return len(inputs)

        def get_n_out(self) -> int:
            return len(outputs)

        def get_sparsity_in(self, i: int) -> Any:
            return inputs[i]

        def get_sparsity_out(self, i: int) -> Any:
            return outputs[i]

        def eval(self, arguments: Any) -> list[Any]:
            if not failures:
                try:
                    results = call([np.asarray(a).ravel() for a in arguments])
                    return [casadi.DM(s, r) for s, r in zip(outputs, results, strict=True)]
                except BaseException as error:
                    failures.append(error)
            return [casadi.DM(s, np.full(s.nnz(), np.nan)) for s in outputs]

    return Function()


def _casadi() -> Any:
    try:
        return import_module("casadi")
    except ImportError:
        raise MissingDependencyError(
            "the interior-point method needs CasADi; install it with: "
            "pip install 'kety[interior-point]'"
        ) from None
