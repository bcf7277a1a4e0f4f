"""kety's own similarity: voxels near in space whose curves agree within their noise.

Curves are compared where their models live: in the few directions that the fitted curves span, in
units of the noise. Close neighbours that agree are joined and their curves averaged, again and
again, since the averages of the last pass have less noise to compare; in the end a wider window is
joined. Borders and small lesions then stand out by several times the noise, and none is smoothed
away for being near (the idea of propagation and separation: Polzehl and Spokoiny, J R Stat Soc B
62:335, 2000).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kety.joint.graph import FEATURES, Graph, Places, graph_of, window_graph
from kety.joint.normals import exact_curves

if TYPE_CHECKING:
    from kety.fitting.problem import Problem

SAMPLE = 20_000
"""Voxels whose fitted curves span the subspace."""
UNSEEN = 0.99
"""Share of the voxels whose curves the subspace holds to within the noise of one frame."""
NEAR = 1.5
"""Radius of the first pass, in voxels."""
FEW = 512
"""Voxels up to which every one may be a neighbour of every other."""
LEVEL, LEVEL_OF_FEW = 0.975, 0.995
"""Share of the pairs of equal voxels whose curves differ by less than the threshold. Of few voxels,
one that seems to belong to none is likelier noise than a lesion."""
PASSES = 7
"""Most passes; fewer where the graph no longer changes."""
TALL = 30.0
"""Times the typical size of a fitted curve, the most that one counts for."""
BLOCK = 1 << 16
SHARED = 0.5
"""Of the neighbours that two joined voxels could have in common, how many they must have."""
TORN = 0.7
"""Share of the pairs of a voxel's neighbours that are joined, below which it lies between two."""
GROUP, ROUNDS, CHANCE = 512, 2, 24
"""Voxels that meet at random, how often, and most neighbours that each takes of them."""

Doubles = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Subspace:
    """Directions that the curves of a problem span.

    ``directions`` (T, r) give coordinates z = y @ directions, each with the noise of one frame of
    weight 1; ``back`` (r, T) leads from there to curves (without their fitted constant).
    """

    directions: Doubles
    back: Doubles

    def project(self, curves: NDArray[Any]) -> NDArray[np.float32]:
        """Coordinates (V, r) of curves (V, T)."""
        out = np.empty((len(curves), self.directions.shape[1]), dtype=np.float32)
        for i in range(0, len(curves), BLOCK):
            out[i : i + BLOCK] = curves[i : i + BLOCK] @ self.directions
        return out


def subspace(problem: Problem, parameters: Doubles, variance: float, seed: int = 0) -> Subspace:
    """The subspace of the fitted curves of some voxels.

    As many directions, up to `FEATURES`, as hold `UNSEEN` of the fitted curves to within
    ``variance``, so that rare tissues count as well as common ones.
    """
    rng = np.random.default_rng(seed)
    chosen = parameters
    if len(parameters) > SAMPLE:
        chosen = parameters[np.sort(rng.choice(len(parameters), SAMPLE, replace=False))]
    curves = exact_curves(problem, chosen)
    weights = np.ones(len(problem.times)) if problem.weights is None else problem.weights
    weights = weights / weights.mean()
    root = np.sqrt(weights)
    centre = np.eye(len(root))
    if problem.baseline:  # a constant of every voxel says nothing
        centre -= np.outer(weights, np.ones(len(root))) / weights.sum()
    f = (curves @ centre) * root
    size = np.linalg.norm(f, axis=1)
    most = TALL * max(float(np.median(size)), 1e-300)
    f *= np.minimum(1.0, most / np.maximum(size, 1e-300))[:, None]  # no voxel decides for all
    _, _, rows = np.linalg.svd(f.T @ f)
    rank = FEATURES
    for r in range(1, FEATURES + 1):
        rest = np.einsum("vt,vt->v", f, f) - ((f @ rows[:r].T) ** 2).sum(axis=1)
        if np.quantile(rest, UNSEEN) < variance:
            rank = r
            break
    basis = rows[: min(rank, len(rows))].T
    with np.errstate(divide="ignore"):
        back = np.where(root > 0, 1.0 / root, 0.0)
    return Subspace(centre @ (root[:, None] * basis), (basis * back[:, None]).T)


Join = Callable[[NDArray[np.floating], NDArray[np.floating], float], Graph]
"""Joins voxels whose features (V, r), of variances (V,), agree within a threshold."""


