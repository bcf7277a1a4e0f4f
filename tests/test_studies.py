"""Studies: the page, its CSV and Markdown, the data sets, the experiments in small, the command."""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import kety
import naive_discrete
from kety.cli import reproduce
from kety.cli.main import INTERRUPTED, main
from kety.errors import KetyError
from kety.inputs.population import parker
from kety.simulate import protocol
from kety.studies import figures, page
from kety.studies.optimization import (
    EXPERIMENTS,
    arrival,
    data,
    delay,
    outcomes,
    paper,
    rates,
    rectangle,
    sampling,
    stalled,
)
from kety.studies.page import Study
from kety.studies.records import Comparison, Effort, Outcome, Picture, Table

STUDY = Study(
    "made_up", "A <b>study</b>", "Someone & al.", "https://example.org", "Notes", ("a|b",)
)
PNG = figures.draw([figures.Panel("p", [figures.Series("s", [1.0, 2.0], [1.0, 0.1])])])


def made_up(name: str = "first", rows: int = 2) -> Outcome:
    return Outcome(
        name,
        f"The {name} <i>experiment</i>",
        ("It costs <script>alert(1)</script> & more.",),
        (
            Comparison("Table 1", "a | b", "%", 2.0, 1.0, 0.9, 1.1, "because x < y"),
            Comparison("Table 1", "missing", "s", None, 3.25e-7),
            Comparison("Table 2", "zero", "s", 0.0, 1.0, why="the same"),
            Comparison("Table 2", "not measured", "s", 5.0, None, why="the same"),
        ),
        (Table(f"{name}_table", "Numbers", ("x", "y"), ((0.1 + 0.2, None),) * rows, "a *note*"),),
        (Picture(f"{name}-picture", "A caption", PNG, 'an "alt" text'),),
        ("a condition",),
        (("reached < 1", True), ("missed", False)),
        1.5,
    )


def read_csv(content: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(content.decode())))


class TestPage:
    def test_escapes_what_comes_from_outside(self) -> None:
        html = page.render(STUDY, [made_up()], {"command": "kety <x>"})
        assert "<script>" not in html
        assert "<i>experiment" not in html
        assert "A &lt;b&gt;study" in html
        assert "kety &lt;x&gt;" in html
        assert 'alt="an &#34;alt&#34; text"' in html

    def test_tells_numbers_ratios_and_what_is_missing(self) -> None:
        html = page.render(STUDY, [made_up()], {})
        assert "0.9 to 1.1" in html
        assert '<td class="near">0.5</td>' in html
        assert "3.25 × 10⁻⁷" in html
        assert "✓ met" in html
        assert "✕ not met" in html
        assert html.count("the same</td>") == 1, "equal reasons share a cell"
        assert "1 of 2" in html

    def test_is_one_file(self) -> None:
        html = page.render(STUDY, [made_up()], {})
        assert "<script" not in html
        assert "<link" not in html
        assert html.count("src=") == html.count('src="data:image/png;base64,')

    @pytest.mark.parametrize(("rows", "folded"), [(2, False), (page.FOLD_ABOVE + 1, True)])
    def test_folds_long_tables(self, rows: int, folded: bool) -> None:
        html = page.render(STUDY, [made_up(rows=rows)], {})
        assert (f"({rows} rows)</summary>" in html) is folded

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (None, "–"),
            (math.nan, "–"),
            ("words", "words"),
            (0.0, "0"),
            (1234567, "1,234,567"),
            (12345.6, "12,346"),
            (-0.25, "−0.25"),
            (2.3275, "2.33"),
            (8.97e-6, "8.97 × 10⁻⁶"),
            (1e9, "1.00 × 10⁹"),
        ],
    )
    def test_number(self, value: object, text: str) -> None:
        assert page.number(value) == text

    @pytest.mark.parametrize(
        ("ratio", "word"),
        [(None, ""), (math.nan, ""), (0.5, "near"), (2.0, "near"), (0.4, "lower"), (3.0, "higher")],
    )
    def test_distance(self, ratio: float | None, word: str) -> None:
        assert page.distance(ratio) == word

    def test_csv_keeps_numbers_in_full(self, tmp_path: Path) -> None:
        page.write(tmp_path, STUDY, [made_up()], {})
        header, *rows = read_csv((tmp_path / "comparisons.csv").read_bytes())
        first = dict(zip(header, rows[0], strict=True))
        assert first["what"] == "a | b"
        assert float(first["ratio"]) == 0.5
        assert float(rows[1][header.index("ours")]) == 3.25e-7
        assert rows[1][header.index("paper")] == ""
        assert rows[3][header.index("ours")] == ""
        table = read_csv((tmp_path / "first_table.csv").read_bytes())
        assert table[0] == ["x", "y"]
        assert float(table[1][0]) == 0.1 + 0.2
        assert table[1][1] == ""

    def test_numpy_numbers_are_plain_in_csv(self) -> None:
        table = Table("t", "t", ("x",), ((np.float64(0.5),),))
        assert page.table_csv(table) == b"x\n0.5\n"

    def test_markdown(self, tmp_path: Path) -> None:
        path = page.write_markdown(tmp_path, STUDY, [made_up(rows=30)], {"seed": "1"})
        text = path.read_text()
        assert path.name == "made_up.md"
        assert r"a \| b" in text
        assert "&lt;script&gt;" in text
        assert "- **Not met**: missed" in text
        assert "<details><summary>Numbers</summary>" in text
        assert "](images/made_up/first-picture.png)" in text
        assert (tmp_path / "images/made_up/first-picture.png").read_bytes() == PNG
        cells = [
            line.replace(r"\|", "").count("|") for line in text.splitlines() if "|" in line[:1]
        ]
        assert set(cells) == {9, 3}, "rows of a table have as many cells as its header"

    def test_failure_leaves_the_page_before(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        page.write(tmp_path, STUDY, [made_up()], {})
        before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

        def fail(table: Table) -> bytes:
            raise MemoryError

        monkeypatch.setattr(page, "table_csv", fail)
        with pytest.raises(MemoryError):
            page.write(tmp_path, STUDY, [made_up("second")], {})
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before

    def test_a_file_in_the_way_writes_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "report.html").mkdir()
        with pytest.raises(KetyError, match="folder"):
            page.write(tmp_path, STUDY, [made_up()], {})
        assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


