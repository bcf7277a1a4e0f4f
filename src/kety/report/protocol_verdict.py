"""What the expected errors of a planned scan mean: verdicts, sentences and tables.

Everything here reads the datasets of `kety.expected_errors`, one for each protocol by its label.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from kety.report.windows import WINDOWS

if TYPE_CHECKING:
    import xarray

Level = Literal["trust", "large", "average", "none", "unknown"]

TARGETS: Final[Mapping[str, tuple[float, float]]] = {"%": (10.0, 30.0), "s": (0.5, 1.5)}
"""Errors up to which a voxel can be trusted, and up to which it shows large differences."""
ALIKE: Final = 1.05
"""Ratio of errors below which protocols count as alike."""
TYPICAL: Final = "two of three voxels are closer to the truth than this"
MARKS: Final[Mapping[Level, str]] = {
    "trust": "●",
    "large": "◐",
    "average": "○",
    "none": "×",
    "unknown": "–",
}
MEANINGS: Final[Mapping[Level, str]] = {
    "trust": "trust a voxel (up to 10 %; delay 0.5 s)",
    "large": "large differences only (up to 30 %; 1.5 s)",
    "average": "average n voxels to reach 10 % (0.5 s)",
    "none": "not at this noise",
    "unknown": "no percentage, the truth is 0",
}
OUTCOMES: Final = {
    "failed": "of the voxels have no estimate",
    "at_bound": "of the voxels end at a bound of a parameter",
}
COLUMNS: Final = ("bound", "typical", "in units", "RMSE", "bias", "median", "covered")
"""Of the tables, for each protocol."""
_WORDS: Final = {w.name: w.symbol.replace("^", "").replace("_", "") for w in WINDOWS}


@dataclass(frozen=True)
class Verdict:
    """How far one parameter of one tissue can be read.

    Attributes
    ----------
    level : str
        A key of `MARKS`.
    error : str
        The typical error in % of the truth, or in s.
    words : str
        The verdict in words.
    voxels : int
        Number of voxels to average; 1 where none is needed or none would do.
    """

    level: Level
    error: str
    words: str
    voxels: int = 1


@dataclass(frozen=True)
class Row:
    """Verdicts of one parameter with one protocol, for each tissue."""

    name: str
    label: str
    verdicts: Sequence[Verdict]


def short(value: float, unit: str = "") -> str:
    """Two digits and the unit; a dash for what is not known."""
    if math.isnan(value):
        return "–"
    number = f"{value:,.0f}" if abs(value) >= 10 else f"{value:.2g}"
    return f"{'∞' if math.isinf(value) else number} {unit}".strip()


def relative(one: xarray.Dataset, *keys: str) -> tuple[str, list[float]]:
    """The unit, and figures of one parameter in % of the truth, those of times in s."""
    truth, timed = abs(float(one.truth)), one.units == "s"
    factor = 1.0 if timed else 100 / truth if truth else math.nan
    return "s" if timed else "%", [factor * float(one[key]) for key in keys]


def word(name: str) -> str:
    """A parameter as sentences name it."""
    return "delay" if name == "delay" else _WORDS.get(name, name)


def shown(results: Mapping[str, xarray.Dataset]) -> list[str]:
    """Parameters worth a row: not those fixed, nor vp, which errs as vb."""
    errors = next(iter(results.values()))
    free = ~errors.note.str.startswith("fixed").all("tissue").values
    return [str(name) for name in errors.parameter.values[free] if name != "vp"]


def tissues(results: Mapping[str, xarray.Dataset]) -> list[str]:
    """Names of the tissues, the same with every protocol."""
    return [str(name) for name in next(iter(results.values())).tissue.values]


def verdict(errors: xarray.Dataset, tissue: str, name: str) -> Verdict:
    """Judge one parameter of one tissue."""
    one = errors.sel(tissue=tissue, parameter=name)
    unit, (error, bias, sd) = relative(one, "typical_error", "bias", "sd")
    if math.isnan(error):
        told = short(float(one.typical_error), str(one.units.values))
        return Verdict("unknown", told, MEANINGS["unknown"])
    target, limit = TARGETS[unit]
    if error <= limit:
        level: Level = "trust" if error <= target else "large"
        words = "trust a voxel" if level == "trust" else "large differences only"
        return Verdict(level, short(error, unit), words)
    # A bias stays in every mean, and so does the noise of an input that all voxels share; how large
    # the bias is, the simulated voxels cannot tell any better than their own number allows.
    alike = not (bool(one.drawn) or errors.attrs["input_noise"])
    rest = target**2 - bias**2
    needed = sd**2 / rest if rest > 0 else math.inf
    if alike and math.isfinite(error) and needed <= errors.sizes["copy"]:
        count = max(math.ceil(needed), 2)
        return Verdict("average", short(error, unit), f"average {count:,} voxels", count)
    return Verdict("none", short(error, unit), MEANINGS["none"])


def matrix(results: Mapping[str, xarray.Dataset]) -> list[Row]:
    """Verdicts by parameter (protocols side by side) and tissue."""
    return [
        Row(name, label, [verdict(errors, tissue, name) for tissue in tissues(results)])
        for name in shown(results)
        for label, errors in results.items()
    ]


def matrix_lines(rows: Sequence[Row], names: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the matrix as text; ``names`` are those of the tissues."""
    several = len({row.label for row in rows}) > 1
    lines = []
    for row in rows:
        cells = [
            f"{MARKS[v.level]} {v.error}" + (f" n={v.voxels:,}" if v.level == "average" else "")
            for v in row.verdicts
        ]
        lines.append([row.name, *([row.label] if several else []), *cells])
    header = ["", *([""] if several else []), *names]
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    # Padded, so that marks stand below each other however columns are set.
    padded = [[c.ljust(w) for c, w in zip(li, widths, strict=True)] for li in (header, *lines)]
    return padded[0], padded[1:]


