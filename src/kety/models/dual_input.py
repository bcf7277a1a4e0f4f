"""Models of the liver, which is fed by the hepatic artery and the portal vein.

    C = Fp [f ca(t - tau_a) + (1 - f) cp(t - tau_p)] * R(t),

with f the hepatic arterial fraction, each input with its own delay, and R the residue of one
compartment, exp(-Fp t / vd) (Materne et al., Magn Reson Med 47:135, 2002), or that of plasma and
interstitium in exchange (Koh et al., Phys Med Biol 53:5467, 2008, with a well-mixed plasma). Where
plasma follows the inputs at once, Fp R is vp delta(t) + Ktrans exp(-Ktrans t / ve), the extended
Tofts model with two inputs (Berks et al., J Open Source Softw 6:3523, 2021). An initial
concentration c0 is that of tissue in equilibrium; of the extended Tofts model, of the interstitium.
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
from kety.models.tofts import KTRANS
from kety.models.trace import larger

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
WASHOUTS: Final = (5e-4, 2e-3, 6e-3, 0.015, 0.04, 0.12, 0.4)
PLASMA: Final = (0.0, 4.0, 15.0, 50.0, np.inf)
"""Of the nodes of the extended Tofts model: Ktrans / ve (1/s), vp / Ktrans (s)."""
LEAST_UPTAKE: Final = 1e-3
"""Least Ktrans / vp of a start, 1/s."""


def _mixed(p: Mapping[str, Any], terms: Any, direct: Any = None) -> tuple[Group, Group]:
    """The same residue for both inputs, each with its share."""

    def group(delay: Any, share: Any, source: int) -> Group:
        own = None if direct is None else share * direct
        return Group(delay, [(share * a, k) for a, k in terms], own, source)

    return group(p["delay"], p["haf"], 0), group(p["delay_portal"], 1.0 - p["haf"], 1)


def _tofts(p: Mapping[str, Any]) -> Terms:
    rate = p["ktrans"] / p["ve"]
    return Terms(_mixed(p, [(p["ktrans"], rate)], p["vp"]), ((1.0, rate),))


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


def _tofts_nodes(search: Search) -> list[Nodes]:
    groups = []
    for kind, (rate, plasma) in enumerate(product(WASHOUTS, PLASMA)):
        # A curve of plasma alone has no rate.
        columns = {"v": plasma, "a1": 1.0, "k1": rate} if np.isfinite(plasma) else {"v": 1.0}
        uptake = float("a1" in columns)
        shape = {"rate": rate, "uptake": uptake, "plasma": columns["v"]}
        for cell, delay in enumerate(map(float, search.delays)):
            artery = Curves(kernel_rows(1, tau=delay, **columns)[:, None])
            portal = _portal_curves(search, **columns)
            groups.append(Nodes(cell, artery, portal, {"delay": delay, **shape}, kind=kind))
    return groups


def _tofts_start(v: Mapping[str, Any], x: Any, y: Any) -> dict[str, Any]:
    size = x + y
    # Something is taken up, or nothing would tell how fast it washes out.
    ktrans = size * larger(v["uptake"], LEAST_UPTAKE * v["plasma"])
    return {
        "ktrans": ktrans,
        "haf": x / size,
        "ve": ktrans / v["rate"],
        "vp": size * v["plasma"],
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


KTRANS_MIXED = replace(KTRANS, role=None, vanishing=True)
VE_TOFTS = replace(VE, needs=(("ktrans",),))
VP_TOFTS = replace(VP, least=0.0, vanishing=True)
KEP_TOFTS = Derived(
    "kep",
    "1/min",
    "rate constant from EES to plasma",
    "Q.PH1.009",
    ("ktrans", "ve"),
    lambda ktrans, ve, hematocrit: ktrans / ve,
    needs=(("ktrans",),),
    over=("ve",),
)
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

DUAL_INPUT_EXTENDED_TOFTS = Model(
    "dual_input_extended_tofts",
    "dual-input extended Tofts",
    "M.IC1.999",
    "Berks et al., J Open Source Softw 6:3523, 2021",
    (KTRANS_MIXED, HAF, VE_TOFTS, VP_TOFTS, SHIFT, SHIFT_PORTAL),
    (KEP_TOFTS,),
    terms=_tofts,
    starts=Recipe(_tofts_nodes, _tofts_start, share="haf", varied="vp"),
    inputs=2,
    profiled="delay_portal",
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
    starts=Recipe(_two_nodes, _two_start, share="haf", varied="vp"),
    inputs=2,
    profiled="haf",
)
