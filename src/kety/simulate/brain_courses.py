"""Courses of the arteries, veins and sinuses of the brain phantom.

A vessel is a polyline of knots (x, y, z, radius [mm], arrival [s]) in the coordinates of
``brain_anatomy``; only the right one of a pair is written down.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kety.simulate.brain_anatomy import Triple

Knot = tuple[float, float, float, float, float]


@dataclass(frozen=True)
class Vessel:
    """One vessel: its tissue, the territory of an artery (or ""), its knots and its side.

    The side is 1 on the right, -1 on the left and 0 in the middle.
    """

    tissue: str
    territory: str
    knots: tuple[Knot, ...]
    side: int = 1


LARGE: Final[tuple[Vessel, ...]] = (
    Vessel(
        "artery",
        "",
        (
            (22, -18, -62, 2.5, 0.0),
            (24, -4, -46, 2.5, 0.0),
            (13, 10, -32, 2.4, 0.05),
            (10, 4, -20, 2.2, 0.1),
        ),
    ),
    Vessel("artery", "anterior", ((10, 4, -20, 1.6, 0.1), (2, 15, -17, 1.5, 0.25))),
    Vessel("artery", "", ((3, 15, -17, 1.2, 0.25), (-3, 15, -17, 1.2, 0.25)), side=0),
    Vessel("artery", "", ((10, 4, -20, 1.2, 0.1), (9, -16, -17, 1.2, 0.25))),
    Vessel(
        "artery",
        "anterior",
        (
            (2, 15, -17, 1.5, 0.25),
            (1.6, 30, -10, 1.4, 0.4),
            (1.6, 39, 6, 1.3, 0.6),
            (1.6, 33, 23, 1.3, 0.8),
            (1.6, 14, 33, 1.2, 1.0),
            (1.6, -12, 35, 1.1, 1.3),
            (1.6, -38, 28, 1.0, 1.6),
        ),
    ),
    Vessel(
        "artery",
        "middle",
        (
            (10, 4, -20, 2.0, 0.1),
            (22, 6, -18, 1.9, 0.2),
            (36, 6, -13, 1.8, 0.35),
            (39, 4, -4, 1.6, 0.5),
        ),
    ),
    Vessel(
        "artery",
        "posterior",
        (
            (14, -42, -70, 1.7, 0.0),
            (9, -36, -58, 1.7, 0.05),
            (0, -34, -50, 2.0, 0.1),
            (0, -13, -36, 2.0, 0.2),
            (0, -14, -19, 1.9, 0.3),
        ),
    ),
    Vessel(
        "artery",
        "posterior",
        (
            (0, -14, -19, 1.6, 0.3),
            (10, -18, -17, 1.5, 0.45),
            (20, -30, -12, 1.4, 0.7),
            (21, -46, -5, 1.3, 1.0),
            (12, -64, 0, 1.1, 1.3),
            (7, -88, 4, 0.9, 1.7),
        ),
    ),
    Vessel("artery", "posterior", ((12, -64, 0, 1.0, 1.3), (3, -76, 16, 0.9, 1.7))),
    Vessel(
        "artery",
        "posterior",
        ((0, -15, -22, 1.1, 0.35), (14, -28, -19, 1.0, 0.6), (26, -56, -14, 0.9, 1.1)),
    ),
    Vessel(
        "artery",
        "posterior",
        ((2, -36, -56, 1.1, 0.15), (16, -50, -57, 1.0, 0.6), (30, -72, -54, 0.8, 1.1)),
    ),
)
VEINS: Final[tuple[Vessel, ...]] = (
    Vessel("vein", "", ((8, 14, 12, 0.9, 5.0), (3, -6, 15, 1.2, 5.4), (1, -38, 10, 1.5, 6.0))),
    Vessel(
        "venous sinus",
        "",
        ((0, -42, 8, 2.2, 6.0), (0, -72, 2, 2.3, 6.5), (0, -102, -7, 2.8, 7.0)),
        side=0,
    ),
    Vessel(
        "venous sinus",
        "",
        (
            (0, -104, -8, 3.8, 7.0),
            (28, -97, -15, 3.8, 7.2),
            (52, -76, -19, 3.8, 7.5),
            (59, -54, -24, 3.8, 7.7),
            (53, -40, -34, 3.8, 7.9),
            (44, -36, -50, 3.8, 8.2),
            (36, -30, -68, 3.8, 8.4),
        ),
    ),
)
SYLVIAN_EXITS: Final[tuple[tuple[Triple, tuple[Triple, ...]], ...]] = (
    ((41, 14, -3), ((54, 22, 2), (48, 44, 14), (36, 56, 30))),
    ((41, 8, 0), ((60, 10, 8), (54, 26, 34), (38, 34, 54))),
    ((41, 0, 4), ((64, -2, 10), (60, 2, 36), (42, 4, 64))),
    ((41, -8, 8), ((66, -16, 14), (62, -20, 42), (40, -24, 70))),
    ((41, -16, 9), ((66, -34, 16), (58, -50, 38), (36, -58, 58))),
    ((41, -18, 8), ((64, -42, 12), (56, -66, 18), (40, -84, 28))),
    ((41, -8, 3), ((66, -24, 6), (62, -50, -2), (48, -80, -2))),
    ((41, 4, -4), ((64, -4, -8), (64, -26, -16), (58, -48, -18))),
)
"""Where a branch of the middle cerebral artery leaves the insula, and its course on the surface."""
MEDIAL: Final[tuple[tuple[Knot, tuple[Triple, ...]], ...]] = (
    ((1.6, 39, 6, 1.0, 0.6), ((2, 58, 6), (3, 68, 14), (12, 66, 26))),
    ((1.6, 36, 18, 1.0, 0.75), ((2, 48, 32), (4, 52, 46), (14, 46, 54))),
    ((1.6, 14, 33, 1.0, 1.0), ((2, 14, 52), (4, 12, 72), (16, 10, 76))),
    ((1.6, -12, 35, 1.0, 1.3), ((2, -20, 54), (4, -28, 74), (16, -32, 76))),
    ((1.6, -38, 28, 0.9, 1.6), ((2, -50, 46), (4, -62, 64), (14, -66, 66))),
)
"""Knot at which a branch of the anterior cerebral artery begins, and its course."""
BRIDGES: Final[tuple[tuple[Triple, ...], ...]] = (
    ((44, 50, 26), (28, 56, 42), (2, 56, 50)),
    ((54, 24, 38), (34, 30, 60), (2, 34, 68)),
    ((60, -2, 40), (40, 0, 68), (2, 4, 79)),
    ((62, -30, 42), (42, -34, 66), (2, -30, 78)),
    ((56, -60, 36), (36, -66, 56), (2, -60, 67)),
    ((46, -80, 20), (28, -88, 36), (2, -86, 47)),
)
"""Veins on the surface on their way to the superior sagittal sinus."""
LABBE: Final[tuple[Triple, ...]] = ((66, -14, 4), (66, -36, -6), (60, -58, -18))
