"""What the header of one DICOM image says, without its pixels: small frozen records.

An image here is one plane: a classic file, or one frame of an enhanced multi-frame file (PS3.3,
C.7.6.16), whose functional groups are laid out flat.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO, Final

from kety.io.dicom.clock import Moment, datetime, day_time
from kety.io.dicom.elements import EXPLICIT_BIG, NATIVE, Elements, NotReadable, read_elements
from kety.io.dicom.groups import PHILIPS_SCALE, frame_values
from kety.io.dicom.privacy import Words, patient_digest, patient_words
from kety.io.dicom.values import Values
from kety.units import MILLISECONDS_PER_SECOND

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
CLASSIC: Final = (CT, MR)
ENHANCED: Final = (CT + ".1", MR + ".1", CT + ".2", MR + ".4")
"""Enhanced, and legacy converted enhanced, CT and MR."""
IMAGES: Final = (*CLASSIC, *ENHANCED)

# Tags by the keywords of PS3.6.
_TAGS: Final[Mapping[str, int]] = {
    "SpecificCharacterSet": 0x00080005,
    "ImageType": 0x00080008,
    "SOPClassUID": 0x00080016,
    "SOPInstanceUID": 0x00080018,
    "AcquisitionDate": 0x00080022,
    "ContentDate": 0x00080023,
    "AcquisitionDateTime": 0x0008002A,
    "StudyDate": 0x00080020,
    "AcquisitionTime": 0x00080032,
    "ContentTime": 0x00080033,
    "Modality": 0x00080060,
    "Manufacturer": 0x00080070,
    "TimezoneOffsetFromUTC": 0x00080201,
    "SeriesDescription": 0x0008103E,
    "PatientName": 0x00100010,
    "PatientID": 0x00100020,
    "PatientBirthDate": 0x00100030,
    "MRAcquisitionType": 0x00180023,
    "SliceThickness": 0x00180050,
    "KVP": 0x00180060,
    "RepetitionTime": 0x00180080,
    "EchoTime": 0x00180081,
    "ProtocolName": 0x00181030,
    "TriggerTime": 0x00181060,
    "ConvolutionKernel": 0x00181210,
    "FlipAngle": 0x00181314,
    "StudyInstanceUID": 0x0020000D,
    "SeriesInstanceUID": 0x0020000E,
    "SeriesNumber": 0x00200011,
    "AcquisitionNumber": 0x00200012,
    "InstanceNumber": 0x00200013,
    "ImagePositionPatient": 0x00200032,
    "ImageOrientationPatient": 0x00200037,
    "FrameOfReferenceUID": 0x00200052,
    "TemporalPositionIdentifier": 0x00200100,
    "SamplesPerPixel": 0x00280002,
    "NumberOfFrames": 0x00280008,
    "Rows": 0x00280010,
    "Columns": 0x00280011,
    "PixelSpacing": 0x00280030,
    "BitsAllocated": 0x00280100,
    "BitsStored": 0x00280101,
    "HighBit": 0x00280102,
    "PixelRepresentation": 0x00280103,
    "PixelPaddingValue": 0x00280120,
    "PixelPaddingRangeLimit": 0x00280121,
    "RescaleIntercept": 0x00281052,
    "RescaleSlope": 0x00281053,
    "PhilipsScaleSlope": PHILIPS_SCALE,
}
_BINARY: Final[Mapping[int, bytes]] = {
    **{tag: b"US" for tag in _TAGS.values() if tag >> 16 == 0x0028},
    **{_TAGS[name]: b"" for name in ("NumberOfFrames", "PixelSpacing")},
    **{_TAGS[name]: b"" for name in ("RescaleIntercept", "RescaleSlope")},
    _TAGS["PhilipsScaleSlope"]: b"FL",
}
_WANTED: Final = frozenset(_TAGS.values())
_NEEDED: Final = (
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "Rows",
    "Columns",
    "BitsAllocated",
    "PixelSpacing",
    "ImageOrientationPatient",
    "ImagePositionPatient",
)


@dataclass(frozen=True, slots=True)
class Header:
    """What images have in common that can be put side by side: whose, which series, how made.

    ``patient`` is a digest; names, identifiers and birth dates are not kept. Geometry is DICOM's:
    ``spacing`` between rows and between columns in mm, ``orientation`` the direction of a row and
    of a column. ``acquisition`` has kety's names and units (s, degrees, kV). ``protocol`` is
    whatever else must agree. ``volumetric`` tells an MR acquisition that is three-dimensional.
    ``padding`` are the first and last stored value of pixels that were not measured.
    """

    patient: str
    study: str
    study_date: str
    series: str
    number: int | None
    description: str
    modality: str
    image_type: tuple[str, ...]
    protocol: tuple[str, ...]
    frame_of_reference: str
    rows: int
    columns: int
    spacing: tuple[float, float]
    orientation: tuple[float, ...]
    thickness: float
    volumetric: bool
    acquisition: tuple[tuple[str, float], ...]
    syntax: str
    bits: tuple[int, int, int]
    signed: bool
    padding: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Image:
    """One plane: where it lies in space, in time and on the disk.

    ``offset`` is the byte at which its native pixels begin in the file, 0 where a decoder is
    needed. ``philips`` is Philips' private scale slope, 0 where there is none. ``delay`` is the
    temporal position's own time in s, ``trigger`` the trigger time in ms.
    """

    file: str
    frame: int
    uid: str
    header: Header
    instance: int | None
    acquisition: int | None
    position: tuple[float, float, float]
    temporal: int | None
    delay: float | None
    acquired: Moment | None
    acquired_clock: Moment | None
    created: Moment | None
    trigger: float | None
    slope: float
    intercept: float
    philips: float
    offset: int


@dataclass(frozen=True, slots=True)
class Other:
    """A DICOM object that is no CT or MR image, such as a dose report."""

    sop_class: str
    modality: str


class HeaderReader:
    """Reads headers, and keeps one copy of what many have in common.

    Attributes
    ----------
    words
        Parts of the patients' names and identifiers, lower case, that must not be shown.
    """

    def __init__(self) -> None:
        self.words: Words = set()
        self._headers: dict[Header, Header] = {}

    def read(self, stream: BinaryIO, file: str) -> list[Image] | Other:
        """Read one file: its image, or one for each of its frames.

        Raises
        ------
        NotReadable
            If it is not DICOM, damaged, or lacks what an image must have.
        """
        found = read_elements(stream, _WANTED, _BINARY, IMAGES)
        values = Values({name: found.values.get(tag, "") for name, tag in _TAGS.items()})
        name = _decoded(values.text("PatientName"), values.text("SpecificCharacterSet"))
        self.words |= patient_words(values.text("PatientID"), name)
        sop_class = values.text("SOPClassUID")
        if sop_class in CLASSIC:
            return [self._image(values, found, file, 0, 1)]
        if sop_class not in ENHANCED:
            return Other(sop_class, values.text("Modality"))
        frames = frame_values(stream, values.values)
        return [
            self._image(Values(one), found, file, frame, len(frames))
            for frame, one in enumerate(frames)
        ]

    def _image(self, values: Values, found: Elements, file: str, frame: int, of: int) -> Image:
        missing = [name for name in _NEEDED if not values.text(name)]
        if missing:
            raise NotReadable(f"lacks {', '.join(missing)}")
        if not found.length and found.syntax in NATIVE:
            raise NotReadable("has no pixels")
        if values.whole("SamplesPerPixel", 1) != 1:
            raise NotReadable("is a colour image")
        header = _header(values, found.syntax)
        offset = _offset(header, found, frame, of)
        zone = values.text("TimezoneOffsetFromUTC")
        clock = values.text("AcquisitionTime")
        position = values.numbers("ImagePositionPatient", 3)
        return Image(
            file=file,
            frame=frame,
            uid=values.text("SOPInstanceUID"),
            header=self._headers.setdefault(header, header),
            instance=values.whole("InstanceNumber"),
            acquisition=values.whole("AcquisitionNumber"),
            position=(position[0], position[1], position[2]),
            temporal=values.whole("TemporalPositionIdentifier"),
            delay=values.number("TemporalPositionTimeOffset"),
            acquired=datetime(
                values.text("FrameReferenceDateTime") or values.text("AcquisitionDateTime"), zone
            ),
            acquired_clock=day_time(values.text("AcquisitionDate"), clock, zone),
            created=day_time(values.text("ContentDate"), values.text("ContentTime"), zone),
            trigger=values.number("TriggerTime"),
            slope=values.number("RescaleSlope") or 1.0,
            intercept=values.number("RescaleIntercept") or 0.0,
            philips=_philips(values),
            offset=offset,
        )


def _header(values: Values, syntax: str) -> Header:
    spacing = values.numbers("PixelSpacing", 2)
    bits = values.whole("BitsAllocated", 16) or 16
    stored = values.whole("BitsStored", bits) or bits
    high = values.whole("HighBit", stored - 1)
    signed = values.whole("PixelRepresentation", 0) == 1
    rows, columns = values.whole("Rows") or 0, values.whole("Columns") or 0
    if min(rows, columns) < 1:
        raise NotReadable(f"has {rows} rows and {columns} columns")
    return Header(
        patient=patient_digest(
            values.text("PatientID"), values.text("PatientName"), values.text("PatientBirthDate")
        ),
        study=values.text("StudyInstanceUID"),
        study_date=values.text("StudyDate"),
        series=values.text("SeriesInstanceUID"),
        number=values.whole("SeriesNumber"),
        description=_decoded(values.text("SeriesDescription"), values.text("SpecificCharacterSet")),
        modality="CT" if values.text("SOPClassUID").startswith(CT) else "MR",
        image_type=tuple(part.strip().upper() for part in values.text("ImageType").split("\\")),
        protocol=(values.text("ProtocolName"), values.text("ConvolutionKernel")),
        frame_of_reference=values.text("FrameOfReferenceUID"),
        rows=rows,
        columns=columns,
        spacing=(spacing[0], spacing[1]),
        orientation=values.numbers("ImageOrientationPatient", 6),
        thickness=values.number("SliceThickness") or 0.0,
        volumetric=values.text("MRAcquisitionType") == "3D",
        acquisition=tuple(_acquisition(values)),
        syntax=syntax,
        bits=(bits, stored, stored - 1 if high is None else high),
        signed=signed,
        padding=_padding(values, bits if signed else 0),
    )


def _padding(values: Values, signed_bits: int) -> tuple[int, int] | None:
    """The range of stored values that stand for no measurement (PS3.3, C.7.5.1.1.2)."""
    value = values.whole("PixelPaddingValue")
    if value is None:
        return None
    limit = values.whole("PixelPaddingRangeLimit", value)
    ends = [value, value if limit is None else limit]
    if signed_bits:
        # Written as an unsigned number, by mistake or since the implicit encoding is not known.
        ends = [end - (1 << signed_bits) if end >> (signed_bits - 1) > 0 else end for end in ends]
    return min(ends), max(ends)


def _acquisition(values: Values) -> Iterator[tuple[str, float]]:
    """What is known of the acquisition, in kety's names and units."""
    for name, keyword, per_unit in (
        ("repetition_time", "RepetitionTime", MILLISECONDS_PER_SECOND),
        ("echo_time", "EchoTime", MILLISECONDS_PER_SECOND),
        ("flip_angle", "FlipAngle", 1.0),
        ("kvp", "KVP", 1.0),
    ):
        value = values.number(keyword)
        if value is not None and value > 0:
            yield name, value / per_unit


