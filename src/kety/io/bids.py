"""Names and JSON sidecars in the style of BIDS derivatives.

The Brain Imaging Data Structure names a file by entities (``sub-01_ses-1``) and a suffix, and puts
its metadata into a JSON file of the same name (Gorgolewski et al., Scientific Data 2016,
doi:10.1038/sdata.2016.44).
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from kety.errors import KetyError
from kety.io.atomic import Batch, output_folder
from kety.version import __version__

NAN_MEANING: Final = "NaN: not estimated; the status map says why for every voxel."

# Endings of a map's name, and what the description of its file calls them.
_ENDINGS: Final[Mapping[str, str]] = {
    "_se_bootstrap": "seBootstrap",
    "_se_input": "seInput",
    "_se_total": "seTotal",
    "_se": "se",
    "_lower": "lower",
    "_upper": "upper",
    "_open": "open",
    "_bias": "bias",
}
_SUFFIXES: Final = {"ktrans": "Ktrans", "ps": "PS", "fp": "Fp", "mtt": "MTT"}
_ENTITIES: Final = re.compile(r"sub-[A-Za-z0-9]+(?:_[a-z]+-[A-Za-z0-9]+)*")
_IMAGE_SUFFIX: Final = re.compile(r"(\.nii(\.gz)?|\.gz|\.dcm)?$", re.IGNORECASE)
FIELDS: Final[Mapping[str, str]] = {
    "repetition_time": "RepetitionTimeExcitation",
    "flip_angle": "FlipAngle",
    "echo_time": "EchoTime",
    "kvp": "KVP",
}
"""Names of the acquisition in kety, and in sidecars."""

# A repetition time as long as this is no longer that of a spoiled gradient echo's excitations.
_LONGEST_EXCITATION_TR: Final = 0.5


def stem(source: str | os.PathLike[str]) -> str:
    """The file name without its image suffix: ``sub-01_dce`` for ``x/sub-01_dce.nii.gz``."""
    return _IMAGE_SUFFIX.sub("", Path(source).name, count=1)


def entities(source: str | os.PathLike[str]) -> dict[str, str]:
    """The BIDS entities of a file name, in their order; empty for a name that is not BIDS."""
    name = stem(source)
    head, _, _suffix = name.rpartition("_")
    if not _ENTITIES.fullmatch(head):
        return {}
    return dict(pair.split("-", 1) for pair in head.split("_"))


def map_name(source: str | os.PathLike[str], quantity: str, *, model: str = "") -> str:
    """The name of a map, without its suffix for the file format.

    The source's entities are kept (for a source that is not named by BIDS, its whole stem),
    followed by the model and a description: ``desc-se`` for a standard error ``<name>_se``,
    ``desc-voxelwise`` for the voxelwise twin ``<name>_voxelwise`` of a joint estimate,
    ``desc-voxelwiseSe`` for the standard error of one, ``desc-lower`` and ``desc-upper`` for the
    limits of an interval, and so on.

    Parameters
    ----------
    source
        File name of the series, ``""`` if there is none.
    quantity
        Name of the map, e.g. ``ktrans`` or ``ktrans_se``.
    model
        Name of the model, e.g. ``extended_tofts``.

    Returns
    -------
    e.g. ``sub-01_ses-1_model-extendedtofts_desc-se_Ktrans``.
    """
    kept = entities(source)
    ending = next((end for end in _ENDINGS if quantity.endswith(end)), "")
    value = quantity.removesuffix(ending)
    base = value.removesuffix("_voxelwise")
    descriptions = [
        kept.pop("desc", ""),
        "voxelwise" if base != value else "",
        _ENDINGS.get(ending, ""),
    ]
    if model:
        kept["model"] = re.sub(r"[^A-Za-z0-9]", "", model)
    # The source's own description must stay, or two versions of one series would share a name.
    first, *more = [part for part in descriptions if part] or [""]
    if first:
        kept["desc"] = first + "".join(part[0].upper() + part[1:] for part in more)
    parts = [f"{key}-{value}" for key, value in kept.items()]
    if not entities(source):
        parts.insert(0, stem(source) or "kety")
    return "_".join([*parts, _SUFFIXES.get(base, re.sub(r"[^A-Za-z0-9]", "", base))])


def sidecar_path(path: str | os.PathLike[str]) -> Path:
    """The JSON file that belongs to an image: same folder and stem."""
    return Path(path).with_name(stem(path) + ".json")


def read_sidecar(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the JSON file beside an image; empty where there is none.

    Raises
    ------
    KetyError
        If it cannot be read as one JSON object.
    """
    sidecar = sidecar_path(path)
    if not sidecar.is_file():
        return {}
    try:
        content = json.loads(sidecar.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise KetyError(f"{sidecar}: cannot be read as JSON ({error}); repair or remove it") from (
            error
        )
    if not isinstance(content, dict):
        raise KetyError(f"{sidecar}: holds no JSON object; repair or remove it")
    return content


def acquisition(
    sidecar: Mapping[str, Any], *, interval: float | None = None, name: str = "the sidecar"
) -> dict[str, float]:
    """The MR acquisition in a sidecar, in kety's names and units.

    ``RepetitionTime`` is the volume's period in some BIDS files and the excitation's in others. It
    is taken for the excitation's unless it is too long for one or is the time between frames;
    ``RepetitionTimeExcitation`` is preferred, being unambiguous.

    Parameters
    ----------
    sidecar
        BIDS fields ``FlipAngle`` (degrees), ``RepetitionTimeExcitation``, ``RepetitionTime`` and
        ``EchoTime`` (s).
    interval
        Time between frames in s, if any.
    name
        What to call the sidecar in messages.

    Returns
    -------
    Those found of ``flip_angle`` (degrees), ``repetition_time`` and ``echo_time`` (s).

    Raises
    ------
    KetyError
        If one of them is not a positive number, or a flip angle exceeds 180 degrees.
    """
    found: dict[str, float] = {}
    if "FlipAngle" in sidecar:
        found["flip_angle"] = _positive(sidecar, "FlipAngle", name, largest=180.0)
    if "EchoTime" in sidecar:
        found["echo_time"] = _positive(sidecar, "EchoTime", name)
    if "RepetitionTimeExcitation" in sidecar:
        found["repetition_time"] = _positive(sidecar, "RepetitionTimeExcitation", name)
    elif "RepetitionTime" in sidecar:
        value = _positive(sidecar, "RepetitionTime", name)
        is_period = interval is not None and abs(value - interval) <= 0.01 * interval
        if is_period or value > _LONGEST_EXCITATION_TR:
            warnings.warn(
                f"{name}: RepetitionTime {value:g} s was not used: it is "
                + ("the time between frames" if is_period else "too long for an excitation")
                + "; give RepetitionTimeExcitation (s) there, or the repetition time as an option",
                stacklevel=2,
            )
        else:
            found["repetition_time"] = value
    return found


def exposure(sidecar: Mapping[str, Any], *, name: str = "the sidecar") -> dict[str, float]:
    """The CT acquisition in a sidecar: ``kvp`` (kV) of ``KVP``, where it is known.

    Raises
    ------
    KetyError
        If it is not a positive number.
    """
    return {"kvp": _positive(sidecar, "KVP", name)} if "KVP" in sidecar else {}


def _positive(sidecar: Mapping[str, Any], key: str, name: str, largest: float = np.inf) -> float:
    value = sidecar[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= largest:
        limit = "" if np.isinf(largest) else f" of at most {largest:g}"
        raise KetyError(
            f"{name}: {key} is {value!r}, expected one positive number{limit}; correct it"
        )
    return float(value)


def generated_by() -> dict[str, str]:
    """The BIDS ``GeneratedBy`` record of this software."""
    return {"Name": "kety", "Version": __version__}


def map_sidecar(
    name: str, attributes: Mapping[str, Any], *, model: str, source: str, has_nan: bool
) -> dict[str, Any]:
    """The sidecar of a map, from its attributes ``units``, ``long_name`` and ``osipi``.

    Attributes beyond these, such as the CF ``flag_values`` and ``flag_meanings``, are kept.
    """
    rest = dict(attributes)
    long_name = str(rest.pop("long_name", name))
    content: dict[str, Any] = {
        "Quantity": name,
        "LongName": long_name,
        "Units": str(rest.pop("units", "")),
        "Model": model,
        "OSIPI_CAPLEX": str(rest.pop("osipi", "")),
        "Description": f"{long_name}. {NAN_MEANING}" if has_nan else f"{long_name}.",
        "Sources": [source] if source else [],
        "GeneratedBy": generated_by(),
    }
    if "flag_values" in rest and "flag_meanings" in rest:
        meanings = str(rest["flag_meanings"]).split()
        content["Levels"] = dict(
            zip((str(value) for value in rest["flag_values"]), meanings, strict=True)
        )
    return content | rest


def write_fit_json(
    folder: str | os.PathLike[str], provenance: Mapping[str, Any], *, overwrite: bool = True
) -> Path:
    """Write ``fit.json``, the provenance of a fit, into a folder and return its path.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    path = output_folder(folder) / "fit.json"
    with Batch(overwrite=overwrite) as batch:
        batch.write_json(path, {"GeneratedBy": generated_by(), **provenance})
    return path
