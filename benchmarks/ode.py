"""Extended Tofts and two-compartment exchange as differential equations beside the native ones.

python benchmarks/ode.py [voxels]: largest difference of curves and slopes, voxels per second of a
whole fit, and how many voxels end at a higher sum of squares.
"""

from __future__ import annotations

import sys
import time

import numpy as np

import kety
from kety.fitting.problem import make_problem
from kety.fitting.solve import problem_slopes

HCT = 0.42
TIMES = np.concatenate([np.arange(0, 60, 2.0), np.arange(60, 200, 20.0)])
AIF = kety.population_input("parker", 220.0, hematocrit=HCT)


def exchange(t, y, p, c):
    leak = p["ps"] * (y[0] - y[1])
    return (p["fp"] * (c - y[0]) - leak) / p["vp"], leak / p["ve"]


MODELS = {
    "extended_tofts": kety.OdeModel(
        lambda t, y, p, c: p["ktrans"] * c - p["kep"] * y,
        lambda y, p, c: p["vb"] * (1 - HCT) * c + y[0],
        {
            "ktrans": ("1/min", 0, 5),
            "kep": ("1/min", 0, 60),
            "vb": ("mL/mL", 0, 1),
            "delay": ("s", -5, 15),
        },
        1,
        name="extended_tofts_ode",
        scales=("ktrans", "vb"),
    ),
    "2cxm": kety.OdeModel(
        exchange,
        lambda y, p, c: p["vp"] * y[0] + p["ve"] * y[1],
        {
            "fp": ("mL/100mL/min", 1, 200),
            "ps": ("1/min", 0, 2),
            "ve": ("mL/mL", 0.01, 1),
            "vp": ("mL/mL", 0.005, 0.5),
            "delay": ("s", -5, 15),
        },
        2,
        name="2cxm_ode",
        scales=("fp", "ps", "ve", "vp"),
    ),
}
TISSUE = {
    "ktrans": (0.05, 1),
    "kep": (0.1, 5),
    "vb": (0.01, 0.2),
    "fp": (10, 100),
    "ps": (0.02, 0.5),
    "ve": (0.05, 0.5),
    "vp": (0.02, 0.2),
    "delay": (-4, 10),
}


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    random = np.random.default_rng(0)
    for native, ode in MODELS.items():
        values = {n: random.uniform(*TISSUE[n], count) for n in ode.names}
        found = []
        for model in (native, ode):
            problem = make_problem(
                TIMES,
                AIF,
                model,
                delay=True,
                bounds=None,
                weights=None,
                dtype="float64",
                threads=1,
                find_enhancing=False,
            )
            theta, columns = np.zeros((count, problem.size)), []
            for p in problem.parameters:
                columns.append(problem.slot(p.name))
                theta[:, columns[-1]] = values[p.name] * problem.factor(p)
            factors = [problem.factor(p) for p in problem.parameters]
            curves, slopes = problem_slopes(problem, theta)
            found.append((curves, slopes[:, :, columns] * factors))
        (exact, exact_slopes), (curves, slopes) = found
        apart = np.abs(curves - exact).max(axis=1) / np.abs(exact).max(axis=1)
        slope = np.abs(slopes - exact_slopes).max(axis=1) / np.abs(exact_slopes).max(axis=1)
        print(f"{native}: curves {apart.max():.1e}, slopes {slope.max():.1e} of their largest")
        noisy = exact + 0.02 * random.standard_normal(exact.shape)
        bounds = {p.name: p.bounds for p in ode.parameters}
        costs = {}
        for model in (native, ode, ode):  # the second time nothing is compiled
            start = time.perf_counter()
            maps = kety.fit(noisy, TIMES, AIF, model, bounds=bounds, mask=np.ones(count, bool))
            spent = time.perf_counter() - start
            name = maps.attrs["model"]
            print(f"  {name}: {spent:.1f} s, {count / spent:.0f} voxels/s")
            costs[name] = maps.cost.values
        ratio = costs[ode.name] / costs[native]
        worse, better = (ratio > 1 + 1e-4).mean(), (ratio < 1 - 1e-4).mean()
        print(f"  higher sum of squares {100 * worse:.2f} %, lower {100 * better:.2f} %")


if __name__ == "__main__":
    main()
