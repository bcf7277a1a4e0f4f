"""Slices by the times at which they were acquired."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError

SAME_S: Final = 1e-6
"""Times closer than this are equal."""


@dataclass(frozen=True, eq=False)
class Slices:
    """Slices that were acquired together.

    Attributes
    ----------
    times
        (T,) s.
    index
        Which slices: a slice object where they are evenly spaced, else (n,) numbers.
    """

    times: NDArray[np.float64]
    index: Any

    def key(self, trailing: int = 0) -> Any:
        """Index of their part of an image (..., Z) with so many axes after that of the slices."""
        return (..., self.index, *(slice(None),) * trailing)


def slice_groups(slice_times: ArrayLike) -> tuple[Slices, ...]:
    """Slices by their times, those of the first slice first.

    Parameters
    ----------
    slice_times
        (Z, T) in s.

    Raises
    ------
    KetyError
        If they are not such a table.
    """
    table = np.asarray(slice_times, dtype=np.float64)
    if table.ndim != 2 or not table.size:
        raise KetyError(
            f"times of shape {table.shape}; expected (T,), or (Z, T) with a row for each slice"
        )
    rounded = np.rint(table / SAME_S)
    _, first, group = np.unique(rounded, axis=0, return_index=True, return_inverse=True)
    group = group.reshape(-1)
    order = np.argsort(first)
    return tuple(Slices(table[first[g]], _index(np.flatnonzero(group == g))) for g in order)


def _index(slices: NDArray[np.intp]) -> Any:
    """A slice object, whose part of an image needs no copy, where one says the same."""
    steps = np.unique(np.diff(slices))
    if steps.size > 1:
        return slices
    step = int(steps[0]) if steps.size else 1
    return slice(int(slices[0]), int(slices[-1]) + 1, step)
