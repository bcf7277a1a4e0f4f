"""Correlation of residuals with the next frame's, and what it is by chance.

r = sum of e(t) e(t + 1) over sum of e(t)^2 of the residuals of a fit (Durbin and Watson's d is
about 2 - 2 r; Biometrika 37:409, 1950, and 38:159, 1951). Residuals of white noise are correlated
too, since the fit has taken the part M' = 1 - M out of them, M the projection that leaves what the
P free parameters cannot follow. With A of 1/2 beside the diagonal and m = tr M = n - P, normal
noise gives the ratio of quadratic forms r = e'Ae / e'e the moments

    mean = tr(M A) / m,    variance = 2 (m tr(M A M A) - tr(M A)^2) / (m^2 (m + 2)).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

WEAK = 1e-7
"""Length of a direction, of columns of unit length, below which the parameters cannot follow it."""


def next_frame_correlation(residuals: Floats) -> Floats:
    """Correlation (V,) of residuals (V, T) with the next frame's; NaN where there are none."""
    power = np.einsum("vt,vt->v", residuals, residuals)
    product = np.einsum("vt,vt->v", residuals[:, 1:], residuals[:, :-1])
    out: Floats = np.full(len(power), np.nan)
    np.divide(product, power, out=out, where=power > 0)
    return out


def moments(slopes: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation (V,) of it under white noise, from the derivatives (V, T, P).

    Columns of 0 are of parameters that were not free.
    """
    frames = slopes.shape[1]
    basis, rank = _basis(slopes)
    left = frames - rank
    beside = np.zeros_like(basis)  # A times the basis
    beside[:, 1:] += 0.5 * basis[:, :-1]
    beside[:, :-1] += 0.5 * basis[:, 1:]
    inner = np.einsum("vti,vtj->vij", basis, beside)
    trace = -np.einsum("vii->v", inner)
    square = 0.5 * (frames - 1) - 2.0 * np.einsum("vti,vti->v", beside, beside)
    square += np.einsum("vij,vij->v", inner, inner)
    enough = left > 0
    m = np.where(enough, left, 1).astype(np.float64)
    mean = np.where(enough, trace / m, np.nan)
    variance = 2.0 * (m * square - trace**2) / (m * m * (m + 2.0))
    return mean, np.where(enough, np.sqrt(np.maximum(variance, 0.0)), np.nan)


def leverages(slopes: Floats) -> Floats:
    """Diagonal (V, T) of the projection on the derivatives (V, T, P): how far the fit follows each
    frame."""
    basis, _ = _basis(slopes)
    return np.asarray(np.einsum("vti,vti->vt", basis, basis))


def _basis(slopes: Floats) -> tuple[Floats, NDArray[np.intp]]:
    """Orthonormal columns (V, T, P) that span those given, 0 beyond their rank (V,)."""
    length = np.linalg.norm(slopes, axis=1)
    unit = slopes / np.where(length > 0, length, 1.0)[:, None, :]
    basis, strength, _ = np.linalg.svd(unit, full_matrices=False)
    strong = strength > WEAK
    return basis * strong[:, None, :], strong.sum(axis=1)
