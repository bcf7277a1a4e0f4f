"""Curves of a user's differential equations, and their derivatives, by diffrax on JAX.

A curve is solved from one sample to the next, samples being the frames and, delayed, those of the
input: between them the input is one cubic and everything is smooth, so that a method of high order
keeps its order. Where an input begins, the derivatives of the states jump, and so do their
sensitivities to the delay. Sensitivities are forward automatic differentiation through the solver.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from kety.errors import KetyError, MissingDependencyError
from kety.models.ode import OdeModel

if TYPE_CHECKING:
    from kety.fitting.problem import Problem
    from kety.inputs import InputFunction

Doubles = NDArray[np.float64]

LANES: Final = 64
"""Curves solved side by side; every call is filled up to as many, so that it is compiled once."""
MOST_STEPS: Final = 64
"""Steps between two samples of frames or input after which a curve is given up."""
TOLERANCE: Final = {False: 1e-7, True: 1e-8}
"""Error of a step relative to the states, of the explicit and of the implicit method. Curves then
agree with the exact kernel to 3e-8, their derivatives to 1e-6."""
SMALLEST_STATE: Final = 1e-2
"""States below this part of the input's peak are solved to an absolute error."""


class _Values(dict[str, Any]):
    """Parameters by their names; an unknown one is refused with the names there are."""

    def __missing__(self, name: object) -> Any:
        raise KetyError(
            f"the equations ask for the parameter {name!r}, which the model does not have; "
            f"it has {', '.join(self)}"
        )


def ode_curves(
    problem: Problem, parameters: NDArray[np.floating], jacobian: bool = False
) -> tuple[Doubles, Doubles | None]:
    """Curves (V, T), in the unit of the input, and their slopes (V, T, P) in the parameters.

    Parameters
    ----------
    problem : Problem
        Of an `OdeModel`.
    parameters : (V, P) array
        The solver's quantities: kernel units, in the order of ``problem.parameters``.
    jacobian : bool
        Also return the slopes.

    Returns
    -------
    values : (V, T) array
        NaN for a row whose equations could not be solved, or whose parameters are not finite.
    slopes : (V, T, P) array or None

    Raises
    ------
    MissingDependencyError
        Where diffrax is not installed.
    KetyError
        For equations that do not return what they must.
    """
    model = problem.model
    assert isinstance(model, OdeModel)
    jax, _ = _libraries()
    theta = np.asarray(parameters, dtype=np.float64)
    run = _compiled(model, jacobian)
    given = _given(problem)
    frames, size = len(problem.times), theta.shape[1]
    values = np.full((len(theta), frames), np.nan)
    slopes = np.full((len(theta), frames, size), np.nan) if jacobian else None
    rows = np.flatnonzero(np.isfinite(theta).all(axis=1))
    with jax.enable_x64(True):
        _checked(model)
        # Curves that are solved side by side wait for the slowest: like goes with like.
        if len(rows) > LANES:
            rows = rows[np.argsort(_rates(model, theta[rows]), kind="stable")]

    def solve(first: int) -> None:
        part = rows[first : first + LANES]
        filled = theta[np.resize(part, LANES)]
        # The setting is of the thread: the caller's other work with JAX keeps its precision.
        with jax.enable_x64(True):
            found = run(filled, *given)
        count = len(part)
        good = np.asarray(found[0])[:count]
        with np.errstate(invalid="ignore"):
            values[part] = np.where(good[:, None], np.asarray(found[1])[:count], np.nan)
            if slopes is not None:
                slopes[part] = np.where(good[:, None, None], np.asarray(found[2])[:count], np.nan)

    firsts = range(0, len(rows), LANES)
    if problem.threads == 1 or len(firsts) < 2:
        for first in firsts:
            solve(first)
    else:
        with ThreadPoolExecutor(problem.threads) as pool:
            list(pool.map(solve, firsts))
    return values, slopes


def simulate_ode(
    model: OdeModel,
    values: Mapping[str, NDArray[np.floating]],
    times: Doubles,
    aif: InputFunction,
    portal: InputFunction | None,
) -> Doubles:
    """Curves (V, T) at parameters (V,) in public units; `KetyError` where one cannot be solved."""
    from kety.fitting.terms import given_problem

    problem, theta = given_problem(model, values, times, aif, portal)
    curves = ode_curves(problem, theta)[0]
    lost = np.flatnonzero(~np.isfinite(curves).all(axis=1))
    if lost.size:
        found = ", ".join(f"{n} = {values[n][lost[0]]:g}" for n in model.names)
        raise KetyError(f"{explain_unsolved(model)}; at {found}")
    return curves


