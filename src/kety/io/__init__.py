"""Reading series, volumes and masks, and writing maps, in every format of ``FORMATS``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError
from kety.io import bids
from kety.io.atomic import Batch, OutputError, output_folder
from kety.io.formats import FORMATS, Codec, Collection, Format, format_of
from kety.io.frame_times import frame_times, step_of
from kety.io.maps import FittedMaps, fitted_maps, read_maps, write_maps
from kety.io.orientation import turned_to
from kety.io.slice_timing import read_slice_times, timing_fields
from kety.series import Series, Volume, check_affine, check_same_grid

__all__ = [
    "FORMATS",
    "Codec",
    "Collection",
    "FittedMaps",
    "Format",
    "OutputError",
    "fitted_maps",
    "format_of",
    "read_maps",
    "read_mask",
    "read_series",
    "read_volume",
    "split_region",
    "write_maps",
    "write_mask",
    "write_series",
    "write_volume",
]


def read_series(
    path: str | os.PathLike[str],
    *,
    series: int | str | None = None,
    times: ArrayLike | str | os.PathLike[str] | None = None,
    modality: str | None = None,
    acquisition: Mapping[str, float] | None = None,
) -> Series:
    """Read a dynamic series.

    Parameters
    ----------
    path
        4-D file (x, y, z, time) in a format of `FORMATS`, whose module says which types result; or
        a folder, zip or tar of DICOM, see `kety.io.dicom.read_series`.
    series
        Which one, where a path holds several: its number in the table of `kety info`, its UID, or
        a part of its description.
    times
        (T,) in s, a CSV file of them (see `kety.io.frame_times.read_times`), or the time between
        frames in s. Without it, ``VolumeTiming`` or ``FrameTimesStart`` in the JSON sidecar, else
        the header's step where it names a unit of time; ``Series.times_from`` says which.
        ``SliceTiming`` beside ``VolumeTiming`` gives the slices times of their own
        (``Series.slice_times``); times that are given hold for all slices.
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
    known = format_of(path)
    if known.folders:
        return known.collection.read_series(
            path, series=series, times=times, modality=modality, acquisition=acquisition
        )
    volume = _read(path, series)
    if volume.data.ndim != 4:
        raise KetyError(
            f"{path}: shape {volume.data.shape}; a dynamic series has 4 dimensions, (x, y, z, time)"
        )
    modality = modality or volume.sidecar.get("Modality")
    if modality is None:
        raise KetyError(f"{path}: no modality given, and none in its sidecar; give CT or MR")
    found, times_from = frame_times(
        times,
        volume.data.shape[3],
        name=path.name,
        sidecar=volume.sidecar,
        interval=volume.interval,
    )
    own = None
    if times is None and "VolumeTiming" in volume.sidecar:
        own = read_slice_times(volume.sidecar, found, volume.data.shape[2], path.name)
    if own is not None:
        found, times_from = own.mean(axis=0), f"{times_from}, and each slice's own"
    recorded: dict[str, float] = {}
    if modality == "CT":
        recorded = bids.exposure(volume.sidecar, name=str(bids.sidecar_path(path)))
    elif modality == "MR" and found.size > 1:
        recorded = bids.acquisition(
            volume.sidecar, interval=step_of(found), name=str(bids.sidecar_path(path))
        )
    return Series(
        volume.data,
        found,
        volume.affine,
        modality,
        recorded | dict(acquisition or {}),
        source=path.name,
        times_from=times_from,
        codes=volume.codes,
        slice_times=own,
    )


def read_volume(
    path: str | os.PathLike[str],
    *,
    like: Series | Volume | None = None,
    stack: bool = False,
    series: int | str | None = None,
) -> Volume:
    """Read one volume, e.g. a T1 map, or a stack of volumes, e.g. one for each flip angle.

    Parameters
    ----------
    path
        3-D file, or 4-D for a stack, in a format of `FORMATS`; or a folder, zip or tar of DICOM.
    like
        Image on whose grid it must lie; axes of DICOM images are exchanged and reversed to it.
    stack
        Whether a fourth dimension is expected.
    series
        As of `read_series`.

    Raises
    ------
    KetyError
        If the file is missing, damaged or of an unknown format, has another number of
        dimensions, or lies on another grid.
    """
    path = Path(path)
    volume = _read(path, series)
    shape = volume.data.shape
    if len(shape) == 4 and shape[3] == 1 and not stack:
        volume = replace(volume, data=volume.data[..., 0])
    if volume.data.ndim != (4 if stack else 3):
        expected = "a stack of volumes has 4" if stack else "one volume has 3"
        raise KetyError(f"{path}: shape {shape} has {len(shape)} dimensions; {expected}")
    if like is not None:
        if format_of(path).folders:
            volume = turned_to(volume, like)
        check_same_grid(volume, like)
    return volume


