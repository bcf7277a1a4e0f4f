"""``kety simulate``: a DCE-CT study of which the truth is known."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from kety.cli.common import SectionCommand, debug_option, grid, heard_warnings, option, say

PHANTOM: Final = "Phantom"
Function = TypeVar("Function", bound=Callable[..., Any])


def phantom_options(function: Function) -> Function:
    """The options of a phantom, which ``kety demo`` has too."""
    for add in (
        option(
            PHANTOM,
            "--rounded/--exact",
            default=True,
            help="Store whole HU, as a scanner does, or fractions too.",
        ),
        option(
            PHANTOM,
            "--noise-fwhm",
            type=float,
            default=0.0,
            metavar="MM",
            help="Correlation "
            "of the noise within a slice, full width at half maximum; 0 is white noise.",
        ),
        option(PHANTOM, "--seed", type=int, default=0, help="Seed of noise and texture."),
        option(
            PHANTOM,
            "--noise",
            type=float,
            default=6.0,
            metavar="HU",
            help="Standard deviation of the noise.",
        ),
        option(
            PHANTOM,
            "--protocol",
            default="two_phase",
            metavar="NAME",
            help="Frame times: two_phase (abdomen, 66 frames), brain (37) or uniform (200 at 1 s).",
        ),
        option(
            PHANTOM,
            "--size",
            type=grid,
            default="96,80,12",
            metavar="X,Y,Z",
            help="Number of voxels; the field of view stays the same.",
        ),
    ):
        function = add(function)
    return function


def make_phantom(options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The phantom that the options describe, and a record of them."""
    from kety.simulate import simulate_abdomen

    settings = {
        "shape": options["size"],
        **{name: options[name] for name in ("noise", "seed", "protocol", "noise_fwhm", "rounded")},
    }
    return simulate_abdomen(**settings), settings


@click.command(
    cls=SectionCommand, short_help="Simulate a DCE-CT study of which the truth is known."
)
@click.argument("out", type=click.Path(path_type=Path))
@phantom_options
@debug_option
@click.pass_context
def command(ctx: click.Context, /, out: Path, **options: Any) -> None:
    """Simulate perfusion CT of an abdomen with a liver tumour (enhancing rim, necrotic core), and
    write it to the folder OUT.

    OUT gets dce.nii.gz with its frame times, aif.csv, masks (body, aorta, tumour), labels and the
    true map of every parameter. Equal options give equal files.

    \b
    kety simulate study && kety fit study/dce.nii.gz --aif study/aif.csv --mask study/body.nii.gz
    """
    from kety.pipeline import check_folder, write_phantom

    with heard_warnings():
        started = time.perf_counter()
        check_folder(out)
        phantom, settings = make_phantom(options)
        write_phantom(phantom, out, record={"command": ctx.obj, **settings}, tell=say)
        say("done", f"in {time.perf_counter() - started:.1f} s")
