"""Models of several terms on a card: the exact solution from given starts, normal equations and
curves. starts.py searches for the starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from kety.fitting.cuda.card import THREADS, Call, Card, assign, new_call, set_pieces, set_program
from kety.fitting.cuda.compiler import SIZES

if TYPE_CHECKING:
    from kety.fitting.terms import TermsKernel

MOST_PARAMETERS: Final = 8
BLOCKS: Final = 4
"""Blocks for a multiprocessor; each thread has knots of its own."""
MOST_TASKS: Final = 1 << 19
PER_TASK: Final = ("cost_of", "plain_of", "damping", "fall", "offset_of")
PLACES_PER_TASK: Final = ("owner", "evaluations_of", "state", "queue")
VECTORS_PER_TASK: Final = ("p", "trial", "g", "slope")


class TermsOnCard:
    """One problem's model on a card, in one precision."""

    def __init__(self, card: Card, kernel: TermsKernel, dtype: Any) -> None:
        self.card, self.dtype = card, np.dtype(dtype)
        self.frames = len(kernel.problem.times)
        self.parameters = kernel.problem.size
        self.size = next(s for s in SIZES if self.parameters <= s)
        call = self._model = new_call(card, "TermsCard")
        record = call.record
        self._fill_model(call, kernel.program)
        record.model.inputs = len(kernel.levels)
        for i, levels in enumerate(kernel.levels):
            for j, level in enumerate(levels):
                set_pieces(call, record.model.input[i][j], level, self.dtype)
        call.point(
            times=card.upload(kernel.problem.times, np.float64),
            weights=card.upload(kernel.weights, self.dtype),
        )
        pieces = max(len(level["step"]) for levels in kernel.levels for level in levels)
        call.set(frames=self.frames, pieces=pieces, **kernel.options())
        # Threads work on memory of their own; of long series fewer at a time.
        each = (4 * pieces * record.model.groups + self.frames) * self.dtype.itemsize * THREADS
        room = max(card.free_memory() // (4 * each), 1)
        self.blocks = int(min(BLOCKS * card.processors, room))
        threads = self.blocks * THREADS
        call.allocate(
            knots=(threads * 4 * pieces * record.model.groups, self.dtype),
            tile=(threads * self.frames, self.dtype),
        )
        card.settle()

    def _fill_model(self, call: Call, program: Mapping[str, Any]) -> None:
        model = call.record.model
        for name in ("terms", "inner", "back"):
            if program[name] is not None:
                set_program(call, getattr(model, name), program[name], program["parameters"])
        model.parameters = program["parameters"]
        model.outputs = model.terms.outputs
        model.groups = len(program["groups"])
        for i, group in enumerate(program["groups"]):
            own = model.group[i]
            assign(own, {name: group[name] for name in ("input", "delay", "direct")})
            assign(own, {name: list(group[name]) for name in ("amplitude", "rate")})
            own.terms = len(group["amplitude"])
        for name in ("decay_amplitude", "decay_rate"):
            assign(model, {name: list(program[name])})
        model.decays, model.jumps = len(program["decay_rate"]), len(program["jumps"])
        assign(model, {"jump": program["jumps"]})

    def _run(self, call: Call, *names: str) -> None:
        kernels = [self.card.kernel("terms", name, self.dtype, self.size) for name in names]
        most = max(call.record.voxels, call.record.tasks)
        call.run(kernels, min(self.blocks, -(-most // THREADS)))

    def _part(self, total: int, bytes_each: int) -> int:
        """Voxels of a chunk."""
        room = max(self.card.free_memory() // (2 * bytes_each), 1)
        return int(max(min(total, MOST_TASKS, room), 1))

    def forward(self, count: int, **there: Any) -> None:
        """Fill ``values`` (count, T), and ``jacobian`` (count, T, P) where it is given, at
        ``points`` (count, P): arrays of double on the card."""
        call = self._model.copy()
        call.set(voxels=count)
        call.point(**there)
        self._run(call, "terms_forward")

    def curves(
        self, points: NDArray[np.float64], *, jacobian: bool
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Values (V, T) and slopes (V, T, P), in the scale of the core."""
        total, frames, p = len(points), self.frames, self.parameters
        values = np.empty((total, frames))
        slopes = np.empty((total, frames, p)) if jacobian else None
        size = self._part(total, 8 * frames * (p + 1))
        for begin in range(0, total, size):
            part = slice(begin, min(begin + size, total))
            count = part.stop - begin
            outputs: dict[str, tuple[NDArray[Any], int]] = {"values": (values, frames)}
            if slopes is not None:
                outputs["jacobian"] = (slopes, frames * p)
            there = {n: self.card.empty(count * w, np.float64) for n, (_, w) in outputs.items()}
            self.forward(count, points=self.card.upload(points[part], np.float64), **there)
            for name, (target, _) in outputs.items():
                target[part] = there[name].get().reshape(target[part].shape)
        return values, slopes

    def normals(
        self,
        curves: NDArray[Any],
        points: NDArray[np.float64],
        factor: NDArray[np.float64],
        outputs: Mapping[str, NDArray[np.float64] | None],
    ) -> None:
        """Normal equations at ``points`` (V, P) into the arrays ``cost``, ``unweighted``,
        ``gradient``, ``hessian`` and ``offset`` (or None)."""
        total = len(curves)
        size = self._part(total, 8 * (self.frames + 64))
        for begin in range(0, total, size):
            part = slice(begin, min(begin + size, total))
            call = self._model.copy()
            call.set(voxels=part.stop - begin)
            there = {
                name: self.card.empty(target[part].size, np.float64)
                for name, target in outputs.items()
                if target is not None
            }
            call.point(
                curves=self.card.upload(curves[part], self.dtype),
                points=self.card.upload(points[part], np.float64),
                factor=self.card.upload(factor[part], np.float64),
                **there,
            )
            self._run(call, "terms_normals")
            for name, array in there.items():
                target = outputs[name]
                assert target is not None
                target[part] = array.get().reshape(target[part].shape)

    def fit(
        self,
        curves: NDArray[Any],
        first: NDArray[np.int64],
        start: NDArray[np.float64],
        band: NDArray[np.float64],
        settings: Mapping[str, Any],
        outputs: Mapping[str, NDArray[Any] | None],
    ) -> None:
        """Levenberg-Marquardt from the starts of every voxel into the arrays ``fit_parameters``,
        ``fit_covariance``, ``fit_cost``, ``fit_r2``, ``evaluations``, ``status``, ``undetermined``
        and ``fit_offset`` (or None)."""
        total, p, real = len(curves), self.parameters, self.dtype
        packed = self.size * (self.size + 1) // 2
        settings = dict(settings)
        for name in ("lo", "hi", "xfloor", "span", "fixed", "vanishing"):
            rest = [1 if name == "fixed" else 0] * (MOST_PARAMETERS - p)
            settings[name] = [*settings[name], *rest]
        each = 2 * self.frames * real.itemsize + 8 * (packed + 6 * self.size + 16)
        most = int(np.diff(first).max(initial=1))
        size = self._part(total, each * max(most, 1))
        for begin in range(0, total, size):
            part = slice(begin, min(begin + size, total))
            count = part.stop - begin
            rows = slice(first[begin], first[part.stop])
            tasks = int(rows.stop - rows.start)
            call = self._model.copy()
            call.set(voxels=count, tasks=tasks, **settings)
            there = {
                name: self.card.empty(target[part].size, target.dtype)
                for name, target in outputs.items()
                if target is not None
            }
            call.point(
                curves=self.card.upload(curves[part], real),
                first=self.card.upload(first[begin : part.stop + 1] - first[begin], np.int64),
                start=self.card.upload(start[rows], np.float64),
                band=self.card.upload(band[rows], np.float64),
                **there,
            )
            call.allocate(
                y=(count * self.frames, real),
                finite=(count, np.bool_),
                best=(count, np.int32),
                h=(tasks * packed, real),
                **dict.fromkeys(("mean", "square", "spread"), (count, real)),
                **dict.fromkeys(VECTORS_PER_TASK, (tasks * self.size, real)),
                **dict.fromkeys(PER_TASK, (tasks, real)),
                **dict.fromkeys(PLACES_PER_TASK, (tasks, np.int32)),
            )
            self._run(call, "terms_begin", "terms_walk", "terms_write")
            for name, array in there.items():
                target = outputs[name]
                assert target is not None
                target[part] = array.get().reshape(target[part].shape)
