"""Computed tomography: from HU to enhancement, which is proportional to concentration."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.signal.baseline import Frames, check_series, resolve_frames


def enhancement(hu: ArrayLike, baseline: Frames) -> NDArray[Any]:
    """Enhancement of each voxel above the mean of its baseline frames.

    Iodine raises the attenuation in proportion to its concentration, by a factor that tissue and
    input share, so that tracer-kinetic models need no absolute concentration of CT data.

    Parameters
    ----------
    hu
        Shape (..., T), HU. Any real dtype and memory order; both are kept where they can be.
    baseline
        The frames before the contrast agent arrives: a slice, frame numbers from 0, or a boolean
        array (T,). :func:`kety.signal.baseline_frames` finds them.

    Returns
    -------
    ndarray of shape (..., T), HU above baseline
        float32 for float32 and for integers of up to 16 bits, else float64. A voxel with a NaN or
        infinite baseline frame is NaN throughout. Besides the result one volume is allocated.

    Raises
    ------
    KetyError
        If `hu` has no frame axis or is not real, or the baseline frames do not fit it.
    """
    data = check_series("hu", hu, "T")
    frames = resolve_frames(baseline, data.shape[-1])
    level = np.zeros(data.shape[:-1])
    with np.errstate(invalid="ignore"):
        for frame in frames:
            level += data[..., frame]
        level /= frames.size
        level = np.where(np.isfinite(level), level, np.nan)
        result = np.empty_like(data, dtype=np.result_type(data.dtype, np.float32))
        np.subtract(data, level.astype(result.dtype)[..., np.newaxis], out=result)
    return result
