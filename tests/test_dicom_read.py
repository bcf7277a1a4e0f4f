"""Numbers, geometry and times of a DICOM series, with dcm2niix as a second opinion."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from commands import good, run
from dicom_cases import (
    AXIAL,
    CORONAL,
    FLIPPED,
    SAGITTAL,
    Scan,
    classic,
    oblique,
    scan,
    write_classic,
    write_enhanced,
)
from kety.errors import KetyError, MissingDependencyError
from kety.fitting.status import Status
from kety.io import read_maps, read_mask, read_series, read_volume
from kety.io.dicom import find_series, source_headers
from kety.io.dicom.geometry import plane_name, stack
from kety.io.dicom.headers import HeaderReader, Image
from kety.io.dicom.pixels import load

ORIENTATIONS = {
    "axial": AXIAL,
    "sagittal": SAGITTAL,
    "coronal": CORONAL,
    "flipped": FLIPPED,
    "oblique": oblique(),
}


def values(one: Scan) -> np.ndarray[Any, Any]:
    return one.stored * one.slope + one.intercept


@pytest.mark.parametrize("kind", ["classic", "enhanced"])
@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_series_comes_back(tmp_path: Path, kind: str, modality: str, orientation: str) -> None:
    one = scan(modality, orientation=ORIENTATIONS[orientation])
    if kind == "classic":
        write_classic(tmp_path / "a", one)
    else:
        write_enhanced(tmp_path / "a" / "whole.dcm", one)
    read = read_series(tmp_path / "a")
    np.testing.assert_array_equal(read.data, values(one))
    assert read.data.dtype == np.int16
    assert read.data.flags.f_contiguous
    np.testing.assert_allclose(read.affine, one.affine, atol=1e-6)
    np.testing.assert_allclose(read.times, one.times, atol=1e-9)
    assert read.modality == modality
    assert read.source == "series-4"
    expected = {"kvp": 100.0}
    if modality == "MR":
        expected = {"repetition_time": 0.0042, "echo_time": 0.0018, "flip_angle": 20.0}
    assert read.acquisition == pytest.approx(expected)
    assert plane_name(read.affine) == {
        "flipped": "axial",
        "oblique": "oblique, nearly axial",
    }.get(orientation, orientation)


# --- the second opinion -----------------------------------------------------------------------


def converted(folder: Path, out: Path) -> tuple[Any, dict[str, Any]]:
    """What dcm2niix makes of a folder."""
    program = shutil.which("dcm2niix") or str(Path(sys.executable).with_name("dcm2niix"))
    if not Path(program).is_file():
        pytest.skip("dcm2niix is not installed; pip install dcm2niix")
    out.mkdir()
    command = [program, "-b", "y", "-ba", "n", "-z", "n", "-f", "x", "-o", str(out), str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    (image,) = out.glob("*.nii")
    return nib.load(image), json.loads(image.with_suffix(".json").read_text())


def brought_to(
    data: np.ndarray[Any, Any], affine: np.ndarray[Any, Any], like: np.ndarray[Any, Any]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Flip and transpose an image so that its axes run as those of another affine."""
    to = np.linalg.inv(like[:3, :3]) @ affine[:3, :3]
    axes = np.abs(to).argmax(axis=1)
    data = data.transpose((*axes, *range(3, data.ndim)))
    affine = affine[:, [*axes, 3]].copy()
    for axis in range(3):
        if to[axis, axes[axis]] < 0:
            data = np.flip(data, axis)
            affine[:3, 3] += affine[:3, axis] * (data.shape[axis] - 1)
            affine[:3, axis] *= -1
    return data, affine


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_dcm2niix_agrees(tmp_path: Path, orientation: str, modality: str) -> None:
    one = scan(modality, orientation=ORIENTATIONS[orientation], times=[0.0, 3.0, 6.5, 11.0])

    def edit(dataset: Dataset, z: int, t: int) -> None:
        dataset.TemporalPositionIdentifier = t + 1
        dataset.NumberOfTemporalPositions = 4

    write_classic(tmp_path / "in", one, edit)
    image, sidecar = converted(tmp_path / "in", tmp_path / "out")
    read = read_series(tmp_path / "in")
    other, affine = brought_to(np.asarray(image.dataobj), image.affine, read.affine)
    np.testing.assert_array_equal(read.data, other)
    np.testing.assert_allclose(read.affine, affine, atol=1e-4)
    np.testing.assert_allclose(read.times, sidecar["FrameTimesStart"], atol=1e-3)
    if modality == "MR":
        assert read.acquisition["flip_angle"] == sidecar["FlipAngle"]
        assert read.acquisition["echo_time"] == pytest.approx(sidecar["EchoTime"])
        tr = sidecar["RepetitionTimeExcitation"]
        assert read.acquisition["repetition_time"] == pytest.approx(tr)


