"""`kety convert`, and maps written as DICOM: the same voxels at the same places, there and back."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import xarray as xr
from pydicom.config import disable_value_validation

from commands import good, run
from dicom_cases import (
    AXIAL,
    CORONAL,
    FLIPPED,
    NAME,
    PATIENT_ID,
    SAGITTAL,
    Scan,
    oblique,
    write_classic,
    write_enhanced,
)
from dicom_objects import by_place, problems
from kety import io
from kety.errors import KetyError
from kety.io import bids
from kety.io.conversion import convert
from kety.io.dicom import source_headers
from kety.series import Volume

SHAPE = (6, 5, 4)
TIMES = np.array([0.0, 2.5, 6.0, 11.0])
ORIENTATIONS = {
    "axial": AXIAL,
    "sagittal": SAGITTAL,
    "coronal": CORONAL,
    "oblique": oblique(),
    "flipped": FLIPPED,
}


def a_scan(**changes: Any) -> Scan:
    stored = np.random.default_rng(4).integers(900, 1300, (*SHAPE, TIMES.size), dtype=np.uint16)
    return Scan(stored, TIMES, **changes)


@pytest.fixture(scope="module", params=ORIENTATIONS)
def study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a DICOM series in ``dce``."""
    folder = tmp_path_factory.mktemp(request.param)
    write_classic(folder / "dce", a_scan(orientation=ORIENTATIONS[request.param]))
    return folder


@pytest.fixture(scope="module")
def axial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("axial")
    write_classic(folder / "dce", a_scan())
    return folder


def make_maps() -> xr.Dataset:
    random = np.random.default_rng(1)
    maps: dict[str, Any] = {}
    for name, units in {
        "ktrans": "1/min",
        "ktrans_se": "1/min",
        "delay": "s",
        "cost": "squared unit of the curves",
        "ktrans_voxelwise_se": "1/min",
    }.items():
        values = random.standard_normal(SHAPE).astype(np.float32)
        values[0] = np.nan
        attrs = {"units": units, "long_name": f"words for {name}", "osipi": ""}
        maps[name] = (("x", "y", "z"), values, attrs)
    flags = {
        "units": "1",
        "long_name": "outcome of the fit",
        "osipi": "",
        "flag_values": np.arange(3, dtype=np.uint8),
        "flag_meanings": "outside converged at_bound",
    }
    maps["status"] = (("x", "y", "z"), random.integers(0, 3, SHAPE, np.uint8), flags)
    counts = random.integers(0, 900, SHAPE, np.uint16)
    maps["evaluations"] = (("x", "y", "z"), counts, {"units": "1", "long_name": "evaluations"})
    return xr.Dataset(maps, attrs={"model": "extended_tofts", "software": "kety"})


def with_curves() -> xr.Dataset:
    curves = np.random.default_rng(3).random((*SHAPE, TIMES.size)).astype(np.float32)
    attrs = {"units": "unit of the curves", "long_name": "fitted curve"}
    return make_maps().assign(fitted=(("x", "y", "z", "time"), curves, attrs))


def same_maps(one: io.FittedMaps, other: io.FittedMaps) -> None:
    assert set(one.maps) == set(other.maps)
    for name in one.maps:
        a, b = one.maps[name], other.maps[name]
        assert a.dtype == b.dtype
        assert by_place(a.values, one.affine) == by_place(b.values, other.affine)
        assert a.attrs == b.attrs


# Maps as DICOM --------------------------------------------------------------------------------


def test_maps_are_written_as_dicom_and_read_back(study: Path, tmp_path: Path) -> None:
    series = io.read_series(study / "dce")
    images = source_headers(study / "dce")
    assert len(images) == SHAPE[2] * TIMES.size
    paths = io.write_maps(
        make_maps(),
        tmp_path / "maps",
        affine=series.affine,
        source=series.source,
        provenance={"command": "kety fit", "curve_unit": "HU"},
        format="dicom",
        images=images,
    )
    assert [path.suffix for path in paths] == [".dcm"] * 7
    back = io.read_maps(tmp_path / "maps")
    np.testing.assert_allclose(back.affine, series.affine, atol=1e-9, rtol=0)
    assert back.source == series.source
    for name, array in make_maps().data_vars.items():
        np.testing.assert_array_equal(back.maps[name].values, array.values)
        assert back.maps[name].attrs["units"] == array.attrs["units"]
        assert back.maps[name].attrs["long_name"] == array.attrs["long_name"]
    made = pydicom.dcmread(paths[0])
    assert str(made.PatientName) == NAME
    frame = made.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0]
    assert len(frame.SourceImageSequence) == TIMES.size
    for path in paths:
        assert problems(path) == []


