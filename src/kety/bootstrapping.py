"""Residual bootstrap: the spread of estimates when the residuals are dealt out again.

Of a fit with curve f and residuals e = y - f, new curves y* = f + e* are fitted as the first was,
and the spread of their estimates is that of the estimate itself (Efron and Tibshirani, An
Introduction to the Bootstrap, 1993, chapters 9 and 13). Fitting makes residuals smaller than the
noise, so they are scaled by sqrt(n / (n - p)), n frames and p free parameters. Ways to deal them
out:

- ``"iid"``: drawn with replacement, their mean subtracted. For noise that is the same in all
  frames (with weights: after scaling each residual by the root of its weight).
- ``"wild"``: each frame keeps its residual, with a random sign (Wu, Ann Stat 14:1261, 1986;
  Davidson and Flachaire, J Econometrics 146:162, 2008). For noise that differs between frames in a
  way that is not known. The fit follows some frames more than others, so each is scaled by its own
  1 / sqrt(1 - h), h the diagonal of the projection on the model's derivatives.
- ``"stationary"``: runs of neighbouring residuals, of a mean length (Politis and Romano, J Am Stat
  Assoc 89:1303, 1994). For residuals that are correlated, of noise or of a model that does not fit.

The draws are the same for all voxels, so that a voxel's result depends on no other. Each voxel's
interval is right; what chance adds to it is common to all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError
from kety.fitting.problem import Problem, make_problem
from kety.fitting.sensitivity import ExactModel
from kety.fitting.status import FITTED
from kety.fitting.whiteness import leverages
from kety.progress import Progress, reporter
from kety.voxels import Voxels, voxels_of

if TYPE_CHECKING:
    import xarray

    from kety.inputs import InputFunction

RESIDUALS: Final = ("iid", "wild", "stationary")
LEVEL: Final = 0.683
"""Probability of an interval of one standard error to either side of a normal estimate."""
CURVES: Final = 1 << 16
"""Curves fitted at a time; bounds the working memory."""
MOST_FOLLOWED: Final = 0.95
"""Largest h that scales a residual of the wild bootstrap."""
LEAST: Final = 0.9
"""Share of refits that must give a value; below it there is no interval."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Bootstrap:
    """Options of a residual bootstrap.

    Attributes
    ----------
    samples : int
        Refits of each voxel, at least 20. The standard error has a chance error of
        1 / sqrt(2 samples) of itself: 5 % of 200; limits of an interval about twice that.
    level : float
        Probability of the interval, between 0 and 1.
    residuals : {"iid", "wild", "stationary"}
        How residuals are dealt out, see `kety.bootstrapping`.
    run : float, optional
        Mean number of frames of a run of ``"stationary"``; the cube root of the number of frames
        times 1.5 where left out.
    seed : int
        Where the random numbers start.
    """

    samples: int = 200
    level: float = LEVEL
    residuals: str = "iid"
    run: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.residuals not in RESIDUALS:
            raise KetyError(
                f"unknown residuals {self.residuals!r} of the bootstrap; valid: "
                f"{', '.join(RESIDUALS)}"
            )
        if not isinstance(self.samples, int) or self.samples < 20:
            raise KetyError(f"samples must be a whole number, at least 20, found {self.samples!r}")
        check_level(self.level)
        if not isinstance(self.seed, int) or self.seed < 0:
            raise KetyError(f"seed must be a whole number, at least 0, found {self.seed!r}")
        if self.run is not None and self.residuals != "stationary":
            raise KetyError(
                f"run is the mean length of runs of stationary residuals, found {self.residuals}; "
                "leave it out, or give residuals='stationary'"
            )
        if self.run is not None and not 1.0 <= self.run < np.inf:
            raise KetyError(f"run must be a number of frames, at least 1, found {self.run!r}")


def check_level(level: float) -> float:
    """The probability of an interval, or `KetyError`."""
    if not isinstance(level, int | float) or not 0.0 < level < 1.0:
        raise KetyError(f"level must lie between 0 and 1, found {level!r}; e.g. 0.683 or 0.95")
    return float(level)


