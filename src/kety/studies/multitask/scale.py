"""Large images: time and memory of the joint estimate, and whether both grow in proportion."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Final

import numpy as np

from kety.errors import KetyError
from kety.fitting.engine import available_threads
from kety.joint.hyper import ENOUGH
from kety.simulate.lesions import LesionPhantom, simulate_lesions
from kety.studies.figures import SPARE, Panel, Series, draw
from kety.studies.multitask.paper import STATEMENTS
from kety.studies.page import number
from kety.studies.records import Effort, Outcome, Picture, Table

Shape = tuple[int, int, int]

QUICK: Final[tuple[Shape, ...]] = ((64, 64, 1), (128, 128, 1), (192, 192, 1), (256, 256, 1))
FULL: Final[tuple[Shape, ...]] = (
    (128, 128, 1),
    (256, 256, 1),
    (512, 512, 1),
    (1000, 1000, 1),
    (250, 250, 16),
)
SLICE, MANY = 512 * 512, 1_000_000
SLICE_SECONDS, MANY_SECONDS, MEMORY = 10.0, 60.0, 8.0
"""What a slice and a million voxels may take, s, and the memory of the latter, GiB."""
LINEAR: Final = 1.25
"""How much longer a voxel may take in the largest slice than in the one a quarter of its size."""
CHILD: Final = "kety.studies.multitask.scale_fit"


@dataclass(frozen=True)
class Timed:
    """A fit in a process of its own; see `scale_fit`."""

    shape: Shape
    seconds: float
    memory: float
    memory_before: float
    strength: float
    steps: int
    converged: bool
    neighbours: float

    @property
    def voxels(self) -> int:
        """Voxels fitted."""
        return int(np.prod(self.shape))

    @property
    def microseconds(self) -> float:
        """Time of a voxel, µs."""
        return 1e6 * self.seconds / self.voxels


def run(effort: Effort) -> Outcome:
    """Time fits of growing images."""
    began = time.perf_counter()
    found = []
    for shape in FULL if effort.full else QUICK:
        effort.tell(f"scale: {' × '.join(map(str, shape))} voxels")
        found.append(timed(shape, effort))
    return Outcome(
        "scale",
        "Large images: time and memory",
        told(found),
        (),
        (time_table(found),),
        (picture(found),),
        conditions(effort),
        targets(found),
        time.perf_counter() - began,
    )


def timed(shape: Shape, effort: Effort) -> Timed:
    """Fit a phantom in a process of its own, whose memory is then the fit's.

    Raises
    ------
    KetyError
        If that process fails; the message holds its last words.
    """
    phantom = simulate_lesions(shape, seed=effort.seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "curves.npz"
        _save(path, phantom)
        del phantom
        command = [sys.executable, "-m", CHILD, str(path), str(effort.threads or 0)]
        # Threads of linear algebra would compete with the solver's own.
        surroundings = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        ended = subprocess.run(
            command, capture_output=True, text=True, check=False, env=surroundings
        )
    if ended.returncode != 0:
        last = ended.stderr.strip().splitlines()[-1:] or [f"exit status {ended.returncode}"]
        raise KetyError(f"the timed fit of {shape} voxels failed: {last[0]}")
    return Timed(shape, **json.loads(ended.stdout.splitlines()[-1]))


def _save(path: Path, phantom: LesionPhantom) -> None:
    aif = phantom.aif
    curves = phantom.curves[:, :, 0] if phantom.curves.shape[2] == 1 else phantom.curves
    np.savez(
        path,
        curves=curves,
        times=phantom.times,
        input_times=aif.times,
        input=aif.concentration,
        hematocrit=aif.hematocrit,
        interpolation=aif.interpolation,
    )


def slices_of(found: Sequence[Timed]) -> list[Timed]:
    """Those of one slice, by size."""
    return sorted((one for one in found if one.shape[2] == 1), key=lambda one: one.voxels)


def growth(found: Sequence[Timed]) -> float:
    """Exponent of time over voxels in slices: 1 is proportional."""
    flat = slices_of(found)
    x, y = np.log([(one.voxels, one.seconds) for one in flat]).T
    return float(np.polyfit(x, y, 1)[0])


def told(found: Sequence[Timed]) -> tuple[str, ...]:
    """What was asked and what came out."""
    largest = max(found, key=lambda one: one.voxels)
    return (
        "The paper estimates at a lower resolution “for computational performance reasons”: with "
        "all pairs, W grows with the square of the number of voxels. It suggests a sparse W. "
        "kety's graph joins voxels within a window, so that work and memory grow with the number "
        "of voxels.",
        f"{largest.voxels:,} voxels ({' × '.join(map(str, largest.shape))}) took "
        f"{largest.seconds:.1f} s and {largest.memory:.2f} GiB, {largest.microseconds:.1f} µs a "
        f"voxel, the choice of the strength and the voxelwise fit included. Over slices of "
        f"growing size time goes with the number of voxels to the power {growth(found):.2f}; "
        "below 1, since the strength is chosen from a sample of voxels whatever the size.",
    )


def conditions(effort: Effort) -> tuple[str, ...]:
    """Choices of this experiment."""
    threads = effort.threads or available_threads()
    return (
        f"Lesion phantom, 66 frames, extended Tofts with delay, every voxel, single precision, "
        f'joint="graph" with strength from left-out frames, {threads} threads. Time is that of '
        "kety.fit from curves to maps with standard errors; other work on the machine was not "
        "excluded.",
        "Each fit runs in a process of its own. Memory is its largest resident size, curves and "
        "Python included.",
        f"Of the paper: “{STATEMENTS['sparse']}”",
    )


def targets(found: Sequence[Timed]) -> tuple[tuple[str, bool], ...]:
    """What was to be reached; sizes that were not run are extrapolated."""
    flat = slices_of(found)
    whole = [
        _time_target(found, SLICE, SLICE_SECONDS, "A slice of 512 × 512 voxels"),
        _time_target(found, MANY, MANY_SECONDS, "A million voxels"),
    ]
    many = [one.memory for one in found if one.voxels == MANY]
    memory = max(many) if many else line(found, MANY, "memory")
    words = "" if many else ", extrapolated like the time"
    whole.append(
        (
            f"A million voxels take at most {MEMORY:g} GiB: {memory:.2f} GiB{words}.",
            memory <= MEMORY,
        )
    )
    before = max((one for one in flat if one.voxels <= flat[-1].voxels / 2), key=lambda o: o.voxels)
    rate = flat[-1].microseconds / before.microseconds
    whole.append(
        (
            f"Time grows no faster than the number of voxels: {flat[-1].microseconds:.1f} µs a "
            f"voxel in {flat[-1].voxels:,} voxels, {before.microseconds:.1f} µs in "
            f"{before.voxels:,}, {rate:.2f} times (at most {LINEAR:g}).",
            rate <= LINEAR,
        )
    )
    return tuple(whole)


def _time_target(found: Sequence[Timed], voxels: int, limit: float, words: str) -> tuple[str, bool]:
    same = [one for one in found if one.voxels == voxels]
    if same:
        parts = ", ".join(
            f"{one.seconds:.1f} s ({' × '.join(map(str, one.shape))})" for one in same
        )
        return f"{words} takes at most {limit:g} s: {parts}.", max(
            one.seconds for one in same
        ) <= limit
    seconds = line(found, voxels)
    text = (
        f"{words} takes at most {limit:g} s: {seconds:.1f} s, extrapolated along a straight line "
    )
    return f"{text}through the larger slices that were run.", seconds <= limit


def line(found: Sequence[Timed], voxels: int, what: str = "seconds") -> float:
    """Time or memory of a number of voxels by a straight line through slices: a constant, and so
    much for a voxel. Only of slices from which the whole sample for the strength can be drawn."""
    flat = [one for one in slices_of(found) if one.voxels > ENOUGH]
    slope, constant = np.polyfit([o.voxels for o in flat], [getattr(o, what) for o in flat], 1)
    return float(constant + slope * voxels)


def time_table(found: Sequence[Timed]) -> Table:
    """Every fit."""
    rows = tuple(
        (
            " × ".join(map(str, one.shape)),
            one.voxels,
            one.seconds,
            one.microseconds,
            one.memory,
            one.memory_before,
            one.strength,
            one.neighbours,
            one.steps,
            "yes" if one.converged else "no",
        )
        for one in found
    )
    return Table(
        "multitask_scale",
        "Time and memory of joint estimation",
        (
            "grid",
            "voxels",
            "s",
            "µs/voxel",
            "GiB",
            "GiB before the fit",
            "strength",
            "neighbours",
            "steps",
            "converged",
        ),
        rows,
        "GiB before the fit: Python, its libraries and the curves.",
    )


def picture(found: Sequence[Timed]) -> Picture:
    """Time, time of a voxel, and memory over the number of voxels."""
    flat = slices_of(found)
    deep = [one for one in found if one.shape[2] > 1]
    ticks = [(float(one.voxels), f"{one.shape[0]}²") for one in flat]
    panels = []
    for title, unit, scale, get in (
        ("time", "s", "log", attrgetter("seconds")),
        ("time of a voxel", "µs", "linear", attrgetter("microseconds")),
        ("peak memory", "GiB", "log", attrgetter("memory")),
    ):
        x = [float(one.voxels) for one in flat]
        y = [float(get(one)) for one in flat]
        series = [Series("one slice", x, y, colour=SPARE[2])]
        if deep:
            dx, dy = [float(o.voxels) for o in deep], [float(get(o)) for o in deep]
            series.append(Series("volume", dx, dy, colour=SPARE[1], mark="s", line=""))
        if title == "time":
            even = [y[-1] * v / x[-1] for v in x]
            series.append(Series("in proportion", x, even, colour="#59636e", mark="", line="--"))
        limits = None if scale == "log" else (0.0, 1.15 * max(float(get(o)) for o in found))
        panels.append(Panel(title, series, "voxels", unit, "log", scale, ticks, limits))
    alt = "; ".join(
        f"{one.voxels:,} voxels {number(one.seconds)} s, {number(one.memory)} GiB" for one in found
    )
    return Picture(
        "multitask-scale",
        "Time, time of a voxel and peak memory of joint estimation over the number of voxels.",
        draw(panels, height=2.7),
        f"Joint estimation: {alt}.",
    )
