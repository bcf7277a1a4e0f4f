"""The optimisers, one file each; `OPTIMIZERS` is the one list."""

from __future__ import annotations

from kety.errors import KetyError
from kety.fitting.optimizers.base import Optimizer, Solution
from kety.fitting.optimizers.differential_evolution import DifferentialEvolution
from kety.fitting.optimizers.nelder_mead import NelderMead
from kety.fitting.optimizers.pattern_search import PatternSearch
from kety.fitting.optimizers.simulated_annealing import SimulatedAnnealing
from kety.fitting.optimizers.sqp import SQP
from kety.fitting.optimizers.varprolm import VarProLM

OPTIMIZERS: dict[str, type[VarProLM | Optimizer]] = {
    "varprolm": VarProLM,
    "nelder_mead": NelderMead,
    "differential_evolution": DifferentialEvolution,
    "sqp": SQP,
    "pattern_search": PatternSearch,
    "simulated_annealing": SimulatedAnnealing,
}

__all__ = [
    "OPTIMIZERS",
    "SQP",
    "DifferentialEvolution",
    "NelderMead",
    "Optimizer",
    "PatternSearch",
    "SimulatedAnnealing",
    "Solution",
    "VarProLM",
    "get_optimizer",
]


def get_optimizer(value: str | VarProLM | Optimizer | None) -> VarProLM | Optimizer:
    """The optimiser of a name, with its default options; `VarProLM` for None.

    Raises
    ------
    KetyError
        For anything but None, an optimiser or a name in `OPTIMIZERS` ('-' counts as '_').
    """
    if value is None:
        return VarProLM()
    if isinstance(value, VarProLM | Optimizer):
        return value
    found = OPTIMIZERS.get(value.replace("-", "_")) if isinstance(value, str) else None
    if found is None:
        raise KetyError(f"unknown optimizer {value!r}; valid: {', '.join(OPTIMIZERS)}")
    return found()
