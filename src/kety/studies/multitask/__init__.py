"""Romain et al.: joint estimation over voxels as multi-task learning, in DCE-CT of the abdomen.

The experiments are modules with ``run(effort) -> Outcome``: first the paper's own (`synthetic`, its
figure 2; `strength`, its figure 1), then what it does not measure (`phantom`: small lesions and
borders; `scale`: large images), last its five patients (`real`), here simulated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from kety.studies.multitask import paper
from kety.studies.page import Study
from kety.studies.records import Effort, Outcome
from kety.studies.running import run_experiments

EXPERIMENTS: Final = {
    name: f"kety.studies.multitask.{name}"
    for name in ("synthetic", "strength", "phantom", "scale", "real")
}
"""Name to module."""
STUDY: Final = Study(
    "multitask",
    paper.TITLE,
    paper.REFERENCE,
    paper.LINK,
    "What the paper leaves open",
    (*paper.OPEN, paper.SOURCE),
)


def outcomes(effort: Effort, only: Sequence[str] | None = None) -> Iterator[Outcome]:
    """Run the experiments, or those named in `only`; see `run_experiments`."""
    return run_experiments(EXPERIMENTS, effort, only)


def run(effort: Effort, only: Sequence[str] | None = None) -> list[Outcome]:
    """All of `outcomes`."""
    return list(outcomes(effort, only))
