"""The multi-task paper's similarities, against their formulas written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import differential_entropy

from cases import GROWING, PLACES, TISSUE, Floats, two_tissues
from kety.errors import KetyError
from kety.joint import similarity
from kety.joint.similarity import (
    KernelRidge,
    entropy_maximum,
    gaussian_similarity,
    gram_entropy,
    kernel_ridge,
    kernel_width,
    spatial_distance,
    temporal_distance,
    temporal_embedding,
)

OTHER = ~np.eye(36, dtype=bool)


def smoothed(seed: int, noise: float = 0.05, length: float | None = 15.0) -> KernelRidge:
    return kernel_ridge(two_tissues(np.random.default_rng(seed), noise)[0], GROWING, length)


@st.composite
def studies(draw: st.DrawFn) -> tuple[Floats, Floats, float]:
    """Curves, times and a kernel length."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    voxels, frames = draw(st.integers(2, 12)), draw(st.integers(3, 40))
    times = np.cumsum(rng.uniform(1.0, 10.0, frames))
    smooth = np.sin(times / rng.uniform(5.0, 60.0, (voxels, 1)))
    noise = draw(st.sampled_from([0.01, 0.3, 3.0]))
    scale = draw(st.sampled_from([1e-3, 1.0, 300.0]))
    curves = scale * (smooth + noise * rng.standard_normal((voxels, frames)))
    return curves, times, draw(st.floats(1.0, 60.0))


# --- distances -----------------------------------------------------------------------------------
def test_spatial_distance_is_euclidean() -> None:
    d = spatial_distance(PLACES)
    assert d.shape == (36, 36)
    i, j = 3, 29
    assert d[i, j] == pytest.approx(np.hypot(*(PLACES[i] - PLACES[j])))
    np.testing.assert_array_equal(d, d.T)
    assert (np.diag(d) == 0).all()
    assert (d[OTHER] >= 1).all()


@settings(max_examples=40, deadline=None)
@given(studies())
def test_temporal_distance_is_a_distance(case: tuple[Floats, Floats, float]) -> None:
    curves, times, length = case
    d = temporal_distance(kernel_ridge(curves, times, length))
    assert d.shape == (len(curves), len(curves))
    np.testing.assert_array_equal(d, d.T)
    assert (np.diag(d) == 0).all()
    assert np.isfinite(d).all()
    roundabout = (d[:, :, None] + d[None]).min(axis=1)
    assert (d <= roundabout + 1e-9 * d.max()).all()


@settings(max_examples=40, deadline=None)
@given(studies())
def test_embedding_and_coefficients_meet_their_equations(
    case: tuple[Floats, Floats, float],
) -> None:
    curves, times, length = case
    # With a ridge far above rounding, the plain formulas hold to many digits.
    ridge = kernel_ridge(curves, times, length, least_ridge=1e-4)
    system = ridge.gram + ridge.beta[:, None, None] * np.eye(len(times))
    found = np.einsum("vtu,vu->vt", system, ridge.alpha)
    np.testing.assert_allclose(found, curves, rtol=0, atol=1e-9 * np.abs(curves).max())
    np.testing.assert_allclose(
        ridge.gram, np.exp(-((times[:, None] - times) ** 2) / (2 * length**2)), rtol=1e-12
    )
    e = temporal_embedding(ridge)
    assert e.shape[1] <= len(times)
    apart = ridge.alpha[:, None] - ridge.alpha
    expected = np.einsum("vwt,tu,vwu->vw", apart, ridge.gram, apart)
    squares = ((e[:, None] - e) ** 2).sum(axis=2)
    np.testing.assert_allclose(squares, expected, rtol=0, atol=1e-8 * expected.max())
    np.testing.assert_allclose(temporal_distance(ridge) ** 2, squares, rtol=1e-9, atol=1e-20)


def test_long_kernels_need_few_coordinates() -> None:
    assert temporal_embedding(smoothed(0, length=60.0)).shape[1] < 30
    assert temporal_embedding(smoothed(0, length=4.0)).shape[1] == 66


