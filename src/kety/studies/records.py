"""What an experiment of a study gives: figures beside the paper's, tables, pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Comparison:
    """One number of the paper beside ours.

    Attributes
    ----------
    where : str
        Place in the paper, e.g. ``"Table 4"``.
    what : str
        What the number is, e.g. ``"Nelder-Mead, median error"``.
    unit : str
    paper : float or None
        None where the paper has no such number.
    ours : float or None
        None where it could not be measured; `why` then says so.
    low, high : float or None
        95 % confidence interval of ours.
    why : str
        Why they differ, where they do.
    """

    where: str
    what: str
    unit: str
    paper: float | None
    ours: float | None
    low: float | None = None
    high: float | None = None
    why: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours over the paper's; None where one of them is missing or the paper's is 0."""
        if self.paper is None or self.ours is None or self.paper == 0:
            return None
        return self.ours / self.paper


@dataclass(frozen=True)
class Table:
    """A titled table; cells are text or numbers, numbers are written in full to CSV."""

    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str | float | None, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A figure as PNG, its caption, and a text for those who cannot see it."""

    name: str
    caption: str
    png: bytes
    alt: str


@dataclass(frozen=True)
class Outcome:
    """What one experiment found.

    `text` is one or more paragraphs: what was asked, what came out; `conditions` the choices that
    the paper leaves open; `targets` a sentence for each target with whether it was met.
    """

    name: str
    title: str
    text: tuple[str, ...]
    comparisons: tuple[Comparison, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    conditions: tuple[str, ...] = ()
    targets: tuple[tuple[str, bool], ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True)
class Effort:
    """How much work an experiment may do."""

    full: bool
    seed: int = 1
    threads: int | None = None
    tell: Callable[[str], None] = field(default=lambda text: None)

    def pick(self, quick: int, full: int) -> int:
        """One of two numbers, e.g. of voxels."""
        return full if self.full else quick


Experiment = Callable[[Effort], Outcome]
