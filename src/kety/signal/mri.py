"""MRI: T1 from several flip angles, and concentration from signal and back."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError
from kety.signal.baseline import (
    Frames,
    blocks,
    check_series,
    flat_mask,
    memory_order,
    resolve_frames,
)
from kety.signal.spgr import (
    Angles,
    check_b1,
    check_flip_angle,
    check_positive,
    check_repetition_time,
    check_shape,
    check_t10,
    map_dtype,
    per_voxel,
    relative_signal,
    row_sum,
)
from kety.signal.vfa import T1Status, estimate_block

_METHODS: Final = ("nonlinear", "linear")


class ConversionStatus(enum.IntEnum):
    """Outcome of one voxel's conversion from signal to concentration."""

    OUTSIDE = 0
    CONVERTED = 1
    INCOMPLETE = 2
    NO_BASELINE = 3
    NO_T10 = 4


CONVERSION_SENTENCES: Final[dict[ConversionStatus, str]] = {
    ConversionStatus.OUTSIDE: "The voxel lies outside the mask and was not converted.",
    ConversionStatus.CONVERTED: "Every frame was converted.",
    ConversionStatus.INCOMPLETE: "Some frames are NaN: their signal is not finite, negative, "
    "or above what any concentration gives.",
    ConversionStatus.NO_BASELINE: "The baseline signal is not finite or not positive.",
    ConversionStatus.NO_T10: "T10 or B1 is missing or out of range.",
}


@dataclass(frozen=True)
class T1Map:
    """T1 and S0 of every voxel, each of shape (...); NaN where `status` is not ``ESTIMATED``.

    The standard errors hold to first order in noise of one standard deviation in every angle; with
    two angles there is no residual to estimate it from and `residual_sd` and `t1_se` are NaN.
    """

    t1: NDArray[Any]  # s
    s0: NDArray[Any]  # unit of the signal
    t1_se: NDArray[Any]  # s
    residual_sd: NDArray[Any]  # unit of the signal, sqrt(sum of squares / (A - 2))
    status: NDArray[np.uint8]  # T1Status


@dataclass(frozen=True)
class Concentration:
    """Concentration of every voxel and frame, and what could not be converted."""

    values: NDArray[Any]  # (..., T) mM, NaN where there is none
    invalid: NDArray[np.int32]  # (...) frames without a concentration, of voxels inside the mask
    status: NDArray[np.uint8]  # (...) ConversionStatus


