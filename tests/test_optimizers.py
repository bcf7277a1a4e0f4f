"""The general optimisers on functions whose least value is known."""

import importlib.util
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from scipy.stats import qmc

from kety.errors import KetyError, MissingDependencyError
from kety.fitting.optimizers import (
    OPTIMIZERS,
    SQP,
    DifferentialEvolution,
    NelderMead,
    PatternSearch,
    SimulatedAnnealing,
    VarProLM,
    get_optimizer,
)
from kety.fitting.optimizers.base import halton_starts
from kety.fitting.optimizers.nelder_mead import first_simplex
from kety.fitting.optimizers.sqp import differences

needs_nomad = pytest.mark.skipif(
    importlib.util.find_spec("PyNomad") is None, reason="PyNomadBBO is not installed"
)
SEARCHES = [
    pytest.param(NelderMead(backend="scipy"), id="nelder_mead"),
    pytest.param(DifferentialEvolution(backend="scipy"), id="differential_evolution"),
    pytest.param(SQP(), id="sqp"),
    pytest.param(PatternSearch(), id="pattern_search", marks=needs_nomad),
    pytest.param(SimulatedAnnealing(), id="simulated_annealing"),
]
COORDINATE = pytest.param(
    PatternSearch(12, directions="coordinate"), id="coordinate", marks=needs_nomad
)
each = pytest.mark.parametrize("search", SEARCHES)
CENTRE = np.array([0.31, 0.72, 0.5])


class Recorder:
    """A function that checks and counts the points it is asked for."""

    def __init__(self, function):
        self.function, self.count = function, 0

    def __call__(self, points):
        assert points.ndim == 2
        assert points.dtype == np.float64
        assert ((points >= 0) & (points <= 1)).all()
        self.count += len(points)
        return self.function(points)


def bowl(points, centre=CENTRE):
    return ((points - centre) ** 2) @ np.array([1.0, 4.0, 2.0]) + 5.0


def corner(points):
    outside = np.array([-0.5, 0.4, 1.3])
    return bowl(points, outside) - bowl(np.array([[0.0, 0.4, 1.0]]), outside)


def valley(points):
    x, y = 3 * points.T - 1.0
    return 10 * (y - x * x) ** 2 + (1 - x) ** 2


def two_wells(points):
    wide = ((points - 0.75) ** 2).sum(axis=1) + 0.1
    deep = 8 * ((points - 0.2) ** 2).sum(axis=1)
    return np.minimum(wide, deep)


def stairs(points):
    return (np.round(10 * points[:, 0]) / 10 - 0.3) ** 2 + (points[:, 1] - 0.6) ** 2


CASES = [  # function, dimension, least value, where it is
    pytest.param(bowl, 3, 5.0, CENTRE, id="bowl"),
    pytest.param(corner, 3, 0.0, [0.0, 0.4, 1.0], id="on the bounds"),
    pytest.param(valley, 2, 0.0, [2 / 3, 2 / 3], id="valley"),
    pytest.param(two_wells, 2, 0.0, [0.2, 0.2], id="two minima"),
    pytest.param(stairs, 2, 0.0, None, id="plateaus"),
    pytest.param(lambda p: np.full(len(p), 3.0), 4, 3.0, None, id="constant"),
    pytest.param(lambda p: (p[:, 0] - 0.3) ** 2, 1, 0.0, [0.3], id="one dimension"),
]


@pytest.mark.parametrize("search", [*SEARCHES, COORDINATE])
@pytest.mark.parametrize(("function", "dimension", "least", "place"), CASES)
def test_finds_the_least_value_and_counts_truly(search, function, dimension, least, place):
    objective = Recorder(function)
    solution = search.minimise(objective, dimension, scale=1.0)
    assert solution.x.shape == (dimension,)
    assert solution.evaluations == objective.count
    assert solution.cost == pytest.approx(least, abs=2e-5)
    assert solution.cost == pytest.approx(float(function(solution.x[None])[0]), rel=1e-9, abs=1e-12)
    assert solution.converged
    if place is not None:
        np.testing.assert_allclose(solution.x, place, atol=1e-2)


@each
def test_same_result_every_time(search):
    first = search.minimise(valley, 2, scale=1.0)
    search.minimise(bowl, 3, scale=1.0)
    again = search.minimise(valley, 2, scale=1.0)
    np.testing.assert_array_equal(first.x, again.x)
    assert first[1:] == again[1:]