def bootstrap(
    curves: ArrayLike,
    times: ArrayLike,
    aif: InputFunction,
    model: str = "extended_tofts",
    *,
    samples: int = 200,
    level: float = LEVEL,
    residuals: str = "iid",
    run: float | None = None,
    seed: int = 0,
    progress: bool | Progress = False,
    **options: Any,
) -> xarray.Dataset:
    """Fit, and find intervals of every parameter by the residual bootstrap.

    Parameters
    ----------
    curves, times, aif, model, progress, **options
        As of `kety.fit`; one model, voxel by voxel (no ``joint``), without ``fitted``.
    samples, level, residuals, run, seed
        See `kety.bootstrapping.Bootstrap`.

    Returns
    -------
    xarray.Dataset
        What `kety.fit` returns, and for every parameter, derived ones too, ``<name>_lower`` and
        ``<name>_upper`` (percentiles, so that the interval of a derived quantity is exact and none
        leaves the bounds), ``<name>_se_bootstrap`` (standard deviation) and ``<name>_bias`` (mean
        of the refits less the estimate), in its unit. They are NaN where fewer than nine refits in
        ten gave a value, and for a parameter that is held.

    Raises
    ------
    KetyError
        For options that are not valid, and as `kety.fit`.
    """
    from kety.api import fit

    how = Bootstrap(samples, level, residuals, run, seed)
    refuse(model, options, "the bootstrap")
    maps = fit(curves, times, aif, model, progress=progress, **options)
    return add_bootstrap(maps, curves, times, aif, how, progress=progress, **options)


def refuse(model: Any, options: Mapping[str, Any], what: str) -> None:
    """Refuse arguments of `kety.fit` that refits of one model voxel by voxel cannot have."""
    if not isinstance(model, str):
        raise KetyError(f"{what} is of one model, found {model!r}; choose one first")
    for name in ("joint", "select", "fitted"):
        if options.get(name):
            raise KetyError(f"{what} is of voxelwise estimates of one model; leave {name} out")