def read_mask(
    path: str | os.PathLike[str], *, like: Series | Volume | None = None
) -> NDArray[np.bool_]:
    """Read a mask, (X, Y, Z).

    Parameters
    ----------
    path
        An image, whose voxels that are neither 0 nor NaN are in; or a DICOM Segmentation or
        structure set, where ``file.dcm:NAME`` or ``file.dcm:NUMBER`` says which of several regions.
    like
        Image on whose grid it must lie; regions are brought to it, and need it.

    Raises
    ------
    KetyError
        As `read_volume`, if there is not one such region, and if no voxel is in.
    """
    file, region = split_region(path)
    known = format_of(file)
    mask: NDArray[np.bool_]
    if known.folders and known.collection.holds_mask(file):
        mask = known.collection.read_mask(file, like, region)
    elif region is not None:
        raise KetyError(f"{file}: is an image, without regions to choose {region!r} from")
    else:
        data = read_volume(file, like=like).data
        mask = (data != 0) & ~np.isnan(data)
    if not mask.any():
        raise KetyError(f"{path}: the mask is empty; at least one voxel must be other than 0")
    return mask


def split_region(path: str | os.PathLike[str]) -> tuple[Path, str | None]:
    """A file, and the region asked of it: ``rt.dcm:Liver`` is the region Liver of ``rt.dcm``.

    Whatever exists under the whole name is that file; else the first colon with a file before it
    divides. Without one the path is returned whole.
    """
    text = os.fspath(path)
    if not os.path.lexists(text):
        for at, mark in enumerate(text):
            if mark == ":" and Path(text[:at]).is_file():
                return Path(text[:at]), text[at + 1 :]
    return Path(text), None


def write_mask(
    mask: NDArray[np.bool_],
    path: str | os.PathLike[str],
    *,
    affine: ArrayLike,
    codes: tuple[int, int] = (1, 1),
    images: Sequence[Any] | None = None,
    label: str = "mask",
    made_at: datetime | None = None,
    overwrite: bool = True,
) -> Path:
    """Write a mask: an image of 0 and 1, or a DICOM Segmentation.

    Parameters
    ----------
    mask
        (X, Y, Z) bool.
    path
        Its extension chooses the format; its folder is made.
    affine, codes
        Of the series whose grid it lies on.
    images
        Headers of the DICOM images that a Segmentation refers to (`kety.io.dicom.source_headers`);
        without them it is of a study of nobody.
    label
        What a Segmentation calls it.
    made_at
        What a Segmentation says of when it was made, and that equal ones are to be equal files, see
        `kety.io.dicom.segmentation.write`.
    overwrite
        Whether an existing file may be replaced.

    Raises
    ------
    KetyError
        If no format has the extension, or a Segmentation would be empty.
    OutputError
        If it cannot be written.
    """
    path = Path(path)
    known = format_of(path)
    grid = check_affine(affine, label)
    output_folder(path.parent)
    with Batch(overwrite=overwrite) as batch, batch.open(path) as stream:
        if known.folders:
            known.collection.write_mask(
                stream, mask, grid, images=images, label=label, made_at=made_at
            )
        else:
            volume = Volume(mask.astype(np.uint8), grid, label, codes)
            known.codec.write(stream, path, volume)
    return path


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
        **timing_fields(series),
        **{bids.FIELDS.get(key, key): value for key, value in series.acquisition.items()},
        "GeneratedBy": bids.generated_by(),
    }
    volume = Volume(
        series.data, series.affine, series.source, series.codes, sidecar, step_of(series.times)
    )
    return write_volume(volume, path, overwrite=overwrite)


def write_volume(
    volume: Volume, path: str | os.PathLike[str], *, overwrite: bool = True
) -> list[Path]:
    """Write a volume or stack, with a JSON sidecar where it has one; as `write_series`."""
    path = Path(path)
    known = format_of(path)
    if known.folders:
        raise KetyError(f"{path}: images are not written as {known.name}; name it .nii.gz")
    codec = known.codec
    output_folder(path.parent)
    paths = [path]
    with Batch(overwrite=overwrite) as batch:
        with batch.open(path) as stream:
            codec.write(stream, path, volume)
        if volume.sidecar:
            paths.append(bids.sidecar_path(path))
            batch.write_json(paths[1], volume.sidecar)
    return paths


def _read(path: Path, series: int | str | None) -> Volume:
    """Read a volume or stack of any format."""
    known = format_of(path)
    if known.folders:
        return known.collection.read(path, series=series)
    if series is not None:
        raise KetyError(f"{path}: holds one image, not several series to choose {series!r} from")
    return known.codec.read(path)
