"""Figure 1: the error over λ, where it is least, and what left-out frames would have chosen."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from kety.studies.figures import COLOURS as STUDY_COLOURS
from kety.studies.figures import MUTED, Panel, Series, draw
from kety.studies.multitask.methods import (
    COLOURS,
    EQUATION_3,
    FIRM,
    LABELS,
    LENGTH,
    MARKS,
    OURS,
    RIDGE,
    SQUARE,
    Array,
    Spread,
    Sweep,
    count_of,
    power,
    spread,
    sweeps,
)
from kety.studies.multitask.paper import CLAIMS, READINGS, STATEMENTS, STRENGTH
from kety.studies.page import number
from kety.studies.records import Comparison, Effort, Outcome, Picture, Table
from kety.units import SECONDS_PER_MINUTE

METHODS: Final = (*EQUATION_3, OURS)


def run(effort: Effort) -> Outcome:
    """Sweep λ for all methods of both noises."""
    began = time.perf_counter()
    swept = sweeps(effort)
    return Outcome(
        "strength",
        "The strength of the penalty (figure 1)",
        told(swept),
        comparisons(swept),
        (best_table(swept), curve_table(swept)),
        (picture(swept),),
        conditions(effort),
        targets(swept),
        time.perf_counter() - began,
    )


def interval_of_best(sweep: Sweep, method: str) -> tuple[float, float]:
    """5 and 95 % of the best strength over bootstrap samples of the instances."""
    errors, grid = sweep.errors[method], sweep.strengths[method]
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(errors), (500, len(errors)))
    best = grid[np.argmin(errors[drawn].mean(axis=1), axis=1)]
    return float(np.quantile(best, 0.025)), float(np.quantile(best, 0.975))


def ratio(sweep: Sweep, method: str) -> Spread:
    """EF at the strength that left-out frames choose over the least of each instance.

    The geometric mean. The least is over the grid, no joining and the chosen strength itself.
    """
    chosen = sweep.chosen_errors[method]
    least = np.minimum.reduce([sweep.errors[method].min(axis=1), sweep.voxelwise, chosen])
    return Spread(*(float(v) for v in np.exp(spread(np.log(chosen / least)))))


def against_fixed(sweep: Sweep, method: str) -> float:
    """Mean EF at the chosen strengths over that at the best strength for all instances."""
    return float(sweep.chosen_errors[method].mean() / sweep.errors[method].mean(axis=0).min())


def told(swept: Mapping[str, Sweep]) -> tuple[str, ...]:
    """What was asked and what came out."""
    parts = []
    for sweep in swept.values():
        found = ", ".join(f"{LABELS[m]} {power(sweep.best(m))}" for m in EQUATION_3)
        parts.append(f"at a noise of {sweep.sd:g} {found}")
    ours = " and ".join(f"{power(s.best(OURS))} ({s.sd:g})" for s in swept.values())
    return (
        "The paper finds EF, the summed squared error of θ1 and θ2, least at λ = 10⁵ for all "
        "methods, and does not state its units. With θ in 1/s and curves in HU, λ of equation 3 is "
        f"in HU² s², and the least error lies {'; '.join(parts)}. The paper's 10⁵ is near the "
        "largest of these; with θ per minute all would be "
        f"{SECONDS_PER_MINUTE**2:,.0f} times smaller, with curves in units of 100 HU "
        f"{SQUARE:,.0f} times.",
        "But no single λ is best: it grows with the noise (the penalty weighs against squared "
        "residuals), and differs between similarities, whose weights have different sums. A λ "
        "chosen at one noise harms at another: SE at its λ for a noise of 0.1 would make the error "
        f"{number(_misused(swept), 2)} times the voxelwise one at 0.01.",
        "kety's strength has no unit: differences of parameters are measured by what the data say "
        "of them, and at 1 all neighbours of a voxel weigh as much as its own data. Its least "
        f"error lies at {ours}. Too strong a penalty does less harm, because voxels whose curves "
        f"differ beyond noise are not joined at all: at the strongest of the grid EF is "
        f"{_beyond(swept, OURS)} times the voxelwise one, that of SE {_beyond(swept, 'SE')} times.",
        "Left-out frames choose a strength without the truth. Its EF, over the least EF of the "
        f"same instance at any strength (geometric mean): {_chosen_words(swept)}.",
    )


def _chosen_words(swept: Mapping[str, Sweep]) -> str:
    parts = []
    for sweep in swept.values():
        found = ", ".join(f"{LABELS[m]} {number(ratio(sweep, m).value, 3)}" for m in METHODS)
        parts.append(f"{found} at a noise of {sweep.sd:g}")
    return "; ".join(parts)


def _beyond(swept: Mapping[str, Sweep], method: str) -> str:
    rates = [s.errors[method][:, -1].mean() / s.voxelwise.mean() for s in swept.values()]
    return " and ".join(number(float(rate), 2) for rate in rates)


def _misused(swept: Mapping[str, Sweep]) -> float:
    """EF of SE at the fine noise with the strength that suits the other, over the voxelwise."""
    coarse, fine = swept["variance"], swept["standard deviation"]
    at = int(np.argmin(np.abs(np.log(fine.strengths["SE"] / coarse.best("SE")))))
    return float(fine.errors["SE"][:, at].mean() / fine.voxelwise.mean())


def conditions(effort: Effort) -> tuple[str, ...]:
    """Choices of this experiment."""
    return (
        f"{count_of(effort)} instances at each noise. EF as in the paper: the sum over voxels and "
        "both parameters of squared errors, in 1/s², mean over the instances.",
        "λ of equation 3 in HU² s² (θ in 1/s, curves in HU); kety's strength without unit. "
        f"“TE, firm ridge”: ridges of at least {RIDGE:g} of K's largest eigenvalue and a kernel of "
        f"{LENGTH:g} s, see γ above.",
        "Chosen: frames are left out in four groups in turn; the strength that predicts them best "
        "is taken, 0 included. It needs no truth, so it can be used on patients.",
    )


def comparisons(swept: Mapping[str, Sweep]) -> tuple[Comparison, ...]:
    """The paper's λ beside ours."""
    rows = []
    for sweep in swept.values():
        for method in EQUATION_3:
            low, high = interval_of_best(sweep, method)
            stated = CLAIMS["strength"].beside(sweep.best(method), low, high, WHY[method])
            rows.append(
                Comparison(
                    stated.where,
                    f"{stated.what}, {LABELS[method]}, noise {sweep.sd:g}",
                    "HU² s²",
                    stated.paper,
                    stated.ours,
                    stated.low,
                    stated.high,
                    stated.why,
                )
            )
    return tuple(rows)


