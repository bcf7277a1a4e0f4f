"""Write a comparison: maps of change, tables, record and report."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kety.pipeline.telling import Tell, count, silent

if TYPE_CHECKING:
    from kety.comparison import Comparison, Pair, RegionChange

PathLike = str | os.PathLike[str]


def write_comparison(
    comparison: Comparison,
    folder: PathLike,
    *,
    command: str = "",
    report: bool = True,
    title: str = "",
    tell: Tell = silent,
) -> list[Path]:
    """Write what `kety.compare` found into a folder, all together or nothing.

    ``rois.csv``, ``comparison.json``, ``comparison.html`` and, where the studies share a grid, the
    maps ``<name>_change``, ``<name>_change_percent`` and ``<name>_z`` with their sidecars; with
    several pairs the maps are in a folder for each.

    Parameters
    ----------
    comparison
        Of fits that were read from folders, or of Datasets; the latter have no grid and no maps.
    folder
        Made if it does not exist.
    command
        Command line, if there is one.
    report
        Whether to write the page.
    title
        Of the page.

    Raises
    ------
    OutputError
        If something cannot be written.
    """
    from kety.io import bids
    from kety.io.atomic import Batch, output_folder

    place = output_folder(folder)
    facts = _facts(comparison, command)
    written = []
    with Batch() as batch:
        for pair in comparison.pairs:
            inside = place if len(comparison.pairs) == 1 else place / _folder_name(pair.label)
            written += _maps(batch, pair, inside)
        for name, content in (
            ("rois.csv", _table(comparison).encode()),
            *([("comparison.html", _page(comparison, title, facts).encode())] if report else []),
        ):
            batch.write(place / name, content)
            written.append(place / name)
        record = {"GeneratedBy": bids.generated_by(), **facts, **_record(comparison)}
        batch.write_json(place / "comparison.json", record)
        written.append(place / "comparison.json")
    images = sum(path.name.endswith(".nii.gz") for path in written)
    tell("maps", f"{count(images, 'image')} in {place}{os.sep}")
    tell("tables", f"{place / 'rois.csv'}, {place / 'comparison.json'}")
    if report:
        tell("report", str(place / "comparison.html"))
    return written


def _folder_name(label: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in label)


def _maps(batch: Any, pair: Pair, folder: Path) -> list[Path]:
    from kety.io import FORMATS, bids
    from kety.io.atomic import output_folder
    from kety.series import Volume

    if pair.changes is None or pair.a.affine is None:
        return []
    output_folder(folder)
    codec = FORMATS[0].codec
    paths = []
    for name, array in pair.changes.data_vars.items():
        path = folder / f"{name}{FORMATS[0].extensions[0]}"
        sidecar = bids.map_sidecar(
            str(name),
            array.attrs,
            model=str(pair.a.record.get("model", "")),
            source="",
            has_nan=True,
        )
        sidecar["Sources"] = [pair.a.name, pair.b.name]
        volume = Volume(array.to_numpy(), pair.a.affine, str(name), pair.a.codes, sidecar)
        with batch.open(path) as stream:
            codec.write(stream, path, volume)
        batch.write_json(bids.sidecar_path(path), sidecar)
        paths.append(path)
    return paths


def _page(comparison: Comparison, title: str, facts: Mapping[str, Any]) -> str:
    from kety.report.comparison import render

    one = comparison.pairs[0]
    many = len(comparison.pairs)
    heading = title or (f"{many} pairs of studies" if many > 1 else f"{one.a.name} → {one.b.name}")
    return render(comparison, title=heading, record=facts)


def _facts(comparison: Comparison, command: str) -> dict[str, Any]:
    from kety.version import __version__

    facts: dict[str, Any] = {"software": f"kety {__version__}"}
    if command:
        facts["command"] = command
    facts["date"] = datetime.now(UTC).isoformat(timespec="seconds")
    for pair in comparison.pairs:
        facts[pair.label] = f"A {pair.a.name}, B {pair.b.name}"
    return facts


def _table(comparison: Comparison) -> str:
    """A row for each parameter, region and pair."""
    stream = io.StringIO()
    names = [field.name for field in fields(comparison.rois[0]) if field.name != "interval"]
    at = names.index("p")
    names[at:at] = ["low", "high"]
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(names)
    for row in comparison.rois:
        cells = _cells(row)
        writer.writerow([cells[name] for name in names])
    return stream.getvalue()


def _cells(row: RegionChange) -> dict[str, Any]:
    cells = asdict(row)
    cells["low"], cells["high"] = cells.pop("interval")
    return {name: _cell(value) for name, value in cells.items()}


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.7g}" if np.isfinite(value) else "inf" if np.isinf(value) else ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else value


def _record(comparison: Comparison) -> dict[str, Any]:
    from kety.fitting.status import Status

    return {
        "parameters": list(comparison.parameters),
        "statistic": comparison.statistic,
        "correction": comparison.correction,
        "tests": comparison.tests,
        "repeatability_given": {name: str(limit) for name, limit in comparison.limits.items()},
        "pairs": [
            {
                "label": pair.label,
                "a": _study(pair.a),
                "b": _study(pair.b),
                "same_series": pair.same_series,
                "differences": [asdict(one) for one in pair.differences],
                "voxels": {name: asdict(score) for name, score in pair.scores.items()},
                "transitions": None
                if pair.transitions is None
                else {
                    one.meaning: {
                        other.meaning: int(pair.transitions[one, other])
                        for other in Status
                        if pair.transitions[one, other]
                    }
                    for one in Status
                    if pair.transitions[one].any()
                },
            }
            for pair in comparison.pairs
        ],
        "rois": [asdict(row) for row in comparison.rois],
        "agreement": [
            {
                "parameter": one.parameter,
                "units": one.units,
                "basis": one.basis,
                **asdict(one.figures),
            }
            for one in comparison.agreements
        ],
        "warnings": list(comparison.warnings),
    }


def _study(one: Any) -> dict[str, Any]:
    kept = ("model", "software", "date", "command", "inputs")
    return {"folder": one.name, **{key: one.record[key] for key in kept if key in one.record}}
