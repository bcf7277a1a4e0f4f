"""The default solver and the exact model of any problem, whichever engine serves it."""

from __future__ import annotations

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
    if problem.by_terms:
        from kety.fitting.terms import prepare_terms

        return prepare_terms(problem, options)
    return engine.prepare(problem, options)


def problem_curves(problem: Problem, parameters: NDArray[np.floating]) -> NDArray[np.float64]:
    """The model's curves (V, T), in the unit of the input, for the solver's quantities (V, P).

    Rows that hold NaN give curves without meaning.
    """
    known = np.nan_to_num(parameters, nan=0.0)
    if problem.by_terms:
        from kety.fitting.terms import terms_curves, terms_kernel

        lo, hi = problem.kernel_bounds()
        return terms_curves(
            terms_kernel(problem), np.clip(known, lo, hi), dtype=str(problem.dtype)
        )[0]
    return kernel_curves(
        problem.aif, problem.times, known, dtype=str(problem.dtype), threads=problem.threads
    )[0]
