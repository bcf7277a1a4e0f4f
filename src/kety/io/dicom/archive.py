"""The files of a folder, a zip or a tar, opened one after the other.

Members of an archive are streamed and never unpacked: nothing of it gets a name on the disk, so
no path in it can lead anywhere, and nothing is left behind when the program is killed.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, Final, NoReturn, cast

from kety.errors import KetyError
from kety.io.formats import ARCHIVES

MOST_FILES: Final = 1_000_000
MOST_BYTES: Final = 256 << 30
MOST_RATIO: Final = 200
"""Of unpacked to packed size, where more than `HARMLESS_BYTES` would be unpacked."""
HARMLESS_BYTES: Final = 1 << 30

_IN_MEMORY: Final = 64 << 20  # a larger member goes to a file without a name
_COMPRESSIONS: Final[Mapping[bytes, Callable[[Path], object]]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
}
_UNPACK: Final = "unpack the archive and name the folder"
_DRIVE: Final = re.compile(r"[A-Za-z]:[\\/]")
_DAMAGE: Final[tuple[type[Exception], ...]] = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
)


@dataclass(frozen=True)
class Problem:
    """A file that is not used, by its name within the folder or archive, and why."""

    file: str
    reason: str


Report = Callable[[Problem], None]


def is_archive(path: Path) -> bool:
    """Whether a path is named like a zip or tar."""
    return path.name.lower().endswith(ARCHIVES)


def fingerprint(path: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of change of every file, by which a change is noticed."""
    names = _walk(path, _ignore) if path.is_dir() else [""]
    found = []
    for name in names:
        with suppress(OSError):
            facts = (path / name).stat()
            found.append((name, facts.st_size, facts.st_mtime_ns))
    return tuple(found)


def each_file(
    path: Path, report: Report, wanted: Collection[str] | None = None
) -> Iterator[tuple[str, BinaryIO]]:
    """Open every regular file, or those that are wanted, one after the other.

    Parameters
    ----------
    path
        Folder, zip, tar (plain, or compressed by gzip, bzip2 or xz), or a single file.
    report
        Given every file that is not opened, and why: in archives links, devices, absolute paths,
        ``..``, encrypted members and repeated names; in folders what is no regular file, links to
        folders and what may not be read.
    wanted
        Names to open; None for all.

    Yields
    ------
    The name relative to the folder or in the archive, and a seekable stream that is open until
    the next. Folders are in order of name, or in that of ``wanted``; archives as they are stored.

    Raises
    ------
    KetyError
        If there is no such file or folder, or the archive is damaged or larger than `MOST_FILES`,
        `MOST_BYTES` or `MOST_RATIO` allow.
    """
    if path.is_dir():
        names = _walk(path, report) if wanted is None else wanted
        for name in names:
            try:
                stream = (path / name).open("rb")
            except OSError as error:
                report(Problem(name, f"cannot be opened ({(error.strerror or '?').lower()})"))
                continue
            with stream:
                yield name, stream
    elif not path.exists():
        raise KetyError(f"{path}: there is no such file or folder")
    elif not is_archive(path):
        with path.open("rb") as stream:
            yield path.name, stream
    else:
        members = _zipped if path.name.lower().endswith(".zip") else _tarred
        yield from members(path, report, wanted)


def _walk(folder: Path, report: Report) -> list[str]:
    """Names of the regular files below a folder, in their order."""
    found: list[str] = []
    pending = [""]
    while pending:
        inside = pending.pop()
        try:
            entries = list(os.scandir(folder / inside))
        except OSError as error:
            if not inside:
                raise KetyError(f"{folder}: may not be read; check its permissions") from error
            report(Problem(inside, "is a folder that may not be read"))
            continue
        for entry in entries:
            name = f"{inside}/{entry.name}" if inside else entry.name
            if entry.is_dir(follow_symlinks=False):
                pending.append(name)
            elif entry.is_file():
                found.append(name)
            elif entry.is_symlink():
                report(Problem(name, "is a link to a folder or to nothing, not followed"))
            else:
                report(Problem(name, "is no regular file"))
    return sorted(found)


