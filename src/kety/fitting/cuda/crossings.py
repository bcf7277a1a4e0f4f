"""Further starts of models with two inputs on a card: both delays scanned at a given residue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kety.fitting.cuda.card import THREADS, new_call
from kety.fitting.cuda.terms import TermsOnCard

BLOCKS: Final = 4
"""Blocks for a multiprocessor; each thread has a voxel's curves of its own."""
MOST_VOXELS: Final = 1 << 14
"""Voxels whose curves lie on the card at a time."""

Doubles = NDArray[np.float64]


def crossings(
    model: TermsOnCard,
    slots: Sequence[int],
    theta: Doubles,
    y: Doubles,
    delays: tuple[Doubles, Doubles],
    weighted: Doubles,
    constant: Doubles | None,
    scale: float,
    most: int,
) -> tuple[NDArray[np.int32], NDArray[np.int32], Doubles, Doubles]:
    """As the core's ``crossings``: places of the delays and amplitudes, (V, most) each.

    ``slots``: the places of the first input's share and of both delays among the parameters
    ``theta`` (V, P); ``scale``: that of the curves ``y`` (V, T) beside the core's.
    """
    card, frames, count = model.card, y.shape[1], len(y)
    first, second = (len(d) for d in delays)
    room = {"own": frames, "early": first * frames, "late": second * frames}
    room |= dict.fromkeys(("early_square", "early_product"), first)
    room |= dict.fromkeys(("late_square", "late_product"), second)
    room["gains"] = first * second
    each = 8 * sum(room.values()) * THREADS
    blocks = int(max(min(BLOCKS * card.processors, card.free_memory() // (4 * each)), 1))
    shared = new_call(card, "CrossingsCard")
    shared.allocate(**{n: (size * blocks * THREADS, np.float64) for n, size in room.items()})
    own, delay, delay_second = slots
    shared.set(
        frames=frames,
        first=first,
        second=second,
        most=most,
        scale=scale,
        stride_a=(first + second) * frames,
        stride_b=(first + second) * frames,
        parameters=theta.shape[1],
        share=own,
        delay=delay,
        delay_second=delay_second,
    )
    shared.point(
        weighted=card.upload(weighted, np.float64),
        constant=None if constant is None else card.upload(constant, np.float64),
        delays=card.upload(delays[0], np.float64),
        delays_second=card.upload(delays[1], np.float64),
    )
    found: dict[str, NDArray[Any]] = {n: np.empty((count, most), np.int32) for n in ("i", "j")}
    found |= {n: np.empty((count, most)) for n in ("x", "z", "gain")}
    size = 8 * (first + second) * (frames + theta.shape[1])
    size = int(max(min(MOST_VOXELS, card.free_memory() // (2 * size)), 1))
    for begin in range(0, count, size):
        part = slice(begin, min(begin + size, count))
        voxels = part.stop - begin
        every = voxels * (first + second)
        call = shared.copy()
        points = card.empty(every * theta.shape[1], np.float64)
        values = card.empty(every * frames, np.float64)
        there = {n: card.empty(v[part].size, v.dtype) for n, v in found.items()}
        call.set(voxels=voxels)
        call.point(
            theta=card.upload(theta[part], np.float64),
            y=card.upload(y[part], np.float64),
            points=points,
            a=values,
            b=values[first * frames :],
            **there,
        )
        launched = min(blocks, -(-every // THREADS))
        call.run([card.kernel("starts", "starts_shift", np.float64)], launched)
        model.forward(every, points=points, values=values)
        call.run(
            [card.kernel("starts", "starts_cross", np.float64)],
            min(launched, -(-voxels // THREADS)),
        )
        for name, array in there.items():
            found[name][part] = array.get().reshape(-1, most)
    return found["i"], found["j"], found["x"], found["z"]
