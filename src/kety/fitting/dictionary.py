"""The dictionary of (rate x delay) cells in which every voxel's start is found.

A cell holds the curves c(t - tau) and G_k(t - tau) with their Taylor coefficients about its centre,
up to total order 3, projected on the few basis curves that span them. Cells never straddle a jump:
where the input starts above 0, the curves jump whenever a frame meets its first sample, and those
delays are walls between cells.
"""

from __future__ import annotations

from itertools import pairwise
from math import factorial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kety.fitting.pieces import SERIES_REACH, kernel_pieces

if TYPE_CHECKING:
    from kety.inputs import InputFunction

# Order of the Taylor rows of G, as (power of rate, power of delay).
G_ORDERS = tuple((p, q) for q in range(4) for p in range(4 - q))
C_ORDERS = tuple((0, m) for m in range(4))
MAX_RANK = 24
SCAN_RANK = 16
_SMALLEST_ERROR, _LARGEST_ERROR = 3e-5, 1e-3
RANK_TOLERANCE = 2e-4
MAX_WALLS = 22  # with 40 cells at most between them, within the 64 that the core holds
WALL_WIDTH = 4e-6  # relative to the wall's delay: a few steps of float32
BEND_WIDTH = 0.02  # s, over which a bend is looked for
SHARP_BEND = 0.02  # 1/s, change of slope relative to the peak
SMALLEST_JUMP = 5e-3  # of the input at its first sample, relative to the peak
SAME_WALL = 0.03  # s
RATE_SCALE = 0.01  # 1/s: cells are uniform in log(1 + k / RATE_SCALE)
RATE_SPACING = 0.3


def _width_of_bolus(aif: InputFunction) -> float:
    """Full width at half maximum of the input's main peak, s."""
    fine = np.linspace(aif.times[0], aif.times[-1], 2048)
    c = aif(fine)
    top = int(np.argmax(c))
    below = np.flatnonzero(c < 0.5 * c[top])
    left = below[below < top].max(initial=0)
    right = below[below > top].min(initial=len(fine) - 1)
    return float(fine[right] - fine[left])


def _cell_width(aif: InputFunction) -> float:
    """Width of a delay cell that cubic Taylor polynomials bridge, s.

    An eighth of the bolus, or a third of the time scale of its sharpest turn if that is less.
    """
    h = 0.5
    t = np.arange(aif.times[0] + h, aif.times[-1] - h, 0.5 * h)
    turn = np.abs(aif(t + h) - 2 * aif(t) + aif(t - h)).max(initial=0.0) / h**2
    scale = np.sqrt(np.abs(aif.concentration).max() / turn) if turn > 0 else np.inf
    return float(min(_width_of_bolus(aif) / 8, scale / 3))


