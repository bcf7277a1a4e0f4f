"""Joint estimation of voxels that were fitted one by one before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kety.errors import KetyError
from kety.fitting.engine import KernelFit
from kety.fitting.status import FITTED, Status
from kety.joint.errors import full_covariance, invert, own_share, shared_covariance
from kety.joint.graph import Places, graph_of, places
from kety.joint.hyper import Choice, choose_strength, flat_of
from kety.joint.normals import Doubles
from kety.joint.options import Joint
from kety.joint.setup import Setup, every_voxel, make_setup
from kety.joint.solve import Solution
from kety.joint.strength import at_strength

if TYPE_CHECKING:
    from kety.fitting.engine import Solve
    from kety.fitting.problem import Problem

BEYOND = 0.999
"""Quantile of what noise explains above which a voxel's fit counts as changed beyond it."""


@dataclass(frozen=True, eq=False)
class JointFit:
    """A joint estimate of V voxels.

    ``fit``: as of single voxels. ``moved`` (V,): root mean square distance from the voxelwise
    estimate over the parameters, in standard errors of that one, as the voxel's own sum of squares
    shows it; about 1 where the joint estimate is right. ``pooled`` (V,): how many times the
    voxelwise variance exceeds the joint one. ``beyond`` (V,): the fit is worse than noise
    explains. ``strength``: of the penalty, in the unit of `Joint.strength`; ``choice``: how it was
    found, None where it was given. ``effective``: number of parameters that the data of all voxels
    decide, of ``free`` in all.
    """

    fit: KernelFit
    moved: NDArray[np.floating]
    pooled: NDArray[np.floating]
    beyond: NDArray[np.bool_]
    strength: float
    choice: Choice | None
    effective: float
    free: int
    neighbours: float
    alone: int
    steps: int
    linear_steps: int
    converged: bool


def estimate_jointly(
    problem: Problem,
    joint: Joint,
    make_solver: Callable[[Problem], Solve],
    curves: NDArray[Any],
    single: KernelFit,
    where: Places | None,
    tell: Callable[[str], None] = lambda stage: None,
) -> JointFit:
    """Estimate voxels jointly, from their voxelwise fits.

    Parameters
    ----------
    make_solver
        The voxelwise solver of a problem.
    curves : (V, T) array
        Those that were fitted.
    single
        Their voxelwise fits. Voxels that have none, because they hold NaN or do not enhance, take
        no part: they keep their status and pull no other.
    where
        Places of all V on their grid; None where their order says nothing.
    tell
        Given each stage of the work in words.
    """
    if not isinstance(joint.similarity, str):
        whole = graph_of(joint.similarity)
        if len(whole) != len(curves):
            raise KetyError(
                f"the matrix of similarities is for {len(whole)} voxels, but {len(curves)} are "
                "fitted; give a row and a column for each of them, in the order of the mask"
            )
        joint = replace(joint, similarity=whole.matrix())
    usable = np.isin(single.status, FITTED) & np.isfinite(single.parameters).all(axis=1)
    rows = np.flatnonzero(usable)
    every = every_voxel(problem)
    part = curves[rows]
    at = where
    if where is not None and len(rows) < len(curves):
        at = places(where.grid.shape, flat_of(where, rows))
    choice = None
    strength = joint.strength
    if not len(rows):
        return _nothing(single, 0.0 if joint.strength == "auto" else float(joint.strength))
    if strength == "auto":
        options = joint
        if not isinstance(joint.similarity, str):
            options = replace(joint, similarity=joint.similarity[rows][:, rows])
        choice = choose_strength(every, options, make_solver, part, at, tell)
        strength = choice.strength
    voxelwise = single.parameters[rows].astype(np.float64)
    tell("graph")
    setup = make_setup(every, joint, make_solver(every), part, voxelwise, at, rows)
    tell(f"strength {strength:.4g}")
    found = at_strength(setup, float(strength))
    tell("standard errors")
    return _result(problem, setup, found, float(strength), choice, single, rows, joint)


def _nothing(single: KernelFit, strength: float) -> JointFit:
    count = len(single.status)
    empty = np.full(count, np.nan, single.cost.dtype)
    return JointFit(
        single,
        empty,
        empty.copy(),
        np.zeros(count, bool),
        strength,
        None,
        0.0,
        0,
        0.0,
        0,
        0,
        0,
        True,
    )


