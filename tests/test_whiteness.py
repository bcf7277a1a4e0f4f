"""Correlation of neighbouring residuals: its moments under noise, its maps, and what shows it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kety
from cases import TWO_PHASE, Floats, artery, study
from kety import KetyError
from kety.fitting.problem import make_problem
from kety.fitting.sensitivity import ExactModel
from kety.fitting.whiteness import leverages, moments, next_frame_correlation
from kety.residuals import AUTOCORRELATION

AIF = artery("georgiou", TWO_PHASE[-1] + 5)
ONE_INPUT = [name for name, model in kety.MODELS.items() if model.inputs == 1]


def dense_moments(jacobian: Floats) -> tuple[float, float]:
    """The same by whole matrices."""
    n = len(jacobian)
    project = np.eye(n) - jacobian @ np.linalg.pinv(jacobian)
    beside = 0.5 * (np.eye(n, k=1) + np.eye(n, k=-1))
    m = np.trace(project)
    product = project @ beside
    one, two = np.trace(product), np.trace(product @ product)
    return one / m, np.sqrt(2 * (m * two - one**2) / (m**2 * (m + 2)))


@given(st.integers(6, 40), st.integers(1, 4), st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_moments_are_those_of_whole_matrices(frames: int, count: int, seed: int) -> None:
    jacobian = np.random.default_rng(seed).normal(size=(2, frames, count))
    jacobian[1, :, -1] = 0.0  # a parameter that was held
    mean, deviation = moments(jacobian)
    for v in range(2):
        expected = dense_moments(jacobian[v])
        np.testing.assert_allclose([mean[v], deviation[v]], expected, rtol=1e-9, atol=1e-12)
        hat = jacobian[v] @ np.linalg.pinv(jacobian[v])
        np.testing.assert_allclose(leverages(jacobian)[v], np.diag(hat), atol=1e-10)


def test_moments_are_those_of_noise() -> None:
    rng = np.random.default_rng(3)
    jacobian = np.vander(np.linspace(0, 1, 30), 4)
    project = np.eye(30) - jacobian @ np.linalg.pinv(jacobian)
    found = next_frame_correlation(rng.normal(size=(100_000, 30)) @ project)
    mean, deviation = moments(jacobian[None])
    assert found.mean() == pytest.approx(mean[0], abs=3e-3)
    assert found.std() == pytest.approx(deviation[0], rel=0.01)


def test_no_residual_has_no_correlation() -> None:
    assert np.isnan(next_frame_correlation(np.zeros((1, 8)))).all()


@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("model", ONE_INPUT)
def test_slopes_are_the_models_derivatives(model: str, initial: bool) -> None:
    problem = make_problem(
        TWO_PHASE,
        AIF,
        model,
        delay=True,
        bounds=None,
        weights=None,
        dtype="float64",
        threads=1,
        find_enhancing=False,
        initial=initial,
    )
    exact = ExactModel(problem)
    truth = study(np.random.default_rng(4), 5, AIF, model=model)[1]
    if initial:
        truth["c0"] = np.full(5, 20.0)
    values = np.stack([truth[n] for n in exact.names], axis=1)
    curves, slopes = exact.curves_and_slopes(values)
    simulated = kety.simulate_curves(truth, TWO_PHASE, AIF, model)
    np.testing.assert_allclose(curves, simulated, atol=1e-9 * simulated.max())
    for j, name in enumerate(exact.names):
        step = 1e-5 * np.abs(values[:, j])
        up, down = values.copy(), values.copy()
        up[:, j] += step
        down[:, j] -= step
        secant = (exact.curves(up) - exact.curves(down)) / (2 * step)[:, None]
        scale = np.abs(secant).max()
        np.testing.assert_allclose(slopes[:, :, j], secant, atol=1e-4 * scale, err_msg=name)


@pytest.mark.parametrize("how", ["plain", "baseline", "weights", "fixed delay"])
def test_five_voxels_in_a_hundred_lie_beyond_the_band_of_noise(how: str) -> None:
    rng = np.random.default_rng(5)
    noise = rng.uniform(2.0, 9.0, 37) if how == "weights" else 6.0
    clean, truth = study(rng, 3000, AIF, noise=0)
    options: dict[str, Any] = {}
    if how == "fixed delay":
        clean = kety.simulate_curves(truth | {"delay": np.float64(3.0)}, TWO_PHASE, AIF)
        options = {"delay": 3.0}
    if how == "weights":
        options = {"weights": np.asarray(noise) ** -2.0}
    if how == "baseline":
        options = {"baseline": True}
    curves = clean + rng.normal(size=clean.shape) * noise
    maps = kety.fit(curves, TWO_PHASE, AIF, autocorrelation=True, **options)
    value, mean, deviation = (maps[AUTOCORRELATION + e].values for e in ("", "_mean", "_sd"))
    far = np.abs(value - mean) > 1.96 * deviation
    known = np.isfinite(value)
    assert known.mean() > 0.9
    assert 0.035 < far[known].mean() < 0.065
    assert np.isnan(value[~np.isfinite(maps.cost.values)]).all()


def test_a_wrong_model_shows() -> None:
    curves, _ = study(np.random.default_rng(6), 300, AIF, noise=3.0)
    maps = kety.fit(curves, TWO_PHASE, AIF, "patlak", autocorrelation=True)
    far = np.abs(maps[AUTOCORRELATION] - maps[f"{AUTOCORRELATION}_mean"])
    assert (far > 1.96 * maps[f"{AUTOCORRELATION}_sd"]).mean() > 0.5


def test_correlation_is_that_of_the_residuals_returned() -> None:
    curves, _ = study(np.random.default_rng(7), 24, AIF)
    image = np.asfortranarray(curves.reshape(4, 3, 2, 37))
    maps = kety.fit(image, TWO_PHASE, AIF, autocorrelation=True, fitted=True)
    e = maps.residual.values.astype(float)
    expected = (e[..., 1:] * e[..., :-1]).sum(-1) / (e * e).sum(-1)
    np.testing.assert_allclose(maps[AUTOCORRELATION].values, expected, atol=2e-4)


@pytest.mark.parametrize("options", [{"joint": "graph"}, {"discretization": "iir"}])
def test_only_of_voxelwise_exact_fits(options: dict[str, Any]) -> None:
    with pytest.raises(KetyError, match="leave joint and discretization out"):
        kety.fit(np.zeros((2, 37)), TWO_PHASE, AIF, autocorrelation=True, **options)
