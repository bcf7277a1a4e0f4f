"""The fits behind table 4: curves of the discrete system at a high rate, fitted with that system.

Every fit runs on one core; the voxels are shared out to as many processes as there are cores.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np

import kety
from kety.errors import MissingDependencyError
from kety.fitting.discretize import kernel_model
from kety.fitting.engine import available_threads
from kety.fitting.problem import make_problem
from kety.inputs import InputFunction
from kety.studies.optimization import paper
from kety.studies.optimization.data import (
    PEAK,
    RANGES,
    RESAMPLINGS,
    Array,
    parker_curves,
    parker_input,
    percent_errors,
    random_parameters,
)
from kety.studies.records import Effort

DURATION: Final = paper.DATA_SET_1_DURATION
POOL: Final = 64
"""Voxels of which every measurement takes the first ones, so that all see the same."""
METHODS: Final[Mapping[str, str]] = {
    "nelder_mead": "Nelder–Mead",
    "nelder_mead/scipy": "Nelder–Mead, SciPy",
    "differential_evolution": "differential evolution",
    "differential_evolution/scipy": "differential evolution, SciPy",
    "sqp": "SQP, central differences",
    "sqp/forward": "SQP, forward differences",
    "pattern_search": "pattern search",
    "simulated_annealing": "simulated annealing",
}
WEIGHTS: Final = {
    "simulated_annealing": 80.0,
    "pattern_search": 15.0,
    "sqp": 8.0,
    "sqp/exact": 80.0,
}
"""About the cost of a voxel relative to Nelder-Mead's: long jobs start first."""
LADDER: Final = ("nelder_mead", "differential_evolution", "sqp", "sqp/forward", "sqp/exact")
"""Methods at every rate; the last is SQP with a delay that shifts the continuous input."""
CHANGES: Final[tuple[tuple[str, str, dict[str, Any]], ...]] = (
    ("nelder_mead", "as published", {}),
    ("nelder_mead", "TolFun 1e-10", {"ftol": 1e-10}),
    ("nelder_mead", "TolX 1e-9", {"xtol": 1e-9}),
    ("differential_evolution", "as published", {}),
    ("differential_evolution", "TolFun 1e-10", {"ftol": 1e-10}),
    ("pattern_search", "at most 30 polls", {"max_iterations": 30}),
    ("pattern_search", "at most 100 polls", {"max_iterations": 100}),
    ("pattern_search", "pattern down to 1e-3 of the range", {"xtol": 1e-3}),
    ("simulated_annealing", "one start", {"starts": 1}),
)


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes
    ----------
    rates : mapping of str to float
        Hz at which each method is calibrated.
    voxels : mapping of str to int
        And on how many voxels.
    ladder : mapping of float to int
        Further rates, Hz, and voxels there.
    own : (voxels, voxels, rate)
        kety's own solver: voxels seen every second, voxels given all samples, and at what Hz.
    changed : (voxels, voxels)
        Of changed options: for Nelder-Mead and evolution, and for the slow ones.
    changes : int
        How many of `CHANGES` are made.
    """

    rates: Mapping[str, float]
    voxels: Mapping[str, int]
    ladder: Mapping[float, int]
    own: tuple[int, int, float]
    changed: tuple[int, int]
    changes: int


FULL: Final = Plan(
    dict.fromkeys(METHODS, paper.CALIBRATION_RATE) | {"simulated_annealing": 100.0},
    dict(zip(METHODS, (8, 2, 8, 8, 4, 8, 2, 4), strict=True)),
    {1.0: 64, 10.0: 64, 100.0: 32, 350.0: 16, 1000.0: 8},
    (64, 16, paper.CALIBRATION_RATE),
    (32, 4),
    len(CHANGES),
)
QUICK: Final = Plan(
    dict.fromkeys(METHODS, 100.0) | {"pattern_search": 10.0, "simulated_annealing": 10.0},
    dict(zip(METHODS, (8, 1, 8, 4, 4, 8, 1, 1), strict=True)),
    {1.0: 16, 10.0: 16},
    (16, 16, 100.0),
    (8, 1),
    6,
)


@dataclass(frozen=True)
class Job:
    """Fits of `count` voxels from `first` on by a method with some options changed; rate in Hz."""

    method: str
    rate: float
    first: int
    count: int
    seed: int
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Calibrated:
    """Errors (V, 4) in %, and seconds (one core) and evaluations for a voxel."""

    errors: Array
    seconds: float
    evaluations: float

    @property
    def median(self) -> float:
        """Over all four parameters."""
        return float(np.median(self.errors))

    def interval(self) -> tuple[float, float] | tuple[None, None]:
        """95 % confidence interval of the median: percentile bootstrap over two voxels or more."""
        if len(self) < 2:
            return None, None
        draw_ = np.random.default_rng(0).integers(len(self.errors), size=(RESAMPLINGS, len(self)))
        medians = np.median(self.errors[draw_].reshape(RESAMPLINGS, -1), axis=1)
        low, high = np.quantile(medians, (0.025, 0.975))
        return float(low), float(high)

    def __len__(self) -> int:
        return len(self.errors)


Results = Mapping[tuple[str, float, str], Calibrated]
"""By method, rate (Hz) and what was changed, of those that could be run."""


class System(NamedTuple):
    """The discrete system and the curves (V, T) it made of the truth."""

    model: Any
    times: Array
    aif: InputFunction
    truth: Mapping[str, Array]
    unit: Array
    curves: Array


def optimizer(method: str, changes: Mapping[str, Any]) -> Any:
    """The method with the paper's options and the changes to them."""
    name, _, variant = method.partition("/")
    options = {"scipy": {"backend": "scipy"}, "forward": {"gradient": "forward"}}.get(variant, {})
    record = kety.OPTIMIZERS[name].preset("paper")  # type: ignore[union-attr]
    return replace(record, **options, **changes)


