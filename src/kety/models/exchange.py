"""The exchange models: plasma and interstitium as compartments, and a flow that feeds them.

    vp dcp/dt = Fp (ca - cp) - PS (cp - ce),    ve dce/dt = PS (cp - ce),    C = vp cp + ve ce

(two-compartment exchange: Brix et al., Magn Reson Med 52:420, 2004; Sourbron & Buckley, Phys Med
Biol 57:R1, 2012). Its impulse response is a sum of two exponentials. Where nothing comes back from
the interstitium while it is watched, the slower one is constant (two-compartment uptake: Pradel et
al., Magn Reson Imaging 21:919, 2003; Sourbron & Buckley, 2012).

An initial concentration c0 is that of tissue in which plasma and interstitium are in equilibrium;
in the uptake model it stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kety.models.base import Derived, Group, Model, Parameter, Terms
from kety.models.starts import Nodes, Recipe, Search, pairs_of_rates, values_of
from kety.models.tofts import DELAY
from kety.models.trace import root

FP = Parameter(
    "fp",
    "mL/100mL/min",
    "plasma flow",
    "Q.PH1.002",
    None,
    (0.0, 500.0),
    per="plasma",
    least=1e-3,
    needs=(("fp",),),
)
FP_OVER_TRANSIT = replace(FP, over=("mtt",))
"""Of a model whose ``mtt`` is the transit of the plasma alone: the flow is a volume over it."""
PS = Parameter(
    "ps",
    "1/min",
    "permeability surface area product",
    "Q.PH1.004",
    None,
    (0.0, 5.0),
    per="plasma",
    vanishing=True,
)
VE = Parameter(
    "ve",
    "mL/mL",
    "extravascular extracellular volume fraction",
    "Q.PH1.001.e",
    None,
    (0.0, 1.0),
    per="plasma",
    least=1e-4,
    needs=(("ps",),),
    over=("ve",),
)
VP = Parameter(
    "vp",
    "mL/mL",
    "plasma volume fraction",
    "Q.PH1.001.p",
    None,
    (0.0, 1.0),
    per="plasma",
    least=1e-4,
)
SHIFT = replace(DELAY, role=None, per=None, needs=())


def exchange_rates(p: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """The faster and the slower rate (1/s), and the faster one's share of the flow."""
    plasma, back, flow = (p["fp"] + p["ps"]) / p["vp"], p["ps"] / p["ve"], p["fp"] / p["vp"]
    apart = plasma - back
    # Written as sums of what is not negative: nothing cancels.
    split = root(apart * apart + 4.0 * (p["ps"] / p["vp"]) * back)
    fast = 0.5 * (plasma + back + split)
    slow = flow * back / fast
    return fast, slow, (flow - slow) / (fast - slow)


def _exchange(p: Mapping[str, Any]) -> Terms:
    fast, slow, share = exchange_rates(p)
    first = p["fp"] * share
    # What leaves at first from equilibrium: Fp / (vp + ve).
    gone = (p["fp"] / (p["vp"] + p["ve"]) - slow) / (fast - slow)
    group = Group(p["delay"], ((first, fast), (p["fp"] - first, slow)))
    return Terms((group,), ((gone, fast), (1.0 - gone, slow)))


def _uptake(p: Mapping[str, Any]) -> Terms:
    through = p["fp"] / (p["fp"] + p["ps"])
    first = p["fp"] * through
    group = Group(p["delay"], ((first, (p["fp"] + p["ps"]) / p["vp"]), (p["fp"] - first, 0.0)))
    return Terms((group,), ((1.0, 0.0),))


def exchange_from_rates(x: Any, fast: Any, y: Any, slow: Any) -> dict[str, Any]:
    """fp, ps, ve, vp of the impulse response x exp(-fast t) + y exp(-slow t)."""
    fp = x + y
    flow = (x * fast + y * slow) / fp  # Fp / vp
    back = fast * slow / flow  # PS / ve
    vp = fp / flow
    ps = vp * (fast + slow - back) - fp
    return {"fp": fp, "ps": ps, "ve": ps / back, "vp": vp}


def exchange_inner(p: Mapping[str, Any], shift: float) -> dict[str, Any]:
    """Volume and transit time of the faster term, the slower term, and when the former arrives.

    A fast term is hardly told from a faster and later one of the same volume: that valley, bent in
    the parameters, is straight along the transit time.
    """
    fast, slow, share = exchange_rates(p)
    first = p["fp"] * share
    return {
        "fp": first / fast,
        "ps": 1.0 / fast,
        "ve": p["fp"] - first,
        "vp": slow,
        "delay": p["delay"] + shift / fast,
    }


