"""Where a result comes from: the command, the files with their digests, the arterial input."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kety.inputs import InputFunction
    from kety.pipeline.arterial import InputSource
    from kety.pipeline.conversion import Conversion
    from kety.pipeline.study import PathLike, Study
    from kety.series import Series


def provenance(
    study: Study,
    *,
    command: str = "",
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What a record of the fit needs beside the maps' own attributes: command, inputs, conversion.

    Of a series from DICOM the numbers are hashed, which are the same in a folder and an archive;
    names of patients are left out of file names and of the paths in the command.

    Parameters
    ----------
    study
        Its files are hashed.
    command
        Command line, if there is one.
    options
        Whatever else determined the result.
    """
    aif = study.arterial
    inputs = {
        role: [{"file": shown(study, path.name), "sha256": _of_file(path)} for path in paths]
        for role, paths in study.files.items()
        if role != "series" or study.dicom is None
    }
    if study.dicom is not None:
        digest = _of_numbers(study.series)
        inputs["series"] = [{"file": f"{study.series.source} (DICOM)", "sha256": digest}]
    return {
        **({"command": shown_command(study, command)} if command else {}),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "inputs": inputs,
        **({} if aif is None else {"input_function": _input_record(aif)}),
        "curve_unit": study.unit,
        **study.facts,
        **(options or {}),
    }


def files_of(
    path: Path,
    source: InputSource | None,
    conversion: Conversion,
    times: Any,
    mask: PathLike | None,
) -> dict[str, tuple[Path, ...]]:
    """Every file that was read, by its role."""
    from kety.io import split_region
    from kety.io.bids import sidecar_path

    named: dict[str, Any] = {
        "series": path,
        "sidecar": sidecar_path(path) if path.is_file() else None,
        "times": times,
        "mask": mask,
        "input": source and source.table,
        "input_mask": source and source.mask,
        "input_check": source and source.check,
        "input_vein": source and source.vein,
        "t10": conversion.t10,
        "b1": conversion.b1,
    }
    paths = {
        role: split_region(name)[0]
        for role, name in named.items()
        if isinstance(name, str | os.PathLike)
    }
    files: dict[str, tuple[Path, ...]] = {
        role: (path,) for role, path in paths.items() if path.exists()
    }
    if conversion.vfa:
        files["vfa"] = tuple(Path(name) for name in conversion.vfa)
    return files


def _input_record(aif: InputFunction) -> dict[str, Any]:
    return {
        "name": aif.name,
        "site": aif.site,
        "hematocrit": aif.hematocrit,
        "interpolation": aif.interpolation,
        "sha256": aif.fingerprint(),
    }


def _of_file(path: Path) -> str:
    """Hex digest of a file's content; of a folder's, of all the digests in it in their order."""
    if path.is_dir():
        files = sorted(_of_file(file) for file in path.rglob("*") if file.is_file())
        return hashlib.sha256("".join(files).encode()).hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _of_numbers(series: Series) -> str:
    """Hex digest of a series' numbers, phase by phase."""
    digest = hashlib.sha256()
    for phase in range(series.data.shape[3]):
        digest.update(series.data[..., phase].tobytes(order="F"))
    return digest.hexdigest()


def shown(study: Study, text: str) -> str:
    """A text without the names of the patients in a study from DICOM."""
    if study.dicom is None:
        return text
    from kety.io.dicom import without_patients

    return without_patients(study.dicom[0], text)


def shown_command(study: Study, command: str) -> str:
    """A command whose paths name no patient. Other words stay: one may be like a name."""
    if study.dicom is None:
        return command
    words = shlex.split(command)
    return shlex.join(
        shown(study, word) if os.sep in word or Path(word).exists() else word for word in words
    )
