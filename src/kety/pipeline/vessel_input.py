"""The input that a vessel's voxels show, in the unit of the tissue."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kety.errors import KetyError
from kety.pipeline import arterial
from kety.pipeline.arterial import InputSource
from kety.pipeline.conversion import Conversion, Scan, read_scan
from kety.pipeline.telling import count, silent

if TYPE_CHECKING:
    from kety.inputs import InputFunction
    from kety.series import Series


def vessel_input(
    source: InputSource,
    series: Series,
    vessel: NDArray[np.bool_],
    baseline: NDArray[np.intp] | None,
    scan: Scan | None,
    words: str,
) -> InputFunction:
    """The mean curve of a vessel's voxels, a mask over the whole series.

    ``scan`` converts an MR signal; without it, and without ``baseline``, the series holds what is
    wanted already. ``words`` say where the vessel came from.
    """
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
    return arterial.mask_input(source, curves, vessel, series, words)


def portal_input(
    source: InputSource,
    series: Series,
    unit: str,
    baseline: NDArray[np.intp] | None,
    conversion: Conversion,
) -> InputFunction:
    """The portal vein's input, from a table or a mask over the whole series."""
    from kety.io import read_mask

    if source.table is not None:
        found = arterial.read_table_input(source, unit, conversion.calibration(series))
    elif source.mask is not None:
        vessel = read_mask(source.mask, like=series)
        # MR signal without a baseline holds concentration already.
        signal = unit == "mM" and baseline is not None
        scan = read_scan(of_blood(conversion, source), series, vessel, silent) if signal else None
        words = f"in {Path(source.mask).name}"
        found = vessel_input(source, series, vessel, baseline, scan, words)
    else:
        raise KetyError("the portal vein's input comes from a CSV table or a mask")
    return found


def of_blood(conversion: Conversion, source: InputSource) -> Conversion:
    """The conversion without the images that a given T1 of blood makes useless."""
    if source.t10 is None:
        return conversion
    return replace(
        conversion, t10=source.t10, vfa=(), vfa_angles=(), vfa_method=None, vfa_repetition_time=None
    )


def input_in_words(aif: InputFunction, unit: str) -> str:
    """What an input is: its name, site, peak, hematocrit and interpolation."""
    peak = int(np.argmax(aif.concentration))
    return (
        f"{aif.name}: {aif.site}, peak {aif.concentration[peak]:.3g} {unit} at "
        f"{aif.times[peak]:.3g} s, hematocrit {aif.hematocrit:g}, {aif.interpolation}"
    )
