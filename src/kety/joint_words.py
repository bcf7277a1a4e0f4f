"""What a joint estimate says of itself in its Dataset, in words.

The pipeline prints them and warns with them, and the report's verdict repeats them, so they have
one place below both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    import xarray

BY_CHANCE: Final = 0.001
"""Share of voxels whose fit noise alone makes look changed, see `kety.joint.estimate.BEYOND`."""
MANY: Final = 0.01
"""Share from which it is worth a warning."""
UNLIKELY: Final = 1e-3
"""Probability below which their number is no chance."""


def estimated_jointly(attrs: Mapping[str, Any]) -> bool:
    """Whether a Dataset of these attributes holds a joint estimate of at least one voxel."""
    return "joint" in attrs and attrs["joint_free_parameters"] > 0


def strength_in_words(attrs: Mapping[str, Any]) -> str:
    """``"16"``, ``"0.125"``, ``"inf"``."""
    return f"{attrs['joint_strength']:.3g}"


def gain(attrs: Mapping[str, Any]) -> float | None:
    """Share by which left-out frames are predicted better than voxel by voxel; None where they
    were not."""
    if "joint_left_out_error" not in attrs:
        return None
    return 1.0 - float(attrs["joint_left_out_error"] / attrs["joint_left_out_error_voxelwise"])


def told(attrs: Mapping[str, Any]) -> list[str]:
    """One or two lines about a joint estimate; none where no voxel took part."""
    if not estimated_jointly(attrs):
        return []
    strength, better = strength_in_words(attrs), gain(attrs)
    head = f"{attrs['joint']}, strength {strength}"
    if attrs["joint_strength"] == 0:
        if better is None:
            return [f"{head} as given: the maps are voxelwise"]
        return [
            f"{head}: joint estimation predicts left-out frames no better than voxel by voxel, so "
            "the maps are voxelwise"
        ]
    if better is None:
        first = f"{head} as given"
    else:
        first = f"{head}, which predicts left-out frames {gain_in_words(better)}"
    alone = int(attrs["joint_alone"])
    return [
        first,
        f"{attrs['joint_effective_parameters']:,.0f} effective parameters of "
        f"{attrs['joint_free_parameters']:,}; {attrs['joint_neighbours']:.1f} neighbours a voxel, "
        + ("none alone" if alone == 0 else f"{alone:,} voxel{'s' * (alone != 1)} alone"),
    ]


def gain_in_words(share: float) -> str:
    """``"8.1 % better than voxel by voxel"``."""
    size = "less than 0.1 %" if share < 0.0005 else f"{100 * share:.1f} %"
    return f"{size} better than voxel by voxel"


def took_part(maps: xarray.Dataset) -> int:
    """Number of voxels that were estimated jointly."""
    return int(np.count_nonzero(np.isfinite(maps["moved"].values)))


def concerns(maps: xarray.Dataset) -> list[str]:
    """What speaks against a joint estimate, a sentence each: fits changed by more than noise
    explains, and an estimate that had not settled."""
    attrs = maps.attrs
    if not estimated_jointly(attrs) or attrs["joint_strength"] == 0:
        return []
    return [*_changed(attrs, took_part(maps)), *_unsettled(attrs)]


def _changed(attrs: Mapping[str, Any], voxels: int) -> list[str]:
    from scipy.special import bdtrc

    changed = int(attrs["joint_beyond_noise"])
    by_chance = float(bdtrc(changed - 1, voxels, BY_CHANCE))
    if changed <= MANY * voxels or by_chance > UNLIKELY:
        return []
    return [
        f"Joint estimation fits {changed:,} voxel{'s' * (changed != 1)} "
        f"({100 * changed / voxels:.1f} %, {100 * BY_CHANCE:g} % by chance) worse than their noise "
        f"explains: what is special to them is smoothed away. Look at the map moved, and take a "
        f"strength below {strength_in_words(attrs)} if they matter."
    ]


def _unsettled(attrs: Mapping[str, Any]) -> list[str]:
    if attrs["joint_converged"]:
        return []
    return [
        f"Joint estimation had not settled after {attrs['joint_steps']} steps, so its maps are "
        "not at the optimum; take another strength, or fit fewer voxels at once."
    ]
