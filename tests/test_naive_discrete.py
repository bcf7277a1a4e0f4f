"""The slow twin of the discretised model: against quadrature, by its order, by its symmetries."""

from __future__ import annotations

import numpy as np
import pytest

from kety.inputs import InputFunction
from kety.inputs.population import parker
from naive import curve as exact_curve
from naive_discrete import DELAY_FILTERS, KINDS, curve, grid

V, A, K = 0.07, 0.012, 0.02


@pytest.fixture(scope="module")
def smooth() -> InputFunction:
    """A bolus that starts with slope 0, so that only the discretisation limits the order."""
    t = np.arange(0.0, 80.0, 0.5)
    return InputFunction(t, 300.0 * (t / 12.0) ** 4 * np.exp(4.0 - t / 3.0), hematocrit=0.4)


@pytest.fixture(scope="module")
def jumping() -> InputFunction:
    """Parker's curve, above 0 from its first sample on."""
    t = np.arange(0.0, 121.0)
    return InputFunction(t, parker(t), hematocrit=0.4)


def error(aif: InputFunction, rate: float, tau: float, kind: str, delay_filter: str) -> float:
    """Largest difference from quadrature at frames 2 s apart, relative to the curve's peak."""
    times = np.arange(0.0, 61.0, 2.0)
    found = curve(aif, times, rate, V, A, K, tau, kind, delay_filter)[:: round(2 * rate)]
    expected = exact_curve(aif, times, (V, A, K, tau))
    return float(np.abs(found - expected).max() / expected.max())


@pytest.mark.parametrize(
    ("start", "end", "rate", "count"),
    [(0.0, 199.0, 1.0, 200), (0.0, 199.0, 5.0, 996), (3.0, 10.5, 2.0, 16), (0.0, 1.9, 1.0, 2)],
)
def test_grid(start: float, end: float, rate: float, count: int) -> None:
    points = grid(np.array([start, end]), rate)
    assert len(points) == count
    assert points[0] == start
    assert points[-1] <= end + 1e-9
    np.testing.assert_allclose(np.diff(points), 1.0 / rate)


@pytest.mark.parametrize("delay_filter", ["thiran", "exact"])
@pytest.mark.parametrize(("kind", "order"), [("iir", 2.0), ("fir", 1.0)])
def test_order_of_convergence(
    smooth: InputFunction, kind: str, order: float, delay_filter: str
) -> None:
    # Half a sample at every rate: the error of the all-pass depends on its fraction.
    errors = [error(smooth, r, 4.0 + 0.5 / r, kind, delay_filter) for r in (4.0, 8.0, 16.0)]
    observed = np.log2(np.divide(errors[:-1], errors[1:]))
    np.testing.assert_allclose(observed, order, atol=0.15)
    assert errors[-1] < 3e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("delay_filter", DELAY_FILTERS)
def test_converges_with_a_jump_too(jumping: InputFunction, kind: str, delay_filter: str) -> None:
    assert error(jumping, 64.0, 3.30, kind, delay_filter) < 0.015


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tau", [0.0, 0.5, 7.0, -2.5])
def test_whole_samples_are_exact_in_every_filter(
    jumping: InputFunction, kind: str, tau: float
) -> None:
    times = np.arange(5.0, 60.5, 0.5)
    curves = [curve(jumping, times, 2.0, V, A, K, tau, kind, name) for name in DELAY_FILTERS]
    for other in curves[1:]:
        np.testing.assert_allclose(other, curves[0], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("delay_filter", DELAY_FILTERS)
def test_a_late_first_frame_changes_nothing(
    jumping: InputFunction, kind: str, delay_filter: str
) -> None:
    early, late = np.arange(0.0, 61.0), np.arange(7.0, 61.0)
    for tau in (2.3, -0.4):
        whole = curve(jumping, early, 4.0, V, A, K, tau, kind, delay_filter)
        part = curve(jumping, late, 4.0, V, A, K, tau, kind, delay_filter)
        np.testing.assert_allclose(part, whole[28:], rtol=1e-9, atol=1e-12)


def test_an_input_that_starts_late_is_zero_before(jumping: InputFunction) -> None:
    times = np.arange(0.0, 61.0)
    shifted = jumping.shifted(10.0)
    for name in DELAY_FILTERS:
        later = curve(shifted, times, 1.0, V, A, K, 1.4, "iir", name)
        assert not later[:10].any()
        sooner = curve(jumping, times, 1.0, V, A, K, 1.4, "iir", name)
        np.testing.assert_allclose(later[10:], sooner[:-10], rtol=1e-9, atol=1e-12)


def test_a_negative_delay_reads_on_after_the_last_frame(smooth: InputFunction) -> None:
    times = np.arange(0.0, 21.0, 2.0)
    expected = exact_curve(smooth, times, (V, A, K, -3.3))
    for name in ("thiran", "exact"):
        found = curve(smooth, times, 32.0, V, A, K, -3.3, "iir", name)[::64]
        np.testing.assert_allclose(found, expected, atol=1e-3 * expected.max())


def test_the_window_weighs_the_response(smooth: InputFunction) -> None:
    times = np.arange(0.0, 31.0)
    first = np.zeros(31)
    first[0] = 1.0
    found = curve(smooth, times, 1.0, V, A, K, 0.0, "fir", "round", first)
    np.testing.assert_allclose(found, (V + A) * smooth(times), rtol=1e-12, atol=1e-10)
    plain = curve(smooth, times, 1.0, V, A, K, 0.0, "fir", "round")
    ones = curve(smooth, times, 1.0, V, A, K, 0.0, "fir", "round", np.ones(31))
    np.testing.assert_allclose(ones, plain, rtol=1e-12, atol=1e-12)


def test_tustin_is_the_trapezium_rule_on_the_rate_equation(smooth: InputFunction) -> None:
    times = np.arange(0.0, 31.0)
    u = curve(smooth, times, 1.0, 0.0, 1.0, K, 0.0, "iir", "round")
    x = smooth(times)
    slope = x - K * u
    np.testing.assert_allclose(np.diff(u), 0.5 * (slope[1:] + slope[:-1]), rtol=1e-9, atol=1e-9)


def test_fractions_about_one_ring_less_than_fractions_from_zero() -> None:
    times = np.arange(0.0, 41.0)
    step = InputFunction([0.0, 1e3], [1.0, 1.0], interpolation="linear")
    ringing = {
        name: np.abs(curve(step, times, 1.0, 1.0, 0.0, K, 3.2, "iir", name)[4:] - 1.0).max()
        for name in ("thiran", "literal_thiran")
    }
    assert ringing["thiran"] < 0.1 < ringing["literal_thiran"]


@pytest.mark.parametrize(
    ("kind", "delay_filter", "problem"),
    [("iir", "sinc", KeyError), ("tustin", "round", ValueError)],
)
def test_unknown_names(
    smooth: InputFunction, kind: str, delay_filter: str, problem: type[Exception]
) -> None:
    with pytest.raises(problem):
        curve(smooth, np.arange(9.0), 1.0, V, A, K, 0.0, kind, delay_filter)