def discretization(method: str, rate: float) -> kety.Discretization:
    """Tustin's system, with a Thiran delay unless the method's name asks for an exact one."""
    exact = method.endswith("/exact")
    return kety.Discretization("iir", rate=rate, delay_filter="exact" if exact else "thiran")


def frames(rate: float) -> Array:
    """All samples of the measurement, s."""
    count = round(DURATION * rate)
    return np.asarray(np.arange(count) / rate)


@lru_cache(maxsize=1)
def system(choice: kety.Discretization, first: int, count: int, seed: int) -> System:
    """Curves of the discrete system at its own rate, of voxels from `first` on."""
    from kety import _native

    rate = float(choice.rate or 1.0)
    times, aif = frames(rate), parker_input(1.0 / rate, DURATION, peak=PEAK, interpolation="linear")
    pool = random_parameters(POOL, np.random.default_rng([seed, 0]), RANGES)
    truth = {name: values[first : first + count] for name, values in pool.items()}
    given: dict[str, Any] = {"delay": True, "weights": None, "dtype": "float64", "threads": 1}
    problem = make_problem(
        times, aif, "extended_tofts", bounds=RANGES, find_enhancing=False, **given
    )
    lo, hi = problem.kernel_bounds()
    unit = (problem.model.kernel_parameters(truth, aif, count) - lo) / (hi - lo)
    model = _native.SampledModel(kernel_model(aif, times, lo, hi, choice), False, "")
    curves = np.empty((count, len(times)))
    unit = np.ascontiguousarray(unit)
    model.values(unit, curves, 1)
    return System(model, times, aif, truth, unit, curves)


def timed_fit(curves: Array, times: Array, aif: InputFunction, **options: Any) -> tuple[Any, float]:
    """Maps of a float64 fit on one core within the bounds of the study, and processor time, s."""
    began = time.process_time()
    mask = np.ones(len(curves), np.bool_)
    options = {"threads": 1, "dtype": "float64", **options}
    maps = kety.fit(curves, times, aif, bounds=RANGES, mask=mask, **options)
    if maps.attrs["interrupted"]:
        raise KeyboardInterrupt
    return maps, time.process_time() - began


@lru_cache(maxsize=32)
def idle_seconds(choice: kety.Discretization, count: int, seed: int) -> float:
    """What a fit takes beside the search (errors, maps), s: one start, one iteration."""
    warm_up()
    made = system(choice, 0, count, seed)
    nothing = kety.NelderMead(starts=1, max_iterations=1)
    given = {"optimizer": nothing, "discretization": choice}
    return timed_fit(made.curves, made.times, made.aif, **given)[1]


@lru_cache(maxsize=1)
def warm_up() -> None:
    """Load what is loaded on first use, which must not count."""
    aif, times = parker_input(1.0, DURATION, peak=PEAK), frames(1.0)
    some = kety.NelderMead(starts=1, max_iterations=1)
    timed_fit(aif(times)[None], times, aif, optimizer=some, discretization="iir")
    timed_fit(aif(times)[None], times, aif)


def work(job: Job) -> Calibrated | None:
    """Do a job on one core; None where a library that the method needs is missing."""
    choice = discretization(job.method, job.rate)
    idle = idle_seconds(choice, job.count, job.seed)
    made = system(choice, job.first, job.count, job.seed)
    how = optimizer(job.method, job.changes)
    try:
        maps, seconds = timed_fit(
            made.curves, made.times, made.aif, optimizer=how, discretization=choice
        )
    except MissingDependencyError:
        return None
    return Calibrated(
        percent_errors(maps, made.truth),
        max(seconds - idle, 1e-9) / job.count,
        float(maps.evaluations.values.mean()),
    )


