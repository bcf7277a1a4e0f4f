"""Fit a study, and write its maps, provenance and report."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError
from kety.joint_words import concerns, told
from kety.pipeline.certainty import Certainty, add_certainty
from kety.pipeline.provenance import shown
from kety.pipeline.telling import Tell, count, silent

if TYPE_CHECKING:
    import xarray

    from kety.fitting.discretize import Discretization
    from kety.fitting.optimizers import Optimizer, VarProLM
    from kety.joint.options import Joint
    from kety.pipeline.study import Study

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Written:
    """What `write_outcome` wrote: the maps, and the report if there is one."""

    folder: Path
    maps: tuple[Path, ...]
    report: Path | None


def check_folder(folder: PathLike) -> Path:
    """Check, before hours of work, that a folder can be written to; nothing is made yet.

    Raises
    ------
    KetyError
        If it is a file, lies in one, or may not be written to.
    """
    folder = Path(folder)
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise KetyError(f"{folder}: cannot be the output folder, {existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise KetyError(f"{folder}: cannot be the output folder, {existing} is not writable")
    return folder


def estimate(
    study: Study,
    model: str | Sequence[str] = "extended_tofts",
    *,
    select: str | None = None,
    delay: bool | float | str = True,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    baseline: bool | None = None,
    optimizer: str | VarProLM | Optimizer | None = None,
    discretization: str | Discretization = "exact",
    joint: str | Joint | None = None,
    dtype: str = "float32",
    threads: int | None = None,
    fitted: bool = False,
    autocorrelation: bool = False,
    initial: bool | float = False,
    device: str = "cpu",
    certainty: Certainty | None = None,
    region: NDArray[np.bool_] | None = None,
    progress: bool = False,
    tell: Tell = silent,
) -> xarray.Dataset:
    """Fit a study: `kety.fit` on its curves, with what took how long among the attributes.

    ``baseline`` fits a constant of every voxel along; None does so for CT, where the noise of the
    mean before arrival is common to all frames of a voxel. ``joint`` without a spacing takes that
    of the series; a joint estimate that changes fits beyond noise, or has not settled, is warned
    of. ``initial`` is the concentration at the first frame, True to fit it. The portal vein's input
    is the study's. ``certainty`` asks for intervals and added errors beside the fit, these
    summarised over ``region``.

    Raises
    ------
    KetyError
        As `kety.fit`.
    """
    import xarray  # noqa: F401, that its import does not count as time of the fit

    from kety.api import fit
    from kety.fitting.engine import available_threads, instruction_sets
    from kety.fitting.status import FITTED

    together = _with_spacing(joint, study)
    if together is not None and together.strength == "auto" and "denoised" in study.facts:
        warnings.warn(
            "denoised frames tell of each other, so leaving some out says little of the strength "
            "of joint estimation; leave the denoising out, which joint estimation does better, or "
            "give the strength",
            stacklevel=2,
        )
    study.aif.coefficients()
    started = time.perf_counter()
    options: dict[str, Any] = {
        "delay": delay,
        "bounds": bounds,
        "mask": study.series.mask,
        "weights": study.weights,
        "baseline": study.unit != "mM" if baseline is None else baseline,
        "optimizer": optimizer,
        "discretization": discretization,
        "joint": together,
        "select": select,
        "portal": study.portal,
        "initial": initial,
        "dtype": dtype,
        "threads": threads,
    }
    if certainty:
        certainty.check(study, model, options)
    maps = fit(
        study.curves,
        study.times,
        study.aif,
        model,
        device=device,
        progress=progress,
        fitted=fitted,
        autocorrelation=autocorrelation,
        **options,
    )
    elapsed = time.perf_counter() - started
    done = int(maps.attrs["voxels_done"])
    counts = status_counts(maps)
    if done and not any(status.meaning in counts for status in FITTED):
        found = ", ".join(name.replace("_", " ") for name in counts if name != "outside")
        warnings.warn(f"no voxel could be fitted; all are {found}", stacklevel=2)
    for sentence in concerns(maps):
        warnings.warn(sentence, stacklevel=2)
    maps.attrs |= {
        "threads": threads or available_threads(),
        "instruction_set": instruction_sets()[0],
        "elapsed_s": round(elapsed, 4),
        "voxels_per_s": round(done / elapsed),
        "status_counts": counts,
    }
    if together is not None and "joint" in maps.attrs:
        maps.attrs |= _joint_settings(together)
    where = str(maps.attrs["device"])
    engine = f"{count(maps.attrs['threads'], 'thread')}, {maps.attrs['instruction_set']}"
    if where.startswith("cuda"):
        engine = where
    if device == "auto":
        tell("device", where)
    if done:
        tell(
            "fitted",
            f"{count(done, 'voxel')} in {elapsed:.2f} s ({done / elapsed:,.0f} voxels/s; "
            f"{engine}, {dtype}; "
            f"{_how(maps.attrs)})",
        )
    for line in told(maps.attrs):
        tell("joint", line)
    if "chosen" in maps and done:
        tell("models", _shares(maps))
    if certainty and done and not maps.attrs["interrupted"]:
        maps = add_certainty(
            study, maps, certainty, options, region=region, progress=progress, tell=tell
        )
    return maps


def _with_spacing(joint: str | Joint | None, study: Study) -> Joint | None:
    """The options of joint estimation, knowing how far apart the voxels of the study are (mm)."""
    from kety.joint.options import get_joint

    options = get_joint(joint)
    if options is None or options.spacing is not None:
        return options
    sizes = np.linalg.norm(study.series.affine[:3, :3], axis=0)
    return replace(options, spacing=tuple(float(size) for size in sizes))


def _joint_settings(joint: Joint) -> dict[str, Any]:
    """What was set of joint estimation beside its similarity and strength."""
    given = {
        "joint_radius_voxels": joint.radius,
        "joint_nearest": joint.neighbours,
        "joint_spacing_mm": None if joint.spacing is None else list(joint.spacing),
    }
    return {name: value for name, value in given.items() if value is not None}


def _shares(maps: xarray.Dataset) -> str:
    """Shares of the models chosen among the fitted voxels, and their mean weight."""
    chosen, weight = maps["chosen"].values, maps["weight"].values
    names = str(maps.attrs["models"]).split(", ")
    numbers = [int(np.count_nonzero(chosen == i + 1)) for i in range(len(names))]
    total = sum(numbers)
    if not total:
        return "none chosen"
    shares = (f"{n} {100 * k / total:.1f} %" for n, k in zip(names, numbers, strict=True))
    middle = np.nanmean(weight[np.isfinite(weight)])
    return f"{', '.join(shares)} by {maps.attrs['select']}, mean weight {middle:.2f}"


def _how(attrs: Mapping[str, Any]) -> str:
    """Optimizer; its discretization where it is not exact at the frames; similarity where joint."""
    words = str(attrs["optimizer"]).partition("(")[0]
    if attrs["processing_rate_hz"]:
        words += (
            f", {attrs['discretization']} at {attrs['processing_rate_hz']:g} Hz, "
            f"delay filter {attrs['delay_filter']}"
        )
    if "joint" in attrs:
        words += f", joint {attrs['joint']}"
    return words


def status_counts(maps: xarray.Dataset) -> dict[str, int]:
    """Number of voxels of every status that occurs, by its meaning."""
    from kety.fitting.status import Status

    counts = np.bincount(np.asarray(maps["status"].values).ravel(), minlength=len(Status))
    return {status.meaning: int(counts[status]) for status in Status if counts[status]}


def write_outcome(
    study: Study,
    maps: xarray.Dataset,
    folder: PathLike,
    *,
    record: Mapping[str, Any],
    report: bool = True,
    title: str = "",
    roi: NDArray[np.bool_] | None = None,
    truth: Mapping[str, ArrayLike] | None = None,
    regions: Mapping[str, ArrayLike] | None = None,
    notices: Sequence[str] = (),
    formats: Sequence[str] | None = None,
    tell: Tell = silent,
) -> Written:
    """Write maps, ``fit.json`` and ``report.html`` into a folder, which is made.

    Parameters
    ----------
    study, maps
        What was fitted, and the result.
    folder
        Files of the same name are replaced, others left alone.
    record
        Provenance, see `kety.pipeline.provenance`.
    report
        Whether to write the report.
    title
        Of the report; the name of the series if empty.
    roi, truth, regions
        For the report, see `kety.report.write_report`.
    notices
        Warnings that the report and ``fit.json`` repeat.
    formats
        Of the maps, see `kety.io.write_maps`; None for DICOM Parametric Maps of a series that came
        from DICOM, and NIfTI of others. The former belong to the series' study.

    Raises
    ------
    OutputError
        If something cannot be written; then none of the maps appears.
    """
    from kety.io import write_maps

    series = study.series
    folder = Path(folder)
    notices = [shown(study, notice) for notice in notices]
    if formats is None:
        formats = ("nifti",) if study.dicom is None else ("dicom",)
    images = None
    if study.dicom is not None and "dicom" in formats:
        from kety.io.dicom import source_headers

        images = source_headers(*study.dicom)
    written = write_maps(
        _with_t1(study, maps),
        folder,
        affine=series.affine,
        codes=series.codes,
        source=series.source,
        times=series.times,
        provenance={**_written_out(maps.attrs), **record, "warnings": list(notices)},
        threads=int(maps.attrs["threads"]),
        format=formats,
        images=images,
        series=None if study.dicom is not None else next(iter(study.files.get("series", ())), None),
    )
    tell("maps", f"{count(len(written), 'image')} and fit.json in {folder}{os.sep}")
    if study.vessel is not None:
        from kety.pipeline.vessel import write_vessel

        grid = study.grid or series
        files = write_vessel(
            study.vessel, study.aif, folder, affine=grid.affine, codes=grid.codes, unit=study.unit
        )
        tell("vessel", f"{', '.join(path.name for path in files)} in {folder}{os.sep}")
    page = None
    if report:
        from kety.report import write_report

        page = write_report(
            folder / "report.html",
            maps=maps,
            curves=study.curves,
            times=series.times,
            slice_times=series.slice_times,
            aif=study.arterial,
            portal=study.portal,
            title=title or series.source,
            anatomy=series.data.mean(axis=-1, dtype=np.float32),
            provenance={**maps.attrs, **record},
            affine=series.affine,
            roi=roi,
            truth=truth,
            regions=regions,
            warnings=notices,
            curve_units=study.unit,
            vessel=study.vessel,
            vessel_affine=(study.grid or series).affine,
        )
        tell("report", str(page))
    return Written(folder, tuple(written), page)


def _written_out(attrs: Mapping[str, Any]) -> dict[str, str]:
    """Infinite settings as text, since JSON has no infinity."""
    names = ("joint_strength", "joint_radius_voxels")
    return {name: "inf" for name in names if np.isinf(attrs.get(name, 0.0))}


def _with_t1(study: Study, maps: xarray.Dataset) -> xarray.Dataset:
    """Add the T1 map that the flip angles gave, so that it can be looked at."""
    if study.scan is None or "vfa" not in study.files:
        return maps
    attrs = {"units": "s", "long_name": "T1 before contrast agent", "osipi": ""}
    t10 = np.asarray(study.scan.t10)
    return maps.assign(t10=(("x", "y", "z"), t10, attrs))
