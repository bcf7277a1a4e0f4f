"""Two checks of equation 3: the minimum against IPOPT's, and where the entropy is largest."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

import kety
from kety.errors import KetyError, MissingDependencyError
from kety.joint.energy import energy, paper_edges, paper_loss
from kety.joint.interior_point import interior_point
from kety.joint.similarity import (
    entropy_maximum,
    gram_entropy,
    kernel_ridge,
    kernel_width,
    spatial_distance,
    temporal_distance,
)
from kety.joint.solve import TIGHT
from kety.joint.strength import at_strength
from kety.studies.figures import INK, Panel, Series, draw
from kety.studies.multitask.data import Sequence66, noisy
from kety.studies.multitask.methods import (
    COLOURS,
    LABELS,
    LENGTH,
    RIDGE,
    WRITTEN,
    Array,
    places,
    power,
    setup_of,
    similarity,
)
from kety.studies.multitask.paper import READINGS
from kety.studies.records import Picture, Table

if TYPE_CHECKING:
    from kety.studies.records import Effort

AGREEMENT: Final = 1e-6
QUICK_STRENGTHS: Final = (1.0, 1e3, 1e5, 1e7)
FULL_STRENGTHS: Final = (1.0, 10.0, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7)
"""λ in the unit of the sequence, (100 HU)² s²."""
MOST_BFGS: Final = 1e2
"""λ above which IPOPT is given the exact Hessian of the penalty: BFGS takes minutes to learn it."""
RATES: Final = np.diag([0.0, 1.0, 1.0, 0.0])
SD: Final = READINGS["variance"]


@dataclass(frozen=True)
class Agreement:
    """Losses of equation 3 that kety's solver and IPOPT find from the voxelwise estimate."""

    method: str
    instance: int
    strength: float
    own: float
    ipopt: float
    own_seconds: float
    ipopt_seconds: float
    hessian: str
    ended: str

    @property
    def difference(self) -> float:
        """Kety's loss less IPOPT's, relative."""
        return self.own / self.ipopt - 1.0


def agreements(sequence: Sequence66, effort: Effort) -> tuple[list[Agreement], str]:
    """Both solvers on some instances, or none and the reason."""
    found = []
    strengths = FULL_STRENGTHS if effort.full else QUICK_STRENGTHS
    for instance in range(effort.pick(2, 5)):
        curves = noisy(sequence, SD, instance, seed=effort.seed)
        for method in WRITTEN:
            w = similarity(method, curves, sequence.times)
            for strength in strengths:
                effort.tell(f"IPOPT: {method}, instance {instance}, λ = {strength:g}")
                try:
                    found.append(_agreement(sequence, curves, method, w, instance, strength))
                except MissingDependencyError as missing:
                    return [], str(missing)
    return found, ""


def _agreement(
    sequence: Sequence66, curves: Array, method: str, w: Array, instance: int, strength: float
) -> Agreement:
    setup = setup_of(sequence, curves, kety.Joint(w, strength=strength, scaled=False))
    problem = setup.voxels.problem
    frames, voxels = curves.shape[1], len(curves)
    edges = paper_edges(w, frames, strength)
    began = time.perf_counter()
    own = at_strength(setup, strength, tolerances=TIGHT)
    between = time.perf_counter()
    hessian = "bfgs" if strength <= MOST_BFGS else "gauss_newton"
    reference = interior_point(problem, curves, edges, RATES, setup.voxelwise, hessian=hessian)
    ended = time.perf_counter()
    value = energy(problem, curves, edges, RATES, own.parameters)
    return Agreement(
        method,
        instance,
        strength,
        paper_loss(value, frames, voxels),
        paper_loss(reference.energy, frames, voxels),
        between - began,
        ended - between,
        "BFGS" if hessian == "bfgs" else "Gauss–Newton",
        reference.message,
    )


def agreement_table(found: list[Agreement]) -> Table:
    """A row for every minimum."""
    rows = tuple(
        (
            LABELS[one.method],
            one.instance,
            one.strength,
            one.own,
            one.ipopt,
            one.difference,
            1e3 * one.own_seconds,
            1e3 * one.ipopt_seconds,
            one.hessian,
            one.ended,
        )
        for one in found
    )
    header = ("method", "instance", "λ", "loss, kety", "loss, IPOPT", "kety less IPOPT, relative")
    return Table(
        "multitask_ipopt",
        "The minimum of equation 3 by kety and by IPOPT",
        (*header, "kety, ms", "IPOPT, ms", "IPOPT’s Hessian", "IPOPT ended"),
        rows,
        "Noise of 0.1; λ in the unit of the sequence, that is 10⁴ HU² s². Both start from the "
        "voxelwise estimate; losses of both are evaluated by the same plain double-precision "
        "code. BFGS as in the paper needs up to minutes at a large λ, where the penalty's own "
        "Hessian is given instead.",
    )


def agreement_target(found: list[Agreement]) -> tuple[tuple[str, bool], ...]:
    """Whether both solvers reach the same loss; none where IPOPT could not be run."""
    if not found:
        return ()
    worst = max((abs(one.difference) for one in found), default=float("nan"))
    above = max(one.difference for one in found)
    times = np.median([one.ipopt_seconds / one.own_seconds for one in found])
    text = (
        f"kety's solver and IPOPT (interior point, as in the paper) agree in the loss of "
        f"equation 3 to {power(AGREEMENT)}: {len(found)} minima of SE and TE at λ from "
        f"{found[0].strength:g} to {power(max(one.strength for one in found))} differ by at most "
        f"{power(worst)}, kety's lies above by at most {power(max(above, 0.0))}. IPOPT takes "
        f"{times:.0f} times as long (median)."
    )
    return ((text, worst <= AGREEMENT),)


