"""Expected errors: bound against a dense model, simulation against the bound, the command."""

from __future__ import annotations

import csv
import errno
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
from click.testing import CliRunner, Result
from markupsafe import Markup

import kety
import naive
from cases import TWO_PHASE, artery, options_of
from kety import InputFunction, KetyError, planning
from kety.cli.main import main
from kety.planning import FIGURES, PUBLISHED, TISSUES, Ranges, cramer_rao, expected_errors
from kety.report import protocol, protocol_figures, protocol_verdict

TIMES = TWO_PHASE[TWO_PHASE <= 150]
AIF = artery("georgiou", TIMES[-1] + 6, onset=5.0)
TUMOUR = {"ktrans": 0.25, "kep": 0.8, "vb": 0.08, "delay": 3.3}
NAMES = ["ktrans", "kep", "vb", "delay", "ve", "vp"]


def expect(noise: Any = 1.0, **options: Any) -> xarray.Dataset:
    settings: dict[str, Any] = {"tissues": {"tumour": TUMOUR}, "copies": 400, **options}
    return expected_errors(
        settings.pop("times", TIMES), noise, settings.pop("aif", AIF), **settings
    )


def one(errors: xarray.Dataset, name: str, figure: str) -> float:
    return float(errors[figure].sel(tissue="tumour", parameter=name))


# --- the bound --------------------------------------------------------------------------------


def dense_bound(truth: dict[str, float], fixed: set[str], baseline: bool) -> dict[str, float]:
    """Bounds at unit noise from central differences of the curve by quadrature."""
    columns = {}
    for name, value in truth.items():
        if name not in fixed:
            step = 1e-4 * max(abs(value), 0.1)
            ends = [naive.extended_tofts(AIF, TIMES, **{**truth, name: value + s * step})
                    for s in (1, -1)]  # fmt: skip
            columns[name] = (ends[0] - ends[1]) / (2 * step)
    if baseline:
        columns["constant"] = np.ones(len(TIMES))
    jacobian = np.stack(list(columns.values()), axis=1)
    covariance = np.linalg.inv(jacobian.T @ jacobian)
    at = {name: i for i, name in enumerate(columns)}
    out = {n: float(np.sqrt(covariance[at[n], at[n]])) for n in truth if n in at}
    slope = np.zeros(len(at))
    for name, value in (
        ("ktrans", 1 / truth["kep"]),
        ("kep", -truth["ktrans"] / truth["kep"] ** 2),
    ):
        if name in at:
            slope[at[name]] = value
    out["ve"] = float(np.sqrt(slope @ covariance @ slope))
    if "vb" in at:
        out["vp"] = (1 - AIF.hematocrit) * out["vb"]
    return out


@pytest.mark.parametrize("baseline", [False, True])
@pytest.mark.parametrize("fixed", [set(), {"delay"}, {"vb", "delay"}, {"kep"}])
def test_bound_agrees_with_a_dense_model(fixed: set[str], baseline: bool) -> None:
    found = cramer_rao(TUMOUR, TIMES, 3.0, AIF, fixed=fixed, baseline=baseline)
    expected = dense_bound(TUMOUR, fixed, baseline)
    assert list(found) == NAMES
    for name in NAMES:
        if name in expected:
            np.testing.assert_allclose(found[name], 3 * expected[name], rtol=1e-4, err_msg=name)
        else:
            assert np.isnan(found[name]).all(), name


def test_bound_of_many_is_that_of_each() -> None:
    values = {"ktrans": [0.1, 0.5], "kep": [0.3, 2.0], "vb": 0.1, "delay": [0.0, 4.0]}
    both = cramer_rao(values, TIMES, 1.0, AIF)
    for i in range(2):
        single = {n: np.atleast_1d(v)[i % np.size(v)] for n, v in values.items()}
        for name, bound in cramer_rao(single, TIMES, 1.0, AIF).items():
            np.testing.assert_allclose(both[name][i], bound[0], rtol=1e-9)


def test_bound_where_the_frames_do_not_determine_everything() -> None:
    truth = {"ktrans": 0.0, "kep": 1.0, "vb": 0.1, "delay": 2.0}
    found = cramer_rao(truth, TIMES, 1.0, AIF)
    known = cramer_rao(truth, TIMES, 1.0, AIF, fixed={"kep"})
    assert np.isnan(found["kep"])
    for name in ("ktrans", "vb", "delay", "vp"):
        np.testing.assert_allclose(found[name], known[name], rtol=1e-6)
    before = cramer_rao(truth, np.linspace(0.0, 4.0, 9), 1.0, AIF)
    assert all(np.isnan(bound).all() for bound in before.values())
    errors = expect(tissues={"tumour": truth}, copies=50)
    assert np.isnan(one(errors, "kep", "crb"))
    assert errors.note.sel(parameter="kep").item() == "not determined by the frames"
    assert errors.note.sel(parameter="vb").item() == ""


