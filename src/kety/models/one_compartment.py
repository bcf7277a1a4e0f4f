"""One compartment that fills from arterial blood and empties at a constant rate.

    dC/dt = K1 Ca(t - tau) - k2 C

(Kety, Pharmacol Rev 3:1, 1951; equation (6) of the multi-task paper, whose theta1 and theta2 are
K1 and k2). The curve has the shape of the Tofts model's. What differs is what the parameters say:
K1 refers to whole blood, so that no hematocrit enters where the input is of blood, and nothing is
assumed about the space in which the agent is: K1 / k2 is a distribution volume, no volume fraction.
"""

from __future__ import annotations

import numpy as np

from kety.models.base import Derived, Floats, Model, Parameter
from kety.models.tofts import DELAY

# The OSIPI lexicon lists neither this model without a mechanism nor K1 and the distribution volume;
# 999 is its code for what it does not list.
K1 = Parameter("k1", "1/min", "transfer rate from blood to tissue", "Q.PH1.999", "a", (0.0, 5.0))
K2 = Parameter(
    "k2",
    "1/min",
    "washout rate from tissue to blood",
    "Q.PH1.009",
    "k",
    (0.0, 60.0),
    needs=(("k1",),),
)


def _vd(k1: Floats, k2: Floats, hematocrit: float) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(k2 > 0, k1 / k2, np.nan)


def _vd_gradient(k1: Floats, k2: Floats, hematocrit: float) -> tuple[Floats, Floats]:
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = np.where(k2 > 0, 1.0 / k2, np.nan)
    return inverse, -k1 * inverse * inverse


VD = Derived(
    "vd",
    "mL/mL",
    "distribution volume",
    "Q.PH1.999",
    ("k1", "k2"),
    _vd,
    _vd_gradient,
    needs=(("k1",),),
    over=("k2",),
)

ONE_COMPARTMENT = Model(
    "one_compartment",
    "one compartment",
    "M.IC1.999",
    "Kety, Pharmacol Rev 3:1, 1951",
    (K1, K2, DELAY),
    (VD,),
)
