"""Reading and writing: exact round trips, and a clear error for every way a file can be wrong."""

from __future__ import annotations

import errno
import gzip
import inspect
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kety import io
from kety.errors import KetyError
from kety.io import bids
from kety.io.atomic import Batch, OutputError, output_folder
from kety.io.frame_times import read_times
from kety.series import Series, Volume

Reference = Callable[[str], Path]
nib: Any = nibabel  # its annotations cover half of it
STATUS = {
    "units": "1",
    "long_name": "Outcome of the fit",
    "osipi": "",
    "flag_values": np.array([0, 1, 5], np.uint8),
    "flag_meanings": "outside converged not_finite",
}
# Rotated about two axes, left-handed, anisotropic: exact in float32, as a file's affine is.
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = np.array([[0.8, -0.48, 0.36], [0.6, 0.64, -0.48], [0, 0.6, 0.8]]) @ np.diag(
    [-1.5, 2.0, 4.0]
)
OBLIQUE[:3, 3] = [12.5, -80.25, 33.0]
OBLIQUE = OBLIQUE.astype(np.float32).astype(np.float64)


def make_series(dtype: Any = np.float32, **changes: Any) -> Series:
    random = np.random.default_rng(0)
    data = (1000 * random.standard_normal((5, 4, 3, 6))).astype(dtype)
    if data.dtype.kind == "f":
        data[0, 0, 0] = np.nan
        data[1, 1, 1, 2] = np.inf
    fields: dict[str, Any] = {
        "data": data,
        "times": [0.0, 2.5, 5.1, 9.0, 1 / 3 + 10, 60.0],
        "affine": OBLIQUE,
        "modality": "MR",
        "acquisition": {"repetition_time": 0.004, "flip_angle": 20.0, "relaxivity": 3.4},
    }
    return Series(**(fields | changes))


def make_maps() -> xr.Dataset:
    random = np.random.default_rng(1)
    maps: dict[str, Any] = {}
    for name in ("ktrans", "ktrans_se", "delay"):
        values = random.random((5, 4, 3)).astype(np.float32)
        values[0] = np.nan
        attrs = {"units": "s" if name == "delay" else "1/min", "long_name": name, "osipi": "Q.1"}
        maps[name] = (("x", "y", "z"), values, attrs)
    maps["status"] = (("x", "y", "z"), random.integers(0, 2, (5, 4, 3), np.uint8), STATUS)
    maps["fitted"] = (("x", "y", "z", "time"), random.random((5, 4, 3, 6)), {"units": "mM"})
    return xr.Dataset(maps, attrs={"model": "extended_tofts", "version": "1.2"})


TIMES = make_series().times


def save(path: Path, data: Any, affine: Any = OBLIQUE, **header: Any) -> Path:
    image = nib.Nifti1Image(data, affine)
    for key, value in header.items():
        image.header[key] = value
    image.to_filename(path)
    return path


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# The contract of every format -----------------------------------------------------------------


@pytest.fixture(
    params=[(f, e) for f in io.FORMATS if not f.folders for e in f.extensions], ids=lambda p: p[1]
)
def extension(request: pytest.FixtureRequest) -> str:
    return str(request.param[1])


COLLECTION = (
    *("read", "read_series", "read_grid", "read_mask", "write_mask"),
    *("holds_mask", "maps_in", "map_writer"),
)


@pytest.mark.parametrize("known", io.FORMATS, ids=lambda known: known.name)
def test_a_format_provides_the_codec(known: io.Format) -> None:
    wants = (io.Collection, COLLECTION) if known.folders else (io.Codec, ("read", "write"))
    protocol, names = wants
    for name in names:
        wanted = inspect.signature(getattr(protocol, name), eval_str=False).parameters
        found = inspect.signature(getattr(known.codec, name), eval_str=False).parameters
        assert list(found) == [key for key in wanted if key != "self"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.uint16, np.uint8])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_series_comes_back_exactly(
    tmp_path: Path, extension: str, dtype: Any, order: Any
) -> None:
    series = make_series(dtype)
    series = make_series(dtype, data=np.array(series.data, order=order))
    path = tmp_path / "new" / f"sub-01_dce{extension}"
    paths = io.write_series(series, path)
    assert paths == [path, tmp_path / "new" / "sub-01_dce.json"]
    back = io.read_series(path)
    np.testing.assert_array_equal(back.data, series.data)
    kept = np.dtype(dtype).kind == "f" or dtype is np.int16
    assert back.data.dtype == (dtype if kept else np.float32)
    np.testing.assert_array_equal(back.times, series.times)
    np.testing.assert_array_equal(back.affine, series.affine)
    assert (back.modality, back.codes, back.source) == ("MR", (1, 1), path.name)
    assert back.acquisition == {"repetition_time": 0.004, "flip_angle": 20.0}
    assert back.times_from == "VolumeTiming in its sidecar"


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.int64])
def test_a_volume_comes_back_exactly(tmp_path: Path, extension: str, dtype: Any) -> None:
    data = np.arange(24).reshape(4, 3, 2).astype(dtype)
    path = tmp_path / f"t1{extension}"
    assert io.write_volume(Volume(data, OBLIQUE, codes=(0, 4)), path) == [path]
    back = io.read_volume(path)
    np.testing.assert_array_equal(back.data, data)
    np.testing.assert_array_equal(back.affine, OBLIQUE)
    assert back.codes == (0, 4)


