"""What a compartment model is: named parameters and the terms of the kernel they stand for.

The kernel knows sums of ``v c(t - tau) + a int c(u - tau) exp(-k (t - u)) du`` with ``v`` a
fraction, ``a`` and ``k`` in 1/s and ``tau`` in s. A model of one such term says which of these its
parameters are and by what factor; one of several writes its amplitudes, rates and delays as plain
arithmetic of its parameters (`Model.terms`). Neither needs C++.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from kety.errors import KetyError
from kety.models.trace import Dual, Recorder, Symbol
from kety.units import PER_100ML, SECONDS_PER_MINUTE

if TYPE_CHECKING:
    from kety.inputs import InputFunction
    from kety.models.starts import Recipe

Role = Literal["v", "a", "k", "tau"]
ROLES: tuple[Role, ...] = ("v", "a", "k", "tau")
"""The kernel quantities, in the order in which the C++ core holds them."""

Floats = NDArray[np.floating]

UNIT_FACTORS: Final[Mapping[str, float]] = {
    "1/min": 1.0 / SECONDS_PER_MINUTE,
    "mL/100mL/min": 1.0 / (PER_100ML * SECONDS_PER_MINUTE),
    "mL/mL": 1.0,
    "s": 1.0,
    "1": 1.0,
}
"""What a public unit is in units of s and of fractions."""


def unit_factor(unit: str) -> float:
    """What a public unit is in units of s and of fractions; others than time stay as they are.

    Raises
    ------
    KetyError
        For a time in another unit than s and min.
    """
    if unit in UNIT_FACTORS:
        return UNIT_FACTORS[unit]
    parts = str(unit).split("/")
    if "min" in parts[:-1] or parts == ["min"] or {"h", "ms", "100mL"} & set(parts):
        raise KetyError(
            f"the unit {unit!r} is not known; give times in s, rates per s or min, and fractions"
        )
    return 1.0 / SECONDS_PER_MINUTE if parts[-1] == "min" else 1.0


@dataclass(frozen=True)
class Group:
    """Terms that share an input and a delay.

    Attributes
    ----------
    delay
        s.
    terms : sequence of (amplitude, rate)
        One or two exponentials, 1/s.
    direct
        The factor of the input itself, or None.
    input : int
        0 for the arterial, 1 for the portal input.
    """

    delay: Any
    terms: Sequence[tuple[Any, Any]]
    direct: Any = None
    input: int = 0


@dataclass(frozen=True)
class Terms:
    """A model's curve as terms of the kernel: one or two groups; and, where tissue holds contrast
    agent at the first frame, what a concentration of 1 there leaves: (share, rate) each."""

    groups: Sequence[Group]
    initial: Sequence[tuple[Any, Any]] = ()


@dataclass(frozen=True)
class Parameter:
    """A free parameter of a model.

    Attributes
    ----------
    name : str
        Name of its map, e.g. ``"ktrans"``.
    unit, long_name, osipi : str
        Public unit, words for a legend, and OSIPI CAPLEX code.
    role : {"v", "a", "k", "tau"} or None
        The kernel quantity that it stands for; None in a model of several terms.
    bounds : tuple of float
        Default lower and upper bound, in the public unit.
    per : {"blood", "plasma"} or None
        The input to whose concentration an amplitude refers: ``vb`` multiplies blood, ``ktrans``
        plasma. Ignored for rates and delays; None for what does not scale with the tissue's curve.
    least : float
        Smallest value that the model is defined for; a lower bound below it is raised to it.
    needs : tuple of tuples of str
        What tells of this parameter: of every group of names at least one must be clearly more than
        0, or this one is not determined. A group of which all is fixed asks for nothing. May name
        itself: its reciprocal is what the data know.
    over : tuple of str
        Denominators, in the same way; their interval must not reach 0.
    vanishing : bool
        Nothing but this parameter tells of others: where the data allow 0 it is put there.
    """

    name: str
    unit: str
    long_name: str
    osipi: str
    role: Role | None
    bounds: tuple[float, float]
    per: Literal["blood", "plasma"] | None = "blood"
    least: float = 0.0
    vanishing: bool = False
    needs: tuple[tuple[str, ...], ...] = ()
    over: tuple[str, ...] = ()

    @property
    def is_delay(self) -> bool:
        """Whether it may be negative: a time by which an input is shifted."""
        return self.role == "tau" or (self.role is None and self.name.startswith("delay"))

    def kernel_factor(self, aif: InputFunction) -> float:
        """Kernel quantity = factor x parameter, for an input as measured (``aif.site``)."""
        factor = unit_factor(self.unit)
        scales = self.per is not None and (self.role in ("v", "a") or self.role is None)
        if scales and self.per != aif.site:
            plasma_fraction = 1.0 - aif.hematocrit
            # Cp = Cb / (1 - Hct): an amplitude per plasma acts on blood with 1 / (1 - Hct).
            factor *= plasma_fraction if self.per == "blood" else 1.0 / plasma_fraction
        return factor


@dataclass(frozen=True)
class Derived:
    """A quantity computed from a model's parameters, with its error propagated to first order.

    ``value`` and ``gradient`` take the arrays of the parameters named in ``of`` (public units) and
    then the hematocrit; ``gradient`` returns one partial derivative for each. Left out, it comes
    from ``value``, which must then be plain arithmetic. ``needs`` and ``over`` as of `Parameter`.
    """

    name: str
    unit: str
    long_name: str
    osipi: str
    of: tuple[str, ...]
    value: Callable[..., Floats]
    gradient: Callable[..., tuple[Floats, ...]] | None = None
    needs: tuple[tuple[str, ...], ...] = ()
    over: tuple[str, ...] = ()

    def evaluate(
        self, values: Sequence[Floats], hematocrit: float
    ) -> tuple[Floats, tuple[Floats, ...]]:
        """The quantity and its partial derivatives, NaN where it is not finite."""
        if self.gradient is not None:
            return self.value(*values, hematocrit), self.gradient(*values, hematocrit)
        count = len(values)
        given = [Dual(v, tuple(float(i == j) for j in range(count))) for i, v in enumerate(values)]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            result: Any = self.value(*given, hematocrit)
        shape, dtype = np.shape(values[0]), values[0].dtype
        known = np.isfinite(result.value)
        value = np.where(known, result.value, np.nan).astype(dtype)
        slopes = tuple(
            np.where(known, np.broadcast_to(s, shape), np.nan).astype(dtype) for s in result.slopes
        )
        return value, slopes


Transform = Callable[[Mapping[str, Any], float], dict[str, Any]]


@dataclass(frozen=True)
class Model:
    """A compartment model: its free parameters, what derives from them, and its source.

    Attributes
    ----------
    name, long_name, osipi, reference : str
    parameters : tuple of Parameter
    derived : tuple of Derived
    terms : callable or None
        Of a model of several terms: takes a mapping of its parameters (1/s, fractions, s) to
        symbols or arrays and returns `Terms`.
    inner : pair of callables or None
        Coordinates in which the model's curves are nearly linear, in place of the parameters and
        under their names, and the way back; what a function leaves out stays as it is. Steps of the
        solver are straight in them. Their second argument is 1 where the delay is free and may be
        mixed with others, 0 where it may not.
    starts : Recipe or None
        Where the search for its parameters looks: see `kety.models.starts.Recipe`.
    inputs : int
        2 for a model with an arterial and a portal input.
    profiled : str
        Of a model of several terms: a parameter along which the likelihood is often no parabola.
        Its error, and what others owe to it, is measured on its profile; empty where none is.
    """

    name: str
    long_name: str
    osipi: str
    reference: str
    parameters: tuple[Parameter, ...]
    derived: tuple[Derived, ...] = ()
    terms: Callable[[Mapping[str, Any]], Terms] | None = None
    inner: tuple[Transform, Transform] | None = None
    starts: Recipe | None = None
    inputs: int = 1
    profiled: str = ""

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
        """The solver's quantities from public parameters: ``(count, 4)`` in the order of `ROLES`,
        or those of a model of several terms in its order."""
        columns: tuple[str, ...] = ROLES if self.terms is None else self.names
        kernel = np.zeros((count, len(columns)))
        for p in self.parameters:
            place = columns.index(str(p.role) if self.terms is None else p.name)
            kernel[:, place] = np.asarray(values[p.name]) * p.kernel_factor(aif)
        return kernel

    def all_terms(self, values: Mapping[str, Any]) -> Terms:
        """The terms, also of a model that is one term."""
        if self.terms is not None:
            return self.terms(values)
        by_role = {p.role: values[p.name] for p in self.parameters}
        rate = by_role.get("k", 0.0)
        group = Group(by_role["tau"], ((by_role["a"], rate),), by_role.get("v"))
        return Terms((group,), ((1.0, rate),))


def program_of(model: Model, initial: bool, fixed: Collection[str] = ()) -> dict[str, Any]:
    """The model as the core runs it (`TermsModel` in types.hpp).

    Its registers begin with the parameters, in their order, and then, where ``initial``, the
    concentration at the first frame. Parameters ``fixed`` are not moved.
    """
    shifts = {p.name for p in model.parameters if p.is_delay}
    inner = model.inner if not set(fixed) - {*shifts, "c0"} else None
    shift = 0.0 if shifts & set(fixed) else 1.0
    names = [*model.names, *(("c0",) if initial else ())]
    recorder, symbols = _symbols(names)
    terms = model.all_terms(symbols)
    outputs: list[int] = []

    def output(x: Any) -> int:
        register = recorder.symbol(x).register
        if register not in outputs:
            outputs.append(register)
        return outputs.index(register)

    groups = [
        {
            "input": g.input,
            "delay": output(g.delay),
            "direct": -1 if g.direct is None else output(g.direct),
            "amplitude": [output(a) for a, _ in g.terms],
            "rate": [output(k) for _, k in g.terms],
        }
        for g in terms.groups
    ]
    decays: list[tuple[int, int]] = []
    if initial:
        decays = [(output(symbols["c0"] * share), output(k)) for share, k in terms.initial]
    # A curve jumps along a delay where its input does, and seen through its tissue only bends. The
    # first delay's bends are walls as well.
    jumps = [
        outputs[output(g.delay)]
        for i, g in enumerate(terms.groups)
        if i == 0 or (g.direct is not None and g.input != terms.groups[0].input)
    ]
    return {
        "parameters": len(names),
        "terms": _as_program(recorder, outputs),
        "inner": None if inner is None else _function(inner[0], names, shift),
        "back": None if inner is None else _function(inner[1], names, shift),
        "groups": groups,
        "decay_amplitude": [a for a, _ in decays],
        "decay_rate": [k for _, k in decays],
        "jumps": [along if along < len(names) else -1 for along in jumps],
    }


def _symbols(names: Sequence[str]) -> tuple[Recorder, dict[str, Symbol]]:
    recorder = Recorder(len(names))
    return recorder, {n: Symbol(recorder, i) for i, n in enumerate(names)}


def _as_program(recorder: Recorder, outputs: Sequence[int]) -> dict[str, Any]:
    return {
        "code": [c for step in recorder.steps for c in step],
        "constant": recorder.constants,
        "output": list(outputs),
    }


def recorded(
    f: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> dict[str, Any]:
    """A function of named numbers as the core runs it (`ProgramCall` in types.hpp).

    Raises
    ------
    TypeError
        If it is more than the arithmetic of `kety.models.trace`.
    """
    recorder, symbols = _symbols(inputs)
    made = f(symbols)
    return _as_program(recorder, [recorder.symbol(made[n]).register for n in outputs])


def _function(f: Transform, names: Sequence[str], shift: float) -> dict[str, Any]:
    """A function from as many numbers to as many, by the same names; what it leaves out stays."""
    return recorded(lambda symbols: {**symbols, **f(symbols, shift)}, names, names)
