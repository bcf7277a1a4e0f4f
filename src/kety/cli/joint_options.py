"""The options of joint estimation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

import click

from kety.cli.common import option

if TYPE_CHECKING:
    from kety.joint.options import Joint

JOINT: Final = "Joint estimation"


def strength(value: str) -> float | Literal["auto"]:
    """``auto``, or a number of at least 0, infinity among them."""
    if value == "auto":
        return "auto"
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not number >= 0:
        raise click.BadParameter(f"{value!r}; expected auto or a number of at least 0, e.g. 4")
    return number


JOINT_OPTIONS: Final = (
    option(
        JOINT,
        "--joint",
        type=click.Choice(["graph", "temporal", "spatial"]),
        help="Estimate all voxels together, each drawn to those that are like it: near in space "
        "with curves alike within the noise (graph), with curves alike (temporal), or near "
        "(spatial). The voxelwise maps are written beside. [default: voxel by voxel]",
    ),
    option(
        JOINT,
        "--strength",
        type=strength,
        metavar="auto|LAMBDA",
        help="How strongly: at 1, all voxels that are like it weigh as much as a voxel's own data; "
        "0 is voxel by voxel, inf one estimate for all that hang together. auto takes what "
        "predicts frames that were left out best. [default: auto]",
    ),
    option(
        JOINT,
        "--joint-radius",
        type=float,
        metavar="VOXELS",
        help="How far voxels that are alike may lie apart, in voxels of the finest spacing; inf "
        "anywhere. [default: 3 in a single slice, else 2; anywhere among few voxels]",
    ),
    option(
        JOINT,
        "--joint-neighbours",
        type=int,
        metavar="N",
        help="Link each voxel to the N that are most like it, for temporal and spatial. [default: "
        "all, weighted by likeness, of up to 1,024 voxels, else 16]",
    ),
)


def joint_of(options: Mapping[str, Any]) -> Joint | None:
    """The joint estimation that the options describe; None is voxel by voxel."""
    from kety.errors import KetyError
    from kety.joint.options import Joint

    similarity, given = options["joint"], options["strength"]
    if similarity is None:
        for name in ("strength", "joint_radius", "joint_neighbours"):
            if options[name] is not None:
                raise KetyError(
                    f"--{name.replace('_', '-')} is of joint estimation; add --joint temporal, "
                    "spatial or graph, or leave it out"
                )
        return None
    return Joint(
        similarity,
        strength="auto" if given is None else given,
        radius=options["joint_radius"],
        neighbours=options["joint_neighbours"],
    )
