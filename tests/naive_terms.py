"""Slow and obvious twins of the models of several terms: their balances of mass, integrated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from scipy.interpolate import CubicSpline
from scipy.linalg import expm

from kety import InputFunction
from naive import NODES, WEIGHTS, input_value

Floats = NDArray[np.float64]


def in_plasma(aif: InputFunction) -> InputFunction:
    """The concentration in plasma, Cp = Cb / (1 - Hct)."""
    if aif.site == "plasma":
        return aif
    return replace(aif, concentration=aif.concentration / (1.0 - aif.hematocrit), site="plasma")


def curve(
    model: str,
    aif: InputFunction,
    times: Floats,
    values: Mapping[str, float],
    portal: InputFunction | None = None,
) -> Floats:
    """One curve (T,) in the unit of the input; `values` in public units, ``c0`` perhaps among them.

    ``c0`` is what the tissue holds at the first frame beside what the input brings.
    """
    p = dict(values)
    for name, per_second in (("fp", 6000.0), ("ps", 60.0), ("ktrans", 60.0)):
        if name in p:
            p[name] /= per_second
    total = _fed(model, in_plasma(aif), times - p["delay"], p, p.get("haf", 1.0))
    if portal is not None:
        late = times - p["delay_portal"]
        total = total + _fed(model, in_plasma(portal), late, p, 1.0 - p["haf"])
    if p.get("c0", 0.0):
        total = total + _left(model, times - times[0], p)
    return total


def _system(model: str, p: Mapping[str, float]) -> tuple[Floats, Floats, Floats]:
    """The balance M dx/dt = A x + b c of concentrations x, and the volumes that make C of x."""
    if model == "dual_input_extended_tofts":  # its plasma is the input's
        rate = p["ktrans"] / p["ve"]
        return np.array([[-rate]]), np.array([rate]), np.array([p["ve"]])
    fp = p["fp"]
    if model == "dual_input_one_compartment":
        return np.array([[-fp / p["vd"]]]), np.array([fp / p["vd"]]), np.array([p["vd"]])
    vp, ps = p["vp"], p["ps"]
    if model == "2cum":  # what is taken up stays; its amount is the second unknown
        return (
            np.array([[-(fp + ps) / vp, 0.0], [ps, 0.0]]),
            np.array([fp / vp, 0.0]),
            np.array([vp, 1.0]),
        )
    ve = p["ve"]
    return (
        np.array([[-(fp + ps) / vp, ps / vp], [ps / ve, -ps / ve]]),
        np.array([fp / vp, 0.0]),
        np.array([vp, ve]),
    )


def _fed(model: str, aif: InputFunction, x: Floats, p: Mapping[str, float], share: float) -> Floats:
    """The tissue's curve at the times x of the input, of which `share` comes from it."""
    if model == "aath":
        return share * _plug_flow(aif, x, p)
    matrix, inflow, volumes = _system(model, p)
    rates, axes = np.linalg.eig(matrix)
    heights = (volumes @ axes) * np.linalg.solve(axes, inflow)
    total = np.zeros(len(x))
    if model == "dual_input_extended_tofts":
        seen = x > aif.times[0]
        total[seen] = share * p["vp"] * input_value(aif, x[seen])
    for rate, height in zip(rates, heights, strict=True):
        total += share * height * convolution(aif, x, -float(rate))
    return total


def integrated(
    model: str, aif: InputFunction, times: Floats, values: Mapping[str, float]
) -> Floats:
    """The curve of a model with one input by an integrator of differential equations."""
    p = {**values, "fp": values["fp"] / 6000.0, "ps": values["ps"] / 60.0}
    matrix, inflow, volumes = _system(model, p)
    plasma, x = in_plasma(aif), times - p["delay"]
    spline = CubicSpline(plasma.times, plasma.concentration)
    state, found, at = np.zeros(len(inflow)), np.zeros(len(x)), plasma.times[0]
    # From knot to knot, where the input is smooth.
    for end in [*plasma.times[(plasma.times > at) & (plasma.times < x.max())], x.max()]:
        inside = np.flatnonzero((x > at) & (x <= end))
        solution = solve_ivp(
            lambda t, y: matrix @ y + inflow * spline(t),
            (at, end),
            state,
            method="DOP853",
            rtol=1e-9,
            atol=1e-9,
            t_eval=np.unique(np.append(x[inside], end)),
        )
        found[inside] = volumes @ solution.y[:, np.searchsorted(solution.t, x[inside])]
        state, at = solution.y[:, -1], end
    return found


def convolution(aif: InputFunction, x: Floats, rate: float) -> Floats:
    """Integral of c(u) exp(-rate (x - u)) over u < x, by Gauss-Legendre panels.

    What came so long ago that it has decayed to 1e-20 is left out.
    """
    found = np.zeros(len(x))
    for i, end in enumerate(x):
        begin = max(aif.times[0], end - 46.0 / max(rate, 1e-9))
        if end <= aif.times[0]:
            continue
        inside = aif.times[(aif.times > begin) & (aif.times < end)]
        even = np.linspace(begin, end, 2 + int(rate * (end - begin)))
        edges = np.unique(np.concatenate([even, inside]))
        half = 0.5 * np.diff(edges)[:, None]
        u = 0.5 * (edges[1:] + edges[:-1])[:, None] + half * NODES
        value = input_value(aif, u.ravel()).reshape(u.shape)
        found[i] = np.sum(half * WEIGHTS * value * np.exp(-rate * (end - u)))
    return found


def _plug_flow(aif: InputFunction, x: Floats, p: Mapping[str, float]) -> Floats:
    """fp c * R with R = 1 up to T, E exp(-E fp (t - T) / ve) from there on."""
    transit = p["vp"] / p["fp"]
    e = -np.expm1(-p["ps"] / p["fp"])
    late = convolution(aif, x - transit, e * p["fp"] / p["ve"])
    found = np.zeros(len(x))
    for i, end in enumerate(x):
        begin = max(aif.times[0], end - transit)
        if end <= aif.times[0]:
            continue
        inside = aif.times[(aif.times > begin) & (aif.times < end)]
        edges = np.concatenate([[begin], inside, [end]])
        half = 0.5 * np.diff(edges)[:, None]
        u = 0.5 * (edges[1:] + edges[:-1])[:, None] + half * NODES
        value = input_value(aif, u.ravel()).reshape(u.shape)
        found[i] = np.sum(half * WEIGHTS * value)
    return np.asarray(p["fp"] * (found + e * late))


def _left(model: str, since: Floats, p: Mapping[str, float]) -> Floats:
    """What is left of c0 after a time: in equilibrium at first; of aath in the interstitium; in the
    uptake model it stays."""
    if model == "2cum":
        return np.full(len(since), p["c0"])
    if model == "aath":
        e = -np.expm1(-p["ps"] / p["fp"])
        return p["c0"] * np.exp(-e * p["fp"] / p["ve"] * since)
    matrix, _, volumes = _system(model, p)
    start = np.full(len(volumes), p["c0"] / volumes.sum())
    return np.array([volumes @ expm(matrix * t) @ start for t in since])
