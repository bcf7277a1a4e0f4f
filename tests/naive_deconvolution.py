"""Slow and obvious twins of deconvolution: dense matrices, one voxel at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def tissue(blood: Floats, times: Floats, flow: float, mtt: float, box: bool, step: float) -> Floats:
    """Curve of an input sampled every ``step`` s, by a sum; flow in mL/100mL/min."""
    x = np.arange(blood.size) * step
    residue = np.where(x < mtt, 1.0, 0.0) if box else np.exp(-x / mtt)
    size = 2 * blood.size
    full = np.fft.irfft(np.fft.rfft(blood, size) * np.fft.rfft(residue, size), size)[: blood.size]
    curve = step * (full - 0.5 * blood * residue[0])
    return np.asarray(np.interp(times, x, flow / 6000 * curve))


def causal(ca: Floats, step: float) -> Floats:
    """Matrix whose column j is the convolution of the lines between ``ca`` with the j-th hat, by
    dense quadrature."""
    n, fine = ca.size, 400
    u = (np.arange((n - 1) * fine) + 0.5) / fine
    grid = np.arange(n, dtype=float)
    matrix = np.zeros((n, n))
    for i in range(1, n):
        inside = u < i
        values = np.interp(i - u[inside], grid, ca)
        for j in range(n):
            hat = np.maximum(1 - np.abs(u[inside] - j), 0)
            matrix[i, j] = step * np.sum(values * hat) / fine
    return matrix


def circulant(ca: Floats, step: float) -> Floats:
    """The padded input in straight lines, each column one sample later, closing on itself."""
    n = ca.size
    padded = [*ca, *np.zeros(n)]
    matrix = np.zeros((2 * n, 2 * n))
    for i in range(2 * n):
        for j in range(2 * n):
            lag = i - j
            near = [padded[(lag + k) % (2 * n)] for k in (-1, 0, 1)]
            matrix[i, j] = step * (near[0] + 4 * near[1] + near[2]) / 6
    return matrix


def invert(matrix: Floats, curve: Floats, threshold: float) -> Floats:
    left, singular, right = np.linalg.svd(matrix)
    response = np.zeros(matrix.shape[1])
    for k, value in enumerate(singular):
        if value >= threshold * singular[0]:
            response += (left[:, k] @ curve) / value * right[k]
    return response


def oscillation_index(response: Floats) -> float:
    total, size = 0.0, response.size
    for k in range(size):
        total += abs(response[k] - 2 * response[k - 1] + response[k - 2])
    return float(total / min(size, 240) / response.max())


def by_oscillation(matrix: Floats, curve: Floats, limit: float, least: float) -> Floats | None:
    """The response with the most singular values, of those that oscillate less than the limit,
    until one oscillates twice as much."""
    singular = np.linalg.svd(matrix)[1]
    best = None
    # Sines and cosines of one frequency have one singular value: they go together.
    levels = [v for k, v in enumerate(singular) if k == 0 or v < singular[k - 1] * (1 - 1e-9)]
    # The first level alone is a constant.
    for level in levels[1:]:
        if level < least * singular[0]:
            break
        response = invert(matrix, curve, level / singular[0] * (1 - 1e-9))
        if response.max() > 0 and oscillation_index(response) > 2 * limit:
            break
        if response.max() > 0 and oscillation_index(response) < limit:
            best = response
    return best
