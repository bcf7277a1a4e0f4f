"""When contrast agent arrives: the given input's place in time, and the frames before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kety.errors import KetyError
from kety.pipeline import arterial

if TYPE_CHECKING:
    from kety.inputs import InputFunction
    from kety.pipeline.arterial import InputSource
    from kety.pipeline.conversion import Conversion
    from kety.series import Series


def given_input(
    source: InputSource, series: Series, unit: str
) -> tuple[InputFunction | None, NDArray[np.intp] | None]:
    """The input of a table or population model, and the frames before the tissue enhances.

    The frames are those that the bolus of a population model was placed by, else None.

    Raises
    ------
    KetyError
        If the table or model cannot be used, or nothing shows when a population's bolus arrives.
    """
    if source.table is not None:
        return arterial.read_table_input(source, unit), None
    if source.population is None:
        return None, None
    arterial.check_unit(source, "mM", unit, f"'{source.population}'")
    if source.delay is not None:
        return arterial.population(source, series.times, source.delay), None
    from kety.signal import baseline_frames, enhancing_curve

    try:
        early = baseline_frames(enhancing_curve(series.data, mask=series.mask), series.times)
    except KetyError as error:
        raise KetyError(
            f"{series.source}: no voxels were found whose enhancement shows when the bolus of the "
            f"population input arrives; give its delay in s"
        ) from error
    return arterial.population(source, series.times, float(series.times[early[-1]])), early


def _before(curve: NDArray[Any], series: Series) -> NDArray[np.intp]:
    from kety.signal import baseline_frames

    try:
        return baseline_frames(curve, series.times)
    except KetyError as error:
        raise KetyError(f"{series.source}: no baseline frames found: {error}") from error


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
        return _before(aif(series.times), series), "before the input arrives"
    if vessel is None:
        from kety.signal import enhancing_curve

        strongest = enhancing_curve(series.data, mask=series.mask)
        return _before(strongest, series), "before the strongest voxels enhance"
    curve = np.asarray(series.data[vessel]).mean(axis=0, dtype=np.float64)
    return _before(curve, series), "before the artery in the mask enhances"


def frames_in_words(frames: NDArray[np.intp]) -> str:
    """``"frames 0 to 3"``, ``"frame 0"``, ``"frames 0, 2"``."""
    first, last = int(frames[0]), int(frames[-1])
    if first == last:
        return f"frame {first}"
    if frames.size == last - first + 1:
        return f"frames {first} to {last}"
    return f"frames {', '.join(map(str, frames.tolist()))}"
