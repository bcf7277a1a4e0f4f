"""From the planes of a series to one voxel grid and its affine.

The plane's pixel (column i, row j) lies at position + i·spacing_columns·row_direction +
j·spacing_rows·column_direction (PS3.3, C.7.6.2.1.1), in mm along the patient's left, posterior and
superior; kety's affines count right, anterior, superior.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kety.errors import KetyError
from kety.io.dicom.frames import LPS
from kety.io.dicom.headers import Header, Image

SAME_DIRECTION: Final = 1e-3
"""Largest difference of direction cosines, and of spacings in mm, that count as equal."""

_SAME_POSITION_MM: Final = 0.01
# Of the slice thickness: a table does not stop twice at one place.
_SAME_POSITION_SHARE: Final = 0.1
# Of the distance of two slices: positions are rounded to 0.1 mm by some.
_UNEVEN_SHARE: Final = 0.05
_LEAST_TOLERANCE_MM: Final = 0.01
_ONE_DEGREE: Final = float(np.cos(np.radians(1.0)))

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Stack:
    """Planes in their order along their normal.

    Attributes
    ----------
    affine
        (4, 4), from (column, row, slice) to mm right, anterior, superior.
    slices
        (N,), the slice of every image.
    """

    affine: Floats
    slices: NDArray[np.intp]

    @property
    def count(self) -> int:
        """Number of slices."""
        return int(self.slices.max()) + 1


def same_plane(one: Header, other: Header) -> bool:
    """Whether two headers have one matrix, pixel spacing, direction and frame of reference."""
    if (one.rows, one.columns) != (other.rows, other.columns):
        return False
    if one.frame_of_reference != other.frame_of_reference:
        return False
    difference = np.subtract((*one.spacing, *one.orientation), (*other.spacing, *other.orientation))
    return bool(np.abs(difference).max() <= SAME_DIRECTION)


def stack(images: Sequence[Image]) -> Stack:
    """Put planes of one orientation in order.

    Raises
    ------
    KetyError
        If their directions are not at right angles, one slice's position changes, the slices are
        not evenly spaced, or they do not follow each other along their normal (a tilted gantry).
    """
    header = images[0].header
    across, down = _directions(header)
    normal = np.cross(across, down)
    positions = np.array([image.position for image in images])
    along = positions @ normal
    slices = _levels(along, header.thickness)
    count = int(slices.max()) + 1
    sums = np.stack([np.bincount(slices, positions[:, axis]) for axis in range(3)], axis=1)
    centres = sums / np.bincount(slices)[:, None]
    _check_still(positions, centres[slices], header)
    step = normal * (header.thickness or 1.0)
    if count > 1:
        step = (centres[-1] - centres[0]) / (count - 1)
        _check_even(centres, step, normal)
    affine = np.eye(4)
    affine[:3, 0] = across * header.spacing[1]
    affine[:3, 1] = down * header.spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = centres[0]
    return Stack(LPS @ affine, slices)


def _directions(header: Header) -> tuple[Floats, Floats]:
    directions = np.array(header.orientation).reshape(2, 3)
    lengths = np.linalg.norm(directions, axis=1)
    if np.abs(lengths - 1.0).max() > SAME_DIRECTION or min(header.spacing) <= 0:
        raise KetyError(
            f"its orientation {header.orientation} or pixel spacing {header.spacing} is not valid; "
            "export the series again"
        )
    across, down = directions / lengths[:, None]
    if abs(across @ down) > SAME_DIRECTION:
        raise KetyError(
            f"its rows and columns are not at right angles: {header.orientation}; export the "
            "series again"
        )
    return across, down


def _levels(along: Floats, thickness: float) -> NDArray[np.intp]:
    """Number the distinct positions along the normal, (N,)."""
    same = max(_SAME_POSITION_MM, _SAME_POSITION_SHARE * thickness)
    order = np.argsort(along, kind="stable")
    steps = np.diff(along[order])
    # A thin overlap of thick slices is real: between the gaps there is a clear one.
    if steps.size and thickness:
        wide = steps[steps > _SAME_POSITION_MM]
        if wide.size:
            same = min(same, max(_SAME_POSITION_MM, 0.5 * float(np.median(wide))))
    levels = np.empty(along.size, dtype=np.intp)
    levels[order] = np.concatenate([[0], np.cumsum(steps > same)])
    return levels


def _check_still(positions: Floats, centres: Floats, header: Header) -> None:
    same = max(2 * _SAME_POSITION_MM, _SAME_POSITION_SHARE * header.thickness)
    moved = float(np.linalg.norm(positions - centres, axis=1).max())
    if moved > same:
        raise KetyError(
            f"the position of a slice changes by up to {2 * moved:.3g} mm during the series; "
            "resample it to one grid"
        )


def _check_even(centres: Floats, step: Floats, normal: Floats) -> None:
    distance = float(np.linalg.norm(step))
    allowed = max(_LEAST_TOLERANCE_MM, _UNEVEN_SHARE * distance)
    ideal = centres[0] + np.arange(len(centres))[:, None] * step
    error = (centres - ideal) @ normal
    if np.abs(error).max() > allowed:
        gaps = np.diff(centres @ normal)
        raise KetyError(
            f"its {len(centres)} slices are not evenly spaced: {gaps.min():.4g} to "
            f"{gaps.max():.4g} mm apart; slices may be missing, or resample it to an even spacing"
        )
    sideways = (centres - centres[0]) - np.outer((centres - centres[0]) @ normal, normal)
    angle = float(np.degrees(np.arccos(np.clip(step @ normal / distance, -1.0, 1.0))))
    if np.linalg.norm(sideways, axis=1).max() > max(allowed, 1e-3 * distance * len(centres)):
        raise KetyError(
            f"its slices are shifted against each other by {angle:.3g}°, as with a tilted gantry; "
            "resample it to slices that lie straight above each other"
        )


def plane_name(affine: Floats) -> str:
    """``"axial"``, ``"coronal"`` or ``"sagittal"``, ``"oblique"`` beside it if more than 1° off."""
    normal = np.abs(np.cross(affine[:3, 0], affine[:3, 1]))
    normal /= np.linalg.norm(normal)
    axis = int(normal.argmax())
    name = ("sagittal", "coronal", "axial")[axis]
    return name if normal[axis] > _ONE_DEGREE else f"oblique, nearly {name}"
