"""Which interpolation of a coarsely sampled input recovers the parameters best."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

import kety
from benchmarks.common import Table, run
from kety.inputs import InputFunction
from kety.inputs.function import INTERPOLATIONS
from kety.simulate import protocol
from kety.simulate.phantom import scaled_input
from kety.studies.optimization.data import (
    NAMES,
    PEAK,
    Array,
    parker_input,
    percent_errors,
    random_parameters,
)
from kety.studies.optimization.paper import HEMATOCRIT

ARRIVAL = 10.0  # s, of the bolus, before a random part of the first interval is added
END = 300.0
SAMPLINGS = ("1", "2", "3", "5", "10", "two_phase")  # every so many s, or a protocol
INJECTIONS = {"sharp": 0.0, "broad": 10.0}  # s, by which the bolus is longer than Parker's
INPUT_NOISE = (0.0, 0.02)  # of the input's peak
TISSUE_SNR = {"clean": np.inf, "SNR 20": 20.0}
OFFSETS, QUICK_OFFSETS, VOXELS = 32, 3, 200
LEAST_DELAY = 1.0  # s; relative errors of smaller delays say nothing


def continuous(injection: float, arrival: float) -> InputFunction:
    """The true input in HU, known so finely that its own interpolation does not matter."""
    if injection > 0.0:
        return scaled_input(END + 10.0, arrival, injection, PEAK, HEMATOCRIT)
    return parker_input(0.05, END + 10.0 - arrival, peak=PEAK).shifted(arrival)


def frames(sampling: str) -> Array:
    """Frame times in s."""
    if sampling.isdigit():
        return np.arange(0.0, END + 0.5 * float(sampling), float(sampling))
    return np.asarray(protocol(sampling))


def errors(
    shape: str, sampling: str, noise: float, offsets: int, seed: int
) -> dict[tuple[str, str], Array]:
    """Per cent errors (offsets x voxels, 4) by interpolation and noise of the tissue.

    Every offset is another place of the frames on the bolus; input and tissue share the frames.
    """
    times = frames(sampling)
    collected: dict[tuple[str, str], list[Array]] = {}
    for offset in range(offsets):
        # The same tissues, offsets and noise for all interpolations.
        random = np.random.default_rng((seed, offset))
        truth = random_parameters(VOXELS, random)
        truth["delay"] = random.uniform(LEAST_DELAY, 10.0, VOXELS)
        true_input = continuous(INJECTIONS[shape], ARRIVAL + random.uniform(0, times[1]))
        clean = kety.simulate_curves(truth, times, true_input)
        unit = random.standard_normal(clean.shape) * clean.max(axis=1, keepdims=True)
        curves = np.concatenate([clean + unit / snr for snr in TISSUE_SNR.values()])
        repeated = {name: np.tile(values, len(TISSUE_SNR)) for name, values in truth.items()}
        measured = true_input(times) + noise * PEAK * random.standard_normal(times.size)
        for kind in INTERPOLATIONS:
            aif = InputFunction(times, measured, hematocrit=HEMATOCRIT, interpolation=kind)
            maps = kety.fit(curves, times, aif, dtype="float64", mask=np.ones(len(curves), bool))
            found = percent_errors(maps, repeated).reshape(len(TISSUE_SNR), VOXELS, len(NAMES))
            for tissue, part in zip(TISSUE_SNR, found, strict=True):
                collected.setdefault((kind, tissue), []).append(part)
    return {key: np.concatenate(parts) for key, parts in collected.items()}


def scenario(
    shape: str, noise: float, sampling: str, offsets: int, seed: int
) -> list[dict[str, Any]]:
    """The figures of one bolus, noise of the input and sampling: one entry per way to fit it."""
    return [
        {
            "bolus": shape,
            "input_noise": noise,
            "sampling": sampling,
            "tissue": tissue,
            "interpolation": kind,
            "median": np.nanmedian(found, axis=0).tolist(),
            "p90": np.nanpercentile(found, 90, axis=0).tolist(),
            "failed": int(np.isnan(found).any(axis=1).sum()),
        }
        for (kind, tissue), found in errors(shape, sampling, noise, offsets, seed).items()
    ]


def named(sampling: str) -> str:
    """A sampling in words."""
    return f"{sampling} s" if sampling.isdigit() else sampling


def detail(cases: list[dict[str, Any]], tissue: str, note: str) -> Table:
    """Errors of every scenario, interpolations side by side."""
    rows = []
    for shape, noise, sampling in product(INJECTIONS, INPUT_NOISE, SAMPLINGS):
        medians = {
            c["interpolation"]: np.array(c["median"])
            for c in cases
            if (c["bolus"], c["input_noise"], c["sampling"], c["tissue"])
            == (shape, noise, sampling, tissue)
        }
        overall = [medians[kind].mean() for kind in INTERPOLATIONS]
        rows.append(
            [
                shape,
                f"{100 * noise:g} %",
                named(sampling),
                *(f"{m:.2g}" for m in overall),
                INTERPOLATIONS[int(np.argmin(overall))],
                *("/".join(f"{m:.2g}" for m in medians[k]) for k in INTERPOLATIONS),
            ]
        )
    each = (f"{kind}: {'/'.join(NAMES)}" for kind in INTERPOLATIONS)
    return Table(
        f"Input known at the frames only: median error in %, tissue {tissue}",
        ["bolus", "input noise", "frames every", *INTERPOLATIONS, "best", *each],
        rows,
        note,
    )


def verdict(cases: list[dict[str, Any]]) -> Table:
    """Errors relative to the cubic spline's, geometric means over the two shapes of bolus."""

    def mean_log(sampling: str, tissue: str, noise: float, kind: str) -> float:
        chosen = [
            np.log(np.mean(c["median"]))
            for c in cases
            if (c["sampling"], c["tissue"], c["input_noise"], c["interpolation"])
            == (sampling, tissue, noise, kind)
        ]
        return float(np.mean(chosen))

    columns = list(product(("linear", "monotone"), TISSUE_SNR, INPUT_NOISE))
    return Table(
        "Error relative to the cubic spline's (above 1: the cubic spline is better)",
        [
            "frames every",
            *(f"{kind}, tissue {t}, input noise {100 * n:g} %" for kind, t, n in columns),
        ],
        [
            [
                named(sampling),
                *(
                    f"{np.exp(mean_log(sampling, t, n, k) - mean_log(sampling, t, n, 'cubic')):.2f}"
                    for k, t, n in columns
                ),
            ]
            for sampling in SAMPLINGS
        ],
    )


def measure(options: argparse.Namespace) -> tuple[list[Table], dict[str, Any]]:
    """Median errors for every sampling, shape of bolus, noise and interpolation."""
    offsets = QUICK_OFFSETS if options.quick else OFFSETS
    cases: list[dict[str, Any]] = []
    for shape, noise, sampling in product(INJECTIONS, INPUT_NOISE, SAMPLINGS):
        cases += scenario(shape, noise, sampling, offsets, options.seed)
    note = (
        f"Median over {offsets} positions of the frames on the bolus x {VOXELS} voxels; the first "
        "three figures are means over the four parameters. Sharp: Parker's bolus; broad: the same "
        "injected 10 s longer."
    )
    details = [detail(cases, tissue, note) for tissue in TISSUE_SNR]
    return [verdict(cases), *details], {"parameters": NAMES, "cases": cases}


def main(argv: Sequence[str] | None = None) -> None:
    run("interpolation", measure, __doc__ or "", argv)


if __name__ == "__main__":
    main()
