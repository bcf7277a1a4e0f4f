"""The brain phantom: its anatomy, its truth, its curves and their noise."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

import kety
from kety.errors import KetyError
from kety.simulate import (
    BRAIN_TISSUES,
    BrainTruth,
    Phantom,
    brain_curves,
    brain_truth,
    protocol,
    simulate_brain,
)
from kety.simulate.brain_anatomy import SCALE, TUMOUR
from kety.simulate.brain_vessels import tissue_arrival, vessels

SMALL = (24, 30, 8)
NORMAL = ("cortex", "white matter", "deep grey matter", "brainstem", "oedema")
Mask = NDArray[np.bool_]


@pytest.fixture(scope="module")
def brain() -> Phantom:
    """The default study."""
    return simulate_brain()


@pytest.fixture(scope="module")
def fine() -> BrainTruth:
    """Voxels of 3 mm, without texture."""
    return brain_truth((54, 66, 50), texture=0.0)


def tissue(truth: BrainTruth, *names: str) -> Mask:
    labels = [i for i, t in enumerate(BRAIN_TISSUES) if t.name in names]
    assert len(labels) == len(names)
    return np.isin(truth.labels, labels)


def centre(truth: BrainTruth, where: Mask) -> NDArray[np.float64]:
    return np.asarray((truth.affine @ [*np.argwhere(where).mean(axis=0), 1.0])[:3])


def test_the_study_is_complete(brain: Phantom) -> None:
    series = brain.series
    assert series.data.shape == (64, 64, 24, 37)
    assert series.data.dtype == np.float32
    assert np.isfinite(series.data).all()
    np.testing.assert_array_equal(series.times, protocol("brain"))
    assert (series.modality, brain.aif.hematocrit) == ("CT", 0.4)
    assert brain.aif.concentration.max() == pytest.approx(300.0)
    for values in brain.truth.values():
        assert values.shape == (64, 64, 24)
        assert values.dtype == np.float64
    assert set(brain.truth) == {"ktrans", "kep", "ve", "vp", "vb", "delay"}
    assert set(np.unique(brain.labels)) == set(brain.label_names)


def test_the_mask_is_the_inside_of_the_skull(brain: Phantom) -> None:
    mask = brain.series.mask
    assert mask is not None
    np.testing.assert_array_equal(mask, ~brain.mask("air", "scalp", "skull"))
    assert (mask <= brain.body).all()
    assert (brain.roi <= mask).all()
    litres = mask.sum() * np.prod(np.diag(brain.series.affine)[:3]) * 1e-6
    assert 1.4 < litres < 1.8
    # Between the inside and the outside there is bone everywhere but below, where the neck begins.
    around = ndimage.binary_dilation(mask[:, :, 8:]) & ~mask[:, :, 8:]
    assert brain.mask("skull")[:, :, 8:][around].mean() > 0.97


def test_the_brain_is_one_piece(fine: BrainTruth) -> None:
    pieces, count = ndimage.label(fine.mask)
    sizes = np.bincount(pieces.ravel())[1:]
    assert count == 1 or sizes.max() > 0.999 * sizes.sum()
    grey_and_white = tissue(fine, "cortex", "white matter", "deep grey matter", "brainstem")
    pieces, _ = ndimage.label(grey_and_white, np.ones((3, 3, 3)))
    assert np.bincount(pieces.ravel())[1:].max() > 0.97 * grey_and_white.sum()


def test_proportions_of_tissue(fine: BrainTruth) -> None:
    share = {
        t.name: float((fine.labels == i)[fine.mask].mean()) for i, t in enumerate(BRAIN_TISSUES)
    }
    assert 0.3 < share["cortex"] < 0.5
    assert 0.2 < share["white matter"] < 0.4
    assert 0.1 < share["csf"] < 0.35
    assert share["artery"] + share["vein"] + share["venous sinus"] < 0.06
    assert all(share[t.name] > 0.0 for t in BRAIN_TISSUES[3:])


def test_the_cortex_is_folded(fine: BrainTruth) -> None:
    """Along a line just below the surface, cortex, sulci and white matter alternate."""
    cortex = tissue(fine, "cortex")
    k = round(float((25.0 - fine.affine[2, 3]) / fine.affine[2, 2]))
    middle = ndimage.distance_transform_edt(fine.mask)[:, :, k]
    ring = (middle > 3.0) & (middle < 6.0)
    assert 0.25 < cortex[:, :, k][ring].mean() < 0.95


def test_where_things_lie(fine: BrainTruth) -> None:
    rim, core = tissue(fine, "tumour rim"), tissue(fine, "necrotic core")
    place = SCALE * np.array(TUMOUR)
    assert np.linalg.norm(centre(fine, rim) - place) < 4.0
    assert np.linalg.norm(centre(fine, core) - place) < 4.0
    # The rim closes around the core.
    shell = ndimage.binary_dilation(core) & ~core
    assert rim[shell].mean() > 0.95
    assert centre(fine, tissue(fine, "artery"))[2] < centre(fine, tissue(fine, "vein"))[2]
    assert abs(centre(fine, tissue(fine, "venous sinus"))[0]) < 3.0


def test_truth_is_physiological(brain: Phantom) -> None:
    truth = brain.truth
    barrier = brain.mask(*NORMAL)
    assert truth["ktrans"][barrier].min() > 0.0
    assert truth["ktrans"][barrier].max() < 0.005
    means = {name: truth["vb"][brain.mask(name)].mean() for name in NORMAL}
    assert 0.03 < means["cortex"] < 0.06
    assert 0.35 < means["white matter"] / means["cortex"] < 0.6
    rim, core = brain.mask("tumour rim"), brain.mask("necrotic core")
    assert truth["ktrans"][rim].mean() > 30.0 * truth["ktrans"][barrier].mean()
    assert truth["ktrans"][core].mean() < 0.15 * truth["ktrans"][rim].mean()
    assert truth["vb"][brain.mask("artery")].min() > 0.9
    exchanging = truth["ktrans"] > 0.0
    assert (truth["ve"] + truth["vp"])[exchanging].max() < 0.6
    np.testing.assert_allclose(
        truth["ve"][exchanging], (truth["ktrans"] / truth["kep"])[exchanging], rtol=1e-5
    )
    np.testing.assert_allclose(truth["vp"], 0.6 * truth["vb"], rtol=1e-5)


def test_what_does_not_exist_is_nan(brain: Phantom) -> None:
    exchanging = brain.truth["ktrans"] > 0.0
    enhancing = exchanging | (brain.truth["vb"] > 0.0)
    for name, exists in (("kep", exchanging), ("ve", exchanging), ("delay", enhancing)):
        np.testing.assert_array_equal(np.isfinite(brain.truth[name]), exists)
    for name in ("ktrans", "vb", "vp"):
        assert np.isfinite(brain.truth[name]).all()
    np.testing.assert_array_equal(enhancing, ~brain.mask("air", "skull", "csf"))


def test_blood_arrives_from_the_base_outwards(fine: BrainTruth) -> None:
    delay = fine.maps["delay"]
    inside = np.isfinite(delay) & fine.mask
    assert delay[inside].min() >= 0.0
    assert delay[inside].max() < 9.5
    mean = {n: float(delay[tissue(fine, n)].mean()) for n in ("artery", "cortex", "venous sinus")}
    assert mean["artery"] + 0.5 < mean["cortex"] < mean["venous sinus"] - 1.0
    heights = fine.affine[2, 3] + fine.affine[2, 2] * np.arange(50)
    left = tissue(fine, "cortex")
    left[27:] = False
    by_height = [delay[:, :, (heights > lo) & (heights < lo + 20)] for lo in (-20, 15, 48)]
    part = [left[:, :, (heights > lo) & (heights < lo + 20)] for lo in (-20, 15, 48)]
    means = [d[p].mean() for d, p in zip(by_height, part, strict=True)]
    assert means[0] < means[1] < means[2]
    assert delay[tissue(fine, "white matter")].mean() > mean["cortex"]


def test_the_right_middle_territory_is_late() -> None:
    points = tuple(np.array(c) for c in ([55.0, -55.0, 4.0], [0.0, 0.0, 45.0], [20.0, 20.0, 20.0]))
    on_time = tissue_arrival((points[0], points[1], points[2]), 0.0)
    late = tissue_arrival((points[0], points[1], points[2]), 3.0)
    assert on_time[0] == pytest.approx(on_time[1], abs=1e-9)
    np.testing.assert_allclose(late - on_time, [3.0, 0.0, 0.0], atol=0.2)


def test_watersheds_are_later_than_territories() -> None:
    x, z = np.full(60, -30.0), np.full(60, 55.0)
    y = np.linspace(-70.0, 50.0, 60)
    across = tissue_arrival((np.linspace(-62.0, -4.0, 60), np.zeros(60), z), 0.0)
    assert across.max() > across[0] + 0.5
    assert across.max() > across[-1] + 0.5
    assert np.ptp(tissue_arrival((x, y, z), 0.0)) > 0.2


def test_delay_is_smooth(fine: BrainTruth) -> None:
    """Between neighbours 3 mm apart, far less than the 6 s over which the delays spread."""
    delay = np.where(tissue(fine, "cortex", "white matter"), fine.maps["delay"], np.nan)
    for axis in range(3):
        steps = np.abs(np.diff(delay, axis=axis))
        steps = steps[np.isfinite(steps)]
        assert np.median(steps) < 0.15
        assert np.quantile(steps, 0.99) < 0.8
        assert steps.max() < 1.6


def test_vessels_are_paired_and_their_arrival_grows() -> None:
    found = vessels()
    assert sum(v.side == 1 for v in found) == sum(v.side == -1 for v in found) > 20
    for vessel in found:
        assert (np.diff([knot[4] for knot in vessel.knots]) >= -1e-9).all()
        assert all(knot[3] > 0.0 for knot in vessel.knots)


def test_curves_are_the_model(brain: Phantom) -> None:
    clean = simulate_brain(SMALL, noise=0.0)
    mask = clean.series.mask
    assert mask is not None
    chosen = mask & (clean.truth["ktrans"] > 0.0)
    parameters = {n: clean.truth[n][chosen] for n in ("ktrans", "kep", "vb", "delay")}
    expected = kety.simulate_curves(parameters, clean.series.times, clean.aif)
    found = clean.series.data[chosen] - clean.baseline[chosen][:, None]
    np.testing.assert_allclose(found, expected, atol=2e-3)
    vessel = mask & (clean.truth["ktrans"] == 0.0) & (clean.truth["vb"] > 0.0)
    there = [tuple(i) for i in np.argwhere(vessel)[:20]]
    blood = [
        clean.truth["vb"][i] * clean.aif(clean.series.times - clean.truth["delay"][i])
        for i in there
    ]
    rows = np.array([clean.series.data[i] - clean.baseline[i] for i in there])
    np.testing.assert_allclose(rows, blood, atol=2e-3)
    assert not (clean.series.data[clean.mask("csf")] != 8.0).any()


def test_noise(brain: Phantom) -> None:
    fluid = brain.series.data[brain.mask("csf")] - 8.0
    assert fluid.std() == pytest.approx(6.0, rel=0.02)
    assert fluid.mean() == pytest.approx(0.0, abs=0.1)
    assert np.corrcoef(fluid[:-1].ravel(), fluid[1:].ravel())[0, 1] == pytest.approx(0.0, abs=0.02)
    air = brain.series.data[~brain.body] + 1000.0
    assert air.std() == pytest.approx(6.0, rel=0.02)


def test_same_arguments_give_the_same_study_and_seeds_differ() -> None:
    first, again, other = (simulate_brain(SMALL, seed=s) for s in (3, 3, 4))
    np.testing.assert_array_equal(first.series.data, again.series.data)
    for name in first.truth:
        np.testing.assert_array_equal(first.truth[name], again.truth[name])
    np.testing.assert_array_equal(first.labels, other.labels)
    cortex = first.mask("cortex")
    assert (first.truth["vb"][cortex] != other.truth["vb"][cortex]).all()
    air = ~first.body
    pairs = np.corrcoef(first.series.data[air].ravel(), other.series.data[air].ravel())
    assert pairs[0, 1] == pytest.approx(0.0, abs=0.02)


def test_blocks_are_the_series(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kety.simulate.brain.VOXELS_AT_ONCE", 100)
    study = simulate_brain(SMALL, seed=2)
    truth = brain_truth(SMALL, 2)
    np.testing.assert_array_equal(truth.mask, study.series.mask)
    inside = study.series.data[truth.mask] - study.baseline[truth.mask][:, None]
    options = {"noise": 6.0, "seed": 2}
    blocks = list(brain_curves(truth, "brain", study.aif, **options))  # type: ignore[arg-type]
    assert [rows.start for rows, _ in blocks] == list(range(0, int(truth.mask.sum()), 100))
    together = np.concatenate([curves for _, curves in blocks])
    np.testing.assert_allclose(together, inside, atol=2e-4)
    for first, last in ((0, 30), (95, 105), (250, 251), (7, 7)):
        part = list(
            brain_curves(truth, "brain", study.aif, first=first, last=last, **options)  # type: ignore[arg-type]
        )
        found = np.concatenate([c for _, c in part]) if part else np.empty((0, 37))
        np.testing.assert_array_equal(found, together[first:last])
        assert sum(rows.stop - rows.start for rows, _ in part) == last - first


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 1), (7, 5, 3), (31, 17, 2), (5, 40, 9)])
def test_any_shape(shape: tuple[int, int, int]) -> None:
    study = simulate_brain(shape, times=[0.0, 10.0, 30.0])
    assert study.series.data.shape == (*shape, 3)
    assert study.series.mask is not None
    assert study.series.mask.any()
    assert np.isfinite(study.series.data).all()


def test_anatomy_does_not_depend_on_the_grid(fine: BrainTruth) -> None:
    coarse = brain_truth((40, 48, 38), texture=0.0)
    for name in ("cortex", "white matter", "necrotic core", "tumour rim", "csf"):
        volumes = [tissue(t, name).sum() * np.prod(np.diag(t.affine)[:3]) for t in (coarse, fine)]
        assert volumes[0] == pytest.approx(volumes[1], rel=0.2)


def test_options() -> None:
    rounded = simulate_brain(SMALL, rounded=True)
    assert rounded.series.data.dtype == np.int16
    exact = simulate_brain(SMALL)
    whole = np.clip(exact.series.data, -1024, 3071)
    np.testing.assert_allclose(rounded.series.data, whole, atol=0.501)
    late = simulate_brain(SMALL, arrival=20.0, peak=150.0)
    assert late.aif(19.0) == 0.0
    assert late.aif.concentration.max() == pytest.approx(150.0)
    small = simulate_brain(SMALL, voxel_size=(8.0, 7.0, 12.0), times="uniform")
    np.testing.assert_array_equal(np.diag(small.series.affine), [8.0, 7.0, 12.0, 1.0])
    assert small.series.times.size == 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": (10, 10)}, "three positive integers"),
        ({"shape": (0, 10, 3)}, "three positive integers"),
        ({"voxel_size": (4.0, 4.0)}, "three lengths"),
        ({"voxel_size": (4.0, -1.0, 5.0)}, "three lengths"),
        ({"voxel_size": (4000.0, 1.0, 1.0), "shape": (2, 1, 1)}, "inside the skull"),
        ({"noise": -1.0}, "standard deviation"),
        ({"noise": np.nan}, "standard deviation"),
        ({"seed": -1}, "seed"),
        ({"peak": 0.0}, "peak"),
        ({"hematocrit": 1.0}, "hematocrit"),
        ({"arrival": -1.0}, "arrival"),
        ({"arrival": 210.0}, "arrival"),
        ({"lag": 5.0}, "lag"),
        ({"texture": 0.3}, "texture"),
        ({"times": "fast"}, "two_phase"),
        ({"times": [3.0, 1.0]}, "strictly increasing"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(KetyError, match=message):
        simulate_brain(**({"shape": SMALL} | arguments))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first": -1}, "first"),
        ({"first": 50, "last": 20}, "first"),
        ({"last": 10**9}, "last"),
        ({"noise": np.inf}, "standard deviation"),
        ({"seed": -2}, "seed"),
    ],
)
def test_bad_ranges_of_voxels(brain: Phantom, options: dict[str, float], message: str) -> None:
    with pytest.raises(KetyError, match=message):
        brain_curves(brain_truth(SMALL), "brain", brain.aif, **options)  # type: ignore[arg-type]


def test_unknown_tissue_lists_the_valid_ones(brain: Phantom) -> None:
    with pytest.raises(KetyError, match="venous sinus"):
        brain.mask("liver")
