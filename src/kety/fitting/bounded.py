"""Bounded Levenberg-Marquardt for many voxels at once, on any curves and slopes.

The step, its damping, the stop and the covariance are those of the native solver (``bounded.hpp``,
``terms_fit.hpp``), in NumPy: for models whose curves cost far more than this.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Evaluate = Callable[[Doubles], tuple[Doubles, Doubles]]
"""Curves (n, T) and slopes (n, T, P) at parameters (n, P); NaN where there are none."""

WEAK_PIVOT: Final = 1e-11
"""Part of a parameter's curvature that the others must leave for it to count as determined. Above
the square of the relative error of slopes by a differential equation's solver."""
ROUNDING: Final = 1e-20
"""Part of a curve's sum of squares below which a change of the cost is nothing."""


@dataclass(frozen=True)
class Fitting:
    """What all walks share: weights (T,), whether a constant is fitted along, bounds' sizes.

    ``fixed`` (P,) parameters stay where they start; ``floor`` (P,) are changes that are nothing.
    """

    evaluate: Evaluate
    weights: Doubles
    baseline: bool
    fixed: NDArray[np.bool_]
    floor: Doubles
    ftol: float
    xtol: float


@dataclass
class Walks:
    """Where n walks stand, each with a curve of its own.

    ``p`` (n, P), weighted ``cost`` and ``plain`` sum of squares (n,), ``hessian`` J'WJ (n, P, P),
    ``slope`` J'w (n, P), fitted constant ``offset`` (n,), ``evaluations`` (n,), whether it
    ``arrived`` (n,).
    """

    p: Doubles
    cost: Doubles
    plain: Doubles
    gradient: Doubles
    hessian: Doubles
    slope: Doubles
    offset: Doubles
    evaluations: NDArray[np.intp]
    arrived: NDArray[np.bool_]

    def some(self, rows: Any) -> Walks:
        """Some of the walks."""
        return Walks(**{name: value[rows] for name, value in vars(self).items()})

    def put(self, rows: Any, other: Walks) -> None:
        """Put other walks in the places of these."""
        for name, value in vars(other).items():
            getattr(self, name)[rows] = value


def descend(
    fitting: Fitting, curves: Doubles, start: Doubles, lo: Doubles, hi: Doubles, most: int
) -> Walks:
    """Walk from each start (n, P) to its minimum between bounds (n, P), in `most` evaluations."""
    count, size = start.shape
    walks = Walks(
        start.copy(),
        np.full(count, np.inf),
        np.full(count, np.inf),
        np.zeros((count, size)),
        np.zeros((count, size, size)),
        np.zeros((count, size)),
        np.zeros(count),
        np.zeros(count, np.intp),
        np.zeros(count, bool),
    )
    trial, damping, expected = start.copy(), np.full(count, 1e-3), np.zeros(count)
    square = np.einsum("vt,vt,t->v", curves, curves, fitting.weights)
    active = np.arange(count)
    for _ in range(most):
        if not active.size:
            break
        now = normal_equations(fitting, curves[active], trial[active])
        here = walks.some(active)
        before = here.cost
        accept = np.asarray(now.cost <= before)
        with np.errstate(invalid="ignore"):
            gain = before - now.cost
        here.put(accept, now.some(accept))
        here.p[accept] = trial[active[accept]]
        here.evaluations += 1
        damping[active] = _next_damping(accept, gain, expected[active], damping[active])
        step, fall = bounded_step(
            fitting.fixed,
            here.p,
            here.gradient,
            here.hessian,
            damping[active],
            lo[active],
            hi[active],
        )
        rounding = ROUNDING * square[active]
        small = (np.abs(step) <= fitting.xtol * np.abs(here.p) + fitting.floor).all(axis=1)
        lost = ~np.isfinite(here.cost)  # a start without a curve
        done = (
            (fall <= fitting.ftol * here.cost + rounding) | small | (damping[active] > 1e6) | lost
        )
        to = here.p + step
        to = np.where(fitting.fixed, to, np.clip(to, lo[active], hi[active]))
        # The last step is taken without another evaluation; its fall is known well enough.
        last = done & small & (fall > 0) & ~lost
        with np.errstate(divide="ignore", invalid="ignore"):
            left = np.where(here.cost > 0, np.maximum(1 - fall / here.cost, 0), 1)
        share = np.where(last, left, 1.0)
        here.p = np.where(last[:, None], to, here.p)
        if fitting.baseline:
            moved = np.einsum("vp,vp->v", here.slope, step) / fitting.weights.sum()
            here.offset -= np.where(last, moved, 0.0)
        here.cost, here.plain = here.cost * share, here.plain * share
        here.arrived = done
        walks.put(active, here)
        trial[active], expected[active] = to, fall
        active = active[~done]
    return walks


def normal_equations(fitting: Fitting, curves: Doubles, p: Doubles) -> Walks:
    """Cost and its derivatives at parameters (n, P); infinite where there is no curve."""
    values, jacobian = fitting.evaluate(p)
    w, count = fitting.weights, len(p)
    bad = np.asarray(~(np.isfinite(values).all(axis=1) & np.isfinite(jacobian).all(axis=(1, 2))))
    values, jacobian = values.copy(), jacobian.copy()
    values[bad], jacobian[bad] = 0.0, 0.0
    residual = curves - values  # the model's derivative is minus this one's
    slope, offset = np.einsum("t,vtp->vp", w, jacobian), np.zeros(count)
    if fitting.baseline:
        offset = residual @ w / w.sum()
        residual = residual - offset[:, None]
        jacobian = jacobian - (slope / w.sum())[:, None]
    weighted = residual * w
    cost = np.einsum("vt,vt->v", weighted, residual)
    cost[bad] = np.inf
    return Walks(
        p,
        cost,
        np.einsum("vt,vt->v", residual, residual),
        -np.einsum("vt,vtp->vp", weighted, jacobian),
        np.einsum("vtp,vtq->vpq", jacobian * w[:, None], jacobian),
        slope,
        offset,
        np.ones(count, np.intp),
        np.zeros(count, bool),
    )


