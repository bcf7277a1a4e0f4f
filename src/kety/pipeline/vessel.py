"""The input found in the series, compared, corrected and smoothed as a source asks for."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kety.pipeline.telling import Tell, count

if TYPE_CHECKING:
    from kety.inputs import ArterialInput, InputFunction, Vessel
    from kety.pipeline.arterial import InputSource
    from kety.pipeline.conversion import Conversion
    from kety.series import Series

Mask = NDArray[np.bool_]
CurveOf = Callable[[Mask, str], "InputFunction"]
"""The mean curve, in the unit of the fit, of a mask over the series, and where its voxels lie."""

MASK, CURVE = "vessel.nii.gz", "input.csv"
"""What is written of a vessel beside the maps."""


@dataclass(frozen=True, eq=False)
class Masks:
    """The masks over a series (X, Y, Z) that its input is made of; None for those not asked for."""

    artery: Mask | None = None
    found: ArterialInput | None = None
    drawn: Mask | None = None
    vein: Mask | None = None

    @property
    def all(self) -> Mask | None:
        """Every voxel whose concentration has to be known."""
        given = [mask for mask in (self.artery, self.drawn, self.vein) if mask is not None]
        return np.logical_or.reduce(given) if given else None


def masks_of(
    source: InputSource | None,
    series: Series,
    quantity: str,
    conversion: Conversion,
    tell: Tell,
) -> Masks:
    """Read the masks of a source, or find the artery, and the vein if it is to be found.

    Raises
    ------
    KetyError
        As `kety.find_artery`, `kety.inputs.find_vein` and `kety.io.read_mask`.
    """
    from kety.io import read_mask

    if source is not None and source.mask is not None:
        return Masks(artery=read_mask(source.mask, like=series))
    if source is None or not source.auto:
        return Masks()
    from kety.inputs import find_artery, find_vein

    found = find_artery(
        series.data,
        series.times,
        modality=series.modality,
        quantity=quantity,
        baseline=conversion.baseline,
        hematocrit=source.hematocrit,
        interpolation=source.interpolation,
    )
    slices = np.unique(found.chosen.voxels[:, 2])
    where = f"slice {slices[0]}" if slices.size == 1 else f"slices {slices[0]} to {slices[-1]}"
    tell(
        "artery",
        f"{count(int(found.mask.sum()), 'voxel')} about {found.chosen.centre}, {where}, "
        f"the best of {count(len(found.candidates), 'candidate')}; {found.quality}",
    )
    for reason in found.reasons:
        tell("", f"it {reason}")
    for sentence in found.warnings:
        warnings.warn(f"the artery that was found: {sentence}", stacklevel=2)
    drawn = None if source.check is None else read_mask(source.check, like=series)
    vein = None
    if source.vein is not None:
        if str(source.vein) == "auto":
            vein = find_vein(series.data, series.times, found, quantity=quantity).mask
        else:
            vein = read_mask(source.vein, like=series)
    return Masks(found.mask, found, drawn, vein)


def vessel_of(
    masks: Masks,
    series: Series,
    aif: InputFunction,
    curve_of: CurveOf,
    tell: Tell,
) -> tuple[InputFunction, Vessel | None]:
    """Compare the artery with the drawn mask and correct it by the vein, where asked to.

    Raises
    ------
    KetyError
        As `kety.inputs.corrected_by_vein`.
    """
    from kety.inputs import Vessel, compare_masks, vein_factor

    found = masks.found
    if found is None:
        return aif, None
    anatomy = np.zeros(series.shape, dtype=np.float32)
    for frame in found.baseline:
        anatomy += np.asarray(series.data[..., frame], dtype=np.float32) / found.baseline.size
    vessel = Vessel(found, anatomy, drawn=masks.drawn, vein=masks.vein)
    if masks.drawn is not None:
        agreement = compare_masks(found.mask, masks.drawn, aif, curve_of(masks.drawn, "drawn"))
        tell("agreement", agreement.words)
        vessel = replace(vessel, agreement=agreement)
    if masks.vein is not None:
        factor = vein_factor(aif, curve_of(masks.vein, "in a vein"))
        voxels = count(int(masks.vein.sum()), "voxel")
        tell("vein", f"{voxels}; its first pass has {factor:.3f} of the artery's area")
        if factor < 1.0:
            warnings.warn(
                f"the vein's area is {factor:.3f} of the artery's, which shows no partial volume "
                "in the artery; the input was scaled down to the vein's all the same",
                stacklevel=2,
            )
        aif = replace(
            aif,
            concentration=aif.concentration * factor,
            name=f"{aif.name}, times {factor:.3f} by a vein",
        )
        vessel = replace(vessel, factor=factor)
    return aif, vessel


def treated(
    source: InputSource, aif: InputFunction, end: float, tell: Tell
) -> tuple[InputFunction, tuple[str, ...]]:
    """The input with frames chosen, smoothed, and a tail of exponentials, and what was done.

    A tail goes on to ``end`` (s) where the last frames were left out; without one the curve stays
    level from its last sample, of which is warned.

    Raises
    ------
    KetyError
        As `kety.inputs.chosen_frames`, `smoothed` and `smoothed_tail`.
    """
    from kety.inputs import chosen_frames, smoothed, smoothed_tail
    from kety.signal import resolve_frames

    times, steps = aif.times, []
    if source.frames is not None or source.without is not None:
        kept = np.zeros(times.size, dtype=np.bool_)
        kept[
            slice(None) if source.frames is None else resolve_frames(source.frames, times.size)
        ] = 1
        if source.without is not None:
            kept[resolve_frames(source.without, times.size)] = False
        aif = chosen_frames(aif, kept)
        steps.append(f"{aif.times.size} of {times.size} frames kept")
        if aif.times[-1] < min(end, times[-1]) and source.tail is None:
            warnings.warn(
                f"the input's last frame that was kept is at {aif.times[-1]:g} s; from there on it "
                f"stays level to the end of the series at {end:g} s; fit its tail to go on",
                stacklevel=2,
            )
    if source.smooth is not None:
        aif = smoothed(aif, source.smooth)
        steps.append(f"smoothed over {source.smooth:g} s")
    if source.tail is not None:
        later = times[times > aif.times[-1]]
        aif = smoothed_tail(aif, terms=source.tail, times=np.concatenate([aif.times, later]))
        steps.append(f"tail of {count(source.tail, 'exponential')}")
    for step in steps:
        tell("input", step)
    return aif, tuple(steps)


def write_vessel(
    vessel: Vessel,
    aif: InputFunction,
    folder: Path,
    *,
    affine: NDArray[np.float64],
    codes: tuple[int, int],
    unit: str,
    record: dict[str, Any] | None = None,
) -> list[Path]:
    """Write the vessel's mask with its reasons (JSON) and the input (CSV) into a folder.

    In the mask 1 is the artery and 2 the vein.

    Raises
    ------
    OutputError
        If something cannot be written.
    """
    from kety.io import write_volume
    from kety.io.bids import generated_by
    from kety.series import Volume

    labels = vessel.found.mask.astype(np.uint8)
    levels = {"1": "artery"}
    if vessel.vein is not None:
        labels[vessel.vein & (labels == 0)] = 2
        levels["2"] = "vein"
    sidecar = {
        "GeneratedBy": generated_by(),
        "Levels": levels,
        **(record or {}),
        "Vessel": vessel.record,
    }
    volume = Volume(labels, affine, MASK, codes, sidecar=sidecar)
    written = write_volume(volume, folder / MASK)
    aif.to_csv(folder / CURVE, unit=unit)
    return [*written, folder / CURVE]
