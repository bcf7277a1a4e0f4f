"""The simulated data of the study: the 6 x 6 sequence, its noisy instances, five patients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kety.errors import KetyError
from kety.fitting.forward import simulate_curves
from kety.inputs import InputFunction
from kety.simulate import protocol, simulate_abdomen
from kety.simulate.lesions import ARRIVAL, HEMATOCRIT, INJECTION, LESION_NOISE, PEAK
from kety.simulate.noise import check_sd
from kety.simulate.phantom import check_range, scaled_input
from kety.studies.multitask.paper import GRID, INSTANCES, ROIS
from kety.units import SECONDS_PER_MINUTE

Array = NDArray[np.float64]

PROTOCOL: Final = "two_phase"
"""66 frames 2.5 to 10 s apart over 300 s."""
UNIT: Final = 100.0
"""HU of one unit of the sequence: noise of 0.1 is then the 10 HU of perfusion CT, and 0.01 what an
average over a hundred voxels has."""
THETA: Final = ((0.010, 0.040), (0.005, 0.012))
"""θ1 and θ2 (1/s) of the two tissues: one that fills and empties fast, as spleen and vascular
tumours do, and one that keeps the agent. Voxelwise θ2 is then known to about 20 % at a noise of 0.1
and 2 % at 0.01."""
STRIPES: Final = (0, 0, 1, 1, 2, 2)
"""Region of every row of the sequence."""
TISSUE_OF_REGION: Final = (0, 1, 0)
"""Two regions are of one tissue and do not touch: only curves tell that they belong together."""

PIXEL: Final = 2.0
"""mm: three pixels of a scanner, since the paper estimates at a reduced resolution."""
TRUNK: Final = (192, 160)
"""Pixels that show the whole trunk."""


@dataclass(frozen=True, eq=False)
class Sequence66:
    """The reference sequence; voxels are numbered row by row, as ``array.reshape(36, ...)`` has it.

    Attributes
    ----------
    times : (66,) array
        Frames, s.
    aif : InputFunction
        Arterial blood known at the frames, in units of 100 HU.
    theta : (36, 2) array
        θ1 and θ2 of equation 6, 1/s.
    regions, tissues : (6, 6) array of uint8
        Region 0 to 2 and tissue 0 or 1 of every voxel.
    clean : (36, 66) array
        Curves without noise, in units of 100 HU.
    """

    times: Array
    aif: InputFunction
    theta: Array
    regions: NDArray[np.uint8]
    tissues: NDArray[np.uint8]
    clean: Array

    @property
    def parameters(self) -> dict[str, Array]:
        """``k1`` and ``k2`` (36,) of the model ``one_compartment``, 1/min."""
        return dict(zip(("k1", "k2"), SECONDS_PER_MINUTE * self.theta.T, strict=True))


@dataclass(frozen=True)
class Region:
    """Where a patient's region of interest lies.

    Attributes
    ----------
    what : str
    centre : (x, y, z)
        mm, as in `kety.simulate.anatomy`.
    size : int
        Pixels along both sides.
    stands_for : str
        The paper's region.
    """

    what: str
    centre: tuple[float, float, float]
    size: int
    stands_for: str


REGIONS: Final = (
    Region("border of the left kidney, with spleen", (-88.0, -45.0, 0.0), 28, ROIS[0]),
    Region("top of the left kidney", (-66.0, -40.0, 50.0), 28, ROIS[1]),
    Region("border of the right kidney and a lesion of the liver", (96.0, -30.0, 0.0), 32, ROIS[2]),
    # The phantom's left kidney has no tumour beside it.
    Region("lesion between liver, pancreas and vessels", (50.0, 20.0, 0.0), 28, ROIS[3]),
    Region("liver tumour with a core that is hardly perfused", (92.0, 32.0, 0.0), 36, ROIS[4]),
)
"""One for each patient, in the order of the paper."""


@dataclass(frozen=True, eq=False)
class Patient:
    """A simulated patient's region of interest.

    Attributes
    ----------
    region : Region
    curves : (X, Y, 66) array of float32
        HU above the true baseline, so that noise is independent between frames.
    times : (66,) array
        Frames, s.
    aif : InputFunction
        Blood in the aorta, HU above baseline.
    truth : mapping of str to (X, Y) array
        ``ktrans`` and ``kep`` (1/min), ``ve``, ``vp``, ``vb`` and ``delay`` (s) of the extended
        Tofts model; NaN where `Phantom.truth` is.
    labels : (X, Y) array of uint8
        Tissue of every pixel.
    label_names : mapping of int to str
    enhancing : (X, Y) array of bool
        Pixels that any contrast reaches.
    noise : float
        Standard deviation, HU.
    """

    region: Region
    curves: NDArray[np.float32]
    times: Array
    aif: InputFunction
    truth: Mapping[str, Array]
    labels: NDArray[np.uint8]
    label_names: Mapping[int, str]
    enhancing: NDArray[np.bool_]
    noise: float


def reference_sequence() -> Sequence66:
    """The paper's reference sequence (4.1): 6 x 6 voxels, three regions, two tissues, 66 frames.

    The paper's input and θ are not published. Here the input is a simulated CT bolus as an
    ideal region in the aorta sees it at the frames.
    """
    times = np.asarray(protocol(PROTOCOL))
    bolus = scaled_input(float(times[-1]), ARRIVAL, INJECTION, PEAK / UNIT, HEMATOCRIT)
    # A cubic through frames 2.5 s apart would swing below 0 before the bolus.
    aif = InputFunction(
        times, bolus(times), hematocrit=HEMATOCRIT, interpolation="monotone", name="aorta"
    )
    regions = np.repeat(np.array(STRIPES, np.uint8)[:, None], GRID[1], axis=1)
    tissues = np.array(TISSUE_OF_REGION, np.uint8)[regions]
    theta = np.array(THETA)[tissues.ravel()]
    rates = SECONDS_PER_MINUTE * theta.T
    clean = simulate_curves({"k1": rates[0], "k2": rates[1]}, times, aif, "one_compartment")
    return Sequence66(times, aif, theta, regions, tissues, clean)


def noisy(sequence: Sequence66, sd: float, instance: int, *, seed: int = 0) -> Array:
    """One of the paper's 50 noisy sequences.

    Parameters
    ----------
    sequence : Sequence66
    sd : float
        Standard deviation of the white noise, in the unit of the sequence.
    instance : int
        0 to 49. An instance's noise has the same pattern at every `sd`.
    seed : int

    Returns
    -------
    (36, 66) array

    Raises
    ------
    KetyError
        Where an argument is out of its range.
    """
    check_sd(sd)
    check_range("seed", seed, 0, np.inf)
    check_range("instance", instance, 0, INSTANCES - 1)
    drawn = np.random.default_rng([seed, instance]).standard_normal(sequence.clean.shape)
    return sequence.clean + sd * drawn


def simulated_patients(
    seed: int, count: int = 5, *, noise: float = LESION_NOISE, noise_fwhm: float = 0.0
) -> list[Patient]:
    """Regions of interest like those of the paper's five patients, from the abdomen phantom.

    Patients differ in region, in the texture of their parameters and in their noise; the anatomy is
    one.

    Parameters
    ----------
    seed : int
    count : int
        How many, 1 to 5.
    noise : float
        Standard deviation, HU.
    noise_fwhm : float
        Correlation of the noise in the plane, full width at half maximum in mm.

    Raises
    ------
    KetyError
        Where an argument is out of its range.
    """
    check_range("seed", seed, 0, np.inf)
    if count not in range(1, len(REGIONS) + 1):
        raise KetyError(f"found {count} patients; expected 1 to {len(REGIONS)}")
    streams = np.random.default_rng([seed, 2]).integers(2**31, size=len(REGIONS))
    return [
        _patient(region, int(stream), noise, noise_fwhm)
        for region, stream in zip(REGIONS[:count], streams, strict=False)
    ]


def _patient(region: Region, seed: int, noise: float, noise_fwhm: float) -> Patient:
    # The grid is centred: two slices to either side of the middle hold the one that is wanted.
    height = region.centre[2]
    slices, thickness = (1, 5.0) if height == 0.0 else (2, 2.0 * abs(height))
    study = simulate_abdomen(
        (*TRUNK, slices),
        noise=noise,
        seed=seed,
        protocol=PROTOCOL,
        voxel_size=(PIXEL, PIXEL, thickness),
        noise_fwhm=noise_fwhm,
    )
    corner = (np.array(region.centre) - study.series.affine[:3, 3]) / (PIXEL, PIXEL, thickness)
    x, y = (round(float(c) - 0.5 * (region.size - 1)) for c in corner[:2])
    box = (slice(x, x + region.size), slice(y, y + region.size), round(float(corner[2])))
    truth = {name: values[box] for name, values in study.truth.items()}
    return Patient(
        region=region,
        curves=np.asarray(study.series.data[box] - study.baseline[box][..., None], np.float32),
        times=study.series.times,
        aif=study.aif,
        truth=truth,
        labels=study.labels[box],
        label_names=study.label_names,
        enhancing=np.isfinite(truth["delay"]),
        noise=noise,
    )
