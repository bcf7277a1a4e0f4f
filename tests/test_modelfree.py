"""Semi-quantitative maps: against a slow twin and by hand, their errors, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import kety
from kety.errors import KetyError
from kety.fitting.status import Status
from kety.modelfree.curves import enhances, noise_of
from kety.modelfree.weights import area_weights, lines

Floats = NDArray[np.float64]
TIMES = np.concatenate([np.arange(0.0, 60.0, 2.5), np.arange(60.0, 241.0, 10.0)])
ARRIVAL = 15.0


def bolus(times: Floats, arrival: float = ARRIVAL, height: float = 80.0) -> Floats:
    """A gamma variate over a plateau, 0 before the arrival."""
    x = np.maximum(times - arrival, 0.0)
    first_pass = (x / 8.0) ** 2 * np.exp(2.0 - x / 4.0)
    return height * (first_pass + 0.3 * (1.0 - np.exp(-x / 6.0)))


def noisy(count: int, sd: float, seed: int = 0, frames: int = 6) -> Floats:
    """Curves of one bolus whose mean of the first frames was subtracted."""
    curves = bolus(TIMES) + np.random.default_rng(seed).normal(0, sd, (count, TIMES.size))
    return np.asarray(curves - curves[:, :frames].mean(axis=1, keepdims=True))


def twin(curve: Floats, times: Floats, arrival: float, window: float, late: float) -> Any:
    """The maps of one curve, in loops."""
    found: dict[str, float] = {}
    after = [i for i, t in enumerate(times) if t >= arrival]
    at = max(after, key=lambda i: (curve[i], -i))
    found["peak"], found["ttp"] = curve[at], times[at] - arrival
    best = -np.inf
    for i in range(times.size - 1):
        frames = [j for j in range(i, times.size) if times[j] <= times[i] + window + 1e-6]
        if len(frames) < 2:
            frames = [i, i + 1]
        cut_off = times[-1] < times[i] + window - 1e-6 and i > 0
        if cut_off or times[frames[-1]] <= arrival or i >= at:
            continue
        slope, offset = np.polyfit(times[frames], curve[frames], 1)
        if slope > best:
            best = slope
            found["max_slope"] = slope
            found["bat"] = -offset / slope - times[0] if slope > 0 else np.nan
    for length in (60.0, 90.0):
        if arrival + length <= times[-1]:
            ends = [arrival, arrival + length]
            x = np.unique([*ends, *(t for t in times if ends[0] < t < ends[1])])
            found[f"iauc{length:g}"] = float(np.trapezoid(np.interp(x, times, curve), x))
    frames = [i for i, t in enumerate(times) if t >= late]
    if len(frames) >= 3:
        slope, offset = np.polyfit(times[frames], curve[frames], 1)
        found["washout_slope"] = 60 * slope
        if found["peak"] > 0:
            last = slope * times[-1] + offset
            found["washout_ratio"] = 100 * (found["peak"] - last) / found["peak"]
    return found


@pytest.mark.filterwarnings("ignore:too few frames")
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(5, 30), st.floats(1.0, 15.0))
def test_agrees_with_the_twin(seed: int, frames: int, window: float) -> None:
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.uniform(0.5, 8.0, frames))
    arrival = float(rng.uniform(times[0], times[-2]))
    late = float(rng.uniform(arrival, times[-1]))
    curves = rng.normal(0, 10, (3, frames)) + bolus(times, arrival)
    options: dict[str, Any] = {"arrival": arrival, "late": late, "window": window}
    with pytest.warns(UserWarning, match="no iauc10000"):
        maps = kety.semiquantitative(
            curves, times, mask=np.ones(3), areas=(60, 90, 1e4), dtype="float64", **options
        )
    for voxel, curve in enumerate(curves):
        expected = twin(curve, times, arrival, window, late)
        if maps.status[voxel] == Status.NOT_ENHANCING:
            for name in ("peak", "ttp", "max_slope", "bat", "washout_ratio"):
                expected[name] = np.nan
        for name in ("peak", "ttp", "max_slope", "bat", "iauc60", "iauc90", "washout_slope"):
            found = float(maps[name][voxel])
            np.testing.assert_allclose(
                found, expected.get(name, np.nan), rtol=1e-8, atol=1e-8, err_msg=name
            )
        ratio = float(maps.washout_ratio[voxel])
        np.testing.assert_allclose(ratio, expected.get("washout_ratio", np.nan), rtol=1e-8)
        assert np.isnan(maps.iauc10000[voxel])


def test_by_hand() -> None:
    times = np.arange(0.0, 11.0)
    curve = np.array([0, 0, 0, 2, 4, 6, 5, 4, 3, 2, 1.0])
    maps = kety.semiquantitative(
        curve, times, arrival=2.0, areas=(2.5, 8), window=3.0, late=6.0, mask=np.True_
    )
    assert float(maps.peak) == 6.0
    assert float(maps.ttp) == 3.0
    assert float(maps.max_slope) == pytest.approx(2.0)
    assert float(maps.bat) == pytest.approx(2.0)
    assert float(maps["iauc2p5"]) == pytest.approx(2.5 * 5.0 / 2)  # a triangle of slope 2
    assert float(maps.iauc8) == pytest.approx(9 + 17.5)
    assert float(maps.washout_slope) == pytest.approx(-60.0)
    assert float(maps.washout_ratio) == pytest.approx(100 * 5 / 6)


@given(st.integers(0, 2**32 - 1))
def test_areas_add_up(seed: int) -> None:
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.uniform(0.1, 5.0, 12))
    a, b, c = np.sort(rng.uniform(times[0], times[-1], 3))
    parts = area_weights(times, a, b) + area_weights(times, b, c)
    np.testing.assert_allclose(parts, area_weights(times, a, c), atol=1e-12)
    assert area_weights(times, a, c).sum() == pytest.approx(c - a)


def test_lines_are_exact_on_a_line() -> None:
    slopes, means, starts = lines(TIMES, 6.0)
    curve = 3.0 - 0.7 * TIMES
    np.testing.assert_allclose(slopes @ curve, -0.7)
    np.testing.assert_allclose(means @ curve, 3.0 - 0.7 * (means @ TIMES))
    assert ((means > 0).sum(axis=1) >= 2).all()
    assert starts[0] == 0


def test_scale_and_delay() -> None:
    curve = bolus(TIMES)
    aif = kety.InputFunction(TIMES, 4 * bolus(TIMES, 12.0))
    one = kety.semiquantitative(curve, TIMES, arrival=ARRIVAL, aif=aif, mask=np.True_)
    two = kety.semiquantitative(3 * curve, TIMES, arrival=ARRIVAL, aif=aif, mask=np.True_)
    for name in ("peak", "max_slope", "iauc60", "iauc180", "washout_slope", "perfusion"):
        assert float(two[name]) == pytest.approx(3 * float(one[name]), rel=1e-6), name
    for name in ("ttp", "bat", "washout_ratio"):
        assert float(two[name]) == pytest.approx(float(one[name]), rel=1e-5), name


def test_maximum_slope_gives_the_flow_of_a_gate() -> None:
    """Before anything leaves, dC/dt = F Ca exactly."""
    times = np.arange(0.0, 40.0, 0.1)
    blood = 100.0 * np.exp(-(((times - 10.0) / 3.0) ** 2))
    flow = 50.0
    tissue = flow / 6000 * np.cumsum(blood) * 0.1
    aif = kety.InputFunction(times, blood, hematocrit=0.4)
    options: dict[str, Any] = {"window": 0.3, "areas": (30,), "mask": np.True_}
    maps = kety.semiquantitative(tissue, times, arrival=1.0, aif=aif, **options)
    assert float(maps.perfusion) == pytest.approx(flow, rel=2e-3)
    plasma = kety.semiquantitative(tissue, times, arrival=1.0, aif=aif.plasma(), **options)
    assert float(plasma.perfusion) == pytest.approx(float(maps.perfusion))


def test_standard_errors_are_those_of_the_noise() -> None:
    curves = noisy(4000, 4.0)
    maps = kety.semiquantitative(
        curves, TIMES, arrival=ARRIVAL, baseline=slice(0, 6), mask=np.ones(4000), late=100.0
    )
    for name in ("iauc60", "iauc180", "washout_slope", "washout_ratio", "bat", "max_slope"):
        spread = float(maps[name].std())
        assert float(maps[name + "_se"].mean()) == pytest.approx(spread, rel=0.12), name
    unaware = kety.semiquantitative(curves, TIMES, arrival=ARRIVAL, mask=np.ones(4000))
    assert float(unaware.iauc180_se.mean()) < 0.8 * float(maps.iauc180.std())


@pytest.mark.parametrize("times", [TIMES, np.arange(0.0, 60.0, 1.5)])
def test_noise_is_found_under_a_bolus(times: Floats) -> None:
    rng = np.random.default_rng(1)
    found = noise_of(bolus(times) + rng.normal(0, 6.0, (2000, times.size)), times)
    assert found.mean() == pytest.approx(6.0, rel=0.06)
    assert np.isnan(noise_of(np.ones((2, 6)), np.arange(6.0))).all()


def test_noise_ignores_a_cubic() -> None:
    cubic = 1.0 - 0.3 * TIMES + 2e-3 * TIMES**2 - 5e-6 * TIMES**3
    assert noise_of(cubic[None], TIMES)[0] < 1e-9


def test_noise_alone_does_not_enhance() -> None:
    rng = np.random.default_rng(2)
    for frames in (37, 75):
        curves = rng.normal(0, 3.0, (4000, frames))
        share = enhances(curves, noise_of(curves, np.arange(float(frames))), 0).mean()
        assert share < 0.02
    curves = np.vstack([noisy(200, 5.0), rng.normal(0, 5.0, (200, TIMES.size))])
    maps = kety.semiquantitative(curves, TIMES, arrival=ARRIVAL)
    assert (maps.status[:200] == Status.CONVERGED).all()
    silent = maps.status[200:] == Status.NOT_ENHANCING
    assert silent.mean() > 0.97
    assert np.isnan(maps.peak[200:].values[silent]).all()
    assert np.isnan(maps.iauc60[200:].values[silent]).all()
    # Inside a mask what is linear in the curve is given, without bias.
    inside = kety.semiquantitative(curves, TIMES, arrival=ARRIVAL, mask=np.ones(400))
    np.testing.assert_array_equal(inside.status, maps.status)
    assert np.isnan(inside.max_slope[200:].values[silent]).all()
    area, error = inside.iauc60[200:], inside.iauc60_se[200:]
    assert abs(float(area.mean())) < 4 * float(error.mean()) / np.sqrt(200)


def test_status_and_axes() -> None:
    curves = noisy(24, 1.0).reshape(2, 3, 4, -1)
    curves[0, 0, 0, 5] = np.nan
    mask = np.ones((2, 3, 4), bool)
    mask[1, 2, 3] = False
    maps = kety.semiquantitative(curves, TIMES, arrival=ARRIVAL, mask=mask)
    assert maps.peak.dims == ("x", "y", "z")
    assert maps.status[0, 0, 0] == Status.NOT_FINITE
    assert maps.status[1, 2, 3] == Status.OUTSIDE
    assert int((maps.status == Status.CONVERGED).sum()) == 22
    for name, one in maps.items():
        assert {"units", "long_name", "osipi"} <= set(one.attrs), name
        if name != "status":
            assert np.isnan(one.values[~mask]).all(), name
    words = maps.status.attrs["flag_meanings"].split()
    assert len(words) == len(maps.status.attrs["flag_values"])
    fortran = kety.semiquantitative(np.asfortranarray(curves), TIMES, arrival=ARRIVAL, mask=mask)
    np.testing.assert_array_equal(fortran.iauc60, maps.iauc60)


def test_arrival_is_found() -> None:
    curves = noisy(300, 2.0)
    aif = kety.InputFunction(TIMES, 5 * bolus(TIMES, 12.0))
    assert kety.semiquantitative(curves, TIMES).attrs["arrival_s"] == ARRIVAL
    # A frame below 5 % of the peak still counts as before the rise at 12 s.
    assert kety.semiquantitative(curves, TIMES, aif=aif).attrs["arrival_s"] == 12.5
    bat = kety.semiquantitative(curves, TIMES).bat
    assert float(bat.median()) == pytest.approx(ARRIVAL, abs=2.5)


def test_a_short_series_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="ends 85 s after.*no iauc90 and no iauc180"):
        maps = kety.semiquantitative(bolus(TIMES)[:28], TIMES[:28], arrival=5.0, mask=np.True_)
    assert np.isfinite(maps.iauc60)
    assert np.isnan(maps.iauc90)
    with pytest.warns(UserWarning, match="too few frames from 230 s on to tell the washout: 2,"):
        maps = kety.semiquantitative(
            bolus(TIMES), TIMES, arrival=ARRIVAL, late=230.0, mask=np.True_
        )
    assert np.isnan(maps.washout_slope)
    assert np.isnan(maps.washout_ratio)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"arrival": "now"}, "arrival must be a number of s or 'auto', found 'now'"),
        ({"arrival": -5.0}, "arrives at -5 s; give a time within the frames"),
        ({"arrival": 500.0}, "arrives at 500 s"),
        ({"arrival": float("nan")}, "arrives at nan s"),
        ({"window": 0.0}, "window must be a positive number"),
        ({"late": 5.0}, "late part begins at 5 s"),
        ({"areas": (60.0, -1.0)}, "areas must be different positive numbers"),
        ({"areas": (60.0, 60.0)}, "areas must be different positive numbers"),
        ({"dtype": "float16"}, "dtype must be"),
        ({"mask": np.ones(3)}, "mask has shape"),
        ({"baseline": slice(0, 0)}, "no baseline frame"),
    ],
)
def test_bad_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(KetyError, match=words):
        kety.semiquantitative(noisy(2, 1.0), TIMES, **{"arrival": ARRIVAL, **options})


def test_bad_curves() -> None:
    with pytest.raises(KetyError, match="the last axis must hold the frames"):
        kety.semiquantitative(np.ones((2, 5)), TIMES)
    with pytest.raises(KetyError, match=r"arrival of the bolus was not found.*give arrival in s"):
        kety.semiquantitative(np.tile(bolus(TIMES + 20.0), (4, 1)), TIMES)
