"""The core of joint estimation: normal equations, systems on graphs, and the energy's minimum."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import block_diag, csr_array

import kety
from cases import (
    GROWING,
    PLACES,
    TWO_PHASE,
    Floats,
    artery,
    parameters,
    study,
    two_tissues,
)
from kety import InputFunction, Joint, VarProLM
from kety._native import GraphSystem4 as GraphSystem
from kety._native import GraphSystem5, quadratic
from kety.fitting.engine import kernel_input, prepare
from kety.fitting.problem import Problem, make_problem
from kety.joint import errors
from kety.joint.energy import (
    checked_terms,
    energy,
    energy_gradient,
    paper_edges,
    paper_loss,
    penalty,
)
from kety.joint.errors import full_covariance, invert, own_share, shared_covariance
from kety.joint.graph import Graph, graph_of, places
from kety.joint.interior_point import interior_point
from kety.joint.normals import DIAGONAL, Normals, make_voxels, pack, unpack
from kety.joint.setup import Setup, make_setup
from kety.joint.similarity import (
    gaussian_similarity,
    kernel_ridge,
    kernel_width,
    spatial_distance,
    temporal_distance,
)
from kety.joint.solve import TIGHT, Bounds, Penalty, Solution, Tolerances, solve
from kety.joint.strength import at_strength
from naive_joint import least_energy, normal_equations, penalty_matrix, solution, system_matrix

needs_casadi = pytest.mark.skipif(
    importlib.util.find_spec("casadi") is None, reason="CasADi is not installed"
)
EVERY = np.uint8(15)
RATES = np.diag([0.0, 1.0, 1.0, 0.0])


# --- normal equations -----------------------------------------------------------------------------


def tofts_problem(aif: InputFunction, **options: Any) -> Problem:
    given = {"delay": True, "bounds": None, "weights": None, "dtype": "float64", "threads": 1}
    chosen: dict[str, Any] = {**given, "find_enhancing": False, **options}
    return make_problem(TWO_PHASE, aif, chosen.pop("model", "extended_tofts"), **chosen)


def kernel_truth(problem: Problem, count: int, seed: int) -> Floats:
    """Parameters (V, 4) over the usual ranges that single precision holds exactly."""
    drawn = parameters(np.random.default_rng(seed), count, problem.model.name)
    kernel = problem.model.kernel_parameters(drawn, problem.aif, count)
    return kernel.astype(np.float32).astype(np.float64)


def assert_same_normals(one: Normals, other: Normals, rows: Any = slice(None)) -> None:
    """Bit for bit, the first at some of its rows."""
    for name in ("cost", "unweighted", "gradient", "hessian", "baseline"):
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_array_equal(a[rows], b, err_msg=name)


@pytest.mark.parametrize("model", ["extended_tofts", "tofts", "patlak", "one_compartment"])
@pytest.mark.parametrize("baseline", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("dtype", "digits"), [("float64", 1e-13), ("float32", 1e-5)])
@pytest.mark.parametrize("name", ["georgiou", "parker"])
def test_normal_equations_are_those_of_numpy(
    name: str, dtype: str, digits: float, weighted: bool, baseline: bool, model: str
) -> None:
    rng = np.random.default_rng(1)
    weights = rng.uniform(0.0, 3.0, len(TWO_PHASE)) if weighted else None
    if weights is not None:
        weights[[4, 20]] = 0.0
    aif = artery(name, TWO_PHASE[-1] + 5)
    problem = tofts_problem(aif, model=model, weights=weights, dtype=dtype, baseline=baseline)
    curves, _ = study(rng, 41, aif)
    curves = (curves + 50.0 * baseline).astype(np.float32)
    p = kernel_truth(problem, 41, 2)
    precision = rng.uniform(0.1, 10.0, 41)
    found = make_voxels(problem, curves).normals(p, precision)

    factor = 1.0 if weights is None else 2.0 ** np.round(np.log2(weights.max()))
    cost, unweighted, gradient, hessian, constant = normal_equations(problem, curves, p, factor)
    # Sums are as exact as their terms, with the constant not yet taken from them.
    plain = normal_equations(replace(problem, baseline=False), curves, p, factor)
    size = np.einsum("vii->vi", plain[3])
    worst = plain[0] + np.sum(curves.astype(float) ** 2, axis=1)
    assert found.gradient.shape == (41, 4)
    assert found.hessian.shape == (41, 10)
    np.testing.assert_array_less(np.abs(found.cost / precision - cost), digits * worst)
    np.testing.assert_array_less(np.abs(found.unweighted - unweighted), 3 * digits * worst)
    np.testing.assert_array_less(
        np.abs(found.gradient / precision[:, None] - gradient),
        digits * np.sqrt(size * worst[:, None]) + 1e-300,
    )
    np.testing.assert_array_less(
        np.abs(unpack(found.hessian) / precision[:, None, None] - hessian),
        2 * digits * np.sqrt(size[:, :, None] * size[:, None, :]) + 1e-300,
    )
    assert (found.baseline is None) == (not baseline)
    if found.baseline is not None:
        assert constant.std() > 1.0
        np.testing.assert_allclose(found.baseline, constant, rtol=0, atol=digits * 300)


@pytest.fixture(scope="module", params=["float32", "float64"])
def many(request: pytest.FixtureRequest) -> tuple[Any, Floats, Floats, Normals]:
    """Voxels in more than one block of the core and no multiple of the lanes."""
    aif = artery("parker", TWO_PHASE[-1] + 5)
    problem = tofts_problem(aif, dtype=request.param)
    curves, _ = study(np.random.default_rng(3), 4500, aif)
    p = kernel_truth(problem, 4500, 4)
    precision = np.random.default_rng(5).uniform(0.5, 2.0, 4500)
    return problem, curves, p, make_voxels(problem, curves).normals(p, precision)


def test_order_of_voxels_changes_no_bit(many: tuple[Any, Floats, Floats, Normals]) -> None:
    problem, curves, p, whole = many
    precision = np.random.default_rng(5).uniform(0.5, 2.0, 4500)
    order = np.random.default_rng(6).permutation(4500)
    for rows in (order, order[:1], order[:2], order[:17], order[:2049]):
        part = make_voxels(problem, curves[rows]).normals(p[rows], precision[rows])
        assert_same_normals(whole, part, rows)


@pytest.mark.parametrize("threads", [2, 3, 16])
def test_threads_change_no_bit(many: tuple[Any, Floats, Floats, Normals], threads: int) -> None:
    problem, curves, p, whole = many
    precision = np.random.default_rng(5).uniform(0.5, 2.0, 4500)
    voxels = make_voxels(replace(problem, threads=threads), curves)
    assert_same_normals(whole, voxels.normals(p, precision))


def test_neighbours_options_change_no_bit() -> None:
    aif = artery("georgiou", TWO_PHASE[-1] + 5)
    weights = np.linspace(0.2, 2.0, len(TWO_PHASE))
    problem = tofts_problem(aif, weights=weights, baseline=True, dtype="float32")
    curves, _ = study(np.random.default_rng(7), 300, aif)
    p = kernel_truth(problem, 300, 8)
    whole = make_voxels(problem, curves).normals(p)
    for rows in (np.arange(300)[::-1], np.array([17])):
        part = make_voxels(problem, np.asfortranarray(curves)[rows]).normals(p[rows])
        assert_same_normals(whole, part, rows)


def test_packing_keeps_a_symmetric_matrix() -> None:
    rng = np.random.default_rng(9)
    full = rng.normal(size=(7, 4, 4))
    full = full + full.swapaxes(1, 2)
    np.testing.assert_array_equal(unpack(pack(full)), full)
    assert pack(full)[0].tolist() == [full[0, i, j] for i in range(4) for j in range(i + 1)]


def test_quadratic_is_its_formula() -> None:
    rng = np.random.default_rng(10)
    gradient, move = rng.normal(size=(2, 9000, 4))
    full = rng.normal(size=(9000, 4, 4))
    full = full + full.swapaxes(1, 2)
    expected = 2 * np.einsum("vi,vi->v", gradient, move)
    expected += np.einsum("vi,vij,vj->v", move, full, move)
    for threads in (1, 3):
        change = np.empty(9000)
        quadratic(gradient, pack(full), move, change, threads)
        np.testing.assert_allclose(change, expected, rtol=0, atol=1e-12 * 100)


# --- systems on graphs ----------------------------------------------------------------------------


@dataclass(repr=False)
class System:
    """A random system on a graph and its dense twin."""

    weights: Floats
    block: Floats
    damping: Floats
    metric: Floats
    free: Any
    right: Floats
    strength: float

    @property
    def penalty(self) -> Floats:
        return penalty_matrix(self.weights, self.metric, self.strength)

    @property
    def matrix(self) -> Floats:
        return system_matrix(self.penalty, self.block, self.damping)

    def native(self, *, single: bool, multigrid: bool, threads: int = 1) -> GraphSystem:
        graph = graph_of(self.weights)
        made = GraphSystem(graph.rows, graph.columns, graph.weights, single, threads, "")
        made.prepare(pack(self.metric), self.strength, multigrid)
        bits = np.packbits(self.free, axis=1, bitorder="little").ravel()
        made.blocks(pack(self.block), self.damping, bits)
        return made


def connected(rng: np.random.Generator, count: int, density: float) -> Floats:
    """Weights (V, V) of a graph that holds together, as single precision holds them."""
    w = rng.uniform(0.05, 1.0, (count, count)) * (rng.random((count, count)) < density)
    w[np.arange(count - 1), np.arange(1, count)] = 1.0
    w = np.triu(w, 1).astype(np.float32).astype(np.float64)
    return w + w.T


@st.composite
def systems(draw: st.DrawFn, least: int, most: int) -> System:
    """Several components, isolated voxels, held parameters, metrics of any rank."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(least, most))
    w = connected(rng, count, draw(st.sampled_from([0.0, 0.05, 0.5])))
    if draw(st.booleans()):
        part = rng.integers(0, 3, count)
        w[part[:, None] != part] = 0.0
    if draw(st.booleans()):
        lonely = rng.random(count) < 0.3
        w[lonely] = w[:, lonely] = 0.0
    rank = draw(st.integers(1, 4))
    roots = rng.normal(size=(count, 4, rank)) if draw(st.booleans()) else rng.normal(size=(4, rank))
    metric = np.broadcast_to(roots @ roots.swapaxes(-1, -2), (count, 4, 4)).copy()
    data = rng.normal(size=(count, 4, 4))
    block = data @ data.swapaxes(1, 2) + 0.5 * np.eye(4)
    damping = rng.uniform(0.0, 0.5, count) * draw(st.booleans())
    free = np.ones((count, 4), bool) if draw(st.booleans()) else rng.random((count, 4)) < 0.7
    strength = draw(st.sampled_from([1e-3, 1.0, 30.0, 1e3, 1e6]))
    return System(w, block, damping, metric, free, rng.normal(size=(count, 4)), strength)