def explain_unsolved(model: OdeModel) -> str:
    """What to do where a curve is NaN."""
    advice = "" if model.stiff else "; if rates differ by factors of thousands, give stiff=True"
    return (
        f"the equations of {model.name} could not be solved within {MOST_STEPS} steps between two "
        f"samples, or became infinite{advice}"
    )


def _libraries() -> tuple[Any, Any]:
    try:
        import diffrax
        import jax
    except ImportError:
        raise MissingDependencyError(
            "a model of differential equations needs diffrax and JAX; install them with: "
            "pip install 'kety[ode]'"
        ) from None
    return jax, diffrax


def _given(problem: Problem) -> tuple[Any, ...]:
    """Frame times, knots and polynomials of the inputs, and the smallest states that count."""
    model: Any = problem.model
    inputs = [i.plasma() if model.site == "plasma" else i.blood() for i in problem.inputs]
    peak = max(float(np.abs(i.concentration).max()) for i in inputs)
    knots = tuple(np.asarray(i.times) for i in inputs)
    pieces = tuple(np.asarray(i.coefficients()) for i in inputs)
    return problem.times, knots, pieces, SMALLEST_STATE * peak


def _equations(
    model: OdeModel,
) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """rhs, observe and initial as arrays of floats, whatever sequence the user's return."""
    import jax.numpy as jnp

    def vector(values: Any) -> Any:
        if isinstance(values, list | tuple):
            return jnp.stack([jnp.asarray(v, dtype=float) for v in values])
        return jnp.asarray(values, dtype=float)

    def inputs_of(c: Any) -> Any:
        return c[0] if model.inputs == 1 else tuple(c)

    def rhs(t: Any, y: Any, p: Any, c: Any) -> Any:
        return vector(model.rhs(t, y, p, inputs_of(c)))

    def observe(y: Any, p: Any, c: Any) -> Any:
        return jnp.asarray(model.observe(y, p, inputs_of(c)), dtype=float)

    def initial(p: Any) -> Any:
        return vector(model.initial(p)) if callable(model.initial) else jnp.zeros(model.initial)

    return rhs, observe, initial


@lru_cache(maxsize=64)
def _compiled(model: OdeModel, jacobian: bool) -> Callable[..., Any]:
    """The solver of `LANES` curves: (solved, values[, slopes]) from parameters and `_given`."""
    jax, diffrax = _libraries()
    jnp, lax = jax.numpy, jax.lax
    rhs, observe, initial = _equations(model)
    count = model.inputs
    delays = [n if n in model.names else "" for n in ("delay", "delay_portal")[:count]]
    tolerance = TOLERANCE[model.stiff]
    solver = diffrax.Kvaerno5() if model.stiff else diffrax.Tsit5()

    def curve(theta: Any, times: Any, knots: Any, pieces: Any, smallest: Any) -> Any:
        p = _Values(zip(model.names, theta, strict=True))
        shift = [p[n] if n else jnp.zeros(()) for n in delays]
        begins = jnp.stack([k[0] + s for k, s in zip(knots, shift, strict=True)])
        start = jnp.minimum(times[0], begins.min())
        # The solver stops at frames and where the input's polynomials meet: all is smooth between.
        inner = [begins, *(k[1:-1] + s for k, s in zip(knots, shift, strict=True))]
        stops = jnp.concatenate([start[None], *(jnp.clip(i, start, times[-1]) for i in inner)])
        order = jnp.argsort(jnp.concatenate([stops, times]))
        exact = jnp.concatenate([stops, times])[order]
        ends = lax.stop_gradient(exact)

        def inputs_about(t: Any) -> Callable[[Any, Any], list[Any]]:
            """The inputs, those that are on, by the polynomials of the time t."""
            chosen = []
            for k, c, s in zip(knots, pieces, shift, strict=True):
                i = jnp.searchsorted(k[1:-1], lax.stop_gradient(t - s), side="right")
                chosen.append((k[i], k[-1], c[i], s))

            def inputs(t: Any, on: Any) -> list[Any]:
                found = []
                for i, (knot, last, c, s) in enumerate(chosen):
                    u = jnp.minimum(t - s, last) - knot
                    value = c[0] + u * (c[1] + u * (c[2] + u * c[3]))
                    found.append(jnp.where(on[i], value, 0.0))
                return found

            return inputs

        def advance(carry: Any, limits: Any) -> Any:
            y, was_on, ok = carry
            first, last, exact, is_first = limits
            last = jnp.where(ok, last, first)  # what is given up takes no more steps
            on = lax.stop_gradient(begins) <= first
            inputs = inputs_about(0.5 * (first + last))

            def slope(t: Any, y: Any, on: Any) -> Any:
                return rhs(t, y, p, inputs(t, on))

            # Where an input begins depends on its delay: nothing is added here but a derivative,
            # that of the right-hand side's jump.
            past = jnp.where(is_first, 0.0, slope(first, y, was_on))
            y = y + (exact - first) * (past - slope(first, y, on))
            solution = diffrax.diffeqsolve(
                diffrax.ODETerm(lambda t, y, _: slope(t, y, on)),
                solver,
                first,
                last,
                last - first,
                y,
                saveat=diffrax.SaveAt(t1=True),
                stepsize_controller=diffrax.PIDController(
                    rtol=tolerance, atol=tolerance * smallest
                ),
                adjoint=diffrax.ForwardMode(),
                max_steps=MOST_STEPS,
                throw=False,
            )
            y = solution.ys[0]
            return (y, on, ok & (solution.result == diffrax.RESULTS.successful)), y

        y = initial(p)
        begin = (y, jnp.zeros(count, dtype=bool), True)
        limits = (ends[:-1], ends[1:], exact[:-1], jnp.arange(len(ends) - 1) == 0)
        (_, _, ok), states = lax.scan(advance, begin, limits)
        states = jnp.concatenate([y[None], states])[jnp.argsort(order)[len(stops) :]]
        on = times[:, None] >= lax.stop_gradient(begins)[None]
        values = jax.vmap(lambda t, y, o: observe(y, p, inputs_about(t)(t, o)))(times, states, on)
        return values, (ok & jnp.isfinite(values).all(), values)

    if jacobian:
        with_slopes = jax.jacfwd(curve, has_aux=True)

        def lane(*arguments: Any) -> Any:
            slopes, (ok, values) = with_slopes(*arguments)
            return ok & jnp.isfinite(slopes).all(), values, slopes
    else:

        def lane(*arguments: Any) -> Any:
            return curve(*arguments)[1]

    compiled: Callable[..., Any] = jax.jit(jax.vmap(lane, in_axes=(0, None, None, None, None)))
    return compiled


