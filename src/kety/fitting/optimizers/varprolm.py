"""The default solver: a dictionary search for the start, then bounded Levenberg-Marquardt."""

from __future__ import annotations

from dataclasses import dataclass

from kety.errors import KetyError


@dataclass(frozen=True)
class VarProLM:
    """Separable search over (rate x delay) cells, then bounded Levenberg-Marquardt to convergence.

    Attributes
    ----------
    max_evaluations : int
        Limit of exact model evaluations for one voxel.
    ftol, xtol : float or None
        A voxel has converged when the predicted relative fall of its cost is below `ftol` or the
        relative step below `xtol`; None chooses by the precision.
    candidate_ratio : float
        Delay cells whose residual sum of squares is within this factor of the best cell's are
        refined as well.
    rival : float
        Minima whose refined residual sum of squares lies within this relative distance of the best
        are solved exactly as well.
    instruction_set : str
        One of `kety.fitting.engine.instruction_sets`; the best one where empty.
    """

    max_evaluations: int = 100
    ftol: float | None = None
    xtol: float | None = None
    candidate_ratio: float = 1.2
    rival: float = 1e-3
    instruction_set: str = ""

    def __post_init__(self) -> None:
        n = self.max_evaluations
        if not isinstance(n, int) or n < 1:
            raise KetyError(f"max_evaluations must be a whole number from 1, found {n!r}")
        for name in ("ftol", "xtol", "candidate_ratio", "rival"):
            value = getattr(self, name)
            if value is None and name in ("ftol", "xtol"):
                continue
            if not isinstance(value, int | float) or not value >= 0:
                raise KetyError(f"{name} must be a number not below 0, found {value!r}")
