"""Fits of a user's differential equations: a table of curves, then Levenberg-Marquardt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from kety.errors import KetyError
from kety.fitting.bounded import Fitting, Walks, descend, inverse_of
from kety.fitting.dictionary import delay_cells
from kety.fitting.engine import KernelFit, Solve, no_fit
from kety.fitting.ode import explain_unsolved, ode_curves
from kety.fitting.optimizers.base import halton_starts
from kety.fitting.pairs import bands_of
from kety.fitting.problem import Problem
from kety.fitting.status import Status
from kety.fitting.terms import SMALLEST
from kety.models.ode import OdeModel

if TYPE_CHECKING:
    from kety.fitting.optimizers.varprolm import VarProLM

Doubles = NDArray[np.float64]

SAMPLES: Final = 1024
"""Curves of the table, at Halton's points between the bounds."""
STARTS: Final = 5
FINALISTS: Final = 2
"""Points of the table that each voxel starts from, and those that are followed to the end."""
TRIES: Final = 6
"""Evaluations after which that is decided."""
APART: Final = 0.1
"""Starts of a voxel differ in some parameter by this part of its range."""
WIDE: Final = 100.0
CROWDING: Final = 4
"""Between bounds of this ratio the points crowd towards the lower one, by this power."""
VOXELS: Final = 512
"""Voxels that are solved together."""
RANK_ERROR: Final = 1e-3
"""Part of the table's norm that curves of the model may have outside its subspace."""


@dataclass(frozen=True)
class _Table:
    """Points (N, P), their curves weighted and freed of a baseline (N, T), and a basis (T, r) of
    these."""

    points: Doubles
    curves: Doubles
    basis: Doubles


def prepare_ode(problem: Problem, options: VarProLM) -> Solve:
    """Build what all voxels share and return the solver of a block of curves (V, T)."""
    fitting = _fitting(problem, options)
    table = _table(problem, fitting)

    def solve(curves: NDArray[Any]) -> KernelFit:
        result = no_fit(problem, len(curves))
        for first in range(0, len(curves), VOXELS):
            part = np.arange(first, min(first + VOXELS, len(curves)))
            data = np.asarray(curves[part], dtype=np.float64)
            finite = np.asarray(np.isfinite(data).all(axis=1))
            worth = finite.copy()
            worth[finite] = _may_enhance(problem, fitting, table, data[finite])
            result.status[part[finite & ~worth]] = Status.NOT_ENHANCING
            if worth.any():
                walks = _search(problem, fitting, table, data[worth], options.max_evaluations)
                _write(problem, fitting, result, part[worth], data[worth], walks)
        return result

    return solve


def polish_ode(
    problem: Problem,
    curves: NDArray[Any],
    start: Doubles,
    held: Sequence[str],
    options: VarProLM,
) -> KernelFit:
    """`kety.fitting.polish.polish` of a model of differential equations."""
    fitting = _fitting(problem, options, held)
    result = no_fit(problem, len(curves))
    data = np.asarray(curves, dtype=np.float64)
    known = np.flatnonzero(np.isfinite(data).all(axis=1) & np.isfinite(start).all(axis=1))
    if known.size:
        lo, hi = problem.kernel_bounds()
        free = np.array([p.name not in held for p in problem.parameters])
        theta = start[known]
        theta[:, free] = np.clip(theta[:, free], lo[free], hi[free])
        low, high = _limits(problem, theta, held)
        walks = descend(fitting, data[known], theta, low, high, options.max_evaluations)
        _write(problem, fitting, result, known, data[known], walks, screened=False)
    return result


