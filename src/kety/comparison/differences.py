"""What two fits were not done alike in, from their records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from kety.io import FittedMaps

_OF_THE_RUN: Final = frozenset(
    (
        "GeneratedBy",
        "Maps",
        "command",
        "date",
        "device",
        "elapsed_s",
        "instruction_set",
        "interrupted",
        "not_converted",
        "status_counts",
        "threads",
        "voxels_done",
        "voxels_per_s",
        "warnings",
        "model_long_name",
        "model_osipi",
        "model_reference",
    )
)
"""Of each run its own, or said by another entry."""
_OF_THE_SCAN: Final = ("inputs", "input_function › sha256", "baseline_frames", "joint_")
_INPUT_NAME: Final = "input_function › name"
_OF_JOINT: Final = ("joint_radius", "joint_nearest", "joint_spacing")


@dataclass(frozen=True)
class Difference:
    """One setting that differs: its name and what was found in A and in B.

    ``expected`` is what two scans never share, such as their files.
    """

    setting: str
    a: str
    b: str
    expected: bool


def differences(a: FittedMaps, b: FittedMaps) -> tuple[Difference, ...]:
    """Settings, versions and inputs in which two fits differ, in the order of A's record."""
    first, second = (dict(_flat(one.record)) for one in (a, b))
    found = []
    for key in dict.fromkeys((*first, *second)):
        one, other = first.get(key, "not given"), second.get(key, "not given")
        if one != other:
            expected = key.startswith(_OF_THE_SCAN) and not key.startswith(_OF_JOINT)
            # Each scan has an input file of its own; a published curve has no file.
            expected |= key == _INPUT_NAME and "." in one and "." in other
            found.append(Difference(key, one, other, expected))
    return tuple(found)


def same_series(a: FittedMaps, b: FittedMaps) -> bool:
    """Whether both were fitted to one series, so that they share its noise."""
    hashes = []
    for one in (a, b):
        files = one.record.get("inputs", {}).get("series", [])
        hashes.append([file.get("sha256") for file in files])
    return bool(hashes[0]) and hashes[0] == hashes[1]


def _flat(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in record.items():
        if not prefix and key in _OF_THE_RUN:
            continue
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name} › ")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            yield name, ", ".join(f"{one.get('file', one)}" for one in value) + _hashes(value)
        elif isinstance(value, list):
            yield name, ", ".join(map(str, value))
        else:
            yield name, str(value)


def _hashes(files: list[Any]) -> str:
    marks = [str(file.get("sha256", ""))[:8] for file in files]
    return f" (sha256 {', '.join(marks)}…)" if any(marks) else ""
