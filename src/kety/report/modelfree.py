"""The blocks of model-free maps: voxels by status, typical values and their errors."""

from __future__ import annotations

from typing import Final

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from kety.fitting.status import Status
from kety.report.blocks import Bar, Block, Cell, Finding, Findings, Table, Tiles
from kety.report.content import Study, quantity
from kety.report.numbers import number, percent
from kety.report.rasters import STATUS_COLOURS

_SENTENCES: Final = {
    Status.OUTSIDE: "The voxel lies outside the mask.",
    Status.CONVERGED: "All maps were estimated.",
    Status.NOT_ENHANCING: "The curve does not enhance beyond its noise: no peak, slope, flow or "
    "time; areas, washout slope and volume, which noise does not bias, inside a mask alone.",
    Status.NOT_FINITE: "The curve holds NaN or infinite samples; nothing was estimated.",
    Status.NOT_IDENTIFIABLE: "Deconvolution found no impulse response; flow, transit and Tmax are "
    "NaN.",
}


def summary_blocks(study: Study) -> list[Block]:
    """What the caller was warned of, voxels by status, and the values of every map."""
    warned = [Finding("caution", text) for text in study.warnings]
    blocks: list[Block] = []
    if not study.n_fitted:
        warned.insert(0, Finding("alarm", "No voxel could be estimated: every map is empty."))
    if warned:
        headline = "Read these maps with care" if study.n_fitted else "There is nothing to read"
        blocks.append(Findings(warned[0].level, headline, warned))
    noise = study.finite("noise", study.roi)
    unit = f" {study.curve_units}" if study.curve_units else ""
    tiles = [
        (percent(study.n_fitted, study.inside), "of the voxels in the mask estimated"),
        (number(float(np.median(noise))) + unit if noise.size else "–", "noise of a frame, median"),
    ]
    blocks += [Tiles(tiles), _status_table(study)]
    if study.n_fitted:
        blocks.append(_values(study, "All estimated voxels", None))
        if study.roi is not None:
            blocks.append(_values(study, "Region of interest", study.roi))
    return blocks


def _status_table(study: Study) -> Table:
    swatch = Markup('<span class="swatch" style="background:{}"></span>{}')
    counts = study.counts
    rows: list[list[Cell]] = [
        [
            swatch.format(STATUS_COLOURS[status], study.meaning(status)),
            f"{counts[status]:,}",
            "–" if status is Status.OUTSIDE else percent(counts[status], study.inside),
            sentence,
        ]
        for status, sentence in _SENTENCES.items()
    ]
    parts = [
        (study.meaning(status), counts[status], STATUS_COLOURS[status])
        for status in _SENTENCES
        if status is not Status.OUTSIDE and counts[status]
    ]
    alt = "; ".join(f"{label}: {percent(n, study.inside)}" for label, n, _ in parts)
    return Table(
        "Voxels by status",
        ("Status", "Voxels", "Share of mask", "Meaning"),
        rows,
        text_columns=frozenset({0, 3}),
        bar=Bar(parts, f"Voxels inside the mask by status. {alt}.") if parts else None,
    )


def _values(study: Study, caption: str, where: NDArray[np.bool_] | None) -> Table:
    rows: list[list[Cell]] = []
    for name in study.shown:
        values = study.finite(name, where)
        if not values.size:
            continue
        low, middle, high = np.percentile(values, [25.0, 50.0, 75.0])
        error = "–"
        if f"{name}_se" in study.maps:
            errors = study.finite(f"{name}_se", where)
            error = number(float(np.median(errors))) if errors.size else "–"
        rows.append(
            [
                quantity(study, name),
                study.long_name(name),
                study.units(name) or "1",
                f"{values.size:,}",
                number(float(middle)),
                f"{number(float(low))} to {number(float(high))}",
                error,
            ]
        )
    return Table(
        f"{caption}: typical value and standard error",
        ("Map", "Meaning", "Unit", "Voxels", "Median", "Middle half", "Median standard error"),
        rows,
        text_columns=frozenset({0, 1, 2}),
    )
