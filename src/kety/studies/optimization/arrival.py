"""What fitting the delay is worth: fitted, known, set by hand, from the onset, ignored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from kety.studies.figures import COLOURS, Panel, Series, categories, draw
from kety.studies.optimization.data import (
    LABELS,
    NAMES,
    RANGES,
    Array,
    DataSet,
    Mean,
    brain_times,
    mean_errors,
    measure,
    simulated,
)
from kety.studies.optimization.paper import NOISE
from kety.studies.page import number
from kety.studies.records import Effort, Outcome, Picture, Table

GRID: Final = 0.75
"""s between the true delays of this part: voxels of one delay are fitted together."""
HALF: Final = 0.5
"""s, an error of the delay that a careful reader of curves might make."""
MISFITS: Final = (-2.0, -1.0, -HALF, -0.2, 0.0, 0.2, HALF, 1.0, 2.0)  # s
OTHERS: Final = NAMES[:3]
WAYS: Final = {
    "fitted": "fitted with the others",
    "known": "known exactly",
    "near": f"by hand, {HALF:g} s off",
    "region": "by hand, one for all (mean)",
    "onset": "from the onset's slope",
    "ignored": "ignored (0)",
}
"""Ways to the delay, in the order of the table."""
SETS: Final = ("data set 1", "data set 2")
Errors = Mapping[str, Mean]


class Found(NamedTuple):
    """Errors (V, 4) in %, and the mean error of the delay in s."""

    errors: Array
    delay: float


def rest() -> dict[str, tuple[float, float]]:
    """Bounds of all but the delay."""
    return {name: RANGES[name] for name in OTHERS}


def shifted(data: DataSet, shift: float, effort: Effort) -> Array:
    """Errors (V, 4) in % with each voxel's delay held at its truth plus `shift` s."""
    errors = np.empty((len(data), len(NAMES)))
    for delay in np.unique(data.truth["delay"]):
        here = np.flatnonzero(data.truth["delay"] == delay)
        truth = {name: values[here] for name, values in data.truth.items()}
        part = DataSet(data.name, data.times, truth, data.curves[here], data.noise)
        errors[here] = measure(part, effort, bounds=rest(), delay=float(delay + shift)).errors
    return errors


def by_way(data: DataSet, held: Mapping[float, Array], effort: Effort) -> dict[str, Found]:
    """Errors for each of `WAYS`; `held` are those with the delay held off by some s."""

    def fit(**options: Any) -> Found:
        one = measure(data, effort, **options)
        return Found(one.errors, float(np.nanmean(np.abs(one.maps.delay - data.truth["delay"]))))

    mean = float(data.truth["delay"].mean())
    return {
        "fitted": fit(),
        "known": Found(held[0.0], 0.0),
        "near": Found(np.concatenate([held[-HALF], held[HALF]]), HALF),
        "region": fit(bounds=rest(), delay=mean),
        "onset": fit(delay="onset"),
        "ignored": fit(bounds=rest(), delay=False),
    }


def compare(effort: Effort) -> Outcome:
    """Tables and figures of the ways to the delay on data sets 1 and 2."""
    count, seed = effort.pick(150, 2000), effort.seed + 1000
    sets = (
        simulated(SETS[0], np.arange(200.0), count, seed, delay_step=GRID),
        simulated(SETS[1], brain_times(), count, seed, noise=NOISE, delay_step=GRID),
    )
    held = [{shift: shifted(data, shift, effort) for shift in MISFITS} for data in sets]
    ways = [by_way(data, one, effort) for data, one in zip(sets, held, strict=True)]
    misfits = [[mean_errors(errors) for errors in one.values()] for one in held]
    means = [{way: mean_errors(found.errors) for way, found in one.items()} for one in ways]
    return Outcome(
        "arrival",
        "The worth of fitting the delay",
        told(ways, means, misfits),
        tables=(way_table(ways, means), misfit_table(misfits)),
        pictures=(misfit_picture(misfits), way_picture(means)),
        conditions=(
            f"Ways to the delay: {count} voxels of each set, fitted by kety's own solver with the "
            f"exact model; true delays {GRID:g} s apart, so that voxels of one delay are fitted "
            "together. The onset comes from kety.signal.onset_delay: the steepest line through 4 "
            "frames of the rise, extended to 0, less that of the input. The region of one value "
            "holds all delays from 1 to 10 s; for smaller ones read the figure of held delays.",
        ),
        targets=targets(means),
    )


def told(
    ways: Sequence[Mapping[str, Found]],
    means: Sequence[Mapping[str, Errors]],
    misfits: Sequence[Sequence[Errors]],
) -> tuple[str, ...]:
    """What came out, in words."""

    def three(errors: Errors) -> str:
        return ", ".join(f"{LABELS[n]} {number(errors[n].value, 2)}" for n in OTHERS) + " %"

    fifth, half = (misfits[0][MISFITS.index(shift)] for shift in (0.2, HALF))
    even = as_good(means[1]["fitted"], misfits[1])
    fitted, onset = ([one[way].delay for one in ways] for way in ("fitted", "onset"))
    return (
        "Why fit the delay at all: the paper argues that a value set by hand for a whole region, "
        "or read off the slope of the onset, errs. On data set 1 a delay held 0.2 s late costs "
        f"{three(fifth)}, {HALF:g} s late {three(half)}; with the delay fitted the errors are "
        f"{three(means[0]['fitted'])}.",
        f"With the noise of data set 2 the fit finds the delay to {number(fitted[1], 2)} s on "
        f"average, the onset's slope to {number(onset[1], 2)} s (data set 1: "
        f"{number(fitted[0], 2)} and {number(onset[0], 2)} s). Errors of the others: delay fitted "
        f"{three(means[1]['fitted'])}; from the onset {three(means[1]['onset'])}; one value for "
        f"all {three(means[1]['region'])}; ignored {three(means[1]['ignored'])}; known exactly "
        f"{three(means[1]['known'])}.",
        "So noise takes part of the gain: there a delay known otherwise to within "
        f"{number(even, 2)} s would serve as well as fitting it.",
    )


