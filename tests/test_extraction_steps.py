"""What is done to a measured input: vein, tail, smoothing, frames, comparison."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from kety import InputFunction
from kety.errors import KetyError
from kety.inputs import (
    GammaVariate,
    chosen_frames,
    compare_masks,
    corrected_by_vein,
    find_artery,
    find_vein,
    first_pass,
    smoothed,
    smoothed_tail,
    vein_factor,
)
from kety.simulate import simulate_abdomen, simulate_brain
from kety.simulate.phantom import scaled_input

TIMES = np.arange(0.0, 240.0, 2.0)


def parker(noise: float = 0.0, seed: int = 0) -> InputFunction:
    truth = scaled_input(240.0, 15.0, 5.0, 300.0, 0.42)
    values = truth(TIMES) + np.random.default_rng(seed).normal(0.0, noise, TIMES.size)
    return InputFunction(TIMES, values, name="aorta")


@settings(max_examples=20, deadline=None)
@given(
    peak=st.floats(1.0, 500.0),
    arrival=st.floats(5.0, 15.0),
    rise=st.floats(4.0, 12.0),
    shape=st.floats(1.5, 6.0),
)
def test_a_gamma_variate_is_recovered_with_its_area(
    peak: float, arrival: float, rise: float, shape: float
) -> None:
    truth = GammaVariate(peak, arrival, rise, shape)
    times = np.arange(0.0, 120.0, 1.0)
    fit = first_pass(InputFunction(times, truth(times)))
    assert fit.area == pytest.approx(truth.area, rel=1e-4)
    assert fit.arrival == pytest.approx(arrival, abs=0.05)
    area = quad(lambda t: float(truth(t)), arrival, arrival + 60.0 * rise, limit=400)[0]
    assert truth.area == pytest.approx(area, rel=1e-6)


def test_recirculation_is_left_out_of_the_first_pass() -> None:
    first = GammaVariate(300.0, 10.0, 7.0, 3.0)
    again = 0.15 * GammaVariate(300.0, 24.0, 20.0, 2.0)(TIMES)
    fit = first_pass(InputFunction(TIMES, first(TIMES) + again))
    assert fit.area == pytest.approx(first.area, rel=0.06)


def test_what_is_no_first_pass_is_refused() -> None:
    with pytest.raises(KetyError, match="does not fall to half its peak before 238 s"):
        first_pass(InputFunction(TIMES, TIMES))
    coarse = np.array([0.0, 20.0, 40.0, 60.0])
    with pytest.raises(KetyError, match="at least 5 are needed"):
        first_pass(InputFunction(coarse, [0.0, 300.0, 60.0, 50.0]))
    saw = np.where(np.arange(TIMES.size) % 2, 300.0, 160.0)
    with pytest.raises(KetyError, match="is no first pass: a gamma-variate misses it by"):
        first_pass(InputFunction(TIMES, np.where((TIMES > 20.0) & (TIMES < 60.0), saw, 0.0)))


@pytest.mark.parametrize("share", [1.0, 0.6])
def test_a_vein_undoes_the_partial_volume_of_the_arteries(share: float) -> None:
    phantom = simulate_brain(
        (56, 56, 20), noise=6.0, seed=2, arrival=10.0, times=np.arange(0.0, 60.0, 1.5)
    )
    data = phantom.series.data.copy()
    inside = phantom.mask("artery")
    before = phantom.baseline[inside][:, None]
    data[inside] = before + share * (data[inside] - before)
    times = phantom.series.times
    artery = find_artery(data, times)
    assert (artery.mask & inside).sum() >= 0.9 * artery.mask.sum()
    vein = find_vein(data, times, artery)
    assert vein.bolus.rise_time > artery.chosen.bolus.rise_time + 1.0
    factor = vein_factor(artery.curve, vein.curve)
    assert factor == pytest.approx(1.0 / share, rel=0.08)
    corrected = corrected_by_vein(artery.curve, vein.curve)
    np.testing.assert_allclose(corrected.concentration, factor * artery.curve.concentration)
    assert first_pass(corrected).area == pytest.approx(first_pass(vein.curve).area, rel=1e-3)


def test_a_vein_that_is_none_is_refused() -> None:
    phantom = simulate_abdomen((48, 40, 6), noise=5.0)
    artery = find_artery(phantom.series.data, phantom.series.times)
    with pytest.raises(KetyError, match="no vein was found"):
        find_vein(phantom.series.data, phantom.series.times, artery)
    aif = parker()
    small = InputFunction(TIMES, 0.5 * aif(TIMES - 4.0))
    with pytest.raises(KetyError, match=r"has 0\.5\d? of the artery's area"):
        corrected_by_vein(aif, small)


@settings(max_examples=15, deadline=None)
@given(fast=st.floats(0.02, 0.1), slow=st.floats(0.0005, 0.004), share=st.floats(0.2, 0.8))
def test_a_tail_of_exponentials_is_found_again(fast: float, slow: float, share: float) -> None:
    def tail(t: Any) -> Any:
        return 80.0 * (share * np.exp(-fast * (t - 50.0)) + (1 - share) * np.exp(-slow * (t - 50)))

    aif = parker()
    values = np.where(TIMES >= 50.0, tail(TIMES), aif.concentration)
    later = np.concatenate([TIMES, [260.0, 300.0]])
    result = smoothed_tail(InputFunction(TIMES, values), start=50.0, times=later)
    np.testing.assert_allclose(
        result.concentration[later >= 50.0], tail(later[later >= 50.0]), rtol=2e-3
    )
    np.testing.assert_array_equal(result.concentration[later < 50.0], values[TIMES < 50.0])


@pytest.mark.parametrize("terms", [1, 2])
def test_a_fitted_tail_has_less_noise_and_keeps_the_first_pass(terms: int) -> None:
    truth, noisy = parker(), parker(6.0)
    result = smoothed_tail(noisy, terms=terms)
    early = TIMES < 30.0
    np.testing.assert_array_equal(result.concentration[early], noisy.concentration[early])
    late = TIMES > 60.0
    error = np.sqrt(np.mean((result.concentration - truth.concentration)[late] ** 2))
    assert error < 0.5 * np.sqrt(np.mean((noisy.concentration - truth.concentration)[late] ** 2))
    assert (np.diff(result.concentration[late]) <= 0.0).all()


def test_bad_tails_are_refused() -> None:
    with pytest.raises(KetyError, match="1 or 2 exponentials; found 3"):
        smoothed_tail(parker(), terms=3)
    with pytest.raises(KetyError, match="its tail has no start"):
        smoothed_tail(InputFunction(TIMES, TIMES))
    with pytest.raises(KetyError, match="3 of 120 samples lie in the tail from 233 s on"):
        smoothed_tail(parker(), start=233.0)
    with pytest.raises(KetyError, match="120 of 120 samples lie in the tail"):
        smoothed_tail(parker(), start=-1.0)


def test_smoothing_keeps_parabolas_and_lowers_noise() -> None:
    parabola = 3.0 + 0.2 * TIMES - 1e-3 * TIMES**2
    kept = smoothed(InputFunction(TIMES, parabola), 9.0)
    np.testing.assert_allclose(kept.concentration, parabola, rtol=1e-9)
    rng = np.random.default_rng(0)
    flat = smoothed(InputFunction(TIMES, 100.0 + rng.normal(0.0, 5.0, TIMES.size)), 12.0)
    assert flat.concentration.std() < 3.5
    peak = smoothed(parker(), 6.0).concentration.max()
    assert peak == pytest.approx(parker().concentration.max(), rel=0.03)
    for width in (0.0, -1.0, np.nan):
        with pytest.raises(KetyError, match="must be a time above 0 s"):
            smoothed(parker(), width)
    with pytest.raises(KetyError, match="no four samples of the curve lie within 1 s"):
        smoothed(parker(), 1.0)


def test_frames_are_chosen() -> None:
    aif = parker()
    kept = chosen_frames(aif, slice(0, 40))
    np.testing.assert_array_equal(kept.times, TIMES[:40])
    assert chosen_frames(aif, slice(None)) is aif
    without = np.ones(TIMES.size, dtype=bool)
    without[[3, 17]] = False
    assert chosen_frames(aif, without).times.size == TIMES.size - 2
    with pytest.raises(KetyError, match="at least two"):
        chosen_frames(aif, [5])
    with pytest.raises(KetyError, match="lie outside the series"):
        chosen_frames(aif, [5, 500])


def test_masks_are_compared() -> None:
    found, drawn = np.zeros((6, 6, 2), bool), np.zeros((6, 6, 2), bool)
    found[1:4, 1:3, 0] = True  # 6 voxels
    drawn[2:5, 1:3, 0] = True  # 6 voxels, 4 shared
    aif = parker()
    doubled = InputFunction(TIMES, 2.0 * aif.concentration)
    result = compare_masks(found, drawn, doubled, aif)
    assert result.dice == pytest.approx(2 * 4 / 12)
    assert result.inside == pytest.approx(4 / 6)
    assert result.voxels == (6, 6, 4)
    assert (result.peak_ratio, result.area_ratio) == pytest.approx((2.0, 2.0))
    level = np.sqrt(np.mean(aif.concentration**2)) / aif.concentration.max()
    assert result.rms == pytest.approx(level)
    assert "Dice 0.67" in result.words
    with pytest.raises(KetyError, match="draw both on one grid"):
        compare_masks(found, drawn[:3], aif, aif)
    with pytest.raises(KetyError, match="empty"):
        compare_masks(found, np.zeros_like(drawn), aif, aif)
    with pytest.raises(KetyError, match="one curve is of blood"):
        compare_masks(found, drawn, aif, aif.plasma())
    with pytest.raises(KetyError, match="no stretch of time"):
        compare_masks(found, drawn, aif, aif.shifted(1000.0))
