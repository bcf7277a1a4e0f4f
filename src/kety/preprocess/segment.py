"""Maps cut into classes by thresholds, and the connected regions that result, counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError

Method = Literal["otsu", "range", "quantile"]

UNCLASSIFIED: Final = 255
"""Label of voxels outside the mask, or without a finite value."""
BINS: Final = 256
TAILS: Final = (1.0, 99.0)
"""Percentiles between which the values are looked at: maps hold a few that lie far outside."""
_METHODS: Final = ("otsu", "range", "quantile")
_MOST_CLASSES: Final = 16


def segment(
    values: ArrayLike,
    classes: int = 3,
    *,
    method: Method = "otsu",
    mask: ArrayLike | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Cut a map into classes of low to high values.

    The multi-task estimation study of abdominal tumours judges maps by the number of connected
    regions "after a threshold segmentation into 3 parameter classes" (`region_index`), without
    saying how its thresholds are found.

    Parameters
    ----------
    values
        Map (X, Y) or (X, Y, Z), any unit.
    classes
        2 to 16.
    method
        ``"otsu"``: the thresholds between which the values vary least (Otsu, IEEE Trans Syst Man
        Cybern 1979;9:62, doi:10.1109/TSMC.1979.4310076), exactly, on 256 bins between the 1st and
        99th percentile; values beyond count as the nearest of these. ``"range"``: equal parts of
        that range. ``"quantile"``: equal numbers of voxels.
    mask
        Voxels to classify, of the map's shape; all by default.

    Returns
    -------
    labels : ndarray of uint8, the map's shape
        0 for the lowest class to ``classes - 1``; `UNCLASSIFIED` (255) outside the mask and where
        a value is not finite.
    thresholds : ndarray of shape (classes - 1,), in the map's unit
        The lowest value of each class but the first. `classify` applies them to another map.

    Raises
    ------
    KetyError
        If shapes disagree, ``classes`` or ``method`` is not valid, or the values are too few or
        too alike for that many classes.
    """
    if not 2 <= classes <= _MOST_CLASSES:
        raise KetyError(f"{classes} classes; expected 2 to {_MOST_CLASSES}")
    if method not in _METHODS:
        raise KetyError(f"unknown method {method!r}; valid: {', '.join(_METHODS)}")
    data, inside = _checked(values, mask)
    chosen = data[inside]
    if chosen.size < classes:
        raise KetyError(f"{chosen.size} finite value(s) in the mask, too few for {classes} classes")
    if method == "quantile":
        thresholds = np.quantile(chosen, np.arange(1, classes) / classes)
        distinct = bool((np.diff([chosen.min(), *thresholds]) > 0.0).all())
    else:
        low, high = np.percentile(chosen, TAILS)
        edges = np.linspace(low, high, (BINS if method == "otsu" else classes) + 1)
        distinct = bool((np.diff(edges) > 0.0).all())
        thresholds = edges[1:-1]
        if distinct and method == "otsu":
            counts, _ = np.histogram(np.clip(chosen, low, high), edges)
            distinct = bool(np.count_nonzero(counts) >= classes)
            thresholds = edges[otsu_bins(counts, classes)] if distinct else thresholds
    if not distinct:
        raise KetyError(
            f"the values are too alike for {classes} classes by {method}; most of {chosen.size} "
            f"equal {np.median(chosen):g}"
        )
    return classify(data, thresholds, mask=mask), thresholds


def classify(
    values: ArrayLike, thresholds: ArrayLike, *, mask: ArrayLike | None = None
) -> NDArray[np.uint8]:
    """Label a map by thresholds that are known, for instance another map's.

    Parameters
    ----------
    values, mask
        As of `segment`.
    thresholds
        Shape (n,), increasing, in the map's unit; a value equal to one belongs above it.

    Returns
    -------
    ndarray of uint8, the map's shape
        As of `segment`.

    Raises
    ------
    KetyError
        If shapes disagree or the thresholds do not increase.
    """
    data, inside = _checked(values, mask)
    limits = np.asarray(thresholds, dtype=np.float64)
    if limits.ndim != 1 or limits.size >= _MOST_CLASSES or not (np.diff(limits) > 0.0).all():
        raise KetyError(
            f"thresholds {limits.tolist()}; expected an increasing list of at most "
            f"{_MOST_CLASSES - 1}"
        )
    labels = np.full(data.shape, UNCLASSIFIED, dtype=np.uint8)
    labels[inside] = np.digitize(data[inside], limits)
    return labels