WHY: Final[Mapping[str, str]] = {
    "SE": "Units, input and noise are not the paper's; λ has the unit of squared curves times s².",
    "TE": "TE's weights as written hardly tell tissues apart and sum to more, so that any stronger "
    "joining does harm.",
    FIRM: "Weights that tell tissues apart admit a stronger joining.",
}


def targets(swept: Mapping[str, Sweep]) -> tuple[tuple[str, bool], ...]:
    """What was to be reached."""
    shares = [float(s.chosen_errors[OURS].mean() / s.voxelwise.mean()) for s in swept.values()]
    words = " and ".join(
        f"{share:.2g} of the voxelwise EF at {sweep.sd:g}, {ratio(sweep, OURS).value:.3g} times "
        "the least of each instance"
        for share, sweep in zip(shares, swept.values(), strict=True)
    )
    return (
        (
            "The strength that left-out frames choose without the truth lowers kety's error at "
            f"both noises: {words}.",
            all(share < 1.0 for share in shares),
        ),
    )


def best_table(swept: Mapping[str, Sweep]) -> Table:
    """Where the error is least, and what left-out frames choose."""
    rows = []
    for sweep in swept.values():
        for method in METHODS:
            errors = sweep.errors[method].mean(axis=0)
            chosen = sweep.chosen[method]
            rate = ratio(sweep, method)
            rows.append(
                (
                    sweep.sd,
                    LABELS[method],
                    sweep.best(method),
                    float(errors.min() / sweep.voxelwise.mean()),
                    float(np.median(chosen)),
                    float(100.0 * np.mean(chosen == 0.0)),
                    float(sweep.chosen_errors[method].mean() / sweep.voxelwise.mean()),
                    rate.value,
                    rate.low,
                    rate.high,
                    against_fixed(sweep, method),
                )
            )
    return Table(
        "multitask_strength",
        "Strength of least error, and the one that left-out frames choose",
        (
            "noise",
            "method",
            "best λ",
            "EF / voxelwise",
            "chosen λ, median",
            "0 chosen, %",
            "EF / voxelwise, chosen",
            "chosen / best of instance",
            "95 % from",
            "to",
            "chosen / best fixed",
        ),
        tuple(rows),
        "λ in HU² s², kety's without unit. Best: one λ for all instances, found with the truth. "
        f"“{STATEMENTS['strength']}” holds where the best λ of a noise agree.",
    )


