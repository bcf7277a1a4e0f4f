"""A CT series as a scanner exports it: one classic DICOM file for every slice and phase.

The headers are those of the CT Image information object (DICOM PS3.3, A.3) with a made-up patient.
Times stand where readers look for them: acquisition date-time, acquisition and content time of
every slice, and the number of the phase as temporal position.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from kety.errors import KetyError
from kety.io.atomic import new_folder
from kety.io.dicom.elements import encoded
from kety.io.dicom.frames import LPS
from kety.io.dicom.headers import CT
from kety.io.dicom.identifiers import uid_of
from kety.series import Series
from kety.version import __version__

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

NAMES: Final = "CT??????.dcm"
"""Pattern of the files' names."""
PATIENT: Final = "Nobody^"
PATIENT_ID: Final = "NOBODY"
AIR: Final = -1024
"""HU of a stored 0."""
LARGEST: Final = 4095
"""Of 12 stored bits."""
_PARALLEL: Final = 1e-6


@dataclass(frozen=True)
class Exposure:
    """What a CT scanner writes of its exposures, and when the first of them was.

    Attributes
    ----------
    kvp
        Peak tube voltage, kV.
    current
        Tube current, mA.
    rotation
        Exposure time of a slice, s.
    start
        Date and time at which the series' clock is 0.
    """

    kvp: float = 100.0
    current: float = 150.0
    rotation: float = 0.5
    start: datetime = datetime(2000, 1, 1, 12)


def write_ct_series(
    series: Series, folder: str | os.PathLike[str], exposure: Exposure | None = None
) -> list[Path]:
    """Write a CT series as DICOM, one file for every slice and phase.

    Unique identifiers come from a digest of the data, times and grid, so that equal series give
    equal files and others never share an identifier.

    Parameters
    ----------
    series
        CT numbers of whole HU from -1024 to 3071, on perpendicular axes, the third of which runs
        along the slices' normal (first axis x second axis). Its mask is not written.
    folder
        Appears when all files are written. An earlier series of this function in it is replaced.
    exposure
        What the headers say of it. By default the tube voltage is the series' own where it has one.

    Returns
    -------
    The files, phase by phase from the first slice to the last.

    Raises
    ------
    KetyError
        If the series is of another modality, its numbers cannot be stored or its axes do not fit.
    OutputError
        If the folder holds other files, or cannot be written.
    """
    if series.modality != "CT":
        raise KetyError(f"{series.source}: is {series.modality}; only CT can be written as CT")
    exposure = exposure or Exposure(kvp=series.acquisition.get("kvp", Exposure.kvp))
    with new_folder(folder, replacing=NAMES) as place:
        for number, content in enumerate(_files(series, exposure), start=1):
            (place / f"CT{number:06d}.dcm").write_bytes(content)
    return [Path(folder) / f"CT{n:06d}.dcm" for n in range(1, number + 1)]


def _files(series: Series, exposure: Exposure) -> Iterator[bytes]:
    """Content of every file. What files share is encoded once, and what they do not without
    pydicom: this takes a twentieth of the time that it takes to encode every file as a whole."""
    identity = _identity(series, exposure)
    _, _, slices, phases = series.data.shape
    times = series.slice_times
    if times is None:
        times = np.broadcast_to(series.times, (slices, phases))
    meta, common = _meta(), _encoded(_common(series, exposure, identity))
    grid = _geometry(series)
    planes = [_encoded(_plane(grid, index)) for index in range(slices)]
    instance = 0
    for phase in range(phases):
        for index in range(slices):
            instance += 1
            uid = uid_of(identity, "instance", instance)
            pixels = _stored(series.data[:, :, index, phase], series.source)
            when = exposure.start + timedelta(seconds=float(times[index, phase]))
            parts = common | planes[index] | _image(uid, instance, phase + 1, when)
            parts[0x7FE00010] = encoded(0x7FE00010, b"OW", pixels.tobytes(order="F"))
            yield _head(meta, uid) + b"".join(parts[tag] for tag in sorted(parts))


def _common(series: Series, exposure: Exposure, identity: bytes) -> Dataset:
    """What is the same in all files."""
    from pydicom.dataset import Dataset

    rows, columns = series.shape[1], series.shape[0]
    day, clock = f"{exposure.start:%Y%m%d}", f"{exposure.start:%H%M%S}"
    values: dict[str, Any] = {
        "SOPClassUID": CT,
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "StudyDate": day,
        "SeriesDate": day,
        "StudyTime": clock,
        "SeriesTime": clock,
        "AccessionNumber": "",
        "Modality": "CT",
        "Manufacturer": "kety",
        "ManufacturerModelName": "simulated scanner",
        "SoftwareVersions": __version__,
        "ReferringPhysicianName": "",
        "StudyDescription": "Simulated perfusion CT",
        "SeriesDescription": f"Perfusion, {series.source}",
        "PatientName": PATIENT,
        "PatientID": PATIENT_ID,
        "PatientBirthDate": "",
        "PatientSex": "O",
        "PatientComments": "Simulated; there is no patient",
        "PatientPosition": "HFS",
        "BodyPartExamined": "ABDOMEN",
        "ContrastBolusAgent": "simulated",
        "KVP": _decimal(exposure.kvp),
        "XRayTubeCurrent": round(exposure.current),
        "ExposureTime": round(1000 * exposure.rotation),
        "Exposure": round(exposure.current * exposure.rotation),
        "StudyInstanceUID": uid_of(identity, "study"),
        "SeriesInstanceUID": uid_of(identity, "series"),
        "FrameOfReferenceUID": uid_of(identity, "frame of reference"),
        "StudyID": "1",
        "SeriesNumber": 1,
        "PositionReferenceIndicator": "",
        "NumberOfTemporalPositions": series.data.shape[3],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": rows,
        "Columns": columns,
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "WindowCenter": 60,
        "WindowWidth": 400,
        "RescaleIntercept": AIR,
        "RescaleSlope": 1,
        "RescaleType": "HU",
    }
    dataset = Dataset()
    for name, value in values.items():
        setattr(dataset, name, value)
    return dataset


