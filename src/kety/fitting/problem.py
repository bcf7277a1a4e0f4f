"""A fit to be done: model, input, frames, bounds and weights, checked and in kernel units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError
from kety.fitting.forward import as_numbers, check_coverage, checked_times
from kety.models import ROLES, Model, OdeModel, Parameter, get_model

if TYPE_CHECKING:
    from kety.fitting.cuda import Card
    from kety.inputs import InputFunction

C0 = Parameter(
    "c0", "unit of the curves", "initial tissue concentration", "", None, (0.0, 1.0), per=None
)
"""What the tissue holds at the first frame; its default upper bound is the input's peak."""
NOISE_EXPLAINED = 7.0
"""F ratio below which a curve counts as not enhancing (see `Problem.enhancement_threshold`)."""


@dataclass(frozen=True)
class Problem:
    """What all voxels of a fit share.

    Attributes
    ----------
    model : Model
    aif : InputFunction
        Arterial input.
    times : (T,) array
        Frame times, s.
    bounds : mapping of str to (float, float)
        Bounds of every free parameter in its public unit; equal bounds fix it.
    weights : (T,) array or None
        Weights of the squared residuals.
    dtype : numpy dtype
        float32 or float64.
    threads : int
    amplitudes_bounded : bool
        An amplitude is bounded tightly, so the search for the start must respect it too.
    find_enhancing : bool
        Voxels that the model explains no better than noise are marked instead of fitted.
    baseline : bool
        A constant of every voxel is fitted along.
    portal : InputFunction or None
        The portal vein's input, of a model with two.
    initial : bool
        The tissue holds contrast agent at the first frame: the parameter ``c0``.
    as_terms : bool
        Use the solver of several terms although the model is one.
    card : Card or None
        The NVIDIA card that computes; the processor where None.
    """

    model: Model
    aif: InputFunction
    times: NDArray[np.float64]
    bounds: Mapping[str, tuple[float, float]]
    weights: NDArray[np.float64] | None
    dtype: np.dtype[Any]
    threads: int
    amplitudes_bounded: bool
    find_enhancing: bool
    baseline: bool = False
    portal: InputFunction | None = None
    initial: bool = False
    as_terms: bool = False
    card: Card | None = None

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The model's parameters, and the initial concentration where it is one of the fit."""
        return (*self.model.parameters, *((C0,) if self.initial else ()))

    @property
    def inputs(self) -> tuple[InputFunction, ...]:
        """The arterial input and, where the model has one, the portal."""
        return (self.aif,) if self.portal is None else (self.aif, self.portal)

    @property
    def by_ode(self) -> bool:
        """Whether the model is one of differential equations."""
        return isinstance(self.model, OdeModel)

    @property
    def by_terms(self) -> bool:
        """Whether the solver's quantities are ``parameters`` in their order, as of models of
        several terms and of differential equations; otherwise they are v, a, k and tau."""
        return self.model.terms is not None or self.initial or self.as_terms or self.by_ode

    @property
    def size(self) -> int:
        """Number of the solver's quantities."""
        return len(self.parameters) if self.by_terms else len(ROLES)

    @property
    def scale(self) -> float:
        """Power of two of the order of the input, by which inputs and curves are divided."""
        return power_of_two(max(float(np.abs(i.concentration).max()) for i in self.inputs))

    def slot(self, name: str) -> int:
        """Place of a parameter among the solver's quantities."""
        if self.by_terms:
            return next(i for i, p in enumerate(self.parameters) if p.name == name)
        role = self.model.parameter(name).role
        assert role is not None
        return ROLES.index(role)

    def factor(self, p: Parameter) -> float:
        """The solver's quantity = factor x parameter."""
        return 1.0 / self.scale if p is C0 else p.kernel_factor(self.aif)

    def kernel_bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lower and upper bounds on the solver's quantities; absent ones are fixed at 0."""
        lo, hi = np.zeros(self.size), np.zeros(self.size)
        for p in self.parameters:
            slot, factor = self.slot(p.name), self.factor(p)
            lo[slot], hi[slot] = (b * factor for b in self.bounds[p.name])
        return lo, hi

    def spans(self) -> NDArray[np.float64]:
        """Errors of the solver's quantities from which on the data say nothing of them.

        Half the range that the model allows by default, so that tight bounds take nothing away, for
        what is known by its reciprocal (it needs itself): such a parameter may end at its upper
        bound and have no error of its own there. Infinite for the others.
        """
        spans = np.full(self.size, np.inf)
        for p in self.parameters:
            lo, hi = p.bounds
            if hi > lo and (p.name,) in p.needs:
                spans[self.slot(p.name)] = 0.5 * (hi - lo) * self.factor(p)
        return spans

    @property
    def free_count(self) -> int:
        """Number of parameters that are not fixed."""
        return sum(hi > lo for lo, hi in self.bounds.values())

    def enhancement_threshold(self, frames: int | None = None) -> float:
        """Ratio of explained to residual sum of squares below which a voxel does not enhance.

        The F ratio of the best model curve against none, from that many frames (all where None);
        its threshold is high since that curve is the best of many. 0 where every voxel is to be
        fitted.
        """
        if not self.find_enhancing:
            return 0.0
        free = self.free_count + self.baseline
        return NOISE_EXPLAINED * free / max((frames or len(self.times)) - free, 1)


