"""Curves that are computed where they are read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import kety
from kety.signal import above_baseline, enhancement
from kety.simulate import simulate_abdomen
from kety.voxels import AboveLevel, voxels_of


@pytest.fixture(scope="module")
def phantom() -> Any:
    return simulate_abdomen((24, 20, 3), noise=5.0, seed=1, rounded=True)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64])
def test_they_are_the_enhancement(phantom: Any, dtype: Any, order: Any) -> None:
    data = np.array(phantom.series.data, dtype, order=order)
    if dtype is not np.int16:
        data[2, 3, 1, 0] = np.nan
    kind = np.float64 if dtype is np.float64 else np.float32
    level = data[..., :3].mean(axis=-1, dtype=np.float64).astype(kind)
    expected = data.astype(kind) - level[..., None]
    lazy, whole = above_baseline(data, slice(0, 3)), enhancement(data, slice(0, 3))
    assert lazy.shape == data.shape
    assert len(lazy) == 24
    assert lazy.dtype == whole.dtype == kind
    np.testing.assert_array_equal(whole, expected)
    np.testing.assert_array_equal(np.asarray(lazy), expected)
    assert whole.flags.f_contiguous == (order == "F")
    place = np.nonzero(phantom.body)
    np.testing.assert_array_equal(lazy[place], expected[place])
    np.testing.assert_array_equal(lazy[3:5, :, 1], expected[3:5, :, 1])
    np.testing.assert_array_equal(lazy[..., 2], expected[..., 2])
    np.testing.assert_array_equal(lazy[..., [0, 2], :], expected[..., [0, 2], :])
    rows = voxels_of(lazy, data.shape[-1], phantom.body)
    assert isinstance(rows.curves, AboveLevel)
    assert rows.order == order
    np.testing.assert_array_equal(
        rows.curves[rows.rows], expected.reshape(-1, data.shape[-1], order=order)[rows.rows]
    )


def test_they_cannot_be_a_view(phantom: Any) -> None:
    lazy = above_baseline(phantom.series.data, slice(0, 3))
    assert np.asarray(lazy, dtype=np.float64).dtype == np.float64
    with pytest.raises(ValueError, match="copied"):
        np.asarray(lazy, copy=False)


@pytest.mark.parametrize(
    "options",
    [
        {"fitted": True, "autocorrelation": True},
        {"joint": "graph"},
        {"model": ("tofts", "patlak"), "select": "bic"},
        {"mask": None},
    ],
)
def test_a_fit_of_them_is_that_of_the_array(phantom: Any, options: dict[str, Any]) -> None:
    data = np.asfortranarray(phantom.series.data)
    frames = slice(0, 4)
    settings: dict[str, Any] = {"mask": phantom.body, "baseline": True, **options}
    times, aif = phantom.series.times, phantom.aif
    whole = kety.fit(enhancement(data, frames), times, aif, **settings)
    lazy = kety.fit(above_baseline(data, frames), times, aif, **settings)
    for name in whole.data_vars:
        np.testing.assert_array_equal(lazy[name].values, whole[name].values)
