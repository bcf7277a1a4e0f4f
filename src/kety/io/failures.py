"""What goes wrong in reading a file, as one kind of error that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kety.errors import KetyError


@contextmanager
def decoding(path: Path, kind: str) -> Iterator[None]:
    """Read and decode a file; whatever goes wrong is a KetyError that names it.

    Parameters
    ----------
    path
        Of the file.
    kind
        What it is read as, for messages, e.g. ``"NIfTI"``.
    """
    try:
        yield
    except KetyError:
        raise
    except FileNotFoundError as error:
        raise KetyError(f"{path}: there is no such file") from error
    except IsADirectoryError as error:
        raise KetyError(f"{path}: is a folder; name the file in it") from error
    except PermissionError as error:
        raise KetyError(f"{path}: may not be read; check its permissions") from error
    except EOFError as error:
        raise KetyError(f"{path}: is truncated; copy or convert it again") from error
    except Exception as error:
        # A damaged file makes the decoders raise nearly anything; the reader's answer is one.
        raise KetyError(
            f"{path}: cannot be read as {kind} ({str(error) or type(error).__name__}); it is "
            "damaged or of another format, copy or convert it again"
        ) from error
