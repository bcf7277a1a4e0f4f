"""The simulated CT series in DICOM: what its files say, against pydicom and dcm2niix."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from commands import good, run
from dicom_objects import problems
from kety.errors import KetyError
from kety.io import read_volume
from kety.io.atomic import OutputError, new_folder
from kety.io.dicom.scanner import Exposure, write_ct_series
from kety.pipeline import write_phantom
from kety.series import Series
from kety.simulate import as_scanned, simulate_abdomen

SIZE = (24, 20, 2)
TIMES = np.array([0.0, 2.5, 5.0, 10.0])
FLIPPED = np.diag([-1.0, -1.0, 1.0, 1.0])


def phantom(**options: Any) -> Any:
    return as_scanned(
        simulate_abdomen(SIZE, **{"rounded": True, "arrival": 3.0, "protocol": TIMES, **options})
    )


def small(affine: NDArray[np.float64], **changes: Any) -> Series:
    data = np.arange(3 * 2 * 4 * 2, dtype=np.int16).reshape(3, 2, 4, 2)
    series = Series(data, np.array([0.0, 1.5]), affine, "CT", source="small")
    return replace(series, **changes)


def rotation(axis: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
    """Rodrigues' formula."""
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def affine_of(turn: NDArray[np.float64], spacing: Any = (0.7, 1.3, 2.5)) -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[:3, :3] = (turn @ np.diag([-1.0, -1.0, 1.0])) * np.asarray(spacing)
    affine[:3, 3] = [12.3, -45.6, 78.9]
    return affine


