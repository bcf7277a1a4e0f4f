"""`kety.fit`: the optimum, accuracy, bounds, weights and units."""

from __future__ import annotations

import numpy as np
import pytest
import xarray
from scipy.optimize import lsq_linear

import kety
import naive
from cases import (
    NOISE,
    PEAK,
    TWO_PHASE,
    Floats,
    artery,
    options_of,
    parameters,
    study,
    worst_relative,
)
from kety import MODELS, InputFunction, Status, VarProLM, simulate_curves
from kety.fitting.dictionary import delay_cells
from kety.fitting.engine import SEARCHED_FRAMES
from kety.fitting.forward import kernel_curves
from kety.inputs.population import parker

PAPER = {"ktrans": (0.0, 2.0), "kep": (0.0, 5.0), "vb": (0.0, 1.0), "delay": (0.0, 10.0)}


def everywhere(curves: Floats) -> np.ndarray:
    return np.ones(curves.shape[:-1], bool)


def sums_of_squares(maps: xarray.Dataset, curves: Floats, weights: Floats | float = 1.0) -> Floats:
    """Weighted sums of squares, in float64, of the fitted curves."""
    return np.sum(weights * (curves - maps.fitted.values.astype(float)) ** 2, axis=-1)


def assert_agree(one: xarray.Dataset, two: xarray.Dataset, rounding: float) -> np.ndarray:
    """The same maps but for rounding, given as a fraction of the standard errors.

    Returns the voxels that converged in both.
    """
    assert np.mean(one.status.values == two.status.values) > 0.98
    settled = [Status.CONVERGED, Status.NOT_IDENTIFIABLE]
    clear = np.isin(one.status, settled) & (two.status.values == one.status.values)
    for name in MODELS[one.model].names:
        clear &= np.isfinite(one[f"{name}_se"].values) & np.isfinite(two[f"{name}_se"].values)
    assert clear.mean() > 0.8
    for name in MODELS[one.model].names:
        error = one[f"{name}_se"].values[clear]
        difference = np.abs(two[name].values - one[name].values)[clear] / error
        assert np.quantile(difference, 0.98) < rounding, name
        ratio = two[f"{name}_se"].values[clear] / error
        assert np.quantile(np.abs(ratio - 1), 0.98) < 0.03, name
    return clear


# Two free delays leave minima that differ by 1e-13 of the curve: so many end in the right one.
RECOVERED = {
    "dual_input_extended_tofts": 0.98,
    "dual_input_one_compartment": 0.98,
    "dual_input_two_compartment": 0.94,
}

# --- noise-free curves -----------------------------------------------------------------------


@pytest.mark.parametrize("delay", [True, False, 2.5])
@pytest.mark.parametrize("model", list(MODELS))
@pytest.mark.parametrize("name", ["parker", "georgiou", "preclinical"])
def test_noise_free_curves_give_back_their_parameters(
    name: str, model: str, delay: bool | float
) -> None:
    rng = np.random.default_rng(20262)
    aif = artery(name, TWO_PHASE[-1] + 5, onset=4.0)
    count = 500 if MODELS[model].inputs == 1 else 100
    truth = parameters(rng, count, model)
    shifts = [p.name for p in MODELS[model].parameters if p.is_delay]
    if delay is not True:
        truth |= {shift: np.full(count, float(delay)) for shift in shifts}
    given = options_of(model, aif)
    curves = simulate_curves(truth, TWO_PHASE, aif, model, **given)
    maps = kety.fit(curves, TWO_PHASE, aif, model, delay=delay, dtype="float64", **given)
    if not delay:
        for shift in shifts:
            assert (maps[shift] == 0).all()
            del truth[shift]
    # Between the wide default bounds a rare curve keeps a neighbouring minimum (2 in 10,000 of data
    # set 1, none between the paper's bounds).
    share = RECOVERED.get(model, 0.998) if delay is True else 0.998
    assert (worst_relative(maps, truth) < 1e-6).mean() >= share
    assert (maps.status == Status.CONVERGED).mean() >= share


