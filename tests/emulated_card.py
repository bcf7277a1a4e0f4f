"""CuPy's part that kety uses, on NumPy, with kernels that run on the processor (`emulate.cpp`).

The kernels are the very device code, compiled by the system's C++ compiler: the logic of grids,
queues, shared memory and barriers runs as on a card. Every array has guards around it that are
looked at whenever a stream is waited for, and starts out as NaN.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kety.fitting.cuda import card, compiler
from kety.fitting.cuda.source import header_folder, source_of
from kety.fitting.engine import instruction_sets

GUARD, PATTERN = 64, 0xA5
HERE = Path(__file__).parent


class Array(np.ndarray):
    """An array "on the card". It has no arithmetic: CuPy would compile kernels of its own for it,
    which takes the headers of a whole CUDA Toolkit."""

    __array_ufunc__ = None

    @property
    def data(self) -> Any:  # type: ignore[override]
        return SimpleNamespace(ptr=self.ctypes.data)

    def set(self, host: np.ndarray, stream: Any = None) -> None:
        assert stream is not None, "a copy without a stream waits for all others"
        assert host.dtype == self.dtype
        assert host.shape == self.shape
        self[...] = host

    def get(
        self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True
    ) -> np.ndarray:
        copy = np.array(self, order=order).view(np.ndarray)
        if out is None:
            return copy
        assert stream is not None
        assert out.dtype == self.dtype
        out[...] = copy
        return out


class Memory(np.ndarray):
    """Bytes with guards at both ends; alive as long as an array in them is."""

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:  # type: ignore[override]
        return self is other


class Cupy:
    """What `import cupy` gives."""

    __version__ = "emulated"
    ndarray = Array

    def __init__(self, memory: int = 1 << 30) -> None:
        self.guarded: weakref.WeakKeyDictionary[Memory, Any] = weakref.WeakKeyDictionary()
        self.launched: list[str] = []
        device = SimpleNamespace(
            compute_capability="90",
            id=0,
            attributes={"MultiProcessorCount": 2},
            mem_info=(memory, memory),
            synchronize=lambda: None,
        )
        self.cuda = SimpleNamespace(
            runtime=SimpleNamespace(
                getDeviceCount=lambda: 1,
                CUDARuntimeError=RuntimeError,
                getDeviceProperties=lambda _: {"name": b"an emulated card"},
            ),
            Device=lambda: device,
            Stream=self._stream,
            alloc_pinned_memory=bytearray,
        )

    def _stream(self, non_blocking: bool = False) -> Any:
        assert non_blocking
        return Stream(self)

    def check_guards(self) -> None:
        """No kernel has written beside an array."""
        for memory, (start, stop) in self.guarded.items():
            plain = memory.view(np.ndarray)
            assert (plain[:start] == PATTERN).all(), self.launched[-8:]
            assert (plain[stop:] == PATTERN).all(), self.launched[-8:]

    def empty(self, shape: Any, dtype: Any) -> Array:
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        memory = Memory(count + 2 * GUARD + 64, np.uint8)
        memory[:] = PATTERN
        start = GUARD + (-(memory.ctypes.data + GUARD)) % 64
        self.guarded[memory] = start, start + count
        memory[start : start + count] = 0xFF
        return memory[start : start + count].view(dtype).reshape(shape).view(Array)

    def asarray(self, host: Any) -> Array:
        host = np.asarray(host)
        there = self.empty(host.shape, host.dtype)
        there[...] = host
        return there

    def get_default_memory_pool(self) -> Any:
        return SimpleNamespace(free_all_blocks=lambda: None)

    def RawModule(self, path: str) -> Any:
        library = emulated_library(*Path(path).name.split("-"))

        def get_function(name: str) -> Any:
            kernel = ctypes.cast(getattr(library, name), ctypes.c_void_p)

            def launch(grid: Any, block: Any, args: Any, *, shared_mem: int = 0) -> None:
                self.launched.append(name)
                met = library.kety_launch(
                    kernel,
                    ctypes.c_int(grid[0]),
                    ctypes.c_int(block[0]),
                    ctypes.c_long(shared_mem),
                    ctypes.c_void_p(int(args[0])),
                )
                assert met, f"threads of {name} part at a barrier"

            return launch

        return SimpleNamespace(get_function=get_function)


class Stream:
    """A stream; everything is done at once."""

    def __init__(self, cupy: Cupy) -> None:
        self.cupy = cupy

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: Any) -> None:
        return None

    def synchronize(self) -> None:
        self.cupy.check_guards()


def emulated_library(unit: str, precision: str, size: str) -> Any:
    """The kernels of a unit for the processor, compiled once and kept."""
    compile_with = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
    if compile_with is None:
        pytest.skip("no C++ compiler to run the card's kernels on the processor")
    name = compiler.ENTRY_UNITS[unit]
    # A card fuses what the source fuses; a processor needs to be asked.
    fuses = ["-mfma"] if "avx2" in instruction_sets() else []
    options = [
        *("-std=c++20", "-O1", "-w", "-fPIC", "-shared"),
        *("-ffp-contract=off", "-fno-math-errno", "-DKETY_CUDA", "-DKETY_NS=card"),
        *fuses,
        f"-DKETY_REAL={compiler.PRECISIONS[precision]}",
        f"-DKETY_SIZE={size}",
        f'-DKETY_UNIT="{name}"',
    ]
    program = HERE / "emulate.cpp"
    text = source_of(name) + program.read_text() + " ".join([compile_with, *options])
    key = hashlib.sha256(text.encode()).hexdigest()[:24]
    path = Path(tempfile.gettempdir()) / f"kety-emulated-{os.getuid()}" / f"{unit}-{key}.so"
    if not path.is_file():
        path.parent.mkdir(mode=0o700, exist_ok=True)
        made = path.with_suffix(f".{os.getpid()}")
        subprocess.run(
            [compile_with, *options, f"-I{header_folder()}", str(program), "-o", str(made)],
            check=True,
        )
        made.replace(path)
    library = ctypes.CDLL(str(path))
    library.kety_launch.restype = ctypes.c_bool
    return library


def emulated_card(patch: pytest.MonkeyPatch, memory: int = 1 << 30) -> card.Card:
    """A card of which nothing is real but the code that runs on it."""
    patch.setattr(card, "compiled_file", lambda *key: Path("-".join([key[0], key[1], str(key[3])])))
    return card.Card(Cupy(memory), "an emulated card", "sm_90", 2)
