"""Figure 3 and the counted regions: five simulated patients, and two real series where present."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from kety.studies.multitask import patients, series
from kety.studies.multitask.data import simulated_patients
from kety.studies.multitask.methods import LABELS, MODEL, OURS, VOXELWISE, WRITTEN
from kety.studies.multitask.paper import CLAIMS, PATIENTS, STRENGTH
from kety.studies.multitask.patients import CLEAN, DENOISED, SHOWN, Estimated, Regions, label
from kety.studies.multitask.real_tables import (
    class_picture,
    map_picture,
    mean_of,
    mean_table,
    prediction_table,
    real_picture,
    real_table,
    region_table,
)
from kety.studies.multitask.series import Prediction, RealMaps
from kety.studies.page import number
from kety.studies.records import Comparison, Effort, Outcome

EQUAL: Final = 1e-3
"""Share by which errors of left-out frames may differ and still count as equal."""
HALVED: Final = 2
"""Pixels averaged along a side, beside the full resolution; the paper estimates at a lower one."""


def run(effort: Effort) -> Outcome:
    """Estimate patients and real series by every method and count regions."""
    began = time.perf_counter()
    people = simulated_patients(effort.seed)
    found = []
    for shrink in (1, HALVED):
        for k, one in enumerate(people):
            effort.tell(f"patient {k + 1}: {one.region.what}, pixels of {shrink} × {shrink}")
            found.append(patients.estimate(one, effort, shrink))
    whole, halved = ([one for one in found if one.shrink == n] for n in (1, HALVED))
    real, predictions, missing = _real(effort)
    pictures = [map_picture(whole), class_picture(whole)]
    tables = [region_table(found), mean_table(found)]
    if real:
        pictures.append(real_picture(real))
        tables += [real_table(real), prediction_table(predictions)]
    return Outcome(
        "real",
        "Patients and real series (figure 3)",
        (*told(whole), *real_words(predictions, missing)),
        comparisons(halved, whole),
        tuple(tables),
        tuple(pictures),
        conditions(whole),
        (*targets(halved, whole), *prediction_targets(predictions)),
        time.perf_counter() - began,
    )


def _real(effort: Effort) -> tuple[list[RealMaps], list[Prediction], list[str]]:
    """Maps and predictions of the real series that are there; the folders that are not."""
    maps, predictions, missing = [], [], []
    for source in series.SOURCES:
        effort.tell(f"real series: {source.words}")
        one = series.read(source)
        if one is None:
            missing.append(source.folder)
            continue
        maps.append(series.estimate(one, effort))
        for model in series.SETTINGS if effort.full else (MODEL,):
            predictions.append(series.predict(one, model, effort, effort.pick(1, series.LEAVE)))
    return maps, predictions, missing


def _means(found: Sequence[Estimated], key: str) -> Regions:
    """Means over patients and parameters; the counts are no whole numbers."""
    return Regions(*(mean_of(found, key, w).value for w in ("regions", "artifacts", "right")))


def told(found: Sequence[Estimated]) -> tuple[str, ...]:
    """What was asked and what came out."""

    def words(key: str) -> str:
        one = _means(found, key)
        return (
            f"{one.regions:.3g} regions, {one.artifacts:.3g} of 1 or 2 pixels, "
            f"{one.right:.3g} % right"
        )

    listed = "; ".join(f"{label(k)}: {words(k)}" for k in (*SHOWN, OURS + DENOISED))
    keys = (CLEAN, OURS, OURS + DENOISED, *(m + DENOISED for m in WRITTEN))
    true, ours, blind, spatial, temporal = (_means(found, key) for key in keys)
    # At quick effort SE and TE are estimated from denoised curves alone.
    without = "TE" in found[0].rates
    plain = f", {_means(found, 'TE').right:.3g} % without" if without else ""
    zero = sum(one.strengths[OURS + DENOISED] == 0.0 for one in found)
    return (
        "The paper's patients are not public. Five regions of interest of a simulated abdomen "
        "stand for them, with the paper's model (one compartment, no delay) fitted to curves of "
        "the extended Tofts model with delay: real tissue does not follow the paper's model "
        "either. Maps are cut into three classes by thresholds of the map without noise, the same "
        "for all methods, and connected regions are counted.",
        f"Mean over patients and both parameters, all pixels: {listed}.",
        "The paper takes few regions for a gain. The count alone does not tell: a map that is "
        "smoothed to one value has one region. Here the map without noise says how many there are "
        f"({true.regions:.3g}) and which class is right. SE at the paper's λ has "
        f"{spatial.regions:.3g} regions and only {spatial.right:.3g} % of the pixels in the right "
        f"class; kety's graph has {ours.regions:.3g} and {ours.right:.3g} %.",
        "Denoised curves should not be given to kety: their noise is correlated, so that a voxel's "
        "own neighbours in time predict a left-out frame, noise and all, and joining seems to gain "
        f"nothing (strength 0 in {zero} of {len(found)} patients; {blind.regions:.3g} regions). "
        "TE gains from denoising, since the paper's distances between curves then tell tissues "
        f"apart: {temporal.right:.3g} % right{plain}.",
    )


def conditions(found: Sequence[Estimated]) -> tuple[str, ...]:
    """Choices of this experiment."""
    keeps = sorted({one.keep for one in found})
    sizes = ", ".join(f"{one.patient.region.size}²" for one in found)
    return (
        f"Simulated patients: {sizes} pixels of 2 mm, three of a scanner's, "
        f"{found[0].patient.noise:g} HU of noise; only pixels that contrast reaches are fitted "
        "and counted. "
        + " ".join(
            f"Patient {k + 1}: {one.patient.region.what} (paper: {one.patient.region.stands_for})."
            for k, one in enumerate(found)
        ),
        f"Denoised: {keeps[0]} to {keeps[-1]} cosines of 66, chosen by Stein's unbiased risk, as "
        "the paper denoises before it estimates. SE and TE are equation 3 with all pairs of "
        f"pixels, γ and β as written, λ = {STRENGTH:g} HU² s².",
        "Classes: two Otsu thresholds of the map without noise; regions share edges (4 "
        "neighbours). Right: share of the pixels in the class of the map without noise.",
        "Real series: MR signals converted by T1 maps from several flip angles. Thresholds are "
        "those of the voxelwise map of denoised curves, since no truth is known, and λ is scaled "
        "by the square of the input's peak. "
        f"Left-out frames: every {series.LEAVE}th frame takes no part, neither in the estimate "
        "nor in the choice of strength, and is predicted.",
    )


def comparisons(found: Sequence[Estimated], whole: Sequence[Estimated]) -> tuple[Comparison, ...]:
    """The paper's counts beside ours at a reduced resolution."""
    true, single = _means(found, CLEAN), _means(whole, VOXELWISE + DENOISED)
    why = (
        f"Means of {HALVED} × {HALVED} pixels, since the paper's resolution is reduced too; with "
        f"all pixels there are {single.regions:.3g} regions voxelwise. Patients, noise and "
        f"thresholds are not the paper's. Without noise there are {true.regions:.3g} regions, "
        f"{true.artifacts:.3g} of 1 or 2 pixels."
    )
    rows = []
    for what, methods in (("regions", (VOXELWISE, *WRITTEN)), ("artifacts", WRITTEN)):
        for method in methods:
            stated = CLAIMS[f"{what}_{method}"]
            rows.append(stated.beside(*mean_of(found, method + DENOISED, what), why=why))
        words = {"regions": "regions", "artifacts": "artefacts of 1 or 2 pixels"}[what]
        name = f"{LABELS[OURS]}, {words}, mean of {PATIENTS} patients"
        rows.append(Comparison("–", name, "", None, *mean_of(found, OURS, what), why=why))
    return tuple(rows)


