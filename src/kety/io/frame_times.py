"""Frame times: given as numbers, in a text file, in the sidecar or in the image's header."""

from __future__ import annotations

import csv
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError
from kety.io.bids import sidecar_path
from kety.series import check_times
from kety.units import MILLISECONDS_PER_SECOND, SECONDS_PER_MINUTE

_TIME_COLUMN: Final = re.compile(
    r"(?:frame[ _])?(?:t|time|times)(?:[ _]?[\[(]?(s|sec|seconds|ms|min|minutes)[\])]?)?",
    re.IGNORECASE,
)
_SECONDS: Final[Mapping[str, float]] = {
    "s": 1.0,
    "sec": 1.0,
    "seconds": 1.0,
    "ms": 1 / MILLISECONDS_PER_SECOND,
    "min": SECONDS_PER_MINUTE,
    "minutes": SECONDS_PER_MINUTE,
}


def frame_times(
    times: ArrayLike | str | os.PathLike[str] | None,
    frames: int,
    *,
    name: str,
    sidecar: Mapping[str, Any],
    interval: float | None,
) -> tuple[NDArray[np.float64], str]:
    """Find the frame times: from the argument, else the sidecar, else the file's header.

    Parameters
    ----------
    times
        (T,) in s, the path of a CSV file (see `read_times`), one number for the time between
        frames in s, or None.
    frames
        Number of frames T.
    name
        Name of the series for messages.
    sidecar
        BIDS fields ``VolumeTiming`` or ``FrameTimesStart``, (T,) in s.
    interval
        Time between frames in s by the header, None where it does not say.

    Returns
    -------
    (T,) in s, and where they came from in words.

    Raises
    ------
    KetyError
        If there are none, or they are not one finite increasing time per frame.
    """
    if isinstance(times, str | os.PathLike):
        path = Path(times)
        return check_times(read_times(path), frames, f"{path.name} for {name}"), path.name
    if times is not None:
        if np.ndim(times) == 0:
            step = np.asarray(times, dtype=np.float64)
            return check_times(
                np.arange(frames) * step, frames, name
            ), f"given, {step:g} s between frames"
        return check_times(times, frames, name), "given"
    for key in ("VolumeTiming", "FrameTimesStart"):
        if key not in sidecar:
            continue
        try:
            listed = np.array(sidecar[key], dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise KetyError(
                f"{sidecar_path(name)}: {key} is {sidecar[key]!r}; expected a list of s"
            ) from error
        return check_times(listed, frames, f"{key} for {name}"), f"{key} in its sidecar"
    if interval is None:
        raise KetyError(
            f"{name}: no frame times: none given, no VolumeTiming in {sidecar_path(name)}, and no "
            "interval with a unit in the header; give the times in s or a CSV file of them"
        )
    if interval == 1.0:
        warnings.warn(
            f"{name}: frames taken to be 1 s apart by its header, which is also what converters "
            "write when they do not know; give the times if that is not so",
            stacklevel=3,
        )
    times = check_times(np.arange(frames) * interval, frames, name)
    return times, f"header, {interval:g} s between frames"


def step_of(times: NDArray[np.float64]) -> float:
    """The usual time between frames, in s, of two or more."""
    return float(np.median(np.diff(times)))


def read_times(path: str | os.PathLike[str]) -> NDArray[np.float64]:
    """Read frame times from a text file: CSV or TSV, or one number a line.

    With a header line, the column is the one named ``time``, ``times`` or ``t``, with the unit
    after it (``time_s``, ``time_ms``, ``time_min``, ``time [s]``); s where none is named.

    Returns
    -------
    (T,) in s.

    Raises
    ------
    KetyError
        If the file cannot be read, has no such column, or more than one, or a cell is no number.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise KetyError(f"{path}: there is no such file of frame times") from error
    except (OSError, UnicodeDecodeError) as error:
        raise KetyError(f"{path}: cannot be read as text ({error})") from error
    lines = [
        (number, line)
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if not lines:
        raise KetyError(f"{path}: is empty; expected one frame time a line")
    delimiter = next((mark for mark in "\t;," if mark in lines[0][1]), ",")
    rows = [
        (number, [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter))])
        for number, line in lines
    ]
    column, factor = 0, 1.0
    if not all(_is_number(cell) for cell in rows[0][1]):
        column, factor = _time_column(path, rows.pop(0)[1])
    elif len(rows[0][1]) > 1:
        raise KetyError(
            f"{path}: {len(rows[0][1])} columns without a header line; name the column of times, "
            "e.g. time_s"
        )
    values = []
    for number, cells in rows:
        if column >= len(cells) or not _is_number(cells[column]):
            raise KetyError(
                f"{path}: line {number} holds no number in column {column + 1}: {cells}"
            )
        values.append(float(cells[column]) * factor)
    return np.array(values, dtype=np.float64)


def _time_column(path: Path, header: Sequence[str]) -> tuple[int, float]:
    matches = [(index, _TIME_COLUMN.fullmatch(cell)) for index, cell in enumerate(header)]
    found = [(index, match.group(1)) for index, match in matches if match]
    if len(found) != 1:
        problem = "no column of times" if not found else "more than one column of times"
        raise KetyError(
            f"{path}: {problem} among {', '.join(header)}; name one of them time_s, time_ms or "
            "time_min"
        )
    index, unit = found[0]
    return index, _SECONDS[(unit or "s").lower()]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
