"""One timed fit in a process of its own: ``python -m kety.studies.multitask.scale_fit FILE``.

The file holds curves (X, Y[, Z], T), times and the input. A line of JSON tells the seconds of
`kety.fit`, the largest memory of the process in GiB, and what the joint estimate says of itself.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

import kety

KIBI: Final = 1024.0


def peak_memory() -> float:
    """Largest memory of this process, GiB.

    Linux counts in ``ru_maxrss`` what the parent had before this program was started in its place;
    ``VmHWM`` begins with the program.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) / KIBI**2
    # macOS counts in bytes.
    unit = KIBI**3 if sys.platform == "darwin" else KIBI**2
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def main(path: str, threads: str) -> None:
    """Fit the curves of a file and tell what it took."""
    with np.load(path) as held:
        curves, times = held["curves"], held["times"]
        aif = kety.InputFunction(
            held["input_times"],
            held["input"],
            hematocrit=float(held["hematocrit"]),
            interpolation=str(held["interpolation"]),
        )
    before = peak_memory()
    mask = np.ones(curves.shape[:-1], dtype=np.bool_)
    given: dict[str, Any] = {"threads": int(threads) or None, "joint": kety.Joint("graph")}
    # What is imported at the first fit is no part of the time.
    corner = (slice(0, 16),) * mask.ndim
    kety.fit(curves[corner], times, aif, mask=mask[corner], **given)
    began = time.perf_counter()
    maps = kety.fit(curves, times, aif, mask=mask, **given)
    seconds = time.perf_counter() - began
    facts = {
        "seconds": seconds,
        "memory": peak_memory(),
        "memory_before": before,
        "strength": float(maps.attrs["joint_strength"]),
        "steps": int(maps.attrs["joint_steps"]),
        "converged": bool(maps.attrs["joint_converged"]),
        "neighbours": float(maps.attrs["joint_neighbours"]),
    }
    sys.stdout.write(json.dumps(facts) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
