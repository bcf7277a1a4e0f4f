"""Crop, blocks, denoising and region counts, alone and on the road from files to maps."""

from __future__ import annotations

import json
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

import kety
from commands import good, run
from kety.errors import KetyError
from kety.inputs import population_input
from kety.io import read_volume, write_series, write_volume
from kety.pipeline import Conversion, InputSource, estimate, read_study
from kety.preprocess import (
    Box,
    RegionIndex,
    choose_keep,
    classify,
    crop,
    dct_denoise,
    downsample,
    effective_frames,
    region_index,
    segment,
)
from kety.preprocess.segment import otsu_bins
from kety.series import Series, Volume
from kety.signal import signal_from_concentration, spgr_signal

AFFINE = np.array(
    [[-1.9, 0.3, 0.1, 40.0], [0.2, 2.1, -0.4, -30.0], [0.0, 0.5, 4.8, 7.0], [0.0, 0.0, 0.0, 1.0]]
)
TIMES = np.r_[np.arange(0.0, 100.0, 2.5), np.arange(100.0, 301.0, 10.0)]


def made(data: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> Series:
    return Series(data, np.arange(float(data.shape[3])), AFFINE, "CT", mask=mask, source="s.nii")


def world(series: Series) -> NDArray[np.float64]:
    """Places (X, Y, Z, 3) of the voxels' centres in mm."""
    voxels = np.stack(np.meshgrid(*map(np.arange, series.shape), indexing="ij"), axis=-1)
    return voxels @ series.affine[:3, :3].T + series.affine[:3, 3]


def ramp(shape: tuple[int, int, int], order: Any = "F", frames: int = 3) -> Series:
    """A series whose numbers are linear in the place in mm, and differ between frames."""
    empty = made(np.zeros((*shape, frames)))
    values = world(empty) @ [0.7, -1.3, 0.4]
    data = values[..., np.newaxis] * np.arange(1.0, frames + 1) + np.arange(frames)
    return made(np.asarray(data, order=order))


def linear(series: Series) -> NDArray[np.float64]:
    frames = series.data.shape[3]
    values = world(series) @ [0.7, -1.3, 0.4]
    return values[..., np.newaxis] * np.arange(1.0, frames + 1) + np.arange(frames)


# --- crop -------------------------------------------------------------------------------------


@given(shape=st.tuples(*[st.integers(1, 6)] * 3), order=st.sampled_from(["C", "F"]), draw=st.data())
@settings(max_examples=40, deadline=None)
def test_a_crop_keeps_every_voxel_where_it_is(
    shape: tuple[int, int, int], order: str, draw: st.DataObject
) -> None:
    ends = [sorted(draw.draw(st.sets(st.integers(0, n), min_size=2, max_size=2))) for n in shape]
    series = ramp(shape, order)
    text = ",".join(f"{first}:{last}" for first, last in ends)
    cut = crop(series, text)
    assert cut.shape == tuple(last - first for first, last in ends)
    np.testing.assert_allclose(cut.data, linear(cut), atol=1e-10)
    assert not np.shares_memory(cut.data, series.data)
    assert (cut.times == series.times).all()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1:3,0:2,4:5", Box((1, 3), (0, 2), (4, 5))),
        (" 1 : 3 , : , ", Box((1, 3), (None, None), (None, None))),
        ("2:,:4,", Box((2, None), (None, 4))),
        (",,", Box()),
    ],
)
def test_boxes_are_read(text: str, expected: Box) -> None:
    assert Box.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1:3,0:2", r"has 2 part\(s\); expected x0:x1,y0:y1,z0:z1"),
        ("", r"has 1 part\(s\)"),
        ("1:3,5,0:2", "cannot read '5'"),
        ("a:3,,", "cannot read 'a:3'"),
        ("1:2:3,,", "cannot read '1:2:3'"),
        ("1.0:2,,", "cannot read"),
        ("-2:,,", "index -2 along x is negative; indices count from 0"),
        (",:-1,", "index -1 along y is negative"),
        (",,3:3", "3:3 along z holds no voxel"),
        (",4:2,", "4:2 along y holds no voxel"),
        (":0,,", "0:0 along x holds no voxel"),
        ("0:6,,", r"0:6 along x reaches beyond the image, which has 5 voxel\(s\)"),
        (",4:,", "4:4 along y reaches beyond the image"),
    ],
)
def test_boxes_that_make_no_sense(text: str, message: str) -> None:
    with pytest.raises(KetyError, match=message):
        crop(ramp((5, 4, 2)), text)


