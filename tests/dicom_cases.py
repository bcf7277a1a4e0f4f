"""Small DICOM series as scanners write them: classic and enhanced, CT and MR, for the tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

NAME, PATIENT_ID, BORN = "Mustermann^Erika", "KH-4711-X", "19570823"
START = datetime(2024, 3, 5, 11, 58, 0)
CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "enhanced CT": "1.2.840.10008.5.1.4.1.1.2.1",
    "enhanced MR": "1.2.840.10008.5.1.4.1.1.4.1",
}
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
FLIPPED = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0)

Edit = Callable[[Dataset, int, int], Any]
Floats = NDArray[np.float64]


def oblique(angle: float = 0.3, tilt: float = 0.2) -> tuple[float, ...]:
    """Axial rows and columns, turned about two axes."""
    c, s, d, t = np.cos(angle), np.sin(angle), np.cos(tilt), np.sin(tilt)
    turned = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ [[1, 0, 0], [0, d, -t], [0, t, d]]
    return tuple(float(v) for v in (*turned[:, 0], *turned[:, 1]))


@dataclass
class Scan:
    """A dynamic series: what is in it and how it is described.

    ``stored`` is (X, Y, Z, T): columns, rows, slices along the normal, phases. ``times`` is (T,)
    or (Z, T) in s after `START`. ``spacing`` is between rows and between columns.
    """

    stored: NDArray[Any]
    times: Floats
    modality: str = "CT"
    orientation: tuple[float, ...] = AXIAL
    origin: tuple[float, ...] = (-31.25, 12.5, 100.0)
    spacing: tuple[float, float] = (1.5, 0.75)
    step: float = 4.0
    slope: float = 1.0
    intercept: float = -1024.0
    number: int = 4
    description: str = "perfusion"
    series: str = field(default_factory=lambda: str(generate_uid()))
    study: str = field(default_factory=lambda: str(generate_uid()))
    place: str = field(default_factory=lambda: str(generate_uid()))
    name: str = NAME
    patient: str = PATIENT_ID
    start: datetime = START

    @property
    def normal(self) -> Floats:
        return np.cross(self.orientation[:3], self.orientation[3:])

    @property
    def affine(self) -> Floats:
        """To RAS, written down straight from the definition."""
        across, down = np.array(self.orientation).reshape(2, 3)
        affine = np.eye(4)
        for axis, sign in enumerate((-1, -1, 1)):
            affine[axis, 0] = sign * across[axis] * self.spacing[1]
            affine[axis, 1] = sign * down[axis] * self.spacing[0]
            affine[axis, 2] = sign * self.normal[axis] * self.step
            affine[axis, 3] = sign * self.origin[axis]
        return affine

    def time(self, z: int, t: int) -> float:
        return float(self.times[t] if self.times.ndim == 1 else self.times[z, t])

    def position(self, z: int) -> list[float]:
        return [float(v) for v in np.array(self.origin) + z * self.step * self.normal]


def scan(
    modality: str = "CT",
    shape: tuple[int, int, int] = (6, 5, 3),
    times: Any = (0.0, 2.0, 4.5, 9.0),
    seed: int = 0,
    **settings: Any,
) -> Scan:
    """A series of random numbers, all of them different enough to notice a mistake."""
    times = np.asarray(times, dtype=float)
    stored = np.random.default_rng(seed).integers(0, 4096, (*shape, times.shape[-1]))
    if modality == "MR":
        settings = {"slope": 1.0, "intercept": 0.0, "description": "dynamic", **settings}
    return Scan(stored.astype(np.uint16), times, modality, **settings)


def moment(when: datetime, prefix: str, dataset: Dataset) -> None:
    setattr(dataset, f"{prefix}Date", when.strftime("%Y%m%d"))
    setattr(dataset, f"{prefix}Time", when.strftime("%H%M%S.%f"))


def write_classic(folder: Path, scan: Scan, edit: Edit | None = None) -> list[Path]:
    """One file for every slice and phase, their names in no order.

    ``edit`` changes a dataset before it is saved; where it returns False, it is not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _, _, slices, phases = scan.stored.shape
    shuffled = np.random.default_rng(1).permutation(slices * phases)
    paths = []
    for t in range(phases):
        for z in range(slices):
            dataset = classic(scan, z, t)
            if edit is not None and edit(dataset, z, t) is False:
                continue
            path = folder / f"IM{shuffled[t * slices + z]:05d}"
            dataset.save_as(path, enforce_file_format=True)
            paths.append(path)
    return paths


