"""``kety mask``: a mask made from a dynamic series, to look at and to give to a fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kety.cli.common import (
    SectionCommand,
    debug_option,
    frames,
    heard_warnings,
    option,
    quiet,
    say,
)
from kety.cli.dicom_defaults import output_name
from kety.cli.fit_options import OUTPUT
from kety.cli.study_options import FILE, INTERVAL, MODALITY, SERIES, TIMES, WHICH, times_of


@click.command(cls=SectionCommand, short_help="Make a mask from a series: body, bone, enhancing.")
@click.argument("series", type=click.Path(path_type=Path))
@option(
    SERIES,
    "--kind",
    required=True,
    metavar="KIND",
    help="body: the patient, air inside included. tissue: the patient without air and bone. air, "
    "bone: by CT numbers, before contrast agent. enhancing: what enhances beyond noise and motion.",
)
@WHICH
@MODALITY
@TIMES
@INTERVAL
@option(
    SERIES,
    "--baseline-frames",
    type=frames,
    metavar="N|A-B",
    help="Frames before contrast agent, of bone and enhancing. [default: found]",
)
@option(
    OUTPUT,
    "--out",
    type=FILE,
    metavar="IMAGE",
    help="Where to write; a file of that name is replaced. [default: SERIES_KIND.nii.gz in this "
    "folder]",
)
@option(OUTPUT, "--quiet", is_flag=True, help="Print nothing but warnings and errors.")
@debug_option
def command(**options: Any) -> None:
    """Make a mask from SERIES, a dynamic series of CT numbers or MR signal (4-D NIfTI file, or a
    folder or archive of DICOM), and write it as an image of 0 and 1 on its grid.

    `kety fit --mask KIND` does the same on the way. Limits and accuracy: docs/masks.md.

    \b
    kety mask ct.nii.gz --modality CT --kind tissue --out tissue.nii.gz
    """
    import numpy as np

    from kety.errors import KetyError
    from kety.io import bids, read_series, write_volume
    from kety.preprocess import KINDS, make_mask
    from kety.series import Volume

    path: Path = options["series"]
    kind: str = options["kind"]
    if kind not in KINDS:
        raise KetyError(f"unknown kind of mask {kind!r}; valid: {', '.join(KINDS)}")
    out: Path = options["out"] or output_name(path, f"{kind}.nii.gz")
    tell = quiet if options["quiet"] else say
    times = times_of(options)
    with heard_warnings():
        series = read_series(
            path, series=options["which"], times=times, modality=options["modality"]
        )
        mask = make_mask(series, kind, baseline=options["baseline_frames"])
        if series.mask is not None:
            mask &= series.mask  # without the padding of DICOM
        sidecar = {
            "GeneratedBy": bids.generated_by(),
            "LongName": KINDS[kind][0],
            "Levels": {"1": kind},
        }
        image = Volume(mask.astype(np.uint8), series.affine, kind, series.codes, sidecar)
        write_volume(image, out)
        number = int(mask.sum())
        tell("mask", f"{number:,} voxels of {kind}, {100 * number / mask.size:.1f} % of the image")
        tell("written", str(out))
