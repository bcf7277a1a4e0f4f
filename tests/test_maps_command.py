"""``kety maps``: what it writes with and without an input, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import kety
from commands import good, run
from kety.fitting.status import Status
from kety.io import read_series, read_volume, write_series, write_volume
from kety.series import Series, Volume
from kety.signal import enhancement

AFFINE = np.diag([2.0, 2.0, 5.0, 1.0])
TIMES = np.arange(0.0, 90.0, 1.5)
SHAPE = (6, 5, 2)


def gamma(times: NDArray[np.float64], start: float) -> NDArray[np.float64]:
    x = np.maximum(times - start, 0.0)
    return np.asarray((x / 4.5) ** 3 * np.exp(3.0 - x / 1.5))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CT series of one slowly draining tissue; one plane of the first axis does not enhance."""
    place = tmp_path_factory.mktemp("maps")
    truth = {"vb": 0.0, "ktrans": 0.5, "kep": 4.0, "delay": 2.0}
    aif = kety.InputFunction(TIMES, 300 * gamma(TIMES, 10.0), hematocrit=0.42)
    aif.to_csv(place / "aif.csv", unit="HU")
    curve = kety.simulate_curves(truth, TIMES, aif, "extended_tofts").ravel()
    data = 40.0 + np.random.default_rng(1).normal(0, 1.0, (*SHAPE, TIMES.size))
    data[1:] += curve
    series = Series(data.astype(np.float32), TIMES, AFFINE, modality="CT", source="ct.nii.gz")
    write_series(series, place / "ct.nii.gz")
    mask = np.ones(SHAPE, np.uint8)
    mask[-1] = 0
    write_volume(Volume(mask, AFFINE, "mask"), place / "mask.nii.gz")
    return place


def record_of(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "fit.json").read_text()))


def map_of(out: Path, name: str) -> NDArray[Any]:
    return np.asarray(read_volume(out / record_of(out)["Maps"][name]).data)


def test_without_an_input(folder: Path, tmp_path: Path) -> None:
    result = good("maps", folder / "ct.nii.gz", "--areas", "30,60", "--out", tmp_path / "out")
    assert "before the strongest voxels enhance" in result.output
    assert "status    estimated 83.3 %, not enhancing 16.7 %" in result.output
    out = tmp_path / "out"
    record = record_of(out)
    assert {"peak", "ttp", "max_slope", "bat", "iauc30", "iauc60", "status"} <= set(record["Maps"])
    assert not {"perfusion", "fb"} & set(record["Maps"])
    assert "input_function" not in record
    assert record["status_counts"] == {"estimated": 50, "not_enhancing": 10}
    assert np.isnan(map_of(out, "iauc60")[0]).all()
    np.testing.assert_allclose(map_of(out, "peak")[1:], map_of(out, "peak")[1:].mean(), rtol=0.3)
    sidecar = json.loads((out / "ct_iauc60.json").read_text())
    assert sidecar["Units"] == "HU s"
    assert sidecar["OSIPI_CAPLEX"] == "Q.CD1.013"
    page = (out / "report.html").read_text()
    for words in ("Model-free maps", "What the maps hold", "iauc60", "not enhancing"):
        assert words in page
    for absent in ("Input curve", "R²", "Measured against fitted"):
        assert absent not in page


@pytest.mark.parametrize("method", ["standard", "circulant", "oscillation"])
def test_deconvolution(folder: Path, tmp_path: Path, method: str) -> None:
    out = tmp_path / "out"
    options = ["--aif", folder / "aif.csv", "--mask", folder / "mask.nii.gz", "--out", out]
    good("maps", folder / "ct.nii.gz", "--areas", "60", "--deconvolve", method, *options)
    record = record_of(out)
    assert record["method"] == f"semiquantitative; deconvolution, {method}"
    assert record["input_function"]["site"] == "blood"
    inside = map_of(out, "status")[1:-1]
    assert (inside == Status.CONVERGED).all()
    assert (map_of(out, "status")[-1] == Status.OUTSIDE).all()
    # In blood the residue is Ktrans exp(-kep t) / (1 - Hct).
    volume = map_of(out, "volume")[1:-1]
    assert float(volume.mean()) == pytest.approx(100 * 0.5 / 4.0 / 0.58, rel=0.02)
    flow, plasma = map_of(out, "fb")[1:-1], map_of(out, "fp")[1:-1]
    np.testing.assert_allclose(plasma, 0.58 * flow, rtol=1e-5)
    np.testing.assert_allclose(map_of(out, "mtt")[1:-1], 60 * volume / flow, rtol=1e-4)
    # Linear maps are there where nothing enhances, others are not.
    assert np.isfinite(map_of(out, "volume")[0]).all()
    assert np.isnan(map_of(out, "fb")[0]).all()
    assert "Input curve" in (out / "report.html").read_text()


