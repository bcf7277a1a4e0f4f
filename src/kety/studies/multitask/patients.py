"""The simulated patients' maps by every method, and the regions of their segmentations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

import kety
from kety.errors import KetyError
from kety.joint.similarity import (
    gaussian_similarity,
    kernel_ridge,
    kernel_width,
    spatial_distance,
    temporal_distance,
)
from kety.preprocess import choose_keep, classify, dct_denoise, region_index, segment
from kety.studies.multitask.data import Patient
from kety.studies.multitask.methods import LABELS, MODEL, OURS, VOXELWISE, WRITTEN, Array
from kety.studies.multitask.paper import ARTIFACT, CLASSES, STRENGTH
from kety.units import SECONDS_PER_MINUTE

if TYPE_CHECKING:
    import xarray

    from kety.inputs import InputFunction
    from kety.studies.records import Effort

RATES: Final = {"k1": "θ1", "k2": "θ2"}
DENOISED: Final = " denoised"
"""Ends the key of a method whose curves were denoised first."""
CLEAN: Final = "clean"
"""Key of the voxelwise maps of curves without noise."""
METHODS: Final = (VOXELWISE, *WRITTEN, OURS)
KEYS: Final = tuple(m + ending for ending in (DENOISED, "") for m in METHODS)
SHOWN: Final = (VOXELWISE + DENOISED, *(m + DENOISED for m in WRITTEN), OURS, CLEAN)
"""Columns of figure 3: the paper's three, kety's without denoising, and what noise hides."""


def label(key: str) -> str:
    """A key's name in tables and over pictures."""
    if key == CLEAN:
        return "no noise"
    method = key.removesuffix(DENOISED)
    return LABELS[method] + (", denoised" if key.endswith(DENOISED) else "")


@dataclass(frozen=True)
class Regions:
    """A segmentation: connected regions, those of 1 or 2 pixels, and the share of the pixels, %,
    that lie in the class of the curves without noise."""

    regions: float
    artifacts: float
    right: float


@dataclass(frozen=True, eq=False)
class Estimated:
    """A patient's maps.

    Attributes
    ----------
    patient : Patient
    shrink : int
        Pixels along a side that were averaged.
    rates : mapping of str to (X, Y, 2) array
        θ1 and θ2 in 1/s by key; NaN where no contrast reaches.
    strengths : mapping of str to float
    keep : int
        Cosines that denoising kept.
    """

    patient: Patient
    shrink: int
    rates: Mapping[str, Array]
    strengths: Mapping[str, float]
    keep: int

    def regions(self, key: str, parameter: int) -> Regions:
        """Regions of a map in the classes of the map without noise."""
        clean = self.rates[CLEAN][:, :, parameter]
        labels, thresholds = segment(clean, CLASSES)
        found = classify(self.rates[key][:, :, parameter], thresholds)
        index = region_index(found, artifact=ARTIFACT)
        inside = np.isfinite(clean)
        right = 100.0 * float((found == labels)[inside].mean())
        return Regions(index.regions, index.artifacts, right)


def shrunk(values: NDArray[np.floating], factor: int) -> Array:
    """Means over squares of pixels (X, Y, ...); what is left over at the far sides is cut off."""
    if factor < 1 or min(values.shape[:2]) < factor:
        raise KetyError(
            f"found squares of {factor} pixels for an image of {values.shape[0]} × "
            f"{values.shape[1]}; expected 1 to {min(values.shape[:2])}"
        )
    x, y = (n // factor for n in values.shape[:2])
    cut = values[: x * factor, : y * factor].astype(np.float64)
    return np.asarray(cut.reshape(x, factor, y, factor, *values.shape[2:]).mean(axis=(1, 3)))


def joints(
    curves: Array, times: Array, inside: NDArray[np.bool_], strength: float = STRENGTH
) -> dict[str, kety.Joint | None]:
    """Options of the methods; equation 3 joins all pairs, with the paper's λ in HU² s²."""
    spatial = spatial_distance(np.argwhere(inside))
    temporal = temporal_distance(kernel_ridge(curves[inside], times))
    written: dict[str, kety.Joint | None] = {
        method: kety.Joint(
            gaussian_similarity(distance, kernel_width(distance)), strength=strength, scaled=False
        )
        for method, distance in (("SE", spatial), ("TE", temporal))
    }
    return {VOXELWISE: None, **written, OURS: kety.Joint("graph")}


def estimate(patient: Patient, effort: Effort, shrink: int = 1) -> Estimated:
    """Maps of a patient by every method, with and without denoising.

    Parameters
    ----------
    shrink : int
        Pixels along a side that are averaged before, as the paper estimates at a lower resolution.
    """
    curves = shrunk(patient.curves, shrink)
    inside = shrunk(patient.enhancing.astype(np.float64), shrink) > 0.5
    keep = choose_keep(curves, patient.times, mask=inside)
    smooth = dct_denoise(curves, patient.times, keep, mask=inside)
    rates, strengths = {}, {}
    for ending, data in {DENOISED: smooth, "": curves}.items():
        for method, joint in joints(data, patient.times, inside).items():
            if not effort.full and not ending and method in WRITTEN:
                continue
            maps = fit_inside(data, patient.times, patient.aif, inside, joint, effort)
            rates[method + ending] = rates_of(maps)
            strengths[method + ending] = float(maps.attrs.get("joint_strength", 0.0))
    clean = shrunk(_without_noise(patient), shrink)
    maps = fit_inside(clean, patient.times, patient.aif, inside, None, effort)
    rates[CLEAN] = rates_of(maps)
    return Estimated(patient, shrink, rates, strengths, keep)


def fit_inside(
    curves: Array,
    times: Array,
    aif: InputFunction,
    inside: NDArray[np.bool_],
    joint: kety.Joint | None,
    effort: Effort,
) -> xarray.Dataset:
    """Maps of the paper's model, without delay."""
    return kety.fit(
        curves,
        times,
        aif,
        MODEL,
        delay=False,
        mask=inside,
        dtype="float64",
        threads=effort.threads,
        joint=joint,
    )


def rates_of(maps: xarray.Dataset) -> Array:
    """θ1 and θ2 (X, Y, 2) in 1/s."""
    return np.stack([maps[n].values for n in RATES], axis=-1) / SECONDS_PER_MINUTE


def _without_noise(patient: Patient) -> Array:
    names = ("ktrans", "kep", "vb", "delay")
    truth = {n: np.nan_to_num(patient.truth[n]).ravel() for n in names}
    curves = kety.simulate_curves(truth, patient.times, patient.aif)
    return np.asarray(curves, dtype=np.float64).reshape(patient.curves.shape)
