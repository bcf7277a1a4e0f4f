"""NIfTI-1 and NIfTI-2 in single files, plain or gzip-compressed (nifti.nimh.nih.gov)."""

from __future__ import annotations

import gzip
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from kety.errors import KetyError
from kety.io import bids
from kety.io.failures import decoding
from kety.series import GRID_TOLERANCE_MM, Volume

# Of levels 1 to 6 the fastest; the slowest, a third slower, saves 2 %.
COMPRESSION: Final = 1

_GZIP_MAGIC: Final = b"\x1f\x8b"
_DEFLATE_LIMIT: Final = 1040  # deflate compresses by 1032 times at most
_HEADER_BYTES: Final = 540  # of NIfTI-2, the longer of the two
_KINDS: Final[tuple[Any, ...]] = (nib.Nifti1Image, nib.Nifti2Image)
_MM: Final[Mapping[str, float]] = {"unknown": 1.0, "mm": 1.0, "meter": 1e3, "micron": 1e-3}
_S: Final[Mapping[str, float]] = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}


def read(path: str | os.PathLike[str]) -> Volume:
    """Read a file with its JSON sidecar.

    The file's scaling is applied. Integers become float32, but for a series of int16 that stays
    whole within int16, which stays that; floats keep their precision. Uncompressed floats, and
    such a series, without scaling stay on disk, mapped copy-on-write; everything else is read.
    Arrays are Fortran ordered, as the files are.

    Raises
    ------
    KetyError
        If the file is missing, truncated, corrupt, not NIfTI or without real numbers, or its
        sidecar is not JSON.
    """
    path = Path(path)
    with decoding(path, "NIfTI"), _open(path) as stream:
        return _decode(path, stream)


def write(stream: BinaryIO, path: str | os.PathLike[str], volume: Volume) -> None:
    """Write a volume or stack to an open file, compressed if the path ends in ``.gz``.

    Equal volumes give equal bytes. The numbers keep their type; the affine's codes are kept where
    that kind of form can hold it.

    Parameters
    ----------
    stream
        Where to write.
    path
        Where that will be; only its extension matters.
    volume
        Its sidecar is not written.
    """
    image = _image(volume)
    if Path(path).suffix.lower() == ".gz":
        # No name and no time in the gzip header, or equal maps were different files.
        with gzip.GzipFile("", "wb", COMPRESSION, cast(Any, stream), mtime=0) as zipped:
            image.to_stream(zipped)
    else:
        image.to_stream(stream)


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    """Open for reading, decompressing by content and not by name."""
    with path.open("rb") as stream:
        magic = stream.read(2)
        stream.seek(0)
        if not magic:
            raise KetyError(f"{path}: is empty; copy or convert it again")
        if magic == _GZIP_MAGIC:
            with gzip.GzipFile(fileobj=stream, mode="rb") as unzipped:
                yield cast(BinaryIO, unzipped)
        else:
            yield stream


def _decode(path: Path, stream: BinaryIO) -> Volume:
    compressed = isinstance(stream, gzip.GzipFile)
    start = stream.read(_HEADER_BYTES)
    stream.seek(0)
    kind = next((k for k in _KINDS if k.header_class.may_contain_header(start)), None)
    if kind is None:
        if len(start) < 348:
            raise KetyError(f"{path}: is truncated within its header; copy or convert it again")
        raise KetyError(f"{path}: is not a NIfTI file; convert it to .nii or .nii.gz")
    image = kind.from_stream(stream)
    header, proxy = image.header, image.dataobj
    dtype = header.get_data_dtype()
    if dtype.kind not in "fiu":
        raise KetyError(f"{path}: voxels of type {dtype}; expected real numbers")
    # Checked before anything of that size is allocated.
    promised = math.prod(image.shape) * dtype.itemsize + int(proxy.offset)
    size = path.stat().st_size
    if promised > size * (_DEFLATE_LIMIT if compressed else 1):
        raise KetyError(
            f"{path}: is truncated: its header promises {promised} bytes"
            f"{' uncompressed' if compressed else ''}, the file holds {size}; copy or convert it "
            "again"
        )
    raw = np.asarray(proxy.get_unscaled())
    while compressed and stream.read(1 << 20):
        pass  # gzip compares its checksum only at the very end
    data = _scaled(raw, float(proxy.slope), float(proxy.inter))
    shape = (*data.shape, 1, 1)[: max(data.ndim, 3)]
    while len(shape) > 4 and shape[-1] == 1:
        shape = shape[:-1]
    space, time = header.get_xyzt_units()
    affine = np.array(image.affine, dtype=np.float64)
    affine[:3] *= _MM[space]
    return Volume(
        data.reshape(shape, order="F"),
        affine,
        path.name,
        _codes(path, header),
        bids.read_sidecar(path),
        _interval(float(header["pixdim"][4]), time),
    )


