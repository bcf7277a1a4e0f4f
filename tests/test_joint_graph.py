"""Graphs of voxels: the native window and averages, given matrices, nearest neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array, csr_array
from scipy.spatial.distance import cdist
from scipy.stats import chi2

from cases import Floats
from kety.errors import KetyError
from kety.joint import likeness, neighbours
from kety.joint.graph import Graph, Places, graph_of, places, window_graph, window_offsets
from kety.joint.likeness import alike, averaged, join_anywhere, join_in_window
from kety.joint.neighbours import nearest, nearest_in_window
from naive_joint import chosen_by_either, component_sets, window, window_weights


def assert_same_graph(one: Graph, other: Graph) -> None:
    """Bit for bit."""
    np.testing.assert_array_equal(one.rows, other.rows)
    np.testing.assert_array_equal(one.columns, other.columns)
    np.testing.assert_array_equal(one.weights, other.weights)


def dense(graph: Graph) -> Floats:
    """Weights (V, V); a graph must hold each edge once for each end and no diagonal."""
    w = np.asarray(graph.matrix().toarray())
    np.testing.assert_array_equal(w, w.T)
    assert not w.diagonal().any()
    assert np.count_nonzero(w) == len(graph.weights)
    return w.astype(np.float64)


@st.composite
def matrices(draw: st.DrawFn) -> Floats:
    """Symmetric weights with isolated voxels and a diagonal, some of several components."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(1, 40))
    density = draw(st.sampled_from([0.0, 0.03, 0.1, 0.5, 1.0]))
    w = rng.uniform(0.1, 3.0, (count, count)) * (rng.random((count, count)) < density)
    w = np.triu(w, 1)
    lonely = rng.random(count) < draw(st.sampled_from([0.0, 0.3]))
    w[lonely] = w[:, lonely] = 0.0
    return w + w.T + np.diag(rng.uniform(0.0, 1.0, count))


