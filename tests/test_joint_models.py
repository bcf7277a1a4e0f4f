"""Joint estimation of models of several terms: any number of parameters, two inputs, c0."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import xarray
from hypothesis import given, settings
from hypothesis import strategies as st

import kety
from cases import TWO_PHASE, Floats, artery
from kety import MODELS, InputFunction, Joint, VarProLM
from kety.fitting.problem import Problem, make_problem
from kety.fitting.solve import prepare
from kety.joint import hyper
from kety.joint.block_system import BlockSystem
from kety.joint.energy import energy, energy_gradient
from kety.joint.errors import full_covariance, invert
from kety.joint.graph import Graph, graph_of, places
from kety.joint.normals import (
    diagonal,
    diagonal_places,
    make_voxels,
    pack,
    plain_normals,
    predicted,
    size_of,
    unpack,
)
from kety.joint.setup import Setup, make_setup
from kety.joint.solve import bits
from kety.joint.strength import at_strength
from kety.joint.system import make_system

FRAMES = len(TWO_PHASE)
AIF = artery("georgiou", TWO_PHASE[-1] + 20)
LATE = np.arange(3.0, TWO_PHASE[-1] + 20, 0.5)
PORTAL = InputFunction(LATE, 150.0 * (1.0 - np.exp(-(LATE - 3.0) / 15.0)), site="blood")
TISSUES = {
    "fp": np.array([30.0, 60.0]),
    "ps": np.array([0.1, 0.25]),
    "ve": np.array([0.2, 0.3]),
    "vp": np.array([0.05, 0.1]),
    "delay": np.array([3.0, 5.0]),
}
NAMES = MODELS["2cxm"].names
HALF = np.repeat([0, 1], 72)
"""Tissue of each voxel of a 12 x 12 image: the first six rows, the others."""
TRUTH = {name: values[HALF].reshape(12, 12) for name, values in TISSUES.items()}
CLEAN = kety.simulate_curves({n: v.ravel() for n, v in TRUTH.items()}, TWO_PHASE, AIF, "2cxm")
NOISY = CLEAN + np.random.default_rng(5).normal(0.0, 4.0, CLEAN.shape)
IMAGE = NOISY.reshape(12, 12, FRAMES)
QUIET = CLEAN + np.random.default_rng(6).normal(0.0, 0.5, CLEAN.shape)
"""Curves that determine all parameters."""

each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])


def fit(curves: Any = IMAGE, joint: Any = None, **options: Any) -> xarray.Dataset:
    """Maps of every voxel, unless there is a mask, with one thread."""
    chosen = {"model": "2cxm", "mask": np.ones(np.shape(curves)[:-1], bool), "threads": 1}
    return kety.fit(curves, TWO_PHASE, AIF, joint=joint, **{**chosen, **options})


def error(values: Any, truth: Floats) -> float:
    """Root mean square."""
    return float(np.sqrt(np.nanmean((np.asarray(values) - truth) ** 2)))


# --- systems on graphs ----------------------------------------------------------------------------


def random_graph(rng: np.random.Generator, count: int, *, alone: bool = True) -> Graph:
    w = np.triu(rng.uniform(0.1, 1.0, (count, count)) * (rng.random((count, count)) < 0.3), 1)
    if alone:
        w[:, -1] = 0.0
    return graph_of(w + w.T)


def spread(rng: np.random.Generator, count: int, size: int) -> Floats:
    """Positive definite matrices (count, size, size), their parameters of very different sizes."""
    root = rng.normal(size=(count, size, size + 2)) * 10.0 ** rng.uniform(-2, 2, size)[:, None]
    return np.asarray(np.einsum("nij,nkj->nik", root, root))


def dense(graph: Graph, metric: Floats, strength: float) -> Floats:
    """The penalty's matrix (V P, V P), pair by pair."""
    w = graph.matrix().toarray().astype(float)
    count, size = metric.shape[:2]
    out = np.zeros((count, size, count, size))
    for i in range(count):
        for j in range(count):
            edge = strength * w[i, j] * (metric[i] + metric[j]) / 2
            out[i, :, i] += edge
            out[i, :, j] -= edge
    return out.reshape(count * size, count * size)


