"""From kernel quantities to public maps: units, derived quantities, errors, attributes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kety.fitting.discretize import Discretization
from kety.fitting.engine import KernelFit, instruction_sets, packed
from kety.fitting.identifiability import lost_by_needs, with_lost
from kety.fitting.optimizers import Optimizer, VarProLM
from kety.fitting.problem import C0, Problem
from kety.fitting.solve import problem_curves
from kety.fitting.status import Status
from kety.models import Derived, Model, Parameter
from kety.version import __version__

if TYPE_CHECKING:
    import xarray


def empty_maps(
    problem: Problem, count: int, fitted: bool, evaluations: Any = np.uint16
) -> dict[str, NDArray[Any]]:
    """Maps of `count` voxels, all of them still outside: NaN, status 0.

    `evaluations` is the type of their number: searches spend more of them than the default solver.
    """
    maps: dict[str, NDArray[Any]] = {}
    names = [*(p.name for p in problem.parameters), *(d.name for d in problem.model.derived)]
    for name in [*(n + s for n in names for s in ("", "_se")), "cost", "r2"]:
        maps[name] = np.full(count, np.nan, problem.dtype)
    if problem.baseline:
        maps["baseline"] = np.full(count, np.nan, problem.dtype)
        maps["baseline_se"] = np.full(count, np.nan, problem.dtype)
    maps["evaluations"] = np.zeros(count, evaluations)
    maps["status"] = np.full(count, Status.OUTSIDE, np.uint8)
    if fitted:
        for name in ("fitted", "residual"):
            maps[name] = np.full((count, len(problem.times)), np.nan, problem.dtype)
    return maps


def store(
    maps: dict[str, NDArray[Any]],
    part: Any,
    problem: Problem,
    result: KernelFit,
    curves: NDArray[Any] | None,
) -> None:
    """Public maps of one block from kernel quantities; errors by first-order propagation."""
    model, aif = problem.model, problem.aif
    values: dict[str, NDArray[Any]] = {}
    slots: dict[str, tuple[int, Any]] = {}
    dtype = problem.dtype.type
    for p in problem.parameters:
        slot = problem.slot(p.name)
        factor = dtype(1.0 / problem.factor(p))
        # The factor's rounding must not carry a value over its bound.
        lo, hi = (dtype(b) for b in problem.bounds[p.name])
        value = np.clip(result.parameters[:, slot] * factor, lo, hi)
        value[(result.undetermined >> slot) & 1 == 1] = np.nan
        values[p.name] = value
        slots[p.name] = (slot, factor)

    def covariance(a: str, b: str) -> NDArray[Any]:
        (i, fi), (j, fj) = slots[a], slots[b]
        scaled: NDArray[Any] = result.covariance[:, packed(i, j)] * (fi * fj)
        return scaled

    errors = {name: np.sqrt(covariance(name, name)) for name in slots}
    for d in model.derived:
        of = [values[n] for n in d.of]
        values[d.name], slopes = d.evaluate(of, aif.hematocrit)
        variance = np.zeros(len(result.cost), problem.dtype)
        for i, a in enumerate(d.of):
            for j, b in enumerate(d.of):
                variance += slopes[i] * slopes[j] * covariance(a, b)
        # Rounding may leave a variance just below 0.
        errors[d.name] = np.sqrt(np.maximum(variance, 0))
    lost = lost_by_needs(problem, result.status, values, errors)
    for name in values:
        maps[name][part] = values[name]
        maps[name + "_se"][part] = np.where(np.isnan(values[name]), dtype(np.nan), errors[name])
    anywhere = np.any(list(lost.values()), axis=0) if lost else np.zeros(len(result.cost), np.bool_)
    maps["cost"][part] = result.cost
    maps["r2"][part] = result.r2
    maps["evaluations"][part] = result.evaluations
    maps["status"][part] = with_lost(result.status, anywhere)
    if result.baseline is not None:
        maps["baseline"][part] = result.baseline[:, 0]
        maps["baseline_se"][part] = np.sqrt(result.baseline[:, 1])
    if curves is not None:
        if result.fitted is not None:
            model_curves = result.fitted.astype(np.float64)
        else:
            model_curves = problem_curves(problem, result.parameters)
        if result.baseline is not None:
            model_curves += result.baseline[:, :1]
        model_curves[~np.isfinite(result.cost)] = np.nan
        maps["fitted"][part] = model_curves
        maps["residual"][part] = curves - model_curves


def to_dataset(
    problem: Problem,
    flat: dict[str, NDArray[Any]],
    shape: tuple[int, ...],
    order: Any,
    interrupted: bool,
    done: int,
    optimizer: VarProLM | Optimizer,
    choice: Discretization,
    delay_words: str,
    attributes: Mapping[str, dict[str, Any]] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> xarray.Dataset:
    """The Dataset of flat maps, on the axes that the curves had before time.

    ``attributes`` of the maps, where there are others than `map_attributes` knows; ``facts`` are
    added to those of the Dataset.
    """
    import xarray

    dims = dims_of(shape)
    known = attributes or map_attributes(problem.model)
    variables = {}
    for name, values in flat.items():
        if values.ndim == 2:
            full = values.reshape(*shape, values.shape[1], order=order)
            variables[name] = ((*dims, "time"), full, known[name])
        else:
            variables[name] = (dims, values.reshape(shape, order=order), known[name])
    times = ("time", problem.times, {"units": "s", "long_name": "frame time"})
    return xarray.Dataset(
        variables,
        coords={"time": times} if "fitted" in flat else {},
        attrs={
            "model": problem.model.name,
            "model_long_name": problem.model.long_name,
            "model_osipi": problem.model.osipi,
            "model_reference": problem.model.reference,
            "software": f"kety {__version__}",
            "optimizer": repr(optimizer),
            **(
                {"max_evaluations": optimizer.max_evaluations}
                if isinstance(optimizer, VarProLM)
                else {}
            ),
            "discretization": choice.kind,
            "processing_rate_hz": choice.grid_rate or 0.0,
            "delay_filter": choice.filter,
            "instruction_set": getattr(optimizer, "instruction_set", "") or instruction_sets()[0],
            "dtype": str(problem.dtype),
            "hematocrit": problem.aif.hematocrit,
            "aif_site": problem.aif.site,
            "aif_interpolation": problem.aif.interpolation,
            "bounds": "; ".join(
                f"{p.name} {problem.bounds[p.name][0]:g} to {problem.bounds[p.name][1]:g} {p.unit}"
                for p in problem.parameters
            ),
            **({"delay": delay_words} if delay_words else {}),
            **(facts or {}),
            "interrupted": int(interrupted),
            "voxels_done": done,
        },
    )


def dims_of(shape: tuple[int, ...]) -> tuple[str, ...]:
    """Names of the axes of maps of this shape: ``voxel``, or ``x, y, z`` as far as they go."""
    if len(shape) <= 1:
        return ("voxel",) * len(shape)
    if len(shape) <= 3:
        return ("x", "y", "z")[: len(shape)]
    return tuple(f"dim_{i}" for i in range(len(shape)))


def map_attributes(model: Model) -> dict[str, dict[str, Any]]:
    """Units, words and codes of every map that a fit of this model gives."""
    out: dict[str, dict[str, Any]] = {}
    quantities: tuple[Parameter | Derived, ...] = (*model.parameters, C0, *model.derived)
    for q in quantities:
        out[q.name] = {"units": q.unit, "long_name": q.long_name, "osipi": q.osipi}
        out[q.name + "_se"] = {
            "units": q.unit,
            "long_name": f"standard error of the {q.long_name}",
            "osipi": "",
        }
    for name, unit, words in (
        ("cost", "squared unit of the curves", "sum of squared residuals"),
        ("r2", "1", "coefficient of determination"),
        ("baseline", "unit of the curves", "constant fitted along"),
        ("baseline_se", "unit of the curves", "standard error of the constant fitted along"),
        ("evaluations", "1", "exact model evaluations spent on the voxel"),
        ("fitted", "unit of the curves", "fitted curve"),
        ("residual", "unit of the curves", "measured less fitted curve"),
    ):
        out[name] = {"units": unit, "long_name": words, "osipi": ""}
    out["status"] = {
        "units": "1",
        "long_name": "outcome of the fit",
        "osipi": "",
        "flag_values": np.array([s.value for s in Status], np.uint8),
        "flag_meanings": " ".join(s.meaning for s in Status),
    }
    return out
