"""Model-free maps of a study: descriptions of its curves and, where asked for, deconvolution."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kety.errors import KetyError
from kety.pipeline.arrival import all_times, first_rise
from kety.pipeline.telling import Tell, count, silent

if TYPE_CHECKING:
    import xarray

    from kety.pipeline.study import Study

_UNIT = "unit of the curves"


def describe(
    study: Study,
    *,
    arrival: float | str = "auto",
    areas: Sequence[float] = (60.0, 90.0, 180.0),
    window: float = 6.0,
    late: float | None = None,
    method: str | None = None,
    threshold: float | None = None,
    oscillation: float | None = None,
    interval: float = 1.0,
    dtype: str = "float32",
    threads: int | None = None,
    tell: Tell = silent,
) -> xarray.Dataset:
    """`kety.semiquantitative` on the curves of a study and, with a method, `kety.deconvolve`.

    Units name that of the study. Attributes say how the maps were made and what took how long.

    Parameters
    ----------
    study
        Read with an arterial input if it is to be deconvolved.
    arrival, areas, window, late
        As of `kety.semiquantitative`.
    method, threshold, oscillation, interval
        As of `kety.deconvolve`; None: no deconvolution.

    Raises
    ------
    KetyError
        As these.
    """
    from kety.fitting.engine import available_threads
    from kety.modelfree import deconvolve, semiquantitative

    series = study.series
    started = time.perf_counter()
    if series.slice_times is not None:
        # One arrival for all slices, and one moment from which on is late.
        if arrival == "auto":
            arrival = _arrival(study)
        if late is None and not isinstance(arrival, str):
            late = arrival + 0.5 * (float(series.times[-1]) - arrival)

    def describe_some(
        curves: NDArray[Any], mask: NDArray[np.bool_] | None, times: NDArray[np.float64]
    ) -> xarray.Dataset:
        shared: dict[str, Any] = {"mask": mask, "baseline": study.baseline, "dtype": dtype}
        maps = semiquantitative(
            curves,
            times,
            aif=study.arterial,
            arrival=arrival,
            areas=areas,
            window=window,
            late=late,
            **shared,
        )
        # From the first frame of the series, which is not that of every slice.
        maps["bat"].values[...] += maps["bat"].dtype.type(times[0] - series.times[0])
        if method is None:
            return maps
        more = deconvolve(
            curves,
            times,
            study.aif,
            method=method,
            threshold=threshold,
            oscillation=oscillation,
            interval=interval,
            threads=threads,
            **shared,
        )
        both = f"{maps.attrs['method']}; {more.attrs['method']}"
        # The status of the deconvolution knows all that the other does.
        maps = maps.assign(more.data_vars)
        maps.attrs |= {**more.attrs, "method": both}
        return maps

    if series.slice_times is None:
        maps = describe_some(np.asarray(study.curves), series.mask, series.times)
    else:
        from kety.slicewise import by_slice

        maps = by_slice(
            lambda curves, mask, slices: describe_some(curves, mask, slices.times),
            study.curves,
            series.slice_times,
            series.mask,
        )
    elapsed = time.perf_counter() - started
    for one in maps.data_vars.values():
        one.attrs["units"] = str(one.attrs["units"]).replace(_UNIT, study.unit)
    counts = _counts(maps)
    done = sum(number for name, number in counts.items() if name != "outside")
    if not counts.get("estimated", 0) + counts.get("not_identifiable", 0):
        found = ", ".join(name.replace("_", " ") for name in counts if name != "outside")
        warnings.warn(f"no voxel could be estimated; all are {found}", stacklevel=2)
    maps.attrs |= {
        "threads": threads or available_threads(),
        "elapsed_s": round(elapsed, 4),
        "voxels_per_s": round(done / elapsed),
        "status_counts": counts,
    }
    tell(
        "arrival",
        f"of the bolus {maps.attrs['arrival_s']:g} s; late part from "
        f"{maps.attrs['late_from_s']:g} s",
    )
    tell(
        "estimated",
        f"{count(done, 'voxel')} in {elapsed:.2f} s ({done / elapsed:,.0f} voxels/s; "
        f"{maps.attrs['method']})",
    )
    return maps


def _arrival(study: Study) -> float:
    """When the input rises or, without one, the strongest curves of the earliest slices (s)."""
    from kety.signal import baseline_frames

    try:
        if study.arterial is None:
            return first_rise(np.asarray(study.curves), study.series)[0]
        times = all_times(study.series)
        return float(times[baseline_frames(study.arterial(times), times)[-1]])
    except KetyError as error:
        raise KetyError(
            f"the arrival of the bolus was not found: {error}; or give arrival in s"
        ) from error


def _counts(maps: xarray.Dataset) -> dict[str, int]:
    """Number of voxels of every status that occurs, by the words of the maps."""
    attrs = maps["status"].attrs
    values = np.asarray(maps["status"].values)
    named = zip(attrs["flag_values"], attrs["flag_meanings"].split(), strict=True)
    counts = {name: int(np.count_nonzero(values == value)) for value, name in named}
    return {name: number for name, number in counts.items() if number}
