"""The solver of models of several terms: search among pairs of curves, then the native
Levenberg-Marquardt on the model's own parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kety.errors import KetyError
from kety.fitting.dictionary import delay_cells
from kety.fitting.engine import TOO_WIDE, KernelFit, Solve, no_fit, place
from kety.fitting.nodes import INITIAL_RATES, make_nodes
from kety.fitting.pairs import Starts, bands_of, prepare_pairs
from kety.fitting.pieces import kernel_pieces
from kety.fitting.problem import Problem, check_portal, power_of_two
from kety.fitting.status import Status
from kety.models import Model, program_of

if TYPE_CHECKING:
    from kety.fitting.cuda.terms import TermsOnCard
    from kety.fitting.optimizers.varprolm import VarProLM
    from kety.inputs import InputFunction

Doubles = NDArray[np.float64]

LEVELS = (5.0 / 60, 10.0 / 60, 20.0 / 60)
"""Rates (1/s) that the sets of pieces are cut for; beyond the last the core takes exponentials."""
FTOL_SINGLE = 1e-6
"""Relative fall of the sum of squares that no longer matters in single precision."""
SMALLEST = {"mL/100mL/min": 1e-3, "1/min": 6e-4, "mL/mL": 1e-4, "s": 1e-2, "1": 1e-4}
"""Sizes of a parameter, by its unit, below which a change of it is nothing."""


@dataclass(frozen=True, eq=False)
class TermsKernel:
    """A problem as the core reads it.

    ``program``; ``levels``, the pieces of every input; ``inputs`` divided by ``scale``; ``weights``
    (T,) of the order of 1.
    """

    problem: Problem
    program: dict[str, Any]
    inputs: tuple[InputFunction, ...]
    levels: list[list[dict[str, Any]]]
    scale: float
    weights: Doubles
    _there: dict[str, TermsOnCard] = field(default_factory=dict)

    def on_card(self, dtype: Any) -> TermsOnCard:
        """The problem on its card, brought there once."""
        from kety.fitting.cuda.terms import TermsOnCard

        assert self.problem.card is not None
        name = str(np.dtype(dtype))
        if name not in self._there:
            self._there[name] = TermsOnCard(self.problem.card, self, dtype)
        return self._there[name]

    @cached_property
    def bands(self) -> list[Doubles]:
        """Stretches (n, 2) between the jumps along each delay that may have them, s."""
        lo, hi = self.problem.kernel_bounds()
        found = []
        for slot, source in zip(self.program["jumps"], self.inputs, strict=False):
            band = np.array([[-np.inf, np.inf]])
            if slot >= 0:
                _, _, band = delay_cells(source, self.problem.times, lo[slot], hi[slot])
            found.append(np.unique(band, axis=0))
        return found

    def bands_at(self, parameters: Doubles, first: Doubles | None = None) -> Doubles:
        """The stretches (V, 2 for each delay that jumps) in which parameters (V, P) lie, s. That
        of the first delay (V, 2), if it is known."""
        delays = zip(self.bands, self.program["jumps"], strict=True)
        parts = [bands_of(bands, parameters[:, slot]) for bands, slot in delays]
        if first is not None:
            parts[0] = first
        return np.ascontiguousarray(np.hstack(parts))

    def options(self) -> dict[str, Any]:
        """What every call with measured curves takes."""
        return {
            "baseline": self.problem.baseline,
            "weight_sum": float(self.weights.sum()),
            "curve_scale": 1.0 / self.scale,
        }


def terms_kernel(problem: Problem, held: Sequence[str] = ()) -> TermsKernel:
    """Inputs, pieces, program and weights of a problem, some of its parameters ``held``."""
    scale = problem.scale
    lo, _ = problem.kernel_bounds()
    shifts = [lo[problem.slot(p.name)] for p in problem.parameters if p.is_delay]
    end = float(problem.times[-1] - min(*shifts, 0.0))
    inputs = tuple(replace(i, concentration=i.concentration / scale) for i in problem.inputs)
    levels = [[kernel_pieces(i, rate, end) for rate in LEVELS] for i in inputs]
    weights = np.ones(len(problem.times))
    if problem.weights is not None:
        weights = problem.weights / power_of_two(float(problem.weights.max()))
    fixed = {*held, *(n for n, (low, high) in problem.bounds.items() if not high > low)}
    program = program_of(problem.model, problem.initial, fixed)
    return TermsKernel(problem, program, inputs, levels, scale, weights)


def terms_curves(
    kernel: TermsKernel,
    parameters: NDArray[np.floating],
    *,
    jacobian: bool = False,
    dtype: str = "float64",
    instruction_set: str = "",
) -> tuple[Doubles, Doubles | None]:
    """Curves (V, T), in the unit of the input, and their slopes (V, T, P) in the parameters.

    ``parameters`` (V, P) are the solver's: kernel units, in the order of ``problem.parameters``.
    """
    from kety import _native

    theta = np.ascontiguousarray(parameters, dtype=np.float64)
    times = kernel.problem.times
    values = np.empty((len(theta), len(times)))
    slopes = np.empty((*values.shape, theta.shape[1])) if jacobian else None
    if kernel.problem.card is not None:
        values, slopes = kernel.on_card(np.dtype(dtype)).curves(theta, jacobian=jacobian)
    else:
        _native.terms_forward(
            kernel.program,
            kernel.levels,
            times,
            theta,
            values,
            slopes,
            dtype == "float32",
            kernel.problem.threads,
            instruction_set,
        )
    values *= kernel.scale
    if slopes is not None:
        slopes *= kernel.scale
    return values, slopes


def given_problem(
    model: Model,
    values: Mapping[str, NDArray[np.floating]],
    times: Doubles,
    aif: InputFunction,
    portal: InputFunction | None = None,
) -> tuple[Problem, Doubles]:
    """A problem of which the parameters are known, and those as the solver has them, (V, P).

    ``values`` (V,) are in public units; ``c0`` among them where the tissue holds contrast agent at
    the first frame.
    """
    check_portal(model, portal)
    bounds = {n: (float(v.min(initial=0.0)), float(v.max(initial=0.0))) for n, v in values.items()}
    problem = Problem(
        model,
        aif,
        times,
        bounds,
        None,
        np.dtype("float64"),
        threads=1,
        amplitudes_bounded=False,
        find_enhancing=False,
        portal=portal,
        initial="c0" in values,
        as_terms=True,
    )
    columns = [values[p.name] * problem.factor(p) for p in problem.parameters]
    theta = np.stack(np.broadcast_arrays(*columns), axis=-1).astype(np.float64)
    least = np.array([p.least * problem.factor(p) for p in problem.parameters])
    if not np.isfinite(theta).all() or (theta < least)[:, ~_shifts(problem)].any():
        raise KetyError(
            "model parameters must be finite and not below what the model is defined for: "
            + ", ".join(
                f"{p.name} from {p.least:g} {p.unit}" for p in model.parameters if not p.is_delay
            )
        )
    return problem, theta


def _shifts(problem: Problem) -> NDArray[np.bool_]:
    return np.array([p.is_delay for p in problem.parameters])


def simulate_terms(
    model: Model,
    values: Mapping[str, NDArray[np.floating]],
    times: Doubles,
    aif: InputFunction,
    portal: InputFunction | None,
    dtype: str,
) -> Doubles:
    """Curves (V, T) of a model of several terms; arguments as of `given_problem`."""
    problem, theta = given_problem(model, values, times, aif, portal)
    return terms_curves(terms_kernel(problem), theta, dtype=dtype)[0]


def solve_from(
    kernel: TermsKernel,
    options: VarProLM,
    curves: NDArray[Any],
    starts: Starts,
    dtype: Any,
    held: Sequence[int] = (),
) -> KernelFit:
    """Levenberg-Marquardt from the starts of every voxel; the best of each is returned.

    ``held`` parameters stay where they start, whatever the bounds say.
    """
    from kety import _native

    problem = kernel.problem
    size, count, single = problem.size, len(curves), dtype == np.float32
    with np.errstate(over="ignore"):  # too large for the precision: found not finite
        data = np.ascontiguousarray(curves, dtype=dtype)
    lo, hi = problem.kernel_bounds()
    fixed = [
        int(i in held or not high > low) for i, (low, high) in enumerate(zip(lo, hi, strict=True))
    ]
    smallest = [
        SMALLEST.get(p.unit, 1e-4 * problem.scale) * problem.factor(p) for p in problem.parameters
    ]
    settings = kernel.options() | {
        "lo": lo.tolist(),
        "hi": hi.tolist(),
        "fixed": fixed,
        "span": problem.spans().tolist(),
        "vanishing": [int(p.vanishing) for p in problem.parameters],
        "xfloor": [s * (1e-5 if single else 1e-11) for s in smallest],
        # In double the search for the last digits of curves without noise may be long.
        "max_evaluations": options.max_evaluations * (1 if single else 4),
        "ftol": options.ftol if options.ftol is not None else (FTOL_SINGLE if single else 1e-9),
        "xtol": options.xtol if options.xtol is not None else (1e-6 if single else 1e-11),
        "rounding": 1e-13 if single else 1e-31,
        "frames_used": int((kernel.weights > 0).sum()),
    }
    result = KernelFit(
        np.empty((count, size), dtype),
        np.empty((count, size * (size + 1) // 2), dtype),
        np.empty(count, dtype),
        np.empty(count, dtype),
        np.empty(count, np.uint16),
        np.empty(count, np.uint8),
        np.empty(count, np.uint8),
        np.empty((count, 2), dtype) if problem.baseline else None,
    )
    if problem.card is not None:
        outputs = {
            "fit_parameters": result.parameters,
            "fit_covariance": result.covariance,
            "fit_cost": result.cost,
            "fit_r2": result.r2,
            "fit_offset": result.baseline,
            "evaluations": result.evaluations,
            "status": result.status,
            "undetermined": result.undetermined,
        }
        kernel.on_card(dtype).fit(
            data, starts.first, starts.parameters, starts.band, settings, outputs
        )
        return result
    solver = _native.terms_fit_single if single else _native.terms_fit_double
    solver(
        kernel.program,
        kernel.levels,
        problem.times,
        data,
        kernel.weights.astype(dtype),
        settings,
        starts.first,
        starts.parameters,
        starts.band,
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


def prepare_terms(problem: Problem, options: VarProLM) -> Solve:
    """Build what all voxels share and return the solver of a block of curves (V, T)."""
    from kety.fitting.further import go_further  # which reads this module

    kernel = terms_kernel(problem)
    rates = INITIAL_RATES if problem.initial else INITIAL_RATES[:1]
    tables = [make_nodes(kernel, rate) for rate in rates]
    nodes = tables[0]
    # Single precision is there for speed, and a descent has looked beyond the jumps.
    single = problem.dtype == np.float32 and nodes.descent is not None
    further = problem.initial or not single

    search = prepare_pairs(kernel, options, tables)
    quick = options if options.ftol is not None else replace(options, ftol=FTOL_SINGLE)

    def exact(curves: NDArray[Any], starts: Starts) -> KernelFit:
        return solve_from(kernel, options, curves, starts, problem.dtype)

    def solve(curves: NDArray[Any]) -> KernelFit:
        if not len(curves):
            return no_fit(problem, 0)
        result = exact(curves, search(curves))
        if further:
            go_further(kernel, nodes, curves, result, exact)
        if problem.dtype == np.float32:
            # Whether a parameter is determined is a matter of cancellation: float64 decides, on a
            # solution that need be no better than this one.
            unsure = np.flatnonzero(result.status == Status.NOT_IDENTIFIABLE)
            if len(unsure):
                start = result.parameters[unsure].astype(np.float64)
                one_each = np.arange(len(unsure) + 1, dtype=np.int64)
                again = Starts(one_each, start, kernel.bands_at(start))
                double = solve_from(kernel, quick, curves[unsure], again, np.float64)
                place(result, unsure, double)
        result.status[result.status == TOO_WIDE] = Status.NOT_IDENTIFIABLE
        return result

    return solve
