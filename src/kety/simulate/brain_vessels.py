"""Which voxels of the brain phantom hold a vessel, and when blood arrives where.

Arrival in tissue is the least, over all arteries, of the arrival in the artery and the way from
there, so that it grows from the base and the large arteries outwards and is latest in the
watersheds between two territories.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kety.simulate.brain_anatomy import Field, Points, Triple, hull, mirrored
from kety.simulate.brain_courses import (
    BRIDGES,
    LABBE,
    LARGE,
    MEDIAL,
    SYLVIAN_EXITS,
    VEINS,
    Knot,
    Vessel,
)

TERRITORIES: Final[tuple[str, ...]] = ("anterior", "middle", "posterior")
SLOWNESS: Final = 0.06
"""s that blood needs for 1 mm of tissue, small arteries included."""
CAPILLARY: Final = 1.2
"""s from the end of an artery to the middle of the tissue's own vessels."""
BLEND: Final = 0.3
"""s within which two ways to a place count as equally short."""
STENOSIS: Final[tuple[float, float]] = (0.25, 0.6)
"""Arrivals [s] in the right middle cerebral artery between which its delay grows to the full."""
TRANSITION: Final[tuple[float, float]] = (0.6, 2.5)
"""How gradually the late territory begins: lead of the other arteries [s], way from the midline."""
LATTICE: Final = 4.0
"""Spacing in mm of the points at which arrival is worked out, and linear in between."""
LATTICE_BOX: Final[tuple[Triple, Triple]] = ((0.0, -116.0, -92.0), (84.0, 92.0, 104.0))


@cache
def vessels() -> tuple[Vessel, ...]:
    """All vessels of both sides, bent smoothly, those on the surface laid onto it."""
    found = []
    for side in (1, -1):
        for vessel in LARGE + VEINS:
            if vessel.side == 1:
                found.append(replace(vessel, knots=bent(on_side(vessel.knots, side)), side=side))
        for (x, y, z), course in SYLVIAN_EXITS:
            inner = on_side(((39, 4, -4, 1.4, 0.5), (x, y, z, 1.2, 0.8)), side)
            outer = laid_out(course, side, radius=(1.1, 0.7), arrival=(1.0, 2.0))
            found.append(Vessel("artery", "middle", inner + outer, side))
        for start, course in MEDIAL:
            times = (start[4] + 0.25, start[4] + 0.5, start[4] + 0.8)
            inner = on_side((start, (*course[0], 0.95, times[0])), side)
            outer = laid_out(course[1:], side, radius=(0.9, 0.6), arrival=times[1:])
            found.append(Vessel("artery", "anterior", inner + outer, side))
        for course in (*BRIDGES, LABBE):
            outer = laid_out(course, side, radius=(0.8, 1.5), arrival=(4.8, 6.4))
            found.append(Vessel("vein", "", outer, side))
    found += [replace(v, knots=bent(v.knots)) for v in LARGE + VEINS if v.side == 0]
    turns = np.deg2rad(np.linspace(-4.0, 176.0, 12))
    arch = [(0.0, 60.0 * np.cos(t) - 16.0, 12.0 + 50.0 * np.sin(t)) for t in turns]
    sinus = laid_out(arch, 0, radius=(2.0, 4.2), arrival=(5.8, 7.0), above=1.6)
    found.append(Vessel("venous sinus", "", (*sinus, (0, -104, -8, 4.2, 7.0)), side=0))
    return tuple(found)


def on_side(knots: Sequence[Knot], side: int) -> tuple[Knot, ...]:
    """Knots of the right half on the right (1) or, mirrored, on the left (-1)."""
    return tuple((side * x, y, z, radius, time) for x, y, z, radius, time in knots)


