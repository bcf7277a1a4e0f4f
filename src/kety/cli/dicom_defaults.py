"""What commands do with a folder or archive of DICOM that they are not told how to read.

Its headers say what must be given of other files; what is assumed beyond them is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from kety.pipeline.telling import Tell

INPUTS: Final[tuple[str, ...]] = ("aif", "population", "aif_mask")
"""Options that name an arterial input."""


def from_dicom(path: Path) -> bool:
    """Whether a path is a folder, an archive or a file of DICOM."""
    from kety.io import FORMATS

    return any(known.folders and known.matches(path) for known in FORMATS)


def named_input(options: Mapping[str, Any], tell: Tell) -> dict[str, Any]:
    """The options, with an artery of the series for the input where DICOM comes without any.

    Raises
    ------
    KetyError
        If there is no input and no series either, which is worth more to know.
    """
    from kety.errors import KetyError

    if any(options[name] is not None for name in INPUTS):
        return dict(options)
    if not options["series"].exists():
        raise KetyError(f"{options['series']}: there is no such file or folder")
    if not from_dicom(options["series"]):
        return dict(options)
    tell("input", "none is named: an artery is sought in the series (--aif auto)")
    return {**options, "aif": Path("auto")}


def output_name(path: Path, ending: str) -> Path:
    """The default folder of what is made of a series: its name and an ending, in this folder.

    Raises
    ------
    KetyError
        If the name without that of a patient is one that is there already.
    """
    from kety.errors import KetyError
    from kety.io import FORMATS, bids

    if not from_dicom(path):
        return Path(f"{bids.stem(path)}_{ending}")
    from kety.io.dicom import without_patients

    name = path.resolve().name if path.name in ("", "..") else path.name
    if path.is_file():
        known = (end for one in FORMATS for end in one.extensions if name.lower().endswith(end))
        name = name[: len(name) - max(map(len, known), default=0)]
    shown = without_patients(path, name)
    if shown == name:
        return Path(f"{name}_{ending}")
    folder = Path(f"series_{ending}")
    if folder.exists():
        raise KetyError(
            f"{folder}: is there already, and {shown} names a patient, which outputs do not; name "
            "another with --out"
        )
    return folder
