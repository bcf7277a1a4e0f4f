"""Errors along a parameter whose likelihood is no parabola: moments, covariance, coverage."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import least_squares

import kety
from cases import TWO_PHASE, artery, options_of, study
from kety import MODELS, Status, simulate_curves
from kety.fitting.identifiability import NEEDED
from kety.fitting.profiled_errors import DISTANCES, Side, second_moment, stretched
from kety.models import Model

AIF = artery("georgiou", TWO_PHASE[-1] + 5, onset=4.0)
LIVER = "dual_input_one_compartment"


def sides(rise, centre: float, unit: float, lo: float, hi: float) -> tuple[Side, Side]:
    """Both sides of one profile as the fit walks them."""
    out = []
    for sign in (-1.0, 1.0):
        at = np.clip(centre + sign * unit * np.array([0.0, *DISTANCES]), lo, hi)[None]
        out.append(Side(at, np.vectorize(rise)(at), np.zeros(1, int)))
    return out[0], out[1]


@given(st.floats(1e-3, 1e3), st.floats(0.7, 1.4), st.floats(-2.0, 2.0))
def test_the_moment_of_a_parabola_is_its_variance(sd: float, off: float, centre: float) -> None:
    below, above = sides(lambda x: ((x - centre) / sd) ** 2, centre, off * sd, -1e9, 1e9)
    moment = second_moment(np.array([centre]), below, above)
    np.testing.assert_allclose(moment, sd**2, rtol=0.02)


@given(st.floats(0.05, 1.0), st.floats(0.1, 0.9), st.floats(0.5, 3.0), st.floats(0.05, 0.3))
@settings(max_examples=30, deadline=None)
def test_the_moment_of_a_profile_with_a_shelf(
    sd: float, centre: float, shelf: float, unit: float
) -> None:
    def rise(x: float) -> float:
        return float(np.minimum(((x - centre) / sd) ** 2, shelf))

    below, above = sides(rise, centre, unit, 0.0, 1.0)
    corners = [centre + s * sd * np.sqrt(shelf) for s in (-1, 1)]
    points = [c for c in (*corners, centre) if 0 < c < 1]
    total, first = (
        quad(lambda x, p=p: (x - centre) ** p * np.exp(-rise(x) / 2), 0, 1, points=points)[0]
        for p in (0, 2)
    )
    # The corner of the shelf lies between two places.
    np.testing.assert_allclose(
        second_moment(np.array([centre]), below, above), first / total, rtol=0.25
    )


@given(st.integers(0, 2**31), st.integers(0, 4), st.floats(0.2, 50.0))
def test_the_errors_of_the_others_given_the_parameter_stay(
    seed: int, slot: int, growth: float
) -> None:
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(5, 7)) * 10.0 ** rng.uniform(-2, 2, (5, 1))
    before = root @ root.T
    rows = np.tril_indices(5)
    packed = stretched(before[rows][None], slot, growth * before[slot : slot + 1, slot])
    after = np.zeros((5, 5))
    after[rows] = packed[0]
    after = after + np.tril(after, -1).T
    np.testing.assert_allclose(after[slot, slot], growth * before[slot, slot], rtol=1e-9)
    others = np.delete(np.arange(5), slot)

    def of_others(c):
        column = c[others, slot]
        return c[np.ix_(others, others)] - np.outer(column, column) / c[slot, slot]

    scale = np.sqrt(np.outer(np.diag(before), np.diag(before)))[np.ix_(others, others)]
    np.testing.assert_allclose(of_others(after) / scale, of_others(before) / scale, atol=1e-8)
    assert np.linalg.eigvalsh(after / np.sqrt(np.outer(np.diag(after), np.diag(after))))[0] > 0


def test_an_unknown_moment_changes_nothing() -> None:
    before = np.array([[4.0, 1.0, 3.0], [np.nan, np.nan, 2.0]])
    np.testing.assert_array_equal(stretched(before, 0, np.array([np.nan, 5.0])), before)


def plain(model: str) -> Model:
    """The model with errors of the tangent alone."""
    return replace(MODELS[model], profiled="")


def test_errors_are_those_of_the_profile_on_a_dense_grid() -> None:
    given = options_of(LIVER, AIF)
    curves, _ = study(np.random.default_rng(5), 12, AIF, model=LIVER, noise=4.0)
    inside = np.ones(12, bool)
    maps = kety.fit(curves, TWO_PHASE, AIF, LIVER, mask=inside, dtype="float64", **given)
    names = MODELS[LIVER].names
    bounds = [p.bounds for p in MODELS[LIVER].parameters]
    held = names.index("haf")
    free = [i for i in range(len(names)) if i != held]
    lower, upper = np.array([bounds[i] for i in free]).T
    size = upper - lower
    ratios = []
    for v in np.flatnonzero(maps.status == Status.CONVERGED):
        best = np.array([float(maps[n][v]) for n in names])
        grid = np.linspace(0.0, 1.0, 81)
        cost = np.empty(81)
        middle = int(np.argmin(np.abs(grid - best[held])))
        for walk in (range(middle, 81), range(middle, -1, -1)):
            at = best[free]
            for k in walk:

                def residual(x, k=k):
                    values = dict(zip([names[i] for i in free], x * size, strict=True))
                    fitted = simulate_curves(
                        values | {"haf": grid[k]}, TWO_PHASE, AIF, LIVER, **given
                    )
                    return fitted[0] - curves[v]

                least = np.maximum(lower, [1e-2, 1e-3, *lower[2:]])
                found = least_squares(
                    residual,
                    np.clip(at, least + 1e-6 * size, upper - 1e-6 * size) / size,
                    bounds=(least / size, upper / size),
                    max_nfev=15,
                )
                at, cost[k] = found.x * size, 2 * found.cost
        noise = float(maps.cost[v]) / (TWO_PHASE.size - len(names))
        likelihood = np.exp(-(cost - float(maps.cost[v])) / (2 * noise))
        moment = ((grid - best[held]) ** 2 * likelihood).sum() / likelihood.sum()
        ratios.append(float(maps.haf_se[v]) / np.sqrt(moment))
        if len(ratios) == 3:
            break
    assert len(ratios) == 3
    np.testing.assert_allclose(ratios, 1.0, atol=0.12)


def covered(model: str | Model, count: int, seed: int, ratio: float) -> dict[str, float]:
    """Share of truths within one standard error, where the status says so."""
    name = model if isinstance(model, str) else model.name
    given = options_of(name, AIF)
    rng = np.random.default_rng(seed)
    _, truth = study(rng, count, AIF, model=name)
    clean = simulate_curves(truth, TWO_PHASE, AIF, name, **given)
    noise = clean.max(axis=1, keepdims=True) / ratio
    curves = clean + noise * rng.standard_normal(clean.shape)
    maps = kety.fit(curves, TWO_PHASE, AIF, model, mask=np.ones(count, bool), **given)
    good = (maps.status == Status.CONVERGED).values
    values = dict(truth)
    for d in MODELS[name].derived:
        values[d.name] = d.evaluate([values[n] for n in d.of], AIF.hematocrit)[0]
    return {
        n: float(np.mean(np.abs(maps[n].values - v)[good] <= maps[f"{n}_se"].values[good]))
        for n, v in values.items()
    }
