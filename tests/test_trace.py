"""Programs traced from plain arithmetic: what they compute, and their derivatives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cases import Floats
from kety import InputFunction, KetyError
from kety.fitting.engine import instruction_sets
from kety.fitting.terms import given_problem, terms_curves, terms_kernel
from kety.models import Group, Model, Parameter, Terms
from kety.models.base import program_of
from kety.models.trace import CODES, Dual, Recorder, Symbol, exponential, larger, root

Function = Callable[[list[Any]], Any]
Tree = tuple[Any, ...]
NAMES = ("a", "b", "c")
TIMES = np.array([0.0, 1.0, 2.5, 4.0])
# A constant input of 1: its integral is the time.
AIF = InputFunction([0.0, 2.0, 5.0], [1.0, 1.0, 1.0], hematocrit=0.0, interpolation="linear")
# None of them leaves the real numbers or grows fast.
OF_TWO: dict[str, Callable[[Any, Any], Any]] = {
    "sum": lambda u, v: u + v,
    "difference": lambda u, v: u - v,
    "product": lambda u, v: u * v / (1.0 + u * u),
    "quotient": lambda u, v: u / (2.0 + v * v),
    "swapped": lambda u, v: 1.5 - v * u / (4.0 + v * v + u * u),
    "larger": larger,
}
OF_ONE: dict[str, Callable[[Any], Any]] = {
    "root": lambda u: root(0.5 + u * u),
    "exponential": lambda u: exponential(u / (1.0 + u * u)),
    "minus": lambda u: -u,
    "inverse": lambda u: 2 / (3 + u * u),
}
POINTS = st.lists(st.floats(0.1, 2.0), min_size=3, max_size=3)
TREES: st.SearchStrategy[Tree] = st.recursive(
    st.one_of(
        st.tuples(st.just("input"), st.integers(0, 2)),
        st.tuples(st.just("constant"), st.floats(-2.0, 2.0, width=32)),
    ),
    lambda part: st.one_of(
        st.tuples(st.sampled_from(list(OF_TWO)), part, part),
        st.tuples(st.sampled_from(list(OF_ONE)), part),
    ),
    max_leaves=6,
)


def evaluate(tree: Tree, x: list[Any]) -> Any:
    """The expression of a tree at three symbols, duals or arrays."""
    name, *parts = tree
    if name == "input":
        return x[parts[0]]
    if name == "constant":
        return parts[0] + 0.0 * x[0]
    values = [evaluate(part, x) for part in parts]
    return OF_TWO[name](*values) if name in OF_TWO else OF_ONE[name](*values)


def run(recorder: Recorder, inputs: list[float]) -> list[float]:
    """The program's registers, step by step."""
    names = {code: name for name, code in CODES.items()}
    registers = list(inputs)
    for (code, i, j), constant in zip(recorder.steps, recorder.constants, strict=True):
        a, b = (registers[k] if names[code] != "constant" else 0.0 for k in (i, j))
        registers.append(
            {
                "constant": lambda k=constant: k,
                "add": lambda a=a, b=b: a + b,
                "subtract": lambda a=a, b=b: a - b,
                "multiply": lambda a=a, b=b: a * b,
                "divide": lambda a=a, b=b: a / b,
                "root": lambda a=a: max(a, 0.0) ** 0.5,
                "exponential": lambda a=a: float(np.exp(a)),
                "maximum": lambda a=a, b=b: max(a, b),
            }[names[code]]()
        )
    return registers


def record_of(f: Function) -> Model:
    """A model whose curve of a constant input is f times the time."""
    own = tuple(Parameter(n, "1", n, "", None, (0.0, 9.0), per=None) for n in NAMES)
    shift = Parameter("delay", "s", "delay", "", None, (-5.0, 5.0), per=None)

    def terms(p: Mapping[str, Any]) -> Terms:
        return Terms((Group(p["delay"], ((f([p[n] for n in NAMES]), 0.0),)),))

    return Model("made", "made", "", "", (*own, shift), terms=terms)