def make_problem(
    times: ArrayLike,
    aif: InputFunction,
    model: str | Model,
    *,
    delay: bool | float,
    bounds: Mapping[str, tuple[float, float]] | None,
    weights: ArrayLike | None,
    dtype: str,
    threads: int,
    find_enhancing: bool,
    baseline: bool = False,
    portal: InputFunction | None = None,
    initial: bool | float = False,
) -> Problem:
    """Check the arguments of a fit and gather them (see `kety.fit` for their meaning)."""
    from kety.inputs import InputFunction

    record = get_model(model)
    if not isinstance(aif, InputFunction):
        raise KetyError(
            f"aif must be a kety.InputFunction, found {type(aif).__name__}; "
            "make one with kety.InputFunction(times, concentration, hematocrit=..., site=...)"
        )
    check_portal(record, portal)
    t = checked_times(times)
    if dtype not in ("float32", "float64"):
        raise KetyError(f"dtype must be 'float32' or 'float64', found {dtype!r}")
    chosen = {p.name: p.bounds for p in record.parameters}
    with_initial = initial is not False and initial is not None
    if with_initial:
        if isinstance(record, OdeModel):
            raise KetyError(
                f"{record.name} says itself how it starts; make what it starts from a parameter of "
                "its initial function in place of initial=..."
            )
        chosen["c0"] = _initial_bounds(initial, aif)
    if bounds is not None and not isinstance(bounds, Mapping):
        raise KetyError(
            f"bounds must map parameters to (lower, upper), found {type(bounds).__name__}"
        )
    given = dict(bounds or {})
    derived = {d.name: d.of for d in record.derived}
    for name, pair in given.items():
        if name in derived:
            raise KetyError(
                f"{name} is derived from {' and '.join(derived[name])} and cannot be bounded; "
                f"bounds can be given for {', '.join(record.names)}"
            )
        if name not in chosen:
            raise KetyError(
                f"bounds for unknown parameter {name!r}; "
                f"{record.name} has {', '.join(record.names)}"
            )
        chosen[name] = _checked_bounds(name, pair, record)
    for p in record.parameters:
        lo, hi = chosen[p.name]
        if p.is_delay:
            continue
        if hi < p.least:
            raise KetyError(
                f"{record.name} is defined for {p.name} from {p.least:g} {p.unit} on, found bounds "
                f"({lo:g}, {hi:g})"
            )
        chosen[p.name] = (max(lo, p.least), hi)
    if isinstance(delay, bool | np.bool_):
        at = None if delay else 0.0
    else:
        at = _number("delay", delay, "True, False or a number of s")
    if at is not None:
        if not np.isfinite(at):
            raise KetyError(f"delay must be True, False or a number of s, found {delay!r}")
        shifts = [p.name for p in record.parameters if p.is_delay]
        bounded = [name for name in shifts if name in given]
        if bounded:
            raise KetyError(
                f"delay={delay!r} fixes the delay, but bounds for {bounded[0]} are given too"
            )
        if at and not shifts:
            raise KetyError(f"{record.name} has no parameter delay, found delay={delay!r}")
        chosen |= dict.fromkeys(shifts, (at, at))
    free = sum(hi > lo for lo, hi in chosen.values()) + bool(baseline)
    w = _checked_weights(weights, len(t))
    used = len(t) if w is None else int((w > 0).sum())
    if used < free + 1:
        raise KetyError(
            f"{used} frames{'' if w is None else ' of weight above 0'} cannot determine the "
            f"{free} free parameters of {record.name}; "
            f"at least {free + 1} frames are needed"
        )
    least, _ = chosen.get("delay", (0.0, 0.0))
    check_coverage(aif, t, float(t[-1] - max(least, 0.0)))
    if portal is not None:
        second, _ = chosen.get("delay_portal", (0.0, 0.0))
        check_coverage(portal, t, float(t[-1] - max(second, 0.0)))
    if aif.times[0] + least >= t[-1]:
        raise KetyError(
            f"the input function begins at {aif.times[0]:g} s and the delay is at least "
            f"{least:g} s, so no frame up to {t[-1]:g} s can see it; check the times "
            "of input and series"
        )
    return Problem(
        record,
        aif,
        t,
        chosen,
        w,
        np.dtype(dtype),
        threads,
        # Wide bounds, like the default ones, hardly ever decide which start is best.
        any(
            p.role in ("v", "a") and (chosen[p.name][0] > 0 or chosen[p.name][1] < p.bounds[1] / 3)
            for p in record.parameters
        ),
        find_enhancing,
        baseline,
        portal,
        with_initial,
    )


