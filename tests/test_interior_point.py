"""The energy of a joint estimate, and its minimum by the interior-point method."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.sparse import csr_array

import kety
from cases import GROWING, PLACES, TWO_PHASE, Floats, artery, study, two_tissues
from kety.errors import KetyError, MissingDependencyError
from kety.fitting.forward import kernel_curves
from kety.fitting.problem import Problem, make_problem
from kety.joint import interior_point as module
from kety.joint.energy import energy, energy_gradient, paper_edges, paper_loss, voxel_costs
from kety.joint.interior_point import InteriorPoint, interior_point
from kety.joint.similarity import gaussian_similarity, kernel_width, spatial_distance

needs_casadi = pytest.mark.skipif(
    importlib.util.find_spec("casadi") is None, reason="CasADi is not installed"
)
each_hessian = pytest.mark.parametrize("hessian", ["bfgs", "gauss_newton"])

NOISE = 0.1
CURVES, AIF = two_tissues(np.random.default_rng(20), NOISE)
W = gaussian_similarity(spatial_distance(PLACES), kernel_width(spatial_distance(PLACES)))
RATES = np.diag([0.0, 1.0, 1.0, 0.0])
FLAT = np.tile([0.0, 0.01, 0.03, 0.0], (36, 1))


def problem(model: str = "one_compartment", **options: Any) -> Problem:
    given = {"delay": False, "bounds": None, "weights": None, "dtype": "float64", "threads": 1}
    chosen: dict[str, Any] = {**given, "find_enhancing": False, **options}
    return make_problem(GROWING, AIF, model, **chosen)


def voxelwise(p: Problem, curves: Floats = CURVES) -> Floats:
    """Kernel quantities (V, 4) of voxel by voxel fits."""
    maps = kety.fit(
        curves,
        p.times,
        p.aif,
        p.model.name,
        delay=False,
        dtype="float64",
        bounds={n: b for n, b in p.bounds.items() if n != "delay"},
        weights=p.weights,
        mask=np.ones(len(curves), bool),
    )
    values = {n: maps[n].values for n in p.model.names}
    return p.model.kernel_parameters(values, p.aif, len(curves))


def solved(strength: float, start: Floats = FLAT, **options: Any) -> InteriorPoint:
    return interior_point(
        problem(), CURVES, paper_edges(W, len(GROWING), strength), RATES, start, **options
    )


# --- energy ---------------------------------------------------------------------------------------


@st.composite
def energies(draw: st.DrawFn) -> tuple[Problem, Floats, Floats, Floats, Floats]:
    """Problem, curves, edges, metric and parameters of a few voxels."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weights = rng.uniform(0.0, 2.0, 66) if draw(st.booleans()) else None
    p = problem("extended_tofts", weights=weights, baseline=draw(st.booleans()))
    voxels = draw(st.integers(1, 6))
    edges = rng.uniform(0.0, 3.0, (voxels, voxels)) * (rng.random((voxels, voxels)) < 0.6)
    edges = np.triu(edges, 1) + np.triu(edges, 1).T
    roots = rng.normal(size=(voxels, 4, 4) if draw(st.booleans()) else (4, 4))
    metric = roots @ roots.swapaxes(-1, -2) * np.outer([1, 100, 30, 0.1], [1, 100, 30, 0.1])
    # Delays at which no frame sees the input's jump from 0 to its first sample.
    theta = rng.uniform([0, 0.001, 0.005, 0.3], [0.2, 0.02, 0.05, 2.0], (voxels, 4))
    return p, CURVES[:voxels], edges, metric, theta


