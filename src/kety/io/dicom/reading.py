"""A series, a volume or the headers of a DICOM folder, archive or file, as kety uses them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError
from kety.io import bids
from kety.io.dicom.archive import Problem, each_file
from kety.io.dicom.elements import NOT_DICOM
from kety.io.dicom.geometry import Stack
from kety.io.dicom.grouping import FoundSeries
from kety.io.dicom.headers import Header, Image
from kety.io.dicom.index import Found, find_series
from kety.io.dicom.objects import MAP, kind_of, read_map
from kety.io.dicom.phases import Phases, without_times
from kety.io.dicom.pixels import load
from kety.io.frame_times import frame_times, read_times
from kety.series import GRID_TOLERANCE_MM, Series, Volume

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_SHARED = (
    "SOPClassUID",
    "StudyInstanceUID",
    "PatientID",
    "FrameOfReferenceUID",
    "Rows",
    "Columns",
)


def read_series(
    path: str | os.PathLike[str],
    *,
    series: int | str | None = None,
    times: ArrayLike | str | os.PathLike[str] | None = None,
    modality: str | None = None,
    acquisition: Mapping[str, float] | None = None,
) -> Series:
    """Read a dynamic CT or MR series.

    Parameters
    ----------
    path
        Folder, zip, tar or multi-frame file.
    series
        Number in the table of `kety info`, SeriesInstanceUID, or a part of its description; None
        where there is one dynamic series.
    times
        In place of the headers': (T,) in s, a CSV file of them, or the time between phases in s.
        Phases are counted as the images show them, those that lack slices too.
    modality, acquisition
        In place of, or beside, the headers'.

    Returns
    -------
    Data (X, Y, Z, T), X along rows and Z along their normal, in int16 where the values are whole
    numbers that fit, else float32; times from the first image; ``acquisition`` with those of
    ``repetition_time``, ``echo_time`` (s), ``flip_angle`` (degrees) and ``kvp`` that are known;
    a mask of the voxels that are padding in no phase, where the headers name a padding value.

    Raises
    ------
    KetyError
        If there is no such series, or it cannot be read; see `find_series` and `Found.choose`.
    """
    found = find_series(path)
    chosen = found.choose(series)
    grid, phases = _arranged(chosen)
    name = source_name(chosen)
    when, words, own = _times(times, chosen, phases, name)
    _warn(found, chosen, name)
    header = chosen.header
    data, measured = load(Path(path), chosen.images, phases.images)
    if measured is not None and not measured.any():
        raise KetyError(
            f"{name}: every voxel is padding in some phase, by the headers (Pixel Padding Value "
            f"{header.padding}); export the series again"
        )
    return Series(
        data,
        when,
        grid.affine,
        modality or header.modality,
        {**dict(header.acquisition), **(acquisition or {})},
        measured,
        source=name,
        times_from=words,
        slice_times=own,
    )


def read(path: str | os.PathLike[str], *, series: int | str | None = None) -> Volume:
    """Read a volume, or a stack of several, e.g. one for each flip angle or phase.

    A file may also be a Parametric Map.

    Without ``series``, single volumes of one grid that differ in their flip angle make up a stack,
    in the order of the angles.

    Raises
    ------
    KetyError
        As `read_series`.
    """
    if series is None and kind_of(path) == MAP:
        return read_map(path)
    found = find_series(path)
    angles = _flip_angles(found) if series is None else []
    chosen = angles or [found.choose(series, dynamic=False)]
    volumes = []
    for one in chosen:
        grid, phases = _arranged(one)
        volumes.append(load(Path(path), one.images, phases.images).data)
    _warn(found, chosen[0], source_name(chosen[0]))
    data = volumes[0][..., 0] if volumes[0].shape[3] == 1 else volumes[0]
    if angles:
        data = np.concatenate(volumes, axis=3)
    return Volume(data, grid.affine, source_name(chosen[0]), sidecar=_sidecar(chosen))


def source_headers(path: str | os.PathLike[str], series: int | str | None = None) -> list[Dataset]:
    """The headers, without pixels, that what is made of a series refers to.

    Parameters
    ----------
    path, series
        As of `read_series`.

    Returns
    -------
    One dataset for each file of the first phase, in the order of the slices; of a multi-frame file
    its one. Then one for each file of the other phases, with no more than identifies and places it.

    Raises
    ------
    KetyError
        As `read_series`.
    """
    import pydicom
    from pydicom.config import disable_value_validation

    chosen = find_series(path).choose(series, dynamic=False)
    _, phases = _arranged(chosen)
    files = list(dict.fromkeys(chosen.images[i].file for i in phases.images[:, 0]))
    lost: list[Problem] = []
    headers = {
        file: pydicom.dcmread(stream, stop_before_pixels=True)
        for file, stream in each_file(Path(path), lost.append, files)
    }
    if len(headers) != len(files):
        raise KetyError(f"{path}: images were lost while it was read; read it again")
    first = [headers[file] for file in files]
    later = [chosen.images[i] for i in phases.images[:, 1:].T.ravel()]
    shared: dict[Header, Dataset] = {}
    with disable_value_validation():  # its warnings repeat values, and so the patient
        return first + [
            _brief(image, first[0], shared) for image in later if image.file not in headers
        ]


def read_grid(path: str | os.PathLike[str], *, series: int | str | None = None) -> Volume:
    """The voxel grid of a series, or of a Parametric Map, as a volume without content.

    Raises
    ------
    KetyError
        As `read_series`.
    """
    if series is None and kind_of(path) == MAP:
        volume = read_map(path)
        return replace(volume, data=np.broadcast_to(np.int8(0), volume.shape))
    chosen = find_series(path).choose(series, dynamic=False)
    content = np.broadcast_to(np.int8(0), chosen.shape)
    return Volume(content, _arranged(chosen)[0].affine, source_name(chosen))


def _brief(image: Image, like: Dataset, shared: dict[Header, Dataset]) -> Dataset:
    """What identifies and places an image, as of another of its study.

    ``shared`` keeps what images of one header have in common: of thousands it is made once.
    """
    from pydicom.dataset import Dataset

    common = shared.get(image.header)
    if common is None:
        common = shared[image.header] = Dataset()
        for keyword in _SHARED:
            if keyword in like:
                common.add(like[keyword])
        common.SeriesInstanceUID = image.header.series
        common.ImageOrientationPatient = list(image.header.orientation)
        common.PixelSpacing = list(image.header.spacing)
    header = Dataset(dict(common.items()))
    header.SOPInstanceUID = image.uid
    header.ImagePositionPatient = list(image.position)
    return header


def source_name(series: FoundSeries) -> str:
    """What a series is called in reports and file names: no folder's name, it may be a patient's.

    e.g. ``series-4``, the scanner's number.
    """
    number = series.header.number
    return "series" if number is None else f"series-{number}"


def _arranged(series: FoundSeries) -> tuple[Stack, Phases]:
    assert series.stack is not None  # as of every series without a problem
    assert series.phases is not None
    return series.stack, series.phases


def _times(
    times: ArrayLike | str | os.PathLike[str] | None,
    series: FoundSeries,
    phases: Phases,
    name: str,
) -> tuple[NDArray[np.float64], str, NDArray[np.float64] | None]:
    """Times of the phases, where they came from, and the slices' own."""
    if times is None:
        if phases.times is None:
            raise KetyError(
                f"{name}: no frame times: {without_times(series.images)}; give the times in s or a "
                "CSV file of them"
            )
        words = f"{phases.times_from} in the headers"
        if phases.slice_times is not None:
            words += ", each slice's own"
        if phases.order_from != phases.times_from:
            words += f", phases by {phases.order_from}"
        return phases.times, words, phases.slice_times
    listed: Any = read_times(times) if isinstance(times, str | os.PathLike) else times
    # Those of the phases that are left may be given as well as those of all.
    kept = phases.kept
    if np.ndim(listed) == 1 and len(listed) == kept.sum():
        kept = np.ones(len(listed), dtype=np.bool_)
    given, words = frame_times(times, kept.size, name=name, sidecar={}, interval=None)
    return given[kept], f"{words}, phases by {phases.order_from}", None


