"""Starts for models of several terms: the best pair of curves in every delay cell (`Recipe`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kety.errors import KetyError
from kety.fitting.dictionary import curve_basis, delay_cells, rate_cells, taylor_rows
from kety.fitting.forward import kernel_curves
from kety.models.starts import Curves, Nodes, Search, recipe_of_roles

if TYPE_CHECKING:
    from kety.fitting.optimizers.varprolm import VarProLM
    from kety.fitting.problem import Problem
    from kety.fitting.terms import TermsKernel

Doubles = NDArray[np.float64]

CANDIDATES = 6
"""Most delay cells of a voxel that are solved from."""
KIND = 1000
"""Numbers of stretches of different kinds of pair lie that far apart (pairs.hpp)."""
RATE_UNIT, RATES = 0.004, 16
"""The grid of rates is even in log(1 + k / RATE_UNIT)."""
FASTEST = 2.0
"""Largest rate of the grid, 1/s; beyond it a term follows the input."""
SMALLEST_SHARE = 0.03
"""Of a pair with one amplitude of 0, the share that it starts with: at 0 its rate has no slope."""
FIRST_DESCENT, DESCENT = 4, 8
"""Steps of the descents from all nodes, and of those that are worth going on with."""
FIRST_RIVAL, FIRST_UNSURE = 0.15, 2e-4
"""How much worse than the best a descent may stand after its first steps: relative to what that
leaves, and to the curve's sum of squares."""
RIVAL, UNSURE = 1e-2, 3e-5
"""How much worse than the best a descent may end to be solved exactly as well: relative to what the
best leaves, and to the curve's sum of squares for the error of the dictionary."""
INITIAL_RATES = (0.002, 0.01, 0.04)
"""Rates (1/s) of decays of an initial concentration that the search leaves out of account."""
PARALLEL = 2.0
"""Marks a pair that is not to be used."""


@dataclass(frozen=True, eq=False)
class Starts:
    """Where the exact solver begins.

    ``first`` (V + 1): the rows of each voxel; ``parameters`` (rows, P) in kernel units; ``band``
    (rows, 2): jumps that the delay may not cross, s.
    """

    first: NDArray[np.int64]
    parameters: Doubles
    band: Doubles
    bands: Doubles | None = None
    delay: int = -1

    def around(self, rows: NDArray[np.intp], parameters: NDArray[np.floating]) -> Doubles:
        """The stretch between jumps (V, 2) in which the delay of each of these voxels lies."""
        if self.bands is None or self.delay < 0:
            return np.zeros((len(rows), 2))
        at = parameters[rows, self.delay].astype(np.float64)
        which = np.searchsorted(self.bands[:, 1], at - 1e-6).clip(max=len(self.bands) - 1)
        return np.ascontiguousarray(self.bands[which])


def rate_grid(largest: float) -> Doubles:
    """Rates of the nodes, 1/s, the first of them 0."""
    top = np.log1p(min(largest, FASTEST) / RATE_UNIT)
    return np.asarray(RATE_UNIT * np.expm1(np.linspace(0.0, top, RATES)))


def _curves(kernel: TermsKernel, curves: Curves) -> Doubles:
    """The curves (n, T) at the frames, in units of the scaled input."""
    times, threads = kernel.problem.times, kernel.problem.threads
    total = np.zeros((len(curves.rows), len(times)))
    for m, source in enumerate(curves.inputs):
        total += kernel_curves(kernel.inputs[source], times, curves.rows[:, m], threads=threads)[0]
    return total