def _fitting(problem: Problem, options: VarProLM, held: Sequence[str] = ()) -> Fitting:
    lo, hi = problem.kernel_bounds()
    weights = np.ones(len(problem.times)) if problem.weights is None else problem.weights
    names = [p.name for p in problem.parameters]
    fixed = ~(hi > lo) | np.isin(names, list(held))
    smallest = [
        SMALLEST.get(p.unit, 1e-4 * max(abs(b) for b in p.bounds)) * problem.factor(p)
        for p in problem.parameters
    ]

    def evaluate(theta: Doubles) -> tuple[Doubles, Doubles]:
        values, slopes = ode_curves(problem, theta, jacobian=True)
        assert slopes is not None
        slopes[:, :, fixed] = 0.0
        return values, slopes

    single = problem.dtype == np.float32
    return Fitting(
        evaluate,
        weights,
        problem.baseline,
        fixed,
        np.array(smallest) * (1e-5 if single else 1e-11),
        options.ftol if options.ftol is not None else (3e-6 if single else 1e-9),
        options.xtol if options.xtol is not None else (1e-6 if single else 1e-11),
    )


def _weighted(fitting: Fitting, curves: Doubles) -> Doubles:
    """Curves whose plain products are what the cost is made of."""
    w = fitting.weights
    if fitting.baseline:
        curves = curves - (curves @ w / w.sum())[:, None]
    weighted: Doubles = curves * np.sqrt(w)
    return weighted


def _table(problem: Problem, fitting: Fitting) -> _Table:
    model = problem.model
    assert isinstance(model, OdeModel)
    lo, hi = problem.kernel_bounds()
    free = hi > lo
    wide = np.array([not p.is_delay for p in problem.parameters]) & (lo >= 0) & (hi > WIDE * lo)
    points = np.tile(lo, (SAMPLES, 1))
    if free.any():
        unit = halton_starts(SAMPLES, int(free.sum())) ** np.where(wide, CROWDING, 1)[free]
        points[:, free] += unit * (hi - lo)[free]
    curves = ode_curves(problem, points)[0]
    solved = np.isfinite(curves).all(axis=1)
    if not solved.any():
        raise KetyError(explain_unsolved(model) + ", anywhere between the bounds")
    points, curves = points[solved], curves[solved]
    _check_scales(problem, points[:8], curves[:8])
    seen = _weighted(fitting, curves)
    size = np.linalg.norm(seen, axis=1)
    shapes = seen / np.where(size > 0, size, 1.0)[:, None]
    strength, axes = np.linalg.eigh(shapes.T @ shapes)
    rank = int((strength > RANK_ERROR**2 * strength[-1]).sum())
    return _Table(points, seen, axes[:, -rank:] if rank else axes[:, :0])


def _check_scales(problem: Problem, points: Doubles, curves: Doubles) -> None:
    model: Any = problem.model
    if not model.scales:
        return
    half = points.copy()
    half[:, [problem.slot(n) for n in model.scales]] *= 0.5
    found = ode_curves(problem, half)[0]
    error = np.abs(2 * found - curves).max(axis=1)
    wrong = error > 1e-4 * np.abs(curves).max(axis=1)
    if wrong.any():
        raise KetyError(
            f"scales={model.scales!r} of {model.name}: half of their values do not give half of "
            "the curve; leave out those that do not multiply it, and name all that do"
        )


def _may_enhance(problem: Problem, fitting: Fitting, table: _Table, curves: Doubles) -> Any:
    """Whether anything in the subspace of the model's curves explains enough of a curve (V,)."""
    threshold = problem.enhancement_threshold()
    y = _weighted(fitting, curves)
    square = np.einsum("vt,vt->v", y, y)
    along = y @ table.basis
    explained = np.einsum("vr,vr->v", along, along)
    return (square > 0) & (explained >= threshold * (square - explained))


def _limits(problem: Problem, theta: Doubles, held: Sequence[str] = ()) -> tuple[Doubles, Doubles]:
    """Bounds (n, P) of walks from these starts: the delay stays between the input's jumps."""
    lo, hi = (np.tile(b, (len(theta), 1)) for b in problem.kernel_bounds())
    bands = _bands(problem)
    if bands is not None and "delay" not in held:
        place = problem.slot("delay")
        band = bands_of(bands, theta[:, place])
        lo[:, place], hi[:, place] = band.T
    return lo, hi


