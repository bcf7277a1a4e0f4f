"""The experiments that time things: calibration, run time and the brain, in miniature."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import kety
from kety.studies.optimization import (
    brain,
    brain_fits,
    calibration,
    calibration_fits,
    paper,
    rendering,
    runtime,
    runtime_fits,
)
from kety.studies.optimization.data import NAMES, data_set_2
from kety.studies.records import Effort, Outcome

ONE_CORE = Effort(full=False, threads=1)
RATES = dict.fromkeys(
    (
        "nelder_mead",
        "differential_evolution",
        "differential_evolution/scipy",
        "sqp",
        "sqp/forward",
    ),
    20.0,
)
CALIBRATION = calibration_fits.Plan(
    RATES, dict.fromkeys(RATES, 2), {1.0: 2}, own=(2, 2, 20.0), changed=(2, 1), changes=3
)
RUNTIME = runtime_fits.Plan(scipy=1, copies=8, rounds=1, compared=40)
BRAIN = brain_fits.Plan((26, 30, 22), stride=3, cube=1, pixels=32)


def check(outcome: Outcome) -> None:
    """Everything that a page needs is there, and every number is one."""
    assert outcome.text
    assert outcome.conditions
    assert outcome.targets
    assert outcome.seconds > 0
    for one in outcome.comparisons:
        assert one.why, one.what
        for value in (one.paper, one.ours, one.low, one.high):
            assert value is None or np.isfinite(value), one
        if one.low is not None and one.high is not None and one.ours is not None:
            assert one.low <= one.ours <= one.high
    for table in outcome.tables:
        for row in table.rows:
            assert len(row) == len(table.header), table.name
            numbers = [cell for cell in row if isinstance(cell, int | float)]
            assert np.isfinite(numbers).all(), (table.name, row)
    for picture in outcome.pictures:
        assert picture.png.startswith(b"\x89PNG")
        assert picture.alt
        assert picture.caption
    for sentence, _ in outcome.targets:
        assert "nan" not in sentence.split()


def beside(outcome: Outcome) -> set[tuple[str, str]]:
    """Places and names of the paper's numbers that stand beside ours."""
    return {(one.where, one.what) for one in outcome.comparisons}


@pytest.fixture(scope="module")
def calibrated() -> tuple[calibration_fits.Results, calibration_fits.Own]:
    return (
        calibration_fits.calibrate(CALIBRATION, ONE_CORE),
        calibration_fits.own_solver(CALIBRATION, ONE_CORE),
    )


