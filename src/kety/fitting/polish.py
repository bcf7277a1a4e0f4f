"""The exact solution from given starts, with some parameters held if asked for.

What refits many curves near a known solution uses this in place of a whole fit: resampled curves,
profiles of the likelihood, neighbouring models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError
from kety.fitting.engine import TOO_WIDE, KernelFit, packed
from kety.fitting.optimizers.varprolm import VarProLM
from kety.fitting.pairs import Starts
from kety.fitting.problem import Problem
from kety.fitting.status import Status
from kety.fitting.terms import solve_from, terms_kernel


def polish(
    problem: Problem,
    curves: ArrayLike,
    start: NDArray[np.floating],
    held: Sequence[str] = (),
    options: VarProLM | None = None,
) -> KernelFit:
    """Bounded Levenberg-Marquardt from one start for each voxel.

    Parameters
    ----------
    problem : Problem
    curves : (V, T) array
    start : (V, P) array
        The solver's quantities, as `KernelFit` holds them; values outside the bounds are brought to
        them, those of ``held`` parameters are taken as they are.
    held : sequence of str
        Names of parameters that stay where they start.
    options : VarProLM, optional

    Returns
    -------
    KernelFit
        As of a whole fit. A voxel whose curve or start is not finite has the status not finite.

    Raises
    ------
    KetyError
        For shapes that do not fit, or a held name that the problem does not have.

    Notes
    -----
    The delay stays between the jumps of the input next to its start.
    """
    data, theta = np.asarray(curves), np.array(start, dtype=np.float64)
    if theta.shape != (len(data), problem.size) or data.shape[1:] != problem.times.shape:
        raise KetyError(
            f"polish needs curves (V, {len(problem.times)}) and starts (V, {problem.size}), found "
            f"{data.shape} and {theta.shape}"
        )
    names = [p.name for p in problem.parameters]
    unknown = sorted(set(held) - set(names))
    if unknown:
        raise KetyError(f"{unknown[0]} cannot be held: the parameters are {', '.join(names)}")
    if problem.by_ode:
        from kety.fitting.ode_fit import polish_ode

        return polish_ode(problem, data, theta, held, options or VarProLM())
    columns = [problem.slot(name) for name in names]
    by_terms = replace(problem, as_terms=True)
    kernel = terms_kernel(by_terms, held)
    lo, hi = by_terms.kernel_bounds()
    own = theta[:, columns]
    known = np.asarray(np.isfinite(own).all(axis=1))
    own = np.where(known[:, None], own, 0.5 * (lo + hi))
    free = np.array([name not in held for name in names])
    own[:, free] = np.clip(own[:, free], lo[free], hi[free])
    curves_known = np.where(known[:, None], data, np.nan)
    own = np.ascontiguousarray(own)
    starts = Starts(np.arange(len(own) + 1, dtype=np.int64), own, kernel.bands_at(own))
    result = solve_from(
        kernel,
        options or VarProLM(),
        curves_known,
        starts,
        problem.dtype,
        [names.index(name) for name in held],
    )
    result.status[result.status == TOO_WIDE] = Status.NOT_IDENTIFIABLE
    return result if problem.by_terms else _in_slots(result, columns, problem.size)


def _in_slots(result: KernelFit, columns: Sequence[int], size: int) -> KernelFit:
    """Results in the order of the model's parameters as the solver of one term holds them."""
    count = len(result.cost)
    parameters = np.zeros((count, size), result.parameters.dtype)
    parameters[:, columns] = result.parameters
    covariance = np.full((count, size * (size + 1) // 2), np.nan, result.covariance.dtype)
    undetermined = np.zeros(count, np.uint8)
    for i, a in enumerate(columns):
        undetermined |= ((result.undetermined >> i) & 1) << a
        for j, b in enumerate(columns[: i + 1]):
            covariance[:, packed(a, b)] = result.covariance[:, packed(i, j)]
    return replace(result, parameters=parameters, covariance=covariance, undetermined=undetermined)