def native(f: Function, points: Floats, instruction_set: str = "") -> tuple[Floats, Floats]:
    """f at points (V, 3) and its slopes (V, 3) by the core."""
    values = {n: points[:, i] for i, n in enumerate(NAMES)} | {"delay": np.zeros(len(points))}
    problem, theta = given_problem(record_of(f), values, TIMES, AIF)
    curves, slopes = terms_curves(
        terms_kernel(problem), theta, jacobian=True, instruction_set=instruction_set
    )
    assert slopes is not None
    return curves[:, 1], slopes[:, 1, :3]


def too_long(f: Function) -> bool:
    program = program_of(record_of(f), initial=False)
    return 4 + len(program["terms"]["constant"]) > 96


@settings(max_examples=150, deadline=None)
@given(TREES, POINTS)
def test_a_program_computes_its_function(tree: Tree, point: list[float]) -> None:
    f = partial(evaluate, tree)
    recorder = Recorder(3)
    result = recorder.symbol(f([Symbol(recorder, i) for i in range(3)]))
    expected = f([np.array([v]) for v in point])
    assert run(recorder, point)[result.register] == pytest.approx(float(expected[0]), rel=1e-12)
    assert len(set(zip(recorder.steps, recorder.constants, strict=True))) == len(recorder.steps)


@settings(max_examples=100, deadline=None)
@given(TREES, st.lists(POINTS, min_size=1, max_size=20))
def test_the_core_runs_it_with_its_derivatives(tree: Tree, points: list[list[float]]) -> None:
    f = partial(evaluate, tree)
    assume(not too_long(f))
    x = np.array(points)
    expected = np.broadcast_to(f(list(x.T)), len(x))
    size = 1.0 + np.abs(expected).max()
    count = range(3)
    for name in instruction_sets():
        values, slopes = native(f, x, name)
        np.testing.assert_allclose(values, expected, rtol=1e-12, atol=1e-12 * size)
        dual = f([Dual(x[:, i], tuple(float(i == j) for j in count)) for i in count])
        for j in count:
            one = np.broadcast_to(dual.slopes[j], len(x))
            np.testing.assert_allclose(slopes[:, j], one, rtol=1e-10, atol=1e-10 * size)


@settings(max_examples=100, deadline=None)
@given(TREES, POINTS)
def test_duals_meet_central_differences(tree: Tree, point: list[float]) -> None:
    f = partial(evaluate, tree)
    x = [np.array([v]) for v in point]
    dual = f([Dual(x[i], tuple(float(i == j) for j in range(3))) for i in range(3)])
    np.testing.assert_array_equal(dual.value, f(x))
    for j in range(3):
        sides = []
        for step in (-2e-6, 2e-6):
            moved = list(x)
            moved[j] = x[j] + step
            sides.append((f(moved) - f(x)) / step)
        # Where a maximum changes sides the slopes differ; a derivative lies between them.
        low, high = np.minimum(*sides), np.maximum(*sides)
        slope, room = np.asarray(dual.slopes[j]), 1e-4 * (1.0 + np.abs(sides[0]))
        assert (slope >= low - room).all()
        assert (slope <= high + room).all()


def test_numbers_arrays_and_symbols_mix() -> None:
    recorder = Recorder(1)
    x = Symbol(recorder, 0)
    result = np.float64(2.0) * x - np.float32(0.5) / (1 + x) + 3
    assert isinstance(result, Symbol)
    assert run(recorder, [1.0])[result.register] == pytest.approx(4.75)
    assert root(-4.0) == 0.0
    assert larger(2.0, 3.0) == 3.0


def test_the_root_of_what_is_below_0_is_0_and_has_no_slope() -> None:
    values, slopes = native(lambda x: root(x[0] - 5.0) + x[1], np.array([[1.0, 0.5, 0.5]]))
    assert values[0] == pytest.approx(0.5)
    np.testing.assert_allclose(slopes[0], [0.0, 1.0, 0.0], atol=1e-12)


def test_a_program_that_is_too_long_is_refused() -> None:
    def long(x: list[Any]) -> Any:
        total = x[0]
        for i in range(60):
            total = total * x[1] + float(i)
        return total

    with pytest.raises((KetyError, ValueError), match="program is too long"):
        native(long, np.ones((1, 3)))
