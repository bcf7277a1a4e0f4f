"""Computed tomography: from HU to enhancement, which is proportional to concentration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError
from kety.signal.baseline import Frames, check_series, mean_of_frames, resolve_frames
from kety.voxels import AboveLevel

EFFECTIVE_KEV: Final[Mapping[float, float]] = MappingProxyType(
    {80.0: 57.5, 100.0: 64.0, 120.0: 70.0, 140.0: 76.0}
)
"""Tube voltage (kVp) to the effective energy (keV) of its spectrum behind the filters of a body
scanner and a patient; nominal, scanners and patients differ by about 3 keV."""
ENERGIES_KEV: Final = np.array([50.0, 60.0, 80.0])
IODINE_CM2_PER_G: Final = np.array([12.32, 7.579, 3.510])
WATER_CM2_PER_G: Final = np.array([0.2269, 0.2059, 0.1837])
"""Mass attenuation coefficients (Hubbell and Seltzer, NISTIR 5632, 1995, doi:10.18434/T4D01F)."""
CALIBRATION_ERROR: Final = 0.1
"""Relative error to expect of the table on a scanner that was not calibrated."""


@dataclass(frozen=True)
class IodineCalibration:
    """What 1 mg of iodine per mL adds to the CT number, and where that is known from in words."""

    hu_per_mg_ml: float
    source: str


def iodine_calibration(kvp: float) -> IodineCalibration:
    """HU that 1 mg/mL of iodine adds, by the tube voltage.

    A CT number is 1000 (mu / mu_water - 1), so 1 mg/mL adds (mu/rho of iodine) / mu_water, with the
    density in g/mL and mu_water in 1/cm, both at the effective energy of the spectrum (`NISTIR
    5632`, interpolated between logarithms): 40.3, 31.8, 25.9 and 21.5 HU at 80, 100, 120 and 140
    kVp. Reviews quote 25 to 26 HU at 120 kVp, e.g. Bae, Radiology 2010;256:32,
    doi:10.1148/radiol.10090908.

    What a scanner measures depends on its filters, the patient's size and the reconstruction, and
    may differ by a tenth; spectra behind tin are harder and not these. Where numbers matter,
    calibrate with a phantom.

    Parameters
    ----------
    kvp
        80 to 140 kVp. Between the voltages of `EFFECTIVE_KEV` the effective energy is interpolated,
        which ``source`` says.

    Raises
    ------
    KetyError
        Beyond that range: nothing is extrapolated.
    """
    known = np.array(sorted(EFFECTIVE_KEV))
    if not known[0] <= kvp <= known[-1]:
        raise KetyError(
            f"iodine at {kvp:g} kVp: the calibration is known from {known[0]:g} to {known[-1]:g} "
            "kVp; give the scanner's own, in HU per mg/mL"
        )
    energy = float(np.interp(kvp, known, [EFFECTIVE_KEV[float(one)] for one in known]))
    at = np.log(energy)
    knots = np.log(ENERGIES_KEV)
    iodine = np.exp(np.interp(at, knots, np.log(IODINE_CM2_PER_G)))
    water = np.exp(np.interp(at, knots, np.log(WATER_CM2_PER_G)))
    words = f"NIST coefficients at the effective energy of {kvp:g} kVp, {energy:.3g} keV"
    if kvp not in EFFECTIVE_KEV:
        words += ", interpolated between tube voltages"
    error = f"{100 * CALIBRATION_ERROR:.0f} %"
    return IodineCalibration(float(iodine / water), f"{words}; scanners differ by about {error}")


def given_calibration(hu_per_mg_ml: float) -> IodineCalibration:
    """A scanner's own calibration, HU per mg/mL.

    Raises
    ------
    KetyError
        If it is not a positive number.
    """
    if not (np.isfinite(hu_per_mg_ml) and hu_per_mg_ml > 0):
        raise KetyError(
            f"an iodine calibration is a positive number of HU per mg/mL, found {hu_per_mg_ml!r}; "
            f"at 120 kVp it is about {iodine_calibration(120.0).hu_per_mg_ml:.0f}"
        )
    return IodineCalibration(float(hu_per_mg_ml), "as given")


def enhancement(hu: ArrayLike, baseline: Frames) -> NDArray[Any]:
    """Enhancement of each voxel above the mean of its baseline frames.

    Iodine raises the attenuation in proportion to its concentration, by a factor that tissue and
    input share, so that tracer-kinetic models need no absolute concentration of CT data.

    Parameters
    ----------
    hu
        Shape (..., T), HU. Any real dtype and memory order; both are kept where they can be.
    baseline
        The frames before the contrast agent arrives: a slice, frame numbers from 0, or a boolean
        array (T,). :func:`kety.signal.baseline_frames` finds them.

    Returns
    -------
    ndarray of shape (..., T), HU above baseline
        float32 for float32 and for integers of up to 16 bits, else float64. A voxel with a NaN or
        infinite baseline frame is NaN throughout. Besides the result one volume is allocated.

    Raises
    ------
    KetyError
        If `hu` has no frame axis or is not real, or the baseline frames do not fit it.
    """
    return np.asarray(above_baseline(hu, baseline))


def above_baseline(hu: ArrayLike, baseline: Frames) -> AboveLevel:
    """As `enhancement`, but computed where it is read: besides `hu` one volume is kept."""
    data = check_series("hu", hu, "T")
    frames = resolve_frames(baseline, data.shape[-1])
    level = mean_of_frames(data, frames)
    level[~np.isfinite(level)] = np.nan
    return AboveLevel(data, np.asarray(level, dtype=np.result_type(data.dtype, np.float32)))
