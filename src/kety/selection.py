"""Several models, and in every voxel the one that its curve supports: AIC, AICc, BIC.

The formulas, and what counts as an unknown, are in `kety.fitting.criterion`. Models are compared on
the same frames, weights and setting of the delay. A fit that did not converge takes no part, and a
voxel that no model finds to enhance has none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError
from kety.fitting.criterion import CRITERIA, criterion
from kety.fitting.maps import dims_of
from kety.fitting.problem import Problem, make_problem
from kety.fitting.status import Status
from kety.models import Derived, Model, Parameter, get_model
from kety.progress import Progress, reporter
from kety.voxels import Voxels, voxels_of

if TYPE_CHECKING:
    import xarray

    from kety.inputs import InputFunction

NO_MODEL: Final = "none"
NO_ENHANCEMENT: Final = "no_enhancement"
BLOCK: Final = 1 << 17
"""Voxels that all models are fitted to before the next ones; bounds the working memory."""
ROUNDING: Final = {"float32": 4e-6, "float64": 1e-11}
"""Residual over signal below which fits differ by rounding, which is no evidence for a model."""
COMPETING: Final = (Status.CONVERGED, Status.AT_BOUND, Status.NOT_IDENTIFIABLE)
"""Outcomes of fits that take part in the choice."""

Floats = NDArray[np.float64]
Fit = Callable[..., "xarray.Dataset"]


def check_models(models: Sequence[str | Model], select: str | None) -> tuple[Any, ...]:
    """The models to choose from, names or records as they are given.

    Raises
    ------
    KetyError
        For fewer than two models, one of them twice, or a criterion that is missing or unknown.
    """
    if not isinstance(models, Sequence):
        raise KetyError(f"models must be a sequence of names, found {models!r}")
    names = tuple(models)
    valid = ", ".join(CRITERIA)
    if select is None:
        raise KetyError(
            f"several models are given ({', '.join(map(str, names))}), but not what chooses "
            f"between them; give select: {valid}"
        )
    if select not in CRITERIA:
        raise KetyError(f"unknown select {select!r}; valid: {valid}")
    if len(names) < 2 or len({get_model(n).name for n in names}) < len(names):
        raise KetyError(
            f"select chooses between models; give two or more different ones, found {names}"
        )
    return names


@dataclass(frozen=True)
class Choice:
    """Models that compete: their problems, the criterion, and what they are compared on.

    ``unknowns`` counts what each of them estimates; ``frames`` are those of weight above 0.
    """

    select: str
    problems: tuple[Problem, ...]
    frames: int
    unknowns: tuple[int, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(p.model.name for p in self.problems)


def fit_several(
    curves: ArrayLike,
    times: ArrayLike,
    aif: InputFunction,
    models: Sequence[str | Model],
    select: str | None,
    *,
    delay: bool | float | str = True,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    mask: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    dtype: str = "float32",
    progress: bool | Progress = False,
    fitted: bool = False,
    baseline: bool = False,
    portal: InputFunction | None = None,
    initial: bool | float = False,
    **options: Any,
) -> xarray.Dataset:
    """Fit several models and keep, in every voxel, the estimates of the one chosen.

    Arguments are those of `kety.fit`, which calls this for several models and describes the result.
    """
    from kety.api import fit

    names = check_models(models, select)
    assert select is not None
    own = _bounds_of(names, bounds, initial)
    # A portal input is for the models that have two.
    second = {name: portal if get_model(name).inputs == 2 else None for name in names}
    if portal is not None and not any(second.values()):
        raise KetyError(
            f"a portal input is given, but "
            f"{', '.join(get_model(n).name for n in names)} have one input each; leave it out"
        )
    choice = _choice(
        names,
        select,
        [
            make_problem(
                times,
                aif,
                name,
                delay=True if isinstance(delay, str) else delay,
                bounds=own[name],
                weights=weights,
                dtype=dtype,
                threads=1,
                find_enhancing=mask is None,
                baseline=baseline,
                portal=second[name],
                initial=initial,
            )
            for name in names
        ],
    )
    voxels = voxels_of(curves, len(choice.problems[0].times), mask)
    report = reporter(progress, voxels.count)
    maps: dict[str, NDArray[Any]] = {}
    known: dict[str, dict[str, Any]] = {}
    shared: dict[str, Any] = {
        "delay": delay,
        "weights": weights,
        "dtype": dtype,
        "baseline": baseline,
    }
    shared |= {"initial": initial, **options}
    like: xarray.Dataset | None = None
    done, interrupted = 0, False
    try:
        # At least one block, so that an empty image has its maps too.
        for part in list(voxels.blocks(BLOCK)) or [slice(0, 0)]:
            block = voxels.curves[part]
            single = []
            for i, name in enumerate(names):
                one = fit(
                    block,
                    times,
                    aif,
                    name,
                    bounds=own[name],
                    portal=second[name],
                    mask=None if mask is None else np.ones(len(block), bool),
                    fitted=fitted or weights is not None,
                    progress=_part(report, done, i, len(names), voxels.count),
                    **shared,
                )
                if one.attrs["interrupted"]:
                    raise KeyboardInterrupt
                single.append(one)
            chosen = _choose(choice, single, block, fitted)
            if like is None:
                like = single[0]
                known = _attributes(choice, single, tuple(chosen))
                maps = {n: _empty(len(voxels.curves), values) for n, values in chosen.items()}
            for name, values in chosen.items():
                maps[name][part] = values
            done += len(block)
            report(done, voxels.count)
    except KeyboardInterrupt:
        interrupted = True
    report(-1, voxels.count)
    if like is None:
        raise KeyboardInterrupt  # nothing is finished
    return _dataset(choice, voxels, maps, known, like, interrupted, done)


def _part(report: Progress, done: int, step: int, steps: int, total: int) -> Progress:
    """Progress of one of the models, as voxels of all."""
    return lambda some, of: report(done + (step * of + some) // steps, total)


def _empty(count: int, like: NDArray[Any]) -> NDArray[Any]:
    """Values of that many voxels: NaN, or 0 of numbers that have none."""
    empty = np.nan if like.dtype.kind == "f" else 0
    return np.full((count, *like.shape[1:]), empty, like.dtype)


def _bounds_of(
    names: Sequence[Any],
    bounds: Mapping[str, tuple[float, float]] | None,
    initial: bool | float,
) -> dict[Any, dict[str, tuple[float, float]]]:
    """Bounds for each model of the parameters that it has."""
    records = {name: get_model(name) for name in names}
    everywhere = () if initial is False else ("c0",)
    if bounds is not None and not isinstance(bounds, Mapping):
        raise KetyError(
            f"bounds must map parameters to (lower, upper), found {type(bounds).__name__}"
        )
    given = dict(bounds or {})
    owners = {n: [r for r in records.values() if n in (*r.names, *everywhere)] for n in given}
    derived = {d.name: d.of for record in records.values() for d in record.derived}
    for name in given:
        if not owners[name] and name in derived:
            raise KetyError(
                f"{name} is derived from {' and '.join(derived[name])} and cannot be bounded; "
                "give bounds for these"
            )
        if not owners[name]:
            known = sorted({n for record in records.values() for n in record.names})
            raise KetyError(
                f"bounds for {name!r}, a parameter of none of "
                f"{', '.join(r.name for r in records.values())}; "
                f"theirs are {', '.join(known)}"
            )
    return {
        name: {n: b for n, b in given.items() if n in (*record.names, *everywhere)}
        for name, record in records.items()
    }


def _choice(names: Sequence[Any], select: str, problems: Sequence[Problem]) -> Choice:
    weights = problems[0].weights
    frames = len(problems[0].times) if weights is None else int((weights > 0).sum())
    unknowns = tuple(p.free_count + p.baseline + 1 for p in problems)
    for name, count in zip(names, unknowns, strict=True):
        least = count + 2 if select == "aicc" else count + 1
        if frames < least:
            raise KetyError(
                f"{select} of {name} needs at least {least} frames for its {count} unknowns (the "
                f"variance of the noise among them), found {frames}; give more frames or simpler "
                "models"
            )
    units: dict[str, str] = {}
    for problem in problems:
        quantities: tuple[Parameter | Derived, ...] = (
            *problem.parameters,
            *problem.model.derived,
        )
        for q in quantities:
            if units.setdefault(q.name, q.unit) != q.unit:
                raise KetyError(
                    f"{q.name} has the unit {q.unit} in {problem.model.name} and "
                    f"{units[q.name]} in another of the models, so one map cannot hold both"
                )
    return Choice(select, tuple(problems), frames, unknowns)


def _choose(
    choice: Choice, single: Sequence[xarray.Dataset], block: NDArray[Any], fitted: bool
) -> dict[str, NDArray[Any]]:
    """Maps (V, ...) of a block of curves (V, T) from those of every model."""
    count, models = len(block), len(choice.names)
    dtype = choice.problems[0].dtype
    status = np.stack([one["status"].values for one in single])
    with np.errstate(invalid="ignore", over="ignore"):
        value = _values(choice, single, block)
    takes_part = np.isin(status, [int(s) for s in COMPETING]) & np.isfinite(value)
    value[~takes_part] = np.inf
    best = np.argmin(value, axis=0)
    found = takes_part.any(axis=0)
    lowest = np.where(found, value[best, np.arange(count)], 0.0)
    weight = np.exp(-0.5 * (value - lowest))
    total = weight.sum(axis=0)
    weight = np.where(found, weight / np.where(found, total, 1.0), np.nan).astype(dtype)

    outcome = _without(status)
    outcome[found] = status[best, np.arange(count)][found]
    chosen = np.where(found, best + 1, 0).astype(np.uint8)
    chosen[outcome == Status.NOT_ENHANCING] = models + 1
    maps: dict[str, NDArray[Any]] = {"chosen": chosen}
    maps["weight"] = np.where(found, weight[best, np.arange(count)], dtype.type(np.nan))
    for name, one in zip(choice.names, weight, strict=True):
        maps[f"weight_{name}"] = one
    skipped = () if fitted else ("fitted", "residual")
    for i, one in enumerate(single):
        here = found & (best == i)
        for name in map(str, one.data_vars):
            if name == "status" or name in skipped:
                continue
            values = one[name].values
            if name not in maps:
                maps[name] = _empty(count, values)
            maps[name][here] = values[here]
    maps["status"] = outcome
    # Quantities of the voxel come after the parameters of all models.
    last = ("baseline", "baseline_se", "cost", "r2", "evaluations", "status", "fitted", "residual")
    ends = {name: maps.pop(name) for name in last if name in maps}
    return maps | ends


def _values(choice: Choice, single: Sequence[xarray.Dataset], block: NDArray[Any]) -> Floats:
    """The criterion (models, V) of every model."""
    data = block.astype(np.float64)
    weights = choice.problems[0].weights
    w = np.ones(data.shape[1]) if weights is None else weights
    floor = (data * data) @ w * ROUNDING[str(choice.problems[0].dtype)] ** 2
    floor = np.maximum(floor, np.finfo(np.float64).tiny)
    values = np.empty((len(single), len(block)))
    for i, (one, unknowns) in enumerate(zip(single, choice.unknowns, strict=True)):
        # The cost map is not weighted: what a weighted fit minimises comes from its residuals.
        cost = (
            one["cost"].values.astype(np.float64)
            if weights is None
            else (one["residual"].values.astype(np.float64) ** 2) @ w
        )
        values[i] = criterion(choice.select, np.maximum(cost, floor), choice.frames, unknowns)
    return values


def _without(status: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Status (V,) of voxels for which no model of (models, V) takes part."""
    outcome: NDArray[np.uint8] = status[0].copy()
    for reason in (Status.NOT_ENHANCING, Status.ITERATION_LIMIT):
        outcome[(status == reason).any(axis=0)] = reason
    return outcome


