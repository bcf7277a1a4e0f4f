"""Coded quantities and units of the maps: what a reader of DICOM knows them by.

A quantity's code is DICOM's own (PS3.16, scheme DCM) where there is one, else that of the OSIPI
lexicon of contrast-agent perfusion imaging, else the map's name in a private scheme. What only
describes another map, such as a standard error or a limit, always has a private code: a reader that
looks at nothing else must not take it for the quantity itself. Units are UCUM (ucum.org), those of
DICOM's context group 7181 where it has them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

PRIVATE: Final = "99KETY"
OSIPI: Final = "99OSIPI"
SCHEMES: Final[Mapping[str, tuple[str, str]]] = {
    PRIVATE: ("kety, names of maps", "kety"),
    OSIPI: ("OSIPI CAPLEX", "Open Science Initiative for Perfusion Imaging"),
}
"""Private coding schemes: their name and who is responsible for them."""


@dataclass(frozen=True)
class Code:
    """A coded concept: value, scheme and meaning."""

    value: str
    scheme: str
    meaning: str


def _dcm(value: str, meaning: str) -> Code:
    return Code(value, "DCM", meaning)


QUANTITIES: Final[Mapping[str, Code]] = {
    "ktrans": _dcm("126312", "Ktrans"),
    "kep": _dcm("126313", "kep"),
    "ve": _dcm("126314", "ve"),
    "vp": _dcm("126331", "vp"),
    "vb": _dcm("126391", "Absolute Regional Blood Volume"),
    "volume": _dcm("126391", "Absolute Regional Blood Volume"),
    "fb": _dcm("126390", "Absolute Regional Blood Flow"),
    "perfusion": _dcm("126390", "Absolute Regional Blood Flow"),
    "mtt": _dcm("113052", "Mean Transit Time"),
    "tmax": _dcm("113084", "Tmax"),
    "ttp": _dcm("113069", "Time To Peak"),
    "bat": _dcm("126371", "Bolus Arrival Time"),
    "max_slope": _dcm("126375", "Maximum Slope"),
    "iauc60": _dcm("126321", "IAUC60"),
    "iauc90": _dcm("126322", "IAUC90"),
    "iauc180": _dcm("126323", "IAUC180"),
    "t10": _dcm("113063", "T1"),
    "c0": _dcm("126377", "Tracer Concentration"),
}
"""Maps whose quantity DICOM names."""

MODELS: Final[Mapping[str, Code]] = {
    "tofts": _dcm("126340", "Standard Tofts Model"),
    "extended_tofts": _dcm("126341", "Extended Tofts Model"),
    "aath": _dcm("126346", "Adiabatic Tissue Homogeneity (ATH) Model"),
    "2cxm": _dcm("126347", "Two Compartment Exchange (2CX) Model"),
}
"""Models that DICOM names."""

_IAUC: Final = _dcm("126320", "IAUC")
_LEXICON: Final = re.compile(r"Q\.[A-Z]+\d+\.(?!999)\d+(\.[a-z]+)*")
# Units of maps in UCUM; a quotient comes last in a product, since a/b.c is (a/b) c.
_ATOMS: Final[Mapping[str, str]] = {
    "s": "s",
    "min": "min",
    "mL": "mL",
    "100mL": "(100.mL)",
    "HU": "[hnsf'U]",
    "mM": "mmol/L",
    "mg_mL": "mg/mL",
    "%": "%",
    "mm": "mm",
}
_UNITS: Final[Mapping[str, Code]] = {
    "1": Code("1", "UCUM", "no units"),
    "1/min": Code("/min", "UCUM", "/min"),
    "mL/mL": Code("{ratio}", "UCUM", "ratio"),
    "mL/100mL/min": Code("mL/min/(100.mL)", "UCUM", "mL per min and 100 mL"),
    "HU": Code("[hnsf'U]", "UCUM", "Hounsfield unit"),
    "HU squared": Code("[hnsf'U]2", "UCUM", "Hounsfield unit squared"),
    "mM squared": Code("mmol2/L2", "UCUM", "mmol/L squared"),
    "mg/mL squared": Code("mg2/mL2", "UCUM", "mg/mL squared"),
}
_CURVES: Final = "unit of the curves"
_READ_BACK: Final = (
    *("s", "%", "mL/100mL"),
    *(unit + end for unit in ("HU", "mM", "mg/mL") for end in ("", " s", "/s", "/min")),
)
_FOREIGN: Final[Mapping[str, str]] = {
    "min-1": "1/min",
    "1/min": "1/min",
    "ml/min/100ml": "mL/100mL/min",
    "ml/[100]ml/min": "mL/100mL/min",
    "mmol/l": "mM",
}


def quantity(name: str, long_name: str = "", osipi: str = "") -> Code:
    """The coded quantity of a map.

    Parameters
    ----------
    name, long_name, osipi
        Name of the map, its words and its OSIPI CAPLEX code (may be empty).
    """
    if name in QUANTITIES:
        return QUANTITIES[name]
    if re.fullmatch(r"iauc\d+(p\d+)?", name):
        return _IAUC
    meaning = plain(long_name or name)
    if _LEXICON.fullmatch(osipi):
        return Code(osipi, OSIPI, meaning)
    return Code(name, PRIVATE, meaning)


def name_of(code: Code) -> str:
    """The name of the map that a coded quantity is, in kety's words; for others their meaning."""
    if code.scheme == PRIVATE:
        return code.value
    for name, known in QUANTITIES.items():
        if (known.value, known.scheme) == (code.value, code.scheme):
            return name
    return re.sub(r"[^a-z0-9]+", "_", code.meaning.lower()).strip("_") or "map"