@given(
    seed=st.integers(0, 10_000),
    size=st.integers(1, 9),
    strength=st.sampled_from([0.0, 0.1, 10.0, 1e3]),
)
@settings(max_examples=25, deadline=None)
def test_system_solves_what_a_dense_matrix_solves(seed: int, size: int, strength: float) -> None:
    rng = np.random.default_rng(seed)
    count = 14
    graph, metric, block = (
        random_graph(rng, count),
        spread(rng, count, size),
        spread(rng, count, size),
    )
    damping, free = rng.uniform(0.0, 0.1, count), rng.random((count, size)) < 0.8
    system = make_system(graph, size, 1, single=False)
    system.prepare(pack(metric), strength, strength > 100.0)
    system.blocks(pack(block), damping, bits(free))
    penalty = dense(graph, metric, strength)
    x = rng.normal(size=(count, size))
    y = np.empty_like(x)
    system.penalty(x, y)
    scale = np.abs(penalty) @ np.abs(x).ravel() + 1e-300
    assert np.all(np.abs(y.ravel() - penalty @ x.ravel()) <= 1e-12 * scale)

    own = block + damping[:, None, None] * np.einsum("nij,ij->nij", block, np.eye(size))
    matrix = penalty.reshape(count, size, count, size).copy()
    matrix[range(count), :, range(count), :] += own
    matrix = matrix.reshape(count * size, -1)
    right = rng.normal(size=(count, size)) * np.sqrt(np.einsum("nii->ni", block))
    chosen = free.ravel()
    expected = np.zeros(count * size)
    expected[chosen] = np.linalg.solve(matrix[np.ix_(chosen, chosen)], right.ravel()[chosen])
    found = np.zeros((count, size))
    steps, left = system.solve(right, found, 1e-12, 5000)
    assert left <= 1e-12
    assert steps < 5000
    gap = found.ravel() - expected
    assert gap @ matrix @ gap <= 1e-15 * (expected @ matrix @ expected)
    np.testing.assert_array_equal(found[~free], 0.0)


@pytest.mark.parametrize("size", [3, 4, 7])
@pytest.mark.parametrize("strength", [1.0, 1000.0])
def test_system_agrees_with_its_slow_twin(strength: float, size: int) -> None:
    rng = np.random.default_rng(3)
    count = 150
    x, y = np.meshgrid(np.arange(15), np.arange(10))
    at = np.stack([x.ravel(), y.ravel()], axis=1)
    distance = np.abs(at[:, None] - at).max(axis=2)
    w = np.where(distance == 1, rng.uniform(0.2, 1.0, (count, count)), 0.0)
    w[7] = w[:, 7] = 0.0  # one voxel alone
    graph = graph_of(np.triu(w, 1) + np.triu(w, 1).T)
    metric, block = pack(spread(rng, count, size)), pack(spread(rng, count, size))
    damping, free = rng.uniform(0.0, 0.1, count), bits(rng.random((count, size)) < 0.9)
    right = rng.normal(size=(count, size)) * np.sqrt(diagonal(block))
    solutions, pulls = [], []
    for system in (make_system(graph, size, 1, single=False), BlockSystem(graph)):
        system.prepare(metric, strength, True)
        system.blocks(block, damping, free)
        solution, pulled = np.zeros((count, size)), np.empty((count, size))
        _, left = system.solve(right, solution, 1e-13, 5000)
        assert left <= 1e-13
        system.penalty(right, pulled)
        solutions.append(solution)
        pulls.append(pulled)
    largest = np.abs(solutions[0]).max(axis=0)
    assert np.all(np.abs(solutions[1] - solutions[0]) <= 1e-8 * largest)
    np.testing.assert_allclose(pulls[1], pulls[0], rtol=0, atol=1e-12 * np.abs(pulls[0]).max())


