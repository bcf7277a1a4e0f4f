"""What an object is derived from: patient, study and images, or a study of its own where none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from kety.errors import KetyError
from kety.io.dicom.codes import Code
from kety.io.dicom.frames import PARALLEL, Frames, snapped
from kety.io.dicom.headers import CT
from kety.io.dicom.multiframe import planes_of
from kety.io.dicom.references import References, refer, references_of
from kety.version import __version__

if TYPE_CHECKING:
    from pydicom import Dataset

MAKER: Final = "kety"
_PLACE: Final = {"ImageOrientationPatient": 6, "ImagePositionPatient": 3, "PixelSpacing": 2}
# Type 2 in every object: may be empty, must be there.
_EMPTY: Final = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)

# What a multi-frame image has, and a single-frame one must not.
_OF_FRAMES: Final = (
    "PerFrameFunctionalGroupsSequence",
    "SharedFunctionalGroupsSequence",
    "NumberOfFrames",
    "DimensionIndexSequence",
    "DimensionOrganizationSequence",
)


@dataclass(frozen=True, eq=False)
class SourceFrame:
    """One frame of a source image: of which object, and where it lies (LPS, mm)."""

    sop_class: str
    sop_instance: str
    series: str
    number: int | None
    position: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Origin:
    """What the objects of one fit, or one mask, share.

    Attributes
    ----------
    header
        Patient, study and frame of reference, as of one image of the source, but who the patient
        is: highdicom repeats in its warnings what it finds odd.
    identity
        The elements that say who that is.
    frames
        The source's frames; empty for a study of its own.
    orientation, spacing
        Of these frames: (2, 3) in LPS, and the distances between rows and columns in mm.
    shape
        Their rows and columns.
    places
        (P, 3), where they lie, each place once.
    """

    header: Dataset
    identity: Dataset
    frames: tuple[SourceFrame, ...] = ()
    orientation: NDArray[np.float64] | None = None
    spacing: tuple[float, float] = (1.0, 1.0)
    shape: tuple[int, int] = (0, 0)
    places: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 3)))
    _made: dict[bytes, References] = field(default_factory=dict)

    def references(self, frames: Frames, derivation: Code) -> References:
        """What frames of one grid refer to, made once for all objects on it."""
        grid = frames.positions.tobytes() + derivation.value.encode()
        if grid not in self._made:
            self._made[grid] = references_of(self, frames, derivation)
        return self._made[grid]

    def aligned(self, frames: Frames) -> Frames:
        """The frames with the very numbers of the source's where they agree."""
        if self.orientation is None:
            return frames
        return snapped(frames, self.orientation, self.spacing, self.places)


def origin_of(images: Sequence[Dataset] | None) -> Origin:
    """What is derived from these images; without any, a new study of nobody.

    Parameters
    ----------
    images
        Headers of single-frame images of one series, or of multi-frame ones; pixels are not used.

    Raises
    ------
    KetyError
        If they lack what identifies them or says where they lie, or are not of one patient's study
        and one orientation.
    """
    from pydicom import Dataset
    from pydicom.config import disable_value_validation
    from pydicom.uid import generate_uid

    header = Dataset()
    if not images:
        study = generate_uid(prefix=None)
        header.PatientName = "Anonymous^"
        header.PatientID = f"{MAKER}-{study.rpartition('.')[2][-12:]}"
        header.StudyInstanceUID = study
        header.StudyID = "1"
        now = datetime.now()
        header.StudyDate, header.StudyTime = f"{now:%Y%m%d}", f"{now:%H%M%S}"
        header.SpecificCharacterSet = "ISO_IR 192"
        return Origin(*_template(header))
    with disable_value_validation():  # its warnings repeat values, and so the patient
        for element in images[0]:
            header.add(copy(element))
        for image in images:
            _check(image, images[0])
        planes = [plane for image in images for plane in _frames(image)]
    found, orientations, spacings = zip(*planes, strict=True)
    orientation, spacing = orientations[0], spacings[0]
    if np.abs(np.stack(orientations) - orientation).max() > PARALLEL:
        raise KetyError(
            "the source images do not share one orientation; give the headers of one series"
        )
    shape = int(images[0].Rows), int(images[0].Columns)
    template = _template(header, orientation, spacing, found[0].position, shape)
    places = np.unique([one.position for one in found], axis=0)
    return Origin(*template, found, orientation, spacing, shape, places)


