"""Temporal denoising: what the slow cosines hold of a curve is kept, the rest dropped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError
from kety.signal.baseline import blocks, check_series, flat_mask, memory_order

Spacing = Literal["frame", "time"]

_FEWEST: Final = 8
"""Frames below which a quarter of the coefficients says too little about the noise."""
_CERTAINTY: Final = 0.999
"""A voxel chooses the number of coefficients if noise alone varied less than it this often."""


def dct_denoise(
    curves: ArrayLike,
    times: ArrayLike,
    keep: int | Literal["auto"] = "auto",
    *,
    start: int = 0,
    mask: ArrayLike | None = None,
    spacing: Spacing = "frame",
) -> NDArray[Any]:
    """Project every curve on its first ``keep`` cosines: a truncated discrete cosine transform.

    The multi-task estimation study of abdominal tumours applies such "DCT-based temporal
    denoising" before it estimates, against residual motion and the noise of low-dose CT; it says
    neither how many coefficients it keeps nor how its frames, 2.5 s and later 10 s apart, enter.

    With ``spacing="frame"`` the cosines run over the number of the frame (DCT-II), as if frames
    were equally spaced; with ``"time"`` they run over the real time and are made orthonormal over
    the frames (equal on a uniform grid). The former is the default, because frames are dense where
    curves change: on tissue curves of a Parker input with a peak of 300 HU, at 2.5 s and then
    10 s, it left an error of 3.8 instead of 4.8 HU of 6 HU of noise, and of 6.5 instead of 7.8 of
    12 HU; only on a protocol that samples the bolus coarsely (5 s) were real times better, by 2
    to 5 %.

    Warning
    -------
    The noise of a denoised curve is correlated: of T frames only `effective_frames` are
    independent. Standard errors that count T frames are too small by a factor of
    sqrt((T - p) / (keep - p)) for p parameters, at least sqrt(T / keep), tests for enhancement
    pass too easily, and the bias of what was cut off is in neither. Nor does a fit gain anything:
    least squares already uses white noise in the best way. On simulated abdomens (66 frames, 6 and
    12 HU) the median error of Ktrans went from 6.6 to 6.9 % and from 11.9 to 12.6 % with
    ``"auto"``, to 35 % with 8 coefficients, which lose the bolus, and one standard error covered
    the truth in 38 instead of 68 %. Denoise to look at curves, to compare curves, to repeat what
    others did, or where the noise is motion.

    Parameters
    ----------
    curves
        Shape (..., T), any unit, real dtype and memory order; worked through in blocks. A curve
        with a frame that is not finite becomes NaN and does not affect others.
    times
        Shape (T,), s, strictly increasing.
    keep
        Coefficients kept, 1 to T - start; T - start changes nothing. ``"auto"``: one number for
        all voxels, see `choose_keep`.
    start
        Frames before this one are returned as they are.
    mask
        Shape (...): voxels to denoise; all by default. The others are returned as they are.
    spacing
        ``"frame"`` or ``"time"``.

    Returns
    -------
    ndarray of shape (..., T), in the unit of `curves`
        Their floating-point type; float32 for integers of up to 16 bits, else float64.

    Raises
    ------
    KetyError
        If shapes disagree, times do not increase, fewer than 2 frames are to be transformed (8
        for ``"auto"``), the mask is empty, or ``keep`` is out of range.
    """
    data, basis = _checked(curves, times, start, spacing)
    frames = len(basis)
    if isinstance(keep, str):
        if keep != "auto":
            raise KetyError(f"keep is {keep!r}; expected 'auto' or a whole number 1 to {frames}")
        keep = choose_keep(data, times, start=start, mask=mask, spacing=spacing)
    effective_frames(keep, data.shape[-1], start=start)
    order = memory_order(data)
    rows = data.reshape(-1, data.shape[-1], order=order)
    result = np.empty(data.shape, np.result_type(data.dtype, np.float32), order=order)
    np.copyto(result, data)
    flat = result.reshape(-1, data.shape[-1], order=order)
    kept = basis[:, :keep]
    for block in blocks(flat_mask(mask, data.shape[:-1], order), data.shape[-1]):
        flat[block, start:] = (_finite(rows[block, start:]) @ kept) @ kept.T
    return result


def choose_keep(
    curves: ArrayLike,
    times: ArrayLike,
    *,
    start: int = 0,
    mask: ArrayLike | None = None,
    spacing: Spacing = "frame",
) -> int:
    """The number of coefficients that is expected to bring curves closest to the truth.

    It minimises Stein's unbiased estimate of the squared error, summed over voxels: the energy of
    the coefficients dropped, plus twice the noise of those kept. The noise comes from the highest
    quarter of the coefficients. Only voxels count whose lower coefficients (the first quarter
    without the mean) exceed their higher ones (the third quarter) as noise does in one of 1000
    voxels, or air and fat would outvote what enhances; without such voxels all count.

    On simulated abdomens (6 and 12 HU of noise, 66 frames) it kept 21 and 19 coefficients, where
    the best for all enhancing voxels were 20 and 14 (4.4 against 4.4 HU of error, 8.6 against
    8.3 HU). Generalised cross-validation kept too few on short series.

    Parameters
    ----------
    curves, times, start, mask, spacing
        As of `dct_denoise`. Voxels that are not finite are left out.

    Returns
    -------
    int
        1 to T - start.

    Raises
    ------
    KetyError
        As `dct_denoise`, if fewer than 8 frames are to be transformed, or no voxel is finite.
    """
    from scipy.special import fdtri

    data, basis = _checked(curves, times, start, spacing)
    frames = len(basis)
    if frames < _FEWEST:
        raise KetyError(
            f"{frames} frames are too few to choose the number of coefficients from; give keep, "
            f"1 to {frames}"
        )
    quarter = frames // 4
    least = float(fdtri(quarter, quarter, _CERTAINTY))
    every, telling = np.zeros(frames), np.zeros(frames)
    voxels = 0
    for energy in _energies(data, basis, start, mask):
        voxels += len(energy)
        every += energy.sum(axis=0)
        low = energy[:, 1 : quarter + 1].sum(axis=1)
        # Not the highest quarter: in voxels that were chosen by it, it would be too low.
        high = energy[:, -2 * quarter : -quarter].sum(axis=1)
        telling += energy[low > least * high].sum(axis=0)
    if not voxels:
        raise KetyError("no voxel is finite at all frames; there is nothing to denoise")
    energies = telling if telling.any() else every
    dropped = np.cumsum(energies[::-1])[::-1] - energies
    noise = energies[-quarter:].mean()
    return 1 + int(np.argmin(dropped + 2.0 * noise * np.arange(1, frames + 1)))


def effective_frames(keep: int, frames: int, *, start: int = 0) -> int:
    """How many of a denoised curve's frames are independent.

    Its residual has that number of degrees of freedom, less the parameters.

    Parameters
    ----------
    keep, start
        As of `dct_denoise`.
    frames
        T.

    Returns
    -------
    int
        ``keep``, and one for each frame before ``start``.

    Raises
    ------
    KetyError
        If ``keep`` is not a whole number from 1 to ``frames - start``.
    """
    whole = isinstance(keep, int | np.integer) and not isinstance(keep, bool)
    if not whole or not 1 <= keep <= frames - start:
        raise KetyError(
            f"keep is {keep!r}; of {frames - start} frames 1 to {frames - start} coefficients can "
            "be kept"
        )
    return int(keep) + start


def _checked(
    curves: ArrayLike, times: ArrayLike, start: int, spacing: str
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """The curves, and the orthonormal cosines (F, F), one a column, over their last F frames."""
    data = check_series("curves", curves, "T")
    seconds = np.asarray(times, dtype=np.float64)
    if seconds.shape != data.shape[-1:]:
        raise KetyError(
            f"times have shape {seconds.shape}, but the curves {data.shape[-1]} frames; give one "
            "time for each frame"
        )
    if not (np.isfinite(seconds).all() and (np.diff(seconds) > 0.0).all()):
        raise KetyError("times must be finite and strictly increasing (s)")
    if not 0 <= start <= seconds.size - 2:
        raise KetyError(
            f"start is {start}; of {seconds.size} frames at least 2 must be left to denoise"
        )
    if spacing not in ("frame", "time"):
        raise KetyError(f"unknown spacing {spacing!r}; valid: frame, time")
    return data, _cosines(seconds[start:], spacing)


def _cosines(seconds: NDArray[np.float64], spacing: str) -> NDArray[np.float64]:
    frames = seconds.size
    if spacing == "frame":
        from scipy.fft import dct

        return np.ascontiguousarray(dct(np.eye(frames), axis=1, norm="ortho"))
    # Half an interval beyond the first and the last frame, which makes it the DCT-II where frames
    # are equally spaced.
    steps = np.diff(seconds)
    first, last = seconds[0] - steps[0] / 2, seconds[-1] + steps[-1] / 2
    phase = np.pi * (seconds - first) / (last - first)
    return np.linalg.qr(np.cos(np.outer(phase, np.arange(frames))))[0]


def _energies(
    data: NDArray[Any], basis: NDArray[np.float64], start: int, mask: ArrayLike | None
) -> Iterator[NDArray[np.float64]]:
    """Squared coefficients (B, F) of the finite voxels, block by block."""
    order = memory_order(data)
    rows = data.reshape(-1, data.shape[-1], order=order)
    for block in blocks(flat_mask(mask, data.shape[:-1], order), data.shape[-1]):
        values = _finite(rows[block, start:])
        yield (values[np.isfinite(values[:, 0])] @ basis) ** 2


def _finite(rows: NDArray[Any]) -> NDArray[np.float64]:
    """Rows as float64, those with a frame that is not finite NaN throughout."""
    values = rows.astype(np.float64)
    values[~np.isfinite(values).all(axis=1)] = np.nan
    return values
