"""Between voxel grids and frames: the same volume as kety and as a DICOM object holds it.

kety's affines lead to millimetres in RAS (x to the right, y forwards, z upwards), DICOM's positions
are in LPS. A frame's columns run along its first direction, its rows along the second, and frames
follow each other along the product of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError
from kety.series import GRID_TOLERANCE_MM, Volume

LPS: Final = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From RAS to LPS, and back."""

PARALLEL: Final = 1e-4
"""Sine of the largest angle at which two directions count as parallel, or at right angles."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Frames:
    """A volume as the frames of a DICOM object, in LPS and mm.

    Attributes
    ----------
    pixels
        (N, rows, columns).
    orientation
        (2, 3), unit vectors: in which direction columns, and in which rows, are counted.
    spacing
        Between rows and between columns.
    thickness
        Between frames.
    positions
        (N, 3), centre of the first pixel of every frame, in the order of the frames.
    """

    pixels: NDArray[Any]
    orientation: Floats
    spacing: tuple[float, float]
    thickness: float
    positions: Floats

    @property
    def normal(self) -> Floats:
        """The direction in which frames follow each other."""
        return np.cross(self.orientation[0], self.orientation[1])


def frames_of(volume: Volume, like: Floats | None = None) -> Frames:
    """Cut a volume into frames.

    Axes are exchanged and reversed, never interpolated: so that the frames lie as those of ``like``
    do, where the grid's axes are parallel to them, else as radiologists expect a slice of the third
    axis to lie (columns to the left or backwards, rows backwards or down).

    Parameters
    ----------
    volume
        (X, Y, Z).
    like
        (2, 3), the orientation of the images that the volume was made from.

    Raises
    ------
    KetyError
        If the axes of the grid are not at right angles, which frames cannot say.
    """
    name = volume.source or "the volume"
    affine = LPS @ volume.affine
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    units = affine[:3, :3] / sizes
    skew = float(np.abs(units.T @ units - np.eye(3)).max())
    if skew > PARALLEL:
        raise KetyError(
            f"{name}: the axes of its grid are not at right angles (cosine {skew:.3g}), and a "
            "DICOM object cannot say so; resample it, or write it as NIfTI"
        )
    matched = None if like is None else _matched(units, like)
    (columns, rows), wanted = matched or _usual(units)
    third = 3 - columns - rows
    goals = np.stack([wanted[0], wanted[1], np.cross(wanted[0], wanted[1])])
    data, start = volume.data, affine[:3, 3].copy()
    steps = affine[:3, :3].copy()
    for axis, goal in zip((columns, rows, third), goals, strict=True):
        if steps[:, axis] @ goal < 0:
            start += steps[:, axis] * (data.shape[axis] - 1)
            steps[:, axis] *= -1
            data = np.flip(data, axis)
    pixels = np.transpose(data, (third, rows, columns))
    count = np.arange(pixels.shape[0], dtype=np.float64)
    return Frames(
        pixels,
        np.stack([steps[:, columns] / sizes[columns], steps[:, rows] / sizes[rows]]),
        (float(sizes[rows]), float(sizes[columns])),
        float(sizes[third]),
        start + count[:, None] * steps[:, third],
    )


def snapped(frames: Frames, orientation: Floats, spacing: Sequence[float], at: Floats) -> Frames:
    """Give frames the very numbers of other images wherever they agree to 0.001 mm.

    A grid that has been through a file of single precision then says exactly what the images say
    that it was made from, and viewers put both together.

    Parameters
    ----------
    frames
        What to correct; returned as it is where the grids differ.
    orientation, spacing
        Of the other images.
    at
        (M, 3), their positions.
    """
    _, rows, columns = frames.pixels.shape
    turn = np.abs(frames.orientation - orientation) * np.array(
        [[columns * frames.spacing[1]], [rows * frames.spacing[0]]]
    )
    stretch = np.abs(np.subtract(frames.spacing, spacing)) * (rows, columns)
    if max(turn.max(), stretch.max()) > GRID_TOLERANCE_MM:
        return frames
    distance = np.linalg.norm(frames.positions[:, None] - at[None], axis=-1)
    nearest = distance.argmin(axis=1)
    close = distance[np.arange(len(nearest)), nearest] <= GRID_TOLERANCE_MM
    positions = np.where(close[:, None], at[nearest], frames.positions)
    height, width = (float(size) for size in spacing)
    return replace(
        frames,
        orientation=np.array(orientation, dtype=np.float64),
        spacing=(height, width),
        positions=positions,
    )


def affine_of(
    orientation: ArrayLike,
    spacing: Sequence[float],
    positions: Floats,
    thickness: float,
    name: str = "the object",
) -> Floats:
    """The RAS affine of frames that lie in the order of ``positions``.

    Parameters
    ----------
    orientation
        (2, 3) or (6,), unit vectors of increasing column and row index, in LPS.
    spacing
        Between rows and between columns, in mm.
    positions
        (N, 3), centre of the first pixel of every frame, in LPS and mm.
    thickness
        Distance of a single frame to the next, in mm.

    Raises
    ------
    KetyError
        If the frames are not evenly spaced.
    """
    along, down = np.reshape(np.asarray(orientation, dtype=np.float64), (2, 3))
    affine = np.eye(4)
    affine[:3, 0] = along * spacing[1]
    affine[:3, 1] = down * spacing[0]
    affine[:3, 3] = positions[0]
    if len(positions) == 1:
        affine[:3, 2] = np.cross(along, down) * thickness
    else:
        step = (positions[-1] - positions[0]) / (len(positions) - 1)
        even = positions[0] + np.arange(len(positions))[:, None] * step
        worst = float(np.linalg.norm(positions - even, axis=1).max())
        if worst > 0.01 * float(np.linalg.norm(step)):
            raise KetyError(
                f"{name}: its frames are not evenly spaced (off by up to {worst:.3g} mm); resample "
                "it onto even slices"
            )
        affine[:3, 2] = step
    return LPS @ affine


def _matched(units: Floats, like: Floats) -> tuple[tuple[int, int], Floats] | None:
    """The axes parallel to the directions of ``like``, and these; None where there are none."""
    alike = np.abs(like @ units)
    columns, rows = (int(axis) for axis in alike.argmax(axis=1))
    if columns == rows or alike.max(axis=1).min() < 1 - PARALLEL:
        return None
    return (columns, rows), like


def _usual(units: Floats) -> tuple[tuple[int, int], Floats]:
    """In-plane axes and directions for slices of the third axis, as they are usually shown."""
    main = np.abs(units[:, :2]).argmax(axis=0)
    columns, rows = (0, 1) if main[0] <= main[1] else (1, 0)
    # To the left and backwards, but down instead of up.
    towards = np.array([1.0, 1.0, -1.0])
    wanted = []
    for axis in (columns, rows):
        sign = np.sign(units[main[axis], axis]) * towards[main[axis]]
        wanted.append(units[:, axis] * sign)
    return (columns, rows), np.stack(wanted)