def test_a_crop_takes_its_part_of_the_mask() -> None:
    mask = np.zeros((5, 4, 2), bool)
    mask[3, 2, 1] = True
    series = made(np.ones((5, 4, 2, 2)), mask)
    cut = crop(series, Box(x=(2, None), z=(1, 2)))
    assert cut.mask is not None
    assert np.argwhere(cut.mask).tolist() == [[1, 2, 0]]
    with pytest.raises(KetyError, match=r"s\.nii: no voxel of the mask lies in the crop"):
        crop(series, "0:2,,")


# --- blocks -----------------------------------------------------------------------------------


@given(
    shape=st.tuples(*[st.integers(1, 7)] * 3),
    factors=st.tuples(*[st.integers(1, 4)] * 3),
    order=st.sampled_from(["C", "F"]),
)
@settings(max_examples=60, deadline=None)
def test_blocks_of_a_ramp_are_the_ramp_at_their_centres(
    shape: tuple[int, int, int], factors: tuple[int, int, int], order: str
) -> None:
    series = ramp(shape, order)
    if any(1 < n < f for n, f in zip(shape, factors, strict=True)):
        with pytest.raises(KetyError, match="do not fit into the"):
            downsample(series, factors)
        return
    small = downsample(series, factors)
    assert small.shape == tuple(n // f if n > 1 else 1 for n, f in zip(shape, factors, strict=True))
    np.testing.assert_allclose(small.data, linear(small), atol=1e-10)


def test_one_factor_is_for_the_plane() -> None:
    assert downsample(ramp((5, 4, 3)), 2).shape == (2, 2, 3)
    assert downsample(ramp((5, 4, 1)), (2, 2, 4)).shape == (2, 2, 1)
    np.testing.assert_array_equal(downsample(ramp((5, 4, 3)), 1).data, ramp((5, 4, 3)).data)


def test_blocks_leave_nan_out_of_their_means() -> None:
    data = np.arange(16.0).reshape(4, 4, 1, 1).repeat(2, axis=3)
    data[0, 0, 0, 0] = np.nan
    data[2:, 2:, 0, 1] = np.nan
    small = downsample(made(data), 2).data
    assert small[0, 0, 0].tolist() == [(1 + 4 + 5) / 3, (0 + 1 + 4 + 5) / 4]
    assert small[1, 1, 0, 0] == (10 + 11 + 14 + 15) / 4
    assert np.isnan(small[1, 1, 0, 1])


@pytest.mark.parametrize(
    ("given_type", "expected"),
    [("f4", "f4"), ("f8", "f8"), ("i2", "f4"), ("u1", "f4"), ("i4", "f8")],
)
def test_types_of_means(given_type: str, expected: str) -> None:
    series = made(np.ones((4, 4, 1, 2), given_type))
    assert downsample(series, 2).data.dtype == expected
    assert dct_denoise(series.data, series.times, 1).dtype == expected


def test_a_block_is_in_the_mask_with_half_of_its_voxels() -> None:
    mask = np.zeros((5, 4, 1), bool)
    mask[0, 0] = mask[2, 0] = mask[3, 1] = mask[0:2, 2:4] = mask[4] = True
    small = downsample(made(np.ones((5, 4, 1, 2)), mask), 2)
    assert small.mask is not None
    assert small.mask[..., 0].tolist() == [[False, True], [True, False]]
    mask[:4] = False
    with pytest.raises(KetyError, match=r"no block of 2 × 2 × 1 voxels has half"):
        downsample(made(np.ones((5, 4, 1, 2)), mask), 2)


@pytest.mark.parametrize("factor", [0, -1, 2.0, True, "2", (2, 2), (2, 2, 0), (1, 1, 1, 1), None])
def test_factors_that_make_no_sense(factor: Any) -> None:
    with pytest.raises(KetyError, match="expected one whole number of 1 or more"):
        downsample(ramp((4, 4, 2)), factor)


# --- denoising --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tissue() -> NDArray[np.float64]:
    """Curves (800, T) in HU of an input with a peak of 300 HU."""
    rng = np.random.default_rng(1)
    aif = population_input("parker", 320.0, delay=10.0)
    aif = kety.InputFunction(aif.times, aif.concentration * (300.0 / aif.concentration.max()))
    limits = {"ktrans": (0.02, 1.0), "kep": (0.1, 3.0), "vb": (0.01, 0.2), "delay": (0.0, 10.0)}
    draws = {name: rng.uniform(*pair, 800) for name, pair in limits.items()}
    return np.asarray(kety.simulate_curves(draws, TIMES, aif, "extended_tofts"))


def noise(shape: tuple[int, ...], sd: float) -> NDArray[np.float64]:
    return sd * np.random.default_rng(2).standard_normal(shape)


curves = hnp.arrays(np.float64, (3, 12), elements=st.floats(-1e3, 1e3))
spacings = st.sampled_from(["frame", "time"])
TWELVE = np.r_[np.arange(6.0), np.arange(6.0, 18.0, 2.0)]


@given(values=curves, keep=st.integers(1, 10), start=st.integers(0, 2), spacing=spacings)
@settings(max_examples=40, deadline=None)
def test_denoising_is_a_projection(
    values: NDArray[np.float64], keep: int, start: int, spacing: Any
) -> None:
    def project(given: NDArray[np.float64]) -> NDArray[np.float64]:
        return dct_denoise(given, TWELVE, keep, start=start, spacing=spacing)

    once = project(values)
    np.testing.assert_allclose(project(once), once, atol=1e-8)
    np.testing.assert_allclose(
        project(2.5 * values[:1] - values[1:2]), 2.5 * once[:1] - once[1:2], atol=1e-8
    )
    np.testing.assert_array_equal(once[:, :start], values[:, :start])
    np.testing.assert_allclose(
        once[:, start:].sum(axis=1), values[:, start:].sum(axis=1), atol=1e-8
    )
    whole = dct_denoise(values, TWELVE, 12 - start, start=start, spacing=spacing)
    np.testing.assert_allclose(whole, values, atol=1e-8)


def test_it_is_the_truncated_dct() -> None:
    values = noise((4, 20), 1.0)
    index = np.arange(20)
    waves = np.cos(np.pi * np.outer(np.arange(20), index + 0.5) / 20)
    weights = np.where(np.arange(20) == 0, 1 / 20, 2 / 20)
    expected = (values @ waves.T * weights)[:, :6] @ waves[:6]
    for spacing in ("frame", "time"):  # the same on a uniform grid
        found = dct_denoise(values, 3.0 * index + 7.0, 6, spacing=spacing)  # type: ignore[arg-type]
        np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("order", ["C", "F"])
def test_what_is_not_finite_stays_alone(order: Any) -> None:
    values = np.asarray(noise((3, 4, 2, 20), 1.0) + 5.0, np.float32, order=order)
    clean = dct_denoise(values, np.arange(20.0), 7)
    spoilt = values.copy(order="K")
    spoilt[1, 2, 0, 3], spoilt[2, 0, 1, 0], spoilt[0, 0, 0] = np.nan, np.inf, np.nan
    found = dct_denoise(spoilt, np.arange(20.0), 7)
    gone = np.zeros((3, 4, 2), bool)
    gone[1, 2, 0] = gone[2, 0, 1] = gone[0, 0, 0] = True
    assert np.isnan(found[gone]).all()
    np.testing.assert_array_equal(found[~gone], clean[~gone])
    assert choose_keep(spoilt, np.arange(20.0)) == choose_keep(values[~gone], np.arange(20.0))


def test_voxels_outside_the_mask_are_left() -> None:
    values = noise((5, 20), 1.0)
    mask = np.array([True, False, True, False, False])
    found = dct_denoise(values, np.arange(20.0), 3, mask=mask)
    np.testing.assert_array_equal(found[~mask], values[~mask])
    np.testing.assert_array_equal(found[mask], dct_denoise(values[mask], np.arange(20.0), 3))


@pytest.mark.parametrize("sd", [6.0, 12.0])
def test_auto_comes_near_the_best(tissue: NDArray[np.float64], sd: float) -> None:
    noisy = tissue + noise(tissue.shape, sd)

    def error(keep: int, spacing: Any = "frame") -> float:
        difference = dct_denoise(noisy, TIMES, keep, spacing=spacing) - tissue
        return float(np.sqrt((difference**2).mean()))

    best = min(error(keep) for keep in range(1, TIMES.size))
    keep = choose_keep(noisy, TIMES)
    assert error(keep) < 1.05 * best
    assert best < 0.7 * sd
    # What the default spacing rests on.
    assert best < 0.9 * min(error(keep, "time") for keep in range(1, TIMES.size))
    np.testing.assert_array_equal(dct_denoise(noisy, TIMES), dct_denoise(noisy, TIMES, keep))


def test_air_does_not_vote(tissue: NDArray[np.float64]) -> None:
    air = noise((20_000, TIMES.size), 6.0)
    noisy = tissue + air[: len(tissue)]
    alone = choose_keep(noisy, TIMES)
    assert abs(choose_keep(np.concatenate([noisy, air]), TIMES) - alone) <= 1
    mask = np.r_[np.ones(len(noisy), bool), np.zeros(len(air), bool)]
    assert choose_keep(np.concatenate([noisy, air]), TIMES, mask=mask) == alone
    assert choose_keep(air, TIMES) <= 1 + TIMES.size // 4


def test_effective_frames_is_the_rank_of_the_noise() -> None:
    white = noise((4000, 24), 3.0)
    for start in (0, 4):
        left = dct_denoise(white, np.arange(24.0), 6, start=start)
        covariance = left.T @ left / len(left)
        number = effective_frames(6, 24, start=start)
        assert np.linalg.matrix_rank(covariance, tol=1e-6) == number
        assert np.trace(covariance) == pytest.approx(9.0 * number, rel=0.03)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep": 0}, "keep is 0; of 10 frames 1 to 10 coefficients can be kept"),
        ({"keep": 11}, "keep is 11"),
        ({"keep": 10, "start": 1}, "keep is 10; of 9 frames"),
        ({"keep": 2.0}, r"keep is 2\.0"),
        ({"keep": True}, "keep is True"),
        ({"keep": "many"}, "keep is 'many'; expected 'auto'"),
        ({"start": -1}, "start is -1; of 10 frames at least 2"),
        ({"start": 9}, "start is 9"),
        ({"start": 3, "keep": "auto"}, "7 frames are too few to choose"),
        ({"spacing": "log"}, "unknown spacing 'log'; valid: frame, time"),
        ({"times": np.arange(9.0)}, r"times have shape \(9,\), but the curves 10 frames"),
        ({"times": np.arange(10.0)[::-1]}, "strictly increasing"),
        ({"times": np.full(10, np.nan)}, "finite"),
        ({"curves": np.ones((2, 10), complex)}, "curves must be real"),
        ({"curves": np.float64(1.0)}, "curves must be real"),
        ({"curves": np.ones((2, 1)), "times": [0.0]}, "at least 2 must be left"),
        ({"mask": np.ones(3, bool)}, r"mask has shape \(3,\)"),
        ({"mask": np.zeros(2, bool)}, "mask is empty"),
        ({"curves": np.full((2, 10), np.nan), "keep": "auto"}, "no voxel is finite"),
    ],
)
def test_denoising_that_makes_no_sense(changes: dict[str, Any], message: str) -> None:
    arguments = {"curves": np.ones((2, 10)), "times": np.arange(10.0), "keep": 3} | changes
    with pytest.raises(KetyError, match=message):
        dct_denoise(**arguments)


