"""Parametric Maps: values to the bit, units, geometry and sources, read by others as by kety."""

from __future__ import annotations

import io as streams
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel
import numpy as np
import pydicom
import pytest
import xarray
from hypothesis import given, settings
from hypothesis import strategies as st

import kety
from dicom_objects import PATIENT, by_place, ct_headers, problems, turned
from kety.errors import KetyError
from kety.fitting.maps import map_attributes
from kety.io import bids, read_maps, write_maps
from kety.io.dicom import codes, frames, objects, origin, parametric
from kety.models import MODELS
from kety.series import Volume

SHAPE = (7, 5, 4)
AXIAL = np.array([[-1.5, 0, 0, 80.0], [0, -1.25, 0, 90.0], [0, 0, 3.0, -40.0], [0, 0, 0, 1]])
ORIENTATIONS = {
    "axial": AXIAL,
    "flipped": turned(3, oblique=False),
    "sagittal": np.array([[0, 0, 3.0, -40], [-1.5, 0, 0, 80], [0, -1.25, 0, 90], [0, 0, 0, 1.0]]),
    "oblique": turned(5),
}
STATUS = {
    "long_name": "outcome of the fit",
    "units": "1",
    "osipi": "",
    "flag_values": [0, 1, 2],
    "flag_meanings": "outside converged at_bound",
}


def a_map(name: str = "ktrans", affine: Any = AXIAL, **attributes: Any) -> Volume:
    random = np.random.default_rng(0)
    attrs = {"units": "1/min", "long_name": "volume transfer constant", "osipi": "Q.PH1.008"}
    if name == "status":
        data: Any = random.integers(0, 3, SHAPE).astype(np.uint8)
        attrs = dict(STATUS)
    else:
        data = random.standard_normal(SHAPE).astype(np.float32)
        data[0], data[1, 1, 1], data[2, 2, 2] = np.nan, -0.0, np.float32(1e-42)
    attrs |= attributes
    sidecar = bids.map_sidecar(
        name, attrs, model="extended_tofts", source="dce.nii.gz", has_nan=data.dtype.kind == "f"
    )
    return Volume(data, affine, name, sidecar=sidecar)


def written(volume: Volume, path: Path, images: Any = None, **options: Any) -> Path:
    with path.open("wb") as stream:
        parametric.write(stream, volume, origin.origin_of(images), **options)
    return path


# Codes ----------------------------------------------------------------------------------------


def all_maps() -> dict[str, dict[str, Any]]:
    """Attributes of every map that the models and the model-free methods give."""
    found: dict[str, dict[str, Any]] = {}
    for model in MODELS.values():
        found |= map_attributes(model)
    times = np.arange(20.0) * 12
    curves = 10 * np.exp(-(((times - 50) / 30) ** 2)) + np.random.default_rng(1).random(
        (2, 1, 1, 20)
    )
    aif = kety.InputFunction(times, 100 * np.exp(-(((times - 40) / 20) ** 2)))
    for one in (
        kety.semiquantitative(curves, times, aif=aif, areas=(30, 60, 90, 180)),
        kety.deconvolve(curves, times, aif, method="standard"),
    ):
        found |= {str(name): dict(array.attrs) for name, array in one.data_vars.items()}
    return found


ALL = all_maps()
PRIVATE = {"k1", "vd", "haf", "fp_arterial", "fp_portal"}


@pytest.mark.parametrize("name", ALL)
def test_every_map_has_a_quantity_and_a_unit(name: str) -> None:
    attrs = ALL[name]
    found = codes.quantity(name, attrs["long_name"], attrs["osipi"])
    assert found.value
    assert found.meaning
    assert len(found.meaning) <= 64
    for curves in ("HU", "mM"):
        unit = codes.unit(attrs["units"], curves)
        assert "{" not in unit.value.replace("{ratio}", "")
        known = attrs["units"].replace("unit of the curves", curves)
        words = f"{curves} squared" if known.startswith("squared") else known
        assert codes.units_of(unit.value) == words


