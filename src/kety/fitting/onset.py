"""Fits with the delay of every voxel set from its curve's onset instead of fitted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kety.errors import KetyError
from kety.fitting.engine import KernelFit, Solve, no_fit, place

if TYPE_CHECKING:
    from kety.fitting.problem import Problem

RESOLUTION = 0.1
"""s to which the onset is rounded, well below what frames and noise leave of it; voxels of one
delay are fitted together."""


def prepare_by_onset(problem: Problem, solver: Callable[[Problem], Solve]) -> Solve:
    """A solver that fixes each voxel's delay at its onset and leaves the rest to `solver`."""
    from kety.signal import onset_delay

    if "delay" not in problem.bounds:
        raise KetyError(f"{problem.model.name} has no parameter delay to be set from the onset")
    lo, hi = problem.bounds["delay"]
    solvers: dict[float, Solve] = {}

    def solver_at(delay: float) -> Solve:
        if delay not in solvers:
            bounds = {**problem.bounds, "delay": (delay, delay)}
            solvers[delay] = solver(replace(problem, bounds=bounds))
        return solvers[delay]

    def solve(curves: NDArray[Any]) -> KernelFit:
        onset = onset_delay(curves, problem.times, problem.aif, bounds=(lo, hi))
        steps = np.rint(np.nan_to_num(onset, nan=lo) / RESOLUTION).astype(int)
        result: KernelFit | None = None
        for step in np.unique(steps):
            where = np.flatnonzero(steps == step)
            delay = float(np.clip(step * RESOLUTION, lo, hi))
            part = solver_at(delay)(curves[where])
            if result is None:
                result = no_fit(problem, len(curves), part.fitted is not None)
            place(result, where, part)
        return result if result is not None else no_fit(problem, 0)

    return solve
