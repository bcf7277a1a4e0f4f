"""Models of the user's own differential equations, against the native kernel and by themselves."""

from __future__ import annotations

import builtins
from dataclasses import replace

import numpy as np
import pytest

import kety
from kety.errors import KetyError, MissingDependencyError
from kety.fitting.optimizers import VarProLM
from kety.fitting.polish import polish
from kety.fitting.problem import make_problem
from kety.fitting.solve import problem_slopes

pytest.importorskip("diffrax", reason="the extra `ode` (diffrax, jax) is not installed")

TIMES = np.concatenate([np.arange(0, 40, 3.0), np.arange(40, 150, 15.0)])
HCT = 0.42


@pytest.fixture(scope="module")
def aif():
    whole = kety.population_input("parker", 160.0, hematocrit=HCT)
    t = np.concatenate([np.arange(0, 30, 1.5), np.arange(30, 161, 10.0)])
    return kety.InputFunction(t, whole(t), hematocrit=HCT, site="blood")


TOFTS = kety.OdeModel(
    rhs=lambda t, y, p, c: p["ktrans"] * c - p["kep"] * y,
    observe=lambda y, p, c: p["vb"] * (1 - HCT) * c + y[0],
    parameters={
        "ktrans": ("1/min", 0, 5),
        "kep": ("1/min", 0, 60),
        "vb": ("mL/mL", 0, 1),
        "delay": ("s", -5, 15),
    },
    initial=1,
    name="tofts_ode",
    scales=("ktrans", "vb"),
)


def _exchange(t, y, p, c):
    plasma, tissue = y
    leak = p["ps"] * (plasma - tissue)
    return (p["fp"] * (c - plasma) - leak) / p["vp"], leak / p["ve"]


EXCHANGE = kety.OdeModel(
    _exchange,
    lambda y, p, c: p["vp"] * y[0] + p["ve"] * y[1],
    {
        "fp": ("mL/100mL/min", 1, 200),
        "ps": ("1/min", 0, 2),
        "ve": ("mL/mL", 0.01, 1),
        "vp": ("mL/mL", 0.005, 0.5),
        "delay": ("s", -5, 15),
    },
    2,
    name="exchange_ode",
    scales=("fp", "ps", "ve", "vp"),
)
NATIVE = {"tofts_ode": "extended_tofts", "exchange_ode": "2cxm"}
MODELS = [TOFTS, EXCHANGE]


def truths(model, count, seed=0):
    """Parameters (V,) of well-determined tissue."""
    random = np.random.default_rng(seed)
    limits = {
        "ktrans": (0.05, 0.6),
        "kep": (0.3, 3),
        "vb": (0.02, 0.15),
        "fp": (20, 90),
        "ps": (0.05, 0.4),
        "ve": (0.1, 0.4),
        "vp": (0.03, 0.15),
        "delay": (-3, 8),
    }
    return {n: random.uniform(*limits[n], count) for n in model.names}


