"""Figures of a planned scan: errors beside the bound, their spread, and both against the noise.

Every parameter has a panel. Tissues differ in colour, protocols in marks and lines.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from kety.report.figures import STYLE, inline
from kety.report.protocol_verdict import TARGETS, relative, shown, tissues, word

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes

COLOURS: Final = ("#3b82c4", "#d9730d", "#2e9c63", "#c2558c", "#7b6fd0", "#9a8f35")
MARKS: Final = ("o", "s", "^", "D")
LINES: Final[Sequence[Literal["-", "--", ":", "-."]]] = ("-", "--", ":", "-.")
SIGNS: Final = ("● ——", "■ – –", "▲ ····", "◆ – ·")
"""Marks and lines of the protocols as text."""
TITLES: Final[Mapping[str, str]] = {
    "errors": "Typical error of the fit and Cramér–Rao bound",
    "spread": "Estimate less truth",
    "noise": "Error against noise",
}
CAPTIONS: Final[Mapping[str, str]] = {
    "errors": "Mark: typical error of the fit with its 95 % interval; an arrow lies beyond the "
    "axis. Bar: Cramér–Rao bound. Dotted: 10 % (0.5 s), up to which a voxel is trusted, and 30 % "
    "(1.5 s), up to which it shows large differences.",
    "spread": "Area: share of the simulated voxels. Line: the normal distribution of the bound. "
    "What leans to one side is bias.",
    "noise": "Line: Cramér–Rao bound, which grows with the noise. Mark: typical error of the fit "
    "at the noise given. Dotted: 10 % (0.5 s) and 30 % (1.5 s).",
}
_AXES_REACH: Final = 5.0
"""Largest error shown, in limits of what shows large differences."""
# Names of tissues are no formulas.
_SCREEN: Final[dict[Any, Any]] = STYLE | {"text.parse_math": False}
_PRINT: Final[dict[Any, Any]] = _SCREEN | {
    "axes.edgecolor": "#9aa3ad",
    "axes.labelcolor": "#59636e",
    "grid.color": "#e3e7eb",
    "xtick.color": "#9aa3ad",
    "ytick.color": "#9aa3ad",
    "xtick.labelcolor": "#59636e",
    "ytick.labelcolor": "#59636e",
    "text.color": "#1b2026",
}


@dataclass(frozen=True)
class Trace:
    """One tissue in one protocol: its figures, and where and how they are drawn."""

    one: xarray.Dataset
    y: float
    height: float
    colour: str
    mark: str
    line: str


def panels(results: Mapping[str, xarray.Dataset], kind: str, noise_unit: str) -> Markup:
    """The panels of one figure as SVG elements that follow the page's colours.

    Parameters of which it has nothing to show are left out.
    """
    names = tissues(results)
    rows = len(names) * len(results)
    height = 2.3 if kind == "noise" else 0.75 + max(0.34 * len(names), 0.17 * rows, 0.8)
    drawn = []
    for name in drawable(results, kind):
        with matplotlib.rc_context(_SCREEN):
            canvas = Figure(figsize=(3.3, height), layout="constrained")
            canvas.patch.set_visible(False)
            axes = canvas.add_subplot()
            axes.patch.set_visible(False)
            _panel(axes, kind, traces(results, name), noise_unit)
            axes.set_title(word(name), loc="left", fontsize=9, fontweight="bold")
            if kind != "noise":
                axes.set_yticks(range(len(names)), names)
            stream = io.StringIO()
            canvas.savefig(stream, format="svg", metadata={"Date": None})
        drawn.append(inline(stream.getvalue(), f"{TITLES[kind]}: {name}, {', '.join(names)}"))
    return Markup("").join(drawn)


def drawable(results: Mapping[str, xarray.Dataset], kind: str) -> list[str]:
    """Parameters with an error to show, at some noise where the figure is about noise."""
    chosen = []
    for name in shown(results):
        ones = traces(results, name)
        if kind == "noise":
            ones = [t for t in ones if float(t.one.noise) > 0]
        errors = [relative(t.one, "typical_error")[1][0] for t in ones]
        if any(error > 0 for error in errors):
            chosen.append(name)
    return chosen


def key(results: Mapping[str, xarray.Dataset]) -> list[tuple[str, str, str]]:
    """What colours and marks stand for: (colour or nothing, mark or nothing, name)."""
    names = tissues(results)
    ones = [(COLOURS[i % len(COLOURS)], "", name) for i, name in enumerate(names)]
    if len(results) > 1:
        ones += [("", SIGNS[j % len(SIGNS)], label) for j, label in enumerate(results)]
    return ones


def picture(results: Mapping[str, xarray.Dataset], noise_unit: str) -> bytes:
    """All figures as one PNG."""
    names = tissues(results)
    kinds = {kind: some for kind in TITLES if (some := drawable(results, kind))}
    high = 0.9 + max(0.34 * len(names), 0.17 * len(names) * len(results), 0.8)
    heights = [2.6 if kind == "noise" else high for kind in kinds] or [1.0]
    across = max(map(len, kinds.values()), default=1)
    with matplotlib.rc_context(_PRINT):
        canvas = Figure(figsize=(2.5 * across + 1.2, sum(heights)), layout="constrained")
        parts = canvas.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        for part, (kind, some) in zip(parts, kinds.items(), strict=False):
            part.suptitle(TITLES[kind], x=0.01, ha="left", fontsize=10, fontweight="bold")
            grid = part.subplots(1, across, squeeze=False)[0]
            for axes, name in zip(grid, some, strict=False):
                _panel(axes, kind, traces(results, name), noise_unit)
                axes.set_title(word(name), loc="left", fontsize=9)
                if kind != "noise":
                    axes.set_yticks(range(len(names)), names if axes is grid[0] else [])
            for axes in grid[len(some) :]:
                axes.set_axis_off()
        handles = [
            Line2D([], [], color=COLOURS[i % len(COLOURS)], linewidth=5, label=name)
            for i, name in enumerate(names)
        ]
        for j, label in enumerate(results if len(results) > 1 else ()):
            mark, line = MARKS[j % len(MARKS)], LINES[j % len(LINES)]
            handles.append(Line2D([], [], color="0.4", marker=mark, linestyle=line, label=label))
        canvas.legend(handles=handles, loc="outside lower left", ncols=min(len(handles), 8))
        stream = io.BytesIO()
        canvas.savefig(stream, format="png", dpi=140)
    return stream.getvalue()


def traces(results: Mapping[str, xarray.Dataset], name: str) -> list[Trace]:
    """One parameter of all tissues, protocols side by side."""
    ones = []
    for i, tissue in enumerate(tissues(results)):
        for j, errors in enumerate(results.values()):
            ones.append(
                Trace(
                    errors.sel(tissue=tissue, parameter=name),
                    i + 0.8 * ((j + 0.5) / len(results) - 0.5),
                    0.7 / len(results),
                    COLOURS[i % len(COLOURS)],
                    MARKS[j % len(MARKS)],
                    LINES[j % len(LINES)],
                )
            )
    return ones


def _panel(axes: Axes, kind: str, ones: Sequence[Trace], noise_unit: str) -> None:
    unit = relative(ones[0].one)[0]
    far = _AXES_REACH * TARGETS[unit][1]
    if kind == "noise":
        _noise(axes, ones, far)
        axes.set_xlabel(f"noise ({noise_unit})" if noise_unit else "noise (unit of the input)")
        axes.set_ylabel(f"error ({unit})")
    else:
        (_errors if kind == "errors" else _spread)(axes, ones, far)
        axes.set_xlabel(f"error ({unit})" if kind == "errors" else f"estimate less truth ({unit})")
        axes.set_ylim(max(one.y + one.height for one in ones) + 0.1, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.grid(axis="y" if kind == "noise" else "x")
    axes.set_axisbelow(True)
    axes.tick_params(length=2.5)
    lines = axes.axhline if kind == "noise" else axes.axvline
    if kind != "spread":
        for limit in TARGETS[unit]:
            lines(limit, color=matplotlib.rcParams["text.color"], linewidth=1.0, linestyle=":")


def _errors(axes: Axes, ones: Sequence[Trace], far: float) -> None:
    told = [
        relative(t.one, "crb", "typical_error", "typical_error_low", "typical_error_high")[1]
        for t in ones
    ]
    known = [min(v, far) for bound, error, *_ in told for v in (bound, error) if not math.isnan(v)]
    edge = 1.1 * max((v for v in known if v > 0), default=1.0)
    for t, (bound, error, low, high) in zip(ones, told, strict=True):
        if math.isfinite(bound):
            axes.barh(t.y, min(bound, edge), 0.85 * t.height, color=t.colour, alpha=0.3)
        if math.isnan(error):
            continue
        if error < far:
            axes.plot([low, min(high, edge)], [t.y, t.y], color=t.colour, linewidth=1.2)
            axes.plot(error, t.y, t.mark, color=t.colour, markersize=4)
        else:
            axes.plot(edge, t.y, ">", color=t.colour, markersize=5, clip_on=False)
    axes.set_xlim(0, edge)


def _spread(axes: Axes, ones: Sequence[Trace], far: float) -> None:
    reach = 0.0
    for t in ones:
        unit, (bound, error) = relative(t.one, "crb", "typical_error")
        width, base = bound if bound > 0 else min(error, far), t.y + t.height / 2
        if not 0 < width < math.inf:
            continue
        values = (t.one.error if unit == "s" else t.one.percent_error).values
        edges = width * np.linspace(-4.0, 4.0, 49)
        # Six bins a standard deviation, in heights of the normal curve.
        share = np.histogram(values, edges)[0] / values.size * 6 * np.sqrt(2 * np.pi)
        tops = base - t.height * np.minimum(share, 1.3)
        axes.stairs(tops, edges, baseline=base, fill=True, color=t.colour, alpha=0.55)
        if bound > 0:
            curve = base - t.height * np.exp(-0.5 * (edges / width) ** 2)
            axes.plot(edges, curve, color=matplotlib.rcParams["text.color"], linewidth=0.7)
        reach = max(reach, 4 * width)
    reach = min(far, reach) or 1.0
    axes.axvline(0.0, color=matplotlib.rcParams["axes.edgecolor"], linewidth=0.8)
    axes.set_xlim(-reach, reach)


def _noise(axes: Axes, ones: Sequence[Trace], far: float) -> None:
    across, up = 0.0, 0.0
    for t in ones:
        noise, (bound, error) = float(t.one.noise), relative(t.one, "crb", "typical_error")[1]
        if noise <= 0 or math.isnan(error):
            continue
        if bound > 0:
            axes.axline((0, 0), slope=bound / noise, color=t.colour, linestyle=t.line)
        across = max(across, 2 * noise)
        up = max(up, min(far, 2 * max(error, bound if bound > 0 else 0.0)))
    for t in ones:
        noise, (error,) = float(t.one.noise), relative(t.one, "typical_error")[1]
        if noise > 0 and not math.isnan(error):
            mark = t.mark if error < up else "^"
            at = min(error, up)
            axes.plot(noise, at, mark, color=t.colour, markersize=4.5, clip_on=False)
    axes.set(xlim=(0, across or 1.0), ylim=(0, up or 1.0))
    axes.yaxis.set_major_locator(MaxNLocator(4))
