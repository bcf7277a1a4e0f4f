"""Semi-quantitative maps: what a curve looks like, without a model of the tissue."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError
from kety.modelfree.curves import (
    Curves,
    Floats,
    check_curves,
    empty_maps,
    of_samples,
    place,
    take,
    to_dataset,
)
from kety.modelfree.weights import ROUNDING, area_weights, lines
from kety.signal.baseline import Frames, baseline_frames, blocks, enhancing_curve
from kety.units import PER_100ML, SECONDS_PER_MINUTE

if TYPE_CHECKING:
    import xarray

    from kety.inputs import InputFunction

_FEWEST_LATE: Final = 3


def semiquantitative(
    curves: ArrayLike,
    times: ArrayLike,
    *,
    aif: InputFunction | None = None,
    arrival: float | str = "auto",
    areas: Sequence[float] = (60.0, 90.0, 180.0),
    window: float = 6.0,
    late: float | None = None,
    baseline: Frames | None = None,
    mask: ArrayLike | None = None,
    dtype: str = "float32",
) -> xarray.Dataset:
    """Describe every curve: slope, peak, time to peak, initial area, washout, arrival.

    Parameters
    ----------
    curves : array (..., T)
        Contrast concentration (mM) or enhancement (HU or other signal above baseline): 0 before
        the bolus arrives.
    times : (T,) array
        Frame times, s, strictly increasing, on any grid.
    aif : InputFunction, optional
        Arterial input in the unit of the curves. It adds the blood flow by the maximum slope
        method.
    arrival : float or "auto"
        Arrival of the bolus, s on the axis of ``times``, one for all voxels: areas and the time
        to peak count from there. ``"auto"``: the last frame before the input rises, or without
        an input before the strongest curves do (`kety.signal.baseline_frames`).
    areas : sequence of float
        Lengths of the initial areas, s; one of 60 s is named ``iauc60``.
    window : float
        s that the line of the maximum slope spans at most; it has at least two frames.
    late : float, optional
        s on the axis of ``times`` at which the late part begins, whose slope is the washout;
        halfway from the arrival to the end where left out.
    baseline : frames, optional
        Frames whose mean was subtracted from every curve. Its noise is common to all frames, and
        standard errors that ignore it are too small.
    mask : bool array (...), optional
        Voxels to describe; all without it. Those that do not enhance beyond their noise get the
        status ``not_enhancing`` and NaN, save that areas, washout slope and noise, which have no
        bias, are given inside a mask.
    dtype : {"float32", "float64"}
        Precision of the maps.

    Returns
    -------
    xarray.Dataset
        ``peak`` (largest enhancement from the arrival on); ``ttp`` (time from arrival to it, s);
        ``max_slope`` (unit of the curves/s, before the peak); ``bat`` (s from the first frame:
        where the line of the maximum slope meets 0); ``iauc60`` and so on (unit of the curves
        times s; NaN where the series ends before, with a warning); ``washout_slope`` (unit of the
        curves/min, negative where contrast agent leaves); ``washout_ratio`` (% of the peak that
        is lost by the last frame); with an input ``perfusion`` (mL/100mL/min). ``<name>_se`` are
        standard errors; ``noise`` is the curve's; ``status`` has the numbers of `kety.Status`.

    Raises
    ------
    KetyError
        For arguments that do not fit together, or where the arrival cannot be found.

    Notes
    -----
    The maximum slope is that of the steepest least-squares line through the frames within
    ``window``. Differences of neighbouring frames follow the noise: at 6 HU, frames 1.5 s apart
    and a 300 HU input their root-mean-square error is 158 %, that of lines over 6 s 22 %
    (``docs/modelfree.md``). Areas integrate the straight lines between frames exactly, the first
    and last interval in part. The late value of the washout ratio is that of the late line at the
    last frame: 100 (peak - late) / peak.

    Standard errors are the noise propagated through what is linear in the samples; which frame is
    the peak and which line the steepest is taken as given, so noise also biases both upwards.

    The maximum slope method (Mullani and Gould, J Nucl Med 1983;24:577; Miles, Br J Radiol
    1991;64:409, doi:10.1259/0007-1285-64-761-409): flow = maximum slope / peak of the arterial
    blood, if no contrast agent leaves before the slope is largest; else it is too small.
    """
    given = check_curves(curves, times, mask, baseline, dtype)
    t = given.times
    if not (np.isfinite(window) and window > 0):
        raise KetyError(f"window must be a positive number of s, found {window!r}")
    begin = _arrival(arrival, given, aif, np.asarray(curves), mask)
    lengths = _checked_areas(areas)
    start = begin + 0.5 * (t[-1] - begin) if late is None else float(late)
    if not begin <= start < t[-1]:
        raise KetyError(
            f"the late part begins at {start:g} s; it must lie between the arrival at {begin:g} s "
            f"and the last frame at {t[-1]:g} s"
        )
    plan = _plan(given, begin, lengths, float(window), start)
    peak_input = None if aif is None else float(aif.blood().concentration.max())
    attributes = _attributes(lengths, begin, peak_input is not None)
    maps = empty_maps(attributes, len(given.values), dtype)
    unbiased = {"noise", *plan.linear}
    for voxels in blocks(given.voxels, t.size):
        block = take(given, voxels, maps["status"])
        place(maps, block, _describe(block.values, block.noise, plan, peak_input), unbiased)
    return to_dataset(
        given,
        maps,
        attributes,
        {
            "method": "semiquantitative",
            "arrival_s": begin,
            "slope_window_s": float(window),
            "late_from_s": start,
            "dtype": dtype,
        },
    )


@dataclass(frozen=True)
class _Plan:
    """Everything about the frames that is the same in all voxels.

    ``linear`` maps names to weights (T,) of a curve; ``slopes`` and ``means`` (N, T) are the
    weights of the lines' slopes and middles, ``starts`` and ``middles`` (N,) their first frame
    and centre.
    """

    times: Floats
    arrival: float
    first: int
    baseline: NDArray[np.intp]
    linear: dict[str, Floats]
    late: Floats
    slopes: Floats
    means: Floats
    starts: NDArray[np.intp]
    middles: Floats


def _plan(
    curves: Curves, arrival: float, lengths: Sequence[float], window: float, late: float
) -> _Plan:
    t = curves.times
    linear = {}
    for length in lengths:
        if arrival + length <= t[-1] + ROUNDING:
            linear[_area_name(length)] = area_weights(t, arrival, arrival + length)
    missing = [_area_name(length) for length in lengths if _area_name(length) not in linear]
    if missing:
        warnings.warn(
            f"the series ends {t[-1] - arrival:g} s after the arrival of the bolus at "
            f"{arrival:g} s, so there is no {' and no '.join(missing)}",
            stacklevel=3,
        )
    last = np.full(t.size, np.nan)
    chosen = np.flatnonzero(t >= late - ROUNDING)
    if chosen.size >= _FEWEST_LATE:
        middle = t[chosen].mean()
        offsets = t[chosen] - middle
        slope, last = np.zeros(t.size), np.zeros(t.size)
        slope[chosen] = offsets / (offsets @ offsets)
        last[chosen] = 1.0 / chosen.size
        last += (t[-1] - middle) * slope
        linear["washout_slope"] = SECONDS_PER_MINUTE * slope
    else:
        warnings.warn(
            f"too few frames from {late:g} s on to tell the washout: {chosen.size}, at least "
            f"{_FEWEST_LATE} are needed; give an earlier late",
            stacklevel=3,
        )
    slopes, means, starts = lines(t, window)
    ends = np.array([np.flatnonzero(row)[-1] for row in means])
    kept = t[ends] > arrival
    return _Plan(
        t,
        arrival,
        int(np.searchsorted(t, arrival - ROUNDING)),
        curves.baseline,
        linear,
        last,
        slopes[kept],
        means[kept],
        starts[kept],
        (means @ t)[kept],
    )


def _describe(
    values: Floats, noise: Floats, plan: _Plan, peak_input: float | None
) -> dict[str, Floats]:
    """Maps of curves (B, T) that enhance."""
    each = np.arange(len(values))
    maps = {"noise": noise}
    for name, weights in plan.linear.items():
        maps[name] = values @ weights
        maps[f"{name}_se"] = noise * np.linalg.norm(of_samples(weights, plan.baseline))
    at = plan.first + values[:, plan.first :].argmax(axis=1)
    peak = values[each, at]
    error = np.linalg.norm(of_samples(np.eye(plan.times.size), plan.baseline), axis=1)
    maps |= {"peak": peak, "peak_se": noise * error[at], "ttp": plan.times[at] - plan.arrival}
    maps |= _washout(values, noise, peak, at, plan)

    if not plan.starts.size:
        return maps
    slopes = values @ plan.slopes.T
    slopes[plan.starts >= at[:, None]] = -np.inf  # the rise ends at the peak
    steepest = slopes.argmax(axis=1)
    slope = slopes[each, steepest]
    rises = slope > 0
    slope = np.where(np.isfinite(slope), slope, np.nan)
    slope_se = noise * np.linalg.norm(plan.slopes, axis=1)[steepest]
    slope_se[np.isnan(slope)] = np.nan
    maps |= {"max_slope": slope, "max_slope_se": slope_se}
    safe = np.where(rises, slope, np.nan)
    height = (values @ plan.means.T)[each, steepest]
    height_se = noise * np.linalg.norm(of_samples(plan.means, plan.baseline), axis=1)[steepest]
    maps["bat"] = plan.middles[steepest] - height / safe - plan.times[0]
    maps["bat_se"] = np.hypot(height_se, height / safe * slope_se) / safe
    if peak_input is not None:
        factor = PER_100ML * SECONDS_PER_MINUTE / peak_input
        maps |= {"perfusion": factor * slope, "perfusion_se": factor * slope_se}
    return maps


def _washout(
    values: Floats, noise: Floats, peak: Floats, at: NDArray[np.intp], plan: _Plan
) -> dict[str, Floats]:
    """Share of the peak that is lost at the end, and its error."""
    if not np.isfinite(plan.late).all():
        return {}
    positive = np.where(peak > 0, peak, np.nan)
    ratio = values @ plan.late / positive
    # To first order the ratio's weights are those of the late value, less ratio times the peak's.
    samples = of_samples(np.vstack([np.eye(plan.times.size), plan.late]), plan.baseline)
    single, last = samples[:-1], samples[-1]
    square = last @ last - 2 * ratio * (single @ last)[at] + ratio**2 * (single**2).sum(axis=1)[at]
    error = noise * np.sqrt(np.maximum(square, 0.0)) / positive
    return {"washout_ratio": 100.0 * (1.0 - ratio), "washout_ratio_se": 100.0 * error}


def _arrival(
    arrival: float | str,
    curves: Curves,
    aif: InputFunction | None,
    data: NDArray[Any],
    mask: ArrayLike | None,
) -> float:
    t = curves.times
    if isinstance(arrival, str):
        if arrival != "auto":
            raise KetyError(f"arrival must be a number of s or 'auto', found {arrival!r}")
        try:
            course = enhancing_curve(data, mask=mask) if aif is None else aif(t)
            return float(t[baseline_frames(course, t)[-1]])
        except KetyError as error:
            raise KetyError(
                f"the arrival of the bolus was not found: {error}; or give arrival in s"
            ) from error
    at = float(arrival)
    if not t[0] <= at < t[-1]:
        raise KetyError(
            f"the bolus arrives at {at:g} s; give a time within the frames, {t[0]:g} to {t[-1]:g} s"
        )
    return at


def _checked_areas(areas: Sequence[float]) -> tuple[float, ...]:
    lengths = tuple(float(length) for length in areas)
    bad = [length for length in lengths if not (np.isfinite(length) and length > 0)]
    if bad or len({_area_name(length) for length in lengths}) < len(lengths):
        raise KetyError(f"areas must be different positive numbers of s, found {areas!r}")
    return lengths


def _area_name(length: float) -> str:
    return f"iauc{length:g}".replace(".", "p")


def _attributes(
    lengths: Sequence[float], arrival: float, with_input: bool
) -> dict[str, dict[str, Any]]:
    """Units, words and OSIPI codes of the maps; names as well, in their order."""
    unit = "unit of the curves"
    after = f"after the arrival of the bolus at {arrival:g} s"
    known: list[tuple[str, str, str, str, bool]] = [
        ("peak", unit, "peak enhancement", "Q.CD1.008", True),
        ("ttp", "s", f"time to peak {after}", "Q.CD1.010", False),
        ("max_slope", f"{unit}/s", "maximum slope", "", True),
        ("bat", "s", "bolus arrival time from the first frame", "Q.BA1.001", True),
        *(
            (
                _area_name(length),
                f"{unit} s",
                f"initial area under the curve, {length:g} s {after}",
                "Q.CD1.013",
                True,
            )
            for length in lengths
        ),
        ("washout_slope", f"{unit}/min", "slope of the late part", "", True),
        ("washout_ratio", "%", "share of the peak lost at the last frame", "", True),
    ]
    if with_input:
        words = "blood flow by the maximum slope method"
        known.append(("perfusion", "mL/100mL/min", words, "Q.PH1.003", True))
    out: dict[str, dict[str, Any]] = {}
    for name, units, words, code, error in known:
        out[name] = {"units": units, "long_name": words, "osipi": code}
        if error:
            long_name = f"standard error of the {words}"
            out[f"{name}_se"] = {"units": units, "long_name": long_name, "osipi": ""}
    out["noise"] = {"units": unit, "long_name": "noise of a frame", "osipi": ""}
    return out
