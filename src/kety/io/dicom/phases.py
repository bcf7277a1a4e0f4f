"""Which images of a series belong to one phase, and when each was acquired.

Two questions with one order of trust: temporal position, acquisition date-time, content time,
trigger time. The first that tells the phases apart puts the images in order; the first that
increases along that order gives the times. Nothing is filled in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kety.errors import KetyError
from kety.io.dicom.clock import MICROSECONDS, Moment
from kety.io.dicom.headers import Image
from kety.units import MILLISECONDS_PER_SECOND

TOGETHER_S: Final = 0.05
"""Slices of a phase acquired within this time share one; a rotation takes several times as long."""
MOST_DROPPED: Final = 0.2
"""Share of the phases that may lack a slice and be left out."""
_MOSTLY: Final = 0.5
_SAME_STEP: Final = 1.5
_HALF_DAY: Final = 43_200.0
_APART: Final = 0.02  # by which the spans of two clocks may differ

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Phases:
    """The images in order of slice and phase, and the phases' times.

    Attributes
    ----------
    images
        (Z, T), index of every image.
    times
        (T,) in s from the first image, the mean over slices; None where the headers have none.
    slice_times
        (Z, T) in s on the same clock; None where the slices of a phase were acquired together.
    order_from, times_from
        What put the images in order and what gave the times, in words.
    kept
        Which of the phases that the images show are among these; the others lack slices.
    notes
        What was noticed: phases left out, clocks that disagree.
    """

    images: Indices
    times: Floats | None
    slice_times: Floats | None
    order_from: str
    times_from: str
    kept: NDArray[np.bool_]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Clock:
    """A source of times: seconds of every image, NaN where it has none."""

    name: str
    seconds: Callable[[Sequence[Image]], Floats]
    by_slice: bool = False  # whether it can tell the slices of a phase apart


def _moments(of: Callable[[Image], Moment | None]) -> Callable[[Sequence[Image]], Floats]:
    """Seconds from the earliest moment, the fractions exact."""

    def seconds(images: Sequence[Image]) -> Floats:
        moments = [of(image) for image in images]
        known = [moment for moment in moments if moment is not None]
        if len({moment.utc for moment in known}) != 1:
            return np.full(len(images), np.nan)  # none, or local times beside those in UTC
        first = min(moment.microseconds for moment in known)
        found = [np.nan if m is None else (m.microseconds - first) / MICROSECONDS for m in moments]
        return _past_midnight(np.array(found))

    return seconds


def _past_midnight(seconds: Floats) -> Floats:
    """Continue after midnight times whose date did not."""
    late = seconds > _HALF_DAY
    if not late.any():
        return seconds
    moved = np.where(late, seconds, seconds + 2 * _HALF_DAY)
    moved -= np.nanmin(moved)
    return moved if np.nanmax(moved) < _HALF_DAY else seconds


def _numbers(of: Callable[[Image], float | None]) -> Callable[[Sequence[Image]], Floats]:
    def seconds(images: Sequence[Image]) -> Floats:
        return np.array([np.nan if (value := of(image)) is None else value for image in images])

    return seconds


def _trigger(image: Image) -> float | None:
    return None if image.trigger is None else image.trigger / MILLISECONDS_PER_SECOND


_CLOCKS: Final = (
    _Clock("time offset of the temporal position", _numbers(lambda image: image.delay)),
    _Clock("acquisition date-time", _moments(lambda image: image.acquired), by_slice=True),
    _Clock("acquisition time", _moments(lambda image: image.acquired_clock), by_slice=True),
    _Clock("content time", _moments(lambda image: image.created)),
    _Clock("trigger time", _numbers(_trigger)),
)


def find_phases(images: Sequence[Image], slices: Indices) -> Phases:
    """Put the images of a series in order of slice and phase.

    Parameters
    ----------
    images
        (N,) of one grid, without duplicates.
    slices
        (N,), the slice of each.

    Raises
    ------
    KetyError
        If nothing tells the phases apart, or too many of them lack a slice.
    """
    counts = np.bincount(slices)
    if counts.max() == 1:
        order = np.argsort(slices)[:, None].astype(np.intp)
        return Phases(order, None, None, "one image a slice", "", np.ones(1, dtype=np.bool_))
    clocks = [(clock, clock.seconds(images)) for clock in _CLOCKS]
    grid, order_from = _ordered(images, slices, clocks)
    kept, notes = _complete(grid)
    grid = grid[:, kept]
    times: Floats | None = None
    own: Floats | None = None
    times_from, span = "", 0.0
    volumetric = images[0].header.volumetric
    for clock, seconds in clocks:
        by_slice = seconds[grid]
        if not _increases(by_slice):
            continue
        found = by_slice.mean(axis=0)
        if not _apart(by_slice, found, clock.by_slice and not volumetric):
            continue
        if times is not None:
            if abs(found[-1] - found[0] - span) > _APART * span:
                notes.append(
                    f"the {times_from} spans {span:g} s, the {clock.name} "
                    f"{found[-1] - found[0]:g} s; the former is used"
                )
            continue
        times, times_from, span = found, clock.name, float(found[-1] - found[0])
        if clock.by_slice and not volumetric and _spread(by_slice).max() > TOGETHER_S:
            own = by_slice
    if times is not None:
        # An input that is measured elsewhere counts from the start, and so do slices in turn.
        start = times[0] if own is None else own.min()
        times = times - start
        own = None if own is None else own - start
    return Phases(grid, times, own, order_from, times_from, kept, tuple(notes))


def without_times(images: Sequence[Image]) -> str:
    """Why a series has no times, clock by clock."""
    reasons = []
    for clock in _CLOCKS:
        seconds = clock.seconds(images)
        missing = int(np.isnan(seconds).sum())
        if missing == len(images):
            continue
        if missing:
            reasons.append(
                f"{clock.name} is missing in {missing:,} of {len(images):,} images{_every(seconds)}"
            )
        elif np.ptp(seconds) == 0:
            reasons.append(f"{clock.name} is the same in all")
        else:
            reasons.append(f"{clock.name} does not increase from phase to phase")
    return "; ".join(reasons) or "they hold no times at all"


def _every(seconds: Floats) -> str:
    """How far apart the times that are known lie, in words, where that is always the same."""
    steps = np.diff(np.unique(seconds[~np.isnan(seconds)]))
    if not steps.size or np.ptp(steps) > 1e-3:
        return ""
    return f", the others are {steps.mean():.4g} s apart"


def _ordered(
    images: Sequence[Image], slices: Indices, clocks: Sequence[tuple[_Clock, Floats]]
) -> tuple[Indices, str]:
    """(Z, T) indices, -1 where a phase lacks a slice, and what they are ordered by."""
    temporal = _numbers(lambda image: image.temporal)(images)
    numbered = _numbers(lambda image: image.acquisition)(images)
    instances = _numbers(lambda image: image.instance)(images)
    rank = np.empty(len(images))
    rank[np.lexsort((np.array([image.frame for image in images]), instances))] = np.arange(
        len(images)
    )
    even = len(set(np.bincount(slices).tolist())) == 1
    if _names_phases(temporal, slices):
        return _by_label(temporal, slices), "temporal position"
    for clock, seconds in clocks:
        if _tells_apart(seconds, slices):
            grid = _by_burst(seconds, slices)
            if grid is None:
                grid = _by_rank(seconds, slices) if even else _by_neighbour(seconds, slices)
            if grid is not None:
                return grid, clock.name
    if _names_phases(numbered, slices):
        return _by_label(numbered, slices), "acquisition number"
    if even and not np.isnan(instances).any() and _tells_apart(rank, slices):
        return _by_rank(rank, slices), "instance number"
    found = np.bincount(slices)
    raise KetyError(
        f"its phases cannot be told apart: {found.min()} to {found.max()} images a slice, and no "
        "temporal position, time or number that differs between all of them; export the series "
        "again, or remove what does not belong to it"
    )


def _tells_apart(values: Floats, slices: Indices) -> bool:
    """Whether the images of every slice all have a value of their own."""
    pairs = np.stack([slices, values], axis=1)
    return not np.isnan(values).any() and len(np.unique(pairs, axis=0)) == len(values)


def _names_phases(labels: Floats, slices: Indices) -> bool:
    """Whether labels tell the phases apart, and are shared by the slices of a phase."""
    if not _tells_apart(labels, slices):
        return False
    most = int(np.bincount(slices).max())
    return len(np.unique(labels)) < 2 * most


def _by_label(labels: Floats, slices: Indices) -> Indices:
    phases, inverse = np.unique(labels, return_inverse=True)
    grid = np.full((int(slices.max()) + 1, phases.size), -1, dtype=np.intp)
    grid[slices, inverse] = np.arange(slices.size)
    return grid


def _by_burst(seconds: Floats, slices: Indices) -> Indices | None:
    """Phases as what was acquired together; None where the slices of most were not."""
    order = np.argsort(seconds, kind="stable")
    bursts = np.empty(seconds.size)
    bursts[order] = np.concatenate([[0], np.cumsum(np.diff(seconds[order]) > TOGETHER_S)])
    if not _tells_apart(bursts, slices):
        return None
    grid = _by_label(bursts, slices)
    return grid if (grid >= 0).all(axis=0).mean() >= _MOSTLY else None


def _by_rank(values: Floats, slices: Indices) -> Indices:
    """The images of every slice in order of their values; all slices have equally many."""
    order = np.lexsort((values, slices))
    return order.reshape(int(slices.max()) + 1, -1).astype(np.intp)


def _by_neighbour(seconds: Floats, slices: Indices) -> Indices | None:
    """As `_by_rank`, where slices lack images: each is matched to the nearest whole slice.

    None where an image does not come clearly nearest to one phase.
    """
    counts = np.bincount(slices)
    most = int(counts.max())
    grid = np.full((counts.size, most), -1, dtype=np.intp)
    whole = np.flatnonzero(counts == most)
    for index in range(counts.size):
        members = np.flatnonzero(slices == index)
        members = members[np.argsort(seconds[members], kind="stable")]
        if counts[index] == most:
            grid[index] = members
            continue
        nearest = whole[np.argmin(np.abs(whole - index))]
        reference = np.sort(seconds[slices == nearest])
        distance = np.abs(seconds[members][:, None] - reference)
        phases = distance.argmin(axis=1)
        if len(set(phases.tolist())) != len(members):
            return None
        grid[index, phases] = members
    return grid


def _complete(grid: Indices) -> tuple[NDArray[np.bool_], list[str]]:
    """Which phases have all slices, and a note of those that lack some."""
    lacking = np.asarray((grid < 0).any(axis=0))
    if not lacking.any():
        return np.logical_not(lacking), []
    count, of = int(lacking.sum()), lacking.size
    slices = np.flatnonzero((grid < 0).any(axis=1))
    numbers = ", ".join(str(int(phase) + 1) for phase in np.flatnonzero(lacking)[:8])
    lack = "lacks" if count == 1 else "lack"
    found = (
        f"{count} of {of} phases ({numbers}{', …' if count > 8 else ''}) {lack} slices, which "
        f"concerns {len(slices)} of {grid.shape[0]} slices"
    )
    if count > MOST_DROPPED * of or of - count < 2:
        raise KetyError(f"{found}; copy the missing images, or remove what does not belong to it")
    return np.logical_not(lacking), [f"{found}; left out"]


def _increases(by_slice: Floats) -> bool:
    """Whether every slice's times are known and increase strictly."""
    return not np.isnan(by_slice).any() and bool((np.diff(by_slice, axis=1) > 0).all())


def _apart(by_slice: Floats, times: Floats, by_slice_allowed: bool) -> bool:
    """Whether slices that must share a time lie closer together than the phases do.

    From phase to phase all take the same step, or they are not of the same phases: where each lacks
    another phase, they are equally many.
    """
    if by_slice_allowed:
        return True
    own = np.diff(by_slice, axis=1)
    if (own.max(axis=0) > _SAME_STEP * own.min(axis=0)).any():
        return False
    steps = np.diff(times)
    room = np.minimum(np.append(steps, np.inf), np.insert(steps, 0, np.inf))
    return bool((_spread(by_slice) < room).all())


def _spread(by_slice: Floats) -> Floats:
    """(T,), between the first and the last slice of every phase."""
    spread: Floats = by_slice.max(axis=0) - by_slice.min(axis=0)
    return spread
