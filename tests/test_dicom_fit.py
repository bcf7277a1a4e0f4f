"""From a folder of DICOM to maps and a report in one command."""

from __future__ import annotations

import csv
import json
import shutil
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from commands import good, run
from dicom_cases import Scan, write_classic
from dicom_objects import problems
from kety import simulate_curves
from kety.inputs import population_input
from kety.io import read_maps, read_series, read_volume
from kety.pipeline import InputSource, read_study
from kety.signal import signal_from_concentration, spgr_signal

SIZE = "32,27,2"
NAME = "Unverkennbar^Zygmunt^Q"
ID = "PX99812"
WORDS = ("unverkennbar", "zygmunt", "px99812", "19331224")
Reference = Callable[[str], Path]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The phantom as a scanner writes it."""
    folder = tmp_path_factory.mktemp("scan") / "study"
    good("simulate", folder, "--size", SIZE, "--noise", 2, "--dicom")
    return folder


@pytest.fixture(scope="module")
def fitted(study: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("fitted") / "maps"
    return out, good("fit", study / "dce", "--roi", study / "tumour.dcm", "--out", out).output


def maps_of(folder: Path) -> dict[str, NDArray[Any]]:
    found = read_maps(folder).maps
    return {str(name): found[name].values for name in found.data_vars}


def assert_same_maps(one: Path, other: Path) -> None:
    first, second = maps_of(one), maps_of(other)
    assert set(first) == set(second)
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)


def record_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "fit.json").read_text())
    return content


def named_scan(source: Path, folder: Path, pick: slice = slice(None)) -> Path:
    """A copy of a series whose headers name a patient."""
    folder.mkdir(parents=True)
    for path in sorted(source.iterdir())[pick]:
        header = pydicom.dcmread(path)
        header.PatientName, header.PatientID, header.PatientBirthDate = NAME, ID, "19331224"
        header.save_as(folder / path.name)
    return folder


# --- one command ------------------------------------------------------------------------------


def test_a_folder_is_all_it_needs(study: Path, fitted: tuple[Path, str]) -> None:
    out, said = fitted
    assert said.splitlines()[0].startswith("input     none is named: an artery is sought")
    for words in ("series-1: CT numbers", "acquisition date-time", "found in an artery"):
        assert words in said
    assert (out / "report.html").is_file()
    record = record_of(out)
    assert record["Maps"]["ktrans"].endswith(".dcm")
    for name in record["Maps"].values():
        assert (out / name).is_file()
    labels = read_volume(study / "labels.nii.gz").data
    names = {
        name: int(k)
        for k, name in json.loads((study / "labels.json").read_text())["Levels"].items()
    }
    found = maps_of(out)
    for name, limit in (("ktrans", 0.1), ("ve", 0.1), ("vb", 0.15)):
        truth = read_volume(study / f"truth_{name}.nii.gz").data
        liver = labels == names["liver"]
        error = np.abs(found[name][liver] - truth[liver]) / truth[liver]
        assert np.nanmedian(error) < limit, name


def test_maps_refer_to_the_images(study: Path, fitted: tuple[Path, str]) -> None:
    out, _ = fitted
    scans = [pydicom.dcmread(p, stop_before_pixels=True) for p in sorted((study / "dce").iterdir())]
    made = pydicom.dcmread(out / record_of(out)["Maps"]["ktrans"])
    for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert getattr(made, keyword) == getattr(scans[0], keyword), keyword
    assert made.SeriesInstanceUID != scans[0].SeriesInstanceUID
    places = {one.SOPInstanceUID: one.ImagePositionPatient for one in scans}
    for group in made.PerFrameFunctionalGroupsSequence:
        place = group.PlanePositionSequence[0].ImagePositionPatient
        sources = group.DerivationImageSequence[0].SourceImageSequence
        assert sources
        for source in sources:
            assert np.allclose(places[source.ReferencedSOPInstanceUID], place)


def test_dciodvfy_finds_no_error(fitted: tuple[Path, str]) -> None:
    out, _ = fitted
    listed = record_of(out)["Maps"]
    for name in ("ktrans", "ktrans_se", "status"):
        assert problems(out / listed[name]) == []


def test_the_same_as_from_nifti(study: Path, fitted: tuple[Path, str], tmp_path: Path) -> None:
    good("simulate", tmp_path / "study", "--size", SIZE, "--noise", 2)
    words = ("--aif", "auto", "--out", tmp_path / "maps", "--no-report")
    good("fit", tmp_path / "study" / "dce.nii.gz", *words)
    own = maps_of(tmp_path / "maps")
    for name, values in maps_of(fitted[0]).items():
        np.testing.assert_array_equal(values, own[name][::-1, ::-1], err_msg=name)


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_archives_give_the_same(
    study: Path, fitted: tuple[Path, str], tmp_path: Path, kind: str
) -> None:
    archive = tmp_path / f"scan.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as packed:
            for path in sorted((study / "dce").iterdir()):
                packed.write(path, f"a/b/{path.name}")
    else:
        with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
            tar.add(study / "dce", "dce")
    out = tmp_path / "maps"
    good("fit", archive, "--out", out, "--no-report", "--quiet")
    assert_same_maps(out, fitted[0])
    assert record_of(out)["inputs"]["series"] == record_of(fitted[0])["inputs"]["series"]


def test_formats(study: Path, fitted: tuple[Path, str], tmp_path: Path) -> None:
    words = ("--no-report", "--quiet", "--out")
    good("fit", study / "dce", "--format", "nifti", *words, tmp_path / "nifti")
    assert record_of(tmp_path / "nifti")["Maps"]["ktrans"].endswith(".nii.gz")
    assert_same_maps(tmp_path / "nifti", fitted[0])


def test_all_maps_of_a_joint_fit_in_both_formats(study: Path, tmp_path: Path) -> None:
    words = ("--joint", "graph", "--strength", 4, "--crop", "6:26,4:24,:", "--no-report", "--quiet")
    good("fit", study / "dce", *words, "--format", "both", "--out", tmp_path)
    record = record_of(tmp_path)
    ((_, second),) = record["MapsAlsoAs"].items()
    assert "ktrans_voxelwise_se" in second
    assert set(record["Maps"]) == set(second)
    for name, file in second.items():
        assert {Path(file).suffix, Path(record["Maps"][name]).suffix} == {".gz", ".dcm"}
        found, other = read_volume(tmp_path / file), read_volume(tmp_path / record["Maps"][name])
        np.testing.assert_array_equal(found.data, other.data, err_msg=name)
        np.testing.assert_allclose(found.affine, other.affine, atol=1e-4)


def test_inside_the_folder(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = shutil.copytree(study / "dce", tmp_path / "scan")
    monkeypatch.chdir(scan)
    for _ in range(2):  # its own maps are no images of the series
        good("fit", ".", "--no-report", "--quiet")
    assert record_of(scan / "scan_maps")["status_counts"]["converged"] > 100


def test_maps_and_aif_read_the_folder_too(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    good("aif", study / "dce")
    with Path("dce_input/input.csv").open(newline="") as stream:
        assert len(list(csv.reader(stream))) == 2 + 66
    said = good("maps", study / "dce", "--no-report").output
    assert "artery" not in said  # nothing needs one
    assert "peak" in maps_of(Path("dce_modelfree"))
    said = good("maps", study / "dce", "--no-report", "--deconvolve", "standard").output
    assert "an artery is sought" in said
    assert {"fb", "volume", "mtt"} <= set(maps_of(Path("dce_modelfree")))
    assert {p.name for p in tmp_path.iterdir()} == {"dce_input", "dce_modelfree"}


def test_a_named_input_is_taken(study: Path, tmp_path: Path) -> None:
    words = ("--aif", study / "aif.csv", "--out", tmp_path, "--no-report")
    said = good("fit", study / "dce", *words).output
    assert "none is named" not in said
    assert "aif.csv: blood" in said


def test_mr_with_flip_angles_from_a_folder(tmp_path: Path) -> None:
    times = np.arange(0.0, 180.0, 3.0)
    tr, angle, t10, slope = 0.0042, 20.0, 1.2, 0.05  # as `dicom_cases.classic` writes them
    shape = (5, 4, 3)
    ktrans = np.random.default_rng(0).uniform(0.1, 0.4, shape)
    aif = population_input("parker", float(times[-1]), delay=30.0)
    tissue = {"ktrans": ktrans.ravel(), "kep": 1.0, "vb": 0.08, "delay": 1.0}
    concentration = simulate_curves(tissue, times, aif).reshape(*shape, -1)
    signal = signal_from_concentration(
        concentration, t10=t10, repetition_time=tr, flip_angle=angle, relaxivity=4.5, s0=1000.0
    )
    rows = np.column_stack([times, aif(times)])
    np.savetxt(tmp_path / "aif.csv", rows, delimiter=",", header="time_s,cb_mM", comments="")

    def written(name: str, data: NDArray[Any], when: NDArray[Any], **header: Any) -> None:
        stored = np.rint(data / slope).astype(np.uint16)
        scan = Scan(stored, when, "MR", slope=slope, intercept=0.0, study="2.25.7", place="2.25.8")

        def edit(dataset: pydicom.Dataset, z: int, t: int) -> None:
            dataset.update(header)

        write_classic(tmp_path / name, scan, edit)

    written("dynamic", signal, times)
    for one in (2.0, 10.0, 20.0):
        value = spgr_signal(1 / t10, 1000.0, tr, one)
        image = np.full((*shape, 1), float(value))
        written(f"angles/{one:g}", image, np.zeros(1), FlipAngle=one, SeriesNumber=int(one))
    words = ("--aif", tmp_path / "aif.csv", "--vfa", tmp_path / "angles", "--no-report")
    said = good("fit", tmp_path / "dynamic", *words, "--out", tmp_path / "maps").output
    assert "TR 4.2 ms, flip angle 20°" in said
    found = maps_of(tmp_path / "maps")
    np.testing.assert_allclose(found["t10"], t10, rtol=0.01)
    assert np.median(np.abs(found["ktrans"] / ktrans - 1)) < 0.02
    files = record_of(tmp_path / "maps")["inputs"]
    assert len(files["vfa"][0]["sha256"]) == 64
    made = pydicom.dcmread(tmp_path / "maps" / record_of(tmp_path / "maps")["Maps"]["t10"])
    assert made.StudyInstanceUID == "2.25.7"


# --- times ------------------------------------------------------------------------------------


def test_slices_of_a_shuttling_table(tmp_path: Path) -> None:
    good("simulate", tmp_path, "--size", SIZE, "--noise", 0.5, "--shuttle", 1.25, "--dicom")
    words = ("--aif", tmp_path / "aif.csv", "--mask", tmp_path / "tumour.dcm", "--no-report")
    said = good("fit", tmp_path / "dce", *words, "--out", tmp_path / "maps").output
    assert "slices" in said
    series = read_series(tmp_path / "dce")
    assert series.slice_times is not None
    np.testing.assert_allclose(series.slice_times[1] - series.slice_times[0], 1.25, atol=1e-6)
    found, truth = maps_of(tmp_path / "maps"), read_volume(tmp_path / "truth_delay.nii.gz").data
    known = np.isfinite(found["delay"]) & np.isfinite(truth)
    for index in range(2):  # ignoring the shuttle would move one of them by 0.6 s
        off = (found["delay"] - truth)[..., index][known[..., index]]
        assert abs(np.median(off)) < 0.2


def test_times_on_the_command_line(study: Path, tmp_path: Path) -> None:
    times = tmp_path / "times.csv"
    seconds = read_series(study / "dce").times
    times.write_text("\n".join(["time_s", *(str(2 * t) for t in seconds)]))
    said = good(
        "fit", study / "dce", "--times", times, "--out", tmp_path / "m", "--no-report"
    ).output
    assert "66 from 0 to 600 s" in said


def test_reference_object_from_dicom_and_nifti(reference: Reference, tmp_path: Path) -> None:
    folder = reference("qiba6")
    words = [
        *("--modality", "MR", "--interval", 0.5, "--tr", 0.005, "--flip-angle", 30, "--t10", 1),
        *("--relaxivity", 4.5, "--hematocrit", 0.45, "--aif-column", "cb_mM", "--model", "tofts"),
        *("--delay", "off", "--baseline-frames", 2, "--no-report", "--quiet"),
    ]
    for path, out in ((folder / "DICOM.tar.gz", "dicom"), (folder / "dce.nii.gz", "nifti")):
        good("fit", path, "--aif", folder / "aif.csv", *words, "--out", tmp_path / out)
    assert_same_maps(tmp_path / "dicom", tmp_path / "nifti")


# --- whose study it is ------------------------------------------------------------------------


def texts(folder: Path) -> Iterator[tuple[str, str]]:
    """Name and content of every text file below a folder."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in (".json", ".html", ".csv", ".tsv", ".txt", ".md"):
            yield path.name, path.read_text()


