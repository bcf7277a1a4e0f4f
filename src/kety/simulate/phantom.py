"""A dynamic contrast-enhanced CT study of an abdomen whose every parameter is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError
from kety.inputs import InputFunction, population_input
from kety.series import Series
from kety.simulate.anatomy import LABELS, LESIONS, TISSUES, Tissue, paint_slice
from kety.simulate.noise import checked_noise, gaussian
from kety.simulate.sampling import frame_times

FREE: Final[tuple[str, ...]] = ("ktrans", "kep", "vb", "delay")
LIMITS: Final[dict[str, tuple[float, float]]] = {
    "ktrans": (0.01, 1.2),
    "kep": (0.05, 4.0),
    "vb": (0.005, 0.4),
    "delay": (0.0, 8.0),
}
"""Range of each parameter (public units) in every enhancing tissue; the aorta has ``vb`` 1."""

FIELD_OF_VIEW: Final[tuple[float, float, float]] = (384.0, 320.0, 60.0)
SLICE_THICKNESS: Final = 5.0
CT_RANGE: Final[tuple[int, int]] = (-1024, 3071)
VOXELS_AT_ONCE: Final = 65536
"""Voxels simulated in one call, which bounds the memory beside the series itself."""
BOLUS: Final = 60.0
"""Seconds after arrival in which the input needs fine knots: first pass and recirculation."""
FINE_STEP: Final = 0.02
WAVES: Final = 16
WAVELENGTHS: Final[tuple[float, float]] = (35.0, 110.0)


@dataclass(frozen=True)
class Phantom:
    """A simulated study and the truth behind it; all maps share the voxel grid of ``series``.

    Attributes
    ----------
    series
        CT numbers in HU, (X, Y, Z, T), with frame times, affine and the body as its mask.
    truth
        Maps (X, Y, Z) of ``ktrans`` and ``kep`` [1/min], ``ve``, ``vp``, ``vb`` and ``delay`` [s].
        Without exchange (``ktrans`` 0) ``kep`` and ``ve`` do not exist and are NaN; ``delay`` is
        NaN where nothing enhances.
    labels
        Tissue of every voxel, uint8 (X, Y, Z).
    tissues
        Label to tissue: name, unenhanced HU and parameters before texture.
    baseline
        HU before contrast arrives and without noise, float32 (X, Y, Z).
    aif
        Blood curve of the aorta in HU above its baseline.
    body
        Voxels that are not air outside the patient, (X, Y, Z).
    roi
        Voxels of the tumour (rim and core) and its satellites, (X, Y, Z).
    """

    series: Series
    truth: Mapping[str, NDArray[np.float64]]
    labels: NDArray[np.uint8]
    tissues: Mapping[int, Tissue]
    baseline: NDArray[np.float32]
    aif: InputFunction
    body: NDArray[np.bool_]
    roi: NDArray[np.bool_]

    @property
    def label_names(self) -> dict[int, str]:
        """Label to the name of its tissue."""
        return {label: tissue.name for label, tissue in self.tissues.items()}

    def mask(self, *names: str) -> NDArray[np.bool_]:
        """Voxels (X, Y, Z) of the named tissues; an unknown name raises ``KetyError``."""
        return tissue_mask(self.labels, names)


def simulate_abdomen(
    shape: Sequence[int] = (96, 80, 12),
    *,
    noise: float | ArrayLike = 6.0,
    seed: int = 0,
    protocol: str | ArrayLike = "two_phase",
    voxel_size: Sequence[float] | None = None,
    arrival: float = 10.0,
    injection: float = 10.0,
    peak: float = 300.0,
    hematocrit: float = 0.42,
    texture: float = 0.04,
    noise_fwhm: float = 0.0,
    rounded: bool = False,
    shuttle: float = 0.0,
) -> Phantom:
    """Simulate perfusion CT of an abdomen with a necrotic liver tumour.

    The enhancement of every voxel is the extended Tofts model with delay, driven by a population
    curve of the shape of Parker et al. (Magn Reson Med 2006, doi:10.1002/mrm.21066) scaled to HU.
    The anatomy is the same at every resolution and for every seed; the seed sets the texture of
    the parameters and the noise, each slice with its own stream.

    Parameters
    ----------
    shape
        Voxels (X, Y, Z) along right, front and head (RAS+).
    noise
        Standard deviation of the noise in HU, or of every frame (T,), as of phases of other dose
        (`kety.simulate.noise_of_phases`).
    seed
        Integer of 0 or more; equal arguments give equal bits on one machine.
    protocol
        Name of an acquisition protocol, or the frame times (T,) in s.
    voxel_size
        Spacing (X, Y, Z) in mm. By default square pixels that show the whole trunk
        (4 mm at 96 x 80), and slices of 5 mm, thinner where more than 12 share 60 mm.
    arrival
        Time in s at which the bolus reaches the aorta; earlier frames form the baseline.
    injection
        How much longer than in Parker's patients (about 5 s) contrast is injected, s: CT gives
        several times the volume, so its bolus is broader. 0 is Parker's own shape.
    peak
        Largest enhancement of the aorta in HU.
    hematocrit
        Volume fraction of red cells, for plasma and blood.
    texture
        Relative standard deviation, about, of the smooth variation inside a tissue, 0 to 0.2.
    noise_fwhm
        Correlation of the noise in the slice, full width at half maximum in mm; 0 is white noise.
    rounded
        Store int16 HU clipped to -1024 ... 3071, as a scanner does, instead of float32.
    shuttle
        How long after the lower half of the slices the upper half is taken, s, as by a table that
        shuttles between two positions; less than the shortest interval. The protocol's times are
        those of the lower half, and the series has ``slice_times``.

    Returns
    -------
    Phantom

    Raises
    ------
    KetyError
        Where an argument is out of its range, a protocol unknown or the voxels so large that the
        aorta falls between them.
    """
    times = frame_times(protocol)
    size = check_shape(shape)
    spacing = check_spacing(size, voxel_size)
    sd = checked_noise(noise, times.size)
    check_range("seed", seed, 0, np.inf)
    check_range("arrival", arrival, 0.0, float(times[-1]))
    check_range("injection", injection, 0.0, 60.0)
    check_range("peak", peak, 1.0, 3000.0)
    check_range("texture", texture, 0.0, 0.2)
    check_range("noise_fwhm", noise_fwhm, 0.0, 50.0)
    own_times = shuttled(times, size[2], shuttle)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = [-0.5 * (n - 1) * step for n, step in zip(size, spacing, strict=True)]
    x, y, z = (
        affine[axis, 3] + spacing[axis] * np.arange(n, dtype=np.float64)
        for axis, n in enumerate(size)
    )
    x, y = x[:, None], y[None, :]

    labels = np.stack([paint_slice(x, y, float(height)) for height in z], axis=2)
    if not (labels == LABELS["aorta"]).any():
        raise KetyError(
            f"voxels of {' x '.join(f'{step:g}' for step in spacing)} mm on a grid of "
            f"{' x '.join(map(str, size))} hold no voxel of the aorta; use pixels of 12 mm or "
            "less and a grid that covers the middle of the body"
        )
    texture_seed, noise_seed = np.random.SeedSequence(seed).spawn(2)
    truth = truth_maps(labels, (x, y, z), texture, texture_seed, hematocrit)
    aif = scaled_input(float(own_times.max()), arrival, injection, peak, hematocrit)

    baseline = np.array([tissue.baseline for tissue in TISSUES], dtype=np.float32)[labels]
    data = np.empty((*size, times.size), dtype=np.int16 if rounded else np.float32)
    in_plane = (noise_fwhm / spacing[0], noise_fwhm / spacing[1])
    for k, stream in enumerate(noise_seed.spawn(size[2])):
        image = enhancement({name: truth[name][:, :, k] for name in FREE}, own_times[k], aif)
        image += baseline[:, :, k, None]
        if sd.any():
            grain = gaussian(image.shape, 1.0, seed=stream, fwhm=in_plane)
            image += grain * sd.astype(np.float32)
        data[:, :, k] = np.clip(np.rint(image), *CT_RANGE) if rounded else image

    body = labels != LABELS["air"]
    return Phantom(
        series=Series(
            data,
            own_times.mean(axis=0) if shuttle else times,
            affine,
            "CT",
            {},
            mask=body,
            source="abdomen phantom",
            slice_times=own_times if shuttle else None,
        ),
        truth=truth,
        labels=labels,
        tissues=dict(enumerate(TISSUES)),
        baseline=baseline,
        aif=aif,
        body=body,
        roi=tissue_mask(labels, LESIONS),
    )


def shuttled(times: NDArray[np.float64], slices: int, shuttle: float) -> NDArray[np.float64]:
    """Times (Z, T) of the slices where the upper half is taken ``shuttle`` s after the lower."""
    check_range("shuttle", shuttle, 0.0, float(np.diff(times).min()))
    if shuttle and slices < 2:
        raise KetyError(f"{slices} slice cannot be taken at two positions; give 2 slices or more")
    upper = np.arange(slices) >= (slices + 1) // 2
    return times + shuttle * upper[:, None]


def truth_maps(
    labels: NDArray[np.uint8],
    axes: Sequence[NDArray[np.float64]],
    texture: float,
    seed: np.random.SeedSequence,
    hematocrit: float,
) -> dict[str, NDArray[np.float64]]:
    """Parameter maps (X, Y, Z): each tissue's values times a smooth field about 1."""
    x, y, z = axes
    scale = texture * np.array([tissue.texture for tissue in TISSUES])[labels]
    exchanges = np.array([tissue.ktrans > 0.0 for tissue in TISSUES])[labels]
    enhances = np.array([tissue.enhances for tissue in TISSUES])[labels]
    truth = {}
    for name, stream in zip(FREE, seed.spawn(len(FREE)), strict=True):
        values = np.array([getattr(tissue, name) for tissue in TISSUES])[labels]
        for k, field in enumerate(smooth_fields(x, y, z, stream)):
            values[:, :, k] *= np.exp(scale[:, :, k] * field)
        varied = exchanges & (scale > 0.0)
        values[varied] = np.clip(values[varied], *LIMITS[name])
        truth[name] = values
    truth["kep"][~exchanges] = np.nan
    truth["delay"][~enhances] = np.nan
    ve = np.full(labels.shape, np.nan)
    np.divide(truth["ktrans"], truth["kep"], out=ve, where=exchanges)
    return truth | {"ve": ve, "vp": truth["vb"] * (1.0 - hematocrit)}


