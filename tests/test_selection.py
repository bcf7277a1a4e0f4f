"""Choice between models: formulas, the maps of the chosen one, and who takes part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

import kety
from cases import TWO_PHASE, Floats, artery, study
from commands import good, run
from kety import KetyError, Status, VarProLM, selection
from kety.fitting.criterion import CRITERIA, criterion

NAMES = ("patlak", "tofts", "extended_tofts")
AIF = artery("parker", TWO_PHASE[-1] + 5)


def mixture(count: int, noise: float, seed: int = 0) -> tuple[Floats, Floats]:
    """Curves of all models in turn, and which is whose (from 1)."""
    rng = np.random.default_rng(seed)
    curves = [study(rng, count, AIF, model=m, noise=noise)[0] for m in NAMES]
    return np.concatenate(curves), np.repeat([1, 2, 3], count)


@given(st.integers(8, 80), st.integers(2, 6), st.floats(1e-6, 1e6))
def test_criteria_are_those_of_the_likelihood(frames: int, unknowns: int, cost: float) -> None:
    residual = np.full(frames, np.sqrt(cost / frames))
    deviation = np.sqrt(cost / frames)
    constant = frames * (np.log(2 * np.pi) + 1)
    deviance = -2 * norm.logpdf(residual, scale=deviation).sum() - constant
    aic = deviance + 2 * unknowns
    expected = {
        "aic": aic,
        "aicc": aic + 2 * unknowns * (unknowns + 1) / (frames - unknowns - 1),
        "bic": deviance + unknowns * np.log(frames),
    }
    for name in CRITERIA:
        assert criterion(name, cost, frames, unknowns) == pytest.approx(expected[name], abs=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_curves_without_noise_get_the_simplest_model_that_follows_them(dtype: str) -> None:
    curves, whose = mixture(100, 0.0)
    maps = kety.fit(curves, TWO_PHASE, AIF, NAMES, select="aicc", dtype=dtype)
    np.testing.assert_array_equal(maps.chosen.values, whose)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("select", CRITERIA)
def test_choice_is_that_of_single_fits_compared_by_hand(select: str, weighted: bool) -> None:
    curves, _ = mixture(60, 6.0)
    rng = np.random.default_rng(1)
    weights = rng.uniform(0.1, 2.0, 37) if weighted else None
    if weights is not None:  # frames that are wrong and do not count
        weights[[5, 20]] = 0.0
        curves[:, [5, 20]] += 300.0
    # In double: in single precision the fall of the last step is foretold to some 4e-4.
    options: dict[str, Any] = {"weights": weights, "baseline": True, "dtype": "float64"}
    maps = kety.fit(curves, TWO_PHASE, AIF, NAMES, select=select, **options)
    single = {m: kety.fit(curves, TWO_PHASE, AIF, m, fitted=True, **options) for m in NAMES}
    w = np.ones(37) if weights is None else weights
    n = int((w > 0).sum())
    for v in range(len(curves)):
        values = {}
        for m, one in single.items():
            if one.status.values[v] in (Status.CONVERGED, Status.AT_BOUND, Status.NOT_IDENTIFIABLE):
                cost = float(np.sum(w * one.residual.values[v].astype(float) ** 2))
                k = len(kety.MODELS[m].names) + 2  # a constant, and the noise
                values[m] = float(criterion(select, cost, n, k))
        if not values:
            assert maps.chosen.values[v] == len(NAMES) + 1
            assert np.isnan(maps.weight.values[v])
            continue
        best = min(values, key=lambda m: values[m])
        chances = {m: np.exp(-0.5 * (x - values[best])) for m, x in values.items()}
        for m in NAMES:
            share = chances.get(m, 0.0) / sum(chances.values())
            assert maps[f"weight_{m}"].values[v] == pytest.approx(share, abs=2e-3)
        if maps.chosen.values[v] != NAMES.index(best) + 1:  # a tie, to rounding
            second = NAMES[maps.chosen.values[v] - 1]
            assert values[second] == pytest.approx(values[best], abs=1e-2)
            best = second
        one = single[best]
        for name in maps.data_vars:
            if name in one and name != "status":
                np.testing.assert_array_equal(maps[name].values[v], one[name].values[v])
            elif name not in ("chosen", "status") and not str(name).startswith("weight"):
                assert np.isnan(maps[name].values[v]), name
        assert maps.status.values[v] == one.status.values[v]


def test_most_voxels_get_the_right_model() -> None:
    curves, whose = mixture(1500, 1.0)
    maps = kety.fit(curves, TWO_PHASE, AIF, NAMES, select="bic")
    right = maps.chosen.values == whose
    for i in (1, 2, 3):
        assert right[whose == i].mean() > 0.85, NAMES[i - 1]
    sure = maps.weight.values > 0.95
    assert right[sure].mean() > right[~sure].mean()


def test_voxels_that_do_not_enhance_have_no_model_unless_a_mask_asks_for_one() -> None:
    curves = np.random.default_rng(2).normal(0.0, 6.0, (300, 37))
    maps = kety.fit(curves, TWO_PHASE, AIF, NAMES, select="aicc")
    silent = maps.chosen.values == len(NAMES) + 1
    assert silent.mean() > 0.98
    np.testing.assert_array_equal(maps.status.values[silent], Status.NOT_ENHANCING)
    assert np.isnan(maps.ktrans.values[silent]).all()
    assert maps.chosen.attrs["flag_meanings"].split() == ["none", *NAMES, "no_enhancement"]
    forced = kety.fit(curves, TWO_PHASE, AIF, NAMES, select="aicc", mask=np.ones(300, bool))
    assert (forced.chosen.values <= len(NAMES)).all()


def test_broken_and_outside_voxels_have_no_model() -> None:
    curves, _ = mixture(2, 3.0)
    curves[0, 3] = np.nan
    mask = np.array([True, False, True, True, True, True])
    maps = kety.fit(curves, TWO_PHASE, AIF, NAMES, select="aicc", mask=mask)
    assert maps.chosen.values[:2].tolist() == [0, 0]
    assert maps.status.values[:2].tolist() == [Status.NOT_FINITE, Status.OUTSIDE]
    assert (maps.chosen.values[2:] > 0).all()


def test_a_fit_that_stopped_early_takes_no_part() -> None:
    curves, _ = mixture(100, 6.0)
    optimizer = VarProLM(max_evaluations=1)
    options: dict[str, Any] = {"optimizer": optimizer, "mask": np.ones(300, bool)}
    maps = kety.fit(curves, TWO_PHASE, AIF, NAMES, select="aicc", **options)
    single = [kety.fit(curves, TWO_PHASE, AIF, m, **options).status.values for m in NAMES]
    stopped = np.stack(single) == Status.ITERATION_LIMIT
    assert stopped.any()
    assert not stopped.all()
    for i, name in enumerate(NAMES):
        assert (maps[f"weight_{name}"].values[stopped[i] & ~stopped.all(axis=0)] == 0).all()
    none = stopped.all(axis=0)
    assert (maps.chosen.values[none] == 0).all()
    np.testing.assert_array_equal(maps.status.values[none], Status.ITERATION_LIMIT)


def test_result_does_not_depend_on_blocks_or_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    curves, _ = mixture(8, 6.0)
    image = curves.reshape(4, 3, 2, 37)
    mask = np.ones((4, 3, 2), bool)
    mask[1, 2] = False
    options: dict[str, Any] = {"select": "bic", "mask": mask, "fitted": True}
    whole = kety.fit(image, TWO_PHASE, AIF, NAMES, autocorrelation=True, **options)
    monkeypatch.setattr(selection, "BLOCK", 5)
    parts = kety.fit(
        np.asfortranarray(image), TWO_PHASE, AIF, NAMES, autocorrelation=True, **options
    )
    assert whole.chosen.dims == ("x", "y", "z")
    assert whole.fitted.shape == image.shape
    for name in map(str, whole):
        # Curves are computed with the pieces that the fastest of their block needs.
        loose = 2e-4 if name.startswith(("fitted", "residual")) else 0.0
        one, other = whole[name].values, parts[name].values
        np.testing.assert_allclose(one, other, rtol=loose, atol=50 * loose, err_msg=name)


def test_interrupted_choice_keeps_the_blocks_that_are_finished(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(selection, "BLOCK", 10)
    curves, _ = mixture(10, 6.0)

    def stop(done: int, total: int) -> None:
        if done > 12:
            raise KeyboardInterrupt

    maps = kety.fit(curves, TWO_PHASE, AIF, NAMES, select="aicc", progress=stop)
    assert (maps.attrs["interrupted"], maps.attrs["voxels_done"]) == (1, 20)
    assert (maps.chosen.values[:20] > 0).all()
    assert (maps.status.values[20:] == 0).all()


def test_bounds_go_to_the_models_that_have_the_parameter() -> None:
    curves, _ = mixture(50, 6.0)
    bounds = {"kep": (0.5, 0.9), "vb": (0.0, 0.05)}
    maps = kety.fit(curves, TWO_PHASE, AIF, NAMES, select="aicc", bounds=bounds)
    assert np.nanmin(maps.kep.values) >= 0.5
    assert np.nanmax(maps.kep.values) <= np.float32(0.9)
    assert np.nanmax(maps.vb.values) <= np.float32(0.05)


@given(st.integers(0, 3), st.data())
@settings(max_examples=10, deadline=None)
def test_no_image_is_too_small(count: int, data: st.DataObject) -> None:
    curves = np.zeros((count, 37))
    models = data.draw(st.permutations(NAMES))
    maps = kety.fit(curves, TWO_PHASE, AIF, models, select="aicc")
    assert maps.chosen.shape == (count,)
    assert (maps.chosen.values == len(NAMES) + 1).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": NAMES}, "give select: aicc, bic, aic"),
        ({"model": "tofts", "select": "aicc"}, "give several models"),
        ({"model": ["tofts"], "select": "aicc"}, "two or more different"),
        ({"model": ["tofts", "tofts"], "select": "aicc"}, "two or more different"),
        ({"model": None, "select": "aicc"}, "sequence of names, found None"),
        ({"model": NAMES, "select": "best"}, "unknown select 'best'"),
        ({"model": ["tofts", "toft"], "select": "aicc"}, "unknown model 'toft'"),
        ({"model": NAMES, "select": "aicc", "joint": "graph"}, "joint estimation is of one"),
        ({"model": NAMES, "select": "aicc", "bounds": {"kp": (0, 1)}}, "of none of patlak"),
        ({"model": NAMES, "select": "aicc", "bounds": {"ve": (0, 1)}}, "derived from"),
    ],
)
def test_what_is_wrong_is_said(options: dict[str, Any], words: str) -> None:
    with pytest.raises(KetyError, match=words):
        kety.fit(np.zeros((2, 37)), TWO_PHASE, AIF, **options)


def test_too_few_frames_for_the_correction_are_named() -> None:
    times = TWO_PHASE[5:11]
    with pytest.raises(
        KetyError, match=r"aicc of extended_tofts needs at least 7 frames .* found 6"
    ):
        kety.fit(np.zeros((2, 6)), times, AIF, ("tofts", "extended_tofts"), select="aicc")
    kety.fit(np.zeros((2, 6)), times, AIF, ("tofts", "extended_tofts"), select="bic")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    good("simulate", folder, "--size", "20,16,2")
    return folder


def test_command_writes_the_choice_and_reports_it(small: Path, tmp_path: Path) -> None:
    inputs = [small / "dce.nii.gz", "--aif", small / "aif.csv"]
    result = good(
        "fit",
        *inputs,
        "--model",
        "tofts,extended_tofts",
        "--select",
        "aicc",
        "--out",
        tmp_path,
        "--autocorrelation",
    )
    assert "models    tofts" in result.output
    names = {path.name for path in tmp_path.glob("*.nii.gz")}
    for wanted in ("chosen", "weight", "weighttofts", "residualautocorrelation", "desc-se_vb"):
        assert f"dce_model-chosen_{wanted}.nii.gz" in names
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "Which model where" in page
    assert "Models chosen" in page
    sidecar = (tmp_path / "dce_model-chosen_chosen.json").read_text("utf-8")
    assert "no_enhancement" in sidecar


def test_command_says_how_to_choose(small: Path) -> None:
    inputs = ["fit", small / "dce.nii.gz", "--aif", small / "aif.csv"]
    assert "--select aicc" in run(*inputs, "--model", "tofts,patlak").output
    assert "give several" in run(*inputs, "--model", "tofts", "--select", "bic").output
    assert "unknown model" in run(*inputs, "--model", "tofts,x", "--select", "bic").output
