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
