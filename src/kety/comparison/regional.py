"""The change of a region between two studies, and how sure it is.

The voxels of a region are not independent: noise of a reconstruction, joint estimation and tissue
itself are alike in neighbours. How many independent ones they are worth is read off the change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

STATISTICS: Final = ("mean", "median")
_LONGEST_LAG: Final = 32
_FEW_PAIRS: Final = 30
_FEW_VALUES: Final = 10
_MANY: Final = 10.0
_CLIP: Final = 3.0
_ROUNDS: Final = 8
_MAD: Final = 1.4826
# Half-width of the 95 % interval of a median is 0.98 √n ranks (Bland and Altman 1999).
_RANKS: Final = 0.98
_Z: Final = 1.96


@dataclass(frozen=True)
class Profile:
    """Correlation of voxels: ``smooth`` times the product of the axes' own.

    Attributes
    ----------
    axes
        For each axis the correlation at lags 0, 1, ... over ``smooth``, as far as there is any;
        None where there were too few pairs.
    smooth
        Share of the variance that neighbours have in common; the rest is each voxel's own.
    """

    axes: tuple[NDArray[np.float64] | None, ...]
    smooth: float


@dataclass(frozen=True)
class Spread:
    """A value of a region and the squared errors behind it.

    Attributes
    ----------
    value, count
        The statistic and the number of voxels.
    independent
        How many independent voxels they are worth.
    error
        Standard error, from the spread of the voxels or, where they are few, their own errors.
    noise
        Standard error that the voxels' own errors give, NaN where they have none.
    freedom
        Degrees of freedom: infinite where the voxels' own errors decide, ``independent − 1`` where
        their spread does.
    """

    value: float
    count: int
    independent: float
    error: float
    noise: float
    freedom: float


def spread(
    value: float,
    influence: NDArray[np.float64],
    variance: NDArray[np.float64],
    independent: float,
) -> Spread:
    """Standard error of a region's value.

    The variance of one voxel is that of the voxels' influences, which holds noise and differences
    of tissue alike. Among fewer than ten independent voxels it is not taken below the median of
    their squared standard errors: few may agree by chance (a random-effects estimate whose
    variance between voxels is not below 0; DerSimonian and Laird, Control Clin Trials 7:177,
    1986). Divided by the number of independent voxels it is that of the region.

    Parameters
    ----------
    value
        The statistic, or its change.
    influence
        (n,) how the voxels move it, see `influences`.
    variance
        (n,) squared standard errors, NaN where there is none.
    independent
        How many independent voxels they are worth, see `independent_voxels`.
    """
    count = influence.size
    if count == 0:
        nan = float("nan")
        return Spread(nan, 0, 0.0, nan, nan, nan)
    known = variance[np.isfinite(variance)]
    noise = float(np.median(known)) if known.size else float("nan")
    scatter = float("nan")
    if count > 1:
        # The mean that was taken away went along with correlated voxels.
        scatter = float(np.mean(influence**2)) / (1 - 1 / max(independent, 2.0))
    decided = known.size > 0 and not scatter > noise and not independent >= _MANY
    largest = noise if decided else scatter
    return Spread(
        value,
        count,
        independent,
        float(np.sqrt(largest / independent)),
        float(np.sqrt(noise / independent)),
        float("inf") if decided else max(independent - 1, 1.0),
    )


def statistic_of(values: NDArray[np.float64], statistic: str) -> float:
    """Mean or median of (n,) values, NaN of none."""
    if values.size == 0:
        return float("nan")
    return float(values.mean() if statistic == "mean" else np.median(values))


def influences(values: NDArray[np.float64], statistic: str) -> NDArray[np.float64]:
    """How each of (n,) values moves the statistic: what it would add n times over.

    Of a mean the deviation from it; of a median the sign of that over twice the density there
    (Hampel, J Am Stat Assoc 69:383, 1974), the density from the order statistics that bound the
    median's interval.
    """
    n = values.size
    if n == 0:
        return values
    if statistic == "mean":
        return np.asarray(values - values.mean())
    deviation = np.sign(values - np.median(values))
    if n < _FEW_VALUES:
        return np.asarray(deviation * np.sqrt(np.pi / 2) * values.std(ddof=1 if n > 1 else 0))
    reach = _RANKS / np.sqrt(n)
    low, high = np.quantile(values, [max(0.5 - reach, 0.0), min(0.5 + reach, 1.0)])
    return np.asarray(deviation * np.sqrt(n) * (high - low) / (2 * _Z))


def independent_voxels(
    field: NDArray[np.float64], where: NDArray[np.bool_], profile: Profile | None = None
) -> float:
    """Number of independent voxels that a region's are worth: n² / Σᵢⱼ ρᵢⱼ.

    The correlation ρ of two voxels is followed along each axis from neighbour to neighbour as far
    as it stands out from chance (in one dimension: Bayley and Hammersley, Suppl J R Stat Soc
    8:184, 1946). Correlations below 0 count as none. The region's mean has been taken away and
    with it a part of every correlation, which is put back.

    Parameters
    ----------
    field, where
        Values and region on one grid of any number of axes; outliers are clipped.
    profile
        Correlation to take along axes on which the region has too few pairs to tell.
    """
    n = int(np.count_nonzero(where))
    if n < 2:
        return float(n)
    box = tuple(slice(int(i.min()), int(i.max()) + 1) for i in np.nonzero(where))
    values, inside = _clipped(field[box], where[box])
    raw = _Raw(values, inside)
    missing, effective = 1.0 / n, float(n)
    for _ in range(_ROUNDS):
        effective = n * n / _pair_sum(inside, _completed(raw.profile(missing), profile))
        if abs(1 / effective - missing) < 1e-3 * missing:
            break
        missing = min(1 / effective, 0.5)
    return float(min(max(effective, 1.0), n))


def correlation_profile(field: NDArray[np.float64], where: NDArray[np.bool_]) -> Profile:
    """Correlation over all voxels of ``where``, for regions with too few of their own."""
    return _Raw(*_clipped(field, where)).profile(0.0)


def _completed(own: Profile, other: Profile | None) -> Profile:
    """The other's axes where there is none of one's own."""
    if other is None or all(one is not None for one in own.axes):
        return own
    axes = tuple(
        theirs if mine is None else mine for mine, theirs in zip(own.axes, other.axes, strict=True)
    )
    alone = all(one is None or one.size == 1 for one in own.axes)
    return Profile(axes, other.smooth if alone else min(own.smooth, other.smooth))


def _clipped(
    field: NDArray[np.float64], where: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Deviations, outliers clipped as they would hide what the others share; 0 outside."""
    inside = field[where]
    deviation = inside - np.median(inside)
    limit = _CLIP * _MAD * float(np.median(np.abs(deviation)))
    if limit > 0:
        deviation = np.clip(deviation, -limit, limit)
    values = np.zeros(field.shape)
    values[where] = deviation - deviation.mean()
    return values, where


