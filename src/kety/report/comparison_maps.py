"""The pictures of a comparison: regions, A and B beside their change, change over its error."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from markupsafe import Markup

from kety.report import rasters
from kety.report.blocks import Block, Maps, Panel, Paragraph, Picture
from kety.report.content import symbol
from kety.report.pictures import Frame, Scene, map_panel
from kety.report.windows import Window, window_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kety.comparison import Comparison, Pair

_TICKS: Final = 3
_CHANGE: Final = 0.5
"""A change's window reaches this fraction of its quantity's span to either side."""
_SCORE: Final = Window("z", "z", "1", -4.0, 4.0)


def map_blocks(comparison: Comparison) -> list[Block]:
    """Pictures of one pair on a common grid with three axes; words where there are several."""
    pair = comparison.pairs[0]
    if pair.changes is None or pair.a.maps["status"].ndim != 3:
        return []
    if len(comparison.pairs) > 1:
        return [Paragraph("The maps of every pair are in the folder of its name.")]
    scene = _scene(pair)
    title = Markup("Regions <span class=muted>on {} of A</span>").format(comparison.parameters[0])
    blocks: list[Block] = [_outlines(comparison, pair, scene, title)]
    scores = []
    for name in comparison.parameters:
        first, second = (np.asarray(one.maps[name].values) for one in (pair.a, pair.b))
        window = _window(name, pair, first, second)
        reach = _CHANGE * window.span
        around = replace(window, lower=-reach, upper=reach)
        change, z = (np.asarray(pair.changes[f"{name}_{kind}"].values) for kind in ("change", "z"))
        panels = [
            map_panel(scene, name, first, window, "map", "A", _TICKS),
            map_panel(scene, name, second, window, "map", "B", _TICKS),
            map_panel(scene, name, change, around, "difference", "B less A", _TICKS),
        ]
        title = Markup("{} <span class=muted>{}</span>").format(symbol(window), name)
        blocks.append(Maps(title, panels, scene.view.aspect, scene.widest, stacked=True))
        if np.isfinite(z).any():
            scores.append(map_panel(scene, name, z, _SCORE, "difference", name, _TICKS))
    if scores:
        title = Markup("<i>z</i> <span class=muted>change over its standard error</span>")
        blocks.append(Maps(title, scores, scene.view.aspect, scene.widest, stacked=True))
    return blocks


def _scene(pair: Pair) -> Scene:
    shown = np.isfinite(next(iter(pair.changes.data_vars.values())).values)  # type: ignore[union-attr]
    focus = np.any([mask for mask, _ in pair.regions.values()], axis=0) & shown
    view = rasters.choose_view(shown, pair.a.affine, focus)
    return Scene(view, tuple(Frame(view, z, f"slice {z}") for z in view.slices), None)


def _outlines(comparison: Comparison, pair: Pair, scene: Scene, title: Markup) -> Maps:
    """The regions, outlined on the first map in grey."""
    name = comparison.parameters[0]
    values = np.asarray(pair.a.maps[name].values)
    window = _window(name, pair, values, values)
    grey = np.nan_to_num(np.clip((values - window.lower) / window.span, 0, 1)).astype(np.float32)
    region = np.any([_rim(mask) for mask, _ in pair.regions.values()], axis=0)
    pictures = [
        Picture(
            rasters.outline_image(grey, region, frame.view, frame.z),
            f"Regions on {name} of A, {frame.label}.",
            frame.label,
        )
        for frame in scene.frames
    ]
    legend = [(rasters.OUTLINE_COLOUR, "outline of a region")]
    return Maps(title, [Panel("", pictures, legend=legend)], scene.view.aspect, scene.widest)


def _rim(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels of a region (X, Y, Z) that have a neighbour outside in their slice."""
    padded = np.pad(mask, ((1, 1), (1, 1), (0, 0)))
    core = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~core


def _window(name: str, pair: Pair, *volumes: NDArray[Any]) -> Window:
    """The listed window of a map, or one around the values of both studies."""

    def limits() -> tuple[float, float]:
        values = np.concatenate([one[np.isfinite(one)] for one in volumes])
        low, high = np.percentile(values, [2.0, 98.0]) if values.size else (0.0, 1.0)
        return float(low), float(high)

    return window_for(name, str(pair.a.maps[name].attrs.get("units", "")), limits)
