"""Input curves and frame times from CSV files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kety.errors import KetyError
from kety.inputs import InputFunction, read_times

FolderOf = Callable[[str], Path]


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "aif.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("header", "site", "factor"),
    [
        ("time_s,cb_mM", "blood", 1),
        ("time_min,cp_mM", "plasma", 60),
        ("time_ms,ca_HU", "blood", 1e-3),
        ("t_s,blood_HU", "blood", 1),
        ("Time (s),Cp [mmol/L]", "plasma", 1),
        ("times_sec,aif_plasma", "plasma", 1),
        ("time [min],whole blood (mM)", "blood", 60),
        ("time_s,blood_plasma_mM", "plasma", 1),
    ],
)
def test_header_names_unit_and_site(tmp_path: Path, header: str, site: str, factor: float) -> None:
    aif = InputFunction.from_csv(write(tmp_path, f"{header}\n0,0\n1,5\n3,2\n"))
    np.testing.assert_allclose(aif.times, np.array([0, 1, 3]) * factor)
    np.testing.assert_array_equal(aif.concentration, [0, 5, 2])
    assert aif.site == site
    assert aif.name == "aif.csv"


@pytest.mark.parametrize(
    "text",
    [
        "time_s;cb_mM\n0;0\n1;5\n3;2\n",
        "time_s\tcb_mM\n0\t0\n1\t5\n3\t2",
        "\ufefftime_s,cb_mM\r\n0,0\r\n1,5\r\n3,2\r\n",
        "# measured\n\ntime_s, cb_mM\n0,0\n# half way\n1, 5\n3,2\n\n",
        '"time_s","cb_mM","note"\n0,0,"a, b"\n1,5,\n3,2,c\n',
        "frame,label,signal_au,ct_mM,time_s,cb_mM\nx,y,z,,0,0\nx,y,z,,1,5\nx,y,z,,3,2\n",
        "time_min,time,cb_mM\n0,a,0\n0.016666666666666666,b,5\n0.05,c,2\n",
    ],
)
def test_variants_of_csv(tmp_path: Path, text: str) -> None:
    aif = InputFunction.from_csv(write(tmp_path, text))
    np.testing.assert_allclose(aif.times, [0, 1, 3])
    np.testing.assert_array_equal(aif.concentration, [0, 5, 2])


def test_options_say_what_the_header_does_not(tmp_path: Path) -> None:
    path = write(tmp_path, "t,concentration,ROI 1\n0,0,1\n1,5,2\n")
    aif = InputFunction.from_csv(
        path, site="plasma", time_unit="min", hematocrit=0.4, interpolation="linear", name="mine"
    )
    np.testing.assert_array_equal(aif.times, [0, 60])
    assert (aif.site, aif.hematocrit, aif.interpolation, aif.name) == (
        "plasma",
        0.4,
        "linear",
        "mine",
    )
    other = InputFunction.from_csv(path, column="roi 1", site="blood", time_unit="s")
    np.testing.assert_array_equal(other.concentration, [1, 2])


def test_site_chooses_between_blood_and_plasma(tmp_path: Path) -> None:
    path = write(tmp_path, "time_s,cb_mM,cp_mM\n0,0,0\n1,3,5\n")
    assert InputFunction.from_csv(path, site="plasma").concentration[1] == 5
    assert InputFunction.from_csv(path, site="blood").concentration[1] == 3
    assert InputFunction.from_csv(path, column="cp_mM").site == "plasma"


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "is empty"),
        ("# only a comment\n\n", {}, "is empty"),
        (b"\xff\xfet\x00i\x00m\x00e\x00", {}, "not UTF-8"),
        (b"\x1f\x8b\x08\x00\xe9", {}, "not UTF-8"),
        ("0,0\n1,5\n", {}, "line 1: found numbers where the header should be"),
        ("time_s,cb_mM\n", {}, "no rows"),
        ("time_s,cb_mM\n0,0\n", {}, "at least 2 samples"),
        ("time_s,cb_mM\n0,0\n1,5\n2", {}, "line 4: found 1 cells, expected 2"),
        ("time_s,cb_mM\n0,0\n1,5,7\n", {}, "line 3: found 3 cells"),
        ('time_s,cb_mM\n0,0\n1,"5\n', {}, "line 3: not CSV"),
        ("# a\ntime_s,cb_mM\n0,0\n1,high\n", {}, "line 4, column 'cb_mM': found 'high'"),
        ("time_s,cb_mM\n0,0\n1,\n", {}, "found ''"),
        ("time_s,cb_mM\n0,0\n1,nan\n", {}, "found 'nan'"),
        ("time_s,cb_mM\n0,0\n1_0,3\n", {}, "found '1_0'"),
        ("time_s;cb_mM\n0;0\n1;0,5\n", {}, "found '0,5', expected .* decimal point"),
        ("time_s,cb_mM\n0,0\n2,5\n1,3\n", {}, r"aif\.csv: input times must increase strictly"),
        ("time_s,cb_mM\n0,0\n1,0\n", {}, "zero everywhere"),
        ("time_s,cb_mM\n0,0\n1,5\n", {"column": "cp"}, "no column 'cp'.*'time_s', 'cb_mM'"),
        ("time_s,cb_mM\n0,0\n1,5\n", {"site": "plasma"}, "no plasma column"),
        ("time_s,cb_mM\n0,0\n1,5\n", {"site": "serum"}, "blood, plasma"),
        ("time_s,cb_mM\n0,0\n1,5\n", {"column": "cb_mM", "site": "plasma"}, "is blood, but site"),
        ("time_s,cb_mM\n0,0\n1,5\n", {"time_unit": "min"}, "is in s, but time_unit is 'min'"),
        ("time,cb_mM\n0,0\n1,5\n", {}, "does not name its unit"),
        ("time,cb_mM\n0,0\n1,5\n", {"time_unit": "h"}, "unknown time unit 'h'"),
        ("frame,cb_mM\n0,0\n1,5\n", {}, "no time column among 'frame', 'cb_mM'"),
        ("time_index,cb_mM\n0,0\n1,5\n", {}, "no time column"),
        ("time_s,signal_au\n0,0\n1,5\n", {}, "no input column among"),
        ("time_s,concentration\n0,0\n1,5\n", {}, "whether it is blood or plasma"),
        ("time_s,cb_mM,cp_mM\n0,0,0\n1,5,9\n", {}, "several .*'cb_mM', 'cp_mM'"),
        ("time_s,cb_mM,cb_mM\n0,0,0\n1,5,9\n", {"column": "cb_mM"}, "two columns"),
    ],
)
def test_bad_files(
    tmp_path: Path, text: str | bytes, options: dict[str, str], message: str
) -> None:
    with pytest.raises(KetyError, match=message):
        InputFunction.from_csv(write(tmp_path, text), **options)


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    for read in (InputFunction.from_csv, read_times):
        with pytest.raises(FileNotFoundError, match=r"cannot read .*nothing\.csv"):
            read(tmp_path / "nothing.csv")
        with pytest.raises(OSError, match="cannot read"):
            read(tmp_path)


@pytest.mark.parametrize(
    ("case", "column", "site", "size", "end"),
    [
        ("dcemrijl_invivo/aif.csv", None, "plasma", 25, 24 * 16.43),
        ("qiba6/aif.csv", "cb_mM", "blood", 1321, 660.0),
        ("madym_calibration/curves.csv", "aif_cp_mM", "plasma", 100, 495.0),
        ("madym_calibration/curves.csv", "pif_cp_mM", "plasma", 100, 495.0),
    ],
)
def test_files_of_other_groups(
    reference: FolderOf, case: str, column: str | None, site: str, size: int, end: float
) -> None:
    folder, file = case.split("/")
    aif = InputFunction.from_csv(reference(folder) / file, column=column)
    assert aif.site == site
    assert aif.times.shape == (size,)
    assert aif.times[-1] == pytest.approx(end, rel=1e-6)


def test_ambiguous_files_of_other_groups(reference: FolderOf) -> None:
    with pytest.raises(KetyError, match="'aif_cp_mM', 'pif_cp_mM'"):
        InputFunction.from_csv(reference("madym_calibration") / "curves.csv")
    qiba = reference("qiba6") / "aif.csv"
    with pytest.raises(KetyError, match="'cb_mM', 'cp_mM'"):
        InputFunction.from_csv(qiba)
    blood = InputFunction.from_csv(qiba, site="blood", hematocrit=0.45)
    plasma = InputFunction.from_csv(qiba, site="plasma", hematocrit=0.45)
    np.testing.assert_allclose(blood.plasma().concentration, plasma.concentration, rtol=1e-6)
    with pytest.raises(KetyError, match="one curve per file"):
        InputFunction.from_csv(reference("osipi_tofts") / "curves_delay0.csv")


def test_frame_times_of_other_groups(reference: FolderOf) -> None:
    regular = read_times(reference("madym_abdomen") / "times.csv")
    assert regular.shape == (75,)
    assert regular[1] == 4.9688
    irregular = read_times(reference("pkmodeling_qinbreast001") / "times.csv")
    assert irregular.shape == (32,)
    np.testing.assert_allclose(irregular[:2], [0, 56.9425])


@pytest.mark.parametrize(
    ("text", "unit", "expected"),
    [
        ("0\n1.5\n4\n", None, [0, 1.5, 4]),
        ("# s\n0\n1\n", "min", [0, 60]),
        ("time_s\n3\n4\n", None, [3, 4]),
        ("frame;t_min\n1;0\n2;0.5\n", None, [0, 30]),
        ("time\n0\n500\n", "ms", [0, 0.5]),
        ("time_s\n7\n", None, [7]),
    ],
)
def test_frame_times(tmp_path: Path, text: str, unit: str | None, expected: list[float]) -> None:
    np.testing.assert_allclose(read_times(write(tmp_path, text), time_unit=unit), expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("0,1,2\n", "header"),
        ("0\n1\nx\n", "line 3, column 'time': found 'x'"),
        ("0\n2\n1\n", r"aif\.csv: times must increase strictly; found 1 s at index 2"),
        ("time\n0\n1\n", "does not name its unit"),
        ("frame\n0\n1\n", "header|no time column"),
    ],
)
def test_bad_frame_times(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(KetyError, match=message):
        read_times(write(tmp_path, text))
