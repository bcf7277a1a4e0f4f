"""`kety.compare`: two studies in, their change and its certainty out."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kety.comparison import regional
from kety.comparison.agreement import CORRECTIONS
from kety.comparison.changes import (
    agreements_of,
    changes,
    fitted_in,
    has_zero,
    is_held,
    region_changes,
    scores_of,
    tested,
    values_of,
)
from kety.comparison.differences import differences, same_series
from kety.comparison.records import (
    Comparison,
    Pair,
    RegionChange,
)
from kety.comparison.regions import EVERYWHERE, pair_up, regions_of
from kety.comparison.repeatability import limits_of
from kety.errors import KetyError
from kety.fitting.status import Status
from kety.io import FittedMaps, fitted_maps
from kety.joint.maps import VOXELWISE
from kety.series import check_same_grid

_SKEWED: Final = 0.1


def compare(
    a: Any,
    b: Any,
    *,
    roi: Any = None,
    roi_a: Any = None,
    roi_b: Any = None,
    parameters: Sequence[str] | None = None,
    statistic: str = "median",
    rc: Any = None,
    correction: str = "holm",
    labels: Sequence[str] | None = None,
) -> Comparison:
    """Compare two studies of one patient, or several pairs: what changed, and is it beyond error?

    Parameters
    ----------
    a, b : Dataset or folder, or lists of them
        What `kety.fit` returned or `kety fit` wrote, before and after. Lists are pairs of studies,
        the same number of each.
    roi : array, path, mapping or list, optional
        Regions on the common grid: masks or images of labels, see
        `kety.comparison.regions.regions_of`. All voxels fitted in both where left out. With several
        pairs a list holds one for each.
    roi_a, roi_b : as ``roi``, optional
        Regions of A and of B, each on its own grid. Then nothing is compared voxel by voxel, so
        that studies need not be registered.
    parameters : sequence of str, optional
        Maps to compare; all that have a standard error in both where left out.
    statistic : {"median", "mean"}
        What stands for a region. A mean is moved by single voxels that went astray, such as ve
        where kep is nearly 0.
    rc : mapping or path, optional
        Repeatability coefficients to test against, see `kety.comparison.limits_of`.
    correction : {"holm", "bh", "none"}
        For the number of tests, which is parameters × regions × pairs.
    labels : sequence of str, optional
        Names of the pairs.

    Returns
    -------
    Comparison
        ``rois`` (changes of regions), ``agreements`` (repeatability, Bland–Altman), ``maps``
        (``<name>_change``, ``<name>_change_percent``, ``<name>_z``), ``pairs``, ``warnings``.

    Raises
    ------
    KetyError
        If the fits lie on different grids and have no regions of their own, have no map or no
        fitted voxel in common, or an argument does not fit.

    Notes
    -----
    A change exceeds its uncertainty when the corrected p value of no change is below 5 %. The
    standard error of a region allows for noise, for tissue that changed unevenly, and for voxels
    that are not independent (`kety.comparison.regional`). It does not allow for what all voxels of
    a study share, such as an error of its arterial input: that shows in repeatability alone.
    """
    if statistic not in regional.STATISTICS:
        raise KetyError(f"unknown statistic {statistic!r}; valid: mean, median")
    if correction not in CORRECTIONS:
        raise KetyError(f"unknown correction {correction!r}; valid: {', '.join(CORRECTIONS)}")
    if (roi_a is None) != (roi_b is None) or (roi is not None and roi_a is not None):
        raise KetyError("give roi on a common grid, or both roi_a and roi_b on grids of their own")
    limits = limits_of(rc)
    firsts, seconds = _listed(a), _listed(b)
    if len(firsts) != len(seconds) or not firsts:
        raise KetyError(f"{len(firsts)} studies before and {len(seconds)} after; give pairs")
    names = list(labels or [f"pair {i + 1}" for i in range(len(firsts))])
    if len(names) != len(firsts) or len(set(names)) < len(names):
        raise KetyError(f"labels {', '.join(names)} for {len(firsts)} pairs; give each its own")
    told: list[str] = []
    fits = [
        (fitted_maps(one, "A"), fitted_maps(other, "B"))
        for one, other in zip(firsts, seconds, strict=True)
    ]
    chosen = _parameters(fits, parameters, told)
    if isinstance(rc, str | os.PathLike):
        limits = {name: limit for name, limit in limits.items() if name in chosen}
    for name in limits:
        if name not in chosen:
            raise KetyError(
                f"a repeatability coefficient of {name}, which is not compared; compared are "
                f"{', '.join(chosen)}"
            )
    regions = [_each(one, len(fits)) for one in (roi, roi_a, roi_b)]
    pairs = [
        _pair(label, one, other, _regions(one, other, *own), roi_a is None, chosen, told)
        for label, (one, other), *own in zip(names, fits, *regions, strict=True)
    ]
    rows = [
        row
        for name in chosen
        for pair in pairs
        for row in region_changes(pair, name, statistic, limits.get(name))
    ]
    rows = tested(rows, correction)
    _remark(pairs, rows, told)
    return Comparison(
        tuple(pairs),
        tuple(rows),
        tuple(agreements_of(pairs, rows, chosen)),
        tuple(chosen),
        statistic,
        correction,
        limits,
        tuple(told),
    )


def _listed(one: Any) -> list[Any]:
    return list(one) if isinstance(one, list | tuple) else [one]


def _each(roi: Any, pairs: int) -> list[Any]:
    """The region of every pair: a list holds one for each where there are several pairs."""
    if pairs == 1 or not isinstance(roi, list | tuple):
        return [roi] * pairs
    if len(roi) not in (1, pairs):
        raise KetyError(
            f"{len(roi)} regions for {pairs} pairs; give one for all, or one for each pair"
        )
    return list(roi) if len(roi) == pairs else list(roi) * pairs


def _parameters(
    fits: Sequence[tuple[FittedMaps, FittedMaps]], asked: Sequence[str] | None, told: list[str]
) -> list[str]:
    """Maps to compare: those asked for, or all with a standard error, in all the studies."""
    everyone = [one for pair in fits for one in pair]
    names = list(dict.fromkeys(asked)) if asked else []
    if not asked:
        for one in everyone:
            found = [str(name) for name in one.maps.data_vars if f"{name}_se" in one.maps]
            names += [n for n in found if n not in names and n != "baseline"]
        names = [name for name in names if not name.endswith(VOXELWISE)]
    chosen = []
    for name in names:
        without = [one.name for one in everyone if name not in one.maps]
        if without:
            has = [one for one in everyone if name in one.maps]
            if asked:
                every = (str(n) for n in everyone[0].maps.data_vars)
                available = ", ".join(n for n in every if not n.endswith("_se"))
                raise KetyError(
                    f"there is no map {name} in {', '.join(without)}; the maps of "
                    f"{everyone[0].name} are {available}"
                )
            told.append(
                f"{name} is in {', '.join(one.name for one in has)} and not in "
                f"{', '.join(without)}; it was left out"
            )
            continue
        units = [str(one.maps[name].attrs.get("units", "")) for one in everyone]
        if len(set(units)) > 1:
            at = next(i for i, unit in enumerate(units) if unit != units[0])
            text = (
                f"{name} is in {units[0] or 'no unit'} in {everyone[0].name} and in "
                f"{units[at] or 'no unit'} in {everyone[at].name}"
            )
            if asked:
                raise KetyError(f"{text}; fit both alike")
            told.append(f"{text}; it was left out")
            continue
        if everyone[0].maps[name].ndim != everyone[0].maps["status"].ndim:
            raise KetyError(f"{name} has a time axis; compare maps of a value a voxel")
        held = [one.name for one in everyone if is_held(one, name)]
        if held and not asked:
            told.append(f"{name} was held at a value in {', '.join(held)}; it was left out")
            continue
        chosen.append(name)
    if not chosen:
        raise KetyError(
            f"{everyone[0].name} and {everyone[-1].name} have no map with a standard error and one "
            "unit in common; fit both with the same model"
        )
    return chosen


def _regions(
    a: FittedMaps, b: FittedMaps, roi: Any, roi_a: Any, roi_b: Any
) -> dict[str, tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    if roi_a is not None:
        return pair_up(regions_of(roi_a, a), regions_of(roi_b, b), (a.name, b.name))
    shapes = a.maps["status"].shape, b.maps["status"].shape
    advice = (
        "register and fit them on one grid, or give regions of interest on each one's own "
        "(--roi-a and --roi-b) to compare those"
    )
    if shapes[0] != shapes[1]:
        raise KetyError(
            f"{a.name} has the grid {shapes[0]} and {b.name} {shapes[1]}; voxels cannot be "
            f"compared: {advice}"
        )
    if a.grid is not None and b.grid is not None:
        try:
            check_same_grid(b.grid, a.grid)
        except KetyError as error:
            found = str(error).partition("; resample")[0]
            raise KetyError(f"{found}; voxels cannot be compared: {advice}") from error
    everywhere = np.ones(shapes[0], dtype=np.bool_)
    masks = {EVERYWHERE: everywhere} if roi is None else regions_of(roi, a)
    return {name: (mask, mask) for name, mask in masks.items()}


def _pair(
    label: str,
    a: FittedMaps,
    b: FittedMaps,
    regions: Mapping[str, tuple[NDArray[np.bool_], NDArray[np.bool_]]],
    voxelwise: bool,
    names: Sequence[str],
    told: list[str],
) -> Pair:
    import xarray as xr

    found = differences(a, b)
    for one in found:
        if not one.expected:
            told.append(f"{one.setting} differs: {a.name} has {one.a}, {b.name} has {one.b}")
    jointly = [one.name for one in (a, b) if "pooled" in one.maps]
    if jointly and not all(name.endswith(VOXELWISE) for name in names):
        told.append(
            f"{' and '.join(jointly)}: of joint estimates the errors that neighbours share are "
            "counted in part only, and false findings are more frequent; test the voxelwise maps "
            f"beside them, such as {names[0]}{VOXELWISE}"
        )
    shared = same_series(a, b)
    if shared:
        told.append(
            f"{a.name} and {b.name} are fits of the same series: they share its noise, so z and "
            "the standard errors of small regions, which suppose two scans, are too large"
        )
    if not voxelwise:
        return Pair(label, a, b, regions, None, None, {}, found, shared)
    kinds = len(Status)
    codes = a.maps["status"].values.astype(np.intp) * kinds + b.maps["status"].values
    transitions = np.bincount(codes.ravel(), minlength=kinds * kinds).reshape(kinds, kinds)
    both = fitted_in(a) & fitted_in(b)
    if not both.any():
        counts = [f"{one.name}: {int(fitted_in(one).sum()):,}" for one in (a, b)]
        raise KetyError(
            f"no voxel was fitted in both studies (fitted in {'; '.join(counts)}); check that they "
            "show the same place, and the masks of the fits"
        )
    dims = a.maps["status"].dims
    variables: dict[str, Any] = {}
    scores = {}
    for name in names:
        unit = str(a.maps[name].attrs.get("units", ""))
        words = str(a.maps[name].attrs.get("long_name", name))
        change, percent, z = changes(
            values_of(a, name),
            values_of(b, name),
            values_of(a, f"{name}_se"),
            values_of(b, f"{name}_se"),
        )
        kept = [(f"{name}_change", change, unit, f"change of the {words}, B less A")]
        if has_zero(name):
            kept.append((f"{name}_change_percent", percent, "%", f"change of the {words}, % of A"))
        kept.append((f"{name}_z", z, "1", f"change of the {words} in standard errors"))
        for key, values, units, long_name in kept:
            values[~both] = np.nan
            attrs = {"units": units, "long_name": long_name, "osipi": ""}
            variables[key] = (dims, values.astype(np.float32), attrs)
        scores[name] = scores_of(z[np.isfinite(z)])
    return Pair(label, a, b, regions, xr.Dataset(variables), transitions, scores, found, shared)


def _remark(pairs: Sequence[Pair], rows: Sequence[RegionChange], told: list[str]) -> None:
    """Add what the regions of all pairs give cause to say, and warn of everything."""
    for pair in pairs:
        fitted = fitted_in(pair.a), fitted_in(pair.b)
        for region, masks in pair.regions.items():
            counts = [int((mask & one).sum()) for mask, one in zip(masks, fitted, strict=True)]
            where = region if len(pairs) == 1 else f"{region} of {pair.label}"
            if pair.changes is None:
                empty = [one.name for one, n in zip((pair.a, pair.b), counts, strict=True) if not n]
                if empty:
                    told.append(f"no voxel of {where} was fitted in {' and '.join(empty)}")
                continue
            shared = int((masks[0] & fitted[0] & fitted[1]).sum())
            if shared == 0:
                told.append(f"no voxel of {where} was fitted in both studies")
            elif max(counts) - shared > _SKEWED * max(counts):
                told.append(
                    f"{where}: {counts[0]:,} voxels were fitted in A and {counts[1]:,} in B, "
                    f"{shared:,} in both; the change is of those in both"
                )
    for text in told:
        warnings.warn(text, stacklevel=3)
