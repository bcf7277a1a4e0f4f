"""Statistics of regions: against NumPy, over failed voxels, labels and their names, and the CSV."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import kety
from commands import good, run
from kety.comparison.regions import label_names
from kety.errors import KetyError
from kety.io import write_maps, write_volume
from kety.roi import PERCENTILES, STATISTICS, roi_statistics, roi_table
from kety.series import Volume

SHAPE = (8, 7, 4)
AFFINE = np.diag([2.0, 2.0, 5.0, 1.0])


def maps_of(value: NDArray[Any], status: NDArray[Any], se: float = 0.1) -> xr.Dataset:
    dims = ("x", "y", "z")
    flags = {
        "flag_values": np.array([int(one) for one in kety.Status], np.uint8),
        "flag_meanings": " ".join(one.meaning for one in kety.Status),
    }
    unit = {"units": "1/min", "long_name": "transfer constant", "osipi": "Q.PH1.008"}
    return xr.Dataset(
        {
            "ktrans": (dims, value.astype(np.float32), unit),
            "ktrans_se": (dims, np.full(value.shape, se, np.float32), unit),
            "cost": (dims, np.ones(value.shape, np.float32), {"units": "HU squared"}),
            "status": (dims, status.astype(np.uint8), flags),
        },
        attrs={"model": "tofts"},
    )


@pytest.fixture
def maps() -> xr.Dataset:
    random = np.random.default_rng(0)
    value = random.lognormal(-1.0, 0.5, SHAPE)
    status = np.full(SHAPE, int(kety.Status.CONVERGED))
    status[0] = int(kety.Status.NOT_ENHANCING)
    value[0] = np.nan
    return maps_of(value, status)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 1.0), st.floats(0.0, 0.9))
def test_statistics_are_those_of_the_voxels_with_a_value(
    seed: int, share: float, lost: float
) -> None:
    random = np.random.default_rng(seed)
    value = random.normal(size=SHAPE).astype(np.float32).astype(np.float64)
    value[random.random(SHAPE) < lost] = np.nan
    mask = random.random(SHAPE) < share
    mask[0, 0, 0] = True
    found = roi_statistics(maps_of(value, np.ones(SHAPE)), mask)
    inside = value[mask]
    inside = inside[np.isfinite(inside)]
    one = found.sel(region="region", map="ktrans")
    assert int(one["size"]) == mask.sum()
    assert int(one["voxels"]) == inside.size
    if not inside.size:
        assert all(np.isnan(float(one[name])) for name in STATISTICS if name != "voxels")
        return
    expected = {
        "mean": inside.mean(),
        "sd": np.std(inside, ddof=1) if inside.size > 1 else np.nan,
        "median": np.median(inside),
        "min": inside.min(),
        "max": inside.max(),
        **{f"p{p}": np.percentile(inside, p) for p in PERCENTILES},
    }
    for name, number in expected.items():
        np.testing.assert_allclose(float(one[name]), number, rtol=1e-12, equal_nan=True)


def test_failed_voxels_are_counted_by_their_status(maps: xr.Dataset) -> None:
    mask = np.zeros(SHAPE, bool)
    mask[:2] = True
    found = kety.roi_statistics(maps, {"tumour": mask})
    counts = found["status_voxels"].sel(region="tumour")
    assert int(counts.sel(status="not_enhancing")) == 28
    assert int(counts.sel(status="converged")) == 28
    assert int(counts.sum()) == int(found["size"].sel(region="tumour")) == 56
    assert int(found["voxels"].sel(region="tumour", map="ktrans")) == 28
    assert str(found["units"].sel(map="ktrans").values) == "1/min"


def test_the_standard_error_of_independent_voxels() -> None:
    random = np.random.default_rng(1)
    errors, noises, means = [], [], []
    for _ in range(60):
        value = 1.0 + 0.2 * random.standard_normal((10, 10, 4))
        found = roi_statistics(
            maps_of(value, np.ones(value.shape), 0.2), np.ones(value.shape, bool)
        )
        one = found.isel(region=0).sel(map="ktrans")
        errors.append(float(one["mean_se"]))
        noises.append(float(one["mean_se_fit"]))
        means.append(float(one["mean"]))
    np.testing.assert_allclose(np.mean(errors), 0.2 / np.sqrt(400), rtol=0.1)
    np.testing.assert_allclose(np.mean(noises), 0.2 / np.sqrt(400), rtol=0.1)
    np.testing.assert_allclose(np.std(means), np.mean(errors), rtol=0.3)


def test_alike_neighbours_count_as_fewer() -> None:
    from kety.simulate import gaussian

    value = 1.0 + gaussian((24, 24, 6), 0.2, seed=3, fwhm=(4.0, 4.0)).astype(np.float64)
    mask = np.ones(value.shape, bool)
    one = (
        roi_statistics(maps_of(value, np.ones(value.shape)), mask).isel(region=0).sel(map="ktrans")
    )
    assert float(one["independent"]) < value.size / 4
    assert float(one["mean_se"]) > 2 * 0.2 / np.sqrt(value.size)


def test_labels_are_regions_of_their_own(maps: xr.Dataset) -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:4], labels[4:6] = 3, 7
    found = roi_statistics(maps, labels)
    assert list(found["region"].values) == ["region 3", "region 7"]
    assert list(found["size"].values) == [56, 56]


def test_without_regions_all_voxels_that_were_tried(maps: xr.Dataset) -> None:
    maps["status"].values[7] = int(kety.Status.OUTSIDE)
    found = roi_statistics(maps)
    assert list(found["region"].values) == ["all voxels"]
    assert int(found["size"][0]) == 7 * 28


def test_maps_are_chosen_by_name(maps: xr.Dataset) -> None:
    assert list(roi_statistics(maps)["map"].values) == ["ktrans"]
    found = roi_statistics(maps, names=["cost", "ktrans", "cost"])
    assert list(found["map"].values) == ["cost", "ktrans"]
    assert np.isnan(found["mean_se_fit"].sel(map="cost")).all()
    with pytest.raises(KetyError, match=r"the maps has no map ve; its maps are ktrans"):
        roi_statistics(maps, names=["ve"])
    with pytest.raises(KetyError, match="the maps is a int; give what"):
        roi_statistics(3)  # type: ignore[arg-type]
    with pytest.raises(KetyError, match="is empty"):
        roi_statistics(maps, np.zeros(SHAPE, bool))
    with pytest.raises(KetyError, match=r"shape \(2, 2\)"):
        roi_statistics(maps, np.ones((2, 2), bool))


def test_the_table_reads_back_as_csv(maps: xr.Dataset) -> None:
    mask = np.zeros(SHAPE, bool)
    mask[0] = True  # nothing there has a value
    found = roi_statistics(maps, {'a "rim", lower': np.ones(SHAPE, bool), "lost": mask})
    rows = list(csv.DictReader(io.StringIO(roi_table(found))))
    assert [row["region"] for row in rows] == ['a "rim", lower', "lost"]
    assert rows[0]["units"] == "1/min"
    assert float(rows[0]["mean"]) == pytest.approx(float(found["mean"][0, 0]), rel=1e-5)
    assert rows[1]["voxels"] == "0"
    assert rows[1]["mean"] == rows[1]["mean_se"] == ""
    assert rows[1]["n_not_enhancing"] == "28"


# --- files ----------------------------------------------------------------------------------------


@pytest.fixture
def folder(maps: xr.Dataset, tmp_path: Path) -> Path:
    write_maps(maps, tmp_path / "fit", affine=AFFINE, source="dce.nii.gz")
    return tmp_path


def image(folder: Path, name: str, data: NDArray[Any], **sidecar: Any) -> Path:
    write_volume(Volume(data, AFFINE, name, sidecar=sidecar), folder / name)
    return folder / name


def two_labels() -> NDArray[np.uint8]:
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:4], labels[4:6] = 1, 2
    return labels


def test_the_command_writes_what_python_finds(folder: Path, maps: xr.Dataset) -> None:
    mask = image(folder, "tumour.nii.gz", np.ones(SHAPE, np.uint8))
    result = good("roi", folder / "fit", "--roi", mask, "--out", folder / "t.csv")
    assert "tumour: 224 voxels (converged 196, not enhancing 28)" in result.output
    expected = roi_table(roi_statistics(maps, {"tumour": np.ones(SHAPE, bool)}))
    assert (folder / "t.csv").read_text() == expected
    shown = good("roi", folder / "fit", "--roi", f"lesion={mask}", "--out", "-").output
    assert shown.splitlines()[1].startswith("lesion,ktrans,1/min,224,196,")


def test_labels_have_the_names_of_their_sidecar(folder: Path) -> None:
    path = image(folder, "seg.nii.gz", two_labels(), Levels={"1": "rim", "2": "core"})
    found = roi_statistics(folder / "fit", path)
    assert list(found["region"].values) == ["rim", "core"]


@pytest.mark.parametrize("table", ["sub-01_dseg.tsv", "dseg.tsv"])
def test_labels_have_the_names_of_a_bids_table(folder: Path, table: str) -> None:
    path = image(folder, "sub-01_dseg.nii.gz", two_labels())
    (folder / table).write_text("index\tname\tcolor\n1\trim\t#f00\n2\tcore\t#0f0\n")
    found = roi_statistics(folder / "fit", path)
    assert list(found["region"].values) == ["rim", "core"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,name\n1,rim\n", "with the columns index and name"),
        ("index\tname\none\trim\n", "with the columns index and name"),
        ("index\tname\n1\trim\n1\tcore\n", "label 1 is both 'rim' and 'core'"),
    ],
)
def test_a_wrong_table_is_refused(folder: Path, text: str, message: str) -> None:
    path = image(folder, "dseg.nii.gz", two_labels())
    (folder / "dseg.tsv").write_text(text)
    with pytest.raises(KetyError, match=message):
        label_names(path, {})


def test_bad_input_at_the_shell_is_one_line_and_writes_nothing(folder: Path) -> None:
    mask = image(folder, "m.nii.gz", np.ones(SHAPE, np.uint8))
    other = folder / "other.nii.gz"
    write_volume(Volume(np.ones(SHAPE, np.uint8), np.diag([3.0, 2, 5, 1]), "other"), other)
    for arguments, words in (
        (("--roi", folder / "none.nii.gz"), "no such file"),
        (("--roi", other), "lies on another grid"),
        (("--roi", mask, "--roi", mask), "two regions have the name 'm'"),
        (("--map", "ve"), "has no map ve"),
    ):
        result = run("roi", folder / "fit", *arguments, "--out", folder / "x.csv")
        assert result.exit_code == 2
        assert words in result.output
        assert len(result.output.splitlines()) == 1
        assert not (folder / "x.csv").exists()
    assert "holds no fit.json" in run("roi", folder, "--out", folder / "x.csv").output


def test_model_free_maps_have_statistics_too(tmp_path: Path) -> None:
    good("simulate", tmp_path / "s", "--size", "32,27,3")
    series = tmp_path / "s/dce.nii.gz"
    good(
        "maps",
        series,
        "--mask",
        tmp_path / "s/tumour.nii.gz",
        "--out",
        tmp_path / "m",
        "--no-report",
    )
    found = roi_statistics(tmp_path / "m", tmp_path / "s/tumour.nii.gz")
    assert {"peak", "ttp", "iauc60", "washout_ratio"} <= set(found["map"].values)
    assert not any(str(name).endswith("_se") for name in found["map"].values)
    assert "estimated" in found["status"].values
    record = json.loads((tmp_path / "m/fit.json").read_text())
    assert found.attrs["software"] == record["software"]
