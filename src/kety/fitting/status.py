"""What became of each voxel: one small enumeration and a sentence for each value."""

from __future__ import annotations

import enum
from typing import Final


class Status(enum.IntEnum):
    """Outcome of one voxel's fit, stored in the ``status`` map (CF ``flag_values``)."""

    OUTSIDE = 0
    CONVERGED = 1
    AT_BOUND = 2
    ITERATION_LIMIT = 3
    NOT_ENHANCING = 4
    NOT_FINITE = 5
    NOT_IDENTIFIABLE = 6

    @property
    def meaning(self) -> str:
        """The CF ``flag_meanings`` word, e.g. ``at_bound``."""
        return self.name.lower()


SENTENCES: Final[dict[Status, str]] = {
    Status.OUTSIDE: "The voxel lies outside the mask and was not fitted.",
    Status.CONVERGED: "The fit converged inside the bounds.",
    Status.AT_BOUND: "The fit converged with at least one parameter at its bound; "
    "that parameter has no standard error.",
    Status.ITERATION_LIMIT: "The iteration limit was reached before the fit converged.",
    Status.NOT_ENHANCING: "The curve does not enhance beyond its noise; nothing was estimated.",
    Status.NOT_FINITE: "The curve holds NaN or infinite samples; nothing was estimated.",
    Status.NOT_IDENTIFIABLE: "The curve does not determine every parameter: what nothing "
    "speaks for is NaN, or an error is too large to tell a parameter from 0 or from anything "
    "larger.",
}

FITTED: Final[tuple[Status, ...]] = (
    Status.CONVERGED,
    Status.AT_BOUND,
    Status.ITERATION_LIMIT,
    Status.NOT_IDENTIFIABLE,
)
"""Statuses whose maps hold values."""