def read_back(files: list[Path]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Data (X, Y, Z, T), affine and times (Z, T), the obvious way; files are phase by phase."""
    headers = [pydicom.dcmread(path) for path in files]
    phases = int(headers[0].NumberOfTemporalPositions)
    slices = len(files) // phases
    images = [one.pixel_array.T * one.RescaleSlope + one.RescaleIntercept for one in headers]
    data = np.stack(images, axis=-1).reshape(*images[0].shape, phases, slices).swapaxes(2, 3)
    lps = np.diag([-1.0, -1.0, 1.0])
    first, last = headers[0], headers[slices - 1]
    affine = np.eye(4)
    steps = np.array(last.ImagePositionPatient) - np.array(first.ImagePositionPatient)
    orientation = np.array(first.ImageOrientationPatient)
    affine[:3, 0] = lps @ orientation[:3] * first.PixelSpacing[1]
    affine[:3, 1] = lps @ orientation[3:] * first.PixelSpacing[0]
    affine[:3, 2] = lps @ steps / max(slices - 1, 1)
    affine[:3, 3] = lps @ np.array(first.ImagePositionPatient)
    start = datetime.strptime(f"{first.StudyDate}{first.StudyTime}", "%Y%m%d%H%M%S")
    clocks = [datetime.strptime(h.AcquisitionDateTime, "%Y%m%d%H%M%S.%f") for h in headers]
    times = np.array([(clock - start).total_seconds() for clock in clocks])
    return data, affine, times.reshape(phases, slices).T


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


# --- what the files say -----------------------------------------------------------------------


def test_headers_are_those_of_one_patient_study_and_series(tmp_path: Path) -> None:
    study = phantom()
    headers = [pydicom.dcmread(f) for f in write_ct_series(study.series, tmp_path / "dce")]
    assert len(headers) == SIZE[2] * TIMES.size
    same = (
        "PatientName",
        "PatientID",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "FrameOfReferenceUID",
        "SOPClassUID",
    )
    for name in same:
        assert len({str(getattr(one, name)) for one in headers}) == 1, name
    assert len({one.SOPInstanceUID for one in headers}) == len(headers)
    assert all(one.SOPInstanceUID == one.file_meta.MediaStorageSOPInstanceUID for one in headers)
    assert [one.InstanceNumber for one in headers] == list(range(1, len(headers) + 1))
    first = headers[0]
    assert first.PatientName == "Nobody^"
    assert first.PatientComments == "Simulated; there is no patient"
    assert (first.KVP, first.Exposure, first.RescaleIntercept) == (100, 75, -1024)
    assert first.ImageOrientationPatient == [1, 0, 0, 0, 1, 0]
    phases = [one.TemporalPositionIdentifier for one in headers]
    assert phases == sorted(phases)
    assert set(phases) == {1, 2, 3, 4}
    for one in headers:
        assert one.AcquisitionDateTime == one.AcquisitionDate + one.AcquisitionTime
        assert one.ContentTime == one.AcquisitionTime


@pytest.mark.parametrize("shuttle", [0.0, 1.25])
def test_round_trip(tmp_path: Path, shuttle: float) -> None:
    series = phantom(shuttle=shuttle).series
    data, affine, times = read_back(write_ct_series(series, tmp_path / "dce"))
    np.testing.assert_array_equal(data, series.data)
    np.testing.assert_allclose(affine, series.affine, atol=1e-9)
    expected = TIMES + shuttle * np.arange(2)[:, None]
    np.testing.assert_allclose(times, expected, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(*[st.floats(-1.0, 1.0)] * 3).filter(lambda v: np.linalg.norm(v) > 0.1),
    st.floats(-3.1, 3.1),
    st.tuples(*[st.floats(0.3, 12.0)] * 3),
)
def test_any_orientation(
    tmp_path_factory: pytest.TempPathFactory, axis: Any, angle: float, spacing: Any
) -> None:
    affine = affine_of(rotation(np.array(axis), angle), spacing)
    folder = tmp_path_factory.mktemp("any") / "dce"
    data, found, _ = read_back(write_ct_series(small(affine), folder))
    np.testing.assert_allclose(found, affine, atol=1e-4)
    np.testing.assert_array_equal(data, small(affine).data)


SAGITTAL = np.array([[0.0, 0, -1.0], [1.0, 0, 0], [0, -1.0, 0]])
TURNS = {
    "axial": np.eye(3),
    "head first": np.diag([-1.0, 1.0, -1.0]),
    "sagittal": SAGITTAL,
    "oblique": rotation(np.array([1.0, 2.0, 3.0]), 0.4),
}


@pytest.mark.parametrize("turn", TURNS)
def test_dcm2niix_reads_the_same(tmp_path: Path, turn: str) -> None:
    program = pytest.importorskip("dcm2niix", reason="dcm2niix is not installed")
    series = replace(
        phantom(noise=0.0).series, affine=affine_of(TURNS[turn], (4.0, 4.0, 5.0)), mask=None
    )
    write_ct_series(series, tmp_path / "dce")
    found = tmp_path / "found"
    found.mkdir()
    done = subprocess.run(
        [program.bin, "-f", "x", "-z", "n", "-o", found, tmp_path / "dce"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    image = read_volume(found / "x.nii", stack=True)
    # It turns the columns about, and the slices where needed; a corner stays where it was.
    last = np.array(series.shape) - 1
    corners = np.array(list(np.ndindex(2, 2, 2))) * last

    def places(affine: NDArray[np.float64]) -> NDArray[np.float64]:
        return corners @ affine[:3, :3].T + affine[:3, 3]

    apart = np.linalg.norm(places(image.affine)[:, None] - places(series.affine), axis=2)
    assert apart.min(axis=1).max() < 1e-4
    for corner, nearest in zip(corners, corners[apart.argmin(axis=1)], strict=True):
        np.testing.assert_array_equal(image.data[tuple(corner)], series.data[tuple(nearest)])
    sidecar = json.loads((found / "x.json").read_text())
    np.testing.assert_allclose(sidecar["FrameTimesStart"], TIMES, atol=1e-3)
    assert sidecar["XRayExposure"] == 75


@pytest.mark.parametrize("shuttle", [0.0, 1.25])
def test_dciodvfy_finds_no_error(tmp_path: Path, shuttle: float) -> None:
    series = phantom(shuttle=shuttle).series
    turned = replace(series, affine=affine_of(TURNS["oblique"]), mask=None)
    files = write_ct_series(series, tmp_path / "axial")
    for path in (files[0], files[-1], write_ct_series(turned, tmp_path / "oblique")[1]):
        assert problems(path) == []


def test_equal_options_give_equal_studies(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        write_phantom(phantom(seed=seed), tmp_path / name, dicom=True)
    masks = ("aorta.dcm", "body.dcm", "tumour.dcm")
    found = {
        name: [(tmp_path / name / mask).read_bytes() for mask in masks]
        for name in ("one", "same", "other")
    }
    assert found["one"] == found["same"]
    uids = [
        pydicom.dcmread(tmp_path / name / mask).SOPInstanceUID
        for name in ("one", "other")
        for mask in masks
    ]
    assert len(set(uids)) == 6


def test_equal_series_give_equal_files_and_others_share_no_identifier(tmp_path: Path) -> None:
    one, same, other = tmp_path / "one", tmp_path / "same", tmp_path / "other"
    for folder, seed in ((one, 0), (same, 0), (other, 1)):
        write_ct_series(phantom(seed=seed).series, folder)
    assert digests(one) == digests(same)

    def uids(folder: Path) -> set[str]:
        return {
            pydicom.dcmread(p, stop_before_pixels=True).SOPInstanceUID for p in folder.iterdir()
        }

    assert not uids(one) & uids(other)
    louder = write_ct_series(phantom().series, tmp_path / "kv", Exposure(kvp=80.0))
    assert not uids(one) & uids(tmp_path / "kv")
    assert pydicom.dcmread(louder[0]).KVP == 80
    own = replace(phantom().series, acquisition={"kvp": 120.0})
    assert pydicom.dcmread(write_ct_series(own, tmp_path / "own")[0]).KVP == 120


def test_as_scanned_keeps_every_voxel_in_its_place() -> None:
    own = simulate_abdomen(SIZE, protocol=TIMES, arrival=3.0)
    turned = as_scanned(own)
    index = np.array([3, 5, 1])
    there = np.linalg.inv(turned.series.affine) @ (own.series.affine @ [*index, 1.0])
    moved = tuple(np.rint(there[:3]).astype(int))
    np.testing.assert_allclose(there[:3], moved, atol=1e-9)
    assert moved == (20, 14, 1)
    np.testing.assert_array_equal(turned.series.data[moved], own.series.data[tuple(index)])
    for name in ("labels", "baseline", "body", "roi"):
        assert getattr(turned, name)[moved] == getattr(own, name)[tuple(index)], name
    for name, values in own.truth.items():
        np.testing.assert_array_equal(turned.truth[name][moved], values[tuple(index)])
    np.testing.assert_array_equal(turned.series.mask, turned.body)


# --- the command ------------------------------------------------------------------------------


def test_command(tmp_path: Path) -> None:
    out = tmp_path / "study"
    words = ("--size", "24,20,2", "--protocol", "brain", "--dicom")
    result = good("simulate", out, *words, "--shuttle", 1)
    assert len(list((out / "dce").iterdir())) == 2 * 37
    assert not (out / "dce.nii.gz").exists()
    assert result.output.startswith("phantom ")
    _, affine, times = read_back(sorted((out / "dce").iterdir()))
    np.testing.assert_allclose(times[1] - times[0], 1.0, atol=1e-6)
    np.testing.assert_allclose(read_volume(out / "truth_ktrans.nii.gz").affine, affine, atol=1e-4)
    assert json.loads((out / "simulation.json").read_text())["shuttle"] == 1
    good("simulate", out, *words)  # replaces the series
    _, _, times = read_back(sorted((out / "dce").iterdir()))
    np.testing.assert_array_equal(times[1], times[0])


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"modality": "MR"}, "only CT"),
        ({"data": np.full((3, 2, 4, 2), 0.5)}, "not whole HU"),
        ({"data": np.full((3, 2, 4, 2), np.nan)}, "not whole HU"),
        ({"data": np.full((3, 2, 4, 2), -1025)}, "from -1024 to 3071"),
        ({"data": np.full((3, 2, 4, 2), 3072)}, "from -1024 to 3071"),
        ({"affine": np.diag([1.0, -1.0, 1.0, 1.0])}, "no stack of slices"),
        ({"affine": np.eye(4) + np.diag([0.1, 0, 0], 1)}, "no stack of slices"),
    ],
)
def test_refuses(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(KetyError, match=words):
        write_ct_series(replace(small(FLIPPED), **changes), tmp_path / "dce")
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_the_earlier_series(tmp_path: Path) -> None:
    write_ct_series(small(FLIPPED), tmp_path / "dce")
    before = digests(tmp_path / "dce")
    data = small(FLIPPED).data.astype(np.float64)
    data[0, 0, -1, -1] = 0.5  # found in the last file
    with pytest.raises(KetyError, match="not whole"):
        write_ct_series(small(FLIPPED, data=data), tmp_path / "dce")
    assert digests(tmp_path / "dce") == before
    assert [p.name for p in tmp_path.iterdir()] == ["dce"]


def test_folders_with_other_content_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "dce").mkdir()
    (tmp_path / "dce" / "thesis.docx").write_text("years of work")
    with pytest.raises(OutputError, match=r"holds thesis\.docx"):
        write_ct_series(small(FLIPPED), tmp_path / "dce")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        write_ct_series(small(FLIPPED), tmp_path / "file")
    with pytest.raises(OutputError, match="file"):
        write_ct_series(small(FLIPPED), tmp_path / "file" / "dce")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dce", "file"]


def test_what_appears_meanwhile_is_not_lost(tmp_path: Path) -> None:
    @contextmanager
    def interrupted() -> Iterator[Path]:
        with new_folder(tmp_path / "dce", replacing="CT*.dcm") as place:
            yield place
            (tmp_path / "dce").mkdir()
            (tmp_path / "dce" / "notes").write_text("")

    with pytest.raises(OutputError, match="holds notes"), interrupted() as place:
        (place / "CT1.dcm").write_bytes(b"")
    assert [p.name for p in tmp_path.rglob("*")] == ["dce", "notes"]


def test_command_refuses(tmp_path: Path) -> None:
    for words, phrase in (
        (["--dicom", "--exact"], "whole HU"),
        (["--shuttle", "3"], "shuttle"),
        (["--shuttle", "-1"], "shuttle"),
    ):
        result = run("simulate", tmp_path / "out", "--size", "24,20,2", *words)
        assert result.exit_code == 2
        assert phrase in result.output
    assert not list(tmp_path.iterdir())