def test_standard_codes_are_used_where_there_are_some() -> None:
    for name, expected in {
        "ktrans": "126312",
        "kep": "126313",
        "ve": "126314",
        "vp": "126331",
        "iauc60": "126321",
        "iauc90": "126322",
        "iauc180": "126323",
        "iauc45": "126320",
        "bat": "126371",
    }.items():
        found = codes.quantity(name, "words", "Q.PH1.008")
        assert (found.value, found.scheme) == (expected, "DCM")
    assert codes.quantity("fp", "plasma flow", "Q.PH1.002").scheme == codes.OSIPI
    for model in MODELS.values():
        for one in (*model.parameters, *model.derived):
            scheme = codes.quantity(one.name, one.long_name, one.osipi).scheme
            assert (scheme == codes.PRIVATE) == (one.name in PRIVATE), one.name


@pytest.mark.parametrize("ending", ["_se", "_voxelwise", "_lower", "_bias", "_change", "_se_total"])
def test_what_describes_a_map_is_never_coded_as_its_quantity(ending: str) -> None:
    for name in codes.QUANTITIES:
        found = codes.quantity(name + ending, "words", "")
        assert (found.value, found.scheme) == (name + ending, codes.PRIVATE)
        assert codes.name_of(found) == name + ending


@pytest.mark.parametrize(
    ("units", "expected"),
    [
        ("1/min", "/min"),
        ("mL/100mL/min", "mL/min/(100.mL)"),
        ("mL/100mL", "mL/(100.mL)"),
        ("mL/mL", "{ratio}"),
        ("mM s", "s.mmol/L"),
        ("HU/s", "[hnsf'U]/s"),
        ("squared unit of the curves", "[hnsf'U]2"),
        ("unit of the curves s", "[hnsf'U].s"),
        ("furlong/min", "{furlong/min}"),
        ("µm", "{?m}"),
        ("", "{unknown}"),
    ],
)
def test_units_in_ucum(units: str, expected: str) -> None:
    assert codes.unit(units, "HU").value == expected


def test_a_unit_that_refers_to_unknown_curves_says_so() -> None:
    assert codes.unit("squared unit of the curves").value == "{unit of the curves squared}"
    assert codes.units_of("ml/[100]ml/min") == "mL/100mL/min"
    assert codes.units_of("um2/s") == "um2/s"


# Frames ---------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    like=st.one_of(st.none(), st.integers(0, 10_000)),
    oblique=st.booleans(),
    shape=st.tuples(*(st.integers(1, 4),) * 3),
)
def test_no_voxel_moves_between_grid_and_frames(
    seed: int, like: int | None, oblique: bool, shape: tuple[int, int, int]
) -> None:
    affine = turned(seed, oblique=oblique)
    data = np.arange(np.prod(shape)).reshape(shape)
    wanted = None
    if like is not None:  # parallel axes, in another order and direction
        other = np.random.default_rng(like)
        axes = (affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))[:, other.permutation(3)]
        wanted = (np.diag([-1.0, -1.0, 1.0]) @ axes * other.choice([-1.0, 1.0], 3)).T[:2]
    made = frames.frames_of(Volume(data, affine), wanted)
    if wanted is not None:
        np.testing.assert_allclose(made.orientation, wanted, atol=1e-12)
    depth = made.positions @ made.normal
    assert (np.diff(depth) > 0).all()
    back = frames.affine_of(made.orientation, made.spacing, made.positions, made.thickness)
    assert by_place(np.transpose(made.pixels, (2, 1, 0)), back) == by_place(data, affine)


def test_frames_lie_as_radiologists_expect_them() -> None:
    ras = np.diag([1.0, 1.0, 2.0, 1.0])
    axial = frames.frames_of(Volume(np.zeros(SHAPE), ras)).orientation
    np.testing.assert_array_equal(axial, [[1, 0, 0], [0, 1, 0]])
    sagittal = frames.frames_of(Volume(np.zeros(SHAPE), ras[:, [1, 2, 0, 3]])).orientation
    np.testing.assert_array_equal(sagittal, [[0, 1, 0], [0, 0, -1]])


def test_a_sheared_grid_has_no_frames() -> None:
    sheared = AXIAL.copy()
    sheared[0, 2] = 0.2
    with pytest.raises(KetyError, match="not at right angles"):
        frames.frames_of(Volume(np.zeros(SHAPE), sheared))


def test_uneven_frames_have_no_affine() -> None:
    with pytest.raises(KetyError, match="not evenly spaced"):
        frames.affine_of(np.eye(3)[:2], (1, 1), np.array([[0, 0, z] for z in (0, 1, 3.0)]), 1)


