"""The default solver on a card: chunks of voxels stream through it, one being copied while another
is solved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kety.fitting.cuda.card import THREADS, Call, Card, new_call, set_pieces

MOST_VOXELS: Final = 1 << 18
"""Voxels of a chunk: enough to fill any card."""
CANDIDATES, REPEATS, CANDIDATE_BYTES = 8, 48, 40
"""What the core may list of a voxel (scratch.hpp), and the size of an entry."""
TASKS: Final = CANDIDATES + REPEATS
PER_TASK: Final = {
    "p": 4,
    "trial": 4,
    "g": 4,
    "h": 10,
    "slope": 4,
    "walls": 2,
    "cost_of": 1,
    "plain_of": 1,
    "damping": 1,
    "fall": 1,
    "offset_of": 1,
}
NUMBERS_PER_VOXEL: Final = ("square", "mean", "spread")
PLACES_PER_VOXEL: Final = (
    "first",
    "candidate_first",
    "candidate_count",
    "repeat_first",
    "repeat_count",
    "task_first",
    "task_count",
)
POLISH_BLOCKS: Final = 8
"""Blocks of the exact solution for a multiprocessor; they fetch voxels until none are left."""
STREAMS: Final = 2


class Output(NamedTuple):
    """A result of every voxel: the member of the record, its width and type (None: the fit's)."""

    member: str
    width: int
    dtype: Any


OUTPUTS: Final = (
    Output("parameters", 4, None),
    Output("covariance", 10, None),
    Output("cost", 1, None),
    Output("r2", 1, None),
    Output("evaluations", 1, np.uint16),
    Output("status", 1, np.uint8),
    Output("undetermined", 1, np.uint8),
)
OFFSET: Final = Output("offset", 2, None)


@dataclass(eq=False)
class Slot:
    """A chunk on its way: its stream, its record and arrays, and buffers of the computer."""

    stream: Any
    call: Call
    sent: NDArray[Any]
    curves: Any
    received: dict[str, NDArray[Any]]
    results: dict[str, Any]
    begin: int = 0
    count: int = 0


class FitOnCard:
    """The default solver for one problem and precision.

    Parameters
    ----------
    card : Card
    levels, times, weights, dictionary, options
        As the core's ``fit_single`` takes them.
    baseline : bool
        Whether a constant of every voxel is fitted along.
    dtype : numpy dtype
        float32 or float64.
    most : int, optional
        Most voxels of a chunk.
    """

    def __init__(
        self,
        card: Card,
        levels: list[dict[str, Any]],
        times: NDArray[np.float64],
        weights: NDArray[np.float64] | None,
        dictionary: Mapping[str, Any],
        options: Mapping[str, Any],
        baseline: bool,
        dtype: Any,
        most: int = MOST_VOXELS,
    ) -> None:
        self.card, self.dtype, self.frames = card, np.dtype(dtype), len(times)
        self.outputs = (*OUTPUTS, OFFSET) if baseline else OUTPUTS
        self._shared = new_call(card, "FitCard")
        self._fill(levels, times, weights, dictionary, options, baseline)
        self._most = most
        self._slots: list[Slot] = []

    def _fill(
        self,
        levels: list[dict[str, Any]],
        times: NDArray[np.float64],
        weights: NDArray[np.float64] | None,
        dictionary: Mapping[str, Any],
        options: Mapping[str, Any],
        baseline: bool,
    ) -> None:
        call, card, dtype = self._shared, self.card, self.dtype
        record = call.record
        for i, level in enumerate(levels):
            set_pieces(call, record.input[i], level, dtype)
        if baseline and weights is None:  # the card has no weights of its own
            weights = np.ones(len(times))
        call.point(
            times=card.upload(times, np.float64),
            weights=None if weights is None else card.upload(weights, dtype),
        )
        search = options["search_weights"]
        call.point(search_weights=None if search is None else card.upload(search, dtype))
        call.point(curves_table=card.upload(dictionary["curves"], np.float32))
        for name in ("band_lo", "band_hi"):
            call.point(**{name: card.upload(dictionary[name], np.float64)})
        call.point(band=card.upload(dictionary["band"], np.int32))
        for name in (
            *("delay_centre", "delay_half", "rate_centre", "rate_half", "c_unit", "c_norm"),
            *("g_unit", "g_along", "g_across", "table", "poly", "basis"),
        ):
            call.point(**{name: card.upload(dictionary[name], np.float32)})
        call.set(
            frames=len(times),
            pieces=max(len(level["step"]) for level in levels),
            baseline=baseline,
            voxel_stride=len(times),
            frame_stride=1,
            **{n: dictionary[n] for n in ("delays", "rates", "rank", "scan_rank")},
            **{n: dictionary[n] for n in ("use_v", "plain", "later")},
            **{n: v for n, v in options.items() if n != "search_weights"},
        )

    def bytes_per_voxel(self) -> int:
        """What a voxel of a chunk takes on the card."""
        real = self.dtype.itemsize
        lists = (TASKS * CANDIDATE_BYTES) + 4 * REPEATS
        tasks = TASKS * (sum(PER_TASK.values()) * real + 12)
        rank = int(self._shared.record.rank)
        return int(lists + tasks + (2 * self.frames + 24) * real + 4 * rank + 64)

    def _slot(self, size: int) -> Slot:
        """Room for a chunk of so many voxels."""
        card, real = self.card, self.dtype
        call = self._shared.copy()
        call.allocate(
            y=(size * self.frames, real),
            z=(size * int(call.record.rank), np.float32),
            outcome=(size, np.uint8),
            candidates=(size * CANDIDATES * CANDIDATE_BYTES, np.uint8),
            repeats=(size * REPEATS * CANDIDATE_BYTES, np.uint8),
            origin=(size * REPEATS, np.int32),
            **dict.fromkeys(NUMBERS_PER_VOXEL, (size, real)),
            **dict.fromkeys(PLACES_PER_VOXEL, (size, np.int32)),
            **{n: (size * TASKS * width, real) for n, width in PER_TASK.items()},
            **dict.fromkeys(("evaluations_of", "owner", "state"), (size * TASKS, np.int32)),
        )
        call.set(tasks=size * TASKS)
        curves = card.empty(size * self.frames, real)
        call.point(curves=curves)
        results, received = {}, {}
        for out in self.outputs:
            kind = out.dtype or real
            results[out.member] = card.empty(size * out.width, kind)
            received[out.member] = card.pinned(size * out.width, kind)
        call.point(**results)
        sent = card.pinned(size * self.frames, real)
        return Slot(card.stream(), call, sent, curves, received, results)

    def _prepare(self, count: int) -> None:
        """Slots for chunks of up to `count` voxels."""
        wanted = min(count, self._most)
        if self._slots and len(self._slots[0].sent) >= wanted * self.frames:
            return
        self._slots = []  # before the new ones are made
        room = max(self.card.free_memory() // (STREAMS * self.bytes_per_voxel()), 1)
        self._slots = [self._slot(min(wanted, room)) for _ in range(STREAMS)]
        self.card.settle()

    def __call__(self, curves: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Fit curves (V, T): every output by its member's name, (V,) or (V, width)."""
        total, real = len(curves), self.dtype
        found = {
            out.member: np.empty((total, out.width) if out.width > 1 else total, out.dtype or real)
            for out in self.outputs
        }
        if total == 0:
            return found
        self._prepare(total)
        size = len(self._slots[0].sent) // self.frames
        try:
            for number, begin in enumerate(range(0, total, size)):
                slot = self._slots[number % STREAMS]
                self._receive(slot, found)
                self._start(slot, curves[begin : begin + size], begin)
            # The oldest first.
            for slot in sorted(self._slots, key=lambda s: s.begin):
                self._receive(slot, found)
        finally:
            for slot in self._slots:
                slot.stream.synchronize()
                slot.count = 0
        return found

    def _start(self, slot: Slot, curves: NDArray[Any], begin: int) -> None:
        count, frames = len(curves), self.frames
        slot.begin, slot.count = begin, count
        with np.errstate(over="ignore"):  # too large for the precision: found not finite
            slot.sent[: count * frames].reshape(count, frames)[:] = curves
        with slot.stream:
            slot.curves.set(slot.sent, stream=slot.stream)
            slot.call.set(voxels=count)
            slot.call.send(slot.stream)
            self.launch(slot, count)
            for name, array in slot.results.items():
                array.get(stream=slot.stream, out=slot.received[name], blocking=False)

    def launch(self, slot: Slot, count: int) -> None:
        """Start the kernels on a chunk that is on the card, in the current stream."""
        by_voxel = -(-count // THREADS)
        for name, blocks in (
            ("fit_search", by_voxel),
            ("fit_climb", by_voxel),
            ("fit_again", by_voxel),
            ("fit_climb_again", by_voxel),
            ("fit_starts", by_voxel),
            ("fit_polish", min(by_voxel, POLISH_BLOCKS * self.card.processors)),
            ("fit_write", by_voxel),
        ):
            slot.call.launch(self.card.kernel("fit", name, self.dtype), blocks)

    def _receive(self, slot: Slot, found: Mapping[str, NDArray[Any]]) -> None:
        if slot.count == 0:
            return
        slot.stream.synchronize()
        where = slice(slot.begin, slot.begin + slot.count)
        for out in self.outputs:
            target = found[out.member][where]
            target[:] = slot.received[out.member][: slot.count * out.width].reshape(target.shape)
        slot.count = 0
