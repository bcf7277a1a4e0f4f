"""``kety protocol``: what accuracy to expect of a scan that is being planned."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import click

from kety.cli import common
from kety.cli.fit_options import MODEL, OUTPUT, fit_options
from kety.cli.solver_options import SOLVER, discretization_of, optimizer_of
from kety.cli.study_options import FILE
from kety.errors import KetyError


def tissue(value: str) -> tuple[str, dict[str, float]]:
    """``name:parameter=value,...``, e.g. ``tumour:ktrans=0.25,kep=0.6,vb=0.06,delay=3``."""
    name, _, rest = value.partition(":")
    pairs = [part.partition("=") for part in rest.split(",")]
    try:
        values = {key.strip(): float(number) for key, _, number in pairs}
        if len(values) < len(pairs):
            raise ValueError
        return name.strip(), values
    except ValueError:
        raise click.BadParameter(f"{value!r}; expected e.g. tumour:ktrans=0.2,kep=0.6") from None


def _new(section: str, name: str, metavar: str, words: str, **settings: Any) -> click.Parameter:
    settings |= {"metavar": metavar, "help": words}
    return common.option(section, name, **settings)(click.Command("one")).params[0]


def _of_fit(section: str, *names: str, **changes: Any) -> list[click.Parameter]:
    ones = [copy.copy(one) for one in _FIT if one.name in names]
    for one in ones:
        vars(one).update(changes, section=section)
    return ones


BASELINES: Final = {"fit": True, "subtract": "subtract", "known": False}
_FIT: Final = fit_options(click.Command("fit")).params[::-1]
_TIMES: Final = "Frames (several are compared)"
_NOISE: Final = "Noise (one of --noise, --snr)"
_INPUT: Final = "Arterial input (one of --aif, --population)"
_TRUTH: Final = "Tissues and simulation"
_SD: Final = "Standard deviation of a voxel's noise in a frame, in the input's unit."
_KNOWN: Final = "Where the fit knows the input: as it is given, or at the frames only."
_TISSUE: Final = "A tissue, as tumour:ktrans=0.25,kep=0.6,vb=0.06,delay=3. [default: five]"
_RANGE: Final = (
    "Voxels drawn between limits, those left out as in published data sets; beside --tissue, or in "
    "place of the five tissues."
)
_BASELINE: Final = (
    "Fit a constant of every voxel along, subtract the mean of the frames before arrival, or take "
    "it as known; auto fits it in HU and takes it as known otherwise."
)
_DELAY: Final = "population_delay"
_ARRIVAL: Final = "Arrival of the published curve's bolus. [default: 5]"
_PEAK: Final = "Scale the input, whatever its unit, to this peak in HU."
_SAMPLES: Final = "Noise of its samples there, shared by the voxels of a scan."
_OUT: Final = "Write protocol.html, protocol.png and protocol.csv here. [default: nothing]"
_ONLY: Final = {"aif": ("aif_site", "aif_column", "aif_time_unit"), "population": (_DELAY,)}
_ABOVE: Final = click.FloatRange(0, min_open=True)
_WHERE: Final = click.Choice(["fine", "frames"])
_OPTIONS: Final = [
    _new(_TIMES, "--times", "CSV", "Frame times, as in `kety fit`.", type=FILE, multiple=True),
    _new(_TIMES, "--protocol", "NAME", "Named times, see `kety info`.", multiple=True),
    _new(_TIMES, "--interval", "S", "Frames at this distance.", type=_ABOVE, multiple=True),
    _new(_TIMES, "--duration", "S", "Length with --interval. [default: 300]", type=_ABOVE),
    _new(_NOISE, "--noise", "SD", _SD, type=float),
    _new(_NOISE, "--snr", "RATIO", "Peak enhancement of each tissue over noise.", type=_ABOVE),
    *_of_fit(_INPUT, "aif", "population"),
    _new(_INPUT, "--population-delay", "S", _ARRIVAL, type=float),
    _new(_INPUT, "--peak", "HU", _PEAK, type=_ABOVE),
    *_of_fit(_INPUT, "hematocrit", "aif_site", "aif_column", "aif_time_unit", "interpolation"),
    _new(_INPUT, "--input-at", "fine|frames", _KNOWN, type=_WHERE, default="fine"),
    _new(_INPUT, "--input-noise", "SD", _SAMPLES, type=float, default=0.0),
    _new(_TRUTH, "--tissue", "NAME:PARAMETER=VALUE,...", _TISSUE, type=tissue, multiple=True),
    _new(_TRUTH, "--range", "NAME=LO:HI", _RANGE, type=common.bounds, multiple=True),
    _new(_TRUTH, "--copies", "N", "Noisy voxels of each.", type=int, default=2000),
    _new(_TRUTH, "--seed", "N", "Seed of the noise.", type=int, default=0),
    *_of_fit(MODEL, "model", "delay", "bounds", "dtype", "threads"),
    *_of_fit(MODEL, "baseline", help=_BASELINE, type=click.Choice(["auto", *BASELINES])),
    *[one for one in _FIT if getattr(one, "section", "") == SOLVER],
    *(_of_fit(OUTPUT, "out", help=_OUT) + _of_fit(OUTPUT, "quiet")),
]


@click.command(cls=common.SectionCommand, params=_OPTIONS, short_help="Accuracy of a planned scan.")
@common.debug_option
@click.pass_context
@common.heard_warnings()
def command(ctx: click.Context, /, **options: Any) -> None:
    """Say what error and bias to expect of each parameter before the scan, by the Cramér–Rao bound
    and by noisy voxels that go through the fit, for given frame times, noise and input.

    \b
    kety protocol --protocol brain --noise 6 --population parker --peak 300 --out plan
    kety protocol --interval 1 --interval 3 --duration 180 --snr 20 --population parker
    """
    from kety.models import get_model
    from kety.pipeline import check_folder
    from kety.planning import expected_errors
    from kety.report.protocol import Plan, write_plan
    from kety.tissues import checked_tissues

    folder = None if options["out"] is None else check_folder(options["out"])
    protocols, model = protocols_of(options), get_model(options["model"])
    aif, unit = input_of(options, max(times[-1] for times in protocols.values()))
    tissues = checked_tissues(truths_of(options, model.names), model)
    noise = noise_of(options, aif, tissues)
    same = ("model", "delay", "input_noise", "copies", "seed", "dtype", "threads")
    settings: dict[str, Any] = {name: options[name] for name in same} | {
        "tissues": tissues,
        "bounds": once("bound", options["bounds"]),
        "optimizer": optimizer_of(options),
        "discretization": discretization_of(options),
        "input_times": None if options["input_at"] == "fine" else "frames",
        "baseline": BASELINES.get(options["baseline"], unit == "HU"),
        "progress": not options["quiet"] and sys.stderr.isatty(),
    }
    results = {k: expected_errors(times, noise, aif, **settings) for k, times in protocols.items()}
    facts = list(facts_of(results, aif, unit))
    if folder is not None:
        write_plan(folder, Plan(results, unit, [*facts, ("command", str(ctx.obj))]))
    if not options["quiet"]:
        show(results, facts)
        common.say("written", f"{folder}/protocol.html, .png, .csv" if folder else "nothing")


def show(results: Mapping[str, Any], facts: Sequence[tuple[str, str]]) -> None:
    """Print conditions, errors and what they mean."""
    from kety.report import protocol_verdict as verdict

    columns = ("bound", "typical", "in units", "covered")[: 2 if len(results) > 1 else None]
    rows, names = verdict.matrix(results), verdict.tissues(results)
    for label, text in facts:
        common.say(label, text)
    click.echo(f"\ntypical error: {verdict.TYPICAL}\n")
    common.table(*verdict.figures_table(results, columns))
    remarks = verdict.remarks(results)
    click.echo("\n" * bool(remarks), nl=False)
    for label, text in remarks:
        common.say(label, text)
    click.echo()
    common.table(*verdict.matrix_lines(rows, names))
    legend = [f"{verdict.MARKS[level]} {text}" for level, text in verdict.legend(rows)]
    click.echo("\n" + "\n".join(legend) + "\n")
    for label, text in verdict.sentences(results, rows):
        common.say(label, text)


def protocols_of(options: dict[str, Any]) -> dict[str, Any]:
    """Label to frame times (T,) in s."""
    from kety.io.frame_times import read_times
    from kety.simulate import protocol, uniform

    length = options["duration"]
    if length is not None and not options["interval"]:
        raise KetyError("a duration is for frames at a distance; give --interval too")
    pairs = [(path.stem, read_times(path)) for path in options["times"]]
    pairs += [(name, protocol(name)) for name in options["protocol"]]
    pairs += [(f"every {s:g} s", uniform(s, length or 300.0)) for s in options["interval"]]
    if not pairs:
        raise KetyError("frames are needed; give --protocol, --times or --interval")
    return once("sampling", pairs)


def input_of(options: dict[str, Any], end: float) -> tuple[Any, str]:
    """The true input up to ``end`` (s) and a margin, and the unit of its values where known."""
    from dataclasses import replace

    from kety.inputs import InputFunction, population_input
    from kety.inputs.table import read_table, value_column

    if (options["aif"] is None) == (options["population"] is None):
        raise KetyError("one arterial input is needed; give --aif CSV or --population NAME")
    kind = "population" if options["population"] is None else "aif"
    lost = [f"--{name.replace('_', '-')}" for name in _ONLY[kind] if options[name] is not None]
    if lost:
        raise KetyError(f"{', '.join(lost)} can be given with --{kind} only")
    how: dict[str, Any] = {name: options[name] for name in ("hematocrit", "interpolation")}
    if options["population"] is not None:
        how["delay"] = 5.0 if options[_DELAY] is None else options[_DELAY]
        aif, unit = population_input(options["population"], end + 15.0, **how), "mM"
    else:
        how |= {name: options[f"aif_{name}"] for name in ("site", "column", "time_unit")}
        aif = InputFunction.from_csv(options["aif"], **how)
        column = value_column(read_table(options["aif"]), how["column"], how["site"])[0]
        unit = next((u for u in ("HU", "mM") if column.lower().endswith(u.lower())), "")
    if options["peak"] is None:
        return aif, unit
    factor = options["peak"] / aif.concentration.max()
    return replace(aif, concentration=aif.concentration * factor), "HU"


def truths_of(options: dict[str, Any], names: Sequence[str]) -> dict[str, Any] | None:
    """The tissues that the options name; None for the usual ones. ``names`` are the model's."""
    from kety.tissues import PUBLISHED, Ranges

    pairs, ranges = list(options["tissue"]), once("range", options["range"])
    if ranges:
        limits = {name: pair for name, pair in PUBLISHED.items() if name in names}
        pairs.append(("uniform", Ranges(limits | ranges)))
    return once("tissue", pairs) or None


