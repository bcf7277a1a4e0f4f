"""Pictures of the brain: rendered volumes, one slice, errors by tissue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from kety.studies.figures import SPARE, Panel, Series, categories, draw, to_png
from kety.studies.optimization.brain_fits import Brain, Floats, Plan, TissueError
from kety.studies.optimization.rendering import Colours, Image, View, cast, means_of_cubes, seen
from kety.studies.records import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap

VIEWS: Final = {"from the right": -52.0, "from the left": 128.0}
"""Azimuths, degrees."""
ELEVATION: Final = 24.0
EXTENT: Final = 176.0  # mm
FIRST_VB, DENSITY = 0.014, 7.0
"""Vb from which a voxel absorbs, and absorption in 1/mm for each unit of Vb above."""
VB_STOPS: Final = (
    (0.0, "#6f6a66"),
    (0.06, "#a39b95"),
    (0.12, "#d9d0c8"),
    (0.20, "#dc9c82"),
    (0.30, "#d4543c"),
    (0.50, "#e2301e"),
    (1.0, "#ff5237"),
)
"""Colours of Vb as fractions of `VB_TOP`; warm grey in tissue, red where blood prevails."""
VB_TOP: Final = 0.4
DELAY_STOPS: Final = ("#a50f15", "#de2d26", "#fb8a5c", "#efe9e4", "#86b8dc", "#2171b5", "#08306b")
DELAY_RANGE: Final = (0.0, 8.5)  # s
SLICE: Final[dict[str, tuple[str, float, str]]] = {
    "vb": ("Vb", 0.12, "inferno"),
    "delay": ("delay, s", 8.0, "delay"),
    "ktrans": ("Ktrans, 1/min", 0.2, "viridis"),
}
"""Parameter to its label, upper end of its colours, and colours in a slice."""
BACK: Final = "#0b0d10"
SHORT: Final = {
    "white matter": "white\nmatter",
    "deep grey matter": "deep\ngrey",
    "brainstem": "stem",
    "tumour rim": "rim",
    "necrotic core": "core",
    "venous sinus": "sinus",
}
"""Tissues as ticks have them."""


def vb_colours() -> Colormap:
    """Colours of Vb from 0 to `VB_TOP`."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("vb", VB_STOPS, 1024)


def delay_colours() -> Colormap:
    """Red early, blue late."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("delay", DELAY_STOPS, 512)


def paint(vb: Floats, delay: Floats, brain: Brain, plan: Plan) -> list[Image]:
    """Renderings of volumes with NaN where nothing is: Vb and delay from each of `VIEWS`."""
    blood = np.nan_to_num(vb)
    delay, blood = means_of_cubes(np.nan_to_num(delay), blood, plan.cube)
    affine = brain.truth.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.full(3, 0.5 * (plan.cube - 1))
    affine[:3, :3] *= plan.cube
    centre = (affine @ np.append(0.5 * (np.array(blood.shape) - 1.0), 1.0))[:3]
    colours = [_rgb(vb_colours()), _rgb(delay_colours())]
    low, high = DELAY_RANGE
    images: list[list[Image]] = []
    for azimuth in VIEWS.values():
        view = View(azimuth, ELEVATION, plan.pixels, EXTENT)
        here = seen(blood, affine, view, centre)
        # Weighted by blood, so that the background does not mix in.
        arrival = seen(delay * blood, affine, view, centre) / np.maximum(here, 1e-6)
        absorbing = np.clip(here - np.float32(FIRST_VB), 0.0, None) * np.float32(DENSITY)
        shown = [here / np.float32(VB_TOP), (arrival - np.float32(low)) / np.float32(high - low)]
        layers = list(zip(shown, colours, strict=True))
        images.append(cast(absorbing, layers, view.extent / view.pixels))
    return [image for pair in zip(*images, strict=True) for image in pair]


def _rgb(colours: Colormap) -> Colours:
    """A palette without its transparency, as `cast` wants it."""
    table = np.asarray(colours(np.linspace(0.0, 1.0, 512))[:, :3], np.float32)
    return lambda v: table[np.clip(v * np.float32(511.0), 0.0, 511.0).astype(np.intp)]


def volume_picture(brain: Brain, plan: Plan) -> Picture:
    """Figure 5: Vb on the left, delay on the right; truth above, estimate below."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    rows = {
        "truth": (brain.truth.maps["vb"], brain.truth.maps["delay"]),
        "estimate": (brain.volume(brain.values["vb"]), brain.volume(brain.values["delay"])),
    }
    figure = Figure(figsize=(9.6, 5.3), facecolor=BACK)
    grid = figure.subplots(2, 4, squeeze=False)
    figure.subplots_adjust(left=0.035, right=0.998, bottom=0.12, top=0.945, wspace=0.0, hspace=0.0)
    for axes_row, (label, (vb, delay)) in zip(grid, rows.items(), strict=True):
        images = paint(np.where(brain.truth.mask, vb, np.nan), delay, brain, plan)
        for axes, image in zip(axes_row, images, strict=True):
            _bare(axes)
            axes.imshow(image, interpolation="bilinear")
        axes_row[0].set_ylabel(label, color="white", fontsize=10)
    titles = [f"{name} {side}" for name in ("Vb", "delay") for side in VIEWS]
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, color="white", fontsize=10)
    scales: tuple[tuple[float, Any, float, str], ...] = (
        (0.13, vb_colours(), VB_TOP, "Vb, mL/mL"),
        (0.63, delay_colours(), DELAY_RANGE[1], "delay, s: red early, blue late"),
    )
    for left, colours, top, label in scales:
        place = figure.add_axes((left, 0.075, 0.27, 0.022))
        bar = figure.colorbar(
            ScalarMappable(Normalize(0.0, top), colours), cax=place, orientation="horizontal"
        )
        bar.set_label(label, color="white", fontsize=8)
        bar.ax.tick_params(colors="white", labelsize=8)
    cubes = (
        f" from means of {plan.cube} × {plan.cube} × {plan.cube} voxels" if plan.cube > 1 else ""
    )
    return Picture(
        "brain-volume",
        f"Figure 5 on the simulated brain: volume rendering{cubes}, emission and absorption by "
        "Vb. Left Vb, right the delay, red early and blue late; above the truth, below the "
        "estimate.",
        to_png(figure),
        "A brain with its gyri, arteries and sinuses from the right and from the left. The "
        "territory of the right middle cerebral artery is blue, that is late; arteries are red, "
        "sinuses blue. The estimate shows the same with noise.",
    )


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_facecolor("black")
    for spine in axes.spines.values():
        spine.set_visible(False)


