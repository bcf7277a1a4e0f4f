"""``kety aif``: look at the arterial input of a series before a fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kety.cli.common import SectionCommand, debug_option, heard_warnings, option, quiet, say
from kety.cli.dicom_defaults import INPUTS, output_name
from kety.cli.fit import source_of, study_of
from kety.cli.fit_options import OUTPUT
from kety.cli.study_options import FILE, study_options


@click.command(cls=SectionCommand, short_help="Find the arterial input in a series, and show it.")
@click.argument("series", type=click.Path(path_type=Path))
@study_options
@option(
    OUTPUT,
    "--out",
    type=FILE,
    metavar="FOLDER",
    help="Where to write; files of the same name are replaced. [default: SERIES_input in this "
    "folder]",
)
@option(OUTPUT, "--quiet", is_flag=True, help="Print nothing but warnings and errors.")
@debug_option
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Find an artery in SERIES (dynamic contrast-enhanced CT or MRI, as a folder or archive of
    DICOM or a 4-D NIfTI file), or make the input that the options name, and write it to look at:
    input.csv, which --aif reads, input.html and, of an artery that was found, vessel.nii.gz with
    the reasons beside it.

    \b
    kety aif ct.nii.gz --modality CT --interval 2.5 && kety fit ct.nii.gz --aif ct_input/input.csv
    """
    from kety.io.atomic import output_folder
    from kety.pipeline import check_folder
    from kety.pipeline.provenance import shown_command
    from kety.pipeline.vessel import CURVE, write_vessel
    from kety.report.input_page import write_input_page

    if all(options[name] is None for name in INPUTS):
        options["aif"] = Path("auto")
    folder = check_folder(options["out"] or output_name(options["series"], "input"))
    tell = quiet if options["quiet"] else say
    with heard_warnings():
        study = study_of(options, source_of(options), tell)
        grid = study.grid or study.series
        output_folder(folder)
        if study.vessel is None:
            study.aif.to_csv(folder / CURVE, unit=study.unit)
        else:
            write_vessel(
                study.vessel,
                study.aif,
                folder,
                affine=grid.affine,
                codes=grid.codes,
                unit=study.unit,
                record={"command": shown_command(study, str(ctx.obj))},
            )
        page = write_input_page(
            folder / "input.html",
            aif=study.aif,
            times=study.series.times,
            vessel=study.vessel,
            affine=grid.affine,
            title=study.series.source,
            unit=study.unit,
        )
        tell("written", f"{folder / CURVE}, {page}")
