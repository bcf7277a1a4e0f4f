"""What error to expect of a study before it is made: Cramér–Rao bound and simulation.

Truth curves come from the input as it is given. They get noise and go through the chosen fit with
the input that a study would have: known at other times, and with noise of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.bound import cramer_rao, noise_of_frames
from kety.errors import KetyError
from kety.fitting.forward import check_coverage, checked_times, simulate_curves
from kety.fitting.problem import Problem, make_problem
from kety.fitting.status import Status
from kety.models import Derived, Parameter
from kety.signal import baseline_frames, noise_weights
from kety.tissues import PUBLISHED, TISSUES, Ranges, checked_tissues, drawn

if TYPE_CHECKING:
    import xarray

    from kety.inputs import InputFunction

__all__ = ["FIGURES", "PUBLISHED", "TISSUES", "Ranges", "cramer_rao", "expected_errors"]

Floats = NDArray[np.float64]

PERCENT: Final = ("median_error", "mean_percent_error")
FIGURES: Final = ("typical_error", "bias", "sd", "rmse", *PERCENT, "coverage")
"""Figures of the simulation that have confidence limits, ``<name>_low`` and ``<name>_high``."""
TYPICAL: Final = 0.683
"""Share of voxels within the typical error, as within a standard deviation of a normal one."""

SCANS: Final = 50
"""Noisy inputs that are tried; all voxels of a scan share theirs."""
BOUNDS_DRAWN: Final = 2048  # draws from ranges for which the bound is computed
NORMAL: Final = 1.96  # half a 95 % interval in standard errors


def expected_errors(
    times: ArrayLike,
    noise: float | ArrayLike | Mapping[str, float],
    aif: InputFunction,
    *,
    tissues: Mapping[str, Mapping[str, float] | Ranges] | Ranges | None = None,
    model: str = "extended_tofts",
    delay: bool | float | str = True,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    optimizer: Any = None,
    discretization: Any = "exact",
    input_times: ArrayLike | str | None = None,
    input_noise: float = 0.0,
    copies: int = 2000,
    seed: int = 0,
    baseline: bool | str = False,
    dtype: str = "float32",
    threads: int | None = None,
    progress: bool = False,
    portal: InputFunction | None = None,
) -> xarray.Dataset:
    """Expect the errors of a study: the Cramér–Rao bound, and noisy copies through the fit.

    Parameters
    ----------
    times : (T,) array
        Frame times, s.
    noise : float, (T,) array, or mapping of str to float
        Standard deviation of the white noise of every frame in the input's unit, for all tissues or
        for each. 0 leaves the errors of the method alone. Of frames that differ, as phases of other
        dose do, one for each; the fit then weights them (`kety.signal.noise_weights`).
    aif : InputFunction
        The true input. It must cover the frames and should be finer than they are.
    tissues : mapping of str to (mapping of str to float, or Ranges), or Ranges, optional
        Name to the true parameters in public units (a delay left out is 0), or to ranges from which
        each copy draws its own, pooled in one row. Default: `TISSUES`.
    model, delay, bounds, optimizer, discretization, dtype, threads, progress
        As of `kety.fit`, to which they go.
    baseline : bool or "subtract"
        Known to be 0 (False); a constant of each voxel that is fitted along (True); or the mean of
        its noisy frames before arrival, subtracted from all before the fit.
    input_times : (n,) array or "frames", optional
        Times (s) at which the fit knows the input; ``"frames"``: where an input measured in the
        series is known. Default: as ``aif`` is given.
    input_noise : float
        Standard deviation of the noise of those samples, in the input's unit, shared by all voxels
        of a scan; `SCANS` scans are simulated.
    portal : InputFunction, optional
        The portal vein's input, true and known, for the models with two inputs.
    copies, seed : int
        Noisy voxels of each tissue, at least 2, and where their random numbers start. Truths drawn
        from ranges do not depend on the frames: protocols are compared on the same voxels.

    Returns
    -------
    xarray.Dataset
        On (tissue, parameter), units in the coordinate ``units``: ``truth`` (mean of the draws),
        ``crb`` (see `cramer_rao`; root mean square over draws; with a baseline to be found, fitted
        along or subtracted, that of unknown baseline), ``typical_error``, within which `TYPICAL` of
        the errors lie, those of voxels without an estimate being infinite; of the others ``bias``
        and its Monte Carlo standard error ``bias_error``, ``sd`` of the errors, ``rmse``; in %:
        ``median_error`` and ``mean_percent_error`` of |error / truth|; ``coverage``, the share of
        voxels within one of their own standard errors of the truth; 95 % confidence limits (see
        `FIGURES`); ``note``. On (tissue): ``noise`` (root mean square over
        frames), whether truths are ``drawn``, and the shares of voxels ``failed`` (a parameter has
        no estimate), ``at_bound`` and ``iteration_limit``. On (tissue, parameter, copy): ``error``
        and ``percent_error``, signed.

    `KetyError` is raised for arguments that do not fit together, and says what was expected.
    """
    import xarray
    from tqdm import tqdm

    from kety.api import fit

    fitted: dict[str, Any] = {"model": model, "bounds": bounds, "dtype": dtype, "portal": portal}
    if baseline not in (True, False, "subtract"):
        raise KetyError(f"baseline must be True, False or 'subtract', found {baseline!r}")
    # A constant that is subtracted is an unknown too.
    fitted["baseline"] = bool(baseline)
    # A delay that is set from the onset is an estimate too.
    checks: dict[str, Any] = {"delay": True if isinstance(delay, str) else delay, "threads": 1}
    problem = make_problem(times, aif, **fitted, **checks, weights=None, find_enhancing=False)
    record, frames = problem.model, problem.times
    chosen = checked_tissues(tissues, record)
    noises, weights = _noises(noise, chosen, frames.size)
    copies, seed = _number("copies", copies, 2, int), _number("seed", seed, 0, int)
    known = _known_input(aif, input_times, frames)
    input_noise = _number("input_noise", input_noise, 0)
    truths = [drawn(tissue, record, copies, seed) for tissue in chosen.values()]
    curves = np.random.default_rng([seed, 1]).standard_normal((len(chosen), copies, frames.size))
    for i, (truth, sd) in enumerate(zip(truths, noises, strict=True)):
        curves[i] = sd * curves[i] + simulate_curves(truth, frames, aif, model, portal=portal)
    how, fitted["baseline"] = "fitted along" if baseline else "known", baseline is True
    if baseline == "subtract":
        early = _before_arrival(aif, frames)
        curves -= curves[:, :, early].mean(axis=2, keepdims=True)
        how = f"subtracted, mean of {early.size} frame{'s' * (early.size > 1)}"

    quantities: tuple[Parameter | Derived, ...] = (*record.parameters, *record.derived)
    values = np.full((len(chosen), copies, len(quantities)), np.nan)
    errors, status = values.copy(), np.zeros(values.shape[:2], np.uint8)
    # What is independent: voxels, or scans where voxels share a noisy input.
    scans = min(SCANS, copies) if input_noise else 1
    group = np.arange(copies) * scans // copies if input_noise else np.arange(copies)
    for scan in tqdm(range(scans), desc="scans", disable=not progress or scans == 1):
        part = np.flatnonzero(group == scan) if input_noise else group
        random = np.random.default_rng([seed, 2, scan])
        samples = known.concentration + input_noise * random.standard_normal(known.times.size)
        maps = fit(
            curves[:, part],
            frames,
            replace(known, concentration=samples) if input_noise else known,
            delay=delay,
            **fitted,
            weights=weights,
            mask=np.ones((len(chosen), part.size), np.bool_),
            optimizer=optimizer,
            discretization=discretization,
            threads=threads,
            progress=progress and scans == 1,
        )
        if maps.attrs["interrupted"]:
            raise KeyboardInterrupt
        for k, q in enumerate(quantities):
            values[:, part, k], errors[:, part, k] = maps[q.name], maps[f"{q.name}_se"]
        status[:, part] = maps["status"]
    values[~np.isfinite(values)] = np.nan
    rows = zip(truths, noises, values, errors, strict=True)
    cells = [_cells(problem, *row, group) for row in rows]
    stacked = {key: np.array([[c[key] for c in row] for row in cells]) for key in cells[0][0]}
    stacked["noise"] = np.array([np.sqrt(np.mean(np.square(sd))) for sd in noises])
    stacked["failed"] = np.isnan(values).any(axis=2).mean(axis=1)
    stacked["drawn"] = np.array([truth[record.names[0]].size > 1 for truth in truths])
    for outcome in (Status.AT_BOUND, Status.ITERATION_LIMIT):
        stacked[outcome.meaning] = (status == outcome).mean(axis=1)
    return xarray.Dataset(
        {name: (("tissue", "parameter", "copy")[: a.ndim], a) for name, a in stacked.items()},
        coords={
            "tissue": list(chosen),
            "parameter": [q.name for q in quantities],
            "units": ("parameter", [q.unit for q in quantities]),
            "time": frames,
        },
        attrs={
            **maps.attrs,
            "baseline": how,
            "input": f"{aif.name}, known at {known.times.size} times",
            "input_noise": input_noise,
            "seed": seed,
        },
    )


def _number(name: str, value: Any, least: int, kind: type = float) -> Any:
    valid = (int, np.integer) if kind is int else (int, float, np.number)
    if isinstance(value, valid) and least <= value < np.inf:
        return kind(value)
    what = "whole" if kind is int else "finite"
    raise KetyError(f"{name} must be a {what} number, at least {least}, found {value!r}")


def _noises(
    noise: Any, tissues: Collection[str], frames: int
) -> tuple[Sequence[float | Floats], Floats | None]:
    """Noise of each tissue, checked, and the weights of the frames where these differ."""
    if np.ndim(noise) and not isinstance(noise, Mapping):
        each = noise_of_frames(noise, frames)
        return [each] * len(tissues), noise_weights(each)
    given = noise if isinstance(noise, Mapping) else dict.fromkeys(tissues, noise)
    if set(given) != set(tissues):
        raise KetyError(f"noise is given for {', '.join(given)}; expected {', '.join(tissues)}")
    return [_number(f"noise of {name}", given[name], 0) for name in tissues], None


def _known_input(
    aif: InputFunction, input_times: ArrayLike | str | None, frames: Floats
) -> InputFunction:
    if input_times is None:
        return aif
    if isinstance(input_times, str) and input_times != "frames":
        raise KetyError(f"input_times must be 'frames' or times in s, found {input_times!r}")
    known = frames if isinstance(input_times, str) else checked_times(input_times)
    check_coverage(aif, known, known[-1])
    return replace(aif, times=known, concentration=aif(known))


def _before_arrival(aif: InputFunction, frames: Floats) -> NDArray[np.intp]:
    try:
        return baseline_frames(aif(frames), frames)
    except KetyError:
        raise KetyError(
            "no frame shows the baseline before the input arrives, so there is none to subtract; "
            "begin earlier, or have the baseline fitted along"
        ) from None


def _cells(
    problem: Problem, truth: Any, noise: float | Floats, values: Floats, errors: Floats, group: Any
) -> list[dict[str, Any]]:
    """All that is told of each parameter of one tissue, from its estimates (copy, parameter)."""
    model, aif = problem.model, problem.aif
    limits = dict(problem.bounds)
    fixed = {name: np.array(lo) for name, (lo, hi) in limits.items() if lo == hi}
    some = {name: true[:BOUNDS_DRAWN] for name, true in truth.items()}
    options: dict[str, Any] = {"fixed": fixed, "baseline": problem.baseline}
    options["portal"] = problem.portal
    bounds = cramer_rao(some, problem.times, noise, aif, model.name, **options)
    cells = []
    for d in model.derived:
        truth[d.name] = d.value(*(truth[n] for n in d.of), aif.hematocrit)
        if fixed.keys() >= set(d.of):
            limits[d.name] = (float(d.value(*(fixed[n] for n in d.of), aif.hematocrit)),) * 2
    for k, (name, true) in enumerate(truth.items()):
        error = values[:, k] - true
        percent = 100 * error / np.where(true == 0, np.nan, np.abs(true))
        bound = bounds[name][np.isfinite(bounds[name])]
        cell = _figures(error, percent, errors[:, k], group)
        cell["truth"] = true.mean()
        cell["crb"] = np.sqrt(np.mean(bound**2)) if bound.size else np.nan
        cell["note"] = _note(true, bounds[name], *limits.get(name, (-np.inf, np.inf)))
        cell["error"], cell["percent_error"] = error.astype(np.float32), percent.astype(np.float32)
        cells.append(cell)
    return cells


def _note(true: Floats, bound: Floats, lower: float, upper: float) -> str:
    outside = bool(((true < lower) | (true > upper)).any())
    if lower == upper:
        return f"fixed at {lower:g}{', which is not the truth' if outside else ''}"
    lost = float(np.mean(np.isnan(bound)))
    share = "" if lost == 1 else f" in {100 * lost:.2g} % of the draws"
    notes = [f"truth outside the bounds {lower:g} to {upper:g}"] if outside else []
    return "; ".join(notes + [f"not determined by the frames{share}"] * (lost > 0))


def _figures(error: Floats, percent: Floats, standard: Floats, group: Any) -> dict[str, Any]:
    """`FIGURES` of one parameter with their confidence limits; NaN where there are no estimates."""
    out: dict[str, Any] = {f"{n}{end}": np.nan for n in FIGURES for end in ("", "_low", "_high")}
    out["bias_error"] = np.nan

    def put(name: str, value: float, low: float, high: float) -> None:
        out.update({name: value, f"{name}_low": low, f"{name}_high": high})

    def put_quantile(name: str, level: float, sizes: Floats, one: Any) -> None:
        ordered = np.sort(sizes)
        half = _mean(sizes <= ordered[int(level * sizes.size)], one)[1]
        at = np.clip([level, level - half, level + half], 0, 1) * (sizes.size - 1)
        put(name, *ordered[np.rint(at).astype(int)])

    put_quantile("typical_error", TYPICAL, np.nan_to_num(np.abs(error), nan=np.inf), group)
    here = np.isfinite(error)
    if here.sum() > 1:
        e, one = error[here], group[here]
        bias, half = _mean(e, one)
        put("bias", bias, bias - half, bias + half)
        out["bias_error"] = half / NORMAL
        for name, squares in (("sd", (e - bias) ** 2 * e.size / (e.size - 1)), ("rmse", e**2)):
            mean, half = _mean(squares, one)
            root = np.sqrt(mean)
            half = half / (2 * root) if root else 0.0
            put(name, root, max(root - half, 0.0), root + half)
    here &= np.isfinite(standard)
    if here.sum() > 1:
        share, half = _mean(np.abs(error[here]) <= standard[here], group[here])
        put("coverage", share, max(share - half, 0.0), min(share + half, 1.0))
    here = np.isfinite(percent)
    if here.sum() > 1:
        p, one = np.abs(percent[here]), group[here]
        mean, half = _mean(p, one)
        put("mean_percent_error", mean, mean - half, mean + half)
        put_quantile("median_error", 0.5, p, one)
    return out


def _mean(values: NDArray[Any], group: Any) -> tuple[float, float]:
    """Mean and half its 95 % interval; groups are independent, their members need not be."""
    mean, groups = float(values.mean()), max(np.unique(group).size, 2)
    squares = np.bincount(group, values - mean) ** 2
    return mean, NORMAL * float(np.sqrt(groups / (groups - 1) * squares.sum())) / values.size
