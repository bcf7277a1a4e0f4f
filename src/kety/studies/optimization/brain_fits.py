"""The fits behind figure 5: a simulated brain in blocks, and Nelder-Mead on one slice of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

import kety
from kety.fitting.engine import available_threads
from kety.simulate import BRAIN_TISSUES, BrainTruth, brain_curves, brain_truth
from kety.studies.optimization.data import NAMES, brain_times, study_input
from kety.studies.optimization.paper import NOISE
from kety.studies.records import Effort

Floats = NDArray[np.float32]

BOUNDS: Final[Mapping[str, tuple[float, float]]] = {
    "ktrans": (0.0, 1.0),
    "kep": (0.0, 3.0),
    "vb": (0.0, 1.0),
    "delay": (0.0, 10.0),
}
"""The upper ends of the study's ranges, but that Vb may be that of a vessel; 1/min, s."""
BATCH: Final = 1 << 19
"""Voxels fitted in one call."""
HEIGHT: Final = 38.0
"""Of the slice on which Nelder-Mead is run, mm: that of the tumour."""
RESAMPLED: Final = 1500
"""Voxels of it, about, on which Nelder-Mead is run with the exact model at 1 Hz."""
STATUS: Final = Path("/proc/self/status")


@dataclass(frozen=True)
class Plan:
    """How much is fitted and drawn.

    Attributes
    ----------
    shape : (int, int, int)
        Of the volume.
    stride : int
        Of the voxels of a slice that Nelder-Mead fits, along both axes.
    cube : int
        Edge of the cubes over which maps are averaged before they are rendered, voxels.
    pixels : int
        Of a rendering.
    """

    shape: tuple[int, int, int]
    stride: int
    cube: int
    pixels: int


FULL: Final = Plan((304, 304, 244), 2, 2, 280)
QUICK: Final = Plan((64, 72, 50), 2, 1, 120)


@dataclass(frozen=True, eq=False)
class Slice:
    """One axial slice: kety's own solver and Nelder-Mead on some of its voxels.

    Attributes
    ----------
    index, stride : int
    voxels : (n,) array
        Which voxels Nelder-Mead fitted, as numbers among those of the mask.
    values : mapping of str to (n,) array
        Its estimates.
    resampled : mapping of str to (n,) array
        Its estimates with the exact model instead of IIR, at 1 Hz as well, of some of the voxels;
        NaN for the rest.
    seconds : float
        Time for a voxel, s, all cores.
    """

    index: int
    stride: int
    voxels: NDArray[np.intp]
    values: Mapping[str, Floats]
    resampled: Mapping[str, Floats]
    seconds: float


@dataclass(frozen=True, eq=False)
class Brain:
    """The truth, and estimates of the V voxels inside the skull.

    Attributes
    ----------
    truth : BrainTruth
    labels : (V,) array
        Tissue of each voxel.
    values, errors : mapping of str to (V,) array
        Estimates and standard errors, NaN where there is none.
    simulated, fitted : float
        Time to make truth and curves, and to fit, s.
    peak : float or None
        Most memory held, GiB; None where the system does not tell.
    threads : int
    slice : Slice
    """

    truth: BrainTruth
    labels: NDArray[np.uint8]
    values: Mapping[str, Floats]
    errors: Mapping[str, Floats]
    simulated: float
    fitted: float
    peak: float | None
    threads: int
    slice: Slice

    def __len__(self) -> int:
        return len(self.labels)

    def true(self, name: str) -> Floats:
        """True values (V,) of a parameter."""
        return np.asarray(self.truth.maps[name][self.truth.mask])

    def volume(self, voxels: Floats) -> Floats:
        """Values (V,) in their places, NaN elsewhere."""
        placed = np.full(self.truth.labels.shape, np.nan, np.float32)
        placed[self.truth.mask] = voxels
        return placed


def fit_brain(plan: Plan, effort: Effort) -> Brain:
    """Make the brain, fit it in blocks with the default solver and a slice with Nelder-Mead."""
    reset_peak()
    began = time.perf_counter()
    effort.tell(f"brain: anatomy of {' × '.join(map(str, plan.shape))} voxels")
    truth = brain_truth(plan.shape, effort.seed)
    times, aif = brain_times(), study_input()
    count = int(truth.mask.sum())
    index, chosen = voxels_of_slice(truth, plan.stride)
    values = {name: np.empty(count, np.float32) for name in NAMES}
    errors = {name: np.empty(count, np.float32) for name in NAMES}
    kept = np.empty((len(chosen), len(times)), np.float32)
    threads = effort.threads or available_threads()
    fitted = 0.0
    for first in range(0, count, BATCH):
        last = min(first + BATCH, count)
        curves = np.empty((last - first, len(times)), np.float32)
        blocks = brain_curves(
            truth, times, aif, noise=NOISE, seed=effort.seed, first=first, last=last
        )
        for rows, block in blocks:
            curves[rows.start - first : rows.stop - first] = block
        inside = (chosen >= first) & (chosen < last)
        kept[inside] = curves[chosen[inside] - first]
        start = time.perf_counter()
        maps = kety.fit(
            curves,
            times,
            aif,
            bounds=BOUNDS,
            mask=np.ones(len(curves), np.bool_),
            threads=threads,
        )
        fitted += time.perf_counter() - start
        if maps.attrs["interrupted"]:
            raise KeyboardInterrupt
        for name in NAMES:
            values[name][first:last] = maps[name].values
            errors[name][first:last] = maps[f"{name}_se"].values
        effort.tell(f"brain: {last:,} of {count:,} voxels, {fitted:.0f} s of fitting")
    simulated = time.perf_counter() - began - fitted
    peak = peak_gib()
    effort.tell(f"brain: Nelder–Mead on {len(chosen):,} voxels of a slice")
    return Brain(
        truth,
        truth.labels[truth.mask],
        values,
        errors,
        simulated,
        fitted,
        peak,
        threads,
        fit_slice(index, plan.stride, chosen, kept, threads),
    )


