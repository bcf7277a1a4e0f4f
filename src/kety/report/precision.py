"""Centre, spread and standard error of a map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kety.report.content import Study

SECONDS: Final = "s"


@dataclass(frozen=True)
class Precision:
    """Centre, spread and standard error of one map over the fitted voxels.

    ``relative`` is the median of standard error over absolute value; it is NaN for times, whose
    zero is arbitrary.
    """

    count: int
    median: float
    lower: float
    upper: float
    error: float
    relative: float
    below: int
    above: int


def precision(study: Study, name: str, where: NDArray[np.bool_] | None = None) -> Precision:
    """Summarise one map over the fitted voxels (and ``where``)."""
    values = study.finite(name, where)
    window = study.window(name)
    chosen = study.fitted if where is None else study.fitted & where
    error = study.values(f"{name}_se")[chosen].astype(np.float64)
    value = study.values(name)[chosen].astype(np.float64)
    known = np.isfinite(error) & np.isfinite(value)
    relative = np.nan
    if study.units(name) != SECONDS and (known & (value != 0)).any():
        known_value = known & (value != 0)
        relative = float(np.median(error[known_value] / np.abs(value[known_value])))
    lower, median, upper = (
        np.percentile(values, [25.0, 50.0, 75.0]) if values.size else (np.nan, np.nan, np.nan)
    )
    return Precision(
        count=values.size,
        median=float(median),
        lower=float(lower),
        upper=float(upper),
        error=float(np.median(error[known])) if known.any() else float("nan"),
        relative=relative,
        below=int(np.count_nonzero(values < window.lower)),
        above=int(np.count_nonzero(values > window.upper)),
    )