def _result(
    problem: Problem,
    setup: Setup,
    found: Solution,
    strength: float,
    choice: Choice | None,
    single: KernelFit,
    rows: NDArray[np.intp],
    joint: Joint,
) -> JointFit:
    from scipy.special import gammaincinv

    count = len(single.status)
    dtype = problem.dtype
    linked = setup.graph.neighbours > 0 if strength > 0 else np.zeros(len(rows), bool)
    lo, hi = problem.kernel_bounds()
    p = found.parameters
    fixed = np.broadcast_to(hi <= lo, p.shape)
    # In the precision of the maps a value beside its bound lies on it.
    near = np.finfo(dtype).eps * np.maximum(np.abs(lo), np.abs(hi))
    at_bound = ((p <= lo + near) | (p >= hi - near)) & ~fixed
    p = np.where(at_bound, np.where(p <= lo + near, lo, hi), p)
    free_count = problem.free_count
    own = np.ones(len(rows))
    covariance = np.zeros((len(rows), found.normals.hessian.shape[1]))
    lost: NDArray[np.unsignedinteger] = np.zeros(len(rows), np.uint8)
    if linked.any():
        held = fixed | at_bound
        if np.isinf(strength):
            own, covariance, lost = _pooled_errors(setup, found, held)
        elif joint.scaled:
            own = own_share(setup, strength, joint.seed)
            covariance, lost = shared_covariance(setup, found.normals, held, own)
        else:
            covariance, own = full_covariance(setup, found.normals, strength, held, joint.seed)
    excess = np.maximum(found.normals.cost - setup.voxelwise_cost, 0.0) / setup.noise
    excess[~linked] = 0.0
    moved = np.sqrt(excess / max(free_count, 1))
    beyond = excess > 2.0 * gammaincinv(0.5 * max(free_count, 1), BEYOND)  # chi squared

    def whole(kept: NDArray[Any], values: Any) -> NDArray[Any]:
        """The single fits, with those of linked voxels replaced."""
        out = kept.copy()
        out[rows[linked]] = np.asarray(values)[linked]
        return out

    status = np.where(at_bound.any(axis=1), Status.AT_BOUND, Status.CONVERGED)
    status[lost > 0] = Status.NOT_IDENTIFIABLE
    status[found.lost] = Status.ITERATION_LIMIT
    spread = _spread(setup.voxels.curves)
    baseline = None
    if single.baseline is not None and found.normals.baseline is not None:
        # Its error stays that of the voxelwise fit: a constant is each voxel's own.
        constants = np.stack([found.normals.baseline, single.baseline[rows, 1]], axis=1)
        baseline = whole(single.baseline, constants)
    fit = KernelFit(
        whole(single.parameters, p),
        whole(single.covariance, covariance),
        whole(single.cost, found.normals.unweighted),
        whole(single.r2, 1.0 - found.normals.unweighted / spread),
        single.evaluations,
        whole(single.status, status.astype(np.uint8)),
        whole(single.undetermined, lost),
        baseline,
    )

    def placed(values: Doubles) -> NDArray[np.floating]:
        out = np.full(count, np.nan, dtype)
        out[rows] = values
        return out

    own = np.where(linked, own, 1.0)
    flags = np.zeros(count, bool)
    flags[rows] = beyond
    return JointFit(
        fit,
        placed(moved),
        placed(1.0 / np.maximum(own, 1e-9)),
        flags,
        strength,
        choice,
        float(own.sum() * free_count),
        int(len(rows) * free_count),
        float(setup.graph.neighbours.mean()),
        int((setup.graph.neighbours == 0).sum()),
        found.steps,
        found.linear_steps,
        found.converged,
    )


def _spread(curves: NDArray[Any]) -> Doubles:
    """Sum of squares of every curve (V,) about its mean."""
    out = np.empty(len(curves))
    block = 1 << 16
    for first in range(0, len(curves), block):
        part = curves[first : first + block].astype(np.float64)
        out[first : first + block] = part.var(axis=1) * part.shape[1]
    return np.maximum(out, 1e-300)


def _pooled_errors(
    setup: Setup, found: Solution, held: NDArray[np.bool_]
) -> tuple[Doubles, Doubles, NDArray[np.unsignedinteger]]:
    """Own share, covariance and undetermined parameters of pooled voxels."""
    label = setup.graph.components()
    size = np.bincount(label)[label].astype(np.float64)
    information = found.normals.hessian * setup.precision[:, None]
    total = np.zeros((int(label.max()) + 1, information.shape[1]))
    np.add.at(total, label, information)
    covariance, lost = invert(total[label], held)
    return 1.0 / size, covariance, lost
