"""What an estimate of the lesion phantom is worth: error, lesion contrast, width of a border."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError
from kety.simulate.lesion_layout import LABELS, SIZES, Lesion
from kety.simulate.lesions import LesionPhantom

RING: Final = (3, 4)
"""Distance (that of a king on a chessboard) of the surround from a lesion, in voxels."""
LEAST_CONTRAST: Final = 0.05
"""Contrast, relative to the surround, below which a lesion does not count as having one."""
NINETY: Final = 1.2815515655446004
"""The 90 % point of the normal distribution."""
REFINEMENTS: Final = 4

Map = NDArray[np.float64]


def relative_rms(
    estimate: ArrayLike, truth: ArrayLike, where: ArrayLike | None = None, *, absolute: bool = False
) -> float:
    """Root mean square of the relative error of a map.

    Parameters
    ----------
    estimate, truth
        Maps of one shape and unit.
    where
        Voxels that count, bool of that shape; all by default.
    absolute
        Take the error itself instead, in the unit of the maps: for the delay (s), whose zero is
        arbitrary.

    Returns
    -------
    float
        As a fraction of the truth, or in the maps' unit. Voxels without an estimate (NaN) are left
        out; NaN where none is left.

    Raises
    ------
    KetyError
        Where shapes differ, or the truth of a voxel is 0 and the error relative.
    """
    found, true = _maps(estimate, truth)
    chosen = np.ones(true.shape, np.bool_) if where is None else np.asarray(where, np.bool_)
    if chosen.shape != true.shape:
        raise KetyError(f"found voxels of shape {chosen.shape} for maps of shape {true.shape}")
    errors, true = (found - true)[chosen], true[chosen]
    if not absolute:
        if (true == 0.0).any():
            raise KetyError(
                "a relative error needs a truth that is not 0; choose voxels where it is not, or "
                "ask for the absolute error"
            )
        errors = errors / true
    errors = errors[np.isfinite(errors)]
    return float(np.sqrt(np.mean(errors**2))) if errors.size else float("nan")


def contrast_kept(
    estimate: ArrayLike, truth: ArrayLike, phantom: LesionPhantom, size: int
) -> float:
    """Share of the lesions' contrast that an estimate shows, mean over lesions of a size.

    The contrast of a lesion is its mean less that of its surround (`surround`). 1 is the truth;
    below 1 the lesions are washed out, above 1 they are overdrawn.

    Parameters
    ----------
    estimate, truth
        Maps (X, Y, Z) of one parameter.
    phantom
        The object that was estimated.
    size
        Voxels of the lesions that count: 1, 2 or 4.

    Returns
    -------
    float
        Lesions whose true contrast is below 5 % of their surround or that have no estimate (NaN)
        are left out; NaN where none is left.

    Raises
    ------
    KetyError
        Where a map is not on the phantom's grid or no lesion has that size.
    """
    found, true = _maps(estimate, truth, phantom)
    if size not in SIZES:
        raise KetyError(f"found lesions of {size} voxels; expected one of {SIZES}")
    kept = []
    lesions = phantom.lesion_mask()
    for lesion in phantom.lesions:
        if lesion.size != size:
            continue
        inside = tuple(np.transpose(lesion.voxels))
        around = _ring(phantom, lesion, lesions)
        outside = _mean(true[around])
        contrast = _mean(true[inside]) - outside
        if abs(contrast) >= LEAST_CONTRAST * abs(outside):
            kept.append((_mean(found[inside]) - _mean(found[around])) / contrast)
    return _mean(np.asarray(kept))


def surround(phantom: LesionPhantom, lesion: Lesion) -> NDArray[np.bool_]:
    """Surround (X, Y, Z) of a lesion: its ring of 3 to 4 voxels' distance in its slice.

    Only voxels of the tissue around it that are more than 2 voxels from every lesion.
    """
    ring = np.zeros(phantom.labels.shape, np.bool_)
    ring[_ring(phantom, lesion, phantom.lesion_mask())] = True
    return ring


def border_width(estimate: ArrayLike, phantom: LesionPhantom) -> float:
    """Width of the straight border of spleen and liver in a map, 10 to 90 %, in voxels.

    The map is averaged along the border. To the mean profile of 6 voxels on each side an error
    function is fitted by least squares: both levels, the place of the border and the standard
    deviation s of the blur are free. The width is 2.563 s.

    The truth, like any voxelwise estimate without noise, changes from one voxel to the next and
    gives 0: sampled at the voxels, an edge of s below 0.15 voxels (a width of 0.4) is a step.

    Parameters
    ----------
    estimate
        Map (X, Y, Z); voxels without an estimate (NaN) are left out of the mean.
    phantom
        The object that was estimated.

    Returns
    -------
    float
        In voxels; NaN where the profile is flat or a column of voxels has no estimate. 10.3 at
        most, which stands for wider ones too.

    Raises
    ------
    KetyError
        Where the map is not on the phantom's grid.
    """
    found, _ = _maps(estimate, estimate, phantom)
    border = phantom.border
    columns = found[border.position - border.reach : border.position + border.reach]
    columns = columns[:, slice(*border.rows)].reshape(2 * border.reach, -1)
    profile = np.array([_mean(column) for column in columns])
    if not np.isfinite(profile).all() or np.ptp(profile) <= 1e-9 * np.abs(profile).max():
        return float("nan")
    offsets: Map = np.arange(-border.reach, border.reach, dtype=np.float64) + 0.5
    return 2.0 * NINETY * _blur(offsets, profile)


def _blur(offsets: Map, profile: Map) -> float:
    """Standard deviation of the error function that fits a profile best."""
    from scipy.special import ndtr

    limit = 2.0 * float(offsets[-1] + 0.5) / 3.0
    widths, shifts = np.linspace(0.0, limit, 41), np.linspace(-2.0, 2.0, 41)
    centred = profile - profile.mean()
    best = 0.0
    for _ in range(REFINEMENTS):
        # The two levels are linear, hence eliminated; a width of 0 is a step.
        edges = ndtr((offsets - shifts[:, None]) / np.maximum(widths, 1e-9)[:, None, None])
        edges = edges - edges.mean(axis=2, keepdims=True)
        explained = (edges @ centred) ** 2 / np.maximum(np.sum(edges**2, axis=2), 1e-30)
        # Among fits that are alike to rounding the sharpest counts.
        alike = explained >= explained.max() - 1e-12 * np.sum(centred**2)
        at_width, at_shift = np.argwhere(alike)[0]
        best, shift = float(widths[at_width]), shifts[at_shift]
        step, stride = widths[1] - widths[0], shifts[1] - shifts[0]
        widths = np.linspace(max(best - step, 0.0), min(best + step, limit), 21)
        shifts = np.linspace(shift - stride, shift + stride, 21)
    return best


def _ring(
    phantom: LesionPhantom, lesion: Lesion, lesions: NDArray[np.bool_]
) -> tuple[NDArray[np.intp], ...]:
    """Indices of a lesion's surround."""
    voxels = np.asarray(lesion.voxels)
    z = int(voxels[0, 2])
    low = np.maximum(voxels[:, :2].min(axis=0) - RING[1], 0)
    high = voxels[:, :2].max(axis=0) + RING[1] + 1
    window = phantom.labels[low[0] : high[0], low[1] : high[1], z]
    x, y = np.nonzero(window == LABELS[lesion.surround])
    x, y = x + low[0], y + low[1]
    steps = np.abs(np.stack([x, y], axis=1)[:, None] - voxels[:, :2]).max(axis=2).min(axis=1)
    kept = (steps >= RING[0]) & (steps <= RING[1])
    for i in np.flatnonzero(kept):
        near = lesions[max(x[i] - 2, 0) : x[i] + 3, max(y[i] - 2, 0) : y[i] + 3, z]
        kept[i] = not near.any()
    return x[kept], y[kept], np.full(int(kept.sum()), z)


def _mean(values: Map) -> float:
    """Mean of what is finite; NaN where nothing is."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")


def _maps(
    estimate: ArrayLike, truth: ArrayLike, phantom: LesionPhantom | None = None
) -> tuple[Map, Map]:
    """Both maps as float64, or ``KetyError`` where they do not share a grid."""
    found, true = np.asarray(estimate, np.float64), np.asarray(truth, np.float64)
    grid = true.shape if phantom is None else phantom.labels.shape
    if found.shape != true.shape or found.shape != grid:
        raise KetyError(
            f"found an estimate of shape {found.shape} and a truth of shape {true.shape}; "
            f"expected both on the grid {grid}"
        )
    return found, true
