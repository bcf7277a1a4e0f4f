"""Write the report: check the input, build every section, render one page."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from numpy.typing import ArrayLike, NDArray

from kety.io.atomic import Batch
from kety.report.content import Study
from kety.report.sections import MODEL_FREE_SECTIONS, SECTIONS, prepare

if TYPE_CHECKING:
    import xarray

    from kety.inputs import InputFunction, Vessel
    from kety.voxels import AboveLevel


def write_report(
    path: str | os.PathLike[str],
    *,
    maps: xarray.Dataset,
    curves: NDArray[Any] | AboveLevel,
    times: ArrayLike,
    aif: InputFunction | None,
    title: str,
    anatomy: ArrayLike | None = None,
    provenance: Mapping[str, Any],
    affine: ArrayLike | None = None,
    roi: ArrayLike | None = None,
    truth: Mapping[str, ArrayLike] | None = None,
    regions: Mapping[str, ArrayLike] | None = None,
    warnings: Sequence[str] = (),
    windows: Mapping[str, tuple[float, float]] | None = None,
    curve_units: str = "",
    vessel: Vessel | None = None,
    vessel_affine: ArrayLike | None = None,
    portal: InputFunction | None = None,
    slice_times: ArrayLike | None = None,
) -> Path:
    """Write a report on fitted maps as one HTML page without external resources.

    Parameters
    ----------
    path
        File to write; it appears whole or not at all.
    maps
        What `kety.fit` returns: ``status``, ``r2``, ``cost`` and, for every parameter, ``name`` and
        ``name_se``, on three axes (maps are shown) or any other number (they are not). Or what
        `kety.semiquantitative` and `kety.deconvolve` return, which have a page of their own.
    curves
        (..., T) fitted curves on the maps' axes, HU above baseline or mM; not copied.
    times
        (T,) s.
    aif
        The input of the fit; None for model-free maps that were made without one.
    title
        Heading of the page, e.g. the name of the series.
    anatomy
        (X, Y, Z) background image in any unit, shown in grey under the maps.
    provenance
        What made the maps: version, command, hashes. Mappings may be nested.
    affine
        (4, 4) voxel to mm in the RAS frame. With it the pictures are upright, the patient's right
        at the left, in the voxels' true proportions.
    roi
        (X, Y, Z) region of interest: chooses the slices and the example voxels, and has a table.
    truth
        ``name -> (X, Y, Z)`` true values of a simulated study, in the maps' units.
    regions
        ``name -> (X, Y, Z)`` masks for which the errors against the truth are listed apart.
    warnings
        Sentences that the verdict repeats.
    windows
        ``name -> (lower, upper)`` display windows, in the map's unit, in place of the listed ones.
    curve_units
        Unit of curves and input, ``"HU"`` or ``"mM"``.
    vessel, vessel_affine
        The artery that the input was found in, and the affine (4, 4) of its grid, which need not be
        the maps'.
    portal
        The portal vein's input, of a model with two.
    slice_times
        (Z, T) s, the times of each slice of the curves' last axis but one where they differ;
        ``times`` is then their mean.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    KetyError
        If shapes disagree or a map that every fit has is absent.
    OutputError
        If the file cannot be written.
    """
    study = Study(
        maps=maps,
        curves=curves,
        times=np.asarray(times, dtype=np.float64),
        aif=aif,
        portal=portal,
        slice_times=None if slice_times is None else np.asarray(slice_times, dtype=np.float64),
        title=title,
        provenance=provenance,
        anatomy=None if anatomy is None else np.asarray(anatomy),
        affine=None if affine is None else np.asarray(affine, dtype=np.float64),
        roi=None if roi is None else np.asarray(roi) != 0,
        truth=None if truth is None else {n: np.asarray(a) for n, a in truth.items()},
        regions={n: np.asarray(a) != 0 for n, a in (regions or {}).items()},
        warnings=tuple(warnings),
        windows=dict(windows or {}),
        curve_units=curve_units,
        vessel=vessel,
        vessel_affine=None if vessel_affine is None else np.asarray(vessel_affine, dtype=float),
    )
    page = render(study).encode("utf-8")
    with Batch() as batch:
        batch.write(path, page)
    return Path(path)


def render(study: Study) -> str:
    """Return the page of a study."""
    report = prepare(study)
    listed = MODEL_FREE_SECTIONS if study.model_free else SECTIONS
    built = [(section, section.build(report)) for section in listed]
    # autoescape: file names and warnings come from outside
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = resources.files("kety.report").joinpath("template.html.j2").read_text("utf-8")
    return environment.from_string(source).render(
        title=study.title,
        model=study.model,
        **({"subtitle": "Model-free maps"} if study.model_free else {}),
        sections=[(section, blocks) for section, blocks in built if blocks],
    )