@settings(max_examples=25, deadline=None)
@given(energies())
def test_energy_is_the_sum_written_out(
    case: tuple[Problem, Floats, Floats, Floats, Floats],
) -> None:
    p, curves, edges, metric, theta = case
    q = np.broadcast_to(metric, (len(theta), 4, 4))
    w = np.ones(66) if p.weights is None else p.weights
    total = 0.0
    for i, x in enumerate(theta):
        r = kernel_curves(p.aif, p.times, x[None])[0][0] - curves[i]
        r -= np.average(r, weights=w) if p.baseline else 0.0
        total += np.sum(w * r**2)
        for j in range(i):
            d = x - theta[j]
            total += edges[i, j] * d @ (0.5 * (q[i] + q[j])) @ d
    assert energy(p, curves, edges, metric, theta) == pytest.approx(total, rel=1e-12)
    assert energy(p, curves, csr_array(edges), metric, theta) == pytest.approx(total, rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(energies())
def test_gradient_meets_central_differences(
    case: tuple[Problem, Floats, Floats, Floats, Floats],
) -> None:
    value, gradient = energy_gradient(*case)
    assert value == pytest.approx(energy(*case), rel=1e-12)
    *given_, theta = case
    for i in range(len(theta)):
        for slot, step in enumerate((1e-5, 1e-7, 1e-7, 1e-5)):
            up, down = theta.copy(), theta.copy()
            up[i, slot] += step
            down[i, slot] -= step
            slope = (energy(*given_, up) - energy(*given_, down)) / (2 * step)
            scale = np.abs(gradient[:, slot]).max() + 1e-9 * value / step
            assert abs(gradient[i, slot] - slope) < 1e-4 * scale


def test_papers_loss_is_the_energy_of_its_edges() -> None:
    p, theta, strength = problem(), voxelwise(problem()), 12.5
    apart = ((theta[:, None, 1:3] - theta[:, 1:3]) ** 2).sum(axis=2)
    fit = np.sum((kernel_curves(AIF, GROWING, theta)[0] - CURVES) ** 2)
    loss = fit / (66 * 36) + strength / 36**2 * np.sum(W * apart)
    edges = paper_edges(W, 66, strength)
    assert not edges.diagonal().any()
    found = paper_loss(energy(p, CURVES, edges, RATES, theta), 66, 36)
    assert found == pytest.approx(loss, rel=1e-12)


# --- interior point -------------------------------------------------------------------------------


@needs_casadi
@each_hessian
def test_without_edges_every_voxel_has_its_own_optimum(hessian: str) -> None:
    p = problem()
    expected = voxelwise(p)
    found = solved(0.0, hessian=hessian)
    assert found.converged, found.message
    assert found.energy == pytest.approx(voxel_costs(p, CURVES, expected).sum(), rel=1e-9)
    np.testing.assert_allclose(found.parameters, expected, rtol=1e-4)


@needs_casadi
@pytest.mark.parametrize("strength", [0.1, 100.0, 1e5])
def test_starts_hessians_and_another_optimiser_agree(strength: float) -> None:
    p, edges = problem(), paper_edges(W, 66, strength)
    one = solved(strength)
    assert one.converged, one.message
    assert one.energy < energy(p, CURVES, edges, RATES, FLAT)
    for other in (
        solved(strength, voxelwise(p)),
        solved(strength, hessian="gauss_newton"),
        solved(strength, voxelwise(p), hessian="gauss_newton"),
    ):
        assert other.converged, other.message
        assert other.energy == pytest.approx(one.energy, rel=1e-9)
        np.testing.assert_allclose(other.parameters, one.parameters, rtol=1e-4)

    scale = np.array([0.01, 0.03])
    lo, hi = (b[1:3] / scale for b in p.kernel_bounds())

    def cost(x: Floats) -> tuple[float, Floats]:
        theta = FLAT.copy()
        theta[:, 1:3] = x.reshape(36, 2) * scale
        value, slope = energy_gradient(p, CURVES, edges, RATES, theta)
        return value, (slope[:, 1:3] * scale).ravel()

    tight = {"ftol": 1e-15, "gtol": 1e-12, "maxiter": 10_000, "maxfun": 20_000, "maxcor": 50}
    bounds = [(low, high) for _ in range(36) for low, high in zip(lo, hi, strict=True)]
    quasi = minimize(cost, np.ones(72), jac=True, method="L-BFGS-B", bounds=bounds, options=tight)
    assert one.energy == pytest.approx(quasi.fun, rel=1e-9)


@needs_casadi
@each_hessian
def test_infinite_strength_is_one_fit_of_the_mean_curve(hessian: str) -> None:
    found = solved(1e7, hessian=hessian)
    assert found.converged, found.message
    expected = voxelwise(problem(), CURVES.mean(axis=0)[None])
    np.testing.assert_allclose(found.parameters, np.tile(expected, (36, 1)), rtol=1e-3)


@needs_casadi
@each_hessian
def test_bounds_are_honoured_and_fixed_parameters_stay(hessian: str) -> None:
    p = problem(bounds={"k1": (0.3, 0.4), "k2": (0.0, 1.2)}, delay=1.5)
    lo, hi = p.kernel_bounds()
    found = interior_point(
        p, CURVES, paper_edges(W, 66, 1.0), RATES, np.zeros((36, 4)), hessian=hessian
    )
    assert found.converged, found.message
    assert (found.parameters >= lo).all()
    assert (found.parameters <= hi).all()
    assert (found.parameters[:, [0, 3]] == [0.0, 1.5]).all()
    at = np.isclose(found.parameters[:, 1], lo[1], rtol=1e-5)
    assert 0 < at.sum() < 36
    slope = energy_gradient(p, CURVES, paper_edges(W, 66, 1.0), RATES, found.parameters)[1][:, 1]
    assert (slope[at] > 0).all()


@needs_casadi
@each_hessian
def test_delay_vessels_weights_baseline_and_metrics_of_voxels(hessian: str) -> None:
    aif = artery("georgiou", TWO_PHASE[-1] + 20)
    rng = np.random.default_rng(21)
    curves, truth = study(rng, 8, aif)
    weights = rng.uniform(0.5, 1.5, len(TWO_PHASE))
    p = replace(
        problem("extended_tofts", delay=True),
        aif=aif,
        times=TWO_PHASE,
        weights=weights,
        baseline=True,
    )
    start = p.model.kernel_parameters(truth, aif, 8)
    metric = np.array([np.diag(f / np.var(start, axis=0)) for f in rng.uniform(0.5, 2.0, 8)])
    edges = np.diag(np.full(7, 36.0 * 20), 1)
    edges += edges.T
    found = interior_point(
        p, curves + 40.0, edges, metric, start, hessian=hessian, tolerance=1e-8, max_iterations=300
    )
    assert found.converged, found.message
    assert found.energy < energy(p, curves + 40.0, edges, metric, start)
    again = energy(p, curves + 40.0, edges, metric, found.parameters)
    assert found.energy == pytest.approx(again, rel=1e-12)
    spread = np.sum(np.diff(found.parameters, axis=0) ** 2, axis=0)
    assert (spread < np.sum(np.diff(start, axis=0) ** 2, axis=0)).all()


@needs_casadi
def test_a_perfect_start_is_kept() -> None:
    p = problem()
    truth = voxelwise(p)
    curves = kernel_curves(AIF, GROWING, truth)[0]
    found = interior_point(p, curves, np.zeros((36, 36)), RATES, truth)
    assert found.converged, found.message
    assert found.energy < 1e-12
    np.testing.assert_allclose(found.parameters, truth, rtol=1e-6)


@needs_casadi
def test_an_iteration_limit_is_told() -> None:
    found = solved(1.0, max_iterations=3)
    assert not found.converged
    assert found.iterations == 3
    assert found.message == "Maximum_Iterations_Exceeded"
    edges = paper_edges(W, 66, 1.0)
    here = energy(problem(), CURVES, edges, RATES, found.parameters)
    assert found.energy == pytest.approx(here, rel=1e-12)
    assert here <= energy(problem(), CURVES, edges, RATES, FLAT)


@needs_casadi
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_errors_inside_the_method_come_out(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    calls, evaluate = [], module.value_and_gradient

    def failing(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 6:
            raise error("stop")
        return evaluate(*args)

    monkeypatch.setattr(module, "value_and_gradient", failing)
    with pytest.raises(error, match="stop"):
        solved(1.0)
    assert len(calls) == 6
    assert capfd.readouterr() == ("", "")


def test_without_casadi_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(module, "import_module", missing)
    with pytest.raises(MissingDependencyError, match=r"pip install 'kety\[interior-point\]'"):
        solved(1.0)


# --- errors ---------------------------------------------------------------------------------------

NONE = np.zeros((36, 36))
ONE_WAY = np.triu(np.ones((36, 36)), 1)
BAD_ENERGY: dict[str, tuple[tuple[Any, ...], str]] = {
    "curves": ((CURVES[:, 1:], NONE, RATES, FLAT), "curves"),
    "curves not finite": ((np.full((36, 66), np.nan), NONE, RATES, FLAT), "curves"),
    "edges of others": ((CURVES, np.zeros((35, 35)), RATES, FLAT), r"\(36, 36\)"),
    "negative edges": ((CURVES, -1.0 * ONE_WAY, RATES, FLAT), "not negative"),
    "infinite edges": ((CURVES, np.where(ONE_WAY > 0, np.inf, 0.0), RATES, FLAT), "finite"),
    "own neighbour": ((CURVES, np.eye(36), RATES, FLAT), "diagonal"),
    "one way": ((CURVES, ONE_WAY, RATES, FLAT), "symmetric"),
    "metric shape": ((CURVES, NONE, np.eye(3), FLAT), r"\(4, 4\)"),
    "metric not finite": ((CURVES, NONE, np.full((4, 4), np.inf), FLAT), "finite"),
    "metric one way": ((CURVES, NONE, np.eye(4) + np.eye(4, k=1), FLAT), "symmetric"),
    "metric negative": ((CURVES, NONE, -np.eye(4), FLAT), "semidefinite"),
    "theta": ((CURVES, NONE, RATES, FLAT[:5]), "theta"),
}


@pytest.mark.parametrize("what", list(BAD_ENERGY))
def test_unusable_terms_are_told(what: str) -> None:
    arguments, words = BAD_ENERGY[what]
    for call in (energy, energy_gradient):
        with pytest.raises(KetyError, match=words):
            call(problem(), *arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((W[:5], 66, 1.0), "shape"),
        ((W, 0, 1.0), "frames"),
        ((W, 66, -1.0), "strength"),
        ((np.triu(W), 66, 1.0), "symmetric"),
    ],
)
def test_unusable_similarities_are_told(arguments: tuple[Any, ...], words: str) -> None:
    with pytest.raises(KetyError, match=words):
        paper_edges(*arguments)


@needs_casadi
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hessian": "none"}, "bfgs, gauss_newton"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"max_iterations": 0}, "max_iterations"),
    ],
)
def test_unusable_options_are_told(options: dict[str, Any], words: str) -> None:
    with pytest.raises(KetyError, match=words):
        solved(1.0, **options)


@needs_casadi
def test_nothing_free_is_told() -> None:
    p = problem(bounds={"k1": (0.3, 0.3), "k2": (1.0, 1.0)})
    with pytest.raises(KetyError, match="nothing to estimate"):
        interior_point(p, CURVES, NONE, RATES, FLAT)
