"""Images put together into series: by patient, series, geometry and protocol."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kety.errors import KetyError
from kety.io.dicom.archive import Problem
from kety.io.dicom.geometry import Stack, same_plane, stack
from kety.io.dicom.headers import Header, Image
from kety.io.dicom.phases import Phases, find_phases

LEAST_JOINED: Final = 3
"""Phases that several series together must have to be offered as one: two are before and after."""

_PROJECTIONS: Final = frozenset(("MIP", "MINIP", "MAX_IP", "MIN_IP", "PROJECTION IMAGE"))
_PHASE_IMAGES: Final = frozenset(("P", "PHASE", "PHASE MAP", "PHASE_MAP"))
# Not every scanner says it in the image type.
_LOCALIZER: Final = re.compile(
    r"(?<![a-z])(locali[sz]|scout|topogram|scanogram|surview|survey)", re.I
)
_SAME_NUMBER: Final = 1e-3  # relative, of TR, TE, flip angle and kVp


@dataclass(frozen=True, eq=False)
class FoundSeries:
    """Images of one grid and protocol, and what they make up.

    Attributes
    ----------
    number
        In the table, from 1.
    patient
        Number of the patient, from 1.
    header
        What the images have in common.
    uids
        The series' instance UIDs; several where series are joined.
    images
        Without duplicates.
    stack, phases
        Grid and order in time; None where they could not be found.
    aside
        Why it is taken only when it is asked for, e.g. ``"localizer"``; empty otherwise.
    problem
        Why it cannot be read; empty otherwise.
    part_of
        Number of the joined series that it is a part of; 0 for none.
    """

    number: int
    patient: int
    header: Header
    uids: tuple[str, ...]
    images: tuple[Image, ...] = field(repr=False)
    stack: Stack | None
    phases: Phases | None
    aside: str = ""
    problem: str = ""
    part_of: int = 0

    @property
    def frames(self) -> int:
        """Number of phases; 0 where they could not be told apart."""
        return 0 if self.phases is None else self.phases.images.shape[1]

    @property
    def shape(self) -> tuple[int, int, int]:
        """The grid (X, Y, Z)."""
        slices = 0 if self.stack is None else self.stack.count
        return self.header.columns, self.header.rows, slices

    @property
    def title(self) -> str:
        """A line that tells it from others, without the patient."""
        joined = f" ({len(self.uids)} series joined)" if len(self.uids) > 1 else ""
        scanner = "" if self.header.number is None else f", scanner's number {self.header.number}"
        size = f"{self.frames} phases" if self.frames != 1 else "one volume"
        words = self.header.description or "without description"
        return f"{self.number}: {words}{joined}{scanner}, {self.header.modality}, {size}"


def group_images(images: Sequence[Image]) -> tuple[list[FoundSeries], list[Problem]]:
    """Put images together into series, numbered from 1, and list the duplicates among them."""
    images, problems = _first_copies(images, lambda image: (image.uid, image.frame))
    patients: dict[str, int] = {}
    for image in sorted(images, key=lambda image: image.file):
        patients.setdefault(image.header.patient, len(patients) + 1)
    single: list[FoundSeries] = []
    for members in _split(images, lambda header: (header.patient, header.series)):
        one, copies = _arranged(members, patients)
        single.append(one)
        problems += copies
    found: list[FoundSeries] = []
    for parts in _families(single):
        whole = _joined(parts, patients)
        if whole is None:
            found += parts
            continue
        found.append(whole)
        found += [replace(one, part_of=-1) for one in parts if one.frames > 1]
    found.sort(key=_place)
    numbered: list[FoundSeries] = []
    for number, one in enumerate(found, start=1):
        # Parts come right behind what they are joined to.
        part_of = next((w.number for w in numbered if one.part_of and _contains(w, one)), 0)
        numbered.append(replace(one, number=number, part_of=part_of))
    return numbered, problems


def _arranged(
    images: Sequence[Image], patients: dict[str, int]
) -> tuple[FoundSeries, list[Problem]]:
    """One series of images that belong together, and the duplicates among them."""
    header = images[0].header
    grid: Stack | None = None
    phases: Phases | None = None
    problem = ""
    copies: list[Problem] = []
    try:
        grid = stack(images)
        images, copies = _without_repeats(images, grid.slices)
        grid = stack(images) if copies else grid
        phases = find_phases(images, grid.slices)
    except KetyError as error:
        problem = str(error)
    uids = tuple(dict.fromkeys(image.header.series for image in images))
    patient = patients[header.patient]
    aside = _aside(header)
    found = FoundSeries(0, patient, header, uids, tuple(images), grid, phases, aside, problem)
    return found, copies


def _split(images: Iterable[Image], key: Callable[[Header], Hashable]) -> list[list[Image]]:
    """Images by key, protocol and plane, each in order of instance number."""
    by_header: dict[Header, list[Image]] = defaultdict(list)
    for image in images:
        by_header[image.header].append(image)
    groups: dict[Hashable, list[list[Image]]] = defaultdict(list)
    for header, members in by_header.items():
        like = groups[key(header)]
        found = next((group for group in like if _alike(group[0].header, header)), None)
        if found is None:
            like.append(list(members))
        else:
            found += members
    every = [group for like in groups.values() for group in like]
    for group in every:
        group.sort(key=lambda image: (image.instance or 0, image.frame, image.file))
    return every


def _alike(one: Header, other: Header) -> bool:
    """Whether images of two headers may be put side by side."""
    return (
        (one.modality, one.image_type, one.protocol)
        == (other.modality, other.image_type, other.protocol)
        and _same_acquisition(one, other)
        and same_plane(one, other)
    )


def _same_acquisition(one: Header, other: Header) -> bool:
    first, second = dict(one.acquisition), dict(other.acquisition)
    return first.keys() == second.keys() and all(
        abs(first[name] - second[name]) <= _SAME_NUMBER * abs(first[name]) for name in first
    )


def _families(series: Sequence[FoundSeries]) -> list[list[FoundSeries]]:
    """Series of one study that differ in nothing but their UID."""
    families: list[list[FoundSeries]] = []
    for one in series:
        for family in families:
            first = family[0]
            if (
                (one.header.patient, one.header.study) == (first.header.patient, first.header.study)
                and not (one.aside or one.problem)
                and not (first.aside or first.problem)
                and one.shape == first.shape
                and _alike(one.header, first.header)
            ):
                family.append(one)
                break
        else:
            families.append([one])
    return families


def _joined(parts: Sequence[FoundSeries], patients: dict[str, int]) -> FoundSeries | None:
    """A family as one dynamic series, where its parts continue each other in time."""
    phases = sum(one.frames for one in parts)
    if len(parts) < 2 or phases < LEAST_JOINED:
        return None
    ordered = sorted(parts, key=_place)
    whole, copies = _arranged([image for one in ordered for image in one.images], patients)
    if whole.phases is None or whole.phases.times is None or copies:
        return None
    return whole if (whole.shape, whole.frames) == (parts[0].shape, phases) else None


def _contains(whole: FoundSeries, part: FoundSeries) -> bool:
    return len(whole.uids) > 1 and part.images[0] in whole.images and not whole.part_of


def _place(one: FoundSeries) -> tuple[object, ...]:
    """The order of the table: what is set aside last, joined series before their parts."""
    header = one.header
    return (
        bool(one.aside),
        one.patient,
        header.study_date,
        header.study,
        one.part_of != 0,
        header.number or 0,
        header.description,
        header.series,
        one.images[0].file,
    )


def _aside(header: Header) -> str:
    """Why a series is not what one wants to fit; empty if it may be."""
    kind = set(header.image_type)
    if "LOCALIZER" in kind or _LOCALIZER.search(header.description):
        return "localizer"
    if kind & _PROJECTIONS:
        return "projection"
    if header.image_type[:2] == ("DERIVED", "SECONDARY"):
        return "derived"
    if header.modality == "MR" and set(header.image_type[2:]) & _PHASE_IMAGES:
        return "phase image"
    return ""


def _without_repeats(
    images: Sequence[Image], slices: NDArray[np.intp]
) -> tuple[list[Image], list[Problem]]:
    """Leave out images of one position and time, which are the same image stored twice.

    Numbers count only where no clock runs: a copy may have been numbered anew, but where all
    clocks stand still the number is all that tells two phases apart.
    """
    place = dict(zip(((i.file, i.frame) for i in images), slices.tolist(), strict=True))

    def run(of: Callable[[Image], object]) -> bool:
        seen: dict[int, set[object]] = defaultdict(set)
        for image in images:
            seen[place[image.file, image.frame]].add(of(image))
        return max(len(values) for values in seen.values()) > 1

    acquired = run(lambda i: (i.acquired, i.acquired_clock, i.temporal, i.delay, i.trigger))
    created = run(lambda i: i.created)

    def key(image: Image) -> Hashable:
        return (
            place[image.file, image.frame],
            (image.temporal, image.delay, image.acquired, image.acquired_clock, image.trigger),
            image.acquisition,
            None if acquired else image.created,
            None if acquired or created else (image.instance or image.uid),
        )

    return _first_copies(images, key)


def _first_copies(
    images: Sequence[Image], key: Callable[[Image], Hashable]
) -> tuple[list[Image], list[Problem]]:
    """The first image of every key, and the others as problems."""
    first: dict[Hashable, Image] = {}
    copies = []
    for image in images:
        other = first.setdefault(key(image), image)
        if other is not image:
            copies.append(Problem(image.file, "shows the same as another file, which is used"))
    return list(first.values()), copies