def bent(knots: Sequence[Knot]) -> tuple[Knot, ...]:
    """The polyline with its corners rounded off, both ends kept (Chaikin's corner cutting)."""
    rows = np.asarray(knots, dtype=np.float64)
    for _ in range(2 if len(rows) > 2 else 0):
        early, late = 0.75 * rows[:-1] + 0.25 * rows[1:], 0.25 * rows[:-1] + 0.75 * rows[1:]
        inner = np.stack([early, late], axis=1).reshape(-1, rows.shape[1])[1:-1]
        rows = np.concatenate([rows[:1], inner, rows[-1:]])
    return as_knots(rows)


def as_knots(rows: NDArray[np.float64]) -> tuple[Knot, ...]:
    """Rows (n, 5) as knots."""
    return tuple((x, y, z, radius, time) for x, y, z, radius, time in rows.tolist())


def laid_out(
    course: Sequence[Triple],
    side: int,
    *,
    radius: tuple[float, float],
    arrival: Sequence[float],
    above: float = 0.3,
) -> tuple[Knot, ...]:
    """Knots every few mm along a course that is moved onto the surface of the cerebrum."""
    corners = np.asarray(course, dtype=np.float64)
    share = np.linspace(0.0, 1.0, 4 * len(corners) - 3)
    fine = np.stack(
        [np.interp(share * (len(corners) - 1), np.arange(len(corners)), c) for c in corners.T],
        axis=1,
    )
    if side:
        # Vessels on the surface wind, and not in the same way on both sides.
        phase = 0.1 * corners[0] @ (1.0, 2.0, 3.0) + side
        swing = 3.0 * np.sin(np.pi * share)[:, None]
        fine += swing * np.sin(9.0 * share[:, None] + phase + np.array([0.0, 1.6, 3.7]))
    fine[:, 0] *= side
    for _ in range(4):
        value = above_hull(fine) - above
        slopes = np.stack(
            [(above_hull(fine + step) - above - value) / 0.2 for step in 0.2 * np.eye(3)], axis=1
        )
        fine -= value[:, None] * slopes / np.sum(slopes**2, axis=1, keepdims=True)
    radii, arrivals = np.interp(share, (0, 1), radius), np.interp(share, (0, 1), arrival)
    return as_knots(np.column_stack([fine, radii, arrivals]))


def above_hull(rows: NDArray[np.float64]) -> Field:
    """Height of points (n, 3) above the surface of the cerebrum."""
    return hull((rows[:, 0], rows[:, 1], rows[:, 2]))


def along(points: Points, knots: Sequence[Knot], least: float) -> tuple[Field, Field, Field]:
    """Squared distance to each point's nearest place of a vessel, its radius and its arrival."""
    nearest = np.full(points[0].shape, np.inf)
    radius, arrival = np.zeros(nearest.shape), np.zeros(nearest.shape)
    for start, end in pairwise(np.asarray(knots)):
        squared, share = to_segment(points, start, end)
        closer = squared < nearest
        nearest = np.where(closer, squared, nearest)
        radius = np.where(closer, start[3] + share * (end[3] - start[3]), radius)
        arrival = np.where(closer, start[4] + share * (end[4] - start[4]), arrival)
    return nearest, np.maximum(radius, least), arrival


def to_segment(
    points: Points, start: NDArray[np.float64], end: NDArray[np.float64]
) -> tuple[Field, Field]:
    """Squared distance to a segment, and how far along it the nearest place lies, 0 to 1."""
    run = end[:3] - start[:3]
    dx, dy, dz = (p - s for p, s in zip(points, start[:3], strict=True))
    share = np.clip((dx * run[0] + dy * run[1] + dz * run[2]) / (run @ run), 0.0, 1.0)
    squared = (dx - share * run[0]) ** 2
    squared += (dy - share * run[1]) ** 2
    squared += (dz - share * run[2]) ** 2
    return squared, share


