"""Figure 5: maps of a whole simulated brain, and whether their error is below 10 %."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np

from kety.studies.optimization import paper
from kety.studies.optimization.brain_figures import error_picture, slice_picture, volume_picture
from kety.studies.optimization.brain_fits import (
    BATCH,
    BOUNDS,
    FULL,
    QUICK,
    Brain,
    Plan,
    TissueError,
    fit_brain,
    tissue_errors,
)
from kety.studies.optimization.data import LABELS, NAMES, Measured, data_set_2, measure
from kety.studies.records import Comparison, Effort, Outcome, Table

CLAIM: Final = 10.0
"""%, below which the paper puts the error of its brain."""
VESSELS: Final = ("artery", "vein", "venous sinus")
KNOWN: Final = 50.0
"""%, standard error below which the data determine a parameter."""
MEMORY: Final = 4.0  # GiB
COVERED: Final = (90.0, 99.0)
"""%, between which 95 % intervals should hold the truth."""
AVERAGED: Final = ("cortex", "white matter", "tumour rim")


def run(effort: Effort) -> Outcome:
    """Fit the simulated brain."""
    return experiment(FULL if effort.full else QUICK, effort)


def experiment(plan: Plan, effort: Effort) -> Outcome:
    """The experiment of a plan."""
    began = time.perf_counter()
    brain = fit_brain(plan, effort)
    errors = tissue_errors(brain)
    noisy = measure(data_set_2(effort.pick(500, 5000), effort.seed), effort)
    effort.tell("brain: pictures")
    pictures = (volume_picture(brain, plan), slice_picture(brain), error_picture(errors))
    return Outcome(
        "brain",
        "A whole brain (figure 5)",
        told(brain, errors, noisy),
        comparisons(brain, errors, noisy),
        (error_table(errors), rival_table(brain), time_table(brain)),
        pictures,
        conditions(brain, plan),
        targets(brain, errors, plan),
        time.perf_counter() - began,
    )


def of(errors: Sequence[TissueError], tissue: str, name: str) -> TissueError | None:
    """The error of a parameter in a tissue, None where there is no such voxel."""
    found = [e for e in errors if (e.tissue, e.name) == (tissue, name)]
    return found[0] if found else None


def percent(errors: Sequence[TissueError], tissue: str, name: str) -> str:
    """Its median error as text."""
    one = of(errors, tissue, name)
    return "no voxel" if one is None else f"{one.median:.2g} %"


def below(errors: Sequence[TissueError]) -> list[TissueError]:
    """Those whose median error is below the paper's."""
    return [e for e in errors if e.median < CLAIM]


def determined(errors: Sequence[TissueError]) -> list[str]:
    """Tissues in which the standard errors of all four parameters are mostly below `KNOWN`."""
    tissues = dict.fromkeys(e.tissue for e in errors)
    found = {t: [e for e in errors if e.tissue == t and e.reported < KNOWN] for t in tissues}
    return [tissue for tissue, ones in found.items() if len(ones) == len(NAMES)]


def averaged(one: TissueError | None) -> str:
    """Voxels whose mean would have a standard error of 10 %."""
    if one is None or not np.isfinite(one.reported):
        return "?"
    return f"{max(1, int(np.ceil((one.reported / CLAIM) ** 2))):,}"


class Rival(NamedTuple):
    """Median absolute errors, %, of a parameter on the same voxels of the slice.

    `apart` is the median difference of the first two in standard errors of kety's own solver.
    """

    name: str
    voxels: int
    own: float
    simplex: float
    resampled: float
    apart: float


def rivals(brain: Brain) -> list[Rival]:
    """kety's own solver, Nelder-Mead by IIR at 1 Hz, and by the exact model at 1 Hz."""
    found = []
    chosen = brain.slice.voxels
    for name in NAMES:
        true, error = brain.true(name)[chosen], brain.errors[name][chosen]
        ones = (brain.values[name][chosen], brain.slice.values[name], brain.slice.resampled[name])
        known = (true > 0) & np.isfinite(error) & np.isfinite(ones).all(axis=0)
        if known.any():
            own, simplex, resampled = (
                float(np.median(100.0 * np.abs(one - true)[known] / true[known])) for one in ones
            )
            apart = float(np.median((np.abs(ones[0] - ones[1]) / error)[known]))
            found.append(Rival(name, int(known.sum()), own, simplex, resampled, apart))
    return found