# --- classes ----------------------------------------------------------------------------------


@given(counts=st.lists(st.integers(0, 9), min_size=4, max_size=12), classes=st.integers(2, 4))
@settings(max_examples=80, deadline=None)
def test_otsu_is_the_best_of_all_thresholds(counts: list[int], classes: int) -> None:
    histogram = np.array(counts)
    if np.count_nonzero(histogram) < classes:
        return

    def within(starts: tuple[int, ...]) -> float:
        ends = [0, *starts, len(counts)]
        total = 0.0
        for first, last in pairwise(ends):
            bins = np.repeat(np.arange(first, last), histogram[first:last])
            if not bins.size:
                return np.inf
            total += ((bins - bins.mean()) ** 2).sum()
        return total

    found = tuple(otsu_bins(histogram, classes).tolist())
    best = min(map(within, combinations(range(1, len(counts)), classes - 1)))
    assert within(found) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("method", ["otsu", "range", "quantile"])
def test_three_clear_classes_are_found(method: Any) -> None:
    truth = np.repeat([0, 1, 2], 300).reshape(30, 30)
    values = np.array([1.0, 4.0, 7.0])[truth] + noise((30, 30), 0.2)
    values[0, 0], values[0, 1], values[29, 29] = np.nan, np.inf, 500.0  # 500: as fits have
    labels, thresholds = segment(values, method=method)
    assert labels.dtype == np.uint8
    assert (labels[0, :2] == 255).all()
    known = labels != 255
    assert known.sum() == 898
    assert np.mean(labels[known] == truth[known]) > 0.99
    assert thresholds.shape == (2,)
    np.testing.assert_array_equal(classify(values, thresholds), labels)
    mask = truth > 0
    two, _ = segment(values, 2, method=method, mask=mask)
    assert (two[~mask] == 255).all()
    assert np.mean(two[mask] == truth[mask] - 1) > 0.99


