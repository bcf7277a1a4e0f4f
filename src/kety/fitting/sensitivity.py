"""Model curves and their derivatives at estimates, in public units, for any model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kety.fitting.forward import simulate_curves
from kety.fitting.problem import Problem

Floats = NDArray[np.float64]

STEP = 1e-6
"""Step of the differences: this part of the width of the bounds, and of the value."""


def limits_of(problem: Problem) -> tuple[Floats, Floats]:
    """Lower and upper bounds (P,) of the model's parameters, in their order."""
    lo, hi = np.array([problem.bounds[name] for name in problem.model.names]).T
    return lo, hi


def curves_at(problem: Problem, values: Floats) -> Floats:
    """Model curves (V, T) at parameters (V, P), in the model's order."""
    if not len(values):
        return np.zeros((0, len(problem.times)))
    named = dict(zip(problem.model.names, values.T, strict=True))
    return simulate_curves(named, problem.times, problem.aif, problem.model.name)


def slopes_at(problem: Problem, values: Floats) -> Floats:
    """Derivatives (V, T, P) at parameters (V, P) between the bounds; 0 for fixed parameters.

    Central differences, one-sided at a bound, since a model need not exist beyond it. Their error
    is 1e-8 of the derivative.
    """
    lo, hi = limits_of(problem)
    step = STEP * (hi - lo + np.abs(values))
    below, above = np.maximum(values - step, lo), np.minimum(values + step, hi)
    count, size = values.shape
    free = np.flatnonzero(hi > lo)
    points = np.repeat(values[None, None], 2 * len(free), axis=0).reshape(2, len(free), count, size)
    for i, j in enumerate(free):
        points[0, i, :, j], points[1, i, :, j] = below[:, j], above[:, j]
    curves = curves_at(problem, points.reshape(-1, size))
    low, high = curves.reshape(2, len(free), count, len(problem.times))
    slopes = np.zeros((count, len(problem.times), size))
    for i, j in enumerate(free):
        slopes[:, :, j] = (high[i] - low[i]) / (above[:, j] - below[:, j])[:, None]
    return slopes
