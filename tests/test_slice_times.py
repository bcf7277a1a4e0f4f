"""Slices with times of their own, and irregular frames: each curve meets the input at its own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import kety
from commands import good, run
from kety.errors import KetyError
from kety.inputs.merging import CLOSE, disagreement, grouped, merged
from kety.io import read_series, write_series
from kety.pipeline import InputSource, estimate, read_study, write_outcome, write_phantom
from kety.pipeline.certainty import Certainty
from kety.preprocess import crop, downsample
from kety.series import Series
from kety.signal import above_baseline, enhancement
from kety.simulate import Phantom, protocol, simulate_abdomen
from kety.simulate.phantom import scaled_input
from kety.slices import slice_groups

SHUTTLE = 2.0
NAMES = ("ktrans", "kep", "vb", "delay")


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return simulate_abdomen((32, 27, 6), noise=0.0, seed=3, shuttle=SHUTTLE)


@pytest.fixture(scope="module")
def curves(phantom: Phantom) -> NDArray[Any]:
    return np.asarray(phantom.series.data - phantom.baseline[..., None])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A noisy shuttle study on disk."""
    noisy = simulate_abdomen((32, 27, 6), noise=5.0, seed=3, shuttle=SHUTTLE)
    return write_phantom(noisy, tmp_path_factory.mktemp("shuttle"))


def exchanging(phantom: Phantom) -> NDArray[np.bool_]:
    return np.asarray(phantom.truth["ktrans"] > 0)


def error(maps: Any, phantom: Phantom, name: str, where: NDArray[np.bool_]) -> float:
    """Median error: relative, but of times in s."""
    value, true = maps[name].values[where], phantom.truth[name][where]
    off = np.abs(value - true)
    return float(np.nanmedian(off if name == "delay" else off / true))


# --- groups ---------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_groups_part_the_slices_by_their_times(kinds: list[int]) -> None:
    table = np.array([np.arange(4.0) + 0.1 * kind for kind in kinds])
    groups = slice_groups(table)
    assert len(groups) == len(set(kinds))
    numbers = np.arange(len(kinds))
    found = np.concatenate([numbers[one.index] for one in groups])
    np.testing.assert_array_equal(np.sort(found), numbers)
    for one in groups:
        np.testing.assert_array_equal(
            table[one.index], np.broadcast_to(one.times, (len(table[one.index]), 4))
        )
    assert [int(numbers[one.index][0]) for one in groups] == sorted(
        int(numbers[one.index][0]) for one in groups
    )


def test_a_table_of_another_shape_is_refused() -> None:
    with pytest.raises(KetyError, match=r"times of shape \(2, 3, 4\)"):
        slice_groups(np.zeros((2, 3, 4)))


# --- kety.fit -------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["C", "F"])
def test_every_group_is_the_fit_of_its_slices_alone(
    phantom: Phantom, curves: NDArray[Any], order: Any
) -> None:
    rows = np.array([[0.0], [0.3], [0.0], [0.9], [0.3], [0.0]]) + phantom.series.times
    mask = exchanging(phantom)
    mask[:, :, 3] = False  # a group without voxels
    data = np.array(curves, order=order)
    maps = kety.fit(data, rows, phantom.aif, mask=mask, fitted=True)
    assert maps["status"].dims == ("x", "y", "z")
    assert maps.attrs["voxels_done"] == mask.sum()
    assert not maps["status"].values[:, :, 3].any()
    assert np.isnan(maps["ktrans"].values[:, :, 3]).all()
    np.testing.assert_allclose(maps["time"], rows.mean(axis=0))
    np.testing.assert_array_equal(maps["slice_time"], rows)
    for z in (0, 1, 5):
        part = slice(z, z + 1)
        alone = kety.fit(data[:, :, part], rows[z], phantom.aif, mask=mask[:, :, part], fitted=True)
        for name in alone.data_vars:
            np.testing.assert_array_equal(maps[name].values[:, :, part], alone[name].values)


