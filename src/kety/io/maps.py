"""Reading back the maps of a fit from the folder that `kety fit` wrote."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from kety.errors import KetyError
from kety.series import Volume, check_same_grid

if TYPE_CHECKING:
    import xarray as xr

RECORD: Final = "fit.json"
_ATTRIBUTES: Final = {"units": "Units", "long_name": "LongName", "osipi": "OSIPI_CAPLEX"}


@dataclass(frozen=True, eq=False)
class FittedMaps:
    """The maps of one fit and where they lie.

    Attributes
    ----------
    maps
        As `kety.fit` returns them: named maps with ``units``, ``long_name`` and ``osipi``.
    record
        What ``fit.json`` says: options, inputs with their hashes, version, warnings.
    name
        What to call the fit in messages: its folder.
    affine, codes
        From voxel indices to mm, and its NIfTI codes; None where only arrays were given.
    """

    maps: xr.Dataset
    record: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    affine: NDArray[np.float64] | None = None
    codes: tuple[int, int] = (1, 1)

    @property
    def grid(self) -> Volume | None:
        """The voxel grid without content, for `check_same_grid`; None without an affine."""
        if self.affine is None:
            return None
        content = np.broadcast_to(np.int8(0), self.maps["status"].shape)
        return Volume(content, self.affine, self.name, self.codes)


def read_maps(folder: str | os.PathLike[str], *, names: Sequence[str] | None = None) -> FittedMaps:
    """Read the maps that ``fit.json`` in a folder lists.

    Parameters
    ----------
    folder
        What `kety fit` wrote with ``--out``, or `write_maps`.
    names
        Maps to read beside ``status``; all but fitted curves and residuals where left out. Names
        that the fit does not have are passed over.

    Returns
    -------
    FittedMaps
        Maps in float32, ``status`` in uint8.

    Raises
    ------
    KetyError
        If the folder, ``fit.json`` or a map that it lists is missing or damaged, or the maps do
        not share one grid.
    """
    from kety.io import read_volume

    place = Path(folder)
    record = _record(place)
    listed: Mapping[str, str] = record["Maps"]
    wanted = [
        name
        for name in listed
        if name == "status"
        or (name not in ("fitted", "residual") if names is None else name in names)
    ]
    first: Volume | None = None
    variables: dict[str, Any] = {}
    for name in wanted:
        path = place / listed[name]
        if not path.is_file():
            raise KetyError(
                f"{path}: there is no such file, but {RECORD} lists it as {name}; fit again, or "
                "copy the whole folder"
            )
        volume = read_volume(path)
        if first is None:
            first = volume
        check_same_grid(volume, first)
        kind = np.uint8 if "flag_values" in volume.sidecar else np.float32
        attributes = {key: volume.sidecar.get(field, "") for key, field in _ATTRIBUTES.items()}
        flags = {key: volume.sidecar[key] for key in volume.sidecar if key.startswith("flag_")}
        variables[name] = (
            ("x", "y", "z"),
            volume.data.astype(kind, copy=False),
            attributes | flags,
        )
    assert first is not None, "status is among the maps"
    import xarray as xr

    plain = {k: v for k, v in record.items() if not isinstance(v, Mapping | list)}
    dataset = xr.Dataset(variables, attrs=plain)
    return FittedMaps(dataset, record, str(folder), first.affine, first.codes)


def _record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    if not folder.exists():
        raise KetyError(f"{folder}: there is no such folder; give one that `kety fit` wrote")
    if not folder.is_dir():
        raise KetyError(f"{folder}: is a file; give the folder that `kety fit` wrote")
    if not path.is_file():
        raise KetyError(f"{folder}: holds no {RECORD}; give a folder that `kety fit` wrote")
    try:
        record = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise KetyError(f"{path}: cannot be read as JSON ({error}); fit again") from error
    maps = record.get("Maps") if isinstance(record, dict) else None
    if not isinstance(maps, dict) or "status" not in maps:
        raise KetyError(f"{path}: lists no status map under Maps; fit again")
    return dict(record)
