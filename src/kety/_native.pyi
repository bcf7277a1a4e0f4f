from typing import Any

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

GRAM_DEGREE: int

def instruction_sets() -> list[str]: ...
def forward(
    pieces: dict[str, Any],
    times: Doubles,
    parameters: Doubles,
    values: Doubles,
    jacobian: Doubles | None,
    single: bool,
    threads: int,
    instruction_set: str,
) -> None: ...
def taylor_rows(
    pieces: dict[str, Any], rates: Doubles, x: Doubles, c: Doubles, g: Doubles, threads: int
) -> None: ...
def fit_single(
    levels: list[dict[str, Any]],
    times: Doubles,
    curves: NDArray[Any],
    weights: NDArray[Any] | None,
    dictionary: dict[str, Any],
    options: dict[str, Any],
    offset: NDArray[Any] | None,
    parameters: NDArray[Any],
    covariance: NDArray[Any],
    cost: NDArray[Any],
    r2: NDArray[Any],
    evaluations: NDArray[np.uint16],
    status: NDArray[np.uint8],
    undetermined: NDArray[np.uint8],
    threads: int,
    instruction_set: str,
) -> None: ...

fit_double = fit_single

NELDER_MEAD: int
EVOLUTION: int

class SampledModel:
    def __init__(self, model: dict[str, Any], single: bool, instruction_set: str) -> None: ...
    def costs(self, curve: NDArray[Any], points: Doubles, out: Doubles, threads: int) -> None: ...
    def values(self, points: Doubles, out: Doubles, threads: int) -> None: ...
    def search(
        self,
        curves: NDArray[Any],
        options: dict[str, Any],
        points: Doubles,
        cost: Doubles,
        evaluations: NDArray[np.uint32],
        status: NDArray[np.uint8],
        threads: int,
    ) -> None: ...

def normals_single(
    levels: list[dict[str, Any]],
    times: Doubles,
    curves: NDArray[Any],
    weights: NDArray[Any] | None,
    options: dict[str, Any],
    parameters: Doubles,
    factor: Doubles,
    cost: Doubles,
    unweighted: Doubles,
    gradient: Doubles,
    hessian: Doubles,
    offset: Doubles | None,
    threads: int,
    instruction_set: str,
) -> None: ...

normals_double = normals_single

def quadratic(
    gradient: Doubles, hessian: Doubles, move: Doubles, change: Doubles, threads: int
) -> None: ...
def window_graph(
    grid: NDArray[np.int32],
    place: NDArray[np.int32],
    features: NDArray[np.float32],
    variance: NDArray[np.float32],
    offsets: NDArray[np.int32],
    threshold: float,
    soft: bool,
    rows: NDArray[np.int64],
    columns: NDArray[np.int32] | None,
    weights: NDArray[np.float32] | None,
    threads: int,
) -> None: ...
def average(
    rows: NDArray[np.int64],
    columns: NDArray[np.int32],
    weights: NDArray[np.float32],
    x: NDArray[np.float32],
    out: NDArray[np.float32],
    threads: int,
) -> None: ...
def graph_levels(
    rows: NDArray[np.int64], columns: NDArray[np.int32], weights: NDArray[np.float32]
) -> list[tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]]: ...

class GraphSystem4:
    levels: int
    def __init__(
        self,
        rows: NDArray[np.int64],
        columns: NDArray[np.int32],
        weights: NDArray[np.float32],
        single: bool,
        threads: int,
        instruction_set: str,
    ) -> None: ...
    def prepare(self, metric: Doubles, strength: float, multigrid: bool) -> None: ...
    def blocks(self, block: Doubles, damping: Doubles, free: NDArray[np.uint8]) -> None: ...
    def solve(self, b: Doubles, x: Doubles, tolerance: float, limit: int) -> tuple[int, float]: ...
    def penalty(self, x: Doubles, y: Doubles) -> None: ...

class GraphSystem5(GraphSystem4): ...
class GraphSystem6(GraphSystem4): ...
class GraphSystem7(GraphSystem4): ...
class GraphSystem8(GraphSystem4): ...

def terms_forward(
    model: dict[str, Any],
    inputs: list[list[dict[str, Any]]],
    times: NDArray[np.float64],
    parameters: NDArray[np.float64],
    values: NDArray[np.float64],
    jacobian: NDArray[np.float64] | None,
    single: bool,
    threads: int,
    instruction_set: str,
) -> None: ...
def _terms_normals(
    model: dict[str, Any],
    inputs: list[list[dict[str, Any]]],
    times: NDArray[np.float64],
    curves: NDArray[Any],
    weights: NDArray[Any],
    options: dict[str, Any],
    parameters: NDArray[np.float64],
    factor: NDArray[np.float64],
    cost: NDArray[np.float64],
    unweighted: NDArray[np.float64],
    gradient: NDArray[np.float64],
    hessian: NDArray[np.float64],
    offset: NDArray[np.float64] | None,
    threads: int,
    instruction_set: str,
) -> None: ...

terms_normals_single = _terms_normals
terms_normals_double = _terms_normals

def _terms_fit(
    model: dict[str, Any],
    inputs: list[list[dict[str, Any]]],
    times: NDArray[np.float64],
    curves: NDArray[Any],
    weights: NDArray[Any],
    options: dict[str, Any],
    first: NDArray[np.int64],
    start: NDArray[np.float64],
    band: NDArray[np.float64],
    offset: NDArray[Any] | None,
    parameters: NDArray[Any],
    covariance: NDArray[Any],
    cost: NDArray[Any],
    r2: NDArray[Any],
    evaluations: NDArray[np.uint16],
    status: NDArray[np.uint8],
    undetermined: NDArray[np.uint8],
    threads: int,
    instruction_set: str,
) -> None: ...

terms_fit_single = _terms_fit
terms_fit_double = _terms_fit

def ready_curves_single(
    curves: NDArray[np.float32],
    weighted: NDArray[np.float32],
    scale: float,
    baseline: bool,
    y: NDArray[np.float32],
    usable: NDArray[np.uint8],
    first: NDArray[np.float32],
    threads: int,
) -> None: ...
def ready_curves_double(
    curves: NDArray[np.float64],
    weighted: NDArray[np.float64],
    scale: float,
    baseline: bool,
    y: NDArray[np.float32],
    usable: NDArray[np.uint8],
    first: NDArray[np.float64],
    threads: int,
) -> None: ...
def pairs(
    dictionary: dict[str, Any],
    curves: NDArray[np.float32],
    z: NDArray[np.float32],
    square: NDArray[np.float32],
    pair: NDArray[np.int32],
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    left: NDArray[np.float32],
    threads: int,
    instruction_set: str,
) -> None: ...
def descend(
    dictionary: dict[str, Any],
    z: NDArray[np.float32],
    square: NDArray[np.float32],
    pair: NDArray[np.int32],
    group: NDArray[np.int32],
    fast: NDArray[np.float32],
    slow: NDArray[np.float32],
    delay: NDArray[np.float32],
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    left: NDArray[np.float32],
    threads: int,
    instruction_set: str,
) -> None: ...
def crossings(
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    y: NDArray[np.float64],
    weighted: NDArray[np.float64],
    constant: NDArray[np.float64] | None,
    i: NDArray[np.int32],
    j: NDArray[np.int32],
    x: NDArray[np.float64],
    z: NDArray[np.float64],
    gain: NDArray[np.float64],
    threads: int,
    instruction_set: str,
) -> None: ...
