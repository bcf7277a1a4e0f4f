"""What a fit takes for known and is not, and draws of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from kety.errors import KetyError

if TYPE_CHECKING:
    from kety.inputs import InputFunction

FARTHEST: Final = 4.0
"""Standard deviations beyond which nothing is drawn."""


@dataclass(frozen=True)
class Uncertain:
    """Standard deviations of what a fit takes for known; 0 is known exactly.

    Attributes
    ----------
    hematocrit : float
        Of the hematocrit, e.g. 0.03.
    aif : float
        Of the input's amplitude, relative, e.g. 0.05 for 5 %; of both inputs where there are two.
    aif_noise : float
        Of the noise of every sample of the input, in its unit.
    arrival : float
        Of the input's arrival, s. Only for a fixed delay: a fitted one takes it up whole.
    t10 : float
        Of T1 before contrast agent, relative, the same factor in all voxels (as an error of the
        flip angle makes it).
    t10_voxel : float
        The same, of its own in every voxel (as noise of the T1 map makes it).
    """

    hematocrit: float = 0.0
    aif: float = 0.0
    aif_noise: float = 0.0
    arrival: float = 0.0
    t10: float = 0.0
    t10_voxel: float = 0.0

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if not isinstance(value, int | float) or not 0.0 <= value < np.inf:
                raise KetyError(
                    f"the standard deviation of {f.name} must be a number, at least 0, "
                    f"found {value!r}"
                )
            if f.name in ("aif", "t10", "t10_voxel") and value * FARTHEST >= 1.0:
                raise KetyError(
                    f"the relative standard deviation of {f.name} must be below "
                    f"{1 / FARTHEST:g}, so that draws stay above 0; found {value:g}"
                )
        if not any(getattr(self, f.name) for f in fields(self)):
            names = ", ".join(f.name for f in fields(self))
            raise KetyError(f"nothing is uncertain; give the standard deviation of one of: {names}")

    def in_words(self) -> str:
        """What is uncertain, e.g. ``"hematocrit 0.03, aif 5 %"``."""
        relative = ("aif", "t10", "t10_voxel")
        given = ((f.name, getattr(self, f.name)) for f in fields(self))
        return ", ".join(
            f"{name} {100 * sd:g} %" if name in relative else f"{name} {sd:g}"
            for name, sd in given
            if sd
        )


def uncertain_of(given: Uncertain | Mapping[str, float] | None) -> Uncertain:
    """The record of standard deviations by name; `KetyError` for names that it does not have."""
    if isinstance(given, Uncertain):
        return given
    names = [f.name for f in fields(Uncertain)]
    unknown = sorted(set(given or {}) - set(names))
    if unknown:
        raise KetyError(
            f"unknown uncertain {', '.join(unknown)}; what can be uncertain is {', '.join(names)}"
        )
    return Uncertain(**dict(given or {}))


@dataclass(frozen=True)
class Scenario:
    """One draw: the inputs, the shift of their arrival (s), the factor of T10, what comes next."""

    aif: InputFunction
    portal: InputFunction | None
    arrival: float
    t10: float
    random: np.random.Generator


def scenarios(
    uncertain: Uncertain,
    aif: InputFunction,
    draws: int,
    seed: int,
    portal: InputFunction | None = None,
) -> list[Scenario]:
    """Draws of the inputs, arrival and T10."""
    from scipy.special import ndtri

    random = np.random.default_rng([seed, 0])
    causes = ("hematocrit", "aif", "arrival", "t10")
    normal = {}
    for cause in causes:  # all are drawn, so that one's numbers do not depend on the others
        places = (random.permutation(draws) + random.random(draws)) / draws
        drawn = np.clip(ndtri(places), -FARTHEST, FARTHEST)
        normal[cause] = drawn * getattr(uncertain, cause)
    drawn_ones = []
    for i in range(draws):
        own = np.random.default_rng([seed, 1, i])
        changed = [
            replace(
                one,
                concentration=one.concentration * (1.0 + normal["aif"][i])
                + own.standard_normal(one.times.size) * uncertain.aif_noise,
                hematocrit=one.hematocrit + float(normal["hematocrit"][i]),
            )
            for one in (aif, portal)
            if one is not None
        ]
        drawn_ones.append(
            Scenario(
                changed[0],
                changed[1] if portal is not None else None,
                float(normal["arrival"][i]),
                1.0 + float(normal["t10"][i]),
                own,
            )
        )
    return drawn_ones
