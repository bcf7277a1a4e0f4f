"""Figures that the experiments share: lines over a number, points by category, both with intervals.

matplotlib draws them through its object interface, without a display. Methods keep their colour
and their mark in all figures; the colours (Okabe and Ito) differ for colour-blind readers too.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID = "#1b2026", "#59636e", "#e3e7eb"
COLOURS: Final[Mapping[str, str]] = {
    "nelder_mead": "#0072b2",
    "differential_evolution": "#009e73",
    "sqp": "#d55e00",
    "varprolm": "#1b2026",
    "pattern_search": "#cc79a7",
    "simulated_annealing": "#b8860b",
    "paper": "#7a2048",
}
MARKS: Final[Mapping[str, str]] = {
    "nelder_mead": "o",
    "differential_evolution": "s",
    "sqp": "^",
    "varprolm": "D",
    "pattern_search": "v",
    "simulated_annealing": "P",
    "paper": "x",
}
NAMES: Final[Mapping[str, str]] = {
    "nelder_mead": "Nelder–Mead",
    "differential_evolution": "differential evolution",
    "sqp": "SQP",
    "varprolm": "kety's own solver, exact",
    "pattern_search": "pattern search",
    "simulated_annealing": "simulated annealing",
    "paper": "paper",
}
"""Method to its colour, mark and name in legends."""
SPARE: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#1b2026")
"""Colours of what is not a method."""
DPI: Final = 150
STYLE: Final[dict[Any, Any]] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 9.5,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.5,
    "lines.markersize": 5,
}


@dataclass(frozen=True)
class Series:
    """A quantity with its 95 % interval, over the x of a panel or over its categories.

    Attributes
    ----------
    label : str
        Its name in the legend; the same in every panel.
    x : sequence of float
        Or indices of categories.
    y : sequence of float
        NaN where there is none.
    low, high : sequences of float, optional
    colour, mark, line : str
        As matplotlib has them; no mark or line where empty.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    colour: str = INK
    mark: str = "o"
    line: str = "-"
    hollow: bool = False


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes
    ----------
    title : str
    series : sequence of Series
    x_label, y_label : str
    x_scale, y_scale : {"linear", "log"}
    x_ticks : sequence of (position, label), optional
        Without them the numbers of a linear axis.
    y_range : (low, high), optional
    turn : bool
        Set the labels of the x axis upright.
    """

    title: str
    series: Sequence[Series]
    x_label: str = ""
    y_label: str = ""
    x_scale: str = "linear"
    y_scale: str = "log"
    x_ticks: Sequence[tuple[float, str]] | None = None
    y_range: tuple[float, float] | None = None
    turn: bool = False


def of_method(method: str, x: Sequence[float], y: Sequence[float], **options: Any) -> Series:
    """A series in the colour, mark and name of a method."""
    settings = {"label": NAMES[method], "colour": COLOURS[method], "mark": MARKS[method]}
    return Series(x=x, y=y, **{**settings, **options})


def of_paper(x: Sequence[float], y: Sequence[float], label: str = "paper") -> Series:
    """The paper's numbers: crosses without a line."""
    return Series(label, x, y, colour=COLOURS["paper"], mark="X", line="")


def categories(count: int, of: int, index: int, width: float = 0.5) -> list[float]:
    """Positions of one of several series over categories 0 to `count` - 1, side by side."""
    shift = 0.0 if of < 2 else width * (index / (of - 1) - 0.5)
    return [i + shift for i in range(count)]


def draw(panels: Sequence[Panel], *, columns: int | None = None, height: float = 3.0) -> bytes:
    """Draw panels side by side under one legend and return the PNG.

    `height` is that of a row in inches.
    """
    import matplotlib
    from matplotlib.figure import Figure

    across = min(len(panels), columns or len(panels))
    down = -(-len(panels) // across)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(5.2, min(9.6, 3.3 * across)), height * down + 0.5))
        figure.set_layout_engine("constrained")
        grid = figure.subplots(down, across, squeeze=False)
        for axes, panel in zip(grid.flat, panels, strict=False):
            _paint(axes, panel)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        _legend(figure, [a for a in grid.flat if a.get_visible()])
        return to_png(figure)


def to_png(figure: Figure) -> bytes:
    """A figure as PNG without a date in it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def _paint(axes: Axes, panel: Panel) -> None:
    axes.set_title(panel.title, loc="left")
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    axes.set_xscale(panel.x_scale)
    axes.set_yscale(panel.y_scale)
    for one in panel.series:
        x, y = np.asarray(one.x, float), np.asarray(one.y, float)
        if panel.y_scale == "log":
            y = np.where(y > 0, y, np.nan)
        face = "white" if one.hollow else one.colour
        axes.plot(
            x,
            y,
            label=one.label,
            color=one.colour,
            marker=one.mark or None,
            linestyle=one.line or "none",
            markerfacecolor=face,
            zorder=4 if not one.line else 3,
        )
        if one.low is None or one.high is None:
            continue
        low, high = np.asarray(one.low, float), np.asarray(one.high, float)
        spread = np.stack([np.maximum(y - low, 0.0), np.maximum(high - y, 0.0)])
        axes.errorbar(
            x, y, spread, fmt="none", ecolor=one.colour, elinewidth=1.1, capsize=2.5, zorder=2
        )
    if panel.x_ticks is not None:
        axes.set_xticks([at for at, _ in panel.x_ticks], [label for _, label in panel.x_ticks])
        axes.minorticks_off() if panel.x_scale == "log" else None
    if panel.turn:
        axes.tick_params(axis="x", labelrotation=90)
    if panel.y_range is not None:
        axes.set_ylim(*panel.y_range)
    if panel.y_scale == "log":
        _plain_decades(axes)


def _plain_decades(axes: Axes) -> None:
    """Ticks such as 0.1, 1 and 10 instead of powers, where the numbers are short."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.get_ylim()
    if high / low < 30:
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    if low > 1e-4 and high < 1e5:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _legend(figure: Figure, grid: Sequence[Axes]) -> None:
    """One legend for all panels, every label once."""
    found: dict[str, Any] = {}
    for axes in grid:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if len(found) > 1:
        options: dict[str, Any] = {"loc": "outside lower center", "ncols": min(len(found), 4)}
        figure.legend(list(found.values()), list(found), **options)
