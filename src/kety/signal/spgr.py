"""The spoiled-gradient-echo signal, and the checks of its acquisition arguments.

The steady-state signal of a spoiled gradient echo (SPGR, FLASH, T1-FFE) without T2* decay is

    S = S0 sin a (1 - E) / (1 - E cos a),   E = exp(-TR R1)

(Haase et al., J Magn Reson 1986;67:258, doi:10.1016/0022-2364(86)90433-6). Written with
u = 1 - E and 1 - E cos a = 2 sin²(a/2) + u cos a nothing cancels, however small TR R1 is.
"""

from __future__ import annotations

import warnings
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError

Float = NDArray[np.float64]

_RADIANS: Final = 1.6
_LONGEST_TR: Final = 1.0
_LONGEST_T10: Final = 20.0
_LARGEST_B1: Final = 5.0


class Angles(NamedTuple):
    """What the signal needs of flip angles: S / S0 = sine u / (rest + u cosine)."""

    sine: Float
    rest: Float  # 2 sin²(a/2) = 1 - cos a, without cancellation
    cosine: Float

    @classmethod
    def from_degrees(cls, degrees: ArrayLike) -> Angles:
        """The terms of any angles; NaN for those that B1 moved out of (0, 180) degrees."""
        angles = np.asarray(degrees, dtype=np.float64)
        radians = np.deg2rad(np.where((angles > 0.0) & (angles < 180.0), angles, np.nan))
        return cls(np.sin(radians), 2.0 * np.sin(0.5 * radians) ** 2, np.cos(radians))

    def take(self, voxels: NDArray[np.intp]) -> Angles:
        """The terms (A, 1) shared by all voxels as they are, those of a B1 map (A, B) of some."""
        return self if self.sine.shape[-1] == 1 else Angles(*(term[:, voxels] for term in self))


def spgr_signal(
    r1: ArrayLike, s0: ArrayLike, repetition_time: float, flip_angle: ArrayLike
) -> NDArray[Any]:
    """Steady-state signal of a spoiled gradient echo, without T2* decay.

    Parameters
    ----------
    r1
        Longitudinal relaxation rate, 1/s, any shape. A negative rate has no signal: NaN.
    s0
        Signal at full relaxation and 90 degrees; broadcasts with `r1`.
    repetition_time
        TR, s.
    flip_angle
        Degrees, in (0, 180); broadcasts with `r1` (for A angles give ``r1[..., None]``).

    Returns
    -------
    ndarray of the broadcast shape, in the unit of `s0`
        float32 if `r1` is a float32 array, else float64.

    Raises
    ------
    KetyError
        If TR or a flip angle is out of range, or the shapes do not broadcast.
    """
    tr = check_repetition_time(repetition_time)
    angles = Angles.from_degrees(check_flip_angle(flip_angle))
    rate = np.asarray(r1)
    dtype = np.float32 if rate.dtype == np.float32 else np.float64
    try:
        signal = np.asarray(s0) * relative_signal(rate.astype(np.float64, copy=False), tr, angles)
    except ValueError as error:
        raise KetyError(
            f"r1 {rate.shape}, s0 {np.shape(s0)} and flip_angle {np.shape(flip_angle)} "
            "must broadcast to one shape"
        ) from error
    return np.asarray(signal, dtype=dtype)


def relative_signal(r1: Float, tr: float, angles: Angles) -> Float:
    """S / S0 at rates `r1` (1/s, NaN where negative); `angles` broadcast with them."""
    with np.errstate(invalid="ignore", over="ignore"):
        u = -np.expm1(-tr * np.where(r1 >= 0.0, r1, np.nan))
        signal: Float = angles.sine * u / (angles.rest + u * angles.cosine)
    return signal


def check_repetition_time(seconds: float) -> float:
    """TR as a float, s; warns where it looks like milliseconds."""
    value = check_positive("repetition_time", seconds, "s")
    if value > _LONGEST_TR:
        warnings.warn(
            f"repetition_time is {value:g} s, long for a spoiled gradient echo: "
            "TR is expected in seconds (5 ms is 0.005)",
            UserWarning,
            stacklevel=3,
        )
    return value


def check_positive(name: str, value: float, unit: str) -> float:
    """One finite number above 0."""
    if np.ndim(value) != 0 or not np.isfinite(value) or not value > 0:
        raise KetyError(f"{name} must be one number above 0 ({unit}), found {value!r}")
    return float(value)


def check_flip_angle(degrees: ArrayLike) -> Float:
    """Flip angles as float64, degrees; warns where all look like radians."""
    angles = np.asarray(degrees, dtype=np.float64)
    if angles.size == 0 or not np.all((angles > 0.0) & (angles < 180.0)):
        raise KetyError(f"flip_angle must lie between 0 and 180 degrees, found {degrees!r}")
    if angles.max() < _RADIANS:
        warnings.warn(
            f"the largest flip_angle is {angles.max():g} degrees; angles are expected in degrees, "
            f"and this looks like radians ({np.rad2deg(angles.max()):.4g} degrees)",
            UserWarning,
            stacklevel=3,
        )
    return angles


def check_t10(t10: ArrayLike, shape: tuple[int, ...]) -> Float:
    """T10 as float64, s: one number above 0, or a map of `shape`."""
    values = np.asarray(t10, dtype=np.float64)
    if values.ndim == 0:
        check_positive("t10", float(values), "s")
    else:
        check_shape("t10", values, shape)
    finite = values[np.isfinite(values)]
    if finite.size and np.median(finite) > _LONGEST_T10:
        warnings.warn(
            f"t10 is {np.median(finite):g} s (median): T1 is expected in seconds (1440 ms is 1.44)",
            UserWarning,
            stacklevel=3,
        )
    return values


def check_b1(b1: ArrayLike | None, shape: tuple[int, ...]) -> Float:
    """B1 as float64, the ratio of actual to nominal flip angle: a number or a map of `shape`."""
    values = np.asarray(1.0 if b1 is None else b1, dtype=np.float64)
    if values.ndim == 0:
        check_positive("b1", float(values), "ratio")
    else:
        check_shape("b1", values, shape)
    finite = values[np.isfinite(values)]
    if finite.size and np.median(finite) > _LARGEST_B1:
        raise KetyError(
            f"b1 has a median of {np.median(finite):g}; expected the ratio of the actual to the "
            "nominal flip angle, near 1 (divide a map in percent by 100)"
        )
    return values


def check_shape(name: str, values: NDArray[Any], shape: tuple[int, ...]) -> None:
    """A map must have the series' grid."""
    if values.shape != shape:
        raise KetyError(
            f"{name} has shape {values.shape}, the voxel grid is {shape}; give one number "
            "or a map on that grid"
        )


def row_sum(rows: Float) -> Float:
    """Sum over the first axis, row by row: the order of additions never depends on the width."""
    total: Float = rows[0].copy()
    for row in rows[1:]:
        total += row
    return total


def per_voxel(values: Float, shape: tuple[int, ...], order: Any) -> Float:
    """A number or map flattened to (V,) in the memory order of the series."""
    return np.broadcast_to(values, shape).reshape(-1, order=order)


def map_dtype(data: NDArray[Any]) -> Any:
    """float32 for float32 data and for integers of up to 16 bits, else float64."""
    return np.float32 if np.result_type(data.dtype, np.float32) == np.float32 else np.float64
