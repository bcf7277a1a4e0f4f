"""Fits of curves that other groups made, against their truth and their tolerances."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray

import kety
from cases import Floats
from kety import InputFunction, Status
from kety.signal import concentration_from_signal

FolderOf = Callable[[str], Path]
# Name of a quantity in the reference tables, and its map.
MAPS = {"Ktrans_per_min": "ktrans", "PS_per_min": "ktrans", "ve": "ve", "vp": "vp"}
CASES = {"osipi_tofts": "tofts", "osipi_extended_tofts": "extended_tofts", "osipi_patlak": "patlak"}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def osipi_curves(path: Path) -> dict[str, tuple[Floats, Floats, Floats]]:
    """Times (s), tissue and plasma (mM) of each label."""
    table: dict[str, list[tuple[float, ...]]] = {}
    for row in rows(path):
        numbers = tuple(float(row[k]) for k in ("time_s", "ct_mM", "cp_mM"))
        table.setdefault(row["label"], []).append(numbers)
    return {label: tuple(np.array(numbers).T) for label, numbers in table.items()}


def same_input(
    curves: dict[str, tuple[Floats, Floats, Floats]],
) -> list[tuple[Floats, Floats, list[str]]]:
    """Times and plasma of every input, and the labels of its curves: voxels of one fit."""
    groups: dict[bytes, tuple[Floats, Floats, list[str]]] = {}
    for label, (times, _, plasma) in curves.items():
        key = times.tobytes() + plasma.tobytes()
        groups.setdefault(key, (times, plasma, []))[2].append(label)
    return list(groups.values())


@pytest.mark.parametrize(("delay", "fit_delay"), [(0, True), (5, True), (5, False)])
@pytest.mark.parametrize("case", list(CASES))
def test_osipi_tolerances(reference: FolderOf, case: str, delay: int, fit_delay: bool) -> None:
    folder = reference(case)
    tolerances = json.loads((folder / "case.json").read_text())["tolerances"]
    truth = {row.pop("label"): row for row in rows(folder / f"truth_delay{delay}.csv")}
    curves = osipi_curves(folder / f"curves_delay{delay}.csv")
    assert set(curves) == set(truth)
    for times, plasma, labels in same_input(curves):
        aif = InputFunction(times, plasma, site="plasma", hematocrit=0.45)
        tissues = np.stack([curves[label][1] for label in labels])
        fitted = kety.fit(tissues, times, aif, CASES[case], delay=True if fit_delay else delay)
        for i, label in enumerate(labels):
            maps = fitted.isel(voxel=i)
            assert maps.status in (Status.CONVERGED, Status.AT_BOUND), label
            for name, value in truth[label].items():
                rule = tolerances[name]
                allowed = rule["a_tol"] + rule["r_tol"] * abs(float(value))
                found = float(maps["delay" if name == "delay_s" else MAPS[name]])
                assert abs(found - float(value)) <= allowed, (label, name, found)


def concordance(found: Floats, truth: Floats) -> float:
    """Lin's concordance correlation coefficient."""
    covariance = np.mean((found - found.mean()) * (truth - truth.mean()))
    return float(2 * covariance / (found.var() + truth.var() + (found.mean() - truth.mean()) ** 2))


@pytest.mark.parametrize("delay", [True, False])
def test_qiba_reference_object(reference: FolderOf, delay: bool) -> None:
    import nibabel

    folder = reference("qiba6")
    case = json.loads((folder / "case.json").read_text())
    signal = np.asanyarray(nibabel.load(folder / "dce.nii.gz").dataobj)
    labels = np.asanyarray(nibabel.load(folder / "labels.nii.gz").dataobj)
    tissue = labels == 1
    table = rows(folder / "aif.csv")
    times = np.array([float(row["time_s"]) for row in table])
    blood = np.array([float(row["cb_mM"]) for row in table])
    tissue_curves = concentration_from_signal(
        signal[tissue],
        t10=case["T10_tissue_s"],
        repetition_time=case["TR_s"],
        flip_angle=case["FA_deg"],
        relaxivity=case["r1_per_mM_per_s"],
        baseline=slice(0, 2),
    ).values
    aif = InputFunction(times, blood, hematocrit=case["Hct"])
    maps = kety.fit(
        tissue_curves, times, aif, "tofts", delay=delay, mask=np.ones(tissue.sum(), bool)
    )
    for name, file in (("ktrans", "truth_Ktrans_per_min"), ("ve", "truth_ve")):
        truth = np.asanyarray(nibabel.load(folder / f"{file}.nii.gz").dataobj)[tissue]
        key = "Ktrans" if name == "ktrans" else "ve"
        assert concordance(maps[name].values.astype(float), truth) >= case["ccc_min"][key]
    assert np.abs(maps.delay).max() < 0.1


MADYM = {
    "ETM": ("extended_tofts", {"ktrans": 0.25, "ve": 0.2, "vp": 0.1, "delay": 6.0}, 0.1),
    "PATLAK": ("patlak", {"ktrans": 0.25, "vp": 0.1, "delay": 6.0}, 0.5),
}


@pytest.mark.parametrize("noise", ["", "_noise"])
@pytest.mark.parametrize("which", list(MADYM))
def test_madym_calibration(reference: FolderOf, which: str, noise: str) -> None:
    folder = reference("madym_calibration")
    case = json.loads((folder / "truth.json").read_text())
    model, truth, tolerance = MADYM[which]
    published = case["truth"][which]
    assert published["Ktrans_per_min"] == truth["ktrans"]
    assert published["tau_a_min"] * 60 == truth["delay"]
    table = rows(folder / "curves.csv")
    columns = {k: np.array([float(row[k]) for row in table]) for k in table[0]}
    times = columns["time_min"] * 60
    aif = InputFunction(times, columns["aif_cp_mM"], site="plasma", hematocrit=case["hct"])
    maps: xarray.Dataset = kety.fit(columns[f"{which}{noise}_ct_mM"], times, aif, model)
    assert maps.status == Status.CONVERGED
    for name, value in truth.items():
        assert abs(float(maps[name]) / value - 1) <= tolerance, (name, float(maps[name]))
