"""``kety protocol``: what accuracy to expect of a scan that is being planned."""

from __future__ import annotations

import base64
import copy
import io
import itertools
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from kety.cli import common
from kety.cli.fit_options import FILE, MODEL, OUTPUT, fit_options
from kety.cli.solver_options import SOLVER, discretization_of, optimizer_of
from kety.errors import KetyError

TARGETS: Final = {"%": (10.0, 30.0), "s": (0.5, 1.5)}
"""Errors up to which a voxel can be trusted, and up to which it shows large differences."""
VERDICTS: Final = {
    "good": "trust single voxels of",
    "caution": "single voxels show only large differences in",
    "alarm": "do not read single voxels of",
}
FIGURES: Final = {
    "errors": "Error of the fit (mark, 95 % interval) beside the Cramér–Rao bound (bar).",
    "spread": "Spread of the fit beside the normal curve that the bound allows (line).",
    "noise": "Cramér–Rao bound against noise; mark: error of the fit at the noise given.",
}
COLOURS: Final = ("#2a6fbb", "#d9730d", "#2e8b57", "#a03b6f", "#6b5fb0", "#8a8030")
MARKS: Final = ("o-", "s--", "^:", "D-.")


def tissue(value: str) -> tuple[str, dict[str, float]]:
    """``name:parameter=value,...``, e.g. ``tumour:ktrans=0.25,kep=0.6,vb=0.06,delay=3``."""
    name, _, rest = value.partition(":")
    pairs = [part.partition("=") for part in rest.split(",")]
    try:
        return name.strip(), {key.strip(): float(number) for key, _, number in pairs}
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


