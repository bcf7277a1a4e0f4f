"""The page of a planned scan: what can be read in its maps, figures, errors and conditions."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from kety.io.atomic import Batch, output_folder
from kety.report import protocol_figures, protocol_verdict
from kety.report.blocks import Cell, Chart, Charts, Table
from kety.report.content import symbol
from kety.report.protocol_verdict import MARKS, TYPICAL, Verdict
from kety.report.windows import WINDOWS

if TYPE_CHECKING:
    import xarray

_SYMBOLS: Final = {window.name: symbol(window) for window in WINDOWS}


@dataclass(frozen=True)
class Plan:
    """What a page is about.

    Attributes
    ----------
    errors : mapping of str to Dataset
        Label of a protocol to what `kety.expected_errors` returns for it; tissues, model and delay
        are the same in all.
    noise_unit : str
        Unit of noise and input, ``"HU"`` or ``"mM"``; empty where it is not known.
    facts : sequence of (str, str)
        The conditions: (label, words).
    """

    errors: Mapping[str, xarray.Dataset]
    noise_unit: str
    facts: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class MatrixRow:
    """A row of verdicts; ``span`` rows share the first's heading, and 0 stands for the others."""

    heading: Cell
    span: int
    label: str
    verdicts: Sequence[Verdict]


@dataclass(frozen=True)
class Matrix:
    """Verdicts by row and column, the marks explained, and sentences below."""

    kind: ClassVar[str] = "matrix"
    caption: str
    columns: Sequence[str]
    rows: Sequence[MatrixRow]
    marks: Mapping[protocol_verdict.Level, str]
    legend: Sequence[tuple[protocol_verdict.Level, str]]
    sentences: Sequence[str]
    note: str

    @property
    def labelled(self) -> bool:
        """Whether several protocols need their labels."""
        return any(row.span != 1 for row in self.rows)


@dataclass(frozen=True)
class Section:
    """Heading of a part of the page."""

    anchor: str
    title: str
    sentence: str


def write_plan(folder: str | os.PathLike[str], plan: Plan) -> list[Path]:
    """Write ``protocol.html``, ``protocol.png`` and ``protocol.csv``, together or not at all.

    Raises
    ------
    OutputError
        If a file cannot be written.
    """
    contents = {
        "html": render(plan).encode(),
        "png": protocol_figures.picture(plan.errors, plan.noise_unit),
        "csv": table(plan.errors).encode(),
    }
    place = output_folder(folder)
    paths = [place / f"protocol.{kind}" for kind in contents]
    with Batch() as batch:
        for path, content in zip(paths, contents.values(), strict=True):
            batch.write(path, content)
    return paths


def table(errors: Mapping[str, xarray.Dataset]) -> str:
    """All figures as CSV, a row for each protocol, tissue and parameter."""
    text = ""
    for label, one in errors.items():
        rows = one.drop_dims(["copy", "time"]).assign_coords(protocol=label).to_dataframe()
        text += rows.to_csv(header=not text)
    return text


def render(plan: Plan) -> str:
    """The page, without external resources."""
    results = plan.errors
    rows, names = protocol_verdict.matrix(results), protocol_verdict.tissues(results)
    sections = [
        (
            Section("verdict", "What can be read", f"Typical error of a single voxel: {TYPICAL}."),
            [_matrix(results, rows, names)],
        ),
        (
            Section("figures", "Figures", "Where the errors come from, and what less noise buys."),
            [
                _figure(results, kind, plan.noise_unit)
                for kind in protocol_figures.TITLES
                if protocol_figures.drawable(results, kind)
            ],
        ),
        (
            Section("errors", "Errors in numbers", "In % of the truth, those of the delay in s."),
            _tables(results),
        ),
        (
            Section("conditions", "Conditions", "What was asked for and simulated."),
            [Table("Conditions", ("", ""), plan.facts, frozenset({0, 1}))],
        ),
    ]
    # Autoescape: names of tissues and files come from outside.
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = resources.files("kety.report").joinpath("template.html.j2").read_text("utf-8")
    return environment.from_string(source).render(
        title=protocol_verdict.headline(rows, names),
        subtitle=f"Expected accuracy of a planned scan: {', '.join(results)}",
        sections=[(section, blocks) for section, blocks in sections if blocks],
    )


def _matrix(
    results: Mapping[str, xarray.Dataset],
    rows: Sequence[protocol_verdict.Row],
    names: Sequence[str],
) -> Matrix:
    lines = []
    for i, row in enumerate(rows):
        text = Markup("{} <span class=muted>{}</span>").format(
            _SYMBOLS.get(row.name, row.name), row.name
        )
        span = 0 if i % len(results) else len(results)
        lines.append(MatrixRow(text, span, row.label, row.verdicts))
    legend = protocol_verdict.legend(rows)
    note = (
        "Averages suppose one tissue and noise that is independent from voxel to voxel."
        if any(level == "average" for level, _ in legend)
        else ""
    )
    told = [
        # Labels of protocols stay as they are.
        (text if len(results) > 1 and matter == "voxels" else text[0].upper() + text[1:]) + "."
        for matter, text in protocol_verdict.sentences(results, rows)
    ]
    told = [text.replace(" %", "\N{NO-BREAK SPACE}%") for text in told]
    return Matrix("Typical error and verdict", names, lines, MARKS, legend, told, note)


def _figure(results: Mapping[str, xarray.Dataset], kind: str, noise_unit: str) -> Charts:
    svgs = protocol_figures.panels(results, kind, noise_unit)
    swatch = Markup('<li><span class="swatch" style="background: {}"></span>{}</li>')
    sign = Markup('<li><span class="sign">{}</span> {}</li>')
    ones = [
        swatch.format(colour, name) if colour else sign.format(mark, name)
        for colour, mark, name in protocol_figures.key(results)
    ]
    body = Markup(
        "<h3>{}</h3>"
        '<div class="charts" style="grid-template-columns: repeat(auto-fill, '
        'minmax(min(100%, 280px), 1fr))">{}</div>'
        '<ul class="legend">{}</ul>'
    )
    figure = body.format(protocol_figures.TITLES[kind], svgs, Markup("").join(ones))
    return Charts([Chart(figure, protocol_figures.CAPTIONS[kind])], width=280)


def _tables(results: Mapping[str, xarray.Dataset]) -> list[Table]:
    names = next(iter(results.values())).parameter.values.tolist()
    told = " ".join(
        f"{f'{label}: {text}' if label in names else text[0].upper() + text[1:]}."
        for label, text in protocol_verdict.remarks(results)
    ).replace(" %", "\N{NO-BREAK SPACE}%")
    parts = (
        ("Bound and typical error", ("bound", "typical", "in units"), told),
        (
            "Spread, bias and standard errors",
            ("RMSE", "bias", "median", "covered"),
            "RMSE: root mean square error. Median: of the error without its sign, in % of the "
            "truth. Covered: share of voxels within their own standard error of the truth; 68 % "
            "is right.",
        ),
    )
    tables = []
    for caption, columns, note in parts:
        header, rows = protocol_verdict.figures_table(results, columns)
        tables.append(Table(caption, header, rows, frozenset({0, 1}), note))
    return tables
