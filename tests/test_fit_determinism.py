"""A voxel's result depends on its own curve alone: bit for bit, whatever lies beside it."""

from __future__ import annotations

import numpy as np
import pytest
import xarray

import kety
from cases import TWO_PHASE, Floats, artery, assert_same, study
from kety import InputFunction, Status, VarProLM, api
from kety.fitting.engine import instruction_sets

COUNT = 9001  # more than one block of the core for both precisions, and no multiple of the lanes


@pytest.fixture(scope="module", params=["parker", "georgiou"])
def aif(request: pytest.FixtureRequest) -> InputFunction:
    return artery(request.param, TWO_PHASE[-1] + 5)


@pytest.fixture(scope="module")
def curves(aif: InputFunction) -> Floats:
    rng = np.random.default_rng(40)
    noisy, _ = study(rng, COUNT, aif)
    noisy[rng.choice(COUNT, 300)] = rng.normal(0.0, 6.0, 37)
    noisy[rng.choice(COUNT, 100)] = 0.0
    noisy[rng.choice(COUNT, 100), 5] = np.nan
    noisy[rng.choice(COUNT, 300)] *= 1e3
    clean, _ = study(rng, 300, aif, noise=0.0)
    noisy[rng.choice(COUNT, 300)] = clean
    return noisy


@pytest.fixture(scope="module", params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def whole(curves: Floats, aif: InputFunction, dtype: str) -> xarray.Dataset:
    return kety.fit(curves, TWO_PHASE, aif, dtype=dtype, threads=1)


def test_the_voxels_are_of_every_kind(whole: xarray.Dataset) -> None:
    kinds = (
        Status.CONVERGED,
        Status.NOT_IDENTIFIABLE,
        Status.NOT_ENHANCING,
        Status.NOT_FINITE,
    )
    assert set(kinds) <= set(whole.status.values.tolist())


@pytest.mark.parametrize("threads", [2, 3, 64])
def test_threads(
    curves: Floats, aif: InputFunction, dtype: str, whole: xarray.Dataset, threads: int
) -> None:
    assert_same(kety.fit(curves, TWO_PHASE, aif, dtype=dtype, threads=threads), whole)


def test_order_of_voxels(
    curves: Floats, aif: InputFunction, dtype: str, whole: xarray.Dataset
) -> None:
    order = np.random.default_rng(41).permutation(COUNT)
    maps = kety.fit(curves[order], TWO_PHASE, aif, dtype=dtype)
    assert_same(maps, whole.isel(voxel=order))


@pytest.mark.parametrize(
    "count", [1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 33, 255, 257, 4095, 4096, 4097, 8191, 8193]
)
def test_number_of_voxels(
    curves: Floats, aif: InputFunction, dtype: str, whole: xarray.Dataset, count: int
) -> None:
    part = slice(COUNT - count, COUNT)
    maps = kety.fit(curves[part], TWO_PHASE, aif, dtype=dtype)
    assert_same(maps, whole.isel(voxel=part))


def test_a_voxel_alone(
    curves: Floats, aif: InputFunction, dtype: str, whole: xarray.Dataset
) -> None:
    for i in range(0, COUNT, COUNT // 12):
        maps = kety.fit(curves[i : i + 1], TWO_PHASE, aif, dtype=dtype)
        assert_same(maps, whole.isel(voxel=[i]))


def test_copies_of_a_voxel(
    curves: Floats, aif: InputFunction, dtype: str, whole: xarray.Dataset
) -> None:
    maps = kety.fit(np.repeat(curves[100:103], 50, axis=0), TWO_PHASE, aif, dtype=dtype)
    assert_same(maps, whole.isel(voxel=np.repeat([100, 101, 102], 50)))


@pytest.mark.parametrize("size", [16, 1000, 4097])
def test_size_of_the_blocks(
    curves: Floats,
    aif: InputFunction,
    dtype: str,
    whole: xarray.Dataset,
    size: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(api, "BLOCK", size)
    some = slice(0, 200 if size == 16 else COUNT)
    assert_same(kety.fit(curves[some], TWO_PHASE, aif, dtype=dtype), whole.isel(voxel=some))


@pytest.mark.parametrize("options", [{"weights": np.linspace(0.2, 2.0, 37)}, {"baseline": True}])
def test_options_change_nothing_of_that(
    curves: Floats, aif: InputFunction, dtype: str, options: dict[str, object]
) -> None:
    some = curves[:300]
    together = kety.fit(some, TWO_PHASE, aif, dtype=dtype, **options)  # type: ignore[arg-type]
    order = np.random.default_rng(42).permutation(300)
    for part in (order, order[:1], order[:37]):
        apart = kety.fit(some[part], TWO_PHASE, aif, dtype=dtype, **options)  # type: ignore[arg-type]
        assert_same(apart, together.isel(voxel=part))


def test_the_same_twice(
    curves: Floats, aif: InputFunction, dtype: str, whole: xarray.Dataset
) -> None:
    assert_same(kety.fit(curves, TWO_PHASE, aif, dtype=dtype, threads=1), whole)


def test_instruction_sets_that_fuse_give_the_same_digits(
    curves: Floats, aif: InputFunction, dtype: str, whole: xarray.Dataset
) -> None:
    others = [name for name in instruction_sets()[1:] if name != "plain"]
    if not others:
        pytest.skip("this processor has no other instruction set that fuses")
    for name in others:
        maps = kety.fit(
            curves, TWO_PHASE, aif, dtype=dtype, optimizer=VarProLM(instruction_set=name)
        )
        assert_same(maps, whole)


def test_instruction_sets_agree_to_rounding(curves: Floats, aif: InputFunction, dtype: str) -> None:
    some = curves[:3000]
    first, *others = (
        kety.fit(some, TWO_PHASE, aif, dtype=dtype, optimizer=VarProLM(instruction_set=name))
        for name in instruction_sets()
    )
    for other in others:
        assert np.mean(other.status.values == first.status.values) > 0.98
        noisy = first.r2.values < 0.9999  # elsewhere cost and errors are rounding themselves
        settled = np.isin(first.status, [Status.CONVERGED, Status.NOT_IDENTIFIABLE])
        clear = settled & (other.status.values == first.status.values) & noisy
        for name in ("ktrans", "kep", "vb", "delay"):
            clear &= np.isfinite(first[f"{name}_se"].values)
        assert clear.sum() > 2000
        cost = np.abs(other.cost.values / first.cost.values - 1)[clear]
        assert np.quantile(cost, 0.999) < 1e-4
        for name in ("ktrans", "kep", "vb", "delay"):
            error = first[f"{name}_se"].values
            difference = np.abs(other[name].values - first[name].values) / error
            assert np.quantile(difference[clear], 0.99) < 0.05, name
