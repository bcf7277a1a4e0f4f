"""Population input functions, against published curves and their own sampling."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kety.errors import KetyError
from kety.inputs import POPULATION, population_input

FolderOf = Callable[[str], Path]
repeatable = settings(deadline=None, derandomize=True)

# Largest |spline - curve| / peak over 0 to 300 s, and the knots it takes.
MEASURED = {
    "parker": (4.5e-6, 112),
    "georgiou": (1.4e-5, 172),
    "weinmann": (2.7e-8, 20),
    "preclinical": (5.8e-5, 104),
}


def peak(name: str) -> float:
    return float(POPULATION[name].function(np.linspace(0, 60, 6001)).max())


@pytest.mark.parametrize(
    ("name", "file", "absolute", "relative"),
    [
        ("parker", "parker_no_delay", 1e-4, 0.01),
        ("parker", "parker_with_delay", 0.1, 0.1),
        ("georgiou", "georgiou", 1e-4, 0.01),
        ("preclinical", "preclinical_no_delay", 1e-4, 0.01),
        ("preclinical", "preclinical_with_delay", 1e-4, 0.01),
    ],
)
def test_osipi_reference_values(
    reference: FolderOf, name: str, file: str, absolute: float, relative: float
) -> None:
    with (reference("osipi_aif") / f"{file}.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    in_minutes = "time_min" in rows[0]
    for label in {row["label"] for row in rows}:
        mine = [row for row in rows if row["label"] == label]
        times = np.array([float(row["time_min" if in_minutes else "time_s"]) for row in mine])
        expected = np.array([float(row["cb_mM"]) for row in mine])
        delay = float(mine[0].get("delay_s") or 0)
        found = POPULATION[name].function(times * (60 if in_minutes else 1), delay=delay)
        np.testing.assert_allclose(found, expected, atol=absolute, rtol=relative, err_msg=label)


def test_georgiou_meets_the_published_supplement_far_inside_the_tolerance(
    reference: FolderOf,
) -> None:
    with (reference("osipi_aif") / "georgiou.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["label"] == "original_AIF"]
    times = np.array([float(row["time_min"]) for row in rows]) * 60
    expected = np.array([float(row["cb_mM"]) for row in rows])
    found = POPULATION["georgiou"].function(times)
    assert np.abs(found - expected).max() < 2.5e-5


@pytest.mark.parametrize(
    ("name", "time", "value"),
    [
        ("parker", 0.0, 0.0803846733),
        ("georgiou", 0.0, 0.0),
        ("weinmann", 0.0, 0.877),
        ("weinmann", 600.0, 0.1 * (3.99 * np.exp(-1.44) + 4.78 * np.exp(-0.111))),
        ("preclinical", 7.0, 5.21),
    ],
)
def test_values_known_by_hand(name: str, time: float, value: float) -> None:
    np.testing.assert_allclose(POPULATION[name].function(time), value, atol=1e-9)


def test_georgiou_passages_merge_into_their_mean_rate() -> None:
    late = np.array([1800.0, 3600.0])
    washout = 0.374303 * np.exp(-0.112690 * late / 60)
    rate = 1 / (0.12855613 + 0.03207892 * (5.266968 + 1))  # 1/min, one passage per mean interval
    np.testing.assert_allclose(POPULATION["georgiou"].function(late), washout * rate, rtol=1e-6)


@pytest.mark.parametrize("name", POPULATION)
@repeatable
@given(delay=st.floats(-50, 100), time=st.floats(-100, 400))
def test_delay_shifts_and_is_exactly_zero_before(name: str, delay: float, time: float) -> None:
    curve = POPULATION[name].function
    found = curve(time, delay=delay)
    assert found.shape == ()
    if time < delay:
        assert found == 0.0
    else:
        assert found == curve(time - delay)


@pytest.mark.parametrize("name", POPULATION)
def test_shape_and_nan_are_kept(name: str) -> None:
    times = np.array([[-1.0, 0.0, np.nan], [10.0, 60.0, 200.0]])
    found = POPULATION[name].function(times)
    assert found.shape == times.shape
    np.testing.assert_array_equal(np.isnan(found), np.isnan(times))
    assert POPULATION[name].function([]).shape == (0,)


@pytest.mark.parametrize("name", POPULATION)
def test_records_say_where_they_come_from(name: str) -> None:
    record = POPULATION[name]
    assert record.name == name
    assert "doi:10." in record.reference
    assert record.site == ("plasma" if name == "weinmann" else "blood")
    assert population_input(name, 60).site == record.site


@pytest.mark.parametrize("name", POPULATION)
@pytest.mark.parametrize("end", [3.0, 12.0, 33.0, 65.0, 70.0, 100.0, 300.0, 1200.0])
def test_spline_error_is_below_one_in_ten_thousand(name: str, end: float) -> None:
    aif = population_input(name, end)
    near_the_kink = np.arange(6.9, 7.1, 1e-4)
    times = np.union1d(np.linspace(0, end, 20001), near_the_kink[near_the_kink <= end])
    error = np.abs(aif(times) - POPULATION[name].function(times)).max() / peak(name)
    assert error < 1e-4
    if end == 300:
        bound, knots = MEASURED[name]
        assert error < bound
        assert aif.times.size == knots


@pytest.mark.parametrize("name", POPULATION)
@repeatable
@given(end=st.floats(0.1, 2000), delay=st.floats(-100, 500))
def test_knots_are_few_cover_the_data_and_have_bit_equal_steps(
    name: str, end: float, delay: float
) -> None:
    aif = population_input(name, end, delay=delay)
    assert aif.times[-1] >= end
    assert abs(aif.times[0] - delay) <= 2**-30
    assert np.unique(np.diff(aif.times)).size <= 3
    assert aif.times.size <= 250 + (end + 100) / 3
    undelayed = population_input(name, 300)
    shared = min(aif.times.size, undelayed.times.size)
    np.testing.assert_array_equal(aif.concentration[:shared], undelayed.concentration[:shared])


def test_the_published_jump_of_parker_is_kept() -> None:
    aif = population_input("parker", 100, delay=10)
    np.testing.assert_allclose(aif([9.999, 10.0]), [0.0, 0.0803846733], atol=1e-9)


def test_dose_scales_in_proportion() -> None:
    single, double = population_input("parker", 60), population_input("parker", 60, dose=0.2)
    np.testing.assert_allclose(double.concentration, 2 * single.concentration)


def test_hematocrit_and_interpolation_are_passed_on() -> None:
    aif = population_input("parker", 60, hematocrit=0.5, interpolation="linear")
    assert (aif.hematocrit, aif.interpolation, aif.name) == (0.5, "linear", "Parker 2006")


@pytest.mark.parametrize(
    ("name", "end", "options", "message"),
    [
        ("parkr", 60, {}, "parker, georgiou, weinmann, preclinical"),
        ("parker", 0, {}, "end must be"),
        ("parker", np.nan, {}, "end must be"),
        ("parker", np.inf, {}, "end must be"),
        ("parker", 60, {"delay": np.inf}, "delay must be"),
        ("parker", 60, {"dose": 0.0}, "dose must be"),
        ("parker", 60, {"dose": np.nan}, "dose must be"),
        ("georgiou", 60, {"dose": 0.2}, "not on record"),
        ("parker", 60, {"hematocrit": 42}, "fraction"),
        ("parker", 60, {"interpolation": "spline"}, "cubic, linear, monotone"),
    ],
)
def test_bad_arguments(name: str, end: float, options: dict[str, object], message: str) -> None:
    with pytest.raises(KetyError, match=message):
        population_input(name, end, **options)  # type: ignore[arg-type]
