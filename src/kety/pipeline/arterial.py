"""The arterial input of a study: a CSV file, a population model, a mask, or found in the series."""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from kety.errors import KetyError

if TYPE_CHECKING:
    from kety.inputs import InputFunction
    from kety.series import Series
    from kety.signal import IodineCalibration

PathLike = str | os.PathLike[str]

UNITS: Final[tuple[str, ...]] = ("HU", "mM", "mg/mL", "any")
_UNIT_WORDS: Final[dict[str, str]] = {"hu": "HU", "mm": "mM", "mmol": "mM", "mg": "mg/mL"}
_MARGIN: Final = 15.0
"""How long a population input goes on after the last frame (s), for tissue that precedes it."""
APART: Final = 0.1
"""Share by which areas may differ between groups of slices before a merged input is warned of."""
_KINDS: Final[tuple[str, ...]] = ("table", "population", "mask", "auto")
_ONLY_FOR: Final[dict[str, tuple[str, ...]]] = {
    "column": ("table",),
    "time_unit": ("table",),
    "unit": ("table", "population"),
    "site": ("table",),
    "delay": ("population",),
    "dose": ("population",),
    "t10": ("mask", "auto"),
    "vein": ("auto",),
    "check": ("auto",),
    "frames": ("table", "mask", "auto"),
    "without": ("table", "mask", "auto"),
    "smooth": ("table", "mask", "auto"),
    "tail": ("table", "mask", "auto"),
}


