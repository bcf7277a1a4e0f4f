"""The experiments of the multi-task study in small: what they write, and what their targets say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from kety.cli.main import main
from kety.errors import KetyError, MissingDependencyError
from kety.studies import page
from kety.studies.multitask import (
    STUDY,
    checks,
    lesions,
    methods,
    patients,
    phantom,
    real,
    scale,
    series,
    strength,
    synthetic,
)
from kety.studies.multitask.data import Patient, reference_sequence, simulated_patients
from kety.studies.multitask.lesions import Fitted, Measures
from kety.studies.multitask.methods import LABELS, OURS, VOXELWISE, Sweep, power, spread
from kety.studies.multitask.patients import Estimated
from kety.studies.multitask.scale import Timed
from kety.studies.multitask.series import Prediction
from kety.studies.records import Effort, Outcome


@dataclass(frozen=True)
class Tiny(Effort):
    """Less than quick: 48 voxels along a side at least, two of what is repeated."""

    def pick(self, quick: int, full: int) -> int:
        return 48 if quick > 48 else min(quick, 2)


TINY = Tiny(False, threads=1)


@pytest.fixture
def few_strengths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "QUICK_STRENGTHS", (1e3, 3e4, 1e6))
    monkeypatch.setattr(methods, "QUICK_GRAPH", (1.0, 64.0))
    monkeypatch.setattr(checks, "QUICK_STRENGTHS", (1.0, 1e7))
    monkeypatch.setattr(checks, "MOST_BFGS", 0.0)


def written(outcome: Outcome, folder: Path) -> str:
    """The page of an outcome, its CSV files checked."""
    text = page.write(folder, STUDY, [outcome], {}).read_text()
    for table in outcome.tables:
        lines = (folder / f"{table.name}.csv").read_text().splitlines()
        assert len(lines) == 1 + len(table.rows)
        assert all(len(row) == len(table.header) for row in table.rows)
    assert text.count("data:image/png") == len(outcome.pictures)
    assert all(p.png[:4] == b"\x89PNG" and p.alt and p.caption for p in outcome.pictures)
    assert "nan" not in " ".join((*outcome.text, *(t for t, _ in outcome.targets)))
    return text


class TestMethods:
    def test_spread(self) -> None:
        found = spread([1.0, 2.0, 3.0, np.nan])
        assert found == pytest.approx((2.0, 2.0 - 2.484, 2.0 + 2.484), abs=1e-3)
        one = spread([4.0])
        assert one.value == 4.0
        assert np.isnan(one.low)

    @pytest.mark.parametrize(
        ("value", "text"),
        [(1e5, "10⁵"), (31623.0, "3.2 × 10⁴"), (2e-7, "2 × 10⁻⁷"), (0.0, "0"), (np.inf, "∞")],
    )
    def test_power(self, value: float, text: str) -> None:
        assert power(value) == text

    def test_shrunk(self) -> None:
        values = np.arange(20.0).reshape(5, 4)
        np.testing.assert_array_equal(patients.shrunk(values, 2), [[2.5, 4.5], [10.5, 12.5]])
        np.testing.assert_array_equal(patients.shrunk(values, 1), values)
        with pytest.raises(KetyError, match="5 pixels"):
            patients.shrunk(values, 5)

    def test_patients_at_lower_resolution(self) -> None:
        person = simulated_patients(1, 1)[0]
        found = patients.estimate(person, TINY, shrink=4)
        assert found.rates[OURS].shape == (7, 7, 2)
        assert found.regions(patients.CLEAN, 1).right == 100.0


@pytest.mark.usefixtures("few_strengths")
class TestSynthetic:
    def test_runs(self, tmp_path: Path) -> None:
        outcome = synthetic.run(TINY)
        html = written(outcome, tmp_path)
        assert "IPOPT" in html
        assert {c.paper for c in outcome.comparisons} == {0.2, 1.0, 5.0}
        errors = {(row[0], row[1]): row for row in outcome.tables[0].rows}
        assert errors[0.1, LABELS[methods.KNOWN]][4] < errors[0.1, LABELS[VOXELWISE]][4]

    def test_without_casadi_the_page_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def missing(*_: Any, **__: Any) -> None:
            raise MissingDependencyError("the interior-point method needs CasADi")

        monkeypatch.setattr(checks, "interior_point", missing)
        found, why = checks.agreements(reference_sequence(), TINY)
        assert found == []
        assert "needs CasADi" in checks.agreement_words(found, why)
        assert checks.agreement_target(found) == ()

    def test_solvers_agree(self) -> None:
        pytest.importorskip("casadi")
        found, _ = checks.agreements(reference_sequence(), replace(TINY, seed=3))
        assert max(abs(one.difference) for one in found) < checks.AGREEMENT
        ((_, met),) = checks.agreement_target(found)
        assert met
        off = [replace(one, own=one.own * (1.0 + 1e-5)) for one in found]
        assert not checks.agreement_target(off)[0][1]

    @pytest.mark.parametrize(("method", "met"), [(methods.KNOWN, True), (VOXELWISE, False)])
    def test_targets_follow_the_numbers(self, method: str, met: bool) -> None:
        sequence = reference_sequence()
        rng = np.random.default_rng(0)

        def errors(sd: float) -> synthetic.Errors:
            noise = rng.standard_normal((4, *sequence.theta.shape))
            near, far = (sequence.theta * (1.0 + s * noise) for s in (sd / 5, 3 * sd))
            theta = {m: near if m == methods.KNOWN else far for m in LABELS}
            theta[OURS] = theta[method]
            return synthetic.Errors(sequence, sd, theta)

        found = {synthetic.NOISY: errors(0.1), synthetic.FINE: errors(0.01)}
        close, kept, fine = synthetic.targets(found)
        assert close[1] is met
        assert kept[1]
        assert fine[1], "equal to voxelwise is not worse"
        lost = {m: x.copy() for m, x in found[synthetic.NOISY].theta.items()}
        lost[OURS][:, sequence.regions.ravel() == 1] = sequence.theta[0]
        found[synthetic.NOISY] = replace(found[synthetic.NOISY], theta=lost)
        assert not synthetic.targets(found)[1][1], "a region took the other's values"

    def test_strength_runs(self, tmp_path: Path) -> None:
        outcome = strength.run(TINY)
        assert "10⁵" in written(outcome, tmp_path)
        assert {c.paper for c in outcome.comparisons} == {1e5}

    @pytest.mark.parametrize(("share", "met"), [(0.5, True), (1.5, False)])
    def test_strength_target(self, share: float, met: bool) -> None:
        grid = np.array([1.0, 10.0, 100.0])
        errors = {m: np.tile([3.0, 1.0, 2.0], (4, 1)) for m in strength.METHODS}
        chosen = {m: np.full(4, 10.0) for m in strength.METHODS}
        ends = {m: np.full(4, 2.0 * share) for m in strength.METHODS}
        grids = dict.fromkeys(strength.METHODS, grid)
        sweep = Sweep(0.1, grids, errors, chosen, ends, np.full(4, 2.0))
        assert sweep.best(OURS) == 10.0
        assert strength.ratio(sweep, OURS).value == pytest.approx(max(2.0 * share, 1.0))
        ((_, found),) = strength.targets({"variance": sweep, "standard deviation": sweep})
        assert found is met


class TestPhantom:
    def test_runs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delitem(lesions.MODELS, "one_compartment")  # type: ignore[arg-type]
        monkeypatch.delitem(lesions.JOINTS, "TE")  # type: ignore[arg-type]
        monkeypatch.setattr(phantom, "told", lambda found: ("told",))
        outcome = phantom.run(TINY)
        html = written(outcome, tmp_path)
        assert "Contrast of lesions" in html
        assert len(outcome.targets) == 4

    @staticmethod
    def fitted(rms: float, kept: float, width: float) -> Fitted:
        names = lesions.MODELS["one_compartment"]

        def measures(method: str, rms: float, kept: float, width: float) -> list[Measures]:
            each = dict.fromkeys(names, rms)
            share = {(n, s): kept for n in names for s in (1, 2, 4)}
            widths, half = dict.fromkeys(names, width), dict.fromkeys(names, 0.7)
            return [Measures(method, each, each, share, widths, half, half, 1.0)] * 3

        single = measures(VOXELWISE, 1.0, 1.0, 0.3)
        found = {VOXELWISE: single, OURS: measures(OURS, rms, kept, width)}
        return Fitted("one_compartment", found, None, {})  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("numbers", "expected"),
        [
            ((0.3, 1.0, 0.35), [True, True, True, True]),
            ((0.4, 1.0, 0.35), [False, True, True, True]),
            ((0.3, 0.9, 0.35), [True, True, False, True]),
            ((0.3, 0.8, 0.45), [True, False, False, False]),
        ],
    )
    def test_targets_follow_the_numbers(
        self, numbers: tuple[float, float, float], expected: list[bool]
    ) -> None:
        assert [met for _, met in phantom.targets(self.fitted(*numbers))] == expected


class TestScale:
    def test_runs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(scale, "QUICK", ((48, 48, 1), (72, 72, 1)))
        monkeypatch.setattr(scale, "ENOUGH", 0)
        outcome = scale.run(TINY)
        assert "extrapolated" in written(outcome, tmp_path)
        for row in outcome.tables[0].rows:
            assert 0.05 < row[4] < 4.0  # type: ignore[operator]

    def test_a_failing_fit_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(scale, "CHILD", "kety.no_such_module")
        with pytest.raises(KetyError, match="no_such_module"):
            scale.timed((48, 48, 1), TINY)

    @pytest.mark.parametrize(
        ("factor", "gib", "expected"),
        [
            (1.0, 3.0, [True, True, True, True]),
            (4.0, 3.0, [False, False, True, True]),
            (1.0, 9.0, [True, True, False, True]),
        ],
    )
    def test_targets_follow_the_numbers(
        self, factor: float, gib: float, expected: list[bool]
    ) -> None:
        shapes = [(128, 128, 1), (256, 256, 1), (512, 512, 1), (1000, 1000, 1), (250, 250, 16)]
        found = [
            Timed(s, factor * (1.0 + 2e-5 * np.prod(s)), gib, 0.1, 16.0, 5, True, 20.0)
            for s in shapes
        ]
        assert [met for _, met in scale.targets(found)] == expected
        small = scale.targets(found[:2])
        assert [met for _, met in small[:2]] == expected[:2], "extrapolated"


class TestReal:
    def test_runs_without_reference_data(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(series.VARIABLE, str(tmp_path / "absent"))
        monkeypatch.setattr(real, "simulated_patients", lambda seed: simulated_patients(seed, 1))
        estimate = patients.estimate

        def coarse(one: Patient, effort: Effort, shrink: int) -> Estimated:
            return replace(estimate(one, effort, 2), shrink=shrink)

        monkeypatch.setattr(patients, "estimate", coarse)
        outcome = real.run(TINY)
        html = written(outcome, tmp_path)
        assert "madym_abdomen, dcemrijl_invivo" in html
        assert series.VARIABLE in html
        assert {c.paper for c in outcome.comparisons} == {22.6, 8.6, 7.0, 5.2, 4.0, None}

    def test_real_series(
        self, reference: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = reference("madym_abdomen")
        # An installed package does not know the folder beside the checkout.
        monkeypatch.setenv(series.VARIABLE, str(folder.parent))
        source = next(s for s in series.SOURCES if s.folder == folder.name)
        one = series.read(source)
        assert one is not None
        place = series.window_of(one)
        assert one.inside[place].shape == (series.WINDOW, series.WINDOW)
        inside = np.zeros_like(one.inside)
        inside[place] = one.inside[place]
        found = series.predict(replace(one, inside=inside), methods.MODEL, TINY, 1)
        assert found.voxels == inside.sum()
        assert 0.5 < found.held / found.held_voxelwise < 1.2
        assert found.chosen <= found.chosen_voxelwise

    @pytest.mark.parametrize(("held", "met"), [(0.9, True), (1.1, False)])
    def test_prediction_target(self, held: float, met: bool) -> None:
        one = Prediction("a series", "tofts", 10, 1.0, 0.9, 1.0, held, 1.0, 60.0)
        assert real.prediction_targets([]) == ()
        assert real.prediction_targets([one])[0][1] is met


def test_the_command_knows_the_study(tmp_path: Path) -> None:
    runner = CliRunner()
    helped = runner.invoke(main, ["reproduce", "--help"])
    assert "multitask" in helped.output
    out = ["--out", str(tmp_path / "x")]
    wrong = runner.invoke(main, ["reproduce", "multitask", "--only", "nothing", *out])
    assert wrong.exit_code != 0
    assert "synthetic, strength, phantom, scale, real" in wrong.output
