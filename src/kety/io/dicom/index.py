"""What a folder or archive of DICOM files holds: series that can be read, and all the rest.

Every file is opened once and only its header is looked at.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from kety.errors import KetyError
from kety.io.dicom.archive import Problem, each_file, fingerprint
from kety.io.dicom.elements import NotReadable
from kety.io.dicom.grouping import FoundSeries, group_images
from kety.io.dicom.headers import HeaderReader, Image, Other
from kety.io.dicom.privacy import Words, without_words

MOST_LISTED: Final = 12
"""Series that a message names."""


@dataclass(frozen=True, eq=False)
class Found:
    """All that a folder, archive or file of DICOM holds.

    Attributes
    ----------
    path
        What was looked through.
    series
        In order of their number; those that are set aside come last.
    others
        Objects that are no CT or MR images, by what they are, and how many.
    problems
        Files that are not used, and why; names of patients in their paths are left out.
    patients
        Number of patients with images.
    """

    path: Path
    series: tuple[FoundSeries, ...]
    others: dict[str, int]
    problems: tuple[Problem, ...]
    patients: int

    def choose(self, wanted: int | str | None = None, *, dynamic: bool = True) -> FoundSeries:
        """The series that is asked for, or the only one that comes into question.

        Parameters
        ----------
        wanted
            Number in the table, SeriesInstanceUID, or a part of its description; None where only
            one can be meant.
        dynamic
            Whether it must have several phases.

        Raises
        ------
        KetyError
            If there is none or several, they are of several patients, or it cannot be read.
        """
        if not self.series:
            kind = "folder" if self.path.is_dir() else "file"
            raise KetyError(
                f"{self.path}: is a {kind} without CT or MR images in DICOM{self._rest()}"
            )
        if wanted is not None:
            chosen = self._wanted(wanted)
        elif self.patients > 1:
            raise KetyError(
                f"{self.path}: holds images of {self.patients} patients; choose a series by its "
                f"number: {_listed(self.series)}"
            )
        else:
            chosen = self._only(dynamic)
        if chosen.problem:
            raise KetyError(f"{self.path}: series {chosen.number}: {chosen.problem}")
        if dynamic and chosen.frames < 2:
            raise KetyError(
                f"{self.path}: series {chosen.title}, is not dynamic; choose one with several "
                f"phases: {_listed([one for one in self.series if one.frames > 1])}"
            )
        return chosen

    def _wanted(self, wanted: int | str) -> FoundSeries:
        text = str(wanted).strip()
        matches = [one for one in self.series if text == str(one.number)]
        matches = matches or [one for one in self.series if one.uids == (text,)]
        if not matches and not text.isdecimal() and text:
            words = text.casefold()
            # As the scanner has it: what is asked for may be a part that is not shown.
            matches = [
                one for one in self.series if words in one.images[0].header.description.casefold()
            ]
            whole = [one for one in matches if not one.part_of and not one.aside]
            matches = whole if len(whole) == 1 else matches
        if len(matches) != 1:
            found = "no series" if not matches else f"{len(matches)} series"
            raise KetyError(
                f"{self.path}: {found} for {text!r}; choose one by its number: "
                f"{_listed(matches or self.series)}"
            )
        return matches[0]

    def _only(self, dynamic: bool) -> FoundSeries:
        usable = [one for one in self.series if not one.aside and not one.part_of]
        fit = [one for one in usable if not one.problem and one.frames > dynamic]
        fit = fit or [one for one in usable if one.problem]
        if len(fit) == 1:
            return fit[0]
        kind = "a dynamic series" if dynamic else "a series or volume"
        count = f"{len(fit)} of them could be meant" if fit else "there is none"
        raise KetyError(
            f"{self.path}: {kind} is needed and {count}; choose a series by its number: "
            f"{_listed(fit or self.series)}"
        )

    def _rest(self) -> str:
        """What there is instead of images."""
        words = [f"{count} of {name}" for name, count in self.others.items()]
        if self.problems:
            first = self.problems[0]
            words.append(
                f"{len(self.problems)} files that cannot be used, the first: {first.file} "
                f"{first.reason}"
            )
        return f", but {', '.join(words)}" if words else ""


def _listed(series: Sequence[FoundSeries]) -> str:
    more = f"; and {len(series) - MOST_LISTED} more" if len(series) > MOST_LISTED else ""
    return "; ".join(one.title for one in series[:MOST_LISTED]) + more or "there is none"


def find_series(path: str | os.PathLike[str]) -> Found:
    """Look through a folder with all below it, a zip, a tar or a single file.

    The headers of the last path are remembered as long as none of its files changes.

    Raises
    ------
    KetyError
        If the path does not exist, or is an archive that is damaged or too large.
    """
    path = Path(path)
    seen = _look_through(path)
    series, copies = group_images(seen.images)
    problems = [
        replace(one, file=without_words(one.file, seen.words)) for one in (*seen.problems, *copies)
    ]
    patients = len({one.patient for one in series})
    return Found(
        path,
        tuple(_cleared(one, seen.words) for one in series),
        seen.others,
        tuple(sorted(problems, key=lambda one: one.file)),
        patients,
    )


def without_patients(path: str | os.PathLike[str], text: str) -> str:
    """A text, such as a file's name, without parts of the names and identifiers of the patients.

    Parameters
    ----------
    path
        Whose patients, as of `find_series`, which also says what is raised.
    text
        In it dots stand for these parts.
    """
    return without_words(text, _look_through(Path(path)).words)


@dataclass(frozen=True, eq=False)
class _Seen:
    """The headers of all files below a path."""

    images: list[Image]
    others: dict[str, int]
    problems: list[Problem]
    words: Words


_LAST: dict[object, _Seen] = {}  # of one path


def _look_through(path: Path) -> _Seen:
    """Read every header, or take those of the last call if no file has changed."""
    key = (path.resolve(), fingerprint(path))
    if key in _LAST:
        return _LAST[key]
    reader = HeaderReader()
    images: list[Image] = []
    others: Counter[str] = Counter()
    problems: list[Problem] = []
    for file, stream in each_file(path, problems.append):
        try:
            found = reader.read(stream, file)
        except NotReadable as error:
            problems.append(Problem(file, str(error)))
            continue
        except OSError as error:
            problems.append(Problem(file, f"cannot be read ({(error.strerror or '?').lower()})"))
            continue
        if isinstance(found, Other):
            others[_name(found)] += 1
        else:
            images += found
    _LAST.clear()
    seen = _LAST[key] = _Seen(images, dict(others), problems, reader.words)
    return seen


def _name(other: Other) -> str:
    """What an object is, in DICOM's words: ``"Secondary Capture Image"``."""
    from pydicom.uid import UID

    name = UID(other.sop_class).name
    return name.removesuffix(" Storage") if name != other.sop_class else "unknown kind"


def _cleared(one: FoundSeries, words: Words) -> FoundSeries:
    """A series whose description has no part of a patient's name."""
    description = without_words(one.header.description, words)
    return replace(one, header=replace(one.header, description=description))
