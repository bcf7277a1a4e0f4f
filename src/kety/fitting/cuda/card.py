"""One NVIDIA card as the solvers see it, through CuPy."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kety.errors import KetyError
from kety.fitting.cuda.compiler import SIZES, compiled_file, nvrtc
from kety.fitting.cuda.source import records

THREADS: Final = 128
"""Threads of a block."""
OLDEST: Final = 70
"""Compute capability, times ten, from which on kernels are compiled."""
SHARE: Final = 0.8
"""Of the free memory that is used."""


@dataclass(frozen=True, eq=False)
class Card:
    """A card to compute on.

    ``cupy``: the package; ``name``, ``arch`` (such as ``"sm_90"``), ``processors``: its
    multiprocessors.
    """

    cupy: Any
    name: str
    arch: str
    processors: int
    _modules: dict[tuple[str, str, int], Any] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """What is recorded of it."""
        return f"cuda: {self.name}"

    def free_memory(self) -> int:
        """Bytes that may be used."""
        self.cupy.get_default_memory_pool().free_all_blocks()
        return int(SHARE * self.cupy.cuda.Device().mem_info[0])

    def kernel(self, unit: str, name: str, dtype: Any, size: int = SIZES[0]) -> Any:
        """A kernel of a unit, compiled on its first use."""
        key = unit, str(np.dtype(dtype)), size
        if key not in self._modules:
            path = compiled_file(unit, key[1], self.arch, size)
            self._modules[key] = self.cupy.RawModule(path=str(path))
        return self._modules[key].get_function(name)

    def empty(self, count: int, dtype: Any) -> Any:
        """An array on the card, at least one element long."""
        return self.cupy.empty(max(int(count), 1), dtype)

    def upload(self, array: NDArray[Any], dtype: Any = None) -> Any:
        """A copy of an array on the card."""
        return self.cupy.asarray(np.ascontiguousarray(array, dtype=dtype))

    def settle(self) -> None:
        """Wait for all copies: streams of their own do not wait for those of `upload`."""
        self.cupy.cuda.Device().synchronize()

    def stream(self) -> Any:
        """A stream of work beside others."""
        return self.cupy.cuda.Stream(non_blocking=True)

    def pinned(self, count: int, dtype: Any) -> NDArray[Any]:
        """Memory of the computer from which the card copies without the processor."""
        size = max(int(count), 1) * np.dtype(dtype).itemsize
        memory = self.cupy.cuda.alloc_pinned_memory(size)
        return np.frombuffer(memory, dtype, max(int(count), 1))


@dataclass(eq=False)
class Call:
    """A record on the card and the arrays that it points to, kept alive with it."""

    card: Card
    record: Any
    kept: list[Any] = field(default_factory=list)
    _host: NDArray[np.uint8] | None = None
    _there: Any = None

    def point(self, **arrays: Any) -> None:
        """Let members point to arrays on the card; None is the null pointer."""
        for name, array in arrays.items():
            point(self.record, name, array)
            self.kept.append(array)

    def set(self, **values: Any) -> None:
        """Set members that are numbers or, from sequences, arrays of numbers."""
        assign(self.record, values)

    def allocate(self, **wanted: tuple[int, Any]) -> None:
        """Let members point to new arrays of a number of elements and a type."""
        self.point(**{n: self.card.empty(count, dtype) for n, (count, dtype) in wanted.items()})

    def send(self, stream: Any) -> None:
        """Bring the record to the card."""
        size = ctypes.sizeof(self.record)
        if self._host is None:
            self._host = self.card.pinned(size, np.uint8)
            self._there = self.card.empty(size, np.uint8)
        assert self._host is not None
        self._host[:] = np.frombuffer(self.record, np.uint8)
        self._there.set(self._host, stream=stream)

    def launch(self, kernel: Any, blocks: int, threads: int = THREADS, shared: int = 0) -> None:
        """Start a kernel on the record, in the current stream."""
        where = np.uintp(self._there.data.ptr)
        kernel((max(int(blocks), 1),), (threads,), (where,), shared_mem=shared)

    def copy(self) -> Call:
        """A record of its own that points to the same arrays."""
        other = Call(self.card, type(self.record).from_buffer_copy(self.record))
        other.kept.append(self)
        return other

    def run(self, kernels: Sequence[Any], blocks: int) -> None:
        """Bring the record to the card, start kernels on it one after the other, and wait."""
        stream = self.card.stream()
        self.card.settle()
        with stream:
            self.send(stream)
            for kernel in kernels:
                self.launch(kernel, blocks)
            stream.synchronize()


def set_program(call: Call, member: Any, program: Mapping[str, Any], parameters: int) -> None:
    """Bring a program of so many parameters to the card."""
    for name, kind in (("code", np.int32), ("constant", np.float64), ("output", np.int32)):
        array = call.card.upload(np.asarray(program[name]).ravel(), kind)
        call.kept.append(array)
        point(member, name, array)
    member.parameters = parameters
    member.steps, member.outputs = len(program["constant"]), len(program["output"])


def new_call(card: Card, record: str) -> Call:
    """A record of that name, all zeros."""
    return Call(card, records()[record]())


def point(record: Any, name: str, array: Any) -> None:
    """Let a member point to an array on the card."""
    setattr(record, name, None if array is None else int(array.data.ptr))


def assign(record: Any, values: Mapping[str, Any]) -> None:
    """Set members that are numbers or arrays of numbers."""
    for name, value in values.items():
        member = getattr(record, name)
        if isinstance(member, ctypes.Array):
            for i, element in enumerate(value):
                member[i] = element
        else:
            setattr(record, name, value)


def set_pieces(call: Call, member: Any, pieces: Mapping[str, Any], dtype: Any) -> None:
    """Bring the input's pieces to the card, in the precision of the arithmetic."""
    for name, kind in (
        ("start", np.float64),
        ("taylor", dtype),
        ("step", dtype),
        ("bucket", np.int32),
    ):
        array = call.card.upload(pieces[name], kind)
        call.kept.append(array)
        point(member, name, array)
    member.count, member.buckets = len(pieces["step"]), len(pieces["bucket"])
    for name in ("bucket_origin", "bucket_rate", "rate_limit"):
        setattr(member, name, pieces[name])


