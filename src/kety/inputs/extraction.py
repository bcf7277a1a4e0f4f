"""The arterial input found in the series itself: early, high, narrow, agreeing voxels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError
from kety.inputs.bolus import bolus_of, noise_of
from kety.inputs.candidates import clusters_of, core_of
from kety.inputs.concerns import INSTEAD, concerns, motion, nothing
from kety.inputs.criteria import Candidate, judge, overall
from kety.inputs.function import InputFunction
from kety.inputs.movement import displacements
from kety.inputs.pool import Pool, make_pool
from kety.inputs.screening import drawn
from kety.signal.baseline import (
    baseline_frames,
    check_series,
    enhancing_curve,
    flat_mask,
    memory_order,
    resolve_frames,
)

Floats = NDArray[np.float64]

QUANTITIES: Final[dict[str, tuple[str, str]]] = {
    "hu": ("CT", "HU"),
    "enhancement": ("CT", "HU"),
    "signal": ("MR", "1"),
    "concentration": ("MR", "mM"),
}
"""What a series may hold: its modality, and the unit of the curve that results."""
UNSTEADY: Final = 0.1
"""A first MR frame this much brighter or darker than the next is before the steady state."""
FOOT: Final = 1.5
"""Times the noise that the last frame before contrast agent may lie above the others: to leave out
a good frame costs less than to keep the foot of the rise."""
_TINY: Final = 1e-30


@dataclass(frozen=True, eq=False)
class ArterialInput:
    """An artery found in a series, and why it was taken for one.

    Attributes
    ----------
    mask
        (X, Y, Z) voxels whose mean is the curve.
    curve
        The input, in ``unit``.
    unit
        ``"HU"`` above baseline, ``"mM"``, or ``"1"``: MR signal above its baseline over it, which
        a signal-to-concentration conversion of the mask's voxels has to replace before a fit.
    baseline
        Frames before contrast agent arrives in the artery, without first MR frames that are not in
        the steady state.
    chosen
        The candidate that the mask shows.
    candidates
        All that were considered, the best first.
    tissue
        (T,) mean curve of the tissue that it was compared with.
    moved
        (T, 2) displacement of every frame in the plane, voxels.
    quality
        ``"good"``, or ``"doubtful"`` where there are warnings.
    warnings
        What speaks against it, a sentence each.
    """

    mask: NDArray[np.bool_]
    curve: InputFunction
    unit: str
    baseline: NDArray[np.intp]
    chosen: Candidate
    candidates: tuple[Candidate, ...]
    tissue: Floats
    moved: Floats
    quality: str
    warnings: tuple[str, ...]

    @property
    def reasons(self) -> tuple[str, ...]:
        """A sentence for each criterion."""
        return tuple(criterion.words for criterion in self.chosen.criteria)


def find_artery(
    data: ArrayLike,
    times: ArrayLike,
    *,
    modality: str = "CT",
    quantity: str | None = None,
    mask: ArrayLike | None = None,
    baseline: Any = None,
    hematocrit: float = 0.42,
    interpolation: str = "cubic",
) -> ArterialInput:
    """Find the voxels of an artery in a dynamic series, and their mean curve.

    Voxels are ranked by how far their first pass rises above what stays of it; connected ones whose
    curves agree but for their height form candidates; a candidate is an artery if it is high,
    early, narrow, smooth and of agreeing voxels by the limits in `kety.inputs.criteria`. These are
    the criteria of Mouridsen et al. (Magn Reson Med 2006, doi:10.1002/mrm.20759) and Parker et al.
    (Proc ISMRM 2003, p. 1264), with connected clusters in place of clusters of curves. Voxels at
    the vessel's edge, whose curve is lower, are left out of the mean.

    Parameters
    ----------
    data : array_like, shape (X, Y, Z, T)
        A slice alone has the shape (X, Y, 1, T).
    times : array_like, shape (T,)
        s, strictly increasing.
    modality
        ``"CT"`` or ``"MR"``.
    quantity
        ``"hu"`` or ``"enhancement"`` of CT, ``"signal"`` or ``"concentration"`` of MR; by default
        the first. Signal is judged by (S - S0) / S0, which coils and proton density do not change.
    mask : array_like, shape (X, Y, Z)
        Voxels to look at; all by default. It has to hold the artery and some tissue.
    baseline
        Frames before contrast agent, see `kety.signal.resolve_frames`; found by default.
    hematocrit, interpolation
        Of the curve, see `kety.InputFunction`.

    Returns
    -------
    ArterialInput

    Raises
    ------
    KetyError
        If the arguments do not fit together, or no candidate meets all criteria: the message says
        what was found and what it lacks. Nothing is made up from a series without a vessel.
    """
    series, seconds, quantity = _checked(data, times, modality, quantity)
    unit = QUANTITIES[quantity][1]
    order = memory_order(series)
    voxels = flat_mask(mask, series.shape[:3], order)
    inside = None if mask is None else np.asarray(mask) != 0
    if baseline is not None:
        before = resolve_frames(baseline, seconds.size)
    else:
        before = _first_frames(series, seconds, voxels)
        if quantity == "signal":
            before = _steady(series, before, inside)
    if before[-1] + 4 > seconds.size:
        raise KetyError(
            f"no artery was found: {seconds.size - 1 - int(before[-1])} frames follow the arrival "
            f"of contrast agent, too few to show a first pass; {INSTEAD}"
        )
    pool = make_pool(series, seconds, before, voxels, quantity)
    moved = displacements(series, before)
    candidates = _candidates(pool, seconds, moved)
    passing = [candidate for candidate in candidates if candidate.passed]
    if not passing:
        raise KetyError(nothing(candidates, pool, moved, unit))
    chosen = passing[0]
    # The artery's own arrival: frames that the first search took for baseline may show its foot.
    values = np.asarray(series[tuple(chosen.voxels.T)], dtype=np.float64)
    if baseline is None and quantity in ("hu", "signal"):
        before = _of_artery(values, seconds, before)
        chosen, *others = _again(chosen, candidates, series, seconds, before, quantity, pool)
        candidates = [chosen, *others]
    found = np.zeros(series.shape[:3], dtype=np.bool_)
    found[tuple(chosen.voxels.T)] = True
    notes = concerns(chosen, candidates, series, values, before, quantity, moved, pool)
    if pool.tissue_voxels == 0:
        notes.append("no tissue enhances beside the vessel, so its height could not be compared")
    curve = InputFunction(
        seconds,
        chosen.curve,
        hematocrit=hematocrit,
        interpolation=interpolation,
        name=f"mean of {len(chosen.voxels):,} voxels found in an artery",
    )
    return ArterialInput(
        found,
        curve,
        unit,
        before,
        chosen,
        (chosen, *(one for one in candidates if one is not chosen)),
        pool.tissue,
        moved,
        "doubtful" if notes else "good",
        tuple(notes),
    )


def _checked(
    data: ArrayLike, times: ArrayLike, modality: str, quantity: str | None
) -> tuple[NDArray[Any], Floats, str]:
    series = check_series("data", data, "T")
    seconds = np.asarray(times, dtype=np.float64)
    if series.ndim != 4 or series.size == 0:
        raise KetyError(
            f"the data must have the shape (X, Y, Z, T), a slice (X, Y, 1, T); found {series.shape}"
        )
    if seconds.shape != series.shape[3:] or not np.all(np.diff(seconds) > 0.0):
        raise KetyError(
            f"times must be strictly increasing, one for each of {series.shape[3]} frames (s); "
            f"found shape {seconds.shape}"
        )
    if quantity is None:
        quantity = {"CT": "hu", "MR": "signal"}.get(modality, "")
    if QUANTITIES.get(quantity, ("", ""))[0] != modality:
        valid = "; ".join(f"{name} of {kind}" for name, (kind, _) in QUANTITIES.items())
        raise KetyError(f"unknown quantity {quantity!r} of {modality!r}; valid: {valid}")
    if seconds.size < 8:
        raise KetyError(
            f"{seconds.size} frames are too few to find an artery by its curve; at least 8 are "
            f"needed; {INSTEAD}"
        )
    return series, seconds, quantity


def _first_frames(
    series: NDArray[Any], seconds: Floats, voxels: NDArray[np.intp]
) -> NDArray[np.intp]:
    """The frames before contrast agent by the mean of what enhances most among the voxels."""
    curves = series.reshape(-1, seconds.size, order=memory_order(series))
    try:
        return baseline_frames(enhancing_curve(curves[drawn(voxels)]), seconds)
    except KetyError as error:
        moved = displacements(series, np.arange(2))
        raise KetyError(f"no artery was found: {error}{motion(moved)}") from error


def _steady(
    series: NDArray[Any], before: NDArray[np.intp], inside: NDArray[np.bool_] | None
) -> NDArray[np.intp]:
    """The frames before contrast agent without those before the steady state of an MR signal."""
    if before.size < 3:
        return before
    means = [float(np.nanmean(_inside(series[..., f], inside))) for f in before.tolist()]
    level = float(np.median(means[1:]))
    first = 0
    while first < before.size - 2 and abs(means[first] - level) > UNSTEADY * abs(level):
        first += 1
    return before[first:]


def _inside(volume: NDArray[Any], inside: NDArray[np.bool_] | None) -> NDArray[np.float64]:
    return np.asarray(volume if inside is None else volume[inside], dtype=np.float64)


def _of_artery(values: Floats, seconds: Floats, before: NDArray[np.intp]) -> NDArray[np.intp]:
    """Frames before the artery's own arrival; those of the first search where it shows none."""
    start = int(before[0])
    curve = values.mean(axis=0)
    try:
        own = baseline_frames(curve[start:], seconds[start:]) + start
    except KetyError:
        return before
    # A mean over many voxels shows the foot of the rise before it stands out of a voxel's noise.
    noise = float(np.median(noise_of(values))) / np.sqrt(len(values))
    while own.size > 2:
        rest = curve[own[:-1]]
        spread = max(noise, float(rest.std(ddof=1)) if rest.size > 2 else 0.0)
        if curve[own[-1]] - rest.mean() <= FOOT * spread * np.sqrt(1.0 + 1.0 / rest.size):
            break
        own = own[:-1]
    return own


