"""On a card: the same results as on the processor. Skipped, and why, where there is none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import kety
from cases import TWO_PHASE, Floats, artery, options_of, study
from kety import Joint, NelderMead, Status, VarProLM
from kety.fitting import solve
from kety.fitting.cuda import Card, card_or_reason
from kety.fitting.cuda.fit import FitOnCard
from kety.fitting.nodes import make_nodes
from kety.fitting.pairs import prepare_pairs
from kety.fitting.problem import make_problem
from kety.fitting.terms import terms_kernel

pytestmark = pytest.mark.gpu

SETTLED = {"float32": (1e-4, 0.999), "float64": (1e-9, 0.98)}
"""How well sums of squares agree, and in which share of voxels; the rest end in a neighbouring
minimum, or one stops a step later than the other."""


@pytest.fixture(scope="module")
def card() -> Card:
    found, words = card_or_reason("auto")
    if found is None:
        pytest.skip(f"no card: {words}")
    return found


@pytest.fixture(scope="module")
def aif() -> kety.InputFunction:
    return artery("parker", TWO_PHASE[-1] + 5)


@pytest.fixture(scope="module")
def curves(aif: kety.InputFunction) -> Floats:
    return study(np.random.default_rng(70), 20_000, aif)[0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", [{}, {"baseline": True}, {"bounds": {"ktrans": (0.1, 0.4)}}])
def test_the_default_solver(
    card: Card, aif: kety.InputFunction, curves: Floats, dtype: str, options: dict[str, Any]
) -> None:
    there = kety.fit(curves, TWO_PHASE, aif, dtype=dtype, device="cuda", **options)
    here = kety.fit(curves, TWO_PHASE, aif, dtype=dtype, **options)
    assert there.attrs["device"] == card.words
    assert np.mean(there.status.values == here.status.values) > 0.99
    both = (there.status.values == Status.CONVERGED) & (here.status.values == Status.CONVERGED)
    near, share = SETTLED[dtype]
    change = np.abs(there.cost.values / here.cost.values - 1)[both]
    assert np.mean(change < near) >= share
    for name in ("ktrans", "kep", "vb", "delay"):
        moved = np.abs(there[name].values - here[name].values) / here[f"{name}_se"].values
        assert np.nanquantile(moved[both], 0.99) < 0.05


def test_twice_the_same(card: Card, aif: kety.InputFunction, curves: Floats) -> None:
    one, two = (kety.fit(curves, TWO_PHASE, aif, device="cuda") for _ in range(2))
    order = np.random.default_rng(71).permutation(len(curves))
    three = kety.fit(curves[order], TWO_PHASE, aif, device="cuda")
    for name in one:
        np.testing.assert_array_equal(one[name].values, two[name].values)
        np.testing.assert_array_equal(one[name].values[order], three[name].values)


def test_streaming_equals_one_block(
    card: Card, aif: kety.InputFunction, curves: Floats, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = kety.fit(curves, TWO_PHASE, aif, device="cuda")
    init = FitOnCard.__init__
    monkeypatch.setattr(FitOnCard, "__init__", lambda s, *a: init(s, *a, 1500))
    pieces = kety.fit(curves, TWO_PHASE, aif, device="cuda")
    for name in whole:
        np.testing.assert_array_equal(whole[name].values, pieces[name].values)


@pytest.mark.parametrize("optimizer", ["nelder_mead", "differential_evolution"])
@pytest.mark.parametrize("discretization", ["exact", "iir", "fir"])
def test_direct_searches(
    card: Card, aif: kety.InputFunction, curves: Floats, optimizer: str, discretization: str
) -> None:
    some = curves[:200]
    options: dict[str, Any] = {"optimizer": optimizer, "discretization": discretization}
    options |= {"mask": np.ones(200, bool), "dtype": "float64"}
    there = kety.fit(some, TWO_PHASE, aif, device="cuda", **options)
    here = kety.fit(some, TWO_PHASE, aif, **options)
    change = np.abs(there.cost.values / here.cost.values - 1)
    assert np.mean(change < 1e-6) > 0.97


@pytest.mark.parametrize("model", ["2cxm", "2cum", "aath", "dual_input_one_compartment"])
def test_models_of_several_terms(card: Card, aif: kety.InputFunction, model: str) -> None:
    extra = options_of(model, aif)
    curves, _ = study(np.random.default_rng(72), 2000, aif, model=model)
    there, here = (
        kety.fit(curves, TWO_PHASE, aif, model, device=device, dtype="float64", **extra)
        for device in ("cuda", "cpu")
    )
    change = np.abs(there.cost.values / here.cost.values - 1)
    assert np.mean(change[np.isfinite(change)] < 1e-6) > 0.97


@pytest.mark.parametrize("model", ["2cxm", "2cum", "aath", "dual_input_extended_tofts"])
def test_starts_of_models_of_several_terms(card: Card, aif: kety.InputFunction, model: str) -> None:
    curves, _ = study(np.random.default_rng(74), 5000, aif, model=model)
    problem = make_problem(
        TWO_PHASE,
        aif,
        model,
        delay=True,
        bounds=None,
        weights=None,
        dtype="float32",
        threads=2,
        find_enhancing=True,
        **options_of(model, aif),
    )
    here, there = (
        prepare_pairs(kernel, VarProLM(), [make_nodes(kernel)])(curves)
        for kernel in (terms_kernel(p) for p in (problem, replace(problem, card=card)))
    )
    same = np.diff(here.first) == np.diff(there.first)
    assert same.mean() > 0.95  # rounding decides whether a second is worth trying
    of_same = [np.repeat(same, np.diff(s.first)) for s in (here, there)]
    one, two = (s.parameters[kept] for s, kept in zip((here, there), of_same, strict=True))
    change = np.abs(one - two) / np.maximum(np.abs(two), 1e-6)
    assert np.mean(change < 1e-2) > 0.95


@pytest.mark.parametrize("strength", [4.0, 1000.0])
def test_a_joint_estimate(card: Card, aif: kety.InputFunction, strength: float) -> None:
    image = study(np.random.default_rng(73), 64 * 64, aif)[0].reshape(64, 64, 37)
    options: dict[str, Any] = {
        "mask": np.ones((64, 64), bool),
        "joint": Joint("graph", strength=strength),
        "dtype": "float64",
    }
    there, here = (kety.fit(image, TWO_PHASE, aif, device=d, **options) for d in ("cuda", "cpu"))
    moved = np.abs(there.ktrans - here.ktrans) / here.ktrans_se
    assert float(moved.quantile(0.99)) < 0.1


def test_single_precision_of_a_search(card: Card, aif: kety.InputFunction, curves: Floats) -> None:
    problem = make_problem(
        TWO_PHASE,
        aif,
        "extended_tofts",
        delay=True,
        bounds=None,
        weights=None,
        dtype="float32",
        threads=2,
        find_enhancing=False,
    )
    from kety.fitting.direct import prepare_search
    from kety.fitting.discretize import Discretization

    found = [
        prepare_search(p, NelderMead(), Discretization())(curves[:500])
        for p in (replace(problem, card=card), problem)
    ]
    best = solve.prepare(problem, VarProLM())(curves[:500]).cost
    for one in found:
        assert np.mean(one.cost < 1.01 * best) > 0.95
