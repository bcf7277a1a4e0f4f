"""A study ready to fit: series, mask, arterial input and tissue curves in one unit."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from kety.errors import KetyError
from kety.pipeline import arterial
from kety.pipeline.arterial import InputSource
from kety.pipeline.conversion import Conversion, Scan, read_scan, unconverted
from kety.pipeline.telling import Tell, count, silent

if TYPE_CHECKING:
    from kety.inputs import InputFunction
    from kety.series import Series

PathLike = str | os.PathLike[str]

QUANTITIES: Final[Mapping[str, tuple[str, str, str]]] = {
    "hu": ("CT", "HU", "CT numbers"),
    "enhancement": ("CT", "HU", "HU above baseline"),
    "signal": ("MR", "mM", "MR signal"),
    "concentration": ("MR", "mM", "concentration in mM"),
}
"""What a series may hold: its modality, the unit it is fitted in, and words."""


@dataclass(frozen=True, eq=False)
class Study:
    """What `estimate` fits.

    Attributes
    ----------
    series
        The series as read, with its mask.
    aif
        Arterial input, in ``unit``.
    curves
        (X, Y, Z, T) in ``unit``; NaN where the signal has no concentration.
    unit
        ``"HU"`` above baseline or ``"mM"``.
    baseline
        Frames before contrast agent, counted from 0; None where none were needed.
    scan
        Acquisition and T1 of an MR signal.
    files
        What was read: role to paths.
    facts
        How the curves came about, for a provenance record.
    """

    series: Series
    aif: InputFunction
    curves: NDArray[Any]
    unit: str
    baseline: NDArray[np.intp] | None = None
    scan: Scan | None = None
    files: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


def read_study(
    path: PathLike,
    source: InputSource,
    conversion: Conversion | None = None,
    *,
    times: Any = None,
    modality: str | None = None,
    quantity: str | None = None,
    mask: PathLike | None = None,
    tell: Tell = silent,
) -> Study:
    """Read a series and its arterial input, and convert both to one unit.

    Parameters
    ----------
    path
        4-D series.
    source
        Where the arterial input comes from.
    conversion
        How the signal is converted.
    times
        As of `kety.io.read_series`: (T,) in s, a CSV file, the interval in s, or None.
    modality
        ``"CT"`` or ``"MR"``; None: from the sidecar, or what ``quantity`` implies.
    quantity
        A key of `QUANTITIES`; None: ``"hu"`` of CT, ``"signal"`` of MR.
    mask
        Image of the voxels to fit, where it is not 0.
    tell
        Given a line about every step.

    Raises
    ------
    KetyError, OSError
        For files that cannot be read, or that do not fit together.
    """
    conversion = conversion or Conversion()
    series, quantity = _read_series(Path(path), times, modality, quantity, mask, tell)
    unit = QUANTITIES[quantity][1]
    conversion.check(quantity)
    if source.t10 is not None and quantity != "signal":
        raise KetyError(f"T1 of blood converts an MR signal, but the series holds {quantity}")
    vessel = None
    if source.mask is not None:
        from kety.io import read_mask

        vessel = read_mask(source.mask, like=series)
    facts: dict[str, Any] = {"quantity": quantity, "times": series.times_from}
    aif, early = _given_input(source, series, unit)
    baseline = None
    if quantity in ("hu", "signal"):
        baseline, words = _baseline(conversion, series, aif, early, vessel)
        tell("baseline", f"{_frames(baseline)}, {words}")
        facts |= {"baseline_frames": baseline.tolist(), "baseline_from": words}
    scan = None
    if quantity == "signal":
        wanted = series.mask if vessel is None or series.mask is None else series.mask | vessel
        scan = read_scan(conversion, series, wanted, tell)
        facts |= scan.facts
    curves = _convert(series, baseline, scan, facts, tell)
    if vessel is not None:
        aif = _vessel_input(source, series, vessel, baseline, scan)
    assert aif is not None
    tell("input", _described(aif, unit))
    files = _files(Path(path), source, conversion, times, mask)
    return Study(series, aif, curves, unit, baseline, scan, files, facts)


def _read_series(
    path: Path,
    times: Any,
    modality: str | None,
    quantity: str | None,
    mask: PathLike | None,
    tell: Tell,
) -> tuple[Series, str]:
    from kety.io import bids, read_mask, read_series

    if quantity is not None and quantity not in QUANTITIES:
        raise KetyError(f"unknown quantity {quantity!r}; valid: {', '.join(QUANTITIES)}")
    if modality is None and quantity is not None:
        modality = bids.read_sidecar(path).get("Modality", QUANTITIES[quantity][0])
    series = read_series(path, times=times, modality=modality)
    if quantity is None:
        quantity = "hu" if series.modality == "CT" else "signal"
    expected, _, words = QUANTITIES[quantity]
    if series.modality != expected:
        valid = ", ".join(name for name, (m, _, _) in QUANTITIES.items() if m == series.modality)
        raise KetyError(
            f"{series.source}: {quantity} is what {expected} series hold, but this one is "
            f"{series.modality}; valid for it: {valid}"
        )
    if mask is not None:
        series = replace(series, mask=read_mask(mask, like=series))
    shape = " × ".join(map(str, series.shape))
    size = " × ".join(f"{s:.3g}" for s in np.linalg.norm(series.affine[:3, :3], axis=0))
    inside = "" if series.mask is None else f", {count(int(series.mask.sum()), 'voxel')} in mask"
    tell("series", f"{series.source}: {words}, {shape} voxels of {size} mm{inside}")
    span = f"{series.times[0]:g} to {series.times[-1]:g} s"
    tell("frames", f"{series.times.size} from {span} ({series.times_from})")
    return series, quantity


def _given_input(
    source: InputSource, series: Series, unit: str
) -> tuple[InputFunction | None, NDArray[np.intp] | None]:
    """The input of a table or population model, and the frames before the tissue enhances.

    The frames are those that the bolus of a population model was placed by, else None.
    """
    if source.table is not None:
        return arterial.read_table_input(source, unit), None
    if source.population is None:
        return None, None
    arterial.check_unit(source, "mM", unit, f"'{source.population}'")
    if source.delay is not None:
        return arterial.population(source, series.times, source.delay), None
    from kety.signal import baseline_frames, enhancing_curve

    try:
        early = baseline_frames(enhancing_curve(series.data, mask=series.mask), series.times)
    except KetyError as error:
        raise KetyError(
            f"{series.source}: no voxels were found whose enhancement shows when the bolus of the "
            f"population input arrives; give its delay in s"
        ) from error
    return arterial.population(source, series.times, float(series.times[early[-1]])), early


def _before(curve: NDArray[Any], series: Series) -> NDArray[np.intp]:
    from kety.signal import baseline_frames

    try:
        return baseline_frames(curve, series.times)
    except KetyError as error:
        raise KetyError(f"{series.source}: no baseline frames found: {error}") from error


def _baseline(
    conversion: Conversion,
    series: Series,
    aif: InputFunction | None,
    early: NDArray[np.intp] | None,
    vessel: NDArray[np.bool_] | None,
) -> tuple[NDArray[np.intp], str]:
    """Frames before contrast agent, and how they were found in words."""
    from kety.signal import resolve_frames

    if conversion.baseline is not None:
        return resolve_frames(conversion.baseline, series.times.size), "as given"
    if early is not None:
        return early, "before the strongest voxels enhance"
    if aif is not None:
        return _before(aif(series.times), series), "before the input arrives"
    assert vessel is not None
    curve = _voxels(series.data, vessel).mean(axis=0, dtype=np.float64)
    return _before(curve, series), "before the artery in the mask enhances"


def _convert(
    series: Series,
    baseline: NDArray[np.intp] | None,
    scan: Scan | None,
    facts: dict[str, Any],
    tell: Tell,
) -> NDArray[Any]:
    """Curves (X, Y, Z, T) of the series; what could not be converted is added to the facts."""
    if baseline is None:
        return series.data
    if scan is None:
        from kety.signal import enhancement

        return enhancement(series.data, baseline)
    curves, status = scan.concentration(series.data, baseline, mask=series.mask)
    facts["not_converted"] = unconverted(status, tell)
    return curves


def _vessel_input(
    source: InputSource,
    series: Series,
    vessel: NDArray[np.bool_],
    baseline: NDArray[np.intp] | None,
    scan: Scan | None,
) -> InputFunction:
    curves = _voxels(series.data, vessel)
    if scan is not None and baseline is not None:
        blood = scan if source.t10 is None else replace(scan, t10=source.t10)
        curves, _ = blood.concentration(curves, baseline, voxels=vessel)
        if not np.isfinite(curves).all(axis=1).any():
            raise KetyError(
                f"the artery's signal lies beyond any concentration in all of its "
                f"{count(len(curves), 'voxel')}; check T1 of blood, TR and flip angle, or give "
                "another input"
            )
    elif baseline is not None:
        from kety.signal import enhancement

        curves = enhancement(curves, baseline)
    return arterial.mask_input(source, curves, series.times)


def _voxels(data: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[Any]:
    """Curves (V, T) of the voxels in a mask."""
    return np.asarray(data[mask])


def _frames(frames: NDArray[np.intp]) -> str:
    first, last = int(frames[0]), int(frames[-1])
    if first == last:
        return f"frame {first}"
    if frames.size == last - first + 1:
        return f"frames {first} to {last}"
    return f"frames {', '.join(map(str, frames.tolist()))}"


def _described(aif: InputFunction, unit: str) -> str:
    peak = int(np.argmax(aif.concentration))
    return (
        f"{aif.name}: {aif.site}, peak {aif.concentration[peak]:.3g} {unit} at "
        f"{aif.times[peak]:.3g} s, hematocrit {aif.hematocrit:g}, {aif.interpolation}"
    )


def _files(
    path: Path, source: InputSource, conversion: Conversion, times: Any, mask: PathLike | None
) -> dict[str, tuple[Path, ...]]:
    """Every file that was read, by its role."""
    from kety.io.bids import sidecar_path

    named: dict[str, Any] = {
        "series": path,
        "sidecar": sidecar_path(path),
        "times": times,
        "mask": mask,
        "input": source.table,
        "input_mask": source.mask,
        "t10": conversion.t10,
        "b1": conversion.b1,
    }
    files: dict[str, tuple[Path, ...]] = {
        role: (Path(name),)
        for role, name in named.items()
        if isinstance(name, str | os.PathLike) and Path(name).is_file()
    }
    if conversion.vfa:
        files["vfa"] = tuple(Path(name) for name in conversion.vfa)
    return files
