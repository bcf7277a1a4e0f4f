"""The elements of a header as text and numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final

from kety.io.dicom.elements import NotReadable

_NUMBER: Final = re.compile(r"[-+]?\d*\.?\d+(?:[eE][-+]?\d+)?|[-+]?\d+\.")


class Values:
    """Elements by keyword, as text."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self.values = values

    def text(self, name: str) -> str:
        """Without the blanks about it; empty where there is none."""
        return self.values.get(name, "").strip()

    def number(self, name: str) -> float | None:
        """The first value as a finite number; None if it is none."""
        first = self.text(name).partition("\\")[0].strip()
        if not _NUMBER.fullmatch(first):
            return None
        value = float(first)
        return value if math.isfinite(value) else None

    def whole(self, name: str, default: int | None = None) -> int | None:
        """As `number`, without its fraction."""
        value = self.number(name)
        return default if value is None else int(value)

    def numbers(self, name: str, count: int) -> tuple[float, ...]:
        """All values; NotReadable where they are not that many numbers."""
        parts = [part.strip() for part in self.text(name).split("\\")]
        if len(parts) != count or not all(_NUMBER.fullmatch(part) for part in parts):
            raise NotReadable(f"has {name} {self.text(name)!r}, expected {count} numbers")
        return tuple(float(part) for part in parts)
