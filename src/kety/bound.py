"""The Cramér–Rao bound: how well curves of some noise can tell the parameters of a model."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError
from kety.fitting.forward import checked_times, simulate_curves
from kety.fitting.solve import problem_slopes
from kety.fitting.terms import given_problem
from kety.models import Model, get_model

if TYPE_CHECKING:
    from kety.inputs import InputFunction

Floats = NDArray[np.float64]

SINGULAR: Final = 1e-8
"""Ratio of singular values of J, columns of unit length, below which a direction is dark."""


def cramer_rao(
    parameters: Mapping[str, ArrayLike],
    times: ArrayLike,
    noise: float | ArrayLike,
    aif: InputFunction,
    model: str | Model = "extended_tofts",
    *,
    fixed: Collection[str] = (),
    baseline: bool = False,
    portal: InputFunction | None = None,
) -> dict[str, Floats]:
    """Smallest standard deviations (V,) of unbiased estimates of all parameters, derived ones too.

    ``sqrt(g' inv(J'WJ) g)``, W 1 / noise² of each frame, at the truth (Kay, Fundamentals of
    Statistical Signal Processing I, 1993, sections 3.7 and 3.8): J the exact derivatives of the
    curve with respect to what is estimated, ``baseline`` among it, g the gradient of the quantity.
    A baseline that is subtracted is no better known: curves less the mean of some of their frames
    tell as much as curves with an unknown constant. The input and parameters in ``fixed`` count as
    known. Bounds do not count: where they hold estimates, errors may be smaller. NaN for what the
    frames do not determine, and for what is known.

    Arguments and errors are those of `kety.simulate_curves`; ``noise`` is in the input's unit, and
    `KetyError` is raised for fewer frames than unknowns too. It may be (T,), one for each frame.
    """
    record, frames = get_model(model), checked_times(times)
    # For its checks; of all frames, as a model of equations is compiled for their number.
    simulate_curves(parameters, frames, aif, model, portal=portal)
    delays = {p.name: 0.0 for p in record.parameters if p.is_delay}
    given = [np.asarray({**delays, **parameters}[n], np.float64) for n in record.names]
    values = dict(zip(record.names, np.broadcast_arrays(*map(np.atleast_1d, given)), strict=True))
    free = [p for p in record.parameters if p.name not in fixed]
    count, unknowns = values[record.names[0]].size, len(free) + baseline
    if not free or frames.size < unknowns:
        raise KetyError(f"{frames.size} frames, {unknowns} unknowns; add frames or free parameters")
    problem, theta = given_problem(record, values, frames, aif, portal)
    exact = problem_slopes(problem, theta)[1]
    jacobian = np.ones((count, frames.size, unknowns))
    for k, p in enumerate(free):
        jacobian[:, :, k] = exact[:, :, problem.slot(p.name)] * problem.factor(p)
    level = float(noise) if np.ndim(noise) == 0 else 1.0  # type: ignore[arg-type]
    if np.ndim(noise):
        jacobian /= noise_of_frames(noise, frames.size)[:, None]
    # Columns of unit length: what is singular must not depend on units.
    length = np.linalg.norm(jacobian, axis=1)
    length[length == 0] = 1.0
    _, strength, axes = np.linalg.svd(jacobian / length[:, None], full_matrices=False)
    dark = strength <= SINGULAR * strength[:, :1]
    gradients: dict[str, dict[str, Any]] = {n: {n: 1.0} for n in record.names}
    for d in record.derived:
        _, slopes = d.evaluate([values[n] for n in d.of], aif.hematocrit)
        gradients[d.name] = dict(zip(d.of, slopes, strict=True))
    deviations = {}
    for name, gradient in gradients.items():
        slope = np.zeros_like(length)
        for k, p in enumerate(free):
            slope[:, k] = gradient.get(p.name, 0.0) / length[:, k]
        along = np.einsum("vij,vj->vi", axes, slope)
        size = np.linalg.norm(slope, axis=1)
        seen = np.abs(np.where(dark, along, 0.0)).max(axis=1) <= np.sqrt(SINGULAR) * size
        terms = np.where(dark, 0.0, along / np.where(dark, 1.0, strength))
        bound = level * np.linalg.norm(terms, axis=1)
        deviations[name] = np.where(seen & (size > 0), bound, np.nan)
    return deviations


def noise_of_frames(noise: ArrayLike, frames: int) -> Floats:
    """Noise of every frame (T,), checked: `KetyError` unless each has a positive number."""
    values = np.asarray(noise, dtype=np.float64)
    if values.shape != (frames,) or not (np.isfinite(values) & (values > 0)).all():
        raise KetyError(
            f"noise of shape {values.shape} for {frames} frames; give one positive standard "
            "deviation for each, or one number for all"
        )
    return values