def test_frames_take_the_numbers_of_their_source_where_they_agree() -> None:
    affine = turned(8)
    images = ct_headers(affine, SHAPE, phases=2)
    start = origin.origin_of(images)
    rounded = affine.astype(np.float32).astype(np.float64)
    made = start.aligned(frames.frames_of(Volume(np.zeros(SHAPE), rounded), start.orientation))
    np.testing.assert_array_equal(made.orientation, start.orientation)
    sources = np.array([one.position for one in start.frames[: SHAPE[2]]])
    assert {tuple(row) for row in made.positions} == {tuple(row) for row in sources}
    moved = rounded.copy()
    moved[0, 3] += 0.01
    other = start.aligned(frames.frames_of(Volume(np.zeros(SHAPE), moved), start.orientation))
    assert not {tuple(row) for row in other.positions} & {tuple(row) for row in sources}


# Objects --------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ORIENTATIONS)
@pytest.mark.parametrize("name", ["ktrans", "status"])
def test_maps_come_back_to_the_bit(tmp_path: Path, where: str, name: str) -> None:
    volume = a_map(name, ORIENTATIONS[where])
    back = objects.read_map(written(volume, tmp_path / "a.dcm"))
    expected = by_place(volume.data.astype(np.float32), volume.affine)
    assert by_place(back.data, back.affine) == expected
    assert back.data.dtype == np.float32
    assert back.sidecar["Quantity"] == name
    assert back.sidecar["Units"] == volume.sidecar["Units"]
    assert back.sidecar["LongName"] == volume.sidecar["LongName"]
    if name == "status":
        assert back.sidecar["flag_values"] == STATUS["flag_values"]
        assert back.sidecar["flag_meanings"] == STATUS["flag_meanings"]


@pytest.mark.parametrize("where", ORIENTATIONS)
def test_maps_lie_on_the_very_grid_of_their_source(tmp_path: Path, where: str) -> None:
    affine = ORIENTATIONS[where]
    if np.linalg.det(affine) < 0:  # slices of a DICOM series follow their normal
        affine = affine @ np.diag([1, 1, -1, 1])
    images = ct_headers(affine, SHAPE)
    rounded = affine.astype(np.float32).astype(np.float64)
    for grid in (rounded, rounded @ np.diag([1, -1, 1, 1])):
        volume = a_map("ktrans", grid)
        path = written(volume, tmp_path / "a.dcm", images)
        back = objects.read_map(path)
        flip = np.linalg.inv(affine) @ back.affine
        np.testing.assert_allclose(np.abs(flip[:3, :3]), np.eye(3), atol=1e-6)
        np.testing.assert_allclose(back.affine[:3, :3], affine[:3, :3], atol=1e-6)
        made = pydicom.dcmread(path)
        shared = made.SharedFunctionalGroupsSequence[0]
        assert (
            shared.PlaneOrientationSequence[0].ImageOrientationPatient
            == images[0].ImageOrientationPatient
        )
    expected = by_place(volume.data, volume.affine)
    assert by_place(back.data, back.affine) == expected


@pytest.mark.parametrize("images", [False, True], ids=["study of its own", "of a series"])
@pytest.mark.parametrize("name", ["ktrans", "status", "ktrans_voxelwise_se", "cost"])
def test_dciodvfy_finds_no_error(tmp_path: Path, images: bool, name: str) -> None:
    volume = a_map(name)
    if name == "cost":  # nothing but NaN, in one slice
        empty = np.full((6, 5, 1), np.nan, np.float32)
        sidecar = volume.sidecar | {"Units": "squared unit of the curves"}
        volume = Volume(empty, AXIAL, name, sidecar=sidecar)
    headers = ct_headers(AXIAL, SHAPE, phases=3) if images else None
    path = written(volume, tmp_path / "a.dcm", headers, number=3, curves="HU")
    assert problems(path) == []