def unit(units: str, curves: str = "") -> Code:
    """The UCUM code of a map's units.

    Parameters
    ----------
    units
        As the maps say them, e.g. ``mL/100mL/min`` or ``HU s``.
    curves
        The unit of the curves, ``HU``, ``mM`` or ``mg/mL``, for units that refer to it.

    Returns
    -------
    Code
        What UCUM cannot say becomes an annotation in braces, which has no dimension.
    """
    words = units.strip()
    if words == f"squared {_CURVES}":
        words = f"{curves or _CURVES} squared"
    elif curves:
        words = words.replace(_CURVES, curves)
    if words in _UNITS:
        return _UNITS[words]
    value = _composed(words)
    if value is None:
        return Code(
            "{" + re.sub(r"[{}]", "", plain(words or "unknown")) + "}", "UCUM", plain(words)
        )
    return Code(value, "UCUM", plain(words))


def units_of(value: str) -> str:
    """Units in kety's words, from a UCUM code; codes that it does not know stay as they are."""
    known = {code.value: words for words, code in _UNITS.items()}
    known |= {unit(words).value: words for words in _READ_BACK}
    if value in known:
        return known[value]
    if value.lower() in _FOREIGN:
        return _FOREIGN[value.lower()]
    return value[1:-1] if re.fullmatch(r"\{.*\}", value) else value


def plain(text: str) -> str:
    """Text in ASCII, at most 64 characters: what every character set of DICOM can hold."""
    ascii_text = text.encode("ascii", "replace").decode()
    return ascii_text if len(ascii_text) <= 64 else ascii_text[:61].rstrip() + "..."


def _composed(words: str) -> str | None:
    """UCUM of a quotient of products of known atoms; None where an atom is not known."""
    above, *below = words.replace("mg/mL", "mg_mL").split("/")
    numerators = [] if above == "1" else above.split()
    if not numerators and above != "1":
        return None
    if any(part not in _ATOMS for part in (*numerators, *below)):
        return None
    ordered = sorted((_ATOMS[part] for part in numerators), key=lambda atom: "/" in atom)
    product = ".".join(ordered)
    return "/".join([product, *(_ATOMS[part] for part in below)])
