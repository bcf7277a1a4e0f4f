"""Graphs of voxels: who is like whom, as rows of a sparse symmetric matrix of weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

FEATURES = 8
"""Numbers by which the core compares two voxels; fewer are padded with zeros."""
SYMMETRY = 1e-6
"""Largest difference of w_ij and w_ji, relative to the largest weight, that counts as rounding."""


@dataclass(frozen=True, eq=False)
class Graph:
    """Weights of the edges between V voxels, symmetric, without diagonal.

    ``rows`` (V + 1,): where the row of each voxel begins in ``columns`` and ``weights`` (E,); each
    edge is held twice, once for each end.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int32]
    weights: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.rows) - 1

    @cached_property
    def neighbours(self) -> NDArray[np.int64]:
        """Number of neighbours of every voxel (V,)."""
        return np.diff(self.rows)

    @cached_property
    def degree(self) -> NDArray[np.float64]:
        """Sum of the weights of every voxel's edges (V,)."""
        total = np.zeros(len(self))
        linked = np.flatnonzero(self.neighbours > 0)  # reduceat would repeat others' first weight
        if len(linked):
            total[linked] = np.add.reduceat(self.weights, self.rows[linked], dtype=np.float64)
        return total

    @property
    def mean_degree(self) -> float:
        """Mean degree of the voxels that have neighbours; 1 where none has."""
        linked = self.neighbours > 0
        return float(self.degree[linked].mean()) if linked.any() else 1.0

    def matrix(self) -> csr_array:
        """The weights as a sparse matrix (V, V)."""
        from scipy.sparse import csr_array

        return csr_array((self.weights, self.columns, self.rows), shape=(len(self), len(self)))

    def components(self) -> NDArray[np.int32]:
        """Number of the connected component of every voxel (V,)."""
        from scipy.sparse.csgraph import connected_components

        return np.asarray(connected_components(self.matrix(), directed=False)[1])

    def average(self, values: NDArray[Any], threads: int = 1) -> NDArray[np.float32]:
        """Weighted mean of every voxel's row of ``values`` (V, n) with those of its neighbours."""
        from kety import _native

        x = np.ascontiguousarray(values, dtype=np.float32)
        out = np.empty_like(x)
        _native.average(self.rows, self.columns, self.weights, x, out, threads)
        return out


def graph_of(similarity: ArrayLike | Any) -> Graph:
    """A graph from a dense or sparse matrix of similarities (V, V).

    The diagonal is left out: a voxel is no neighbour of its own.

    Raises
    ------
    KetyError
        If the matrix is not square, not finite, has negative entries or is not symmetric.
    """
    from scipy.sparse import coo_array, issparse

    given: Any = similarity if issparse(similarity) else np.asarray(similarity)
    w: Any = coo_array(given)
    if w.ndim != 2 or w.shape[0] != w.shape[1]:
        raise KetyError(f"similarities must be (voxels, voxels), found shape {w.shape}")
    if w.dtype.kind not in "fiub":
        raise KetyError(f"similarities must be real numbers, found {w.dtype}")
    data = np.asarray(w.data, dtype=np.float64)
    row, column = w.coords
    wrong = np.flatnonzero(~np.isfinite(data) | (data < 0))
    if wrong.size:
        i = wrong[0]
        raise KetyError(
            f"similarities must be finite and not negative, found {data[i]:g} between voxels "
            f"{row[i]} and {column[i]}"
        )
    kept = (row != column) & (data > 0)
    full = coo_array((data[kept], (row[kept], column[kept])), shape=w.shape).tocsr()
    gap = abs(full - full.T).tocoo()
    largest = float(full.data.max(initial=0.0))
    if gap.nnz and gap.data.max() > SYMMETRY * largest:
        i = int(np.argmax(gap.data))
        a, b = int(gap.coords[0][i]), int(gap.coords[1][i])
        raise KetyError(
            f"similarities must be symmetric: w[{a}, {b}] = {full[a, b]:g}, "
            f"w[{b}, {a}] = {full[b, a]:g}; give (W + W.T) / 2"
        )
    full = ((full + full.T) * 0.5).tocsr()  # rounding must not make A asymmetric
    full.sort_indices()
    return Graph(
        full.indptr.astype(np.int64),
        full.indices.astype(np.int32),
        full.data.astype(np.float32),
    )