def problem_of(model, aif, **options):
    chosen = {
        "delay": True,
        "bounds": None,
        "weights": None,
        "dtype": "float64",
        "threads": 1,
        "find_enhancing": False,
    }
    return make_problem(TIMES, aif, model, **(chosen | options))


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.name)
@pytest.mark.parametrize("interpolation", ["cubic", "linear"])
def test_curves_and_slopes_are_those_of_the_kernel(model, interpolation, aif):
    aif = replace(aif, interpolation=interpolation)
    values = truths(model, 12)
    both = []
    for one in (model, NATIVE[model.name]):
        problem = problem_of(one, aif)
        factors = np.array([problem.factor(p) for p in problem.parameters])
        theta = np.zeros((12, problem.size))
        for p, f in zip(problem.parameters, factors, strict=True):
            theta[:, problem.slot(p.name)] = values[p.name] * f
        curves, slopes = problem_slopes(problem, theta)
        columns = [problem.slot(n) for n in model.names]
        both.append((curves, slopes[:, :, columns] * factors))
    (curves, slopes), (exact, exact_slopes) = both
    peak = np.abs(exact).max(axis=1, keepdims=True)
    np.testing.assert_allclose(curves / peak, exact / peak, atol=1e-6)
    size = np.abs(exact_slopes).max(axis=1, keepdims=True)
    np.testing.assert_allclose(slopes / size, exact_slopes / size, atol=1e-5)
    simulated = kety.simulate_curves(values, TIMES, aif, model)
    np.testing.assert_allclose(simulated / peak, exact / peak, atol=1e-6)


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.name)
def test_fit_ends_where_the_native_one_does(model, aif):
    values = truths(model, 24, seed=1)
    curves = kety.simulate_curves(values, TIMES, aif, NATIVE[model.name])
    curves += 0.01 * np.random.default_rng(2).standard_normal(curves.shape)
    same = {p.name: p.bounds for p in model.parameters}
    everywhere = np.ones(24, bool)
    options = {"bounds": same, "dtype": "float64", "mask": everywhere, "fitted": True}
    if model is EXCHANGE:  # the other options too
        options |= {"baseline": True, "weights": np.where(TIMES > 60, 2.0, 1.0)}
    ours = kety.fit(curves, TIMES, aif, model, **options)
    native = kety.fit(curves, TIMES, aif, NATIVE[model.name], **options)
    weight = np.asarray(options.get("weights", 1.0))
    cost, exact = ((weight * m.residual.values**2).sum(axis=1) for m in (ours, native))
    np.testing.assert_array_less(cost, exact * (1 + 1e-6))
    at_same = cost > exact * (1 - 1e-6)
    assert at_same.mean() > 0.9
    at_same &= native.status.values == kety.Status.CONVERGED
    assert at_same.sum() > 10
    np.testing.assert_array_equal(ours.status.values[at_same], native.status.values[at_same])
    names = [*model.names, *(["baseline"] if model is EXCHANGE else [])]
    for name in names:
        error = native[name + "_se"].values[at_same]
        np.testing.assert_allclose(ours[name + "_se"].values[at_same], error, rtol=2e-3)
        apart = (ours[name].values - native[name].values)[at_same] / error
        np.testing.assert_allclose(apart, 0, atol=2e-3)


def test_slopes_are_the_differences_of_curves(aif):
    problem = problem_of(EXCHANGE, aif)
    factors = np.array([problem.factor(p) for p in problem.parameters])
    values = truths(EXCHANGE, 8, seed=3)
    theta = np.stack([values[n] for n in EXCHANGE.names], axis=1) * factors
    _, slopes = problem_slopes(problem, theta)
    for i in range(problem.size):
        step = 1e-4 * np.abs(theta[:, i])
        up, down = theta.copy(), theta.copy()
        up[:, i] += step
        down[:, i] -= step
        difference = problem_slopes(problem, up)[0] - problem_slopes(problem, down)[0]
        difference /= 2 * step[:, None]
        size = np.abs(slopes[:, :, i]).max(axis=1, keepdims=True)
        # A frame that the jump of the input passes within the step has no derivative.
        apart = np.abs(difference - slopes[:, :, i]) / size
        assert np.median(apart) < 1e-6
        assert (apart < 2e-3).mean() > 0.98


SATURABLE = kety.OdeModel(
    lambda t, y, p, c: (
        p["k1"] * c - p["vmax"] * y[0] / (p["km"] + y[0]) - 0.02 * y[0],
        p["vmax"] * y[0] / (p["km"] + y[0]),
    ),
    lambda y, p, c: y[0] + y[1],
    [
        kety.Parameter("k1", "1/min", "inflow", "", None, (0.05, 2)),
        kety.Parameter("vmax", "mM/min", "largest rate of uptake", "", None, (0.01, 2)),
        kety.Parameter("km", "mM", "concentration of half of it", "", None, (0.01, 1)),
        kety.Parameter("start", "mM", "concentration at the start", "", None, (0, 0.5)),
    ],
    lambda p: (p["start"], 0.0),
    name="saturable",
)


