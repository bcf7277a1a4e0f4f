"""Models of the liver, which is fed by the hepatic artery and the portal vein.

    C = Fp [f ca(t - tau_a) + (1 - f) cp(t - tau_p)] * R(t),

with f the hepatic arterial fraction, each input with its own delay, and R the residue of one
compartment, exp(-Fp t / vd) (Materne et al., Magn Reson Med 47:135, 2002), or that of plasma and
interstitium in exchange (Koh et al., Phys Med Biol 53:5467, 2008, with a well-mixed plasma). An
initial concentration c0 is that of tissue in equilibrium.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from typing import Any, Final

import numpy as np

from kety.models.base import Derived, Group, Model, Parameter, Terms
from kety.models.exchange import (
    E_SPREAD,
    FP,
    KTRANS_SPREAD,
    MTT,
    PS,
    SHIFT,
    VE,
    VP,
    exchange_back,
    exchange_inner,
    exchange_rates,
)
from kety.models.starts import Curves, Nodes, Recipe, Search, exponentials, kernel_rows

HAF = Parameter("haf", "1", "hepatic arterial fraction", "Q.PH1.999", None, (0.0, 1.0), per=None)
VD = Parameter(
    "vd",
    "mL/mL",
    "distribution volume fraction",
    "Q.PH1.999",
    None,
    (0.0, 1.0),
    per="plasma",
    least=1e-4,
    over=("vd",),
)
SHIFT_PORTAL = replace(SHIFT, name="delay_portal", long_name="portal venous delay time")
PORTAL_DELAYS: Final = 8
"""Most delays of the portal input among the nodes."""
TRANSITS: Final = ((2.0, 6.0, 15.0), (0.1, 0.5, 2.0), (20.0, 60.0, 180.0))
"""Of the nodes: vp / Fp (s), PS / Fp, ve / Fp (s)."""


def _mixed(p: Mapping[str, Any], terms: Any) -> tuple[Group, Group]:
    """The same residue for both inputs, each with its share."""
    own = p["haf"]
    artery = Group(p["delay"], [(own * a, k) for a, k in terms], input=0)
    portal = Group(p["delay_portal"], [((1.0 - own) * a, k) for a, k in terms], input=1)
    return artery, portal


def _one(p: Mapping[str, Any]) -> Terms:
    rate = p["fp"] / p["vd"]
    return Terms(_mixed(p, [(p["fp"], rate)]), ((1.0, rate),))


def _two(p: Mapping[str, Any]) -> Terms:
    fast, slow, share = exchange_rates(p)
    first = p["fp"] * share
    gone = (p["fp"] / (p["vp"] + p["ve"]) - slow) / (fast - slow)
    return Terms(
        _mixed(p, [(first, fast), (p["fp"] - first, slow)]),
        ((gone, fast), (1.0 - gone, slow)),
    )


def _two_inner(p: Mapping[str, Any], shift: float) -> dict[str, Any]:
    made = exchange_inner(p, shift)
    return made | {"delay_portal": p["delay_portal"] + shift * made["ps"]}


def _two_back(q: Mapping[str, Any], shift: float) -> dict[str, Any]:
    late = q["delay_portal"] - shift * q["ps"]
    return exchange_back(q, shift) | {"delay_portal": late}


def _portal_delays(search: Search) -> Any:
    every = search.delays_portal
    return every[np.linspace(0, len(every) - 1, min(len(every), PORTAL_DELAYS)).round().astype(int)]


def _portal_curves(search: Search, **columns: float) -> Curves:
    late = _portal_delays(search)
    rows = kernel_rows(len(late), tau=late, **columns)
    return Curves(rows[:, None], {"late": late}, (1,))


def _one_nodes(search: Search) -> list[Nodes]:
    return [
        Nodes(
            cell,
            exponentials(search.rates[i : i + 1], float(delay), "rate"),
            _portal_curves(search, a1=1.0, k1=float(search.rates[i])),
            {"delay": float(delay)},
            kind=i,
        )
        for i in range(1, len(search.rates))
        for cell, delay in enumerate(search.delays)
    ]


def _one_start(v: Mapping[str, Any], x: Any, y: Any) -> dict[str, Any]:
    return {
        "fp": x + y,
        "haf": x / (x + y),
        "vd": (x + y) / v["rate"],
        "delay": v["delay"],
        "delay_portal": v["late"],
    }


def _two_nodes(search: Search) -> list[Nodes]:
    groups = []
    for kind, (tp, leak, te) in enumerate(product(*TRANSITS)):
        fast, slow, share = exchange_rates({"fp": 1.0, "ps": leak, "ve": te, "vp": tp})
        columns = {"a1": share, "k1": fast, "a2": 1.0 - share, "k2": slow}
        shape = {"plasma": tp, "leak": leak, "interstitium": te}
        for cell, delay in enumerate(map(float, search.delays)):
            artery = Curves(kernel_rows(1, tau=delay, **columns)[:, None])
            groups.append(
                Nodes(
                    cell,
                    artery,
                    _portal_curves(search, **columns),
                    {"delay": delay, **shape},
                    kind=kind,
                )
            )
    return groups


def _two_start(v: Mapping[str, Any], x: Any, y: Any) -> dict[str, Any]:
    fp = x + y
    return {
        "fp": fp,
        "haf": x / fp,
        "ps": v["leak"] * fp,
        "ve": v["interstitium"] * fp,
        "vp": v["plasma"] * fp,
        "delay": v["delay"],
        "delay_portal": v["late"],
    }


ARTERIAL_FLOW = Derived(
    "fp_arterial",
    "mL/100mL/min",
    "arterial plasma flow",
    "Q.PH1.999",
    ("fp", "haf"),
    lambda fp, haf, hematocrit: fp * haf,
)
PORTAL_FLOW = Derived(
    "fp_portal",
    "mL/100mL/min",
    "portal venous plasma flow",
    "Q.PH1.999",
    ("fp", "haf"),
    lambda fp, haf, hematocrit: fp * (1.0 - haf),
)
MTT_ONE = Derived(
    "mtt",
    "s",
    "mean transit time",
    "Q.PH1.006",
    ("fp", "vd"),
    lambda fp, vd, hematocrit: 6000.0 * vd / fp,
)

DUAL_INPUT_ONE_COMPARTMENT = Model(
    "dual_input_one_compartment",
    "dual-input one compartment",
    "M.IC1.999",
    "Materne et al., Magn Reson Med 47:135, 2002",
    (FP, HAF, VD, SHIFT, SHIFT_PORTAL),
    (ARTERIAL_FLOW, PORTAL_FLOW, MTT_ONE),
    terms=_one,
    starts=Recipe(_one_nodes, _one_start, share="haf"),
    inputs=2,
    profiled="haf",
)
DUAL_INPUT_TWO_COMPARTMENT = Model(
    "dual_input_two_compartment",
    "dual-input two-compartment exchange",
    "M.IC1.999",
    "Koh et al., Phys Med Biol 53:5467, 2008",
    (FP, HAF, PS, VE, VP, SHIFT, SHIFT_PORTAL),
    (ARTERIAL_FLOW, PORTAL_FLOW, KTRANS_SPREAD, E_SPREAD, MTT),
    terms=_two,
    inner=(_two_inner, _two_back),
    starts=Recipe(_two_nodes, _two_start, share="haf"),
    inputs=2,
    profiled="haf",
)
