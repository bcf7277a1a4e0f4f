"""Coverage of one standard error for all models, where the status says identifiable."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import kety
from benchmarks.common import Table, run
from benchmarks.tissue import SCHEMES, artery, inputs, portal_of, truths
from kety.inputs import POPULATION
from kety.studies.optimization.data import PEAK, Array

VOXELS = 4000
PEAK_TO_NOISE = (10.0, 20.0, 40.0)
OTHER = np.concatenate([np.arange(60) * 1.5 + 1.5, np.arange(1, 25) * 5.0 + 90.0])
"""Frames (s) that nothing in kety was chosen by, used with an input of the same kind."""


def derived(model: str, truth: dict[str, Array], hematocrit: float) -> dict[str, Array]:
    """True parameters and derived quantities."""
    out = dict(truth)
    for d in kety.MODELS[model].derived:
        out[d.name] = np.asarray(d.evaluate([out[n] for n in d.of], hematocrit)[0])
    return out


def other_artery() -> kety.InputFunction:
    """Georgiou's input every half second, from 4 s on."""
    ages = np.arange(0.0, OTHER[-1] + 10.0, 0.5)
    values = POPULATION["georgiou"].function(ages)
    site = POPULATION["georgiou"].site
    return kety.InputFunction(ages + 4.0, values * (PEAK / values.max()), site=site)


def one_model(
    scheme: str,
    times: Array,
    aif: kety.InputFunction,
    second: Mapping[str, Any],
    model: str,
    ratio: float,
    voxels: int,
    seed: int,
) -> dict[str, Any]:
    """Share of truths within one standard error, by quantity, and what the status says."""
    drawn = truths(model, voxels, seed)
    clean = kety.simulate_curves(drawn, times, aif, model, **second)
    noise = clean.max(axis=1, keepdims=True) / ratio
    curves = clean + noise * np.random.default_rng([seed, 1]).standard_normal(clean.shape)
    maps = kety.fit(curves, times, aif, model, mask=np.ones(voxels, bool), **second)
    status = maps.status.values
    good = status == kety.Status.CONVERGED
    coverage, known_share = {}, {}
    for name, true in derived(model, drawn, aif.hematocrit).items():
        error = maps[f"{name}_se"].values.astype(float)
        off = np.abs(maps[name].values.astype(float) - true)
        known = good & np.isfinite(error) & np.isfinite(off)
        coverage[name] = float(np.mean(off[known] <= error[known])) if known.any() else None
        known_share[name] = float(known.mean())
    return {
        "scheme": scheme,
        "model": model,
        "peak_to_noise": ratio,
        "coverage": coverage,
        "known": known_share,
        "converged": float(good.mean()),
        "at_bound": float(np.mean(status == kety.Status.AT_BOUND)),
        "not_identifiable": float(np.mean(status == kety.Status.NOT_IDENTIFIABLE)),
    }


def measure(options: argparse.Namespace) -> tuple[list[Table], dict[str, Any]]:
    """Coverage for every model, sampling and noise."""
    voxels = 1000 if options.quick else VOXELS
    rows, cases = [], []
    other = other_artery()
    runs = [(scheme, times, artery(times)) for scheme, times in SCHEMES.items()]
    runs.append((f"{OTHER.size} frames in {OTHER[-1]:g} s, other input", OTHER, other))
    for i, (scheme, times, aif) in enumerate(runs):
        for ratio in PEAK_TO_NOISE:
            for j, model in enumerate(kety.MODELS):
                second = inputs(model, times)
                if second and aif is other:
                    second = {"portal": portal_of(other)}
                seed = 1000 * options.seed + 50 * i + j
                case = one_model(scheme, times, aif, second, model, ratio, voxels, seed)
                cases.append(case)
                told = {n: c for n, c in case["coverage"].items() if c is not None}
                rows.append(
                    [
                        scheme,
                        f"{ratio:g}",
                        model,
                        ", ".join(f"{n} {100 * c:.1f}" for n, c in told.items()),
                        f"{100 * min(told.values()):.1f} to {100 * max(told.values()):.1f}",
                        f"{100 * case['converged']:.1f} %",
                        f"{100 * case['at_bound']:.1f} %",
                        f"{100 * case['not_identifiable']:.1f} %",
                    ]
                )
    table = Table(
        "Truths within one standard error, %, of voxels whose status is converged",
        [
            "frames",
            "peak / noise",
            "model",
            "covered %",
            "range",
            "converged",
            "at a bound",
            "not identifiable",
        ],
        rows,
        f"{voxels:,} voxels of each model, tissues uniform over `benchmarks/tissue.py`, Parker's "
        "input or, where it says so, Georgiou's, default bounds, float32. Normal errors give "
        f"68.3 %; each figure has a standard error of {46.6 / np.sqrt(voxels):.1f} %.",
    )
    return [table], {"cases": cases}


def main(argv: Sequence[str] | None = None) -> None:
    run("coverage", measure, __doc__ or "", argv)


if __name__ == "__main__":
    main()