def _bands(problem: Problem) -> Doubles | None:
    if "delay" not in problem.bounds:
        return None
    place = problem.slot("delay")
    lo, hi = problem.kernel_bounds()
    _, _, bands = delay_cells(problem.aif, problem.times, lo[place], hi[place])
    return np.unique(bands, axis=0)


def _search(problem: Problem, fitting: Fitting, table: _Table, curves: Doubles, most: int) -> Walks:
    """The best minimum of each curve, from several points of the table."""
    starts, owner = _starting_points(problem, fitting, table, curves)
    low, high = _limits(problem, starts)
    starts = np.clip(starts, low, high)
    few = min(TRIES, most)
    walks = descend(fitting, curves[owner], starts, low, high, few)
    spent = np.bincount(owner, walks.evaluations, len(curves)).astype(np.intp)
    kept = _best(walks.cost, owner, len(curves), FINALISTS)
    going = kept[~walks.arrived[kept]]
    if going.size and most > few:
        further = descend(
            fitting, curves[owner[going]], walks.p[going], low[going], high[going], most - few
        )
        spent += np.bincount(owner[going], further.evaluations, len(curves)).astype(np.intp)
        walks.put(going, further)
    best = walks.some(_best(walks.cost, owner, len(curves), 1))
    best.evaluations = spent
    for side in (-1, 1):
        _look_across(problem, fitting, curves, best, side, most)
    return best


def _look_across(
    problem: Problem, fitting: Fitting, curves: Doubles, best: Walks, side: int, most: int
) -> None:
    """Continue beyond the input's jumps, earlier (-1) or later (1), as long as minima get better.

    Where an input starts above 0 the model jumps whenever it reaches a frame, and each stretch of
    delays between two frames has a minimum of its own.
    """
    bands = _bands(problem)
    if bands is None or len(bands) < 2:
        return
    place = problem.slot("delay")
    going = np.arange(len(curves))
    while going.size:
        here = bands_of(bands, best.p[going, place])
        band = np.searchsorted(bands[:, 0], here[:, 0]) + side
        inside = (band >= 0) & (band < len(bands)) & np.isfinite(best.cost[going])
        going, band = going[inside], band[inside]
        start = best.p[going].copy()
        start[:, place] = bands[band, 1] if side < 0 else bands[band, 0]
        lo, hi = (np.tile(b, (len(going), 1)) for b in problem.kernel_bounds())
        lo[:, place], hi[:, place] = bands[band].T
        found = descend(fitting, curves[going], start, lo, hi, most)
        better = found.cost < best.cost[going]
        found.evaluations = found.evaluations + best.evaluations[going]
        best.evaluations[going] = found.evaluations
        best.put(going[better], found.some(better))
        going = going[better]


def _best(cost: Doubles, owner: NDArray[np.intp], count: int, most: int) -> NDArray[np.intp]:
    """Rows of the `most` smallest costs of each owner, in the order of the owners."""
    order = np.lexsort((cost, owner))
    first = np.searchsorted(owner[order], np.arange(count))
    rank = np.arange(len(order)) - first[owner[order]]
    chosen: NDArray[np.intp] = order[rank < most]
    return chosen


