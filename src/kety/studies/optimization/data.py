"""The simulated data of the study: truth, curves, input, errors and their intervals."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

import kety
from kety.inputs import InputFunction
from kety.inputs.population import parker
from kety.simulate import protocol
from kety.studies.optimization.paper import HEMATOCRIT, NOISE

if TYPE_CHECKING:
    import xarray

    from kety.studies.records import Effort

Array = NDArray[np.float64]

PAPER_BOUNDS: Final[Mapping[str, tuple[float, float]]] = {
    "ktrans": (0.02, 1.0),
    "kep": (0.1, 3.0),
    "vb": (0.01, 0.2),
    "delay": (0.0, 10.0),
}
"""Ranges of the simulated parameters and bounds of the fits in the benchmarks; 1/min, s."""
RANGES: Final[Mapping[str, tuple[float, float]]] = {**PAPER_BOUNDS, "delay": (1.0, 10.0)}
"""The same for the study. The delay starts at one interval of data set 1, not at 0: the mean of
relative errors of a quantity drawn uniformly from 0 on is infinite (see `CONDITIONS`)."""
NAMES: Final = tuple(PAPER_BOUNDS)
LABELS: Final = {"ktrans": "Ktrans", "kep": "kep", "vb": "Vb", "delay": "delay", "all": "all four"}
PEAK: Final = 300.0
"""HU, peak of the input."""
PANEL_NODES: Final = 16
BLOCK: Final = 1 << 16
MANY: Final = 10_000
"""Voxels over which kety's own solver is timed."""
RESAMPLINGS: Final = 2000
"""Bootstrap samples behind a confidence interval."""

CONDITIONS: Final = (
    "Parameters are uniform over Ktrans 0.02 to 1 /min, kep 0.1 to 3 /min, Vb 0.01 to 0.2 and "
    "delay 1 to 10 s, which are the bounds of the fits too; the paper draws from its bounds "
    "without stating them. The delay starts at 1 s because errors are relative: the mean of "
    "1/delay over a range that starts at 0 does not exist, and one voxel of 0.0001 s would "
    "outweigh all others.",
    "The input is Parker's population curve scaled to a peak of 300 HU (the paper states none), "
    "known at 1 Hz where nothing else is said; hematocrit 0.4.",
    "Truth comes from quadrature of the model for the input's formula, which agrees with a "
    "simulation at 3500 Hz to 1e-10 of the peak.",
    "Errors are 100 × |estimate − truth| / truth. Means have 95 % confidence intervals by the "
    "percentile bootstrap over voxels (the four errors of a voxel stay together).",
)
"""What the paper leaves open, as all experiments on data sets 1 and 2 have it."""


@dataclass(frozen=True, eq=False)
class DataSet:
    """Simulated voxels.

    Attributes
    ----------
    name : str
    times : (T,) array
        Frames, s.
    truth : mapping of str to (V,) array
        In public units.
    curves : (V, T) array
        HU above baseline, with noise where there is any.
    noise : float
        Standard deviation, HU.
    """

    name: str
    times: Array
    truth: Mapping[str, Array]
    curves: Array
    noise: float

    def first(self, count: int) -> DataSet:
        """Its first `count` voxels."""
        truth = {name: values[:count] for name, values in self.truth.items()}
        return DataSet(self.name, self.times, truth, self.curves[:count], self.noise)

    def __len__(self) -> int:
        return len(self.curves)


@dataclass(frozen=True, eq=False)
class Measured:
    """What a fit of a data set gave.

    Attributes
    ----------
    maps : xarray.Dataset
        Of `kety.fit`.
    errors : (V, 4) array
        %, in the order of `NAMES`; NaN where a voxel has no estimate.
    seconds : float
        Processor time for a voxel, s, of all cores together; other work on the machine does not
        count.
    """

    maps: xarray.Dataset
    errors: Array
    seconds: float

    @cached_property
    def means(self) -> dict[str, Mean]:
        """Of each parameter and of ``"all"`` four; see `mean_errors`."""
        return mean_errors(self.errors)

    def __len__(self) -> int:
        return len(self.errors)


