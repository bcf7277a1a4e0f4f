"""Population arterial input functions: published curves and their sampling for a fit.

The functions give the curve at any time; ``population_input`` samples one on few knots, so chosen
that the cubic spline through them is the curve to better than 1e-4 of its peak.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError
from kety.inputs.function import InputFunction
from kety.units import SECONDS_PER_MINUTE

FloatArray = NDArray[np.float64]


class PopulationFunction(Protocol):
    """A published curve: concentration in mM at times in s, 0 before ``delay`` s."""

    def __call__(self, times: ArrayLike, /, *, delay: float = 0.0) -> FloatArray: ...


@dataclass(frozen=True)
class Population:
    """A population input function and where it comes from.

    Attributes
    ----------
    name
        Key in ``POPULATION``.
    long_name
        Name for reports.
    function
        The curve: concentration in mM at times in s.
    site
        ``"blood"`` or ``"plasma"``: what the concentration is of.
    reference
        Citation with DOI.
    dose
        Contrast agent per body mass the curve holds for, mmol/kg; None where it is not settled, and
        then the curve cannot be scaled to another dose.
    knots
        Sampling for the cubic spline, from the bolus on: (step in s, number of steps), the last
        number None for as many as needed. Few different steps, all binary fractions, so that equal
        steps stay equal to the last bit.
    """

    name: str
    long_name: str
    function: PopulationFunction
    site: str
    reference: str
    dose: float | None
    knots: tuple[tuple[float, int | None], ...]


def parker(times: ArrayLike, *, delay: float = 0.0) -> FloatArray:
    """Whole-blood concentration in mM after 0.1 mmol/kg, in man (Parker 2006).

    Two Gaussians, the bolus and its recirculation, and an exponential washout behind a sigmoid
    (equation 1 and Table 1 of Parker et al., Magn Reson Med 2006, doi:10.1002/mrm.21066). The
    published curve starts at 0.080 mM, not 0: it jumps at ``delay``.

    Parameters
    ----------
    times : array_like
        Times in s, any shape.
    delay
        Arrival of the bolus in s; the curve is 0 before.

    Returns
    -------
    ndarray, shape of ``times``
        Concentration in mM.
    """

    def curve(minutes: FloatArray) -> FloatArray:
        bolus = _gaussian(minutes, area=0.809, centre=0.17046, width=0.0563)
        recirculation = _gaussian(minutes, area=0.330, centre=0.365, width=0.132)
        onset = 1 + np.exp(-38.078 * (minutes - 0.483))
        washout: FloatArray = 1.050 * np.exp(-0.1685 * minutes) / onset
        return bolus + recirculation + washout

    return _delayed(curve, times, delay)


def georgiou(times: ArrayLike, *, delay: float = 0.0) -> FloatArray:
    """Whole-blood concentration in mM, in man, with recirculation (Georgiou 2019).

    Three exponentials times a train of gamma variates, one for each passage of the bolus (equation
    1 of Georgiou et al., Magn Reson Med 2019, doi:10.1002/mrm.27524, after Horsfield et al., Phys
    Med Biol 2009, doi:10.1088/0031-9155/54/9/023). Rounded as in that paper's Table 3, the
    constants miss the curve of its supplement by up to 1.5 % (4 % on the first rise); those here
    were refined on that curve by least squares, agree with the table to its digits (alpha: 5.267
    against 5.26) and meet the curve within 2.2e-5 mM.

    Parameters
    ----------
    times : array_like
        Times in s, any shape.
    delay
        Arrival of the bolus in s; the curve is 0 before.

    Returns
    -------
    ndarray, shape of ``times``
        Concentration in mM.
    """

    def curve(minutes: FloatArray) -> FloatArray:
        washout = (
            0.374303 * np.exp(-0.112690 * minutes)
            + 0.331186 * np.exp(-1.174512 * minutes)
            + 10.060879 * np.exp(-16.019627 * minutes)
        )
        return washout * _passages(minutes, alpha=5.266968, beta=0.03207892, interval=0.12855613)

    return _delayed(curve, times, delay)


def weinmann(times: ArrayLike, *, delay: float = 0.0) -> FloatArray:
    """Plasma concentration in mM after 0.1 mmol/kg, in man, without a first pass.

    Two exponentials from the instant of mixing on: D * sum of a * exp(-m * t) with D = 0.1 mmol/kg,
    a = 3.99 and 4.78 kg/L, m = 0.144 and 0.0111 1/min (Tofts and Kermode, Magn Reson Med 1991,
    doi:10.1002/mrm.1910170208), fitted to the plasma samples of Weinmann et al., Physiol Chem Phys
    Med NMR 1984;16:167-172. Unlike the other curves it is of plasma, not of whole blood.

    Parameters
    ----------
    times : array_like
        Times in s, any shape.
    delay
        Arrival of the bolus in s; the curve is 0 before.

    Returns
    -------
    ndarray, shape of ``times``
        Concentration in mM.
    """

    def curve(minutes: FloatArray) -> FloatArray:
        amount = 3.99 * np.exp(-0.144 * minutes) + 4.78 * np.exp(-0.0111 * minutes)
        return 0.1 * amount

    return _delayed(curve, times, delay)


def preclinical(times: ArrayLike, *, delay: float = 0.0) -> FloatArray:
    """Whole-blood concentration in mM, in rats (McGrath 2009, model B).

    A straight rise over 7 s, then two exponentials: equation 5 and Table 1, model B, of McGrath et
    al., Magn Reson Med 2009, doi:10.1002/mrm.21959.

    Parameters
    ----------
    times : array_like
        Times in s, any shape.
    delay
        Arrival of the bolus in s; the curve is 0 before.

    Returns
    -------
    ndarray, shape of ``times``
        Concentration in mM.
    """
    fast, slow, rise = 3.4, 1.81, 7.0

    def curve(minutes: FloatArray) -> FloatArray:
        seconds = minutes * SECONDS_PER_MINUTE
        since_peak = np.maximum(seconds - rise, 0)
        decay = fast * np.exp(-0.045 * since_peak) + slow * np.exp(-0.0015 * since_peak)
        return np.minimum(seconds / rise, 1) * decay

    return _delayed(curve, times, delay)


def _delayed(
    curve: Callable[[FloatArray], FloatArray], times: ArrayLike, delay: float
) -> FloatArray:
    """Evaluate a curve, given in minutes since its start, at times in s; exactly 0 before."""
    elapsed = np.asarray(times, dtype=np.float64) - delay
    return np.where(elapsed < 0, 0.0, curve(np.maximum(elapsed, 0) / SECONDS_PER_MINUTE))


def _gaussian(t: FloatArray, *, area: float, centre: float, width: float) -> FloatArray:
    peak = area / (width * math.sqrt(2 * math.pi))
    return peak * np.exp(-((t - centre) ** 2) / (2 * width**2))


def _passages(t: FloatArray, *, alpha: float, beta: float, interval: float) -> FloatArray:
    """Sum of the gamma variates of all passages begun by t, each of unit area."""
    t = np.asarray(t)
    total = np.zeros_like(t)
    latest = np.fmax.reduce(t, axis=None, initial=0.0)
    for passage in range(math.ceil(latest / interval)):
        start = passage * interval
        shape = (passage + 1) * alpha + passage
        scale = (shape + 1) * math.log(beta) + math.lgamma(shape + 1)  # logs, as gamma overflows
        begun = t > start
        u = t[begun] - start
        total[begun] += np.exp(shape * np.log(u) - u / beta - scale)
    return total


POPULATION: Final[dict[str, Population]] = {
    record.name: record
    for record in (
        Population(
            name="parker",
            long_name="Parker 2006",
            function=parker,
            site="blood",
            reference="Parker GJM et al. Magn Reson Med 2006;56:993-1000. doi:10.1002/mrm.21066",
            dose=0.1,
            knots=((0.5, 64), (1.0, 32), (16.0, None)),
        ),
        Population(
            name="georgiou",
            long_name="Georgiou 2019",
            function=georgiou,
            site="blood",
            reference="Georgiou L et al. Magn Reson Med 2019;81:1955-1963. doi:10.1002/mrm.27524",
            dose=None,
            knots=((0.25, 48), (1.0, 68), (4.0, None)),
        ),
        Population(
            name="weinmann",
            long_name="Weinmann 1984, Tofts and Kermode 1991",
            function=weinmann,
            site="plasma",
            reference="Tofts PS, Kermode AG. Magn Reson Med 1991;17:357-367. "
            "doi:10.1002/mrm.1910170208",
            dose=0.1,
            knots=((16.0, None),),
        ),
        Population(
            name="preclinical",
            long_name="McGrath 2009, preclinical, model B",
            function=preclinical,
            site="blood",
            reference="McGrath DM et al. Magn Reson Med 2009;61:1173-1184. doi:10.1002/mrm.21959",
            dose=None,
            # Fine steps around the kink at 7 s: a smooth spline rings there, by 0.27 a knot.
            knots=((223 / 64, 2), (1 / 256, 16), (223 / 64, None)),
        ),
    )
}

_MINIMUM_KNOTS: Final = 4  # what a cubic spline with not-a-knot ends needs
_DELAYS_PER_SECOND: Final = 2**30


def population_input(
    name: str,
    end: float,
    *,
    delay: float = 0.0,
    hematocrit: float = 0.42,
    dose: float | None = None,
    interpolation: str = "cubic",
) -> InputFunction:
    """Sample a population input function for a fit.

    Parameters
    ----------
    name
        Key in ``POPULATION``: ``"parker"``, ``"georgiou"``, ``"weinmann"`` or ``"preclinical"``.
    end
        Time in s up to which the curve is needed, such as the last frame's.
    delay
        Arrival of the bolus in s, rounded to 2**-30 s (1 ns), which keeps equal steps equal to the
        last bit.
    hematocrit
        Fraction in [0, 1), for the conversion between blood and plasma.
    dose
        Contrast agent given, mmol/kg; the published curve is scaled in proportion. None: as
        published.
    interpolation
        As of ``InputFunction``. The knots are made for ``"cubic"``, whose error is below 1e-4 of
        the peak; the other kinds are coarser on them.

    Returns
    -------
    InputFunction
        First sample at ``delay`` (0 before it), last one at or after ``end``.

    Raises
    ------
    KetyError
        For an unknown name, times that are not finite, ``end`` not above 0, or a dose that is not
        positive or not applicable.
    """
    try:
        record = POPULATION[name]
    except KeyError:
        raise KetyError(
            f"unknown population input '{name}'; the valid ones are {', '.join(POPULATION)}"
        ) from None
    if not (math.isfinite(end) and end > 0):
        raise KetyError(f"end must be a finite time in s above 0; found {end}")
    if not math.isfinite(delay):
        raise KetyError(f"delay must be a finite time in s; found {delay}")
    delay = round(delay * _DELAYS_PER_SECOND) / _DELAYS_PER_SECOND
    since_bolus = _knots(record, end - delay)
    return InputFunction(
        since_bolus + delay,
        record.function(since_bolus) * _dose_factor(record, dose),
        hematocrit=hematocrit,
        site=record.site,
        interpolation=interpolation,
        name=record.long_name,
    )


def _knots(record: Population, end: float) -> FloatArray:
    """Knots of a record in s since the bolus, the last at or after ``end``."""
    parts: list[FloatArray] = [np.zeros(1)]
    start, length = 0.0, 1
    for step, number in record.knots:
        needed = max(math.ceil((end - start) / step), _MINIMUM_KNOTS - length, 0)
        steps = needed if number is None else min(number, needed)
        parts.append(start + step * np.arange(1, steps + 1, dtype=np.float64))
        start, length = start + step * steps, length + steps
    return np.concatenate(parts)


def _dose_factor(record: Population, dose: float | None) -> float:
    if dose is None:
        return 1.0
    if record.dose is None:
        raise KetyError(
            f"the dose behind the input '{record.name}' is not on record, so it cannot be scaled "
            f"to {dose} mmol/kg; leave dose out, or scale an InputFunction yourself"
        )
    if not (math.isfinite(dose) and dose > 0):
        raise KetyError(f"dose must be above 0 mmol/kg; found {dose}")
    return dose / record.dose
