"""Regions: their standard errors, independent voxels, and masks of every kind."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from kety.comparison.agreement import quantile
from kety.comparison.regional import (
    Profile,
    _pair_sum,
    correlation_profile,
    independent_voxels,
    influences,
    spread,
    statistic_of,
)
from kety.comparison.regions import pair_up, regions_of
from kety.errors import KetyError
from kety.io import FittedMaps

GRID = (24, 24, 6)


def smooth(rng: np.random.Generator, sigma: float) -> NDArray[np.float64]:
    field = rng.normal(size=GRID)
    return gaussian_filter(field, (sigma, sigma, 0), mode="wrap") if sigma else field


def test_sum_over_pairs_against_its_slow_twin() -> None:
    where = np.random.default_rng(0).random((5, 4, 3)) < 0.6
    profile = Profile((np.array([1.0, 0.6, 0.2]), np.array([1.0, 0.5]), None), 0.8)
    total = 0.0
    places = np.argwhere(where)
    for one, other in itertools.product(places, places):
        lag = np.abs(one - other)
        if not lag.any():
            total += 1.0
        elif lag[0] < 3 and lag[1] < 2 and lag[2] == 0:
            total += 0.8 * profile.axes[0][lag[0]] * profile.axes[1][lag[1]]  # type: ignore[index]
    assert _pair_sum(where, profile) == pytest.approx(total)


@pytest.mark.parametrize("sigma", [0.0, 0.8, 1.5])
def test_independent_voxels_of_noise_of_known_correlation(sigma: float) -> None:
    """Within 20 % of the truth: that of white noise, or of a Gaussian filter of it."""
    where = np.zeros(GRID, bool)
    where[3:21, 3:21, 1:5] = True
    rng = np.random.default_rng(1)
    means, found = [], []
    for _ in range(150):
        field = smooth(rng, sigma)
        field /= field.std()
        means.append(field[where].mean())
        found.append(independent_voxels(np.where(where, field, 0.0), where))
    truth = 1 / np.var(means)
    assert np.median(found) == pytest.approx(truth, rel=0.25)


@pytest.mark.parametrize("side", [1, 2, 4, 12])
@pytest.mark.parametrize("sigma", [0.0, 1.0])
def test_no_change_is_found_where_there_is_none(side: int, sigma: float) -> None:
    """At most about one in twenty regions, of any size and correlation, in uneven tissue."""
    rng = np.random.default_rng([side, int(sigma)])
    where = np.zeros(GRID, bool)
    where[4 : 4 + side, 4 : 4 + side, 1 : 1 + min(side, 4)] = True
    false = {"mean": 0, "median": 0}
    for _ in range(200):
        truth = np.exp(0.3 * rng.normal(size=GRID))
        noise = [smooth(rng, sigma) for _ in "ab"]
        a, b = (truth + 0.2 * one / one.std() for one in noise)
        profile = correlation_profile(b - a, np.ones(GRID, bool))
        number = independent_voxels(np.where(where, b - a, 0.0), where, profile)
        change = (b - a)[where]
        for statistic in false:
            wider = np.pi / 2 if statistic == "median" and side > 1 else 1
            found = spread(
                statistic_of(change, statistic),
                influences(change, statistic),
                np.full(change.size, 0.08 * wider),
                number,
            )
            false[statistic] += abs(found.value) > quantile(found.freedom) * found.error
    assert max(false.values()) <= 20


def test_a_change_of_three_standard_errors_is_found() -> None:
    rng = np.random.default_rng(5)
    where = np.ones((10, 10), bool)
    found = 0
    for _ in range(100):
        change = 0.4 + rng.normal(size=(10, 10))
        number = independent_voxels(change, where)
        one = spread(change.mean(), influences(change[where], "mean"), np.full(100, 1.0), number)
        found += one.value > quantile(one.freedom) * one.error
    assert found >= 90


def test_one_voxel_rests_on_its_own_error() -> None:
    where = np.zeros((3, 3), bool)
    where[1, 1] = True
    number = independent_voxels(np.ones((3, 3)), where)
    one = spread(0.5, np.zeros(1), np.array([0.04]), number)
    assert (one.error, one.noise, one.freedom) == (pytest.approx(0.2), pytest.approx(0.2), np.inf)
    assert np.isnan(spread(0.5, np.zeros(1), np.array([np.nan]), 1.0).error)
    assert spread(np.nan, np.zeros(0), np.zeros(0), 0.0).count == 0


def test_the_influences_of_a_median_give_its_standard_error() -> None:
    rng = np.random.default_rng(6)
    samples = rng.normal(size=(400, 101))
    truth = np.median(samples, axis=1).std()
    errors = [np.sqrt(np.mean(influences(one, "median") ** 2) / 101) for one in samples]
    assert np.mean(errors) == pytest.approx(truth, rel=0.1)


def fit_of(shape: tuple[int, ...]) -> FittedMaps:
    dims = ("x", "y", "z")[: len(shape)]
    return FittedMaps(xr.Dataset({"status": (dims, np.ones(shape, np.uint8))}), {}, "A")


def test_masks_labels_mappings_and_lists() -> None:
    maps = fit_of((3, 4))
    labels = np.zeros((3, 4))
    labels[0], labels[2] = 1, 3
    assert set(regions_of(labels, maps)) == {"region 1", "region 3"}
    assert regions_of(labels == 3, maps)["region"].sum() == 4
    named = regions_of({"rim": labels == 1, "organ": labels}, maps)
    assert set(named) == {"rim", "organ 1", "organ 3"}


@pytest.mark.parametrize(
    ("roi", "words"),
    [
        (np.zeros((3, 4)), "is empty"),
        (np.full((3, 4), np.nan), "is empty"),
        (np.ones((3, 5)), "has the shape"),
        (np.linspace(0.1, 0.9, 12).reshape(3, 4), "whole-number labels"),
        ([np.ones((3, 4)), np.ones((3, 4))], "two regions have the name"),
        ("roi.nii.gz", "a file has a grid in mm"),
    ],
)
def test_bad_regions(roi: object, words: str) -> None:
    with pytest.raises(KetyError, match=words):
        regions_of(roi, fit_of((3, 4)))


def test_regions_of_two_studies_are_matched_by_name_or_label() -> None:
    one = np.ones(2, bool)
    assert set(pair_up({"before": one}, {"after": one}, ("A", "B"))) == {"before / after"}
    both = pair_up({"a 1": one, "a 2": one}, {"b 1": one, "b 2": one}, ("A", "B"))
    assert set(both) == {"1", "2"}
    with pytest.raises(KetyError, match="regions in A alone: a 2; in B alone: b 1"):
        pair_up({"a 2": one, "x": one}, {"b 1": one, "x": one}, ("A", "B"))
