"""The default solver and the exact model of any problem, whichever engine serves it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kety.fitting import engine
from kety.fitting.engine import Solve
from kety.fitting.forward import kernel_curves

if TYPE_CHECKING:
    from kety.fitting.optimizers.varprolm import VarProLM
    from kety.fitting.problem import Problem


def prepare(problem: Problem, options: VarProLM) -> Solve:
    """Build what all voxels share and return the solver of a block of curves (V, T)."""
    if problem.by_ode:
        from kety.fitting.ode_fit import prepare_ode

        return prepare_ode(problem, options)
    if problem.by_terms:
        from kety.fitting.terms import prepare_terms

        solve = prepare_terms(problem, options)
        if not problem.model.profiled:
            return solve
        from kety.fitting.profiled_errors import with_profiled_errors

        return with_profiled_errors(problem, options, solve)
    return engine.prepare(problem, options)


def problem_curves(problem: Problem, parameters: NDArray[np.floating]) -> NDArray[np.float64]:
    """The model's curves (V, T), in the unit of the input, for the solver's quantities (V, P).

    Rows that hold NaN give curves without meaning.
    """
    known = np.nan_to_num(parameters, nan=0.0)
    lo, hi = problem.kernel_bounds()
    if problem.by_ode:
        from kety.fitting.ode import ode_curves

        return ode_curves(problem, np.clip(known, lo, hi))[0]
    if problem.by_terms:
        from kety.fitting.terms import terms_curves, terms_kernel

        return terms_curves(
            terms_kernel(problem), np.clip(known, lo, hi), dtype=str(problem.dtype)
        )[0]
    return kernel_curves(
        problem.aif, problem.times, known, dtype=str(problem.dtype), threads=problem.threads
    )[0]


def problem_slopes(
    problem: Problem, theta: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The model's curves (V, T) and their slopes (V, T, P) in the solver's quantities (V, P).

    In double precision and the unit of the input, for any model; slopes in quantities that the
    model does not have are 0.
    """
    if problem.by_ode:
        from kety.fitting.ode import ode_curves

        values, slopes = ode_curves(problem, theta, jacobian=True)
        assert slopes is not None
        return values, slopes
    from kety.fitting.terms import terms_curves, terms_kernel

    columns = [problem.slot(p.name) for p in problem.parameters]
    own = np.asarray(theta, dtype=np.float64)[:, columns]
    values, found = terms_curves(terms_kernel(replace(problem, as_terms=True)), own, jacobian=True)
    assert found is not None
    if problem.by_terms:
        return values, found
    slopes = np.zeros((*values.shape, problem.size))
    slopes[:, :, columns] = found
    return values, slopes
