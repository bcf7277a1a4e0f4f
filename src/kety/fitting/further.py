"""Further starts, from the solutions found.

Minima of the sum of squares lie beside each other along the delays. Once a voxel is solved, two
kinds of them are looked for. A solution that ended at a jump (a wall of `delay_cells`) goes on
beyond it: the solver ends there, the model does not. And with two inputs, whose delays and shares
stand in for each other, both delays are scanned again with the residue that was found, which costs
two amplitudes at every pair of delays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kety.fitting.engine import KernelFit, packed, place, rows_of
from kety.fitting.nodes import NodeTable
from kety.fitting.pairs import Starts
from kety.fitting.terms import terms_curves

if TYPE_CHECKING:
    from kety.fitting.problem import Problem
    from kety.fitting.terms import TermsKernel

Doubles = NDArray[np.float64]
ROUNDS = 10
"""Most times that a voxel's solution is taken further."""
AT_WALL = 2e-6
"""Distance from a jump, relative to its delay, up to which a solution stands at it."""
SAME = 1e-3
"""Relative change of the parameters up to which a solution is the one that was known."""
PORTAL_DELAYS, BETWEEN_JUMPS = 41, 0.125
"""Delays of the portal input that are scanned; where the curve jumps along them, their distance
between two jumps at most, s."""
MINIMA = 6
"""Most pairs of delays of a voxel that are tried."""
CLEAN, ROUNDING = 1e-4, 1e12
"""What is left of a curve of almost no noise, and what rounding leaves, relative to its variance;
the latter in squares of the precision."""
CHANGES = (0.5, 2.0)
"""Factors by which a residue's parameters are changed where the solution may not be the lowest."""
LATER = (-2.4, -1.2, -0.6, -0.3, -0.15, 0.15, 0.3, 0.6, 1.2, 2.4)
"""Changes of the portal input's delay beside such a solution, s."""
CHUNK, CHUNK_ON_CARD = 256, 1 << 18
"""Voxels whose curves are held at a time; on a card, which holds its own, their parameters are."""


class Found(NamedTuple):
    """Starts: the voxel of each (n,), its parameters (n, P), and the stretches that its delays may
    not leave (`Starts.band`)."""

    voxel: NDArray[np.intp]
    parameters: Doubles
    band: Doubles


def go_further(
    kernel: TermsKernel,
    nodes: NodeTable,
    curves: NDArray[Any],
    result: KernelFit,
    solve: Callable[[NDArray[Any], Starts], KernelFit],
) -> None:
    """Look for lower minima beside the solutions of curves (V, T), and put them in their places.

    ``solve`` gives the best solution of each curve from its starts.
    """
    where = np.flatnonzero(np.isfinite(result.cost))
    for _ in range(ROUNDS):
        theta = result.parameters[where].astype(np.float64)
        found = [*_across(kernel, theta)]
        if nodes.recipe.share:
            found.append(_relocated(kernel, nodes, curves[where], theta))
            wide = np.flatnonzero(_missed(kernel, curves[where], result.cost[where]))
            found.append(_along(kernel, rows_of(result, where[wide]), wide))
            found += _other_residues(kernel, nodes, curves[where], theta, wide)
        some = np.unique(np.concatenate([f.voxel for f in found]))
        if not len(some):
            return
        # The solution itself comes first: what is not lower does not replace it.
        found.insert(0, Found(some, theta[some], kernel.bands_at(theta[some])))
        starts = _gathered(found, some)
        where = where[some]
        part = solve(curves[where], starts)
        spent = part.evaluations.astype(np.int64) + result.evaluations[where]
        part.evaluations[:] = np.minimum(spent, np.iinfo(np.uint16).max)
        place(result, where, part)
        near = np.isclose(part.parameters, theta[some], rtol=SAME, atol=0.0).all(axis=1)
        where = where[~near]


def _all_of(parts: Sequence[Found]) -> Found:
    return Found(*(np.concatenate(p) for p in zip(*parts, strict=True)))


