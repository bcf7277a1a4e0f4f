"""The card's own code, run on the processor: one lane against the vector build, on all solvers.

`emulated_card` compiles the kernels for the processor and stands in for CuPy, so that queues,
shared memory, barriers, records and streaming are all exercised without a card.
"""

from __future__ import annotations

import ctypes
import platform
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
from cases import NOISE, TWO_PHASE, Floats, artery, assert_same, options_of, study
from emulated_card import PATTERN, Cupy, emulated_card
from kety import MODELS, Joint, KetyError, Status, VarProLM, _native
from kety.fitting import cuda, further, solve
from kety.fitting.cuda import card as cards
from kety.fitting.cuda import crossings, starts
from kety.fitting.cuda.card import Card, card_or_reason
from kety.fitting.cuda.fit import STREAMS, FitOnCard
from kety.fitting.cuda.graph import GraphOnCard
from kety.fitting.cuda.source import header_folder, records
from kety.fitting.direct import prepare_search
from kety.fitting.discretize import Discretization
from kety.fitting.engine import KernelFit
from kety.fitting.nodes import INITIAL_RATES, make_nodes
from kety.fitting.optimizers import DifferentialEvolution, NelderMead
from kety.fitting.pairs import prepare_pairs
from kety.fitting.problem import Problem, make_problem
from kety.fitting.terms import terms_kernel
from kety.joint.block_system import BlockSystem
from kety.joint.graph import Graph
from kety.joint.normals import make_voxels

# Without fused operations, as the plain build, the arithmetic is the same to the last digit.
SAME_DIGITS = platform.machine() in ("x86_64", "AMD64")


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
    """To the last digit, but for sums over a curve, which lanes form in another order."""
    assert np.mean(found.status == expected.status) > 0.99
    for name in ("parameters", "covariance", "cost", "evaluations", "status"):
        one, other = getattr(found, name), getattr(expected, name)
        if SAME_DIGITS:
            np.testing.assert_array_equal(one, other, err_msg=name)
    np.testing.assert_allclose(found.r2[60:], expected.r2[60:], rtol=1e-3, atol=1e-5)


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
    if "weights" not in options and "baseline" not in options:
        plain = VarProLM(instruction_set="plain")
        assert_equal(on_card, solve.prepare(problem, plain)(curves))
    assert {Status.CONVERGED, Status.NOT_FINITE} <= set(on_card.status.tolist())
    # The widest vectors of this processor, fused operations and all, to rounding.
    widest = solve.prepare(problem, VarProLM())(curves)
    settled = (widest.status == Status.CONVERGED) & (on_card.status == Status.CONVERGED)
    settled[:60] = False
    settled &= widest.cost > 0
    assert settled.sum() > 100
    change = np.abs(on_card.cost[settled] / widest.cost[settled] - 1)
    assert np.mean(change < 1e-4) >= 0.985  # others start elsewhere
    error = np.sqrt(widest.covariance[:, [0, 2, 5, 9]])[settled]
    moved = np.abs(on_card.parameters - widest.parameters)[settled]
    assert np.quantile(moved[error > 0] / error[error > 0], 0.99) < 0.05


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
        np.testing.assert_array_equal(found.status, expected.status)
        assert found.status[0] == Status.NOT_FINITE
        np.testing.assert_allclose(found.cost, expected.cost, rtol=1e-9)
        np.testing.assert_allclose(found.parameters, expected.parameters, rtol=1e-5, atol=1e-7)


def test_direct_searches_in_single_precision(
    card: Card, aif: kety.InputFunction, curves: Floats
) -> None:
    some = curves[100:140]
    problem = problem_of(aif, "float32", find_enhancing=False)
    optimizer, choice = NelderMead(), Discretization()
    found = prepare_search(replace(problem, card=card), optimizer, choice)(some)
    expected = prepare_search(problem, optimizer, choice)(some)
    assert np.mean(np.abs(found.cost / expected.cost - 1) < 1e-4) > 0.95


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
    assert np.mean(found.status == expected.status) > 0.95
    fitted = np.isfinite(expected.cost)
    assert fitted.sum() > 20
    change = np.abs(found.cost / expected.cost - 1)[fitted]
    assert np.mean(change < 1e-9) > 0.95
    lo, hi = problem.kernel_bounds()
    theta = np.clip(np.nan_to_num(expected.parameters, nan=0.01), lo, hi)
    one, two = (solve.problem_curves(p, theta) for p in (other, problem))
    np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-10 * np.abs(two).max())
    known = np.isfinite(curves).all(axis=1)
    n1, n2 = (make_voxels(p, curves[known]).normals(theta[known]) for p in (other, problem))
    np.testing.assert_allclose(n1.cost, n2.cost, rtol=1e-9)
    np.testing.assert_allclose(n1.hessian, n2.hessian, rtol=1e-6, atol=1e-9 * n2.hessian.max())


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
        # Without fused operations, as the card's code here.
        searched.append(prepare_pairs(kernel, VarProLM(instruction_set="plain"), tables))
    assert all((table.start is not None) == recorded for table in searched[1]._tables)
    here, there = (search(curves) for search in searched)
    assert here.first[-1] > 80
    assert (np.diff(here.first)[[3, 4]] == 0).all()
    np.testing.assert_array_equal(here.first, there.first)
    np.testing.assert_array_equal(here.band, there.band)
    np.testing.assert_allclose(here.parameters, there.parameters, rtol=1e-12, atol=1e-15)
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
    np.testing.assert_allclose(here.parameters, there.parameters, rtol=1e-8, atol=1e-12)
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
            np.testing.assert_allclose(one, two, rtol=1e-8, atol=1e-9 * np.abs(two).max())
    again = there.subset(np.arange(5, 20)).normals(theta[5:20])
    np.testing.assert_array_equal(again.cost, found.cost[5:20])


