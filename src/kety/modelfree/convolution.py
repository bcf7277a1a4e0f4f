"""Convolution with a sampled input as a matrix, and its truncated inverses.

Tissue is C(t) = ∫ Ca(u) k(t - u) du with the impulse response k = F R(t), flow times residue
function. Both Ca and k run in straight lines between grid points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEAST_SINGULAR: Final = 0.01
"""Components weaker than this share of the strongest are not tried: they are noise in any scan."""
GIVEN_UP: Final = 2.0
"""Times the limit; of 2,175 voxels at 6 HU three would have come back below it later."""
_CROWDED: Final = 0.75
LONGEST_MEAN: Final = 240
"""Points over which the oscillation index is a mean: two minutes and their padding at 1 s. Longer
means are diluted by the end of a response, where nothing oscillates, and let noise pass."""


def standard_matrix(ca: Floats, step: float) -> Floats:
    """The causal matrix (n, n) of an input (n,) sampled every ``step`` s.

    Exact for an input and an impulse response that are straight between grid points (Sourbron et
    al., Phys Med Biol 2007;52:429, doi:10.1088/0031-9155/52/2/009).
    """
    n = ca.size
    lag = np.arange(n)[:, None] - np.arange(n)
    padded = np.concatenate([[0.0], ca, [0.0]])
    inner = (padded[:-2] + 4 * padded[1:-1] + padded[2:]) / 6
    matrix = np.where(lag > 0, inner[np.maximum(lag, 0)], 0.0)
    np.fill_diagonal(matrix, (2 * ca[0] + ca[1]) / 6)
    matrix[1:, 0] = (2 * ca[1:] + ca[:-1]) / 6
    matrix[0] = 0.0  # nothing has entered at the first grid point
    return np.asarray(step * matrix, dtype=np.float64)


def circulant_column(ca: Floats, step: float) -> Floats:
    """First column (2n,) of the circulant matrix of an input (n,) padded to twice its length."""
    padded = np.concatenate([ca, np.zeros(ca.size)])
    column: Floats = step * (np.roll(padded, 1) + 4 * padded + np.roll(padded, -1)) / 6
    return column


def truncated_inverse(matrix: Floats, threshold: float) -> Floats:
    """Pseudo-inverse without singular values below ``threshold`` times the largest."""
    left, singular, right = np.linalg.svd(matrix)
    kept = singular >= threshold * singular[0]
    return np.asarray((right[kept].T / singular[kept]) @ left[:, kept].T, dtype=np.float64)


@dataclass(frozen=True)
class Modes:
    """Components of the inverse of a circulant matrix (L, L), the strongest first.

    The singular vectors of a circulant matrix are sines and cosines, so it needs no decomposition
    (its singular values are the magnitudes of the Fourier transform of its first column). The
    strongest r levels give the inverse ``synthesis[:, :k] @ analysis[:k]``, ``k = last[r - 1]``.

    Attributes
    ----------
    singular
        (R,) singular value of each level.
    last
        (R,) number of vectors up to and with each level: two of a frequency, one where it is real.
    analysis, synthesis
        (K, L) and (L, K).
    """

    singular: Floats
    last: NDArray[np.intp]
    analysis: Floats
    synthesis: Floats


def circulant_modes(column: Floats, threshold: float) -> Modes:
    """Modes of the circulant matrix of a first column (L,), L even, down to a threshold."""
    size = column.size
    transform = np.fft.rfft(column)
    magnitude = np.abs(transform)
    order = np.argsort(-magnitude, kind="stable")
    order = order[magnitude[order] >= threshold * magnitude.max()]
    angle = 2 * np.pi / size * np.arange(size)
    analysis, synthesis, last = [], [], []
    for frequency in order:
        phase = np.angle(transform[frequency])
        alone = frequency in (0, size // 2)
        weight = (1 if alone else 2) / (size * magnitude[frequency])
        waves = (np.cos,) if alone else (np.cos, np.sin)
        for wave in waves:
            analysis.append(wave(frequency * angle))
            synthesis.append(weight * wave(frequency * angle - phase))
        last.append(len(analysis))
    return Modes(
        magnitude[order],
        np.array(last, dtype=np.intp),
        np.array(analysis),
        np.array(synthesis).T,
    )


def second_difference(response: Floats) -> Floats:
    """Second differences along the first axis, which closes on itself."""
    difference: Floats = np.roll(response, 1, axis=0) - 2 * response + np.roll(response, -1, axis=0)
    return difference


def least_truncated(
    amplitudes: NDArray[np.floating], modes: Modes, limit: float
) -> NDArray[np.intp]:
    """Number of levels to keep in each voxel: as many as leave the oscillation index below a limit.

    The index is the mean absolute second difference of the impulse response over its maximum
    (Gobbel and Fike, Phys Med Biol 1994;39:1833; Wu et al. 2003), the sum divided by no more than
    `LONGEST_MEAN` points. All voxels climb the levels together, from the strongest; one whose
    index has passed `GIVEN_UP` times the limit climbs no further.

    Parameters
    ----------
    amplitudes
        (B, K) of the modes.
    limit
        Of the oscillation index.

    Returns
    -------
    ndarray of shape (B,)
        0 where no level stays below the limit.
    """
    dtype = amplitudes.dtype
    waves = np.ascontiguousarray(modes.synthesis.T, dtype=dtype)
    bends = np.ascontiguousarray(second_difference(modes.synthesis).T, dtype=dtype)
    response, bend, scratch = np.zeros((3, len(amplitudes), waves.shape[1]), dtype)
    points = dtype.type(min(waves.shape[1], LONGEST_MEAN))
    kept = np.zeros(len(amplitudes), np.intp)
    climbing = np.arange(len(amplitudes))
    going = np.ones(len(amplitudes), np.bool_)
    first = 0
    for level, last in enumerate(modes.last, start=1):
        part = amplitudes[:, first:last]
        response += np.matmul(part, waves[first:last], out=scratch)
        bend += np.matmul(part, bends[first:last], out=scratch)
        first = last
        peak = response.max(axis=1)
        index = np.abs(bend, out=scratch).sum(axis=1) / points
        good = peak > 0
        kept[climbing[going & good & (index < limit * peak)]] = level
        going &= ~(good & (index > GIVEN_UP * limit * peak))
        if np.count_nonzero(going) < _CROWDED * going.size:
            climbing, amplitudes = climbing[going], amplitudes[going]
            response, bend, scratch = response[going], bend[going], scratch[going]
            going = going[going]
        if not climbing.size:
            break
    return kept