def prepare_pairs(kernel: TermsKernel, options: VarProLM) -> Callable[[NDArray[Any]], Starts]:
    """Build the dictionary of a problem and return the search of a block of curves (V, T)."""
    from kety import _native

    problem, times = kernel.problem, kernel.problem.times
    recipe = problem.model.starts
    if recipe is None and problem.model.terms is None:
        recipe = recipe_of_roles(problem.model.parameters)
    if recipe is None:
        raise KetyError(f"{problem.model.name} has no recipe for its starts")
    lo, hi = problem.kernel_bounds()
    bounds = {
        p.name: (lo[problem.slot(p.name)], hi[problem.slot(p.name)]) for p in problem.parameters
    }
    cells, stretch, band = delay_cells(kernel.inputs[0], times, *bounds["delay"])
    portal = np.zeros(0)
    if "delay_portal" in bounds:
        portal = delay_cells(kernel.inputs[1], times, *bounds["delay_portal"])[0].mean(axis=1)
    search = Search(
        cells.mean(axis=1),
        portal,
        rate_grid(FASTEST),
        {n: b[0] for n, b in bounds.items()},
        {n: b[1] for n, b in bounds.items()},
    )
    groups = recipe.nodes(search)
    a = [_curves(kernel, g.a) for g in groups]
    b = [_curves(kernel, g.b) for g in groups]
    weighted = np.sqrt(kernel.weights)
    unseen = _unseen(problem) * weighted[:, None]
    unseen = np.linalg.qr(unseen)[0] if unseen.shape[1] else unseen

    def seen(rows: Doubles) -> Doubles:
        rows = rows * weighted
        return rows - (rows @ unseen) @ unseen.T

    a, b = [seen(x) for x in a], [seen(x) for x in b]
    rates = rate_cells(0.0, FASTEST)
    table = None
    if recipe.exponentials:
        rows = taylor_rows(
            kernel.inputs[0], times, cells, rates, bounds["delay"][0], problem.threads
        )
        table = seen(rows[:, :, 4:].reshape(-1, len(times))).reshape(
            *rows.shape[:2], -1, len(times)
        )
        basis = curve_basis(table[:, :, :3].reshape(-1, len(times)))
    else:
        basis = curve_basis(np.concatenate([*a, *b]))
    descent = (
        None if table is None else _descent(table @ basis, cells, band, rates, recipe.exponentials)
    )
    low_a, low_b = [x @ basis for x in a], [x @ basis for x in b]
    unit_a, norm_a = _units(low_a)
    unit_b, norm_b = _units(low_b)
    cosine = []
    for g, ua, ub in zip(groups, unit_a, unit_b, strict=True):
        c = np.clip(ua @ ub.T, -1.0, 1.0)
        if g.allowed is not None:
            c = np.where(g.allowed, c, PARALLEL)
        cosine.append(c.ravel())
    f32 = np.float32
    flat_a, flat_b = np.concatenate(unit_a), np.concatenate(unit_b)
    dictionary = {
        "groups": len(groups),
        "rank": basis.shape[1],
        "first_a": _firsts([len(x) for x in a], np.int32),
        "first_b": _firsts([len(x) for x in b], np.int32),
        "first_pair": _firsts([len(c) for c in cosine], np.int64),
        "a": np.ascontiguousarray(flat_a, dtype=f32),
        "b": np.ascontiguousarray(flat_b, dtype=f32),
        "cosine": np.concatenate(cosine).astype(f32),
        "band": np.array([stretch[g.cell] + KIND * g.kind for g in groups], np.int32),
        "ratio": options.candidate_ratio - 1.0,
    }
    size_a, size_b = np.concatenate(norm_a), np.concatenate(norm_b)
    group_of = np.repeat(np.arange(len(groups)), [len(x) for x in a])
    values_a, values_b = _gathered(groups, "a"), _gathered(groups, "b")
    shared = {
        n: np.array([g.values[n] for g in groups]) for n in (groups[0].values if groups else ())
    }
    cell_of = np.array([g.cell for g in groups], np.int32)
    group_band = band[[g.cell for g in groups]]
    project = np.ascontiguousarray(basis, dtype=f32)
    low_bounds, high_bounds = lo.copy(), hi.copy()
    threshold = problem.enhancement_threshold()
    names = [p.name for p in problem.parameters]

    def start(curves: NDArray[Any]) -> Starts:
        count = len(curves)
        with np.errstate(over="ignore", invalid="ignore"):
            y = np.ascontiguousarray(curves, dtype=np.float64) / kernel.scale
            finite = np.isfinite(y).all(axis=1)
            y[~finite] = 0.0
            first_value = np.maximum(y[:, 0], 0.0)
            y = seen(y)
            square = (y**2).sum(axis=1).astype(f32)
            z = np.ascontiguousarray(y.astype(f32) @ project)
        shape = (count, CANDIDATES)
        node_a, node_b = np.empty(shape, np.int32), np.empty(shape, np.int32)
        x, x2, left = (np.empty(shape, f32) for _ in range(3))
        _native.pairs(
            dictionary,
            z,
            square,
            node_a,
            node_b,
            x,
            x2,
            left,
            problem.threads,
            options.instruction_set,
        )
        there = node_a >= 0
        there[~finite] = False
        spread = y.max(axis=1) > y.min(axis=1)
        there[~spread] = False
        if threshold > 0:
            explained = square - left[:, 0]
            there[~(explained > threshold * left[:, 0])] = False
        voxel, which = np.nonzero(there)
        na, nb = node_a[voxel, which], node_b[voxel, which]
        group = group_of[na]
        first, second = x[voxel, which] / size_a[na], x2[voxel, which] / size_b[nb]
        first, second = _lifted(
            first.astype(np.float64), second.astype(np.float64), size_a[na], size_b[nb]
        )
        values = {n: v[na] for n, v in values_a.items()} | {n: v[nb] for n, v in values_b.items()}
        values |= {n: v[group] for n, v in shared.items()}
        if descent is not None:
            rest = np.maximum(square - (z * z).sum(axis=1), 0)
            ends = [np.ascontiguousarray(values[n], dtype=f32) for n in ("fast", "slow", "delay")]
            ends += [np.empty(len(voxel), f32) for _ in range(3)]
            # A few steps from all nodes; those that then lead on from the best.
            for steps, rival, unsure in (
                (FIRST_DESCENT, FIRST_RIVAL, FIRST_UNSURE),
                (DESCENT, RIVAL, UNSURE),
            ):
                _native.descend(
                    descent | {"iterations": steps},
                    z,
                    voxel.astype(np.int32),
                    cell_of[group],
                    *ends,
                    problem.threads,
                    options.instruction_set,
                )
                kept = _worth(
                    voxel, ends[5] + rest[voxel], unsure * square[voxel], ends, count, rival
                )
                voxel, group, ends = voxel[kept], group[kept], [e[kept] for e in ends]
            fast, slow, delay, first, second = (e.astype(np.float64) for e in ends[:5])
            values = {"fast": fast, "slow": slow, "delay": delay}
            first, second = _lifted(first, second, 1.0 / fast, 1.0 / np.maximum(slow, 1e-3))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            found = recipe.start(values, first, second)
        found["c0"] = first_value[voxel]
        theta = np.empty((len(voxel), len(names)))
        for i, name in enumerate(names):
            middle = 0.5 * (low_bounds[i] + high_bounds[i])
            column = np.broadcast_to(found.get(name, low_bounds[i]), len(voxel))
            theta[:, i] = np.clip(np.nan_to_num(column, nan=middle), low_bounds[i], high_bounds[i])
        per_voxel = np.zeros(count + 1, np.int64)
        np.cumsum(np.bincount(voxel, minlength=count), out=per_voxel[1:])
        return Starts(
            per_voxel,
            theta,
            np.ascontiguousarray(group_band[group]),
            np.unique(band, axis=0),
            problem.slot("delay"),
        )

    return start


