"""Models of several terms: how often the fit is the optimum, noise-free recovery, and speed."""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

import kety
from benchmarks.common import Table, run, stopwatch, voxels_option
from benchmarks.tissue import artery, inputs, truths
from kety.fitting.problem import Problem, make_problem
from kety.fitting.terms import TermsKernel, terms_curves, terms_kernel
from kety.simulate import protocol
from kety.studies.optimization.data import Array

VOXELS, STARTS, CHUNK, PROCESSES = 300, 32, 10, 2
TOLERANCE = 1e-10  # of the SciPy fits
CLOSE, FAR = 1e-4, 1e-2  # relative excess of the sum of squares
NOISE = 3.0  # HU, of an input whose peak is 300 HU
BY_TERMS = tuple(name for name, model in kety.MODELS.items() if model.terms is not None)
COMPARED = (
    "2cxm",
    "2cum",
    "aath",
    "dual_input_extended_tofts",
    "dual_input_one_compartment",
)
RECOVERED, EXACT = 500, 1e-6  # voxels; relative error that counts as exact
SPEED_VOXELS, SPEED_REPEATS = 500_000, 3


def problem_of(model: str, times: Array, dtype: str = "float64", threads: int = 1) -> Problem:
    """The problem that `kety.fit` solves with its defaults."""
    return make_problem(
        times,
        artery(times),
        model,
        delay=True,
        bounds=None,
        weights=None,
        dtype=dtype,
        threads=threads,
        find_enhancing=False,
        **inputs(model, times),
    )


def curve_costs(kernel: TermsKernel, parameters: Array, curves: Array) -> Array:
    """Sums of squares (V,) at the solver's quantities (V, P)."""
    return np.asarray(((terms_curves(kernel, parameters)[0] - curves) ** 2).sum(axis=1))


def best_of_starts(model: str, times: Array, curves: Array, starts: int) -> Array:
    """Lowest sum of squares (V,) of SciPy's bounded least squares from Halton's points.

    Points are cubed, which crowds them towards the lower bounds, where tissues are: starts that are
    uniform in the wide default bounds find less.
    """
    from scipy.optimize import least_squares
    from scipy.stats import qmc

    problem = problem_of(model, times)
    kernel = terms_kernel(problem)
    lo, hi = problem.kernel_bounds()
    unit = hi - lo
    points = qmc.Halton(len(lo), rng=0).random(starts)
    shift = np.array([p.is_delay or p.name == "haf" for p in problem.parameters])
    points = lo + np.clip(np.where(shift, points, points**3), 1e-4, 1 - 1e-4) * unit
    best = np.full(len(curves), np.inf)

    def residuals(x: Array, y: Array) -> Array:
        return terms_curves(kernel, np.clip(lo + x * unit, lo, hi)[None])[0][0] - y

    def slopes(x: Array, y: Array) -> Array:
        found = terms_curves(kernel, np.clip(lo + x * unit, lo, hi)[None], jacobian=True)[1]
        assert found is not None
        return np.asarray(found[0] * unit)

    for i, y in enumerate(curves):
        for point in points:
            found = least_squares(
                residuals,
                (point - lo) / unit,
                slopes,
                args=(y,),
                bounds=(0.0, 1.0),
                x_scale="jac",
                ftol=TOLERANCE,
                xtol=TOLERANCE,
                gtol=TOLERANCE,
                max_nfev=200,
            )
            best[i] = min(best[i], 2 * found.cost)
    return best


def noisy(model: str, times: Array, voxels: int, seed: int) -> tuple[Array, dict[str, Array]]:
    """Curves (V, T) with noise, and their parameters."""
    drawn = truths(model, voxels, seed)
    clean = kety.simulate_curves(drawn, times, artery(times), model, **inputs(model, times))
    random = np.random.default_rng([seed, 2])
    return clean + NOISE * random.standard_normal(clean.shape), drawn


def optimum(model: str, voxels: int, starts: int, seed: int) -> dict[str, Any]:
    """Excess of kety's sums of squares over the best of SciPy's fits."""
    times = np.asarray(protocol("brain"))
    curves, drawn = noisy(model, times, voxels, seed)
    parts = [(model, times, curves[i : i + CHUNK], starts) for i in range(0, voxels, CHUNK)]
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        best = np.concatenate(pool.starmap(best_of_starts, parts))
    problem = problem_of(model, times)
    kernel = terms_kernel(problem)
    figures: dict[str, Any] = {"model": model}
    for dtype in ("float32", "float64"):
        maps = kety.fit(
            curves,
            times,
            artery(times),
            model,
            dtype=dtype,
            mask=np.ones(voxels, bool),
            **inputs(model, times),
        )
        found = problem.model.kernel_parameters(
            {n: maps[n].values.astype(float) for n in problem.model.names}, problem.aif, voxels
        )
        # Voxels that do not determine every parameter have no curve to evaluate here.
        partial = np.isnan(found).any(axis=1)
        costs = maps.cost.values.astype(float)
        costs[~partial] = curve_costs(kernel, found[~partial], curves[~partial])
        excess = np.nan_to_num(costs / best - 1.0, nan=np.inf)
        off = np.argsort(-excess)[: int(np.sum(excess > CLOSE))]
        figures[dtype] = {
            "close": float(np.mean(excess <= CLOSE)),
            "far": int(np.sum(excess > FAR)),
            "worst": float(excess.max()),
            "better": float(np.mean(excess < -CLOSE)),
            "not_identifiable": int(partial.sum()),
            "evaluations": float(maps.evaluations.values.mean()),
            "outside": [
                {
                    "voxel": int(v),
                    "excess": float(excess[v]),
                    "truth": {n: float(drawn[n][v]) for n in drawn},
                    "found": {n: float(maps[n].values[v]) for n in drawn},
                    "status": int(maps.status.values[v]),
                }
                for v in off[:5]
            ],
        }
    return figures


