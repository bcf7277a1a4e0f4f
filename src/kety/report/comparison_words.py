"""What a comparison says in words: a sentence for each parameter, and the rows of its tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from kety.report.blocks import Finding
from kety.report.numbers import number, percent

if TYPE_CHECKING:
    from kety.comparison import Comparison, ParameterAgreement, RegionChange

_MOST_NAMED: Final = 4
AGREEMENT_COLUMNS: Final = (
    "parameter",
    "over",
    "bias",
    "limits of agreement",
    "wSD",
    "RC",
    "wCV",
    "RC, %",
    "CCC",
    "slope",
)
ROI_COLUMNS: Final = (
    "parameter",
    "region",
    "A",
    "B",
    "change",
    "%",
    "95 % interval",
    "p",
    "verdict",
    "RC",
)


def headline(comparison: Comparison) -> str:
    """How many parameters changed by more than their uncertainty."""
    changed = [n for n in comparison.parameters if any(r.exceeds for r in of(comparison, n))]
    if not changed:
        return "No parameter changed by more than its uncertainty"
    if len(changed) == len(comparison.parameters):
        which = "Every parameter" if len(changed) > 1 else changed[0]
        return f"{which} changed by more than its uncertainty"
    verb = "has" if len(changed) == 1 else "have"
    return f"{', '.join(changed)} {verb} changed by more than the uncertainty"


def of(comparison: Comparison, name: str) -> list[RegionChange]:
    """The changes of one parameter."""
    return [row for row in comparison.rois if row.parameter == name]


def findings(comparison: Comparison) -> list[Finding]:
    """Warnings, a sentence for each parameter, and what was not tested."""
    found = [Finding("caution", _sentence(text)) for text in comparison.warnings]
    found += [Finding("note", text) for text in sentences(comparison)]
    if not comparison.limits:
        found.append(
            Finding(
                "note",
                "Not tested: whether a change is more than two scans of an unchanged patient "
                "differ by. That takes a repeatability coefficient (--rc), which also holds what "
                "standard errors of a fit do not know: input, position, physiology.",
            )
        )
    return found


def sentences(comparison: Comparison) -> Iterator[str]:
    """One sentence for each parameter."""
    for name in comparison.parameters:
        rows = of(comparison, name)
        yield _one(rows[0]) if len(rows) == 1 else _several(name, rows)


def _sentence(text: str) -> str:
    # It may begin with the name of a map or a folder, which keep their letters.
    return text + "."


def size(row: RegionChange) -> str:
    """A change in % where there are any, else in its unit."""
    if np.isfinite(row.percent) and abs(row.percent) < 1000:
        return f"{signed(row.percent, 2)} %"
    return f"{signed(row.change)} {unit(row)}".rstrip()


def signed(value: float, digits: int = 3) -> str:
    """A number with its sign."""
    return ("+" if value > 0 else "") + number(value, digits)


def unit(row: RegionChange | ParameterAgreement) -> str:
    """The unit, empty for a fraction."""
    return "" if row.units in ("1", "mL/mL") else row.units


def place(row: RegionChange, several_pairs: bool) -> str:
    """Region, and its pair where there are several."""
    return f"{row.region}, {row.pair}" if several_pairs else row.region


def _one(row: RegionChange) -> str:
    if not np.isfinite(row.change):
        return f"{row.parameter}: nothing can be said of {row.region}, no voxel has both values."
    text = (
        f"{row.parameter} in {row.region}: {size(row)} ({number(row.a)} in A, {number(row.b)} in B"
    )
    text += f", change {signed(row.change)} {unit(row)}".rstrip()
    text += f", 95 % interval {_between(*row.interval)}), "
    if not np.isfinite(row.p):
        return text + "of unknown uncertainty."
    return text + f"{verdict(row)} ({_p_is(row.p_adjusted)})."


def _several(name: str, rows: Sequence[RegionChange]) -> str:
    known = [row for row in rows if np.isfinite(row.p)]
    if not known:
        return f"{name}: no region has a change of known uncertainty."
    pairs = len({row.pair for row in rows}) > 1
    beyond = sorted((row for row in known if row.exceeds), key=lambda row: row.p)
    if not beyond:
        least = min(known, key=lambda row: row.p)
        text = (
            f"{name} changed by more than its uncertainty in none of {len(known)} regions; nearest "
            f"to it is {place(least, pairs)} with {size(least)} ({_p_is(least.p_adjusted)})"
        )
    else:
        named = "; ".join(f"{place(row, pairs)} {size(row)}" for row in beyond[:_MOST_NAMED])
        rest = f" and {len(beyond) - _MOST_NAMED} more" if len(beyond) > _MOST_NAMED else ""
        text = (
            f"{name} changed by more than its uncertainty in {len(beyond)} of {len(known)} "
            f"regions: {named}{rest}"
        )
    tested = [row for row in known if row.exceeds_limit is not None]
    if tested:
        larger = [place(row, pairs) for row in tested if row.exceeds_limit]
        listed = ", ".join(larger[:_MOST_NAMED]) + (", …" if len(larger) > _MOST_NAMED else "")
        text += f". By more than its repeatability in {len(larger)}"
        text += f": {listed}" if larger else ""
    return text + "."


def verdict(row: RegionChange) -> str:
    """Whether a change exceeds its uncertainty and its repeatability."""
    if not np.isfinite(row.p):
        return "not known"
    text = "more than its uncertainty" if row.exceeds else "within its uncertainty"
    if row.exceeds_limit is None:
        return text
    second = "more than" if row.exceeds_limit else "within"
    return f"{text}, {second} its repeatability (±{number(row.limit)})"


def roi_rows(comparison: Comparison) -> list[list[str]]:
    """Cells of `ROI_COLUMNS`."""
    pairs = len(comparison.pairs) > 1
    rows = []
    for row in comparison.rois:
        rows.append(
            [
                f"{row.parameter} {unit(row)}".rstrip(),
                place(row, pairs),
                number(row.a),
                number(row.b),
                signed(row.change),
                f"{signed(row.percent, 2)} %" if np.isfinite(row.percent) else "–",
                _between(*row.interval, 2),
                _p(row.p_adjusted),
                "not known"
                if not np.isfinite(row.p)
                else "changed"
                if row.exceeds
                else "within error",
                "–"
                if row.exceeds_limit is None
                else f"{'beyond' if row.exceeds_limit else 'within'} {number(row.limit, 2)}",
            ]
        )
    return rows


def agreement_rows(comparison: Comparison) -> list[list[tuple[str, str]]]:
    """Cells of `AGREEMENT_COLUMNS`, each a value and its interval or what belongs to it."""
    rows = []
    for one in comparison.agreements:
        x, voxels = one.figures, one.basis == "voxels"
        relative = np.isfinite(x.wcv)
        rows.append(
            [
                (one.parameter, unit(one)),
                (over(one), f"worth {x.independent:,.0f}" if voxels else ""),
                (signed(bias(one), 2), "" if voxels else _in(x.bias_interval)),
                (_between(*limits(one), 2), ""),
                ("–" if voxels else number(x.wsd, 2), ""),
                (number(x.reach, 2), "") if voxels else (number(x.rc, 2), _in(x.rc_interval)),
                (f"{number(100 * x.wcv, 2)} %" if relative else "–", ""),
                (f"{number(x.rc_percent, 2)} %", _in(x.rc_percent_interval))
                if relative
                else ("–", ""),
                (f"{x.ccc:.3f}".replace("-", "\N{MINUS SIGN}") if np.isfinite(x.ccc) else "–", ""),
                (signed(x.slope, 2), _in(x.slope_interval)),
            ]
        )
    return rows


def over(one: ParameterAgreement) -> str:
    """What the figures of agreement are of."""
    words = {"pairs": "regions of pairs", "regions": "regions", "voxels": "voxels"}[one.basis]
    return f"{one.figures.units:,} {words}"


def meaning(comparison: Comparison) -> str:
    """What repeatability is here, given what it was computed over."""
    bases = {one.basis for one in comparison.agreements}
    texts = []
    if "pairs" in bases:
        texts.append(
            "Over the regions of several pairs: what two scans of one patient differ by, if "
            "nothing happened between them. Regions of one patient are not independent, so count "
            "patients before trusting an interval."
        )
    if "regions" in bases:
        texts.append(
            "Over the regions of one pair: how alike the two scans find them. It knows of one "
            "patient only, and what both scans got wrong alike does not show."
        )
    if "voxels" in bases:
        texts.append(
            "Over voxels: what a single voxel repeats to, noise of the fit included; a region's "
            "value repeats better. Bias, limits of agreement and RC are percentiles there, since "
            "errors of voxels have long tails, and intervals count independent voxels."
        )
    texts.append("If something did change, it is in these figures too.")
    return " ".join(texts)


def voxel_rows(comparison: Comparison) -> list[list[str]]:
    """Parameter, voxels, standard deviation of z, beyond 1.96, found: of every pair."""
    rows = []
    for pair in comparison.pairs:
        for name, score in pair.scores.items():
            label = name if len(comparison.pairs) == 1 else f"{name}, {pair.label}"
            share = percent(score.beyond, score.count)
            rows.append([label, f"{score.count:,}", number(score.sd, 3), share, f"{score.found:,}"])
    return rows


def bias(one: ParameterAgreement) -> float:
    """Mean difference; the median over voxels."""
    return one.figures.middle if one.basis == "voxels" else one.figures.bias


def limits(one: ParameterAgreement) -> tuple[float, float]:
    """Limits of agreement: percentiles over voxels, whose differences have long tails."""
    x = one.figures
    return x.central if one.basis == "voxels" else (x.lower, x.upper)


def limits_told(one: ParameterAgreement) -> str:
    """Bias and limits of agreement in words."""
    word = "median difference" if one.basis == "voxels" else "bias"
    return f"{word} {signed(bias(one))}, limits of agreement {_between(*limits(one))}"


def _between(low: float, high: float, digits: int = 3) -> str:
    return f"{signed(low, digits)} to {signed(high, digits)}"


def _in(interval: tuple[float, float]) -> str:
    low, high = interval
    return f"{number(low, 2)} to {number(high, 2)}" if np.isfinite(low) else ""


def _p(p: float) -> str:
    return "–" if not np.isfinite(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _p_is(p: float) -> str:
    return (f"p {_p(p)}" if p < 0.001 else f"p = {_p(p)}").replace(" ", "\N{NO-BREAK SPACE}")