def slice_picture(brain: Brain) -> Picture:
    """An axial slice through the tumour: truth, both solvers, standard error."""
    from matplotlib.figure import Figure

    index, stride = brain.slice.index, brain.slice.stride
    ratio = float(brain.truth.affine[1, 1] / brain.truth.affine[0, 0])
    inside = brain.truth.mask[:, :, index]
    # Whole pixels of the coarser map, too.
    x, y = (slice(*_ends(np.asarray(inside.any(axis=axis)), stride)) for axis in (1, 0))
    figure = Figure(figsize=(9.6, 8.3), facecolor=BACK)
    grid = figure.subplots(len(SLICE), 4, squeeze=False)
    figure.subplots_adjust(left=0.03, right=0.86, bottom=0.01, top=0.96, wspace=0.02, hspace=0.03)
    for row, (name, (label, top, colours)) in zip(grid, SLICE.items(), strict=True):
        other = np.full(len(brain), np.nan, np.float32)
        other[brain.slice.voxels] = brain.slice.values[name]
        true = np.where(brain.truth.mask, brain.truth.maps[name], np.nan)[x, y, index]
        given = (
            true,
            brain.volume(brain.values[name])[x, y, index],
            brain.volume(other)[x, y, index][::stride, ::stride],
            brain.volume(brain.errors[name])[x, y, index],
        )
        palettes: list[Any] = [delay_colours() if name == "delay" else colours] * 3 + ["gray"]
        shown = []
        for axes, plane, palette in zip(row, given, palettes, strict=True):
            _bare(axes)
            # Radiological: the patient's right on the left, front up.
            shown.append(
                axes.imshow(
                    plane[::-1, ::-1].T,
                    cmap=palette,
                    vmin=0.0,
                    vmax=top,
                    interpolation="nearest",
                    aspect=ratio,
                )
            )
        row[0].set_ylabel(label, color="white", fontsize=10)
        box = row[-1].get_position()
        for left, image, what in ((0.87, shown[0], "value"), (0.937, shown[-1], "error")):
            place = figure.add_axes((left, box.y0 + 0.02, 0.011, box.height - 0.05))
            bar = figure.colorbar(image, cax=place, ticks=np.linspace(0.0, top, 5))
            bar.ax.tick_params(colors="white", labelsize=7)
            bar.ax.set_title(what, color="white", fontsize=7)
    titles = ("truth", "kety's own solver", "Nelder–Mead, IIR 1 Hz", "standard error")
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, color="white", fontsize=10)
    corner = grid[0][0].transAxes
    grid[0][0].text(0.03, 0.97, "R", transform=corner, color="white", fontsize=9, va="top")
    every = f"; Nelder–Mead on one of {stride * stride} voxels" if stride > 1 else ""
    return Picture(
        "brain-slice",
        f"Axial slice through the tumour, the patient's right on the left{every}. The standard "
        "error is the one that kety's own solver reports; black where it has none.",
        to_png(figure),
        "Maps of Vb, delay and Ktrans: truth, both estimates, and standard errors, "
        "which are small in vessels and in the rim of the tumour and large in white matter.",
    )


def _ends(used: NDArray[np.bool_], stride: int) -> tuple[int, int]:
    """First and behind the last index in use, the first a multiple of the stride."""
    where = np.flatnonzero(used)
    return int(where[0]) // stride * stride, int(where[-1]) + 1


def error_picture(errors: Sequence[TissueError]) -> Picture:
    """Errors by tissue beside the standard errors reported, and the paper's 10 %."""
    panels = []
    for name, label in (("vb", "Vb"), ("delay", "delay"), ("ktrans", "Ktrans")):
        ones = [e for e in errors if e.name == name]
        ticks = [(float(i), SHORT.get(e.tissue, e.tissue)) for i, e in enumerate(ones)]
        at = [categories(len(ones), 2, i, 0.3) for i in range(2)]
        reported: dict[str, Any] = {"colour": SPARE[1], "line": "", "mark": "s", "hollow": True}
        series = [
            Series("median error", at[0], [e.median for e in ones], colour=SPARE[0], line=""),
            Series("median standard error", at[1], [e.reported for e in ones], **reported),
            Series("paper: below 10 %", [-0.5, len(ones) - 0.5], [10.0] * 2, mark="", line=":"),
        ]
        panels.append(Panel(label, series, y_label="% of the truth", x_ticks=ticks))
    return Picture(
        "brain-errors",
        "Error of single voxels by tissue, beside the standard error that the fit reports, and "
        "the 10 % that the paper claims.",
        draw(panels, columns=1, height=2.1),
        "; ".join(f"{e.tissue} {e.name} {e.median:.0f} %" for e in errors) + ".",
    )
