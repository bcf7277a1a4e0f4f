"""The artery found in a series: where there is one, where there is none, and what it says."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import shift

import kety
from kety.errors import KetyError
from kety.inputs import bolus_of, find_artery
from kety.inputs.bolus import noise_of
from kety.inputs.candidates import clusters_of, core_of
from kety.inputs.movement import displacements
from kety.inputs.pool import make_pool
from kety.simulate import Phantom, rician, simulate_abdomen, simulate_brain
from kety.simulate.phantom import scaled_input
from naive_extraction import naive_clusters, naive_drop

Array = Any


@cache
def abdomen(noise: float = 15.0, seed: int = 0) -> Phantom:
    return simulate_abdomen(noise=noise, seed=seed, rounded=True)


@cache
def found(noise: float = 15.0, seed: int = 0) -> kety.ArterialInput:
    phantom = abdomen(noise, seed)
    return find_artery(phantom.series.data, phantom.series.times)


def message(data: Array, times: Array, **options: Any) -> str:
    with pytest.raises(KetyError, match="no artery was found") as caught:
        find_artery(data, times, **options)
    return str(caught.value)


@pytest.mark.parametrize(("noise", "seed"), [(10.0, 3), (15.0, 0), (25.0, 1)])
def test_the_aorta_is_found_with_the_true_peak_and_area(noise: float, seed: int) -> None:
    phantom, artery = abdomen(noise, seed), found(noise, seed)
    times = phantom.series.times
    truth, curve = phantom.aif(times), artery.curve.concentration
    assert not (artery.mask & ~phantom.mask("aorta")).any()
    assert artery.mask.sum() > 200
    assert curve.max() == pytest.approx(truth.max(), rel=0.05)
    assert np.trapezoid(curve, times) == pytest.approx(np.trapezoid(truth, times), rel=0.03)
    assert artery.quality == "good"
    assert artery.unit == "HU"
    assert times[artery.baseline[-1]] <= 12.5  # the bolus arrives at 10 s


def test_the_curve_is_the_mean_of_the_mask_above_the_baseline() -> None:
    artery, data = found(), abdomen().series.data
    values = data[artery.mask].astype(float)
    expected = values.mean(axis=0) - values[:, artery.baseline].mean()
    np.testing.assert_allclose(artery.curve.concentration, expected, atol=1e-9)
    assert artery.candidates[0] is artery.chosen


def test_reasons_name_each_criterion_with_its_value_and_limit() -> None:
    artery = found()
    names = [one.name for one in artery.chosen.criteria]
    assert names == ["high", "early", "narrow", "smooth", "still", "clear", "agreeing", "large"]
    assert all("(" in words and ")" in words for words in artery.reasons)
    assert artery.chosen.passed
    assert 0.0 < artery.chosen.score <= 1.0


def test_mr_signal_with_coils_and_noise_gives_the_artery() -> None:
    phantom = abdomen(0.0)
    concentration = (phantom.series.data - phantom.baseline[..., None]) / 60.0
    x = np.linspace(0.5, 1.5, phantom.labels.shape[0])[:, None, None, None]
    body = np.where(phantom.body, 100.0, 1.0)[..., None]
    signal = x * body * (1.0 + np.maximum(concentration, 0.0))
    data = rician(signal, 10.0, seed=1)
    data[..., 0] *= 1.4  # not in the steady state
    artery = find_artery(data, phantom.series.times, modality="MR")
    assert not (artery.mask & ~phantom.mask("aorta")).any()
    assert artery.unit == "1"
    assert artery.baseline[0] == 1
    assert any("steady state" in words for words in artery.warnings)
    assert artery.quality == "doubtful"


def test_brain_arteries_come_before_its_veins() -> None:
    phantom = simulate_brain(
        (48, 48, 16), noise=8.0, seed=1, times=np.arange(0.0, 60.0, 1.5), arrival=10.0
    )
    artery = find_artery(phantom.series.data, phantom.series.times)
    inside = artery.mask & phantom.mask("artery")
    assert inside.sum() >= 0.9 * artery.mask.sum()


@pytest.mark.parametrize("seed", range(4))
def test_noise_alone_holds_no_artery(seed: int) -> None:
    data = np.random.default_rng(seed).normal(40.0, 25.0, (40, 40, 4, 50))
    words = message(data, 2.0 * np.arange(50.0))
    assert "give a mask of an artery" in words


@pytest.mark.parametrize("noise", [0.0, 10.0, 25.0])
@pytest.mark.parametrize(
    "tissues",
    [
        ("liver", "tumour rim", "necrotic core"),
        ("kidney cortex", "kidney medulla", "fat", "muscle"),
        (),
    ],
)
def test_tissue_alone_holds_no_artery(noise: float, tissues: tuple[str, ...]) -> None:
    phantom = abdomen(noise)
    mask = phantom.mask(*tissues) if tissues else ~phantom.mask("aorta")
    message(phantom.series.data, phantom.series.times, mask=mask)


@pytest.mark.parametrize("amplitude", [2.0, 4.0])
def test_heavy_motion_is_said_to_be_motion(amplitude: float) -> None:
    phantom = abdomen(10.0)
    data = phantom.series.data[:, :, 3:8].astype(np.float32)
    rng = np.random.default_rng(5)
    for frame in range(data.shape[3]):
        by = (*rng.normal(0.0, amplitude, 2), 0.0)
        data[..., frame] = shift(data[..., frame], by, order=1, mode="nearest")
    assert "frames are displaced by up to about" in message(data, phantom.series.times)


def test_a_vessel_that_is_cut_off_by_the_scanner_is_doubtful() -> None:
    phantom = abdomen(10.0)
    data = np.minimum(phantom.series.data + np.int16(2800), 3071) - 0
    shifted = np.where(phantom.body[..., None], phantom.series.data, -1024)
    cut = np.where(data == 3071, 3071, shifted).astype(np.int16)
    artery = find_artery(cut, phantom.series.times)
    assert any("reach 3071" in words for words in artery.warnings)


def test_another_large_vessel_that_comes_earlier_is_pointed_at() -> None:
    times = np.arange(0.0, 90.0, 2.0)
    data = np.random.default_rng(0).normal(40.0, 5.0, (30, 30, 3, times.size))
    early = scaled_input(90.0, 10.0, 4.0, 300.0, 0.42)
    data[4:10, 4:10] += early(times)
    data[18:26, 18:26] += 1.2 * early(times - 8.0)
    data[12:16] += 0.1 * early(times - 12.0)
    artery = find_artery(data, times)
    assert any("another vessel enhances 8.0 s" in words for words in artery.warnings)


def test_fresh_blood_in_a_border_slice_is_pointed_at() -> None:
    times = np.arange(0.0, 120.0, 3.0)
    curve = scaled_input(120.0, 20.0, 3.0, 5.0, 0.42)(times)
    data = np.full((24, 24, 5, times.size), 100.0)
    data[8:16, 8:16] *= 1.0 + curve
    data[8:16, 8:16, 0] *= 1.5
    data[2:6] *= 1.0 + 0.05 * np.cumsum(curve) / curve.max()
    data = rician(data, 3.0, seed=0)
    artery = find_artery(data, times, modality="MR")
    assert any("border slice 0" in words for words in artery.warnings)


def test_bad_input_is_refused() -> None:
    data, times = np.zeros((4, 4, 2, 12)), np.arange(12.0)
    with pytest.raises(KetyError, match=r"shape \(X, Y, Z, T\)"):
        find_artery(data[0], times)
    with pytest.raises(KetyError, match="strictly increasing"):
        find_artery(data, times[::-1])
    with pytest.raises(KetyError, match="unknown quantity 'signal' of 'CT'; valid: hu of CT"):
        find_artery(data, times, quantity="signal")
    with pytest.raises(KetyError, match="unknown quantity '' of 'PET'"):
        find_artery(data, times, modality="PET")
    with pytest.raises(KetyError, match="6 frames are too few"):
        find_artery(data[..., :6], times[:6])
    with pytest.raises(KetyError, match="mask has shape"):
        find_artery(data, times, mask=np.ones((3, 4, 2)))
    message(data, times)
    message(data, times, baseline=slice(0, 10))


def test_clusters_are_those_of_the_slow_twin() -> None:
    phantom = simulate_abdomen((40, 32, 3), noise=12.0, seed=2)
    data, times = phantom.series.data, phantom.series.times
    baseline = np.arange(4)
    pool = make_pool(data, times, baseline, np.arange(data[..., 0].size), "hu")
    clusters = clusters_of(pool, pool.early)
    expected = naive_clusters(pool, pool.early)
    assert [set(c.members.tolist()) for c in clusters] == [set(one) for one in expected]
    for cluster in clusters:
        assert core_of(pool, cluster).any()


def test_the_drop_is_that_of_the_slow_twin() -> None:
    phantom = simulate_abdomen((40, 32, 3), noise=12.0, seed=2)
    data, times = phantom.series.data, phantom.series.times
    pool = make_pool(data, times, np.arange(4), np.arange(data[..., 0].size), "hu")
    for row in (0, 7, 30):
        curve = data[tuple(pool.places[row])].astype(float)
        expected = naive_drop(curve - curve[:4].mean(), times, 4)
        assert pool.drop[row] == pytest.approx(expected, rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(
    injection=st.floats(0.5, 40.0),
    step=st.floats(1.0, 5.0),
    phase=st.floats(0.0, 1.0),
    peak=st.floats(0.1, 1000.0),
)
def test_an_artery_is_narrow_for_its_rise_whatever_the_injection(
    injection: float, step: float, phase: float, peak: float
) -> None:
    times = phase * step + np.arange(0.0, 200.0, step)
    curve = scaled_input(250.0, 20.0, injection, 300.0, 0.42)(times) / 300.0 * peak
    bolus = bolus_of(curve, times)
    assert bolus.width / max(bolus.rise, step) < 4.0
    assert bolus.peak == curve.max()
    assert bolus.rise_time < bolus.peak_time < bolus.rise_time + bolus.width
    scaled = bolus_of(7.0 * curve, times)
    assert scaled.width == pytest.approx(bolus.width)


def test_a_bolus_of_known_shape() -> None:
    times = np.arange(0.0, 101.0)
    triangle = np.maximum(0.0, 10.0 - np.abs(times - 30.0))
    bolus = bolus_of(triangle, times)
    assert (bolus.peak, bolus.peak_time) == (10.0, 30.0)
    assert (bolus.rise_time, bolus.width) == (25.0, 10.0)
    assert bolus.late == 0.0
    assert bolus.roughness == 0.0
    assert bolus_of(np.minimum(times, 50.0), times).width == np.inf
    assert bolus_of(-triangle - 1.0, times).peak < 0.0


def test_noise_is_measured_through_a_curve() -> None:
    rng = np.random.default_rng(0)
    curve = scaled_input(300.0, 10.0, 10.0, 300.0, 0.42)(np.arange(0.0, 300.0, 1.5))
    noise = noise_of(curve + rng.normal(0.0, 8.0, (200, curve.size)))
    assert noise.mean() == pytest.approx(8.0, rel=0.05)


def test_displacements_are_measured() -> None:
    rng = np.random.default_rng(1)
    from scipy.ndimage import gaussian_filter

    still = gaussian_filter(rng.normal(size=(60, 60, 2)), (4, 4, 0)) * 100.0
    moves = [(0.0, 0.0), (0.0, 0.0), (0.6, -0.3), (-0.4, 0.9)]
    data = np.stack([shift(still, (*by, 0.0), order=3, mode="nearest") for by in moves], axis=-1)
    np.testing.assert_allclose(displacements(data, np.array([0, 1])), moves, atol=0.06)
    assert not displacements(data[:4], np.array([0])).any()


def test_the_real_abdomen_shows_its_aorta(reference: Callable[[str], Path]) -> None:
    from kety.io import read_series

    folder = reference("madym_abdomen")
    series = read_series(folder / "dce.nii.gz", times=folder / "times.csv", modality="MR")
    artery = find_artery(series.data, series.times, modality="MR")
    x, y, _ = np.nonzero(artery.mask)
    # Looked at: the aorta in front of the spine, between the kidneys.
    assert 44 <= x.min() <= x.max() <= 58
    assert 28 <= y.min() <= y.max() <= 42
    assert artery.mask.any(axis=(0, 1)).all()
    assert artery.baseline.tolist() == list(range(7))
    outside = np.ones(series.shape, dtype=bool)
    outside[42:60, 26:44] = False
    message(series.data, series.times, modality="MR", mask=outside)


def test_the_real_breast_shows_no_artery(reference: Callable[[str], Path]) -> None:
    from kety.io import read_series

    path = reference("dcemrijl_invivo") / "dce.nii.gz"
    series = read_series(path, times=16.43, modality="MR")
    message(series.data, series.times, modality="MR")
