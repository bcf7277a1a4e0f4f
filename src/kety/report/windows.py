"""Fixed physical display windows: the same value has the same colour in every report.

An autoscaled map hides an error of a factor of ten and cannot be compared with the next patient's.
So every quantity has one window, in its public unit, and values beyond it are marked, not clipped.
The limits enclose the ranges of tumour and organ studies in CT and MRI; they are a convention of
display and bound no fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from kety.errors import KetyError

ERROR_FRACTION: Final = 0.25
"""A standard error's window spans this fraction of its quantity's window."""


@dataclass(frozen=True)
class Window:
    """Display range of one quantity.

    Attributes
    ----------
    name
        The map's name, e.g. ``ktrans``.
    symbol
        How the field writes it: a letter and its sub- or superscript.
    units
        Unit of ``lower`` and ``upper``; ``"1"`` is a fraction or a ratio.
    lower, upper
        Ends of the colour bar.
    fixed
        False where no window is listed and the limits were read from the data.
    """

    name: str
    symbol: str
    units: str
    lower: float
    upper: float
    fixed: bool = True

    def __post_init__(self) -> None:
        if not self.lower < self.upper:
            raise KetyError(
                f"the display window of {self.name!r} runs from {self.lower} to {self.upper}; "
                "give (lower, upper) with lower < upper"
            )

    @property
    def span(self) -> float:
        """Width of the window in its unit."""
        return self.upper - self.lower

    def standard_error(self) -> Window:
        """Window of the quantity's standard error: from 0 to a quarter of the span."""
        return replace(self, lower=0.0, upper=ERROR_FRACTION * self.span)


WINDOWS: Final[tuple[Window, ...]] = (
    Window("ktrans", "K^trans", "1/min", 0.0, 0.8),
    Window("kep", "k_ep", "1/min", 0.0, 2.5),
    Window("ve", "v_e", "1", 0.0, 1.0),
    Window("vp", "v_p", "1", 0.0, 0.2),
    Window("vb", "v_b", "1", 0.0, 0.3),
    Window("delay", "τ", "s", -2.0, 12.0),
    Window("k1", "K_1", "1/min", 0.0, 1.2),
    Window("k2", "k_2", "1/min", 0.0, 2.5),
    Window("vd", "V_d", "1", 0.0, 1.5),
    Window("ps", "PS", "1/min", 0.0, 0.8),
    Window("fp", "F_p", "mL/100mL/min", 0.0, 100.0),
    Window("fb", "F_b", "mL/100mL/min", 0.0, 200.0),
    Window("mtt", "MTT", "s", 0.0, 20.0),
    Window("perfusion", "F_ms", "mL/100mL/min", 0.0, 200.0),
    Window("volume", "V", "mL/100mL", 0.0, 100.0),
    Window("tmax", "T_max", "s", -2.0, 12.0),
    Window("bat", "BAT", "s", 0.0, 100.0),
    Window("ttp", "TTP", "s", 0.0, 240.0),
    Window("washout_ratio", "washout_ratio", "%", -20.0, 100.0),
    Window("e", "E", "1", 0.0, 1.0),
    Window("r2", "R^2", "1", 0.0, 1.0),
)

_BY_NAME: Final[dict[str, Window]] = {window.name: window for window in WINDOWS}


def same_unit(first: str, second: str) -> bool:
    """Whether two unit strings agree; a fraction may be written ``""``, ``"1"`` or ``mL/mL``."""

    def plain(unit: str) -> str:
        unit = unit.strip().lower()
        return "1" if unit in {"", "1", "ml/ml", "fraction", "dimensionless"} else unit

    return plain(first) == plain(second)


def window_for(
    name: str,
    units: str,
    data_range: Callable[[], tuple[float, float]],
    overrides: Mapping[str, tuple[float, float]] | None = None,
) -> Window:
    """Return the display window of a quantity.

    Parameters
    ----------
    name, units
        The map's name and unit.
    data_range
        Gives the range of the data: asked for, and declared as such in the report, only where no
        window is listed for this name and unit.
    overrides
        Windows asked for by the caller, ``name -> (lower, upper)`` in the map's unit.

    Raises
    ------
    KetyError
        If an override's limits are not increasing.
    """
    listed = _BY_NAME.get(name)
    if overrides is not None and name in overrides:
        lower, upper = overrides[name]
        return Window(name, listed.symbol if listed else name, units, float(lower), float(upper))
    if listed is not None and same_unit(listed.units, units):
        return replace(listed, units=units)
    lower, upper = data_range()
    if not lower < upper:
        lower, upper = lower - 0.5, lower + 0.5
    return Window(name, listed.symbol if listed else name, units, lower, upper, fixed=False)