def bounded_step(
    fixed: NDArray[np.bool_],
    p: Doubles,
    gradient: Doubles,
    hessian: Doubles,
    damping: Doubles,
    lo: Doubles,
    hi: Doubles,
) -> tuple[Doubles, Doubles]:
    """The step of bounded least squares (n, P) by an active set, and the fall it predicts (n,)."""
    size = p.shape[1]
    diagonal = np.einsum("vpp->vp", hessian)
    empty = diagonal <= 1e-200
    held = empty | fixed | ((p <= lo) & (gradient > 0)) | ((p >= hi) & (gradient < 0))
    scale = 1 / np.sqrt(np.where(empty, 1.0, diagonal))
    scaled = hessian * scale[:, :, None] * scale[:, None, :]
    step = np.zeros_like(p)
    unit = np.eye(size)
    for _ in range(size + 1):
        off = np.where(held, step, 0.0)
        right = np.where(held, 0.0, -(gradient + np.einsum("vpq,vq->vp", hessian, off)) * scale)
        apart = held[:, :, None] | held[:, None, :]
        matrix = np.where(apart, 0.0, scaled) * (1 - unit) + unit * (1 + damping[:, None, None])
        target = np.linalg.solve(matrix, right[..., None])[..., 0] * scale
        move = np.where(held, 0.0, target - step)
        room = np.where(move < 0, lo - p, hi - p) - step
        beyond = ~held & ((target < lo - p) | (target > hi - p))
        with np.errstate(divide="ignore", invalid="ignore"):
            part = np.where(beyond, room / move, 2.0)
        length = np.clip(part.min(axis=1), 0.0, 1.0)
        first = part <= length[:, None]
        edge = np.where(move < 0, lo - p, hi - p)
        step = np.where(first, edge, step + length[:, None] * move)
        held = held | first
        if not (length < 1).any():
            break
    fall = -np.einsum("vp,vp->v", step, 2 * gradient + np.einsum("vpq,vq->vp", hessian, step))
    return step, fall


def _next_damping(
    accept: NDArray[np.bool_], gain: Doubles, expected: Doubles, damping: Doubles
) -> Doubles:
    more = np.maximum(4 * damping, 0.1)
    kept = np.where(gain > 0.25 * expected, damping, more)
    good = np.where(gain > 0.75 * expected, 0.1 * damping, kept)
    return np.maximum(np.where(accept, good, more), 1e-7)


def inverse_of(
    hessian: Doubles, bound: NDArray[np.bool_], fixed: NDArray[np.bool_]
) -> tuple[Doubles, NDArray[np.bool_]]:
    """Inverse (n, P, P) of J'J over the parameters that are not at a ``bound`` (n, P).

    Rows of the others are 0. Also which parameters (n, P) the data do not determine: those whose
    column depends on earlier ones, and the earlier ones that take part in it.
    """
    count, size = bound.shape
    diagonal = np.einsum("vpp->vp", hessian)
    lost = (diagonal <= 1e-200) & ~fixed
    out = bound | lost
    scale = 1 / np.sqrt(np.where(diagonal <= 1e-200, 1.0, diagonal))
    unit = np.eye(size)
    apart = out[:, :, None] | out[:, None, :]
    matrix = np.where(apart, 0.0, hessian * scale[:, :, None] * scale[:, None, :])
    matrix = matrix * (1 - unit) + unit
    factor = np.zeros((count, size, size))
    weak = np.zeros((count, size), bool)
    for i in range(size):
        pivot = matrix[:, i, i] - (factor[:, i, :i] ** 2).sum(axis=1)
        weak[:, i] = pivot < WEAK_PIVOT
        root = np.sqrt(np.where(weak[:, i], 1.0, pivot))
        factor[:, i, i] = root
        for r in range(i + 1, size):
            s = matrix[:, r, i] - (factor[:, r, :i] * factor[:, i, :i]).sum(axis=1)
            factor[:, r, i] = np.where(weak[:, i], 0.0, s / root)
    for i in range(1, size):
        # The combination of earlier columns that this one is.
        share = np.zeros((count, size))
        for q in range(i - 1, -1, -1):
            s = factor[:, i, q] - (factor[:, q + 1 : i, q] * share[:, q + 1 : i]).sum(axis=1)
            share[:, q] = s / factor[:, q, q]
            joins = weak[:, i] & ~out[:, i] & ~out[:, q]
            lost[:, q] |= joins & (np.abs(share[:, q]) > 0.01)
    inverse = np.linalg.inv(factor)
    whole = np.einsum("vqi,vqj->vij", inverse, inverse)
    gone = out | weak | lost
    whole = np.where(gone[:, :, None] | gone[:, None, :], 0.0, whole)
    return whole * scale[:, :, None] * scale[:, None, :], lost | (weak & ~out)
