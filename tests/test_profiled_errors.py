"""Errors along a parameter whose likelihood is no parabola: moments, covariance, coverage."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

import kety
from cases import TWO_PHASE, artery, assert_same, options_of, study
from kety import MODELS, Status, simulate_curves
from kety.fitting.constrained import minimise
from kety.fitting.problem import make_problem
from kety.fitting.profiled_errors import DISTANCES, Side, second_moment, stretched
from kety.fitting.sensitivity import ExactModel
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
    count, grid = 12, np.linspace(0.0, 1.0, 51)
    given = options_of(LIVER, AIF)
    rng = np.random.default_rng(5)
    curves, _ = study(rng, count, AIF, model=LIVER, noise=4.0)
    maps = kety.fit(
        curves, TWO_PHASE, AIF, LIVER, mask=np.ones(count, bool), dtype="float64", **given
    )
    wanted = {"delay": True, "bounds": None, "weights": None, "dtype": "float64", "threads": 1}
    model = ExactModel(make_problem(TWO_PHASE, AIF, LIVER, **wanted, find_enhancing=False, **given))
    held = model.names.index("haf")
    best = np.stack([maps[n].values for n in model.names], axis=1)
    free = np.ones((count, best.shape[1]), bool)
    free[:, held] = False
    cost = np.full((count, grid.size), np.inf)
    for k, at in enumerate(grid):
        for start in (0.0, 0.1, 0.3):  # from the estimate, and from about it
            begin = best + start * rng.uniform(-1.0, 1.0, best.shape) * np.maximum(best, 4.0)
            begin[:, held] = at
            found = minimise(model, curves, np.clip(begin, model.lower, model.upper), free)
            cost[:, k] = np.minimum(cost[:, k], found.cost)
    least = maps.cost.values[:, None]
    likelihood = np.exp(-(cost - least) / (2 * least / (TWO_PHASE.size - best.shape[1])))
    off = (grid - best[:, held : held + 1]) ** 2
    moment = (off * likelihood).sum(axis=1) / likelihood.sum(axis=1)
    good = np.isfinite(maps.haf_se.values)
    assert good.sum() >= 8
    ratio = maps.haf_se.values[good] / np.sqrt(moment[good])
    assert np.median(np.abs(ratio - 1)) < 0.05
    assert np.abs(ratio - 1).max() < 0.3
    ordinary = kety.fit(curves, TWO_PHASE, AIF, plain(LIVER), mask=np.ones(count, bool), **given)
    assert np.nanmax(np.abs(ordinary.haf_se.values[good] / np.sqrt(moment[good]) - 1)) > 0.4


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


@pytest.mark.parametrize("model", [LIVER, "aath", "2cxm", "2cum"])
def test_one_standard_error_covers_the_truth(model: str) -> None:
    shares = covered(model, 3000, seed=71, ratio=20.0)
    assert min(shares.values()) > 0.62, shares
    assert max(shares.values()) < 0.74, shares


def test_the_tangent_alone_does_not_cover_it() -> None:
    shares = covered(plain(LIVER), 3000, seed=71, ratio=20.0)
    assert shares["haf"] < 0.62, shares


def test_weights_of_one_size_leave_the_errors() -> None:
    given = options_of(LIVER, AIF)
    curves, _ = study(np.random.default_rng(7), 100, AIF, model=LIVER)
    options = {"mask": np.ones(100, bool), "dtype": "float64", **given}
    one = kety.fit(curves, TWO_PHASE, AIF, LIVER, **options)
    other = kety.fit(curves, TWO_PHASE, AIF, LIVER, weights=np.full(37, 5.0), **options)
    both = np.isfinite(one.haf_se.values) & np.isfinite(other.haf_se.values)
    assert both.mean() > 0.7
    close = np.isclose(one.haf_se.values[both], other.haf_se.values[both], rtol=0.02)
    assert close.mean() > 0.95


def test_a_voxel_that_allows_every_fraction_is_not_identifiable() -> None:
    # The vein brings what the artery brings, as good as.
    curves, _ = study(np.random.default_rng(8), 200, AIF, model=LIVER)
    later = AIF(AIF.times - 1.0)
    vein = replace(AIF, concentration=np.where(AIF.times - 1.0 < AIF.times[0], 0.0, later))
    options = {"mask": np.ones(200, bool), "portal": vein}
    maps = kety.fit(curves, TWO_PHASE, AIF, LIVER, **options)
    told = maps.status == Status.NOT_IDENTIFIABLE
    usual = kety.fit(curves, TWO_PHASE, AIF, plain(LIVER), **options)
    assert told.mean() > (usual.status == Status.NOT_IDENTIFIABLE).mean() + 0.2
    # Bounds of the caller's own take nothing away.
    tight = kety.fit(curves, TWO_PHASE, AIF, LIVER, bounds={"haf": (0.4, 0.6)}, **options)
    assert (tight.status == Status.NOT_IDENTIFIABLE).mean() < 0.1


def test_a_fixed_parameter_has_no_profile() -> None:
    given = options_of(LIVER, AIF)
    curves, _ = study(np.random.default_rng(9), 50, AIF, model=LIVER)
    options = {"mask": np.ones(50, bool), "bounds": {"haf": (0.3, 0.3)}, **given}
    one = kety.fit(curves, TWO_PHASE, AIF, LIVER, **options)
    assert_same(one, kety.fit(curves, TWO_PHASE, AIF, plain(LIVER), **options))


def test_a_profile_is_of_the_voxel_alone() -> None:
    given = options_of("aath", AIF)
    curves, _ = study(np.random.default_rng(10), 40, AIF, model="aath")
    whole = kety.fit(curves, TWO_PHASE, AIF, "aath", mask=np.ones(40, bool), **given)
    some = kety.fit(curves[7:20], TWO_PHASE, AIF, "aath", mask=np.ones(13, bool), **given)
    assert_same(whole.isel(voxel=slice(7, 20)), some)
