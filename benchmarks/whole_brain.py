"""Time and peak memory of a whole brain: 6,000,000 voxels x 37 frames, in a fresh process."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import kety
from benchmarks.common import BOUNDS, Table, run
from kety.studies.optimization.data import PEAK, brain_times, noisy_curves, parker_input

VOXELS, QUICK_VOXELS = 6_000_000, 200_000
GIB = 2.0**30
PAPER_GPU_HOURS, PAPER_CPU_DAYS = 4.3, 179.0  # Svistoun et al. 2019, 6 million voxels
WORKER = "--worker"


def peak_gib() -> float:
    """Most memory this process has held so far, GiB."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss starts from the parent's peak, this does not
        line = next(li for li in status.read_text().splitlines() if li.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / GIB
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB


def worker(voxels: int, bounds: str, seed: int) -> dict[str, float]:
    """Make the curves, fit them, and say what it took."""
    times = brain_times()
    aif = parker_input(1.0, times[-1] + 5.0, peak=PEAK)
    _, curves = noisy_curves(voxels, times, aif, seed)
    before = peak_gib()
    mask = np.ones(voxels, bool)
    start = time.perf_counter()
    maps = kety.fit(curves, times, aif, bounds=BOUNDS[bounds], mask=mask)
    seconds = time.perf_counter() - start
    return {
        "voxels": voxels,
        "seconds": seconds,
        "peak_gib": peak_gib(),
        "peak_before_fit_gib": before,
        "curves_gib": curves.nbytes / GIB,
        "maps_gib": maps.nbytes / GIB,
        "fitted": int(np.isfinite(maps.cost.values).sum()),
    }


def measure(options: argparse.Namespace) -> tuple[list[Table], dict[str, Any]]:
    """Wall time and peak resident memory, with the paper's times scaled to the voxels."""
    voxels = QUICK_VOXELS if options.quick else VOXELS
    rows, figures = [], {}
    for bounds in BOUNDS:
        call = [sys.executable, "-m", "benchmarks.whole_brain", WORKER, str(voxels), bounds]
        done = subprocess.run([*call, str(options.seed)], check=True, capture_output=True)
        found = json.loads(done.stdout)
        figures[bounds] = found
        seconds = found["seconds"]
        share = voxels / VOXELS
        rows.append(
            [
                bounds,
                f"{seconds:.2f}",
                f"{voxels / seconds:,.0f}",
                f"{found['peak_gib']:.2f}",
                f"{found['curves_gib']:.2f} + {found['maps_gib']:.2f}",
                f"{PAPER_GPU_HOURS * 3600 * share / seconds:,.0f} x",
                f"{PAPER_CPU_DAYS * 86400 * share / seconds:,.0f} x",
            ]
        )
    table = Table(
        f"Whole brain: {voxels:,} voxels x 37 frames",
        [
            "bounds",
            "s",
            "voxels/s",
            "peak memory, GiB",
            "of which curves + maps",
            "faster than the paper's GPU",
            "than its CPU",
        ],
        rows,
        "All threads, float32, from the array of curves to the maps; memory is the peak of the "
        "whole process, curves included. Paper: 4.3 hours on a Tesla K40m, 179 days on one CPU.",
    )
    return [table], figures


def main(argv: Sequence[str] | None = None) -> None:
    run("whole_brain", measure, __doc__ or "", argv)


if __name__ == "__main__":
    if sys.argv[1:2] == [WORKER]:
        print(json.dumps(worker(int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))))
    else:
        main()
