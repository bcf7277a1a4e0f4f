"""Linear systems on a graph of voxels, on a card: as the core's `GraphSystem`, with its kernels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kety.fitting.cuda.card import THREADS, Call, Card, new_call
from kety.fitting.engine import packed

RELAX: Final = 0.65
"""Of the smoother: the blocks alone would overshoot on the edges."""
COARSEST_SWEEPS: Final = 16
GRAIN: Final = 32
"""Blocks of rows in one partial sum: sums are formed as the core forms them."""


@dataclass(eq=False)
class Level:
    """A graph with its blocks and the vectors of the cycle, and the kernels' records.

    ``b`` is the right-hand side, ``z`` about the solution, ``a`` what is left, ``u`` = Q z.
    """

    card: Card
    dtype: Any
    count: int
    size: int
    rows: Any
    columns: Any
    weights: Any
    group: Any = None
    member_first: Any = None
    members: Any = None
    groups: int = 0
    arrays: dict[str, Any] = field(default_factory=dict)
    calls: dict[str, tuple[str, Call]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.arrays[name]

    def allocate(self) -> None:
        """Blocks (n, P (P + 1) / 2), vectors (n, P) and free parameters (n)."""
        n, empty = self.count, self.card.empty
        for name in ("metric", "pulled", "block", "pivot"):
            self.arrays[name] = empty(n * self.packed, self.dtype)
        for name in ("b", "z", "a", "u", "mask"):
            self.arrays[name] = empty(n * self.size, self.dtype)
        self.arrays["free"] = empty(n, np.uint8)
        self.arrays["partial"] = empty(self.blocks, np.float64)

    @property
    def packed(self) -> int:
        """Elements of a block."""
        return self.size * (self.size + 1) // 2

    @property
    def blocks(self) -> int:
        """Blocks of a kernel with a thread for each row."""
        return max(-(-self.count // THREADS), 1)

    def call(self, name: str, kernel: str, strength: float, **members: Any) -> None:
        """A record that is sent once and used many times; arrays by name or themselves."""
        call = new_call(self.card, "SweepCard")
        call.point(row=self.rows, column=self.columns, weight=self.weights)
        call.point(**{n: self[n] for n in ("metric", "pulled", "pivot", "partial")})
        numbers = {n: v for n, v in members.items() if isinstance(v, int | float)}
        call.set(rows=self.count, strength=strength, **({"factor": 1.0} | numbers))
        arrays = {n: v for n, v in members.items() if n not in numbers}
        call.point(**{n: self[v] if isinstance(v, str) else v for n, v in arrays.items()})
        self.calls[name] = kernel, call

    def update(
        self,
        name: str,
        to: str,
        source: str | None = None,
        factor: float = 1.0,
        kept: float = 0.0,
        mask: str | None = None,
    ) -> None:
        """A record for vectors: ``to`` becomes ``kept`` of itself and ``factor`` times
        ``source``, all times ``mask``."""
        arrays = {n: self[v] if v else None for n, v in (("from", source), ("mask", mask))}
        self.call(name, "sweep_update", 0.0, to=to, factor=factor, kept=kept, **arrays)

    def change(self, name: str, stream: Any, **numbers: float) -> None:
        """Run a kernel with other numbers."""
        _, call = self.calls[name]
        call.set(**numbers)
        call.send(stream)
        self.run(name)

    def send(self, stream: Any) -> None:
        """Bring all records to the card."""
        for _, call in self.calls.values():
            call.send(stream)

    def run(self, name: str, blocks: int | None = None) -> None:
        """Launch a kernel on its record."""
        kernel, call = self.calls[name]
        launched = self.card.kernel("graph", kernel, self.dtype, self.size)
        if blocks is None:
            by_element = kernel in ("sweep_update", "sweep_spread")
            blocks = -(-self.count * self.size // THREADS) if by_element else self.blocks
        call.launch(launched, blocks)

    def total(self, stream: Any) -> float:
        """The sum that the last kernel formed."""
        partial = self["partial"].get(stream=stream)
        filled = np.zeros(-(-len(partial) // GRAIN) * GRAIN)
        filled[: len(partial)] = partial
        # One after the other, as `sum` does not.
        each = np.cumsum(filled.reshape(-1, GRAIN), axis=1)[:, -1]
        return float(np.cumsum(each)[-1])


class GraphOnCard:
    """A system on a graph, kept for several right-hand sides.

    Parameters
    ----------
    card : Card
    rows (V + 1,), columns, weights : arrays
        A sparse symmetric matrix without diagonal.
    single : bool
        Whether linear systems are solved in float32; the penalty is applied in float64.
    size : int
        Parameters P of a voxel, at most 8.
    """

    def __init__(
        self,
        card: Card,
        rows: NDArray[np.int64],
        columns: NDArray[np.int32],
        weights: NDArray[np.float32],
        single: bool,
        size: int = 4,
    ) -> None:
        self._card, self._dtype = card, np.dtype(np.float32 if single else np.float64)
        self._graph = rows, columns, weights
        self._size = size
        self._count = len(rows) - 1
        self._alone = np.diff(rows) == 0
        self._stream = card.stream()
        self._levels: list[Level] = []
        self._used = 0
        self._there = self._upload(*self._graph)

    def _upload(self, rows: Any, columns: Any, weights: Any) -> tuple[Any, Any, Any]:
        upload = self._card.upload
        return upload(rows, np.int64), upload(columns, np.int32), upload(weights, np.float32)

    def _level(self, there: tuple[Any, Any, Any], count: int, dtype: Any) -> Level:
        level = Level(self._card, dtype, count, self._size, *there)
        level.allocate()
        return level

    def _coarsen(self) -> None:
        from kety import _native

        upload = self._card.upload
        for group, rows, columns, weights in _native.graph_levels(*self._graph):
            fine = self._levels[-1]
            count = len(rows) - 1
            order = np.argsort(group, kind="stable")
            first = np.concatenate([[0], np.cumsum(np.bincount(group, minlength=count))])
            fine.group, fine.groups = upload(group, np.int32), count
            fine.members = upload(order, np.int32)
            fine.member_first = upload(first, np.int64)
            there = self._upload(rows, columns, weights)
            self._levels.append(self._level(there, count, self._dtype))

    def prepare(self, metric: NDArray[np.float64], strength: float, multigrid: bool) -> None:
        """Metrics Q (V, P (P + 1) / 2) of every voxel and the penalty's strength."""
        if not self._levels:
            self._levels = [self._level(self._there, self._count, self._dtype)]
            # The penalty's own: in double, without data.
            self._exact = self._level(self._there, self._count, np.dtype(np.float64))
        if multigrid and len(self._levels) == 1:
            self._coarsen()
        self._used = len(self._levels) if multigrid else 1
        self._exact.arrays["metric"] = self._card.upload(metric.ravel(), np.float64)
        self._levels[0].arrays["metric"] = self._card.upload(metric.ravel(), self._dtype)
        exact, top = self._exact, self._levels[0]
        exact.call("pull", "sweep_pull", strength, to="pulled")
        exact.call("metric", "sweep_metric", strength, x="z", u="u")
        exact.call("rows", "sweep_rows", strength, x="z", u="u", y="a")
        for number, level in enumerate(self._levels[: self._used]):
            self._calls(number, level, strength)
        self._conjugate(top, strength)
        self._card.settle()
        with self._stream:
            for level in (exact, *self._levels[: self._used]):
                level.send(self._stream)
            exact.run("pull")
            for number, level in enumerate(self._levels[: self._used]):
                if number > 0:
                    self._gather(number - 1, "means")
                level.run("pull")
            self._stream.synchronize()

    def _conjugate(self, top: Level, strength: float) -> None:
        """The steps of conjugate gradients: ``at`` the solution, ``b`` the residual, ``p`` the
        direction, ``ap`` what it comes to; ``own`` of voxels without edges."""
        vectors = ("p", "ap", "at", "rhs", "own")
        top.arrays |= {n: self._card.empty(self._count * self._size, self._dtype) for n in vectors}
        alone = np.repeat(self._alone, self._size)
        top.arrays["alone"] = self._card.upload(alone, self._dtype)
        top.arrays["linked"] = self._card.upload(~alone, self._dtype)
        own = {"block": "block", "free": "free"}
        top.call("metric_p", "sweep_metric", strength, x="p", u="u")
        top.call("rows_p", "sweep_rows", strength, x="p", u="u", y="ap", **own)
        top.call("blocks", "sweep_blocks", strength, b="b", y="z")
        top.call("dot", "sweep_dot", strength, x="z", b="b")
        for name in ("at", "rhs"):
            top.update(f"free {name}", name, kept=1.0, mask="mask")
            top.update(f"linked {name}", name, kept=1.0, mask="linked")
        top.update("residual", "b", "rhs")
        top.update("own", "own", "z", mask="alone")
        top.update("direction", "p", "at")
        top.update("less", "b", "ap", kept=1.0)
        top.update("turn", "p", "z")
        top.update("advance", "at", "p", kept=1.0)
        top.update("clear", "at")
        top.update("with own", "at", "own", kept=1.0)

    def _calls(self, number: int, level: Level, strength: float) -> None:
        own = {"block": "block", "free": "free"}
        level.call("pull", "sweep_pull", strength, to="pulled")
        level.call("factor", "sweep_factor", strength, to="pivot", **own)
        level.call("relax", "sweep_blocks", strength, b="b", y="z", factor=RELAX)
        level.call("metric", "sweep_metric", strength, x="z", u="u")
        level.call("rest", "sweep_rows", strength, x="z", u="u", b="b", y="a", **own)
        level.call("smooth", "sweep_blocks", strength, b="a", y="z", factor=RELAX, add=1)
        if number + 1 < self._used:
            coarse = self._levels[number + 1]
            groups = {"member_first": level.member_first, "member": level.members}
            groups |= {"groups": level.groups}
            for name, source, target, width, mean in (
                ("means", "metric", "metric", level.packed, 1),
                ("sums", "block", "block", level.packed, 0),
                ("down", "a", "b", level.size, 0),
            ):
                ends = {"from": level[source], "to": coarse[target]}
                level.call(name, "sweep_gather", strength, width=width, mean=mean, **ends, **groups)
            ends = {"from": coarse["z"], "to": "z", "group": level.group}
            level.call("up", "sweep_spread", strength, mask="mask", **ends)

    def _gather(self, number: int, name: str) -> None:
        level = self._levels[number]
        width = level.size if name == "down" else level.packed
        level.run(name, -(-level.groups * width // THREADS))

    def blocks(
        self,
        block: NDArray[np.float64],
        damping: NDArray[np.float64],
        free: NDArray[np.unsignedinteger[Any]],
    ) -> None:
        """Data blocks D (V, P (P + 1) / 2), their diagonal times 1 + ``damping`` (V,), and ``free``
        parameters (V,) as bits."""
        raised, each = block.copy(), np.arange(self._size)
        raised[:, packed(each, each)] *= (1.0 + damping)[:, None]
        stream = self._stream
        with stream:
            top = self._levels[0]
            top["block"].set(raised.ravel().astype(self._dtype), stream=stream)
            chosen = np.asarray(free, np.uint8)
            for number, level in enumerate(self._levels[: self._used]):
                if number > 0:
                    self._gather(number - 1, "sums")
                    fine = self._levels[number - 1]
                    coarse = np.zeros(level.count, np.uint8)
                    np.bitwise_or.at(coarse, fine.group.get(), chosen)
                    chosen = coarse
                level["free"].set(np.ascontiguousarray(chosen), stream=stream)
                bits = (chosen[:, None] >> np.arange(self._size, dtype=np.uint8)) & 1
                level["mask"].set(bits.ravel().astype(level.dtype), stream=stream)
                level.run("factor")
            stream.synchronize()

    def solve(
        self, b: NDArray[np.float64], x: NDArray[np.float64], tolerance: float, limit: int
    ) -> tuple[int, float]:
        """Solve A x = b by conjugate gradients, in place, from the given x.

        Returns the steps, and the residual relative to b's in the preconditioner's norm.
        """
        top, stream = self._levels[0], self._stream
        step, rz, whole = 0, 0.0, 0.0
        with stream:
            for name, vector in (("at", x), ("rhs", b)):
                top[name].set(vector.ravel().astype(self._dtype), stream=stream)
                top.run(f"free {name}")
            # Voxels without edges are solved for at once, so that they do not decide when to stop.
            for name in ("residual", "blocks", "own", "linked at", "linked rhs", "residual"):
                top.run(name)
            whole = self._precondition()
            if whole > 0:
                for name in ("direction", "metric_p", "rows_p"):
                    top.run(name)
                top.change("less", stream, factor=-1.0)
                rz = self._precondition()
                top.change("turn", stream, kept=0.0)
                while step < limit and rz > tolerance * tolerance * whole:
                    top.run("metric_p")
                    top.run("rows_p")
                    curvature = top.total(stream)
                    if not curvature > 0:
                        break
                    alpha = rz / curvature
                    top.change("advance", stream, factor=alpha)
                    top.change("less", stream, factor=-alpha)
                    before, rz = rz, self._precondition()
                    top.change("turn", stream, kept=rz / before)
                    step += 1
            else:
                top.run("clear")
            top.run("with own")
            x[...] = top["at"].get(stream=stream).reshape(x.shape)
            stream.synchronize()
        return step, float(np.sqrt(max(rz, 0.0) / whole)) if whole > 0 else 0.0

    def _precondition(self) -> float:
        """z is about A^-1 b at the top; returns its product with b."""
        top = self._levels[0]
        if self._used == 1:
            top.run("blocks")
            return top.total(self._stream)
        self._cycle(0)
        top.run("dot")
        return top.total(self._stream)

    def _cycle(self, number: int) -> None:
        """One V-cycle from level `number` down. Symmetric, so that conjugate gradients may use
        it."""
        level = self._levels[number]
        level.run("relax")

        def smooth() -> None:
            for name in ("metric", "rest", "smooth"):
                level.run(name)

        if number + 1 == self._used:
            for _ in range(COARSEST_SWEEPS):
                smooth()
            return
        level.run("metric")
        level.run("rest")
        self._gather(number, "down")
        self._cycle(number + 1)
        level.run("up")
        smooth()

    def penalty(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
        """y = L x, half the penalty's gradient."""
        exact, stream = self._exact, self._stream
        with stream:
            exact["z"].set(np.ascontiguousarray(x.ravel(), np.float64), stream=stream)
            exact.run("metric")
            exact.run("rows")
            y[...] = exact["a"].get(stream=stream).reshape(y.shape)
            stream.synchronize()

    @property
    def levels(self) -> int:
        """Number of graphs, the finest counted."""
        return len(self._levels)
