"""A linear system on a graph of voxels with any number P of parameters each, in plain NumPy.

    (A x)_i = D_i x_i + strength sum_j w_ij (Q_i + Q_j) / 2 (x_i - x_j)

It serves models of more parameters than the core's systems are made for (`kety.joint.system`) and
is their slow twin in the tests: it inverts blocks, and solves the coarsest level outright.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kety.joint.normals import diagonal_places, size_of, unpack

if TYPE_CHECKING:
    from kety.joint.graph import Graph

Doubles = NDArray[np.float64]
WEAK_PIVOT = 1e-13
"""Pivot of a block of unit diagonal below which it does not determine a parameter."""
RELAX = 0.65
"""Of a smoothing step: the blocks alone would overshoot on the edges."""
GROUP = 10
"""Most voxels of a group."""
COARSEST = 300
"""Unknowns at which a level is solved outright."""
SMALLEST = 1e-9
"""What is added to its unit diagonal there."""


class BlockSystem:
    """A system on a graph, kept for several right-hand sides.

    Linear systems are solved by conjugate gradients, preconditioned by the voxels' own blocks or,
    where the penalty is strong, by a V-cycle over groups of voxels that are voxels again.
    """

    def __init__(self, graph: Graph) -> None:
        self._edges: Any = graph.matrix().astype(np.float64)
        self._linked = graph.neighbours > 0
        self._levels: list[_Level] = []

    def prepare(self, metric: Doubles, strength: float, multigrid: bool) -> None:
        """Q (V, P (P + 1) / 2) of every voxel; ``strength`` multiplies the weights."""
        level = _Level(self._edges, unpack(metric), strength)
        self._levels = [level]
        while multigrid and level.unknowns > COARSEST:
            coarse = level.coarser()
            if coarse is None:
                break
            self._levels.append(coarse)
            level = coarse

    def blocks(self, block: Doubles, damping: Doubles, free: NDArray[np.unsignedinteger]) -> None:
        """D (V, P (P + 1) / 2) of every voxel, its diagonal times 1 + ``damping`` (V,), and its
        ``free`` parameters (V,) as bits; the others stay 0."""
        size = size_of(block)
        raised = block.copy()
        raised[:, diagonal_places(size)] *= (1.0 + damping)[:, None]
        full, chosen = unpack(raised), (free[:, None] >> np.arange(size, dtype=free.dtype)) & 1 == 1
        for fine, level in enumerate(self._levels):
            level.set_blocks(full, chosen)
            if fine + 1 < len(self._levels):
                full = np.asarray(level.gathered(full))
                chosen = np.asarray(level.gathered(chosen.astype(np.float64))) > 0

    def solve(self, b: Doubles, x: Doubles, tolerance: float, limit: int) -> tuple[int, float]:
        """Solve A x = b in place, from the given x.

        Stops where the residual is ``tolerance`` times b in the preconditioner's norm, or after
        ``limit`` steps. Returns the steps and what the residual has become.
        """
        top = self._levels[0]
        right = np.where(top.free, b, 0.0)
        # Voxels without edges are solved for at once, so that they do not decide when to stop.
        alone = top.relaxed(right)[~self._linked]
        right[~self._linked] = 0.0
        x[~top.free] = 0.0
        x[~self._linked] = 0.0
        whole = float(np.vdot(right, self._cycle(0, right)))
        step, rz = 0, 0.0
        if whole > 0.0:
            r = right - top.times(x)
            z = self._cycle(0, r)
            p, rz = z.copy(), float(np.vdot(r, z))
            while step < limit and rz > tolerance * tolerance * whole:
                ap = top.times(p)
                curvature = float(np.vdot(p, ap))
                if not curvature > 0.0:
                    break
                x += (rz / curvature) * p
                r -= (rz / curvature) * ap
                z = self._cycle(0, r)
                before, rz = rz, float(np.vdot(r, z))
                p *= rz / before
                p += z
                step += 1
        else:
            x[:] = 0.0
        x[~self._linked] = alone
        return step, float(np.sqrt(max(rz, 0.0) / whole)) if whole > 0.0 else 0.0

    def penalty(self, x: Doubles, y: Doubles) -> None:
        """y = L x, half the gradient of the penalty, over all parameters."""
        y[:] = self._levels[0].pull(x)

    def _cycle(self, number: int, b: Doubles) -> Doubles:
        """About A^-1 b. Symmetric, so that conjugate gradients may use it."""
        level = self._levels[number]
        if len(self._levels) == 1:
            return level.relaxed(b)
        if number + 1 == len(self._levels):
            return level.solved(b)
        z = RELAX * level.relaxed(b)
        below = self._cycle(number + 1, np.asarray(level.gathered(b - level.times(z))))
        z += np.where(level.free, below[level.group], 0.0)
        z += RELAX * level.relaxed(b - level.times(z))
        return z


class _Level:
    """Voxels, or groups of them: edges (n, n), metrics (n, P, P), blocks, and the next groups."""

    def __init__(self, edges: Any, metric: Doubles, strength: float) -> None:
        self.edges, self.metric, self.half = edges, metric, 0.5 * strength
        count, size = metric.shape[:2]
        degree = np.asarray(edges.sum(axis=1)).ravel()
        around = np.asarray(edges @ metric.reshape(count, size * size)).reshape(metric.shape)
        # What the penalty adds to A's diagonal blocks.
        self.pulled = self.half * (degree[:, None, None] * metric + around)
        self.unknowns = count * size
        self.group: NDArray[np.intp] = np.empty(0, np.intp)
        self._members: Any = None
        self._inverse: Doubles | None = None

    def set_blocks(self, block: Doubles, free: NDArray[np.bool_]) -> None:
        """Data blocks (n, P, P) and free parameters (n, P)."""
        self.free = free
        self.own = block + self.pulled
        self.inverse = inverses(self.own, free)
        self._inverse = None

    def pull(self, x: Doubles) -> Doubles:
        """L x."""
        y: Doubles = _times(self.pulled, x) - self._across(x)
        return y

    def times(self, x: Doubles) -> Doubles:
        """A x over the free parameters, for an x that is 0 elsewhere."""
        return np.where(self.free, _times(self.own, x) - self._across(x), 0.0)

    def _across(self, x: Doubles) -> Doubles:
        """strength / 2 sum_j w_ij (Q_i + Q_j) x_j."""
        size = x.shape[1]
        both = self.edges @ np.concatenate([x, _times(self.metric, x)], axis=1)
        out: Doubles = self.half * (_times(self.metric, both[:, :size]) + both[:, size:])
        return out

    def relaxed(self, b: Doubles) -> Doubles:
        """Every voxel's block solved by itself."""
        return _times(self.inverse, b)

    def coarser(self) -> _Level | None:
        """Groups of neighbours as voxels; None where there are hardly any edges left."""
        from scipy.sparse import csr_array

        count = len(self.metric)
        alone = int((np.diff(self.edges.indptr) == 0).sum())
        group = grouped(self.edges)
        groups = int(group.max()) + 1
        if 2 * (groups - alone) > count - alone:
            return None
        self.group = group
        self._members = csr_array((np.ones(count), (group, np.arange(count))), (groups, count))
        every = (self._members @ self.edges @ self._members.T).tocoo()
        row, column = every.coords
        apart = row != column
        edges = csr_array((every.data[apart], (row[apart], column[apart])), (groups, groups))
        share = np.asarray(self._members.sum(axis=1)).ravel()
        metric = self.gathered(self.metric) / share[:, None, None]
        return _Level(edges, metric, 2.0 * self.half)

    def gathered(self, values: Doubles) -> Doubles:
        """Sums (groups, ...) over the members of each group of values (n, ...)."""
        flat = self._members @ values.reshape(len(values), -1)
        out: Doubles = np.asarray(flat).reshape(-1, *values.shape[1:])
        return out

    def solved(self, b: Doubles) -> Doubles:
        """A^-1 b outright, for the coarsest level."""
        if self._inverse is None:
            self._inverse = self._dense_inverse()
        x: Doubles = (self._inverse @ b.ravel()).reshape(b.shape)
        return x

    def _dense_inverse(self) -> Doubles:
        count, size = self.free.shape
        w = self.half * self.edges.toarray()
        pair = w[:, :, None, None] * (self.metric[:, None] + self.metric[None])
        a = -pair.transpose(0, 2, 1, 3)
        a[range(count), :, range(count), :] += self.own
        a = a.reshape(count * size, count * size)
        used = self.free.ravel() & (a.diagonal() > 0.0)
        scale = np.where(used, 1.0 / np.sqrt(np.where(used, a.diagonal(), 1.0)), 0.0)
        a *= scale[:, None] * scale
        a[range(len(a)), range(len(a))] = 1.0 + SMALLEST  # nothing is undetermined then
        inverse = np.linalg.inv(a) * (scale[:, None] * scale)
        return np.asarray(0.5 * (inverse + inverse.T))