def test_quantiles_hold_equal_numbers() -> None:
    labels, _ = segment(np.random.default_rng(0).permutation(90).reshape(9, 10), method="quantile")
    assert np.bincount(labels.ravel()).tolist() == [30, 30, 30]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": np.ones((4, 4))}, "too alike for 3 classes by otsu"),
        ({"values": np.ones((4, 4)), "method": "range"}, "too alike for 3 classes by range"),
        ({"values": np.eye(4), "method": "quantile"}, "most of 16 equal 0"),
        ({"values": np.eye(4)}, "too alike"),
        ({"values": np.full((4, 4), np.nan)}, "0 finite value"),
        ({"values": np.ones(4)}, r"a map of real numbers"),
        ({"values": np.ones((4, 4), complex)}, "a map of real numbers"),
        ({"mask": np.ones((4, 3))}, r"mask has shape \(4, 3\), the map \(4, 4\)"),
        ({"classes": 1}, "1 classes; expected 2 to 16"),
        ({"classes": 17}, "17 classes"),
        ({"method": "kmeans"}, "unknown method 'kmeans'; valid: otsu, range, quantile"),
    ],
)
def test_classes_that_make_no_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(KetyError, match=message):
        segment(**({"values": np.arange(16.0).reshape(4, 4)} | changes))


