"""Voxels per second of `kety.fit`, from the array of curves to the Dataset of maps."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import kety
from benchmarks import peer
from benchmarks.common import BOUNDS, Table, run, stopwatch
from kety.inputs import InputFunction
from kety.studies.optimization.data import (
    PAPER_BOUNDS,
    PEAK,
    Array,
    brain_times,
    noisy_curves,
    parker_input,
)

VOXELS, REPEATS = 1_000_000, 5
THREADS = (1, 2)
SIZES = (100_000, 300_000, 1_000_000)
FRAMES = (37, 60, 120)
PEER_VOXELS = 300
# Gpufit's CPU library (extended Tofts of its petmri fork, float, bounded, no delay, no search for
# a start; built with native flags), measured on a like two-core server.
GPUFIT = {37: "35", 60: "36", 120: "66"}
GPUFIT_NOTE = (
    "Gpufit's CPU library: the extended Tofts model of the petmri fork, float, three parameters "
    "(no delay), one given start; not run here but quoted from measurements on a like two-core "
    "server with native flags. At its best there (60 samples, easier curves) it made 40,000 "
    "curves/s on one thread, 64,000 with native flags, and 92,000 on two threads."
)


def timed(
    curves: NDArray[np.float32],
    times: Array,
    aif: InputFunction,
    repeats: int,
    threads: int,
    bounds: Mapping[str, tuple[float, float]] | None,
) -> dict[str, float]:
    """Best and median wall time of the fit, s, and what follows from them."""
    # A mask of all voxels, so that none is skipped as not enhancing.
    mask = np.ones(len(curves), bool)

    def fit() -> None:
        kety.fit(curves, times, aif, bounds=bounds, mask=mask, threads=threads)

    seconds = stopwatch(fit, repeats)
    best, median = min(seconds), statistics.median(seconds)
    return {
        "best_s": best,
        "median_s": median,
        "best_per_s": len(curves) / best,
        "median_per_s": len(curves) / median,
        "us_per_voxel_core": 1e6 * best * threads / len(curves),
    }


def scipy_rates(curves: Array, times: Array, aif: InputFunction) -> dict[str, float]:
    """Voxels per second of SciPy on one core, in a process whose algebra has one thread."""
    kinds = {
        "exact derivatives": peer.Setting(aif, times, PAPER_BOUNDS),
        "differences, SciPy's default": peer.Setting(aif, times, PAPER_BOUNDS, jacobian="2-point"),
    }
    start = np.full((1, len(PAPER_BOUNDS)), 0.5)
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    rates = {}
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply(peer.fit_many, (next(iter(kinds.values())), curves[:3], start))  # imports
        for name, setting in kinds.items():
            seconds = pool.apply(peer.fit_many, (setting, curves, start))[2]
            rates[name] = len(curves) / seconds
    return rates


def by_frames(voxels: int, repeats: int, seed: int) -> tuple[list[list[str]], dict[str, Any]]:
    """Time per curve at 37 irregular, 37, 60 and 120 uniform frames."""
    rows, figures = [], {}
    end = brain_times()[-1]
    grids = {"37, irregular": brain_times()}
    grids |= {str(n): np.linspace(0.0, end, n) for n in FRAMES}
    for name, times in grids.items():
        aif = parker_input(1.0, end + 5.0, peak=PEAK)
        _, curves = noisy_curves(voxels, times, aif, seed)
        found = {n: timed(curves, times, aif, repeats, n, PAPER_BOUNDS) for n in THREADS}
        figures[name] = found
        one, two = found[1], found[2]
        rows.append(
            [
                name,
                f"{one['us_per_voxel_core']:.2f}",
                f"{1e3 * one['us_per_voxel_core'] / times.size:.1f}",
                f"{one['best_per_s']:,.0f}",
                f"{two['best_per_s']:,.0f}",
                GPUFIT[times.size],
            ]
        )
    return rows, figures


def measure(options: argparse.Namespace) -> tuple[list[Table], dict[str, Any]]:
    """Rates of the whole fit, its ratio to SciPy, and how it grows with voxels and frames."""
    voxels, repeats = (100_000, 2) if options.quick else (VOXELS, REPEATS)
    times = brain_times()
    aif = parker_input(1.0, times[-1] + 5.0, peak=PEAK)
    _, curves = noisy_curves(voxels, times, aif, options.seed)
    whole: dict[str, Any] = {}
    rows = []
    for bounds, limits in BOUNDS.items():
        for threads in THREADS:
            found = timed(curves, times, aif, repeats, threads, limits)
            whole[f"{bounds} {threads}"] = found
            rows.append(
                [
                    bounds,
                    str(threads),
                    f"{found['best_per_s']:,.0f}",
                    f"{found['median_per_s']:,.0f}",
                    f"{found['us_per_voxel_core']:.2f}",
                ]
            )
    note = f"{voxels:,} voxels x 37 frames, {repeats} runs; from the array of curves to the maps."
    rate_table = Table(
        "Speed: four parameters with delay, float32, voxels/s",
        ["bounds", "threads", "best", "median", "us per voxel and core"],
        rows,
        note,
    )
    few = curves[: 20 if options.quick else PEER_VOXELS].astype(np.float64)
    rates = scipy_rates(few, times, aif)
    one, two = (whole[f"paper {n}"]["best_per_s"] for n in THREADS)
    scipy_table = Table(
        "Speed beside SciPy's least_squares, the same model, curves and bounds",
        [
            "SciPy's derivatives",
            "SciPy voxels/s, one core",
            "kety on 1 thread / SciPy",
            "kety on 2 threads / SciPy",
        ],
        [[k, f"{r:,.0f}", f"{one / r:,.0f}", f"{two / r:,.0f}"] for k, r in rates.items()],
        f"{len(few)} voxels, one bounded start each from the middle of the bounds, the model "
        "evaluated by kety's own kernel; tolerances as SciPy has them.",
    )
    sizes = [n for n in SIZES if n <= voxels]
    by_size = {n: timed(curves[:n], times, aif, repeats, 2, PAPER_BOUNDS) for n in sizes}
    size_table = Table(
        "Cost by number of voxels, 37 frames, 2 threads",
        ["voxels", "s", "us per voxel"],
        [
            [f"{n:,}", f"{f['best_s']:.3f}", f"{1e6 * f['best_s'] / n:.3f}"]
            for n, f in by_size.items()
        ],
    )
    frame_rows, frame_figures = by_frames(min(voxels, 300_000), repeats, options.seed)
    frame_table = Table(
        "Cost by number of frames, beside Gpufit's CPU library",
        [
            "frames",
            "us per curve and core",
            "ns per sample",
            "curves/s, 1 thread",
            "curves/s, 2 threads",
            "Gpufit, us per curve and core",
        ],
        frame_rows,
        GPUFIT_NOTE,
    )
    figures = {"whole": whole, "scipy": rates, "by_size": by_size, "by_frames": frame_figures}
    return [rate_table, scipy_table, size_table, frame_table], figures


def main(argv: Sequence[str] | None = None) -> None:
    run("speed", measure, __doc__ or "", argv)


if __name__ == "__main__":
    main()
