"""How far two measurements of the same things agree: repeatability, Bland–Altman, concordance.

Pure NumPy on two arrays of paired values. Names and formulas are those of the Quantitative Imaging
Biomarkers Alliance (Raunig et al., Stat Methods Med Res 24:27, 2015; Obuchowski and Bullen, Stat
Methods Med Res 27:905, 2018) and of Bland and Altman (Lancet 327:307, 1986; Stat Methods Med Res
8:135, 1999).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError

LEVEL: Final = 0.95
NORMAL: Final = 1.959963984540054
"""The normal distribution holds `LEVEL` within this many standard deviations."""
REPEATABILITY: Final = NORMAL * np.sqrt(2.0)
"""Repeatability coefficient over within-subject standard deviation, 2.77."""

Interval = tuple[float, float]
_UNKNOWN: Final[Interval] = (float("nan"), float("nan"))


@dataclass(frozen=True)
class Agreement:
    """Agreement of two measurements a and b of the same units; intervals are 95 %.

    Attributes
    ----------
    units, independent
        Number of units, and of independent ones among them, which the intervals are based on.
    mean
        Mean of the units' means (a + b)/2.
    bias, sd
        Mean and standard deviation of b − a.
    bias_interval
        Of the bias, by Student's t.
    lower, upper
        Limits of agreement, bias ∓ 1.96 sd.
    lower_interval, upper_interval
        Of the limits: their variance is sd² (1/n + 1.96²/(2(n − 1))) (Bland and Altman 1999).
    middle, central, reach
        The same without a distribution (Bland and Altman 1999): median, 2.5th and 97.5th
        percentiles of b − a, and 95th of its size. Among many units with long tails, voxels, they
        say what the limits and the coefficient mean to say.
    wsd
        Within-subject standard deviation, sqrt(mean (b − a)²/2). A bias counts.
    rc, rc_interval
        Repeatability coefficient, 1.96 √2 wsd: two measurements of what has not changed differ by
        less in 95 %. Its interval comes from χ² with as many degrees of freedom as units.
    wcv
        Within-subject coefficient of variation, sqrt(mean ((b − a)/m)²/2) with m = (a + b)/2, a
        fraction; NaN where zero is arbitrary.
    rc_percent, rc_percent_interval
        100 · 1.96 √2 wcv.
    log_percent
        Repeatability limits (lower, upper) of the change b/a − 1 in %, from the logarithms: not
        symmetric, and right where the standard deviation grows with the value.
    positive
        Units whose values are all above 0, of which the relative figures are.
    ccc, ccc_interval
        Lin's concordance correlation coefficient (Biometrics 45:255, 1989; corrected 56:324, 2000).
    slope, slope_interval
        Of the regression of b − a on (a + b)/2: a bias in proportion to the value. Measurements
        of unlike noise have a slope too.
    """

    units: int
    independent: float
    mean: float
    bias: float
    sd: float
    bias_interval: Interval
    lower: float
    upper: float
    lower_interval: Interval
    upper_interval: Interval
    middle: float
    central: Interval
    reach: float
    wsd: float
    rc: float
    rc_interval: Interval
    wcv: float
    rc_percent: float
    rc_percent_interval: Interval
    log_percent: Interval
    positive: int
    ccc: float
    ccc_interval: Interval
    slope: float
    slope_interval: Interval


def agreement(
    a: ArrayLike, b: ArrayLike, *, independent: float | None = None, relative: bool = True
) -> Agreement:
    """Agreement of paired measurements.

    Parameters
    ----------
    a, b
        (n,) values of the same units in the same order. Pairs with a value that is not finite are
        left out.
    independent
        Number of independent units where they are correlated (voxels); n where left out.
    relative
        False where zero is arbitrary (a delay): relative figures are then NaN.

    Returns
    -------
    Agreement
        Figures that so few units do not give are NaN.

    Raises
    ------
    KetyError
        If the shapes differ, or no pair is finite.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise KetyError(
            f"paired measurements of shapes {first.shape} and {second.shape}; give two lists of "
            "the same length, one value a unit"
        )
    finite = np.isfinite(first) & np.isfinite(second)
    first, second = first[finite], second[finite]
    n = first.size
    if n == 0:
        raise KetyError(
            f"none of the {finite.size} pairs has two finite values; nothing can be compared"
        )
    free = float(n if independent is None else min(max(independent, 1.0), n))
    difference, middle = second - first, (first + second) / 2
    bias = float(difference.mean())
    sd = float(difference.std(ddof=1)) if n > 1 else float("nan")
    wsd = float(np.sqrt(np.mean(difference**2) / 2))
    lower, upper = bias - NORMAL * sd, bias + NORMAL * sd
    if free > 1:
        limit_error = sd * np.sqrt(1 / free + NORMAL**2 / (2 * (free - 1)))
    else:
        limit_error = float("nan")
    positive = (first > 0) & (second > 0)
    wcv, log_percent = float("nan"), _UNKNOWN
    if relative and positive.any():
        ratio = difference[positive] / middle[positive]
        wcv = float(np.sqrt(np.mean(ratio**2) / 2))
        logs = np.log(second[positive]) - np.log(first[positive])
        reach = NORMAL * np.sqrt(np.mean(logs**2))
        log_percent = (float(100 * np.expm1(-reach)), float(100 * np.expm1(reach)))
    low, high = np.percentile(difference, [2.5, 97.5])
    share = free * np.count_nonzero(positive) / n
    slope, slope_error = _slope(middle, difference, free)
    ccc, ccc_interval = concordance(first, second, free)
    return Agreement(
        units=n,
        independent=free,
        mean=float(middle.mean()),
        bias=bias,
        sd=sd,
        bias_interval=_around(bias, sd / np.sqrt(free), free - 1),
        lower=lower,
        upper=upper,
        lower_interval=_around(lower, limit_error, free - 1),
        upper_interval=_around(upper, limit_error, free - 1),
        middle=float(np.median(difference)),
        central=(float(low), float(high)),
        reach=float(np.percentile(np.abs(difference), 95.0)),
        wsd=wsd,
        rc=float(REPEATABILITY * wsd),
        rc_interval=_spread_interval(float(REPEATABILITY * wsd), free),
        wcv=wcv,
        rc_percent=float(100 * REPEATABILITY * wcv),
        rc_percent_interval=_spread_interval(float(100 * REPEATABILITY * wcv), share),
        log_percent=log_percent,
        positive=int(np.count_nonzero(positive)) if relative else 0,
        ccc=ccc,
        ccc_interval=ccc_interval,
        slope=slope,
        slope_interval=_around(slope, slope_error, free - 2),
    )


