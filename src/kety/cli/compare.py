"""``kety compare``: two studies of one patient in, their change and its certainty out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from kety.cli.common import SectionCommand, debug_option, heard_warnings, option, quiet, say, table
from kety.cli.study_options import FILE
from kety.errors import KetyError

STUDIES: Final = "Studies and regions"
TEST: Final = "Test"
OUTPUT: Final = "Output"


def _names(value: str) -> list[str]:
    return [name.strip() for name in value.split(",") if name.strip()]


@click.command(cls=SectionCommand, short_help="Change between two studies, and its certainty.")
@click.argument("a", type=FILE, required=False)
@click.argument("b", type=FILE, required=False)
@option(
    STUDIES,
    "--pair",
    "pairs",
    type=(FILE, FILE),
    multiple=True,
    metavar="A B",
    help="Two studies; give it for each of several patients.",
)
@option(
    STUDIES,
    "--roi",
    type=FILE,
    multiple=True,
    metavar="IMAGE",
    help="Region on the common grid: a mask, or labels, one region each. Of several pairs one for "
    "each, in their order. [default: all voxels fitted in both]",
)
@option(
    STUDIES,
    "--roi-a",
    type=FILE,
    multiple=True,
    metavar="IMAGE",
    help="Region on the grid of A, with --roi-b: studies that are not registered, compared by "
    "region.",
)
@option(STUDIES, "--roi-b", type=FILE, multiple=True, metavar="IMAGE", help="Region on that of B.")
@option(
    TEST,
    "--parameters",
    type=_names,
    metavar="NAME,...",
    help="Maps to compare; fewer tests find smaller changes. [default: all with standard errors]",
)
@option(
    TEST,
    "--statistic",
    type=click.Choice(["median", "mean"]),
    default="median",
    help="What stands for a region; a mean is moved by single voxels that went astray.",
)
@option(
    TEST,
    "--rc",
    multiple=True,
    metavar="NAME=RC",
    help="Repeatability coefficient to test against, as ktrans=20% or ktrans=0.05 in its unit; or "
    "the comparison.json of a test–retest study.",
)
@option(
    TEST,
    "--correction",
    type=click.Choice(["holm", "bh", "none"]),
    default="holm",
    help="For the number of tests: Holm, Benjamini–Hochberg or none.",
)
@option(
    OUTPUT,
    "--out",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    default=Path("comparison"),
    help="Where to write.",
)
@option(OUTPUT, "--report/--no-report", default=True, help="Write comparison.html.")
@option(OUTPUT, "--title", default="", help="Title of the report. [default: the studies]")
@option(OUTPUT, "--quiet", is_flag=True, help="Print errors and warnings only.")
@debug_option
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Compare two studies of one patient, A and B, folders that `kety fit` wrote: before and after
    treatment, or test and retest.

    Says of each parameter and region whether its change exceeds its uncertainty, and how well the
    studies repeat: within-subject coefficient of variation, repeatability coefficient, limits of
    agreement. Writes maps of change, rois.csv, comparison.json and comparison.html.

    \b
    kety compare before after --roi tumour.nii.gz --rc ktrans=20%
    kety compare before after --roi-a tumour1.nii.gz --roi-b tumour2.nii.gz
    kety compare --pair p1/a p1/b --pair p2/a p2/b --roi p1/roi.nii.gz --roi p2/roi.nii.gz
    """
    from kety.comparison import compare
    from kety.pipeline import check_folder
    from kety.pipeline.comparing import write_comparison

    firsts, seconds = studies_of(options)
    folder = check_folder(options["out"])
    tell = quiet if options["quiet"] else say
    with heard_warnings():
        found = compare(
            firsts,
            seconds,
            **{name: list(options[name]) or None for name in ("roi", "roi_a", "roi_b")},
            parameters=options["parameters"],
            statistic=options["statistic"],
            rc=limits_of(options["rc"]),
            correction=options["correction"],
        )
    if not options["quiet"]:
        show(found)
    write_comparison(
        found,
        folder,
        command=str(ctx.obj),
        report=options["report"],
        title=options["title"],
        tell=tell,
    )


def studies_of(options: dict[str, Any]) -> tuple[list[Path], list[Path]]:
    """The studies before and after, from the arguments or the pairs."""
    a, b, pairs = options["a"], options["b"], options["pairs"]
    if pairs and a is not None:
        raise KetyError("studies are given as A B and as --pair; give every pair as --pair")
    if not pairs and b is None:
        raise KetyError("two studies are needed; give A and B, or --pair A B for each of several")
    if not pairs:
        return [a], [b]
    return [one for one, _ in pairs], [other for _, other in pairs]


def limits_of(values: tuple[str, ...]) -> Any:
    """Repeatability coefficients by parameter, or the record that holds them."""
    files = [value for value in values if "=" not in value]
    if files and len(values) > 1:
        raise KetyError(f"--rc {files[0]} holds all coefficients; give no others beside it")
    if files:
        return files[0]
    pairs = [value.partition("=") for value in values]
    limits = {name.strip(): text for name, _, text in pairs}
    if len(limits) < len(pairs):
        raise KetyError("give the repeatability coefficient of a parameter once")
    return limits or None


def show(found: Any) -> None:
    """Print what changed, and how well the studies repeat."""
    from kety.report import comparison_words as words

    table(words.ROI_COLUMNS, words.roi_rows(found))
    click.echo()
    rows = [
        [
            " ".join(filter(None, (value, f"({more})" if more and i > 1 else more)))
            for i, (value, more) in enumerate(row)
        ]
        for row in words.agreement_rows(found)
    ]
    if rows:
        table(words.AGREEMENT_COLUMNS, rows)
        click.echo()
    say("verdict", words.headline(found))
    for text in words.sentences(found):
        say("", text)
    say("tests", f"{found.tests}, corrected: {found.correction}; {found.statistic} of each region")