def test_thresholds_must_increase() -> None:
    with pytest.raises(KetyError, match="expected an increasing list"):
        classify(np.eye(3), [1.0, 0.5])


# --- regions ----------------------------------------------------------------------------------


def flooded(labels: NDArray[np.uint8], corners: bool) -> list[int]:
    """Sizes of the regions of one slice, filled one after the other from a first pixel."""
    steps = [(0, 1), (1, 0), (0, -1), (-1, 0)]
    if corners:
        steps += [(1, 1), (1, -1), (-1, 1), (-1, -1)]
    left = {(int(x), int(y)) for x, y in np.argwhere(labels != 255)}
    sizes = []
    while left:
        front, size = [left.pop()], 0
        while front:
            x, y = front.pop()
            size += 1
            for dx, dy in steps:
                neighbour = (x + dx, y + dy)
                if neighbour in left and labels[neighbour] == labels[x, y]:
                    left.remove(neighbour)
                    front.append(neighbour)
        sizes.append(size)
    return sizes


@given(
    labels=hnp.arrays(np.uint8, (7, 6, 3), elements=st.sampled_from([0, 1, 2, 255])),
    connectivity=st.sampled_from([1, 2]),
    artifact=st.integers(0, 3),
)
@settings(max_examples=50, deadline=None)
def test_regions_are_those_of_a_flood(
    labels: NDArray[np.uint8], connectivity: int, artifact: int
) -> None:
    sizes = [flooded(labels[..., z], connectivity == 2) for z in range(3)]
    sizes = [one for one in sizes if one]
    found = region_index(labels, artifact=artifact, connectivity=connectivity)
    assert found.regions_per_slice == tuple(map(len, sizes))
    assert found.artifacts_per_slice == tuple(sum(n <= artifact for n in one) for one in sizes)
    assert found.regions == sum(found.regions_per_slice)
    assert found.artifacts == sum(found.artifacts_per_slice)
    if sizes:
        assert found.mean_regions == pytest.approx(found.regions / len(sizes))


