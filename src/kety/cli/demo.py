"""``kety demo``: simulate a study, fit it as ``kety fit`` does, and compare with the truth."""

from __future__ import annotations

import math
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from kety.cli.common import SectionCommand, debug_option, heard_warnings, option, say, table
from kety.cli.simulate import make_phantom, phantom_options

if TYPE_CHECKING:
    from kety.pipeline import Agreement

SHOWN: Final = ("ktrans", "kep", "ve", "vb", "delay")
"""Columns of the table; ``vp`` errs as ``vb``, of which it is a fixed share."""


@click.command(
    cls=SectionCommand, short_help="Simulate a study, fit it and compare with the truth."
)
@option(
    "Output",
    "--out",
    type=click.Path(path_type=Path),
    default="kety-demo",
    metavar="FOLDER",
    help="Where to write; files of the same name are replaced.",
)
@phantom_options
@option(
    "Fit", "--threads", type=click.IntRange(1), help="Number of threads. [default: all processors]"
)
@option(
    "Fit",
    "--dtype",
    type=click.Choice(["float32", "float64"]),
    default="float32",
    help="Precision of the arithmetic.",
)
@debug_option
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Simulate perfusion CT of an abdomen with a liver tumour as a scanner exports it, fit the
    folder of DICOM files as `kety fit` does (artery and body are found in it), and print how far
    the estimates are from the truth.

    The study goes to FOLDER/study, maps (DICOM Parametric Maps) and report.html to FOLDER/maps.
    """
    with heard_warnings() as heard:
        run(ctx, heard, options)


def run(ctx: click.Context, heard: list[str], options: dict[str, Any]) -> None:
    """Simulate, write, read, fit, compare and report."""
    from kety.pipeline import (
        InputSource,
        against_truth,
        check_folder,
        estimate,
        provenance,
        read_study,
        write_outcome,
        write_phantom,
    )
    from kety.pipeline.phantom import SERIES

    started = time.perf_counter()
    out = check_folder(options["out"])
    phantom, settings = make_phantom(options, dicom=True)
    record = {"command": ctx.obj, **settings}
    scan = write_phantom(phantom, out / "study", dicom=True, record=record, tell=say) / SERIES
    say("by hand", f"kety fit {shlex.quote(str(scan))} --mask body")
    study = read_study(scan, InputSource(auto=True), mask="body", tell=say)
    maps = estimate(study, threads=options["threads"], dtype=options["dtype"], tell=say)
    regions = {
        tissue.name: phantom.mask(tissue.name)
        for tissue in phantom.tissues.values()
        if tissue.enhances and phantom.mask(tissue.name).any()
    }
    written = write_outcome(
        study,
        maps,
        out / "maps",
        record=provenance(study, command=str(ctx.obj), options={"simulation": settings}),
        title="Simulated DCE-CT of an abdomen",
        roi=phantom.roi,
        truth=phantom.truth,
        regions=regions,
        notices=heard,
    )
    rows = against_truth(maps, phantom.truth, regions)
    names = [name for name in SHOWN if name in rows[0].parameters]
    click.echo(
        "\nMedian absolute error, and share of voxels within one standard error of the truth"
    )
    table(
        ["tissue", "voxels", *(cell for name in names for cell in (name, ""))],
        [
            [row.region, f"{row.voxels:,}"]
            + [cell for name in names for cell in _cells(row.parameters[name])]
            for row in rows
        ],
    )
    elapsed = time.perf_counter() - started
    click.echo(
        f"\n{elapsed:.1f} s in all, {maps.attrs['elapsed_s']:.2f} s of it the fit "
        f"({maps.attrs['voxels_per_s']:,} voxels/s)\nmaps      {written.folder}\n"
        f"report    {written.report}"
    )


def _cells(agreement: Agreement) -> tuple[str, str]:
    if math.isnan(agreement.error):
        return "–", ""
    relative = f"{100 * agreement.error:.1f} %"
    error = relative if agreement.relative else f"{agreement.error:.2f} s"
    known = not math.isnan(agreement.coverage)
    return error, f"{100 * agreement.coverage:.0f} %" if known else "–"
