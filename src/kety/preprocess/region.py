"""A smaller series: a box cut out of it, or the means of blocks of its voxels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kety.errors import KetyError
from kety.series import Series
from kety.slices import SAME_S

Interval = tuple[int | None, int | None]

_AXES: Final = "xyz"
_EXAMPLE: Final = "expected x0:x1,y0:y1,z0:z1, e.g. 10:60,20:80,: (an empty end is the image's)"


@dataclass(frozen=True)
class Box:
    """Voxels from a first index up to, and without, a last one along each axis.

    Attributes
    ----------
    x, y, z
        ``(first, last)``, voxel indices counted from 0, half open as in Python; None stands for
        the end of the image.

    Raises
    ------
    KetyError
        If an index is negative or no voxel lies between the two.
    """

    x: Interval = (None, None)
    y: Interval = (None, None)
    z: Interval = (None, None)

    def __post_init__(self) -> None:
        for axis, (first, last) in zip(_AXES, (self.x, self.y, self.z), strict=True):
            negative = [n for n in (first, last) if n is not None and n < 0]
            if negative:
                raise KetyError(
                    f"crop: index {negative[0]} along {axis} is negative; indices count from 0, "
                    "and an empty end stands for the image's"
                )
            if last is not None and last <= (first or 0):
                raise KetyError(
                    f"crop: {first or 0}:{last} along {axis} holds no voxel; the last index is not "
                    "part of the box, so one voxel is n:n+1"
                )

    @classmethod
    def parse(cls, text: str) -> Box:
        """Read ``"x0:x1,y0:y1,z0:z1"``; an empty part, or end of one, reaches as far as the image.

        Raises
        ------
        KetyError
            If the text is not of that form, or as `Box`.
        """
        parts = [part.strip() for part in text.split(",")]
        if len(parts) != 3:
            raise KetyError(f"crop {text!r} has {len(parts)} part(s); {_EXAMPLE}")
        return cls(*(_interval(part, text) for part in parts))

    def slices(self, shape: Sequence[int]) -> tuple[slice, slice, slice]:
        """The box as slices of a grid (X, Y, Z).

        Raises
        ------
        KetyError
            If it reaches beyond the grid.
        """
        found: list[slice] = []
        for axis, (first, last), size in zip(_AXES, (self.x, self.y, self.z), shape, strict=True):
            start, stop = first or 0, size if last is None else last
            if start >= size or stop > size:
                raise KetyError(
                    f"crop: {start}:{stop} along {axis} reaches beyond the image, which has "
                    f"{size} voxel(s) there and the indices 0:{size}"
                )
            found.append(slice(start, stop))
        x, y, z = found
        return x, y, z


def _interval(part: str, text: str) -> Interval:
    if not part:
        return None, None
    first, colon, last = (piece.strip() for piece in part.partition(":"))
    try:
        if not colon:
            raise ValueError
        return (int(first) if first else None), (int(last) if last else None)
    except ValueError:
        raise KetyError(f"crop {text!r}: cannot read {part!r}; {_EXAMPLE}") from None


@dataclass(frozen=True)
class Blocks:
    """Blocks of voxels that become one voxel each; ``factors`` are their sizes along x, y, z.

    Attributes
    ----------
    factors
        Whole numbers of 1 or more. Along an axis of one voxel every factor counts as 1.

    Raises
    ------
    KetyError
        If they are not three such numbers.
    """

    factors: tuple[int, int, int]

    def __post_init__(self) -> None:
        if len(self.factors) != 3 or not all(_is_whole(f) and f >= 1 for f in self.factors):
            raise KetyError(
                f"downsample: found {self.factors!r}; expected one whole number of 1 or more, or "
                "one along each of x, y and z"
            )

    @classmethod
    def of(cls, factor: int | Sequence[int]) -> Blocks:
        """One factor in the plane (x and y; slices stay apart), or one along each axis.

        Raises
        ------
        KetyError
            As `Blocks`.
        """
        if _is_whole(factor):
            return cls((factor, factor, 1))  # type: ignore[arg-type]
        given = tuple(factor) if isinstance(factor, Sequence) else (factor,)
        return cls(given)  # type: ignore[arg-type]

    def sizes(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """The size of a block on a grid (X, Y, Z), which must hold one block at least.

        Raises
        ------
        KetyError
            If an axis of more than one voxel is shorter than a block.
        """
        for axis, factor, size in zip(_AXES, self.factors, shape, strict=True):
            if 1 < size < factor:
                raise KetyError(
                    f"downsample: blocks of {factor} voxels along {axis} do not fit into the "
                    f"{size} voxels of the image; give a smaller factor"
                )
        x, y, z = (
            factor if size > 1 else 1 for factor, size in zip(self.factors, shape, strict=True)
        )
        return x, y, z

    def mean(self, values: NDArray[Any]) -> NDArray[Any]:
        """Means over the blocks of an image (X, Y, Z) or of each image of (X, Y, Z, N).

        Voxels beyond the last whole block are dropped. NaN is left out of the mean; a block
        without any number is NaN.

        Returns
        -------
        ndarray, Fortran order, of the shape in blocks
            The type of floating-point values is kept; others become float32, of 32 bits or more
            float64.

        Raises
        ------
        KetyError
            As `sizes`.
        """
        sizes = self.sizes(values.shape[:3])
        shape = tuple(n // f for n, f in zip(values.shape[:3], sizes, strict=True))
        dtype = np.result_type(values.dtype, np.float32)
        means = np.empty((*shape, *values.shape[3:]), dtype, order="F")
        for frame in np.ndindex(values.shape[3:]):
            total, number = np.zeros(shape), np.zeros(shape)
            for part in _members(values[..., *frame], sizes, shape):
                known = ~np.isnan(part)
                total += np.where(known, part, 0)
                number += known
            # Infinite values of both signs have no mean, and neither have no values.
            with np.errstate(invalid="ignore"):
                means[..., *frame] = total / number
        return means

    def half(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Blocks (X', Y', Z') at least half of whose voxels are in a mask (X, Y, Z).

        Raises
        ------
        KetyError
            As `sizes`.
        """
        sizes = self.sizes(mask.shape)
        shape = tuple(n // f for n, f in zip(mask.shape, sizes, strict=True))
        number = np.zeros(shape, dtype=np.int64)
        for part in _members(mask, sizes, shape):
            number += part
        return np.asarray(2 * number >= np.prod(sizes))


def _is_whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _members(
    image: NDArray[Any], sizes: Sequence[int], shape: Sequence[int]
) -> Iterator[NDArray[Any]]:
    """The first voxels of all blocks, then the second ones, and so on."""
    for offsets in product(*map(range, sizes)):
        yield image[
            tuple(
                slice(offset, offset + size * number, size)
                for offset, size, number in zip(offsets, sizes, shape, strict=True)
            )
        ]


def crop(series: Series, box: Box | str) -> Series:
    """Cut a box out of a series.

    Parameters
    ----------
    series
        Its mask is cut with it, and its affine moved, so that every voxel keeps its place in mm.
    box
        A `Box`, or what `Box.parse` reads.

    Returns
    -------
    Series
        With data of its own, so that the whole series need not stay in memory, and without
        ``slice_times`` where the slices that are left have the same times.

    Raises
    ------
    KetyError
        If the box is malformed or reaches beyond the image, or no voxel of the mask lies in it.
    """
    box = Box.parse(box) if isinstance(box, str) else box
    slices = box.slices(series.shape)
    mask = None if series.mask is None else series.mask[slices]
    if mask is not None and not mask.any():
        raise KetyError(f"{series.source or 'the series'}: no voxel of the mask lies in the crop")
    affine = series.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [one.start for one in slices]
    data = series.data[slices].copy(order="K")
    rows = None if series.slice_times is None else series.slice_times[slices[2]]
    return replace(series, data=data, affine=affine, mask=mask, **_times(series, rows))


def _times(series: Series, rows: NDArray[np.float64] | None) -> dict[str, Any]:
    """Times of a series whose slices have these (Z', T); those of one row are the frames'."""
    if rows is None:
        return {"times": series.times}
    if np.ptp(rows, axis=0).max() <= SAME_S:
        return {"times": rows[0], "slice_times": None}
    return {"times": rows.mean(axis=0), "slice_times": rows}


def _block_times(series: Series, sizes: Sequence[int]) -> NDArray[np.float64] | None:
    """Times (Z', T) of blocks of slices, which must have been acquired together."""
    if series.slice_times is None:
        return None
    depth = sizes[2]
    whole = series.shape[2] // depth
    rows = series.slice_times[: whole * depth].reshape(whole, depth, -1)
    apart = np.ptp(rows, axis=1).max(axis=1)
    if apart.max() > SAME_S:
        first = int(np.argmax(apart > SAME_S)) * depth
        raise KetyError(
            f"downsample: slices {first} to {first + depth - 1} were acquired up to "
            f"{apart.max():.3g} s apart and have no mean at one time; downsample in the plane "
            "alone, or crop to slices that were acquired together"
        )
    return np.asarray(rows[:, 0])


def downsample(series: Series, factor: int | Sequence[int] | Blocks) -> Series:
    """Average a series over blocks of voxels.

    The multi-task study estimates "at lower image resolutions", without saying how they are made;
    the mean over a block is what a scanner with voxels of that size would have measured.

    Parameters
    ----------
    series
        Voxels that are NaN at a frame are left out of that frame's means; those outside the mask
        are not.
    factor
        Voxels along each side of a block: one number for x and y (slices stay apart), or one for
        each axis. An axis of one voxel stays as it is. Where a factor does not divide the number
        of voxels, those beyond the last whole block, at the far edge, are dropped.

    Returns
    -------
    Series
        A block is in the mask where at least half of its voxels are; the affine has the blocks'
        size and centres.

    Raises
    ------
    KetyError
        If a factor is not a whole number of 1 or more, a block does not fit into the image, no
        block is left in the mask, or slices of a block were acquired at different times.
    """
    blocks = factor if isinstance(factor, Blocks) else Blocks.of(factor)
    sizes = blocks.sizes(series.shape)
    mask = None if series.mask is None else blocks.half(series.mask)
    if mask is not None and not mask.any():
        raise KetyError(
            f"{series.source or 'the series'}: no block of {' × '.join(map(str, sizes))} voxels "
            "has half of its voxels in the mask; downsample less"
        )
    affine = series.affine.copy()
    # The centre of the first block lies (f - 1) / 2 voxels from that of its first voxel.
    affine[:3, 3] += affine[:3, :3] @ [(f - 1) / 2 for f in sizes]
    affine[:3, :3] *= sizes
    times = _times(series, _block_times(series, sizes))
    return replace(series, data=blocks.mean(series.data), affine=affine, mask=mask, **times)
