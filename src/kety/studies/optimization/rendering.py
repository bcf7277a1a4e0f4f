"""Volume rendering by emission and absorption along parallel rays, in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Volume = NDArray[np.float32]
Image = NDArray[np.float32]
Colours = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""RGB (..., 3) of values (...)."""

AMBIENT, DIFFUSE, GLOSS = 0.30, 0.70, 0.22
SHININESS: Final = 24.0
DARK: Final = 1e-5
"""Share of a pixel's light below which a sample is left out."""
LIGHT: Final = (-0.45, -0.35, -0.82)
"""Towards the light, as (row, column, depth): above and left of the eye."""


@dataclass(frozen=True)
class View:
    """From where a volume is seen.

    Attributes
    ----------
    azimuth : float
        Degrees about the axis foot to head: 0 from the front, 90 from the patient's left.
    elevation : float
        Degrees above the horizontal.
    pixels : int
        Width and height of the image.
    extent : float
        Of the image and of the depth, mm.
    """

    azimuth: float
    elevation: float
    pixels: int = 260
    extent: float = 190.0

    def axes(self) -> NDArray[np.float64]:
        """Rows: the image's right, its up, and away from the eye, in RAS+ (x to the right)."""
        a, e = np.deg2rad(self.azimuth), np.deg2rad(self.elevation)
        # The eye looks back along this direction.
        toward = np.array([-np.sin(a) * np.cos(e), np.cos(a) * np.cos(e), np.sin(e)])
        right = np.cross(np.array([0.0, 0.0, 1.0]), toward)
        right /= np.linalg.norm(right)
        return np.stack([right, np.cross(toward, right), -toward])


def means_of_cubes(values: Volume, weights: Volume, edge: int) -> tuple[Volume, Volume]:
    """Weighted means over cubes of `edge` voxels, and the cubes' mean weight; incomplete cubes go.

    Cubes without weight are 0.
    """
    size = [n // edge for n in values.shape]

    def total(volume: Volume) -> Volume:
        whole = volume[tuple(slice(0, n * edge) for n in size)]
        parts = whole.reshape(size[0], edge, size[1], edge, size[2], edge)
        return np.asarray(parts.sum(axis=(1, 3, 5)), np.float32)

    weight = total(weights)
    sums = total(np.where(weights > 0, values * weights, np.float32(0.0)))
    means = np.divide(sums, weight, out=np.zeros_like(sums), where=weight > 0)
    return means, weight / np.float32(edge**3)


def seen(
    volume: Volume, affine: NDArray[np.float64], view: View, centre: NDArray[np.float64]
) -> Volume:
    """The volume on the view's own grid (row, column, depth), 0 outside; `centre` (3,) in mm."""
    from scipy.ndimage import affine_transform

    n, step = view.pixels, view.extent / view.pixels
    right, up, away = view.axes()
    # From indices of the view (row down, column, depth) to mm, and on to the voxels' indices.
    to_mm = np.stack([-up, right, away], axis=1) * step
    corner = centre - to_mm @ np.full(3, 0.5 * (n - 1))
    inverse = np.linalg.inv(affine[:3, :3])
    return np.asarray(
        affine_transform(
            volume,
            inverse @ to_mm,
            inverse @ (corner - affine[:3, 3]),
            output_shape=(n, n, n),
            output=np.float32,
            order=1,
            prefilter=False,
        )
    )


def cast(
    absorption: Volume,
    layers: Sequence[tuple[Volume, Colours]],
    step: float,
    smooth: float = 1.0,
) -> list[Image]:
    """RGB images (rows, columns, 3) of values seen through an absorbing medium, on black.

    Parameters
    ----------
    absorption : (rows, columns, depth) array
        1/mm, on the grid of a view; its gradient is the normal of the surface that is lit.
    layers : sequence of (values, colours)
        For each image the values (rows, columns, depth) that are coloured, and their colours.
    step : float
        Distance of samples, mm.
    smooth : float
        Standard deviation, in samples, of the filter under the gradient.
    """
    from scipy.ndimage import gaussian_filter

    opacity = -np.expm1(-absorption * np.float32(step))
    # What is left of the light when it has passed all samples before.
    passed = np.cumprod(1.0 - opacity, axis=2)
    emitted = opacity.copy()
    emitted[:, :, 1:] *= passed[:, :, :-1]
    lit = emitted > DARK
    share = emitted[lit][:, None]
    slope = [g[lit] for g in np.gradient(gaussian_filter(opacity, smooth))]
    length = np.sqrt(sum(g * g for g in slope)) + np.float32(1e-6)
    facing = -sum(g * np.float32(w) for g, w in zip(slope, LIGHT, strict=True)) / length
    facing = np.clip(facing, 0.0, 1.0)[:, None]
    bright = (np.float32(AMBIENT) + np.float32(DIFFUSE) * facing) * share
    gloss = np.float32(GLOSS) * facing ** np.float32(SHININESS) * share
    rows, columns, _ = absorption.shape
    pixel = np.nonzero(lit.reshape(rows * columns, -1))[0]
    images = []
    for values, colours in layers:
        shaded = colours(values[lit]) * bright + gloss
        sums = [np.bincount(pixel, channel, rows * columns) for channel in shaded.T]
        image = np.clip(np.stack(sums, axis=1), 0.0, 1.0).astype(np.float32)
        images.append(image.reshape(rows, columns, 3))
    return images
