"""Fits by the papers' optimizers: the core against SciPy, optimum, errors, statuses, bad input."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import kety
from cases import NOISE, ONE_TERM, RANGES, TWO_PHASE, artery, assert_same, parameters, study
from kety import DifferentialEvolution, Discretization, InputFunction, KetyError, NelderMead, Status

Floats = NDArray[np.float64]

EVERY_SECOND = np.arange(0.0, 120.0, 1.0)
FAST = [
    NelderMead(),
    DifferentialEvolution(),
    NelderMead.preset("paper"),
    DifferentialEvolution.preset("paper"),
]
SLOW = [
    kety.SQP(starts=8),
    kety.PatternSearch(starts=4),
    NelderMead(starts=4, backend="scipy"),
    DifferentialEvolution(population=16, backend="scipy"),
]


@pytest.fixture(scope="module")
def aif() -> InputFunction:
    return artery("parker", 230.0, onset=2.0)


@pytest.fixture(scope="module")
def curves(aif: InputFunction) -> Floats:
    return study(np.random.default_rng(11), 48, aif)[0]


def fit(curves: Floats, times: Floats, aif: InputFunction, **options: Any) -> Any:
    options.setdefault("bounds", RANGES)
    options.setdefault("dtype", "float64")
    options.setdefault("mask", np.ones(curves.shape[:-1], bool))
    return kety.fit(curves, times, aif, **options)


@pytest.mark.parametrize("kind", ["exact", "iir", "fir"])
@pytest.mark.parametrize("paper", [False, True])
def test_native_nelder_mead_takes_the_steps_of_scipy(
    aif: InputFunction, curves: Floats, kind: str, paper: bool
) -> None:
    """The same simplex, decision by decision: the same costs from the same number of points."""
    some = curves[:3]
    options = NelderMead(**(NelderMead.PAPER | {"starts": 5})) if paper else NelderMead(starts=5)
    one = fit(some, TWO_PHASE, aif, optimizer=options, discretization=kind)
    other = fit(
        some, TWO_PHASE, aif, optimizer=replace(options, backend="scipy"), discretization=kind
    )
    np.testing.assert_allclose(one.cost, other.cost, rtol=1e-7)
    # The core stops where rounding hides what is left, and rounding may turn a decision.
    np.testing.assert_allclose(one.evaluations, other.evaluations, rtol=0.06)


@pytest.mark.parametrize("optimizer", FAST, ids=repr)
@pytest.mark.parametrize("kind", ["exact", "iir"])
def test_noise_free_curves_of_the_same_system_are_recovered(
    aif: InputFunction, optimizer: Any, kind: str
) -> None:
    rng = np.random.default_rng(5)
    truth = {n: rng.uniform(lo + 0.1 * (hi - lo), hi, 12) for n, (lo, hi) in RANGES.items()}
    curves = sampled_curves(truth, EVERY_SECOND, aif, kind)
    maps = fit(curves, EVERY_SECOND, aif, optimizer=optimizer, discretization=kind)
    paper = optimizer == type(optimizer).preset("paper")
    worst = np.max([np.abs(maps[n] / truth[n] - 1) for n in truth], axis=0)
    assert np.median(worst) < (1e-6 if paper else 0.05)
    if paper:
        assert worst.max() < 1e-4


def sampled_curves(
    truth: dict[str, Floats], times: Floats, aif: InputFunction, kind: str
) -> Floats:
    """Curves of the discrete system itself: `fitted` of a fit that has nothing left to fit."""
    exact = kety.simulate_curves(truth, times, aif)
    if kind == "exact":
        return exact
    rows = []
    for v in range(len(exact)):
        held = {n: (float(p[v]), float(p[v])) for n, p in truth.items() if n != "ktrans"}
        near = float(truth["ktrans"][v])
        maps = fit(
            exact[v : v + 1],
            times,
            aif,
            bounds=held | {"ktrans": (near, near * (1 + 1e-12))},
            optimizer=NelderMead(starts=1),
            discretization=kind,
            fitted=True,
        )
        rows.append(maps.fitted.values[0])
    return np.array(rows)


@pytest.mark.parametrize("optimizer", FAST, ids=repr)
def test_the_default_solver_is_not_beaten(
    aif: InputFunction, curves: Floats, optimizer: Any
) -> None:
    default = fit(curves, TWO_PHASE, aif).cost.values
    other = fit(curves, TWO_PHASE, aif, optimizer=optimizer).cost.values
    assert np.mean(default <= other * (1 + 1e-6)) >= 0.95
    assert np.median(other / default) < 1.001


@pytest.mark.parametrize("optimizer", [*FAST, *SLOW], ids=repr)
def test_bounds_are_honoured_and_fixed_parameters_stay(
    aif: InputFunction, curves: Floats, optimizer: Any
) -> None:
    bounds = {"ktrans": (0.1, 0.3), "kep": (0.5, 0.5), "vb": (0.02, 0.08), "delay": (1.0, 3.0)}
    for dtype in ("float32", "float64"):
        maps = fit(curves[:4], TWO_PHASE, aif, bounds=bounds, optimizer=optimizer, dtype=dtype)
        for name, (lo, hi) in bounds.items():
            lo, hi = (np.dtype(dtype).type(b) for b in (lo, hi))
            assert (maps[name] >= lo).all(), name
            assert (maps[name] <= hi).all(), name
        assert (maps.kep == 0.5).all()
        assert np.isnan(maps.kep_se).all()
        # Where vb is not clearly above 0 the delay is said to be unknown, rightly.
        faint = ~(maps.vb >= 3.2 * maps.vb_se).values
        told = maps.status.values == Status.NOT_IDENTIFIABLE
        assert faint[told].all()
        assert set(maps.status.values[~told]) <= {Status.CONVERGED, Status.AT_BOUND}


@pytest.mark.parametrize("model", ONE_TERM)
@pytest.mark.parametrize("delay", [True, 2.5, "onset"])
def test_every_model(aif: InputFunction, model: str, delay: Any) -> None:
    rng = np.random.default_rng(8)
    truth = parameters(rng, 6, model)
    truth["delay"][:] = 2.5
    times = np.arange(0.0, 120.0, 2.0)
    curves = kety.simulate_curves(truth, times, aif, model)
    for kind in ("exact", "iir"):
        maps = kety.fit(
            curves, times, aif, model, delay=delay, optimizer="nelder_mead", discretization=kind
        )
        # Curves without exchange are not told from others by all models; costs are.
        square = (curves**2).sum(axis=1)
        assert (maps.cost.values < (0.02 if delay == "onset" else 2e-3) * square).all(), kind
        if delay == 2.5:
            assert (maps.delay == 2.5).all()


@pytest.mark.parametrize("optimizer", FAST[:2], ids=repr)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_results_do_not_depend_on_neighbours_threads_or_order(
    aif: InputFunction, curves: Floats, optimizer: Any, dtype: str
) -> None:
    for kind in ("exact", "iir", "fir"):
        options = {"optimizer": optimizer, "discretization": kind, "dtype": dtype, "fitted": True}
        one = fit(curves[:10], TWO_PHASE, aif, threads=1, **options)
        two = fit(curves[:10][::-1], TWO_PHASE, aif, threads=2, **options)
        assert_same(one, two.isel(voxel=slice(None, None, -1)))
        assert_same(one.isel(voxel=[4]), fit(curves[4:5], TWO_PHASE, aif, **options))


def test_standard_errors_are_those_of_the_default_solver(
    aif: InputFunction, curves: Floats
) -> None:
    inside = {"ktrans": (0.0, 5.0), "kep": (0.0, 20.0), "vb": (0.0, 1.0), "delay": (-2.0, 14.0)}
    for baseline in (False, True):
        for weights in (None, np.linspace(0.5, 2.0, TWO_PHASE.size)):
            options: dict[str, Any] = {
                "bounds": inside, "baseline": baseline, "weights": weights
            }  # fmt: skip
            default = fit(curves, TWO_PHASE, aif, **options)
            searched = fit(curves, TWO_PHASE, aif, optimizer=NelderMead.preset("paper"), **options)
            # Weighted fits have unweighted costs, which feel where the search came to rest.
            same = np.isclose(default.cost, searched.cost, rtol=1e-7 if weights is None else 1e-4)
            names = [str(n) for n in default if str(n).endswith("_se")]
            for name in names:
                same &= np.isfinite(default[name].values)
            assert same.mean() > 0.6
            for name in [*names, "r2", *(["baseline"] if baseline else [])]:
                # Errors depend on where between its tolerances each search came to rest.
                near = np.isclose(searched[name][same], default[name][same], rtol=2e-3, atol=1e-6)
                assert near.mean() > 0.95, name
                np.testing.assert_allclose(
                    searched[name][same], default[name][same], rtol=0.03, atol=1e-6, err_msg=name
                )


def test_errors_of_a_resampled_fit_cover_the_truth(aif: InputFunction) -> None:
    """Resampling correlates the noise; the errors know it."""
    truth = {"ktrans": 0.25, "kep": 0.7, "vb": 0.06, "delay": 4.3}
    clean = kety.simulate_curves(truth, TWO_PHASE, aif)
    rng = np.random.default_rng(21)
    curves = clean + rng.normal(0.0, NOISE / 2, (250, TWO_PHASE.size))
    wide = {"ktrans": (0.0, 2.0), "kep": (0.0, 10.0), "vb": (0.0, 0.5), "delay": (0.0, 12.0)}
    for resampling in ("linear", "cubic"):
        choice = Discretization("exact", rate=1.0, resampling=resampling)
        maps = fit(curves, TWO_PHASE, aif, bounds=wide, optimizer="nelder_mead",
                   discretization=choice)  # fmt: skip
        for name in truth:
            # The interpolated curve is not the model's; errors are of the noise, not of that bias.
            error = maps[name] - maps[name].median()
            covered = float((np.abs(error) < maps[name + "_se"]).mean())
            assert 0.58 < covered < 0.78, (resampling, name)


def test_without_resampling_the_grid_changes_nothing(aif: InputFunction, curves: Floats) -> None:
    """The exact model on a grid, compared at the frames alone, is the exact model at the frames."""
    for baseline in (False, True):
        for weights in (None, np.linspace(0.5, 2.0, TWO_PHASE.size)):
            plain, gridded = (
                fit(
                    curves[:6], TWO_PHASE, aif, optimizer="nelder_mead", baseline=baseline,
                    weights=weights, discretization=choice,
                )
                for choice in (
                    Discretization("exact"), Discretization("exact", rate=1.0, resampling="none")
                )
            )  # fmt: skip
            for name in plain:
                if name != "evaluations":
                    np.testing.assert_allclose(
                        gridded[name], plain[name], rtol=1e-4, atol=1e-8, err_msg=str(name)
                    )


def test_voxels_without_a_fit(aif: InputFunction, curves: Floats) -> None:
    block = curves[:6].copy()
    block[1, 5] = np.nan
    block[2] = np.random.default_rng(2).normal(0.0, 1.0, TWO_PHASE.size)
    block[3] = 0.0
    block[4, 7] = np.inf
    maps = kety.fit(block, TWO_PHASE, aif, optimizer="nelder_mead", fitted=True, baseline=True)
    expected = [None, Status.NOT_FINITE, Status.NOT_ENHANCING, Status.NOT_ENHANCING,
                Status.NOT_FINITE, None]  # fmt: skip
    for v, status in enumerate(expected):
        if status is None:
            assert maps.status[v] in (Status.CONVERGED, Status.AT_BOUND)
            assert np.isfinite(maps.fitted[v]).all()
        else:
            assert maps.status[v] == status
            for name in ("ktrans", "ktrans_se", "cost", "r2", "baseline"):
                assert np.isnan(maps[name][v]), (v, name)
            assert np.isnan(maps.fitted[v]).all()
            assert maps.evaluations[v] == 0


def test_an_iteration_limit_is_told(aif: InputFunction, curves: Floats) -> None:
    for optimizer in (
        NelderMead(max_iterations=3),
        DifferentialEvolution(max_iterations=2),
        kety.SQP(max_iterations=1, starts=2),
    ):
        maps = fit(curves[:3], TWO_PHASE, aif, optimizer=optimizer)
        assert (maps.status == Status.ITERATION_LIMIT).all(), optimizer
        assert np.isfinite(maps.ktrans).all()


def test_fitted_curves_and_costs_are_of_the_discrete_system(
    aif: InputFunction, curves: Floats
) -> None:
    maps = fit(curves, TWO_PHASE, aif, optimizer="nelder_mead", discretization="iir", fitted=True)
    residual = curves - maps.fitted.values
    np.testing.assert_allclose(maps.residual, residual, atol=1e-9)
    np.testing.assert_allclose(maps.cost, (residual**2).sum(axis=1), rtol=1e-9)
    truth = {n: maps[n].values for n in RANGES}
    exact = kety.simulate_curves(truth, TWO_PHASE, aif)
    assert 1e-4 < np.abs(exact - maps.fitted.values).max() / exact.max() < 0.2


def test_attributes_say_how(aif: InputFunction, curves: Floats) -> None:
    choice = Discretization("fir", rate=2.0, delay_filter="round")
    maps = fit(curves[:2], TWO_PHASE, aif, delay="onset", discretization=choice)
    assert maps.attrs["optimizer"].startswith("NelderMead(")
    assert maps.attrs["discretization"] == "fir"
    assert maps.attrs["processing_rate_hz"] == 2.0
    assert maps.attrs["delay_filter"] == "round"
    assert "onset" in maps.attrs["delay"]
    plain = fit(curves[:2], TWO_PHASE, aif)
    assert plain.attrs["discretization"] == "exact"
    assert plain.attrs["optimizer"].startswith("VarProLM(")


def test_onset_is_fixed_in_every_voxel(aif: InputFunction) -> None:
    truth = {"ktrans": 0.3, "kep": 0.8, "vb": 0.1, "delay": np.linspace(0.0, 8.0, 9)}
    curves = kety.simulate_curves(truth, EVERY_SECOND, aif)
    for optimizer in (None, "nelder_mead"):
        maps = fit(curves, EVERY_SECOND, aif, delay="onset", optimizer=optimizer)
        assert np.abs(maps.delay - truth["delay"]).max() < 1.5
        assert np.isnan(maps.delay_se).all()
        np.testing.assert_allclose(maps.delay, np.round(maps.delay, 1), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"optimizer": "simplex"}, ["simplex", "nelder_mead", "varprolm"]),
        ({"optimizer": 3}, ["3", "nelder_mead"]),
        ({"optimizer": "varprolm", "discretization": "iir"}, ["exact", "iir", "nelder_mead"]),
        (
            {"optimizer": "varprolm", "discretization": Discretization("exact", rate=1.0)},
            ["frames as measured", "1 Hz"],
        ),
        ({"discretization": "fft"}, ["fft", "exact, iir, fir"]),
        ({"discretization": 1.0}, ["kety.Discretization", "float"]),
        ({"delay": "slope"}, ["'onset'", "slope"]),
        ({"discretization": Discretization("iir", rate=1e7)}, ["lower the processing rate"]),
        (
            {"discretization": Discretization("iir", rate=0.4, resampling="none")},
            ["times[1] = 2 s", "0.4 Hz"],
        ),
    ],
)
def test_bad_input(
    aif: InputFunction, curves: Floats, options: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(KetyError) as error:
        fit(curves[:1], TWO_PHASE, aif, **options)
    for word in words:
        assert word in str(error.value)
