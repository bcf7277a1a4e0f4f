"""What the benchmarks share: the published data sets, tables, results on disk."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import kety
from kety.inputs import InputFunction
from kety.inputs.population import parker
from kety.simulate import protocol

Array = NDArray[np.float64]
Measure = Callable[[argparse.Namespace], tuple[list["Table"], dict[str, Any]]]

RESULTS = Path(__file__).parent / "results"

# Svistoun et al., Tomography 2019, doi:10.18383/j.tom.2018.00048: the ranges of the simulated
# parameters, which are the bounds of the fits too.
PAPER_BOUNDS: Mapping[str, tuple[float, float]] = {
    "ktrans": (0.02, 1.0),
    "kep": (0.1, 3.0),
    "vb": (0.01, 0.2),
    "delay": (0.0, 10.0),
}
NAMES = tuple(PAPER_BOUNDS)
BOUNDS: Mapping[str, Mapping[str, tuple[float, float]] | None] = {
    "paper": PAPER_BOUNDS,
    "default": None,
}
HEMATOCRIT = 0.4
NOISE = 6.0  # HU, data set 2
PEAK = 300.0  # HU, peak of the input
PANEL_NODES = 16
BLOCK = 1 << 16


@dataclass(frozen=True)
class Table:
    """A titled table whose cells are text."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def markdown(self) -> str:
        """The table in Markdown, columns aligned."""
        lines = [list(self.header), *(list(row) for row in self.rows)]
        width = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
        text = [
            "| " + " | ".join(c.ljust(w) for c, w in zip(row, width, strict=True)) + " |"
            for row in lines
        ]
        text.insert(1, "|" + "|".join("-" * (w + 2) for w in width) + "|")
        note = ["", self.note] if self.note else []
        return "\n".join([f"**{self.title}**", "", *text, *note])


def random_parameters(count: int, rng: np.random.Generator) -> dict[str, Array]:
    """Parameters (count,) uniform over the paper's ranges, in public units."""
    return {name: rng.uniform(lo, hi, count) for name, (lo, hi) in PAPER_BOUNDS.items()}


def parker_input(
    interval: float, end: float, *, peak: float | None = None, interpolation: str = "cubic"
) -> InputFunction:
    """Parker's curve from 0 to `end` s, known every `interval` s; in mM, or HU with a `peak`."""
    times = interval * np.arange(round(end / interval) + 1)
    scale = 1.0 if peak is None else peak / float(parker(np.arange(0.0, 30.0, 0.001)).max())
    return InputFunction(
        times, parker(times) * scale, hematocrit=HEMATOCRIT, interpolation=interpolation
    )


def parker_curves(parameters: Mapping[str, Array], times: Array) -> Array:
    """Extended Tofts curves (V, T) of Parker's formula by Gauss-Legendre quadrature.

    Exact to rounding for frames up to a few s apart, and independent of kety's kernel and of any
    sampling of the input.
    """
    node, weight = np.polynomial.legendre.leggauss(PANEL_NODES)
    node, weight = 0.5 * (node + 1.0), 0.5 * weight
    rate = parameters["kep"] / 60.0
    amplitude = parameters["ktrans"] / 60.0 / (1.0 - HEMATOCRIT)
    curves = np.empty((rate.size, times.size))
    tissue, last = np.zeros(rate.size), np.zeros(rate.size)
    for j, t in enumerate(times):
        now = np.maximum(t - parameters["delay"], 0.0)
        step = now - last
        u = last[:, None] + step[:, None] * node
        decayed = parker(u) * np.exp(-rate[:, None] * (now[:, None] - u))
        tissue = tissue * np.exp(-rate * step) + step * (decayed @ weight)
        blood = np.where(t >= parameters["delay"], parker(now), 0.0)
        curves[:, j] = parameters["vb"] * blood + amplitude * tissue
        last = now
    return curves


def brain_times() -> Array:
    """The 37 irregular frame times of data set 2, s."""
    return np.asarray(protocol("brain"))


def noisy_curves(
    count: int, times: Array, aif: InputFunction, seed: int, *, noise: float = NOISE
) -> tuple[dict[str, Array], NDArray[np.float32]]:
    """Parameters and noisy float32 curves (count, T) as in data set 2, made block by block."""
    parameters = random_parameters(count, np.random.default_rng(seed))
    curves = np.empty((count, times.size), np.float32)
    for block, start in enumerate(range(0, count, BLOCK)):
        part = slice(start, min(start + BLOCK, count))
        clean = kety.simulate_curves({n: p[part] for n, p in parameters.items()}, times, aif)
        random = np.random.default_rng((seed, block))
        curves[part] = clean + noise * random.standard_normal(clean.shape, np.float32)
    return parameters, curves


def percent_errors(maps: Any, truth: Mapping[str, Array]) -> Array:
    """Relative errors (V, 4) in %, the paper's definition, in the order of `NAMES`."""
    return np.stack(
        [100.0 * np.abs(maps[n].values.astype(float) - truth[n]) / truth[n] for n in NAMES], axis=1
    )


def stopwatch(action: Callable[[], Any], repeats: int) -> list[float]:
    """Wall times of `repeats` calls, s."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return seconds


def environment() -> dict[str, str]:
    """Where and with what the figures were measured."""
    import scipy
    import xarray

    from kety.fitting.engine import available_threads, instruction_sets

    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        named = [li for li in cpuinfo.read_text().splitlines() if li.startswith("model name")]
        model = named[0].partition(":")[2].strip() if named else model
    return {
        "date": datetime.date.today().isoformat(),
        "processor": f"{model}, {available_threads()} threads",
        "instruction set": instruction_sets()[0],
        "system": f"{platform.system()} {platform.machine()}",
        "kety": kety.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "xarray": xarray.__version__,
    }


def run(name: str, measure: Measure, description: str, argv: Sequence[str] | None = None) -> None:
    """Parse the options, measure, print the tables and write ``results/<name>.json``."""
    parser = argparse.ArgumentParser(f"python -m benchmarks.{name}", description=description)
    parser.add_argument("--quick", action="store_true", help="few voxels and repeats: a smoke run")
    parser.add_argument("--seed", type=int, default=1, help="seed of the simulated data")
    options = parser.parse_args(argv)
    start = time.perf_counter()
    tables, figures = measure(options)
    record = {
        "benchmark": name,
        "options": vars(options),
        "environment": environment(),
        "seconds": round(time.perf_counter() - start, 1),
        "tables": [asdict(table) for table in tables],
        "figures": figures,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(record, indent=1, default=float) + "\n", encoding="utf-8")
    part.replace(path)
    print("\n\n".join(table.markdown() for table in tables))
