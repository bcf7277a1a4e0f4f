"""Statistical efficiency: errors beside the Cramer-Rao bound, coverage of the standard errors."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np

import kety
from benchmarks import peer
from benchmarks.common import Table, run
from kety.simulate import protocol
from kety.studies.optimization.data import NAMES, PEAK, Array, parker_input

PEAK_TO_NOISE = 20.0
COPIES = 20_000
SCHEMES = {"brain": "37 frames in 209 s", "two_phase": "66 frames in 300 s"}
TISSUES: dict[str, tuple[float, float, float, float]] = {  # ktrans, kep, vb, delay
    "tumour": (0.25, 0.60, 0.06, 3.3),
    "tumour, leaky": (0.60, 1.50, 0.10, 2.3),
    "tumour, slow": (0.10, 0.35, 0.08, 5.7),
    "muscle": (0.08, 0.60, 0.03, 4.4),
    "vascular": (0.40, 1.00, 0.18, 1.6),
}


def cramer_rao(jacobian: Array, noise: float) -> Array:
    """Smallest standard deviations (4,) of unbiased estimates."""
    return np.asarray(noise * np.sqrt(np.diag(np.linalg.inv(jacobian.T @ jacobian))))


def one_tissue(
    scheme: str, tissue: str, dtype: str, copies: int, seed: int
) -> tuple[list[str], dict[str, Any]]:
    """Row and figures of noisy copies of one curve, default bounds."""
    times = protocol(scheme)
    aif = parker_input(1.0, times[-1] + 5.0, peak=PEAK)
    truth = np.array(TISSUES[tissue])
    setting = peer.Setting(aif, times, peer.default_bounds())
    clean, jacobian = peer.curve_function(setting)(truth)
    noise = clean.max() / PEAK_TO_NOISE
    bound = cramer_rao(jacobian, noise)
    random = np.random.default_rng(seed)
    curves = clean + noise * random.standard_normal((copies, times.size))
    maps = kety.fit(curves, times, aif, dtype=dtype, mask=np.ones(copies, bool))
    estimates = np.stack([maps[n].values.astype(float) for n in NAMES], axis=1)
    errors = np.stack([maps[n + "_se"].values.astype(float) for n in NAMES], axis=1)
    off = estimates - truth
    # A voxel at a bound has an estimate, which counts, but no standard error there.
    rmse = np.sqrt(np.nanmean(off**2, axis=0)) / bound
    covered = np.where(np.isnan(errors), np.nan, np.abs(off) <= errors)
    coverage = np.nanmean(covered, axis=0)
    bias = np.nanmean(off, axis=0) / bound
    at_bound = float(np.mean(maps.status.values == kety.Status.AT_BOUND))
    failed = int(np.isnan(estimates).any(axis=1).sum())
    figures = {
        "scheme": scheme,
        "tissue": tissue,
        "dtype": dtype,
        "truth": dict(zip(NAMES, truth.tolist(), strict=True)),
        "bound": dict(zip(NAMES, bound.tolist(), strict=True)),
        "rmse_over_bound": dict(zip(NAMES, rmse.tolist(), strict=True)),
        "bias_over_bound": dict(zip(NAMES, bias.tolist(), strict=True)),
        "coverage": dict(zip(NAMES, coverage.tolist(), strict=True)),
        "at_bound": at_bound,
        "failed": failed,
    }
    label = f"{tissue} ({', '.join(f'{p:g}' for p in truth)})"
    row = [
        scheme,
        label,
        *(f"{r:.3f}" for r in rmse),
        *(f"{100 * c:.1f}" for c in coverage),
        f"{100 * at_bound:.2f} %",
    ]
    return row, figures


def measure(options: argparse.Namespace) -> tuple[list[Table], dict[str, Any]]:
    """Root-mean-square error over the bound, and share of truths within one standard error."""
    copies = 1000 if options.quick else COPIES
    rows: list[list[str]] = []
    cases = []
    for i, scheme in enumerate(SCHEMES):
        for j, tissue in enumerate(TISSUES):
            seed = 1000 * options.seed + 10 * i + j
            row, figures = one_tissue(scheme, tissue, "float32", copies, seed)
            rows.append(row)
            cases.append(figures)
    failed = sum(case["failed"] for case in cases)
    table = Table(
        "Statistical efficiency at peak enhancement 20 x noise, float32, default bounds",
        [
            "frames",
            "truth (ktrans, kep, vb, delay)",
            *(f"{n} RMSE / bound" for n in NAMES),
            *(f"{n} covered %" for n in NAMES),
            "at a bound",
        ],
        rows,
        f"{copies:,} noisy curves each, {failed} without an estimate in all; the ratios have a "
        f"standard error of {1 / np.sqrt(2 * copies):.3f}, the coverages of "
        f"{46.6 / np.sqrt(copies):.1f} %. Normal errors of known variance give 68.3 %. Frames: "
        + "; ".join(f"{name}, {words}" for name, words in SCHEMES.items())
        + ".",
    )
    return [table], {"cases": cases}


def main(argv: Sequence[str] | None = None) -> None:
    run("efficiency", measure, __doc__ or "", argv)


if __name__ == "__main__":
    main()
