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
WIDTH = 16
"""Vectors of the basis that descents look at (descend.hpp)."""
RATE_UNIT, RATES = 0.004, 20
"""The grid of rates is even in log(1 + k / RATE_UNIT)."""
FASTEST = 8.0
"""Largest rate of the grid, 1/s; beyond it a term follows the input."""
INITIAL_RATES = (0.003, 0.008, 0.02, 0.05)
"""Rates (1/s) of the decay of an initial concentration that a search leaves out of account: one
search for each. All of them in one would leave little of a curve to be searched."""
ALIKE = 1e-6
"""Squared sine of the angle up to which two curves are one."""


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
        Unit vectors of all curves, their pairs, the basis, and what the search does not look at
        (`PairsCall` in types.hpp).
    descent : dict or None
        Taylor rows between the nodes, where the pairs are exponentials, and where each pair stands
        (`DescentCall`).
    length_a, length_b : (pairs,) arrays
        Lengths of the curves of both sides.
    values : mapping of str to arrays (pairs,)
        What the curves of each pair, and its group, stand for.
    group : (pairs,) array
    band : (groups, 2) array
        Jumps that the first delay may not cross from a group's cell, s.
    delays : (n,) array
        Centres of the cells of the delay, s.
    """

    recipe: Recipe
    weighted: Doubles
    rank: int
    scan: dict[str, Any]
    descent: dict[str, Any] | None
    length_a: Doubles
    length_b: Doubles
    values: dict[str, Doubles]
    group: NDArray[np.int32]
    band: Doubles
    delays: Doubles


def rate_grid() -> Doubles:
    """Rates of the nodes, 1/s, the first of them 0."""
    top = np.log1p(FASTEST / RATE_UNIT)
    return np.asarray(RATE_UNIT * np.expm1(np.linspace(0.0, top, RATES)))


def make_nodes(kernel: TermsKernel, initial_rate: float = INITIAL_RATES[1]) -> NodeTable:
    """Build the table of a problem, without the decay of that rate (1/s) where there is an initial
    concentration.

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
    unseen = _unseen(problem, initial_rate) * weighted[:, None]
    if unseen.shape[1]:
        unseen = np.linalg.qr(unseen)[0]
    sides = [side for g in groups for side in (g.a, g.b)]
    made, which = _distinct(_curves(kernel, sides))
    made = _seen(made, weighted, unseen)
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
        basis, descent = curve_basis(made), None
    unit, length = _units(made @ basis)
    in_a, in_b, group = _pairs(groups)
    a, b = (np.concatenate(which[side::2])[pair] for side, pair in enumerate((in_a, in_b)))
    values = {n: v[in_a] for n, v in _gathered([g.a for g in groups]).items()}
    values |= {n: v[in_b] for n, v in _gathered([g.b for g in groups]).items()}
    values |= {n: np.array([g.values[n] for g in groups])[group] for n in groups[0].values}
    if descent is not None:
        descent |= {
            "fast_of": values["fast"].astype(np.float32),
            "slow_of": values["slow"].astype(np.float32),
            "group_of": group,
            "cell": np.array([g.cell for g in groups], np.int32),
        }
    cosine = np.clip(np.einsum("pr,pr->p", unit[a], unit[b]), -1.0, 1.0)
    sine2 = 1.0 - cosine**2
    alike = sine2 <= ALIKE  # never both: one stands for the other
    return NodeTable(
        recipe=recipe,
        weighted=weighted,
        rank=basis.shape[1],
        scan={
            "groups": len(groups),
            "rank": basis.shape[1],
            "row": unit.astype(np.float32),
            "first_pair": np.searchsorted(group, np.arange(len(groups) + 1)).astype(np.int32),
            "pair_a": a.astype(np.int32),
            "pair_b": b.astype(np.int32),
            "cosine": np.where(alike, 1.0, cosine).astype(np.float32),
            "inverse": np.where(alike, 0.0, 1.0 / np.maximum(sine2, ALIKE)).astype(np.float32),
            "band": np.array([stretch[g.cell] + KIND * g.kind for g in groups], np.int32),
            "basis": np.ascontiguousarray(basis, np.float32),
            "unseen": unseen.shape[1],
            "outside": np.ascontiguousarray(unseen, np.float32),
        },
        descent=descent,
        length_a=length[a],
        length_b=length[b],
        values=values,
        group=group,
        band=band[[g.cell for g in groups]],
        delays=cells.mean(axis=1),
    )


