"""Which voxels enhance, in a series that also moves."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError
from kety.inputs.movement import displacements
from kety.signal.baseline import (
    Frames,
    blocks,
    check_series,
    flat_mask,
    memory_order,
    resolve_frames,
)

Floats = NDArray[np.float64]

Z: Final = 4.5
"""Standard errors of noise by which the median of a stretch of frames has to rise."""
STRETCHES: Final[tuple[tuple[float, float], ...]] = ((0.0, 20.0), (10.0, 60.0), (0.0, np.inf))
"""s after the last frame before contrast agent: first pass, early and whole course."""
FEWEST: Final = 3
QUIET: Final = 0.2
"""Quantile of the voxels' noise that is free of motion."""
QUIET_BIAS: Final = 0.93
"""That quantile over the noise where nothing moves: estimates scatter by a tenth (66 frames)."""
UNSTEADY: Final = 1.4
"""Times the noise beyond which a voxel's differences from frame to frame show motion."""
JITTER: Final = 0.5
"""Share of such excess that a rise has to exceed."""
NEIGHBOURS: Final = 3
"""Of the eight around it in its slice that enhance where a voxel does; six fill a gap."""
FILLED: Final = 6
_MAD_TO_SD: Final = 1.4826
_OF_MEDIAN: Final = 1.2533
"""Standard error of a median over that of the mean."""
_SMOOTHING: Final = 0.7


def enhancement_mask(
    data: ArrayLike,
    times: ArrayLike,
    baseline: Frames,
    mask: ArrayLike | None = None,
) -> NDArray[np.bool_]:
    """Voxels whose level after the arrival of contrast agent exceeds that before.

    The rise is a difference of medians over frames, which single frames, spikes or jerks, do not
    move. It must exceed 4.5 standard errors of the noise, and on top of that what motion explains:

    - motion to and fro makes voxels at edges unsteady from frame to frame: half of what their
      differences exceed the noise by, in any direction and where organs move by themselves;
    - a displacement that stays raises or lowers them for good: how far the series is displaced in
      the plane (`kety.inputs.movement`) times the step of the CT number or signal to the brightest
      neighbour.

    At last single voxels go and single gaps are filled. Sensitivity and specificity, with and
    without motion, are in ``docs/masks.md``.

    Parameters
    ----------
    data
        (X, Y, Z, T), HU, signal or concentration.
    times
        (T,) s.
    baseline
        Frames before contrast agent, see `kety.signal.resolve_frames`.
    mask
        (X, Y, Z) voxels to look at, best the patient: the noise is theirs. All by default.

    Returns
    -------
    ndarray of bool (X, Y, Z)

    Raises
    ------
    KetyError
        If shapes disagree, or fewer than three frames follow the baseline.
    """
    series = check_series("data", data, "T")
    seconds = np.asarray(times, dtype=np.float64)
    if series.ndim != 4 or seconds.shape != series.shape[3:]:
        raise KetyError(
            f"data of shape {series.shape} and times of shape {seconds.shape}; expected "
            "(X, Y, Z, T) and (T,)"
        )
    before = resolve_frames(baseline, seconds.size)
    stretches = _stretches(seconds, int(before[-1]))
    order = memory_order(series)
    voxels = flat_mask(mask, series.shape[:3], order)
    rows = series.reshape(-1, seconds.size, order=order)
    noise = np.full(len(rows), np.nan)
    level = np.full(len(rows), np.nan)
    rises = np.full((len(stretches), len(rows)), np.nan)
    for block in blocks(voxels, seconds.size):
        values = rows[block].astype(np.float64)
        values = values[(finite := np.isfinite(values).all(axis=1))]
        inside = block[finite]
        steps = np.abs(np.diff(values, axis=1))
        noise[inside] = _MAD_TO_SD / np.sqrt(2.0) * np.median(steps, axis=1)
        level[inside] = np.median(values[:, before], axis=1)
        for rise, frames in zip(rises, stretches, strict=True):
            rise[inside] = np.median(values[:, frames], axis=1) - level[inside]
    known = noise[np.isfinite(noise)]
    if not known.size:
        raise KetyError("no voxel is finite at all frames, so none can be told to enhance")
    quiet = float(np.quantile(known, QUIET)) / QUIET_BIAS
    jitter = JITTER * np.maximum(noise - UNSTEADY * quiet, 0.0)
    step = _steps(level.reshape(series.shape[:3], order=order), quiet / np.sqrt(before.size))
    moved = displacements(series, before)
    found = np.zeros(len(rows), dtype=np.bool_)
    for rise, frames in zip(rises, stretches, strict=True):
        error = _OF_MEDIAN * quiet * np.sqrt(1.0 / frames.size + 1.0 / before.size)
        stays = float(np.hypot(*np.median(moved[frames], axis=0)))
        motion = np.fmax(jitter, stays * step.ravel(order=order))
        # Not finite: not enhancing.
        found |= np.nan_to_num(rise - motion, nan=-np.inf) > Z * error
    return _tidy(found.reshape(series.shape[:3], order=order))


def _stretches(times: Floats, last: int) -> list[NDArray[np.intp]]:
    after = times - times[last]
    found = [
        np.flatnonzero((after > begin) & (after <= end) & (np.arange(times.size) > last))
        for begin, end in STRETCHES
    ]
    found = [frames for frames in found if frames.size >= FEWEST]
    if not found:
        raise KetyError(
            f"{times.size - 1 - last} frames follow the {last + 1} before contrast agent; at least "
            f"{FEWEST} are needed to tell what enhances; give fewer baseline frames"
        )
    return found


def _steps(level: Floats, error: float) -> Floats:
    """How far the brightest neighbour in the slice lies above each voxel, noise aside."""
    from scipy import ndimage

    smooth: Any = ndimage.gaussian_filter(np.nan_to_num(level), (_SMOOTHING, _SMOOTHING, 0.0))
    highest: Any = ndimage.maximum_filter(smooth, size=(3, 3, 1))
    return np.asarray(np.maximum(highest - smooth - 2.0 * error, 0.0))


def _tidy(found: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy import ndimage

    around: Any = ndimage.convolve(found.astype(np.int16), np.ones((3, 3, 1), np.int16))
    around -= found
    return np.asarray((found & (around >= NEIGHBOURS)) | (around >= FILLED))
