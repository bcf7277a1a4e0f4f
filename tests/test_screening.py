"""The first look at all voxels against the exact ranking of every one of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, shift

from kety.inputs import find_artery, screening
from kety.inputs.movement import displacements
from kety.inputs.pool import make_pool
from kety.inputs.screening import DETECTED, Passage, drawn, rises_of, screen
from kety.signal.baseline import columns
from kety.simulate import simulate_abdomen
from kety.simulate.phantom import scaled_input
from naive_extraction import naive_drop

BASELINE = np.arange(4)


def curves(seed: int, frames: int, voxels: int, level: float) -> tuple[Any, Any]:
    """Curves (V, T) with first passes of all heights, noise of all sizes, and their times."""
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.uniform(1.0, 4.0, frames))
    passes = scaled_input(times[-1] + 1.0, times[5], 4.0, 1.0, 0.42)(times)
    heights = rng.uniform(0.0, 300.0, (voxels, 1))
    noise = rng.uniform(0.0, 40.0, (voxels, 1)) * rng.standard_normal((voxels, frames))
    return level + heights * passes + noise, times


@settings(max_examples=40, deadline=None)
@example(seed=1939, frames=12, quantity="signal", whole=True)  # two peaks of one height
@given(
    seed=st.integers(0, 10_000),
    frames=st.integers(12, 300),
    quantity=st.sampled_from(["hu", "enhancement", "signal", "concentration"]),
    whole=st.booleans(),
)
def test_the_first_look_misses_no_clear_voxel(
    seed: int, frames: int, quantity: str, whole: bool
) -> None:
    values, times = curves(seed, frames, 60, 400.0)
    if whole:
        values = values.round().astype(np.int16)
    passage = Passage.of(times, BASELINE)
    seen = screen(values, np.arange(60), passage, quantity)
    exact = rises_of(values, passage, quantity)
    # Of two peaks of one height, as whole numbers have them, either may be the one.
    pairs = exact.curves[:, 1:] + exact.curves[:, :-1]
    low, high = np.sort(pairs[:, passage.first : passage.last], axis=1)[:, -2:].T
    one_peak = high - low > 1e-5 * np.abs(high)
    clear = (exact.drop > DETECTED * exact.noise) & one_peak
    assert seen.usable.all()
    assert not (clear & ~seen.clear).any()
    # What it lets through beyond that all but reaches the limit; half of an even number of bends
    # below it says little less than more than half.
    bends = np.sort(np.abs(np.diff(exact.curves, n=2, axis=1)), axis=1)[:, (frames - 2) // 2 - 1]
    limit = 1.01 * exact.drop * np.sqrt(6.0) / (screening.MAD_TO_SD * DETECTED)
    assert (bends < limit)[seen.clear & one_peak].all()
    np.testing.assert_allclose(seen.before, values[:, BASELINE].mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(
        seen.score[one_peak],
        exact.score[one_peak],
        rtol=1e-3,
        atol=1e-3 * exact.score.max(),
    )


def test_first_passes_are_those_of_the_slow_twin() -> None:
    values, times = curves(3, 80, 20, 50.0)
    found = rises_of(values, Passage.of(times, BASELINE), "hu")
    expected = [naive_drop(curve - curve[:4].mean(), times, 4) for curve in values]
    np.testing.assert_allclose(found.drop, expected, rtol=1e-9)


def test_voxels_that_are_not_finite_or_constant_are_of_no_use() -> None:
    values, times = curves(0, 40, 5, 40.0)
    values[0, 7] = np.nan
    values[1, 20] = np.inf
    values[2] = 40.0
    values[3, 0] = np.nan
    seen = screen(values, np.arange(5), Passage.of(times, BASELINE), "hu")
    assert seen.usable.tolist() == [False, False, False, False, True]
    seen = screen(values - 40.0, np.arange(5), Passage.of(times, BASELINE), "signal")
    assert not seen.usable[2]


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_pool_is_the_exact_ranking_of_all_voxels(order: Any) -> None:
    phantom = simulate_abdomen((40, 32, 3), noise=12.0, seed=2, rounded=True)
    data, times = np.array(phantom.series.data, order=order), phantom.series.times
    every = np.arange(data[..., 0].size)
    pool = make_pool(data, times, BASELINE, every, "hu")
    flat = data.reshape(-1, times.size, order=order)
    exact = rises_of(flat, Passage.of(times, BASELINE), "hu")
    before = flat[:, BASELINE].mean(axis=1)
    good = (before >= -100.0) & (before <= 200.0)
    clear = np.flatnonzero(good & (exact.drop > DETECTED * exact.noise))
    ranked = clear[np.argsort(-exact.score[clear], kind="stable")][:2000]
    places = np.stack(np.unravel_index(ranked, data.shape[:3], order=order), axis=1)
    np.testing.assert_array_equal(pool.places, places)
    np.testing.assert_array_equal(pool.noise, exact.noise[ranked])
    np.testing.assert_array_equal(pool.inside.reshape(-1, order=order), good)


def test_more_clear_voxels_than_wanted_are_ranked_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    phantom = simulate_abdomen((40, 32, 3), noise=12.0, seed=2)
    data, times = phantom.series.data, phantom.series.times
    every = np.arange(data[..., 0].size)
    whole = make_pool(data, times, BASELINE, every, "hu")
    monkeypatch.setattr("kety.inputs.pool._POOL_LIMITS", (50, 50))
    few = make_pool(data, times, BASELINE, every, "hu")
    assert len(whole.places) > 100
    np.testing.assert_array_equal(few.places, whole.places[:50])


def test_a_sample_of_a_large_series_leads_to_the_same_artery(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    phantom = simulate_abdomen(noise=15.0, seed=0, rounded=True)
    whole = find_artery(phantom.series.data, phantom.series.times)
    monkeypatch.setattr(screening, "SAMPLE", 5000)
    assert drawn(np.arange(4)).size == 4
    chosen = drawn(np.arange(20_000))
    assert chosen.size == 5000
    assert (np.diff(chosen) > 0).all()
    artery = find_artery(phantom.series.data, phantom.series.times)
    np.testing.assert_array_equal(artery.mask, whole.mask)
    np.testing.assert_array_equal(artery.curve.concentration, whole.curve.concentration)
    np.testing.assert_allclose(artery.tissue, whole.tissue, atol=0.05 * whole.tissue.max())


def test_columns_are_the_rows_asked_for() -> None:
    flat = np.arange(7000 * 50).reshape(7000, 50) % 3001
    for data in (flat, np.asfortranarray(flat)):
        for voxels in (np.arange(7000), np.arange(5, 7000, 3), np.arange(100, 6500)):
            found = np.concatenate([values.T.copy() for _, values in columns(data, voxels)])
            np.testing.assert_array_equal(found, flat[voxels])
            places = [part for part, _ in columns(data, voxels)]
            assert places[0].start == 0
            assert places[-1].stop == voxels.size


def test_displacements_of_large_images_are_in_voxels() -> None:
    rng = np.random.default_rng(1)
    still = gaussian_filter(rng.normal(size=(401, 420, 1)), (8, 8, 0)) * 100.0
    moves = [(0.0, 0.0), (1.2, -0.6), (-0.8, 1.8)]
    data = np.stack([shift(still, (*by, 0.0), order=3, mode="nearest") for by in moves], axis=-1)
    np.testing.assert_allclose(displacements(data, np.array([0])), moves, atol=0.12)
