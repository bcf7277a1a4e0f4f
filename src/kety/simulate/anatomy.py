"""Shapes and tissues of the abdomen phantom: where each tissue lies and what it does.

Coordinates are patient millimetres, RAS+: x to the patient's right, y to the front, z to the head,
the origin in the middle of the trunk. Each shape is a function whose value is, near its border,
about the distance to it in mm, negative inside; so a margin is an added constant and a smooth
union of organs a smooth minimum. Shapes do not depend on the voxel grid: every resolution shows
the same anatomy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float64]
Paint = Callable[[str, NDArray[np.bool_]], None]
Point = tuple[float, float, float]

ENDLESS = np.inf
"""Half axis of a shape that does not end within the scan."""


@dataclass(frozen=True)
class Tissue:
    """One tissue: its unenhanced CT number and its extended Tofts parameters.

    ``baseline`` in HU, ``ktrans`` and ``kep`` in 1/min, ``vb`` a fraction, ``delay`` in s.
    ``texture`` scales the smooth variation of the parameters inside the tissue.
    """

    name: str
    baseline: float
    ktrans: float = 0.0
    kep: float = 0.0
    vb: float = 0.0
    delay: float = 0.0
    texture: float = 1.0

    @property
    def enhances(self) -> bool:
        """Whether any contrast agent reaches the tissue."""
        return self.ktrans > 0.0 or self.vb > 0.0


# Values give enhancement curves of the size and timing of abdominal CT. The model has one input,
# so blood that arrives through the gut (liver) or leaves an organ (veins) appears as a longer
# delay and a dispersion. Veins hold nothing but blood, hence ktrans / kep = (1 - Hct) (1 - vb) at
# a hematocrit of 0.42: the late level is the artery's.
TISSUES: Final[tuple[Tissue, ...]] = (
    Tissue("air", -1000.0),
    Tissue("fat", -100.0, ktrans=0.012, kep=0.25, vb=0.006, delay=3.0),
    Tissue("muscle", 60.0, ktrans=0.06, kep=0.45, vb=0.02, delay=3.0),
    Tissue("cortical bone", 700.0),
    Tissue("bone marrow", 160.0, ktrans=0.04, kep=0.5, vb=0.035, delay=2.5),
    Tissue("aorta", 42.0, vb=1.0, texture=0.0),
    Tissue("vena cava", 40.0, ktrans=1.14, kep=2.3, vb=0.145, delay=4.5, texture=0.2),
    Tissue("portal vein", 40.0, ktrans=1.11, kep=2.0, vb=0.043, delay=7.0, texture=0.2),
    Tissue("liver", 55.0, ktrans=0.32, kep=0.8, vb=0.13, delay=6.0),
    Tissue("spleen", 48.0, ktrans=0.75, kep=2.2, vb=0.28, delay=1.5),
    Tissue("kidney cortex", 34.0, ktrans=1.0, kep=2.4, vb=0.34, delay=0.8),
    Tissue("kidney medulla", 30.0, ktrans=0.42, kep=0.75, vb=0.10, delay=3.5),
    Tissue("pancreas", 40.0, ktrans=0.5, kep=1.7, vb=0.18, delay=1.2),
    Tissue("bowel wall", 38.0, ktrans=0.22, kep=0.9, vb=0.08, delay=2.2),
    Tissue("fluid", 12.0),
    Tissue("gas", -850.0),
    Tissue("tumour rim", 42.0, ktrans=0.72, kep=1.5, vb=0.15, delay=1.0),
    Tissue("necrotic core", 24.0, ktrans=0.012, kep=0.12, vb=0.006, delay=4.0),
    Tissue("satellite lesion", 44.0, ktrans=0.55, kep=1.2, vb=0.11, delay=1.3),
)
LABELS: Final[dict[str, int]] = {tissue.name: label for label, tissue in enumerate(TISSUES)}
LESIONS: Final[tuple[str, ...]] = ("tumour rim", "necrotic core", "satellite lesion")

RIBS: Final[tuple[float, ...]] = (22.0, -8.0, -32.0, -57.0)
"""Directions [degrees above the horizontal] in which the ribs cross the middle slice."""
KIDNEYS: Final[tuple[tuple[Point, float], ...]] = (((66, -44, -8), -28.0), ((-66, -41, 2), 28.0))
"""Centre [mm] and turn [degrees] of the right and the left kidney."""
LOOPS: Final[tuple[tuple[Point, Point, str], ...]] = (
    ((-116, 40, -25), (17, 18, 60), "gas"),
    ((42, -4, -14), (12, 15, 30), "fluid"),
    ((-96, 8, -30), (14, 12, 26), "fluid"),
    ((-70, 4, -34), (13, 14, 24), "fluid"),
    ((-40, 24, -40), (16, 13, 26), "fluid"),
)
"""Centre [mm], half axes [mm] and filling of colon, duodenum and loops of small bowel."""
LIVER_VESSELS: Final[tuple[tuple[str, tuple[Point, ...], float], ...]] = (
    ("portal vein", ((46, 16, 22), (74, 4, 20), (98, -18, 14), (116, -30, 6)), 4.0),
    ("portal vein", ((46, 16, 22), (30, 34, 26), (10, 46, 24), (-18, 52, 22)), 3.6),
    ("portal vein", ((74, 4, 20), (88, -6, 6), (100, -22, -16)), 3.0),
    ("vena cava", ((34, 0, 58), (56, 22, 24), (68, 48, 4), (84, 66, -16)), 3.2),
    ("vena cava", ((40, -10, 58), (84, -12, 30), (118, 0, 8), (126, 8, -20)), 3.2),
)
"""Branches inside the liver: tissue, course [mm] and radius [mm]."""
TUMOUR: Final[Point] = (92, 32, 0)
SATELLITES: Final[tuple[tuple[Point, float], ...]] = (
    ((106, -22, 4), 9.0),
    ((54, 22, -4), 7.5),
    ((118, 62, 6), 6.5),
    ((4, 56, 6), 8.0),
)
"""Centre [mm] and radius [mm] of the lesions around the tumour."""


def ellipsoid(
    x: Field,
    y: Field,
    z: float,
    centre: Point,
    half: Point,
    *,
    angle: float = 0.0,
    power: float = 2.0,
) -> Field:
    """Superellipsoid with half axes ``half`` [mm], turned by ``angle`` [degrees] about z."""
    turn = np.deg2rad(angle)
    u = (x - centre[0]) * np.cos(turn) + (y - centre[1]) * np.sin(turn)
    v = (y - centre[1]) * np.cos(turn) - (x - centre[0]) * np.sin(turn)
    radius = (
        np.abs(u / half[0]) ** power
        + np.abs(v / half[1]) ** power
        + abs((z - centre[2]) / half[2]) ** power
    ) ** (1.0 / power)
    return np.asarray((radius - 1.0) * min(half[0], half[1]))


def tube(x: Field, y: Field, z: float, points: Sequence[Point], radius: float) -> Field:
    """Round tube of ``radius`` [mm] along the polyline ``points`` [mm]."""
    nearest = np.full(np.broadcast_shapes(x.shape, y.shape), np.inf)
    for start, end in pairwise(points):
        along = np.subtract(end, start)
        dx, dy, dz = x - start[0], y - start[1], z - start[2]
        share = np.clip((dx * along[0] + dy * along[1] + dz * along[2]) / (along @ along), 0.0, 1.0)
        squared = (dx - share * along[0]) ** 2 + (dy - share * along[1]) ** 2
        nearest = np.minimum(nearest, squared + (dz - share * along[2]) ** 2)
    return np.asarray(np.sqrt(nearest) - radius)


def union(first: Field, second: Field, blend: float) -> Field:
    """Smooth minimum: the union of two shapes with a fillet of about ``blend`` mm."""
    weight = np.clip(0.5 + 0.5 * (second - first) / blend, 0.0, 1.0)
    return second + (first - second) * weight - blend * weight * (1.0 - weight)


def intersection(first: Field, second: Field, blend: float) -> Field:
    """Smooth maximum: what two shapes share, its edges rounded by about ``blend`` mm."""
    return -union(-first, -second, blend)


def paint_slice(x: Field, y: Field, z: float) -> NDArray[np.uint8]:
    """Labels of one axial slice.

    Parameters
    ----------
    x, y
        Voxel centres in mm, shapes (X, 1) and (1, Y).
    z
        Height of the slice in mm.

    Returns
    -------
    ndarray of uint8, shape (X, Y)
        Index into ``TISSUES``; what is painted later lies over what came before.
    """
    labels = np.zeros((x.size, y.size), dtype=np.uint8)

    def paint(name: str, inside: NDArray[np.bool_]) -> None:
        labels[inside] = LABELS[name]

    cavity = paint_trunk(x, y, z, paint)
    paint_gut(x, y, z, cavity, paint)
    paint_spleen_and_kidneys(x, y, z, cavity, paint)
    paint_liver(x, y, z, cavity, paint)
    paint_great_vessels(x, y, z, paint)
    return labels


def paint_trunk(x: Field, y: Field, z: float, paint: Paint) -> Field:
    """Paint fat, muscular wall, ribs and spine; return the shape of the cavity inside."""
    body = ellipsoid(x, y, z, (0, 0, 0), (168, 116, ENDLESS), power=2.3)
    body = body + 8.0 * np.exp(-((x / 22.0) ** 2)) * (y < 0.0)
    paint("fat", body < 0.0)

    # The wall is thick at the flanks and back and carries the two straight muscles in front.
    cavity = ellipsoid(x, y, z, (0, 2, 0), (138, 85, ENDLESS), power=2.35)
    wall = ellipsoid(x, y, z, (0, -1, 0), (152, 96, ENDLESS), power=2.25)
    midline = (np.abs(x) > 4.0) | (y < 0.0)
    paint("muscle", (wall < 0.0) & (cavity > 0.0) & midline)
    for side in (-1.0, 1.0):
        straps = ellipsoid(x, y, z, (side * 34, 90, 0), (30, 7, ENDLESS), power=2.6)
        back = ellipsoid(x, y, z, (side * 33, -84, 0), (31, 19, ENDLESS), power=2.4)
        flank = ellipsoid(x, y, z, (side * 72, -84, 0), (30, 11, ENDLESS), angle=side * 20)
        psoas = ellipsoid(x, y, z, (side * 30, -49, -70), (13, 17, 85), angle=side * -20)
        crus = ellipsoid(x, y, z, (side * 14 - 8, -22, 45), (5, 15, 75), angle=side * 8)
        for shape in (straps, back, flank, psoas, crus):
            paint("muscle", (shape < 0.0) & (body < -6.0))
    paint_bone(x, y, z, paint)
    return cavity


def paint_bone(x: Field, y: Field, z: float, paint: Paint) -> None:
    """Paint ribs and a vertebra with its arch: marrow in a shell of cortical bone."""
    ribs = np.full((x.size, y.size), np.inf)
    for degrees in RIBS:
        # A rib descends to the front: in a higher slice its section lies further forward.
        turn = np.deg2rad(degrees + 0.28 * z)
        for side in (-1.0, 1.0):
            centre = (side * 145.0 * np.cos(turn), -1.0 + 91.0 * np.sin(turn), 0.0)
            tangent = np.rad2deg(np.arctan2(91.0 * np.cos(turn), -side * 145.0 * np.sin(turn)))
            rib = ellipsoid(x, y, 0.0, centre, (14, 4.6, ENDLESS), angle=float(tangent))
            ribs = np.minimum(ribs, rib)
    vertebra = ellipsoid(x, y, z, (0, -46, 0), (24, 17, ENDLESS), power=2.4)
    arch = tube(x, y, 0.0, ((0, -83, 0), (0, -101, 0)), 3.6)
    for side in (-1.0, 1.0):
        lamina = ((side * 17, -54, 0), (side * 15, -72, 0), (0, -85, 0))
        process = ((side * 15, -70, 0), (side * 42, -75, 0))
        arch = np.minimum(arch, tube(x, y, 0.0, lamina, 5.0))
        arch = np.minimum(arch, tube(x, y, 0.0, process, 3.8))
    bone = np.minimum(np.minimum(vertebra, arch), ribs)
    paint("cortical bone", bone < 0.0)
    paint("bone marrow", bone < -2.2)
    paint("fluid", ellipsoid(x, y, z, (0, -71, 0), (10, 8, ENDLESS)) < 0.0)


def paint_gut(x: Field, y: Field, z: float, cavity: Field, paint: Paint) -> None:
    """Paint stomach, duodenum, colon and small bowel, then the pancreas behind the stomach."""
    stomach = ellipsoid(x, y, z, (-66, 42, 25), (52, 29, 70), angle=-14, power=2.3)
    fold = 2.0 * np.sin(x / 5.0) * np.cos(y / 6.0)
    hollow(stomach, cavity, 4.5 + fold, paint, filling="fluid")
    # Lying on the back, the gas is in front with a level surface.
    paint("gas", (np.maximum(stomach, cavity + 3.0) < -6.0) & (y > 51.0))
    for centre, half, filling in LOOPS:
        hollow(ellipsoid(x, y, z, centre, half), cavity, 3.2, paint, filling=filling)
    course = ((34, 10, 0), (12, 20, 0), (-16, 15, 0), (-48, 3, 0), (-84, -10, 0))
    lobules = 1.0 * np.sin(x / 3.0) * np.sin(y / 3.0)
    paint("pancreas", tube(x, y, 0.45 * (z - 4.0), course, 9.5) + lobules < 0.0)


def hollow(
    shape: Field, cavity: Field, thickness: float | Field, paint: Paint, *, filling: str
) -> None:
    """Paint a hollow organ kept inside the cavity: its wall, and what fills it."""
    organ = np.maximum(shape, cavity + 3.0)
    paint("bowel wall", organ < 0.0)
    paint(filling, organ < -thickness)


def paint_spleen_and_kidneys(x: Field, y: Field, z: float, cavity: Field, paint: Paint) -> None:
    """Paint the spleen, then each kidney: cortex, pyramids of medulla and the fat of its sinus."""
    spleen = ellipsoid(x, y, z, (-110, -22, 22), (38, 56, 62), angle=12, power=2.2)
    hilum = ellipsoid(x, y, z, (-74, -16, 22), (33, 46, 70), angle=8)
    spleen = intersection(intersection(spleen, -hilum, 6.0), cavity + 4.0, 6.0)
    paint("spleen", spleen < 0.0)
    for (cx, cy, cz), angle in KIDNEYS:
        kidney = ellipsoid(x, y, z, (cx, cy, cz), (25, 32, 58), angle=angle, power=2.15)
        medial = -np.sign(cx)
        gate = np.deg2rad(angle) + (np.pi if medial < 0 else 0.0)
        inward = (np.cos(gate), np.sin(gate))
        low = abs(z - cz) / 34.0
        sinus = ellipsoid(
            x, y, z, (cx + 17 * inward[0], cy + 17 * inward[1], cz), (21, 9, 34), angle=angle
        )
        bean = intersection(kidney, -sinus, 5.0)
        around = np.arctan2(y - cy, x - cx)
        columns = 5.0 * np.clip(np.cos(9.0 * around + 0.05 * z), 0.0, 1.0) ** 2
        paint("fat", (kidney < 4.5))
        paint("kidney cortex", bean < 0.0)
        paint("kidney medulla", (kidney < -6.5 - columns) & (sinus > 2.5))
        paint("fat", (kidney < 0.0) & (sinus < 0.0) & (low < 1.0))


def paint_liver(x: Field, y: Field, z: float, cavity: Field, paint: Paint) -> None:
    """Paint liver, gall bladder, the vessels inside the liver, and the lesions."""
    right = ellipsoid(x, y, z, (76, 12, 18), (66, 74, 100), power=2.3)
    left = ellipsoid(x, y, z, (6, 54, 34), (72, 23, 62), angle=-7, power=2.1)
    liver = union(right, left, 26.0)
    bed = ellipsoid(x, y, z, (50, -52, -10), (50, 41, 80), angle=12)
    porta = ellipsoid(x, y, z, (20, 4, 0), (24, 22, 60), angle=35)
    fissure = ellipsoid(x, y, z, (24, 60, 20), (3.0, 18, 40), angle=14)
    gall = ellipsoid(x, y, z, (49, 52, -14), (13, 21, 30), angle=-24)
    for notch, blend in ((bed, 12.0), (porta, 12.0), (gall, 2.0), (fissure, 3.0)):
        liver = intersection(liver, -notch, blend)
    liver = intersection(liver, cavity + 3.5, 8.0)
    paint("liver", liver < 0.0)
    paint("bowel wall", gall < 0.0)
    paint("fluid", gall < -2.0)

    inside = liver < -2.0
    for name, course, radius in LIVER_VESSELS:
        paint(name, (tube(x, y, z, course, radius) < 0.0) & inside)

    tumour = ellipsoid(x, y, z, TUMOUR, (28, 24, 25), angle=25)
    around = np.arctan2(y - TUMOUR[1], x - TUMOUR[0])
    tumour = tumour + 1.6 * np.sin(3.0 * around + 0.4) + 1.2 * np.cos(5.0 * around + 0.06 * z)
    rim = 7.5 + 2.0 * np.sin(2.0 * around + 1.0) + 1.2 * np.sin(7.0 * around)
    paint("tumour rim", (tumour < 0.0) & inside)
    paint("necrotic core", (tumour < -rim) & inside)
    for centre, radius in SATELLITES:
        lesion = ellipsoid(x, y, z, centre, (radius, 0.9 * radius, 1.1 * radius), angle=30)
        paint("satellite lesion", (lesion < 0.0) & inside)


def paint_great_vessels(x: Field, y: Field, z: float, paint: Paint) -> None:
    """Paint aorta, vena cava, the mesenteric artery and the veins of kidney and spleen."""
    splenic = ((26, 4, 2), (4, 9, 2), (-30, 2, 2), (-60, -8, 2), (-92, -22, 4))
    paint("portal vein", tube(x, y, 0.6 * z, splenic, 4.2) < 0.0)
    portal = ((22, 0, -60), (24, 3, -5), (33, 10, 12), (46, 16, 22))
    paint("portal vein", tube(x, y, z, portal, 7.0) < 0.0)
    left_renal = ((-42, -42, -8), (-24, -13, -8), (-7, -3, -8), (14, -14, -8))
    paint("vena cava", tube(x, y, 0.7 * z, left_renal, 3.8) < 0.0)
    right_renal = ((44, -46, -14), (20, -20, -12))
    paint("vena cava", tube(x, y, 0.7 * z, right_renal, 4.2) < 0.0)
    paint("vena cava", ellipsoid(x, y, z, (22, -18, 0), (13, 10, ENDLESS), angle=-15) < 0.0)
    paint("aorta", ellipsoid(x, y, z, (-9, -17, 0), (11, 11, ENDLESS)) < 0.0)
    paint("aorta", tube(x, y, z, ((-8, -8, 24), (-6, 3, 10), (-5, 6, -60)), 3.8) < 0.0)
