"""Results beside the processor's of the card's code, run on the processor as in the tests."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.common import Table, run
from benchmarks.gpu import correctness

VOXELS, QUICK_VOXELS, MEMORY = 30_000, 1_000, 2 << 30


def measure(options: argparse.Namespace) -> tuple[list[Table], dict[str, Any]]:
    """The default solver; both bounds, precisions and tolerances."""
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    from emulated_card import emulated_card

    with pytest.MonkeyPatch.context() as patch:
        card = emulated_card(patch, MEMORY)
        table, figures = correctness(card, QUICK_VOXELS if options.quick else VOXELS, options.seed)
    return [table], {"correctness": figures}


def main(argv: Sequence[str] | None = None) -> None:
    run("emulated", measure, __doc__ or "", argv)


if __name__ == "__main__":
    main()
