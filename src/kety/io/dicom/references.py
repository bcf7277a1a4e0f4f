"""What the frames of an object refer to: the images at their place, encoded once for all maps.

A fit has dozens of maps and its series thousands of images; to build and encode each reference with
pydicom, for every map again, would take longer than everything else that is written.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from kety.io.dicom.codes import Code
from kety.io.dicom.elements import encoded
from kety.io.dicom.frames import PARALLEL, Frames

if TYPE_CHECKING:
    from pydicom import Dataset

    from kety.io.dicom.origin import Origin, SourceFrame

_PURPOSE: Final = Code("121322", "DCM", "Source image for image processing operation")

# Tags (PS3.6).
_SOP_CLASS, _SOP_INSTANCE, _FRAME = 0x00081150, 0x00081155, 0x00081160
_SERIES, _INSTANCES, _SERIES_UID = 0x00081115, 0x0008114A, 0x0020000E
_CODE, _SCHEME, _MEANING = 0x00080100, 0x00080102, 0x00080104
_DERIVATION, _SOURCES, _DERIVATION_CODE = 0x00089124, 0x00082112, 0x00089215
_PURPOSE_CODE, _PRESERVED = 0x0040A170, 0x0028135A


@dataclass(frozen=True, eq=False)
class References:
    """References of objects on one grid: contents of sequences, in explicit VR little endian.

    Attributes
    ----------
    series
        All images, by series; empty for a study of its own.
    frames
        Those at the place of a frame, by the depth of the frame in units of 0.001 mm.
    """

    series: bytes = b""
    frames: tuple[tuple[int, bytes], ...] = ()


def references_of(origin: Origin, frames: Frames, derivation: Code) -> References:
    """The images that frames derive from.

    An image is at the place of a frame where its plane lies within half the distance between
    frames of it: all phases of a dynamic series, all slices that a thicker one averages.
    """
    if origin.orientation is None:
        return References()
    series = _by_series(origin)
    normal = frames.normal
    if abs(float(np.cross(*origin.orientation) @ normal)) < 1 - PARALLEL:
        return References(series)  # no plane of the source is one of these
    depth = np.array([one.position for one in origin.frames]) @ normal
    same_grid = frames.pixels.shape[1:] == origin.shape and np.allclose(
        frames.spacing, origin.spacing, rtol=1e-5
    )
    common = _sequence(_PURPOSE_CODE, _coded(_PURPOSE))
    preserved = encoded(_PRESERVED, b"CS", b"YES" if same_grid else b"NO")
    made = []
    for at in frames.positions @ normal:
        near = np.flatnonzero(np.abs(depth - at) <= 0.499 * frames.thickness)
        if near.size:
            sources = (_instance(origin.frames[i]) + preserved + common for i in near)
            item = _sequence(_SOURCES, *sources) + _sequence(_DERIVATION_CODE, _coded(derivation))
            made.append((_key(at), _item(item)))
    return References(series, tuple(made))


def refer(dataset: Dataset, references: References, frames: Frames) -> None:
    """Replace what an object and its frames refer to."""
    from pydicom.filewriter import correct_ambiguous_vr

    for keyword in ("SourceImageSequence", "ReferencedSeriesSequence"):
        if keyword in dataset:
            delattr(dataset, keyword)
    groups = dataset.PerFrameFunctionalGroupsSequence
    for item in groups:
        if "DerivationImageSequence" in item:
            del item.DerivationImageSequence
    if not references.series:
        return
    # Writing takes the object for one that was read in this encoding, and so no longer settles
    # which of two value representations an element has.
    correct_ambiguous_vr(dataset, True)
    _add(dataset, _SERIES, references.series, dataset)
    by_depth = dict(references.frames)
    for item in groups:
        position = np.array(item.PlanePositionSequence[0].ImagePositionPatient, dtype=np.float64)
        found = by_depth.get(_key(float(position @ frames.normal)))
        if found is not None:
            _add(item, _DERIVATION, found, dataset)


def _key(depth: float) -> int:
    return round(depth * 1000)


def _by_series(origin: Origin) -> bytes:
    instances: dict[str, dict[str, bytes]] = {}
    for one in origin.frames:
        reference = encoded(_SOP_CLASS, b"UI", one.sop_class.encode())
        reference += encoded(_SOP_INSTANCE, b"UI", one.sop_instance.encode())
        instances.setdefault(one.series, {}).setdefault(one.sop_instance, reference)
    return b"".join(
        _item(_sequence(_INSTANCES, *found.values()) + encoded(_SERIES_UID, b"UI", uid.encode()))
        for uid, found in instances.items()
    )


def _instance(frame: SourceFrame) -> bytes:
    content = encoded(_SOP_CLASS, b"UI", frame.sop_class.encode())
    content += encoded(_SOP_INSTANCE, b"UI", frame.sop_instance.encode())
    if frame.number is not None:
        content += encoded(_FRAME, b"IS", str(frame.number).encode())
    return content


def _coded(code: Code) -> bytes:
    content = encoded(_CODE, b"SH", code.value.encode())
    content += encoded(_SCHEME, b"SH", code.scheme.encode())
    return content + encoded(_MEANING, b"LO", code.meaning.encode())


def _sequence(tag: int, *items: bytes) -> bytes:
    return encoded(tag, b"SQ", b"".join(map(_item, items)))


def _item(content: bytes) -> bytes:
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content


def _add(holder: Dataset, tag: int, content: bytes, dataset: Dataset) -> None:
    """Add a sequence, as its bytes, to an object or an item of it.

    pydicom writes bytes as they are only in a dataset that it takes to be read in that encoding;
    it would decode and encode them again.
    """
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    raw: Any = RawDataElement(Tag(tag), "SQ", len(content), content, 0, False, True)
    holder[raw.tag] = raw
    holder.set_original_encoding(False, True, dataset._character_set)
