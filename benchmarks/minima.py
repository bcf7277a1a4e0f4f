"""Exchange models: how often a fit is the best of many exact solutions from other starts."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

import kety
from benchmarks.common import Table, run, voxels_option
from benchmarks.exchange import NOISE, curve_costs, problem_of
from benchmarks.tissue import artery, truths
from kety.fitting.nodes import make_nodes
from kety.fitting.optimizers.varprolm import VarProLM
from kety.fitting.pairs import Starts, bands_of
from kety.fitting.solve import prepare
from kety.fitting.terms import TermsKernel, solve_from, terms_kernel
from kety.simulate import protocol
from kety.studies.optimization.data import Array

MODELS = ("2cxm", "2cum")
SAMPLINGS = {
    "37 irregular frames in 209 s": np.asarray(protocol("brain")),
    "37 frames 6 s apart": np.arange(37) * 6.0,
}
VOXELS, STARTS, THREADS = 2000, 48, 2
LEVELS = (1e-4, 1e-3)  # relative excess of the sum of squares


def best_known(kernel: TermsKernel, curves: Array, truth: Array, starts: int) -> Array:
    """Lowest sum of squares (V,): exact solutions in double precision from Halton's points, cubed
    towards the lower bounds where tissues are, from the truth, and kety's own."""
    from scipy.stats import qmc

    problem = kernel.problem
    lo, hi = problem.kernel_bounds()
    points = qmc.Halton(len(lo), rng=0).random(starts)
    shift = np.array([p.is_delay for p in problem.parameters])
    points = lo + np.clip(np.where(shift, points, points**3), 1e-4, 1 - 1e-4) * (hi - lo)
    count = len(curves)
    start = np.concatenate(
        [np.repeat(points[None], count, axis=0), truth[:, None]], axis=1
    ).reshape(-1, len(lo))

    bands = bands_of(make_nodes(kernel).bands, start[:, problem.slot("delay")])
    first = np.arange(count + 1) * (starts + 1)
    far = solve_from(kernel, VarProLM(), curves, Starts(first, start, bands), np.float64)
    own = prepare(problem, VarProLM())(curves)
    costs = [curve_costs(kernel, found.parameters, curves) for found in (far, own)]
    return np.asarray(np.minimum(*costs))


def compare(model: str, times: Array, voxels: int, starts: int, seed: int) -> dict[str, Any]:
    """Excess of kety's sums of squares over the best that is known."""
    drawn = truths(model, voxels, seed)
    clean = kety.simulate_curves(drawn, times, artery(times), model)
    random = np.random.default_rng([seed, 2])
    curves = clean + NOISE * random.standard_normal(clean.shape)
    problem = problem_of(model, times, threads=THREADS)
    kernel = terms_kernel(problem)
    truth = np.stack([drawn[p.name] * problem.factor(p) for p in problem.parameters], axis=1)
    best = best_known(kernel, curves, truth, starts)
    figures = {}
    for dtype in ("float32", "float64"):
        found = prepare(problem_of(model, times, dtype, THREADS), VarProLM())(curves.astype(dtype))
        excess = curve_costs(kernel, found.parameters.astype(float), curves) / best - 1.0
        figures[dtype] = {
            "within": [float(np.mean(excess <= level)) for level in LEVELS],
            "worst": float(excess.max()),
            "evaluations": float(found.evaluations.mean()),
        }
    return figures


def measure(options: argparse.Namespace, voxels: int) -> tuple[list[Table], dict[str, Any]]:
    """All models and samplings."""
    voxels, starts = (100, 8) if options.quick else (voxels, STARTS)
    found = {
        (model, words): compare(model, times, voxels, starts, options.seed)
        for model in MODELS
        for words, times in SAMPLINGS.items()
    }
    rows = [
        [
            model,
            words,
            dtype,
            *(f"{100 * share:.2f} %" for share in one[dtype]["within"]),
            f"{100 * one[dtype]['worst']:.2f} %",
            f"{one[dtype]['evaluations']:.1f}",
        ]
        for (model, words), one in found.items()
        for dtype in one
    ]
    table = Table(
        f"Sum of squares beside the best of {starts + 1} exact solutions from other starts",
        ["model", "frames", "precision", "within 1e-4", "within 1e-3", "worst", "evaluations"],
        rows,
        f"{voxels:,} voxels each, seed {options.seed}, noise {NOISE:g} HU, input peak 300 HU, "
        "default bounds, delay free.",
    )
    return [table], {f"{model}, {words}": one for (model, words), one in found.items()}


def main(argv: Sequence[str] | None = None) -> None:
    voxels, others = voxels_option(argv, VOXELS)
    words = f"{__doc__} --voxels N: voxels of each, {VOXELS} if left out."
    run("minima", partial(measure, voxels=voxels), words, others)


if __name__ == "__main__":
    main()