_FIT: Final = fit_options(click.Command("fit")).params[::-1]
_TIMES: Final = "Frames (several are compared)"
_NOISE: Final = "Noise (one of --noise, --snr)"
_INPUT: Final = "Arterial input (one of --aif, --population)"
_TRUTH: Final = "Tissues and simulation"
_SD: Final = "Standard deviation of a voxel's noise in a frame, in the input's unit."
_KNOWN: Final = "Where the fit knows the input: as it is given, or at the frames only."
_TISSUE: Final = "A tissue, as tumour:ktrans=0.25,kep=0.6,vb=0.06,delay=3. [default: five]"
_RANGE: Final = "Voxels drawn between limits, those left out as in published data sets."
_FITTED: Final = "Fit a constant of every voxel along, or take it as known; auto fits it in HU."
_OUT: Final = "Write protocol.html, protocol.png and protocol.csv here. [default: nothing]"
_ABOVE: Final = click.FloatRange(0, min_open=True)
_WHERE: Final = click.Choice(["fine", "frames"])
_OPTIONS: Final = [
    _new(_TIMES, "--times", "CSV", "Frame times, as in `kety fit`.", type=FILE, multiple=True),
    _new(_TIMES, "--protocol", "NAME", "Named times, see `kety info`.", multiple=True),
    _new(_TIMES, "--interval", "S", "Frames at this distance.", type=_ABOVE, multiple=True),
    _new(_TIMES, "--duration", "S", "Length with --interval.", type=_ABOVE, default=300.0),
    _new(_NOISE, "--noise", "SD", _SD, type=float),
    _new(_NOISE, "--snr", "RATIO", "Peak enhancement of each tissue over noise.", type=_ABOVE),
    *_of_fit(_INPUT, "aif", "population"),
    _new(_INPUT, "--population-delay", "S", "Arrival of its bolus.", type=float, default=5.0),
    _new(_INPUT, "--peak", "HU", "Scale the input to this peak, for CT.", type=_ABOVE),
    *_of_fit(_INPUT, "hematocrit", "aif_site", "aif_column", "aif_time_unit", "interpolation"),
    _new(_INPUT, "--input-at", "fine|frames", _KNOWN, type=_WHERE, default="fine"),
    _new(_INPUT, "--input-noise", "SD", "Noise of its samples.", type=float, default=0.0),
    _new(_TRUTH, "--tissue", "NAME:PARAMETER=VALUE,...", _TISSUE, type=tissue, multiple=True),
    _new(_TRUTH, "--range", "NAME=LO:HI", _RANGE, type=common.bounds, multiple=True),
    _new(_TRUTH, "--copies", "N", "Noisy voxels of each.", type=int, default=2000),
    _new(_TRUTH, "--seed", "N", "Seed of the noise.", type=int, default=0),
    *_of_fit(MODEL, "model", "delay", "bounds", "dtype", "threads"),
    *_of_fit(MODEL, "baseline", help=_FITTED),
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
    from kety.planning import PUBLISHED, Ranges, checked_tissues, expected_errors

    folder = None if options["out"] is None else check_folder(options["out"])
    protocols, model = protocols_of(options), get_model(options["model"])
    aif, unit = input_of(options, max(float(times[-1]) for times in protocols.values()))
    truths: dict[str, Any] = dict(options["tissue"])
    if len(truths) < len(options["tissue"]):
        raise KetyError(f"name every tissue differently; found one twice: {', '.join(truths)}")
    if options["range"]:
        limits = {name: pair for name, pair in PUBLISHED.items() if name in model.names}
        truths["uniform"] = Ranges(limits | dict(options["range"]))
    tissues = checked_tissues(truths or None, model)
    noise = noise_of(options, aif, tissues)
    same = ("model", "delay", "input_noise", "copies", "seed", "dtype", "threads")
    settings: dict[str, Any] = {name: options[name] for name in same}
    settings |= {
        "tissues": tissues,
        "bounds": dict(options["bounds"]),
        "optimizer": optimizer_of(options),
        "discretization": discretization_of(options),
        "input_times": None if options["input_at"] == "fine" else "frames",
        "baseline": {"auto": unit == "HU", "fit": True, "subtract": False}[options["baseline"]],
        "progress": not options["quiet"] and sys.stderr.isatty(),
    }
    results = {k: expected_errors(times, noise, aif, **settings) for k, times in protocols.items()}
    alike = not (options["range"] or options["input_noise"])
    facts, found = list(facts_of(results, aif, unit)), list(findings(results, alike))
    if folder is not None:
        write(folder, results, [*facts, ("command", str(ctx.obj))], found)
    if not options["quiet"]:
        for label, text in facts:
            common.say(label, text)
        click.echo()
        common.table(*rows_of(results, full=len(results) == 1))
        click.echo()
        for _, label, text in found:
            common.say(label, text)
        common.say("written", f"{folder}/protocol.html, .png, .csv" if folder else "nothing")


def protocols_of(options: dict[str, Any]) -> dict[str, Any]:
    """Label to frame times (T,) in s."""
    from kety.io.bids import read_times
    from kety.simulate import protocol, uniform

    pairs = [(path.stem, read_times(path)) for path in options["times"]]
    pairs += [(name, protocol(name)) for name in options["protocol"]]
    pairs += [(f"every {s:g} s", uniform(s, options["duration"])) for s in options["interval"]]
    if len(dict(pairs)) < max(len(pairs), 1):
        names = ", ".join(name for name, _ in pairs) or "none"
        raise KetyError(f"give frames by --protocol, --times, --interval, each once; found {names}")
    return dict(pairs)


def input_of(options: dict[str, Any], end: float) -> tuple[Any, str]:
    """The true input up to ``end`` (s) and a margin, and the unit of its values where known."""
    from dataclasses import replace

    from kety.inputs import InputFunction, population_input
    from kety.inputs.table import read_table, value_column

    if (options["aif"] is None) == (options["population"] is None):
        raise KetyError("one arterial input is needed; give --aif CSV or --population NAME")
    how: dict[str, Any] = {name: options[name] for name in ("hematocrit", "interpolation")}
    if options["population"] is not None:
        how["delay"] = options["population_delay"]
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


def noise_of(options: dict[str, Any], aif: Any, tissues: Mapping[str, Any]) -> Any:
    """Standard deviation of the noise, or that of each tissue from its peak."""
    from kety.fitting.forward import simulate_curves

    if (options["noise"] is None) == (options["snr"] is None):
        raise KetyError("the noise is needed; give --noise SD or --snr RATIO")
    if options["noise"] is not None:
        return options["noise"]
    # The peak does not depend on the delay, and ranges have that of their middle.
    names = [p for p in next(iter(tissues.values())).limits if p != "delay"]
    middles = {p: [sum(one.limits[p]) / 2 for one in tissues.values()] for p in names}
    peaks = simulate_curves(middles, aif.times, aif, options["model"]).max(axis=1)
    return dict(zip(tissues, (peaks / options["snr"]).tolist(), strict=True))


def facts_of(results: Mapping[str, Any], aif: Any, unit: str) -> Iterator[tuple[str, str]]:
    """What was asked: (label, words)."""
    for label, errors in results.items():
        times, steps, told = errors.time.values, errors.time.diff("time").values, errors.attrs
        apart = " to ".join(dict.fromkeys(f"{step:.3g}" for step in (steps.min(), steps.max())))
        yield "frames", f"{label}: {times.size}, {times[0]:g} to {times[-1]:g} s, {apart} s apart"
        yield "input", f"{label}: {told['input']}, noise {told['input_noise']:g}"
    peak = int(aif.concentration.argmax())
    yield "input", f"peak {aif.concentration[peak]:.3g} {unit} at {aif.times[peak]:.3g} s"
    levels = dict.fromkeys(f"{sd:.3g}" for sd in (errors.noise.min(), errors.noise.max()))
    yield "noise", f"{' to '.join(levels)} {unit} in a voxel and frame"
    words = [told[key] for key in ("model", "discretization", "dtype", "bounds")]
    words += [told["optimizer"].split("(")[0], f"baseline {told['baseline']}"]
    yield "fit", f"{', '.join(words)}; {errors.sizes['copy']:,} voxels each, seed {told['seed']}"


def short(value: float, unit: str = "") -> str:
    """Two digits and the unit; a dash for what is not known."""
    number = f"{value:,.0f}" if abs(value) >= 10 else f"{value:.2g}"
    return "–" if math.isnan(value) else f"{number} {unit}".strip()


def relative(one: Any, *keys: str) -> tuple[str, list[float]]:
    """Figures in % of the truth, those of times in s, after the unit."""
    truth, timed = abs(float(one.truth)), one.units == "s"
    factor = 1.0 if timed else 100 / truth if truth else math.nan
    return "s" if timed else "%", [factor * float(one[key]) for key in keys]


def shown(errors: Any) -> list[str]:
    """Parameters worth a panel: not those fixed, nor vp, which errs as vb."""
    free = ~errors.note.str.startswith("fixed").all("tissue").values
    return [name for name in errors.parameter.values[free].tolist() if name != "vp"]


def rows_of(results: Mapping[str, Any], *, full: bool) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table, protocols side by side."""
    heads = ("bound", "error", "in units", "median", "bias", "covered")[: None if full else 2]
    names = [f"{label} " if len(results) > 1 else "" for label in results]
    first, rows = next(iter(results.values())), []
    for tissue, name in itertools.product(first.tissue.values, first.parameter.values):
        figures: list[str] = []
        for one in (errors.sel(tissue=tissue, parameter=name) for errors in results.values()):
            unit, (bound, error, bias) = relative(one, "crb", "rmse", "bias")
            cells = [short(bound, unit), short(error, unit), short(float(one.rmse))]
            cells += [short(float(one.median_error), "%"), short(bias, unit)]
            figures += [*cells, short(100 * float(one.coverage), "%")][: len(heads)]
        rows.append([str(tissue), str(name), f"{one.truth:.3g} {one.units.values}", *figures])
    return ["tissue", "", "truth", *(a + b for a, b in itertools.product(names, heads))], rows


def findings(results: Mapping[str, Any], alike: bool) -> Iterator[tuple[str, str, str]]:
    """(Level, matter, sentence); voxels that are ``alike`` differ by their own noise alone."""
    for label, errors in results.items():
        where, names = f"{label}: " if len(results) > 1 else "", shown(errors)
        for name in names:
            groups: dict[str, list[str]] = {level: [] for level in VERDICTS}
            needed = 0.0
            for one in (errors.sel(tissue=t, parameter=name) for t in errors.tissue.values):
                unit, (error, bias, sd) = relative(one, "rmse", "bias", "sd")
                target, limit = TARGETS[unit]
                level = "good" if error <= target else "caution" if error <= limit else "alarm"
                groups[level].append(f"{one.tissue.values} ({short(error, unit)})")
                rest = target**2 - bias**2
                needed = max(needed, sd**2 / rest if rest > 0 else math.inf)
            levels = [level for level, ones in groups.items() if ones]
            words = [f"{VERDICTS[level]} {', '.join(groups[level])}" for level in levels]
            if needed > 1 and alike:
                many = f"the mean of {math.ceil(needed):,}" if needed < math.inf else "no mean of"
                words.append(f"{many} voxels reaches {target:g} {unit} in all")
            yield levels[-1], name, where + "; ".join(words)
        some = errors.sel(parameter=names)
        ratio = some.rmse / some.crb.where(some.crb > 0)
        low, high = float(ratio.min()), float(ratio.max())
        if high > 0:
            yield "note", "bound", f"{where}errors are {low:.2g} to {high:.2g} times the bound"
        low, high = 100 * float(some.coverage.min()), 100 * float(some.coverage.max())
        share = f"standard errors cover the truth in {low:.0f} to {high:.0f} % (68 % is right)"
        yield "good" if low >= 60 and high <= 76 else "caution", "coverage", where + share
        lost, held = (f"{100 * float(errors[key].max()):.2g} %" for key in ("failed", "at_bound"))
        yield "note", "voxels", f"{where}up to {lost} have no estimate, up to {held} end at a bound"
        notes = {(name, note) for (_, name), note in errors.note.to_series().items() if note}
        yield from (("note", name, where + note) for name, note in sorted(notes))
    for name in names if len(results) > 1 else ():
        # Medians: a few voxels that went astray do not decide which frames are better.
        root, typical = 1 / errors.sizes["tissue"], {k: e.median_error for k, e in results.items()}
        sizes = {k: float(e.sel(parameter=name).prod()) ** root for k, e in typical.items()}
        best = min(sizes, key=sizes.__getitem__)
        more = [f"{sizes[k] / (sizes[best] or 1):.3g} times with {k}" for k in sizes if k != best]
        yield "note", name, f"median error least with {best}; {', '.join(more)}"


def write(folder: Path, results: Mapping[str, Any], facts: Any, found: Any) -> None:
    """Write page, picture and table of all figures, together or not at all."""
    from kety.io.atomic import Batch, output_folder

    text = ""
    for label, errors in results.items():
        rows = errors.drop_dims(["copy", "time"]).assign_coords(protocol=label).to_dataframe()
        text += rows.to_csv(header=not text)
    contents = {"html": page(results, facts, found), "csv": text.encode()}
    contents["png"] = picture(results, "png")
    with Batch() as batch:
        for kind, content in contents.items():
            batch.write(output_folder(folder) / f"protocol.{kind}", content)


def page(results: Mapping[str, Any], facts: Any, found: Sequence[tuple[str, str, str]]) -> bytes:
    """One HTML page in the style of the report of a fit, without external resources."""
    from importlib import resources

    from jinja2 import Environment
    from markupsafe import Markup

    data, words = base64.b64encode(picture(results, "svg")).decode(), " ".join(FIGURES.values())
    image = Markup('<img alt="{}" style="width:100%" src="data:image/svg+xml;base64,{}">')
    chart, left = {"svg": image.format(words, data), "caption": words}, {0, 1}
    header, rows = rows_of(results, full=True)
    level = max((one[0] for one in found if one[0] in VERDICTS), key=list(VERDICTS).index)
    told = [{"level": one, "text": f"{name}: {text}"} for one, name, text in found]
    blocks: dict[str, dict[str, Any]] = {
        "Verdict": {"kind": "findings", "level": level, "findings": told, "headline": "Voxelwise"},
        "Figures": {"kind": "charts", "charts": [chart], "width": 900},
        "Table": {"kind": "table", "columns": header, "rows": rows, "text_columns": left},
        "Conditions": {"kind": "table", "columns": ("", ""), "rows": facts, "text_columns": left},
    }
    source = resources.files("kety.report").joinpath("template.html.j2").read_text("utf-8")
    html = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(source)
    sections = [({"anchor": title, "title": title}, [one]) for title, one in blocks.items()]
    text = html.render(title="Expected accuracy of a planned scan", sections=sections)
    return text.replace("<p>Tracer-kinetic maps", "<p>Bound and simulated fit", 1).encode()


def picture(results: Mapping[str, Any], form: str) -> bytes:
    """All figures, with a panel for each parameter, as ``"png"`` or ``"svg"``."""
    from matplotlib.figure import Figure

    first = next(iter(results.values()))
    names, tissues = shown(first), first.tissue.values.tolist()
    size = (2.2 * len(names) + 1, 3.6 + 0.9 * max(len(tissues) * len(results), 5))
    canvas = Figure(figsize=size, layout="constrained")
    for row, (kind, title) in enumerate(FIGURES.items()):
        part = canvas.add_subfigure(canvas.add_gridspec(3, 1)[row])
        part.suptitle(title, x=0.01, ha="left", fontsize=11)
        panels = part.subplots(1, len(names), sharey=kind != "noise", squeeze=False)[0]
        for axes, name in zip(panels, names, strict=True):
            axes.set_title(name, fontsize=10)
            axes.spines[["top", "right"]].set_visible(False)
            for (j, label), (i, which) in itertools.product(enumerate(results), enumerate(tissues)):
                one = results[label].sel(tissue=which, parameter=name)
                y = i + 0.8 * ((j + 0.5) / len(results) - 0.5)
                colour, mark = COLOURS[i % len(COLOURS)], MARKS[j % len(MARKS)]
                _draw(axes, kind, one, y, 0.7 / len(results), colour, mark)
        if kind != "noise":
            panels[0].set_yticks(range(len(tissues)), tissues)
            panels[0].set_ylim(len(tissues) - 0.4, -0.6)
    for j, label in enumerate(results):
        panels[0].plot([], [], MARKS[j % len(MARKS)], color="0.3", label=label)
    canvas.legend(loc="outside upper right", ncols=len(results), frameon=False)
    stream = io.BytesIO()
    canvas.savefig(stream, format=form, dpi=130)
    return stream.getvalue()


def _draw(axes: Any, kind: str, one: Any, y: float, height: float, colour: str, mark: str) -> None:
    """One tissue in one protocol."""
    import numpy as np

    unit, (bound, error, low, high) = relative(one, "crb", "rmse", "rmse_low", "rmse_high")
    target, far, noise = TARGETS[unit][0], 5 * TARGETS[unit][1], float(one.noise)
    if not 0 < error < math.inf:
        return
    if kind == "errors":
        axes.barh(y, bound, height, color=colour, alpha=0.3)
        axes.plot([low, high], [y, y], color=colour)
        axes.plot(min(error, 0.99 * far), y, mark[0] if error < far else ">", color=colour)
        axes.set(xlim=(0, min(far, 1.05 * axes.dataLim.x1)), xlabel=f"error ({unit})")
        axes.axvline(target, color="0.6", linewidth=0.8, linestyle=":")
    elif kind == "spread":
        values = (one.error if unit == "s" else one.percent_error).values
        width, base = bound if bound > 0 else error, y + height / 2
        edges = width * np.linspace(-4.0, 4.0, 49)
        # Six bins a standard deviation, in heights of the normal curve.
        share = np.histogram(values, edges)[0] / values.size * 6 * np.sqrt(2 * np.pi)
        tops = base - height * np.minimum(share, 1.3)
        axes.stairs(tops, edges, baseline=base, fill=True, color=colour, alpha=0.5)
        if bound > 0:
            axes.plot(edges, base - height * np.exp(-0.5 * (edges / width) ** 2), "k", lw=0.8)
        reach = min(far, axes.dataLim.x1)
        axes.set(xlim=(-reach, reach), xlabel=f"estimate less truth ({unit})")
    elif noise > 0 and bound > 0:
        axes.axline((0, 0), slope=bound / noise, color=colour, linestyle=mark[1:])
        axes.plot(noise, min(error, 0.99 * far), mark[0] if error < far else "^", color=colour)
        axes.set(xlim=(0, 2 * axes.dataLim.x1), ylim=(0, min(far, 2 * axes.dataLim.y1)))
        axes.set(xlabel="noise", ylabel=f"error ({unit})")
        axes.axhline(target, color="0.6", linewidth=0.8, linestyle=":")
