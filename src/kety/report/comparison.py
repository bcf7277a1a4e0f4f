"""The page of a comparison: what changed, regions, repeatability, maps, status and settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from kety.comparison.regions import EVERYWHERE
from kety.fitting.status import FITTED, Status
from kety.report import comparison_figures
from kety.report import comparison_words as words
from kety.report.blocks import Block, Cell, Chart, Charts, Findings, Level, Paragraph, Table, Tiles
from kety.report.comparison_maps import map_blocks
from kety.report.content import symbol
from kety.report.figures import calibration
from kety.report.numbers import percent
from kety.report.windows import WINDOWS

if TYPE_CHECKING:
    from kety.comparison import Comparison, Pair

_SYMBOLS: Final = {window.name: symbol(window) for window in WINDOWS}


@dataclass(frozen=True)
class Section:
    """Heading of a part of the page."""

    anchor: str
    title: str
    sentence: str


def render(comparison: Comparison, *, title: str, record: Mapping[str, Any]) -> str:
    """The page, without external resources.

    Parameters
    ----------
    comparison
        What `kety.compare` returned.
    title
        Its heading.
    record
        Provenance: what and value.
    """
    sections: list[tuple[Section, Sequence[Block]]] = [
        (
            Section(
                "verdict",
                "What changed?",
                "B less A. A change exceeds its uncertainty when it is more than noise and uneven "
                "tissue explain, at 5 % over all tests.",
            ),
            _verdict(comparison),
        ),
        (Section("regions", "Regions", _tested(comparison)), [_regions(comparison)]),
        (
            Section("agreement", "Agreement and repeatability", words.meaning(comparison)),
            _agreement(comparison),
        ),
        (
            Section(
                "voxels",
                "Single voxels",
                "Change over its standard error. Without change, z has a standard deviation of 1 "
                "and 5 % lie beyond 1.96.",
            ),
            _voxels(comparison),
        ),
        (
            Section(
                "maps",
                "Maps",
                "A, B, their difference and the difference in standard errors. Windows are fixed; "
                "values beyond them are marked.",
            ),
            map_blocks(comparison),
        ),
        (
            Section(
                "status",
                "What became of the voxels",
                "Changes are of voxels that were fitted in both studies.",
            ),
            _transitions(comparison),
        ),
        (
            Section("provenance", "Provenance", "What was compared, and what was done unlike."),
            _provenance(comparison, record),
        ),
    ]
    # Autoescape: names of files and regions come from outside.
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = resources.files("kety.report").joinpath("template.html.j2").read_text("utf-8")
    return environment.from_string(source).render(
        title=title,
        subtitle="Change between studies",
        sections=[(section, blocks) for section, blocks in sections if blocks],
    )


def _verdict(comparison: Comparison) -> list[Block]:
    level: Level = "caution" if comparison.warnings else "note"
    changed = sum(row.exceeds for row in comparison.rois)
    tiles = [(f"{changed} of {comparison.tests}", "changes exceed their uncertainty")]
    tested = [row for row in comparison.rois if row.exceeds_limit is not None]
    if tested:
        beyond = sum(bool(row.exceeds_limit) for row in tested)
        tiles.append((f"{beyond} of {len(tested)}", "changes exceed the given repeatability"))
    pair = comparison.pairs[0]
    if len(comparison.pairs) > 1:
        tiles.append((str(len(comparison.pairs)), "pairs of studies"))
    elif pair.transitions is not None:
        fitted = [int(status) for status in FITTED]
        either = pair.transitions.sum() - _unfitted(pair, fitted)
        both = int(pair.transitions[np.ix_(fitted, fitted)].sum())
        tiles.append((f"{both:,}", "voxels fitted in both studies"))
        tiles.append((percent(both, int(either)), "of those fitted in either"))
    return [
        Findings(level, words.headline(comparison), words.findings(comparison)),
        Tiles(tiles),
    ]


def _unfitted(pair: Pair, fitted: Sequence[int]) -> int:
    rest = [int(status) for status in Status if int(status) not in fitted]
    assert pair.transitions is not None
    return int(pair.transitions[np.ix_(rest, rest)].sum())


def _tested(comparison: Comparison) -> str:
    from kety.comparison.agreement import CORRECTIONS

    correction = CORRECTIONS[comparison.correction]
    text = (
        f"The {comparison.statistic} of each region; the change is that of the voxels' changes "
        f"where they correspond. p values are of no change, corrected for "
        f"{comparison.tests} tests ({correction})."
    )
    if comparison.limits:
        given = ", ".join(f"{name} {limit}" for name, limit in comparison.limits.items())
        text += f" Repeatability coefficients given: {given}."
    return text


def _regions(comparison: Comparison) -> Table:
    several = len(comparison.pairs) > 1
    below = Markup("{}<br><span class=muted>{}</span>")
    rows = []
    for row, cells in zip(comparison.rois, words.roi_rows(comparison), strict=True):
        used = f"{row.voxels_a:,}"
        if row.voxels_b != row.voxels_a:
            used += f" / {row.voxels_b:,}"
        inside = max(row.inside_a, row.inside_b)
        if row.region != EVERYWHERE and inside != row.voxels_a:
            used += f" of {inside:,}"
        title = _SYMBOLS.get(row.parameter, row.parameter)
        label = Markup("{} <span class=muted>{}</span>").format(title, words.unit(row))
        _, place, a, b, change, percent_, interval, p, uncertainty, repeatability = cells
        line: list[Cell] = [
            label,
            place,
            below.format(used, f"worth {row.independent:,.0f}"),
            a,
            b,
            below.format(change, interval),
            percent_,
            p,
            Markup("<b>{}</b>").format(uncertainty) if row.exceeds else uncertainty,
        ]
        rows.append([*line, repeatability] if comparison.limits else line)
    columns = (
        "Parameter",
        "Region, pair" if several else "Region",
        "Voxels",
        "A",
        "B",
        "Change, 95 % interval",
        "%",
        "p",
        "Uncertainty",
        "Repeatability",
    )
    return Table(
        "Change of each region",
        columns if comparison.limits else columns[:-1],
        rows,
        text_columns=frozenset({0, 1}),
        note="Voxels: fitted and used, of those in the region. Worth: as many independent ones, as "
        "far as the change tells. The interval is not corrected for the number of tests. Errors "
        "that all voxels of a study share, such as one of its arterial input, are not in it.",
    )


def _agreement(comparison: Comparison) -> list[Block]:
    below = Markup("{}<br><span class=muted>{}</span>")
    charts = []
    for one in comparison.agreements:
        told = words.limits_told(one)
        alt = f"Bland–Altman plot of {one.parameter} over {words.over(one)}: {told}."
        beyond = comparison_figures.outside(one)
        out = f" {beyond:,} lie beyond the axes." if beyond else ""
        caption = Markup("<b>{}</b> over {}: {}.{}").format(
            _SYMBOLS.get(one.parameter, one.parameter), words.over(one), told, out
        )
        charts.append(Chart(comparison_figures.bland_altman(one, alt), caption))
    rows = []
    for one, cells in zip(comparison.agreements, words.agreement_rows(comparison), strict=True):
        title = _SYMBOLS.get(one.parameter, one.parameter)
        first = Markup("{} <span class=muted>{}</span>").format(title, cells[0][1])
        rows.append([first, *(below.format(*cell) for cell in cells[1:])])
    table = Table(
        "Figures of agreement, with 95 % intervals",
        tuple(
            name if name[1:2].isupper() else name.capitalize() for name in words.AGREEMENT_COLUMNS
        ),
        rows,
        text_columns=frozenset({0, 1}),
        note="wSD, wCV: within-subject standard deviation and coefficient of variation. RC: "
        "repeatability coefficient, 2.77 wSD or 2.77 wCV, by less than which two measurements of "
        "the same differ in 95 %. CCC: Lin's concordance correlation. Slope: of the difference on "
        "the mean. Over voxels both are moved by single ones that went astray.",
    )
    legend = Paragraph(
        "Bland–Altman plots: solid, the bias; dashed, the limits of agreement, between which 95 % "
        "of the differences lie; bands, their 95 % intervals; dotted, no difference. Over many "
        "voxels the shade shows how many there are."
    )
    return [legend, Charts(charts, width=400), table] if charts else []


def _voxels(comparison: Comparison) -> list[Block]:
    rows = words.voxel_rows(comparison)
    if not rows:
        return []
    blocks: list[Block] = []
    pair = comparison.pairs[0]
    if len(comparison.pairs) == 1 and pair.changes is not None:
        shown, scores = [], []
        for name in comparison.parameters:
            z = np.asarray(pair.changes[f"{name}_z"].values, dtype=np.float64)
            if np.isfinite(z).any():
                shown.append(name)
                scores.append(z[np.isfinite(z)])
        if shown:
            alt = f"Histograms of change over standard error of {', '.join(shown)}."
            caption = "Bars: change over standard error. Line: what noise alone gives."
            blocks.append(Charts([Chart(calibration(shown, scores, alt), caption)], width=640))
    table = Table(
        "Changes of single voxels",
        ("Parameter", "Voxels", "SD of z", "Beyond 1.96", "Stand out"),
        rows,
        note="SD of z: of the middle two thirds. Stand out: among all the voxels, at a false "
        "discovery rate of 5 % (Benjamini–Hochberg).",
    )
    return [*blocks, table]


def _transitions(comparison: Comparison) -> list[Block]:
    blocks: list[Block] = []
    for pair in comparison.pairs:
        if pair.transitions is None:
            continue
        counts = pair.transitions
        kept = [s for s in Status if counts[s].any() or counts[:, s].any()]
        names = [status.meaning.replace("_", " ") for status in kept]
        rows = [
            [f"A: {name}", *(f"{counts[status, other]:,}" for other in kept)]
            for name, status in zip(names, kept, strict=True)
        ]
        label = f", {pair.label}" if len(comparison.pairs) > 1 else ""
        blocks.append(
            Table(f"Voxels by status in A and B{label}", ("", *(f"B: {n}" for n in names)), rows)
        )
    return blocks


def _provenance(comparison: Comparison, record: Mapping[str, Any]) -> list[Block]:
    code = Markup("<code>{}</code>")
    blocks: list[Block] = [
        Table(
            "Provenance",
            ("What", "Value"),
            [[key, code.format(value)] for key, value in record.items()],
            text_columns=frozenset({0, 1}),
        )
    ]
    for pair in comparison.pairs:
        if pair.differences:
            label = f", {pair.label}" if len(comparison.pairs) > 1 else ""
            rows = [
                [
                    one.setting,
                    code.format(one.a),
                    code.format(one.b),
                    "yes" if one.expected else "no",
                ]
                for one in pair.differences
            ]
            blocks.append(
                Table(
                    f"Settings and inputs that differ{label}",
                    ("What", "Found in A", "Found in B", "As between any two scans"),
                    rows,
                    text_columns=frozenset({0, 1, 2, 3}),
                )
            )
    return blocks