def test_agrees_with_python(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ["--aif", folder / "aif.csv", "--arrival", 9, "--late", 60, "--slope-window", 4]
    good("maps", folder / "ct.nii.gz", "--areas", "60", *options, "--no-report", "--out", out)
    data = read_series(folder / "ct.nii.gz").data
    baseline = record_of(out)["baseline_frames"]
    curves = enhancement(data, baseline)
    aif = kety.InputFunction.from_csv(folder / "aif.csv")
    maps = kety.semiquantitative(
        curves, TIMES, aif=aif, arrival=9.0, late=60.0, window=4.0, areas=(60,), baseline=baseline
    )
    for name in maps.data_vars:
        np.testing.assert_array_equal(map_of(out, str(name)), maps[name], err_msg=str(name))
    assert not (out / "report.html").exists()


def test_quiet_prints_nothing(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = good("maps", folder / "ct.nii.gz", "--areas", "60", "--quiet", "--out", out)
    assert result.output == ""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--deconvolve", "standard"], "input is needed for --deconvolve (--aif"),
        (["--threshold", "0.1"], "--threshold is of a deconvolution; give --deconvolve METHOD"),
        (["--oscillation-limit", "0.1"], "--oscillation-limit is of a deconvolution"),
        (["--aif-site", "blood"], "an arterial input is needed, from exactly one"),
        (["--arrival", "500"], "arrives at 500 s; give a time within the frames"),
        (["--areas", "60,-5"], "areas must be different positive numbers"),
        (["--interval", "2", "--times", "t.csv"], "both --times and --interval"),
    ],
)
def test_bad_options(folder: Path, tmp_path: Path, options: list[str], words: str) -> None:
    result = run("maps", folder / "ct.nii.gz", *options, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert words in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()


def test_a_method_that_does_not_take_the_option(folder: Path, tmp_path: Path) -> None:
    options = ["--aif", folder / "aif.csv", "--deconvolve", "standard", "--out", tmp_path / "out"]
    result = run("maps", folder / "ct.nii.gz", *options, "--oscillation-limit", "0.05")
    assert result.exit_code == 2
    assert "is not used by the method 'standard'" in result.output


def test_study_without_an_input_is_not_fitted(folder: Path) -> None:
    from kety.pipeline import estimate, read_study

    study = read_study(folder / "ct.nii.gz", None)
    with pytest.raises(kety.KetyError, match="read without an arterial input"):
        estimate(study)


def test_real_abdomen(reference: Any, tmp_path: Path) -> None:
    place = reference("madym_abdomen")
    out = tmp_path / "out"
    good(
        *("maps", place / "dce.nii.gz", "--modality", "MR", "--times", place / "times.csv"),
        *("--vfa", place / "vfa.nii.gz", "--vfa-angles", "2,10,20", "--tr", "0.004"),
        *("--flip-angle", "20", "--relaxivity", "3.4", "--no-report", "--out", out),
    )
    roi = read_volume(place / "tumour_roi.nii.gz").data > 0
    status = map_of(out, "status")[roi]
    assert (status == Status.CONVERGED).mean() > 0.8
    area, error = map_of(out, "iauc60")[roi], map_of(out, "iauc60_se")[roi]
    assert np.nanmedian(area / error) > 3
    arrival = map_of(out, "bat")[roi]
    assert 30 < np.nanmedian(arrival) < 80
