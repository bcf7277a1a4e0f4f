"""The strength of the penalty, from how well frames that were left out are predicted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kety.errors import KetyError
from kety.fitting.problem import power_of_two
from kety.fitting.status import FITTED
from kety.joint.graph import Places, places
from kety.joint.likeness import FEW
from kety.joint.normals import diagonal, predicted
from kety.joint.options import Joint
from kety.joint.setup import Setup, make_setup
from kety.joint.strength import QUICK, at_strength

if TYPE_CHECKING:
    from kety.fitting.engine import Solve
    from kety.fitting.problem import Problem

Doubles = NDArray[np.float64]
ENOUGH = 8192
"""Voxels from which the strength is chosen; in larger images, tiles of them."""
TILE, DEEP_TILE = 32, 16
MIDDLE, FACTOR = 16.0, 4.0
"""First strength that is tried, and the ratio of neighbouring ones; half of it in the end."""
FAR = 3.0
"""Error in standard deviations from which on it counts linearly, no longer squared."""
STEPS = 6
"""Most steps from the first strength to either side."""
SPARED = 0.005
"""Share of the gain over voxelwise that is given up for less smoothing: prediction is of all
voxels, and the few that smoothing harms most hardly show in it."""
DOUBT = 1.0
"""Standard errors by which a strength may predict worse and still cannot be told from the best."""


@dataclass(frozen=True)
class Choice:
    """The strength chosen, and the left-out error of every one tried.

    ``errors``: mean squared error of left-out frames in units of each voxel's noise variance, as
    the voxelwise fit of the remaining frames leaves it, errors above `FAR` standard deviations
    counted linearly; ``strengths`` ascending, 0 first.
    """

    strength: float
    strengths: tuple[float, ...]
    errors: tuple[float, ...]
    voxels: int

    @property
    def voxelwise_error(self) -> float:
        """Left-out error of the voxelwise fit."""
        return self.errors[0]

    @property
    def error(self) -> float:
        """Left-out error at the strength chosen."""
        return self.errors[self.strengths.index(self.strength)]


@dataclass(eq=False)
class _Fold:
    """Frames left out of a problem with the root of their weights, the voxels, and the fit of the
    others."""

    problem: Problem
    left_out: NDArray[np.intp]
    certainty: Doubles
    rows: NDArray[np.intp]
    measured: NDArray[Any]
    setup: Setup
    latest: Doubles | None = None

    def scores(self, strength: float) -> Doubles:
        """Squared errors of the left-out frames in units of the noise, summed for each voxel."""
        setup = self.setup
        found = at_strength(setup, strength, self.latest, QUICK)
        if 0.0 < strength < np.inf:
            self.latest = found.parameters
        values = predicted(self.problem, self.left_out, found.parameters)
        if found.normals.baseline is not None:
            values += found.normals.baseline[:, None]
        # Single frames that nothing predicts, as where the patient moved, must not decide.
        size = np.abs(values - self.measured) * self.certainty
        size /= np.sqrt(setup.own_noise)[:, None]
        score = np.where(size < FAR, size * size, FAR * (2.0 * size - FAR))
        return np.asarray(score.sum(axis=1))


def choose_strength(
    problem: Problem,
    joint: Joint,
    make_solver: Callable[[Problem], Solve],
    curves: NDArray[Any],
    where: Places | None,
    tell: Callable[[str], None] = lambda stage: None,
) -> Choice:
    """Try strengths on frames left out in turn, and take the best; 0 where none is better.

    Parameters
    ----------
    make_solver
        The voxelwise solver of a problem.
    curves : (V, T) array
        Curves of the voxels that take part, all finite.
    where
        Their places on a grid, if they have any.
    tell
        Given each stage of the work in words.

    Raises
    ------
    KetyError
        If too few frames remain when some are left out.
    """
    chosen = sample(len(curves), where, joint.seed)
    part = np.asarray(curves[chosen])
    at = None if where is None else places(where.grid.shape, flat_of(where, chosen))
    folds = _folds(problem, joint, make_solver, part, at, chosen)
    unit = _natural(folds, joint)
    trials = _Trials(folds, len(chosen), unit, tell)
    trials.error(0.0)
    best = _chosen(trials)
    tried = sorted(trials.scores)
    # Equation 3 divides the penalty by the number of voxels, of which these may be a part.
    whole = 1.0 if joint.scaled else len(curves) / len(chosen)
    return Choice(
        trials.scaled(best) * whole,
        tuple(trials.scaled(t) * whole for t in tried),
        tuple(trials.error(t) for t in tried),
        len(chosen),
    )


@dataclass(eq=False)
class _Trials:
    """Left-out errors of every strength tried, in multiples of ``unit``."""

    folds: list[_Fold]
    voxels: int
    unit: float
    tell: Callable[[str], None]
    scores: dict[float, Doubles] = field(default_factory=dict)

    def scaled(self, strength: float) -> float:
        """A strength in the unit of `Joint.strength`."""
        return strength * self.unit if 0.0 < strength < np.inf else strength

    def score(self, strength: float) -> Doubles:
        """Sum of each voxel's squared errors (V,) over all left-out frames."""
        if strength not in self.scores:
            self.tell(f"frames left out, strength {self.scaled(strength):.4g}")
            total = np.zeros(self.voxels)
            for fold in self.folds:
                total[fold.rows] += fold.scores(self.scaled(strength))
            self.scores[strength] = total
        return self.scores[strength]

    @cached_property
    def frames(self) -> int:
        """Number of left-out samples of all voxels."""
        return sum(fold.measured.size for fold in self.folds)

    def error(self, strength: float) -> float:
        """Mean squared error of the left-out samples."""
        return float(self.score(strength).sum()) / self.frames

    def doubt(self, one: float, other: float) -> float:
        """Standard error of the difference of two strengths' errors, from voxel to voxel."""
        gap = self.score(one) - self.score(other)
        return float(gap.std() * np.sqrt(len(gap))) / self.frames


