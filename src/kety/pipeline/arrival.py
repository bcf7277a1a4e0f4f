"""When contrast agent arrives: the given input's place in time, and the frames before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kety.errors import KetyError
from kety.pipeline import arterial
from kety.slices import SAME_S

if TYPE_CHECKING:
    from kety.inputs import InputFunction
    from kety.pipeline.arterial import InputSource
    from kety.pipeline.conversion import Conversion
    from kety.series import Series
    from kety.signal import IodineCalibration


def given_input(
    source: InputSource,
    series: Series,
    unit: str,
    calibration: IodineCalibration | None = None,
) -> tuple[InputFunction | None, NDArray[np.intp] | None]:
    """The input of a table or population model, and the frames before the tissue enhances.

    The frames are those that the bolus of a population model was placed by, else None.

    Raises
    ------
    KetyError
        If the table or model cannot be used, or nothing shows when a population's bolus arrives.
    """
    if source.table is not None:
        return arterial.read_table_input(source, unit, calibration), None
    if source.population is None:
        return None, None
    arterial.check_unit(source, "mM", unit, f"'{source.population}'")
    if source.delay is not None:
        return arterial.population(source, frame_ends(series), source.delay), None
    try:
        arrival, early = first_rise(series.data, series)
    except KetyError as error:
        raise KetyError(
            f"{series.source}: no voxels were found whose enhancement shows when the bolus of the "
            f"population input arrives; give its delay in s"
        ) from error
    return arterial.population(source, frame_ends(series), arrival), early


def frame_ends(series: Series) -> NDArray[np.float64]:
    """When the last slice of every frame was acquired, (T,) s; the frame times where all are."""
    return series.times if series.slice_times is None else series.slice_times.max(axis=0)


def all_times(series: Series) -> NDArray[np.float64]:
    """Every moment at which some slice was acquired, (n,) s."""
    return series.times if series.slice_times is None else np.unique(series.slice_times)


def first_rise(data: NDArray[Any], series: Series) -> tuple[float, NDArray[np.intp]]:
    """When the strongest voxels begin to enhance (s), and the frames before in all slices.

    Slices with times of their own are looked at by themselves, and the earliest counts; one without
    enhancing voxels does not.

    Parameters
    ----------
    data
        (X, Y, Z, T) on the grid of the series.

    Raises
    ------
    KetyError
        If nothing enhances, or it does so in the first frame.
    """
    from kety.signal import baseline_frames, enhancing_curve
    from kety.slices import slice_groups

    if series.slice_times is None:
        early = baseline_frames(enhancing_curve(data, mask=series.mask), series.times)
        return float(series.times[early[-1]]), early
    found, refused = [], []
    for slices in slice_groups(series.slice_times):
        mask = None if series.mask is None else series.mask[slices.key()]
        try:
            curve = enhancing_curve(data[slices.key(1)], mask=mask)
            last = baseline_frames(curve, slices.times)[-1]
        except KetyError as error:
            refused.append(error)
            continue
        found.append((float(slices.times[last]), int(last)))
    if not found:
        raise refused[0]
    return min(when for when, _ in found), np.arange(1 + min(last for _, last in found))


def _before(curve: NDArray[Any], times: NDArray[np.float64], series: Series) -> NDArray[np.intp]:
    """Frames that all slices acquired before a curve (n,) at times (n,) rises."""
    from kety.signal import baseline_frames

    try:
        last = float(times[baseline_frames(curve, times)[-1]])
    except KetyError as error:
        raise KetyError(f"{series.source}: no baseline frames found: {error}") from error
    return frames_until(last, series)


def frames_until(last: float, series: Series) -> NDArray[np.intp]:
    """Frames that all slices acquired by ``last`` (s); KetyError if there are none."""
    frames = np.flatnonzero(frame_ends(series) <= last + SAME_S)
    if not frames.size:
        raise KetyError(
            f"{series.source}: no baseline frames found: contrast agent arrives after {last:g} s, "
            "before the last slices of the first frame; give the baseline frames instead"
        )
    return frames


def find_baseline(
    conversion: Conversion,
    series: Series,
    aif: InputFunction | None,
    early: NDArray[np.intp] | None,
    vessel: NDArray[np.bool_] | None,
) -> tuple[NDArray[np.intp], str]:
    """Frames before contrast agent, and how they were found in words.

    Raises
    ------
    KetyError
        If they do not fit the series, or cannot be found.
    """
    from kety.signal import resolve_frames

    if conversion.baseline is not None:
        return resolve_frames(conversion.baseline, series.times.size), "as given"
    if early is not None:
        return early, "before the strongest voxels enhance"
    if aif is not None:
        times = all_times(series)
        return _before(aif(times), times, series), "before the input arrives"
    if vessel is None:
        words = "before the strongest voxels enhance"
        try:
            return first_rise(series.data, series)[1], words
        except KetyError as error:
            raise KetyError(f"{series.source}: no baseline frames found: {error}") from error
    times, curve = arterial.vessel_curve(np.asarray(series.data[vessel]), vessel, series)
    return _before(curve, times, series), "before the artery in the mask enhances"


def frames_in_words(frames: NDArray[np.intp]) -> str:
    """``"frames 0 to 3"``, ``"frame 0"``, ``"frames 0, 2"``."""
    first, last = int(frames[0]), int(frames[-1])
    if first == last:
        return f"frame {first}"
    if frames.size == last - first + 1:
        return f"frames {first} to {last}"
    return f"frames {', '.join(map(str, frames.tolist()))}"
