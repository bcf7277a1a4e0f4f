"""Changes of voxels and regions, tested, and the agreement of the studies in each parameter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kety.comparison import regional
from kety.comparison.agreement import adjusted, agreement, quantile, two_sided
from kety.comparison.records import Basis, Pair, ParameterAgreement, RegionChange, Scores
from kety.comparison.repeatability import Limit
from kety.fitting.status import FITTED, Status
from kety.io import FittedMaps
from kety.joint.maps import VOXELWISE

SIGNIFICANT: Final = 0.05
FEWEST_REGIONS: Final = 2


def has_zero(name: str) -> bool:
    """Whether zero means none of it, so that ratios have a meaning; a delay's is arbitrary."""
    return "delay" not in name


def fitted_in(one: FittedMaps) -> NDArray[np.bool_]:
    """Voxels whose maps hold values."""
    return np.isin(one.maps["status"].values, [int(status) for status in FITTED])


def is_held(one: FittedMaps, name: str) -> bool:
    """Whether the fit held a parameter: it has values where fits converged, and never an error."""
    converged = one.maps["status"].values == Status.CONVERGED
    error = values_of(one, f"{name}_se")[converged]
    known = np.isfinite(values_of(one, name)[converged])
    return f"{name}_se" in one.maps and bool(known.any()) and not bool(np.isfinite(error).any())


def values_of(one: FittedMaps, name: str) -> NDArray[np.float64]:
    """A map in double precision; NaN everywhere where there is none of that name."""
    if name not in one.maps:
        return np.full(one.maps["status"].shape, np.nan)
    return np.asarray(one.maps[name].values, dtype=np.float64)