def _starting_points(
    problem: Problem, fitting: Fitting, table: _Table, curves: Doubles
) -> tuple[Doubles, NDArray[np.intp]]:
    """Points (n, P) of the table that explain each curve best, and whose they are (n,)."""
    model: Any = problem.model
    lo, hi = problem.kernel_bounds()
    y = _weighted(fitting, curves)
    along = y @ table.curves.T
    square = np.einsum("nt,nt->n", table.curves, table.curves)
    amplitude = np.ones_like(along)
    columns = [problem.slot(n) for n in model.scales]
    if columns:
        # The best common factor of what multiplies the curve, between the bounds.
        some = table.points[:, columns]
        with np.errstate(divide="ignore", invalid="ignore"):
            least = np.nan_to_num(lo[columns] / some, nan=0.0).max(axis=1)
            most = np.nan_to_num(hi[columns] / some, nan=np.inf).min(axis=1)
            amplitude = np.nan_to_num(along / square)
        amplitude = np.clip(amplitude, least, np.maximum(most, least))
    gain = amplitude * (2 * along - amplitude * square)
    where = (table.points - lo) / np.where(hi > lo, hi - lo, 1.0)
    starts, owner = [], []
    voxels = np.arange(len(curves))
    for _ in range(STARTS):
        best = gain.argmax(axis=1)
        found = np.isfinite(gain[voxels, best])
        theta = table.points[best]
        theta[:, columns] *= amplitude[voxels, best][:, None]
        starts.append(theta[found])
        owner.append(voxels[found])
        near = (np.abs(where[None] - where[best][:, None]) < APART).all(axis=2)
        gain[near] = -np.inf
    return np.concatenate(starts), np.concatenate(owner)


def _write(
    problem: Problem,
    fitting: Fitting,
    result: KernelFit,
    rows: NDArray[np.intp],
    curves: Doubles,
    walks: Walks,
    screened: bool = True,
) -> None:
    """Results of the walks into their rows, with covariance and status as of the native solver."""
    lo, hi = problem.kernel_bounds()
    w, size, fixed = fitting.weights, problem.size, fitting.fixed
    y = _weighted(fitting, curves)
    square = np.einsum("vt,vt->v", y, y)
    solved = np.isfinite(walks.cost)
    with np.errstate(invalid="ignore"):
        explained = square - walks.cost >= problem.enhancement_threshold() * walks.cost
    seen = solved & (explained | (not screened))
    # A curve for which every start failed is one that no solution of the equations was found for.
    result.status[rows[~solved]] = Status.ITERATION_LIMIT
    result.status[rows[solved & ~seen]] = Status.NOT_ENHANCING
    rows, walks, y, curves = rows[seen], walks.some(seen), y[seen], curves[seen]
    near = np.where([p.name == "delay" for p in problem.parameters], 1e-5, 0.0)
    bound = (walks.p <= lo + near) | (walks.p >= hi - near) | fixed
    inverse, lost = inverse_of(walks.hessian, bound, fixed)
    gone = bound | lost
    spare = int((w > 0).sum()) - int((~fixed).sum()) - problem.baseline
    noise = walks.cost / spare if spare > 0 else np.full(len(rows), np.nan)
    whole = inverse * noise[:, None, None]
    covariance = np.where(gone[:, :, None] | gone[:, None, :], np.nan, whole)
    i, j = np.tril_indices(size)
    result.parameters[rows] = walks.p
    result.covariance[rows] = covariance[:, i, j]
    result.cost[rows] = walks.plain
    centre = curves - curves.mean(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        result.r2[rows] = 1 - walks.plain / np.einsum("vt,vt->v", centre, centre)
    result.evaluations[rows] = walks.evaluations
    result.undetermined[rows] = (lost * (1 << np.arange(size))).sum(axis=1).astype(np.uint8)
    status = np.where((bound & ~fixed).any(axis=1), Status.AT_BOUND, Status.CONVERGED)
    status = np.where(lost.any(axis=1), Status.NOT_IDENTIFIABLE, status)
    result.status[rows] = np.where(walks.arrived, status, Status.ITERATION_LIMIT)
    if result.baseline is not None:
        total = w.sum()
        spread = np.einsum("vp,vpq,vq->v", walks.slope, whole, walks.slope)
        result.baseline[rows, 0] = walks.offset
        result.baseline[rows, 1] = noise / total + spread / total**2
