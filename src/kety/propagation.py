"""What an uncertain input, hematocrit or T10 adds to the errors of a fit, by simulation.

The standard errors of a fit know the noise of the voxel's own curve and nothing else. Here what the
fit took for known is drawn anew, many times, the fit repeated, and the spread of each voxel's
estimates is the standard error that the uncertain knowledge adds (JCGM 101:2008, Evaluation of
measurement data, Supplement 1: propagation of distributions by a Monte Carlo method). Draws are
normal and spread evenly over their distribution (Latin hypercube; McKay et al., Technometrics
21:239, 1979), so that few of them suffice.

Such errors are shared. A wrong hematocrit moves all voxels alike, so averaging over a region does
not make this part smaller, as it does with noise. Each ``<name>_se_input`` therefore carries two
attributes: ``region_median_se``, the standard error that it leaves in the median over a region, and
``common_correlation``, the average correlation between the errors of two voxels of the region: 1
where all move alike, 0 where each moves on its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.bootstrapping import refuse
from kety.errors import KetyError
from kety.fitting.status import FITTED
from kety.progress import Progress, reporter
from kety.uncertain import FARTHEST, Scenario, Uncertain, scenarios, uncertain_of
from kety.voxels import Voxels, voxels_of

if TYPE_CHECKING:
    import xarray

    from kety.inputs import InputFunction

SEEN: Final = 1000
"""Most voxels of the region whose correlation is looked at."""
ROUNDING: Final = 1e-6
"""Spread over value below which an estimate did not move."""
LEAST: Final = 0.9
"""Share of the draws that must give a value; below it there is no error."""

Floats = NDArray[np.float64]
Convert = Callable[[Any], ArrayLike]
"""Gives the curves (..., T) for T10 times a factor, one number or one for each voxel (...)."""


def propagate(
    curves: ArrayLike,
    times: ArrayLike,
    aif: InputFunction,
    model: str = "extended_tofts",
    uncertain: Uncertain | Mapping[str, float] | None = None,
    *,
    draws: int = 50,
    seed: int = 0,
    region: ArrayLike | None = None,
    convert: Convert | None = None,
    progress: bool | Progress = False,
    **options: Any,
) -> xarray.Dataset:
    """Fit, and find what an uncertain input, hematocrit or T10 adds to every standard error.

    Parameters
    ----------
    curves, times, aif, model, progress, **options
        As of `kety.fit`; one model, voxel by voxel (no ``joint``), without ``fitted``.
    uncertain : Uncertain, or mapping of str to float
        Standard deviations, see `kety.uncertain.Uncertain`.
    draws, seed : int
        Number of draws, at least 10, and where their random numbers start. The added error of 50
        draws is itself known to about a tenth.
    region : bool array (...), optional
        Region whose median is looked at; all fitted voxels where left out.
    convert : callable, optional
        Needed for an uncertain T10: gives the curves for T10 times a factor, a number or one for
        each voxel (...), e.g. ``lambda f: kety.signal.concentration_from_signal(signal,
        t10=f * t10, ...).values``.

    Returns
    -------
    xarray.Dataset
        What `kety.fit` returns, and for every parameter ``<name>_se_input``, the standard error
        that this adds, and ``<name>_se_total``, with that of the noise in quadrature. NaN where
        fewer than nine draws in ten gave a value. Errors of this kind are common to voxels: see the
        attributes ``region_median_se`` and ``common_correlation`` (`kety.propagation`).

    Raises
    ------
    KetyError
        For options that are not valid, and as `kety.fit`.
    """
    from kety.api import fit

    given = uncertain_of(uncertain)
    refuse(model, options, "propagation of uncertainty")
    maps = fit(curves, times, aif, model, progress=progress, **options)
    return add_propagated(
        maps,
        curves,
        times,
        aif,
        given,
        draws=draws,
        seed=seed,
        region=region,
        convert=convert,
        progress=progress,
        **options,
    )


def add_propagated(
    maps: xarray.Dataset,
    curves: ArrayLike,
    times: ArrayLike,
    aif: InputFunction,
    uncertain: Uncertain,
    *,
    draws: int = 50,
    seed: int = 0,
    region: ArrayLike | None = None,
    convert: Convert | None = None,
    progress: bool | Progress = False,
    **options: Any,
) -> xarray.Dataset:
    """The maps of a fit of these curves with what is added beside them; see `propagate`."""
    from kety.api import fit

    if not isinstance(seed, int) or seed < 0:
        raise KetyError(f"seed must be a whole number, at least 0, found {seed!r}")
    options = {
        k: v for k, v in options.items() if k not in ("mask", "autocorrelation", "fitted", "delay")
    } | {"delay": options.get("delay", True)}
    check(uncertain, aif, options["delay"], draws, convert)
    names = [str(n) for n in maps.data_vars if f"{n}_se" in maps.data_vars]
    fitted = np.isin(maps["status"].values, [int(s) for s in FITTED])
    image = voxels_of(curves, np.asarray(times).size, fitted)
    rows = np.arange(image.count) if image.rows is None else image.rows
    inside = np.flatnonzero(_region(region, fitted, image)[rows])
    seen = np.random.default_rng([seed, 2]).permutation(inside)[:SEEN]
    moments = {name: _Moments(image.count) for name in names}
    middles = {name: np.full(draws, np.nan) for name in names}
    samples = {name: np.full((draws, len(seen)), np.nan) for name in names}
    report = reporter(progress, image.count * draws)
    interrupted = bool(maps.attrs["interrupted"])
    done = 0
    delay = options["delay"]
    try:
        for one in (
            scenarios(uncertain, aif, draws, seed, options.get("portal")) if image.count else []
        ):
            if convert is None:
                block = image.curves[rows]
            else:
                block = _converted(convert, one, uncertain, image, rows)
            here = float(delay) + one.arrival if uncertain.arrival else delay
            inside_block = np.ones(len(block), bool)
            again = fit(
                block,
                times,
                one.aif,
                str(maps.attrs["model"]),
                mask=inside_block,
                **options | {"delay": here, "portal": one.portal},
            )
            if again.attrs["interrupted"]:
                raise KeyboardInterrupt
            for name in names:
                values = again[name].values.astype(np.float64)
                moments[name].add(values)
                some = values[inside]
                some = some[np.isfinite(some)]
                middles[name][done] = np.median(some) if some.size else np.nan
                samples[name][done] = values[seen]
            done += 1
            report(done * image.count, image.count * draws)
    except KeyboardInterrupt:
        interrupted = True
    report(-1, image.count)
    variables: dict[str, Any] = {}
    for name in names:
        numbers = {
            "region_median_se": float(np.std(middles[name][:done], ddof=1)) if done > 1 else np.nan,
            "common_correlation": _correlation(samples[name][:done]),
        }
        added = moments[name].deviation(done)
        variables |= _variables(maps, name, added, numbers, image, rows)
    return maps.assign(variables).assign_attrs(
        interrupted=int(interrupted),
        uncertain=uncertain.in_words(),
        uncertain_draws=done,
        uncertain_seed=seed,
    )


class _Moments:
    """Running mean and variance (V,) of values that may be NaN (Welford, Technometrics 4:419)."""

    def __init__(self, count: int) -> None:
        self.number = np.zeros(count, np.int64)
        self.mean = np.zeros(count)
        self.squares = np.zeros(count)

    def add(self, values: Floats) -> None:
        known = np.isfinite(values)
        self.number += known
        step = np.where(known, values - self.mean, 0.0)
        self.mean += step / np.maximum(self.number, 1)
        self.squares += np.where(known, step * (values - self.mean), 0.0)

    def deviation(self, draws: int) -> Floats:
        enough = (self.number >= max(2.0, LEAST * draws)) & (draws > 1)
        return np.where(enough, np.sqrt(self.squares / np.maximum(self.number - 1, 1)), np.nan)


def check(
    uncertain: Uncertain, aif: InputFunction, delay: Any, draws: int, convert: Convert | None
) -> None:
    """Refuse what cannot be drawn, or would not reach the curves."""
    if not isinstance(draws, int) or draws < 10:
        raise KetyError(f"draws must be a whole number, at least 10, found {draws!r}")
    reach = FARTHEST * uncertain.hematocrit
    if uncertain.hematocrit and not 0.0 <= aif.hematocrit - reach < aif.hematocrit + reach < 1.0:
        raise KetyError(
            f"a hematocrit of {aif.hematocrit:g} with a standard deviation of "
            f"{uncertain.hematocrit:g} is not between 0 and 1 in all draws; give a smaller one"
        )
    if uncertain.arrival and (isinstance(delay, str) or delay is True):
        raise KetyError(
            "an uncertain arrival of the input is taken up by a delay that is estimated, and moves "
            "that alone; leave arrival out, or fix the delay"
        )
    converted = bool(uncertain.t10 or uncertain.t10_voxel)
    if converted and convert is None:
        raise KetyError(
            "an uncertain T10 needs the signal: give convert, which makes the curves for T10 times "
            "a factor"
        )


def _converted(
    convert: Convert, one: Scenario, uncertain: Uncertain, image: Voxels, rows: NDArray[np.intp]
) -> NDArray[Any]:
    """Curves (V, T) of the rows with the T10 of a draw."""
    factor: Any = one.t10
    if uncertain.t10_voxel:
        own = np.clip(one.random.standard_normal(len(image.curves)), -FARTHEST, FARTHEST)
        factor = image.image(one.t10 * (1.0 + uncertain.t10_voxel * own))
    made = voxels_of(convert(factor), image.curves.shape[1], None)
    if made.shape != image.shape:
        raise KetyError(
            f"convert gave curves of {made.shape} voxels, expected {image.shape}, those of curves"
        )
    if made.order == image.order:
        return made.curves[rows]
    return (
        np.asarray(made.curves)
        .reshape(*made.shape, -1, order=made.order)
        .reshape(*image.curves.shape, order=image.order)[rows]
    )


def _region(
    region: ArrayLike | None, fitted: NDArray[np.bool_], image: Voxels
) -> NDArray[np.bool_]:
    if region is None:
        return np.ones(fitted.size, bool)
    chosen = np.asarray(region)
    if chosen.shape != fitted.shape:
        raise KetyError(f"region has shape {chosen.shape}, the curves' voxels have {fitted.shape}")
    return np.asarray(image.flat(chosen) != 0)


def _correlation(values: Floats) -> float:
    """Average correlation of two columns of draws (S, V), of those that are complete and vary."""
    if len(values) < 2:
        return float("nan")
    complete = values[:, np.isfinite(values).all(axis=0)]
    off = complete - complete.mean(axis=0)
    spread = off.std(axis=0)
    # What only rounding moves has no correlation to speak of.
    moved = spread > ROUNDING * np.abs(complete).max(axis=0, initial=0.0)
    count = int(moved.sum())
    if count < 2:
        return float("nan")
    unit = off[:, moved] / spread[moved]
    together = float(np.mean(unit.sum(axis=1) ** 2))
    return (together - count) / (count * (count - 1))


def _variables(
    maps: xarray.Dataset,
    name: str,
    added: Floats,
    numbers: Mapping[str, float],
    image: Voxels,
    rows: NDArray[np.intp],
) -> dict[str, Any]:
    held = not np.isfinite(maps[f"{name}_se"].values).any()
    flat = np.full(len(image.curves), np.nan, maps[name].dtype)
    flat[rows] = np.nan if held else added
    total = np.hypot(image.image(flat), maps[f"{name}_se"].values)
    known = {key: value for key, value in numbers.items() if np.isfinite(value) and not held}
    words, dims = maps[name].attrs["long_name"], maps[name].dims
    attrs = {"units": maps[name].attrs["units"], "osipi": ""}
    added_words = f"standard error of the {words} from what was uncertain"
    total_words = f"standard error of the {words}, noise and what was uncertain"
    return {
        f"{name}_se_input": (dims, image.image(flat), {**attrs, "long_name": added_words, **known}),
        f"{name}_se_total": (dims, total, {**attrs, "long_name": total_words}),
    }
