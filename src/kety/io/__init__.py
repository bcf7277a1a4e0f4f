"""Reading series, volumes and masks, and writing maps, in every format of ``FORMATS``."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Protocol, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError
from kety.io import bids
from kety.io.atomic import Batch, OutputError, output_folder
from kety.io.maps import FittedMaps, read_maps
from kety.series import Series, Volume, check_affine, check_same_grid, check_times

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "FORMATS",
    "FittedMaps",
    "Format",
    "OutputError",
    "read_maps",
    "read_mask",
    "read_series",
    "read_volume",
    "write_maps",
    "write_series",
    "write_volume",
]

_FIELDS: Final[Mapping[str, str]] = {
    "repetition_time": "RepetitionTimeExcitation",
    "flip_angle": "FlipAngle",
    "echo_time": "EchoTime",
}


class Codec(Protocol):
    """What the module of a format provides."""

    def read(self, path: str | os.PathLike[str]) -> Volume:
        """Read a file whole, with its metadata by BIDS names; KetyError naming it if it cannot."""

    def write(self, stream: BinaryIO, path: str | os.PathLike[str], volume: Volume) -> None:
        """Write to an open file that will have this path; equal volumes give equal bytes."""


@dataclass(frozen=True)
class Format:
    """A file format: its extensions, the usual one first, and its module (a `Codec`)."""

    name: str
    extensions: tuple[str, ...]
    module: str

    @property
    def codec(self) -> Codec:
        """The format's module, imported when first used."""
        return cast(Codec, importlib.import_module(self.module))


FORMATS: Final[tuple[Format, ...]] = (Format("nifti", (".nii.gz", ".nii"), "kety.io.nifti"),)
"""The one list of formats."""


def read_series(
    path: str | os.PathLike[str],
    *,
    times: ArrayLike | str | os.PathLike[str] | None = None,
    modality: str | None = None,
    acquisition: Mapping[str, float] | None = None,
) -> Series:
    """Read a dynamic series.

    Parameters
    ----------
    path
        4-D file (x, y, z, time) in a format of `FORMATS`, whose module says which types result.
    times
        (T,) in s, a CSV file of them (see `kety.io.bids.read_times`), or the time between frames
        in s. Without it, ``VolumeTiming`` or ``FrameTimesStart`` in the JSON sidecar, else the
        header's step where it names a unit of time; ``Series.times_from`` says which.
    modality
        ``"CT"`` or ``"MR"``; without it, ``Modality`` in the sidecar.
    acquisition
        Finite numbers by name. For MR they add to, and replace, what the sidecar says (see
        `kety.io.bids.acquisition`).

    Raises
    ------
    KetyError
        If the file is missing, damaged, of an unknown format or not 4-D, or if its times or
        modality are wrong or nowhere to be found.
    """
    path = Path(path)
    volume = _format_of(path).codec.read(path)
    if volume.data.ndim != 4:
        raise KetyError(
            f"{path}: shape {volume.data.shape}; a dynamic series has 4 dimensions, (x, y, z, time)"
        )
    modality = modality or volume.sidecar.get("Modality")
    if modality is None:
        raise KetyError(f"{path}: no modality given, and none in its sidecar; give CT or MR")
    found, times_from = bids.frame_times(
        times,
        volume.data.shape[3],
        name=path.name,
        sidecar=volume.sidecar,
        interval=volume.interval,
    )
    known: dict[str, float] = {}
    if modality == "MR" and found.size > 1:
        interval = float(np.median(np.diff(found)))
        known = bids.acquisition(
            volume.sidecar, interval=interval, name=str(bids.sidecar_path(path))
        )
    return Series(
        volume.data,
        found,
        volume.affine,
        modality,
        known | dict(acquisition or {}),
        source=path.name,
        times_from=times_from,
        codes=volume.codes,
    )


def read_volume(
    path: str | os.PathLike[str], *, like: Series | Volume | None = None, stack: bool = False
) -> Volume:
    """Read one volume, e.g. a T1 map, or a stack of volumes, e.g. one for each flip angle.

    Parameters
    ----------
    path
        3-D file, or 4-D for a stack, in a format of `FORMATS`.
    like
        Image on whose grid it must lie.
    stack
        Whether a fourth dimension is expected.

    Raises
    ------
    KetyError
        If the file is missing, damaged or of an unknown format, has another number of
        dimensions, or lies on another grid.
    """
    path = Path(path)
    volume = _format_of(path).codec.read(path)
    shape = volume.data.shape
    if len(shape) == 4 and shape[3] == 1 and not stack:
        volume = replace(volume, data=volume.data[..., 0])
    if volume.data.ndim != (4 if stack else 3):
        expected = "a stack of volumes has 4" if stack else "one volume has 3"
        raise KetyError(f"{path}: shape {shape} has {len(shape)} dimensions; {expected}")
    if like is not None:
        check_same_grid(volume, like)
    return volume