def test_nonlinear_model_is_recovered_and_missing_voxels_are_named(aif):
    random = np.random.default_rng(5)
    values = {
        "k1": random.uniform(0.3, 1, 6),
        "vmax": random.uniform(0.1, 0.5, 6),
        "km": random.uniform(0.05, 0.3, 6),
        "start": random.uniform(0.02, 0.3, 6),
    }
    curves = kety.simulate_curves(values, TIMES, aif, SATURABLE)
    np.testing.assert_allclose(curves[:, 0], values["start"], rtol=1e-12)
    curves[5, 3] = np.nan
    maps = kety.fit(curves, TIMES, aif, SATURABLE, dtype="float64", mask=np.ones(6, bool))
    for name, true in values.items():
        np.testing.assert_allclose(maps[name].values[:5], true[:5], rtol=1e-5)
        assert np.isnan(maps[name].values[5])
        assert maps[name].attrs["units"] == SATURABLE.parameter(name).unit
    assert (maps.status.values[:5] == kety.Status.CONVERGED).all()
    assert maps.status.values[5] == kety.Status.NOT_FINITE
    expected = kety.cramer_rao(values, TIMES, 1e-4, aif, SATURABLE)
    noisy = curves[:5] + 1e-4 * random.standard_normal((5, len(TIMES)))
    again = kety.fit(noisy, TIMES, aif, SATURABLE, dtype="float64")
    for name in values:
        ratio = again[name + "_se"].values / expected[name][:5]
        assert ((ratio > 0.5) & (ratio < 1.6)).all()


def test_bounds_hold_and_undetermined_parameters_are_named(aif):
    values = truths(TOFTS, 3, seed=6)
    curves = kety.simulate_curves(values, TIMES, aif, TOFTS)
    everywhere = np.ones(3, bool)
    fixed = kety.fit(
        curves, TIMES, aif, TOFTS, bounds={"vb": (0.05, 0.05), "kep": (0, 0.2)}, mask=everywhere
    )
    assert (fixed.vb.values == np.float32(0.05)).all()
    assert (fixed.kep.values <= np.float32(0.2)).all()
    assert (fixed.status.values == kety.Status.AT_BOUND).all()
    assert np.isnan(fixed.kep_se.values).all()
    # Without transfer, nothing tells of what flows back.
    nothing = {**values, "ktrans": np.zeros(3)}
    curves = kety.simulate_curves(nothing, TIMES, aif, TOFTS)
    maps = kety.fit(curves, TIMES, aif, TOFTS, bounds={"ktrans": (0, 0)}, mask=everywhere)
    assert (maps.status.values == kety.Status.NOT_IDENTIFIABLE).all()
    assert np.isnan(maps.kep.values).all()
    np.testing.assert_allclose(maps.vb.values, values["vb"], rtol=1e-4)
    # Noise alone does not enhance.
    noise = np.random.default_rng(7).standard_normal((40, len(TIMES)))
    quiet = kety.fit(noise, TIMES, aif, TOFTS)
    assert (quiet.status.values == kety.Status.NOT_ENHANCING).mean() > 0.9


def test_polish_holds_parameters_and_limits_evaluations(aif):
    problem = problem_of(TOFTS, aif)
    values = truths(TOFTS, 4, seed=8)
    curves = kety.simulate_curves(values, TIMES, aif, TOFTS)
    factors = np.array([problem.factor(p) for p in problem.parameters])
    truth = np.stack([values[n] for n in TOFTS.names], axis=1) * factors
    start = truth * np.array([1.2, 0.8, 1.1, 1.0])
    start[3, 0] = np.nan
    found = polish(problem, curves, start, held=["delay"])
    np.testing.assert_allclose(found.parameters[:3], truth[:3], rtol=1e-5)
    assert found.status[3] == kety.Status.NOT_FINITE
    wrong = polish(problem, curves[:3], start[:3] * np.array([1, 1.5, 1, 1]), held=["kep"])
    np.testing.assert_array_equal(wrong.parameters[:, 1], start[:3, 1] * 1.5)
    short = polish(problem, curves[:3], start[:3], options=VarProLM(max_evaluations=1))
    assert (short.status == kety.Status.ITERATION_LIMIT).all()


def test_stiff_equations(aif):
    rates = {"ktrans": 0.2, "kep": 6e5, "vb": 0.1, "delay": 1.0}
    with pytest.raises(KetyError, match="stiff=True"):
        kety.simulate_curves(rates, TIMES, aif, TOFTS)
    implicit = replace(TOFTS, stiff=True, name="stiff_tofts")
    curve = kety.simulate_curves(rates, TIMES, aif, implicit)
    exact = kety.simulate_curves(rates, TIMES, aif)
    np.testing.assert_allclose(curve, exact, rtol=0, atol=1e-6 * exact.max())


