"""The frames of an enhanced multi-frame image: functional groups laid out flat, as classic headers.

PS3.3, C.7.6.16: what all frames share and what each has of its own are nested in sequences.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from kety.io.dicom.elements import NotReadable

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

PHILIPS_SCALE: Final = 0x2005100E
"""Philips' private scale slope, in classic headers as in a private group of every frame."""

# What a classic header calls otherwise.
_NAMES: Final[Mapping[str, str]] = {
    "EffectiveEchoTime": "EchoTime",
    "FrameAcquisitionDateTime": "AcquisitionDateTime",
    "FrameAcquisitionNumber": "AcquisitionNumber",
    "FrameType": "ImageType",
    "NominalCardiacTriggerDelayTime": "TriggerTime",
    "TemporalPositionIndex": "TemporalPositionIdentifier",
}


def frame_values(stream: BinaryIO, common: Mapping[str, str]) -> list[dict[str, str]]:
    """The values of every frame by keyword, as text, beside the file's common ones.

    Raises
    ------
    NotReadable
        If the groups are damaged, or there is not one for every frame.
    """
    stream.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they may repeat what must not be shown
        return _frame_values(stream, common)


def _frame_values(stream: BinaryIO, common: Mapping[str, str]) -> list[dict[str, str]]:
    import pydicom

    try:
        dataset = pydicom.dcmread(stream, stop_before_pixels=True)
        shared = dataset.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()]
        groups = dataset.get("PerFrameFunctionalGroupsSequence") or []
        count = int(dataset.get("NumberOfFrames") or 1)
        if len(groups) != count:
            raise NotReadable(f"has {count} frames, but groups for {len(groups)} of them")
        start = {**common, **_flat(shared[0])}
        return [{**start, **_flat(group)} for group in groups]
    except NotReadable:
        raise
    except Exception as error:
        # Damage within sequences makes the reader raise nearly anything.
        raise NotReadable(
            f"has functional groups that cannot be read ({str(error) or type(error).__name__})"
        ) from error


def _flat(group: Dataset) -> dict[str, str]:
    """Every value in the macros of a group."""
    found: dict[str, str] = {}
    for macro in group:
        if macro.VR != "SQ" or not macro.value:
            continue
        for element in macro.value[0]:
            name = "PhilipsScaleSlope" if element.tag == PHILIPS_SCALE else element.keyword
            if element.VR != "SQ" and name:
                found[_NAMES.get(name, name)] = _text(element.value)
    return found


def _text(value: Any) -> str:
    if isinstance(value, str | bytes | int | float) or value is None:
        return "" if value is None else str(value)
    return "\\".join(str(part) for part in value)
