"""T1 from flip angles and signal to concentration: other groups' truth, properties, bad input."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kety.errors import KetyError
from kety.signal import (
    CONVERSION_SENTENCES,
    T1_SENTENCES,
    ConversionStatus,
    Frames,
    T1Status,
    baseline_frames,
    concentration_from_signal,
    enhancing_curve,
    signal_from_concentration,
    spgr_signal,
    t1_from_flip_angles,
    vfa,
)

Reference = Callable[[str], Path]

ANGLES = np.array([2.0, 5.0, 10.0, 15.0, 20.0])
TR = 0.005
ACQUISITION: dict[str, Any] = {
    "t10": 1.2,
    "repetition_time": TR,
    "flip_angle": 15.0,
    "relaxivity": 4.5,
}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def textbook_signal(r1: Any, s0: Any, tr: float, degrees: Any) -> NDArray[np.float64]:
    """The formula as every paper prints it."""
    angle = np.deg2rad(degrees)
    e = np.exp(-tr * np.asarray(r1))
    return np.asarray(s0 * np.sin(angle) * (1 - e) / (1 - e * np.cos(angle)))


def flip_angle_case(folder: Path, name: str) -> tuple[NDArray[Any], NDArray[Any], float, Any]:
    """Signals (V, A), angles (A,), TR and true R1 (V,) of one file pair."""
    truth = {row["label"]: float(row["R1_ref_per_s"]) for row in rows(folder / f"truth_{name}.csv")}
    signals: dict[str, dict[float, float]] = {label: {} for label in truth}
    for row in rows(folder / f"vfa_{name}.csv"):
        signals[row["label"]][float(row["flip_angle_deg"])] = float(row["signal_au"])
        tr = float(row["TR_s"])
    angles = np.array(sorted(next(iter(signals.values()))))
    table = np.array([[signals[label][angle] for angle in angles] for label in truth])
    return table, angles, tr, np.array(list(truth.values()))


# Truth that other groups made


@pytest.mark.parametrize("name", ["brain", "qiba"])
@pytest.mark.parametrize("method", ["nonlinear", "linear"])
def test_osipi_t1_is_within_its_tolerance(reference: Reference, name: str, method: Any) -> None:
    signals, angles, tr, r1 = flip_angle_case(reference("osipi_t1map"), name)
    found = t1_from_flip_angles(signals, angles, tr, method=method)
    assert np.all(found.status == T1Status.ESTIMATED)
    assert np.all(np.abs(1.0 / found.t1 - r1) <= 0.05 + 0.05 * r1)


def test_osipi_concentration_is_exact(reference: Reference) -> None:
    folder = reference("osipi_si2conc")
    curves = rows(folder / "curves.csv")
    for case in rows(folder / "acquisition.csv"):
        curve = [row for row in curves if row["label"] == case["label"]]
        found = concentration_from_signal(
            [float(row["signal_au"]) for row in curve],
            t10=float(case["T10_s"]),
            repetition_time=float(case["TR_s"]),
            flip_angle=float(case["flip_angle_deg"]),
            relaxivity=float(case["r1_per_mM_per_s"]),
            baseline=slice(1, int(case["n_baseline_frames"])),
        )
        truth = np.array([float(row["conc_mM"]) for row in curve])
        np.testing.assert_allclose(found.values, truth, atol=1e-9, rtol=1e-9)
        assert found.status == ConversionStatus.CONVERTED


def test_qiba_vessel_concentration(reference: Reference) -> None:
    table = rows(reference("qiba6") / "aif.csv")
    found = concentration_from_signal(
        np.array([float(row["signal_au"]) for row in table]),
        t10=1.44,
        repetition_time=0.005,
        flip_angle=30.0,
        relaxivity=4.5,
        baseline=slice(0, 4),
    )
    truth = [float(row["cb_mM"]) for row in table]
    np.testing.assert_allclose(found.values, truth, atol=1e-7)


def test_breast_from_flip_angles_to_concentration(reference: Reference) -> None:
    nibabel = pytest.importorskip("nibabel")
    folder = reference("dcemrijl_invivo")

    def load(name: str) -> NDArray[Any]:
        return np.asanyarray(nibabel.load(folder / name).dataobj)

    flips, dynamic = load("vfa.nii.gz"), load("dce.nii.gz")
    mask = load("mask.nii.gz").reshape(dynamic.shape[:3]) != 0
    t1 = t1_from_flip_angles(flips, np.arange(20, 1, -2), 0.007939, mask=mask)
    assert np.mean(t1.status[mask] == T1Status.ESTIMATED) > 0.99
    low, middle, high = np.nanpercentile(t1.t1[mask], [5, 50, 95])
    assert 0.1 < low < middle < high < 5.0
    assert 0.3 < middle < 2.0

    frames = baseline_frames(enhancing_curve(dynamic), 16.43 * np.arange(dynamic.shape[-1]))
    assert frames.tolist() == [0, 1, 2]
    found = concentration_from_signal(
        dynamic,
        t10=t1.t1,
        repetition_time=0.007939,
        flip_angle=20.0,
        relaxivity=4.5,
        baseline=frames,
        mask=mask,
    )
    assert np.mean(found.status[mask] == ConversionStatus.CONVERTED) > 0.9
    mean = np.nanmean(found.values[mask], axis=0)
    assert np.all(np.abs(mean[:3]) < 0.05)
    assert np.all((mean[5:] > 0.2) & (mean[5:] < 1.5))


# The signal model


@given(
    r1=st.floats(1e-2, 1e3),
    s0=st.floats(1e-3, 1e6),
    tr=st.floats(1e-3, 0.05),
    angle=st.floats(2.0, 170.0),
)
def test_signal_is_the_textbook_formula(r1: float, s0: float, tr: float, angle: float) -> None:
    expected = textbook_signal(r1, s0, tr, angle)
    np.testing.assert_allclose(spgr_signal(r1, s0, tr, angle), expected, rtol=1e-9)


def test_signal_limits_and_shapes() -> None:
    assert spgr_signal(0.0, 100.0, TR, 10.0) == 0.0
    assert np.isnan(spgr_signal(-1.0, 100.0, TR, 10.0))
    assert spgr_signal(1e9, 100.0, TR, 30.0) == pytest.approx(50.0)
    r1 = np.ones((3, 1), dtype=np.float32)
    signal = spgr_signal(r1, 1.0, TR, ANGLES)
    assert signal.shape == (3, 5)
    assert signal.dtype == np.float32
    with pytest.raises(KetyError, match="broadcast"):
        spgr_signal(np.ones(3), np.ones(4), TR, 10.0)


# T1 from flip angles


@given(
    t1=st.floats(0.005, 10.0),
    s0=st.floats(1e-3, 1e7),
    tr=st.floats(0.002, 0.03),
    angles=st.lists(st.integers(1, 60), min_size=2, max_size=12, unique=True),
)
def test_t1_is_recovered_without_noise(t1: float, s0: float, tr: float, angles: list[int]) -> None:
    # Angles that differ little, or a fully relaxed signal, leave T1 to the rounding of the data.
    if max(angles) < 1.5 * min(angles) or max(angles) < 8 or tr > t1:
        return
    signals = spgr_signal(1.0 / t1, s0, tr, angles)
    for method in ("nonlinear", "linear"):
        found = t1_from_flip_angles(signals, angles, tr, method=method)
        assert found.status == T1Status.ESTIMATED
        np.testing.assert_allclose([found.t1, found.s0], [t1, s0], rtol=1e-8)


@pytest.mark.parametrize("noise", [2.0, 10.0, 100.0])
def test_nonlinear_t1_is_the_global_optimum(noise: float) -> None:
    rng = np.random.default_rng(7)
    signals = textbook_signal(1.0 / rng.uniform(0.1, 4.0, (300, 1)), 1000.0, TR, ANGLES)
    signals = signals + rng.normal(0.0, noise, signals.shape)
    found = t1_from_flip_angles(signals, ANGLES, TR)
    shapes = textbook_signal(1.0 / np.geomspace(1e-3, 100.0, 5000)[:, None], 1.0, TR, ANGLES)
    shapes /= np.linalg.norm(shapes, axis=1, keepdims=True)
    explained = (np.maximum(signals @ shapes.T, 0.0) ** 2).max(axis=1)
    scan = (signals**2).sum(axis=1) - explained
    good = found.status == T1Status.ESTIMATED
    cost = 3.0 * found.residual_sd**2
    assert np.all(cost[good] <= scan[good] * (1 + 1e-9))
    # Refused voxels fit best at an end of the range or not at all.
    ends = (signals @ shapes[[0, -1]].T).max(axis=1)
    beaten = np.sqrt(explained) <= np.maximum(ends, 0.0) * (1 + 1e-12)
    assert np.all(beaten[~good])


@pytest.mark.parametrize("method", ["nonlinear", "linear"])
def test_t1_standard_errors_match_the_spread(method: Any) -> None:
    rng = np.random.default_rng(3)
    t1 = rng.uniform(0.5, 2.0, 4000)
    angles = np.arange(2.0, 32.0, 2.0)
    signals = textbook_signal(1.0 / t1[:, None], 1000.0, TR, angles)
    noisy = signals + rng.normal(0.0, 0.3, signals.shape)
    found = t1_from_flip_angles(noisy, angles, TR, method=method)
    z = (found.t1 - t1) / found.t1_se
    # Student's t with 13 degrees of freedom; the linear method leaves more than the least residual.
    assert np.sqrt(np.mean(found.residual_sd**2)) == pytest.approx(0.3, rel=0.05)
    assert 0.93 * np.sqrt(13 / 11) < np.std(z) < 1.05 * np.sqrt(13 / 11)


def test_two_angles_give_t1_without_errors() -> None:
    found = t1_from_flip_angles(spgr_signal(0.8, 500.0, TR, [3.0, 17.0]), [3.0, 17.0], TR)
    assert found.t1 == pytest.approx(1.25, rel=1e-8)
    assert np.isnan(found.t1_se)
    assert np.isnan(found.residual_sd)


@pytest.mark.parametrize("method", ["nonlinear", "linear"])
def test_b1_scales_the_angles(method: Any) -> None:
    b1 = np.array([[0.8, 1.0], [1.2, 1.1]])
    signals = textbook_signal(0.7, 900.0, TR, b1[..., None] * ANGLES)
    found = t1_from_flip_angles(signals, ANGLES, TR, b1=b1, method=method)
    np.testing.assert_allclose(found.t1, 1.0 / 0.7, rtol=1e-8)
    np.testing.assert_allclose(found.s0, 900.0, rtol=1e-8)
    same = t1_from_flip_angles(signals[0, 0], ANGLES, TR, b1=0.8, method=method)
    assert same.t1 == pytest.approx(1.0 / 0.7, rel=1e-8)


def test_order_of_angles_does_not_matter() -> None:
    signals = spgr_signal(0.9, 900.0, TR, ANGLES) + np.array([1.0, -2.0, 1.0, 0.5, -0.5])
    forward = t1_from_flip_angles(signals, ANGLES, TR)
    backward = t1_from_flip_angles(signals[::-1], ANGLES[::-1], TR)
    assert backward.t1 == pytest.approx(float(forward.t1), rel=1e-12)


@pytest.mark.parametrize("method", ["nonlinear", "linear"])
def test_failed_voxels_are_nan_with_a_reason(method: Any) -> None:
    good = spgr_signal(1.0, 1000.0, TR, ANGLES)
    cases = {
        T1Status.ESTIMATED: good,
        T1Status.NOT_FINITE: np.where(ANGLES == 5.0, np.nan, good),
        T1Status.NO_SIGNAL: 0.0 * good,
        T1Status.OUT_OF_RANGE: np.sin(np.deg2rad(ANGLES)),  # no saturation: T1 = 0
    }
    signals = np.array([*cases.values(), -good, np.full(5, np.inf)])
    found = t1_from_flip_angles(signals, ANGLES, TR, method=method)
    expected = [*cases, T1Status.NO_SIGNAL, T1Status.NOT_FINITE]
    assert found.status.tolist() == expected
    for values in (found.t1, found.s0, found.t1_se, found.residual_sd):
        assert np.isfinite(values).tolist() == [True] + 5 * [False]
    missing = t1_from_flip_angles(
        np.stack([good, good, good]), ANGLES, TR, b1=[1.0, np.nan, 0.0], method=method
    )
    assert missing.status.tolist() == [1, T1Status.NOT_FINITE, T1Status.NOT_FINITE]


def test_range_and_iteration_limit_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    signals = spgr_signal(1.0 / np.array([0.5, 3.0])[:, None], 1000.0, TR, ANGLES)
    found = t1_from_flip_angles(signals, ANGLES, TR, t1_range=(0.1, 1.0))
    assert found.status.tolist() == [T1Status.ESTIMATED, T1Status.OUT_OF_RANGE]
    monkeypatch.setattr(vfa, "_MOST_STEPS", 1)
    found = t1_from_flip_angles(signals, ANGLES, TR)
    assert np.all(found.status == T1Status.ITERATION_LIMIT)
    assert np.all(np.isnan(found.t1))


def test_mask_memory_order_and_dtype() -> None:
    rng = np.random.default_rng(1)
    r1 = rng.uniform(0.5, 2.0, (4, 3, 2, 1))
    signals = (spgr_signal(r1, 1000.0, TR, ANGLES) + rng.normal(0, 1, (4, 3, 2, 5))).astype("f4")
    mask = rng.random((4, 3, 2)) > 0.4
    plain = t1_from_flip_angles(signals, ANGLES, TR, mask=mask)
    fortran = t1_from_flip_angles(np.asfortranarray(signals), ANGLES, TR, mask=mask)
    assert plain.t1.dtype == np.float32
    assert np.all(np.isnan(plain.t1[~mask]))
    assert np.all(plain.status[~mask] == T1Status.OUTSIDE)
    np.testing.assert_array_equal(plain.t1, fortran.t1)
    np.testing.assert_array_equal(plain.status, fortran.status)
    integers = t1_from_flip_angles(np.round(signals * 30).astype("i2"), ANGLES, TR)
    assert integers.t1.dtype == np.float32
    np.testing.assert_allclose(integers.t1[mask], plain.t1[mask], rtol=0.01)


@pytest.mark.parametrize("method", ["nonlinear", "linear"])
def test_a_voxel_does_not_depend_on_its_neighbours(method: Any) -> None:
    rng = np.random.default_rng(2)
    angles = np.arange(2.0, 22.0, 2.0)
    r1 = rng.uniform(0.3, 3.0, (30_000, 1))
    signals = spgr_signal(r1, 1000.0, TR, angles) + rng.normal(0.0, 3.0, (30_000, 10))
    whole = t1_from_flip_angles(signals, angles, TR, method=method)
    some = t1_from_flip_angles(signals[29_990:], angles, TR, method=method)
    one = t1_from_flip_angles(signals[29_999], angles, TR, method=method)
    np.testing.assert_array_equal(whole.t1[29_990:], some.t1)
    np.testing.assert_array_equal(whole.t1[29_999], one.t1)
    np.testing.assert_array_equal(whole.t1_se[29_999], one.t1_se)


def test_t1_bad_input() -> None:
    signals = np.ones((2, 5))
    with pytest.raises(KetyError, match=r"unknown T1 method 'novifast'.*nonlinear, linear"):
        t1_from_flip_angles(signals, ANGLES, TR, method="novifast")  # type: ignore[arg-type]
    with pytest.raises(KetyError, match="5 flip angles"):
        t1_from_flip_angles(signals, ANGLES[:4], TR)
    with pytest.raises(KetyError, match="two or more different"):
        t1_from_flip_angles(np.ones((2, 3)), [5.0, 5.0, 5.0], TR)
    for tr in (0.0, -0.005, np.nan, np.inf):
        with pytest.raises(KetyError, match="repetition_time"):
            t1_from_flip_angles(signals, ANGLES, tr)
    for angle in (0.0, -2.0, 180.0, np.nan):
        with pytest.raises(KetyError, match="degrees"):
            t1_from_flip_angles(signals, [2.0, 5.0, 10.0, 15.0, angle], TR)
    with pytest.raises(KetyError, match="t1_range"):
        t1_from_flip_angles(signals, ANGLES, TR, t1_range=(1.0, 0.1))
    with pytest.raises(KetyError, match="mask has shape"):
        t1_from_flip_angles(signals, ANGLES, TR, mask=np.ones(3, dtype=bool))
    with pytest.raises(KetyError, match="mask is empty"):
        t1_from_flip_angles(signals, ANGLES, TR, mask=np.zeros(2, dtype=bool))
    with pytest.raises(KetyError, match="b1 has shape"):
        t1_from_flip_angles(signals, ANGLES, TR, b1=np.ones(3))
    with pytest.raises(KetyError, match="divide a map in percent"):
        t1_from_flip_angles(signals, ANGLES, TR, b1=[98.0, 101.0])
    with pytest.raises(KetyError, match="real numbers"):
        t1_from_flip_angles(signals * 1j, ANGLES, TR)


def test_likely_wrong_units_are_pointed_out() -> None:
    signals = spgr_signal(1.0, 1000.0, TR, ANGLES)
    with pytest.warns(UserWarning, match="radians"):
        t1_from_flip_angles(signals, np.deg2rad(ANGLES), TR)
    with pytest.warns(UserWarning, match="expected in seconds"):
        t1_from_flip_angles(signals, ANGLES, 5.0)
    with pytest.warns(UserWarning, match="T1 is expected in seconds"):
        concentration_from_signal([1.0, 2.0], **{**ACQUISITION, "t10": 1440.0}, baseline=[0])


# Signal to concentration and back


@given(
    concentration=st.lists(st.floats(0.0, 20.0), min_size=1, max_size=20),
    t10=st.floats(0.2, 5.0),
    tr=st.floats(0.002, 0.01),
    angle=st.floats(5.0, 60.0),
    relaxivity=st.floats(2.0, 10.0),
    s0=st.floats(1.0, 1e6),
    b1=st.floats(0.7, 1.3),
)
def test_concentration_round_trip(
    concentration: list[float],
    t10: float,
    tr: float,
    angle: float,
    relaxivity: float,
    s0: float,
    b1: float,
) -> None:
    truth = np.array([0.0, *concentration])
    keys: dict[str, Any] = {
        "t10": t10,
        "repetition_time": tr,
        "flip_angle": angle,
        "relaxivity": relaxivity,
        "b1": b1,
    }
    signal = signal_from_concentration(truth, s0=s0, **keys)
    expected = textbook_signal(1.0 / t10 + relaxivity * truth, s0, tr, b1 * angle)
    np.testing.assert_allclose(signal, expected, rtol=1e-9)
    found = concentration_from_signal(signal, baseline=[0], **keys)
    # Near the largest signal its rounding is amplified, by e^(TR R1) at the most.
    np.testing.assert_allclose(found.values, truth, rtol=1e-8, atol=1e-8)


def test_maps_of_t10_s0_and_b1() -> None:
    rng = np.random.default_rng(5)
    truth = rng.uniform(0.0, 5.0, (4, 3, 2, 12)).astype(np.float32)
    truth[..., :3] = 0.0
    t10, s0 = rng.uniform(0.3, 3.0, (4, 3, 2)), rng.uniform(100.0, 900.0, (4, 3, 2))
    b1 = rng.uniform(0.8, 1.2, (4, 3, 2))
    keys = {**ACQUISITION, "t10": t10, "b1": b1}
    for data in (truth, np.asfortranarray(truth), truth[:, ::-1][:, ::-1]):
        signal = signal_from_concentration(data, s0=s0, **keys)
        assert signal.dtype == np.float32
        found = concentration_from_signal(signal, baseline=slice(0, 3), **keys)
        assert found.values.dtype == np.float32
        np.testing.assert_allclose(found.values, truth, atol=2e-4)
        assert found.invalid.sum() == 0
        one = concentration_from_signal(
            signal[1, 2, 0],
            baseline=slice(0, 3),
            **{**keys, "t10": t10[1, 2, 0], "b1": b1[1, 2, 0]},
        )
        np.testing.assert_array_equal(one.values, found.values[1, 2, 0])


def test_signal_without_a_concentration_is_nan_and_counted() -> None:
    truth = np.array([0.0, 0.0, 1.0, 3.0, 2.0])
    curve = signal_from_concentration(truth, s0=100.0, **ACQUISITION)
    limit = 100.0 * np.sin(np.deg2rad(15.0))
    bad = curve.copy()
    bad[2:] = [limit * 1.01, -1.0, np.nan]
    curves = np.stack([curve, bad, np.zeros(5), np.where(truth == 0, np.nan, curve), curve, curve])
    t10 = np.array([1.2, 1.2, 1.2, 1.2, np.nan, -1.0])
    found = concentration_from_signal(curves, **{**ACQUISITION, "t10": t10}, baseline=[0, 1])
    assert found.status.tolist() == [
        ConversionStatus.CONVERTED,
        ConversionStatus.INCOMPLETE,
        ConversionStatus.NO_BASELINE,
        ConversionStatus.NO_BASELINE,
        ConversionStatus.NO_T10,
        ConversionStatus.NO_T10,
    ]
    assert found.invalid.tolist() == [0, 3, 5, 5, 5, 5]
    assert np.isnan(found.values).sum(axis=1).tolist() == [0, 3, 5, 5, 5, 5]
    np.testing.assert_allclose(found.values[1, :2], 0.0, atol=1e-12)
    masked = concentration_from_signal(
        curves, **ACQUISITION, baseline=[0, 1], mask=[True] + 5 * [False]
    )
    assert masked.status.tolist() == [ConversionStatus.CONVERTED] + 5 * [0]
    assert masked.invalid.sum() == 0
    assert np.all(np.isnan(masked.values[1:]))


def test_no_signal_for_a_negative_rate() -> None:
    signal = signal_from_concentration([-1.0, 0.0], **ACQUISITION)
    assert np.isnan(signal).tolist() == [True, False]


def test_baseline_choices_agree() -> None:
    curve = np.array([9.0, 5.0, 5.2, 5.1, 8.0, 12.0])
    frames: list[Frames] = [
        slice(1, 4),
        [1, 2, 3],
        np.array([3, 1, 2]),
        np.array([0, 1, 1, 1, 0, 0], dtype=bool),
    ]
    found = [concentration_from_signal(curve, **ACQUISITION, baseline=one) for one in frames]
    for other in found[1:]:
        np.testing.assert_array_equal(other.values, found[0].values)
    assert abs(found[0].values[1:4].mean()) < 1e-3


def test_conversion_bad_input() -> None:
    curves = np.ones((2, 6))

    def convert(**changes: Any) -> None:
        concentration_from_signal(curves, **{**ACQUISITION, "baseline": slice(0, 2), **changes})

    for name in ("repetition_time", "flip_angle", "relaxivity", "t10"):
        for value in (0.0, -1.0, np.nan):
            with pytest.raises(KetyError, match=name):
                convert(**{name: value})
    with pytest.raises(KetyError, match="t10 has shape"):
        convert(t10=np.ones(3))
    with pytest.raises(KetyError, match="b1 has shape"):
        convert(b1=np.ones((2, 6)))
    with pytest.raises(KetyError, match="mask has shape"):
        convert(mask=np.ones((2, 1), dtype=bool))
    with pytest.raises(KetyError, match="outside the series"):
        convert(baseline=[4, 6])
    with pytest.raises(KetyError, match="flip_angle must be one number"):
        convert(flip_angle=[10.0, 20.0])
    with pytest.raises(KetyError, match="s0 has shape"):
        signal_from_concentration(curves, s0=np.ones(6), **ACQUISITION)


def test_every_status_has_a_sentence() -> None:
    assert set(T1_SENTENCES) == set(T1Status)
    assert set(CONVERSION_SENTENCES) == set(ConversionStatus)
