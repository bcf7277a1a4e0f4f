"""What is found in a folder or archive of DICOM: grouping, phases, problems, bad input."""

from __future__ import annotations

import contextlib
import io
import os
import re
import stat
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, generate_uid

from commands import good, run
from dicom_cases import (
    BORN,
    CORONAL,
    NAME,
    PATIENT_ID,
    Scan,
    classic,
    moment,
    scan,
    write_classic,
    write_enhanced,
)
from kety.errors import KetyError
from kety.io import read_series
from kety.io.dicom import Found, find_series
from kety.io.dicom import archive as archives
from kety.io.dicom.clock import MICROSECONDS, Moment, day_time
from kety.io.dicom.clock import datetime as dicom_datetime
from kety.io.dicom.elements import NotReadable, read_elements
from kety.io.dicom.headers import HeaderReader
from kety.io.dicom.phases import find_phases

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


def reasons(found: Found) -> dict[str, str]:
    return {problem.file: problem.reason for problem in found.problems}


def image_file(folder: Path, one: Scan, z: int = 0, t: int = 0, name: str = "extra") -> Path:
    path = folder / name
    classic(one, z, t).save_as(path, enforce_file_format=True)
    return path


# --- grouping ---------------------------------------------------------------------------------


def test_the_table_does_not_depend_on_names_or_order(tmp_path: Path) -> None:
    first, second = scan("CT"), scan("MR", number=2, study="1.2.3")
    for folder, order in (("a", (first, second)), ("b", (second, first))):
        for index, one in enumerate(order):
            write_classic(tmp_path / folder / str(index), one)
    titles = [[one.title for one in find_series(tmp_path / name).series] for name in "ab"]
    assert titles[0] == titles[1]
    assert titles[0] == [
        "1: dynamic, scanner's number 2, MR, 4 phases",
        "2: perfusion, scanner's number 4, CT, 4 phases",
    ]


def test_one_series_in_many_is_offered_as_one(tmp_path: Path) -> None:
    one = scan("MR")
    uids = [str(generate_uid()) for _ in range(4)]

    def by_phase(dataset: Dataset, z: int, t: int) -> None:
        dataset.SeriesInstanceUID, dataset.SeriesNumber = uids[t], 10 + t
        dataset.AcquisitionNumber, dataset.InstanceNumber = 1, z + 1

    write_classic(tmp_path, one, by_phase)
    found = find_series(tmp_path)
    assert [len(s.uids) for s in found.series] == [4]
    read = read_series(tmp_path)
    np.testing.assert_array_equal(read.data, one.stored)
    np.testing.assert_allclose(read.times, one.times, atol=1e-9)


def test_the_parts_of_a_joined_series_can_be_read_alone(tmp_path: Path) -> None:
    one, later = scan(times=[0.0, 2.0, 4.0]), str(generate_uid())

    def in_two(dataset: Dataset, z: int, t: int) -> None:
        if t == 2:
            dataset.SeriesInstanceUID, dataset.SeriesNumber = later, 5

    two = scan(times=np.arange(6.0), seed=1)
    write_classic(tmp_path / "a", one, in_two)
    assert [(s.frames, len(s.uids)) for s in find_series(tmp_path / "a").series] == [(3, 2), (2, 1)]
    assert find_series(tmp_path / "a").series[1].part_of == 1

    def halves(dataset: Dataset, z: int, t: int) -> None:
        if t > 2:
            dataset.SeriesInstanceUID, dataset.SeriesNumber = later, 5

    write_classic(tmp_path / "b", two, halves)
    assert read_series(tmp_path / "b").times.size == 6
    np.testing.assert_array_equal(
        read_series(tmp_path / "b", series=later).data, two.stored[..., 3:].astype(int) - 1024
    )


def test_before_and_after_and_two_reconstructions_are_not_joined(tmp_path: Path) -> None:
    first, second = scan("MR", times=[0.0]), scan("MR", times=[300.0])
    second.study, second.place = first.study, first.place
    write_classic(tmp_path / "two" / "a", first)
    write_classic(tmp_path / "two" / "b", second)
    assert [len(one.uids) for one in find_series(tmp_path / "two").series] == [1, 1]
    sharp, smooth = scan("CT"), scan("CT", seed=2)
    smooth.study, smooth.place = sharp.study, sharp.place
    write_classic(tmp_path / "same" / "a", sharp)
    write_classic(tmp_path / "same" / "b", smooth)
    assert [len(one.uids) for one in find_series(tmp_path / "same").series] == [1, 1]
    with pytest.raises(KetyError, match="2 of them could be meant; choose a series by its number"):
        read_series(tmp_path / "same")


