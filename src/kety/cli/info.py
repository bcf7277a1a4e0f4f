"""``kety info``: what this installation can do, or what is in a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kety.cli.common import debug_option, heard_warnings, say
from kety.errors import KetyError

if TYPE_CHECKING:
    from kety.series import Volume


@click.command(short_help="What kety can do here, or what is in a file.")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="[PATH]...")
@debug_option
def command(paths: tuple[Path, ...]) -> None:
    """Without PATH: version, processor, models with their parameters and bounds, optimizers,
    population inputs and file formats.

    With PATH: what was found there. A path may be an image, a CSV file of an input curve, a folder
    of maps that `kety fit` wrote, or a folder, zip or tar of DICOM, whose series it lists.
    """
    with heard_warnings():
        if not paths:
            installation()
        for index, path in enumerate(paths):
            if index:
                click.echo()
            describe(path)


def installation() -> None:
    """Print what this installation can do."""
    from kety.fitting.cuda import card_or_reason
    from kety.fitting.engine import available_threads, instruction_sets
    from kety.fitting.optimizers import OPTIMIZERS
    from kety.inputs import POPULATION
    from kety.io import FORMATS
    from kety.models import MODELS
    from kety.simulate import PROTOCOLS
    from kety.version import __version__

    best, *others = instruction_sets()
    say("version", f"kety {__version__}")
    also = f"; also available: {', '.join(others)}" if others else ""
    say("processor", f"{best}, {available_threads()} threads{also}")
    say("card", card_or_reason("auto")[1])
    say("formats", "; ".join(f"{f.name} ({', '.join(f.extensions)})" for f in FORMATS))
    click.echo("\nModels (--model)")
    for model in MODELS.values():
        click.echo(f"  {model.name}: {model.long_name}. {model.reference}")
        for p in model.parameters:
            low, high = p.bounds
            click.echo(f"    {p.name:<8} {p.unit:<7} {low:>5g} to {high:<5g} {p.long_name}")
        for d in model.derived:
            click.echo(f"    {d.name:<8} {d.unit:<7} {'derived':<14} {d.long_name}")
    click.echo("\nOptimizers (--optimizer)")
    for name, record in OPTIMIZERS.items():
        words = " ".join((record.__doc__ or "").partition("\n\n")[0].split())
        click.echo(f"  {name.replace('_', '-')}: {words}")
    click.echo("\nPopulation inputs (--population)")
    for curve in POPULATION.values():
        dose = f", {curve.dose:g} mmol/kg" if curve.dose is not None else ""
        click.echo(f"  {curve.name:<12} {curve.site}{dose}. {curve.reference}")
    click.echo("\nAcquisition protocols of the phantom (--protocol)")
    for protocol in PROTOCOLS.values():
        click.echo(f"  {protocol.name:<12} {protocol.description}")


def describe(path: Path) -> None:
    """Print what is in a file or folder."""
    from kety.cli.series_table import describe_dicom
    from kety.io import format_of

    if (path / "fit.json").is_file():
        _describe_maps(path)
    elif not path.exists():
        raise KetyError(f"{path}: there is no such file or folder")
    elif path.suffix.lower() in (".csv", ".tsv", ".txt"):
        _describe_table(path)
    elif format_of(path).folders:
        if not _describe_object(path):
            describe_dicom(path)
    else:
        _describe_image(path)


def _describe_maps(folder: Path) -> None:
    path = folder / "fit.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        say("folder", str(folder))
        say("model", f"{record['model']} ({record['model_long_name']}), {record['software']}")
        say("bounds", record["bounds"])
        say("command", record.get("command", "–"))
        counts: dict[str, int] = record.get("status_counts", {})
        for name, number in counts.items():
            say("status", f"{name.replace('_', ' ')}: {number:,}")
        if record.get("interrupted"):
            say("fit", f"was interrupted when {record['voxels_done']:,} voxels were done")
        for role, files in record.get("inputs", {}).items():
            for file in files:
                say("input", f"{role}: {file['file']}, SHA-256 {file['sha256'][:16]}…")
        say("maps", ", ".join(record["Maps"]))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise KetyError(f"{path}: is not a record of a fit ({error!r})") from error


def _describe_table(path: Path) -> None:
    from kety.inputs.table import read_table

    table = read_table(path)
    say("table", f"{path.name}: {len(table.rows):,} rows")
    for name in dict.fromkeys(table.header):
        try:
            values = table.numbers(name)
            say("column", f"{name}: {values.min():g} to {values.max():g}, first {values[0]:g}")
        except KetyError:
            say("column", f"{name}: not all numbers")


def _describe_object(path: Path) -> bool:
    """Print what is in a DICOM object that holds a result; False for any other."""
    from kety.io.dicom.objects import MAP, kind_of, regions_in

    kind = kind_of(path)
    if kind == MAP:
        _describe_image(path)
    elif kind is not None:
        say("object", f"{path.name}: a {kind}, a mask on the grid of a series")
        for region in regions_in(path):
            say("region", region.words)
    return kind is not None


def _describe_image(path: Path) -> None:
    import numpy as np

    from kety.io import bids, format_of

    volume = format_of(path).codec.read(path)
    data = volume.data
    shape = " × ".join(map(str, data.shape))
    size = " × ".join(f"{s:.4g}" for s in np.linalg.norm(volume.affine[:3, :3], axis=0))
    say("image", f"{path.name}: {shape}, voxels of {size} mm")
    if data.ndim == 4:
        say("frames", _frames(volume, path.name))
    sidecar = volume.sidecar
    named = {
        "modality": sidecar.get("Modality"),
        "model": sidecar.get("Model"),
        "quantity": sidecar.get("LongName"),
        "unit": sidecar.get("Units"),
    }
    for label, value in named.items():
        if value:
            say(label, str(value))
    if sidecar.get("Modality") == "MR":
        for name, value in bids.acquisition(sidecar, interval=volume.interval).items():
            say("signal", f"{name.replace('_', ' ')} {value:g}")
    finite = data[np.isfinite(data)] if data.dtype.kind == "f" else data.ravel()
    missing = data.size - finite.size
    if finite.size:
        say("values", f"{finite.min():g} to {finite.max():g}, median {np.median(finite):g}")
    if missing:
        say("missing", f"{missing:,} of {data.size:,} values are NaN or infinite")


def _frames(volume: Volume, name: str) -> str:
    from kety.io.frame_times import frame_times

    count = volume.data.shape[3]
    try:
        times, source = frame_times(
            None, count, name=name, sidecar=volume.sidecar, interval=volume.interval
        )
    except KetyError:
        return f"{count}, at unknown times"
    steps: Any = sorted({round(float(step), 3) for step in times[1:] - times[:-1]})
    every = f"every {steps[0]:g} s" if len(steps) == 1 else f"{steps[0]:g} to {steps[-1]:g} s apart"
    return f"{count}, {times[0]:g} to {times[-1]:g} s, {every} ({source})"
