"""Models of several terms: curves, slopes, and the search for starts, against slow twins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import naive_terms
from cases import ONE_TERM, TWO_PHASE, Floats, artery, options_of, parameters, study
from kety import MODELS, InputFunction, KetyError, VarProLM, simulate_curves
from kety.fitting.engine import instruction_sets
from kety.fitting.problem import Problem, make_problem
from kety.fitting.terms import given_problem, terms_curves, terms_kernel

SEVERAL = [name for name in MODELS if name not in ONE_TERM]
each_model = pytest.mark.parametrize("model", SEVERAL)

# Between the default bounds, with capillaries that empty in milliseconds and none that exchange.
WIDE = {
    "fp": st.floats(0.5, 500.0),
    "ktrans": st.floats(0.0, 5.0),
    "ps": st.one_of(st.just(0.0), st.floats(1e-6, 5.0)),
    "ve": st.one_of(st.just(1e-4), st.floats(1e-4, 1.0)),
    "vp": st.one_of(st.just(1e-4), st.floats(1e-4, 1.0)),
    "vd": st.floats(1e-4, 1.0),
    "haf": st.floats(0.0, 1.0),
    "delay": st.floats(-4.0, 10.0),
    "delay_portal": st.floats(-4.0, 10.0),
}


def coarse(rng: np.random.Generator) -> InputFunction:
    """An input at irregular times from 0 to 75 s."""
    times = np.concatenate([[0.0], np.sort(rng.uniform(1.0, 70.0, 14)), [75.0]])
    times = times[np.append(True, np.diff(times) > 0.3)]
    values = 300.0 * np.exp(-(((times - 20.0) / 15.0) ** 2)) + rng.uniform(0.0, 60.0, times.size)
    kind = rng.choice(["cubic", "linear", "monotone"])
    return InputFunction(times, np.maximum(values, 0.0), hematocrit=0.4, interpolation=str(kind))


@st.composite
def cases(
    draw: st.DrawFn,
) -> tuple[InputFunction, dict[str, Any], Floats, dict[str, dict[str, float]]]:
    """An input, a portal input, irregular frames, and parameters of every model."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    aif, portal = coarse(rng), coarse(rng)
    times = np.unique(rng.uniform(0.0, 70.0, 7))
    drawn = {n: draw(s) for n, s in WIDE.items()}
    shares = {n: {p: drawn[p] for p in MODELS[n].names} for n in SEVERAL}
    initial = draw(st.one_of(st.none(), st.floats(0.0, 100.0)))
    if initial is not None:
        shares = {n: v | {"c0": initial} for n, v in shares.items()}
    return aif, {"portal": portal}, times, shares


def size_of(model: str, values: dict[str, float], aif: InputFunction) -> float:
    """The scale of a curve's rounding errors: its terms, which may cancel."""
    peak = 2.0 * np.abs(aif.concentration).max() / (1.0 - aif.hematocrit)
    flow = values["fp"] / 6000.0 if "fp" in values else values["ktrans"] / 60.0
    flow *= 75.0 if model == "aath" else 20.0
    held = sum(values.get(n, 0.0) for n in ("ve", "vp", "vd"))
    return float(peak * max(min(flow, 1.0), 0.02 * held, 1e-3) + values.get("c0", 0.0))


@settings(max_examples=25, deadline=None)
@given(cases())
def test_curves_meet_the_balance_of_mass(
    case: tuple[InputFunction, dict[str, Any], Floats, dict[str, dict[str, float]]],
) -> None:
    aif, second, times, every = case
    for model, values in every.items():
        given_inputs = second if MODELS[model].inputs == 2 else {}
        expected = naive_terms.curve(model, aif, times, values, **given_inputs)
        size = size_of(model, values, aif)
        # A frame at a jump of the input may see it or not.
        apart = np.ones(len(times), bool)
        for shift, source in (("delay", aif), ("delay_portal", second["portal"])):
            if shift in values:
                apart &= np.abs(times - values[shift] - source.times[0]) > 1e-3
        for dtype, tolerance in (("float64", 1e-9), ("float32", 2e-4)):
            found = simulate_curves(values, times, aif, model, dtype, **given_inputs)[0]
            np.testing.assert_allclose(
                found[apart], expected[apart], rtol=tolerance, atol=tolerance * size, err_msg=model
            )


