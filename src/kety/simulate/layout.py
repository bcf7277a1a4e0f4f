"""A phantom with its voxels in the order in which a scanner's images have them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from kety.simulate.phantom import Phantom


def as_scanned(phantom: Phantom) -> Phantom:
    """Return a phantom with rows toward the patient's left and columns toward the back.

    Those are the axes of an axial DICOM image; a phantom's own run toward right and front. Every
    voxel keeps its place in mm.

    Parameters
    ----------
    phantom
        What `kety.simulate.simulate_abdomen` returns.

    Returns
    -------
    Phantom
        Its arrays are views of those of ``phantom``, turned about the patient's long axis.
    """

    def turned(array: NDArray[Any]) -> NDArray[Any]:
        return array[::-1, ::-1]

    series = phantom.series
    x, y, _ = series.shape
    affine = series.affine @ np.array(
        [[-1.0, 0, 0, x - 1], [0, -1.0, 0, y - 1], [0, 0, 1.0, 0], [0, 0, 0, 1.0]]
    )
    mask = None if series.mask is None else turned(series.mask)
    return replace(
        phantom,
        series=replace(series, data=turned(series.data), affine=affine, mask=mask),
        truth={name: turned(values) for name, values in phantom.truth.items()},
        labels=turned(phantom.labels),
        baseline=turned(phantom.baseline),
        body=turned(phantom.body),
        roi=turned(phantom.roi),
    )
