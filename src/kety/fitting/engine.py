"""Runs the native solver over blocks of voxels; plain arrays in, plain arrays out."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kety.fitting.dictionary import build_dictionary
from kety.fitting.pieces import LEVEL_RATES, SERIES_REACH, kernel_pieces
from kety.fitting.problem import power_of_two
from kety.fitting.status import Status

if TYPE_CHECKING:
    from kety.fitting.cuda import Card
    from kety.fitting.optimizers.varprolm import VarProLM
    from kety.fitting.problem import Problem
    from kety.inputs import InputFunction

SEARCHED_FRAMES = 2048
"""Most frames of which the dictionary holds curves; its memory grows with them."""
TOO_WIDE = 7
"""The core's status of a voxel with an error as wide as the bounds; not identifiable for others."""
KERNEL_SCALE = (1e-3, 1e-5, 1e-4, 1e-2)
"""Sizes of v, a, k and tau below which a change of them is nothing."""


@dataclass(frozen=True)
class KernelFit:
    """Results of a range of voxels in kernel units.

    ``parameters`` (V, P) and packed lower ``covariance`` (V, P (P + 1) / 2) of the solver's
    quantities: v, a, k, tau, or the parameters of a model of several terms; ``cost``, ``r2``,
    ``evaluations`` and ``status`` (V,); ``undetermined`` (V,), bit i set where the data do not
    determine parameter i; ``baseline`` (V, 2), the fitted constant and its variance; ``fitted``
    (V, T), the model's values without it, where they are not those of the exact model.
    """

    parameters: NDArray[np.floating]
    covariance: NDArray[np.floating]
    cost: NDArray[np.floating]
    r2: NDArray[np.floating]
    evaluations: NDArray[np.unsignedinteger]
    status: NDArray[np.uint8]
    undetermined: NDArray[np.uint8]
    baseline: NDArray[np.floating] | None
    fitted: NDArray[np.floating] | None = None


def packed(i: Any, j: Any) -> Any:
    """Place of element (i, j), numbers or arrays of them, in a packed lower triangle."""
    high, low = np.maximum(i, j), np.minimum(i, j)
    return high * (high + 1) // 2 + low


Solve = Callable[[NDArray[Any]], KernelFit]
"""Solves a block of curves (V, T)."""