def test_bound_refuses_too_few_frames() -> None:
    with pytest.raises(KetyError, match="3 frames, 4 unknowns; add frames"):
        cramer_rao(TUMOUR, [10.0, 20.0, 30.0], 1.0, AIF)
    with pytest.raises(KetyError, match="free parameters"):
        cramer_rao(TUMOUR, TIMES, 1.0, AIF, fixed=tuple(TUMOUR))


# --- the simulation ---------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", [False, True])
def test_simulation_meets_the_bound(baseline: bool) -> None:
    errors = expect(1.0, copies=4000, baseline=baseline)
    for name in NAMES:
        bound, sd = one(errors, name, "crb"), one(errors, name, "sd")
        assert abs(sd / bound - 1) < 0.06, name
        assert abs(one(errors, name, "bias")) < 4 * one(errors, name, "bias_error") + 0.05 * bound
        np.testing.assert_allclose(one(errors, name, "bias_error"), sd / np.sqrt(4000), rtol=1e-6)
        assert 0.65 < one(errors, name, "coverage") < 0.71, name
        truth = one(errors, name, "truth")
        assert abs(one(errors, name, "typical_error") / bound - 1) < 0.06, name
        # Of a normal error, in %.
        expected = 100 * bound / truth * np.array([0.6745, np.sqrt(2 / np.pi)])
        for figure, value in zip(("median_error", "mean_percent_error"), expected, strict=True):
            assert abs(one(errors, name, figure) / value - 1) < 0.08, (name, figure)
    assert float(errors.failed.max()) == float(errors.iteration_limit.max()) == 0.0
    assert errors.attrs["baseline"] == ("fitted along" if baseline else "known")


def test_a_baseline_fitted_along_costs_accuracy() -> None:
    known, fitted = expect(copies=2), expect(copies=2, baseline=True)
    assert (fitted.crb > known.crb).all()


def subtracted_bound(frames: list[int]) -> dict[str, float]:
    """Spread at unit noise of least squares on curves less the mean of some of their frames."""
    columns = []
    for name, value in TUMOUR.items():
        step = 1e-4 * max(abs(value), 0.1)
        ends = [naive.extended_tofts(AIF, TIMES, **{**TUMOUR, name: value + s * step})
                for s in (1, -1)]  # fmt: skip
        columns.append((ends[0] - ends[1]) / (2 * step))
    jacobian = np.stack(columns, axis=1)
    subtract = np.eye(len(TIMES))
    subtract[:, frames] -= 1 / len(frames)
    weights = np.linalg.pinv(jacobian) @ subtract
    return dict(zip(TUMOUR, np.linalg.norm(weights, axis=1).tolist(), strict=True))


def test_a_subtracted_baseline_is_simulated() -> None:
    errors = expect(copies=4000, baseline="subtract")
    fitted = expect(copies=2, baseline=True)
    early = int(np.sum(AIF(TIMES) == 0))
    assert errors.attrs["baseline"] == f"subtracted, mean of {early} frames"
    np.testing.assert_array_equal(errors.crb, fitted.crb)
    for name, spread in subtracted_bound(list(range(early))).items():
        assert abs(one(errors, name, "sd") / spread - 1) < 0.06, name
        assert spread >= one(errors, name, "crb"), name
    # Standard errors do not know of the noise that the frames share.
    assert one(errors, "ve", "coverage") < 0.6


def test_typical_error_counts_voxels_without_an_estimate() -> None:
    error = np.array([1.0, -2.0, 3.0, -4.0, 5.0, 6.0, 7.0, 8.0, np.nan, np.nan])
    told = planning._figures(error, error, np.abs(error), np.arange(10))
    assert told["typical_error"] == 7.0
    assert told["typical_error_low"] < 7.0
    assert told["typical_error_high"] == np.inf
    error[4:8] = np.nan
    assert planning._figures(error, error, np.abs(error), np.arange(10))["typical_error"] == np.inf
    assert planning._figures(error * np.nan, error, error, np.arange(10))["typical_error"] == np.inf


