"""The card's kernels compile without a card, and fit into one: registers, spills, stack."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import pytest

from kety import KetyError
from kety.fitting.cuda import compiler
from kety.fitting.cuda.source import source_of

MOST_REGISTERS = 255
# Enough of units, precisions and cards to find what does not compile; each takes seconds.
CHOSEN = [
    ("fit", "float32", "sm_90", 5),
    ("fit", "float64", "sm_80", 5),
    ("direct", "float32", "sm_90", 5),
    ("joint", "float64", "sm_80", 5),
    ("joint", "float32", "sm_90", 5),
    ("graph", "float32", "sm_90", 4),
    ("graph", "float64", "sm_80", 5),
    ("graph", "float64", "sm_90", 8),
    ("terms", "float32", "sm_80", 5),
    ("starts", "float64", "sm_90", 5),
]
KERNELS = {
    "fit": {"search", "climb", "again", "climb_again", "starts", "polish", "write"},
    "direct": {"search_begin", "nelder_mead", "search_best", "evolution"},
    "terms": {"forward", "normals", "begin", "walk", "write"},
    "starts": {"ready", "scan", "descend", "count", "write", "shift", "cross"},
    "joint": {"normals_at"},
    "graph": {"metric", "rows", "blocks", "dot", "gather", "pull", "factor", "update", "spread"},
}
PREFIX = {"fit": "fit_", "terms": "terms_", "starts": "starts_", "graph": "sweep_"}


@pytest.fixture(scope="module", autouse=True)
def _compiler() -> None:
    try:
        compiler.nvrtc()
    except KetyError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(("unit", "precision", "arch", "size"), CHOSEN)
def test_it_compiles_without_spilling(unit: str, precision: str, arch: str, size: int) -> None:
    made = compiler.compile_unit(unit, precision, arch, size)
    assert made.cubin[:4] == b"\x7fELF"
    usage = {u.kernel: u for u in made.usage()}
    prefix = PREFIX.get(unit, "")
    wanted = {n if n in usage else prefix + n for n in KERNELS[unit]}
    assert set(usage) == wanted
    for name, u in usage.items():
        assert 8 <= u.registers <= MOST_REGISTERS, name
        assert u.spilled == 0, name
        assert u.stack < 8 << 10, name
    if unit == "fit":
        # The exact solution keeps a voxel in registers: half a thousand of them in flight.
        assert usage["fit_polish"].stack == 0 or precision == "float64"
    if unit == "starts":
        # A descent stays in registers; in memory lie the ends of its voxel.
        assert usage["starts_descend"].stack < 640


@pytest.mark.parametrize(("unit", "kernel"), [("fit", "fit_climb"), ("starts", "starts_scan")])
def test_what_becomes_of_rows_and_sums(unit: str, kernel: str) -> None:
    """Rows are not copied byte by byte, and nothing is left that could be fused later."""
    library, program = compiler.nvrtc(), ctypes.c_void_p()
    text = source_of(compiler.ENTRY_UNITS[unit]).encode()
    options = [o for o in compiler.options_of("float32", "compute_90") if "ptxas" not in o]
    array = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
    library.nvrtcCreateProgram(ctypes.byref(program), text, b"unit", 0, None, None)
    try:
        assert library.nvrtcCompileProgram(program, len(options), array) == 0
        size = ctypes.c_size_t()
        library.nvrtcGetPTXSize(program, ctypes.byref(size))
        ptx = ctypes.create_string_buffer(size.value)
        library.nvrtcGetPTX(program, ptx)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))
    text_of_all = ptx.value.decode()
    assert text_of_all.count("fma.rn.f32") > 500
    assert not re.search(r"\b(?:add|sub|mul)\.f(?:32|64)\b", text_of_all)  # all say how they round
    found = dict(part.split("(", 1) for part in text_of_all.split(".entry ")[1:])
    assert found[kernel].count("ld.") > 50
    loads = re.findall(r"\bld\.(?:\w+\.)?u8\b", found[kernel])
    assert len(loads) < 5  # of bools alone


def test_a_compiled_unit_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KETY_CACHE", str(tmp_path))
    calls = []
    monkeypatch.setattr(
        compiler,
        "compile_unit",
        lambda *key: calls.append(key) or compiler.Compiled(b"\x7fELF made", ""),
    )
    first = compiler.compiled_file("joint", "float32", "sm_90")
    assert compiler.compiled_file("joint", "float32", "sm_90") == first
    assert len(calls) == 1
    assert first.read_bytes() == b"\x7fELF made"
    assert [p.name for p in tmp_path.iterdir()] == [first.name]
    others = {
        compiler.compiled_file("joint", "float64", "sm_90"),
        compiler.compiled_file("joint", "float32", "sm_80"),
        compiler.compiled_file("terms", "float32", "sm_90"),
    }
    monkeypatch.setattr(compiler, "source_of", lambda name: "changed")
    others.add(compiler.compiled_file("joint", "float32", "sm_90"))
    assert len(others) == 4
    assert first not in others


def test_an_error_of_the_compiler_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "source_of", lambda name: "this is no program")
    with pytest.raises(KetyError, match=r"cannot compile fit for sm_90(.|\n)*error"):
        compiler.compile_unit("fit", "float32", "sm_90")


def test_a_cache_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("KETY_CACHE", str(blocked))
    monkeypatch.setattr(compiler, "compile_unit", lambda *key: compiler.Compiled(b"x", ""))
    with pytest.raises(KetyError, match="set KETY_CACHE"):
        compiler.compiled_file("joint", "float32", "sm_90")