def test_maps_without_their_record_come_back_too(axial: Path, tmp_path: Path) -> None:
    """As from an archive: names of files, sidecars and record are gone."""
    series = io.read_series(axial / "dce")
    options: dict[str, Any] = {
        "affine": series.affine,
        "provenance": {"curve_unit": "HU"},
        "format": "dicom",
    }
    paths = io.write_maps(make_maps(), tmp_path / "maps", **options)
    (tmp_path / "archive" / "deep").mkdir(parents=True)
    for number, path in enumerate(paths):
        path.rename(tmp_path / "archive" / "deep" / f"IM{number}")
    back = io.read_maps(tmp_path / "archive")
    units = {"cost": "HU squared"}
    for name, array in make_maps().data_vars.items():
        np.testing.assert_array_equal(back.maps[name].values, array.values)
        found = back.maps[name].attrs
        assert found["units"] == units.get(str(name), array.attrs["units"])
        assert found["long_name"] == array.attrs["long_name"]
    assert back.maps["status"].attrs["flag_meanings"] == "outside converged at_bound"
    assert back.maps["status"].dtype == np.uint8
    io.write_maps(make_maps(), tmp_path / "archive" / "again", **options)
    with pytest.raises(
        KetyError, match=r"archive: holds the map ktrans twice, in again/.* and deep/IM0"
    ):
        io.read_maps(tmp_path / "archive")
    (tmp_path / "archive" / "deep" / "IM5").unlink()
    with pytest.raises(KetyError, match=r"maps \(ktrans, .*\) without a status map"):
        io.read_maps(tmp_path / "archive" / "deep")


def test_both_formats_hold_the_same_and_curves_are_nifti(axial: Path, tmp_path: Path) -> None:
    series = io.read_series(axial / "dce")
    options: dict[str, Any] = {"affine": series.affine, "times": TIMES, "source": "a.nii.gz"}
    paths = io.write_maps(with_curves(), tmp_path / "both", format=("nifti", "dicom"), **options)
    assert [path.name for path in paths].count("a_model-extendedtofts_fitted.nii.gz") == 1
    assert len(paths) == 15
    record = json.loads((tmp_path / "both" / "fit.json").read_text())
    assert record["Maps"]["ktrans"] == "a_model-extendedtofts_Ktrans.nii.gz"
    assert record["MapsAlsoAs"]["dicom"]["ktrans"] == "a_model-extendedtofts_Ktrans.dcm"
    only = io.write_maps(with_curves(), tmp_path / "dicom", format="dicom", **options)
    assert [path.suffix for path in only].count(".dcm") == 7
    same_maps(io.read_maps(tmp_path / "both"), io.read_maps(tmp_path / "dicom"))
    fitted = io.read_volume(tmp_path / "dicom" / only[-1].name, stack=True)
    np.testing.assert_array_equal(fitted.data, with_curves()["fitted"].values)


def test_all_maps_or_none(axial: Path, tmp_path: Path) -> None:
    series = io.read_series(axial / "dce")
    sheared = series.affine.copy()
    sheared[0, 2] += 1
    with pytest.raises(KetyError, match="not at right angles"):
        io.write_maps(make_maps(), tmp_path / "maps", affine=sheared, format=("nifti", "dicom"))
    assert list((tmp_path / "maps").iterdir()) == []
    with pytest.raises(KetyError, match="unknown format 'mha'; valid: nifti, dicom"):
        io.write_maps(make_maps(), tmp_path / "maps", affine=np.eye(4), format="mha")
    with pytest.raises(KetyError, match="no format to write maps in"):
        io.write_maps(make_maps(), tmp_path / "maps", affine=np.eye(4), format=())


