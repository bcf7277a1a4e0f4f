"""Run all benchmarks, or those named with ``--only``, and print Markdown for docs/benchmarks.md."""

from __future__ import annotations

import argparse
import importlib
import sys

from kety.studies.page import environment

BENCHMARKS = (
    "accuracy",
    "input",
    "optimum",
    "efficiency",
    "coverage",
    "identifiability",
    "choice",
    "exchange",
    "minima",
    "speed",
    "joint",
    "whole_brain",
    "interpolation",
    "modelfree",
    "sampling",
    "masks",
    "dicom",
    "cli",
    "emulated",
)
ON_A_CARD = ("gpu",)
"""Named only: they need what most machines have not."""


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few voxels and repeats: a smoke run")
    parser.add_argument("--seed", type=int, default=1, help="seed of the simulated data")
    parser.add_argument("--only", default=",".join(BENCHMARKS), help="names, comma separated")
    options = parser.parse_args()
    names = options.only.split(",")
    known = (*BENCHMARKS, *ON_A_CARD)
    unknown = sorted(set(names) - set(known))
    if unknown:
        parser.error(f"unknown {', '.join(unknown)}; the benchmarks are {', '.join(known)}")
    print("; ".join(f"{what}: {value}" for what, value in environment().items()) + ".")
    for name in names:
        arguments = [*(["--quick"] if options.quick else []), "--seed", str(options.seed)]
        print(f"\n## {name}\n\n`python -m benchmarks.{name} {' '.join(arguments)}`\n", flush=True)
        importlib.import_module(f"benchmarks.{name}").main(arguments)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
