"""HU to enhancement, the frames before contrast agent, and the curve that shows its arrival."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kety.errors import KetyError
from kety.signal import baseline_frames, enhancement, enhancing_curve, resolve_frames

TWO_PHASE = np.concatenate(
    [2.0 * np.arange(9), 18 + 5.0 * np.arange(19), 113 + 10.0 * np.arange(9)]
)


def bolus(times: Any, arrival: float = 0.0) -> NDArray[np.float64]:
    """An artery's enhancement of peak about 1: a gamma variate and a plateau."""
    t = np.maximum(np.asarray(times, dtype=np.float64) - arrival, 0.0)
    first = (t / 8.0) ** 3 * np.exp(3.0 * (1.0 - t / 8.0))
    return np.asarray(first + 0.2 * (1.0 - np.exp(-t / 20.0)) * np.exp(-t / 900.0))


# Enhancement


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    ("dtype", "result"), [("i2", "f4"), ("f4", "f4"), ("f8", "f8"), ("i4", "f8"), ("u1", "f4")]
)
def test_enhancement_is_hu_above_the_mean_baseline(order: Any, dtype: str, result: str) -> None:
    rng = np.random.default_rng(0)
    hu = rng.integers(0, 200, (5, 4, 3, 7)).astype(dtype, order=order)
    found = enhancement(hu, slice(1, 4))
    expected = hu.astype("f8") - hu[..., 1:4].astype("f8").mean(axis=-1, keepdims=True)
    assert found.dtype == np.dtype(result)
    assert found.flags.f_contiguous == hu.flags.f_contiguous
    np.testing.assert_allclose(found, expected, atol=1e-4 if result == "f4" else 1e-12)
    np.testing.assert_array_equal(enhancement(hu[2, 1, 0], [1, 2, 3]), found[2, 1, 0])


def test_enhancement_does_not_touch_its_input_and_keeps_bad_voxels_apart() -> None:
    hu = np.array(
        [[40.0, 42.0, 90.0], [np.nan, 40.0, 90.0], [np.inf, 40.0, 90.0], [1.0, 1.0, np.nan]]
    )
    before = hu.copy()
    found = enhancement(hu, [0, 1])
    np.testing.assert_array_equal(hu, before)
    np.testing.assert_array_equal(found[0], [-1.0, 1.0, 49.0])
    assert np.all(np.isnan(found[1:3]))
    np.testing.assert_array_equal(found[3], [0.0, 0.0, np.nan])


@given(
    level=st.floats(-1000.0, 1000.0),
    height=st.floats(1.0, 500.0),
    count=st.integers(1, 8),
)
def test_enhancement_recovers_what_was_added(level: float, height: float, count: int) -> None:
    truth = height * np.concatenate([np.zeros(count), bolus(np.arange(1.0, 20.0))])
    np.testing.assert_allclose(enhancement(level + truth, slice(0, count)), truth, atol=1e-9)


def test_enhancement_bad_input() -> None:
    with pytest.raises(KetyError, match="real numbers of shape"):
        enhancement(np.float64(3.0), [0])
    with pytest.raises(KetyError, match="real numbers"):
        enhancement(np.array(["a", "b"]), [0])
    with pytest.raises(KetyError, match="outside the series"):
        enhancement(np.ones((2, 5)), [5])


# Frames


def test_frames_in_every_form() -> None:
    for frames in (slice(1, 4), [3, 1, 2], (1, 2, 3), np.array([1, 2, 3], dtype="u1")):
        assert resolve_frames(frames, 6).tolist() == [1, 2, 3]
    assert resolve_frames(np.arange(6) < 2, 6).tolist() == [0, 1]
    assert resolve_frames(slice(None, None, -1), 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([], "no baseline frame"),
        (slice(4, 4), "no baseline frame"),
        (np.zeros(6, dtype=bool), "no baseline frame"),
        (np.ones(5, dtype=bool), "5 entries, the series 6"),
        ([0, 6], "frames run from 0 to 5"),
        ([-1, 0], "frames run from 0 to 5"),
        ([1, 1], "repeat"),
        ([0.0, 1.0], "whole numbers"),
        (4, r"slice\(0, n\)"),
        ([[0, 1]], "one-dimensional"),
    ],
)
def test_bad_frames(frames: Any, message: str) -> None:
    with pytest.raises(KetyError, match=message):
        resolve_frames(frames, 6)


@pytest.mark.parametrize(
    "times", [np.arange(0.0, 200.0), TWO_PHASE, 5.0 * np.arange(60), 16.0 * np.arange(20)]
)
@given(part=st.floats(0.0, 1.0), level=st.floats(-100.0, 1000.0), height=st.floats(1.0, 400.0))
def test_arrival_without_noise(
    times: NDArray[np.float64], part: float, level: float, height: float
) -> None:
    """All frames before the arrival but perhaps the last, and none above 5 % of the slope."""
    step = times[1] - times[0]
    arrival = 0.5 * step + part * min(60.0, 8.0 * step)
    truth = bolus(times, arrival)
    frames = baseline_frames(level + height * truth, times)
    assert frames.tolist() == list(range(frames.size))
    assert frames.size >= max(1, int(np.sum(times <= arrival)) - 1)
    assert truth[frames[-1]] <= 0.05 * truth.max()