def _flip_angles(found: Found) -> list[FoundSeries]:
    """The single volumes of a grid that differ in their flip angle, in its order; or none."""
    usable = [one for one in found.series if not one.aside]
    known = [dict(one.header.acquisition).get("flip_angle") for one in usable]
    angles = [angle for angle in known if angle is not None]
    if len(angles) < 2 or found.patients > 1 or len(set(angles)) < len(known):
        return []  # one, of several patients, or of equal or unknown angles
    first = usable[0]
    for one in usable:
        if one.frames != 1 or one.problem or one.shape != first.shape:
            return []
        apart = np.abs(_arranged(one)[0].affine - _arranged(first)[0].affine).max()
        if apart > GRID_TOLERANCE_MM:
            return []
    return [usable[index] for index in np.argsort(angles)]


def _sidecar(series: Sequence[FoundSeries]) -> dict[str, Any]:
    """The metadata of a volume or stack by BIDS names."""
    known = [dict(one.header.acquisition) for one in series]
    sidecar: dict[str, Any] = {"Modality": series[0].header.modality}
    sidecar |= {bids.FIELDS[name]: value for name, value in known[0].items()}
    if len(known) > 1:  # volumes of several flip angles
        sidecar["FlipAngle"] = [one["flip_angle"] for one in known]
    return sidecar


def _warn(found: Found, series: FoundSeries, name: str) -> None:
    """Say what was left out; `kety info` lists it."""
    phases = series.phases
    for note in () if phases is None else phases.notes:
        warnings.warn(f"{name}: {note}", stacklevel=3)
    unused = [problem for problem in found.problems if problem.reason != NOT_DICOM]
    if unused:
        first, *more = dict.fromkeys(problem.reason for problem in unused)
        why = f"{first}, …" if more else first
        files = (
            "1 file beside it is" if len(unused) == 1 else f"{len(unused):,} files beside it are"
        )
        warnings.warn(
            f"{name}: {files} not used ({why}); `kety info` lists what is not",
            stacklevel=3,
        )
