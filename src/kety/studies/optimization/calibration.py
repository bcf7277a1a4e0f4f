"""Table 4: what each optimiser can reach on curves that its own discrete system made, and why."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Final

import numpy as np

from kety.studies.optimization import paper
from kety.studies.optimization.calibration_figures import accuracy_picture, limits_picture
from kety.studies.optimization.calibration_fits import (
    CHANGES,
    FULL,
    LADDER,
    METHODS,
    QUICK,
    Calibrated,
    Own,
    Plan,
    Results,
    by_rate,
    calibrate,
    of,
    own_solver,
)
from kety.studies.optimization.data import LABELS as PARAMETERS
from kety.studies.optimization.data import NAMES, PEAK, RANGES
from kety.studies.records import Comparison, Effort, Outcome, Table

LIMITS: Final = {"nelder_mead": 1e-6, "differential_evolution": 1e-6, "sqp": 1e-4}
"""Largest median error, %, that counts as reached."""
OWN_LIMIT: Final = 1e-8
ORDER: Final = (*LIMITS, "pattern_search", "simulated_annealing")
"""The paper's order of errors."""
NO_GPU: Final = "Not measured: kety has no GPU code yet."


def run(effort: Effort) -> Outcome:
    """Calibrate the five optimisers and kety's own solver."""
    return experiment(FULL if effort.full else QUICK, effort)


def experiment(plan: Plan, effort: Effort) -> Outcome:
    """The experiment of a plan."""
    began = time.perf_counter()
    results = calibrate(plan, effort)
    own = own_solver(plan, effort)
    return Outcome(
        "calibration",
        "Calibration at 3500 Hz (table 4)",
        told(plan, results, own),
        comparisons(plan, results),
        (main_table(plan, results, own), ladder_table(results), changes_table(results)),
        (accuracy_picture(plan, results, own), limits_picture(results, effort.seed)),
        conditions(plan, results),
        targets(plan, results, own),
        time.perf_counter() - began,
    )


def median(plan: Plan, results: Results, method: str) -> float:
    """Its median error, %; NaN where it could not be run."""
    one = of(plan, results, method)
    return np.nan if one is None else one.median


def tiny(one: Calibrated) -> str:
    """A median error that may be that of rounding."""
    return f"{one.median:.1e}" if one.median > 1e-14 else "below 1e-14"


def slope(results: Results, method: str) -> float:
    """Power of the rate with which a method's median error changes."""
    points = [(rate, one.median) for (name, rate, what), one in by_rate(results, method)]
    rates, errors = np.log(np.array(points)).T
    return float(np.polyfit(rates, errors, 1)[0]) if len(rates) > 1 else np.nan


def comparisons(plan: Plan, results: Results) -> tuple[Comparison, ...]:
    """Table 4 beside ours."""
    found = []
    for key, stated in paper.CALIBRATION_ERROR.items():
        rest = paper.CALIBRATION_TIME[key]
        one = of(plan, results, key)
        if one is None:
            missing = "NOMAD is not installed." if key in plan.rates else "not part of this run."
            why = NO_GPU if key.startswith("cuda") else f"Not measured: {missing}"
            found += [stated.beside(None, why=why), rest.beside(None, why=why)]
            continue
        rate = plan.rates[key]
        at = "" if rate == paper.CALIBRATION_RATE else f"Ours at {rate:g} Hz. "
        shorter = "" if not at else f"{at}There are {paper.CALIBRATION_RATE / rate:.3g} × as many "
        low, high = one.interval()
        found.append(stated.beside(one.median, low, high, at + reason(key, results)))
        found.append(
            rest.beside(
                one.seconds,
                why=(f"{shorter}samples at 3500 Hz. " if shorter else "")
                + f"One core, {one.evaluations:,.0f} evaluations; the paper: Matlab on a Xeon "
                "E5-2690, evaluations not given.",
            )
        )
    return tuple(found)


