"""The report: self-contained, complete, honest about what is missing, safe with any text."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray
from PIL import Image

from kety.errors import KetyError
from kety.fitting.forward import simulate_curves
from kety.fitting.status import FITTED, SENTENCES, Status
from kety.inputs import InputFunction, population_input
from kety.report import rasters, write_report
from kety.report.blocks import Findings
from kety.report.content import Study
from kety.report.numbers import number, percent
from kety.report.summary import determined, residuals
from kety.report.verdict import verdict_blocks
from kety.report.windows import WINDOWS, Window, window_for

UNITS = {"ktrans": "1/min", "kep": "1/min", "vb": "1", "delay": "s", "ve": "1", "vp": "1"}
FREE = ("ktrans", "kep", "vb", "delay")
ERRORS = {"ktrans": 0.02, "kep": 0.08, "vb": 0.01, "delay": 0.4, "ve": 0.03, "vp": 0.006}
TIMES = np.arange(0.0, 180.0, 3.0)
NOISE = 0.03
ANCHORS = ("verdict", "maps", "histograms", "input", "curves", "truth", "provenance")
PROVENANCE = {
    "version": "0.1.0",
    "command": "kety fit dce.nii.gz --aif <aif>.csv",
    "inputs": {"dce.nii.gz": "sha256 0123abcd"},
    "bounds": {"ktrans": [0.0, 5.0]},
}


@pytest.fixture(scope="module")
def aif() -> InputFunction:
    return population_input("parker", float(TIMES[-1]), delay=12.0)


def tumour(shape: tuple[int, ...]) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.bool_]]:
    """Truth maps of a body with a ring-shaped tumour, and the tumour's mask."""
    x, y, _ = np.meshgrid(
        *(np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape), indexing="ij"
    )
    r = np.hypot(x, y)
    truth = {
        "ktrans": np.select([r < 0.2, r < 0.5], [0.03, 0.5], 0.1),
        "kep": np.where(r < 0.5, 1.2, 0.5),
        "vb": np.where(r < 0.5, 0.1, 0.03),
        "delay": np.full(shape, 2.0),
    }
    truth["ve"] = truth["ktrans"] / truth["kep"]
    truth["vp"] = 0.58 * truth["vb"]
    return truth, r < 0.5


def study(
    truth: Mapping[str, NDArray[np.float64]],
    status: NDArray[np.uint8],
    aif: InputFunction,
    dims: tuple[str, ...] = ("x", "y", "z"),
) -> tuple[xr.Dataset, NDArray[np.float64]]:
    """Maps as a fit would return them, with errors of the size they claim, and the curves."""
    rng = np.random.default_rng(5)
    shape = status.shape
    fitted = np.isin(status, [int(s) for s in FITTED])
    curves = simulate_curves({n: truth[n].ravel() for n in FREE}, TIMES, aif)
    curves = curves.reshape(*shape, TIMES.size) + rng.normal(0, NOISE, (*shape, TIMES.size))
    curves[status == Status.NOT_FINITE] = np.nan
    maps: dict[str, Any] = {}
    for name, values in truth.items():
        error = np.full(shape, 0.1 * ERRORS[name])
        estimate = values + error * rng.standard_normal(shape)
        if name == "vb":
            error[status == Status.AT_BOUND] = np.nan
        attrs = {"units": UNITS[name], "long_name": f"name of {name}", "osipi": f"Q.{name}"}
        maps[name] = (dims, np.where(fitted, estimate, np.nan).astype(np.float32), attrs)
        maps[f"{name}_se"] = (dims, np.where(fitted, error, np.nan).astype(np.float32), attrs)
    cost = TIMES.size * NOISE**2 * rng.chisquare(56, shape) / 56
    maps["cost"] = (dims, np.where(fitted, cost, np.nan), {"units": "1", "long_name": "cost"})
    maps["r2"] = (dims, np.where(fitted, 0.95, np.nan), {"units": "1", "long_name": "R²"})
    maps["status"] = (dims, status)
    return xr.Dataset(maps, attrs={"model": "extended_tofts"}), curves


