"""The blocks of map pictures: status, then each quantity beside its standard error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from kety.fitting.status import Status
from kety.report import rasters
from kety.report.blocks import Block, ColourBar, Maps, Panel, Paragraph, Picture
from kety.report.content import Study, symbol
from kety.report.numbers import number, percent, tick
from kety.report.windows import Window

_TICKS = 5
_WIDEST = 480
_VOXEL = 24
_NAMES = {
    "L": "left",
    "R": "right",
    "A": "anterior",
    "P": "posterior",
    "S": "superior",
    "I": "inferior",
}


@dataclass(frozen=True)
class Frame:
    """One picture to draw: how it is cut, its slice, and what is written under it."""

    view: rasters.View
    z: int
    label: str


@dataclass(frozen=True)
class Scene:
    """The frames of every map, and the grey background if there is one."""

    view: rasters.View
    frames: tuple[Frame, ...]
    grey: NDArray[np.float32] | None

    @property
    def widest(self) -> int:
        """Largest width of a picture in pixels: few voxels need not fill a page."""
        columns = int(self.view.columns.stop - self.view.columns.start)
        return min(_WIDEST, _VOXEL * columns)

    def background(self, frame: Frame) -> NDArray[np.float32] | None:
        """Return the grey levels of a frame."""
        return None if self.grey is None else frame.view.cut(self.grey, frame.z)


def scene_of(study: Study) -> Scene:
    """Crop to the fitted voxels; choose slices there, or in the region of interest if given.

    A small region of interest is also shown closer.
    """
    shown = study.fitted if study.n_fitted else study.status != Status.OUTSIDE
    view = rasters.choose_view(shown, study.affine, study.roi)
    frames = [Frame(view, z, f"slice {z}") for z in view.slices]
    closer = None if study.roi is None else rasters.close_up(view, study.roi)
    if closer is not None:
        frames.append(Frame(*closer, f"slice {closer[1]}, region of interest"))
    grey = None if study.anatomy is None else rasters.grey_levels(study.anatomy)
    return Scene(view, tuple(frames), grey)


def map_blocks(study: Study) -> list[Block]:
    """Pictures of status, every parameter with its error, and R²; none without three axes."""
    if not study.spatial:
        return []
    scene = scene_of(study)
    blocks: list[Block] = [_layout(study, scene.view), _status(study, scene)]
    if study.n_fitted == 0:
        return [*blocks, Paragraph("No voxel was fitted, so every map is empty.")]
    for name in study.shown:
        window = study.window(name)
        panels = [map_panel(scene, name, study.values(name), window, "map", "Value")]
        if f"{name}_se" in study.maps:
            error = study.values(f"{name}_se")
            panels.append(
                map_panel(scene, name, error, window.standard_error(), "error", "Standard error")
            )
        note = "" if window.fixed else "No fixed window is listed: this one was read from the data."
        words = Markup("{} <span class=muted>{}</span>").format(
            symbol(window), study.long_name(name)
        )
        blocks.append(Maps(words, panels, scene.view.aspect, scene.widest, note))
    return blocks


def map_panel(
    scene: Scene,
    name: str,
    volume: NDArray[Any],
    window: Window,
    colours: rasters.Colours,
    title: str,
    ticks: int = _TICKS,
) -> Panel:
    """Pictures of a map (X, Y, Z) in its window, and the colour bar with so many ticks."""
    finite = volume[np.isfinite(volume)]
    unit = window.units if window.units != "1" else ""
    limits = f"{number(window.lower)} to {number(window.upper)} {unit}".rstrip()
    pictures = [
        Picture(
            rasters.map_image(
                frame.view.cut(volume, frame.z), window, colours, scene.background(frame)
            ),
            f"{title} of {name}, {frame.label}, window {limits}.",
            frame.label,
        )
        for frame in scene.frames
    ]
    below, above = rasters.marks(colours)
    bar = ColourBar(
        stops=rasters.gradient(colours),
        ticks=[tick(t) for t in np.linspace(window.lower, window.upper, ticks)],
        below=percent(int(np.count_nonzero(finite < window.lower)), finite.size)
        if colours != "error"
        else None,
        above=percent(int(np.count_nonzero(finite > window.upper)), finite.size),
        below_colour=below,
        above_colour=above,
    )
    return Panel(f"{title} ({unit})" if unit else title, pictures, bar)


def _status(study: Study, scene: Scene) -> Maps:
    pictures = [
        Picture(
            rasters.status_image(frame.view.cut(study.status, frame.z), scene.background(frame)),
            f"Status of the voxels, {frame.label}.",
            frame.label,
        )
        for frame in scene.frames
    ]
    legend = [
        (rasters.STATUS_COLOURS[s], study.meaning(s))
        for s in Status
        if s is not Status.OUTSIDE and study.counts[s]
    ]
    panels = [Panel("Status", pictures, legend=legend)]
    if scene.grey is not None:
        region = np.zeros(study.shape, dtype=bool) if study.roi is None else study.roi
        outlined = [
            Picture(
                rasters.outline_image(scene.grey, region, frame.view, frame.z),
                f"Background image, {frame.label}.",
                frame.label,
            )
            for frame in scene.frames
        ]
        legend = [] if study.roi is None else [(rasters.OUTLINE_COLOUR, "region of interest")]
        panels.insert(0, Panel("Background image", outlined, legend=legend))
    title = Markup("Status <span class=muted>what became of each voxel</span>")
    return Maps(title, panels, scene.view.aspect, scene.widest)


def _layout(study: Study, view: rasters.View) -> Paragraph:
    if view.edges is None:
        place = "The orientation is not known: the first axis runs right, the second down."
    else:
        left, _, top, _ = (_NAMES[edge] for edge in view.edges)
        place = f"Left in the picture is the patient's {left}, up is {top}."
    slices = ", ".join(map(str, view.slices))
    noun = "slices" if len(view.slices) > 1 else "slice"
    shown = f"Shown: {noun} {slices} of {study.shape[2]} (counted from 0)."
    every = f" Every {view.step}. voxel of a row and column is drawn." if view.step > 1 else ""
    return Paragraph(f"{shown} {place}{every}")
