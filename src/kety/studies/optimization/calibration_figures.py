"""Figures of the calibration: table 4, and what limits the optimisers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from kety.studies.figures import COLOURS, Panel, Series, draw, of_method, of_paper
from kety.studies.optimization import paper
from kety.studies.optimization.calibration_fits import (
    LADDER,
    METHODS,
    Own,
    Plan,
    Results,
    along_delay,
    by_rate,
    of,
)
from kety.studies.records import Picture

GOOD: Final = LADDER[:3]
SHORT: Final = {
    "nelder_mead": "NM",
    "differential_evolution": "DE",
    "sqp": "SQP",
    "sqp/forward": "SQP\nforward",
    "pattern_search": "PS",
    "simulated_annealing": "SA",
}


def accuracy_picture(plan: Plan, results: Results, own: Own) -> Picture:
    """Table 4 as a figure."""
    places = [m for m in SHORT if of(plan, results, m) is not None]
    ones = [results[m, plan.rates[m], ""] for m in places]
    own_at = float(len(places))
    ticks = [(float(i), SHORT[m]) for i, m in enumerate(places)] + [(own_at, "kety")]
    errors, times = [], []
    for i, (method, one) in enumerate(zip(places, ones, strict=True)):
        low, high = one.interval()
        bars = {} if low is None or high is None else {"low": [low], "high": [high]}
        look = {"label": "ours", "line": "", "colour": COLOURS["nelder_mead"], "mark": "o"}
        errors.append(of_method(method.split("/")[0], [i], [one.median], **look, **bars))
        times.append(of_method(method.split("/")[0], [i], [one.seconds], **look))
    for panel, value in ((errors, own.frames.median), (times, own.frames.seconds)):
        panel.append(of_method("varprolm", [own_at], [value], line=""))
    stated: Sequence[str] = [m for m in places if m in paper.CALIBRATION_ERROR]
    at = [float(places.index(m)) for m in stated]
    errors.append(of_paper(at, [paper.CALIBRATION_ERROR[m].value for m in stated]))
    times.append(of_paper(at, [paper.CALIBRATION_TIME[m].value for m in stated]))
    return Picture(
        "calibration",
        "Table 4: median error over all four parameters with 95 % confidence interval, and time "
        "for a voxel on one core. kety: its own solver on exact curves.",
        draw(
            [
                Panel("error", errors, y_label="median error, %", x_ticks=ticks),
                Panel("time", times, y_label="s per voxel and core", x_ticks=ticks),
            ],
            height=3.2,
        ),
        "Median errors: "
        + "; ".join(f"{METHODS[m]} {o.median:.2g} %" for m, o in zip(places, ones, strict=True))
        + f"; kety's own solver {own.frames.median:.2g} %.",
    )


def limits_picture(results: Results, seed: int) -> Picture:
    """Errors by rate, and the jumps of the cost that disturb differences."""
    lines = []
    looks: dict[str, Any] = {
        "sqp": {"label": "SQP, central"},
        "sqp/forward": {"label": "SQP, forward", "hollow": True},
        "sqp/exact": {"label": "SQP, central, smooth delay", "line": ":"},
    }
    for method in LADDER:
        ones = by_rate(results, method)
        x, y = [key[1] for key, _ in ones], [one.median for _, one in ones]
        lines.append(of_method(method.split("/")[0], x, y, **looks.get(method, {})))
    stated = [paper.CALIBRATION_ERROR[m].value for m in GOOD]
    lines.append(of_paper([paper.CALIBRATION_RATE] * 3, stated))
    rate = paper.CALIBRATION_RATE
    offset, cost = along_delay(rate, seed)
    curve = Series("cost", offset.tolist(), cost.tolist(), mark="", colour=COLOURS["sqp"])
    return Picture(
        "calibration-limits",
        "Left: median error by processing rate. Right: the cost of one voxel around its true "
        "delay, the other parameters true; it jumps where the all-pass is switched.",
        draw(
            [
                Panel(
                    "error by rate",
                    lines,
                    x_label="processing rate, Hz",
                    y_label="median error, %",
                    x_scale="log",
                ),
                Panel(
                    f"cost along the delay, {rate:g} Hz",
                    [curve],
                    x_label="delay − true delay, samples",
                    y_label="sum of squares, HU²",
                    y_scale="linear",
                ),
            ],
            height=3.4,
        ),
        "Nelder–Mead's error is flat in the rate, that of differential evolution falls with its "
        "root, that of SQP with forward differences is flat. The cost has a step at every switch.",
    )
