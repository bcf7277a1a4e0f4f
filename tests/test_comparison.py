"""`kety.compare`: simulated studies whose change is known, and input that cannot be compared."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

import kety
from kety.comparison import Comparison
from kety.comparison.changes import changes
from kety.errors import KetyError
from kety.fitting.status import Status
from kety.inputs import population_input
from kety.io import read_maps, write_maps

GRID = (24, 24, 4)
TIMES = np.arange(0.0, 240.0, 4.0)
NOISE = 0.006
TRUE = {"ktrans": 0.25, "kep": 0.6, "vb": 0.06, "delay": 3.0}
AFFINE = np.diag([2.0, 2.0, 5.0, 1.0])


def study(seed: int, changed: NDArray[np.bool_] | None = None, factor: float = 1.3) -> xr.Dataset:
    """A fit of noisy curves of uneven tissue, Ktrans and kep multiplied where they changed."""
    texture = np.exp(0.1 * np.random.default_rng(0).normal(size=GRID))
    times = np.where(np.zeros(GRID, bool) if changed is None else changed, factor, 1.0)
    truth = {name: np.full(GRID, value) for name, value in TRUE.items()}
    for name in ("ktrans", "kep"):
        truth[name] = truth[name] * texture * times
    aif = population_input("parker", 240.0, delay=12.0)
    curves = kety.simulate_curves(truth, TIMES, aif, "extended_tofts").reshape(*GRID, -1)
    noisy = curves + NOISE * np.random.default_rng(seed).normal(size=curves.shape)
    return kety.fit(noisy, TIMES, aif, mask=np.ones(GRID, bool), threads=1)


@pytest.fixture(scope="module")
def grown() -> NDArray[np.bool_]:
    mask = np.zeros(GRID, bool)
    mask[4:10, 4:10, :] = True
    return mask


@pytest.fixture(scope="module")
def before() -> xr.Dataset:
    return study(1)


@pytest.fixture(scope="module")
def retest() -> xr.Dataset:
    return study(2)


@pytest.fixture(scope="module")
def after(grown: NDArray[np.bool_]) -> xr.Dataset:
    return study(3, grown)


@pytest.fixture(scope="module")
def changed(before: xr.Dataset, after: xr.Dataset, grown: NDArray[np.bool_]) -> Comparison:
    same = np.zeros(GRID, bool)
    same[14:20, 14:20, :] = True
    return kety.compare(before, after, roi={"grown": grown, "same": same}, rc={"ktrans": "20%"})


def row(found: Comparison, region: str, name: str) -> kety.comparison.RegionChange:
    return next(r for r in found.rois if (r.region, r.parameter) == (region, name))


@pytest.fixture
def heard() -> Iterator[list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        texts: list[str] = []
        yield texts
        texts += [str(one.message) for one in caught]


def test_scores_of_what_did_not_change_are_those_of_noise(
    before: xr.Dataset, retest: xr.Dataset
) -> None:
    found = kety.compare(before, retest)
    for name, score in found.pairs[0].scores.items():
        assert score.count > 2200
        assert 0.93 <= 1 - score.beyond / score.count <= 0.97, name
        assert 0.93 <= score.sd <= 1.07, name
        assert score.found <= 5, name
    assert not any(one.exceeds for one in found.rois)


def test_many_unchanged_regions_are_found_as_often_as_chance_says(
    before: xr.Dataset, retest: xr.Dataset
) -> None:
    x, y, z = np.indices(GRID) // np.array([4, 4, 2])[:, None, None, None]
    labels = 1 + x + 6 * y + 36 * z
    for statistic in ("mean", "median"):
        found = kety.compare(
            before, retest, roi=labels, statistic=statistic, parameters=["ktrans", "ve"]
        )
        assert len(found.rois) == 2 * 72
        share = np.mean([one.p < 0.05 for one in found.rois])
        assert share <= 0.1, statistic
        assert not any(one.exceeds for one in found.rois)


def test_a_change_of_30_percent_is_found_and_no_other(changed: Comparison) -> None:
    for name in ("ktrans", "kep"):
        one = row(changed, "grown", name)
        assert one.exceeds
        assert one.percent == pytest.approx(30, abs=4)
        assert one.interval[0] < 0.3 * TRUE[name] < one.interval[1] + 0.02
    for name in ("vb", "delay", "ve", "vp"):
        assert not row(changed, "grown", name).exceeds
    assert not any(r.exceeds for r in changed.rois if r.region == "same")
    assert changed.tests == 12


def test_the_change_of_a_median_is_that_of_the_changes(
    changed: Comparison, before: xr.Dataset, after: xr.Dataset, grown: NDArray[np.bool_]
) -> None:
    one = row(changed, "grown", "ktrans")
    a, b = (fit.ktrans.values[grown].astype(float) for fit in (before, after))
    assert (one.a, one.b) == (pytest.approx(np.median(a)), pytest.approx(np.median(b)))
    assert one.change == pytest.approx(np.median(b - a))
    mean = kety.compare(before, after, roi=grown, statistic="mean", parameters=["ktrans"]).rois[0]
    assert mean.change == pytest.approx(b.mean() - a.mean())


def test_repeatability_is_tested_where_a_coefficient_is_given(changed: Comparison) -> None:
    grown, same = row(changed, "grown", "ktrans"), row(changed, "same", "ktrans")
    assert (grown.exceeds_limit, same.exceeds_limit) == (True, False)
    assert grown.limit == pytest.approx(0.2 * np.hypot(grown.a, grown.b) / np.sqrt(2))
    assert row(changed, "grown", "kep").exceeds_limit is None


def test_maps_of_change(changed: Comparison, before: xr.Dataset, after: xr.Dataset) -> None:
    maps = changed.maps
    assert maps is not None
    a, b = before.ktrans.values.astype(float), after.ktrans.values.astype(float)
    error = np.sqrt(before.ktrans_se.values.astype(float) ** 2 + after.ktrans_se.values**2)
    assert maps.ktrans_change.values == pytest.approx(b - a, rel=1e-4, abs=1e-6)
    assert maps.ktrans_change_percent.values == pytest.approx(100 * (b - a) / a, rel=1e-4, abs=1e-3)
    known = np.isfinite(error)
    assert maps.ktrans_z.values[known] == pytest.approx(
        ((b - a) / error)[known], rel=1e-4, abs=1e-4
    )
    assert "delay_change_percent" not in maps
    assert maps.ktrans_change.attrs["units"] == "1/min"


def test_swapped_studies_change_the_other_way(
    changed: Comparison, before: xr.Dataset, after: xr.Dataset
) -> None:
    masks = {name: one for name, (one, _) in changed.pairs[0].regions.items()}
    other = kety.compare(after, before, roi=masks)
    for one, turned in zip(changed.rois, other.rois, strict=True):
        assert turned.change == pytest.approx(-one.change)
        assert turned.p == pytest.approx(one.p)
        assert turned.error == pytest.approx(one.error)


def test_changes_are_nan_where_they_are_not_defined() -> None:
    change, percent, z = changes(
        np.array([0.0, 1.0, np.nan, -2.0]),
        np.array([1.0, 2.0, 1.0, -1.0]),
        np.array([1.0, np.nan, 1.0, 0.6]),
        np.array([1.0, 1.0, 1.0, 0.8]),
    )
    assert change == pytest.approx([1.0, 1.0, np.nan, 1.0], nan_ok=True)
    assert percent == pytest.approx([np.nan, 100.0, np.nan, 50.0], nan_ok=True)
    assert z == pytest.approx([1 / np.sqrt(2), np.nan, np.nan, 1.0], nan_ok=True)


def test_status_decides_which_voxels_count(before: xr.Dataset, after: xr.Dataset) -> None:
    lost = after.copy(deep=True)
    lost.status.values[:12] = Status.NOT_ENHANCING
    roi = np.zeros(GRID, bool)
    roi[8:16] = True
    with pytest.warns(UserWarning, match="768 voxels were fitted in A and 384 in B, 384 in both"):
        found = kety.compare(before, lost, roi=roi, parameters=["ktrans"])
    pair = found.pairs[0]
    assert pair.transitions is not None
    assert pair.transitions[:, Status.NOT_ENHANCING].sum() == 12 * 24 * 4
    assert pair.transitions.sum() == np.prod(GRID)
    assert found.rois[0].voxels_a == found.rois[0].voxels_b == 384
    assert pair.changes is not None
    assert np.isnan(pair.changes.ktrans_change.values[:12]).all()


def test_studies_on_unlike_grids_are_compared_by_their_own_regions(
    before: xr.Dataset, after: xr.Dataset, grown: NDArray[np.bool_]
) -> None:
    moved = after.isel(x=slice(2, None))
    with pytest.raises(KetyError, match=r"\(24, 24, 4\).*\(22, 24, 4\).*--roi-a and --roi-b"):
        kety.compare(before, moved)
    found = kety.compare(before, moved, roi_a=grown, roi_b=grown[2:], parameters=["ktrans", "vb"])
    assert found.maps is None
    assert found.pairs[0].transitions is None
    assert row(found, "region", "ktrans").exceeds
    assert not row(found, "region", "vb").exceeds
    assert found.agreements == ()


def test_several_pairs_repeat_over_patients(before: xr.Dataset, retest: xr.Dataset) -> None:
    studies = [study(seed) for seed in (4, 5, 6, 7)]
    found = kety.compare([before, *studies[:2]], [retest, *studies[2:]], parameters=["ktrans"])
    assert [one.basis for one in found.agreements] == ["pairs"]
    assert found.agreements[0].figures.units == 3
    assert found.agreements[0].figures.wcv < 0.01
    assert {one.pair for one in found.rois} == {"pair 1", "pair 2", "pair 3"}
    with pytest.raises(KetyError, match="2 studies before and 1 after"):
        kety.compare([before, retest], [before])
    masks = [np.ones(GRID, bool)] * 2
    with pytest.raises(KetyError, match="2 regions for 3 pairs"):
        kety.compare([before, *studies[:2]], [retest, *studies[2:]], roi=masks)


def test_joint_estimates_are_worth_no_more_than_what_they_pool(
    before: xr.Dataset, retest: xr.Dataset, grown: NDArray[np.bool_]
) -> None:
    """Voxels that were drawn together share an error, which their spread does not show."""
    joint = []
    for fit in (before, retest):
        one = fit.assign(pooled=fit.status * 0.0 + 36.0)
        one["ktrans"] = fit.ktrans * 0.0 + fit.ktrans.values[grown].mean()
        joint.append(one)
    with pytest.warns(UserWarning, match="test the voxelwise maps beside them"):
        found = kety.compare(*joint, roi=grown, parameters=["ktrans"])
    one = found.rois[0]
    error = np.hypot(*(np.median(fit.ktrans_se.values[grown]) for fit in joint))
    assert one.independent == pytest.approx(144 / 36)
    assert one.error == pytest.approx(error * np.sqrt(np.pi / 2) / 2, rel=0.02)


def test_a_region_of_one_voxel(before: xr.Dataset, after: xr.Dataset) -> None:
    roi = np.zeros(GRID, bool)
    roi[20, 20, 1] = True
    found = kety.compare(before, after, roi=roi, parameters=["ktrans"])
    one = found.rois[0]
    error = np.hypot(before.ktrans_se.values[20, 20, 1], after.ktrans_se.values[20, 20, 1])
    assert (one.voxels_a, one.independent) == (1, 1.0)
    assert one.error == pytest.approx(error, rel=1e-5)


def test_a_region_that_was_not_fitted_is_said_to_be_so(
    before: xr.Dataset, after: xr.Dataset
) -> None:
    lost = after.copy(deep=True)
    lost.status.values[:4] = Status.OUTSIDE
    roi = np.zeros(GRID, bool)
    roi[:4] = True
    with pytest.warns(UserWarning, match="no voxel of region was fitted in both"):
        found = kety.compare(before, lost, roi=roi)
    assert found.tests == 0
    assert all(np.isnan(one.change) and not one.exceeds for one in found.rois)


def test_nothing_in_common_is_refused(before: xr.Dataset, after: xr.Dataset) -> None:
    lost = after.copy(deep=True)
    lost.status.values[:] = Status.NOT_FINITE
    with pytest.raises(KetyError, match="no voxel was fitted in both studies"):
        kety.compare(before, lost)


def test_maps_that_are_nan_everywhere_have_no_verdict(
    before: xr.Dataset, after: xr.Dataset
) -> None:
    empty = after.copy(deep=True)
    for name in ("ktrans", "ktrans_se"):
        empty[name].values[:] = np.nan
    found = kety.compare(before, empty, parameters=["ktrans"])
    assert found.agreements == ()
    assert np.isnan(found.rois[0].p)
    assert found.pairs[0].scores["ktrans"].count == 0


def test_what_was_not_done_alike_is_told(
    before: xr.Dataset, after: xr.Dataset, heard: list[str]
) -> None:
    other = after.rename(vp="fp", vp_se="fp_se")
    other.ve.attrs["units"] = "%"
    other.attrs["hematocrit"] = 0.3
    other["delay_se"] = other.delay_se * np.nan
    found = kety.compare(before, other)
    assert found.parameters == ("ktrans", "kep", "vb")
    told = " | ".join(found.warnings)
    assert "vp is in A and not in B" in told
    assert "ve is in mL/mL in A and in % in B" in told
    assert "hematocrit differs: A has 0.42, B has 0.3" in told
    assert "delay was held at a value in B" in told
    after.ve.attrs["units"] = "mL/mL"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"parameters": ["fp"]}, "there is no map fp in A, B; the maps of A are ktrans, kep"),
        ({"statistic": "mode"}, "unknown statistic 'mode'; valid: mean, median"),
        ({"correction": "x"}, "unknown correction"),
        ({"roi_a": np.ones(GRID, bool)}, "both roi_a and roi_b"),
        ({"rc": {"fp": 3}}, "coefficient of fp, which is not compared"),
        ({"rc": {"ktrans": -3}}, "coefficient of -3"),
        ({"rc": "nowhere.json"}, "there is no such file"),
        ({"labels": ["a", "b"]}, "labels a, b for 1 pairs"),
    ],
)
def test_bad_arguments(
    before: xr.Dataset, after: xr.Dataset, arguments: dict[str, object], words: str
) -> None:
    with pytest.raises(KetyError, match=words):
        kety.compare(before, after, **arguments)


def test_what_is_no_fit_is_refused(before: xr.Dataset) -> None:
    with pytest.raises(KetyError, match="B is a ndarray"):
        kety.compare(before, np.ones(3))
    with pytest.raises(KetyError, match="A is a Dataset"):
        kety.compare(before.drop_vars("status"), before)


def test_maps_are_read_as_they_were_written(before: xr.Dataset, tmp_path: Path) -> None:
    write_maps(before, tmp_path / "fit", affine=AFFINE, source="dce.nii.gz")
    read = read_maps(tmp_path / "fit")
    assert set(read.maps) == set(before)
    for name in before.data_vars:
        assert np.array_equal(read.maps[name].values, before[name].values, equal_nan=True), name
        for key in ("units", "long_name", "osipi"):
            assert read.maps[name].attrs[key] == before[name].attrs[key]
    assert read.maps.status.dtype == np.uint8
    assert read.record["model"] == "extended_tofts"
    assert np.array_equal(read.affine, AFFINE)  # type: ignore[arg-type]
    some = read_maps(tmp_path / "fit", names=["ktrans", "nothing"])
    assert set(some.maps) == {"ktrans", "status"}
    direct, files = (kety.compare(one, one) for one in (before, tmp_path / "fit"))
    assert [one.a for one in direct.rois] == pytest.approx([one.a for one in files.rois])


def test_folders_that_cannot_be_read(before: xr.Dataset, tmp_path: Path) -> None:
    with pytest.raises(KetyError, match="there is no such folder"):
        read_maps(tmp_path / "nothing")
    with pytest.raises(KetyError, match=r"holds no fit\.json"):
        read_maps(tmp_path)
    fit = tmp_path / "fit"
    write_maps(before, fit, affine=AFFINE, source="dce.nii.gz")
    with pytest.raises(KetyError, match="is a file"):
        read_maps(fit / "fit.json")
    next(fit.glob("*desc-se_Ktrans.nii.gz")).unlink()
    with pytest.raises(KetyError, match=r"there is no such file, but fit\.json lists it"):
        read_maps(fit)
    (fit / "fit.json").write_text("{}")
    with pytest.raises(KetyError, match="lists no status map"):
        read_maps(fit)
    (fit / "fit.json").write_text("{")
    with pytest.raises(KetyError, match="cannot be read as JSON"):
        read_maps(fit)


def test_grids_in_other_places_are_refused(before: xr.Dataset, tmp_path: Path) -> None:
    moved = AFFINE.copy()
    moved[0, 3] = 7.0
    for name, affine in (("a", AFFINE), ("b", moved)):
        write_maps(before, tmp_path / name, affine=affine, source="dce.nii.gz")
    with pytest.raises(KetyError, match=r"affines that differ by up to 7 mm.*--roi-a"):
        kety.compare(tmp_path / "a", tmp_path / "b")
