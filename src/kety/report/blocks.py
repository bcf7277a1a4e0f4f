"""The kinds of block that a section of a report is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from markupsafe import Markup

Level = Literal["good", "note", "caution", "alarm"]
Cell = str | Markup


@dataclass(frozen=True)
class Finding:
    """One sentence of the verdict and how grave it is."""

    level: Level
    text: str


@dataclass(frozen=True)
class Findings:
    """The verdict: a headline and the sentences behind it."""

    kind: ClassVar[str] = "findings"
    level: Level
    headline: str
    findings: Sequence[Finding]


@dataclass(frozen=True)
class Tiles:
    """A row of large figures, each (value, label)."""

    kind: ClassVar[str] = "tiles"
    tiles: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Bar:
    """A stacked bar of shares, each (label, count, colour)."""

    parts: Sequence[tuple[str, int, str]]
    alt: str


@dataclass(frozen=True)
class Table:
    """A table; cells are text (escaped by the template) or trusted markup.

    The columns whose positions are in ``text_columns`` are set left, the others are numbers. A
    bar shows the same shares above the table.
    """

    kind: ClassVar[str] = "table"
    caption: str
    columns: Sequence[Cell]
    rows: Sequence[Sequence[Cell]]
    text_columns: frozenset[int] = frozenset({0})
    note: str = ""
    bar: Bar | None = None


@dataclass(frozen=True)
class Facts:
    """Short facts side by side, each (label, value)."""

    kind: ClassVar[str] = "facts"
    facts: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Chart:
    """An inline SVG and what it shows."""

    svg: Markup
    caption: Cell


@dataclass(frozen=True)
class Charts:
    """Charts side by side, as many as fit, each at least ``width`` pixels wide."""

    kind: ClassVar[str] = "charts"
    charts: Sequence[Chart]
    width: int = 420


@dataclass(frozen=True)
class Picture:
    """One slice: a data URI, its description, and the slice it shows."""

    source: str
    alt: str
    label: str


@dataclass(frozen=True)
class ColourBar:
    """Gradient stops, tick labels and the shares beyond either end (None: cannot be)."""

    stops: str
    ticks: Sequence[str]
    below: str | None
    above: str
    below_colour: str
    above_colour: str


@dataclass(frozen=True)
class Panel:
    """The slices of one map and its colour bar (or a legend of colours)."""

    title: Cell
    pictures: Sequence[Picture]
    bar: ColourBar | None = None
    legend: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Maps:
    """Panels of one quantity; no picture is wider than ``widest`` pixels.

    Where ``stacked``, panels lie side by side and the pictures of each below one another.
    """

    kind: ClassVar[str] = "maps"
    title: Cell
    panels: Sequence[Panel]
    aspect: float
    widest: int
    note: str = ""
    stacked: bool = False


@dataclass(frozen=True)
class Paragraph:
    """A sentence between other blocks."""

    kind: ClassVar[str] = "paragraph"
    text: str


Block = Findings | Tiles | Table | Facts | Charts | Maps | Paragraph