def test_others_read_the_same(tmp_path: Path) -> None:
    volume = a_map("ktrans", turned(4))
    images = ct_headers(turned(4), SHAPE, phases=2)
    path = written(volume, tmp_path / "a.dcm", images, number=5)
    made = hd.imread(path)
    mapping = made.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    unit = mapping.MeasurementUnitsCodeSequence[0]
    assert (unit.CodeValue, unit.CodingSchemeDesignator) == ("/min", "UCUM")
    what, method = mapping.QuantityDefinitionSequence
    assert what.ConceptCodeSequence[0].CodeValue == "126312"
    assert method.ConceptCodeSequence[0].CodeValue == "126341"
    assert made.ContentQualification == "RESEARCH"
    assert made.SoftwareVersions == kety.__version__
    assert made.SeriesNumber == 7006
    seen = made.get_volume(apply_real_world_transform=True, dtype=np.float32)
    affine = np.diag([-1.0, -1, 1, 1]) @ seen.affine
    assert by_place(seen.array.astype(np.float32), affine) == by_place(volume.data, volume.affine)
    plain = pydicom.dcmread(path)
    pixels = np.frombuffer(plain.FloatPixelData, "<f4")
    assert sorted(pixels.view(np.uint32)) == sorted(volume.data.ravel().view(np.uint32))


