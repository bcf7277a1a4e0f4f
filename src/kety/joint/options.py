"""How voxels are estimated together: the options of `kety.fit(..., joint=...)`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from kety.errors import KetyError

SIMILARITIES: Final = ("graph", "temporal", "spatial")


@dataclass(frozen=True, eq=False)
class Joint:
    """Joint estimation of all voxels, neighbours pulling each other's parameters together.

    Attributes
    ----------
    similarity : {"graph", "temporal", "spatial"} or matrix (V, V)
        Which voxels are alike. ``"graph"``: those near in space whose curves agree within their
        noise. ``"temporal"`` and ``"spatial"``: the multi-task paper's, Gaussian in the distance
        of the smoothed curves (equation 5) or of the places (equation 4). A dense or sparse
        symmetric matrix of weights, 0 or more, says it outright; its rows are the voxels that are
        fitted, in their order.
    strength : "auto" or float
        Weight of the penalty, lambda. ``"auto"`` predicts frames that were left out with several
        and takes the best, 0 included. 0 is the voxelwise estimate, infinity one estimate for all
        voxels that the graph connects. Where `scaled`, it has no unit: at 1, all neighbours of a
        voxel together weigh as much as its own data. Otherwise it is the lambda of equation 3.
    radius : float, optional
        Of the window in which ``"graph"`` and sparse similarities look for neighbours, in voxels
        of the finest spacing; along a coarser axis at least one. Default: 3 in two dimensions, 2
        in three; everywhere among up to 512 voxels, and in one dimension, where the order of voxels
        says nothing. Infinity: everywhere.
    neighbours : int, optional
        Of ``"temporal"`` and ``"spatial"``: how many nearest neighbours are kept, with weights of
        1, as the paper suggests for larger images. Default: all with their Gaussian weights up to
        1,024 voxels, else 16.
    spacing : tuple of float, optional
        Size of a voxel along each axis, in any unit; cubic where left out.
    scaled : bool
        Measure differences of parameters by what the data say of them, the information matrix of
        each voxel, so that the strength has no unit and no parameter dominates. False: in 1/s, s
        and as fractions, the same for all, as in the paper.
    folds : int
        Groups of frames left out in turn for ``"auto"``.
    seed : int
        Of the voxels chosen for ``"auto"`` and of the draws behind standard errors.
    """

    similarity: str | Any = "graph"
    strength: float | Literal["auto"] = "auto"
    radius: float | None = None
    neighbours: int | None = None
    spacing: tuple[float, ...] | None = None
    scaled: bool = True
    folds: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.similarity, str) and self.similarity not in SIMILARITIES:
            raise KetyError(
                f"unknown similarity {self.similarity!r}; valid: {', '.join(SIMILARITIES)}, or a "
                "symmetric matrix of weights"
            )
        if self.strength != "auto" and not _not_negative(self.strength):
            raise KetyError(
                f"strength must be 'auto' or a number of at least 0, found {self.strength!r}"
            )
        if self.radius is not None and not (_not_negative(self.radius) and self.radius >= 1):
            raise KetyError(f"radius must be at least 1 voxel, found {self.radius!r}")
        if self.neighbours is not None and not (
            isinstance(self.neighbours, int) and self.neighbours >= 1
        ):
            raise KetyError(f"neighbours must be a whole number >= 1, found {self.neighbours!r}")
        named = self.similarity if isinstance(self.similarity, str) else "matrix"
        if self.neighbours is not None and named not in ("temporal", "spatial"):
            raise KetyError(
                "neighbours are counted for the similarities temporal and spatial; graph takes "
                "all within its radius that agree"
            )
        if self.spacing is not None and not _lengths(self.spacing):
            raise KetyError(f"spacing must be lengths above 0, found {self.spacing!r}")
        if not isinstance(self.folds, int) or self.folds < 2:
            raise KetyError(f"folds must be a whole number of at least 2, found {self.folds!r}")
        if not isinstance(self.seed, int) or self.seed < 0:
            raise KetyError(f"seed must be a whole number of at least 0, found {self.seed!r}")


def _lengths(values: Any) -> bool:
    try:
        sizes = np.atleast_1d(np.asarray(values, dtype=np.float64))
    except (TypeError, ValueError):
        return False
    return sizes.ndim == 1 and sizes.size > 0 and bool((np.isfinite(sizes) & (sizes > 0)).all())


def _not_negative(value: Any) -> bool:
    try:
        return float(value) >= 0.0
    except (TypeError, ValueError):
        return False


def get_joint(value: str | Joint | None) -> Joint | None:
    """The options that a name stands for; records pass through, None is voxelwise.

    Raises
    ------
    KetyError
        For anything else.
    """
    if value is None or isinstance(value, Joint):
        return value
    if isinstance(value, str):
        return Joint(value)
    raise KetyError(
        f"joint must be None, kety.Joint(...) or one of {', '.join(SIMILARITIES)}, found {value!r}"
    )
