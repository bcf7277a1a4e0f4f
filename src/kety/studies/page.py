"""The page of a study: what its experiments found beside the paper, as HTML, CSV and Markdown."""

from __future__ import annotations

import base64
import csv
import datetime
import io
import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

from kety.io.atomic import Batch, output_folder
from kety.studies.records import Comparison, Outcome, Picture, Table

PAGE: Final = "report.html"
COMPARISONS: Final = "comparisons.csv"
FOLD_ABOVE: Final = 16
"""Tables of more rows are folded."""
PIXEL: Final = 0.7
"""CSS pixels of a picture's pixel."""
ALIKE: Final = 2.0
"""Factor within which a number counts as near the paper's."""
_SUPERSCRIPT: Final = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_CSV_COLUMNS: Final = (
    "experiment",
    "where",
    "what",
    "unit",
    "paper",
    "ours",
    "ours_low",
    "ours_high",
    "ratio",
    "why",
)


@dataclass(frozen=True)
class Study:
    """A paper whose figures are regenerated.

    Attributes
    ----------
    name : str
        As in ``kety reproduce NAME``, and in the names of files.
    title, reference, link : str
    notes_title : str
    notes : tuple of str
        What is to be known of the paper, e.g. where it contradicts itself.
    """

    name: str
    title: str
    reference: str
    link: str
    notes_title: str = ""
    notes: tuple[str, ...] = ()


def environment() -> dict[str, str]:
    """Where and with what figures are measured."""
    import numpy
    import scipy
    import xarray

    import kety
    from kety.fitting.engine import available_threads, instruction_sets

    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        named = [li for li in cpuinfo.read_text().splitlines() if li.startswith("model name")]
        model = named[0].partition(":")[2].strip() if named else model
    return {
        "date": datetime.date.today().isoformat(),
        "processor": f"{model}, {available_threads()} threads",
        "instruction set": instruction_sets()[0],
        "system": f"{platform.system()} {platform.machine()}",
        "kety": kety.__version__,
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "scipy": scipy.__version__,
        "xarray": xarray.__version__,
    }


def write(
    folder: str | os.PathLike[str],
    study: Study,
    outcomes: Sequence[Outcome],
    facts: Mapping[str, str],
) -> Path:
    """Write the page and its CSV files; all appear together or not at all.

    Parameters
    ----------
    folder : path
        Made where it is absent; files of the same names are replaced.
    study : Study
    outcomes : sequence of Outcome
    facts : mapping of str to str
        What the page says of how it came about: command, seed, `environment`.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    OutputError
        If a file cannot be written.
    """
    files = {PAGE: render(study, outcomes, facts).encode()}
    files[COMPARISONS] = comparisons_csv(outcomes)
    files |= {f"{t.name}.csv": table_csv(t) for one in outcomes for t in one.tables}
    place = output_folder(folder)
    with Batch() as batch:
        for name, content in files.items():
            batch.write(place / name, content)
    return place / PAGE


def write_markdown(
    folder: str | os.PathLike[str],
    study: Study,
    outcomes: Sequence[Outcome],
    facts: Mapping[str, str],
) -> Path:
    """Write ``<name>.md`` and its pictures in ``images/<name>``; returns the page as `write`."""
    place = output_folder(folder)
    images = output_folder(place / "images" / study.name)
    with Batch() as batch:
        for picture in pictures(outcomes):
            batch.write(images / f"{picture.name}.png", picture.png)
        page = markdown(study, outcomes, facts)
        batch.write(place / f"{study.name}.md", page.encode())
    return place / f"{study.name}.md"


def pictures(outcomes: Iterable[Outcome]) -> list[Picture]:
    """All pictures."""
    return [picture for one in outcomes for picture in one.pictures]


def render(study: Study, outcomes: Sequence[Outcome], facts: Mapping[str, str]) -> str:
    """The HTML page, without external resources."""
    from jinja2 import Environment, StrictUndefined

    # Autoescape: commands and names come from outside.
    jinja = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    jinja.filters |= {
        "number": number,
        "picture": data_url,
        "width": width,
        "words": words,
        "tidy": tidy,
        "merged": merged,
    }
    source = resources.files("kety.studies").joinpath("page.html.j2").read_text("utf-8")
    return jinja.from_string(source).render(
        study=study,
        outcomes=outcomes,
        facts=facts,
        tiles=tiles(outcomes),
        fold_above=FOLD_ABOVE,
        interval=interval,
        distance=distance,
    )


def tiles(outcomes: Sequence[Outcome]) -> list[tuple[str, str]]:
    """The summary in numbers: (number, what it counts)."""
    targets = [met for one in outcomes for _, met in one.targets]
    ratios = [c.ratio for one in outcomes for c in one.comparisons if c.ratio is not None]
    near = sum(distance(ratio) == "near" for ratio in ratios)
    return [
        (f"{sum(targets)} of {len(targets)}", "targets met"),
        (f"{len(ratios)}", "numbers of the paper beside ours"),
        (f"{near}", f"of them within a factor of {ALIKE:g}"),
        (words(sum(one.seconds for one in outcomes)), "for all experiments"),
    ]


def distance(ratio: float | None) -> str:
    """``near``, ``lower`` or ``higher``, for a ratio of ours over the paper's; else empty."""
    if ratio is None or not math.isfinite(ratio):
        return ""
    return "near" if 1 / ALIKE <= ratio <= ALIKE else "lower" if ratio < 1 else "higher"


