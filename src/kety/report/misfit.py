"""The check of neighbouring residuals: in how many voxels the model does not follow the curve."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kety.errors import KetyError
from kety.fitting.problem import Problem, make_problem
from kety.fitting.sensitivity import ExactModel
from kety.models import get_model
from kety.report.blocks import Finding
from kety.report.content import Study
from kety.report.numbers import percent
from kety.residuals import AUTOCORRELATION, BAND, whiteness

CHANCE: Final = 0.05
"""Share of voxels beyond the band where residuals are noise."""
MANY: Final = 0.15


@dataclass(frozen=True)
class Misfit:
    """Number of voxels looked at, and of those whose residuals are correlated beyond the band."""

    voxels: int
    beyond: int

    @property
    def share(self) -> float:
        return self.beyond / self.voxels


def misfit(study: Study, voxels: NDArray[np.intp], residuals: NDArray[np.float64]) -> Misfit | None:
    """Voxels beyond the band: of the map if there is one, else of residuals (V, T) of a sample.

    None where nothing can be said: of joint estimates, discretized models, no residuals.
    """
    attrs = study.maps.attrs
    if AUTOCORRELATION in study.maps:
        found = [
            study.values(AUTOCORRELATION + end)[study.fitted].astype(np.float64)
            for end in ("", "_mean", "_sd")
        ]
        return _counted(np.stack(found))
    if "joint" in attrs or attrs.get("discretization", "exact") != "exact":
        return None
    if attrs.get("processing_rate_hz"):
        return None
    parts = []
    for name, times, part in _alike(study, voxels):
        record = get_model(name)
        places = voxels[part]
        known = [n for n in record.names if n in study.maps]
        if len(known) < len(record.names):
            return None
        values = np.stack([study.values(n).reshape(-1)[places] for n in known], axis=1)
        errors = np.stack([study.values(f"{n}_se").reshape(-1)[places] for n in known], axis=1)
        problem = _problem(study, name, times, values.astype(np.float64))
        if problem is None:
            return None
        slopes = ExactModel(problem).curves_and_slopes(values.astype(np.float64))[1]
        slopes *= np.isfinite(errors)[:, None, :]
        parts.append(whiteness(problem, residuals[part], slopes))
    return _counted(np.concatenate(parts, axis=1)) if parts else None


def _counted(found: NDArray[np.float64]) -> Misfit | None:
    value, mean, deviation = found
    known = np.isfinite(found).all(axis=0) & (deviation > 0)
    if not known.any():
        return None
    beyond = np.abs(value[known] - mean[known]) > BAND * deviation[known]
    return Misfit(int(known.sum()), int(np.count_nonzero(beyond)))


def _alike(
    study: Study, voxels: NDArray[np.intp]
) -> Iterator[tuple[str, NDArray[np.float64], NDArray[np.intp]]]:
    """Model, frame times and which of the voxels (flat positions) share them."""
    for name, of_model in study.by_model(voxels):
        for times, part in study.by_times(voxels[of_model]):
            if part.size:
                yield name, times, of_model[part]


def _problem(
    study: Study, name: str, times: NDArray[np.float64], values: NDArray[np.float64]
) -> Problem | None:
    """The problem that gave the values, between bounds that hold them all."""
    bounds = {}
    for p, column in zip(get_model(name).parameters, values.T, strict=True):
        bounds[p.name] = (
            float(min(p.bounds[0], column.min())),
            float(max(p.bounds[1], column.max())),
        )
    try:
        return make_problem(
            times,
            study.input,
            name,
            delay=True,
            bounds=bounds,
            weights=None,
            dtype="float64",
            threads=1,
            find_enhancing=False,
            baseline="baseline" in study.maps,
        )
    except KetyError:
        return None  # an input or frames that no fit could have had


def misfit_findings(found: Misfit | None) -> Iterator[Finding]:
    """What the share of voxels beyond the band says."""
    if found is None:
        return
    chance = 3.0 * np.sqrt(CHANCE * (1 - CHANCE) / found.voxels)
    if found.share <= CHANCE + chance:
        return
    share = percent(found.beyond, found.voxels)
    yield Finding(
        "caution" if found.share > MANY else "note",
        f"In {share} of the voxels the residuals of neighbouring frames are correlated beyond the "
        f"95 % band of noise ({percent(CHANCE, 1)} by chance): there the model does not follow the "
        "curve, and standard errors are too small.",
    )