def _walls(
    aif: InputFunction, times: NDArray[np.float64], lo: float, hi: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Delays at which a frame meets a jump or a sharp bend of the input, and which are jumps.

    The sum of squares jumps or bends there. The strongest `MAX_WALLS` are kept.
    """
    knots = aif.times
    slope = np.diff(aif(np.stack([knots - BEND_WIDTH, knots, knots + BEND_WIDTH])), axis=0)
    bend = np.abs(slope[1] - slope[0]) / BEND_WIDTH
    bend[-1] = 0.0
    peak = np.abs(aif.concentration).max()
    # In a noisy input every sample bends; walls are for the few that stand out.
    sharp = max(SHARP_BEND * peak, 8 * float(np.median(bend)))
    strength = np.where(bend > sharp, bend, 0.0)
    if abs(aif.concentration[0]) > SMALLEST_JUMP * peak:
        strength[0] = np.inf
    bent = np.flatnonzero(strength)
    delays = (times[:, None] - knots[bent]).ravel()
    weight = np.broadcast_to(strength[bent], (len(times), len(bent))).ravel()
    inside = (delays >= lo) & (delays < hi - 1e-4)  # no room for a cell beyond the last
    order = np.lexsort((-weight[inside], delays[inside]))
    delays, weight = delays[inside][order], weight[inside][order]
    if len(delays) == 0:
        return np.array([]), np.array([], dtype=bool)
    # Those that nearly coincide are one wall, at the strongest of them.
    group = np.concatenate([[0], np.cumsum(np.diff(delays) > SAME_WALL)])
    first = np.flatnonzero(np.diff(group, prepend=-1))
    total = np.add.reduceat(weight, first)
    place = np.array([delays[group == g][np.argmax(weight[group == g])] for g in range(len(first))])
    kept = np.sort(np.argsort(-total, kind="stable")[:MAX_WALLS])
    # A bend at the very bound needs no wall; a jump there leaves the bound a cell of its own.
    kept = kept[(place[kept] > lo) | np.isinf(total[kept])]
    return place[kept], np.isinf(total[kept])


def delay_cells(
    aif: InputFunction, times: NDArray[np.float64], lo: float, hi: float
) -> tuple[NDArray[np.float64], NDArray[np.int32], NDArray[np.float64]]:
    """Delay cells and the walls around them.

    Returns
    -------
    cells : (n, 2) array
        Lower and upper edge of each cell, s.
    stretch : (n,) array
        Number of the stretch between walls in which each cell lies.
    band : (n, 2) array
        What the exact solver may cross from there, s: everything up to the next jump.
    """
    if hi <= lo:
        only = np.array([[lo, lo]])
        return only, np.zeros(1, np.int32), only
    walls, jump = _walls(aif, times, lo, hi)
    widest = float(np.clip(_cell_width(aif), (hi - lo) / 40, (hi - lo) / 8))
    # At a jump itself the frame still sees the input; the far side begins just beyond it.
    beyond = walls + np.where(jump, WALL_WIDTH * np.maximum(1.0, np.abs(walls)), 0.0)
    lower, upper = np.append(lo, beyond), np.append(walls, hi)
    first, last = np.append(lo, beyond[jump]), np.append(walls[jump], hi)
    cells: list[tuple[float, float]] = []
    stretch: list[int] = []
    band: list[tuple[float, float]] = []
    for i, (a, b) in enumerate(zip(lower, upper, strict=True)):
        parts = max(1, int(np.ceil((b - a) / widest - 1e-4)))
        edges = a + (b - a) * np.arange(parts + 1) / parts
        cells.extend(pairwise(edges))
        stretch.extend([i] * parts)
        within = int(np.searchsorted(last, b))
        band.extend([(first[within], last[within])] * parts)
    return np.array(cells), np.array(stretch, np.int32), np.array(band)


def rate_cells(lo: float, hi: float) -> NDArray[np.float64]:
    """Edges (n + 1) of the rate cells, 1/s."""
    if hi <= lo:
        return np.array([lo, lo])
    ends = np.log1p(np.array([lo, hi]) / RATE_SCALE)
    parts = max(1, int(np.ceil((ends[1] - ends[0]) / RATE_SPACING)))
    edges = np.expm1(np.linspace(ends[0], ends[1], parts + 1)) * RATE_SCALE
    edges[0], edges[-1] = lo, hi
    return np.asarray(edges)


def curve_basis(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Orthonormal columns (T, rank) that span the unit-scaled rows (n, T)."""
    length = np.linalg.norm(rows, axis=1)
    unit = rows[length > 0] / length[length > 0, None]
    frames = rows.shape[1]
    if frames > 4 * MAX_RANK:  # a sketch finds the span as well and much faster
        sketch = np.random.default_rng(0).standard_normal((len(unit), 2 * MAX_RANK))
        span, _ = np.linalg.qr(unit.T @ (unit @ (unit.T @ sketch)))
    else:
        span = np.eye(frames)
    small = unit @ span
    square, u = np.linalg.eigh(small.T @ small)
    s = np.sqrt(np.maximum(square[::-1], 0))
    u = span @ u[:, ::-1]
    needed = int(np.sum(s > RANK_TOLERANCE * s[0]))
    rank = min(MAX_RANK, 8 * ((needed + 7) // 8))
    basis = np.zeros((frames, rank))
    kept = min(rank, u.shape[1])
    basis[:, :kept] = u[:, :kept]
    return basis


def taylor_rows(
    aif: InputFunction,
    times: NDArray[np.float64],
    delays: NDArray[np.float64],
    rates: NDArray[np.float64],
    earliest: float,
    threads: int,
) -> NDArray[np.float64]:
    """Taylor rows (m, n, 14, T) of c and G in cells of delays (m, 2) and rates (n + 1 edges).

    In units of the cells' half widths, in the order of `C_ORDERS` and `G_ORDERS`. ``earliest`` is
    the smallest delay, s.
    """
    from kety import _native

    centre, half = delays.mean(axis=1), 0.5 * np.diff(delays)[:, 0]
    rate_centre, rate_half = 0.5 * (rates[1:] + rates[:-1]), 0.5 * np.diff(rates)
    m, n, frames = len(centre), len(rate_centre), len(times)
    rows = np.empty((m, n, 14, frames))
    x = (times[None, :] - centre[:, None]).ravel()
    end = float(times[-1] - min(earliest, 0.0))
    pieces = kernel_pieces(aif, max(float(rate_centre[-1]), 1e-3 * SERIES_REACH), end)
    c = np.empty((4, m, frames))
    g = np.empty((n, 4, 4, m, frames))
    _native.taylor_rows(pieces, rate_centre, x, c.reshape(4, -1), g.reshape(n, 4, 4, -1), threads)
    delay_power = [(-half[:, None]) ** q / factorial(q) for q in range(4)]
    for r, (_, q) in enumerate(C_ORDERS):
        rows[:, :, r] = (c[q] * delay_power[q])[:, None]
    for r, (p, q) in enumerate(G_ORDERS):
        rate_power = rate_half**p / factorial(p)
        rows[:, :, 4 + r] = np.moveaxis(
            g[:, p, q] * delay_power[q] * rate_power[:, None, None], 0, 1
        )
    return rows


def build_dictionary(
    aif: InputFunction,
    times: NDArray[np.float64],
    weights: NDArray[np.float64] | None,
    baseline: bool,
    lo: NDArray[np.float64],
    hi: NDArray[np.float64],
    *,
    amplitudes_bounded: bool,
    threads: int,
) -> dict[str, Any]:
    """Tables of the dictionary, as the C++ core reads them (`Dictionary` in dictionary.hpp).

    Parameters
    ----------
    aif : InputFunction
    times : (T,) array
        Frame times, s.
    weights : (T,) array or None
        Weights of the squared residuals.
    baseline : bool
        A constant is fitted along: the dictionary lives in what is orthogonal to it.
    lo, hi : (4,) arrays
        Bounds on v, a, k, tau in kernel units.
    amplitudes_bounded : bool
        Whether the scan honours bounds on amplitudes other than "not negative".
    """
    from kety import _native

    delays, stretch, band = delay_cells(aif, times, lo[3], hi[3])
    rates = rate_cells(lo[2], hi[2])
    delay_centre, delay_half = delays.mean(axis=1), 0.5 * np.diff(delays)[:, 0]
    rate_centre, rate_half = 0.5 * (rates[1:] + rates[:-1]), 0.5 * np.diff(rates)
    m, n = len(delay_centre), len(rate_centre)
    frames = len(times)
    rows = taylor_rows(aif, times, delays, rates, float(lo[3]), threads)
    root = np.ones(frames) if weights is None else np.sqrt(weights)
    rows *= root
    if baseline:
        constant = root / np.linalg.norm(root)
        rows -= (rows @ constant)[..., None] * constant
    use_v = not (hi[0] <= lo[0] and lo[0] == 0)
    spanning = [rows[:, :, 4:7].reshape(-1, frames)]
    if use_v:
        spanning.append(rows[:, 0, 0:2].reshape(-1, frames))
    basis = curve_basis(np.concatenate(spanning))
    rank = basis.shape[1]
    low = rows @ basis  # (m, n, 14, rank)
    scan_rank = min(SCAN_RANK, rank)
    c0, g0 = low[:, 0, 0, :scan_rank], low[:, :, 4, :scan_rank]
    c_norm = np.linalg.norm(c0, axis=-1)
    c_unit = c0 / np.where(c_norm > 0, c_norm, 1.0)[:, None]
    if not use_v:
        c_unit = np.zeros_like(c_unit)
    g_along = np.einsum("mkr,mr->mk", g0, c_unit)
    across = g0 - g_along[..., None] * c_unit[:, None]
    g_across = np.linalg.norm(across, axis=-1)
    g_unit = across / np.where(g_across > 0, g_across, 1.0)[..., None]
    table = np.zeros((m, n, rank, 16))
    table[..., :14] = np.moveaxis(low, 2, 3)
    basis = basis * root[:, None]
    f32 = np.float32
    return {
        "delays": m,
        "rates": n,
        "rank": rank,
        "scan_rank": scan_rank,
        "delay_centre": delay_centre.astype(f32),
        "delay_half": delay_half.astype(f32),
        "band_lo": np.ascontiguousarray(band[:, 0]),
        "band_hi": np.ascontiguousarray(band[:, 1]),
        "band": stretch,
        "rate_centre": rate_centre.astype(f32),
        "rate_half": rate_half.astype(f32),
        "c_unit": c_unit.astype(f32),
        "c_norm": c_norm.astype(f32),
        "g_unit": g_unit.astype(f32),
        "g_along": g_along.astype(f32),
        "g_across": g_across.astype(f32),
        "table": table.astype(f32),
        "curves": np.ascontiguousarray(low, dtype=f32),
        "poly": _gram_polynomials(low, _native.GRAM_DEGREE).astype(f32),
        "basis": np.ascontiguousarray(basis, dtype=f32),
        "later": 0.25 * _width_of_bolus(aif),
        "error": _squared_error(low, stretch, use_v),
        "use_v": use_v,
        "plain": not amplitudes_bounded,
    }


def _squared_error(low: NDArray[np.float64], stretch: NDArray[np.int32], use_v: bool) -> float:
    """Squared error of the cells' curves relative to their squares.

    Where two cells meet their curves should too: half the gap is the error of each. Smooth inputs
    give next to nothing, kinks in the input more.
    """
    gaps = [_SMALLEST_ERROR]
    for rows, first in ((slice(0, 4), 0), (slice(4, 14), 4)):
        if first == 0 and not use_v:
            continue
        part = low[:, :, rows]
        orders = C_ORDERS if first == 0 else G_ORDERS
        for axis, power in ((0, 1), (1, 0)):
            along = [r for r, pq in enumerate(orders) if pq[1 - power] == 0]
            degree = [orders[r][power] for r in along]
            upper = part[:, :, along].sum(axis=2)
            lower = (part[:, :, along] * (-1.0) ** np.array(degree)[:, None]).sum(axis=2)
            if axis == 0:
                same = stretch[1:] == stretch[:-1]
                a, b = upper[:-1][same], lower[1:][same]
            else:
                a, b = upper[:, :-1], lower[:, 1:]
            square = 0.5 * ((a**2).sum(-1) + (b**2).sum(-1))
            if square.size and square.max() > 0:
                gap = 0.25 * ((a - b) ** 2).sum(-1)
                known = square > 1e-6 * square.max()
                gaps.append(float(np.percentile(gap[known] / square[known], 90)))
    return min(max(gaps), _LARGEST_ERROR)


def _gram_polynomials(low: NDArray[np.float64], degree: int) -> NDArray[np.float64]:
    """Polynomials of c.c, c.G and G.G in a cell, cut after total order `degree`."""
    m, n = low.shape[:2]
    powers = [(p, q) for q in range(degree + 1) for p in range(degree + 1 - q)]
    slot = {pq: r for r, pq in enumerate(powers)}
    out = np.zeros((m, n, degree + 1 + 2 * len(powers)))
    products = low @ low.swapaxes(2, 3)
    orders = [*C_ORDERS, *G_ORDERS]
    for a, (p1, q1) in enumerate(orders):
        for b, (p2, q2) in enumerate(orders):
            p, q = p1 + p2, q1 + q2
            if p + q > degree or (a >= 4 and b < 4):
                continue
            at = q if b < 4 else degree + 1 + slot[p, q] + (len(powers) if a >= 4 else 0)
            out[:, :, at] += products[:, :, a, b]
    return out
