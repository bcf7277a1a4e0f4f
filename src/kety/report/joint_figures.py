"""Charts of a joint estimate: left-out error against strength, and how far voxels moved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from kety.report.figures import INK, INPUT, LEGEND_ABOVE, MODEL, MUTED, draw, grid
from kety.report.numbers import tick
from kety.report.rasters import ERROR_ABOVE_COLOUR

_HALF, _WHOLE = (4.6, 2.5), (9.4, 2.5)
_MOST_LABELS = 9  # beside another chart
_BINS = 40


def left_out_error(
    strengths: Sequence[float],
    errors: Sequence[float],
    chosen: float,
    alt: str,
    *,
    wide: bool = False,
) -> Markup:
    """Error of predicting left-out frames at every strength tried, ascending from 0.

    The strengths lie evenly, since 0 and infinity have no place on a logarithmic axis. ``wide``:
    the chart has a row of its own.
    """
    places = np.arange(len(strengths))
    best = int(np.argmin(np.abs(_finite(strengths) - _finite([chosen]))))
    labels = [_label(strength) for strength in strengths]
    every = -(-len(labels) // (2 * _MOST_LABELS if wide else _MOST_LABELS))
    shown = [i for i in places if i in (0, best) or (i % every == 0 and abs(i - best) >= every)]

    def paint(canvas: Figure) -> None:
        axes = canvas.add_subplot()
        axes.axhline(errors[0], color=INPUT, linestyle="--", linewidth=1.2, label="voxel by voxel")
        axes.plot(places, errors, "o-", color=MODEL, markersize=3.6, label="joint")
        axes.axvline(places[best], color=MUTED, linewidth=0.8, linestyle=":")
        axes.plot(
            places[best], errors[best], "o", color=INK, markersize=6.5, label="chosen", zorder=3
        )
        low, high = min(errors), max(errors)
        margin = max(0.12 * (high - low), 1e-3 * high)
        axes.set_ylim(low - margin, high + margin)
        axes.set_xlim(-0.4, len(places) - 0.6)
        axes.set_xticks(shown, [labels[i] for i in shown])
        axes.set_xlabel("strength")
        axes.set_ylabel("left-out error (noise variances)")
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.legend(**LEGEND_ABOVE, ncols=3)
        grid(axes)

    return draw(_WHOLE if wide else _HALF, alt, paint)


def _finite(strengths: Sequence[float]) -> NDArray[np.float64]:
    return np.minimum(np.asarray(strengths, dtype=np.float64), np.finfo(np.float64).max)


def _label(strength: float) -> str:
    return "∞" if np.isinf(strength) else tick(strength)


def moved(values: NDArray[Any], free: int, limit: float, alt: str, *, wide: bool = False) -> Markup:
    """Histogram of how far voxels moved, with what noise makes of it where all is right.

    Their misfit then has a chi-squared distribution of ``free`` degrees of freedom, one for each
    parameter, of which a value is the root of the mean. Values above ``limit``, the end of the
    window, have a bar of their own.
    """
    counts, edges = np.histogram(values, bins=_BINS, range=(0.0, limit))
    above = int(np.count_nonzero(values > limit))
    share = 100.0 / max(values.size, 1)
    width = edges[1] - edges[0]
    from scipy.special import gammainc

    expected = 100.0 * np.diff(gammainc(0.5 * free, 0.5 * free * edges**2))  # chi squared

    def paint(canvas: Figure) -> None:
        axes = canvas.add_subplot()
        axes.stairs(counts * share, edges, fill=True, color=MODEL, alpha=0.45, label="voxels")
        axes.plot(edges[:-1] + width / 2, expected, color=INK, linewidth=1.1, label="noise alone")
        if above:
            axes.bar(limit + 2.5 * width, above * share, 2 * width, color=ERROR_ABOVE_COLOUR)
        axes.axvline(1.0, color=MUTED, linestyle=":", linewidth=0.8)
        axes.set_xlim(0.0, limit + 5 * width)
        axes.set_xlabel("moved (standard errors of the voxelwise estimate)")
        axes.set_ylabel("voxels (%)")
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.legend(**LEGEND_ABOVE, ncols=2)
        grid(axes)

    return draw(_WHOLE if wide else _HALF, alt, paint)
