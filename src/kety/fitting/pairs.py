"""Starts for models of several terms: the best pairs of curves (`NodeTable`), and from there, where
they are exponentials, a descent between the nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kety.fitting.nodes import NodeTable
from kety.models.trace import larger

if TYPE_CHECKING:
    from kety.fitting.optimizers.varprolm import VarProLM
    from kety.fitting.terms import TermsKernel

Doubles = NDArray[np.float64]
Singles = NDArray[np.float32]

CANDIDATES, CANDIDATES_ALONE = 8, 16
"""Most pairs of a voxel that are tried: with a descent between the nodes, and without."""
SMALLEST_SHARE, SMALLEST_VOLUME = 0.03, 1e-3
"""Of a pair with one amplitude of 0, the share that it starts with, since at 0 its rate has no
slope: of the curve, and after a descent of the volume."""
ENDS = ("fast", "slow", "delay")
"""What the end of a descent stands for."""
STEPS = 12
"""Most steps of a descent."""
RIVAL, RIVAL_DOUBLE, UNSURE = 5e-3, 5e-2, 1e-4
"""How much worse than the best of its voxel a descent may end to be solved exactly as well:
relative to what the best leaves, the first in single precision, which is there for speed; and to
the curve's sum of squares, the dictionary's error."""
CLEAN, CLEAN_UNSURE = 1e-4, 2e-4
"""What is left of a curve of almost no noise, relative to its sum of squares; and how much more a
descent may leave to be solved exactly as well."""
FLAT, TRUST = 3e-5, 2.0
"""Relative fall that ends a descent; and how many times what the quadratic promises a descent may
still gain: what would lose even so is given up."""


@dataclass(frozen=True, eq=False)
class Starts:
    """Where the exact solver begins.

    ``first`` (V + 1): the rows of each voxel; ``parameters`` (rows, P) in kernel units; ``band``
    (rows, 2 for each delay that jumps): jumps that they may not cross, s.
    """

    first: NDArray[np.int64]
    parameters: Doubles
    band: Doubles


class Found(NamedTuple):
    """What the search of a table found: the ``voxel`` and the ``group`` of each start (n,), the
    ``values`` that it has (`values_of_starts`), and its amplitudes ``x`` and ``y``."""

    voxel: NDArray[np.intp]
    group: NDArray[np.int32]
    values: dict[str, Any]
    x: NDArray[Any]
    y: NDArray[Any]


class Scan(NamedTuple):
    """Products ``z`` with the basis (V, rank) and sums of squares ``square`` (V,) of weighted
    curves, and their best pairs, (V, candidates): number (-1: no more), the amplitudes ``x`` and
    ``y`` of the unit vectors, and what they leave."""

    z: Singles
    square: Singles
    pair: NDArray[np.int32]
    x: Singles
    y: Singles
    left: Singles


@dataclass(frozen=True, eq=False)
class Descents:
    """Where the descents of voxels ended, (V, candidates), the best first: the ``group`` of each,
    -1 where there are no more; rates, delay and amplitudes; and what it leaves of the curve."""

    group: NDArray[np.int32]
    fast: Singles
    slow: Singles
    delay: Singles
    x: Singles
    y: Singles
    left: Singles


def bands_of(bands: Doubles, delay: Doubles) -> Doubles:
    """The stretch between jumps (V, 2) in which each delay (V,) lies, s."""
    which = np.searchsorted(bands[:, 1], delay - 1e-6).clip(max=len(bands) - 1)
    return np.ascontiguousarray(bands[which])


def prepare_pairs(
    kernel: TermsKernel, options: VarProLM, tables: Sequence[NodeTable]
) -> Callable[[NDArray[Any]], Starts]:
    """The search of a block of curves (V, T) on each of those tables of the problem's nodes."""
    problem = kernel.problem
    threshold = problem.enhancement_threshold()
    if problem.card is not None:
        from kety.fitting.cuda.starts import StartsOnCard

        return StartsOnCard(problem.card, kernel, options, tables)

    def search(curves: NDArray[Any]) -> Starts:
        y, usable, at_first = _ready(kernel, tables[0].weighted, curves)
        scans = [_scan(kernel, options, nodes, y) for nodes in tables]
        if threshold > 0:
            found = [(scan.square, scan.left[:, 0]) for scan in scans]
            usable &= enhancing(threshold, found)
        parts = []
        for nodes, scan in zip(tables, scans, strict=True):
            scan.pair[~usable] = -1
            if nodes.descent is None:
                where = found_pairs(nodes, scan.pair, scan.x, scan.y)
            else:
                where = found_ends(_descend(kernel, options, nodes, scan.z, scan.square, scan.pair))
            parts.append(starts_of(kernel, nodes, where, at_first))
        return gathered(len(curves), parts)

    return search


