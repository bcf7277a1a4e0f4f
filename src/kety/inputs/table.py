"""Reading CSV tables of input curves and frame times.

A header names the columns: the quantity, the place it was measured at and its unit, as in
``time_s,cb_mM``. What the header does not say is asked for, never guessed.
"""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kety.errors import KetyError
from kety.units import MILLISECONDS_PER_SECOND, SECONDS_PER_MINUTE

TIME_NAMES: Final = frozenset({"t", "time", "times"})
TIME_UNITS: Final[dict[str, float]] = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("min", "minute", "minutes"), SECONDS_PER_MINUTE),
    **dict.fromkeys(("ms", "msec", "millisecond", "milliseconds"), 1.0 / MILLISECONDS_PER_SECOND),
}
SITES: Final[tuple[str, ...]] = ("blood", "plasma")

_PLASMA_WORDS: Final = frozenset({"cp", "plasma"})
_BLOOD_WORDS: Final = frozenset({"ca", "cb", "blood"})
_CURVE_WORDS: Final = frozenset({"aif", "c", "conc", "concentration"})
_OTHER_WORDS: Final = frozenset(
    {"aorta", "arterial", "artery", "hu", "l", "mg", "ml", "mm", "mmol", "pif", "vif", "whole"}
)
_TIME_COLUMNS: Final = "time_s, time_min or time_ms"
_VALUE_COLUMNS: Final = "cb_mM, cp_mM, blood_HU or plasma_mM"


@dataclass(frozen=True)
class Table:
    """A rectangular CSV table, its cells still text.

    Attributes
    ----------
    source
        Name of the file, for messages.
    header
        Column names, in the order of the file.
    rows
        Cells of each row, as many as the header has.
    lines
        Line number in the file of each row.
    """

    source: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]

    def numbers(self, column: str) -> NDArray[np.float64]:
        """Return one column as numbers, shape (number of rows,).

        Raises
        ------
        KetyError
            When two columns bear the name, or a cell is not a finite number.
        """
        if self.header.count(column) > 1:
            raise KetyError(f"{self.source}: two columns are named '{column}'; rename one")
        index = self.header.index(column)
        values = np.empty(len(self.rows))
        for i, (row, line) in enumerate(zip(self.rows, self.lines, strict=True)):
            value = _number(row[index])
            if value is None or not math.isfinite(value):
                raise KetyError(
                    f"{self.source}, line {line}, column '{column}': found '{row[index]}', "
                    "expected a finite number with a decimal point"
                )
            values[i] = value
        return values


def read_table(path: str | os.PathLike[str]) -> Table:
    """Read a CSV file with a header line.

    The delimiter is a comma, semicolon or tab; a UTF-8 byte order mark, blank lines and lines that
    start with ``#`` are passed over.

    Raises
    ------
    OSError
        When the file is missing or cannot be read.
    KetyError
        When it is not text, is empty, has no header or no rows, or rows of another length.
    """
    source, lines, records = _records(path)
    header = records[0]
    if all(_number(cell) is not None for cell in header):
        raise KetyError(
            f"{source}, line {lines[0]}: found numbers where the header should be; add a first "
            f"line that names the columns and their units, such as time_s,cb_mM"
        )
    return _table(source, header, lines[1:], records[1:])


def read_times(
    path: str | os.PathLike[str], *, time_unit: str | None = None
) -> NDArray[np.float64]:
    """Read frame times from a CSV file.

    Parameters
    ----------
    path
        File with a header that names a time column (``time_s``, ``time_min``, ``time_ms``), other
        columns being ignored, or one column of numbers without a header, which are in s.
    time_unit
        Unit of the times where the file does not name it: ``"s"``, ``"min"`` or ``"ms"``.

    Returns
    -------
    ndarray, shape (T,)
        Times in s, strictly increasing.

    Raises
    ------
    OSError
        When the file is missing or cannot be read.
    KetyError
        When no time column or unit is found, a cell is not a number, or times do not increase.
    """
    source, lines, records = _records(path)
    if len(records[0]) == 1 and _number(records[0][0]) is not None:
        table = _table(source, ("time",), lines, records)
        times = table.numbers("time") * _unit_factor(time_unit or "s")
    else:
        times = time_column(read_table(path), time_unit)
    require_increasing(times, f"{source}: times")
    return times


def require_increasing(times: NDArray[np.float64], what: str) -> None:
    """Raise KetyError, naming the first offence, unless ``times`` (n,) increase strictly."""
    bad = np.flatnonzero(np.diff(times) <= 0)
    if bad.size:
        i = int(bad[0]) + 1
        raise KetyError(
            f"{what} must increase strictly; found {times[i]:g} s at index {i} after "
            f"{times[i - 1]:g} s. Sort the samples and keep one curve per file"
        )


def time_column(table: Table, time_unit: str | None = None) -> NDArray[np.float64]:
    """Return the times of a table in s, shape (number of rows,).

    Of several time columns the first whose header names a unit counts.

    Raises
    ------
    KetyError
        When there is no time column, or its unit is not named, or contradicts ``time_unit``.
    """
    found = [(name, unit) for name in table.header if (unit := _time_unit(name)) is not None]
    if not found:
        raise KetyError(
            f"{table.source}: no time column among {_listed(table.header)}; name it {_TIME_COLUMNS}"
        )
    name, unit = next((entry for entry in found if entry[1]), found[0])
    if not unit and time_unit is None:
        raise KetyError(
            f"{table.source}: column '{name}' does not name its unit; rename it {_TIME_COLUMNS}, "
            "or give time_unit"
        )
    factor = _unit_factor(unit or time_unit or "")
    if time_unit is not None and _unit_factor(time_unit) != factor:
        raise KetyError(
            f"{table.source}: column '{name}' is in {unit}, but time_unit is '{time_unit}'"
        )
    return table.numbers(name) * factor


