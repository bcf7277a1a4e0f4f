"""Estimates of the lesion phantom by each method, and what they are worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

import kety
from kety.simulate.lesion_layout import SIZES
from kety.simulate.lesion_measures import border_width, contrast_kept, relative_rms
from kety.simulate.lesions import LesionPhantom, simulate_lesions
from kety.studies.multitask.methods import OURS, VOXELWISE, Array, Spread, spread

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray

    from kety.studies.records import Effort

MODELS: Final[Mapping[str, tuple[str, ...]]] = {
    "extended_tofts": ("ktrans", "kep", "vb", "delay"),
    "one_compartment": ("k1", "k2", "delay"),
}
"""Model to its free parameters."""
NEAREST: Final = 16
JOINTS: Final[Mapping[str, kety.Joint | None]] = {
    VOXELWISE: None,
    "SE": kety.Joint("spatial", neighbours=NEAREST),
    "TE": kety.Joint("temporal", neighbours=NEAREST),
    OURS: kety.Joint("graph"),
}
"""The paper's similarities are cut to the nearest neighbours, as its discussion suggests, and given
kety's scaled penalty and choice of strength: what differs is the similarity alone."""
WITH_CONTRAST: Final = ("ktrans", "kep", "vb", "k1", "k2", "delay")
"""Parameters in which lesions differ from their surround; in the delay, half of them."""


@dataclass(frozen=True)
class Measures:
    """What a method's maps of one phantom are worth, by parameter.

    ``rms``: root mean square error, relative or (delay) in s; ``median``: of absolute errors;
    ``kept``: share of the lesions' contrast by (parameter, size); ``width``: of the border, voxels;
    ``covered`` and ``covered_lesions``: share of voxels within one standard error of the truth.
    """

    method: str
    rms: Mapping[str, float]
    median: Mapping[str, float]
    kept: Mapping[tuple[str, int], float]
    width: Mapping[str, float]
    covered: Mapping[str, float]
    covered_lesions: Mapping[str, float]
    strength: float


@dataclass(frozen=True, eq=False)
class Fitted:
    """One model's phantoms: measures of each method by seed, and the maps of the first seed."""

    model: str
    measures: Mapping[str, Sequence[Measures]]
    phantom: LesionPhantom
    maps: Mapping[str, xarray.Dataset]

    @property
    def parameters(self) -> tuple[str, ...]:
        """Free parameters of the model."""
        return MODELS[self.model]

    def rms(self, method: str, name: str) -> Array:
        """Root mean square errors by seed."""
        return np.array([m.rms[name] for m in self.measures[method]])

    def ratio(self, method: str, name: str, *, median: bool = False) -> Spread:
        """Voxelwise error over that of a method, paired by seed."""
        pairs = zip(self.measures[VOXELWISE], self.measures[method], strict=False)
        if median:
            return spread([a.median[name] / b.median[name] for a, b in pairs])
        return spread([a.rms[name] / b.rms[name] for a, b in pairs])

    def kept(self, method: str, name: str, size: int) -> Spread:
        """Contrast of lesions that is kept, %."""
        return spread([100.0 * m.kept[name, size] for m in self.measures[method]])

    def width(self, method: str, name: str) -> Spread:
        """Width of the border, voxels."""
        return spread([m.width[name] for m in self.measures[method]])

    def wider(self, method: str, name: str) -> Spread:
        """How much wider the border is than in the voxelwise map, voxels."""
        pairs = zip(self.measures[VOXELWISE], self.measures[method], strict=False)
        return spread([b.width[name] - a.width[name] for a, b in pairs])

    def covered(self, method: str, name: str, *, lesions: bool = False) -> Spread:
        """Voxels within one standard error of the truth, %."""
        found = self.measures[method]
        return spread([100.0 * (m.covered_lesions if lesions else m.covered)[name] for m in found])


def fit_phantoms(model: str, size: int, effort: Effort, seeds: int, others: int) -> Fitted:
    """Fit repetitions of the phantom; the paper's similarities on the first `others` of them."""
    measures: dict[str, list[Measures]] = {m: [] for m in JOINTS}
    first: tuple[LesionPhantom, dict[str, xarray.Dataset]] | None = None
    for k in range(seeds):
        phantom = simulate_lesions((size, size, 1), model=model, seed=effort.seed + k)
        found = {}
        for method, joint in JOINTS.items():
            if k >= others and method not in (VOXELWISE, OURS):
                continue
            effort.tell(f"phantom, {model}, seed {effort.seed + k}: {method}")
            found[method] = fit_phantom(phantom, joint, effort)
            measures[method].append(measured(method, found[method], phantom))
        first = first or (phantom, found)
    assert first is not None
    return Fitted(model, measures, *first)


def fit_phantom(phantom: LesionPhantom, joint: kety.Joint | None, effort: Effort) -> xarray.Dataset:
    """Maps (X, Y) of a phantom of one slice, every voxel fitted, delay free."""
    curves = phantom.curves[:, :, 0]
    return kety.fit(
        curves,
        phantom.times,
        phantom.aif,
        phantom.model,
        mask=np.ones(curves.shape[:2], dtype=np.bool_),
        threads=effort.threads,
        joint=joint,
    )


def measured(method: str, maps: xarray.Dataset, phantom: LesionPhantom) -> Measures:
    """What maps are worth."""
    names = MODELS[phantom.model]
    rms, median, kept, width, covered, in_lesions = {}, {}, {}, {}, {}, {}
    inside = phantom.lesion_mask()
    for name in names:
        estimate, error = (maps[n].values[:, :, None].astype(float) for n in (name, f"{name}_se"))
        truth = phantom.truth[name]
        rms[name] = relative_rms(estimate, truth, absolute=name == "delay")
        off = np.abs(estimate - truth)
        median[name] = float(np.nanmedian(off if name == "delay" else off / truth))
        width[name] = border_width(estimate, phantom)
        known = np.isfinite(error)
        covered[name] = _share(off <= error, known)
        in_lesions[name] = _share(off <= error, known & inside)
        for size in SIZES if name in WITH_CONTRAST else ():
            kept[name, size] = contrast_kept(estimate, truth, phantom, size)
    strength = float(maps.attrs.get("joint_strength", 0.0))
    return Measures(method, rms, median, kept, width, covered, in_lesions, strength)


def _share(hit: np.ndarray, of: np.ndarray) -> float:
    return float(hit[of].mean()) if of.any() else float("nan")