def legend(rows: Sequence[Row]) -> list[tuple[Level, str]]:
    """Level and meaning of the marks that occur."""
    found = {verdict.level for row in rows for verdict in row.verdicts}
    return [(level, text) for level, text in MEANINGS.items() if level in found]


def headline(rows: Sequence[Row], names: Sequence[str]) -> str:
    """What the case is, by the first parameter that has a verdict."""
    judged = [row for row in rows if any(one.level != "unknown" for one in row.verdicts)]
    name = (judged or rows)[0].name
    first, what = [row for row in rows if row.name == name], word(name)
    cases: tuple[tuple[str, set[Level]], ...] = (
        (f"{what} can be read voxel by voxel", {"trust"}),
        (f"Single voxels show large differences of {what}", {"trust", "large"}),
        (f"{what} can be read in averages over voxels", {"trust", "large", "average"}),
    )
    for phrase, levels in cases:
        told = [[t for t, v in zip(names, r.verdicts, strict=True) if v.level in levels]
                for r in first]  # fmt: skip
        if any(told):
            order = sorted(zip(first, told, strict=True), key=lambda pair: -len(pair[1]))
            places = [
                f"in {_share(some, names)}" + (f" with {row.label}" if len(first) > 1 else "")
                for row, some in order
            ]
            return f"{phrase} {', '.join(places)}"
    return f"{what} cannot be read at this noise"


def _share(some: Sequence[str], names: Sequence[str], most: int = 0) -> str:
    """Some of the tissues in words, listed up to ``most``."""
    if not some:
        return "none"
    if len(names) == 1 or (len(some) <= most and len(some) < len(names)):
        return _listed(["voxels drawn from ranges" if t == "uniform" else t for t in some])
    return f"all {len(names)} tissues" if len(some) == len(names) else (
        f"{len(some)} of {len(names)} tissues"
    )  # fmt: skip


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def sentences(results: Mapping[str, xarray.Dataset], rows: Sequence[Row]) -> list[tuple[str, str]]:
    """(Matter, sentence): what single voxels tell, which protocol tells more, standard errors."""
    names, told = tissues(results), []
    for label in results:
        where = f"{label}: " if len(results) > 1 else ""
        places: dict[str, list[str]] = {}
        for row in rows:
            judged = zip(names, row.verdicts, strict=True)
            some = [tissue for tissue, one in judged if one.level == "trust"]
            if row.label == label and some:
                places.setdefault(_share(some, names, 2), []).append(word(row.name))
        trusted = [f"{_listed(ones)} in {place}" for place, ones in places.items()]
        what = "; ".join(trusted) or "no parameter"
        told.append(("voxels", f"{where}single voxels can be trusted for {what}"))
    if len(results) > 1:
        told.append(("protocols", comparison(results)))
    free = shown(results)
    covered = each(results, lambda e: span(100 * e.sel(parameter=free).coverage, "%", 0))
    if covered and any(bool((errors.noise > 0).any()) for errors in results.values()):
        words = f"standard errors cover the truth in {covered} of the voxels; 68 % is right"
        told.append(("errors", words))
    return told


