"""How far two vessel masks, and the curves they give, agree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from kety.errors import KetyError
from kety.inputs.function import InputFunction


@dataclass(frozen=True)
class MaskAgreement:
    """An input that was found against one of a mask drawn by hand.

    Attributes
    ----------
    dice
        Twice the shared voxels over the sum of both masks, 0 to 1.
    inside
        Share of the found voxels that lie in the drawn mask.
    voxels
        Number found, drawn and shared.
    peak_ratio, area_ratio
        Found over drawn: largest value, and area over the times of both.
    rms
        Root mean square difference of the curves, over the drawn one's peak.
    """

    dice: float
    inside: float
    voxels: tuple[int, int, int]
    peak_ratio: float
    area_ratio: float
    rms: float

    @property
    def words(self) -> str:
        """One line of all."""
        found, drawn, shared = self.voxels
        return (
            f"{shared:,} of {found:,} voxels lie in the drawn mask of {drawn:,} (Dice "
            f"{self.dice:.2f}); peak {self.peak_ratio:.3f} and area {self.area_ratio:.3f} of the "
            f"drawn one's, curves {100 * self.rms:.1f} % of the peak apart (RMS)"
        )


def compare_masks(
    found: ArrayLike, drawn: ArrayLike, found_curve: InputFunction, drawn_curve: InputFunction
) -> MaskAgreement:
    """Compare a vessel mask and its curve with those drawn by hand.

    Parameters
    ----------
    found, drawn : array_like of bool, one shape
        Vessel masks.
    found_curve, drawn_curve
        Their mean curves, in one unit and site.

    Raises
    ------
    KetyError
        If the shapes differ, a mask is empty, the sites differ, or the curves share no time.
    """
    first, second = np.asarray(found) != 0, np.asarray(drawn) != 0
    if first.shape != second.shape:
        raise KetyError(
            f"the masks have the shapes {first.shape} and {second.shape}; draw both on one grid"
        )
    if not first.any() or not second.any():
        raise KetyError("one of the masks is empty; both must hold a voxel")
    if found_curve.site != drawn_curve.site:
        raise KetyError(
            f"one curve is of {found_curve.site}, the other of {drawn_curve.site}; convert one"
        )
    start = max(found_curve.times[0], drawn_curve.times[0])
    end = min(found_curve.times[-1], drawn_curve.times[-1])
    times = np.union1d(found_curve.times, drawn_curve.times)
    times = times[(times >= start) & (times <= end)]
    if times.size < 2:
        raise KetyError("the two curves have no stretch of time in common")
    a, b = found_curve(times), drawn_curve(times)
    shared = int(np.count_nonzero(first & second))
    sizes = int(first.sum()), int(second.sum())
    return MaskAgreement(
        2.0 * shared / sum(sizes),
        shared / sizes[0],
        (*sizes, shared),
        float(a.max() / b.max()),
        float(np.trapezoid(a, times) / np.trapezoid(b, times)),
        float(np.sqrt(np.mean((a - b) ** 2)) / b.max()),
    )