def read_mask(
    path: str | os.PathLike[str], *, like: Series | Volume | None = None
) -> NDArray[np.bool_]:
    """Read a mask, (X, Y, Z): voxels that are neither 0 nor NaN are in.

    Raises
    ------
    KetyError
        As `read_volume`, and if no voxel is in.
    """
    data = read_volume(path, like=like).data
    mask: NDArray[np.bool_] = (data != 0) & ~np.isnan(data)
    if not mask.any():
        raise KetyError(f"{path}: the mask is empty; at least one voxel must be other than 0")
    return mask


def write_series(
    series: Series, path: str | os.PathLike[str], *, overwrite: bool = True
) -> list[Path]:
    """Write a dynamic series with a JSON sidecar: times, modality and acquisition.

    Parameters
    ----------
    series
        Its mask is not written.
    path
        Its extension chooses the format; its folder is made.
    overwrite
        Whether existing files may be replaced.

    Returns
    -------
    The image's path and the sidecar's.

    Raises
    ------
    KetyError
        If no format has the extension.
    OutputError
        If it cannot be written.
    """
    sidecar: dict[str, Any] = {
        "Modality": series.modality,
        "VolumeTiming": series.times,
        **{_FIELDS.get(key, key): value for key, value in series.acquisition.items()},
        "GeneratedBy": bids.generated_by(),
    }
    volume = Volume(
        series.data, series.affine, series.source, series.codes, sidecar, _interval(series.times)
    )
    return write_volume(volume, path, overwrite=overwrite)


def write_volume(
    volume: Volume, path: str | os.PathLike[str], *, overwrite: bool = True
) -> list[Path]:
    """Write a volume or stack, with a JSON sidecar where it has one; as `write_series`."""
    path = Path(path)
    codec = _format_of(path).codec
    output_folder(path.parent)
    paths = [path]
    with Batch(overwrite=overwrite) as batch:
        with batch.open(path) as stream:
            codec.write(stream, path, volume)
        if volume.sidecar:
            paths.append(bids.sidecar_path(path))
            batch.write_json(paths[1], volume.sidecar)
    return paths


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
    format: str = "nifti",
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
        Recorded in ``fit.json``.
    overwrite
        Whether existing files may be replaced.
    threads
        Maps to compress at once; None for one a processor.
    format
        Name of a format in `FORMATS`.

    Returns
    -------
    The maps' paths, in the dataset's order.

    Raises
    ------
    KetyError
        If the format is unknown, a variable has other dimensions, or its times are not known.
    OutputError
        If something cannot be written; the folder is then as it was.
    """
    chosen = next((known for known in FORMATS if known.name == format), None)
    if chosen is None:
        valid = ", ".join(known.name for known in FORMATS)
        raise KetyError(f"unknown format {format!r}; valid: {valid}")
    codec = chosen.codec
    grid = check_affine(affine, source or "the maps")
    folder = output_folder(folder)
    model = str(dataset.attrs.get("model", ""))
    volumes: dict[Path, Volume] = {}
    for variable, array in dataset.data_vars.items():
        name = str(variable)
        path = folder / (bids.map_name(source, name, model=model) + chosen.extensions[0])
        if path in volumes:
            raise KetyError(f"map {name} would have the name {path} of another; rename it")
        sidecar = bids.map_sidecar(
            name, array.attrs, model=model, source=source, has_nan=array.dtype.kind == "f"
        )
        frames = _map_times(name, array, times)
        if frames is not None:
            sidecar["VolumeTiming"] = frames
        data = array.to_numpy()
        volumes[path] = Volume(data, grid, name, codes, sidecar, _interval(frames))

    def save(path: Path) -> None:
        volume = volumes[path]
        if volume.data.dtype.kind == "f":
            volume = replace(volume, data=volume.data.astype(np.float32, copy=False))
        with batch.open(path) as stream:
            codec.write(stream, path, volume)

    with Batch(overwrite=overwrite) as batch:
        pool = ThreadPoolExecutor(threads or os.cpu_count() or 1)
        try:
            for _ in pool.map(save, volumes):
                pass
        finally:
            # Nothing may still be writing when a failed batch is cleared away.
            pool.shutdown(wait=True, cancel_futures=True)
        for path, volume in volumes.items():
            batch.write_json(bids.sidecar_path(path), volume.sidecar)
        bids.add_description(batch, folder)
        record = {
            "GeneratedBy": bids.generated_by(),
            **dataset.attrs,
            **(provenance or {}),
            "Maps": {volume.source: path.name for path, volume in volumes.items()},
        }
        batch.write_json(folder / "fit.json", record)
    return list(volumes)


def _format_of(path: Path) -> Format:
    for known in FORMATS:
        if path.name.lower().endswith(known.extensions):
            return known
    valid = ", ".join(extension for known in FORMATS for extension in known.extensions)
    raise KetyError(f"{path}: unknown file extension; valid: {valid}; convert the file to one")


def _interval(times: NDArray[np.float64] | None) -> float | None:
    return None if times is None else float(np.median(np.diff(times)))


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
