"""Repeatability and agreement: published example, closed forms, slow twins, properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from kety.comparison import agreement
from kety.comparison.agreement import NORMAL, adjusted, quantile, two_sided
from kety.comparison.repeatability import Limit, limits_of, parse_limit
from kety.errors import KetyError

# Peak expiratory flow of 17 subjects, litres/min (Bland and Altman, Lancet 327:307, 1986, Table 1).
WRIGHT = [
    [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427],
    [490, 397, 512, 401, 470, 611, 415, 431, 638, 429, 420, 633, 275, 492, 165, 372, 421],
]
MINI = [
    [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451],
    [525, 415, 508, 444, 500, 625, 460, 390, 642, 432, 420, 605, 227, 467, 268, 370, 443],
]
# Thousandths: differences of rounding alone have no unit to speak of.
VALUE = st.integers(10, 100_000).map(lambda n: n / 1000)
VALUES = st.lists(st.tuples(VALUE, VALUE), min_size=3, max_size=40)


def arrays(pairs: list[tuple[float, float]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b = np.array(pairs).T
    return a, b


def test_published_example_of_bland_and_altman() -> None:
    found = agreement(MINI[0], WRIGHT[0])
    assert found.units == 17
    assert found.bias == pytest.approx(-2.1, abs=0.05)
    assert found.sd == pytest.approx(38.8, abs=0.05)
    assert found.bias_interval == pytest.approx((-22.0, 17.8), abs=0.06)
    # The paper takes 2 for 1.96, from the rounded mean and standard deviation.
    limits = found.bias - 2 * found.sd, found.bias + 2 * found.sd
    assert limits == pytest.approx((-79.7, 75.5), abs=0.15)
    # and √(3/n) for √(1/n + 1.96²/(2 (n − 1))): its intervals are a little wider or narrower
    assert found.lower_interval == pytest.approx((-114.3, -45.1), abs=2.5)
    assert found.upper_interval == pytest.approx((40.9, 110.1), abs=2.5)


@pytest.mark.parametrize(("meter", "coefficient"), [(WRIGHT, 43.2), (MINI, 56.4)])
def test_published_repeatability(meter: list[list[int]], coefficient: float) -> None:
    found = agreement(*meter)
    assert 2 * np.sqrt(2) * found.wsd == pytest.approx(coefficient, abs=0.15)
    assert found.rc == pytest.approx(NORMAL * np.sqrt(2) * found.wsd)


def test_coefficient_of_variation_in_closed_form() -> None:
    m = np.array([0.1, 1.0, 7.0, 300.0])
    found = agreement(m * 0.9, m * 1.1)
    assert found.wcv == pytest.approx(0.2 / np.sqrt(2))
    assert found.rc_percent == pytest.approx(100 * NORMAL * 0.2)
    reach = NORMAL * np.log(1.1 / 0.9)
    assert found.log_percent == pytest.approx((100 * np.expm1(-reach), 100 * np.expm1(reach)))


def test_small_errors_have_the_same_relative_figures_by_ratio_and_by_logarithm() -> None:
    rng = np.random.default_rng(3)
    m = rng.uniform(1.0, 5.0, 400)
    a, b = (m * np.exp(0.01 * rng.normal(size=m.size)) for _ in "ab")
    found = agreement(a, b)
    assert found.wcv == pytest.approx(0.01, rel=0.1)
    assert found.log_percent[1] == pytest.approx(found.rc_percent, rel=0.02)


def test_no_ratio_where_zero_is_arbitrary_and_none_of_values_at_zero() -> None:
    assert np.isnan(agreement([1.0, 2.0], [2.0, 3.0], relative=False).wcv)
    found = agreement([0.0, 2.0, 4.0], [1.0, 2.2, 4.4])
    assert found.positive == 2
    assert found.wcv == pytest.approx(agreement([2.0, 4.0], [2.2, 4.4]).wcv)


@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_swap_turns_the_sign_and_leaves_repeatability(pairs: list[tuple[float, float]]) -> None:
    a, b = arrays(pairs)
    one, other = agreement(a, b), agreement(b, a)
    assert other.bias == pytest.approx(-one.bias, abs=1e-9)
    assert other.lower == pytest.approx(-one.upper, abs=1e-9)
    for name in ("sd", "wsd", "rc", "wcv", "rc_percent", "reach"):
        assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-9, abs=1e-12)
    assert other.ccc == pytest.approx(one.ccc, abs=1e-9, nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(VALUES, st.floats(0.01, 1000.0))
def test_the_unit_does_not_matter(pairs: list[tuple[float, float]], scale: float) -> None:
    a, b = arrays(pairs)
    one, other = agreement(a, b), agreement(scale * a, scale * b)
    assert other.wcv == pytest.approx(one.wcv, rel=1e-9)
    assert other.ccc == pytest.approx(one.ccc, rel=1e-6, abs=1e-9, nan_ok=True)
    assert other.rc == pytest.approx(scale * one.rc, rel=1e-9, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(VALUES)
def test_slow_twin_of_every_sum(pairs: list[tuple[float, float]]) -> None:
    n = len(pairs)
    differences = [b - a for a, b in pairs]
    bias = sum(differences) / n
    sd = (sum((d - bias) ** 2 for d in differences) / (n - 1)) ** 0.5
    within = (sum(d * d for d in differences) / (2 * n)) ** 0.5
    ratios = [(b - a) / ((a + b) / 2) for a, b in pairs]
    found = agreement(*arrays(pairs))
    assert found.bias == pytest.approx(bias, abs=1e-9)
    assert found.sd == pytest.approx(sd, abs=1e-9)
    assert found.wsd == pytest.approx(within, abs=1e-9)
    assert found.wcv == pytest.approx((sum(r * r for r in ratios) / (2 * n)) ** 0.5, abs=1e-9)


def test_slope_is_that_of_linear_regression() -> None:
    rng = np.random.default_rng(0)
    a = rng.uniform(1, 5, 30)
    b = 1.2 * a + 0.3 * rng.normal(size=30)
    found = agreement(a, b)
    line = stats.linregress((a + b) / 2, b - a)
    assert found.slope == pytest.approx(line.slope)
    reach = stats.t.ppf(0.975, 28) * line.stderr
    assert found.slope_interval == pytest.approx((line.slope - reach, line.slope + reach))


def test_interval_of_repeatability_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    truth, inside = NORMAL * np.sqrt(2) * 0.3, 0
    for _ in range(1000):
        a, b = 5 + 0.3 * rng.normal(size=(2, 12))
        low, high = agreement(a, b).rc_interval
        inside += low <= truth <= high
    assert 930 <= inside <= 970


def test_interval_of_concordance_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    truth, inside = 1 / (1 + 0.25), 0
    for _ in range(600):
        t = rng.normal(size=40)
        found = agreement(t + 0.5 * rng.normal(size=40), t + 0.5 * rng.normal(size=40))
        inside += found.ccc_interval[0] <= truth <= found.ccc_interval[1]
    assert 0.92 <= inside / 600 <= 0.98


def test_concordance_punishes_what_correlation_does_not() -> None:
    t = np.linspace(1, 9, 20)
    assert agreement(t, t).ccc == pytest.approx(1.0)
    shifted = agreement(t, t + 3.0).ccc
    assert shifted == pytest.approx(2 * t.var() / (2 * t.var() + 9.0))
    assert np.isnan(agreement(np.full(5, 0.1), t[:5]).ccc)
    assert np.isnan(agreement(np.full(3, 0.1), np.full(3, 0.1)).slope)


def test_fewer_independent_units_widen_every_interval() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.normal(5, 1, (2, 200))
    many, few = agreement(a, b), agreement(a, b, independent=20.0)
    for name in ("bias_interval", "lower_interval", "rc_interval", "ccc_interval"):
        wide, narrow = getattr(few, name), getattr(many, name)
        assert wide[0] < narrow[0] < narrow[1] < wide[1]
    assert few.rc == many.rc


def test_one_unit_has_a_bias_and_no_more() -> None:
    found = agreement([1.0], [1.5])
    assert found.bias == 0.5
    assert np.isnan([found.sd, found.upper, *found.bias_interval, found.slope]).all()


def test_pairs_that_are_not_finite_are_left_out() -> None:
    found = agreement([1.0, np.nan, 3.0, np.inf], [1.5, 2.0, 3.5, 1.0])
    assert (found.units, found.bias) == (2, 0.5)
    with pytest.raises(KetyError, match="none of the 2 pairs"):
        agreement([np.nan, 1.0], [1.0, np.nan])
    with pytest.raises(KetyError, match="shapes"):
        agreement([1.0, 2.0], [1.0])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=20))
def test_corrections_against_slow_twins(p: list[float]) -> None:
    order = sorted(range(len(p)), key=p.__getitem__)
    holm, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        holm[i] = largest
    assert adjusted(p, "holm") == pytest.approx(holm)
    assert adjusted(p, "bh") == pytest.approx(stats.false_discovery_control(p))
    assert adjusted(p, "none") == pytest.approx(p)


def test_what_is_no_test_is_not_counted() -> None:
    assert adjusted([0.02, np.nan, 0.03]) == pytest.approx([0.04, np.nan, 0.04], nan_ok=True)
    with pytest.raises(KetyError, match="unknown correction 'bonferroni'; valid: holm, bh, none"):
        adjusted([0.1], "bonferroni")


def test_tails_are_those_of_the_distributions() -> None:
    assert two_sided([1.0, -2.5], [3.0, np.inf]) == pytest.approx(
        [2 * stats.t.sf(1.0, 3), 2 * stats.norm.sf(2.5)]
    )
    assert quantile(7.0) == pytest.approx(stats.t.ppf(0.975, 7))
    assert quantile(np.inf) == pytest.approx(NORMAL)
    assert np.isnan(quantile(0.0))


def test_limits_in_percent_are_those_of_the_profiles() -> None:
    limit = parse_limit("20%")
    wcv = 0.2 / (NORMAL * np.sqrt(2))
    assert limit.change(0.5, 0.8) == pytest.approx(NORMAL * np.hypot(0.5 * wcv, 0.8 * wcv))
    assert limit.change(0.5, 0.5) == pytest.approx(0.1)
    assert limits_of({"ktrans": 0.05, "ve": "3 %"}) == {
        "ktrans": Limit(0.05),
        "ve": Limit(3.0, True),
    }


@pytest.mark.parametrize("text", ["", "x", "-3%", "0", "nan"])
def test_a_coefficient_has_to_be_a_positive_number(text: str) -> None:
    with pytest.raises(KetyError, match="repeatability coefficient"):
        parse_limit(text)
