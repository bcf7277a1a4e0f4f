"""The options of ``kety fit``, in the order of its help."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import click

from kety.cli.certainty_options import CERTAINTY_OPTIONS
from kety.cli.common import bounds, delay, option
from kety.cli.joint_options import JOINT_OPTIONS
from kety.cli.model_options import MODEL_OPTIONS
from kety.cli.solver_options import SOLVER_OPTIONS
from kety.cli.study_options import FILE, STUDY, Function, added

MODEL: Final = "Model and fit"
OUTPUT: Final = "Output"
FORMATS: Final = {"nifti": ("nifti",), "dicom": ("dicom",), "both": ("nifti", "dicom")}
"""What ``--format`` says to the formats of maps."""


def fit_options(function: Function) -> Function:
    """Add the options of a fit to a command."""
    return added(function, (*STUDY, *_FIT, _out("SERIES_maps"), _FITTED, *_OUTPUT))


def output_options(folder: str) -> Callable[[Function], Function]:
    """Add the options that say what to write, by default to this folder (in words)."""
    return lambda function: added(function, (_out(folder), *_OUTPUT))


def _out(folder: str) -> Callable[[Any], Any]:
    return option(
        OUTPUT,
        "--out",
        type=FILE,
        metavar="FOLDER",
        help="Where to write; files of the same name are replaced. "
        f"[default: {folder} in this folder]",
    )


_FIT: Final = (
    option(
        MODEL,
        "--model",
        default="extended_tofts",
        metavar="NAME|NAME,...",
        help="Model of the tissue; `kety info` lists them with their parameters. Several of them, "
        "separated by commas, with --select.",
    ),
    option(
        MODEL,
        "--select",
        type=click.Choice(["aicc", "bic", "aic"]),
        help="Choose in every voxel between several models by this information criterion; maps of "
        "the choice and of its weight are written too. aicc is the one for few frames.",
    ),
    option(
        MODEL,
        "--delay",
        type=delay,
        metavar="free|off|onset|S",
        default="free",
        help="Fit the arrival delay in every voxel, set it to 0, set it from the onset of every "
        "voxel's curve, or fix it at some seconds.",
    ),
    option(
        MODEL,
        "--frame-noise",
        type=FILE,
        metavar="auto|FILE",
        help="Weight frames by their noise, where phases differ in dose: auto measures it in the "
        "series, or a file with a standard deviation for every frame. [default: all count alike]",
    ),
    option(
        MODEL,
        "--bounds",
        type=bounds,
        metavar="NAME=LOWER:UPPER",
        multiple=True,
        help="Bounds of a parameter in its unit, e.g. ktrans=0:5; may be given for several. "
        "[default: see `kety info`]",
    ),
    option(
        MODEL,
        "--baseline",
        type=click.Choice(["auto", "fit", "subtract"]),
        default="auto",
        show_default=True,
        help="Fit a constant of every voxel along, or trust the mean of the frames before arrival; "
        "auto fits it for CT.",
    ),
    *MODEL_OPTIONS,
    *SOLVER_OPTIONS,
    *JOINT_OPTIONS,
    *CERTAINTY_OPTIONS,
    option(
        MODEL,
        "--dtype",
        type=click.Choice(["float32", "float64"]),
        default="float32",
        help="Precision of the arithmetic.",
    ),
    option(
        MODEL,
        "--device",
        type=click.Choice(["cpu", "cuda", "auto"]),
        default="cpu",
        help="Where to compute: the processor, an NVIDIA card, or a card where there is one.",
    ),
    option(
        MODEL,
        "--threads",
        type=click.IntRange(1),
        metavar="N",
        help="Number of threads. [default: all processors]",
    ),
)

_OUTPUT: Final = (
    option(
        OUTPUT,
        "--format",
        type=click.Choice(list(FORMATS)),
        help="How to write the maps: as DICOM Parametric Maps that belong to the study of the "
        "series, as NIfTI, or as both; fitted curves are always NIfTI. [default: dicom of a DICOM "
        "series, else nifti]",
    ),
    option(OUTPUT, "--report/--no-report", default=True, help="Write report.html beside the maps."),
    option(OUTPUT, "--title", default="", help="Heading of the report. [default: the file's name]"),
    option(
        OUTPUT,
        "--roi",
        type=FILE,
        metavar="IMAGE",
        help="Region of interest that the report looks at more closely.",
    ),
    option(OUTPUT, "--quiet", is_flag=True, help="Print nothing but warnings and errors."),
)

_FITTED: Final = option(
    OUTPUT,
    "--fitted",
    is_flag=True,
    help="Also write the fitted curves and the residuals, 4-D.",
)
