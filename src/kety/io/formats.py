"""The one list of formats, and what the module of a format provides."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError
from kety.series import Series, Volume

ARCHIVES: Final = (*(".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz"),)
"""Zip, and tar plain or compressed, which hold what a folder may."""

MapWriter = Callable[[BinaryIO, Path, Volume], None]
"""Writes one map to an open file that will have this path."""


class Codec(Protocol):
    """What the module of a format provides."""

    def read(self, path: str | os.PathLike[str]) -> Volume:
        """Read a file whole, with its metadata by BIDS names; KetyError naming it if it cannot."""

    def write(self, stream: BinaryIO, path: str | os.PathLike[str], volume: Volume) -> None:
        """Write to an open file that will have this path; equal volumes give equal bytes."""


class Collection(Protocol):
    """What the module of a format provides whose paths hold many images: folders, archives."""

    def read(self, path: str | os.PathLike[str], *, series: int | str | None = None) -> Volume:
        """Read one volume or stack of it, the only one unless ``series`` says which."""

    def read_series(
        self,
        path: str | os.PathLike[str],
        *,
        series: int | str | None = None,
        times: ArrayLike | str | os.PathLike[str] | None = None,
        modality: str | None = None,
        acquisition: Mapping[str, float] | None = None,
    ) -> Series:
        """Read one dynamic series of it; as `kety.io.read_series`."""

    def read_grid(self, path: str | os.PathLike[str], *, series: int | str | None = None) -> Volume:
        """The voxel grid of one series of it, as a volume without content."""

    def maps_in(self, folder: str | os.PathLike[str]) -> dict[str, str]:
        """The maps that are files of this format in a folder: name to path within it."""

    def holds_mask(self, path: str | os.PathLike[str]) -> bool:
        """Whether a file holds regions, which become a mask on the grid of a series."""

    def read_mask(
        self,
        path: str | os.PathLike[str],
        like: Series | Volume | None,
        region: str | None = None,
    ) -> NDArray[np.bool_]:
        """Read a region, by its name or number, as a mask (X, Y, Z) on the grid of ``like``."""

    def write_mask(
        self,
        stream: BinaryIO,
        mask: NDArray[np.bool_],
        affine: ArrayLike,
        *,
        images: Sequence[Any] | None = None,
        label: str = "mask",
        made_at: datetime | None = None,
    ) -> None:
        """Write a mask to an open file; ``images`` are the headers that it refers to.

        ``made_at`` is when it was made: equal masks of one moment are equal files.
        """

    def map_writer(
        self, paths: Sequence[Path], *, images: Sequence[Any] | None = None, curves: str = ""
    ) -> MapWriter:
        """What writes the maps of one fit, to these paths.

        ``images`` are the headers that the maps refer to, ``curves`` is the unit of the curves.
        """


@dataclass(frozen=True)
class Format:
    """A file format.

    Attributes
    ----------
    name
        As the option ``format`` has it.
    extensions
        The usual one first.
    module
        A `Codec`, or a `Collection` where ``folders``.
    folders
        Whether a path may be a folder, or hold several series.
    mark
        Where a file without extension says what it is, and how; an empty one for none does.
    """

    name: str
    extensions: tuple[str, ...]
    module: str
    folders: bool = False
    mark: tuple[int, bytes] = (0, b"")

    @property
    def codec(self) -> Codec:
        """The module of a format of single files, imported when first used."""
        return cast(Codec, importlib.import_module(self.module))

    @property
    def collection(self) -> Collection:
        """The module of a format of many images, imported when first used."""
        return cast(Collection, importlib.import_module(self.module))

    def matches(self, path: Path) -> bool:
        """Whether a path is of this format, by what it is and is named, or else by its mark."""
        if path.is_dir():
            return self.folders
        return path.name.lower().endswith(self.extensions) or self._has_mark(path)

    def _has_mark(self, path: Path) -> bool:
        start, mark = self.mark
        if not mark or not path.is_file():
            return False
        with path.open("rb") as stream:
            stream.seek(start)
            return stream.read(len(mark)) == mark


FORMATS: Final[tuple[Format, ...]] = (
    Format("nifti", (".nii.gz", ".nii"), "kety.io.nifti"),
    Format(
        "dicom",
        (".dcm", ".ima", *ARCHIVES),
        "kety.io.dicom",
        folders=True,
        mark=(128, b"DICM"),
    ),
)
"""The one list of formats."""


def format_of(path: str | os.PathLike[str]) -> Format:
    """The format of a path, by what it is and how it is named; KetyError where there is none."""
    path = Path(path)
    for known in FORMATS:
        if known.matches(path):
            return known
    valid = ", ".join(extension for known in FORMATS for extension in known.extensions)
    raise KetyError(f"{path}: unknown file extension; valid: {valid}; convert the file to one")
