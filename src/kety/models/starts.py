"""Where the search for a model's parameters looks: pairs of curves with amplitudes above 0.

The curve of every model here is, for given rates and delays, a sum of two curves with amplitudes
that are not negative. A model's `Recipe` lists such pairs on a coarse grid (`Nodes`) and turns the
best pair and its amplitudes back into parameters. The search so covers all parameters at the cost
of the nonlinear ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from kety.models.base import Parameter

Floats = NDArray[np.float64]

BRANCHES = (0.0, 0.05, 0.4, np.inf)
"""Rates between the kinds of pair of exponentials, 1/s."""


@dataclass(frozen=True)
class Search:
    """The grid that a recipe builds its nodes from, in s and 1/s.

    Attributes
    ----------
    delays, delays_portal : (n,) arrays
        Centres of the cells of the delays.
    rates : (m,) array
        Rates, increasing, the first of them 0.
    """

    delays: Floats
    delays_portal: Floats
    rates: Floats


@dataclass(frozen=True)
class Curves:
    """Curves, each a sum of rows of the kernel.

    ``rows`` (n, m, 6): v, a1, k1, a2, k2, tau of m rows of each of n curves; ``inputs`` (m,), the
    input of each row. ``values`` maps quantities to what they are for each curve, (n,).
    """

    rows: Floats
    values: Mapping[str, Floats] = field(default_factory=dict)
    inputs: Sequence[int] = (0,)


@dataclass(frozen=True)
class Nodes:
    """A group of nodes: every curve of ``a`` with every one of ``b`` where ``allowed`` (na, nb).

    ``cell`` is the delay cell that it lies in. ``values`` are common to the group. Groups of the
    same ``kind`` follow each other in order of their cells: of each kind the best are tried.
    """

    cell: int
    a: Curves
    b: Curves
    values: Mapping[str, float]
    allowed: NDArray[np.bool_] | None = None
    kind: int = 0


@dataclass(frozen=True)
class Recipe:
    """``nodes(search)`` lists the groups; ``start(values, x, y)`` makes parameters (kernel units)
    of what a pair's curves stand for and their amplitudes, all arrays; from the arithmetic of
    `kety.models.trace` alone, where a card is to follow it too.

    ``exponentials``: the pairs are two exponentials at one delay, named ``fast``, ``slow`` and
    ``delay``; the search then goes on between the nodes. 1 where the slower rate is 0, else 2.
    ``share``: of a model with two inputs, the parameter that is the first one's share of the curve;
    all others but the delays and ``c0`` then scale with the curve. ``varied``: one of these that
    other delays stand in for, so that every solution is tried with more and less of it.
    """

    nodes: Callable[[Search], list[Nodes]]
    start: Callable[[Mapping[str, Any], Any, Any], dict[str, Any]]
    exponentials: int = 0
    share: str = ""
    varied: str = ""


def kernel_rows(count: int, **columns: Any) -> Floats:
    """Rows (count, 6) of the kernel from the columns v, a1, k1, a2, k2, tau; 0 where left out."""
    rows = np.zeros((count, 6))
    for name, value in columns.items():
        rows[:, ("v", "a1", "k1", "a2", "k2", "tau").index(name)] = value
    return rows


def exponentials(rates: Floats, delay: float, name: str, source: int = 0) -> Curves:
    """The input convolved with exp(-k t), for each rate k."""
    rows = kernel_rows(len(rates), a1=1.0, k1=rates, tau=delay)
    return Curves(rows[:, None], {name: rates}, (source,))


def pairs_of_rates(search: Search, slow: Floats) -> list[Nodes]:
    """All pairs of a faster and a slower exponential at every delay.

    Of several kinds, by the faster one (`BRANCHES`): a curve is often described nearly as well by
    plasma that empties slowly, by plasma that empties faster and a slow interstitium, and by plasma
    that just follows the input; which is best shows only between the nodes.
    """
    groups = []
    for kind, (above, to) in enumerate(pairwise(BRANCHES)):
        fast = search.rates[(search.rates > above) & (search.rates <= to)]
        for cell, delay in enumerate(search.delays):
            groups.append(
                Nodes(
                    cell,
                    exponentials(fast, float(delay), "fast"),
                    exponentials(slow, float(delay), "slow"),
                    {"delay": float(delay)},
                    fast[:, None] > slow[None, :],
                    kind,
                )
            )
    return groups


def recipe_of_roles(parameters: Sequence[Parameter]) -> Recipe:
    """The recipe of a model that is one term of the kernel, by the roles of its parameters."""
    names = {p.role: p.name for p in parameters}

    def nodes(search: Search) -> list[Nodes]:
        rates = search.rates if "k" in names else values_of(0.0)
        return [
            Nodes(
                cell,
                Curves(kernel_rows(1, v=float("v" in names), tau=float(delay))[:, None]),
                exponentials(rates, float(delay), "rate"),
                {"delay": float(delay)},
            )
            for cell, delay in enumerate(search.delays)
        ]

    def start(v: Mapping[str, Any], x: Any, y: Any) -> dict[str, Any]:
        found = {"v": x, "a": y, "k": v["rate"], "tau": v["delay"]}
        return {name: found[role] for role, name in names.items() if role is not None}

    return Recipe(nodes, start)


def values_of(*values: float) -> Floats:
    """Those numbers as a row."""
    return np.array(values)
