"""Slices of volumes as small indexed PNG images: orientation, choice of slices, colours.

A map's picture is made voxel by voxel, one pixel each, so that nothing is interpolated; the page
scales it. An index of 256 entries keeps it small: the map's colours, two marks for values beyond
the window, and grey levels for the anatomy underneath.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kety.fitting.status import Status
from kety.report.windows import Window

MAP_COLOURS: Final = "viridis"
ERROR_COLOURS: Final = "magma"
DIFFERENCE_COLOURS: Final = "RdBu_r"

BELOW_COLOUR: Final = "#ff8a1f"
ABOVE_COLOUR: Final = "#ff5fe0"
# magma ends in pale orange and passes through pink: its marks have to be colder
ERROR_BELOW_COLOUR: Final = "#8a8f98"
ERROR_ABOVE_COLOUR: Final = "#2fe0d0"

STATUS_COLOURS: Final[dict[Status, str]] = {
    Status.OUTSIDE: "#3a3f45",
    Status.CONVERGED: "#009e73",
    Status.AT_BOUND: "#e69f00",
    Status.ITERATION_LIMIT: "#d1495b",
    Status.NOT_ENHANCING: "#56b4e9",
    Status.NOT_FINITE: "#b05ccc",
    Status.NOT_IDENTIFIABLE: "#f0e442",
}
OUTLINE_COLOUR: Final = "#ffd23f"

_LEVELS = 128
_BELOW, _ABOVE = _LEVELS, _LEVELS + 1
_FIRST_GREY = _LEVELS + 2
_GREYS = 256 - _FIRST_GREY
_MAX_PIXELS = 320
_MAX_SLICES = 3
_CLOSE_ENOUGH = 0.6
_OPPOSITE = {"L": "R", "R": "L", "P": "A", "A": "P", "I": "S", "S": "I"}

Colours = Literal["map", "error", "difference"]
_SCALES: Final[dict[Colours, tuple[str, str, str]]] = {
    "map": (MAP_COLOURS, BELOW_COLOUR, ABOVE_COLOUR),
    "error": (ERROR_COLOURS, ERROR_BELOW_COLOUR, ERROR_ABOVE_COLOUR),
    "difference": (DIFFERENCE_COLOURS, "#2fe0d0", "#ffd23f"),
}


@dataclass(frozen=True)
class View:
    """How slices are cut from a volume and laid on the page.

    Attributes
    ----------
    slices
        Shown positions along the third axis.
    transpose, flip_rows, flip_columns
        Turn a slice ``(X, Y)`` into picture rows and columns.
    rows, columns
        Shown part of the turned slice, every ``step``-th voxel of it.
    aspect
        Width of the shown part divided by its height, in mm where the voxel size is known.
    edges
        Anatomical letters at the left, right, top and bottom, empty where the orientation is
        unknown.
    """

    slices: tuple[int, ...]
    transpose: bool
    flip_rows: bool
    flip_columns: bool
    rows: slice
    columns: slice
    step: int
    aspect: float
    edges: tuple[str, str, str, str] | None

    def turn(self, volume: NDArray[Any], z: int) -> NDArray[Any]:
        """Return slice ``z`` of ``volume`` (X, Y, Z) turned upright, whole."""
        plane = volume[:, :, z]
        if self.transpose:
            plane = plane.T
        if self.flip_rows:
            plane = plane[::-1]
        return plane[:, ::-1] if self.flip_columns else plane

    def cut(self, volume: NDArray[Any], z: int) -> NDArray[Any]:
        """Return the shown part of slice ``z`` of ``volume`` (X, Y, Z)."""
        part = self.turn(volume, z)[self.rows, self.columns]
        return part[:: self.step, :: self.step]


def choose_view(
    shown: NDArray[np.bool_],
    affine: NDArray[np.float64] | None,
    focus: NDArray[np.bool_] | None = None,
) -> View:
    """Choose slices, orientation and crop that show the voxels of ``shown``.

    Parameters
    ----------
    shown
        (X, Y, Z) voxels that the pictures are cut to, with a margin.
    affine
        (4, 4) voxel to mm in the RAS frame of NIfTI, or None where it is unknown. With it the
        patient's anterior (or superior) is up and the patient's right is at the left.
    focus
        (X, Y, Z) voxels that decide which slices are shown; ``shown`` where None or empty.

    Returns
    -------
    View
        At most three slices: those that divide the focus evenly.
    """
    transpose, flip_rows, flip_columns, edges = _orientation(affine)
    sizes = np.ones(3) if affine is None else np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    # a singular affine still has to give a picture
    sizes = np.where(sizes > 0, sizes, 1.0)
    height, width = (sizes[1], sizes[0]) if transpose else (sizes[0], sizes[1])
    if focus is None or not focus.any():
        focus = shown
    whole = View(
        slices=_choose_slices(focus),
        transpose=transpose,
        flip_rows=flip_rows,
        flip_columns=flip_columns,
        rows=slice(None),
        columns=slice(None),
        step=1,
        aspect=1.0,
        edges=edges,
    )
    footprint = whole.turn(np.any(shown, axis=2, keepdims=True), 0)
    rows = _extent(footprint, axis=0)
    columns = _extent(footprint, axis=1)
    n_rows, n_columns = rows.stop - rows.start, columns.stop - columns.start
    return replace(
        whole,
        rows=rows,
        columns=columns,
        step=-(-max(n_rows, n_columns) // _MAX_PIXELS),
        aspect=float(n_columns * width / (n_rows * height)),
    )


def _orientation(
    affine: NDArray[np.float64] | None,
) -> tuple[bool, bool, bool, tuple[str, str, str, str] | None]:
    if affine is None:
        return True, False, False, None
    from nibabel.orientations import aff2axcodes

    # an axis without direction (a singular affine) has no letter
    codes = tuple(code or "" for code in aff2axcodes(affine)[:2])  # type: ignore[no-untyped-call]
    if "" in codes:
        return True, False, False, None
    # the upright axis is the body's long axis where the plane holds it, else front to back
    upright = next(i for group in ("SI", "AP", "LR") for i in (0, 1) if codes[i] in group)
    down, right = codes[upright], codes[1 - upright]
    flip_rows, flip_columns = down not in "IP", right not in "LP"
    down = _OPPOSITE[down] if flip_rows else down
    right = _OPPOSITE[right] if flip_columns else right
    return upright == 1, flip_rows, flip_columns, (_OPPOSITE[right], right, _OPPOSITE[down], down)


def _choose_slices(shown: NDArray[np.bool_]) -> tuple[int, ...]:
    counts = shown.sum(axis=(0, 1))
    occupied = np.flatnonzero(counts)
    if occupied.size == 0:
        return (shown.shape[2] // 2,)
    if occupied.size <= _MAX_SLICES:
        return tuple(int(z) for z in occupied)
    share = np.cumsum(counts) / counts.sum()
    positions = (np.arange(_MAX_SLICES) + 0.5) / _MAX_SLICES
    return tuple(sorted({int(np.searchsorted(share, p)) for p in positions}))


def _extent(occupied: NDArray[np.bool_], axis: int) -> slice:
    """Return the part along ``axis`` that holds what is occupied, and a margin."""
    length = occupied.shape[axis]
    where = np.flatnonzero(np.any(occupied, axis=1 - axis))
    if where.size == 0:
        return slice(0, length)
    first, last = int(where[0]), int(where[-1]) + 1
    margin = max(4, (last - first) // 12)
    return slice(max(0, first - margin), min(length, last + margin))


def close_up(view: View, focus: NDArray[np.bool_]) -> tuple[View, int] | None:
    """Return a view of the shape of ``view`` cut closer around ``focus``, and its slice.

    The slice is the shown one that holds most of the focus; None where the focus is not shown, or
    fills so much of the view that a closer one would add nothing.
    """
    z = max(view.slices, key=lambda s: int(np.count_nonzero(focus[:, :, s])))
    occupied = view.turn(focus, z)
    if not occupied.any():
        return None
    rows, columns = _extent(occupied, axis=0), _extent(occupied, axis=1)
    scale = max(
        (rows.stop - rows.start) / (view.rows.stop - view.rows.start),
        (columns.stop - columns.start) / (view.columns.stop - view.columns.start),
    )
    if scale > _CLOSE_ENOUGH:
        return None
    return replace(
        view,
        rows=_around(rows, round(scale * (view.rows.stop - view.rows.start)), view.rows),
        columns=_around(
            columns, round(scale * (view.columns.stop - view.columns.start)), view.columns
        ),
        step=1,
    ), z


def _around(part: slice, length: int, whole: slice) -> slice:
    """Return a slice of ``length`` around the middle of ``part``, moved to lie in ``whole``."""
    start = (part.start + part.stop - length) // 2
    start = min(max(start, whole.start), whole.stop - length)
    return slice(start, start + length)


def grey_levels(anatomy: NDArray[Any]) -> NDArray[np.float32]:
    """Scale a background image to 0..1 over most of the values that belong to the body.

    Air, whose values are the lowest, would waste the dark half of the range, and the extremes of
    the body (bone in CT, vessels in MRI) its bright half.
    """
    values = np.asarray(anatomy, dtype=np.float32)
    finite = np.isfinite(values)
    seen = values[finite]
    if seen.size == 0:
        return np.zeros(values.shape, dtype=np.float32)
    low, high = np.percentile(seen, [0.5, 99.5])
    body = seen[seen > low + 0.05 * (high - low)]
    if body.size:
        low, middle, top = np.percentile(body, [2.0, 50.0, 95.0])
        high = top + 0.25 * (top - middle)
    scaled = (values - low) / max(float(high - low), np.finfo(np.float32).tiny)
    return np.clip(np.where(finite, scaled, 0.0), 0.0, 1.0).astype(np.float32)


def map_image(
    values: NDArray[Any], window: Window, colours: Colours, grey: NDArray[np.float32] | None
) -> str:
    """Return a data URI of a slice (rows, columns) over the anatomy; NaN shows the anatomy."""
    levels = np.full(values.shape, 0.1, dtype=np.float32) if grey is None else 0.75 * grey
    index = _FIRST_GREY + (levels * (_GREYS - 1)).astype(np.int64)
    finite = np.isfinite(values)
    inside = values[finite].astype(np.float64)
    level = np.minimum((inside - window.lower) / window.span * _LEVELS, _LEVELS - 1)
    level = np.where(inside < window.lower, _BELOW, level)
    index[finite] = np.where(inside > window.upper, _ABOVE, level).astype(np.int64)
    name, below, above = _SCALES[colours]
    palette = np.vstack(
        [
            _colour_map(name, _LEVELS),
            _rgb(below),
            _rgb(above),
            np.repeat(np.linspace(0, 255, _GREYS)[:, np.newaxis], 3, axis=1),
        ]
    )
    return _png(index, palette)


def status_image(status: NDArray[np.uint8], grey: NDArray[np.float32] | None) -> str:
    """Return a data URI of the status of a slice in its categorical colours."""
    return category_image(status, [STATUS_COLOURS[s] for s in Status], grey)


def category_image(
    values: NDArray[np.uint8], colours: Sequence[str], grey: NDArray[np.float32] | None
) -> str:
    """Return a data URI of the categories of a slice, 0 (outside) showing the anatomy.

    ``colours`` are those of the categories, from 0 on; at most as many as leave room for greys.
    """
    levels = np.full(values.shape, 0.1, dtype=np.float32) if grey is None else 0.75 * grey
    first = len(colours)
    index = first + (levels * (_GREYS - 1)).astype(np.int64)
    index = np.where(values == 0, index, values)
    palette = np.vstack(
        [
            *(_rgb(colour) for colour in colours),
            np.repeat(np.linspace(0, 255, _GREYS)[:, np.newaxis], 3, axis=1),
        ]
    )
    return _png(index, palette)


def outline_image(grey: NDArray[np.float32], region: NDArray[np.bool_], view: View, z: int) -> str:
    """Return a data URI of the shown part of slice ``z`` with the outline of a region."""
    region, plane = view.cut(region, z), view.cut(grey, z)
    padded = np.pad(region, 1)
    core = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    index = np.where(region & ~core, _GREYS, (plane * (_GREYS - 1)).astype(np.int64))
    palette = np.vstack(
        [np.repeat(np.linspace(0, 255, _GREYS)[:, np.newaxis], 3, axis=1), _rgb(OUTLINE_COLOUR)]
    )
    return _png(index, palette)


def gradient(colours: Colours) -> str:
    """Return the colour scale as CSS gradient stops, lower end first."""
    steps = _colour_map(_SCALES[colours][0], 17)
    return ", ".join(f"rgb({r:.0f} {g:.0f} {b:.0f})" for r, g, b in steps)


def marks(colours: Colours) -> tuple[str, str]:
    """Return the colours that mark values below and above the window."""
    return _SCALES[colours][1], _SCALES[colours][2]


def _colour_map(name: str, steps: int) -> NDArray[np.float64]:
    table = matplotlib.colormaps[name](np.linspace(0.0, 1.0, steps))
    return np.asarray(table, dtype=np.float64)[:, :3] * 255.0


def _rgb(colour: str) -> NDArray[np.float64]:
    return np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)]], dtype=np.float64)


def _png(index: NDArray[Any], palette: NDArray[np.float64]) -> str:
    image = Image.fromarray(np.ascontiguousarray(index, dtype=np.uint8))
    image.putpalette(np.rint(palette).astype(np.uint8).tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=6)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