def smooth_fields(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    z: NDArray[np.float64],
    seed: np.random.SeedSequence,
) -> list[NDArray[np.float64]]:
    """One random field of unit variance, about, and within +-2: a slice (X, Y) for every z.

    A sum of plane waves of organ-sized length, so that it is the same field on every grid.
    """
    rng = np.random.default_rng(seed)
    direction = rng.standard_normal((WAVES, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    wave = direction * (2.0 * np.pi / rng.uniform(*WAVELENGTHS, size=(WAVES, 1)))
    phase = rng.uniform(0.0, 2.0 * np.pi, size=WAVES)
    amplitude = np.sqrt(2.0 / WAVES)
    along_x = amplitude * np.exp(1j * (x * wave[:, 0] + phase))
    along_y = np.exp(1j * (y.T * wave[:, 1])).T
    return [
        2.0 * np.tanh(0.5 * ((along_x * np.exp(1j * height * wave[:, 2])) @ along_y).real)
        for height in z
    ]


def scaled_input(
    end: float, arrival: float, injection: float, peak: float, hematocrit: float
) -> InputFunction:
    """Parker's curve in HU from ``arrival`` to ``end`` s at least, for a longer injection."""
    # The peak belongs to the curve even where the scan stops before it.
    end = max(end, arrival + injection + BOLUS)
    curve = population_input("parker", end, delay=arrival, hematocrit=hematocrit)
    if injection > 0.0:
        # Enhancement is linear in the dose: an injection that lasts longer is a moving average.
        fine = np.linspace(arrival, end, 1 + int(np.ceil((end - arrival) / FINE_STEP)))
        values = curve(fine)
        steps = 0.5 * np.diff(fine) * (values[1:] + values[:-1])
        area = np.concatenate([[0.0], np.cumsum(steps)])
        bolus_end = arrival + injection + BOLUS
        dense = np.linspace(arrival, bolus_end, 1 + int(np.ceil(2.0 * (bolus_end - arrival))))
        coarse = np.linspace(bolus_end, end, 1 + int(np.ceil(0.5 * (end - bolus_end))))
        knots = np.concatenate([dense[:-1], coarse])
        averaged = np.interp(knots, fine, area) - np.interp(knots - injection, fine, area)
        curve = replace(curve, times=knots, concentration=averaged / injection)
    scaled = curve.concentration * (peak / curve.concentration.max())
    return replace(curve, concentration=scaled, name="aorta")


def enhancement(
    parameters: Mapping[str, NDArray[np.float64]], times: NDArray[np.float64], aif: InputFunction
) -> NDArray[np.float32]:
    """HU above baseline (X, Y, T) of one slice of parameter maps (X, Y); 0 where none enhances."""
    from kety.fitting.forward import simulate_curves

    shape = parameters["delay"].shape
    flat = {name: np.nan_to_num(values).ravel() for name, values in parameters.items()}
    curves = np.zeros((flat["delay"].size, times.size), dtype=np.float32)
    enhancing = np.flatnonzero((flat["ktrans"] > 0.0) | (flat["vb"] > 0.0))
    for first in range(0, enhancing.size, VOXELS_AT_ONCE):
        voxels = enhancing[first : first + VOXELS_AT_ONCE]
        chunk = {name: values[voxels] for name, values in flat.items()}
        curves[voxels] = simulate_curves(chunk, times, aif, "extended_tofts")
    return curves.reshape(*shape, times.size)


def tissue_mask(labels: NDArray[np.uint8], names: Sequence[str]) -> NDArray[np.bool_]:
    """Voxels of ``labels`` that belong to the named tissues."""
    unknown = [name for name in names if name not in LABELS]
    if unknown:
        raise KetyError(
            f"unknown tissue {', '.join(map(repr, unknown))}; expected one of {', '.join(LABELS)}"
        )
    return np.isin(labels, [LABELS[name] for name in names])


def check_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """Return the grid as three integers, or raise ``KetyError``."""
    size = tuple(int(n) for n in shape)
    if len(size) != 3 or any(n < 1 or n != given for n, given in zip(size, shape, strict=True)):
        raise KetyError(f"found shape {tuple(shape)}; expected three positive integers (X, Y, Z)")
    return size[0], size[1], size[2]


def check_spacing(
    size: tuple[int, int, int], voxel_size: Sequence[float] | None
) -> tuple[float, float, float]:
    """Return the voxel spacing in mm, given or chosen to show the whole trunk."""
    if voxel_size is None:
        pixel = max(FIELD_OF_VIEW[0] / size[0], FIELD_OF_VIEW[1] / size[1])
        return pixel, pixel, min(SLICE_THICKNESS, FIELD_OF_VIEW[2] / size[2])
    if len(voxel_size) != 3 or not all(np.isfinite(step) and step > 0.0 for step in voxel_size):
        raise KetyError(f"found voxel size {tuple(voxel_size)}; expected three lengths in mm > 0")
    return float(voxel_size[0]), float(voxel_size[1]), float(voxel_size[2])


def check_range(name: str, value: float, lower: float, upper: float) -> None:
    """Raise ``KetyError`` unless ``value`` lies between the limits."""
    if not lower <= value <= upper:
        raise KetyError(f"found {name} {value}; expected a value from {lower:g} to {upper:g}")