def power_of_two(x: float) -> float:
    """The nearest power of two."""
    return float(2.0 ** np.round(np.log2(x)))


def check_portal(model: Model, portal: Any) -> None:
    """Refuse a portal input that the model has no use for, and a model that lacks its own."""
    from kety.inputs import InputFunction

    if model.inputs == 2 and not isinstance(portal, InputFunction):
        raise KetyError(
            f"{model.name} needs the portal vein's input beside the artery's; give "
            "portal=kety.InputFunction(...)"
        )
    if model.inputs == 1 and portal is not None:
        raise KetyError(f"{model.name} has one input, but a portal input is given; leave it out")


def _initial_bounds(initial: bool | float, aif: InputFunction) -> tuple[float, float]:
    if isinstance(initial, bool | np.bool_):
        return 0.0, float(np.abs(aif.concentration).max())
    at = _number("initial", initial, "True, False or a concentration in the unit of the curves")
    if not np.isfinite(at) or at < 0:
        raise KetyError(f"initial must be a concentration from 0 on, found {initial!r}")
    return at, at


def _number(name: str, value: Any, expected: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise KetyError(f"{name} must be {expected}, found {value!r}") from None


def _checked_bounds(name: str, pair: tuple[float, float], model: Model) -> tuple[float, float]:
    try:
        lo, hi = (float(b) for b in pair)
    except (TypeError, ValueError):
        raise KetyError(f"bounds of {name} must be (lower, upper), found {pair!r}") from None
    unit = C0.unit if name == "c0" else model.parameter(name).unit
    if not (np.isfinite(lo) and np.isfinite(hi)):
        raise KetyError(f"bounds of {name} must be finite, found ({lo:g}, {hi:g}) {unit}")
    if lo > hi:
        raise KetyError(f"lower bound of {name} exceeds the upper: ({lo:g}, {hi:g}) {unit}")
    parameter = None if name == "c0" else model.parameter(name)
    if lo < 0 and not (parameter and (parameter.is_delay or parameter.least < 0)):
        raise KetyError(f"{name} cannot be negative, found lower bound {lo:g} {unit}")
    return lo, hi


def _checked_weights(weights: ArrayLike | None, frames: int) -> NDArray[np.float64] | None:
    if weights is None:
        return None
    w = as_numbers("weights", weights)
    if w.shape != (frames,):
        raise KetyError(
            f"weights must be one number for each of the {frames} frames, found shape {w.shape}"
        )
    if not np.isfinite(w).all() or (w < 0).any() or not (w > 0).any():
        raise KetyError("weights must be finite and not negative, with at least one above 0")
    return w
