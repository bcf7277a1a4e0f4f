"""Which frames precede the contrast agent, and the curve that shows when it arrives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError

Frames = slice | Sequence[int] | NDArray[Any]
"""Frames of a series: a slice, frame numbers from 0, or a boolean array over all frames."""

_FOOT: Final = 0.05
"""A frame this fraction of the enhancement above the baseline belongs to the upslope ..."""
_FOOT_LIMIT: Final = 0.20
"""... and one this fraction above it always does, however large the noise."""
_NOISE_FACTOR: Final = 3.0
_DETECTION_FACTOR: Final = 4.0
_ONSETS: Final = np.array([0.0, 0.25, 0.5, 0.75])
"""Arrivals tried between two frames, as fractions of their distance."""
_MAD_TO_SD: Final = 1.4826
_FEWEST_FOR_NOISE: Final = 10
_GIVE_FRAMES: Final = "give the baseline frames instead, for example slice(0, 4)"
_BLOCK_VALUES: Final = 1 << 18


def resolve_frames(frames: Frames, count: int) -> NDArray[np.intp]:
    """Frame numbers, checked and increasing, of any accepted description of frames.

    Parameters
    ----------
    frames
        A slice, a sequence of frame numbers (from 0), or a boolean array of shape ``(count,)``.
        ``slice(1, 5)`` skips the first frame, as series that start before the steady state need.
    count
        Number of frames of the series.

    Returns
    -------
    ndarray of shape (n,), n >= 1

    Raises
    ------
    KetyError
        If no frame is left, a frame lies outside the series or repeats, or the type is wrong.
    """
    if isinstance(frames, slice):
        numbers = np.arange(count, dtype=np.intp)[frames]
    else:
        given = np.asarray(frames)
        if given.ndim != 1:
            raise KetyError(
                f"baseline frames must be a slice or a one-dimensional list, found {frames!r}; "
                "for the first n frames give slice(0, n)"
            )
        if given.dtype == np.bool_:
            if given.size != count:
                raise KetyError(
                    f"the boolean baseline has {given.size} entries, the series {count} frames"
                )
            numbers = np.flatnonzero(given)
        elif given.size and not np.issubdtype(given.dtype, np.integer):
            raise KetyError(f"baseline frames must be whole numbers from 0, found {given.dtype}")
        else:
            numbers = np.sort(given.astype(np.intp))
    if numbers.size == 0:
        raise KetyError(f"no baseline frame: {frames!r} selects none of the {count} frames")
    if numbers[0] < 0 or numbers[-1] >= count:
        raise KetyError(
            f"baseline frames {numbers.min()} to {numbers.max()} lie outside the series; "
            f"frames run from 0 to {count - 1}"
        )
    if np.unique(numbers).size != numbers.size:
        raise KetyError(f"baseline frames repeat: {numbers.tolist()}; give each frame once")
    return np.sort(numbers)


def baseline_frames(
    curve: ArrayLike, times: ArrayLike, *, frames: Frames | None = None
) -> NDArray[np.intp]:
    """Find the frames before the contrast agent arrives in an artery or an enhancing region.

    The frames are walked back from the first that reaches half of the peak's enhancement to the
    foot of the upslope; then the arrival is that at which a constant followed by a linear or
    quadratic rise fits the curve up to half its peak best (piecewise regression after Cheong et
    al., Phys Med Biol 2003;48:N83, doi:10.1088/0031-9155/48/5/403). A frame counts as baseline
    only if both say so.

    Parameters
    ----------
    curve
        Shape (T,): signal, HU or concentration of an artery, or of the mean enhancing tissue
        (:func:`enhancing_curve`). Any unit; contrast agent must raise it.
    times
        Shape (T,), s, strictly increasing; any spacing.
    frames
        Where given, these frames are checked and returned, and nothing is searched.

    Returns
    -------
    ndarray of shape (n,), n >= 1
        Frame numbers 0 to n - 1, or the given ones.

    Raises
    ------
    KetyError
        If the shapes disagree, times do not increase, the curve holds NaN or does not rise above
        its noise, or contrast agent is there from the first frame on.
    """
    values = np.asarray(curve, dtype=np.float64)
    seconds = np.asarray(times, dtype=np.float64)
    if values.ndim != 1 or seconds.shape != values.shape:
        raise KetyError(
            f"curve and times must have one shape (T,), found {values.shape} and {seconds.shape}"
        )
    if frames is not None:
        return resolve_frames(frames, values.size)
    if values.size < 2:
        raise KetyError(f"{values.size} frame(s) cannot show an arrival; {_GIVE_FRAMES}")
    if not np.all(np.diff(seconds) > 0):
        raise KetyError("times must be finite and strictly increasing (s)")
    if not np.all(np.isfinite(values)):
        bad = int(np.count_nonzero(~np.isfinite(values)))
        raise KetyError(f"the curve has {bad} NaN or infinite frame(s); {_GIVE_FRAMES}")

    peak = int(np.argmax(values))
    foot = _foot(values, peak)
    if foot == 0:
        raise KetyError(
            f"the curve is highest at, or rising from, its first frame (t = {seconds[0]:g} s): no "
            f"frame precedes the contrast agent, or nothing enhances; {_GIVE_FRAMES}, or give a "
            "curve that starts earlier"
        )
    level = float(np.median(values[:foot]))
    half = _first_reaching(values, peak, 0.5 * (level + float(values[peak])))
    _check_enhancement(values, half, level)
    return np.arange(_arrival(values[: half + 1], seconds[: half + 1], foot), dtype=np.intp)


def _check_enhancement(values: NDArray[np.float64], half: int, level: float) -> None:
    """Refuse a curve that is noise alone, or that ends below the level it starts from."""
    highest = float(values.max())
    # Short series have too few smooth frames for a noise estimate.
    noise = 0.0
    if values.size >= _FEWEST_FOR_NOISE:
        noise = _MAD_TO_SD * float(np.median(np.abs(np.diff(values)))) / np.sqrt(2.0)
    # A bolus passes its median by far; a plateau stays far above the level before it.
    height = max(highest - float(np.median(values)), float(np.median(values[half:])) - level)
    if height <= _DETECTION_FACTOR * noise:
        raise KetyError(
            f"the curve does not enhance: it rises by {height:g}, its noise is about {noise:g}; "
            f"give the curve of an artery, or {_GIVE_FRAMES}"
        )
    after = values[int(np.argmax(values)) :]
    if after.size >= 3 and np.median(after) < level - _FOOT_LIMIT * (highest - level):
        raise KetyError(
            "after its peak the curve falls below its first frames, so contrast agent had "
            f"arrived before the first frame, or the signal drifts; {_GIVE_FRAMES}"
        )


def _first_reaching(values: NDArray[np.float64], peak: int, threshold: float) -> int:
    return int(np.argmax(values[: peak + 1] >= threshold))


def _foot(values: NDArray[np.float64], peak: int) -> int:
    """Number of frames before the upslope; 0 if there are none."""
    # Halfway up from the lowest frame, not from a median that a long plateau would raise.
    count = _first_reaching(values, peak, 0.5 * float(values[: peak + 1].min() + values[peak]))
    while count > 0:
        before = values[:count]
        level = float(np.median(before))
        height = float(values[peak]) - level
        # Of fewer frames the upslope can be half, and would pass for noise.
        noise = _MAD_TO_SD * float(np.median(np.abs(before - level))) if count > 3 else 0.0
        threshold = level + min(max(_NOISE_FACTOR * noise, _FOOT * height), _FOOT_LIMIT * height)
        foot = _first_reaching(values, peak, level + 0.5 * height)
        while foot > 0 and values[foot - 1] > threshold:
            foot -= 1
        if foot >= count:
            break
        # Frames of the upslope raised the level: find the foot again without them.
        count = foot
    return count


def _arrival(values: NDArray[np.float64], seconds: NDArray[np.float64], foot: int) -> int:
    """Number of baseline frames, at most `foot`, by the constant and the rise that fit best."""
    centred = values - values.mean()
    costs = np.full(foot, np.inf)
    for last in range(foot):
        gap = seconds[last + 1] - seconds[last]
        for onset in seconds[last] + gap * _ONSETS:
            for power in (1, 2):
                rise = np.maximum(seconds - onset, 0.0) ** power
                rise -= rise.mean()
                cost = centred @ centred - (rise @ centred) ** 2 / (rise @ rise)
                costs[last] = min(costs[last], max(cost, 0.0))
    # Noise shifts the best arrival; of those that fit about as well the latest keeps most frames.
    # Two residual variances gave nearly the baseline error of known frames at any noise.
    least = costs.min()
    return int(np.flatnonzero(costs <= least + 2.0 * least / max(values.size - 3, 1))[-1]) + 1


def enhancing_curve(
    data: ArrayLike, *, mask: ArrayLike | None = None, fraction: float = 0.01
) -> NDArray[np.float64]:
    """Mean curve of the strongest enhancing voxels, to find the arrival without an input function.

    Voxels are ranked by rise² / total variation, where the rise is the peak of the running mean of
    three frames above the mean of the first two: a bolus rises once, whereas motion and noise vary
    in every frame.

    Parameters
    ----------
    data
        Shape (..., T), any real dtype and memory order. Worked through in blocks.
    mask
        Shape (...): voxels to look at; all by default.
    fraction
        Share of the finite voxels to average, in (0, 1]; at least one voxel is taken.

    Returns
    -------
    ndarray of shape (T,), float64, in the unit of `data`

    Raises
    ------
    KetyError
        If shapes disagree, there are fewer than 4 frames, or no finite voxel rises.
    """
    series = check_series("data", data, "T")
    if series.shape[-1] < 4 or series.size == 0:
        raise KetyError(f"data must have shape (..., T) with T >= 4 frames, found {series.shape}")
    if not 0.0 < fraction <= 1.0:
        raise KetyError(f"fraction must lie in (0, 1], found {fraction!r}")
    order = memory_order(series)
    curves = series.reshape(-1, series.shape[-1], order=order)
    voxels = flat_mask(mask, series.shape[:-1], order)
    scores = np.empty(voxels.size, dtype=np.float32)
    for part, values in columns(curves, voxels):
        scores[part] = _scores(values)
    finite = int(np.count_nonzero(np.isfinite(scores)))
    rising = int(np.count_nonzero(scores > 0.0))
    if rising == 0:
        raise KetyError(
            f"none of {scores.size} voxels enhances ({finite} are finite); {_GIVE_FRAMES}"
        )
    count = min(rising, max(1, round(fraction * finite)))
    strongest = voxels[_highest(scores, count)]
    total = np.zeros(series.shape[-1])
    for block in blocks(strongest, series.shape[-1]):
        total += curves[block].sum(axis=0, dtype=np.float64)
    return total / count


def _scores(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rise² / total variation of each curve (T, B); -inf where it is not finite or never rises."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        # Sums of three whole numbers are exact in single precision, unlike their means.
        smooth = values[1:-2] + values[2:-1]
        smooth += values[3:]
        rise = smooth.max(axis=0) / np.float32(3.0) - values[:2].mean(axis=0)
        steps = values[1:] - values[:-1]
        variation = np.abs(steps, out=steps).sum(axis=0)
        score = rise * np.abs(rise) / variation
    good: NDArray[np.bool_] = np.isfinite(score) & (rise > 0.0)
    least = np.where(np.isfinite(variation), np.float32(0.0), np.float32(-np.inf))
    return np.where(good, score, least)


def _highest(scores: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Increasing numbers of the `count` highest scores; of equal ones the first."""
    least = np.partition(scores, scores.size - count)[scores.size - count]
    chosen = scores > least
    equal = np.flatnonzero(scores == least)
    chosen[equal[: count - int(np.count_nonzero(chosen))]] = True
    return np.flatnonzero(chosen)


