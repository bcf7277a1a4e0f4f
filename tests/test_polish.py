"""The exact solution from given starts, with parameters held if asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import kety
from cases import NOISE, ONE_TERM, TWO_PHASE, Floats, artery, options_of, study
from kety import MODELS, KetyError, Status, VarProLM
from kety.fitting.polish import polish
from kety.fitting.problem import Problem, make_problem
from kety.fitting.solve import prepare, problem_curves

AIF = artery("georgiou", TWO_PHASE[-1] + 5)
each_model = pytest.mark.parametrize("model", list(MODELS))


def problem_of(model: str, **options: Any) -> Problem:
    given: dict[str, Any] = {"delay": True, "bounds": None, "weights": None, "dtype": "float64"}
    given |= {"threads": 1, "find_enhancing": False} | options_of(model, AIF)
    tangent = replace(MODELS[model], profiled="")  # whose errors a polish has
    return make_problem(TWO_PHASE, AIF, tangent, **given | options)


def solved(model: str, count: int = 40, seed: int = 1, **options: Any) -> tuple[Any, Floats, Any]:
    """A problem, curves, and the default solver's results."""
    problem = problem_of(model, **options)
    curves, _ = study(np.random.default_rng(seed), count, AIF, model=model, noise=0.05 * NOISE)
    return problem, curves, prepare(problem, VarProLM())(curves)


