"""Tissues to simulate: names and true parameters, one value each or drawn from ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kety.errors import KetyError
from kety.models import Model

Floats = NDArray[np.float64]

TISSUES: Final[Mapping[str, Mapping[str, float]]] = {
    "tumour": {
        "ktrans": 0.25,
        "kep": 0.6,
        "vb": 0.06,
        "k1": 0.43,
        "k2": 0.6,
        "delay": 3.3,
        "fp": 60.0,
        "ps": 0.43,
        "ve": 0.42,
        "vp": 0.035,
        "vd": 0.45,
        "haf": 0.3,
        "delay_portal": 5.3,
    },
    "leaky tumour": {
        "ktrans": 0.6,
        "kep": 1.5,
        "vb": 0.1,
        "k1": 1.03,
        "k2": 1.5,
        "delay": 2.3,
        "fp": 120.0,
        "ps": 1.2,
        "ve": 0.4,
        "vp": 0.058,
        "vd": 0.46,
        "haf": 0.3,
        "delay_portal": 4.3,
    },
    "slow tumour": {
        "ktrans": 0.1,
        "kep": 0.35,
        "vb": 0.08,
        "k1": 0.17,
        "k2": 0.35,
        "delay": 5.7,
        "fp": 40.0,
        "ps": 0.13,
        "ve": 0.29,
        "vp": 0.046,
        "vd": 0.34,
        "haf": 0.3,
        "delay_portal": 7.7,
    },
    "muscle": {
        "ktrans": 0.08,
        "kep": 0.6,
        "vb": 0.03,
        "k1": 0.14,
        "k2": 0.6,
        "delay": 4.4,
        "fp": 20.0,
        "ps": 0.13,
        "ve": 0.13,
        "vp": 0.017,
        "vd": 0.15,
        "haf": 0.3,
        "delay_portal": 6.4,
    },
    "vascular tissue": {
        "ktrans": 0.4,
        "kep": 1.0,
        "vb": 0.18,
        "k1": 0.69,
        "k2": 1.0,
        "delay": 1.6,
        "fp": 120.0,
        "ps": 0.6,
        "ve": 0.4,
        "vp": 0.104,
        "vd": 0.5,
        "haf": 0.3,
        "delay_portal": 3.6,
    },
}
"""Typical tissues, in public units; each model takes its own. k1 is ktrans / (1 - 0.42), vp is
0.58 vb, ve is ktrans / kep; with fp, ps gives the same ktrans, fp ps / (fp + ps)."""
PUBLISHED: Final[Mapping[str, tuple[float, float]]] = {
    "ktrans": (0.02, 1.0),
    "kep": (0.1, 3.0),
    "vb": (0.01, 0.2),
    "delay": (0.0, 10.0),
}
"""Ranges of the data sets of Svistoun et al. (Tomography 2019, doi:10.18383/j.tom.2018.00048)."""


@dataclass(frozen=True)
class Ranges:
    """Voxels whose parameters are drawn uniformly and independently.

    ``limits`` maps a parameter to (lower, upper) in its public unit; equal limits hold it there.
    """

    limits: Mapping[str, tuple[float, float]]

    def __post_init__(self) -> None:
        for name, pair in self.limits.items():
            try:
                lower, upper = (float(limit) for limit in pair)
                if not -np.inf < lower <= upper < np.inf:
                    raise ValueError
            except (TypeError, ValueError):
                raise KetyError(
                    f"{name} must be a finite number, or (lower, upper) in order, found {pair!r}"
                ) from None


def checked_tissues(
    tissues: Mapping[str, Mapping[str, float] | Ranges] | Ranges | None, model: Model
) -> dict[str, Ranges]:
    """Tissues as ranges, one value as equal limits; `KetyError` for what the model cannot take."""
    if tissues is None:
        tissues = {n: {p: t[p] for p in model.names if p in t} for n, t in TISSUES.items()}
    if isinstance(tissues, Ranges):
        tissues = {"uniform": tissues}
    if not isinstance(tissues, Mapping) or not tissues:
        raise KetyError(f"tissues must map names to parameters, or be Ranges; found {tissues!r}")
    chosen = {}
    for name, tissue in tissues.items():
        if not isinstance(tissue, Ranges):
            tissue = Ranges({n: (v, v) for n, v in tissue.items()})
        chosen[name] = tissue
        unknown = sorted(set(tissue.limits) - set(model.names))
        shifts = {p.name for p in model.parameters if p.is_delay}
        missing = [n for n in model.names if n not in tissue.limits and n not in shifts]
        if unknown or missing:
            raise KetyError(
                f"tissue {name!r}: {model.name} has the parameters {', '.join(model.names)}; "
                f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}"
            )
        for p in model.parameters:
            if not p.is_delay and tissue.limits[p.name][0] < 0:
                raise KetyError(f"tissue {name!r}: {p.name} must not be negative")
    return chosen


def drawn(tissue: Ranges, model: Model, copies: int, seed: int) -> dict[str, Floats]:
    """True parameters of a tissue, (copies,), or (1,) where nothing varies."""
    random = np.random.default_rng([seed, 0])
    count = copies if any(lo < hi for lo, hi in tissue.limits.values()) else 1
    return {n: random.uniform(*tissue.limits.get(n, (0.0, 0.0)), count) for n in model.names}
