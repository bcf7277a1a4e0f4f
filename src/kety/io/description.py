"""``dataset_description.json``: what makes a folder of maps a BIDS derivative."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any, Final

from kety.io.atomic import Batch
from kety.io.bids import generated_by

BIDS_VERSION: Final = "1.10.0"
DESCRIPTION: Final = "dataset_description.json"


def add_description(batch: Batch, folder: Path, series: Path | None = None) -> None:
    """Add ``dataset_description.json`` to a batch, unless another software's is there already.

    ``SourceDatasets`` names the dataset that the series is in, where that is BIDS.
    """
    path = folder / DESCRIPTION
    if path.exists():
        try:
            makers = json.loads(path.read_text(encoding="utf-8-sig"))["GeneratedBy"]
            own = any(maker["Name"] == "kety" for maker in makers)
        except (OSError, ValueError, LookupError, TypeError):
            own = False
        if not own:
            warnings.warn(f"{path} is not of this software and was left as it is", stacklevel=3)
            return
    content: dict[str, Any] = {
        "Name": "Tracer-kinetic maps",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [generated_by()],
    }
    dataset = None if series is None else _dataset_of(series)
    if dataset is not None and dataset != folder.resolve():
        content["SourceDatasets"] = [_source_dataset(dataset, folder)]
    batch.write_json(path, content)


def _dataset_of(series: Path) -> Path | None:
    """The folder of the BIDS dataset that a file is in, found upwards from it."""
    parents = series.resolve().parents
    return next((folder for folder in parents if (folder / DESCRIPTION).is_file()), None)


def _source_dataset(dataset: Path, folder: Path) -> dict[str, str]:
    """A dataset as ``SourceDatasets`` names it: where it is from the maps, its DOI and version."""
    try:
        known = json.loads((dataset / DESCRIPTION).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        known = {}
    found = {"URL": os.path.relpath(dataset, folder.resolve()).replace(os.sep, "/")}
    for field, name in (("DatasetDOI", "DOI"), ("DatasetVersion", "Version")):
        if isinstance(known, dict) and isinstance(known.get(field), str):
            found[name] = known[field]
    return found
