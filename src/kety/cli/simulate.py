"""``kety simulate``: a DCE-CT study of which the truth is known."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from kety.cli.common import (
    SectionCommand,
    debug_option,
    grid,
    heard_warnings,
    numbers,
    option,
    say,
)

PHANTOM: Final = "Phantom"
Function = TypeVar("Function", bound=Callable[..., Any])


def phantom_options(function: Function) -> Function:
    """The options of a phantom, which ``kety demo`` has too."""
    for add in (
        option(
            PHANTOM,
            "--shuttle",
            type=float,
            default=0.0,
            metavar="S",
            help="Take the upper half of the slices this long after the lower, as a table that "
            "shuttles between two positions does.",
        ),
        option(
            PHANTOM,
            "--noise-fwhm",
            type=float,
            default=0.0,
            metavar="MM",
            help="Correlation "
            "of the noise within a slice, full width at half maximum; 0 is white noise.",
        ),
        option(PHANTOM, "--seed", type=int, default=0, help="Seed of noise and texture."),
        option(
            PHANTOM,
            "--noise",
            type=numbers,
            default="6",
            metavar="HU[,HU...]",
            help="Standard deviation of the noise, of all frames or of each phase of the protocol.",
        ),
        option(
            PHANTOM,
            "--protocol",
            default="two_phase",
            metavar="NAME",
            help="Frame times: two_phase (abdomen, 66 frames), brain (37) or uniform (200 at 1 s).",
        ),
        option(
            PHANTOM,
            "--size",
            type=grid,
            default="96,80,12",
            metavar="X,Y,Z",
            help="Number of voxels; the field of view stays the same.",
        ),
    ):
        function = add(function)
    return function


def make_phantom(options: dict[str, Any], *, dicom: bool) -> tuple[Any, dict[str, Any]]:
    """The phantom that the options describe, for DICOM in a scanner's order, and their record."""
    from kety.simulate import as_scanned, noise_of_phases, simulate_abdomen

    settings = {"shape": options["size"], "rounded": options.get("rounded", True)}
    for name in ("seed", "protocol", "noise_fwhm", "shuttle"):
        settings[name] = options[name]
    noise = options["noise"]
    frames = noise_of_phases(settings["protocol"], noise) if len(noise) > 1 else noise[0]
    phantom = simulate_abdomen(**settings, noise=frames)
    settings["noise"] = noise[0] if len(noise) == 1 else list(noise)
    return (as_scanned(phantom) if dicom else phantom), settings


@click.command(
    cls=SectionCommand, short_help="Simulate a DCE-CT study of which the truth is known."
)
@click.argument("out", type=click.Path(path_type=Path))
@phantom_options
@option(
    PHANTOM,
    "--rounded/--exact",
    default=True,
    help="Store whole HU, as a scanner does, or fractions too.",
)
@option(
    PHANTOM,
    "--dicom",
    is_flag=True,
    help="Write the series as a scanner does, in the folder OUT/dce, and the masks as DICOM "
    "segmentations.",
)
@debug_option
@click.pass_context
def command(ctx: click.Context, /, out: Path, **options: Any) -> None:
    """Simulate perfusion CT of an abdomen with a liver tumour (enhancing rim, necrotic core), and
    write it to the folder OUT.

    OUT gets dce.nii.gz with its frame times, aif.csv, masks (body, aorta, tumour), labels and the
    true map of every parameter; with --dicom the series is a folder of DICOM files, one for every
    slice and phase. Equal options give equal files.

    \b
    kety simulate study && kety fit study/dce.nii.gz --aif study/aif.csv --mask study/body.nii.gz
    kety simulate study --dicom && kety fit study/dce
    """
    from kety.errors import KetyError
    from kety.pipeline import check_folder, write_phantom

    if options["dicom"] and not options["rounded"]:
        raise KetyError("a CT image in DICOM stores whole HU; leave out --exact or --dicom")
    with heard_warnings():
        started = time.perf_counter()
        check_folder(out)
        phantom, settings = make_phantom(options, dicom=options["dicom"])
        record = {"command": ctx.obj, **settings}
        write_phantom(phantom, out, dicom=options["dicom"], record=record, tell=say)
        say("done", f"in {time.perf_counter() - started:.1f} s")
