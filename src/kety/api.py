"""`kety.fit`: curves in, an `xarray.Dataset` of maps out."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from kety.errors import KetyError
from kety.fitting.direct import prepare_search
from kety.fitting.discretize import Discretization, get_discretization
from kety.fitting.engine import Solve, available_threads, no_fit, place
from kety.fitting.maps import empty_maps, map_attributes, store, to_dataset
from kety.fitting.onset import prepare_by_onset
from kety.fitting.optimizers import NelderMead, Optimizer, VarProLM, get_optimizer
from kety.fitting.placement import placed
from kety.fitting.problem import Problem, make_problem
from kety.fitting.solve import prepare
from kety.joint.maps import attributes as joint_attributes
from kety.joint.options import Joint, get_joint
from kety.jointly import check_joint, fit_jointly
from kety.models import Model
from kety.progress import Progress, reporter, teller
from kety.voxels import voxels_of

if TYPE_CHECKING:
    import xarray

    from kety.inputs import InputFunction

BLOCK = 1 << 16
"""Voxels solved between two reports of progress; bounds the working memory."""
FIRST_BLOCK, BLOCK_SECONDS = 64, 1.0
"""Searches are slow: their blocks start small and grow until each takes about that long."""
BLOCK_ON_CARD, FIRST_BLOCK_ON_CARD = 1 << 20, 1 << 13
"""The same on a card, which streams a block through its memory in chunks."""


def fit(
    curves: ArrayLike,
    times: ArrayLike,
    aif: InputFunction,
    model: str | Model | Sequence[str | Model] = "extended_tofts",
    *,
    select: str | None = None,
    delay: bool | float | str = True,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    mask: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    optimizer: str | VarProLM | Optimizer | None = None,
    discretization: str | Discretization = "exact",
    joint: str | Joint | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    threads: int | None = None,
    progress: bool | Progress = False,
    fitted: bool = False,
    baseline: bool = False,
    autocorrelation: bool = False,
    portal: InputFunction | None = None,
    initial: bool | float = False,
) -> xarray.Dataset:
    """Estimate a model's parameters in every voxel, with standard errors and a status.

    Parameters
    ----------
    curves : array (..., T)
        Contrast concentration (mM) or enhancement (HU above baseline), in the unit of the input.
        Integers, any strides and Fortran order are accepted.
    times : (T,) array, or (Z, T)
        Frame times, s, strictly increasing, on any grid; or a row of them for each slice, the
        curves' last axis but one, where slices have times of their own (`Series.slice_times`).
    aif : InputFunction
        Arterial input; it must cover the frames.
    model : str or Model, or sequence of these
        Name in `kety.MODELS`, such as ``"tofts"``, ``"extended_tofts"`` or ``"patlak"``, or a model
        of one's own (`kety.OdeModel`); or several of them, between which ``select`` chooses in
        every voxel.
    select : {"aicc", "bic", "aic"}, optional
        How to choose between several models: by Akaike's information criterion, corrected for few
        frames (``"aicc"``, the one to take where in doubt) or not, or by the Bayesian one. Only
        with several models, which cannot be estimated jointly.
    delay : bool, float or "onset"
        True fits the delay within its bounds, False fixes it at 0, a number (s) fixes it there.
        ``"onset"`` sets it in every voxel from the slope of the curve's rise, to a tenth of a
        second (`kety.signal.onset_delay`), and fixes it: less accurate than fitting it.
    bounds : mapping of str to (float, float), optional
        Bounds of free parameters in their public unit, honoured exactly; equal bounds fix one.
    mask : bool array (...), optional
        Voxels to fit. Without it every voxel is tried and those that do not enhance beyond their
        noise get the status ``not_enhancing`` and NaN.
    weights : (T,) array, optional
        Weights of the squared residuals, the same for all voxels.
    optimizer : str or record, optional
        ``"varprolm"``, ``"nelder_mead"``, ``"differential_evolution"``, ``"sqp"``,
        ``"pattern_search"`` or ``"simulated_annealing"``, or a record of options such as
        ``kety.NelderMead.preset("paper")``. Left out: `VarProLM` for the exact discretization,
        which alone it solves, and `NelderMead` for the others.
    discretization : {"exact", "iir", "fir"} or Discretization
        How the model is evaluated; see `kety.Discretization`, which also sets the processing rate
        and the delay filter.
    joint : str or Joint, optional
        Estimate all voxels together, each drawn to those that are like it: ``"graph"`` (near in
        space, their curves alike within the noise), ``"temporal"`` or ``"spatial"`` (the multi-task
        paper's), or a record of options, see `kety.Joint`. The default solver's voxelwise estimate
        comes first and stays beside it.
    device : {"cpu", "cuda", "auto"}
        Where to compute: on the processor, on an NVIDIA card, or on a card where there is one. The
        attribute ``device`` of the result says which it was and, of ``"auto"`` without a card, why.
        Cards serve the default solver, native Nelder-Mead and differential evolution, and all
        models but those of differential equations; see `docs/gpu.md`.
    dtype : {"float32", "float64"}
        Precision of arithmetic and maps.
    threads : int, optional
        Number of threads; all processors of the process where left out.
    progress : bool or callable
        True shows voxels per second and time left on stderr; a callable is given
        (voxels done, voxels in all) after each block.
    fitted : bool
        Also return ``fitted`` and ``residual`` (..., T).
    baseline : bool
        Also fit a constant of every voxel, returned as ``baseline`` with its error. Use it where
        the curves had their mean before arrival subtracted (CT): the noise of that mean is common
        to all frames of a voxel, and standard errors that ignore it are too small. The series must
        begin before the contrast arrives.
    autocorrelation : bool
        Also return ``residual_autocorrelation``, the correlation of a residual with the next
        frame's, with the mean and the standard deviation that it has by chance
        (``..._mean``, ``..._sd``; `kety.residuals`). Not of a joint estimate, nor of a discretized
        model.
    portal : InputFunction, optional
        The portal vein's input, for the models with two inputs.
    initial : bool or float
        Tissue concentration at the first frame, where a series starts with contrast agent in the
        tissue: True fits it (map ``c0``), a number (unit of the curves) sets it.

    Returns
    -------
    xarray.Dataset
        For every free or derived parameter its map and ``<name>_se``, then ``cost`` (unweighted
        sum of squared residuals), ``r2``, ``evaluations`` and ``status``; see `kety.Status`. The
        attribute ``interrupted`` is 1 where the fit was stopped by Ctrl-C; voxels not reached then
        have the status ``outside``, and a joint estimate that was not finished is left out.

        A joint estimate also has ``<name>_voxelwise`` and ``<name>_voxelwise_se`` of every
        parameter, ``cost_voxelwise`` and ``status_voxelwise``; ``moved``, how far each voxel went
        from its own estimate in standard errors of that; ``pooled``, the number of voxels whose
        data stand behind it; and attributes ``joint_...``: the strength, the error of predicting
        left-out frames with it and without, the effective number of parameters.

        A choice between models has ``chosen``, a CF flag map of the models, of voxels that none of
        them finds to enhance and of voxels without any; ``weight``, the weight of the chosen model
        (its probability to be the best of them, by the criterion), and ``weight_<model>`` of each;
        the parameters of all models, NaN where the chosen one lacks them; and cost, r2,
        evaluations and status of the chosen fit. A fit that did not converge takes no part. See
        `kety.selection` for the formulas.

    Raises
    ------
    KetyError
        For arguments that do not fit together, or for ``device="cuda"`` without a card that can be
        used; the message says what was found and expected.

    Notes
    -----
    Standard errors are those of nonlinear least squares, ``s^2 (J'J)^-1`` with
    ``s^2 = cost / (T - free parameters)``; along the parameter that a model names as ``profiled``,
    those of its profile likelihood. A parameter at its bound has none (NaN). Those of a
    joint estimate are its own: those of the posterior, which allow for noise and, on the average
    over voxels, for the bias of smoothing; ``moved`` shows where there is more of it.
    """
    given: dict[str, Any] = {
        "delay": delay,
        "bounds": bounds,
        "mask": mask,
        "weights": weights,
        "optimizer": optimizer,
        "discretization": discretization,
        "joint": joint,
        "dtype": dtype,
        "threads": threads,
        "progress": progress,
        "fitted": fitted,
        "baseline": baseline,
        "autocorrelation": autocorrelation,
        "portal": portal,
        "initial": initial,
        "device": device,
    }
    if np.ndim(times) == 2:
        from kety.slicewise import fit_slices

        return fit_slices(curves, times, aif, model, select=select, **given)
    if select is not None or (isinstance(model, Sequence) and not isinstance(model, str)):
        return _chosen_between(curves, times, aif, model, select, **given)
    together = get_joint(joint)
    choice = get_discretization(discretization)
    options = _chosen_optimizer(optimizer, choice)
    if together is not None:
        check_joint(options, delay)
    if autocorrelation and (together is not None or choice != Discretization()):
        raise KetyError(
            "the residual autocorrelation is of voxelwise estimates with the exact model; leave "
            "joint and discretization out, or autocorrelation"
        )
    by_onset = isinstance(delay, str)
    if isinstance(delay, str) and delay != "onset":
        raise KetyError(f"delay must be True, False, a number of s or 'onset', found {delay!r}")
    count = available_threads() if threads is None else threads
    if not isinstance(count, int) or count < 1:
        raise KetyError(f"threads must be a whole number, at least 1, found {threads!r}")
    problem = make_problem(
        times,
        aif,
        model,
        delay=True if isinstance(delay, str) else delay,
        bounds=bounds,
        weights=weights,
        dtype=dtype,
        threads=count,
        find_enhancing=mask is None,
        baseline=baseline,
        portal=portal,
        initial=initial,
    )
    if problem.by_terms:
        _check_terms(problem, options)
    problem, where = placed(problem, options, device)
    image = voxels_of(curves, len(problem.times), mask)
    voxels, chosen, shape, order = image.curves, image.rows, image.shape, image.order
    total = len(voxels) if chosen is None else len(chosen)
    quick = isinstance(options, VarProLM)
    counts = np.uint16 if quick else np.uint32
    flat = empty_maps(problem, len(voxels), fitted and together is None, counts)
    whole = no_fit(problem, total) if together is not None else None

    def solver(one: Problem) -> Solve:
        if isinstance(options, VarProLM):
            return prepare(one, options)
        return prepare_search(one, options, choice, fitted=fitted)

    solve = prepare_by_onset(problem, solver) if by_onset else solver(problem)
    report = reporter(progress, total)
    interrupted = False
    start = done = 0
    largest, first = BLOCK, FIRST_BLOCK
    if problem.card is not None:
        largest, first = BLOCK_ON_CARD, FIRST_BLOCK_ON_CARD
    size = largest if quick else first
    # One block's maps are made while the next block is solved.
    with ThreadPoolExecutor(max_workers=1) as finisher:
        pending: tuple[int, Future[None]] | None = None
        try:
            while start < total:
                stop = min(start + size, total)
                part: Any = slice(start, stop) if chosen is None else chosen[start:stop]
                block = voxels[part]
                began = time.perf_counter()
                result = solve(block)
                if not quick:
                    fitting = size * BLOCK_SECONDS / max(time.perf_counter() - began, 1e-6)
                    size = int(np.clip(fitting, max(1, size // 4), min(4 * size, largest)))
                if pending is not None:
                    pending[1].result()
                    done += pending[0]
                    pending = None
                    report(done, total)
                if whole is not None:
                    place(whole, np.arange(start, stop), result)
                kept = block if fitted and together is None else None
                future = finisher.submit(store, flat, part, problem, result, kept)
                pending = len(block), future
                start = stop
        except KeyboardInterrupt:
            interrupted = True
        if pending is not None:
            pending[1].result()
            done += pending[0]
            with suppress(KeyboardInterrupt):
                report(done, total)
        report(-1, total)
    attributes = map_attributes(problem.model)
    facts: dict[str, Any] = {}
    if together is not None and whole is not None and not interrupted:
        try:
            flat, facts = fit_jointly(
                problem,
                together,
                options,
                voxels,
                chosen,
                shape,
                order,
                whole,
                flat,
                fitted,
                teller(progress),
            )
            attributes = joint_attributes(attributes)
        except KeyboardInterrupt:
            interrupted = True
    maps = to_dataset(
        problem,
        flat,
        shape,
        order,
        interrupted,
        done,
        options,
        choice,
        "set from the onset" if by_onset else "",
        attributes,
        facts,
    )
    maps.attrs["device"] = where
    if autocorrelation:
        from kety.residuals import residual_autocorrelation

        maps = maps.assign(residual_autocorrelation(maps, curves, problem))
    return maps


def _chosen_between(
    curves: ArrayLike,
    times: ArrayLike,
    aif: InputFunction,
    models: str | Model | Sequence[str | Model],
    select: str | None,
    *,
    joint: str | Joint | None,
    **options: Any,
) -> xarray.Dataset:
    """The fit of several models."""
    from kety.selection import fit_several

    if isinstance(models, str | Model):
        alone = models if isinstance(models, str) else models.name
        raise KetyError(
            f"select={select!r} chooses between models, found {alone!r} alone; give several "
            "models, or leave select out"
        )
    if joint is not None:
        raise KetyError(
            "joint estimation is of one model, found several; choose between them voxel by voxel "
            "first, or give one model"
        )
    return fit_several(curves, times, aif, models, select, **options)


def _check_terms(problem: Problem, options: VarProLM | Optimizer) -> None:
    what = problem.model.name + (" with an initial concentration" if problem.initial else "")
    if not isinstance(options, VarProLM):
        raise KetyError(
            f"{type(options).__name__} and discretizations serve models of one exponential, found "
            f"{what}; leave optimizer and discretization out"
        )


def _chosen_optimizer(
    value: str | VarProLM | Optimizer | None, choice: Discretization
) -> VarProLM | Optimizer:
    """The optimizer asked for, or the one that suits the discretization."""
    plain = choice == Discretization()
    if value is None and not plain:
        return NelderMead()
    options = get_optimizer(value)
    if isinstance(options, VarProLM) and not plain:
        raise KetyError(
            "varprolm solves the exact model at the frames as measured, found discretization "
            f"{choice.kind!r} at {choice.grid_rate or 0:g} Hz with delay filter {choice.filter!r}; "
            "choose another optimizer, e.g. 'nelder_mead', or leave rate and delay filter out"
        )
    return options
