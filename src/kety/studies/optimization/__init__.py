"""Svistoun et al., Tomography 2019: optimisers, discretisation, delay, speed.

The experiments are in the order of the paper; each is a module with ``run(effort) -> Outcome``.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from typing import Final

from kety.errors import KetyError
from kety.studies.optimization import paper
from kety.studies.page import Study
from kety.studies.records import Effort, Outcome

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
    """Run the experiments, or those named in `only`, one after the other.

    Raises
    ------
    KetyError
        For a name that is not in `EXPERIMENTS`, before anything runs.
    """
    unknown = [name for name in only or () if name not in EXPERIMENTS]
    if unknown or (only is not None and not only):
        raise KetyError(
            f"unknown experiment {', '.join(map(repr, unknown)) or 'list, it is empty'}; valid: "
            f"{', '.join(EXPERIMENTS)}"
        )
    return _outcomes(effort, [name for name in EXPERIMENTS if only is None or name in only])


def _outcomes(effort: Effort, names: Sequence[str]) -> Iterator[Outcome]:
    for name in names:
        outcome: Outcome = importlib.import_module(EXPERIMENTS[name]).run(effort)
        yield outcome


def run(effort: Effort, only: Sequence[str] | None = None) -> list[Outcome]:
    """All of `outcomes`."""
    return list(outcomes(effort, only))
