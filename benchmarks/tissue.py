"""What the benchmarks of uncertainty and choice share: input, samplings, tissues of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

import kety
from kety.simulate import protocol
from kety.studies.optimization.data import PEAK, Array, parker_input

# Tissues from poorly to well perfused, in public units; a parameter without a range here has the
# lower half of its bounds.
RANGES: Mapping[str, tuple[float, float]] = {
    "ktrans": (0.05, 0.6),
    "kep": (0.2, 1.5),
    "vb": (0.02, 0.2),
    "k1": (0.08, 1.0),
    "k2": (0.2, 1.5),
    "fp": (10.0, 80.0),
    "ps": (0.02, 0.3),
    "ve": (0.1, 0.5),
    "vp": (0.03, 0.15),
    "haf": (0.1, 0.6),
    "vd": (0.15, 0.5),
    "delay": (1.0, 7.0),
    "delay_portal": (0.0, 4.0),
}
SCHEMES: Mapping[str, Array] = {
    "37 frames in 209 s": np.asarray(protocol("brain")),
    "60 frames in 300 s": np.arange(60) * 5.0 + 5.0,
}


def truths(model: str, count: int, seed: int) -> dict[str, Array]:
    """Parameters (count,) of one model, uniform over their ranges."""
    random = np.random.default_rng(seed)
    drawn = {}
    for p in kety.MODELS[model].parameters:
        lo, hi = RANGES.get(p.name, (p.bounds[0], 0.5 * (p.bounds[0] + p.bounds[1])))
        drawn[p.name] = random.uniform(lo, hi, count)
    return drawn


def artery(times: Array) -> kety.InputFunction:
    """Parker's input, sampled every second, beyond the reach of the default bounds."""
    return parker_input(1.0, times[-1] + 5.0, peak=PEAK)


def inputs(model: str, times: Array) -> dict[str, Any]:
    """The portal input of a model that has two, as an argument of `kety.fit`."""
    if kety.MODELS[model].inputs == 1:
        return {}
    return {"portal": portal_of(artery(times))}


def portal_of(aif: kety.InputFunction) -> kety.InputFunction:
    """The artery's curve after the gut: 8 s later and spread by 8 s; evenly sampled."""
    step = aif.times[1] - aif.times[0]
    passed = np.exp(-np.arange(0.0, 80.0, step) / 8.0)
    earlier = np.maximum(aif.times - 8.0, aif.times[0] - 1.0)
    spread = np.convolve(aif(earlier), passed / passed.sum())[: aif.times.size]
    return replace(aif, concentration=spread)
