"""Numbers behind the verdict: residuals of a sample, and the checks.

Each check looks at one way in which maps mislead and says what it found in words. The limits are
conventions, set where a reader should look twice; none changes a map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kety.fitting.status import Status
from kety.report.blocks import Finding, Level
from kety.report.content import Study
from kety.report.joint_check import joint_findings
from kety.report.misfit import Misfit, misfit, misfit_findings
from kety.report.numbers import number, percent
from kety.report.precision import SECONDS, Precision

_SAMPLE = 1000


@dataclass(frozen=True)
class Residuals:
    """Residuals of a random sample of fitted voxels.

    Attributes
    ----------
    values
        (V, T) measured minus fitted, in the curves' unit.
    rms
        Median over the voxels of the root-mean-square residual.
    memory
        Mean correlation of a residual with the next frame's; near or slightly below 0 for noise.
    shared
        Root-mean-square over frames of the mean normalised residual: the part that every voxel
        has in common, 0 for noise and 1 where all residuals are alike.
    expected
        What ``shared`` would be by chance.
    misfit
        Voxels whose residuals are correlated beyond noise; None where it cannot be told.
    """

    values: NDArray[np.float64]
    rms: float
    memory: float
    shared: float
    expected: float
    misfit: Misfit | None = None


def simulate(
    study: Study, voxels: NDArray[np.intp], times: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the model curves (V, T) of the voxels (flat positions) at ``times`` (s)."""
    from kety.fitting.forward import simulate_curves
    from kety.models import MODELS

    curves = np.zeros((voxels.size, times.size))
    for model, part in study.by_model(voxels):
        params = {
            n: study.values(n).reshape(-1)[voxels[part]].astype(np.float64)
            for n in (*MODELS[model].names, "c0")
            if n in study.maps.data_vars
        }
        if part.size:
            curves[part] = simulate_curves(params, times, study.input, model, portal=study.portal)
    if "baseline" in study.maps.data_vars:
        curves += study.values("baseline").reshape(-1)[voxels, None]
    return np.asarray(curves, dtype=np.float64)