def test_equal_rows_are_the_times_of_all(phantom: Phantom, curves: NDArray[Any]) -> None:
    times, mask = phantom.series.times, exchanging(phantom)
    rows = np.tile(times, (6, 1))
    one = kety.fit(curves, times, phantom.aif, mask=mask)
    many = kety.fit(curves, rows, phantom.aif, mask=mask)
    for name in one.data_vars:
        np.testing.assert_array_equal(many[name].values, one[name].values)


def test_curves_above_a_level_are_read_group_by_group(phantom: Phantom) -> None:
    series, mask = phantom.series, exchanging(phantom)
    data = np.asfortranarray(series.data)
    lazy, whole = above_baseline(data, slice(0, 3)), enhancement(data, slice(0, 3))
    one = kety.fit(whole, series.slice_times, phantom.aif, mask=mask)
    other = kety.fit(lazy, series.slice_times, phantom.aif, mask=mask)
    for name in one.data_vars:
        np.testing.assert_array_equal(other[name].values, one[name].values)


def test_a_shuttle_study_is_recovered_and_ignoring_it_moves_the_delay(
    phantom: Phantom, curves: NDArray[Any]
) -> None:
    series, mask = phantom.series, exchanging(phantom)
    assert series.slice_times is not None
    own = kety.fit(curves, series.slice_times, phantom.aif, mask=mask, dtype="float64")
    for name in NAMES:
        assert error(own, phantom, name, mask) < 1e-6, name
    ignored = kety.fit(curves, series.times, phantom.aif, mask=mask, dtype="float64")
    assert abs(error(ignored, phantom, "delay", mask) - SHUTTLE / 2) < 0.01


def test_ignoring_the_shuttle_biases_what_a_fixed_delay_cannot_take_up() -> None:
    times = protocol("two_phase")
    aif = scaled_input(float(times[-1]) + SHUTTLE, 10.0, 10.0, 300.0, 0.42)
    rows = np.stack([times, times + SHUTTLE])
    truth = {"ktrans": 0.3, "kep": 1.0, "vb": 0.1}
    curves = np.stack([kety.simulate_curves(truth, row, aif)[0] for row in rows])[None, None]
    mask = np.ones((1, 1, 2), bool)
    how: dict[str, Any] = {"delay": False, "mask": mask, "dtype": "float64"}
    own = kety.fit(curves, rows, aif, **how)
    np.testing.assert_allclose(own["ktrans"].values, 0.3, rtol=1e-9)
    np.testing.assert_allclose(own["vb"].values, 0.1, rtol=1e-9)
    ignored = kety.fit(curves, rows.mean(axis=0), aif, **how)
    assert (np.abs(ignored["vb"].values - 0.1) > 0.01).all()  # 11 and 14 %


def test_an_input_of_all_slices_is_smeared_where_their_times_are_ignored(
    phantom: Phantom, curves: NDArray[Any]
) -> None:
    series, aorta, mask = phantom.series, phantom.mask("aorta"), exchanging(phantom)
    own = kety.InputFunction.from_mask(curves, series.slice_times, aorta)
    assert own.times.size == 2 * series.times.size
    smeared = kety.InputFunction.from_mask(curves, series.times, aorta)
    with_own = kety.fit(curves, series.slice_times, own, mask=mask)
    without = kety.fit(curves, series.times, smeared, mask=mask)
    for name in ("ktrans", "vb"):
        assert error(with_own, phantom, name, mask) < 2e-3
        assert error(without, phantom, name, mask) > 3 * error(with_own, phantom, name, mask)


def test_several_models_are_chosen_from_at_the_slices_own_times(
    phantom: Phantom, curves: NDArray[Any]
) -> None:
    mask = exchanging(phantom)
    models = ["tofts", "extended_tofts"]
    how: dict[str, Any] = {"select": "aicc", "mask": mask}
    maps = kety.fit(curves, phantom.series.slice_times, phantom.aif, models, **how)
    assert np.median(maps["chosen"].values[mask]) == 2
    assert error(maps, phantom, "ktrans", mask) < 1e-3