def _gathered(found: Sequence[Found], voxels: NDArray[np.intp]) -> Starts:
    """All of them side by side, voxel by voxel, in the order in which they were found."""
    every = _all_of(found)
    order = np.argsort(every.voxel, kind="stable")
    first = np.searchsorted(every.voxel[order], np.append(voxels, voxels[-1] + 1))
    return Starts(first.astype(np.int64), every.parameters[order], every.band[order])


def _missed(kernel: TermsKernel, curves: NDArray[Any], cost: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether a curve (V, T) has too little noise for what is left of it, and more is left than
    rounding: its solution is not the lowest minimum."""
    y = curves.astype(np.float64)
    spread = np.square(y - y.mean(axis=1, keepdims=True)).sum(axis=1)
    rounding = ROUNDING * float(np.finfo(kernel.problem.dtype).eps) ** 2
    return np.asarray((cost > rounding * spread) & (cost < CLEAN * spread))


def _along(kernel: TermsKernel, result: KernelFit, voxel: NDArray[np.intp]) -> Found:
    """Starts beside solutions, at other portal delays, the rest moved as their covariance says."""
    problem = kernel.problem
    size, second = problem.size, problem.slot("delay_portal")
    lo, hi = problem.kernel_bounds()
    row = np.nan_to_num(result.covariance[:, packed(np.arange(size), second)].astype(np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.nan_to_num(row / row[:, second : second + 1])
    theta = result.parameters[:, None, :] + slope[:, None, :] * np.array(LATER)[:, None]
    starts = np.clip(theta, lo, hi).reshape(-1, size)
    every = np.repeat(voxel, len(LATER))
    return Found(every, starts, kernel.bands_at(starts))


def _other_residues(
    kernel: TermsKernel,
    nodes: NodeTable,
    curves: NDArray[Any],
    theta: Doubles,
    wide: NDArray[np.intp],
) -> Iterator[Found]:
    """From solutions (V, P) to other delays with one of the residue's parameters changed: from
    those ``wide`` with each, from all with the one that other delays stand in for."""
    problem, recipe = kernel.problem, nodes.recipe
    for i in _scaled(problem):
        name = problem.parameters[i].name
        which = np.arange(len(theta)) if name == recipe.varied else wide
        for factor in CHANGES if name != recipe.share else ():
            changed = theta[which]
            changed[:, i] *= factor
            other = _relocated(kernel, nodes, curves[which], changed)
            yield other._replace(voxel=which[other.voxel])


def _scaled(problem: Problem) -> list[int]:
    """Places of the parameters that may scale with a curve."""
    return [i for i, p in enumerate(problem.parameters) if not p.is_delay and p.name != "c0"]


def _across(kernel: TermsKernel, theta: Doubles) -> Iterator[Found]:
    """From solutions (V, P) at a jump along a delay to its other side."""
    for i, (slot, bands) in enumerate(zip(kernel.program["jumps"], kernel.bands, strict=True)):
        at = theta[:, slot]
        band = np.searchsorted(bands[:, 1], at - 1e-6).clip(max=len(bands) - 1)
        near = AT_WALL * np.maximum(1.0, np.abs(at))
        up = (at >= bands[band, 1] - near) & (band < len(bands) - 1)
        down = ~up & (at <= bands[band, 0] + near) & (band > 0)
        voxel = np.flatnonzero(up | down)
        there = bands[(band + up - down)[voxel]]
        starts = theta[voxel]
        starts[:, slot] = np.clip(at[voxel], there[:, 0], there[:, 1])
        every = kernel.bands_at(starts)
        every[:, 2 * i : 2 * i + 2] = there
        yield Found(voxel, starts, every)


def _relocated(
    kernel: TermsKernel, nodes: NodeTable, curves: NDArray[Any], theta: Doubles
) -> Found:
    """From solutions (V, P) of two inputs to other delays of both, with the same residue."""
    problem, share = kernel.problem, nodes.recipe.share
    width = 2 * len(kernel.bands)
    parts = [Found(np.zeros(0, np.intp), np.zeros((0, problem.size)), np.zeros((0, width)))]
    own, first, second = (problem.slot(n) for n in (share, "delay", "delay_portal"))
    lo, hi = problem.kernel_bounds()
    late = _portal_delays(kernel)
    if len(nodes.delays) * len(late) == 1:
        return parts[0]
    scaled = _scaled(problem)
    chunk = CHUNK if problem.card is None else CHUNK_ON_CARD
    for begin in range(0, len(theta), chunk):
        part, y = theta[begin : begin + chunk], curves[begin : begin + chunk].astype(np.float64)
        if problem.initial:
            without = part.copy()
            without[:, problem.slot("c0")] = 0.0
            y -= terms_curves(kernel, part)[0] - terms_curves(kernel, without)[0]
            part = without
        if problem.card is None:
            artery = _shifted(kernel, part, {own: 1.0}, first, nodes.delays)
            portal = _shifted(kernel, part, {own: 0.0}, second, late)
            found = _best_pairs(problem, nodes.weighted, y, artery, portal)
        else:
            from kety.fitting.cuda.crossings import crossings

            found = _listed(
                *crossings(
                    kernel.on_card(np.float64),
                    (own, first, second),
                    part,
                    y,
                    (nodes.delays, late),
                    nodes.weighted,
                    _constant(problem, nodes.weighted),
                    kernel.scale,
                    MINIMA,
                )
            )
        voxel, i, j, x, z = found
        starts = theta[begin + voxel]
        starts[:, scaled] *= (x + z)[:, None]
        starts[:, own] = x / (x + z)
        starts[:, first], starts[:, second] = nodes.delays[i], late[j]
        starts = np.clip(starts, lo, hi)
        parts.append(Found(begin + voxel, starts, kernel.bands_at(starts)))
    return _all_of(parts)


def _portal_delays(kernel: TermsKernel) -> Doubles:
    """Delays of the portal input that are scanned, some between any two jumps, s."""
    problem, stretches = kernel.problem, [b for bands in kernel.bands[1:] for b in bands]
    slot = problem.slot("delay_portal")
    lo, hi = (bound[slot] for bound in problem.kernel_bounds())
    if len(stretches) < 2:
        return np.linspace(lo, hi, PORTAL_DELAYS if hi > lo else 1)
    parts = []
    for begin, end in stretches:
        count = int(np.ceil((end - begin) / BETWEEN_JUMPS)) or 1
        parts.append(begin + (end - begin) * (np.arange(count) + 0.5) / count)
    return np.concatenate(parts)


def _shifted(
    kernel: TermsKernel, theta: Doubles, given: Mapping[int, float], slot: int, delays: Doubles
) -> Doubles:
    """Curves (V, n, T) at parameters (V, P), some of them ``given``, for each of n delays."""
    every = np.repeat(theta, len(delays), axis=0)
    for i, value in given.items():
        every[:, i] = value
    every[:, slot] = np.tile(delays, len(theta))
    return terms_curves(kernel, every)[0].reshape(len(theta), len(delays), -1)


def _best_pairs(
    problem: Problem, weighted: Doubles, y: Doubles, a: Doubles, b: Doubles
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp], Doubles, Doubles]:
    """Where a sum of one of the curves a (V, m, T) and one of b (V, n, T), with amplitudes above 0,
    comes nearer to the curve y (V, T) than with their neighbours: voxels, places in a and b, and
    amplitudes, the best first; at most `MINIMA` of a voxel. ``weighted`` (T,): roots of weights."""
    from kety import _native

    shape = (len(y), MINIMA)
    i, j = np.empty(shape, np.int32), np.empty(shape, np.int32)
    x, z, gain = np.empty(shape), np.empty(shape), np.empty(shape)
    constant = _constant(problem, weighted)
    _native.crossings(a, b, y, weighted, constant, i, j, x, z, gain, problem.threads, "")
    return _listed(i, j, x, z)


def _constant(problem: Problem, weighted: Doubles) -> Doubles | None:
    """The unit vector of a baseline, if one is fitted along."""
    return weighted / np.linalg.norm(weighted) if problem.baseline else None


def _listed(
    i: NDArray[Any], j: NDArray[Any], x: Doubles, z: Doubles
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp], Doubles, Doubles]:
    """What was found (V, MINIMA), -1 where there is no more, one after the other."""
    voxel, which = np.nonzero(i >= 0)
    i, j = (n[voxel, which].astype(np.intp) for n in (i, j))
    return voxel, i, j, x[voxel, which], z[voxel, which]
