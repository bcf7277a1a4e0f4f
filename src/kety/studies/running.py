"""Running the experiments of a study: which there are, and one after the other."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence

from kety.errors import KetyError
from kety.studies.records import Effort, Outcome


def run_experiments(
    experiments: Mapping[str, str], effort: Effort, only: Sequence[str] | None = None
) -> Iterator[Outcome]:
    """Run the experiments of a study, or those named in `only`, in the order of the study.

    Parameters
    ----------
    experiments : mapping of str to str
        Name to module, which has ``run(effort) -> Outcome``; it is imported when its turn comes.
    effort : Effort
    only : sequence of str, optional

    Raises
    ------
    KetyError
        For a name that is not among `experiments`, before anything runs.
    """
    unknown = [name for name in only or () if name not in experiments]
    if unknown or (only is not None and not only):
        raise KetyError(
            f"unknown experiment {', '.join(map(repr, unknown)) or 'list, it is empty'}; valid: "
            f"{', '.join(experiments)}"
        )
    return _outcomes([experiments[n] for n in experiments if only is None or n in only], effort)


def _outcomes(modules: Sequence[str], effort: Effort) -> Iterator[Outcome]:
    for module in modules:
        outcome: Outcome = importlib.import_module(module).run(effort)
        yield outcome