@dataclass(frozen=True)
class InputSource:
    """Where the arterial input comes from: one of ``table``, ``population``, ``mask``, ``auto``.

    Attributes
    ----------
    table
        CSV file of times and concentration (mM) or enhancement (HU); see
        `kety.InputFunction.from_csv`.
    population
        Name in `kety.inputs.POPULATION`.
    mask
        Image whose voxels other than 0 lie in an artery; their mean curve is the input.
    auto
        True: an artery is found in the series, see `kety.find_artery`.
    column, site, time_unit
        Of a table: its column, ``"blood"`` or ``"plasma"``, and ``"s"``, ``"min"`` or ``"ms"``,
        where the header does not say.
    unit
        ``"HU"``, ``"mM"`` or ``"mg/mL"`` (iodine) where a table's header does not say; ``"any"``
        allows an input in another unit than the series', whose rates and volumes are then relative.
    delay
        Of a population input: arrival of the bolus in s. None: when the first tissue enhances.
    dose
        Of a population input: contrast agent given, mmol/kg; None for the published curve.
    t10
        Of a mask over an MR signal, or an artery found in one: T1 of blood before contrast agent,
        s. None: as the tissue's.
    vein
        With ``auto``: ``"auto"`` or the mask of a vein whose area corrects the artery's for partial
        volume, see `kety.inputs.corrected_by_vein`.
    check
        With ``auto``: a mask drawn by hand, which the artery that is found is compared with.
    frames
        Frames of a measured curve to keep, see `kety.inputs.chosen_frames`.
    without
        Frames of a measured curve to leave out.
    smooth
        Width in s over which a measured curve is smoothed, see `kety.inputs.smoothed`.
    tail
        Replace a measured curve's tail by this many exponentials, see `kety.inputs.smoothed_tail`.
    hematocrit, interpolation
        As of `kety.InputFunction`.

    Raises
    ------
    KetyError
        If not exactly one source is given, or something that does not apply to it.
    """

    table: PathLike | None = None
    population: str | None = None
    mask: PathLike | None = None
    auto: bool | None = None
    column: str | None = None
    site: str | None = None
    time_unit: str | None = None
    unit: str | None = None
    delay: float | None = None
    dose: float | None = None
    t10: float | None = None
    vein: PathLike | None = None
    check: PathLike | None = None
    frames: Any = None
    without: Any = None
    smooth: float | None = None
    tail: int | None = None
    hematocrit: float = 0.42
    interpolation: str = "cubic"

    def __post_init__(self) -> None:
        if self.auto is False:
            object.__setattr__(self, "auto", None)
        given = [kind for kind in _KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            found = " and ".join(given) if given else "none"
            raise KetyError(
                "an arterial input is needed, from exactly one of a CSV table, a population model, "
                f"a mask and the series itself (auto); found {found}"
            )
        useless = [
            field.name
            for field in fields(self)
            if getattr(self, field.name) is not None and given[0] not in _uses(field.name)
        ]
        if useless:
            raise KetyError(
                f"{', '.join(useless)} of the arterial input cannot be used with a {given[0]}; "
                "leave it out"
            )
        if self.unit is not None and self.unit not in UNITS:
            raise KetyError(f"unknown unit {self.unit!r} of the input; valid: {', '.join(UNITS)}")

    @property
    def kind(self) -> str:
        """``"table"``, ``"population"``, ``"mask"`` or ``"auto"``."""
        return next(kind for kind in _KINDS if getattr(self, kind) is not None)


def _uses(name: str) -> tuple[str, ...]:
    return _ONLY_FOR.get(name, _KINDS)


def read_table_input(
    source: InputSource, unit: str, calibration: IodineCalibration | None = None
) -> InputFunction:
    """Read the table of a source for a series in that unit (``"HU"`` or ``"mM"``).

    With a calibration one in mg/mL of iodine serves a series in HU.

    Raises
    ------
    OSError, KetyError
        As `kety.InputFunction.from_csv`, and if the table is in another unit.
    """
    from kety.inputs import InputFunction

    assert source.table is not None
    table = Path(source.table)
    aif = InputFunction.from_csv(
        table,
        hematocrit=source.hematocrit,
        site=source.site,
        column=source.column,
        time_unit=source.time_unit,
        interpolation=source.interpolation,
    )
    column, found = _named_unit(table, source)
    if source.unit is None and found is None:
        warnings.warn(
            f"{table.name}: column '{column}' does not name its unit and was taken to be in {unit}",
            stacklevel=2,
        )
    elif source.unit in ("HU", "mM", "mg/mL") and found not in (None, source.unit):
        raise KetyError(
            f"{table.name}: column '{column}' is in {found}, but the unit {source.unit} was given"
        )
    given = source.unit or found or unit
    if calibration is not None and (given, unit) == ("mg/mL", "HU"):
        return replace(aif, concentration=aif.concentration * calibration.hu_per_mg_ml)
    check_unit(source, given, unit, table.name)
    return aif


def check_unit(source: InputSource, found: str, unit: str, name: str) -> None:
    """Check that an input is in the unit of the tissue curves; KetyError if not."""
    if source.unit == "any" or found == unit:
        return
    raise KetyError(
        f"the input {name} is in {found} and the tissue in {unit}; give an input in {unit}, or "
        "unit 'any' to fit all the same (rates and volumes are then relative)"
    )


def _named_unit(path: Path, source: InputSource) -> tuple[str, str | None]:
    from kety.inputs.table import read_table, value_column

    column, _ = value_column(read_table(path), source.column, source.site)
    words = (word.lower() for word in re.findall(r"[^\W_]+", column))
    return column, next((_UNIT_WORDS[word] for word in words if word in _UNIT_WORDS), None)


def population(source: InputSource, times: NDArray[np.float64], delay: float) -> InputFunction:
    """Sample the population model of a source for these frames (s), its bolus at ``delay`` s."""
    from kety.inputs import population_input

    assert source.population is not None
    return population_input(
        source.population,
        float(times[-1]) + _MARGIN,
        delay=delay,
        hematocrit=source.hematocrit,
        dose=source.dose,
        interpolation=source.interpolation,
    )


def vessel_curve(
    curves: NDArray[Any], vessel: NDArray[np.bool_], series: Series
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Times and mean (n,) of the curves (V, T) of a vessel's voxels, in the order of the mask.

    Voxels of slices with times of their own add samples at these.
    """
    from kety.inputs.merging import grouped, merged

    values = np.asarray(curves, dtype=np.float64)
    if series.slice_times is None:
        return series.times, values.mean(axis=0)
    return merged(grouped(values, _own_times(vessel, series)))


def _own_times(vessel: NDArray[np.bool_], series: Series) -> NDArray[np.float64]:
    """Times (V, T) of a mask's voxels."""
    assert series.slice_times is not None
    return np.asarray(series.slice_times[np.nonzero(vessel)[2]])


def mask_input(
    source: InputSource,
    curves: NDArray[Any],
    vessel: NDArray[np.bool_],
    series: Series,
    words: str,
) -> InputFunction:
    """Average the curves (V, T) of a vessel's voxels, in mM or HU above baseline.

    Where slices have times of their own the curve has samples at all of these. It reaches as far as
    the series does: its last value is held where other slices were acquired later.

    Raises
    ------
    KetyError
        As `kety.InputFunction.from_mask`, and for frames to choose among merged samples.
    """
    from kety.inputs import InputFunction
    from kety.inputs.merging import disagreement, grouped

    name = f"mean of {len(curves):,} voxels {words}"
    times = series.times if series.slice_times is None else _own_times(vessel, series)
    aif = InputFunction.from_mask(
        curves,
        times,
        np.ones(len(curves), dtype=np.bool_),
        hematocrit=source.hematocrit,
        interpolation=source.interpolation,
        name=name,
    )
    if series.slice_times is None:
        return aif
    known = np.isfinite(curves).all(axis=1)
    groups = grouped(np.asarray(curves[known], dtype=np.float64), times[known])
    if len(groups) > 1:
        if source.frames is not None or source.without is not None:
            raise KetyError(
                f"the input's voxels lie in slices of {len(groups)} different times, whose samples "
                "are merged, so frames of it cannot be chosen; give voxels of slices that were "
                "acquired together, or leave the frames out"
            )
        apart = disagreement(groups)
        if apart > APART:
            warnings.warn(
                f"the area under the artery's curve differs by {100 * apart:.0f} % between slices "
                "that were acquired at different times, which makes the merged input uneven; give "
                "voxels in the middle of the vessel, or of slices that were acquired together",
                stacklevel=2,
            )
        aif = replace(aif, name=f"{name}, {aif.times.size} samples of {len(groups)} times")
    end = float(series.slice_times.max())
    if aif.times[-1] < end:
        aif = replace(
            aif,
            times=np.append(aif.times, end),
            concentration=np.append(aif.concentration, aif.concentration[-1]),
        )
    return aif
