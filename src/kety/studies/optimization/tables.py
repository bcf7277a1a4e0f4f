"""Tables of errors that the experiments share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from kety.studies.optimization.data import LABELS, NAMES, Measured
from kety.studies.records import Table

Case = tuple[tuple[str | float, ...], Measured]
"""What was varied, and what came out."""
NOTE: Final = (
    "Errors in % of the truth. 95 %: confidence interval of the mean over all four. Time: that of "
    "all cores; of kety's own solver over 10,000 voxels, since its set-up serves all."
)


def error_tables(
    name: str, title: str, varied: Sequence[str], cases: Sequence[Case], note: str = NOTE
) -> tuple[Table, Table]:
    """A table with a row for each case, and one of all intervals with a row for each parameter."""
    summary = tuple((*keys, *_summary(one)) for keys, one in cases)
    header = (
        *varied,
        "voxels",
        *(LABELS[n] for n in NAMES),
        LABELS["all"],
        "95 % from",
        "to",
        "median",
        "ms/voxel",
    )
    intervals = tuple(
        (*keys, LABELS[n], *mean) for keys, one in cases for n, mean in one.means.items()
    )
    ends = (*varied, "parameter", "mean %", "95 % from", "to", "median %")
    return (
        Table(name, title, header, summary, note),
        Table(f"{name}_intervals", f"{title}: every parameter with its interval", ends, intervals),
    )


def _summary(one: Measured) -> tuple[str | float | None, ...]:
    means, overall = one.means, one.means["all"]
    return (
        len(one),
        *(means[n].value for n in NAMES),
        overall.value,
        overall.low,
        overall.high,
        overall.median,
        1e3 * one.seconds,
    )


def lost(cases: Sequence[Case]) -> str:
    """A sentence on voxels without an estimate, which the means leave out."""
    missing = sum(int(np.isnan(one.errors).any(axis=1).sum()) for _, one in cases)
    total = sum(len(one) for _, one in cases)
    return (
        f"{missing} of {total:,} fits gave no estimate of some parameter and are left out of the "
        "means."
    )
