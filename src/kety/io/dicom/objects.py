"""The objects that hold a result and not an image series: what they are, and their one reader."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError
from kety.io import bids
from kety.io.dicom import parametric, rtstruct, segmentation
from kety.io.dicom.elements import CLASS, NotReadable, read_elements
from kety.io.dicom.origin import origin_of
from kety.io.dicom.regions import Region
from kety.io.failures import decoding
from kety.io.formats import MapWriter
from kety.series import Series, Volume

if TYPE_CHECKING:
    from pydicom import Dataset

MAP: Final = "parametric map"
SEGMENTATION: Final = "segmentation"
STRUCTURES: Final = "structure set"
KINDS: Final[Mapping[str, str]] = {
    parametric.SOP_CLASS: MAP,
    **dict.fromkeys(segmentation.SOP_CLASSES, SEGMENTATION),
    rtstruct.SOP_CLASS: STRUCTURES,
}
"""Objects that hold a result, by SOP class."""


def kind_of(path: str | os.PathLike[str]) -> str | None:
    """What kind of result a DICOM file holds; None for anything else, or no DICOM at all."""
    try:
        with Path(path).open("rb") as stream:
            found = read_elements(stream, (CLASS,), {}, ())
    except (OSError, NotReadable):
        return None
    return KINDS.get(found.values.get(CLASS, ""))


def read_map(path: str | os.PathLike[str]) -> Volume:
    """Read a Parametric Map as a volume, see `kety.io.dicom.parametric.read_map`.

    What a JSON sidecar beside it says wins over the object's own words, which are cut short.

    Raises
    ------
    KetyError
        If it is missing, damaged or another object.
    """
    path = Path(path)
    with _parsed(path) as dataset:
        kind = _kind(dataset)
        if kind != MAP:
            raise KetyError(f"{path}: is no Parametric Map but a {kind or 'DICOM object'}")
        volume = parametric.read_map(dataset, name=path.name)
    return replace(volume, sidecar={**volume.sidecar, **bids.read_sidecar(path)})


def read_mask(
    path: str | os.PathLike[str], like: Series | Volume | None, region: str | None = None
) -> NDArray[np.bool_]:
    """Read a Segmentation or structure set as a mask on the grid of a series, (X, Y, Z).

    Parameters
    ----------
    path
        Of the file.
    like
        Whose grid; needed, since these objects have frames or contours and no grid.
    region
        Name or number of the segment or region, where there are several.

    Raises
    ------
    KetyError
        If it is missing, damaged, another object, or does not fit the grid.
    """
    path = Path(path)
    with _parsed(path) as dataset:
        kind = _kind(dataset)
        if kind not in (SEGMENTATION, STRUCTURES):
            raise KetyError(
                f"{path}: is no mask but a {kind or 'DICOM object'}; a mask is a Segmentation or a "
                "structure set"
            )
        if like is None:
            raise KetyError(
                f"{path}: a {kind} becomes a mask on the grid of a series; say which one"
            )
        if kind == SEGMENTATION:
            return segmentation.read_mask(dataset, like, name=path.name, region=region)
        return rtstruct.read_mask(dataset, like, name=path.name, region=region)


def maps_in(folder: str | os.PathLike[str]) -> dict[str, str]:
    """The Parametric Maps in a folder and its subfolders: the map's name to the file's path in it.

    Raises
    ------
    KetyError
        If two of them have one name, as those of two fits do.
    """
    found: dict[str, str] = {}
    for path in sorted(Path(folder).rglob("*")):
        if kind_of(path) != MAP:
            continue
        with _parsed(path, stop_before_pixels=True) as dataset:
            name = parametric.name_in(dataset)
        file = path.relative_to(folder).as_posix()
        if name in found:
            raise KetyError(
                f"{folder}: holds the map {name} twice, in {found[name]} and {file}; put the maps "
                "of each fit into a folder of their own"
            )
        found[name] = file
    return found


def holds_mask(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a Segmentation or a structure set."""
    return kind_of(path) in (SEGMENTATION, STRUCTURES)


def write_mask(
    stream: BinaryIO,
    mask: NDArray[np.bool_],
    affine: ArrayLike,
    *,
    images: Sequence[Dataset] | None = None,
    label: str = "mask",
    made_at: datetime | None = None,
) -> None:
    """Write a mask as a Segmentation of these images, see `kety.io.dicom.segmentation.write`."""
    segmentation.write(stream, mask, affine, origin_of(images), label=label, made_at=made_at)


def map_writer(
    paths: Sequence[Path], *, images: Sequence[Dataset] | None = None, curves: str = ""
) -> MapWriter:
    """What writes the maps of one fit as Parametric Maps of one study.

    Parameters
    ----------
    paths
        Of all maps, in the order of their series.
    images
        Headers of the images that they derive from; without any, the study is a new one.
    curves
        The unit of the curves, ``HU`` or ``mM``, for units that refer to it.

    Raises
    ------
    KetyError
        If the images do not belong together or lack what identifies them.
    """
    origin = origin_of(images)
    numbers = {path: number for number, path in enumerate(paths)}

    def write(stream: BinaryIO, path: Path, volume: Volume) -> None:
        parametric.write(stream, volume, origin, number=numbers[path], curves=curves)

    return write


def regions_in(path: str | os.PathLike[str]) -> list[Region]:
    """The segments of a Segmentation, or the regions of a structure set; none of anything else.

    Raises
    ------
    KetyError
        If the file is missing or damaged.
    """
    with _parsed(Path(path), stop_before_pixels=True) as dataset:
        if _kind(dataset) == SEGMENTATION:
            return segmentation.segments_in(dataset)
        return rtstruct.regions_in(dataset)


def _kind(dataset: Dataset) -> str | None:
    return KINDS.get(str(dataset.get("SOPClassUID")))


@contextmanager
def _parsed(path: Path, *, stop_before_pixels: bool = False) -> Iterator[Dataset]:
    """What is in a file, for as long as it may be parsed."""
    from pydicom import dcmread

    with decoding(path, "DICOM"):  # elements are parsed when they are looked at
        yield dcmread(path, stop_before_pixels=stop_before_pixels)
