"""The maps of a fit: written to a folder, and read back."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError
from kety.io import bids
from kety.io.atomic import Batch, output_folder
from kety.io.description import add_description
from kety.io.formats import FORMATS, Format, MapWriter
from kety.io.frame_times import step_of
from kety.series import Volume, check_affine, check_same_grid, check_times

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
    source
        File name of the series that was fitted, where it is known.
    """

    maps: xr.Dataset
    record: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    affine: NDArray[np.float64] | None = None
    codes: tuple[int, int] = (1, 1)
    source: str = ""

    @property
    def grid(self) -> Volume | None:
        """The voxel grid without content, for `check_same_grid`; None without an affine."""
        if self.affine is None:
            return None
        content = np.broadcast_to(np.int8(0), self.maps["status"].shape)
        return Volume(content, self.affine, self.name, self.codes)


def fitted_maps(one: Any, name: str) -> FittedMaps:
    """Maps as they are given to a function: what `kety.fit` returned, a folder, or read already.

    Parameters
    ----------
    one
        An `xarray.Dataset`, a path for `read_maps`, or `FittedMaps`.
    name
        What to call a Dataset in messages.

    Raises
    ------
    KetyError
        If it is none of these, and as `read_maps`.
    """
    if isinstance(one, FittedMaps):
        return one
    if isinstance(one, str | os.PathLike):
        return read_maps(one)
    if not hasattr(one, "data_vars") or "status" not in one:
        raise KetyError(
            f"{name} is a {type(one).__name__}; give what kety.fit returned, or a folder that "
            "`kety fit` wrote"
        )
    return FittedMaps(one, dict(one.attrs), name)


