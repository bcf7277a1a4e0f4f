"""Tables 5 and 6: time for a voxel of data set 2, beside SciPy's and kety's own solver."""

from __future__ import annotations

import time
from typing import Any, Final

from kety.fitting.engine import available_threads
from kety.studies.figures import COLOURS, Panel, Series, draw, of_paper
from kety.studies.optimization import paper
from kety.studies.optimization.runtime_fits import (
    FULL,
    METHODS,
    QUICK,
    ROWS,
    Plan,
    Rivals,
    Times,
    compare,
    measure,
)
from kety.studies.records import Comparison, Effort, Outcome, Picture, Table

TOLERANCES: Final = (0.0, 1e-9, 1e-6, 1e-4)
"""Relative differences of sums of squares up to which they count as equal."""
EQUAL: Final = 1e-6
SHARE, OWN_SPEED, SCIPY_SPEED = 0.99, 20.0, 100.0
"""Targets: share of voxels as good as Nelder-Mead's, speed relative to it, speed against SciPy."""
NO_GPU: Final = "Not measured here: kety has no GPU code yet."


def run(effort: Effort) -> Outcome:
    """Time the optimisers on data set 2."""
    return experiment(FULL if effort.full else QUICK, effort)


def experiment(plan: Plan, effort: Effort) -> Outcome:
    """The experiment of a plan."""
    began = time.perf_counter()
    threads = effort.threads or available_threads()
    times = measure(plan, effort, threads)
    rivals = compare(plan, effort, threads)
    return Outcome(
        "runtime",
        "Run time (tables 5 and 6)",
        told(plan, times, rivals, threads),
        comparisons(times, rivals, threads),
        (*time_tables(times, threads), rival_table(rivals), volume_table(times, rivals, threads)),
        (picture(times, rivals),),
        conditions(plan, threads),
        targets(times, rivals),
        time.perf_counter() - began,
    )


def shares(rivals: Rivals) -> dict[float, float]:
    """Share of voxels in which kety's own sum of squares is equal or lower, by tolerance."""
    return {t: float((rivals.excess <= t).mean()) for t in TOLERANCES}


def faster(times: Times, method: str, row: str) -> float:
    """Speed of the native method relative to SciPy's, both on one core."""
    return times[method, row, False] / times[method, "iir", False]


def comparisons(times: Times, rivals: Rivals, threads: int) -> tuple[Comparison, ...]:
    """Tables 5 and 6 and the times of the discussion beside ours."""
    found = []
    machine = "One core, compiled code that evaluates 16 points at once; the paper: Matlab."
    for method in METHODS:
        stated, relative = paper.RUN_TIME[method], paper.RELATIVE_SPEED[method]
        fir, iir = (times[method, kind, False] for kind in ("fir", "iir"))
        found += [
            stated["fir"].beside(fir, why=machine),
            stated["iir"].beside(iir, why=machine),
            stated["cuda"].beside(None, why=NO_GPU),
            relative["iir"].beside(
                fir / iir,
                why="Our recursion needs no transform; in Matlab other work hides the difference.",
            ),
            relative["cuda"].beside(None, why=NO_GPU),
        ]
    simplex = times["nelder_mead", "iir", True]
    hours, minutes = paper.BRAIN_VOXELS * simplex / 3600, paper.REGION_VOXELS * simplex / 60
    days = paper.BRAIN_VOXELS * times["differential_evolution", "fir", False] / 86400
    cores = f"Native Nelder–Mead on {threads} cores, no GPU; extrapolated from the time of a voxel."
    found += [
        paper.BRAIN_GPU_TIME.beside(hours, why=cores),
        paper.BRAIN_CPU_TIME.beside(
            days, why="Differential evolution by FIR on one core, as the paper's figure."
        ),
        paper.REGION_TIME.beside(minutes, why=cores),
        paper.BLOCK_FFT_TIME.beside(
            rivals.single_wall,
            why=f"kety's own solver on {threads} cores, float32.",
        ),
    ]
    return tuple(found)


