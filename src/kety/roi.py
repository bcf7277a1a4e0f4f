"""Statistics of maps in regions of interest: what `kety roi` writes."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from kety.comparison.changes import pooled_voxels, region_estimate, values_of
from kety.comparison.regions import EVERYWHERE, regions_of
from kety.errors import KetyError
from kety.io import FittedMaps, fitted_maps
from kety.joint.maps import VOXELWISE

if TYPE_CHECKING:
    import xarray

PERCENTILES: Final = (5, 25, 75, 95)
STATISTICS: Final = (
    "voxels",
    "mean",
    "sd",
    "median",
    *(f"p{p}" for p in PERCENTILES),
    "min",
    "max",
    "mean_se",
    "mean_se_fit",
    "independent",
)
"""What is told of every map in every region."""
_OF_THE_FIT: Final = ("cost", "r2", "evaluations", "baseline", "moved", "pooled", "weight")
_ENDS: Final = (
    "_se",
    "_lower",
    "_upper",
    "_bias",
    "_bootstrap",
    "_input",
    "_total",
    "_mean",
    "_sd",
)
_FACTS: Final = ("model", "software")


def roi_statistics(
    maps: xarray.Dataset | str | os.PathLike[str] | FittedMaps,
    roi: Any = None,
    *,
    names: Sequence[str] | None = None,
) -> xarray.Dataset:
    """Mean, median, percentiles and errors of maps in regions, and what became of their voxels.

    Only voxels with a value count: one that does not enhance, or whose fit failed, has none, and
    the statistics say nothing of it. ``size``, ``voxels`` and the counts of statuses show how many
    that is.

    Parameters
    ----------
    maps
        What `kety.fit`, `kety.semiquantitative` or `kety.deconvolve` returned, or the folder that
        ``kety fit`` or ``kety maps`` wrote.
    roi
        Mask (bool) or labels (whole numbers) on the grid of the maps, an image file of either, a
        DICOM segmentation or structure set, a list of these, or a mapping of names to them. Labels
        are named by ``Levels`` in the sidecar or a BIDS table beside the image. All voxels that
        were estimated where left out.
    names
        Maps; all estimated quantities where left out.

    Returns
    -------
    xarray.Dataset
        On (region, map), the unit in the coordinate ``units``: ``voxels`` with a value, ``mean``,
        ``sd`` (over voxels, n - 1), ``median``, ``p5``, ``p25``, ``p75``, ``p95``, ``min``,
        ``max``. ``mean_se`` is the standard error of the mean from the spread of the voxels, and
        ``mean_se_fit`` what the voxels' own standard errors leave of it (NaN for maps without);
        both count ``independent`` voxels, since neighbours are alike
        (`kety.comparison.regional`), and neither knows of errors that all voxels share, as of the
        input. On (region): ``size``, all its voxels. On (region, status): ``status_voxels``.

    Raises
    ------
    KetyError
        For maps that are none, a name that they lack, and regions that are empty or lie on another
        grid.
    """
    import xarray

    found = fitted_maps(maps, "the maps")
    chosen = _names(found, names)
    if roi is None:
        regions = {EVERYWHERE: np.asarray(found.maps["status"].values != 0)}
    else:
        regions = regions_of(roi, found)
    table = {one: np.full((len(regions), len(chosen)), np.nan) for one in STATISTICS}
    for j, name in enumerate(chosen):
        values = values_of(found, name)
        variance = values_of(found, f"{name}_se") ** 2
        pooled = pooled_voxels(found, name)
        for i, inside in enumerate(regions.values()):
            where = inside & np.isfinite(values)
            for key, value in _row(values, variance, where, pooled).items():
                table[key][i, j] = value
    table["voxels"] = table["voxels"].astype(np.int64)
    status = found.maps["status"]
    numbers = [int(n) for n in np.atleast_1d(status.attrs["flag_values"])]
    counts = [
        [int(np.count_nonzero(status.values[inside] == n)) for n in numbers]
        for inside in regions.values()
    ]
    return xarray.Dataset(
        {
            **{key: (("region", "map"), value) for key, value in table.items()},
            "size": ("region", [int(np.count_nonzero(inside)) for inside in regions.values()]),
            "status_voxels": (("region", "status"), counts),
        },
        coords={
            "region": list(regions),
            "map": chosen,
            "status": str(status.attrs["flag_meanings"]).split(),
            "units": ("map", [str(found.maps[name].attrs.get("units", "")) for name in chosen]),
        },
        attrs={"maps": found.name, **{k: found.record[k] for k in _FACTS if k in found.record}},
    )


def _names(found: FittedMaps, asked: Sequence[str] | None) -> list[str]:
    every = [str(name) for name in found.maps.data_vars]
    dims = found.maps["status"].ndim
    if asked:
        missing = [name for name in asked if name not in every]
        if missing:
            raise KetyError(
                f"{found.name} has no map {', '.join(missing)}; its maps are {', '.join(every)}"
            )
        over_time = [name for name in asked if found.maps[name].ndim != dims]
        if over_time:
            raise KetyError(f"{', '.join(over_time)} has a time axis; give maps of one value")
        return list(dict.fromkeys(asked))
    with_error = [name for name in every if f"{name}_se" in every]
    # Model-free maps are estimates with an error or without.
    plain = [] if "cost" in every else every
    chosen = [
        name
        for name in every
        if (name in with_error or name in plain)
        and name not in ("status", *_OF_THE_FIT)
        and not name.endswith((*_ENDS, VOXELWISE))
        and found.maps[name].ndim == dims
    ]
    if not chosen:
        raise KetyError(f"{found.name} holds no estimates; its maps are {', '.join(every)}")
    return chosen


def _row(
    values: NDArray[np.float64],
    variance: NDArray[np.float64],
    where: NDArray[np.bool_],
    pooled: NDArray[np.float64],
) -> dict[str, float]:
    """`STATISTICS` of a map in a region; NaN but for the count where it is empty."""
    inside = values[where]
    row = {"voxels": float(inside.size)}
    if not inside.size:
        return row
    estimate = region_estimate(values, variance, where, "mean", pooled)
    row |= {
        "mean": float(inside.mean()),
        "median": float(np.median(inside)),
        "min": float(inside.min()),
        "max": float(inside.max()),
        "independent": estimate.independent,
        "mean_se_fit": estimate.noise,
    }
    row |= {f"p{p}": float(np.percentile(inside, p)) for p in PERCENTILES}
    if inside.size > 1:
        row |= {"sd": float(inside.std(ddof=1)), "mean_se": estimate.error}
    return row


def roi_table(statistics: xarray.Dataset) -> str:
    """The statistics as CSV: a row for each region and map, statuses of the region in each.

    Numbers have six digits; those that do not exist are empty.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    statuses = [str(name) for name in statistics["status"].values]
    writer.writerow(
        ["region", "map", "units", "size", *STATISTICS, *(f"n_{name}" for name in statuses)]
    )
    for i, region in enumerate(statistics["region"].values):
        counts = [int(n) for n in statistics["status_voxels"].values[i]]
        for j, name in enumerate(statistics["map"].values):
            cells = [_cell(statistics[key].values[i, j]) for key in STATISTICS]
            units, size = str(statistics["units"].values[j]), int(statistics["size"].values[i])
            writer.writerow([str(region), str(name), units, size, *cells, *counts])
    return stream.getvalue()


def _cell(value: Any) -> str:
    if isinstance(value, np.integer):
        return str(int(value))
    return f"{value:.6g}" if np.isfinite(value) else ""