def reason(method: str, results: Results) -> str:
    """Why a method's error differs from the paper's."""

    def at(change: str) -> str:
        one = results.get((method, 1.0, change))
        return "not run" if one is None else f"{one.median:.2g} %"

    others = [one.median for _, one in by_rate(results, "sqp/forward")]
    forward = f"{min(others):.1e} to {max(others):.1e} %" if others else "not run"
    return {
        "nelder_mead": "TolX decides: ours is 1e-8 of each parameter's range; the paper does not "
        f"say of what. With TolX 1e-9 at 1 Hz: {at('TolX 1e-9')} instead of {at('as published')}.",
        "differential_evolution": "TolFun decides, 1e-8 HU² between best and worst member: at 1 Hz "
        f"{at('as published')}, with 1e-10 {at('TolFun 1e-10')}. The error goes as 1 over the peak "
        f"of the input, {PEAK:g} HU here and not stated in the paper.",
        "sqp": f"Central differences; with forward ones, as Matlab has them, {forward}. See the "
        "text.",
        "pattern_search": "NOMAD's pattern is halved until it is below 1e-6 of the range; ended "
        f"after 30 polls it leaves {at('at most 30 polls')} at 1 Hz. Where Matlab's ended is not "
        "stated.",
        "simulated_annealing": "SciPy's generalised annealing, whose steps and cooling are not "
        "Matlab's.",
    }[method]


def told(plan: Plan, results: Results, own: Own) -> tuple[str, ...]:
    """What was asked and what came out."""

    def say(method: str) -> str:
        one = of(plan, results, method)
        return "not run" if one is None else f"{one.median:.2g} %"

    rate = plan.rates["sqp"]
    forward = [one.median for _, one in by_rate(results, "sqp/forward")]
    shifted = [one.median for _, one in by_rate(results, "sqp/exact")]
    central = [one.median for _, one in by_rate(results, "sqp")]
    scipy = ", ".join(say(f"{m}/scipy") for m in ("nelder_mead", "differential_evolution"))
    slow = [m for m in ORDER[3:] if of(plan, results, m) is not None]
    rest = " and ".join(f"{METHODS[m]} {say(m)} at {plan.rates[m]:g} Hz" for m in slow) or "none"
    return (
        "Curves of 200 s were made by the discrete system itself (Tustin's transform and a Thiran "
        "delay) and fitted by the same system, so that the only error left is the optimiser's. "
        f"Median error over all four parameters at {plan.rates['nelder_mead']:g} Hz: Nelder–Mead "
        f"{say('nelder_mead')} (paper 5.7e-8), differential evolution "
        f"{say('differential_evolution')} (3.3e-7), SQP {say('sqp')} (9.0e-6); {rest} (paper 2.79 "
        f"and 3.85). SciPy's Nelder–Mead and differential evolution agree with ours: {scipy}.",
        "What limits each. Nelder–Mead ends where its simplex is smaller than TolX, whatever the "
        "cost; its error follows TolX and hardly the rate (power "
        f"{slope(results, 'nelder_mead'):+.2f}). Differential evolution ends where the costs of "
        "its population agree to 1e-8; the cost grows with the number of samples, so the error "
        "falls with about the root of the rate (power "
        f"{slope(results, 'differential_evolution'):+.2f}, expected −0.5), and it would scale with "
        "the unit of the curves. More exact results need another criterion only, not another "
        "method (table of changed options).",
        "Why SQP stays behind. With forward differences, Matlab's default, the gradient is off by "
        "half a step times the curvature, which moves the minimum by half a step of 1.5e-8 of "
        "the range, and further where parameters compensate one another: "
        f"{min(forward):.1e} to {max(forward):.1e} % here at any rate, beside the paper's "
        "9.0e-6 %, which 'decreasing tolerances and increasing sampling rates' did not improve. So "
        "the limit may well be the difference formula and not, as the paper thinks, that the cost "
        "is flat; it does not say which differences were used. "
        f"Central differences do not have it ({min(central):.1e} % at best). At high rates they "
        "meet another: the all-pass is switched whenever the whole part of the delay changes, and "
        "the cost jumps there (figure). At 3500 Hz a sample is 3e-5 of the delay's range and a "
        "step of the differences 8e-6: many straddle a jump and see a slope that is not there"
        + (f" ({say('sqp')})" if rate == paper.CALIBRATION_RATE else "")
        + ". With a delay that shifts the continuous input the cost is smooth and SQP reaches "
        f"{min(shifted):.1e} to {max(shifted):.1e} %. Methods that only compare costs do not "
        "notice.",
        "kety's own solver fits the exact model, not a discrete system. On exact curves, by "
        f"quadrature of the formula, with a frame every second and the input known at "
        f"{plan.rates['nelder_mead']:g} Hz it leaves {own.frames.median:.1e} % (on curves of its "
        f"own kernel {tiny(own.kernel)} %) in {1e3 * own.frames.seconds:.3g} ms a voxel. On "
        "the curves of the discrete system, read every second, it finds "
        f"{tiny(own.discrete)} %: the error of that system. Given all samples of "
        f"{plan.own[2]:g} Hz it leaves {tiny(own.samples)} % in {1e3 * own.samples.seconds:,.4g} "
        "ms a voxel: the start is searched on some of the samples, the solution uses all.",
    )


