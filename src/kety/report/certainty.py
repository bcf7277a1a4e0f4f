"""The blocks of what was asked for beside the standard errors: intervals and added errors."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kety.report.blocks import Block, Cell, Table
from kety.report.content import Study, quantity
from kety.report.numbers import number, percent

RESIDUALS: Final = {
    "iid": "drawn with replacement",
    "wild": "each with a random sign",
    "stationary": "drawn in runs",
}


def certainty_blocks(study: Study) -> list[Block]:
    """Tables of bootstrap, profiles and propagated errors; none where nothing was asked for."""
    attrs = study.maps.attrs
    blocks: list[Block] = []
    if "profile" in attrs:
        blocks.append(_profiles(study))
    if "bootstrap" in attrs:
        blocks.append(_bootstrap(study))
    if "uncertain" in attrs:
        blocks.append(_propagated(study))
    return blocks


def _having(study: Study, ending: str) -> list[str]:
    return [name for name in study.parameters if name + ending in study.maps]


def _where(study: Study) -> NDArray[np.bool_]:
    inside = study.fitted if study.roi is None else study.fitted & study.roi
    return np.asarray(inside)


def _median(values: NDArray[Any]) -> float:
    known = values[np.isfinite(values)].astype(np.float64)
    return float(np.median(known)) if known.size else float("nan")


def _place(study: Study) -> str:
    return "" if study.roi is None else " in the region of interest"


def _profiles(study: Study) -> Table:
    inside = _where(study)
    level = float(study.maps.attrs["profile_level"])
    rows: list[list[Cell]] = []
    for name in _having(study, "_open"):
        value = study.values(name)[inside].astype(np.float64)
        error = study.values(f"{name}_se")[inside].astype(np.float64)
        limits = [
            study.values(name + end)[inside].astype(np.float64) for end in ("_lower", "_upper")
        ]
        flags = study.values(f"{name}_open")[inside]
        with np.errstate(divide="ignore", invalid="ignore"):
            below, above = (value - limits[0]) / error, (limits[1] - value) / error
        known = np.isfinite(limits[0]) | np.isfinite(limits[1])
        count = int(np.count_nonzero(known))
        rows.append(
            [
                quantity(study, name),
                f"{count:,}",
                number(_median(below[flags % 2 == 0])),
                number(_median(above[flags < 2])),
                percent(int(np.count_nonzero(flags[known] % 2 == 1)), count),
                percent(int(np.count_nonzero(flags[known] >= 2)), count),
            ]
        )
    return Table(
        f"Profile-likelihood intervals{_place(study)}, {100 * level:g} %",
        (
            "Parameter",
            "Voxels",
            "Reach below, in standard errors",
            "Reach above, in standard errors",
            "Not bounded below",
            "Not bounded above",
        ),
        rows,
        note="Medians of the voxels whose limit the data set. Where both reaches are near that of "
        "a normal error (1 for 68.3 %), the standard error says all; not bounded: the fit stays as "
        "good as noise allows up to the parameter’s bound.",
    )


def _bootstrap(study: Study) -> Table:
    inside = _where(study)
    attrs = study.maps.attrs
    rows: list[list[Cell]] = []
    for name in _having(study, "_se_bootstrap"):
        error = study.values(f"{name}_se")[inside].astype(np.float64)
        spread = study.values(f"{name}_se_bootstrap")[inside].astype(np.float64)
        bias = study.values(f"{name}_bias")[inside].astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio, off = spread / error, bias / spread
        rows.append(
            [
                quantity(study, name),
                study.units(name) or "1",
                f"{np.count_nonzero(np.isfinite(spread)):,}",
                number(_median(error)),
                number(_median(spread)),
                number(_median(ratio)),
                number(_median(off), 2),
            ]
        )
    how = RESIDUALS[str(attrs["bootstrap"])]
    return Table(
        f"Residual bootstrap{_place(study)}",
        (
            "Parameter",
            "Unit",
            "Voxels",
            "Standard error",
            "of the bootstrap",
            "Median ratio",
            "Bias, in standard errors",
        ),
        rows,
        text_columns=frozenset({0, 1}),
        note=f"Medians; {attrs['bootstrap_samples']:,} refits of every voxel, residuals {how}.",
    )


def _propagated(study: Study) -> Table:
    inside = _where(study)
    attrs = study.maps.attrs
    rows: list[list[Cell]] = []
    for name in _having(study, "_se_input"):
        said = study.maps[f"{name}_se_input"].attrs
        errors = [
            _median(study.values(name + end)[inside]) for end in ("_se", "_se_input", "_se_total")
        ]
        rows.append(
            [
                quantity(study, name),
                study.units(name) or "1",
                *(number(error) for error in errors),
                number(float(said.get("region_median_se", np.nan))),
                number(float(said.get("common_correlation", np.nan)), 2),
            ]
        )
    region = "the fitted voxels" if study.roi is None else "the region of interest"
    return Table(
        f"Errors from what is uncertain: {attrs['uncertain']}{_place(study)}",
        (
            "Parameter",
            "Unit",
            "Standard error of the noise",
            "added",
            "in all",
            f"Added to the median over {region}",
            "Common to voxels",
        ),
        rows,
        text_columns=frozenset({0, 1}),
        note=f"Medians of {attrs['uncertain_draws']} draws. Common to voxels: correlation of the "
        "added errors of two voxels; near 1 all move alike, and averaging over a region does not "
        "make this part smaller.",
    )