def _zipped(
    path: Path, report: Report, wanted: Collection[str] | None
) -> Iterator[tuple[str, BinaryIO]]:
    with _undamaged(path), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        meter = _Meter(path)
        for member in members:
            meter.count()
            meter.add(member.file_size)
        seen: set[str] = set()
        for member in members:
            mode = member.external_attr >> 16
            kind = stat.S_IFMT(mode)
            trick = _trick(member.orig_filename, kind not in (0, stat.S_IFREG), seen)
            if member.is_dir() and kind != stat.S_IFLNK:
                continue
            if trick is None and member.flag_bits & 1:
                trick = "is encrypted; unpack it with its password"
            if trick is not None:
                report(Problem(member.filename, trick))
            elif wanted is None or member.filename in wanted:
                try:
                    with archive.open(member) as packed:
                        stream = _spooled(cast(BinaryIO, packed))
                except NotImplementedError:
                    report(Problem(member.filename, f"is packed by another method; {_UNPACK}"))
                    continue
                except _DAMAGE as error:
                    report(Problem(member.filename, f"is damaged in the archive ({error})"))
                    continue
                with stream:
                    yield member.filename, stream


def _tarred(
    path: Path, report: Report, wanted: Collection[str] | None
) -> Iterator[tuple[str, BinaryIO]]:
    with _undamaged(path), _unpacked(path) as plain:
        meter = _Meter(path, plain)
        # The library believes in the sizes that headers state; the meter sees what is unpacked.
        with tarfile.open(fileobj=cast(IO[bytes], meter), mode="r|") as archive:
            seen: set[str] = set()
            for member in archive:
                meter.count()
                trick = _trick(member.name, not member.isreg() or member.issparse(), seen)
                if member.isdir():
                    continue
                if trick is not None:
                    report(Problem(member.name, trick))
                elif wanted is None or member.name in wanted:
                    packed = archive.extractfile(member)
                    assert packed is not None  # of a regular member
                    with _spooled(cast(BinaryIO, packed)) as stream:
                        yield member.name, stream
            # The library takes the end of the file for that of the archive, which has a mark.
            if meter.bytes <= archive.offset:
                raise EOFError("it is cut off")


def _unpacked(path: Path) -> IO[bytes]:
    """A tar without its compression, which is found by content."""
    with path.open("rb") as stream:
        start = stream.read(6)
    opened = next((o for mark, o in _COMPRESSIONS.items() if start.startswith(mark)), None)
    return path.open("rb") if opened is None else cast(IO[bytes], opened(path))


def _trick(name: str, special: bool, seen: set[str]) -> str | None:
    """Why a member is not opened; None for an honest regular file."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or _DRIVE.match(name):
        return "has an absolute path, not opened"
    if ".." in path.parts:
        return "has a path that leads out of the archive, not opened"
    if special:
        return "is a link, device or sparse file, not opened"
    if name in seen:
        return "has the name of an earlier member, not opened"
    seen.add(name)
    return None


class _Meter:
    """Counts what an archive unpacks to, by itself or as a stream, and refuses too much."""

    def __init__(self, path: Path, plain: IO[bytes] | None = None) -> None:
        self._path, self._packed, self._plain = path, max(path.stat().st_size, 1), plain
        self.files = self.bytes = 0

    def read(self, size: int) -> bytes:
        """Read from the unpacked stream."""
        assert self._plain is not None
        content = self._plain.read(size)
        self.add(len(content))
        return content

    def count(self) -> None:
        """Count a file."""
        self.files += 1
        if self.files > MOST_FILES:
            self._refuse(f"more than {MOST_FILES:,} files")

    def add(self, size: int) -> None:
        """Count bytes."""
        self.bytes += size
        if self.bytes > MOST_BYTES:
            self._refuse(f"more than {MOST_BYTES >> 30} GiB unpacked")
        if self.bytes > max(HARMLESS_BYTES, MOST_RATIO * self._packed):
            self._refuse(f"more than {MOST_RATIO} times its size unpacked")

    def _refuse(self, excess: str) -> NoReturn:
        raise KetyError(
            f"{self._path}: is refused, it holds {excess}; if it is to be trusted, {_UNPACK}"
        )


@contextmanager
def _undamaged(path: Path) -> Iterator[None]:
    """Turn what the decoders of archives raise into one error."""
    try:
        yield
    except KetyError:
        raise
    except NotImplementedError as error:
        raise KetyError(f"{path}: cannot be unpacked here ({error}); {_UNPACK}") from error
    except _DAMAGE as error:
        raise KetyError(
            f"{path}: is damaged or no such archive ({str(error) or type(error).__name__}); copy "
            "it again"
        ) from error


def _spooled(packed: BinaryIO) -> BinaryIO:
    """A member as a seekable stream, in memory or, if large, in a file without a name."""
    stream = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115
    try:
        shutil.copyfileobj(packed, stream, 1 << 20)
        stream.seek(0)
    except BaseException:
        stream.close()
        raise
    return cast(BinaryIO, stream)


def _ignore(problem: Problem) -> None:
    return None
