"""Runs the papers' optimisers over blocks of voxels; plain arrays in, plain arrays out.

They search the unit box between the bounds for the least sum of squares of a sampled model (see
`discretize`). Nelder-Mead and differential evolution run in the core, all voxels of a block at
once; the others in Python, voxel by voxel, on costs that the core computes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kety.fitting.discretize import (
    Discretization,
    kernel_model,
    resampling_matrix,
    sample_times,
)
from kety.fitting.engine import KernelFit, Solve, no_fit, place, prepare
from kety.fitting.forward import kernel_curves
from kety.fitting.optimizers import DifferentialEvolution, NelderMead, Optimizer, VarProLM
from kety.fitting.optimizers.base import halton_starts
from kety.fitting.problem import power_of_two
from kety.fitting.status import Status
from kety.fitting.uncertainty import covariance

if TYPE_CHECKING:
    from kety.fitting.problem import Problem
    from kety.inputs import InputFunction

AT_BOUND = 1e-5
"""Distance from a bound, as a fraction of the distance between bounds, that counts as at it."""
WIDE, CROWDING = 100.0, 4
"""Ratio of the bounds of an amplitude or rate above which starts crowd towards the lower one, as
this power of a uniform coordinate: between 0 and 60 /min hardly any would lie where tissue does."""
NUMBERS_AT_ONCE = 1 << 25
"""Numbers of the Jacobian held at a time when errors are computed."""


class Found(NamedTuple):
    """What a search found: ``points`` (V, 4) v, a, k, tau; ``evaluations`` and ``status`` (V,)."""

    points: NDArray[np.float64]
    evaluations: NDArray[np.uint32]
    status: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Sampling:
    """Where a model is compared with a curve, in units of the core (see `prepare_search`).

    Attributes
    ----------
    times : (N,) array
        Samples, s.
    resampling : (N, T) array or None
        Brings curves to them; None where they are the frames.
    reading : (T, N) array or None
        Reads values at the samples at the frames, by straight lines.
    weights : (N,) array or None
        Weights of the squared residuals.
    """

    times: NDArray[np.float64]
    resampling: NDArray[np.float64] | None
    reading: NDArray[np.float64] | None
    weights: NDArray[np.float64] | None


def make_sampling(problem: Problem, choice: Discretization) -> Sampling:
    """Samples, resampling and weights of a problem."""
    times = sample_times(problem.times, choice.grid_rate)
    to_samples = resampling_matrix(problem.times, times, choice.resampling)
    weights = problem.weights
    if to_samples is None:
        return Sampling(times, None, None, weights)
    if choice.resampling == "none":
        weights = to_samples @ (np.ones(len(problem.times)) if weights is None else weights)
        return Sampling(times, to_samples, to_samples.T, weights)
    if weights is not None:
        weights = np.interp(times, problem.times, weights)
    to_frames = resampling_matrix(times, problem.times, "linear")
    return Sampling(times, to_samples, to_frames, weights)


def prepare_search(
    problem: Problem, optimizer: Optimizer, choice: Discretization, *, fitted: bool = False
) -> Solve:
    """Build what all voxels share and return the solver of a block of curves (V, T).

    Where voxels that do not enhance are to be found, the default solver finds them, at a fraction
    of a search's cost. With `fitted` the results hold the model's values at the frames.
    """
    from kety import _native

    # Input of the order of 1, as for the default solver.
    scale = power_of_two(float(np.abs(problem.aif.concentration).max()))
    aif = replace(problem.aif, concentration=problem.aif.concentration / scale)
    lo, hi = problem.kernel_bounds()
    sampling = make_sampling(problem, choice)

    def record(precision: Any) -> dict[str, Any]:
        return kernel_model(
            aif,
            sampling.times,
            lo,
            hi,
            choice,
            weights=sampling.weights,
            baseline=problem.baseline,
            dtype=precision,
        )

    def model(precision: Any) -> Any:
        return _native.SampledModel(record(precision), precision == np.float32, "")

    native = isinstance(optimizer, NelderMead | DifferentialEvolution) and (
        optimizer.backend == "native"
    )
    single = native and problem.dtype == np.float32
    exact = model(np.float64)
    searched: Any = model(np.float32) if single else exact
    if native and problem.card is not None:
        from kety.fitting.cuda.search import SearchOnCard

        precision = np.float32 if single else np.float64
        searched = SearchOnCard(problem.card, record(precision), precision)
    screen = prepare(problem, VarProLM()) if problem.find_enhancing else None

    starts = starting_points(optimizer.start_count, lo, hi)

    def search(y: NDArray[np.float64]) -> Found:
        on_samples = y if sampling.resampling is None else y @ sampling.resampling.T
        if native:
            return _search_native(
                searched, optimizer, on_samples, starts, scale, single, problem.threads
            )
        return _search_each(searched, optimizer, on_samples, starts, scale, lo, hi)

    def solve(curves: NDArray[Any]) -> KernelFit:
        result = no_fit(problem, len(curves), fitted)
        y = np.asarray(curves, np.float64) / scale
        # Squares of larger numbers are not finite in the precision of the maps.
        with np.errstate(invalid="ignore"):
            wanted = (np.abs(y) < 1e15).all(axis=1)
        if screen is not None:
            idle = screen(curves).status == Status.NOT_ENHANCING
            result.status[idle] = Status.NOT_ENHANCING
            wanted &= ~idle
        for part in _parts(np.flatnonzero(wanted), len(sampling.times)):
            found = search(y[part])
            finish(y[part], found, part, result)
        return result

    def finish(
        y: NDArray[np.float64], found: Found, part: NDArray[np.intp], result: KernelFit
    ) -> None:
        done = estimate(problem, aif, sampling, exact, y, found, (lo, hi), fitted)
        done.cost[:] *= scale**2
        if done.baseline is not None:
            done.baseline[:, 0] *= scale
            done.baseline[:, 1] *= scale**2
        if done.fitted is not None:
            done.fitted[:] *= scale
        place(result, part, done)

    return solve


def starting_points(
    count: int, lo: NDArray[np.float64], hi: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Starts (count, free parameters) in the unit box between bounds on v, a, k, tau.

    Halton's sequence, between wide bounds (`WIDE`) crowded towards the lower one.
    """
    free = hi > lo
    wide = (hi > WIDE * lo) & np.array([True, True, True, False])
    return halton_starts(count, int(free.sum())) ** np.where(wide, CROWDING, 1)[free]


