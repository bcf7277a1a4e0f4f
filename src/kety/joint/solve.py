"""Gauss–Newton on all voxels at once: data terms of every voxel, a penalty along every edge.

The energy, in units of the noise where ``precision`` is 1 / variance, is

    E(theta) = sum_i precision_i cost_i(theta_i)
               + strength sum_{i<j} w_ij (theta_i - theta_j)' (Q_i + Q_j)/2 (theta_i - theta_j),

within box bounds. With Q the identity, precision 1 and strength 2 lambda T / N it is T N times the
loss of the multi-task paper (equation 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kety.joint.normals import (
    Normals,
    Voxels,
    diagonal,
    diagonal_places,
    put,
    rows_of,
    size_of,
    weighted_normals,
)
from kety.joint.system import FOUR, System, make_system

if TYPE_CHECKING:
    from kety.fitting.cuda import Card
    from kety.joint.graph import Graph

Doubles = NDArray[np.float64]
STRONG = 100.0
"""Strength times mean degree from which a multigrid preconditions: below, blocks are faster."""
MISFIT = 0.5
"""Of a voxel's own predicted change, how far the true one may exceed it."""
SMALL_MISFIT = 0.02
"""Excess in units of the noise that is never too large."""
QUIET = 6
"""Steps without a fall worth the name after which kinks, not distance, hold the voxels."""
ATTEMPTS = 12
LOSS = 3.0
"""Times the mean rise, above which a voxel goes a shorter way next."""
SHORTER = 0.3
"""Of a step, for voxels that a whole one takes too far."""
FEW = 0.02
"""Share of voxels that may still be on their way when the others have arrived."""
SINGLE_REACH = 1e-5
"""Residual of a linear system down to which single precision reaches."""
TOO_STRONG = 1e4
"""Strength times mean degree that single precision does not hold beside the data."""
FIRST_DAMPING = 1e-4


@dataclass(frozen=True, eq=False)
class Penalty:
    """``graph`` between voxels, packed ``metric`` Q (V, P (P + 1) / 2), and ``strength``."""

    graph: Graph
    metric: Doubles
    strength: float

    @property
    def strong(self) -> bool:
        """Whether multigrid pays."""
        return bool(self.strength * self.graph.mean_degree > STRONG)


@dataclass(frozen=True)
class Tolerances:
    """When to stop.

    ``fall``: a step's fall of the energy for each voxel; ``relative``: or relative to the energy;
    ``steps``: most Gauss-Newton steps; ``linear``: residual of each linear system, relative;
    ``linear_steps``: most conjugate-gradient steps; ``rounds``: how often a step is solved for
    again with those that it would carry over a bound held there; ``unit``: of the energy, the
    noise.
    """

    fall: float = 1e-3
    relative: float = 0.0
    steps: int = 30
    linear: float = 1e-2
    linear_steps: int = 500
    rounds: int = 2
    unit: float = 1.0


TIGHT = Tolerances(fall=0.0, relative=1e-13, steps=200, linear=1e-8, linear_steps=5000, rounds=4)


@dataclass(frozen=True, eq=False)
class Solution:
    """``parameters`` (V, P) in kernel units with their ``normals``; ``energies`` after each step,
    never rising; ``steps`` of Gauss-Newton and ``linear_steps`` of conjugate gradients in all;
    ``lost`` (V,): voxels that were still on their way when the steps ran out."""

    parameters: Doubles
    normals: Normals
    energies: tuple[float, ...]
    linear_steps: int
    lost: NDArray[np.bool_]

    @property
    def converged(self) -> bool:
        """Whether all voxels arrived."""
        return not bool(self.lost.any())

    @property
    def steps(self) -> int:
        """Gauss–Newton steps taken."""
        return len(self.energies) - 1


@dataclass(frozen=True, eq=False)
class Bounds:
    """Lower and upper bounds of every voxel's parameters, (V, P) each."""

    lower: Doubles
    upper: Doubles

    def clip(self, parameters: Doubles) -> Doubles:
        """The nearest parameters inside."""
        return np.clip(parameters, self.lower, self.upper)