@pytest.mark.parametrize("model", list(MODELS))
@pytest.mark.parametrize("name", ["parker", "georgiou"])
def test_noise_free_curves_give_back_what_was_there_at_first(name: str, model: str) -> None:
    rng = np.random.default_rng(20263)
    aif = artery(name, TWO_PHASE[-1] + 5, onset=4.0)
    count = 200 if MODELS[model].inputs == 1 else 60
    truth = parameters(rng, count, model) | {"c0": rng.uniform(0.02, 0.15, count) * PEAK}
    given = options_of(model, aif)
    curves = simulate_curves(truth, TWO_PHASE, aif, model, **given)
    maps = kety.fit(
        curves,
        TWO_PHASE,
        aif,
        model,
        dtype="float64",
        initial=True,
        mask=everywhere(curves),
        **given,
    )
    assert (worst_relative(maps, truth) < 1e-6).mean() >= RECOVERED.get(model, 0.995)


@pytest.mark.parametrize("interpolation", ["linear", "monotone"])
def test_noise_free_curves_of_other_interpolations_give_back_their_parameters(
    interpolation: str,
) -> None:
    aif = InputFunction(TWO_PHASE, parker(TWO_PHASE, delay=4.0), interpolation=interpolation)
    curves, truth = study(np.random.default_rng(3), 500, aif, noise=0.0)
    maps = kety.fit(curves, TWO_PHASE, aif, dtype="float64")
    assert worst_relative(maps, truth).max() < 1e-6


def test_delays_before_the_artery_are_found_within_their_bounds() -> None:
    times = np.arange(0.0, 180.0, 3.0)
    aif = artery("georgiou", times[-1] + 5, onset=20.0)
    rng = np.random.default_rng(4)
    truth = {**parameters(rng, 300, "extended_tofts"), "delay": rng.uniform(-9.0, -1.0, 300)}
    curves = simulate_curves(truth, times, aif)
    maps = kety.fit(curves, times, aif, dtype="float64", bounds={"delay": (-10.0, 0.0)})
    assert worst_relative(maps, truth).max() < 1e-6


@pytest.fixture(scope="module")
def uniform_sampling() -> tuple[Floats, dict[str, Floats], InputFunction]:
    """The paper's data set 1: 200 samples at 1 Hz of curves simulated at 100 Hz."""
    fine = np.arange(20_001) / 100.0
    aif = InputFunction(fine, parker(fine), hematocrit=0.4)
    truth = parameters(np.random.default_rng(20261), 3000, "extended_tofts")
    return simulate_curves(truth, np.arange(200.0), aif), truth, aif


def mean_error(maps: xarray.Dataset, truth: dict[str, Floats]) -> float:
    """Mean relative error over voxels and parameters, %."""
    count = maps.sizes["voxel"]
    return 100 * float(np.mean([np.abs(maps[n] - v[:count]) / v[:count] for n, v in truth.items()]))


def test_data_set_1_with_the_input_known_at_1_hz(
    uniform_sampling: tuple[Floats, dict[str, Floats], InputFunction],
) -> None:
    curves, truth, _ = uniform_sampling
    times = np.arange(200.0)
    aif = InputFunction(times, parker(times), hematocrit=0.4)
    maps = kety.fit(curves, times, aif, bounds=PAPER, dtype="float64", mask=everywhere(curves))
    assert mean_error(maps, truth) <= 0.01


def test_data_set_1_with_the_input_known_at_100_hz(
    uniform_sampling: tuple[Floats, dict[str, Floats], InputFunction],
) -> None:
    curves, truth, aif = uniform_sampling
    some = curves[:400]
    maps = kety.fit(
        some, np.arange(200.0), aif, bounds=PAPER, dtype="float64", mask=everywhere(some)
    )
    assert mean_error(maps, truth) <= 1e-4


# --- the optimum of noisy curves ----------------------------------------------------------------


def test_data_set_2_reaches_the_best_of_many_starts() -> None:
    aif = artery("parker", TWO_PHASE[-1] + 5, onset=0.0)
    curves, _ = study(np.random.default_rng(20263), 25, aif)
    maps = kety.fit(curves, TWO_PHASE, aif, bounds=PAPER, mask=everywhere(curves))
    best = [naive.least_cost(y, TWO_PHASE, aif, PAPER, 10)[0] for y in curves]
    excess = maps.cost.values / best - 1
    assert np.mean(excess <= 1e-4) >= 0.99
    assert excess.max() <= 0.01


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("name", "interpolation"),
    [
        ("parker", "cubic"),
        ("georgiou", "cubic"),
        ("preclinical", "cubic"),
        ("weinmann", "cubic"),
        ("georgiou", "linear"),
        ("georgiou", "monotone"),
    ],
)
def test_no_stretch_of_delays_holds_a_better_optimum(
    name: str, interpolation: str, dtype: str
) -> None:
    fine = artery(name, TWO_PHASE[-1] + 5)
    knots = fine.times if interpolation == "cubic" else np.append(fine.times[0], TWO_PHASE[2:] + 5)
    aif = InputFunction(knots, fine(knots), site=fine.site, interpolation=interpolation)
    curves, _ = study(np.random.default_rng(5), 2000, aif)
    options = {"mask": everywhere(curves)}
    best = np.full(len(curves), np.inf)
    for start in np.arange(-5.0, 15.0, 2.0):
        part = kety.fit(
            curves, TWO_PHASE, aif, dtype="float64", bounds={"delay": (start, start + 2)}, **options
        )
        best = np.fmin(best, part.cost.values)
    maps = kety.fit(curves, TWO_PHASE, aif, dtype=dtype, **options)
    excess = maps.cost.values / best - 1
    assert np.mean(excess <= 1e-4) >= 0.99
    assert excess.max() <= (0.01 if name == "parker" else 0.03)  # measured: 0.6 % and 2.1 %