def as_good(fitted: Errors, misfits: Sequence[Errors]) -> float:
    """Error (s) at which a held delay leaves the others as wrong as a fitted one, on average."""

    def others(errors: Errors) -> float:
        return float(np.mean([errors[name].value for name in OTHERS]))

    sizes = sorted({abs(shift) for shift in MISFITS})
    each = [others(errors) for errors in misfits]
    held = [
        np.mean([e for e, s in zip(each, MISFITS, strict=True) if abs(s) == size]) for size in sizes
    ]
    return float(np.interp(others(fitted), held, sizes))


def targets(means: Sequence[Mapping[str, Errors]]) -> tuple[tuple[str, bool], ...]:
    """The argument for fitting: better than any practicable way, on both sets."""
    worse = [
        f"{WAYS[way]} on {label}"
        for label, one in zip(SETS, means, strict=True)
        for way in ("region", "onset", "ignored")
        if one[way]["all"].value <= one["fitted"]["all"].value
    ]
    return (
        (
            "Fitting the delay beats one value for the region, the onset's slope and ignoring it "
            "on data sets 1 and 2" + (f", but not {', '.join(worse)}." if worse else "."),
            not worse,
        ),
    )


def way_table(ways: Sequence[Mapping[str, Found]], means: Sequence[Mapping[str, Errors]]) -> Table:
    """Errors for each way to the delay."""
    rows: list[tuple[str | float, ...]] = []
    for i, label in enumerate(SETS):
        for way, name in WAYS.items():
            each = means[i][way]
            cells: list[float] = []
            for parameter in OTHERS:
                cells += each[parameter][:3]
            rows.append((label, name, *cells, ways[i][way].delay))
    header = [part for n in OTHERS for part in (f"{LABELS[n]} %", "95 % from", "to")]
    return Table(
        "delay_ways",
        "Errors of the other parameters by the way to the delay",
        ("data", "delay", *header, "delay, mean error s"),
        tuple(rows),
        "Means of relative errors with 95 % confidence intervals.",
    )


def misfit_table(misfits: Sequence[Sequence[Errors]]) -> Table:
    """Errors over the error of the delay."""
    rows = tuple(
        (shift, *(one[i][name].value for one in misfits for name in OTHERS))
        for i, shift in enumerate(MISFITS)
    )
    return Table(
        "delay_misfit",
        "Mean error in % where the delay is held that far from the truth",
        ("delay off by s", *(f"{label}, {LABELS[n]}" for label in SETS for n in OTHERS)),
        rows,
    )


def misfit_picture(misfits: Sequence[Sequence[Errors]]) -> Picture:
    """The errors of the other parameters over that of the delay."""
    colours = (COLOURS["sqp"], COLOURS["nelder_mead"])
    panels = []
    for k, name in enumerate(OTHERS):
        lines = []
        for i, label in enumerate(SETS):
            means = [errors[name] for errors in misfits[i]]
            lines.append(
                Series(
                    label,
                    MISFITS,
                    [m.value for m in means],
                    [m.low for m in means],
                    [m.high for m in means],
                    colour=colours[i],
                    mark="os"[i],
                )
            )
        panels.append(
            Panel(
                LABELS[name],
                lines,
                x_label="delay held off by, s",
                y_label="mean error, %" if k == 0 else "",
                y_scale="linear",
            )
        )
    return Picture(
        "delay-misfit",
        "What a wrong delay costs: mean errors of the other three parameters where the delay is "
        "held away from the truth.",
        draw(panels),
        "Errors of Ktrans, kep and Vb grow with the distance of the delay from the truth, to "
        + ", ".join(
            f"{LABELS[n]} {misfits[0][-1][n].value:.0f} % at 2 s late (data set 1)" for n in OTHERS
        )
        + ".",
    )


def way_picture(means: Sequence[Mapping[str, Errors]]) -> Picture:
    """Errors for each way as points with intervals."""
    names = ["fitted", "known", "0.5 s off", "one for all", "onset", "ignored"]
    ticks = [(float(i), name) for i, name in enumerate(names)]
    panels = []
    for k, name in enumerate(OTHERS):
        lines = []
        for i, label in enumerate(SETS):
            each = [means[i][way][name] for way in WAYS]
            lines.append(
                Series(
                    label,
                    categories(len(WAYS), len(SETS), i, 0.3),
                    [m.value for m in each],
                    [m.low for m in each],
                    [m.high for m in each],
                    colour=(COLOURS["sqp"], COLOURS["nelder_mead"])[i],
                    mark="os"[i],
                    line="",
                )
            )
        panels.append(
            Panel(
                LABELS[name],
                lines,
                y_label="mean error, %" if k == 0 else "",
                x_ticks=ticks,
                turn=True,
            )
        )
    return Picture(
        "delay-ways",
        "The delay fitted, known, set by hand, read off the onset, ignored: mean errors of the "
        "other parameters with 95 % confidence intervals.",
        draw(panels, height=3.3),
        "; ".join(
            f"{label}: " + ", ".join(f"{WAYS[w]} {means[i][w]['ktrans'].value:.2g} %" for w in WAYS)
            for i, label in enumerate(SETS)
        )
        + " error of Ktrans.",
    )