def test_a_dicom_map_is_a_volume_on_the_grid_that_is_asked_for(tmp_path: Path) -> None:
    grid = np.array([[1.0, 0, 0, -20], [0, 1.0, 0, 5], [0, 0, 2, 7], [0, 0, 0, 1]])
    paths = io.write_maps(make_maps(), tmp_path, affine=grid, format="dicom")
    like = Volume(np.zeros(SHAPE, np.int8), grid)
    plain = io.read_volume(paths[0])
    assert not np.allclose(plain.affine, grid)  # frames lie as radiologists expect them
    turned = io.read_volume(paths[0], like=like)
    np.testing.assert_array_equal(turned.affine, grid)
    np.testing.assert_array_equal(turned.data, make_maps()["ktrans"].values)
    moved = Volume(like.data, grid + np.diag([0, 0, 0.5, 0]))
    with pytest.raises(KetyError, match="lies on another grid"):
        io.read_volume(paths[0], like=moved)


def test_the_source_dataset_is_named_where_it_is_bids(tmp_path: Path) -> None:
    raw = tmp_path / "raw" / "sub-1"
    raw.mkdir(parents=True)
    known = {"Name": "a", "DatasetDOI": "doi:10.1/x", "DatasetVersion": "1.2"}
    (tmp_path / "raw" / "dataset_description.json").write_text(json.dumps(known))
    path = raw / "sub-1_dce.nii.gz"
    io.write_maps(make_maps(), tmp_path / "maps", affine=np.eye(4), series=path)
    found = json.loads((tmp_path / "maps" / "dataset_description.json").read_text())
    assert found["SourceDatasets"] == [{"URL": "../raw", "DOI": "doi:10.1/x", "Version": "1.2"}]
    assert found["DatasetType"] == "derivative"
    assert found["GeneratedBy"][0]["Name"] == "kety"
    io.write_maps(make_maps(), tmp_path / "own", affine=np.eye(4), series=tmp_path / "a.nii")
    found = json.loads((tmp_path / "own" / "dataset_description.json").read_text())
    assert "SourceDatasets" not in found


# There and back -------------------------------------------------------------------------------


def test_geometry_survives_from_dicom_to_dicom(study: Path, tmp_path: Path) -> None:
    """DICOM → NIfTI → maps → DICOM: exact to 1e-4 mm, and so are the values at their places."""
    good("convert", study / "dce", tmp_path / "dce.nii.gz")
    whole, series = io.read_series(study / "dce"), io.read_series(tmp_path / "dce.nii.gz")
    np.testing.assert_array_equal(series.data, whole.data)
    np.testing.assert_array_equal(series.times, whole.times)
    assert series.modality == "CT"
    np.testing.assert_allclose(series.affine, whole.affine, atol=1e-4, rtol=0)
    io.write_maps(make_maps(), tmp_path / "maps", affine=series.affine, source=series.source)
    good("convert", tmp_path / "maps", tmp_path / "dicom", "--source", study / "dce")
    headers = {str(h.SOPInstanceUID): h for h in source_headers(study / "dce")}
    corners = np.array([[0, 0, 1], [SHAPE[0] - 1, SHAPE[1] - 1, 1]])
    for path in (tmp_path / "dicom").glob("*.dcm"):
        made = pydicom.dcmread(path)
        for group in made.PerFrameFunctionalGroupsSequence:
            sources = group.DerivationImageSequence[0].SourceImageSequence
            assert len(sources) == TIMES.size
            for source in sources:
                header = headers[source.ReferencedSOPInstanceUID]
                for corner in corners:
                    expected = place(header, header, header, corner)
                    shared = made.SharedFunctionalGroupsSequence[0]
                    found = place(
                        group.PlanePositionSequence[0],
                        shared.PlaneOrientationSequence[0],
                        shared.PixelMeasuresSequence[0],
                        corner,
                    )
                    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
    good("convert", tmp_path / "dicom", tmp_path / "again")
    maps, again = io.read_maps(tmp_path / "maps"), io.read_maps(tmp_path / "again")
    np.testing.assert_allclose(again.affine, maps.affine, atol=1e-4, rtol=0)
    same_maps(again, maps)


def place(position: Any, orientation: Any, measures: Any, pixel: Any) -> Any:
    """Where a pixel (column, row) lies in LPS, by the equation of the standard."""
    along, down = np.array(orientation.ImageOrientationPatient, float).reshape(2, 3)
    height, width = (float(size) for size in measures.PixelSpacing)
    start = np.array(position.ImagePositionPatient, float)
    return start + along * width * pixel[0] + down * height * pixel[1]