def t1_from_flip_angles(
    signals: ArrayLike,
    flip_angles: ArrayLike,
    repetition_time: float,
    *,
    method: Literal["nonlinear", "linear"] = "nonlinear",
    b1: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    t1_range: tuple[float, float] = (1e-3, 100.0),
) -> T1Map:
    """T1 and S0 of every voxel from spoiled gradient echoes with several flip angles.

    ``nonlinear`` finds the least-squares optimum. S0 is linear and is eliminated (variable
    projection; Golub and Pereyra, SIAM J Numer Anal 1973;10:413, doi:10.1137/0710036); the profile
    over R1 is scanned, so that the optimum is the global one, and Newton steps within the bracket
    polish it. ``linear`` is the regression of S / sin a on S / tan a (Gupta, J Magn Reson
    1977;25:231; DESPOT1: Deoni et al., Magn Reson Med 2003;49:515, doi:10.1002/mrm.10407): a few
    times faster, biased by noise because it weights the angles unevenly.

    Parameters
    ----------
    signals
        Shape (..., A), A >= 2 flip angles; any real dtype and memory order, worked in blocks.
    flip_angles
        Shape (A,), degrees, in the order of the last axis; at least two differ.
    repetition_time
        TR, s.
    b1
        Ratio of the actual to the nominal flip angle, a number or a map (...); 1 by default.
    mask
        Shape (...): voxels to estimate; all by default.
    t1_range
        Smallest and largest T1 accepted, s. A voxel whose optimum lies outside gets no value.

    Returns
    -------
    T1Map
        float32 for float32 signals and for integers of up to 16 bits, else float64.

    Raises
    ------
    KetyError
        If lengths or shapes disagree, fewer than two angles differ, TR, an angle or the range is
        not valid, or the method is unknown.
    """
    if method not in _METHODS:
        raise KetyError(f"unknown T1 method {method!r}; the methods are {', '.join(_METHODS)}")
    data = check_series("signals", signals, "A")
    tr = check_repetition_time(repetition_time)
    nominal = check_flip_angle(flip_angles)
    if nominal.ndim != 1 or nominal.size != data.shape[-1]:
        raise KetyError(
            f"signals have {data.shape[-1]} flip angles on their last axis, "
            f"flip_angles has shape {nominal.shape}; they must agree"
        )
    if np.unique(nominal).size < 2:
        raise KetyError(f"T1 needs two or more different flip angles, found {nominal.tolist()}")
    shortest, longest = t1_range
    if not 0.0 < shortest < longest < np.inf:
        raise KetyError(f"t1_range must be 0 < shortest < longest (s), found {t1_range!r}")

    order = memory_order(data)
    curves = data.reshape(-1, data.shape[-1], order=order)
    shape, dtype = data.shape[:-1], map_dtype(data)
    factor = check_b1(b1, shape)
    scale = per_voxel(factor, shape, order)
    maps = np.full((4, curves.shape[0]), np.nan, dtype=dtype)
    status = np.full(curves.shape[0], T1Status.OUTSIDE, dtype=np.uint8)
    with np.errstate(all="ignore"):
        for block in blocks(flat_mask(mask, shape, order), nominal.size):
            signal = np.ascontiguousarray(curves[block].T, dtype=np.float64)
            # Without a map all voxels share the terms of their angles, which is faster.
            own = scale[block] if factor.ndim else factor
            angles = Angles.from_degrees(nominal[:, np.newaxis] * own)
            estimate, status[block] = estimate_block(signal, angles, tr, method, t1_range)
            maps[:, block] = np.where(status[block] == T1Status.ESTIMATED, estimate, np.nan)
    t1, s0, t1_se, residual_sd = (one.reshape(shape, order=order) for one in maps)
    return T1Map(t1, s0, t1_se, residual_sd, status.reshape(shape, order=order))


def signal_from_concentration(
    concentration: ArrayLike,
    *,
    t10: ArrayLike,
    repetition_time: float,
    flip_angle: float,
    relaxivity: float,
    s0: ArrayLike = 1.0,
    b1: ArrayLike | None = None,
) -> NDArray[Any]:
    """Spoiled-gradient-echo signal of a concentration, the inverse of the conversion.

    Parameters
    ----------
    concentration
        Shape (..., T), mM. Below -R10 / relaxivity there is no signal: NaN.
    t10
        T1 before contrast agent, s: a number or a map (...).
    repetition_time
        TR, s.
    flip_angle
        Degrees.
    relaxivity
        r1, 1/(mM s).
    s0
        Signal at full relaxation and 90 degrees: a number or a map (...).
    b1
        Ratio of the actual to the nominal flip angle, a number or a map (...); 1 by default.

    Returns
    -------
    ndarray of shape (..., T), in the unit of `s0`
        float32 for a float32 concentration, else float64.

    Raises
    ------
    KetyError
        If shapes disagree or a number is out of range.
    """
    data = check_series("concentration", concentration, "T")
    shape = data.shape[:-1]
    tr = check_repetition_time(repetition_time)
    nominal = check_flip_angle(check_positive("flip_angle", flip_angle, "degrees"))
    strength = check_positive("relaxivity", relaxivity, "1/(mM s)")
    equilibrium = np.asarray(s0, dtype=np.float64)
    if equilibrium.ndim:
        check_shape("s0", equilibrium, shape)
    order = memory_order(data)
    rest = per_voxel(check_t10(t10, shape), shape, order)
    scale = per_voxel(check_b1(b1, shape), shape, order)
    height = per_voxel(equilibrium, shape, order)
    curves = data.reshape(-1, data.shape[-1], order=order)
    signal = np.empty(data.shape, dtype=map_dtype(data), order=order)
    flat = signal.reshape(-1, data.shape[-1], order=order)
    with np.errstate(all="ignore"):
        for block in blocks(np.arange(curves.shape[0]), data.shape[-1]):
            angles = Angles.from_degrees(nominal * scale[block])
            r10 = 1.0 / np.where(rest[block] > 0.0, rest[block], np.nan)
            samples = np.ascontiguousarray(curves[block].T, dtype=np.float64)
            flat[block] = (height[block] * relative_signal(r10 + strength * samples, tr, angles)).T
    return signal


