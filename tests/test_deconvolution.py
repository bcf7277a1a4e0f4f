"""Deconvolution: against slow twins, known flow and transit, symmetries, errors, bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import kety
import naive_deconvolution as naive
from kety.errors import KetyError
from kety.fitting.status import Status
from kety.modelfree.convolution import (
    LEAST_SINGULAR,
    circulant_column,
    circulant_modes,
    standard_matrix,
)
from kety.modelfree.deconvolution import METHODS

Floats = NDArray[np.float64]
TIMES = np.arange(0.0, 61.0)
FINE = 0.02
SEEDS = st.integers(0, 2**32 - 1)


def gamma(times: Floats, start: float = 8.0) -> Floats:
    """The input of the bias table: a bolus of 300 HU, 10 s wide at half its height."""
    x = np.maximum(times - start, 0.0)
    return np.asarray(300.0 * (x / 4.5) ** 3 * np.exp(3.0 - x / 1.5))


AIF = kety.InputFunction(TIMES, gamma(TIMES))


def phantom(
    flow: float, mtt: float, box: bool = False, delay: float = 0.0, times: Floats = TIMES
) -> Floats:
    fine = np.arange(0.0, times[-1] + 10.0, FINE)
    return naive.tissue(gamma(fine, 8.0 + delay), times, flow, mtt, box, FINE)


def run(curves: Any, method: str, times: Floats = TIMES, **options: Any) -> Any:
    options = {"mask": np.ones(np.shape(curves)[:-1]), "dtype": "float64", "aif": AIF} | options
    return kety.deconvolve(curves, times, method=method, **options)


# --- twins --------------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(SEEDS, st.floats(0.3, 3.0))
def test_standard_matrix_is_the_integral(seed: int, step: float) -> None:
    ca = np.random.default_rng(seed).uniform(0, 5, 7)
    np.testing.assert_allclose(standard_matrix(ca, step), naive.causal(ca, step), atol=2e-4 * step)


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_circulant_modes_are_a_singular_value_decomposition(seed: int) -> None:
    ca = np.random.default_rng(seed).uniform(0, 5, 9)
    matrix = naive.circulant(ca, 1.5)
    column = circulant_column(ca, 1.5)
    np.testing.assert_allclose(column, matrix[:, 0])
    modes = circulant_modes(column, 0.0)
    singular = np.linalg.svd(matrix)[1]
    np.testing.assert_allclose(np.repeat(modes.singular, np.diff(modes.last, prepend=0)), singular)
    np.testing.assert_allclose(
        modes.synthesis @ modes.analysis, np.linalg.pinv(matrix, rcond=1e-12), rtol=1e-6, atol=1e-6
    )


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.sampled_from(METHODS), st.floats(0.05, 0.4), st.booleans())
def test_agrees_with_the_twin(seed: int, method: str, threshold: float, uneven: bool) -> None:
    rng = np.random.default_rng(seed)
    times = np.arange(0.0, 40.0)
    if uneven:
        times = np.sort(rng.permutation(times[1:-1])[:25])
        times = np.concatenate([[0.0], times, [39.0]])
    aif = kety.InputFunction(np.arange(0.0, 40.0), gamma(np.arange(0.0, 40.0)))
    # Frames that all but miss the pass of the input are refused.
    assume(np.count_nonzero(aif(times) >= 0.5 * aif.concentration.max()) >= 2)
    curves = np.array([phantom(50.0, m, times=times) for m in (3.0, 8.0)])
    curves += rng.normal(0, 1.0, curves.shape)
    grid = np.arange(0.0, 40.0)
    ca = aif(grid)
    options: dict[str, Any] = {"threshold": threshold}
    if method == "oscillation":
        options = {"oscillation": 0.1 * threshold}
    maps = run(curves, method, times, aif=aif, residue=True, **options)
    for voxel, curve in enumerate(curves):
        if maps.status[voxel] == Status.NOT_ENHANCING:  # few frames may all miss the bolus
            continue
        y = np.interp(grid, times, curve)
        padded = np.concatenate([y, np.zeros(40)])
        if method == "standard":
            expected: Floats | None = naive.invert(naive.causal(ca, 1.0), y, threshold)
            tolerance = 2e-3  # the twin's quadrature
        else:
            tolerance, matrix = 1e-6, naive.circulant(ca, 1.0)
            expected = (
                naive.invert(matrix, padded, threshold)
                if method == "circulant"
                else naive.by_oscillation(matrix, padded, 0.1 * threshold, LEAST_SINGULAR)
            )
        if expected is None:
            assert maps.status[voxel] == Status.NOT_IDENTIFIABLE
            assert np.isnan(maps.fb[voxel])
            continue
        if method != "standard":
            expected = np.roll(expected, 40)  # from the most negative lag on
        scale = 6000 * np.abs(expected).max()
        np.testing.assert_allclose(
            maps.residue[voxel], 6000 * expected, atol=tolerance * scale, rtol=0
        )
        assert float(maps.fb[voxel]) == pytest.approx(6000 * expected.max(), rel=2 * tolerance)
        volume = 100 * np.trapezoid(curve, times) / np.trapezoid(ca, grid)
        assert float(maps.volume[voxel]) == pytest.approx(volume)
        assert float(maps.mtt[voxel]) == pytest.approx(60 * volume / float(maps.fb[voxel]))


# --- truth ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("box", [False, True])
@pytest.mark.parametrize(
    ("method", "worst"), [("standard", 0.33), ("circulant", 0.45), ("oscillation", 0.37)]
)
def test_flow_and_transit_without_noise(method: str, worst: float, box: bool) -> None:
    cases = [(flow, mtt) for flow in (10.0, 30.0, 60.0, 100.0) for mtt in (3.0, 6.0, 12.0)]
    maps = run([phantom(*case, box) for case in cases], method)
    flow, mtt = np.array(cases).T
    np.testing.assert_allclose(maps.volume, flow * mtt / 60, rtol=0.03)
    assert (np.abs(maps.fb / flow - 1) < worst).all()
    # What flow gains transit loses.
    np.testing.assert_allclose(maps.mtt * maps.fb, mtt * flow, rtol=0.03)
    long = mtt == 12.0
    assert (np.abs(maps.fb[long] / flow[long] - 1) < 0.22).all()
    # Truncation widens short transits, the same share at any flow.
    by_transit = (maps.fb.values / flow).reshape(4, 3)
    np.testing.assert_allclose(by_transit - by_transit[:1], 0, atol=1e-6)


def test_delay_lowers_the_standard_flow_alone() -> None:
    curves = [phantom(60.0, 6.0, delay=d) for d in (0.0, 2.0, 4.0)]
    standard = run(curves, "standard").fb.values
    assert standard[1] < 0.9 * standard[0]
    for method in ("circulant", "oscillation"):
        fb = run(curves, method).fb.values
        np.testing.assert_allclose(fb, fb[0], rtol=0.02)


@pytest.mark.parametrize("method", ["circulant", "oscillation"])
def test_whole_samples_of_delay_change_tmax_alone(method: str) -> None:
    """Exact, where the tissue curve is back at 0 before the end, for tissue before the input too"""
    shifts = (-3, 0, 1, 5)
    fine = np.arange(0.0, 71.0, FINE)
    blood = gamma(fine) * (fine < 30.0)
    curve = np.round(naive.tissue(blood, TIMES, 40.0, 5.0, True, FINE), 9)
    assert curve[40] == 0
    maps = run([np.roll(curve, s) for s in shifts], method, residue=True)
    np.testing.assert_allclose(maps.fb, maps.fb[1], rtol=1e-9)
    np.testing.assert_allclose(maps.tmax - maps.tmax[1], shifts, atol=1e-9)
    for row, shift in enumerate(shifts):
        rolled = np.roll(maps.residue[1], shift)
        np.testing.assert_allclose(maps.residue[row], rolled, atol=1e-9 * float(maps.fb[1]))


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=15, deadline=None)
@given(SEEDS, st.floats(0.1, 10.0), st.floats(0.1, 10.0))
def test_scales(method: str, seed: int, tissue: float, blood: float) -> None:
    rng = np.random.default_rng(seed)
    curve = phantom(50.0, 6.0) + rng.normal(0, 0.5, TIMES.size)
    one = run(curve, method)
    aif = kety.InputFunction(TIMES, blood * AIF.concentration)
    two = run(tissue * curve, method, aif=aif)
    for name in ("fb", "volume", "fb_se", "volume_se", "fp"):
        assert float(two[name]) == pytest.approx(tissue / blood * float(one[name])), name
    for name in ("mtt", "tmax", "mtt_se"):
        assert float(two[name]) == pytest.approx(float(one[name])), name


@pytest.mark.parametrize("method", ["standard", "circulant"])
def test_is_linear(method: str) -> None:
    a, b = phantom(50.0, 4.0), phantom(20.0, 10.0, delay=2.0)
    maps = run([a, b, 2 * a - 0.5 * b], method, residue=True)
    first, second, third = maps.residue.values
    np.testing.assert_allclose(third, 2 * first - 0.5 * second, atol=1e-8)


def test_flow_is_of_blood_whatever_the_site() -> None:
    curve = phantom(60.0, 8.0)
    blood = run(curve, "circulant")
    plasma = run(curve, "circulant", aif=AIF.plasma())
    for name in ("fb", "fp", "volume", "mtt"):
        assert float(blood[name]) == pytest.approx(float(plasma[name])), name
    assert float(blood.fp) == pytest.approx((1 - AIF.hematocrit) * float(blood.fb))


def test_uneven_frames() -> None:
    times = np.concatenate([np.arange(0.0, 40.0, 2.0), np.arange(40.0, 61.0, 5.0)])
    even = run(phantom(60.0, 8.0), "oscillation")
    uneven = run(phantom(60.0, 8.0, times=times), "oscillation", times)
    assert float(uneven.fb) == pytest.approx(float(even.fb), rel=0.12)
    assert float(uneven.mtt) == pytest.approx(float(even.mtt), rel=0.15)


def test_single_precision_and_threads() -> None:
    rng = np.random.default_rng(5)
    curves = phantom(60.0, 6.0) + rng.normal(0, 1.0, (5000, TIMES.size))
    for method in METHODS:
        double = run(curves, method, threads=1)
        single = run(curves, method, dtype="float32", threads=3)
        assert single.fb.dtype == np.float32
        close = np.isclose(single.fb, double.fb, rtol=1e-4)
        # The number of components is a whole number, and rounding may tip a few.
        assert close.mean() > 0.998


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["standard", "circulant"])
def test_standard_errors_are_those_of_the_noise(method: str) -> None:
    """At little noise, when the maximum stays in its place."""
    rng = np.random.default_rng(0)
    curves = 1e3 * phantom(60.0, 10.0) + rng.normal(0, 1.0, (3000, TIMES.size))
    curves -= curves[:, :8].mean(axis=1, keepdims=True)
    maps = run(curves, method, baseline=slice(0, 8), threshold=0.3)
    most = maps.tmax == maps.tmax.median()
    assert float(most.mean()) > 0.9
    noise = float(maps.noise.median())
    for name in ("fb", "volume", "mtt"):
        error = float(maps[name + "_se"].median()) / noise
        assert float(maps[name].std()) == pytest.approx(error, rel=0.06), name


def test_status() -> None:
    rng = np.random.default_rng(3)
    curves = np.stack([phantom(60.0, 6.0), phantom(60.0, 6.0), np.zeros(TIMES.size)])
    curves += rng.normal(0, 0.5, curves.shape)
    curves[1, 7] = np.inf
    maps = kety.deconvolve(curves.reshape(3, 1, 1, -1), TIMES, AIF)
    assert maps.status.values.ravel().tolist() == [
        Status.CONVERGED,
        Status.NOT_FINITE,
        Status.NOT_ENHANCING,
    ]
    assert maps.fb.dims == ("x", "y", "z")
    assert np.isnan(maps.fb.values.ravel()[1:]).all()
    for name, one in maps.items():
        assert {"units", "long_name", "osipi"} <= set(one.attrs), name
    # A limit that nothing meets leaves the area alone.
    strict = run(curves[:1], "oscillation", oscillation=1e-9)
    assert strict.status[0] == Status.NOT_IDENTIFIABLE
    assert np.isnan([strict.fb, strict.mtt, strict.tmax, strict.fb_se]).all()
    assert np.isfinite(strict.volume).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "svd"}, "unknown method 'svd'; valid: standard, circulant, oscillation"),
        ({"method": "standard", "oscillation": 0.1}, "oscillation=0.1 is not used"),
        ({"method": "oscillation", "threshold": 0.1}, "threshold=0.1 is not used"),
        ({"method": "circulant", "threshold": 1.5}, "threshold must lie between 0 and 1"),
        ({"method": "oscillation", "oscillation": -1.0}, "oscillation must be a positive"),
        ({"interval": 0.0}, "interval must be a positive"),
        ({"interval": 0.01}, "6001 grid points"),
        ({"threads": 0}, "threads must be"),
        ({"aif": TIMES}, "aif must be a kety.InputFunction"),
        ({"aif": kety.InputFunction(TIMES[:30], gamma(TIMES[:30]))}, "input function ends at 29"),
        ({"aif": kety.InputFunction(TIMES, -gamma(TIMES))}, "no positive area"),
    ],
)
def test_bad_options(options: dict[str, Any], words: str) -> None:
    options = {"method": "circulant"} | options
    with pytest.raises(KetyError, match=words):
        run(phantom(50.0, 5.0), **options)


def test_frames_too_far_apart() -> None:
    times = np.arange(0.0, 61.0, 15.0)
    with pytest.raises(KetyError, match="too far apart to deconvolve"):
        run(phantom(50.0, 5.0, times=times), "circulant", times)


def test_contrast_agent_before_the_first_frame_is_warned_of() -> None:
    times = np.arange(12.0, 61.0)
    with pytest.warns(UserWarning, match="of its peak at the first frame"):
        run(phantom(50.0, 5.0, times=times), "circulant", times)