@pytest.mark.parametrize("model", ["2cxm", "2cum"])
def test_curves_meet_an_integrator(model: str) -> None:
    aif = artery("georgiou", 100.0, onset=10.0, hematocrit=0.38)
    times = np.array([0.0, 9.0, 14.5, 20.0, 33.0, 60.0, 90.0])
    drawn = parameters(np.random.default_rng(1), 2, model)
    for i in range(2):
        values = {n: float(v[i]) for n, v in drawn.items()}
        expected = naive_terms.integrated(model, aif, times, values)
        found = simulate_curves(values, times, aif, model)[0]
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def solver_points(
    model: str, count: int, seed: int = 2, initial: bool = True
) -> tuple[Problem, Floats]:
    aif = artery("georgiou", TWO_PHASE[-1] + 5)
    drawn = parameters(np.random.default_rng(seed), count, model)
    if initial:
        drawn["c0"] = np.linspace(1.0, 30.0, count)
    return given_problem(MODELS[model], drawn, TWO_PHASE, aif, **options_of(model, aif))


@pytest.mark.parametrize("model", list(MODELS))
def test_instruction_sets_agree(model: str) -> None:
    problem, points = solver_points(model, 37)
    kernel = terms_kernel(problem)
    for dtype, tolerance in (("float64", 1e-12), ("float32", 2e-5)):
        (first, slopes), *others = (
            terms_curves(kernel, points, jacobian=True, dtype=dtype, instruction_set=name)
            for name in instruction_sets()
        )
        assert slopes is not None
        for values, jacobian in others:
            assert jacobian is not None
            np.testing.assert_allclose(values, first, rtol=0, atol=tolerance * first.max())
            for i in range(points.shape[1]):
                size = np.abs(slopes[..., i]).max()
                np.testing.assert_allclose(
                    jacobian[..., i], slopes[..., i], rtol=0, atol=10 * tolerance * size
                )


@pytest.mark.parametrize("model", list(MODELS))
def test_slopes_meet_central_differences(model: str) -> None:
    problem, points = solver_points(model, 6)
    kernel = terms_kernel(problem)
    slopes = terms_curves(kernel, points, jacobian=True)[1]
    assert slopes is not None
    for i, p in enumerate(problem.parameters):
        step = 1e-5 * np.maximum(np.abs(points[:, i]), problem.factor(p) * 1e-2)
        ends = []
        for sign in (1.0, -1.0):
            moved = points.copy()
            moved[:, i] += sign * step
            ends.append(terms_curves(kernel, moved)[0])
        difference = (ends[0] - ends[1]) / (2 * step[:, None])
        tolerance = 1e-6 * np.abs(difference).max()
        np.testing.assert_allclose(
            slopes[..., i], difference, rtol=1e-5, atol=tolerance, err_msg=p.name
        )


@pytest.mark.parametrize("model", list(MODELS))
def test_a_curve_does_not_depend_on_its_neighbours(model: str) -> None:
    problem, points = solver_points(model, 41)
    kernel = terms_kernel(problem)
    for dtype in ("float32", "float64"):
        whole = terms_curves(kernel, points, dtype=dtype)[0]
        order = np.random.default_rng(3).permutation(41)
        mixed = terms_curves(kernel, points[order], dtype=dtype)[0]
        np.testing.assert_array_equal(mixed, whole[order])
        alone = terms_curves(kernel, points[7:8], dtype=dtype)[0]
        np.testing.assert_array_equal(alone, whole[7:8])