def test_limits_hold_the_figure_and_narrow_with_copies() -> None:
    few, many = expect(1.0, copies=200), expect(1.0, copies=3200)
    for name in FIGURES:
        assert (many[f"{name}_low"] <= many[name]).all()
        assert (many[f"{name}_high"] >= many[name]).all()
        width = [e[f"{name}_high"] - e[f"{name}_low"] for e in (few, many)]
        # Limits of quantiles lie on values, which are sparse where there are few.
        rtol = 0.8 if name in ("typical_error", "median_error") else 0.5
        np.testing.assert_allclose(width[0] / width[1], 4, rtol=rtol, err_msg=name)
        # 95 % intervals of independent noise; all six parameters within three half widths.
        assert (abs(few[name] - many[name]) < 1.5 * width[0]).all(), name


def test_a_coarse_input_biases() -> None:
    times = np.arange(0.0, 150.0, 5.0)
    fine = expect(0.0, times=times, copies=2)
    coarse = expect(0.0, times=times, copies=2, input_times="frames")
    assert (abs(fine.bias / fine.truth) < 2e-4).all()
    assert (fine.crb == 0).all()
    assert abs(one(coarse, "vb", "bias")) > 0.1 * TUMOUR["vb"]
    assert "known at 30 times" in coarse.attrs["input"]
    noisy = expect(0.5, times=times, input_times="frames", copies=500)
    np.testing.assert_allclose(one(noisy, "vb", "bias"), one(coarse, "vb", "bias"), rtol=0.2)
    assert one(noisy, "vb", "coverage") < 0.5
    known = np.arange(0.0, TIMES[-1] + 6, 0.25)
    dense = expect(0.0, times=times, copies=2, input_times=known)
    assert abs(one(dense, "vb", "bias")) < 0.01 * TUMOUR["vb"]


def test_noise_of_the_input_adds_to_the_errors_of_a_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "SCANS", 12)
    options: dict[str, Any] = {"input_times": "frames", "copies": 60}
    quiet, noisy = expect(0.5, **options), expect(0.5, **options, input_noise=10.0)
    for name in ("ktrans", "vb"):
        assert one(noisy, name, "sd") > 1.5 * one(quiet, name, "sd"), name
        assert one(noisy, name, "crb") == one(quiet, name, "crb")
    assert noisy.attrs["input_noise"] == 10.0


def test_voxels_of_a_scan_are_not_independent(monkeypatch: pytest.MonkeyPatch) -> None:
    group = np.repeat(np.arange(50), 40)
    shared = np.random.default_rng(0).normal(size=50)[group]
    mean, half = planning._mean(shared, group)
    assert mean == pytest.approx(shared.mean())
    assert half == pytest.approx(1.96 * shared[::40].std(ddof=1) / np.sqrt(50))
    monkeypatch.setattr(planning, "SCANS", 3)
    errors = expect(0.1, copies=30, input_noise=5.0)
    naive_error = one(errors, "vb", "sd") / np.sqrt(30)
    assert one(errors, "vb", "bias_error") > 1.3 * naive_error


def test_a_fixed_delay() -> None:
    free, known = expect(copies=300), expect(copies=300, delay=3.3)
    assert one(known, "vb", "crb") < 0.9 * one(free, "vb", "crb")
    assert np.isnan(one(known, "delay", "crb"))
    assert known.note.sel(parameter="delay").item() == "fixed at 3.3"
    assert abs(one(known, "vb", "sd") / one(known, "vb", "crb") - 1) < 0.15
    wrong = expect(copies=50, delay=False)
    assert one(wrong, "delay", "bias") == pytest.approx(-3.3)
    assert wrong.note.sel(parameter="delay").item() == "fixed at 0, which is not the truth"
    assert abs(one(wrong, "vb", "bias")) > 10 * one(wrong, "vb", "crb")
    held = expect(copies=2, bounds={"vb": (0.08, 0.08)})
    assert held.note.sel(parameter="vp").item().startswith("fixed at")
    outside = expect(copies=2, bounds={"ktrans": (0.0, 0.1)})
    assert outside.note.sel(parameter="ktrans").item() == "truth outside the bounds 0 to 0.1"


def test_delay_by_onset_counts_as_estimated() -> None:
    errors = expect(copies=20, delay="onset")
    assert one(errors, "delay", "crb") == one(expect(copies=2), "delay", "crb")
    assert np.isnan(one(errors, "delay", "coverage"))