def derive(dataset: Dataset, frames: Frames, origin: Origin, derivation: Code) -> None:
    """Name an object's patient, and make its frames refer to the source's frames at their place."""
    for element in origin.identity:
        dataset.add(element)
    refer(dataset, origin.references(frames, derivation), frames)


def equipment() -> dict[str, Any]:
    """What every object says of the software that made it."""
    return {
        "manufacturer": MAKER,
        "manufacturer_model_name": MAKER,
        "software_versions": __version__,
        "device_serial_number": __version__,
    }


def _check(image: Dataset, first: Dataset) -> None:
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        if not image.get(keyword):
            raise KetyError(f"a source image has no {keyword}; give the headers of the series")
    for keyword in ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        if image.get(keyword) != first.get(keyword):
            raise KetyError(
                f"the source images differ in {keyword}; give the headers of one series"
            )


def _frames(
    image: Dataset,
) -> Iterator[tuple[SourceFrame, NDArray[np.float64], tuple[float, float]]]:
    """The frames of an image, with their orientation and spacing."""
    name = "a source image"
    multiframe = "PerFrameFunctionalGroupsSequence" in image
    if multiframe:
        planes = planes_of(image, name)
        orientations, positions, spacing = planes.orientation, planes.position, planes.spacing
    else:
        found = {}
        for keyword, count in _PLACE.items():
            found[keyword] = np.array(image.get(keyword) or [], dtype=np.float64)
            if found[keyword].size != count:
                raise KetyError(
                    f"{name} has no {keyword}, so its place is not known; give the headers of the "
                    "series, with their geometry"
                )
        orientation, position, distance = found.values()
        orientations, positions = orientation.reshape(1, 2, 3), position[None]
        spacing = float(distance[0]), float(distance[1])
    for number, (orientation, position) in enumerate(
        zip(orientations, positions, strict=True), start=1
    ):
        frame = SourceFrame(
            str(image.SOPClassUID),
            str(image.SOPInstanceUID),
            str(image.SeriesInstanceUID),
            number if multiframe else None,
            position,
        )
        yield frame, orientation, spacing


def _template(
    header: Dataset,
    orientation: NDArray[np.float64] | None = None,
    spacing: tuple[float, float] = (1.0, 1.0),
    position: Any = (0.0, 0.0, 0.0),
    shape: tuple[int, int] = (1, 1),
) -> tuple[Dataset, Dataset]:
    """A single-frame image with all that highdicom asks of a source, and the patient's identity."""
    from pydicom import Dataset
    from pydicom.uid import generate_uid

    identity = Dataset()
    for keyword in _EMPTY:
        if header.get(keyword):
            identity.add(copy(header[keyword]))
        setattr(header, keyword, "")
    for keyword in ("FrameOfReferenceUID", "SOPInstanceUID", "SeriesInstanceUID"):
        if not header.get(keyword):
            setattr(header, keyword, generate_uid(prefix=None))
    for keyword in _OF_FRAMES:
        if keyword in header:
            delattr(header, keyword)
    header.SOPClassUID = CT
    header.Rows, header.Columns = shape
    directions = np.eye(3)[:2] if orientation is None else orientation
    header.ImageOrientationPatient = [float(f"{x:.12f}") for x in directions.ravel()]
    header.ImagePositionPatient = [float(f"{x:.10g}") for x in position]
    header.PixelSpacing = [float(f"{x:.10g}") for x in spacing]
    header.SliceThickness = 1.0
    return header, identity