def _chosen(trials: _Trials) -> float:
    """The strength to use, in multiples of the trials' unit.

    Of few voxels the strongest that cannot be told from the best, since hardly anything can be told
    of few. Of many the mildest that gives up hardly any of the gain, since those few that smoothing
    harms hardly show. 0 where no gain can be told.
    """
    few = trials.voxels <= FEW
    strongest = MIDDLE * FACTOR**STEPS
    best = _descend(trials.error, 0.0 if few else 0.2 * SPARED)
    if best > 0.99 * strongest and trials.error(np.inf) <= trials.error(best):
        best = np.inf
    gain = trials.error(0.0) - trials.error(best)
    if not gain > trials.doubt(0.0, best):
        return 0.0
    step = FACTOR if few else FACTOR**0.5
    if few:
        while best < np.inf:
            next_one = np.inf if best * step > strongest else best * step
            if trials.error(next_one) > trials.error(best) + DOUBT * trials.doubt(best, next_one):
                break
            best = next_one
        return best
    limit = trials.error(best) + SPARED * gain
    if np.isinf(best):
        if trials.error(strongest) > limit:
            return best
        best = strongest
    while best > MIDDLE / FACTOR**STEPS and trials.error(best / step) <= limit:
        best /= step
    return best


def _descend(error: Callable[[float], float], worth: float) -> float:
    """The strength of least error on a grid: downhill from the middle, then at half the step.

    A step has to be ``worth`` that share of the gain so far, or it is the last.
    """
    best = MIDDLE
    for step in (FACTOR, 1.0 / FACTOR):
        for _ in range(STEPS):
            fall = error(best) - error(best * step)
            if fall < 0.0 or best * step > MIDDLE * FACTOR**STEPS:
                break
            best *= step
            if fall < worth * (error(0.0) - error(best)):
                break
    around = (best, best * FACTOR**0.5, best / FACTOR**0.5)
    return float(min(around, key=error))


