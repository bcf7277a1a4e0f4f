"""Linear systems on a graph of voxels, of P parameters each:

    (A x)_i = D_i x_i + strength sum_j w_ij (Q_i + Q_j) / 2 (x_i - x_j)

solved by conjugate gradients that the voxels' own blocks precondition or, where the penalty is
strong, a cycle over groups of voxels that are voxels again: in the core or, with the same digits,
on a card.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from kety.joint.block_system import BlockSystem

if TYPE_CHECKING:
    from kety.fitting.cuda import Card
    from kety.joint.graph import Graph

Doubles = NDArray[np.float64]
FOUR, MOST = 4, 8
"""Fewest and most parameters of a voxel that the core's systems are made for."""


class System(Protocol):
    """A system kept for several right-hand sides; all arrays are contiguous."""

    def prepare(self, metric: Doubles, strength: float, multigrid: bool) -> None:
        """Q (V, P (P + 1) / 2) of every voxel; ``strength`` multiplies the weights."""

    def blocks(self, block: Doubles, damping: Doubles, free: NDArray[np.unsignedinteger]) -> None:
        """D (V, P (P + 1) / 2) of every voxel, its diagonal times 1 + ``damping`` (V,), and its
        ``free`` parameters (V,) as bits; the others stay 0."""

    def solve(self, b: Doubles, x: Doubles, tolerance: float, limit: int) -> tuple[int, float]:
        """Solve A x = b in place, from the given x (V, P).

        Stops where the residual is ``tolerance`` times b in the preconditioner's norm, or after
        ``limit`` steps. Returns the steps and what the residual has become.
        """

    def penalty(self, x: Doubles, y: Doubles) -> None:
        """y = L x, half the gradient of the penalty, over all parameters (V, P)."""


class _Filled:
    """A system of more parameters than are asked for; those beyond stay 0."""

    def __init__(self, system: System, size: int) -> None:
        self._system, self._size = system, size

    def _more(self, values: Doubles, width: int) -> Doubles:
        """Rows filled up: packed triangles of smaller matrices are the beginning of larger ones."""
        filled = np.zeros((len(values), width))
        filled[:, : values.shape[1]] = values
        return filled

    def _matrices(self, values: Doubles) -> Doubles:
        return self._more(values, self._size * (self._size + 1) // 2)

    def prepare(self, metric: Doubles, strength: float, multigrid: bool) -> None:
        self._system.prepare(self._matrices(metric), strength, multigrid)

    def blocks(self, block: Doubles, damping: Doubles, free: NDArray[np.unsignedinteger]) -> None:
        self._system.blocks(self._matrices(block), damping, free)

    def solve(self, b: Doubles, x: Doubles, tolerance: float, limit: int) -> tuple[int, float]:
        whole = self._more(x, self._size)
        result = self._system.solve(self._more(b, self._size), whole, tolerance, limit)
        x[...] = whole[:, : x.shape[1]]
        return result

    def penalty(self, x: Doubles, y: Doubles) -> None:
        whole = np.empty((len(x), self._size))
        self._system.penalty(self._more(x, self._size), whole)
        y[...] = whole[:, : x.shape[1]]


def make_system(
    graph: Graph, size: int, threads: int, *, single: bool = True, card: Card | None = None
) -> System:
    """The system of a graph, of ``size`` parameters a voxel, without penalty or blocks.

    ``single``: linear systems in float32, the penalty in float64. Blocks of models of several terms
    are nearly singular: other sizes than 4 are solved in float64. More than 8 parameters are solved
    by NumPy.
    """
    from kety import _native

    if size > MOST:
        return BlockSystem(graph)
    edges = graph.rows, graph.columns, graph.weights
    single, made_for = single and size == FOUR, max(size, FOUR)
    system: System
    if card is not None:
        from kety.fitting.cuda.graph import GraphOnCard

        system = GraphOnCard(card, *edges, single, made_for)
    else:
        system = getattr(_native, f"GraphSystem{made_for}")(*edges, single, threads, "")
    return system if made_for == size else _Filled(system, made_for)