def changes(
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    se_a: NDArray[np.float64],
    se_b: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Change b − a, in % of a, and in combined standard errors; NaN where that is not defined."""
    change = b - a
    percent = np.full(a.shape, np.nan)
    np.divide(100 * change, np.abs(a), out=percent, where=a != 0)
    error = np.hypot(se_a, se_b)
    z = np.full(a.shape, np.nan)
    np.divide(change, error, out=z, where=error > 0)
    return change, percent, z


def scores_of(z: NDArray[np.float64]) -> Scores:
    """How many of (n,) changes in standard errors stand out, and their spread."""
    if z.size == 0:
        return Scores(0, 0, 0, float("nan"))
    low, high = np.percentile(z, [15.8655, 84.1345])
    p = two_sided(z)
    found = adjusted(p, "bh") < SIGNIFICANT
    return Scores(z.size, int((p < SIGNIFICANT).sum()), int(found.sum()), float(high - low) / 2)


def region_changes(
    pair: Pair, name: str, statistic: str, limit: Limit | None
) -> list[RegionChange]:
    """The change of one parameter in every region of a pair.

    That of a median is the median of the voxels' changes, where voxels correspond: the difference
    of two medians would be as uneven as the tissue.
    """
    a, b = values_of(pair.a, name), values_of(pair.b, name)
    var_a, var_b = values_of(pair.a, f"{name}_se") ** 2, values_of(pair.b, f"{name}_se") ** 2
    usable_a, usable_b = fitted_in(pair.a) & np.isfinite(a), fitted_in(pair.b) & np.isfinite(b)
    paired = pair.changes is not None
    profile = None
    if paired:
        usable_a = usable_b = usable_a & usable_b
        if usable_a.any():
            profile = regional.correlation_profile(np.where(usable_a, b - a, 0.0), usable_a)
    rows = []
    for region, (inside_a, inside_b) in pair.regions.items():
        in_a, in_b = inside_a & usable_a, inside_b & usable_b
        if paired:
            pooled = np.fmax(pooled_voxels(pair.a, name), pooled_voxels(pair.b, name))
            found = region_estimate(b - a, var_a + var_b, in_a, statistic, pooled, profile)
        else:
            found = _apart(
                region_estimate(a, var_a, in_a, statistic, pooled_voxels(pair.a, name)),
                region_estimate(b, var_b, in_b, statistic, pooled_voxels(pair.b, name)),
            )
        rows.append(_row(pair, region, name, statistic, a[in_a], b[in_b], found, limit))
    return rows


def pooled_voxels(one: FittedMaps, name: str) -> NDArray[np.float64]:
    """Voxels behind each estimate of a joint fit; 1 of a voxel's own."""
    if name.endswith(VOXELWISE):
        return np.ones(one.maps["status"].shape)
    return np.fmax(values_of(one, "pooled"), 1.0)


def region_estimate(
    field: NDArray[np.float64],
    variance: NDArray[np.float64],
    where: NDArray[np.bool_],
    statistic: str,
    pooled: NDArray[np.float64],
    profile: regional.Profile | None = None,
) -> regional.Spread:
    """The statistic of a map in a region, and its standard error.

    ``pooled`` is the number of voxels whose data stand behind each: where a joint estimate drew a
    region together, its voxels share one error, which their spread does not show.
    """
    values, noise = field[where], variance[where]
    number = regional.independent_voxels(np.where(where, field, 0.0), where, profile)
    if values.size:
        number = min(number, max(values.size / float(np.median(pooled[where])), 1.0))
    if statistic == "median" and values.size > 2:
        # A median of noise alone is as sure as a mean of 2/π as many voxels.
        noise = noise * np.pi / 2
    value = regional.statistic_of(values, statistic)
    return regional.spread(value, regional.influences(values, statistic), noise, number)


def _apart(a: regional.Spread, b: regional.Spread) -> regional.Spread:
    """The difference of two studies whose voxels do not correspond."""
    return regional.Spread(
        b.value - a.value,
        min(a.count, b.count),
        min(a.independent, b.independent),
        float(np.hypot(a.error, b.error)),
        float(np.hypot(a.noise, b.noise)),
        _welch(a, b),
    )


def _row(
    pair: Pair,
    region: str,
    name: str,
    statistic: str,
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    found: regional.Spread,
    limit: Limit | None,
) -> RegionChange:
    a, b = (regional.statistic_of(one, statistic) for one in (first, second))
    delta, error = found.value, found.error
    reach = quantile(found.freedom) * error
    known = np.isfinite(delta) and np.isfinite(error) and error > 0
    inside_a, inside_b = pair.regions[region]
    reference = limit.change(a, b) if limit is not None else float("nan")
    beyond = None if limit is None or not np.isfinite(delta) else bool(abs(delta) > reference)
    return RegionChange(
        pair=pair.label,
        region=region,
        parameter=name,
        units=str(pair.a.maps[name].attrs.get("units", "")),
        voxels_a=first.size,
        voxels_b=second.size,
        inside_a=int(inside_a.sum()),
        inside_b=int(inside_b.sum()),
        mean_a=regional.statistic_of(first, "mean"),
        mean_b=regional.statistic_of(second, "mean"),
        median_a=regional.statistic_of(first, "median"),
        median_b=regional.statistic_of(second, "median"),
        a=a,
        b=b,
        change=delta,
        percent=100 * delta / abs(a) if has_zero(name) and a != 0 else float("nan"),
        independent=found.independent,
        error=error,
        noise_error=found.noise,
        freedom=found.freedom,
        interval=(delta - reach, delta + reach),
        p=float(two_sided(delta / error, found.freedom)) if known else float("nan"),
        p_adjusted=float("nan"),
        exceeds=False,
        limit=reference,
        exceeds_limit=beyond,
    )


def _welch(a: regional.Spread, b: regional.Spread) -> float:
    """Degrees of freedom of a sum of two variances (Welch, Biometrika 34:28, 1947)."""
    rest = a.error**4 / a.freedom + b.error**4 / b.freedom
    return float((a.error**2 + b.error**2) ** 2 / rest) if rest > 0 else float("inf")


def tested(rows: Sequence[RegionChange], correction: str) -> list[RegionChange]:
    corrected = adjusted([row.p for row in rows], correction)
    return [
        replace(row, p_adjusted=float(p), exceeds=bool(p < SIGNIFICANT))
        for row, p in zip(rows, corrected, strict=True)
    ]


def agreements_of(
    pairs: Sequence[Pair], rows: Sequence[RegionChange], names: Sequence[str]
) -> list[ParameterAgreement]:
    made = []
    one = pairs[0]
    basis: Basis = "pairs" if len(pairs) > 1 else "regions"
    for name in names:
        units = str(one.a.maps[name].attrs.get("units", ""))
        own = [row for row in rows if row.parameter == name]
        if len(pairs) > 1 or len(one.regions) >= FEWEST_REGIONS:
            a, b = np.array([row.a for row in own]), np.array([row.b for row in own])
            known = np.isfinite(a) & np.isfinite(b)
            if known.any():
                figures = agreement(a, b, relative=has_zero(name))
                made.append(ParameterAgreement(name, units, basis, a[known], b[known], figures))
        if len(pairs) == 1 and one.changes is not None:
            first, second = values_of(one.a, name), values_of(one.b, name)
            inside = np.any([mask for mask, _ in one.regions.values()], axis=0)
            inside &= fitted_in(one.a) & fitted_in(one.b) & np.isfinite(first) & np.isfinite(second)
            if inside.any():
                change = np.where(inside, second - first, 0.0)
                number = regional.independent_voxels(change, inside)
                a, b = first[inside], second[inside]
                figures = agreement(a, b, independent=number, relative=has_zero(name))
                made.append(ParameterAgreement(name, units, "voxels", a, b, figures))
    return made
