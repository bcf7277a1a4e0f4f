"""The search for starts of models of several terms on a card: the scan over pairs, the descents
from them, and the parameters that a model's recipe makes of what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from kety.fitting.cuda.card import THREADS, Call, Card, new_call, set_program
from kety.fitting.pairs import (
    ENDS,
    Descents,
    Starts,
    candidates_of,
    descent_settings,
    enhancing,
    found_ends,
    found_pairs,
    gathered,
    start_of,
    starts_of,
    values_of_starts,
)
from kety.models import recorded

if TYPE_CHECKING:
    from kety.fitting.nodes import NodeTable
    from kety.fitting.optimizers.varprolm import VarProLM
    from kety.fitting.terms import TermsKernel

MOST_VOXELS: Final = 1 << 18
"""Voxels of a chunk."""
BLOCKS: Final = 8
"""Blocks for a multiprocessor; each thread of the scan has products of its own."""
MOST_PARAMETERS: Final = 8


@dataclass(frozen=True, eq=False)
class TableOnCard:
    """What the search of a table reads there. ``descent`` is None where there is none, ``start``
    where the model's recipe is more than arithmetic and so is followed on the processor."""

    nodes: NodeTable
    scan: Call
    descent: Call | None
    start: Call | None


class StartsOnCard:
    """The search of a block of curves on each of a problem's tables, called as what
    `prepare_pairs` returns."""

    def __init__(
        self, card: Card, kernel: TermsKernel, options: VarProLM, tables: Sequence[NodeTable]
    ) -> None:
        self.card, self.kernel = card, kernel
        self.dtype = kernel.problem.dtype
        self.frames = len(kernel.problem.times)
        rows = max(len(nodes.scan["row"]) for nodes in tables)
        groups = max(nodes.scan["groups"] for nodes in tables)
        each = 4 * (rows + 3 + 2 * groups) * THREADS
        room = max(card.free_memory() // (4 * each), 1)
        self.blocks = int(min(BLOCKS * card.processors, room))
        threads = self.blocks * THREADS
        shared = new_call(card, "PairsCard")
        shared.point(weighted=card.upload(tables[0].weighted, self.dtype))
        shared.set(frames=self.frames, baseline=kernel.problem.baseline, scale=1.0 / kernel.scale)
        shared.allocate(
            products=(threads * (rows + 3), np.float32),
            best=(threads * groups, np.float32),
            where=(threads * groups, np.int32),
        )
        self._tables = [self._table(shared, nodes, options) for nodes in tables]
        card.settle()

    def _table(self, shared: Call, nodes: NodeTable, options: VarProLM) -> TableOnCard:
        candidates = candidates_of(nodes)
        scan = shared.copy()
        _read(scan, nodes.scan)
        scan.set(
            rows=len(nodes.scan["row"]),
            candidates=candidates,
            ratio=options.candidate_ratio - 1.0,
        )
        descent = None
        if nodes.descent is not None:
            descent = new_call(self.card, "DescentCard")
            _read(descent, nodes.descent | descent_settings(self.dtype))
            descent.set(candidates=candidates)
        return TableOnCard(nodes, scan, descent, self._start(nodes, candidates))

    def _start(self, nodes: NodeTable, candidates: int) -> Call | None:
        problem = self.kernel.problem
        values = ENDS if nodes.descent is not None else tuple(values_of_starts(nodes))
        inputs = [*values, "x", "y", "c0"]

        def start(v: Any) -> dict[str, Any]:
            return start_of(nodes, {n: v[n] for n in values}, v["x"], v["y"]) | {"c0": v["c0"]}

        try:
            program = recorded(start, inputs, [p.name for p in problem.parameters])
        except TypeError:
            return None
        call = new_call(self.card, "StartsCard")
        set_program(call, call.record.program, program, len(inputs))
        lo, hi = problem.kernel_bounds()
        call.set(candidates=candidates, values=len(values), lo=lo, hi=hi)
        call.point(group_band=self.card.upload(nodes.band, np.float64))
        if nodes.descent is None:
            table = np.stack(list(values_of_starts(nodes).values()), axis=1)
            call.point(
                of_pair=self.card.upload(table, np.float64),
                group_of=self.card.upload(nodes.group, np.int32),
            )
        return call

    def __call__(self, curves: NDArray[Any]) -> Starts:
        """The starts of curves (V, T)."""
        widest = max(table.scan.record.rank for table in self._tables)
        most = max(table.scan.record.candidates for table in self._tables)
        each = self.frames * (self.dtype.itemsize + 4) + len(self._tables) * (
            4 * (widest + 11 * most) + 16
        )
        starts = most * 8 * (MOST_PARAMETERS + 2)
        room = max(self.card.free_memory() // (2 * (each + starts)), 1)
        size = int(min(MOST_VOXELS, room))
        parts = [self._chunk(curves[i : i + size]) for i in range(0, len(curves), size)]
        if len(parts) == 1:
            return parts[0]
        ends = np.cumsum([0, *(p.first[-1] for p in parts)])
        first = [p.first[:-1] + end for p, end in zip(parts, ends, strict=False)]
        return Starts(
            np.append(np.concatenate(first), ends[-1]),
            np.concatenate([p.parameters for p in parts]),
            np.concatenate([p.band for p in parts]),
        )

    def _run(self, call: Call, count: int, *names: str) -> None:
        call.set(voxels=count)
        kernels = [self.card.kernel("starts", name, self.dtype) for name in names]
        call.run(kernels, min(self.blocks, -(-count // THREADS)))

    def _chunk(self, curves: NDArray[Any]) -> Starts:
        card, count = self.card, len(curves)
        with np.errstate(over="ignore"):  # too large for the precision: found not finite
            raw = card.upload(curves, self.dtype)
        ready = card.empty(count * self.frames, np.float32)
        usable, at_first = card.empty(count, np.bool_), card.empty(count, self.dtype)
        scans = []
        for i, table in enumerate(self._tables):
            scan, wide = table.scan.copy(), count * table.scan.record.candidates
            made = {n: card.empty(wide, np.float32) for n in ("x", "y", "left")}
            made |= {n: card.empty(count, np.float32) for n in ("square", "least")}
            made["z"] = card.empty(count * table.scan.record.rank, np.float32)
            made["pair"] = card.empty(wide, np.int32)
            scan.point(curves=raw, ready=ready, y_curves=ready, usable=usable, at_first=at_first)
            scan.point(**made)
            self._run(scan, count, *(("starts_ready",) if i == 0 else ()), "starts_scan")
            scans.append(made)
        threshold = self.kernel.problem.enhancement_threshold()
        if threshold > 0:
            found = [(made["square"].get(), made["least"].get()) for made in scans]
            usable = card.upload(usable.get() & enhancing(threshold, found))
        parts = []
        for table, made in zip(self._tables, scans, strict=True):
            if table.descent is not None:
                made = self._descended(table.descent, made, usable)
            parts.append(self._starts(table, made, usable, at_first))
        return gathered(count, parts)

    def _descended(self, descent: Call, scan: dict[str, Any], usable: Any) -> dict[str, Any]:
        """Where the descents from a scan's pairs ended."""
        call, wide = descent.copy(), len(scan["pair"])
        names = (*ENDS, "x", "y", "left")
        made = {n: self.card.empty(wide, np.float32) for n in names}
        made["group"] = self.card.empty(wide, np.int32)
        call.point(z=scan["z"], square=scan["square"], pair=scan["pair"], usable=usable, **made)
        self._run(call, len(usable), "starts_descend")
        return made

    def _starts(
        self, table: TableOnCard, made: dict[str, Any], usable: Any, at_first: Any
    ) -> Starts:
        """Parameters of what was found."""
        card, count = self.card, len(usable)
        if table.start is None:
            here = {n: array.get().reshape(count, -1) for n, array in made.items() if n != "z"}
            if table.descent is not None:
                where = found_ends(Descents(**here))
            else:
                here["pair"][~usable.get()] = -1
                where = found_pairs(table.nodes, here["pair"], here["x"], here["y"])
            return starts_of(self.kernel, table.nodes, where, at_first.get())
        call, size = table.start.copy(), self.kernel.problem.size
        counts = card.empty(count, np.int32)
        descended = {n: made[n] for n in ENDS} if table.descent is not None else {}
        call.point(
            list=made["pair" if table.descent is None else "group"],
            **{"x": made["x"], "y": made["y"], **descended},
            usable=usable,
            at_first=at_first,
            count=counts,
        )
        self._run(call, count, "starts_count")
        first = np.zeros(count + 1, np.int64)
        np.cumsum(counts.get(), out=first[1:])
        total = int(first[-1])
        start, band = card.empty(total * size, np.float64), card.empty(total * 2, np.float64)
        call.point(first=card.upload(first), start=start, start_band=band)
        self._run(call, count, "starts_write")
        parameters = start.get()[: total * size].reshape(total, size)
        bands = self.kernel.bands_at(parameters, band.get()[: total * 2].reshape(total, 2))
        return Starts(first, parameters, bands)


def _read(call: Call, table: dict[str, Any]) -> None:
    """Bring a table to the card: arrays, and numbers."""
    arrays = {n: v for n, v in table.items() if isinstance(v, np.ndarray)}
    call.point(**{n: call.card.upload(v) for n, v in arrays.items()})
    call.set(**{n: v for n, v in table.items() if n not in arrays})