@pytest.mark.parametrize("noise", [0.0, NOISE, 5 * NOISE])
def test_no_step_is_left_to_take_where_a_voxel_converged(noise: float) -> None:
    aif = artery("georgiou", TWO_PHASE[-1] + 5, hematocrit=0.0)
    curves, _ = study(np.random.default_rng(21), 5000, aif, noise=noise)
    maps = kety.fit(curves, TWO_PHASE, aif, dtype="float64", mask=everywhere(curves))
    record = MODELS["extended_tofts"]
    converged = (maps.status == Status.CONVERGED).values & (maps.r2 < 1 - 1e-10).values
    values = {n: maps[n].values[converged] for n in record.names}
    kernel = record.kernel_parameters(values, aif, int(converged.sum()))
    lo, hi = (
        record.kernel_parameters({p.name: p.bounds[side] for p in record.parameters}, aif, 1)[0]
        for side in (0, 1)
    )
    model, slopes = kernel_curves(aif, TWO_PHASE, kernel, jacobian=True)
    assert slopes is not None
    unfinished = 0
    for x, j, y in zip(kernel, slopes, curves[converged] - model, strict=True):
        unit = 1 / np.linalg.norm(j, axis=0)
        free = np.linalg.lstsq(j * unit, y, rcond=1e-8)[0]
        if np.sum((y - (j * unit) @ free) ** 2) > (1 - 1e-3) * np.sum(y**2):
            continue
        step = lsq_linear(j * unit, y, ((lo - x) / unit - 1e-12, (hi - x) / unit + 1e-12))
        unfinished += 2 * step.cost < (1 - 1e-4) * np.sum(y**2)
    # Within the bounds, a Gauss-Newton step promises next to nothing.
    assert unfinished <= 1e-3 * len(curves)


# --- bounds -----------------------------------------------------------------------------------

TIGHT = {"ktrans": (0.1, 0.3), "kep": (0.7, 1.3), "vb": (0.03, 0.07), "delay": (1.1, 4.3)}


@pytest.mark.parametrize(
    "chosen",
    [
        list(TIGHT),
        ["ktrans"],
        ["vb"],
        ["kep", "delay"],
    ],
)
def test_the_optimum_within_tight_bounds(chosen: list[str]) -> None:
    aif = artery("georgiou", TWO_PHASE[-1] + 5)
    curves, _ = study(np.random.default_rng(6), 12, aif)
    bounds = {n: TIGHT[n] for n in chosen}
    maps = kety.fit(curves, TWO_PHASE, aif, bounds=bounds, dtype="float64", mask=everywhere(curves))
    every = {p.name: p.bounds for p in MODELS["extended_tofts"].parameters} | bounds
    for i, y in enumerate(curves):
        best, _ = naive.least_cost(y, TWO_PHASE, aif, every, 6)
        assert maps.cost[i] <= best * (1 + 1e-4)
    for name, (lo, hi) in bounds.items():
        assert (maps[name] >= lo).all()
        assert (maps[name] <= hi).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("site", ["blood", "plasma"])