def voxels_of_slice(truth: BrainTruth, stride: int) -> tuple[int, NDArray[np.intp]]:
    """The slice at `HEIGHT`, and every `stride`-th of its voxels, numbered within the mask."""
    index = round((HEIGHT - truth.affine[2, 3]) / truth.affine[2, 2])
    index = min(max(index, 0), truth.mask.shape[2] - 1)
    wanted = np.zeros_like(truth.mask)
    wanted[::stride, ::stride, index] = True
    return index, np.flatnonzero(wanted[truth.mask])


def fit_slice(
    index: int, stride: int, voxels: NDArray[np.intp], curves: Floats, threads: int
) -> Slice:
    """Nelder-Mead with the paper's options at 1 Hz, float64: IIR, and the exact model."""

    def fit(choice: kety.Discretization, some: Floats) -> tuple[dict[str, Floats], float]:
        start = time.perf_counter()
        maps = kety.fit(
            some,
            brain_times(),
            study_input(),
            bounds=BOUNDS,
            mask=np.ones(len(some), np.bool_),
            optimizer=kety.NelderMead.preset("paper"),
            discretization=choice,
            dtype="float64",
            threads=threads,
        )
        seconds = (time.perf_counter() - start) / max(1, len(some))
        if maps.attrs["interrupted"]:
            raise KeyboardInterrupt
        return {name: maps[name].values.astype(np.float32) for name in NAMES}, seconds

    values, seconds = fit(kety.Discretization("iir", rate=1.0, delay_filter="thiran"), curves)
    every = max(1, len(curves) // RESAMPLED)
    few, _ = fit(kety.Discretization("exact", rate=1.0), curves[::every])
    resampled = {name: np.full(len(curves), np.nan, np.float32) for name in NAMES}
    for name, found in few.items():
        resampled[name][::every] = found
    return Slice(index, stride, voxels, values, resampled, seconds)


@dataclass(frozen=True)
class TissueError:
    """How well one parameter is found in one tissue.

    Attributes
    ----------
    tissue, name : str
    voxels : int
    truth : float
        Median true value.
    median, mean : float
        Absolute error relative to the truth, %, over voxels with an estimate.
    bias : float
        Median of the signed error, %.
    reported : float
        Median standard error relative to the truth, %; NaN where no voxel has one.
    covered : float
        Share, %, of 95 % intervals (1.96 standard errors) that hold the truth.
    known : float
        Share of voxels, %, with a standard error.
    """

    tissue: str
    name: str
    voxels: int
    truth: float
    median: float
    mean: float
    bias: float
    reported: float
    covered: float
    known: float


def tissue_errors(brain: Brain) -> list[TissueError]:
    """For every tissue and every parameter that is not 0 there."""
    found = []
    for name in NAMES:
        true = brain.true(name)
        for label, tissue in enumerate(BRAIN_TISSUES):
            where = (brain.labels == label) & (true > 0)
            if where.any():
                found.append(_tissue_error(brain, tissue.name, name, where, true[where]))
    return found


def _tissue_error(
    brain: Brain, tissue: str, name: str, where: NDArray[np.bool_], true: Floats
) -> TissueError:
    value, error = brain.values[name][where], brain.errors[name][where]
    relative = 100.0 * (value - true) / true
    relative = relative[np.isfinite(relative)]
    known = np.isfinite(error)
    inside = np.abs(value - true)[known] <= 1.96 * error[known]
    some = len(relative) > 0
    return TissueError(
        tissue,
        name,
        len(true),
        float(np.median(true)),
        float(np.median(np.abs(relative))) if some else np.nan,
        float(np.abs(relative).mean(dtype=np.float64)) if some else np.nan,
        float(np.median(relative)) if some else np.nan,
        float(np.median(100.0 * error[known] / true[known])) if known.any() else np.nan,
        float(100.0 * inside.mean()) if known.any() else np.nan,
        float(100.0 * known.mean()),
    )


def reset_peak() -> None:
    """Forget the most memory held so far, where Linux lets us."""
    with suppress(OSError):
        STATUS.with_name("clear_refs").write_text("5")


def peak_gib() -> float | None:
    """Most memory that this process has held since `reset_peak`, GiB."""
    if not STATUS.exists():
        return None
    lines = [line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM")]
    return int(lines[0].split()[1]) / 2**20 if lines else None
