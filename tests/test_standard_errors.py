"""Statistical efficiency: errors near the Cramer-Rao bound, and standard errors that say so."""

from __future__ import annotations

import numpy as np
import pytest

import kety
from cases import TWO_PHASE, Floats, artery
from kety import MODELS, InputFunction, Status, simulate_curves
from kety.fitting.forward import kernel_curves
from kety.models import ROLES

UNIFORM = np.arange(100) * 2.0
VOXELS = 20_000
# Away from bounds: 1/min, fractions, s.
TISSUES = [
    {"ktrans": 0.25, "kep": 0.8, "vb": 0.08, "delay": 3.3},
    {"ktrans": 0.6, "kep": 1.5, "vb": 0.15, "delay": 5.1},
    {"ktrans": 0.12, "kep": 0.4, "vb": 0.05, "delay": 1.7},
    {"ktrans": 0.4, "kep": 2.4, "vb": 0.12, "delay": 7.6},
]
GRIDS = {"two-phase": TWO_PHASE, "uniform": UNIFORM}


def bound(
    truth: dict[str, float],
    times: Floats,
    aif: InputFunction,
    model: str,
    noise: float,
    *,
    baseline: bool = False,
) -> dict[str, float]:
    """Cramer-Rao bound on each standard deviation, in public units."""
    record = MODELS[model]
    values = {n: np.array([v]) for n, v in truth.items()}
    slopes = kernel_curves(aif, times, record.kernel_parameters(values, aif, 1), jacobian=True)[1]
    assert slopes is not None
    columns = [slopes[0][:, ROLES.index(p.role)] * p.kernel_factor(aif) for p in record.parameters]
    if baseline:
        columns.append(np.ones(len(times)))
    j = np.stack(columns, axis=1)
    deviation = noise * np.sqrt(np.diag(np.linalg.inv(j.T @ j)))
    return dict(zip(record.names, deviation, strict=False))


@pytest.mark.parametrize("baseline", [False, True])
@pytest.mark.parametrize("tissue", range(len(TISSUES)))
@pytest.mark.parametrize("grid", list(GRIDS))
@pytest.mark.parametrize("name", ["georgiou", "parker"])
def test_errors_reach_the_bound_and_are_known(
    name: str, grid: str, tissue: int, baseline: bool
) -> None:
    times, truth = GRIDS[grid], TISSUES[tissue]
    aif = artery(name, times[-1] + 5, onset=4.0)
    clean = simulate_curves(truth, times, aif)[0]
    noise = clean.max() / 20
    rng = np.random.default_rng(60 + tissue)
    curves = clean + rng.normal(0.0, noise, (VOXELS, len(times)))
    maps = kety.fit(curves, times, aif, mask=np.ones(VOXELS, bool), baseline=baseline)
    lowest = bound(truth, times, aif, "extended_tofts", noise, baseline=baseline)
    assert (maps.status == Status.CONVERGED).mean() > 0.98
    covered = []
    for parameter, value in truth.items():
        error = maps[parameter].values.astype(float) - value
        assert np.sqrt(np.nanmean(error**2)) <= 1.1 * lowest[parameter], parameter
        known = maps[f"{parameter}_se"].notnull().values
        covered.append(np.mean(np.abs(error[known]) <= maps[f"{parameter}_se"].values[known]))
    assert 0.66 <= np.mean(covered) <= 0.70