def test_two_inputs_and_no_delay(aif):
    portal = replace(aif, concentration=np.roll(aif.concentration, 3) * 0.5)
    liver = kety.OdeModel(
        lambda t, y, p, c: p["k1"] * (0.3 * c[0] + 0.7 * c[1]) - p["k2"] * y,
        lambda y, p, c: y[0],
        {"k1": ("1/min", 0, 2), "k2": ("1/min", 0, 5), "delay_portal": ("s", 0, 10)},
        1,
        inputs=2,
        site="blood",
    )
    given = {"k1": 0.5, "k2": 1.0, "delay_portal": 4.0}
    curve = kety.simulate_curves(given, TIMES, aif, liver, portal=portal)
    blood = {"ktrans": 0.5 * (1 - HCT), "kep": 1.0}  # of blood, not plasma
    parts = [
        share * kety.simulate_curves({**blood, "delay": shift}, TIMES, one, "tofts")
        for share, shift, one in ((0.3, 0.0, aif), (0.7, 4.0, portal))
    ]
    np.testing.assert_allclose(curve, sum(parts), atol=1e-6 * curve.max())
    with pytest.raises(KetyError, match="portal"):
        kety.fit(curve, TIMES, aif, liver)
    with pytest.raises(KetyError, match="no parameter delay"):
        kety.fit(curve, TIMES, aif, SATURABLE, delay=3.0)
    with pytest.raises(KetyError, match="no parameter delay"):
        kety.fit(curve, TIMES, aif, SATURABLE, delay="onset")


def _model(**changed):
    given = {
        "rhs": lambda t, y, p, c: p["k"] * (c - y),
        "observe": lambda y, p, c: y[0],
        "parameters": {"k": ("1/min", 0, 5)},
        "initial": 1,
    }
    return kety.OdeModel(**(given | changed))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"rhs": lambda t, y, p, c: (c, c)}, r"derivatives of its 1 states.*found \(2,\)"),
        ({"observe": lambda y, p, c: y}, r"one number.*found shape \(1,\)"),
        ({"rhs": lambda t, y, p, c: p["kappa"] * c - y}, "'kappa'.*it has k"),
        ({"rhs": lambda t, y, p, c: np.exp(-p["k"]) * y}, "jax.numpy"),
        ({"rhs": lambda t, y, p, c: y if c > 0 else -y}, "jax.numpy"),
        ({"initial": lambda p: 1.0}, "must return the n states"),
        ({"scales": ("k",), "rhs": lambda t, y, p, c: p["k"] * (c - y)}, "half of the curve"),
    ],
)
def test_wrong_equations_are_refused(changed, words, aif):
    model = _model(**changed)
    curves = np.ones((2, len(TIMES)))
    with pytest.raises(KetyError, match=words):
        kety.fit(curves, TIMES, aif, model, mask=np.ones(2, bool))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"rhs": 3}, "rhs must be a function"),
        ({"initial": 0}, "number of states"),
        ({"parameters": {"k": ("1/min", 0)}}, "must be given as"),
        ({"parameters": {"k": ("1/h", 0, 1)}}, "'1/h' is not known"),
        ({"parameters": {"k": ("1/min", 2, 1)}}, "in order"),
        ({"parameters": {"cost": ("1/min", 0, 1)}}, "another map"),
        ({"parameters": {"k se": ("1/min", 0, 1)}}, "cannot name a map"),
        ({"parameters": ["k"]}, "kety.Parameter records"),
        ({"parameters": {f"k{i}": ("1", 0, 1) for i in range(9)}}, "1 to 8 parameters"),
        ({"scales": ("a",)}, "no parameter 'a'"),
        ({"site": "tissue"}, "unknown site"),
        ({"inputs": 3}, "1 or 2"),
    ],
)
def test_wrong_records_are_refused(changed, words):
    with pytest.raises(KetyError, match=words):
        _model(**changed)


def test_initial_is_the_models_own(aif):
    with pytest.raises(KetyError, match="says itself how it starts"):
        kety.fit(np.ones((1, len(TIMES))), TIMES, aif, TOFTS, initial=True)


def test_missing_library_is_named(aif, monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **options):
        if name.split(".")[0] == "diffrax":
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError, match=r"pip install 'kety\[ode\]'"):
        kety.simulate_curves(dict.fromkeys(TOFTS.names, 1.0), TIMES, aif, TOFTS)


def test_precision_of_the_callers_jax_stays(aif):
    import jax.numpy as jnp

    kety.simulate_curves(truths(TOFTS, 2), TIMES, aif, TOFTS)
    assert jnp.ones(2).dtype == jnp.float32