class TestData:
    def test_data_sets_have_the_published_frames_and_ranges(self) -> None:
        one, two = data.data_set_1(50, 3), data.data_set_2(50, 3)
        assert one.curves.shape == (50, 200)
        assert two.curves.shape == (50, 37)
        assert two.times[-1] == paper.DATA_SET_2_DURATION
        for name, (low, high) in data.RANGES.items():
            assert (one.truth[name] >= low).all()
            assert (one.truth[name] <= high).all()
            np.testing.assert_array_equal(one.truth[name], two.truth[name])
        assert one.noise == 0

    def test_truth_agrees_with_kety(self) -> None:
        one = data.data_set_1(20, 5)
        fine = data.study_input(200.0)
        simulated = kety.simulate_curves(dict(one.truth), one.times, fine)
        np.testing.assert_allclose(one.curves, simulated, atol=1e-6 * data.PEAK)

    def test_frames_far_apart_do_not_change_the_truth(self) -> None:
        sparse = data.simulated("s", np.arange(0.0, 200.0, 10.0), 8, 5)
        np.testing.assert_allclose(sparse.curves, data.data_set_1(8, 5).curves[:, ::10], rtol=1e-9)

    def test_noise(self) -> None:
        times = np.asarray(protocol("brain"))
        clean = data.simulated("s", times, 300, 5).curves
        noise = data.data_set_2(300, 5).curves - clean
        assert noise.std() == pytest.approx(paper.NOISE, rel=0.05)
        assert abs(noise.mean()) < 0.3

    def test_delays_on_a_grid_stay_in_range(self) -> None:
        delays = data.simulated("s", np.arange(20.0), 200, 1, delay_step=0.75).truth["delay"]
        low, high = data.RANGES["delay"]
        assert delays.min() >= low
        assert delays.max() <= high
        np.testing.assert_allclose((delays - low) / 0.75 % 1, 0, atol=1e-9)

    def test_input_has_its_peak(self) -> None:
        assert data.study_input(100.0).concentration.max() == pytest.approx(data.PEAK, rel=1e-4)
        assert data.parker_input(1.0, 10.0).concentration[3] == pytest.approx(parker(3.0))

    def test_mean_errors(self) -> None:
        errors = np.random.default_rng(0).exponential(2.0, (400, 4))
        errors[7, 2] = np.nan
        means = data.mean_errors(errors)
        known = np.delete(errors, 7, axis=0)
        assert means["all"].value == pytest.approx(known.mean())
        assert means["vb"].value == pytest.approx(known[:, 2].mean())
        assert means["vb"].median == pytest.approx(np.median(known[:, 2]))
        normal = 2 * 1.96 * known[:, 2].std() / np.sqrt(399)
        assert means["vb"].high - means["vb"].low == pytest.approx(normal, rel=0.15)

    def test_no_estimate_at_all(self) -> None:
        assert math.isnan(data.mean_errors(np.full((3, 4), np.nan))["all"].value)

    def test_percent_errors(self) -> None:
        truth = {name: np.array([2.0]) for name in data.NAMES}
        maps = {name: type("Map", (), {"values": np.array([1.5])}) for name in data.NAMES}
        np.testing.assert_allclose(data.percent_errors(maps, truth), 25.0)


