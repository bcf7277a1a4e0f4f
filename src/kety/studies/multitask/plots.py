"""Pictures of this study beyond lines and points: box plots, and maps side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike

from kety.studies.figures import INK, MUTED, STYLE, to_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMN, ROW, LEFT = 1.72, 1.72, 0.5
"""Inches of one map, and of what stands left of the first."""
MISSING: Final = "#d5dae0"


@dataclass(frozen=True)
class Boxes:
    """A panel with a box for each method: quartiles, median, and whiskers to 5 and 95 %."""

    title: str
    values: Mapping[str, ArrayLike]
    y_label: str = ""


@dataclass(frozen=True)
class Maps:
    """A row of maps that share a window.

    Attributes
    ----------
    label : str
        With the unit.
    maps : sequence of (X, Y) array or None
        One for each column, NaN where there is nothing; None leaves the place empty.
    low, high : float
    colours : str
    bar : bool
        Draw the colours with their numbers beside the row.
    """

    label: str
    maps: Sequence[ArrayLike | None]
    low: float
    high: float
    colours: str = "viridis"
    bar: bool = True


def draw_boxes(
    panels: Sequence[Boxes],
    colours: Mapping[str, str],
    labels: Mapping[str, str],
    *,
    columns: int = 2,
    height: float = 2.6,
) -> bytes:
    """Draw box plots of methods and return the PNG."""
    import matplotlib
    from matplotlib.figure import Figure

    down = -(-len(panels) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, height * down + 0.3))
        figure.set_layout_engine("constrained")
        grid = figure.subplots(down, columns, squeeze=False)
        for axes, panel in zip(grid.flat, panels, strict=False):
            _paint_boxes(axes, panel, colours, labels)
        return to_png(figure)


def _paint_boxes(
    axes: Axes, panel: Boxes, colours: Mapping[str, str], labels: Mapping[str, str]
) -> None:
    names = list(panel.values)
    data = [np.asarray(panel.values[n], dtype=np.float64).ravel() for n in names]
    drawn = axes.boxplot(
        data,
        whis=(5.0, 95.0),
        widths=0.55,
        patch_artist=True,
        flierprops={"marker": ".", "markersize": 3, "markeredgecolor": MUTED},
        medianprops={"color": INK, "linewidth": 1.6},
        whiskerprops={"color": MUTED},
        capprops={"color": MUTED},
    )
    for box, name in zip(drawn["boxes"], names, strict=True):
        box.set(facecolor=colours[name] + "55", edgecolor=colours[name], linewidth=1.2)
    axes.set_title(panel.title, loc="left")
    axes.set_ylabel(panel.y_label)
    axes.set_ylim(bottom=0.0)
    axes.grid(axis="x", visible=False)
    words = [labels[n].replace(", ", ",\n") for n in names]
    axes.set_xticks(range(1, len(names) + 1), words, fontsize=7.5)


def draw_maps(rows: Sequence[Maps], columns: Sequence[str], *, scale: float = 1.0) -> bytes:
    """Draw rows of maps under the names of their columns, each row with its colour bar."""
    import matplotlib
    from matplotlib.figure import Figure

    shape = next(np.shape(m) for m in rows[0].maps if m is not None)
    high = ROW * scale * shape[1] / shape[0]
    size = (COLUMN * scale * len(columns) + LEFT + 0.9, (high + 0.06) * len(rows) + 0.35)
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=size)
        figure.set_layout_engine("constrained", h_pad=0.02, w_pad=0.02)
        grid = figure.subplots(len(rows), len(columns), squeeze=False)
        for line, row in zip(grid, rows, strict=True):
            shown: Any = None
            for axes, values in zip(line, row.maps, strict=True):
                shown = _paint_map(axes, values, row) or shown
            line[0].set_ylabel(row.label, color=INK, fontsize=8.5)
            if not row.bar:
                continue
            bar = figure.colorbar(shown, ax=list(line), fraction=0.03, pad=0.01, aspect=14)
            bar.outline.set_visible(False)
            bar.ax.tick_params(labelsize=7.5)
        for axes, name in zip(grid[0], columns, strict=True):
            axes.set_title(name, fontsize=9)
        return to_png(figure)


def _paint_map(axes: Axes, values: ArrayLike | None, row: Maps) -> Any:
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)
    if values is None:
        axes.set_visible(False)
        return None
    axes.set_facecolor(MISSING)
    # The first axis runs to the right, the second upwards.
    image = np.ma.masked_invalid(np.asarray(values, dtype=np.float64).T)
    return axes.imshow(
        image,
        vmin=row.low,
        vmax=row.high,
        cmap=row.colours,
        origin="lower",
        interpolation="nearest",
        aspect="equal",
    )