# --- geometry ---------------------------------------------------------------------------------


def images_of(one: Scan, phases: int = 1) -> list[Image]:
    reader = HeaderReader()
    header = pixel_less(one, reader)
    return [
        Image(
            **{
                **{name: getattr(header, name) for name in Image.__slots__},
                "file": f"{z} {t}",
                "position": tuple(one.position(z)),
            }
        )
        for t in range(phases)
        for z in range(one.stored.shape[2])
    ]


def pixel_less(one: Scan, reader: HeaderReader) -> Image:
    import io

    stream = io.BytesIO()
    classic(one, 0, 0).save_as(stream, enforce_file_format=True)
    found = reader.read(stream, "x")
    assert isinstance(found, list)
    return found[0]


@given(
    seed=st.integers(0, 100_000),
    slices=st.integers(2, 40),
    step=st.floats(0.3, 10.0),
    row=st.floats(0.2, 5.0),
    column=st.floats(0.2, 5.0),
)
@settings(deadline=None, max_examples=60)
def test_any_orientation_is_exact(
    seed: int, slices: int, step: float, row: float, column: float
) -> None:
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    one = scan(
        "CT",
        shape=(2, 2, slices),
        times=[0.0],
        orientation=tuple(float(v) for v in (*rotation[:, 0], *rotation[:, 1])),
        origin=tuple(float(v) for v in rng.uniform(-300, 300, 3)),
        spacing=(round(row, 4), round(column, 4)),
        step=step,
    )
    images = images_of(one)
    order = rng.permutation(slices)
    found = stack([images[index] for index in order])
    np.testing.assert_array_equal(found.slices, order)
    corners = np.array([[0, 0, 0, 1], [511, 0, 0, 1], [0, 511, 0, 1], [511, 511, slices - 1, 1]])
    np.testing.assert_allclose(found.affine @ corners.T, one.affine @ corners.T, atol=1e-4)


def moved(one: Scan, shift: Callable[[int], Any]) -> str:
    """Why images whose positions are shifted make no stack."""
    images = images_of(one, phases=2)
    changed = []
    for index, image in enumerate(images):
        position = np.array(image.position) + shift(index)
        changed.append(
            Image(
                **{
                    **{name: getattr(image, name) for name in Image.__slots__},
                    "position": tuple(position),
                }
            )
        )
    with pytest.raises(KetyError) as refused:
        stack(changed)
    return str(refused.value)


def test_what_makes_no_grid_is_refused() -> None:
    one = scan(shape=(4, 4, 6), orientation=oblique())
    normal = one.normal
    across = np.array(one.orientation[:3])
    down = np.array(one.orientation[3:])
    uneven = moved(one, lambda i: normal * (1.5 if i % 6 == 3 else 0.0))
    assert "not evenly spaced: 2.5 to 5.5 mm apart" in uneven
    tilted = moved(one, lambda i: down * 4.0 * np.tan(np.radians(12.0)) * (i % 6))
    assert "shifted against each other by 12°, as with a tilted gantry" in tilted
    assert "changes by up to" in moved(one, lambda i: across * (1.0 if i == 8 else 0.0))
    stack(images_of(one, phases=2))


def test_positions_that_are_rounded_make_a_grid() -> None:
    one = scan(shape=(4, 4, 9), step=1.25, origin=(0.0, 0.0, 0.0))
    images = [
        Image(
            **{
                **{name: getattr(image, name) for name in Image.__slots__},
                "position": tuple(np.round(image.position, 2)),
            }
        )
        for image in images_of(one)
    ]
    assert np.linalg.norm(stack(images).affine[:3, 2]) == pytest.approx(1.25, abs=0.002)


def test_a_tilted_gantry_is_listed(tmp_path: Path) -> None:
    one = scan()

    def edit(dataset: Dataset, z: int, t: int) -> None:
        x, y, height = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, float(y) + 1.2 * z, height]

    write_classic(tmp_path, one, edit)
    with pytest.raises(KetyError, match=r"series 1: its slices are shifted .* tilted gantry"):
        read_series(tmp_path)
    assert "tilted gantry" in good("info", tmp_path).output


