"""Starts for models of several terms: the best pairs of curves (`NodeTable`), and from there, where
they are exponentials, a descent between the nodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kety.fitting.nodes import NodeTable, make_nodes

if TYPE_CHECKING:
    from kety.fitting.optimizers.varprolm import VarProLM
    from kety.fitting.terms import TermsKernel

Doubles = NDArray[np.float64]
Singles = NDArray[np.float32]
Places = NDArray[np.intp]

CANDIDATES, CANDIDATES_ALONE = 8, 16
"""Most nodes of a voxel that are tried: with a descent between the nodes, and without."""
SMALLEST_SHARE, SMALLEST_VOLUME = 0.03, 1e-3
"""Of a pair with one amplitude of 0, the share that it starts with, since at 0 its rate has no
slope: of the curve, and after a descent of the volume."""
FIRST_DESCENT, DESCENT = 4, 8
"""Steps of the descents from all nodes, and of those that are worth going on with."""
FIRST_RIVAL, FIRST_UNSURE = 0.15, 2e-4
"""How much worse than the best a descent may stand after its first steps: relative to what that
leaves, and to the curve's sum of squares."""
RIVAL, RIVAL_DOUBLE, UNSURE = 1e-2, 5e-2, 3e-5
"""The same at its end, the first in single precision, which is there for speed; those that pass are
solved exactly. The last is the dictionary's error."""
CLEAN, CLEAN_UNSURE = 1e-4, 5e-4
"""What is left of a curve of almost no noise, relative to its sum of squares; and how much more a
descent may leave to be solved exactly as well."""


@dataclass(frozen=True, eq=False)
class Starts:
    """Where the exact solver begins.

    ``first`` (V + 1): the rows of each voxel; ``parameters`` (rows, P) in kernel units; ``band``
    (rows, 2): jumps that the delay may not cross, s.
    """

    first: NDArray[np.int64]
    parameters: Doubles
    band: Doubles


@dataclass(frozen=True, eq=False)
class Descents:
    """Pairs of exponentials of some voxels: ``voxel`` and ``group`` of each, where it stands, and
    what it leaves in the basis."""

    voxel: Places
    group: Places
    fast: Singles
    slow: Singles
    delay: Singles
    x: Singles
    y: Singles
    left: Singles

    def some(self, kept: NDArray[np.bool_]) -> Descents:
        """Those that are kept."""
        return Descents(*(getattr(self, name)[kept] for name in self.__dataclass_fields__))


def bands_of(bands: Doubles, delay: Doubles) -> Doubles:
    """The stretch between jumps (V, 2) in which each delay (V,) lies, s."""
    which = np.searchsorted(bands[:, 1], delay - 1e-6).clip(max=len(bands) - 1)
    return np.ascontiguousarray(bands[which])


def prepare_pairs(
    kernel: TermsKernel, options: VarProLM, table: NodeTable | None = None
) -> Callable[[NDArray[Any]], Starts]:
    """The search of a block of curves (V, T), on the table of the problem's nodes."""
    nodes = table or make_nodes(kernel)
    problem = kernel.problem
    lo, hi = problem.kernel_bounds()
    threshold = problem.enhancement_threshold()
    names = [p.name for p in problem.parameters]
    weighted = nodes.weighted.astype(problem.dtype)

    def search(curves: NDArray[Any]) -> Starts:
        with np.errstate(over="ignore", invalid="ignore"):
            y = np.asarray(curves, dtype=problem.dtype) * problem.dtype.type(1.0 / kernel.scale)
            usable = np.isfinite(y.sum(axis=1))
            usable &= y.max(axis=1) > y.min(axis=1)
            if not usable.all():
                y[~usable] = 0.0
            at_first = np.maximum(y[:, 0], 0.0)
            if problem.baseline or problem.initial:
                y -= y.mean(axis=1, keepdims=True)
            y = (y * weighted).astype(np.float32, copy=False)
        z, square, node_a, node_b, x, second, left = _scan(kernel, options, nodes, y)
        there = (node_a >= 0) & usable[:, None]
        if threshold > 0:
            there &= (square - left[:, 0] > threshold * left[:, 0])[:, None]
        voxel, which = np.nonzero(there)
        a, b = node_a[voxel, which], node_b[voxel, which]
        group = nodes.group[a]
        values = {n: v[a] for n, v in nodes.values_a.items()}
        values |= {n: v[b] for n, v in nodes.values_b.items()}
        values |= {n: v[group] for n, v in nodes.shared.items()}
        amplitudes = x[voxel, which], second[voxel, which]
        size_a, size_b, share = nodes.length_a[a], nodes.length_b[b], SMALLEST_SHARE
        if nodes.descent is None:
            one, two = amplitudes[0] / size_a, amplitudes[1] / size_b
        else:
            ends = _descend(kernel, options, nodes, z, square, voxel, group, values)
            voxel, group = ends.voxel, ends.group
            one, two = ends.x.astype(np.float64), ends.y.astype(np.float64)
            values = {n: getattr(ends, n).astype(np.float64) for n in ("fast", "slow", "delay")}
            size_a, size_b = 1.0 / values["fast"], 1.0 / np.maximum(values["slow"], 1e-3)
            share = SMALLEST_VOLUME
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            found = nodes.recipe.start(values, *_lifted(one, two, size_a, size_b, share))
        found["c0"] = at_first[voxel]
        theta = np.empty((len(voxel), len(names)))
        for i, name in enumerate(names):
            column = np.broadcast_to(found[name], len(voxel))
            theta[:, i] = np.clip(np.nan_to_num(column, nan=0.5 * (lo[i] + hi[i])), lo[i], hi[i])
        first = np.zeros(len(curves) + 1, np.int64)
        np.cumsum(np.bincount(voxel, minlength=len(curves)), out=first[1:])
        return Starts(first, theta, np.ascontiguousarray(nodes.band[group]))

    return search


