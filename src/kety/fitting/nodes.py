"""The dictionary of a model of several terms: its pairs of curves on a few basis curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kety.errors import KetyError
from kety.fitting.dictionary import curve_basis, delay_cells, rate_cells, taylor_rows
from kety.fitting.forward import kernel_curves
from kety.models.starts import Curves, Nodes, Recipe, Search, recipe_of_roles

if TYPE_CHECKING:
    from kety.fitting.problem import Problem
    from kety.fitting.terms import TermsKernel

Doubles = NDArray[np.float64]

KIND = 1000
"""Numbers of stretches of different kinds of pair lie that far apart (pairs.hpp)."""
RATE_UNIT, RATES = 0.004, 16
"""The grid of rates is even in log(1 + k / RATE_UNIT)."""
FASTEST = 2.0
"""Largest rate of the grid, 1/s; beyond it a term follows the input."""
INITIAL_RATES = (0.002, 0.01, 0.04)
"""Rates (1/s) of decays of an initial concentration that the search leaves out of account."""
UNUSED = 2.0
"""In place of a cosine: a pair that is not to be used."""


@dataclass(frozen=True, eq=False)
class NodeTable:
    """What the search of a problem reads.

    Attributes
    ----------
    recipe : Recipe
    weighted : (T,) array
        Roots of the weights.
    rank : int
        Number of basis curves that span all others.
    scan : dict
        Unit vectors of all curves, the cosines of their pairs, the basis, and what the search does
        not look at (`PairsCall` in types.hpp).
    descent : dict or None
        Taylor rows between the nodes, where the pairs are exponentials (`DescentCall`).
    length_a, length_b : (n,) arrays
        Lengths of the curves of both sides.
    values_a, values_b, shared : mappings of str to arrays
        What the curves of both sides, and the groups, stand for.
    group : (n,) array
        The group of each curve of side a.
    cell : (groups,) array
        The delay cell of each group.
    band, bands : (groups, 2) and (m, 2) arrays
        Jumps that the delay may not cross from a group's cell; and all such stretches, s.
    """

    recipe: Recipe
    weighted: Doubles
    rank: int
    scan: dict[str, Any]
    descent: dict[str, Any] | None
    length_a: Doubles
    length_b: Doubles
    values_a: dict[str, Doubles]
    values_b: dict[str, Doubles]
    shared: dict[str, Doubles]
    group: NDArray[np.intp]
    cell: NDArray[np.int32]
    band: Doubles
    bands: Doubles


def rate_grid() -> Doubles:
    """Rates of the nodes, 1/s, the first of them 0."""
    top = np.log1p(FASTEST / RATE_UNIT)
    return np.asarray(RATE_UNIT * np.expm1(np.linspace(0.0, top, RATES)))


def make_nodes(kernel: TermsKernel) -> NodeTable:
    """Build the table of a problem.

    Raises
    ------
    KetyError
        If the model says nothing of where to start.
    """
    problem, times = kernel.problem, kernel.problem.times
    recipe = _recipe(problem)
    lo, hi = problem.kernel_bounds()
    bounds = {p.name: (lo[i], hi[i]) for i, p in enumerate(problem.parameters)}
    cells, stretch, band = delay_cells(kernel.inputs[0], times, *bounds["delay"])
    portal = np.zeros(0)
    if "delay_portal" in bounds:
        portal = delay_cells(kernel.inputs[1], times, *bounds["delay_portal"])[0].mean(axis=1)
    groups = recipe.nodes(Search(cells.mean(axis=1), portal, rate_grid()))
    weighted = np.sqrt(kernel.weights)
    unseen = _unseen(problem) * weighted[:, None]
    if unseen.shape[1]:
        unseen = np.linalg.qr(unseen)[0]
    a, b = (
        [_seen(_curves(kernel, getattr(g, side)), weighted, unseen) for g in groups]
        for side in ("a", "b")
    )
    if recipe.exponentials:
        rates = rate_cells(0.0, FASTEST)
        earliest = bounds["delay"][0]
        rows = taylor_rows(kernel.inputs[0], times, cells, rates, earliest, problem.threads)[
            :, :, 4:
        ]
        rows = _seen(rows.reshape(-1, len(times)), weighted, unseen).reshape(rows.shape)
        basis = curve_basis(rows[:, :, :3].reshape(-1, len(times)))
        descent = _descent(rows @ basis, cells, band, rates, slow_held=recipe.exponentials == 1)
    else:
        basis, descent = curve_basis(np.concatenate([*a, *b])), None
    unit_a, length_a = _units([x @ basis for x in a])
    unit_b, length_b = _units([x @ basis for x in b])
    return NodeTable(
        recipe=recipe,
        weighted=weighted,
        rank=basis.shape[1],
        scan=_scan(groups, unit_a, unit_b, stretch)
        | {
            "basis": np.ascontiguousarray(basis, np.float32),
            "unseen": unseen.shape[1],
            "outside": np.ascontiguousarray(unseen, np.float32),
        },
        descent=descent,
        length_a=length_a,
        length_b=length_b,
        values_a=_gathered([g.a for g in groups]),
        values_b=_gathered([g.b for g in groups]),
        shared={n: np.array([g.values[n] for g in groups]) for n in groups[0].values},
        group=np.repeat(np.arange(len(groups)), [len(x) for x in a]),
        cell=np.array([g.cell for g in groups], np.int32),
        band=band[[g.cell for g in groups]],
        bands=np.unique(band, axis=0),
    )


def _recipe(problem: Problem) -> Recipe:
    model = problem.model
    if model.starts is not None:
        return model.starts
    if model.terms is None:
        return recipe_of_roles(model.parameters)
    raise KetyError(f"{model.name} does not say where to start; give its Model a Recipe")


def _unseen(problem: Problem) -> Doubles:
    """Curves (T, n) that the search does not look at: a fitted constant; and what an initial
    concentration may leave, whatever the rate."""
    since = problem.times - problem.times[0]
    curves = [np.ones_like(since)] if problem.baseline or problem.initial else []
    if problem.initial:
        curves += [np.exp(-rate * since) for rate in INITIAL_RATES]
    return np.stack(curves, axis=1) if curves else np.zeros((len(since), 0))


def _seen(rows: NDArray[Any], weighted: NDArray[Any], unseen: NDArray[Any]) -> NDArray[Any]:
    rows = rows * weighted
    if unseen.shape[1]:
        rows -= (rows @ unseen) @ unseen.T
    return rows


def _curves(kernel: TermsKernel, curves: Curves) -> Doubles:
    """The curves (n, T) at the frames, in units of the scaled input."""
    times, threads = kernel.problem.times, kernel.problem.threads
    total = np.zeros((len(curves.rows), len(times)))
    for m, source in enumerate(curves.inputs):
        aif = kernel.inputs[source]
        total += kernel_curves(aif, times, curves.rows[:, m], threads=threads)[0]
    return total


def _scan(
    groups: Sequence[Nodes], a: list[Doubles], b: list[Doubles], stretch: NDArray[np.int32]
) -> dict[str, Any]:
    cosines = []
    for g, unit_a, unit_b in zip(groups, a, b, strict=True):
        c = np.clip(unit_a @ unit_b.T, -1.0, 1.0)
        cosines.append((c if g.allowed is None else np.where(g.allowed, c, UNUSED)).ravel())
    return {
        "groups": len(groups),
        "rank": a[0].shape[1],
        "first_a": _firsts(a, np.int32),
        "first_b": _firsts(b, np.int32),
        "first_pair": _firsts(cosines, np.int64),
        "a": np.concatenate(a).astype(np.float32),
        "b": np.concatenate(b).astype(np.float32),
        "cosine": np.concatenate(cosines).astype(np.float32),
        "band": np.array([stretch[g.cell] + KIND * g.kind for g in groups], np.int32),
    }


def _descent(
    table: Doubles, cells: Doubles, band: Doubles, rates: Doubles, *, slow_held: bool
) -> dict[str, Any]:
    f32 = np.float32
    padded = np.zeros((*table.shape[:3], 32 if table.shape[3] > 16 else 16), f32)
    padded[..., : table.shape[3]] = table
    return {
        "rank": table.shape[3],
        "slow_held": slow_held,
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


def _units(rows: list[Doubles]) -> tuple[list[Doubles], Doubles]:
    """Unit vectors along the rows of each array, and all their lengths."""
    lengths = [np.linalg.norm(r, axis=1) for r in rows]
    lengths = [np.where(n > 0, n, 1.0) for n in lengths]
    units = [r / n[:, None] for r, n in zip(rows, lengths, strict=True)]
    return units, np.concatenate(lengths)


def _firsts(parts: Sequence[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    """Where each part begins when they follow each other, and where the last ends."""
    return np.concatenate([[0], np.cumsum([len(p) for p in parts])]).astype(dtype)


def _gathered(sides: Sequence[Curves]) -> dict[str, Doubles]:
    """What the curves of all groups stand for, one after the other."""
    return {n: np.concatenate([c.values[n] for c in sides]) for n in sides[0].values}