def _recipe(problem: Problem) -> Recipe:
    model = problem.model
    if model.starts is not None:
        return model.starts
    if model.terms is None:
        return recipe_of_roles(model.parameters)
    raise KetyError(f"{model.name} does not say where to start; give its Model a Recipe")


def _unseen(problem: Problem, initial_rate: float) -> Doubles:
    """Curves (T, n) that the search does not look at: a fitted constant; and the decay of an
    initial concentration."""
    since = problem.times - problem.times[0]
    curves = [np.ones_like(since)] if problem.baseline else []
    if problem.initial:
        curves.append(np.exp(-initial_rate * since))
    return np.stack(curves, axis=1) if curves else np.zeros((len(since), 0))


def _seen(rows: NDArray[Any], weighted: NDArray[Any], unseen: NDArray[Any]) -> NDArray[Any]:
    rows = rows * weighted
    if unseen.shape[1]:
        rows -= (rows @ unseen) @ unseen.T
    return rows


def _curves(kernel: TermsKernel, sides: Sequence[Curves]) -> list[Doubles]:
    """The curves (n, T) of each side at the frames, in units of the scaled input."""
    times, threads = kernel.problem.times, kernel.problem.threads
    made = [np.zeros((len(side.rows), len(times))) for side in sides]
    for source, aif in enumerate(kernel.inputs):
        # All rows of an input at once: to prepare it costs more than a few rows.
        use = [
            (i, m) for i, side in enumerate(sides) for m, s in enumerate(side.inputs) if s == source
        ]
        if not use:
            continue
        rows = np.concatenate([sides[i].rows[:, m] for i, m in use])
        found = kernel_curves(aif, times, rows, threads=threads)[0]
        ends = np.cumsum([len(sides[i].rows) for i, _ in use])
        for (i, _), curves in zip(use, np.split(found, ends[:-1]), strict=True):
            made[i] += curves
    return made


def _distinct(curves: list[Doubles]) -> tuple[Doubles, list[NDArray[np.intp]]]:
    """All different rows of those arrays, and which of them each row of each array is."""
    number: dict[bytes, int] = {}
    rows: list[Doubles] = []
    which = []
    for array in curves:
        found = np.empty(len(array), np.intp)
        for i, row in enumerate(array):
            found[i] = number.setdefault(row.tobytes(), len(number))
            if found[i] == len(rows):
                rows.append(row)
        which.append(found)
    return np.array(rows), which


def _pairs(
    groups: Sequence[Nodes],
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.int32]]:
    """The pairs of all groups, those of a group side by side: the nodes of either side, counted
    through all groups, and the group."""
    a, b, group = [], [], []
    first_a = first_b = 0
    for g, nodes in enumerate(groups):
        size = len(nodes.a.rows), len(nodes.b.rows)
        allowed = np.ones(size, np.bool_) if nodes.allowed is None else nodes.allowed
        of_a, of_b = np.nonzero(allowed)
        a.append(first_a + of_a)
        b.append(first_b + of_b)
        group.append(np.full(len(of_a), g, np.int32))
        first_a, first_b = first_a + size[0], first_b + size[1]
    return np.concatenate(a), np.concatenate(b), np.concatenate(group)


def _descent(
    table: Doubles, cells: Doubles, band: Doubles, rates: Doubles, *, slow_held: bool
) -> dict[str, Any]:
    f32 = np.float32
    padded = np.zeros((*table.shape[:3], WIDTH), f32)
    padded[..., : table.shape[3]] = table[..., :WIDTH]
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


def _units(rows: Doubles) -> tuple[Doubles, Doubles]:
    """Unit vectors along the rows, and their lengths."""
    length = np.linalg.norm(rows, axis=1)
    length = np.where(length > 0, length, 1.0)
    return rows / length[:, None], length


def _gathered(sides: Sequence[Curves]) -> dict[str, Doubles]:
    """What the curves of all groups stand for, one after the other."""
    return {n: np.concatenate([c.values[n] for c in sides]) for n in sides[0].values}
