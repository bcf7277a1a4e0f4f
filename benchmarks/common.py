"""What the benchmarks share: the published data sets, tables, results on disk."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kety.studies.optimization.data import PAPER_BOUNDS
from kety.studies.page import environment

Measure = Callable[[argparse.Namespace], tuple[list["Table"], dict[str, Any]]]

RESULTS = Path(__file__).parent / "results"

BOUNDS: Mapping[str, Mapping[str, tuple[float, float]] | None] = {
    "paper": PAPER_BOUNDS,
    "default": None,
}


@dataclass(frozen=True)
class Table:
    """A titled table whose cells are text."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def markdown(self) -> str:
        """The table in Markdown, columns aligned."""
        lines = [list(self.header), *(list(row) for row in self.rows)]
        width = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
        text = [
            "| " + " | ".join(c.ljust(w) for c, w in zip(row, width, strict=True)) + " |"
            for row in lines
        ]
        text.insert(1, "|" + "|".join("-" * (w + 2) for w in width) + "|")
        note = ["", self.note] if self.note else []
        return "\n".join([f"**{self.title}**", "", *text, *note])


def stopwatch(action: Callable[[], Any], repeats: int) -> list[float]:
    """Wall times of `repeats` calls, s."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return seconds


def voxels_option(argv: Sequence[str] | None, default: int) -> tuple[int, list[str]]:
    """The number after ``--voxels``, and the other arguments."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--voxels", type=int, default=default)
    options, others = parser.parse_known_args(argv)
    return options.voxels, others


def run(name: str, measure: Measure, description: str, argv: Sequence[str] | None = None) -> None:
    """Parse the options, measure, print the tables and write ``results/<name>.json``."""
    parser = argparse.ArgumentParser(f"python -m benchmarks.{name}", description=description)
    parser.add_argument("--quick", action="store_true", help="few voxels and repeats: a smoke run")
    parser.add_argument("--seed", type=int, default=1, help="seed of the simulated data")
    options = parser.parse_args(argv)
    start = time.perf_counter()
    tables, figures = measure(options)
    record = {
        "benchmark": name,
        "options": vars(options),
        "environment": environment(),
        "seconds": round(time.perf_counter() - start, 1),
        "tables": [asdict(table) for table in tables],
        "figures": figures,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(record, indent=1, default=float) + "\n", encoding="utf-8")
    part.replace(path)
    print("\n\n".join(table.markdown() for table in tables))