def test_regions_of_a_small_image() -> None:
    labels = np.array([[0, 0, 1], [0, 2, 1], [1, 255, 0]])
    assert region_index(labels) == RegionIndex(5, 4, (5,), (4,))
    assert region_index(labels, connectivity=2).regions == 5
    empty = region_index(np.full((2, 2), 255))
    assert (empty.regions, empty.artifacts) == (0, 0)
    assert np.isnan([empty.mean_regions, empty.mean_artifacts]).all()


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (np.zeros((2, 2)), {}, "whole numbers of shape"),
        (np.zeros(4, int), {}, "whole numbers of shape"),
        (np.full((2, 2), 256), {}, "labels 256 to 256"),
        (np.full((2, 2), -1), {}, "labels -1 to -1"),
        (np.zeros((2, 2), int), {"connectivity": 3}, "connectivity is 3"),
        (np.zeros((2, 2), int), {"artifact": -1}, "artifact is -1"),
    ],
)
def test_regions_that_make_no_sense(
    labels: NDArray[Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(KetyError, match=message):
        region_index(labels, **options)


# --- on the road from files to maps -----------------------------------------------------------


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ct") / "study"
    good("simulate", folder, "--size", "32,27,2", "--noise", 2)
    return folder


def fit(study: Path, out: Path, *options: object) -> tuple[dict[str, Any], Result]:
    result = good("fit", study / "dce.nii.gz", "--no-report", "--out", out, *options)
    return json.loads((out / "fit.json").read_text()), result


def map_of(folder: Path, name: str) -> Volume:
    record = json.loads((folder / "fit.json").read_text())
    return read_volume(folder / record["Maps"][name])


@pytest.mark.parametrize("source", [("--aif", "aif.csv"), ("--aif-mask", "aorta.nii.gz")])
def test_a_crop_fits_what_the_whole_fits_there(
    ct: Path, tmp_path: Path, source: tuple[str, str]
) -> None:
    options = [source[0], ct / source[1], "--mask", ct / "body.nii.gz"]
    fit(ct, tmp_path / "whole", *options)
    record, result = fit(
        ct, tmp_path / "part", *options, "--crop", "20:30,8:20,1:2", "--roi", ct / "body.nii.gz"
    )
    aorta = read_volume(ct / "aorta.nii.gz").data[20:30, 8:20, 1:2]
    assert not aorta.any()  # the input does not need its vessel in the crop
    assert "crop      20:30,8:20,1:2, 10 × 12 × 1 voxels of" in result.output
    assert record["crop"] == "20:30,8:20,1:2"
    for name in ("ktrans", "delay", "ktrans_se", "status"):
        whole, part = map_of(tmp_path / "whole", name), map_of(tmp_path / "part", name)
        np.testing.assert_array_equal(part.data, whole.data[20:30, 8:20, 1:2])
        place = whole.affine @ [20, 8, 1, 1]
        np.testing.assert_allclose(part.affine[:, 3], place, atol=1e-4)


def test_downsampled_and_denoised(ct: Path, tmp_path: Path) -> None:
    options = ["--aif", ct / "aif.csv", "--mask", ct / "body.nii.gz", "--downsample"]
    plain, result = fit(ct, tmp_path / "plain", *options, 2)
    assert "blocks    means of 2 × 2 × 1 voxels, 16 × 13 × 2 voxels of 24 × " in result.output
    assert (plain["downsample"], plain["warnings"]) == ([2, 2, 1], [])
    assert "denoised" not in plain
    record, result = fit(ct, tmp_path / "dct", *options, "2,2,1", "--denoise", "dct:40")
    assert "denoised  40 cosines of 66, as given" in result.output
    assert record["denoised"] == {
        "method": "dct", "keep": 40, "frames": 66, "keep_from": "as given"
    }  # fmt: skip
    assert len(record["warnings"]) == 1
    assert "standard errors take no account of it and are at least 1.3" in record["warnings"][0]
    one, other = map_of(tmp_path / "plain", "ktrans"), map_of(tmp_path / "dct", "ktrans")
    body = read_volume(ct / "body.nii.gz")
    assert one.data.shape == (16, 13, 2)
    np.testing.assert_allclose(one.affine[:3, 0], 2 * body.affine[:3, 0], atol=1e-4)
    both = np.isfinite(one.data) & np.isfinite(other.data)
    difference = np.abs(one.data - other.data)[both]
    assert 0 < np.median(difference) < 0.1 * np.median(one.data[both])


def test_all_three_in_a_report(ct: Path, tmp_path: Path) -> None:
    result = good(
        "fit", ct / "dce.nii.gz", "--aif", ct / "aif.csv", "--out", tmp_path, "--crop", "4:,,",
        "--downsample", 2, "--denoise", "dct", "--roi", ct / "tumour.nii.gz", "--fitted",
    )  # fmt: skip
    labels = [line.split()[0] for line in result.stdout.splitlines()]
    assert labels[:7] == ["series", "frames", "crop", "blocks", "baseline", "denoised", "input"]
    assert "standard errors take no account" in (tmp_path / "report.html").read_text()
    record = json.loads((tmp_path / "fit.json").read_text())
    fitted = read_volume(tmp_path / record["Maps"]["fitted"], stack=True)
    assert fitted.data.shape == (14, 13, 2, 66)


def test_keeping_every_cosine_changes_and_warns_of_nothing(ct: Path) -> None:
    source = InputSource(table=ct / "aif.csv")
    plain = read_study(ct / "dce.nii.gz", source)
    same = read_study(ct / "dce.nii.gz", source, denoise="dct:66")
    np.testing.assert_allclose(same.curves, plain.curves, atol=1e-3)
    assert plain.grid is None
    with pytest.warns(UserWarning, match="of the 66 frames of denoised curves only 9"):
        read_study(ct / "dce.nii.gz", source, denoise="dct:9")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--crop", "0:9,0:9"], "expected x0:x1,y0:y1,z0:z1"),
        (["--crop", "0:33,,"], "reaches beyond the image"),
        (["--crop", "0:1,0:1,", "--mask", "tumour.nii.gz"], "no voxel of the mask lies in"),
        (["--crop", "0:2,0:2,", "--roi", "tumour.nii.gz"], "none of its voxels lies in the part"),
        (["--downsample", "0"], "expected one whole number of 1 or more"),
        (["--downsample", "2,2"], "expected e.g. 2, or 2,2,1"),
        (["--downsample", "two"], "expected e.g. 2, or 2,2,1"),
        (["--downsample", "40"], "do not fit into the 32 voxels"),
        (["--denoise", "wavelet"], "expected dct, or dct:N"),
        (["--denoise", "dct:"], "expected dct, or dct:N"),
        (["--denoise", "dct:-3"], "expected dct, or dct:N"),
        (["--denoise", "dct:67"], "keep is 67; of 66 frames"),
    ],
)
def test_options_that_make_no_sense(
    ct: Path, tmp_path: Path, options: list[str], words: str
) -> None:
    named = [ct / one if one.endswith(".nii.gz") else one for one in options]
    result = run(
        "fit", ct / "dce.nii.gz", "--aif", ct / "aif.csv", "--out", tmp_path / "maps", *named
    )
    assert result.exit_code == 2
    assert words in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert not (tmp_path / "maps").exists()


