"""``kety fit``: a dynamic series in, maps and a report out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kety.cli.certainty_options import certainty_of
from kety.cli.common import SectionCommand, debug_option, heard_warnings, quiet, say, say_maps
from kety.cli.dicom_defaults import named_input, output_name
from kety.cli.fit_options import FORMATS, fit_options
from kety.cli.joint_options import joint_of
from kety.cli.model_options import portal_of
from kety.cli.solver_options import discretization_of, optimizer_of
from kety.cli.study_options import times_of

if TYPE_CHECKING:
    import xarray

    from kety.joint.options import Joint
    from kety.pipeline import InputSource, Study
    from kety.pipeline.telling import Tell


@click.command(cls=SectionCommand, short_help="Fit a model to a dynamic series: maps and a report.")
@click.argument("series", type=click.Path(path_type=Path))
@fit_options
@debug_option
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Fit a tracer-kinetic model to every voxel of SERIES: dynamic contrast-enhanced CT or MRI as
    a folder or archive of DICOM, or as a 4-D NIfTI file.

    Writes a map and its standard error for each parameter, a status for every voxel, fit.json and
    report.html. Of DICOM the maps are DICOM too, and without an input that is named an artery is
    sought in the series. Ctrl-C keeps what is finished.

    \b
    kety fit perfusion_ct/
    kety fit ct.nii.gz --modality CT --times times.csv --aif aif.csv --out maps
    kety fit mr.nii.gz --modality MR --population parker --vfa vfa.nii.gz --vfa-angles 2,10,20
    """
    with heard_warnings() as heard:
        run(ctx, heard, **options)


def run(ctx: click.Context, heard: list[str], /, **options: Any) -> None:
    """Check what can be checked at once, then read, fit and write."""
    from kety.pipeline import check_folder, estimate, provenance, write_outcome

    model, certainty = models_of(options), certainty_of(options)
    optimizer, discretization = optimizer_of(options), discretization_of(options)
    joint = joint_of(options)
    tell = quiet if options["quiet"] else say
    folder = check_folder(options["out"] or output_name(options["series"], "maps"))
    options = named_input(options, tell)
    study = study_of(options, source_of(options), tell, portal_of(options))
    roi = None if options["roi"] is None else study.read_mask(options["roi"])
    record = provenance(study, command=str(ctx.obj))
    maps = estimate(
        study,
        model,
        select=options["select"],
        delay=options["delay"],
        bounds=dict(options["bounds"]),
        baseline={"auto": None, "fit": True, "subtract": False}[options["baseline"]],
        optimizer=optimizer,
        discretization=discretization,
        joint=joint,
        dtype=options["dtype"],
        threads=options["threads"],
        fitted=options["fitted"],
        autocorrelation=options["autocorrelation"],
        initial=options["initial"],
        device=options["device"],
        certainty=certainty,
        region=roi,
        progress=not options["quiet"] and sys.stderr.isatty(),
        tell=tell,
    )
    interrupted = bool(maps.attrs["interrupted"])
    if interrupted:
        if not maps.attrs["voxels_done"]:
            raise KeyboardInterrupt
        heard.append(_interruption(study, maps, joint))
        click.echo(f"kety: warning: {heard[-1]}", err=True)
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
    if interrupted:
        ctx.exit(130)


def _interruption(study: Study, maps: xarray.Dataset, joint: Joint | None) -> str:
    """A sentence of how far an interrupted fit got."""
    done, mask = int(maps.attrs["voxels_done"]), study.series.mask
    if joint is not None and done == (maps["status"].size if mask is None else mask.sum()):
        return "The fit was interrupted in joint estimation; the maps are voxelwise."
    left_out = "" if joint is None else " Joint estimation was left out."
    return (
        f"The fit was interrupted when {done:,} voxels were done; the others have the status "
        f"outside.{left_out}"
    )


def models_of(options: dict[str, Any]) -> str | tuple[str, ...]:
    """The model that the options name, or several to choose from."""
    from kety.errors import KetyError
    from kety.models import get_model
    from kety.selection import check_models

    names: tuple[str, ...] = tuple(name.strip() for name in options["model"].split(","))
    for name in names:
        get_model(name)
    if len(names) == 1:
        if options["select"] is not None:
            raise KetyError(
                f"--select chooses between models, found {names[0]} alone; give several, e.g. "
                "--model tofts,extended_tofts, or leave it out"
            )
        return names[0]
    return check_models(names, options["select"])


def study_of(
    options: dict[str, Any],
    source: InputSource | None,
    tell: Tell,
    portal: InputSource | None = None,
) -> Study:
    """Read the study that the options describe."""
    from kety.pipeline import read_study

    return read_study(
        options["series"],
        source,
        conversion_of(options),
        which=options["which"],
        times=times_of(options),
        modality=options["modality"],
        quantity=options["quantity"],
        mask=options["mask"],
        crop=options["crop"],
        downsample=options["downsample"],
        denoise=options["denoise"],
        frame_noise=options.get("frame_noise"),
        portal=portal,
        tell=tell,
    )


def source_of(options: dict[str, Any]) -> Any:
    """The arterial input that the options name."""
    from kety.pipeline import InputSource

    auto = str(options["aif"]) == "auto"
    return InputSource(
        table=None if auto else options["aif"],
        auto=auto or None,
        population=options["population"],
        mask=options["aif_mask"],
        column=options["aif_column"],
        site=options["aif_site"],
        time_unit=options["aif_time_unit"],
        unit=options["aif_unit"],
        delay=options["population_delay"],
        dose=options["population_dose"],
        t10=options["aif_t10"],
        check=options["aif_check"],
        vein=options["aif_vein"],
        frames=options["aif_frames"],
        without=options["aif_without"],
        smooth=options["aif_smooth"],
        tail={None: None, "fit": 2, "fit1": 1}[options["aif_tail"]],
        hematocrit=options["hematocrit"],
        interpolation=options["interpolation"],
    )


def conversion_of(options: dict[str, Any]) -> Any:
    """The conversion of the signal that the options describe."""
    from kety.pipeline import Conversion

    calibration = options["iodine_calibration"]
    return Conversion(
        baseline=options["baseline_frames"],
        flip_angle=options["flip_angle"],
        repetition_time=options["tr"],
        relaxivity=options["relaxivity"],
        t10=options["t10"],
        vfa=options["vfa"],
        vfa_angles=options["vfa_angles"] or (),
        vfa_method=options["vfa_method"],
        vfa_repetition_time=options["vfa_tr"],
        b1=options["b1"],
        iodine=options["iodine"] if calibration is None else calibration,
    )