# --- numbers ----------------------------------------------------------------------------------


def test_each_image_has_its_own_scale(tmp_path: Path) -> None:
    one = scan("MR")
    slopes = np.linspace(0.25, 3.0, 12).reshape(3, 4)

    def edit(dataset: Dataset, z: int, t: int) -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept = slopes[z, t], -5.5 * z

    write_classic(tmp_path, one, edit)
    read = read_series(tmp_path)
    assert read.data.dtype == np.float32
    expected = one.stored * slopes - 5.5 * np.arange(3)[:, None]
    np.testing.assert_allclose(read.data, expected, rtol=1e-6)
    assert "stored · slope + intercept" in good("info", tmp_path).output


@pytest.mark.parametrize("kind", ["classic", "enhanced", "some"])
def test_philips_scale(tmp_path: Path, kind: str) -> None:
    one = scan("MR", slope=2.5, intercept=-10.0)

    def edit(dataset: Dataset, z: int, t: int) -> None:
        if kind == "some" and t == 2:
            return
        if kind == "enhanced":
            inner = Dataset()
            inner.add_new(0x20050010, "LO", "Philips MR Imaging DD 001")
            inner.add_new(0x2005100E, "FL", 0.5 + z)
            dataset.add_new(0x20050014, "LO", "Philips MR Imaging DD 005")
            dataset.add_new(0x2005140F, "SQ", [inner])
            return
        dataset.Manufacturer = "Philips Medical Systems"
        dataset.add_new(0x20050010, "LO", "Philips MR Imaging DD 001")
        dataset.add_new(0x2005100E, "FL", 0.5 + z)

    if kind == "enhanced":
        path = write_enhanced(tmp_path / "a.dcm", one, edit)
        whole = pydicom.dcmread(path)
        whole.Manufacturer = "Philips"
        whole.save_as(path)
    else:
        write_classic(tmp_path, one, edit)
    read = read_series(tmp_path)
    scale = (0.5 + np.arange(3))[:, None]
    plain = one.stored * 2.5 - 10.0
    expected = plain if kind == "some" else plain / (2.5 * scale)
    np.testing.assert_allclose(read.data, expected, rtol=1e-6)
    shown = "Philips' scale slope" in " ".join(good("info", tmp_path).output.split())
    assert shown == (kind != "some")


