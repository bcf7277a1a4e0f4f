"""The whole acceptance on an NVIDIA card in one call: correctness beside the processor, memory and
race checks, time of 6,000,000 voxels, models of several terms, Nelder-Mead with 32 starts. Under
ten minutes."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import kety
from benchmarks.common import Table, run
from benchmarks.gpu_terms import changes, exchange, same_digits
from benchmarks.tissue import portal_of
from kety.errors import KetyError
from kety.fitting import solve
from kety.fitting.cuda import Card, card_or_reason, find_card
from kety.fitting.direct import prepare_search
from kety.fitting.discretize import Discretization
from kety.fitting.optimizers import NelderMead, VarProLM
from kety.fitting.problem import Problem, make_problem
from kety.studies.optimization.data import (
    PAPER_BOUNDS,
    PEAK,
    brain_times,
    noisy_curves,
    parker_input,
)

VOXELS, QUICK_VOXELS, TERMS_VOXELS = 6_000_000, 200_000, 1_000_000
SEARCHED, COMPARED, CHECKED, JOINT_EDGE = 20_000, 100_000, 600, 256
SEARCHED_BESIDE = 200  # on the processor as well
PAPER_SECONDS, BLOCK_FFT_SECONDS = 0.0026, 0.00025  # of a voxel
ENOUGH = 0.999  # of the voxels
KERNEL_LIMIT, WHOLE_LIMIT, TIMES_PAPER = 0.3, 1.5, 1000.0
WORKER = "--under-sanitizer"
TOOLS = ("memcheck", "racecheck")
TOOL_SECONDS = 120
REPEATS = 3


def problem_of(dtype: str, bounds: Any = PAPER_BOUNDS) -> Problem:
    """Data set 2 of the optimisation paper: 37 frames, extended Tofts with delay."""
    times = brain_times()
    aif = parker_input(1.0, times[-1] + 5.0, peak=PEAK)
    return make_problem(
        times,
        aif,
        "extended_tofts",
        delay=True,
        bounds=bounds,
        weights=None,
        dtype=dtype,
        threads=os.cpu_count() or 1,
        find_enhancing=False,
    )


def curves_of(problem: Problem, count: int, seed: int) -> NDArray[np.float32]:
    """Noisy curves of float32; of many, copies of a million with noise of their own order."""
    made = min(count, 1_000_000)
    _, curves = noisy_curves(made, problem.times, problem.aif, seed)
    return np.resize(np.asarray(curves, np.float32), (count, len(problem.times)))


def correctness(card: Card, count: int, seed: int) -> tuple[Table, list[dict[str, Any]]]:
    """Sums of squares and parameters beside the processor's."""
    rows, figures = [], []
    for bounds_name, bounds in (("paper", PAPER_BOUNDS), ("default", None)):
        for dtype, near in (("float32", 1e-4), ("float64", 1e-9)):
            for tight in (False, True):
                problem = problem_of(dtype, bounds)
                curves = curves_of(problem, count, seed)
                options = VarProLM(ftol=1e-30, xtol=1e-12) if tight else VarProLM()
                here = solve.prepare(problem, options)(curves)
                there = solve.prepare(replace(problem, card=card), options)(curves)
                both = (here.status == there.status) & np.isfinite(here.cost)
                cost = changes(here.cost, there.cost)[both]
                within = float(np.mean(changes(here.parameters, there.parameters)[both] < near))
                record = {
                    "bounds": bounds_name,
                    "dtype": dtype,
                    "tolerances": "tight" if tight else "default",
                    "voxels": count,
                    "same status": float(np.mean(here.status == there.status)),
                    "limit": near,
                    "cost within": float(np.mean(cost < near)),
                    "parameters within": within,
                    "same digits": float(same_digits(here, there).mean()),
                    "reached": "yes" if within >= ENOUGH else "no",
                }
                figures.append(record)
                rows.append(
                    [f"{v:.6g}" if isinstance(v, float) else str(v) for v in record.values()]
                )
    return Table("Card beside processor", list(figures[0]), rows), figures