@settings(max_examples=60, deadline=None)
@given(systems(1, 60), st.booleans())
def test_penalty_is_the_dense_one(system: System, single: bool) -> None:
    made = system.native(single=single, multigrid=True)
    x = np.random.default_rng(0).normal(size=system.right.shape)
    y = np.full_like(x, np.nan)
    made.penalty(x, y)
    expected = system.penalty @ x.ravel()
    scale = np.abs(system.penalty) @ np.abs(x.ravel()) + 1e-300
    # Weights of the graph are single; the sums are double whatever the precision of the solver.
    np.testing.assert_array_less(np.abs(y.ravel() - expected), 1e-13 * scale + 1e-300)
    # The energy of the module with the formulas has it as half its gradient.
    w = csr_array(system.weights * system.strength)
    assert np.vdot(x, y) == pytest.approx(penalty(x, w, system.metric), rel=1e-9, abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(systems(1, 60))
def test_solution_is_the_dense_one(system: System) -> None:
    check_solution(system, levels=1)


@settings(max_examples=15, deadline=None)
@given(systems(66, 140))
def test_solution_on_several_levels_is_the_dense_one(system: System) -> None:
    check_solution(system, levels=None)


def check_solution(system: System, levels: int | None) -> None:
    expected = solution(system.matrix, system.right, system.free)
    matrix, right = system.matrix, np.where(system.free, system.right, 0.0)
    # What rounding leaves of the data's part beside the penalty's.
    drawn = system.weights.sum(axis=1).max() * np.einsum("vii->v", system.metric).max()
    rest = 1e-9 + 2e-14 * system.strength * drawn

    def fall(x: Floats) -> float:
        return float(right.ravel() @ x.ravel() - 0.5 * x.ravel() @ matrix @ x.ravel())

    for multigrid in (False, True):
        made = system.native(single=False, multigrid=multigrid)
        if levels is not None or not multigrid:
            assert made.levels == 1
        for start in (np.zeros_like(expected), np.full_like(expected, 3.0)):
            x = start.copy()
            steps, left = made.solve(system.right, x, 1e-12, 20_000)
            assert steps < 20_000
            assert left <= 1e-12
            assert (x[~system.free] == 0).all()
            scale = np.abs(expected).max() if system.free.any() else 1.0
            np.testing.assert_allclose(x, expected, rtol=0, atol=rest * scale)
        # A right-hand side of nothing, wherever it starts.
        made.solve(np.zeros_like(x), x, 1e-12, 10)
        assert not x.any()

        quick = system.native(single=True, multigrid=multigrid)
        x = np.zeros_like(expected)
        steps, _ = quick.solve(system.right, x, 1e-4, 2000)
        assert (x[~system.free] == 0).all()
        assert np.isfinite(x).all()
        # Single precision does not hold what a far stronger penalty leaves to the data.
        if system.strength <= 1e3:
            assert steps < 2000
            assert fall(x) >= 0.7 * fall(expected)
        if system.strength <= 30.0:
            scale = np.abs(expected).max() if system.free.any() else 1.0
            np.testing.assert_allclose(x, expected, rtol=0, atol=5e-3 * scale)


@settings(max_examples=10, deadline=None)
@given(systems(66, 140), st.booleans(), st.booleans())
def test_steps_and_precision_do_not_depend_on_earlier_ones(
    system: System, single: bool, multigrid: bool
) -> None:
    """A system that served other blocks and strengths before solves as a new one does."""
    used = system.native(single=single, multigrid=True)
    x = np.zeros_like(system.right)
    used.solve(system.right, x, 1e-4, 200)
    used.prepare(pack(system.metric), 0.1 * system.strength + 1.0, not multigrid)
    used.blocks(pack(system.block * 2), system.damping + 1, np.full(len(x), EVERY))
    used.solve(system.right, x, 1e-4, 200)
    used.prepare(pack(system.metric), system.strength, multigrid)
    bits = np.packbits(system.free, axis=1, bitorder="little").ravel()
    used.blocks(pack(system.block), system.damping, bits)
    one, other = np.zeros_like(x), np.zeros_like(x)
    new = system.native(single=single, multigrid=multigrid)
    assert used.solve(system.right, one, 1e-4, 200) == new.solve(system.right, other, 1e-4, 200)
    np.testing.assert_array_equal(one, other)


@cache
def square(side: int) -> Any:
    """Sparse weights of a square grid whose voxels are joined to their four neighbours."""
    ring = csr_array(np.eye(side, k=1) + np.eye(side, k=-1))
    one = csr_array(np.eye(side))
    from scipy.sparse import kron

    return csr_array(kron(ring, one) + kron(one, ring))


def large(weights: Any, strength: float) -> tuple[Graph, Floats, Floats, Floats]:
    """Graph, metrics, blocks and right-hand side of many voxels, all different."""
    graph = graph_of(weights)
    rng = np.random.default_rng(11)
    roots = rng.normal(size=(2, len(graph), 4, 4))
    metric, block = roots @ roots.swapaxes(2, 3) + 0.1 * np.eye(4)
    return graph, pack(metric), pack(block), rng.normal(size=(len(graph), 4))


def steps_of(
    weights: Any, strength: float, *, multigrid: bool, tolerance: float = 1e-6
) -> tuple[int, float]:
    graph, metric, block, right = large(weights, strength)
    made = GraphSystem(graph.rows, graph.columns, graph.weights, False, 1, "")
    made.prepare(metric, strength, multigrid)
    made.blocks(block, np.zeros(len(graph)), np.full(len(graph), EVERY))
    x, y = np.zeros_like(right), np.empty_like(right)
    steps, _ = made.solve(right, x, tolerance, 5000)
    made.penalty(x, y)
    rest = right - y - np.einsum("vij,vj->vi", unpack(block), x)
    return steps, float(np.linalg.norm(rest) / np.linalg.norm(right))


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("multigrid", [False, True])
def test_threads_change_no_bit_of_a_solution(multigrid: bool, single: bool) -> None:
    graph, metric, block, right = large(square(100), 50.0)  # three partial sums
    solved = []
    for threads in (1, 2, 5):
        made = GraphSystem(graph.rows, graph.columns, graph.weights, single, threads, "")
        made.prepare(metric, 50.0, multigrid)
        made.blocks(block, np.full(len(graph), 0.01), np.full(len(graph), EVERY))
        x, y = np.zeros_like(right), np.empty_like(right)
        told = made.solve(right, x, 1e-5, 60)
        made.penalty(x, y)
        solved.append((told, x, y))
    for told, x, y in solved[1:]:
        assert told == solved[0][0]
        np.testing.assert_array_equal(x, solved[0][1])
        np.testing.assert_array_equal(y, solved[0][2])


@pytest.mark.parametrize(("strength", "times"), [(100.0, 5), (1e4, 7), (1e6, 5)])
def test_multigrid_needs_fewer_steps_where_the_penalty_is_strong(
    strength: float, times: int
) -> None:
    blocks, rest = steps_of(square(64), strength, multigrid=False)
    assert rest < 1e-5
    levels, rest = steps_of(square(64), strength, multigrid=True)
    assert rest < 1e-5
    assert times * levels < blocks
    assert levels < 200


def test_steps_of_multigrid_hardly_grow_with_the_graph() -> None:
    levels, blocks = (
        [steps_of(square(n), 1e4, multigrid=multigrid)[0] for n in (32, 96)]
        for multigrid in (True, False)
    )
    assert levels[1] < 1.4 * levels[0]
    assert blocks[1] > 1.6 * blocks[0]


@pytest.mark.parametrize("lonely", [3600, 9000])
def test_isolated_voxels_do_not_switch_multigrid_off(lonely: int) -> None:
    weights = block_diag([square(64), csr_array((lonely, lonely))])
    blocks, _ = steps_of(weights, 1e4, multigrid=False)
    levels, rest = steps_of(weights, 1e4, multigrid=True)
    assert 3 * levels < blocks
    assert rest < 1e-5


def test_systems_say_what_does_not_fit() -> None:
    graph = graph_of(np.ones((3, 3)))
    metric, ones = np.ones((3, 10)), np.ones((3, 4))
    arguments = (graph.rows, graph.columns, graph.weights)
    with pytest.raises(ValueError, match="do not agree"):
        GraphSystem(graph.rows, graph.columns[1:], graph.weights, True, 1, "")
    with pytest.raises(ValueError, match="sse9"):
        GraphSystem(*arguments, True, 1, "sse9")
    with pytest.raises(ValueError, match="float32 have four"):
        GraphSystem5(*arguments, True, 1, "")
    made = GraphSystem(*arguments, True, 1, "")
    with pytest.raises(ValueError, match="no penalty yet"):
        made.blocks(metric, np.zeros(3), np.full(3, EVERY))
    with pytest.raises(ValueError, match="no penalty yet"):
        made.solve(ones, ones.copy(), 1e-3, 9)
    with pytest.raises(ValueError, match="metric does not fit"):
        made.prepare(metric[1:], 1.0, False)
    made.prepare(metric, 1.0, False)
    with pytest.raises(ValueError, match="no blocks yet"):
        made.solve(ones, ones.copy(), 1e-3, 9)
    with pytest.raises(ValueError, match="vectors do not fit"):
        made.penalty(ones[1:].copy(), ones.copy())
    with pytest.raises(ValueError, match="blocks do not fit"):
        made.blocks(metric, np.zeros(2), np.full(3, EVERY))


# --- the energy's minimum -------------------------------------------------------------------------


def paper_problem(aif: InputFunction, **options: Any) -> Problem:
    given = {"delay": False, "bounds": None, "weights": None, "dtype": "float64", "threads": 1}
    chosen: dict[str, Any] = {**given, "find_enhancing": False, **options}
    return make_problem(GROWING, aif, "one_compartment", **chosen)


def similarity(which: str, curves: Floats) -> Floats:
    if which == "spatial":
        distance = spatial_distance(PLACES)
    else:
        distance = temporal_distance(kernel_ridge(curves, GROWING))
    return gaussian_similarity(distance, kernel_width(distance))


def paper_solution(
    problem: Problem, curves: Floats, w: Floats, strength: float
) -> tuple[Solution, Floats]:
    """The minimum of the paper's loss, from voxelwise parameters (V, 4), and those."""
    count = len(curves)
    start = prepare(problem, VarProLM())(curves).parameters.astype(np.float64)
    metric = pack(np.broadcast_to(np.eye(4), (count, 4, 4)))
    lo, hi = (np.tile(b, (count, 1)) for b in problem.kernel_bounds())
    factor = 2.0 * strength * len(problem.times) / count
    voxels = make_voxels(problem, curves)
    penalised = Penalty(graph_of(w), metric, factor)
    return solve(voxels, penalised, [start], np.ones(count), [Bounds(lo, hi)], TIGHT), start


@pytest.mark.parametrize("which", ["spatial", "temporal"])
@pytest.mark.parametrize("noise", [0.01, 0.1])
@pytest.mark.parametrize("strength", [1.0, 1e2, 1e4, 1e6])
def test_minimum_is_that_of_another_optimiser(strength: float, noise: float, which: str) -> None:
    curves, aif = two_tissues(np.random.default_rng(20), noise)
    problem, w = paper_problem(aif), similarity(which, curves)
    found, start = paper_solution(problem, curves, w, strength)
    assert found.converged
    edges = paper_edges(w, len(GROWING), strength)
    value = energy(problem, curves, edges, RATES, found.parameters)
    # Weights of the graph are single.
    assert found.energies[-1] == pytest.approx(value, rel=1e-7)
    least = least_energy(checked_terms(problem, curves, edges, RATES), start)
    loss, other = (paper_loss(e, len(GROWING), 36) for e in (value, least))
    assert loss == pytest.approx(other, rel=1e-8)
    assert_stationary(problem, curves, edges, RATES, found.parameters)


def assert_stationary(
    problem: Problem, curves: Floats, edges: Any, metric: Floats, theta: Floats, rest: float = 1e-9
) -> None:
    """No free parameter gains anything; those at a bound would leave the box."""
    value, slope = energy_gradient(problem, curves, edges, metric, theta)
    bend = 2 * np.einsum("vii->vi", normal_equations(problem, curves, theta, 1.0)[3])
    lo, hi = problem.kernel_bounds()
    low, high = (theta <= lo) & (hi > lo), (theta >= hi) & (hi > lo)
    inside = (hi > lo) & ~low & ~high & (bend > 0)
    assert inside.any()
    # What a step along one parameter alone would gain.
    gain = slope[inside] ** 2 / bend[inside]
    assert gain.sum() < rest * value
    assert (slope[low] >= 0).all()
    assert (slope[high] <= 0).all()


@needs_casadi
@pytest.mark.parametrize("which", ["spatial", "temporal"])
@pytest.mark.parametrize("noise", [0.01, 0.1])
@pytest.mark.parametrize("strength", [1.0, 1e3, 1e6])
def test_minimum_is_that_of_the_interior_point(strength: float, noise: float, which: str) -> None:
    curves, aif = two_tissues(np.random.default_rng(21), noise)
    problem, w = paper_problem(aif), similarity(which, curves)
    found, start = paper_solution(problem, curves, w, strength)
    edges = paper_edges(w, len(GROWING), strength)
    other = interior_point(problem, curves, edges, RATES, start, hessian="gauss_newton")
    assert other.converged, other.message
    value = energy(problem, curves, edges, RATES, found.parameters)
    assert value == pytest.approx(other.energy, rel=1e-6)
    far = np.abs(found.parameters - other.parameters)[:, 1:3]
    assert (far < 2e-3 * other.parameters[:, 1:3]).all()


@pytest.mark.parametrize("strength", [0.1, 1e2, 1e5])
def test_bounds_are_honoured_exactly(strength: float) -> None:
    curves, aif = two_tissues(np.random.default_rng(22), 0.1)
    problem = paper_problem(aif, bounds={"k1": (0.36, 0.45), "k2": (0.0, 1.1)}, delay=1.5)
    lo, hi = problem.kernel_bounds()
    w = similarity("spatial", curves)
    found, start = paper_solution(problem, curves, w, strength)
    p = found.parameters
    assert (p >= lo).all()
    assert (p <= hi).all()
    assert (p[:, [0, 3]] == [0.0, 1.5]).all()
    at = (p[:, 1:3] == lo[1:3]) | (p[:, 1:3] == hi[1:3])
    assert 0 < at.sum() < 72
    edges = paper_edges(w, len(GROWING), strength)
    assert_stationary(problem, curves, edges, RATES, p)
    least = least_energy(checked_terms(problem, curves, edges, RATES), start)
    assert energy(problem, curves, edges, RATES, p) == pytest.approx(least, rel=1e-6)


# --- joint fits of whole voxels -------------------------------------------------------------------


def tofts_setup(
    seed: int,
    joint: Joint,
    *,
    side: int = 6,
    noise: float = 6.0,
    inputs: str = "georgiou",
    **options: Any,
) -> Setup:
    """Voxels of four parameters in two halves, ready to be solved at any strength."""
    aif = artery(inputs, TWO_PHASE[-1] + 5)
    problem = tofts_problem(aif, **options)
    rng = np.random.default_rng(seed)
    half = (np.arange(side * side) >= side * side // 2).astype(int)
    truth = {n: v[half] for n, v in parameters(rng, 2, "extended_tofts").items()}
    clean = kety.simulate_curves(truth, TWO_PHASE, aif)
    curves = clean + rng.normal(0.0, noise, clean.shape)
    if problem.baseline:
        curves += rng.normal(0.0, 20.0, (len(curves), 1))
    solver = prepare(problem, VarProLM())
    single = solver(curves.astype(problem.dtype)).parameters.astype(np.float64)
    where = places((side, side), np.arange(side * side))
    return make_setup(problem, joint, solver, curves, single, where)


def written_energy(setup: Setup, strength: float, theta: Floats) -> float:
    """The energy of a joint fit, from plain formulas."""
    problem, curves = setup.voxels.problem, setup.voxels.curves.astype(np.float64)
    weights = problem.weights
    factor = 1.0 if weights is None else 2.0 ** np.round(np.log2(weights.max()))
    costs = normal_equations(problem, curves, theta, factor)[0]
    edges = csr_array(setup.graph.matrix().astype(np.float64) * (strength * setup.unit))
    return float(np.sum(setup.precision * costs) + penalty(theta, edges, unpack(setup.metric)))


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from([1e-2, 1.0, 16.0, 1e3, 1e6]),
    st.sampled_from(["graph", "spatial", "temporal"]),
    st.sampled_from([0.5, 6.0, 40.0]),
    st.sampled_from(["float32", "float64"]),
    st.sampled_from(["georgiou", "parker"]),
    st.booleans(),
    st.booleans(),
)
def test_energy_never_rises(
    seed: int,
    strength: float,
    which: str,
    noise: float,
    dtype: str,
    inputs: str,
    scaled: bool,
    baseline: bool,
) -> None:
    joint = Joint(which, scaled=scaled)
    options = {"noise": noise, "inputs": inputs, "dtype": dtype, "baseline": baseline}
    setup = tofts_setup(seed, joint, **options)
    found = at_strength(setup, strength)
    fall = np.diff(found.energies)
    assert (fall <= 0).all()
    assert len(found.energies) == found.steps + 1
    lo, hi = setup.voxels.problem.kernel_bounds()
    p = found.parameters
    assert (p >= lo).all()
    assert (p <= hi).all()
    if len(setup.graph.columns):
        starts = [setup.bounds(s).clip(s) for s in (setup.guide, setup.voxelwise)]
        digits = 1e-9 if dtype == "float64" else 1e-4
        begun = min(written_energy(setup, strength, s) for s in starts)
        ended = written_energy(setup, strength, p)
        # Costs and penalty are small differences of large terms.
        drawn = setup.graph.degree * setup.unit * strength
        size = np.einsum("va,vab,vb->v", p, unpack(setup.metric), p)
        curves = np.sum(setup.voxels.curves.astype(float) ** 2, axis=1)
        rest = 1e-13 * drawn @ size + (dtype == "float32") * 1e-5 * setup.precision @ curves
        assert found.energies[0] == pytest.approx(begun, rel=digits, abs=rest)
        assert found.energies[-1] == pytest.approx(ended, rel=digits, abs=rest)


@pytest.mark.parametrize("options", [{}, {"baseline": True}, {"weights": np.linspace(0.2, 3, 37)}])
@pytest.mark.parametrize("strength", [1.0, 100.0])
def test_scaled_minimum_is_stationary(strength: float, options: dict[str, Any]) -> None:
    """With the information of the data as metric, and a precision of every voxel."""
    setup = tofts_setup(23, Joint("graph"), **options)
    found = at_strength(setup, strength, tolerances=TIGHT)
    p, box = found.parameters, setup.bounds(found.parameters)
    least = written_energy(setup, strength, p)
    bend = unpack(found.normals.hessian) * setup.precision[:, None, None]
    moved = 0
    for i in range(0, 36, 5):
        for k in range(4):
            if bend[i, k, k] <= 0:
                continue
            for sign in (-1, 1):
                other = p.copy()
                other[i, k] += sign * 0.02 / np.sqrt(bend[i, k, k])
                if not box.lower[i, k] <= other[i, k] <= box.upper[i, k]:
                    continue
                moved += 1
                assert written_energy(setup, strength, other) > least
    assert moved > 50


def test_parameters_are_at_a_bound_or_clear_of_it() -> None:
    """A last bit between them would cost a voxel its status."""
    bounds = {"ktrans": (0.1, 0.4), "kep": (0.3, 1.3), "vb": (0.02, 0.13), "delay": (1.3, 6.7)}
    at = 0
    for seed in range(6):
        for strength in (1.0, 100.0):
            setup = tofts_setup(seed, Joint("graph"), noise=15.0, bounds=bounds)
            p = at_strength(setup, strength).parameters
            for bound in setup.voxels.problem.kernel_bounds():
                near = np.abs(p - bound) <= 1e-9 * np.abs(bound)
                np.testing.assert_array_equal(near, p == bound)
                at += int(near.sum())
    assert at > 100


def test_better_of_several_starts_is_taken() -> None:
    setup = tofts_setup(24, Joint("graph"))
    penalised = setup.penalty(16.0)
    stop = Tolerances(steps=0)
    bad = np.tile(setup.voxelwise[:1], (36, 1))
    starts = [bad, setup.guide]
    for order in (starts, starts[::-1]):
        found = solve(
            setup.voxels, penalised, order, setup.precision, [setup.bounds(s) for s in order], stop
        )
        np.testing.assert_array_equal(found.parameters, setup.bounds(setup.guide).clip(setup.guide))


def test_a_limit_of_steps_is_told() -> None:
    setup = tofts_setup(25, Joint("graph"), noise=20.0)
    found = at_strength(setup, 16.0, tolerances=replace(TIGHT, steps=1))
    assert found.steps == 1
    assert not found.converged
    assert at_strength(setup, 16.0).converged


@pytest.mark.parametrize("joint", [Joint("graph"), Joint("spatial", scaled=False)])
def test_threads_change_no_bit_of_a_minimum(joint: Joint) -> None:
    setup = tofts_setup(26, joint, side=48, dtype="float32")
    strength = 200.0 if joint.scaled else 1e5
    one = at_strength(setup, strength)
    for threads in (2, 5):
        voxels = replace(setup.voxels, problem=replace(setup.voxels.problem, threads=threads))
        other = at_strength(replace(setup, voxels=voxels), strength)
        np.testing.assert_array_equal(other.parameters, one.parameters)
        assert other.energies == one.energies


# --- covariance -----------------------------------------------------------------------------------


def held_by(setup: Setup, theta: Floats) -> Any:
    lo, hi = setup.voxels.problem.kernel_bounds()
    return (hi <= lo) | (theta <= lo) | (theta >= hi)


def both_covariances(
    joint: Joint, strength: float, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> tuple[Floats, Floats]:
    """Median over voxels of each standard error over the exact one, and over the voxelwise one."""
    monkeypatch.setattr(errors, "EXACT", 10_000)
    setup = tofts_setup(27, joint, side=18, **options)
    found = at_strength(setup, strength)
    held = held_by(setup, found.parameters)
    exact, exact_own = full_covariance(setup, found.normals, strength, held)
    own = own_share(setup, strength)
    shared, lost = shared_covariance(setup, found.normals, held, own)
    assert not lost.any()
    assert exact_own.mean() == pytest.approx(own.mean(), rel=0.1)
    single, _ = invert(found.normals.hessian * setup.precision[:, None], held)
    ratio, share = (np.sqrt(shared[:, DIAGONAL] / c[:, DIAGONAL]) for c in (exact, single))
    return np.nanmedian(ratio, axis=0), np.nanmedian(share, axis=0)


@pytest.mark.parametrize(("strength", "expected"), [(1.0, 0.7), (16.0, 0.27), (64.0, 0.17)])
@pytest.mark.parametrize("options", [{}, {"baseline": True}, {"weights": np.linspace(0.2, 3, 37)}])
def test_shared_covariance_is_about_the_exact_one(
    options: dict[str, Any], strength: float, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    joint = Joint("graph", radius=3.0)
    ratio, share = both_covariances(joint, strength, monkeypatch, **options)
    assert (np.abs(ratio - 1.0) < 0.1).all(), ratio
    # The stronger the penalty, the less a voxel's error is that of its own fit.
    np.testing.assert_allclose(share, expected, rtol=0.2)


@pytest.mark.parametrize("strength", [1.0, 16.0])
def test_shared_covariance_of_voxels_joined_anywhere(
    strength: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    ratio, _ = both_covariances(Joint("graph"), strength, monkeypatch)
    assert (np.abs(ratio - 1.0) < 0.1).all(), ratio


@pytest.mark.parametrize("strength", [10.0, 1e4])
def test_exact_covariance_is_the_inverse_of_the_system(strength: float) -> None:
    bounds = {"ktrans": (0.1, 0.4), "kep": (0.3, 1.3), "vb": (0.02, 0.13)}
    setup = tofts_setup(32, Joint("spatial", scaled=False), noise=15.0, bounds=bounds)
    found = at_strength(setup, strength)
    held = held_by(setup, found.parameters)
    assert 0 < held.sum() < held.size
    covariance, own = full_covariance(setup, found.normals, strength, held)
    block = unpack(found.normals.hessian)
    weights = setup.graph.matrix().toarray().astype(float) * (strength * setup.unit)
    penalised = penalty_matrix(weights, np.tile(np.eye(4), (36, 1, 1)), 1.0)
    matrix = system_matrix(penalised, block, np.zeros(36))
    free = np.flatnonzero(~held)
    inverse = np.full(matrix.shape, np.nan)
    inverse[np.ix_(free, free)] = np.linalg.inv(matrix[np.ix_(free, free)])
    blocks = inverse.reshape(36, 4, 36, 4)[np.arange(36), :, np.arange(36), :]
    expected = blocks * setup.noise[:, None, None]
    np.testing.assert_allclose(unpack(covariance), expected, rtol=1e-8)
    mean = np.einsum("vab,vba->v", np.nan_to_num(blocks), block) / (~held).sum(axis=1)
    np.testing.assert_allclose(own, mean, rtol=1e-8)


def test_drawn_covariance_is_about_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = tofts_setup(28, Joint("spatial", scaled=False), side=10)
    found = at_strength(setup, 1e4)
    held = held_by(setup, found.parameters)
    exact, own = full_covariance(setup, found.normals, 1e4, held)
    monkeypatch.setattr(errors, "EXACT", 0)
    monkeypatch.setattr(errors, "VECTOR_DRAWS", 400)
    drawn, drawn_own = full_covariance(setup, found.normals, 1e4, held)
    np.testing.assert_array_equal(np.isnan(drawn), np.isnan(exact))
    ratio = np.sqrt(drawn[:, DIAGONAL] / exact[:, DIAGONAL])
    assert np.abs(np.nanmedian(ratio, axis=0) - 1.0).max() < 0.03
    assert np.nanquantile(np.abs(ratio - 1.0), 0.95) < 0.15
    assert np.abs(drawn_own - own).mean() < 0.03


def exact_share(weights: Floats, strength: float) -> Floats:
    """Diagonal of (1 + s L)^-1 with the graph's Laplacian L."""
    laplacian = np.diag(weights.sum(axis=1)) - weights
    return np.diag(np.linalg.inv(np.eye(len(weights)) + strength * laplacian))


def lone_setup(weights: Any) -> Any:
    """What `own_share` asks of a setup."""
    graph = graph_of(weights)

    class Count(SimpleNamespace):
        def __len__(self) -> int:
            return len(graph)

    voxels = Count(problem=SimpleNamespace(threads=1, card=None))
    return SimpleNamespace(graph=graph, voxels=voxels, unit=1.0 / graph.mean_degree)


@pytest.mark.parametrize("strength", [0.1, 1.0, 16.0])
def test_own_share_is_right_on_average(strength: float, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = lone_setup(square(12))
    exact = exact_share(square(12).toarray() * setup.unit, strength)
    few = own_share(setup, strength)
    assert np.median(few / exact) == pytest.approx(1.0, abs=0.1)
    monkeypatch.setattr(errors, "DRAWS", 400)
    many = own_share(setup, strength)
    assert (np.abs(many / exact - 1.0) < 0.2).all()
    assert np.median(many / exact) == pytest.approx(1.0, abs=0.03)
    assert (own_share(lone_setup(np.zeros((5, 5))), strength) == 1.0).all()


@pytest.mark.parametrize("strength", [1e3, 1e5])
def test_own_share_where_a_few_voxels_are_pooled(strength: float) -> None:
    """As the automatic choice does with the voxels of two tissues."""
    count = 36
    weights = np.ones((count, count)) - np.eye(count)
    exact = exact_share(weights / (count - 1), strength)
    for seed in range(4):
        found = own_share(lone_setup(weights), strength, seed)
        assert (np.abs(np.sqrt(found / exact) - 1.0) < 0.15).all()


@pytest.mark.parametrize("strength", [1e4, 1e6])
def test_isolated_voxels_do_not_change_the_share_of_others(
    strength: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errors, "DRAWS", 100)
    setup = lone_setup(block_diag([square(12), csr_array((800, 800))]))
    unit = 1.0 / graph_of(square(12)).mean_degree
    exact = exact_share(square(12).toarray() * unit, strength)
    found = own_share(setup, strength)
    assert found[144:] == pytest.approx(1.0, abs=1e-3)
    assert np.median(found[:144] / exact) == pytest.approx(1.0, abs=0.25)


def test_invert_leaves_out_what_is_held_or_undetermined() -> None:
    rng = np.random.default_rng(29)
    scale = np.array([1e3, 1e5, 1e4, 1.0])
    roots = rng.normal(size=(50, 4, 6)) * scale[:, None]
    full = roots @ roots.swapaxes(1, 2)
    held = rng.random((50, 4)) < 0.3
    full[10, 2] = full[10, :, 2] = 0.0  # nothing known of it
    full[11] = np.outer(scale, scale)  # one combination known
    held[[10, 11]] = False
    found, lost = invert(pack(full), held)
    for i in range(50):
        if i in (10, 11):
            continue
        out = held[i]
        expected = np.full((4, 4), np.nan)
        keep = np.flatnonzero(~out)
        expected[np.ix_(keep, keep)] = np.linalg.inv(full[i][np.ix_(keep, keep)])
        np.testing.assert_allclose(unpack(found)[i], expected, rtol=1e-8, atol=0)
        assert lost[i] == 0
    assert lost[10] == 0b0100
    assert lost[11] == 0b1110
    np.testing.assert_allclose(unpack(found)[11, 0, 0], 1e-6)
    assert np.isnan(unpack(found)[10, 2]).all()


def test_scale_of_the_input_changes_only_the_unit() -> None:
    """The kernel divides by a power of two; costs come back in the curves' unit."""
    aif = artery("georgiou", TWO_PHASE[-1] + 5)
    small = replace(aif, concentration=aif.concentration * 2.0**-10)
    curves, _ = study(np.random.default_rng(30), 20, aif)
    problem = tofts_problem(aif)
    p = kernel_truth(problem, 20, 31)
    one = make_voxels(problem, curves).normals(p)
    other = make_voxels(replace(problem, aif=small), curves * 2.0**-10).normals(p)
    assert kernel_input(problem)[0] == 2.0**10 * kernel_input(replace(problem, aif=small))[0]
    np.testing.assert_array_equal(other.cost * 2.0**20, one.cost)
    np.testing.assert_array_equal(other.gradient * 2.0**20, one.gradient)
    np.testing.assert_array_equal(other.hessian * 2.0**20, one.hessian)