def _rates(model: OdeModel, theta: Doubles) -> Doubles:
    """About the fastest rate (V,) of the equations at their start, 1/s."""
    rates = np.concatenate(
        [
            _compiled_rates(model)(theta[np.resize(np.arange(i, min(i + 1024, len(theta))), 1024)])
            for i in range(0, len(theta), 1024)
        ]
    )
    return np.asarray(np.nan_to_num(rates[: len(theta)], nan=np.inf))


@lru_cache(maxsize=64)
def _compiled_rates(model: OdeModel) -> Callable[..., Any]:
    jax, _ = _libraries()
    rhs, _, initial = _equations(model)

    def rate(theta: Any) -> Any:
        p = _Values(zip(model.names, theta, strict=True))
        nothing = [jax.numpy.zeros(())] * model.inputs
        slopes = jax.jacfwd(lambda y: rhs(0.0, y, p, nothing))(initial(p))
        return abs(slopes).sum(axis=1).max()

    compiled: Callable[..., Any] = jax.jit(jax.vmap(rate))
    return compiled


@lru_cache(maxsize=64)
def _checked(model: OdeModel) -> None:
    """Call the equations with numbers' shapes and look at what they return."""
    jax, _ = _libraries()
    jnp = jax.numpy
    rhs, observe, initial = _equations(model)
    number = jax.ShapeDtypeStruct((), jnp.float64)
    p = dict.fromkeys(model.names, number)
    c = [number] * model.inputs

    def shape_of(what: str, function: Any, *arguments: Any) -> tuple[int, ...]:
        try:
            return tuple(jax.eval_shape(function, *arguments).shape)
        except KetyError:
            raise
        except jax.errors.JAXTypeError as error:
            raise KetyError(
                f"{what} of {model.name} cannot be compiled: use arithmetic and jax.numpy in place "
                f"of numpy, math and if ({str(error).splitlines()[0]})"
            ) from error
        except (TypeError, ValueError, IndexError) as error:
            raise KetyError(f"{what} of {model.name} cannot be evaluated: {error}") from error

    start = shape_of("initial", lambda p: initial(_Values(p)), p)
    if len(start) != 1 or start[0] < 1:
        raise KetyError(
            f"initial of {model.name} must return the n states, found shape {start}; "
            "return a tuple, or give their number"
        )
    y = jax.ShapeDtypeStruct(start, jnp.float64)
    found = shape_of("rhs", lambda t, y, p, c: rhs(t, y, _Values(p), c), number, y, p, c)
    if found != start:
        raise KetyError(
            f"rhs of {model.name} must return the derivatives of its {start[0]} states, shape "
            f"{start}, found {found}"
        )
    seen = shape_of("observe", lambda y, p, c: observe(y, _Values(p), c), y, p, c)
    if seen != ():
        raise KetyError(
            f"observe of {model.name} must return one number, the tissue's concentration, found "
            f"shape {seen}"
        )
