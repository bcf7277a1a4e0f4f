"""Compiles the core for a card with NVRTC, NVIDIA's run-time compiler, and keeps what it made."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from kety.errors import KetyError
from kety.fitting.cuda.source import source_of

PRECISIONS: Final = {"float32": "float", "float64": "double"}
SIZES: Final = (5, 8)
"""Parameters that the kernels of models of several terms are made for."""
ENTRY_UNITS: Final = {
    "fit": "cuda_fit.hpp",
    "direct": "cuda_direct.hpp",
    "terms": "cuda_terms.hpp",
    "starts": "cuda_starts.hpp",
    "joint": "cuda_joint.hpp",
    "graph": "cuda_graph.hpp",
}
_LIBRARIES: Final = ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so")
_BUILTINS: Final = "libnvrtc-builtins.so*"
_KERNEL: Final = "Compiling entry function '"
_USAGE: Final = re.compile(
    r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads.*?"
    r"Used (\d+) registers(?:[^\n]*?(\d+) bytes smem)?",
    re.DOTALL,
)


class Usage(NamedTuple):
    """What a kernel takes of the card: ``registers`` of a thread, its ``stack`` and what is
    ``spilled`` to it (bytes), and ``shared`` memory of a block (bytes)."""

    kernel: str
    registers: int
    stack: int
    spilled: int
    shared: int


class Compiled(NamedTuple):
    """A ``cubin`` and the ``log`` of its compilation."""

    cubin: bytes
    log: str

    def usage(self) -> list[Usage]:
        """What each kernel takes."""
        found = []
        for part in self.log.split(_KERNEL)[1:]:
            own = _USAGE.search(part)  # the functions that it calls follow
            if own:
                stack, stores, loads, registers, shared = (int(n or 0) for n in own.groups())
                found.append(
                    Usage(part.partition("'")[0], registers, stack, stores + loads, shared)
                )
        return found


@cache
def nvrtc() -> Any:
    """The run-time compiler's library.

    Raises
    ------
    KetyError
        If there is none.
    """
    folders = [Path(p) / "nvidia" for p in sys.path if p]
    found = [
        str(library)
        for folder in folders
        for pattern in ("cu13/lib", "cuda_nvrtc/lib")
        for library in sorted((folder / pattern).glob("libnvrtc.so.1?"))
    ]
    home = os.environ.get("CUDA_PATH") or os.environ.get("CUDA_HOME")
    if home:
        found += [str(Path(home) / "lib64" / name) for name in _LIBRARIES]
    for name in (*found, *_LIBRARIES):
        try:
            # It looks for its built-in functions by name, which need not be on the path.
            for other in Path(name).parent.glob(_BUILTINS) if "/" in name else ():
                if ".alt." not in other.name:
                    ctypes.CDLL(str(other), mode=ctypes.RTLD_GLOBAL)
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise KetyError(
        "NVIDIA's run-time compiler NVRTC is needed to compile the core for a card, found none; "
        "pip install 'nvidia-cuda-nvrtc==13.0.*' (or 'kety[cuda]'), or set CUDA_PATH"
    )


@cache
def nvrtc_version() -> str:
    """Version of the run-time compiler, such as ``"13.0"``."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    nvrtc().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


def options_of(precision: str, arch: str, size: int = SIZES[0]) -> tuple[str, ...]:
    """NVRTC's options. Divisions and roots are rounded correctly, and sums of products are fused
    only where the source says so, as the core is compiled for processors: the digits are the
    same."""
    return (
        f"--gpu-architecture={arch}",
        "--std=c++20",
        "--device-as-default-execution-space",
        "--fmad=false",
        "--prec-div=true",
        "--prec-sqrt=true",
        "--ftz=false",
        "--ptxas-options=-v",
        "--diag-suppress=836",
        "-DKETY_CUDA",
        "-DKETY_NS=kety_cuda",
        f"-DKETY_REAL={PRECISIONS[precision]}",
        f"-DKETY_SIZE={size}",
    )


def compile_unit(unit: str, precision: str, arch: str, size: int = SIZES[0]) -> Compiled:
    """Compile the kernels of a unit.

    Parameters
    ----------
    unit : {"fit", "direct", "terms", "starts", "joint", "graph"}
    precision : {"float32", "float64"}
    arch : str
        Such as ``"sm_90"``.
    size : int
        Most parameters of a model of several terms, one of `SIZES`.

    Raises
    ------
    KetyError
        If there is no compiler, or with its log if it fails.
    """
    library = nvrtc()
    options = options_of(precision, arch, size)
    program = ctypes.c_void_p()
    text = source_of(ENTRY_UNITS[unit]).encode()
    name = ENTRY_UNITS[unit].encode()
    library.nvrtcCreateProgram(ctypes.byref(program), text, name, 0, None, None)
    try:
        array = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
        failed = library.nvrtcCompileProgram(program, len(options), array)
        log = _text(library.nvrtcGetProgramLogSize, library.nvrtcGetProgramLog, program).decode()
        if failed:
            raise KetyError(f"NVRTC {nvrtc_version()} cannot compile {unit} for {arch}:\n{log}")
        cubin = _text(library.nvrtcGetCUBINSize, library.nvrtcGetCUBIN, program, keep=True)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))
    return Compiled(cubin, log)


def _text(size_of: Any, read: Any, program: ctypes.c_void_p, *, keep: bool = False) -> bytes:
    size = ctypes.c_size_t()
    size_of(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    read(program, buffer)
    return buffer.raw if keep else buffer.value


def cache_folder() -> Path:
    """Where compiled kernels are kept: ``KETY_CACHE``, or the user's cache folder."""
    own = os.environ.get("KETY_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kety" / "cuda"


def compiled_file(unit: str, precision: str, arch: str, size: int = SIZES[0]) -> Path:
    """The cubin of a unit, from the cache or compiled now.

    Its name is the hash of source, options and compiler, so that a changed one is never mistaken
    for it.
    """
    key = hashlib.sha256()
    for part in (
        source_of(ENTRY_UNITS[unit]),
        *options_of(precision, arch, size),
        nvrtc_version(),
    ):
        key.update(part.encode() + b"\0")
    path = cache_folder() / f"{unit}-{precision}-{arch}-{key.hexdigest()[:32]}.cubin"
    if path.is_file():
        return path
    cubin = compile_unit(unit, precision, arch, size).cubin
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Another process may be making the same file: each writes its own and renames it.
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(cubin)
        Path(file.name).replace(path)
    except OSError as error:
        raise KetyError(
            f"compiled kernels cannot be kept in {path.parent} ({error}); set KETY_CACHE to a "
            "folder that can be written"
        ) from None
    return path
