"""kety's own similarity: voxels near in space whose curves agree within their noise.

Curves are compared where their models live: in the few directions that the fitted curves span, in
units of the noise. A first pass joins close neighbours that agree, and averages their curves; a
second pass compares the averages, whose noise is less, within a wider window. Borders and small
lesions then stand out by several times the noise, and none is smoothed away for being near
(the idea of propagation and separation: Polzehl and Spokoiny, J R Stat Soc B 62:335, 2000).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kety.fitting.forward import kernel_curves
from kety.joint.graph import FEATURES, Graph, Places, window_graph

if TYPE_CHECKING:
    from kety.fitting.problem import Problem

SAMPLE = 20_000
"""Voxels whose fitted curves span the subspace."""
UNSEEN = 0.999
"""Share of the voxels whose curves the subspace holds to within the noise of one frame."""
NEAR = 1.5
"""Radius of the first pass, in voxels."""
FIRST_LEVEL, LEVEL = 0.8, 0.95
"""Share of the pairs of equal voxels that the first and the last pass join, at least."""
BLOCK = 1 << 16

Doubles = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Subspace:
    """Directions that the curves of a problem span.

    ``directions`` (T, r): z = centred(y) @ directions; they are orthonormal under the weights of
    the frames, so that noise of variance s^2 in every (weighted) frame is of variance s^2 in each.
    """

    directions: Doubles
    mean: Doubles | None

    def project(self, curves: NDArray[Any]) -> NDArray[np.float32]:
        """Coordinates (V, r) of curves (V, T)."""
        out = np.empty((len(curves), self.directions.shape[1]), dtype=np.float32)
        for i in range(0, len(curves), BLOCK):
            out[i : i + BLOCK] = curves[i : i + BLOCK] @ self.directions
        return out


def subspace(
    problem: Problem, parameters: Doubles, variance: float, seed: int = 0
) -> tuple[Subspace, Doubles]:
    """The subspace of fitted curves, and what leads back from it to curves (r, T).

    As many directions, up to `FEATURES`, as hold `UNSEEN` of the fitted curves to within
    ``variance``, so that rare tissues count as well as common ones.
    """
    rng = np.random.default_rng(seed)
    chosen = parameters
    if len(parameters) > SAMPLE:
        chosen = parameters[np.sort(rng.choice(len(parameters), SAMPLE, replace=False))]
    curves, _ = kernel_curves(problem.aif, problem.times, chosen, threads=problem.threads)
    weights = np.ones(len(problem.times)) if problem.weights is None else problem.weights
    weights = weights / weights.mean()
    root = np.sqrt(weights)
    centre = np.eye(len(root))
    if problem.baseline:  # a constant of every voxel says nothing
        centre -= np.outer(weights, np.ones(len(root))) / weights.sum()
    f = (curves @ centre) * root
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
    return Subspace(centre @ (root[:, None] * basis), None), (basis * back[:, None]).T


def alike(
    where: Places,
    near: NDArray[np.int32],
    window: NDArray[np.int32],
    features: NDArray[np.floating],
    variance: NDArray[np.floating],
    *,
    threads: int = 1,
    levels: tuple[float, float] = (FIRST_LEVEL, LEVEL),
    soft: bool = True,
    passes: int = 2,
) -> Graph:
    """Join voxels whose features (V, r) agree within their ``variance`` (V,)."""
    from scipy.stats import chi2

    rank = features.shape[1]
    first, last = (float(chi2.ppf(level, rank)) * (2.0 if soft else 1.0) for level in levels)
    guide, spread = features, variance
    for _ in range(passes - 1):
        graph = window_graph(where, near, guide, spread, first, soft=soft, threads=threads)
        guide, spread = graph.average(features, threads), averaged(graph, variance)
    return window_graph(where, window, guide, spread, last, soft=soft, threads=threads)


def averaged(graph: Graph, variance: NDArray[np.floating]) -> NDArray[np.float32]:
    """Variance (V,) of each voxel's weighted mean with its neighbours."""
    w = graph.matrix()
    squares = w.copy()
    squares.data = squares.data**2
    total = 1.0 + graph.degree
    return np.asarray((variance + squares @ variance) / total**2, dtype=np.float32)
