"""Where the lesion phantom's tissues and lesions lie: labels, borders and nothing of parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

TISSUE_NAMES: Final = ("liver", "spleen", "muscle", "gradient")
KIND_NAMES: Final = ("hyper", "hypo")
LABEL_NAMES: Final[Mapping[int, str]] = MappingProxyType(
    dict(enumerate((*TISSUE_NAMES, *(f"{kind} lesion" for kind in KIND_NAMES))))
)
LABELS: Final[Mapping[str, int]] = MappingProxyType({n: key for key, n in LABEL_NAMES.items()})
SIZES: Final = (1, 2, 4)
SHAPES: Final[Mapping[int, tuple[tuple[int, int], ...]]] = MappingProxyType(
    {1: ((1, 1),), 2: ((2, 1), (1, 2)), 4: ((2, 2),)}
)
"""Number of voxels to the extents along x and y that lesions of it take in turn."""
GAP: Final = 5
"""Voxels between lesions: the one in the middle is more than 2 from both."""
MARGIN: Final = 4
"""Voxels around a lesion that belong to one tissue."""
EDGE: Final = 2
"""Voxels between a lesion and the edge of the image."""
REACH: Final = 6
"""Voxels on each side of the straight border that are free of lesions."""
CLEAR: Final = 2
"""Voxels between these and the next lesion, so that a blurred one does not reach them."""
BETWEEN: Final = 4
"""Every how many slices there are lesions."""
SMALLEST: Final = 48
"""Voxels along x and y below which the tissues leave no room."""


@dataclass(frozen=True)
class Lesion:
    """One lesion: its size in voxels, its kind, its voxels (x, y, z) and the tissue around it."""

    size: int
    kind: str
    voxels: tuple[tuple[int, int, int], ...]
    surround: str


@dataclass(frozen=True)
class Border:
    """The straight border: between x = ``position`` - 1 and ``position`` for y in ``rows``.

    ``reach`` voxels on each side of it hold no lesion and no other tissue.
    """

    position: int
    rows: tuple[int, int]
    reach: int


def paint_plane(across: int, along: int) -> tuple[NDArray[np.uint8], Border]:
    """Labels (X, Y) of the tissues without lesions, and the straight border among them."""
    x, y = np.arange(across)[:, None], np.arange(along)[None, :]
    plane = np.full((across, along), LABELS["liver"], dtype=np.uint8)
    position = round(0.32 * across)
    plane[:position] = LABELS["spleen"]
    radius = 0.2 * min(across, along)
    disc = (x - 0.7 * across) ** 2 + (y - 0.68 * along) ** 2 < radius**2
    plane[disc] = LABELS["muscle"]
    plane[round(0.62 * across) :, : round(0.3 * along)] = LABELS["gradient"]
    return plane, Border(position, (4, 4 + max(24, round(0.45 * along))), REACH)


def place_lesions(plane: NDArray[np.uint8], border: Border, z: int) -> list[Lesion]:
    """Lesions of slice ``z``, as many as fit, the sizes and kinds in equal numbers about."""
    from scipy.ndimage import maximum_filter, minimum_filter

    window = 2 * MARGIN + 1
    free = maximum_filter(plane, window) == minimum_filter(plane, window)
    free &= plane != LABELS["gradient"]
    free[:EDGE] = free[-EDGE:] = False
    free[:, :EDGE] = free[:, -EDGE:] = False
    first, last = border.rows
    away = border.reach + CLEAR
    near = slice(max(border.position - away, 0), border.position + away)
    free[near, max(first - CLEAR, 0) : last + CLEAR] = False

    lesions: list[Lesion] = []
    counts = {(size, kind): 0 for size in SIZES for kind in KIND_NAMES}
    for x, y in np.argwhere(free):
        if not free[x, y]:
            continue
        # Whatever there is least of comes first; what does not fit makes room for what does.
        for size, kind in sorted(counts, key=lambda pair: counts[pair]):
            extents = SHAPES[size]
            wide, high = extents[counts[size, kind] % len(extents)]
            if free[x : x + wide, y : y + high].sum() < size:
                continue
            voxels = tuple((int(x) + i, int(y) + j, z) for i in range(wide) for j in range(high))
            lesions.append(Lesion(size, kind, voxels, LABEL_NAMES[int(plane[x, y])]))
            counts[size, kind] += 1
            free[max(x - GAP, 0) : x + wide + GAP, max(y - GAP, 0) : y + high + GAP] = False
            break
    return lesions
