"""Masks made from the series: body, air, bone, and what enhances although the patient moves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from commands import good, run
from kety.errors import KetyError
from kety.io import read_mask, read_series
from kety.preprocess import (
    KINDS,
    air_mask,
    body_mask,
    bone_mask,
    enhancement_mask,
    make_mask,
)
from kety.series import Series
from kety.simulate import Phantom, rician, simulate_abdomen

SIZE = (48, 40, 6)
BASELINE = slice(0, 4)


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return simulate_abdomen(SIZE, noise=0.0, seed=2)


def moved(phantom: Phantom, breath: float, *, noise: float = 6.0, spikes: bool = False) -> Series:
    """The phantom breathing by so many mm, with noise and single frames that are off."""
    random = np.random.default_rng(5)
    series = phantom.series
    sizes = np.linalg.norm(series.affine[:3, :3], axis=0)
    phase = (
        2 * np.pi * series.times / 4.3 + 0.2 * random.standard_normal(series.times.size).cumsum()
    )
    data = np.empty_like(series.data)
    for frame, angle in enumerate(phase):
        shift = breath * np.array([0.15, 0.4, 1.0]) * np.sin(angle) / sizes
        data[..., frame] = (
            ndimage.shift(series.data[..., frame], shift, order=1, mode="nearest")
            if breath
            else series.data[..., frame]
        )
    data += noise * random.standard_normal(data.shape, dtype=np.float32)
    if spikes:
        flat = data.reshape(-1, data.shape[-1])
        chosen = random.integers(0, len(flat), len(flat) // 50)
        flat[chosen, random.integers(0, data.shape[-1], chosen.size)] += 200.0
    return replace(series, data=data)


def shares(mask: NDArray[Any], yes: NDArray[Any], no: NDArray[Any]) -> tuple[float, float]:
    """Sensitivity and specificity."""
    return float(mask[yes].mean()), float(1 - mask[no].mean())


def peaks(phantom: Phantom) -> NDArray[Any]:
    return np.asarray((phantom.series.data - phantom.baseline[..., None]).max(axis=-1))


# --- CT numbers -----------------------------------------------------------------------------------


def test_body_air_and_bone_of_the_phantom(phantom: Phantom) -> None:
    series = moved(phantom, 0.0, noise=12.0)
    body, air = make_mask(series, "body"), make_mask(series, "air")
    np.testing.assert_array_equal(body, phantom.body)
    np.testing.assert_array_equal(air, phantom.mask("air", "gas"))
    bone = make_mask(series, "bone")
    cortical = phantom.mask("cortical bone")
    assert bone[cortical].mean() > 0.99
    assert bone[~phantom.mask("cortical bone", "bone marrow")].mean() < 0.005
    # Vessels are as bright as bone in some frames, but not before contrast agent.
    assert not bone[phantom.mask("aorta")].any()
    tissue = make_mask(series, "tissue")
    np.testing.assert_array_equal(tissue, body & ~air & ~bone)


def test_a_table_is_not_the_body_and_lungs_are() -> None:
    x, y = np.mgrid[-60:61, -50:51]
    image = np.full((121, 101, 3), -1000.0)
    image[(x / 45) ** 2 + (y / 32) ** 2 < 1] = 40.0
    lung = (np.abs(x) - 20) ** 2 + y**2 < 144
    image[lung] = -800.0
    image[20:101, 6:8] = 100.0  # the table's shell, 2 mm thick, beneath the patient
    image[58:62, 8:19] = -50.0  # and what touches both, 4 mm wide
    body = body_mask(image, (1.0, 1.0, 5.0))
    assert body[lung].all()
    assert not body[30:50, 6:8].any()
    assert body[60, 50].all()
    air = air_mask(image)
    assert air[lung].all()
    assert air[0, 0].all()
    assert air_mask(np.full((2, 2, 2), np.nan)).all()


def test_marrow_is_filled_a_skull_is_not_and_specks_go() -> None:
    x, y = np.mgrid[-60:61, -60:61]
    image = np.full((121, 121, 4), 40.0)
    radius = np.hypot(x, y)
    skull = (radius > 40) & (radius < 46)
    image[skull] = 900.0
    image[(np.hypot(x - 54, y) < 6) & (np.hypot(x - 54, y) > 3)] = 700.0
    image[10, 10, 1] = 500.0
    bone = bone_mask(image, (1.0, 1.0, 1.0))
    assert bone[skull].all()
    assert not bone[60, 60].any()
    assert bone[114, 60].all()  # the marrow of the small ring
    assert not bone[10, 10].any()


@settings(max_examples=20, deadline=None)
@given(st.floats(-900, 900), st.integers(0, 2**16))
def test_a_threshold_is_a_threshold(threshold: float, seed: int) -> None:
    image = np.random.default_rng(seed).uniform(-1000, 1000, (4, 5, 3))
    np.testing.assert_array_equal(air_mask(image, threshold=threshold), image < threshold)


# --- MR -------------------------------------------------------------------------------------------


def test_the_body_in_an_mr_magnitude(phantom: Phantom) -> None:
    level = np.where(phantom.body, 300.0, 0.0)
    level[phantom.mask("fat")] = 700.0
    level *= np.linspace(0.6, 1.4, SIZE[0])[:, None, None]  # a coil is near on one side
    signal = rician(np.repeat(level[..., None], 12, axis=-1), 20.0, seed=1)
    series = Series(signal, np.arange(12.0), phantom.series.affine, "MR")
    body = make_mask(series, "body")
    assert body[phantom.body].mean() > 0.99
    assert body[~phantom.body].mean() < 0.02
    with pytest.raises(KetyError, match="bone is told by CT numbers, but the series is MR"):
        make_mask(series, "bone")


def test_masks_of_a_patient(reference: Any) -> None:
    folder = reference("madym_abdomen")
    series = read_series(folder / "dce.nii.gz", times=folder / "times.csv", modality="MR")
    tumour = read_mask(folder / "tumour_roi.nii.gz")
    body = make_mask(series, "body")
    assert body[tumour].all()
    assert 0.6 < body.mean() < 0.95
    assert make_mask(series, "enhancing")[~body].sum() == 0


# --- what enhances --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("breath", "noise", "spikes", "sensitivity"),
    [
        (0.0, 6.0, False, 0.94),
        (0.0, 6.0, True, 0.94),
        (4.0, 6.0, True, 0.85),
        (0.0, 12.0, True, 0.85),
    ],
)
def test_enhancement_is_found_and_motion_is_not_taken_for_it(
    phantom: Phantom, breath: float, noise: float, spikes: bool, sensitivity: float
) -> None:
    series = moved(phantom, breath, noise=noise, spikes=spikes)
    mask = make_mask(series, "enhancing")
    peak = peaks(phantom)
    found, rejected = shares(mask, (peak >= 15) & phantom.body, (peak < 2) & phantom.body)
    assert found > sensitivity
    assert rejected > 0.97
    assert not mask[~phantom.body].any()


def test_a_plain_threshold_takes_edges_that_move_for_enhancement(phantom: Phantom) -> None:
    # What the mask has to be better than, so that the test above can fail.
    series = moved(phantom, 4.0)
    rise = np.median(series.data[..., 8:], axis=-1) - np.median(series.data[..., :4], axis=-1)
    still = (peaks(phantom) < 2) & phantom.body
    naive = rise > 4.5 * 1.25 * 6.0 * np.sqrt(1 / 4 + 1 / 58)
    assert naive[still].mean() > 2 * make_mask(series, "enhancing")[still].mean()


def test_noise_alone_does_not_enhance() -> None:
    random = np.random.default_rng(0)
    data = 50.0 + 10.0 * random.standard_normal((40, 40, 4, 40))
    mask = enhancement_mask(data, 2.0 * np.arange(40.0), BASELINE)
    assert mask.mean() < 1e-3


def test_a_lesion_of_few_voxels_is_kept() -> None:
    random = np.random.default_rng(0)
    data = 50.0 + 5.0 * random.standard_normal((30, 30, 3, 40))
    data[14:16, 14:17, 1, 6:] += 30.0
    mask = enhancement_mask(data, 2.0 * np.arange(40.0), BASELINE)
    assert mask[14:16, 14:17, 1].all()
    assert mask.sum() < 12


def test_layout_and_scale_do_not_matter(phantom: Phantom) -> None:
    series = moved(phantom, 2.0)
    times = series.times
    one = enhancement_mask(series.data, times, BASELINE, phantom.body)
    other = enhancement_mask(np.asfortranarray(series.data), times, BASELINE, phantom.body)
    np.testing.assert_array_equal(one, other)
    scaled = enhancement_mask(4.0 * series.data, times, BASELINE, phantom.body)
    np.testing.assert_array_equal(one, scaled)


def test_voxels_that_are_not_finite_do_not_enhance(phantom: Phantom) -> None:
    series = moved(phantom, 0.0)
    data = series.data.copy()
    data[20:24, 20:24, 2, 30] = np.nan
    mask = enhancement_mask(data, series.times, BASELINE, phantom.body)
    assert mask.any()
    assert not mask[20:24, 20:24, 2].any()
    assert enhancement_mask(series.data, series.times, BASELINE, phantom.body)[
        20:24, 20:24, 2
    ].any()
    with pytest.raises(KetyError, match="no voxel is finite"):
        enhancement_mask(np.full((9, 9, 1, 12), np.nan), np.arange(12.0), BASELINE)


# --- bad input ------------------------------------------------------------------------------------


def test_what_cannot_be_a_mask_says_why(phantom: Phantom) -> None:
    series = phantom.series
    with pytest.raises(KetyError, match="unknown kind of mask 'lung'; valid: body, tissue"):
        make_mask(series, "lung")
    with pytest.raises(KetyError, match="an image of real numbers"):
        air_mask(np.zeros((3, 3)))
    with pytest.raises(KetyError, match="three lengths in mm"):
        bone_mask(np.zeros((3, 3, 3)), (1.0, 0.0, 1.0))
    with pytest.raises(KetyError, match="no body was found"):
        body_mask(np.full((9, 9, 2), -1000.0), (1.0, 1.0, 1.0))
    with pytest.raises(KetyError, match="no baseline frames found"):
        make_mask(replace(series, data=np.full(series.data.shape, 40.0)), "bone")
    with pytest.raises(KetyError, match="no voxel of bone was found"):
        make_mask(replace(series, data=np.full(series.data.shape, 40.0)), "bone", baseline=BASELINE)
    with pytest.raises(KetyError, match="at least 3 are needed to tell what enhances"):
        enhancement_mask(np.zeros((9, 9, 1, 6)), np.arange(6.0), slice(0, 5))
    with pytest.raises(KetyError, match="expected"):
        enhancement_mask(np.zeros((9, 9, 6)), np.arange(6.0), BASELINE)


# --- at the shell ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masks")
    good("simulate", folder, "--size", "32,27,4")
    return folder


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_command_writes_what_python_makes(study: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "mask.nii.gz"
    result = good("mask", study / "dce.nii.gz", "--kind", kind, "--out", out)
    expected = make_mask(read_series(study / "dce.nii.gz"), kind)
    np.testing.assert_array_equal(read_mask(out), expected)
    assert f"{expected.sum():,} voxels of {kind}" in result.output
    assert not list(tmp_path.glob("*.part"))


def test_a_fit_makes_its_mask(study: Path, tmp_path: Path) -> None:
    arguments = ("fit", study / "dce.nii.gz", "--aif", study / "aif.csv", "--no-report")
    result = good(*arguments, "--mask", "tissue", "--out", tmp_path / "fit")
    tissue = make_mask(read_series(study / "dce.nii.gz"), "tissue")
    assert f"{tissue.sum():,} voxels in mask, made from the series (tissue)" in result.output
    assert '"mask": "tissue, made from the series"' in (tmp_path / "fit/fit.json").read_text()
    given = run(*arguments, "--mask", "enhancing", "--quantity", "enhancement", "--out", tmp_path)
    assert given.exit_code == 2
    assert "the series holds enhancement; give a mask file" in given.output


def test_a_wrong_kind_is_refused_at_the_shell(study: Path) -> None:
    wrong = run("mask", study / "dce.nii.gz", "--kind", "x")
    assert "unknown kind of mask 'x'; valid: body, tissue, air, bone, enhancing" in wrong.output
    fit = run("fit", study / "dce.nii.gz", "--aif", study / "aif.csv", "--mask", "bodies")
    assert "unknown mask 'bodies': there is no such file" in fit.output
    result = run(
        "mask", study / "dce.nii.gz", "--kind", "body", "--interval", 2, "--times", "a.csv"
    )
    assert "give one of them" in result.output
