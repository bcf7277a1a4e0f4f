"""What the commands share: grouped options, parameter types, and how they talk."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

import click

DEBUG: Final = "kety.debug"
ERROR: Final = 2
_LABEL_WIDTH: Final = 9

# Errors name arguments as Python calls them; these are their options.
_HINTS: Final[tuple[tuple[str, str], ...]] = (
    ("an arterial input is needed", "--aif, --population or --aif-mask; --aif auto finds one"),
    ("no artery was found", "--aif CSV, --aif-mask or --population"),
    ("or leave the correction out", "--aif-vein IMAGE, or none"),
    ("give the calibration, in HU", "--iodine-calibration 25.9"),
    ("the scanner's own, in HU", "--iodine-calibration 25.9"),
    ("fit its tail to go on", "--aif-tail fit"),
    ("no modality given", "--modality"),
    ("no frame times", "--interval or --times"),
    ("choose a series by its number", "--series N"),
    ("choose one by its number", "--series N"),
    ("choose one with several phases", "--series N"),
    ("baseline frames instead", "--baseline-frames 4"),
    ("give its delay in s", "--population-delay"),
    ("give site=", "--aif-site"),
    ("give time_unit", "--aif-time-unit"),
    ("with column", "--aif-column"),
    ("or unit 'any'", "--aif-unit any"),
    ("T1 before contrast agent is needed", "--t10 or --vfa"),
    ("no flip angles given", "--vfa-angles"),
    ("no TR given", "--tr"),
    ("no flip angle given", "--flip-angle"),
    ("choose another optimizer, e.g. 'nelder_mead'", "--optimizer nelder-mead"),
    ("is of an optimizer; name one", "--optimizer"),
    ("needs a processing rate", "--rate"),
    ("give select: aicc", "--select aicc"),
    ("joint estimation is by the default solver", "no --optimizer, --discretization or --rate"),
    ("or give arrival in s", "--arrival"),
    ("was read without an arterial input", "--aif, --population or --aif-mask"),
    ("joint estimation fits the delay", "--delay free, off or S"),
    ("give the strength as a number", "--strength 4"),
    ("fitted when frames are left out; give the strength", "--strength 4"),
    ("radius must be at least 1 voxel", "--joint-radius"),
    ("neighbours must be a whole number", "--joint-neighbours"),
    ("neighbours are counted for the similarities", "no --joint-neighbours"),
)

Function = TypeVar("Function", bound=Callable[..., Any])


class SectionOption(click.Option):
    """An option that the help shows under a heading of its own."""

    def __init__(self, *args: Any, section: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


class SectionCommand(click.Command):
    """A command whose help groups the options by their sections."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        options = [one for one in self.get_params(ctx) if isinstance(one, click.Option)]
        # What every command has comes last.
        for one in sorted(options, key=lambda one: not isinstance(one, SectionOption)):
            record = one.get_help_record(ctx)
            if record is not None:
                section = one.section if isinstance(one, SectionOption) else "Other"
                sections.setdefault(section, []).append(record)
        for section, records in sections.items():
            with formatter.section(section):
                formatter.write_dl(records)


def option(section: str, *names: str, **settings: Any) -> Callable[[Function], Function]:
    """An option under a heading, its default shown."""
    settings.setdefault("show_default", settings.get("default") not in (None, ""))
    return click.option(*names, cls=SectionOption, section=section, **settings)


def debug_option(function: Function) -> Function:
    """``--debug``, on every command and on the group."""

    def remember(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
        if value:
            ctx.meta[DEBUG] = True

    return click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        callback=remember,
        help="Show where in the code an error was raised.",
    )(function)


def number_or_image(value: str) -> float | Path:
    """A number, or the path of an image."""
    try:
        return float(value)
    except ValueError:
        return Path(value)


def numbers(value: str) -> tuple[float, ...]:
    """Numbers separated by commas, e.g. ``2,10,20``."""
    try:
        return tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r}; expected numbers separated by commas") from None


def grid(value: str) -> tuple[int, ...]:
    """Three whole numbers separated by commas, e.g. ``96,80,12``."""
    try:
        size = tuple(int(part) for part in value.split(","))
    except ValueError:
        size = ()
    if len(size) != 3:
        raise click.BadParameter(f"{value!r}; expected three whole numbers, e.g. 96,80,12")
    return size