@pytest.mark.parametrize("options", [{}, {"weights": np.linspace(0.3, 2, 37)}, {"baseline": True}])
@each_model
def test_from_its_own_optimum_it_stays(model: str, options: dict[str, Any]) -> None:
    problem, curves, whole = solved(model, **options)
    again = polish(problem, curves, whole.parameters)
    same = (whole.status == Status.CONVERGED) & (again.status == Status.CONVERGED)
    assert same.mean() > (0.5 if MODELS[model].inputs == 1 else 0.2)
    assert (again.status == whole.status).mean() > 0.9
    excess = again.cost[same] / whole.cost[same] - 1
    assert np.quantile(np.abs(excess), 0.9) < 1e-4
    assert excess.max() < 1e-3
    errors = np.sqrt(np.abs(whole.covariance[same]))
    known = errors > 0
    ratio = again.covariance[same][known] / whole.covariance[same][known]
    assert np.quantile(np.abs(ratio - 1), 0.9) < 0.01
    for i, p in enumerate(problem.parameters):
        slot = problem.slot(p.name)
        error = np.sqrt(whole.covariance[same][:, slot * (slot + 1) // 2 + slot])
        moved = np.abs(again.parameters - whole.parameters)[same][:, slot] / error
        assert np.quantile(moved, 0.95) < 0.01, (i, p.name)


@each_model
def test_held_parameters_stay(model: str) -> None:
    problem, curves, whole = solved(model)
    good = np.flatnonzero(whole.status == Status.CONVERGED)
    for p in problem.parameters:
        slot = problem.slot(p.name)
        start = whole.parameters[good].copy()
        start[:, slot] = np.clip(1.05 * start[:, slot], *(b[slot] for b in problem.kernel_bounds()))
        held = polish(problem, curves[good], start, [p.name])
        np.testing.assert_array_equal(held.parameters[:, slot], start[:, slot], err_msg=p.name)
        assert np.isnan(held.covariance[:, slot * (slot + 1) // 2 + slot]).all()
        assert (held.cost >= whole.cost[good] * (1 - 1e-3)).all()
        at_start = ((problem_curves(problem, start) - curves[good]) ** 2).sum(axis=1)
        assert (held.cost <= at_start * (1 + 1e-9)).all()


def test_all_may_be_held() -> None:
    problem, curves, whole = solved("2cxm")
    result = polish(problem, curves, whole.parameters, list(problem.model.names))
    np.testing.assert_array_equal(result.parameters, whole.parameters)
    made = problem_curves(problem, whole.parameters)
    np.testing.assert_allclose(result.cost, ((made - curves) ** 2).sum(axis=1), rtol=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("model", ONE_TERM)
def test_models_of_one_term_come_to_the_default_solvers_minimum(model: str, dtype: str) -> None:
    """Also from beside it: each engine has its own formulas."""
    problem, curves, whole = solved(model, dtype=dtype)
    start = whole.parameters.astype(float)
    for p in problem.parameters:
        if not p.is_delay:
            start[:, problem.slot(p.name)] *= 1.1
    found = polish(problem, curves, start)
    same = (whole.status == Status.CONVERGED) & (found.status == Status.CONVERGED)
    assert same.mean() > 0.6
    assert (whole.status == found.status).mean() > 0.9
    close = np.abs(found.cost / whole.cost - 1)[same] < 1e-4
    assert close.mean() > 0.95
    assert found.parameters.shape == whole.parameters.shape
    assert found.covariance.shape == whole.covariance.shape
    for p in problem.parameters:
        slot = problem.slot(p.name)
        error, other = (
            np.sqrt(r.covariance[same][close][:, slot * (slot + 1) // 2 + slot])
            for r in (whole, found)
        )
        moved = np.abs(found.parameters - whole.parameters)[same][close][:, slot]
        assert np.quantile(moved / error, 0.95) < 0.02, p.name
        assert np.quantile(np.abs(other / error - 1), 0.95) < 0.02, p.name


def test_bounds_hold_and_starts_are_brought_to_them() -> None:
    bounds = {"fp": (30.0, 40.0), "vp": (0.05, 0.08)}
    problem, curves, whole = solved("2cxm", bounds=bounds)
    start = whole.parameters * 3.0
    start[:, 4] = whole.parameters[:, 4]
    found = polish(problem, curves, start)
    lo, hi = problem.kernel_bounds()
    assert (found.parameters >= lo).all()
    assert (found.parameters <= hi).all()
    np.testing.assert_allclose(np.median(found.cost / whole.cost), 1.0, atol=1e-6)


def test_numbers_that_are_none() -> None:
    problem, curves, whole = solved("2cum")
    start, broken = whole.parameters.copy(), curves.copy()
    start[3, 1], broken[5, 7] = np.nan, np.inf
    found = polish(problem, broken, start)
    assert (found.status[[3, 5]] == Status.NOT_FINITE).all()
    assert np.isnan(found.parameters[[3, 5]]).all()
    others = np.delete(np.arange(40), [3, 5])
    np.testing.assert_allclose(found.cost[others], whole.cost[others], rtol=1e-6)


def test_no_voxel() -> None:
    found = polish(problem_of("2cxm"), np.empty((0, 37)), np.empty((0, 5)))
    assert found.parameters.shape == (0, 5)


@pytest.mark.parametrize(
    ("curves", "start", "held", "message"),
    [
        ((4, 36), (4, 5), (), r"curves \(V, 37\) and starts \(V, 5\), found \(4, 36\)"),
        ((4, 37), (4, 4), (), r"starts \(V, 5\), found \(4, 37\) and \(4, 4\)"),
        ((4, 37), (3, 5), (), r"found \(4, 37\) and \(3, 5\)"),
        ((4, 37), (4, 5), ("kep",), "kep cannot be held: the parameters are fp, ps, ve, vp, delay"),
    ],
)
def test_bad_shapes(curves: Any, start: Any, held: Any, message: str) -> None:
    with pytest.raises(KetyError, match=message):
        polish(problem_of("2cxm"), np.ones(curves), np.ones(start), held)


def test_it_is_what_a_fit_ends_with() -> None:
    curves, _ = study(np.random.default_rng(3), 30, AIF, model="2cum", noise=NOISE)
    maps = kety.fit(curves, TWO_PHASE, AIF, "2cum", dtype="float64", mask=np.ones(30, bool))
    good = np.flatnonzero(maps.status == Status.CONVERGED)
    problem = problem_of("2cum")
    values = {n: maps[n].values[good] for n in problem.model.names}
    start = problem.model.kernel_parameters(values, AIF, len(good))
    found = polish(problem, curves[good], start)
    np.testing.assert_allclose(found.cost, maps.cost.values[good], rtol=1e-7)