def _times(matrices: Doubles, x: Doubles) -> Doubles:
    """Products of matrices (n, P, P) with vectors (n, P)."""
    return np.asarray(np.einsum("nij,nj->ni", matrices, x))


def grouped(edges: Any) -> NDArray[np.intp]:
    """Group (n,) of every voxel: neighbours of one that has no group yet, `GROUP` at most; one left
    alone joins the group of its closest neighbour."""
    count = edges.shape[0]
    group = np.full(count, -1, dtype=np.intp)
    groups = 0
    for i in range(count):
        if group[i] >= 0:
            continue
        others = edges.indices[edges.indptr[i] : edges.indptr[i + 1]]
        joined = others[group[others] < 0][: GROUP - 1]
        if len(others) and not len(joined):
            closest = np.argmax(edges.data[edges.indptr[i] : edges.indptr[i + 1]])
            group[i] = group[others[closest]]
            continue
        group[i] = group[joined] = groups
        groups += 1
    return group


def inverses(matrices: Doubles, free: NDArray[np.bool_]) -> Doubles:
    """Inverses (n, P, P) of symmetric matrices over their free parameters (n, P).

    Rows and columns of others, and of parameters whose pivot, given those before, is nothing, are
    0.
    """
    diagonal = np.einsum("nii->ni", matrices)
    used = free & (diagonal > 0.0)
    scale = np.where(used, 1.0 / np.sqrt(np.where(used, diagonal, 1.0)), 0.0)
    m = matrices * scale[:, :, None] * scale[:, None, :]
    size = m.shape[1]
    # Cholesky's factor L of all matrices side by side, and its inverse K row by row.
    k = np.zeros_like(m)
    lower = np.zeros_like(m)
    for i in range(size):
        pivot = m[:, i, i] - np.einsum("nq,nq->n", lower[:, i, :i], lower[:, i, :i])
        inverse = np.where(pivot > WEAK_PIVOT, 1.0, 0.0)
        inverse[pivot > WEAK_PIVOT] /= np.sqrt(pivot[pivot > WEAK_PIVOT])
        below = m[:, i + 1 :, i] - np.einsum("nrq,nq->nr", lower[:, i + 1 :, :i], lower[:, i, :i])
        lower[:, i + 1 :, i] = below * inverse[:, None]
        k[:, i] = -np.einsum("nq,nqc->nc", lower[:, i, :i], k[:, :i]) * inverse[:, None]
        k[:, i, i] = inverse
    inverse_of = np.einsum("nqi,nqj->nij", k, k)
    out: Doubles = inverse_of * scale[:, :, None] * scale[:, None, :]
    return out