def _scan(
    kernel: TermsKernel, options: VarProLM, nodes: NodeTable, y: Singles
) -> tuple[Singles, Singles, NDArray[np.int32], NDArray[np.int32], Singles, Singles, Singles]:
    """Products with the basis (V, rank) and sums of squares (V,) of weighted curves, and their best
    nodes, (V, candidates): both curves (-1: no more), the amplitudes of their unit vectors, and
    what they leave."""
    from kety import _native

    shape = (len(y), CANDIDATES_ALONE if nodes.descent is None else CANDIDATES)
    a, b = np.empty(shape, np.int32), np.empty(shape, np.int32)
    x, second, left = (np.empty(shape, np.float32) for _ in range(3))
    z, square = np.empty((len(y), nodes.rank), np.float32), np.empty(len(y), np.float32)
    record = nodes.scan | {"ratio": options.candidate_ratio - 1.0}
    threads, instructions = kernel.problem.threads, options.instruction_set
    y = np.ascontiguousarray(y)
    _native.pairs(record, y, z, square, a, b, x, second, left, threads, instructions)
    return z, square, a, b, x, second, left


def _descend(
    kernel: TermsKernel,
    options: VarProLM,
    nodes: NodeTable,
    z: Singles,
    square: Singles,
    voxel: Places,
    group: Places,
    values: dict[str, Doubles],
) -> Descents:
    """A few steps from all nodes; those that then lead on to the end."""
    from kety import _native

    assert nodes.descent is not None
    off = np.maximum(square - np.einsum("vr,vr->v", z, z), 0.0)
    where = [np.ascontiguousarray(values[n], np.float32) for n in ("fast", "slow", "delay")]
    found = Descents(voxel, group, *where, *(np.empty(len(voxel), np.float32) for _ in range(3)))
    last = RIVAL if kernel.problem.dtype == np.float32 else RIVAL_DOUBLE
    for steps, rival, unsure in (
        (FIRST_DESCENT, FIRST_RIVAL, FIRST_UNSURE),
        (DESCENT, last, UNSURE),
    ):
        _native.descend(
            nodes.descent | {"iterations": steps},
            z,
            found.voxel.astype(np.int32),
            nodes.cell[found.group],
            found.fast,
            found.slow,
            found.delay,
            found.x,
            found.y,
            found.left,
            kernel.problem.threads,
            options.instruction_set,
        )
        total = found.left + off[found.voxel]
        own = square[found.voxel]
        # Of a curve of almost no noise the dictionary's own error decides.
        clean = np.where(total < CLEAN * own, CLEAN_UNSURE, unsure).astype(np.float32)
        found = found.some(_worth(found, total, clean * own, rival, len(z)))
    return found


def _worth(
    found: Descents, left: Singles, unsure: Singles, rival: float, count: int
) -> NDArray[np.bool_]:
    """Which descents are worth going on with: the best of each voxel, and those that are too close
    to it to call and stand elsewhere."""
    voxel, index = found.voxel, np.arange(len(left))
    best = np.full(count, np.inf, np.float32)
    np.minimum.at(best, voxel, left)
    leads = left <= best[voxel]
    leader = np.full(count, len(left))
    np.minimum.at(leader, voxel[leads], index[leads])
    own = leader[voxel]
    same = np.ones(len(left), np.bool_)
    for e, floor in ((found.fast, 1e-3), (found.slow, 1e-4), (found.delay, 0.05)):
        same &= np.abs(e - e[own]) <= 0.02 * np.abs(e[own]) + floor
    near = left <= best[voxel] * (1 + rival) + unsure
    return np.asarray(near & (~same | (index == own)))


def _lifted(
    x: Doubles, y: Doubles, size_x: Doubles, size_y: Doubles, share: float
) -> tuple[Doubles, Doubles]:
    """Amplitudes with neither of them 0."""
    least = share * (x * size_x + y * size_y)
    return np.maximum(x, least / size_x), np.maximum(y, least / size_y)
