"""The same voxels with their axes in another order and direction; nothing is interpolated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from kety.series import GRID_TOLERANCE_MM, Series, Volume


def turned_to(volume: Volume, like: Series | Volume) -> Volume:
    """Exchange and reverse axes of a volume so that they run as those of another image.

    A DICOM object says in which direction its rows, columns and frames run, and that need not be
    how the image lies that it was made from.

    Parameters
    ----------
    volume
        (X, Y, Z) or (X, Y, Z, N).
    like
        Whose axes.

    Returns
    -------
    Volume
        As it was where that does not bring both onto one grid.
    """
    steps = np.linalg.inv(like.affine[:3, :3]) @ volume.affine[:3, :3]
    axes = np.abs(steps).argmax(axis=1)  # of the volume, for every axis of the other
    if sorted(axes) != [0, 1, 2]:
        return volume
    data = np.transpose(volume.data, (*axes, *range(3, volume.data.ndim)))
    affine = volume.affine[:, [*axes, 3]].copy()
    for axis, other in enumerate(axes):
        if steps[axis, other] < 0:
            data = np.flip(data, axis)
            affine[:3, 3] += affine[:3, axis] * (data.shape[axis] - 1)
            affine[:3, axis] *= -1
    same = data.shape[:3] == like.shape
    if not same or np.abs(affine - like.affine).max() > GRID_TOLERANCE_MM:
        return volume
    return replace(volume, data=data, affine=affine)
