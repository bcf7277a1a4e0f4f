"""The fits behind tables 5 and 6: data set 2, native and SciPy's optimisers, kety's own solver."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np

import kety
from kety.fitting.discretize import grid_input, kernel_model, resampling_matrix, sample_times
from kety.fitting.problem import make_problem
from kety.studies.optimization.data import RANGES, Array, DataSet, data_set_2, study_input
from kety.studies.records import Effort

RATE: Final = 1.0  # Hz
METHODS: Final = {"nelder_mead": "Nelder–Mead", "differential_evolution": "Differential evolution"}
ENOUGH: Final = 20_000
"""Voxels that kety's own solver is timed on, so that what they share does not count."""
ROWS: Final = {
    "fir": "native, FIR 1 Hz",
    "iir": "native, IIR 1 Hz",
    "single": "native, IIR 1 Hz, float32",
    "compiled": "SciPy, IIR 1 Hz, kety's compiled cost",
    "plain": "SciPy, IIR 1 Hz, cost in NumPy and lfilter",
}

Costs = Callable[[Array], Array]
"""Costs (m,) of points (m, 4) of the unit box."""


@dataclass(frozen=True)
class Plan:
    """Voxels for SciPy (which the native ones repeat), copies of them, rounds, voxels compared."""

    scipy: int
    copies: int
    rounds: int
    compared: int


FULL: Final = Plan(16, 16, 3, 20_000)
QUICK: Final = Plan(2, 64, 1, 1_000)


@dataclass(frozen=True, eq=False)
class Rivals:
    """kety's own solver beside Nelder-Mead of the same exact model, float64, bounds and voxels.

    Attributes
    ----------
    excess : (V,) array
        Sum of squares of kety's own relative to Nelder-Mead's, less 1.
    own, simplex : float
        Processor time for a voxel, s: kety's own in float64, and Nelder-Mead.
    own_wall, single_wall : float
        Wall time for a voxel with all cores, s: kety's own in float64 and float32.
    """

    excess: Array
    own: float
    simplex: float
    own_wall: float
    single_wall: float


Times = Mapping[tuple[str, str, bool], float]
"""Seconds for a voxel by method, row of `ROWS` and whether all cores worked."""


def optimizer(method: str, **options: Any) -> Any:
    """The method with the paper's options and those given."""
    return replace(kety.OPTIMIZERS[method].preset("paper"), **options)  # type: ignore[union-attr]


class Fitted(NamedTuple):
    """Maps, and processor and wall time for a voxel, s."""

    maps: Any
    processor: float
    wall: float


def fit(data: DataSet, curves: Array, **options: Any) -> Fitted:
    """Fit curves of that set within the bounds of the study, in float64 where not told."""
    settings = {"dtype": "float64", "bounds": RANGES, "mask": np.ones(len(curves), np.bool_)}
    began, worked = time.perf_counter(), time.process_time()
    maps = kety.fit(curves, data.times, study_input(), **{**settings, **options})
    if maps.attrs["interrupted"]:
        raise KeyboardInterrupt
    worked, wall = time.process_time() - worked, time.perf_counter() - began
    return Fitted(maps, worked / len(curves), wall / len(curves))


