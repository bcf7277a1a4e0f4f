"""What a reader returns: the dynamic series and the single volume, on their voxel grids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError

MODALITIES: Final[tuple[str, ...]] = ("CT", "MR")
GRID_TOLERANCE_MM: Final = 1e-3
SLICE_TIME_TOLERANCE_S: Final = 1e-3


@dataclass(frozen=True, eq=False)
class Series:
    """A dynamic series: one volume per time.

    ``data`` is kept as it is, without a copy, whatever its layout. NIfTI files give Fortran order
    (x fastest, t slowest), possibly mapped from the file; code that reads through strides takes
    ``data`` itself, since no (V, T) view of that layout keeps the voxels in the order of
    ``array[mask]``.

    Parameters
    ----------
    data
        (X, Y, Z, T), floating point or integer: signal, HU or concentration. NaN is allowed.
    times
        (T,) in s, finite and strictly increasing.
    affine
        (4, 4), from voxel indices to mm.
    modality
        ``"CT"`` or ``"MR"``.
    acquisition
        Finite numbers by name, e.g. ``repetition_time`` (s), ``flip_angle`` (degrees) and
        ``echo_time`` (s).
    mask
        (X, Y, Z) bool, True for the voxels to use; None for all.
    source
        Name of the file that the data came from.
    times_from
        Where the times came from, in words.
    codes
        NIfTI qform and sform codes of the affine, kept so that maps say the same.
    slice_times
        (Z, T) in s: every slice's own times, on the clock of ``times``, where the slices of a
        phase were not acquired together (a shuttling table, slices in turn). Finite and strictly
        increasing in every row; ``times`` is their mean over the slices. None where ``times``
        holds for all slices.

    Raises
    ------
    KetyError
        If any of these does not hold.
    """

    data: NDArray[Any]
    times: NDArray[np.float64]
    affine: NDArray[np.float64]
    modality: str
    acquisition: Mapping[str, float] = field(default_factory=dict)
    mask: NDArray[np.bool_] | None = None
    source: str = ""
    times_from: str = ""
    codes: tuple[int, int] = (1, 1)
    slice_times: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        name = self.source or "the series"
        data = np.asarray(self.data)
        if data.ndim != 4:
            raise KetyError(
                f"{name}: data of shape {data.shape} have {data.ndim} dimensions; a dynamic series "
                "has 4, (x, y, z, time); give a single slice the shape (x, y, 1, time)"
            )
        check_numbers(data, name)
        if data.shape[3] < 2:
            raise KetyError(f"{name}: one frame only; a dynamic series needs at least 2")
        if self.modality not in MODALITIES:
            raise KetyError(
                f"{name}: unknown modality {self.modality!r}; valid: {', '.join(MODALITIES)}"
            )
        _set(self, "data", data)
        _set(self, "times", check_times(self.times, data.shape[3], name))
        _set(self, "affine", check_affine(self.affine, name))
        _set(self, "acquisition", _check_acquisition(self.acquisition, name))
        if self.mask is not None:
            _set(self, "mask", self._check_mask(self.mask))
        if self.slice_times is not None:
            _set(self, "slice_times", _check_slice_times(self.slice_times, self, name))

    @property
    def shape(self) -> tuple[int, int, int]:
        """The grid (X, Y, Z)."""
        x, y, z, _ = self.data.shape
        return x, y, z

    def curves(self, mask: ArrayLike | None = None) -> NDArray[Any]:
        """Return the voxels' curves, one row each, in the order of ``array[mask]`` (z fastest).

        Parameters
        ----------
        mask
            (X, Y, Z) bool, in place of the series' own. Without either, all voxels.

        Returns
        -------
        (V, T) in the data's own type. All voxels of C-ordered data are a view; everything else is
        a copy, and that of Fortran-ordered data keeps each frame contiguous (``curves.T`` is C
        ordered), which is several times faster than to transpose it.

        Raises
        ------
        KetyError
            If the mask is not a bool array on the series' grid, or is empty.
        """
        chosen = self.mask if mask is None else self._check_mask(mask)
        data, frames = self.data, self.data.shape[3]
        if data.flags.c_contiguous or not data.flags.f_contiguous:
            return data.reshape(-1, frames) if chosen is None else data[chosen]
        if chosen is None:
            chosen = np.ones(self.shape, dtype=np.bool_)
        voxels = np.ravel_multi_index(np.nonzero(chosen), self.shape, order="F")
        by_frame = data.reshape(-1, frames, order="F")
        curves = np.empty((frames, voxels.size), data.dtype)
        for frame in range(frames):
            np.take(by_frame[:, frame], voxels, out=curves[frame])
        return curves.T

    def _check_mask(self, mask: ArrayLike) -> NDArray[np.bool_]:
        name = self.source or "the series"
        array = np.asarray(mask)
        if array.dtype != np.bool_:
            raise KetyError(f"mask of type {array.dtype}, expected bool; pass e.g. `mask != 0`")
        if array.shape != self.shape:
            raise KetyError(
                f"mask of shape {array.shape} does not lie on the grid {self.shape} of {name}; "
                "resample it with nearest neighbours"
            )
        if not array.any():
            raise KetyError(f"the mask for {name} is empty; at least one voxel must be True")
        return array


@dataclass(frozen=True, eq=False)
class Volume:
    """One 3-D volume, or a stack of them, e.g. one per flip angle; what a file format holds.

    Parameters
    ----------
    data
        (X, Y, Z) or (X, Y, Z, N), floating point or integer.
    affine
        (4, 4), from voxel indices to mm.
    source
        Name of the file that the data came from.
    codes
        NIfTI qform and sform codes of the affine.
    sidecar
        Its metadata by BIDS names, as the JSON file beside it has them.
    interval
        Time between the volumes of a stack in s, None where the file does not say.

    Raises
    ------
    KetyError
        If any of these does not hold.
    """

    data: NDArray[Any]
    affine: NDArray[np.float64]
    source: str = ""
    codes: tuple[int, int] = (1, 1)
    sidecar: Mapping[str, Any] = field(default_factory=dict)
    interval: float | None = None

    def __post_init__(self) -> None:
        name = self.source or "the volume"
        data = np.asarray(self.data)
        if data.ndim not in (3, 4):
            raise KetyError(
                f"{name}: data of shape {data.shape} have {data.ndim} dimensions; expected 3, or 4 "
                "for a series or stack"
            )
        check_numbers(data, name)
        _set(self, "data", data)
        _set(self, "affine", check_affine(self.affine, name))

    @property
    def shape(self) -> tuple[int, int, int]:
        """The grid (X, Y, Z)."""
        x, y, z = self.data.shape[:3]
        return x, y, z


def check_same_grid(volume: Series | Volume, like: Series | Volume) -> None:
    """Check that two images share one voxel grid: shape, and affine to 0.001 mm in every entry.

    Raises
    ------
    KetyError
        If they do not; the message names both and what to do.
    """
    name, other = volume.source or "the volume", like.source or "the series"
    if volume.shape != like.shape:
        found = f"shape {volume.shape} against {like.shape}"
    else:
        difference = np.abs(volume.affine - like.affine)
        if difference.max() <= GRID_TOLERANCE_MM:
            return
        corner = np.array([*volume.shape, 1.0])
        shift = float(np.abs((volume.affine - like.affine) @ corner)[:3].max())
        found = (
            f"the same shape {volume.shape} but affines that differ by up to "
            f"{difference.max():.4g} mm (allowed: {GRID_TOLERANCE_MM:g}), "
            f"{shift:.4g} mm at the far corner"
        )
    raise KetyError(
        f"{name} lies on another grid than {other}: {found}; resample {name} onto the grid of "
        f"{other} (a mask or labels with nearest neighbours)"
    )


def check_times(times: ArrayLike, frames: int, name: str) -> NDArray[np.float64]:
    """Return frame times as a float64 array of their own, (T,) in s.

    Raises
    ------
    KetyError
        If there is not one finite time per frame, or they do not increase strictly.
    """
    array = np.array(times, dtype=np.float64)
    if array.ndim != 1 or array.size != frames:
        raise KetyError(
            f"{name}: times of shape {array.shape} for {frames} frames; give one time per frame"
        )
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise KetyError(f"{name}: time {array[bad[0]]} at frame {bad[0]}; every time is finite")
    bad = np.flatnonzero(np.diff(array) <= 0)
    if bad.size:
        first = int(bad[0])
        raise KetyError(
            f"{name}: times do not increase strictly: {array[first]:g} s at frame {first}, then "
            f"{array[first + 1]:g} s; put the frames in order of time"
        )
    return array


def check_affine(affine: ArrayLike, name: str) -> NDArray[np.float64]:
    """Return an affine as a float64 array of its own, (4, 4) to mm.

    Raises
    ------
    KetyError
        If it is not a finite, invertible affine.
    """
    array = np.array(affine, dtype=np.float64)
    if array.shape != (4, 4):
        raise KetyError(f"{name}: affine of shape {array.shape}, expected (4, 4)")
    if not np.isfinite(array).all() or not np.array_equal(array[3], [0, 0, 0, 1]):
        raise KetyError(
            f"{name}: the affine must be finite with (0, 0, 0, 1) as its last row, found "
            f"{array.tolist()}; repair the image's orientation"
        )
    if np.linalg.matrix_rank(array[:3, :3]) < 3:
        raise KetyError(
            f"{name}: the affine has no inverse, found {array.tolist()}; repair the voxel sizes"
        )
    return array


def check_numbers(data: NDArray[Any], name: str) -> None:
    """Check that an array has voxels and holds real numbers; KetyError if not."""
    if data.dtype.kind not in "fiu":
        raise KetyError(f"{name}: data of type {data.dtype}; expected real numbers")
    if not data.size:
        raise KetyError(f"{name}: data of shape {data.shape} hold no voxels")


def _check_acquisition(acquisition: Mapping[str, float], name: str) -> dict[str, float]:
    checked: dict[str, float] = {}
    for key, value in acquisition.items():
        try:
            checked[key] = float(value)
        except (TypeError, ValueError) as error:
            raise KetyError(f"{name}: acquisition {key} is {value!r}, not a number") from error
        if not np.isfinite(checked[key]):
            raise KetyError(f"{name}: acquisition {key} is {value!r}, expected a finite number")
    return checked


def _check_slice_times(times: ArrayLike, series: Series, name: str) -> NDArray[np.float64]:
    """The slices' own times as a float64 array of their own, (Z, T) in s."""
    array = np.array(times, dtype=np.float64)
    _, _, slices, frames = series.data.shape
    if array.shape != (slices, frames):
        raise KetyError(
            f"{name}: slice times of shape {array.shape}, expected ({slices}, {frames}), one row "
            "per slice and one column per frame"
        )
    for index, row in enumerate(array):
        check_times(row, frames, f"{name}, slice {index}")
    apart = float(np.abs(array.mean(axis=0) - series.times).max())
    if apart > SLICE_TIME_TOLERANCE_S:
        raise KetyError(
            f"{name}: frame times differ from the mean of the slice times by up to {apart:.3g} s; "
            "give slice_times.mean(axis=0) as times"
        )
    return array


def _set(record: Series | Volume, name: str, value: object) -> None:
    object.__setattr__(record, name, value)  # both are frozen to everyone else
