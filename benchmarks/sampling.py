"""What irregular frames, slices with times of their own and noise that differs between phases do.

Noise-free studies are fitted at the times at which they were sampled, and as if these were others;
a noisy one of two doses with its frames weighted by their noise, and not.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import kety
from benchmarks.common import Table, run
from kety.signal import frame_noise, noise_weights
from kety.simulate import noise_of_phases, protocol, simulate_abdomen
from kety.simulate.phantom import scaled_input

HEADS = ("Ktrans", "ve", "vb", "delay")
UNITS = "Median errors in %, of the delay in s."
NAMES = ("ktrans", "ve", "vb", "delay")
ARRIVAL, INJECTION, PEAK, HEMATOCRIT = 10.0, 10.0, 300.0, 0.42


def errors(maps: Any, truth: dict[str, Any], where: Any = ...) -> list[str]:
    """Median errors: % of the truth, of the delay s."""
    found = []
    for name in NAMES:
        value, true = maps[name].values[where], truth[name][where]
        off = np.abs(value - true) / (1.0 if name == "delay" else 0.01 * true)
        found.append(f"{np.nanmedian(off):.2g}")
    return found


def drawn(count: int, seed: int) -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(seed)
    limits = {"ktrans": (0.05, 0.8), "kep": (0.2, 2.0), "vb": (0.02, 0.2), "delay": (0.0, 6.0)}
    truth = {name: random.uniform(*pair, count) for name, pair in limits.items()}
    return truth | {"ve": truth["ktrans"] / truth["kep"]}


def irregular(count: int, seed: int) -> Table:
    """Frames of two and three phases, and a uniform step in their place."""
    rows = []
    for name in ("two_phase", "brain"):
        times = protocol(name)
        aif = scaled_input(float(times[-1]) + 1.0, ARRIVAL, INJECTION, PEAK, HEMATOCRIT)
        truth = drawn(count, seed)
        given = {key: truth[key] for key in ("ktrans", "kep", "vb", "delay")}
        curves = kety.simulate_curves(given, times, aif)
        how: dict[str, Any] = {"mask": np.ones(count, bool), "dtype": "float64"}
        rows.append([name, "as sampled", *errors(kety.fit(curves, times, aif, **how), truth)])
        for words, even in (
            ("mean step", np.linspace(times[0], times[-1], times.size)),
            ("first step", times[0] + np.arange(times.size) * (times[1] - times[0])),
        ):
            # Input and tissue come from the same frames, so both are moved.
            moved = replace(aif, times=even, concentration=aif(times))
            rows.append([name, words, *errors(kety.fit(curves, even, moved, **how), truth)])
    heads = ["frames", "taken as", *HEADS]
    return Table("Irregular frames, noise-free, double precision", heads, rows, UNITS)


def shuttle(shape: tuple[int, int, int], seed: int) -> Table:
    """A table between two positions, its times used and ignored, with inputs from masks."""
    rows = []
    for apart in (1.2, 2.4):
        phantom = simulate_abdomen(shape, noise=0.0, seed=seed, shuttle=apart)
        series = phantom.series
        curves = series.data - phantom.baseline[..., None]
        mask, truth = phantom.truth["ktrans"] > 0, dict(phantom.truth)
        aorta = phantom.mask("aorta")
        for words, times in (("own times", series.slice_times), ("ignored", series.times)):
            known = kety.fit(curves, times, phantom.aif, mask=mask)
            rows.append([f"{apart:g} s", "known", words, *errors(known, truth, mask)])
            aif = kety.InputFunction.from_mask(curves, times, aorta)
            found = kety.fit(curves, times, aif, mask=mask)
            rows.append([f"{apart:g} s", "aorta, all slices", words, *errors(found, truth, mask)])
    heads = ["apart", "input", "slice times", *HEADS]
    return Table("A table between two positions, noise-free, single precision", heads, rows, UNITS)


def two_doses(shape: tuple[int, int, int], count: int, seed: int) -> Table:
    """Noise that differs between phases: how well it is measured, and what weights gain."""
    rows = []
    for phases in ((6.0, 12.0, 12.0), (8.0, 4.0, 4.0), (3.0, 18.0, 18.0)):
        sd = noise_of_phases("two_phase", phases)
        phantom = simulate_abdomen(shape, noise=sd, seed=seed)
        series = phantom.series
        off = frame_noise(series.data, series.times, phantom.body) / sd - 1
        truth = {key: np.full(count, one) for key, one in
                 {"ktrans": 0.3, "kep": 0.9, "vb": 0.08, "delay": 2.0}.items()}  # fmt: skip
        truth["ve"] = truth["ktrans"] / truth["kep"]
        given = {key: truth[key] for key in ("ktrans", "kep", "vb", "delay")}
        clean = kety.simulate_curves(given, series.times, phantom.aif)
        random = np.random.default_rng(seed)
        curves = clean + sd * random.standard_normal(clean.shape)
        for words, weights in (("alike", None), ("weighted", noise_weights(sd))):
            maps = kety.fit(
                curves, series.times, phantom.aif, weights=weights, mask=np.ones(count, bool)
            )
            measured = f"{100 * np.std(off):.1f} %, {100 * np.abs(off).max():.1f} %"
            label = ", ".join(f"{one:g}" for one in phases)
            rows.append([label, measured, words, *errors(maps, truth)])
    heads = ["noise, HU", "measured: sd, largest error", "frames", *HEADS]
    return Table("Phases of different dose, frames alike and weighted", heads, rows, UNITS)


def measure(options: argparse.Namespace) -> tuple[list[Table], dict[str, Any]]:
    shape = (48, 40, 6) if options.quick else (96, 80, 12)
    count = 50 if options.quick else 2000
    tables = [
        irregular(count, options.seed),
        shuttle(shape, options.seed),
        two_doses(shape, count, options.seed),
    ]
    return tables, {}


def main(argv: Sequence[str] | None = None) -> None:
    run("sampling", measure, __doc__ or "", argv)


if __name__ == "__main__":
    main()
