"""Parametric Maps: one object for every map, with its quantity, units and sources.

Floats are kept as they are, NaN included (Float Pixel Data, mapping of slope 1). Whole numbers,
such as the status, are Parametric Maps too and not Segmentations, so that every map of a fit is
read in one way and keeps its numbers; what they mean is in the frames' comments.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from kety.errors import KetyError
from kety.io.dicom.codes import (
    MODELS,
    OSIPI,
    PRIVATE,
    SCHEMES,
    Code,
    name_of,
    plain,
    quantity,
    unit,
    units_of,
)
from kety.io.dicom.frames import frames_of
from kety.io.dicom.multiframe import decoded_pixels, measures_of, placed_frames
from kety.io.dicom.origin import MAKER, Origin, derive, equipment
from kety.series import Volume

if TYPE_CHECKING:
    from pydicom import Dataset

SOP_CLASS: Final = "1.2.840.10008.5.1.4.1.1.30"
DERIVATION: Final = Code("129104", "DCM", "Perfusion image analysis")
FIRST_SERIES: Final = 7001
"""Series number of the first map; maps follow each other, each in a series of its own."""

_QUANTITY: Final = Code("246205007", "SCT", "Quantity")
_METHOD: Final = Code("370129005", "SCT", "Measurement Method")
_LARGEST: Final = float(np.finfo(np.float32).max)
_MEANINGS: Final = re.compile(r"(\d+) (\S+?)(?:, |$)")


def write(
    stream: BinaryIO, volume: Volume, origin: Origin, *, number: int = 0, curves: str = ""
) -> None:
    """Write one map to an open file.

    Parameters
    ----------
    stream
        Where to write.
    volume
        (X, Y, Z), with the sidecar of a map (`kety.io.bids.map_sidecar`), which names its quantity
        and units. Floats become float32; whole numbers from 0 to 65535 stay whole numbers.
    origin
        What it derives from.
    number
        Which map of its fit it is, from 0; gives the number of its series.
    curves
        The unit of the curves, ``HU`` or ``mM``, for units that refer to it.

    Raises
    ------
    KetyError
        If it is not one volume, or its grid has no right angles.
    """
    made = _object(volume, origin, number, curves)
    made.save_as(stream, enforce_file_format=True)


def read_map(dataset: Dataset, *, name: str) -> Volume:
    """The map that a Parametric Map holds, in the physical units that its mapping gives.

    Parameters
    ----------
    dataset
        A Parametric Map.
    name
        What to call the file in messages.

    Returns
    -------
    Volume
        Columns, rows and frames are its axes; whole numbers become float32. Its sidecar names
        quantity, units and what the values of a whole number mean.

    Raises
    ------
    KetyError
        If it holds more than one quantity, or no even slices, or is not complete.
    """
    frames = placed_frames(dataset, name)
    mapping = _mapping(dataset, name)
    pixels = _pixels(dataset, name)[frames.order]
    slope, intercept = float(mapping.RealWorldValueSlope), float(mapping.RealWorldValueIntercept)
    if (slope, intercept) != (1.0, 0.0):
        pixels = pixels * np.float64(slope) + intercept
    if pixels.dtype != np.float64:
        pixels = pixels.astype(np.float32, copy=False)
    data = np.asfortranarray(np.transpose(pixels, (2, 1, 0)))
    return Volume(data, frames.affine, name, sidecar=_sidecar(dataset, mapping))


def schemes_of(*codes: Code) -> list[Any] | None:
    """Identification of the private coding schemes among some codes; None where there are none."""
    from highdicom.coding_schemes import CodingSchemeIdentificationItem

    used = sorted({code.scheme for code in codes} & set(SCHEMES))
    return [
        CodingSchemeIdentificationItem(
            one, name=SCHEMES[one][0], responsible_organization=SCHEMES[one][1]
        )
        for one in used
    ] or None


def _object(volume: Volume, origin: Origin, number: int, curves: str) -> Dataset:
    import highdicom as hd
    from pydicom.uid import generate_uid

    sidecar, data = volume.sidecar, volume.data
    name = str(sidecar.get("Quantity") or volume.source or "map")
    if data.ndim != 3:
        raise KetyError(
            f"map {name}: shape {data.shape}; a Parametric Map holds one volume, write series of "
            "volumes as NIfTI"
        )
    words = str(sidecar.get("LongName") or name)
    units = str(sidecar.get("Units") or "1")
    what = quantity(name, words, str(sidecar.get("OSIPI_CAPLEX") or ""))
    ucum = unit(units, curves)
    frames = origin.aligned(frames_of(volume, origin.orientation))
    pixels = _stored(frames.pixels)
    whole = pixels.dtype.kind == "u"
    mapping = hd.pm.RealWorldValueMapping(
        lut_label=plain(name)[:16],
        lut_explanation=plain(words),
        unit=_concept(ucum),
        value_range=(0, 65535) if whole else (-_LARGEST, _LARGEST),
        slope=1,
        intercept=0,
        quantity_definition=_concept(what),
    )
    model = MODELS.get(str(sidecar.get("Model")))
    if model is not None and what.scheme != PRIVATE:
        mapping.QuantityDefinitionSequence.append(
            hd.sr.CodeContentItem(name=_concept(_METHOD), value=_concept(model))
        )
    measures, orientation, positions = measures_of(frames)
    made = hd.pm.ParametricMap(
        source_images=[origin.header],
        pixel_array=pixels,
        series_instance_uid=generate_uid(prefix=None),
        series_number=FIRST_SERIES + number,
        sop_instance_uid=generate_uid(prefix=None),
        instance_number=1,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[_window(pixels)],
        pixel_measures=measures,
        plane_orientation=orientation,
        plane_positions=positions,
        content_label=re.sub(r"[^A-Z0-9_ ]", "_", plain(name).upper())[:16].strip(" _"),
        content_description=plain(name),
        content_qualification="RESEARCH",
        image_flavor="VOLUME",
        derived_pixel_contrast="NONE",
        series_description=plain(f"{MAKER} {name}: {words}"),
        coding_schemes=schemes_of(what, ucum),
        **equipment(),
    )
    made.Laterality = ""
    if whole:
        made["PixelData"].VR = "OW"
    derive(made, frames, origin, DERIVATION)
    meanings = _meanings(sidecar)
    if meanings:
        for group in made.PerFrameFunctionalGroupsSequence:
            group.FrameContentSequence[0].FrameComments = meanings
    return made


def _concept(code: Code) -> Any:
    from highdicom.sr import CodedConcept

    return CodedConcept(code.value, code.scheme, code.meaning)


def _stored(pixels: NDArray[Any]) -> NDArray[Any]:
    """Pixels in a type that the object can hold: uint16 where that is exact, else float32."""
    if pixels.dtype.kind in "biu":
        if int(pixels.min()) >= 0 and int(pixels.max()) <= 65535:
            return np.ascontiguousarray(pixels, dtype=np.uint16)
        return np.ascontiguousarray(pixels, dtype=np.float64)
    return np.ascontiguousarray(pixels, dtype=np.float32)


def _window(pixels: NDArray[Any]) -> Any:
    """Brightness for viewers: between the 2nd and the 98th percentile, to four digits."""
    import highdicom as hd

    # A sample is enough for a window, and a percentile of all takes longer than to write them.
    sample = pixels.ravel()[:: max(1, pixels.size // 200_000)]
    finite = sample[np.isfinite(sample)]
    low, high = (0.0, 1.0) if not finite.size else np.percentile(finite, [2.0, 98.0])
    if not high > low:
        low, high = float(low) - 0.5, float(low) + 0.5
    return hd.VOILUTTransformation(
        window_center=float(f"{(low + high) / 2:.4g}"),
        window_width=float(f"{high - low:.4g}"),
        voi_lut_function="LINEAR_EXACT",
    )


def _meanings(sidecar: Mapping[str, Any]) -> str:
    """``0 outside, 1 converged`` and so on, of whole numbers that stand for words."""
    if "flag_values" not in sidecar or "flag_meanings" not in sidecar:
        return ""
    words = str(sidecar["flag_meanings"]).split()
    pairs = zip(sidecar["flag_values"], words, strict=True)
    return ", ".join(f"{int(value)} {word}" for value, word in pairs)


def _mapping(dataset: Dataset, name: str) -> Dataset:
    """The one linear mapping of all frames to real-world values."""
    keyword = "RealWorldValueMappingSequence"
    shared = dataset.SharedFunctionalGroupsSequence[0].get(keyword)
    items = shared or [
        item
        for group in dataset.PerFrameFunctionalGroupsSequence
        for item in group.get(keyword) or ()
    ]
    if not items:
        raise KetyError(
            f"{name}: does not say what its values are (no real-world value mapping); export it "
            "again with one"
        )
    first: Dataset = items[0]
    for item in items:
        same = (item.get("LUTLabel"), item.get("RealWorldValueSlope")) == (
            first.get("LUTLabel"),
            first.get("RealWorldValueSlope"),
        ) and item.get("RealWorldValueIntercept") == first.get("RealWorldValueIntercept")
        if not same or item.get("RealWorldValueSlope") is None:
            raise KetyError(
                f"{name}: its values are mapped by several rules or a table; expected one slope "
                "and intercept for all frames"
            )
    return first


def _pixels(dataset: Dataset, name: str) -> NDArray[Any]:
    """The stored values (N, rows, columns)."""
    shape = int(dataset.get("NumberOfFrames") or 1), int(dataset.Rows), int(dataset.Columns)
    for keyword, kind in (("FloatPixelData", "<f4"), ("DoubleFloatPixelData", "<f8")):
        content = dataset.get(keyword)
        if content is None:
            continue
        wanted = int(np.prod(shape)) * np.dtype(kind).itemsize
        if len(content) < wanted:
            raise KetyError(f"{name}: is truncated; copy it again")
        pixels: NDArray[Any] = np.frombuffer(content, kind, int(np.prod(shape))).reshape(shape)
        return pixels
    return decoded_pixels(dataset, shape, name)


def name_in(dataset: Dataset, mapping: Dataset | None = None) -> str:
    """The name of the map that an object holds: kety's own, or one for its quantity's code."""
    if dataset.get("Manufacturer") == MAKER and dataset.get("ContentDescription"):
        return str(dataset.ContentDescription)
    if mapping is None:
        mapping = _mapping(dataset, "the map")
    what = _code_of(mapping, "QuantityDefinitionSequence")
    return str(mapping.get("LUTLabel") or "map") if what is None else name_of(what)


def _sidecar(dataset: Dataset, mapping: Dataset) -> dict[str, Any]:
    """What the object says of its map, by the names of a map's sidecar."""
    what = _code_of(mapping, "QuantityDefinitionSequence")
    ucum = _code_of(mapping, "MeasurementUnitsCodeSequence")
    name = name_in(dataset, mapping)
    content: dict[str, Any] = {
        "Quantity": name,
        "LongName": str(mapping.get("LUTExplanation") or (what and what.meaning) or name),
        "Units": units_of(ucum.value) if ucum is not None else "",
        "OSIPI_CAPLEX": what.value if what is not None and what.scheme == OSIPI else "",
    }
    comments = str(
        dataset.PerFrameFunctionalGroupsSequence[0]
        .get("FrameContentSequence", [{}])[0]
        .get("FrameComments", "")
    )
    if dataset.get("Manufacturer") == MAKER and _MEANINGS.match(comments):
        pairs = _MEANINGS.findall(comments)
        content["flag_values"] = [int(value) for value, _ in pairs]
        content["flag_meanings"] = " ".join(word for _, word in pairs)
    return content


def _code_of(mapping: Dataset, keyword: str) -> Code | None:
    """The first code of a sequence, which may be an item of name and value."""
    items = mapping.get(keyword)
    if not items:
        return None
    item = items[0]
    if item.get("ConceptCodeSequence"):
        item = item.ConceptCodeSequence[0]
    value = item.get("CodeValue") or item.get("LongCodeValue") or ""
    return Code(
        str(value),
        str(item.get("CodingSchemeDesignator") or ""),
        str(item.get("CodeMeaning") or ""),
    )
