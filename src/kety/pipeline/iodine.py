"""Curves and inputs in mg/mL of iodine in place of HU."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kety.pipeline.telling import Tell

if TYPE_CHECKING:
    from kety.inputs import InputFunction
    from kety.signal import IodineCalibration
    from kety.voxels import AboveLevel


def of_iodine(
    curves: NDArray[Any] | AboveLevel,
    calibration: IodineCalibration,
    facts: dict[str, Any],
    tell: Tell,
) -> tuple[NDArray[Any], str]:
    """Curves in HU as mg/mL of iodine, and that unit; how is added to the facts."""
    factor = calibration.hu_per_mg_ml
    tell("iodine", f"1 mg/mL adds {factor:.3g} HU: {calibration.source}")
    facts["iodine"] = {"hu_per_mg_per_mL": factor, "from": calibration.source}
    kind = np.result_type(curves.dtype, np.float32)
    return np.divide(curves, kind.type(factor), dtype=kind), "mg/mL"


def scaled(aif: InputFunction, calibration: IodineCalibration | None) -> InputFunction:
    """An input in HU as mg/mL of iodine; itself without a calibration."""
    if calibration is None:
        return aif
    return replace(aif, concentration=aif.concentration / calibration.hu_per_mg_ml)