def test_masks_go_there_and_back(study: Path, tmp_path: Path) -> None:
    series = io.read_series(study / "dce")
    mask = np.random.default_rng(8).random(SHAPE) < 0.4
    io.write_mask(mask, tmp_path / "roi.nii.gz", affine=series.affine)
    good("convert", tmp_path / "roi.nii.gz", tmp_path / "roi.dcm", "--source", study / "dce")
    assert problems(tmp_path / "roi.dcm") == []
    np.testing.assert_array_equal(io.read_mask(tmp_path / "roi.dcm", like=series), mask)
    result = good(
        "convert", f"{tmp_path}/roi.dcm:roi", tmp_path / "back.nii.gz", "--like", study / "dce"
    )
    assert f"mask of {mask.sum()} voxels" in result.output
    np.testing.assert_array_equal(io.read_mask(tmp_path / "back.nii.gz", like=series), mask)


def test_a_single_map_goes_there_and_back(axial: Path, tmp_path: Path) -> None:
    series = io.read_series(axial / "dce")
    paths = io.write_maps(make_maps(), tmp_path, affine=series.affine, source="a.nii.gz")
    good("convert", paths[0], tmp_path / "k.dcm", "--source", axial / "dce")
    assert problems(tmp_path / "k.dcm") == []
    (tmp_path / "k.json").unlink()
    good("convert", tmp_path / "k.dcm", tmp_path / "k.nii.gz")
    back = io.read_volume(tmp_path / "k.nii.gz")
    np.testing.assert_array_equal(back.data, make_maps()["ktrans"].values)
    sidecar = json.loads(bids.sidecar_path(tmp_path / "k.nii.gz").read_text())
    assert (sidecar["Quantity"], sidecar["Units"]) == ("ktrans", "1/min")


def test_enhanced_images_are_converted_and_referred_to(tmp_path: Path) -> None:
    path = write_enhanced(tmp_path / "dce.dcm", a_scan())
    good("convert", path, tmp_path / "dce.nii.gz")
    series = io.read_series(tmp_path / "dce.nii.gz")
    np.testing.assert_array_equal(series.data, io.read_series(path).data)
    mask = np.ones(SHAPE, bool)
    io.write_mask(mask, tmp_path / "roi.nii.gz", affine=series.affine)
    good("convert", tmp_path / "roi.nii.gz", tmp_path / "roi.dcm", "--source", path)
    made = pydicom.dcmread(tmp_path / "roi.dcm")
    sources = made.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0]
    numbers = {int(item.ReferencedFrameNumber) for item in sources.SourceImageSequence}
    assert len(numbers) == TIMES.size


def test_a_volume_without_phases_is_converted(tmp_path: Path) -> None:
    scan = a_scan()
    write_classic(tmp_path / "one", Scan(scan.stored[..., :1], TIMES[:1]))
    good("convert", tmp_path / "one", tmp_path / "one.nii.gz")
    back = io.read_volume(tmp_path / "one.nii.gz")
    np.testing.assert_array_equal(back.data, scan.stored[..., 0].astype(np.float32) - 1024)
    result = run("convert", tmp_path / "one", tmp_path / "b.nii.gz", "--interval", 2)
    assert result.exit_code == 2
    assert "holds no phases" in result.output


def test_times_that_are_given_win(axial: Path, tmp_path: Path) -> None:
    good("convert", axial / "dce", tmp_path / "dce.nii.gz", "--interval", 3)
    assert io.read_series(tmp_path / "dce.nii.gz").times.tolist() == [0.0, 3.0, 6.0, 9.0]


# Bad input and privacy ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def things(axial: Path) -> Path:
    series = io.read_series(axial / "dce")
    io.write_maps(make_maps(), axial / "maps", affine=series.affine)
    io.write_mask(np.ones(SHAPE, bool), axial / "roi.dcm", affine=series.affine)
    io.write_mask(np.ones(SHAPE, bool), axial / "roi.nii.gz", affine=series.affine)
    io.write_volume(Volume(np.arange(120.0).reshape(SHAPE), series.affine), axial / "values.nii.gz")
    io.write_series(series, axial / "dce.nii.gz")
    return axial


