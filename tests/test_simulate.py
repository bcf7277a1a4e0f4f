"""The abdomen phantom: its truth, its curves, its noise and its acquisition times."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kety.errors import KetyError
from kety.fitting.forward import simulate_curves
from kety.inputs import InputFunction, population_input
from kety.simulate import (
    LIMITS,
    PROTOCOLS,
    TISSUES,
    Phantom,
    frame_times,
    gaussian,
    protocol,
    rician,
    simulate_abdomen,
    uniform,
)
from kety.simulate.phantom import FREE

SMALL = (48, 40, 3)
NOISE_SHAPE = (96, 80, 40)


@pytest.fixture(scope="module")
def clean() -> Phantom:
    """The default anatomy without noise."""
    return simulate_abdomen(noise=0.0, protocol="brain")


@pytest.fixture(scope="module")
def noisy() -> Phantom:
    """The default study."""
    return simulate_abdomen()


def some_voxels(phantom: Phantom, count: int = 60) -> tuple[NDArray[np.intp], ...]:
    """Indices of enhancing voxels that cover every enhancing tissue."""
    rng = np.random.default_rng(1)
    chosen = []
    for label, tissue in phantom.tissues.items():
        if tissue.enhances:
            inside = np.argwhere(phantom.labels == label)
            chosen.append(inside[rng.integers(len(inside), size=count // 15)])
    return tuple(np.concatenate(chosen).T)


def dense_curve(
    parameters: dict[str, float], times: NDArray[np.float64], aif: InputFunction
) -> NDArray[np.float64]:
    """Extended Tofts by the trapezium rule on a fine grid: slow and obvious."""
    step = 0.01
    grid = np.arange(0.0, times[-1] + step, step)
    inflow = aif(grid - parameters["delay"])
    washout = np.exp(-parameters["kep"] / 60.0 * grid)
    full = np.convolve(inflow, washout)[: grid.size]
    integral = step * (full - 0.5 * (inflow[0] * washout + inflow))
    curve = parameters["vb"] * inflow + parameters["ktrans"] / 60.0 * integral / (
        1.0 - aif.hematocrit
    )
    return np.asarray(np.interp(times, grid, curve), dtype=np.float64)


def test_same_arguments_give_the_same_study() -> None:
    first = simulate_abdomen(SMALL, seed=3)
    second = simulate_abdomen(SMALL, seed=3)
    np.testing.assert_array_equal(first.series.data, second.series.data)
    for name in first.truth:
        np.testing.assert_array_equal(first.truth[name], second.truth[name])


def test_seed_changes_texture_and_noise_but_not_anatomy() -> None:
    first, second = simulate_abdomen(SMALL, seed=0), simulate_abdomen(SMALL, seed=1)
    np.testing.assert_array_equal(first.labels, second.labels)
    liver = first.mask("liver")
    assert (first.truth["ktrans"][liver] != second.truth["ktrans"][liver]).all()
    air = ~first.body
    assert np.corrcoef(first.series.data[air].ravel(), second.series.data[air].ravel())[
        0, 1
    ] == pytest.approx(0.0, abs=0.02)


def test_noise_and_sampling_leave_truth_alone() -> None:
    first = simulate_abdomen(SMALL, noise=0.0, protocol="brain")
    second = simulate_abdomen(SMALL, noise=9.0, protocol=uniform(5.0, 100.0))
    for name in first.truth:
        np.testing.assert_array_equal(first.truth[name], second.truth[name])


def test_truth_lies_within_its_limits(clean: Phantom) -> None:
    exchanging = clean.truth["ktrans"] > 0.0
    assert exchanging.any()
    for name, (lower, upper) in LIMITS.items():
        values = clean.truth[name][exchanging]
        assert lower <= values.min()
        assert values.max() <= upper
    assert (clean.truth["ve"] + clean.truth["vp"])[exchanging].max() <= 1.0


@pytest.mark.parametrize("tissue", [tissue for tissue in TISSUES if tissue.ktrans > 0.0])
def test_tissue_values_lie_within_the_limits(tissue: object) -> None:
    for name, (lower, upper) in LIMITS.items():
        assert lower <= getattr(tissue, name) <= upper


def test_aorta_holds_the_input_itself(clean: Phantom) -> None:
    aorta = clean.mask("aorta")
    assert (clean.truth["vb"][aorta] == 1.0).all()
    assert (clean.truth["ktrans"][aorta] == 0.0).all()
    assert (clean.truth["delay"][aorta] == 0.0).all()
    assert np.isnan(clean.truth["kep"][aorta]).all()
    expected = clean.baseline[aorta][:, None] + clean.aif(clean.series.times)
    np.testing.assert_allclose(clean.series.data[aorta], expected, atol=1e-3)


def test_derived_truth(clean: Phantom) -> None:
    truth = clean.truth
    exchanging = truth["ktrans"] > 0.0
    np.testing.assert_allclose(
        (truth["ve"] * truth["kep"])[exchanging], truth["ktrans"][exchanging]
    )
    np.testing.assert_allclose(truth["vp"], truth["vb"] * (1.0 - clean.aif.hematocrit))
    np.testing.assert_array_equal(np.isnan(truth["kep"]), ~exchanging)
    np.testing.assert_array_equal(np.isnan(truth["ve"]), ~exchanging)
    np.testing.assert_array_equal(np.isnan(truth["delay"]), truth["vb"] == 0.0)


def test_texture_is_a_few_percent_and_smooth(clean: Phantom) -> None:
    liver = clean.mask("liver")
    nominal = next(tissue for tissue in TISSUES if tissue.name == "liver")
    for name in FREE:
        ratio = clean.truth[name] / getattr(nominal, name)
        assert 0.01 < ratio[liver].std() < 0.08
        both = liver[1:] & liver[:-1]
        assert np.abs(np.diff(ratio, axis=0))[both].std() < 0.5 * ratio[liver].std()
    flat = simulate_abdomen(SMALL, noise=0.0, texture=0.0)
    assert np.unique(flat.truth["ktrans"][flat.mask("liver")]).tolist() == [nominal.ktrans]


def test_curves_are_the_forward_model(clean: Phantom) -> None:
    voxels = some_voxels(clean)
    parameters = {name: np.nan_to_num(clean.truth[name][voxels]) for name in FREE}
    expected = simulate_curves(parameters, clean.series.times, clean.aif, "extended_tofts")
    measured = clean.series.data[voxels] - clean.baseline[voxels][:, None]
    np.testing.assert_allclose(measured, expected, atol=1e-3)


def test_curves_agree_with_dense_quadrature(clean: Phantom) -> None:
    voxels = some_voxels(clean, 15)
    measured = clean.series.data[voxels] - clean.baseline[voxels][:, None]
    for index, curve in enumerate(measured):
        parameters = {name: float(np.nan_to_num(clean.truth[name][voxels][index])) for name in FREE}
        expected = dense_curve(parameters, clean.series.times, clean.aif)
        np.testing.assert_allclose(curve, expected, atol=0.02 + 1e-3 * expected.max())


def test_mass_balance() -> None:
    # What the interstitium holds is what flowed in less what flowed out.
    study = simulate_abdomen(SMALL, noise=0.0, protocol=uniform(0.1, 120.0))
    times, aif = study.series.times, study.aif
    for name in ("tumour rim", "liver", "kidney cortex", "spleen"):
        voxel = tuple(np.argwhere(study.mask(name))[0])
        truth = {key: study.truth[key][voxel] for key in FREE}
        blood = aif(times - truth["delay"])
        curve = (study.series.data[voxel] - study.baseline[voxel]).astype(np.float64)
        interstitium = curve - truth["vb"] * blood
        flow = (
            truth["ktrans"] * blood / (1.0 - aif.hematocrit) - truth["kep"] * interstitium
        ) / 60.0
        net = np.sum(0.5 * np.diff(times) * (flow[1:] + flow[:-1]))
        assert interstitium[-1] == pytest.approx(net, rel=2e-3)


def test_baseline_precedes_the_bolus(clean: Phantom) -> None:
    before = clean.series.times < 10.0
    assert before.sum() >= 3
    data = clean.series.data
    np.testing.assert_allclose(
        data[..., before], np.broadcast_to(clean.baseline[..., None], data[..., before].shape)
    )
    assert (clean.aif(np.array([0.0, 5.0, 9.99])) == 0.0).all()
    assert np.diff(clean.aif(np.array([10.0, 16.0]))) > 1.0


@pytest.mark.parametrize(("arrival", "peak"), [(0.0, 250.0), (8.0, 300.0), (15.0, 420.0)])
def test_input_has_the_arrival_and_peak_asked_for(arrival: float, peak: float) -> None:
    study = simulate_abdomen(SMALL, noise=0.0, arrival=arrival, peak=peak)
    assert study.aif.times[0] == arrival
    assert study.aif.times[-1] >= study.series.times[-1]
    assert study.aif.concentration.max() == pytest.approx(peak)
    assert study.aif.site == "blood"


def test_input_of_a_short_injection_has_the_population_shape() -> None:
    study = simulate_abdomen(SMALL, noise=0.0, injection=0.0)
    times = study.series.times
    parker = population_input("parker", float(times[-1]), delay=10.0)(times)
    measured = study.aif(times)
    np.testing.assert_allclose(
        measured / measured.sum(), parker / parker.sum(), atol=1e-6 * parker.max()
    )


def test_longer_injection_broadens_the_bolus() -> None:
    widths = []
    for injection in (0.0, 5.0, 15.0):
        aif = simulate_abdomen(SMALL, noise=0.0, injection=injection).aif
        fine = np.arange(0.0, 90.0, 0.1)
        widths.append(np.sum(aif(fine) > 150.0))
    assert widths[0] < widths[1] < widths[2]


def test_scan_that_stops_before_the_peak_keeps_the_scale() -> None:
    short = simulate_abdomen(SMALL, noise=0.0, protocol=[0.0, 5.0, 12.0, 15.0])
    full = simulate_abdomen(SMALL, noise=0.0)
    np.testing.assert_allclose(
        short.aif(np.array([12.0, 15.0])), full.aif(np.array([12.0, 15.0])), rtol=1e-2
    )


def test_noise_has_the_deviation_asked_for(noisy: Phantom) -> None:
    outside = noisy.series.data[~noisy.body].astype(np.float64) + 1000.0
    assert outside.mean() == pytest.approx(0.0, abs=0.02)
    assert outside.std() == pytest.approx(6.0, rel=0.01)
    baseline = noisy.series.data[..., 0] - noisy.baseline
    assert baseline.std() == pytest.approx(6.0, rel=0.02)


def test_correlated_noise_keeps_the_deviation_and_correlates_neighbours() -> None:
    fwhm = 2.0
    noise = gaussian(NOISE_SHAPE, 5.0, seed=2, fwhm=(fwhm, fwhm)).astype(np.float64)
    assert noise.std() == pytest.approx(5.0, rel=0.02)
    for edge in (noise[0], noise[-1], noise[:, 0], noise[:, -1]):
        assert edge.std() == pytest.approx(5.0, rel=0.1)
    # The autocorrelation of a Gaussian kernel of width s is a Gaussian of width s sqrt(2).
    expected = np.exp(-0.25 / (fwhm / 2.3548) ** 2)
    for axis in (0, 1):
        first, second = np.moveaxis(noise, axis, 0)[:-1], np.moveaxis(noise, axis, 0)[1:]
        assert np.corrcoef(first.ravel(), second.ravel())[0, 1] == pytest.approx(expected, abs=0.03)
    assert np.corrcoef(noise[..., :-1].ravel(), noise[..., 1:].ravel())[0, 1] == pytest.approx(
        0.0, abs=0.01
    )


def test_white_noise_is_uncorrelated() -> None:
    noise = gaussian(NOISE_SHAPE, 1.0, seed=2)
    assert noise.dtype == np.float32
    assert np.corrcoef(noise[1:].ravel(), noise[:-1].ravel())[0, 1] == pytest.approx(0.0, abs=0.01)
    np.testing.assert_array_equal(noise, gaussian(NOISE_SHAPE, 1.0, seed=2, fwhm=(0.0, 0.0)))


def test_noise_correlation_of_the_study_is_in_millimetres() -> None:
    study = simulate_abdomen((96, 80, 1), noise_fwhm=8.0)
    noise = study.series.data[..., 0] - study.baseline.astype(np.float64)
    assert noise.shape == (96, 80, 1)
    correlation = np.corrcoef(noise[1:].ravel(), noise[:-1].ravel())[0, 1]
    assert correlation == pytest.approx(np.exp(-0.25 / (2.0 / 2.3548) ** 2), abs=0.08)


def test_rician_noise() -> None:
    rng = np.random.default_rng(0)
    floor = rician(np.zeros(50000), 2.0, seed=rng)
    assert floor.mean() == pytest.approx(2.0 * np.sqrt(np.pi / 2.0), rel=0.01)
    bright = rician(np.full(50000, 100.0), 2.0, seed=rng)
    assert bright.std() == pytest.approx(2.0, rel=0.02)
    assert bright.mean() == pytest.approx(100.0, rel=1e-3)
    signal = np.array([[1.0, 2.0], [3.0, 4.0]])
    np.testing.assert_array_equal(rician(signal, 0.0), signal)
    np.testing.assert_array_equal(rician(signal, 1.0, seed=5), rician(signal, 1.0, seed=5))


def test_every_tissue_is_present(noisy: Phantom) -> None:
    assert set(np.unique(noisy.labels)) == set(noisy.label_names)
    assert len(set(noisy.label_names.values())) == len(TISSUES)
    np.testing.assert_array_equal(noisy.body, ~noisy.mask("air"))
    np.testing.assert_array_equal(
        noisy.roi, noisy.mask("tumour rim", "necrotic core", "satellite lesion")
    )
    assert noisy.series.mask is not None
    np.testing.assert_array_equal(noisy.series.mask, noisy.body)


def test_organs_lie_where_they_belong(clean: Phantom) -> None:
    def centre(*names: str) -> NDArray[np.float64]:
        voxels = np.argwhere(clean.mask(*names)).mean(axis=0)
        return np.asarray((clean.series.affine @ [*voxels, 1.0])[:3], dtype=np.float64)

    assert centre("liver")[0] > 40.0
    assert centre("spleen")[0] < -60.0
    assert centre("aorta")[0] < 0.0 < centre("vena cava")[0]
    assert centre("cortical bone", "bone marrow")[1] < centre("aorta")[1] < centre("liver")[1]
    assert centre("tumour rim")[0] > 60.0


def test_anatomy_does_not_depend_on_the_grid() -> None:
    coarse = simulate_abdomen((64, 54, 4), noise=0.0, protocol=[0.0, 30.0], voxel_size=(6, 6, 6))
    fine = simulate_abdomen((128, 108, 8), noise=0.0, protocol=[0.0, 30.0], voxel_size=(3, 3, 3))
    for name in ("liver", "spleen", "necrotic core", "tumour rim", "kidney cortex"):
        volumes = [
            study.mask(name).sum() * np.linalg.det(study.series.affine[:3, :3])
            for study in (coarse, fine)
        ]
        assert volumes[0] == pytest.approx(volumes[1], rel=0.15)


def test_core_hardly_enhances_and_the_rim_stands_out(clean: Phantom) -> None:
    enhancement = clean.series.data - clean.baseline[..., None]
    peak = {
        name: enhancement[clean.mask(name)].mean(axis=0).max()
        for name in ("necrotic core", "tumour rim", "liver", "fat", "fluid", "aorta")
    }
    assert peak["necrotic core"] < 0.1 * peak["tumour rim"]
    assert peak["liver"] < peak["tumour rim"] < peak["aorta"]
    assert peak["fat"] < 6.0
    assert peak["fluid"] == 0.0


def test_default_geometry(noisy: Phantom) -> None:
    series = noisy.series
    assert series.data.shape == (96, 80, 12, 66)
    assert series.data.dtype == np.float32
    assert series.modality == "CT"
    np.testing.assert_array_equal(np.diag(series.affine), [4.0, 4.0, 5.0, 1.0])
    middle = series.affine @ [95 / 2, 79 / 2, 11 / 2, 1.0]
    np.testing.assert_allclose(middle, [0.0, 0.0, 0.0, 1.0], atol=1e-12)


def test_many_slices_share_the_field_of_view() -> None:
    study = simulate_abdomen((32, 28, 24), noise=0.0, protocol=[0.0, 20.0])
    np.testing.assert_allclose(np.diag(study.series.affine), [12.0, 12.0, 2.5, 1.0])


def test_rounded_study_is_whole_hounsfield_units() -> None:
    rounded = simulate_abdomen(SMALL, rounded=True, noise=20.0)
    exact = simulate_abdomen(SMALL, noise=20.0)
    assert rounded.series.data.dtype == np.int16
    assert rounded.series.data.min() >= -1024
    inside = exact.body
    assert np.abs(rounded.series.data[inside] - exact.series.data[inside]).max() <= 0.501


def test_voxels_beyond_one_call_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = simulate_abdomen(SMALL)
    monkeypatch.setattr("kety.simulate.phantom.VOXELS_AT_ONCE", 37)
    np.testing.assert_array_equal(whole.series.data, simulate_abdomen(SMALL).series.data)


@pytest.mark.parametrize(
    ("name", "samples", "end"), [("two_phase", 66, 300.0), ("brain", 37, 209.0)]
)
def test_protocols(name: str, samples: int, end: float) -> None:
    times = protocol(name)
    assert times.size == samples
    assert (times[0], times[-1]) == (0.0, end)
    assert (np.diff(times) > 0.0).all()
    assert str(samples) in PROTOCOLS[name].description


def test_brain_protocol_has_the_published_phases() -> None:
    steps = np.diff(protocol("brain"))
    assert ((steps[:8] == 2.0).all(), (steps[9:27] == 5.0).all(), (steps[28:] == 10.0).all()) == (
        True,
        True,
        True,
    )


def test_unknown_protocol_lists_the_valid_ones() -> None:
    with pytest.raises(KetyError, match="brain, two_phase, uniform"):
        protocol("three_phase")


@given(
    interval=st.floats(0.05, 20.0),
    steps=st.integers(1, 400),
)
@settings(max_examples=50, deadline=None)
def test_uniform_times_reach_a_multiple(interval: float, steps: int) -> None:
    times = uniform(interval, interval * steps)
    assert times.size == steps + 1
    np.testing.assert_allclose(np.diff(times), interval, rtol=1e-9)


@pytest.mark.parametrize(
    ("interval", "end"), [(0.0, 10.0), (-1.0, 10.0), (5.0, 2.0), (np.nan, 1.0), (1.0, np.inf)]
)
def test_uniform_rejects(interval: float, end: float) -> None:
    with pytest.raises(KetyError, match="expected finite"):
        uniform(interval, end)


@pytest.mark.parametrize(
    "times", [[0.0], [[0.0, 1.0]], [0.0, 0.0, 1.0], [2.0, 1.0], [-1.0, 1.0], [0.0, np.nan]]
)
def test_frame_times_reject(times: list[float]) -> None:
    with pytest.raises(KetyError, match="found frame times"):
        frame_times(times)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": (10, 10)}, "three positive integers"),
        ({"shape": (0, 10, 3)}, "three positive integers"),
        ({"shape": (32.5, 28, 3)}, "three positive integers"),
        ({"shape": (4, 4, 1)}, "no voxel of the aorta"),
        ({"voxel_size": (4.0, 4.0)}, "three lengths"),
        ({"voxel_size": (4.0, 0.0, 5.0)}, "three lengths"),
        ({"noise": -1.0}, "standard deviation"),
        ({"noise": np.nan}, "standard deviation"),
        ({"noise_fwhm": -2.0}, "noise_fwhm"),
        ({"seed": -1}, "seed"),
        ({"arrival": -1.0}, "arrival"),
        ({"arrival": 301.0}, "arrival"),
        ({"injection": -1.0}, "injection"),
        ({"peak": 0.0}, "peak"),
        ({"texture": 0.5}, "texture"),
        ({"texture": np.nan}, "texture"),
        ({"hematocrit": 1.0}, "hematocrit"),
        ({"protocol": "fast"}, "two_phase"),
        ({"protocol": [3.0, 1.0]}, "strictly increasing"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(KetyError, match=message):
        simulate_abdomen(**({"shape": SMALL} | arguments))  # type: ignore[arg-type]


def test_bad_noise_arguments() -> None:
    with pytest.raises(KetyError, match="widths"):
        gaussian((4, 4), 1.0, fwhm=(-1.0,))
    with pytest.raises(KetyError, match="one per axis"):
        gaussian((4,), 1.0, fwhm=(1.0, 1.0))
    with pytest.raises(KetyError, match="magnitude"):
        rician([-1.0], 1.0)
    with pytest.raises(KetyError, match="standard deviation"):
        rician([1.0], np.inf)


def test_unknown_tissue_lists_the_valid_ones(clean: Phantom) -> None:
    with pytest.raises(KetyError, match="aorta"):
        clean.mask("lung")
