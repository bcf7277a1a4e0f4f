"""Masks made from the series itself: body, tissue, air, bone, and what enhances."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError
from kety.preprocess.enhancing import enhancement_mask
from kety.preprocess.segment import segment
from kety.series import Series
from kety.signal.baseline import (
    Frames,
    baseline_frames,
    enhancing_curve,
    mean_of_frames,
    resolve_frames,
)

Mask = NDArray[np.bool_]

AIR_HU: Final = -400.0
"""CT number below which a voxel holds more air than tissue: between fat at -100 HU and aerated lung
at about -700 HU."""
BONE_HU: Final = 200.0
"""CT number, before contrast agent, of bone: above soft tissue and clotted blood (up to 90 HU)."""
OPENING_MM: Final = 4.0
"""Thinner things, of a table or a blanket, are not parts of the body."""
LEAST_PART: Final = 0.1
"""Size, over the largest's, of a component that still counts as body, such as an arm."""
MARROW_MM2: Final = 150.0
"""Area in a slice up to which a gap inside bone is filled: marrow is bone, but a spinal canal or a
skull is not filled."""
SPECK_MM3: Final = 50.0
"""Smaller bone is noise or a calcification that a fit may keep."""


def air_mask(hu: ArrayLike, *, threshold: float = AIR_HU) -> Mask:
    """Voxels of air, around the patient and in lung or bowel.

    Parameters
    ----------
    hu
        (X, Y, Z) CT numbers, HU, best a mean over frames.
    threshold
        HU below which a voxel is air. One that is not finite counts as air.

    Raises
    ------
    KetyError
        If it is not such a volume.
    """
    return np.asarray(~(_volume(hu) >= threshold))


def bone_mask(hu: ArrayLike, size: ArrayLike, *, threshold: float = BONE_HU) -> Mask:
    """Voxels of bone: above a threshold, without specks, small gaps in a slice filled.

    Contrast agent is as bright as bone, so the CT numbers must be those before it arrives. Spongy
    bone below the threshold inside a shell wider than `MARROW_MM2` is left out.

    Parameters
    ----------
    hu
        (X, Y, Z) CT numbers before contrast agent, HU, best a mean over frames.
    size
        (3,) edges of a voxel, mm.
    threshold
        HU from which on a voxel is bone.

    Raises
    ------
    KetyError
        If they are not such a volume and such edges.
    """
    from scipy import ndimage

    edges = _size(size)
    bone = _volume(hu) >= threshold
    whole: Any = np.ones((3, 3, 3))
    parts: Any = ndimage.label(bone, whole)[0]
    volumes = np.bincount(parts.ravel()) * float(np.prod(edges))
    bone &= (volumes >= SPECK_MM3)[parts]
    largest = MARROW_MM2 / float(edges[0] * edges[1])
    for z in range(bone.shape[2]):
        gaps: Any = ndimage.label(~bone[..., z])[0]
        bone[..., z] |= (np.bincount(gaps.ravel()) <= largest)[gaps]
    return np.asarray(bone)


def body_mask(image: ArrayLike, size: ArrayLike, modality: str = "CT") -> Mask:
    """Voxels of the patient, air inside included.

    What is not air (CT, `AIR_HU`) or not background (MR, the lowest of three classes by Otsu's
    thresholds), without what is thinner than `OPENING_MM`, the largest connected part and others of
    a tenth of its size, holes in every slice filled.

    Parameters
    ----------
    image
        (X, Y, Z) CT numbers in HU or MR magnitude, best a mean over frames.
    size
        (3,) edges of a voxel, mm.
    modality
        ``"CT"`` or ``"MR"``. An MR image must show background: one filled by the patient has none,
        and dark tissue is then left out.

    Raises
    ------
    KetyError
        If they are not such an image and such edges, or no body is found.
    """
    from scipy import ndimage

    values, edges = _volume(image), _size(size)
    if modality == "CT":
        solid = values >= AIR_HU
    else:
        labels, _ = segment(np.nan_to_num(values), 3)
        solid = labels > 0
    steps = np.where(np.array(values.shape) > 1, np.maximum(1, np.rint(OPENING_MM / edges)), 0)
    # Across slices things may be as thin as one.
    steps[2] = 0
    ball: Any = _disc(int(steps[0]), int(steps[1]))
    core = ndimage.binary_erosion(solid, ball, border_value=1)
    parts: Any = ndimage.label(core)[0]
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    if not sizes.any():
        raise KetyError(
            f"no body was found in the image of values {np.nanmin(values):g} to "
            f"{np.nanmax(values):g}; give a mask"
        )
    kept = (sizes >= LEAST_PART * sizes.max())[parts]
    body = ndimage.binary_dilation(kept, ball) & solid
    for z in range(body.shape[2]):
        body[..., z] = ndimage.binary_fill_holes(body[..., z])
    return np.asarray(body)


