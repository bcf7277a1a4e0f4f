"""Charts of the report as inline SVG that follows the page's light or dark colours.

matplotlib draws them through its object interface, so no global figure state exists. Colours that
depend on the theme are drawn in placeholder colours and replaced by CSS variables, text stays
text, and every identifier is made unique to its figure because all figures share one document.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from kety.report.rasters import ABOVE_COLOUR, BELOW_COLOUR, MAP_COLOURS
from kety.report.windows import Window

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from kety.inputs import InputFunction

INK: Final = "#010203"
MUTED: Final = "#010204"
LINE: Final = "#010205"
MODEL: Final = "#010206"
INPUT: Final = "#010207"
_VARIABLES: Final = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    MODEL: "var(--model)",
    INPUT: "var(--input)",
}
STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "kety",
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.unicode_minus": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "lines.linewidth": 1.4,
}
_MOST_POINTS = 1500
LEGEND_ABOVE: Final[dict[str, Any]] = {
    "loc": "lower right",
    "bbox_to_anchor": (1.0, 1.0),
    "borderaxespad": 0.0,
}


@dataclass(frozen=True)
class VoxelCurve:
    """One voxel's measured and fitted curve.

    Attributes
    ----------
    times, measured, fitted
        (T,) frames in s, their values and the fitted values there.
    fine_times, fine_fitted
        The fitted curve on a fine grid.
    """

    times: NDArray[np.float64]
    measured: NDArray[np.float64]
    fitted: NDArray[np.float64]
    fine_times: NDArray[np.float64]
    fine_fitted: NDArray[np.float64]


def draw(size: tuple[float, float], alt: str, paint: Callable[[Canvas], None]) -> Markup:
    """Paint a figure of ``size`` inches and return it as an SVG element described by ``alt``."""
    with matplotlib.rc_context(STYLE):
        canvas = Canvas(figsize=size)
        canvas.patch.set_visible(False)
        # the same margins (inches) everywhere: axes line up from chart to chart
        canvas.subplots_adjust(
            left=0.56 / size[0],
            right=1 - 0.08 / size[0],
            bottom=0.40 / size[1],
            top=1 - 0.20 / size[1],
            wspace=0.12,
            hspace=0.16,
        )
        paint(canvas)
        for axes in canvas.axes:
            axes.patch.set_visible(False)
        buffer = io.StringIO()
        canvas.savefig(buffer, format="svg", metadata={"Date": None})
    return inline(buffer.getvalue(), alt)


def inline(svg: str, alt: str) -> Markup:
    """What matplotlib wrote in `STYLE`, as an element of a page, described by ``alt``."""
    prefix = "f" + hashlib.sha256((alt + svg).encode()).hexdigest()[:10] + "-"
    body = svg[svg.index("<svg") :]
    view_box = re.search(r'viewBox="([^"]+)"', body)
    assert view_box is not None, "matplotlib writes a viewBox"
    body = body[body.index(">") + 1 : body.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'<style type="text/css">.*?</style>', "", body, flags=re.DOTALL)
    # groups are numbered alike in every figure; only definitions are referred to
    body = re.sub(r'<g id="[^"]*">', "<g>", body)
    body = re.sub(r'\bid="', f'id="{prefix}', body)
    body = body.replace("url(#", f"url(#{prefix}").replace('xlink:href="#', f'href="#{prefix}')
    body = re.sub(r"(font(?:-family)?:[^;\"]*?)'DejaVu Sans'[^;\"]*", r"\1var(--font)", body)
    for placeholder, variable in _VARIABLES.items():
        body = body.replace(placeholder, variable)
    body = re.sub(r">\s+<", "><", body)
    return Markup(
        f'<svg viewBox="{view_box[1]}" role="img" aria-label="{escape(alt)}" '
        f'class="chart" stroke-linejoin="round" stroke-linecap="butt">'
        f"<title>{escape(alt)}</title>{body}</svg>"
    )


def _label(text: str, units: str) -> str:
    return f"{text} ({units})" if units not in {"", "1"} else text


def grid(axes: Axes) -> None:
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.tick_params(length=2.5)


def histogram(values: NDArray[Any], window: Window, alt: str) -> Markup:
    """Histogram of finite ``values`` inside the window; what lies beyond has its own two bars.

    The bars have the colours of the map; median and quartiles are drawn as lines.
    """
    bins = 48
    counts, edges = np.histogram(values, bins=bins, range=(window.lower, window.upper))
    below = int(np.count_nonzero(values < window.lower))
    above = int(np.count_nonzero(values > window.upper))
    total = max(values.size, 1)
    width = edges[1] - edges[0]

    def paint(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        colours = matplotlib.colormaps[MAP_COLOURS](np.linspace(0, 1, bins))
        heights = counts / total * 100
        bars = [
            [(left, 0.0), (left, height), (left + width, height), (left + width, 0.0)]
            for left, height in zip(edges[:-1], heights, strict=True)
        ]
        axes.add_collection(PolyCollection(bars, facecolors=colours, edgecolors="none"))
        # outlined, as the darkest colours vanish on a dark page
        axes.stairs(heights, edges, color=MUTED, linewidth=0.6)
        gap = 2.5 * width
        if below:
            axes.bar(window.lower - gap, below / total * 100, 2 * width, color=BELOW_COLOUR)
        if above:
            axes.bar(window.upper + gap, above / total * 100, 2 * width, color=ABOVE_COLOUR)
        if values.size:
            quartiles = np.percentile(values, [25.0, 50.0, 75.0])
            for value, style in zip(quartiles, (":", "-", ":"), strict=True):
                if window.lower <= value <= window.upper:
                    axes.axvline(value, color=INK, linestyle=style, linewidth=1.1)
        axes.set_xlim(window.lower - 2 * gap, window.upper + 2 * gap)
        axes.set_xlabel(_label(window.name, window.units))
        axes.set_ylabel("voxels (%)")
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        grid(axes)

    return draw((2.6, 1.85), alt, paint)


def input_curve(
    aif: InputFunction,
    frames: NDArray[np.float64],
    span: tuple[float, float],
    axis: str,
    alt: str,
) -> Markup:
    """Input samples and the curve interpolated through them over ``span`` (s)."""
    start, end = span
    fine = np.linspace(start, end, _MOST_POINTS)
    samples = np.asarray(aif.times, dtype=np.float64)
    shown = (samples >= start) & (samples <= end)

    def paint(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        axes.plot(fine, aif(fine), color=INPUT, label="interpolated")
        if np.count_nonzero(shown) <= _MOST_POINTS:
            axes.plot(
                samples[shown],
                np.asarray(aif.concentration)[shown],
                "o",
                color=INPUT,
                markersize=2.8 if np.count_nonzero(shown) < 60 else 1.6,
                label="samples",
            )
        inside = frames[(frames >= start) & (frames <= end)]
        ticks = axes.get_xaxis_transform()
        axes.plot(
            inside,
            np.full(inside.shape, 0.02),
            "|",
            color=MUTED,
            markersize=6,
            transform=ticks,
            label="frames",
        )
        axes.set_xlim(start, end)
        axes.set_xlabel("time (s)")
        axes.set_ylabel(axis)
        axes.legend(**LEGEND_ABOVE, ncols=3)
        grid(axes)

    return draw((4.6, 2.3), alt, paint)


def voxel_curve(curve: VoxelCurve, axis: str, alt: str) -> Markup:
    """Measured samples over the fitted curve, and the residuals beneath on the same scale."""

    def paint(canvas: Canvas) -> None:
        top, bottom = canvas.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        top.plot(curve.fine_times, curve.fine_fitted, color=MODEL, label="fitted")
        top.plot(curve.times, curve.measured, "o", color=INK, markersize=2.6, label="measured")
        top.set_ylabel(axis)
        top.legend(**LEGEND_ABOVE, ncols=2)
        residual = curve.measured - curve.fitted
        bottom.axhline(0.0, color=MODEL, linewidth=1.0)
        bottom.vlines(curve.times, 0.0, residual, color=MUTED, linewidth=0.9)
        bottom.plot(curve.times, residual, "o", color=INK, markersize=1.8)
        limit = max(1.15 * float(np.max(np.abs(residual))), 1e-30)
        bottom.set_ylim(-limit, limit)
        bottom.yaxis.set_major_locator(MaxNLocator(3, symmetric=True))
        bottom.set_ylabel("residual")
        bottom.set_xlabel("time (s)")
        for axes in (top, bottom):
            grid(axes)

    return draw((4.6, 2.7), alt, paint)


def residual_band(
    times: NDArray[np.float64], residuals: NDArray[np.float64], axis: str, alt: str
) -> Markup:
    """Percentiles over voxels of the residuals (V, T) against time, and their mean."""
    low, lower, upper, high = np.percentile(residuals, [5.0, 25.0, 75.0, 95.0], axis=0)

    def paint(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        axes.fill_between(times, low, high, color=MODEL, alpha=0.18, linewidth=0, label="5–95 %")
        axes.fill_between(
            times, lower, upper, color=MODEL, alpha=0.35, linewidth=0, label="25–75 %"
        )
        axes.plot(times, residuals.mean(axis=0), color=INK, linewidth=1.2, label="mean")
        axes.axhline(0.0, color=MUTED, linewidth=0.8, linestyle=":")
        axes.set_xlabel("time (s)")
        axes.set_ylabel(axis)
        axes.legend(**LEGEND_ABOVE, ncols=3)
        grid(axes)

    return draw((9.4, 2.4), alt, paint)


def calibration(names: Sequence[str], scores: Sequence[NDArray[np.float64]], alt: str) -> Markup:
    """Histograms of (estimate - truth) / standard error over the unit normal density."""

    def paint(canvas: Canvas) -> None:
        fine = np.linspace(-4.0, 4.0, 201)
        density = np.exp(-0.5 * fine**2) / np.sqrt(2.0 * np.pi)
        panels = canvas.subplots(1, len(names), sharey=True, squeeze=False)[0]
        for axes, name, score in zip(panels, names, scores, strict=True):
            counts, edges = np.histogram(score, bins=40, range=(-4.0, 4.0))
            share = counts / (score.size * (edges[1] - edges[0]))
            axes.stairs(share, edges, fill=True, color=MODEL, alpha=0.45)
            axes.plot(fine, density, color=INK, linewidth=1.0)
            axes.set_title(name, fontsize=8.5, color=INK)
            axes.set_xticks((-3, 0, 3))
            grid(axes)
        panels[0].set_ylabel("density")

    return draw((9.4, 1.9), alt, paint)