def test_a_mixed_series_is_taken_apart(tmp_path: Path) -> None:
    one = scan("MR")
    write_classic(tmp_path / "a", one)
    other = scan("MR", shape=(4, 4, 2), times=[0.0], orientation=CORONAL)
    other.series, other.study = one.series, one.study
    write_classic(tmp_path / "b", other)

    def second_echo(dataset: Dataset, z: int, t: int) -> None:
        dataset.EchoTime, dataset.SOPInstanceUID = 5.0, generate_uid()
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID

    write_classic(tmp_path / "c", one, second_echo)
    assert sorted(s.frames for s in find_series(tmp_path).series) == [1, 4, 4]
    chosen = read_series(tmp_path, series=1)
    assert chosen.acquisition["echo_time"] == pytest.approx(0.0018)
    np.testing.assert_array_equal(chosen.data, one.stored)


@pytest.mark.parametrize(
    ("change", "aside"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
        ({"SeriesDescription": "Scout 3 planes"}, "localizer"),
        ({"ImageType": ["DERIVED", "SECONDARY", "MIP"]}, "projection"),
        ({"ImageType": ["DERIVED", "SECONDARY", "OTHER"]}, "derived"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}, "phase image"),
    ],
)
def test_what_is_not_to_be_fitted_is_set_aside(
    tmp_path: Path, change: dict[str, Any], aside: str
) -> None:
    wanted, other = scan("MR"), scan("MR", number=1, seed=3)
    write_classic(tmp_path / "a", wanted)

    def changed(dataset: Dataset, z: int, t: int) -> None:
        for name, value in change.items():
            setattr(dataset, name, value)

    write_classic(tmp_path / "b", other, changed)
    found = find_series(tmp_path)
    assert [one.aside for one in found.series] == ["", aside]
    np.testing.assert_array_equal(read_series(tmp_path).data, wanted.stored)
    np.testing.assert_array_equal(read_series(tmp_path, series=2).data, other.stored)


def test_other_objects_are_counted(tmp_path: Path) -> None:
    one = scan()
    write_classic(tmp_path, one)
    for index, kind in enumerate(("1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.88.67")):
        other = classic(one, 0, 0)
        other.SOPClassUID = other.file_meta.MediaStorageSOPClassUID = kind
        other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        other.save_as(tmp_path / f"other{index}", enforce_file_format=True)
    assert find_series(tmp_path).others == {
        "Secondary Capture Image": 1,
        "X-Ray Radiation Dose SR": 1,
    }
    assert read_series(tmp_path).times.size == 4


def test_two_patients_need_a_choice(tmp_path: Path) -> None:
    mine, other = scan(), scan(name="Anders^Karl", patient="KH-5")
    write_classic(tmp_path / "a", mine)
    write_classic(tmp_path / "b", other)
    with pytest.raises(KetyError, match="images of 2 patients; choose a series by its number: 1: "):
        read_series(tmp_path)
    number = next(s.number for s in find_series(tmp_path).series if s.header.series == other.series)
    np.testing.assert_array_equal(
        read_series(tmp_path, series=number).data, other.stored.astype(int) - 1024
    )
    assert read_series(tmp_path, series=mine.series).times.size == 4
    assert "2 patients" in good("info", tmp_path).output


def test_a_series_is_chosen_by_number_uid_or_words(tmp_path: Path) -> None:
    one, two = scan(description="Leber dyn"), scan(description="Niere dyn", number=9)
    two.study = one.study
    write_classic(tmp_path / "a", one)
    write_classic(tmp_path / "b", two)
    for wanted in (2, "2", two.series, "niere"):
        assert read_series(tmp_path, series=wanted).source == "series-9"
    for wanted, words in (("dyn", "2 series for 'dyn'"), (7, "no series for '7'")):
        with pytest.raises(KetyError, match=f"{words}; choose one by its number: 1: Leber dyn"):
            read_series(tmp_path, series=wanted)
    result = run("fit", tmp_path, "--population", "parker")
    assert result.exit_code == 2
    assert "--series N" in result.output


def test_a_patient_with_a_word_for_a_name(tmp_path: Path) -> None:
    one = scan(description="Perfusion liver 80kV", name="Liver^Ann")
    write_classic(tmp_path / "liver", one)
    found = find_series(tmp_path / "liver")
    assert found.series[0].header.description == "Perfusion … 80kV"
    assert found.choose("perfusion LIVER").number == 1
    listed = good("info", tmp_path / "liver").output
    # Long paths are broken over lines.
    assert f"{tmp_path / 'liver'}:12files" in "".join(listed.split())
    result = good("convert", tmp_path / "liver", tmp_path / "liver.nii.gz", "--series", "liver")
    assert "liver.nii.gz" in result.output


