"""Image noise: Gaussian for CT, white or correlated in the plane, and Rician for MR magnitude."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError

SD_PER_FWHM = 1.0 / np.sqrt(8.0 * np.log(2.0))
KERNEL_REACH = 3.0
"""Where the correlation kernel is cut off, in standard deviations."""

Seed = int | np.random.SeedSequence | np.random.Generator


def gaussian(
    shape: Sequence[int],
    sd: float,
    *,
    seed: Seed = 0,
    fwhm: Sequence[float] = (),
) -> NDArray[np.float32]:
    """Zero-mean Gaussian noise, white or smoothed along its leading axes.

    CT noise is correlated between neighbouring pixels through the reconstruction filter. It is
    approximated here by a Gaussian kernel, rescaled so that every voxel keeps the standard
    deviation asked for, those at the border too.

    Parameters
    ----------
    shape
        Shape of the noise.
    sd
        Standard deviation, in the unit of the data (HU for CT); 0 or more.
    seed
        Integer, seed sequence or generator.
    fwhm
        Full width at half maximum of the kernel in voxels, for the first ``len(fwhm)`` axes;
        0 leaves an axis uncorrelated.

    Returns
    -------
    ndarray of float32, shape ``shape``

    Raises
    ------
    KetyError
        Where ``sd`` or a width is negative or not finite, or there are more widths than axes.
    """
    check_sd(sd)
    if len(fwhm) > len(shape):
        raise KetyError(f"found {len(fwhm)} widths for {len(shape)} axes; give one per axis")
    if not all(np.isfinite(width) and width >= 0.0 for width in fwhm):
        raise KetyError(f"found noise widths {tuple(fwhm)}; expected finite widths of 0 or more")
    kernels = [kernel(width) for width in fwhm]
    padded = list(shape)
    for axis, weights in enumerate(kernels):
        padded[axis] += weights.size - 1
    noise = np.random.default_rng(seed).standard_normal(padded, dtype=np.float32)
    for axis, weights in enumerate(kernels):
        noise = correlate(noise, weights, axis)
    noise *= np.float32(sd)
    return noise


def rician(magnitude: ArrayLike, sd: float, *, seed: Seed = 0) -> NDArray[np.float64]:
    """Return the magnitude of a complex MR signal with noise on both of its channels.

    Parameters
    ----------
    magnitude
        Noise-free magnitude, any shape, 0 or more.
    sd
        Standard deviation of the noise on each channel, in the unit of ``magnitude``.
    seed
        Integer, seed sequence or generator.

    Returns
    -------
    ndarray of float64, the shape of ``magnitude``
        Rician values ``sqrt((S + n1)^2 + n2^2)`` (Gudbjartsson and Patz, Magn Reson Med 1995,
        doi:10.1002/mrm.1910340618).

    Raises
    ------
    KetyError
        Where ``sd`` is negative or not finite, or a magnitude is negative.
    """
    check_sd(sd)
    signal = np.asarray(magnitude, dtype=np.float64)
    if (signal < 0.0).any():
        raise KetyError(
            f"found a magnitude of {signal.min():g}; expected 0 or more: Rician noise applies to "
            "the magnitude of an MR signal"
        )
    rng = np.random.default_rng(seed)
    in_phase = signal + sd * rng.standard_normal(signal.shape)
    return np.hypot(in_phase, sd * rng.standard_normal(signal.shape))


def check_sd(sd: float) -> None:
    """Raise ``KetyError`` unless ``sd`` is a usable standard deviation."""
    if not (np.isfinite(sd) and sd >= 0.0):
        raise KetyError(f"found a noise standard deviation of {sd}; expected a finite 0 or more")


def checked_noise(sd: ArrayLike, frames: int) -> NDArray[np.float64]:
    """Standard deviation of every frame (T,), of one for all or one for each.

    Raises
    ------
    KetyError
        If there is another number of them, or one is negative or not finite.
    """
    given = np.asarray(sd, dtype=np.float64)
    if given.ndim > 1 or given.size not in (1, frames):
        raise KetyError(
            f"found a noise of shape {given.shape} for {frames} frames; give one standard "
            "deviation for all, or one for each"
        )
    for one in given.ravel():
        check_sd(float(one))
    return np.broadcast_to(given, (frames,)).astype(np.float64)


def kernel(fwhm: float) -> NDArray[np.float32]:
    """Odd Gaussian weights (n,) of unit sum of squares, so that filtering keeps the variance."""
    width = fwhm * SD_PER_FWHM
    reach = int(np.ceil(KERNEL_REACH * width))
    if reach == 0:
        return np.ones(1, dtype=np.float32)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    return np.asarray(weights / np.sqrt(np.sum(weights**2)), dtype=np.float32)


def correlate(
    values: NDArray[np.float32], weights: NDArray[np.float32], axis: int
) -> NDArray[np.float32]:
    """Weighted sum of neighbours along ``axis``, which gets shorter by ``weights.size - 1``."""
    length = values.shape[axis] - weights.size + 1
    moved = np.moveaxis(values, axis, 0)
    total = weights[0] * moved[:length]
    for offset in range(1, weights.size):
        total += weights[offset] * moved[offset : offset + length]
    return np.moveaxis(total, 0, axis)