@pytest.mark.parametrize(
    "search", [DifferentialEvolution(backend="scipy"), SimulatedAnnealing()], ids=["de", "sa"]
)
def test_seed_decides_the_path(search):
    other = replace(search, seed=2)
    assert search.minimise(valley, 2, scale=1.0).x[0] != other.minimise(valley, 2, scale=1.0).x[0]


@each
def test_limit_of_iterations(search):
    full = search.minimise(valley, 2, scale=1.0)
    cut = replace(search, max_iterations=2).minimise(valley, 2, scale=1.0)
    assert not cut.converged
    assert cut.evaluations < full.evaluations


@each
def test_larger_tolerance_ends_sooner(search):
    fine = search.minimise(valley, 2, scale=2.0)
    # Where there are two tolerances, both may have to be met.
    wide = {"xtol": 1e-2} if hasattr(search, "xtol") else {}
    absolute = replace(search, ftol=1e-2, **wide).minimise(valley, 2, scale=2.0)
    relative = replace(search, relative_ftol=5e-3, **wide).minimise(valley, 2, scale=2.0)
    assert absolute.evaluations == relative.evaluations < fine.evaluations


@pytest.mark.parametrize("search", [NelderMead(backend="scipy"), SQP()], ids=["nm", "sqp"])
def test_given_starts_are_used(search):
    near_wide = search.minimise(two_wells, 2, starts=[[0.76, 0.74]], scale=1.0)
    assert near_wide.cost == pytest.approx(0.1, abs=1e-5)
    both = search.minimise(two_wells, 2, starts=[[0.76, 0.74], [0.25, 0.2]], scale=1.0)
    assert both.cost == pytest.approx(0.0, abs=1e-5)


def test_population_takes_given_starts():
    search = DifferentialEvolution(backend="scipy", max_iterations=1, population=5)
    there = search.minimise(bowl, 3, starts=[CENTRE], scale=1.0)
    np.testing.assert_allclose(there.x, CENTRE)
    with pytest.raises(KetyError, match="6 starts exceed the population of 5"):
        search.minimise(bowl, 3, starts=np.full((6, 3), 0.5), scale=1.0)


@each
@pytest.mark.parametrize(
    ("starts", "message"),
    [
        ([[0.1, 0.2]], r"shape \(k, 3\), found \(1, 2\)"),
        ([0.1, 0.2, 0.3], r"found \(3,\)"),
        (np.empty((0, 3)), r"found \(0, 3\)"),
        ([[0.1, 0.2, 1.2]], "unit box"),
        ([[0.1, 0.2, np.nan]], "unit box"),
    ],
)
def test_bad_starts(search, starts, message):
    with pytest.raises(KetyError, match=message):
        search.minimise(bowl, 3, starts=starts, scale=1.0)


@each
def test_error_of_the_objective_comes_through(search):
    def failing(points):
        raise ZeroDivisionError("as planned")

    with pytest.raises(ZeroDivisionError, match="as planned"):
        search.minimise(failing, 3, scale=1.0)


@pytest.mark.parametrize("record", [NelderMead, DifferentialEvolution])
def test_native_backend_minimises_no_function(record):
    with pytest.raises(KetyError, match="backend='scipy'"):
        record().minimise(bowl, 3, scale=1.0)


TABLE_3 = {  # Svistoun et al. 2019: starts or population, iterations, TolFun, TolX
    SQP: (32, 1000, 1e-8, 1e-8),
    NelderMead: (32, 1000, 1e-8, 1e-8),
    PatternSearch: (32, 1000, 1e-8, None),
    SimulatedAnnealing: (32, 1000, 1e-8, None),
    DifferentialEvolution: (64, 1000, 1e-8, None),
}


@pytest.mark.parametrize("record", TABLE_3, ids=lambda r: r.__name__)
def test_presets(record):
    count, iterations, ftol, xtol = TABLE_3[record]
    paper = record.preset("paper")
    assert (paper.population if record is DifferentialEvolution else paper.starts) == count
    assert (paper.max_iterations, paper.ftol, paper.relative_ftol) == (iterations, ftol, 0.0)
    assert xtol is None or paper.xtol == xtol
    assert record.preset("default") == record() != paper
    with pytest.raises(KetyError, match=r"unknown preset 'fast'; valid: paper, default"):
        record.preset("fast")
    with pytest.raises(FrozenInstanceError):
        paper.ftol = 1.0