class TestPaper:
    @pytest.mark.parametrize("rate", [1.0, 5.0])
    def test_overall_is_the_mean_of_four(self, rate: float) -> None:
        numbers = paper.IIR_ERROR[rate]
        mean = np.mean([numbers[name].value for name in data.NAMES])
        assert mean == pytest.approx(numbers["all"].value, abs=0.006)

    def test_tables_agree_with_their_ratios(self) -> None:
        for method, times in paper.RUN_TIME.items():
            for kind, speed in paper.RELATIVE_SPEED[method].items():
                assert times["fir"].value / times[kind].value == pytest.approx(
                    speed.value, rel=0.03
                )

    def test_beside(self) -> None:
        one = paper.CLINICAL_ERROR.beside(20.0, 18.0, 22.0, "why")
        assert (one.ratio, one.low, one.high, one.why) == (2.0, 18.0, 22.0, "why")
        assert "below" in one.what


class TestRectangle:
    @pytest.mark.parametrize(("rule", "kind"), [("rectangle", "fir"), ("bilinear", "iir")])
    def test_is_the_discrete_system(self, rule: str, kind: str) -> None:
        times, aif = np.arange(100.0), data.study_input()
        v, a, k, tau = 0.05, 0.004, 0.02, 3.3
        ours = rectangle.curve(np.array([v, a, k, tau]), aif(times), 1.0, rule)
        slow = naive_discrete.curve(aif, times, 1.0, v, a, k, tau, kind, "thiran")
        np.testing.assert_allclose(ours, slow, atol=1e-9 * data.PEAK)

    def test_first_tap_is_a_blood_volume(self) -> None:
        x = data.study_input()(np.arange(100.0))
        full = rectangle.curve(np.array([0.05, 0.004, 0.02, 3.3]), x, 1.0, "rectangle")
        half = rectangle.curve(np.array([0.052, 0.004, 0.02, 3.3]), x, 1.0, "halved")
        np.testing.assert_allclose(full, half, rtol=1e-12, atol=1e-12)


class Tiny(Effort):
    """Two voxels wherever an experiment asks how many."""

    def pick(self, quick: int, full: int) -> int:
        return min(quick, 2)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Effort:
    monkeypatch.setattr(data, "MANY", 4)
    monkeypatch.setattr(stalled, "STARTS", (1, 2))
    monkeypatch.setattr(arrival, "MISFITS", (-arrival.HALF, 0.0, 0.2, arrival.HALF))
    return Tiny(False, seed=3)


def check(outcome: Outcome, name: str) -> None:
    assert outcome.name == name
    assert outcome.comparisons
    for table in outcome.tables:
        assert all(len(row) == len(table.header) for row in table.rows), table.name
    for picture in outcome.pictures:
        assert picture.png.startswith(b"\x89PNG")
        assert picture.alt
    for one in outcome.comparisons:
        assert one.ours is not None
        assert math.isfinite(one.ours)
        assert one.low is not None
        assert one.low <= one.ours <= (one.high or 0.0) * (1 + 1e-12)
    told = " ".join([*outcome.text, *(text for text, _ in outcome.targets)])
    assert "nan" not in told
    assert "None" not in told
    page.render(STUDY, [outcome], {})