def _checked(
    values: ArrayLike, mask: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The map, and where it is finite and in the mask."""
    data = np.asarray(values)
    if data.dtype.kind not in "fiub" or data.ndim not in (2, 3):
        raise KetyError(
            f"a map of real numbers (X, Y) or (X, Y, Z) is expected, found {data.dtype} of shape "
            f"{data.shape}"
        )
    data = data.astype(np.float64)
    inside = np.isfinite(data)
    if mask is not None:
        chosen = np.asarray(mask)
        if chosen.shape != data.shape:
            raise KetyError(f"the mask has shape {chosen.shape}, the map {data.shape}")
        inside &= chosen != 0
    return data, inside


def otsu_bins(counts: ArrayLike, classes: int) -> NDArray[np.intp]:
    """First bin of each class but the first, for the least variance within classes.

    Exact, by dynamic programming over the end of a class: classes bins² / 2 steps.

    Parameters
    ----------
    counts
        Histogram (B,) over bins of equal width, at least ``classes`` of them not empty.
    classes
        2 or more.

    Returns
    -------
    ndarray of shape (classes - 1,), increasing
    """
    weights = np.asarray(counts, dtype=np.float64)
    bins = weights.size
    number = np.concatenate([[0.0], np.cumsum(weights)])
    moment = np.concatenate([[0.0], np.cumsum(weights * np.arange(bins))])
    # Squared sum over weight of bins i to j - 1: what a class contributes to the variance between.
    mass = number[np.newaxis] - number[:, np.newaxis]
    total = moment[np.newaxis] - moment[:, np.newaxis]
    gain = np.where(mass > 0.0, total**2 / np.where(mass > 0.0, mass, 1.0), -np.inf)
    best = gain[0]
    starts: list[NDArray[np.intp]] = []
    for _ in range(classes - 1):
        sums = best[:, np.newaxis] + gain
        starts.append(np.argmax(sums, axis=0))
        best = np.max(sums, axis=0)
    found, end = [], bins
    for start in reversed(starts):
        end = int(start[end])
        found.append(end)
    return np.array(found[::-1], dtype=np.intp)


@dataclass(frozen=True)
class RegionIndex:
    """Number of connected regions in the slices of a segmentation: how broken up it is.

    Attributes
    ----------
    regions
        Connected regions of equal label, over all slices.
    artifacts
        Those of few pixels.
    regions_per_slice, artifacts_per_slice
        The same for each slice that holds a classified voxel, in their order.
    """

    regions: int
    artifacts: int
    regions_per_slice: tuple[int, ...]
    artifacts_per_slice: tuple[int, ...]

    @property
    def mean_regions(self) -> float:
        """Regions in a slice, on average; NaN without any."""
        return _mean(self.regions_per_slice)

    @property
    def mean_artifacts(self) -> float:
        """Artifact regions in a slice, on average; NaN without any slice."""
        return _mean(self.artifacts_per_slice)


def _mean(numbers: Sequence[int]) -> float:
    return sum(numbers) / len(numbers) if numbers else float("nan")


def region_index(labels: ArrayLike, *, artifact: int = 2, connectivity: int = 1) -> RegionIndex:
    """Count the connected regions of a segmentation, slice by slice.

    The index of the multi-task estimation study of abdominal tumours, whose images are single
    slices: fewer regions mean a smoother map, and "artifact" regions are those of 1 or 2 pixels.

    Parameters
    ----------
    labels
        Classes (X, Y) or (X, Y, Z) as of `segment`, where 255 (`UNCLASSIFIED`) is no class. Slices
        follow the last axis and are counted apart.
    artifact
        Pixels up to which a region is an artifact.
    connectivity
        1: pixels that share an edge are connected; 2: those that share a corner, too.

    Raises
    ------
    KetyError
        If labels are not whole numbers 0 to 255 in 2 or 3 dimensions, or an argument is invalid.
    """
    from scipy import ndimage

    classes = np.asarray(labels)
    if classes.ndim not in (2, 3) or classes.dtype.kind not in "iu":
        raise KetyError(
            f"labels must be whole numbers of shape (X, Y) or (X, Y, Z), found {classes.dtype} of "
            f"shape {classes.shape}"
        )
    if classes.size and not 0 <= classes.min() <= classes.max() <= UNCLASSIFIED:
        raise KetyError(f"labels {classes.min()} to {classes.max()}; expected 0 to {UNCLASSIFIED}")
    if connectivity not in (1, 2):
        raise KetyError(f"connectivity is {connectivity!r}; expected 1 (edges) or 2 (corners, too)")
    if artifact < 0:
        raise KetyError(f"artifact is {artifact!r}; expected a number of pixels of 0 or more")
    structure: Any = ndimage.generate_binary_structure(2, connectivity)
    slices = classes[..., np.newaxis] if classes.ndim == 2 else classes
    regions: list[int] = []
    artifacts: list[int] = []
    for z in range(slices.shape[2]):
        present = [int(n) for n in np.unique(slices[..., z]) if n != UNCLASSIFIED]
        if not present:
            continue
        sizes: list[int] = []
        for label in present:
            numbered: Any = ndimage.label(slices[..., z] == label, structure)[0]
            sizes += np.bincount(numbered.ravel())[1:].tolist()
        regions.append(len(sizes))
        artifacts.append(sum(size <= artifact for size in sizes))
    return RegionIndex(sum(regions), sum(artifacts), tuple(regions), tuple(artifacts))
