"""The ``kety`` command: finds the others, and turns errors into one line and an exit code.

What a command needs is imported when it runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import gc
import importlib
import os
import shlex
from collections.abc import Mapping
from typing import Any, Final

import click

from kety.cli.common import DEBUG, debug_option, fail
from kety.errors import KetyError
from kety.version import __version__

COMMANDS: Final[Mapping[str, str]] = {
    "fit": "kety.cli.fit",
    "aif": "kety.cli.aif",
    "maps": "kety.cli.maps",
    "mask": "kety.cli.mask",
    "roi": "kety.cli.roi",
    "compare": "kety.cli.compare",
    "demo": "kety.cli.demo",
    "simulate": "kety.cli.simulate",
    "protocol": "kety.cli.protocol",
    "reproduce": "kety.cli.reproduce",
    "convert": "kety.cli.convert",
    "info": "kety.cli.info",
}
"""Name to module, whose ``command`` it is."""

INTERRUPTED: Final = 130


class Root(click.Group):
    """The group of commands, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            ctx.fail(f"unknown command '{cmd_name}'; the commands are {', '.join(COMMANDS)}")
        command = importlib.import_module(COMMANDS[cmd_name]).command
        assert isinstance(command, click.Command)
        return command

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        extra["obj"] = shlex.join(["kety", *args])
        return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        # Imports, headers and plots make many objects that stay: to search all of them for cycles
        # as often as Python does by default takes a tenth of the time of a command.
        gc.set_threshold(50_000, 20, 20)
        # kety's threads share the processors; those of NumPy's BLAS would wait beside them, busily.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("\nkety: interrupted, nothing more was written", err=True)
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:
            raise  # the reader of the output has gone; click knows what to do
        except (KetyError, OSError, MemoryError) as error:
            if ctx.meta.get(DEBUG):
                raise
            fail(ctx, error)


@click.group(
    cls=Root,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`kety COMMAND --help` explains the options of a command.",
)
@click.version_option(__version__, prog_name="kety", message="%(prog)s %(version)s")
@debug_option
def main() -> None:
    """Tracer-kinetic parameters, voxel by voxel, from dynamic contrast-enhanced CT and MRI."""