def concordance(
    a: NDArray[np.float64], b: NDArray[np.float64], independent: float
) -> tuple[float, Interval]:
    """Lin's concordance correlation coefficient of (n,) pairs and its 95 % interval.

    The interval is that of Fisher's z with Lin's variance; NaN where values do not vary.
    """
    between = (a.mean() - b.mean()) ** 2
    total = float(a.var() + b.var() + between)
    if np.ptp(a) == 0 or np.ptp(b) == 0:  # a variance would be 0 but for rounding
        return float("nan"), _UNKNOWN
    shared = float(np.mean((a - a.mean()) * (b - b.mean())))
    spread = float(np.sqrt(a.var() * b.var()))
    ccc, r = 2 * shared / total, shared / spread
    if independent <= 2 or abs(ccc) >= 1 - 1e-12 or r == 0:
        return ccc, (ccc, ccc) if abs(ccc) >= 1 - 1e-12 else _UNKNOWN
    u2, rest = float(between / spread), 1 - ccc**2
    variance = (
        (1 - r**2) * ccc**2 / (rest * r**2)
        + 2 * ccc**3 * (1 - ccc) * u2 / (r * rest**2)
        - ccc**4 * u2**2 / (2 * r**2 * rest**2)
    ) / (independent - 2)
    z, error = np.arctanh(ccc), np.sqrt(max(variance, 0.0))
    return ccc, (float(np.tanh(z - NORMAL * error)), float(np.tanh(z + NORMAL * error)))