def _ready(
    kernel: TermsKernel, weighted: Doubles, curves: NDArray[Any]
) -> tuple[Singles, NDArray[np.bool_], NDArray[Any]]:
    """Curves (V, T) as they are scanned, which are of use (V,), and their first samples (V,), if
    not negative."""
    from kety import _native

    problem = kernel.problem
    single = problem.dtype == np.float32
    ready = _native.ready_curves_single if single else _native.ready_curves_double
    with np.errstate(over="ignore"):  # too large for the precision: found not finite
        data = np.ascontiguousarray(curves, dtype=problem.dtype)
    y, usable = np.empty(data.shape, np.float32), np.empty(len(data), np.bool_)
    at_first = np.empty(len(data), problem.dtype)
    ready(
        data,
        weighted.astype(problem.dtype),
        1.0 / kernel.scale,
        problem.baseline,
        y,
        usable.view(np.uint8),
        at_first,
        problem.threads,
    )
    return y, usable, at_first


def enhancing(threshold: float, found: Sequence[tuple[Singles, Singles]]) -> NDArray[np.bool_]:
    """Whether pairs explain more of a voxel than noise would. ``found`` of each table: sums of
    squares and what the best pair leaves of them, (V,)."""
    # With an input beside without: of either the best of all tables.
    total = np.min([square for square, _ in found], axis=0)
    least = np.min([left for _, left in found], axis=0)
    return np.asarray(~(total - least <= threshold * least))


def gathered(count: int, parts: Sequence[Starts]) -> Starts:
    """The starts of all parts, each of ``count`` voxels, voxel by voxel."""
    if len(parts) == 1:
        return parts[0]
    voxel = np.concatenate([np.repeat(np.arange(count), np.diff(p.first)) for p in parts])
    order = np.argsort(voxel, kind="stable")
    return Starts(
        np.sum([p.first for p in parts], axis=0),
        np.concatenate([p.parameters for p in parts])[order],
        np.concatenate([p.band for p in parts])[order],
    )


def found_pairs(nodes: NodeTable, pair: NDArray[np.int32], x: Singles, y: Singles) -> Found:
    """The pairs of a scan (V, candidates)."""
    voxel, which = np.nonzero(pair >= 0)
    chosen = pair[voxel, which]
    values = {n: v[chosen] for n, v in values_of_starts(nodes).items()}
    return Found(voxel, nodes.group[chosen], values, x[voxel, which], y[voxel, which])


def found_ends(ends: Descents) -> Found:
    """Where descents ended."""
    voxel, which = np.nonzero(ends.group >= 0)
    named = {n: getattr(ends, n)[voxel, which].astype(np.float64) for n in (*ENDS, "x", "y")}
    return Found(voxel, ends.group[voxel, which], named, named.pop("x"), named.pop("y"))


def values_of_starts(nodes: NodeTable) -> dict[str, Doubles]:
    """What a pair's curves stand for and their lengths, (pairs,), where there are no descents."""
    return nodes.values | {"length_a": nodes.length_a, "length_b": nodes.length_b}