def solve(
    voxels: Voxels,
    penalty: Penalty,
    starts: Sequence[Doubles],
    precision: Doubles,
    bounds: Sequence[Bounds],
    tolerances: Tolerances | None = None,
) -> Solution:
    """Minimise the energy from the best of the ``starts``; it falls in every step.

    ``starts``: parameters (V, P), kernel units, each with its ``bounds``. ``precision`` (V,):
    weight of each voxel's sum of squares. Voxels without neighbours stay at their start: nothing
    pulls them, and however large their sums of squares are, they must not hide the others'.
    """
    stop = tolerances or Tolerances()
    single = (
        voxels.problem.dtype == np.float32
        and not voxels.problem.by_terms
        and stop.linear > SINGLE_REACH
        and penalty.strength * penalty.graph.mean_degree < TOO_STRONG
    )
    problem = voxels.problem
    system = graph_system(penalty, problem.threads, single=single, card=problem.card)
    linked = penalty.graph.neighbours > 0
    box, p, now, force, energy = min(
        (
            _begin(system, voxels, precision, linked, b, x)
            for x, b in zip(starts, bounds, strict=True)
        ),
        key=lambda begun: begun[-1],
    )
    constant = float(now.cost[~linked].sum())
    energies = [energy]
    # Strongly pooled voxels have smaller errors, which a fall of a share of the noise would exceed.
    weak = max(1.0, penalty.strength * penalty.graph.mean_degree / STRONG)
    limit = stop.fall * stop.unit * len(voxels) / weak
    damping = np.full(len(voxels), FIRST_DAMPING)
    linear_steps, quiet, converged = 0, 0, False
    bad = np.zeros(len(voxels), dtype=bool)
    while not converged and len(energies) <= stop.steps:
        step, spent = _step(system, now, force, p, box, linked, damping, stop)
        linear_steps += spent
        trial = _descend(
            system, voxels, precision, box, linked, now, force, p, step, energy, stop.unit
        )
        bad = trial.bad
        damping = np.where(bad, np.maximum(8.0 * damping, 1e-2), np.maximum(0.3 * damping, 1e-7))
        fall = energy - trial.energy
        p, now, force, energy = trial.parameters, trial.normals, trial.force, trial.energy
        energies.append(energy)
        quiet = quiet + 1 if fall <= limit + stop.relative * energy else 0
        converged = (quiet > 0 and bad.sum() <= FEW * len(voxels)) or quiet >= QUIET
    lost = np.zeros(len(voxels), bool) if converged else bad
    if not converged and not lost.any():
        lost[:] = True
    normals = weighted_normals(now, 1.0 / precision)
    return Solution(p, normals, tuple(e + constant for e in energies), linear_steps, lost)


def _begin(
    system: System,
    voxels: Voxels,
    precision: Doubles,
    linked: NDArray[np.bool_],
    bounds: Bounds,
    start: Doubles,
) -> tuple[Bounds, Doubles, Normals, Doubles, float]:
    p = bounds.clip(start)
    now = voxels.normals(p, precision)
    force = pull(system, p)
    return bounds, p, now, force, float(now.cost[linked].sum() + _inner(p, force))


def graph_system(
    penalty: Penalty, threads: int, *, single: bool = True, card: Card | None = None
) -> System:
    """The system for a penalty; data blocks are set by each user."""
    size = size_of(penalty.metric)
    system = make_system(penalty.graph, size, threads, single=single, card=card)
    system.prepare(penalty.metric, penalty.strength, penalty.strong)
    return system


def pull(system: System, x: Doubles) -> Doubles:
    """L x, half the gradient of the penalty."""
    y = np.empty_like(x)
    system.penalty(np.ascontiguousarray(x), y)
    return y


def bits(chosen: NDArray[np.bool_]) -> NDArray[np.unsignedinteger]:
    """Choices of parameters (V, P) as the bits of one number (V,), of 8 bits or as many as it
    takes."""
    size = chosen.shape[1]
    dtype = np.min_scalar_type((1 << size) - 1)
    return np.asarray(chosen @ (1 << np.arange(size, dtype=np.uint64)), dtype=dtype)


def _inner(a: Doubles, b: Doubles) -> float:
    return float(np.vdot(a, b))


def _times(packed: Doubles, x: Doubles) -> Doubles:
    """Products of packed symmetric matrices (V, P (P + 1) / 2) with vectors (V, P)."""
    y = np.zeros_like(x)
    place = 0
    for i in range(x.shape[1]):
        for j in range(i + 1):
            m = packed[:, place]
            y[:, i] += m * x[:, j]
            if j < i:
                y[:, j] += m * x[:, i]
            place += 1
    return y