@cache
def arrival_lattice() -> tuple[Field, ...]:
    """Arrival [s] by way of each of the ``TERRITORIES`` and by any artery, in the right half."""
    axes = [np.arange(lo, hi + LATTICE, LATTICE) for lo, hi in zip(*LATTICE_BOX, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    sums = {name: np.full(x.shape, 1e-300) for name in (*TERRITORIES, "")}
    for vessel in vessels():
        # The left half is told by the right: its arteries differ by no more than their windings.
        if vessel.tissue != "artery" or vessel.side < 0:
            continue
        for start, end in pairwise(np.asarray(vessel.knots)):
            squared, share = to_segment((x, y, z), start, end)
            time = start[4] + share * (end[4] - start[4]) + SLOWNESS * np.sqrt(squared)
            sums[vessel.territory] += np.exp(-time / BLEND)
    total = np.sum(list(sums.values()), axis=0)
    ways = [sums[name] for name in TERRITORIES] + [total]
    return tuple(CAPILLARY - BLEND * np.log(way) for way in ways)


def territory_arrival(points: Points) -> tuple[Field, ...]:
    """Arrival of blood in tissue [s] by way of each of the ``TERRITORIES``, and by any artery."""
    from scipy.ndimage import map_coordinates

    places = [(p - lo) / LATTICE for p, lo in zip(mirrored(points), LATTICE_BOX[0], strict=True)]
    return tuple(
        np.asarray(map_coordinates(way, places, order=1, mode="nearest"))
        for way in arrival_lattice()
    )


def tissue_arrival(points: Points, lag: float) -> Field:
    """Arrival of blood in tissue [s]; ``lag`` s later in the right middle cerebral territory."""
    anterior, middle, posterior, anywhere = territory_arrival(points)
    lead = np.minimum(anterior, posterior) - middle
    share = 1.0 / (1.0 + np.exp(np.clip(-lead / TRANSITION[0], -50.0, 50.0)))
    side = 1.0 / (1.0 + np.exp(np.clip(-(points[0] - 10.0) / TRANSITION[1], -50.0, 50.0)))
    return np.maximum(anywhere, 0.2) + lag * share * side


def paint_vessels(points: Points, least: float, lag: float) -> tuple[NDArray[np.int8], Field]:
    """Which vessels hold points, and when blood arrives there.

    Parameters
    ----------
    points
        Three arrays (n,) of coordinates in mm.
    least
        Smallest radius in mm: thinner vessels are drawn as thick, lest they fall between voxels.
    lag
        Seconds by which the right middle cerebral artery is late.

    Returns
    -------
    kind
        int8 (n,): 0 none, 1 artery, 2 vein, 3 venous sinus.
    arrival
        (n,), s.
    """
    kind = np.zeros(points[0].shape, dtype=np.int8)
    arrival = np.zeros(points[0].shape)
    for number, tissue in enumerate(("artery", "vein", "venous sinus"), start=1):
        for vessel in vessels():
            if vessel.tissue != tissue:
                continue
            knots = np.asarray(vessel.knots)
            reach = max(float(knots[:, 3].max()), least)
            near = within(points, knots[:, :3].min(axis=0), knots[:, :3].max(axis=0), reach)
            if near.size == 0:
                continue
            there = (points[0][near], points[1][near], points[2][near])
            squared, radius, time = along(there, vessel.knots, least)
            inside = squared < radius**2
            if vessel.territory == "middle" and vessel.side > 0:
                low, high = STENOSIS
                time = time + lag * np.clip((time - low) / (high - low), 0.0, 1.0)
            kind[near[inside]] = number
            arrival[near[inside]] = time[inside]
    return kind, arrival


def within(
    points: Points, low: NDArray[np.float64], high: NDArray[np.float64], margin: float
) -> NDArray[np.intp]:
    """Points inside a box widened by a margin."""
    inside = np.ones(points[0].shape, dtype=bool)
    for p, lo, hi in zip(points, low, high, strict=True):
        inside &= (p >= lo - margin) & (p <= hi + margin)
    return np.flatnonzero(inside)
