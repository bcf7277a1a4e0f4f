"""The Tofts family: one compartment fed from plasma, with or without a vascular term.

    C(t) = Vb Ca(t - tau) + Ktrans / (1 - Hct) int_0^t Ca(u - tau) exp(-kep (t - u)) du,

with Ca the concentration in arterial blood, ve = Ktrans / kep and vp = Vb (1 - Hct) (Tofts et al.,
J Magn Reson Imaging 10:223, 1999; Svistoun et al., Tomography 5:209, 2019, equation 1,
doi 10.18383/j.tom.2018.00048). Patlak's model is the limit kep = 0 (Patlak et al., J Cereb Blood
Flow Metab 3:1, 1983).
"""

from __future__ import annotations

import numpy as np

from kety.models.base import Derived, Floats, Model, Parameter

KTRANS = Parameter(
    "ktrans", "1/min", "volume transfer constant", "Q.PH1.008", "a", (0.0, 5.0), per="plasma"
)
KEP = Parameter(
    "kep",
    "1/min",
    "rate constant from EES to plasma",
    "Q.PH1.009",
    "k",
    (0.0, 60.0),
    needs=(("ktrans",),),
)
VB = Parameter("vb", "mL/mL", "blood volume fraction", "Q.PH1.001.b", "v", (0.0, 1.0))
DELAY = Parameter(
    "delay",
    "s",
    "arterial delay time",
    "Q.PH1.007",
    "tau",
    (-5.0, 15.0),
    needs=(("vb",), ("ktrans", "vb", "k1", "fp")),
)
"""Beside a free vascular term uptake alone does not tell the delay: a later one takes
a (c - k int c exp(-k t)) from a int c exp(-k t), which the two amplitudes make up for."""


def _ve(ktrans: Floats, kep: Floats, hematocrit: float) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(kep > 0, ktrans / kep, np.nan)


def _ve_gradient(ktrans: Floats, kep: Floats, hematocrit: float) -> tuple[Floats, Floats]:
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = np.where(kep > 0, 1.0 / kep, np.nan)
    return inverse, -ktrans * inverse * inverse


def _vp(vb: Floats, hematocrit: float) -> Floats:
    return vb * vb.dtype.type(1.0 - hematocrit)


def _vp_gradient(vb: Floats, hematocrit: float) -> tuple[Floats]:
    return (np.full_like(vb, 1.0 - hematocrit),)


VE = Derived(
    "ve",
    "mL/mL",
    "extravascular extracellular volume fraction",
    "Q.PH1.001.e",
    ("ktrans", "kep"),
    _ve,
    _ve_gradient,
    needs=(("ktrans",),),
    over=("kep",),
)
VP = Derived("vp", "mL/mL", "plasma volume fraction", "Q.PH1.001.p", ("vb",), _vp, _vp_gradient)

TOFTS = Model(
    "tofts",
    "Tofts",
    "M.IC1.004",
    "Tofts et al., J Magn Reson Imaging 10:223, 1999",
    (KTRANS, KEP, DELAY),
    (VE,),
)
EXTENDED_TOFTS = Model(
    "extended_tofts",
    "extended Tofts",
    "M.IC1.005",
    "Tofts et al., J Magn Reson Imaging 10:223, 1999",
    (KTRANS, KEP, VB, DELAY),
    (VE, VP),
)
PATLAK = Model(
    "patlak",
    "Patlak",
    "M.IC1.006",
    "Patlak et al., J Cereb Blood Flow Metab 3:1, 1983",
    (KTRANS, VB, DELAY),
    (VP,),
)
