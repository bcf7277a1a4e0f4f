"""Nelder-Mead and differential evolution on a card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kety.errors import KetyError
from kety.fitting.cuda.card import THREADS, Call, Card, assign, new_call, point, set_pieces

FOUND_BYTES: Final = 48
"""What a start of a voxel comes to (cuda_direct.hpp), at most."""
BLOCKS: Final = 8
"""Blocks of simplices for a multiprocessor; they fetch starts until none are left."""
MOST_VOXELS: Final = 1 << 20
MOST_STARTS: Final = 1 << 31
SHARED_BYTES: Final = 48 << 10
WARP: Final = 32


class SearchOnCard:
    """The direct searches of one sampled model.

    Parameters
    ----------
    card : Card
    model : mapping
        From `kety.fitting.discretize.kernel_model`, in ``dtype``.
    dtype : numpy dtype
        float32 or float64.
    """

    def __init__(self, card: Card, model: Mapping[str, Any], dtype: Any) -> None:
        self.card, self.dtype = card, np.dtype(dtype)
        self.samples = len(model["times"])
        self._model = new_call(card, "SearchCard")
        self._fill(self._model, model)
        self.length = self._model.record.model.transform
        card.settle()

    def _fill(self, call: Call, model: Mapping[str, Any]) -> None:
        record, card = call.record.model, self.card

        def there(name: str, member: str, kind: Any, offset: int = 0) -> None:
            array = card.upload(model[name], kind)
            call.kept.append(array)
            point(record, member, array[offset:])

        there("times", "times", np.float64)
        for i, level in enumerate(model["levels"]):
            set_pieces(call, record.input[i], level, self.dtype)
        if "x" in model:
            there("x", "x", self.dtype, model["front"])
        for name in ("window", "cosine", "sine", "p_re", "p_im", "q_re", "q_im"):
            if name in model:
                there(name, name, self.dtype)
        if model["weights"] is not None:
            there("weights", "weights", self.dtype)
        names = ("kind", "filter", "rate", "lead", "ahead", "baseline", "weight_sum", "lo", "hi")
        assign(record, {name: model[name] for name in names})
        record.samples = self.samples
        record.taps, record.transform = len(model.get("window", ())), len(model.get("cosine", ()))

    def __call__(
        self, curves: NDArray[Any], options: Mapping[str, Any]
    ) -> tuple[NDArray[np.float64], NDArray[np.uint32], NDArray[np.uint8]]:
        """Search curves (V, N): points (V, 4), evaluations and status (V,).

        ``options`` as the core's ``search`` takes them.
        """
        card, total = self.card, len(curves)
        points = np.empty((total, 4))
        evaluations, status = np.empty(total, np.uint32), np.empty(total, np.uint8)
        starts = len(options["start"])
        simplex = options["method"] == 0
        if not simplex and 9 * starts * self.dtype.itemsize > SHARED_BYTES:
            raise KetyError(
                f"a population of {starts} members does not fit into a card's shared memory; take "
                f"at most {SHARED_BYTES // (9 * self.dtype.itemsize)}, or device 'cpu'"
            )
        each = 2 * self.samples * self.dtype.itemsize + starts * FOUND_BYTES + 128
        room = max(card.free_memory() // (2 * each), 1)
        size = min(total, MOST_VOXELS, MOST_STARTS // starts, room)
        if total == 0:
            return points, evaluations, status
        call = self._model.copy()
        sent = card.pinned(size * self.samples, self.dtype)
        there = card.empty(size * self.samples, self.dtype)
        results: dict[str, tuple[Any, NDArray[Any]]] = {
            "points": (card.empty(4 * size, np.float64), points),
            "cost": (card.empty(size, np.float64), np.empty(total)),
            "evaluations": (card.empty(size, np.uint32), evaluations),
            "status": (card.empty(size, np.uint8), status),
        }
        call.point(
            curves=there,
            start=card.upload(options["start"], np.float64),
            **{name: array for name, (array, _) in results.items()},
        )
        call.allocate(square=(size, self.dtype), found=(size * starts * FOUND_BYTES, np.uint8))
        call.set(starts=starts, **{n: v for n, v in options.items() if n != "start"})
        threads = THREADS if simplex else min(THREADS, -(-starts // WARP) * WARP)
        blocks = BLOCKS * card.processors * (1 if simplex else THREADS // threads)
        if self.length:
            transforms = 4 * self.length * self.dtype.itemsize * threads
            blocks = int(max(min(blocks, card.free_memory() // transforms), 1))
            call.allocate(transforms=(4 * self.length * blocks * threads, self.dtype))
        card.settle()
        stream = card.stream()
        for begin in range(0, total, size):
            part = slice(begin, min(begin + size, total))
            count = part.stop - begin
            sent[: count * self.samples] = curves[part].ravel()
            with stream:
                there.set(sent, stream=stream)
                call.set(voxels=count)
                call.send(stream)
                by_voxel = -(-count // THREADS)
                call.launch(self._kernel("search_begin"), by_voxel)
                if simplex:
                    most = -(-count * starts // THREADS)
                    call.launch(self._kernel("nelder_mead"), min(blocks, most))
                    call.launch(self._kernel("search_best"), by_voxel)
                else:
                    shared = 9 * starts * self.dtype.itemsize
                    call.launch(self._kernel("evolution"), min(blocks, count), threads, shared)
                stream.synchronize()
            for array, target in results.values():
                width = array.size // size
                target[part] = array.get()[: count * width].reshape(target[part].shape)
        return points, evaluations, status

    def _kernel(self, name: str) -> Any:
        return self.card.kernel("direct", name, self.dtype)
