"""The options that choose optimizer and discretization, shared by the commands that fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from kety.cli.common import option

if TYPE_CHECKING:
    from kety.fitting.discretize import Discretization
    from kety.fitting.optimizers import Optimizer, VarProLM

SOLVER: Final = "Optimizer and discretization"

SOLVER_OPTIONS: Final = (
    option(
        SOLVER,
        "--optimizer",
        metavar="NAME",
        help="varprolm, nelder-mead, differential-evolution, sqp, pattern-search or "
        "simulated-annealing. [default: varprolm for the exact discretization, nelder-mead for the "
        "others]",
    ),
    option(
        SOLVER,
        "--preset",
        type=click.Choice(["default", "paper"]),
        default="default",
        help="Settings of the optimizer: fast, or as published by Svistoun et al. 2019 (32 starts, "
        "1000 iterations, tolerances of 1e-8).",
    ),
    option(
        SOLVER,
        "--discretization",
        type=click.Choice(["exact", "iir", "fir"]),
        default="exact",
        help="How the model is evaluated: exactly at the frames, or at the processing rate by the "
        "bilinear transform or by its impulse response.",
    ),
    option(
        SOLVER,
        "--rate",
        type=float,
        metavar="HZ",
        help="Processing rate to which the curves are resampled. [default: 1 for iir and fir; none "
        "for exact]",
    ),
    option(
        SOLVER,
        "--delay-filter",
        type=click.Choice(["exact", "thiran", "round"]),
        help="How the delay is applied: exactly, by a fractional-delay filter, or rounded to whole "
        "samples. [default: exact for exact, thiran for the others]",
    ),
    option(
        SOLVER,
        "--resampling",
        type=click.Choice(["cubic", "linear", "none"]),
        default="cubic",
        help="How the curves are brought to the processing rate; none compares at the frames "
        "alone, which must then lie on its grid.",
    ),
    option(
        SOLVER,
        "--window",
        metavar="NAME",
        default="boxcar",
        help="Window of the impulse response of fir, of those in scipy.signal.windows.",
    ),
    option(
        SOLVER,
        "--max-evaluations",
        type=click.IntRange(1),
        metavar="N",
        help="Limit of model evaluations for a voxel, of varprolm. [default: 100]",
    ),
)


def optimizer_of(options: Mapping[str, Any]) -> VarProLM | Optimizer | None:
    """The optimizer that the options name; None leaves the choice to the discretization."""
    from kety.errors import KetyError
    from kety.fitting.optimizers import VarProLM, get_optimizer

    name, preset, limit = options["optimizer"], options["preset"], options["max_evaluations"]
    if name is None and preset != "default":
        raise KetyError(f"preset {preset!r} is of an optimizer; name one")
    if name is None and limit is None:
        return None
    chosen = get_optimizer(name)
    if isinstance(chosen, VarProLM):
        if preset != "default":
            raise KetyError(f"varprolm has no preset {preset!r}; leave it out")
        return chosen if limit is None else VarProLM(max_evaluations=limit)
    if limit is not None:
        raise KetyError(
            f"a limit of evaluations is for varprolm, found optimizer {name}; its preset sets its "
            "limits"
        )
    return chosen.preset(preset)


def discretization_of(options: Mapping[str, Any]) -> Discretization:
    """The discretization that the options describe."""
    from kety.fitting.discretize import Discretization

    return Discretization(
        options["discretization"],
        rate=options["rate"],
        delay_filter=options["delay_filter"],
        window=options["window"],
        resampling=options["resampling"],
    )
