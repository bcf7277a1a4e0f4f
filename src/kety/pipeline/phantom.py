"""Simulated studies on disk, and how far a fit of one lies from the truth."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from kety.errors import KetyError
from kety.pipeline.telling import Tell, silent

if TYPE_CHECKING:
    import xarray

    from kety.simulate import Phantom

PathLike = str | os.PathLike[str]

SERIES: Final = "dce"
"""Of the series: a folder of DICOM files or, with the extension, a NIfTI file."""
INPUT: Final = "aif.csv"
NIFTI: Final = ".nii.gz"
MODEL: Final = "extended_tofts"
"""The model that every tissue of the phantom follows."""


def write_phantom(
    phantom: Phantom,
    folder: PathLike,
    *,
    dicom: bool = False,
    record: Mapping[str, Any] | None = None,
    tell: Tell = silent,
) -> Path:
    """Write a simulated study: series, input, masks, labels and truth maps.

    Parameters
    ----------
    phantom
        What `kety.simulate.simulate_abdomen` returns.
    folder
        Made if it does not exist. It gets ``dce.nii.gz`` (with the frame times in its sidecar),
        ``aif.csv`` (blood, HU above baseline), the masks ``body``, ``aorta`` and ``tumour``,
        ``labels`` (their names in the sidecar), ``truth_<parameter>`` and ``simulation.json``.
    dicom
        Write the series as the DICOM files of a scanner, in the folder ``dce``, and the masks as
        Segmentations (``body.dcm`` and so on).
    record
        How it was made, for ``simulation.json``.

    Returns
    -------
    The folder.

    Raises
    ------
    OutputError
        If something cannot be written.
    """
    from kety.io import write_mask, write_series, write_volume
    from kety.io.atomic import Batch, output_folder
    from kety.io.bids import generated_by
    from kety.models import Derived, Parameter, get_model
    from kety.series import Volume

    model = get_model(MODEL)
    folder = output_folder(folder)
    if dicom:
        from kety.io.dicom import source_headers
        from kety.io.dicom.scanner import Exposure, write_ct_series

        write_ct_series(phantom.series, folder / SERIES)
        made_at = Exposure.start
        images, extension = source_headers(folder / SERIES), ".dcm"
    else:
        write_series(phantom.series, folder / f"{SERIES}{NIFTI}")
        images, extension, made_at = None, NIFTI, None
    affine = phantom.series.affine

    def save(name: str, data: NDArray[Any], **sidecar: Any) -> None:
        write_volume(Volume(data, affine, name, sidecar=sidecar), folder / f"{name}{NIFTI}")

    masks = {"body": phantom.body, "aorta": phantom.mask("aorta"), "tumour": phantom.roi}
    for name, mask in masks.items():
        path = folder / f"{name}{extension}"
        write_mask(mask, path, affine=affine, images=images, label=name, made_at=made_at)
    with Batch() as batch:
        batch.write(folder / INPUT, _input_table(phantom).encode())
    save("labels", phantom.labels, Levels=phantom.label_names)
    quantities: tuple[Parameter | Derived, ...] = (*model.parameters, *model.derived)
    for quantity in quantities:
        save(
            f"truth_{quantity.name}",
            phantom.truth[quantity.name].astype(np.float32),
            Quantity=quantity.name,
            LongName=f"true {quantity.long_name}",
            Units=quantity.unit,
        )
    with Batch() as batch:
        content = {"GeneratedBy": generated_by(), "model": model.name, **(record or {})}
        batch.write_json(folder / "simulation.json", content)
    frames = phantom.series.times.size
    shape = " × ".join(map(str, phantom.series.shape))
    tell("phantom", f"{shape} voxels, {frames} frames, truth and input in {folder}{os.sep}")
    return folder


def _input_table(phantom: Phantom) -> str:
    aif = phantom.aif
    rows = zip(aif.times.tolist(), aif.concentration.tolist(), strict=True)
    lines = [f"time_s,{aif.site}_HU", *(f"{t!r},{c!r}" for t, c in rows)]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Agreement:
    """Error of one parameter in one region.

    ``error`` is the median absolute error, relative to the truth except for times (``relative``
    says which); ``coverage`` the share of voxels whose error is within one standard error.
    """

    error: float
    relative: bool
    coverage: float


@dataclass(frozen=True)
class TruthRow:
    """A region's name, its number of fitted voxels, and the agreement of every parameter."""

    region: str
    voxels: int
    parameters: Mapping[str, Agreement]


def against_truth(
    maps: xarray.Dataset,
    truth: Mapping[str, NDArray[Any]],
    regions: Mapping[str, NDArray[np.bool_]],
) -> list[TruthRow]:
    """Compare maps with the truth behind a simulated study.

    Parameters
    ----------
    maps
        What `kety.fit` returns.
    truth
        Maps of some of its parameters, in the same units.
    regions
        Masks, one row of the result each.

    Raises
    ------
    KetyError
        If the maps and the truth have no parameter in common.
    """
    from kety.fitting.status import FITTED

    names = [name for name in truth if name in maps]
    if not names:
        raise KetyError(f"no truth for any of the maps; the truth is known of {', '.join(truth)}")
    fitted = np.isin(maps["status"].values, [int(status) for status in FITTED])
    return [
        TruthRow(
            region,
            int(np.count_nonzero(fitted & inside)),
            {name: _agreement(maps, name, truth[name], fitted & inside) for name in names},
        )
        for region, inside in regions.items()
    ]


def _agreement(
    maps: xarray.Dataset, name: str, truth: NDArray[Any], where: NDArray[np.bool_]
) -> Agreement:
    value = maps[name].values[where].astype(np.float64)
    error = maps[f"{name}_se"].values[where].astype(np.float64)
    true = np.asarray(truth)[where].astype(np.float64)
    relative = maps[name].attrs.get("units") != "s"
    off = np.abs(value - true)
    known = np.isfinite(off) & ((true > 0) | (not relative))
    scaled = off[known] / true[known] if relative else off[known]
    sure = np.isfinite(off) & np.isfinite(error)
    return Agreement(
        float(np.median(scaled)) if scaled.size else float("nan"),
        relative,
        float(np.mean(off[sure] <= error[sure])) if sure.any() else float("nan"),
    )