def adjusted(p: ArrayLike, correction: str = "holm") -> NDArray[np.float64]:
    """p values corrected for the number of tests; NaN are no tests and stay.

    Parameters
    ----------
    p
        (n,) p values.
    correction
        ``"holm"`` bounds the chance of any false finding, whatever the tests share (Holm, Scand J
        Stat 6:65, 1979); ``"bh"`` the share of false ones among the findings (Benjamini and
        Hochberg, J R Stat Soc B 57:289, 1995); ``"none"`` corrects nothing.

    Raises
    ------
    KetyError
        If the correction is unknown.
    """
    values = np.array(p, dtype=np.float64)
    if correction not in CORRECTIONS:
        raise KetyError(f"unknown correction {correction!r}; valid: {', '.join(CORRECTIONS)}")
    known = np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(values[known], kind="stable")]
    m = order.size
    if correction == "none" or m == 0:
        return values
    ranks = np.arange(1, m + 1)
    if correction == "holm":
        corrected = np.maximum.accumulate((m + 1 - ranks) * values[order])
    else:
        corrected = np.minimum.accumulate((m / ranks * values[order])[::-1])[::-1]
    values[order] = np.minimum(corrected, 1.0)
    return values


CORRECTIONS: Final = {
    "holm": "Holm, against any false finding",
    "bh": "Benjamini–Hochberg, against too large a share of false findings",
    "none": "none",
}
"""Corrections for the number of tests, in words."""


def two_sided(score: ArrayLike, freedom: ArrayLike = np.inf) -> NDArray[np.float64]:
    """Two-sided p values of scores: of Student's t, or of the normal at infinite freedom."""
    from scipy.special import ndtr, stdtr

    t, dof = np.broadcast_arrays(
        -np.abs(np.asarray(score, dtype=np.float64)), np.asarray(freedom, dtype=np.float64)
    )
    finite = np.isfinite(dof)
    tail = np.where(finite, stdtr(np.where(finite, dof, 1.0), t), ndtr(t))
    return np.asarray(2 * tail, dtype=np.float64)


def quantile(freedom: float) -> float:
    """Half-width of a 95 % interval in standard errors, Student's t."""
    from scipy.special import stdtrit

    if not np.isfinite(freedom):
        return NORMAL if freedom > 0 else float("nan")
    return float(stdtrit(freedom, 0.5 + LEVEL / 2)) if freedom > 0 else float("nan")


def _around(value: float, error: float, freedom: float) -> Interval:
    reach = quantile(freedom) * float(error)
    return float(value - reach), float(value + reach)


def _spread_interval(value: float, freedom: float) -> Interval:
    """Of a standard deviation, or what is in proportion to one, by χ²."""
    from scipy.special import chdtri

    if not freedom >= 1 or not np.isfinite(value):
        return _UNKNOWN
    tails = chdtri(freedom, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    low, high = value * np.sqrt(freedom / tails)
    return float(low), float(high)


def _slope(
    x: NDArray[np.float64], y: NDArray[np.float64], independent: float
) -> tuple[float, float]:
    """Slope of the straight line through (n,) points, and its standard error."""
    around = x - x.mean()
    scale = float(around @ around)
    if np.ptp(x) == 0 or independent <= 2:
        return float("nan"), float("nan")
    slope = float(around @ y / scale)
    rest = y - y.mean() - slope * around
    # As n correlated points tell what `independent` ones do, the scale shrinks with them.
    variance = float(rest @ rest) / (x.size * (1 - 2 / independent))
    return slope, float(np.sqrt(variance / (scale / x.size * independent)))