def once(what: str, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """What options gave by name; none of them may be lost to another of the same name."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = ", ".join(name for name, _ in pairs)
        raise KetyError(f"give every {what} a name of its own, once; found {names}")
    return found


def noise_of(options: dict[str, Any], aif: Any, tissues: Mapping[str, Any]) -> Any:
    """Standard deviation of the noise, or that of each tissue from its peak."""
    from kety.fitting.forward import simulate_curves

    if (options["noise"] is None) == (options["snr"] is None):
        raise KetyError("the noise is needed; give --noise SD or --snr RATIO")
    if options["snr"] is None:
        return options["noise"]
    # The peak does not depend on the delay, and ranges have that of their middle.
    names = set(next(iter(tissues.values())).limits) - {"delay"}
    middles = {p: [sum(one.limits[p]) / 2 for one in tissues.values()] for p in names}
    peaks = simulate_curves(middles, aif.times, aif, options["model"]).max(axis=1)
    return dict(zip(tissues, (peaks / options["snr"]).tolist(), strict=True))


def facts_of(results: Mapping[str, Any], aif: Any, unit: str) -> Iterator[tuple[str, str]]:
    """What was asked: (label, words)."""
    for label, errors in results.items():
        times, steps, told = errors.time.values, errors.time.diff("time").values, errors.attrs
        apart = " to ".join(dict.fromkeys(f"{step:.3g}" for step in (steps.min(), steps.max())))
        yield "frames", f"{label}: {times.size}, {times[0]:g} to {times[-1]:g} s, {apart} s apart"
        known = f"{told['input']}, noise {told['input_noise']:g}; baseline {told['baseline']}"
        yield "input", f"{label}: {known}"
    peak = int(aif.concentration.argmax())
    yield "input", f"peak {aif.concentration[peak]:.3g} {unit} at {aif.times[peak]:.3g} s"
    levels = dict.fromkeys(f"{sd:.3g}" for sd in (errors.noise.min(), errors.noise.max()))
    yield "noise", f"{' to '.join(levels)} {unit} in a voxel and frame"
    words = [told[key] for key in ("model", "discretization", "dtype", "bounds")]
    words.append(told["optimizer"].split("(")[0])
    yield "fit", f"{', '.join(words)}; {errors.sizes['copy']:,} voxels each, seed {told['seed']}"