@dataclass(frozen=True)
class _Grid:
    """The slices in the patient's axes of DICOM (toward left, back and head), mm."""

    rows: NDArray[np.float64]
    columns: NDArray[np.float64]
    normal: NDArray[np.float64]
    first: NDArray[np.float64]
    spacing: NDArray[np.float64]


def _geometry(series: Series) -> _Grid:
    """The grid of a series; KetyError where its axes are no stack of slices."""
    affine = LPS @ series.affine
    axes = affine[:3, :3]
    spacing = np.linalg.norm(axes, axis=0)
    rows, columns, normal = (axes / spacing).T
    if np.abs(np.cross(rows, columns) - normal).max() > _PARALLEL:
        raise KetyError(
            f"{series.source}: its axes are no stack of slices, each above the other along first "
            f"axis x second axis; found the affine {series.affine.tolist()}; resample or flip it"
        )
    return _Grid(rows, columns, normal, affine[:3, 3], spacing)


def _plane(grid: _Grid, index: int) -> Dataset:
    """Where a slice lies."""
    from pydicom.dataset import Dataset

    position = grid.first + index * grid.spacing[2] * grid.normal
    dataset = Dataset()
    dataset.SliceThickness = _decimal(grid.spacing[2])
    dataset.SpacingBetweenSlices = _decimal(grid.spacing[2])
    dataset.PixelSpacing = [_decimal(grid.spacing[1]), _decimal(grid.spacing[0])]
    dataset.ImageOrientationPatient = [_decimal(x) for x in (*grid.rows, *grid.columns)]
    dataset.ImagePositionPatient = [_decimal(x) for x in position]
    dataset.SliceLocation = _decimal(position @ grid.normal)
    return dataset


def _image(uid: str, instance: int, phase: int, when: datetime) -> dict[int, bytes]:
    """What only one file says, its identity and its time, by tag."""
    day, clock = f"{when:%Y%m%d}", f"{when:%H%M%S.%f}"
    elements = (
        (0x00080018, b"UI", uid),  # SOP Instance UID
        (0x00080022, b"DA", day),  # Acquisition Date
        (0x00080023, b"DA", day),  # Content Date
        (0x0008002A, b"DT", day + clock),  # Acquisition DateTime
        (0x00080032, b"TM", clock),  # Acquisition Time
        (0x00080033, b"TM", clock),  # Content Time
        (0x00200012, b"IS", str(phase)),  # Acquisition Number
        (0x00200013, b"IS", str(instance)),  # Instance Number
        (0x00200100, b"IS", str(phase)),  # Temporal Position Identifier
    )
    return {tag: encoded(tag, kind, value.encode()) for tag, kind, value in elements}


def _stored(image: NDArray[Any], name: str) -> NDArray[np.uint16]:
    """HU as stored numbers; KetyError where they are not whole or out of range."""
    stored = image.astype(np.float64) - AIR
    with np.errstate(invalid="ignore"):
        whole = stored.astype(np.uint16)
    if not np.array_equal(whole, stored) or whole.max() > LARGEST:
        raise KetyError(
            f"{name}: holds CT numbers that are not whole HU from {AIR} to {AIR + LARGEST}, which "
            "is what a CT image stores; round and clip them"
        )
    return whole


def _encoded(dataset: Dataset) -> dict[int, bytes]:
    """Every element of a dataset as explicit little-endian bytes, by its tag."""
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_data_element

    encoded = {}
    for element in dataset:
        stream = DicomBytesIO()
        stream.is_little_endian, stream.is_implicit_VR = True, False
        write_data_element(stream, element)
        encoded[int(element.tag)] = stream.getvalue()
    return encoded


def _meta() -> dict[int, bytes]:
    """The file's meta information, which says how the rest is encoded, but for its own two."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, UID, ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\0\1"
    meta.MediaStorageSOPClassUID = UID(CT)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    return _encoded(meta)


def _head(meta: dict[int, bytes], uid: str) -> bytes:
    """The head of a file: 128 empty bytes, the mark of DICOM and the meta information."""
    instance = 0x00020003
    parts = meta | {instance: encoded(instance, b"UI", uid.encode())}
    content = b"".join(parts[tag] for tag in sorted(parts))
    length = encoded(0x00020000, b"UL", struct.pack("<L", len(content)))
    return bytes(128) + b"DICM" + length + content


def _identity(series: Series, exposure: Exposure) -> bytes:
    """A digest of everything that a series' files hold."""
    digest = hashlib.sha256(repr((exposure, __version__)).encode())
    for array in (series.times, series.slice_times, series.affine):
        digest.update(b"" if array is None else array.tobytes())
    digest.update(repr((series.data.shape, series.data.dtype.str, series.source)).encode())
    for phase in range(series.data.shape[3]):
        digest.update(series.data[..., phase].tobytes())
    return digest.digest()


def _decimal(value: float) -> str:
    """A decimal string: at most 16 characters, no negative zero."""
    from pydicom.valuerep import format_number_as_ds

    return format_number_as_ds(float(value) + 0.0)