def check_series(name: str, data: ArrayLike, axis: str) -> NDArray[Any]:
    """Real data with at least one axis, the last of which runs over `axis`."""
    values = np.asarray(data)
    if values.ndim < 1 or values.dtype.kind not in "iuf":
        raise KetyError(
            f"{name} must be real numbers of shape (..., {axis}), "
            f"found {values.dtype} of shape {values.shape}"
        )
    return values


def mean_of_frames(data: NDArray[Any], frames: NDArray[np.intp]) -> NDArray[np.float64]:
    """Mean (...) of some frames of a series (..., T), in its memory order."""
    mean = np.zeros_like(data[..., 0], dtype=np.float64)
    with np.errstate(invalid="ignore"):
        for frame in frames:
            mean += data[..., frame]
        mean /= frames.size
    return mean


def memory_order(data: NDArray[Any]) -> Any:
    """'F' where flattening the leading axes in Fortran order needs no copy, else 'C'."""
    return "F" if data.flags.f_contiguous and not data.flags.c_contiguous else "C"


def flat_mask(mask: ArrayLike | None, shape: tuple[int, ...], order: Any) -> NDArray[np.intp]:
    """Flat voxel numbers inside `mask` (all without one); `order` as the data are flattened.

    Raises
    ------
    KetyError
        If the mask has another shape, or no voxel lies inside.
    """
    if mask is None:
        return np.arange(int(np.prod(shape, dtype=np.int64)), dtype=np.intp)
    inside = np.asarray(mask)
    if inside.shape != shape:
        raise KetyError(
            f"the mask has shape {inside.shape}, the series {shape}; they must share one grid"
        )
    if inside.dtype != np.bool_:
        inside = inside != 0
    voxels: NDArray[np.intp] = np.flatnonzero(inside.reshape(-1, order=order))
    if voxels.size == 0:
        raise KetyError("the mask is empty: no voxel lies inside")
    return voxels


def blocks(voxels: NDArray[np.intp], width: int) -> Iterator[NDArray[np.intp]]:
    """Runs of `voxels` so small that a float64 block of `width` values each stays in cache."""
    size = max(1, _BLOCK_VALUES // width)
    for start in range(0, voxels.size, size):
        yield voxels[start : start + size]


def columns(
    flat: NDArray[Any], voxels: NDArray[np.intp]
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Blocks of `voxels`, rows of `flat` (N, T), frame by frame: a slice of them, and their values.

    The values (T, B) are in one buffer, overwritten by the next block, small enough for the cache.
    """
    frames = flat.shape[1]
    size = min(max(1, _BLOCK_VALUES // frames), voxels.size)
    buffer = np.empty((frames, size), dtype=np.float32)
    for first in range(0, voxels.size, size):
        rows = voxels[first : first + size]
        whole = rows[-1] - rows[0] == rows.size - 1
        values = buffer[:, : rows.size]
        with np.errstate(over="ignore"):
            values[:] = (flat[rows[0] : rows[-1] + 1] if whole else flat[rows]).T
        yield slice(first, first + rows.size), values