def find_card() -> Card:
    """The first NVIDIA card, ready to compute.

    Raises
    ------
    KetyError
        If there is none; the message says what is missing and what to do.
    """
    try:
        import cupy
    except ImportError as error:
        raise KetyError(
            f"device 'cuda' needs the package CuPy ({error}); pip install 'kety[cuda]' for drivers "
            "of CUDA 13, or cupy-cuda12x for those of CUDA 12"
        ) from None
    runtime = cupy.cuda.runtime
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        raise KetyError(
            f"device 'cuda' needs an NVIDIA card and its driver; CuPy {cupy.__version__} says: "
            f"{error}. Install the driver, or the CuPy made for it (cupy-cuda12x, cupy-cuda13x), "
            "or take device 'cpu'"
        ) from None
    if count < 1:
        raise KetyError(
            "device 'cuda' needs an NVIDIA card; the driver is there but shows none (see "
            "nvidia-smi and CUDA_VISIBLE_DEVICES); take device 'cpu'"
        )
    device = cupy.cuda.Device()
    capability = str(device.compute_capability)
    name = runtime.getDeviceProperties(device.id)["name"].decode()
    if int(capability) < OLDEST:
        raise KetyError(
            f"the card {name} has compute capability {int(capability) / 10:g}, found too old: "
            f"{OLDEST / 10:g} is needed; take device 'cpu'"
        )
    nvrtc()
    return Card(cupy, name, f"sm_{capability}", int(device.attributes["MultiProcessorCount"]))


def card_or_reason(device: str, find: Callable[[], Card] = find_card) -> tuple[Card | None, str]:
    """The card that a device's name asks for, and how that is recorded.

    Parameters
    ----------
    device : {"cpu", "cuda", "auto"}
        ``"auto"`` takes a card where there is one, and says why not where there is none.

    Raises
    ------
    KetyError
        For another name, or for ``"cuda"`` without a card.
    """
    if device not in ("cpu", "cuda", "auto"):
        raise KetyError(f"unknown device {device!r}; valid: cpu, cuda, auto")
    if device == "cpu":
        return None, "cpu"
    try:
        card = find()
    except KetyError as error:
        if device == "cuda":
            raise
        reason = str(error).removeprefix("device 'cuda' ")
        return None, f"cpu ({reason})"
    return card, card.words
