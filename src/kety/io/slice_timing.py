"""The slices' own times in the JSON file beside an image, by BIDS ``SliceTiming``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kety.errors import KetyError
from kety.series import Series, check_times
from kety.slices import SAME_S

OFFSETS: Final = "SliceTiming"
"""BIDS: when each slice was acquired after its volume's onset, (Z,) s, the same in all volumes."""
TABLE: Final = "SliceTimes"
"""Ours, where that does not hold: (Z, T) s."""
DIRECTION: Final = "SliceEncodingDirection"


def read_slice_times(
    sidecar: Mapping[str, Any], onsets: NDArray[np.float64], slices: int, name: str
) -> NDArray[np.float64] | None:
    """The slices' own times (Z, T) in s that a sidecar holds; None where all have the frames'.

    Parameters
    ----------
    sidecar
        Its ``SliceTimes``, else ``SliceTiming`` with ``SliceEncodingDirection`` ``k`` or ``k-``.
    onsets
        (T,) s, ``VolumeTiming``: in BIDS the onset of every volume.
    slices, name
        Of the series.

    Raises
    ------
    KetyError
        If they are not such numbers, or the slices are not those of the third axis.
    """
    key = TABLE if TABLE in sidecar else OFFSETS
    if sidecar.get(key) is None:
        return None
    shape = (slices, onsets.size) if key == TABLE else (slices,)
    try:
        listed = np.array(sidecar[key], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise KetyError(f"{name}: {key} in its sidecar is not numbers; expected s") from error
    if listed.shape != shape:
        raise KetyError(
            f"{name}: {key} in its sidecar has shape {listed.shape}, expected {shape}, a time for "
            "each slice; correct it or take it out"
        )
    if key == OFFSETS:
        direction = sidecar.get(DIRECTION, "k")
        if direction not in ("k", "k-"):
            raise KetyError(
                f"{name}: {DIRECTION} is {direction!r}, but slices with times of their own must be "
                f"those of the third axis (k); reorder the axes, or take {OFFSETS} out"
            )
        listed = (listed[::-1] if direction == "k-" else listed)[:, None] + onsets
    for number, row in enumerate(listed):
        check_times(row, onsets.size, f"{name}, slice {number}")
    return listed if np.ptp(listed, axis=0).max() > SAME_S else None


def timing_fields(series: Series) -> dict[str, Any]:
    """``VolumeTiming`` of a series and, where its slices have times of their own, these."""
    own = series.slice_times
    if own is None:
        return {"VolumeTiming": series.times}
    onsets = own.min(axis=0)
    offsets = own - onsets
    if np.ptp(offsets, axis=1).max() > SAME_S:
        return {"VolumeTiming": onsets, TABLE: own}
    return {"VolumeTiming": onsets, OFFSETS: offsets[:, 0], DIRECTION: "k"}