def comparisons(
    brain: Brain, errors: Sequence[TissueError], noisy: Measured
) -> tuple[Comparison, ...]:
    """The paper's claim and times beside ours."""
    stated = paper.CLINICAL_ERROR
    overall = noisy.means["all"]
    found = [
        replace(
            stated.beside(
                overall.value,
                overall.low,
                overall.high,
                f"Mean by kety's own solver; the median is {overall.median:.2g} %. The mean hangs "
                "on voxels of small parameters, hence on the ranges, which the paper does not "
                "state.",
            ),
            what="data set 2, all four parameters, mean (paper: below)",
        )
    ]
    places = (("tumour rim", NAMES), ("cortex", ("vb", "delay")), ("white matter", ("vb",)))
    for tissue, names in (*places, *((vessel, ("vb", "delay")) for vessel in VESSELS)):
        for name in names:
            one = of(errors, tissue, name)
            if one is None:
                continue
            found.append(
                Comparison(
                    "Abstract",
                    f"brain, {tissue}, {LABELS[name]}, median error (paper: overall, below)",
                    "%",
                    CLAIM,
                    one.median,
                    why="The paper had no truth for its scan and took the error of data set 2.",
                )
            )
    found.append(
        replace(
            paper.BRAIN_GPU_TIME.beside(
                brain.fitted / 3600,
                why=f"kety's own solver, {len(brain):,} voxels on {brain.threads} cores, float32; "
                "the paper: Nelder–Mead on a Tesla K40m.",
            ),
            what=f"{len(brain):,} voxels (paper: whole brain of 6 million, one GPU)",
        )
    )
    return tuple(found)


def told(brain: Brain, errors: Sequence[TissueError], noisy: Measured) -> tuple[str, ...]:
    """What was asked and what came out."""
    good = below(errors)
    named = ", ".join(f"{LABELS[e.name]} in {e.tissue} ({e.median:.2g} %)" for e in good)
    means = noisy.means["all"]
    worse = "; ".join(
        f"{LABELS[r.name]} {r.own:.3g}, {r.simplex:.3g} and {r.resampled:.3g} %"
        for r in rivals(brain)
        if r.name in ("vb", "delay")
    )
    sure = "".join(
        f"In the {tissue} this noise determines all four (standard errors below half the value), "
        "with errors of "
        + ", ".join(f"{LABELS[n]} {percent(errors, tissue, n)}" for n in NAMES)
        + ". "
        for tissue in determined(errors)
    )
    memory = "" if brain.peak is None else f" in {brain.peak:.2g} GiB of memory"
    speed = 1e6 * brain.fitted / len(brain)
    need = ", ".join(
        f"{averaged(of(errors, tissue, 'vb'))} in {tissue}"
        for tissue in AVERAGED
        if of(errors, tissue, "vb") is not None
    )
    return (
        f"The paper's scan is not public; a brain of {len(brain):,} voxels was simulated with its "
        "frames, input and noise, and tissues whose Vb, Ktrans and delay are those of perfusion "
        f"CT. kety's own solver fitted it in {brain.fitted:.3g} s on {brain.threads} cores "
        f"({speed:.3g} µs a voxel{memory}); the paper took 4.3 hours on a GPU. The estimate shows "
        "what figure 5 shows: vessels and gyri in Vb, arteries early, veins and sinuses late, and "
        "the late territory of the right middle cerebral artery.",
        "The paper's 'magnitude of overall parameter error was <10 %' is inferred from data set 2, "
        "which has the scan's sampling and noise but parameters drawn from wide ranges. On that "
        f"set we find a mean of {means.value:.3g} % and a median of {means.median:.2g} % over all "
        "four parameters. Most of a brain enhances less. Median errors of single "
        f"voxels below 10 %: {named or 'none'}. {sure}In cortex they are Vb "
        f"{percent(errors, 'cortex', 'vb')} and delay {percent(errors, 'cortex', 'delay')}, in "
        "white matter "
        f"{percent(errors, 'white matter', 'vb')} and {percent(errors, 'white matter', 'delay')}. "
        "Where the barrier is intact, Ktrans and kep are below what 6 HU of noise can show, "
        "whatever the optimiser. "
        + (
            "So the claim does not hold for single voxels of a brain outside the vessels."
            if {e.tissue for e in good} <= set(VESSELS)
            else "The claim holds for the parameters and tissues named only."
        ),
        "The fit says so itself: the reported standard errors agree with the errors found, and "
        "95 % intervals hold the truth about as often as they should (table). They also say what "
        "averaging would be needed for a standard error of 10 % in Vb: means over voxels of "
        f"{need}.",
        f"Nelder–Mead with the paper's options (IIR at 1 Hz) took {1e3 * brain.slice.seconds:.3g} "
        f"ms a voxel on {len(brain.slice.voxels):,} voxels of a slice, "
        f"{brain.slice.seconds * len(brain) / brain.fitted:,.0f} times as long as kety's own "
        "solver. Its maps show the same with more error. The cause is neither the optimiser nor "
        "IIR but the resampling of 37 irregular frames to 1 Hz, after which a late frame counts "
        "ten times: the exact model is as bad at 1 Hz. Median errors of kety's own solver at the "
        f"frames, of IIR and of the exact model at 1 Hz: {worse}.",
    )


