"""Standard errors of a joint estimate, and how much each voxel leans on the others.

To first order a joint estimate is linear in the data: its covariance is A^-1 B A^-1, with A the
Hessian of the energy and B the covariance of its gradient. It knows the noise alone; what the
penalty pulls a voxel away from its own data is bias, shown by other maps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kety.joint.normals import DIAGONAL, Doubles, Normals, pack, unpack
from kety.joint.solve import Penalty, bits, graph_system

if TYPE_CHECKING:
    from kety._native import GraphSystem
    from kety.joint.setup import Setup

DRAWS = 4
"""Right-hand sides of four draws each, from which sums over the graph are estimated."""
VECTOR_DRAWS = 32
EXACT = 600
"""Most voxels whose covariance is computed without draws where parameters are not scaled."""
WEAK_PIVOT = 1e-10
UNIT = pack(np.eye(4))


@dataclass(frozen=True, eq=False)
class Sharing:
    """``variance`` (V,): of a joint estimate relative to the voxelwise one; ``own`` (V,): share of
    a voxel's estimate that its own data decide. 1 for voxels without neighbours."""

    variance: Doubles
    own: Doubles


def sharing(setup: Setup, strength: float, seed: int = 0) -> Sharing:
    """How a scaled penalty shares the data of voxels, by random draws.

    In the metric of the data, voxel i's estimate is the mean sum_j g_ij of all, g = (1 + L)^-1 with
    L the graph's Laplacian times the strength. Its variance is sum_j g_ij^2 of the voxelwise one.
    """
    graph, count = setup.graph, len(setup.voxels)
    metric = np.tile(UNIT, (count, 1))
    penalty = Penalty(graph, metric, strength * setup.unit)
    system = graph_system(penalty, setup.voxels.problem.threads)
    system.blocks(metric, np.zeros(count), np.full(count, 15, dtype=np.uint8))
    rng = np.random.default_rng(seed)
    variance, own, x = np.zeros(count), np.zeros(count), np.empty((count, 4))
    for _ in range(DRAWS):
        x[:] = 0.0
        z = np.where(rng.integers(0, 2, (count, 4)) > 0, 1.0, -1.0)
        system.solve(z, x, 1e-3, 1000)
        variance += np.einsum("vi,vi->v", x, x)
        own += np.einsum("vi,vi->v", x, z)
    both = np.stack([variance, own], axis=1) / (4 * DRAWS)
    # Neighbours share alike, so their draws count for each other.
    smooth = graph.average(both, setup.voxels.problem.threads).astype(np.float64)
    return Sharing(smooth[:, 0], np.clip(smooth[:, 1], 0.0, 1.0))


def shared_covariance(
    setup: Setup, normals: Normals, held: NDArray[np.bool_], variance: Doubles
) -> tuple[Doubles, NDArray[np.uint8]]:
    """Packed covariances (V, 10) of a scaled joint estimate, and undetermined parameters as bits.

    The inverse of the information that a voxel and its neighbours hold on average, times its share
    of the variance. Rows of parameters ``held`` (V, 4) at a bound, or undetermined, are NaN.
    """
    information = normals.hessian * setup.precision[:, None]
    scale = np.maximum(information[:, DIAGONAL].max(axis=0), 1e-300)
    i, j = np.tril_indices(4)
    unit = np.sqrt(scale)[i] * np.sqrt(scale)[j]  # single precision holds ratios
    mean = setup.graph.average(information / unit, setup.voxels.problem.threads)
    packed, lost = invert(np.asarray(mean * unit, dtype=np.float64), held)
    return packed * variance[:, None], lost