def targets(found: Sequence[Estimated], whole: Sequence[Estimated]) -> tuple[tuple[str, bool], ...]:
    """What was to be reached."""
    keys = (VOXELWISE + DENOISED, OURS, CLEAN)
    coarse, joined, few = (_means(found, k).regions for k in keys)
    single, ours, true = (_means(whole, k) for k in keys)
    written = [_means(found, m + DENOISED).regions for m in WRITTEN]
    return (
        (
            "Joint estimation leaves fewer regions, as in the paper (22.6 for E, 8.6 for SE, 7 for "
            f"TE): {coarse:.3g} for E, {written[0]:.3g} for SE, {written[1]:.3g} for TE, "
            f"{joined:.3g} for kety, {few:.3g} without noise (means of {HALVED} × {HALVED} "
            "pixels).",
            max(*written, joined) < coarse,
        ),
        (
            f"kety's maps have fewer artefacts of 1 or 2 pixels than voxelwise ones and more "
            f"pixels in the right class: {ours.artifacts:.3g} against {single.artifacts:.3g} "
            f"(without noise {true.artifacts:.3g}), {ours.right:.3g} against {single.right:.3g} %.",
            ours.artifacts < single.artifacts and ours.right > single.right,
        ),
    )


def prediction_targets(found: Sequence[Prediction]) -> tuple[tuple[str, bool], ...]:
    """Whether joint estimation predicts left-out frames of real series better."""
    if not found:
        return ()
    words = "; ".join(
        f"{one.words}, {one.model.replace('_', ' ')}: {one.held:.4g} against "
        f"{one.held_voxelwise:.4g}"
        for one in found
    )
    return (
        (
            "On the real series kety predicts frames that took no part as well as the voxelwise "
            f"estimate or better (mean squared error in units of the noise, {100 * EQUAL:g} % more "
            f"counting as equal): {words}.",
            all(one.held <= (1.0 + EQUAL) * one.held_voxelwise for one in found),
        ),
    )


def real_words(found: Sequence[Prediction], missing: Sequence[str]) -> tuple[str, ...]:
    """What the real series say, or that they are missing."""
    parts = []
    if found:
        parts.append(
            "Real series have no truth. What can be said is how well frames are predicted that "
            "took no part. "
            + "; ".join(
                f"{one.words} with {one.model.replace('_', ' ')}: joint over voxelwise error "
                f"{number(one.held / one.held_voxelwise, 4)} (strength {number(one.strength, 2)})"
                for one in found
            )
            + ". Where the model does not fit or tissue differs from voxel to voxel beyond noise, "
            "left-out frames choose a small strength or none."
        )
    if missing:
        parts.append(
            f"Not run: {', '.join(missing)}, which would lie in the folder that "
            f"{series.VARIABLE} names."
        )
    return tuple(parts)