@pytest.mark.parametrize("where", ORIENTATIONS)
def test_dcm2niix_agrees(tmp_path: Path, where: str) -> None:
    program = shutil.which("dcm2niix") or str(Path(sys.executable).with_name("dcm2niix"))
    if not Path(program).exists():
        pytest.skip("dcm2niix is not installed; pip install dcm2niix")
    volume = a_map("ktrans", ORIENTATIONS[where])
    path = written(volume, tmp_path / "a.dcm", ct_headers(AXIAL, SHAPE))
    done = subprocess.run([program, "-f", "out", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    image: Any = nibabel.load(next(tmp_path.glob("out*.nii")))
    found = by_place(np.asarray(image.dataobj), image.affine)
    assert found == by_place(volume.data, volume.affine)


def test_objects_differ_in_identifiers_and_times_alone(tmp_path: Path) -> None:
    images = ct_headers(AXIAL, SHAPE)
    paths = [written(a_map(), tmp_path / f"{i}.dcm", images) for i in range(2)]
    one, two = (pydicom.dcmread(path) for path in paths)
    assert one.SOPInstanceUID != two.SOPInstanceUID
    changing = [
        "SOPInstanceUID", "SeriesInstanceUID", "InstanceCreationTime", "InstanceCreationDate",
        "ContentTime", "ContentDate", "DimensionIndexSequence", "DimensionOrganizationSequence",
        "ContributingEquipmentSequence",
    ]  # fmt: skip
    for made in (one, two):
        for keyword in changing:
            delattr(made, keyword)
    assert one.to_json() == two.to_json()


# Sources --------------------------------------------------------------------------------------


def references(path: Path) -> list[set[str]]:
    """The images that every frame refers to, in the order of depth."""
    made = pydicom.dcmread(path)
    order = objects.parametric.placed_frames(made, "a").order
    groups = [made.PerFrameFunctionalGroupsSequence[int(i)] for i in order]
    return [
        {
            item.ReferencedSOPInstanceUID
            for derivation in group.get("DerivationImageSequence") or ()
            for item in derivation.SourceImageSequence
        }
        for group in groups
    ]


def test_frames_refer_to_the_images_at_their_place(tmp_path: Path) -> None:
    images = ct_headers(AXIAL, SHAPE, phases=3)
    at = [{one.SOPInstanceUID for one in images[z :: SHAPE[2]]} for z in range(SHAPE[2])]
    assert references(written(a_map(), tmp_path / "a.dcm", images)) == at
    volume = a_map()
    cropped = AXIAL.copy()
    cropped[:3, 3] += AXIAL[:3, 2]
    part = Volume(volume.data[..., 1:3], cropped, "ktrans", sidecar=volume.sidecar)
    assert references(written(part, tmp_path / "b.dcm", images)) == at[1:3]
    halved = AXIAL.copy()
    halved[:3, 3] += 0.5 * AXIAL[:3, 2]
    halved[:3, 2] *= 2
    thick = Volume(volume.data[..., :2], halved, "ktrans", sidecar=volume.sidecar)
    path = written(thick, tmp_path / "c.dcm", images)
    assert references(path) == [at[0] | at[1], at[2] | at[3]]
    across = written(a_map(affine=AXIAL[:, [0, 2, 1, 3]]), tmp_path / "d.dcm", images)
    assert pydicom.dcmread(across).ReferencedSeriesSequence
    alone = pydicom.dcmread(written(a_map(), tmp_path / "e.dcm"))
    assert "ReferencedSeriesSequence" not in alone
    assert "SourceImageSequence" not in alone


def test_images_of_several_frames_are_referred_to_by_frame(tmp_path: Path) -> None:
    flat = ct_headers(AXIAL, SHAPE)
    whole = flat[0]
    groups = []
    for one in flat:
        place, measures, plane = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
        place.ImagePositionPatient = one.ImagePositionPatient
        group = pydicom.Dataset()
        group.PlanePositionSequence = [place]
        groups.append(group)
    measures.PixelSpacing, measures.SliceThickness = whole.PixelSpacing, 3
    plane.ImageOrientationPatient = whole.ImageOrientationPatient
    shared = pydicom.Dataset()
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    whole.SharedFunctionalGroupsSequence = [shared]
    whole.PerFrameFunctionalGroupsSequence = groups
    whole.NumberOfFrames = SHAPE[2]
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(whole, keyword)
    path = written(a_map(), tmp_path / "a.dcm", [whole])
    made = pydicom.dcmread(path)
    found = {
        (
            round(float(group.PlanePositionSequence[0].ImagePositionPatient[2])),
            int(group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber),
        )
        for group in made.PerFrameFunctionalGroupsSequence
    }
    assert found == {(-40, 1), (-37, 2), (-34, 3), (-31, 4)}


@pytest.mark.parametrize("name", ["status", "ktrans"])
def test_no_value_representation_is_left_open(name: str) -> None:
    made = parametric._object(a_map(name), origin.origin_of(ct_headers(AXIAL, SHAPE)), 0, "")
    written_as_is = [made, *made.PerFrameFunctionalGroupsSequence]
    assert all(len(element.VR) == 2 for dataset in written_as_is for element in dataset)


def test_maps_are_written_by_several_threads(tmp_path: Path) -> None:
    images = ct_headers(AXIAL, SHAPE)
    names = [f"count{number}" for number in range(24)]
    maps = {name: (("x", "y", "z"), a_map("status").data, STATUS) for name in (*names, "status")}
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        write_maps(
            xarray.Dataset(maps), tmp_path, affine=AXIAL, format="dicom", images=images, threads=8
        )
    finally:
        sys.setswitchinterval(before)
    read = read_maps(tmp_path).maps
    for name in names:
        np.testing.assert_array_equal(read[name].values, a_map("status").data)


def test_patient_and_study_are_those_of_the_source(tmp_path: Path) -> None:
    images = ct_headers(AXIAL, SHAPE)
    made = pydicom.dcmread(written(a_map(), tmp_path / "a.dcm", images))
    for keyword in (
        "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID",
        "StudyDate", "StudyDescription", "AccessionNumber", "FrameOfReferenceUID",
    ):  # fmt: skip
        assert made[keyword].value == images[0][keyword].value, keyword
    assert made.SeriesInstanceUID != images[0].SeriesInstanceUID
    nobody = pydicom.dcmread(written(a_map(), tmp_path / "b.dcm"))
    assert str(nobody.PatientName) == "Anonymous^"
    assert nobody.StudyInstanceUID != made.StudyInstanceUID


@pytest.mark.parametrize(
    "odd",
    [
        {"PatientName": "Musterfrau", "PatientSex": "x"},
        {"PatientBirthDate": "1970-01-02"},
        {"PatientName": "Müsterfrau^Ärika", "SpecificCharacterSet": "ISO_IR 100"},
    ],
)
def test_nobody_is_told_who_the_patient_is(
    tmp_path: Path, odd: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        images = ct_headers(AXIAL, SHAPE, **odd)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        path = written(a_map(), tmp_path / "a.dcm", images)
    said = "".join(str(one.message) for one in heard) + "".join(capfd.readouterr())
    assert not any(part in said for part in ("uster", "rika", "1970"))
    assert str(pydicom.dcmread(path).PatientName) == odd.get("PatientName", PATIENT)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda h: h[1].__setattr__("PatientID", "other"), "differ in PatientID"),
        (lambda h: h[0].__delattr__("SOPInstanceUID"), "has no SOPInstanceUID"),
        (lambda h: h[2].__delattr__("ImagePositionPatient"), "has no ImagePositionPatient"),
        (
            lambda h: h[1].__setattr__("ImageOrientationPatient", [0, 1, 0, 1, 0, 0]),
            "do not share one orientation",
        ),
    ],
)
def test_sources_that_do_not_belong_together(spoil: Any, message: str) -> None:
    images = ct_headers(AXIAL, SHAPE)
    spoil(images)
    with pytest.raises(KetyError, match=message):
        origin.origin_of(images)


