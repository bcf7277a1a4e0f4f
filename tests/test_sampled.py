"""The core's discretised models against scipy.signal, its transforms against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import naive_discrete
from kety import Discretization, InputFunction, KetyError, _native
from kety.fitting.discretize import (
    falling_window,
    get_discretization,
    kernel_model,
    resampling_matrix,
    sample_times,
)
from kety.fitting.engine import instruction_sets
from kety.fitting.forward import kernel_curves

Floats = NDArray[np.float64]
repeatable = settings(deadline=None, derandomize=True, max_examples=60)

LO = np.array([0.0, 0.0, 0.0, 0.0])
HI = np.array([0.3, 0.05, 0.2, 12.0])
CHOICES = [
    ("iir", "thiran"), ("iir", "round"), ("iir", "exact"),
    ("fir", "thiran"), ("fir", "round"), ("fir", "exact"),
]  # fmt: skip


def an_input(seed: int, start: float, end: float) -> InputFunction:
    rng = np.random.default_rng(seed)
    times = start + np.append(0.0, np.cumsum(rng.uniform(0.7, 3.0, int((end - start) / 1.5))))
    times = np.append(times[times < end], end)
    return InputFunction(times, rng.uniform(0.0, 1.0, times.size))


def native_values(
    aif: InputFunction,
    frames: Floats,
    points: Floats,
    choice: Discretization,
    *,
    lo: Floats = LO,
    hi: Floats = HI,
    dtype: Any = np.float64,
    isa: str = "",
    threads: int = 1,
) -> Floats:
    """Values (points, N) at v, a, k, tau."""
    samples = sample_times(frames, choice.grid_rate)
    record = kernel_model(aif, samples, lo, hi, choice, dtype=dtype)
    model = _native.SampledModel(record, dtype == np.float32, isa)
    out = np.empty((len(points), len(samples)))
    model.values(np.ascontiguousarray((points - lo) / (hi - lo)), out, threads)
    return out


@st.composite
def situations(draw: st.DrawFn) -> tuple[InputFunction, Floats, float, Floats]:
    """An input, frames, a rate and parameters of a few curves."""
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    rate = draw(st.sampled_from([0.5, 1.0, 2.0, 5.0, 1.7]))
    frames = draw(st.floats(-5.0, 20.0)) + np.append(
        0.0, np.cumsum(rng.uniform(0.5, 6.0, draw(st.integers(1, 20))))
    )
    # Before, with or after the first frame.
    start = frames[0] + draw(st.sampled_from([-7.3, -1.0, 0.0, 2.2]))
    aif = an_input(seed, start, frames[-1] + 15.0)
    points = LO + rng.random((draw(st.integers(1, 40)), 4)) * (HI - LO)
    corner = draw(st.sampled_from([None, (0, 3), (1, 3), (2, 0)]))
    if corner:
        points[:, corner[0]] = (LO, HI)[corner[1] % 2][corner[0]]
    return aif, frames, rate, points


@pytest.mark.parametrize(("kind", "delay_filter"), CHOICES)
@repeatable
@given(situation=situations())
def test_values_are_those_of_scipy_signal(
    kind: str, delay_filter: str, situation: tuple[InputFunction, Floats, float, Floats]
) -> None:
    aif, frames, rate, points = situation
    choice = Discretization(kind, rate=rate, delay_filter=delay_filter)
    expected = [naive_discrete.curve(aif, frames, rate, *p, kind, delay_filter) for p in points]
    found = native_values(aif, frames, points, choice)
    size = max(np.abs(expected).max(), 1e-3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11 * size)


@pytest.mark.parametrize("delay_filter", ["thiran", "round", "exact"])
def test_a_negative_delay_reads_the_input_beyond_the_last_frame(delay_filter: str) -> None:
    frames = np.arange(0.0, 40.0, 1.0)
    aif = an_input(5, -3.0, 60.0)
    rng = np.random.default_rng(1)
    lo, hi = np.array([0.0, 0.0, 0.0, -6.0]), HI
    points = lo + rng.random((37, 4)) * (hi - lo)
    points[:20, 3] = -rng.random(20) * 6.0
    choice = Discretization("iir", rate=2.0, delay_filter=delay_filter)
    found = native_values(aif, frames, points, choice, lo=lo, hi=hi)
    expected = [naive_discrete.curve(aif, frames, 2.0, *p, "iir", delay_filter) for p in points]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("window", ["hann", "hamming", "blackman"])
def test_windows_of_the_impulse_response(window: str) -> None:
    frames = np.arange(3.0, 50.0, 2.0)
    aif = an_input(6, 0.0, 60.0)
    points = LO + np.random.default_rng(2).random((9, 4)) * (HI - LO)
    found = native_values(aif, frames, points, Discretization("fir", rate=1.0, window=window))
    # Run-up, grid, and one more since the all-pass may read a sample ahead.
    weights = falling_window(window, 3 + len(naive_discrete.grid(frames, 1.0)) + 1)
    assert weights[0] == pytest.approx(1.0)
    assert (np.diff(weights) < 0).all()
    expected = [
        naive_discrete.curve(aif, frames, 1.0, *p, "fir", "thiran", weights) for p in points
    ]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("isa", instruction_sets())
@pytest.mark.parametrize("kind", ["exact", "iir", "fir"])
def test_instruction_sets_and_precisions_agree(kind: str, isa: str, dtype: Any) -> None:
    frames = np.arange(0.0, 60.0, 1.0)
    aif = an_input(8, 0.0, 80.0)
    points = LO + np.random.default_rng(3).random((45, 4)) * (HI - LO)
    choice = Discretization(kind)
    expected = native_values(aif, frames, points, choice, isa=instruction_sets()[0])
    found = native_values(aif, frames, points, choice, dtype=dtype, isa=isa)
    atol = 1e-12 if dtype == np.float64 else 2e-5
    # In float32 a delay may round to the other side of a jump.
    wrong = np.abs(found - expected).max(axis=1) > atol
    assert wrong.sum() <= (0 if dtype == np.float64 else 2)


@repeatable
@given(situation=situations())
def test_exact_is_the_exact_kernel(
    situation: tuple[InputFunction, Floats, float, Floats],
) -> None:
    aif, frames, rate, points = situation
    found = native_values(aif, frames, points, Discretization("exact"))
    expected, _ = kernel_curves(aif, frames, points)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    rounded = native_values(
        aif, frames, points, Discretization("exact", rate=rate, delay_filter="round")
    )
    points[:, 3] = np.floor(points[:, 3] * rate + 0.5) / rate
    expected, _ = kernel_curves(aif, sample_times(frames, rate), points)
    np.testing.assert_allclose(rounded, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["exact", "iir", "fir"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("baseline", [False, True])
def test_costs_are_sums_of_squares(kind: str, weighted: bool, baseline: bool) -> None:
    rng = np.random.default_rng(4)
    frames = np.arange(0.0, 45.0, 1.0)
    aif = an_input(9, 0.0, 60.0)
    points = LO + rng.random((50, 4)) * (HI - LO)
    choice = Discretization(kind)
    weights = rng.uniform(0.0, 2.0, frames.size) if weighted else None
    record = kernel_model(aif, frames, LO, HI, choice, weights=weights, baseline=baseline)
    model = _native.SampledModel(record, False, "")
    curve = rng.random(frames.size)
    found = np.empty(50)
    model.costs(curve, np.ascontiguousarray((points - LO) / (HI - LO)), found, 2)
    residual = native_values(aif, frames, points, choice) - curve
    w = np.ones(frames.size) if weights is None else weights
    if baseline:
        residual -= np.average(residual, axis=1, weights=w)[:, None]
    np.testing.assert_allclose(found, (w * residual**2).sum(axis=1), rtol=1e-10)


def test_values_do_not_depend_on_neighbours_or_threads() -> None:
    frames = np.arange(0.0, 60.0, 1.5)
    aif = an_input(10, 0.0, 90.0)
    points = LO + np.random.default_rng(5).random((333, 4)) * (HI - LO)
    for kind in ("exact", "iir", "fir"):
        choice = Discretization(kind)
        together = native_values(aif, frames, points, choice, threads=2)
        alone = np.concatenate([native_values(aif, frames, p[None], choice) for p in points])
        np.testing.assert_array_equal(together, alone, err_msg=kind)


@pytest.mark.parametrize("kind", ["iir", "fir"])
def test_the_order_of_the_discretisations(kind: str) -> None:
    """Twice the rate: a quarter of the trapezoid's error, half of the rectangle's."""
    times = np.linspace(0.0, 100.0, 2001)
    aif = InputFunction(times, np.sin(np.pi * times / 100.0) ** 2)
    frames = np.arange(0.0, 80.0, 4.0)
    point = np.array([[0.0, 0.02, 0.03, 0.0]])
    exact, _ = kernel_curves(aif, frames, point)
    errors = []
    for rate in (1.0, 2.0, 4.0):
        at_frames = slice(None, None, round(4 * rate))
        found = native_values(aif, frames, point, Discretization(kind, rate=rate))
        errors.append(np.abs(found[0, at_frames] - exact[0]).max())
    ratios = np.array(errors[:-1]) / errors[1:]
    np.testing.assert_allclose(ratios, 4.0 if kind == "iir" else 2.0, rtol=0.05)


@given(seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, derandomize=True, max_examples=20)
def test_resampling(seed: int) -> None:
    rng = np.random.default_rng(seed)
    frames = np.append(0.0, np.cumsum(rng.uniform(0.5, 6.0, 12)))
    samples = sample_times(frames, 2.0)
    assert samples[0] == frames[0]
    assert frames[-1] - 0.5 < samples[-1] <= frames[-1]
    for kind, degree in (("linear", 1), ("cubic", 3)):
        curve = np.polyval(rng.normal(size=degree + 1), frames / 10)
        matrix = resampling_matrix(frames, samples, kind)
        assert matrix is not None
        expected = np.polyval(np.polyfit(frames / 10, curve, degree), samples / 10)
        np.testing.assert_allclose(matrix @ curve, expected, atol=1e-8 * np.abs(curve).max())


def test_frames_on_the_grid_are_not_resampled() -> None:
    frames = np.arange(5.0, 30.0, 0.5)
    assert sample_times(frames, 2.0) is frames
    assert sample_times(frames, None) is frames
    assert resampling_matrix(frames, frames, "cubic") is None
    assert len(sample_times(frames, 1.0)) == 25


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "fft"}, ["fft", "exact, iir, fir"]),
        ({"kind": "iir", "delay_filter": "allpass"}, ["allpass", "exact, thiran, round"]),
        ({"kind": "iir", "resampling": "nearest"}, ["nearest", "cubic, linear, none"]),
        ({"kind": "iir", "rate": 0.0}, ["positive", "0.0"]),
        ({"kind": "iir", "rate": float("nan")}, ["positive", "nan"]),
        ({"kind": "iir", "rate": "5"}, ["positive", "'5'"]),
        ({"kind": "exact", "delay_filter": "thiran"}, ["sampled signal", "iir"]),
        ({"kind": "exact", "delay_filter": "round"}, ["rate"]),
        ({"kind": "iir", "window": "hann"}, ["fir", "hann"]),
    ],
)
def test_choices_that_make_no_sense(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(KetyError) as error:
        Discretization(**options)
    for word in words:
        assert word in str(error.value)


def test_other_bad_input() -> None:
    frames = np.arange(0.0, 100.0, 1.0)
    with pytest.raises(KetyError, match="lower the processing rate"):
        sample_times(frames, 1e6)
    with pytest.raises(KetyError, match="lower the processing rate"):
        resampling_matrix(frames, sample_times(frames, 3e4), "cubic")
    with pytest.raises(KetyError, match="unknown window 'wall'"):
        falling_window("wall", 5)
    with pytest.raises(KetyError, match=r"exact, iir, fir or a kety\.Discretization, found int"):
        get_discretization(3)  # type: ignore[arg-type]
    assert get_discretization("iir") == Discretization("iir")