def test_tissues_and_ranges() -> None:
    ranges = Ranges({**PUBLISHED, "delay": (1.0, 6.0)})
    held = Ranges({name: (value, value) for name, value in TUMOUR.items()})
    errors = expect(
        {"tumour": 1.0, "mix": 2.0, "held": 1.0},
        tissues={"tumour": TUMOUR, "mix": ranges, "held": held},
        copies=1000,
    )
    assert errors.tissue.values.tolist() == ["tumour", "mix", "held"]
    assert errors.parameter.values.tolist() == NAMES
    assert errors.noise.values.tolist() == [1.0, 2.0, 1.0]
    for name, (low, high) in ranges.limits.items():
        mean = float(errors.truth.sel(tissue="mix", parameter=name))
        assert abs(mean - (low + high) / 2) < 0.1 * (high - low), name
    assert errors.crb.sel(tissue="held").equals(errors.crb.sel(tissue="tumour").drop_vars("tissue")
                                                .assign_coords(tissue="held"))  # fmt: skip
    pooled = expect(tissues=ranges, copies=10)
    assert pooled.tissue.values.tolist() == ["uniform"]


def test_truths_drawn_do_not_depend_on_the_frames() -> None:
    one_way = expect(tissues=Ranges(PUBLISHED), copies=50)
    other = expect(tissues=Ranges(PUBLISHED), copies=50, times=TIMES[::2])
    np.testing.assert_array_equal(one_way.truth, other.truth)


@pytest.mark.parametrize("model", list(kety.MODELS))
def test_default_tissues_of_every_model(model: str) -> None:
    given = options_of(model, AIF)
    errors = expect(tissues=None, model=model, copies=2, **given)
    record = kety.MODELS[model]
    assert errors.tissue.values.tolist() == list(TISSUES)
    assert errors.parameter.values.tolist() == [*record.names, *(d.name for d in record.derived)]
    assert (errors.crb > 0).all()
    assert (errors.note == "").all()
    units = dict(zip(errors.parameter.values, errors.units.values, strict=True))
    assert units == {q.name: q.unit for q in (*record.parameters, *record.derived)}


def test_equal_seeds_equal_results() -> None:
    first, again = expect(5.0, copies=50), expect(5.0, copies=50, threads=1)
    xarray.testing.assert_identical(first, again)
    assert not first.error.equals(expect(5.0, copies=50, seed=1).error)


def test_other_solvers_and_discretizations() -> None:
    for options in (
        {"optimizer": "nelder_mead"},
        {"discretization": kety.Discretization("iir", rate=1.0)},
        {"discretization": "fir"},
    ):
        errors = expect(copies=20, **options)
        assert errors.attrs["optimizer"].startswith("NelderMead")
        assert one(errors, "ktrans", "rmse") < 5 * one(errors, "ktrans", "crb"), options