def no_fit(problem: Problem, count: int, fitted: bool = False) -> KernelFit:
    """Results of `count` voxels of which nothing is known: NaN, status not finite."""
    nothing = {
        name: np.full((count, *shape), np.nan, problem.dtype)
        for name, shape in (
            ("parameters", (problem.size,)),
            ("covariance", (problem.size * (problem.size + 1) // 2,)),
            ("cost", ()),
            ("r2", ()),
        )
    }
    return KernelFit(
        **nothing,
        evaluations=np.zeros(count, np.uint32),
        status=np.full(count, Status.NOT_FINITE, np.uint8),
        undetermined=np.zeros(count, np.uint8),
        baseline=np.full((count, 2), np.nan, problem.dtype) if problem.baseline else None,
        fitted=np.full((count, len(problem.times)), np.nan, problem.dtype) if fitted else None,
    )


def place(result: KernelFit, where: NDArray[np.intp], part: KernelFit) -> None:
    """Put the results of a part of the voxels in their places."""
    for f in fields(KernelFit):
        target, source = getattr(result, f.name), getattr(part, f.name)
        if target is not None and source is not None:
            target[where] = source


def rows_of(result: KernelFit, part: Any) -> KernelFit:
    """The results of some of the voxels."""
    values: dict[str, Any] = {f.name: getattr(result, f.name) for f in fields(KernelFit)}
    some: dict[str, Any] = {n: None if v is None else v[part] for n, v in values.items()}
    return KernelFit(**some)


def available_threads() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def instruction_sets() -> list[str]:
    """Instruction sets of the core that this processor has, best first."""
    from kety import _native

    return list(_native.instruction_sets())


def prepare(problem: Problem, options: VarProLM) -> Solve:
    """Build what all voxels share and return the solver of a block of curves (V, T)."""
    from kety import _native

    lo, hi = problem.kernel_bounds()
    scale, aif, weights, levels = kernel_input(problem)
    seen = searched_frames(len(problem.times))
    dictionary = build_dictionary(
        aif,
        problem.times if seen is None else problem.times[seen],
        weights if weights is None or seen is None else weights[seen],
        problem.baseline,
        lo,
        hi,
        amplitudes_bounded=problem.amplitudes_bounded,
        threads=problem.threads,
    )
    search_weights = None
    if seen is not None:
        basis = np.zeros((len(problem.times), dictionary["rank"]), np.float32)
        basis[seen] = dictionary["basis"]
        dictionary["basis"] = basis
        search_weights = np.zeros(len(problem.times))
        search_weights[seen] = 1.0 if weights is None else weights[seen]

    def settings(single: bool) -> dict[str, Any]:
        return {
            "lo": lo.tolist(),
            "hi": hi.tolist(),
            "span": problem.spans().tolist(),
            "max_evaluations": options.max_evaluations,
            "ftol": options.ftol if options.ftol is not None else (3e-6 if single else 1e-9),
            "xtol": options.xtol if options.xtol is not None else (1e-6 if single else 1e-11),
            "rounding": 1e-13 if single else 1e-31,
            "xfloor": [s * (1e-6 if single else 1e-12) for s in KERNEL_SCALE],
            "candidate_ratio": options.candidate_ratio,
            "rival": options.rival,
            "enhancement": problem.enhancement_threshold(None if seen is None else len(seen)),
            "search_weights": (
                None
                if search_weights is None
                else search_weights.astype(np.float32 if single else np.float64)
            ),
            "search_weight_sum": 0.0 if search_weights is None else float(search_weights.sum()),
            "dictionary_error": dictionary["error"],
            "curve_scale": 1.0 / scale,
            "weight_sum": float(len(problem.times) if weights is None else weights.sum()),
            "frames_used": len(problem.times) if weights is None else int((weights > 0).sum()),
        }

    solvers: dict[bool, Any] = {}

    def on_card(card: Card, curves: NDArray[Any], dtype: Any) -> KernelFit:
        from kety.fitting.cuda.fit import FitOnCard

        single = dtype == np.float32
        if single not in solvers:
            solvers[single] = FitOnCard(
                card,
                levels,
                problem.times,
                weights,
                dictionary,
                settings(single),
                problem.baseline,
                dtype,
            )
        found = solvers[single](curves)
        return KernelFit(baseline=found.pop("offset", None), **found)

    def run(curves: NDArray[Any], dtype: Any) -> KernelFit:
        count = len(curves)
        single = dtype == np.float32
        if problem.card is not None:
            return on_card(problem.card, curves, dtype)
        if curves.dtype != dtype:
            with np.errstate(over="ignore"):  # too large for the precision: found not finite
                curves = curves.astype(dtype)
        result = KernelFit(
            np.empty((count, 4), dtype),
            np.empty((count, 10), dtype),
            np.empty(count, dtype),
            np.empty(count, dtype),
            np.empty(count, np.uint16),
            np.empty(count, np.uint8),
            np.empty(count, np.uint8),
            np.empty((count, 2), dtype) if problem.baseline else None,
        )
        solver = _native.fit_single if single else _native.fit_double
        solver(
            levels,
            problem.times,
            curves,
            None if weights is None else np.ascontiguousarray(weights, dtype=dtype),
            dictionary,
            settings(single),
            result.baseline,
            result.parameters,
            result.covariance,
            result.cost,
            result.r2,
            result.evaluations,
            result.status,
            result.undetermined,
            problem.threads,
            options.instruction_set,
        )
        return result

    def solve(curves: NDArray[Any]) -> KernelFit:
        result = run(curves, problem.dtype)
        if problem.dtype == np.float32:
            # Whether a parameter is determined is a matter of cancellation: float64 decides.
            unsure = np.flatnonzero(result.status == Status.NOT_IDENTIFIABLE)
            if len(unsure):
                _replace(result, unsure, run(curves[unsure], np.float64))
        result.status[result.status == TOO_WIDE] = Status.NOT_IDENTIFIABLE
        return result

    return solve


def kernel_input(
    problem: Problem,
) -> tuple[float, InputFunction, NDArray[np.float64] | None, list[dict[str, Any]]]:
    """Scale of the input, the input and weights brought to the order of 1, and its pieces.

    Both by powers of two, which change no digit: sums of products then fit float32 in any unit.
    """
    lo, hi = problem.kernel_bounds()
    end = float(problem.times[-1] - min(lo[3], 0.0))
    scale = problem.scale
    aif = replace(problem.aif, concentration=problem.aif.concentration / scale)
    weights = problem.weights
    if weights is not None:
        weights = weights / power_of_two(float(weights.max()))
    # With no rate to fit (Patlak) the series have one term; any positive limit serves.
    top = max(float(hi[2]), 1e-3 * SERIES_REACH)
    levels = [kernel_pieces(aif, min(top, r), end) for r in (*LEVEL_RATES, np.inf)]
    return scale, aif, weights, levels


def searched_frames(count: int) -> NDArray[np.intp] | None:
    """Frames that the search for the start looks at: evenly chosen from a very long series.

    All where None. The exact solution always uses every frame.
    """
    if count <= SEARCHED_FRAMES:
        return None
    return np.linspace(0, count - 1, SEARCHED_FRAMES).round().astype(np.intp)


def _replace(result: KernelFit, where: NDArray[np.intp], other: KernelFit) -> None:
    """Put the results of `other` in the places `where`; evaluations add up."""
    for f in fields(KernelFit):
        target, source = getattr(result, f.name), getattr(other, f.name)
        if f.name == "evaluations":
            total = target[where].astype(np.int64) + source
            target[where] = np.minimum(total, np.iinfo(target.dtype).max)
        elif target is not None:
            with np.errstate(over="ignore"):  # too large for the precision: infinite
                target[where] = source
