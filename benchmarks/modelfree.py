"""Model-free maps: how far maximum slope and deconvolution are from the truth, and their speed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

import kety
from benchmarks.common import Table, run, stopwatch
from kety.modelfree.curves import noise_of
from kety.modelfree.deconvolution import METHODS
from kety.modelfree.weights import lines
from kety.simulate import protocol
from kety.simulate.phantom import scaled_input

Array = NDArray[np.float64]

PEAK = 300.0  # HU
ARRIVAL = 8.0  # s
FINE = 0.02  # s
FLOWS, TRANSITS = (10.0, 30.0, 60.0, 100.0), (3.0, 6.0, 12.0)  # mL/100mL/min, s
DELAYS = (-3.0, 0.0, 2.0, 5.0)  # s
END, STEP = 60.0, 1.0  # s
SIDE = 512


def gamma(times: Array) -> Array:
    """A bolus without recirculation, 10 s wide at half its height."""
    x = np.maximum(times - ARRIVAL, 0.0)
    return PEAK * (x / 4.5) ** 3 * np.exp(3.0 - x / 1.5)


def parker(times: Array) -> Array:
    """Parker's curve with its recirculation and tail."""
    aif = scaled_input(float(times[-1]) + 1.0, ARRIVAL, 0.0, PEAK, 0.42)
    return aif(times)


INPUTS = {"gamma variate": gamma, "Parker": parker}


def tissue(blood: Array, times: Array, flow: float, mtt: float, kind: str, delay: float) -> Array:
    """Curve at frames, of an input sampled every `FINE` s from 0 on."""
    x = np.arange(blood.size) * FINE
    residue = np.exp(-x / mtt) if kind == "exponential" else (x < mtt).astype(float)
    size = 2 * blood.size
    full = np.fft.irfft(np.fft.rfft(blood, size) * np.fft.rfft(residue, size), size)[: blood.size]
    curve = FINE * (full - 0.5 * blood * residue[0])
    return np.interp(times - delay, x, flow / 6000.0 * curve, left=0.0)


def deconvolved(options: argparse.Namespace) -> list[Table]:
    """Error of flow by method, delay and transit time, without noise and with it."""
    times = np.arange(0.0, END + 0.5 * STEP, STEP)
    fine = np.arange(0.0, END + 10.0, FINE)
    repeats = 5 if options.quick else 50
    rows = []
    for (name, course), kind in product(INPUTS.items(), ("exponential", "box")):
        blood, aif = course(fine), kety.InputFunction(times, course(times))
        for method, delay in product(METHODS, DELAYS):
            clean = np.array(
                [tissue(blood, times, 60.0, mtt, kind, delay) for mtt in TRANSITS],
            )
            mask = np.ones(len(clean))
            maps = kety.deconvolve(clean, times, aif, method=method, mask=mask)
            errors = [f"{100 * (float(f) / 60.0 - 1):+.0f} %" for f in maps.fb]
            random = np.random.default_rng(options.seed)
            truth = np.repeat(FLOWS, len(TRANSITS) * repeats)
            noisy = np.repeat(np.vstack([flow / 60.0 * clean for flow in FLOWS]), repeats, axis=0)
            noisy = noisy + random.normal(0.0, 3.0, noisy.shape)
            found = kety.deconvolve(noisy, times, aif, method=method)
            known = np.isfinite(found.fb.values)
            ratio = found.fb.values[known] / truth[known] - 1.0
            spread = 100 * np.sqrt(np.mean(ratio**2))
            rows.append([name, kind, method, f"{delay:+g} s", *errors, f"{spread:.0f} %"])
    return [
        Table(
            "Error of blood flow by deconvolution",
            ("input", "residue", "method", "delay", *(f"MTT {m:g} s" for m in TRANSITS), "RMSE"),
            rows,
            "MTT: without noise, the same at any flow. RMSE: with 3 HU of noise, over flows of "
            "10 to 100 mL/100mL/min and these transit times, voxels that do not enhance left out. "
            f"Frames every {STEP:g} s up to {END:g} s, input of {PEAK:g} HU.",
        )
    ]


def slopes(options: argparse.Namespace) -> list[Table]:
    """Error of the maximum slope by estimator, noise and interval."""
    voxels = 100 if options.quick else 1000
    random = np.random.default_rng(options.seed)
    aif = scaled_input(100.0, 15.0, 0.0, PEAK, 0.42)
    truth = {
        "ktrans": random.uniform(0.05, 0.5, voxels),
        "kep": random.uniform(0.2, 1.5, voxels),
        "vb": random.uniform(0.03, 0.2, voxels),
        "delay": random.uniform(0.0, 5.0, voxels),
    }
    fine = kety.simulate_curves(truth, np.arange(0.0, 90.0, 0.1), aif)
    steepest = np.diff(fine, axis=1).max(axis=1) / 0.1
    rows = []
    for noise, step in product((3.0, 6.0), (1.0, 1.5, 2.5, 5.0)):
        times = np.arange(0.0, 90.0, step)
        curves = kety.simulate_curves(truth, times, aif)
        curves = curves + random.normal(0.0, noise, curves.shape)
        cells = []
        for window in (0.1, 4.0, 6.0, 8.0):
            weights, _, _ = lines(times, window)
            error = (curves @ weights.T).max(axis=1) / steepest - 1.0
            cells.append(f"{100 * np.sqrt(np.mean(error**2)):.0f} % ({100 * error.mean():+.0f})")
        rows.append([f"{noise:g} HU", f"{step:g} s", *cells])
    header = ("noise", "frames every", "differences", "lines of 4 s", "6 s", "8 s")
    note = "Root-mean-square error, in brackets the bias, in % of the true maximum slope."
    return [Table("Error of the maximum slope", header, rows, note)]