def alike(
    first: Join,
    last: Join,
    features: NDArray[np.floating],
    variance: NDArray[np.floating],
    threads: int = 1,
) -> Graph:
    """Join voxels whose features (V, r) agree within their ``variance`` (V,).

    ``first`` joins them in the early passes, among whose neighbours features are averaged, and
    ``last`` in the last.
    """
    from scipy.special import gammaincinv

    level = LEVEL_OF_FEW if len(features) <= FEW else LEVEL
    threshold = float(2.0 * gammaincinv(0.5 * features.shape[1], level))  # of chi squared
    guide, spread = features, variance
    before: Graph | None = None
    for _ in range(PASSES - 1):
        graph = first(guide, spread, threshold)
        if before is not None and np.array_equal(graph.weights, before.weights):
            break
        before = graph
        guide, spread = graph.average(features, threads), averaged(graph, variance)
    return last(guide, spread, threshold)


def averaged(graph: Graph, variance: NDArray[np.floating]) -> NDArray[np.float32]:
    """Variance (V,) of each voxel's weighted mean with its neighbours."""
    squares = graph.matrix()
    squares.data = squares.data**2
    total = 1.0 + graph.degree
    return np.asarray((variance + squares @ variance) / total**2, dtype=np.float32)


def join_in_window(where: Places, offsets: NDArray[np.int32], threads: int = 1) -> Join:
    """Among the voxels within a window."""

    def join(
        features: NDArray[np.floating], variance: NDArray[np.floating], threshold: float
    ) -> Graph:
        return window_graph(where, offsets, features, variance, threshold, threads=threads)

    return join


def join_anywhere(seed: int = 0) -> Join:
    """Among voxels drawn at random, wherever they lie.

    The nearest of many would be those with the same noise, and averaging them would keep it. So
    each voxel meets a few hundred others by chance, and some of those that agree become neighbours.
    """

    def join(
        features: NDArray[np.floating], variance: NDArray[np.floating], threshold: float
    ) -> Graph:
        from scipy.sparse import coo_array

        count = len(features)
        rng = np.random.default_rng(seed)
        rows, columns, weights = [], [], []
        for _ in range(1 if count <= GROUP else ROUNDS):
            order = rng.permutation(count)
            for group in np.array_split(order, -(-count // GROUP)):
                f = np.asarray(features[group], dtype=np.float64)
                square = (f * f).sum(axis=1)
                distance = np.maximum(square[:, None] + square - 2.0 * f @ f.T, 0.0)
                limit = threshold * (variance[group][:, None] + variance[group])
                weight = np.minimum(1.0, 2.0 - 2.0 * distance / limit)
                np.fill_diagonal(weight, 0.0)
                close = _without_bridges(weight > 0)
                i, j = np.nonzero(_next_ones(close, CHANCE))
                rows.append(group[i])
                columns.append(group[j])
                weights.append(weight[i, j])
        one = coo_array(
            (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))),
            shape=(count, count),
        ).tocsr()
        return graph_of(one.maximum(one.T))

    return join


def _without_bridges(close: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Drop the edges (V, V) between voxels with hardly a neighbour in common.

    A voxel between two tissues that agrees with some of each would join all of both. Where a
    voxel's neighbours are mostly no neighbours of each other, its edges to the fewer of them go.
    """
    a = close.astype(np.float32)
    common = np.where(close, a @ a, 0.0)
    others = np.maximum(a.sum(axis=1) - 1.0, 0.0)
    kept = close & (common >= SHARED * np.minimum(others[:, None], others))
    pairs = np.maximum((others + 1.0) * others, 1.0)
    torn = common.sum(axis=1) / pairs < TORN
    loose = torn[:, None] & (common < SHARED * others[:, None])
    return np.asarray(kept & ~loose & ~loose.T)


def _next_ones(close: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """Of the voxels (V, V) close to each, the first ``count`` that follow it in their order.

    The order is random, so the noise knows nothing of it; and each begins at its own place, so
    that nobody is everybody's neighbour.
    """
    size = len(close)
    following = (np.arange(size)[:, None] + np.arange(1, size + 1)) % size
    turned = np.take_along_axis(close, following, axis=1)
    turned &= np.cumsum(turned, axis=1) <= count
    kept = np.zeros_like(close)
    np.put_along_axis(kept, following, turned, axis=1)
    return kept