def exchange_back(q: Mapping[str, Any], shift: float) -> dict[str, Any]:
    fast = 1.0 / q["ps"]
    made = exchange_from_rates(q["fp"] * fast, fast, q["ve"], q["vp"])
    return made | {"delay": q["delay"] - shift * q["ps"]}


def _uptake_inner(p: Mapping[str, Any], shift: float) -> dict[str, Any]:
    fast = (p["fp"] + p["ps"]) / p["vp"]
    share = p["fp"] / (p["fp"] + p["ps"])
    return {
        "fp": p["fp"] * share / fast,
        "ps": p["fp"] * (1.0 - share),
        "vp": 1.0 / fast,
        "delay": p["delay"] + shift / fast,
    }


def _uptake_back(q: Mapping[str, Any], shift: float) -> dict[str, Any]:
    x, y = q["fp"] / q["vp"], q["ps"]
    fp = x + y
    ps = fp * y / x
    return {"fp": fp, "ps": ps, "vp": (fp + ps) * q["vp"], "delay": q["delay"] - shift * q["vp"]}


def _exchange_nodes(search: Search) -> list[Nodes]:
    return pairs_of_rates(search, search.rates)


def _exchange_start(v: Mapping[str, Any], x: Any, y: Any) -> dict[str, Any]:
    return exchange_from_rates(x, v["fast"], y, v["slow"]) | {"delay": v["delay"]}


def _uptake_nodes(search: Search) -> list[Nodes]:
    return pairs_of_rates(search, values_of(0.0))


def _uptake_start(v: Mapping[str, Any], x: Any, y: Any) -> dict[str, Any]:
    fp = x + y
    # x = Fp^2 / (Fp + PS): what is extracted leaves the plasma as fast as what flows through.
    ps = fp * y / x
    return {"fp": fp, "ps": ps, "vp": (fp + ps) / v["fast"], "delay": v["delay"]}


E_SPREAD = Derived(
    "e",
    "1",
    "extraction fraction",
    "Q.PH1.005",
    ("fp", "ps"),
    lambda fp, ps, hematocrit: ps / (ps + fp * 0.01),
    needs=(("fp",),),
)
KTRANS_SPREAD = Derived(
    "ktrans",
    "1/min",
    "volume transfer constant",
    "Q.PH1.008",
    ("fp", "ps"),
    lambda fp, ps, hematocrit: fp * 0.01 * ps / (ps + fp * 0.01),
)
MTT = Derived(
    "mtt",
    "s",
    "mean transit time of plasma and interstitium",
    "Q.PH1.006",
    ("fp", "ve", "vp"),
    lambda fp, ve, vp, hematocrit: 6000.0 * (ve + vp) / fp,
    needs=(("fp",), ("ps",)),
    over=("ve",),
)
MTT_PLASMA = Derived(
    "mtt",
    "s",
    "mean transit time of plasma",
    "Q.PH1.006.p",
    ("fp", "ps", "vp"),
    lambda fp, ps, vp, hematocrit: 60.0 * vp / (ps + fp * 0.01),
)
VB = Derived(
    "vb",
    "mL/mL",
    "blood volume fraction",
    "Q.PH1.001.b",
    ("vp",),
    lambda vp, hematocrit: vp / (1.0 - hematocrit),
)

TWO_COMPARTMENT_EXCHANGE = Model(
    "2cxm",
    "two-compartment exchange",
    "M.IC1.009",
    "Sourbron & Buckley, Phys Med Biol 57:R1, 2012",
    (FP, PS, VE, VP, SHIFT),
    (KTRANS_SPREAD, E_SPREAD, MTT, VB),
    terms=_exchange,
    inner=(exchange_inner, exchange_back),
    starts=Recipe(_exchange_nodes, _exchange_start, exponentials=2),
)
TWO_COMPARTMENT_UPTAKE = Model(
    "2cum",
    "two-compartment uptake",
    "M.IC1.008",
    "Sourbron & Buckley, Phys Med Biol 57:R1, 2012",
    (FP_OVER_TRANSIT, PS, VP, SHIFT),
    (KTRANS_SPREAD, E_SPREAD, MTT_PLASMA, VB),
    terms=_uptake,
    inner=(_uptake_inner, _uptake_back),
    starts=Recipe(_uptake_nodes, _uptake_start, exponentials=1),
)