@pytest.mark.parametrize(
    ("size", "single", "multigrid"),
    [(4, single, multigrid) for single in (False, True) for multigrid in (False, True)]
    + [(3, False, False), (5, False, False), (7, False, False), (8, False, True)],
)
def test_systems_on_a_graph(card: Card, size: int, single: bool, multigrid: bool) -> None:
    strength = 1e3 if multigrid else 1.0
    place = np.arange(576).reshape(24, 24)
    a = np.concatenate([place[:, 1:].ravel(), place[1:].ravel()])
    b = np.concatenate([place[:, :-1].ravel(), place[:-1].ravel()])
    ends = np.concatenate([a, b]), np.concatenate([b, a])
    count = 579  # three voxels without neighbours
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
    here: Any
    if size == 4:
        here = _native.GraphSystem(rows, columns, edges.data, single, 1, "")
    else:
        here = BlockSystem(Graph(rows, columns, edges.data))
    systems = here, GraphOnCard(card, rows, columns, edges.data, single, size)
    found = []
    for system in systems:
        system.prepare(metric, strength, multigrid)
        system.blocks(block, damping, free)
        x, y = np.zeros((count, size)), np.empty((count, size))
        steps, rest = system.solve(right, x, 1e-6 if not single else 1e-4, 500)
        system.penalty(right, y)
        found.append((steps, rest, x, y))
    first, second = found
    assert (systems[1].levels > 2) == multigrid
    if size == 4:
        assert here.levels == systems[1].levels
        assert abs(second[0] - first[0]) <= 2
    assert second[1] < 1e-4
    np.testing.assert_allclose(second[2], first[2], atol=1e-3 * np.abs(first[2]).max())
    np.testing.assert_allclose(second[3], first[3], rtol=1e-9, atol=1e-9)
    again = np.zeros((count, size))
    systems[1].solve(np.zeros((count, size)), again, 1e-6, 10)
    np.testing.assert_array_equal(again, 0.0)


@pytest.mark.parametrize(("model", "edge"), [("extended_tofts", 12), ("2cxm", 6)])
def test_a_joint_estimate(card: Card, aif: kety.InputFunction, model: str, edge: int) -> None:
    # Of less noise for exchange: a rounding leads to another minimum where it is hardly determined.
    noise = NOISE if model == "extended_tofts" else 0.3 * NOISE
    curves, _ = study(np.random.default_rng(63), edge * edge, aif, model=model, noise=noise)
    image, mask = curves.reshape(edge, edge, 37), np.ones((edge, edge), bool)
    joint = Joint("graph", strength=4.0)
    options: dict[str, Any] = {"mask": mask, "joint": joint, "dtype": "float64"}
    launched = len(card.cupy.launched)
    there = kety.fit(image, TWO_PHASE, aif, model, device="cuda", **options)
    here = kety.fit(image, TWO_PHASE, aif, model, **options)
    assert there.attrs["device"] == "cuda: an emulated card"
    assert "sweep_rows" in card.cupy.launched[launched:]
    name = MODELS[model].names[0]
    moved = np.abs(there[name] - here[name]) / here[f"{name}_se"]
    assert float(moved.quantile(0.99)) < 0.1


def test_fit_says_where_it_ran(card: Card, aif: kety.InputFunction, curves: Floats) -> None:
    some = curves[60:90]
    here = kety.fit(some, TWO_PHASE, aif, optimizer=VarProLM(instruction_set="plain"))
    assert here.attrs["device"] == "cpu"
    for device in ("cuda", "auto"):
        there = kety.fit(some, TWO_PHASE, aif, device=device)
        assert there.attrs["device"] == "cuda: an emulated card"
        if SAME_DIGITS:
            assert_same(there.drop_vars("r2"), here.drop_vars("r2"))
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
