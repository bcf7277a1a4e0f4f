"""How often the model chosen is the right one, where models differ by more than the noise."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np

import kety
from benchmarks.common import Table, run
from benchmarks.tissue import SCHEMES, artery, truths
from kety.selection import CRITERIA
from kety.studies.optimization.data import Array

MODELS = [m for m in ("patlak", "tofts", "extended_tofts", "2cum", "2cxm") if m in kety.MODELS]
"""From few to many unknowns; a tie goes to the first."""
VOXELS = 4000
PEAK_TO_NOISE = (10.0, 20.0, 40.0)
APART = 6.0
"""Expected distance of AICc from which two models count as different: weights of 20 to 1."""


def unknowns(model: str) -> int:
    """Free parameters and the variance of the noise."""
    return len(kety.MODELS[model].parameters) + 1


def expected_distance(misfit: Array, rival: str, truth: str, frames: int) -> Array:
    """Expected AICc (V,) of a rival less that of the true model.

    ``misfit`` (V,) is the rival's least sum of squares on the curve without noise, over the
    noise's variance.
    """
    k, true = unknowns(rival), unknowns(truth)
    ratio = (frames - (k - 1) + misfit) / (frames - (true - 1))

    def penalty(count: int) -> float:
        return 2.0 * count * frames / (frames - count - 1)

    return np.asarray(frames * np.log(ratio) + penalty(k) - penalty(true))


def one_truth(scheme: str, truth: str, ratio: float, voxels: int, seed: int) -> dict[str, Any]:
    """Shares of voxels whose chosen model is the right one, by criterion."""
    times = SCHEMES[scheme]
    aif = artery(times)
    clean = kety.simulate_curves(truths(truth, voxels, seed), times, aif, truth)
    noise = clean.max(axis=1, keepdims=True) / ratio
    inside = np.ones(voxels, bool)
    least = {
        rival: kety.fit(clean, times, aif, rival, mask=inside, dtype="float64").cost.values
        for rival in MODELS
        if rival != truth
    }
    distance = [
        expected_distance(cost / noise[:, 0] ** 2, rival, truth, times.size)
        for rival, cost in least.items()
        # One of more unknowns may follow the curve as well: then the fewer unknowns decide.
        if unknowns(rival) <= unknowns(truth)
    ]
    apart = np.all([far >= APART for far in distance], axis=0) & np.ones(voxels, bool)
    random = np.random.default_rng([seed, 1])
    curves = clean + noise * random.standard_normal(clean.shape)
    place = MODELS.index(truth) + 1
    right = {}
    picks = {}
    for select in CRITERIA:
        maps = kety.fit(curves, times, aif, MODELS, select=select, mask=inside)
        chosen = maps.chosen.values
        right[select] = (chosen == place)[apart]
        picks[select] = np.bincount(chosen[apart], minlength=len(MODELS) + 1).tolist()
    return {
        "scheme": scheme,
        "truth": truth,
        "peak_to_noise": ratio,
        "apart": int(apart.sum()),
        "voxels": voxels,
        "right": {select: float(r.mean()) if r.size else None for select, r in right.items()},
        "chosen": picks,
    }


def measure(options: argparse.Namespace) -> tuple[list[Table], dict[str, Any]]:
    """Shares of right choices for every true model, sampling and noise."""
    voxels = 400 if options.quick else VOXELS
    rows, cases = [], []
    for i, scheme in enumerate(SCHEMES):
        for ratio in PEAK_TO_NOISE:
            for j, truth in enumerate(MODELS):
                case = one_truth(scheme, truth, ratio, voxels, 100 * options.seed + 10 * i + j)
                cases.append(case)
                shares = [case["right"][s] for s in CRITERIA]
                rows.append(
                    [
                        scheme,
                        f"{ratio:g}",
                        truth,
                        f"{100 * case['apart'] / voxels:.0f} %",
                        *("–" if s is None else f"{100 * s:.1f} %" for s in shares),
                    ]
                )
    counted = [case for case in cases if case["apart"]]
    total = sum(case["apart"] for case in counted)
    totals = {s: sum(c["apart"] * c["right"][s] for c in counted) / total for s in CRITERIA}
    rows.append(
        ["all", "", "all voxels that differ", "", *(f"{100 * totals[s]:.1f} %" for s in CRITERIA)]
    )
    table = Table(
        f"Right model among {', '.join(MODELS)}, where they differ by more than the noise",
        ["frames", "peak / noise", "true model", "voxels that differ", *CRITERIA],
        rows,
        f"{voxels:,} voxels of each true model, Parker's input, delay fitted. A voxel counts where "
        "the expected AICc of every model of no more unknowns is at least "
        f"{APART:g} above that of the true one; of models that follow the curve as well the one of "
        "fewest unknowns is the right one.",
    )
    return [table], {"cases": cases, "mean": totals}


def main(argv: Sequence[str] | None = None) -> None:
    run("choice", measure, __doc__ or "", argv)


if __name__ == "__main__":
    main()