def test_a_folder_without_images_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(KetyError, match=r"is a folder without CT or MR images.*a\.txt is not DIC"):
        read_series(tmp_path)
    with pytest.raises(KetyError, match="there is no such file or folder"):
        find_series(tmp_path / "gone")
    write_classic(tmp_path / "vol", scan(times=[0.0]))
    with pytest.raises(KetyError, match="a dynamic series is needed and there is none"):
        read_series(tmp_path)
    with pytest.raises(KetyError, match="is not dynamic"):
        read_series(tmp_path, series=1)


def test_info_says_what_to_name_where_there_is_no_dicom(tmp_path: Path) -> None:
    assert "is empty; name a folder of DICOM files" in run("info", tmp_path).output
    (tmp_path / "a.dcm").write_text("hello")
    assert "holds neither DICOM nor the fit.json" in run("info", tmp_path).output
    assert "a.dcm: is not DICOM\n" in run("info", tmp_path / "a.dcm").output
    (tmp_path / "dce.nii.gz").touch()
    assert "name one image, such as dce.nii.gz" in run("info", tmp_path).output


def test_a_changed_folder_is_looked_through_again(tmp_path: Path) -> None:
    one = scan()
    write_classic(tmp_path, one)
    assert find_series(tmp_path).series[0].frames == 4
    assert find_series(tmp_path).series[0].stack is not None
    later = scan(times=[0.0, 2.0, 4.5, 9.0, 12.0])
    later.series, later.study, later.place = one.series, one.study, one.place
    for z in range(3):
        image_file(tmp_path, later, z, 4, f"new{z}")
    assert find_series(tmp_path).series[0].frames == 5


# --- duplicates and missing slices ------------------------------------------------------------


def test_duplicates_are_listed_and_used_once(tmp_path: Path) -> None:
    one = scan()
    paths = write_classic(tmp_path, one)
    (tmp_path / "zz_copy").write_bytes(paths[5].read_bytes())

    def renamed(dataset: Dataset, z: int, t: int) -> None:
        dataset.SOPInstanceUID = generate_uid()
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.InstanceNumber += 100

    again = write_classic(tmp_path / "zz_again", one, renamed)
    found = find_series(tmp_path)
    assert set(reasons(found)) == {"zz_copy", *(f"zz_again/{p.name}" for p in again)}
    assert set(reasons(found).values()) == {"shows the same as another file, which is used"}
    with pytest.warns(UserWarning, match="13 files beside it are not used"):
        read = read_series(tmp_path)
    np.testing.assert_array_equal(read.data, one.stored.astype(int) - 1024)


def without(*missing: tuple[int, int]) -> Callable[[Dataset, int, int], bool]:
    return lambda dataset, z, t: (z, t) not in missing


def plain(dataset: Dataset, label: str) -> None:
    """Leave one clue of the phase alone."""
    if label != "temporal":
        moment(datetime(2024, 3, 5, 11, 58), "Acquisition", dataset)
    if label != "content":
        moment(datetime(2024, 3, 5, 11, 58), "Content", dataset)
    dataset.AcquisitionNumber = 1


@pytest.mark.parametrize("label", ["time", "temporal"])
@pytest.mark.parametrize("gone", [(0, 3), (1, 0), (2, 6)])
def test_a_phase_that_lacks_a_slice_is_left_out(
    tmp_path: Path, label: str, gone: tuple[int, int]
) -> None:
    one = scan(times=np.arange(7.0) * 2)

    def edit(dataset: Dataset, z: int, t: int) -> bool:
        if label == "temporal":
            dataset.TemporalPositionIdentifier = t + 1
        return (z, t) != gone

    write_classic(tmp_path, one, edit)
    left = [t for t in range(7) if t != gone[1]]
    with pytest.warns(UserWarning, match=rf"1 of 7 phases \({gone[1] + 1}\) lacks slices"):
        read = read_series(tmp_path)
    np.testing.assert_array_equal(read.data, one.stored[..., left].astype(int) - 1024)
    np.testing.assert_allclose(read.times, one.times[left] - one.times[left[0]], atol=1e-9)
    with pytest.warns(UserWarning, match="left out"):
        timed = read_series(tmp_path, times=10.0)
    np.testing.assert_array_equal(timed.times, 10.0 * np.array(left))
    with pytest.warns(UserWarning, match="left out"):
        timed = read_series(tmp_path, times=np.arange(6.0))
    np.testing.assert_array_equal(timed.times, np.arange(6.0))
    assert "lacks slices" in good("info", tmp_path).output


def test_many_incomplete_phases_are_refused(tmp_path: Path) -> None:
    one = scan(times=np.arange(6.0))
    write_classic(tmp_path, one, without((0, 1), (1, 3), (2, 4)))
    with pytest.raises(KetyError, match=r"3 of 6 phases \(2, 4, 5\) lack slices"):
        read_series(tmp_path)


