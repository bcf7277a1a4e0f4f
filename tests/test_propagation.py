"""What an uncertain input, hematocrit or T10 adds: against closed forms, and its sharing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kety
from cases import TWO_PHASE, Floats, artery, study
from commands import good, run
from kety import KetyError, Status
from kety.propagation import add_propagated
from kety.signal import concentration_from_signal, signal_from_concentration
from kety.uncertain import Uncertain, scenarios

AIF = artery("georgiou", TWO_PHASE[-1] + 5)


def curves_of(count: int, seed: int = 0, noise: float = 2.0) -> Floats:
    truth = {"ktrans": 0.25, "kep": 0.8, "vb": 0.08, "delay": 3.3}
    clean = kety.simulate_curves(truth, TWO_PHASE, AIF)
    return clean + np.random.default_rng(seed).normal(0.0, noise, (count, 37))


def test_amplitude_of_the_input_scales_what_it_must() -> None:
    maps = kety.propagate(curves_of(40), TWO_PHASE, AIF, uncertain={"aif": 0.05}, draws=20)
    for name in ("ktrans", "ve", "vb", "vp"):  # all in proportion to 1 / input
        relative = (maps[f"{name}_se_input"] / maps[name]).values
        np.testing.assert_allclose(relative, 0.0505, rtol=0.2)
        attrs = maps[f"{name}_se_input"].attrs
        assert attrs["common_correlation"] > 0.99
        median = float(maps[name].median())
        assert attrs["region_median_se"] == pytest.approx(0.0505 * median, rel=0.2)
    assert (maps.kep_se_input < 1e-3 * maps.kep).all()
    total = np.hypot(maps.ktrans_se, maps.ktrans_se_input)
    np.testing.assert_allclose(maps.ktrans_se_total, total, rtol=1e-6)


def test_hematocrit_scales_what_acts_on_plasma() -> None:
    sd = 0.03
    maps = kety.propagate(curves_of(30), TWO_PHASE, AIF, uncertain={"hematocrit": sd}, draws=16)
    expected = sd / (1 - AIF.hematocrit)
    for name in ("ktrans", "ve"):
        relative = (maps[f"{name}_se_input"] / maps[name]).values
        np.testing.assert_allclose(relative, expected, rtol=0.2)
    assert (maps.vb_se_input == 0).all()
    np.testing.assert_allclose(maps.vb_se_total, maps.vb_se)


def test_draws_are_those_of_fits_made_one_by_one() -> None:
    uncertain = Uncertain(hematocrit=0.02, aif=0.05, aif_noise=2.0)
    curves = curves_of(5)
    maps = kety.propagate(curves, TWO_PHASE, AIF, uncertain=uncertain, draws=12, seed=3)
    found = []
    for one in scenarios(uncertain, AIF, 12, 3):
        assert one.aif.hematocrit != AIF.hematocrit
        found.append(kety.fit(curves, TWO_PHASE, one.aif, mask=np.ones(5, bool)).kep.values)
    expected = np.std(np.array(found, np.float64), axis=0, ddof=1)
    np.testing.assert_allclose(maps.kep_se_input.values, expected, rtol=1e-4)


def test_draws_have_the_distribution_asked_for() -> None:
    drawn = scenarios(Uncertain(hematocrit=0.03, aif=0.1, aif_noise=1.0, t10=0.1), AIF, 200, 0)
    for values, middle, sd in (
        ([one.aif.hematocrit for one in drawn], 0.42, 0.03),
        ([one.t10 for one in drawn], 1.0, 0.1),
    ):
        assert np.mean(values) == pytest.approx(middle, abs=0.01 * sd)
        assert np.std(values) == pytest.approx(sd, rel=0.02)
        ranks = np.sort((np.array(values) - middle) / sd)
        assert np.abs(np.interp(0.0, ranks, np.linspace(0, 1, 200)) - 0.5) < 0.01
    noise = np.stack([one.aif.concentration / AIF.concentration.max() for one in drawn])
    assert noise.std() > 0
    # What one cause draws does not depend on the others.
    alone = scenarios(Uncertain(hematocrit=0.03), AIF, 200, 0)
    assert [one.aif.hematocrit for one in alone] == [one.aif.hematocrit for one in drawn]


def test_noise_of_the_input_is_shared_by_like_voxels() -> None:
    maps = kety.propagate(
        curves_of(60, noise=0.05), TWO_PHASE, AIF, uncertain={"aif_noise": 1.0}, draws=20
    )
    assert maps.ktrans_se_input.attrs["common_correlation"] > 0.95
    assert (maps.ktrans_se_input > 0).all()


def test_arrival_counts_where_the_delay_is_fixed() -> None:
    maps = kety.propagate(
        curves_of(20), TWO_PHASE, AIF, uncertain={"arrival": 0.5}, delay=3.3, draws=20
    )
    step = [
        kety.fit(curves_of(20), TWO_PHASE, AIF, delay=3.3 + d, mask=np.ones(20, bool)).ktrans
        for d in (-0.5, 0.5)
    ]
    expected = np.abs(step[1] - step[0]) / 2
    assert maps.ktrans_se_input.median() == pytest.approx(float(expected.median()), rel=0.4)
    assert np.isnan(maps.delay_se_input.values).all()


def mr_signal(count: int) -> tuple[Floats, dict[str, Any], kety.InputFunction]:
    times = TWO_PHASE
    values = AIF.concentration / AIF.concentration.max() * 5.0
    aif = replace(AIF, concentration=values)
    truth = {"ktrans": 0.25, "kep": 0.8, "vb": 0.05, "delay": 8.0}
    concentration = kety.simulate_curves(truth, times, aif)
    scan = {"repetition_time": 0.005, "flip_angle": 20.0, "relaxivity": 4.5}
    signal = signal_from_concentration(concentration, t10=1.2, s0=1000.0, **scan)
    noise = np.random.default_rng(1).normal(0.0, 0.3, (count, times.size))
    return signal + noise, {**scan, "baseline": slice(0, 4)}, aif


@pytest.mark.parametrize("own", [False, True])
def test_t10_is_converted_again(own: bool) -> None:
    signal, scan, aif = mr_signal(40)

    def convert(factor: Any) -> Floats:
        t10 = np.broadcast_to(1.2 * np.asarray(factor), (40,))
        return np.asarray(concentration_from_signal(signal, t10=t10, **scan).values)

    uncertain = {"t10_voxel" if own else "t10": 0.1}
    maps = kety.propagate(
        convert(1.0), TWO_PHASE, aif, uncertain=uncertain, convert=convert, draws=16
    )
    ends = [kety.fit(convert(f), TWO_PHASE, aif, mask=np.ones(40, bool)).ktrans for f in (0.9, 1.1)]
    expected = float(np.abs(ends[1] - ends[0]).median() / 2)
    assert expected > 0.05 * 0.25
    assert float(maps.ktrans_se_input.median()) == pytest.approx(expected, rel=0.25)
    shared = maps.ktrans_se_input.attrs["common_correlation"]
    assert abs(shared) < 0.1 if own else shared > 0.95


def test_a_region_is_summarised_and_silence_left_out() -> None:
    curves, _ = study(np.random.default_rng(4), 12, AIF, noise=1.0)
    curves[3] = np.random.default_rng(5).normal(0.0, 1.0, 37)
    image = np.asfortranarray(curves.reshape(3, 2, 2, 37))
    region = np.zeros((3, 2, 2), bool)
    region[0, 0, 0] = True
    maps = kety.propagate(image, TWO_PHASE, AIF, uncertain={"aif": 0.04}, region=region, draws=12)
    attrs = maps.ktrans_se_input.attrs
    one = float(maps.ktrans_se_input.values[0, 0, 0])
    assert attrs["region_median_se"] == pytest.approx(one, rel=1e-3)
    assert "common_correlation" not in attrs  # of one voxel there is none
    silent = maps.status.values == Status.NOT_ENHANCING
    assert silent.any()
    assert np.isnan(maps.ktrans_se_input.values[silent]).all()
    assert np.isfinite(maps.ktrans_se_input.values[~silent]).all()


def test_result_is_that_of_its_seed_and_survives_an_interruption() -> None:
    curves = curves_of(4)
    options: dict[str, Any] = {"uncertain": {"aif_noise": 5.0}, "draws": 12}
    one = kety.propagate(curves, TWO_PHASE, AIF, **options)
    again = kety.propagate(curves, TWO_PHASE, AIF, **options)
    other = kety.propagate(curves, TWO_PHASE, AIF, **options, seed=1)
    np.testing.assert_array_equal(one.kep_se_input, again.kep_se_input)
    assert (one.kep_se_input != other.kep_se_input).all()

    def stop(done: int, total: int) -> None:
        if done == 4 * 5:
            raise KeyboardInterrupt

    maps = kety.fit(curves, TWO_PHASE, AIF)
    part = add_propagated(
        maps, curves, TWO_PHASE, AIF, Uncertain(aif_noise=5.0), draws=12, progress=stop
    )
    assert (part.attrs["interrupted"], part.attrs["uncertain_draws"]) == (1, 5)
    assert np.isfinite(part.kep_se_input.values).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "nothing is uncertain"),
        ({"uncertain": {"aif": -0.1}}, "at least 0"),
        ({"uncertain": {"aif": 0.3}}, "must be below 0.25"),
        ({"uncertain": {"hct": 0.03}}, "unknown uncertain hct"),
        ({"uncertain": {"hematocrit": 0.2}}, "not between 0 and 1 in all draws"),
        ({"uncertain": {"arrival": 1.0}}, "taken up by a delay that is estimated"),
        ({"uncertain": {"t10": 0.1}}, "give convert"),
        ({"uncertain": {"aif": 0.05}, "draws": 3}, "draws must be"),
        ({"uncertain": {"aif": 0.05}, "seed": -3}, "seed must be"),
        ({"uncertain": {"aif": 0.05}, "region": np.ones(3)}, "region has shape"),
        ({"uncertain": {"aif": 0.05}, "joint": "graph"}, "leave joint out"),
    ],
)
def test_what_is_wrong_is_said(options: dict[str, Any], words: str) -> None:
    with pytest.raises(KetyError, match=words):
        kety.propagate(np.zeros((2, 37)), TWO_PHASE, AIF, **options)


def test_curves_converted_to_another_shape_are_refused() -> None:
    with pytest.raises(KetyError, match="convert gave curves"):
        kety.propagate(
            curves_of(3), TWO_PHASE, AIF, uncertain={"t10": 0.1}, convert=lambda f: curves_of(2)
        )


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    good("simulate", folder, "--size", "20,16,2")
    return folder


def test_command_adds_everything_asked_for(small: Path, tmp_path: Path) -> None:
    result = good(
        "fit", small / "dce.nii.gz", "--aif", small / "aif.csv", "--out", tmp_path,
        "--mask", small / "tumour.nii.gz", "--uncertain", "hematocrit=0.03,aif=5%",
        "--draws", 10, "--bootstrap", 20, "--profile", "ve", "--level", 0.9, "--seed", 2,
    )  # fmt: skip
    assert "uncertain hematocrit 0.03, aif 5 %: 10 draws" in result.output
    names = {path.name for path in tmp_path.glob("*.nii.gz")}
    for desc in ("seInput", "seTotal", "lower", "upper", "open", "seBootstrap", "bias"):
        assert any(f"desc-{desc}_ve.nii.gz" in name for name in names), desc
    page = (tmp_path / "report.html").read_text("utf-8")
    for words in ("Profile-likelihood intervals", "Residual bootstrap", "Common to voxels"):
        assert words in page
    record = json.loads((tmp_path / "fit.json").read_text("utf-8"))
    assert record["Uncertain"] if "Uncertain" in record else record["uncertain"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--draws", 20], "--draws has no use alone"),
        (["--level", 0.9], "--level has no use alone"),
        (["--uncertain", "aif"], "expected e.g."),
        (["--uncertain", "hct=0.1"], "unknown uncertain hct"),
        (["--uncertain", "t10=10%"], "T10 converts an MR signal"),
        (["--profile", "kp"], "no kp to profile"),
        (["--bootstrap", 30, "--joint", "graph"], "leave joint out"),
        (["--bootstrap", 30, "--model", "tofts,patlak", "--select", "bic"], "of one model"),
    ],
)
def test_command_says_what_is_wrong(small: Path, options: list[Any], words: str) -> None:
    result = run("fit", small / "dce.nii.gz", "--aif", small / "aif.csv", *options)
    assert result.exit_code == 2
    assert words in result.output
