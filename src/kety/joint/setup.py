"""What a joint fit is made of: noise, graph, metric and start, from curves and voxelwise fits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kety.errors import KetyError
from kety.fitting.dictionary import delay_cells
from kety.fitting.engine import Solve
from kety.fitting.problem import power_of_two
from kety.joint import neighbours
from kety.joint.graph import Graph, Places, graph_of, window_offsets
from kety.joint.likeness import (
    FEW,
    NEAR,
    Join,
    alike,
    join_anywhere,
    join_in_window,
    subspace,
)
from kety.joint.normals import Voxels, make_voxels, pack
from kety.joint.options import Joint
from kety.joint.similarity import kernel_ridge
from kety.joint.solve import Bounds, Penalty

if TYPE_CHECKING:
    from kety.fitting.problem import Problem

Doubles = NDArray[np.float64]
FLAT_RADIUS, DEEP_RADIUS = 3.0, 2.0
DENSE = 1024
"""Most voxels of a dense similarity, unless asked for."""
KEPT = 16
WILD = 100.0
"""Times the typical variance of the noise, the most that a voxel is granted."""


@dataclass(frozen=True, eq=False)
class Setup:
    """A joint fit ready to be solved at any strength.

    ``voxelwise`` and ``guide`` (V, P): parameters of every voxel by itself, and of the mean curve
    of it and its neighbours, kernel units. ``precision`` (V,): weight of its sum of squares.
    ``metric`` (V, P (P + 1) / 2): Q. ``unit``: what a strength of 1 multiplies the weights by.
    ``solver`` solves curves one by one. ``noise`` (V,): variance of a frame of weight 1, averaged
    among neighbours; ``own_noise`` (V,): of the voxel itself. ``voxelwise_cost`` (V,): of
    ``voxelwise``.
    ``bands``: stretches between the jumps along a delay, by its place among the parameters.
    """

    voxels: Voxels
    solver: Solve
    graph: Graph
    metric: Doubles
    precision: Doubles
    noise: Doubles
    own_noise: Doubles
    voxelwise_cost: Doubles
    unit: float
    voxelwise: Doubles
    guide: Doubles
    bands: dict[int, Doubles]

    def penalty(self, strength: float) -> Penalty:
        """The penalty at a strength, in the unit of `Joint.strength`."""
        return Penalty(self.graph, self.metric, float(strength * self.unit))

    def bounds(self, parameters: Doubles) -> Bounds:
        """Bounds (V, P) around parameters: delays stay between the jumps where they start."""
        lo, hi = self.voxels.problem.kernel_bounds()
        lower = np.tile(lo, (len(parameters), 1))
        upper = np.tile(hi, (len(parameters), 1))
        for slot, bands in self.bands.items():
            which = np.searchsorted(bands[:, 0], parameters[:, slot], side="right") - 1
            band = bands[np.maximum(which, 0)]
            lower[:, slot], upper[:, slot] = band[:, 0], band[:, 1]
        return Bounds(lower, upper)


def make_setup(
    problem: Problem,
    joint: Joint,
    solver: Solve,
    curves: NDArray[Any],
    voxelwise: Doubles,
    where: Places | None,
    chosen: NDArray[np.intp] | None = None,
) -> Setup:
    """Everything about a joint fit but its strength.

    Parameters
    ----------
    solver
        Solves a block of curves voxel by voxel, whether they enhance or not.
    curves : (V, T) array
        Curves of the voxels that take part, all finite.
    voxelwise : (V, P) array
        Their parameters one by one, kernel units.
    where
        Their places on a grid; None where the order of voxels says nothing.
    chosen : (V,) array, optional
        Which rows of a given matrix of weights they are; all where left out.
    """
    voxels = make_voxels(problem, curves)
    at_start = voxels.normals(voxelwise)
    frames = len(problem.times) if problem.weights is None else int((problem.weights > 0).sum())
    spare = max(frames - problem.free_count - problem.baseline, 1)
    variance = at_start.cost / spare
    typical = float(np.median(variance))
    if not typical > 0:  # noise-free curves: any two that differ at all are not alike
        typical = max(float((np.asarray(curves, dtype=np.float64) ** 2).mean()) * 1e-12, 1e-300)
    variance = np.maximum(variance, 1e-6 * typical)
    # A wild voxel agrees with any other within its own noise; it must not spread.
    tame = np.minimum(variance, WILD * typical)
    level = voxels.weight_sum / len(problem.times)
    span = subspace(problem, voxelwise, typical / level)
    features = span.project(voxels.curves)
    graph = make_graph(problem, joint, voxels, features, tame / level, where, chosen)
    noise = graph.average(tame[:, None], problem.threads)[:, 0].astype(np.float64)
    guide = _guide(problem, solver, graph, features, span.back, voxelwise)
    if joint.scaled:
        precision = 1.0 / noise
        metric = voxels.normals(guide).hessian * precision[:, None]
        unit = 1.0 / graph.mean_degree
    else:
        weights = problem.weights
        scale = 1.0 if weights is None else power_of_two(float(weights.max()))
        precision = np.full(len(voxels), scale)
        metric = pack(
            np.broadcast_to(np.eye(problem.size), (len(voxels), problem.size, problem.size))
        )
        unit = 2.0 * len(problem.times) / len(voxels)  # equation 3
    return Setup(
        voxels,
        solver,
        graph,
        metric,
        precision,
        noise,
        variance,
        at_start.cost,
        unit,
        voxelwise,
        guide,
        _bands(problem),
    )


def make_graph(
    problem: Problem,
    joint: Joint,
    voxels: Voxels,
    features: NDArray[np.floating],
    variance: Doubles,
    where: Places | None,
    chosen: NDArray[np.intp] | None,
) -> Graph:
    """The graph that the options ask for."""
    count = len(voxels)
    if not isinstance(joint.similarity, str):
        whole = graph_of(joint.similarity)
        if chosen is None:
            if len(whole) != count:
                raise KetyError(
                    f"the matrix of similarities is for {len(whole)} voxels, but {count} are fitted"
                )
            return whole
        return graph_of(whole.matrix()[chosen][:, chosen])
    offsets = None if where is None else _offsets(joint, where)
    if joint.similarity == "graph":
        return alike(
            *_joins(joint, where, offsets, problem.threads), features, variance, problem.threads
        )
    kept = joint.neighbours
    if joint.similarity == "spatial" and where is None:
        raise KetyError(
            "the spatial similarity needs voxels on a grid of two or three axes; give curves "
            "(X, Y, T) or (X, Y, Z, T) and a mask, or another similarity"
        )
    if count < 3:  # no distances whose spread could be a scale
        return graph_of(np.ones((count, count)))
    if joint.similarity == "spatial":
        assert where is not None
        if kept is None and count <= DENSE:
            return neighbours.dense_spatial(_coordinates(joint, where))
        if offsets is None:
            return neighbours.nearest(_coordinates(joint, where), kept or KEPT)
        return neighbours.nearest_in_window(where, offsets, None, kept or KEPT)
    ridge = kernel_ridge(voxels.curves, problem.times)
    if kept is None and count <= DENSE:
        return neighbours.dense_temporal(ridge)
    return neighbours.nearest_temporal(ridge, kept or KEPT, where, offsets)


def _joins(
    joint: Joint, where: Places | None, offsets: NDArray[np.int32] | None, threads: int
) -> tuple[Join, Join]:
    anywhere = join_anywhere(joint.seed)
    if where is None:
        return anywhere, anywhere
    near = join_in_window(where, window_offsets(where.grid.shape, NEAR, joint.spacing), threads)
    return near, anywhere if offsets is None else join_in_window(where, offsets, threads)


def _offsets(joint: Joint, where: Places) -> NDArray[np.int32] | None:
    """Steps to the voxels of the window; None where it is everywhere."""
    radius = joint.radius
    if radius is None and len(where.indices) <= FEW:
        return None
    if radius is None:
        radius = FLAT_RADIUS if min(where.grid.shape) == 1 else DEEP_RADIUS
    if np.isinf(radius):
        return None
    return window_offsets(where.grid.shape, radius, joint.spacing)


def _coordinates(joint: Joint, where: Places) -> Doubles:
    step = np.ones(3)
    if joint.spacing is not None:
        given = joint.spacing[:3]
        step[: len(given)] = given
    return where.indices * step


def _guide(
    problem: Problem,
    solver: Solve,
    graph: Graph,
    features: NDArray[np.float32],
    back: Doubles,
    voxelwise: Doubles,
) -> Doubles:
    """Parameters (V, P) of each voxel's mean curve with its neighbours; those alone keep theirs."""
    guide = voxelwise.copy()
    linked = np.flatnonzero(graph.neighbours > 0)
    if len(linked):
        mean = graph.average(features, problem.threads)[linked]
        block = 1 << 16
        for first in range(0, len(linked), block):
            part = linked[first : first + block]
            curves = (mean[first : first + block] @ back).astype(problem.dtype)
            found = solver(curves).parameters.astype(np.float64)
            guide[part] = np.where(np.isfinite(found), found, voxelwise[part])
    return guide


def _bands(problem: Problem) -> dict[int, Doubles]:
    """Stretches (n, 2) between the jumps of the model along its delays, by their place among the
    solver's quantities; of those alone that have jumps."""
    lo, hi = problem.kernel_bounds()
    delays = [p.name for p in problem.parameters if p.is_delay]
    out = {}
    for name, source in zip(delays, problem.inputs, strict=True):
        slot = problem.slot(name)
        _, _, band = delay_cells(source, problem.times, float(lo[slot]), float(hi[slot]))
        bands = np.unique(band, axis=0)
        if len(bands) > 1:
            out[slot] = bands
    return out


def every_voxel(problem: Problem) -> Problem:
    """The problem without the question whether voxels enhance."""
    return replace(problem, find_enhancing=False)