def test_calibration_is_complete(
    calibrated: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    results, own = calibrated
    monkeypatch.setattr(calibration, "calibrate", lambda plan, effort: results)
    monkeypatch.setattr(calibration, "own_solver", lambda plan, effort: own)
    outcome = calibration.experiment(CALIBRATION, ONE_CORE)
    check(outcome)
    stated = (*paper.CALIBRATION_ERROR.values(), *paper.CALIBRATION_TIME.values())
    assert beside(outcome) == {(one.where, one.what) for one in stated}
    measured = [one for one in outcome.comparisons if one.ours is not None]
    assert len(measured) == 2 * 3


def test_good_optimisers_recover_what_their_own_system_made(calibrated: tuple[Any, Any]) -> None:
    results, own = calibrated
    for method in RATES:
        assert results[method, 20.0, ""].median < 1e-4
    assert own.kernel.median < 1e-9
    assert own.frames.median < 1e-7
    # Curves of another model: what is left is the error of the discrete system.
    assert own.discrete.median > 1e-3


def test_tolerance_limits_nelder_mead(calibrated: tuple[Any, Any]) -> None:
    results, _ = calibrated
    published = results["nelder_mead", 1.0, "as published"]
    finer = results["nelder_mead", 1.0, "TolX 1e-9"]
    assert finer.median < 0.5 * published.median


def test_calibration_targets_follow_the_data(calibrated: tuple[Any, Any]) -> None:
    results, own = calibrated
    before = dict(calibration.targets(CALIBRATION, results, own))
    assert any("Nelder–Mead" in sentence and met for sentence, met in before.items())
    poor = replace(results["nelder_mead", 20.0, ""], errors=np.full((2, 4), 3.0))
    spoilt = {**results, ("nelder_mead", 20.0, ""): poor}
    after = calibration.targets(CALIBRATION, spoilt, own)
    assert [met for sentence, met in after if sentence.startswith("Nelder–Mead")] == [False]
    slow = own._replace(frames=replace(own.frames, seconds=1e9))
    after = calibration.targets(CALIBRATION, results, slow)
    assert [met for sentence, met in after if "faster than all" in sentence] == [False]


def test_shares_of_a_job_cover_its_voxels() -> None:
    job = calibration_fits.Job("sqp", 1.0, 0, 7, 1)
    parts = calibration_fits.shares(job, 3)
    assert [part.first for part in parts] == [0, *np.cumsum([p.count for p in parts])[:-1]]
    assert sum(part.count for part in parts) == 7
    assert len(calibration_fits.shares(replace(job, count=2), 8)) == 2


def few_starts(method: str, **options: Any) -> Any:
    """The optimiser at a fraction of its cost."""
    less = {"starts": 2} if method == "nelder_mead" else {"population": 12}
    return replace(kety.OPTIMIZERS[method].preset("paper"), **less, **options)  # type: ignore[union-attr]


def test_runtime_is_complete_and_its_targets_follow_the_data(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runtime_fits, "optimizer", few_starts)
    outcome = runtime.experiment(RUNTIME, ONE_CORE)
    check(outcome)
    stated = [s for method in paper.RUN_TIME.values() for s in method.values()]
    stated += [s for method in paper.RELATIVE_SPEED.values() for s in method.values()]
    stated += [paper.BRAIN_GPU_TIME, paper.BRAIN_CPU_TIME, paper.REGION_TIME]
    assert {(one.where, one.what) for one in stated} <= beside(outcome)
    missing = [one for one in outcome.comparisons if one.ours is None]
    assert all("CUDA" in one.what for one in missing)

    rows = (*runtime_fits.ROWS,)
    times = {(m, r, e): 1e-3 for m in runtime.METHODS for r in rows for e in (False, True)}
    times |= {(m, r, False): 0.2 for m in runtime.METHODS for r in ("plain", "compiled")}
    good = runtime_fits.Rivals(np.zeros(100), 1e-5, 1e-3, 1e-5, 1e-5)
    assert all(met for _, met in runtime.targets(times, good))
    excess = np.where(np.arange(100) < 5, 1e-3, 0.0)
    bad = runtime_fits.Rivals(excess, 1e-3, 1e-3, 1e-3, 1e-3)
    slow = times | {("nelder_mead", "plain", False): 0.05}
    assert [met for _, met in runtime.targets(slow, bad)] == [False, True, True, True, False, False]


def test_both_ways_to_write_the_cost_agree() -> None:
    data = data_set_2(3, 1)
    points = np.random.default_rng(0).random((20, 4))
    pairs = zip(runtime_fits.compiled_costs(data), runtime_fits.plain_costs(data), strict=True)
    for compiled, plain in pairs:
        np.testing.assert_allclose(plain(points), compiled(points), rtol=1e-9)


@pytest.fixture(scope="module")
def fitted() -> brain_fits.Brain:
    return brain_fits.fit_brain(BRAIN, ONE_CORE)


def test_brain_is_complete(fitted: brain_fits.Brain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brain, "fit_brain", lambda plan, effort: fitted)
    outcome = brain.experiment(BRAIN, ONE_CORE)
    check(outcome)
    assert {p.name for p in outcome.pictures} == {"brain-volume", "brain-slice", "brain-errors"}


def test_brain_keeps_voxels_in_their_places(fitted: brain_fits.Brain) -> None:
    truth = fitted.truth
    np.testing.assert_array_equal(
        fitted.volume(fitted.true("vb"))[truth.mask], truth.maps["vb"][truth.mask]
    )
    vessels = fitted.true("vb") > 0.5
    error = np.abs(fitted.values["vb"] - fitted.true("vb"))[vessels]
    assert np.median(error) < 0.05
    where = np.argwhere(truth.mask)[fitted.slice.voxels]
    assert (where[:, 2] == fitted.slice.index).all()
    assert (where[:, :2] % BRAIN.stride == 0).all()


def test_brain_targets_follow_the_data(fitted: brain_fits.Brain) -> None:
    errors = brain_fits.tissue_errors(fitted)
    assert {e.name for e in errors} == set(NAMES)
    good = [replace(e, median=1.0, covered=95.0) for e in errors]
    assert all(met for _, met in brain.targets(fitted, good, BRAIN))
    bad = [replace(e, median=30.0, covered=50.0) for e in errors]
    huge = replace(fitted, peak=100.0)
    assert not any(met for _, met in brain.targets(huge, bad, BRAIN))
    assert not dict(brain.targets(fitted, good, brain_fits.FULL))[
        f"More than 6,000,000 voxels: {len(fitted):,}."
    ]


def test_rendering_shows_the_nearer_of_two_blobs() -> None:
    grid = np.stack(np.meshgrid(*[np.arange(40.0)] * 3, indexing="ij"))
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    near, far = (
        np.sqrt(((grid - np.array(c)[:, None, None, None]) ** 2).sum(axis=0)) < 8
        for c in ((20, 30, 20), (20, 10, 20))
    )
    values = np.where(near, 1.0, 0.0).astype(np.float32)
    dense = (5.0 * (near | far)).astype(np.float32)
    view = rendering.View(azimuth=0.0, elevation=0.0, pixels=40, extent=80.0)
    centre = np.full(3, 39.0)
    shown = [rendering.seen(v, affine, view, centre) for v in (dense, values)]

    def red_or_blue(v: Any) -> Any:
        return np.stack([v > 0.5, 0 * v, v <= 0.5], axis=-1).astype(np.float32)

    (image,) = rendering.cast(shown[0], [(shown[1], red_or_blue)], 2.0)
    centre_pixel = image[20, 20]
    assert centre_pixel[0] > 0.3 > centre_pixel[2]
    assert image[0, 0].sum() == 0
    # From behind the other one is in front.
    back = replace(view, azimuth=180.0)
    shown = [rendering.seen(v, affine, back, centre) for v in (dense, values)]
    (image,) = rendering.cast(shown[0], [(shown[1], red_or_blue)], 2.0)
    assert image[20, 20, 2] > 0.3


def test_means_of_cubes_are_weighted() -> None:
    values = np.zeros((5, 4, 4), np.float32)
    weights = np.zeros_like(values)
    values[0, 0, 0], weights[0, 0, 0] = 4.0, 3.0
    values[1, 1, 1], weights[1, 1, 1] = 8.0, 1.0
    means, weight = rendering.means_of_cubes(values, weights, 2)
    assert means.shape == (2, 2, 2)
    assert means[0, 0, 0] == pytest.approx(5.0)
    assert weight[0, 0, 0] == pytest.approx(0.5)
    assert means[1, 1, 1] == 0.0
