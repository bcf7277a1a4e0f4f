"""Input functions: interpolation, conversion, CSV files and masks."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kety.errors import KetyError
from kety.inputs import InputFunction

KINDS = ("cubic", "linear", "monotone")
repeatable = settings(deadline=None, derandomize=True)


@st.composite
def curves(draw: st.DrawFn, kinds: tuple[str, ...] = KINDS) -> InputFunction:
    size = draw(st.integers(2, 25))
    steps = draw(arrays(float, size - 1, elements=st.floats(0.1, 20)))
    values = draw(arrays(float, size, elements=st.floats(-5, 10)))
    values[draw(st.integers(0, size - 1))] = 8.0
    times = draw(st.floats(-20, 20)) + np.concatenate([[0.0], np.cumsum(steps)])
    return InputFunction(times, values, interpolation=draw(st.sampled_from(kinds)))


# Interpolation


@repeatable
@given(curves())
def test_samples_are_met_exactly(aif: InputFunction) -> None:
    np.testing.assert_array_equal(aif(aif.times), aif.concentration)


@repeatable
@given(curves())
def test_zero_before_and_last_value_after(aif: InputFunction) -> None:
    first, last = aif.times[[0, -1]]
    np.testing.assert_array_equal(aif([-np.inf, np.nextafter(first, -np.inf)]), 0)
    np.testing.assert_array_equal(aif([last + 1e-9, np.inf]), aif.concentration[-1])
    assert np.isnan(aif(np.nan))


@repeatable
@given(curves(), st.floats(0, 1, exclude_max=True))
def test_coefficients_are_the_curve(aif: InputFunction, fraction: float) -> None:
    steps = np.diff(aif.times)
    u = fraction * steps
    expected = (aif.coefficients() * u[:, None] ** np.arange(4)).sum(axis=1)
    found = aif(aif.times[:-1] + u)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@repeatable
@given(curves())
def test_segments_join_as_smoothly_as_promised(aif: InputFunction) -> None:
    c, step = aif.coefficients(), np.diff(aif.times)[:, None]
    m = np.arange(4)
    value = (c * step**m).sum(axis=1)
    np.testing.assert_allclose(value, aif.concentration[1:], atol=1e-9)
    slope = (c[:, 1:] * m[1:] * step ** m[:-1]).sum(axis=1)
    bend = 2 * c[:, 2] + 6 * c[:, 3] * step[:, 0]
    if aif.interpolation != "linear":
        np.testing.assert_allclose(slope[:-1], c[1:, 1], atol=1e-7)
    if aif.interpolation == "cubic":
        np.testing.assert_allclose(bend[:-1], 2 * c[1:, 2], atol=1e-5)


@pytest.mark.parametrize("small", [1e-300, 1e-308, -1e-313, 5e-324])
def test_a_monotone_curve_through_nearly_nothing(small: float) -> None:
    values = np.array([2.0, 0.0, small, 2 * small, 8.0])
    found = InputFunction(np.arange(5), values, interpolation="monotone")
    nothing = InputFunction(np.arange(5), [2.0, 0, 0, 0, 8], interpolation="monotone")
    np.testing.assert_allclose(found.coefficients(), nothing.coefficients(), atol=1e-299)
    np.testing.assert_array_equal(found(np.arange(5)), values)


@repeatable
@given(curves(kinds=("monotone", "linear")))
def test_monotone_and_linear_do_not_overshoot(aif: InputFunction) -> None:
    u = np.linspace(0, 1, 41)[:, None]
    inside = aif(aif.times[:-1] + u * np.diff(aif.times))
    ends = np.stack([aif.concentration[:-1], aif.concentration[1:]])
    assert (inside >= ends.min(axis=0) - 1e-9).all()
    assert (inside <= ends.max(axis=0) + 1e-9).all()


@repeatable
@given(curves(), st.floats(-100, 100), st.floats(-50, 500))
def test_shift(aif: InputFunction, delay: float, t: float) -> None:
    later = aif.shifted(delay)
    np.testing.assert_array_equal(later.times, aif.times + delay)
    np.testing.assert_array_equal(later(later.times), aif.concentration)
    if np.abs(t - aif.times).min() > 1e-6:  # not on a jump
        np.testing.assert_allclose(later(t + delay), aif(t), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("size", [2, 3, 4, 9])
def test_cubic_reproduces_polynomials(size: int) -> None:
    degree = min(size - 1, 3)
    times = np.cumsum(np.linspace(1, 2, size))
    poly = np.polynomial.Polynomial([1.0, -2.0, 0.5, 0.1][: degree + 1])
    fine = np.linspace(times[0], times[-1], 101)
    np.testing.assert_allclose(InputFunction(times, poly(times))(fine), poly(fine), rtol=1e-11)


def test_cubic_is_of_fourth_order() -> None:
    def error(samples: int) -> float:
        times, fine = np.linspace(0, 1, samples), np.linspace(0, 1, 2001)
        return float(np.abs(InputFunction(times, np.exp(times))(fine) - np.exp(fine)).max())

    assert error(41) / error(81) == pytest.approx(16, rel=0.05)


# The record


def test_arrays_are_read_only_copies() -> None:
    times, values = np.arange(4), np.arange(4.0)
    aif = InputFunction(times, values)
    values[1] = 99.0
    assert aif.concentration[1] == 1.0
    assert aif.times.dtype == aif.concentration.dtype == np.float64
    for array in (aif.times, aif.concentration, aif.coefficients()):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        aif.hematocrit = 0.4  # type: ignore[misc]


def test_plasma_and_blood() -> None:
    blood = InputFunction([0, 1, 2], [0, 5, 3], hematocrit=0.4, interpolation="linear", name="a")
    plasma = blood.plasma()
    np.testing.assert_allclose(plasma.concentration, [0, 5 / 0.6, 5])
    assert (plasma.site, plasma.hematocrit, plasma.interpolation, plasma.name) == (
        "plasma",
        0.4,
        "linear",
        "a",
    )
    assert blood.blood() is blood
    assert plasma.plasma() is plasma
    np.testing.assert_allclose(plasma.blood().concentration, blood.concentration)


def test_fingerprint_tells_contents_apart() -> None:
    base = InputFunction([0, 1, 2], [0, 5, 3])
    assert base.fingerprint() == dataclasses.replace(base, name="other").fingerprint()
    assert len(base.fingerprint()) == 64
    others = [
        InputFunction([0, 1, 2.5], [0, 5, 3]),
        InputFunction([0, 1, 2], [0, 5, 3.5]),
        dataclasses.replace(base, site="plasma"),
        dataclasses.replace(base, hematocrit=0.4),
        dataclasses.replace(base, interpolation="linear"),
    ]
    assert len({aif.fingerprint() for aif in [base, *others]}) == 6


@pytest.mark.parametrize(
    ("times", "values", "options", "message"),
    [
        ([0, 1, 2], [0, 1], {}, "equal length; found 3 times and 2 values"),
        ([0], [1], {}, "at least 2 samples"),
        ([], [], {}, "at least 2 samples"),
        ([[0, 1]], [[0, 1]], {}, "vector"),
        ([0, [1, 2]], [0, 1], {}, "vector"),
        (["0", "1"], [0, 1], {}, "vector of real numbers"),
        ([0, 1], [0, 1j], {}, "vector of real numbers"),
        ([0, 1, 1], [0, 1, 2], {}, "increase strictly; found 1 s at index 2 after 1 s"),
        ([0, 2, 1], [0, 1, 2], {}, "increase strictly"),
        ([0, np.inf], [0, 1], {}, "times must be finite"),
        ([0, 1, 2], [0, np.nan, 1], {}, "finite; found nan at index 1"),
        ([0, 1], [0, 0], {}, "zero everywhere"),
        ([0, 1], [0, 1], {"hematocrit": 42}, "fraction"),
        ([0, 1], [0, 1], {"hematocrit": 1.0}, "fraction"),
        ([0, 1], [0, 1], {"hematocrit": -0.1}, "fraction"),
        ([0, 1], [0, 1], {"hematocrit": np.nan}, "fraction"),
        ([0, 1], [0, 1], {"hematocrit": "high"}, "fraction"),
        ([0, 1], [0, 1], {"site": "serum"}, "blood, plasma"),
        ([0, 1], [0, 1], {"interpolation": "quintic"}, "cubic, linear, monotone"),
    ],
)
def test_bad_arguments(
    times: list[float], values: list[float], options: dict[str, object], message: str
) -> None:
    with pytest.raises(KetyError, match=message):
        InputFunction(times, values, **options)  # type: ignore[arg-type]


def test_bad_delay() -> None:
    with pytest.raises(KetyError, match="delay"):
        InputFunction([0, 1], [0, 1]).shifted(np.nan)


# Files


@repeatable
@given(curves(kinds=("cubic",)))
def test_csv_round_trip_is_exact(
    tmp_path_factory: pytest.TempPathFactory, aif: InputFunction
) -> None:
    path = tmp_path_factory.mktemp("aif") / "curve.csv"
    aif.to_csv(path)
    again = InputFunction.from_csv(path)
    assert again.fingerprint() == aif.fingerprint()
    assert os.listdir(path.parent) == ["curve.csv"]


def test_failed_write_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "aif.csv").mkdir()
    with pytest.raises(OSError, match=r"aif\.csv"):
        InputFunction([0, 1], [0, 1]).to_csv(tmp_path / "aif.csv")
    assert os.listdir(tmp_path) == ["aif.csv"]


# Masks


def test_mask_mean_ignores_voxels_that_are_not_finite() -> None:
    data = np.zeros((2, 3, 1, 4), dtype=np.float32)
    data[0, 0, 0] = [0, 2, 4, 2]
    data[0, 1, 0] = [0, 4, 8, 4]
    data[0, 2, 0] = [0, np.nan, 8, 4]
    data[1, 0, 0] = [0, np.inf, 8, 4]
    mask = np.zeros((2, 3, 1))
    mask[0] = 1
    mask[1, 0], mask[1, 1] = 2, np.nan
    times = [0, 5, 10, 15]
    aif = InputFunction.from_mask(data, times, mask, hematocrit=0.4, site="plasma", name="aorta")
    np.testing.assert_array_equal(aif.concentration, [0, 3, 6, 3])
    assert (aif.hematocrit, aif.site, aif.name) == (0.4, "plasma", "aorta")
    voxels = InputFunction.from_mask(data.reshape(6, 4), times, mask.ravel())
    np.testing.assert_array_equal(voxels.concentration, aif.concentration)
    assert voxels.site == "blood"


def test_mask_over_integers_is_averaged_in_double_precision() -> None:
    data = np.full((3, 2), 32767, dtype=np.int16)
    aif = InputFunction.from_mask(data, [0, 1], np.ones(3, dtype=bool))
    np.testing.assert_array_equal(aif.concentration, 32767)


@pytest.mark.parametrize(
    ("data", "mask", "message"),
    [
        (np.ones((2, 2, 1, 3)), np.ones((2, 2)), r"shape \(2, 2\).*\(2, 2, 1\)"),
        (np.ones((4, 3)), np.zeros(4), "mask is empty"),
        (np.full((4, 3), np.nan), np.ones(4), "none of the 4 voxels"),
        (np.ones(3), np.ones(()), r"\(V, T\)"),
        (np.ones((4, 3), dtype=complex), np.ones(4), "real numbers"),
        (np.ones((4, 3)), np.array(["a"] * 4), "boolean or numbers"),
        (np.ones((4, 5)), np.ones(4), "3 times and 5 values"),
        (np.zeros((4, 3)), np.ones(4), "zero everywhere"),
    ],
)
def test_bad_masks(data: np.ndarray, mask: np.ndarray, message: str) -> None:
    with pytest.raises(KetyError, match=message):
        InputFunction.from_mask(data, [0, 1, 2], mask)
