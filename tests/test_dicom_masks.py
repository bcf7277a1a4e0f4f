"""Masks from Segmentations and structure sets, by where they lie; and masks written as such."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from highdicom.sr import CodedConcept
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.uid import generate_uid

from dicom_objects import ct_headers, problems, turned
from kety.errors import KetyError
from kety.io import split_region
from kety.io.dicom import objects, origin, regions, rtstruct, segmentation
from kety.series import Volume

SHAPE = (9, 8, 5)
AXIAL = np.array([[-1.5, 0, 0, 80.0], [0, -1.25, 0, 90.0], [0, 0, 3.0, -40.0], [0, 0, 0, 1]])
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def grid(affine: Any = AXIAL, shape: tuple[int, int, int] = SHAPE) -> Volume:
    return Volume(np.zeros(shape, np.int8), affine, "dce.nii.gz")


def blob() -> Any:
    """A mask without any symmetry, empty in its first slice."""
    mask = np.random.default_rng(2).random(SHAPE) < 0.3
    mask[..., 0] = False
    mask[6:, :2] = True
    mask[..., 0] = False
    return mask


# Regions --------------------------------------------------------------------------------------

TWO = [regions.Region(1, "Liver"), regions.Region(7, "2")]


@pytest.mark.parametrize(
    ("wanted", "number"),
    [("Liver", 1), ("liver ", 1), ("1", 1), ("2", 7), ("7", 7)],
)
def test_a_region_is_chosen_by_name_or_number(wanted: str, number: int) -> None:
    assert regions.choose(TWO, wanted, "a.dcm", "region").number == number


@pytest.mark.parametrize(
    ("known", "wanted", "message"),
    [
        (TWO, None, r"holds 2 regions: 1 \(Liver\), 7 \(2\); choose one .* a\.dcm:Liver"),
        (TWO, "Kidney", r"holds no region 'Kidney'; it holds 1 \(Liver\)"),
        ([TWO[0], regions.Region(2, "Liver")], "Liver", "2 regions are called 'Liver'"),
        ([], None, "holds no region"),
    ],
)
def test_a_choice_that_is_none(known: Any, wanted: Any, message: str) -> None:
    with pytest.raises(KetyError, match=message):
        regions.choose(known, wanted, "a.dcm", "region")
    assert regions.choose(TWO[:1], None, "a.dcm", "region") == TWO[0]


def test_the_region_stands_behind_a_colon(tmp_path: Path) -> None:
    plain, odd = tmp_path / "rt.dcm", tmp_path / "a:b.dcm"
    plain.touch()
    odd.touch()
    assert split_region(plain) == (plain, None)
    assert split_region(f"{plain}:GTV: left/1") == (plain, "GTV: left/1")
    assert split_region(odd) == (odd, None)
    assert split_region(f"{odd}:2") == (odd, "2")
    nothing = tmp_path / "none.dcm:1"
    assert split_region(nothing) == (nothing, None)


# Segmentations --------------------------------------------------------------------------------


def segmented(path: Path, mask: Any, affine: Any = AXIAL, images: Any = None) -> Path:
    with path.open("wb") as stream:
        segmentation.write(stream, mask, affine, origin.origin_of(images), label="Läsion")
    return path


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("source", [False, True])
def test_a_mask_comes_back_on_its_grid(tmp_path: Path, seed: int, source: bool) -> None:
    affine = turned(seed, oblique=seed % 2 == 1)
    images = ct_headers(affine[:, [1, 2, 0, 3]], (8, 5, 9), phases=2) if source else None
    path = segmented(tmp_path / "a.dcm", blob(), affine, images)
    np.testing.assert_array_equal(objects.read_mask(path, grid(affine)), blob())


def test_a_mask_finds_its_place_on_any_grid_of_the_same_voxels(tmp_path: Path) -> None:
    path = segmented(tmp_path / "a.dcm", blob())
    flipped = AXIAL @ np.array([[-1, 0, 0, 8], [0, 1, 0, 0], [0, 0, -1, 4], [0, 0, 0, 1.0]])
    found = objects.read_mask(path, grid(flipped))
    np.testing.assert_array_equal(found, blob()[::-1, :, ::-1])
    exchanged = AXIAL[:, [2, 0, 1, 3]]
    found = objects.read_mask(path, grid(exchanged, (5, 9, 8)))
    np.testing.assert_array_equal(found, np.transpose(blob(), (2, 0, 1)))
    larger = AXIAL.copy()
    larger[:3, 3] -= 2 * AXIAL[:3, 0] + AXIAL[:3, 2]
    found = objects.read_mask(path, grid(larger, (12, 8, 7)))
    np.testing.assert_array_equal(found[2:11, :, 1:6], blob())
    assert found.sum() == blob().sum()


def test_what_lies_outside_the_series_is_told(tmp_path: Path) -> None:
    path = segmented(tmp_path / "a.dcm", blob())
    lost = int(blob()[..., 3:].sum())
    with pytest.warns(UserWarning, match=rf"{lost} voxels of 1 \(L\?sion\) lie outside dce"):
        found = objects.read_mask(path, grid(shape=(9, 8, 3)))
    np.testing.assert_array_equal(found, blob()[..., :3])


@pytest.mark.parametrize(
    "change",
    [
        np.array([[0.5, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
        np.array([[1, 0, 0, 0.3], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
        np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0.5, 0], [0, 0, 0, 1]]),
        np.array([[1, 0, 0, 0], [0, 0.96, -0.28, 0], [0, 0.28, 0.96, 0], [0, 0, 0, 1]]),
    ],
    ids=["finer", "shifted", "thinner", "turned"],
)
def test_a_mask_on_another_grid_is_refused(tmp_path: Path, change: Any) -> None:
    path = segmented(tmp_path / "a.dcm", blob())
    with pytest.raises(KetyError, match=r"a\.dcm lies on another grid than dce.*resample"):
        objects.read_mask(path, grid(AXIAL @ change))


def several(path: Path, kind: str = "BINARY") -> Path:
    """Two segments, made by highdicom from classic images in an order of their own."""
    images = ct_headers(AXIAL, SHAPE)[::-1]
    pixels = np.transpose(blob(), (2, 1, 0))[::-1]
    labels = pixels.astype(np.uint8)
    labels[:, 0] = 2
    described = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=label,
            segmented_property_category=CodedConcept("85756007", "SCT", "Tissue"),
            segmented_property_type=CodedConcept("85756007", "SCT", "Tissue"),
            algorithm_type="MANUAL",
        )
        for number, label in ((1, "Liver"), (2, "Edge"))
    ]
    made = hd.seg.Segmentation(
        source_images=images,
        pixel_array=np.ascontiguousarray(labels),
        segmentation_type=kind,
        segment_descriptions=described,
        series_instance_uid=generate_uid(prefix=None),
        series_number=1,
        sop_instance_uid=generate_uid(prefix=None),
        instance_number=1,
        manufacturer="a",
        manufacturer_model_name="a",
        software_versions="1",
        device_serial_number="1",
        omit_empty_frames=kind != "FRACTIONAL",
    )
    made.save_as(path)
    return path


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_segments_that_others_wrote(tmp_path: Path, kind: str) -> None:
    path = several(tmp_path / "s.dcm", kind)
    edge = np.zeros(SHAPE, bool)
    edge[:, 0] = True
    for region, expected in (("Liver", blob() & ~edge), ("2", edge)):
        found = objects.read_mask(path, grid(), region)
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(KetyError, match=r"s\.dcm: holds 2 segments: 1 \(Liver\), 2 \(Edge\)"):
        objects.read_mask(path, grid())


def test_a_fraction_of_more_than_half_is_in(tmp_path: Path) -> None:
    path = several(tmp_path / "s.dcm", "FRACTIONAL")
    made = pydicom.dcmread(path)
    pixels = np.frombuffer(made.PixelData, np.uint8).copy()
    pixels[pixels == 255] = np.arange(int((pixels == 255).sum())) % 2 + 127  # 127 or 128 of 255
    made.PixelData = pixels.tobytes()
    made.save_as(path)
    whole = objects.read_mask(several(tmp_path / "t.dcm", "FRACTIONAL"), grid(), "1")
    some = objects.read_mask(path, grid(), "1")
    assert 0 < some.sum() < whole.sum()
    assert not (some & ~whole).any()


def test_a_segmentation_is_valid_and_read_by_others(tmp_path: Path) -> None:
    images = ct_headers(AXIAL, SHAPE, phases=2)
    path = segmented(tmp_path / "a.dcm", blob(), images=images)
    made = hd.seg.segread(path)
    assert made.PatientName == images[0].PatientName
    assert made.StudyInstanceUID == images[0].StudyInstanceUID
    assert made.get_segment_description(1).SegmentLabel == "L?sion"
    seen = made.get_volume(segment_numbers=[1], combine_segments=True)
    affine = LPS @ seen.affine
    back = np.zeros(SHAPE, bool)
    at = np.linalg.inv(AXIAL) @ affine @ [*np.nonzero(seen.array), np.ones(int(seen.array.sum()))]
    back[tuple(np.rint(at[:3]).astype(int))] = True
    np.testing.assert_array_equal(back, blob())
    frame = made.PerFrameFunctionalGroupsSequence[0]
    depth = frame.PlanePositionSequence[0].ImagePositionPatient[2]
    expected = {i.SOPInstanceUID for i in images if i.ImagePositionPatient[2] == depth}
    sources = frame.DerivationImageSequence[0].SourceImageSequence
    assert {item.ReferencedSOPInstanceUID for item in sources} == expected
    assert problems(path) == []
    assert problems(segmented(tmp_path / "b.dcm", blob())) == []


def test_an_empty_mask_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(KetyError, match="the mask is empty"):
        segmented(tmp_path / "a.dcm", np.zeros(SHAPE, bool))


# Contours -------------------------------------------------------------------------------------


def naive(points: Any, shape: tuple[int, ...]) -> Any:
    """For every pixel, count the edges that a ray from it crosses."""
    inside = np.zeros(shape, bool)
    for x, y in np.ndindex(*shape):
        for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
            if (x0 <= x) == (x1 <= x):
                continue
            crossing = y0 + (x - x0) / (x1 - x0) * (y1 - y0)
            if round(crossing, 6) <= y:
                inside[x, y] = not inside[x, y]
    return inside


CORNERS = st.lists(st.tuples(st.floats(-3, 10), st.floats(-3, 10)), min_size=3, max_size=12)
EXACT = st.lists(st.tuples(st.integers(-6, 18), st.integers(-6, 18)), min_size=3, max_size=8).map(
    lambda corners: [(x / 2, y / 2) for x, y in corners]
)


@settings(deadline=None, max_examples=200)
@given(corners=st.one_of(CORNERS, EXACT))
def test_polygons_are_filled_as_point_by_point(corners: list[tuple[float, float]]) -> None:
    points = np.round(np.array(corners, dtype=float), 6)
    np.testing.assert_array_equal(rtstruct.filled(points, (8, 7)), naive(points, (8, 7)))


def test_neighbouring_polygons_share_no_pixel_and_leave_none_out() -> None:
    left = rtstruct.filled(np.array([[0, 0], [4, 0], [4, 6], [0, 6.0]]), (8, 7))
    right = rtstruct.filled(np.array([[4, 0], [8, 0], [8, 6], [4, 6.0]]), (8, 7))
    assert not (left & right).any()
    assert (left | right)[:, :6].all()
    assert left.sum() == 24


def structures(
    path: Path,
    contours: list[tuple[int, Any]],
    *,
    affine: Any = AXIAL,
    names: tuple[str, ...] = ("Liver",),
    kind: str = "CLOSED_PLANAR",
) -> Path:
    """A structure set: contours in voxels of a grid, each of the region of that number."""
    made = Dataset()
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = rtstruct.SOP_CLASS
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = generate_uid(prefix=None)
    made.Modality = "RTSTRUCT"
    made.StructureSetROISequence, made.ROIContourSequence = [], []
    for number, name in enumerate(names, start=1):
        roi, drawn = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, name
        made.StructureSetROISequence.append(roi)
        drawn.ReferencedROINumber = number
        drawn.ContourSequence = []
        for which, points in contours:
            if which == number:
                contour = Dataset()
                contour.ContourGeometricType = kind
                at = np.c_[np.asarray(points, float), np.ones(len(points))] @ (LPS @ affine).T
                contour.ContourData = [f"{x:.6f}" for x in at[:, :3].ravel()]
                contour.NumberOfContourPoints = len(points)
                drawn.ContourSequence.append(contour)
        made.ROIContourSequence.append(drawn)
    made.save_as(path, enforce_file_format=True)
    return path


def box(x0: float, x1: float, y0: float, y1: float, z: float) -> Any:
    return [(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)]


def test_a_contour_within_another_is_a_hole(tmp_path: Path) -> None:
    contours = [
        (1, box(0.5, 7.5, 0.5, 6.5, 2)),
        (1, box(1.5, 6.5, 1.5, 5.5, 2)),
        (1, box(3.5, 4.5, 2.5, 3.5, 2)),
        (1, box(2.5, 4.5, 2.5, 4.5, 3)),
    ]
    found = objects.read_mask(structures(tmp_path / "rt.dcm", contours), grid())
    expected = np.zeros(SHAPE, bool)
    expected[1:8, 1:7, 2] = True
    expected[2:7, 2:6, 2] = False
    expected[4, 3, 2] = True
    expected[3:5, 3:5, 3] = True
    np.testing.assert_array_equal(found, expected)


def test_a_hole_cut_by_a_channel_is_one_too(tmp_path: Path) -> None:
    outer, inner = box(0.5, 7.5, 0.5, 6.5, 1), box(2.5, 5.5, 2.5, 4.5, 1)
    keyhole = [*outer, outer[0], inner[0], *inner[::-1], outer[0]]
    found = objects.read_mask(structures(tmp_path / "rt.dcm", [(1, keyhole)]), grid())
    expected = np.zeros(SHAPE, bool)
    expected[1:8, 1:7, 1] = True
    expected[3:6, 3:5, 1] = False
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("seed", range(4))
def test_contours_are_filled_whatever_the_direction_of_the_grid(tmp_path: Path, seed: int) -> None:
    affine = turned(seed)
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    circle = np.c_[4 + 2.6 * np.cos(angles), 3.2 + 2.9 * np.sin(angles), np.full(40, 3.0)]
    path = structures(tmp_path / "rt.dcm", [(1, circle)], affine=affine)
    found = objects.read_mask(path, grid(affine))
    np.testing.assert_array_equal(found[..., 3], naive(circle[:, :2], SHAPE[:2]))
    assert found.sum() == found[..., 3].sum() > 10
    exchanged = objects.read_mask(path, grid(affine[:, [2, 1, 0, 3]], (5, 8, 9)))
    np.testing.assert_array_equal(exchanged, np.transpose(found, (2, 1, 0)))


def test_one_of_several_regions_is_chosen(tmp_path: Path) -> None:
    contours = [(1, box(0.5, 2.5, 0.5, 2.5, 1)), (2, box(3.5, 6.5, 0.5, 2.5, 1))]
    path = structures(tmp_path / "rt.dcm", contours, names=("Liver", "Tumour 1"))
    assert objects.read_mask(path, grid(), "Liver").sum() == 4
    assert objects.read_mask(path, grid(), "2").sum() == 6
    with pytest.raises(KetyError, match=r"rt\.dcm: holds 2 regions: 1 \(Liver\), 2 \(Tumour 1\)"):
        objects.read_mask(path, grid())


@pytest.mark.parametrize(
    ("contour", "kind", "message"),
    [
        ([(1, 1, 1), (5, 1, 2), (5, 5, 3), (1, 5, 2)], "CLOSED_PLANAR", "oblique to the slices"),
        (box(1, 4, 1, 4, 1.4), "CLOSED_PLANAR", r"between two slices \(at 1\.40"),
        (box(1, 4, 1, 4, 1), "POINT", "holds only contours POINT; a mask needs closed planar"),
        ([(1, 1, 1), (2, 2, 1)], "CLOSED_PLANAR", "a mask needs closed planar contours"),
    ],
)
def test_contours_that_make_no_mask(tmp_path: Path, contour: Any, kind: str, message: str) -> None:
    path = structures(tmp_path / "rt.dcm", [(1, contour)], kind=kind)
    with pytest.raises(KetyError, match=rf"rt\.dcm: .*{message}"):
        objects.read_mask(path, grid())


def test_contours_off_the_series_or_on_every_other_slice_are_told(tmp_path: Path) -> None:
    some = [(1, box(1, 4, 1, 4, z)) for z in (0, 2, 4)]
    with pytest.warns(UserWarning, match=r"in every 2\. slice at most"):
        objects.read_mask(structures(tmp_path / "a.dcm", some), grid())
    beyond = [(1, box(1, 4, 1, 4, z)) for z in (3, 4, 5, 6)]
    with pytest.warns(UserWarning, match=r"2 of 4 contours of 1 \(Liver\) lie outside dce"):
        found = objects.read_mask(structures(tmp_path / "b.dcm", beyond), grid())
    assert found.any(axis=(0, 1)).tolist() == [False, False, False, True, True]


# What is no mask ------------------------------------------------------------------------------


def test_masks_need_a_grid_and_the_right_object(tmp_path: Path) -> None:
    path = segmented(tmp_path / "a.dcm", blob())
    with pytest.raises(KetyError, match=r"a segmentation becomes a mask on the grid of a series"):
        objects.read_mask(path, None)
    with pytest.raises(KetyError, match=r"is no Parametric Map but a segmentation"):
        objects.read_map(path)
    made = pydicom.dcmread(path)
    made.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    made.save_as(path)
    with pytest.raises(KetyError, match=r"is no mask but a DICOM object"):
        objects.read_mask(path, grid())
    with pytest.raises(KetyError, match="there is no such file"):
        objects.read_mask(tmp_path / "none.dcm", grid())
    (tmp_path / "text.dcm").write_text("hello")
    with pytest.raises(KetyError, match=r"text\.dcm: cannot be read as DICOM"):
        objects.read_mask(tmp_path / "text.dcm", grid())


def test_kinds_are_told_apart(tmp_path: Path) -> None:
    assert objects.kind_of(segmented(tmp_path / "a.dcm", blob())) == objects.SEGMENTATION
    box_1 = [(1, box(1, 4, 1, 4, 1))]
    assert objects.kind_of(structures(tmp_path / "b.dcm", box_1)) == objects.STRUCTURES
    (tmp_path / "c.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"nonsense")
    for name in ("c.dcm", "none.dcm"):
        assert objects.kind_of(tmp_path / name) is None


@settings(deadline=None, max_examples=60)
@given(cut=st.floats(0, 1, exclude_max=True))
def test_a_structure_set_cut_anywhere_is_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, cut: float
) -> None:
    folder = tmp_path_factory.getbasetemp()
    whole = folder / "whole.dcm"
    if not whole.exists():
        structures(whole, [(1, box(1, 4, 1, 4, z)) for z in range(5)])
    content = whole.read_bytes()
    path = folder / "cut.dcm"
    path.write_bytes(content[: int(cut * (len(content) - 1))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(KetyError, match=r"cut\.dcm"):
            objects.read_mask(path, grid())