def conditions(brain: Brain, plan: Plan) -> tuple[str, ...]:
    """Choices that the paper leaves open."""
    bounds = ", ".join(f"{LABELS[n]} {low:g} to {high:g}" for n, (low, high) in BOUNDS.items())
    return (
        f"Volume of {' × '.join(map(str, plan.shape))} voxels with {len(brain):,} inside the "
        "skull, all of which are fitted, fluid too. Frames and noise of data set 2, input of 300 "
        "HU known at 1 Hz, the same for simulation and fit. Bounds: "
        f"{bounds} (1/min, mL/mL, s), wide enough for vessels.",
        f"The volume is simulated and fitted in blocks of {BATCH:,} voxels; the time is that of "
        "kety.fit from curves to maps with standard errors, in float32. Simulation took "
        f"{brain.simulated:.0f} s more.",
        "Errors are those of single voxels, relative to a truth above 0. No filter was applied to "
        "curves or maps"
        + (
            f"; for the rendering maps are averaged over {plan.cube}³ voxels."
            if plan.cube > 1
            else "."
        ),
    )


def targets(
    brain: Brain, errors: Sequence[TissueError], plan: Plan
) -> tuple[tuple[str, bool], ...]:
    """What was to be reached, and the paper's claim."""
    found = []
    if plan == FULL:
        enough = len(brain) > paper.BRAIN_VOXELS
        found.append((f"More than 6,000,000 voxels: {len(brain):,}.", enough))
    if brain.peak is not None:
        within = brain.peak < MEMORY
        found.append((f"Below {MEMORY:g} GiB of memory: {brain.peak:.2f} GiB.", within))
    # Ktrans and kep lie at their lower bound in most voxels of healthy tissue.
    judged = [e for e in errors if e.name in ("vb", "delay") and e.known > 50]
    low = min(judged, key=lambda e: e.covered)
    high = max(judged, key=lambda e: e.covered)
    found.append(
        (
            f"95 % intervals of Vb and delay hold the truth in {COVERED[0]:g} to {COVERED[1]:g} % "
            f"of voxels in every tissue: {low.covered:.1f} % ({low.tissue}, {LABELS[low.name]}) to "
            f"{high.covered:.1f} % ({high.tissue}, {LABELS[high.name]}).",
            low.covered >= COVERED[0] and high.covered <= COVERED[1],
        )
    )
    for tissue in determined(errors):
        ones = [e.median for e in errors if e.tissue == tissue]
        found.append(
            (
                "The paper's error below 10 % in single voxels, where this noise determines all "
                f"four parameters ({tissue}): {min(ones):.2g} to {max(ones):.2g} %.",
                max(ones) < CLAIM,
            )
        )
    vessels = [e for e in errors if e.tissue in VESSELS and e.name in ("vb", "delay")]
    if vessels:
        found.append(
            (
                "The same for Vb and delay in vessels: "
                f"{min(e.median for e in vessels):.2g} to {max(e.median for e in vessels):.2g} %.",
                max(e.median for e in vessels) < CLAIM,
            )
        )
    return tuple(found)


def error_table(errors: Sequence[TissueError]) -> Table:
    """Errors by tissue and parameter."""
    return Table(
        "brain_errors",
        "Error of single voxels by tissue",
        (
            "tissue",
            "parameter",
            "voxels",
            "true median",
            "median error %",
            "mean error %",
            "median bias %",
            "median standard error %",
            "in 95 % interval, %",
            "voxels with standard error, %",
        ),
        tuple(
            (
                e.tissue,
                LABELS[e.name],
                e.voxels,
                e.truth,
                e.median,
                e.mean,
                e.bias,
                e.reported,
                e.covered,
                e.known,
            )
            for e in errors
        ),
        "Relative to the truth. A parameter at its bound has no standard error, nor has one that "
        "the curve does not determine.",
    )


def rival_table(brain: Brain) -> Table:
    """kety's own solver and Nelder-Mead on the slice."""
    return Table(
        "brain_rivals",
        "The same voxels of a slice by both",
        (
            "parameter",
            "voxels",
            "kety's own at the frames, median error %",
            "Nelder–Mead, IIR 1 Hz, %",
            "Nelder–Mead, exact model at 1 Hz, %",
            "difference of the first two, standard errors",
        ),
        tuple((LABELS[r.name], *r[1:]) for r in rivals(brain)),
        "Voxels in which the parameter is above 0 and determined. Standard errors are those of "
        "kety's own solver.",
    )


def time_table(brain: Brain) -> Table:
    """Times for the volume."""
    count, other = len(brain), brain.slice.seconds
    gpu = paper.RUN_TIME["nelder_mead"]["cuda"].value
    cpu = paper.RUN_TIME["differential_evolution"]["fir"].value
    rows: tuple[tuple[str | float | None, ...], ...] = (
        ("kety's own solver, float32", brain.threads, brain.fitted / count, brain.fitted / 3600),
        ("Nelder–Mead, IIR 1 Hz, extrapolated", brain.threads, other, other * count / 3600),
        ("paper, Nelder–Mead, CUDA IIR 1 Hz", "GPU", gpu, gpu * count / 3600),
        ("paper, differential evolution, CPU FIR 1 Hz", 1, cpu, cpu * count / 3600),
    )
    return Table(
        "brain_times",
        f"Time for {count:,} voxels",
        ("solver", "cores", "s/voxel", "h"),
        rows,
        "The paper's times are extrapolated from its tables 5 and 6.",
    )