def test_equal_input_gives_equal_bytes(tmp_path: Path, extension: str) -> None:
    first = io.write_series(make_series(), tmp_path / f"a{extension}")
    second = io.write_series(make_series(), tmp_path / f"b{extension}")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(cut=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_a_clear_error(tmp_path: Path, extension: str, cut: float) -> None:
    path = tmp_path / f"dce{extension}"
    whole = io.write_series(make_series(), path)[0].read_bytes()
    path.write_bytes(whole[: int(cut * len(whole))])
    with pytest.raises(KetyError, match=f"dce{extension}: is (truncated|empty).* again"):
        io.read_series(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(where=st.integers(0, 5000), flip=st.integers(1, 255))
def test_a_damaged_byte_is_an_error_or_harmless(
    tmp_path: Path, extension: str, where: int, flip: int
) -> None:
    path = tmp_path / f"dce{extension}"
    damaged = bytearray(io.write_series(make_series(), path)[0].read_bytes())
    damaged[where % min(len(damaged), 400)] ^= flip
    path.write_bytes(damaged)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with suppress(KetyError):
            io.read_series(path)


def test_no_file_no_format_and_no_image_are_told_apart(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"dce{extension}"
    with pytest.raises(KetyError, match="there is no such file"):
        io.read_series(path)
    with pytest.raises(KetyError, match=r"unknown file extension; valid: \.nii\.gz, \.nii"):
        io.read_series(tmp_path / "dce.mha")
    path.write_bytes(b"hello, world " * 100)
    with pytest.raises(KetyError, match=r"is not a NIfTI file; convert it to"):
        io.read_series(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(KetyError, match="is a folder"):
        io.read_series(path)


# NIfTI ----------------------------------------------------------------------------------------


def test_scaling_is_applied_in_double_precision(tmp_path: Path) -> None:
    raw = np.arange(-60, 60, dtype=np.int16).reshape(5, 4, 3, 2)
    path = save(tmp_path / "ct.nii", raw, scl_slope=0.1, scl_inter=-1024.0, xyzt_units=10)
    # nibabel resets the scaling of an image in memory; set it in the file itself.
    content = bytearray(path.read_bytes())
    content[112:120] = np.array([0.1, -1024], "<f4").tobytes()
    path.write_bytes(content)
    series = io.read_series(path, times=3.0, modality="CT")
    expected = (raw * np.float64(np.float32(0.1)) - 1024).astype(np.float32)
    np.testing.assert_array_equal(series.data, expected)
    np.testing.assert_array_equal(series.data, nib.load(path).get_fdata(dtype=np.float32))
    assert series.times.tolist() == [0.0, 3.0]


@pytest.mark.parametrize(
    ("slope", "inter", "top", "kept"),
    [
        (1.0, -1024.0, 3071, True),
        (2.0, 0.0, 16_000, True),
        (2.0, 0.0, 17_000, False),
        (0.5, 0.0, 100, False),
        (1.0, 0.5, 100, False),
    ],
)
def test_a_series_of_whole_numbers_takes_half_the_memory(
    tmp_path: Path, slope: float, inter: float, top: int, kept: bool
) -> None:
    raw = np.linspace(0, top, 120).round().astype(np.int16).reshape(5, 4, 3, 2)
    path = save(tmp_path / "ct.nii", raw)
    content = bytearray(path.read_bytes())
    content[112:120] = np.array([slope, inter], "<f4").tobytes()
    path.write_bytes(content)
    series = io.read_series(path, times=3.0, modality="CT")
    assert series.data.dtype == (np.int16 if kept else np.float32)
    np.testing.assert_array_equal(series.data, nib.load(path).get_fdata(dtype=np.float32))


def test_plain_floats_stay_on_disk_and_the_file_is_never_changed(tmp_path: Path) -> None:
    path = tmp_path / "dce.nii"
    io.write_series(make_series(), path)
    before = path.read_bytes()
    series = io.read_series(path)
    base: Any = series.data
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    assert series.data.flags.f_contiguous
    series.data[...] = 0
    assert path.read_bytes() == before


def test_big_endian_nifti2_and_other_units_are_read(tmp_path: Path) -> None:
    header = nib.Nifti2Header(endianness=">")
    data = np.arange(24, dtype=">f4").reshape(2, 3, 2, 2)
    image = nib.Nifti2Image(data, np.diag([1e-3, 1e-3, 2e-3, 1]), header)
    image.header.set_xyzt_units("meter", "msec")
    image.header["pixdim"][4] = 2500
    image.to_filename(tmp_path / "dce.nii.gz")
    series = io.read_series(tmp_path / "dce.nii.gz", modality="CT")
    np.testing.assert_array_equal(series.data, data)
    assert series.data.dtype.isnative
    np.testing.assert_allclose(series.affine, np.diag([1, 1, 2, 1]), rtol=1e-6)
    assert series.times.tolist() == [0.0, 2.5]
    assert series.times_from == "header, 2.5 s between frames"


def test_a_damaged_compressed_body_fails_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "dce.nii.gz"
    io.write_series(make_series(), path)
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(content)
    with pytest.raises(KetyError, match=r"dce\.nii\.gz: cannot be read as NIfTI \(CRC"):
        io.read_series(path)


def test_a_header_that_promises_terabytes_is_refused_before_they_are_allocated(
    tmp_path: Path,
) -> None:
    path = save(tmp_path / "dce.nii", np.zeros((2, 2, 2, 2), np.float32))
    content = bytearray(path.read_bytes())
    content[42:50] = np.array([32000] * 4, "<i2").tobytes()
    (tmp_path / "dce.nii.gz").write_bytes(gzip.compress(bytes(content)))
    path.write_bytes(content)
    for name in ("dce.nii", "dce.nii.gz"):
        with pytest.raises(KetyError, match="is truncated: its header promises 4194304000000"):
            io.read_series(tmp_path / name)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((4, 4, 4), np.float32), r"shape \(4, 4, 4\); a dynamic series has 4"),
        (np.zeros((4, 4, 4, 1, 3), np.float32), r"\(4, 4, 4, 1, 3\) have 5 dimensions"),
        (np.zeros((4, 4, 4, 3), np.complex64), "voxels of type complex64"),
        (np.zeros((4, 4, 4, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")]), "voxels of type"),
    ],
)
def test_what_is_no_series_is_refused(tmp_path: Path, data: Any, message: str) -> None:
    with pytest.raises(KetyError, match=message):
        io.read_series(save(tmp_path / "dce.nii", data), times=1.5, modality="CT")


def test_disagreeing_forms_warn_and_only_the_sform_goes_on(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.ones((2, 2, 2), np.float32), OBLIQUE)
    image.set_sform(OBLIQUE, 4)
    image.set_qform(np.eye(4), 1)
    image.to_filename(tmp_path / "t1.nii")
    with pytest.warns(UserWarning, match="qform and sform disagree"):
        volume = io.read_volume(tmp_path / "t1.nii")
    assert volume.codes == (0, 4)


@pytest.mark.parametrize("codes", [(0, 0), (1, 0), (0, 2), (1, 1), (3, 4)])
def test_codes_are_kept(tmp_path: Path, codes: tuple[int, int]) -> None:
    affine = np.diag([-2.0, 2, 2, 1]) if codes == (0, 0) else OBLIQUE
    image = nib.Nifti1Image(np.ones((3, 4, 5), np.float32), affine)
    image.set_sform(affine, codes[1])
    image.set_qform(affine, codes[0])
    image.to_filename(tmp_path / "in.nii")
    volume = io.read_volume(tmp_path / "in.nii")
    io.write_volume(volume, tmp_path / "out.nii.gz")
    back = nib.load(tmp_path / "out.nii.gz")
    np.testing.assert_allclose(back.affine, volume.affine, atol=2e-5)
    assert (back.header["qform_code"], back.header["sform_code"]) == codes


def test_a_sheared_affine_gets_the_form_that_can_hold_it(tmp_path: Path) -> None:
    sheared = OBLIQUE.copy()
    sheared[0, 1] += 0.5
    io.write_volume(Volume(np.ones((2, 2, 2)), sheared, codes=(1, 0)), tmp_path / "a.nii")
    back = io.read_volume(tmp_path / "a.nii")
    np.testing.assert_array_equal(back.affine, sheared)
    assert back.codes == (0, 1)


# Masks and volumes ----------------------------------------------------------------------------


def test_masks_are_what_is_neither_zero_nor_nan(tmp_path: Path) -> None:
    data = np.array([0, 1, np.nan, -2, 0.5, 0], np.float32).reshape(1, 2, 3)
    mask = io.read_mask(save(tmp_path / "mask.nii", data))
    assert mask.dtype == np.bool_
    assert mask.ravel().tolist() == [False, True, False, True, True, False]
    with pytest.raises(KetyError, match=r"empty\.nii: the mask is empty"):
        io.read_mask(save(tmp_path / "empty.nii", np.zeros((2, 2, 2), np.uint8)))


def test_a_mask_on_another_grid_is_refused(tmp_path: Path) -> None:
    series = make_series(source="dce.nii.gz")
    good = np.ones((5, 4, 3), np.uint8)
    assert io.read_mask(save(tmp_path / "mask.nii", good), like=series).all()
    moved = OBLIQUE + np.array([[0, 0, 0, 2.0]] * 3 + [[0] * 4])
    with pytest.raises(KetyError, match=r"mask\.nii lies on another grid than dce\.nii\.gz.*2 mm"):
        io.read_mask(save(tmp_path / "mask.nii", good, moved), like=series)
    with pytest.raises(KetyError, match=r"\(5, 4, 1\) against \(5, 4, 3\); resample mask\.nii"):
        io.read_mask(save(tmp_path / "mask.nii", good[..., :1]), like=series)


def test_volumes_and_stacks_are_told_apart(tmp_path: Path) -> None:
    stack = save(tmp_path / "vfa.nii", np.ones((3, 3, 2, 4), np.float32))
    assert io.read_volume(stack, stack=True).data.shape == (3, 3, 2, 4)
    with pytest.raises(KetyError, match="has 4 dimensions; one volume has 3"):
        io.read_volume(stack)
    one = save(tmp_path / "t1.nii", np.ones((3, 3, 2, 1), np.float32))
    assert io.read_volume(one).data.shape == (3, 3, 2)
    with pytest.raises(KetyError, match="has 3 dimensions; a stack"):
        io.read_volume(save(tmp_path / "flat.nii", np.ones((3, 3), np.float32)), stack=True)
    assert io.read_volume(tmp_path / "flat.nii").data.shape == (3, 3, 1)


# Times and acquisition ------------------------------------------------------------------------


def read(path: Path, **sidecar: Any) -> Series:
    bids.sidecar_path(path).write_text(json.dumps(sidecar))
    return io.read_series(path, modality="MR")


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A series of 3 frames, 5 s apart by its header."""
    data = np.ones((2, 2, 1, 3), np.float32)
    return save(tmp_path / "dce.nii", data, xyzt_units=10, pixdim=[1, 1, 1, 1, 5, 0, 0, 0])


def test_times_come_from_the_argument_the_sidecar_or_the_header(plain: Path) -> None:
    assert io.read_series(plain, modality="CT").times.tolist() == [0, 5, 10]
    assert read(plain, VolumeTiming=[0, 4, 9]).times.tolist() == [0, 4, 9]
    assert read(plain, FrameTimesStart=[0, 4, 8]).times_from == "FrameTimesStart in its sidecar"
    for times, words in (([0, 1, 7], "given"), (3, "given, 3 s between frames")):
        series = io.read_series(plain, modality="CT", times=times)
        assert series.times_from == words
    table = plain.with_name("times.csv")
    table.write_text("frame,time_min\n0,0\n1,0.5\n2,2\n")
    series = io.read_series(plain, modality="CT", times=table)
    assert (series.times.tolist(), series.times_from) == ([0, 30, 120], "times.csv")


def test_times_that_nobody_says_are_an_error_and_a_default_second_a_warning(
    tmp_path: Path,
) -> None:
    data = np.ones((2, 2, 1, 3), np.float32)
    with pytest.raises(KetyError, match=r"dce\.nii: no frame times: none given, no VolumeTiming"):
        io.read_series(save(tmp_path / "dce.nii", data), modality="CT")
    zero = save(tmp_path / "a.nii", data, xyzt_units=10, pixdim=[1, 1, 1, 1, 0, 0, 0, 0])
    with pytest.raises(KetyError, match="no frame times"):
        io.read_series(zero, modality="CT")
    with pytest.warns(UserWarning, match="also what converters write"):
        io.read_series(save(tmp_path / "b.nii", data, xyzt_units=10), modality="CT")


@pytest.mark.parametrize(
    ("sidecar", "message"),
    [
        ({"VolumeTiming": [0, 1]}, r"VolumeTiming for dce\.nii: times of shape \(2,\) for 3"),
        ({"VolumeTiming": [0, 2, 1]}, "increase strictly"),
        ({"VolumeTiming": "soon"}, "VolumeTiming is 'soon'; expected a list"),
        ({"FlipAngle": 200}, "FlipAngle is 200, expected one positive number of at most 180"),
        ({"FlipAngle": [20, 20]}, r"FlipAngle is \[20, 20\], expected one positive number"),
        ({"RepetitionTimeExcitation": 0}, "RepetitionTimeExcitation is 0"),
        ({"EchoTime": True}, "EchoTime is True"),
    ],
)
def test_bad_sidecars_are_refused(plain: Path, sidecar: dict[str, Any], message: str) -> None:
    with pytest.raises(KetyError, match=message):
        read(plain, **sidecar)


@pytest.mark.parametrize("text", ["{", "[1]", "\xff"])
def test_a_sidecar_that_is_no_json_object_is_refused(plain: Path, text: str) -> None:
    plain.with_suffix(".json").write_bytes(text.encode("latin-1"))
    with pytest.raises(KetyError, match=r"dce\.json: .*repair or remove it"):
        io.read_series(plain, modality="CT")


def test_the_repetition_time_is_the_excitations_or_none(plain: Path) -> None:
    assert read(plain, RepetitionTime=0.004).acquisition == {"repetition_time": 0.004}
    both = read(plain, RepetitionTime=5, RepetitionTimeExcitation=0.006, FlipAngle=12)
    assert both.acquisition == {"repetition_time": 0.006, "flip_angle": 12}
    for value, why in ((5.0, "the time between frames"), (4.0, "too long for an excitation")):
        with pytest.warns(UserWarning, match=f"RepetitionTime .* not used: it is {why}"):
            assert read(plain, RepetitionTime=value).acquisition == {}


def test_modality_and_acquisition_given_win_over_the_sidecar(plain: Path) -> None:
    plain.with_suffix(".json").write_text('{"Modality": "MR", "FlipAngle": 20, "EchoTime": 0.002}')
    series = io.read_series(plain, acquisition={"flip_angle": 15})
    assert (series.modality, series.acquisition["flip_angle"]) == ("MR", 15)
    assert io.read_series(plain, modality="CT").acquisition == {}
    plain.with_suffix(".json").write_text('{"Modality": "PT"}')
    with pytest.raises(KetyError, match="unknown modality 'PT'; valid: CT, MR"):
        io.read_series(plain)
    plain.with_suffix(".json").unlink()
    with pytest.raises(KetyError, match="no modality given"):
        io.read_series(plain)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0\n1.5\n\n# end\n4\n", [0, 1.5, 4]),
        ("\ufefftime\n0\n2\n", [0, 2]),
        ("frame;Time [ms]\n1;0\n2;2500\n", [0, 2.5]),
        ("t_min\tvalue\n0\t7\n1\t8\n", [0, 60]),
        ("frame,frame_label,time_s\n0,0.0,0.0\n1,56942.5,56.9425\n", [0, 56.9425]),
    ],
)
def test_tables_of_times(tmp_path: Path, text: str, expected: list[float]) -> None:
    (tmp_path / "times.csv").write_text(text, encoding="utf-8")
    np.testing.assert_allclose(read_times(tmp_path / "times.csv"), expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("frame,value\n1,2\n", "no column of times among frame, value"),
        ("time_s,time_min\n1,2\n", "more than one column of times"),
        ("0,1\n1,2\n", "2 columns without a header line"),
        ("frame,time\n1,0\n2\n", r"line 3 holds no number in column 2: \['2'\]"),
        ("time\n0\nlate\n", "line 3 holds no number"),
        ("\udcff", "cannot be read as text"),
    ],
)
def test_bad_tables_of_times(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "times.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(KetyError, match=message):
        read_times(tmp_path / "times.csv")
    with pytest.raises(KetyError, match="no such file of frame times"):
        read_times(tmp_path / "none.csv")


# Names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "quantity", "expected"),
    [
        ("sub-01_ses-1_dce.nii.gz", "ktrans", "sub-01_ses-1_model-extendedtofts_Ktrans"),
        ("sub-01_run-2_dce.nii", "vp_se", "sub-01_run-2_model-extendedtofts_desc-se_vp"),
        ("sub-1_desc-moco_dce.nii", "kep", "sub-1_model-extendedtofts_desc-moco_kep"),
        ("sub-1_desc-moco_dce.nii", "kep_se", "sub-1_model-extendedtofts_desc-mocoSe_kep"),
        ("dce.nii.gz", "ktrans", "dce_model-extendedtofts_Ktrans"),
        ("breast_2.v1.nii.gz", "delay", "breast_2.v1_model-extendedtofts_delay"),
        ("", "status", "kety_model-extendedtofts_status"),
    ],
)
def test_names_keep_what_identifies_the_source(source: str, quantity: str, expected: str) -> None:
    assert bids.map_name(source, quantity, model="extended_tofts") == expected


# Maps -----------------------------------------------------------------------------------------


def write(folder: Path, dataset: xr.Dataset | None = None, **options: Any) -> list[Path]:
    arguments: dict[str, Any] = {"affine": OBLIQUE, "source": "sub-01_dce.nii.gz", "times": TIMES}
    return io.write_maps(
        make_maps() if dataset is None else dataset, folder, **(arguments | options)
    )


def test_maps_are_written_with_their_sidecars_and_provenance(tmp_path: Path) -> None:
    maps = make_maps()
    paths = write(tmp_path / "a" / "b", codes=(1, 4), provenance={"command": "kety fit"})
    names = ["Ktrans", "desc-se_Ktrans", "delay", "status", "fitted"]
    stems = [f"sub-01_model-extendedtofts_{name}" for name in names]
    assert [path.name for path in paths] == [f"{stem}.nii.gz" for stem in stems]
    assert files(tmp_path / "a" / "b") == sorted(
        [f"{stem}{end}" for stem in stems for end in (".nii.gz", ".json")]
        + ["dataset_description.json", "fit.json"]
    )
    for path, (name, array) in zip(paths, maps.data_vars.items(), strict=True):
        image = nib.load(path)
        assert image.get_data_dtype() == ("u1" if name == "status" else "f4")
        np.testing.assert_array_equal(image.dataobj, array.to_numpy().astype(image.dataobj.dtype))
        np.testing.assert_array_equal(image.affine, OBLIQUE)
        assert (image.header["qform_code"], image.header["sform_code"]) == (1, 4)
        assert image.header.get_xyzt_units()[0] == "mm"
    sidecar = json.loads(bids.sidecar_path(paths[0]).read_text())
    assert sidecar["Units"] == "1/min"
    assert (sidecar["Quantity"], sidecar["LongName"], sidecar["OSIPI_CAPLEX"]) == (
        "ktrans",
        "ktrans",
        "Q.1",
    )
    assert (sidecar["Model"], sidecar["Sources"]) == ("extended_tofts", ["sub-01_dce.nii.gz"])
    assert "NaN: not estimated" in sidecar["Description"]
    assert sidecar["GeneratedBy"]["Name"] == "kety"
    status = json.loads(bids.sidecar_path(paths[3]).read_text())
    assert status["Levels"] == {"0": "outside", "1": "converged", "5": "not_finite"}
    assert (status["flag_values"], "NaN" in status["Description"]) == ([0, 1, 5], False)
    fit = json.loads((tmp_path / "a" / "b" / "fit.json").read_text())
    assert (fit["command"], fit["version"]) == ("kety fit", "1.2")
    assert fit["Maps"]["ktrans_se"] == f"{stems[1]}.nii.gz"
    description = json.loads((tmp_path / "a" / "b" / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"


def test_written_curves_are_a_series_again(tmp_path: Path) -> None:
    maps = make_maps().assign_coords(time=TIMES)
    series = io.read_series(write(tmp_path, maps, times=None)[-1], modality="MR")
    np.testing.assert_array_equal(series.times, TIMES)
    np.testing.assert_array_equal(series.data, maps.fitted.astype(np.float32))


@settings(max_examples=25, deadline=None)
@given(
    values=st.lists(st.floats(width=32), min_size=8, max_size=8),
    threads=st.sampled_from([1, 3]),
    order=st.sampled_from(["C", "F"]),
)
def test_any_float32_comes_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, values: list[float], threads: int, order: Any
) -> None:
    data = np.array(np.array(values, np.float32).reshape(2, 2, 2), order=order)
    path = write(
        tmp_path_factory.mktemp("maps"),
        xr.Dataset({"kep": (("x", "y", "z"), data), "vp": (("x", "y", "z"), -data)}),
        threads=threads,
    )[0]
    back = io.read_volume(path).data
    np.testing.assert_array_equal(back, data)
    np.testing.assert_array_equal(np.signbit(back), np.signbit(data))


def test_bytes_do_not_depend_on_threads_or_layout(tmp_path: Path) -> None:
    one = write(tmp_path / "1", threads=1)
    maps = make_maps().map(np.asfortranarray, keep_attrs=True)
    assert maps.ktrans.to_numpy().flags.f_contiguous
    many = write(tmp_path / "2", maps, threads=4)
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in many]


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        (xr.Dataset({"ktrans": ("voxel", [1.0])}), {}, r"map ktrans has dimensions \('voxel',\)"),
        (make_maps(), {"times": None}, "map fitted has a time dimension but no times"),
        (make_maps(), {"times": [0, 1]}, "map fitted: times of shape"),
        (make_maps(), {"affine": np.eye(3)}, r"sub-01_dce\.nii\.gz: affine of shape"),
        (make_maps(), {"format": "mha"}, "unknown format 'mha'; valid: nifti"),
        (make_maps().assign(k_trans=make_maps().ktrans, ktra_ns=make_maps().ktrans), {}, "ano"),
    ],
)
def test_maps_that_cannot_be_written_leave_nothing(
    tmp_path: Path, dataset: xr.Dataset, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(KetyError, match=message):
        write(tmp_path, dataset, **options)
    assert files(tmp_path) == []


def test_a_description_of_another_software_is_left_alone(tmp_path: Path) -> None:
    theirs = tmp_path / "dataset_description.json"
    theirs.write_text('{"Name": "raw"}')
    with pytest.warns(UserWarning, match="left as it is"):
        write(tmp_path)
    assert theirs.read_text() == '{"Name": "raw"}'
    theirs.unlink()
    write(tmp_path)
    write(tmp_path)
    assert json.loads(theirs.read_text())["GeneratedBy"][0]["Name"] == "kety"


def test_fit_json_is_json_whatever_it_records(tmp_path: Path) -> None:
    path = bids.write_fit_json(
        tmp_path, {"r": np.float32(0.5), "n": np.nan, "a": np.arange(2), "p": Path("x"), "s": (1,)}
    )
    record = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert record.pop("GeneratedBy")["Name"] == "kety"
    assert record == {"r": 0.5, "n": None, "a": [0, 1], "p": "x", "s": [1]}


# Whole or not at all --------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("at", [0, 1, 5, 11])
def test_a_full_disk_leaves_the_folder_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, at: int
) -> None:
    write(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    calls = iter(range(10**6))

    def fsync(_: int, real: Callable[[int], None] = os.fsync) -> None:
        if next(calls) >= at:
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OutputError, match=r"(json|gz): not written, .* choose another f") as caught:
        write(tmp_path, make_maps() + 1, threads=2)
    assert caught.value.errno == code
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_real_size_limit_leaves_nothing(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    program = f"""
import resource, sys
import numpy as np, xarray as xr
from kety import io
noise = np.random.default_rng(0).random((40, 40, 40), np.float32)
maps = xr.Dataset({{"kep": (("x", "y", "z"), noise), "vp": (("x", "y", "z"), noise * 0)}})
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, {resource.RLIM_INFINITY}))
try:
    io.write_maps(maps, {str(tmp_path)!r}, affine=np.eye(4))
except io.OutputError as error:
    sys.exit(str(error))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert "kety_kep.nii.gz: not written, the file would exceed the allowed size" in done.stderr
    assert files(tmp_path) == []


def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with Batch() as batch:
            batch.write(tmp_path / "a", b"whole")
            with batch.open(tmp_path / "b") as stream:
                stream.write(b"half")
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert files(tmp_path) == []


def test_files_get_the_mode_the_umask_asks_for(tmp_path: Path) -> None:
    with Batch() as batch:
        batch.write(tmp_path / "a", b"x")
    (tmp_path / "b").write_bytes(b"x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_existing_files_are_replaced_only_where_that_is_allowed(tmp_path: Path) -> None:
    (path,) = io.write_volume(Volume(np.ones((2, 2, 2)), OBLIQUE), tmp_path / "t1.nii")
    before = path.read_bytes()
    other = Volume(np.zeros((2, 2, 2)), OBLIQUE)
    with pytest.raises(OutputError, match=r"t1\.nii: exists already; choose another"):
        io.write_volume(other, path, overwrite=False)
    assert path.read_bytes() == before
    io.write_volume(other, path)
    assert not io.read_volume(path).data.any()


def test_places_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file: cannot be the output folder, a file has that"):
        output_folder(tmp_path / "file")
    with pytest.raises(OutputError, match="a part of its path is a file"):
        output_folder(tmp_path / "file" / "maps")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="a folder of that name is in the way"), Batch() as batch:
        batch.write(tmp_path / "folder", b"")
    with pytest.raises(OutputError, match=r"there is no folder .*none; make it"), Batch() as batch:
        batch.write(tmp_path / "none" / "a", b"")
    with pytest.raises(OutputError, match="the name is too long"), Batch() as batch:
        batch.write(tmp_path / ("a" * 400), b"")

    def denied(*_: object, **__: object) -> int:  # a superuser may write anywhere
        raise PermissionError(errno.EACCES, "denied")

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(OutputError, match="cannot be written to; check its perm"), Batch() as batch:
        batch.write(tmp_path / "a", b"")
    assert files(tmp_path) == ["file", "folder"]


# Real files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "shape", "times", "last", "mask"),
    [
        ("dcemrijl_invivo", (192, 192, 1, 25), None, 24 * 16.43, "mask.nii.gz"),
        ("madym_abdomen", (96, 64, 5, 75), "times.csv", None, "tumour_roi.nii.gz"),
        ("pkmodeling_qinbreast001", (5, 3, 1, 32), "times.csv", None, None),
        ("qiba6", (50, 80, 1, 1321), None, 660.0, "labels.nii.gz"),
    ],
)
def test_real_series(
    reference: Reference,
    case: str,
    shape: tuple[int, ...],
    times: str | None,
    last: float | None,
    mask: str | None,
) -> None:
    folder = reference(case)
    series = io.read_series(
        folder / "dce.nii.gz", times=folder / times if times else None, modality="MR"
    )
    assert series.data.shape == shape
    assert series.data.dtype in (np.float32, np.int16)
    np.testing.assert_array_equal(series.data, nib.load(folder / "dce.nii.gz").get_fdata())
    assert series.codes == (0, 2)
    if last is not None:
        assert series.times[-1] == pytest.approx(last, rel=1e-6)
    else:
        table = np.genfromtxt(folder / str(times), delimiter=",", names=True)
        np.testing.assert_array_equal(series.times, table["time_s"])
    if mask:
        chosen = io.read_mask(folder / mask, like=series)
        np.testing.assert_array_equal(series.curves(chosen), series.data[chosen])


def test_real_files_truncated_in_header_and_data(reference: Reference, tmp_path: Path) -> None:
    whole = (reference("madym_abdomen") / "vfa.nii.gz").read_bytes()
    for content, name in ((whole, "vfa.nii.gz"), (gzip.decompress(whole), "vfa.nii")):
        path = tmp_path / name
        for size in (1, 100, 347, 400, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:size])
            with pytest.raises(KetyError, match=f"{name}: is truncated"):
                io.read_volume(path, stack=True)
        path.write_bytes(content)
        assert io.read_volume(path, stack=True).data.shape == (96, 64, 5, 3)


def test_a_real_mask_on_another_grid(reference: Reference) -> None:
    series = io.read_series(reference("dcemrijl_invivo") / "dce.nii.gz", modality="MR")
    with pytest.raises(KetyError, match=r"tumour_roi\.nii\.gz lies on another grid than dce"):
        io.read_mask(reference("madym_abdomen") / "tumour_roi.nii.gz", like=series)