class Page(HTMLParser):
    """What the tests look at in a page: tags with their attributes, and the text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.source = path.read_text("utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def anchors(self) -> list[str]:
        return [attrs["id"] for attrs in self.all("section")]


def picture(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1])))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, aif: InputFunction) -> Page:
    """A report with everything: anatomy, affine, region, truth, warnings, every status."""
    truth, roi = tumour((40, 32, 5))
    status = np.full(roi.shape, Status.CONVERGED, dtype=np.uint8)
    for i, s in enumerate(Status):
        status[4 * i : 4 * i + 2, :4] = s
    maps, curves = study(truth, status, aif)
    path = write_report(
        tmp_path_factory.mktemp("report") / "report.html",
        maps=maps,
        curves=np.asfortranarray(curves),
        times=TIMES,
        aif=aif,
        title='<script>alert("x")</script> & sub-01.nii.gz',
        anatomy=100 * truth["ktrans"],
        affine=np.diag([-2.0, 2.0, 5.0, 1.0]),
        roi=roi,
        truth=truth,
        regions={"rim & core": roi},
        provenance=PROVENANCE,
        warnings=["Frame 3 <moved>."],
        curve_units="mM",
    )
    return Page(path)


def test_every_section_is_present_and_linked(full: Page) -> None:
    assert tuple(full.anchors) == ANCHORS
    assert [a["href"] for a in full.all("a")] == [f"#{anchor}" for anchor in ANCHORS]


def test_page_refers_to_nothing_outside_itself(full: Page) -> None:
    for tag, attrs in full.tags:
        assert tag not in {"script", "link", "iframe", "object"}
        for name in ("src", "href", "xlink:href"):
            assert attrs.get(name, "#").startswith(("#", "data:image/png;base64,")), attrs[name]
    assert not re.search(r"https?://|@import|url\((?!#)", full.source)


def test_text_from_outside_is_escaped(full: Page) -> None:
    assert '<script>alert("x")</script> & sub-01.nii.gz' in full.text
    assert "Frame 3 <moved>." in full.text
    assert "kety fit dce.nii.gz --aif <aif>.csv" in full.text
    assert "rim & core" in full.text


def test_every_figure_is_described(full: Page) -> None:
    assert full.all("img")
    assert all(img["alt"] for img in full.all("img"))
    charts = full.all("svg")
    assert len(charts) >= 10
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in charts)
    assert all(th.get("scope") for th in full.all("th"))


def test_identifiers_are_unique_and_resolve(full: Page) -> None:
    ids = [attrs["id"] for _, attrs in full.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    referred = set(re.findall(r'(?:href="#|url\(#)([^")]+)', full.source))
    assert referred <= set(ids)


def test_statuses_are_counted_and_explained(full: Page) -> None:
    for status in Status:
        assert SENTENCES[status] in full.text
        assert status.meaning.replace("_", " ") in full.text
    assert "40" in full.text


def test_quantities_have_unit_window_and_code(full: Page) -> None:
    for name in UNITS:
        assert f"Q.{name}" in full.text
        assert f"name of {name}" in full.text
    assert "0 to 1" in full.text
    assert "inputs › dce.nii.gz" in full.text
    assert "sha256 0123abcd" in full.text


def test_errors_that_match_their_claim_cover_two_thirds(full: Page) -> None:
    table = full.source[full.source.index("Estimates against truth") :]
    shares = [float(s) for s in re.findall(r"<td>(\d+\.\d)\s%</td>\s*</tr>", table)[:6]]
    assert len(shares) == 6
    assert all(62 < share < 74 for share in shares)


def test_verdict_names_what_is_wrong(full: Page) -> None:
    assert "Read these maps with care" in full.text
    assert "at its bound (most often vb)" in full.text
    assert "Residuals look like noise" in full.text


def test_radiological_orientation(full: Page) -> None:
    assert "the patient's right, up is anterior" in full.text


@pytest.mark.parametrize("shape", [(16, 12, 1), (1, 1, 1), (3, 1, 1)])
def test_small_volumes(tmp_path: Path, aif: InputFunction, shape: tuple[int, ...]) -> None:
    truth, _ = tumour(shape)
    maps, curves = study(truth, np.ones(shape, dtype=np.uint8), aif)
    page = Page(report(tmp_path, maps, curves, aif))
    assert page.anchors == [a for a in ANCHORS if a != "truth"]
    assert "1 of 1" in page.text or shape != (1, 1, 1)


def test_list_of_voxels_has_no_pictures(tmp_path: Path, aif: InputFunction) -> None:
    truth, _ = tumour((20, 3, 1))
    flat = {n: a.ravel() for n, a in truth.items()}
    maps, curves = study(flat, np.ones(60, dtype=np.uint8), aif, dims=("voxel",))
    page = Page(report(tmp_path, maps, curves, aif))
    assert "maps" not in page.anchors
    assert not page.all("img")
    assert "voxel (" in page.text


@pytest.mark.parametrize("status", [Status.NOT_FINITE, Status.NOT_ENHANCING, Status.OUTSIDE])
def test_nothing_fitted_is_said(tmp_path: Path, aif: InputFunction, status: Status) -> None:
    truth, roi = tumour((12, 10, 2))
    maps, curves = study(truth, np.full((12, 10, 2), status, dtype=np.uint8), aif)
    page = Page(report(tmp_path, maps, curves, aif, roi=roi, truth=truth))
    assert "Do not rely on these maps" in page.text
    expected = "nothing was fitted" if status is Status.OUTSIDE else "None of the 240 voxels"
    assert expected in page.text
    assert "every map is empty" in page.text


def test_misfit_is_seen_in_the_residuals(aif: InputFunction) -> None:
    truth, _ = tumour((12, 10, 1))
    maps, curves = study(truth, np.ones((12, 10, 1), dtype=np.uint8), aif)
    assert "Residuals look like noise" in verdict(maps, curves, aif)
    assert "neighbouring frames err alike" in verdict(maps, curves + 0.1 * np.sin(TIMES / 30), aif)
    spiked = curves.copy()
    spiked[..., ::7] += 0.1
    assert "all voxels err alike" in verdict(maps, spiked, aif)


def test_input_that_is_cut_off_is_seen() -> None:
    truth, _ = tumour((6, 5, 1))
    status = np.ones((6, 5, 1), dtype=np.uint8)
    for concentration, words in (
        (np.linspace(0.0, 5.0, TIMES.size), "peaks at its last sample"),
        (np.exp(-TIMES / 60), "peaks at its first sample"),
        (2.0 - np.cos(TIMES / 30), "already enhanced at its first sample"),
    ):
        aif = InputFunction(TIMES, concentration)
        assert words in verdict(*study(truth, status, aif), aif)


def test_many_failures_are_cautions(aif: InputFunction) -> None:
    truth, _ = tumour((10, 10, 1))
    status = np.ones((10, 10, 1), dtype=np.uint8)
    status[:3] = Status.AT_BOUND
    status[3] = Status.ITERATION_LIMIT
    status[4:6] = Status.NOT_IDENTIFIABLE
    status[6] = Status.NOT_FINITE
    words = verdict(*study(truth, status, aif), aif)
    assert "caution: 30 fits (33.3 %) have a parameter at its bound (most often vb)" in words
    assert "alarm: 10 fits (11.1 %) stopped at the iteration limit" in words
    assert "caution: 20 fits (22.2 %) do not determine every parameter" in words
    assert "caution: 10 voxels (10.0 % of the mask) hold NaN" in words


def test_uncertain_parameters_are_named(aif: InputFunction) -> None:
    truth, roi = tumour((10, 10, 1))
    maps, curves = study(truth, np.ones((10, 10, 1), dtype=np.uint8), aif)
    maps["kep_se"] = maps.kep_se.where(~xr.DataArray(roi, dims=("x", "y", "z")), 0.9)
    maps["delay_se"] = 0 * maps.delay_se + 4.0
    maps["vp_se"] = 0 * maps.vp_se + 0.009
    words = verdict(maps, curves, aif)
    assert "kep is" not in words
    assert "caution: delay is poorly determined: the typical standard error is 4.00 s" in words
    assert "note: vp is small: the typical standard error, 0.0090, is" in words
    words = verdict(maps, curves, aif, roi=roi)
    assert "caution: kep is poorly determined in the region of interest" in words


def test_fixed_delay_is_not_shown_as_an_estimate(tmp_path: Path, aif: InputFunction) -> None:
    truth, _ = tumour((6, 5, 1))
    maps, curves = study(truth, np.ones((6, 5, 1), dtype=np.uint8), aif)
    maps["delay"] = (0 * maps.delay + 2.0).assign_attrs(maps.delay.attrs)
    maps["delay_se"] = maps.delay_se.where(False)
    page = Page(report(tmp_path, maps, curves, aif))
    assert "delay was held at 2 s." in page.text
    assert not [img for img in page.all("img") if "of delay" in img["alt"]]
    assert "Residuals look like noise" in page.text


def test_region_without_a_fit(tmp_path: Path, aif: InputFunction) -> None:
    truth, _ = tumour((8, 6, 2))
    status = np.ones((8, 6, 2), dtype=np.uint8)
    status[:4] = Status.NOT_ENHANCING
    roi = status == Status.NOT_ENHANCING
    maps, curves = study(truth, status, aif)
    page = Page(report(tmp_path, maps, curves, aif, roi=roi, truth=truth, regions={"a": roi}))
    assert tuple(page.anchors) == ANCHORS


def test_unlisted_quantity_declares_its_window(tmp_path: Path, aif: InputFunction) -> None:
    truth, _ = tumour((6, 5, 1))
    maps, curves = study(truth, np.ones((6, 5, 1), dtype=np.uint8), aif)
    maps = maps.assign(oddity=maps.ktrans, oddity_se=maps.ktrans_se)
    assert "No fixed window is listed" in Page(report(tmp_path, maps, curves, aif)).text
    chosen = window_for("oddity", "1/min", lambda: (0.0, 1.0), {"oddity": (0.0, 0.25)})
    assert (chosen.lower, chosen.upper, chosen.fixed) == (0.0, 0.25, True)


def test_page_is_deterministic(tmp_path: Path, aif: InputFunction) -> None:
    truth, _ = tumour((6, 5, 1))
    maps, curves = study(truth, np.ones((6, 5, 1), dtype=np.uint8), aif)
    first = report(tmp_path, maps, curves, aif).read_bytes()
    assert report(tmp_path, maps, curves, aif).read_bytes() == first


def test_page_of_a_large_volume_stays_small(tmp_path: Path, aif: InputFunction) -> None:
    shape = (256, 256, 3)
    noise = np.random.default_rng(0).random(shape)
    status = np.full(shape, Status.OUTSIDE, dtype=np.uint8)
    truth, _ = tumour(shape)
    status[::128, ::128] = Status.CONVERGED
    maps, _ = study(
        {n: a[::64, ::64] for n, a in truth.items()}, np.ones((4, 4, 3), dtype=np.uint8), aif
    )
    maps = maps.isel(x=np.arange(256) // 64, y=np.arange(256) // 64) * (1 + 0.3 * noise)
    maps = maps.assign(status=(("x", "y", "z"), np.ones(shape, dtype=np.uint8)))
    maps.attrs["model"] = "extended_tofts"
    curves = np.zeros((*shape, TIMES.size), dtype=np.float32)
    path = report(tmp_path, maps, curves, aif, anatomy=noise)
    assert path.stat().st_size < 5_000_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"curves": np.zeros((5, 6, 1, TIMES.size))}, "curves lies on a grid of shape"),
        ({"curves": np.zeros((6, 5, 1, 7))}, "last axis has to be the frames"),
        ({"anatomy": np.zeros((6, 5, 2))}, "anatomy lies on a grid"),
        ({"roi": np.zeros((6, 5))}, "roi lies on a grid"),
        ({"truth": {"ktrans": np.zeros(3)}}, "ktrans lies on a grid"),
        ({"affine": np.eye(3)}, "affine has shape"),
        ({"windows": {"ktrans": (1.0, 1.0)}}, "lower < upper"),
        ({"maps": xr.Dataset()}, "the maps lack status, r2, cost"),
    ],
)
def test_bad_input_says_so_and_writes_nothing(
    tmp_path: Path, aif: InputFunction, change: dict[str, Any], message: str
) -> None:
    truth, _ = tumour((6, 5, 1))
    maps, curves = study(truth, np.ones((6, 5, 1), dtype=np.uint8), aif)
    arguments = {"maps": maps, "curves": curves, "aif": aif, **change}
    with pytest.raises(KetyError, match=message):
        report(tmp_path, **arguments)
    assert not list(tmp_path.iterdir())


def test_windows_are_consistent() -> None:
    names = [window.name for window in WINDOWS]
    assert len(names) == len(set(names))
    for window in WINDOWS:
        assert window_for(window.name, window.units, lambda: (7.0, 8.0)) == window
        assert window.standard_error().lower == 0
        assert 0 < window.standard_error().upper < window.span
    assert window_for("ktrans", "1/s", lambda: (0.0, 0.01)).fixed is False
    assert window_for("new", "s", lambda: (3.0, 3.0)).span == 1


def test_map_marks_what_lies_beyond_the_window() -> None:
    window = Window("ktrans", "K", "1/min", 0.0, 1.0)
    values = np.array([[-0.1, 0.0, 1.0], [1.1, np.nan, 0.5]])
    pixels = np.asarray(picture(rasters.map_image(values, window, "map", None)).convert("RGB"))
    below, above = (tuple(bytes.fromhex(c[1:])) for c in rasters.marks("map"))
    assert tuple(pixels[0, 0]) == below
    assert tuple(pixels[1, 0]) == above
    inside = {tuple(p) for p in (pixels[0, 1], pixels[0, 2], pixels[1, 2])}
    assert len(inside) == 3
    assert not inside & {below, above}
    red, green, blue = pixels[1, 1]
    assert red == green == blue


def test_status_picture_has_the_legend_colours() -> None:
    status = np.array([[int(s) for s in Status]], dtype=np.uint8)
    pixels = np.asarray(picture(rasters.status_image(status, None)).convert("RGB"))
    for s in Status:
        if s is not Status.OUTSIDE:
            assert "#" + bytes(pixels[0, int(s)]).hex() == rasters.STATUS_COLOURS[s]


@pytest.mark.parametrize(
    ("codes", "edges"),
    [
        ("RAS", ("R", "L", "A", "P")),
        ("LPS", ("R", "L", "A", "P")),
        ("PRS", ("R", "L", "A", "P")),
        ("RSA", ("R", "L", "S", "I")),
        ("ASR", ("A", "P", "S", "I")),
        ("SPL", ("A", "P", "S", "I")),
    ],
)
def test_any_orientation_is_shown_upright(codes: str, edges: tuple[str, ...]) -> None:
    axes = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for column, code in enumerate(codes):
        row, sign = axes[code]
        affine[row, column] = sign * (column + 1)
    volume = np.zeros((20, 30, 2))
    view = rasters.choose_view(np.ones(volume.shape, dtype=bool), affine)
    assert view.edges == edges
    # the voxel farthest towards the top left of the picture
    corner = np.array([0, 0, 0])
    for column, code in enumerate(codes[:2]):
        if code in edges[::2]:
            corner[column] = volume.shape[column] - 1
    volume[tuple(corner)] = 1
    shown = view.cut(volume, 0)
    assert shown[0, 0] == 1
    sizes = {code: (i + 1) * n for i, (code, n) in enumerate(zip(codes, (20, 30), strict=False))}
    width = next(size for code, size in sizes.items() if code in edges[:2])
    height = next(size for code, size in sizes.items() if code in edges[2:])
    assert view.aspect == pytest.approx(width / height)


def test_slices_follow_the_focus() -> None:
    shown = np.ones((30, 30, 20), dtype=bool)
    focus = np.zeros_like(shown)
    focus[10:14, 10:14, 15:17] = True
    view = rasters.choose_view(shown, None, focus)
    assert view.slices == (15, 16)
    closer = rasters.close_up(view, focus)
    assert closer is not None
    part, z = closer
    assert z in (15, 16)
    assert part.cut(focus, z).sum() == 16
    assert part.cut(focus, z).size < 200
    assert rasters.close_up(view, shown) is None


def test_numbers_are_written_plainly() -> None:
    assert number(0.0123456) == "0.0123"
    assert number(-1.5) == "−1.50"
    assert number(0) == "0"
    assert number(12345) == "12,345"
    assert number(4.2e-7) == "4.20×10⁻⁷"
    assert number(3e6) == "3.00×10⁶"
    assert number(float("nan")) == "–"
    assert percent(1, 10000).replace("\xa0", " ") == "< 0.1 %"
    assert percent(9999, 10000).replace("\xa0", " ") == "> 99.9 %"
    assert percent(1, 0) == "–"


def verdict(maps: xr.Dataset, curves: NDArray[Any], aif: InputFunction, **others: Any) -> str:
    """The findings, each after its level."""
    made = Study(maps, curves, TIMES, aif, "test", PROVENANCE, **others)
    findings, *_ = verdict_blocks(made, residuals(made, determined(made)))
    assert isinstance(findings, Findings)
    return "; ".join(f"{f.level}: {f.text}" for f in findings.findings).replace("\xa0", " ")


def report(
    folder: Path, maps: xr.Dataset, curves: NDArray[Any], aif: InputFunction, **others: Any
) -> Path:
    return write_report(
        folder / "report.html",
        maps=maps,
        curves=curves,
        times=TIMES,
        aif=aif,
        title="test",
        provenance=PROVENANCE,
        **others,
    )