def conditions(plan: Plan, results: Results) -> tuple[str, ...]:
    """Choices that the paper leaves open."""
    sizes = "; ".join(
        f"{METHODS[m]} {len(one)} at {plan.rates[m]:g} Hz"
        for m in plan.rates
        if (one := of(plan, results, m)) is not None
    )
    low, high = RANGES["delay"]
    quick = plan.rates["nelder_mead"] != paper.CALIBRATION_RATE
    return (
        *(
            (
                "This was the quick run: table 4 at lower rates than the paper's 3500 Hz and on "
                "few voxels.",
            )
            if quick
            else ()
        ),
        f"Voxels: {sizes}. The paper does not state its number. Errors are medians over voxels and "
        "parameters, intervals by the percentile bootstrap over voxels.",
        "Simulated annealing evaluates one point at a time and would need a quarter of an hour a "
        "voxel at 3500 Hz; it is calibrated at a lower rate. Its temperature refers to the sum of "
        "squares, so that the rate should not matter to its error.",
        f"Parameters as in the other experiments, delay from {low:g} to {high:g} s; input of 300 "
        "HU at its peak, sampled at the rate itself; 200 s of samples, the last one period before "
        "the end.",
        "Options of the preset paper (table 3). TolX is a fraction of the bounds, TolFun in HU².",
        "Times are processor times of one core, of the search alone: what a fit takes beside "
        "(standard errors, maps) is measured with one start of one iteration and subtracted.",
    )


def targets(plan: Plan, results: Results, own: Own) -> tuple[tuple[str, bool], ...]:
    """What was to be reached."""
    found = []
    for method, limit in LIMITS.items():
        rate, error = plan.rates[method], median(plan, results, method)
        allowed = limit
        note = ""
        if method == "differential_evolution" and rate != paper.CALIBRATION_RATE:
            allowed *= (paper.CALIBRATION_RATE / rate) ** 0.5
            note = f" (at 3500 Hz; its criterion allows {allowed:.1e} % here)"
        sentence = f"{METHODS[method]}: median error at most {limit:.0e} %{note}: {error:.2g} %"
        found.append((f"{sentence} at {rate:g} Hz.", error <= allowed))
    found += [order(plan, results, sqp) for sqp in ("sqp/forward", "sqp")]
    good = [median(plan, results, m) for m in LIMITS]
    poor = [one.median for m in ORDER[3:] if (one := of(plan, results, m)) is not None]
    found.append(
        (
            "Two classes as in the paper: the first three below 1e-4 %, pattern search and "
            "annealing a factor of 100 or more above them.",
            max(good) <= 1e-4 and min(poor, default=np.inf) >= 100 * max(good),
        )
    )
    found.append(
        (
            f"kety's own solver: median error at most {OWN_LIMIT:.0e} % on exact curves: "
            f"{tiny(own.frames)} % (frames every second, input at "
            f"{plan.rates['nelder_mead']:g} Hz) and {tiny(own.samples)} % (all samples at "
            f"{plan.own[2]:g} Hz).",
            max(own.frames.median, own.samples.median) <= OWN_LIMIT,
        )
    )
    at_its_rate = [(name, one) for (name, rate, _), one in results.items() if rate == plan.own[2]]
    fastest = min((one.seconds for _, one in at_its_rate), default=np.nan)
    every = min(one.seconds for m in plan.rates if (one := of(plan, results, m)) is not None)
    found.append(
        (
            "kety's own solver is faster than all of them: "
            f"{1e3 * own.frames.seconds:.3g} ms a voxel against {1e3 * every:,.4g} ms of the "
            f"fastest in the table, and on all samples of {plan.own[2]:g} Hz "
            f"{1e3 * own.samples.seconds:.3g} against {1e3 * fastest:,.4g} ms.",
            own.frames.seconds < every and own.samples.seconds < fastest,
        )
    )
    return tuple(found)


