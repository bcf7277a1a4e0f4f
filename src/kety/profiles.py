"""Profile-likelihood intervals: how far a parameter can go before the fit is worse than noise.

The profile of a quantity q is the least sum of squares S(q) over all other parameters. The interval
holds the q for which S(q) is not above a limit (Bates and Watts, Nonlinear Regression Analysis and
Its Applications, 1988, section 6.1; Venzon and Moolgavkar, Appl Stat 37:87, 1988):

    "f":     S(q) = S + s^2 F(1, n - p; level),  s^2 = S / (n - p)
    "chi2":  n ln(S(q) / S) = chi2(1; level)

for n frames and p free parameters. Where a model is linear, the first is the interval of the
standard error. Where it is not, the profile follows its bend: intervals are lopsided, and stay open
where the data do not bound the quantity (Raue et al., Bioinformatics 25:1923, 2009).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.bootstrapping import LEVEL, check_level, free_parameters, problem_of, refuse
from kety.errors import KetyError
from kety.fitting.discretize import Discretization, get_discretization
from kety.fitting.optimizers import VarProLM, get_optimizer
from kety.fitting.problem import Problem
from kety.fitting.profile import Profiles
from kety.fitting.sensitivity import ExactModel
from kety.fitting.status import FITTED
from kety.progress import Progress, reporter
from kety.voxels import voxels_of

if TYPE_CHECKING:
    import xarray

    from kety.inputs import InputFunction

STATISTICS: Final = ("f", "chi2")
BLOCK: Final = 2048
"""Voxels at a time; bounds the working memory."""
OPEN: Final = ("closed", "lower_open", "upper_open", "both_open")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Profile:
    """Options of profile-likelihood intervals.

    Attributes
    ----------
    parameters : tuple of str
        Parameters or derived quantities; all where empty.
    level : float
        Probability of the interval, between 0 and 1.
    statistic : {"f", "chi2"}
        The limit of the sum of squares, see `kety.profiles`. ``"f"`` allows for the noise being
        estimated from the same few frames.
    """

    parameters: tuple[str, ...] = ()
    level: float = LEVEL
    statistic: str = "f"

    def __post_init__(self) -> None:
        check_level(self.level)
        if self.statistic not in STATISTICS:
            raise KetyError(f"unknown statistic {self.statistic!r}; valid: {', '.join(STATISTICS)}")


def profile(
    curves: ArrayLike,
    times: ArrayLike,
    aif: InputFunction,
    model: str = "extended_tofts",
    parameters: str | Sequence[str] | None = None,
    *,
    level: float = LEVEL,
    statistic: str = "f",
    progress: bool | Progress = False,
    **options: Any,
) -> xarray.Dataset:
    """Fit, and find the profile-likelihood interval of parameters in every voxel.

    Parameters
    ----------
    curves, times, aif, model, progress, **options
        As of `kety.fit`; one model, voxel by voxel (no ``joint``), with the exact discretization
        and the default solver, the delay free or fixed, without ``fitted``.
    parameters : str or sequence of str, optional
        Parameters or derived quantities, e.g. ``("ktrans", "ve")``; all where left out.
    level, statistic
        See `kety.profiles.Profile`.

    Returns
    -------
    xarray.Dataset
        What `kety.fit` returns, and for every quantity ``<name>_lower`` and ``<name>_upper`` in its
        unit, and ``<name>_open``, a CF flag map. A limit is open where the profile stays below the
        limit of the sum of squares: the data do not bound the quantity there. It is then the
        parameter's own bound, or infinite for a derived quantity that grows without one. The
        attribute ``profile_improved`` counts voxels for which a better fit was found on the way.

    Raises
    ------
    KetyError
        For options that are not valid, and as `kety.fit`.

    Notes
    -----
    About 0.5 ms for each voxel and quantity of a model of one rate, 2 ms of exchange models.
    """
    from kety.api import fit

    names = (
        () if parameters is None else (parameters,) if isinstance(parameters, str) else parameters
    )
    how = Profile(tuple(names), level, statistic)
    check(how, model, options)
    maps = fit(curves, times, aif, model, progress=progress, **options)
    return add_profiles(maps, curves, times, aif, how, progress=progress, **options)


def check(how: Profile, model: Any, options: dict[str, Any]) -> None:
    """Refuse what a profile cannot be found for."""
    from kety.models import get_model

    refuse(model, options, "the profile")
    solver = options.get("optimizer")
    exact = get_discretization(options.get("discretization") or "exact") == Discretization()
    if not exact or not isinstance(get_optimizer(solver), VarProLM):
        raise KetyError(
            "the profile is of the exact model and the default solver's optimum; leave optimizer "
            "and discretization out"
        )
    if isinstance(options.get("delay"), str):
        raise KetyError(
            f"the profile needs the delay fitted or fixed, found {options['delay']!r}; give True, "
            "False or a number of s"
        )
    record = get_model(model)
    initial = ("c0",) if options.get("initial") else ()
    known = (*record.names, *initial, *(d.name for d in record.derived))
    unknown = [n for n in how.parameters if n not in known]
    if unknown:
        raise KetyError(
            f"{model} has no {', '.join(map(str, unknown))} to profile; it has {', '.join(known)}"
        )


def add_profiles(
    maps: xarray.Dataset,
    curves: ArrayLike,
    times: ArrayLike,
    aif: InputFunction,
    how: Profile,
    *,
    progress: bool | Progress = False,
    **options: Any,
) -> xarray.Dataset:
    """The maps of a fit of these curves with the intervals beside them; see `profile`."""
    problem = problem_of(maps, times, aif, options)
    record = problem.model
    model = ExactModel(problem)
    wanted = how.parameters or (*model.names, *(d.name for d in record.derived))
    fitted = np.isin(maps["status"].values, [int(s) for s in FITTED])
    image = voxels_of(curves, len(problem.times), fitted)
    held = _fixed(problem)
    estimates = np.stack([image.flat(maps[n]) for n in model.names], axis=1).astype(np.float64)
    errors = {n: image.flat(maps[f"{n}_se"]).astype(np.float64) for n in wanted}
    unknowns = free_parameters(maps, [n for n in map(str, maps.data_vars) if f"{n}_se" in maps])
    limits = {n: np.full((2, len(image.curves)), np.nan, maps[n].dtype) for n in wanted}
    opened = {n: np.zeros(len(image.curves), np.uint8) for n in wanted}
    report = reporter(progress, image.count)
    done = improved = 0
    interrupted = bool(maps.attrs["interrupted"])
    try:
        for part in image.blocks(BLOCK):
            block = image.curves[part].astype(np.float64)
            start = _filled(model, estimates[part])
            search = Profiles(model, block, start, unknowns, how.level, how.statistic)
            for name in wanted:
                if name in held:
                    continue
                found, flags = search.interval(name, errors[name][part])
                limits[name][:, part], opened[name][part] = found, flags
            improved += int(search.improved.sum())
            done += len(block)
            report(done, image.count)
    except KeyboardInterrupt:
        interrupted = True
    report(-1, image.count)
    variables: dict[str, Any] = {}
    percent = f"{100 * how.level:g} % interval of the {{}} (profile likelihood)"
    for name in wanted:
        dims, attrs = maps[name].dims, maps[name].attrs
        words = percent.format(attrs["long_name"])
        for end, flat in zip(("lower", "upper"), limits[name], strict=True):
            given = {
                "units": attrs["units"],
                "osipi": "",
                "long_name": f"{end} limit of the {words}",
            }
            variables[f"{name}_{end}"] = (dims, image.image(flat), given)
        given = {
            "units": "1",
            "osipi": "",
            "long_name": f"limits of the {words} that the data do not set",
            "flag_values": np.arange(len(OPEN), dtype=np.uint8),
            "flag_meanings": " ".join(OPEN),
        }
        variables[f"{name}_open"] = (dims, image.image(opened[name]), given)
    return maps.assign(variables).assign_attrs(
        interrupted=int(interrupted),
        profile=how.statistic,
        profile_level=how.level,
        profile_improved=improved,
    )


def _fixed(problem: Problem) -> set[str]:
    """Quantities that the bounds leave no room."""
    fixed = {n for n, (lo, hi) in problem.bounds.items() if lo == hi}
    return fixed | {d.name for d in problem.model.derived if set(d.of) <= fixed}


def _filled(model: ExactModel, estimates: Floats) -> Floats:
    """Starts (V, P): estimates, and small values of parameters that the data do not determine."""
    lo, hi = model.lower, model.upper
    return np.where(np.isfinite(estimates), estimates, lo + 0.02 * (hi - lo))
