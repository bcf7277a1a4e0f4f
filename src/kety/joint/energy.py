"""The energy of a joint estimate, written down plainly: what fast solvers are tested against.

    E(theta) = sum_i cost_i(theta_i) + sum_{i<j} w_ij d_ij^T (Q_i + Q_j) / 2 d_ij,  d_ij = theta_i -
    theta_j,

with cost_i the weighted sum of squared residuals of voxel i and theta its P parameters as the
solver has them: v, a [1/s], k [1/s], tau [s], or those of a model of several terms. Equation (3) of
the multi-task paper, times the number of its data, is this energy with the edges of `paper_edges`
and a metric Q that is 1 for its parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError
from kety.fitting.forward import as_numbers, kernel_curves
from kety.fitting.problem import Problem
from kety.fitting.solve import problem_slopes
from kety.joint.normals import exact_curves

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Terms:
    """What an energy consists of, checked: problem, curves (V, T), edges and metrics (V, P, P)."""

    problem: Problem
    curves: Floats
    edges: csr_array[np.float64]
    metric: Floats


def checked_terms(problem: Problem, curves: ArrayLike, edges: Any, metric: ArrayLike) -> Terms:
    """The terms of an energy; `KetyError` where shapes do not agree or values cannot be used."""
    y, frames = as_numbers("curves", curves), len(problem.times)
    if y.ndim != 2 or y.shape[1] != frames or not np.isfinite(y).all():
        raise KetyError(f"curves must be finite, of shape (V, {frames}), found shape {y.shape}")
    return Terms(
        problem, y, checked_edges(edges, len(y)), checked_metric(metric, len(y), problem.size)
    )


def checked_parameters(theta: ArrayLike, voxels: int, size: int) -> Floats:
    """Kernel quantities (V, P) as float64; `KetyError` for another shape or values not finite."""
    x = as_numbers("theta", theta)
    if x.shape != (voxels, size) or not np.isfinite(x).all():
        raise KetyError(f"theta must be finite, of shape ({voxels}, {size}), found shape {x.shape}")
    return x


def checked_edges(edges: Any, voxels: int) -> csr_array[np.float64]:
    """Weights (V, V) of the pairs, sparse or dense, as CSR of float64.

    Raises
    ------
    KetyError
        If they are not finite, not negative, symmetric and 0 on the diagonal.
    """
    from scipy.sparse import csr_array

    w = csr_array(edges).astype(np.float64)
    w.sum_duplicates()
    w.eliminate_zeros()
    if w.shape != (voxels, voxels):
        raise KetyError(f"edges must be of shape ({voxels}, {voxels}), found {w.shape}")
    if not np.isfinite(w.data).all() or (w.data < 0).any():
        raise KetyError("edges must be finite and not negative")
    if w.diagonal().any():
        raise KetyError("edges must be 0 on the diagonal; a voxel is no neighbour of itself")
    largest = w.data.max(initial=0.0)
    if np.abs((w - w.T).data).max(initial=0.0) > 1e-12 * largest:
        raise KetyError("edges must be symmetric; use 0.5 * (edges + edges.T)")
    return w


def checked_metric(metric: ArrayLike, voxels: int, size: int) -> Floats:
    """Metrics of the kernel quantities, (P, P) or one for each voxel, as (V, P, P).

    Raises
    ------
    KetyError
        If they are not finite, symmetric and positive semidefinite.
    """
    q = as_numbers("metric", metric)
    one = (size, size)
    if q.shape not in (one, (voxels, *one)):
        raise KetyError(f"metric must be of shape {one} or {(voxels, *one)}, found {q.shape}")
    if not np.isfinite(q).all():
        raise KetyError("metric must be finite")
    q = np.broadcast_to(q, (voxels, *one))
    scale = np.sqrt(np.maximum(np.diagonal(q, axis1=1, axis2=2), 0.0))
    unit = np.where(scale > 0, scale, 1.0)
    plain = q / (unit[:, :, None] * unit[:, None, :])
    if np.abs(plain - plain.swapaxes(1, 2)).max(initial=0.0) > 1e-12:
        raise KetyError("metric must be symmetric")
    if np.linalg.eigvalsh(plain).min(initial=0.0) < -1e-12:
        raise KetyError("metric must be positive semidefinite")
    return q


def residuals(
    problem: Problem, curves: Floats, theta: Floats, jacobian: bool = False
) -> tuple[Floats, Floats | None]:
    """Weighted residuals (V, T), model less curve, and their derivatives (V, T, P) if asked for.

    Both are multiplied by the root of the weights; where the problem has a baseline, its constant
    of every voxel is eliminated from them.
    """
    slopes: Floats | None = None
    if not problem.by_terms:
        values, slopes = kernel_curves(problem.aif, problem.times, theta, jacobian=jacobian)
    elif jacobian:
        values, slopes = problem_slopes(problem, theta)
    else:
        values = exact_curves(problem, theta)
    weights = np.ones(len(problem.times)) if problem.weights is None else problem.weights
    root, share = np.sqrt(weights), weights / weights.sum()
    r = values - curves
    if problem.baseline:
        r = r - (r @ share)[:, None]
        if slopes is not None:
            slopes = slopes - np.einsum("t,vtp->vp", share, slopes)[:, None]
    return root * r, None if slopes is None else root[:, None] * slopes


def voxel_costs(problem: Problem, curves: Floats, theta: Floats) -> Floats:
    """Weighted sums of squared residuals (V,) of curves (V, T) for kernel quantities (V, P)."""
    r = residuals(problem, curves, theta)[0]
    return np.asarray(np.sum(r * r, axis=1))


def penalty(theta: Floats, edges: csr_array[np.float64], metric: Floats) -> float:
    """Sum over pairs of w_ij d^T (Q_i + Q_j) / 2 d, each pair once; metric (V, P, P)."""
    pairs = edges.tocoo()
    i, j = pairs.row, pairs.col
    d = theta[i] - theta[j]
    q = 0.5 * (metric[i] + metric[j])
    return float(0.5 * np.sum(pairs.data * np.einsum("ep,epq,eq->e", d, q, d)))


def value_and_gradient(terms: Terms, theta: Floats) -> tuple[float, Floats]:
    """The energy and its derivatives (V, P) at kernel quantities (V, P)."""
    r, slopes = residuals(terms.problem, terms.curves, theta, jacobian=True)
    assert slopes is not None
    gradient = 2.0 * np.einsum("vtp,vt->vp", slopes, r)
    pairs = terms.edges.tocoo()
    i, j = pairs.row, pairs.col
    pull = np.einsum("epq,eq->ep", terms.metric[i] + terms.metric[j], theta[i] - theta[j])
    np.add.at(gradient, i, pairs.data[:, None] * pull)
    return float(np.sum(r * r)) + penalty(theta, terms.edges, terms.metric), gradient


def energy(
    problem: Problem, curves: ArrayLike, edges: Any, metric: ArrayLike, theta: ArrayLike
) -> float:
    """The energy E.

    Parameters
    ----------
    problem : Problem
        Model, input, frames, weights, baseline.
    curves : (V, T) array
    edges : (V, V) sparse or dense
        Weights w of the pairs, symmetric, 0 on the diagonal.
    metric : (P, P) or (V, P, P) array
        Q in kernel units.
    theta : (V, P) array
        The solver's quantities, such as v, a [1/s], k [1/s], tau [s].

    Raises
    ------
    KetyError
        If shapes do not agree or edges or metric cannot be used.
    """
    terms = checked_terms(problem, curves, edges, metric)
    x = checked_parameters(theta, len(terms.curves), problem.size)
    costs = voxel_costs(problem, terms.curves, x)
    return float(costs.sum()) + penalty(x, terms.edges, terms.metric)


def energy_gradient(
    problem: Problem, curves: ArrayLike, edges: Any, metric: ArrayLike, theta: ArrayLike
) -> tuple[float, Floats]:
    """The energy and its derivatives (V, P) with respect to theta; arguments of `energy`."""
    terms = checked_terms(problem, curves, edges, metric)
    return value_and_gradient(terms, checked_parameters(theta, len(terms.curves), problem.size))


def paper_edges(similarity: ArrayLike, frames: int, strength: float) -> csr_array[np.float64]:
    """Edges (V, V) of the energy T N L, with L the multi-task paper's loss, equation (3).

    L = 1/(T N) sum (C - y)^2 + lambda/N^2 sum over ordered pairs of w ||theta_j - theta_l||^2, so
    a pair, counted once, weighs 2 lambda T / N w. `paper_loss` turns the energy back into L.

    Parameters
    ----------
    similarity : (V, V) array
        W; its diagonal has no effect.
    frames : int
        T, at least 1.
    strength : float
        lambda, not negative, in the squared unit of the curves over that of the parameters.

    Raises
    ------
    KetyError
        If W is not symmetric and not negative, or a number is out of range.
    """
    from scipy.sparse import csr_array

    w = as_numbers("similarity", similarity)
    if w.ndim != 2 or w.shape[0] != w.shape[1]:
        raise KetyError(f"similarity must be of shape (V, V), found {w.shape}")
    if frames < 1:
        raise KetyError(f"frames must be at least 1, found {frames!r}")
    if not (np.isfinite(strength) and strength >= 0):
        raise KetyError(f"strength must be finite and not negative, found {strength!r}")
    pairs = np.where(np.eye(len(w), dtype=bool), 0.0, w)
    factor = 2.0 * strength * frames / max(len(w), 1)
    return checked_edges(csr_array(factor * pairs), len(w))


def paper_loss(energy: float, frames: int, voxels: int) -> float:
    """The multi-task paper's loss L, equation (3), of an energy with the edges of `paper_edges`."""
    return energy / (frames * voxels)