def order(plan: Plan, results: Results, sqp: str) -> tuple[str, bool]:
    """Whether the paper's order of errors holds with that SQP; what overlaps counts as in order."""
    names = [sqp if m == "sqp" else m for m in ORDER]
    ones = [(m, one) for m in names if (one := of(plan, results, m)) is not None]
    met = True
    for (_, before), (_, after) in pairwise(ones):
        high, low = after.interval()[1], before.interval()[0]
        overlap = high is not None and low is not None and low <= high
        met = met and (before.median <= after.median or overlap)
    listed = " < ".join(f"{METHODS[m]} {one.median:.2g} %" for m, one in ones)
    better = median(plan, results, sqp) < 0.5 * paper.CALIBRATION_ERROR["sqp"].value
    note = " SQP is more exact here than in the paper." if better and not met else ""
    return (
        "The paper's order of errors, neighbours with overlapping intervals allowed: "
        f"{listed}.{note}",
        met,
    )


def main_table(plan: Plan, results: Results, own: Own) -> Table:
    """Table 4."""
    rows: list[tuple[str | float | None, ...]] = []
    for method, rate in plan.rates.items():
        one = of(plan, results, method)
        stated = paper.CALIBRATION_ERROR.get(method), paper.CALIBRATION_TIME.get(method)
        theirs = tuple(None if s is None else s.value for s in stated)
        name = METHODS[method]
        rows.append((name, f"{rate:g} Hz", *(cells(one) if one else [None] * 10), *theirs))
    fine = f"1 Hz, input {plan.rates['nelder_mead']:g} Hz"
    for label, place, one in (
        ("kety's own solver, curves by quadrature", fine, own.frames),
        ("kety's own solver, curves of its kernel", fine, own.kernel),
        ("kety's own solver, curves of the discrete system", fine, own.discrete),
        ("kety's own solver, all samples", f"{plan.own[2]:g} Hz", own.samples),
    ):
        rows.append((label, place, *cells(one), None, None))
    header = ("method", "rate", "voxels", "median %", "95 % from", "to")
    rest = ("evaluations", "s/voxel, one core", "paper %", "paper s/voxel")
    return Table(
        "table_4",
        "Calibration: median error and time",
        (*header, *(PARAMETERS[n] for n in NAMES), *rest),
        tuple(rows),
        "The paper's figures are those at 3500 Hz.",
    )


def cells(one: Calibrated) -> list[float | None]:
    """A calibration in a table."""
    medians = [float(m) for m in np.median(one.errors, axis=0)]
    return [len(one), one.median, *one.interval(), *medians, one.evaluations, one.seconds]


def ladder_table(results: Results) -> Table:
    """Errors by rate."""
    names = {"sqp/exact": "SQP, central, delay of the continuous input"}
    rows = tuple(
        (names.get(method, METHODS.get(method, method)), rate, *cells(one)[:4], one.seconds)
        for method in LADDER
        for (_, rate, _), one in by_rate(results, method)
    )
    return Table(
        "calibration_by_rate",
        "Median error by processing rate",
        ("method", "rate Hz", "voxels", "median %", "95 % from", "to", "s/voxel, one core"),
        rows,
        "Published options; curves and fits at the same rate.",
    )


def changes_table(results: Results) -> Table:
    """Errors where one option is changed."""
    rows = tuple(
        (METHODS[method], change, len(one), one.median, *one.interval(), one.evaluations)
        for method, change, _ in CHANGES
        if (one := results.get((method, 1.0, change))) is not None
    )
    return Table(
        "calibration_changes",
        "What limits them: one option changed, at 1 Hz",
        ("method", "options", "voxels", "median %", "95 % from", "to", "evaluations"),
        rows,
    )