def test_bounds_hold_to_the_last_bit(dtype: str, site: str) -> None:
    aif = artery("georgiou", TWO_PHASE[-1] + 5, site=site)
    rng = np.random.default_rng(7)
    curves, _ = study(rng, 64, aif)
    pressed = unknown = 0
    for _ in range(12):
        bounds = {}
        for p in MODELS["extended_tofts"].parameters:
            lo = rng.uniform(
                *{"ktrans": (0.1, 0.6), "kep": (0.3, 2), "vb": (0.02, 0.1)}.get(p.name, (0.0, 5.0))
            )
            bounds[p.name] = (lo, lo * rng.uniform(1.01, 1.5))
        maps = kety.fit(curves, TWO_PHASE, aif, bounds=bounds, dtype=dtype, mask=everywhere(curves))
        for name, (lo, hi) in bounds.items():
            values = maps[name].values[~np.isnan(maps[name].values)]
            number = values.dtype.type
            assert values.min() >= number(lo), name
            assert values.max() <= number(hi), name
            at = (values == number(lo)) | (values == number(hi))
            pressed += int(at.sum())
            errors = maps[f"{name}_se"].values[~np.isnan(maps[name].values)]
            unknown += int(np.isnan(errors[at]).sum())
        assert np.isin(
            maps.status, [Status.CONVERGED, Status.AT_BOUND, Status.NOT_IDENTIFIABLE]
        ).all()
    assert pressed > 500
    assert unknown > 0.98 * pressed  # a bound has no error; a few values end just inside


def test_equal_bounds_fix_a_parameter() -> None:
    aif = artery("georgiou", TWO_PHASE[-1] + 5)
    curves, _ = study(np.random.default_rng(8), 20, aif)
    for name, value in {"vb": 0.07, "kep": 0.9, "ktrans": 0.3, "delay": 3.3}.items():
        bounds = {name: (value, value)}
        maps = kety.fit(
            curves, TWO_PHASE, aif, bounds=bounds, dtype="float64", mask=everywhere(curves)
        )
        assert (maps[name] == value).all()
        assert maps[f"{name}_se"].isnull().all()
        # A parameter that the caller fixed is no reason for a warning.
        others = [n for n in MODELS["extended_tofts"].names if n != name]
        free = np.all([maps[f"{n}_se"].notnull() for n in others], axis=0)
        assert free.sum() > 10
        sound = [Status.CONVERGED, Status.NOT_IDENTIFIABLE]
        assert np.isin(maps.status.values[free], sound).all()
        every = {p.name: p.bounds for p in MODELS["extended_tofts"].parameters} | bounds
        for i in range(8):
            best, _ = naive.least_cost(curves[i], TWO_PHASE, aif, every, 6)
            assert maps.cost[i] <= best * (1 + 1e-4)


def test_equal_bounds_may_fix_everything() -> None:
    aif = artery("georgiou", TWO_PHASE[-1] + 5)
    curves, _ = study(np.random.default_rng(8), 20, aif)
    point = {"ktrans": 0.3, "kep": 1.0, "vb": 0.1, "delay": 2.0}
    bounds = {name: (value, value) for name, value in point.items()}
    maps = kety.fit(curves, TWO_PHASE, aif, bounds=bounds, dtype="float64", mask=everywhere(curves))
    squares = ((curves - simulate_curves(point, TWO_PHASE, aif)) ** 2).sum(axis=1)
    np.testing.assert_allclose(maps.cost, squares, rtol=1e-9)


def test_a_number_fixes_the_delay_as_equal_bounds_do() -> None:
    aif = artery("georgiou", TWO_PHASE[-1] + 5)
    curves, _ = study(np.random.default_rng(9), 50, aif)
    number = kety.fit(curves, TWO_PHASE, aif, delay=2.25)
    equal = kety.fit(curves, TWO_PHASE, aif, bounds={"delay": (2.25, 2.25)})
    for name in number:
        np.testing.assert_array_equal(number[name], equal[name])
    none = kety.fit(curves, TWO_PHASE, aif, delay=False)
    zero = kety.fit(curves, TWO_PHASE, aif, delay=0)
    for name in none:
        np.testing.assert_array_equal(none[name], zero[name])


def test_an_input_may_end_as_early_as_the_least_delay_allows() -> None:
    aif = artery("georgiou", TWO_PHASE[-1] - 10)
    truth = {"ktrans": 0.3, "kep": 1.0, "vb": 0.05, "delay": 12.0}
    curves = simulate_curves(truth, TWO_PHASE, aif)
    maps = kety.fit(curves, TWO_PHASE, aif, dtype="float64", bounds={"delay": (10.0, 15.0)})
    assert worst_relative(maps, {n: np.array([v]) for n, v in truth.items()}).max() < 1e-6


# --- weights ----------------------------------------------------------------------------------