def add_bootstrap(
    maps: xarray.Dataset,
    curves: ArrayLike,
    times: ArrayLike,
    aif: InputFunction,
    how: Bootstrap,
    *,
    progress: bool | Progress = False,
    **options: Any,
) -> xarray.Dataset:
    """The maps of a fit of these curves with the bootstrap's beside them; see `bootstrap`."""
    from kety.api import fit

    options = {k: v for k, v in options.items() if k not in ("mask", "autocorrelation", "fitted")}
    problem = problem_of(maps, times, aif, options)
    names = [str(n) for n in maps.data_vars if f"{n}_se" in maps.data_vars]
    fitted = np.isin(maps["status"].values, [int(s) for s in FITTED])
    image = voxels_of(curves, len(problem.times), fitted)
    unknowns = free_parameters(maps, names)
    used = len(problem.times) if problem.weights is None else int((problem.weights > 0).sum())
    drawn = _draws(how, used)
    flat = {
        f"{name}{end}": np.full(len(image.curves), np.nan, maps[name].dtype)
        for name in names
        for end in ("_lower", "_upper", "_se_bootstrap", "_bias")
    }
    report = reporter(progress, image.count * how.samples)
    done, interrupted = 0, bool(maps.attrs["interrupted"])
    usual = np.sqrt(drawn.shape[1] / max(drawn.shape[1] - unknowns, 1))
    name_of_model = str(maps.attrs["model"])
    try:
        for part in image.blocks(max(1, CURVES // how.samples)):
            block = image.curves[part]
            inside = np.ones(len(block), bool)
            first = fit(block, times, aif, name_of_model, mask=inside, fitted=True, **options)
            wild = how.residuals == "wild"
            scale = _own_scale(first, problem, usual) if wild else usual
            again = _resampled(first, drawn, scale, problem.weights)
            all_of_them = np.ones(again.shape[:-1], bool)
            refits = fit(again, times, aif, name_of_model, mask=all_of_them, **options)
            if first.attrs["interrupted"] or refits.attrs["interrupted"]:
                raise KeyboardInterrupt
            for name in names:
                if _held(maps, name):
                    continue
                summary = _summary(refits[name].values, first[name].values, how.level)
                for end, values in summary.items():
                    flat[f"{name}{end}"][part] = values
            done += len(block)
            report(done * how.samples, image.count * how.samples)
    except KeyboardInterrupt:
        interrupted = True
    report(-1, image.count)
    return maps.assign(_variables(maps, image, names, flat, how)).assign_attrs(
        interrupted=int(interrupted),
        bootstrap=how.residuals,
        bootstrap_samples=how.samples,
        bootstrap_level=how.level,
        bootstrap_seed=how.seed,
    )


def problem_of(
    maps: xarray.Dataset, times: ArrayLike, aif: InputFunction, options: Mapping[str, Any]
) -> Problem:
    """What was fitted, of the maps and the options of a fit of one model."""
    delay = options.get("delay", True)
    return make_problem(
        times,
        aif,
        str(maps.attrs["model"]),
        delay=True if isinstance(delay, str) else delay,
        bounds=options.get("bounds"),
        weights=options.get("weights"),
        dtype=options.get("dtype", "float32"),
        threads=1,
        find_enhancing=False,
        baseline=options.get("baseline", False),
        portal=options.get("portal"),
        initial=options.get("initial", False),
    )


def free_parameters(maps: xarray.Dataset, names: list[str]) -> int:
    """Number of the parameters that were fitted, a constant along with them."""
    from kety.models import get_model

    derived = {d.name for d in get_model(str(maps.attrs["model"])).derived}
    return sum(n not in derived and not _held(maps, n) for n in names)


def _held(maps: xarray.Dataset, name: str) -> bool:
    """Whether a map has one value and no error anywhere: it was not fitted."""
    values, errors = maps[name].values, maps[f"{name}_se"].values
    known = values[np.isfinite(values)]
    return bool(known.size and (known == known[0]).all() and not np.isfinite(errors).any())


def _draws(how: Bootstrap, count: int) -> NDArray[Any]:
    """Draws (S, n): places of residuals, or signs for ``"wild"``."""
    random = np.random.default_rng(how.seed)
    size = (how.samples, count)
    if how.residuals == "wild":
        return random.integers(0, 2, size) * 2.0 - 1.0
    places = random.integers(0, count, size)
    if how.residuals == "stationary":
        run = 1.5 * count ** (1 / 3) if how.run is None else how.run
        begins = random.random(size) < 1.0 / run
        for t in range(1, count):
            places[:, t] = np.where(begins[:, t], places[:, t], (places[:, t - 1] + 1) % count)
    return places


def _own_scale(first: xarray.Dataset, problem: Problem, usual: float) -> Floats:
    """1 / sqrt(1 - h) (V, n) of every frame of weight above 0."""
    model = ExactModel(problem)
    names = model.names
    values = np.stack([first[n].values for n in names], axis=1).astype(np.float64)
    free = np.stack([np.isfinite(first[f"{n}_se"].values) for n in names], axis=1)
    known = np.isfinite(values).all(axis=1)
    root: Any = 1.0
    used: Any = slice(None)
    if problem.weights is not None:
        used = problem.weights > 0
        root = np.sqrt(problem.weights[used])[:, None]
    slopes = model.curves_and_slopes(values[known])[1][:, used] * free[known][:, None, :]
    if problem.baseline:
        slopes = np.concatenate([slopes, np.ones((*slopes.shape[:2], 1))], axis=2)
    scale = np.full((len(values), slopes.shape[1]), usual)
    followed = np.minimum(leverages(slopes * root), MOST_FOLLOWED)
    scale[known] = 1.0 / np.sqrt(1.0 - followed)
    return scale


def _resampled(
    first: xarray.Dataset, drawn: NDArray[Any], scale: float | Floats, weights: Floats | None
) -> NDArray[Any]:
    """Curves (V, S, T): the fitted ones with scaled residuals dealt out anew."""
    curve, residual = first["fitted"].values, first["residual"].values
    used = np.ones(curve.shape[1], bool) if weights is None else weights > 0
    root = 1.0 if weights is None else np.sqrt(weights[used])
    e = residual[:, used] * root * scale
    if drawn.dtype.kind == "f":
        dealt = e[:, None, :] * drawn
    else:
        dealt = (e - e.mean(axis=1, keepdims=True))[:, drawn]
    again = np.repeat(curve[:, None, :], len(drawn), axis=1)
    again[:, :, used] += (dealt / root).astype(curve.dtype)
    return again


def _summary(refits: NDArray[Any], estimate: NDArray[Any], level: float) -> dict[str, NDArray[Any]]:
    """Interval, standard deviation and bias (V,) of refits (V, S)."""
    known = np.isfinite(refits)
    enough = known.sum(axis=1) >= LEAST * refits.shape[1]
    out = {
        end: np.full(len(refits), np.nan) for end in ("_lower", "_upper", "_se_bootstrap", "_bias")
    }
    values = np.where(known, refits, np.nan)[enough].astype(np.float64)
    if len(values):
        tails = [0.5 * (1 - level), 0.5 * (1 + level)]
        out["_lower"][enough], out["_upper"][enough] = np.nanquantile(values, tails, axis=1)
        out["_se_bootstrap"][enough] = np.nanstd(values, axis=1, ddof=1)
        out["_bias"][enough] = np.nanmean(values, axis=1) - estimate[enough]
    return out


def _variables(
    maps: xarray.Dataset,
    image: Voxels,
    names: list[str],
    flat: Mapping[str, NDArray[Any]],
    how: Bootstrap,
) -> dict[str, Any]:
    percent = f"{100 * how.level:g} % interval of the {{}} (residual bootstrap)"
    words = {
        "_lower": f"lower limit of the {percent}",
        "_upper": f"upper limit of the {percent}",
        "_se_bootstrap": "standard error of the {} (residual bootstrap)",
        "_bias": "bias of the {} (residual bootstrap)",
    }
    variables = {}
    for name in names:
        attrs = maps[name].attrs
        for end, text in words.items():
            given = {
                "units": attrs["units"],
                "osipi": "",
                "long_name": text.format(attrs["long_name"]),
            }
            variables[name + end] = (maps[name].dims, image.image(flat[name + end]), given)
    return variables