def at_frames(study: Study, voxels: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the model curves (V, T) of the voxels (flat positions) at their own frames."""
    curves = np.zeros((voxels.size, study.times.size))
    for times, part in study.by_times(voxels):
        curves[part] = simulate(study, voxels[part], times)
    return curves


def determined(study: Study) -> NDArray[np.intp]:
    """Flat positions of the fitted voxels whose every parameter is known."""
    from kety.models import MODELS

    voxels = np.flatnonzero(study.fitted.reshape(-1))
    known = np.zeros(study.status.size, dtype=bool)
    for model, part in study.by_model(voxels):
        own = MODELS[model].names if model in MODELS else ()
        names = study.parameters if study.choice is None else own
        known[voxels[part]] = True
        for name in names:
            known[voxels[part]] &= np.isfinite(study.values(name).reshape(-1)[voxels[part]])
    return np.flatnonzero(known)


def measured(study: Study, voxels: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the measured curves (V, T) of the voxels (flat positions)."""
    # by position along each axis: flattening a Fortran-ordered series would copy all of it
    return study.curves[np.unravel_index(voxels, study.shape)].astype(np.float64)


def residuals(study: Study, voxels: NDArray[np.intp]) -> Residuals | None:
    """Residuals of at most 1000 of the voxels (flat positions), drawn with a fixed seed."""
    if voxels.size == 0:
        return None
    if voxels.size > _SAMPLE:
        voxels = np.sort(np.random.default_rng(0).choice(voxels, _SAMPLE, replace=False))
    values = measured(study, voxels) - at_frames(study, voxels)
    power = np.mean(values**2, axis=1)
    noisy = power > 0
    if not noisy.any():
        return Residuals(values, 0.0, 0.0, 0.0, 1.0)
    scaled = values[noisy] / np.sqrt(power[noisy, np.newaxis])
    n, frames = scaled.shape
    return Residuals(
        values=values,
        rms=float(np.median(np.sqrt(power))),
        memory=float(np.sum(scaled[:, 1:] * scaled[:, :-1]) / (n * frames)),
        shared=float(np.sqrt(np.mean(scaled.mean(axis=0) ** 2))),
        expected=float(1.0 / np.sqrt(n)),
        misfit=misfit(study, voxels, values),
    )


@dataclass(frozen=True)
class Evidence:
    """What the checks look at: the study, residuals, and every parameter's summary.

    The summaries are those of the region of interest if there is one, since a reader asks about it.
    """

    study: Study
    sample: Residuals | None
    precision: Mapping[str, Precision]


def _check_fitted(evidence: Evidence) -> Iterator[Finding]:
    study = evidence.study
    fitted, inside = study.n_fitted, study.inside
    if inside == 0:
        yield Finding("alarm", "No voxel lies inside the mask: nothing was fitted.")
        return
    if fitted == 0:
        yield Finding("alarm", f"None of the {inside:,} voxels inside the mask could be fitted.")
        return
    share = f"{fitted:,} of {inside:,} voxels inside the mask were fitted"
    silent = study.counts[Status.NOT_ENHANCING]
    lost = f"; {silent:,} ({percent(silent, inside)}) do not enhance" if silent else ""
    yield Finding("note" if silent > inside / 2 else "good", f"{share}{lost}.")


def _check_failures(evidence: Evidence) -> Iterator[Finding]:
    study = evidence.study
    counts, fitted = study.counts, study.n_fitted
    broken = counts[Status.NOT_FINITE]
    if broken:
        yield Finding(
            "caution" if broken > 0.05 * study.inside else "note",
            f"{broken:,} voxels ({percent(broken, study.inside)} of the mask) hold NaN or infinite "
            "samples and were not fitted.",
        )
    if fitted == 0:
        return
    near, place = study.status[study.fitted], ""
    if study.roi is not None and (study.roi & study.fitted).any():
        near, place = study.status[study.roi & study.fitted], " in the region of interest"
    limits: list[tuple[Status, float, float, str]] = [
        (
            Status.AT_BOUND,
            0.20,
            0.70,
            "have a parameter at its bound{}, which then has no standard error",
        ),
        (Status.ITERATION_LIMIT, 0.01, 0.10, "stopped at the iteration limit, short of an optimum"),
        (Status.NOT_IDENTIFIABLE, 0.10, 0.50, "do not determine every parameter"),
    ]
    for status, caution, alarm, words in limits:
        count = int(np.count_nonzero(near == status))
        share = count / near.size
        where = _at_bounds(study) if status is Status.AT_BOUND else ""
        level: Level = "alarm" if share > alarm else "caution" if share > caution else "note"
        if counts[status]:
            elsewhere = f"; {percent(count, near.size)}{place}" if place else ""
            text = f"{counts[status]:,} fits ({percent(counts[status], fitted)}{elsewhere}) "
            advice = ""
            if level != "note" and "delay" in where:
                advice = (
                    " Bounds that do not suit the series are the usual reason: widen them "
                    "(--bounds delay=-10:30), or give the delay where frames are too far apart to "
                    "tell it (--delay off)."
                )
            yield Finding(level, text + words.format(where) + "." + advice)
    settled = counts[Status.CONVERGED]
    if settled > 0.9 * fitted:
        yield Finding("good", f"{percent(settled, fitted)} of the fits converged inside bounds.")


def _at_bounds(study: Study) -> str:
    """Name the parameter most often at its bound: it has a value and no standard error."""
    bound = study.status == Status.AT_BOUND
    counts = {
        name: np.count_nonzero(
            np.isfinite(study.values(name)[bound]) & ~np.isfinite(study.values(f"{name}_se")[bound])
        )
        for name in study.parameters
    }
    name = max(counts, key=lambda n: counts[n], default="")
    return f" (most often {name})" if name and counts[name] else ""


def _check_agreement(evidence: Evidence) -> Iterator[Finding]:
    study, sample = evidence.study, evidence.sample
    r2 = study.finite("r2", study.roi)
    place = "" if study.roi is None else " in the region of interest"
    if r2.size:
        median = float(np.median(r2))
        level: Level = "good" if median >= 0.8 else "note" if median >= 0.5 else "caution"
        tail = "" if level == "good" else "; the rest is noise, or the wrong model or input"
        yield Finding(
            level,
            f"The model explains {100 * median:.0f} % of a typical curve's variance{place}{tail}.",
        )
    if sample is None or sample.rms == 0:
        return
    n, frames = sample.values.shape
    if sample.memory > 0.15 + 2 / np.sqrt(n * frames):
        yield Finding(
            "alarm" if sample.memory > 0.5 else "caution",
            "Residuals have structure beyond noise: neighbouring frames err alike (correlation "
            f"{sample.memory:.2f}). The model, the input or the delay does not fit the tissue.",
        )
    elif n > 20 and sample.shared > 0.25 + 3 * sample.expected:
        yield Finding(
            "caution",
            "Residuals have structure beyond noise: all voxels err alike at the same frames "
            f"({percent(sample.shared**2, 1)} of the residual variance), as an input curve, "
            "motion or a drift would make them.",
        )
    else:
        yield Finding("good", "Residuals look like noise: no structure in time beyond chance.")


def _check_misfit(evidence: Evidence) -> Iterator[Finding]:
    if evidence.sample is not None:
        yield from misfit_findings(evidence.sample.misfit)


def _check_errors(evidence: Evidence) -> Iterator[Finding]:
    study = evidence.study
    interval = float(np.median(np.diff(study.times))) if study.times.size > 1 else float("nan")
    place = "" if study.roi is None else " in the region of interest"
    for name, p in evidence.precision.items():
        if p.relative > 0.5:
            # beside the values met elsewhere, a small value with a large relative error is known
            small = p.error < 0.05 * study.window(name).span
            unit = f" {study.units(name)}" if study.units(name) else ""
            yield Finding(
                "note" if small else "caution",
                f"{name} is {'small' if small else 'poorly determined'}{place}: the typical "
                f"standard error, {number(p.error, 2)}{unit}, is {100 * p.relative:.0f} % of its "
                "value.",
            )
        elif study.units(name) == SECONDS and p.error > interval:
            yield Finding(
                "caution",
                f"{name} is poorly determined{place}: the typical standard error is "
                f"{number(p.error)} s, longer than the interval between frames.",
            )
    beyond = [
        f"{percent(p.below + p.above, p.count)} of {name}"
        for name, p in evidence.precision.items()
        if p.below + p.above > 0.05 * p.count
    ]
    if beyond:
        yield Finding("note", f"Values beyond the display window{place}: {', '.join(beyond)}.")
    if "ve" in study.parameters:
        ve = study.finite("ve", study.roi)
        above = int(np.count_nonzero(ve > 1))
        if above > 0.02 * ve.size:
            yield Finding(
                "caution",
                f"{percent(above, ve.size)} of the ve values{place} exceed 1, more than tissue can "
                "hold: kep is not determined there, or the input is too small.",
            )


def _check_input(evidence: Evidence) -> Iterator[Finding]:
    study = evidence.study
    times = np.asarray(study.input.times, dtype=np.float64)
    values = np.asarray(study.input.concentration, dtype=np.float64)
    peak = int(np.argmax(values))
    if values[peak] <= 0:
        yield Finding("alarm", "The input curve is nowhere positive.")
        return
    if peak in (0, values.size - 1):
        yield Finding(
            "alarm",
            f"The input peaks at its {'first' if peak == 0 else 'last'} sample: the bolus is "
            "cut off.",
        )
        return
    if values[0] > 0.1 * values[peak]:
        yield Finding("caution", "The input is already enhanced at its first sample.")
    half = np.flatnonzero(values < 0.5 * values[peak])
    before, after = half[half < peak], half[half > peak]
    rise = times[before[-1]] if before.size else times[0]
    fall = times[after[0]] if after.size else times[-1]
    samples = np.count_nonzero((study.times > rise) & (study.times < fall))
    if samples < 3:
        yield Finding(
            "caution" if samples < 2 else "note",
            f"Only {samples} of the frames fall within the input's first pass ({fall - rise:.1f} s "
            "above half its peak): delay and blood volume rest on few samples.",
        )
    if times[-1] < study.times[-1] - 1e-3:  # frame times in headers are rounded
        yield Finding(
            "caution",
            f"The input ends at {number(times[-1])} s, before the last frame at "
            f"{number(float(study.times[-1]))} s; its last value is held.",
        )


def _check_joint(evidence: Evidence) -> Iterator[Finding]:
    yield from joint_findings(evidence.study.maps)


CHECKS: Final[tuple[Callable[[Evidence], Iterator[Finding]], ...]] = (
    _check_fitted,
    _check_failures,
    _check_agreement,
    _check_misfit,
    _check_errors,
    _check_joint,
    _check_input,
)
"""Every check of the verdict, in the order of the page."""


def find(evidence: Evidence) -> list[Finding]:
    """Run every check and return the findings, the caller's warnings among them, gravest first.

    What a check found and the caller has warned of is said once.
    """
    order: tuple[Level, ...] = ("alarm", "caution", "note", "good")
    warned = evidence.study.warnings
    found = [Finding("caution", text) for text in warned]
    for check in CHECKS:
        found += (finding for finding in check(evidence) if finding.text not in warned)
    return sorted(found, key=lambda finding: order.index(finding.level))
