"""Structure sets (RTSTRUCT): contours of one region, filled on the grid of a series.

A voxel is in where its centre is inside an odd number of the contours of its slice, so that a
contour within another cuts a hole, and one within a hole is in again. Of centres that lie on a
contour those at its lower side along either axis are in. Slices without a contour are not filled.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from kety.errors import KetyError
from kety.io.dicom.frames import LPS
from kety.io.dicom.regions import Region, choose
from kety.series import Series, Volume

if TYPE_CHECKING:
    from pydicom import Dataset

SOP_CLASS: Final = "1.2.840.10008.5.1.4.1.1.481.3"
OFF_PLANE: Final = 0.1
"""How far a contour may lie from the middle of a slice, in slices."""

# Coordinates are text of limited length: what differs by less is the same.
_DIGITS: Final = 6
_FLAT: Final = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")

Floats = NDArray[np.float64]


def regions_in(dataset: Dataset) -> list[Region]:
    """The regions of interest of a structure set."""
    return [
        Region(int(item.ROINumber), str(item.get("ROIName") or ""))
        for item in dataset.get("StructureSetROISequence") or ()
    ]


def read_mask(
    dataset: Dataset, like: Series | Volume, *, name: str, region: str | None = None
) -> NDArray[np.bool_]:
    """Fill the contours of one region on the grid of a series, (X, Y, Z).

    Parameters
    ----------
    dataset
        A structure set.
    like
        Whose grid.
    name
        What to call the file in messages.
    region
        Name or number of the region; may be left out where there is one.

    Raises
    ------
    KetyError
        If the region is not there or holds no closed contour, or contours are oblique to the
        slices or lie between them.
    """
    chosen = choose(regions_in(dataset), region, name, "region")
    contours = _contours(dataset, chosen, name)
    to_voxel = np.linalg.inv(LPS @ like.affine)
    inside = np.zeros(like.shape, dtype=np.bool_)
    outside, drawn = 0, set()
    for points in contours:
        at = np.round(points @ to_voxel[:3, :3].T + to_voxel[:3, 3], _DIGITS)
        axis, slice_ = _slice_of(at, like.shape, name, chosen)
        if not 0 <= slice_ < like.shape[axis]:
            outside += 1
            continue
        drawn.add((axis, slice_))
        plane = np.moveaxis(inside, axis, 0)[slice_]
        plane ^= filled(np.delete(at, axis, axis=1), plane.shape)
    if outside:
        warnings.warn(
            f"{name}: {outside} of {len(contours)} contours of {chosen.words} lie outside "
            f"{like.source or 'the series'} and were left out",
            stacklevel=2,
        )
    steps = np.diff(sorted(index for _, index in drawn))
    if len(steps) > 1 and steps.min() > 1:
        warnings.warn(
            f"{name}: {chosen.words} has contours in every {steps.min()}. slice at most, and the "
            "slices between are empty; it may have been drawn on images with other slices",
            stacklevel=2,
        )
    return inside


def filled(points: Floats, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The pixels of a grid whose centres, whole numbers, are inside a closed polygon.

    Parameters
    ----------
    points
        (P, 2), the corners, in pixels.
    shape
        (N, M) of the grid.
    """
    # A ray along the second axis crosses the edges whose ends are on both sides of it.
    first, last = points, np.roll(points, -1, axis=0)
    low, high = np.minimum(first[:, 0], last[:, 0]), np.maximum(first[:, 0], last[:, 0])
    start = np.clip(np.ceil(low), 0, shape[0]).astype(np.intp)
    stop = np.clip(np.ceil(high), 0, shape[0]).astype(np.intp)
    count = stop - start
    edge = np.repeat(np.arange(len(points)), count)
    row = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + start[edge]
    share = (row - first[edge, 0]) / (last[edge, 0] - first[edge, 0])
    crossing = first[edge, 1] + share * (last[edge, 1] - first[edge, 1])
    # From the crossing on, inside and outside change places.
    column = np.clip(np.ceil(np.round(crossing, _DIGITS)), 0, shape[1]).astype(np.intp)
    turns = np.zeros((shape[0], shape[1] + 1), dtype=np.intp)
    np.add.at(turns, (row, column), 1)
    inside: NDArray[np.bool_] = np.cumsum(turns, axis=1)[:, :-1] % 2 == 1
    return inside


def _contours(dataset: Dataset, region: Region, name: str) -> list[Floats]:
    """The closed contours of a region, (P, 3) each, in LPS and mm."""
    found: list[Floats] = []
    others: set[str] = set()
    for item in dataset.get("ROIContourSequence") or ():
        if int(item.get("ReferencedROINumber") or -1) != region.number:
            continue
        for contour in item.get("ContourSequence") or ():
            kind = str(contour.get("ContourGeometricType") or "")
            numbers = np.array(contour.get("ContourData") or [], dtype=np.float64)
            if numbers.size % 3 or not np.isfinite(numbers).all():
                raise KetyError(
                    f"{name}: a contour of {region.words} has {numbers.size} coordinates, expected "
                    "three for every point; export the structure set again"
                )
            if kind in _FLAT and numbers.size >= 9:
                found.append(numbers.reshape(-1, 3))
            else:
                others.add(kind or "of no kind")
    if not found:
        holds = f"only contours {', '.join(sorted(others))}" if others else "no contour"
        raise KetyError(
            f"{name}: {region.words} holds {holds}; a mask needs closed planar contours"
        )
    return found


def _slice_of(
    at: Floats, shape: tuple[int, int, int], name: str, region: Region
) -> tuple[int, int]:
    """The axis that a contour is at right angles to, and the slice that it lies in."""
    spread = np.ptp(at, axis=0)
    # Slices of a series are along its last axis; exchanged axes are looked at only after it.
    axis = min((2, 1, 0), key=lambda one: spread[one] > OFF_PLANE)
    if spread[axis] > OFF_PLANE:
        raise KetyError(
            f"{name}: a contour of {region.words} is oblique to the slices (it spans "
            f"{spread.min():.2g} slices); draw it on the series, or convert it to a mask "
            "on its grid"
        )
    middle = float(np.mean(at[:, axis]))
    nearest = round(middle)
    if abs(middle - nearest) > OFF_PLANE:
        raise KetyError(
            f"{name}: a contour of {region.words} lies between two slices (at {middle:.2f}, "
            f"counted from 0 of {shape[axis]}); it was drawn on images with other slices, "
            "convert it to a mask on the grid of the series"
        )
    return axis, nearest
