"""``kety aif`` and ``kety fit --aif auto``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from commands import good, run
from kety import InputFunction
from kety.errors import KetyError
from kety.io import read_mask, read_series, read_volume, write_series, write_volume
from kety.pipeline import InputSource, read_study
from kety.series import Series, Volume
from kety.signal import signal_from_concentration
from kety.simulate import simulate_abdomen

SIZE = (48, 40, 6)


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ct")
    good("simulate", folder, "--size", "48,40,6", "--noise", 8)
    return folder


@pytest.fixture(scope="module")
def fitted(ct: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("maps")
    result = good(
        *("fit", ct / "dce.nii.gz", "--aif", "auto", "--aif-check", ct / "aorta.nii.gz"),
        *("--mask", ct / "tumour.nii.gz", "--aif-tail", "fit", "--out", out),
    )
    return out, result.output


def test_aif_writes_mask_curve_and_page(ct: Path, tmp_path: Path) -> None:
    output = good("aif", ct / "dce.nii.gz", "--out", tmp_path / "look").output
    assert "it peaks at" in output
    series = read_series(ct / "dce.nii.gz")
    mask = read_mask(tmp_path / "look" / "vessel.nii.gz", like=series)
    assert not (mask & ~read_mask(ct / "aorta.nii.gz")).any()
    curve = InputFunction.from_csv(tmp_path / "look" / "input.csv")
    truth = InputFunction.from_csv(ct / "aif.csv")(series.times)
    assert curve.concentration.max() == pytest.approx(truth.max(), rel=0.05)
    sidecar = json.loads((tmp_path / "look" / "vessel.json").read_text())
    assert sidecar["Levels"] == {"1": "artery"}
    assert set(sidecar["Vessel"]["reasons"]) >= {"high", "early", "narrow"}
    assert sidecar["command"].startswith("kety aif")
    page = (tmp_path / "look" / "input.html").read_text()
    assert "Why these voxels" in page
    assert "Artery that was found" in page


def test_aif_shows_a_given_curve_too(ct: Path, tmp_path: Path) -> None:
    good(
        *("aif", ct / "dce.nii.gz", "--aif", ct / "aif.csv", "--aif-smooth", 4),
        *("--out", tmp_path, "--quiet"),
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["input.csv", "input.html"]
    assert "smoothed over 4 s" in (tmp_path / "input.html").read_text()


def test_fit_finds_its_input_and_says_why(ct: Path, fitted: tuple[Path, str]) -> None:
    out, output = fitted
    assert "agreement" in output
    assert "tail of 2 exponentials" in output
    record = json.loads((out / "fit.json").read_text())["vessel"]
    assert record["quality"] == "good"
    assert record["against_drawn_mask"]["inside"] == 1.0
    assert record["against_drawn_mask"]["peak_ratio"] == pytest.approx(1.0, abs=0.02)
    assert record["steps"] == ["tail of 2 exponentials"]
    assert record["candidates"][0]["lacks"] == []
    assert {"vessel.nii.gz", "vessel.json", "input.csv"} <= {p.name for p in out.iterdir()}
    page = (out / "report.html").read_text()
    for words in ("Mask drawn by hand", "Dice with the drawn mask", "Candidates", "chosen artery"):
        assert words in page


def test_the_written_curve_gives_the_same_fit(
    ct: Path, fitted: tuple[Path, str], tmp_path: Path
) -> None:
    out, _ = fitted
    frames = json.loads((out / "fit.json").read_text())["baseline_frames"]
    good(
        *("fit", ct / "dce.nii.gz", "--aif", out / "input.csv", "--out", tmp_path, "--no-report"),
        *("--mask", ct / "tumour.nii.gz", "--baseline-frames", f"0-{frames[-1]}", "--quiet"),
    )
    name = "dce_model-extendedtofts_Ktrans.nii.gz"
    first, second = read_volume(out / name).data, read_volume(tmp_path / name).data
    np.testing.assert_array_equal(first, second)


def test_the_input_does_not_depend_on_the_region(ct: Path) -> None:
    source = InputSource(auto=True)
    whole = read_study(ct / "dce.nii.gz", source)
    part = read_study(ct / "dce.nii.gz", source, crop="0:10,:,:", downsample=2)
    assert part.aif.fingerprint() == whole.aif.fingerprint()
    assert part.vessel is not None
    assert part.vessel.found.mask.shape == whole.series.shape


def test_mr_signal_is_converted_with_the_blood_t1(tmp_path: Path) -> None:
    phantom = simulate_abdomen(SIZE, noise=0.0)
    concentration = np.maximum(phantom.series.data - phantom.baseline[..., None], 0.0) / 60.0
    signal = 500.0 * signal_from_concentration(
        concentration, t10=1.4, repetition_time=0.004, flip_angle=20.0, relaxivity=4.5
    )
    rng = np.random.default_rng(0)
    signal = (signal + rng.normal(0.0, 0.05, signal.shape)).astype(np.float32)
    scan = {"repetition_time": 0.004, "flip_angle": 20.0}
    series = Series(signal, phantom.series.times, phantom.series.affine, "MR", scan)
    write_series(series, tmp_path / "mr.nii.gz")
    good(
        *("aif", tmp_path / "mr.nii.gz", "--t10", 1.0, "--aif-t10", 1.4, "--out", tmp_path / "a"),
    )
    curve = InputFunction.from_csv(tmp_path / "a" / "input.csv")
    truth = phantom.aif(phantom.series.times) / 60.0
    np.testing.assert_allclose(curve.concentration, truth, atol=0.03 * truth.max())
    assert (
        "cb_mM" in (tmp_path / "a" / "input.csv").read_text()
        or "blood_mM" in (tmp_path / "a" / "input.csv").read_text()
    )


def test_without_a_vessel_the_fit_stops(ct: Path, tmp_path: Path) -> None:
    series = read_series(ct / "dce.nii.gz")
    data = np.array(series.data)
    aorta = read_mask(ct / "aorta.nii.gz")
    data[aorta] = 40
    times = series.times
    path = tmp_path / "tissue.nii.gz"
    write_series(Series(data, times, series.affine, "CT"), path)
    result = run("fit", path, "--aif", "auto", "--out", tmp_path / "maps")
    assert result.exit_code == 2
    assert "no artery was found" in result.output
    assert "--aif CSV, --aif-mask or --population" in result.output
    assert not (tmp_path / "maps").exists()


def test_a_vein_is_asked_for_and_not_there(ct: Path, tmp_path: Path) -> None:
    result = run("aif", ct / "dce.nii.gz", "--aif-vein", "auto", "--out", tmp_path)
    assert result.exit_code == 2
    assert "no vein was found" in result.output
    assert "--aif-vein IMAGE" in result.output


def test_a_vein_mask_scales_the_input(ct: Path, tmp_path: Path) -> None:
    series = read_series(ct / "dce.nii.gz")
    aorta = read_mask(ct / "aorta.nii.gz")
    vein = aorta.copy()
    write_volume(Volume(vein.astype(np.uint8), series.affine, "vein"), tmp_path / "vein.nii.gz")
    out = tmp_path / "o"
    good(
        *("aif", ct / "dce.nii.gz", "--aif-vein", tmp_path / "vein.nii.gz", "--out", out),
    )
    record = json.loads((out / "vessel.json").read_text())["Vessel"]
    assert record["vein_factor"] == pytest.approx(1.0, abs=0.02)
    assert record["vein_voxels"] == int(vein.sum())


def test_frames_are_left_out_and_the_tail_goes_on(ct: Path, tmp_path: Path) -> None:
    arguments = ("aif", ct / "dce.nii.gz", "--aif-frames", "0-40", "--aif-without", "2,30-31")
    result = good(*arguments, "--out", tmp_path / "a")
    assert "38 of 66 frames kept" in result.output
    assert "stays level" in result.output
    result = good(*arguments, "--aif-tail", "fit1", "--out", tmp_path / "b")
    assert "stays level" not in result.output
    assert InputFunction.from_csv(tmp_path / "b" / "input.csv").times[-1] == 300.0
    for bad in ("x", "5-2", "-3", ""):
        result = run("aif", ct / "dce.nii.gz", "--aif-frames", bad, "--out", tmp_path / "c")
        assert result.exit_code == 2


def test_sources_that_do_not_fit_are_refused() -> None:
    with pytest.raises(KetyError, match="found table and auto"):
        InputSource(table="a.csv", auto=True)
    with pytest.raises(KetyError, match="found none"):
        InputSource(auto=False)
    with pytest.raises(KetyError, match="vein of the arterial input cannot be used with a mask"):
        InputSource(mask="m.nii.gz", vein="auto")
    with pytest.raises(KetyError, match="check of the arterial input cannot be used with a table"):
        InputSource(table="a.csv", check="m.nii.gz")
    with pytest.raises(KetyError, match="tail of the arterial input cannot be used with a popul"):
        InputSource(population="parker", tail=2)
    assert InputSource(auto=True).kind == "auto"
