"""The contract of every model in `MODELS`; a new one inherits these tests."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

import kety
import naive
import naive_terms
from cases import ONE_TERM, TWO_PHASE, Floats, artery, options_of, parameters, worst_relative
from kety import MODELS, InputFunction, KetyError, simulate_curves
from kety.fitting.terms import given_problem, terms_curves, terms_kernel
from kety.models import ROLES, Model, get_model

FINE = np.arange(0.0, 240.0, 1.5)
# Models that are not the extended Tofts model with some parameters at 0.
EQUATIONS = {"one_compartment": (naive.one_compartment, {})}
ABSENT = {"ktrans": 0.0, "kep": 0.0, "vb": 0.0}
UNITS = {"1/min", "mL/mL", "s", "mL/100mL/min", "1"}
# What multiplies the whole curve while transit times stay; of the others v and a do.
SIZES = {"fp", "ps", "ktrans", "ve", "vp", "vd"}

every_model = pytest.mark.parametrize("model", list(MODELS.values()), ids=list(MODELS))
one_term = pytest.mark.parametrize("model", [MODELS[n] for n in ONE_TERM], ids=ONE_TERM)


@pytest.fixture(scope="module")
def aif() -> InputFunction:
    return artery("georgiou", 260.0, onset=10.0)


def one(truth: dict[str, Floats], index: int = 0) -> dict[str, float]:
    return {n: float(v[index]) for n, v in truth.items()}


def simulated(
    model: Model, values: dict[str, float], aif: InputFunction, times: Floats = FINE
) -> Floats:
    return simulate_curves(values, times, aif, model.name, **options_of(model.name, aif))[0]


@every_model
def test_names_units_codes_and_source(model: Model) -> None:
    assert MODELS[model.name] is model
    assert get_model(model.name) is model
    quantities = [*model.parameters, *model.derived]
    names = [q.name for q in quantities]
    assert len(set(names)) == len(names)
    for q in quantities:
        assert q.name.isidentifier()
        assert q.name.islower()
        assert q.unit in UNITS, q.name
        assert q.long_name, q.name
        assert re.fullmatch(r"Q\.[A-Z]+\d+\.\d+(\.[a-z]+)?", q.osipi), q.name
    assert re.fullmatch(r"M\.[A-Z]+\d+\.\d+", model.osipi)
    assert re.search(r"\b(19|20)\d\d\b", model.reference)
    assert model.long_name


@every_model
def test_parameters_have_bounds_and_factors(model: Model, aif: InputFunction) -> None:
    assert "delay" in model.names
    assert ("delay_portal" in model.names) == (model.inputs == 2)
    for p in model.parameters:
        lo, hi = p.bounds
        assert np.isfinite([lo, hi]).all()
        assert lo < hi
        assert lo >= 0 or p.is_delay
        assert p.least < hi
        assert model.parameter(p.name) is p
        assert p.kernel_factor(aif) > 0
        assert (p.role is None) == (model.terms is not None)
    for d in model.derived:
        assert set(d.of) <= set(model.names)
    values = {n: np.array([0.5]) for n in model.names}
    assert model.kernel_parameters(values, aif, 1).shape == (
        1,
        len(model.names) if model.terms else 4,
    )


@one_term
def test_parameters_map_to_kernel_quantities(model: Model, aif: InputFunction) -> None:
    roles = [p.role for p in model.parameters]
    assert len(set(roles)) == len(roles)
    assert set(roles) <= set(ROLES)
    assert "tau" in roles
    values = {n: np.array([0.5]) for n in model.names}
    kernel = model.kernel_parameters(values, aif, 1)
    absent = [r for r in ROLES if r not in roles]
    assert all(kernel[0, ROLES.index(r)] == 0 for r in absent)


@every_model
def test_an_unknown_parameter_is_a_key_error(model: Model) -> None:
    with pytest.raises((KeyError, StopIteration)):
        model.parameter("none")


@every_model
@pytest.mark.parametrize("site", ["blood", "plasma"])
def test_curves_meet_the_equation(model: Model, site: str) -> None:
    aif = artery("georgiou", 260.0, onset=10.0, site=site, hematocrit=0.38)
    times = np.array([0.0, 9.0, 14.5, 20.0, 33.0, 60.0, 150.0, 240.0])
    equation, absent = EQUATIONS.get(model.name, (naive.extended_tofts, ABSENT))
    truth = parameters(np.random.default_rng(70), 4, model.name)
    for i in range(4):
        if model.terms is None:
            expected = equation(aif, times, **(absent | one(truth, i)))
        else:
            expected = naive_terms.curve(
                model.name, aif, times, one(truth, i), **options_of(model.name, aif)
            )
        found = simulated(model, one(truth, i), aif, times)
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-9)


@every_model
def test_blood_and_plasma_are_two_ways_to_say_the_same(model: Model, aif: InputFunction) -> None:
    truth = parameters(np.random.default_rng(71), 20, model.name)
    given = options_of(model.name, aif)
    in_plasma = {name: portal.plasma() for name, portal in given.items()}
    curves = simulate_curves(truth, FINE, aif, model.name, **given)
    other = simulate_curves(truth, FINE, aif.plasma(), model.name, **in_plasma)
    np.testing.assert_allclose(other, curves, rtol=1e-12, atol=1e-12 * curves.max())
    maps = kety.fit(curves, FINE, aif.plasma(), model.name, dtype="float64", **in_plasma)
    # With two delays a curve may keep a neighbouring minimum.
    found = worst_relative(maps, truth) < 1e-6
    assert found.mean() >= (1.0 if model.inputs == 1 else 0.8)
    wrong = replace(aif, hematocrit=0.0)
    error = worst_relative(kety.fit(curves, FINE, wrong, model.name, **given), truth).max()
    if any(p.per == "plasma" for p in model.parameters):
        assert error > 0.1
    else:
        assert error < 1e-3


@every_model
def test_derivatives_meet_central_differences(model: Model, aif: InputFunction) -> None:
    truth = parameters(np.random.default_rng(72), 5, model.name)
    for i in range(5):
        values = one(truth, i)
        problem, point = given_problem(
            model,
            {n: np.array([v]) for n, v in values.items()},
            FINE,
            aif,
            **options_of(model.name, aif),
        )
        jacobian = terms_curves(terms_kernel(problem), point, jacobian=True)[1]
        assert jacobian is not None
        for p in model.parameters:
            step = 1e-5 * max(abs(values[p.name]), 0.1)
            up, down = (
                simulated(model, {**values, p.name: values[p.name] + s * step}, aif)
                for s in (1, -1)
            )
            slope = jacobian[0][:, problem.slot(p.name)] * p.kernel_factor(aif)
            difference = (up - down) / (2 * step)
            tolerance = 1e-6 * np.abs(slope).max()
            np.testing.assert_allclose(slope, difference, rtol=0, atol=tolerance, err_msg=p.name)


@every_model
def test_gradients_of_derived_quantities_meet_central_differences(model: Model) -> None:
    truth = parameters(np.random.default_rng(73), 50, model.name)
    for d in model.derived:
        of = [truth[n] for n in d.of]
        value, gradient = d.evaluate(of, 0.4)
        np.testing.assert_array_equal(value, d.value(*of, 0.4))
        assert len(gradient) == len(of)
        for i, values in enumerate(of):
            step = 1e-6 * values
            up, down = ([*of[:i], values + s * step, *of[i + 1 :]] for s in (1, -1))
            difference = (d.value(*up, 0.4) - d.value(*down, 0.4)) / (2 * step)
            tolerance = 1e-6 * np.abs(difference).max()
            np.testing.assert_allclose(gradient[i], difference, 1e-6, tolerance, err_msg=d.name)
        single, slopes = d.evaluate([v.astype(np.float32) for v in of], 0.4)
        assert single.dtype == np.float32, d.name
        assert all(s.dtype == np.float32 for s in slopes), d.name


@every_model
def test_curves_are_linear_in_the_tissue_and_in_the_input(model: Model, aif: InputFunction) -> None:
    values = one(parameters(np.random.default_rng(74), 1, model.name))
    sizes = [p.name for p in model.parameters if p.role in ("v", "a") or p.name in SIZES]
    double = {n: v * (2 if n in sizes else 1) for n, v in values.items()}
    curve = simulated(model, values, aif)
    np.testing.assert_allclose(simulated(model, double, aif), 2 * curve, rtol=1e-12)
    strong = replace(aif, concentration=3 * aif.concentration)
    np.testing.assert_allclose(simulated(model, values, strong), 3 * curve, rtol=1e-12)


@one_term
def test_curves_superpose(model: Model, aif: InputFunction) -> None:
    values = one(parameters(np.random.default_rng(74), 1, model.name))
    amplitudes = [p.name for p in model.parameters if p.role in ("v", "a")]
    curve = simulated(model, values, aif)
    parts = sum(
        simulated(model, {**values, **{a: 0.0 for a in amplitudes if a != kept}}, aif)
        for kept in amplitudes
    )
    np.testing.assert_allclose(parts, curve, rtol=1e-12, atol=1e-12 * curve.max())
    nothing = simulated(model, {**values, **dict.fromkeys(amplitudes, 0.0)}, aif)
    assert (nothing == 0).all()


@every_model
def test_nothing_arrives_before_the_artery_and_its_delay(model: Model, aif: InputFunction) -> None:
    shifts = [p.name for p in model.parameters if p.is_delay]
    drawn = one(parameters(np.random.default_rng(75), 1, model.name))
    values = {**drawn, **dict.fromkeys(shifts, 7.25)}
    curve = simulated(model, values, aif)
    assert (curve[aif.times[0] + 7.25 > FINE] == 0).all()
    assert curve.max() > 0
    undelayed = simulated(model, {**values, **dict.fromkeys(shifts, 0.0)}, aif, FINE[20:] - 7.25)
    np.testing.assert_allclose(curve[20:], undelayed, rtol=1e-11)


@one_term
def test_mass_balance(model: Model) -> None:
    """What leaves is what came in less what is there: dC/dt = Ktrans Cp - kep (C - vb Cb).

    K1 Cb takes the place of Ktrans Cp, and k2 that of kep, where the model says so.
    """
    aif = InputFunction([0.0, 10.0, 20.0, 400.0], [0.0, 100.0, 0.0, 0.0], interpolation="linear")
    values = one(parameters(np.random.default_rng(76), 1, model.name)) | {"delay": 0.0}
    times = np.arange(0.0, 400.0, 0.05)
    curve = simulated(model, values, aif, times)
    tissue = curve - values.get("vb", 0.0) * aif(times)
    transfer = values["k1"] if "k1" in values else values["ktrans"] / (1 - aif.hematocrit)
    inflow = transfer / 60 * 1000.0  # the input's area is 1000
    outflow = values.get("k2", values.get("kep", 0.0)) / 60 * np.trapezoid(tissue, times)
    np.testing.assert_allclose(tissue[-1] + outflow, inflow, rtol=1e-4)


def test_extended_tofts_holds_the_others_as_limits(aif: InputFunction) -> None:
    extended = MODELS["extended_tofts"]
    values = {"ktrans": 0.3, "kep": 0.9, "vb": 0.08, "delay": 2.0}
    tofts = {n: v for n, v in values.items() if n != "vb"}
    patlak = {n: v for n, v in values.items() if n != "kep"}
    curve = simulated(MODELS["tofts"], tofts, aif)
    np.testing.assert_array_equal(simulated(extended, {**values, "vb": 0.0}, aif), curve)
    curve = simulated(MODELS["patlak"], patlak, aif)
    np.testing.assert_array_equal(simulated(extended, {**values, "kep": 0.0}, aif), curve)
    near = simulated(extended, {**values, "kep": 1e-9}, aif)
    np.testing.assert_allclose(near, curve, rtol=1e-7)


@every_model
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_noise_free_recovery(model: Model, dtype: str) -> None:
    aif = artery("georgiou", TWO_PHASE[-1] + 5)
    truth = parameters(np.random.default_rng(77), 200, model.name)
    given = options_of(model.name, aif)
    if given:
        truth = {n: v[:50] for n, v in truth.items()}
    curves = simulate_curves(truth, TWO_PHASE, aif, model.name, **given)
    maps = kety.fit(curves, TWO_PHASE, aif, model.name, dtype=dtype, **given)
    error = worst_relative(maps, truth)
    if dtype == "float64":
        assert np.mean(error < 1e-6) >= (1.0 if model.inputs == 1 else 0.85)
    else:
        assert np.quantile(error, 0.95 if model.terms is None else 0.8) < 1e-2
    for d in model.derived:
        expected = d.value(*(truth[n] for n in d.of), aif.hematocrit)
        known = error < 1e-3
        np.testing.assert_allclose(maps[d.name].values[known], expected[known], rtol=5e-3)


@every_model
def test_default_bounds_hold_the_usual_tissues(model: Model) -> None:
    truth = parameters(np.random.default_rng(78), 1000, model.name)
    for p in model.parameters:
        assert p.bounds[0] <= truth[p.name].min()
        assert truth[p.name].max() <= p.bounds[1]


def test_an_unknown_model_lists_the_valid_ones() -> None:
    with pytest.raises(KetyError, match=r"'toft'.*tofts, extended_tofts, patlak"):
        get_model("toft")