class _Raw:
    """Correlations of deviations (0 outside) at all lags along the axes, and over corners."""

    def __init__(self, values: NDArray[np.float64], where: NDArray[np.bool_]) -> None:
        self._values, self._where = values, where
        self._variance = float(np.mean(values[where] ** 2))
        self._axes = [self._along(axis) for axis in range(values.ndim)]
        self._corners: dict[tuple[int, int], tuple[float, int]] = {}

    def profile(self, missing: float) -> Profile:
        """Correlations up to the first that chance would give, ``missing`` of them put back."""
        axes: list[NDArray[np.float64] | None] = []
        for found, pairs in self._axes:
            if found.size == 0:
                axes.append(None)
                continue
            restored = found * (1 - missing) + missing
            chance = restored <= 1 / np.sqrt(pairs)
            last = int(np.argmax(chance)) if chance.any() else restored.size
            axes.append(np.array([1.0, *np.minimum(restored[:last], 1.0)]))
        smooth = self._smooth(axes, missing)
        scaled = (
            one if one is None else np.array([1.0, *np.minimum(one[1:] / smooth, 1.0)])
            for one in axes
        )
        return Profile(tuple(scaled), smooth)

    def _smooth(self, axes: Sequence[NDArray[np.float64] | None], missing: float) -> float:
        """Share of the variance that is smooth, from neighbours across a corner.

        With a share s, neighbours along two axes correlate by s·g and s·h and those across a
        corner by s·g·h.
        """
        near = {i: float(one[1]) for i, one in enumerate(axes) if one is not None and one.size > 1}
        if len(near) < 2:
            return 1.0
        first, second = sorted(near, key=lambda i: -near[i])[:2]
        if (first, second) not in self._corners:
            self._corners[first, second] = self._across(first, second)
        found, pairs = self._corners[first, second]
        if pairs < _FEW_PAIRS:
            return 1.0
        least = max(near.values())
        corner = found * (1 - missing) + missing
        if corner <= 0:
            return 1.0
        return float(np.clip(near[first] * near[second] / corner, least, 1.0))

    def _along(self, axis: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        found, pairs = [], []
        for lag in range(1, min(_LONGEST_LAG, self._values.shape[axis] - 1) + 1):
            shift = [0] * self._values.ndim
            shift[axis] = lag
            correlation, number = self._shifted(shift)
            if number < _FEW_PAIRS:
                break
            found.append(correlation)
            pairs.append(number)
        return np.array(found), np.array(pairs, dtype=np.float64)

    def _across(self, first: int, second: int) -> tuple[float, int]:
        total, number = 0.0, 0
        for sign in (1, -1):
            shift = [0] * self._values.ndim
            shift[first], shift[second] = 1, sign
            correlation, pairs = self._shifted(shift)
            total, number = total + correlation * pairs, number + pairs
        return total / max(number, 1), number

    def _shifted(self, shift: Sequence[int]) -> tuple[float, int]:
        """Correlation of voxels that lie so far apart, and the number of such pairs."""
        there = tuple(slice(s, None) if s >= 0 else slice(None, s) for s in shift)
        here = tuple(slice(None, -s or None) if s >= 0 else slice(-s, None) for s in shift)
        number = int(np.count_nonzero(self._where[there] & self._where[here]))
        if number == 0 or self._variance == 0:
            return 0.0, 0
        # Values outside are 0 and add nothing.
        product = float(np.sum(self._values[there] * self._values[here]))
        return product / (number * self._variance), number


def _pair_sum(where: NDArray[np.bool_], profile: Profile) -> float:
    """Sum of the correlations of all pairs of voxels of a region, each with itself included."""
    from scipy.ndimage import correlate1d

    total = where.astype(np.float64)
    for axis, one in enumerate(profile.axes):
        if one is not None and one.size > 1:
            kernel = np.concatenate([one[:0:-1], one])
            total = correlate1d(total, kernel, axis=axis, mode="constant")
    count = float(np.count_nonzero(where))
    return count + profile.smooth * (float(total[where].sum()) - count)
