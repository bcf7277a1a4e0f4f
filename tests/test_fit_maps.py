"""`kety.fit`: what the maps hold, for every status, shape, number type and memory layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray

import kety
from cases import NOISE, PEAK, TWO_PHASE, Floats, artery, assert_same, options_of, study
from kety import MODELS, InputFunction, Status, VarProLM, api, simulate_curves
from kety.fitting.identifiability import DENOMINATOR, NEEDED
from kety.fitting.status import FITTED, SENTENCES

NAMES = ("ktrans", "kep", "vb", "delay", "ve", "vp")
MAPS = {*NAMES, *(f"{n}_se" for n in NAMES), "cost", "r2", "evaluations", "status"}


@pytest.fixture(scope="module")
def aif() -> InputFunction:
    return artery("georgiou", TWO_PHASE[-1] + 5)


@pytest.fixture(scope="module")
def curves(aif: InputFunction) -> Floats:
    return study(np.random.default_rng(30), 60, aif)[0]


def assert_failed(maps: xarray.Dataset, status: Status) -> None:
    """No number that could be taken for a result."""
    assert (maps.status == status).all()
    for name in MAPS - {"status", "evaluations"}:
        assert maps[name].isnull().all(), name
    assert (maps.evaluations == 0).all()


# --- status -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("frames", [[0], [17], [36], list(range(37))])
def test_curves_that_are_not_finite(
    aif: InputFunction, curves: Floats, bad: float, frames: list[int], dtype: str
) -> None:
    broken = curves.copy()
    broken[7:9, frames] = bad
    for mask in (None, np.ones(60, bool)):
        maps = kety.fit(broken, TWO_PHASE, aif, dtype=dtype, mask=mask, fitted=True)
        assert_failed(maps.isel(voxel=[7, 8]), Status.NOT_FINITE)
        assert maps.fitted[7:9].isnull().all()
        others = np.delete(np.arange(60), [7, 8])
        whole = kety.fit(curves, TWO_PHASE, aif, dtype=dtype, mask=mask, fitted=True)
        assert_same(maps.isel(voxel=others), whole.isel(voxel=others))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("level", [0.0, -0.0, 41.3, -1024.0, 1e-30, 1e12])
def test_curves_that_are_constant(aif: InputFunction, level: float, dtype: str) -> None:
    flat = np.full((20, 37), level)
    for mask in (None, np.ones(20, bool)):
        maps = kety.fit(flat, TWO_PHASE, aif, dtype=dtype, mask=mask)
        assert_failed(maps, Status.NOT_ENHANCING)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("model", list(MODELS))
def test_pure_noise_is_not_fitted(aif: InputFunction, model: str, dtype: str) -> None:
    noise = np.random.default_rng(31).normal(0.0, NOISE, (20_000, 37))
    maps = kety.fit(noise, TWO_PHASE, aif, model, dtype=dtype, **options_of(model, aif))
    assert (maps.status == Status.NOT_ENHANCING).mean() >= 0.99


@pytest.mark.parametrize("model", list(MODELS))
def test_clear_enhancement_is_fitted(aif: InputFunction, model: str) -> None:
    slow = dict.fromkeys(("dual_input_extended_tofts", "dual_input_one_compartment"), 1500)
    slow |= {"aath": 4000, "dual_input_two_compartment": 400}
    count = slow.get(model, 20_000)
    noisy, truth = study(np.random.default_rng(32), count, aif, model=model)
    given = options_of(model, aif)
    peak = simulate_curves(truth, TWO_PHASE, aif, model, **given).max(axis=1)
    maps = kety.fit(noisy, TWO_PHASE, aif, model, **given)
    missed = maps.status == Status.NOT_ENHANCING
    assert missed[peak > 4 * NOISE].mean() < 1e-3
    assert missed[peak > 6 * NOISE].sum() == 0
    assert maps[MODELS[model].names[0]].isnull()[missed].all()


def test_voxels_outside_the_mask(aif: InputFunction, curves: Floats) -> None:
    mask = np.zeros(60, bool)
    mask[[3, 4, 50]] = True
    maps = kety.fit(curves, TWO_PHASE, aif, mask=mask, fitted=True)
    assert_failed(maps.isel(voxel=~mask), Status.OUTSIDE)
    assert maps.fitted[~mask].isnull().all()
    whole = kety.fit(curves, TWO_PHASE, aif, mask=np.ones(60, bool), fitted=True)
    assert_same(maps.isel(voxel=mask), whole.isel(voxel=mask))
    none = kety.fit(curves, TWO_PHASE, aif, mask=np.zeros(60, bool))
    assert_failed(none, Status.OUTSIDE)


def test_a_mask_asks_for_every_voxel_in_it(aif: InputFunction) -> None:
    noise = np.random.default_rng(33).normal(0.0, NOISE, (50, 37))
    maps = kety.fit(noise, TWO_PHASE, aif, mask=np.ones(50, bool))
    assert np.isin(maps.status, [*FITTED]).all()
    assert maps.cost.notnull().all()


def test_parameters_at_their_bounds(aif: InputFunction) -> None:
    truth = {"ktrans": 0.3, "kep": 1.0, "vb": 0.08, "delay": np.linspace(6.0, 9.0, 30)}
    late = simulate_curves(truth, TWO_PHASE, aif)
    maps = kety.fit(late, TWO_PHASE, aif, bounds={"delay": (-1.0, 3.0)})
    assert (maps.status == Status.AT_BOUND).all()
    assert (maps.delay == 3.0).all()
    assert maps.delay_se.isnull().all()
    assert maps.ktrans.notnull().all()
    assert maps.ktrans_se.notnull().any()


@pytest.mark.parametrize("model", ["patlak", "extended_tofts"])
def test_uptake_alone_does_not_tell_the_delay(aif: InputFunction, model: str) -> None:
    rng = np.random.default_rng(37)
    truth = {"ktrans": 0.02, "vb": 0.0, "delay": rng.uniform(1.0, 7.0, 2000)}
    truth |= {"kep": 0.2} if model == "extended_tofts" else {}
    uptake = simulate_curves(truth, TWO_PHASE, aif, model)
    noise = 0.0025 * PEAK  # a twentieth of a curve with 5 % of blood
    noisy = uptake + rng.normal(0.0, noise, uptake.shape)
    everywhere = np.ones(2000, bool)
    maps = kety.fit(noisy, TWO_PHASE, aif, model, mask=everywhere)
    assert (maps.status == Status.NOT_IDENTIFIABLE).mean() > 0.95
    # Where the vascular term is known, or there is none, it does not matter.
    for fixed in (0.0, 0.02):
        blood = truth | {"ktrans": 0.0, "vb": fixed}
        with_blood = noisy + simulate_curves(blood, TWO_PHASE, aif, model)
        options = {"bounds": {"vb": (fixed, fixed)}, "mask": everywhere}
        known = kety.fit(with_blood, TWO_PHASE, aif, "patlak", **options)
        assert (known.status == Status.NOT_IDENTIFIABLE).mean() < 0.02


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_purely_vascular_voxel_has_no_washout(aif: InputFunction, dtype: str) -> None:
    rng = np.random.default_rng(34)
    truth = {"ktrans": 0.0, "kep": 1.0, "vb": rng.uniform(0.02, 0.9, 40)}
    truth["delay"] = rng.uniform(0.0, 8.0, 40)
    vessel = simulate_curves(truth, TWO_PHASE, aif)
    maps = kety.fit(vessel, TWO_PHASE, aif, dtype=dtype, fitted=True)
    without = maps.isel(voxel=maps.ktrans.values == 0)
    assert without.sizes["voxel"] >= 20
    assert (without.status == Status.NOT_IDENTIFIABLE).all()
    for name in ("kep", "kep_se", "ve", "ve_se"):
        assert without[name].isnull().all(), name
    np.testing.assert_allclose(maps.vb, truth["vb"], rtol=1e-3)
    np.testing.assert_allclose(maps.delay, truth["delay"], atol=1e-2)
    np.testing.assert_allclose(maps.fitted, vessel, atol=1e-3 * vessel.max())


def test_a_curve_below_zero_has_no_model(aif: InputFunction, curves: Floats) -> None:
    maps = kety.fit(-np.abs(curves), TWO_PHASE, aif, mask=np.ones(60, bool))
    assert (maps.status == Status.NOT_IDENTIFIABLE).all()
    assert (maps.ktrans == 0).all()
    assert (maps.vb == 0).all()
    assert maps.kep.isnull().all()
    assert maps.delay.isnull().all()
    np.testing.assert_allclose(maps.cost, (curves**2).sum(axis=1), rtol=1e-5)


@pytest.mark.parametrize("name", ["georgiou", "parker", "weinmann"])
@pytest.mark.parametrize("noise", [0.0, NOISE, 10 * NOISE])
def test_statuses_and_maps_tell_the_same_story(name: str, noise: float) -> None:
    aif = artery(name, TWO_PHASE[-1] + 5)
    noisy, _ = study(np.random.default_rng(35), 1000, aif, noise=noise)
    noisy[:30] = 0
    noisy[30:60, 4] = np.nan
    maps = kety.fit(noisy, TWO_PHASE, aif, fitted=True)
    status = maps.status.values
    fitted = np.isin(status, [*FITTED])
    assert (maps.cost.notnull() == fitted).all()
    assert (maps.r2.notnull() == fitted).all()
    assert (maps.evaluations.values > 0)[fitted].all()
    sure = np.isin(status, [Status.CONVERGED, Status.AT_BOUND])
    known = [maps[n].notnull().values for n in MODELS["extended_tofts"].names]
    errors = [maps[f"{n}_se"].notnull().values for n in MODELS["extended_tofts"].names]
    assert np.all(known, axis=0)[sure].all()
    assert np.all(errors, axis=0)[status == Status.CONVERGED].all()
    assert not np.all(errors, axis=0)[status == Status.AT_BOUND].any()
    vague = (maps.ktrans <= NEEDED * maps.ktrans_se) | (maps.kep <= DENOMINATOR * maps.kep_se)
    # Without blood nothing tells the delay.
    vague |= (maps.vb <= NEEDED * maps.vb_se) | (maps.vb == 0)
    doubtful = ~np.all(known, axis=0) | vague.values | (maps.ktrans == 0).values
    doubtful |= (maps.kep == 0).values
    assert doubtful[status == Status.NOT_IDENTIFIABLE].all()
    assert not vague.values[status == Status.CONVERGED].any()
    assert not np.any(known, axis=0)[~fitted].any()
    for n in NAMES:
        # An error without a value would be a riddle; an error of 0 a lie.
        error = maps[f"{n}_se"].values
        assert maps[n].notnull().values[~np.isnan(error)].all(), n
        assert (error[~np.isnan(error)] > 0).all() or noise == 0, n


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["georgiou", "parker", "weinmann"])
def test_fitted_curves_leave_the_residuals_that_the_cost_counts(name: str, dtype: str) -> None:
    aif = artery(name, TWO_PHASE[-1] + 5)
    noisy, _ = study(np.random.default_rng(36), 500, aif)
    maps = kety.fit(noisy, TWO_PHASE, aif, dtype=dtype, fitted=True, mask=np.ones(500, bool))
    np.testing.assert_allclose(maps.fitted + maps.residual, noisy, rtol=1e-4, atol=1e-3)
    squares = (maps.residual.values.astype(float) ** 2).sum(axis=1)
    spread = ((noisy - noisy.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    # Also where the parameters are not identifiable: the curve is known even so.
    np.testing.assert_allclose(maps.cost, squares, rtol=1e-3)
    np.testing.assert_allclose(maps.r2, 1 - squares / spread, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("noise", [0.0, NOISE])
def test_a_constant_is_fitted_along(aif: InputFunction, noise: float, dtype: str) -> None:
    rng = np.random.default_rng(38)
    noisy, truth = study(rng, 300, aif, noise=noise)
    level = rng.uniform(-40.0, 40.0, 300)
    shifted = noisy + level[:, None]
    options = {"dtype": dtype, "mask": np.ones(300, bool), "fitted": True}
    maps = kety.fit(shifted, TWO_PHASE, aif, baseline=True, **options)
    assert set(maps) == MAPS | {"baseline", "baseline_se", "fitted", "residual"}
    assert (maps.cost >= 0).all()
    squares = (maps.residual.values.astype(float) ** 2).sum(axis=1)
    np.testing.assert_allclose(maps.cost, squares, rtol=1e-3, atol=1e-2)
    for name in ("baseline", "baseline_se"):
        assert maps[name].dtype == dtype
        assert maps[name].attrs["units"]
    if noise:
        within = np.abs(maps.baseline - level) <= maps.baseline_se
        assert 0.5 < within.mean() < 0.85
        plain = kety.fit(noisy, TWO_PHASE, aif, **options)
        assert (maps.cost <= plain.cost * (1 + 1e-3)).mean() > 0.98
    else:
        # float32 knows a level to about 1e-4 of the enhancement.
        np.testing.assert_allclose(maps.baseline, level, atol=3e-2)
        error = np.abs(maps.ktrans / truth["ktrans"] - 1)
        assert np.quantile(error, 0.98) < (1e-6 if dtype == "float64" else 1e-2)


def test_every_status_has_a_meaning_and_a_sentence() -> None:
    assert set(SENTENCES) == set(Status)
    assert all(s.endswith(".") for s in SENTENCES.values())
    assert [s.value for s in Status] == list(range(7))


# --- shapes, layouts, number types --------------------------------------------------------------


def test_the_leading_axes_give_the_dimensions(aif: InputFunction, curves: Floats) -> None:
    flat = kety.fit(curves, TWO_PHASE, aif, fitted=True)
    assert flat.ktrans.dims == ("voxel",)
    assert set(flat) == MAPS | {"fitted", "residual"}
    for shape, dims in (((3, 4, 5), ("x", "y", "z")), ((6, 10), ("x", "y"))):
        maps = kety.fit(curves.reshape(*shape, 37), TWO_PHASE, aif, fitted=True)
        for name in maps:
            values = flat[name].values
            full = values.reshape(*shape, *values.shape[1:])
            np.testing.assert_array_equal(maps[name].values, full, err_msg=str(name))
        assert maps.ktrans.dims == dims
        assert maps.fitted.dims == (*dims, "time")
        np.testing.assert_array_equal(maps.time, TWO_PHASE)
        assert maps.time.attrs["units"] == "s"
    one = kety.fit(curves[5], TWO_PHASE, aif, fitted=True)
    assert one.ktrans.shape == ()
    assert one.fitted.shape == (37,)
    for name in one:
        np.testing.assert_array_equal(one[name].values, flat[name].values[5])
    none = kety.fit(curves[:0], TWO_PHASE, aif)
    assert none.ktrans.shape == (0,)
    five = kety.fit(curves[:16].reshape(2, 2, 2, 2, 37), TWO_PHASE, aif)
    np.testing.assert_array_equal(five.ktrans.values.ravel(), flat.ktrans[:16])


def test_a_mask_has_the_shape_of_the_leading_axes(aif: InputFunction, curves: Floats) -> None:
    mask = np.random.default_rng(37).random((3, 4, 5)) < 0.5
    whole = kety.fit(curves, TWO_PHASE, aif, mask=np.ones(60))
    for order in ("C", "F"):
        volume = np.asarray(curves.reshape(3, 4, 5, 37), order=order)
        for kind in (bool, np.uint8, float):
            maps = kety.fit(volume, TWO_PHASE, aif, mask=np.asarray(mask, kind))
            expected = np.where(mask, whole.ktrans.values.reshape(3, 4, 5), np.float32(np.nan))
            np.testing.assert_array_equal(maps.ktrans, expected)
            np.testing.assert_array_equal(maps.status == Status.OUTSIDE, ~mask)


def layouts(curves: Floats) -> dict[str, np.ndarray]:
    """The same voxels in memory of every kind."""
    wide = np.zeros((120, 74), curves.dtype)
    wide[::2, ::2] = curves
    read_only = curves.copy()
    read_only.flags.writeable = False
    return {
        "fortran": np.asfortranarray(curves),
        "time first": np.ascontiguousarray(curves.T).T,
        "every other": wide[::2, ::2],
        "reversed": np.ascontiguousarray(curves[::-1, ::-1])[::-1, ::-1],
        "read only": read_only,
        "unaligned": np.frombuffer(b"x" + curves.tobytes(), curves.dtype, offset=1).reshape(
            curves.shape
        ),
    }


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_memory_layout_does_not_matter(aif: InputFunction, curves: Floats, dtype: str) -> None:
    plain = curves.astype(dtype)
    expected = kety.fit(plain, TWO_PHASE, aif, dtype=dtype, fitted=True)
    for name, array in layouts(plain).items():
        np.testing.assert_array_equal(array, plain, err_msg=name)
        assert_same(kety.fit(array, TWO_PHASE, aif, dtype=dtype, fitted=True), expected)
    volume = np.asfortranarray(plain.reshape(3, 4, 5, 37))
    maps = kety.fit(volume, TWO_PHASE, aif, dtype=dtype, fitted=True)
    for key in maps:
        values = expected[key].values
        full = values.reshape(3, 4, 5, *values.shape[1:])
        np.testing.assert_array_equal(maps[key].values, full)
    same = np.broadcast_to(plain[3], (9, 37))
    assert_same(
        kety.fit(same, TWO_PHASE, aif, dtype=dtype, fitted=True),
        expected.isel(voxel=[3] * 9),
    )


@pytest.mark.parametrize(
    "kind",
    [
        "int8",
        "int16",
        ">i2",
        "uint16",
        "int32",
        "int64",
        "uint64",
        "float16",
        ">f4",
        ">f8",
        "longdouble",
    ],
)
def test_number_types(aif: InputFunction, curves: Floats, kind: str) -> None:
    whole = np.clip(np.rint(curves), 0, 127).astype(np.float32)
    maps = kety.fit(whole.astype(kind), TWO_PHASE, aif)
    assert_same(maps, kety.fit(whole, TWO_PHASE, aif))
    assert maps.ktrans.dtype == np.float32
    assert kety.fit(whole.astype(kind), TWO_PHASE, aif, dtype="float64").ktrans.dtype == np.float64


def test_lists_are_arrays(aif: InputFunction, curves: Floats) -> None:
    maps = kety.fit(curves[:2].tolist(), TWO_PHASE.tolist(), aif)
    assert_same(maps, kety.fit(curves[:2], TWO_PHASE, aif))


def test_arguments_are_not_changed(aif: InputFunction, curves: Floats) -> None:
    given, times = curves.copy(), TWO_PHASE.copy()
    given[3] = np.nan
    kept = given.copy()
    kety.fit(given, times, aif, dtype="float64", weights=np.ones(37), fitted=True)
    np.testing.assert_array_equal(given, kept)
    np.testing.assert_array_equal(times, TWO_PHASE)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_types_of_the_maps(aif: InputFunction, curves: Floats, dtype: str) -> None:
    maps = kety.fit(curves, TWO_PHASE, aif, dtype=dtype, fitted=True)
    for name in maps:
        kind = {"status": "uint8", "evaluations": "uint16"}.get(str(name), dtype)
        assert maps[name].dtype == kind, name


# --- attributes, progress, interruption ---------------------------------------------------------


def test_every_map_says_what_it_is(aif: InputFunction, curves: Floats, tmp_path: Path) -> None:
    for model, record in MODELS.items():
        maps = kety.fit(curves, TWO_PHASE, aif, model, fitted=True, **options_of(model, aif))
        for name in maps:
            assert {"units", "long_name", "osipi"} <= set(maps[name].attrs), name
            assert maps[name].attrs["units"], name
            assert maps[name].attrs["long_name"], name
        for p in (*record.parameters, *record.derived):
            assert maps[p.name].attrs["units"] == p.unit
            assert maps[p.name].attrs["osipi"] == p.osipi
            assert maps[f"{p.name}_se"].attrs["units"] == p.unit
        status = maps.status.attrs
        assert status["flag_values"].dtype == np.uint8
        assert list(status["flag_values"]) == [s.value for s in Status]
        assert status["flag_meanings"].split() == [s.name.lower() for s in Status]
        assert maps.attrs["model"] == model
        assert maps.attrs["software"] == f"kety {kety.__version__}"
        assert maps.attrs["interrupted"] == 0
        for value in maps.attrs.values():
            assert isinstance(value, str | int | float)


def test_progress_is_told_after_every_block(
    aif: InputFunction, curves: Floats, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = kety.fit(curves, TWO_PHASE, aif, fitted=True)
    monkeypatch.setattr(api, "BLOCK", 25)
    told: list[tuple[int, int]] = []
    maps = kety.fit(curves, TWO_PHASE, aif, fitted=True, progress=lambda *args: told.append(args))
    assert told == [(25, 60), (50, 60), (60, 60)]
    assert_same(maps, expected)


def test_an_interruption_keeps_what_is_finished(
    aif: InputFunction, curves: Floats, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = np.ones(60, bool)
    mask[3] = False
    expected = kety.fit(curves, TWO_PHASE, aif, mask=mask)
    monkeypatch.setattr(api, "BLOCK", 20)

    def stop(done: int, total: int) -> None:
        assert total == 59
        if done >= 40:
            raise KeyboardInterrupt

    maps = kety.fit(curves, TWO_PHASE, aif, mask=mask, progress=stop)
    assert maps.attrs["interrupted"] == 1
    assert maps.attrs["voxels_done"] == 40
    assert_same(maps.isel(voxel=slice(41)), expected.isel(voxel=slice(41)))
    assert_failed(maps.isel(voxel=slice(41, None)), Status.OUTSIDE)


def test_another_error_of_the_progress_callable_is_passed_on(
    aif: InputFunction, curves: Floats
) -> None:
    def fail(done: int, total: int) -> None:
        raise OSError("the terminal went away")

    with pytest.raises(OSError, match="terminal"):
        kety.fit(curves, TWO_PHASE, aif, progress=fail)


def test_the_progress_bar_writes_to_stderr_alone(
    aif: InputFunction, curves: Floats, capsys: pytest.CaptureFixture[str]
) -> None:
    kety.fit(curves, TWO_PHASE, aif, progress=True)
    told = capsys.readouterr()
    assert told.out == ""
    assert "voxels" in told.err


def test_options_of_the_optimizer_are_kept(aif: InputFunction, curves: Floats) -> None:
    maps = kety.fit(curves, TWO_PHASE, aif, optimizer=VarProLM(max_evaluations=9))
    assert "max_evaluations=9" in maps.attrs["optimizer"]
    assert (maps.evaluations <= 9 * 6).all()
