"""`kety compare`: from folders of fits to maps, tables and a page."""

from __future__ import annotations

import csv
import json
from html.parser import HTMLParser
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import kety
from commands import good, run
from kety.pipeline.comparing import write_comparison

ANCHORS = ("verdict", "regions", "agreement", "voxels", "maps", "status", "provenance")


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small studies, fitted: a/ and b/, and one on another grid: c/."""
    folder = tmp_path_factory.mktemp("studies")
    for name, seed, size in (("a", 1, "32,28,3"), ("b", 2, "32,28,3"), ("c", 3, "28,24,3")):
        place = folder / f"study_{name}"
        good("simulate", place, "--size", size, "--seed", seed)
        good(
            *("fit", place / "dce.nii.gz", "--aif", place / "aif.csv", "--quiet", "--no-report"),
            *("--mask", place / "body.nii.gz", "--out", folder / name),
        )
    return folder


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.outside: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.scripts += tag == "script"
        if tag == "section":
            self.ids.append(found["id"] or "")
        for key in ("src", "href", "xlink:href"):
            value = found.get(key) or ""
            if value and not value.startswith(("#", "data:")):
                self.outside.append(value)


def test_everything_is_written(studies: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = good(
        *("compare", studies / "a", studies / "b", "--out", out, "--rc", "ktrans=20%"),
        *("--roi", studies / "study_a" / "labels.nii.gz", "--parameters", "ktrans,ve,delay"),
    )
    assert "tumour rim" in result.output
    assert "54, corrected: holm; median of each region" in result.output
    rows = list(csv.DictReader((out / "rois.csv").open()))
    assert len(rows) == 54
    rim = next(r for r in rows if (r["region"], r["parameter"]) == ("tumour rim", "ktrans"))
    assert float(rim["low"]) < float(rim["change"]) < float(rim["high"])
    assert rim["exceeds_limit"] in ("yes", "no")
    record = json.loads((out / "comparison.json").read_text())
    assert record["tests"] <= 54
    assert record["pairs"][0]["transitions"]["outside"]["outside"] > 0
    assert record["pairs"][0]["a"]["model"] == "extended_tofts"
    assert {one["basis"] for one in record["agreement"]} == {"regions", "voxels"}
    images = {path.name for path in out.glob("*.nii.gz")}
    assert images == {
        *(
            f"{name}_{kind}.nii.gz"
            for name in ("ktrans", "ve", "delay")
            for kind in ("change", "z")
        ),
        "ktrans_change_percent.nii.gz",
        "ve_change_percent.nii.gz",
    }
    one, other = (
        nib.load(next((studies / side).glob("*tofts_Ktrans.nii.gz"))) for side in ("a", "b")
    )
    change = nib.load(out / "ktrans_change.nii.gz")
    assert np.array_equal(change.affine, one.affine)
    values, known = change.get_fdata(), np.isfinite(change.get_fdata())
    assert known.any()
    assert values[known] == pytest.approx((other.get_fdata() - one.get_fdata())[known], abs=1e-5)
    assert json.loads((out / "ktrans_z.json").read_text())["Units"] == "1"


def test_the_page_is_whole_and_needs_nothing_else(studies: Path, tmp_path: Path) -> None:
    good(
        *("compare", studies / "a", studies / "b", "--out", tmp_path, "--quiet"),
        *("--roi", studies / "study_a" / "tumour.nii.gz", "--title", "Before & after"),
    )
    page = (tmp_path / "comparison.html").read_text()
    reader = Reader()
    reader.feed(page)
    assert tuple(reader.ids) == ANCHORS
    assert reader.outside == []
    assert reader.scripts == 0
    assert "Before &amp; after" in page
    assert "within its uncertainty" in page or "more than its uncertainty" in page
    assert "Not tested: whether a change is more than two scans" in page
    assert page.count("Bland–Altman plot of") == 2 * 6


def test_own_regions_pairs_and_a_given_repeatability(studies: Path, tmp_path: Path) -> None:
    both = [studies / "a", studies / "c"]
    refused = run("compare", *both, "--out", tmp_path / "no")
    assert refused.exit_code == 2
    assert "(32, 28, 3)" in refused.output
    assert "--roi-a and --roi-b" in refused.output
    assert not (tmp_path / "no").exists()
    own = [
        *("--roi-a", studies / "study_a" / "tumour.nii.gz"),
        *("--roi-b", studies / "study_c" / "tumour.nii.gz"),
    ]
    good("compare", *both, *own, "--out", tmp_path / "own", "--parameters", "ktrans")
    assert not list((tmp_path / "own").glob("*.nii.gz"))
    assert 'id="maps"' not in (tmp_path / "own" / "comparison.html").read_text()

    pairs = ["--pair", studies / "a", studies / "b", "--pair", studies / "b", studies / "a"]
    labels = ["--roi", studies / "study_a" / "labels.nii.gz", "--parameters", "ktrans,delay"]
    result = good("compare", *pairs, *labels, "--out", tmp_path / "pairs")
    assert "36 regions of pairs" in result.output
    assert (tmp_path / "pairs" / "pair-2" / "ktrans_change.nii.gz").exists()
    record = json.loads((tmp_path / "pairs" / "comparison.json").read_text())
    # each pair the other way round: no bias, whatever changed
    assert record["agreement"][0]["bias"] == pytest.approx(0, abs=1e-6)
    tested = good(
        *("compare", studies / "a", studies / "b", "--parameters", "ktrans", "--quiet"),
        *("--rc", tmp_path / "pairs", "--out", tmp_path / "tested"),
    )
    assert tested.output == ""
    limits = json.loads((tmp_path / "tested" / "comparison.json").read_text())[
        "repeatability_given"
    ]
    assert list(limits) == ["ktrans"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a"], "two studies are needed"),
        ([], "two studies are needed"),
        (["a", "nowhere"], "there is no such folder"),
        (["a", "b", "--pair", "a", "b"], "as A B and as --pair"),
        (["a", "b", "--rc", "ktrans=much"], "expected a number in the map's unit"),
        (["a", "b", "--rc", "x.json", "--rc", "ve=3%"], "give no others beside it"),
        (["a", "b", "--rc", "ve=2%", "--rc", "ve=3%"], "once"),
        (["a", "b", "--parameters", "fp"], "there is no map fp"),
        (["a", "b", "--roi", "study_c/tumour.nii.gz"], "lies on another grid"),
        (["a", "study_b"], "holds no fit.json"),
    ],
)
def test_mistakes(
    studies: Path, arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(studies)
    result = run("compare", *arguments, "--out", "none")
    assert result.exit_code == 2
    assert words in result.output
    assert not (studies / "none").exists()


def test_two_fits_of_one_series_are_told_apart_from_two_scans(
    studies: Path, tmp_path: Path
) -> None:
    place = studies / "study_a"
    good(
        *("fit", place / "dce.nii.gz", "--aif", place / "aif.csv", "--delay", "off", "--quiet"),
        *("--mask", place / "body.nii.gz", "--out", tmp_path / "fit", "--no-report"),
    )
    result = good("compare", studies / "a", tmp_path / "fit", "--out", tmp_path / "out")
    assert "are fits of the same series" in result.output
    assert "delay was held at a value in" in result.output
    assert "bounds differs" in result.output


def test_names_of_regions_are_no_markup(studies: Path, tmp_path: Path) -> None:
    roi = nib.load(studies / "study_a" / "tumour.nii.gz").get_fdata() != 0
    found = kety.compare(studies / "a", studies / "b", roi={"<script>x": roi})
    write_comparison(found, tmp_path)
    page = (tmp_path / "comparison.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;x" in page
