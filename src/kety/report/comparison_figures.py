"""Bland–Altman plots: the difference of two measurements against their mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from markupsafe import Markup
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from kety.report.comparison_words import bias, limits
from kety.report.figures import INK, INPUT, MODEL, MUTED, draw, grid
from kety.report.numbers import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from kety.comparison import ParameterAgreement

_MOST_POINTS: Final = 400
_BINS: Final = (96, 72)
_DENSITY: Final = "#3b82c4"
_CENTRAL: Final = (0.5, 99.5)
_BEYOND: Final = 0.6


def bland_altman(one: ParameterAgreement, alt: str) -> Markup:
    """B less A against the mean of both, with bias, limits of agreement and their intervals.

    Many points are drawn as their density.
    """
    middle, difference = (one.a + one.b) / 2, one.b - one.a
    x = one.figures
    low, high = limits(one)
    unknown = (float("nan"), float("nan"))
    voxels = one.basis == "voxels"
    low_interval, high_interval = (
        (unknown, unknown) if voxels else (x.lower_interval, x.upper_interval)
    )

    def paint(canvas: Figure) -> None:
        axes = canvas.add_subplot()
        across, up = _window(one)
        if middle.size > _MOST_POINTS:
            _density(axes, middle, difference, across, up)
        else:
            axes.plot(middle, difference, "o", color=INK, markersize=3.2, alpha=0.8)
        axes.axhline(0.0, color=MUTED, linewidth=0.8, linestyle=":")
        for value, interval, colour, line in (
            (bias(one), unknown if voxels else x.bias_interval, MODEL, "-"),
            (low, low_interval, INPUT, "--"),
            (high, high_interval, INPUT, "--"),
        ):
            if not np.isfinite(value):
                continue
            axes.axhline(value, color=colour, linestyle=line, linewidth=1.2)
            if np.isfinite(interval).all():
                axes.axhspan(*interval, color=colour, alpha=0.13, linewidth=0)
            axes.annotate(
                number(value),
                (1.0, value),
                xycoords=("axes fraction", "data"),
                xytext=(4, 0),
                textcoords="offset points",
                ha="left",
                va="center",
                fontsize=7.5,
                color=colour,
            )
        canvas.subplots_adjust(right=1 - 0.62 / 4.4)
        axes.set_xlim(*across)
        axes.set_ylim(*up)
        unit = "" if one.units in ("1", "mL/mL") else f" ({one.units})"
        axes.set_xlabel(f"mean of A and B{unit}")
        axes.set_ylabel(f"B less A{unit}")
        axes.set_title(one.parameter, loc="left", fontsize=9, fontweight="bold", color=INK)
        grid(axes)

    return draw((4.4, 2.9), alt, paint)


def outside(one: ParameterAgreement) -> int:
    """Number of values that the plot's axes leave out."""
    middle, difference = (one.a + one.b) / 2, one.b - one.a
    across, up = _window(one)
    out = (middle < across[0]) | (middle > across[1])
    return int(np.count_nonzero(out | (difference < up[0]) | (difference > up[1])))


def _window(one: ParameterAgreement) -> tuple[tuple[float, float], tuple[float, float]]:
    """Axis limits: all values and lines; over voxels the central ones and as much again."""
    middle, difference, x = (one.a + one.b) / 2, one.b - one.a, one.figures
    if one.basis != "voxels":
        seen = (x.lower, x.upper, *x.lower_interval, *x.upper_interval, 0.0)
        return _around(middle, ()), _around(difference, seen)
    low, high = x.central
    reach = _BEYOND * (high - low)
    central = np.clip(difference, low - reach, high + reach)
    return _around(np.percentile(middle, _CENTRAL), ()), _around(central, (0.0,))


def _around(values: NDArray[np.float64], also: tuple[float, ...]) -> tuple[float, float]:
    """Limits around values and what must be seen too, with a margin."""
    seen = np.array([*values, *(one for one in also if np.isfinite(one))])
    low, high = float(seen.min()), float(seen.max())
    margin = 0.06 * (high - low) or 0.5 * abs(high) or 1.0
    return low - margin, high + margin


def _density(
    axes: Axes,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    across: tuple[float, float],
    up: tuple[float, float],
) -> None:
    counts, _, _ = np.histogram2d(x, y, bins=_BINS, range=(across, up))
    shade = np.log1p(counts.T)
    image: NDArray[Any] = np.empty((*shade.shape, 4))
    image[..., :3] = to_rgb(_DENSITY)
    # Empty bins stay clear, so that the page shows in light and dark.
    image[..., 3] = np.where(shade > 0, 0.18 + 0.82 * shade / max(float(shade.max()), 1e-9), 0.0)
    axes.imshow(
        image, extent=(*across, *up), origin="lower", aspect="auto", interpolation="nearest"
    )
