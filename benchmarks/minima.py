"""Models of several terms: how often a fit is the best of exact solutions from many starts."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

import kety
from benchmarks.common import Table, run, voxels_option
from benchmarks.exchange import NOISE, curve_costs, problem_of
from benchmarks.tissue import artery, portal_of, truths
from kety.fitting.optimizers.varprolm import VarProLM
from kety.fitting.pairs import Starts
from kety.fitting.problem import Problem
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
TWO_INPUTS = (
    "dual_input_extended_tofts",
    "dual_input_one_compartment",
    "dual_input_two_compartment",
)
PORTAL_FRAMES = "37 irregular frames in 209 s"
PORTAL_AT_FIRST = (0.0, 0.01, 0.05)  # of its peak
PORTAL_VOXELS, NEAR = 500, 300  # starts around the truth: of so many parameters few others lead far
SPREAD, SHIFT = 0.7, 4.0  # of their logarithms; of their delays, s
LEVELS = (1e-4, 1e-3)  # relative excess of the sum of squares


def near_truth(problem: Problem, truth: Array, count: int, seed: int) -> Array:
    """Starts (V, count, P) around the truth (V, P); half of their delays anywhere."""
    random = np.random.default_rng([seed, 3])
    lo, hi = problem.kernel_bounds()
    shape = len(truth), count, len(lo)
    around = truth[:, None] * np.exp(SPREAD * random.standard_normal(shape))
    moved = truth[:, None] + SHIFT * random.standard_normal(shape)
    anywhere = random.uniform(lo, hi, shape)
    late = np.where(random.random(shape) < 0.5, moved, anywhere)
    delays = np.array([p.is_delay for p in problem.parameters])
    return np.asarray(np.clip(np.where(delays, late, around), lo, hi))


def best_known(
    kernel: TermsKernel, curves: Array, truth: Array, starts: int, near: int, seed: int
) -> Array:
    """Lowest sum of squares (V,): exact solutions in double precision from Halton's points, cubed
    towards the lower bounds where tissues are, from the truth, from ``near`` points around it, and
    kety's own."""
    from scipy.stats import qmc

    problem = kernel.problem
    lo, hi = problem.kernel_bounds()
    points = qmc.Halton(len(lo), rng=0).random(starts)
    shift = np.array([p.is_delay for p in problem.parameters])
    points = lo + np.clip(np.where(shift, points, points**3), 1e-4, 1 - 1e-4) * (hi - lo)
    count = len(curves)
    start = np.concatenate(
        [
            np.repeat(points[None], count, axis=0),
            truth[:, None],
            near_truth(problem, truth, near, seed),
        ],
        axis=1,
    ).reshape(-1, len(lo))
    first = np.arange(count + 1) * (starts + near + 1)
    found = Starts(first, start, kernel.bands_at(start))
    far = solve_from(kernel, VarProLM(), curves, found, np.float64)
    own = prepare(problem, VarProLM())(curves)
    costs = [curve_costs(kernel, found.parameters, curves) for found in (far, own)]
    return np.asarray(np.minimum(*costs))


def compare(
    model: str, times: Array, voxels: int, starts: int, seed: int, at_first: float = 0.0
) -> dict[str, Any]:
    """Excess of kety's sums of squares over the best that is known. ``at_first``: what the portal
    input of a model with two has at the first frame, relative to its peak."""
    drawn = truths(model, voxels, seed)
    aif, portal, near = artery(times), None, 0
    if model in TWO_INPUTS:
        portal = portal_of(aif)
        floor = at_first * portal.concentration.max()
        portal, near = replace(portal, concentration=portal.concentration + floor), NEAR
    clean = kety.simulate_curves(drawn, times, aif, model, portal=portal)
    random = np.random.default_rng([seed, 2])
    curves = clean + NOISE * random.standard_normal(clean.shape)

    def problem_in(dtype: str) -> Problem:
        return replace(problem_of(model, times, dtype, THREADS), portal=portal)

    problem = problem_in("float64")
    kernel = terms_kernel(problem)
    truth = np.stack([drawn[p.name] * problem.factor(p) for p in problem.parameters], axis=1)
    best = best_known(kernel, curves, truth, starts, near, seed)
    figures: dict[str, Any] = {"starts": starts + near + 1}
    for dtype in ("float32", "float64"):
        found = prepare(problem_in(dtype), VarProLM())(curves.astype(dtype))
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
    one = {
        (model, words): compare(model, times, voxels, starts, options.seed)
        for model in MODELS
        for words, times in SAMPLINGS.items()
    }
    fewer = min(voxels, PORTAL_VOXELS)
    two = {
        (model, f"{100 * share:g} % of its peak"): compare(
            model, SAMPLINGS[PORTAL_FRAMES], fewer, starts, options.seed, share
        )
        for model in TWO_INPUTS
        for share in PORTAL_AT_FIRST
    }
    noise = f"noise {NOISE:g} HU, input peak 300 HU, default bounds, delays free."
    tables = [
        _table(one, "frames", f"{voxels:,} voxels each, seed {options.seed}, {noise}"),
        _table(
            two,
            "portal input at the first frame",
            f"{fewer:,} voxels each, seed {options.seed}, {PORTAL_FRAMES}, {noise}",
        ),
    ]
    return tables, {", ".join(case): figures for case, figures in (one | two).items()}


def _table(found: dict[tuple[str, str], dict[str, Any]], case: str, note: str) -> Table:
    rows = [
        [
            *which,
            dtype,
            *(f"{100 * share:.2f} %" for share in one[dtype]["within"]),
            f"{100 * one[dtype]['worst']:.2f} %",
            f"{one[dtype]['evaluations']:.1f}",
        ]
        for which, one in found.items()
        for dtype in ("float32", "float64")
    ]
    starts = next(iter(found.values()))["starts"]
    return Table(
        f"Sum of squares beside the best of {starts} exact solutions from other starts",
        ["model", case, "precision", "within 1e-4", "within 1e-3", "worst", "evaluations"],
        rows,
        note,
    )


def main(argv: Sequence[str] | None = None) -> None:
    voxels, others = voxels_option(argv, VOXELS)
    words = f"{__doc__} --voxels N: voxels of each, {VOXELS} if left out."
    run("minima", partial(measure, voxels=voxels), words, others)


if __name__ == "__main__":
    main()
