"""Standard errors of a joint estimate, and how much each voxel leans on the others.

They are those of the smoothing literature: the penalty is read as what is known beforehand of the
differences between neighbours, and the covariance is that of the posterior, the inverse of the
energy's Hessian A (Wahba, J R Stat Soc B 45:133, 1983; Nychka, J Am Stat Assoc 83:1134, 1988).
They allow for the bias of smoothing as well as for noise, on the average over voxels. The noise
alone, A^-1 B A^-1 with B the covariance of the energy's gradient, would claim far too much where
tissue is not uniform.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kety.joint.normals import Doubles, Normals, diagonal, pack, unpack
from kety.joint.solve import Penalty, bits, graph_system

if TYPE_CHECKING:
    from kety.joint.setup import Setup

DRAWS = 4
"""Right-hand sides of four draws each, from which each voxel's share is estimated."""
VECTOR_DRAWS = 32
DRAWN_TO = 1e-4
"""Residual of a draw; at 1e-3 what hardly decides the energy can be a fifth too small."""
EXACT = 600
"""Most voxels, of four parameters each, that are computed without draws."""
WEAK_PIVOT = 1e-10
UNIT = pack(np.eye(4))
"""Four draws at a time are what the core's systems solve for."""


def own_share(setup: Setup, strength: float, seed: int = 0) -> Doubles:
    """Share (V,) of each voxel's estimate that its own data decide, for a scaled penalty.

    In the metric of the data the estimate is a mean over voxels with weights g = (1 + L)^-1, L the
    graph's Laplacian times the strength. The share is g_ii; it is also the variance of the
    posterior relative to that of the voxelwise estimate; 1 for voxels alone. Exact up to `EXACT`
    voxels, else from random draws.
    """
    graph, count = setup.graph, len(setup.voxels)
    if count <= EXACT:
        weights = graph.matrix().toarray().astype(np.float64) * (strength * setup.unit)
        laplacian = np.diag(weights.sum(axis=1)) - weights
        return np.asarray(np.diag(np.linalg.inv(np.eye(count) + laplacian))).copy()
    metric = np.tile(UNIT, (count, 1))
    penalty = Penalty(graph, metric, strength * setup.unit)
    problem = setup.voxels.problem
    system = graph_system(penalty, problem.threads, card=problem.card)
    system.blocks(metric, np.zeros(count), np.full(count, 15, dtype=np.uint8))
    rng = np.random.default_rng(seed)
    own, x = np.zeros(count), np.empty((count, 4))
    for _ in range(DRAWS):
        x[:] = 0.0
        z = np.where(rng.integers(0, 2, (count, 4)) > 0, 1.0, -1.0)
        system.solve(z, x, 1e-3, 1000)
        own += np.einsum("vi,vi->v", x, z)
    # Neighbours share alike, so their draws count for each other.
    mean = graph.average(own[:, None] / (4 * DRAWS), setup.voxels.problem.threads)
    # No voxel's share is below that of one among all that it is connected with.
    return np.clip(mean[:, 0].astype(np.float64), 1.0 / count, 1.0)


def shared_covariance(
    setup: Setup, normals: Normals, held: NDArray[np.bool_], own: Doubles
) -> tuple[Doubles, NDArray[np.unsignedinteger]]:
    """Packed covariances (V, P (P + 1) / 2) of a scaled joint estimate, and undetermined
    parameters as bits.

    The inverse of the information that a voxel and its neighbours hold on average, times the
    voxel's own share. Rows of parameters ``held`` (V, P) at a bound, or undetermined, are NaN.
    """
    information, graph = normals.hessian * setup.precision[:, None], setup.graph
    if setup.voxels.problem.by_terms:  # whose parameters single precision would not tell apart
        weights = graph.matrix().astype(np.float64)
        mean = (information + weights @ information) / (1.0 + graph.degree)[:, None]
    else:
        scale = np.maximum(diagonal(information).max(axis=0), 1e-300)
        i, j = np.tril_indices(len(scale))
        unit = np.sqrt(scale)[i] * np.sqrt(scale)[j]  # single precision holds ratios
        mean = graph.average(information / unit, setup.voxels.problem.threads) * unit
    packed, lost = invert(np.asarray(mean, dtype=np.float64), held)
    return packed * own[:, None], lost