def test_progress_is_of_all_slices(phantom: Phantom, curves: NDArray[Any]) -> None:
    mask, seen = exchanging(phantom), []
    how: dict[str, Any] = {"mask": mask, "progress": lambda done, of: seen.append((done, of))}
    kety.fit(curves, phantom.series.slice_times, phantom.aif, **how)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (mask.sum(), mask.sum())


def test_an_interrupted_fit_keeps_the_groups_that_are_done(
    phantom: Phantom, curves: NDArray[Any]
) -> None:
    from kety.slicewise import by_slice

    calls: list[int] = []

    def fitted(block: NDArray[Any], mask: NDArray[np.bool_] | None, slices: Any) -> Any:
        calls.append(1)
        if len(calls) > stop:
            raise KeyboardInterrupt
        return kety.fit(block, slices.times, phantom.aif, mask=mask)

    mask, rows = exchanging(phantom), phantom.series.slice_times
    stop = 1
    maps = by_slice(fitted, curves, rows, mask)
    assert maps.attrs["interrupted"] == 1
    assert maps.attrs["voxels_done"] == mask[:, :, :3].sum()
    assert np.isfinite(maps["ktrans"].values[:, :, :3][mask[:, :, :3]]).all()
    assert not maps["status"].values[:, :, 3:].any()
    stop = 0
    with pytest.raises(KeyboardInterrupt):
        by_slice(fitted, curves, rows, mask)


def test_what_needs_common_times_says_so(phantom: Phantom, curves: NDArray[Any]) -> None:
    rows = phantom.series.slice_times
    with pytest.raises(KetyError, match="crop to slices that were acquired together"):
        kety.fit(curves, rows, phantom.aif, joint="graph")
    with pytest.raises(KetyError, match=r"times \(5, 66\)"):
        kety.fit(curves, rows[:5], phantom.aif)
    with pytest.raises(KetyError, match=r"mask has shape \(2, 2\)"):
        kety.fit(curves, rows, phantom.aif, mask=np.ones((2, 2), bool))
    with pytest.raises(KetyError, match="times must be one row"):
        kety.bootstrap(curves, rows, phantom.aif, samples=20)


# --- irregular frames -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["two_phase", "brain"])
def test_frames_of_two_phases_are_exact_and_a_uniform_step_is_not(name: str) -> None:
    times = protocol(name)
    aif = scaled_input(float(times[-1]) + 1.0, 10.0, 10.0, 300.0, 0.42)
    random = np.random.default_rng(0)
    truth = {
        "ktrans": random.uniform(0.05, 0.8, 60),
        "kep": random.uniform(0.2, 2.0, 60),
        "vb": random.uniform(0.02, 0.2, 60),
        "delay": random.uniform(0.0, 6.0, 60),
    }
    curves = kety.simulate_curves(truth, times, aif)
    how: dict[str, Any] = {"mask": np.ones(60, bool), "dtype": "float64"}
    exact = kety.fit(curves, times, aif, **how)
    for one in NAMES:
        np.testing.assert_allclose(exact[one].values, truth[one], rtol=1e-8, atol=1e-8)
    even = np.linspace(times[0], times[-1], times.size)
    measured = replace(aif, times=even, concentration=aif(times))
    assumed = kety.fit(curves, even, measured, **how)
    off = np.abs(assumed["ktrans"].values / truth["ktrans"] - 1)
    assert np.median(off) > 0.05


# --- the input ------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.0, 2.9), min_size=1, max_size=6), st.integers(0, 2**16))
def test_merged_samples_are_all_there_in_order_and_averages_of_close_ones(
    offsets: list[float], seed: int
) -> None:
    random = np.random.default_rng(seed)
    base = np.cumsum(random.uniform(2.0, 4.0, 8))
    rows = np.array([base + one for one in offsets])
    curves = random.normal(size=rows.shape)
    groups = grouped(curves, rows)
    assert sum(one.voxels for one in groups) == len(offsets)
    times, values = merged(groups)
    assert (np.diff(times) > 0).all()
    # What merging keeps: area under weights, i.e. the sums of times and of values over voxels.
    if len(groups) > 1:
        width = CLOSE * min(float((t.times[2:] - t.times[:-2]).min() / 2) for t in groups)
        order = np.argsort(rows.ravel(), kind="stable")
        flat, levels = rows.ravel()[order], curves.ravel()[order]
        bins: list[list[int]] = []
        for i, t in enumerate(flat):
            if bins and t - flat[bins[-1][0]] <= width:
                bins[-1].append(i)
            else:
                bins.append([i])
        np.testing.assert_allclose(times, [flat[b].mean() for b in bins], atol=1e-12)
        np.testing.assert_allclose(values, [levels[b].mean() for b in bins], atol=1e-9)
    else:
        np.testing.assert_array_equal(times, rows[0])