def invert(information: Doubles, held: NDArray[np.bool_]) -> tuple[Doubles, NDArray[np.uint8]]:
    """Inverses (V, 10) of packed matrices over the parameters not held; what they do not determine.

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
    for i in range(4):
        weak = ~out[:, i] & (work[:, i, i] < WEAK_PIVOT)
        lost[:, i] |= weak
        pivot = np.where(out[:, i] | weak, np.inf, work[:, i, i])
        work = work - work[:, :, i, None] * work[:, None, i, :] / pivot[:, None, None]
    out = held | lost
    m = np.where(out[:, :, None] | out[:, None, :], 0.0, m)
    m[:, range(4), range(4)] += out
    inverse = np.linalg.inv(m) * scale[:, :, None] * scale[:, None, :]
    inverse[out[:, :, None] | out[:, None, :]] = np.nan
    return pack(np.asarray(inverse)), bits(lost)


def full_covariance(
    setup: Setup, normals: Normals, strength: float, held: NDArray[np.bool_], seed: int = 0
) -> tuple[Doubles, Doubles]:
    """Packed covariances (V, 10) of any joint estimate, and each voxel's own share (V,).

    Exact up to `EXACT` voxels, else from `VECTOR_DRAWS` draws of the noise.
    """
    count = len(setup.voxels)
    penalty = setup.penalty(strength)
    block = normals.hessian * setup.precision[:, None]
    spread = block * (setup.precision * setup.noise)[:, None]
    system = graph_system(penalty, setup.voxels.problem.threads)
    free = ~held & (block[:, DIAGONAL] > 0)
    system.blocks(block, np.zeros(count), bits(free))
    if count <= EXACT:
        covariance, own = _exact(penalty, block, spread, free)
    else:
        covariance, own = _drawn(system, spread, block, free, seed)
    covariance[~free[:, :, None] | ~free[:, None, :]] = np.nan
    return pack(covariance), own


def _exact(
    penalty: Penalty, block: Doubles, spread: Doubles, free: NDArray[np.bool_]
) -> tuple[Doubles, Doubles]:
    count = len(block)
    w = penalty.graph.matrix().toarray().astype(np.float64) * penalty.strength
    q = unpack(penalty.metric)
    pair = 0.5 * w[:, :, None, None] * (q[:, None] + q[None])
    a = -pair.transpose(0, 2, 1, 3)
    a[range(count), :, range(count), :] += pair.sum(axis=1) + unpack(block)
    a = a.reshape(4 * count, 4 * count)
    chosen = np.flatnonzero(free.ravel())
    inverse = np.zeros_like(a)
    inverse[np.ix_(chosen, chosen)] = np.linalg.inv(a[np.ix_(chosen, chosen)])
    rows = inverse.reshape(count, 4, count, 4)
    weighted = np.einsum("iajb,jbc->iajc", rows, unpack(spread))
    covariance = np.einsum("iajc,idjc->iad", weighted, rows)
    diagonal = rows[range(count), :, range(count), :]
    own = np.einsum("vab,vba->v", diagonal, unpack(block)) / np.maximum(free.sum(axis=1), 1)
    return covariance, own


def _drawn(
    system: GraphSystem, spread: Doubles, block: Doubles, free: NDArray[np.bool_], seed: int
) -> tuple[Doubles, Doubles]:
    count = len(block)
    rng = np.random.default_rng(seed)
    values, vectors = np.linalg.eigh(unpack(spread))
    root = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
    covariance, own, x = np.zeros((count, 4, 4)), np.zeros(count), np.empty((count, 4))
    for _ in range(VECTOR_DRAWS):
        noise = np.einsum("vab,vb->va", root, rng.standard_normal((count, 4)))
        x[:] = 0.0
        system.solve(np.ascontiguousarray(noise), x, 1e-3, 1000)
        covariance += x[:, :, None] * x[:, None, :]
        # E[noise' x] = trace of the voxel's own block of A^-1 times B.
        own += np.einsum("va,va->v", noise, x)
    own /= VECTOR_DRAWS * np.maximum(free.sum(axis=1), 1)
    # B is a multiple of the voxel's own block, so one diagonal element tells the factor.
    size, other = block[:, DIAGONAL].max(axis=1), spread[:, DIAGONAL].max(axis=1)
    own *= size / np.where(other > 0, other, 1.0)
    return covariance / VECTOR_DRAWS, np.clip(own, 0.0, 1.0)