def invert(
    information: Doubles, held: NDArray[np.bool_]
) -> tuple[Doubles, NDArray[np.unsignedinteger]]:
    """Inverses (V, P (P + 1) / 2) of packed matrices over the parameters not held, and what they do
    not determine.

    A parameter is undetermined where the information of it, given those before it, is nothing.
    Rows of held and undetermined parameters are NaN.
    """
    full = unpack(information)
    diagonal = np.einsum("vii->vi", full)
    lost = ~held & ~(diagonal > 0)
    out = held | lost
    scale = np.where(out, 0.0, 1.0 / np.sqrt(np.where(out, 1.0, diagonal)))
    m = full * scale[:, :, None] * scale[:, None, :]
    work = m.copy()
    for i in range(full.shape[1]):
        weak = ~out[:, i] & (work[:, i, i] < WEAK_PIVOT)
        lost[:, i] |= weak
        pivot = np.where(out[:, i] | weak, np.inf, work[:, i, i])
        work = work - work[:, :, i, None] * work[:, None, i, :] / pivot[:, None, None]
    out = held | lost
    m = np.where(out[:, :, None] | out[:, None, :], 0.0, m)
    m[:, range(full.shape[1]), range(full.shape[1])] += out
    inverse = np.linalg.inv(m) * scale[:, :, None] * scale[:, None, :]
    inverse[out[:, :, None] | out[:, None, :]] = np.nan
    return pack(np.asarray(inverse)), bits(lost)


def full_covariance(
    setup: Setup, normals: Normals, strength: float, held: NDArray[np.bool_], seed: int = 0
) -> tuple[Doubles, Doubles]:
    """Packed covariances (V, P (P + 1) / 2) of any joint estimate, and each voxel's own share (V,).

    Exact up to 4 `EXACT` unknowns, else from `VECTOR_DRAWS` draws of the posterior, for a metric
    of 1.
    """
    penalty = setup.penalty(strength)
    block = normals.hessian * setup.precision[:, None]
    free = ~held & (diagonal(block) > 0)
    # The energy is in units of the noise where precision is 1 / noise; elsewhere this brings it.
    unit = setup.precision * setup.noise
    if free.size <= 4 * EXACT:
        covariance = _exact(penalty, block, free)
    else:
        covariance = _drawn(setup, penalty, block, free, seed)
    own = np.einsum("vab,vba->v", covariance, unpack(block)) / np.maximum(free.sum(axis=1), 1)
    covariance *= unit[:, None, None]
    covariance[~free[:, :, None] | ~free[:, None, :]] = np.nan
    return pack(covariance), np.clip(own, 0.0, 1.0)


def _exact(penalty: Penalty, block: Doubles, free: NDArray[np.bool_]) -> Doubles:
    """Diagonal blocks (V, P, P) of A^-1 over the free parameters."""
    count, size = free.shape
    w = penalty.graph.matrix().toarray().astype(np.float64) * penalty.strength
    q = unpack(penalty.metric)
    pair = 0.5 * w[:, :, None, None] * (q[:, None] + q[None])
    a = -pair.transpose(0, 2, 1, 3)
    a[range(count), :, range(count), :] += pair.sum(axis=1) + unpack(block)
    a = a.reshape(size * count, size * count)
    chosen = np.flatnonzero(free.ravel())
    inverse = np.zeros_like(a)
    inverse[np.ix_(chosen, chosen)] = np.linalg.inv(a[np.ix_(chosen, chosen)])
    rows = inverse.reshape(count, size, count, size)
    return np.asarray(rows[range(count), :, range(count), :])


def _drawn(
    setup: Setup, penalty: Penalty, block: Doubles, free: NDArray[np.bool_], seed: int
) -> Doubles:
    """The same from draws: A x = noise of the data and of every edge, of covariance A."""
    (count, parameters), graph = free.shape, penalty.graph
    problem = setup.voxels.problem
    system = graph_system(penalty, problem.threads, card=problem.card)
    system.blocks(block, np.zeros(count), bits(free))
    rng = np.random.default_rng(seed)
    values, vectors = np.linalg.eigh(unpack(block))
    root = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
    rows = np.repeat(np.arange(count), graph.neighbours)
    once = rows < graph.columns
    ends = rows[once], graph.columns[once]
    size = np.sqrt(penalty.strength * graph.weights[once].astype(np.float64))[:, None]
    covariance, x = np.zeros((count, parameters, parameters)), np.empty(free.shape)
    for _ in range(VECTOR_DRAWS):
        noise = np.einsum("vab,vb->va", root, rng.standard_normal(free.shape))
        along = size * rng.standard_normal((len(size), parameters))
        for c in range(parameters):
            noise[:, c] += np.bincount(ends[0], along[:, c], count)
            noise[:, c] -= np.bincount(ends[1], along[:, c], count)
        x[:] = 0.0
        system.solve(noise, x, DRAWN_TO, 1000)
        covariance += x[:, :, None] * x[:, None, :]
    return covariance / VECTOR_DRAWS
