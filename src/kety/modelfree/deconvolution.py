"""Deconvolution: flow, volume, mean transit time and Tmax without a model of the tissue."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError
from kety.fitting.engine import available_threads
from kety.fitting.status import Status
from kety.modelfree.curves import (
    Floats,
    check_curves,
    empty_maps,
    of_samples,
    place,
    take,
    to_dataset,
)
from kety.modelfree.grid import regular_grid, resampling, sampled_input, trapezoid
from kety.modelfree.solvers import Plan, Solver, make_solver
from kety.signal.baseline import Frames, blocks
from kety.units import PER_100ML, SECONDS_PER_MINUTE

if TYPE_CHECKING:
    import xarray

    from kety.inputs import InputFunction

METHODS: Final = ("standard", "circulant", "oscillation")
THRESHOLDS: Final = {"standard": 0.2, "circulant": 0.1}
"""Published thresholds of the singular values (Wu et al. 2003)."""
OSCILLATION: Final = 0.035
"""Published limit of the oscillation index (Wu et al. 2003)."""
INTERVAL: Final = 1.0
_FLOW: Final = PER_100ML * SECONDS_PER_MINUTE


def deconvolve(
    curves: ArrayLike,
    times: ArrayLike,
    aif: InputFunction,
    *,
    method: str = "oscillation",
    threshold: float | None = None,
    oscillation: float | None = None,
    interval: float = INTERVAL,
    baseline: Frames | None = None,
    mask: ArrayLike | None = None,
    residue: bool = False,
    dtype: str = "float32",
    threads: int | None = None,
) -> xarray.Dataset:
    """Estimate flow, volume, mean transit time and Tmax by truncated singular value decomposition.

    Parameters
    ----------
    curves : array (..., T)
        Contrast concentration (mM) or enhancement (HU above baseline), in the unit of the input.
    times : (T,) array
        Frame times, s, strictly increasing, on any grid: curves are brought to a regular one along
        straight lines, the input by its own interpolation.
    aif : InputFunction
        Arterial input; it must cover the frames.
    method : {"oscillation", "circulant", "standard"}
        ``"standard"``: the causal matrix (Østergaard et al., Magn Reson Med 1996;36:715,
        doi:10.1002/mrm.1910360510); flow depends on the delay of the bolus. ``"circulant"``: the
        block-circulant matrix of curves padded with zeros, which does not care for delay.
        ``"oscillation"``: the same, truncated in each voxel as little as keeps the oscillation
        index below a limit (Wu et al., Magn Reson Med 2003;50:164, doi:10.1002/mrm.10522).
    threshold : float, optional
        Singular values below this share of the largest are left out: 0.2 of ``"standard"`` and 0.1
        of ``"circulant"`` as published; not used by ``"oscillation"``.
    oscillation : float, optional
        Limit of the oscillation index, 0.035 as published; of ``"oscillation"`` alone.
    interval : float
        Step of the regular grid, s. The published limits go with 1 s.
    baseline : frames, optional
        Frames whose mean was subtracted from every curve, for the standard errors.
    mask : bool array (...), optional
        Voxels to estimate; all without it. Those that do not enhance beyond their noise get the
        status ``not_enhancing`` and NaN, save that volume and noise are given inside a mask.
    residue : bool
        Also return ``residue`` (..., lag): flow times residue function, mL/100mL/min.
    dtype : {"float32", "float64"}
        Precision of arithmetic and maps.
    threads : int, optional
        Number of threads; all processors of the process where left out.

    Returns
    -------
    xarray.Dataset
        ``fb`` (blood flow, mL/100mL/min), ``fp`` (plasma flow, ``fb (1 - hematocrit)``), ``volume``
        (mL/100mL), ``mtt`` (s), each with ``<name>_se``; ``tmax`` (s); ``noise`` of the curve;
        ``status`` with the numbers of `kety.Status`, ``not_identifiable`` where no truncation
        meets the limit of oscillation or only the mean does, and flow, MTT and Tmax are NaN.

    Raises
    ------
    KetyError
        For arguments that do not fit together, and frames too far apart to see the bolus pass.

    Notes
    -----
    Flow is the maximum of the impulse response, Tmax its time after the input (negative where
    tissue precedes it, which only the circulant methods can see). Volume is the area of the tissue
    curve over that of the input, up to the last frame (blood volume where no agent leaves the
    vessels, otherwise the distribution volume relative to blood), MTT volume over flow.

    All refers to whole blood: an input in plasma is brought to blood by its hematocrit, which is
    taken to be the same in large and small vessels.

    Truncation smooths the impulse response, which lowers flow, the more the shorter the transit;
    see the table in ``docs/modelfree.md``. Standard errors are the noise propagated through the
    truncated inverse with the maximum where it was found; they know nothing of that bias.

    The oscillation index counts its second differences around the end of the padded interval, so
    that it does not depend on delay, and is a mean over 240 grid points at most, so that the
    published limit also serves series longer than 2 min.
    """
    given = check_curves(curves, times, mask, baseline, dtype)
    limit = _checked_limit(method, threshold, oscillation)
    t = given.times
    grid = regular_grid(t, interval)
    ca = sampled_input(aif, t, grid)
    area = trapezoid(t) / (trapezoid(grid) @ ca)
    plan = Plan(ca, float(interval), resampling(t, grid), given.baseline, area, dtype)
    solver = make_solver(method, limit, plan)
    attributes = _attributes()
    maps = empty_maps([name for name in attributes if name != "residue"], len(given.values), dtype)
    if residue:
        maps["residue"] = np.full((len(given.values), solver.lags.size), np.nan, dtype)
    plasma = 1.0 - aif.hematocrit

    def estimate(voxels: NDArray[np.intp]) -> None:
        block = take(given, voxels, maps["status"])
        response, level = solver.solve(block.values)
        lost = block.enhancing & (level == 0)
        maps["status"][block.voxels[lost]] = Status.NOT_IDENTIFIABLE
        found = _quantities(block.values, block.noise, response, level, solver, plan)
        found |= {"fp": plasma * found["fb"], "fp_se": plasma * found["fb_se"]}
        place(maps, block, found, {"volume", "noise"})
        if residue:
            known = block.enhancing & (level > 0)
            maps["residue"][block.voxels[known]] = _FLOW * response[known]

    # Blocks write to different voxels, and NumPy computes without Python's lock. They are so small
    # that the matrix library does not start threads of its own for the products of the climb.
    pool = ThreadPoolExecutor(_checked_threads(threads))
    try:
        for _ in pool.map(estimate, blocks(given.voxels, 2 * solver.lags.size)):
            pass
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    facts = {
        "method": f"deconvolution, {method}",
        "oscillation_limit" if method == "oscillation" else "singular_value_threshold": limit,
        "grid_interval_s": float(interval),
        "hematocrit": aif.hematocrit,
        "aif_site": aif.site,
        "aif_interpolation": aif.interpolation,
        "dtype": dtype,
    }
    dataset = to_dataset(given, maps, attributes, facts)
    if residue:
        words = {"units": "s", "long_name": "time after the input"}
        dataset = dataset.assign_coords(lag=("lag", solver.lags, words)).sortby("lag")
    return dataset


def _quantities(
    values: Floats,
    noise: Floats,
    response: NDArray[Any],
    level: NDArray[np.intp],
    solver: Solver,
    plan: Plan,
) -> dict[str, Floats]:
    """Maps of curves (B, T); the maximum of the response and its place are taken as given."""
    at = response.argmax(axis=1)
    flow = response[np.arange(len(at)), at].astype(np.float64)
    flow[level == 0] = np.nan
    norm, cross = solver.norms[level, at], solver.cross[level, at]
    volume = values @ plan.area
    spread = float(np.linalg.norm(of_samples(plan.area, plan.baseline)))
    mtt = volume / flow
    variance = spread**2 - 2 * mtt * cross + mtt**2 * norm**2
    return {
        "fb": _FLOW * flow,
        "fb_se": _FLOW * noise * np.where(level > 0, norm, np.nan),
        "volume": PER_100ML * volume,
        "volume_se": PER_100ML * noise * spread,
        "mtt": mtt,
        "mtt_se": noise * np.sqrt(np.maximum(variance, 0.0)) / flow,
        "tmax": np.where(level > 0, solver.lags[at], np.nan),
        "noise": noise,
    }


def _checked_limit(method: str, threshold: float | None, oscillation: float | None) -> float:
    if method not in METHODS:
        raise KetyError(f"unknown method {method!r}; valid: {', '.join(METHODS)}")
    useless = threshold if method == "oscillation" else oscillation
    if useless is not None:
        name, other = "threshold", "oscillation"
        if method != "oscillation":
            name, other = other, name
        raise KetyError(
            f"{name}={useless!r} is not used by the method {method!r}; give {other}, or leave it "
            "out"
        )
    if method == "oscillation":
        limit = OSCILLATION if oscillation is None else float(oscillation)
        if not (np.isfinite(limit) and limit > 0):
            raise KetyError(f"oscillation must be a positive number, found {oscillation!r}")
        return limit
    limit = THRESHOLDS[method] if threshold is None else float(threshold)
    if not 0 < limit < 1:
        raise KetyError(f"threshold must lie between 0 and 1, found {threshold!r}")
    return limit


def _checked_threads(threads: int | None) -> int:
    count = available_threads() if threads is None else threads
    if not isinstance(count, int) or count < 1:
        raise KetyError(f"threads must be a whole number, at least 1, found {threads!r}")
    return count


def _attributes() -> dict[str, dict[str, Any]]:
    """Units, words and OSIPI codes of the maps; names as well, in their order."""
    flow = "mL/100mL/min"
    out: dict[str, dict[str, Any]] = {}
    for name, units, words, code in (
        ("fb", flow, "blood flow", "Q.PH1.003"),
        ("fp", flow, "blood plasma flow", "Q.PH1.002"),
        ("volume", "mL/100mL", "blood volume, or distribution volume of blood", "Q.PH1.001"),
        ("mtt", "s", "mean transit time", "Q.PH1.006"),
    ):
        out[name] = {"units": units, "long_name": words, "osipi": code}
        error = f"standard error of the {words}"
        out[f"{name}_se"] = {"units": units, "long_name": error, "osipi": ""}
    words = "time of the residue function's maximum after the input"
    out["tmax"] = {"units": "s", "long_name": words, "osipi": ""}
    out["noise"] = {"units": "unit of the curves", "long_name": "noise of a frame", "osipi": ""}
    words = "flow times residue function"
    out["residue"] = {"units": flow, "long_name": words, "osipi": ""}
    return out
