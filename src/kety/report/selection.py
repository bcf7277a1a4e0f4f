"""The blocks of a choice between models: which model where, and how sure the choice is."""

from __future__ import annotations

from typing import Final

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from kety.fitting.status import Status
from kety.models import get_model
from kety.report import rasters
from kety.report.blocks import (
    Bar,
    Block,
    Cell,
    Finding,
    Findings,
    Level,
    Maps,
    Panel,
    Picture,
    Table,
)
from kety.report.content import Study
from kety.report.numbers import number, percent
from kety.report.pictures import Scene, map_panel, scene_of
from kety.report.windows import Window

COLOURS: Final = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#f0e442", "#56b4e9")
NO_ENHANCEMENT: Final = "#6b7078"
SURE: Final = 0.9
"""Weight from which the other models together are ten times less likely."""
UNSURE: Final = 0.5
CRITERIA: Final = {
    "aicc": "Akaike’s information criterion, corrected for few frames (AICc)",
    "aic": "Akaike’s information criterion (AIC)",
    "bic": "the Bayesian information criterion (BIC)",
}


def selection_blocks(study: Study) -> list[Block]:
    """The sentence of how sure, shares and weights, and the map of models; none of one model."""
    if study.choice is None:
        return []
    blocks: list[Block] = [_certainty(study), _shares(study)]
    if study.spatial and study.n_fitted:
        blocks.append(_pictures(study, scene_of(study)))
    return blocks


def colour_of(index: int) -> str:
    """Colour of the model of that place."""
    return COLOURS[index % len(COLOURS)]


def _certainty(study: Study) -> Findings:
    weight = study.finite("weight", study.roi)
    place = "" if study.roi is None else " in the region of interest"
    if not weight.size:
        return Findings("caution", f"No model could be chosen{place}", [])
    sure, unsure = float(np.mean(weight > SURE)), float(np.mean(weight < UNSURE))
    level: Level = "good" if sure > 0.8 else "note" if unsure < 0.3 else "caution"
    headline = {
        "good": f"The data tell the models apart{place}",
        "note": f"The data tell the models apart in part of the voxels{place}",
        "caution": f"The data hardly tell the models apart{place}",
    }[level]
    middle = float(np.mean(weight))
    above, below = (int(np.count_nonzero(w)) for w in (weight > SURE, weight < UNSURE))
    text = (
        f"The chosen model has a weight of {middle:.2f} on average, and more than {SURE:g} in "
        f"{percent(above, weight.size)} of the voxels: there the other "
        "models together are ten times less likely. Below "
        f"{UNSURE:g}, in {percent(below, weight.size)}, the choice is "
        "little better than chance; a simple model chosen there says that the noise hides more, "
        "not that there is no more."
    )
    return Findings(level, headline, [Finding(level, text)])


def _shares(study: Study) -> Table:
    assert study.choice is not None
    inside = max(study.inside, 1)
    select = str(study.maps.attrs.get("select", ""))
    unknowns = [n.strip() for n in str(study.maps.attrs.get("unknowns", "")).split(",")]
    weight = study.values("weight")
    rows: list[list[Cell]] = []
    parts = []
    for i, name in enumerate(study.models):
        here = study.choice == i + 1
        count = int(np.count_nonzero(here))
        swatch = _swatch(colour_of(i), get_model(name).long_name)
        own = study.values(f"weight_{name}")
        known = np.isfinite(own)
        rows.append(
            [
                swatch,
                unknowns[i] if i < len(unknowns) else "–",
                f"{count:,}",
                percent(count, inside),
                number(float(np.mean(weight[here]))) if count else "–",
                number(float(np.mean(own[known]))) if known.any() else "–",
            ]
        )
        parts.append((name, count, colour_of(i)))
    silent = int(np.count_nonzero(study.choice == len(study.models) + 1))
    cells = [f"{silent:,}", percent(silent, inside), "–", "–"]
    rows.append([_swatch(NO_ENHANCEMENT, "no enhancement"), "–", *cells])
    parts.append(("no enhancement", silent, NO_ENHANCEMENT))
    shown = [part for part in parts if part[1]]
    alt = "; ".join(f"{label}: {percent(n, inside)}" for label, n, _ in shown)
    return Table(
        "Models chosen",
        (
            "Model",
            "Unknowns",
            "Voxels",
            "Share of mask",
            "Mean weight where chosen",
            "Mean weight everywhere",
        ),
        rows,
        bar=Bar(shown, f"Voxels by chosen model. {alt}.") if shown else None,
        note=f"Chosen by {CRITERIA.get(select, select)}. Unknowns: fitted parameters, the constant "
        "where one is fitted along, and the variance of the noise.",
    )


def _swatch(colour: str, text: str) -> Markup:
    return Markup('<span class="swatch" style="background:{}"></span>{}').format(colour, text)


def _pictures(study: Study, scene: Scene) -> Maps:
    assert study.choice is not None
    colours = [
        rasters.STATUS_COLOURS[Status.OUTSIDE],
        *(colour_of(i) for i in range(len(study.models))),
        NO_ENHANCEMENT,
    ]
    choice: NDArray[np.uint8] = study.choice
    pictures = [
        Picture(
            rasters.category_image(
                frame.view.cut(choice, frame.z), colours, scene.background(frame)
            ),
            f"Chosen model, {frame.label}.",
            frame.label,
        )
        for frame in scene.frames
    ]
    words = [*(get_model(n).long_name for n in study.models), "no enhancement"]
    legend = [
        (colour, text)
        for i, (colour, text) in enumerate(zip(colours[1:], words, strict=True))
        if (choice == i + 1).any()
    ]
    window = Window("weight", "weight", "1", 0.0, 1.0)
    panels = [
        Panel("Chosen model", pictures, legend=legend),
        map_panel(scene, "weight", study.values("weight"), window, "map", "Weight of it"),
    ]
    title = Markup("Model <span class=muted>chosen in each voxel, and its weight</span>")
    return Maps(title, panels, scene.view.aspect, scene.widest)