def recovery(model: str, initial: bool, voxels: int, seed: int) -> dict[str, Any]:
    """Errors of the parameters of noise-free curves: the largest of each voxel."""
    times = np.asarray(protocol("brain"))
    drawn: dict[str, Any] = truths(model, voxels, seed)
    if initial:
        peak = float(artery(times).concentration.max())
        drawn["c0"] = np.random.default_rng([seed, 3]).uniform(0.02, 0.15, voxels) * peak
    given = inputs(model, times)
    clean = kety.simulate_curves(drawn, times, artery(times), model, **given)
    maps = kety.fit(
        clean,
        times,
        artery(times),
        model,
        dtype="float64",
        mask=np.ones(voxels, bool),
        initial=initial,
        **given,
    )
    error = np.max([np.abs(maps[n].values / v - 1.0) for n, v in drawn.items()], axis=0)
    known = np.isfinite(error)
    return {
        "model": model,
        "initial": initial,
        "median": float(np.nanmedian(error)),
        "mean": float(error[known].mean()),
        "beyond": float(np.mean(~(error <= EXACT))),
        "not_identifiable": int(np.sum(~known)),
    }


def speed(voxels: int, repeats: int, seed: int) -> dict[str, Any]:
    """Voxels per second of two-compartment exchange with delay, two threads, float32, and beside it
    of extended Tofts with the same curves, in turns."""
    times = np.asarray(protocol("brain"))
    curves = noisy("2cxm", times, voxels, seed)[0].astype(np.float32)
    aif, mask = artery(times), np.ones(voxels, bool)
    best = dict.fromkeys(("2cxm", "extended_tofts"), np.inf)
    for _ in range(repeats):
        for model in best:
            fit = partial(kety.fit, curves, times, aif, model, mask=mask, threads=2)
            best[model] = min(best[model], *stopwatch(fit, 1))
    return {"voxels": voxels, "per_second": {model: voxels / s for model, s in best.items()}}


def _optimum_table(found: Sequence[Mapping[str, Any]], voxels: int, starts: int) -> Table:
    rows = [
        [
            one["model"],
            dtype,
            f"{100 * one[dtype]['close']:.2f} %",
            f"{100 * one[dtype]['worst']:.3f} %",
            str(one[dtype]["far"]),
            f"{100 * one[dtype]['better']:.2f} %",
            str(one[dtype]["not_identifiable"]),
            f"{one[dtype]['evaluations']:.1f}",
        ]
        for one in found
        for dtype in ("float32", "float64")
    ]
    return Table(
        f"Sum of squares beside the best of {starts} SciPy fits",
        [
            "model",
            "precision",
            "within 1e-4",
            "worst excess",
            "voxels > 1 % above",
            "kety lower by > 1e-4",
            "not identifiable",
            "evaluations",
        ],
        rows,
        f"{voxels:,} voxels of each model, 37 irregular frames, noise {NOISE:g} HU, input peak "
        "300 HU, default bounds, delay free. SciPy: bounded trust region, exact derivatives, "
        "tolerances 1e-10, at most 200 evaluations, Halton starts.",
    )


def _recovery_table(found: Sequence[Mapping[str, Any]], voxels: int) -> Table:
    rows = [
        [
            one["model"],
            "free" if one["initial"] else "0",
            f"{one['median']:.1e}",
            f"{one['mean']:.1e}",
            f"{100 * one['beyond']:.1f} %",
            str(one["not_identifiable"]),
        ]
        for one in found
    ]
    return Table(
        "Noise-free curves: the largest relative error of a voxel's parameters",
        ["model", "c0", "median", "mean", "voxels beyond 1e-6", "parameter undetermined"],
        rows,
        f"{voxels:,} voxels of each model, 37 irregular frames, all delays free, float64.",
    )


def measure(
    options: argparse.Namespace, voxels: int = VOXELS
) -> tuple[list[Table], dict[str, Any]]:
    """Optimum, recovery and speed."""
    quick, seed = options.quick, options.seed
    voxels, starts = (10, 8) if quick else (voxels, STARTS)
    compared = [optimum(model, voxels, starts, seed) for model in COMPARED]
    count = 50 if quick else RECOVERED
    recovered = [
        recovery(m, initial, count, seed) for m in kety.MODELS for initial in (False, True)
    ]
    quickness = speed(20_000 if quick else SPEED_VOXELS, 1 if quick else SPEED_REPEATS, seed)
    tables = [
        _optimum_table(compared, voxels, starts),
        _recovery_table(recovered, count),
        Table(
            "Speed: delay free, two threads, float32, 37 frames",
            ["model", "voxels/s"],
            [[model, f"{rate:,.0f}"] for model, rate in quickness["per_second"].items()],
            f"{quickness['voxels']:,} voxels, best of {SPEED_REPEATS} runs in turns.",
        ),
    ]
    return tables, {"optimum": compared, "recovery": recovered, "speed": quickness}


def main(argv: Sequence[str] | None = None) -> None:
    voxels, others = voxels_option(argv, VOXELS)
    words = f"{__doc__} --voxels N: voxels compared with SciPy's fits, {VOXELS} if left out."
    run("exchange", partial(measure, voxels=voxels), words, others)


if __name__ == "__main__":
    main()
