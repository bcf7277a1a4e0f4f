"""``kety maps``: model-free maps of a dynamic series."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from kety.cli.common import (
    SectionCommand,
    SectionOption,
    debug_option,
    heard_warnings,
    numbers,
    option,
    quiet,
    say,
    say_maps,
)
from kety.cli.dicom_defaults import named_input, output_name
from kety.cli.fit import source_of, study_of
from kety.cli.fit_options import FORMATS, output_options
from kety.cli.study_options import INPUT, study_options

CURVES: Final = "Description of the curves"
DECONVOLUTION: Final = "Deconvolution"


@click.command(cls=SectionCommand, short_help="Model-free maps: slope, area, flow, transit time.")
@click.argument("series", type=click.Path(path_type=Path))
@study_options
@option(
    CURVES,
    "--arrival",
    type=float,
    metavar="S",
    help="Arrival of the bolus, from which areas and the time to peak count. [default: when the "
    "input rises, or without one the strongest voxels]",
)
@option(
    CURVES,
    "--areas",
    type=numbers,
    metavar="S,...",
    default="60,90,180",
    help="Lengths of the initial areas under the curve.",
)
@option(
    CURVES,
    "--slope-window",
    type=float,
    metavar="S",
    default=6.0,
    help="Span of the line whose slope is the maximum slope; longer bears more noise.",
)
@option(
    CURVES,
    "--late",
    type=float,
    metavar="S",
    help="Time at which the late part begins, whose slope is the washout. [default: halfway from "
    "the arrival to the end]",
)
@option(
    DECONVOLUTION,
    "--deconvolve",
    type=click.Choice(["oscillation", "circulant", "standard"]),
    help="Also estimate flow, volume, mean transit time and Tmax by truncated singular value "
    "decomposition; needs an arterial input.",
)
@option(
    DECONVOLUTION,
    "--threshold",
    type=float,
    metavar="SHARE",
    help="Singular values below this share of the largest are left out. [default: 0.2 of "
    "standard, 0.1 of circulant]",
)
@option(
    DECONVOLUTION,
    "--oscillation-limit",
    type=float,
    metavar="INDEX",
    help="Limit of the oscillation index. [default: 0.035]",
)
@option(
    DECONVOLUTION,
    "--grid",
    type=float,
    metavar="S",
    default=1.0,
    help="Step of the regular grid that curves are brought to.",
)
@option(
    DECONVOLUTION,
    "--threads",
    type=click.IntRange(1),
    metavar="N",
    help="Number of threads. [default: all processors]",
)
@output_options("SERIES_modelfree")
@debug_option
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Describe every voxel's curve of SERIES, given as for `kety fit`, without a model of the
    tissue: peak, time to peak, maximum slope, arrival, initial areas, washout.

    With an arterial input also flow by the maximum slope method and, with --deconvolve, flow,
    volume, mean transit time and Tmax.

    \b
    kety maps mr.nii.gz --modality MR --quantity concentration --out maps
    kety maps ct.nii.gz --modality CT --aif aif.csv --deconvolve oscillation --out maps
    """
    with heard_warnings() as heard:
        run(ctx, heard, **options)


def run(ctx: click.Context, heard: list[str], /, **options: Any) -> None:
    """Check what can be checked at once, then read, estimate and write."""
    from kety.errors import KetyError
    from kety.pipeline import check_folder, describe, provenance, write_outcome

    method = options["deconvolve"]
    tell = quiet if options["quiet"] else say
    if method is not None:
        options = named_input(options, tell)
    named = _names_input(ctx) or options["aif"] is not None
    source = source_of(options) if named else None
    if method is None:
        for name in ("threshold", "oscillation_limit"):
            if options[name] is not None:
                words = name.replace("_", "-")
                raise KetyError(f"--{words} is of a deconvolution; give --deconvolve METHOD too")
    elif source is None:
        raise KetyError("an arterial input is needed for --deconvolve")
    folder = check_folder(options["out"] or output_name(options["series"], "modelfree"))
    study = study_of(options, source, tell)
    roi = None if options["roi"] is None else study.read_mask(options["roi"])
    record = provenance(study, command=str(ctx.obj))
    maps = describe(
        study,
        arrival="auto" if options["arrival"] is None else options["arrival"],
        areas=options["areas"],
        window=options["slope_window"],
        late=options["late"],
        method=method,
        threshold=options["threshold"],
        oscillation=options["oscillation_limit"],
        interval=options["grid"],
        threads=options["threads"],
        tell=tell,
    )
    if not options["quiet"]:
        say_maps(maps)
    write_outcome(
        study,
        maps,
        folder,
        record=record,
        report=options["report"],
        title=options["title"],
        roi=roi,
        notices=heard,
        formats=FORMATS.get(options["format"]),
        tell=tell,
    )


def _names_input(ctx: click.Context) -> bool:
    """Whether any option of the arterial input is given."""
    return any(
        ctx.get_parameter_source(str(one.name)) is not click.core.ParameterSource.DEFAULT
        for one in ctx.command.params
        if isinstance(one, SectionOption) and one.section == INPUT
    )
