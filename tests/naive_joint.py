"""Slow and obvious twins of joint estimation: dense matrices, double loops, plain NumPy."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from cases import Floats
from kety.fitting.forward import kernel_curves
from kety.fitting.problem import Problem
from kety.joint.energy import Terms, value_and_gradient

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


# --- normal equations -----------------------------------------------------------------------------


def normal_equations(
    problem: Problem, curves: Floats, kernel: Floats, factor: float
) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Cost, unweighted cost, J'Wr, J'WJ (V, 4, 4) and constant of every voxel.

    Weights are divided by ``factor``. A fitted constant is the weighted mean of the residuals.
    """
    count = len(curves)
    weights = np.ones(len(problem.times)) if problem.weights is None else problem.weights / factor
    values, slopes = kernel_curves(problem.aif, problem.times, kernel, jacobian=True)
    assert slopes is not None
    cost, unweighted, constant = np.zeros(count), np.zeros(count), np.zeros(count)
    gradient, hessian = np.zeros((count, 4)), np.zeros((count, 4, 4))
    for i in range(count):
        r, j = values[i] - curves[i], slopes[i]
        if problem.baseline:
            constant[i] = -np.average(r, weights=weights)
            r = r + constant[i]
            j = j - np.average(j, axis=0, weights=weights)
        cost[i] = np.sum(weights * r**2)
        unweighted[i] = np.sum(r**2)
        gradient[i] = j.T @ (weights * r)
        hessian[i] = j.T @ (weights[:, None] * j)
    return cost, unweighted, gradient, hessian, constant


# --- linear systems -------------------------------------------------------------------------------


def penalty_matrix(weights: Floats, metric: Floats, strength: float) -> Floats:
    """L (4V, 4V): x'Lx is the sum over pairs of s w_ij d' (Q_i + Q_j) / 2 d, d = x_i - x_j."""
    count = len(weights)
    out = np.zeros((count, 4, count, 4))
    for i, j in zip(*np.nonzero(np.triu(weights, 1)), strict=True):
        edge = strength * weights[i, j] * (metric[i] + metric[j]) / 2
        out[i, :, i] += edge
        out[j, :, j] += edge
        out[i, :, j] -= edge
        out[j, :, i] -= edge
    return out.reshape(4 * count, 4 * count)


def system_matrix(penalty: Floats, block: Floats, damping: Floats) -> Floats:
    """A (4V, 4V): the penalty with every voxel's own block, its diagonal times 1 + damping."""
    out = penalty.reshape(len(block), 4, len(block), 4).copy()
    for i, own in enumerate(block):
        out[i, :, i] += own + damping[i] * np.diag(np.diag(own))
    return out.reshape(penalty.shape)


def solution(matrix: Floats, right: Floats, free: Bools) -> Floats:
    """x (V, 4) of A x = b over the free parameters; the others are 0."""
    chosen = np.flatnonzero(free.ravel())
    x = np.zeros(free.size)
    x[chosen] = np.linalg.solve(matrix[np.ix_(chosen, chosen)], right.ravel()[chosen])
    return x.reshape(free.shape)


# --- graphs ---------------------------------------------------------------------------------------


def window(
    shape: tuple[int, ...], radius: float, spacing: tuple[float, ...]
) -> set[tuple[int, ...]]:
    """Steps (x, y, z) inside the ellipsoid of the radius, at least one voxel along each axis."""
    long = [s for n, s in zip(shape, spacing, strict=True) if n > 1]
    reach = [
        max(1.0, radius * min(long) / s) if n > 1 else 0.0
        for n, s in zip(shape, spacing, strict=True)
    ]
    reach += [0.0] * (3 - len(reach))
    most = int(max(reach)) + 2
    found = set()
    for step in product(range(-most, most + 1), repeat=3):
        if not any(step) or any(s and not r for s, r in zip(step, reach, strict=True)):
            continue
        far = sum((s / r) ** 2 for s, r in zip(step, reach, strict=True) if r)
        if far <= 1.0 + 1e-9:
            found.add(step)
    return found


def window_weights(
    place: Ints,
    steps: set[tuple[int, ...]],
    features: Floats,
    variance: Floats,
    threshold: float,
    soft: bool,
) -> tuple[Floats, Bools]:
    """Weights (V, V), and which pairs are so near the threshold that rounding decides."""
    count = len(place)
    weights, unsure = np.zeros((count, count)), np.zeros((count, count), bool)
    for i in range(count):
        for j in range(count):
            if tuple(place[j] - place[i]) not in steps:
                continue
            apart = np.sum((features[i] - features[j]) ** 2) / (variance[i] + variance[j])
            unsure[i, j] = abs(apart / threshold - 1) < 1e-5
            if apart < threshold:
                weights[i, j] = min(1.0, 2 - 2 * apart / threshold) if soft else 1.0
    return weights, unsure


def chosen_by_either(distance: Floats, count: int, allowed: Bools | None = None) -> Floats:
    """1 where one of two voxels has the other among its ``count`` nearest."""
    voxels = len(distance)
    out = np.zeros((voxels, voxels))
    for i in range(voxels):
        others = [j for j in range(voxels) if j != i and (allowed is None or allowed[i, j])]
        others.sort(key=lambda j: distance[i, j])
        for j in others[:count]:
            out[i, j] = out[j, i] = 1.0
    return out


def component_sets(weights: Floats) -> set[frozenset[int]]:
    """Connected voxels, by walking along the edges."""
    left, found = set(range(len(weights))), set()
    while left:
        group, edge = set(), [left.pop()]
        while edge:
            i = edge.pop()
            group.add(i)
            edge += [j for j in np.flatnonzero(weights[i]) if j not in group]
        left -= group
        found.add(frozenset(int(i) for i in group))
    return found


# --- minima ---------------------------------------------------------------------------------------


def least_energy(terms: Terms, start: Floats) -> float:
    """The energy's least value near a start within the problem's bounds, by L-BFGS-B.

    In units of the curvature at the start, again from where it ended until nothing is gained.
    """
    lo, hi = terms.problem.kernel_bounds()
    free = hi > lo
    theta = np.clip(start, lo, hi)
    best = np.inf
    for _ in range(10):
        slopes = kernel_curves(terms.problem.aif, terms.problem.times, theta, jacobian=True)[1]
        assert slopes is not None
        degree = np.asarray(terms.edges.sum(axis=1))
        bend = 2 * np.sum(slopes**2, axis=1) + 2 * degree[:, None] * np.einsum(
            "vii->vi", terms.metric
        )
        scale = 1 / np.sqrt(bend[:, free])

        def cost(x: Floats, scale: Floats = scale, theta: Floats = theta) -> tuple[float, Floats]:
            full = theta.copy()
            full[:, free] = x.reshape(scale.shape) * scale
            value, gradient = value_and_gradient(terms, np.clip(full, lo, hi))
            return value, (gradient[:, free] * scale).ravel()

        low, high = (np.broadcast_to(b[free], scale.shape) / scale for b in (lo, hi))
        found = minimize(
            cost,
            (theta[:, free] / scale).ravel(),
            jac=True,
            method="L-BFGS-B",
            bounds=list(zip(low.ravel(), high.ravel(), strict=True)),
            options={"ftol": 0.0, "gtol": 1e-10, "maxiter": 5000, "maxfun": 20_000, "maxcor": 40},
        )
        theta = theta.copy()
        theta[:, free] = np.clip(found.x.reshape(scale.shape) * scale, lo[free], hi[free])
        if found.fun > best * (1 - 1e-9):
            return float(min(best, found.fun))
        best = float(found.fun)
    return best
