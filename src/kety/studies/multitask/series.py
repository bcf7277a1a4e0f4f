"""Two real series of the reference data: maps of a region, and how well left-out frames are met."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

import kety
from kety.fitting.status import FITTED
from kety.pipeline.arterial import InputSource
from kety.pipeline.conversion import Conversion
from kety.pipeline.study import Study, read_study
from kety.preprocess import choose_keep, classify, dct_denoise, region_index, segment
from kety.simulate.lesions import PEAK
from kety.studies.multitask.methods import MODEL, VOXELWISE, WRITTEN, Array
from kety.studies.multitask.paper import ARTIFACT, CLASSES, STRENGTH
from kety.studies.multitask.patients import DENOISED, Regions, fit_inside, joints, rates_of

if TYPE_CHECKING:
    import xarray

    from kety.inputs import InputFunction
    from kety.studies.records import Effort

VARIABLE: Final = "KETY_REFERENCE_DATA"
"""Environment variable that names the folder of the reference data."""
CHECKOUT: Final = Path(__file__).resolve().parents[4]
WINDOW: Final = 32
"""Voxels along a side of the region whose maps are shown."""
LEAVE: Final = 5
"""Of so many frames one is left out."""
SETTINGS: Final[Mapping[str, bool]] = {MODEL: False, "extended_tofts": True}
"""Models whose prediction is tested, and whether their delay is fitted."""


@dataclass(frozen=True)
class Source:
    """A series of the reference data: its folder, in words, how to read it, and its slice."""

    folder: str
    words: str
    input: Mapping[str, Any]
    conversion: Mapping[str, Any]
    times: str | float
    mask: str | None
    slice_at: int
    centre: tuple[int, int] | None


SOURCES: Final = (
    Source(
        "madym_abdomen",
        "abdomen with a tumour, breathing freely, MR",
        {"population": "parker", "hematocrit": 0.42},
        {
            "flip_angle": 20.0,
            "repetition_time": 0.004,
            "relaxivity": 3.4,
            "vfa_angles": (2.0, 10.0, 20.0),
        },
        "times.csv",
        None,
        4,
        (21, 21),
    ),
    Source(
        "dcemrijl_invivo",
        "breast with a tumour, MR",
        {"table": "aif.csv", "site": "plasma", "column": "cp_mM"},
        {
            "flip_angle": 20.0,
            "repetition_time": 0.007939,
            "relaxivity": 4.5,
            "vfa_angles": tuple(range(20, 1, -2)),
        },
        16.43,
        "mask.nii.gz",
        0,
        None,
    ),
)
"""Acquisitions as the folders' own pages give them. Where no centre is given, the window with the
most voxels of the mask is shown."""


@dataclass(frozen=True, eq=False)
class Real:
    """A slice of a real series, in mM, and the voxels of it that enhance."""

    source: Source
    curves: Array
    times: Array
    aif: InputFunction
    inside: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class RealMaps:
    """Maps of a window by key of `patients`, (X, Y, 2) in 1/s."""

    real: Real
    rates: Mapping[str, Array]
    strengths: Mapping[str, float]

    def regions(self, key: str, parameter: int) -> Regions:
        """Regions in the classes of the voxelwise map of denoised curves; none is right or not."""
        _, thresholds = segment(self.rates[VOXELWISE + DENOISED][:, :, parameter], CLASSES)
        found = region_index(
            classify(self.rates[key][:, :, parameter], thresholds), artifact=ARTIFACT
        )
        return Regions(found.regions, found.artifacts, float("nan"))


@dataclass(frozen=True)
class Prediction:
    """How well frames are predicted that took no part, in units of each voxel's noise variance.

    ``chosen`` and ``chosen_voxelwise``: the errors by which the strength was chosen, from all
    frames; ``held`` and ``held_voxelwise``: of frames held out from the choice too; ``better``: %
    of the voxels whose held-out frames the joint estimate predicts better.
    """

    words: str
    model: str
    voxels: int
    strength: float
    chosen: float
    chosen_voxelwise: float
    held: float
    held_voxelwise: float
    better: float


def folder_of_reference() -> Path:
    """Where the reference data are looked for."""
    return Path(os.environ.get(VARIABLE, CHECKOUT.parent / "shared" / "reference"))


def read(source: Source) -> Real | None:
    """A slice of a series; None where its folder is absent."""
    folder = folder_of_reference() / source.folder
    if not folder.is_dir():
        return None
    times = folder / source.times if isinstance(source.times, str) else source.times
    given = dict(source.input)
    if "table" in given:
        given["table"] = folder / given["table"]
    study: Study = read_study(
        folder / "dce.nii.gz",
        InputSource(**given),
        Conversion(vfa=[folder / "vfa.nii.gz"], **source.conversion),
        times=times,
        modality="MR",
        mask=None if source.mask is None else folder / source.mask,
    )
    curves = np.asarray(study.curves[:, :, source.slice_at], dtype=np.float64)
    mask = study.series.mask
    wanted = None if mask is None else mask[:, :, source.slice_at]
    maps = kety.fit(curves, study.series.times, study.aif, MODEL, delay=False)
    inside = np.isin(maps.status.values, FITTED)
    if wanted is not None:
        inside &= wanted
    return Real(source, curves, study.series.times, study.aif, inside)


def window_of(real: Real) -> tuple[slice, slice]:
    """The part of a slice that is shown."""
    from scipy.ndimage import uniform_filter

    if real.source.centre is None:
        share = uniform_filter(real.inside.astype(np.float64), WINDOW, mode="constant")
        x, y = np.unravel_index(int(np.argmax(share)), share.shape)
        centre = int(x), int(y)
    else:
        centre = real.source.centre
    starts = [
        int(np.clip(c - WINDOW // 2, 0, max(n - WINDOW, 0)))
        for c, n in zip(centre, real.inside.shape, strict=True)
    ]
    return slice(starts[0], starts[0] + WINDOW), slice(starts[1], starts[1] + WINDOW)


def estimate(real: Real, effort: Effort) -> RealMaps:
    """Maps of a window by every method; E, SE and TE denoised as in the paper, kety's also not."""
    place = window_of(real)
    curves, inside = real.curves[place], real.inside[place]
    keep = choose_keep(curves, real.times, mask=inside)
    smooth = dct_denoise(curves, real.times, keep, mask=inside)
    # The paper's λ for curves in HU, in the unit of these curves.
    strength = STRENGTH * (float(real.aif.concentration.max()) / PEAK) ** 2
    rates, strengths = {}, {}
    for ending, data in {DENOISED: smooth, "": curves}.items():
        for method, joint in joints(data, real.times, inside, strength).items():
            if not ending and method in WRITTEN:
                continue
            maps = fit_inside(data, real.times, real.aif, inside, joint, effort)
            rates[method + ending] = rates_of(maps)
            strengths[method + ending] = float(maps.attrs.get("joint_strength", 0.0))
    return RealMaps(real, rates, strengths)


