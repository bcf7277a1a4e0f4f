"""The truth of the brain phantom: tissues and parameter maps on any voxel grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kety.errors import KetyError
from kety.simulate.brain_anatomy import (
    BRAIN_LABELS,
    BRAIN_TISSUES,
    SCALE,
    WHITE_DELAY_DEPTH,
    Field,
    Points,
    paint_tissue,
)
from kety.simulate.brain_vessels import paint_vessels, tissue_arrival
from kety.simulate.phantom import FREE, check_range, check_shape, smooth_fields

FIELD_OF_VIEW: Final[tuple[float, float, float]] = (160.0, 195.0, 151.0)
CENTRE: Final[tuple[float, float, float]] = (0.0, -14.0, 15.0)
"""Middle of the scan, mm."""
SLICE_THICKNESS: Final = 12.0
OUTSIDE: Final[tuple[str, ...]] = ("air", "scalp", "skull")


@dataclass(frozen=True)
class BrainTruth:
    """The anatomy and parameters of a brain on a voxel grid (X, Y, Z).

    Attributes
    ----------
    labels
        Tissue of every voxel, uint8: index into ``BRAIN_TISSUES``.
    maps
        float32 maps of ``ktrans`` and ``kep`` [1/min], ``ve``, ``vp``, ``vb`` and ``delay`` [s],
        NaN as in ``Phantom.truth``.
    mask
        Voxels inside the skull: the ones to fit.
    affine
        (4, 4), from voxel indices to mm.
    """

    labels: NDArray[np.uint8]
    maps: Mapping[str, NDArray[np.float32]]
    mask: NDArray[np.bool_]
    affine: NDArray[np.float64]


def brain_truth(
    shape: Sequence[int],
    seed: int = 0,
    *,
    voxel_size: Sequence[float] | None = None,
    hematocrit: float = 0.4,
    lag: float = 3.0,
    texture: float = 0.07,
) -> BrainTruth:
    """Make the labels and parameter maps of the brain, slice by slice.

    The head has skin, skull, cerebrospinal fluid, a folded cortex, white matter, deep nuclei,
    cerebellum and brainstem, the large arteries and veins, and in the left parietal lobe a tumour
    with a leaky rim, a necrotic core and oedema. Blood reaches tissue the later the farther it is
    from the large arteries, last the watersheds and white matter; the territory of the right
    middle cerebral artery is late by ``lag`` s more. The anatomy is the same for every seed and,
    but that no vessel is thinner than about a voxel, on every grid.

    Parameters
    ----------
    shape
        Voxels (X, Y, Z) along right, front and head (RAS+).
    seed
        Integer of 0 or more for the texture of the parameters.
    voxel_size
        Spacing (X, Y, Z) in mm. By default square pixels and slices that show the whole brain
        (a field of 160 x 195 x 151 mm), of which the inside of the skull fills a third.
    hematocrit
        Volume fraction of red cells, for ``vp``.
    lag
        Further delay of the right middle cerebral territory in s, 0 to 4.
    texture
        Relative standard deviation, about, of the smooth variation inside a tissue, 0 to 0.2.

    Returns
    -------
    BrainTruth

    Raises
    ------
    KetyError
        Where an argument is out of its range or no voxel lies inside the skull.
    """
    size = check_shape(shape)
    spacing = brain_spacing(size, voxel_size)
    check_range("seed", seed, 0, np.inf)
    check_range("hematocrit", hematocrit, 0.0, 0.99)
    check_range("lag", lag, 0.0, 4.0)
    check_range("texture", texture, 0.0, 0.2)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = [
        c - 0.5 * (n - 1) * step for c, n, step in zip(CENTRE, size, spacing, strict=True)
    ]
    axes = [affine[i, 3] + spacing[i] * np.arange(n, dtype=np.float64) for i, n in enumerate(size)]
    least = max(0.5 * spacing[0], 0.5 * spacing[1], 0.35 * spacing[2]) / SCALE

    labels = np.empty(size, dtype=np.uint8)
    maps = {name: np.empty(size, dtype=np.float32) for name in (*FREE, "ve", "vp")}
    streams = np.random.SeedSequence(seed, spawn_key=(0,)).spawn(len(FREE))
    x, y = axes[0][:, None], axes[1][None, :]
    for k, height in enumerate(axes[2]):
        points = tuple(np.broadcast_to(a / SCALE, size[:2]).ravel() for a in (x, y, height))
        here, delay = paint_slice((points[0], points[1], points[2]), least, lag)
        labels[:, :, k] = here.reshape(size[:2])
        varied = [
            smooth_fields(x, y, np.array([height]), stream)[0].ravel() * texture
            for stream in streams
        ]
        for name, values in slice_maps(here, delay, varied, hematocrit).items():
            maps[name][:, :, k] = values.reshape(size[:2])
    mask = ~tissue_voxels(labels, OUTSIDE)
    if not mask.any():
        raise KetyError(
            f"no voxel of a grid of {' x '.join(map(str, size))} lies inside the skull; use a "
            "grid or voxels that cover the head"
        )
    return BrainTruth(labels, maps, mask, affine)


def paint_slice(points: Points, least: float, lag: float) -> tuple[NDArray[np.uint8], Field]:
    """Labels (n,) of the points of a slice, and the delay in s of blood on the way to each."""
    labels, pial = paint_tissue(points)
    delay = np.zeros(labels.shape)
    # Sinuses lie in the dura and may dent the skull; other vessels stay inside.
    solid = np.isin(labels, [BRAIN_LABELS[name] for name in OUTSIDE])
    deep = np.flatnonzero(~np.isin(labels, [BRAIN_LABELS[name] for name in OUTSIDE[:2]]))
    there = (points[0][deep], points[1][deep], points[2][deep])
    kind, arrival = paint_vessels(there, least, lag)
    kind[solid[deep] & (kind < 3)] = 0
    names = ("artery", "vein", "venous sinus")
    vessel = kind > 0
    labels[deep[vessel]] = np.array([BRAIN_LABELS[name] for name in names])[kind[vessel] - 1]
    delay[deep[vessel]] = arrival[vessel]

    tissue = deep[~vessel & ~solid[deep] & (labels[deep] != BRAIN_LABELS["csf"])]
    delay[tissue] = tissue_arrival((points[0][tissue], points[1][tissue], points[2][tissue]), lag)
    added = np.array([t.delay for t in BRAIN_TISSUES])[labels]
    low, high = WHITE_DELAY_DEPTH
    share = np.clip((pial - low) / (high - low), 0.0, 1.0)
    folded = np.isin(labels, [BRAIN_LABELS["cortex"], BRAIN_LABELS["white matter"]])
    white = BRAIN_TISSUES[BRAIN_LABELS["white matter"]].delay
    # The way into white matter is gradual, and so is its delay.
    added[folded] = white * (share * share * (3.0 - 2.0 * share))[folded]
    return labels, delay + added


def slice_maps(
    labels: NDArray[np.uint8], delay: Field, varied: Sequence[Field], hematocrit: float
) -> dict[str, Field]:
    """Parameters (n,) of voxels: their tissue's values, their delay, times the texture."""
    exchanges = np.array([tissue.ktrans > 0.0 for tissue in BRAIN_TISSUES])[labels]
    enhances = np.array([tissue.enhances for tissue in BRAIN_TISSUES])[labels]
    scale = np.array([tissue.texture for tissue in BRAIN_TISSUES])[labels]
    maps = {}
    for name, field in zip(FREE, varied, strict=True):
        base = np.array([getattr(tissue, name) for tissue in BRAIN_TISSUES])[labels]
        values = (delay if name == "delay" else base) * np.exp(scale * field)
        exists = {"kep": exchanges, "delay": enhances}.get(name)
        maps[name] = values if exists is None else np.where(exists, values, np.nan)
    ve = np.full(labels.shape, np.nan)
    np.divide(maps["ktrans"], maps["kep"], out=ve, where=exchanges)
    return maps | {"ve": ve, "vp": maps["vb"] * (1.0 - hematocrit)}