# What others write, and damage ----------------------------------------------------------------


def stored(path: Path, made: Any) -> Path:
    made.save_as(path, enforce_file_format=True)
    return path


def test_whole_numbers_with_a_slope_are_mapped(tmp_path: Path) -> None:
    path = written(a_map("status"), tmp_path / "a.dcm")
    made = pydicom.dcmread(path)
    made.Manufacturer = "another"
    mapping = made.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept = 0.25, -1.0
    what = mapping.QuantityDefinitionSequence[0].ConceptCodeSequence[0]
    what.CodeValue, what.CodingSchemeDesignator, what.CodeMeaning = "126371", "DCM", "BAT"
    mapping.MeasurementUnitsCodeSequence[0].CodeValue = "s"
    back = objects.read_map(stored(path, made))
    expected = a_map("status").data.astype(np.float64) * 0.25 - 1
    assert sorted(back.data.ravel()) == sorted(expected.ravel())
    assert back.data.dtype == np.float64
    assert (back.sidecar["Quantity"], back.sidecar["Units"]) == ("bat", "s")
    assert "flag_values" not in back.sidecar


def test_several_quantities_in_one_object_are_refused(tmp_path: Path) -> None:
    path = written(a_map(), tmp_path / "a.dcm")
    made = pydicom.dcmread(path)
    groups = made.PerFrameFunctionalGroupsSequence
    groups[1].PlanePositionSequence = groups[0].PlanePositionSequence
    with pytest.raises(KetyError, match=r"a\.dcm: several of its 4 frames lie at one place"):
        objects.read_map(stored(path, made))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda m: m.__setattr__("SOPClassUID", "1.2.3"), "is no Parametric Map"),
        (lambda m: m.__setattr__("FloatPixelData", m.FloatPixelData[:-4]), "is truncated"),
        (lambda m: m.__delattr__("FloatPixelData"), "pixels cannot be read"),
        (lambda m: m.__delattr__("PerFrameFunctionalGroupsSequence"), "holds no frames"),
        (
            lambda m: m.SharedFunctionalGroupsSequence[0].__delattr__(
                "RealWorldValueMappingSequence"
            ),
            "does not say what its values are",
        ),
        (
            lambda m: (
                m.SharedFunctionalGroupsSequence[0]
                .RealWorldValueMappingSequence[0]
                .__delattr__("RealWorldValueSlope")
            ),
            "several rules or a table",
        ),
        (
            lambda m: m.PerFrameFunctionalGroupsSequence[0].__delattr__("PlanePositionSequence"),
            "has no ImagePositionPatient",
        ),
    ],
)
def test_damaged_objects_are_refused_by_name(tmp_path: Path, spoil: Any, message: str) -> None:
    path = written(a_map(), tmp_path / "a.dcm")
    made = pydicom.dcmread(path)
    spoil(made)
    with pytest.raises(KetyError, match=rf"a\.dcm.*{message}"):
        objects.read_map(stored(path, made))


def in_memory() -> bytes:
    stream = streams.BytesIO()
    parametric.write(stream, a_map(), origin.origin_of(None))
    return stream.getvalue()


WHOLE = in_memory()


@settings(deadline=None)
@given(cut=st.floats(0, 1, exclude_max=True))
def test_an_object_cut_anywhere_is_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, cut: float
) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.dcm"
    path.write_bytes(WHOLE[: int(cut * (len(WHOLE) - 1))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(KetyError, match=r"cut\.dcm: "):
            objects.read_map(path)


def test_a_series_of_volumes_is_no_map(tmp_path: Path) -> None:
    volume = a_map()
    curves = Volume(np.stack([volume.data] * 2, -1), AXIAL, "fitted", sidecar=volume.sidecar)
    with pytest.raises(KetyError, match="holds one volume, write series of volumes as NIfTI"):
        written(curves, tmp_path / "a.dcm")


def test_counts_too_large_for_16_bits_stay_exact(tmp_path: Path) -> None:
    volume = a_map("evaluations", units="1")
    counts = np.arange(np.prod(SHAPE), dtype=np.uint32).reshape(SHAPE) * 1_000_003
    large = Volume(counts, AXIAL, "evaluations", sidecar=volume.sidecar)
    back = objects.read_map(written(large, tmp_path / "a.dcm"))
    assert sorted(back.data.ravel()) == sorted(counts.ravel())