def _natural(folds: list[_Fold], joint: Joint) -> float:
    """The strength at which all neighbours weigh as much as a voxel's own data: 1 where scaled."""
    if joint.scaled:
        return 1.0
    sizes = []
    for fold in folds:
        setup = fold.setup
        h = diagonal(setup.voxels.normals(setup.guide).hessian) * setup.precision[:, None]
        middle = np.median(h, axis=0)
        lo, hi = setup.voxels.problem.kernel_bounds()
        used = (hi > lo) & (middle > 0)
        sizes.append(np.exp(np.log(middle[used]).mean()) / (setup.unit * setup.graph.mean_degree))
    return float(np.median(sizes))


def _folds(
    problem: Problem,
    joint: Joint,
    make_solver: Callable[[Problem], Solve],
    curves: NDArray[Any],
    where: Places | None,
    chosen: NDArray[np.intp],
) -> list[_Fold]:
    frames = len(problem.times)
    used = np.arange(frames) if problem.weights is None else np.flatnonzero(problem.weights > 0)
    if problem.initial:  # what the tissue holds at first is told from the first frame on
        used = used[used > 0]
    fewest = len(used) - -(-len(used) // joint.folds)
    if fewest < problem.free_count + problem.baseline + 2:
        raise KetyError(
            f"{len(used)} frames are too few to leave out {-(-len(used) // joint.folds)} at a "
            "time; give the strength as a number"
        )
    folds = []
    for k in range(joint.folds):
        left_out = used[k :: joint.folds]
        if not len(left_out):
            continue
        kept = np.setdiff1d(np.arange(frames), left_out)
        weights = None if problem.weights is None else problem.weights[kept]
        # Noise is given for the weights that the kernel uses, see `kernel_input`.
        certainty = np.ones(len(left_out))
        if weights is not None and problem.weights is not None:
            certainty = np.sqrt(problem.weights[left_out] / power_of_two(float(weights.max())))
        one = replace(problem, times=problem.times[kept], weights=weights)
        solver = make_solver(one)
        rest = np.ascontiguousarray(curves[:, kept])
        result = solver(rest)
        usable = np.isin(result.status, FITTED) & np.isfinite(result.parameters).all(axis=1)
        rows = np.flatnonzero(usable)
        if not len(rows):
            continue
        at = where
        if where is not None and len(rows) < len(curves):
            at = places(where.grid.shape, flat_of(where, rows))
        setup = make_setup(
            one,
            joint,
            solver,
            rest[rows],
            result.parameters[rows].astype(np.float64),
            at,
            chosen[rows],
        )
        measured = np.asarray(curves[rows][:, left_out], dtype=np.float64)
        folds.append(_Fold(problem, left_out, certainty, rows, measured, setup))
    if not folds:
        raise KetyError("no voxel can be fitted when frames are left out; give the strength")
    return folds


def flat_of(where: Places, chosen: NDArray[np.intp]) -> NDArray[np.intp]:
    """Flat numbers of some of the voxels on their grid."""
    flat = np.ravel_multi_index(tuple(where.indices[chosen].T), where.grid.shape)
    return np.asarray(flat, dtype=np.intp)


def sample(count: int, where: Places | None, seed: int) -> NDArray[np.intp]:
    """Voxels from which the strength is chosen: all, or whole tiles of the grid drawn at random."""
    if count <= ENOUGH:
        return np.arange(count)
    rng = np.random.default_rng(seed)
    if where is None:
        return np.sort(rng.choice(count, ENOUGH, replace=False))
    edge = TILE if min(where.grid.shape) == 1 else DEEP_TILE
    tile = where.indices // edge
    number = np.ravel_multi_index(tuple(tile.T), tuple(tile.max(axis=0) + 1))
    members = np.bincount(number)
    # Tiles in a random order, full ones more likely to come early.
    order = np.argsort(rng.exponential(size=members.size) / np.maximum(members, 1e-9))
    taken = order[: 1 + int(np.searchsorted(np.cumsum(members[order]), ENOUGH))]
    return np.flatnonzero(np.isin(number, taken))