def joint_estimates(card: Card, edge: int, seed: int) -> tuple[Table, dict[str, Any]]:
    """Joint estimates of images with an edge of so many voxels, beside the processor's."""
    rows, figures = [], {}
    for model, dtype, size in (
        ("extended_tofts", "float32", edge),
        ("extended_tofts", "float64", edge),
        ("2cxm", "float32", edge // 4),
    ):
        problem = problem_of(dtype)
        curves = curves_of(problem, size * size, seed).reshape(size, size, -1)
        seconds, maps = {}, {}
        for device in ("cpu", "cuda"):
            for _ in range(2 if device == "cuda" else 1):  # the first compiles
                start = time.perf_counter()
                maps[device] = kety.fit(
                    curves,
                    problem.times,
                    problem.aif,
                    model,
                    joint=kety.Joint("graph", strength=10.0),
                    mask=np.ones((size, size), bool),
                    dtype=dtype,
                    device=device,
                )
                seconds[device] = time.perf_counter() - start
        names = kety.MODELS[model].names
        pairs = [(maps["cpu"][n].values, maps["cuda"][n].values) for n in names]
        same = np.mean([np.mean((a == b) | (np.isnan(a) & np.isnan(b))) for a, b in pairs])
        figures[f"{model}, {dtype}"] = {"voxels": size * size, "same": float(same), **seconds}
        rows.append(
            [
                *(model, dtype, f"{size * size:,}", f"{100 * same:.3f} %"),
                *(f"{seconds[device]:.2f}" for device in ("cpu", "cuda")),
            ]
        )
    header = ["model", "precision", "voxels", "same digits", "processor, s", "card, s"]
    return Table("Joint estimation", header, rows, "Graph of likeness, strength 10."), figures


def kernel_seconds(card: Card, problem: Problem, curves: NDArray[np.float32]) -> float:
    """Time of the kernels alone: curves lie on the card, results stay there."""
    from kety.fitting.cuda.fit import FitOnCard

    seen: list[FitOnCard] = []
    start = FitOnCard._start

    def kept(self: FitOnCard, *arguments: Any) -> None:
        seen.append(self)
        start(self, *arguments)

    FitOnCard._start = kept  # type: ignore[method-assign]
    try:
        solve.prepare(problem, VarProLM())(curves[: 1 << 18])
    finally:
        FitOnCard._start = start  # type: ignore[method-assign]
    solver = seen[0]
    slot = solver._slots[0]
    stream, cuda = slot.stream, card.cupy.cuda
    total = 0.0
    for begin in range(0, len(curves), 1 << 18):
        part = curves[begin : begin + (1 << 18)]
        slot.sent[: part.size] = part.ravel()
        with stream:
            slot.curves.set(slot.sent, stream=stream)
            slot.call.set(voxels=len(part))
            slot.call.send(stream)
            first, last = cuda.Event(), cuda.Event()
            first.record(stream)
            solver.launch(slot, len(part))
            last.record(stream)
            stream.synchronize()
        total += cuda.get_elapsed_time(first, last) / 1000
    return total


def speed(card: Card, voxels: int, seed: int) -> tuple[Table, dict[str, Any]]:
    """6,000,000 voxels x 37 samples with the default solver."""
    rows, figures = [], {}
    for name, bounds in (("paper", PAPER_BOUNDS), ("default", None)):
        problem = replace(problem_of("float32", bounds), card=card)
        curves = curves_of(problem, voxels, seed)
        kernels = min(kernel_seconds(card, problem, curves) for _ in range(REPEATS))
        fit = solve.prepare(problem, VarProLM())
        whole = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            fit(curves)
            whole.append(time.perf_counter() - start)
        start = time.perf_counter()
        kety.fit(
            curves,
            problem.times,
            problem.aif,
            bounds=bounds,
            mask=np.ones(voxels, bool),
            device="cuda",
        )
        maps = time.perf_counter() - start
        figures[name] = {"kernels_s": kernels, "with_transfers_s": min(whole), "kety_fit_s": maps}
        rows.append(
            [
                name,
                f"{kernels:.3f}",
                f"{min(whole):.3f}",
                f"{maps:.2f}",
                f"{1e9 * kernels / voxels:.1f}",
                "yes" if kernels <= KERNEL_LIMIT and min(whole) <= WHOLE_LIMIT else "no",
            ]
        )
    header = ["bounds", "kernels, s", "with transfers, s", "kety.fit, s", "ns per voxel", "reached"]
    note = f"{voxels:,} voxels x 37 samples; limits {KERNEL_LIMIT} and {WHOLE_LIMIT} s."
    return Table("Default solver", header, rows, note), figures


def searches(card: Card, voxels: int, seed: int) -> tuple[Table, dict[str, Any]]:
    """Nelder-Mead with 32 starts and the paper's criteria."""
    rows, figures = [], {}
    problem = replace(problem_of("float32"), card=card)
    curves = curves_of(problem, voxels, seed)
    optimizer = NelderMead.preset("paper")
    for name, choice in (
        ("IIR, Thiran, 1 Hz", Discretization("iir")),
        ("exact, 37 frames", Discretization()),
    ):
        from kety.fitting.cuda.search import SearchOnCard

        seconds: list[float] = []
        search = SearchOnCard.__call__

        def timed(
            self: SearchOnCard, *arguments: Any, search: Any = search, seconds: Any = seconds
        ) -> Any:
            start = time.perf_counter()
            found = search(self, *arguments)
            seconds.append(time.perf_counter() - start)
            return found

        SearchOnCard.__call__ = timed  # type: ignore[method-assign]
        try:
            fit = prepare_search(problem, optimizer, choice)
            fit(curves[:1000])
            seconds.clear()
            result = fit(curves)
        finally:
            SearchOnCard.__call__ = search  # type: ignore[method-assign]
        each = sum(seconds) / voxels
        some = curves[:SEARCHED_BESIDE]
        here = prepare_search(replace(problem, card=None), optimizer, choice)(some)
        same = float(same_digits(here, fit(some)).mean())
        figures[name] = {
            "seconds_per_voxel": each,
            "evaluations": float(result.evaluations.mean()),
            "same digits": same,
        }
        rows.append(
            [
                name,
                f"{1e6 * each:.2f}",
                f"{result.evaluations.mean():,.0f}",
                f"{100 * same:.1f} %",
                f"{PAPER_SECONDS / each:,.0f}",
                f"{BLOCK_FFT_SECONDS / each:,.0f}",
                "yes" if PAPER_SECONDS / each >= TIMES_PAPER else "no",
            ]
        )
    header = ["model", "us per voxel", "evaluations", "same digits as on the processor"]
    header += ["x the paper", "x block FFT", "reached"]
    note = (
        f"{voxels:,} voxels, {optimizer.starts} starts; transfers counted, standard errors (on "
        f"the processor) not. The paper: {PAPER_SECONDS} s; block FFT: {BLOCK_FFT_SECONDS} s."
    )
    return Table("Nelder-Mead", header, rows, note), figures


def under_sanitizer(seed: int) -> None:
    """A little of everything, for compute-sanitizer to watch."""
    card = find_card()
    for dtype in ("float32", "float64"):
        for bounds in (PAPER_BOUNDS, None):
            problem = replace(problem_of(dtype, bounds), card=card)
            curves = curves_of(problem, CHECKED, seed)
            solve.prepare(problem, VarProLM())(curves)
        for optimizer in ("nelder_mead", "differential_evolution"):
            for kind in ("exact", "iir", "fir"):
                kety.fit(
                    curves[:40],
                    problem.times,
                    problem.aif,
                    optimizer=optimizer,
                    discretization=kind,
                    dtype=dtype,
                    device="cuda",
                )
        for model in ("2cxm", "aath"):
            kety.fit(curves, problem.times, problem.aif, model, dtype=dtype, device="cuda")
        liver = "dual_input_one_compartment"
        two = {"portal": portal_of(problem.aif), "mask": np.ones(20, bool)}
        kety.fit(curves[:20], problem.times, problem.aif, liver, dtype=dtype, device="cuda", **two)
        for model, edge in (("extended_tofts", 20), ("2cxm", 8)):
            kety.fit(
                curves[: edge * edge].reshape(edge, edge, -1),
                problem.times,
                problem.aif,
                model,
                joint=kety.Joint("graph", strength=1000.0),
                dtype=dtype,
                mask=np.ones((edge, edge), bool),
                device="cuda",
            )


def sanitizers(seed: int) -> tuple[Table, dict[str, Any]]:
    """Reads and writes out of bounds, and races."""
    program = shutil.which("compute-sanitizer")
    figures: dict[str, Any] = {}
    for tool in TOOLS:
        if program is None:
            figures[tool] = "compute-sanitizer is not there: not run"
            continue
        command = [program, "--tool", tool, "--error-exitcode", "9", sys.executable, "-m"]
        try:
            done = subprocess.run(
                [*command, "benchmarks.gpu", WORKER, str(seed)],
                capture_output=True,
                text=True,
                timeout=TOOL_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            figures[tool] = f"not finished in {TOOL_SECONDS} s"
            continue
        summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: .*", done.stdout + done.stderr)
        figures[tool] = summary[-1] if summary else f"exit {done.returncode}: {done.stderr[-300:]}"
    return Table("compute-sanitizer", ["tool", "found"], list(figures.items())), figures


def measure(options: argparse.Namespace) -> tuple[list[Table], dict[str, Any]]:
    """Everything; progress on stderr."""
    card = find_card()
    quick = options.quick
    parts: list[Table] = []
    figures: dict[str, Any] = {"card": card.name, "arch": card.arch, "processors": card.processors}
    for name, action in (
        ("correctness", lambda: correctness(card, COMPARED // (10 if quick else 1), options.seed)),
        ("speed", lambda: speed(card, QUICK_VOXELS if quick else VOXELS, options.seed)),
        ("exchange", lambda: exchange(card, TERMS_VOXELS // (10 if quick else 1), options.seed)),
        ("searches", lambda: searches(card, SEARCHED // (10 if quick else 1), options.seed)),
        ("joint", lambda: joint_estimates(card, JOINT_EDGE // (4 if quick else 1), options.seed)),
        ("sanitizers", lambda: sanitizers(options.seed)),
    ):
        start = time.perf_counter()
        table, figures[name] = action()
        parts.append(table)
        print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        # What is there is not lost if the rest takes too long.
        partial = os.environ.get("OUT")
        if partial:
            Path(partial, "gpu.json").write_text(json.dumps(figures, indent=1, default=float))
    parts[0] = replace(parts[0], title=f"{parts[0].title} ({card.name}, {card.arch})")
    return parts, figures


def main(argv: Sequence[str] | None = None) -> None:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == [WORKER]:
        under_sanitizer(int(arguments[1]))
        return
    if card_or_reason("auto")[0] is None:
        try:
            find_card()
        except KetyError as error:
            sys.exit(f"no card, so nothing was measured: {error}")
    run("gpu", measure, __doc__ or "", arguments)


if __name__ == "__main__":
    main()
