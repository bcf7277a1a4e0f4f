"""A study ready to fit: series, mask, arterial input and tissue curves in one unit."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from kety.errors import KetyError
from kety.pipeline import arterial
from kety.pipeline.arrival import find_baseline, frames_in_words, given_input
from kety.pipeline.arterial import InputSource
from kety.pipeline.conversion import Conversion, Scan, read_scan, unconverted
from kety.pipeline.preparation import Region, denoised, described, keep_of, region_of
from kety.pipeline.telling import Tell, count, silent
from kety.pipeline.vessel import masks_of, treated, vessel_of

if TYPE_CHECKING:
    from kety.inputs import InputFunction, Vessel
    from kety.preprocess import Box
    from kety.series import Series, Volume

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
        The series that is fitted, with its mask: as read, or the region of it.
    arterial
        Arterial input, in ``unit``; None where the study was read without one.
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
    region
        The part of the file's grid that ``series`` is.
    grid
        The file's grid, a volume without content; None where it is that of ``series``.
    vessel
        The artery that was found in the series, on the file's grid; None where it was not sought.
    portal
        The portal vein's input; None where none was given.
    """

    series: Series
    arterial: InputFunction | None
    curves: NDArray[Any]
    unit: str
    baseline: NDArray[np.intp] | None = None
    scan: Scan | None = None
    files: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    region: Region = field(default_factory=Region)
    grid: Volume | None = None
    vessel: Vessel | None = None
    portal: InputFunction | None = None

    @property
    def aif(self) -> InputFunction:
        """The arterial input; KetyError where the study was read without one."""
        if self.arterial is None:
            raise KetyError(
                f"{self.series.source} was read without an arterial input, which this needs; give "
                "one"
            )
        return self.arterial

    def read_mask(self, path: PathLike) -> NDArray[np.bool_]:
        """Read a mask on the file's grid, and return it on that of ``series``.

        Raises
        ------
        KetyError
            As `kety.io.read_mask`, and if it lies outside the region.
        """
        from kety.io import read_mask

        inside = read_mask(path, like=self.grid or self.series)
        return self.region.mask(inside, str(path)) if self.region else inside


def read_study(
    path: PathLike,
    source: InputSource | None,
    conversion: Conversion | None = None,
    *,
    times: Any = None,
    modality: str | None = None,
    quantity: str | None = None,
    mask: PathLike | None = None,
    crop: str | Box | None = None,
    downsample: str | int | Sequence[int] | None = None,
    denoise: str | None = None,
    portal: InputSource | None = None,
    tell: Tell = silent,
) -> Study:
    """Read a series and its arterial input, and convert both to one unit.

    Cropping comes first, then downsampling, conversion and denoising. Images beside the series lie
    on its own grid and are cropped and downsampled along. The input and the frames before contrast
    agent are found in the whole series, so that they do not depend on the region, and the input is
    not denoised.

    Parameters
    ----------
    path
        4-D series.
    source
        Where the arterial input comes from; None for maps that need none.
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
    crop
        Box to fit, such as ``"10:60,20:80,:"``, see `kety.preprocess.Box`.
    downsample
        Sides of the blocks to average, in the plane (``2``) or along all axes (``"2,2,1"``), see
        `kety.preprocess.downsample`.
    denoise
        ``"dct"`` or, for N coefficients, ``"dct:N"``, see `kety.preprocess.dct_denoise`; warns
        that the standard errors take no account of it.
    portal
        Where the portal vein's input comes from, a table or a mask, for the models of the liver.
    tell
        Given a line about every step.

    Raises
    ------
    KetyError, OSError
        For files that cannot be read, or that do not fit together.
    """
    conversion = conversion or Conversion()
    region, keep = region_of(crop, downsample), keep_of(denoise)
    whole, quantity = _read_series(Path(path), times, modality, quantity, mask, tell)
    series, made = region.series(whole, tell)
    unit = QUANTITIES[quantity][1]
    conversion.check(quantity)
    if source is not None and source.t10 is not None and quantity != "signal":
        raise KetyError(f"T1 of blood converts an MR signal, but the series holds {quantity}")
    masks = masks_of(source, whole, quantity, conversion, tell)
    vessel = masks.artery
    facts: dict[str, Any] = {"quantity": quantity, "times": series.times_from, **made}
    aif, early = (None, None) if source is None else given_input(source, whole, unit)
    baseline = None
    if quantity in ("hu", "signal"):
        if masks.found is not None and conversion.baseline is None:
            baseline, words = masks.found.baseline, "before the artery that was found enhances"
        else:
            baseline, words = find_baseline(conversion, whole, aif, early, vessel)
        tell("baseline", f"{frames_in_words(baseline)}, {words}")
        facts |= {"baseline_frames": baseline.tolist(), "baseline_from": words}
    scan = blood = None
    if quantity == "signal":
        wanted = series.mask
        if masks.all is not None and wanted is not None and not region:
            wanted = wanted | masks.all
        scan = blood = read_scan(conversion, whole, wanted, tell, region)
        facts |= scan.facts
        if source is not None and vessel is not None and region:
            blood = read_scan(_of_blood(conversion, source), whole, masks.all, silent)
    curves = _convert(series, baseline, scan, facts, tell)
    curves = denoised(curves, series, keep, facts, tell)
    artery = None
    if source is not None and vessel is not None:

        def curve_of(mask: NDArray[np.bool_], words: str) -> InputFunction:
            return _vessel_input(source, whole, mask, baseline, blood, words)

        words = "found in an artery" if source.mask is None else f"in {Path(source.mask).name}"
        aif, artery = vessel_of(masks, whole, curve_of(vessel, words), curve_of, tell)
    if source is not None and aif is not None:
        aif, steps = treated(source, aif, float(whole.times[-1]), tell)
        if artery is not None:
            artery = replace(artery, steps=steps)
            facts["vessel"] = artery.record
        elif steps:
            facts["input_steps"] = list(steps)
        tell("input", _described(aif, unit))
    files = _files(Path(path), source, conversion, times, mask)
    second = None
    if portal is not None:
        second = _portal_input(portal, whole, unit, baseline, conversion, tell)
        files["portal"] = tuple(Path(n) for n in (portal.table, portal.mask) if n is not None)
    grid = _grid(whole) if region else None
    return Study(
        series, aif, curves, unit, baseline, scan, files, facts, region, grid, artery, second
    )


