"""Why IIR beats FIR at low rates: the rectangle rule, shown with a few lines of NumPy.

The boxcar-windowed impulse response h[n] = T exp(-k n T) is the impulse-invariant system, so its
convolution sum is the rectangle rule for the integral; the bilinear transform is the trapezoid
rule for the differential equation. Halving h[0] makes the sum the trapezoid rule as well.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from kety.studies.optimization.data import (
    LABELS,
    NAMES,
    Array,
    DataSet,
    Mean,
    mean_errors,
    study_input,
)
from kety.studies.optimization.paper import HEMATOCRIT
from kety.studies.records import Table
from kety.units import SECONDS_PER_MINUTE

RULES: Final = {
    "rectangle": "impulse response (FIR), rectangle rule",
    "halved": "the same, first tap halved, trapezoid rule",
    "bilinear": "bilinear transform (IIR)",
}


def tissue(x: Array, rate: float, k: float, rule: str) -> Array:
    """Samples (N,) `x` of the input through 1 / (s + k), k in 1/s, at `rate` Hz."""
    from scipy.signal import lfilter

    step = 1.0 / rate
    if rule == "bilinear":
        c = 2.0 * rate
        return np.asarray(lfilter([1.0, 1.0], [c + k, k - c], x))
    convolved = np.asarray(lfilter([step], [1.0, -np.exp(-k * step)], x))
    return convolved - 0.5 * step * x if rule == "halved" else convolved


def delayed(y: Array, samples: float) -> Array:
    """`y` later by a number of samples from 0.5 on, with a first-order Thiran all-pass."""
    from scipy.signal import lfilter

    whole = int(np.floor(samples - 0.5))
    fraction = samples - whole
    alpha = (1.0 - fraction) / (1.0 + fraction)
    later = np.asarray(lfilter([alpha, 1.0], [1.0, alpha], y))
    return np.concatenate([np.zeros(whole), later[: len(y) - whole]])


def curve(point: Array, x: Array, rate: float, rule: str) -> Array:
    """The model for v, a [1/s], k [1/s], delay [s]."""
    v, a, k, tau = point
    return delayed(v * x + a * tissue(x, rate, k, rule), tau * rate)


def estimates(data: DataSet, rule: str, rate: float = 1.0) -> Array:
    """Unbounded least-squares estimates (V, 4) from the truth on, in the order of `NAMES`."""
    from scipy.optimize import minimize

    x = np.asarray(study_input()(data.times), np.float64)
    found = np.empty((len(data), len(NAMES)))
    scale = SECONDS_PER_MINUTE * (1.0 - HEMATOCRIT)
    for i, measured in enumerate(data.curves):
        ktrans, kep, vb, delay = (float(data.truth[name][i]) for name in NAMES)
        begin = np.array([vb, ktrans / scale, kep / SECONDS_PER_MINUTE, delay])

        def cost(unit: Any, measured: Array = measured, begin: Array = begin) -> float:
            point = begin * unit
            if point[3] * rate < 0.5:
                return float(measured @ measured)
            residual = measured - curve(point, x, rate, rule)
            return float(residual @ residual)

        options = {"xatol": 1e-7, "fatol": 1e-10, "maxiter": 3000, "adaptive": True}
        search: Any = minimize  # its stubs refuse what it accepts
        best = search(cost, np.ones(4), method="Nelder-Mead", options=options)
        v, a, k, tau = begin * best.x
        found[i] = a * scale, k * SECONDS_PER_MINUTE, v, tau
    return found


def compare(data: DataSet) -> tuple[Table, dict[str, dict[str, Mean]]]:
    """Errors of the rules on a data set without noise at 1 Hz."""
    truth = np.stack([data.truth[name] for name in NAMES], axis=1)
    means = {
        rule: mean_errors(100.0 * np.abs(estimates(data, rule) - truth) / truth) for rule in RULES
    }
    rows: tuple[tuple[str | float, ...], ...] = tuple(
        (name, *(means[rule][n].value for n in (*NAMES, "all")), *means[rule]["all"][1:3])
        for rule, name in RULES.items()
    )
    table = Table(
        "rates_rectangle",
        "Three ways to the convolution at 1 Hz, in NumPy",
        ("system", *(LABELS[n] for n in (*NAMES, "all")), "95 % from", "to"),
        rows,
        f"Mean errors in %; {len(data)} voxels, Thiran delay, estimates not bounded, Nelder–Mead "
        "of SciPy from the truth.",
    )
    return table, means