def predict(real: Real, model: str, effort: Effort, folds: int) -> Prediction:
    """Leave out frames, estimate from the others, and predict them."""
    names = free_names(model)
    whole = _fit(real, model, slice(None), effort)
    held, single, better, count = 0.0, 0.0, 0.0, 0
    for fold in range(folds):
        out = np.arange(2 + fold, real.times.size - 1, LEAVE)
        kept = np.setdiff1d(np.arange(real.times.size), out)
        maps = _fit(real, model, kept, effort)
        both = [maps[n + e].values for n in names for e in ("", "_voxelwise")]
        usable = np.isfinite(both).all(axis=0) & (maps.cost_voxelwise.values > 0)
        measured = real.curves[usable][:, out]
        noise = maps.cost_voxelwise.values[usable] / (kept.size - len(names))
        errors = {}
        for ending in ("", "_voxelwise"):
            values = {n: maps[n + ending].values[usable] for n in names}
            values |= {} if SETTINGS[model] else {"delay": np.zeros(len(noise))}
            predicted = kety.simulate_curves(values, real.times[out], real.aif, model)
            errors[ending] = ((predicted - measured) ** 2).mean(axis=1) / noise
        held += float(errors[""].sum())
        single += float(errors["_voxelwise"].sum())
        better += float((errors[""] < errors["_voxelwise"]).sum())
        count += int(usable.sum())
    attrs = whole.attrs
    return Prediction(
        real.source.words,
        model,
        int(real.inside.sum()),
        float(attrs["joint_strength"]),
        float(attrs["joint_left_out_error"]),
        float(attrs["joint_left_out_error_voxelwise"]),
        held / count,
        single / count,
        100.0 * better / count,
    )


def free_names(model: str) -> list[str]:
    """Parameters of a model that are fitted."""
    from kety.models import get_model

    return [n for n in get_model(model).names if n != "delay" or SETTINGS[model]]


def _fit(real: Real, model: str, frames: Any, effort: Effort) -> xarray.Dataset:
    return kety.fit(
        real.curves[:, :, frames],
        real.times[frames],
        real.aif,
        model,
        delay=SETTINGS[model],
        mask=real.inside,
        threads=effort.threads,
        joint=kety.Joint("graph"),
    )