def test_progress_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    expect(copies=4, input_noise=1.0, progress=True)
    assert "scans" in capfd.readouterr().err


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "noise below 0": ({"noise": -1.0}, "noise of tumour must be a finite number, at least 0"),
    "noise is no number": ({"noise": "6"}, "found '6'"),
    "noise of another tissue": ({"noise": {"liver": 1.0}}, "given for liver; expected tumour"),
    "copies": ({"copies": 1}, "copies must be a whole number, at least 2, found 1"),
    "part of a copy": ({"copies": 2.5}, "found 2.5"),
    "seed": ({"seed": -1}, "seed must be a whole number, at least 0"),
    "noise of the input": ({"input_noise": np.nan}, "input_noise must be a finite number"),
    "input times": ({"input_times": "coarse"}, "must be 'frames' or times in s, found 'coarse'"),
    "input times backwards": ({"input_times": [0.0, 5.0, 3.0]}, "times must increase"),
    "input times too late": ({"input_times": [0.0, 5.0, 900.0]}, "the input function ends at"),
    "unknown model": ({"model": "toft"}, "the models are: tofts"),
    "no input": ({"aif": None}, "aif must be a kety.InputFunction"),
    "times": ({"times": [0.0, 2.0, 1.0]}, "times must increase"),
    "short input": ({"times": np.arange(0.0, 400.0, 5.0)}, "the input function ends at"),
    "no tissues": ({"tissues": {}}, "tissues must map names to parameters"),
    "tissue lacks one": ({"tissues": {"a": {"ktrans": 1.0}}}, "missing: kep, vb"),
    "tissue of another model": ({"model": "patlak"}, "unknown: kep"),
    "derived": ({"tissues": {"a": {**TUMOUR, "ve": 1.0}}}, "unknown: ve"),
    "negative": ({"tissues": {"a": {**TUMOUR, "vb": -0.1}}}, "vb must not be negative"),
    "not a number": ({"tissues": {"a": {**TUMOUR, "vb": "x"}}}, "found ('x', 'x')"),
    "bounds": ({"bounds": {"ktrans": (2.0, 1.0)}}, "lower bound of ktrans exceeds the upper"),
    "baseline": ({"baseline": "mean"}, "must be True, False or 'subtract', found 'mean'"),
    "no baseline": (
        {"baseline": "subtract", "aif": artery("georgiou", TIMES[-1] + 18).shifted(-12.0)},
        "no frame shows the baseline before the input arrives",
    ),
    "optimizer": ({"optimizer": "newton"}, "unknown optimizer 'newton'; valid: varprolm"),
    "discretization": ({"discretization": "ftt"}, "unknown discretization 'ftt'; valid: exact"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    options, phrase = REFUSED[case]
    with pytest.raises(KetyError, match=re.escape(phrase)):
        expect(**options)


@pytest.mark.parametrize("pair", [(2.0, 1.0), (0.0, np.inf), (np.nan, 1.0), 3.0, ("a", "b")])
def test_ranges_refused(pair: Any) -> None:
    with pytest.raises(KetyError, match=r"ktrans must be a finite number, or \(lower, upper\)"):
        Ranges({"ktrans": pair})


# --- the verdict ------------------------------------------------------------------------------


def told(
    percent: list[list[float]], *, sd: float = 0.0, bias: float = 0.0, drawn: bool = False
) -> xarray.Dataset:
    """Errors in % of ktrans and vb (rows) in some tissues (columns), 1000 voxels."""
    typical = np.array(percent).T / 100
    names, form = [f"tissue {i}" for i in range(len(typical))], ("tissue", "parameter")
    flat = {"rmse": typical, "crb": typical, "median_error": 100 * typical}
    flat |= {"truth": np.ones_like(typical), "coverage": np.full_like(typical, 0.68)}
    flat |= {"sd": np.full_like(typical, sd / 100), "bias": np.full_like(typical, bias / 100)}
    variables: dict[str, Any] = {name: (form, values) for name, values in flat.items()}
    variables |= {"typical_error": (form, typical), "note": (form, np.full(typical.shape, ""))}
    variables |= {name: ("tissue", np.zeros(len(names))) for name in ("failed", "at_bound")}
    variables["noise"] = ("tissue", np.ones(len(names)))
    variables["drawn"] = ("tissue", np.full(len(names), drawn))
    variables["error"] = ((*form, "copy"), np.zeros((*typical.shape, 1000)))
    coords = {"tissue": names, "parameter": ["ktrans", "vb"]}
    units = {"units": ("parameter", ["1/min", "mL/mL"])}
    return xarray.Dataset(variables, {**coords, **units}, {"input_noise": 0.0})


@pytest.mark.parametrize(
    ("error", "options", "level", "words"),
    [
        (9.9, {}, "trust", "trust a voxel"),
        (10.1, {}, "large", "large differences only"),
        (30.1, {"sd": 40.0}, "average", "average 16 voxels"),
        (30.1, {"sd": 40.0, "bias": 6.0}, "average", "average 25 voxels"),
        (30.1, {"sd": 40.0, "bias": 10.0}, "none", "not at this noise"),
        (30.1, {"sd": 320.0}, "none", "not at this noise"),  # more voxels than were simulated
        (30.1, {"sd": 40.0, "drawn": True}, "none", "not at this noise"),
        (np.inf, {"sd": 1.0}, "none", "not at this noise"),
    ],
)
def test_verdict_of_a_voxel(error: float, options: Any, level: str, words: str) -> None:
    found = protocol_verdict.verdict(told([[error], [0.0]], **options), "tissue 0", "ktrans")
    assert (found.level, found.words) == (level, words)


def test_no_average_removes_the_noise_of_the_input() -> None:
    errors = told([[40.0], [0.0]], sd=40.0).assign_attrs(input_noise=1.0)
    assert protocol_verdict.verdict(errors, "tissue 0", "ktrans").level == "none"


@pytest.mark.parametrize(
    ("ktrans", "sd", "title"),
    [
        ([5.0, 5.0], 0, "Ktrans can be read voxel by voxel in all 2 tissues"),
        ([5.0, 50.0], 0, "Ktrans can be read voxel by voxel in 1 of 2 tissues"),
        ([20.0, 50.0], 0, "Single voxels show large differences of Ktrans in 1 of 2 tissues"),
        ([40.0, 50.0], 50, "Ktrans can be read in averages over voxels in all 2 tissues"),
        ([40.0], 500, "Ktrans cannot be read at this noise"),
    ],
)
def test_headline(ktrans: list[float], sd: float, title: str) -> None:
    results = {"one": told([ktrans, ktrans], sd=sd)}
    rows, names = protocol_verdict.matrix(results), protocol_verdict.tissues(results)
    assert protocol_verdict.headline(rows, names) == title


def test_protocols_are_compared() -> None:
    results = {"a": told([[10.0, 20.0], [5.0, 5.0]]), "b": told([[5.0, 10.0], [5.0, 5.1]])}
    rows, names = protocol_verdict.matrix(results), protocol_verdict.tissues(results)
    title = "Ktrans can be read voxel by voxel in all 2 tissues with b, in 1 of 2 tissues with a"
    assert protocol_verdict.headline(rows, names) == title
    words = "typical errors are least with b for Ktrans (a 2 times); protocols are alike for vb"
    assert protocol_verdict.comparison(results) == words
    # Errors without end decide between protocols, unless all have them.
    results["a"].typical_error[0, 0] = np.inf
    assert "Ktrans (a ∞ times)" in protocol_verdict.comparison(results)
    results["b"].typical_error[0, 0] = np.inf
    assert "Ktrans (a 2 times)" in protocol_verdict.comparison(results)


def test_names_from_outside_are_escaped() -> None:
    truth = {"ktrans": 0.1, "vb": 0.05}
    errors = expect(copies=4, model="patlak", delay=False, tissues={"<b>$x$": truth})
    results = {"<i>a": errors}
    page = protocol.render(protocol.Plan(results, "HU", [("<u>label", "text")]))
    assert "&lt;b&gt;$x$" in page
    assert not re.search("<[ibu]>[ax$l]", page)


# --- the command ------------------------------------------------------------------------------

BASE = [
    "--population",
    "parker",
    "--copies",
    "50",
    "--tissue",
    "tumour:ktrans=0.25,kep=0.8,vb=0.08",
]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["protocol", *(str(a) for a in arguments)])


