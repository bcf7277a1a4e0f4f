"""Masks made from simulated abdomens that breathe, drift and have spikes: sensitivity, specificity.

The enhancement mask beside a plain threshold of the same medians, and beside the two ways to allow
for motion that it joins: unsteady voxels alone, and displaced edges alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.common import Table, run
from kety.preprocess import enhancing, make_mask
from kety.series import Series
from kety.simulate import Phantom, simulate_abdomen

ENHANCING, STILL = 15.0, 2.0
"""HU at the peak from which on a voxel counts as enhancing, and below which as not."""


def moved(phantom: Phantom, breath: float, drift: float, noise: float, seed: int) -> Series:
    """The phantom with breathing and a drift in mm, noise in HU, spikes in 2 % of the voxels."""
    random = np.random.default_rng(seed)
    series = phantom.series
    sizes = np.linalg.norm(series.affine[:3, :3], axis=0)
    times = series.times
    phase = 2 * np.pi * times / 4.3 + 0.2 * random.standard_normal(times.size).cumsum()
    stays = drift * np.clip((times - 20.0) / 60.0, 0.0, 1.0)
    data = np.array(series.data)
    for frame in range(times.size):
        shift = breath * np.sin(phase[frame]) * np.array([0.15, 0.4, 1.0])
        shift = (shift + stays[frame] * np.array([0.3, 1.0, 0.3])) / sizes
        if shift.any():
            data[..., frame] = ndimage.shift(data[..., frame], shift, order=1, mode="nearest")
    data += noise * random.standard_normal(data.shape, dtype=np.float32)
    flat = data.reshape(-1, times.size)
    hit = random.integers(0, len(flat), len(flat) // 50)
    flat[hit, random.integers(0, times.size, hit.size)] += random.choice([-200.0, 200.0], hit.size)
    return replace(series, data=data)


def shares(mask: NDArray[Any], yes: NDArray[Any], no: NDArray[Any]) -> str:
    return f"{100 * mask[yes].mean():.1f} / {100 * (1 - mask[no].mean()):.1f}"


def designs(series: Series) -> dict[str, NDArray[np.bool_]]:
    """The mask as it is, and with parts of it taken away."""
    still = np.zeros((series.times.size, 2))
    off = mock.patch.object(enhancing, "displacements", return_value=still)
    steady = mock.patch.object(enhancing, "JITTER", 0.0)
    found = {"both": make_mask(series, "enhancing")}
    with off:
        found["unsteady voxels"] = make_mask(series, "enhancing")
    with steady:
        found["displaced edges"] = make_mask(series, "enhancing")
    with off, steady:
        found["neither"] = make_mask(series, "enhancing")
    return found


def measure(options: argparse.Namespace) -> tuple[list[Table], dict[str, Any]]:
    shape = (48, 40, 6) if options.quick else (96, 80, 12)
    phantom = simulate_abdomen(shape, noise=0.0, seed=options.seed)
    peak = (phantom.series.data - phantom.baseline[..., None]).max(axis=-1)
    yes, no = (peak >= ENHANCING) & phantom.body, (peak < STILL) & phantom.body
    rows = []
    scenes = ((0, 0, 6), (2, 0, 6), (4, 0, 6), (8, 0, 6), (0, 2, 6), (0, 0, 12), (4, 0, 12))
    for breath, drift, noise in scenes:
        found = designs(moved(phantom, breath, drift, noise, options.seed))
        cells = [shares(mask, yes, no) for mask in found.values()]
        rows.append([f"{breath} mm", f"{drift} mm", f"{noise} HU", *cells])
    words = "Sensitivity / specificity in %; spikes of 200 HU in 2 % of the voxels."
    heads = ["breathing", "drift", "noise", *found]
    tables = [Table("What enhances, by what allows for motion", heads, rows, words)]
    rows = []
    for breath in (0, 4):
        series = moved(phantom, breath, 0, 12, options.seed)
        air = phantom.mask("air", "gas")
        bone = phantom.mask("cortical bone")
        true = {"body": phantom.body, "air": air, "bone": bone}
        # Marrow may count as bone or not.
        marrow = phantom.mask("bone marrow")
        for kind, inside in true.items():
            started = time.perf_counter()
            mask = make_mask(series, kind)
            took = time.perf_counter() - started
            outside = ~inside & ~marrow if kind == "bone" else ~inside
            rows.append([kind, f"{breath} mm", shares(mask, inside, outside), f"{took:.2f} s"])
    heads = ["mask", "breathing", "sensitivity / specificity, %", "time"]
    return [*tables, Table("Body, air and bone at 12 HU", heads, rows)], {}


def main(argv: Sequence[str] | None = None) -> None:
    run("masks", measure, __doc__ or "", argv)


if __name__ == "__main__":
    main()
