"""The core's headers as one source, and the layout of the records that they share with Python."""

from __future__ import annotations

import ctypes
import re
from functools import cache
from pathlib import Path
from typing import Any, Final

from kety.errors import KetyError

RECORDS: Final = ("types.hpp", "cuda_types.hpp")
UNITS: Final = ("cuda_fit.hpp", "cuda_direct.hpp", "cuda_terms.hpp", "cuda_joint.hpp")
"""What is compiled for a card, each by itself."""

_INCLUDE = re.compile(r'#include "(.+)"')
_STRUCT = re.compile(r"^struct (\w+)(?: : (\w+))? \{\n(.*?)^\};", re.DOTALL | re.MULTILINE)
_CONSTANT = re.compile(r"constexpr int (\w+) = ([^;]+);")
_MEMBER = re.compile(r"^(\*?)(\w+)((?:\[\w+\])*)$")
_NUMBERS: Final[dict[str, Any]] = {
    "bool": ctypes.c_bool,
    "int": ctypes.c_int,
    "unsigned": ctypes.c_uint,
    "long": ctypes.c_long,
    "long long": ctypes.c_longlong,
    "unsigned long long": ctypes.c_ulonglong,
    "unsigned short": ctypes.c_ushort,
    "unsigned char": ctypes.c_ubyte,
    "float": ctypes.c_float,
    "double": ctypes.c_double,
}


def header_folder() -> Path:
    """Where the core's headers lie: in a checkout, or beside the installed core.

    Raises
    ------
    KetyError
        If they are in neither place.
    """
    import kety
    from kety import _native

    places = (
        Path(kety.__file__).parents[1] / "native",
        Path(str(_native.__file__)).parent / "native",
    )
    for place in places:
        if (place / UNITS[0]).is_file():
            return place
    raise KetyError(
        f"the core's headers are needed to compile it for a card, found none in {places[0]} or "
        f"{places[1]}; install kety again"
    )


def source_of(unit: str) -> str:
    """A unit with all that it includes, in one text, so that its hash stands for all of it."""
    folder, seen = header_folder(), set()

    def read(name: str) -> list[str]:
        if name in seen:
            return []
        seen.add(name)
        lines = [f'#line 1 "{name}"']
        for number, line in enumerate((folder / name).read_text().splitlines(), 1):
            found = _INCLUDE.match(line)
            if found:
                lines += [*read(found[1]), f'#line {number + 1} "{name}"']
            elif line == "#pragma once":
                lines.append("")
            else:
                lines.append(line.replace("#pragma GCC unroll", "#pragma unroll"))
        return lines

    return "\n".join(read(unit)) + "\n"


@cache
def records() -> dict[str, type[ctypes.Structure]]:
    """Every record of `RECORDS` as a `ctypes.Structure` of the same layout; pointers are numbers.

    Read from the headers themselves, so that there is no second description to keep.
    """
    folder = header_folder()
    text = "".join((folder / name).read_text() for name in RECORDS)
    text = re.sub(r" *//.*", "", text)
    constants: dict[str, int] = {}
    for name, value in _CONSTANT.findall(text):
        terms = re.sub(r"\b[a-zA-Z_]\w*\b", lambda m: str(constants[m[0]]), value)
        constants[name] = int(eval(terms.replace("/", "//"), {"__builtins__": {}}))
    found: dict[str, type[ctypes.Structure]] = {}
    for name, base, body in _STRUCT.findall(text):
        if "(*" in body:  # of the core alone
            continue
        fields: list[tuple[str, Any]] = []
        for statement in body.split(";"):
            words = " ".join(statement.split())
            if words:
                fields += _members(words, constants, found)
        parent = found[base] if base else ctypes.Structure
        found[name] = type(name, (parent,), {"_fields_": fields})
    return found


def _members(
    statement: str, constants: dict[str, int], known: dict[str, type[ctypes.Structure]]
) -> list[tuple[str, Any]]:
    """The members that a statement such as ``const int *a, b[4]`` declares."""
    types = {**_NUMBERS, "void": None, **known}
    kind = max(
        (t for t in types if re.match(rf"(const )?{t}\b[ *]", statement)), key=len, default=None
    )
    if kind is None:
        raise KetyError(f"cannot read the member {statement!r} of the core's records")
    rest = re.sub(rf"^(const )?{kind}", "", statement)
    fields = []
    # `type* a` is one pointer; `type *a, *b` are several.
    for part in rest.split(","):
        found = _MEMBER.match(part.replace(" ", ""))
        if found is None:
            raise KetyError(f"cannot read the member {statement!r} of the core's records")
        member: Any = ctypes.c_void_p if found[1] else types[kind]
        for size in reversed(re.findall(r"\w+", found[3])):
            member *= constants[size] if size in constants else int(size)
        fields.append((found[2], member))
    return fields
