"""A joint fit at one strength, from 0 (voxelwise) to infinity (pooled)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kety.joint.normals import Normals
from kety.joint.solve import Solution, Tolerances, solve

if TYPE_CHECKING:
    from kety.joint.setup import Setup

Doubles = NDArray[np.float64]
QUICK, SINGLE = Tolerances(fall=1e-2, linear=3e-2, steps=8), Tolerances()
DOUBLE = Tolerances(fall=1e-7, linear=1e-4, steps=60, rounds=4)
"""Stops for trials, and for curves in single and in double precision."""
SEVERAL = Tolerances(steps=100)
"""Of other models: their valleys are bent and take more steps, in either precision."""


def at_strength(
    setup: Setup,
    strength: float,
    start: Doubles | None = None,
    tolerances: Tolerances | None = None,
) -> Solution:
    """The joint estimate at a strength, in the unit of `Joint.strength`.

    It begins at the voxelwise parameters or, where their energy is less, at ``start`` (V, P),
    kernel units, by default the guide's.
    """
    if strength == 0.0 or not len(setup.graph.columns):
        return _fixed(setup, setup.voxelwise)
    if np.isinf(strength):
        return _fixed(setup, pooled(setup))
    penalty = setup.penalty(strength)
    if tolerances is None:
        problem = setup.voxels.problem
        tolerances = SINGLE if problem.dtype == np.float32 else DOUBLE
        if problem.by_terms:
            tolerances = SEVERAL
    unit = float(np.median(setup.precision * setup.noise))  # 1 where the penalty is scaled
    tolerances = replace(tolerances, unit=unit)
    starts = [setup.guide if start is None else start, setup.voxelwise]
    return solve(
        setup.voxels,
        penalty,
        starts,
        setup.precision,
        [setup.bounds(s) for s in starts],
        tolerances,
    )


def _fixed(setup: Setup, parameters: Doubles) -> Solution:
    normals: Normals = setup.voxels.normals(parameters)
    energy = float((normals.cost * setup.precision).sum())
    return Solution(parameters, normals, (energy,), 0, np.zeros(len(parameters), bool))


def pooled(setup: Setup) -> Doubles:
    """Parameters (V, P) with one fit for all voxels that the graph connects.

    The sum of their sums of squares is that of their mean curve, but for a constant.
    """
    from scipy.sparse import csr_array

    label = setup.graph.components()
    size = np.bincount(label)
    several = np.flatnonzero(size > 1)
    parameters = setup.voxelwise.copy()
    if not len(several):
        return parameters
    count = len(label)
    gather: Any = csr_array((setup.precision, (label, np.arange(count))), shape=(len(size), count))
    weight = np.asarray(gather.sum(axis=1)).ravel()
    mean = (gather[several] @ setup.voxels.curves) / weight[several][:, None]
    found = setup.solver(mean.astype(setup.voxels.problem.dtype)).parameters.astype(np.float64)
    every = np.full((len(size), parameters.shape[1]), np.nan)
    every[several] = found
    return np.where(np.isfinite(every[label]), every[label], parameters)
