"""The voxels of an image as rows, in the order in which they lie in memory, and curves that are
computed where they are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError


@dataclass(frozen=True, eq=False)
class AboveLevel:
    """Curves above a level of each, subtracted where they are read: no copy of a series.

    `kety.fit` and its companions take it for curves; to NumPy it is an array (`np.asarray`
    computes all of it), and indices give arrays.

    Attributes
    ----------
    data : (..., T) array
        Any real dtype and memory order.
    level : (...) array
        Of the dtype of the result, NaN where nothing is known.
    """

    data: NDArray[Any]
    level: NDArray[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.level.dtype

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """As of an array; fast for an index of voxels, which names no frames."""
        if isinstance(index, tuple) and any(one is ... for one in index):
            level = np.broadcast_to(self.level[..., np.newaxis], self.shape)[index]
        else:
            level = self.level[index][..., np.newaxis]
        with np.errstate(invalid="ignore"):  # infinite samples
            return np.asarray(np.subtract(self.data[index], level, dtype=self.dtype))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("curves above a level are computed, so they cannot but be copied")
        return self[...].astype(dtype or self.dtype, copy=False)

    def rows(self, order: Any) -> AboveLevel:
        """The voxels as rows (N, T)."""
        return AboveLevel(
            self.data.reshape(-1, self.shape[-1], order=order), self.level.reshape(-1, order=order)
        )


@dataclass(frozen=True)
class Voxels:
    """Curves of all voxels, and which of them count.

    Attributes
    ----------
    curves : (N, T) array
        A view where memory allows it: a Fortran-ordered series is not copied. Rows are read by
        index, `AboveLevel` does not have more of an array.
    rows : (n,) array or None
        Those inside the mask; None for all.
    shape : tuple of int
        Shape of the image.
    order : {"C", "F"}
        Order of the rows in the image.
    """

    curves: NDArray[Any] | AboveLevel
    rows: NDArray[np.intp] | None
    shape: tuple[int, ...]
    order: Any

    @property
    def count(self) -> int:
        """Number of voxels inside the mask."""
        return len(self.curves) if self.rows is None else len(self.rows)

    def blocks(self, size: int) -> Iterator[Any]:
        """Rows of the voxels inside the mask, at most `size` at a time: slices where possible."""
        for start in range(0, self.count, size):
            stop = min(start + size, self.count)
            yield slice(start, stop) if self.rows is None else self.rows[start:stop]

    def flat(self, image: ArrayLike) -> NDArray[Any]:
        """Values (N, ...) of an image (..., ...) in the order of the rows."""
        values = np.asarray(image)
        return values.reshape(-1, *values.shape[len(self.shape) :], order=self.order)

    def image(self, flat: NDArray[Any]) -> NDArray[Any]:
        """An image of values (N, ...)."""
        return flat.reshape(*self.shape, *flat.shape[1:], order=self.order)


def voxels_of(curves: ArrayLike | AboveLevel, frames: int, mask: ArrayLike | None) -> Voxels:
    """The voxels of curves (..., T) that a mask (...) chooses.

    Raises
    ------
    KetyError
        For curves that are no real numbers or have another number of frames, and for a mask of
        another shape.
    """
    data = curves if isinstance(curves, AboveLevel) else np.asarray(curves)
    if data.dtype.kind not in "fiu":
        raise KetyError(f"curves must be real numbers, found dtype {data.dtype}")
    if data.ndim < 1 or data.shape[-1] != frames:
        raise KetyError(
            f"curves have shape {data.shape}; the last axis must hold the {frames} frames that "
            "times has"
        )
    flags = data.data.flags if isinstance(data, AboveLevel) else data.flags
    order: Any = "F" if flags.f_contiguous and not flags.c_contiguous else "C"
    shape = data.shape[:-1]
    rows = (
        data.rows(order)
        if isinstance(data, AboveLevel)
        else data.reshape(-1, data.shape[-1], order=order)
    )
    return Voxels(rows, _inside(mask, shape, order), shape, order)


def _inside(mask: ArrayLike | None, shape: tuple[int, ...], order: Any) -> NDArray[np.intp] | None:
    if mask is None:
        return None
    m = np.asarray(mask)
    if m.shape != shape:
        raise KetyError(f"mask has shape {m.shape}, the curves' voxels have {shape}")
    if m.dtype.kind not in "fiub":
        raise KetyError(f"mask must be true or false for every voxel, found dtype {m.dtype}")
    flat = np.ravel(m, order=order)
    inside = (flat != 0) & (flat == flat)  # NaN is outside
    return None if inside.all() else np.flatnonzero(inside)