def _disc(x: int, y: int) -> NDArray[np.bool_]:
    across, along = np.mgrid[-x : x + 1, -y : y + 1]
    return np.asarray((across / max(x, 1)) ** 2 + (along / max(y, 1)) ** 2 <= 1.0)[..., None]


def _volume(image: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(image)
    if values.ndim != 3 or values.dtype.kind not in "iuf" or not values.size:
        raise KetyError(
            f"an image of real numbers (X, Y, Z) is expected, found {values.dtype} of shape "
            f"{values.shape}"
        )
    return values.astype(np.float64)


def _size(size: ArrayLike) -> NDArray[np.float64]:
    edges = np.asarray(size, dtype=np.float64)
    if edges.shape != (3,) or not (np.isfinite(edges) & (edges > 0)).all():
        raise KetyError(f"edges of a voxel must be three lengths in mm, found {size!r}")
    return edges


def _body(series: Series, baseline: Frames | None) -> Mask:
    return body_mask(_mean(series), _edges(series), series.modality)


def _air(series: Series, baseline: Frames | None) -> Mask:
    return air_mask(_mean(series))


def _bone(series: Series, baseline: Frames | None) -> Mask:
    before = mean_of_frames(series.data, _before(series, baseline))
    return bone_mask(before, _edges(series))


def _tissue(series: Series, baseline: Frames | None) -> Mask:
    image = _mean(series)
    inside = body_mask(image, _edges(series), series.modality) & ~air_mask(image)
    return np.asarray(inside & ~_bone(series, baseline))


def _enhancing(series: Series, baseline: Frames | None) -> Mask:
    inside = _body(series, baseline)
    return enhancement_mask(series.data, series.times, _before(series, baseline), inside)


KINDS: Final[Mapping[str, tuple[str, Callable[[Series, Frames | None], Mask]]]] = MappingProxyType(
    {
        "body": ("the patient, air inside included", _body),
        "tissue": ("the patient without air and bone (CT)", _tissue),
        "air": ("air around and inside the patient (CT)", _air),
        "bone": ("bone, by CT numbers before contrast agent (CT)", _bone),
        "enhancing": ("what enhances beyond noise and motion", _enhancing),
    }
)
"""Kinds of mask: what they hold, and how they are made."""
OF_HU: Final[tuple[str, ...]] = ("tissue", "air", "bone")


def make_mask(series: Series, kind: str, *, baseline: Frames | None = None) -> Mask:
    """Make a mask from a series.

    Parameters
    ----------
    series
        CT numbers (HU) or MR signal. Its own mask is not used.
    kind
        ``"body"``; ``"tissue"``, what the optimisation study fits: the body without air and bone;
        ``"air"`` and ``"bone"``, of CT; ``"enhancing"``, see `enhancement_mask`.
    baseline
        Frames before contrast agent, see `kety.signal.resolve_frames`; found by default.

    Returns
    -------
    ndarray of bool (X, Y, Z)

    Raises
    ------
    KetyError
        For a kind that is unknown or not of this modality, where the frames before contrast agent
        are needed and not found, and where the mask would be empty.
    """
    if kind not in KINDS:
        raise KetyError(f"unknown kind of mask {kind!r}; valid: {', '.join(KINDS)}")
    name = series.source or "the series"
    if kind in OF_HU and series.modality != "CT":
        raise KetyError(
            f"{name}: {kind} is told by CT numbers, but the series is {series.modality}; valid for "
            f"it: {', '.join(one for one in KINDS if one not in OF_HU)}"
        )
    mask = KINDS[kind][1](series, baseline)
    if not mask.any():
        raise KetyError(f"{name}: no voxel of {kind} was found; give another mask")
    return mask


def _edges(series: Series) -> NDArray[np.float64]:
    return np.asarray(np.linalg.norm(series.affine[:3, :3], axis=0))


def _mean(series: Series) -> NDArray[np.float64]:
    return mean_of_frames(series.data, np.arange(series.times.size))


def _before(series: Series, baseline: Frames | None) -> NDArray[np.intp]:
    if baseline is not None:
        return resolve_frames(baseline, series.times.size)
    try:
        return baseline_frames(enhancing_curve(series.data), series.times)
    except KetyError as error:
        raise KetyError(
            f"{series.source or 'the series'}: no baseline frames found: {error}"
        ) from error
