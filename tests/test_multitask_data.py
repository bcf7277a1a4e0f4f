"""The multi-task study: its records, the 6 x 6 sequence and the simulated patients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

import kety
from kety.errors import KetyError
from kety.studies.multitask import EXPERIMENTS, STUDY, outcomes, paper
from kety.studies.multitask.data import (
    THETA,
    Patient,
    Sequence66,
    noisy,
    reference_sequence,
    simulated_patients,
)
from kety.studies.records import Effort


@pytest.fixture(scope="module")
def sequence() -> Sequence66:
    return reference_sequence()


@pytest.fixture(scope="module")
def patients() -> list[Patient]:
    return simulated_patients(1)


class TestRecords:
    def test_experiments(self) -> None:
        assert list(EXPERIMENTS) == ["synthetic", "strength", "phantom", "scale", "real"]
        assert STUDY.name == "multitask"
        assert all("kety.studies.multitask." + name == EXPERIMENTS[name] for name in EXPERIMENTS)

    @pytest.mark.parametrize("only", [["synthetics"], []])
    def test_unknown_experiments(self, only: Sequence[str]) -> None:
        with pytest.raises(KetyError, match="synthetic, strength, phantom, scale, real"):
            outcomes(Effort(False), only)

    def test_claims_have_places(self) -> None:
        assert all(one.where and one.what for one in paper.CLAIMS.values())
        assert paper.CLAIMS["regions_TE"].beside(7.0).ratio == 1.0
        assert {method for key in paper.CLAIMS for method in paper.METHODS if key.endswith(method)}
        assert len(paper.ROIS) == paper.PATIENTS


class TestSequence:
    def test_is_the_papers(self, sequence: Sequence66) -> None:
        steps = np.diff(sequence.times)
        assert sequence.times.size == paper.FRAMES
        assert (steps.min(), steps.max()) == paper.INTERVALS
        assert sequence.clean.shape == (36, paper.FRAMES)
        assert sequence.regions.shape == sequence.tissues.shape == paper.GRID
        assert np.unique(sequence.regions).size == paper.REGIONS
        assert np.unique(sequence.tissues).size == paper.TISSUES
        np.testing.assert_array_equal(sequence.theta, np.array(THETA)[sequence.tissues.ravel()])

    def test_tissues_differ_and_are_of_order_one(self, sequence: Sequence66) -> None:
        first, second = (sequence.clean[sequence.tissues.ravel() == k][0] for k in (0, 1))
        assert 0.1 < min(first.max(), second.max()) < max(first.max(), second.max()) < 1.0
        assert np.abs(first - second).max() > 0.05
        assert sequence.aif.concentration.min() == 0.0

    def test_obeys_the_differential_equation(self, sequence: Sequence66) -> None:
        step = 0.01
        times = np.arange(0.0, 120.0, step)
        for voxel in (0, 15):
            one, two = sequence.theta[voxel]
            decay = np.exp(-two * step)
            blood = sequence.aif(times + 0.5 * step)
            tissue = np.zeros(times.size)
            for i in range(1, times.size):
                tissue[i] = tissue[i - 1] * decay + one * step * np.sqrt(decay) * blood[i - 1]
            expected = np.interp(sequence.times[:40], times, tissue)
            np.testing.assert_allclose(sequence.clean[voxel, :40], expected, atol=2e-4)

    @pytest.mark.parametrize(("sd", "first", "second"), [(0.1, 0.16, 0.20), (0.01, 0.016, 0.020)])
    def test_voxelwise_error(
        self, sequence: Sequence66, sd: float, first: float, second: float
    ) -> None:
        curves = np.stack([noisy(sequence, sd, i) for i in range(paper.INSTANCES)])
        maps = kety.fit(
            curves,
            sequence.times,
            sequence.aif,
            "one_compartment",
            delay=False,
            mask=np.ones(curves.shape[:2], np.bool_),
            threads=1,
        )
        errors = [
            np.mean(np.abs(maps[name].values - truth) / truth)
            for name, truth in sequence.parameters.items()
        ]
        assert errors == pytest.approx([first, second], rel=0.1)

    def test_fit_without_noise_gives_the_truth(self, sequence: Sequence66) -> None:
        maps = kety.fit(
            sequence.clean,
            sequence.times,
            sequence.aif,
            "one_compartment",
            delay=False,
            dtype="float64",
            threads=1,
        )
        for name, truth in sequence.parameters.items():
            np.testing.assert_allclose(maps[name].values, truth, rtol=1e-5)

    def test_instances_are_repetitions(self, sequence: Sequence66) -> None:
        first = noisy(sequence, 0.1, 3)
        np.testing.assert_array_equal(first, noisy(sequence, 0.1, 3))
        assert (first != noisy(sequence, 0.1, 4)).all()
        assert (first != noisy(sequence, 0.1, 3, seed=1)).all()
        assert (first - sequence.clean).std() == pytest.approx(0.1, rel=0.05)
        np.testing.assert_allclose(
            first - sequence.clean, 10.0 * (noisy(sequence, 0.01, 3) - sequence.clean)
        )

    @pytest.mark.parametrize(
        ("sd", "instance", "seed", "message"),
        [
            (-0.1, 0, 0, "standard deviation"),
            (0.1, 50, 0, "instance"),
            (0.1, -1, 0, "instance"),
            (0.1, 0, -1, "seed"),
        ],
    )
    def test_bad_arguments(
        self, sequence: Sequence66, sd: float, instance: int, seed: int, message: str
    ) -> None:
        with pytest.raises(KetyError, match=message):
            noisy(sequence, sd, instance, seed=seed)


class TestPatients:
    def test_regions_hold_what_they_say(self, patients: list[Patient]) -> None:
        assert len(patients) == paper.PATIENTS
        expected = (
            {"kidney cortex", "kidney medulla", "fat", "spleen"},
            {"kidney cortex", "fat"},
            {"kidney cortex", "kidney medulla", "liver", "satellite lesion"},
            {"liver", "pancreas", "satellite lesion"},
            {"liver", "tumour rim", "necrotic core"},
        )
        for patient, tissues, stands_for in zip(patients, expected, paper.ROIS, strict=True):
            labels, counts = np.unique(patient.labels, return_counts=True)
            found = dict(zip((patient.label_names[k] for k in labels), counts, strict=True))
            assert min(found.get(name, 0) for name in tissues) >= 20
            assert patient.region.stands_for == stands_for

    def test_shapes_and_truth(self, patients: list[Patient]) -> None:
        for patient in patients:
            size = patient.region.size
            assert 24 <= size <= 40
            assert patient.curves.shape == (size, size, paper.FRAMES)
            assert patient.curves.dtype == np.float32
            assert patient.labels.shape == patient.enhancing.shape == (size, size)
            parameters = {
                name: np.nan_to_num(patient.truth[name]).ravel()
                for name in ("ktrans", "kep", "vb", "delay")
            }
            model = kety.simulate_curves(parameters, patient.times, patient.aif)
            noise = patient.curves - model.reshape(patient.curves.shape)
            assert noise.std() == pytest.approx(patient.noise, rel=0.02)
            assert abs(noise.mean()) < 0.2

    def test_seeds(self, patients: list[Patient]) -> None:
        again, other = simulated_patients(1, 1)[0], simulated_patients(2, 1)[0]
        np.testing.assert_array_equal(again.curves, patients[0].curves)
        np.testing.assert_array_equal(other.labels, again.labels)
        assert (other.truth["ktrans"] != again.truth["ktrans"])[again.enhancing].any()

    @pytest.mark.parametrize("arguments", [(-1, 1), (0, 0), (0, 6)])
    def test_bad_arguments(self, arguments: tuple[int, int]) -> None:
        with pytest.raises(KetyError, match="found"):
            simulated_patients(*arguments)
