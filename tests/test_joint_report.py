"""Joint estimation from the command line to maps on disk, warnings and the report."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from click.testing import Result
from numpy.typing import NDArray

import kety
from commands import good, run
from kety.cli.main import INTERRUPTED
from kety.fitting.status import FITTED, Status
from kety.io import bids, read_volume
from kety.joint import estimate as joint_estimate
from kety.joint.setup import DEEP_RADIUS, DENSE, FLAT_RADIUS, KEPT
from kety.joint_words import concerns, told
from kety.pipeline import InputSource, Study, estimate, provenance, read_study, write_outcome
from kety.report import joint_figures
from kety.report.content import Study as Content
from kety.report.html import render
from kety.report.joint_check import joint_findings
from kety.simulate import simulate_abdomen

SIZE, NOISE = (32, 27, 2), 6.0
PARAMETERS = ("ktrans", "kep", "vb", "delay", "ve", "vp")


def fit(ct: Path, out: Path, *options: object, mask: str = "tumour") -> Result:
    return good(
        "fit", ct / "dce.nii.gz", "--aif", ct / "aif.csv", "--mask", ct / f"{mask}.nii.gz",
        "--out", out, "--threads", 1, *options,
    )  # fmt: skip


def record(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "fit.json").read_text())
    return content


def map_of(folder: Path, name: str) -> NDArray[Any]:
    return read_volume(folder / record(folder)["Maps"][name]).data


def lines(result: Result, label: str = "joint") -> list[str]:
    return [
        s.removeprefix(label).strip() for s in result.output.splitlines() if s.startswith(label)
    ]


def text(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page).replace("\xa0", " ").split())


def section(page: str, anchor: str) -> str:
    found = re.search(rf'<section id="{anchor}">.*?</section>', page, re.DOTALL)
    assert found is not None, anchor
    return found[0]


def anchors(page: str) -> list[str]:
    return re.findall(r'<section id="([^"]+)">', page)


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ct") / "study"
    good("simulate", folder, "--size", ",".join(map(str, SIZE)), "--noise", NOISE)
    return folder


@pytest.fixture(scope="module")
def graph(ct: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("graph") / "maps"
    options = ("--joint", "graph", "--roi", ct / "tumour.nii.gz")
    return out, fit(ct, out, *options, mask="body")


@pytest.fixture(scope="module")
def single(ct: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("single") / "maps"
    return out, fit(ct, out, mask="body")


@pytest.fixture(scope="module")
def study(ct: Path) -> Study:
    return read_study(
        ct / "dce.nii.gz", InputSource(table=ct / "aif.csv"), mask=ct / "tumour.nii.gz"
    )


@pytest.fixture(scope="module")
def maps(study: Study) -> xr.Dataset:
    return estimate(study, joint="graph", threads=1)


# --- command line -----------------------------------------------------------------------------


def test_help_has_a_section_of_its_own() -> None:
    output = good("fit", "--help").output
    solver, joint, rest = (
        output.index(f"\n{name}:\n")
        for name in ("Optimizer and discretization", "Joint estimation", "Output")
    )
    assert solver < joint < rest
    for option in ("--joint ", "--strength ", "--joint-radius ", "--joint-neighbours "):
        assert joint < output.index(option) < rest
    words = " ".join(output.split())
    assert f"[default: {FLAT_RADIUS:g} in a single slice, else {DEEP_RADIUS:g};" in words
    assert f"of up to {DENSE:,} voxels, else {KEPT}]" in words


def test_fit_says_what_joint_estimation_did(graph: tuple[Path, Result]) -> None:
    out, result = graph
    facts = record(out)
    first, second = lines(result)
    assert first.startswith(f"graph, strength {facts['joint_strength']:.3g}, which predicts")
    share = 1 - facts["joint_left_out_error"] / facts["joint_left_out_error_voxelwise"]
    assert share > 0.01
    assert f"left-out frames {100 * share:.1f} % better than voxel by voxel" in first
    effective, free = facts["joint_effective_parameters"], facts["joint_free_parameters"]
    assert f"{effective:,.0f} effective parameters of {free:,}" in second
    assert f"{facts['joint_alone']} voxel" in second or "none alone" in second
    assert effective < free / 3


def test_time_and_values_are_those_of_the_joint_estimate(
    graph: tuple[Path, Result], single: tuple[Path, Result]
) -> None:
    out, result = graph
    facts = record(out)
    (line,) = lines(result, "fitted")
    assert f"{facts['voxels_done']:,} voxels in {facts['elapsed_s']:.2f} s" in line
    assert line.endswith("VarProLM, joint graph)")
    assert facts["elapsed_s"] > record(single[0])["elapsed_s"]
    assert not [line for line in result.output.splitlines() if "_voxelwise" in line]
    ktrans = map_of(out, "ktrans")
    median = np.median(ktrans[np.isfinite(ktrans)])
    assert lines(result, "ktrans")[0].startswith(f"median {median:.3g} ")


@pytest.mark.parametrize(
    ("options", "expected", "words"),
    [
        (["--joint", "temporal", "--strength", 2, "--joint-neighbours", 5],
         {"joint": "temporal", "joint_strength": 2.0, "joint_nearest": 5}, "strength 2 as given"),
        (["--joint", "spatial", "--strength", 0.25],
         {"joint": "spatial", "joint_strength_from": "given"}, "strength 0.25 as given"),
        (["--joint", "graph", "--strength", "auto", "--joint-radius", 1],
         {"joint_radius_voxels": 1.0, "joint_strength_from": "left-out frames"}, "predicts"),
        (["--joint", "graph", "--strength", "inf", "--joint-radius", "inf"],
         {"joint_strength": "inf", "joint_radius_voxels": "inf"}, "strength inf as given"),
        (["--joint", "temporal", "--strength", 0],
         {"joint_strength": 0.0}, "strength 0 as given: the maps are voxelwise"),
    ],
)  # fmt: skip
def test_options_arrive(
    ct: Path, tmp_path: Path, options: list[object], expected: Mapping[str, Any], words: str
) -> None:
    result = fit(ct, tmp_path, *options, "--no-report")
    facts = record(tmp_path)
    assert expected.items() <= facts.items()
    assert words in lines(result)[0]
    sizes = np.linalg.norm(read_volume(ct / "tumour.nii.gz").affine[:3, :3], axis=0)
    assert facts["joint_spacing_mm"] == pytest.approx(sizes)
    if facts["joint_strength"] == 0.0:
        assert len(lines(result)) == 1
        np.testing.assert_array_equal(map_of(tmp_path, "kep"), map_of(tmp_path, "kep_voxelwise"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--strength 3", ["--strength is of joint estimation", "add --joint"]),
        ("--strength auto", ["--strength is of joint estimation"]),
        ("--joint-radius 2", ["--joint-radius is of joint estimation"]),
        ("--joint-neighbours 4", ["--joint-neighbours is of joint estimation"]),
        ("--joint near", ["'near'", "'graph', 'temporal', 'spatial'"]),
        ("--joint graph --strength -1", ["'-1'", "auto or a number of at least 0"]),
        ("--joint graph --strength nan", ["'nan'", "at least 0"]),
        ("--joint graph --strength strong", ["'strong'", "auto or a number"]),
        ("--joint graph --joint-radius 0.5", ["at least 1 voxel", "0.5"]),
        ("--joint graph --joint-neighbours 4", ["temporal and spatial", "no --joint-neighbours"]),
        ("--joint spatial --joint-neighbours 0", ["whole number >= 1", "found 0"]),
        ("--joint graph --optimizer sqp", ["default solver", "SQP", "--optimizer"]),
        ("--joint graph --delay onset", ["'onset'", "--delay free, off or S"]),
    ],
)
def test_what_makes_no_sense_is_refused(
    ct: Path, tmp_path: Path, options: str, words: list[str]
) -> None:
    out = tmp_path / "maps"
    result = run("fit", ct / "dce.nii.gz", "--aif", ct / "aif.csv", "--mask",
                 ct / "tumour.nii.gz", "--out", out, *options.split())  # fmt: skip
    assert result.exit_code == 2
    for word in words:
        assert word in result.output, result.output
    assert "Traceback" not in result.output
    assert not out.exists()


def test_quiet_says_nothing(ct: Path, tmp_path: Path) -> None:
    result = fit(ct, tmp_path, "--joint", "graph", "--strength", 1, "--quiet", "--no-report")
    assert result.output == ""


def test_interrupted_joint_estimation_leaves_voxelwise_maps(
    ct: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(joint_estimate, "estimate_jointly", interrupted)
    result = run("fit", ct / "dce.nii.gz", "--aif", ct / "aif.csv", "--mask",
                 ct / "tumour.nii.gz", "--joint", "graph", "--out", tmp_path)  # fmt: skip
    assert result.exit_code == INTERRUPTED
    assert "interrupted in joint estimation; the maps are voxelwise" in result.output
    assert not lines(result)
    assert "joint" not in record(tmp_path)
    assert "moved" not in record(tmp_path)["Maps"]
    assert "joint" not in anchors((tmp_path / "report.html").read_text())


# --- maps on disk -----------------------------------------------------------------------------


def test_voxelwise_twins_are_the_voxelwise_fit(
    graph: tuple[Path, Result], single: tuple[Path, Result]
) -> None:
    out, _ = graph
    names = record(out)["Maps"]
    twins = [f"{n}_voxelwise{s}" for n in PARAMETERS for s in ("", "_se")]
    twins += ["cost_voxelwise", "status_voxelwise"]
    assert set(names) == {*record(single[0])["Maps"], *twins, "moved", "pooled"}
    for twin in twins:
        plain = map_of(single[0], twin.replace("_voxelwise", ""))
        np.testing.assert_array_equal(map_of(out, twin), plain, err_msg=twin)
    fitted = np.isin(map_of(out, "status"), [int(s) for s in FITTED])
    for name, least in (("moved", 0.0), ("pooled", 1.0)):
        values = map_of(out, name)
        assert np.isnan(values[~fitted]).all()
        assert values[fitted].min() >= least - 1e-6


def test_names_and_sidecars_of_the_twins(graph: tuple[Path, Result]) -> None:
    out, _ = graph
    names = record(out)["Maps"]
    assert names["ktrans_voxelwise"] == "dce_model-extendedtofts_desc-voxelwise_Ktrans.nii.gz"
    assert names["ktrans_voxelwise_se"] == "dce_model-extendedtofts_desc-voxelwiseSe_Ktrans.nii.gz"
    assert names["moved"] == "dce_model-extendedtofts_moved.nii.gz"
    assert names["pooled"] == "dce_model-extendedtofts_pooled.nii.gz"
    sidecar = bids.read_sidecar(out / names["ktrans_voxelwise"])
    assert sidecar["LongName"].endswith("(voxelwise)")
    assert sidecar["Units"] == "1/min"
    assert "standard errors" in bids.read_sidecar(out / names["moved"])["LongName"]
    levels = bids.read_sidecar(out / names["status_voxelwise"])["Levels"]
    assert levels == bids.read_sidecar(out / names["status"])["Levels"]
    source = "sub-01_desc-denoised_dce.nii.gz"
    assert bids.map_name(source, "kep_voxelwise_se") == "sub-01_desc-denoisedVoxelwiseSe_kep"


# --- warnings ---------------------------------------------------------------------------------


def test_too_much_smoothing_is_warned_of(ct: Path, tmp_path: Path) -> None:
    # spatial neighbours across the edge of the tumour are not alike
    result = fit(ct, tmp_path, "--joint", "spatial", "--strength", 64, "--joint-radius", 2)
    (warning,) = record(tmp_path)["warnings"]
    found = re.match(r"Joint estimation fits (\d+) voxels \(([\d.]+) %, 0.1 % by chance", warning)
    assert found is not None
    changed, voxels = int(found[1]), int(np.isfinite(map_of(tmp_path, "moved")).sum())
    assert changed == record(tmp_path)["joint_beyond_noise"] > 0.05 * voxels
    assert float(found[2]) == pytest.approx(100 * changed / voxels, abs=0.06)
    assert "map moved" in warning
    assert "strength below 64" in warning
    assert f"kety: warning: {warning}" in result.output
    page = (tmp_path / "report.html").read_text()
    verdict = text(section(page, "verdict"))
    assert verdict.count(f"! caution {warning}") == 1
    assert "was not measured" in verdict
    assert warning in text(section(page, "joint"))
    assert "not measured, as the strength was given" in text(section(page, "joint"))


def test_what_noise_explains_is_not_warned_of(maps: xr.Dataset) -> None:
    def changed(count: int, share: float) -> list[str]:
        attrs = {"joint_beyond_noise": count, "joint_converged": 1, "joint_strength": 4.0}
        some = maps["moved"].values.ravel()
        values = np.where(np.arange(some.size) < round(count / share), 1.0, np.nan)
        made = maps.assign(moved=(maps["moved"].dims, values.reshape(maps["moved"].shape)))
        return concerns(made.assign_attrs(attrs))

    assert changed(1, 0.02) == []  # one of 50 is no surprise
    assert changed(4, 0.01) == []
    assert len(changed(5, 0.02)) == 1
    assert concerns(maps) == [] or maps.attrs["joint_beyond_noise"] > 4


def test_what_has_not_settled_is_warned_of(maps: xr.Dataset) -> None:
    made = maps.assign_attrs(joint_converged=0, joint_beyond_noise=0, joint_steps=30)
    (sentence,) = concerns(made)
    assert "had not settled after 30 steps" in sentence
    assert ("caution", sentence) in [(f.level, f.text) for f in joint_findings(made)]


def test_no_gain_is_said(maps: xr.Dataset) -> None:
    none = {
        "joint_strength": 0.0,
        "joint_left_out_error": maps.attrs["joint_left_out_error_voxelwise"],
    }
    made = maps.assign_attrs(none)
    (line,) = told(made.attrs)
    assert "no better than voxel by voxel, so the maps are voxelwise" in line
    assert concerns(made) == []
    assert [f.level for f in joint_findings(made)] == ["note"]
    assert told({"model": "tofts"}) == []
    little = {"joint_left_out_error": 0.9999 * maps.attrs["joint_left_out_error_voxelwise"]}
    assert "less than 0.1 % better" in told({**maps.attrs, **little})[0]


def test_given_spacing_is_kept(study: Study) -> None:
    joint = kety.Joint("graph", strength=1.0, spacing=(1.0, 1.0, 3.0))
    assert estimate(study, joint=joint).attrs["joint_spacing_mm"] == [1.0, 1.0, 3.0]


# --- report -----------------------------------------------------------------------------------


def test_report_has_the_section_and_its_numbers(graph: tuple[Path, Result]) -> None:
    out, _ = graph
    page, facts = (out / "report.html").read_text(), record(out)
    order = anchors(page)
    assert order.index("joint") == order.index("maps") + 1
    joint = section(page, "joint")
    words = text(joint)
    errors = [facts[f"joint_left_out_error{s}"] for s in ("_voxelwise", "")]
    assert f"{errors[0]:.3f} → {errors[1]:.3f}" in words
    assert f"{facts['joint_effective_parameters']:,.0f} effective parameters" in words
    assert f"of {facts['joint_free_parameters']:,} free ones" in words
    pooled = map_of(out, "pooled")
    assert f"{np.median(pooled[np.isfinite(pooled) & (pooled != 1)]):,.0f} voxels whose" in words
    for strength, error in zip(
        facts["joint_strengths_tried"].split(", "), facts["joint_errors_tried"].split(", "),
        strict=True,
    ):  # fmt: skip
        assert f"{float(strength):g}: {float(error):.4g}" in words
    assert "Histogram of how far voxels moved" in words
    for status in (Status.CONVERGED, Status.AT_BOUND):
        before, after = (
            int(np.count_nonzero(map_of(out, f"status{s}") == status)) for s in ("_voxelwise", "")
        )
        row = rf"{status.meaning.replace('_', ' ')} {before:,} \([^)]*\) {after:,} \("
        assert re.search(row, words), row
    assert text(section(page, "verdict")).count("Voxels were estimated jointly") == 1


def test_pictures_stand_side_by_side(graph: tuple[Path, Result]) -> None:
    joint = section((graph[0] / "report.html").read_text(), "joint")
    alts = re.findall(r'<img src="[^"]+" alt="([^"]+)"', joint)
    for name in PARAMETERS:
        pair = [a for a in alts if re.match(rf"(Voxelwise|Joint) of {name}, ", a)]
        # whole slice and region of interest, voxelwise and joint, in one window
        assert len(pair) == 4
        assert len({a.partition("window ")[2] for a in pair}) == 1
    assert len([a for a in alts if a.startswith(("Moved of moved", "Pooled of pooled"))]) == 4
    assert 'class="panels pair"' in joint


def test_standard_errors_are_compared(graph: tuple[Path, Result]) -> None:
    out, _ = graph
    words = text(section((out / "report.html").read_text(), "joint"))
    before, after = map_of(out, "ktrans_voxelwise_se"), map_of(out, "ktrans_se")
    both = np.isfinite(before) & np.isfinite(after)
    ratio = np.median(after[both] / before[both])
    assert ratio < 0.6
    assert re.search(rf"ktrans 1/min [\d,]+ \S+ [\d,]+ \S+ {ratio:.2f} ", words)


def test_twins_are_no_parameters(graph: tuple[Path, Result]) -> None:
    page = (graph[0] / "report.html").read_text()
    rest = page.replace(section(page, "joint"), "")
    assert "_voxelwise" not in text(rest.replace(section(page, "provenance"), ""))
    assert len(re.findall(r">kep</span>", section(page, "verdict"))) == 2
    assert "Standard errors allow for the noise" in text(section(page, "verdict"))


def test_voxelwise_report_has_no_such_section(single: tuple[Path, Result]) -> None:
    out, result = single
    page = (out / "report.html").read_text()
    assert "joint" not in anchors(page)
    assert "jointly" not in page
    assert "joint" not in result.output
    assert "joint" not in record(out)


def test_strength_zero_has_no_pictures(study: Study, maps: xr.Dataset) -> None:
    words, page = built(study, maps.assign_attrs(joint_strength=0.0))
    assert "no better than voxel by voxel, so every voxel keeps its own estimate" in words
    assert "Mean squared error of left-out frames" in words
    least = min(float(e) for e in maps.attrs["joint_errors_tried"].split(",")[1:])
    assert f"{least:.3f} least left-out error of joint estimation" in words
    assert "<img" not in page
    given = {k: v for k, v in maps.attrs.items() if "tried" not in k and "left_out" not in k}
    made = maps.copy()
    made.attrs = given | {"joint_strength": 0.0, "joint_strength_from": "given"}
    words, page = built(study, made)
    assert words.endswith("With a strength of 0, as given, every voxel keeps its own estimate.")


def test_nothing_fitted_has_no_section(study: Study) -> None:
    found = kety.fit(
        np.full_like(study.curves, np.nan), study.series.times, study.aif, joint="graph"
    )
    assert told(found.attrs) == []
    assert concerns(found) == []
    assert list(joint_findings(found)) == []
    assert built(study, found)[0] == ""


def test_truth_is_compared_with_both(tmp_path: Path, study: Study, maps: xr.Dataset) -> None:
    phantom = simulate_abdomen(SIZE, noise=NOISE)
    rim = phantom.mask("tumour rim")
    written = write_outcome(
        study, maps, tmp_path, record=provenance(study), truth=phantom.truth, regions={"rim": rim}
    )
    assert written.report is not None
    words = text(section(written.report.read_text(), "truth"))
    table = words[words.index("Median absolute error, voxelwise → joint") :]
    row = re.search(r"rim ([\d.]+) → ([\d.]+) ", table)
    assert row is not None
    fitted = np.isin(maps["status"].values, [int(s) for s in FITTED]) & rim
    for name, shown in zip(("ktrans_voxelwise", "ktrans"), row.groups(), strict=True):
        error = np.abs(maps[name].values - phantom.truth["ktrans"])[fitted]
        assert float(shown) == pytest.approx(np.nanmedian(error), rel=0.01)


def test_report_without_three_axes(study: Study, maps: xr.Dataset) -> None:
    inside = study.series.mask
    assert inside is not None
    flat = maps.stack(voxel=("x", "y", "z")).isel(voxel=np.flatnonzero(inside.ravel()))
    flat = flat.reset_index("voxel")
    words, page = built(study, flat, study.curves[inside])
    assert "Standard errors, voxelwise and joint" in words
    assert "<img" not in page


def test_chart_shows_zero_and_infinity() -> None:
    svg = joint_figures.left_out_error([0.0, 4.0, np.inf], [1.1, 1.05, 1.02], np.inf, "alt")
    assert "∞" in svg
    assert ">0<" in svg
    many = [0.0, *(0.01 * 2.0**i for i in range(20))]
    svg = joint_figures.left_out_error(many, [1.0 + 0.01 * i for i in range(21)], 0.01, "alt")
    assert ">0.01<" in svg
    assert len(re.findall(r">[\d.]+</text>", svg)) < 20


def built(study: Study, maps: xr.Dataset, curves: NDArray[Any] | None = None) -> tuple[str, str]:
    """Text and source of the section in the report of these maps; empty where it has none."""
    measured = study.curves if curves is None else curves
    page = render(Content(maps, measured, study.series.times, study.aif, "title", {}))
    if "joint" not in anchors(page):
        return "", ""
    return text(section(page, "joint")), section(page, "joint")


def test_denoised_frames_cannot_choose_the_strength(study: Study) -> None:
    told_so = replace(study, facts={**study.facts, "denoised": {"method": "dct"}})
    with pytest.warns(UserWarning, match="denoised frames tell of each other"):
        estimate(told_so, joint="graph", threads=1)
