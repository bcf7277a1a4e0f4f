"""The blocks of the verdict: findings in words, shares by status, typical values and errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from markupsafe import Markup

from kety.fitting.status import SENTENCES, Status
from kety.report import figures
from kety.report.blocks import (
    Bar,
    Block,
    Cell,
    Chart,
    Charts,
    Findings,
    Level,
    Paragraph,
    Table,
    Tiles,
)
from kety.report.content import Study, quantity, symbol
from kety.report.numbers import number, percent, tick
from kety.report.precision import Precision, precision
from kety.report.rasters import STATUS_COLOURS
from kety.report.summary import Evidence, Residuals, find

_HEADLINES: Final[dict[Level, str]] = {
    "good": "Nothing speaks against these maps",
    "caution": "Read these maps with care",
    "alarm": "Do not rely on these maps as they are",
}


def verdict_blocks(study: Study, sample: Residuals | None) -> list[Block]:
    """Findings, headline figures, voxels by status, and typical values with their errors."""
    tables = {"All fitted voxels": {n: precision(study, n) for n in study.parameters}}
    if study.roi is not None:
        tables["Region of interest"] = {n: precision(study, n, study.roi) for n in study.parameters}
    *_, closest = tables.values()
    findings = find(Evidence(study, sample, closest))
    gravest = findings[0].level if findings else "good"
    level: Level = "good" if gravest == "note" else gravest
    counts = study.counts
    r2 = study.finite("r2", study.roi)
    place = "" if study.roi is None else " in the region of interest"
    unit = f" {study.curve_units}" if study.curve_units else ""
    tiles = [
        (percent(study.n_fitted, study.inside), "of the voxels in the mask fitted"),
        (percent(counts[Status.CONVERGED], study.n_fitted), "of the fits converged inside bounds"),
        (number(float(np.median(r2))) if r2.size else "–", f"median R²{place}"),
        (number(sample.rms) + unit if sample else "–", "typical residual (root mean square)"),
    ]
    parts = [
        (s.meaning.replace("_", " "), counts[s], STATUS_COLOURS[s])
        for s in Status
        if s is not Status.OUTSIDE and counts[s]
    ]
    alt = "; ".join(f"{label}: {percent(n, study.inside)}" for label, n, _ in parts)
    rows: list[list[Cell]] = [
        [
            _swatch(STATUS_COLOURS[s], s.meaning.replace("_", " ")),
            f"{counts[s]:,}",
            "–" if s is Status.OUTSIDE else percent(counts[s], study.inside),
            SENTENCES[s],
        ]
        for s in Status
    ]
    table = Table(
        "Voxels by status",
        ("Status", "Voxels", "Share of mask", "Meaning"),
        rows,
        text_columns=frozenset({0, 3}),
        bar=Bar(parts, f"Voxels inside the mask by status. {alt}.") if parts else None,
    )
    headline = _HEADLINES[level] + (place if level == "good" else "")
    blocks: list[Block] = [Findings(level, headline, findings), Tiles(tiles), table]
    if study.n_fitted:
        blocks += [_precision_table(study, title, summary) for title, summary in tables.items()]
    return blocks


def _precision_table(study: Study, caption: str, summaries: Mapping[str, Precision]) -> Table:
    held = "".join(
        f" {name} was held at {tick(value)} {study.units(name)}".rstrip() + "."
        for name, value in study.held.items()
    )
    rows: list[list[Cell]] = []
    for name, p in summaries.items():
        rows.append(
            [
                quantity(study, name),
                study.units(name) or "1",
                f"{p.count:,}",
                number(p.median),
                f"{number(p.lower)} to {number(p.upper)}",
                number(p.error),
                f"{100 * p.relative:.1f} %" if np.isfinite(p.relative) else "–",
            ]
        )
    return Table(
        f"{caption}: typical value and standard error",
        (
            "Parameter",
            "Unit",
            "Voxels",
            "Median",
            "Middle half",
            "Median standard error",
            "Median relative error",
        ),
        rows,
        text_columns=frozenset({0, 1}),
        note=f"Relative error: standard error over value, not defined for times.{held}",
    )


def _swatch(colour: str, text: str) -> Markup:
    return Markup('<span class="swatch" style="background:{}"></span>{}').format(colour, text)


def histogram_blocks(study: Study) -> list[Block]:
    """One histogram per parameter and one of R²."""
    charts = []
    for name in study.shown:
        values, window = study.finite(name), study.window(name)
        if values.size == 0:
            continue
        lower, median, upper = np.percentile(values, [25.0, 50.0, 75.0])
        below = int(np.count_nonzero(values < window.lower))
        above = int(np.count_nonzero(values > window.upper))
        unit = f" {study.units(name)}" if study.units(name) else ""
        kind = "window" if window.fixed else "range of these data (no fixed window is listed)"
        words = (
            f"median {number(median)}{unit}, middle half {number(lower)} to {number(upper)}; "
            f"{kind} {tick(window.lower)} to {tick(window.upper)}{unit}; "
            f"below it {percent(below, values.size)}, above it {percent(above, values.size)}"
        )
        svg = figures.histogram(values, window, f"Histogram of {name}: {words}.")
        charts.append(Chart(svg, Markup("<b>{}</b> {}.").format(symbol(window), words)))
    if not charts:
        return [Paragraph("No voxel was fitted, so there are no values to count.")]
    return [Charts(charts, width=235)]
