"""A measured input made smoother: its tail as exponentials, its noise averaged, frames left out."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError
from kety.inputs.bolus import bolus_of
from kety.inputs.function import InputFunction
from kety.signal.baseline import resolve_frames

Floats = NDArray[np.float64]

AFTER: Final = 2.5
"""Widths after the peak at which the tail starts, unless given: by then blood has come round a
second time, and the curve falls steadily."""
_RATES: Final = np.concatenate([[0.0], np.geomspace(1e-5, 0.5, 60)])
"""Rates that are tried for the exponentials, 1/s."""


def smoothed_tail(
    aif: InputFunction,
    *,
    start: float | None = None,
    terms: int = 2,
    times: ArrayLike | None = None,
) -> InputFunction:
    """Replace the noisy tail of a curve by falling exponentials fitted to it.

    Parameters
    ----------
    aif
        Measured curve.
    start
        Where the tail starts, s; by default two and a half widths of the first pass after its peak.
    terms
        1 or 2 exponentials. Their amplitudes are not negative, so the tail falls.
    times
        Where the tail is sampled, s; the curve's own times by default. Beyond the last sample the
        exponentials go on.

    Returns
    -------
    InputFunction
        The samples before ``start`` as they were.

    Raises
    ------
    KetyError
        If there is no first pass to start after, or fewer than ``2 terms + 2`` samples follow.
    """
    if terms not in (1, 2):
        raise KetyError(f"a tail is fitted with 1 or 2 exponentials; found {terms!r}")
    if start is None:
        bolus = bolus_of(aif.concentration, aif.times)
        if not np.isfinite(bolus.width):
            raise KetyError(
                "the curve does not fall to half its peak, so its tail has no start; give one in s"
            )
        start = bolus.peak_time + AFTER * bolus.width
    tail = aif.times >= start
    count = int(np.count_nonzero(tail))
    if count < 2 * terms + 2 or tail.all():
        raise KetyError(
            f"{count} of {tail.size} samples lie in the tail from {start:.4g} s on; "
            f"{2 * terms + 2} are needed for {terms} exponentials, and some before them; give "
            "another start, fewer exponentials or a longer series"
        )
    rates, amplitudes = _exponentials(aif.times[tail] - start, aif.concentration[tail], terms)
    grid = aif.times if times is None else np.asarray(times, dtype=np.float64)
    later = grid[grid >= start]
    fitted = np.exp(-np.outer(later - start, rates)) @ amplitudes
    return dataclasses.replace(
        aif,
        times=np.concatenate([aif.times[~tail], later]),
        concentration=np.concatenate([aif.concentration[~tail], fitted]),
        name=f"{aif.name}, tail of {terms} exponential{'s' if terms > 1 else ''}".lstrip(", "),
    )


def _exponentials(t: Floats, c: Floats, terms: int) -> tuple[Floats, Floats]:
    """Rates (1/s) and amplitudes, none negative, of the best sum of exponentials.

    Amplitudes are linear, so only rates are searched: on a grid, then between its points.
    """
    from scipy.optimize import least_squares, nnls

    basis = np.exp(-np.outer(t, _RATES))
    pairs = [(i, j) for i in range(_RATES.size) for j in range(i + 1, _RATES.size)]
    choices = [(i,) for i in range(_RATES.size)] if terms == 1 else pairs
    best = min(choices, key=lambda rows: nnls(basis[:, rows], c)[1])
    # 1e-6 /s keeps its half-life for a week: as good as constant.
    start = np.log(np.maximum(_RATES[list(best)], 1e-6))

    def rest(logs: Floats) -> Floats:
        table = np.exp(-np.outer(t, np.exp(logs)))
        return np.asarray(table @ nnls(table, c)[0] - c)

    fit = least_squares(rest, start, bounds=(np.log(5e-7), np.log(2.0)))
    rates = np.exp(fit.x)
    return rates, nnls(np.exp(-np.outer(t, rates)), c)[0]


def smoothed(aif: InputFunction, width: float) -> InputFunction:
    """Average the noise of a curve over time, by local parabolas that keep the peak's height.

    Every sample becomes the value of the parabola that fits those around it best by least squares
    with Gaussian weights (Cleveland and Devlin, J Am Stat Assoc 1988,
    doi:10.1080/01621459.1988.10478639); the intervals may differ.

    Parameters
    ----------
    aif
        Measured curve.
    width
        Full width at half maximum of the weights, s. Where fewer than four samples lie within it on
        either side, a sample stays as it is.

    Raises
    ------
    KetyError
        If the width is not a positive number, or so small that no sample changes.
    """
    if not (np.isfinite(width) and width > 0.0):
        raise KetyError(f"the smoothing's width must be a time above 0 s; found {width!r}")
    times, values = aif.times, aif.concentration
    result = values.copy()
    changed = False
    for i, time in enumerate(times):
        apart = (times - time) / width
        near = np.abs(apart) <= 1.0
        if np.count_nonzero(near) < 4:
            continue
        weights = np.sqrt(np.exp(-4.0 * np.log(2.0) * apart[near] ** 2))
        table = np.stack([np.ones(weights.size), apart[near], apart[near] ** 2], axis=1)
        fit = np.linalg.lstsq(table * weights[:, None], values[near] * weights, rcond=None)[0]
        result[i] = fit[0]
        changed = True
    if not changed:
        raise KetyError(
            f"no four samples of the curve lie within {width:g} s of one of them, so smoothing by "
            "that changes nothing; give a larger width"
        )
    name = f"{aif.name}, smoothed over {width:g} s".lstrip(", ")
    return dataclasses.replace(aif, concentration=result, name=name)


def chosen_frames(aif: InputFunction, frames: Any) -> InputFunction:
    """Keep some samples of a curve: those of a slice, a list of numbers from 0, or a boolean array.

    Between the samples that are kept the curve is interpolated; after the last it stays level (see
    `smoothed_tail` for another way to go on).

    Raises
    ------
    KetyError
        If the frames do not fit the curve, or fewer than two are left.
    """
    kept = resolve_frames(frames, aif.times.size)
    if kept.size < 2:
        raise KetyError("one frame alone is no input; keep at least two")
    if kept.size == aif.times.size:
        return aif
    return dataclasses.replace(
        aif,
        times=aif.times[kept],
        concentration=aif.concentration[kept],
        name=f"{aif.name}, {kept.size} of {aif.times.size} frames".lstrip(", "),
    )
