"""Model curves and their derivatives at estimates, in public units, for any model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kety.fitting.ode import ode_curves
from kety.fitting.problem import Problem
from kety.fitting.terms import terms_curves, terms_kernel

Floats = NDArray[np.float64]


class ExactModel:
    """The exact model of a problem, in double precision.

    Attributes
    ----------
    problem : Problem
    names : tuple of str
        Its parameters, in the order of every array (V, P) here.
    lower, upper : (P,) arrays
        Their bounds.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.names = tuple(p.name for p in problem.parameters)
        self.lower, self.upper = np.array([problem.bounds[n] for n in self.names]).T
        by_terms = replace(problem, as_terms=True)
        self._kernel = None if problem.by_ode else terms_kernel(by_terms)
        self._factors = np.array([problem.factor(p) for p in problem.parameters])

    def curves(self, values: Floats) -> Floats:
        """Curves (V, T) at parameters (V, P) between the bounds."""
        return self._evaluate(values * self._factors, False)[0]

    def curves_and_slopes(self, values: Floats) -> tuple[Floats, Floats]:
        """The same, and their derivatives (V, T, P); 0 for parameters that are fixed."""
        curves, slopes = self._evaluate(values * self._factors, True)
        assert slopes is not None
        return curves, slopes * np.where(self.upper > self.lower, self._factors, 0.0)

    def curves_of(self, theta: NDArray[np.floating]) -> Floats:
        """Curves (V, T) at the solver's quantities (V, P) of the model's parameters."""
        return self._evaluate(theta.astype(np.float64), False)[0]

    def _evaluate(self, theta: Floats, jacobian: bool) -> tuple[Floats, Floats | None]:
        if self._kernel is None:
            return ode_curves(self.problem, theta, jacobian)
        return terms_curves(self._kernel, theta, jacobian=jacobian)
