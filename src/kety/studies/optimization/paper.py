"""Every number that the paper states, with its place.

Svistoun, Driscoll, Coolens: Accuracy and performance of functional parameter estimation using a
novel numerical optimization approach for GPU-based kinetic compartmental modeling. Tomography
5:209-219, 2019, doi:10.18383/j.tom.2018.00048.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kety.studies.records import Comparison

TITLE: Final = "Optimisers, discretisation and delay"
REFERENCE: Final = (
    "I. Svistoun, B. Driscoll, C. Coolens: Accuracy and Performance of Functional Parameter "
    "Estimation Using a Novel Numerical Optimization Approach for GPU-Based Kinetic Compartmental "
    "Modeling. Tomography 5:209–219, 2019, doi:10.18383/j.tom.2018.00048"
)
LINK: Final = "https://doi.org/10.18383/j.tom.2018.00048"


@dataclass(frozen=True)
class Stated:
    """A number of the paper.

    Attributes
    ----------
    where : str
        Its place, e.g. ``"Table 4"``.
    what : str
    unit : str
    value : float
    half : float or None
        Half its 95 % confidence interval, where given.
    limit : bool
        The paper says that its figure is below the value.
    """

    where: str
    what: str
    unit: str
    value: float
    half: float | None = None
    limit: bool = False

    def beside(
        self,
        ours: float | None,
        low: float | None = None,
        high: float | None = None,
        why: str = "",
    ) -> Comparison:
        """The number beside ours with its 95 % interval, and why they differ."""
        what = f"{self.what} (paper: below)" if self.limit else self.what
        return Comparison(self.where, what, self.unit, self.value, ours, low, high, why)


METHODS: Final = {
    "sqp": "SQP",
    "nelder_mead": "Nelder–Mead",
    "cuda_nelder_mead": "CUDA Nelder–Mead",
    "differential_evolution": "Differential evolution",
    "cuda_differential_evolution": "CUDA differential evolution",
    "pattern_search": "Pattern search",
    "simulated_annealing": "Simulated annealing",
}
"""The paper's algorithms, in the order of its table 3: key to name."""

# Table 1 and the text: the model and its truth.
HEMATOCRIT: Final = 0.4
CALIBRATION_RATE: Final = 3500.0  # Hz
NOISE: Final = 6.0  # HU

# Table 2: (samples, interval in s) and duration in s.
DATA_SET_1: Final = ((200, 1.0),)
DATA_SET_1_DURATION: Final = 200.0
DATA_SET_2: Final = ((9, 2.0), (19, 5.0), (9, 10.0))
DATA_SET_2_DURATION: Final = 209.0
DATA_SET_2_RATE: Final = 0.18  # Hz, average, from the text

# Table 3: starts or members; the same limits for all.
STARTS: Final = {
    "sqp": 32,
    "nelder_mead": 32,
    "cuda_nelder_mead": 32,
    "pattern_search": 32,
    "simulated_annealing": 32,
    "differential_evolution": 64,
    "cuda_differential_evolution": 512,
}
MAX_ITERATIONS: Final = 1000
TOLERANCE: Final = 1e-8  # TolFun of all, TolX of SQP and Nelder-Mead


def _table_4(what: str, unit: str, values: dict[str, tuple[float, float]]) -> dict[str, Stated]:
    return {
        key: Stated("Table 4", f"{METHODS[key]}, {what}", unit, value, half)
        for key, (value, half) in values.items()
    }


CALIBRATION_ERROR: Final = _table_4(
    "error at 3500 Hz, all four parameters",
    "%",
    {
        "sqp": (8.97e-6, 4.66e-7),
        "nelder_mead": (5.69e-8, 2.32e-9),
        "cuda_nelder_mead": (1.07e-7, 1.27e-8),
        "differential_evolution": (3.27e-7, 2.20e-8),
        "cuda_differential_evolution": (3.35e-7, 2.59e-8),
        "pattern_search": (2.79, 1.04),
        "simulated_annealing": (3.85, 1.23),
    },
)
CALIBRATION_TIME: Final = _table_4(
    "time at 3500 Hz",
    "s/voxel",
    {
        "sqp": (1030.0, 16.0),
        "nelder_mead": (522.0, 23.7),
        "cuda_nelder_mead": (14.5e-3, 9.82e-3),
        "differential_evolution": (1230.0, 12.3),
        "cuda_differential_evolution": (34.0e-3, 5.33e-3),
        "pattern_search": (13300.0, 284.0),
        "simulated_annealing": (2960.0, 32.5),
    },
)

# Fractional delay analysis: figures 1 and 2 through the numbers in their text, IIR.
ROUNDED_SQP: Final = {
    (1, 1.0): Stated("Figure 1, text", "data set 1, SQP, rounded delay, IIR 1 Hz", "%", 56.9),
    (1, 5.0): Stated("Figure 1, text", "data set 1, SQP, rounded delay, IIR 5 Hz", "%", 56.9),
    (2, 1.0): Stated("Figure 2, text", "data set 2, SQP, rounded delay, IIR 1 Hz", "%", 56.9),
    (2, 5.0): Stated("Figure 2, text", "data set 2, SQP, rounded delay, IIR 5 Hz", "%", 56.9),
}
"""Data set and rate (Hz) to the mean error."""
ROUNDED: Final = {
    (key, rate): Stated(
        "Figure 1, text",
        f"data set 1, {METHODS[key]}, rounded delay, IIR {rate:g} Hz",
        "%",
        value,
    )
    for rate, value in ((1.0, 10.0), (5.0, 2.83))
    for key in ("nelder_mead", "differential_evolution")
}
"""Method and rate (Hz) to the mean error, data set 1."""
FRACTIONAL: Final = {
    key: Stated(
        "Figure 1, text", f"data set 1, {METHODS[key]}, fractional delay, IIR 1 Hz", "%", 0.4
    )
    for key in ("sqp", "nelder_mead", "differential_evolution")
}
"""Method to the mean error at 1 Hz, data set 1; see `CONTRADICTIONS`."""

