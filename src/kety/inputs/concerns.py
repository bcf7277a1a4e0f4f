"""What is said of an artery that was not found, or of one that was found but may be wrong."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kety.inputs.criteria import Candidate, rivals
from kety.inputs.pool import Pool

Floats = NDArray[np.float64]

BORDER: Final = 0.25
"""Brighter by this before contrast agent than the vessel's other slices: blood flows in fresh."""
FULL: Final = 0.02
"""Share of the artery's voxels at the largest value that can be stored, worth a warning."""
MOVED: Final = 1.0
"""Displacement in voxels that is worth a warning."""
INSTEAD: Final = "give a mask of an artery, a measured curve or a population input instead"


def motion(moved: Floats) -> str:
    """What to add to a message where frames move; nothing where they do not."""
    shift = float(np.hypot(*moved.T).max())
    if shift <= MOVED:
        return ""
    return f"; frames are displaced by up to about {shift:.1f} voxels, so register them first"


def nothing(candidates: list[Candidate], pool: Pool, moved: Floats, unit: str) -> str:
    """What was found in place of an artery."""
    if not candidates:
        number = len(pool.places)
        found = (
            f"{number:,} voxels rise and fall clearly, but no three of them lie together and agree"
            if number
            else "no voxel rises clearly above its noise and falls again within the first pass"
        )
        return f"no artery was found: {found}{motion(moved)}; {INSTEAD}"
    best = candidates[0]
    lacks = "; ".join(criterion.words for criterion in best.lacking)
    number = len(candidates)
    which = f"the best of {number} candidates" if number > 1 else "the only candidate"
    return (
        f"no artery was found: {which} ({len(best.voxels):,} voxels about {best.centre}) "
        f"is none, since it {lacks}{motion(moved)}; {INSTEAD}"
    )


def concerns(
    chosen: Candidate,
    candidates: list[Candidate],
    series: NDArray[Any],
    values: Floats,
    before: NDArray[np.intp],
    quantity: str,
    moved: Floats,
    pool: Pool,
) -> list[str]:
    """What speaks against the artery that was chosen."""
    notes = list(
        rivals(
            chosen.bolus,
            [(c.bolus, len(c.voxels)) for c in candidates if c.passed and c is not chosen],
        )
    )
    shift = float(np.hypot(*moved.T).max())
    if shift > MOVED:
        notes.append(
            f"frames are displaced by up to about {shift:.1f} voxels; register them, or check that "
            "the artery stays in the mask"
        )
    kind = series.dtype
    top = float(np.iinfo(kind).max) if kind.kind in "iu" else np.inf
    if quantity == "hu":
        top = min(top, 3071.0)
    full = float(np.mean(values.max(axis=1) >= top))
    if full > FULL:
        notes.append(
            f"{100 * full:.0f} % of the artery's voxels reach {top:g}, the largest value that is "
            "stored, so its peak is cut off"
        )
    if quantity == "signal":
        notes += _inflow(chosen, values[:, before].mean(axis=1), series.shape[2])
        if before[0] > 0:
            notes.append(
                f"the first {before[0]} frames are not in the steady state and were left out of "
                "the baseline"
            )
    return notes


def _inflow(chosen: Candidate, level: Floats, slices: int) -> list[str]:
    """Border slices in which fresh blood makes the signal before contrast agent brighter."""
    z = chosen.voxels[:, 2]
    rest = (z > 0) & (z < slices - 1)
    if slices < 3 or not rest.any():
        return []
    usual = float(np.median(level[rest]))
    return [
        f"before contrast agent the artery is {100 * (ratio - 1):.0f} % brighter in the border "
        f"slice {edge} than further in: fresh blood flows in and lowers the concentration there"
        for edge in (0, slices - 1)
        if (z == edge).any()
        and (ratio := float(np.median(level[z == edge])) / max(usual, 1e-30)) > 1.0 + BORDER
    ]