def comparison(results: Mapping[str, xarray.Dataset]) -> str:
    """Which protocol errs least, for each parameter, and how much more the others err."""
    best: dict[str, list[str]] = {}
    for name in shown(results):
        typical = {
            k: e.typical_error.sel(parameter=name).values.tolist() for k, e in results.items()
        }
        # A tissue tells them apart where the error of one is finite, and of none 0.
        columns = [c for c in zip(*typical.values(), strict=True) if 0 < min(c) < math.inf]
        sums = [sum(map(math.log, column)) / len(columns) for column in zip(*columns, strict=True)]
        least = min(sums, default=math.inf)
        ratios = {
            k: math.exp(total - least)
            for k, total in zip(results, sums, strict=False)
            if math.isfinite(least)
        }
        if not ratios or max(ratios.values()) < ALIKE:
            best.setdefault("", []).append(word(name))
            continue
        first = min(ratios, key=ratios.__getitem__)
        more = [f"{k} {short(r)} times" for k, r in ratios.items() if k != first]
        best.setdefault(first, []).append(f"{word(name)} ({', '.join(more)})")
    alike = best.pop("", [])
    parts = [f"with {k} for {', '.join(v)}" for k, v in best.items()]
    told = [f"typical errors are least {'; '.join(parts)}"] if parts else []
    told += [f"protocols are alike for {_listed(alike)}"] if alike else []
    return "; ".join(told)


def remarks(results: Mapping[str, xarray.Dataset]) -> list[tuple[str, str]]:
    """(Matter, sentence): errors beside the bound, voxels without an estimate, notes."""
    free, told = shown(results), []

    def ratio(errors: xarray.Dataset) -> str:
        some = errors.sel(parameter=free)
        return span((some.typical_error / some.crb.where(some.crb > 0)), "", 2)

    ratios = each(results, ratio)
    if ratios:
        told.append(("bound", f"typical errors are {ratios} times the bound"))

    def most(key: str) -> str:
        return each(results, lambda errors: short(100 * float(errors[key].max()), "%"))

    words = [
        f"up to {most(key)} {what}"
        for key, what in OUTCOMES.items()
        if any(float(errors[key].max()) for errors in results.values())
    ]
    if words:
        told.append(("estimates", "; ".join(words)))
    notes = {
        (str(name), str(note), label)
        for label, errors in results.items()
        for (_, name), note in errors.note.to_series().items()
        if note
    }
    for (name, note), group in itertools.groupby(sorted(notes), key=lambda one: one[:2]):
        labels = [label for _, _, label in group]
        where = f" ({', '.join(labels)})" if len(labels) < len(results) else ""
        told.append((name, note + where))
    return told


def each(results: Mapping[str, xarray.Dataset], tell: Callable[[xarray.Dataset], str]) -> str:
    """What ``tell`` says of every protocol, in one phrase; empty where it has nothing to say."""
    told = {label: tell(errors) for label, errors in results.items()}
    if len(told) == 1:
        return next(iter(told.values()))
    return ", ".join(f"{text} ({label})" for label, text in told.items() if text)


def span(values: xarray.DataArray, unit: str, digits: int) -> str:
    """From the least to the largest finite value; ``digits`` 0 for whole numbers."""
    known = values.where(abs(values) < math.inf)
    if not bool(known.notnull().any()):
        return ""
    style = f".{digits}g" if digits else ".0f"
    ends = dict.fromkeys(format(float(v), style) for v in (known.min(), known.max()))
    return f"{' to '.join(ends)} {unit}".strip()


def figures_table(
    results: Mapping[str, xarray.Dataset], columns: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """Header and rows by tissue and parameter; ``columns`` of `COLUMNS` for each protocol."""
    names = [f"{label} " if len(results) > 1 else "" for label in results]
    first, rows = next(iter(results.values())), []
    for tissue, name in itertools.product(first.tissue.values, first.parameter.values):
        row = [str(tissue), str(name)]
        for one in (errors.sel(tissue=tissue, parameter=name) for errors in results.values()):
            units = str(one.units.values)
            unit, (bound, typical, rmse, bias) = relative(
                one, "crb", "typical_error", "rmse", "bias"
            )
            told = {
                "bound": short(bound, unit),
                "typical": short(typical, unit),
                "in units": short(float(one.typical_error), units),
                "RMSE": short(rmse, unit),
                "bias": short(bias, unit),
                "median": short(float(one.median_error), "%"),
                "covered": short(100 * float(one.coverage), "%"),
            }
            row += [told[column] for column in columns]
        row.insert(2, f"{float(one.truth):.3g} {units}")
        rows.append(row)
    heads = [a + b for a, b in itertools.product(names, columns)]
    return ["tissue", "", "truth", *heads], rows