TR, ANGLE, FLIPS = 0.004, 20.0, (2.0, 8.0, 15.0, 20.0)


@pytest.fixture(scope="module")
def mr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MR study (8, 6, 2) whose T1, B1 and Ktrans vary; its vessel is the first column."""
    folder = tmp_path_factory.mktemp("mr")
    shape, times = (8, 6, 2), np.arange(0.0, 240.0, 3.0)
    grid = np.indices(shape, dtype=float)
    t10 = 0.8 + 0.1 * grid[0] + 0.05 * grid[1]
    b1 = 1.0 + 0.02 * grid[1]
    ktrans = 0.1 + 0.02 * grid[0] + 0.01 * grid[2]
    aif = population_input("parker", 260.0, delay=30.0)
    truth = {"ktrans": ktrans, "kep": ktrans / 0.3}
    flat = {key: values.ravel() for key, values in truth.items()} | {"delay": 2.0}
    concentration = kety.simulate_curves(flat, times, aif, "tofts").reshape(*shape, -1)
    concentration[0] = aif(times)
    vessel = grid[0] == 0
    t10[vessel] = 1.6
    signal = signal_from_concentration(
        concentration, t10=t10, repetition_time=TR, flip_angle=ANGLE, relaxivity=4.5, s0=1000.0,
        b1=b1,
    )  # fmt: skip
    acquisition = {"repetition_time": TR, "flip_angle": ANGLE}
    affine = np.diag([2.0, 2.0, 5.0, 1.0])
    write_series(Series(signal, times, affine, "MR", acquisition), folder / "dce.nii.gz")
    flips = np.stack([spgr_signal(1 / t10, 1000.0, TR, a * b1) for a in FLIPS], axis=-1)
    images = {"t10": t10, "b1": b1, "vfa": flips, "vessel": vessel.astype(np.uint8)}
    for name, values in images.items():
        write_volume(Volume(values, affine), folder / f"{name}.nii.gz")
    return folder


def conversions(mr: Path) -> dict[str, Conversion]:
    b1 = mr / "b1.nii.gz"
    return {
        "t10": Conversion(t10=mr / "t10.nii.gz", b1=b1, relaxivity=4.5),
        "vfa": Conversion(vfa=[mr / "vfa.nii.gz"], vfa_angles=FLIPS, b1=b1, relaxivity=4.5),
    }


@pytest.mark.parametrize("name", ["t10", "vfa"])
def test_maps_of_t1_and_b1_follow_the_region(mr: Path, name: str) -> None:
    source, conversion = InputSource(mask=mr / "vessel.nii.gz"), conversions(mr)[name]
    whole = read_study(mr / "dce.nii.gz", source, conversion)
    part = read_study(mr / "dce.nii.gz", source, conversion, crop="2:8,1:5,1:2")
    np.testing.assert_array_equal(part.curves, whole.curves[2:8, 1:5, 1:2])
    np.testing.assert_array_equal(part.aif.concentration, whole.aif.concentration)
    small = read_study(mr / "dce.nii.gz", source, conversion, crop="2:8,1:5,1:2", downsample=2)
    np.testing.assert_array_equal(small.aif.concentration, whole.aif.concentration)
    np.testing.assert_array_equal(small.baseline, whole.baseline)
    fine = part.curves.reshape(3, 2, 2, 2, 1, -1).mean(axis=(1, 3))
    np.testing.assert_allclose(small.curves, fine, atol=0.02 * fine.max())
    maps = estimate(small, "tofts")
    expected = 0.1 + 0.02 * np.array([2.5, 4.5, 6.5]) + 0.01
    found = maps["ktrans"].values[..., 0].mean(axis=1)
    np.testing.assert_allclose(found, expected, rtol=0.05)


def test_unknown_t1_is_left_out_of_a_block(mr: Path, tmp_path: Path) -> None:
    t10 = read_volume(mr / "t10.nii.gz")
    holes = t10.data.copy()
    holes[2, 0] = 0.0
    write_volume(Volume(holes, t10.affine), tmp_path / "t10.nii.gz")
    conversion = Conversion(t10=tmp_path / "t10.nii.gz")
    source = InputSource(population="parker", delay=30.0)
    study = read_study(mr / "dce.nii.gz", source, conversion, downsample=2)
    assert study.scan is not None
    found = np.asarray(study.scan.t10)[1, 0]
    np.testing.assert_allclose(found, t10.data[[2, 3, 3], [1, 0, 1]].mean(axis=0), rtol=1e-6)


def test_the_t1_of_blood_needs_no_images(mr: Path) -> None:
    conversion = conversions(mr)["vfa"]
    source = InputSource(mask=mr / "vessel.nii.gz", t10=1.6)
    whole = read_study(mr / "dce.nii.gz", source, conversion)
    part = read_study(mr / "dce.nii.gz", source, conversion, crop="2:8,,")
    np.testing.assert_array_equal(part.aif.concentration, whole.aif.concentration)
