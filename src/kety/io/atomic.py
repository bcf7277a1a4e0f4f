"""Files that appear whole or not at all.

Everything is written under a temporary name in the folder it is meant for, and renamed when it is
complete, so that nobody ever reads half a file and a failure leaves the old one in place.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

import numpy as np

from kety.errors import KetyError

_NOT_WRITABLE: Final = "it cannot be written to; check its permissions or choose another folder"
_FULL: Final = "the disk is full; free some space or choose another folder"
_REASONS: Final[dict[int, str]] = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: "the disk quota is used up; free some space or choose another folder",
    errno.EFBIG: "the file would exceed the allowed size; raise the limit or choose another folder",
    errno.EACCES: _NOT_WRITABLE,
    errno.EPERM: _NOT_WRITABLE,
    errno.EROFS: "the disk is read-only; choose another folder",
    errno.ENOTDIR: "a part of its path is a file, not a folder; choose another folder",
    errno.EISDIR: "a folder of that name is in the way; move it or choose another folder",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}


class OutputError(KetyError, OSError):
    """Output that could not be written; the message names the path, the reason and what to do."""


def output_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder for output, with its parents, and return it.

    Raises
    ------
    OutputError
        If it is a file, or cannot be made.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise OutputError(
            f"{folder}: cannot be the output folder, a file has that name; choose another folder"
        ) from error
    except OSError as error:
        raise _output_error(folder, error) from error
    return folder


@contextmanager
def new_folder(path: str | os.PathLike[str], *, replacing: str) -> Iterator[Path]:
    """Fill a folder that appears when the context is left, for files by the thousand.

    Parameters
    ----------
    path
        The folder; its parents are made.
    replacing
        Pattern of file names, as of `fnmatch`. A folder that is there already is replaced, if it
        holds nothing but such files.

    Yields
    ------
    A folder to write to. An exception inside removes it, and leaves what was there before.

    Raises
    ------
    OutputError
        If there is such a folder with other content, or it cannot be written.
    """
    final = Path(path)
    parent = output_folder(final.absolute().parent)
    _check_replaceable(final, replacing)
    temporary = parent / f".kety-{secrets.token_hex(8)}.tmp"
    try:
        temporary.mkdir()
        yield temporary
        _check_replaceable(final, replacing)
        if final.exists():
            old = parent / f".kety-{secrets.token_hex(8)}.tmp"
            final.rename(old)
            temporary.rename(final)
            shutil.rmtree(old)
        else:
            temporary.rename(final)
    except OSError as error:
        raise _output_error(final, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_replaceable(folder: Path, names: str) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputError(f"{folder}: is a file; move it or choose another folder")
    other = next((p.name for p in folder.iterdir() if not fnmatch(p.name, names)), None)
    if other is not None:
        raise OutputError(
            f"{folder}: holds {other}, which would be lost with the folder; choose another folder"
        )


class Batch:
    """Files that appear together, as a context manager.

    Each is written under a temporary name beside its final one. Leaving the context renames them
    all, in the order they were opened; an exception inside, an interruption included, removes them
    and leaves what was there before. Files of a batch may be written from several threads.

    Parameters
    ----------
    overwrite
        Whether a file may replace an existing one. Files outside the batch are never touched.
    """

    def __init__(self, *, overwrite: bool = True) -> None:
        self._overwrite = overwrite
        self._files: list[tuple[Path, Path]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._commit()
        finally:
            for temporary, _ in self._files:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)

    @contextmanager
    def open(self, path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
        """Open one file of the batch for writing.

        Raises
        ------
        OutputError
            If it cannot be written, or exists and must not be replaced.
        """
        final = Path(path)
        # A short name of its own: the final one may be as long as the disk allows.
        temporary = final.parent / f".kety-{secrets.token_hex(8)}.tmp"
        try:
            if final.is_dir():
                raise IsADirectoryError(errno.EISDIR, "is a folder")
            if not self._overwrite and final.exists():
                raise OutputError(
                    f"{final}: exists already; choose another folder or allow it to be overwritten"
                )
            # os.open gives the mode that the umask asks for; tempfile would make it private.
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except OSError as error:
            raise _output_error(final, error) from error
        self._files.append((temporary, final))
        stream = os.fdopen(descriptor, "wb")
        try:
            yield stream
            stream.flush()
            # Disks that allocate late report that they are full only here.
            os.fsync(stream.fileno())
            stream.close()
        except OSError as error:
            raise _output_error(final, error) from error
        finally:
            with suppress(OSError):
                stream.close()

    def write(self, path: str | os.PathLike[str], content: bytes) -> None:
        """Write one whole file of the batch; raises as `open` does."""
        with self.open(path) as stream:
            stream.write(content)

    def write_json(self, path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
        """Write a record as JSON that every reader takes; raises as `open` does.

        Arrays become lists, NaN and infinity null, and what JSON does not know its `str`.
        """
        text = json.dumps(_plain(content), indent=2, ensure_ascii=False, allow_nan=False)
        self.write(path, (text + "\n").encode())

    def _commit(self) -> None:
        for temporary, final in self._files:
            try:
                os.replace(temporary, final)
            except OSError as error:
                raise _output_error(final, error) from error


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    return str(value)


def _output_error(path: Path, error: OSError) -> OutputError:
    if isinstance(error, OutputError):
        return error
    if isinstance(error, FileNotFoundError):
        reason = f"there is no folder {path.parent}; make it first or choose another"
    else:
        reason = _REASONS.get(error.errno or 0, f"{error.strerror or error}; choose another folder")
    wrapped = OutputError(f"{path}: not written, {reason}")
    wrapped.errno = error.errno
    return wrapped
