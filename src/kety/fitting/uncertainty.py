"""Covariance of least-squares estimates, also where curves were resampled before the fit.

A curve y of T frames is compared with the model at N samples after a linear resampling R (the
identity where the model is compared at the frames). The estimate then moves with the data by

    d theta / d y = A = (J' W J)^-1 J' W R,      Cov = sigma^2 A A',

with J the model's derivatives at the samples, and sigma^2 from the residuals at the frames, whose
expected sum of squares is sigma^2 tr((I - Q J A)' (I - Q J A)), Q reading samples at the frames.
Without resampling this is s^2 (J' J)^-1 with s^2 = cost / (T - P). Weights of the frames are
inverse variances: each frame is scaled by the root of its own.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

WEAK = 1e-13
"""Eigenvalue of the unit-diagonal normal matrix below which a combination is undetermined."""
PART = 0.01
"""Share that a parameter must have in such a combination to be undetermined itself."""


class Covariance(NamedTuple):
    """Covariance (V, P, P), NaN where a parameter is held or lost; ``lost`` (V, P); ``noise`` (V,)
    the variance of a sample."""

    matrix: Floats
    lost: Flags
    noise: Floats


def covariance(
    jacobian: Floats,
    held: Flags,
    cost: Floats,
    *,
    weights: Floats | None = None,
    resampling: Floats | None = None,
    reading: Floats | None = None,
    frame_weights: Floats | None = None,
) -> Covariance:
    """Covariance of the estimates of V voxels.

    Parameters
    ----------
    jacobian : (V, N, P) array
        Derivatives of the model at the samples.
    held : (V, P) bool array
        Parameters that are fixed or at a bound: they have no error.
    cost : (V,) array
        Weighted sum of squared residuals at the frames.
    weights : (N,) array, optional
        Weights of the squared residuals.
    resampling : (N, T) array, optional
        R; None for the identity.
    reading : (T, N) array, optional
        Q, needed with `resampling`.
    frame_weights : (T,) array, optional
        Weights of the frames, where curves were resampled.
    """
    _, samples, count = jacobian.shape
    weighted = jacobian if weights is None else jacobian * weights[:, None]
    normal = np.einsum("vni,vnj->vij", weighted, jacobian)
    diagonal = np.einsum("vii->vi", normal)
    empty = ~(diagonal > 1e-200)
    out = held | empty
    scale = np.where(out, 1.0, 1.0 / np.sqrt(np.where(out, 1.0, diagonal)))
    keep = ~out
    unit = normal * scale[:, :, None] * scale[:, None, :] * (keep[:, :, None] & keep[:, None, :])
    unit[:, np.arange(count), np.arange(count)] = 1.0
    values, vectors = np.linalg.eigh(unit)
    weak = values < WEAK
    lost = (np.abs(vectors) > PART) @ weak[:, :, None].astype(float) > 0
    lost_flags: Flags = (lost[:, :, 0] & keep) | (empty & ~held)
    inverse = (vectors / np.where(weak, np.inf, values)[:, None, :]) @ vectors.transpose(0, 2, 1)
    inverse *= scale[:, :, None] * scale[:, None, :]
    inverse[~(keep[:, :, None] & keep[:, None, :])] = 0.0
    rank = (keep & ~lost_flags).sum(axis=1)
    if resampling is None:
        used = samples if weights is None else int((weights > 0).sum())
        spread = inverse
        spare = (used - rank).astype(float)
    else:
        assert reading is not None
        root = np.ones(resampling.shape[1]) if frame_weights is None else np.sqrt(frame_weights)
        noisy = np.divide(1.0, root, out=np.zeros_like(root), where=root > 0)
        moves = inverse @ (weighted.transpose(0, 2, 1) @ (resampling * noisy))  # A (V, P, T)
        spread = moves @ moves.transpose(0, 2, 1)
        hat = np.einsum("tn,vnp->vtp", root[:, None] * reading, jacobian) @ moves  # Q J A
        spare = (root > 0).sum() - 2 * np.einsum("vtt->v", hat) + np.einsum("vij,vij->v", hat, hat)
    with np.errstate(divide="ignore", invalid="ignore"):
        noise = np.where(spare > 0, cost / spare, np.nan)
    matrix = noise[:, None, None] * spread
    gone = out | lost_flags
    matrix[gone[:, :, None] | gone[:, None, :]] = np.nan
    return Covariance(matrix, lost_flags, noise)