@st.composite
def grids(
    draw: st.DrawFn,
) -> tuple[tuple[int, ...], tuple[float, ...], Places, np.random.Generator]:
    """Shape, spacing and places of some of the voxels of a grid of one, two or three axes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.sampled_from([(9,), (5, 7), (6, 1), (1, 8), (3, 4, 4), (5, 1, 6), (1, 1, 1)]))
    spacing = tuple(draw(st.sampled_from([0.8, 1.0, 1.7, 5.0])) for _ in shape)
    inside = rng.random(shape) < draw(st.sampled_from([0.4, 0.8, 1.1]))
    inside.flat[0] = True
    return shape, spacing, places(shape, np.flatnonzero(inside)), rng


# --- given matrices -------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(matrices())
def test_a_matrix_becomes_its_graph(w: Floats) -> None:
    graph = graph_of(w)
    expected = np.where(np.eye(len(w), dtype=bool), 0.0, w)
    np.testing.assert_array_equal(dense(graph), expected.astype(np.float32))
    assert len(graph) == len(w)
    np.testing.assert_array_equal(graph.neighbours, np.count_nonzero(expected, axis=1))
    np.testing.assert_allclose(graph.degree, expected.sum(axis=1), rtol=1e-6)
    linked = expected.any(axis=1)
    mean = expected.sum(axis=1)[linked].mean() if linked.any() else 1.0
    assert graph.mean_degree == pytest.approx(mean, rel=1e-6)
    for sparse in (csr_array(w), coo_array(w)):
        assert_same_graph(graph_of(sparse), graph)
    assert_same_graph(graph_of(graph.matrix()), graph)


@settings(max_examples=60, deadline=None)
@given(matrices())
def test_components_are_what_edges_reach(w: Floats) -> None:
    label = graph_of(w).components()
    assert label.shape == (len(w),)
    found = {frozenset(np.flatnonzero(label == k).tolist()) for k in np.unique(label)}
    assert found == component_sets(np.where(np.eye(len(w), dtype=bool), 0.0, w))


@settings(max_examples=60, deadline=None)
@given(matrices(), st.integers(1, 9))
def test_average_is_the_weighted_mean(w: Floats, width: int) -> None:
    np.fill_diagonal(w, 0.0)
    graph = graph_of(w)
    x = np.random.default_rng(width).normal(size=(len(w), width)).astype(np.float32)
    expected = (x + w @ x) / (1 + w.sum(axis=1))[:, None]
    found = graph.average(x)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    alone = graph.neighbours == 0
    np.testing.assert_array_equal(found[alone], x[alone])
    # The variance of that mean, for values that are independent.
    weights = (np.eye(len(w)) + w) / (1 + w.sum(axis=1))[:, None]
    own = np.random.default_rng(3).uniform(0.5, 2.0, len(w)).astype(np.float32)
    np.testing.assert_allclose(averaged(graph, own), weights**2 @ own, rtol=1e-5)


def test_average_does_not_depend_on_threads() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(5000, 3))
    graph = nearest(x, 6)
    once = graph.average(x)
    for threads in (2, 3, 16):
        np.testing.assert_array_equal(graph.average(x, threads), once)


def test_weights_differing_by_rounding_are_symmetric() -> None:
    w = np.array([[0.0, 1.0], [1.0 + 1e-9, 0.0]])
    assert dense(graph_of(w))[0, 1] == 1.0


def test_integers_and_truth_are_weights() -> None:
    w = np.array([[1, 2, 0], [2, 1, 0], [0, 0, 0]])
    np.testing.assert_array_equal(dense(graph_of(w))[0], [0, 2, 0])
    np.testing.assert_array_equal(dense(graph_of(w > 0))[0], [0, 1, 0])


BAD: dict[str, tuple[Any, str]] = {
    "not square": (np.ones((3, 4)), r"\(voxels, voxels\), found shape \(3, 4\)"),
    "one row": (np.ones(4), r"\(voxels, voxels\), found shape"),
    "three axes": (np.ones((2, 2, 2)), r"\(voxels, voxels\), found shape \(2, 2, 2\)"),
    "negative": (
        np.array([[0, 1, -2.5], [1, 0, 0], [-2.5, 0, 0]]),
        "found -2.5 between voxels 0 and 2",
    ),
    "negative diagonal": (np.diag([0.0, -1.0]), "found -1 between voxels 1 and 1"),
    "NaN": (np.array([[0, np.nan], [np.nan, 0]]), "found nan between voxels 0 and 1"),
    "infinite": (csr_array(np.array([[0, np.inf], [np.inf, 0]])), "found inf between voxels"),
    "one way": (
        np.triu(np.ones((3, 3))),
        r"symmetric: w\[\d, \d\] = [01], .*give \(W \+ W.T\) / 2",
    ),
    "not quite": (np.array([[0, 1.0], [1.1, 0]]), r"w\[\d, \d\] = 1\.?1?, w\[\d, \d\] = 1\.?1?"),
    "complex": (np.ones((2, 2)) * 1j, "real numbers, found complex128"),
}


@pytest.mark.parametrize("what", list(BAD))
def test_unusable_matrices_are_told(what: str) -> None:
    matrix, words = BAD[what]
    with pytest.raises(KetyError, match=words):
        graph_of(matrix)


# --- windows --------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(grids(), st.sampled_from([1.0, 1.5, 2.0, 2.9, 3.0]))
def test_offsets_are_the_ellipsoid(case: Any, radius: float) -> None:
    shape, spacing, *_ = case
    found = window_offsets(shape, radius, spacing)
    assert found.dtype == np.int32
    steps = [tuple(o) for o in found.tolist()]
    assert len(set(steps)) == len(steps)
    assert set(steps) == window(shape, radius, spacing)
    assert {tuple(-k for k in o) for o in steps} == set(steps)
    full = np.ones(3)
    full[: len(spacing)] = spacing
    far = np.linalg.norm(found * full, axis=1)
    assert (np.diff(far) >= -1e-12).all()
    for axis, size in enumerate((*shape, 1, 1)[:3]):
        one = tuple(int(k == axis) for k in range(3))
        assert (one in steps) == (size > 1)
        assert found[:, axis].any() == (size > 1)


def test_offsets_of_equal_spacing_are_the_ball() -> None:
    for scale in (None, (2.0, 2.0, 2.0)):
        found = window_offsets((9, 9, 9), 2.0, scale)
        assert len(found) == 32
        assert (np.linalg.norm(found, axis=1) <= 2.0).all()
    assert len(window_offsets((9, 9), 3.0)) == 28
    # Slices 2.5 voxels apart are beyond the radius of 2; the next one counts all the same.
    deep = window_offsets((9, 9, 9), 2.0, (1.0, 1.0, 2.5))
    assert {tuple(o) for o in deep[deep[:, 2] != 0]} == {(0, 0, 1), (0, 0, -1)}


def test_a_step_on_the_radius_is_inside_whatever_the_unit() -> None:
    steps = {tuple(o) for o in window_offsets((9, 9), 6.0, (0.7, 2.1)).tolist()}
    assert steps == {tuple(o) for o in window_offsets((9, 9), 6.0, (1.0, 3.0)).tolist()}


@settings(max_examples=60, deadline=None)
@given(
    grids(),
    st.sampled_from([1.0, 1.5, 2.0]),
    st.integers(1, 8),
    st.booleans(),
    st.sampled_from([0.5, 3.0, 20.0]),
)
def test_window_is_a_double_loop(
    case: Any, radius: float, width: int, soft: bool, threshold: float
) -> None:
    shape, spacing, where, rng = case
    count = len(where.indices)
    features = rng.normal(size=(count, width)).astype(np.float32)
    variance = rng.uniform(0.2, 2.0, count).astype(np.float32)
    offsets = window_offsets(shape, radius, spacing)
    graph = window_graph(where, offsets, features, variance, threshold, soft=soft)
    steps = window(shape, radius, spacing)
    expected, unsure = window_weights(
        where.indices, steps, features.astype(float), variance.astype(float), threshold, soft
    )
    found = dense(graph)
    assert ((found > 0) == (expected > 0))[~unsure].all()
    np.testing.assert_allclose(found[~unsure], expected[~unsure], rtol=0, atol=2e-5)
    assert (graph.weights <= 1.0).all()


def test_window_does_not_depend_on_threads() -> None:
    rng = np.random.default_rng(5)
    where = places((40, 30, 4), np.flatnonzero(rng.random(4800) < 0.9))
    count = len(where.indices)
    features = rng.normal(size=(count, 5)).astype(np.float32)
    variance = rng.uniform(0.5, 2.0, count)
    offsets = window_offsets((40, 30, 4), 2.0)
    graph = window_graph(where, offsets, features, variance, 8.0)
    w = graph.matrix()
    assert (abs(w - w.T).data == 0).all()
    assert 0.1 < graph.neighbours.mean() / 32 < 0.9
    for threads in (2, 3, 16):
        more = window_graph(where, offsets, features, variance, 8.0, threads=threads)
        assert_same_graph(more, graph)


def test_features_that_are_not_finite_join_nobody() -> None:
    where = places((3, 3), np.arange(9))
    features = np.zeros((9, 2), np.float32)
    features[4, 1] = np.nan
    graph = window_graph(where, window_offsets((3, 3), 1.5), features, np.ones(9), 3.0)
    assert graph.neighbours[4] == 0
    assert np.isfinite(graph.weights).all()
    # Without noise only equals agree, and with none at all not even they.
    features[4] = 1.0
    tiny = window_graph(where, window_offsets((3, 3), 1.5), features, np.full(9, 1e-30), 3.0)
    assert tiny.neighbours.tolist() == [2, 4, 2, 4, 0, 4, 2, 4, 2]
    assert (tiny.weights == 1).all()
    none = window_graph(where, window_offsets((3, 3), 1.5), features, np.zeros(9), 3.0)
    assert not len(none.columns)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(7,), (4, 5), (3, 4, 2), (3, 2, 2, 3), (2, 2, 2, 2, 2)])
def test_places_number_the_voxels_where_they_lie(shape: tuple[int, ...], order: Any) -> None:
    size = int(np.prod(shape))
    flat = np.flatnonzero(np.random.default_rng(6).random(size) < 0.7)
    where = places(shape, flat, order)
    assert where.grid.ndim == 3
    assert where.grid.size == size
    np.testing.assert_array_equal(where.grid[tuple(where.indices.T)], np.arange(len(flat)))
    assert (where.grid == -1).sum() == size - len(flat)
    index = np.stack(np.unravel_index(flat, shape, order=order), axis=1)
    for axis in range(min(len(shape), 2)):
        np.testing.assert_array_equal(where.indices[:, axis], index[:, axis])
    if len(shape) == 3:
        np.testing.assert_array_equal(where.indices, index)


# --- nearest neighbours ---------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 12), st.integers(1, 4))
def test_nearest_by_brute_force(seed: int, voxels: int, count: int, width: int) -> None:
    x = np.random.default_rng(seed).normal(size=(voxels, width))
    found = dense(nearest(x, count))
    np.testing.assert_array_equal(found, chosen_by_either(cdist(x, x), count))
    assert (np.count_nonzero(found, axis=1) >= min(count, voxels - 1)).all()


def test_voxels_at_one_place_take_no_more_neighbours_than_asked_for() -> None:
    graph = nearest(np.zeros((40, 2)), 3)
    assert (graph.neighbours >= 3).all()
    assert len(graph.columns) <= 2 * 3 * 40


@settings(max_examples=40, deadline=None)
@given(grids(), st.sampled_from([1.0, 1.5, 2.0, 3.0]), st.integers(1, 9), st.booleans())
def test_nearest_in_a_window_by_brute_force(
    case: Any, radius: float, count: int, by_coordinates: bool
) -> None:
    shape, spacing, where, rng = case
    voxels = len(where.indices)
    offsets = window_offsets(shape, radius, spacing)
    steps = [tuple(o) for o in offsets.tolist()]
    rank = {step: i for i, step in enumerate(steps)}
    apart = where.indices[None].astype(int) - where.indices[:, None]
    order = np.array([[rank.get(tuple(o), len(steps)) for o in row] for row in apart.tolist()])
    allowed = order < len(steps)
    coordinates = rng.normal(size=(voxels, 3)) if by_coordinates else None
    distance = order if coordinates is None else cdist(coordinates, coordinates)
    graph = nearest_in_window(where, offsets, coordinates, count)
    np.testing.assert_array_equal(dense(graph), chosen_by_either(distance, count, allowed))


def test_blocks_of_voxels_change_no_neighbour(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)
    where = places((12, 12), np.flatnonzero(rng.random(144) < 0.8))
    coordinates = rng.normal(size=(len(where.indices), 4))
    offsets = window_offsets((12, 12), 3.0)
    whole = nearest_in_window(where, offsets, coordinates, 5)
    monkeypatch.setattr(neighbours, "BLOCK", 7)
    assert_same_graph(nearest_in_window(where, offsets, coordinates, 5), whole)


# --- likeness -------------------------------------------------------------------------------------


def two_regions(seed: int, apart: float) -> tuple[Floats, Places, Floats]:
    """Features (400, 3) of unit noise on a grid whose right half differs, and which half."""
    side = np.repeat(np.arange(20) >= 10, 20)
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(400, 3))
    features[side, 0] += apart
    return features, places((20, 20), np.arange(400)), side


def shares(graph: Graph, side: Floats) -> tuple[float, float]:
    """Weight of the edges across the border, relative to all; mean number of neighbours."""
    w = graph.matrix().tocoo()
    across = side[w.coords[0]] != side[w.coords[1]]
    return float(w.data[across].sum() / w.data.sum()), float(graph.neighbours.mean())


def test_equal_voxels_are_joined_and_others_are_not() -> None:
    for seed in range(3):
        features, where, side = two_regions(seed, apart=3.0)
        near = join_in_window(where, window_offsets((20, 20), likeness.NEAR))
        wide = join_in_window(where, window_offsets((20, 20), 3.0))
        graph = alike(near, wide, features, np.ones(400))
        across, mean = shares(graph, side)
        assert across < 0.02
        assert mean > 20
        # One pass, with the noise of single voxels, cannot tell as well who belongs together.
        single = wide(features.astype(np.float32), np.ones(400), float(chi2.ppf(0.995, 3)))
        assert across < 0.3 * shares(single, side)[0]
        same = alike(near, wide, two_regions(seed, apart=0.0)[0], np.ones(400))
        assert shares(same, side)[0] > 0.05


def test_anywhere_joins_equals_wherever_they_lie() -> None:
    features, _, side = two_regions(8, apart=6.0)
    order = np.random.default_rng(9).permutation(400)
    join = join_anywhere(0)
    graph = alike(join, join, features[order], np.ones(400))
    across, mean = shares(graph, side[order])
    assert across < 0.005
    assert mean > 20
    assert_same_graph(alike(join, join, features[order], np.ones(400)), graph)
    assert (graph.neighbours > 0).mean() > 0.97
    other = alike(join_anywhere(1), join_anywhere(1), features[order], np.ones(400))
    assert not np.array_equal(other.columns, graph.columns)


def test_many_voxels_meet_in_groups() -> None:
    rng = np.random.default_rng(10)
    count = 3 * likeness.GROUP + 5
    graph = join_anywhere(0)(np.zeros((count, 2), np.float32), np.ones(count), 5.0)
    assert (graph.neighbours >= 1).all()
    assert graph.neighbours.mean() <= 2 * 2 * likeness.CHANCE
    far = rng.permutation(count) < 2
    features = np.where(far[:, None], 1e3, 0.0) * np.ones(2)
    assert not graph_crosses(join_anywhere(0)(features, np.ones(count), 5.0), far)


def test_nobody_is_everybodys_neighbour() -> None:
    graph = join_anywhere(0)(np.zeros((400, 2), np.float32), np.ones(400), 5.0)
    assert graph.neighbours.max() < 4 * np.median(graph.neighbours)


def graph_crosses(graph: Graph, side: Any) -> bool:
    w = graph.matrix().tocoo()
    return bool((side[w.coords[0]] != side[w.coords[1]]).any())