class TestExperiments:
    def test_delay(self, tiny: Effort) -> None:
        outcome = delay.run(tiny)
        check(outcome, "delay")
        single = [c.ours for c in outcome.comparisons if "one start, rounded" in c.what]
        assert len(single) == 4
        fractional = [c.ours for c in outcome.comparisons if "fractional" in c.what]
        assert max(fractional) < min(single)

    def test_rates(self, tiny: Effort) -> None:
        outcome = rates.run(tiny)
        check(outcome, "rates")
        table = next(t for t in outcome.tables if t.name == "rates_rectangle")
        vb = table.header.index("Vb")
        by_rule = [float(row[vb] or 0.0) for row in table.rows]
        assert by_rule[1] < by_rule[0] / 2, "half the first tap is most of FIR's error"

    def test_sampling(self, tiny: Effort) -> None:
        outcome = sampling.run(tiny)
        check(outcome, "sampling")
        assert len({c.what for c in outcome.comparisons}) == 3

    def test_every_listed_module_exists(self) -> None:
        assert all(find_spec(module) is not None for module in EXPERIMENTS.values())

    @pytest.mark.parametrize("only", [["delays"], []])
    def test_unknown_experiments(self, only: Sequence[str]) -> None:
        with pytest.raises(KetyError, match="calibration, delay, rates, sampling"):
            outcomes(Effort(False), only)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["reproduce", *map(str, arguments)])


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A study of two quick experiments; `seen` is what it was asked."""
    module: Any = ModuleType("made_up_study")
    module.seen, module.interrupt = {}, False

    def both(effort: Effort, only: Sequence[str] | None) -> Iterator[Outcome]:
        module.seen |= {"full": effort.full, "seed": effort.seed, "only": only}
        for name in only or ["first", "second"]:
            if module.interrupt and name == "second":
                raise KeyboardInterrupt
            effort.tell(f"at {name}")
            yield made_up(name)

    module.STUDY, module.outcomes = STUDY, both
    monkeypatch.setitem(sys.modules, "made_up_study", module)
    monkeypatch.setattr(reproduce, "STUDIES", {"made_up": "made_up_study"})
    return module


class TestCommand:
    def test_writes_page_csv_and_markdown(self, fake: Any, tmp_path: Path) -> None:
        out, docs = tmp_path / "out", tmp_path / "docs"
        result = run("made_up", "--out", out, "--markdown", docs, "--seed", 7)
        assert result.exit_code == 0, result.output
        assert fake.seen == {"full": False, "seed": 7, "only": None}
        assert sorted(p.name for p in out.iterdir()) == [
            "comparisons.csv",
            "first_table.csv",
            "report.html",
            "second_table.csv",
        ]
        assert (docs / "made_up.md").exists()
        assert "at first" in result.output
        assert "NOT MET" in result.output
        assert "reproduce made_up" in (out / "report.html").read_text()

    def test_only_and_full(self, fake: Any, tmp_path: Path) -> None:
        result = run("made_up", "--full", "--only", "second, ", "--out", tmp_path)
        assert result.exit_code == 0, result.output
        assert fake.seen == {"full": True, "seed": 1, "only": ["second"]}
        assert not (tmp_path / "first_table.csv").exists()

    def test_interruption_keeps_what_is_done(self, fake: Any, tmp_path: Path) -> None:
        fake.interrupt = True
        result = run("made_up", "--out", tmp_path)
        assert result.exit_code == INTERRUPTED
        assert "The first" in (tmp_path / "report.html").read_text()
        assert not [p for p in tmp_path.iterdir() if p.name.endswith(".tmp")]

    def test_unknown_names_list_the_valid_ones(self) -> None:
        assert "valid: optimization" in run("optimisation").output
        result = run("optimization", "--only", "speed")
        assert result.exit_code == 2
        assert "'speed'; valid: calibration, delay" in result.output
