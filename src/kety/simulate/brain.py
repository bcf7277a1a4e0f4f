"""A dynamic contrast-enhanced CT study of a brain whose every parameter is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.inputs import InputFunction
from kety.series import Series
from kety.simulate.brain_anatomy import BRAIN_LABELS, BRAIN_TISSUES, TUMOUR_TISSUES
from kety.simulate.brain_maps import BrainTruth, brain_truth, tissue_voxels
from kety.simulate.noise import check_sd, gaussian
from kety.simulate.phantom import (
    CT_RANGE,
    FREE,
    Phantom,
    check_range,
    enhancement,
    scaled_input,
)
from kety.simulate.sampling import frame_times

VOXELS_AT_ONCE: Final = 65536
"""Voxels simulated in one call, which bounds the memory beside the result. The noise is drawn by
such blocks too, so it changes with this number."""


@dataclass(frozen=True)
class BrainPhantom(Phantom):
    """A ``Phantom`` of the brain; ``roi`` is the tumour, rim and core."""

    def mask(self, *names: str) -> NDArray[np.bool_]:
        """Voxels (X, Y, Z) of the named tissues; an unknown name raises ``KetyError``."""
        return tissue_voxels(self.labels, names)


def brain_curves(
    truth: BrainTruth,
    times: ArrayLike,
    aif: InputFunction,
    *,
    noise: float = 6.0,
    seed: int = 0,
    first: int = 0,
    last: int | None = None,
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yield noisy curves of the voxels of ``truth.mask``, block by block.

    Parameters
    ----------
    truth
        Of ``brain_truth``.
    times
        Frame times (T,) in s, or the name of a protocol.
    aif
        Arterial input in HU.
    noise
        Standard deviation of the white noise in HU.
    seed
        Integer of 0 or more. A voxel's noise does not depend on ``first`` and ``last``.
    first, last
        Range of voxels, numbered as in ``array[truth.mask]``; all by default.

    Yields
    ------
    rows : slice
        Which voxels, numbered as above.
    curves : ndarray of float32, shape (n, T)
        HU above baseline.

    Raises
    ------
    KetyError
        Where an argument is out of its range.
    """
    frames = frame_times(times)
    voxels = np.flatnonzero(truth.mask)
    end = voxels.size if last is None else last
    check_sd(noise)
    check_range("seed", seed, 0, np.inf)
    check_range("last", end, 0, voxels.size)
    check_range("first", first, 0, end)
    return _blocks(truth, voxels, frames, aif, noise, (seed, 1), slice(first, end))


def _blocks(
    truth: BrainTruth,
    voxels: NDArray[np.intp],
    times: NDArray[np.float64],
    aif: InputFunction,
    noise: float,
    seed: tuple[int, int],
    wanted: slice,
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    flat = {name: truth.maps[name].reshape(-1) for name in FREE}
    end = -(-wanted.stop // VOXELS_AT_ONCE) if wanted.stop > wanted.start else 0
    for block in range(wanted.start // VOXELS_AT_ONCE, end):
        start = max(wanted.start, block * VOXELS_AT_ONCE)
        stop = min(wanted.stop, (block + 1) * VOXELS_AT_ONCE)
        chosen = voxels[start:stop]
        parameters = {n: v[chosen, None].astype(np.float64) for n, v in flat.items()}
        curves = enhancement(parameters, times, aif)[:, 0]
        if noise > 0.0:
            stream = np.random.SeedSequence(seed[0], spawn_key=(seed[1], block))
            offset = block * VOXELS_AT_ONCE
            drawn = gaussian((stop - offset, times.size), noise, seed=stream)
            curves += drawn[start - offset :]
        yield slice(start, stop), curves


def simulate_brain(
    shape: Sequence[int] = (64, 64, 24),
    *,
    times: str | ArrayLike = "brain",
    noise: float = 6.0,
    seed: int = 0,
    peak: float = 300.0,
    hematocrit: float = 0.4,
    arrival: float = 0.0,
    voxel_size: Sequence[float] | None = None,
    lag: float = 3.0,
    texture: float = 0.07,
    rounded: bool = False,
) -> BrainPhantom:
    """Simulate perfusion CT of a brain with a tumour and a late territory.

    Stands in for the clinical scan of Svistoun et al. (Tomography 2019,
    doi:10.18383/j.tom.2018.00048), which is not public: its frames, its input (the curve of Parker
    et al., Magn Reson Med 2006, doi:10.1002/mrm.21066) and its noise. The enhancement of every
    voxel is the extended Tofts model with delay. A shape of (252, 304, 236) has just over the
    paper's 6 million voxels inside the skull; where they are too many for one array, take
    ``brain_truth`` and ``brain_curves``.

    Parameters
    ----------
    shape, voxel_size, hematocrit, lag, texture
        As of ``brain_truth``.
    times
        Name of an acquisition protocol, or the frame times (T,) in s.
    noise
        Standard deviation of the white noise in HU.
    seed
        Integer of 0 or more for texture and noise; equal arguments give equal bits on one machine.
    peak
        Largest enhancement of the arteries in HU.
    arrival
        Time in s at which the bolus reaches the arteries of the neck. At 0, as in the paper, they
        have no frame before it.
    rounded
        Store int16 HU clipped to -1024 ... 3071, as a scanner does, instead of float32.

    Returns
    -------
    BrainPhantom
        A ``Phantom`` whose ``series.mask`` is the inside of the skull.

    Raises
    ------
    KetyError
        Where an argument is out of its range or a protocol unknown.
    """
    frames = frame_times(times)
    check_sd(noise)
    check_range("arrival", arrival, 0.0, float(frames[-1]))
    check_range("peak", peak, 1.0, 3000.0)
    truth = brain_truth(
        shape, seed, voxel_size=voxel_size, hematocrit=hematocrit, lag=lag, texture=texture
    )
    aif = scaled_input(float(frames[-1]), arrival, 0.0, peak, hematocrit)
    aif = replace(aif, name="carotid artery")

    baseline = np.array([t.baseline for t in BRAIN_TISSUES], dtype=np.float32)[truth.labels]
    data = np.empty((*truth.labels.shape, frames.size), dtype=np.int16 if rounded else np.float32)
    rows, before = data.reshape(-1, frames.size), baseline.reshape(-1)
    for stream, mask in enumerate((truth.mask, ~truth.mask), start=1):
        voxels = np.flatnonzero(mask)
        every = slice(0, voxels.size)
        for part, curves in _blocks(truth, voxels, frames, aif, noise, (seed, stream), every):
            image = curves + before[voxels[part], None]
            rows[voxels[part]] = np.clip(np.rint(image), *CT_RANGE) if rounded else image
    return BrainPhantom(
        series=Series(
            data, frames, truth.affine, "CT", {}, mask=truth.mask, source="brain phantom"
        ),
        truth={name: values.astype(np.float64) for name, values in truth.maps.items()},
        labels=truth.labels,
        tissues=dict(enumerate(BRAIN_TISSUES)),
        baseline=baseline,
        aif=aif,
        body=truth.labels != BRAIN_LABELS["air"],
        roi=tissue_voxels(truth.labels, TUMOUR_TISSUES),
    )
