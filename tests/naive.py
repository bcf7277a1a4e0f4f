"""Slow and obvious twins of the fast kernels: dense quadrature and brute-force least squares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline, PchipInterpolator
from scipy.optimize import least_squares
from scipy.stats import qmc

from kety.fitting.forward import kernel_curves
from kety.inputs import InputFunction

Floats = NDArray[np.float64]
NODES, WEIGHTS = np.polynomial.legendre.leggauss(16)


def input_value(aif: InputFunction, x: Floats) -> Floats:
    """c(x): 0 before the first sample, the last value after the last one, in between by SciPy."""
    if aif.interpolation == "linear":
        inside = np.interp(x, aif.times, aif.concentration)
    else:
        kind = {"cubic": CubicSpline, "monotone": PchipInterpolator}[aif.interpolation]
        inside = kind(aif.times, aif.concentration)(np.clip(x, aif.times[0], aif.times[-1]))
    return np.where(x < aif.times[0], 0.0, inside)


def convolution(aif: InputFunction, x: Floats, rate: float, power: int = 0) -> Floats:
    """Integral of (x - u)^power c(u) exp(-rate (x - u)) over u < x, by Gauss-Legendre panels.

    `power` 1 gives minus the derivative with respect to the rate.
    """
    result = np.zeros(len(x))
    for i, end in enumerate(x):
        if end <= aif.times[0]:
            continue
        knots = aif.times[aif.times < end]
        edges = np.append(knots, end)
        panels = int(np.ceil(max(1.0, rate * np.diff(edges).max())))
        parts = np.arange(panels) / panels
        edges = np.append((edges[:-1, None] + np.diff(edges)[:, None] * parts).ravel(), end)
        half = 0.5 * np.diff(edges)[:, None]
        u = 0.5 * (edges[1:] + edges[:-1])[:, None] + half * NODES
        age = end - u
        result[i] = np.sum(half * WEIGHTS * input_value(aif, u) * age**power * np.exp(-rate * age))
    return result


def curve(aif: InputFunction, times: Floats, kernel: Sequence[float]) -> Floats:
    """One curve of the kernel v, a1, k1, (a2, k2,) tau by quadrature."""
    v, *exponentials, tau = kernel
    total = v * input_value(aif, times - tau)
    for a, k in zip(exponentials[::2], exponentials[1::2], strict=True):
        total = total + a * convolution(aif, times - tau, k)
    return total


def size(aif: InputFunction, times: Floats, kernel: Sequence[float]) -> float:
    """Largest sum of the absolute terms of a curve, the scale of its rounding errors."""
    v, *exponentials, tau = kernel
    total = np.abs(v * input_value(aif, times - tau))
    for a, k in zip(exponentials[::2], exponentials[1::2], strict=True):
        total = total + np.abs(a * convolution(aif, times - tau, k))
    return float(total.max())


def extended_tofts(
    aif: InputFunction, times: Floats, ktrans: float, kep: float, vb: float, delay: float
) -> Floats:
    """Vb Ca(t - tau) + Ktrans int Cp(u - tau) exp(-kep (t - u)) du, rates in 1/min."""
    blood = 1.0 if aif.site == "blood" else 1.0 - aif.hematocrit
    plasma = 1.0 if aif.site == "plasma" else 1.0 / (1.0 - aif.hematocrit)
    x = times - delay
    exchange = plasma * convolution(aif, x, kep / 60)
    return vb * blood * input_value(aif, x) + ktrans / 60 * exchange


def one_compartment(
    aif: InputFunction, times: Floats, k1: float, k2: float, delay: float
) -> Floats:
    """K1 int Cb(u - tau) exp(-k2 (t - u)) du, Cb in whole blood, rates in 1/min."""
    blood = 1.0 if aif.site == "blood" else 1.0 - aif.hematocrit
    return k1 / 60 * blood * convolution(aif, times - delay, k2 / 60)


def least_cost(
    y: Floats,
    times: Floats,
    aif: InputFunction,
    bounds: Mapping[str, tuple[float, float]],
    starts: int,
    weights: Floats | None = None,
) -> tuple[float, dict[str, float]]:
    """Best weighted sum of squares of the extended Tofts model from many starts, and where it is.

    Starts are Halton points in the bounds (1/min, fractions, s); the input is whole blood. A
    parameter with equal bounds is fixed.
    """
    names = ("vb", "ktrans", "kep", "delay")
    factor = np.array([1.0, 1.0 / (60 * (1 - aif.hematocrit)), 1.0 / 60, 1.0])
    assert aif.site == "blood"
    lo, hi = (np.array([bounds[n][side] for n in names]) for side in (0, 1))
    free = hi > lo
    root = np.ones(len(times)) if weights is None else np.sqrt(weights)

    def kernel(x: Floats) -> Floats:
        p = lo.copy()
        p[free] = x
        return (p * factor)[None]

    def residual(x: Floats) -> Floats:
        return root * (kernel_curves(aif, times, kernel(x))[0][0] - y)

    def slope(x: Floats) -> Floats:
        slopes = kernel_curves(aif, times, kernel(x), jacobian=True)[1]
        assert slopes is not None
        return root[:, None] * (slopes[0] * factor)[:, free]

    best, where = np.inf, lo
    for start in qmc.Halton(int(free.sum()), rng=0).random(starts):
        x0 = lo[free] + np.clip(start, 1e-3, 1 - 1e-3) * (hi - lo)[free]
        found = least_squares(
            residual, x0, slope, bounds=(lo[free], hi[free]), x_scale="jac", ftol=1e-12
        )
        if 2 * found.cost < best:
            best, where = 2 * found.cost, (kernel(found.x) / factor)[0]
    return best, dict(zip(names, where, strict=True))