# Discrete approximation: figure 3 through the numbers in its text, IIR with fractional delay.
_NAMES: Final = {"ktrans": "Ktrans", "kep": "kep", "vb": "Vb", "delay": "delay"}


def _figure_3(rate: float, values: tuple[float, ...], overall: float) -> dict[str, Stated]:
    where, start = "Figure 3, text", f"data set 1, IIR {rate:g} Hz, fractional delay"
    each = {
        key: Stated(where, f"{start}, {name}", "%", value)
        for (key, name), value in zip(_NAMES.items(), values, strict=True)
    }
    return each | {"all": Stated(where, f"{start}, all four", "%", overall)}


IIR_ERROR: Final = {
    1.0: _figure_3(1.0, (0.27, 0.10, 8.81, 0.13), 2.33),
    5.0: _figure_3(5.0, (0.46, 0.16, 0.84, 0.12), 0.40),
}
"""Rate (Hz) to parameter (and ``"all"``) to the mean error, data set 1."""

# Figure 4 and the clinical scan.
CLINICAL_ERROR: Final = Stated(
    "Abstract, clinical analysis", "data set 2, all four parameters", "%", 10.0, limit=True
)


def _run_time(where: str, key: str, values: tuple[float, ...]) -> dict[str, Stated]:
    kinds = {"fir": "CPU FIR 1 Hz", "iir": "CPU IIR 1 Hz", "cuda": "CUDA IIR 1 Hz"}
    return {
        kind: Stated(where, f"{METHODS[key]}, {name}", "s/voxel", value)
        for (kind, name), value in zip(kinds.items(), values, strict=True)
    }


RUN_TIME: Final = {
    "nelder_mead": _run_time("Table 5", "nelder_mead", (4.37, 3.05, 0.0026)),
    "differential_evolution": _run_time("Table 6", "differential_evolution", (2.51, 1.93, 0.0068)),
}
"""Method to implementation (``fir``, ``iir``, ``cuda``) to the time for a voxel."""


def _speed(where: str, key: str, iir: float, cuda: float) -> dict[str, Stated]:
    what = f"{METHODS[key]}, speed relative to CPU FIR: "
    return {
        "iir": Stated(where, what + "CPU IIR 1 Hz", "×", iir),
        "cuda": Stated(where, what + "CUDA IIR 1 Hz", "×", cuda),
    }


RELATIVE_SPEED: Final = {
    "nelder_mead": _speed("Table 5", "nelder_mead", 1.4, 1680.8),
    "differential_evolution": _speed("Table 6", "differential_evolution", 1.3, 369.1),
}

BRAIN_VOXELS: Final = 6_000_000  # "just over"
BRAIN_GPU_TIME: Final = Stated("Discussion", "whole brain, one GPU", "h", 4.3)
BRAIN_CPU_TIME: Final = Stated("Discussion", "whole brain, one CPU", "days", 179.0)
REGION_VOXELS: Final = 100_000  # 5 cc, "just over"
REGION_TIME: Final = Stated("Discussion", "5 cc around a tumour, one GPU", "min", 4.3)
BLOCK_FFT_TIME: Final = Stated(
    "Discussion", "block FFT of Wang and Cao (2012), one GPU", "s/voxel", 0.00025
)

CONTRADICTIONS: Final = (
    "The delay analysis gives 0.4 % for a fractional delay at 1 Hz (text of figure 1), the "
    "discretisation analysis 2.33 % for the same data set, rate and delay filter (text of figure "
    "3), where 0.40 % belongs to 5 Hz.",
    "Frames as in table 2 (9 at 2 s, 19 at 5 s, 9 at 10 s, the first at 0) end at 201 s, the table "
    "says 209 s. Here the 8 s are two pauses of 4 s where the interval changes.",
    "Table 4 is titled a median, its text calls the same figures means.",
    "The discussion gives differential evolution 3.27e-8 %, table 4 3.27e-7 %; the abstract gives "
    "10^-8, 10^-7 and 10^-6 % as those of Nelder–Mead, differential evolution and SQP.",
    "179 days is differential evolution on a CPU by FIR (table 6: 2.51 s × 6.2 million voxels), "
    "4.3 hours Nelder–Mead on a GPU by IIR (table 5: 0.0026 s × 6 million); Nelder–Mead itself "
    "would take 303 days on the CPU.",
    "The run time of IIR is called flat over the rate and of complexity O(M), M the number of "
    "samples; both cannot hold where the samples dominate.",
    "Figure 4's error is said to grow with the sampling rate; with the sampling interval is meant.",
)
"""Where the paper contradicts itself."""