def test_multigrid_needs_fewer_steps() -> None:
    rng = np.random.default_rng(4)
    at = np.argwhere(np.ones((24, 24)))
    near = np.abs(at[:, None] - at).max(axis=2) == 1
    graph, count = graph_of(near.astype(float)), len(at)
    metric = np.tile(pack(spread(rng, 1, 5)), (count, 1))
    right, steps = rng.normal(size=(count, 5)), []
    for multigrid in (False, True):
        system = make_system(graph, 5, 1)
        system.prepare(metric, 1000.0, multigrid)
        system.blocks(metric, np.zeros(count), np.full(count, 31, np.uint8))
        steps.append(system.solve(right, np.zeros((count, 5)), 1e-6, 1000)[0])
    assert 3 * steps[1] < steps[0]


def test_undetermined_parameters_of_a_block_are_left_out() -> None:
    rng = np.random.default_rng(6)
    whole = spread(rng, 3, 5)
    whole[1, 2] = whole[1, :, 2] = 0.0
    whole[2, 4] = 2.0 * whole[2, 1]  # two that cannot be told apart
    whole[2, :, 4] = 2.0 * whole[2, :, 1]
    whole[2, 4, 4] = 4.0 * whole[2, 1, 1]
    system = make_system(graph_of(np.zeros((3, 3))), 5, 1)
    system.prepare(pack(whole), 1.0, False)
    system.blocks(pack(whole), np.zeros(3), np.full(3, 31, np.uint8))
    found = np.zeros((3, 5, 5))  # inverses, column by column
    for column in range(5):
        solution = np.zeros((3, 5))
        system.solve(np.tile(np.eye(5)[column], (3, 1)), solution, 1e-6, 10)
        found[:, :, column] = solution
    np.testing.assert_allclose(found[0] @ whole[0], np.eye(5), atol=1e-8)
    for i, lost in ((1, 2), (2, 4)):
        kept = np.delete(np.arange(5), lost)
        part = np.ix_(kept, kept)
        np.testing.assert_allclose(found[i][part] @ whole[i][part], np.eye(4), atol=1e-8)
        assert not found[i][lost].any()
    packed, out = invert(pack(whole), np.zeros((3, 5), bool))
    np.testing.assert_array_equal(out, [0, 1 << 2, 1 << 4])
    assert np.isnan(diagonal(packed)[1, 2])