def value_column(table: Table, column: str | None, site: str | None) -> tuple[str, str]:
    """Choose the column of an input curve and the site it was measured at.

    Parameters
    ----------
    table
        The table.
    column
        Name of the column, or None to take the one that qualifies.
    site
        ``"blood"`` or ``"plasma"``, or None to read it from the column's name.

    Returns
    -------
    column, site
        Name as in the header, and ``"blood"`` or ``"plasma"``.

    Raises
    ------
    KetyError
        When the column is unknown, none or several qualify, or the site is not known or
        contradicts the name.
    """
    name = _qualifying_column(table, site) if column is None else _named_column(table, column)
    named = _site(name)
    if site is None and named is None:
        raise KetyError(
            f"{table.source}: column '{name}' does not say whether it is blood or plasma; give "
            f"site='blood' or site='plasma', or rename it {_VALUE_COLUMNS}"
        )
    if site is not None and named is not None and site != named:
        raise KetyError(f"{table.source}: column '{name}' is {named}, but site is '{site}'")
    return name, named or site or ""


def _named_column(table: Table, column: str) -> str:
    for name in table.header:
        if name == column:
            return name
    for name in table.header:
        if name.casefold() == column.strip().casefold():
            return name
    raise KetyError(
        f"{table.source}: no column '{column}'; the columns are {_listed(table.header)}"
    )


def _qualifying_column(table: Table, site: str | None) -> str:
    candidates = [name for name in table.header if _is_value(name)]
    if site is not None:
        of_site = [name for name in candidates if _site(name) == site]
        candidates = of_site or [name for name in candidates if _site(name) is None]
    if not candidates:
        wanted = "input" if site is None else site
        raise KetyError(
            f"{table.source}: no {wanted} column among {_listed(table.header)}; name it "
            f"{_VALUE_COLUMNS}, or choose one with column"
        )
    if len(candidates) > 1:
        raise KetyError(
            f"{table.source}: several columns may be the input: {_listed(candidates)}; choose one "
            "with column"
        )
    return candidates[0]


def _words(name: str) -> list[str]:
    return re.findall(r"[^\W_]+", name.lower())


def _time_unit(name: str) -> str | None:
    """Unit in a time column's name, "" where it has none; None for any other column."""
    words = _words(name)
    if not words or words[0] not in TIME_NAMES:
        return None
    if len(words) == 1:
        return ""
    return words[1] if len(words) == 2 and words[1] in TIME_UNITS else None


def _unit_factor(unit: str) -> float:
    try:
        return TIME_UNITS[unit.strip().lower()]
    except KeyError:
        raise KetyError(f"unknown time unit '{unit}'; expected 's', 'min' or 'ms'") from None


def _is_value(name: str) -> bool:
    words = set(_words(name))
    measured = _PLASMA_WORDS | _BLOOD_WORDS | _CURVE_WORDS
    return bool(words & measured) and words <= measured | _OTHER_WORDS


def _site(name: str) -> str | None:
    words = set(_words(name))
    if words & _PLASMA_WORDS:  # first, as "blood plasma" is plasma
        return "plasma"
    return "blood" if words & _BLOOD_WORDS else None


def _number(cell: str) -> float | None:
    if "_" in cell:  # float() takes 1_000
        return None
    try:
        return float(cell)
    except ValueError:
        return None


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _records(path: str | os.PathLike[str]) -> tuple[str, list[int], list[tuple[str, ...]]]:
    """Source name, line numbers and stripped cells of all lines that hold data."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise type(error)(
            f"cannot read {path}: {error.strerror}; expected a CSV file with a header line"
        ) from error
    except UnicodeDecodeError as error:
        raise KetyError(f"{path.name} is not UTF-8 text; expected a CSV file") from error
    numbered = [
        (number, line)
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip(" \t,;") and not line.lstrip().startswith("#")
    ]
    if not numbered:
        raise KetyError(f"{path.name} is empty; expected a CSV file with a header line")
    delimiter = max(",;\t", key=numbered[0][1].count)
    records = []
    for number, line in numbered:
        try:
            (cells,) = csv.reader([line], delimiter=delimiter, strict=True)
        except csv.Error as error:
            raise KetyError(f"{path.name}, line {number}: not CSV ({error})") from error
        records.append(tuple(cell.strip() for cell in cells))
    return path.name, [number for number, _ in numbered], records


def _table(
    source: str, header: tuple[str, ...], lines: list[int], records: list[tuple[str, ...]]
) -> Table:
    if not records:
        raise KetyError(f"{source}: no rows after the header; the file may be truncated")
    for line, record in zip(lines, records, strict=True):
        if len(record) != len(header):
            raise KetyError(
                f"{source}, line {line}: found {len(record)} cells, expected {len(header)} as in "
                "the header; the file may be truncated"
            )
    return Table(source, header, tuple(records), tuple(lines))