def good(*arguments: object) -> Result:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "protocol.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("planned") / "deep" / "plan"
    words = ["--protocol", "brain", "--interval", 3, "--duration", 200, "--noise", 3]
    return out, good(*words, *BASE, "--peak", 300, "--input-at", "frames", "--out", out)


def test_command_says_what_it_did_and_found(planned: tuple[Path, Result]) -> None:
    _, result = planned
    for phrase in (
        "brain: 37, 0 to 209 s, 2 to 14 s apart",
        "every 3 s: 67, 0 to 198 s, 3 s apart",
        "peak 300 HU",
        "known at 67 times",
        "baseline fitted along",
        "typical error: two of three voxels are closer to the truth than this",
        "brain bound",
        "every 3 s typical",
        "brain: single voxels can be trusted for",
        "typical errors are least with every 3 s for",
        "standard errors cover the truth in",
    ):
        assert phrase in result.output, phrase
    mark = r"[●◐○×] [\d,.]+ (%|s)( n=\d+)?"
    for name in ("ktrans", "kep", "vb", "delay", "ve"):
        for label in ("brain", "every 3 s"):
            assert re.search(rf"^{name} +{label} +{mark}$", result.output, re.M), name
    assert not re.search(r"^vp +brain", result.output, re.M)
    assert "\x1b" not in result.output


