"""Noise of every frame: measured in the series, as weights, in simulation and in planning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import kety
from commands import good, run
from kety.errors import KetyError
from kety.signal import CTNoise, frame_noise, noise_weights
from kety.simulate import noise_of_phases, protocol, simulate_abdomen
from kety.simulate.phantom import scaled_input

TISSUE = {"tumour": {"ktrans": 0.3, "kep": 0.9, "vb": 0.08, "delay": 2.0}}


@pytest.fixture(scope="module")
def aif() -> kety.InputFunction:
    return scaled_input(301.0, 10.0, 10.0, 300.0, 0.42)


# --- measured -------------------------------------------------------------------------------------


@pytest.mark.parametrize("phases", [(6.0, 12.0, 12.0), (8.0, 4.0, 4.0), (6.0, 6.0, 6.0)])
@pytest.mark.parametrize("fwhm", [0.0, 8.0])
def test_the_noise_of_phases_is_measured_although_tissue_enhances(
    phases: tuple[float, ...], fwhm: float
) -> None:
    sd = noise_of_phases("two_phase", phases)
    phantom = simulate_abdomen((64, 54, 6), noise=sd, noise_fwhm=fwhm, seed=4)
    found = frame_noise(phantom.series.data, phantom.series.times, phantom.body)
    off = found / sd - 1
    assert abs(off.mean()) < 0.02
    assert off.std() < 0.05
    assert np.abs(off).max() < 0.2


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**16), st.floats(0.01, 100.0))
def test_it_knows_the_unit_and_any_time_grid(seed: int, scale: float) -> None:
    random = np.random.default_rng(seed)
    times = np.cumsum(random.uniform(1.0, 10.0, 12))
    sd = scale * random.uniform(0.5, 2.0, 12)
    # A slope and a constant of every voxel: straight lines are no noise.
    data = random.normal(size=(4000, 1)) * times * scale + 50 * scale
    data = data + sd * random.standard_normal((4000, 12))
    # The ends of a grid as uneven as this are told less well.
    off = (frame_noise(data, times) / sd - 1)[2:-2]
    assert np.abs(off).max() < 0.4
    assert abs(off.mean()) < 0.1


def test_layout_and_voxels_that_are_not_finite_do_not_matter() -> None:
    random = np.random.default_rng(0)
    data = random.standard_normal((20, 20, 3, 15))
    times = np.arange(15.0)
    one = frame_noise(data, times)
    np.testing.assert_allclose(frame_noise(np.asfortranarray(data), times), one, rtol=0.05)
    data[3, 3, 1, 7] = np.nan
    assert np.isfinite(frame_noise(data, times)).all()


def test_what_says_nothing_of_noise_is_refused() -> None:
    times = np.arange(10.0)
    random = np.random.default_rng(0)
    with pytest.raises(KetyError, match="have no noise"):
        frame_noise(np.ones((500, 10)), times)
    with pytest.raises(KetyError, match="10 finite voxels are too few"):
        frame_noise(random.normal(size=(10, 10)), times)
    with pytest.raises(KetyError, match="5 frames are too few"):
        frame_noise(random.normal(size=(500, 5)), times[:5])
    with pytest.raises(KetyError, match="times must increase"):
        frame_noise(random.normal(size=(500, 10)), times[::-1])
    for wrong in ([1.0, 0.0], [[1.0]], [np.nan]):
        with pytest.raises(KetyError, match="must be positive numbers"):
            noise_weights(wrong)


# --- by the acquisition ---------------------------------------------------------------------------


def test_noise_goes_with_the_quanta() -> None:
    known = CTNoise(sd=10.0, kvp=120.0, mas=100.0, thickness=5.0)
    assert known.at() == 10.0
    assert known.at(mas=400.0) == pytest.approx(5.0)
    assert known.at(thickness=2.5) == pytest.approx(10 * np.sqrt(2))
    assert known.at(kvp=80.0) == pytest.approx(10 * (120 / 80) ** 1.3)
    np.testing.assert_allclose(known.at(mas=[100.0, 25.0]), [10.0, 20.0])
    with pytest.raises(KetyError, match="mas of CT noise must be a positive number"):
        CTNoise(sd=10.0, kvp=120.0, mas=0.0, thickness=5.0)
    with pytest.raises(KetyError, match="must be positive"):
        known.at(mas=[100.0, 0.0])


# --- weights --------------------------------------------------------------------------------------


def test_weights_lower_the_error_where_phases_differ(aif: kety.InputFunction) -> None:
    times = protocol("two_phase")
    sd = noise_of_phases("two_phase", [3.0, 18.0, 18.0])
    truth = TISSUE["tumour"]
    clean = kety.simulate_curves(truth, times, aif)
    random = np.random.default_rng(0)
    curves = clean + sd * random.standard_normal((800, times.size))
    how: dict[str, Any] = {"mask": np.ones(800, bool)}
    off = {}
    for name, weights in (("plain", None), ("weighted", noise_weights(sd))):
        maps = kety.fit(curves, times, aif, weights=weights, **how)
        error = maps["ktrans"].values - truth["ktrans"]
        off[name] = float(np.median(np.abs(error)))
        inside = np.mean(np.abs(error) <= maps["ktrans_se"].values)
        if name == "weighted":
            assert 0.62 < inside < 0.75
    assert off["weighted"] < 0.8 * off["plain"]


def test_the_bound_and_the_simulation_of_a_plan_agree(aif: kety.InputFunction) -> None:
    times = protocol("two_phase")
    sd = noise_of_phases("two_phase", [3.0, 12.0, 12.0])
    plan = kety.expected_errors(times, sd, aif, tissues=TISSUE, copies=600, dtype="float64")
    for name in ("ktrans", "kep", "vb"):
        one = plan.sel(tissue="tumour", parameter=name)
        assert float(one["sd"]) == pytest.approx(float(one["crb"]), rel=0.15), name
    assert float(plan["noise"][0]) == pytest.approx(np.sqrt(np.mean(sd**2)))
    uniform = kety.cramer_rao(TISSUE["tumour"], times, 6.0, aif)
    same = kety.cramer_rao(TISSUE["tumour"], times, np.full(times.size, 6.0), aif)
    for name, value in uniform.items():
        np.testing.assert_allclose(same[name], value, rtol=1e-9)
    with pytest.raises(KetyError, match=r"noise of shape \(3,\) for 66 frames"):
        kety.expected_errors(times, [1.0, 2.0, 3.0], aif, tissues=TISSUE)


def test_equal_frames_give_the_plan_of_one_number(aif: kety.InputFunction) -> None:
    times = protocol("brain")
    one = kety.expected_errors(times, 5.0, aif, tissues=TISSUE, copies=50)
    same = kety.expected_errors(times, np.full(times.size, 5.0), aif, tissues=TISSUE, copies=50)
    np.testing.assert_allclose(same["crb"], one["crb"], rtol=1e-9)
    np.testing.assert_allclose(same["rmse"], one["rmse"], rtol=1e-3)


# --- simulation and the shell ---------------------------------------------------------------------


def test_a_phantom_has_the_noise_of_its_phases() -> None:
    sd = noise_of_phases("brain", [4.0, 8.0, 16.0])
    assert sd.size == 37
    quiet = simulate_abdomen((32, 27, 2), noise=0.0, protocol="brain")
    noisy = simulate_abdomen((32, 27, 2), noise=sd, protocol="brain")
    found = (noisy.series.data - quiet.series.data).std(axis=(0, 1, 2))
    np.testing.assert_allclose(found, sd, rtol=0.1)
    same = simulate_abdomen((32, 27, 2), noise=6.0, seed=2)
    each = simulate_abdomen((32, 27, 2), noise=np.full(66, 6.0), seed=2)
    np.testing.assert_array_equal(same.series.data, each.series.data)
    with pytest.raises(KetyError, match="2 values of noise for the 3 phases of brain"):
        noise_of_phases("brain", [4.0, 8.0])
    with pytest.raises(KetyError, match=r"noise of shape \(3,\) for 66 frames"):
        simulate_abdomen((32, 27, 2), noise=[1.0, 2.0, 3.0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("noise")
    good("simulate", out, "--size", "48,40,3", "--noise", "4,12,12")
    return out


def noise_in(out: Path) -> NDArray[Any]:
    return np.array(json.loads((out / "fit.json").read_text())["frame_noise"]["sd"])


def test_a_fit_weights_frames_by_their_noise(folder: Path, tmp_path: Path) -> None:
    arguments = ("fit", folder / "dce.nii.gz", "--aif", folder / "aif.csv", "--mask",
                 folder / "tumour.nii.gz", "--no-report")  # fmt: skip
    good(*arguments, "--frame-noise", "auto", "--out", tmp_path / "auto")
    sd = noise_of_phases("two_phase", [4.0, 12.0, 12.0])
    np.testing.assert_allclose(noise_in(tmp_path / "auto"), sd, rtol=0.3)
    table = tmp_path / "noise.csv"
    table.write_text("sd_HU\n" + "\n".join(f"{one:g}" for one in sd) + "\n")
    good(*arguments, "--frame-noise", table, "--out", tmp_path / "given")
    np.testing.assert_array_equal(noise_in(tmp_path / "given"), sd)
    table.write_text("1\n2\n")
    result = run(*arguments, "--frame-noise", table, "--out", tmp_path / "x")
    assert "noise.csv: 2 numbers for 66 frames" in result.output
    table.write_text("\n".join(["-1"] * 66))
    assert (
        "must be positive"
        in run(*arguments, "--frame-noise", table, "--out", tmp_path / "x").output
    )
    assert not (tmp_path / "x").exists()
