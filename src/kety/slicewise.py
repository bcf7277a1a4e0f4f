"""Slices with times of their own: those that share them are estimated together, at these times.

A table that shuttles between positions, a helical scan or slices in turn give every slice its own
times. Models are exact at any times, so nothing is resampled: each group of slices meets the one
input at the moments at which it was measured, and delays are on the common clock.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError
from kety.progress import Progress, reporter
from kety.slices import Slices, slice_groups
from kety.voxels import AboveLevel

if TYPE_CHECKING:
    import xarray

    from kety.inputs import InputFunction

Estimate = Callable[[NDArray[Any], NDArray[np.bool_] | None, Slices], "xarray.Dataset"]
"""Maps (..., z) of curves (..., z, T) and a mask (..., z) of some slices."""


def by_slice(
    estimate: Estimate,
    curves: ArrayLike | AboveLevel,
    slice_times: ArrayLike,
    mask: ArrayLike | None,
) -> xarray.Dataset:
    """Maps of slices with times of their own, each group by itself, joined on the whole grid.

    Parameters
    ----------
    estimate
        Called with the curves, mask and times of each group that has voxels in the mask.
    curves
        (..., Z, T).
    slice_times
        (Z, T) in s.
    mask
        (..., Z), None for all voxels.

    Returns
    -------
    xarray.Dataset
        Attributes are the first group's, but ``voxels_done`` and ``interrupted``, which are of all;
        a group that comes after an interruption is outside. Maps over time have the coordinate
        ``slice_time`` (z, time); their ``time`` is the mean over the slices.

    Raises
    ------
    KetyError
        If the times have not one row for each slice, or the mask another shape.
    """
    data = curves if isinstance(curves, AboveLevel) else np.asarray(curves)
    groups = slice_groups(slice_times)
    table = np.asarray(slice_times, dtype=np.float64)
    if data.ndim < 3 or table.shape != data.shape[-2:]:
        raise KetyError(
            f"curves have shape {data.shape} and times {table.shape}; times of two axes are those "
            "of slices, one row for each of the curves' last axis but one: (X, Y, Z, T) and (Z, T)"
        )
    inside = None if mask is None else _checked_mask(mask, data.shape[:-1])
    wanted = [one for one in groups if inside is None or inside[one.key()].any()] or [groups[0]]
    parts: list[tuple[Slices, xarray.Dataset]] = []
    interrupted = False
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        for one in wanted:
            # In the order of the data, which makes flattening them free.
            block = np.array(data[one.key(1)], order="K")
            try:
                part = estimate(block, None if inside is None else inside[one.key()], one)
            except KeyboardInterrupt:
                if not parts:
                    raise
                interrupted = True
            else:
                parts.append((one, part))
                interrupted = bool(part.attrs.get("interrupted"))
            if interrupted:
                break
    _warn_once(heard)
    return _joined(parts, table, data.shape[:-1], interrupted)


def fit_slices(
    curves: ArrayLike | AboveLevel,
    slice_times: ArrayLike,
    aif: InputFunction,
    model: Any,
    *,
    mask: ArrayLike | None = None,
    joint: Any = None,
    progress: bool | Progress = False,
    **options: Any,
) -> xarray.Dataset:
    """`kety.fit`, which calls this for times (Z, T) and describes arguments and result."""
    from kety.api import fit

    if joint is not None:
        raise KetyError(
            "joint estimation compares the curves of neighbours frame by frame, so all slices need "
            "the same times, but these have their own; fit voxel by voxel, or crop to slices that "
            "were acquired together"
        )
    total = math.prod(np.shape(curves)[:-1]) if mask is None else int(np.count_nonzero(mask))
    report = reporter(progress, total)
    done = 0

    def estimate(
        block: NDArray[Any], inside: NDArray[np.bool_] | None, slices: Slices
    ) -> xarray.Dataset:
        nonlocal done
        before = done

        def show(some: int, of: int) -> None:
            nonlocal done
            if some >= 0:
                done = before + some
                report(done, total)

        return fit(block, slices.times, aif, model, mask=inside, progress=show, **options)

    maps = by_slice(estimate, curves, slice_times, mask)
    report(-1, total)
    return maps


def _checked_mask(mask: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    values = np.asarray(mask)
    if values.shape != shape:
        raise KetyError(f"mask has shape {values.shape}, the curves' voxels have {shape}")
    return np.asarray(np.nan_to_num(values) != 0)


def _warn_once(heard: Sequence[warnings.WarningMessage]) -> None:
    """Repeat the first warning of each place: groups differ little in what they say."""
    seen = set()
    for one in heard:
        place = (one.filename, one.lineno, one.category)
        if place not in seen:
            seen.add(place)
            warnings.warn(one.message, one.category, stacklevel=3)


def _joined(
    parts: Sequence[tuple[Slices, xarray.Dataset]],
    table: NDArray[np.float64],
    shape: tuple[int, ...],
    interrupted: bool,
) -> xarray.Dataset:
    import xarray

    like = parts[0][1]
    variables: dict[str, Any] = {}
    for key in like.data_vars:
        name = str(key)
        first = like[name].values
        trailing = first.shape[len(shape) :]
        empty = np.nan if first.dtype.kind == "f" else 0
        order: Any = "F" if first.flags.f_contiguous and not first.flags.c_contiguous else "C"
        whole = np.full((*shape, *trailing), empty, first.dtype, order=order)
        for slices, part in parts:
            whole[slices.key(len(trailing))] = part[name].values
        variables[name] = (like[name].dims, whole, like[name].attrs)
    with_time = any("time" in one.dims for one in like.data_vars.values())
    coords: dict[str, Any] = {}
    if with_time:
        axis = like["status"].dims[-1]
        words = {"units": "s", "long_name": "frame time"}
        own = {"units": "s", "long_name": "time of the slice's frame"}
        coords = {
            "time": ("time", table.mean(axis=0), words),
            "slice_time": ((axis, "time"), table, own),
        }
    attrs = dict(like.attrs)
    if "voxels_done" in attrs:
        attrs["voxels_done"] = sum(int(part.attrs["voxels_done"]) for _, part in parts)
    if "interrupted" in attrs:
        attrs["interrupted"] = int(interrupted)
    attrs["slice_times"] = f"{len(slice_groups(table))} groups of slices, each at its own times"
    return xarray.Dataset(variables, coords=coords, attrs=attrs)
