"""The delay set from a curve's onset: exact where it must be, honest about what it misses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cases import NOISE, TWO_PHASE, parameters
from kety import InputFunction, KetyError, simulate_curves
from kety.inputs import population_input
from kety.inputs.population import parker
from kety.signal import onset_delay

Floats = NDArray[np.float64]
METHODS = ("tangent", "stick")
EVERY_SECOND = np.arange(200.0)


def parker_hu(interval: float, end: float = 210.0) -> InputFunction:
    """Parker's curve from its start at t = 0, in HU with a peak of 300."""
    times = np.arange(0.0, end + interval, interval)
    values = parker(times)
    return InputFunction(times, values * (300.0 / values.max()), hematocrit=0.4)


@pytest.fixture(scope="module")
def aif() -> InputFunction:
    return parker_hu(0.25)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("delay", [-3.0, 0.0, 2.0, 7.0])
def test_a_shifted_input_has_its_shift(aif: InputFunction, method: str, delay: float) -> None:
    # The bolus arrives after the first frames, so that a shift to earlier loses nothing.
    late = aif.shifted(10.0)
    found = onset_delay(0.1 * late(EVERY_SECOND - delay), EVERY_SECOND, late, method=method)
    assert found == pytest.approx(delay, abs=0.051 if method == "stick" else 1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_fractions_of_a_frame(aif: InputFunction, method: str) -> None:
    delays = np.arange(0.0, 10.0, 0.13)
    curves = aif(EVERY_SECOND - delays[:, None])
    found = onset_delay(curves, EVERY_SECOND, aif, method=method)
    np.testing.assert_allclose(found, delays, atol=0.3)
    assert (np.diff(found) > -0.2).all()


@pytest.mark.parametrize(("method", "bias"), [("tangent", 0.6), ("stick", 0.45)])
def test_data_set_1(method: str, bias: float) -> None:
    """1 Hz, no noise; the input is there from the first frame on."""
    aif = parker_hu(1.0)
    truth = parameters(np.random.default_rng(2), 2000, "extended_tofts")
    curves = simulate_curves(truth, EVERY_SECOND, aif)
    error = onset_delay(curves, EVERY_SECOND, aif, method=method, bounds=(0, 10)) - truth["delay"]
    assert 0.2 < error.mean() < bias
    assert error.std() < 0.5
    # What makes the onset late is exchange that outweighs the vessels.
    vascular = truth["vb"] > 0.5 * truth["ktrans"]
    assert error[vascular].mean() < 0.5 * error[~vascular].mean()


@pytest.mark.parametrize(("method", "rms"), [("tangent", 1.7), ("stick", 2.2)])
def test_data_set_2(aif: InputFunction, method: str, rms: float) -> None:
    """The clinical frames with 6 HU of noise."""
    rng = np.random.default_rng(3)
    truth = parameters(rng, 8000, "extended_tofts")
    clean = simulate_curves(truth, TWO_PHASE, aif)
    curves = clean + rng.normal(0.0, NOISE, clean.shape)
    found = onset_delay(curves, TWO_PHASE, aif, method=method, bounds=(0, 10))
    # A stick may find no rise at all in the faintest curves.
    assert np.isnan(found).mean() < 0.01
    error = found - truth["delay"]
    assert np.sqrt(np.nanmean(error**2)) < rms
    strong = clean.max(axis=1) > 15.0 * NOISE
    assert np.nanstd(error[strong]) < 0.85 * np.nanstd(error)


def test_longer_lines_see_through_more_noise(aif: InputFunction) -> None:
    rng = np.random.default_rng(4)
    truth = parameters(rng, 4000, "extended_tofts")
    clean = simulate_curves(truth, TWO_PHASE, aif)
    curves = clean + rng.normal(0.0, NOISE, clean.shape)
    spread = [
        np.std(onset_delay(curves, TWO_PHASE, aif, smoothing=n) - truth["delay"]) for n in (2, 4)
    ]
    assert spread[1] < 0.8 * spread[0]


@pytest.mark.parametrize("method", METHODS)
def test_units_and_scale_do_not_matter(method: str) -> None:
    aif = population_input("parker", 200.0, delay=8.0)
    curves = simulate_curves(
        parameters(np.random.default_rng(5), 50, "extended_tofts"), TWO_PHASE, aif
    )
    expected = onset_delay(curves, TWO_PHASE, aif, method=method)
    larger = InputFunction(aif.times, 40.0 * aif.concentration)
    np.testing.assert_allclose(
        onset_delay(7.0 * curves, TWO_PHASE, larger, method=method), expected, atol=1e-9
    )


@pytest.mark.parametrize("method", METHODS)
def test_shape_type_and_order_of_voxels(aif: InputFunction, method: str) -> None:
    curves = aif(TWO_PHASE - np.arange(12.0)[:, None])
    expected = onset_delay(curves, TWO_PHASE, aif, method=method)
    cube = np.asfortranarray(curves.reshape(2, 3, 2, -1).astype(np.float32))
    found = onset_delay(cube, TWO_PHASE, aif, method=method)
    assert found.shape == (2, 3, 2)
    np.testing.assert_allclose(found.ravel(), expected, atol=1e-3 if method == "tangent" else 0.051)
    whole = onset_delay(np.rint(curves[3]).astype(np.int16), TWO_PHASE, aif, method=method)
    assert whole.shape == ()
    assert whole == pytest.approx(expected[3], abs=0.1)
    assert onset_delay(np.empty((0, 37)), TWO_PHASE, aif, method=method).shape == (0,)


def test_many_voxels_are_worked_through_in_blocks(
    aif: InputFunction, monkeypatch: pytest.MonkeyPatch
) -> None:
    curves = aif(TWO_PHASE - np.linspace(0.0, 9.0, 100)[:, None])
    expected = onset_delay(curves, TWO_PHASE, aif)
    monkeypatch.setattr("kety.signal.baseline._BLOCK_VALUES", 300)
    np.testing.assert_allclose(onset_delay(curves, TWO_PHASE, aif), expected, rtol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_curves_without_an_onset(aif: InputFunction, method: str) -> None:
    curves = np.tile(aif(TWO_PHASE - 2.0), (5, 1))
    curves[0, 20] = np.nan
    curves[1, 3] = np.inf
    curves[2] = 0.0
    curves[3] = -curves[3].cumsum()
    found = onset_delay(curves, TWO_PHASE, aif, method=method)
    assert np.isnan(found[:4]).all()
    assert np.isfinite(found[4])


@pytest.mark.parametrize("method", METHODS)
def test_clipped_to_the_bounds(aif: InputFunction, method: str) -> None:
    late, early = aif(EVERY_SECOND - 9.0), aif(EVERY_SECOND)
    found = onset_delay([late, early], EVERY_SECOND, aif, method=method, bounds=(2.0, 6.0))
    assert found[0] <= 6.0
    assert found[1] == 2.0
    fixed = onset_delay([late, early], EVERY_SECOND, aif, method=method, bounds=(3.0, 3.0))
    np.testing.assert_array_equal(fixed, 3.0)


def test_a_rise_beyond_the_largest_delay_is_not_the_first_pass(aif: InputFunction) -> None:
    curve = aif(EVERY_SECOND - 4.0)
    curve[150:] += 500.0
    assert onset_delay(curve, EVERY_SECOND, aif) == pytest.approx(4.0, abs=0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"curves": np.zeros((2, 36))}, "36 frames"),
        ({"curves": np.float64(1.0)}, "real numbers"),
        ({"curves": np.full((2, 37), "x")}, "real numbers"),
        ({"times": TWO_PHASE[::-1]}, "strictly increasing"),
        ({"times": np.r_[TWO_PHASE[:-1], np.nan]}, "finite"),
        ({"method": "eye"}, "tangent, stick"),
        ({"bounds": (3.0, 1.0)}, "delay bounds"),
        ({"bounds": (0.0, np.inf)}, "delay bounds"),
        ({"smoothing": 1}, "2 to the 37 frames"),
        ({"smoothing": 38}, "2 to the 37 frames"),
        ({"aif": InputFunction([0.0, 300.0], [5.0, 1.0])}, "does not rise"),
        ({"aif": InputFunction([500.0, 600.0], [0.0, 1.0])}, "does not rise"),
    ],
)
def test_bad_input(aif: InputFunction, options: dict[str, Any], message: str) -> None:
    given = {"curves": np.zeros((2, 37)), "times": TWO_PHASE, "aif": aif} | options
    with pytest.raises(KetyError, match=message):
        onset_delay(**given)