def lengths(options: argparse.Namespace) -> list[Table]:
    """Error of flow by the length of the series."""
    repeats = 5 if options.quick else 20
    rows = []
    for end, (name, course) in product((60.0, 120.0, 300.0), INPUTS.items()):
        times = np.concatenate([np.arange(0.0, min(end, 100.0), 1.5), np.arange(110.0, end, 10.0)])
        knots = np.arange(0.0, end + 1.0)
        aif, blood = kety.InputFunction(knots, course(knots)), course(np.arange(0.0, end, FINE))
        cases = list(product(FLOWS, TRANSITS, ("exponential", "box"), (0.0, 2.0)))
        clean = np.array([tissue(blood, times, *case) for case in cases])
        truth = np.repeat([case[0] for case in cases], repeats)
        noisy = np.repeat(clean, repeats, axis=0)
        noisy = noisy + np.random.default_rng(options.seed).normal(0.0, 3.0, noisy.shape)
        for method in METHODS:
            cells = []
            for curves, flow in ((clean, truth[::repeats]), (noisy, truth)):
                mask = np.ones(len(curves))
                found = kety.deconvolve(curves, times, aif, method=method, mask=mask).fb.values
                error = (found / flow - 1.0)[np.isfinite(found)]
                rms = 100 * np.sqrt(np.mean(error**2))
                cells.append(f"{rms:.0f} % ({100 * error.mean():+.0f})")
            lost = np.count_nonzero(~np.isfinite(found)) / found.size
            rows.append([name, f"{end:g} s", method, *cells, f"{100 * lost:.0f} %"])
    header = ("input", "series of", "method", "no noise", "3 HU", "without a flow at 3 HU")
    note = (
        "Root-mean-square error of flow, in brackets the bias. Frames 1.5 s apart up to 100 s, "
        "then 10 s; flows of 10 to 100 mL/100mL/min, MTT 3, 6 and 12 s, both residue functions, "
        "delay 0 and 2 s."
    )
    return [Table("Error of blood flow by the length of the series", header, rows, note)]


def noises(options: argparse.Namespace) -> list[Table]:
    """Estimated over true noise by the height of the peak."""
    voxels = 200 if options.quick else 3000
    random = np.random.default_rng(options.seed)
    aif = scaled_input(200.0, 15.0, 0.0, PEAK, 0.42)
    truth = {"ktrans": 0.3, "kep": 0.6, "vb": 0.1, "delay": 2.0}
    rows = []
    for step in (1.0, 1.5, 2.5, 5.0):
        times = np.arange(0.0, 100.0, step)
        curve = kety.simulate_curves(truth, times, aif).ravel()
        cells = []
        for height in (3.0, 10.0, 20.0, 50.0):
            curves = height * curve / curve.max() + random.normal(0.0, 1.0, (voxels, times.size))
            found = noise_of(curves, times)
            cells.append(f"{found.mean():.2f} ± {found.std():.2f}")
        rows.append([f"{step:g} s", *cells])
    header = ("frames every", "peak 3 × noise", "10 ×", "20 ×", "50 ×")
    note = "Mean and standard deviation over voxels of one tissue; frames up to 100 s."
    return [Table("Estimated noise over true noise", header, rows, note)]


def speed(options: argparse.Namespace) -> list[Table]:
    """Time of each kind of maps for a slice of 512 x 512 voxels."""
    side = 64 if options.quick else SIDE
    times = np.asarray(protocol("brain"))
    random = np.random.default_rng(options.seed)
    aif = scaled_input(float(times[-1]) + 10.0, 2.0, 0.0, PEAK, 0.42)
    truth = {
        "ktrans": random.uniform(0.05, 0.5, side**2),
        "kep": random.uniform(0.2, 1.5, side**2),
        "vb": random.uniform(0.03, 0.2, side**2),
        "delay": random.uniform(0.0, 5.0, side**2),
    }
    curves = kety.simulate_curves(truth, times, aif)
    curves = (curves + random.normal(0.0, 6.0, curves.shape)).astype(np.float32)
    series = curves.reshape(side, side, -1)
    shared: dict[str, Any] = {"mask": np.ones((side, side))}
    actions = {
        "semi-quantitative": lambda: kety.semiquantitative(
            series, times, aif=aif, arrival=2.0, **shared
        ),
        **{
            f"deconvolution, {method}": lambda method=method: kety.deconvolve(
                series, times, aif, method=method, **shared
            )
            for method in METHODS
        },
    }
    rows = []
    for name, action in actions.items():
        taken = min(stopwatch(action, 1 if options.quick else 3))
        rows.append([name, f"{taken:.2f} s", f"{side**2 / taken:,.0f}"])
    return [
        Table(
            f"Time for {side} × {side} voxels, {times.size} frames up to {times[-1]:.0f} s",
            ("maps", "time", "voxels/s"),
            rows,
            "The best of three runs.",
        )
    ]


def measure(options: argparse.Namespace) -> tuple[list[Table], dict[str, Any]]:
    """All tables."""
    parts = (deconvolved, lengths, slopes, noises, speed)
    return [table for part in parts for table in part(options)], {}


def main(argv: Sequence[str] | None = None) -> None:
    """Run this benchmark."""
    run("modelfree", measure, __doc__ or "", argv)


if __name__ == "__main__":
    main()
