"""How far the frames of a series are displaced against those before contrast agent."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_SLICES: Final = 5
_SMOOTHING: Final = 1.5
"""Standard deviation of the smoothing in voxels: the linear estimate holds about as far."""
_EDGES: Final = 0.10
"""Share of the voxels, those of the steepest grey levels, that tell of a displacement."""
_FEWEST: Final = 30
_EXPLAINED: Final = 0.2


def displacements(data: NDArray[Any], baseline: NDArray[np.intp]) -> NDArray[np.float64]:
    """Estimate the displacement of every frame in the plane, in voxels.

    The differences to the mean frame before contrast agent are explained by its gradients, by
    least squares that give outliers, such as enhancing voxels, little weight (Lucas and Kanade,
    IJCAI 1981). One displacement for all slices: enough to say that a series moves, not to undo it.

    Parameters
    ----------
    data
        (X, Y, Z, T), any unit.
    baseline
        Frames before contrast agent.

    Returns
    -------
    ndarray, shape (T, 2)
        Along x and y. Displacements beyond about 2 voxels are underestimated; 0 where a
        displacement explains less than a fifth of a frame's difference.
    """
    from scipy.ndimage import gaussian_filter

    x, y, z, frames = data.shape
    result = np.zeros((frames, 2))
    if x < 8 or y < 8:
        return result
    slices = np.unique(np.linspace(0, z - 1, min(z, _SLICES)).round().astype(int))
    sigma = (_SMOOTHING, _SMOOTHING, 0.0)

    def smooth(frame: int) -> NDArray[np.float64]:
        volume = np.asarray(data[:, :, slices, frame], dtype=np.float64)
        return np.asarray(gaussian_filter(np.nan_to_num(volume), sigma))

    mean = np.mean([smooth(int(frame)) for frame in baseline], axis=0)
    along_x, along_y = np.gradient(mean, axis=(0, 1))
    steep = along_x**2 + along_y**2
    steep[[0, -1]], steep[:, [0, -1]] = 0.0, 0.0
    chosen = steep > float(np.quantile(steep, 1.0 - _EDGES))
    if np.count_nonzero(chosen) < _FEWEST:
        return result
    slopes = np.stack([-along_x[chosen], -along_y[chosen], np.ones(np.count_nonzero(chosen))], 1)
    for frame in range(frames):
        change = (smooth(frame) - mean)[chosen]
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
        if weights @ left**2 < (1.0 - _EXPLAINED) * (weights @ centred**2):
            result[frame] = shift[:2]
    return result
