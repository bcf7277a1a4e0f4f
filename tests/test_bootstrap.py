"""Residual bootstrap: its draws, a slow twin, its spread against theory and simulation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import kety
from cases import TWO_PHASE, Floats, artery, study
from kety import KetyError, bootstrapping
from kety.bootstrapping import Bootstrap

AIF = artery("georgiou", TWO_PHASE[-1] + 5)
LINEAR: dict[str, Any] = {"model": "patlak", "delay": 2.0, "dtype": "float64"}


def patlak(count: int, noise: Floats | float, seed: int) -> Floats:
    """Curves of one tissue well inside the bounds; the model is linear in what is fitted."""
    clean = kety.simulate_curves({"ktrans": 0.2, "vb": 0.1, "delay": 2.0}, TWO_PHASE, AIF, "patlak")
    rng = np.random.default_rng(seed)
    return clean + noise * rng.standard_normal((count, TWO_PHASE.size))


@pytest.mark.parametrize("residuals", ["iid", "wild", "stationary"])
def test_refits_are_those_made_one_by_one(residuals: str) -> None:
    curves = patlak(3, 4.0, 1)
    maps = kety.bootstrap(curves, TWO_PHASE, AIF, **LINEAR, samples=30, residuals=residuals, seed=5)
    drawn = bootstrapping._draws(Bootstrap(30, residuals=residuals, seed=5), 37)
    columns = np.stack(
        [
            kety.simulate_curves({"ktrans": k, "vb": v, "delay": 2.0}, TWO_PHASE, AIF, "patlak")[0]
            for k, v in ((1.0, 0.0), (0.0, 1.0))
        ],
        axis=1,
    )
    hat = columns @ np.linalg.pinv(columns)
    for v, y in enumerate(curves):
        fitted = hat @ y
        e = y - fitted
        found = []
        for draw in drawn:
            if residuals == "wild":
                new = fitted + draw * e / np.sqrt(1 - np.diag(hat))
            else:
                scaled = e * np.sqrt(37 / 35)
                new = fitted + (scaled - scaled.mean())[draw]
            found.append((np.linalg.pinv(columns) @ new)[0])
        assert maps.ktrans_se_bootstrap.values[v] == pytest.approx(np.std(found, ddof=1), rel=1e-5)
        limits = np.quantile(found, [0.1585, 0.8415])
        assert maps.ktrans_lower.values[v] == pytest.approx(limits[0], rel=1e-6)
        assert maps.ktrans_upper.values[v] == pytest.approx(limits[1], rel=1e-6)
        bias = np.mean(found) - maps.ktrans.values[v]
        assert maps.ktrans_bias.values[v] == pytest.approx(bias, abs=1e-7)


def test_spread_of_a_linear_model_is_its_standard_error() -> None:
    maps = kety.bootstrap(patlak(20, 4.0, 2), TWO_PHASE, AIF, **LINEAR, samples=1000)
    for name in ("ktrans", "vb", "vp"):
        ratio = maps[f"{name}_se_bootstrap"] / maps[f"{name}_se"]
        assert ratio.mean() == pytest.approx(1.0, abs=0.03)
        assert (np.abs(maps[f"{name}_bias"]) < 0.1 * maps[f"{name}_se"]).all()


def test_wild_spread_follows_noise_that_differs_between_frames() -> None:
    noise = np.where(TWO_PHASE < 40, 12.0, 2.0)
    curves = patlak(300, noise, 3)
    truth = float(kety.fit(curves, TWO_PHASE, AIF, **LINEAR).vb.std())
    known = {
        how: float(
            kety.bootstrap(
                curves, TWO_PHASE, AIF, **LINEAR, samples=100, residuals=how
            ).vb_se_bootstrap.mean()
        )
        for how in ("iid", "wild")
    }
    assert abs(known["wild"] / truth - 1) < 0.12
    assert abs(known["iid"] / truth - 1) > 0.3


def test_stationary_spread_follows_noise_that_neighbours_share() -> None:
    rng = np.random.default_rng(4)
    white = rng.standard_normal((300, 39))
    times = np.arange(37) * 5.0 + 2
    aif = artery("georgiou", times[-1] + 5)
    clean = kety.simulate_curves({"ktrans": 0.2, "vb": 0.1, "delay": 2.0}, times, aif, "patlak")
    curves = clean + 4.0 * (white[:, :-2] + white[:, 1:-1] + white[:, 2:]) / np.sqrt(3)
    truth = float(kety.fit(curves, times, aif, **LINEAR).ktrans.std())
    known = {
        how: float(
            kety.bootstrap(
                curves, times, aif, **LINEAR, samples=100, residuals=how
            ).ktrans_se_bootstrap.mean()
        )
        for how in ("iid", "stationary")
    }
    assert abs(known["stationary"] / truth - 1) < abs(known["iid"] / truth - 1) - 0.1


def test_interval_covers_the_truth_of_a_bent_model() -> None:
    truth = {"ktrans": 0.25, "kep": 0.8, "vb": 0.08, "delay": 3.3}
    clean = kety.simulate_curves(truth, TWO_PHASE, AIF)[0]
    rng = np.random.default_rng(5)
    curves = clean + clean.max() / 20 * rng.standard_normal((800, 37))
    maps = kety.bootstrap(curves, TWO_PHASE, AIF, samples=100)
    for name, value in (truth | {"ve": 0.25 / 0.8}).items():
        inside = (maps[f"{name}_lower"] <= value) & (value <= maps[f"{name}_upper"])
        assert 0.60 < inside.mean() < 0.74, name


def test_weights_shape_the_residuals_and_frames_without_weight_do_not_count() -> None:
    noise = np.where(TWO_PHASE < 40, 12.0, 2.0)
    curves = patlak(40, noise, 6)
    weights = noise**-2.0
    weights[[3, 30]] = 0.0
    options: dict[str, Any] = {**LINEAR, "weights": weights, "samples": 500}
    maps = kety.bootstrap(curves, TWO_PHASE, AIF, **options)
    wrong = curves.copy()
    wrong[:, [3, 30]] += 1e3
    other = kety.bootstrap(wrong, TWO_PHASE, AIF, **options)
    for name in ("ktrans", "vb"):
        ratio = maps[f"{name}_se_bootstrap"] / maps[f"{name}_se"]
        assert ratio.mean() == pytest.approx(1.0, abs=0.05)
        for end in ("_se_bootstrap", "_lower", "_upper"):
            np.testing.assert_allclose(other[name + end], maps[name + end], rtol=1e-6)


def test_a_voxel_does_not_depend_on_others(monkeypatch: pytest.MonkeyPatch) -> None:
    curves, _ = study(np.random.default_rng(7), 24, AIF)
    mask = np.ones((4, 3, 2), bool)
    mask[2, 0] = False
    options: dict[str, Any] = {"samples": 20, "mask": mask}
    image = curves.reshape(4, 3, 2, 37)
    whole = kety.bootstrap(image, TWO_PHASE, AIF, **options)
    monkeypatch.setattr(bootstrapping, "CURVES", 65)
    parts = kety.bootstrap(np.asfortranarray(image), TWO_PHASE, AIF, **options)
    for name in whole:
        one, other = whole[name].values, parts[name].values
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=1e-4, err_msg=str(name))
    assert np.isnan(whole.ktrans_lower.values[2, 0]).all()
    again = kety.bootstrap(image, TWO_PHASE, AIF, **options, seed=1)
    assert (again.ktrans_lower != whole.ktrans_lower).any()


def test_what_is_held_has_no_interval_and_silence_none_either() -> None:
    curves = np.concatenate([patlak(5, 4.0, 8), np.random.default_rng(8).normal(0, 4, (5, 37))])
    maps = kety.bootstrap(curves, TWO_PHASE, AIF, "patlak", delay=2.0, samples=20)
    assert np.isnan(maps.delay_lower.values).all()
    assert np.isfinite(maps.vb_lower.values[:5]).all()
    assert np.isnan(maps.vb_lower.values[5:]).all()
    assert maps.vb_lower.attrs["units"] == maps.vb.attrs["units"]


def test_interrupted_bootstrap_keeps_what_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrapping, "CURVES", 100)

    def stop(done: int, total: int) -> None:
        if total == 10 * 20 and done >= 100:
            raise KeyboardInterrupt

    maps = kety.bootstrap(
        patlak(10, 4.0, 9), TWO_PHASE, AIF, "patlak", delay=2.0, samples=20, progress=stop
    )
    assert maps.attrs["interrupted"] == 1
    assert np.isfinite(maps.vb_lower.values[:5]).all()
    assert np.isnan(maps.vb_lower.values[5:]).all()


def test_runs_have_the_length_asked_for() -> None:
    places = bootstrapping._draws(Bootstrap(400, residuals="stationary", run=8.0), 60)
    follows = places[:, 1:] == (places[:, :-1] + 1) % 60
    assert follows.mean() == pytest.approx(1 - 1 / 8 + 1 / (8 * 60), abs=0.01)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"samples": 5}, "samples must be a whole number, at least 20"),
        ({"level": 95}, "level must lie between 0 and 1"),
        ({"residuals": "all"}, "unknown residuals 'all'"),
        ({"seed": -1}, "seed must be"),
        ({"run": 4.0}, "give residuals='stationary'"),
        ({"run": 0.0, "residuals": "stationary"}, "at least 1"),
        ({"joint": "graph"}, "leave joint out"),
        ({"model": ("tofts", "patlak")}, "of one model"),
    ],
)
def test_what_is_wrong_is_said(options: dict[str, Any], words: str) -> None:
    with pytest.raises(KetyError, match=words):
        kety.bootstrap(np.zeros((2, 37)), TWO_PHASE, AIF, **options)