BAD = [
    *[
        (record, option, value)
        for record in TABLE_3
        for option, values in {
            "max_iterations": (0, 1.5, True, "9"),
            "ftol": (-1e-9, np.nan, np.inf, "small", None, True),
            "relative_ftol": (-1.0, np.nan),
        }.items()
        for value in values
    ],
    *[(r, "starts", v) for r in TABLE_3 if r is not DifferentialEvolution for v in (0, 2.0, False)],
    *[(r, "xtol", v) for r in (NelderMead, SQP, PatternSearch) for v in (-1.0, np.nan)],
    *[(r, "backend", "cuda") for r in (NelderMead, DifferentialEvolution)],
    *[
        (r, "seed", v)
        for r in (DifferentialEvolution, PatternSearch, SimulatedAnnealing)
        for v in (-1, None)
    ],
    (NelderMead, "step", 0.0),
    (NelderMead, "step", 0.6),
    (DifferentialEvolution, "population", 4),
    (DifferentialEvolution, "weight", 2.1),
    (DifferentialEvolution, "crossover", 1.1),
    (DifferentialEvolution, "strategy", "rand2exp"),
    (SQP, "gradient", "exact"),
    (PatternSearch, "xtol", 0.0),
    (PatternSearch, "directions", "north"),
    (SimulatedAnnealing, "stall", 0),
    (SimulatedAnnealing, "temperature", 0.0),
    (SimulatedAnnealing, "visit", 1.0),
    (SimulatedAnnealing, "accept", -1.0),
]


@pytest.mark.parametrize(
    ("record", "option", "value"), BAD, ids=[f"{r.__name__}-{o}={v}" for r, o, v in BAD]
)
def test_bad_options(record, option, value):
    with pytest.raises(KetyError, match=option) as caught:
        record(**{option: value})
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_by_name(name):
    chosen = get_optimizer(name)
    assert chosen == get_optimizer(name.replace("_", "-")) == OPTIMIZERS[name]()
    assert get_optimizer(chosen) is chosen


def test_default_and_unknown_optimizer():
    assert get_optimizer(None) == VarProLM()
    for wrong in ("newton", 3, NelderMead):
        with pytest.raises(KetyError, match="valid: varprolm, nelder_mead, differential_evolution"):
            get_optimizer(wrong)


def test_halton_points_are_scipys_without_the_corner():
    points = halton_starts(32, 4)
    np.testing.assert_array_equal(points, qmc.Halton(4, scramble=False).random(33)[1:])
    assert points.min() > 0
    assert not points.flags.writeable
    scrambled = halton_starts(8, 2, seed=5)
    np.testing.assert_array_equal(scrambled, qmc.Halton(2, seed=5).random(8))


def test_first_simplex_turns_back_at_the_border():
    simplex = first_simplex(np.array([0.1, 0.9]), 0.25)
    np.testing.assert_allclose(simplex, [[0.1, 0.9], [0.35, 0.9], [0.1, 0.65]])


@pytest.mark.parametrize(("kind", "points"), [("forward", 4), ("central", 7)])
@pytest.mark.parametrize("x", [[0.2, 0.5, 0.7], [0.0, 1.0, 0.5], [1.0, 1e-9, 0.0]])
def test_differences_in_one_call_inside_the_box(kind, points, x):
    objective = Recorder(bowl)
    cost, slope = differences(objective, np.array(x), kind)
    assert objective.count == points
    assert cost == bowl(np.array([x]))[0]
    exact = 2 * np.array([1, 4, 2]) * (x - CENTRE)
    np.testing.assert_allclose(slope, exact, atol=1e-6 if kind == "forward" else 1e-8)


def test_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "PyNomad", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'kety\[pattern-search\]'"):
        PatternSearch().minimise(bowl, 3, scale=1.0)


@needs_nomad
def test_pattern_search_prints_and_writes_nothing(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    PatternSearch(starts=2).minimise(bowl, 3, scale=1.0)
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


@needs_nomad
def test_pattern_search_from_several_threads():
    search = PatternSearch(starts=2)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: search.minimise(bowl, 3, scale=1.0).cost, range(8)))
    assert set(found) == {search.minimise(bowl, 3, scale=1.0).cost}


@needs_nomad
def test_pattern_search_can_be_interrupted_and_leaves_ctrl_c_as_it_was():
    def interrupted(points):
        os.kill(os.getpid(), signal.SIGINT)
        return bowl(points)

    with pytest.raises(KeyboardInterrupt):
        PatternSearch().minimise(interrupted, 3, scale=1.0)
    PatternSearch(starts=1).minimise(bowl, 3, scale=1.0)
    with pytest.raises(KeyboardInterrupt):
        interrupted(CENTRE[None])


def test_importing_them_does_not_import_scipy():
    code = "import sys, kety.fitting.optimizers; sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
