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
from kety.pipeline.arrival import find_baseline, frame_ends, frames_in_words, given_input
from kety.pipeline.arterial import InputSource
from kety.pipeline.conversion import Conversion, Scan, read_scan, unconverted
from kety.pipeline.iodine import of_iodine, scaled
from kety.pipeline.preparation import (
    Region,
    denoised,
    described,
    keep_of,
    kind_of,
    made_mask,
    own_times_in_words,
    region_of,
    weights_of,
    without_padding,
)
from kety.pipeline.provenance import files_of
from kety.pipeline.telling import Tell, count, silent
from kety.pipeline.vessel import masks_of, treated, vessel_of
from kety.pipeline.vessel_input import input_in_words, of_blood, portal_input, vessel_input

if TYPE_CHECKING:
    from kety.inputs import InputFunction, Vessel
    from kety.preprocess import Box
    from kety.series import Series, Volume
    from kety.signal import Frames
    from kety.voxels import AboveLevel

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
        (X, Y, Z, T) in ``unit``; NaN where the signal has no concentration. Those of CT numbers
        are computed from the series where they are read.
    unit
        ``"HU"`` above baseline, ``"mg/mL"`` of iodine or ``"mM"``.
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
    dicom
        Path and choice (as ``series`` of `kety.io.read_series`) of a series that came from DICOM.
    weights
        Of the squared residuals of every frame, (T,); None where all count alike.
    """

    series: Series
    arterial: InputFunction | None
    curves: NDArray[Any] | AboveLevel
    unit: str
    baseline: NDArray[np.intp] | None = None
    scan: Scan | None = None
    files: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    region: Region = field(default_factory=Region)
    grid: Volume | None = None
    vessel: Vessel | None = None
    portal: InputFunction | None = None
    dicom: tuple[Path, int | str | None] | None = None
    weights: NDArray[np.float64] | None = None

    @property
    def times(self) -> NDArray[np.float64]:
        """What `kety.fit` takes for times: (T,) s, or (Z, T) of slices with times of their own."""
        own = self.series.slice_times
        return self.series.times if own is None else own

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
    which: int | str | None = None,
    times: Any = None,
    modality: str | None = None,
    quantity: str | None = None,
    mask: PathLike | None = None,
    crop: str | Box | None = None,
    downsample: str | int | Sequence[int] | None = None,
    denoise: str | None = None,
    frame_noise: PathLike | None = None,
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
        4-D series, or a folder or archive of DICOM.
    source
        Where the arterial input comes from; None for maps that need none.
    conversion
        How the signal is converted.
    which
        The series of a folder or archive to read, as ``series`` of `kety.io.read_series`.
    times
        As of `kety.io.read_series`: (T,) in s, a CSV file, the interval in s, or None.
    modality
        ``"CT"`` or ``"MR"``; None: from the sidecar, or what ``quantity`` implies.
    quantity
        A key of `QUANTITIES`; None: ``"hu"`` of CT, ``"signal"`` of MR.
    mask
        Image of the voxels to fit, where it is not 0, or a kind of `kety.preprocess.KINDS` to make
        from the series, such as ``"body"`` or ``"enhancing"``.
    crop
        Box to fit, such as ``"10:60,20:80,:"``, see `kety.preprocess.Box`.
    downsample
        Sides of the blocks to average, in the plane (``2``) or along all axes (``"2,2,1"``), see
        `kety.preprocess.downsample`.
    denoise
        ``"dct"`` or, for N coefficients, ``"dct:N"``, see `kety.preprocess.dct_denoise`; warns
        that the standard errors take no account of it.
    frame_noise
        How noisy each frame is, for weights of the fit: ``"auto"`` measures it in the series
        (`kety.signal.frame_noise`), or a file with a standard deviation for every frame.
    portal
        Where the portal vein's input comes from, a table or a mask, for the models of the liver.
    tell
        Given a line about every step.

    Raises
    ------
    KetyError, OSError
        For files that cannot be read, or that do not fit together.
    """
    from kety.io import format_of

    conversion = conversion or Conversion()
    region, keep = region_of(crop, downsample), keep_of(denoise)
    dicom = (Path(path), which) if format_of(path).folders else None
    whole, quantity = _read_series(
        Path(path), which, times, modality, quantity, mask, conversion.baseline, tell
    )
    series, made = region.series(whole, tell)
    padding = None
    if mask is None and series.mask is not None:
        # A mask would say that all in it is to be fitted, whether it enhances or not.
        padding, series = ~series.mask, replace(series, mask=None)
    unit = QUANTITIES[quantity][1]
    conversion.check(quantity)
    if source is not None and source.t10 is not None and quantity != "signal":
        raise KetyError(f"T1 of blood converts an MR signal, but the series holds {quantity}")
    masks = masks_of(source, whole, quantity, conversion, tell)
    vessel = masks.artery
    facts: dict[str, Any] = {"quantity": quantity, "times": series.times_from, **made}
    if kind_of(mask):
        facts["mask"] = f"{mask}, made from the series"
    if series.slice_times is not None:
        facts["slice_times"] = own_times_in_words(series)
    calibration = conversion.calibration(whole)
    aif, early = (None, None) if source is None else given_input(source, whole, unit, calibration)
    baseline = None
    if quantity in ("hu", "signal"):
        if masks.found is not None and conversion.baseline is None:
            baseline, words = masks.found.baseline, "before the artery that was found enhances"
            if whole.slice_times is not None:
                # It was looked for as if all slices had the frames' mean times.
                own = find_baseline(conversion, whole, None, None, vessel)[0]
                baseline = np.intersect1d(baseline, own)
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
            blood = read_scan(of_blood(conversion, source), whole, masks.all, silent)
    curves = _convert(series, baseline, scan, facts, tell)
    if padding is not None:
        curves = without_padding(curves, series.data, padding)
    curves = denoised(curves, series, keep, facts, tell)
    if calibration is not None:
        curves, unit = of_iodine(curves, calibration, facts, tell)
    weights = weights_of(frame_noise, curves, series, unit, facts, tell)
    artery = None
    if source is not None and vessel is not None:

        def curve_of(mask: NDArray[np.bool_], words: str) -> InputFunction:
            return vessel_input(source, whole, mask, baseline, blood, words)

        words = "found in an artery" if source.mask is None else f"in {Path(source.mask).name}"
        aif, artery = vessel_of(masks, whole, curve_of(vessel, words), curve_of, tell)
    if source is not None and aif is not None:
        aif, steps = treated(source, aif, float(frame_ends(whole)[-1]), tell)
        if artery is not None:
            artery = replace(artery, steps=steps)
            facts["vessel"] = artery.record
        elif steps:
            facts["input_steps"] = list(steps)
        aif = scaled(aif, calibration)
        if dicom is not None:
            from kety.io.dicom import without_patients

            # It is named after a file, which may be named after the patient.
            aif = replace(aif, name=without_patients(dicom[0], aif.name))
        tell("input", input_in_words(aif, unit))
    files = files_of(Path(path), source, conversion, times, mask)
    second = None
    if portal is not None:
        second = portal_input(portal, whole, QUANTITIES[quantity][1], baseline, conversion)
        second = scaled(second, calibration)
        tell("portal", input_in_words(second, unit))
        files["portal"] = tuple(Path(n) for n in (portal.table, portal.mask) if n is not None)
    grid = _grid(whole) if region else None
    return Study(
        series,
        aif,
        curves,
        unit,
        baseline,
        scan,
        files,
        facts,
        region,
        grid,
        artery,
        second,
        dicom,
        weights,
    )