def test_a_line_stays_a_line_where_close_samples_are_averaged() -> None:
    rows = np.arange(20.0)[None] * 2.0 + np.linspace(0.0, 0.9, 10)[:, None]
    times, values = merged(grouped(3.0 * rows + 1.0, rows))
    assert times.size < rows.size
    np.testing.assert_allclose(values, 3.0 * times + 1.0, rtol=1e-12)


def test_slices_of_unlike_height_are_told() -> None:
    rows = np.arange(10.0)[None] + np.array([[0.0], [0.5]])
    curve = np.exp(-0.5 * ((rows - 4.0) / 2.0) ** 2)
    assert disagreement(grouped(curve, rows)) < 0.02
    assert disagreement(grouped(curve * [[1.0], [0.5]], rows)) > 0.5
    assert disagreement(grouped(curve[:1], rows[:1])) == 0.0


def test_times_of_another_shape_than_the_slices_are_refused(curves: NDArray[Any]) -> None:
    with pytest.raises(KetyError, match="a row of them for each slice"):
        kety.InputFunction.from_mask(curves, np.zeros((2, 66)), np.ones(curves.shape[:3]))


# --- region ---------------------------------------------------------------------------------------


def test_a_crop_to_one_position_has_times_of_its_own_no_longer(phantom: Phantom) -> None:
    whole = phantom.series
    assert whole.slice_times is not None
    upper = crop(whole, ":,:,3:6")
    assert upper.slice_times is None
    np.testing.assert_array_equal(upper.times, whole.slice_times[3])
    middle = crop(whole, ":,:,2:5")
    assert middle.slice_times is not None
    np.testing.assert_array_equal(middle.slice_times, whole.slice_times[2:5])
    np.testing.assert_allclose(middle.times, whole.slice_times[2:5].mean(axis=0))


