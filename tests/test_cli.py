"""The command line: help, the roads of CT and MR from files to maps, and what it refuses."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import Result
from numpy.typing import NDArray

import kety
from commands import good, run
from kety import api
from kety.cli.fit_options import fit_options
from kety.cli.main import COMMANDS, INTERRUPTED, main
from kety.errors import KetyError
from kety.fitting import engine
from kety.fitting.status import Status
from kety.inputs import POPULATION, InputFunction, population_input
from kety.io import nifti, read_volume, write_series, write_volume
from kety.pipeline import (
    QUANTITIES,
    RELAXIVITY,
    Conversion,
    InputSource,
    against_truth,
    estimate,
    provenance,
    read_study,
    write_outcome,
)
from kety.series import Series, Volume
from kety.signal import signal_from_concentration, spgr_signal

AFFINE = np.diag([2.0, 2.0, 5.0, 1.0])
SHAPE = (5, 4, 2)
TIMES = np.arange(0.0, 240.0, 3.0)
TR, ANGLE, R1 = 0.004, 20.0, 4.5
VFA = (2.0, 8.0, 15.0, 20.0)
DELAY = 30.0
SIZE = "32,27,2"


def map_of(folder: Path, name: str) -> NDArray[Any]:
    record = json.loads((folder / "fit.json").read_text())
    return read_volume(folder / record["Maps"][name]).data


def statuses(folder: Path) -> set[Status]:
    return {Status(int(s)) for s in np.unique(map_of(folder, "status"))}


# --- help -------------------------------------------------------------------------------------


def commands() -> list[tuple[str, click.Command]]:
    context = click.Context(main)
    found = [(name, main.get_command(context, name)) for name in main.list_commands(context)]
    return [(name, command) for name, command in found if command is not None]


@pytest.mark.parametrize("arguments", [[], *([name] for name in COMMANDS)])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help(arguments: list[str], flag: str) -> None:
    result = good(*arguments, flag)
    assert "Usage:" in result.output
    assert "--debug" in result.output


@pytest.mark.parametrize(("name", "command"), commands())
def test_every_option_has_a_sentence(name: str, command: click.Command) -> None:
    options = [p for p in command.params if isinstance(p, click.Option)]
    assert options
    for one in options:
        assert one.help, f"{name} {one.name}"
        assert one.help.split(" [default")[0].endswith("."), f"{name} {one.name}: {one.help}"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom kety.cli.main import main\n"
        "for words in (['--help'], ['fit', '--help'], ['demo', '--help']):\n"
        "    try: main(words)\n"
        "    except SystemExit: pass\n"
        "heavy = {'numpy', 'scipy', 'xarray', 'nibabel', 'matplotlib', 'jinja2', 'tqdm'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_help_states_what_the_code_does() -> None:
    text = " ".join(good("fit", "--help").output.split())
    for name in POPULATION:
        assert name in text
    assert f"[default: {RELAXIVITY:g}]" in text
    assert f"for a voxel, of varprolm. [default: {kety.VarProLM().max_evaluations}]" in text
    params = {p.name: p for p in fit_options(click.command()(lambda: None)).params}
    assert tuple(params["quantity"].type.choices) == tuple(QUANTITIES)  # type: ignore[attr-defined]
    times, values = np.arange(2.0), np.ones(2)
    aif = InputFunction(times, values)
    source = InputSource(table="a.csv")
    for name in ("hematocrit", "interpolation"):
        assert params[name].default == getattr(aif, name) == getattr(source, name)


def test_version() -> None:
    assert good("--version").output == f"kety {kety.__version__}\n"


def test_unknown_command_lists_the_others() -> None:
    result = run("fitt")
    assert result.exit_code == 2
    for name in COMMANDS:
        assert name in result.output


def test_module_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kety", "--version"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, f"kety {kety.__version__}\n")


# --- CT ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ct") / "study"
    good("simulate", folder, "--size", SIZE, "--noise", 2)
    return folder


@pytest.fixture(scope="module")
def ct_maps(ct: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("ct") / "maps"
    arguments = ["--aif", ct / "aif.csv", "--mask", ct / "body.nii.gz", "--out", out]
    return out, good("fit", ct / "dce.nii.gz", *arguments, "--roi", ct / "tumour.nii.gz")


def test_ct_recovers_the_truth(ct: Path, ct_maps: tuple[Path, Result]) -> None:
    out, _ = ct_maps
    labels = read_volume(ct / "labels.nii.gz")
    liver = labels.data == int(
        next(key for key, name in labels.sidecar["Levels"].items() if name == "liver")
    )
    assert np.count_nonzero(liver) > 20
    for name, tolerance in (("ktrans", 0.05), ("kep", 0.05), ("ve", 0.05), ("vb", 0.06)):
        truth = read_volume(ct / f"truth_{name}.nii.gz").data[liver]
        error = np.abs(map_of(out, name)[liver] / truth - 1)
        assert np.median(error) < tolerance, name
    delay = map_of(out, "delay")[liver] - read_volume(ct / "truth_delay.nii.gz").data[liver]
    assert np.median(np.abs(delay)) < 0.5


def test_fit_writes_what_it_says(ct: Path, ct_maps: tuple[Path, Result]) -> None:
    out, result = ct_maps
    record = json.loads((out / "fit.json").read_text())
    for label in ("series", "frames", "baseline", "input", "fitted", "status", "ktrans", "maps"):
        assert re.search(rf"^{label}\s", result.output, re.MULTILINE), label
    assert str(out / "report.html") in result.output
    report = (out / "report.html").read_text()
    assert "<html" in report
    assert "dce.nii.gz" in report
    expected = {"ktrans", "kep", "ve", "vp", "vb", "delay", "baseline"}
    expected |= {f"{name}_se" for name in expected} | {"cost", "r2", "evaluations", "status"}
    assert set(record["Maps"]) == expected
    assert all((out / name).is_file() for name in record["Maps"].values())
    assert record["command"].startswith("kety fit ")
    assert str(ct / "dce.nii.gz") in record["command"]
    assert record["model"] == "extended_tofts"
    assert record["baseline_frames"] == list(range(len(record["baseline_frames"])))
    assert record["curve_unit"] == "HU"
    assert record["warnings"] == []
    assert sum(record["status_counts"].values()) == map_of(out, "status").size
    for role, name in (("series", "dce.nii.gz"), ("input", "aif.csv"), ("mask", "body.nii.gz")):
        digest = hashlib.sha256((ct / name).read_bytes()).hexdigest()
        assert record["inputs"][role] == [{"file": name, "sha256": digest}]
    assert not list(out.glob("*.tmp"))


def test_equal_options_give_equal_studies(ct: Path, tmp_path: Path) -> None:
    good("simulate", tmp_path / "again", "--size", SIZE, "--noise", 2)
    for path in sorted(ct.iterdir()):
        if path.name != "simulation.json":  # which holds the command
            assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def test_python_takes_the_same_road(ct: Path, ct_maps: tuple[Path, Result], tmp_path: Path) -> None:
    said: list[str] = []
    study = read_study(
        ct / "dce.nii.gz",
        InputSource(table=ct / "aif.csv"),
        mask=ct / "body.nii.gz",
        tell=lambda label, text: said.append(label),
    )
    maps = estimate(study)
    written = write_outcome(study, maps, tmp_path, record=provenance(study), report=False)
    assert written.report is None
    assert said == ["series", "frames", "baseline", "input"]
    for name in ("ktrans", "delay", "status"):
        np.testing.assert_array_equal(map_of(tmp_path, name), map_of(ct_maps[0], name))


def test_without_a_mask_what_does_not_enhance_is_marked(ct: Path, tmp_path: Path) -> None:
    good("fit", ct / "dce.nii.gz", "--aif", ct / "aif.csv", "--out", tmp_path, "--no-report")
    air = read_volume(ct / "body.nii.gz").data == 0
    assert np.isnan(map_of(tmp_path, "ktrans")[air]).mean() > 0.85
    assert np.median(map_of(tmp_path, "status")[air]) == Status.NOT_ENHANCING
    assert not (tmp_path / "report.html").exists()


def test_input_from_a_mask(ct: Path, tmp_path: Path) -> None:
    result = good(
        "fit", ct / "dce.nii.gz", "--aif-mask", ct / "aorta.nii.gz", "--mask",
        ct / "body.nii.gz", "--out", tmp_path, "--no-report",
    )  # fmt: skip
    assert "aorta.nii.gz" in result.output
    liver = read_volume(ct / "labels.nii.gz").data == 8
    truth = read_volume(ct / "truth_ktrans.nii.gz").data
    assert np.nanmedian(np.abs(map_of(tmp_path, "ktrans")[liver] / truth[liver] - 1)) < 0.15


def test_fitted_curves_and_residuals(ct: Path, tmp_path: Path) -> None:
    good(
        "fit", ct / "dce.nii.gz", "--aif", ct / "aif.csv", "--mask", ct / "tumour.nii.gz",
        "--out", tmp_path, "--fitted", "--no-report", "--baseline-frames", "1-3",
    )  # fmt: skip
    record = json.loads((tmp_path / "fit.json").read_text())
    assert record["baseline_frames"] == [1, 2, 3]
    inside = read_volume(ct / "tumour.nii.gz").data != 0
    data = read_volume(ct / "dce.nii.gz", stack=True).data[inside]
    curves = data - data[:, 1:4].mean(axis=1, keepdims=True)
    names = record["Maps"]
    fitted = read_volume(tmp_path / names["fitted"], stack=True).data[inside]
    residual = read_volume(tmp_path / names["residual"], stack=True).data[inside]
    np.testing.assert_allclose(fitted + residual, curves, atol=1e-3)


@pytest.mark.parametrize(("option", "expected"), [("off", 0.0), ("1.5", 1.5)])
def test_a_fixed_delay(ct: Path, tmp_path: Path, option: str, expected: float) -> None:
    good(
        "fit", ct / "dce.nii.gz", "--aif", ct / "aif.csv", "--mask", ct / "tumour.nii.gz",
        "--out", tmp_path, "--delay", option, "--no-report",
    )  # fmt: skip
    delay = map_of(tmp_path, "delay")
    np.testing.assert_allclose(delay[np.isfinite(delay)], expected)


def test_optimizer_and_discretization_arrive(ct: Path, tmp_path: Path) -> None:
    result = good(
        "fit", ct / "dce.nii.gz", "--aif", ct / "aif.csv", "--mask", ct / "tumour.nii.gz", "--out",
        tmp_path, "--optimizer", "nelder-mead", "--preset", "paper", "--discretization", "iir",
        "--rate", 2, "--delay-filter", "round", "--delay", "onset", "--no-report",
    )  # fmt: skip
    assert "NelderMead, iir at 2 Hz, delay filter round" in result.output
    record = json.loads((tmp_path / "fit.json").read_text())
    assert record["optimizer"] == repr(kety.NelderMead.preset("paper"))
    assert (record["discretization"], record["processing_rate_hz"]) == ("iir", 2.0)
    assert record["delay_filter"] == "round"
    assert "onset" in record["delay"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--optimizer", "simplex"], ["simplex", "varprolm, nelder_mead"]),
        (["--optimizer", "sqp", "--max-evaluations", "9"], ["varprolm", "sqp"]),
        (["--preset", "paper"], ["name one", "--optimizer"]),
        (["--optimizer", "varprolm", "--preset", "paper"], ["no preset"]),
        (["--optimizer", "varprolm", "--rate", "2"], ["2 Hz", "--optimizer nelder-mead"]),
        (["--discretization", "iir", "--rate", "-1"], ["positive number of Hz"]),
        (["--delay-filter", "thiran"], ["sampled signal"]),
        (["--delay-filter", "round"], ["--rate"]),
        (["--delay", "slope"], ["free, off, onset or a number"]),
    ],
)
def test_solvers_that_make_no_sense(
    ct: Path, tmp_path: Path, options: list[str], words: list[str]
) -> None:
    out = tmp_path / "maps"
    result = run(
        "fit", ct / "dce.nii.gz", "--aif", ct / "aif.csv", "--mask", ct / "tumour.nii.gz",
        "--out", out, *options,
    )  # fmt: skip
    assert result.exit_code == 2
    for word in words:
        assert word in result.output
    assert not out.exists()


def test_options_of_the_fit_arrive(ct: Path, tmp_path: Path) -> None:
    result = good(
        "fit", ct / "dce.nii.gz", "--aif", ct / "aif.csv", "--mask", ct / "tumour.nii.gz", "--out",
        tmp_path, "--bounds", "ktrans=0.1:0.3", "--bounds", "delay=0:2", "--model", "tofts",
        "--dtype", "float64", "--threads", 1, "--max-evaluations", 40, "--hematocrit", 0.3,
        "--interpolation", "linear", "--title", "A <title>", "--quiet",
    )  # fmt: skip
    assert result.output == ""
    record = json.loads((tmp_path / "fit.json").read_text())
    assert record["bounds"].startswith("ktrans 0.1 to 0.3")
    assert (record["model"], record["dtype"], record["threads"]) == ("tofts", "float64", 1)
    assert (record["max_evaluations"], record["hematocrit"]) == (40, 0.3)
    assert record["input_function"]["interpolation"] == "linear"
    ktrans = map_of(tmp_path, "ktrans")
    finite = ktrans[np.isfinite(ktrans)]
    assert finite.size
    assert finite.min() >= 0.1 - 1e-6
    assert finite.max() <= 0.3 + 1e-6
    assert "A &lt;title&gt;" in (tmp_path / "report.html").read_text()


def test_default_folder_is_named_after_the_series(
    ct: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    good("fit", ct / "dce.nii.gz", "--aif", ct / "aif.csv", "--mask", ct / "tumour.nii.gz",
         "--no-report")  # fmt: skip
    assert (tmp_path / "dce_maps" / "fit.json").is_file()


def test_a_column_without_a_unit_is_taken_and_said(ct: Path, tmp_path: Path) -> None:
    lines = (ct / "aif.csv").read_text().splitlines()
    (tmp_path / "aif.csv").write_text("\n".join(["time_s,blood", *lines[1:]]))
    arguments = ["fit", ct / "dce.nii.gz", "--aif", tmp_path / "aif.csv", "--mask",
                 ct / "tumour.nii.gz", "--no-report", "--out", tmp_path / "out"]  # fmt: skip
    result = good(*arguments)
    assert "kety: warning: aif.csv: column 'blood' does not name its unit" in result.output
    assert json.loads((tmp_path / "out" / "fit.json").read_text())["warnings"]
    assert "warning" not in good(*arguments, "--aif-unit", "HU").output


# --- MR ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MrStudy:
    folder: Path
    ktrans: NDArray[np.float64]
    t10: NDArray[np.float64]
    base: tuple[object, ...]
    scan: tuple[object, ...]

    def __truediv__(self, name: str) -> Path:
        return self.folder / name


@pytest.fixture(scope="module")
def mr(tmp_path_factory: pytest.TempPathFactory) -> MrStudy:
    """Noise-free spoiled gradient echoes of known tissue, flip angles, T1 and B1 maps."""
    folder = tmp_path_factory.mktemp("mr")
    rng = np.random.default_rng(3)
    ktrans = rng.uniform(0.1, 0.5, SHAPE)
    t10 = rng.uniform(0.7, 1.5, SHAPE)
    aif = population_input("parker", float(TIMES[-1]), delay=DELAY)
    truth: dict[str, Any] = {"ktrans": ktrans.ravel(), "kep": 1.0, "vb": 0.08, "delay": 2.0}
    concentration = kety.simulate_curves(truth, TIMES, aif).reshape(*SHAPE, -1)
    data = signal_from_concentration(
        concentration, t10=t10, repetition_time=TR, flip_angle=ANGLE, relaxivity=R1, s0=1000.0
    )
    # The artery: the last row of voxels holds blood alone.
    blood = np.broadcast_to(aif(TIMES), (SHAPE[1], SHAPE[2], TIMES.size))
    t10[-1] = 1.4
    data[-1] = signal_from_concentration(
        blood, t10=t10[-1], repetition_time=TR, flip_angle=ANGLE, relaxivity=R1, s0=1000.0
    )
    vfa = np.stack([spgr_signal(1 / t10, 1000.0, TR, angle) for angle in VFA], axis=-1)
    artery = np.zeros(SHAPE, np.uint8)
    artery[-1] = 1
    images = {"t10": t10, "b1": np.ones(SHAPE), "vfa": vfa, "artery": artery, "tissue": 1 - artery}
    images |= {f"fa{i}": vfa[..., i] for i in range(len(VFA))}
    for name, image in images.items():
        image = image if image.dtype == np.uint8 else image.astype(np.float32)
        write_volume(Volume(image, AFFINE, name), folder / f"{name}.nii.gz")
    write_series(Series(data.astype(np.float32), TIMES, AFFINE, "MR"), folder / "dce.nii.gz")
    write_series(
        Series(data.astype(np.float32), TIMES, AFFINE, "MR",
               {"repetition_time": TR, "flip_angle": ANGLE}),
        folder / "known.nii.gz",
    )  # fmt: skip
    np.savetxt(folder / "times.csv", TIMES, header="time_s", comments="")
    rows = np.column_stack([TIMES, aif(TIMES)])
    np.savetxt(folder / "aif.csv", rows, delimiter=",", header="time_s,cb_mM", comments="")
    scan = ("--tr", TR, "--flip-angle", ANGLE, "--relaxivity", R1)
    base = ("--mask", folder / "tissue.nii.gz", "--no-report", "--dtype", "float64")
    return MrStudy(folder, ktrans, t10, base, scan)


def ktrans_error(mr: MrStudy, out: Path) -> float:
    error = np.abs(map_of(out, "ktrans") / mr.ktrans - 1)[:-1]
    return float(error.max())


ANGLES = ",".join(f"{a:g}" for a in VFA)
PARKER = ("--population", "parker", "--population-delay", DELAY)
T1_ROADS: dict[str, tuple[str, ...]] = {
    "flip angles": ("--vfa", "vfa.nii.gz", "--vfa-angles", ANGLES),
    "linear": ("--vfa", "vfa.nii.gz", "--vfa-angles", ANGLES, "--vfa-method", "linear"),
    "single images": (
        *(word for i in range(len(VFA)) for word in ("--vfa", f"fa{i}.nii.gz")),
        "--vfa-angles",
        ANGLES,
        "--vfa-tr",
        str(TR),
    ),
    "map": ("--t10", "t10.nii.gz"),
    "map and b1": ("--t10", "t10.nii.gz", "--b1", "b1.nii.gz"),
    "map and b1 number": ("--t10", "t10.nii.gz", "--b1", "1.0"),
}


@pytest.mark.parametrize("road", T1_ROADS)
def test_mr_from_signal_to_maps(mr: MrStudy, tmp_path: Path, road: str) -> None:
    words = [mr / w if w.endswith(".nii.gz") else w for w in T1_ROADS[road]]
    good("fit", mr / "dce.nii.gz", *mr.base, *mr.scan, *PARKER, *words, "--out", tmp_path)
    assert ktrans_error(mr, tmp_path) < 2e-3
    record = json.loads((tmp_path / "fit.json").read_text())
    assert record["curve_unit"] == "mM"
    assert record["relaxivity_per_mM_per_s"] == R1
    if "--vfa" in T1_ROADS[road]:
        np.testing.assert_allclose(map_of(tmp_path, "t10")[:-1], mr.t10[:-1], rtol=1e-4)


def test_mr_with_a_table_and_what_the_sidecar_knows(mr: MrStudy, tmp_path: Path) -> None:
    result = good("fit", mr / "known.nii.gz", *mr.base, "--aif", mr / "aif.csv", "--t10",
                  mr / "t10.nii.gz", "--out", tmp_path)  # fmt: skip
    assert "4.5 /mM/s (assumed)" in result.output
    assert "VolumeTiming" in result.output
    assert ktrans_error(mr, tmp_path) < 0.2  # the input has one sample every 3 s


def test_mr_with_the_artery_in_the_image(mr: MrStudy, tmp_path: Path) -> None:
    arguments = ["fit", mr / "known.nii.gz", *mr.base, "--aif-mask", mr / "artery.nii.gz"]
    good(*arguments, "--t10", mr / "t10.nii.gz", "--out", tmp_path / "a")
    good(*arguments, "--t10", mr / "t10.nii.gz", "--aif-t10", 1.4, "--out", tmp_path / "b")
    np.testing.assert_allclose(
        map_of(tmp_path / "a", "ktrans"), map_of(tmp_path / "b", "ktrans"), rtol=1e-4
    )
    good(*arguments, "--t10", mr / "t10.nii.gz", "--aif-t10", 1.2, "--out", tmp_path / "c")
    ratio = map_of(tmp_path / "c", "ktrans") / map_of(tmp_path / "a", "ktrans")
    assert 0.6 < np.nanmedian(ratio) < 0.95
    result = run(*arguments, "--t10", mr / "t10.nii.gz", "--aif-t10", 0.3, "--out", tmp_path / "d")
    assert result.exit_code == 2
    assert "check T1 of blood" in result.output


def test_the_bolus_is_found_in_the_series(mr: MrStudy, tmp_path: Path) -> None:
    good("fit", mr / "known.nii.gz", *mr.base, "--population", "parker", "--t10",
         mr / "t10.nii.gz", "--out", tmp_path)  # fmt: skip
    assert ktrans_error(mr, tmp_path) < 0.01
    shift = map_of(tmp_path, "delay")[:-1]
    record = json.loads((tmp_path / "fit.json").read_text())
    arrival = TIMES[record["baseline_frames"][-1]]
    assert shift + arrival == pytest.approx(DELAY + 2.0, abs=0.1)
    good("fit", mr / "known.nii.gz", *mr.base, "--population", "parker", "--t10",
         mr / "t10.nii.gz", "--baseline-frames", 3, "--out", tmp_path / "given")  # fmt: skip
    np.testing.assert_allclose(map_of(tmp_path / "given", "delay")[:-1], shift, atol=0.1)


@pytest.mark.parametrize("timing", [("--times", "times.csv"), ("--interval", "3")])
def test_concentration_needs_no_acquisition(
    mr: MrStudy, tmp_path: Path, timing: tuple[str, str]
) -> None:
    aif = population_input("parker", float(TIMES[-1]), delay=DELAY)
    curves = kety.simulate_curves(
        {"ktrans": mr.ktrans.ravel(), "kep": 1.0, "vb": 0.08, "delay": 0.0}, TIMES, aif
    )
    volume = Volume(curves.reshape(*SHAPE, -1).astype(np.float32), AFFINE)
    write_volume(volume, tmp_path / "conc.nii.gz")
    option, value = timing
    good("fit", tmp_path / "conc.nii.gz", "--quantity", "concentration", *PARKER, option,
         mr / value if value.endswith("csv") else value, "--no-report", "--dtype", "float64",
         "--out", tmp_path / "out")  # fmt: skip
    np.testing.assert_allclose(map_of(tmp_path / "out", "ktrans"), mr.ktrans, rtol=1e-3)


def test_voxels_that_cannot_be_fitted_say_why(mr: MrStudy, tmp_path: Path) -> None:
    data = read_volume(mr / "dce.nii.gz", stack=True).data.copy()
    data[0, 0, 0, 5] = np.nan
    data[0, 1, 0] = 0.0
    data[0, 2, 0] = np.inf
    data[0, 3, 0] = 700.0
    data[1, 0, 0, 40:] *= -1
    write_series(Series(data, TIMES, AFFINE, "MR"), tmp_path / "dce.nii.gz")
    result = good("fit", tmp_path / "dce.nii.gz", *mr.scan, *PARKER, "--t10", "1.0", "--out",
                  tmp_path / "out", "--baseline-frames", 8)  # fmt: skip
    status = map_of(tmp_path / "out", "status")
    for voxel in ((0, 0, 0), (0, 1, 0), (0, 2, 0), (1, 0, 0)):
        assert status[voxel] == Status.NOT_FINITE, voxel
        assert np.isnan(map_of(tmp_path / "out", "ktrans")[voxel])
    assert status[0, 3, 0] == Status.NOT_ENHANCING
    assert "36 of 40 voxels" in result.output
    assert "not finite 10.0 %" in result.output


def test_nothing_to_fit_is_said(mr: MrStudy, tmp_path: Path) -> None:
    flat = np.full((*SHAPE, TIMES.size), 40.0, np.float32)
    write_series(Series(flat, TIMES, AFFINE, "CT"), tmp_path / "flat.nii.gz")
    (tmp_path / "aif.csv").write_text("time_s,cb_HU\n0,0\n10,0\n20,200\n300,20\n")
    result = good("fit", tmp_path / "flat.nii.gz", "--aif", tmp_path / "aif.csv", "--out",
                  tmp_path / "out")  # fmt: skip
    assert "warning: no voxel could be fitted; all are not enhancing" in result.output
    assert statuses(tmp_path / "out") == {Status.NOT_ENHANCING}
    result = run("fit", tmp_path / "flat.nii.gz", "--population", "parker", "--aif-unit", "any",
                 "--out", tmp_path / "none")  # fmt: skip
    assert result.exit_code == 2
    assert "when the bolus" in result.output
    assert "--population-delay" in result.output
    assert not (tmp_path / "none").exists()


# --- what it refuses --------------------------------------------------------------------------


def make_truncated(folder: Path, ct: Path) -> Path:
    path = folder / "cut.nii.gz"
    path.write_bytes((ct / "dce.nii.gz").read_bytes()[:20000])
    return path


def make_short_times(folder: Path, ct: Path) -> Path:
    (folder / "t.csv").write_text("time_s\n0\n1\n2\n")
    return folder / "t.csv"


def make_wrong_order(folder: Path, ct: Path) -> Path:
    (folder / "t.csv").write_text("\n".join(map(str, [*range(64), 70, 69])))
    return folder / "t.csv"


def make_other_grid(folder: Path, ct: Path) -> Path:
    mask = Volume(np.ones((4, 4, 4), np.uint8), AFFINE)
    return write_volume(mask, folder / "m.nii.gz")[0]


def make_shifted(folder: Path, ct: Path) -> Path:
    body = read_volume(ct / "body.nii.gz")
    affine = body.affine.copy()
    affine[0, 3] += 3
    return write_volume(Volume(body.data, affine), folder / "m.nii.gz")[0]


def make_empty_mask(folder: Path, ct: Path) -> Path:
    body = read_volume(ct / "body.nii.gz")
    return write_volume(Volume(body.data * 0, body.affine), folder / "m.nii.gz")[0]


def make_early_input(folder: Path, ct: Path) -> Path:
    lines = (ct / "aif.csv").read_text().splitlines()
    (folder / "aif.csv").write_text("\n".join(lines[:150]))
    return folder / "aif.csv"


def make_mm_input(folder: Path, ct: Path) -> Path:
    (folder / "aif.csv").write_text("time_s,cp_mM\n0,0\n10,0\n20,5\n400,1\n")
    return folder / "aif.csv"


def make_two_columns(folder: Path, ct: Path) -> Path:
    (folder / "aif.csv").write_text("time_s,cp_HU,cb_HU\n0,0,0\n400,1,1\n")
    return folder / "aif.csv"


def make_no_unit_of_time(folder: Path, ct: Path) -> Path:
    (folder / "aif.csv").write_text("t,cb_HU\n0,0\n400,1\n")
    return folder / "aif.csv"


def make_no_site(folder: Path, ct: Path) -> Path:
    (folder / "aif.csv").write_text("time_s,aif_HU\n0,0\n400,1\n")
    return folder / "aif.csv"


def make_text(folder: Path, ct: Path) -> Path:
    (folder / "dce.nii.gz").write_text("no image")
    return folder / "dce.nii.gz"


Make = Callable[[Path, Path], Path]
S, A = "{ct}/dce.nii.gz", "--aif {ct}/aif.csv"
REFUSED: dict[str, tuple[str, Make | None, tuple[str, ...]]] = {
    "no input": (S, None, ("arterial input is needed", "--aif, --population or --aif-mask")),
    "two inputs": (f"{S} {A} --population parker", None, ("table and population",)),
    "missing series": ("nowhere.nii.gz " + A, None, ("nowhere.nii.gz", "no such file")),
    "missing input": (f"{S} --aif nowhere.csv", None, ("nowhere.csv",)),
    "missing mask": (f"{S} {A} --mask nowhere.nii.gz", None, ("nowhere.nii.gz", "no such file")),
    "missing roi": (f"{S} {A} --roi nowhere.nii.gz", None, ("nowhere.nii.gz", "no such file")),
    "missing times": (f"{S} {A} --times nowhere.csv", None, ("nowhere.csv",)),
    "truncated series": ("{made} --modality CT --interval 2 " + A, make_truncated, ("truncated",)),
    "not an image": ("{made} --modality CT --interval 2 " + A, make_text, ("truncated",)),
    "a volume": ("{ct}/body.nii.gz --modality CT --interval 2 " + A, None, ("4 dimensions",)),
    "no modality": ("{ct}/labels.nii.gz --interval 2 " + A, None, ("dimension",)),
    "wrong number of times": (f"{S} {A} --times {{made}}", make_short_times, ("66 frames",)),
    "times out of order": (f"{S} {A} --times {{made}}", make_wrong_order, ("increase",)),
    "two times": (f"{S} {A} --times t.csv --interval 2", None, ("--times and --interval",)),
    "mask on another grid": (f"{S} {A} --mask {{made}}", make_other_grid, ("another grid",)),
    "mask elsewhere": (f"{S} {A} --mask {{made}}", make_shifted, ("another grid", "mm")),
    "empty mask": (f"{S} {A} --mask {{made}}", make_empty_mask, ("empty",)),
    "empty input mask": (f"{S} --aif-mask {{made}}", make_empty_mask, ("empty",)),
    "input ends early": (f"{S} --aif {{made}}", make_early_input, ("ends at", "300 s")),
    "input in mM": (f"{S} --aif {{made}}", make_mm_input, ("in mM", "in HU", "--aif-unit any")),
    "population for CT": (f"{S} --population parker", None, ("in mM", "--aif-unit any")),
    "two columns": (f"{S} --aif {{made}}", make_two_columns, ("cp_HU", "--aif-column")),
    "no unit of time": (f"{S} --aif {{made}}", make_no_unit_of_time, ("--aif-time-unit",)),
    "blood or plasma": (f"{S} --aif {{made}}", make_no_site, ("--aif-site",)),
    "unknown column": (f"{S} {A} --aif-column aorta", None, ("'aorta'", "blood_HU")),
    "wrong unit": (f"{S} {A} --aif-unit mM", None, ("is in HU",)),
    "unknown model": (f"{S} {A} --model toft", None, ("'toft'", "extended_tofts", "patlak")),
    "unknown population": (f"{S} --population p --aif-unit any", None, ("'p'", "georgiou")),
    "unknown parameter": (f"{S} {A} --bounds fp=0:1", None, ("'fp'", "ktrans")),
    "derived parameter": (f"{S} {A} --bounds ve=0:1", None, ("ve is derived",)),
    "bounds upside down": (f"{S} {A} --bounds kep=1:0", None, ("lower bound of kep",)),
    "bounds of nothing": (f"{S} {A} --bounds kep", None, ("--bounds", "ktrans=0:5")),
    "unknown delay": (f"{S} {A} --delay maybe", None, ("--delay", "free, off")),
    "baseline of nothing": (f"{S} {A} --baseline-frames 0", None, ("--baseline-frames",)),
    "baseline outside": (f"{S} {A} --baseline-frames 70-80", None, ("frame",)),
    "unknown dtype": (f"{S} {A} --dtype float16", None, ("float32",)),
    "no threads": (f"{S} {A} --threads 0", None, ("--threads",)),
    "hematocrit": (f"{S} {A} --hematocrit 42", None, ("hematocrit", "0.42")),
    "MR option for CT": (f"{S} {A} --t10 1", None, ("t10", "MR signal")),
    "blood T1 for CT": (f"{S} --aif-mask {{ct}}/aorta.nii.gz --aif-t10 1", None, ("T1 of blood",)),
    "signal of CT": (f"{S} {A} --quantity signal", None, ("CT", "hu, enhancement")),
    "baseline of enhancement": (
        f"{S} {A} --quantity enhancement --baseline-frames 4", None, ("enhancement", "baseline"),
    ),
    "delay of a table": (f"{S} {A} --population-delay 3", None, ("delay", "table")),
    "MR without T1": (f"{S} {A} --aif-unit any --modality MR --tr 0.004 --flip-angle 20", None,
                      ("--t10 or --vfa",)),
    "MR without TR": (f"{S} {A} --aif-unit any --modality MR --flip-angle 20", None, ("--tr",)),
    "MR without angle": (f"{S} {A} --aif-unit any --modality MR --tr 0.004", None,
                         ("--flip-angle",)),
    "flip angles without images": (
        f"{S} {A} --aif-unit any --modality MR --vfa-angles 2,3", None, ("vfa_angles",),
    ),
    "angles": (f"{S} {A} --modality MR --vfa-angles two", None, ("separated by commas",)),
    "folder is a file": (f"{S} {A} --out {{ct}}/aif.csv", None, ("aif.csv is a file",)),
    "folder in a file": (f"{S} {A} --out {{ct}}/aif.csv/maps", None, ("aif.csv is a file",)),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, ct: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words, make, phrases = REFUSED[case]
    before = sorted(ct.iterdir())
    (tmp_path / "made").mkdir()
    made = make(tmp_path / "made", ct) if make else None
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    result = run("fit", *words.format(ct=ct, made=made).split())
    assert result.exit_code == 2, result.output
    for phrase in phrases:
        assert phrase in result.output, result.output
    assert "Traceback" not in result.output
    last = [line for line in result.output.splitlines() if line][-1]
    assert last.startswith(("kety: error: ", "Error: "))
    assert list(work.iterdir()) == []
    assert sorted(ct.iterdir()) == before


def test_folder_not_writable(ct: Path, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("the superuser may write anywhere")
    (tmp_path / "locked").mkdir(mode=0o500)
    out = tmp_path / "locked" / "maps"
    result = run("fit", ct / "dce.nii.gz", "--aif", ct / "aif.csv", "--out", out)
    assert result.exit_code == 2
    assert "not writable" in result.output


def test_full_disk_leaves_no_maps(
    ct: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 0

    def write(stream: Any, path: Any, volume: Any) -> None:
        nonlocal written
        written += 1
        stream.write(b"half a file")
        if written > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(nifti, "write", write)
    out = tmp_path / "maps"
    result = run("fit", ct / "dce.nii.gz", "--aif", ct / "aif.csv", "--out", out)
    assert result.exit_code == 2
    assert "the disk is full" in result.output
    assert list(out.iterdir()) == []


def test_debug_shows_the_error(tmp_path: Path) -> None:
    for words in (["--debug", "info"], ["info", "--debug"]):
        result = run(*words, tmp_path / "nowhere")
        assert isinstance(result.exception, KetyError)


def test_out_of_memory_is_one_line(ct: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(*args: Any, **kwargs: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(api, "fit", fit)
    result = run("fit", ct / "dce.nii.gz", "--aif", ct / "aif.csv", "--no-report")
    assert result.exit_code == 2
    assert "kety: error: not enough memory" in result.output


# --- interruption -----------------------------------------------------------------------------


def test_interrupted_fit_keeps_what_is_done(
    ct: Path, ct_maps: tuple[Path, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, block = engine.prepare, 200

    def prepared(*args: Any) -> Callable[[Any], Any]:
        solve, calls = prepare(*args), [0]

        def some(curves: Any) -> Any:
            calls[0] += 1
            if calls[0] > 3:
                raise KeyboardInterrupt
            return solve(curves)

        return some

    monkeypatch.setattr(api, "BLOCK", block)
    monkeypatch.setattr(api, "prepare", prepared)
    result = run("fit", ct / "dce.nii.gz", "--aif", ct / "aif.csv", "--mask",
                 ct / "body.nii.gz", "--out", tmp_path)  # fmt: skip
    assert result.exit_code == INTERRUPTED
    assert f"interrupted when {3 * block} voxels were done" in result.output
    record = json.loads((tmp_path / "fit.json").read_text())
    assert (record["interrupted"], record["voxels_done"]) == (1, 3 * block)
    assert "interrupted" in (tmp_path / "report.html").read_text()
    done = map_of(tmp_path, "status") != Status.OUTSIDE
    assert np.count_nonzero(done) == 3 * block
    np.testing.assert_array_equal(
        map_of(tmp_path, "ktrans")[done], map_of(ct_maps[0], "ktrans")[done]
    )


def test_interrupted_before_anything_was_done(
    ct: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepared(*args: Any) -> Callable[[Any], Any]:
        def none(curves: Any) -> Any:
            raise KeyboardInterrupt

        return none

    monkeypatch.setattr(api, "prepare", prepared)
    out = tmp_path / "out"
    result = run("fit", ct / "dce.nii.gz", "--aif", ct / "aif.csv", "--out", out)
    assert result.exit_code == INTERRUPTED
    assert "kety: interrupted" in result.output
    assert not out.exists()


SLOW = """
import sys, time
from kety import api
from kety.fitting import engine
prepare = api.prepare