def test_distance_scales_with_the_curves() -> None:
    curves = two_tissues(np.random.default_rng(1), 0.05)[0]
    once, thrice = (kernel_ridge(f * curves, GROWING, 15.0) for f in (1.0, 3.0))
    np.testing.assert_allclose(thrice.beta, once.beta, rtol=1e-4)
    np.testing.assert_allclose(temporal_distance(thrice), 3 * temporal_distance(once), rtol=1e-3)


def test_tissues_are_told_apart() -> None:
    curves = two_tissues(np.random.default_rng(2), 0.01)[0]
    d = temporal_distance(kernel_ridge(curves, GROWING, 15.0, least_ridge=1e-4))
    same = TISSUE[:, None] == TISSUE
    assert np.median(d[~same]) > 1.5 * np.median(d[same & OTHER])


# --- ridges --------------------------------------------------------------------------------------
def left_out_score(y: Floats, gram: Floats, beta: float) -> float:
    """GCV from fits that leave each frame out, weighted as by Golub, Heath and Wahba."""
    n = len(y)
    influence = np.diag(gram @ np.linalg.inv(gram + beta * np.eye(n)))
    total = 0.0
    for i in range(n):
        kept = np.arange(n) != i
        system = gram[np.ix_(kept, kept)] + beta * np.eye(n - 1)
        predicted = gram[i, kept] @ np.linalg.solve(system, y[kept])
        total += ((y[i] - predicted) * (1 - influence[i]) / (1 - influence.mean())) ** 2
    return total / n


@pytest.mark.parametrize("voxel", [0, 3])
@pytest.mark.parametrize("noise", [0.02, 0.1])
def test_ridge_is_the_least_left_out_score(noise: float, voxel: int) -> None:
    y = two_tissues(np.random.default_rng(5), noise)[0][voxel]
    ridge = kernel_ridge(y[None], GROWING, 15.0)
    grid = np.linalg.eigvalsh(ridge.gram)[-1] * np.geomspace(1e-6, 1e2, 33)
    scores = np.array([left_out_score(y, ridge.gram, b) for b in grid])
    assert np.ptp(scores) > 0.1 * scores.min()
    near = grid[max(np.argmin(scores) - 1, 0)], grid[min(np.argmin(scores) + 1, 32)]
    best = minimize_scalar(
        lambda place: left_out_score(y, ridge.gram, np.exp(place)),
        bounds=np.log(near),
        method="bounded",
        options={"xatol": 1e-7},
    )
    assert left_out_score(y, ridge.gram, ridge.beta[0]) <= best.fun * (1 + 1e-9)
    assert ridge.beta[0] == pytest.approx(np.exp(best.x), rel=1e-3)


def test_noisier_curves_are_smoothed_more() -> None:
    beta = [np.median(smoothed(6, noise).beta) for noise in (0.01, 0.1, 1.0)]
    assert beta[0] < beta[1] < beta[2]


def test_each_voxel_is_smoothed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    curves = two_tissues(np.random.default_rng(7), 0.05)[0]
    whole = kernel_ridge(curves, GROWING, 15.0)
    monkeypatch.setattr(similarity, "BLOCK", 5)
    blocks = kernel_ridge(curves, GROWING, 15.0)
    np.testing.assert_allclose(blocks.beta, whole.beta, rtol=1e-5)
    np.testing.assert_allclose(blocks.alpha, whole.alpha, rtol=1e-4, atol=1e-9)


def test_length_is_chosen_by_the_summed_score() -> None:
    curves = two_tissues(np.random.default_rng(8), 0.05)[0]
    ridge = kernel_ridge(curves, GROWING)
    assert 2.5 < ridge.length < 0.25 * GROWING[-1]

    def score(length: float) -> float:
        r = kernel_ridge(curves, GROWING, length)
        hat = [r.gram @ np.linalg.inv(r.gram + b * np.eye(66)) for b in r.beta]
        free = np.array([66 - np.trace(h) for h in hat])
        return float(np.sum(66 * np.sum((curves - r.alpha @ r.gram) ** 2, axis=1) / free**2))

    assert score(ridge.length) < min(score(0.5 * ridge.length), score(2 * ridge.length))


