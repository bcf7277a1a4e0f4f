"""Svistoun et al., Tomography 2019: optimisers, discretisation, delay, speed.

The experiments are in the order of the paper; each is a module with ``run(effort) -> Outcome``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from kety.studies.optimization import paper
from kety.studies.page import Study
from kety.studies.records import Effort, Outcome
from kety.studies.running import run_experiments

EXPERIMENTS: Final = {
    name: f"kety.studies.optimization.{name}"
    for name in ("calibration", "delay", "rates", "sampling", "runtime", "brain")
}
"""Name to module, in the order of the paper."""
STUDY: Final = Study(
    "optimization",
    paper.TITLE,
    paper.REFERENCE,
    paper.LINK,
    "Where the paper contradicts itself",
    paper.CONTRADICTIONS,
)


def outcomes(effort: Effort, only: Sequence[str] | None = None) -> Iterator[Outcome]:
    """Run the experiments, or those named in `only`; see `run_experiments`."""
    return run_experiments(EXPERIMENTS, effort, only)


def run(effort: Effort, only: Sequence[str] | None = None) -> list[Outcome]:
    """All of `outcomes`."""
    return list(outcomes(effort, only))