def test_slices_missing_in_different_phases_are_not_paired(tmp_path: Path) -> None:
    # As many images a slice, but not of the same phases; by content time alone.
    one = scan("MR", times=np.arange(8.0) * 2)

    def edit(dataset: Dataset, z: int, t: int) -> bool:
        moment(datetime(2024, 3, 5, 11, 58), "Acquisition", dataset)
        dataset.AcquisitionNumber = 1
        moment(datetime(2024, 3, 5, 11, 58, 2 * t, 300_000 * z), "Content", dataset)
        return (z, t) not in ((0, 2), (1, 5), (2, 6))

    write_classic(tmp_path, one, edit)
    with pytest.raises(KetyError, match="no frame times"):
        read_series(tmp_path)


# --- phases and times -------------------------------------------------------------------------


def test_the_order_of_trust(tmp_path: Path) -> None:
    one = scan("MR")

    def edit(dataset: Dataset, z: int, t: int) -> None:
        dataset.TemporalPositionIdentifier = t + 1
        dataset.TriggerTime = 7000.0 * t
        if level > 0:
            del dataset.TemporalPositionIdentifier
        if level > 1:
            moment(datetime(2024, 3, 5, 11, 58), "Acquisition", dataset)
        if level > 2:
            moment(datetime(2024, 3, 5, 11, 58), "Content", dataset)
        if level > 3:
            del dataset.TriggerTime
        if level > 4:
            dataset.AcquisitionNumber = 1
        if level > 5:
            del dataset.InstanceNumber

    found = []
    for level in range(7):
        folder = tmp_path / str(level)
        write_classic(folder, one, edit)
        series = find_series(folder).series[0]
        phases = series.phases
        found.append((phases.order_from, phases.times_from) if phases else series.problem[:36])
    assert found == [
        ("temporal position", "acquisition time"),
        ("acquisition time", "acquisition time"),
        ("content time", "content time"),
        ("trigger time", "trigger time"),
        ("acquisition number", ""),
        ("instance number", ""),
        "its phases cannot be told apart: 4 t",
    ]
    assert "spans 9 s, the trigger time 21 s" in good("info", tmp_path / "1").output
    np.testing.assert_allclose(read_series(tmp_path / "3").times, 7.0 * np.arange(4))
    for level in (4, 5):
        with pytest.raises(KetyError, match=r"no frame times: .*same in all; give the times"):
            read_series(tmp_path / str(level))
        given_times = read_series(tmp_path / str(level), times=[0, 3, 5, 9])
        np.testing.assert_array_equal(given_times.data, one.stored)
        assert given_times.times_from.startswith("given, phases by ")


def test_a_time_that_is_missing_is_not_made_up(tmp_path: Path) -> None:
    def edit(dataset: Dataset, z: int, t: int) -> None:
        for keyword in ("AcquisitionDate", "AcquisitionTime", "ContentDate", "ContentTime"):
            delattr(dataset, keyword)
        dataset.TemporalPositionIdentifier = t + 1
        if t:
            dataset.TriggerTime = 500 * t

    write_classic(tmp_path, scan("MR"), edit)
    with pytest.raises(KetyError, match=r"missing in 3 of 12 images, the others are 0\.5 s apart"):
        read_series(tmp_path)
    assert "the others are 0.5 s apart" in " ".join(good("info", tmp_path).output.split())


def test_acquisition_date_time_and_zones(tmp_path: Path) -> None:
    one = scan("CT", times=[0.0, 1.25, 3.000001])

    def edit(dataset: Dataset, z: int, t: int) -> None:
        zone = ("+0100", "+0000", "-0130")[t]
        hours = (1.0, 0.0, -1.5)[t]
        clock = np.datetime64("2024-03-05T23:59:59") + np.timedelta64(
            round((one.times[t] + 3600 * hours) * 1e6), "us"
        )
        text = str(clock).replace("-", "").replace("T", "").replace(":", "")
        dataset.AcquisitionDateTime = text + zone

    write_classic(tmp_path, one, edit)
    read = read_series(tmp_path)
    np.testing.assert_allclose(read.times, one.times, atol=1e-9)
    assert read.times_from == "acquisition date-time in the headers"


@pytest.mark.parametrize("date", ["follows", "stays", "is not there"])
def test_past_midnight(tmp_path: Path, date: str) -> None:
    one = scan("CT", start=datetime(2024, 3, 5, 23, 59, 57))

    def edit(dataset: Dataset, z: int, t: int) -> None:
        for name in ("AcquisitionDate", "ContentDate"):
            if date == "stays":
                setattr(dataset, name, "20240305")
            elif date != "follows":
                delattr(dataset, name)

    write_classic(tmp_path, one, edit)
    np.testing.assert_allclose(read_series(tmp_path).times, one.times, atol=1e-9)


