"""Model curves from parameters: the exact forward model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError
from kety.fitting.pieces import kernel_pieces
from kety.models import Model, OdeModel, get_model

if TYPE_CHECKING:
    from kety.inputs import InputFunction


def as_numbers(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """Real numbers as float64; `KetyError` for anything else."""
    a = np.asarray(values)
    if a.dtype.kind not in "fiub":
        raise KetyError(f"{name} must be real numbers, found {a.dtype} ({values!r:.60})")
    return np.ascontiguousarray(a, dtype=np.float64)


def checked_times(times: ArrayLike) -> NDArray[np.float64]:
    """Frame times (T,) s as float64.

    Raises
    ------
    KetyError
        If they are not one finite, strictly increasing row.
    """
    t = as_numbers("times", times)
    if t.ndim != 1 or t.size == 0:
        raise KetyError(f"times must be one row of frame times in s, found shape {t.shape}")
    if not np.isfinite(t).all():
        raise KetyError(f"times[{int(np.argmin(np.isfinite(t)))}] is not finite")
    wrong = np.flatnonzero(np.diff(t) <= 0)
    if wrong.size:
        i = int(wrong[0])
        raise KetyError(
            f"times must increase: times[{i}] = {t[i]:g} s is followed by {t[i + 1]:g} s; "
            "sort the frames by time and remove duplicates"
        )
    return t


def check_coverage(aif: InputFunction, times: NDArray[np.float64], latest: float) -> None:
    """Refuse an input that ends before the time `latest` (s) at which tissue first asks for it."""
    tolerance = 1e-6 * max(1.0, abs(latest))
    if aif.times[-1] < latest - tolerance:
        raise KetyError(
            f"the input function ends at {aif.times[-1]:g} s but the frames run to {times[-1]:g} s "
            f"and need it up to {latest:g} s; give an input that covers the series or fewer frames"
        )


def kernel_curves(
    aif: InputFunction,
    times: NDArray[np.float64],
    kernel: NDArray[np.float64],
    *,
    jacobian: bool = False,
    dtype: str = "float64",
    threads: int = 1,
    instruction_set: str = "",
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Curves of the native kernel.

    Parameters
    ----------
    aif : InputFunction
    times : (T,) array
        Frame times, s.
    kernel : (V, 4) or (V, 6) array
        v, a1 [1/s], k1 [1/s], (a2, k2,) tau [s]; amplitudes act on the input as given.
    jacobian : bool
        Also return the derivatives with respect to each of them.
    dtype : {"float64", "float32"}
        Precision of the arithmetic; results are float64.

    Returns
    -------
    values : (V, T) array
    jacobian : (V, T, 4 or 6) array or None
    """
    from kety import _native

    kernel = np.ascontiguousarray(kernel, dtype=np.float64)
    rates = kernel[:, 2:-1:2]
    largest = float(rates.max(initial=0.0))
    if not np.isfinite(kernel).all() or rates.min(initial=0.0) < 0:
        raise KetyError("model parameters must be finite and rate constants not negative")
    end = float(times[-1] - min(kernel[:, -1].min(initial=0.0), 0.0))
    pieces = kernel_pieces(aif, largest, end)
    values = np.empty((len(kernel), len(times)))
    slopes = np.empty((len(kernel), len(times), kernel.shape[1])) if jacobian else None
    _native.forward(
        pieces, times, kernel, values, slopes, dtype == "float32", threads, instruction_set
    )
    return values, slopes


def simulate_curves(
    parameters: Mapping[str, ArrayLike],
    times: ArrayLike,
    aif: InputFunction,
    model: str | Model = "extended_tofts",
    dtype: str = "float64",
    *,
    portal: InputFunction | None = None,
) -> NDArray[np.float64]:
    """Model curves at the frame times, exact on any time grid.

    Parameters
    ----------
    parameters : mapping of str to array (V,) or scalar
        The model's free parameters in public units, e.g. ``ktrans`` and ``kep`` in 1/min, ``vb`` as
        a fraction, delays in s (0 where left out). ``c0``, in the unit of the input, is what
        the tissue holds at the first frame.
    times : (T,) array
        Frame times, s.
    aif : InputFunction
    model : str or Model
        Name in `kety.models.MODELS`, or a model such as a `kety.OdeModel`.
    dtype : {"float64", "float32"}
        Precision of the arithmetic.
    portal : InputFunction, optional
        The portal vein's input, for the models with two inputs.

    Returns
    -------
    (V, T) array of float64, in the unit of the input.

    Raises
    ------
    KetyError
        For unknown or missing parameters, shapes that do not agree, or times not increasing.
    """
    record = get_model(model)
    if dtype not in ("float32", "float64"):
        raise KetyError(f"dtype must be 'float32' or 'float64', found {dtype!r}")
    t = checked_times(times)
    given: dict[str, Any] = {p.name: 0.0 for p in record.parameters if p.is_delay} | {**parameters}
    ode = isinstance(record, OdeModel)
    unknown = sorted(set(given) - {*record.names, *(() if ode else ("c0",))})
    missing = sorted(set(record.names) - set(given))
    if unknown or missing:
        raise KetyError(
            f"{record.name} has the parameters {', '.join(record.names)}; "
            f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}"
        )
    try:
        arrays = np.broadcast_arrays(*(np.asarray(given[n], dtype=np.float64) for n in given))
    except ValueError as error:
        raise KetyError(f"parameters have shapes that do not agree: {error}") from None
    values = {n: np.atleast_1d(a).ravel() for n, a in zip(given, arrays, strict=True)}
    count = next(iter(values.values())).size
    latest = float(t[-1] - np.max(values.get("delay", np.zeros(1)), initial=0.0)) if count else t[0]
    check_coverage(aif, t, latest)
    if isinstance(record, OdeModel):
        from kety.fitting.ode import simulate_ode

        return simulate_ode(record, values, t, aif, portal)
    if record.terms is not None or "c0" in values:
        from kety.fitting.terms import simulate_terms

        return simulate_terms(record, values, t, aif, portal, dtype)
    kernel = record.kernel_parameters(values, aif, count)
    return kernel_curves(aif, t, kernel, dtype=dtype)[0]
