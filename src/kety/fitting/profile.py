"""Where the profile of a quantity crosses a limit of the sum of squares, voxel by voxel.

The distance along a profile is the root of its statistic, about the distance from the best fit in
standard errors, so that it is nearly straight and few steps find where it reaches the limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kety.fitting.constrained import HEAVY, Held, minimise
from kety.fitting.sensitivity import ExactModel
from kety.models import Derived

DOUBLINGS: Final = 12
"""Most doublings of the distance from the estimate in search of the limit."""
CROSSINGS: Final = 16
"""Most steps within a bracket."""
CLOSE: Final = 1e-3
"""Distance from the limit, in standard errors, that is close enough."""

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


class Profiles:
    """Profiles of a block of voxels (V, T), from their best fits."""

    def __init__(
        self,
        model: ExactModel,
        curves: Floats,
        start: Floats,
        unknowns: int,
        level: float,
        statistic: str,
    ) -> None:
        from scipy.stats import chi2, f

        self.model, self.curves, self.statistic = model, curves, statistic
        problem = model.problem
        used = problem.times.size if problem.weights is None else int((problem.weights > 0).sum())
        self.spare, self.frames = used - unknowns, used
        free = np.ones(start.shape, bool)
        best = minimise(model, curves, start, free)
        self.best, self.cost = best.values, np.maximum(best.cost, np.finfo(np.float64).tiny)
        self.limit = float(
            np.sqrt(f.ppf(level, 1, self.spare) if statistic == "f" else chi2.ppf(level, 1))
        )
        self.improved = np.zeros(len(curves), bool)

    def distance(self, cost: Floats, rows: NDArray[np.intp]) -> Floats:
        """Root of the statistic (n,): about the distance in standard errors."""
        best = self.cost[rows]
        self.improved[rows] |= cost < best * (1.0 - 0.01 / self.spare)
        if self.statistic == "f":
            return np.asarray(np.sqrt(np.maximum(cost - best, 0.0) * self.spare / best))
        return np.asarray(np.sqrt(self.frames * np.log(np.maximum(cost / best, 1.0))))

    def interval(self, name: str, error: Floats) -> tuple[Floats, NDArray[np.uint8]]:
        """Limits (2, V) and which of them are open (V,), flags of `OPEN`."""
        quantity = _quantity(self.model, name)
        centre = quantity.value(self.best)
        lower, upper = quantity.bounds
        width = upper - lower if np.isfinite(upper - lower) else np.inf
        usual = 0.1 * np.maximum(np.abs(centre), 1e-3 * min(width, 1.0))
        scale = np.where(np.isfinite(error) & (error > 0), error, usual)
        scale = np.where(np.isfinite(scale), scale, usual)
        count = len(centre)
        # Both sides at once: rows of the lower limits, then of the upper.
        rows = np.tile(np.arange(count), 2)
        side = np.repeat([-1.0, 1.0], count)
        at, is_open = self._cross(quantity, rows, side, centre[rows], scale[rows])
        unknown = ~np.isfinite(centre)[rows]
        at[unknown], is_open[unknown] = np.nan, True
        flags = is_open.reshape(2, count).astype(np.uint8)
        return at.reshape(2, count), flags[0] + 2 * flags[1]

    def _cross(
        self,
        quantity: Quantity,
        rows: NDArray[np.intp],
        side: Floats,
        centre: Floats,
        scale: Floats,
    ) -> tuple[Floats, Flags]:
        """Where each profile (n,) reaches the limit on its side, and whether it does not."""
        lower, upper = quantity.bounds
        edge = np.where(side < 0, lower, upper)
        x = self.best[rows]
        inner, inner_far = centre.copy(), np.zeros(len(rows))
        outer, outer_far = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
        reach = self.limit * scale
        is_open = np.zeros(len(rows), bool)
        running = np.flatnonzero(np.isfinite(centre))
        stuck = running[side[running] * (edge[running] - centre[running]) <= 0]
        is_open[stuck] = True
        running = np.setdiff1d(running, stuck)
        for _ in range(DOUBLINGS):
            if not len(running):
                break
            target = centre[running] + side[running] * reach[running]
            beyond = side[running] * (target - edge[running]) >= 0
            target = np.where(beyond, edge[running], target)
            tried, position, far = self._profile(
                quantity, rows[running], x[running], target, scale[running]
            )
            over = far >= self.limit
            hit, missed = running[over], running[~over]
            outer[hit], outer_far[hit] = position[over], far[over]
            inner[missed], inner_far[missed] = position[~over], far[~over]
            x[missed] = tried[~over]
            at_edge = running[~over & beyond]
            is_open[at_edge] = True
            reach[running] *= 2.0
            running = running[~over & ~beyond]
        is_open[running] = True
        inner[running] = edge[running]  # never reached: its bound, or infinite
        running = np.flatnonzero(np.isfinite(outer))
        at = inner.copy()
        lean = np.zeros(len(rows), np.int64)
        inner_off, outer_off = inner_far - self.limit, outer_far - self.limit
        for _ in range(CROSSINGS):
            if not len(running):
                break
            a, b = inner[running], outer[running]
            fa, fb = inner_off[running], outer_off[running]
            share = np.clip(fa / (fa - np.where(fb > fa, fb, fa + 1.0)), 0.02, 0.98)
            tried, position, far = self._profile(
                quantity, rows[running], x[running], a + share * (b - a), scale[running]
            )
            off = far - self.limit
            at[running] = position
            over = off >= 0
            # Illinois: the end that stays twice counts half.
            out, within = running[over], running[~over]
            outer[out], outer_off[out] = position[over], off[over]
            inner_off[out] = np.where(lean[out] > 0, 0.5 * inner_off[out], inner_off[out])
            inner[within], inner_off[within] = position[~over], off[~over]
            x[within] = tried[~over]
            outer_off[within] = np.where(
                lean[within] < 0, 0.5 * outer_off[within], outer_off[within]
            )
            lean[out], lean[within] = 1, -1
            narrow = np.abs(outer[running] - inner[running]) <= CLOSE * scale[running]
            running = running[(np.abs(off) > CLOSE * self.limit) & ~narrow]
        return at, is_open

    def _profile(
        self,
        quantity: Quantity,
        rows: NDArray[np.intp],
        start: Floats,
        target: Floats,
        scale: Floats,
    ) -> tuple[Floats, Floats, Floats]:
        """Parameters (n, P), the quantity and the distance (n,) of the profile at the targets."""
        free = np.ones(start.shape, bool)
        held = None
        if quantity.index is not None:
            start = start.copy()
            start[:, quantity.index] = target
            free[:, quantity.index] = False
        else:
            noise = self.cost[rows] / self.spare
            held = Held(quantity.value, quantity.slopes, target, HEAVY * noise / scale**2)
        found = minimise(self.model, self.curves[rows], start, free, held)
        return found.values, quantity.value(found.values), self.distance(found.cost, rows)


@dataclass(frozen=True)
class Quantity:
    """A parameter (at ``index``) or a derived quantity as a function of all parameters."""

    model: ExactModel
    index: int | None
    derived: Derived | None
    bounds: tuple[float, float]

    def value(self, values: Floats) -> Floats:
        if self.index is not None:
            return values[:, self.index].copy()
        return self._evaluated(values)[0]

    def slopes(self, values: Floats) -> Floats:
        assert self.derived is not None
        out = np.zeros_like(values)
        for name, slope in zip(self.derived.of, self._evaluated(values)[1], strict=True):
            out[:, self.model.names.index(name)] = slope
        return out

    def _evaluated(self, values: Floats) -> tuple[Floats, tuple[Floats, ...]]:
        assert self.derived is not None
        of = [values[:, self.model.names.index(n)] for n in self.derived.of]
        value, slopes = self.derived.evaluate(of, self.model.problem.aif.hematocrit)
        return np.asarray(value, np.float64), tuple(np.asarray(s, np.float64) for s in slopes)


def _quantity(model: ExactModel, name: str) -> Quantity:
    if name in model.names:
        return Quantity(model, model.names.index(name), None, model.problem.bounds[name])
    derived = next(d for d in model.problem.model.derived if d.name == name)
    return Quantity(model, None, derived, (-np.inf, np.inf))