@pytest.mark.parametrize("label", ["time", "temporal"])
def test_a_shuttle_has_times_of_its_own_for_every_slice(tmp_path: Path, label: str) -> None:
    # Two table positions of two slices, visited to and fro.
    phases = np.arange(6.0) * 4
    there = np.where(np.arange(6) % 2 == 0, 0.0, 1.7)
    times = np.stack([phases + there] * 2 + [phases + 1.7 - there] * 2)
    one = scan("CT", shape=(4, 3, 4), times=times)

    def edit(dataset: Dataset, z: int, t: int) -> None:
        if label == "temporal":
            dataset.TemporalPositionIdentifier = t + 1

    write_classic(tmp_path, one, edit)
    read = read_series(tmp_path)
    assert read.slice_times is not None
    np.testing.assert_array_equal(read.data, one.stored.astype(int) - 1024)
    np.testing.assert_allclose(read.slice_times, times, atol=1e-6)
    np.testing.assert_allclose(read.times, times.mean(axis=0), atol=1e-6)
    words = "acquisition time in the headers, each slice's own"
    order = ", phases by temporal position" if label == "temporal" else ""
    assert read.times_from == words + order
    assert "each slice has its own, up to 1.7 s apart" in good("info", tmp_path).output
    assert read_series(tmp_path, times=4.0).slice_times is None


def test_slices_of_a_three_dimensional_acquisition_share_a_time(tmp_path: Path) -> None:
    times = np.arange(5.0) * 4 + np.array([0.0, 0.3, 0.6])[:, None]
    for name, kind in (("a", "3D"), ("b", "2D")):
        one = scan("MR", times=times)

        def edit(dataset: Dataset, z: int, t: int, kind: str = kind) -> None:
            dataset.MRAcquisitionType = kind

        write_classic(tmp_path / name, one, edit)
    assert read_series(tmp_path / "a").slice_times is None
    np.testing.assert_allclose(read_series(tmp_path / "a").times, 4 * np.arange(5.0), atol=1e-9)
    own = read_series(tmp_path / "b").slice_times
    assert own is not None
    np.testing.assert_allclose(own, times, atol=1e-6)


@given(
    phases=st.integers(2, 9),
    slices=st.integers(1, 6),
    seed=st.integers(0, 10_000),
    shuttle=st.booleans(),
)
@settings(deadline=None)
def test_phases_of_any_irregular_series(phases: int, slices: int, seed: int, shuttle: bool) -> None:
    rng = np.random.default_rng(seed)
    steps = rng.uniform(1.0, 9.0, (slices if shuttle else 1, phases))
    times = np.round(np.cumsum(np.broadcast_to(steps, (slices, phases)), axis=1), 3)
    places = [(z, t) for z in range(slices) for t in range(phases)]
    rng.shuffle(places)
    first = HeaderReader().read(io.BytesIO(_CONTENT), "")[0]  # type: ignore[index]
    images = [
        replace(
            first,
            file=f"{z} {t}",
            acquired=Moment(round(times[z, t] * MICROSECONDS), False),
            acquired_clock=None,
            created=None,
        )
        for z, t in places
    ]
    found = find_phases(images, np.array([z for z, _ in places]))
    for (z, t), index in np.ndenumerate(found.images):
        assert images[index].file == f"{z} {t}"
    expected = times - times.min()
    assert found.times is not None
    np.testing.assert_allclose(found.times, expected.mean(axis=0), atol=2e-6)
    assert (found.slice_times is None) == (np.ptp(times, axis=0).max() < 0.05)
    if found.slice_times is not None:
        np.testing.assert_allclose(found.slice_times, expected, atol=2e-6)


@given(st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)), st.integers(-12 * 60, 14 * 60))
def test_moments_are_those_of_the_calendar(when: datetime, offset: int) -> None:
    zone = f"{'-' if offset < 0 else '+'}{abs(offset) // 60:02d}{abs(offset) % 60:02d}"
    expected = (when - datetime(1, 1, 1)) // (datetime(1, 1, 1, 0, 0, 0, 1) - datetime(1, 1, 1))
    expected += 86400 * MICROSECONDS  # ordinals begin with 1
    text = when.strftime("%Y%m%d%H%M%S.%f").zfill(21)
    assert dicom_datetime(text) == Moment(expected, False)
    utc = Moment(expected - offset * 60 * MICROSECONDS, True)
    assert dicom_datetime(text + zone) == utc
    assert day_time(text[:8], text[8:], zone) == utc


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("10", 36000), ("1030", 37800), ("103059.5", 37859.5), ("10:30:59", 37859), ("235960", 86400)],
)
def test_times_of_day_of_any_precision(time: str, seconds: float) -> None:
    assert day_time("", time) == Moment(int(seconds * MICROSECONDS), False)


