"""How far the frames of a series are displaced against those before contrast agent."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_SLICES: Final = 5
_SIDE: Final = 200
"""Voxels along the shorter side from twice which on an image is looked at in blocks: what matters
is how many mm a patient moves, not how small the voxels are."""
_SMOOTHING: Final = 1.5
"""Standard deviation of the smoothing in voxels: the linear estimate holds about as far."""
_EDGES: Final = 0.10
"""Share of the voxels, those of the steepest grey levels, that tell of a displacement."""
_FEWEST, _MOST = 30, 20_000
_EXPLAINED: Final = 0.2


def displacements(data: NDArray[Any], baseline: NDArray[np.intp]) -> NDArray[np.float64]:
    """Estimate the displacement of every frame in the plane, in voxels.

    The differences to the mean frame before contrast agent are explained by its gradients, by
    least squares that give outliers, such as enhancing voxels, little weight (Lucas and Kanade,
    IJCAI 1981). One displacement for all slices: enough to say that a series moves, not to undo it.
    Images of 400 voxels and more are looked at in blocks of 2 x 2, 3 x 3 and so on.

    Parameters
    ----------
    data
        (X, Y, Z, T), any unit.
    baseline
        Frames before contrast agent.

    Returns
    -------
    ndarray, shape (T, 2)
        Along x and y. Displacements beyond about 2 voxels (or blocks) are underestimated; 0 where a
        displacement explains less than a fifth of a frame's difference.
    """
    from scipy.ndimage import gaussian_filter

    x, y, z, frames = data.shape
    still = np.zeros((frames, 2))
    if x < 8 or y < 8:
        return still
    slices = np.unique(np.linspace(0, z - 1, min(z, _SLICES)).round().astype(int))
    sigma = (_SMOOTHING, _SMOOTHING, 0.0)
    side = max(1, min(x, y) // _SIDE)

    def smooth(frame: int) -> NDArray[np.float32]:
        volume = _blocks(np.asarray(data[:, :, slices, frame], dtype=np.float32), side)
        return np.asarray(gaussian_filter(np.nan_to_num(volume, copy=False), sigma))

    before = {int(frame): smooth(int(frame)) for frame in baseline}
    mean = np.stack(list(before.values())).mean(axis=0, dtype=np.float64)
    along_x, along_y = np.gradient(mean, axis=(0, 1))
    steep = along_x**2 + along_y**2
    steep[[0, -1]], steep[:, [0, -1]] = 0.0, 0.0
    edges = np.flatnonzero(steep > float(np.quantile(steep, 1.0 - _EDGES)))
    if edges.size < _FEWEST:
        return still
    chosen = np.unravel_index(edges[:: -(-edges.size // _MOST)], steep.shape)
    slopes = np.stack([-along_x[chosen], -along_y[chosen], np.ones(chosen[0].size)], axis=1)

    def displacement(frame: int) -> NDArray[np.float64]:
        now = before[frame] if frame in before else smooth(frame)
        change = now[chosen] - mean[chosen]
        weights = np.ones(change.size)
        shift = np.zeros(3)
        for _ in range(5):
            weighted = slopes * weights[:, None]
            shift = np.linalg.lstsq(weighted.T @ slopes, weighted.T @ change, rcond=None)[0]
            rest = np.abs(change - slopes @ shift)
            scale = max(1.5 * float(np.median(rest)), 1e-12)
            weights = 1.0 / (1.0 + (rest / scale) ** 2)
        left = change - slopes @ shift
        centred = change - np.average(change, weights=weights)
        # Where enhancement changes an image without edges, its gradients explain nothing.
        explained = weights @ left**2 < (1.0 - _EXPLAINED) * (weights @ centred**2)
        return shift[:2] * side if explained else np.zeros(2)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return np.stack(list(pool.map(displacement, range(frames))))


def _blocks(volume: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Means of blocks in the plane; what is left at the end of a side is left out."""
    if side == 1:
        return volume
    x, y = (length // side * side for length in volume.shape[:2])
    parts = [volume[i:x:side, j:y:side] for i in range(side) for j in range(side)]
    return np.asarray(sum(parts[1:], parts[0]) / np.float32(side**2), dtype=np.float32)