def test_command_writes_table_picture_and_page(planned: tuple[Path, Result]) -> None:
    out, _ = planned
    assert sorted(p.name for p in out.iterdir()) == [
        f"protocol.{k}" for k in ("csv", "html", "png")
    ]
    rows = table(out)
    assert [r["protocol"] for r in rows] == ["brain"] * 6 + ["every 3 s"] * 6
    assert [r["parameter"] for r in rows[:6]] == NAMES
    needed = {"tissue", "units", "truth", "crb", "typical_error", "typical_error_high", "rmse_low"}
    assert needed | {"bias_error", "failed", "note", "noise", "drawn"} <= set(rows[0])
    assert float(rows[0]["truth"]) == 0.25
    assert 0 < float(rows[0]["crb"]) < 0.25
    assert (out / "protocol.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "protocol.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert captions == list(protocol_figures.CAPTIONS.values())
    for phrase in (
        "<h1>Single voxels show large differences of Ktrans in tumour with ",
        "kety protocol --protocol brain",
        "every 3 s bias",
        "noise (HU)",
        "trust a voxel",
    ):
        assert phrase in page, phrase
    cells = re.findall(r'<td class="(trust|large|average|none)"', page)
    assert len(cells) == 10
    assert "alarm" not in page[page.index("<body>") :]


def no_picture(*arguments: Any) -> Any:
    return Markup("")


def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of the time of a page."""
    monkeypatch.setattr(protocol_figures, "panels", no_picture)
    monkeypatch.setattr(protocol_figures, "picture", lambda *arguments: b"")


def test_equal_commands_give_equal_tables(
    planned: tuple[Path, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_pictures(monkeypatch)
    words = ["--protocol", "brain", "--noise", 3, *BASE, "--peak", 300, "--input-at", "frames"]
    good(*words, "--out", tmp_path, "--quiet")
    first, again = table(planned[0])[:6], table(tmp_path)
    assert first == again


def test_one_protocol_has_all_columns() -> None:
    result = good("--protocol", "brain", "--snr", 40, *BASE, "--range", "delay=0:5")
    header = next(line for line in result.output.splitlines() if line.startswith("tissue"))
    assert " ".join(header.split()) == "tissue truth bound typical in units covered"
    assert re.search(r"^uniform +kep", result.output, re.M)
    assert re.search(r"^noise +\S+ to \S+ mM", result.output, re.M)
    assert "baseline known" in result.output
    assert result.output.rstrip().endswith("nothing")


def test_snr_is_the_peak_over_the_noise() -> None:
    aif = kety.population_input("parker", 224.0, delay=5.0)
    curve = kety.simulate_curves({"ktrans": 0.25, "kep": 0.8, "vb": 0.08}, aif.times, aif)
    result = good("--protocol", "brain", "--snr", 40, *BASE)
    assert f"noise     {curve.max() / 40:.3g} mM" in result.output


def test_quiet_prints_nothing(tmp_path: Path) -> None:
    assert good("--protocol", "brain", "--noise", 0.1, *BASE, "--quiet").output == ""


@pytest.mark.parametrize(("unit", "baseline"), [("HU", "fitted along"), ("mM", "known")])
def test_times_and_input_from_files(tmp_path: Path, unit: str, baseline: str) -> None:
    scale = replace(AIF, concentration=AIF.concentration / (1 if unit == "HU" else 50))
    scale.to_csv(tmp_path / "aif.csv", unit=unit)
    (tmp_path / "mine.csv").write_text("time_s\n" + "\n".join(map(str, TIMES)))
    words = ["--times", tmp_path / "mine.csv", "--aif", tmp_path / "aif.csv", *BASE[2:]]
    result = good(*words, "--noise", 1 if unit == "HU" else 0.02)
    assert f"mine: {len(TIMES)}, 0 to 141 s" in result.output
    assert f"baseline {baseline}" in result.output
    assert re.search(rf"peak \S+ {unit}", result.output)


def test_solver_options_reach_the_fit() -> None:
    words = ["--protocol", "brain", "--noise", 0.1, *BASE, "--copies", 10]
    result = good(*words, "--discretization", "iir", "--rate", 2, "--delay", 0)
    assert "iir" in result.output
    assert "NelderMead" in result.output
    assert "fixed at 0" in result.output
    assert not re.search(r"^delay +[●◐○×]", result.output, re.M)


@pytest.mark.parametrize("choice", ["fit", "known", "subtract"])
def test_baseline_is_chosen(choice: str) -> None:
    words = ["--protocol", "brain", "--noise", 0.1, *BASE, "--copies", 2, "--baseline", choice]
    how = {"fit": "fitted along", "known": "known", "subtract": "subtracted, mean of 3 frames"}
    assert f"noise 0; baseline {how[choice]}" in good(*words).output


def test_what_cannot_be_told_is_a_dash(tmp_path: Path) -> None:
    words = ["--protocol", "brain", "--noise", 1, "--population", "parker", "--copies", 50]
    result = good(
        *words, "--tissue", "vessel:ktrans=0,kep=1,vb=0.5", "--out", tmp_path, "--delay", 0
    )
    assert re.search(r"^ktrans +– .* 1/min$", result.output, re.M)
    assert "no percentage, the truth is 0" in (tmp_path / "protocol.html").read_text()
    assert "kep       not determined by the frames" in result.output
    silent = good("--protocol", "brain", "--noise", 0, *BASE)
    assert "nan" not in silent.output
    assert not re.search("^(bound|errors)", silent.output, re.M)


B = "--protocol brain --population parker"
REFUSED_WORDS: dict[str, tuple[str, str]] = {
    "no frames": ("--population parker --noise 1", "give --protocol, --times or --interval"),
    "frames twice": (f"{B} --protocol brain --noise 1", "sampling a name of its own, once; found"),
    "length of no scan": (f"{B} --noise 1 --duration 60", "give --interval too"),
    "unknown protocol": ("--protocol brian --population parker --noise 1", "expected one of brain"),
    "times missing": ("--times no.csv --population parker --noise 1", "no such file"),
    "short scan": (f"{B} --noise 1 --interval 9 --duration 5", "interval <= end"),
    "no noise": (B, "give --noise SD or --snr RATIO"),
    "noise twice": (f"{B} --noise 1 --snr 3", "give --noise SD or --snr RATIO"),
    "negative noise": (f"{B} --noise -1", "at least 0, found -1"),
    "no ratio": (f"{B} --snr 0", "--snr"),
    "no input": ("--protocol brain --noise 1", "give --aif CSV or --population NAME"),
    "two inputs": (f"{B} --aif a.csv --noise 1", "give --aif CSV or --population NAME"),
    "arrival of a table": (
        "--protocol brain --noise 1 --aif a.csv --population-delay 3",
        "--population-delay can be given with --population only",
    ),
    "table of a model": (
        f"{B} --noise 1 --aif-site blood --aif-time-unit s",
        "--aif-site, --aif-time-unit can be given with --aif only",
    ),
    "no baseline": (
        f"{B} --noise 1 --baseline subtract --population-delay -20",
        "no frame shows the baseline",
    ),
    "unknown input": ("--protocol brain --population parkr --noise 1", "the valid ones are parker"),
    "tissue": (f"{B} --noise 1 --tissue tumour", "expected e.g. tumour:ktrans=0.2,kep=0.6"),
    "tissue lacks one": (f"{B} --noise 1 --tissue a:ktrans=1", "missing: kep, vb"),
    "tissue twice": (
        f"{B} --noise 1 --tissue a:ktrans=1,kep=1,vb=0 --tissue a:ktrans=2,kep=1,vb=0",
        "give every tissue a name of its own, once; found a, a",
    ),
    "tissue of ranges": (
        f"{B} --noise 1 --tissue uniform:ktrans=1,kep=1,vb=0 --range kep=0:1",
        "found uniform, uniform",
    ),
    "parameter twice": (f"{B} --noise 1 --tissue a:ktrans=1,ktrans=2", "expected e.g. tumour"),
    "range twice": (f"{B} --noise 1 --range kep=0:1 --range kep=0:2", "found kep, kep"),
    "bound twice": (f"{B} --noise 1 --bounds kep=0:1 --bounds kep=0:2", "found kep, kep"),
    "range": (f"{B} --noise 1 --range ktrans", "expected e.g. ktrans=0:5"),
    "range of nothing": (f"{B} --noise 1 --range ve=0:1", "unknown: ve"),
    "copies": (f"{B} --noise 1 --copies 1", "at least 2"),
    "model": (f"{B} --noise 1 --model toft", "the models are"),
    "optimizer": (f"{B} --noise 1 --optimizer newton", "valid: varprolm"),
    "peak": (f"{B} --noise 1 --peak 0", "--peak"),
}


@pytest.mark.parametrize("case", REFUSED_WORDS)
def test_command_refuses(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words, phrase = REFUSED_WORDS[case]
    monkeypatch.chdir(tmp_path)
    result = run(*words.split(), "--out", "plan")
    assert result.exit_code == 2, result.output
    assert phrase in " ".join(result.output.split()), result.output
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


def test_folder_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "plan").write_text("")
    result = run(*B.split(), "--noise", 1, "--out", tmp_path / "plan")
    assert result.exit_code == 2
    assert "is a file" in result.output


def full(*arguments: Any, **options: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("failing", ["kety.report.protocol_figures.picture", "os.fsync"])
def test_a_failure_leaves_no_part(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_pictures(monkeypatch)
    (tmp_path / "protocol.csv").write_text("earlier")
    monkeypatch.setattr(failing, full)
    result = run(*B.split(), *BASE[2:], "--noise", 0.1, "--out", tmp_path)
    assert result.exit_code == 2, result.output
    assert [p.name for p in tmp_path.iterdir()] == ["protocol.csv"]
    assert (tmp_path / "protocol.csv").read_text() == "earlier"


def test_interruption_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kety import api

    fit: Callable[..., xarray.Dataset] = api.fit

    def stopped(*arguments: Any, **options: Any) -> xarray.Dataset:
        return fit(*arguments, **options).assign_attrs(interrupted=1)

    monkeypatch.setattr(api, "fit", stopped)
    result = run(*B.split(), *BASE[2:], "--noise", 0.1, "--out", tmp_path / "plan")
    assert result.exit_code == 130
    assert list(tmp_path.iterdir()) == []


def test_input_must_be_given_as_one() -> None:
    with pytest.raises(KetyError, match="input function needs at least 2"):
        expect(aif=InputFunction([0.0], [1.0]))