def _attributes(
    choice: Choice, single: Sequence[xarray.Dataset], names: tuple[str, ...]
) -> dict[str, dict[str, Any]]:
    """Attributes of the maps named."""
    known: dict[str, dict[str, Any]] = {}
    for one in reversed(single):  # what several models have is described by the first of them
        known |= {str(name): dict(variable.attrs) for name, variable in one.data_vars.items()}
    kind = {"aicc": "Akaike", "aic": "Akaike", "bic": "BIC"}[choice.select]
    known["weight"] = {"long_name": f"{kind} weight of the chosen model"}
    for p in choice.problems:
        known[f"weight_{p.model.name}"] = {"long_name": f"{kind} weight of {p.model.long_name}"}
    meanings = (NO_MODEL, *choice.names, NO_ENHANCEMENT)
    known["chosen"] = {
        "long_name": f"model chosen by {choice.select}",
        "flag_values": np.arange(len(meanings), dtype=np.uint8),
        "flag_meanings": " ".join(meanings),
    }
    return {name: {"units": "1", "osipi": "", **known[name]} for name in names}


def _dataset(
    choice: Choice,
    voxels: Voxels,
    maps: Mapping[str, NDArray[Any]],
    known: Mapping[str, dict[str, Any]],
    like: xarray.Dataset,
    interrupted: bool,
    done: int,
) -> xarray.Dataset:
    import xarray

    dims = dims_of(voxels.shape)
    variables: dict[str, Any] = {}
    for name, values in maps.items():
        axes = (*dims, "time") if values.ndim == 2 else dims
        variables[name] = (axes, voxels.image(values), known[name])
    with_time = any(values.ndim == 2 for values in maps.values())
    models = [p.model for p in choice.problems]
    return xarray.Dataset(
        variables,
        coords={"time": like["time"]} if with_time else {},
        attrs={
            **like.attrs,
            "model": "chosen",
            "models": ", ".join(choice.names),
            "select": choice.select,
            "unknowns": ", ".join(map(str, choice.unknowns)),
            "frames_used": choice.frames,
            "model_long_name": f"chosen by {choice.select} of "
            + ", ".join(model.long_name for model in models),
            "model_osipi": ", ".join(model.osipi for model in models),
            "model_reference": "; ".join(model.reference for model in models),
            "bounds": "; ".join(
                f"{n}: {_bounds_in_words(p)}"
                for n, p in zip(choice.names, choice.problems, strict=True)
            ),
            "interrupted": int(interrupted),
            "voxels_done": done,
        },
    )


def _bounds_in_words(problem: Problem) -> str:
    limits = ((p, *problem.bounds[p.name]) for p in problem.parameters)
    return ", ".join(f"{p.name} {lo:g} to {hi:g} {p.unit}" for p, lo, hi in limits)