def test_weights_give_the_weighted_optimum_and_an_unweighted_cost() -> None:
    aif = artery("georgiou", TWO_PHASE[-1] + 5)
    rng = np.random.default_rng(10)
    weights = rng.uniform(0.05, 3.0, len(TWO_PHASE))
    curves, _ = study(rng, 12, aif, noise=0.0)
    curves += rng.normal(0.0, NOISE, curves.shape) / np.sqrt(weights)
    bounds = {**PAPER, "delay": (-5.0, 15.0)}
    maps = kety.fit(
        curves,
        TWO_PHASE,
        aif,
        weights=weights,
        dtype="float64",
        bounds=bounds,
        fitted=True,
        mask=everywhere(curves),
    )
    found = sums_of_squares(maps, curves, weights)
    for i, y in enumerate(curves):
        best, _ = naive.least_cost(y, TWO_PHASE, aif, bounds, 8, weights)
        assert found[i] <= best * (1 + 1e-4)
    np.testing.assert_allclose(maps.cost, sums_of_squares(maps, curves), rtol=1e-5)


def test_only_the_ratios_of_weights_matter() -> None:
    aif = artery("georgiou", TWO_PHASE[-1] + 5)
    rng = np.random.default_rng(11)
    weights = rng.uniform(0.05, 3.0, len(TWO_PHASE))
    curves, _ = study(rng, 100, aif)
    one = kety.fit(curves, TWO_PHASE, aif, weights=weights, dtype="float64")
    for factor in (1e-9, 1e9):
        other = kety.fit(curves, TWO_PHASE, aif, weights=weights * factor, dtype="float64")
        assert_agree(one, other, 1e-3)


def test_equal_weights_are_none() -> None:
    aif = artery("georgiou", TWO_PHASE[-1] + 5)
    curves, _ = study(np.random.default_rng(12), 100, aif)
    none = kety.fit(curves, TWO_PHASE, aif, dtype="float64")
    equal = kety.fit(curves, TWO_PHASE, aif, weights=np.full(len(TWO_PHASE), 0.5), dtype="float64")
    assert_agree(none, equal, 1e-3)


def test_a_weight_of_zero_leaves_a_frame_out() -> None:
    aif = artery("georgiou", TWO_PHASE[-1] + 5)
    curves, _ = study(np.random.default_rng(13), 100, aif)
    weights = np.ones(len(TWO_PHASE))
    weights[[6, 20, 36]] = 0.0
    kept = weights > 0
    broken = curves.copy()
    broken[:, ~kept] = 4000.0
    maps = kety.fit(
        broken, TWO_PHASE, aif, weights=weights, dtype="float64", mask=everywhere(curves)
    )
    without = kety.fit(
        curves[:, kept], TWO_PHASE[kept], aif, dtype="float64", mask=everywhere(curves)
    )
    np.testing.assert_array_equal(maps.status, without.status)
    for name in MODELS["extended_tofts"].names:
        np.testing.assert_allclose(maps[name], without[name], rtol=1e-5, err_msg=name)
        # The errors too: a frame left out is no degree of freedom.
        np.testing.assert_allclose(
            maps[f"{name}_se"], without[f"{name}_se"], rtol=1e-4, err_msg=f"{name}_se"
        )


# --- units and lengths --------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "rounding"), [("float64", 1e-3), ("float32", 0.03)])
@pytest.mark.parametrize("unit", [1e-9, 1e-6, 1e-3, 1e6, 1e9])
def test_the_unit_of_concentration_does_not_matter(
    unit: float, dtype: str, rounding: float
) -> None:
    aif = artery("georgiou", TWO_PHASE[-1] + 5)
    other = InputFunction(aif.times, aif.concentration * unit)
    curves, _ = study(np.random.default_rng(14), 200, aif)
    one = kety.fit(curves, TWO_PHASE, aif, dtype=dtype)
    two = kety.fit(curves * unit, TWO_PHASE, other, dtype=dtype)
    clear = assert_agree(one, two, rounding)
    np.testing.assert_allclose(two.cost[clear], one.cost[clear] * unit**2, rtol=1e-3)


def test_a_weaker_tissue_curve_gives_smaller_amplitudes_alone() -> None:
    aif = artery("georgiou", TWO_PHASE[-1] + 5)
    curves, truth = study(np.random.default_rng(15), 100, aif, noise=0.0)
    maps = kety.fit(curves * 1e-3, TWO_PHASE, aif, dtype="float64", mask=everywhere(curves))
    weak = {**truth, "ktrans": truth["ktrans"] * 1e-3, "vb": truth["vb"] * 1e-3}
    assert np.quantile(worst_relative(maps, weak), 0.98) < 1e-6


