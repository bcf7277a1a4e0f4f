"""What ``kety info`` says of a folder or archive of DICOM."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import numpy as np

from kety.cli.common import say, table
from kety.errors import KetyError
from kety.units import MILLISECONDS_PER_SECOND

if TYPE_CHECKING:
    from kety.io.dicom import Found, FoundSeries, Problem

_WIDEST: Final = 24  # of a description
_WIDTH: Final = 100  # of a line
_INDENT: Final = " " * 10
_EXAMPLES: Final = 3  # files named for a reason
_MOST_ROWS: Final = 60
_MOST_DETAILS: Final = 8
_SIGNAL: Final = (
    ("kvp", "tube voltage", 1.0, "kV"),
    ("repetition_time", "TR", MILLISECONDS_PER_SECOND, "ms"),
    ("echo_time", "TE", MILLISECONDS_PER_SECOND, "ms"),
    ("flip_angle", "flip angle", 1.0, "degrees"),
)


def describe_dicom(path: Path) -> None:
    """Print the series that a path holds, and what cannot be used.

    Raises
    ------
    KetyError
        As `kety.io.dicom.find_series`, and if there is no DICOM at all.
    """
    from kety.io.dicom import find_series

    found = find_series(path)
    if not found.series and not found.others:
        raise KetyError(f"{path}: {_nothing(found)}")
    images = len({image.file for one in found.series for image in one.images})
    patients = "" if found.patients < 2 else f" of {found.patients} patients"
    _say("DICOM", f"{path}: {images:,} files of CT or MR images{patients}")
    if found.series:
        click.echo()
        _say_table(found)
    dynamic = [one for one in found.series if one.frames > 1 and not one.aside]
    for one in dynamic[:_MOST_DETAILS]:
        click.echo()
        _say_series(one)
    broken = [one for one in found.series if one.problem and not one.aside]
    if broken or found.others or found.problems:
        click.echo()
    for one in broken:
        _say("problem", f"series {one.number}: {one.problem}")
    for name, count in found.others.items():
        _say("other", f"{count:,} × {name}")
    _say_problems(found.problems)


def _nothing(found: Found) -> str:
    """What there is in a path without any DICOM, and what to do."""
    files = found.problems
    if not files:
        return "is empty; name a folder of DICOM files or of maps"
    if files[0].file == found.path.name:
        return files[0].reason
    images = [one.file for one in files if one.file.endswith((".nii", ".nii.gz"))]
    if images:
        return f"holds NIfTI, no DICOM and no fit.json of maps; name one image, such as {images[0]}"
    return f"holds neither DICOM nor the fit.json of maps; {files[0].file} {files[0].reason}"


def _say_table(found: Found) -> None:
    several = found.patients > 1
    header = ["series", *(["patient"] if several else []), "modality", "phases", "times, s", "grid"]
    rows = [_row(one, several) for one in found.series[:_MOST_ROWS]]
    notes = any(row[-1] for row in rows)
    header += ["voxels, mm", *(["notes"] if notes else [])]
    table(header, [row if notes else row[:-1] for row in rows])
    if len(found.series) > _MOST_ROWS:
        click.echo(f"and {len(found.series) - _MOST_ROWS:,} more")


def _row(one: FoundSeries, several: bool) -> list[str]:
    words = one.header.description or "without description"
    words = words if len(words) <= _WIDEST else words[: _WIDEST - 1] + "…"
    times = None if one.phases is None else one.phases.times
    notes = [
        f"{len(one.uids)} series joined" if len(one.uids) > 1 else "",
        f"part of {one.part_of}" if one.part_of else "",
        one.aside,
        "problem" if one.problem else "",
    ]
    return [
        f"{one.number:>2}  {words}",
        *([str(one.patient)] if several else []),
        one.header.modality,
        str(one.frames) if one.frames else "?",
        "–" if one.frames < 2 else "?" if times is None else f"{times[0]:.3g} to {times[-1]:.4g}",
        " × ".join(str(size) if size else "?" for size in one.shape),
        _voxels(one),
        ", ".join(note for note in notes if note),
    ]


def _voxels(one: FoundSeries) -> str:
    rows, columns = one.header.spacing
    depth = "?" if one.stack is None else f"{np.linalg.norm(one.stack.affine[:3, 2]):.3g}"
    return f"{columns:.3g} × {rows:.3g} × {depth}"


def _say_series(one: FoundSeries) -> None:
    from kety.io.dicom.geometry import plane_name
    from kety.io.dicom.phases import without_times
    from kety.io.dicom.pixels import scaling

    assert one.stack is not None  # of a series with phases
    assert one.phases is not None
    number = "" if one.header.number is None else f", the scanner's {one.header.number}"
    click.echo(f"Series {one.number}{number}")
    phases = one.phases
    if phases.times is None:
        _say("times", f"unknown: {without_times(one.images)}; give --times or --interval")
    else:
        _say("times", f"{_span(phases.times)} ({phases.times_from} in the headers)")
    if phases.slice_times is not None:
        apart = float(np.ptp(phases.slice_times, axis=0).max())
        _say("", f"each slice has its own, up to {apart:.3g} s apart within a phase")
    if phases.order_from != phases.times_from:
        _say("phases", f"told apart by {phases.order_from}")
    corner = ", ".join(f"{value:.4g}" for value in one.stack.affine[:3, 3])
    _say("geometry", f"{plane_name(one.stack.affine)}, first voxel at ({corner}) mm, RAS")
    known = dict(one.header.acquisition)
    words = [
        f"{name} {known[key] * factor:.4g} {unit}"
        for key, name, factor, unit in _SIGNAL
        if key in known
    ]
    _say("signal", ", ".join([*words, scaling(one.images)]))
    for note in phases.notes:
        _say("note", note)


def _span(times: np.ndarray[tuple[int], np.dtype[np.float64]]) -> str:
    steps = np.diff(times)
    low, high = float(steps.min()), float(steps.max())
    every = f"every {low:.4g} s" if high - low < 1e-3 else f"{low:.4g} to {high:.4g} s apart"
    return f"{times[0]:g} to {times[-1]:.6g} s, {every}"


def _say_problems(problems: Sequence[Problem]) -> None:
    """Files that are not used, those of one reason together."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for problem in problems:
        by_reason[problem.reason].append(problem.file)
    for reason, files in by_reason.items():
        more = f" and {len(files) - _EXAMPLES:,} more" if len(files) > _EXAMPLES else ""
        _say("problem", f"{', '.join(files[:_EXAMPLES])}{more}: {reason}")


def _say(label: str, text: str) -> None:
    """A line of a summary, wrapped."""
    lines = textwrap.wrap(text, _WIDTH - len(_INDENT), break_long_words=False) or [""]
    say(label, f"\n{_INDENT}".join(lines))
