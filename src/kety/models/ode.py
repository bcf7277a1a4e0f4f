"""A model that its user writes: ordinary differential equations in plain Python.

    dy/dt = f(t, y, p, c(t - tau)),    y(t0) = y0(p),    C(t) = h(y, p, c(t - tau)),

with c the concentration in the artery, p the parameters and C the tissue's concentration (Svistoun
et al., Tomography 5:209, 2019, begin from such equations, doi 10.18383/j.tom.2018.00048). This
module only says what the equations are; `kety.fitting.ode` solves them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from kety.errors import KetyError
from kety.models.base import Derived, Model, Parameter, unit_factor

Rhs = Callable[[Any, Any, Mapping[str, Any], Any], Any]
Observe = Callable[[Any, Mapping[str, Any], Any], Any]
Initial = int | Callable[[Mapping[str, Any]], Any]

MOST_PARAMETERS: Final = 8
"""As many as the map of undetermined parameters has bits."""
TAKEN: Final = frozenset(
    [
        "baseline",
        "c0",
        "chosen",
        "cost",
        "evaluations",
        "fitted",
        "moved",
        "pooled",
        "r2",
        "residual",
        "status",
        "weight",
    ]
)
"""Names of maps that are not parameters."""


@dataclass(frozen=True, init=False, kw_only=True)
class OdeModel(Model):
    """A model given by its differential equations, to be used wherever a model's name is.

    Parameters
    ----------
    rhs : callable ``(t, y, p, c)``
        The derivatives of the n states, in their order: an array, tuple or list. ``t`` is the time
        (s), ``y`` the states as an array (n,), ``p`` maps a parameter's name to its value in s and
        fractions (``p["ktrans"]`` in 1/s, whatever its public unit), and ``c`` is the arterial
        concentration at ``t - p["delay"]``, at ``t`` where there is no such parameter.
    observe : callable ``(y, p, c)``
        The tissue's concentration, one number.
    parameters : sequence of Parameter, or mapping of str to (unit, lower, upper)
        What can be estimated, at most 8, with default bounds in the public unit. A unit that ends
        in ``/min`` reaches the equations per second; others (``s``, ``mL/mL``, ``mM`` ...) as they
        are. ``role`` and ``per`` of a `kety.Parameter` have no meaning here.
    initial : int, or callable ``(p)``
        The number of states, all of them 0 at the start; or their values, an array or tuple.
        The start is the first frame, or the input's first sample (delayed) where that is earlier.
    name, long_name, osipi, reference : str
        For maps and reports.
    derived : sequence of Derived
        Quantities computed from the estimates, with their standard errors.
    site : {"plasma", "blood"}
        Where ``c`` is the concentration. An input that was measured in the other is converted with
        its hematocrit.
    scales : sequence of str
        Parameters that all multiply the curve: twice their values, twice the curve. They need not
        be given; the search for the start is better where they are.
    stiff : bool
        Solve with an implicit method. For rates that differ by factors of thousands, where the
        explicit one says that it needs too many steps.
    inputs : int
        2 for a model with an arterial and a portal input: ``c`` is then the pair of both, and the
        second is delayed by ``p["delay_portal"]``.

    Raises
    ------
    KetyError
        For names that cannot be a map's, units and bounds without meaning, or what is not a
        function.

    Notes
    -----
    The functions are compiled by JAX: they are called with its arrays a few times, not once for
    each voxel. Arithmetic works as always; of other functions take those of ``jax.numpy``
    (``jnp.exp``, ``jnp.where``) in place of NumPy's and of ``if``.
    """

    rhs: Rhs
    observe: Observe
    initial: Initial
    site: Literal["plasma", "blood"]
    scales: tuple[str, ...]
    stiff: bool
    terms: None = field(default=None, init=False)
    inner: None = field(default=None, init=False)
    starts: None = field(default=None, init=False)
    profiled: str = field(default="", init=False)

    def __init__(
        self,
        rhs: Rhs,
        observe: Observe,
        parameters: Sequence[Parameter] | Mapping[str, tuple[str, float, float]],
        initial: Initial,
        *,
        name: str = "ode",
        long_name: str = "",
        osipi: str = "",
        reference: str = "",
        derived: Sequence[Derived] = (),
        site: Literal["plasma", "blood"] = "plasma",
        scales: Sequence[str] = (),
        stiff: bool = False,
        inputs: int = 1,
    ) -> None:
        for what, function in (("rhs", rhs), ("observe", observe)):
            if not callable(function):
                raise KetyError(f"{what} must be a function, found {function!r:.60}")
        if not callable(initial) and (
            not isinstance(initial, int) or isinstance(initial, bool) or initial < 1
        ):
            raise KetyError(
                "initial must be the number of states or a function of the parameters that "
                f"returns their first values, found {initial!r:.60}"
            )
        if site not in ("plasma", "blood"):
            raise KetyError(f"unknown site {site!r}; the valid ones are plasma, blood")
        if inputs not in (1, 2):
            raise KetyError(f"inputs must be 1 or 2 (artery, portal vein), found {inputs!r}")
        record = tuple(_parameters(parameters))
        names = [p.name for p in record]
        _check_names(names, [d.name for d in derived])
        unknown = [n for d in derived for n in d.of if n not in names]
        unknown += [n for n in scales if n not in names]
        if unknown:
            raise KetyError(f"{name} has no parameter {unknown[0]!r}; it has {', '.join(names)}")
        if inputs == 1 and "delay_portal" in names:
            raise KetyError("delay_portal is the delay of a second input; give inputs=2")
        values = {
            "name": name,
            "long_name": long_name or name,
            "osipi": osipi,
            "reference": reference or "differential equations of the user",
            "parameters": record,
            "derived": tuple(derived),
            "inputs": inputs,
            "rhs": rhs,
            "observe": observe,
            "initial": initial,
            "site": site,
            "scales": (scales,) if isinstance(scales, str) else tuple(scales),
            "stiff": bool(stiff),
        }
        for key, value in values.items():
            object.__setattr__(self, key, value)


def _parameters(
    given: Sequence[Parameter] | Mapping[str, tuple[str, float, float]],
) -> list[Parameter]:
    """Records of the parameters; nothing in them depends on where the input was measured."""
    if not isinstance(given, Mapping):
        wrong = [p for p in given if not isinstance(p, Parameter)]
        if wrong:
            raise KetyError(
                "parameters must be kety.Parameter records or a mapping of names to "
                f"(unit, lower, upper), found {wrong[0]!r:.60}"
            )
        records = [replace(p, role=None, per=None) for p in given]
    else:
        records = []
        for name, entry in given.items():
            try:
                unit, lower, upper = entry
                bounds = float(lower), float(upper)
            except (TypeError, ValueError):
                raise KetyError(
                    f"parameter {name!r} must be given as (unit, lower, upper), found {entry!r:.60}"
                ) from None
            words = str(name).replace("_", " ")
            records.append(Parameter(name, unit, words, "", None, bounds, per=None))
            if bounds[0] < 0 and not records[-1].is_delay:
                records[-1] = replace(records[-1], least=-float("inf"))
    if not 1 <= len(records) <= MOST_PARAMETERS:
        raise KetyError(
            f"a model has 1 to {MOST_PARAMETERS} parameters, found {len(records)}; write those "
            "that are known into the equations"
        )
    for p in records:
        unit_factor(p.unit)
        low, high = p.bounds
        if not (-float("inf") < low <= high < float("inf")):
            raise KetyError(f"bounds of {p.name} must be finite and in order, found {p.bounds}")
    return records


def _check_names(parameters: Sequence[str], derived: Sequence[str]) -> None:
    names = [*parameters, *derived]
    for name in names:
        if not isinstance(name, str) or not name.isidentifier() or name.endswith("_se"):
            raise KetyError(
                f"{name!r} cannot name a map; take letters, digits and _, and no _se at the end"
            )
        if name in TAKEN:
            raise KetyError(
                f"{name!r} is the name of another map; choose another for the parameter"
            )
        if names.count(name) > 1:
            raise KetyError(f"{name!r} is given twice; every parameter needs a name of its own")
