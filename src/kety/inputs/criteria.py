"""What makes a cluster of voxels an artery: measurable limits, each with its words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kety.inputs.bolus import Bolus

HIGH: Final = 2.0
"""Least peak over that of the mean tissue."""
ABOVE_NOISE: Final = 8.0
"""Least peak over the noise of the mean curve."""
CLEAR: Final = 6.0
"""Least first pass of a single voxel over its noise. Voxels are looked at from 4 on, so of a weaker
cluster only those are seen whose noise makes them high and narrow."""
WIDEST: Final = 60.0
"""Largest full width at half maximum, s."""
LOPSIDED: Final = 4.0
"""Largest width over the time from half the peak to the peak. Blood leaves as fast as it came,
whatever the injection (2 to 3); tissue that exchanges keeps the agent (6 and more)."""
ROUGH: Final = 0.10
"""Largest roughness over the peak; see `kety.inputs.bolus.Bolus`."""
AGREE: Final = 0.7
"""Least mean correlation of the voxels with their mean."""
FEWEST: Final = 4
BRIEFEST: Final = 3.0
"""Least width, s: a brighter frame that is alone in a series is no bolus."""
STILL: Final = 0.5
"""Largest median displacement of the frames over the radius of the vessel; 1 voxel is allowed."""
_ENOUGH: Final = 12
_ORGAN: Final = 0.3
_RIVAL: Final = 5.0
_RIVAL_SIZE: Final = 10


@dataclass(frozen=True)
class Criterion:
    """One criterion: whether it is met, a score from 0 to 1, and its value in words.

    The words complete a sentence that starts with "it".
    """

    name: str
    passed: bool
    score: float
    words: str


@dataclass(frozen=True)
class Candidate:
    """A cluster of voxels that was considered.

    Attributes
    ----------
    voxels
        (N, 3) indices of those that are averaged.
    members
        Number of voxels in the cluster, those at its edge included.
    curve
        (T,) their mean enhancement, in the unit of the input.
    bolus
        Shape of its first pass.
    criteria
        What it was judged by.
    score
        Product of the criteria's scores, 0 to 1.
    """

    voxels: NDArray[np.intp]
    members: int
    curve: NDArray[np.float64]
    bolus: Bolus
    criteria: tuple[Criterion, ...]
    score: float

    @property
    def lacking(self) -> tuple[Criterion, ...]:
        """The criteria that are not met."""
        return tuple(criterion for criterion in self.criteria if not criterion.passed)

    @property
    def passed(self) -> bool:
        """Whether every criterion is met."""
        return not self.lacking

    @property
    def centre(self) -> tuple[int, int, int]:
        """The voxel of the cluster nearest to its middle."""
        middle = self.voxels.mean(axis=0)
        x, y, z = self.voxels[np.argmin(np.sum((self.voxels - middle) ** 2, axis=1))].tolist()
        return x, y, z


def judge(
    bolus: Bolus,
    tissue: Bolus,
    times: NDArray[np.float64],
    voxels: int,
    agreement: float,
    noise: float,
    clear: float,
    still: tuple[float, float],
    others: Sequence[tuple[Bolus, int]],
) -> tuple[Criterion, ...]:
    """Judge the mean curve of a cluster.

    Parameters
    ----------
    bolus, tissue
        Of the cluster, and of the mean tissue (a peak of 0 where none enhances).
    times
        Frame times in s.
    voxels
        Number that are averaged.
    agreement
        Mean correlation of the voxels with the cluster's curve.
    noise
        Standard deviation of the mean curve.
    clear
        Median over the voxels of the first pass above what follows it, over the voxel's noise.
    still
        Median displacement of the frames, and the radius of the cluster in the plane, voxels.
    others
        Of all clusters, this one included, with their numbers of voxels; scores are relative to
        the best of them.
    """
    step = step_of(times, bolus.peak_time)
    boluses = [other for other, _ in others]
    organs = [
        other.rise_time
        for other, size in others
        if other is not bolus
        and size > FEWEST
        and other.peak > _ORGAN * bolus.peak
        and _keeps(other, step)
    ]
    return (
        _high(bolus, tissue, noise, boluses),
        _early(bolus, tissue, step, boluses, organs),
        _narrow(bolus, step, boluses),
        _smooth(bolus),
        _still(*still),
        Criterion(
            "clear",
            clear >= CLEAR,
            min(1.0, 0.5 * clear / CLEAR),
            f"shows a first pass of {clear:.1f} times the noise in a voxel (at least {CLEAR:g})",
        ),
        Criterion(
            "agreeing",
            agreement >= AGREE,
            float(np.clip(agreement, 0.0, 1.0)),
            f"has voxels that correlate by {agreement:.2f} with their mean (at least {AGREE:g})",
        ),
        Criterion(
            "large",
            voxels >= FEWEST,
            min(1.0, voxels / _ENOUGH),
            f"has {voxels:,} voxels (at least {FEWEST})",
        ),
    )


def _high(bolus: Bolus, tissue: Bolus, noise: float, others: Sequence[Bolus]) -> Criterion:
    best = max(other.peak for other in others)
    score = max(bolus.peak / best, 0.0) if best > 0.0 else 0.0
    sure = bolus.peak > ABOVE_NOISE * noise
    if not sure:
        words = f"peaks at {bolus.peak / max(noise, 1e-30):.1f} times its noise"
        return Criterion("high", False, score, f"{words} (at least {ABOVE_NOISE:g})")
    if tissue.peak <= 0.0:
        return Criterion("high", True, score, f"peaks at {bolus.peak:.3g}, and no tissue enhances")
    ratio = bolus.peak / tissue.peak
    words = f"peaks at {bolus.peak:.3g}, {ratio:.1f} times the mean of the tissue (at least "
    return Criterion("high", ratio >= HIGH, score, f"{words}{HIGH:g})")


def _early(
    bolus: Bolus,
    tissue: Bolus,
    step: float,
    others: Sequence[Bolus],
    organs: Sequence[float],
) -> Criterion:
    first = min(other.rise_time for other in others)
    score = float(np.exp(-(bolus.rise_time - first) / max(2.0 * step, 5.0)))
    words = f"reaches half its peak at {bolus.rise_time:.1f} s"
    later = {"the mean of the tissue": tissue.rise_time} if tissue.peak > 0.0 else {}
    if organs:
        # What it feeds cannot rise before it: else it is a part of an organ itself.
        later["the first cluster that keeps its agent"] = min(organs)
    if not later:
        return Criterion("early", True, score, f"{words}, and no tissue enhances")
    nearest = min(later, key=lambda name: later[name])
    lead = later[nearest] - bolus.rise_time
    said = f"{abs(lead):.1f} s {'before' if lead > 0.0 else 'after'} {nearest}"
    return Criterion("early", lead > 0.0, score, f"{words}, {said} (before it)")


def _narrow(bolus: Bolus, step: float, others: Sequence[Bolus]) -> Criterion:
    if not np.isfinite(bolus.width):
        words = f"does not fall to half its peak within the series (within {WIDEST:g} s)"
        return Criterion("narrow", False, 0.0, words)
    ratio = lopsided(bolus, step)
    narrowest = min(other.width for other in others)
    words = (
        f"is {bolus.width:.1f} s wide at half its peak, {ratio:.1f} times its rise from there "
        f"({BRIEFEST:g} to {WIDEST:g} s, at most {LOPSIDED:g} times)"
    )
    return Criterion("narrow", _is_narrow(bolus, step), min(1.0, narrowest / bolus.width), words)


def _smooth(bolus: Bolus) -> Criterion:
    words = f"jumps by {100 * bolus.roughness:.1f} % of its peak from frame to frame"
    score = float(np.exp(-bolus.roughness / ROUGH))
    return Criterion(
        "smooth", bolus.roughness <= ROUGH, score, f"{words} (at most {100 * ROUGH:g} %)"
    )


def _still(moved: float, radius: float) -> Criterion:
    most = max(1.0, STILL * radius)
    words = f"lies in frames that are displaced by {moved:.1f} voxels (median, at most {most:.1f})"
    return Criterion("still", moved <= most, min(1.0, most / max(moved, 1e-30)), words)


def _is_narrow(bolus: Bolus, step: float) -> bool:
    return bolus.width >= BRIEFEST and not _keeps(bolus, step)


def _keeps(bolus: Bolus, step: float) -> bool:
    """Whether agent stays longer than a bolus takes to pass."""
    return bolus.width > max(WIDEST, 3.0 * step) or lopsided(bolus, step) > LOPSIDED


def lopsided(bolus: Bolus, step: float) -> float:
    """Width over rise; the rise cannot be told better than the frames are apart."""
    return bolus.width / max(bolus.rise, step)


def step_of(times: NDArray[np.float64], around: float) -> float:
    """Distance of the frames around a time, s."""
    frame = int(np.clip(np.searchsorted(times, around), 1, times.size - 1))
    return float(times[frame] - times[frame - 1])


def overall(criteria: Sequence[Criterion]) -> float:
    """Product of the scores."""
    return float(np.prod([criterion.score for criterion in criteria]))


def rivals(chosen: Bolus, others: Sequence[tuple[Bolus, int]]) -> Iterator[str]:
    """Say where another vessel of the series enhances at another time."""
    for other, size in others:
        apart = other.rise_time - chosen.rise_time
        if abs(apart) > _RIVAL and other.peak > 0.5 * chosen.peak and size >= _RIVAL_SIZE:
            yield (
                f"another vessel enhances {abs(apart):.1f} s {'later' if apart > 0 else 'earlier'} "
                "and could be the artery as well, as the right heart and the lung's arteries do "
                "before the aorta; look at the vessel mask"
            )
            return
