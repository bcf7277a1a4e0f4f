"""What a compartment model is: named parameters and the kernel quantities they stand for.

The kernel knows one curve, ``v c(t - tau) + a int c(u - tau) exp(-k (t - u)) du`` with ``v`` a
fraction, ``a`` and ``k`` in 1/s and ``tau`` in s. A model says which of these its parameters are
and by what factor, so a new model of this form needs no C++.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from kety.units import SECONDS_PER_MINUTE

if TYPE_CHECKING:
    from kety.inputs import InputFunction

Role = Literal["v", "a", "k", "tau"]
ROLES: tuple[Role, ...] = ("v", "a", "k", "tau")
"""The kernel quantities, in the order in which the C++ core holds them."""

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Parameter:
    """A free parameter of a model.

    Attributes
    ----------
    name : str
        Name of its map, e.g. ``"ktrans"``.
    unit, long_name, osipi : str
        Public unit, words for a legend, and OSIPI CAPLEX code.
    role : {"v", "a", "k", "tau"}
        The kernel quantity that it stands for.
    bounds : tuple of float
        Default lower and upper bound, in the public unit.
    per : {"blood", "plasma"}
        The input to whose concentration an amplitude refers: ``vb`` multiplies blood, ``ktrans``
        plasma. Ignored for rates and delays.
    """

    name: str
    unit: str
    long_name: str
    osipi: str
    role: Role
    bounds: tuple[float, float]
    per: Literal["blood", "plasma"] = "blood"

    def kernel_factor(self, aif: InputFunction) -> float:
        """Kernel quantity = factor x parameter, for an input as measured (``aif.site``)."""
        factor = 1.0 / SECONDS_PER_MINUTE if self.role in ("a", "k") else 1.0
        if self.role in ("v", "a") and self.per != aif.site:
            plasma_fraction = 1.0 - aif.hematocrit
            # Cp = Cb / (1 - Hct): an amplitude per plasma acts on blood with 1 / (1 - Hct).
            factor *= plasma_fraction if self.per == "blood" else 1.0 / plasma_fraction
        return factor


@dataclass(frozen=True)
class Derived:
    """A quantity computed from a model's parameters, with its error propagated to first order.

    ``value`` and ``gradient`` take the arrays of the parameters named in ``of`` (public units) and
    then the hematocrit; ``gradient`` returns one partial derivative for each.
    """

    name: str
    unit: str
    long_name: str
    osipi: str
    of: tuple[str, ...]
    value: Callable[..., Floats]
    gradient: Callable[..., tuple[Floats, ...]]


@dataclass(frozen=True)
class Model:
    """A compartment model: its free parameters, what derives from them, and its source."""

    name: str
    long_name: str
    osipi: str
    reference: str
    parameters: tuple[Parameter, ...]
    derived: tuple[Derived, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the free parameters."""
        return tuple(p.name for p in self.parameters)

    def parameter(self, name: str) -> Parameter:
        """The free parameter of that name (`KeyError` if there is none)."""
        return next(p for p in self.parameters if p.name == name)

    def kernel_parameters(
        self, values: Mapping[str, Floats], aif: InputFunction, count: int
    ) -> NDArray[np.float64]:
        """Kernel quantities ``(count, 4)`` in the order of `ROLES` from public parameters."""
        kernel = np.zeros((count, len(ROLES)))
        for p in self.parameters:
            kernel[:, ROLES.index(p.role)] = np.asarray(values[p.name]) * p.kernel_factor(aif)
        return kernel