def test_blocks_are_of_slices_acquired_together(phantom: Phantom) -> None:
    whole = phantom.series
    assert whole.slice_times is not None
    thick = downsample(whole, (1, 1, 3))
    assert thick.slice_times is not None
    np.testing.assert_array_equal(thick.slice_times, whole.slice_times[[0, 3]])
    assert downsample(whole, 2).slice_times is not None
    with pytest.raises(KetyError, match=r"slices 2 to 3 were acquired up to 2 s apart"):
        downsample(whole, (1, 1, 2))
    with pytest.raises(KetyError, match="have no mean at one time"):
        downsample(whole, (1, 1, 4))


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("constant", [True, False])
def test_slice_times_survive_a_nifti_file(phantom: Phantom, tmp_path: Path, constant: bool) -> None:
    rows = phantom.series.slice_times
    assert rows is not None
    if not constant:
        rows = rows.copy()
        rows[4, 7:] += 0.25
    series = replace(phantom.series, times=rows.mean(axis=0), slice_times=rows)
    write_series(series, tmp_path / "dce.nii.gz")
    sidecar = json.loads((tmp_path / "dce.json").read_text())
    assert ("SliceTiming" in sidecar) is constant
    back = read_series(tmp_path / "dce.nii.gz")
    assert back.slice_times is not None
    np.testing.assert_allclose(back.slice_times, rows, atol=1e-9)
    np.testing.assert_allclose(back.times, rows.mean(axis=0), atol=1e-9)
    assert "each slice's own" in back.times_from
    assert read_series(tmp_path / "dce.nii.gz", times=2.0).slice_times is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"SliceTiming": [0.0, 1.0]}, r"SliceTiming in its sidecar has shape \(2,\)"),
        ({"SliceTiming": "soon"}, "SliceTiming in its sidecar is not numbers"),
        ({"SliceEncodingDirection": "j"}, "must be those of the third axis"),
        ({"SliceTimes": [[0.0, 1.0]]}, "SliceTimes in its sidecar has shape"),
        ({"SliceTiming": [0, 0, 0, float("1e400"), 0, 0]}, "slice 3: time inf"),
    ],
)
def test_wrong_slice_times_in_a_sidecar_are_refused(
    phantom: Phantom, tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    write_series(phantom.series, tmp_path / "dce.nii.gz")
    path = tmp_path / "dce.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    with pytest.raises(KetyError, match=message):
        read_series(tmp_path / "dce.nii.gz")


def test_slices_counted_from_the_other_end(phantom: Phantom, tmp_path: Path) -> None:
    write_series(phantom.series, tmp_path / "dce.nii.gz")
    path = tmp_path / "dce.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"SliceEncodingDirection": "k-"}))
    back = read_series(tmp_path / "dce.nii.gz").slice_times
    assert back is not None
    assert phantom.series.slice_times is not None
    np.testing.assert_allclose(back, phantom.series.slice_times[::-1])


# --- the road from files to a report --------------------------------------------------------------


def heard(folder: Path, source: InputSource | None, **options: Any) -> tuple[Any, dict[str, str]]:
    lines: dict[str, str] = {}
    study = read_study(
        folder / "dce.nii.gz",
        source,
        tell=lambda label, text: lines.setdefault(label, text),
        **options,
    )
    return study, lines


def test_a_study_is_fitted_at_its_slices_times(folder: Path) -> None:
    source = InputSource(mask=folder / "aorta.nii.gz")
    study, lines = heard(folder, source, mask=folder / "tumour.nii.gz")
    assert lines["slices"].startswith("2 different times in a frame, up to 2 s apart")
    assert study.series.slice_times is not None
    # The input has samples of both positions, and reaches the last frame of the later.
    assert study.aif.times.size == 132
    assert study.aif.times[-1] == study.series.slice_times.max()
    # All slices' baseline frames precede the bolus, which arrives at 10 s.
    assert study.baseline is not None
    assert study.series.slice_times[:, study.baseline].max() <= 10.0 + 2.5
    maps = estimate(study, fitted=True)
    truth = {name: np.asarray(_truth(folder, name)) for name in ("ktrans", "delay")}
    good_ones = maps["status"].values == kety.Status.CONVERGED
    for half in (slice(0, 3), slice(3, 6)):
        inside = good_ones[:, :, half]
        off = (maps["delay"].values - truth["delay"])[:, :, half][inside]
        assert abs(float(np.median(off))) < 0.4  # 1 s where the shuttle is ignored
    record = study.facts["slice_times"]
    assert record == lines["slices"]


def _truth(folder: Path, name: str) -> NDArray[Any]:
    from kety.io import read_volume

    return np.asarray(read_volume(folder / f"truth_{name}.nii.gz").data)


def test_an_input_of_the_early_slices_is_held_to_the_last_frame(
    folder: Path, tmp_path: Path
) -> None:
    from kety.io import read_volume, write_volume

    volume = read_volume(folder / "aorta.nii.gz")
    lower = volume.data.copy()
    lower[:, :, 3:] = 0
    write_volume(replace(volume, data=lower), tmp_path / "lower.nii.gz")
    study, _ = heard(folder, InputSource(mask=tmp_path / "lower.nii.gz"))
    assert study.aif.times.size == 67
    assert study.aif.concentration[-1] == study.aif.concentration[-2]
    estimate(study)


def test_frames_of_a_merged_input_cannot_be_chosen(folder: Path) -> None:
    source = InputSource(mask=folder / "aorta.nii.gz", frames=range(40))
    with pytest.raises(KetyError, match="so frames of it cannot be chosen"):
        heard(folder, source)


def test_the_report_compares_curves_at_their_own_times(folder: Path, tmp_path: Path) -> None:
    study, _ = heard(folder, InputSource(table=folder / "aif.csv"), mask=folder / "tumour.nii.gz")
    maps = estimate(study)
    written = write_outcome(study, maps, tmp_path / "maps", record={})
    assert written.report is not None
    page = written.report.read_text()
    assert "every slice was fitted at its own" in page
    assert "residuals of neighbouring frames are correlated beyond" not in page


def test_residuals_are_those_at_the_slices_own_times(
    phantom: Phantom, curves: NDArray[Any]
) -> None:
    from kety.report.content import Study
    from kety.report.summary import at_frames, determined, measured

    series, mask = phantom.series, exchanging(phantom)
    maps = kety.fit(curves, series.slice_times, phantom.aif, mask=mask)
    how: dict[str, Any] = {"title": "", "provenance": {}}
    own = Study(maps, curves, series.times, phantom.aif, slice_times=series.slice_times, **how)
    mixed = replace(own, slice_times=None)
    voxels = determined(own)
    left = [np.abs(measured(one, voxels) - at_frames(one, voxels)).max() for one in (own, mixed)]
    assert left[0] < 0.1 < 10.0 < left[1]
    with pytest.raises(KetyError, match="expected a row for each slice"):
        replace(own, slice_times=series.slice_times[:2] if series.slice_times is not None else None)


def test_intervals_are_found_group_by_group_and_propagation_refused(folder: Path) -> None:
    from kety.bootstrapping import Bootstrap
    from kety.uncertain import Uncertain

    study, _ = heard(folder, InputSource(table=folder / "aif.csv"), mask=folder / "tumour.nii.gz")
    told: dict[str, str] = {}
    maps = estimate(
        study,
        certainty=Certainty(bootstrap=Bootstrap(samples=20)),
        tell=lambda label, text: told.setdefault(label, text),
    )
    assert told["bootstrap"].endswith("in 2 groups of slices")
    fitted = maps["status"].values == kety.Status.CONVERGED
    spread = maps["ktrans_upper"].values - maps["ktrans_lower"].values
    assert (spread[fitted] > 0).all()
    with pytest.raises(KetyError, match="crop to slices of one time, or leave it out"):
        estimate(study, certainty=Certainty(uncertain=Uncertain(hematocrit=0.03)))


def test_model_free_maps_count_from_one_arrival(folder: Path, tmp_path: Path) -> None:
    good(
        "maps",
        folder / "dce.nii.gz",
        "--mask",
        folder / "aorta.nii.gz",
        "--out",
        tmp_path / "m",
        "--aif",
        folder / "aif.csv",
        "--deconvolve",
        "circulant",
        "--no-report",
    )
    from kety.io import read_maps

    found = read_maps(tmp_path / "m").maps
    arrival = found["bat"].values
    lower, upper = np.nanmedian(arrival[:, :, :3]), np.nanmedian(arrival[:, :, 3:])
    # The aorta of all slices fills at once, by the series' clock.
    assert abs(lower - upper) < 0.6
    assert abs(np.nanmedian(found["tmax"].values)) < 1.5


def test_the_command_line_refuses_joint_estimation_and_crops(folder: Path, tmp_path: Path) -> None:
    arguments = (
        "fit",
        folder / "dce.nii.gz",
        "--aif",
        folder / "aif.csv",
        "--mask",
        folder / "tumour.nii.gz",
        "--joint",
        "graph",
        "--no-report",
        "--out",
        tmp_path / "j",
    )
    refused = run(*arguments)
    assert refused.exit_code == 2
    assert "crop to slices that were acquired together" in refused.output
    done = good(*arguments, "--crop", ":,:,3:6", "--strength", "4")
    assert "joint" in done.output


def test_a_phantom_of_one_slice_cannot_shuttle() -> None:
    with pytest.raises(KetyError, match="1 slice cannot be taken at two positions"):
        simulate_abdomen((32, 27, 1), shuttle=1.0)
    with pytest.raises(KetyError, match="found shuttle 9"):
        simulate_abdomen((32, 27, 2), shuttle=9.0)
    assert isinstance(simulate_abdomen((32, 27, 2), noise=0.0).series, Series)