def curve_table(swept: Mapping[str, Sweep]) -> Table:
    """Every point of the figure."""
    rows = tuple(
        (sweep.sd, LABELS[m], float(at), value.value, value.low, value.high)
        for sweep in swept.values()
        for m in METHODS
        for at, value in zip(sweep.strengths[m], map(spread, sweep.errors[m].T), strict=True)
    )
    header = ("noise", "method", "λ", "EF, 1/s²", "95 % from", "to")
    return Table("multitask_strengths", "EF over λ", header, rows)


def picture(swept: Mapping[str, Sweep]) -> Picture:
    """Figure 1 at both noises, equation 3 left and kety right."""
    panels = []
    for sweep in swept.values():
        for side in (EQUATION_3, (OURS,)):
            panels.append(_panel(sweep, side))
    alt = "; ".join(
        f"noise {s.sd:g}, {LABELS[m]}: least at {s.best(m):.2g}"
        for s in swept.values()
        for m in METHODS
    )
    noises = " and ".join(f"{sd:g}" for sd in READINGS.values())
    return Picture(
        "multitask-strength",
        f"Figure 1: EF over λ at noises of {noises}. Left equation 3, λ in HU² s², with the "
        "paper's λ; right kety's graph, whose strength has no unit. Open marks: mean of the "
        "strengths that left-out frames choose, at their median.",
        draw(panels, columns=2, height=2.9),
        f"Strength of least error. {alt}.",
    )


def _panel(sweep: Sweep, methods: tuple[str, ...]) -> Panel:
    grid = sweep.strengths[methods[0]]
    ends: list[float] = [float(grid[0]), float(grid[-1])]
    level = float(sweep.voxelwise.mean())
    series = [Series("voxelwise", ends, [level, level], colour=MUTED, mark="", line="--")]
    top, bottom = level, level
    for method in methods:
        means: Array = sweep.errors[method].mean(axis=0)
        look: dict[str, Any] = {"colour": COLOURS[method], "mark": MARKS[method]}
        series.append(Series(LABELS[method], list(sweep.strengths[method]), list(means), **look))
        at = float(np.median(sweep.chosen[method]))
        if ends[0] <= at <= ends[1]:
            chosen = float(sweep.chosen_errors[method].mean())
            series.append(Series("chosen", [at], [chosen], hollow=True, line="", **look))
        top, bottom = max(top, means.max()), min(bottom, means.min())
    if OURS not in methods:
        paper = STUDY_COLOURS["paper"]
        line = [STRENGTH, STRENGTH]
        series.append(Series("paper’s λ", line, [bottom, top], colour=paper, mark="", line=":"))
    what = "kety's graph" if OURS in methods else "equation 3"
    unit = "strength" if OURS in methods else "λ, HU² s²"
    return Panel(f"{what}, noise {sweep.sd:g}", series, unit, "EF, 1/s²", "log", "log")
