"""Least squares from given starts with a parameter, or a quantity derived from some, held.

Bounded Levenberg-Marquardt in double precision over many voxels at a time, for any model, since it
knows the model by its curves alone. A parameter is held by leaving it out; a derived quantity g by
one more residual, sqrt(m) (g - value), so heavy that it is met to a part in a million of its error.
What it reaches is a minimum for the g that it has, whatever the weight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kety.fitting.bounded import bounded_step
from kety.fitting.problem import Problem
from kety.fitting.sensitivity import ExactModel

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

ITERATIONS: Final = 200
FALL: Final = 1e-9
"""Relative fall of the cost below which a voxel is done."""
FREE: Final = 1.0
"""Damping up to which a step counts as one of Gauss–Newton."""
HEAVY: Final = 1e6


@dataclass(frozen=True)
class Held:
    """A derived quantity to hold.

    ``value`` gives it (V,) and ``slopes`` its derivatives (V, P) at parameters (V, P); ``weight``
    (V,) is m.
    """

    value: Callable[[Floats], Floats]
    slopes: Callable[[Floats], Floats]
    target: Floats
    weight: Floats

    def rows(self, part: NDArray[np.intp]) -> Held:
        return Held(self.value, self.slopes, self.target[part], self.weight[part])


@dataclass(frozen=True)
class Minimum:
    """Parameters (V, P) and weighted sums of squared residuals (V,), without what holds."""

    values: Floats
    cost: Floats


def minimise(
    model: ExactModel, curves: Floats, start: Floats, free: Flags, held: Held | None = None
) -> Minimum:
    """Least squares of curves (V, T) from starts (V, P), over the parameters free in (V, P)."""
    lo, hi = model.lower, model.upper
    free = free & (hi > lo)
    values = np.clip(start, lo, hi)
    cost, objective = _costs(model, curves, values, held)
    damping = np.full(len(values), 1e-4)
    running = np.arange(len(values))
    for _ in range(ITERATIONS):
        if not len(running):
            break
        x = values[running]
        some = None if held is None else held.rows(running)
        normal, gradient = _normal_equations(model, curves[running], x, some)
        step, _ = bounded_step(~free[running], x, -gradient, normal, damping[running], lo, hi)
        tried = np.clip(x + step, lo, hi)
        new_cost, new_objective = _costs(model, curves[running], tried, some)
        before = objective[running]
        better = new_objective <= before
        # A small fall tells of a minimum only where the damping is not what makes it small.
        done = (before - new_objective <= FALL * before) & better & (damping[running] <= FREE)
        done |= damping[running] > 1e8
        taken = running[better]
        values[taken], cost[taken] = tried[better], new_cost[better]
        objective[taken] = new_objective[better]
        damping[running] = np.clip(
            np.where(better, 0.1 * damping[running], 10.0 * damping[running]), 1e-12, 1e12
        )
        running = running[~done]
    return Minimum(values, cost)


def weighted(problem: Problem, rows: Floats) -> Floats:
    """Rows (V, T, ...) times the roots of the weights, less what a constant takes up."""
    shape = (1, -1, *(1,) * (rows.ndim - 2))
    if problem.weights is None:
        return rows - rows.mean(axis=1, keepdims=True) if problem.baseline else rows
    if problem.baseline:
        mean = np.tensordot(rows, problem.weights, (1, 0)) / problem.weights.sum()
        rows = rows - np.expand_dims(mean, 1)
    return rows * np.sqrt(problem.weights).reshape(shape)


def _costs(
    model: ExactModel, curves: Floats, values: Floats, held: Held | None
) -> tuple[Floats, Floats]:
    residual = weighted(model.problem, curves - model.curves(values))
    cost = np.einsum("vt,vt->v", residual, residual)
    if held is None:
        return cost, cost.copy()
    return cost, cost + held.weight * (held.value(values) - held.target) ** 2


def _normal_equations(
    model: ExactModel, curves: Floats, values: Floats, held: Held | None
) -> tuple[Floats, Floats]:
    """J'J (V, P, P) and J'r (V, P)."""
    fitted, slopes = model.curves_and_slopes(values)
    residual = weighted(model.problem, curves - fitted)
    slopes = weighted(model.problem, slopes)
    normal = np.matmul(slopes.transpose(0, 2, 1), slopes)
    gradient = np.einsum("vtp,vt->vp", slopes, residual)
    if held is not None:
        g = np.nan_to_num(held.slopes(values), posinf=0.0, neginf=0.0)
        off = held.target - held.value(values)
        normal += held.weight[:, None, None] * g[:, :, None] * g[:, None, :]
        gradient += (held.weight * off)[:, None] * g
    return normal, gradient