def told(plan: Plan, times: Times, rivals: Rivals, threads: int) -> tuple[str, ...]:
    """What was asked and what came out."""
    nm, de = METHODS
    equal = shares(rivals)
    lower = float((rivals.excess < -EQUAL).mean())
    return (
        "Data set 2 (37 irregular frames, 6 HU of noise) is brought to 1 Hz by a cubic spline and "
        "fitted with the paper's options. A voxel takes native Nelder–Mead "
        f"{1e3 * times[nm, 'fir', False]:.3g} ms by FIR and {1e3 * times[nm, 'iir', False]:.3g} ms "
        f"by IIR on one core, {1e3 * times[nm, 'iir', True]:.3g} ms on {threads}; differential "
        f"evolution {1e3 * times[de, 'fir', False]:.3g}, {1e3 * times[de, 'iir', False]:.3g} and "
        f"{1e3 * times[de, 'iir', True]:.3g} ms. The paper's CPU took 4.37 and 3.05 s, 2.51 and "
        "1.93 s, its GPU 2.6 ms (Nelder–Mead) and 6.8 ms (evolution, 512 members). IIR is faster "
        f"than FIR by {times[nm, 'fir', False] / times[nm, 'iir', False]:.2g} and "
        f"{times[de, 'fir', False] / times[de, 'iir', False]:.2g} (paper: 1.4 and 1.3).",
        "Against SciPy on the same curves, in turns, one core each, the same starts, strategy, "
        "population and criteria. With the cost as a user would write it (NumPy, lfilter) the "
        f"native methods are {faster(times, nm, 'plain'):,.0f} (Nelder–Mead) and "
        f"{faster(times, de, 'plain'):,.0f} (evolution) times as fast. Where SciPy is given kety's "
        f"compiled cost, {faster(times, nm, 'compiled'):,.0f} and "
        f"{faster(times, de, 'compiled'):,.0f} times remain: what the search itself costs in "
        "Python, and that the core fills its registers with starts or members.",
        f"kety's own solver takes {1e6 * rivals.own:.3g} µs of processor time a voxel in float64 "
        f"({1e6 * rivals.own_wall:.3g} µs on {threads} cores, {1e6 * rivals.single_wall:.3g} µs in "
        f"float32), Nelder–Mead of the same exact model {1e3 * rivals.simplex:.3g} ms: "
        f"{rivals.simplex / rivals.own:,.0f} times as long. Its sum "
        f"of squares is equal or lower, to a relative 1e-6, in {100 * equal[1e-6]:.2f} % of "
        f"{len(rivals.excess):,} voxels (to 1e-4 in {100 * equal[1e-4]:.2f} %, to 1e-9 in "
        f"{100 * equal[1e-9]:.1f} %), and lower by more than 1e-6 in {100 * lower:.2f} %. To the "
        f"last digit it is equal or lower in {100 * equal[0.0]:.1f} % only: Nelder–Mead goes on to "
        "1e-8 of the ranges, kety's own solver ends when a step promises a relative fall of 1e-9. "
        "Where it is higher by more than 1e-4 another minimum between two jumps of the model was "
        "missed.",
    )


def conditions(plan: Plan, threads: int) -> tuple[str, ...]:
    """Choices that the paper leaves open."""
    return (
        f"The same {plan.scipy} voxels for all rows of tables 5 and 6; the native methods get "
        f"{plan.copies} copies of them, as they solve many voxels at once. Least time of "
        f"{plan.rounds} rounds in which all take turns: processor time on one core, wall time on "
        "all, where other work on the machine was not excluded.",
        "Native times are those of kety.fit from curves to maps, standard errors included; SciPy's "
        "those of the search alone. float64 where nothing else is said: TolFun 1e-8 is below the "
        "rounding of float32, in which a search ends there.",
        f"All cores: {threads}. SciPy has one. FIR by fast Fourier transform.",
        f"kety's own solver and Nelder–Mead: exact model at the frames, {plan.compared:,} voxels, "
        "the paper's options, the same bounds, sums of squares of both in float64.",
    )


def targets(times: Times, rivals: Rivals) -> tuple[tuple[str, bool], ...]:
    """What was to be reached."""
    found = []
    for row, cost in (("plain", "a cost in NumPy"), ("compiled", "kety's compiled cost")):
        for method, name in METHODS.items():
            ratio = faster(times, method, row)
            sentence = (
                f"Native {name} at least {SCIPY_SPEED:g} × as fast as SciPy's with {cost}, one "
                f"core each: {ratio:,.0f} ×."
            )
            found.append((sentence, ratio >= SCIPY_SPEED))
    equal = float((rivals.excess <= EQUAL).mean())
    speeds = [t / rivals.own for t in (rivals.simplex, times["nelder_mead", "iir", False])]
    found.append(
        (
            "kety's own solver: equal or lower sum of squares than native Nelder–Mead in at least "
            f"{100 * SHARE:g} % of voxels, to a relative {EQUAL:.0e}: {100 * equal:.2f} %.",
            equal >= SHARE,
        )
    )
    found.append(
        (
            f"At least {OWN_SPEED:g} × as fast as native Nelder–Mead: {speeds[0]:,.0f} × (the same "
            f"exact model), {speeds[1]:,.0f} × (IIR at 1 Hz); processor times.",
            min(speeds) >= OWN_SPEED,
        )
    )
    return tuple(found)


