"""Samplings, inputs and parameter ranges that several tests share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import xarray
from numpy.typing import NDArray

from kety import MODELS, InputFunction, simulate_curves
from kety.inputs import POPULATION

Floats = NDArray[np.float64]

# Svistoun et al., Tomography 5:209, 2019: clinical two-phase sampling of the brain, 37 frames.
TWO_PHASE = np.concatenate(
    [np.arange(9) * 2.0, 16 + np.arange(1, 20) * 5.0, 111 + np.arange(1, 10) * 10.0]
)
NOISE = 6.0  # HU
PEAK = 300.0  # HU in the artery, about 50 times the noise

# The ranges of the same paper; 1/min, fractions, s.
RANGES = {"ktrans": (0.02, 1.0), "kep": (0.1, 3.0), "vb": (0.01, 0.2), "delay": (0.0, 10.0)}
PER_BLOOD = {"k1": (0.03, 1.7), "k2": (0.1, 3.0)}  # the same tissues
# Tissues whose transit times lie between the frames' distance and the series' length.
EXCHANGE = {
    "fp": (20.0, 100.0),
    "ps": (0.05, 0.5),
    "ve": (0.1, 0.4),
    "vp": (0.03, 0.15),
    "haf": (0.15, 0.7),
    "vd": (0.1, 0.5),
    "delay_portal": (0.0, 8.0),
}
ONE_TERM = [name for name, model in MODELS.items() if model.terms is None]
"""Models that joint estimation, discretizations and direct searches serve."""


def parameters(rng: np.random.Generator, count: int, model: str) -> dict[str, Floats]:
    """Uniform over these ranges; over the lower half of its bounds for a name that is not there."""
    chosen = {}
    for p in MODELS[model].parameters:
        lo, hi = (RANGES | PER_BLOOD | EXCHANGE).get(
            p.name, (p.bounds[0], 0.5 * (p.bounds[0] + p.bounds[1]))
        )
        chosen[p.name] = rng.uniform(lo, hi, count)
    return chosen


def artery(name: str, end: float, *, onset: float = 3.0, **options: object) -> InputFunction:
    """A population input in HU, sampled every half second."""
    times = np.arange(onset, end + 0.5, 0.5)
    values = POPULATION[name].function(times, delay=onset)
    options.setdefault("site", POPULATION[name].site)
    return InputFunction(times, values * (PEAK / values.max()), **options)  # type: ignore[arg-type]


def options_of(model: str, aif: InputFunction) -> dict[str, Any]:
    """What a model needs beside the artery: of one with two inputs a portal vein.

    It is the artery's curve 6 s later, spread by 8 s.
    """
    if MODELS[model].inputs == 1:
        return {}
    ages = np.arange(0.0, 80.0, 0.5)
    spread = np.exp(-ages / 8.0)
    earlier = aif.times[:, None] - 6.0 - ages
    passed = np.where(earlier >= aif.times[0], aif(earlier.ravel()).reshape(earlier.shape), 0.0)
    return {"portal": replace(aif, concentration=passed @ (spread / spread.sum()))}


def study(
    rng: np.random.Generator,
    count: int,
    aif: InputFunction,
    *,
    model: str = "extended_tofts",
    times: Floats = TWO_PHASE,
    noise: float = NOISE,
) -> tuple[Floats, dict[str, Floats]]:
    """Curves (count, T) with noise, and their parameters."""
    truth = parameters(rng, count, model)
    clean = simulate_curves(truth, times, aif, model, **options_of(model, aif))
    return clean + rng.normal(0.0, noise, clean.shape) if noise else clean, truth


def worst_relative(maps: xarray.Dataset, truth: dict[str, Floats]) -> Floats:
    """Largest relative error of each voxel over its parameters, infinite where one is NaN."""
    errors = [np.abs(maps[n].values - v) / np.abs(v) for n, v in truth.items()]
    return np.nan_to_num(np.max(errors, axis=0), nan=np.inf)


def assert_same(one: xarray.Dataset, other: xarray.Dataset) -> None:
    """Bit for bit: the same maps."""
    assert set(one) == set(other)
    for name in one:
        np.testing.assert_array_equal(one[name].values, other[name].values, err_msg=str(name))


# The synthetic sequence of the multi-task paper: 6 x 6 voxels, 66 frames 2.5 to 10 s apart, three
# regions of two columns each, the outer two of one tissue. Rates in 1/min.
GROWING = np.cumsum([0.0] + [2.5] * 24 + [5.0] * 21 + [10.0] * 20)
PLACES = np.argwhere(np.ones((6, 6))).astype(float)
TISSUE = np.tile([0, 0, 1, 1, 0, 0], 6)
TWO_TISSUES = {"k1": np.array([0.25, 0.5])[TISSUE], "k2": np.array([0.5, 1.4])[TISSUE]}


def two_tissues(rng: np.random.Generator, noise: float) -> tuple[Floats, InputFunction]:
    """Curves (36, 66) of `TWO_TISSUES` with noise, about 0.7 at their peak, and their input."""
    times = np.arange(10.0, GROWING[-1] + 5.0, 0.5)
    aif = InputFunction(times, 2.0 * POPULATION["parker"].function(times, delay=10.0))
    clean = simulate_curves(TWO_TISSUES, GROWING, aif, "one_compartment")
    return clean + rng.normal(0.0, noise, clean.shape), aif
