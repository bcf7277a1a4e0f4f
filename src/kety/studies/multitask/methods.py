"""The methods that the experiments compare, and their estimates of the 6 x 6 sequence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

import kety
from kety.fitting.engine import prepare
from kety.fitting.problem import make_problem
from kety.joint.graph import places as grid_places
from kety.joint.setup import make_setup
from kety.joint.similarity import (
    gaussian_similarity,
    kernel_ridge,
    kernel_width,
    spatial_distance,
    temporal_distance,
)
from kety.joint.strength import at_strength
from kety.studies.figures import SPARE
from kety.studies.multitask.data import UNIT, Sequence66, noisy, reference_sequence
from kety.studies.multitask.paper import GRID, INSTANCES, READINGS
from kety.units import SECONDS_PER_MINUTE

if TYPE_CHECKING:
    from kety.joint.setup import Setup
    from kety.studies.records import Effort

Array = NDArray[np.float64]

MODEL: Final = "one_compartment"
VOXELWISE, OURS, KNOWN = "E", "ours", "known"
WRITTEN: Final = ("SE", "TE")
"""The paper's methods, equation 3 and its hyperparameters as written."""
FIRM: Final = "TE firm"
EQUATION_3: Final = (*WRITTEN, FIRM)
LABELS: Final[Mapping[str, str]] = {
    VOXELWISE: "E, voxelwise",
    "SE": "SE, spatial",
    "TE": "TE, temporal",
    FIRM: "TE, firm ridge",
    OURS: "kety, graph",
    KNOWN: "tissues known",
}
"""Method to its name in tables and legends, in their order."""
COLOURS: Final[Mapping[str, str]] = dict(
    zip(LABELS, (SPARE[6], SPARE[0], SPARE[1], SPARE[4], SPARE[2], SPARE[3]), strict=True)
)
MARKS: Final[Mapping[str, str]] = dict(zip(LABELS, "Dos^vP", strict=True))
SUPERSCRIPT: Final = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
RATES: Final = slice(1, 3)
"""θ1 and θ2 among the kernel's v, a, k and tau."""
RIDGE, LENGTH = 1e-2, 20.0
"""Of `FIRM`: least ridge, relative to the largest eigenvalue of K, and length of the kernel, s."""
SQUARE: Final = UNIT**2
"""A strength of equation 3 in HU² s², for one of the sequence in its own unit."""

QUICK_STRENGTHS: Final = tuple(10.0 ** np.array([1, 2, 3, 3.5, 4, 4.5, 5, 5.5, 6, 7, 8]))
FULL_STRENGTHS: Final = tuple(10.0 ** np.arange(0.0, 9.1, 0.25))
"""λ of equation 3, HU² s²."""
QUICK_GRAPH: Final = tuple(4.0 ** np.arange(-1.0, 8.1))
FULL_GRAPH: Final = tuple(2.0 ** np.arange(-3.0, 17.1))
"""Strengths of kety's graph, without unit."""


class Spread(NamedTuple):
    """A mean and its 95 % confidence interval."""

    value: float
    low: float
    high: float


def spread(values: ArrayLike) -> Spread:
    """Mean of repetitions with Student's interval; what is not finite is left out."""
    from scipy.stats import t

    x = np.asarray(values, dtype=np.float64).ravel()
    x = x[np.isfinite(x)]
    if x.size < 2:
        middle = float(x[0]) if x.size else float("nan")
        return Spread(middle, float("nan"), float("nan"))
    half = float(t.ppf(0.975, x.size - 1) * x.std(ddof=1) / np.sqrt(x.size))
    return Spread(float(x.mean()), float(x.mean()) - half, float(x.mean()) + half)


def power(value: float) -> str:
    """A strength as people write it, such as 3.2 × 10⁴."""
    if value == 0.0 or not np.isfinite(value):
        return f"{value:g}".replace("inf", "∞")
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    ten = "10" + str(int(exponent)).translate(SUPERSCRIPT)
    return ten if mantissa == "1.0" else f"{mantissa.removesuffix('.0')} × {ten}"


def places() -> Array:
    """Places (36, 2) of the sequence's voxels."""
    return np.array(list(np.ndindex(*GRID)), dtype=np.float64)


def same_tissue(sequence: Sequence66) -> Array:
    """1 between voxels of one tissue: a similarity that knows the truth."""
    tissue = sequence.tissues.ravel()
    return np.asarray(tissue[:, None] == tissue, dtype=np.float64)


def similarity(method: str, curves: Array, times: Array) -> Array:
    """W (36, 36) of a method of equation 3, γ the inverse variance of the distances."""
    if method == "SE":
        distance = spatial_distance(places())
    elif method == "TE":
        distance = temporal_distance(kernel_ridge(curves, times))
    else:
        distance = temporal_distance(kernel_ridge(curves, times, LENGTH, least_ridge=RIDGE))
    return np.asarray(gaussian_similarity(distance, kernel_width(distance)))


def estimate(sequence: Sequence66, curves: Array, joint: kety.Joint | None) -> Array:
    """θ (36, 2) in 1/s of curves (36, 66)."""
    return _estimated(sequence, curves, joint)[0]


