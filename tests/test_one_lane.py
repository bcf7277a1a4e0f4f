"""The card's own code, run on the processor: one lane against the vector build, on all solvers.

`emulated_card` compiles the kernels for the processor and stands in for CuPy, so that queues,
shared memory, barriers, records and streaming are all exercised without a card.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array

import kety
from cases import TWO_PHASE, Floats, artery, assert_same, options_of, study
from emulated_card import PATTERN, Cupy, emulated_card
from kety import Joint, KetyError, Status, VarProLM
from kety.fitting import cuda, further, solve
from kety.fitting.cuda import card as cards
from kety.fitting.cuda import crossings, starts
from kety.fitting.cuda.card import Card, card_or_reason
from kety.fitting.cuda.fit import STREAMS, FitOnCard
from kety.fitting.cuda.source import header_folder, records
from kety.fitting.direct import prepare_search
from kety.fitting.discretize import Discretization
from kety.fitting.engine import KernelFit
from kety.fitting.nodes import INITIAL_RATES, make_nodes
from kety.fitting.optimizers import DifferentialEvolution, NelderMead
from kety.fitting.pairs import prepare_pairs
from kety.fitting.problem import Problem, make_problem
from kety.fitting.terms import terms_kernel
from kety.joint.graph import Graph
from kety.joint.normals import make_voxels
from kety.joint.system import make_system


@pytest.fixture(scope="module")
def card() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        made = emulated_card(patch)
        patch.setattr(cuda, "card_or_reason", lambda d: card_or_reason(d, lambda: made))
        yield made


@pytest.fixture(scope="module")
def aif() -> kety.InputFunction:
    return artery("parker", TWO_PHASE[-1] + 5)


@pytest.fixture(scope="module")
def curves(aif: kety.InputFunction) -> Floats:
    """Noisy ones, and every other kind."""
    rng = np.random.default_rng(60)
    noisy, _ = study(rng, 500, aif)
    noisy[:20], _ = study(rng, 20, aif, noise=0.0)
    noisy[20:40] = rng.normal(0.0, 6.0, (20, 37))
    noisy[40:45] = 0.0
    noisy[45:50, 5] = np.nan
    noisy[50:60] *= 1e3
    return noisy


def problem_of(aif: kety.InputFunction, dtype: str = "float32", **options: Any) -> Problem:
    model = options.pop("model", "extended_tofts")
    given = {"delay": True, "bounds": None, "weights": None, "find_enhancing": True} | options
    return make_problem(TWO_PHASE, aif, model, dtype=dtype, threads=2, **given)


def assert_equal(found: KernelFit, expected: KernelFit) -> None:
    """To the last digit."""
    for name in ("parameters", "covariance", "cost", "r2", "baseline", "evaluations", "status"):
        one, other = getattr(found, name), getattr(expected, name)
        if other is not None:
            np.testing.assert_array_equal(one, other, err_msg=name)


def test_writing_beside_an_array_is_noticed() -> None:
    cupy = Cupy()
    array = cupy.empty(10, np.float32)
    stream = cupy.cuda.Stream(non_blocking=True)
    stream.synchronize()
    for place in (-4, 40):
        ctypes.memset(array.data.ptr + place, 1, 4)
        with pytest.raises(AssertionError):
            stream.synchronize()
        ctypes.memset(array.data.ptr + place, PATTERN, 4)
        stream.synchronize()


def test_layout_of_the_records(tmp_path: Path) -> None:
    """What Python reads from the headers is what a compiler makes of them."""
    found = shutil.which("g++") or shutil.which("clang++")
    if found is None:
        pytest.skip("no C++ compiler")
    expected, lines = [], []
    for name, record in records().items():
        members = [m[0] for c in record.__mro__ for m in c.__dict__.get("_fields_", ())]
        assert len(set(members)) == len(members), f"{name} has two members of one name"
        expected.append(ctypes.sizeof(record))
        lines.append(f"sizeof({name})")
        for member in members:
            expected.append(getattr(record, member).offset)
            lines.append(f"offsetof({name}, {member})")
    program = "\n".join(f'printf("%zu\\n", {line});' for line in lines)
    source = tmp_path / "layout.cpp"
    source.write_text(
        '#include <cstddef>\n#include <cstdio>\n#include "cuda_types.hpp"\n'
        f"int main() {{\n{program}\n}}\n"
    )
    made = tmp_path / "layout"
    subprocess.run(
        [found, "-std=c++20", "-w", f"-I{header_folder()}", str(source), "-o", str(made)],
        check=True,
    )
    told = subprocess.run([made], capture_output=True, text=True, check=True).stdout.split()
    assert [int(x) for x in told] == expected
    assert len(expected) > 400


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"baseline": True},
        {"weights": np.linspace(0.2, 2.0, 37)},
        {"bounds": {"ktrans": (0.1, 0.4)}},
        {"model": "patlak", "delay": False, "find_enhancing": False},
    ],
)
def test_the_default_solver(
    card: Card, aif: kety.InputFunction, curves: Floats, dtype: str, options: dict[str, Any]
) -> None:
    problem = problem_of(aif, dtype, **options)
    on_card = solve.prepare(replace(problem, card=card), VarProLM())(curves)
    assert {Status.CONVERGED, Status.NOT_FINITE} <= set(on_card.status.tolist())
    assert_equal(on_card, solve.prepare(problem, VarProLM())(curves))


def test_chunks_change_nothing(card: Card, aif: kety.InputFunction, curves: Floats) -> None:
    problem = replace(problem_of(aif, baseline=True), card=card)
    whole = solve.prepare(problem, VarProLM())(curves)
    with pytest.MonkeyPatch.context() as patch:
        small = emulated_card(patch, memory=2_000_000)
        cupy: Cupy = small.cupy
        pieces = solve.prepare(replace(problem, card=small), VarProLM())(curves)
    assert cupy.launched.count("fit_polish") > 4
    for name in ("parameters", "covariance", "cost", "evaluations", "status", "baseline"):
        np.testing.assert_array_equal(getattr(pieces, name), getattr(whole, name))


def test_both_streams_work(aif: kety.InputFunction, curves: Floats) -> None:
    slots = []
    with pytest.MonkeyPatch.context() as patch:
        small = emulated_card(patch, memory=2_000_000)
        start = FitOnCard._start
        patch.setattr(FitOnCard, "_start", lambda s, *a: slots.append(a[0]) or start(s, *a))
        problem = replace(problem_of(aif, find_enhancing=False), card=small)
        solve.prepare(problem, VarProLM())(curves[60:300])
    streams = [id(slot.stream) for slot in slots]
    assert len(set(streams)) == STREAMS
    assert all(a != b for a, b in pairwise(streams))


def test_nothing_to_fit(card: Card, aif: kety.InputFunction) -> None:
    for dtype in ("float32", "float64"):
        problem = replace(problem_of(aif, dtype), card=card)
        assert len(solve.prepare(problem, VarProLM())(np.empty((0, 37))).cost) == 0


@pytest.mark.parametrize(
    "choice",
    [
        Discretization(),
        Discretization("iir"),
        Discretization("iir", delay_filter="exact"),
        Discretization("fir"),
        Discretization("fir", delay_filter="exact"),
        Discretization("exact", rate=1.0, delay_filter="round"),
    ],
    ids=["exact", "iir-thiran", "iir-exact", "fir-thiran", "fir-exact", "round"],
)
@pytest.mark.parametrize("optimizer", [NelderMead(), DifferentialEvolution()], ids=["nm", "de"])
def test_direct_searches(
    card: Card, aif: kety.InputFunction, curves: Floats, choice: Any, optimizer: Any
) -> None:
    count = 12 if isinstance(optimizer, NelderMead) else 2
    some = curves[100 : 100 + count].copy()
    some[0, 3] = np.nan
    for baseline in (False, True):
        problem = problem_of(aif, "float64", find_enhancing=False, baseline=baseline)
        found = prepare_search(replace(problem, card=card), optimizer, choice)(some)
        expected = prepare_search(problem, optimizer, choice)(some)
        assert found.status[0] == Status.NOT_FINITE
        assert_equal(found, expected)


def test_direct_searches_in_single_precision(
    card: Card, aif: kety.InputFunction, curves: Floats
) -> None:
    some = curves[100:140]
    problem = problem_of(aif, "float32", find_enhancing=False)
    optimizer, choice = NelderMead(), Discretization()
    found = prepare_search(replace(problem, card=card), optimizer, choice)(some)
    expected = prepare_search(problem, optimizer, choice)(some)
    assert_equal(found, expected)


def test_too_many_members(card: Card, aif: kety.InputFunction, curves: Floats) -> None:
    problem = replace(problem_of(aif, "float64", find_enhancing=False), card=card)
    many = DifferentialEvolution(population=1000)
    with pytest.raises(KetyError, match=r"shared memory.*at most 682"):
        prepare_search(problem, many, Discretization())(curves[100:101])


@pytest.mark.parametrize("model", ["2cxm", "2cum", "aath", "dual_input_one_compartment"])
def test_models_of_several_terms(card: Card, aif: kety.InputFunction, model: str) -> None:
    extra = options_of(model, aif)
    curves, _ = study(np.random.default_rng(61), 60, aif, model=model)
    curves[3, 4] = np.nan
    baseline = model == "2cum"
    problem = problem_of(aif, "float64", model=model, baseline=baseline, **extra)
    other = replace(problem, card=card)
    found = solve.prepare(other, VarProLM())(curves)
    expected = solve.prepare(problem, VarProLM())(curves)
    assert np.isfinite(expected.cost).sum() > 20
    assert_equal(found, expected)
    lo, hi = problem.kernel_bounds()
    theta = np.clip(np.nan_to_num(expected.parameters, nan=0.01), lo, hi)
    one, two = (solve.problem_curves(p, theta) for p in (other, problem))
    np.testing.assert_array_equal(one, two)
    known = np.isfinite(curves).all(axis=1)
    n1, n2 = (make_voxels(p, curves[known]).normals(theta[known]) for p in (other, problem))
    np.testing.assert_array_equal(n1.cost, n2.cost)
    np.testing.assert_array_equal(n1.hessian, n2.hessian)


def _with_numpy(start: dict[str, Any]) -> dict[str, Any]:
    return {name: np.abs(value) for name, value in start.items()}


@pytest.mark.parametrize(
    ("model", "dtype", "options"),
    [
        ("2cxm", "float32", {}),
        ("2cxm", "float64", {"baseline": True, "weights": np.linspace(0.2, 2.0, 37)}),
        ("2cum", "float32", {"initial": True}),
        ("aath", "float32", {}),
        ("dual_input_extended_tofts", "float64", {"initial": True, "find_enhancing": False}),
    ],
)
@pytest.mark.parametrize("recorded", [True, False])
def test_starts_of_models_of_several_terms(
    card: Card,
    aif: kety.InputFunction,
    model: str,
    dtype: str,
    options: dict[str, Any],
    recorded: bool,
) -> None:
    curves, _ = study(np.random.default_rng(64), 90, aif, model=model)
    curves[3, 4], curves[4], curves[5] = np.nan, 7.0, 1e3 * curves[6]
    curves[10:20] = np.random.default_rng(65).normal(0.0, 6.0, (10, 37))
    problem = problem_of(aif, dtype, model=model, **options, **options_of(model, aif))
    searched = []
    for one in (problem, replace(problem, card=card)):
        kernel = terms_kernel(one)
        rates = INITIAL_RATES[:3:2] if problem.initial else INITIAL_RATES[:1]
        tables = [make_nodes(kernel, rate) for rate in rates]
        if not recorded:  # a recipe that asks for NumPy is followed on the processor
            own = tables[0].recipe
            recipe = replace(own, start=lambda *of, own=own: _with_numpy(own.start(*of)))
            tables = [replace(nodes, recipe=recipe) for nodes in tables]
        searched.append(prepare_pairs(kernel, VarProLM(), tables))
    assert all((table.start is not None) == recorded for table in searched[1]._tables)
    here, there = (search(curves) for search in searched)
    assert here.first[-1] > 80
    assert (np.diff(here.first)[[3, 4]] == 0).all()
    np.testing.assert_array_equal(here.first, there.first)
    np.testing.assert_array_equal(here.band, there.band)
    np.testing.assert_array_equal(here.parameters, there.parameters)
    # In chunks the same.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(starts, "MOST_VOXELS", 40)
        again = searched[1](curves)
    for name in ("first", "band", "parameters"):
        np.testing.assert_array_equal(getattr(again, name), getattr(there, name))


@pytest.mark.parametrize("options", [{}, {"baseline": True, "initial": True}])
def test_further_starts_of_two_inputs(
    card: Card, aif: kety.InputFunction, options: dict[str, Any]
) -> None:
    model = "dual_input_one_compartment"
    curves, truth = study(np.random.default_rng(66), 20, aif, model=model)
    options = options | options_of(model, aif) | {"weights": np.linspace(0.2, 2.0, 37)}
    problem = problem_of(aif, "float64", model=model, **options)
    theta = np.stack(
        [truth.get(p.name, np.full(20, 3.0)) * problem.factor(p) for p in problem.parameters], 1
    )
    theta[:, problem.slot("delay")] += 3.0
    found = []
    for one in (problem, replace(problem, card=card)):
        kernel = terms_kernel(one)
        found.append(further._relocated(kernel, make_nodes(kernel), curves, theta))
    here, there = found
    assert len(here.voxel) > 20
    np.testing.assert_array_equal(here.voxel, there.voxel)
    np.testing.assert_array_equal(here.band, there.band)
    np.testing.assert_array_equal(here.parameters, there.parameters)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crossings, "MOST_VOXELS", 7)
        again = further._relocated(kernel, make_nodes(kernel), curves, theta)
    np.testing.assert_array_equal(again.parameters, there.parameters)


@pytest.mark.parametrize("options", [{}, {"baseline": True}, {"weights": np.linspace(1, 2, 37)}])
def test_normal_equations(
    card: Card, aif: kety.InputFunction, curves: Floats, options: dict[str, Any]
) -> None:
    problem = problem_of(aif, "float64", **options)
    data = curves[60:200]
    theta = np.nan_to_num(solve.prepare(problem, VarProLM())(data).parameters, nan=0.01)
    there = make_voxels(replace(problem, card=card), data)
    found, expected = there.normals(theta), make_voxels(problem, data).normals(theta)
    for name in ("cost", "unweighted", "gradient", "hessian", "baseline"):
        one, two = getattr(found, name), getattr(expected, name)
        if two is not None:
            np.testing.assert_array_equal(one, two)
    again = there.subset(np.arange(5, 20)).normals(theta[5:20])
    np.testing.assert_array_equal(again.cost, found.cost[5:20])


@pytest.mark.parametrize(
    ("size", "single", "multigrid"),
    [(4, single, multigrid) for single in (False, True) for multigrid in (False, True)]
    + [(3, False, False), (5, False, False), (7, False, False), (8, False, True)],
)
def test_systems_on_a_graph(card: Card, size: int, single: bool, multigrid: bool) -> None:
    strength = 1e3 if multigrid else 1.0
    edge = 24 if multigrid else 18  # as many levels as a cycle needs
    place = np.arange(edge * edge).reshape(edge, edge)
    a = np.concatenate([place[:, 1:].ravel(), place[1:].ravel()])
    b = np.concatenate([place[:, :-1].ravel(), place[:-1].ravel()])
    ends = np.concatenate([a, b]), np.concatenate([b, a])
    count = edge * edge + 3  # three voxels without neighbours
    edges = csr_array((np.ones(len(ends[0]), np.float32), ends), (count, count))
    edges.sort_indices()
    rng = np.random.default_rng(62)
    i, j = np.tril_indices(size)

    def matrices() -> Floats:
        root = rng.normal(size=(count, size, size + 2))
        return np.ascontiguousarray((root @ root.swapaxes(1, 2))[:, i, j])

    metric, block, right = matrices(), matrices(), rng.normal(size=(count, size))
    free = (rng.integers(0, 1 << size, count) | 1).astype(np.uint8)
    damping = rng.uniform(0.0, 0.1, count)
    rows, columns = edges.indptr.astype(np.int64), edges.indices.astype(np.int32)
    graph = Graph(rows, columns, edges.data)
    found = []
    for on in (None, card):
        system = make_system(graph, size, 2, single=single, card=on)
        system.prepare(metric, strength, multigrid)
        system.blocks(block, damping, free)
        x, y = np.zeros((count, size)), np.empty((count, size))
        steps, rest = system.solve(right, x, 1e-6 if not single else 1e-4, 500)
        system.penalty(right, y)
        found.append((steps, rest, x, y))
        if size >= 4:  # else it is one of four, filled up
            assert (system.levels > 2) == multigrid
        again = np.zeros((count, size))
        system.solve(np.zeros((count, size)), again, 1e-6, 10)
        np.testing.assert_array_equal(again, 0.0)
    here, there = found
    assert here[1] < 1e-4
    assert here[:2] == there[:2]
    np.testing.assert_array_equal(there[2], here[2])
    np.testing.assert_array_equal(there[3], here[3])


@pytest.mark.parametrize(("model", "edge"), [("extended_tofts", 9), ("2cxm", 6)])
def test_a_joint_estimate(card: Card, aif: kety.InputFunction, model: str, edge: int) -> None:
    curves, _ = study(np.random.default_rng(63), edge * edge, aif, model=model)
    image, mask = curves.reshape(edge, edge, 37), np.ones((edge, edge), bool)
    joint = Joint("graph", strength=4.0)
    options: dict[str, Any] = {"mask": mask, "joint": joint, "dtype": "float64"}
    launched = len(card.cupy.launched)
    there = kety.fit(image, TWO_PHASE, aif, model, device="cuda", **options)
    here = kety.fit(image, TWO_PHASE, aif, model, **options)
    assert there.attrs["device"] == "cuda: an emulated card"
    assert "sweep_rows" in card.cupy.launched[launched:]
    assert_same(there, here)


def test_fit_says_where_it_ran(card: Card, aif: kety.InputFunction, curves: Floats) -> None:
    some = curves[60:90]
    here = kety.fit(some, TWO_PHASE, aif)
    assert here.attrs["device"] == "cpu"
    for device in ("cuda", "auto"):
        there = kety.fit(some, TWO_PHASE, aif, device=device)
        assert there.attrs["device"] == "cuda: an emulated card"
        assert_same(there, here)
    chosen = kety.fit(
        some, TWO_PHASE, aif, ("tofts", "extended_tofts"), select="aicc", device="cuda"
    )
    assert chosen.attrs["device"] == "cuda: an emulated card"


def test_what_a_card_does_not_do(card: Card, aif: kety.InputFunction, curves: Floats) -> None:
    some = curves[60:62]
    with pytest.raises(KetyError, match=r"only the default solver.*found SQP; take device 'cpu'"):
        kety.fit(some, TWO_PHASE, aif, optimizer="sqp", device="cuda")
    maps = kety.fit(some, TWO_PHASE, aif, optimizer="sqp", device="auto")
    assert maps.attrs["device"].startswith("cpu (only the default solver")


def _without(missing: str, patch: pytest.MonkeyPatch) -> None:
    """An environment in which one thing is missing."""
    cupy = Cupy()
    runtime = cupy.cuda.runtime

    def fail() -> int:
        raise RuntimeError("cudaErrorInsufficientDriver: driver too old")

    if missing == "driver":
        runtime.getDeviceCount = fail
    if missing == "card":
        runtime.getDeviceCount = lambda: 0
    if missing == "young card":
        device = cupy.cuda.Device()
        device.compute_capability = "61"
    if missing == "compiler":
        patch.setattr(cards, "nvrtc", lambda: (_ for _ in ()).throw(KetyError("NVRTC is needed")))
    patch.setitem(sys.modules, "cupy", None if missing == "package" else cupy)


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("package", r"package CuPy.*pip install 'kety\[cuda\]'.*cupy-cuda12x"),
        ("driver", "card and its driver.*driver too old"),
        ("card", "shows none.*CUDA_VISIBLE_DEVICES"),
        ("young card", r"an emulated card has compute capability 6\.1.*7 is needed"),
        ("compiler", "NVRTC is needed"),
    ],
)
def test_what_is_missing_is_told(
    missing: str, words: str, aif: kety.InputFunction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "card_or_reason", card_or_reason)
    _without(missing, monkeypatch)
    curve = np.zeros((1, 37))
    with pytest.raises(KetyError, match=words):
        kety.fit(curve, TWO_PHASE, aif, device="cuda")
    where = kety.fit(curve, TWO_PHASE, aif, device="auto").attrs["device"]
    assert where.startswith("cpu (")
    assert "device 'cuda' needs" not in where


def test_a_whole_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards, "nvrtc", lambda: None)
    _without("nothing", monkeypatch)
    found, where = card_or_reason("auto")
    assert found is not None
    assert (found.arch, where) == ("sm_90", "cuda: an emulated card")


def test_unknown_device(aif: kety.InputFunction) -> None:
    with pytest.raises(KetyError, match="unknown device 'gpu'; valid: cpu, cuda, auto"):
        kety.fit(np.zeros((1, 37)), TWO_PHASE, aif, device="gpu")
