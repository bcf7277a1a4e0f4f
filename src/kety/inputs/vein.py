"""Partial volume of the artery, corrected by a vein wide enough to show blood alone."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError
from kety.inputs.bolus import Bolus, bolus_of
from kety.inputs.candidates import clusters_of, core_of
from kety.inputs.criteria import CLEAR, FEWEST, LOPSIDED, lopsided, step_of
from kety.inputs.extraction import ArterialInput
from kety.inputs.function import InputFunction
from kety.inputs.gamma import first_pass
from kety.inputs.pool import make_pool
from kety.signal.baseline import check_series, flat_mask, memory_order

LATER: Final = 1.0
"""Least time from the artery's rise to the vein's, s."""
LEAST: Final = 0.7
"""A vein of less than this share of the artery's area shows no blood alone, or is none."""
WIDER: Final = 2.0
"""Largest width over the artery's: what passes more slowly has passed tissue that exchanges, and
its first pass is not over before it recirculates."""
_LEAST_PEAK: Final = 0.3


@dataclass(frozen=True, eq=False)
class Vein:
    """A vein found in a series: voxels (X, Y, Z), mean curve and the shape of its first pass."""

    mask: NDArray[np.bool_]
    curve: InputFunction
    bolus: Bolus


def find_vein(
    data: ArrayLike,
    times: ArrayLike,
    artery: ArterialInput,
    *,
    quantity: str = "hu",
    mask: ArrayLike | None = None,
) -> Vein:
    """Find the venous output: of the clusters that rise after the artery that of the largest area.

    Parameters
    ----------
    data, times, quantity, mask
        As of `kety.find_artery`.
    artery
        What that found.

    Raises
    ------
    KetyError
        If no cluster rises at least 1 s later and shows a first pass at most twice as wide, whose
        area can be told. The caval vein behind organs that exchange shows none.
    """
    series = check_series("data", data, "T")
    seconds = np.asarray(times, dtype=np.float64)
    voxels = flat_mask(mask, series.shape[:3], memory_order(series))
    pool = make_pool(series, seconds, artery.baseline, voxels, quantity)
    first = artery.chosen.bolus
    best: tuple[float, Vein] | None = None
    later = 0
    for cluster in clusters_of(pool, np.arange(len(pool.places))) if len(pool.places) > 2 else []:
        rows = cluster.members[core_of(pool, cluster)]
        values = pool.curves[rows].mean(axis=0)
        bolus = bolus_of(values, seconds)
        clear = float(np.median(pool.drop[rows] / np.maximum(pool.noise[rows], 1e-30)))
        if (
            bolus.rise_time < first.rise_time + LATER
            or bolus.peak < _LEAST_PEAK * first.peak
            or bolus.width > WIDER * first.width
            or lopsided(bolus, step_of(seconds, bolus.peak_time)) > LOPSIDED
            or rows.size < FEWEST
            or clear < CLEAR
        ):
            continue
        later += 1
        curve = dataclasses.replace(
            artery.curve, concentration=values, name=f"mean of {rows.size:,} voxels in a vein"
        )
        try:
            area = first_pass(curve).area
        except KetyError:
            continue
        if best is None or area > best[0]:
            found = np.zeros(series.shape[:3], dtype=np.bool_)
            found[tuple(pool.places[rows].T)] = True
            best = area, Vein(found, curve, bolus)
    if best is None:
        seen = (
            f"{later} clusters of voxels follow the artery, but the area of none can be told"
            if later
            else f"no cluster of voxels rises {LATER:g} s or more after the artery and falls again "
            f"in at most {WIDER:g} times its width"
        )
        raise KetyError(
            f"no vein was found: {seen}; give a mask of a vein, or leave the correction out"
        )
    return best[1]


def vein_factor(aif: InputFunction, vein: InputFunction) -> float:
    """Area of a vein's first pass over the artery's, each by its gamma-variate.

    Blood that has passed the tissue has the same area but for what stays behind, so a smaller one
    in the artery comes of voxels that it fills in part: the usual correction of perfusion CT.

    Raises
    ------
    KetyError
        If one of the curves shows no first pass, see `kety.inputs.first_pass`, or the vein's area
        is less than 0.7 of the artery's.
    """
    factor = first_pass(vein).area / first_pass(aif).area
    if factor < LEAST:
        raise KetyError(
            f"the vein's first pass has {factor:.2f} of the artery's area (at least {LEAST:g}): "
            "its voxels do not show blood alone, or it is no vein; give a mask of a wider one"
        )
    return factor


def corrected_by_vein(aif: InputFunction, vein: InputFunction) -> InputFunction:
    """Scale an arterial curve so that its first pass has the area of a vein's.

    A factor below 1 means that the artery is not reduced by partial volume; it is applied all the
    same, down to 0.7, since the noise of a true factor of 1 goes both ways.

    Raises
    ------
    KetyError
        As `vein_factor`.
    """
    factor = vein_factor(aif, vein)
    return dataclasses.replace(
        aif,
        concentration=aif.concentration * factor,
        name=f"{aif.name}, times {factor:.3f} by a vein".lstrip(", "),
    )