def test_a_curve_of_zeros_stays_zero() -> None:
    curves = two_tissues(np.random.default_rng(9), 0.05)[0]
    curves[4] = 0.0
    assert (kernel_ridge(curves, GROWING, 15.0).alpha[4] == 0).all()


# --- weights -------------------------------------------------------------------------------------
def test_weights_are_gaussian() -> None:
    d = spatial_distance(PLACES)
    w = gaussian_similarity(d, 0.3)
    assert (np.diag(w) == 1).all()
    np.testing.assert_allclose(w, np.exp(-0.3 * d**2), rtol=1e-14)
    np.testing.assert_array_equal(w, w.T)


def test_width_is_of_the_pairs() -> None:
    d = spatial_distance(PLACES)
    assert kernel_width(d) == pytest.approx(1 / np.var(d[OTHER]))
    assert entropy_maximum(d) == pytest.approx(1 / np.mean(d[OTHER] ** 2))
    assert entropy_maximum(d) < kernel_width(d)


@pytest.mark.parametrize("which", ["spatial", "temporal"])
def test_entropy_is_largest_where_said(which: str) -> None:
    d = spatial_distance(PLACES) if which == "spatial" else temporal_distance(smoothed(10))
    grid = entropy_maximum(d) * np.geomspace(1e-4, 1e4, 801)
    found = grid[np.argmax([gram_entropy(d, g) for g in grid])]
    assert found == pytest.approx(entropy_maximum(d))


def test_entropy_is_that_of_the_weights_as_draws() -> None:
    """Differences of the closed form are those of an estimate from the ordered weights."""
    d = spatial_distance(np.random.default_rng(11).normal(size=(150, 2)))
    pairs = d[np.triu_indices(150, 1)]
    for gamma in (0.05, 0.25, 0.5):
        drawn = [differential_entropy(np.exp(-g * pairs**2)) for g in (gamma, 0.1)]
        formula = gram_entropy(d, gamma) - gram_entropy(d, 0.1)
        assert formula == pytest.approx(drawn[0] - drawn[1], abs=0.02)


# --- errors --------------------------------------------------------------------------------------
CURVES = np.zeros((4, 66))
BAD = {
    "one row": (lambda: kernel_ridge(CURVES[0], GROWING), "shape"),
    "frames": (lambda: kernel_ridge(CURVES[:, 1:], GROWING), r"\(V, 66\)"),
    "no voxels": (lambda: kernel_ridge(CURVES[:0], GROWING), "shape"),
    "not finite": (lambda: kernel_ridge(np.where(CURVES == 0, np.nan, 0), GROWING), r"curves\[0\]"),
    "two frames": (lambda: kernel_ridge(CURVES[:, :2], GROWING[:2]), "3 frames"),
    "length": (lambda: kernel_ridge(CURVES, GROWING, 0.0), "length"),
    "least ridge": (lambda: kernel_ridge(CURVES, GROWING, least_ridge=2.0), "least_ridge"),
    "places": (lambda: spatial_distance(np.arange(3.0)), "coordinates"),
    "words": (lambda: spatial_distance([["a"]]), "real numbers"),
    "no variance": (lambda: kernel_width(1.0 - np.eye(4)), "do not vary"),
    "all at one place": (lambda: entropy_maximum(np.zeros((4, 4))), "do not vary"),
    "one pair": (lambda: kernel_width(1.0 - np.eye(2)), "do not vary"),
    "not square": (lambda: kernel_width(np.zeros((2, 3))), r"\(V, V\)"),
    "one way": (lambda: kernel_width(np.triu(np.ones((4, 4)))), "both directions"),
    "gamma": (lambda: gaussian_similarity(np.zeros((4, 4)), -1.0), "gamma"),
    "no gamma": (lambda: gram_entropy(spatial_distance(PLACES), 0.0), "gamma"),
}


@pytest.mark.parametrize("what", list(BAD))
def test_unusable_input_is_told(what: str) -> None:
    call, words = BAD[what]
    with pytest.raises(KetyError, match=words):
        call()
