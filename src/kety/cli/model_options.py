"""Options of ``kety fit`` for what some models or series need beside an arterial input."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from kety.cli.common import option

MODEL: Final = "Model and fit"
FILE: Final = click.Path(path_type=Path)


def initial(ctx: click.Context, parameter: click.Parameter, value: str) -> bool | float:
    """``off``, ``free`` or a concentration."""
    if value in ("off", "free"):
        return value == "free"
    try:
        return float(value)
    except ValueError:
        raise click.BadParameter(f"{value!r}; expected off, free or a concentration") from None


MODEL_OPTIONS: Final = (
    option(
        MODEL,
        "--portal",
        type=FILE,
        metavar="CSV",
        help="Curve of the portal vein, for the models of the liver with two inputs.",
    ),
    option(
        MODEL,
        "--portal-mask",
        type=FILE,
        metavar="IMAGE",
        help="In place of --portal: the mean curve of the voxels that are not 0 in this image.",
    ),
    option(
        MODEL,
        "--initial",
        callback=initial,
        default="off",
        metavar="off|free|C",
        help="Concentration in the tissue at the first frame, where contrast agent was there "
        "before: fitted in every voxel (free), or given in the unit of the curves. [default: off]",
    ),
)


def portal_of(options: dict[str, Any]) -> Any:
    """The portal vein's input that the options name, or None."""
    from kety.errors import KetyError
    from kety.models import get_model
    from kety.pipeline import InputSource

    table, mask = options["portal"], options["portal_mask"]
    names = [name.strip() for name in options["model"].split(",")]
    two = [name for name in names if get_model(name).inputs == 2]
    if table is not None and mask is not None:
        raise KetyError("both --portal and --portal-mask are given; give one of them")
    if table is None and mask is None:
        if two:
            raise KetyError(
                f"{two[0]} needs the portal vein's input beside the artery's; give --portal CSV or "
                "--portal-mask IMAGE"
            )
        return None
    if len(two) < len(names):
        one = next(name for name in names if name not in two)
        raise KetyError(
            f"{one} has one input, but one of the portal vein is given; leave --portal out, or "
            "choose a model with two inputs (see `kety info`)"
        )
    return InputSource(
        table=table,
        mask=mask,
        t10=options["aif_t10"] if mask is not None else None,
        hematocrit=options["hematocrit"],
        interpolation=options["interpolation"],
    )
