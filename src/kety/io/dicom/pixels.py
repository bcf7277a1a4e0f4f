"""The numbers of a series: stored values, rescaled, in one array (X, Y, Z, T).

Images are taken one after the other, so that memory is that of the result and one image. Native
pixels are read straight from the file; compressed ones by the decoders that pydicom finds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kety.errors import KetyError, MissingDependencyError
from kety.io.dicom.archive import Problem, each_file
from kety.io.dicom.elements import DEFLATED, EXPLICIT_BIG
from kety.io.dicom.headers import Image

_INT16: Final = np.iinfo(np.int16)


def scaling(images: Sequence[Image]) -> str:
    """How stored values become numbers, in words.

    Philips' private scale makes MR values of different series comparable (Chenevert et al., Transl
    Oncol 2014, 7:65, doi:10.1593/tlo.13811); it is used where every image has it.
    """
    if _by_philips(images):
        return "(stored · slope + intercept) / (slope · Philips' scale slope)"
    if all((image.slope, image.intercept) == (1.0, 0.0) for image in images):
        return "stored values"
    return "stored · slope + intercept"


class Pixels(NamedTuple):
    """The numbers of a series, and where they are measured.

    ``data`` is (X, Y, Z, T), Fortran ordered; int16 where all values are whole numbers that fit,
    else float32. ``measured`` is (X, Y, Z), False where a pixel is padding in any phase; None where
    none is.
    """

    data: NDArray[Any]
    measured: NDArray[np.bool_] | None


def load(path: Path, images: Sequence[Image], order: NDArray[np.intp]) -> Pixels:
    """Read the pixels of a series.

    Parameters
    ----------
    path
        Folder, archive or file that the images are in.
    images
        (N,), all of one matrix.
    order
        (Z, T), index of every image.

    Raises
    ------
    KetyError
        If a file is gone, damaged, or holds other pixels than its header says.
    MissingDependencyError
        If no decoder for a compression is installed.
    """
    places = {int(index): place for place, index in np.ndenumerate(order)}
    by_file: dict[str, list[int]] = defaultdict(list)
    for index in order.T.ravel().tolist():
        by_file[images[index].file].append(index)
    header = images[0].header
    philips = _by_philips(images)
    scales = {_scale(image, philips) for image in images}
    whole = all(slope.is_integer() and intercept.is_integer() for slope, intercept in scales)
    shape = (header.columns, header.rows, *order.shape)
    data = np.empty(shape, np.int16 if whole else np.float32, order="F")
    measured: NDArray[np.bool_] | None = None
    lost: list[Problem] = []
    seen = 0
    for file, stream in each_file(path, lost.append, by_file):
        for index, stored in _stored(
            stream, file, [images[i] for i in by_file[file]], by_file[file]
        ):
            values = _rescaled(stored, *_scale(images[index], philips), data.dtype)
            if values.dtype != data.dtype:
                data = data.astype(np.float32, order="F")
            data[(..., *places[index])] = values.T
            padded = _padded(stored, images[index])
            if padded is not None:
                if measured is None:
                    measured = np.ones(shape[:3], np.bool_, order="F")
                measured[..., places[index][0]] &= ~padded.T
            seen += 1
    if seen < order.size:
        reason = f": {lost[0].file} {lost[0].reason}" if lost else ""
        raise KetyError(
            f"{path}: {order.size - seen} of {order.size} images were lost while it was read"
            f"{reason}; read it again"
        )
    return Pixels(data, measured)


def _padded(stored: NDArray[Any], image: Image) -> NDArray[np.bool_] | None:
    """Where an image is padding, such as the corners of CT; None where nowhere."""
    if image.header.padding is None:
        return None
    first, last = image.header.padding
    padded = np.asarray((stored >= first) & (stored <= last))
    return padded if padded.any() else None


def _by_philips(images: Sequence[Image]) -> bool:
    return all(image.philips for image in images)


def _scale(image: Image, philips: bool) -> tuple[float, float]:
    """Slope and intercept from stored values."""
    if not philips:
        return image.slope, image.intercept
    return 1.0 / image.philips, image.intercept / (image.slope * image.philips)


def _rescaled(
    stored: NDArray[Any], slope: float, intercept: float, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Values in the type wanted, or in float32 where integers do not fit it."""
    if dtype == np.int16:
        ends = sorted(
            int(end) * int(slope) + int(intercept) for end in (stored.min(), stored.max())
        )
        if ends[0] < _INT16.min or ends[1] > _INT16.max:
            return (stored * np.float64(slope) + intercept).astype(np.float32)
        # What fits in the end may overflow on the way: arithmetic modulo 2¹⁶ does not mind.
        values = stored.astype(np.int16)
        if slope != 1.0:
            values = values * np.int64(slope).astype(np.int16)
        return values + np.int64(intercept).astype(np.int16) if intercept else values
    return (stored * np.float64(slope) + intercept).astype(np.float32)