def _step(
    system: System,
    now: Normals,
    force: Doubles,
    p: Doubles,
    bounds: Bounds,
    linked: NDArray[np.bool_],
    damping: Doubles,
    stop: Tolerances,
) -> tuple[Doubles, int]:
    """The damped Gauss-Newton step within the bounds, by an active set, and its linear steps."""
    slope = now.gradient + force
    held = (bounds.upper <= bounds.lower) | (diagonal(now.hessian) <= 0) & (force == 0)
    held |= ~linked[:, None]
    held |= (p <= bounds.lower) & (slope > 0) | (p >= bounds.upper) & (slope < 0)
    step, fixed = np.zeros_like(p), np.zeros_like(p)
    inside = np.zeros_like(p)
    spent = 0
    for _ in range(stop.rounds):
        rest = -slope
        rows = np.flatnonzero(fixed.any(axis=1))
        if len(rows):
            rest -= pull(system, fixed)
            block = now.hessian[rows]
            block[:, diagonal_places(p.shape[1])] *= 1.0 + damping[rows, None]
            rest[rows] -= _times(block, fixed[rows])
        rest[held] = 0.0
        system.blocks(now.hessian, damping, bits(~held))
        count, _ = system.solve(rest, inside, stop.linear, stop.linear_steps)
        spent += count
        step = inside + fixed
        # What the step would carry over a bound stops there; the others are solved for again.
        low, high = bounds.lower - p, bounds.upper - p
        over = ~held & ((step < low) | (step > high))
        if not over.any():
            break
        fixed = np.where(over, np.clip(step, low, high), fixed)
        held |= over
    return step, spent


@dataclass(frozen=True, eq=False)
class _Trial:
    parameters: Doubles
    normals: Normals
    force: Doubles
    energy: float
    bad: NDArray[np.bool_]


def _descend(
    system: System,
    voxels: Voxels,
    precision: Doubles,
    bounds: Bounds,
    linked: NDArray[np.bool_],
    now: Normals,
    force: Doubles,
    p: Doubles,
    step: Doubles,
    energy: float,
    unit: float,
) -> _Trial:
    """The point that the step leads to, shortened until the energy falls.

    A voxel whose own sum of squares does not follow its quadratic model goes a shorter way, or
    stays where it is, so that one voxel does not shorten the step of a million.
    """
    move = bounds.clip(p + step) - p
    hurt = np.zeros(len(voxels), dtype=bool)
    for attempt in range(ATTEMPTS):
        after = voxels.normals(p + move, precision)
        bad = _misfits(voxels, now, after, move, unit)
        rows = np.flatnonzero(bad)
        if len(rows):
            some, before = voxels.subset(rows), rows_of(now, rows)
            shorter = SHORTER * move[rows]
            between = some.normals(p[rows] + shorter, precision[rows])
            still = _misfits(some, before, between, shorter, unit)
            shorter[still] = 0.0
            put(between, np.flatnonzero(still), rows_of(before, still))
            move[rows] = shorter
            put(after, rows, between)
            bad[rows] = still
        there = bounds.clip(p + move)
        new_force = pull(system, there)
        found = float(after.cost[linked].sum() + _inner(there, new_force))
        if found < energy:
            return _Trial(there, after, new_force, found, bad | hurt)
        # Each voxel's part of the rise: those that lose go less far, then all do.
        part = after.cost - now.cost + np.einsum("vi,vi->v", move, force + new_force)
        losers = part > LOSS * part[part > 0.0].mean() if (part > 0.0).any() else part > 0.0
        if attempt < ATTEMPTS // 2 and losers.any():
            move[losers] *= SHORTER
            hurt |= losers
        else:
            move *= 0.5
    return _Trial(p, now, force, energy, bad | hurt)


def _predicted(now: Normals, move: Doubles, threads: int) -> Doubles:
    """Change of each voxel's quadratic model (V,) by a move: 2 g'm + m'H m."""
    from kety import _native

    if move.shape[1] != FOUR:
        twice = 2.0 * now.gradient + _times(now.hessian, move)
        return np.asarray(np.einsum("vi,vi->v", twice, move))
    expected = np.empty(len(move))
    _native.quadratic(now.gradient, now.hessian, move, expected, threads)
    return expected


def _misfits(
    voxels: Voxels, now: Normals, after: Normals, move: Doubles, unit: float
) -> NDArray[np.bool_]:
    """Voxels (V,) whose sum of squares exceeds what its quadratic model says of the move."""
    expected = _predicted(now, np.ascontiguousarray(move), voxels.problem.threads)
    excess = after.cost - now.cost - expected
    return np.asarray(~(excess <= MISFIT * np.abs(expected) + SMALL_MISFIT * unit))