def measure(plan: Plan, effort: Effort, threads: int) -> Times:
    """Least times over rounds in which all take turns, of the same voxels.

    Processor times on one core, wall times on all.
    """
    data = data_set_2(plan.scipy, effort.seed)
    many = np.tile(data.curves, (plan.copies, 1))
    some = many[: max(plan.scipy, len(many) // 4)]
    jobs: dict[tuple[str, str, bool], Callable[[], float]] = {}

    def native(method: str, kind: str, every: bool, **options: Any) -> Callable[[], float]:
        choice = kety.Discretization(kind, rate=RATE, delay_filter="thiran")
        given: dict[str, Any] = {"discretization": choice, "optimizer": optimizer(method)}
        curves = some if kind == "fir" else many
        if every:
            return lambda: fit(data, curves, threads=threads, **given, **options).wall
        return lambda: fit(data, curves, threads=1, **given, **options).processor

    def scipy(method: str, costs: Callable[[DataSet], list[Costs]]) -> Callable[[], float]:
        record = optimizer(method, backend="scipy")

        def once() -> float:
            functions = costs(data)
            scales = (on_grid(data) ** 2).sum(axis=1)
            began = time.process_time()
            for function, scale in zip(functions, scales, strict=True):
                record.minimise(function, len(RANGES), scale=float(scale))
            return (time.process_time() - began) / len(data)

        return once

    for method in METHODS:
        for every in (False, True):
            jobs[method, "fir", every] = native(method, "fir", every)
            jobs[method, "iir", every] = native(method, "iir", every)
            jobs[method, "single", every] = native(method, "iir", every, dtype="float32")
        jobs[method, "compiled", False] = scipy(method, compiled_costs)
        jobs[method, "plain", False] = scipy(method, plain_costs)
    found = dict.fromkeys(jobs, np.inf)
    fit(data, data.curves, threads=threads)  # loads what is loaded on first use
    for turn in range(plan.rounds):
        for (method, row, every), job in jobs.items():
            effort.tell(f"run time, round {turn + 1}: {METHODS[method]}, {ROWS[row]}")
            found[method, row, every] = min(found[method, row, every], job())
    return found


def on_grid(data: DataSet) -> Array:
    """Curves (V, N) at the samples of the processing rate."""
    matrix = resampling_matrix(data.times, sample_times(data.times, RATE), "cubic")
    return data.curves if matrix is None else data.curves @ matrix.T


def box(data: DataSet) -> tuple[Array, Array]:
    """Bounds (4,) of v, a, k and the delay in units of the core."""
    problem = make_problem(
        data.times,
        study_input(),
        "extended_tofts",
        delay=True,
        bounds=RANGES,
        weights=None,
        dtype="float64",
        threads=1,
        find_enhancing=False,
    )
    return problem.kernel_bounds()


def compiled_costs(data: DataSet) -> list[Costs]:
    """For each voxel the cost that kety's core computes, many points at once."""
    from kety import _native

    choice = kety.Discretization("iir", rate=RATE, delay_filter="thiran")
    samples = sample_times(data.times, RATE)
    model = _native.SampledModel(
        kernel_model(study_input(), samples, *box(data), choice), False, ""
    )

    def function(curve: Array) -> Costs:
        def costs(points: Array) -> Array:
            out = np.empty(len(points))
            model.costs(curve, np.ascontiguousarray(points), out, 1)
            return out

        return costs

    return [function(curve) for curve in np.ascontiguousarray(on_grid(data))]


def plain_costs(data: DataSet) -> list[Costs]:
    """The same written with NumPy and `scipy.signal.lfilter`, a point at a time."""
    from scipy.signal import lfilter

    lo, hi = box(data)
    samples = sample_times(data.times, RATE)
    blood = grid_input(study_input(), samples)
    step = 1.0 / RATE

    def model(unit: Array) -> Array:
        v, a, k, tau = lo + unit * (hi - lo)
        gain = a * step / (2.0 + k * step)
        tissue = lfilter([gain, gain], [1.0, (k * step - 2.0) / (k * step + 2.0)], blood)
        whole = int(np.floor(tau * RATE - 0.5))
        rest = tau * RATE - whole
        c = (1.0 - rest) / (1.0 + rest)
        delayed = lfilter([c, 1.0], [1.0, c], v * blood + tissue)
        return np.concatenate([np.zeros(whole), delayed[: len(delayed) - whole]])

    def function(curve: Array) -> Costs:
        def costs(points: Array) -> Array:
            return np.array([((curve - model(point)) ** 2).sum() for point in points])

        return costs

    return [function(curve) for curve in on_grid(data)]


def compare(plan: Plan, effort: Effort, threads: int) -> Rivals:
    """Fit the exact model with kety's own solver and with Nelder-Mead."""
    data = data_set_2(plan.compared, effort.seed)
    effort.tell(f"run time: kety's own solver and Nelder–Mead, {plan.compared:,} voxels")
    simplex = fit(data, data.curves, optimizer=optimizer("nelder_mead"), threads=threads)
    own = fit(data, data.curves, threads=threads)
    many = np.tile(data.curves, (max(1, ENOUGH // len(data)), 1))
    ones = {
        dtype: [fit(data, many, dtype=dtype, threads=threads) for _ in range(max(3, plan.rounds))]
        for dtype in ("float64", "float32")
    }
    return Rivals(
        own.maps.cost.values / simplex.maps.cost.values - 1.0,
        min(one.processor for one in ones["float64"]),
        simplex.processor,
        min(one.wall for one in ones["float64"]),
        min(one.wall for one in ones["float32"]),
    )