def _scaled(raw: NDArray[Any], slope: float, inter: float) -> NDArray[Any]:
    """Apply the file's scaling in double precision, frame by frame to bound memory."""
    floating = raw.dtype.kind == "f"
    dtype = np.dtype(f"f{min(raw.dtype.itemsize, 8)}") if floating else np.dtype("f4")
    if _stays_whole(raw, slope, inter):
        dtype = np.dtype("i2")
    if (slope, inter) == (1.0, 0.0):
        return raw.astype(dtype, order="K", copy=False)
    data = np.empty(raw.shape, dtype, order="F")
    for frame in np.ndindex(raw.shape[3:]):
        data[..., *frame] = raw[..., *frame] * np.float64(slope) + inter
    return data


def _stays_whole(raw: NDArray[Any], slope: float, inter: float) -> bool:
    """Whether a series is of int16 and stays so by the file's scaling: half the memory."""
    if raw.ndim < 4 or raw.dtype.newbyteorder("=") != np.int16:
        return False
    if (slope, inter) == (1.0, 0.0):
        return True
    if not (slope.is_integer() and inter.is_integer()):
        return False
    ends = [float(raw.min()) * slope + inter, float(raw.max()) * slope + inter]
    limits = np.iinfo(np.int16)
    return min(ends) >= limits.min and max(ends) <= limits.max


def _codes(path: Path, header: Any) -> tuple[int, int]:
    qform, sform = int(header["qform_code"]), int(header["sform_code"])
    if qform and sform and not _close(header.get_qform(), header.get_sform()):
        warnings.warn(
            f"{path}: its qform and sform disagree; the sform is used, and written alone",
            stacklevel=5,
        )
        return 0, sform
    return qform, sform


def _interval(step: float, unit: str) -> float | None:
    """Time between frames in s; a step without a unit of time, or not positive, says nothing."""
    return step * _S[unit] if unit in _S and np.isfinite(step) and step > 0 else None


def _image(volume: Volume) -> Any:
    data = volume.data
    if data.dtype.kind == "f" and data.dtype.itemsize not in (4, 8):
        data = data.astype(np.float32 if data.dtype.itemsize < 4 else np.float64)
    image = _KINDS[0](data, volume.affine, dtype=data.dtype)
    header = image.header
    header.set_xyzt_units("mm", "sec" if data.ndim == 4 and volume.interval else "unknown")
    if data.ndim == 4 and volume.interval:
        header["pixdim"][4] = volume.interval
    qform, sform = volume.codes
    image.set_qform(volume.affine, qform)
    if qform and not _close(header.get_qform(), volume.affine):
        image.set_qform(None)  # a qform has no shear
    image.set_sform(volume.affine, sform)
    if not _close(header.get_best_affine(), volume.affine):
        image.set_sform(volume.affine, qform or 2)
    return image


def _close(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    return np.allclose(one, other, rtol=1e-5, atol=GRID_TOLERANCE_MM)
