"""Normal equations of many voxels at given parameters, on a card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kety.fitting.cuda.card import THREADS, Card, new_call, set_pieces

BLOCKS: Final = 8
"""Blocks for a multiprocessor; each thread has a curve of its own to work on."""
KEPT_SHARE: Final = 4
"""Curves stay on the card where they take no more than this part of its memory."""


class NormalsOnCard:
    """A model of one exponential on a card."""

    def __init__(
        self,
        card: Card,
        levels: list[dict[str, Any]],
        times: NDArray[np.float64],
        weights: NDArray[np.float64] | None,
        options: Mapping[str, Any],
        dtype: Any,
    ) -> None:
        self.card, self.dtype, self.frames = card, np.dtype(dtype), len(times)
        self.blocks = BLOCKS * card.processors
        call = self.shared = new_call(card, "NormalsCard")
        for i, level in enumerate(levels):
            set_pieces(call, call.record.input[i], level, self.dtype)
        if options["baseline"] and weights is None:  # the card has no weights of its own
            weights = np.ones(len(times))
        call.point(
            times=card.upload(times, np.float64),
            weights=None if weights is None else card.upload(weights, self.dtype),
        )
        call.set(frames=self.frames, **options)
        call.allocate(tile=(self.blocks * THREADS * self.frames, self.dtype))


class CurvesOnCard:
    """Measured curves (V, T) on a card, or as many at a time as fit."""

    def __init__(self, model: NormalsOnCard, curves: NDArray[Any]) -> None:
        card = model.card
        self._model = model
        self._part = max(card.free_memory() // (8 * (model.frames + 32)), 1)
        kept = curves.size * model.dtype.itemsize <= card.free_memory() // KEPT_SHARE
        self._kept = card.upload(curves, model.dtype) if kept else None

    def normals(
        self,
        curves: NDArray[Any],
        parameters: NDArray[np.float64],
        factor: NDArray[np.float64],
        outputs: Mapping[str, NDArray[np.float64] | None],
    ) -> None:
        """Into the arrays ``cost``, ``unweighted``, ``gradient``, ``hessian`` and ``offset`` (or
        None)."""
        model, card = self._model, self._model.card
        wanted = {name: target for name, target in outputs.items() if target is not None}
        for begin in range(0, len(curves), self._part):
            part = slice(begin, min(begin + self._part, len(curves)))
            count = part.stop - begin
            there = {n: card.empty(target[part].size, np.float64) for n, target in wanted.items()}
            call = model.shared.copy()
            own = self._kept[part] if self._kept is not None else None
            call.point(
                curves=card.upload(curves[part], model.dtype) if own is None else own,
                parameters=card.upload(parameters[part], np.float64),
                factor=card.upload(factor[part], np.float64),
                **there,
            )
            call.set(voxels=count)
            kernel = card.kernel("joint", "normals_at", model.dtype)
            call.run([kernel], min(model.blocks, -(-count // THREADS)))
            for name, target in wanted.items():
                target[part] = there[name].get().reshape(target[part].shape)