@pytest.mark.parametrize(
    ("source", "target", "options", "message"),
    [
        ("dce", "a.dcm", {}, "images becomes a file that ends in .nii.gz"),
        ("dce", "a", {}, "images becomes a file that ends in .nii.gz"),
        ("roi.dcm", "a.nii.gz", {}, "give that series (--like)"),
        ("roi.dcm:x", "a.nii.gz", {"like": "dce"}, "holds no segment 'x'; it holds 1 (mask)"),
        ("roi.nii.gz:x", "a.dcm", {}, "is an image, without regions"),
        ("roi.nii.gz", "b.nii.gz", {}, "a NIfTI file becomes a file that ends in .dcm"),
        ("values.nii.gz", "a.dcm", {}, "holds 120 different values and no sidecar"),
        ("dce.nii.gz", "a.dcm", {}, "series of volumes are not written as DICOM"),
        ("maps", "maps", {}, "is where the maps come from"),
        ("none", "a.nii.gz", {}, "unknown file extension"),
        ("roi.nii.gz", "a.dcm", {"of": "maps"}, "without CT or MR images"),
    ],
)
def test_what_cannot_be_converted(
    things: Path, source: str, target: str, options: dict[str, str], message: str
) -> None:
    before = sorted(things.rglob("*"))
    given = {name: things / value for name, value in options.items()}
    with pytest.raises(KetyError) as error:
        convert(f"{things}/{source}", things / target, **given)
    assert message in str(error.value)
    assert sorted(things.rglob("*")) == before


def test_odd_headers_are_not_repeated_to_the_user(tmp_path: Path) -> None:
    """pydicom and highdicom warn of odd values, and say them."""

    def odd(dataset: Any, z: int, t: int) -> None:
        with disable_value_validation():
            dataset.PatientName, dataset.PatientID = "Mustermann", 10 * "Mustermann"
            dataset.PatientBirthDate, dataset.PatientSex = "57-08-23", "weiblich"

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_classic(tmp_path / "dce", a_scan(), odd)
    io.write_mask(np.ones(SHAPE, bool), tmp_path / "roi.nii.gz", affine=a_scan().affine)
    said = good(
        "convert", tmp_path / "roi.nii.gz", tmp_path / "roi.dcm", "--source", tmp_path / "dce"
    )
    assert "mask of 120 voxels" in said.output
    for part in ("ustermann", "57-08", "weiblich"):
        assert part not in said.output + said.stderr
    made = pydicom.dcmread(tmp_path / "roi.dcm")
    assert str(made.PatientName) == "Mustermann"


def test_a_command_writes_the_formats_that_are_asked_for(tmp_path: Path) -> None:
    times = np.arange(14) * 4.0
    course = 300 * np.exp(-(((times - 24) / 12) ** 2))
    stored = np.random.default_rng(0).normal(1060, 3, (*SHAPE, times.size)) + course
    write_classic(tmp_path / "dce", Scan(stored.astype(np.uint16), times))
    for name, options, expected in (
        ("own", (), {".dcm"}),
        ("both", ("--format", "both"), {".dcm", ".gz"}),
    ):
        good("maps", tmp_path / "dce", "--out", tmp_path / name, "--no-report", *options)
        record = json.loads((tmp_path / name / "fit.json").read_text())
        found = {path.suffix for path in (tmp_path / name).iterdir()}
        assert found == expected | {".json"}
        assert io.read_maps(tmp_path / name).maps["peak"].attrs["units"] == "HU"
        assert record["curve_unit"] == "HU"
    study = pydicom.dcmread(next((tmp_path / "own").glob("*_peak.dcm")))
    assert str(study.PatientName) == NAME
    same_maps(io.read_maps(tmp_path / "own"), io.read_maps(tmp_path / "both"))


def test_nothing_but_the_objects_names_the_patient(axial: Path, tmp_path: Path) -> None:
    said = good("convert", axial / "dce", tmp_path / "dce.nii.gz").output
    series = io.read_series(tmp_path / "dce.nii.gz")
    io.write_maps(make_maps(), tmp_path / "maps", affine=series.affine, source=series.source)
    said += good("convert", tmp_path / "maps", tmp_path / "dicom", "--source", axial / "dce").output
    io.write_mask(np.ones(SHAPE, bool), tmp_path / "roi.nii.gz", affine=series.affine)
    said += good(
        "convert", tmp_path / "roi.nii.gz", tmp_path / "roi.dcm", "--source", axial / "dce"
    ).output
    for path in tmp_path.rglob("*"):
        said += path.name
        if path.suffix == ".json":
            said += path.read_text()
    for part in (*NAME.split("^"), PATIENT_ID):
        assert part.lower() not in said.lower()
    assert NAME in str(pydicom.dcmread(tmp_path / "roi.dcm").PatientName)