def classic(scan: Scan, z: int, t: int) -> FileDataset:
    """One image of a classic series."""
    slices = scan.stored.shape[2]
    dataset = _common(scan, CLASSES[scan.modality])
    when = scan.start + timedelta(seconds=scan.time(z, t))
    moment(when, "Acquisition", dataset)
    moment(when + timedelta(seconds=60), "Content", dataset)
    dataset.AcquisitionNumber = t + 1
    dataset.InstanceNumber = t * slices + z + 1
    dataset.ImagePositionPatient = [f"{v:.10g}" for v in scan.position(z)]
    dataset.ImageOrientationPatient = [f"{v:.12g}"[:16] for v in scan.orientation]
    dataset.PixelSpacing = list(scan.spacing)
    dataset.SliceThickness = scan.step
    if scan.modality == "CT":
        dataset.KVP = 100
        dataset.RescaleType = "HU"
        dataset.XRayTubeCurrent = 200
    else:
        dataset.RepetitionTime, dataset.EchoTime, dataset.FlipAngle = 4.2, 1.8, 20
        dataset.MRAcquisitionType = "3D"
        dataset.ScanningSequence, dataset.SequenceVariant = "GR", "SP"
    dataset.RescaleSlope, dataset.RescaleIntercept = scan.slope, scan.intercept
    dataset.PixelData = np.ascontiguousarray(scan.stored[:, :, z, t].T).tobytes()
    return dataset


def write_enhanced(path: Path, scan: Scan, edit: Edit | None = None) -> Path:
    """One multi-frame file, its frames in no order; ``edit`` changes a frame's group."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns, rows, slices, phases = scan.stored.shape
    dataset = _common(scan, CLASSES[f"enhanced {scan.modality}"])
    moment(scan.start, "Content", dataset)
    dataset.AcquisitionDateTime = scan.start.strftime("%Y%m%d%H%M%S.%f")
    dataset.InstanceNumber = 1
    dataset.NumberOfFrames = slices * phases
    if scan.modality == "MR":
        dataset.MRAcquisitionType = "3D"
    shared = Dataset()
    shared.PixelMeasuresSequence = _item(PixelSpacing=list(scan.spacing), SliceThickness=scan.step)
    shared.PlaneOrientationSequence = _item(
        ImageOrientationPatient=[f"{v:.12g}"[:16] for v in scan.orientation]
    )
    if scan.modality == "CT":
        shared.CTXRayDetailsSequence = _item(KVP=100.0)
    else:
        shared.MRTimingAndRelatedParametersSequence = _item(RepetitionTime=4.2, FlipAngle=20.0)
        shared.MREchoSequence = _item(EffectiveEchoTime=1.8)
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    order = np.random.default_rng(2).permutation(slices * phases)
    groups, pixels = [], []
    for index in order:
        t, z = divmod(int(index), slices)
        when = (scan.start + timedelta(seconds=scan.time(z, t))).strftime("%Y%m%d%H%M%S.%f")
        group = Dataset()
        group.FrameContentSequence = _item(
            FrameAcquisitionDateTime=when,
            FrameReferenceDateTime=when,
            TemporalPositionIndex=t + 1,
            InStackPositionNumber=z + 1,
        )
        group.PlanePositionSequence = _item(
            ImagePositionPatient=[f"{v:.10g}" for v in scan.position(z)]
        )
        group.PixelValueTransformationSequence = _item(
            RescaleSlope=scan.slope, RescaleIntercept=scan.intercept, RescaleType="US"
        )
        if edit is not None:
            edit(group, z, t)
        groups.append(group)
        pixels.append(np.ascontiguousarray(scan.stored[:, :, z, t].T))
    dataset.PerFrameFunctionalGroupsSequence = Sequence(groups)
    dataset.Rows, dataset.Columns = rows, columns
    dataset.PixelData = np.stack(pixels).tobytes()
    dataset.save_as(path, enforce_file_format=True)
    return path


def _common(scan: Scan, sop_class: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL" if scan.modality == "CT" else "M"]
    dataset.Modality, dataset.Manufacturer = scan.modality, "Testwerk"
    dataset.PatientName, dataset.PatientID = scan.name, scan.patient
    dataset.PatientBirthDate, dataset.PatientSex = BORN, "F"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = scan.study, scan.series
    dataset.FrameOfReferenceUID = scan.place
    dataset.SeriesNumber, dataset.SeriesDescription = scan.number, scan.description
    moment(scan.start, "Study", dataset)
    moment(scan.start, "Series", dataset)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Columns, dataset.Rows = scan.stored.shape[:2]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    return dataset


def _item(**elements: Any) -> Sequence:
    item = Dataset()
    for name, value in elements.items():
        setattr(item, name, value)
    return Sequence([item])
