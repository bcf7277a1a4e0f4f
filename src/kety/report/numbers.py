"""How the report writes numbers."""

from __future__ import annotations

import numpy as np

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float, digits: int = 3) -> str:
    """Write a number with ``digits`` significant digits; a dash where there is none."""
    if not np.isfinite(value):
        return "–"
    if value != 0 and not 1e-4 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.{digits - 1}e}".replace("-", "\N{MINUS SIGN}").split("e")
        sign, power = exponent[0], exponent[1:].lstrip("0")
        raised = (power if sign == "+" else "-" + power).translate(_SUPERSCRIPT)
        return f"{mantissa}\N{MULTIPLICATION SIGN}10{raised}"
    decimals = digits - 1 - int(np.floor(np.log10(abs(value)))) if value != 0 else 0
    return f"{value:,.{max(decimals, 0)}f}".replace("-", "\N{MINUS SIGN}")


def tick(value: float) -> str:
    """Write a colour bar's label: three digits at most, no trailing zeros."""
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")


def percent(part: float, whole: float) -> str:
    """Write a share in percent; a share too small to round to 0.1 % is not written as zero."""
    if whole == 0 or not np.isfinite(part):
        return "–"
    share = 100.0 * part / whole
    if 0 < share < 0.1:
        words = "< 0.1"
    elif 99.9 < share < 100:
        words = "> 99.9"
    else:
        words = f"{share:.1f}" if 0 < share < 100 else f"{share:.0f}"
    return f"{words}\N{NO-BREAK SPACE}%".replace(" ", "\N{NO-BREAK SPACE}")
