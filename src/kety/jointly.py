"""Joint estimation behind `kety.fit`: from voxelwise solutions to joint maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kety.errors import KetyError
from kety.fitting.engine import KernelFit, rows_of
from kety.fitting.maps import empty_maps, store
from kety.fitting.optimizers import Optimizer, VarProLM
from kety.fitting.problem import Problem
from kety.fitting.solve import prepare
from kety.joint.options import Joint
from kety.voxels import AboveLevel

BLOCK = 1 << 16
"""Voxels whose maps are made at a time."""


def fit_jointly(
    problem: Problem,
    joint: Joint,
    options: VarProLM | Optimizer,
    voxels: NDArray[Any] | AboveLevel,
    chosen: NDArray[np.intp] | None,
    shape: tuple[int, ...],
    order: Any,
    single: KernelFit,
    voxelwise: dict[str, NDArray[Any]],
    fitted: bool,
    tell: Callable[[str], None],
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Flat maps of the joint estimate with the voxelwise ones beside it, and what it says of
    itself."""
    from kety.joint.estimate import estimate_jointly
    from kety.joint.graph import places
    from kety.joint.maps import facts, voxelwise_maps

    assert isinstance(options, VarProLM)
    record = options
    rows = np.arange(len(voxels)) if chosen is None else chosen
    # In one dimension the order of voxels says nothing of where they are.
    where = places(shape, rows, order) if len(shape) > 1 else None
    curves = np.asarray(voxels) if chosen is None else voxels[chosen]
    if order == "F" and not isinstance(joint.similarity, str):
        joint = _in_memory_order(joint, rows, shape)
    found = estimate_jointly(
        problem, joint, lambda one: prepare(one, record), curves, single, where, tell
    )
    tell("")
    flat = empty_maps(problem, len(voxels), fitted)
    for first in range(0, len(rows), BLOCK):
        part = slice(first, first + BLOCK)
        kept = np.asarray(curves[part]) if fitted else None
        store(flat, rows[part], problem, rows_of(found.fit, part), kept)
    names = (*(p.name for p in problem.parameters), *(d.name for d in problem.model.derived))
    flat |= voxelwise_maps(voxelwise, names)
    for name, values in (("moved", found.moved), ("pooled", found.pooled)):
        flat[name] = np.full(len(voxels), np.nan, problem.dtype)
        flat[name][rows] = values
    return flat, facts(joint, found)


def _in_memory_order(joint: Joint, rows: NDArray[np.intp], shape: tuple[int, ...]) -> Joint:
    """The record with its matrix for voxels as they lie in memory, not as an image lists them."""
    from kety.joint.graph import graph_of

    listed = np.ravel_multi_index(np.unravel_index(rows, shape, order="F"), shape)
    place = np.empty(len(rows), dtype=np.intp)
    place[np.argsort(listed)] = np.arange(len(rows))
    matrix = graph_of(joint.similarity).matrix()
    if matrix.shape[0] != len(rows):
        return joint  # refused with its size
    return replace(joint, similarity=matrix[place][:, place])


def check_joint(options: VarProLM | Optimizer, delay: bool | float | str) -> None:
    """KetyError where joint estimation does not serve the optimizer or the way to the delay."""
    if not isinstance(options, VarProLM):
        raise KetyError(
            "joint estimation is by the default solver, found optimizer "
            f"{type(options).__name__}; leave optimizer and discretization out"
        )
    if isinstance(delay, str):
        raise KetyError(
            f"joint estimation fits the delay or holds it at one value, found delay {delay!r}; "
            "give True, False or a number of s"
        )
