"""What a joint estimate adds to the verdict."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kety.joint_words import concerns, estimated_jointly, gain, gain_in_words, strength_in_words
from kety.report.blocks import Finding

if TYPE_CHECKING:
    import xarray


def joint_findings(maps: xarray.Dataset) -> Iterator[Finding]:
    """Whether joint estimation helped, and what speaks against it; nothing of voxelwise maps."""
    attrs = maps.attrs
    if not estimated_jointly(attrs):
        return
    better = gain(attrs)
    if attrs["joint_strength"] == 0:
        if better is not None:
            yield Finding(
                "note",
                "Joint estimation predicts left-out frames no better than voxel by voxel, so the "
                "maps are voxelwise.",
            )
        return
    if better is None:
        yield Finding(
            "note",
            f"Voxels were estimated jointly at a given strength of {strength_in_words(attrs)}; "
            "whether that predicts left-out frames better than voxel by voxel was not measured.",
        )
    else:
        yield Finding(
            "good",
            f"Voxels were estimated jointly, which predicts left-out frames "
            f"{gain_in_words(better)}. Standard errors allow for the noise and, on the average "
            "over voxels, for what smoothing shifts.",
        )
    for sentence in concerns(maps):
        yield Finding("caution", sentence)
