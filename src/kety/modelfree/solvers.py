"""The truncated inverses that a deconvolution may use, and what becomes of noise in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kety.modelfree.convolution import (
    LEAST_SINGULAR,
    Floats,
    circulant_column,
    circulant_modes,
    least_truncated,
    standard_matrix,
    truncated_inverse,
)
from kety.modelfree.curves import of_samples


@dataclass(frozen=True)
class Plan:
    """What is the same in all voxels: the input (n,) on the grid, its step (s), the matrix (n, T)
    from frames to grid, baseline frames, and the weights (T,) of the volume."""

    ca: Floats
    step: float
    resampling: Floats
    baseline: NDArray[np.intp]
    area: Floats
    dtype: str


@dataclass(frozen=True)
class Solver:
    """Impulse responses of curves, and what becomes of noise in them.

    Attributes
    ----------
    lags
        (L,) s after the input.
    solve
        From curves (B, T) to responses (B, L), 1/s, and the level (B,) of each one's truncation;
        0 where there is none.
    norms, cross
        (R, L) of every level: standard deviation of the response for unit noise, and its
        covariance with the volume.
    """

    lags: Floats
    solve: Callable[[Floats], tuple[NDArray[Any], NDArray[np.intp]]]
    norms: Floats
    cross: Floats


def make_solver(method: str, limit: float, plan: Plan) -> Solver:
    """The solver of a method, its threshold or limit of oscillation given."""
    ca, step, dtype = plan.ca, plan.step, plan.dtype
    n = ca.size
    if method == "oscillation":
        return _by_oscillation(limit, plan)
    lags = step * np.arange(n if method == "standard" else 2 * n, dtype=np.float64)
    if method == "standard":
        inverse = truncated_inverse(standard_matrix(ca, step), limit)
    else:
        modes = circulant_modes(circulant_column(ca, step), limit)
        inverse = modes.synthesis @ modes.analysis[:, :n]
        lags[n:] -= step * 2 * n
    operator = inverse @ plan.resampling
    transposed = operator.T.astype(dtype)

    def solve(values: Floats) -> tuple[NDArray[Any], NDArray[np.intp]]:
        response = values.astype(dtype) @ transposed
        return response, (response.max(axis=1) > 0).astype(np.intp)

    norms, cross = _spread(operator, plan)
    return Solver(lags, solve, np.stack([norms, norms]), np.stack([cross, cross]))


def _by_oscillation(limit: float, plan: Plan) -> Solver:
    n, dtype = plan.ca.size, plan.dtype
    modes = circulant_modes(circulant_column(plan.ca, plan.step), LEAST_SINGULAR)
    analysis = modes.analysis[:, :n] @ plan.resampling
    synthesis = modes.synthesis
    lags = plan.step * np.arange(2 * n, dtype=np.float64)
    lags[n:] -= plan.step * 2 * n
    ends = np.concatenate([[0], modes.last])
    # The first level alone is the mean of the response: it has no maximum.
    fewest = 1 if modes.last[0] == 1 else 0
    norms, cross = np.zeros((2, ends.size, 2 * n))
    operator = np.zeros((2 * n, plan.resampling.shape[1]))
    for level, (first, last) in enumerate(pairwise(ends), start=1):
        operator += synthesis[:, first:last] @ analysis[first:last]
        norms[level], cross[level] = _spread(operator, plan)
    to_modes, from_modes = analysis.T.astype(dtype), synthesis.T.astype(dtype)

    def solve(values: Floats) -> tuple[NDArray[Any], NDArray[np.intp]]:
        amplitudes = values.astype(dtype) @ to_modes
        level = least_truncated(amplitudes, modes, limit)
        amplitudes[np.arange(ends[-1]) >= ends[level][:, None]] = 0
        return amplitudes @ from_modes, np.where(level > fewest, level, 0)

    return Solver(lags, solve, norms, cross)


def _spread(operator: Floats, plan: Plan) -> tuple[Floats, Floats]:
    """Norm of each row of an operator (L, T), and its product with the weights of the volume."""
    rows = of_samples(operator, plan.baseline)
    return np.linalg.norm(rows, axis=1), rows @ of_samples(plan.area, plan.baseline)