def words(seconds: float) -> str:
    """A duration as people say it."""
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min"


def number(value: object, digits: int = 3) -> str:
    """A cell: text as it is, numbers to some significant digits, a dash for what is missing."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if not math.isfinite(value):
        return "–"
    if value < 0:
        return "−" + number(-value, digits)
    if isinstance(value, int):
        return f"{value:,}"
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(value))
    if -4 <= exponent < 6:
        places = max(0, digits - 1 - exponent)
        text = f"{value:,.{places}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
    return f"{mantissa} × 10{str(int(power)).translate(_SUPERSCRIPT)}"


def interval(one: Comparison) -> str:
    """The 95 % confidence interval of ours."""
    if one.low is None or one.high is None:
        return ""
    return f"{number(one.low)} to {number(one.high)}"


def tidy(text: str) -> str:
    """Text whose numbers keep their units on the line."""
    for unit in ("%", "Hz", "HU", "/min", "ms"):
        text = text.replace(f" {unit}", f"\N{NO-BREAK SPACE}{unit}")
    return text


def merged(comparisons: Sequence[Comparison]) -> list[tuple[Comparison, int]]:
    """Each with the number of rows that its reason spans; 0 where the one above has the same."""
    spans = [1] * len(comparisons)
    for i in reversed(range(1, len(comparisons))):
        if comparisons[i].why and comparisons[i].why == comparisons[i - 1].why:
            spans[i - 1], spans[i] = spans[i] + 1, 0
    return list(zip(comparisons, spans, strict=True))


def width(png: bytes) -> int:
    """Width in CSS pixels at which letters are equally large in all pictures."""
    return round(int.from_bytes(png[16:20], "big") * PIXEL)


def data_url(png: bytes) -> str:
    """A picture inside a page."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def comparisons_csv(outcomes: Iterable[Outcome]) -> bytes:
    """All numbers of the paper beside ours, in full."""
    rows = [
        (one.name, c.where, c.what, c.unit, c.paper, c.ours, c.low, c.high, c.ratio, c.why)
        for one in outcomes
        for c in one.comparisons
    ]
    return _csv(_CSV_COLUMNS, rows)


def table_csv(table: Table) -> bytes:
    """A table, its numbers in full, what is missing left empty."""
    return _csv(table.header, table.rows)


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    # NumPy's numbers would be written with the name of their type.
    writer.writerows(
        ["" if c is None else repr(float(c)) if isinstance(c, float) else c for c in row]
        for row in rows
    )
    return text.getvalue().encode()


def markdown(study: Study, outcomes: Sequence[Outcome], facts: Mapping[str, str]) -> str:
    """The page as Markdown; pictures are expected in ``images/<name>``."""
    parts = [f"# {_plain(study.title)}", f"[{_plain(study.reference)}]({study.link})"]
    parts.append("; ".join(f"{label}: {_plain(value)}" for label, value in facts.items()) + ".")
    parts.append("## Targets")
    for one in outcomes:
        if one.targets:
            lines = [f"{'Met' if met else '**Not met**'}: {_plain(t)}" for t, met in one.targets]
            parts += [f"{_plain(one.title)}:", "\n".join(f"- {line}" for line in lines)]
    parts += ["## The paper's numbers beside ours", _comparisons(outcomes)]
    if study.notes:
        parts += [f"## {study.notes_title}", _list(study.notes)]
    for one in outcomes:
        parts += _section(study, one)
    return "\n\n".join(part for part in parts if part) + "\n"


def _comparisons(outcomes: Sequence[Outcome]) -> str:
    header = ("where", "what", "unit", "paper", "ours", "95 %", "ratio", "why they differ")
    rows = [
        (
            c.where,
            c.what,
            c.unit,
            number(c.paper),
            number(c.ours),
            interval(c),
            number(c.ratio, 2),
            c.why,
        )
        for one in outcomes
        for c in one.comparisons
    ]
    return _grid(header, rows)


def _section(study: Study, one: Outcome) -> list[str]:
    parts = [f"## {_plain(one.title)}", *map(_plain, one.text)]
    for picture in one.pictures:
        place = f"images/{study.name}/{picture.name}.png"
        alt = _plain(picture.alt).replace("[", "(").replace("]", ")")
        parts += [f"![{alt}]({place})", f"*{_plain(picture.caption)}*"]
    for table in one.tables:
        rows = [[number(cell) for cell in row] for row in table.rows]
        note = [_plain(table.note)] if table.note else []
        if len(rows) > FOLD_ABOVE:
            parts.append(f"<details><summary>{_plain(table.title)}</summary>")
            parts += [_grid(table.header, rows), *note, "</details>"]
        else:
            parts += [f"**{_plain(table.title)}**", _grid(table.header, rows), *note]
    if one.conditions:
        parts += ["Conditions:", _list(one.conditions)]
    return parts


def _grid(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [[_cell(c) for c in row] for row in (header, *rows)]
    text = ["| " + " | ".join(row) + " |" for row in lines]
    text.insert(1, "|" + "---|" * len(header))
    return "\n".join(text)


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {_plain(item)}" for item in items)


def _cell(value: object) -> str:
    return _plain(str(value)).replace("|", "\\|")


def _plain(text: str) -> str:
    """Text in which nothing is Markdown or HTML, on one line."""
    line = " ".join(text.split())
    for sign, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("*", "\\*")):
        line = line.replace(sign, escaped)
    return line.replace("_", "\\_").replace("`", "\\`")
