"""Tables and pictures of the patients and the real series."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from kety.preprocess import classify, segment
from kety.studies.multitask.methods import OURS, Spread, spread
from kety.studies.multitask.paper import CLAIMS, CLASSES
from kety.studies.multitask.patients import CLEAN, DENOISED, RATES, SHOWN, Estimated, label
from kety.studies.multitask.plots import Maps, draw_maps
from kety.studies.multitask.series import Prediction, RealMaps
from kety.studies.records import Picture, Table

THETA: Final = tuple(RATES.values())
REAL_SHOWN: Final = SHOWN[:-1]


def mean_of(found: Sequence[Estimated], key: str, what: str) -> Spread:
    """Mean over patients and both parameters with its 95 % interval over patients."""
    return spread(
        [np.mean([getattr(one.regions(key, p), what) for p in range(2)]) for one in found]
    )


def region_table(found: Sequence[Estimated]) -> Table:
    """Counts of every patient."""
    rows: list[tuple[str | float | None, ...]] = []
    for one in found:
        for key in (*one.rates,):
            counts = [one.regions(key, p) for p in range(2)]
            flat = [v for c in counts for v in (c.regions, c.artifacts, c.right)]
            what = one.patient.region.what
            rows.append((what, one.shrink, label(key), one.strengths.get(key), *flat))
    columns = (f"{t} {w}" for t in THETA for w in ("regions", "of 1 or 2", "right %"))
    return Table(
        "multitask_patients",
        "Regions of every patient",
        ("patient", "pixels averaged along a side", "method", "strength", *columns),
        tuple(rows),
    )


def mean_table(found: Sequence[Estimated]) -> Table:
    """Means over the patients."""
    rows: list[tuple[str | float | None, ...]] = []
    for shrink in dict.fromkeys(one.shrink for one in found):
        some = [one for one in found if one.shrink == shrink]
        for key in some[0].rates:
            means = [mean_of(some, key, w)[0] for w in ("regions", "artifacts", "right")]
            name = key.removesuffix(DENOISED)
            paper = [
                CLAIMS[f"{w}_{name}"].value
                if key.endswith(DENOISED) and f"{w}_{name}" in CLAIMS
                else None
                for w in ("regions", "artifacts")
            ]
            rows.append((label(key), shrink, *means, *paper))
    return Table(
        "multitask_patient_means",
        "Regions: mean over five patients and both parameters",
        (
            "method",
            "pixels averaged along a side",
            "regions",
            "of 1 or 2 pixels",
            "right class, %",
            "paper: regions",
            "paper: of 1 or 2",
        ),
        tuple(rows),
    )


def real_table(found: Sequence[RealMaps]) -> Table:
    """Counts on the real series."""
    rows: list[tuple[str | float | None, ...]] = []
    for one in found:
        for key in one.rates:
            counts = [one.regions(key, p) for p in range(2)]
            flat = [v for c in counts for v in (c.regions, c.artifacts)]
            rows.append((one.real.source.words, label(key), one.strengths[key], *flat))
    columns = (f"{t} {w}" for t in THETA for w in ("regions", "of 1 or 2"))
    return Table(
        "multitask_real",
        "Regions of the real series",
        ("series", "method", "strength", *columns),
        tuple(rows),
        "Classes by the thresholds of the voxelwise map of denoised curves.",
    )


def prediction_table(found: Sequence[Prediction]) -> Table:
    """Errors of left-out frames."""
    rows = tuple(
        (
            one.words,
            one.model.replace("_", " "),
            one.voxels,
            one.strength,
            one.chosen_voxelwise,
            one.chosen,
            one.held_voxelwise,
            one.held,
            one.better,
        )
        for one in found
    )
    return Table(
        "multitask_left_out",
        "Error of left-out frames on real series, in units of the noise variance",
        (
            "series",
            "model",
            "voxels",
            "strength",
            "choice: voxelwise",
            "choice: joint",
            "held out: voxelwise",
            "held out: joint",
            "voxels better, %",
        ),
        rows,
        "Choice: the frames by which the strength was chosen. Held out: frames that took no part "
        "in the choice either. 1 would be noise alone.",
    )


def map_picture(found: Sequence[Estimated]) -> Picture:
    """Figure 3."""
    rows = []
    for k, one in enumerate(found):
        for p, name in enumerate(THETA):
            top = 1.15 * float(np.nanpercentile(one.rates[CLEAN][:, :, p], 99.0))
            maps = [one.rates[key][:, :, p] for key in SHOWN]
            rows.append(Maps(f"patient {k + 1}\n{name}, 1/s", maps, 0.0, top))
    alt = "; ".join(f"patient {k + 1}: {one.patient.region.what}" for k, one in enumerate(found))
    return Picture(
        "multitask-patients",
        "Figure 3 on simulated patients: θ1 and θ2 by each method in the window of the map without "
        "noise. Grey: no contrast reaches.",
        draw_maps(rows, [label(key).replace(", ", ",\n") for key in SHOWN], scale=0.82),
        f"Maps of θ1 and θ2 of five patients. {alt}.",
    )


def class_picture(found: Sequence[Estimated]) -> Picture:
    """The segmentations of θ2 whose regions are counted."""
    rows = []
    for k, one in enumerate(found):
        _, thresholds = segment(one.rates[CLEAN][:, :, 1], CLASSES)
        maps = []
        for key in SHOWN:
            labels = classify(one.rates[key][:, :, 1], thresholds).astype(np.float64)
            maps.append(np.where(labels < CLASSES, labels, np.nan))
        rows.append(Maps(f"patient {k + 1}", maps, 0.0, CLASSES - 1.0, "cividis", bar=False))
    alt = "; ".join(
        f"patient {k + 1}: " + ", ".join(f"{label(s)} {one.regions(s, 1).regions}" for s in SHOWN)
        for k, one in enumerate(found)
    )
    return Picture(
        "multitask-classes",
        "The three classes of θ2 whose connected regions are counted, by the thresholds of the map "
        "without noise: dark low, grey medium, yellow high.",
        draw_maps(rows, [label(key).replace(", ", ",\n") for key in SHOWN], scale=0.82),
        f"Number of regions of θ2. {alt}.",
    )


def real_picture(found: Sequence[RealMaps]) -> Picture:
    """θ1 and θ2 of the real series."""
    rows = []
    for one in found:
        for p, name in enumerate(THETA):
            ours = one.rates[OURS][:, :, p]
            maps = [one.rates[key][:, :, p] for key in REAL_SHOWN]
            top = float(np.nanpercentile(ours, 94.0))
            rows.append(Maps(f"{one.real.source.words.split()[0]}\n{name}, 1/s", maps, 0.0, top))
    alt = "; ".join(f"{one.real.source.words}" for one in found)
    return Picture(
        "multitask-real",
        "The same on real series, a window around the tumour. Grey: not fitted.",
        draw_maps(rows, [label(key).replace(", ", ",\n") for key in REAL_SHOWN], scale=0.95),
        f"Maps of θ1 and θ2. {alt}.",
    )
