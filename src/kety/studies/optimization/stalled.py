"""Why SQP fails with a rounded delay: it never moves the delay from where it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

import kety
from kety.studies.figures import COLOURS, Panel, Series, draw, of_method
from kety.studies.optimization.arrival import rest
from kety.studies.optimization.data import RANGES, DataSet, Measured, measure
from kety.studies.page import number
from kety.studies.records import Effort, Outcome, Picture, Table

STARTS: Final = (1, 2, 4, 8, 16, 32)
PAPER_SQP: Final = 56.9  # %


def explain(sets: Sequence[DataSet], one_start: Sequence[Measured], effort: Effort) -> Outcome:
    """Errors over the delay at which a search stays, and over the number of starts.

    `one_start` are fits by SQP from one start with a rounded delay.
    """
    delays = np.linspace(*RANGES["delay"], effort.pick(10, 19)).tolist()
    stuck = [[measure(data, effort, bounds=rest(), delay=d) for d in delays] for data in sets]
    some = sets[0].first(effort.pick(12, 200))
    choice = kety.Discretization("iir", rate=1.0, delay_filter="round")
    by_starts = [
        measure(
            some,
            effort,
            optimizer=replace(kety.SQP.preset("paper"), starts=count),
            discretization=choice,
        )
        for count in STARTS
    ]
    return Outcome(
        "stalled",
        "Why SQP fails with a rounded delay",
        told(stuck, stayed(one_start), by_starts),
        tables=(delay_table(delays, stuck), starts_table(by_starts)),
        pictures=(picture(delays, stuck, by_starts),),
    )


def stayed(one_start: Sequence[Measured]) -> float:
    """Share of voxels whose delay ends where it started."""
    from kety.fitting.optimizers.base import halton_starts

    low, high = RANGES["delay"]
    begin = low + (high - low) * float(halton_starts(1, len(RANGES))[0, 3])
    ends = np.concatenate([one.maps.delay.values for one in one_start])
    return float(np.mean(np.abs(ends - begin) < 1e-6))


def told(
    stuck: Sequence[Sequence[Measured]], share: float, by_starts: Sequence[Measured]
) -> tuple[str, ...]:
    """What came out, in words."""
    errors = [[one.means["all"].value for one in row] for row in stuck]
    ends = [f"{min(row):.0f} to {max(row):.0f} %" for row in errors]
    few = ", ".join(
        f"{count}: {number(one.means['all'].value, 2)} %"
        for count, one in zip(STARTS, by_starts, strict=True)
    )
    return (
        "Why it fails: with a rounded delay the cost is a staircase in the delay, flat over a "
        "whole sample, while SQP takes its gradient from steps of 1e-5 of the bounds or less. It "
        "sees no slope, so the delay ends where it began, to six digits, in "
        f"{100 * share:.0f} % of the voxels, and the other three parameters are fitted around it. "
        "A higher rate only makes the stairs smaller, and noise does not matter beside an error "
        "of seconds.",
        "How large the error is depends on where the delay stays: over all places it could, "
        f"{ends[0]} on data set 1 and {ends[1]} on data set 2; at the lower bound, where the first "
        "point of Matlab's haltonset lies (0 in every coordinate), "
        f"{errors[0][0]:.0f} and {errors[1][0]:.0f} %. More starts help because they start at "
        f"other delays, of which the best is kept (starts: error; {few}).",
        "So 56.9 % is what SQP gives if one start counts, or if all starts share one delay; it is "
        "not what the 32 Halton points of table 3 give. Which of the two it was the paper does not "
        "tell.",
    )


def delay_table(delays: Sequence[float], stuck: Sequence[Sequence[Measured]]) -> Table:
    """Errors where the delay stays at a value."""
    rows = tuple(
        (delay, *(one.means["all"].value for one in pair))
        for delay, *pair in zip(delays, *stuck, strict=True)
    )
    return Table(
        "delay_stuck",
        "Mean error over all four where the delay of every voxel stays at one value",
        ("delay s", "data set 1 %", "data set 2 %"),
        rows,
        f"The other three fitted exactly. Paper, SQP with rounded delay: {PAPER_SQP} % on both.",
    )


def starts_table(by_starts: Sequence[Measured]) -> Table:
    """Errors over the number of starts."""
    rows = []
    for count, one in zip(STARTS, by_starts, strict=True):
        mean = one.means["all"]
        rows.append((count, len(one), mean.value, mean.low, mean.high, mean.median))
    return Table(
        "delay_starts",
        "SQP with a rounded delay at 1 Hz by the number of starts, data set 1",
        ("starts", "voxels", "all four %", "95 % from", "to", "median %"),
        tuple(rows),
    )


def picture(
    delays: Sequence[float], stuck: Sequence[Sequence[Measured]], by_starts: Sequence[Measured]
) -> Picture:
    """Both tables as panels."""
    x = list(delays)
    lines = []
    for which, row in enumerate(stuck):
        means = [one.means["all"] for one in row]
        lines.append(
            Series(
                f"data set {which + 1}",
                x,
                [m.value for m in means],
                [m.low for m in means],
                [m.high for m in means],
                colour=("#56b4e9", COLOURS["nelder_mead"])[which],
                mark="os"[which],
            )
        )
    paper: dict[str, Any] = {"colour": COLOURS["paper"], "mark": "", "line": ":"}
    lines.append(Series("paper, SQP", [x[0], x[-1]], [PAPER_SQP] * 2, **paper))
    means = [one.means["all"] for one in by_starts]
    counted = of_method(
        "sqp",
        STARTS,
        [m.value for m in means],
        low=[m.low for m in means],
        high=[m.high for m in means],
        label="SQP, data set 1",
    )
    level = Series("paper, SQP", [STARTS[0], STARTS[-1]], [PAPER_SQP] * 2, **paper)
    panels = [
        Panel(
            "the delay stays where it starts",
            lines,
            x_label="delay at the start, s",
            y_label="mean error, all four, %",
            y_scale="linear",
        ),
        Panel(
            "SQP, rounded delay, 1 Hz",
            [counted, level],
            x_label="starts",
            x_scale="log",
            x_ticks=[(float(s), str(s)) for s in STARTS],
        ),
    ]
    spans = "; ".join(f"{s.label} {min(s.y):.0f} to {max(s.y):.0f} %" for s in lines)
    return Picture(
        "delay-stuck",
        "Why SQP fails: with a rounded delay it leaves the delay where it starts. Left: error over "
        "where that is, the other three parameters fitted. Right: error over the number of starts.",
        draw(panels),
        f"Mean error against the delay at the start, 1 to 10 s: {spans}. With 1 to 32 starts it "
        f"falls from {counted.y[0]:.0f} to {counted.y[-1]:.1f} %.",
    )
