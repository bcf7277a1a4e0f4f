"""What the residuals of a fit say of its model: correlation of neighbouring frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.fitting.problem import Problem
from kety.fitting.sensitivity import ExactModel
from kety.fitting.whiteness import moments, next_frame_correlation
from kety.voxels import voxels_of

if TYPE_CHECKING:
    import xarray

AUTOCORRELATION: Final = "residual_autocorrelation"
BLOCK: Final = 2048
"""Voxels at a time; bounds the working memory."""
BAND: Final = 1.96
"""Half the 95 % band, in standard deviations."""
WORDS: Final = {
    AUTOCORRELATION: "correlation of a residual with the next frame's",
    f"{AUTOCORRELATION}_mean": "mean of that correlation under white noise",
    f"{AUTOCORRELATION}_sd": "standard deviation of that correlation under white noise",
}


def residual_autocorrelation(
    maps: xarray.Dataset, curves: ArrayLike, problem: Problem
) -> dict[str, Any]:
    """Maps of the correlation of neighbouring residuals, and what it is by chance.

    Parameters
    ----------
    maps : xarray.Dataset
        Estimates of the exact model on axes (...).
    curves : (..., T) array
        The curves that were fitted.
    problem : Problem
        What was fitted.

    Returns
    -------
    dict of str to (dims, array, attributes)
        ``residual_autocorrelation``, ``..._mean`` and ``..._sd``, see `kety.fitting.whiteness`; NaN
        in voxels without a value for every parameter. Outside mean +- 1.96 sd, five voxels in a
        hundred lie by chance; more say that the model does not describe the curves.
    """
    image = voxels_of(curves, len(problem.times), None)
    model = ExactModel(problem)
    names = model.names
    values = np.stack([image.flat(maps[name]) for name in names], axis=-1).astype(np.float64)
    known = np.isfinite(values).all(axis=1) & np.isfinite(image.flat(maps["cost"]))
    errors = np.stack([image.flat(maps[f"{name}_se"]) for name in names], axis=-1)
    constant = image.flat(maps["baseline"]).astype(np.float64) if problem.baseline else None
    flat = np.full((3, len(values)), np.nan, problem.dtype)
    rows = np.flatnonzero(known)
    for start in range(0, len(rows), BLOCK):
        part = rows[start : start + BLOCK]
        fitted, slopes = model.curves_and_slopes(values[part])
        if constant is not None:
            fitted += constant[part, None]
        slopes *= np.isfinite(errors[part])[:, None, :]
        flat[:, part] = whiteness(problem, image.curves[part] - fitted, slopes)
    dims = maps["status"].dims
    return {
        name: (dims, image.image(one), {"units": "1", "long_name": words, "osipi": ""})
        for (name, words), one in zip(WORDS.items(), flat, strict=True)
    }


def whiteness(
    problem: Problem, residuals: NDArray[Any], slopes: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Correlation, its mean and its standard deviation (3, V) of residuals (V, T).

    ``slopes`` (V, T, P) are the model's derivatives at the estimates, 0 for parameters at their
    bounds. Weighted residuals are those of unit variance; frames of weight 0 are left out.
    """
    if problem.baseline:
        slopes = np.concatenate([slopes, np.ones((*slopes.shape[:2], 1))], axis=2)
    if problem.weights is not None:
        used = problem.weights > 0
        root = np.sqrt(problem.weights[used])
        residuals, slopes = residuals[:, used] * root, slopes[:, used] * root[:, None]
    return np.stack([next_frame_correlation(residuals), *moments(slopes)])
