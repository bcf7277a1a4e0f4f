"""``kety reproduce``: a paper's tables and figures again, each of its numbers beside ours."""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from kety.cli.common import SectionCommand, debug_option, heard_warnings, option, say
from kety.errors import KetyError

STUDIES: Final[Mapping[str, str]] = {
    "optimization": "kety.studies.optimization",
    "multitask": "kety.studies.multitask",
}
"""Name to module, which has ``STUDY`` and ``outcomes(effort, only)``."""


@click.command(cls=SectionCommand, short_help="Regenerate a paper's tables and figures.")
@click.argument("study", metavar="STUDY")
@option(
    "Work",
    "--quick/--full",
    "quick",
    default=True,
    help="Few voxels in minutes, or as many as the figures need.",
)
@option(
    "Work",
    "--only",
    metavar="NAMES",
    help="Experiments to run, separated by commas. [default: all]",
)
@option("Work", "--seed", type=click.IntRange(0), default=1, help="Seed of all simulated data.")
@option(
    "Work", "--threads", type=click.IntRange(1), help="Number of threads. [default: all processors]"
)
@option(
    "Output",
    "--out",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="For report.html and CSV files; replaced where present. [default: kety-STUDY]",
)
@option(
    "Output",
    "--markdown",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Also write the page as Markdown with its pictures here.",
)
@debug_option
@click.pass_context
def command(ctx: click.Context, /, study: str, **options: Any) -> None:
    """Run the experiments of a paper on simulated data and write a page where each of its numbers
    stands beside ours, with the ratio and the reason where they differ.

    STUDY is optimization: Svistoun et al., Tomography 2019 (optimisers, discretisation, delay) with
    the experiments calibration, delay, rates, sampling, runtime and brain; or multitask: Romain et
    al., MICCAI 2013 (joint estimation over voxels), with synthetic, strength, phantom, scale and
    real. The page is written after each one: what has finished stays when the command is
    interrupted.
    """
    with heard_warnings():
        run(str(ctx.obj), study, options)


def run(line: str, name: str, options: Mapping[str, Any]) -> None:
    """Run the experiments, write the page after each, and say which targets were met."""
    if name not in STUDIES:
        raise KetyError(f"unknown study {name!r}; valid: {', '.join(STUDIES)}")
    from kety.pipeline import check_folder
    from kety.studies.page import environment, write, write_markdown
    from kety.studies.records import Effort

    folder = check_folder(options["out"] or Path(f"kety-{name}"))
    pages = None if options["markdown"] is None else check_folder(options["markdown"])
    module = importlib.import_module(STUDIES[name])
    began = time.perf_counter()

    def elapsed() -> str:
        return f"{time.perf_counter() - began:.1f} s"

    effort = Effort(
        not options["quick"],
        options["seed"],
        options["threads"],
        lambda text: say(elapsed(), text),
    )
    only = None if options["only"] is None else _names(options["only"])
    running = module.outcomes(effort, only)
    facts = {
        "command": line,
        "effort": "quick: few voxels, wide intervals" if options["quick"] else "full",
        "seed": str(options["seed"]),
        **environment(),
    }
    done = []
    for outcome in running:
        done.append(outcome)
        facts["wall time"] = elapsed()
        page = write(folder, module.STUDY, done, facts)
        if pages is not None:
            write_markdown(pages, module.STUDY, done, facts)
        say(elapsed(), f"{outcome.name} done, in {page}")
    click.echo()
    for outcome in done:
        for text, met in outcome.targets:
            say("met" if met else "NOT MET", text)
    say("page", str(page))


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