def agreement_words(found: list[Agreement], why: str) -> str:
    """What became of the comparison."""
    if not found:
        return f"The minimum was not compared with IPOPT's: {why}."
    return (
        "The paper minimises by an interior-point method with BFGS, kety by Gauss–Newton steps "
        "whose linear systems conjugate gradients solve. From the same start both find the same "
        f"minimum of equation 3 (largest relative difference of the loss "
        f"{power(max(abs(one.difference) for one in found))})."
    )


@dataclass(frozen=True)
class Width:
    """γ of a set of distances by two rules, and the entropy of the weights at both.

    ``joined``: mean weight of pairs of one tissue; ``apart``: of two tissues; at 1 / variance.
    """

    name: str
    method: str
    distance: Array
    variance: float
    maximum: float
    joined: float
    apart: float

    @property
    def lost(self) -> float:
        """Entropy below its maximum at 1 / variance, nats."""
        return gram_entropy(self.distance, self.maximum) - gram_entropy(
            self.distance, self.variance
        )


def widths(sequence: Sequence66, effort: Effort) -> list[Width]:
    """γ of the spatial distances, and of the temporal ones at both readings of the noise."""
    sets = [("spatial", "SE", spatial_distance(places()))]
    for sd in READINGS.values():
        curves = noisy(sequence, sd, 0, seed=effort.seed)
        plain = temporal_distance(kernel_ridge(curves, sequence.times))
        firm = temporal_distance(kernel_ridge(curves, sequence.times, LENGTH, least_ridge=RIDGE))
        sets.append((f"temporal, noise {sd:g}", "TE", plain))
        sets.append((f"temporal, firm ridge, noise {sd:g}", "TE firm", firm))
    tissue = sequence.tissues.ravel()
    other = ~np.eye(tissue.size, dtype=np.bool_)
    same = (tissue[:, None] == tissue) & other
    found = []
    for name, method, distance in sets:
        try:
            gamma, maximum = kernel_width(distance), entropy_maximum(distance)
        except KetyError:
            continue
        w = np.exp(-gamma * distance**2)
        joined, apart = float(w[same].mean()), float(w[~same & other].mean())
        found.append(Width(name, method, distance, gamma, maximum, joined, apart))
    return found


def width_table(found: list[Width]) -> Table:
    """A row for every set of distances."""
    rows = tuple(
        (w.name, w.variance, w.maximum, w.variance / w.maximum, w.lost, w.joined, w.apart)
        for w in found
    )
    header = (
        "distances",
        "γ = 1 / variance",
        "γ of largest entropy",
        "ratio",
        "entropy lost, nats",
    )
    return Table(
        "multitask_gamma",
        "γ by the paper's rule, and where the entropy is largest",
        (*header, "mean weight in a tissue", "between tissues"),
        rows,
        "Spatial distances in voxels, temporal ones in the unit of the sequence. Weights at "
        "γ = 1 / variance; a similarity that tells tissues apart has a larger weight within one.",
    )


def width_words(found: list[Width]) -> str:
    """The finding on γ."""
    ratios = [w.variance / w.maximum for w in found]
    written = [w for w in found if w.method == "TE"]
    blind = "; ".join(f"{w.joined:.2f} within and {w.apart:.2f} between tissues" for w in written)
    return (
        "The paper sets γ to the inverse variance of the distances, where it says the entropy of "
        "the Gram matrix is largest. With w = exp(−γ d²) the differential entropy of the weights "
        "is log γ − γ mean(d²) plus a constant, largest at γ = 1 / mean(d²): that is the inverse "
        "of the variance only if the variance is taken about zero. About the mean, γ is "
        f"{min(ratios):.2g} to {max(ratios):.2g} times as large here. Of more weight is the ridge: "
        "generalised cross-validation in every voxel takes a few noisy curves for smooth ones, "
        "these lie far from all others in the norm of the kernel's space and make the variance "
        f"large, and then TE's weights hardly tell tissues apart (mean weight {blind}). A ridge of "
        f"at least {RIDGE:g} of K's largest eigenvalue and a kernel of {LENGTH:g} s (“firm ridge”) "
        "mend that."
    )


def width_picture(found: list[Width]) -> Picture:
    """Entropy over γ, both rules marked."""
    panels = []
    for w in found:
        gammas = w.maximum * np.geomspace(0.03, 30.0, 61)
        entropy = [gram_entropy(w.distance, g) for g in gammas]
        top = max(entropy)
        curve = Series(
            "entropy", list(gammas / w.maximum), [e - top for e in entropy], mark="", colour=INK
        )
        marks = [
            Series(
                label, [g / w.maximum], [gram_entropy(w.distance, g) - top], None, None, c, m, ""
            )
            for label, g, c, m in (
                ("γ = 1 / variance (paper)", w.variance, COLOURS["SE"], "o"),
                ("γ = 1 / mean squared distance", w.maximum, COLOURS["TE"], "s"),
            )
        ]
        panels.append(
            Panel(
                w.name,
                [curve, *marks],
                "γ / γ of the maximum",
                "entropy below maximum, nats",
                "log",
                "linear",
                [(0.1, "0.1"), (1.0, "1"), (10.0, "10")],
                (-4.0, 0.4),
            )
        )
    alt = "; ".join(f"{w.name}: ratio {w.variance / w.maximum:.3g}" for w in found)
    return Picture(
        "multitask-gamma",
        "Entropy of the weights over γ: the paper's γ, the inverse variance, lies above the "
        "maximum wherever the mean distance is not small beside its spread.",
        draw(panels, columns=3, height=2.4),
        f"The paper's γ over that of largest entropy. {alt}.",
    )
