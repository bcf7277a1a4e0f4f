"""Similarities of voxels, by place and by course: equations (4), (5) of the multi-task paper.

A curve is smoothed by kernel ridge regression, and two voxels are as far apart as their smoothed
curves in the norm of the kernel's space. Weights are Gaussian in a distance. All functions work on
plain float64 arrays; those with a (V, V) result are meant for some thousand voxels at most.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import pdist, squareform

from kety.errors import KetyError
from kety.fitting.forward import as_numbers, checked_times

Floats = NDArray[np.float64]

BLOCK = 2048
"""Voxels worked on at a time, and those that choose a common kernel length."""

# Ridges, relative to the largest eigenvalue: below the least, rounding in K decides; above the
# largest, nothing is left of a curve.
LEAST, LARGEST = 1e-8, 1e4
PER_DECADE = 10
GOLDEN = 0.5 * (np.sqrt(5.0) - 1.0)


@dataclass(frozen=True)
class KernelRidge:
    """Curves smoothed by kernel ridge regression: h_i(t) = sum over l of alpha_il k(t, t_l).

    Attributes
    ----------
    alpha : (V, T) array
        Coefficients, (K + beta I)^-1 y, in the unit of the curves.
    beta : (V,) array
        Ridge of each voxel.
    length : float
        Length of the Gaussian kernel, s.
    gram : (T, T) array
        K, the kernel between frame times.
    """

    alpha: Floats
    beta: Floats
    length: float
    gram: Floats


def spatial_distance(coordinates: ArrayLike) -> Floats:
    """Euclidean distances (V, V) between places (V, D), in their unit.

    Raises
    ------
    KetyError
        If the places are not one finite row for each voxel.
    """
    places = as_numbers("coordinates", coordinates)
    if places.ndim != 2 or not np.isfinite(places).all():
        raise KetyError(f"coordinates must be finite, of shape (V, D), found shape {places.shape}")
    return _distances(places)


def kernel_ridge(
    curves: ArrayLike,
    times: ArrayLike,
    length: float | None = None,
    *,
    least_ridge: float = LEAST,
) -> KernelRidge:
    """Smooth curves with the kernel exp(-(t - t')^2 / (2 length^2)).

    The ridge of each voxel minimises its generalised cross-validation score (Golub, Heath and
    Wahba, Technometrics 21:215, 1979), T |y - h|^2 / trace(I - A)^2 with A = K (K + beta I)^-1,
    between `least_ridge` and 1e4 of the largest eigenvalue of K. One eigendecomposition serves all
    voxels.

    Parameters
    ----------
    curves : (V, T) array
        Measured curves.
    times : (T,) array
        Frame times, s.
    length : float, optional
        Length of the kernel, s. The multi-task paper does not state its own. Default: of 25
        lengths from the shortest interval to a quarter of the series, the one with the least score
        summed over the voxels (2,048 of them, evenly chosen, where there are more).
    least_ridge : float
        Lower limit of the ridges, relative to the largest eigenvalue of K. Cross-validation now and
        then takes a noisy curve for a smooth one, and a tiny ridge then moves that voxel far from
        all others; 1e-4 stops that, the default leaves it as the paper has it.

    Raises
    ------
    KetyError
        If shapes do not agree, values are not finite, or length or least ridge are out of range.
    """
    t = checked_times(times)
    y = as_numbers("curves", curves)
    if y.ndim != 2 or y.shape[1] != t.size or not len(y):
        raise KetyError(f"curves must be of shape (V, {t.size}), found {y.shape}")
    if t.size < 3:
        raise KetyError(f"smoothing needs at least 3 frames, found {t.size}")
    finite = np.isfinite(y).all(axis=1)
    if not finite.all():
        raise KetyError(f"curves[{int(np.argmin(finite))}] is not finite; leave such voxels out")
    if not 1e-12 <= least_ridge < 1.0:
        raise KetyError(f"least_ridge must be at least 1e-12 and below 1, found {least_ridge!r}")
    if length is None:
        length = _best_length(y[:: -(-len(y) // BLOCK)], t, least_ridge)
    if not (np.isfinite(length) and length > 0):
        raise KetyError(f"length must be a positive number of s, found {length!r}")
    gram = _gaussian_kernel(t, float(length))
    values, vectors = _spectrum(gram)
    alpha, beta = np.empty_like(y), np.empty(len(y))
    for first in range(0, len(y), BLOCK):
        block = slice(first, first + BLOCK)
        z = y[block] @ vectors
        beta[block] = _least_scores(z, values, least_ridge)[0]
        alpha[block] = (z / (values + beta[block, None])) @ vectors.T
    return KernelRidge(alpha, beta, float(length), gram)


def temporal_embedding(ridge: KernelRidge) -> Floats:
    """Coordinates (V, r) whose Euclidean distance is d_t of equation (5), in the curves' unit.

    They are K^(1/2) alpha along the eigenvectors of K, by falling eigenvalue; those in which no
    curve reaches 1e-10 of the largest coordinate are left out.
    """
    values, vectors = _spectrum(ridge.gram)
    coordinates = ((ridge.alpha @ vectors) * np.sqrt(values))[:, ::-1]
    reach = np.abs(coordinates).max(axis=0, initial=0.0)
    return np.ascontiguousarray(coordinates[:, reach > 1e-10 * reach.max(initial=0.0)])


def temporal_distance(ridge: KernelRidge) -> Floats:
    """Distances (V, V) of equation (5), d_ij^2 = (a_i - a_j)^T K (a_i - a_j)."""
    return _distances(temporal_embedding(ridge))


def kernel_width(distance: ArrayLike) -> float:
    """The paper's gamma: one over the variance of the distances (V, V) between different voxels.

    "The inverse of the empirical variance of the distance" is read literally: the variance, about
    their mean, of the distances themselves (not of their squares), each pair once. The paper says
    that this is where the entropy of the Gram matrix is largest; see `entropy_maximum`.

    Raises
    ------
    KetyError
        If the distances are not a symmetric matrix or do not vary.
    """
    return 1.0 / float(np.var(_pairs(distance)))


def gaussian_similarity(distance: ArrayLike, gamma: float) -> Floats:
    """Weights (V, V) of equations (4) and (5), exp(-gamma d^2); 1 on the diagonal."""
    _check_gamma(gamma)
    d = as_numbers("distance", distance)
    return np.exp(-gamma * d * d)


def gram_entropy(distance: ArrayLike, gamma: float) -> float:
    """Entropy of the weights exp(-gamma d^2) of different voxels, up to a constant of gamma.

    The differential entropy of the weights as draws of one variable. By the change of variables
    from d to w it is that of the distances, left out here, plus the mean of log |dw/dd|, so it is
    log(gamma) - gamma mean(d^2) + mean(log 2d). Of other entropies, that of binned weights depends
    on the bins, -sum(w log w) is largest within a factor of two of the same gamma unless a few
    distances stand out, and those of the eigenvalues and of w / sum(w) have no maximum.

    Parameters
    ----------
    distance : (V, V) array
    gamma : float

    Raises
    ------
    KetyError
        If the distances are not a symmetric matrix or do not vary, or gamma is not positive.
    """
    _check_gamma(gamma)
    pairs = _pairs(distance)
    spread = np.log(2.0 * pairs[pairs > 0]).mean()
    return float(np.log(gamma) - gamma * np.mean(pairs**2) + spread)


def entropy_maximum(distance: ArrayLike) -> float:
    """The gamma of largest `gram_entropy`: one over the mean squared distance (V, V).

    The paper's "inverse of the variance" is this one if the variance is taken about 0.

    Raises
    ------
    KetyError
        If the distances are not a symmetric matrix or do not vary.
    """
    return 1.0 / float(np.mean(_pairs(distance) ** 2))


def _check_gamma(gamma: float) -> None:
    if not (np.isfinite(gamma) and gamma > 0):
        raise KetyError(f"gamma must be positive, found {gamma!r}")


def _gaussian_kernel(times: Floats, length: float) -> Floats:
    return np.exp(-0.5 * ((times[:, None] - times) / length) ** 2)


def _spectrum(gram: Floats) -> tuple[Floats, Floats]:
    """Eigenvalues, rising, and eigenvectors of K; what is below rounding is 0."""
    values, vectors = np.linalg.eigh(gram)
    rounding = len(gram) * np.finfo(np.float64).eps * values[-1]
    return np.where(values > rounding, values, 0.0), vectors


def _scores(squares: Floats, inverse: Floats) -> Floats:
    """GCV scores of squared coefficients, from 1 / (eigenvalue + beta); a factor beta^2 cancels."""
    residual = np.sum(squares * inverse**2, axis=-1)
    return np.asarray(inverse.shape[-1] * residual / inverse.sum(axis=-1) ** 2)


def _least_scores(z: Floats, values: Floats, least: float) -> tuple[Floats, Floats]:
    """Ridges (V,) of least GCV score, and the scores, of coefficients (V, T) along eigenvectors."""
    count = int(np.ceil(PER_DECADE * np.log10(LARGEST / least))) + 1
    squares, grid = z * z, values[-1] * np.geomspace(least, LARGEST, count)
    inverse = 1.0 / (values + grid[:, None])
    scores = squares @ (inverse**2).T / inverse.sum(axis=1) ** 2
    best = np.argmin(scores, axis=1)
    low = np.log(grid[np.maximum(best - 1, 0)])
    high = np.log(grid[np.minimum(best + 1, len(grid) - 1)])

    def at(place: Floats) -> Floats:
        return _scores(squares, 1.0 / (values + np.exp(place)[:, None]))

    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    score_left, score_right = at(left), at(right)
    for _ in range(32):  # a grid step times 1e-7
        down = score_left <= score_right
        low, high = np.where(down, low, left), np.where(down, right, high)
        new = np.where(down, high - GOLDEN * (high - low), low + GOLDEN * (high - low))
        score = at(new)
        left, right = np.where(down, new, right), np.where(down, left, new)
        score_left, score_right = (
            np.where(down, score, score_right),
            np.where(down, score_left, score),
        )
    place = 0.5 * (low + high)
    return np.exp(place), at(place)


def _best_length(curves: Floats, times: Floats, least: float) -> float:
    shortest = float(np.diff(times).min())
    lengths = np.geomspace(shortest, max(0.25 * (times[-1] - times[0]), shortest), 25)

    def score(length: float) -> float:
        values, vectors = _spectrum(_gaussian_kernel(times, length))
        return float(_least_scores(curves @ vectors, values, least)[1].sum())

    return float(min(lengths, key=score))


def _distances(places: Floats) -> Floats:
    return squareform(pdist(places))


def _pairs(distance: ArrayLike) -> Floats:
    """Distances of pairs of different voxels, each once; `KetyError` where they cannot be used."""
    d = as_numbers("distance", distance)
    if d.ndim != 2 or d.shape[0] != d.shape[1]:
        raise KetyError(f"distance must be of shape (V, V), found {d.shape}")
    if not (np.isfinite(d).all() and (d >= 0).all() and np.allclose(d, d.T)):
        raise KetyError("distances must be finite, not negative and the same in both directions")
    pairs = d[np.triu_indices(len(d), 1)]
    if pairs.size < 2 or np.ptp(pairs) <= 1e-9 * pairs.max():
        raise KetyError(
            f"the distances between {len(d)} voxels do not vary, so no kernel width follows from "
            "them; give more voxels or gamma itself"
        )
    return pairs