def calibrate(plan: Plan, effort: Effort) -> Results:
    """Do all jobs of the plan, voxels shared out to the processors."""
    jobs: dict[tuple[str, float, str], Job] = {}
    for method, rate in plan.rates.items():
        jobs[method, rate, ""] = Job(method, rate, 0, plan.voxels[method], effort.seed)
    for rate, count in plan.ladder.items():
        for method in LADDER:
            # The input is evaluated anew for every delay, which is slow.
            few = min(count, 8 if rate <= 100 else 2) if method == "sqp/exact" else count
            jobs[method, rate, ""] = Job(method, rate, 0, few, effort.seed)
    for method, change, changes in CHANGES[: plan.changes]:
        few = plan.changed[method not in ("nelder_mead", "differential_evolution")]
        jobs[method, 1.0, change] = Job(method, 1.0, 0, few, effort.seed, changes)
    workers = effort.threads or available_threads()
    tell = effort.tell
    if workers == 1:
        return {key: one for key, job in jobs.items() if (one := work(job)) is not None}
    parts = [(key, part) for key, job in jobs.items() for part in shares(job, workers)]
    # The longest first, so that the processors end together.
    parts.sort(key=lambda p: -(p[1].rate + 50) * p[1].count * WEIGHTS.get(p[1].method, 1.0))
    found: dict[tuple[str, float, str], list[tuple[int, Calibrated]]] = {}
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(work, part): (key, part) for key, part in parts}
        for done in as_completed(running):
            key, part = running[done]
            one = done.result()
            if one is not None:
                found.setdefault(key, []).append((part.first, one))
                tell(f"calibration: {METHODS.get(key[0], key[0])}, {key[1]:g} Hz {key[2]}")
    return {
        key: joined([one for _, one in sorted(ones, key=lambda part: part[0])])
        for key, ones in found.items()
    }


def shares(job: Job, workers: int) -> list[Job]:
    """The job's voxels in as many parts as there are workers, none empty."""
    edges = np.linspace(0, job.count, min(workers, job.count) + 1).round().astype(int).tolist()
    return [replace(job, first=a, count=b - a) for a, b in pairwise(edges)]


def joined(parts: Sequence[Calibrated]) -> Calibrated:
    """The parts' voxels together."""
    sizes = [len(part) for part in parts]
    return Calibrated(
        np.concatenate([part.errors for part in parts]),
        float(np.average([part.seconds for part in parts], weights=sizes)),
        float(np.average([part.evaluations for part in parts], weights=sizes)),
    )


class Own(NamedTuple):
    """kety's own solver, which fits the exact model.

    Attributes
    ----------
    frames : Calibrated
        Frames every second of curves by quadrature, the input known at the rate of calibration.
    kernel : Calibrated
        The same of curves by kety's own exact model.
    discrete : Calibrated
        The same of curves that the discrete system made at the rate of calibration.
    samples : Calibrated
        All samples at the rate of the plan, of curves by kety's own exact model.
    """

    frames: Calibrated
    kernel: Calibrated
    discrete: Calibrated
    samples: Calibrated


def own_solver(plan: Plan, effort: Effort) -> Own:
    """Fit exact curves with the default solver, in float64 and on one core."""
    count, full, rate = plan.own
    fine = plan.rates["nelder_mead"]
    pool = random_parameters(POOL, np.random.default_rng([effort.seed, 0]), RANGES)
    truth = {name: values[:count] for name, values in pool.items()}

    def fit(curves: Array, times: Array, aif: InputFunction) -> Calibrated:
        few = {name: values[: len(curves)] for name, values in pool.items()}
        maps, seconds = timed_fit(curves, times, aif)
        evaluations = float(maps.evaluations.values.mean())
        return Calibrated(percent_errors(maps, few), seconds / len(curves), evaluations)

    effort.tell("calibration: kety's own solver")
    warm_up()
    aif = parker_input(1.0 / fine, DURATION, peak=PEAK)
    seconds = frames(1.0)
    made = system(discretization("", fine), 0, min(count, 8), effort.seed)
    coarse = parker_input(1.0 / rate, DURATION, peak=PEAK)
    every = frames(rate)
    some = {name: values[:full] for name, values in pool.items()}
    return Own(
        fit(parker_curves(truth, seconds, peak=PEAK), seconds, aif),
        fit(kety.simulate_curves(truth, seconds, aif), seconds, aif),
        fit(np.ascontiguousarray(made.curves[:, :: round(fine)]), seconds, aif),
        fit(kety.simulate_curves(some, every, coarse), every, coarse),
    )


def along_delay(rate: float, seed: int) -> tuple[Array, Array]:
    """Offsets from the first voxel's true delay, in samples, and the cost there, HU²."""
    made = system(discretization("", rate), 0, 1, seed)
    samples = np.linspace(-1.5, 1.5, 121)
    low, high = RANGES["delay"]
    points = np.repeat(made.unit, len(samples), axis=0)
    points[:, 3] += samples / rate / (high - low)
    costs = np.empty(len(samples))
    made.model.costs(made.curves[0], points, costs, 1)
    return samples, costs


def of(plan: Plan, results: Results, method: str) -> Calibrated | None:
    """The calibration of a method, None where it was not or could not be run."""
    return results.get((method, plan.rates.get(method, 0.0), ""))


def by_rate(results: Results, method: str) -> list[tuple[tuple[str, float, str], Calibrated]]:
    """A method's results with published options, by rate."""
    return sorted((k, one) for k, one in results.items() if k[0] == method and not k[2])
