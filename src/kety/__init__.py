"""kety: tracer-kinetic parameters, voxel by voxel, from dynamic contrast-enhanced CT and MRI."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from kety.version import __version__

if TYPE_CHECKING:
    from kety.api import fit
    from kety.bootstrapping import bootstrap
    from kety.bound import cramer_rao
    from kety.comparison import compare
    from kety.errors import KetyError, MissingDependencyError
    from kety.fitting.discretize import Discretization
    from kety.fitting.forward import simulate_curves
    from kety.fitting.optimizers import (
        OPTIMIZERS,
        SQP,
        DifferentialEvolution,
        NelderMead,
        PatternSearch,
        SimulatedAnnealing,
        VarProLM,
    )
    from kety.fitting.status import Status
    from kety.inputs import ArterialInput, InputFunction, find_artery, population_input
    from kety.joint.options import Joint
    from kety.modelfree import deconvolve, semiquantitative
    from kety.models import MODELS, Derived, OdeModel, Parameter
    from kety.planning import Ranges, expected_errors
    from kety.profiles import profile
    from kety.propagation import propagate
    from kety.roi import roi_statistics
    from kety.series import Series

# Loaded on first use, so that `import kety` and `kety --help` answer at once.
_HOME = {
    "KetyError": "kety.errors",
    "MissingDependencyError": "kety.errors",
    "fit": "kety.api",
    "compare": "kety.comparison",
    "Discretization": "kety.fitting.discretize",
    "simulate_curves": "kety.fitting.forward",
    "OPTIMIZERS": "kety.fitting.optimizers",
    "DifferentialEvolution": "kety.fitting.optimizers",
    "NelderMead": "kety.fitting.optimizers",
    "PatternSearch": "kety.fitting.optimizers",
    "SimulatedAnnealing": "kety.fitting.optimizers",
    "SQP": "kety.fitting.optimizers",
    "VarProLM": "kety.fitting.optimizers",
    "Joint": "kety.joint.options",
    "Status": "kety.fitting.status",
    "ArterialInput": "kety.inputs",
    "InputFunction": "kety.inputs",
    "find_artery": "kety.inputs",
    "population_input": "kety.inputs",
    "MODELS": "kety.models",
    "Derived": "kety.models",
    "OdeModel": "kety.models",
    "Parameter": "kety.models",
    "deconvolve": "kety.modelfree",
    "semiquantitative": "kety.modelfree",
    "Ranges": "kety.planning",
    "cramer_rao": "kety.bound",
    "expected_errors": "kety.planning",
    "Series": "kety.series",
    "roi_statistics": "kety.roi",
    "bootstrap": "kety.bootstrapping",
    "profile": "kety.profiles",
    "propagate": "kety.propagation",
}

__all__ = [
    "MODELS",
    "OPTIMIZERS",
    "SQP",
    "ArterialInput",
    "Derived",
    "DifferentialEvolution",
    "Discretization",
    "InputFunction",
    "Joint",
    "KetyError",
    "MissingDependencyError",
    "NelderMead",
    "OdeModel",
    "Parameter",
    "PatternSearch",
    "Ranges",
    "Series",
    "SimulatedAnnealing",
    "Status",
    "VarProLM",
    "__version__",
    "bootstrap",
    "compare",
    "cramer_rao",
    "deconvolve",
    "expected_errors",
    "find_artery",
    "fit",
    "population_input",
    "profile",
    "propagate",
    "roi_statistics",
    "semiquantitative",
    "simulate_curves",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'kety' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
