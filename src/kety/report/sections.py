"""The report's sections, declared in one list: a title, a sentence and a builder of blocks.

A builder returns no blocks where its section does not apply, and the section is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from kety.report.blocks import Block, Cell, Table
from kety.report.certainty import certainty_blocks
from kety.report.content import Study, quantity
from kety.report.curves import curve_blocks, input_blocks
from kety.report.joint import joint_blocks
from kety.report.modelfree import summary_blocks
from kety.report.numbers import tick
from kety.report.pictures import map_blocks
from kety.report.selection import selection_blocks
from kety.report.summary import Residuals, determined, residuals
from kety.report.truth import truth_blocks
from kety.report.verdict import histogram_blocks, verdict_blocks


@dataclass(frozen=True)
class Report:
    """A study and what several sections need of it."""

    study: Study
    determined: NDArray[np.intp]
    sample: Residuals | None


@dataclass(frozen=True)
class Section:
    """One section: its anchor, title, what it shows, and the builder of its blocks."""

    anchor: str
    title: str
    sentence: str
    build: Callable[[Report], list[Block]]


def prepare(study: Study) -> Report:
    """Draw the sample of residuals that several sections show."""
    if study.model_free:
        return Report(study, np.empty(0, np.intp), None)
    voxels = determined(study)
    return Report(study, voxels, residuals(study, voxels))


def _provenance(study: Study) -> list[Block]:
    rows: list[list[Cell]] = [
        [key, Markup("<code>{}</code>").format(value)] for key, value in _flat(study.provenance)
    ]
    quantities: list[list[Cell]] = []
    for name in study.shown if study.model_free else (*study.shown, "cost"):
        attrs = study.maps[name].attrs
        window = study.window(name) if name != "cost" else None
        limits = f"{tick(window.lower)} to {tick(window.upper)}" if window else "–"
        title = quantity(study, name) if window else Markup("<i>{}</i>").format(name)
        code = str(attrs.get("osipi", "")) or "–"
        unit = str(attrs.get("units", "")) or "1"
        quantities.append([title, study.long_name(name), unit, limits, code])
    return [
        Table("Provenance", ("What", "Value"), rows, text_columns=frozenset({0, 1})),
        Table(
            "Quantities",
            ("Quantity", "Meaning", "Unit", "Display window", "OSIPI code"),
            quantities,
            text_columns=frozenset({0, 1, 2, 4}),
            note="Codes are those of the OSIPI lexicon for contrast-agent-based perfusion "
            "imaging (CAPLEX).",
        ),
    ]


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in mapping.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name} › ")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            yield name, ", ".join(map(str, value))
        else:
            yield name, str(value)


_INPUT: Final = Section(
    "input",
    "Input curve",
    "The arterial curve that drives the model: samples, the curve through them, and the "
    "frames of the series (ticks).",
    lambda report: input_blocks(report.study),
)

_PROVENANCE: Final = Section(
    "provenance",
    "Provenance and glossary",
    "What made these maps, and what each quantity means.",
    lambda report: _provenance(report.study),
)

_HISTOGRAMS: Final = Section(
    "histograms",
    "Distributions",
    "Values of the fitted voxels in the same windows and colours; solid line: median, dotted: "
    "quartiles; single bars at the ends: values beyond the window.",
    lambda report: histogram_blocks(report.study),
)

SECTIONS: Final[tuple[Section, ...]] = (
    Section(
        "verdict",
        "Can these maps be believed?",
        "What became of every voxel, how well the model describes the curves, and how sure the "
        "estimates are.",
        lambda report: verdict_blocks(report.study, report.sample),
    ),
    Section(
        "models",
        "Which model where",
        "Several models were fitted, and in every voxel the one chosen that the curve supports: "
        "the fewest unknowns that leave no more than noise.",
        lambda report: selection_blocks(report.study),
    ),
    Section(
        "maps",
        "Maps",
        "Every quantity in its fixed physical window, so that colours mean the same in every "
        "report; values beyond the window are marked, not clipped. Voxels without a value show "
        "the anatomy. Beneath or beside each map its standard error.",
        lambda report: map_blocks(report.study),
    ),
    Section(
        "certainty",
        "How sure, beyond the standard errors",
        "Intervals that follow the bend of the model or the residuals as they are, and what an "
        "uncertain input adds.",
        lambda report: certainty_blocks(report.study),
    ),
    Section(
        "joint",
        "Joint estimation",
        "All voxels were estimated together, each drawn to those that are like it: what that "
        "gained, what it changed, and where it may have gone too far.",
        lambda report: joint_blocks(report.study),
    ),
    _HISTOGRAMS,
    _INPUT,
    Section(
        "curves",
        "Measured against fitted",
        "Voxels chosen by their residual, from best to worst, each with its residuals.",
        lambda report: curve_blocks(report.study, report.determined, report.sample),
    ),
    Section(
        "truth",
        "Against the truth",
        "The study is simulated, so the estimates can be compared with the values behind it.",
        lambda report: truth_blocks(report.study),
    ),
    _PROVENANCE,
)

MODEL_FREE_SECTIONS: Final[tuple[Section, ...]] = (
    Section(
        "summary",
        "What the maps hold",
        "What became of every voxel, and typical values with their errors.",
        lambda report: summary_blocks(report.study),
    ),
    Section(
        "maps",
        "Maps",
        "Each map in the window under it, and beside it its standard error, the noise alone: what "
        "a method does not allow for, such as agent that leaves early, is not in it.",
        lambda report: map_blocks(report.study),
    ),
    _HISTOGRAMS,
    _INPUT,
    _PROVENANCE,
)
"""Sections of maps that were made without a model."""