def window_offsets(
    shape: tuple[int, ...], radius: float, spacing: tuple[float, ...] | None = None
) -> NDArray[np.int32]:
    """Steps (K, 3) to the voxels around one, near to far.

    Parameters
    ----------
    shape : (X[, Y[, Z]])
        Grid; axes of length 1 have no neighbours.
    radius : float
        Of the window, in units of the finest spacing; along a coarser axis at least one step.
    spacing : (dx[, dy[, dz]]), optional
        Distance of voxels along each axis, equal where left out.
    """
    steps = np.ones(3)
    if spacing is not None:
        given = min(len(spacing), len(shape))
        steps[:given] = spacing[:given]
    sizes = np.ones(3, dtype=int)
    sizes[: len(shape)] = shape
    steps = steps / steps[sizes > 1].min(initial=steps.max())
    reach = np.where(sizes > 1, np.maximum(1.0, radius / steps), 0.0)
    # A step that lies on the radius is inside, however its division was rounded.
    ranges = [np.arange(-int(r + 1e-6), int(r + 1e-6) + 1) for r in reach]
    o = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 3)
    inside = ((o / np.maximum(reach, 1.0)) ** 2).sum(axis=1) <= 1.0 + 1e-6
    o = o[inside & o.any(axis=1)]
    order = np.argsort(((o * steps) ** 2).sum(axis=1), kind="stable")
    return np.ascontiguousarray(o[order], dtype=np.int32)


@dataclass(frozen=True, eq=False)
class Places:
    """Where V voxels lie on a grid: ``indices`` (V, 3), and ``grid`` (X, Y, Z) with each one's
    number, -1 where there is none."""

    grid: NDArray[np.int32]
    indices: NDArray[np.int32]


def places(shape: tuple[int, ...], flat: NDArray[np.intp], order: Any = "C") -> Places:
    """Places of the voxels with the flat numbers ``flat`` on a grid of up to three axes."""
    full = (*shape, 1, 1, 1)[: max(3, len(shape))]
    if len(full) > 3:  # further axes are slices of slices
        full = (*full[:2], int(np.prod(full[2:])))
    indices = np.stack(np.unravel_index(flat, full, order=order), axis=1).astype(np.int32)
    grid = np.full(full, -1, dtype=np.int32)
    grid[tuple(indices.T)] = np.arange(len(flat), dtype=np.int32)
    return Places(grid, np.ascontiguousarray(indices))


def window_graph(
    where: Places,
    offsets: NDArray[np.int32],
    features: NDArray[np.floating],
    variance: NDArray[np.floating],
    threshold: float,
    *,
    soft: bool = True,
    threads: int = 1,
) -> Graph:
    """Join voxels within a window whose features agree within their noise.

    Two voxels are joined where |f_i - f_j|^2 / (s_i + s_j) is below the threshold, with
    ``features`` f (V, n <= 8) and ``variance`` s (V,) of each of them. Weights are 1 up to half
    to 0 at the threshold, or are 1 where not ``soft``.
    """
    from kety import _native

    count, width = features.shape
    padded = np.zeros((count, FEATURES), dtype=np.float32)
    padded[:, :width] = features
    rows = np.zeros(count + 1, dtype=np.int64)
    spread = np.ascontiguousarray(variance, dtype=np.float32)

    def call(columns: NDArray[np.int32] | None, weights: NDArray[np.float32] | None) -> None:
        _native.window_graph(
            where.grid,
            where.indices,
            padded,
            spread,
            offsets,
            threshold,
            soft,
            rows,
            columns,
            weights,
            threads,
        )

    call(None, None)
    np.cumsum(rows, out=rows)
    columns = np.empty(rows[-1], dtype=np.int32)
    weights = np.empty(rows[-1], dtype=np.float32)
    call(columns, weights)
    return Graph(rows, columns, weights)
