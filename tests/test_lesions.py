"""The lesion phantom: its truth, its lesions and borders, and the measures made on it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, label
from scipy.special import ndtr

import kety
from cases import ONE_TERM
from kety.errors import KetyError
from kety.inputs import InputFunction
from kety.models import MODELS, Model, Parameter
from kety.simulate import (
    LesionPhantom,
    border_width,
    contrast_kept,
    protocol,
    relative_rms,
    simulate_lesions,
    surround,
)
from kety.simulate.lesions import BACKGROUND, GRADIENT, LESION_NOISE

SMALL = (48, 48, 1)
SIZES = (1, 2, 4)


@pytest.fixture(scope="module")
def clean() -> LesionPhantom:
    """The default object without noise."""
    return simulate_lesions(noise=0.0)


def fitted(phantom: LesionPhantom) -> Any:
    return kety.fit(
        phantom.curves,
        phantom.times,
        phantom.aif,
        phantom.model,
        mask=np.ones(phantom.labels.shape, np.bool_),
        threads=1,
    )


class TestPhantom:
    @pytest.mark.parametrize("model", ["extended_tofts", "one_compartment", "tofts"])
    def test_fit_without_noise_gives_the_truth(self, model: str) -> None:
        phantom = simulate_lesions(SMALL, noise=0.0, model=model)
        maps = fitted(phantom)
        for name, truth in phantom.truth.items():
            error = relative_rms(maps[name].values, truth, absolute=name == "delay")
            assert error < 1e-4, name  # single precision

    def test_every_model_is_served(self) -> None:
        for model in (MODELS[name] for name in ONE_TERM):
            phantom = simulate_lesions(SMALL, noise=0.0, model=model.name, protocol="brain")
            assert set(phantom.truth) == {*model.names, *(d.name for d in model.derived)}
            assert np.isfinite(phantom.curves).all()
            assert phantom.curves.dtype == np.float32
            assert phantom.curves.shape == (*SMALL, 37)

    def test_tissues_have_no_flow(self) -> None:
        for model in MODELS.keys() - ONE_TERM:
            with pytest.raises(KetyError, match=f"have no .* for the model '{model}'"):
                simulate_lesions(SMALL, noise=0.0, model=model)

    def test_tissues_have_their_parameters(self, clean: LesionPhantom) -> None:
        for tissue, parameters in BACKGROUND.items():
            for name, value in parameters.items():
                assert (clean.truth[name][clean.mask(tissue)] == value).all()
        one = simulate_lesions(SMALL, noise=0.0, model="one_compartment")
        liver = one.mask("liver")
        assert one.truth["k1"][liver] == pytest.approx(0.32 / (1.0 - one.aif.hematocrit))
        assert one.truth["k2"][liver] == pytest.approx(0.8)

    def test_gradient_is_smooth_and_spans_its_range(self, clean: LesionPhantom) -> None:
        x, y, _ = np.nonzero(clean.mask("gradient"))
        region = (slice(x.min(), x.max() + 1), slice(y.min(), y.max() + 1), 0)
        assert clean.mask("gradient")[region].all()
        for name, (low, high) in GRADIENT.items():
            values = clean.truth[name][region]
            assert values.min() == pytest.approx(low)
            assert values.max() == pytest.approx(high)
            steps = np.abs(np.diff(values, axis=0 if name in ("ktrans", "vb") else 1))
            assert steps.max() < 0.12 * (high - low)
        assert clean.truth["ve"].max() < 1.0

    def test_noise_has_the_deviation_asked_for(self, clean: LesionPhantom) -> None:
        noise = simulate_lesions().curves - clean.curves
        assert noise.std() == pytest.approx(LESION_NOISE, rel=0.01)
        smooth = simulate_lesions(noise_fwhm=2.0).curves - clean.curves
        assert smooth.std() == pytest.approx(LESION_NOISE, rel=0.05)
        neighbours = np.corrcoef(smooth[1:].ravel(), smooth[:-1].ravel())[0, 1]
        assert neighbours == pytest.approx(np.exp(-0.25 / (2.0 / 2.3548) ** 2), abs=0.03)

    def test_seeds_are_repetitions(self, clean: LesionPhantom) -> None:
        first, again, other = (simulate_lesions(seed=s, keep_clean=True) for s in (1, 1, 2))
        np.testing.assert_array_equal(first.curves, again.curves)
        assert (first.curves != other.curves).any()
        assert first.clean is not None
        np.testing.assert_array_equal(first.clean, clean.curves)
        np.testing.assert_array_equal(first.labels, other.labels)
        assert first.lesions == other.lesions
        assert clean.clean is None

    def test_own_input_and_times(self) -> None:
        times = np.arange(0.0, 100.0, 4.0)
        aif = InputFunction(times, 5.0 * np.exp(-times / 40.0), hematocrit=0.3, site="plasma")
        phantom = simulate_lesions(SMALL, noise=0.0, protocol=times, aif=aif)
        assert phantom.aif is aif
        assert phantom.curves.max() < 5.0
        np.testing.assert_array_equal(phantom.times, times)
        np.testing.assert_allclose(phantom.truth["vp"], 0.7 * phantom.truth["vb"])

    def test_default_acquisition_is_perfusion_ct(self, clean: LesionPhantom) -> None:
        np.testing.assert_array_equal(clean.times, protocol("two_phase"))
        assert clean.aif.concentration.max() == pytest.approx(300.0)
        assert 10.0 <= clean.aif.times[0] <= 15.0

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"shape": (47, 64, 1)}, "at least 48 x 48"),
            ({"shape": (64, 64)}, "three positive integers"),
            ({"model": "compartment"}, "unknown model"),
            ({"noise": -1.0}, "standard deviation"),
            ({"noise_fwhm": -1.0}, "widths"),
            ({"seed": -1}, "seed"),
            ({"protocol": "fast"}, "two_phase"),
            ({"aif": InputFunction([0.0, 10.0], [0.0, 1.0])}, "ends at 10 s"),
        ],
    )
    def test_bad_arguments(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(KetyError, match=message):
            simulate_lesions(**arguments)

    def test_model_without_values(self, monkeypatch: pytest.MonkeyPatch) -> None:
        flow = Parameter("fp", "1/min", "plasma flow", "Q", "a", (0.0, 5.0))
        monkeypatch.setitem(MODELS, "new", Model("new", "new", "M", "", (flow,)))
        with pytest.raises(KetyError, match="no fp for the model 'new'"):
            simulate_lesions(model="new")

    def test_unknown_tissue_lists_the_valid_ones(self, clean: LesionPhantom) -> None:
        with pytest.raises(KetyError, match="liver, spleen, muscle, gradient, hyper lesion"):
            clean.mask("lung")


class TestLesions:
    @pytest.mark.parametrize("shape", [SMALL, (64, 64, 1), (97, 70, 6)])
    def test_have_their_size_and_do_not_touch(self, shape: tuple[int, int, int]) -> None:
        phantom = simulate_lesions(shape, noise=0.0, protocol=[0.0, 20.0, 40.0])
        grid, count = label(phantom.lesion_mask(), np.ones((3, 3, 3)))
        assert count == len(phantom.lesions)
        for lesion in phantom.lesions:
            inside = tuple(np.transpose(lesion.voxels))
            number = grid[inside][0]
            assert number > 0
            assert len(lesion.voxels) == lesion.size == (grid == number).sum()
            assert np.unique(grid[inside]).size == 1
            assert (phantom.mask(f"{lesion.kind} lesion")[inside]).all()
        np.testing.assert_array_equal(
            phantom.lesion_mask(), phantom.mask("hyper lesion", "hypo lesion")
        )

    def test_are_many_of_each_size_and_kind(self, clean: LesionPhantom) -> None:
        sizes = Counter(lesion.size for lesion in clean.lesions)
        assert set(sizes) == set(SIZES)
        assert min(sizes.values()) >= 12
        assert min(Counter((one.size, one.kind) for one in clean.lesions).values()) >= 6
        assert {one.surround for one in clean.lesions} == set(BACKGROUND)
        larger = simulate_lesions((128, 128, 1), noise=0.0, protocol=[0.0, 20.0, 40.0])
        assert len(larger.lesions) > 4 * len(clean.lesions)

    def test_lie_away_from_borders(self, clean: LesionPhantom) -> None:
        for lesion in clean.lesions:
            x, y, _ = np.transpose(lesion.voxels)
            low, high = (max(x.min() - 4, 0), max(y.min() - 4, 0)), (x.max() + 5, y.max() + 5)
            around = clean.labels[low[0] : high[0], low[1] : high[1], 0]
            inside = clean.lesion_mask()[low[0] : high[0], low[1] : high[1], 0]
            assert np.unique(around[~inside]).size == 1

    def test_differ_clearly_from_their_surround(self, clean: LesionPhantom) -> None:
        for lesion in clean.lesions:
            inside, around = tuple(np.transpose(lesion.voxels)), surround(clean, lesion)
            assert around.sum() >= 12
            assert clean.mask(lesion.surround)[around].all()
            for name, hyper in (("ktrans", 1.6), ("kep", 1.3), ("vb", 1.5)):
                ratio = clean.truth[name][inside] / clean.truth[name][around].mean()
                assert ((ratio > 1.0) == (lesion.kind == "hyper")).all()
                if lesion.kind == "hyper":
                    np.testing.assert_allclose(ratio, hyper)
            later = clean.truth["delay"][inside] - clean.truth["delay"][around].mean()
            np.testing.assert_allclose(later, 0.0 if lesion.kind == "hyper" else 2.0)

    def test_surround_stays_clear_of_every_lesion(self, clean: LesionPhantom) -> None:
        near = label(clean.lesion_mask())[0] > 0
        for axis in (0, 1):
            near = np.max([np.roll(near, k, axis) for k in range(-2, 3)], axis=0)
        assert not any((surround(clean, one) & near).any() for one in clean.lesions)

    def test_border_is_straight_and_clear(self, clean: LesionPhantom) -> None:
        border = clean.border
        first, last = border.rows
        assert last - first >= 24
        left = clean.labels[border.position - border.reach : border.position, first:last]
        right = clean.labels[border.position : border.position + border.reach, first:last]
        assert {clean.label_names[k] for k in np.unique(left)} == {"spleen"}
        assert {clean.label_names[k] for k in np.unique(right)} == {"liver"}


class TestMeasures:
    def test_relative_rms(self) -> None:
        truth = np.array([1.0, 2.0, 4.0])
        assert relative_rms([1.1, 1.8, 4.0], truth) == pytest.approx(np.sqrt(0.02 / 3.0))
        assert relative_rms([2.0, 2.0, 2.0], truth, absolute=True) == pytest.approx(
            np.sqrt(5.0 / 3.0)
        )
        assert relative_rms([1.1, 9.0, 9.0], truth, truth < 1.5) == pytest.approx(0.1)
        assert relative_rms([1.1, np.nan, np.nan], truth) == pytest.approx(0.1)
        assert np.isnan(relative_rms([np.nan] * 3, truth))

    def test_truth_keeps_all_contrast(self, clean: LesionPhantom) -> None:
        for truth in clean.truth.values():
            for size in SIZES:
                assert contrast_kept(truth, truth, clean, size) == pytest.approx(1.0)

    def test_scaled_contrast(self, clean: LesionPhantom) -> None:
        truth = clean.truth["ktrans"]
        halved = truth.copy()
        for lesion in clean.lesions:
            inside = tuple(np.transpose(lesion.voxels))
            level = truth[surround(clean, lesion)].mean()
            share = 0.5 if lesion.size == 2 else 1.2
            halved[inside] = level + share * (truth[inside] - level)
        assert [contrast_kept(halved, truth, clean, s) for s in SIZES] == pytest.approx(
            [1.2, 0.5, 1.2]
        )

    def test_blur_costs_small_lesions_most(self, clean: LesionPhantom) -> None:
        truth = clean.truth["ktrans"]
        kept = [
            contrast_kept(gaussian_filter(truth, (1.0, 1.0, 0.0)), truth, clean, size)
            for size in SIZES
        ]
        assert 0.0 < kept[0] < kept[1] < kept[2] < 0.6

    def test_lesions_without_an_estimate_or_a_contrast(self, clean: LesionPhantom) -> None:
        truth = clean.truth["delay"]
        unknown = np.where(clean.mask("hypo lesion"), np.nan, truth)
        assert np.isnan(contrast_kept(unknown, truth, clean, 1)), (
            "only hypo lesions differ in delay"
        )
        flat = np.ones(clean.labels.shape)
        assert np.isnan(contrast_kept(flat, flat, clean, 4))

    @pytest.mark.parametrize("blur", [0.5, 1.0, 1.7, 3.0])
    @pytest.mark.parametrize("shift", [0.0, 0.3])
    def test_width_of_an_error_function(
        self, clean: LesionPhantom, blur: float, shift: float
    ) -> None:
        x = np.arange(64)[:, None, None] - clean.border.position + 0.5 - shift
        edge = np.broadcast_to(3.0 - 2.0 * ndtr(x / blur), clean.labels.shape)
        assert border_width(edge, clean) == pytest.approx(2.563 * blur, rel=0.02)

    def test_width_of_the_truth_is_none(self, clean: LesionPhantom) -> None:
        for name in ("ktrans", "kep", "vb", "delay"):
            assert border_width(clean.truth[name], clean) == 0.0
        assert border_width(fitted(clean).ktrans.values, clean) < 0.45
        blurred = gaussian_filter(clean.truth["ktrans"], (2.0, 2.0, 0.0))
        assert border_width(blurred, clean) == pytest.approx(2.563 * 2.0, rel=0.05)

    def test_width_survives_noise(self, clean: LesionPhantom) -> None:
        x = np.arange(64)[:, None, None] - clean.border.position + 0.5
        edge = 0.3 + 0.4 * ndtr(x / 1.5) + np.zeros(clean.labels.shape)
        noisy = edge + np.random.default_rng(1).normal(0.0, 0.08, edge.shape)
        noisy[30:, 10] = np.nan
        assert border_width(noisy, clean) == pytest.approx(2.563 * 1.5, rel=0.25)

    def test_width_of_nothing(self, clean: LesionPhantom) -> None:
        assert np.isnan(border_width(np.ones(clean.labels.shape), clean))
        assert np.isnan(border_width(np.full(clean.labels.shape, np.nan), clean))

    def test_bad_maps(self, clean: LesionPhantom) -> None:
        good, bad = np.ones(clean.labels.shape), np.ones((64, 64))
        with pytest.raises(KetyError, match="shape"):
            border_width(bad, clean)
        with pytest.raises(KetyError, match="shape"):
            contrast_kept(good, bad, clean, 1)
        with pytest.raises(KetyError, match="lesions of 3 voxels"):
            contrast_kept(good, good, clean, 3)
        with pytest.raises(KetyError, match="shape"):
            relative_rms(bad, good)
        with pytest.raises(KetyError, match="shape"):
            relative_rms(good, good, np.ones(3, np.bool_))
        with pytest.raises(KetyError, match="not 0"):
            relative_rms(good, np.zeros_like(good))
