"""How fast the command line answers: `kety --help`, `import kety`, `kety demo`."""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from benchmarks.common import Table, run, stopwatch

REPEATS, DEMO_REPEATS = 15, 3


def kety_command() -> list[str]:
    """The installed command, or the module where there is none."""
    found = shutil.which("kety")
    return [found] if found else [sys.executable, "-m", "kety"]


def measure(options: argparse.Namespace) -> tuple[list[Table], dict[str, Any]]:
    """Wall times of fresh processes, s."""
    repeats, demos = (5, 1) if options.quick else (REPEATS, DEMO_REPEATS)
    with tempfile.TemporaryDirectory() as folder:
        calls = {
            "python, nothing imported": ([sys.executable, "-c", "pass"], repeats),
            "import kety": ([sys.executable, "-c", "import kety"], repeats),
            "kety --help": ([*kety_command(), "--help"], repeats),
            "kety fit --help": ([*kety_command(), "fit", "--help"], repeats),
            "kety demo": ([*kety_command(), "demo", "--out", f"{folder}/demo"], demos),
        }
        figures, rows = {}, []
        for name, (command, count) in calls.items():

            def call(command: list[str] = command) -> None:
                done = subprocess.run(command, capture_output=True, check=False)
                if done.returncode:
                    raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.decode()}")

            seconds = stopwatch(call, count)
            figures[name] = seconds
            rows.append([name, f"{min(seconds):.3f}", f"{statistics.median(seconds):.3f}"])
    table = Table("Command line, wall time in s", ["command", "best", "median"], rows)
    return [table], figures


def main(argv: Sequence[str] | None = None) -> None:
    run("cli", measure, __doc__ or "", argv)


if __name__ == "__main__":
    main()