def concentration_from_signal(
    signal: ArrayLike,
    *,
    t10: ArrayLike,
    repetition_time: float,
    flip_angle: float,
    relaxivity: float,
    baseline: Frames,
    b1: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> Concentration:
    """Concentration of contrast agent from the spoiled-gradient-echo signal, in closed form.

    The signal relative to its baseline gives R1 exactly (no linearisation, no T2*), and
    R1 = 1 / T10 + relaxivity C. Whole blood or plasma is not decided here: the concentration of a
    vessel is that of whole blood, and the input function converts it by its hematocrit.

    Parameters
    ----------
    signal
        Shape (..., T), any unit, real dtype and memory order; worked through in blocks.
    t10
        T1 before contrast agent, s: a number or a map (...).
    repetition_time
        TR, s.
    flip_angle
        Degrees.
    relaxivity
        r1, 1/(mM s).
    baseline
        Frames before contrast agent: a slice, frame numbers from 0, or a boolean array (T,).
        ``slice(1, 5)`` leaves out the first frame, which may precede the steady state.
    b1
        Ratio of the actual to the nominal flip angle, a number or a map (...); 1 by default.
    mask
        Shape (...): voxels to convert; all by default. The others are NaN.

    Returns
    -------
    Concentration
        Values float32 for float32 signals and for integers of up to 16 bits, else float64.
        A frame that is negative or not below the signal of infinite R1 is NaN and is counted.

    Raises
    ------
    KetyError
        If shapes disagree, a number is out of range, or the baseline does not fit the series.
    """
    data = check_series("signal", signal, "T")
    shape, count = data.shape[:-1], data.shape[-1]
    frames = resolve_frames(baseline, count)
    tr = check_repetition_time(repetition_time)
    nominal = check_flip_angle(check_positive("flip_angle", flip_angle, "degrees"))
    strength = check_positive("relaxivity", relaxivity, "1/(mM s)")
    order = memory_order(data)
    rest = per_voxel(check_t10(t10, shape), shape, order)
    scale = per_voxel(check_b1(b1, shape), shape, order)
    curves = data.reshape(-1, count, order=order)
    values = np.full(data.shape, np.nan, dtype=map_dtype(data), order=order)
    flat = values.reshape(-1, count, order=order)
    invalid = np.zeros(curves.shape[0], dtype=np.int32)
    status = np.full(curves.shape[0], ConversionStatus.OUTSIDE, dtype=np.uint8)
    with np.errstate(all="ignore"):
        for block in blocks(flat_mask(mask, shape, order), count):
            angles = Angles.from_degrees(nominal * scale[block])
            known = np.isfinite(angles.sine) & (rest[block] > 0.0) & np.isfinite(rest[block])
            before = -np.expm1(-tr / np.where(known, rest[block], np.nan))
            samples = np.ascontiguousarray(curves[block].T, dtype=np.float64)
            level = row_sum(samples[frames]) / frames.size
            measurable = np.isfinite(level) & (level > 0.0)
            # Relative to the signal of infinite R1: y = u / (rest + u cos a), below 1.
            y = samples * (before / (angles.rest + before * angles.cosine) / level)
            u = angles.rest * y / (1.0 - angles.cosine * y)
            r1 = -np.log1p(-np.where((y >= 0.0) & (y < 1.0) & measurable, u, np.nan)) / tr
            result = (r1 - 1.0 / rest[block]) / strength
            flat[block] = result.T
            missing = np.count_nonzero(np.isnan(result), axis=0)
            invalid[block] = missing
            reason = np.where(missing > 0, ConversionStatus.INCOMPLETE, ConversionStatus.CONVERTED)
            reason[~measurable] = ConversionStatus.NO_BASELINE
            reason[~known] = ConversionStatus.NO_T10
            status[block] = reason
    return Concentration(
        values, invalid.reshape(shape, order=order), status.reshape(shape, order=order)
    )