def _estimated(
    sequence: Sequence66, curves: Array, joint: kety.Joint | None
) -> tuple[Array, Mapping[str, Any]]:
    shape = sequence.tissues.shape
    maps = kety.fit(
        curves.reshape(*shape, -1),
        sequence.times,
        sequence.aif,
        MODEL,
        delay=False,
        mask=np.ones(shape, dtype=np.bool_),
        dtype="float64",
        threads=1,
        joint=joint,
    )
    rates = np.stack([maps[name].values.ravel() for name in sequence.parameters], axis=1)
    return rates / SECONDS_PER_MINUTE, maps.attrs


@dataclass(frozen=True, eq=False)
class Sweep:
    """Instances of the sequence at a noise, estimated at many strengths.

    Attributes
    ----------
    sd : float
        Noise, in the sequence's unit.
    strengths : mapping of str to (n,) array
        Of every method: HU² s² for equation 3, without unit for the graph.
    errors : mapping of str to (instances, n) array
        EF: summed squared error of θ, 1/s².
    chosen : mapping of str to (instances,) array
        Strength that left-out frames choose; 0 is voxelwise, infinity pooled.
    chosen_errors : mapping of str to (instances,) array
        EF there.
    voxelwise : (instances,) array
        EF of the voxelwise estimate.
    """

    sd: float
    strengths: Mapping[str, Array]
    errors: Mapping[str, Array]
    chosen: Mapping[str, Array]
    chosen_errors: Mapping[str, Array]
    voxelwise: Array

    def best(self, method: str) -> float:
        """The strength of least mean error."""
        return float(self.strengths[method][np.argmin(self.errors[method].mean(axis=0))])


def count_of(effort: Effort) -> int:
    """Instances that an effort allows."""
    return effort.pick(10, INSTANCES)


def sweeps(effort: Effort) -> dict[str, Sweep]:
    """`Sweep` of each reading of the noise; computed once."""
    found = {}
    for reading, sd in READINGS.items():
        effort.tell(f"strengths at a noise of {sd:g}")
        grids = (FULL_STRENGTHS, FULL_GRAPH) if effort.full else (QUICK_STRENGTHS, QUICK_GRAPH)
        found[reading] = _sweep(sd, count_of(effort), effort.seed, *grids)
    return found


@lru_cache(maxsize=4)
def _sweep(
    sd: float, count: int, seed: int, strengths: Sequence[float], graph: Sequence[float]
) -> Sweep:
    sequence = reference_sequence()
    grids = {m: np.array(strengths) for m in EQUATION_3} | {OURS: np.array(graph)}
    errors = {m: np.empty((count, len(g))) for m, g in grids.items()}
    chosen, chosen_errors = ({m: np.empty(count) for m in grids} for _ in range(2))
    voxelwise = np.empty(count)

    def squared(theta: Array) -> float:
        return float(((theta - sequence.theta) ** 2).sum())

    for i in range(count):
        curves = noisy(sequence, sd, i, seed=seed)
        voxelwise[i] = squared(estimate(sequence, curves, None))
        for method, grid in grids.items():
            make, unit = joints(method, curves, sequence.times)
            setup = setup_of(sequence, curves, make("auto"))
            for k, strength in enumerate(grid):
                # One setup for all strengths: most of a fit's time goes into it.
                found = at_strength(setup, float(strength) / unit)
                errors[method][i, k] = squared(found.parameters[:, RATES])
            theta, attrs = _estimated(sequence, curves, make("auto"))
            chosen[method][i] = float(attrs["joint_strength"]) * unit
            chosen_errors[method][i] = squared(theta)
    return Sweep(sd, grids, errors, chosen, chosen_errors, voxelwise)


def setup_of(sequence: Sequence66, curves: Array, joint: kety.Joint) -> Setup:
    """A joint fit of curves (36, 66) ready to be solved at any strength, as `kety.fit` makes it."""
    problem = make_problem(
        sequence.times,
        sequence.aif,
        MODEL,
        delay=False,
        bounds=None,
        weights=None,
        dtype="float64",
        threads=1,
        find_enhancing=False,
    )
    solver = prepare(problem, kety.VarProLM())
    where = grid_places(sequence.tissues.shape, np.arange(len(curves)))
    voxelwise = solver(curves).parameters.astype(np.float64)
    return make_setup(problem, joint, solver, curves, voxelwise, where)


def joints(method: str, curves: Array, times: Array) -> tuple[Callable[[Any], kety.Joint], float]:
    """Options of a method at a strength in the unit of `Sweep.strengths` or ``"auto"``, and what
    a strength in the unit of the options has to be multiplied by for that unit."""
    if method == OURS:
        return lambda strength: kety.Joint("graph", strength=strength), 1.0
    w = similarity(method, curves, times)

    def options(strength: Any) -> kety.Joint:
        given: Any = strength if isinstance(strength, str) else strength / SQUARE
        return kety.Joint(w, strength=given, scaled=False)

    return options, SQUARE
