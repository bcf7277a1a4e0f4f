"""``kety convert``: between DICOM and NIfTI."""

from __future__ import annotations

from typing import Any

import click

from kety.cli.common import SectionCommand, debug_option, heard_warnings, option, quiet, say
from kety.cli.study_options import FILE, INTERVAL, MODALITY, SERIES, TIMES, WHICH, times_of

OUTPUT = "Output"


@click.command(cls=SectionCommand, short_help="Between DICOM and NIfTI: series, maps and masks.")
@click.argument("src", type=FILE)
@click.argument("dst", type=FILE)
@option(
    SERIES,
    "--source",
    type=FILE,
    metavar="DICOM",
    help="DICOM images that maps or a mask belong to: patient, study, and what the new objects "
    "refer to. Without them they make up a study of nobody.",
)
@option(
    SERIES,
    "--like",
    type=FILE,
    metavar="SERIES",
    help="Series or image on whose grid a Segmentation or structure set becomes a mask.",
)
@WHICH
@MODALITY
@TIMES
@INTERVAL
@option(OUTPUT, "--quiet", is_flag=True, help="Print nothing but warnings and errors.")
@debug_option
def command(**options: Any) -> None:
    """Write what SRC holds to DST in the other format. Grids are kept, nothing is resampled.

    DICOM images, a folder, an archive or a file, become NIfTI with times and acquisition in a JSON
    file beside it. A folder of maps becomes one of Parametric Maps, or of NIfTI. A Segmentation or
    structure set becomes a NIfTI mask, and a NIfTI mask a Segmentation; FILE:NAME names one of
    several regions.

    \b
    kety convert perfusion_ct/ dce.nii.gz
    kety convert maps/ maps_dicom/ --source perfusion_ct/
    kety convert maps_dicom/ maps/
    kety convert rt.dcm:Liver liver.nii.gz --like perfusion_ct/
    kety convert tumour.nii.gz tumour.dcm --source perfusion_ct/
    """
    with heard_warnings():
        run(**options)


def run(**options: Any) -> None:
    """Convert, and say what was written."""
    from kety.io.conversion import convert

    done = convert(
        options["src"],
        options["dst"],
        of=options["source"],
        like=options["like"],
        series=options["which"],
        times=times_of(options),
        modality=options["modality"],
    )
    tell = quiet if options["quiet"] else say
    tell("read", done.words)
    tell("written", str(options["dst"]))
