"""Between DICOM and NIfTI: series, volumes, maps and masks, by what the source is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

from kety.errors import KetyError
from kety.io import (
    FORMATS,
    bids,
    format_of,
    read_maps,
    read_mask,
    read_series,
    split_region,
    write_maps,
    write_mask,
    write_series,
    write_volume,
)
from kety.io.atomic import Batch, output_folder
from kety.io.dicom import find_series, source_headers
from kety.io.dicom.objects import MAP, kind_of
from kety.io.formats import Format
from kety.io.maps import RECORD
from kety.series import Series, Volume

PathLike = str | os.PathLike[str]
Which = int | str | None

_OF_FILES: Final = ("Maps", "MapsAlsoAs", "GeneratedBy")
"""What a record of maps says of its files, which the new one says itself."""


@dataclass(frozen=True)
class Converted:
    """What `convert` wrote, and in words what it was."""

    paths: tuple[Path, ...]
    words: str


def convert(
    source: PathLike,
    target: PathLike,
    *,
    of: PathLike | None = None,
    like: PathLike | None = None,
    series: Which = None,
    times: ArrayLike | PathLike | None = None,
    modality: str | None = None,
    overwrite: bool = True,
) -> Converted:
    """Write what a path holds in the other format.

    ==========================================  ==================================================
    source                                      target
    ==========================================  ==================================================
    folder, archive or file of DICOM images     NIfTI file with times and acquisition beside it
    folder of maps, NIfTI or Parametric Maps    folder of maps in the other format
    one map, NIfTI or a Parametric Map          file of the other format
    Segmentation or structure set               NIfTI file on the grid of ``like``
    image of 0 and 1                            Segmentation (``.dcm``)
    ==========================================  ==================================================

    Parameters
    ----------
    source
        What to convert; ``file.dcm:NAME`` names one of several regions.
    target
        File or folder, by its extension.
    of
        DICOM images that a map or mask belongs to: patient, study, and what it refers to. Without
        them it makes up a study of nobody.
    like
        Series or image on whose grid regions are filled.
    series
        As of `kety.io.read_series`, for whichever of source, ``of`` and ``like`` holds several
        series.
    times, modality
        As of `kety.io.read_series`.
    overwrite
        Whether existing files may be replaced.

    Raises
    ------
    KetyError
        If the source cannot be read, or cannot become the target.
    OutputError
        If something cannot be written; nothing is then.
    """
    target = Path(target)
    file, region = split_region(source)
    images = None if of is None else source_headers(of, series)
    if file.is_dir() and _holds_maps(file):
        return _maps(file, target, images, overwrite)
    known = format_of(file)
    if known.folders and known.collection.holds_mask(file):
        _expect(target, folders=False, what="a mask")
        grid = None if like is None else _grid(like, series)
        if grid is None:
            raise KetyError(
                f"{file}: its regions become a mask on the grid of a series; give that series "
                "(--like)"
            )
        mask = read_mask(source, like=grid)
        path = write_mask(mask, target, affine=grid.affine, codes=grid.codes, overwrite=overwrite)
        return Converted(
            (path,), f"mask of {int(mask.sum()):,} voxels on the grid of {grid.source}"
        )
    if region is not None:
        raise KetyError(f"{file}: is an image, without regions to choose {region!r} from")
    if known.folders:
        return _images(file, target, series, times, modality, overwrite)
    return _image(file, target, images, overwrite)


def _maps(folder: Path, target: Path, images: Any, overwrite: bool) -> Converted:
    """A folder of maps in the other format, with its record."""
    fit = read_maps(folder)
    listed: Mapping[str, str] = fit.record["Maps"]
    was = format_of(folder / listed["status"])
    other = next(one for one in FORMATS if one != was)
    if images is not None and not other.folders:
        raise KetyError(f"{folder}: NIfTI maps refer to no DICOM images; leave them out (--source)")
    if target.resolve() == folder.resolve():
        raise KetyError(f"{target}: is where the maps come from; choose another folder")
    assert fit.affine is not None  # as of all maps that come from files
    paths = write_maps(
        fit.maps,
        target,
        affine=fit.affine,
        codes=fit.codes,
        source=fit.source,
        provenance={name: value for name, value in fit.record.items() if name not in _OF_FILES},
        overwrite=overwrite,
        format=other.name,
        images=images,
    )
    left = [name for name in listed if name not in fit.maps]
    words = f"{len(paths)} maps as {other.name}"
    if left:
        words += f"; not {' and '.join(left)}, which have a time dimension"
    return Converted(tuple(paths), words)


def _images(
    file: Path,
    target: Path,
    series: Which,
    times: ArrayLike | PathLike | None,
    modality: str | None,
    overwrite: bool,
) -> Converted:
    """DICOM images, or one Parametric Map, as NIfTI."""
    _expect(target, folders=False, what="images")
    if _is_dynamic(file, series):
        found = read_series(file, series=series, times=times, modality=modality)
        span = f"{found.times[0]:g} to {found.times[-1]:g} s ({found.times_from})"
        paths = write_series(found, target, overwrite=overwrite)
        return Converted(tuple(paths), f"{found.source}: {_size(found)}, {span}")
    if times is not None:
        raise KetyError(f"{file}: holds no phases that times could be given to; leave them out")
    volume = format_of(file).collection.read(file, series=series)
    paths = write_volume(volume, target, overwrite=overwrite)
    return Converted(tuple(paths), f"{volume.source}: {_size(volume)}")


def _is_dynamic(file: Path, series: Which) -> bool:
    """Whether DICOM images make up a series, not a volume, or volumes of several flip angles."""
    if kind_of(file) == MAP:
        return False
    found = find_series(file)
    if series is not None:
        return found.choose(series, dynamic=False).frames > 1
    return any(one.frames > 1 and not one.aside and not one.problem for one in found.series)


def _image(file: Path, target: Path, images: Any, overwrite: bool) -> Converted:
    """A NIfTI file as a Parametric Map or a Segmentation."""
    known = _expect(target, folders=True, what="a NIfTI file")
    volume = format_of(file).codec.read(file)
    if volume.data.ndim != 3:
        raise KetyError(
            f"{file}: shape {volume.data.shape}; series of volumes are not written as DICOM, only "
            "maps and masks are"
        )
    name = volume.sidecar.get("Quantity")
    if name:
        write = known.collection.map_writer([target], images=images)
        output_folder(target.parent)
        with Batch(overwrite=overwrite) as batch:
            with batch.open(target) as stream:
                write(stream, target, volume)
            batch.write_json(bids.sidecar_path(target), volume.sidecar)
        return Converted((target, bids.sidecar_path(target)), f"map {name} as a Parametric Map")
    values = np.unique(volume.data)
    if not np.isin(values, (0, 1)).all():
        raise KetyError(
            f"{file}: holds {values.size:,} different values and no sidecar that names a quantity; "
            "what becomes DICOM is a map of `kety fit` or a mask of 0 and 1"
        )
    mask = volume.data != 0
    label = bids.stem(file)
    write_mask(mask, target, affine=volume.affine, images=images, label=label, overwrite=overwrite)
    return Converted((target,), f"mask of {int(mask.sum()):,} voxels as a Segmentation")


def _expect(target: Path, *, folders: bool, what: str) -> Format:
    """The format of a target; KetyError if it is not one of single files, or not of DICOM."""
    known = format_of(target) if target.suffix else None
    if known is None or known.folders != folders or (folders and target.suffix != ".dcm"):
        wanted = ".dcm" if folders else ".nii.gz or .nii"
        raise KetyError(f"{target}: {what} becomes a file that ends in {wanted}; name it so")
    return known


def _holds_maps(folder: Path) -> bool:
    """Whether a folder holds the maps of a fit: its record, or Parametric Maps."""
    if (folder / RECORD).is_file():
        return True
    return any(bool(one.collection.maps_in(folder)) for one in FORMATS if one.folders)


def _grid(path: PathLike, series: Which) -> Volume:
    """The voxel grid of a series or image, without its content where that can be left out."""
    known = format_of(path)
    if known.folders:
        return known.collection.read_grid(path, series=series)
    volume = known.codec.read(path)
    return Volume(
        np.broadcast_to(np.int8(0), volume.shape), volume.affine, volume.source, volume.codes
    )


def _size(image: Series | Volume) -> str:
    shape = " × ".join(map(str, image.data.shape))
    return f"{shape} voxels"