@pytest.mark.parametrize("times", [np.arange(0.0, 200.0), TWO_PHASE, 5.0 * np.arange(60)])
@pytest.mark.parametrize("noise", [0.02, 0.05, 0.1])
def test_baseline_error_is_near_that_of_known_frames(
    times: NDArray[np.float64], noise: float
) -> None:
    rng = np.random.default_rng(4)
    found, known = [], []
    for _ in range(200):
        arrival = rng.uniform(times[2], times[8])
        curve = bolus(times, arrival) + rng.normal(0.0, noise, times.size)
        found.append(curve[baseline_frames(curve, times)].mean())
        known.append(curve[times <= arrival].mean())
    assert np.sqrt(np.mean(np.square(found))) < 1.25 * np.sqrt(np.mean(np.square(known)))


def test_plateau_curves_have_an_arrival() -> None:
    times = 5.0 * np.arange(40)
    rise = 1.0 - np.exp(-np.maximum(times - 21.0, 0.0) / 15.0)
    curve = 100.0 * rise + np.random.default_rng(0).normal(0.0, 2.0, 40)
    assert baseline_frames(curve, times).tolist() == [0, 1, 2, 3, 4]


def test_given_frames_override() -> None:
    times = np.arange(20.0)
    assert baseline_frames(np.zeros(20), times, frames=slice(1, 4)).tolist() == [1, 2, 3]
    with pytest.raises(KetyError, match="outside the series"):
        baseline_frames(np.zeros(20), times, frames=[20])


def test_arrival_bad_input() -> None:
    times = np.arange(40.0)
    curve = bolus(times, 10.0)
    with pytest.raises(KetyError, match="one shape"):
        baseline_frames(curve, times[:-1])
    with pytest.raises(KetyError, match="one shape"):
        baseline_frames(curve[None], times[None])
    with pytest.raises(KetyError, match="strictly increasing"):
        baseline_frames(curve, times[::-1])
    with pytest.raises(KetyError, match="1 NaN or infinite"):
        baseline_frames(np.where(times == 3.0, np.nan, curve), times)
    with pytest.raises(KetyError, match="cannot show an arrival"):
        baseline_frames([1.0], [0.0])
    with pytest.raises(KetyError, match=r"nothing enhances.*give the baseline frames"):
        baseline_frames(np.full(40, 50.0), times)
    with pytest.raises(KetyError, match=r"no frame precedes.*give the baseline frames"):
        baseline_frames(bolus(times + 8.0), times)
    with pytest.raises(KetyError, match="falls below its first frames"):
        baseline_frames(bolus(times + 4.0), times)


def test_noise_alone_is_refused() -> None:
    rng = np.random.default_rng(9)
    for _ in range(50):
        with pytest.raises(KetyError, match="enhance"):
            baseline_frames(rng.normal(0.0, 6.0, 37), TWO_PHASE)


# The curve of what enhances


def scene(rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Soft tissue with an artery of 2 % of the voxels and strips of air that move."""
    data = 40.0 + rng.normal(0.0, 6.0, (20, 20, 5, TWO_PHASE.size))
    data += 20.0 * bolus(TWO_PHASE, 12.0)
    artery = np.zeros((20, 20, 5), dtype=bool)
    artery[4:8, 4:6] = True
    data[artery] += 250.0 * bolus(TWO_PHASE, 7.0)
    data[15:17] -= 600.0 * (rng.random((2, 20, 5, TWO_PHASE.size)) > 0.5)
    return data.astype(np.float32), artery


@pytest.mark.parametrize("order", ["C", "F"])
def test_enhancing_curve_is_that_of_the_artery(order: Any) -> None:
    data, artery = scene(np.random.default_rng(2))
    curve = enhancing_curve(np.asarray(data, order=order))
    np.testing.assert_allclose(curve, data[artery].mean(axis=0), atol=8.0)
    frames = baseline_frames(curve, TWO_PHASE)
    # Contrast agent arrives between frames 3 and 4, and is at 2.5 % of its peak in frame 4.
    assert frames.tolist() in ([0, 1, 2, 3], [0, 1, 2, 3, 4])
    tissue = enhancing_curve(data, mask=~artery, fraction=0.2)
    assert tissue.max() < 80.0
    everything = enhancing_curve(data[artery], fraction=1.0)
    np.testing.assert_allclose(everything, data[artery].mean(axis=0), rtol=1e-6)


def test_enhancing_curve_leaves_bad_voxels_out() -> None:
    data, _ = scene(np.random.default_rng(2))
    expected = enhancing_curve(data)
    data[0, 0, 0, 5] = np.nan
    data[0, 0, 1] = np.inf
    data[0, 0, 2] = 0.0
    np.testing.assert_allclose(enhancing_curve(data), expected, atol=1.0)


def test_enhancing_curve_bad_input() -> None:
    falling = np.tile(np.arange(8.0)[::-1], (3, 1))
    with pytest.raises(KetyError, match="none of 3 voxels enhances"):
        enhancing_curve(falling)
    with pytest.raises(KetyError, match="0 are finite"):
        enhancing_curve(np.full((3, 8), np.nan))
    with pytest.raises(KetyError, match="T >= 4"):
        enhancing_curve(np.ones((3, 3)))
    with pytest.raises(KetyError, match="fraction"):
        enhancing_curve(np.ones((3, 8)), fraction=0.0)
    with pytest.raises(KetyError, match="mask has shape"):
        enhancing_curve(np.ones((3, 8)), mask=np.ones(4, dtype=bool))


def test_reference_arteries_have_their_baseline(reference: Callable[[str], Path]) -> None:
    with (reference("qiba6") / "aif.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    signal = np.array([float(row["signal_au"]) for row in table])
    frames = baseline_frames(signal, [float(row["time_s"]) for row in table])
    # The bolus starts at 60 s; the baseline's error is far below the noise of any scanner.
    assert 120 <= frames.size <= 135
    assert signal[frames].mean() == pytest.approx(signal[0], abs=1e-3 * signal.max())
