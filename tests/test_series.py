"""Series and Volume: what they accept, what they refuse and how, and the order of their curves."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kety.errors import KetyError
from kety.series import Series, Volume, check_same_grid

SHAPE = (4, 3, 2, 5)


def series(**changes: Any) -> Series:
    fields: dict[str, Any] = {
        "data": np.arange(120.0).reshape(SHAPE),
        "times": np.arange(5.0),
        "affine": np.diag([2.0, 2.0, 5.0, 1.0]),
        "modality": "MR",
        "acquisition": {"flip_angle": 20},
        "source": "dce.nii.gz",
    }
    return Series(**(fields | changes))


def test_fields_are_kept_and_the_data_are_not_copied() -> None:
    data = np.asfortranarray(np.ones(SHAPE, np.int16))
    made = series(data=data)
    assert made.data is data
    assert made.shape == (4, 3, 2)
    assert made.acquisition == {"flip_angle": 20.0}
    assert made.times.dtype == made.affine.dtype == np.float64


def test_it_survives_pickling_for_worker_processes() -> None:
    copy = pickle.loads(pickle.dumps(series(mask=np.ones(SHAPE[:3], bool))))
    np.testing.assert_array_equal(copy.data, series().data)


def test_times_and_affine_are_its_own() -> None:
    times, affine = np.arange(5.0), np.eye(4)
    made = series(times=times, affine=affine)
    times[0] = affine[0, 0] = -7
    assert made.times[0] == 0
    assert made.affine[0, 0] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": np.ones((4, 3, 5))}, r"dce\.nii\.gz: data of shape \(4, 3, 5\) have 3 dimen"),
        ({"data": np.ones((4, 3, 2, 1)), "times": [0.0]}, "one frame only"),
        ({"data": np.ones((0, 3, 2, 5))}, "hold no voxels"),
        ({"data": np.ones(SHAPE, complex)}, "type complex128; expected real numbers"),
        ({"data": np.ones(SHAPE, bool)}, "type bool; expected real numbers"),
        ({"times": np.arange(4.0)}, r"times of shape \(4,\) for 5 frames"),
        ({"times": np.ones((5, 1))}, r"times of shape \(5, 1\) for 5 frames"),
        ({"times": [0, 1, 2, 2, 3]}, "increase strictly: 2 s at frame 2, then 2 s"),
        ({"times": [0, 1, 5, 4, 6]}, "increase strictly: 5 s at frame 2, then 4 s"),
        ({"times": [0, 1, np.nan, 3, 4]}, "time nan at frame 2"),
        ({"times": [0, 1, 2, 3, np.inf]}, "time inf at frame 4"),
        ({"affine": np.eye(3)}, r"affine of shape \(3, 3\)"),
        ({"affine": np.full((4, 4), np.nan)}, r"must be finite with \(0, 0, 0, 1\)"),
        ({"affine": np.diag([1, 1, 1, 2])}, r"must be finite with \(0, 0, 0, 1\)"),
        ({"affine": np.diag([1, 0, 1, 1])}, "has no inverse"),
        ({"modality": "MRI"}, "unknown modality 'MRI'; valid: CT, MR"),
        ({"acquisition": {"flip_angle": "wide"}}, "flip_angle is 'wide', not a number"),
        ({"acquisition": {"flip_angle": None}}, "flip_angle is None, not a number"),
        ({"acquisition": {"repetition_time": np.nan}}, "repetition_time is nan, expected a finite"),
        ({"mask": np.ones(SHAPE[:3])}, "mask of type float64, expected bool"),
        ({"mask": np.ones((4, 3, 3), bool)}, r"shape \(4, 3, 3\) does not lie on the grid"),
        ({"mask": np.zeros(SHAPE[:3], bool)}, r"mask for dce\.nii\.gz is empty"),
    ],
)
def test_bad_input_is_refused_with_what_was_found(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(KetyError, match=message):
        series(**changes)


def test_nan_voxels_are_data() -> None:
    assert np.isnan(series(data=np.full(SHAPE, np.nan)).data).all()


@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(*[st.integers(1, 4)] * 3, st.integers(2, 5)),
    layout=st.sampled_from(["C", "F", "strided"]),
    dtype=st.sampled_from([np.float32, np.float64, np.int16, np.uint16]),
    where=st.sampled_from(["none", "argument", "own"]),
)
def test_curves_are_the_masked_array_whatever_the_layout(
    seed: int, shape: tuple[int, int, int, int], layout: str, dtype: Any, where: str
) -> None:
    random = np.random.default_rng(seed)
    data = random.integers(0, 1000, shape).astype(dtype)
    if layout == "strided":
        data = np.repeat(data, 2, axis=1)[:, ::2]
    else:
        data = np.array(data, order="F" if layout == "F" else "C")
    mask = random.random(shape[:3]) < 0.5
    mask[0, 0, 0] = True
    made = series(data=data, times=np.arange(shape[3]), mask=mask if where == "own" else None)
    curves = made.curves(mask if where == "argument" else None)
    expected = data.reshape(-1, shape[3]) if where == "none" else data[mask]
    np.testing.assert_array_equal(curves, expected)
    assert curves.dtype == dtype


def test_an_argument_replaces_the_series_own_mask() -> None:
    own = np.zeros(SHAPE[:3], bool)
    own[0, 0, 0] = True
    made = series(mask=own)
    assert made.curves().shape == (1, 5)
    assert made.curves(np.ones(SHAPE[:3], bool)).shape == (24, 5)
    with pytest.raises(KetyError, match="expected bool"):
        made.curves(np.ones(SHAPE[:3]))


def test_all_curves_of_c_ordered_data_are_a_view_and_of_fortran_ordered_keep_frames() -> None:
    made = series()
    assert np.shares_memory(made.curves(), made.data)
    assert series(data=np.asfortranarray(made.data)).curves().T.flags.c_contiguous


def test_volumes_have_three_or_four_dimensions() -> None:
    assert Volume(np.ones((4, 3, 2, 7)), np.eye(4)).shape == (4, 3, 2)
    with pytest.raises(KetyError, match=r"t1\.nii: data of shape \(4, 3\) have 2 dimensions"):
        Volume(np.ones((4, 3)), np.eye(4), "t1.nii")


def test_the_same_grid_is_shape_and_affine_to_a_micrometre() -> None:
    one = series()
    check_same_grid(Volume(np.ones(SHAPE[:3]), one.affine + np.diag([9e-4] * 3 + [0])), one)
    moved = one.affine.copy()
    moved[0, 3] += 0.01
    with pytest.raises(
        KetyError, match=r"mask\.nii lies on another grid than dce\.nii\.gz: the same .* 0\.01 mm"
    ):
        check_same_grid(Volume(np.ones(SHAPE[:3]), moved, "mask.nii"), one)
    with pytest.raises(KetyError, match=r"shape \(4, 3, 1\) against \(4, 3, 2\); resample mask"):
        check_same_grid(Volume(np.ones((4, 3, 1)), one.affine, "mask.nii"), one)


def test_replace_validates_again() -> None:
    with pytest.raises(KetyError, match="does not lie on the grid"):
        replace(series(), mask=np.ones((1, 1, 1), bool))


def test_slices_may_have_times_of_their_own() -> None:
    own = np.array([[0.0, 2.0, 5.0], [1.0, 3.5, 6.0]])
    data = np.zeros((2, 2, 2, 3))
    made = Series(data, own.mean(axis=0), np.eye(4), "CT", slice_times=own.tolist())
    np.testing.assert_array_equal(made.slice_times, own)
    assert Series(data, own[0], np.eye(4), "CT").slice_times is None
    for wrong, words in (
        (own[:1], r"slice times of shape \(1, 3\), expected \(2, 3\)"),
        (own[:, ::-1], "slice 0: times do not increase strictly"),
        (own + np.array([[0.0], [np.nan]]), "slice 1: time nan at frame 0"),
        (own + 0.5, "differ from the mean of the slice times by up to 0.5 s"),
    ):
        with pytest.raises(KetyError, match=words):
            Series(data, own.mean(axis=0), np.eye(4), "CT", slice_times=wrong)
