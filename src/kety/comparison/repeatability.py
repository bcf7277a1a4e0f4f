"""Repeatability coefficients to test a change against."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from kety.errors import KetyError

RECORD: Final = "comparison.json"


@dataclass(frozen=True)
class Limit:
    """A repeatability coefficient: in the parameter's unit, or in %."""

    value: float
    percent: bool = False

    def __post_init__(self) -> None:
        if not (np.isfinite(self.value) and self.value > 0):
            raise KetyError(
                f"a repeatability coefficient of {self.value:g}; give a positive number, e.g. 20%"
            )

    def __str__(self) -> str:
        return f"{self.value:.3g} %" if self.percent else f"{self.value:.3g}"

    def change(self, a: float, b: float) -> float:
        """Largest change that it lets expect between two values that are really the same.

        That of a coefficient in % is RC/100 sqrt((a² + b²)/2), as the profiles of QIBA reckon
        1.96 sqrt((a wCV)² + (b wCV)²).
        """
        if not self.percent:
            return self.value
        return float(self.value / 100 * np.hypot(a, b) / np.sqrt(2))


def parse_limit(text: str) -> Limit:
    """``"20%"`` or ``"0.05"``; KetyError otherwise."""
    number = text.strip().removesuffix("%")
    try:
        return Limit(float(number), text.strip().endswith("%"))
    except ValueError as error:
        if isinstance(error, KetyError):
            raise
        raise KetyError(
            f"repeatability coefficient {text!r}; expected a number in the map's unit, or in %: 20%"
        ) from error


def limits_of(rc: Any) -> dict[str, Limit]:
    """Repeatability coefficients by parameter.

    Parameters
    ----------
    rc
        None; a mapping of names to numbers in the map's unit, texts such as ``"20%"`` or `Limit`;
        or the path of the ``comparison.json`` of a test–retest study, or its folder.

    Raises
    ------
    KetyError
        If a value is no positive number, or the file holds no repeatability of regions.
    """
    if rc is None:
        return {}
    if isinstance(rc, str | os.PathLike):
        return _of_record(Path(rc))
    limits = {}
    for name, one in rc.items():
        if isinstance(one, Limit):
            limits[str(name)] = one
        else:
            limits[str(name)] = parse_limit(one) if isinstance(one, str) else Limit(float(one))
    return limits


def _of_record(path: Path) -> dict[str, Limit]:
    if path.is_dir():
        path = path / RECORD
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows: list[Mapping[str, Any]] = content["agreement"]
        found = {
            row["parameter"]: Limit(row["rc_percent"], True)
            if row["rc_percent"] is not None
            else Limit(row["rc"])
            for row in rows
            if row["basis"] != "voxels"
        }
    except FileNotFoundError as error:
        raise KetyError(f"{path}: there is no such file; give a {RECORD} of a test–retest") from (
            error
        )
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise KetyError(
            f"{path}: is no {RECORD} ({error}); give one that `kety compare` wrote"
        ) from error
    if not found:
        raise KetyError(
            f"{path}: holds the repeatability of voxels alone; a region's is smaller. Compare "
            "several pairs, or one with several regions, first"
        )
    return found