def test_a_very_long_series() -> None:
    times = np.arange(1321) * 0.5
    aif = artery("georgiou", times[-1] + 5, onset=60.0)
    curves, truth = study(np.random.default_rng(16), 40, aif, times=times, noise=0.0)
    for dtype, error in (("float64", 1e-6), ("float32", 1e-2)):
        maps = kety.fit(curves, times, aif, dtype=dtype)
        assert (maps.status == Status.CONVERGED).all()
        assert worst_relative(maps, truth).max() < error


@pytest.mark.parametrize("model", list(MODELS))
def test_as_few_frames_as_the_model_can_have(model: str) -> None:
    free = len(MODELS[model].parameters)
    times = np.linspace(6.0, 120.0, free + 1)
    aif = artery("georgiou", 130.0)
    curves, _ = study(np.random.default_rng(17), 200, aif, model=model, times=times, noise=1.0)
    given = options_of(model, aif)
    maps = kety.fit(curves, times, aif, model, mask=everywhere(curves), **given)
    assert np.isin(maps.status, [1, 2, 3, 6]).all()
    assert (maps.cost >= 0).all()
    assert (maps.cost <= (curves**2).sum(axis=1)).all()


def test_a_single_evaluation_ends_at_the_iteration_limit() -> None:
    aif = artery("georgiou", TWO_PHASE[-1] + 5)
    curves, _ = study(np.random.default_rng(18), 200, aif)
    limit = VarProLM(max_evaluations=1)
    once = kety.fit(curves, TWO_PHASE, aif, optimizer=limit, dtype="float64")
    assert (once.status == Status.ITERATION_LIMIT).mean() > 0.8
    assert (once.evaluations <= 6).all()  # one for each minimum that was followed
    full = kety.fit(curves, TWO_PHASE, aif, dtype="float64")
    both = once.cost.notnull() & full.cost.notnull()
    assert (full.cost[both] <= once.cost[both] * (1 + 1e-6)).all()


def test_the_search_never_asks_for_more_delay_cells_than_the_core_holds() -> None:
    rng = np.random.default_rng(41)
    knots = np.r_[0.0, np.arange(0.37, 60.0, 1.7), 61.0, 220.0]
    for _ in range(200):
        sharp = np.r_[1.0, rng.uniform(0.0, 1.0, knots.size - 1) ** 6 * 300.0]
        aif = InputFunction(knots, sharp, interpolation="linear")
        lo, hi = np.sort(rng.uniform(-10.0, 30.0, 2))
        cells, _, band = delay_cells(aif, np.sort(rng.uniform(0.0, 200.0, 60)), lo, hi)
        assert len(cells) <= 64
        assert (np.diff(cells, axis=1) >= 0).all()
        assert (band[:, 0] <= cells[:, 0]).all()
        assert (cells[:, 1] <= band[:, 1] + 1e-9).all()


@pytest.mark.parametrize("baseline", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_very_long_series(baseline: bool, weighted: bool) -> None:
    """The search looks at some of the frames, the exact solution at all of them."""
    times = np.arange(0.0, 200.0, 0.04)
    assert times.size > SEARCHED_FRAMES
    aif = artery("parker", 210.0, onset=2.0)
    curves, truth = study(np.random.default_rng(17), 40, aif, times=times, noise=0.0)
    weights = np.linspace(0.5, 2.0, times.size) if weighted else None
    options = {"baseline": baseline, "weights": weights, "dtype": "float64"}
    clean = kety.fit(curves, times, aif, bounds=PAPER, **options)
    assert np.median(worst_relative(clean, truth)) < 1e-8
    noisy = curves + np.random.default_rng(18).normal(0.0, NOISE, curves.shape)
    noisy[3] = np.random.default_rng(19).normal(0.0, NOISE, times.size)
    noisy[4, 1] = np.nan
    maps = kety.fit(noisy, times, aif, **options)
    assert maps.status[3] == Status.NOT_ENHANCING
    assert maps.status[4] == Status.NOT_FINITE
    good = maps.status.values == Status.CONVERGED
    assert good.sum() > 30
    for name in truth:
        pull = (maps[name].values - truth[name])[good] / maps[name + "_se"].values[good]
        assert np.sqrt(np.mean(pull**2)) < 1.5, name