@pytest.mark.parametrize("time", ["", "24", "1260", "noon", "10.5", "103059.1234567"])
def test_what_is_no_time_of_day(time: str) -> None:
    assert day_time("20240101", time) is None
    assert day_time("20241301", "10") is None


# --- bad files --------------------------------------------------------------------------------


def damaged(folder: Path, change: Callable[[bytes], bytes]) -> str:
    """The reason for which a damaged copy of an image is not used."""
    one = scan()
    write_classic(folder, one)
    extra = scan(times=[0.0, 2.0, 4.5, 9.0, 20.0])
    path = image_file(folder, extra, 0, 4)
    path.write_bytes(change(path.read_bytes()))
    found = find_series(folder)
    assert read_quietly(folder).times.size == 4
    assert path.name in good("info", folder).output
    return reasons(found)["extra"]


def read_quietly(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read_series(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c[:-7], "is truncated: its pixels should take 60 bytes, 53 are left"),
        (lambda c: c[:500], "ends within its header, it is truncated"),
        (lambda c: c[:200], "ends within its header, it is truncated"),
        (lambda c: b"", "is empty"),
        (lambda c: c[132:], "is not DICOM"),
        (lambda c: b"x" * 500, "is not DICOM"),
        (lambda c: c.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2\0\0\0"), "are implicit"),
        (lambda c: c.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.2\0"), "byte order"),
        (lambda c: c.replace(b"\x20\x00\x32\x00DS", b"\x20\x00\x31\x00DS"), "lacks ImagePosition"),
        (lambda c: c.replace(b"\x20\x00\x37\x00DS", b"\x20\x00\x37\x00??"), "no element can begin"),
        (lambda c: c.replace(b"1.5\\0.75", b"one\\half"), "PixelSpacing 'one"),
        (
            lambda c: c.replace(
                b"\x28\x00\x10\x00US\x02\x00\x05", b"\x28\x00\x10\x00US\x02\x00\x06"
            ),
            "72|60",
        ),
    ],
)
def test_a_bad_file_is_a_listed_problem(
    tmp_path: Path, change: Callable[[bytes], bytes], reason: str
) -> None:
    assert re.search(reason, damaged(tmp_path, change))


@given(at=st.integers(0, 1200), byte=st.integers(0, 255))
@settings(max_examples=150, deadline=None)
def test_a_damaged_byte_is_never_a_crash(at: int, byte: int) -> None:
    content = bytearray(_CONTENT)
    content[at % len(content)] = byte
    with contextlib.suppress(NotReadable):
        HeaderReader().read(io.BytesIO(bytes(content)), "x")


def _content() -> bytes:
    stream = io.BytesIO()
    classic(scan(), 0, 0).save_as(stream, enforce_file_format=True)
    return stream.getvalue()


_CONTENT = _content()


def test_a_frame_without_a_group_is_a_problem(tmp_path: Path) -> None:
    path = write_enhanced(tmp_path / "a.dcm", scan())
    dataset = pydicom.dcmread(path)
    del dataset.PerFrameFunctionalGroupsSequence[3:]
    dataset.save_as(path)
    assert reasons(find_series(tmp_path)) == {"a.dcm": "has 12 frames, but groups for 3 of them"}
    with pytest.raises(KetyError, match="is a file without CT or MR images in DICOM"):
        read_series(path)


def test_links_and_pipes_in_a_folder(tmp_path: Path) -> None:
    paths = write_classic(tmp_path / "real", scan())
    folder = tmp_path / "study"
    folder.mkdir()
    for path in paths:
        (folder / path.name).symlink_to(path)
    (folder / "loop").symlink_to(folder)
    (folder / "nowhere").symlink_to(folder / "gone")
    os.mkfifo(folder / "pipe")
    found = find_series(folder)
    assert found.series[0].frames == 4
    assert reasons(found) == {
        "loop": "is a link to a folder or to nothing, not followed",
        "nowhere": "is a link to a folder or to nothing, not followed",
        "pipe": "is no regular file",
    }


# --- the reader of headers against pydicom ----------------------------------------------------


@pytest.mark.parametrize("syntax", ["implicit", "explicit", "big", "deflated"])
def test_headers_are_those_that_pydicom_reads(syntax: str) -> None:
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    dataset = classic(scan("MR"), 1, 2)
    inner = Dataset()
    inner.CodeValue, inner.CodeMeaning = "1", "x" * 40
    inner.ConceptCodeSequence = [Dataset()]
    dataset.ProcedureCodeSequence = [inner, Dataset()]
    dataset["ProcedureCodeSequence"].is_undefined_length = True
    dataset.add_new(0x00091001, "UN", b"\1" * 70_000)
    kind = {
        "implicit": ImplicitVRLittleEndian,
        "big": ExplicitVRBigEndian,
        "deflated": DeflatedExplicitVRLittleEndian,
    }.get(syntax)
    if kind is not None:
        dataset.file_meta.TransferSyntaxUID = kind
    stream = io.BytesIO()
    order = {"implicit_vr": syntax == "implicit", "little_endian": syntax != "big"}
    if kind is None or syntax == "deflated":
        order = {}
    pydicom.dcmwrite(stream, dataset, enforce_file_format=True, **order)
    stream.seek(0)
    expected = pydicom.dcmread(stream)
    tags = [e.tag for e in expected if e.VR not in ("SQ", "OW", "OB", "UN")]
    binary = {int(e.tag): e.VR.encode() for e in expected}
    found = read_elements(stream, tags, binary, [dataset.SOPClassUID])
    for tag in tags:
        value = expected[tag].value
        words = [str(v) for v in value] if expected[tag].VM > 1 else [str(value)]
        assert found.values[int(tag)] == "\\".join(words), expected[tag].keyword
    if syntax != "deflated":
        content = stream.getvalue()[found.offset :]
        assert content == dataset.PixelData or syntax == "big"
        assert found.length == len(dataset.PixelData)


# --- archives ---------------------------------------------------------------------------------


def tarred(path: Path, folder: Path, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        tar.add(folder, "study")
    return path


def zipped(path: Path, folder: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted(folder.iterdir()):
            packed.write(file, f"study/{file.name}")
    return path


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tgz", "a.tar.bz2", "A.TAR.XZ"])
def test_an_archive_reads_as_its_folder(tmp_path: Path, name: str) -> None:
    one = scan()
    write_classic(tmp_path / "study", one)
    path = tmp_path / name
    if name.endswith("zip"):
        zipped(path, tmp_path / "study")
    else:
        mode = {"a.tar": "w", "a.tgz": "w:gz", "a.tar.bz2": "w:bz2"}.get(name, "w:xz")
        tarred(path, tmp_path / "study", mode)
    read = read_series(path)
    np.testing.assert_array_equal(read.data, one.stored.astype(int) - 1024)
    assert reasons(find_series(path)) == {}


def test_path_tricks_are_listed_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = scan()
    write_classic(tmp_path / "study", one)
    work = tmp_path / "work"
    temporary = tmp_path / "temporary"
    work.mkdir()
    temporary.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    path = tarred(tmp_path / "evil.tar", tmp_path / "study", "w")
    content = (tmp_path / "study" / os.listdir(tmp_path / "study")[0]).read_bytes()
    with tarfile.open(path, "a") as tar:
        for name, kind, target in (
            ("../outside", tarfile.REGTYPE, ""),
            ("/tmp/absolute", tarfile.REGTYPE, ""),
            ("study/../../x", tarfile.REGTYPE, ""),
            ("C:\\x\\y", tarfile.REGTYPE, ""),
            ("link", tarfile.SYMTYPE, "/etc/passwd"),
            ("hard", tarfile.LNKTYPE, "/etc/passwd"),
            ("device", tarfile.CHRTYPE, ""),
            ("pipe", tarfile.FIFOTYPE, ""),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            member.size = len(content) if kind == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(content) if member.size else None)
    before = sorted(tmp_path.rglob("*"))
    found = find_series(path)
    assert {name: reason.split(",")[0] for name, reason in reasons(found).items()} == {
        "../outside": "has a path that leads out of the archive",
        "/tmp/absolute": "has an absolute path",
        "study/../../x": "has a path that leads out of the archive",
        "C:\\x\\y": "has an absolute path",
        "link": "is a link",
        "hard": "is a link",
        "device": "is a link",
        "pipe": "is a link",
    }
    np.testing.assert_array_equal(read_quietly(path).data, one.stored.astype(int) - 1024)
    assert sorted(tmp_path.rglob("*")) == before


def test_path_tricks_in_a_zip(tmp_path: Path) -> None:
    one = scan()
    write_classic(tmp_path / "study", one)
    path = zipped(tmp_path / "a.zip", tmp_path / "study")
    with zipfile.ZipFile(path, "a") as packed:
        packed.writestr("../outside", _CONTENT)
        packed.writestr("/absolute", _CONTENT)
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        packed.writestr(link, "/etc/passwd")
        with pytest.warns(UserWarning, match="Duplicate name"):
            packed.writestr(packed.infolist()[0].filename, _CONTENT)
    words = {name: reason.split(",")[0] for name, reason in reasons(find_series(path)).items()}
    assert words.pop("../outside") == "has a path that leads out of the archive"
    assert words.pop("/absolute") == "has an absolute path"
    assert words.pop("link") == "is a link"
    assert list(words.values()) == ["has the name of an earlier member"]
    np.testing.assert_array_equal(read_quietly(path).data, one.stored.astype(int) - 1024)


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.xz"])
def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(archives, "HARMLESS_BYTES", 1 << 20)
    path, size = tmp_path / f"bomb.{kind}", 8 << 20
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            packed.writestr("zeros", bytes(size))
    else:
        with tarfile.open(path, f"w:{kind[4:]}") as tar:  # type: ignore[call-overload]
            member = tarfile.TarInfo("zeros")
            member.size = size
            tar.addfile(member, io.BytesIO(bytes(size)))
    with pytest.raises(KetyError, match="is refused, it holds more than 200 times its size"):
        find_series(path)
    monkeypatch.setattr(archives, "MOST_BYTES", 1 << 20)
    with pytest.raises(KetyError, match="is refused, it holds more than 0 GiB"):
        find_series(path)


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MOST_FILES", 5)
    write_classic(tmp_path / "study", scan())
    for path in (
        zipped(tmp_path / "a.zip", tmp_path / "study"),
        tarred(tmp_path / "a.tar", tmp_path / "study", "w"),
    ):
        with pytest.raises(KetyError, match="is refused, it holds more than 5 files"):
            find_series(path)


def test_a_zip_that_lies_about_a_size_is_listed(tmp_path: Path) -> None:
    one = scan()
    write_classic(tmp_path / "study", one)
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted((tmp_path / "study").iterdir()):
            packed.write(file, file.name)
        packed.writestr("liar", bytes(1 << 20))
    content = path.read_bytes()
    assert content.count(struct.pack("<L", 1 << 20)) == 2
    path.write_bytes(content.replace(struct.pack("<L", 1 << 20), struct.pack("<L", 100)))
    assert reasons(find_series(path)) == {
        "liar": "is damaged in the archive (Bad CRC-32 for file 'liar')"
    }


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.xz"])
def test_a_damaged_archive_is_a_clear_error(tmp_path: Path, name: str) -> None:
    write_classic(tmp_path / "study", scan())
    path = tmp_path / name
    path.write_bytes(b"hello, world " * 100)
    with pytest.raises(KetyError, match="is damaged or no such archive"):
        find_series(path)
    if name.endswith("zip"):
        zipped(path, tmp_path / "study")
    else:
        tarred(path, tmp_path / "study", {"a.tar": "w", "a.tar.gz": "w:gz"}.get(name, "w:xz"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(KetyError, match="is damaged or no such archive"):
        find_series(path)


# --- privacy ----------------------------------------------------------------------------------


def test_no_name_is_shown(tmp_path: Path) -> None:
    one = scan(description="Perfusion Mustermann Erika kv")
    folder = tmp_path / "Mustermann_Erika" / "KH-4711-X"
    paths = write_classic(folder, one)
    (folder / "copy_of_Erika").write_bytes(paths[0].read_bytes())
    (folder / f"{PATIENT_ID}.txt").write_text("x")
    with pytest.warns(UserWarning, match="1 file beside it is not used") as heard:
        series = read_series(tmp_path)
    shown = good("info", tmp_path).output + run("fit", tmp_path).output
    texts = [shown, *(str(w.message) for w in heard), repr(find_series(tmp_path)), series.source]
    with pytest.raises(KetyError) as refused:
        read_series(tmp_path, series="none of them")
    for text in (*texts, str(refused.value)):
        for word in ("mustermann", "erika", "4711", BORN):
            assert word not in text.lower()
    assert "Perfusion … … kv" in shown
    assert NAME.partition("^")[0] == "Mustermann"


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        ("ISO_IR 192", "Müller^Änne"),
        ("ISO_IR 100", "Müller^Änne"),
        ("\\ISO 2022 IR 87", "山田^太郎"),
    ],
)
def test_names_of_any_script_are_not_shown(tmp_path: Path, character_set: str, name: str) -> None:
    def edit(dataset: Dataset, z: int, t: int) -> None:
        dataset.SpecificCharacterSet = character_set.split("\\")
        dataset.PatientName = name
        dataset.SeriesDescription = f"Leber {name.replace('^', ' ')}" if name[0] == "M" else "Leber"

    folder = tmp_path / name.replace("^", " ")
    write_classic(folder, scan(), edit)
    (folder / "readme").write_text("x")
    shown = good("info", tmp_path).output
    assert "Leber" in shown
    assert not any(part.lower() in shown.lower() for part in name.split("^"))