def start_of(nodes: NodeTable, values: Mapping[str, Any], x: Any, y: Any) -> dict[str, Any]:
    """Parameters (kernel units) from what a start stands for and its amplitudes: arrays or
    symbols."""
    if nodes.descent is None:
        size_a, size_b, share = values["length_a"], values["length_b"], SMALLEST_SHARE
        x, y = x / size_a, y / size_b
    else:
        size_a, size_b = 1.0 / values["fast"], 1.0 / larger(values["slow"], 1e-3)
        share = SMALLEST_VOLUME
    return nodes.recipe.start(values, *_lifted(x, y, size_a, size_b, share))


def starts_of(
    kernel: TermsKernel, nodes: NodeTable, found: Found, at_first: NDArray[Any]
) -> Starts:
    """Starts from what was found; ``at_first`` (V,) is the first sample, if not negative."""
    problem = kernel.problem
    lo, hi = problem.kernel_bounds()
    names = [p.name for p in problem.parameters]
    voxel = found.voxel
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        made = start_of(nodes, found.values, found.x, found.y)
    made["c0"] = at_first[voxel]
    theta = np.empty((len(voxel), len(names)))
    for i, name in enumerate(names):
        column = np.broadcast_to(made[name], len(voxel))
        theta[:, i] = np.clip(np.nan_to_num(column, nan=0.5 * (lo[i] + hi[i])), lo[i], hi[i])
    first = np.zeros(len(at_first) + 1, np.int64)
    np.cumsum(np.bincount(voxel, minlength=len(at_first)), out=first[1:])
    return Starts(first, theta, kernel.bands_at(theta, nodes.band[found.group]))


def descent_settings(dtype: Any) -> dict[str, Any]:
    """What every descent takes beside its table."""
    return {
        "iterations": STEPS,
        "rival": RIVAL if dtype == np.float32 else RIVAL_DOUBLE,
        "unsure": UNSURE,
        "clean": CLEAN,
        "clean_unsure": CLEAN_UNSURE,
        "flat": FLAT,
        "trust": TRUST,
    }


def candidates_of(nodes: NodeTable) -> int:
    """Most pairs of a voxel that are tried."""
    return CANDIDATES_ALONE if nodes.descent is None else CANDIDATES


def _scan(kernel: TermsKernel, options: VarProLM, nodes: NodeTable, y: Singles) -> Scan:
    """The best pairs of weighted curves (V, T)."""
    from kety import _native

    shape = len(y), candidates_of(nodes)
    pair = np.empty(shape, np.int32)
    x, second, left = (np.empty(shape, np.float32) for _ in range(3))
    z, square = np.empty((len(y), nodes.rank), np.float32), np.empty(len(y), np.float32)
    record = nodes.scan | {"ratio": options.candidate_ratio - 1.0}
    threads, instructions = kernel.problem.threads, options.instruction_set
    y = np.ascontiguousarray(y)
    _native.pairs(record, y, z, square, pair, x, second, left, threads, instructions)
    return Scan(z, square, pair, x, second, left)


def _descend(
    kernel: TermsKernel,
    options: VarProLM,
    nodes: NodeTable,
    z: Singles,
    square: Singles,
    pair: NDArray[np.int32],
) -> Descents:
    """From the pairs of every voxel to the minima that are worth solving exactly."""
    from kety import _native

    assert nodes.descent is not None
    ends = Descents(
        np.empty(pair.shape, np.int32), *(np.empty(pair.shape, np.float32) for _ in range(6))
    )
    _native.descend(
        nodes.descent | descent_settings(kernel.problem.dtype),
        z,
        square,
        pair,
        ends.group,
        ends.fast,
        ends.slow,
        ends.delay,
        ends.x,
        ends.y,
        ends.left,
        kernel.problem.threads,
        options.instruction_set,
    )
    return ends


def _lifted(x: Any, y: Any, size_x: Any, size_y: Any, share: float) -> tuple[Any, Any]:
    """Amplitudes with neither of them 0."""
    least = share * (x * size_x + y * size_y)
    return larger(x, least / size_x), larger(y, least / size_y)