def tissue_voxels(labels: NDArray[np.uint8], names: Sequence[str]) -> NDArray[np.bool_]:
    """Voxels of ``labels`` that belong to the named tissues of ``BRAIN_TISSUES``."""
    unknown = [name for name in names if name not in BRAIN_LABELS]
    if unknown:
        raise KetyError(
            f"unknown tissue {', '.join(map(repr, unknown))}; expected one of "
            f"{', '.join(BRAIN_LABELS)}"
        )
    return np.isin(labels, [BRAIN_LABELS[name] for name in names])


def brain_spacing(
    size: tuple[int, int, int], voxel_size: Sequence[float] | None
) -> tuple[float, float, float]:
    """Return the voxel spacing in mm, given or chosen to show the whole brain."""
    if voxel_size is None:
        pixel = max(FIELD_OF_VIEW[0] / size[0], FIELD_OF_VIEW[1] / size[1])
        return pixel, pixel, min(SLICE_THICKNESS, FIELD_OF_VIEW[2] / size[2])
    if len(voxel_size) != 3 or not all(np.isfinite(step) and step > 0.0 for step in voxel_size):
        raise KetyError(f"found voxel size {tuple(voxel_size)}; expected three lengths in mm > 0")
    return float(voxel_size[0]), float(voxel_size[1]), float(voxel_size[2])