class Mean(NamedTuple):
    """A mean with its 95 % confidence interval, and the median."""

    value: float
    low: float
    high: float
    median: float


def random_parameters(
    count: int,
    rng: np.random.Generator,
    ranges: Mapping[str, tuple[float, float]] = PAPER_BOUNDS,
) -> dict[str, Array]:
    """Parameters (count,) uniform over `ranges`, in public units."""
    return {name: rng.uniform(lo, hi, count) for name, (lo, hi) in ranges.items()}


def parker_input(
    interval: float, end: float, *, peak: float | None = None, interpolation: str = "cubic"
) -> InputFunction:
    """Parker's curve from 0 to `end` s, known every `interval` s; in mM, or HU with a `peak`."""
    times: Array = np.arange(round(end / interval) + 1, dtype=np.float64) * interval
    return InputFunction(
        times, parker(times) * _scale(peak), hematocrit=HEMATOCRIT, interpolation=interpolation
    )


def _scale(peak: float | None) -> float:
    return 1.0 if peak is None else peak / float(parker(np.arange(0.0, 30.0, 0.001)).max())


def parker_curves(
    parameters: Mapping[str, Array], times: Array, *, peak: float | None = None
) -> Array:
    """Extended Tofts curves (V, T) of Parker's formula by Gauss-Legendre quadrature.

    Exact to rounding for frames up to a few s apart, and independent of kety's kernel and of any
    sampling of the input. In mM, or HU with a `peak`.
    """
    node, weight = np.polynomial.legendre.leggauss(PANEL_NODES)
    node, weight = 0.5 * (node + 1.0), 0.5 * weight
    rate = parameters["kep"] / 60.0
    amplitude = parameters["ktrans"] / 60.0 / (1.0 - HEMATOCRIT)
    curves = np.empty((rate.size, times.size))
    tissue, last = np.zeros(rate.size), np.zeros(rate.size)
    for j, t in enumerate(times):
        now = np.maximum(t - parameters["delay"], 0.0)
        step = now - last
        u = last[:, None] + step[:, None] * node
        decayed = parker(u) * np.exp(-rate[:, None] * (now[:, None] - u))
        tissue = tissue * np.exp(-rate * step) + step * (decayed @ weight)
        blood = np.where(t >= parameters["delay"], parker(now), 0.0)
        curves[:, j] = parameters["vb"] * blood + amplitude * tissue
        last = now
    return curves * _scale(peak)


def brain_times() -> Array:
    """The 37 irregular frame times of data set 2, s."""
    return np.asarray(protocol("brain"))


def noisy_curves(
    count: int, times: Array, aif: InputFunction, seed: int, *, noise: float = NOISE
) -> tuple[dict[str, Array], NDArray[np.float32]]:
    """Parameters and noisy float32 curves (count, T) as in data set 2, made block by block."""
    parameters = random_parameters(count, np.random.default_rng(seed))
    curves = np.empty((count, times.size), np.float32)
    for block, start in enumerate(range(0, count, BLOCK)):
        part = slice(start, min(start + BLOCK, count))
        clean = kety.simulate_curves({n: p[part] for n, p in parameters.items()}, times, aif)
        random = np.random.default_rng((seed, block))
        curves[part] = clean + noise * random.standard_normal(clean.shape, np.float32)
    return parameters, curves


def simulated(
    name: str,
    times: Array,
    count: int,
    seed: int,
    *,
    noise: float = 0.0,
    peak: float = PEAK,
    ranges: Mapping[str, tuple[float, float]] = RANGES,
    delay_step: float | None = None,
) -> DataSet:
    """Voxels with parameters from `ranges`, seen at `times` (s) with white noise (HU).

    The truth depends on the seed alone: sets of other times hold the same voxels. `delay_step`
    leaves only true delays that lie a multiple of that many s above the least.
    """
    truth = random_parameters(count, np.random.default_rng([seed, 0]), ranges)
    if delay_step is not None:
        least = ranges["delay"][0]
        truth["delay"] = least + np.rint((truth["delay"] - least) / delay_step) * delay_step
    # Panels of the quadrature must stay short where frames are far apart.
    fine = np.unique(np.concatenate([times, np.arange(0.0, times[-1], 1.0)]))
    clean = parker_curves(truth, fine, peak=peak)[:, np.searchsorted(fine, times)]
    random = np.random.default_rng([seed, 1]).standard_normal(clean.shape)
    return DataSet(name, times, truth, clean + noise * random, noise)