def bounds(value: str) -> tuple[str, tuple[float, float]]:
    """``parameter=lower:upper``, e.g. ``ktrans=0:5``."""
    name, equals, pair = value.partition("=")
    lower, colon, upper = pair.partition(":")
    try:
        if not (name and equals and colon):
            raise ValueError
        return name.strip(), (float(lower), float(upper))
    except ValueError:
        raise click.BadParameter(f"{value!r}; expected e.g. ktrans=0:5") from None


def frames(value: str) -> slice:
    """The first n frames (``n``), or those from a to b (``a-b``), counted from 0."""
    first, dash, last = value.partition("-")
    try:
        chosen = slice(int(first), int(last) + 1) if dash else slice(0, int(first))
    except ValueError:
        chosen = slice(0, 0)
    if not 0 <= chosen.start < chosen.stop:
        raise click.BadParameter(f"{value!r}; expected e.g. 4 (the first four) or 1-4")
    return chosen


def frame_list(value: str) -> list[int]:
    """Frames counted from 0, e.g. ``0-16,18``."""
    chosen: set[int] = set()
    try:
        for part in value.split(","):
            first, dash, last = part.partition("-")
            chosen |= set(range(int(first), int(last) + 1)) if dash else {int(first)}
    except ValueError:
        chosen = set()
    if not chosen or min(chosen) < 0:
        raise click.BadParameter(f"{value!r}; expected frames counted from 0, e.g. 0-16,18")
    return sorted(chosen)


def delay(value: str) -> bool | float | str:
    """``free`` (True), ``off`` (False), ``onset`` or a number of seconds."""
    if value in ("free", "off"):
        return value == "free"
    if value == "onset":
        return value
    try:
        return float(value)
    except ValueError:
        raise click.BadParameter(f"{value!r}; expected free, off, onset or a number of s") from None


def say(label: str, text: str) -> None:
    """Print a line of a summary."""
    click.echo(f"{label:<{_LABEL_WIDTH}} {text}")


def quiet(label: str, text: str) -> None:
    """Print nothing."""


def fail(ctx: click.Context, error: BaseException) -> NoReturn:
    """Say in one line what went wrong, with the option that helps, and exit."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        message = f"{error.filename}: {error.strerror.lower()}"
    elif isinstance(error, MemoryError):
        message = "not enough memory; fit fewer voxels at once, or leave out --fitted"
    else:
        message = " ".join(str(error).split())
    hints = [option for phrase, option in _HINTS if phrase in message]
    hint = f" ({'; '.join(hints)})" if hints else ""
    click.echo(f"kety: error: {message}{hint}", err=True)
    ctx.exit(ERROR)


@contextmanager
def heard_warnings() -> Iterator[list[str]]:
    """Print warnings as one line each on stderr, once, and collect them."""
    heard: list[str] = []

    def show(message: Warning | str, *args: Any, **kwargs: Any) -> None:
        text = " ".join(str(message).split())
        if text not in heard:
            heard.append(text)
            click.echo(f"kety: warning: {text}", err=True)

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        previous, warnings.showwarning = warnings.showwarning, show
        try:
            yield heard
        finally:
            warnings.showwarning = previous


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, its first column set left and the others right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    for row in (header, *rows):
        cells = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        click.echo("  ".join(cells).rstrip())


def _percent(part: int, whole: int) -> str:
    share = 100 * part / whole
    return "< 0.1 %" if share < 0.05 else f"{share:.1f} %"


def say_maps(maps: Any) -> None:
    """Say what became of the voxels, and typical values of every parameter."""
    import numpy as np

    from kety.joint.maps import VOXELWISE

    counts: Mapping[str, int] = maps.attrs["status_counts"]
    inside = sum(number for name, number in counts.items() if name != "outside")
    shares = [
        f"{name.replace('_', ' ')} {_percent(number, inside)}"
        for name, number in counts.items()
        if name != "outside"
    ]
    say("status", ", ".join(shares) or "no voxel in the mask")
    names = [str(name) for name in maps.data_vars if f"{name}_se" in maps.data_vars]
    for name in names:
        if name.endswith(VOXELWISE):
            continue
        values = maps[name].values
        values = values[np.isfinite(values)]
        if values.size:
            low, middle, high = np.percentile(values, [25, 50, 75])
            unit = maps[name].attrs["units"]
            say(name, f"median {middle:.3g} {unit}, middle half {low:.3g} to {high:.3g}")