def read_maps(folder: str | os.PathLike[str], *, names: Sequence[str] | None = None) -> FittedMaps:
    """Read the maps that ``fit.json`` in a folder lists, or DICOM Parametric Maps without it.

    Parameters
    ----------
    folder
        What `kety fit` wrote with ``--out``, or `write_maps`; or the Parametric Maps of one fit as
        they come back from an archive.
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
    sources = first.sidecar.get("Sources") or [""]
    return FittedMaps(
        dataset, record, str(folder), first.affine, first.codes, source=str(sources[0])
    )


def _record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    if not folder.exists():
        raise KetyError(f"{folder}: there is no such folder; give one that `kety fit` wrote")
    if not folder.is_dir():
        raise KetyError(f"{folder}: is a file; give the folder that `kety fit` wrote")
    if not path.is_file():
        return {"Maps": _maps_alone(folder)}
    try:
        record = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise KetyError(f"{path}: cannot be read as JSON ({error}); fit again") from error
    maps = record.get("Maps") if isinstance(record, dict) else None
    if not isinstance(maps, dict) or "status" not in maps:
        raise KetyError(f"{path}: lists no status map under Maps; fit again")
    return dict(record)


def _maps_alone(folder: Path) -> dict[str, str]:
    """The maps of a folder without a record, where files say themselves that they are maps."""
    found: dict[str, str] = {}
    for known in FORMATS:
        if known.folders:
            found |= known.collection.maps_in(folder)
    if "status" not in found:
        holds = f"maps ({', '.join(found)}) without a status map" if found else "no maps either"
        raise KetyError(
            f"{folder}: holds no {RECORD}, and {holds}; give a folder that `kety fit` wrote"
        )
    return found


def write_maps(
    dataset: xr.Dataset,
    folder: str | os.PathLike[str],
    *,
    affine: ArrayLike,
    codes: tuple[int, int] = (1, 1),
    source: str = "",
    times: ArrayLike | None = None,
    provenance: Mapping[str, Any] | None = None,
    overwrite: bool = True,
    threads: int | None = None,
    format: str | Sequence[str] = "nifti",
    images: Sequence[Any] | None = None,
    series: str | os.PathLike[str] | None = None,
) -> list[Path]:
    """Write the maps of a fit, one file with a JSON sidecar each, all together or none.

    Beside them come ``fit.json`` (the dataset's attributes, the provenance and the names of the
    maps) and ``dataset_description.json``. Names are those of `kety.io.bids.map_name`.

    Parameters
    ----------
    dataset
        Variables of dimensions ``(x, y, z)``, or ``(x, y, z, time)`` for fitted curves and
        residuals. Floats are written as float32; status and counts keep their integer type.
        Attributes ``units``, ``long_name``, ``osipi`` and ``flag_*`` go to the sidecars.
    folder
        Made if it does not exist; files of other names in it are left alone.
    affine, codes
        Of the series (``Series.affine``, ``Series.codes``).
    source
        File name of the series, for the maps' names and sidecars.
    times
        (T,) in s, for variables with a time dimension; without it, that dimension's coordinates.
    provenance
        Recorded in ``fit.json``; its ``curve_unit``, ``HU`` or ``mM``, is what units of DICOM maps
        refer to.
    overwrite
        Whether existing files may be replaced.
    threads
        Maps to write at once; None for one a processor.
    format
        Name of a format in `FORMATS`, or several, the first of which ``fit.json`` lists as the
        maps. Variables with a time dimension are NIfTI whatever the format: a DICOM Parametric Map
        holds one volume.
    images
        Headers of the DICOM images that the maps derive from (`kety.io.dicom.source_headers`):
        patient and study of DICOM maps, and what their frames refer to. Without them DICOM maps
        make up a study of nobody.
    series
        Path of the series; where it lies in a BIDS dataset, the description names that as the
        source.

    Returns
    -------
    The maps' paths, in the dataset's order, those of the first format first.

    Raises
    ------
    KetyError
        If a format is unknown, a variable has other dimensions, or its times are not known.
    OutputError
        If something cannot be written; the folder is then as it was.
    """
    chosen = _formats(format)
    grid = check_affine(affine, source or "the maps")
    folder = output_folder(folder)
    model = str(dataset.attrs.get("model", ""))
    volumes: dict[str, Volume] = {}
    listed: dict[str, dict[str, str]] = {known.name: {} for known in chosen}
    paths: dict[Path, tuple[str, Format]] = {}
    for variable, array in dataset.data_vars.items():
        name = str(variable)
        stem = bids.map_name(source, name, model=model)
        sidecar = bids.map_sidecar(
            name, array.attrs, model=model, source=source, has_nan=array.dtype.kind == "f"
        )
        frames = _map_times(name, array, times)
        if frames is not None:
            sidecar["VolumeTiming"] = frames
        step = None if frames is None else step_of(frames)
        volumes[name] = Volume(array.to_numpy(), grid, name, codes, sidecar, step)
        for known in chosen:
            used = known if frames is None else FORMATS[0]
            path = folder / (stem + used.extensions[0])
            if paths.setdefault(path, (name, used))[0] != name:
                raise KetyError(f"map {name} would have the name {path} of another; rename it")
            listed[known.name][name] = path.name
    files = {one: [folder / file for file in listed[one].values()] for one in listed}
    ordered = list(dict.fromkeys(path for some in files.values() for path in some))
    curves = str((provenance or {}).get("curve_unit", ""))
    used_formats = dict.fromkeys(known for _, known in paths.values())
    writers = {known: _writer(known, paths, images, curves) for known in used_formats}

    def save(path: Path) -> None:
        name, known = paths[path]
        volume = volumes[name]
        if volume.data.dtype.kind == "f":
            volume = replace(volume, data=volume.data.astype(np.float32, copy=False))
        with batch.open(path) as stream:
            writers[known](stream, path, volume)

    with Batch(overwrite=overwrite) as batch:
        pool = ThreadPoolExecutor(threads or os.cpu_count() or 1)
        try:
            for _ in pool.map(save, ordered):
                pass
        finally:
            # Nothing may still be writing when a failed batch is cleared away.
            pool.shutdown(wait=True, cancel_futures=True)
        for name, file in listed[chosen[0].name].items():
            batch.write_json(bids.sidecar_path(folder / file), volumes[name].sidecar)
        add_description(batch, folder, None if series is None else Path(series))
        first, *others = listed
        record = {
            "GeneratedBy": bids.generated_by(),
            **dataset.attrs,
            **(provenance or {}),
            "Maps": listed[first],
            **({"MapsAlsoAs": {one: listed[one] for one in others}} if others else {}),
        }
        batch.write_json(folder / RECORD, record)
    return ordered


def _formats(names: str | Sequence[str]) -> list[Format]:
    """The formats of these names, each once."""
    found = []
    for name in dict.fromkeys([names] if isinstance(names, str) else names):
        known = next((one for one in FORMATS if one.name == name), None)
        if known is None:
            valid = ", ".join(one.name for one in FORMATS)
            raise KetyError(f"unknown format {name!r}; valid: {valid}")
        found.append(known)
    if not found:
        raise KetyError("no format to write maps in; name one")
    return found


def _writer(
    known: Format,
    paths: Mapping[Path, tuple[str, Format]],
    images: Sequence[Any] | None,
    curves: str,
) -> MapWriter:
    """What writes the maps of a format."""
    if not known.folders:
        return known.codec.write
    own = [path for path, (_, one) in paths.items() if one == known]
    return known.collection.map_writer(own, images=images, curves=curves)


def _map_times(
    name: str, array: xr.DataArray, times: ArrayLike | None
) -> NDArray[np.float64] | None:
    if array.dims[:3] != ("x", "y", "z") or array.ndim > 4:
        raise KetyError(
            f"map {name} has dimensions {array.dims}, expected ('x', 'y', 'z') and at most a time; "
            "fit the series on its grid, or write a table instead"
        )
    if array.ndim == 3:
        return None
    last = array.dims[3]
    if times is None and last not in array.coords:
        raise KetyError(f"map {name} has a time dimension but no times; give `times` in s")
    return check_times(
        array.coords[last] if times is None else times, array.shape[3], f"map {name}"
    )
