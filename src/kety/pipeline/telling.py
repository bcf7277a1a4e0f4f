"""How the steps of the pipeline say what they do."""

from __future__ import annotations

from collections.abc import Callable

Tell = Callable[[str, str], None]
"""Given a label such as ``"baseline"`` and a text, for a terminal or a log."""


def silent(label: str, text: str) -> None:
    """Say nothing."""


def count(number: int, noun: str) -> str:
    """``"1 frame"``, ``"1,234 frames"``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