def padded_series(folder: Path, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Write a series of four times with padding, and return its numbers and where they are it."""
    stored = np.random.default_rng(3).integers(0, 4096, (6, 5, 3, 4)).astype(np.int16)
    stored[0, :2] = stored[5, 4, 2, 1] = -2000
    if kind == "range":
        stored[0, 0] = -1990
    one = Scan(stored.view(np.uint16), np.arange(4) * 2.0, intercept=0.0)

    def edit(dataset: Dataset, z: int, t: int) -> None:
        dataset.PixelRepresentation, dataset.BitsStored, dataset.HighBit = 1, 16, 15
        if kind == "unsigned":  # as some write it
            dataset.add_new("PixelPaddingValue", "US", 65536 - 2000)
        else:
            dataset.add_new("PixelPaddingValue", "SS", -2000)
        if kind == "range":
            dataset.add_new("PixelPaddingRangeLimit", "SS", -1990)

    for path in write_classic(folder, one, edit):
        if kind == "implicit":
            dataset = pydicom.dcmread(path)
            dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
            dataset.save_as(path, implicit_vr=True, little_endian=True)
    return stored, (stored == -2000) | ((stored == -1990) & (kind == "range"))


@pytest.mark.parametrize("kind", ["value", "range", "unsigned", "implicit"])
def test_padding_is_masked_however_it_is_declared(tmp_path: Path, kind: str) -> None:
    stored, padded = padded_series(tmp_path, kind)
    read = read_series(tmp_path)
    assert read.data.dtype == np.int16
    np.testing.assert_array_equal(read.data, stored)
    np.testing.assert_array_equal(read.mask, ~padded.any(axis=3))
    assert (~read.mask).sum() == 7


def test_padding_is_not_measured(tmp_path: Path) -> None:
    _, padded = padded_series(tmp_path, "range")
    read = read_series(tmp_path)
    mask = tmp_path.with_name("mask.nii.gz")
    nib.save(nib.Nifti1Image(np.ones(read.data.shape[:3], np.uint8), read.affine), mask)
    once = ~padded.all(axis=3) & ~read.mask
    assert once.sum() == 1
    for quantity in ("hu", "enhancement"):
        for options in ((), ("--mask", mask)):
            out = tmp_path.with_name("maps")
            first = ("--baseline-frames", "1") if quantity == "hu" else ()
            result = good("maps", tmp_path, "--quantity", quantity, "--out", out, *first, *options)
            assert "7 voxels of padding left out" in result.output
            status = read_maps(out, names=["status"]).maps["status"].values
            if options:
                np.testing.assert_array_equal(status == Status.OUTSIDE, ~read.mask)
            else:
                np.testing.assert_array_equal(status == Status.NOT_FINITE, once)


def test_a_padding_value_that_no_pixel_has_changes_nothing(tmp_path: Path) -> None:
    def edit(dataset: Dataset, z: int, t: int) -> None:
        dataset.PixelPaddingValue = 63536

    write_classic(tmp_path, scan(), edit)
    assert read_series(tmp_path).mask is None


def test_nothing_but_padding_is_refused(tmp_path: Path) -> None:
    def edit(dataset: Dataset, z: int, t: int) -> None:
        dataset.PixelPaddingValue, dataset.PixelPaddingRangeLimit = 0, 4095

    write_classic(tmp_path, scan(), edit)
    with pytest.raises(KetyError, match="every voxel is padding in some phase"):
        read_series(tmp_path)


def test_whole_numbers_beyond_int16(tmp_path: Path) -> None:
    one = scan("MR")
    one.stored[2, 2, 1, 3] = 65_000

    def edit(dataset: Dataset, z: int, t: int) -> None:
        dataset.BitsStored, dataset.HighBit = 16, 15

    write_classic(tmp_path, one, edit)
    read = read_series(tmp_path)
    assert read.data.dtype == np.float32
    np.testing.assert_array_equal(read.data, one.stored)


def test_signed_and_unused_bits(tmp_path: Path) -> None:
    one = scan()
    signed = one.stored.astype(np.int16) - 2048

    def edit(dataset: Dataset, z: int, t: int) -> None:
        dataset.PixelRepresentation = 1
        # An overlay in the four upper bits, as in old files.
        stored = signed[:, :, z, t].T.astype(np.uint16) & 0x0FFF | 0x5000
        dataset.PixelData = np.ascontiguousarray(stored).tobytes()

    write_classic(tmp_path, one, edit)
    np.testing.assert_array_equal(read_series(tmp_path).data, signed - 1024)


@given(
    stored=st.integers(-32768, 65535),
    slope=st.sampled_from([1, 2, -3, 100]),
    intercept=st.integers(-70_000, 70_000),
)
def test_rescaling_modulo_is_exact(stored: int, slope: int, intercept: int) -> None:
    from kety.io.dicom.pixels import _rescaled

    kind = np.int16 if stored < 0 else np.uint16
    pixels = np.array([[stored, 0]], dtype=kind)
    found = _rescaled(pixels, float(slope), float(intercept), np.dtype(np.int16))
    exact = [stored * slope + intercept, intercept]
    fits = all(-32768 <= value <= 32767 for value in exact)
    assert found.dtype == (np.int16 if fits else np.float32)
    np.testing.assert_array_equal(found[0], np.array(exact, found.dtype))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("syntax", ["implicit", "big", "deflated"])
def test_other_encodings(tmp_path: Path, syntax: str, bits: int) -> None:
    one = scan("MR")
    one.stored[:] >>= 4
    kind = {
        "implicit": ImplicitVRLittleEndian,
        "big": ExplicitVRBigEndian,
        "deflated": DeflatedExplicitVRLittleEndian,
    }[syntax]
    for t in range(4):
        for z in range(3):
            dataset = classic(one, z, t)
            pixels = np.ascontiguousarray(one.stored[:, :, z, t].T)
            if bits == 8:
                dataset.BitsAllocated = dataset.BitsStored = 8
                dataset.HighBit = 7
                dataset.PixelData = pixels.astype(np.uint8).tobytes()
                dataset["PixelData"].VR = "OB"
            elif syntax == "big":
                dataset.PixelData = pixels.astype(">u2").tobytes()
            dataset.file_meta.TransferSyntaxUID = kind
            order = {"implicit_vr": syntax == "implicit", "little_endian": syntax != "big"}
            pydicom.dcmwrite(
                tmp_path / f"{z}_{t}",
                dataset,
                enforce_file_format=True,
                **({} if syntax == "deflated" else order),
            )
    np.testing.assert_array_equal(read_series(tmp_path).data, one.stored)


def compress(path: Path, syntax: str) -> None:
    """Compress a file in place by GDCM."""
    import gdcm

    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(path))
    assert writer.Write()


@pytest.mark.parametrize(
    "syntax",
    [RLELossless, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless],
    ids=lambda syntax: syntax.keyword,
)
def test_compressed_pixels(tmp_path: Path, syntax: Any) -> None:
    pytest.importorskip("gdcm", reason="pip install 'kety[dicom-compressed]'")
    one = scan(shape=(16, 12, 3))
    paths = write_classic(tmp_path, one)
    for path in paths:
        compress(path, syntax)
    np.testing.assert_array_equal(read_series(tmp_path).data, values(one))
    content = paths[0].read_bytes()
    paths[0].write_bytes(content[:-200])
    with pytest.raises(KetyError, match=rf"{paths[0].name}: its pixels .* cannot be decoded"):
        read_series(tmp_path)


def test_compressed_multi_frame(tmp_path: Path) -> None:
    one = scan("MR", shape=(16, 12, 3))
    path = write_enhanced(tmp_path / "a.dcm", one)
    dataset = pydicom.dcmread(path)
    dataset.compress(RLELossless, encoding_plugin="pydicom")
    dataset.save_as(path)
    np.testing.assert_array_equal(read_series(path).data, one.stored)


def test_a_missing_decoder_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pydicom.pixels.decoders.base import Decoder

    one = scan()
    for path in write_classic(tmp_path, one):
        dataset = pydicom.dcmread(path)
        dataset.compress(RLELossless, encoding_plugin="pydicom")
        # The pixels are another compression's by name alone: no decoder must look at them.
        dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
        dataset.save_as(path)
    monkeypatch.setattr(Decoder, "is_available", property(lambda self: False))
    with pytest.raises(MissingDependencyError, match=r"JPEG Lossless.*kety\[dicom-compressed\]"):
        read_series(tmp_path)
    monkeypatch.undo()
    with pytest.raises(KetyError, match="cannot be decoded"):
        read_series(tmp_path)


def test_a_video_is_refused(tmp_path: Path) -> None:
    for path in write_classic(tmp_path, scan()):
        dataset = pydicom.dcmread(path)
        dataset.compress(RLELossless, encoding_plugin="pydicom")
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"
        dataset.save_as(path)
    with pytest.raises(KetyError, match=r"MPEG2.* cannot be decoded; convert the images to an unc"):
        read_series(tmp_path)


def test_a_file_that_goes_while_it_is_read(tmp_path: Path) -> None:
    paths = write_classic(tmp_path, scan())
    chosen = find_series(tmp_path).choose()
    assert chosen.phases is not None
    paths[3].unlink()
    with pytest.raises(KetyError, match=r"1 of 12 images were lost .*cannot be opened"):
        load(tmp_path, chosen.images, chosen.phases.images)
    paths[4].write_bytes(paths[4].read_bytes()[:-10])
    with pytest.raises(KetyError, match="has become shorter while it was read"):
        load(tmp_path, chosen.images, chosen.phases.images)


# --- times and volumes ------------------------------------------------------------------------


def test_times_in_place_of_the_headers(tmp_path: Path) -> None:
    one = scan()
    write_classic(tmp_path / "in", one)
    table = tmp_path / "times.csv"
    table.write_text("time_min\n0\n0.5\n1\n2\n")
    expected = "phases by acquisition time"
    for times, wanted, words in (
        (table, [0, 30, 60, 120], "times.csv"),
        ([1.0, 2.0, 4.0, 8.0], [1, 2, 4, 8], "given"),
        (2.5, [0, 2.5, 5, 7.5], "given, 2.5 s between frames"),
    ):
        read = read_series(tmp_path / "in", times=times)
        np.testing.assert_allclose(read.times, wanted)
        assert read.times_from == f"{words}, {expected}"
    for bad in ([0.0, 1.0], [0.0, 2.0, 1.0, 3.0]):
        with pytest.raises(KetyError, match="series-4: times"):
            read_series(tmp_path / "in", times=bad)


def test_the_time_offset_of_a_temporal_position(tmp_path: Path) -> None:
    one = scan("MR")

    def edit(group: Dataset, z: int, t: int) -> None:
        offset = Dataset()
        offset.TemporalPositionTimeOffset = [1.5, 4.0, 4.25, 11.0][t]
        group.TemporalPositionSequence = [offset]

    write_enhanced(tmp_path / "a.dcm", one, edit)
    with pytest.warns(UserWarning, match=r"spans 9\.5 s, the acquisition date-time 9 s"):
        read = read_series(tmp_path / "a.dcm")
    np.testing.assert_allclose(read.times, [0.0, 2.5, 2.75, 9.5])
    assert read.times_from == (
        "time offset of the temporal position in the headers, phases by temporal position"
    )


def test_a_volume_of_a_folder(tmp_path: Path) -> None:
    one = scan("MR", times=[0.0])
    write_classic(tmp_path / "a", one)
    volume = read_volume(tmp_path / "a")
    np.testing.assert_array_equal(volume.data, one.stored[..., 0])
    np.testing.assert_allclose(volume.affine, one.affine, atol=1e-6)
    assert volume.sidecar["FlipAngle"] == 20.0
    assert volume.sidecar["RepetitionTimeExcitation"] == pytest.approx(0.0042)
    assert read_mask(tmp_path / "a").shape == (6, 5, 3)
    with pytest.raises(KetyError, match="has 3 dimensions; a stack of volumes has 4"):
        read_volume(tmp_path / "a", stack=True)
    write_classic(tmp_path / "b", scan("MR"))
    np.testing.assert_array_equal(
        read_volume(tmp_path / "b", stack=True).data, read_series(tmp_path / "b").data
    )


def test_flip_angles_make_a_stack(tmp_path: Path) -> None:
    found = {}
    study = scan("MR").study
    for number, angle in enumerate((20, 2, 10)):
        one = scan("MR", times=[0.0], seed=number, number=number, study=study, place="1.2.3")

        def edit(dataset: Dataset, z: int, t: int, angle: int = angle) -> None:
            dataset.FlipAngle = angle

        write_classic(tmp_path / str(number), one, edit)
        found[angle] = one.stored[..., 0]
    stacked = read_volume(tmp_path, stack=True)
    assert stacked.sidecar["FlipAngle"] == [2.0, 10.0, 20.0]
    for index, angle in enumerate((2, 10, 20)):
        np.testing.assert_array_equal(stacked.data[..., index], found[angle])
    with pytest.raises(KetyError, match="one volume has 3"):
        read_volume(tmp_path)
    assert read_volume(tmp_path, series=1).sidecar["FlipAngle"] == 20.0


@pytest.mark.parametrize("kind", ["classic", "enhanced"])
def test_headers_of_the_source(tmp_path: Path, kind: str) -> None:
    one = scan()
    if kind == "classic":
        write_classic(tmp_path, one)
    else:
        write_enhanced(tmp_path / "a.dcm", one)
    headers = source_headers(tmp_path)
    assert len(headers) == (12 if kind == "classic" else 1)
    assert len({header.SOPInstanceUID for header in headers}) == len(headers)
    assert all("PixelData" not in header for header in headers)
    assert {header.SeriesInstanceUID for header in headers} == {one.series}
    if kind == "classic":
        heights = [float(header.ImagePositionPatient[2]) for header in headers]
        assert heights == [100.0, 104.0, 108.0] * 4
        assert {header.AcquisitionNumber for header in headers[:3]} == {1}


def test_one_file_without_extension(tmp_path: Path) -> None:
    one = scan()
    path = write_enhanced(tmp_path / "IM0001", one)
    np.testing.assert_array_equal(read_series(path).data, values(one))
    assert "4" in good("info", path).output


def test_no_series_to_choose_in_an_image(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2, 3), np.float32), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(KetyError, match="holds one image, not several series"):
        read_series(tmp_path / "a.nii", series=2, modality="CT", times=1.0)


# --- the published phantom --------------------------------------------------------------------


def test_the_published_phantom(reference: Callable[[str], Path]) -> None:
    folder = reference("qiba6")
    image: Any = nib.load(folder / "dce.nii.gz")
    path = folder / "DICOM.tar.gz"
    with pytest.raises(KetyError, match="no frame times: acquisition time is the same in all"):
        read_series(path)
    read = read_series(path, times=0.5)
    np.testing.assert_array_equal(read.data, np.asarray(image.dataobj))
    np.testing.assert_allclose(read.affine, image.affine, atol=1e-4)
    assert read.times_from == "given, 0.5 s between frames, phases by instance number"
    assert read.acquisition == pytest.approx(
        {"repetition_time": 0.005, "echo_time": 0.0021, "flip_angle": 30.0}
    )
    result = run("fit", path, "--population", "parker")
    assert "--interval or --times" in result.output
