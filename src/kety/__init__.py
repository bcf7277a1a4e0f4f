"""kety: tracer-kinetic parameters, voxel by voxel, from dynamic contrast-enhanced CT and MRI."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from kety.version import __version__

if TYPE_CHECKING:
    from kety.errors import KetyError, MissingDependencyError
    from kety.fitting.api import fit
    from kety.fitting.forward import simulate_curves
    from kety.fitting.optimizers.varprolm import VarProLM
    from kety.fitting.status import Status
    from kety.inputs import InputFunction, population_input
    from kety.models import MODELS
    from kety.series import Series

# Loaded on first use, so that `import kety` and `kety --help` answer at once.
_HOME = {
    "KetyError": "kety.errors",
    "MissingDependencyError": "kety.errors",
    "fit": "kety.fitting.api",
    "simulate_curves": "kety.fitting.forward",
    "VarProLM": "kety.fitting.optimizers.varprolm",
    "Status": "kety.fitting.status",
    "InputFunction": "kety.inputs",
    "population_input": "kety.inputs",
    "MODELS": "kety.models",
    "Series": "kety.series",
}

__all__ = [
    "MODELS",
    "InputFunction",
    "KetyError",
    "MissingDependencyError",
    "Series",
    "Status",
    "VarProLM",
    "__version__",
    "fit",
    "population_input",
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
