"""The adiabatic approximation to the tissue homogeneity model: plug flow through a capillary.

    R(t) = 1 for t < T,  E exp(-E Fp (t - T) / ve) for t >= T,   C = Fp ca * R,
    T = vp / Fp,  E = 1 - exp(-PS / Fp)

(St Lawrence & Lee, J Cereb Blood Flow Metab 18:1365, 1998). Contrast agent crosses the capillary in
the time T; a fraction E of it passes into the interstitium, from which it is washed out. A box is
the difference of two integrals of the input, so the model is three terms of the kernel at two
delays. An initial concentration c0 is that of the interstitium.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from kety.models.base import Derived, Group, Model, Terms
from kety.models.exchange import FP_OVER_TRANSIT, PS, SHIFT, VB, VE, VP
from kety.models.starts import Curves, Nodes, Recipe, Search, exponentials, kernel_rows
from kety.models.trace import exponential, larger, root

TRANSITS: Final = (1.0, 2.0, 4.0, 7.0, 12.0, 20.0, 32.0, 46.0, 62.0, 80.0, 110.0)
"""Capillary transit times of the nodes, s."""


def _extraction(p: Mapping[str, Any]) -> Any:
    return 1.0 - exponential(0.0 - p["ps"] / p["fp"])


def _terms(p: Mapping[str, Any]) -> Terms:
    fp, transit, e = p["fp"], p["vp"] / p["fp"], _extraction(p)
    back = e * fp / p["ve"]
    early = Group(p["delay"], ((fp, 0.0),))
    late = Group(p["delay"] + transit, ((0.0 - fp, 0.0), (e * fp, back)))
    return Terms((early, late), ((1.0, back),))


def _nodes(search: Search) -> list[Nodes]:
    groups = []
    for kind, transit in enumerate(TRANSITS):
        for cell, delay in enumerate(map(float, search.delays)):
            box = np.stack(
                [
                    kernel_rows(1, a1=1.0, tau=delay),
                    kernel_rows(1, a1=-1.0, tau=delay + transit),
                ],
                axis=1,
            )
            groups.append(
                Nodes(
                    cell,
                    Curves(box, inputs=(0, 0)),
                    exponentials(search.rates, delay + transit, "back"),
                    {"delay": delay, "transit": transit},
                    kind=kind,
                )
            )
    return groups


def _log_lost(left: Any) -> Any:
    """-ln of what is left, 0.02 to 1, to 2e-4: arithmetic alone, as `Recipe.start` should be."""
    u = root(root(left))
    z = (1.0 - u) / (1.0 + u)
    square = z * z
    return 8.0 * z * (1.0 + square * (1 / 3 + square * (1 / 5 + square / 7)))


def _start(v: Mapping[str, Any], x: Any, y: Any) -> dict[str, Any]:
    e = larger(0.0 - larger(0.0 - y / x, -0.98), 0.01)
    return {
        "fp": x,
        "ps": x * _log_lost(1.0 - e),
        "ve": e * x / v["back"],
        "vp": x * v["transit"],
        "delay": v["delay"],
    }


E_PLUG = Derived(
    "e",
    "1",
    "extraction fraction",
    "Q.PH1.005",
    ("fp", "ps"),
    lambda fp, ps, hematocrit: 1.0 - exponential(0.0 - ps / (fp * 0.01)),
    needs=(("fp",),),
)
KTRANS_PLUG = Derived(
    "ktrans",
    "1/min",
    "volume transfer constant",
    "Q.PH1.008",
    ("fp", "ps"),
    lambda fp, ps, hematocrit: fp * 0.01 * (1.0 - exponential(0.0 - ps / (fp * 0.01))),
)
MTT_CAPILLARY = Derived(
    "mtt",
    "s",
    "capillary transit time",
    "Q.PH1.006.p",
    ("fp", "vp"),
    lambda fp, vp, hematocrit: 6000.0 * vp / fp,
    needs=(("fp",),),
)

TISSUE_HOMOGENEITY = Model(
    "aath",
    "adiabatic approximation to tissue homogeneity",
    "M.IC1.010",
    "St Lawrence & Lee, J Cereb Blood Flow Metab 18:1365, 1998",
    (FP_OVER_TRANSIT, PS, VE, VP, SHIFT),
    (KTRANS_PLUG, E_PLUG, MTT_CAPILLARY, VB),
    terms=_terms,
    starts=Recipe(_nodes, _start),
    profiled="delay",
)
