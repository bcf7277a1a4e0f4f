"""Joint estimation: arguments that it cannot use are refused, with a message that helps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array

import kety
from cases import TWO_PHASE, artery
from kety import Joint, KetyError

AIF = artery("georgiou", TWO_PHASE[-1] + 5)
CLEAN = kety.simulate_curves({"ktrans": 0.3, "kep": 0.9, "vb": 0.1, "delay": 3.0}, TWO_PHASE, AIF)
IMAGE = CLEAN + np.random.default_rng(90).normal(0.0, 6.0, (3, 4, len(TWO_PHASE)))
MASK = np.ones((3, 4), bool)
ONES = np.ones((12, 12))


def with_entry(i: int, j: int, value: float) -> Any:
    w = ONES.copy()
    w[i, j] = value
    return w


def both_ways(value: float) -> Any:
    w = with_entry(2, 7, value)
    w[7, 2] = value
    return w


def fit(joint: Any, curves: Any = IMAGE, mask: Any = MASK, **options: Any) -> Any:
    return kety.fit(curves, TWO_PHASE, AIF, mask=mask, joint=joint, threads=1, **options)


# --- records --------------------------------------------------------------------------------------

RECORDS: dict[str, tuple[dict[str, Any], str]] = {
    "similarity": ({"similarity": "nearby"}, "'nearby'; valid: graph, temporal, spatial, or a"),
    "no similarity": ({"similarity": ""}, "unknown similarity ''"),
    "negative strength": ({"strength": -1}, "'auto' or a number of at least 0, found -1"),
    "strength in words": ({"strength": "strong"}, "at least 0, found 'strong'"),
    "strength NaN": ({"strength": np.nan}, "at least 0, found nan"),
    "no strength": ({"strength": None}, "at least 0, found None"),
    "strengths": ({"strength": [1.0, 2.0]}, "at least 0, found"),
    "small radius": ({"radius": 0.5}, "at least 1 voxel, found 0.5"),
    "negative radius": ({"radius": -2}, "at least 1 voxel, found -2"),
    "radius NaN": ({"radius": np.nan}, "at least 1 voxel, found nan"),
    "radius in words": ({"radius": "wide"}, "at least 1 voxel, found 'wide'"),
    "no neighbours": ({"similarity": "spatial", "neighbours": 0}, "whole number >= 1, found 0"),
    "half a neighbour": ({"similarity": "spatial", "neighbours": 2.5}, ">= 1, found 2.5"),
    "neighbours of graph": ({"neighbours": 8}, "temporal and spatial; graph takes all"),
    "one fold": ({"folds": 1}, "at least 2, found 1"),
    "half a fold": ({"folds": 2.5}, "at least 2, found 2.5"),
    "negative spacing": ({"spacing": (1.0, -1.0)}, r"above 0, found \(1.0, -1.0\)"),
    "no spacing": ({"spacing": (1.0, 0.0)}, r"above 0, found \(1.0, 0.0\)"),
    "spacing NaN": ({"spacing": (np.nan, 1.0)}, "above 0, found"),
    "infinite spacing": ({"spacing": (np.inf, 1.0)}, "above 0, found"),
}


@pytest.mark.parametrize("what", list(RECORDS))
def test_records_that_cannot_be_meant(what: str) -> None:
    options, words = RECORDS[what]
    with pytest.raises(KetyError, match=words):
        Joint(**options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"similarity": ONES, "neighbours": 3}, "neighbours are counted for"),
        ({"similarity": csr_array(ONES), "neighbours": 3}, "neighbours are counted for"),
        ({"spacing": ("a", "b")}, "spacing"),
        ({"spacing": ()}, "spacing"),
        ({"seed": -1}, "seed"),
        ({"seed": "lucky"}, "seed"),
    ],
    ids=["matrix", "sparse", "spacing in words", "spacing of nothing", "negative seed", "seed"],
)
def test_records_that_cannot_be_meant_and_are_not_told(options: dict[str, Any], words: str) -> None:
    with pytest.raises(KetyError, match=words):
        fit(Joint(**{"strength": 1.0, **options}))


def test_usable_records() -> None:
    for joint in (
        Joint(strength=0),
        Joint(strength=np.inf),
        Joint(strength=np.float32(2.0)),
        Joint("spatial", strength=1, neighbours=3, radius=1),
        Joint("temporal", strength=1, radius=np.inf, neighbours=2),
        Joint(strength=1, spacing=(1.0, 2.0, 3.0)),
    ):
        assert np.isfinite(fit(joint).moved).all()


# --- the argument itself --------------------------------------------------------------------------


@pytest.mark.parametrize("joint", [3, True, 1.0, ("graph",), ONES, {"similarity": "graph"}, Joint])
def test_what_is_no_record(joint: Any) -> None:
    with pytest.raises(KetyError, match=r"joint must be None, kety.Joint\(...\) or one of graph, "):
        fit(joint)


def test_an_unknown_name_lists_the_valid_ones() -> None:
    with pytest.raises(KetyError, match="'nearby'; valid: graph, temporal, spatial"):
        fit("nearby")


MATRICES: dict[str, tuple[Any, str]] = {
    "negative": (both_ways(-0.5), "finite and not negative, found -0.5 between voxels 2 and 7"),
    "NaN": (both_ways(np.nan), "finite and not negative, found nan between voxels 2 and 7"),
    "infinite": (both_ways(np.inf), "finite and not negative, found inf between voxels 2 and 7"),
    "one way": (with_entry(2, 7, 0.5), r"symmetric: w\[\d, \d\] = .*; give \(W \+ W.T\) / 2"),
    "not square": (np.ones((12, 11)), r"\(voxels, voxels\), found shape \(12, 11\)"),
    "one row": (np.ones(12), r"\(voxels, voxels\), found shape"),
    "complex": (ONES * 1j, "real numbers, found complex128"),
}


@pytest.mark.parametrize("strength", [1.0, np.inf, "auto"])
@pytest.mark.parametrize("what", list(MATRICES))
def test_matrices_that_are_no_similarities(what: str, strength: Any) -> None:
    matrix, words = MATRICES[what]
    for given in (matrix, csr_array(matrix)) if matrix.ndim == 2 else (matrix,):
        with pytest.raises(KetyError, match=words):
            fit(Joint(given, strength=strength))


@pytest.mark.parametrize("strength", [1.0, np.inf, "auto"])
@pytest.mark.parametrize("size", [11, 13, 37])
def test_matrices_of_other_voxels(size: int, strength: Any) -> None:
    joint = Joint(np.ones((size, size)), strength=strength)
    with pytest.raises(KetyError, match=f"for {size} voxels, but 12 are fitted"):
        fit(joint)
    mask = MASK.copy()
    mask[0, 0] = False
    with pytest.raises(KetyError, match="but 11 are fitted"):
        fit(Joint(ONES, strength=strength), mask=mask)


# --- with the other arguments of the fit ----------------------------------------------------------


def test_places_of_voxels_in_a_row() -> None:
    with pytest.raises(KetyError, match=r"spatial.* two or three axes; give curves \(X, Y, T\)"):
        fit(Joint("spatial", strength=1.0), IMAGE.reshape(12, -1), MASK.ravel())
    with pytest.raises(KetyError, match="two or three axes"):
        fit("spatial", IMAGE.reshape(12, -1), MASK.ravel())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"optimizer": "nelder_mead"}, "found optimizer NelderMead; leave optimizer and"),
        ({"optimizer": "differential_evolution"}, "found optimizer DifferentialEvolution; leave"),
        ({"optimizer": "sqp"}, "joint estimation is by the default solver, found optimizer SQP"),
        ({"discretization": "iir"}, "by the default solver, .* leave optimizer and discretization"),
        ({"discretization": "fir"}, "by the default solver, .* leave optimizer and discretization"),
        ({"delay": "onset"}, "found delay 'onset'; give True, False or a number of s"),
        ({"optimizer": "varprolm", "discretization": "iir"}, "choose another optimizer"),
        ({"delay": "soon"}, "delay"),
        ({"model": "two_compartments"}, "models are"),
    ],
)
@pytest.mark.parametrize("joint", ["graph", Joint("temporal", strength=0)])
def test_arguments_that_joint_estimation_has_no_use_for(
    joint: Any, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(KetyError, match=words):
        fit(joint, **options)


@pytest.mark.parametrize("similarity", ["graph", "temporal", "spatial"])
def test_an_image_of_two_axes_has_two_spacings(similarity: str) -> None:
    options: dict[str, Any] = {"strength": 1.0, "radius": 1.5}
    if similarity != "graph":
        options["neighbours"] = 4
    flat = fit(Joint(similarity, spacing=(1.0, 2.0), **options))
    deep = fit(Joint(similarity, spacing=(1.0, 2.0, 1.0), **options))
    for name in flat:
        np.testing.assert_array_equal(flat[name], deep[name])


def test_spacing_says_which_voxels_are_near() -> None:
    """Rows that are far apart have no neighbour in each other."""
    near = fit(Joint("spatial", strength=1.0, neighbours=2, radius=2.0, spacing=(9.0, 1.0, 1.0)))
    cubic = fit(Joint("spatial", strength=1.0, neighbours=2, radius=2.0))
    assert (near.ktrans != cubic.ktrans).any()
    rows = [
        fit(
            Joint("spatial", strength=np.inf, neighbours=2, radius=2.0, spacing=(9.0, 1.0, 1.0))
        ).ktrans.values[i]
        for i in range(3)
    ]
    for values in rows:
        assert (values == values[0]).all()
    assert len({float(values[0]) for values in rows}) == 3


def test_more_folds_than_frames() -> None:
    frames = len(TWO_PHASE)
    maps = fit(Joint(folds=frames + 13))
    assert maps.attrs["joint_strength"] == fit(Joint(folds=frames)).attrs["joint_strength"]


def test_strength_is_asked_for_where_frames_are_few() -> None:
    few = [2, 5, 9, 14, 20, 30]
    with pytest.raises(KetyError, match="6 frames are too few to leave out 2 at a time; give the"):
        kety.fit(IMAGE[..., few], TWO_PHASE[few], AIF, mask=MASK, joint="graph")
