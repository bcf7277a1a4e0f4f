"""The options that ask how sure the estimates are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from kety.cli.common import option

if TYPE_CHECKING:
    from kety.pipeline import Certainty

CERTAINTY: Final = "How sure (beside the standard errors)"


def uncertain(value: str) -> dict[str, float]:
    """Names and standard deviations, e.g. ``hematocrit=0.03,t10=10%,aif=5%``."""
    given = {}
    for part in value.split(","):
        name, equals, size = part.partition("=")
        try:
            number = float(size.removesuffix("%")) / (100 if size.endswith("%") else 1)
        except ValueError:
            equals = ""
        if not (equals and name.strip()):
            raise click.BadParameter(f"{value!r}; expected e.g. hematocrit=0.03,t10=10%,aif=5%")
        given[name.strip().replace("-", "_")] = number
    return given


CERTAINTY_OPTIONS: Final = (
    option(
        CERTAINTY,
        "--autocorrelation",
        is_flag=True,
        help="Map how alike the residuals of neighbouring frames are, and what they are by chance.",
    ),
    option(
        CERTAINTY,
        "--profile",
        metavar="NAME,...|all",
        help="Profile-likelihood intervals of these parameters: lopsided where the model bends, "
        "open where the data do not bound them. About 1 ms a voxel and parameter.",
    ),
    option(
        CERTAINTY,
        "--bootstrap",
        type=click.IntRange(20),
        metavar="N",
        help="Intervals of all parameters from N refits of each voxel with its residuals dealt out "
        "anew, e.g. 200.",
    ),
    option(
        CERTAINTY,
        "--bootstrap-residuals",
        type=click.Choice(["iid", "wild", "stationary"]),
        help="For noise that is alike in all frames, that differs between frames, or that "
        "neighbouring frames share. [default: iid]",
    ),
    option(
        CERTAINTY,
        "--level",
        type=float,
        metavar="P",
        help="Probability of these intervals. [default: 0.683]",
    ),
    option(
        CERTAINTY,
        "--uncertain",
        type=uncertain,
        metavar="NAME=SD,...",
        help="Add what is not known exactly to the errors, by simulation: hematocrit=0.03, aif=5% "
        "(its amplitude), aif-noise=0.1 (of its samples, in its unit), arrival=0.5 (s, with a "
        "fixed delay), t10=10% (the same in all voxels), t10-voxel=5% (each its own).",
    ),
    option(
        CERTAINTY,
        "--draws",
        type=click.IntRange(10),
        metavar="N",
        help="Draws of what is uncertain. [default: 50]",
    ),
    option(
        CERTAINTY,
        "--seed",
        type=click.IntRange(0),
        metavar="N",
        help="Where the random numbers of bootstrap and draws start. [default: 0]",
    ),
)


def certainty_of(options: Mapping[str, Any]) -> Certainty:
    """What the options ask for."""
    from kety.bootstrapping import LEVEL, Bootstrap
    from kety.errors import KetyError
    from kety.pipeline import Certainty
    from kety.profiles import Profile
    from kety.uncertain import uncertain_of

    samples, names, given = options["bootstrap"], options["profile"], options["uncertain"]
    needs = {
        "bootstrap_residuals": (samples, "--bootstrap 200"),
        "level": (samples or names, "--bootstrap 200 or --profile all"),
        "draws": (given, "--uncertain hematocrit=0.03"),
        "seed": (samples or given, "--bootstrap 200 or --uncertain hematocrit=0.03"),
    }
    for name, (asked, what) in needs.items():
        if options[name] is not None and not asked:
            option_name = f"--{name.replace('_', '-')}"
            raise KetyError(f"{option_name} has no use alone; add {what}, or leave it out")
    level = LEVEL if options["level"] is None else options["level"]
    seed = options["seed"] or 0
    wanted = () if names in (None, "all") else tuple(n.strip() for n in names.split(","))
    residuals = options["bootstrap_residuals"] or "iid"
    return Certainty(
        None if samples is None else Bootstrap(samples, level, residuals, seed=seed),
        None if names is None else Profile(wanted, level),
        None if given is None else uncertain_of(given),
        draws=options["draws"] or 50,
        seed=seed,
    )