def _unseen(problem: Problem) -> Doubles:
    """Curves (T, n) that the search does not look at: a fitted constant; and what an initial
    concentration may leave, whatever the rate."""
    since = problem.times - problem.times[0]
    curves = [np.ones_like(since)] if problem.baseline or problem.initial else []
    if problem.initial:
        curves += [np.exp(-rate * since) for rate in INITIAL_RATES]
    return np.stack(curves, axis=1) if curves else np.zeros((len(since), 0))


def _descent(
    table: Doubles, cells: Doubles, band: Doubles, rates: Doubles, exponentials: int
) -> dict[str, Any]:
    """Tables of the descent between the nodes (`DescentCall` in types.hpp)."""
    f32 = np.float32
    padded = np.zeros((*table.shape[:3], 32 if table.shape[3] > 16 else 16), f32)
    padded[..., : table.shape[3]] = table
    return {
        "rank": table.shape[3],
        "slow_held": exponentials == 1,
        "delays": len(cells),
        "rates": len(rates) - 1,
        "delay_centre": cells.mean(axis=1).astype(f32),
        "delay_half": (0.5 * np.diff(cells)[:, 0]).astype(f32),
        "delay_edge": np.append(cells[:, 0], cells[-1, 1]).astype(f32),
        "band_lo": band[:, 0].astype(f32),
        "band_hi": band[:, 1].astype(f32),
        "rate_centre": (0.5 * (rates[1:] + rates[:-1])).astype(f32),
        "rate_half": (0.5 * np.diff(rates)).astype(f32),
        "rate_edge": rates.astype(f32),
        "table": padded,
    }


def _worth(
    voxel: NDArray[np.intp],
    left: NDArray[np.float32],
    unsure: NDArray[np.float32],
    ends: list[NDArray[np.float32]],
    count: int,
    rival: float,
) -> NDArray[np.bool_]:
    """Which descents are worth an exact solution: the best of each voxel, and those that are too
    close to it to call and end elsewhere."""
    best = np.full(count, np.inf, np.float32)
    np.minimum.at(best, voxel, left)
    near = left <= best[voxel] * (1 + rival) + unsure
    # Of those that ended in the same place the first stays.
    index = np.arange(len(voxel))
    leader = np.full(count, len(voxel))
    np.minimum.at(leader, voxel[left <= best[voxel]], index[left <= best[voxel]])
    own = leader[voxel]
    same = np.ones(len(voxel), np.bool_)
    for e, floor in zip(ends[:3], (1e-3, 1e-4, 0.05), strict=True):
        same &= np.abs(e - e[own]) <= 0.02 * np.abs(e[own]) + floor
    return near & (~same | (index == own))


def _lifted(x: Doubles, y: Doubles, size_x: Doubles, size_y: Doubles) -> tuple[Doubles, Doubles]:
    """Amplitudes with neither of them 0."""
    explained = x * size_x + y * size_y
    least = SMALLEST_SHARE * explained
    return np.maximum(x, least / size_x), np.maximum(y, least / size_y)


def _units(rows: list[Doubles]) -> tuple[list[Doubles], list[Doubles]]:
    """Unit vectors along the rows of each array, and their lengths."""
    lengths = [np.linalg.norm(r, axis=1) for r in rows]
    safe = [np.where(n > 0, n, 1.0) for n in lengths]
    return [r / n[:, None] for r, n in zip(rows, safe, strict=True)], safe


def _firsts(sizes: list[int], dtype: Any) -> NDArray[Any]:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(dtype)


def _gathered(groups: list[Nodes], side: str) -> dict[str, Doubles]:
    """What the curves of all groups stand for, one after the other."""
    first: Curves = getattr(groups[0], side)
    return {n: np.concatenate([getattr(g, side).values[n] for g in groups]) for n in first.values}
