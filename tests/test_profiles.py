"""Profile-likelihood intervals against SciPy, theory, and curves that leave parameters open."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, least_squares
from scipy.stats import chi2, f

import kety
from cases import TWO_PHASE, Floats, artery, parameters, study
from kety import KetyError, Status, profiles
from kety.fitting.constrained import minimise
from kety.fitting.problem import make_problem
from kety.fitting.sensitivity import ExactModel

AIF = artery("georgiou", TWO_PHASE[-1] + 5)
ONE_INPUT = [name for name, model in kety.MODELS.items() if model.inputs == 1]
TISSUE = {"ktrans": 0.25, "kep": 0.8, "vb": 0.08, "delay": 3.3}


def noisy(truth: Mapping[str, float], count: int, noise: float, seed: int, **of: Any) -> Floats:
    clean = kety.simulate_curves(truth, TWO_PHASE, AIF, **of)
    return clean + np.random.default_rng(seed).normal(0.0, noise, (count, TWO_PHASE.size))


def slow_profile(
    y: Floats,
    start: Mapping[str, float],
    held: Callable[[Mapping[str, float], float], dict[str, float]],
    free: list[str],
) -> Callable[[float], float]:
    """Least cost with a quantity held, by SciPy; `held` completes the free parameters."""
    lo, hi = zip(*(kety.MODELS["extended_tofts"].parameter(n).bounds for n in free), strict=True)

    def cost(value: float) -> float:
        def residual(x: Floats) -> Floats:
            values = held(dict(zip(free, x, strict=True)), value)
            return kety.simulate_curves(values, TWO_PHASE, AIF)[0] - y

        x0 = np.clip([start[n] for n in free], np.array(lo) + 1e-6, np.array(hi) - 1e-6)
        best = least_squares(
            residual, x0, bounds=(lo, hi), x_scale=np.abs(x0), xtol=1e-12, ftol=1e-12
        )
        return 2.0 * float(best.cost)

    return cost


def _above(cost: Callable[[float], float], limit: float) -> Callable[[float], float]:
    return lambda value: cost(value) - limit


@pytest.mark.parametrize("statistic", ["f", "chi2"])
@pytest.mark.parametrize("name", ["ktrans", "delay", "ve"])
def test_limits_are_those_of_scipy(name: str, statistic: str) -> None:
    curves = noisy(TISSUE, 2, 4.0, 1)
    maps = kety.profile(curves, TWO_PHASE, AIF, parameters=name, statistic=statistic)
    for v, y in enumerate(curves):
        best = {n: float(maps[n].values[v]) for n in TISSUE}
        if name == "ve":  # kep = ktrans / ve
            free = ["ktrans", "vb", "delay"]
            cost = slow_profile(y, best, lambda x, d: {**x, "kep": x["ktrans"] / d}, free)
        else:
            free = [n for n in TISSUE if n != name]
            cost = slow_profile(y, best, lambda x, d: {**x, name: d}, free)
        least = cost(float(maps[name].values[v]))
        if statistic == "f":
            limit = least * (1 + f.ppf(0.683, 1, 33) / 33)
        else:
            limit = least * np.exp(chi2.ppf(0.683, 1) / 37)
        value, error = float(maps[name].values[v]), float(maps[f"{name}_se"].values[v])
        for end, side in (("lower", -1), ("upper", 1)):
            near, far = value + 0.2 * side * error, value + 4 * side * error
            expected = brentq(_above(cost, limit), near, far)
            found = float(maps[f"{name}_{end}"].values[v])
            assert found == pytest.approx(expected, abs=3e-3 * error)
        assert maps[f"{name}_open"].values[v] == 0


def test_interval_of_a_linear_model_is_that_of_its_standard_error() -> None:
    truth = {"ktrans": 0.2, "vb": 0.1, "delay": 2.0}
    curves = noisy(truth, 50, 4.0, 2, model="patlak")
    options: dict[str, Any] = {"model": "patlak", "delay": 2.0, "dtype": "float64", "level": 0.95}
    maps = kety.profile(curves, TWO_PHASE, AIF, **options)
    half = np.sqrt(f.ppf(0.95, 1, 35))
    for name in ("ktrans", "vb", "vp"):
        np.testing.assert_allclose(
            maps[f"{name}_upper"], maps[name] + half * maps[f"{name}_se"], rtol=1e-4
        )
        np.testing.assert_allclose(
            maps[f"{name}_lower"], maps[name] - half * maps[f"{name}_se"], rtol=1e-3
        )
    assert np.isnan(maps.delay_lower.values).all()


@pytest.mark.parametrize("how", ["plain", "weights", "baseline"])
def test_interval_covers_the_truth(how: str) -> None:
    noise = np.linspace(2.0, 6.0, 37) if how == "weights" else np.full(37, 4.0)
    curves = kety.simulate_curves(TISSUE, TWO_PHASE, AIF) + noise * np.random.default_rng(
        3
    ).standard_normal((400, 37))
    options: dict[str, Any] = {
        "plain": {},
        "weights": {"weights": noise**-2.0},
        "baseline": {"baseline": True},
    }[how]
    maps = kety.profile(curves, TWO_PHASE, AIF, parameters=("ktrans", "ve"), **options)
    for name, true in (("ktrans", 0.25), ("ve", 0.25 / 0.8)):
        inside = (maps[f"{name}_lower"] <= true) & (true <= maps[f"{name}_upper"])
        assert 0.60 < inside.mean() < 0.76


def test_what_the_curve_does_not_determine_is_open() -> None:
    curves = noisy({"ktrans": 0.0, "kep": 0.5, "vb": 0.1, "delay": 3.0}, 40, 4.0, 4)
    maps = kety.profile(
        curves,
        TWO_PHASE,
        AIF,
        parameters=("kep", "ktrans", "vb"),
        level=0.95,
        mask=np.ones(40, bool),
    )
    assert (maps.kep_open.values > 0).mean() > 0.9
    # Fast exchange with kep at its bound looks like blood, so blood alone is not proven.
    assert (maps.vb_open.values < 2).all()
    held = maps.ktrans_open.values % 2 == 1
    assert held.mean() > 0.8  # no exchange is within the interval
    assert (maps.ktrans_lower.values[held] == 0).all()
    above = maps.kep_open.values >= 2
    np.testing.assert_allclose(maps.kep_upper.values[above], 60.0)
    assert maps.kep_open.attrs["flag_meanings"].split() == list(profiles.OPEN)


def test_a_slow_washout_leaves_the_volume_open_above() -> None:
    times = TWO_PHASE[:20]
    truth = {"ktrans": 0.1, "kep": 0.02, "delay": 3.0}
    clean = kety.simulate_curves(truth, times, AIF, "tofts")
    curves = clean + np.random.default_rng(5).normal(0.0, 2.0, (30, 20))
    maps = kety.profile(curves, times, AIF, "tofts", "ve", mask=np.ones(30, bool))
    known = np.isfinite(maps.ve.values)
    assert (maps.ve_open.values[~known] == 3).all()
    above = maps.ve_open.values[known] >= 2
    assert above.mean() > 0.5
    assert np.isinf(maps.ve_upper.values[known][above]).all()
    assert (maps.ve_lower.values[known] <= maps.ve.values[known] * (1 + 1e-5)).all()


def test_limits_never_leave_the_bounds_and_hold_the_estimate() -> None:
    curves, _ = study(np.random.default_rng(6), 25, AIF, noise=12.0)
    bounds = {"ktrans": (0.0, 0.6), "kep": (0.0, 2.0)}
    maps = kety.profile(curves, TWO_PHASE, AIF, bounds=bounds)
    fitted = maps.status.values != Status.NOT_ENHANCING
    for name in ("ktrans", "kep", "vb", "delay"):
        value = maps[name].values[fitted]
        lower, upper = (maps[f"{name}_{end}"].values[fitted] for end in ("lower", "upper"))
        slack = 1e-3 * np.abs(value) + 2e-3
        known = np.isfinite(value)
        assert (lower[known] <= (value + slack)[known]).all(), name
        assert (upper[known] >= (value - slack)[known]).all(), name
        lo, hi = bounds.get(name, kety.MODELS["extended_tofts"].parameter(name).bounds)
        assert np.nanmin(lower) >= lo - 1e-6
        assert np.nanmax(upper) <= hi + 1e-5


def _exact(model: str, **options: Any) -> ExactModel:
    given: dict[str, Any] = {
        "delay": True,
        "bounds": None,
        "weights": None,
        "dtype": "float64",
        "threads": 1,
        "find_enhancing": False,
        **options,
    }
    return ExactModel(make_problem(TWO_PHASE, AIF, model, **given))


@given(st.integers(0, 10**6), st.sampled_from(ONE_INPUT), st.booleans())
@settings(max_examples=25, deadline=None)
def test_minimum_with_a_parameter_held_is_that_of_scipy(
    seed: int, model: str, baseline: bool
) -> None:
    rng = np.random.default_rng(seed)
    truth = parameters(rng, 1, model)
    names = kety.MODELS[model].names
    y = kety.simulate_curves(truth, TWO_PHASE, AIF, model) + rng.normal(0, 1.0, (1, 37))
    exact = _exact(model, baseline=baseline)
    start = np.array([[truth[n][0] for n in names]])
    held = int(rng.integers(len(names)))
    free = np.ones((1, len(names)), bool)
    free[0, held] = False
    found = minimise(exact, y, start, free)
    assert found.values[0, held] == start[0, held]
    rest = [i for i in range(len(names)) if i != held]
    lo, hi = (np.array([exact.problem.bounds[names[i]][k] for i in rest]) for k in (0, 1))

    def residual(x: Floats) -> Floats:
        values = start[0].copy()
        values[rest] = x
        named = dict(zip(names, values, strict=True))
        r = kety.simulate_curves(named, TWO_PHASE, AIF, model)[0] - y[0]
        return r - r.mean() if baseline else r

    x0 = np.clip(start[0, rest], lo + 1e-9, hi - 1e-9)
    slow = least_squares(residual, x0, bounds=(lo, hi), x_scale=np.abs(x0) + 1e-3, xtol=1e-12)
    assert found.cost[0] <= 2 * slow.cost * (1 + 1e-6)


def test_interrupted_profile_keeps_what_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiles, "BLOCK", 4)
    curves = noisy(TISSUE, 8, 4.0, 7)

    def stop(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    maps = kety.profile(curves, TWO_PHASE, AIF, parameters="vb", progress=stop)
    assert maps.attrs["interrupted"] == 1
    assert np.isfinite(maps.vb_lower.values).tolist() == [True] * 4 + [False] * 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"parameters": "kp"}, "has no kp to profile; it has ktrans"),
        ({"level": 0.0}, "level must lie"),
        ({"statistic": "z"}, "unknown statistic 'z'"),
        ({"delay": "onset"}, "delay fitted or fixed"),
        ({"optimizer": "nelder_mead"}, "leave optimizer"),
        ({"discretization": "iir"}, "leave optimizer and discretization out"),
        ({"joint": "graph"}, "leave joint out"),
        ({"model": ("tofts", "patlak")}, "of one model"),
    ],
)
def test_what_is_wrong_is_said(options: dict[str, Any], words: str) -> None:
    with pytest.raises(KetyError, match=words):
        kety.profile(np.zeros((2, 37)), TWO_PHASE, AIF, **options)