def _parts(voxels: NDArray[np.intp], samples: int) -> Iterator[NDArray[np.intp]]:
    """Voxels in parts whose Jacobian fits `NUMBERS_AT_ONCE`."""
    size = max(1, NUMBERS_AT_ONCE // (5 * samples))
    for first in range(0, len(voxels), size):
        yield voxels[first : first + size]


def _search_native(
    model: Any,
    optimizer: Any,
    curves: NDArray[np.float64],
    starts: NDArray[np.float64],
    scale: float,
    single: bool,
    threads: int,
) -> Found:
    from kety import _native

    simplex = isinstance(optimizer, NelderMead)
    options = {
        "method": _native.NELDER_MEAD if simplex else _native.EVOLUTION,
        "start": starts,
        "max_iterations": optimizer.max_iterations,
        "ftol": optimizer.ftol / scale**2,
        "relative_ftol": optimizer.relative_ftol,
        "xtol": optimizer.xtol if simplex else 0.0,
        "step": optimizer.step if simplex else 0.0,
        "weight": 0.0 if simplex else optimizer.weight,
        "crossover": 0.0 if simplex else optimizer.crossover,
        "from_best": not simplex and optimizer.strategy == "best1bin",
        "seed": 0 if simplex else optimizer.seed,
    }
    data = np.ascontiguousarray(curves, np.float32 if single else np.float64)
    if not isinstance(model, _native.SampledModel):  # on a card
        return Found(*model(data, options))
    voxels = len(curves)
    points, cost = np.empty((voxels, 4)), np.empty(voxels)
    evaluations, status = np.empty(voxels, np.uint32), np.empty(voxels, np.uint8)
    model.search(data, options, points, cost, evaluations, status, threads)
    return Found(points, evaluations, status)


def _search_each(
    model: Any,
    optimizer: Any,
    curves: NDArray[np.float64],
    starts: NDArray[np.float64],
    scale: float,
    lo: NDArray[np.float64],
    hi: NDArray[np.float64],
) -> Found:
    free = np.flatnonzero(hi > lo)
    voxels = len(curves)
    points = np.tile(lo, (voxels, 1))
    evaluations = np.zeros(voxels, np.uint32)
    status = np.full(voxels, Status.NOT_FINITE, np.uint8)
    for v, curve in enumerate(np.ascontiguousarray(curves)):

        def objective(
            unit: NDArray[np.float64], curve: NDArray[np.float64] = curve
        ) -> NDArray[np.float64]:
            out = np.empty(len(unit))
            model.costs(curve, np.ascontiguousarray(unit), out, 1)
            # Tolerances are in the unit of the curves.
            out *= scale**2
            return out

        found = optimizer.minimise(
            objective, free.size, starts, scale=float(curve @ curve) * scale**2
        )
        points[v, free] = lo[free] + np.clip(found.x, 0.0, 1.0) * (hi - lo)[free]
        evaluations[v] = found.evaluations
        status[v] = Status.CONVERGED if found.converged else Status.ITERATION_LIMIT
    return Found(points, evaluations, status)


def estimate(
    problem: Problem,
    aif: InputFunction,
    sampling: Sampling,
    model: Any,
    curves: NDArray[np.float64],
    found: Found,
    bounds: tuple[NDArray[np.float64], NDArray[np.float64]],
    fitted: bool,
) -> KernelFit:
    """Costs at the frames, covariances and statuses of the points that a search found.

    `aif` and `curves` (V, T) in the scale of the core, `model` its sampled model in float64.
    """
    lo, hi = bounds
    free = hi > lo
    span = np.where(free, hi - lo, 1.0)
    points = found.points
    values = np.empty((len(points), len(sampling.times)))
    unit = np.ascontiguousarray(((points - lo) / span)[:, free])
    model.values(unit, values, problem.threads)
    weights = sampling.weights
    offset = np.zeros(len(points))
    if problem.baseline:
        on_samples = curves if sampling.resampling is None else curves @ sampling.resampling.T
        offset = np.average(on_samples - values, axis=1, weights=weights)
    at_frames = values if sampling.reading is None else values @ sampling.reading.T
    residual = curves - at_frames - offset[:, None]
    cost = np.einsum("vt,vt->v", residual, residual)
    weighted = cost
    if problem.weights is not None:
        weighted = np.einsum("vt,t,vt->v", residual, problem.weights, residual)
    # The exact derivatives: those of a discrete system differ by its error alone, and a rounded
    # delay has none.
    _, jacobian = kernel_curves(aif, sampling.times, points, jacobian=True, threads=problem.threads)
    assert jacobian is not None
    bound = ~free | (points <= lo + AT_BOUND * span) | (points >= hi - AT_BOUND * span)
    # A rate without its amplitude, a delay of nothing: undetermined wherever they stand.
    nothing = np.zeros_like(bound)
    nothing[:, 2] = free[2] & (points[:, 1] == 0)
    nothing[:, 3] = free[3] & (points[:, 0] == 0) & (points[:, 1] == 0)
    held = bound | nothing
    if problem.baseline:
        jacobian = np.concatenate([jacobian, np.ones((*jacobian.shape[:2], 1))], axis=2)
        held = np.concatenate([held, np.zeros((len(points), 1), bool)], axis=1)
    errors = covariance(
        jacobian,
        held,
        weighted,
        weights=weights,
        resampling=sampling.resampling,
        reading=sampling.reading,
        frame_weights=problem.weights,
    )
    lost = errors.lost[:, :4] | nothing
    status = found.status.copy()
    done = status == Status.CONVERGED
    status[done & (bound & free).any(axis=1)] = Status.AT_BOUND
    status[done & lost.any(axis=1)] = Status.NOT_IDENTIFIABLE
    spread = ((curves - curves.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        r2 = 1.0 - cost / spread
    rows, columns = np.tril_indices(4)
    baseline = np.stack([offset, errors.matrix[:, -1, -1]], axis=1) if problem.baseline else None
    return KernelFit(
        points,
        errors.matrix[:, rows, columns],
        cost,
        r2,
        found.evaluations,
        status,
        (lost * np.array([1, 2, 4, 8])).sum(axis=1).astype(np.uint8),
        baseline,
        at_frames if fitted else None,
    )