def _stored(
    stream: BinaryIO, file: str, images: Sequence[Image], indices: Sequence[int]
) -> Iterator[tuple[int, NDArray[Any]]]:
    """Index and stored values (rows, columns) of the images of one file."""
    pairs = sorted(zip(indices, images, strict=True), key=lambda pair: pair[1].frame)
    if images[0].offset:
        for index, image in pairs:
            yield index, _native(stream, image)
        return
    yield from zip(
        (index for index, _ in pairs), _decoded(stream, file, [i for _, i in pairs]), strict=True
    )


def _native(stream: BinaryIO, image: Image) -> NDArray[Any]:
    header = image.header
    allocated, stored, _ = header.bits
    order = ">" if header.syntax == EXPLICIT_BIG else "<"
    kind = np.dtype(f"{order}{'i' if header.signed else 'u'}{allocated // 8}")
    count = header.rows * header.columns
    stream.seek(image.offset)
    content = stream.read(count * kind.itemsize)
    if len(content) < count * kind.itemsize:
        raise KetyError(f"{image.file}: has become shorter while it was read; read it again")
    values = np.frombuffer(content, kind).reshape(header.rows, header.columns)
    unused = allocated - stored
    if unused:
        # What lies above the stored bits, once overlays, is no part of the value.
        values = (values << unused) >> unused
    return values


def _decoded(stream: BinaryIO, file: str, images: Sequence[Image]) -> Iterator[NDArray[Any]]:
    """Stored values by pydicom's decoders, one frame at a time."""
    from pydicom import dcmread
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.pixels.utils import iter_pixels
    from pydicom.uid import UID

    header = images[0].header
    syntax = UID(header.syntax)
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise KetyError(
            f"{file}: its transfer syntax {syntax.name} cannot be decoded; convert the images to "
            "an uncompressed one, such as Explicit VR Little Endian, or export them so"
        ) from None
    if not decoder.is_available:
        raise MissingDependencyError(
            f"{file}: is compressed by {syntax.name}, and no decoder for it is installed; "
            "pip install 'kety[dicom-compressed]'"
        )
    try:
        # Behind a deflated header no decoder finds the pixels by itself.
        source = dcmread(stream) if syntax == DEFLATED else stream
        frames = iter_pixels(source, indices=[image.frame for image in images], raw=True)
        for values in frames:
            if values.shape != (header.rows, header.columns):
                raise KetyError(
                    f"{file}: holds frames of shape {values.shape}, but its header says "
                    f"{(header.rows, header.columns)}; export it again"
                )
            yield values
    except (MemoryError, KetyError):
        raise
    except Exception as error:
        # Decoders of damaged data raise nearly anything.
        raise KetyError(
            f"{file}: its pixels ({syntax.name}) cannot be decoded "
            f"({str(error) or type(error).__name__}); copy or export it again"
        ) from error
