"""The blocks of joint estimation: what it gained, what it changed, and where it went too far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from kety.fitting.status import Status
from kety.joint.estimate import BEYOND
from kety.joint.maps import VOXELWISE
from kety.joint_words import concerns, estimated_jointly, gain, took_part
from kety.report import joint_figures
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
    Paragraph,
    Table,
    Tiles,
)
from kety.report.content import Study, quantity, symbol
from kety.report.numbers import number, percent, tick
from kety.report.pictures import Frame, Scene, map_panel, scene_of
from kety.report.windows import Window

SIMILARITIES: Final[Mapping[str, str]] = {
    "graph": "near in space, curves alike within the noise",
    "temporal": "curves alike",
    "spatial": "near in space",
    "given matrix": "as given",
}


Curve = tuple[list[float], list[float]]


@dataclass(frozen=True)
class Moves:
    """How far voxels moved.

    ``linked`` (X, Y, Z): those that have neighbours. ``free``: parameters of a voxel. ``limit``:
    the distance beyond which a fit is worse than noise explains.
    """

    linked: NDArray[np.bool_]
    free: int
    limit: float


def joint_blocks(study: Study) -> list[Block]:
    """Gain, distance moved, maps beside the voxelwise ones, errors; none of voxelwise maps."""
    attrs = study.maps.attrs
    if not estimated_jointly(attrs):
        return []
    moves = _moves(study)
    curve = _error_curve(attrs)
    if attrs["joint_strength"] == 0:
        return _voxelwise(attrs, curve)
    blocks: list[Block] = [Tiles(_tiles(study, moves))]
    sentences = concerns(study.maps)
    if sentences:
        found = [Finding("caution", sentence) for sentence in sentences]
        blocks.append(Findings("caution", "Read the joint estimate with care", found))
    charts = [_error_chart(attrs, *curve)] if curve else []
    blocks.append(Charts([*charts, _moved_chart(study, moves, wide=not charts)]))
    blocks.append(_facts(study))
    if study.spatial:
        blocks += _pictures(study, moves)
    return [*blocks, _errors(study), _statuses(study)]


def _moves(study: Study) -> Moves:
    pooled = study.values("pooled")
    free = round(study.maps.attrs["joint_free_parameters"] / took_part(study.maps))
    # a voxel without neighbours stands for itself alone and did not move
    linked = np.isfinite(pooled) & (pooled != 1.0)
    from scipy.special import gammaincinv

    return Moves(linked, free, float(np.sqrt(2.0 * gammaincinv(0.5 * free, BEYOND) / free)))


def _tiles(study: Study, moves: Moves) -> list[tuple[str, str]]:
    attrs = study.maps.attrs
    better = gain(attrs)
    if better is None:
        error = ("–", "error of left-out frames: not measured, as the strength was given")
    else:
        numbers = [f"{attrs[f'joint_left_out_error{which}']:.3f}" for which in (VOXELWISE, "")]
        error = (
            " → ".join(numbers),
            f"left-out error, voxelwise → joint, in noise variances ({100 * better:.1f} % lower)",
        )
    how = "as given" if attrs["joint_strength_from"] == "given" else "chosen by left-out frames"
    strength = attrs["joint_strength"]
    pooled = study.values("pooled")[moves.linked]
    stands = f"{np.median(pooled):,.0f}" if pooled.size else "1"
    return [
        error,
        (
            f"{attrs['joint_effective_parameters']:,.0f}",
            f"effective parameters of {attrs['joint_free_parameters']:,} free ones",
        ),
        ("∞" if np.isinf(strength) else tick(strength), f"strength, {how}"),
        (stands, "voxels whose data a typical estimate stands for (median)"),
    ]


def _voxelwise(attrs: Mapping[str, Any], curve: Curve | None) -> list[Block]:
    """What there is to say where no strength was better than none, or none was asked for."""
    kept = "every voxel keeps its own estimate"
    if curve is None:
        return [Paragraph(f"With a strength of 0, as given, {kept}.")]
    strengths, errors = curve
    best = 1 + int(np.argmin(errors[1:]))
    place = "∞" if np.isinf(strengths[best]) else tick(strengths[best])
    tiles = [
        (f"{errors[0]:.3f}", "left-out error voxel by voxel, in noise variances"),
        (f"{errors[best]:.3f}", f"least left-out error of joint estimation, at strength {place}"),
        ("0", "strength, chosen by left-out frames"),
    ]
    words = f"Joint estimation predicts left-out frames no better than voxel by voxel, so {kept}."
    return [Tiles(tiles), Paragraph(words), Charts([_error_chart(attrs, *curve, wide=True)])]


def _error_curve(attrs: Mapping[str, Any]) -> Curve | None:
    """Strengths tried and their left-out errors; None where the strength was given."""
    if "joint_errors_tried" not in attrs:
        return None
    strengths = [float(s) for s in attrs["joint_strengths_tried"].split(",")]
    return strengths, [float(e) for e in attrs["joint_errors_tried"].split(",")]


def _error_chart(
    attrs: Mapping[str, Any], strengths: list[float], errors: list[float], *, wide: bool = False
) -> Chart:
    voxels = f"{attrs['joint_left_out_voxels']:,}"
    pairs = "; ".join(f"{s:g}: {e:.4g}" for s, e in zip(strengths, errors, strict=True))
    svg = joint_figures.left_out_error(
        strengths,
        errors,
        attrs["joint_strength"],
        f"Mean squared error of left-out frames by strength: {pairs}.",
        wide=wide,
    )
    caption = (
        f"Frames of {voxels} voxels were left out in turn and predicted from the others, at every "
        "strength tried. 1 is the noise of the frames themselves, which nothing can predict; "
        "strength 0 is voxel by voxel."
    )
    return Chart(svg, caption)


def _moved_chart(study: Study, moves: Moves, *, wide: bool) -> Chart:
    values = study.values("moved")[moves.linked]
    changed = int(study.maps.attrs["joint_beyond_noise"])
    words = (
        f"median {number(float(np.median(values))) if values.size else '–'}; beyond "
        f"{moves.limit:.2f}: {percent(changed, took_part(study.maps))}"
    )
    alt = f"Histogram of how far voxels moved: {words}."
    svg = joint_figures.moved(values, moves.free, moves.limit, alt, wide=wide)
    caption = Markup(
        "How far each voxel went from its own estimate: <b>{}</b> ({} by chance). Line: noise "
        "alone, where the joint estimate is right. What lies to its left still leans on the "
        "voxel’s own data; what lies to its right is pulled away from them."
    ).format(words, percent(1 - BEYOND, 1))
    return Chart(svg, caption)


def _facts(study: Study) -> Facts:
    attrs = study.maps.attrs
    similarity, count = str(attrs["joint"]), took_part(study.maps)
    alone, changed = int(attrs["joint_alone"]), int(attrs["joint_beyond_noise"])
    settled = "settled" if attrs["joint_converged"] else "not settled"
    return Facts(
        [
            ("Alike", f"{similarity}: {SIMILARITIES.get(similarity, '')}".rstrip(": ")),
            ("Neighbours", f"{attrs['joint_neighbours']:.1f} a voxel; {alone:,} voxels have none"),
            ("Fits worse than noise explains", f"{changed:,} of {count:,}"),
            ("Optimum", f"{settled} after {attrs['joint_steps']} steps"),
        ]
    )


def _close(scene: Scene, study: Study) -> Scene:
    """The slice that holds most of what the reader looks for, and the region of interest."""
    focus = study.fitted if study.roi is None or not study.roi.any() else study.roi
    plain = [frame for frame in scene.frames if frame.view is scene.view]
    closer = [frame for frame in scene.frames if frame.view is not scene.view]

    def seen(frame: Frame) -> int:
        return int(np.count_nonzero(focus[:, :, frame.z]))

    return replace(scene, frames=(max(plain, key=seen), *closer))


def _pictures(study: Study, moves: Moves) -> list[Block]:
    scene = _close(scene_of(study), study)
    aspect, widest = scene.view.aspect, scene.widest
    blocks: list[Block] = []
    for name in study.parameters:
        if name + VOXELWISE not in study.maps:
            continue
        window = study.window(name)
        panels = [
            map_panel(scene, name, study.values(name + VOXELWISE), window, "map", "Voxelwise"),
            map_panel(scene, name, study.values(name), window, "map", "Joint"),
        ]
        words = Markup("{} <span class=muted>{}</span>").format(
            symbol(window), study.long_name(name)
        )
        blocks.append(Maps(words, panels, aspect, widest, stacked=True))
    blocks.append(Maps(*_how_far(study, scene, moves), aspect, widest, _MARKED, stacked=True))
    return blocks


_MARKED: Final = (
    "Moved: what is above the window (marked) fits worse than noise explains. Pooled: its window "
    "is read from the data."
)


def _how_far(study: Study, scene: Scene, moves: Moves) -> tuple[Cell, list[Panel]]:
    pooled = study.values("pooled")
    finite = pooled[np.isfinite(pooled)]
    top = _rounded(float(np.percentile(finite, 98.0)))
    windows = (
        Window("moved", "moved", "standard errors", 0.0, moves.limit),
        Window("pooled", "pooled", "voxels", 0.0, top, fixed=False),
    )
    panels = [
        map_panel(scene, window.name, study.values(window.name), window, "error", title)
        for window, title in zip(windows, ("Moved", "Pooled"), strict=True)
    ]
    moved, stands = panels
    if moved.bar is not None:
        ends = np.linspace(0.0, moves.limit, len(moved.bar.ticks))
        panels = [replace(moved, bar=replace(moved.bar, ticks=[f"{t:.2f}" for t in ends])), stands]
    title = Markup(
        "Moved and pooled <span class=muted>how far from the voxelwise estimate, and for how many "
        "voxels of data</span>"
    )
    return title, panels


def _rounded(value: float) -> float:
    """The next of 1, 2, 4, 6, 8 times a power of ten, so that quarters of it read well."""
    power = 10.0 ** np.floor(np.log10(max(value, 1.0)))
    return float(next(m * power for m in (1, 2, 4, 6, 8, 10) if m * power >= value * 0.999))


def _errors(study: Study) -> Table:
    rows: list[list[Cell]] = []
    for name in study.parameters:
        if f"{name}{VOXELWISE}_se" not in study.maps:
            continue
        before = study.values(f"{name}{VOXELWISE}_se").astype(np.float64)
        after = study.values(f"{name}_se").astype(np.float64)
        both = np.isfinite(before) & np.isfinite(after) & (before > 0)
        cells: list[Cell] = []
        for error in (before, after):
            middle = float(np.median(error[both])) if both.any() else float("nan")
            cells += [f"{np.count_nonzero(np.isfinite(error)):,}", number(middle)]
        ratio = float(np.median(after[both] / before[both])) if both.any() else np.nan
        words = f"{ratio:.2f}" if np.isfinite(ratio) else "–"
        rows.append([quantity(study, name), study.units(name) or "1", *cells, words])
    return Table(
        "Standard errors, voxelwise and joint",
        (
            "Parameter",
            "Unit",
            "Voxelwise: voxels",
            "median",
            "Joint: voxels",
            "median",
            "Median ratio",
        ),
        rows,
        text_columns=frozenset({0, 1}),
        note="Voxels: those that have one; medians and ratio: of those that have both. A joint "
        "estimate's standard error is that of the noise; it does not contain what smoothing "
        "shifts, for which see moved.",
    )


def _statuses(study: Study) -> Table:
    before = np.asarray(study.maps["status" + VOXELWISE].values)
    rows: list[list[Cell]] = []
    for status in Status:
        counts = [int(np.count_nonzero(s == status)) for s in (before, study.status)]
        if status is not Status.OUTSIDE and any(counts):
            shares = [f"{n:,} ({percent(n, study.inside)})" for n in counts]
            rows.append([status.meaning.replace("_", " "), *shares])
    return Table("Status, voxelwise and joint", ("Status", "Voxelwise", "Joint"), rows)
