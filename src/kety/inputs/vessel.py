"""What was done to get the input from the series, for reports and records."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kety.inputs.agreement import MaskAgreement
from kety.inputs.criteria import Candidate
from kety.inputs.extraction import ArterialInput


@dataclass(frozen=True, eq=False)
class Vessel:
    """An artery found in a series, and what became of its curve.

    Attributes
    ----------
    found
        The artery, its candidates and reasons.
    anatomy
        (X, Y, Z) mean before contrast agent, in the unit of the series.
    drawn
        Mask that it was compared with.
    agreement
        How far the two agree.
    vein
        Voxels of the vein whose area corrected the curve.
    factor
        What the curve was multiplied by for it.
    steps
        What else was done to the curve, in words.
    """

    found: ArterialInput
    anatomy: NDArray[np.float32]
    drawn: NDArray[np.bool_] | None = None
    agreement: MaskAgreement | None = None
    vein: NDArray[np.bool_] | None = None
    factor: float | None = None
    steps: tuple[str, ...] = ()

    @property
    def record(self) -> dict[str, Any]:
        """The reasons, as plain values for JSON."""
        found = self.found
        record: dict[str, Any] = {
            "quality": found.quality,
            "voxels": int(found.mask.sum()),
            "centre": list(found.chosen.centre),
            "slices": np.unique(found.chosen.voxels[:, 2]).tolist(),
            "baseline_frames": found.baseline.tolist(),
            "unit_of_search": {"1": "(S - S0) / S0"}.get(found.unit, found.unit),
            "reasons": {one.name: f"it {one.words}" for one in found.chosen.criteria},
            "warnings": list(found.warnings),
            "candidates": [_candidate(one) for one in found.candidates],
            "largest_displacement_voxels": float(np.hypot(*found.moved.T).max()),
        }
        if self.agreement is not None:
            record["against_drawn_mask"] = dataclasses.asdict(self.agreement)
        if self.factor is not None:
            record["vein_factor"] = self.factor
            record["vein_voxels"] = 0 if self.vein is None else int(self.vein.sum())
        if self.steps:
            record["steps"] = list(self.steps)
        return record


def _candidate(one: Candidate) -> dict[str, Any]:
    return {
        "centre": list(one.centre),
        "voxels": len(one.voxels),
        "score": round(one.score, 4),
        "lacks": [criterion.name for criterion in one.lacking],
        **{name: round(value, 4) for name, value in dataclasses.asdict(one.bolus).items()},
    }
