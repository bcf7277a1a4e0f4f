"""The search for clusters of agreeing voxels, voxel by voxel."""

from __future__ import annotations

from typing import Any

import numpy as np


def naive_drop(curve: Any, times: Any, start: int) -> float:
    """How far the highest two frames in a row lie above the mean 25 to 100 s after them."""
    best, at = -np.inf, 0.0
    for i in range(start - 1, curve.size - 1):
        middle = 0.5 * (times[i] + times[i + 1])
        if middle <= times[start - 1] + 60.0 and 0.5 * (curve[i] + curve[i + 1]) > best:
            best, at = 0.5 * (curve[i] + curve[i + 1]), middle
    late = [c for t, c in zip(times, curve, strict=True) if at + 25.0 <= t < at + 100.0]
    return float(best - np.mean(late))


def naive_clusters(pool: Any, order: Any) -> list[list[int]]:
    """Members of every cluster, by a flood from the seed over neighbours that are alike."""
    curves = [curve - curve.mean() for curve in pool.curves]
    frames = len(curves[0])
    number = {tuple(place): row for row, place in enumerate(pool.places.tolist())}
    steps = [(i, j, k) for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)]
    beside = [
        [
            number[near]
            for step in steps
            if any(step) and (near := tuple(np.add(place, step).tolist())) in number
        ]
        for place in pool.places.tolist()
    ]
    free = [True] * len(curves)
    found: list[list[int]] = []
    for seed in order.tolist():
        if not free[seed]:
            continue
        free_before = [row for row in beside[seed] if free[row]]
        free[seed] = False
        members = [
            row
            for row in (*free_before, seed)
            if np.corrcoef(curves[row], curves[seed])[0, 1] > 0.5
        ]
        for _ in range(4):
            if len(members) < 3:
                break
            mean = np.mean([curves[row] for row in members], axis=0)
            size = mean @ mean

            def alike(row: int, mean: Any = mean, size: Any = size, seed: int = seed) -> bool:
                height = curves[row] @ mean / size
                rest = np.sum((curves[row] - height * mean) ** 2) / (frames - 1)
                allowed = pool.noise[row] ** 2 * (1.0 + 3.0 * np.sqrt(2.0 / frames))
                allowed += height**2 * 0.04 * size / frames
                return bool(rest <= allowed and 0.4 < height < 2.5 and (free[row] or row == seed))

            if not alike(seed):
                members = []
                break
            reached, waiting = {seed}, [seed]
            while waiting:
                for near in beside[waiting.pop()]:
                    if near not in reached and alike(near):
                        reached.add(near)
                        waiting.append(near)
            members = sorted(reached)
        if len(members) >= 3:
            found.append(members)
            for row in members:
                free[row] = False
        if len(found) == 30:
            break
    return found
