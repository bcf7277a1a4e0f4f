"""Parameters that the curves do not determine: what status, errors and profiles say of them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import kety
from benchmarks.common import Table, run
from benchmarks.tissue import artery, truths
from kety.studies.optimization.data import Array

VOXELS, PROFILED = 4000, 200
PEAK_TO_NOISE = 20.0
LONG = np.arange(60) * 5.0 + 5.0  # s
SHORT = np.arange(30) * 2.0 + 2.0


@dataclass(frozen=True)
class Case:
    """Tissues of a model in which a parameter cannot be determined: values set, frames, which."""

    words: str
    model: str
    lost: str
    values: dict[str, float]
    times: Array


CASES = (
    Case("no exchange", "extended_tofts", "kep", {"ktrans": 0.0}, LONG),
    Case("no exchange", "extended_tofts", "ve", {"ktrans": 0.0}, LONG),
    Case("no washout in 60 s", "extended_tofts", "ve", {"ktrans": 0.05, "kep": 0.02}, SHORT),
    Case("no washout in 60 s", "tofts", "ve", {"ktrans": 0.1, "kep": 0.02}, SHORT),
    Case("no blood and no exchange", "extended_tofts", "delay", {"ktrans": 0.0, "vb": 0.0}, LONG),
    Case("no blood and no exchange", "patlak", "delay", {"ktrans": 0.0, "vb": 0.0}, LONG),
    Case("slow uptake only", "patlak", "delay", {"ktrans": 0.02, "vb": 0.0}, LONG),
    Case("no permeability", "2cxm", "ve", {"ps": 0.0}, LONG),
    Case("passage faster than a frame", "2cxm", "fp", {"fp": 400.0, "vp": 0.05}, LONG),
    Case("passage faster than a frame", "2cum", "fp", {"fp": 400.0, "vp": 0.05}, LONG),
)
"""Add those of other models here."""


def one_case(case: Case, voxels: int, profiled: int, seed: int) -> dict[str, Any]:
    """Shares of voxels by what the fit says of the lost parameter."""
    aif = artery(case.times)
    drawn = truths(case.model, voxels, seed)
    drawn |= {name: np.full(voxels, value) for name, value in case.values.items()}
    clean = kety.simulate_curves(drawn, case.times, aif, case.model)
    # Where there is no curve the noise is that of a curve with 5 % of blood.
    height = np.maximum(clean.max(axis=1, keepdims=True), 0.05 * aif.concentration.max())
    noise = height / PEAK_TO_NOISE
    curves = clean + noise * np.random.default_rng([seed, 1]).standard_normal(clean.shape)
    inside = np.ones(voxels, bool)
    maps = kety.fit(curves, case.times, aif, case.model, mask=inside)
    value, error = maps[case.lost].values, maps[f"{case.lost}_se"].values
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = error / np.abs(value)
    said = maps.status.values == kety.Status.NOT_IDENTIFIABLE
    without = ~said & ~np.isfinite(error)
    wide = ~said & (relative > 1.0)
    intervals = kety.profile(
        curves[:profiled],
        case.times,
        aif,
        case.model,
        case.lost,
        level=0.95,
        mask=inside[:profiled],
    )
    some_open = intervals[f"{case.lost}_open"].values > 0
    return {
        "case": case.words,
        "model": case.model,
        "lost": case.lost,
        "not_identifiable": float(said.mean()),
        "without_error": float(without.mean()),
        "error_above_value": float(wide.mean()),
        "claimed": float(np.mean(~said & ~without & ~wide)),
        "profile_open": float(some_open.mean()),
    }


def measure(options: argparse.Namespace) -> tuple[list[Table], dict[str, Any]]:
    """What is said of parameters that the curves do not determine."""
    voxels, profiled = (400, 50) if options.quick else (VOXELS, PROFILED)
    keys = ("not_identifiable", "without_error", "error_above_value", "claimed", "profile_open")
    rows, cases = [], []
    for j, case in enumerate(CASES):
        found = one_case(case, voxels, profiled, 100 * options.seed + j)
        cases.append(found)
        shares = [f"{100 * found[key]:.1f} %" for key in keys]
        rows.append([case.words, case.model, case.lost, *shares])
    table = Table(
        "What is said of a parameter that the curve does not determine",
        [
            "tissue",
            "model",
            "lost",
            "status not identifiable",
            "else without an error",
            "else error above value",
            "claimed",
            "95 % profile open",
        ],
        rows,
        f"{voxels:,} voxels each, peak {PEAK_TO_NOISE:g} x noise, default bounds; profiles of "
        f"{profiled}. Claimed: a value and an error smaller than it.",
    )
    return [table], {"cases": cases}


def main(argv: Sequence[str] | None = None) -> None:
    run("identifiability", measure, __doc__ or "", argv)


if __name__ == "__main__":
    main()
