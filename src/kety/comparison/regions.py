"""Regions of interest: masks, images of labels, or files of either, as named masks."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError
from kety.io import FittedMaps

EVERYWHERE: Final = "all voxels"
LABELLED: Final = (".nii.gz", ".nii")
"""Images that may hold several labels; others are read as one mask."""
_MOST_LABELS: Final = 256

Masks = Mapping[str, NDArray[np.bool_]]


def regions_of(roi: Any, maps: FittedMaps) -> dict[str, NDArray[np.bool_]]:
    """Named masks on the grid of the maps.

    Parameters
    ----------
    roi
        A bool array, an array of whole-number labels (one region each, 0 is none), the path of an
        image of either, several of these, or a mapping of names to them.
    maps
        On whose grid they must lie.

    Raises
    ------
    KetyError
        If one is empty, lies on another grid or holds fractions, or two share a name.
    """
    found: dict[str, NDArray[np.bool_]] = {}
    for name, one in _named(roi):
        for region, mask in _masks(name, one, maps).items():
            if region in found:
                raise KetyError(f"two regions have the name {region!r}; give each its own")
            found[region] = mask
    return found


def _named(roi: Any) -> list[tuple[str, Any]]:
    if isinstance(roi, Mapping):
        return [(str(name), one) for name, one in roi.items()]
    if isinstance(roi, Sequence) and not isinstance(roi, str):
        ones = list(roi)
        arrays = [one for one in ones if not isinstance(one, str | os.PathLike)]
        if arrays and np.ndim(arrays[0]) == 0:
            return [("region", np.asarray(roi))]
        return [pair for one in ones for pair in _named(one)]
    if isinstance(roi, str | os.PathLike):
        return [(region_name(roi), roi)]
    return [("region", roi)]


def region_name(path: str | os.PathLike[str]) -> str:
    """What to call the region of a file: the one chosen in it, else the file's stem."""
    from kety.io import bids, split_region

    file, region = split_region(path)
    return region or bids.stem(file)


def _masks(name: str, one: Any, maps: FittedMaps) -> dict[str, NDArray[np.bool_]]:
    shape = maps.maps["status"].shape
    levels: Mapping[str, Any] = {}
    if isinstance(one, str | os.PathLike):
        from kety.io import read_mask, read_volume

        if maps.grid is None:
            raise KetyError(
                f"{one}: a file has a grid in mm, but {maps.name} is a Dataset without one; give "
                "the region as an array, or the fit as a folder"
            )
        where = str(one)
        if where.lower().endswith(LABELLED):
            volume = read_volume(one, like=maps.grid)
            values, levels = volume.data, label_names(one, volume.sidecar)
        else:
            values = read_mask(one, like=maps.grid)
    else:
        where, values = f"the region {name!r}", np.asarray(one)
    if values.shape != shape:
        raise KetyError(
            f"{where} has the shape {values.shape} and the maps of {maps.name} {shape}; give it on "
            "the grid of the maps"
        )
    return labelled(name, where, values, levels)


def label_names(path: str | os.PathLike[str], sidecar: Mapping[str, Any]) -> dict[str, str]:
    """Names of an image's labels, by label: ``Levels`` of its sidecar, or a BIDS look-up table.

    The table has columns ``index`` and ``name`` and stands beside the image: of its own stem, or
    of a stem that ends alike (``dseg.tsv`` or ``sub-01_dseg.tsv`` for ``sub-01_dseg.nii.gz``).

    Raises
    ------
    KetyError
        If a table lacks these columns, or has two names for one label.
    """
    levels = sidecar.get("Levels")
    if isinstance(levels, Mapping) and levels:
        return {str(label): str(name) for label, name in levels.items()}
    from kety.io import bids

    stem, folder = bids.stem(path), Path(path).parent
    for table in (folder / f"{stem}.tsv", folder / f"{stem.rpartition('_')[2]}.tsv"):
        if table.is_file():
            return _look_up_table(table)
    return {}


def _look_up_table(path: Path) -> dict[str, str]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    found: dict[str, str] = {}
    for row in rows:
        try:
            label, name = f"{float(row['index']):g}", row["name"].strip()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise KetyError(
                f"{path}: expected a table of tabs with the columns index and name, one label a "
                "line; correct it or take it away"
            ) from error
        if found.setdefault(label, name) != name:
            raise KetyError(f"{path}: label {label} is both {found[label]!r} and {name!r}")
    return found


def labelled(
    name: str, where: str, values: ArrayLike, levels: Mapping[str, Any] | None = None
) -> dict[str, NDArray[np.bool_]]:
    """The mask of an image, or one for each label where it has several.

    Parameters
    ----------
    name
        Of the region; labels are added to it.
    where
        What to call the image in messages.
    values
        0 and NaN are outside.
    levels
        Names of labels, the ``Levels`` of a BIDS sidecar.

    Raises
    ------
    KetyError
        If it is empty, or its values are no labels.
    """
    array = np.nan_to_num(np.asarray(values))
    labels = np.unique(array[array != 0])
    if labels.size == 0:
        raise KetyError(f"{where} is empty; at least one voxel must be other than 0")
    if labels.size == 1:
        return {name: array != 0}
    if labels.size > _MOST_LABELS or not np.array_equal(labels, np.rint(labels)):
        raise KetyError(
            f"{where} holds {labels.size} values from {labels[0]:g} to {labels[-1]:g}; expected a "
            f"mask, or at most {_MOST_LABELS} whole-number labels; threshold it first"
        )
    names = {label: str((levels or {}).get(f"{label:g}", f"{name} {label:g}")) for label in labels}
    return {names[label]: array == label for label in labels}


def pair_up(a: Masks, b: Masks, names: tuple[str, str]) -> dict[str, tuple[Any, Any]]:
    """Regions of two studies by name; a single one on either side need not share it.

    Raises
    ------
    KetyError
        If a region is in one study alone.
    """
    if len(a) == len(b) == 1:
        (name, first), (other, second) = *a.items(), *b.items()
        return {name if name == other else f"{name} / {other}": (first, second)}
    first_only, second_only = sorted(set(a) - set(b)), sorted(set(b) - set(a))
    if len(a) == len(b) and first_only:
        # Files of unlike names, e.g. before.nii.gz and after.nii.gz, with the same labels.
        tails = [[name.rpartition(" ")[2] for name in ones] for ones in (a, b)]
        if tails[0] == tails[1] and len(set(tails[0])) == len(a):
            return dict(zip(tails[0], zip(a.values(), b.values(), strict=True), strict=True))
    if first_only or second_only:
        raise KetyError(
            f"regions in {names[0]} alone: {', '.join(first_only) or 'none'}; in {names[1]} "
            f"alone: {', '.join(second_only) or 'none'}; give both the same labels"
        )
    return {name: (a[name], b[name]) for name in a}