@pytest.mark.parametrize("model", ONE_TERM)
def test_the_solver_of_terms_has_the_curves_of_one_term(model: str) -> None:
    aif = artery("parker", TWO_PHASE[-1] + 5)
    drawn = parameters(np.random.default_rng(4), 20, model)
    plain = simulate_curves(drawn, TWO_PHASE, aif, model)
    nothing = simulate_curves({**drawn, "c0": 0.0}, TWO_PHASE, aif, model)
    np.testing.assert_allclose(nothing, plain, rtol=1e-11, atol=1e-11 * plain.max())
    rate = drawn.get("kep", drawn.get("k2", np.zeros(20))) / 60
    more = simulate_curves({**drawn, "c0": 5.0}, TWO_PHASE, aif, model)
    since = TWO_PHASE - TWO_PHASE[0]
    expected = plain + 5.0 * np.exp(-rate[:, None] * since)
    np.testing.assert_allclose(more, expected, rtol=1e-10, atol=1e-10 * plain.max())


def test_parameters_that_a_model_is_not_defined_for_are_refused() -> None:
    aif = artery("georgiou", TWO_PHASE[-1] + 5)
    good = {"fp": 50.0, "ps": 0.2, "ve": 0.2, "vp": 0.05}
    for name, value in (("vp", 0.0), ("ve", 1e-5), ("fp", 0.0), ("ps", -0.1), ("ve", np.nan)):
        with pytest.raises(KetyError, match=r"vp from 0[.]0001 mL/mL"):
            simulate_curves({**good, name: value}, TWO_PHASE, aif, "2cxm")


def test_a_portal_input_belongs_to_models_with_two_inputs() -> None:
    aif = artery("georgiou", TWO_PHASE[-1] + 5)
    with pytest.raises(KetyError, match="needs the portal vein's input"):
        simulate_curves(
            {"fp": 50.0, "haf": 0.2, "vd": 0.2}, TWO_PHASE, aif, "dual_input_one_compartment"
        )
    with pytest.raises(KetyError, match="one input, but a portal input"):
        simulate_curves({"fp": 50.0, "ps": 0.2, "vp": 0.2}, TWO_PHASE, aif, "2cum", portal=aif)


# --- the search for starts ----------------------------------------------------------------------


def searched(model: str, count: int, noise: float) -> tuple[Problem, Any, Floats]:
    """A problem, its table of nodes, and curves."""
    from kety.fitting.nodes import make_nodes

    aif = artery("georgiou", TWO_PHASE[-1] + 5)
    curves, _ = study(np.random.default_rng(5), count, aif, model=model, noise=noise)
    problem = make_problem(
        TWO_PHASE,
        aif,
        model,
        delay=True,
        bounds=None,
        weights=None,
        dtype="float64",
        threads=1,
        find_enhancing=False,
        **options_of(model, aif),
    )
    kernel = terms_kernel(problem)
    return problem, (kernel, make_nodes(kernel)), curves


def in_basis(nodes: Any, kernel: Any, curves: Floats) -> tuple[Any, Any]:
    seen = curves / kernel.scale * nodes.weighted
    basis = np.asarray(nodes.scan["basis"], np.float64)
    return (seen @ basis).astype(np.float32), (seen**2).sum(axis=1).astype(np.float32)


def best_of_pairs(nodes: Any, z: Any, square: Any) -> Floats:
    """What the best pair of every voxel leaves: all pairs, amplitudes not negative."""
    scan = nodes.scan
    rows = np.asarray(scan["row"], np.float64)
    products = z.astype(np.float64) @ rows.T
    best = np.full(len(z), -np.inf)
    for a, b in zip(scan["pair_a"], scan["pair_b"], strict=True):
        cosine = float(rows[a] @ rows[b])
        p, q = products[:, a], products[:, b]
        gain = np.maximum(np.maximum(p, q), 0.0) ** 2
        rest = 1.0 - cosine**2
        if rest > 1e-6:
            x, y = (p - cosine * q) / rest, (q - cosine * p) / rest
            gain = np.where((x > 0) & (y > 0), x * p + y * q, gain)
        best = np.maximum(best, gain)
    return np.asarray(square - best)


