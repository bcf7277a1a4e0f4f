"""``kety roi``: statistics of maps in regions of interest, as a table and CSV."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kety.cli.common import (
    SectionCommand,
    debug_option,
    heard_warnings,
    option,
    say,
    table,
)

if TYPE_CHECKING:
    import xarray

REGIONS = "Regions and maps"
OUTPUT = "Output"


@click.command(cls=SectionCommand, short_help="Statistics of maps in regions of interest, as CSV.")
@click.argument("maps", type=click.Path(path_type=Path))
@option(
    REGIONS,
    "--roi",
    multiple=True,
    metavar="[NAME=]IMAGE",
    help="Mask, or image of labels (a region each, named by its sidecar or a BIDS table beside "
    "it), on the grid of the maps; or a region FILE.dcm[:NAME] of a DICOM segmentation or "
    "structure set. May be repeated. [default: all voxels that were estimated]",
)
@option(
    REGIONS,
    "--map",
    "names",
    multiple=True,
    metavar="NAME",
    help="Map, such as ktrans; may be repeated. [default: all estimates]",
)
@option(
    OUTPUT,
    "--out",
    metavar="CSV|-",
    help="Where to write; a file of that name is replaced, - is the terminal. [default: "
    "MAPS_roi.csv in this folder]",
)
@option(OUTPUT, "--quiet", is_flag=True, help="Print nothing but warnings and errors.")
@debug_option
def command(maps: Path, **options: Any) -> None:
    """Mean, median, percentiles, standard errors and failed voxels of MAPS, a folder that
    `kety fit` or `kety maps` wrote, in regions of interest.

    Voxels without a value, where the fit failed or nothing enhances, are counted by their status
    and are in no mean.

    \b
    kety roi maps --roi tumour.nii.gz --out tumour.csv
    kety roi maps --roi liver=liver.nii.gz --roi labels.nii.gz --map ktrans --map ve
    """
    from kety.io.atomic import Batch
    from kety.pipeline import check_folder
    from kety.roi import roi_statistics, roi_table

    to_terminal = options["out"] == "-"
    out = Path(options["out"] or f"{maps.resolve().name}_roi.csv")
    if not to_terminal:
        check_folder(out.parent)
    with heard_warnings():
        found = roi_statistics(maps, regions(options["roi"]), names=options["names"] or None)
    if to_terminal:
        click.echo(roi_table(found), nl=False)
        return
    if not options["quiet"]:
        show(found)
    with Batch() as batch:
        batch.write(out, roi_table(found).encode())
    if not options["quiet"]:
        say("written", str(out))


def regions(given: tuple[str, ...]) -> Any:
    """The regions that the options name, for `kety.roi_statistics`; None of none."""
    from kety.comparison.regions import region_name
    from kety.errors import KetyError
    from kety.io import split_region

    named: dict[str, str] = {}
    for one in given:
        name, equals, path = one.partition("=")
        if not equals or split_region(one)[0].exists():
            name, path = region_name(one), one
        if name in named:
            raise KetyError(f"two regions have the name {name!r}; name them, as NAME=IMAGE")
        named[name] = path
    return named or None


def show(found: xarray.Dataset) -> None:
    """Print a table of each region."""
    for i, region in enumerate(found["region"].values):
        size = int(found["size"].values[i])
        counts = found["status_voxels"].values[i]
        words = [
            f"{str(name).replace('_', ' ')} {int(n):,}"
            for name, n in zip(found["status"].values, counts, strict=True)
            if n
        ]
        click.echo(f"{region}: {size:,} voxel{'' if size == 1 else 's'} ({', '.join(words)})")
        rows = [_row(found.isel(region=i, map=j)) for j in range(found.sizes["map"])]
        header = ("map", "unit", "voxels", "mean", "± se", "sd", "median", "middle half")
        table(header, rows)


def _row(one: xarray.Dataset) -> list[str]:
    """The cells of one map in one region."""

    def cell(key: str) -> str:
        value = float(one[key])
        return f"{value:.3g}" if value == value else "–"

    return [
        str(one["map"].item()),
        str(one["units"].item()),
        f"{int(one['voxels']):,}",
        *(cell(key) for key in ("mean", "mean_se", "sd", "median")),
        f"{cell('p25')} to {cell('p75')}",
    ]