def data_set_1(count: int, seed: int) -> DataSet:
    """200 frames at 1 s, no noise (table 2)."""
    return simulated("data set 1", np.asarray(protocol("uniform")), count, seed)


def data_set_2(count: int, seed: int) -> DataSet:
    """37 irregular frames in 209 s, Gaussian noise of 6 HU (table 2)."""
    return simulated("data set 2", brain_times(), count, seed, noise=NOISE)


def study_input(rate: float = 1.0, *, peak: float = PEAK, end: float = 215.0) -> InputFunction:
    """The input in HU, known at `rate` Hz up to `end` s."""
    return parker_input(1.0 / rate, end, peak=peak)


def measure(
    data: DataSet,
    effort: Effort,
    aif: InputFunction | None = None,
    *,
    bounds: Mapping[str, tuple[float, float]] = RANGES,
    **options: Any,
) -> Measured:
    """Fit a data set in float64 with options of `kety.fit`; the input is `study_input` at 1 Hz."""
    began = time.process_time()
    maps = kety.fit(
        data.curves,
        data.times,
        study_input() if aif is None else aif,
        bounds=bounds,
        mask=np.ones(len(data), np.bool_),
        dtype="float64",
        threads=effort.threads,
        **options,
    )
    seconds = (time.process_time() - began) / len(data)
    if maps.attrs["interrupted"]:
        raise KeyboardInterrupt
    return Measured(maps, percent_errors(maps, data.truth), seconds)


def measure_own(data: DataSet, effort: Effort) -> Measured:
    """`measure` by kety's own solver, timed over `MANY` copies: its set-up serves all voxels."""
    one = measure(data, effort)
    copies = np.arange(max(MANY, len(data))) % len(data)
    truth = {name: values[copies] for name, values in data.truth.items()}
    many = DataSet(data.name, data.times, truth, data.curves[copies], data.noise)
    return Measured(one.maps, one.errors, measure(many, effort).seconds)


def warm_up(effort: Effort) -> None:
    """Fit a few voxels, so that the first fit that is timed does not load libraries."""
    data = data_set_1(2, 0)
    measure(data, effort)
    measure(data, effort, optimizer=kety.NelderMead(), discretization="iir")


def percent_errors(maps: xarray.Dataset | Any, truth: Mapping[str, Array]) -> Array:
    """Relative errors (V, 4) in %, the paper's definition, in the order of `NAMES`."""
    return np.stack(
        [100.0 * np.abs(maps[n].values.astype(float) - truth[n]) / truth[n] for n in NAMES], axis=1
    )


def mean_errors(errors: Array, seed: int = 0) -> dict[str, Mean]:
    """Mean, interval and median of errors (V, 4) for each parameter and over ``"all"`` four.

    Voxels without an estimate (NaN) are left out; all NaN gives NaN.
    """
    known = errors[np.isfinite(errors).all(axis=1)]
    if not len(known):
        return {name: Mean(np.nan, np.nan, np.nan, np.nan) for name in (*NAMES, "all")}
    columns = np.column_stack([known, known.mean(axis=1)])
    low, high = np.quantile(bootstrap(columns, seed), (0.025, 0.975), axis=0)
    medians = (*np.median(known, axis=0), np.median(known))
    rows = zip((*NAMES, "all"), columns.mean(axis=0), low, high, medians, strict=True)
    return {name: Mean(*(float(x) for x in row)) for name, *row in rows}


def bootstrap(columns: Array, seed: int = 0) -> Array:
    """Means (`RESAMPLINGS`, n) of columns (V, n) over voxels drawn with replacement."""
    rng, count = np.random.default_rng(seed), len(columns)
    means = np.empty((RESAMPLINGS, columns.shape[1]))
    shares = np.full(count, 1.0 / count)
    for i in range(0, RESAMPLINGS, 200):
        means[i : i + 200] = rng.multinomial(count, shares, 200) @ columns / count
    return means
