"""Errors along a parameter whose likelihood is no parabola.

``s^2 (J'J)^-1`` knows the tangent at the estimate. Where the valley of the sum of squares S is
bent, or has a second minimum within the noise, estimates stray farther than it says. A model names
the parameter x along which that happens (`Model.profiled`), and the fit looks: x is held at growing
distances from its estimate and all others are fitted again. The variance of x becomes the second
moment of the profile likelihood about the estimate, between the bounds,

    V = int (x - x^)^2 L(x) dx / int L(x) dx,    L(x) = exp(-(S(x) - S(x^)) / 2 s^2),

which is the usual variance v where S is a parabola. The errors of the others for a given x stay as
they are, and what they owe to x grows with it: with the column c of x the covariance becomes
C + (V / v - 1) c c' / v.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from kety.fitting.constrained import weighted
from kety.fitting.engine import KernelFit, Solve, packed, rows_of
from kety.fitting.identifiability import with_lost
from kety.fitting.pairs import Starts
from kety.fitting.sensitivity import ExactModel
from kety.fitting.terms import solve_from, terms_kernel

if TYPE_CHECKING:
    from kety.fitting.optimizers.varprolm import VarProLM
    from kety.fitting.problem import Problem

DISTANCES: Final = (0.75, 1.5, 2.5, 4.0, 7.0, 12.0, 20.0)
"""Where the profile is looked at, in standard errors."""
COARSEST: Final = 1.0 / 8.0
"""Most of the bounds' range that counts as one standard error there."""
ENOUGH: Final = 9.0
"""Rise of the sum of squares, in variances of the noise, at which a side is left: L is 0.01."""
ALLOWED: Final = 3.84
"""Rise up to which a value is in the 95 % interval."""
FTOL: Final = 1e-3
"""Precision of the profile's fits: 0.03 in the rise, of 30 frames."""
EVALUATIONS: Final = 16
"""Most of each, which starts next to its minimum."""
LEAST: Final = 0.1
"""Least share of the usual variance: below, rounding could leave others a negative one."""
POINTS: Final = 8
"""Of the quadrature, between two values of the profile."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Side:
    """One side of V profiles: places and rises (V, K), growing outwards; where a walk ended it
    stays. ``evaluations`` (V,) of the model."""

    at: Floats
    rise: Floats
    evaluations: NDArray[np.int64]


def with_profiled_errors(problem: Problem, options: VarProLM, solve: Solve) -> Solve:
    """The same solver, with errors along the parameter that its model names.

    A voxel is not identifiable where the 95 % interval holds all that the model allows.
    """
    name = problem.model.profiled
    lower, upper = problem.bounds[name]
    if not upper > lower:
        return solve
    slot = problem.slot(name)
    own = problem.model.parameter(name)
    allowed = np.array(own.bounds) * problem.factor(own)
    walk = _walker(problem, options, slot)

    def profiled(curves: NDArray[Any]) -> KernelFit:
        result = solve(curves)
        usual = result.covariance[:, packed(slot, slot)].astype(np.float64)
        with np.errstate(invalid="ignore"):
            rows = np.flatnonzero((usual > 0) & np.isfinite(usual) & (result.cost > 0))
        if not len(rows):
            return result
        part = rows_of(result, rows)
        below, above = (walk(np.asarray(curves)[rows], part, side) for side in (-1.0, 1.0))
        moment = second_moment(part.parameters[:, slot].astype(np.float64), below, above)
        result.covariance[rows] = stretched(part.covariance, slot, moment)
        spent = part.evaluations + below.evaluations + above.evaluations
        result.evaluations[rows] = np.minimum(spent, np.iinfo(result.evaluations.dtype).max)
        anything = (below.at[:, -1] <= allowed[0]) & (above.at[:, -1] >= allowed[1])
        anything &= (below.rise[:, -1] < ALLOWED) & (above.rise[:, -1] < ALLOWED)
        result.status[rows] = with_lost(part.status, anything)
        return result

    return profiled


def _walker(
    problem: Problem, options: VarProLM, slot: int
) -> Callable[[NDArray[Any], KernelFit, float], Side]:
    """What walks one side of the profiles of fitted curves."""
    kernel = terms_kernel(problem, held=(problem.parameters[slot].name,))
    quick = replace(options, ftol=FTOL, max_evaluations=EVALUATIONS)
    lo, hi = problem.kernel_bounds()
    band = np.ravel([[lo[slot], hi[slot]] for slot in kernel.program["jumps"]])
    used = len(problem.times) if problem.weights is None else int((problem.weights > 0).sum())
    spare = used - problem.free_count - problem.baseline
    exact = ExactModel(problem)

    def cost(curves: NDArray[Any], found: KernelFit) -> Floats:
        if problem.weights is None:
            return found.cost.astype(np.float64)
        residual = weighted(problem, curves - exact.curves_of(found.parameters))
        return np.asarray(np.einsum("vt,vt->v", residual, residual))

    def walk(curves: NDArray[Any], best: KernelFit, side: float) -> Side:
        count, size = best.parameters.shape
        place = best.parameters.astype(np.float64)
        centre, least = place[:, slot].copy(), cost(curves, best)
        columns = best.covariance[:, packed(slot, np.arange(size))]
        column = np.nan_to_num(columns.astype(np.float64))
        variance = column[:, slot]
        unit = np.minimum(np.sqrt(variance), COARSEST * (hi[slot] - lo[slot]))
        at = np.tile(centre[:, None], len(DISTANCES) + 1)
        rise = np.zeros(at.shape)
        evaluations = np.zeros(count, np.int64)
        running = np.arange(count)
        for k, distance in enumerate(DISTANCES):
            target = np.clip(centre + side * distance * unit, lo[slot], hi[slot])
            running = running[(target != at[:, k])[running] & (rise[running, k] < ENOUGH)]
            at[:, k + 1], rise[:, k + 1] = at[:, k], rise[:, k]
            if not len(running):
                continue
            start = place[running]
            if k == 0:  # along the tangent
                ahead = (target[running] - centre[running]) / variance[running]
                start += column[running] * ahead[:, None]
            start = np.clip(start, lo, hi)
            start[:, slot] = target[running]
            starts = Starts(np.arange(len(running) + 1), start, np.tile(band, (len(running), 1)))
            found = solve_from(kernel, quick, curves[running], starts, problem.dtype, held=(slot,))
            at[running, k + 1] = target[running]
            above = (cost(curves[running], found) - least[running]) * spare / least[running]
            rise[running, k + 1] = np.where(np.isfinite(above), np.maximum(above, 0.0), np.inf)
            place[running] = found.parameters
            evaluations[running] += found.evaluations
        return Side(at, rise, evaluations)

    return walk


def second_moment(centre: Floats, below: Side, above: Side) -> Floats:
    """Second moments (V,) of profile likelihoods about their centres (V,).

    The root of the rise is interpolated linearly, which is exact for a parabola.
    """
    at = np.concatenate([below.at[:, :0:-1], above.at], axis=1) - centre[:, None]
    root = np.sqrt(np.concatenate([below.rise[:, :0:-1], above.rise], axis=1))
    root = np.minimum(root, 1e3)  # infinite where a fit failed: no likelihood there
    share = (np.arange(POINTS) + 0.5) / POINTS
    width = np.diff(at, axis=1)[:, :, None]
    x = at[:, :-1, None] + share * width
    between = root[:, :-1, None] + share * np.diff(root, axis=1)[:, :, None]
    weight = np.exp(-0.5 * between**2) * width
    total = weight.sum(axis=(1, 2))
    return np.asarray((weight * x * x).sum(axis=(1, 2)) / np.where(total > 0, total, np.nan))


def stretched(covariance: NDArray[Any], slot: int, variance: Floats) -> NDArray[Any]:
    """Packed covariances (V, P (P + 1) / 2) with another variance (V,) of one parameter.

    Unknown variances (NaN) leave a covariance as it is.
    """
    out = covariance.astype(np.float64)
    size = int(np.sqrt(2 * covariance.shape[1]))
    column = out[:, packed(slot, np.arange(size))]
    usual = column[:, slot]
    with np.errstate(invalid="ignore", divide="ignore"):
        growth = (np.maximum(variance / usual, LEAST) - 1.0) / usual
    growth = np.where(np.isfinite(growth), growth, 0.0)
    column = np.nan_to_num(column)
    for i in range(size):
        for j in range(i + 1):
            out[:, packed(i, j)] += growth * column[:, i] * column[:, j]
    return out.astype(covariance.dtype)
