"""The blocks of an artery that was found in the series: where it lies, its curve, the reasons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from kety.report import figures, rasters
from kety.report.blocks import (
    Block,
    Cell,
    Chart,
    Charts,
    Facts,
    Finding,
    Findings,
    Maps,
    Panel,
    Picture,
    Table,
)
from kety.report.numbers import number

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

    from kety.inputs import ArterialInput, Candidate, Criterion, Vessel

_SHOWN: Final = 6
_WIDEST: Final = 360
_VOXEL: Final = 24


def vessel_blocks(vessel: Vessel, affine: NDArray[np.float64] | None) -> list[Block]:
    """Verdict, pictures, curves, and the tables of reasons and candidates."""
    found = vessel.found
    blocks: list[Block] = [_verdict(vessel), *_pictures(vessel, affine)]
    blocks.append(Charts([_curves(found)], width=640))
    blocks += [_reasons(found), _candidates(found)]
    facts = _facts(vessel)
    return [*blocks, Facts(facts)] if facts else blocks


def _verdict(vessel: Vessel) -> Findings:
    found = vessel.found
    voxels = f"{int(found.mask.sum()):,} voxels about {found.chosen.centre}"
    if found.quality == "good":
        return Findings("good", f"The input was found in the series: {voxels}.", ())
    return Findings(
        "caution",
        f"The input was found in the series, with doubts: {voxels}.",
        [Finding("caution", f"{text[0].upper()}{text[1:]}.") for text in found.warnings],
    )


def _pictures(vessel: Vessel, affine: NDArray[np.float64] | None) -> list[Block]:
    grey = rasters.grey_levels(vessel.anatomy)
    mask = vessel.found.mask
    view = rasters.choose_view(np.ones(mask.shape, dtype=np.bool_), affine, mask)
    frames = [(view, z, f"slice {z}") for z in view.slices]
    closer = rasters.close_up(view, mask)
    if closer is not None:
        frames.append((*closer, f"slice {closer[1]}, closer"))
    panels = []
    regions: list[tuple[str, NDArray[np.bool_] | None]] = [
        ("Artery that was found", mask),
        ("Mask drawn by hand", vessel.drawn),
        ("Vein", vessel.vein),
    ]
    for title, region in regions:
        if region is None:
            continue
        shown = frames
        if not any(region[:, :, z].any() for _, z, _ in frames):
            own = rasters.choose_view(np.ones(mask.shape, dtype=np.bool_), affine, region)
            shown = [(own, z, f"slice {z}") for z in own.slices]
        pictures = [
            Picture(
                rasters.outline_image(grey, region, part, z),
                f"{title} outlined over the image before contrast agent, {label}.",
                label,
            )
            for part, z, label in shown
        ]
        count = f"{int(region.sum()):,} voxels"
        panels.append(Panel(title, pictures, legend=[(rasters.OUTLINE_COLOUR, count)]))
    columns = view.columns.stop - view.columns.start
    title = Markup("Vessel <span class=muted>outlined over the mean before contrast agent</span>")
    return [Maps(title, panels, view.aspect, min(_WIDEST, _VOXEL * columns))]


def _curves(found: ArterialInput) -> Chart:
    unit = _unit(found)
    times, chosen, others = found.curve.times, found.chosen, found.candidates[1:_SHOWN]

    def paint(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        for i, one in enumerate(others):
            label = "other candidates" if i == 0 else None
            axes.plot(times, one.curve, color=figures.MUTED, linewidth=0.7, label=label)
        axes.plot(times, found.tissue, "--", color=figures.MODEL, label="mean of the tissue")
        axes.plot(
            times, chosen.curve, "o-", color=figures.INPUT, markersize=2.4, label="chosen artery"
        )
        axes.set_xlabel("time (s)")
        axes.set_ylabel(unit)
        axes.legend(**figures.LEGEND_ABOVE, ncols=3)
        figures.grid(axes)

    bolus = chosen.bolus
    alt = (
        f"Curve of the chosen artery: peak {number(bolus.peak)} at {number(bolus.peak_time)} s, "
        f"{number(bolus.width)} s wide; with {len(others)} other candidates and the mean tissue."
    )
    caption = (
        "The curve as the artery was chosen by it"
        + (
            " (signal above its baseline, over it; the fit uses concentration)"
            * (found.unit == "1")
        )
        + f", with the best {len(others)} other candidates."
    )
    return Chart(figures.draw((9.4, 2.6), alt, paint), caption)


def _unit(found: ArterialInput) -> str:
    return {"HU": "enhancement (HU)", "mM": "concentration (mM)"}.get(found.unit, "(S − S0) / S0")


def _reasons(found: ArterialInput) -> Table:
    rows: list[list[Cell]] = [
        [one.name, f"It {one.words}.", f"{one.score:.2f}"] for one in found.chosen.criteria
    ]
    return Table(
        "Why these voxels",
        ("Criterion", "What was found (and the limit)", "Score"),
        rows,
        text_columns=frozenset({0, 1}),
        note="A candidate has to meet every limit; of those that do, the one of the largest "
        "product of scores is the artery. Scores are relative to the best candidate.",
    )


def _candidates(found: ArterialInput) -> Table:
    rows = [_row(i, one) for i, one in enumerate(found.candidates[:_SHOWN])]
    heads = ("", "About voxel", "Voxels", "Peak", "Half at (s)", "Width (s)", "Score", "Lacks")
    more = len(found.candidates) - len(rows)
    note = f"{more} more of lower rank are in the record." if more > 0 else ""
    return Table("Candidates", heads, rows, text_columns=frozenset({0, 1, 7}), note=note)


def _row(place: int, one: Candidate) -> list[Cell]:
    lacks: tuple[Criterion, ...] = one.lacking
    width = number(one.bolus.width) if np.isfinite(one.bolus.width) else "never half"
    return [
        "chosen" if place == 0 else f"{place + 1}.",
        str(one.centre),
        f"{len(one.voxels):,}",
        number(one.bolus.peak),
        number(one.bolus.rise_time),
        width,
        f"{one.score:.2f}",
        ", ".join(criterion.name for criterion in lacks) or "–",
    ]


def _facts(vessel: Vessel) -> list[tuple[str, str]]:
    facts: list[tuple[str, str]] = []
    if vessel.agreement is not None:
        agreement: Any = vessel.agreement
        facts += [
            ("Dice with the drawn mask", f"{agreement.dice:.2f}"),
            ("Found voxels inside it", f"{100 * agreement.inside:.0f} %"),
            ("Peak over the drawn one's", f"{agreement.peak_ratio:.3f}"),
            ("Area over the drawn one's", f"{agreement.area_ratio:.3f}"),
            ("Curves apart (RMS)", f"{100 * agreement.rms:.1f} % of the peak"),
        ]
    if vessel.factor is not None:
        facts.append(("Scaled by the vein's area", f"× {vessel.factor:.3f}"))
    facts += [("Then", step) for step in vessel.steps]
    return facts
