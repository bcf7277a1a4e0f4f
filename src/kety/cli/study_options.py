"""The options that say what to read: the arterial input, the series, and how it is converted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from kety.cli.common import frame_list, frames, number_or_image, numbers, option

INPUT: Final = "Arterial input (one of --aif, --population, --aif-mask)"
SERIES: Final = "Series"
MR: Final = "From MR signal to concentration"
FILE: Final = click.Path(path_type=Path)
Function = TypeVar("Function", bound=Callable[..., Any])


def study_options(function: Function) -> Function:
    """Add the options that say what to read."""
    return added(function, STUDY)


def added(function: Function, options: Sequence[Callable[[Any], Any]]) -> Function:
    """Add options to a command, in the order of its help."""
    for add in reversed(options):
        function = add(function)
    return function


def times_of(options: Mapping[str, Any]) -> Path | float | None:
    """The times that the options give: a file, or s between frames; None for those of the series.

    Raises
    ------
    KetyError
        If both are given.
    """
    from kety.errors import KetyError

    times: Path | None = options["times"]
    interval: float | None = options["interval"]
    if times is not None and interval is not None:
        raise KetyError("both --times and --interval are given; give one of them")
    return interval if times is None else times


WHICH: Final = option(
    SERIES,
    "--series",
    "which",
    metavar="N|UID|TEXT",
    help="Which series of a DICOM folder or archive: its number in `kety info FOLDER`, its UID, or "
    "a part of its description. [default: the only dynamic one]",
)
MODALITY: Final = option(
    SERIES,
    "--modality",
    type=click.Choice(["CT", "MR"]),
    help="What made the series. [default: from the JSON sidecar or DICOM header]",
)

TIMES: Final = option(
    SERIES,
    "--times",
    type=FILE,
    metavar="CSV",
    help="Frame times, one a line or in a column such as time_s. [default: from the sidecar or "
    "headers]",
)

INTERVAL: Final = option(
    SERIES,
    "--interval",
    type=float,
    metavar="S",
    help="Time between frames, in place of --times.",
)

STUDY: Final = (
    option(
        INPUT,
        "--aif",
        type=FILE,
        metavar="CSV|auto",
        help="Curve in a CSV file; its header names time, blood or plasma and unit, e.g. "
        "time_s,cb_mM or time_s,blood_HU. auto: find an artery in the series (`kety aif` shows it "
        "before a fit).",
    ),
    option(
        INPUT,
        "--population",
        metavar="NAME",
        help="Published curve: parker, georgiou, weinmann or preclinical (`kety info` describes "
        "them).",
    ),
    option(
        INPUT,
        "--aif-mask",
        type=FILE,
        metavar="IMAGE",
        help="Mean curve of the voxels that are not 0 in this image, on the grid of the series.",
    ),
    option(
        INPUT,
        "--population-delay",
        type=float,
        metavar="S",
        help="Arrival of the published curve's bolus. [default: when the strongest voxels enhance]",
    ),
    option(
        INPUT,
        "--population-dose",
        type=float,
        metavar="MMOL/KG",
        help="Scale the published curve to this dose. [default: as published]",
    ),
    option(
        INPUT, "--hematocrit", type=float, default=0.42, help="Fraction of blood that is cells."
    ),
    option(
        INPUT,
        "--aif-site",
        type=click.Choice(["blood", "plasma"]),
        help="What the CSV file's concentration is of. [default: from its header]",
    ),
    option(
        INPUT,
        "--aif-column",
        metavar="NAME",
        help="Column of the CSV file. [default: the one named for blood or plasma]",
    ),
    option(
        INPUT,
        "--aif-unit",
        type=click.Choice(["HU", "mM", "mg/mL", "any"]),
        help="Unit of the CSV file's values; 'any' allows one that differs from the tissue's. "
        "[default: from its header]",
    ),
    option(
        INPUT,
        "--aif-time-unit",
        type=click.Choice(["s", "min", "ms"]),
        help="Unit of the CSV file's times. [default: from its header]",
    ),
    option(
        INPUT,
        "--aif-t10",
        type=float,
        metavar="S",
        help="T1 of blood before contrast agent, for --aif-mask or --aif auto in MR. [default: as "
        "of the tissue]",
    ),
    option(
        INPUT,
        "--aif-check",
        type=FILE,
        metavar="IMAGE",
        help="With --aif auto: a mask drawn by hand, which the artery that is found is compared "
        "with.",
    ),
    option(
        INPUT,
        "--aif-vein",
        type=FILE,
        metavar="auto|IMAGE",
        help="With --aif auto: scale the input to the area of a vein's first pass, against partial "
        "volume; auto finds the vein.",
    ),
    option(
        INPUT,
        "--aif-frames",
        type=frame_list,
        metavar="A-B,...",
        help="Frames of a measured input to use, counted from 0, e.g. 0-40. [default: all]",
    ),
    option(
        INPUT,
        "--aif-without",
        type=frame_list,
        metavar="A,B-C,...",
        help="Frames of a measured input to leave out, e.g. 3,17-18 where the patient moved.",
    ),
    option(
        INPUT,
        "--aif-smooth",
        type=float,
        metavar="S",
        help="Smooth a measured input by local parabolas of this width.",
    ),
    option(
        INPUT,
        "--aif-tail",
        type=click.Choice(["fit", "fit1"]),
        help="Replace the tail of a measured input by two falling exponentials, or by one (fit1).",
    ),
    option(
        INPUT,
        "--interpolation",
        type=click.Choice(["cubic", "linear", "monotone"]),
        default="cubic",
        help="How the input runs between its samples.",
    ),
    WHICH,
    MODALITY,
    option(
        SERIES,
        "--quantity",
        type=click.Choice(["hu", "enhancement", "signal", "concentration"]),
        help="What the numbers are: HU, HU above baseline, MR signal or mM. [default: hu for CT, "
        "signal for MR]",
    ),
    TIMES,
    INTERVAL,
    option(
        SERIES,
        "--mask",
        type=FILE,
        metavar="IMAGE|KIND",
        help="Fit the voxels that are not 0 here, or in a DICOM Segmentation or structure set "
        "(FILE.dcm:REGION), or make the mask from the series: body, tissue (body without air and "
        "bone), bone or enhancing (`kety mask`). [default: all that enhance]",
    ),
    option(
        SERIES,
        "--crop",
        metavar="X0:X1,Y0:Y1,Z0:Z1",
        help="Fit the voxels of this box, first index of an axis to one past its last, counted "
        "from 0; an empty end is the image's. Other images stay on the grid of the whole series.",
    ),
    option(
        SERIES,
        "--downsample",
        metavar="N|NX,NY,NZ",
        help="Fit the means of blocks of N by N voxels in the plane, or of NX by NY by NZ.",
    ),
    option(
        SERIES,
        "--denoise",
        metavar="dct|dct:N",
        help="Keep the first N cosines of every curve, chosen from the curves without N, before "
        "the fit; standard errors are then too small.",
    ),
    option(
        SERIES,
        "--baseline-frames",
        type=frames,
        metavar="N|A-B",
        help="Frames before contrast agent: the first n, or a to b counted from 0. [default: found "
        "from the input's arrival]",
    ),
    option(
        SERIES,
        "--iodine",
        is_flag=True,
        help="Of CT: curves, input and areas in mg/mL of iodine, by the header's tube voltage; "
        "rates and volumes stay as they are.",
    ),
    option(
        SERIES,
        "--iodine-calibration",
        type=float,
        metavar="HU",
        help="The scanner's own: HU that 1 mg/mL of iodine adds; implies --iodine.",
    ),
    option(
        MR,
        "--flip-angle",
        type=float,
        metavar="DEGREES",
        help="Flip angle of the series. [default: from the sidecar]",
    ),
    option(
        MR,
        "--tr",
        type=float,
        metavar="S",
        help="Repetition time of the series. [default: from the sidecar]",
    ),
    option(
        MR,
        "--relaxivity",
        type=float,
        metavar="1/(mM s)",
        help="Longitudinal relaxivity r1 of the agent. [default: 4.5]",
    ),
    option(
        MR,
        "--t10",
        type=number_or_image,
        metavar="S|IMAGE",
        help="T1 before contrast agent: one number or a map in s.",
    ),
    option(
        MR,
        "--vfa",
        type=FILE,
        multiple=True,
        metavar="IMAGE",
        help="Estimate T1 from images of several flip angles: one 4-D file, or the option once for "
        "each angle.",
    ),
    option(
        MR,
        "--vfa-angles",
        type=numbers,
        metavar="DEGREES,...",
        help="Their flip angles, in their order. [default: from the sidecar]",
    ),
    option(
        MR,
        "--vfa-method",
        type=click.Choice(["nonlinear", "linear"]),
        help="Least squares of the signal, or of its linear form. [default: nonlinear]",
    ),
    option(
        MR,
        "--vfa-tr",
        type=float,
        metavar="S",
        help="Their repetition time. [default: from their sidecar, else as of the series]",
    ),
    option(
        MR,
        "--b1",
        type=number_or_image,
        metavar="RATIO|IMAGE",
        help="Actual over nominal flip angle: one number or a map. [default: 1]",
    ),
)
