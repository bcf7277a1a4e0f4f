"""Shapes and tissues of the brain phantom: where each tissue lies and what it does.

Coordinates are RAS+: x to the patient's right, y to the front, z to the head, in the frame of the
common brain templates (the anterior commissure at the origin, the convexity at z = 80), whose
millimetres are ``SCALE`` mm of an average head. Shapes are functions of points given as three
arrays (n,), about the distance to their border, negative inside; they do not depend on the grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kety.simulate.anatomy import Tissue, intersection, union

Field = NDArray[np.float64]
Points = tuple[Field, Field, Field]
Triple = tuple[float, float, float]

# Blood volumes and the ratio of grey to white are those of CT perfusion; an intact blood-brain
# barrier passes next to nothing. `delay` is what a tissue adds to the arrival at its place.
BRAIN_TISSUES: Final[tuple[Tissue, ...]] = (
    Tissue("air", -1000.0),
    Tissue("scalp", 25.0, ktrans=0.03, kep=0.3, vb=0.012, delay=4.0),
    Tissue("skull", 900.0),
    Tissue("csf", 8.0),
    Tissue("cortex", 38.0, ktrans=0.0025, kep=0.06, vb=0.048),
    Tissue("white matter", 30.0, ktrans=0.001, kep=0.05, vb=0.022, delay=0.8),
    Tissue("deep grey matter", 37.0, ktrans=0.002, kep=0.06, vb=0.042),
    Tissue("brainstem", 33.0, ktrans=0.0015, kep=0.06, vb=0.030, delay=0.4),
    Tissue("oedema", 22.0, ktrans=0.003, kep=0.07, vb=0.014, delay=1.2),
    Tissue("tumour rim", 40.0, ktrans=0.16, kep=0.6, vb=0.095, delay=0.2),
    Tissue("necrotic core", 20.0, ktrans=0.012, kep=0.12, vb=0.006, delay=1.6),
    Tissue("artery", 42.0, vb=0.95, texture=0.0),
    Tissue("vein", 48.0, vb=0.85, texture=0.0),
    Tissue("venous sinus", 52.0, vb=0.9, texture=0.0),
)
BRAIN_LABELS: Final[dict[str, int]] = {t.name: label for label, t in enumerate(BRAIN_TISSUES)}
TUMOUR_TISSUES: Final[tuple[str, ...]] = ("tumour rim", "necrotic core")
WHITE_DELAY_DEPTH: Final[tuple[float, float]] = (1.5, 11.0)
"""Depths [mm] below the pia between which the delay changes from that of grey to white matter."""

SCALE: Final = 0.92
"""mm for a millimetre of the template: the inside of the skull holds 1.6 L."""
CORTEX: Final = 2.9
"""Thickness of the cortex, mm."""
GYRUS: Final[tuple[float, float]] = (18.0, 31.0)
"""Wavelengths [mm] of the field on the surface whose zeros are the sulci."""
SULCI_REACH: Final = 32.0
"""Depth [mm] below which no sulcus is near."""
TUMOUR: Final[Triple] = (-36.0, -30.0, 38.0)

VENTRICLE: Final[tuple[tuple[float, ...], ...]] = (
    (9, 33, 3, 3.5),
    (9, 22, 11, 5.0),
    (9, 2, 20, 4.6),
    (12, -22, 21, 4.8),
    (22, -40, 13, 6.5),
    (32, -32, -4, 3.2),
    (33, -14, -17, 2.0),
)
"""Course (x, y, z) and radius of the right lateral ventricle, mm."""
OCCIPITAL_HORN: Final[tuple[tuple[float, ...], ...]] = ((22, -40, 13, 5.5), (19, -70, 8, 1.8))
CAUDATE: Final[tuple[tuple[float, ...], ...]] = (
    (13, 17, 3, 5.5),
    (14, 8, 12, 4.5),
    (16, -8, 21, 3.2),
    (19, -26, 20, 2.2),
)
CALLOSUM: Final[tuple[tuple[float, ...], ...]] = (
    (0, 24, -2, 3.0),
    (0, 31, 6, 5.5),
    (0, 24, 18, 4.0),
    (0, 4, 27, 3.8),
    (0, -20, 27, 4.0),
    (0, -38, 16, 5.5),
)


LARGEST: Final = 200.0
"""Half axis [mm] that no shape exceeds: it bounds the distance far inside."""


def solid(
    points: Points, centre: Triple, half: Sequence[float | Field], power: float = 2.0
) -> Field:
    """Superellipsoid with half axes ``half`` [mm]: signed distance, exact to first order."""
    ratio = [np.abs(p - c) / h for p, c, h in zip(points, centre, half, strict=True)]
    if power == 2.0:
        level = np.sqrt(sum(r * r for r in ratio))
        steep = [r / h for r, h in zip(ratio, half, strict=True)]
    else:
        inner = [r ** (power - 1.0) for r in ratio]
        level = np.asarray(sum(r * i for r, i in zip(ratio, inner, strict=True))) ** (1.0 / power)
        steep = [i / h for i, h in zip(inner, half, strict=True)]
    level = np.maximum(level, 1e-6)
    slope = level ** (1.0 - power) * np.sqrt(sum(s * s for s in steep))
    return np.asarray((level - 1.0) / np.maximum(slope, 1.0 / LARGEST))


def course(points: Points, knots: Sequence[Sequence[float]]) -> Field:
    """Tube along a polyline of knots (x, y, z, radius), its radius linear in between."""
    x, y, z = points
    gap = np.full(x.shape, np.inf)
    for start, end in pairwise(np.asarray(knots, dtype=np.float64)):
        along = end - start
        dx, dy, dz = x - start[0], y - start[1], z - start[2]
        share = (dx * along[0] + dy * along[1] + dz * along[2]) / (along[:3] @ along[:3])
        share = np.clip(share, 0.0, 1.0)
        squared = (dx - share * along[0]) ** 2 + (dy - share * along[1]) ** 2
        squared += (dz - share * along[2]) ** 2
        gap = np.minimum(gap, np.sqrt(squared) - (start[3] + share * along[3]))
    return gap


def mirrored(points: Points) -> Points:
    """The same points with both halves of the head on the right."""
    return np.abs(points[0]), points[1], points[2]


def cerebellum(points: Points) -> Field:
    """Both hemispheres of the cerebellum and the vermis between."""
    sides = solid(mirrored(points), (24, -65, -35), (27, 26, 21))
    return union(sides, solid(points, (0, -62, -34), (13, 21, 17)), 5.0)


def brainstem(points: Points) -> Field:
    """Midbrain, pons and medulla."""
    stem = course(points, ((0, -20, -4, 13), (0, -27, -20, 12), (0, -36, -52, 9), (0, -42, -80, 7)))
    return union(stem, solid(points, (0, -26, -32), (17, 13, 14)), 4.0)


def hull(points: Points) -> Field:
    """The cerebrum without its sulci, fissures and what is cut away at its base."""
    _, y, z = points
    forward = np.clip((y + 20.0) / 90.0, 0.0, 1.0)
    half = (68.0 - 9.0 * forward**2, 88.0, np.where(z > 12.0, 68.0 - 6.0 * forward, 38.0))
    dome = solid(points, (0, -16, 12), half, power=2.25)
    temporal = solid(mirrored(points), (44, -12, -22), (24, 48, 22))
    return union(dome, temporal, 9.0)


def cerebrum(points: Points) -> Field:
    """The cerebrum without its sulci, above the cerebellum and the cisterns of the base."""
    base = solid(points, (0, -6, -34), (16, 32, 21))
    shape = intersection(hull(points), -(cerebellum(points) - 2.5), 4.0)
    return intersection(shape, -base, 6.0)


def cavity(points: Points) -> Field:
    """The inside of the skull."""
    shape = union(hull(points), cerebellum(points) - 1.0, 12.0)
    return union(shape, brainstem(points) - 4.0, 8.0) - 3.2


def head(points: Points) -> Field:
    """Skin of the head, with the face and the neck as far as they are scanned."""
    skull = solid(points, (0, -14, 12), (79, 100, 82), power=2.15)
    face = solid(points, (0, 34, -62), (58, 58, 62), power=2.4)
    neck = solid(points, (0, -50, -80), (56, 58, 60))
    return union(union(skull, face, 14.0), neck, 14.0)


def warped(points: Points) -> Points:
    """The points moved by up to 2 mm, so that neither half nor any border is all too regular."""
    x, y, z = points
    return (
        x + 1.1 * np.sin(0.071 * y + 0.4) + 0.7 * np.sin(0.11 * z + 1.0),
        y + 1.2 * np.sin(0.083 * x + 2.0) + 0.7 * np.sin(0.13 * z),
        z + 1.1 * np.sin(0.076 * x + 1.3) + 0.8 * np.sin(0.097 * y),
    )


def core(points: Points) -> Field:
    """What joins the hemispheres: corpus callosum, thalami and the region around."""
    return union(course(points, CALLOSUM), solid(points, (0, -10, 3), (22, 26, 19)), 8.0)


def depth(points: Points) -> Field:
    """Distance below the surface of the hemispheres, the wall of the midline included."""
    medial = np.maximum(np.abs(points[0]) - 0.8, -core(points))
    return np.minimum(-cerebrum(points), medial)


def on_surface(points: Points, below: Field, step: float = 0.5) -> Points:
    """The nearest points on the surface, to which ``below`` is the depth."""
    slopes = []
    for axis in range(3):
        moved = [p + step if i == axis else p for i, p in enumerate(points)]
        slopes.append((depth((moved[0], moved[1], moved[2])) - below) / step)
    length = np.maximum(np.sqrt(sum(s * s for s in slopes)), 0.3)
    x, y, z = (p - below * s / length for p, s in zip(points, slopes, strict=True))
    return x, y, z


def waves(seed: int, count: int, lengths: tuple[float, float]) -> tuple[Field, Field]:
    """Wave vectors (count, 3) [1/mm] and phases of an isotropic random field, always the same."""
    rng = np.random.default_rng(seed)
    direction = rng.standard_normal((count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return direction * (2 * np.pi / rng.uniform(*lengths, (count, 1))), rng.uniform(0, 7, count)


def sulcus_distance(points: Points, below: Field) -> Field:
    """Distance to the nearest sulcus, an open sheet that falls in from the surface.

    The sheets are the zeros of a random field on the surface: they branch and end as sulci do, and
    stand at right angles to it wherever the shape bends.
    """
    surface = np.stack(on_surface(points, below), axis=1)
    vectors, phases = waves(11, 32, GYRUS)
    angle = surface @ vectors.T + phases
    value, sine = np.cos(angle).sum(axis=1), np.sin(angle)
    slope = np.sqrt(np.sum((sine @ vectors) ** 2, axis=1))
    # Where the field is flat it holds no sheet, though it may be near 0.
    away = np.abs(value) / np.maximum(slope, 0.4) * np.maximum(1.0 - below / 70.0, 0.5)
    slow, offsets = waves(12, 12, (40.0, 80.0))
    reach = 13.5 + 5.0 * np.cos(surface @ slow.T + offsets).sum(axis=1) / np.sqrt(6.0)
    beyond = np.maximum(below - np.clip(reach, 3.0, 21.0), 0.0)
    width = 0.35 + 0.8 * np.exp(-below / 4.0)
    return np.asarray(np.hypot(np.maximum(away - width, 0.0), beyond))


def sylvian_distance(points: Points) -> Field:
    """Distance to the lateral fissure and to the cistern over the insula at its bottom."""
    x, y, z = mirrored(points)
    floor = z - (-11.0 + 0.40 * (22.0 - y) + 0.12 * (x - 45.0) + 2.5 * np.sin(0.13 * y + 0.05 * x))
    along = np.maximum(np.maximum(y - 24.0, -46.0 - y), 0.0)
    open_to_side = np.maximum(38.0 - x, 0.0)
    width = 0.5 + 0.9 * np.exp(-np.maximum(64.0 - x, 0.0) / 6.0)
    slit = np.sqrt(np.maximum(0.92 * np.abs(floor) - width, 0.0) ** 2 + along**2 + open_to_side**2)
    bulge = x - 40.0 + 0.008 * (y - 2.0) ** 2 + 0.012 * floor**2 - 0.8 * np.sin(0.7 * y + 0.3 * z)
    edge = np.hypot(np.maximum(np.abs(floor) - 13.0, 0.0), np.maximum(np.abs(y - 2.0) - 20.0, 0.0))
    return np.asarray(np.minimum(slit, np.hypot(np.maximum(np.abs(bulge) - 0.7, 0.0), edge)))


def cortical_depth(points: Points) -> Field:
    """Distance below the pia of the folded cortex, 0 in a sulcus; negative outside."""
    below = depth(points)
    result = np.minimum(below, sylvian_distance(points))
    shallow = np.flatnonzero((below > 0.0) & (below < SULCI_REACH) & (core(points) > 1.0))
    near = (points[0][shallow], points[1][shallow], points[2][shallow])
    result[shallow] = np.minimum(result[shallow], sulcus_distance(near, below[shallow]))
    return result


def folium_depth(points: Points) -> Field:
    """Distance below the surface of the cerebellum, folded into thin leaves."""
    x, y, z = points
    below = -cerebellum(points)
    around = np.arctan2(z + 30.0, -(y + 44.0))
    radius = np.hypot(z + 30.0, y + 44.0)
    leaf = np.abs(np.sin(13.0 * around + 0.9 * np.sin(0.12 * x))) / 13.0 * radius
    return np.minimum(below, np.hypot(np.maximum(leaf - 0.3, 0.0), np.maximum(below - 11.0, 0.0)))


def tumour(points: Points) -> tuple[Field, Field]:
    """The tumour, lobed, and the thickness of its rim."""
    x, y, z = (p - c for p, c in zip(points, TUMOUR, strict=True))
    turn, lift = np.arctan2(y, x), np.arctan2(z, np.hypot(x, y))
    shape = solid(points, TUMOUR, (17.0, 20.0, 17.0))
    shape = shape + 1.4 * np.sin(3.0 * turn + 0.4) * np.cos(lift) + 1.0 * np.cos(5.0 * lift + turn)
    rim = (
        5.2 + 1.3 * np.sin(2.0 * turn + 1.0) * np.cos(lift) + 0.8 * np.sin(6.0 * turn + 2.0 * lift)
    )
    return shape, rim


Paint = Callable[[str, NDArray[np.bool_]], None]


def paint_tissue(points: Points) -> tuple[NDArray[np.uint8], Field]:
    """Labels of points and their depth below the pia [mm], vessels apart.

    Parameters
    ----------
    points
        Three arrays (n,) of coordinates in mm.

    Returns
    -------
    labels
        uint8 (n,), indices into ``BRAIN_TISSUES``; what is painted later lies over what came
        before.
    pial
        (n,), the depth in mm; 0 outside cerebrum and cerebellum.
    """
    labels = np.zeros(points[0].shape, dtype=np.uint8)
    pial = np.zeros(points[0].shape)
    skin, inner = head(points), cavity(points)
    labels[skin < 0.0] = BRAIN_LABELS["scalp"]
    labels[(inner < 6.5) & (skin < -3.0)] = BRAIN_LABELS["skull"]
    labels[inner < 0.0] = BRAIN_LABELS["csf"]
    inside = np.flatnonzero(inner < 0.0)
    if inside.size == 0:
        return labels, pial
    within = (points[0][inside], points[1][inside], points[2][inside])
    part, deep = paint_brain(within)
    labels[inside], pial[inside] = part, deep
    return labels, pial


def paint_brain(points: Points) -> tuple[NDArray[np.uint8], Field]:
    """Labels and pial depth of points inside the skull."""
    labels = np.full(points[0].shape, BRAIN_LABELS["csf"], dtype=np.uint8)

    def paint(name: str, inside: NDArray[np.bool_]) -> None:
        labels[inside] = BRAIN_LABELS[name]

    there = points
    points = warped(points)
    cortex, folia = cortical_depth(points), folium_depth(points)
    paint("brainstem", brainstem(points) < 0.0)
    paint("cortex", folia > 0.0)
    paint("white matter", folia > 1.9)
    paint("cortex", cortex > 0.0)
    paint("white matter", cortex > CORTEX)
    right = mirrored(points)
    for shape in (
        solid(right, (11, -18, 7), (9, 15, 9)),
        solid(right, (26, 2, 1), (6.5, 17, 11)),
        solid(right, (19, -4, 0), (4.5, 10, 7)),
        course(right, CAUDATE),
    ):
        paint("deep grey matter", (shape < 0.0) & (cortex > 0.0))
    fluid = np.minimum(course(right, VENTRICLE), course(right, OCCIPITAL_HORN))
    third = solid(points, (0, -10, 0), (2.2, 14, 11))
    fourth = solid(points, (0, -45, -33), (6, 5, 11))
    paint("csf", np.minimum(np.minimum(fluid, third), fourth) < 0.0)

    lesion, rim = tumour(there)
    brain = cortex > 0.0
    paint("oedema", (lesion < 13.0) & (cortex > CORTEX) & brain)
    paint("tumour rim", (lesion < 0.0) & (depth(points) > 0.0))
    paint("necrotic core", lesion < -rim)
    return labels, np.maximum(np.maximum(cortex, folia), 0.0)
