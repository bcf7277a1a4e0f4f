"""Turns a model written in plain Python arithmetic into a program that the C++ core runs.

A model's `terms` function is called once with symbols in place of numbers. Each operation on a
symbol notes a step; the core repeats the steps for many voxels side by side and applies the chain
rule along the way, so that a model gives its formula and never its derivatives. Called with arrays
the same function just computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

CODES: Final = {
    name: code
    for code, name in enumerate(
        ("constant", "add", "subtract", "multiply", "divide", "root", "exponential", "maximum")
    )
}
"""The core's steps (`ProgramStep` in types.hpp)."""


@dataclass
class Recorder:
    """Steps noted so far: (code, first register, second register), and a constant for each."""

    inputs: int
    steps: list[tuple[int, int, int]] = field(default_factory=list)
    constants: list[float] = field(default_factory=list)
    known: dict[tuple[int, int, int, float], int] = field(default_factory=dict)

    def note(self, name: str, a: int = 0, b: int = 0, constant: float = 0.0) -> Symbol:
        """The symbol of a step's result; the same step is never noted twice."""
        key = (CODES[name], a, b, constant)
        if key not in self.known:
            self.known[key] = self.inputs + len(self.steps)
            self.steps.append(key[:3])
            self.constants.append(constant)
        return Symbol(self, self.known[key])

    def symbol(self, x: Any) -> Symbol:
        """`x` as a symbol, a number as a constant."""
        return x if isinstance(x, Symbol) else self.note("constant", constant=float(x))


@dataclass(frozen=True, eq=False)
class Symbol:
    """A number that is not known yet: a register of the program."""

    recorder: Recorder
    register: int

    __array_ufunc__ = None  # NumPy scalars leave the operation to the symbol

    def _with(self, name: str, other: Any, swapped: bool = False) -> Symbol:
        right = self.recorder.symbol(other)
        a, b = (right, self) if swapped else (self, right)
        return self.recorder.note(name, a.register, b.register)

    def __add__(self, other: Any) -> Symbol:
        return self._with("add", other)

    def __radd__(self, other: Any) -> Symbol:
        return self._with("add", other, swapped=True)

    def __sub__(self, other: Any) -> Symbol:
        return self._with("subtract", other)

    def __rsub__(self, other: Any) -> Symbol:
        return self._with("subtract", other, swapped=True)

    def __mul__(self, other: Any) -> Symbol:
        return self._with("multiply", other)

    def __rmul__(self, other: Any) -> Symbol:
        return self._with("multiply", other, swapped=True)

    def __truediv__(self, other: Any) -> Symbol:
        return self._with("divide", other)

    def __rtruediv__(self, other: Any) -> Symbol:
        return self._with("divide", other, swapped=True)

    def __neg__(self) -> Symbol:
        return 0.0 - self


def root(x: Any) -> Any:
    """Square root of a symbol or array, 0 below 0."""
    if isinstance(x, Symbol):
        return x.recorder.note("root", x.register, x.register)
    if isinstance(x, Dual):
        return x.through(root, lambda v: 0.5 / np.sqrt(v))
    return np.sqrt(np.maximum(x, 0.0))


def exponential(x: Any) -> Any:
    """exp of a symbol or array."""
    if isinstance(x, Symbol):
        return x.recorder.note("exponential", x.register, x.register)
    if isinstance(x, Dual):
        return x.through(np.exp, np.exp)
    return np.exp(x)


def larger(x: Any, y: Any) -> Any:
    """The larger of two symbols, arrays or numbers."""
    for one in (x, y):
        if isinstance(one, Symbol):
            a, b = one.recorder.symbol(x), one.recorder.symbol(y)
            return one.recorder.note("maximum", a.register, b.register)
    if isinstance(x, Dual):
        y = y if isinstance(y, Dual) else Dual(y, (0.0,) * len(x.slopes))
        first = x.value >= y.value
        pairs = zip(x.slopes, y.slopes, strict=True)
        return Dual(np.maximum(x.value, y.value), tuple(np.where(first, s, t) for s, t in pairs))
    if isinstance(y, Dual):
        return larger(y, x)
    return np.maximum(x, y)


@dataclass(frozen=True, eq=False)
class Dual:
    """Arrays with their derivatives with respect to some quantities, for the errors of what is
    computed from them."""

    value: NDArray[np.floating]
    slopes: tuple[Any, ...]

    __array_ufunc__ = None

    def through(self, f: Callable[[Any], Any], slope: Callable[[Any], Any]) -> Dual:
        """f of this, with its chain rule."""
        d = slope(self.value)
        return Dual(f(self.value), tuple(d * s for s in self.slopes))

    def _pair(self, other: Any) -> Dual:
        return other if isinstance(other, Dual) else Dual(other, (0.0,) * len(self.slopes))

    def __add__(self, other: Any) -> Dual:
        b = self._pair(other)
        return Dual(self.value + b.value, _sum(self.slopes, 1.0, b.slopes, 1.0))

    __radd__ = __add__

    def __sub__(self, other: Any) -> Dual:
        b = self._pair(other)
        return Dual(self.value - b.value, _sum(self.slopes, 1.0, b.slopes, -1.0))

    def __rsub__(self, other: Any) -> Dual:
        return self._pair(other) - self

    def __mul__(self, other: Any) -> Dual:
        b = self._pair(other)
        return Dual(self.value * b.value, _sum(self.slopes, b.value, b.slopes, self.value))

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Dual:
        b = self._pair(other)
        value = self.value / b.value
        return Dual(value, _sum(self.slopes, 1.0 / b.value, b.slopes, -value / b.value))

    def __rtruediv__(self, other: Any) -> Dual:
        return self._pair(other) / self

    def __neg__(self) -> Dual:
        return 0.0 - self


def _sum(a: Sequence[Any], x: Any, b: Sequence[Any], y: Any) -> tuple[Any, ...]:
    return tuple(s * x + t * y for s, t in zip(a, b, strict=True))
