"""Maps that a joint estimate has beside those of a voxelwise one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kety.joint.estimate import JointFit
from kety.joint.options import Joint

VOXELWISE = "_voxelwise"
"""Ends the name of a map that the voxels' own fits gave."""
COMPARED = ("cost", "status")
WORDS = {
    "moved": "distance from the voxelwise estimate in its standard errors, root mean square over "
    "the parameters",
    "pooled": "voxelwise variance over that of the joint estimate: voxels that it stands for",
}


def voxelwise_maps(
    flat: Mapping[str, NDArray[Any]], names: tuple[str, ...]
) -> dict[str, NDArray[Any]]:
    """The voxelwise maps that stay beside the joint ones, renamed."""
    kept = [*(n + s for n in names for s in ("", "_se")), *COMPARED]
    return {_renamed(name): flat[name] for name in kept}


def _renamed(name: str) -> str:
    """``ktrans_se`` becomes ``ktrans_voxelwise_se``, so that a map and its error keep together."""
    return f"{name[:-3]}{VOXELWISE}_se" if name.endswith("_se") else name + VOXELWISE


def attributes(given: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Attributes of all maps: the given ones, their voxelwise twins, and the joint maps'."""
    out = dict(given)
    for name, attrs in given.items():
        words = {"long_name": f"{attrs['long_name']} (voxelwise)", "osipi": ""}
        out[_renamed(name)] = {**attrs, **words}
    for name, words_of in WORDS.items():
        out[name] = {"units": "1", "long_name": words_of, "osipi": ""}
    return out


def facts(joint: Joint, found: JointFit) -> dict[str, Any]:
    """What a joint estimate says of itself, for the Dataset's attributes."""
    similarity = joint.similarity if isinstance(joint.similarity, str) else "given matrix"
    choice = found.choice
    out: dict[str, Any] = {
        "joint": similarity,
        "joint_scaled": int(joint.scaled),
        "joint_strength": found.strength,
        "joint_strength_from": "given" if choice is None else "left-out frames",
        "joint_neighbours": round(found.neighbours, 2),
        "joint_alone": found.alone,
        "joint_effective_parameters": round(found.effective, 1),
        "joint_free_parameters": found.free,
        "joint_beyond_noise": int(np.count_nonzero(found.beyond)),
        "joint_steps": found.steps,
        "joint_converged": int(found.converged),
    }
    if choice is not None:
        out |= {
            "joint_left_out_error": choice.error,
            "joint_left_out_error_voxelwise": choice.voxelwise_error,
            "joint_left_out_voxels": choice.voxels,
            "joint_strengths_tried": ", ".join(f"{s:.4g}" for s in choice.strengths),
            "joint_errors_tried": ", ".join(f"{e:.6g}" for e in choice.errors),
        }
    return out
