"""Slow and obvious twin of the discretised model of Svistoun et al. (Tomography 2019).

doi:10.18383/j.tom.2018.00048: the model on an even grid as a digital filter, its delay in samples.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.signal import bilinear, fftconvolve, lfilter

from kety.inputs import InputFunction

Floats = NDArray[np.float64]
KINDS = ("iir", "fir")
DELAY_FILTERS = ("round", "thiran", "literal_thiran", "exact")


def grid(times: Floats, rate: float) -> Floats:
    """Even grid (N,) in s from the first frame to the last at most, `rate` samples per s."""
    last = int(np.floor((times[-1] - times[0]) * rate + 1e-9))
    return np.asarray(times[0] + np.arange(last + 1) / rate)


def curve(
    aif: InputFunction,
    times: Floats,
    rate: float,
    v: float,
    a: float,
    k: float,
    tau: float,
    kind: str,
    delay_filter: str,
    window: Floats | None = None,
) -> Floats:
    """v x + a u delayed by tau s, on the grid (N,); a and k in 1/s; u is x filtered by 1/(s + k).

    The impulse response covers the run-up, the grid and what an early delay reads beyond it, or as
    many taps as a `window` has.
    """
    count = len(grid(times, rate))
    run_up = samples_up_to(times[0] - aif.times[0], rate)
    exact = delay_filter == "exact"
    # A negative delay asks for what comes after the grid; an input shifted to before its own
    # first sample, for a longer run-up.
    first = -max(run_up, samples_up_to(times[0] - tau - aif.times[0], rate)) if exact else -run_up
    beyond = 0 if exact else max(0, int(np.ceil(-tau * rate)) + 2)
    n = np.arange(first, count + beyond)
    taps = len(n) if window is None else len(window)

    x = aif(on_sample(aif, times[0] + n / rate - (tau if exact else 0.0)))
    y = v * x + a * filtered(x, rate, k, kind, taps, window)
    if not exact:
        y = delayed(y, tau * rate, delay_filter)
    return np.asarray(y[-first : -first + count])


def samples_up_to(span: float, rate: float) -> int:
    """Samples that cover a span of seconds; none for a negative one."""
    return max(0, int(np.ceil(span * rate - 1e-9)))


def on_sample(aif: InputFunction, t: Floats) -> Floats:
    """Times, those within rounding of the input's first sample put on it, where it jumps."""
    return np.where(np.abs(t - aif.times[0]) < 1e-9, aif.times[0], t)


def filtered(
    x: Floats, rate: float, k: float, kind: str, taps: int, window: Floats | None
) -> Floats:
    """x through 1/(s + k): by Tustin's recursion ("iir") or its sampled response ("fir")."""
    if kind == "iir":
        b, a = bilinear([1.0], [1.0, k], fs=rate)
        return np.asarray(lfilter(b, a, x))
    if kind != "fir":
        raise ValueError(f"unknown kind {kind!r}; expected one of {KINDS}")
    h = np.exp(-k * np.arange(taps) / rate)
    if window is not None:
        h = h * window
    return np.asarray(fftconvolve(h, x)[: len(x)] / rate)


def delayed(y: Floats, samples: float, delay_filter: str) -> Floats:
    """y, at rest before it starts, delayed by a number of samples; NaN where it is not known."""
    if delay_filter == "round":
        return shifted(y, int(np.floor(samples + 0.5)))
    # Laakso et al., IEEE Signal Processing Magazine 1996: the first-order all-pass is best for
    # fractions from 0.5 to 1.5. The paper's own text takes them from 0 to 1.
    least = {"thiran": 0.5, "literal_thiran": 0.0}[delay_filter]
    whole = int(np.floor(samples - least))
    fraction = samples - whole
    alpha = (1.0 - fraction) / (1.0 + fraction)
    return shifted(np.asarray(lfilter([alpha, 1.0], [1.0, alpha], y)), whole)


def shifted(y: Floats, whole: int) -> Floats:
    """y later by a whole number of samples: zeros before it starts, NaN after it ends."""
    result = np.zeros(len(y))
    if whole >= 0:
        result[whole:] = y[: max(0, len(y) - whole)]
    else:
        result[:whole] = y[-whole:]
        result[whole:] = np.nan
    return result