def slow(*args):
    solve = prepare(*args)
    def one(curves):
        print("solving", file=sys.stderr, flush=True)
        time.sleep(0.3)
        return solve(curves)
    return one

api.prepare, api.BLOCK = slow, 50
from kety.cli.main import main
main(prog_name="kety")
"""


def test_ctrl_c_on_a_running_fit(ct: Path, tmp_path: Path) -> None:
    words = ["fit", ct / "dce.nii.gz", "--aif", ct / "aif.csv", "--mask", ct / "body.nii.gz",
             "--no-report", "--out", tmp_path]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *map(str, words)], stderr=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    seen = 0
    for line in process.stderr:
        seen += line.startswith("solving")
        if seen == 3:
            process.send_signal(signal.SIGINT)
            break
    _, rest = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED
    assert "kety: warning: The fit was interrupted when 100 voxels were done" in rest
    assert json.loads((tmp_path / "fit.json").read_text())["voxels_done"] == 100
    assert np.count_nonzero(map_of(tmp_path, "status") != Status.OUTSIDE) == 100


# --- demo and info ----------------------------------------------------------------------------


def test_demo(tmp_path: Path) -> None:
    result = good("demo", "--out", tmp_path / "demo", "--size", SIZE, "--noise", 3)
    for words in ("liver", "tumour rim", "necrotic core", "ktrans", "voxels/s"):
        assert words in result.output
    maps = tmp_path / "demo" / "maps"
    assert str(maps / "report.html") in result.output
    report = (maps / "report.html").read_text()
    assert "Against the truth" in report
    assert "tumour rim" in report
    liver = re.search(r"^liver\s+\S+\s+([\d.]+) %", result.output, re.MULTILINE)
    assert liver is not None
    assert float(liver[1]) < 10
    record = json.loads((maps / "fit.json").read_text())
    assert record["simulation"]["noise"] == 3
    study = tmp_path / "demo" / "study"
    assert {"dce", "aif.csv", "body.dcm", "truth_ktrans.nii.gz"} <= {
        path.name for path in study.iterdir()
    }


def test_simulate_refuses(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for words, phrase in (
        (["--protocol", "three_phase"], "two_phase"),
        (["--size", "10,10"], "--size"),
        (["--noise", "-1"], "noise"),
    ):
        result = run("simulate", tmp_path / "out", *words)
        assert result.exit_code == 2
        assert phrase in result.output
    assert run("simulate", tmp_path / "file").exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_info_on_the_installation() -> None:
    output = good("info").output
    for word in (kety.__version__, *kety.MODELS, *POPULATION, "ktrans", "1/min", ".nii.gz"):
        assert word in output


def test_info_on_files(ct: Path, ct_maps: tuple[Path, Result], mr: MrStudy, tmp_path: Path) -> None:
    out, _ = ct_maps
    output = good("info", out, ct / "dce.nii.gz", ct / "aif.csv", mr / "known.nii.gz").output
    for words in (
        "extended_tofts", "converged", "32 × 27 × 2 × 66", "0 to 300 s", "CT", "blood_HU",
        "every 3 s", "MR", "repetition time 0.004", "flip angle 20",
    ):  # fmt: skip
        assert words in output
    ktrans = json.loads((out / "fit.json").read_text())["Maps"]["ktrans"]
    output = good("info", out / ktrans).output
    assert "1/min" in output
    assert "are NaN" in output
    volume = Volume(np.zeros((2, 2, 1, 3), np.float32), AFFINE)
    write_volume(volume, tmp_path / "untimed.nii")
    assert "3, at unknown times" in good("info", tmp_path / "untimed.nii").output


@pytest.mark.parametrize(
    ("name", "content", "phrase"),
    [
        ("none.nii.gz", None, "no such file"),
        ("a.xyz", "x", "unknown file extension"),
        ("a.dcm", "x", "is not DICOM"),
        ("a.nii.gz", "x", "truncated"),
        ("a.csv", "", "empty"),
        ("folder/other.json", "{}", "fit.json"),
        ("folder/fit.json", "{", "not a record"),
        ("folder/fit.json", "[]", "not a record"),
    ],
)
def test_info_refuses(tmp_path: Path, name: str, content: str | None, phrase: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    result = run("info", path.parent if name.startswith("folder") else path)
    assert result.exit_code == 2
    assert phrase in result.output
    assert "Traceback" not in result.output


# --- the records of the pipeline --------------------------------------------------------------


def test_conversion_takes_t1_from_one_place() -> None:
    with pytest.raises(KetyError, match="T1 is given and flip angles"):
        Conversion(t10=1.0, vfa=["vfa.nii.gz"]).check("signal")


def test_unknown_quantity_lists_the_valid(ct: Path) -> None:
    with pytest.raises(KetyError, match="hu, enhancement, signal, concentration"):
        read_study(ct / "dce.nii.gz", InputSource(table=ct / "aif.csv"), quantity="counts")


def test_against_truth_needs_a_common_parameter(ct: Path) -> None:
    study = read_study(
        ct / "dce.nii.gz", InputSource(table=ct / "aif.csv"), mask=ct / "tumour.nii.gz"
    )
    maps = estimate(study)
    with pytest.raises(KetyError, match="no truth"):
        against_truth(maps, {"fp": maps["ktrans"].values}, {})