def _portal_input(
    source: InputSource,
    series: Series,
    unit: str,
    baseline: NDArray[np.intp] | None,
    conversion: Conversion,
    tell: Tell,
) -> InputFunction:
    """The portal vein's input, from a table or a mask over the whole series."""
    from kety.io import read_mask

    if source.table is not None:
        found = arterial.read_table_input(source, unit)
    elif source.mask is not None:
        vessel = read_mask(source.mask, like=series)
        # MR signal without a baseline holds concentration already.
        signal = unit == "mM" and baseline is not None
        scan = read_scan(_of_blood(conversion, source), series, vessel, silent) if signal else None
        words = f"in {Path(source.mask).name}"
        found = _vessel_input(source, series, vessel, baseline, scan, words)
    else:
        raise KetyError("the portal vein's input comes from a CSV table or a mask")
    tell("portal", _described(found, unit))
    return found


def _of_blood(conversion: Conversion, source: InputSource) -> Conversion:
    """The conversion without the images that a given T1 of blood makes useless."""
    if source.t10 is None:
        return conversion
    return replace(
        conversion, t10=source.t10, vfa=(), vfa_angles=(), vfa_method=None, vfa_repetition_time=None
    )


def _grid(series: Series) -> Volume:
    """A series' grid without its data, which may be large."""
    from kety.series import Volume

    content = np.broadcast_to(np.int8(0), series.shape)
    return Volume(content, series.affine, series.source, series.codes)


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
    tell("series", f"{series.source}: {words}, {described(series)}")
    span = f"{series.times[0]:g} to {series.times[-1]:g} s"
    tell("frames", f"{series.times.size} from {span} ({series.times_from})")
    return series, quantity


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
    words: str,
) -> InputFunction:
    curves = np.asarray(series.data[vessel])
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
    return arterial.mask_input(source, curves, series.times, words)


def _described(aif: InputFunction, unit: str) -> str:
    peak = int(np.argmax(aif.concentration))
    return (
        f"{aif.name}: {aif.site}, peak {aif.concentration[peak]:.3g} {unit} at "
        f"{aif.times[peak]:.3g} s, hematocrit {aif.hematocrit:g}, {aif.interpolation}"
    )


def _files(
    path: Path,
    source: InputSource | None,
    conversion: Conversion,
    times: Any,
    mask: PathLike | None,
) -> dict[str, tuple[Path, ...]]:
    """Every file that was read, by its role."""
    from kety.io.bids import sidecar_path

    named: dict[str, Any] = {
        "series": path,
        "sidecar": sidecar_path(path),
        "times": times,
        "mask": mask,
        "input": source and source.table,
        "input_mask": source and source.mask,
        "input_check": source and source.check,
        "input_vein": source and source.vein,
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
