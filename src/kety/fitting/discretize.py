"""How a model becomes numbers: exactly, or as a discrete system at a processing rate.

The discrete systems are those of Svistoun et al., Tomography 5:209, 2019
(doi 10.18383/j.tom.2018.00048): the first-order system of the Tofts model by the bilinear
transform (IIR) or by its windowed impulse response (FIR), the delay by whole samples or with a
first-order Thiran all-pass (Laakso et al., IEEE Signal Processing Magazine 13(1):30, 1996).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from kety.errors import KetyError
from kety.fitting.pieces import LEVEL_RATES, SERIES_REACH, kernel_pieces

if TYPE_CHECKING:
    from kety.inputs import InputFunction

KINDS: Final = ("exact", "iir", "fir")
DELAY_FILTERS: Final = ("exact", "thiran", "round")
RESAMPLINGS: Final = ("cubic", "linear", "none")
DEFAULT_RATE: Final = 1.0
MOST_SAMPLES: Final = 1 << 22
WIDEST_REGISTER: Final = 16
"""Samples that the core may read at once, beyond the ones it needs."""


@dataclass(frozen=True)
class Discretization:
    """How the model's values at the samples of a curve are computed.

    Attributes
    ----------
    kind : {"exact", "iir", "fir"}
        The closed form on any time grid; the bilinear transform; the impulse response convolved by
        fast Fourier transform.
    rate : float or None
        Processing rate, Hz: measured curves are resampled to a uniform grid of this rate, from the
        first frame on, and compared with the model there. None: at the frames as measured for
        ``"exact"``, 1 Hz for the others.
    delay_filter : {"exact", "thiran", "round"} or None
        The delay by shifting the continuous input; by whole samples and a first-order all-pass; or
        rounded to whole samples. None: ``"exact"`` for ``"exact"``, ``"thiran"`` for the others.
    window : str
        Of the impulse response (FIR), the falling half of `scipy.signal.get_window`. ``"boxcar"``
        cuts it where the measurement ends.
    resampling : {"cubic", "linear", "none"}
        How curves are brought to the grid: the not-a-knot cubic spline or straight lines.
        ``"none"`` compares at the frames alone, which must lie on the grid: nothing is invented
        between them, and noise stays as it was.

    Raises
    ------
    KetyError
        For an unknown name, a rate that is not positive, or a delay filter that has no meaning for
        the kind.
    """

    kind: str = "exact"
    rate: float | None = None
    delay_filter: str | None = None
    window: str = "boxcar"
    resampling: str = "cubic"

    def __post_init__(self) -> None:
        for what, value, valid in (
            ("discretization", self.kind, KINDS),
            ("resampling", self.resampling, RESAMPLINGS),
        ):
            if value not in valid:
                raise KetyError(f"unknown {what} {value!r}; valid: {', '.join(valid)}")
        if self.delay_filter is not None and self.delay_filter not in DELAY_FILTERS:
            raise KetyError(
                f"unknown delay filter {self.delay_filter!r}; valid: {', '.join(DELAY_FILTERS)}"
            )
        rate = self.rate
        if rate is not None and not (isinstance(rate, int | float) and 0 < rate < float("inf")):
            raise KetyError(f"the processing rate must be a positive number of Hz, found {rate!r}")
        if self.kind == "exact" and self.delay_filter == "thiran":
            raise KetyError(
                "a Thiran filter delays a sampled signal, but the exact discretization has none; "
                "use delay_filter 'exact' or 'round', or discretization 'iir' or 'fir'"
            )
        if self.kind == "exact" and self.delay_filter == "round" and rate is None:
            raise KetyError("a delay rounded to whole samples needs a processing rate; give rate")
        if self.kind != "fir" and self.window != "boxcar":
            raise KetyError(f"only fir has a window, found window {self.window!r} for {self.kind}")

    @property
    def grid_rate(self) -> float | None:
        """The rate in Hz that is used; None for the frames as measured."""
        return self.rate if self.rate is not None or self.kind == "exact" else DEFAULT_RATE

    @property
    def filter(self) -> str:
        """The delay filter that is used."""
        return self.delay_filter or ("exact" if self.kind == "exact" else "thiran")


def get_discretization(value: str | Discretization) -> Discretization:
    """The record of that name, or the record itself.

    Raises
    ------
    KetyError
        If it is neither.
    """
    if isinstance(value, Discretization):
        return value
    if isinstance(value, str):
        return Discretization(value)
    raise KetyError(
        f"discretization must be one of {', '.join(KINDS)} or a kety.Discretization, "
        f"found {type(value).__name__}"
    )


def sample_times(frames: NDArray[np.float64], rate: float | None) -> NDArray[np.float64]:
    """Times (N,) s at which curve and model are compared: the frames, or a uniform grid.

    The grid starts at the first frame and ends at or before the last. Where it coincides with the
    frames, these are returned themselves.
    """
    if rate is None:
        return frames
    count = int(np.floor((frames[-1] - frames[0]) * rate + 1e-9)) + 1
    if count > MOST_SAMPLES:
        raise KetyError(
            f"at {rate:g} Hz a series of {frames[-1] - frames[0]:g} s has {count:,} samples, more "
            f"than {MOST_SAMPLES:,}; lower the processing rate"
        )
    grid: NDArray[np.float64] = frames[0] + np.arange(count) / rate
    if count == len(frames) and np.allclose(grid, frames, rtol=0, atol=1e-6 / rate):
        return frames
    return grid


def resampling_matrix(
    frames: NDArray[np.float64], samples: NDArray[np.float64], kind: str
) -> NDArray[np.float64] | None:
    """Matrix (N, T) that brings curves from the frames to the samples; None where these agree."""
    if samples is frames:
        return None
    if kind == "none":
        return _frames_on_grid(frames, samples)
    if len(frames) * len(samples) > MOST_SAMPLES * 16:
        raise KetyError(
            f"resampling {len(frames):,} frames to {len(samples):,} samples needs too much memory; "
            "lower the processing rate"
        )
    unit = np.eye(len(frames))
    if kind == "linear" or len(frames) < 3:
        lines: NDArray[np.float64] = np.stack([np.interp(samples, frames, e) for e in unit], axis=1)
        return lines
    from scipy.interpolate import CubicSpline

    matrix: NDArray[np.float64] = CubicSpline(frames, unit)(samples)
    return matrix


def _frames_on_grid(
    frames: NDArray[np.float64], samples: NDArray[np.float64]
) -> NDArray[np.float64]:
    step = samples[1] - samples[0] if len(samples) > 1 else 1.0
    place = (frames - samples[0]) / step
    nearest = np.rint(place).astype(int)
    off = np.abs(place - nearest) > 1e-6
    if off.any() or nearest[-1] >= len(samples):
        i = int(np.argmax(off)) if off.any() else len(frames) - 1
        raise KetyError(
            f"without resampling every frame must lie on the grid of {1 / step:g} Hz, but "
            f"times[{i}] = {frames[i]:g} s does not; choose another rate, or resampling 'cubic' or "
            "'linear'"
        )
    matrix = np.zeros((len(samples), len(frames)))
    matrix[nearest, np.arange(len(frames))] = 1.0
    return matrix


def grid_input(aif: InputFunction, times: NDArray[np.float64]) -> NDArray[np.float64]:
    """The input at uniform times; rounding must not move the first sample behind a time."""
    first = aif.times[0]
    near = np.abs(times - first) < 1e-9 * max(1.0, abs(first))
    values: NDArray[np.float64] = aif(np.where(near, first, times))
    return values


def kernel_model(
    aif: InputFunction,
    samples: NDArray[np.float64],
    lo: NDArray[np.float64],
    hi: NDArray[np.float64],
    choice: Discretization,
    *,
    weights: NDArray[np.float64] | None = None,
    baseline: bool = False,
    dtype: Any = np.float64,
) -> dict[str, Any]:
    """What the core needs to evaluate a model at `samples` (N,) s.

    Parameters
    ----------
    aif : InputFunction
    samples : (N,) array
        From `sample_times`; uniform for every kind but ``"exact"``.
    lo, hi : (4,) arrays
        Bounds of v, a [1/s], k [1/s], tau [s].
    choice : Discretization
    weights : (N,) array, optional
        Weights of the squared residuals.
    baseline : bool
        Whether a constant is fitted along.
    dtype : numpy dtype
        float32 or float64, of the arithmetic.
    """
    rate = choice.grid_rate
    end = float(samples[-1] - min(lo[3], 0.0))
    top = max(float(hi[2]), 1e-3 * SERIES_REACH)
    model: dict[str, Any] = {
        "kind": KINDS.index(choice.kind),
        "filter": DELAY_FILTERS.index(choice.filter),
        "times": samples,
        "levels": [],
        "rate": rate or 1.0,
        "lead": 0,
        "ahead": 0,
        "front": 0,
        "weights": None if weights is None else weights.astype(dtype),
        "weight_sum": float(len(samples) if weights is None else weights.sum()),
        "baseline": baseline,
        "lo": lo.tolist(),
        "hi": hi.tolist(),
    }
    if choice.kind == "exact":
        model["levels"] = [kernel_pieces(aif, min(top, r), end) for r in (*LEVEL_RATES, np.inf)]
        return model
    assert rate is not None
    if choice.filter == "exact":
        model["levels"] = [kernel_pieces(aif, 0.0, end)]
    least, most = (int(np.floor(x * rate + s)) for x, s in ((lo[3], -0.5), (hi[3], 0.5)))
    lead = max(0, int(np.ceil((samples[0] - aif.times[0]) * rate - 1e-9)))
    ahead = max(0, -least) + 1
    front = max(lead - least, 0) + max(most, 0) + 2 * WIDEST_REGISTER
    index = np.arange(-front, len(samples) + ahead + 2 * WIDEST_REGISTER)
    x = grid_input(aif, samples[0] + index / rate)
    x[index < -lead] = 0.0
    model |= {"lead": lead, "ahead": ahead, "front": front, "x": x.astype(dtype)}
    if choice.kind == "fir":
        signal = x[front - lead : front + len(samples) + ahead]
        # Cut where the measurement ends; a negative delay sees more of the response.
        taps = lead + len(samples) + max(0, -least)
        length = 1 << int(np.ceil(np.log2(len(signal) + taps + 2 * WIDEST_REGISTER)))
        arrays = {"window": falling_window(choice.window, taps)}
        if choice.filter == "exact":
            arrays |= twiddles(length)
        else:
            arrays |= twiddles(length // 2) | spectrum(signal, length)
        model |= {name: array.astype(dtype) for name, array in arrays.items()}
    return model


def twiddles(length: int) -> dict[str, NDArray[np.float64]]:
    """exp(-2 pi i j / length), real and imaginary part."""
    angle = 2 * np.pi * np.arange(length) / length
    return {"cosine": np.cos(angle), "sine": -np.sin(angle)}


def spectrum(signal: NDArray[np.float64], length: int) -> dict[str, NDArray[np.float64]]:
    """The input of a convolution as the core wants it (`convolve` in sampled.hpp).

    P and Q of ``length / 2`` frequencies in bit-reversed order, for even and odd samples carried as
    real and imaginary part.
    """
    padded = np.zeros(length)
    padded[: len(signal)] = signal
    even, odd = np.fft.fft(padded[::2]), np.fft.fft(padded[1::2])
    later = np.exp(-2j * np.pi * np.arange(length // 2) / (length // 2))
    a, b = even + 1j * odd, later * odd + 1j * even
    order = np.zeros(1, np.intp)
    while len(order) < length // 2:
        order = np.concatenate([2 * order, 2 * order + 1])
    p, q = ((a + sign * 1j * b)[order] / 2 for sign in (-1, 1))
    return {"p_re": p.real, "p_im": p.imag, "q_re": q.real, "q_im": q.imag}


def falling_window(name: str, count: int) -> NDArray[np.float64]:
    """The second half, from its middle on, of a symmetric window of that name."""
    from scipy.signal import get_window

    try:
        full = get_window(name, 2 * count - 1, fftbins=False)
    except ValueError as error:
        raise KetyError(
            f"unknown window {name!r} of the impulse response ({error}); see scipy.signal.windows"
        ) from None
    return np.ascontiguousarray(full[count - 1 :], dtype=np.float64)