def _offset(header: Header, found: Elements, frame: int, of: int) -> int:
    """Where the frame's pixels begin; 0 where they need a decoder."""
    allocated, stored, high = header.bits
    simple = allocated == 16 or (allocated == 8 and header.syntax != EXPLICIT_BIG)
    if not found.length or not simple or high != stored - 1:
        return 0
    size = header.rows * header.columns * allocated // 8
    if found.length < size * of:
        raise NotReadable(
            f"has pixels of {found.length:,} bytes for {of} of {header.rows} × {header.columns} "
            f"with {allocated} bits"
        )
    return found.offset + frame * size


def _philips(values: Values) -> float:
    if "PHILIPS" not in values.text("Manufacturer").upper():
        return 0.0
    return values.number("PhilipsScaleSlope") or 0.0


def _decoded(text: str, character_set: str) -> str:
    if (text.isascii() and "\x1b" not in text) or not character_set:
        return text
    from pydicom.charset import convert_encodings, decode_bytes
    from pydicom.valuerep import TEXT_VR_DELIMS

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they repeat what must not be shown
        try:
            encodings = convert_encodings(character_set.split("\\"))
            return decode_bytes(text.encode("latin-1"), encodings, set(TEXT_VR_DELIMS))
        except (LookupError, UnicodeError):
            return text