def _grid(series: Series) -> Volume:
    """A series' grid without its data, which may be large."""
    from kety.series import Volume

    content = np.broadcast_to(np.int8(0), series.shape)
    return Volume(content, series.affine, series.source, series.codes)


def _read_series(
    path: Path,
    which: int | str | None,
    times: Any,
    modality: str | None,
    quantity: str | None,
    mask: PathLike | None,
    baseline: Frames | None,
    tell: Tell,
) -> tuple[Series, str]:
    from kety.io import bids, format_of, read_mask, read_series

    kind = kind_of(mask)
    if quantity is not None and quantity not in QUANTITIES:
        raise KetyError(f"unknown quantity {quantity!r}; valid: {', '.join(QUANTITIES)}")
    if modality is None and quantity is not None and not format_of(path).folders:
        modality = bids.read_sidecar(path).get("Modality", QUANTITIES[quantity][0])
    series = read_series(path, series=which, times=times, modality=modality)
    if quantity is None:
        quantity = "hu" if series.modality == "CT" else "signal"
    expected, _, words = QUANTITIES[quantity]
    if series.modality != expected:
        valid = ", ".join(name for name, (m, _, _) in QUANTITIES.items() if m == series.modality)
        raise KetyError(
            f"{series.source}: {quantity} is what {expected} series hold, but this one is "
            f"{series.modality}; valid for it: {valid}"
        )
    made, measured, wanted = "", series.mask, None
    if kind is not None:
        made = f", made from the series ({kind})"
        wanted = made_mask(series, kind, quantity, baseline)
    elif mask is not None:
        wanted = read_mask(mask, like=series)
    if wanted is not None:
        series = replace(series, mask=wanted if measured is None else wanted & measured)
    if measured is not None:
        padding = int(np.count_nonzero(~measured & (True if wanted is None else wanted)))
        made += f"; {count(padding, 'voxel')} of padding left out" if padding else ""
    shown = series if wanted is not None else replace(series, mask=None)
    tell("series", f"{series.source}: {words}, {described(shown)}{made}")
    span = f"{series.times[0]:g} to {series.times[-1]:g} s"
    tell("frames", f"{series.times.size} from {span} ({series.times_from})")
    if series.slice_times is not None:
        tell("slices", own_times_in_words(series))
    return series, quantity


def _convert(
    series: Series,
    baseline: NDArray[np.intp] | None,
    scan: Scan | None,
    facts: dict[str, Any],
    tell: Tell,
) -> NDArray[Any] | AboveLevel:
    """Curves (X, Y, Z, T) of the series; what could not be converted is added to the facts."""
    if baseline is None:
        return series.data
    if scan is None:
        from kety.signal import above_baseline

        return above_baseline(series.data, baseline)
    curves, status = scan.concentration(series.data, baseline, mask=series.mask)
    facts["not_converted"] = unconverted(status, tell)
    return curves