def _enhancement(values: Floats, before: NDArray[np.intp], quantity: str) -> Floats:
    """Mean enhancement (T,) of voxels (V, T)."""
    if quantity in ("enhancement", "concentration"):
        return np.asarray(values.mean(axis=0))
    level = values[:, before].mean(axis=1, keepdims=True)
    change = values - level
    return np.asarray((change / level if quantity == "signal" else change).mean(axis=0))


def _candidates(pool: Pool, seconds: Floats, moved: Floats) -> list[Candidate]:
    """All clusters judged, those that meet every criterion first, by their score."""
    if len(pool.places) < 3:
        return []
    raw = []
    for cluster in clusters_of(pool, pool.early):
        kept = core_of(pool, cluster)
        rows = cluster.members[kept]
        if not rows.size:
            continue
        curve = pool.curves[rows].mean(axis=0)
        bolus = bolus_of(curve, seconds)
        if bolus.peak > 0.0:
            raw.append((cluster, rows, curve, bolus))
    tissue = bolus_of(pool.tissue, seconds)
    shift = float(np.median(np.hypot(*moved.T)))
    boluses = [(bolus, rows.size) for _, rows, _, bolus in raw]
    candidates = []
    for cluster, rows, curve, bolus in raw:
        noise = float(np.median(pool.noise[rows])) / np.sqrt(rows.size)
        clear = float(np.median(pool.drop[rows] / np.maximum(pool.noise[rows], _TINY)))
        in_a_slice = cluster.members.size / np.unique(pool.places[cluster.members, 2]).size
        still = shift, float(np.sqrt(in_a_slice / np.pi))
        criteria = judge(
            bolus, tissue, seconds, rows.size, cluster.agreement, noise, clear, still, boluses
        )
        candidates.append(
            Candidate(
                pool.places[rows], cluster.members.size, curve, bolus, criteria, overall(criteria)
            )
        )
    return sorted(candidates, key=lambda one: (not one.passed, -one.score))


def _again(
    chosen: Candidate,
    candidates: list[Candidate],
    series: NDArray[Any],
    seconds: Floats,
    before: NDArray[np.intp],
    quantity: str,
    pool: Pool,
) -> list[Candidate]:
    """The candidates with their curves above the artery's baseline."""
    again = []
    for one in (chosen, *(other for other in candidates if other is not chosen)):
        values = np.asarray(series[tuple(one.voxels.T)], dtype=np.float64)
        curve = _enhancement(values, before, quantity)
        again.append(replace(one, curve=curve, bolus=bolus_of(curve, seconds)))
    return again