@pytest.mark.parametrize("place", ["scan", f"archive/{NAME.replace('^', '_')}"])
def test_no_output_names_the_patient(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    scan = named_scan(study / "dce", Path("..") / place)
    (scan / f"{NAME} notes.dcm").write_bytes(b"not DICOM")
    said = [run("fit", scan, "--series", "7").output]
    if place == "scan":
        said += [good(name, scan).output for name in ("fit", "maps", "aif", "info")]
    else:
        curve = shutil.copy(study / "aif.csv", Path("..") / f"{NAME.split('^')[1]}_aif.csv")
        said += [good("fit", scan, "--aif", curve).output]
    out = work / ("scan_maps" if place == "scan" else "series_maps")
    assert len(json.loads((out / "fit.json").read_text())["inputs"]["series"][0]["sha256"]) == 64
    if place != "scan":
        said = [text.replace(str(scan), "") for text in said]  # what was typed is no secret
        assert "name another with --out" in refused("fit", scan)
    assert (out / "report.html").is_file()
    for name, text in [*texts(work), *(("the terminal", one) for one in said)]:
        for word in WORDS:
            assert word not in text.lower(), (name, word)
    for path in work.rglob("*"):
        assert not any(word in path.name.lower() for word in WORDS), path
    made = pydicom.dcmread(out / record_of(out)["Maps"]["ktrans"])
    assert (made.PatientName, made.PatientID) == (NAME, ID)  # the archive needs it


# --- memory -----------------------------------------------------------------------------------


def test_memory_is_that_of_the_series_alone(tmp_path: Path) -> None:
    good("simulate", tmp_path, "--size", "160,136,4", "--dicom")
    source = InputSource(table=tmp_path / "aif.csv")
    read_study(tmp_path / "dce", source)  # imports, and the headers
    tracemalloc.start()
    try:
        made = read_study(tmp_path / "dce", source)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    series, curves = made.series.data, made.curves
    assert (series.dtype, curves.dtype) == (np.int16, np.float32)
    phase = series.nbytes / series.shape[3]
    # Curves above the baseline are made where they are read.
    assert peak < series.nbytes + 12 * phase


# --- what is refused --------------------------------------------------------------------------


def refused(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.output.count("\n") <= 3, result.output
    return result.output


def test_refuses(study: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    out = ("--out", tmp_path / "out")
    assert "without CT or MR images" in refused("fit", tmp_path / "empty", *out)
    assert "no such" in refused("fit", tmp_path / "missing", *out)
    (tmp_path / "text.zip").write_text("not a zip")
    assert "text.zip" in refused("fit", tmp_path / "text.zip", *out)
    assert "--series" in refused("fit", study / "dce", "--series", "liver", *out)
    assert not (tmp_path / "out").exists()


def test_two_series_or_patients_need_a_choice(study: Path, tmp_path: Path) -> None:
    scan = tmp_path / "scans"
    shutil.copytree(study / "dce", scan / "one")
    good("simulate", tmp_path / "other", "--size", SIZE, "--seed", 5, "--dicom")
    shutil.copytree(tmp_path / "other" / "dce", scan / "two")
    said = refused("fit", scan, "--out", tmp_path / "out")
    assert "choose a series by its number" in said
    assert "--series" in said
    good("fit", scan, "--series", 2, "--out", tmp_path / "out", "--quiet", "--no-report")
    shutil.rmtree(scan / "two")
    named_scan(tmp_path / "other" / "dce", scan / "two")
    said = refused("fit", scan, "--out", tmp_path / "out")
    assert "2 patients" in said
    assert not any(word in said.lower() for word in WORDS)


def test_damaged_images(study: Path, fitted: tuple[Path, str], tmp_path: Path) -> None:
    scan = tmp_path / "dce"
    shutil.copytree(study / "dce", scan)
    last = sorted(scan.iterdir())[-1]
    last.write_bytes(last.read_bytes()[:-100])
    result = run("fit", scan, "--out", tmp_path / "out", "--no-report")
    assert result.exit_code == 0, result.output
    assert "65 from 0 to 290 s" in result.output  # the phase that lacks it is left out
    assert "warning" in result.output
