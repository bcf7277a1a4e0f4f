"""How much the figures depend on the ranges of the parameters, which the paper does not state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

import kety
from kety.studies.optimization.data import RANGES, DataSet, Mean, measure, simulated
from kety.studies.optimization.paper import IIR_ERROR, ROUNDED, ROUNDED_SQP
from kety.studies.records import Effort, Table

HERE: Final = "as elsewhere here"
WIDE: Final = "Ktrans to 3, kep to 6 /min, delay 10 to 40 s"
LOW: Final = "Vb from 0.001"
VARIANTS: Final[Mapping[str, Mapping[str, tuple[float, float]]]] = {
    HERE: {},
    WIDE: {"ktrans": (0.02, 3.0), "kep": (0.1, 6.0), "delay": (10.0, 40.0)},
    LOW: {"vb": (0.001, 0.2)},
    "Ktrans to 3, kep to 6 /min": {"ktrans": (0.02, 3.0), "kep": (0.1, 6.0)},
    "delay from 0.1 s": {"delay": (0.1, 10.0)},
    "delay from 3 s": {"delay": (3.0, 10.0)},
    "Vb from 0.03": {"vb": (0.03, 0.2)},
}
"""Those of `WIDE` and `LOW` were found by trial to come near the paper's figures."""
VOXELS: Final = (80, 600)
"""Quick and full."""
STUCK: Final = "SQP, one start at the lower bounds, rounded"
# Column: system, rate in Hz, delay filter, parameter.
COLUMNS: Final[Mapping[str, tuple[str, float, str, str]]] = {
    "IIR 1 Hz rounded": ("iir", 1.0, "round", "all"),
    "IIR 1 Hz Thiran": ("iir", 1.0, "thiran", "all"),
    "its Vb": ("iir", 1.0, "thiran", "vb"),
    "FIR 1 Hz Thiran": ("fir", 1.0, "thiran", "all"),
    "IIR 5 Hz rounded": ("iir", 5.0, "round", "all"),
    "IIR 5 Hz Thiran": ("iir", 5.0, "thiran", "all"),
    "Vb at 5 Hz": ("iir", 5.0, "thiran", "vb"),
}
PAPER: Final = (
    ROUNDED["nelder_mead", 1.0].value,
    IIR_ERROR[1.0]["all"].value,
    IIR_ERROR[1.0]["vb"].value,
    None,
    ROUNDED["nelder_mead", 5.0].value,
    IIR_ERROR[5.0]["all"].value,
    IIR_ERROR[5.0]["vb"].value,
    ROUNDED_SQP[1, 1.0].value,
)
"""The paper's mean errors, %, of `COLUMNS` and of `STUCK`."""


def compare(effort: Effort) -> dict[str, dict[str, float]]:
    """Mean errors in % on noise-free curves at 1 Hz: ranges to column to number."""
    found = {}
    for name in VARIANTS if effort.full else (HERE, WIDE, LOW):
        effort.tell(f"ranges: {name}")
        ranges = {**RANGES, **VARIANTS[name]}
        count = effort.pick(*VOXELS)
        data = simulated(name, np.arange(200.0), count, effort.seed, ranges=ranges)
        found[name] = columns(data, ranges, effort)
    return found


def columns(
    data: DataSet, ranges: Mapping[str, tuple[float, float]], effort: Effort
) -> dict[str, float]:
    """Mean errors of one choice of ranges, which are the bounds too."""
    fits: dict[tuple[str, float, str], dict[str, Mean]] = {}
    for kind, rate, delay, _ in COLUMNS.values():
        if (kind, rate, delay) in fits:
            continue
        fits[kind, rate, delay] = measure(
            data.first(effort.pick(20, 200)) if kind == "fir" else data,
            effort,
            bounds=ranges,
            optimizer=kety.NelderMead.preset("paper"),
            discretization=kety.Discretization(kind, rate=rate, delay_filter=delay),
        ).means
    row = {column: fits[key[:3]][key[3]].value for column, key in COLUMNS.items()}
    # What SQP does with a rounded delay; see `stalled`.
    others = {name: pair for name, pair in ranges.items() if name != "delay"}
    stuck = measure(data, effort, bounds=others, delay=ranges["delay"][0])
    return {**row, STUCK: stuck.means["all"].value}


def table(found: Mapping[str, Mapping[str, float]], count: int) -> Table:
    """The numbers of `compare`, for `count` voxels each, beside the paper's."""
    rows: list[tuple[str | float | None, ...]] = [
        (name, *row.values()) for name, row in found.items()
    ]
    rows.append(("paper (ranges not stated)", *PAPER))
    return Table(
        "rates_ranges",
        "Mean error in % on data set 1 by the ranges of the parameters",
        ("ranges", *COLUMNS, STUCK),
        tuple(rows),
        f"Over all four, or of Vb. Nelder–Mead, {count} voxels for each, FIR fewer; what is not "
        "named is as elsewhere, and ranges are bounds too. The last column: the delay stays at its "
        "lower bound, where the first point of Matlab's haltonset lies.",
    )
