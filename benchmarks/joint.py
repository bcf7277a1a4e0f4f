"""Time of joint estimates at a given strength: images of voxels that are all different."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

import kety
from benchmarks.common import Table, run, stopwatch
from benchmarks.exchange import noisy
from benchmarks.tissue import artery, portal_of
from kety.simulate import protocol

MODELS = {"extended_tofts": 256, "2cxm": 256, "2cum": 256, "dual_input_two_compartment": 32}
"""Edges of the images, voxels."""
STRENGTH, THREADS = 4.0, 2


def measure(options: argparse.Namespace) -> tuple[list[Table], dict[str, Any]]:
    """Seconds of a voxelwise and of a joint estimate, whole calls."""
    times = np.asarray(protocol("brain"))
    aif, rows, figures = artery(times), [], {}
    for model, edge in MODELS.items():
        edge = edge // 4 if options.quick else edge
        image = noisy(model, times, edge * edge, options.seed)[0].reshape(edge, edge, -1)
        given: dict[str, Any] = {"mask": np.ones((edge, edge), bool), "threads": THREADS}
        if model.startswith("dual"):
            given["portal"] = portal_of(aif)
        seconds = []
        for joint in (None, kety.Joint("graph", strength=STRENGTH)):
            fit = partial(kety.fit, image, times, aif, model, joint=joint, **given)
            seconds.append(min(stopwatch(fit, 1 if options.quick else 2)))
        figures[model] = {"voxels": edge * edge, "voxelwise": seconds[0], "joint": seconds[1]}
        rows.append([model, f"{edge * edge:,}", *(f"{s:.2f}" for s in seconds)])
    header = ["model", "voxels", "voxelwise, s", "joint, s"]
    note = f"float32, delay free, graph of likeness, strength {STRENGTH:g}, {THREADS} threads."
    return [Table("Joint estimates", header, rows, note)], figures


def main(argv: Sequence[str] | None = None) -> None:
    run("joint", measure, __doc__ or "", argv)


if __name__ == "__main__":
    main()