def time_tables(times: Times, threads: int) -> tuple[Table, ...]:
    """Tables 5 and 6."""
    tables = []
    for number, method in zip((5, 6), METHODS, strict=True):
        stated = paper.RUN_TIME[method]
        base, theirs = times[method, "fir", False], stated["fir"].value
        rows: list[tuple[str | float | None, ...]] = []
        for row, label in ROWS.items():
            one = times[method, row, False]
            rows.append((label, one, times.get((method, row, True)), base / one, theirs / one))
        for key in ("fir", "iir", "cuda"):
            value = stated[key].value
            rows.append((f"paper, {stated[key].what.partition(', ')[2]}", value, None, None, 1.0))
            rows[-1] = (*rows[-1][:3], base / value, theirs / value)
        rows.append(("CUDA here: not measured, kety has no GPU code yet", None, None, None, None))
        tables.append(
            Table(
                f"table_{number}",
                f"{METHODS[method]}: time for a voxel of data set 2",
                (
                    "implementation",
                    "s/voxel, one core or GPU",
                    f"s/voxel, {threads} cores",
                    "speed / our FIR",
                    "speed / paper's CPU FIR",
                ),
                tuple(rows),
            )
        )
    return tuple(tables)


def rival_table(rivals: Rivals) -> Table:
    """Sums of squares of kety's own solver and Nelder-Mead."""
    rows = tuple(
        (t, 100.0 * float((rivals.excess <= t).mean()), 100.0 * float((rivals.excess >= -t).mean()))
        for t in TOLERANCES
    )
    return Table(
        "own_solver",
        f"Equal or lower sum of squares, {len(rivals.excess):,} voxels",
        ("relative tolerance", "kety's own ≤ Nelder–Mead, %", "Nelder–Mead ≤ kety's own, %"),
        rows,
    )


def volume_table(times: Times, rivals: Rivals, threads: int) -> Table:
    """Extrapolation to a brain and to the surroundings of a tumour."""
    nm, de = METHODS
    cases: tuple[tuple[str, float], ...] = (
        ("paper, differential evolution, CPU FIR", paper.RUN_TIME[de]["fir"].value),
        ("paper, Nelder–Mead, CPU FIR", paper.RUN_TIME[nm]["fir"].value),
        ("paper, Nelder–Mead, CUDA IIR", paper.RUN_TIME[nm]["cuda"].value),
        ("native differential evolution, FIR, one core", times[de, "fir", False]),
        ("native Nelder–Mead, FIR, one core", times[nm, "fir", False]),
        (f"native Nelder–Mead, IIR, {threads} cores", times[nm, "iir", True]),
        (f"native differential evolution, IIR, {threads} cores", times[de, "iir", True]),
        (f"native Nelder–Mead, IIR, float32, {threads} cores", times[nm, "single", True]),
        (f"kety's own solver, float32, {threads} cores", rivals.single_wall),
    )
    return Table(
        "volumes",
        "Time for a whole brain and for 5 cc around a tumour",
        ("implementation", "s/voxel", "6,000,000 voxels, h", "100,000 voxels, min"),
        tuple(
            (label, t, paper.BRAIN_VOXELS * t / 3600, paper.REGION_VOXELS * t / 60)
            for label, t in cases
        ),
        "Extrapolated from the time of a voxel. The paper gives 179 days for its CPU, 4.3 h and "
        "4.3 min for its GPU.",
    )


def picture(times: Times, rivals: Rivals) -> Picture:
    """Times, and how the two solvers' sums of squares compare."""
    places = ("plain", "compiled", "fir", "iir", "single", "cuda")
    short = ("SciPy\nNumPy", "SciPy\nC++", "FIR", "IIR", "IIR\nfloat32", "CUDA")
    panels = []
    for number, (method, name) in zip((5, 6), METHODS.items(), strict=True):
        at = [i for i, row in enumerate(places) if (method, row, False) in times]
        ours = [times[method, places[i], False] for i in at]
        all_ = [(i, t) for i in at if (t := times.get((method, places[i], True))) is not None]
        look: dict[str, Any] = {"colour": COLOURS["nelder_mead"], "line": ""}
        stated = {places.index(k): s.value for k, s in paper.RUN_TIME[method].items()}
        series = [
            Series("one core", at, ours, mark="o", **look),
            Series("all cores", [i for i, _ in all_], [t for _, t in all_], hollow=True, **look),
            of_paper(list(stated), list(stated.values())),
            Series(
                "kety's own solver, one voxel, all cores",
                [-0.4, 5.4],
                [rivals.single_wall] * 2,
                mark="",
                line="--",
                colour=COLOURS["varprolm"],
            ),
        ]
        ticks = [(float(i), label) for i, label in enumerate(short)]
        panels.append(Panel(f"Table {number}: {name}", series, "", "s per voxel", x_ticks=ticks))
    return Picture(
        "runtime",
        "Tables 5 and 6: time for a voxel of data set 2.",
        draw(panels, height=3.3),
        "; ".join(
            f"{METHODS[m]}, {ROWS[row]}, {'all cores' if every else 'one core'}: {1e3 * t:.3g} ms"
            for (m, row, every), t in times.items()
        )
        + f"; kety's own solver {1e6 * rivals.single_wall:.3g} µs.",
    )
