"""Information criteria of least-squares fits.

For n frames, a sum of squared residuals S and k unknowns (Burnham and Anderson, Model Selection
and Multimodel Inference, 2nd ed., Springer 2002, sections 2.2, 2.4 and 6.4),

    AIC = n ln(S / n) + 2 k,
    AICc = AIC + 2 k (k + 1) / (n - k - 1),
    BIC = n ln(S / n) + k ln n,

and the weight of a model is exp(-D / 2), D its distance from the least of the values, over the sum
of these. k counts the model's free parameters (a delay that is fitted among them), the constant
where one is fitted along, and the variance of the noise. A parameter that ends on its bound counts
too: the bound was reached because the data drove it there, and a count that depended on where a fit
ended would favour models whose parameters are held by their bounds. Used on dynamic
contrast-enhanced series by Luypaert et al., Phys Med Biol 55:6431, 2010, and, as nested models,
by Ewing and Bagher-Ebadian, NMR Biomed 26:1028, 2013.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

CRITERIA: Final = ("aicc", "bic", "aic")

Floats = NDArray[np.float64]


def criterion(name: str, cost: ArrayLike, frames: int, unknowns: int) -> Floats:
    """Information criterion (...) of sums of squared residuals (...).

    Parameters
    ----------
    name : {"aicc", "bic", "aic"}
    cost : (...) array
        Sum of squared residuals, weighted where the fit was; not 0.
    frames : int
        Number of frames, those of weight 0 left out.
    unknowns : int
        Estimated quantities, the variance of the noise among them.

    Returns
    -------
    (...) array
        Up to a constant that is the same for all models of one curve.
    """
    value: Floats = np.asarray(frames * np.log(np.asarray(cost, np.float64) / frames))
    if name == "bic":
        return np.asarray(value + unknowns * np.log(frames))
    value = value + 2.0 * unknowns
    if name == "aicc":
        value = value + 2.0 * unknowns * (unknowns + 1) / (frames - unknowns - 1)
    return value
