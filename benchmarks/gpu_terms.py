"""Models of several terms on a card: beside the processor, and the time of every kernel."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import Table
from benchmarks.exchange import noisy, problem_of
from kety.fitting import solve
from kety.fitting.cuda.card import Call, Card
from kety.fitting.engine import KernelFit
from kety.fitting.optimizers import VarProLM
from kety.simulate import protocol

MODELS = {"2cxm": 1.0, "2cum": 1.0, "aath": 0.1, "dual_input_one_compartment": 0.01}
"""The share of the voxels that each is timed with."""
MADE = 100_000  # curves; more are these again
COMPARED = 0.02
NEAR = 1e-4  # relative, in single precision


def same_digits(here: KernelFit, there: KernelFit) -> NDArray[np.bool_]:
    """Voxels (V,) of which parameters, covariance, sum of squares, r2, number of evaluations and
    status are the same bit for bit."""
    same = np.ones(len(here.status), bool)
    for name in ("parameters", "covariance", "cost", "r2", "evaluations", "status"):
        one, two = (np.asarray(getattr(f, name)).reshape(len(same), -1) for f in (here, there))
        same &= ((one == two) | ((one != one) & (two != two))).all(axis=1)
    return same


def changes(here: NDArray[Any], there: NDArray[Any]) -> NDArray[np.float64]:
    """Largest relative difference of each voxel's numbers, (V,) or (V, P), in (V,)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        change = np.abs(there / here - 1.0)
    change[np.isnan(change)] = np.inf  # known to one alone
    change[(here == there) | (np.isnan(here) & np.isnan(there))] = 0.0
    return change.reshape(len(here), -1).max(axis=1)


@contextmanager
def kernel_times(card: Card) -> Iterator[dict[str, float]]:
    """Seconds of every kernel by its name, measured on the card between two events."""
    cuda, launch, find = card.cupy.cuda, Call.launch, Card.kernel
    spent: dict[str, float] = defaultdict(float)
    names: dict[int, tuple[str, Any]] = {}
    marks: list[tuple[str, Any, Any]] = []

    def named(self: Card, unit: str, name: str, *others: Any) -> Any:
        kernel = find(self, unit, name, *others)
        names[id(kernel)] = name, kernel  # kept, so that no other takes its place
        return kernel

    def timed(self: Call, kernel: Any, *arguments: Any, **others: Any) -> None:
        first, last = cuda.Event(), cuda.Event()
        first.record()
        launch(self, kernel, *arguments, **others)
        last.record()
        marks.append((names[id(kernel)][0], first, last))

    Call.launch, Card.kernel = timed, named  # type: ignore[method-assign]
    try:
        yield spent
    finally:
        Call.launch, Card.kernel = launch, find  # type: ignore[method-assign]
    for name, first, last in marks:
        last.synchronize()
        spent[name] += cuda.get_elapsed_time(first, last) / 1000


def exchange(card: Card, voxels: int, seed: int) -> tuple[Table, dict[str, Any]]:
    """Fits with delay in single precision: how many agree with the processor's, and speed."""
    times = np.asarray(protocol("brain"))
    rows, figures = [], {}
    for model, share in MODELS.items():
        count = max(int(share * voxels), 100)
        curves = noisy(model, times, min(count, MADE), seed)[0].astype(np.float32)
        problem = problem_of(model, times, "float32", os.cpu_count() or 1)
        there = solve.prepare(replace(problem, card=card), VarProLM())
        some = curves[: max(int(COMPARED * count), 50)]
        here, found = solve.prepare(problem, VarProLM())(some), there(some)
        both = (here.status == found.status) & np.isfinite(here.cost)
        many = np.resize(curves, (count, len(times)))
        with kernel_times(card) as spent:
            start = time.perf_counter()
            there(many)
            whole = time.perf_counter() - start
        kernels = sum(spent.values())
        figures[model] = {
            "voxels": count,
            "same status": float(np.mean(here.status == found.status)),
            "cost within": float(np.mean(changes(here.cost, found.cost)[both] < NEAR)),
            "parameters within": float(
                np.mean(changes(here.parameters, found.parameters)[both] < NEAR)
            ),
            "same": float(same_digits(here, found).mean()),
            "seconds": whole,
            "kernels": dict(spent),
        }
        longest = sorted(spent, key=lambda n: -spent[n])[:3]
        rows.append(
            [
                model,
                f"{count:,}",
                f"{100 * figures[model]['same status']:.2f} %",
                f"{100 * figures[model]['parameters within']:.2f} %",
                f"{100 * figures[model]['same']:.2f} %",
                f"{count / whole:,.0f}",
                f"{count / kernels:,.0f}",
                ", ".join(f"{n} {1e9 * spent[n] / count:.0f}" for n in longest),
            ]
        )
    header = [
        *("model", "voxels", "same status", "parameters within 1e-4", "same digits"),
        *("voxels/s", "kernels alone", "longest kernels, ns per voxel"),
    ]
    note = "float32, 37 frames, delays free; voxels/s with transfers and the processor's part."
    return Table("Models of several terms", header, rows, note), figures