@given(size=st.integers(1, 12), seed=st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_packed_matrices(size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    full = spread(rng, 3, size)
    full = 0.5 * (full + full.swapaxes(1, 2))
    packed = pack(full)
    assert size_of(packed) == size
    np.testing.assert_array_equal(unpack(packed), full)
    np.testing.assert_array_equal(diagonal(packed), np.einsum("nii->ni", full))
    assert diagonal_places(size)[-1] == packed.shape[1] - 1
    free = rng.random((3, size)) < 0.5
    for i, row in enumerate(free):
        assert int(bits(free)[i]) == sum(1 << k for k in np.flatnonzero(row))


# --- normal equations and energy ------------------------------------------------------------------


def problem_of(model: str, **options: Any) -> Problem:
    given = {"delay": True, "bounds": None, "weights": None, "dtype": "float64", "threads": 1}
    if MODELS[model].inputs == 2:
        given["portal"] = PORTAL
    chosen: dict[str, Any] = {**given, "find_enhancing": False, **options}
    return make_problem(TWO_PHASE, AIF, model, **chosen)


def inside(problem: Problem, count: int, seed: int) -> Floats:
    """Parameters (count, P) from the lower half of the bounds, kernel units."""
    lo, hi = problem.kernel_bounds()
    share = np.random.default_rng(seed).uniform(0.05, 0.4, (count, problem.size))
    return np.asarray(lo + share * (hi - lo))


@pytest.mark.parametrize(
    ("model", "initial"),
    [
        ("2cxm", False),
        ("2cxm", True),
        ("2cum", False),
        ("extended_tofts", True),
        ("dual_input_two_compartment", True),
    ],
)
@pytest.mark.parametrize("options", ["plain", "weights and constant"])
def test_native_normal_equations_are_those_of_numpy(
    model: str, initial: bool, options: str
) -> None:
    rng = np.random.default_rng(8)
    given: dict[str, Any] = {"initial": initial}
    if options != "plain":
        weights = rng.uniform(0.0, 3.0, FRAMES)
        weights[[4, 20]] = 0.0
        given |= {"weights": weights, "baseline": True}
    problem = problem_of(model, **given)
    theta = inside(problem, 19, 9)
    curves = rng.normal(20.0, 30.0, (19, FRAMES))
    precision = rng.uniform(0.1, 10.0, 19)
    found = make_voxels(problem, curves).normals(theta, precision)
    slow = plain_normals(problem, curves, theta, precision)
    assert found.hessian.shape == (19, problem.size * (problem.size + 1) // 2)
    np.testing.assert_allclose(found.cost, slow.cost, rtol=1e-10)
    np.testing.assert_allclose(found.unweighted, slow.unweighted, rtol=1e-10)
    size = np.sqrt(diagonal(slow.hessian))
    reach = size * np.sqrt(slow.cost)[:, None]
    assert np.all(np.abs(found.gradient - slow.gradient) <= 1e-9 * reach)
    i, j = np.tril_indices(problem.size)
    assert np.all(np.abs(found.hessian - slow.hessian) <= 1e-9 * size[:, i] * size[:, j])
    if problem.baseline:
        assert found.baseline is not None
        assert slow.baseline is not None
        np.testing.assert_allclose(found.baseline, slow.baseline, rtol=1e-9)


def test_energy_has_the_gradient_of_its_differences() -> None:
    problem = problem_of("2cxm", baseline=True)
    theta = inside(problem, 3, 10)
    curves = NOISY[:3]
    w = np.array([[0, 1, 0.5], [1, 0, 0], [0.5, 0, 0]])
    metric = unpack(make_voxels(problem, curves).normals(theta).hessian) * 0.1
    _, slope = energy_gradient(problem, curves, w, metric, theta)
    for v, i in np.ndindex(theta.shape):
        step = np.zeros_like(theta)
        step[v, i] = 1e-5 * abs(theta[v, i])
        ends = [energy(problem, curves, w, metric, theta + s * step) for s in (1, -1)]
        assert (ends[0] - ends[1]) / (2 * step[v, i]) == pytest.approx(slope[v, i], rel=1e-4)


def test_left_out_frames_of_an_initial_concentration_count_from_the_first() -> None:
    problem = problem_of("2cxm", initial=True)
    theta = inside(problem, 4, 11)
    frames = np.array([3, 9, 30])
    times = TWO_PHASE
    values = dict(zip((p.name for p in problem.parameters), theta.T, strict=True))
    public = {p.name: values[p.name] / problem.factor(p) for p in problem.parameters}
    whole = kety.simulate_curves(public, times, AIF, "2cxm")
    np.testing.assert_allclose(predicted(problem, frames, theta), whole[:, frames], rtol=1e-9)
    folds = hyper._folds(
        problem, Joint(), lambda one: prepare(one, VarProLM()), NOISY[::12], None, np.arange(12)
    )
    assert all(0 not in fold.left_out for fold in folds)
    assert sorted(np.concatenate([f.left_out for f in folds])) == list(range(1, FRAMES))


# --- the minimum ----------------------------------------------------------------------------------


@cache
def setup_of(dtype: str, *, scaled: bool = True, similarity: str = "graph") -> Setup:
    problem = problem_of("2cxm", dtype=dtype)
    solver = prepare(problem, VarProLM())
    found = solver(NOISY.astype(dtype)).parameters.astype(float)
    joint = Joint(similarity, scaled=scaled)
    return make_setup(problem, joint, solver, NOISY, found, places((12, 12), np.arange(144)))


@each_dtype
@pytest.mark.parametrize("strength", [1.0, 30.0, 1000.0])
def test_energy_never_rises_and_bounds_hold(dtype: str, strength: float) -> None:
    setup = setup_of(dtype)
    found = at_strength(setup, strength)
    assert found.converged
    assert (np.diff(found.energies) <= 0.0).all()
    lo, hi = setup.voxels.problem.kernel_bounds()
    assert ((found.parameters >= lo) & (found.parameters <= hi)).all()
    # Written down plainly, the energy at the end is the last one told.
    edges = setup.graph.matrix().astype(float) * (strength * setup.unit)
    x, q = found.parameters, unpack(setup.metric)
    pairs = edges.tocoo()
    i, j = pairs.coords
    d = x[i] - x[j]
    drawn = 0.25 * np.sum(pairs.data * np.einsum("ep,epq,eq->e", d, q[i] + q[j], d))
    costs = plain_normals(setup.voxels.problem, NOISY, x).cost
    expected = float(setup.precision @ costs + drawn)
    assert found.energies[-1] == pytest.approx(expected, rel=1e-6)


def test_no_start_ends_much_lower() -> None:
    setup = setup_of("float64")
    problem = setup.voxels.problem
    columns = [TRUTH[p.name].ravel() * problem.factor(p) for p in problem.parameters]
    truth = np.stack(columns, axis=1)
    for strength in (3.0, 100.0):
        found = at_strength(setup, strength)
        best = at_strength(setup, strength, truth)
        assert found.energies[-1] <= 1.003 * best.energies[-1]


def test_drawn_covariances_are_near_the_exact_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = setup_of("float64", scaled=False, similarity="spatial")
    strength = 1e5
    found = at_strength(setup, strength)
    held = np.zeros((144, 5), bool)
    exact, share = full_covariance(setup, found.normals, strength, held)
    assert exact.shape == (144, 15)
    assert ((share > 0) & (share <= 1)).all()
    monkeypatch.setattr("kety.joint.errors.EXACT", 0)
    drawn, _ = full_covariance(setup, found.normals, strength, held)
    ratio = np.sqrt(np.median(diagonal(drawn), axis=0) / np.median(diagonal(exact), axis=0))
    assert np.all(np.abs(ratio - 1.0) < 0.2)


# --- kety.fit -------------------------------------------------------------------------------------


@each_dtype
def test_joint_maps_of_two_tissues(dtype: str) -> None:
    maps = fit(joint="graph", dtype=dtype)
    for name in NAMES:
        single = error(maps[f"{name}_voxelwise"], TRUTH[name])
        assert error(maps[name], TRUTH[name]) < single / 1.5, name
        assert (maps[f"{name}_se"] > 0).mean() > 0.9, name
    assert maps.attrs["joint_converged"] == 1
    assert maps.attrs["joint_left_out_error"] < maps.attrs["joint_left_out_error_voxelwise"]
    assert maps.attrs["joint_free_parameters"] == 5 * 144
    assert maps.pooled.median() > 4
    assert 0.5 < maps.moved.mean() < 1.5
    assert maps.ktrans_voxelwise.shape == (12, 12)


def test_standard_errors_cover_the_truth() -> None:
    maps = fit(joint=Joint(strength=100.0))
    for name in NAMES:
        off = np.abs(maps[name] - TRUTH[name]) / maps[f"{name}_se"]
        assert (off < 3.0).mean() > 0.8, name


@each_dtype
@pytest.mark.parametrize("initial", [False, True])
def test_strength_zero_is_voxelwise(dtype: str, initial: bool) -> None:
    image = IMAGE.copy()
    image[2, 3, 7] = np.nan
    single = fit(image, dtype=dtype, initial=initial)
    maps = fit(image, Joint(strength=0.0), dtype=dtype, initial=initial)
    for name in single.data_vars:
        np.testing.assert_array_equal(maps[name].values, single[name].values, err_msg=str(name))
    for name in (*NAMES, *(["c0"] if initial else [])):
        np.testing.assert_array_equal(maps[f"{name}_voxelwise"].values, single[name].values)
    assert (maps.moved.values[np.isfinite(maps.moved)] == 0).all()


@each_dtype
def test_infinite_strength_is_the_fit_of_the_mean(dtype: str) -> None:
    curves = QUIET[[3, 3, 100]]
    w = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 0]])
    maps = fit(curves, Joint(w, strength=np.inf), dtype=dtype)
    single = fit(curves, dtype=dtype)
    for name in NAMES:
        np.testing.assert_allclose(maps[name], single[name], rtol=1e-4, err_msg=name)
    pair = QUIET[[3, 4]]
    maps = fit(pair, Joint(np.ones((2, 2)), strength=np.inf), dtype=dtype)
    mean = fit(pair.mean(axis=0)[None], dtype=dtype)
    for name in NAMES:
        assert maps[name].values[0] == maps[name].values[1]
        np.testing.assert_allclose(maps[name][0], mean[name][0], rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(maps.pooled, 2.0, rtol=1e-6)


def test_bounds_are_honoured() -> None:
    bounds = {"fp": (20.0, 45.0), "vp": (0.05, 0.05), "ps": (0.0, 0.2)}
    maps = fit(joint=Joint(strength=30.0), bounds=bounds)
    for name, (lo, hi) in bounds.items():
        assert ((maps[name] >= lo - 1e-6) & (maps[name] <= hi + 1e-6)).all(), name
    at_bound = (maps.fp == 45.0).values
    assert at_bound.any()
    assert np.isnan(maps.fp_se.values[at_bound]).all()
    assert (maps.vp == np.float32(0.05)).all()
    assert np.isnan(maps.vp_se).all()
    assert maps.attrs["joint_free_parameters"] == 4 * 144


def test_voxels_without_a_fit_take_no_part() -> None:
    image = IMAGE.copy()
    image[2, 3, 7] = image[8, 8, 0] = np.nan
    mask = np.ones((12, 12), bool)
    mask[0] = False
    joint = Joint(strength=30.0)
    maps = fit(image, joint, mask=mask)
    other = image.copy()
    other[2, 3] = 1e3
    other[2, 3, 0] = np.nan
    again = fit(other, joint, mask=mask)
    lost = ~mask
    lost[2, 3] = lost[8, 8] = True
    for name in NAMES:
        np.testing.assert_array_equal(np.isnan(maps[name].values), lost)
        np.testing.assert_array_equal(maps[name].values, again[name].values)
    np.testing.assert_array_equal(np.isnan(maps.moved.values), lost)


def test_threads_change_nothing() -> None:
    joint = Joint(strength=30.0)
    one, two = fit(joint=joint), fit(joint=joint, threads=2)
    for name in one.data_vars:
        np.testing.assert_array_equal(one[name].values, two[name].values, err_msg=str(name))


@pytest.mark.parametrize("model", ["dual_input_one_compartment", "dual_input_two_compartment"])
def test_two_inputs(model: str) -> None:
    tissues = {
        "fp": np.array([80.0, 140.0]),
        "haf": np.array([0.2, 0.6]),
        "vd": np.array([0.2, 0.3]),
        "ps": np.array([0.3, 0.6]),
        "ve": np.array([0.2, 0.15]),
        "vp": np.array([0.1, 0.15]),
        "delay": np.array([2.0, 4.0]),
        "delay_portal": np.array([3.0, 5.0]),
    }
    names = MODELS[model].names
    truth = {n: tissues[n][HALF].reshape(12, 12) for n in names}
    flat = {n: v.ravel() for n, v in truth.items()}
    clean = kety.simulate_curves(flat, TWO_PHASE, AIF, model, portal=PORTAL)
    image = (clean + np.random.default_rng(12).normal(0.0, 3.0, clean.shape)).reshape(IMAGE.shape)
    maps = fit(image, Joint(strength=64.0), model=model, portal=PORTAL)
    for name in names:
        ratio = error(maps[f"{name}_voxelwise"], truth[name]) / error(maps[name], truth[name])
        # Seven parameters of the liver are more than these curves tell; there it must fit at least.
        if model == "dual_input_one_compartment":
            assert ratio > 1.5, name
    assert np.median(maps.cost / maps.cost_voxelwise) < 1.25
    assert maps.attrs["joint_free_parameters"] == len(names) * 144


def test_initial_concentration() -> None:
    tissues = {
        "ktrans": np.array([0.3, 0.6]),
        "kep": np.array([0.9, 1.9]),
        "vb": np.array([0.1, 0.05]),
        "delay": np.array([3.0, 5.0]),
        "c0": np.array([20.0, 35.0]),
    }
    truth = {n: v[HALF].reshape(12, 12) for n, v in tissues.items()}
    flat = {n: v.ravel() for n, v in truth.items()}
    clean = kety.simulate_curves(flat, TWO_PHASE, AIF, "extended_tofts")
    image = (clean + np.random.default_rng(13).normal(0.0, 6.0, clean.shape)).reshape(IMAGE.shape)
    maps = fit(image, "graph", model="extended_tofts", initial=True)
    for name in tissues:
        ratio = error(maps[f"{name}_voxelwise"], truth[name]) / error(maps[name], truth[name])
        assert ratio > 1.5, name
    assert maps.c0_voxelwise.attrs["units"] == "unit of the curves"


def test_uptake_has_four_parameters_and_the_native_system() -> None:
    """Four quantities that are not v, a, k and tau must not be taken for them."""
    truth = {n: TISSUES[n][HALF] for n in MODELS["2cum"].names}
    clean = kety.simulate_curves(truth, TWO_PHASE, AIF, "2cum")
    image = (clean + np.random.default_rng(14).normal(0.0, 6.0, clean.shape)).reshape(IMAGE.shape)
    maps = fit(image, Joint(strength=64.0), model="2cum")
    for name, values in truth.items():
        flat = values.reshape(12, 12)
        assert error(maps[name], flat) < error(maps[f"{name}_voxelwise"], flat) / 1.5, name


def test_one_exponential_by_either_solver() -> None:
    """Extended Tofts as a model of terms has the same joint minimum."""
    tissues = {"ktrans": [0.3, 0.6], "kep": [0.9, 1.9], "vb": [0.1, 0.05], "delay": [3.0, 5.0]}
    flat = {n: np.array(v)[HALF] for n, v in tissues.items()}
    clean = kety.simulate_curves(flat, TWO_PHASE, AIF, "extended_tofts")
    curves = clean + np.random.default_rng(15).normal(0.0, 6.0, clean.shape)
    found = []
    for as_terms in (False, True):
        problem = replace(problem_of("extended_tofts"), as_terms=as_terms)
        solver = prepare(problem, VarProLM())
        single = solver(curves).parameters.astype(float)
        where = places((12, 12), np.arange(144))
        setup = make_setup(problem, Joint(), solver, curves, single, where)
        solution = at_strength(setup, 16.0).parameters
        columns = [problem.slot(p.name) for p in problem.parameters]
        found.append(solution[:, columns])
    np.testing.assert_allclose(found[1], found[0], rtol=0.02, atol=2e-4)
