"""HU to mg/mL of iodine: the calibration, and a study in either unit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kety
from commands import good, run
from kety.errors import KetyError
from kety.io import read_maps, read_series, write_series
from kety.pipeline import Conversion, InputSource, describe, estimate, read_study, write_phantom
from kety.signal import given_calibration, iodine_calibration
from kety.signal.ct import CALIBRATION_ERROR
from kety.simulate import simulate_abdomen


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    phantom = simulate_abdomen((32, 27, 3), noise=4.0, seed=1)
    series = replace(phantom.series, acquisition={"kvp": 100.0})
    return write_phantom(replace(phantom, series=series), tmp_path_factory.mktemp("iodine"))


# --- the calibration ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    # From NIST's coefficients (cm2/g) at the effective energy by straight lines between logarithms,
    # worked out by hand.
    ("kvp", "expected"),
    [(80, 40.3), (100, 31.8), (120, 25.9), (140, 21.5)],
)
def test_the_table(kvp: float, expected: float) -> None:
    found = iodine_calibration(kvp)
    assert found.hu_per_mg_ml == pytest.approx(expected, abs=0.06)
    assert "interpolated" not in found.source
    assert "scanners differ by about 10 %" in found.source


def test_it_agrees_with_what_reviews_quote_at_120_kvp() -> None:
    assert abs(iodine_calibration(120).hu_per_mg_ml / 25.5 - 1) < CALIBRATION_ERROR


@given(st.floats(80, 140), st.floats(80, 140))
def test_it_falls_with_the_voltage(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert iodine_calibration(low).hu_per_mg_ml >= iodine_calibration(high).hu_per_mg_ml


def test_voltages_between_are_interpolated_and_said_to_be() -> None:
    found = iodine_calibration(110)
    assert "effective energy of 110 kVp, 67 keV, interpolated between" in found.source
    values = [iodine_calibration(kvp).hu_per_mg_ml for kvp in (80, 90, 100, 110, 120, 135, 140)]
    assert (np.diff(values) < 0).all()


@pytest.mark.parametrize("kvp", [70.0, 79.9, 140.1, 150.0, float("nan")])
def test_nothing_is_extrapolated(kvp: float) -> None:
    with pytest.raises(KetyError, match="known from 80 to 140 kVp; give the scanner's own"):
        iodine_calibration(kvp)


@pytest.mark.parametrize("value", [0.0, -25.0, float("nan"), float("inf")])
def test_a_calibration_of_ones_own_is_positive(value: float) -> None:
    assert given_calibration(25.0).hu_per_mg_ml == 25.0
    with pytest.raises(KetyError, match="a positive number of HU per mg/mL"):
        given_calibration(value)


# --- studies --------------------------------------------------------------------------------------


def study_of(folder: Path, iodine: bool | float, **source: Any) -> Any:
    given: dict[str, Any] = source or {"table": folder / "aif.csv"}
    return read_study(
        folder / "dce.nii.gz",
        InputSource(**given),
        Conversion(iodine=iodine),
        mask=folder / "body.nii.gz",
    )


@pytest.mark.parametrize("source", ["table", "mask"])
def test_kinetic_parameters_do_not_depend_on_the_unit(folder: Path, source: str) -> None:
    where = {"table": "aif.csv", "mask": "aorta.nii.gz"}[source]
    hu = study_of(folder, False, **{source: folder / where})
    mg = study_of(folder, True, **{source: folder / where})
    factor = iodine_calibration(100).hu_per_mg_ml
    assert mg.unit == "mg/mL"
    np.testing.assert_allclose(mg.curves, np.asarray(hu.curves) / factor, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(mg.aif.concentration, hu.aif.concentration / factor, rtol=1e-12)
    assert mg.aif.concentration.max() == pytest.approx(300 / factor, rel=0.05)
    one, other = (estimate(study, dtype="float64") for study in (hu, mg))
    sure = (one["status"].values == kety.Status.CONVERGED) & (one["r2"].values > 0.95)
    assert sure.sum() > 100
    for name in ("ktrans", "kep", "ve", "vb", "vp", "delay", "ktrans_se", "delay_se"):
        np.testing.assert_allclose(
            other[name].values[sure], one[name].values[sure], rtol=1e-3, atol=1e-6, err_msg=name
        )
    # The constant fitted along is of CT in either unit.
    assert "baseline" in other
    np.testing.assert_allclose(
        other["cost"].values[sure], one["cost"].values[sure] / factor**2, rtol=1e-4
    )


def test_maps_of_concentration_are_in_mg_per_ml(folder: Path) -> None:
    hu, mg = (describe(study_of(folder, iodine)) for iodine in (False, 25.0))
    assert mg["iauc60"].attrs["units"] == "mg/mL s"
    assert mg["peak"].attrs["units"] == "mg/mL"
    good_ones = hu["status"].values == kety.Status.CONVERGED
    for name in ("peak", "iauc60", "max_slope"):
        np.testing.assert_allclose(
            mg[name].values[good_ones], hu[name].values[good_ones] / 25.0, rtol=1e-4
        )
    for name in ("washout_ratio", "ttp", "perfusion"):
        np.testing.assert_allclose(
            mg[name].values[good_ones], hu[name].values[good_ones], rtol=1e-3, err_msg=name
        )


def test_an_input_in_mg_per_ml_serves_a_study_in_iodine_alone(folder: Path, tmp_path: Path) -> None:
    made = study_of(folder, True)
    made.aif.to_csv(tmp_path / "mg.csv", unit=made.unit)
    assert "blood_mg/mL" in (tmp_path / "mg.csv").read_text()
    again = study_of(folder, True, table=tmp_path / "mg.csv")
    np.testing.assert_allclose(again.aif.concentration, made.aif.concentration, rtol=1e-12)
    with pytest.raises(KetyError, match="is in mg/mL and the tissue in HU"):
        study_of(folder, False, table=tmp_path / "mg.csv")


def test_the_record_says_how(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "m"
    result = good("fit", folder / "dce.nii.gz", "--aif", folder / "aif.csv", "--iodine", "--mask",
                  folder / "tumour.nii.gz", "--out", out)  # fmt: skip
    assert "1 mg/mL adds 31.8 HU: NIST coefficients" in result.output
    record = json.loads((out / "fit.json").read_text())
    assert record["curve_unit"] == "mg/mL"
    assert record["iodine"]["hu_per_mg_per_mL"] == pytest.approx(31.8, abs=0.1)
    assert "iodine concentration (mg/mL)" in (out / "report.html").read_text()
    assert read_maps(out).maps["ktrans"].attrs["units"] == "1/min"


def test_the_tube_voltage_is_kept_in_the_sidecar(folder: Path, tmp_path: Path) -> None:
    series = read_series(folder / "dce.nii.gz")
    assert series.acquisition == {"kvp": 100.0}
    write_series(series, tmp_path / "dce.nii.gz")
    path = tmp_path / "dce.json"
    assert json.loads(path.read_text())["KVP"] == 100.0
    path.write_text(json.dumps(json.loads(path.read_text()) | {"KVP": "high"}))
    with pytest.raises(KetyError, match="KVP is 'high', expected one positive number"):
        read_series(tmp_path / "dce.nii.gz")


def test_what_lacks_a_voltage_or_is_no_ct_is_refused(folder: Path, tmp_path: Path) -> None:
    series = replace(read_series(folder / "dce.nii.gz"), acquisition={})
    write_series(series, tmp_path / "dce.nii.gz")
    arguments = (
        "fit",
        tmp_path / "dce.nii.gz",
        "--aif",
        folder / "aif.csv",
        "--out",
        tmp_path / "m",
    )
    refused = run(*arguments, "--iodine")
    assert "the tube voltage is needed" in refused.output
    assert "(--iodine-calibration 25.9)" in refused.output
    assert "positive number of HU" in run(*arguments, "--iodine-calibration", "0").output
    wrong = run(*arguments, "--modality", "MR", "--quantity", "concentration", "--iodine")
    assert "iodine is told by CT numbers, but the series holds concentration" in wrong.output
    assert not (tmp_path / "m").exists()
