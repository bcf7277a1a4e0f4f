"""Starts from solutions: beyond jumps, and at other delays of two inputs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.optimize import nnls

import kety
from cases import TWO_PHASE, Floats, artery, options_of, parameters, study
from kety.fitting import further
from kety.fitting.further import MINIMA, _across, _best_pairs, _shifted
from kety.fitting.nodes import make_nodes
from kety.fitting.pairs import Starts
from kety.fitting.problem import Problem, make_problem
from kety.fitting.terms import TermsKernel, solve_from, terms_curves, terms_kernel


def problem_of(model: str, **options: Any) -> tuple[Problem, TermsKernel]:
    aif = artery("parker", TWO_PHASE[-1] + 5, onset=0.0)
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
        **options,
    )
    problem = replace(problem, as_terms=True)
    return problem, terms_kernel(problem)


def test_a_solution_at_a_jump_starts_again_on_its_other_side() -> None:
    problem, kernel = problem_of("2cxm")
    (bands,) = kernel.bands
    assert len(bands) > 3
    slot = problem.slot("delay")
    # At both ends of every stretch, and in its middle.
    at = np.concatenate([bands[:, 0], bands[:, 1], bands.mean(axis=1)])
    theta = np.ones((len(at), problem.size))
    theta[:, slot] = at
    (found,) = _across(kernel, theta)
    n = len(bands)
    np.testing.assert_array_equal(found.voxel, [*range(1, n), *range(n, 2 * n - 1)])
    np.testing.assert_array_equal(found.band, [*bands[:-1], *bands[1:]])
    there = found.parameters[:, slot]
    assert ((there >= found.band[:, 0]) & (there <= found.band[:, 1])).all()
    assert np.abs(there - at[found.voxel]).max() < 1e-4


@pytest.mark.parametrize(
    ("model", "initial"), [("2cxm", False), ("2cxm", True), ("aath", True), ("tofts", True)]
)
def test_no_solution_is_left_at_a_jump_with_a_lower_one_beyond(model: str, initial: bool) -> None:
    problem, kernel = problem_of(model, initial=initial)
    curves, _ = study(np.random.default_rng(8), 200, problem.aif, model=model)
    options = {"initial": initial, "dtype": "float64", "mask": np.ones(len(curves), bool)}
    maps = kety.fit(curves, TWO_PHASE, problem.aif, model, **options)
    found = np.stack([maps[p.name].values * problem.factor(p) for p in problem.parameters], 1)
    known = np.isfinite(found).all(axis=1)
    (on,) = _across(kernel, found[known])
    assert len(on.voxel)
    one_each = np.arange(len(on.voxel) + 1, dtype=np.int64)
    beyond = solve_from(
        kernel,
        kety.VarProLM(),
        curves[known][on.voxel],
        Starts(one_each, on.parameters, on.band),
        np.float64,
    )
    assert (beyond.cost >= maps.cost.values[known][on.voxel] * (1 - 1e-6)).all()


def test_both_delays_of_a_mixed_vascular_input_jump() -> None:
    """Each voxel ends in the best of the stretches around it, along either delay."""
    model = "dual_input_extended_tofts"
    aif = artery("parker", TWO_PHASE[-1] + 5, onset=0.0)
    late = options_of(model, aif)["portal"]
    portal = replace(late, concentration=late.concentration + 15.0)
    options: dict[str, Any] = {"dtype": "float64", "portal": portal, "mask": np.ones(60, bool)}
    truth = parameters(np.random.default_rng(12), 60, model)
    clean = kety.simulate_curves(truth, TWO_PHASE, aif, model, portal=portal)
    curves = clean + np.random.default_rng(13).normal(0.0, 3.0, clean.shape)
    maps = kety.fit(curves, TWO_PHASE, aif, model, **options)
    problem, _ = problem_of(model)
    problem = replace(problem, portal=portal)
    kernel = terms_kernel(problem)
    first, second = kernel.bands
    assert len(first) > 3
    assert len(second) > 3
    found = np.stack([maps[p.name].values * problem.factor(p) for p in problem.parameters], 1)
    found = found.astype(float)
    known = np.flatnonzero(np.isfinite(found).all(axis=1))
    assert len(known) > 40
    for on in _across(kernel, found[known]):
        assert len(on.voxel)
        one_each = np.arange(len(on.voxel) + 1, dtype=np.int64)
        starts = Starts(one_each, on.parameters, on.band)
        chosen = known[on.voxel]
        beyond = solve_from(kernel, kety.VarProLM(), curves[chosen], starts, np.float64)
        assert (beyond.cost >= maps.cost.values[chosen] * (1 - 1e-6)).all()
        # The solver ends where the curve jumps.
        for slot, stretch in zip(kernel.program["jumps"], np.hsplit(on.band, 2), strict=True):
            delay = beyond.parameters[:, slot]
            assert ((delay >= stretch[:, 0]) & (delay <= stretch[:, 1])).all()


@pytest.mark.parametrize("baseline", [False, True])
def test_the_best_pairs_of_delays_are_those_of_a_slow_search(baseline: bool) -> None:
    problem, kernel = problem_of("dual_input_one_compartment", baseline=baseline)
    rng = np.random.default_rng(9)
    curves, truth = study(rng, 12, problem.aif, model=problem.model.name)
    weighted = np.sqrt(rng.uniform(0.5, 2.0, len(TWO_PHASE)))
    theta = np.stack([truth[p.name] * problem.factor(p) for p in problem.parameters], 1)
    early, late = np.linspace(-4.0, 12.0, 9), np.linspace(-5.0, 15.0, 11)
    share, first, second = (problem.slot(n) for n in ("haf", "delay", "delay_portal"))
    a = _shifted(kernel, theta, {share: 1.0}, first, early)
    b = _shifted(kernel, theta, {share: 0.0}, second, late)
    voxel, i, j, x, z = _best_pairs(problem, weighted, curves, a, b)
    # Both inputs' curves add up to the model's.
    assert np.allclose(
        terms_curves(kernel, theta)[0],
        _sum_of_shares(kernel, theta, share),
        rtol=1e-9,
        atol=1e-9 * np.abs(curves).max(),
    )
    for v in range(len(curves)):
        left = np.empty((len(early), len(late)))
        amplitudes = np.empty((len(early), len(late), 2))
        for k, m in np.ndindex(left.shape):
            columns, y = np.stack([a[v, k], b[v, m]], 1) * weighted[:, None], curves[v] * weighted
            if baseline:
                columns -= np.outer(weighted, weighted @ columns) / (weighted @ weighted)
                y = y - weighted * (weighted @ y) / (weighted @ weighted)
            size = np.linalg.norm(columns, axis=0)
            unit = columns / np.where(size > 0, size, 1.0)
            amplitudes[k, m], norm = nnls(unit, y)
            amplitudes[k, m] /= np.where(size > 0, size, 1.0)
            left[k, m] = norm**2
        expected = _minima(left, amplitudes)
        own = voxel == v
        assert list(zip(i[own], j[own], strict=True)) == expected
        for k, m, one, two in zip(i[own], j[own], x[own], z[own], strict=True):
            np.testing.assert_allclose([one, two], amplitudes[k, m], rtol=1e-6)


def _sum_of_shares(kernel: TermsKernel, theta: Floats, share: int) -> Floats:
    one, none = theta.copy(), theta.copy()
    one[:, share], none[:, share] = 1.0, 0.0
    part = theta[:, share : share + 1]
    mixed = part * terms_curves(kernel, one)[0] + (1.0 - part) * terms_curves(kernel, none)[0]
    return np.asarray(mixed)


def _minima(left: Floats, amplitudes: Floats) -> list[tuple[int, int]]:
    """Places that leave no more than their neighbours, both amplitudes above 0, the best first."""
    found = []
    for k, m in np.ndindex(left.shape):
        around = left[max(k - 1, 0) : k + 2, max(m - 1, 0) : m + 2]
        if left[k, m] <= around.min() * (1 + 1e-12) and (amplitudes[k, m] > 0).all():
            found.append((left[k, m], k, m))
    return [(k, m) for _, k, m in sorted(found)[:MINIMA]]


def test_wrong_delays_of_two_inputs_lead_back_to_the_truth() -> None:
    model = "dual_input_one_compartment"
    problem, kernel = problem_of(model)
    curves, truth = study(np.random.default_rng(10), 40, problem.aif, model=model, noise=0.0)
    theta = np.stack([truth[p.name] * problem.factor(p) for p in problem.parameters], 1)
    wrong = theta.copy()
    wrong[:, problem.slot("haf")] = 0.95
    wrong[:, problem.slot("delay_portal")] = 14.0
    nodes = make_nodes(kernel)
    found = further._relocated(kernel, nodes, curves, wrong)
    first = np.searchsorted(found.voxel, np.arange(len(curves) + 1)).astype(np.int64)
    starts = Starts(first, found.parameters, found.band)
    fit = solve_from(kernel, kety.VarProLM(), curves, starts, np.float64)
    error = np.abs(fit.parameters / theta - 1.0).max(axis=1)
    assert (error < 1e-6).mean() >= 0.9


def test_other_blood_volumes_at_other_delays_lead_nowhere_lower() -> None:
    model = "dual_input_extended_tofts"
    problem, kernel = problem_of(model)
    curves, _ = study(np.random.default_rng(14), 120, problem.aif, model=model)
    options = {"dtype": "float64", "mask": np.ones(len(curves), bool)}
    options |= options_of(model, problem.aif)
    maps = kety.fit(curves, TWO_PHASE, problem.aif, model, **options)
    theta = np.stack([maps[p.name].values * problem.factor(p) for p in problem.parameters], 1)
    known = np.flatnonzero(np.isfinite(theta).all(axis=1))
    assert len(known) > 80
    nodes = make_nodes(kernel)
    none = np.zeros(0, np.intp)
    parts = [*further._other_residues(kernel, nodes, curves[known], theta[known], none)]
    starts = further._gathered(parts, np.arange(len(known)))
    assert len(starts.parameters) > len(known)
    other = solve_from(kernel, kety.VarProLM(), curves[known], starts, np.float64)
    cost = np.where(np.isfinite(other.cost), other.cost, np.inf)
    assert (cost >= maps.cost.values[known] * (1 - 1e-6)).all()


@pytest.mark.parametrize("model", ["tofts", "2cxm"])
def test_what_decays_without_an_input_does_not_enhance(model: str) -> None:
    problem, _ = problem_of(model, initial=True)
    rng = np.random.default_rng(11)
    rates, at_first = rng.uniform(0.001, 0.08, (300, 1)), rng.uniform(0.0, 60.0, (300, 1))
    curves = at_first * np.exp(-rates * TWO_PHASE) + rng.normal(0.0, 6.0, (300, len(TWO_PHASE)))
    maps = kety.fit(curves, TWO_PHASE, problem.aif, model, initial=True)
    assert (maps.status == kety.Status.NOT_ENHANCING).mean() > 0.98