@each_model
def test_the_scan_finds_the_best_pair(model: str) -> None:
    from kety.fitting.pairs import _scan

    _, (kernel, nodes), curves = searched(model, 30, 6.0)
    z, square = in_basis(nodes, kernel, curves)
    expected = best_of_pairs(nodes, z, square)
    for name in instruction_sets():
        seen = (curves / kernel.scale * nodes.weighted).astype(np.float32)
        own, total, pair, x, y, left = _scan(kernel, VarProLM(instruction_set=name), nodes, seen)
        np.testing.assert_allclose(own, z, rtol=1e-4, atol=1e-5 * np.abs(z).max())
        np.testing.assert_allclose(total, square, rtol=1e-5)
        np.testing.assert_allclose(left[:, 0], expected, rtol=2e-3, atol=2e-5 * square.max())
        ordered = np.where(pair >= 0, left, 2.0 * square[:, None])  # the best first
        assert (np.diff(ordered, axis=1) >= 0).all()
        # The residual is that of the pair and the amplitudes that are given.
        scan = nodes.scan
        a, b = (scan["row"][scan[n][pair[:, 0]]] for n in ("pair_a", "pair_b"))
        made = x[:, :1] * a + y[:, :1] * b
        off = square - (z**2).sum(axis=1)
        again = ((z - made) ** 2).sum(axis=1) + off
        np.testing.assert_allclose(again, left[:, 0], rtol=2e-3, atol=2e-5 * square.max())
        assert (x[pair >= 0] >= 0).all()
        assert (y[pair >= 0] >= 0).all()


@pytest.mark.parametrize("model", ["2cxm", "2cum"])
def test_the_descent_ends_lower_and_where_a_slow_one_does(model: str) -> None:
    from scipy.optimize import least_squares, nnls

    from kety.fitting.forward import kernel_curves
    from kety.fitting.nodes import FASTEST
    from kety.fitting.pairs import _descend, _scan

    problem, (kernel, nodes), curves = searched(model, 25, 3.0)
    z, square = in_basis(nodes, kernel, curves)
    options = VarProLM(candidate_ratio=1.0)
    seen = (curves / kernel.scale * nodes.weighted).astype(np.float32)
    _, _, pair, _, _, left = _scan(kernel, options, nodes, seen)
    ends = _descend(kernel, options, nodes, z, square, pair)
    voxel, which = np.nonzero(ends.group >= 0)
    assert set(voxel) == set(range(len(z)))
    ended = {n: getattr(ends, n)[voxel, which] for n in ("fast", "slow", "delay", "left")}
    off = square - (z**2).sum(axis=1)
    best = np.array([ended["left"][voxel == v].min() for v in range(len(z))])
    assert (best <= left[:, 0] * 1.001 + 1e-4 * square).all()
    basis = np.asarray(nodes.scan["basis"], np.float64)
    lo, hi = nodes.band[ends.group[voxel, which]].T
    lower = problem.kernel_bounds()[0][problem.slot("delay")]

    def residual(x: Floats, v: int) -> Floats:
        rows = np.zeros((2, 4))
        rows[:, 1], rows[:, 3] = 1.0, x[-1]
        rows[0, 2], rows[1, 2] = x[0], x[1] if model == "2cxm" else 0.0
        pair = kernel_curves(kernel.inputs[0], TWO_PHASE, rows)[0] * nodes.weighted @ basis
        return np.asarray(pair.T @ nnls(pair.T, z[v])[0] - z[v])

    worse = 0
    for i, v in enumerate(voxel):
        x0 = [ended["fast"][i], ended["slow"][i], ended["delay"][i]]
        if model == "2cum":
            assert ended["slow"][i] == 0
            x0 = [ended["fast"][i], ended["delay"][i]]
        here = float(np.sum(residual(np.array(x0), v) ** 2)) + off[v]
        assert here == pytest.approx(float(ended["left"][i]), rel=0.02, abs=2e-4 * float(square[v]))
        low = [1e-9] * (len(x0) - 1) + [max(lo[i], lower)]
        high = [FASTEST] * (len(x0) - 1) + [hi[i]]
        start = np.clip(x0, np.array(low) + 1e-9, np.array(high) - 1e-9)
        slow = least_squares(residual, start, bounds=(low, high), args=(v,), x_scale="jac")
        worse += here > (2 * slow.cost + off[v]) * 1.02 + 2e-4 * square[v]
    assert worse <= 0.1 * len(voxel)
