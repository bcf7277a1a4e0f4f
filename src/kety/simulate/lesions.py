"""A test object for joint estimation: three tissues, a gradient, and many lesions of a few voxels.

Joint estimation lowers the noise of parameter maps by joining voxels, and may pay for it with
small lesions, borders and gradients. This object has all of them in numbers that can be measured
(`kety.simulate.lesion_measures`). It is a plane of voxels, repeated where there are several slices:

* ``spleen`` on the left, its straight border with the ``liver`` free of anything else near it;
* a disc of ``muscle``, for a curved border and a tissue that hardly enhances;
* a rectangle where every parameter changes smoothly, ``ktrans`` and ``vb`` along x, ``kep`` and
  ``delay`` along y;
* lesions of 1, 2 and 4 (2 x 2) voxels that enhance more or less than their surround.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError
from kety.inputs import InputFunction
from kety.models import Model, get_model
from kety.simulate.lesion_layout import (
    BETWEEN,
    LABEL_NAMES,
    LABELS,
    SMALLEST,
    Border,
    Lesion,
    paint_plane,
    place_lesions,
)
from kety.simulate.noise import check_sd, gaussian
from kety.simulate.phantom import VOXELS_AT_ONCE, check_range, check_shape, scaled_input
from kety.simulate.sampling import frame_times

LESION_NOISE: Final = 12.0
"""HU. Perfusion CT of the abdomen has about 25 HU at full resolution (what Vats et al. give their
digital phantoms, Sci Rep 15:37165, 2025, doi:10.1038/s41598-025-24482-x). Half of it is left where
2 x 2 pixels are averaged, as is usual before voxelwise estimation."""
ARRIVAL, INJECTION, PEAK, HEMATOCRIT = 10.0, 10.0, 300.0, 0.42
"""Default input: s, s, HU, and the volume fraction of red cells; see `simulate_abdomen`."""

BACKGROUND: Final[Mapping[str, Mapping[str, float]]] = MappingProxyType(
    {
        "liver": {"ktrans": 0.32, "kep": 0.8, "vb": 0.13, "delay": 6.0},
        "spleen": {"ktrans": 0.75, "kep": 2.2, "vb": 0.28, "delay": 1.5},
        "muscle": {"ktrans": 0.12, "kep": 0.6, "vb": 0.03, "delay": 4.0},
    }
)
"""Extended Tofts parameters in 1/min, as a fraction and in s. Liver and spleen are those of the
abdomen phantom; the muscle works, since at rest it would not rise above the noise."""
GRADIENT: Final[Mapping[str, tuple[float, float]]] = MappingProxyType(
    {"ktrans": (0.2, 0.55), "kep": (0.7, 1.8), "vb": (0.05, 0.22), "delay": (1.0, 5.0)}
)
"""Parameter to its values at the two ends of the gradient."""
KINDS: Final[Mapping[str, tuple[float, float, float, float]]] = MappingProxyType(
    {"hyper": (1.6, 1.3, 1.5, 0.0), "hypo": (0.6, 0.75, 0.6, 2.0)}
)
"""Kind of lesion to the factors on ``ktrans``, ``kep`` and ``vb`` of its surround, and to the
seconds by which its blood comes later."""


@dataclass(frozen=True, eq=False)
class LesionPhantom:
    """The test object and the truth behind it.

    Attributes
    ----------
    curves
        Noisy enhancement, float32 (X, Y, Z, T), in the unit of ``aif``; there is no baseline.
    clean
        The same without noise, or None where it was not kept.
    times
        Frame times (T,) in s.
    aif
        Arterial input.
    model
        Name of the model that made the curves.
    truth
        Map (X, Y, Z) of every free and derived parameter of the model, in public units.
    labels
        Key of ``label_names``, uint8 (X, Y, Z); lesions have labels of their own.
    label_names
        Label to tissue: ``liver``, ``spleen``, ``muscle``, ``gradient``, ``hyper lesion``,
        ``hypo lesion``.
    lesions
        Every lesion.
    border
        The straight border, of spleen (left) and liver.
    noise
        Standard deviation of the noise, in the unit of the curves.
    """

    curves: NDArray[np.float32]
    clean: NDArray[np.float32] | None
    times: NDArray[np.float64]
    aif: InputFunction
    model: str
    truth: Mapping[str, NDArray[np.float64]]
    labels: NDArray[np.uint8]
    label_names: Mapping[int, str]
    lesions: tuple[Lesion, ...]
    border: Border
    noise: float

    def mask(self, *names: str) -> NDArray[np.bool_]:
        """Voxels (X, Y, Z) of the named tissues; an unknown name raises ``KetyError``."""
        label = {name: key for key, name in self.label_names.items()}
        unknown = [name for name in names if name not in label]
        if unknown:
            raise KetyError(
                f"unknown tissue {', '.join(map(repr, unknown))}; expected one of "
                f"{', '.join(label)}"
            )
        return np.isin(self.labels, [label[name] for name in names])

    def lesion_mask(self, size: int | None = None) -> NDArray[np.bool_]:
        """Voxels (X, Y, Z) of all lesions, or of those of ``size`` voxels."""
        inside = np.zeros(self.labels.shape, dtype=np.bool_)
        for lesion in self.lesions:
            if size is None or lesion.size == size:
                inside[tuple(np.transpose(lesion.voxels))] = True
        return inside


def simulate_lesions(
    shape: Sequence[int] = (64, 64, 1),
    *,
    model: str = "extended_tofts",
    noise: float = LESION_NOISE,
    noise_fwhm: float = 0.0,
    seed: int = 0,
    protocol: str | ArrayLike = "two_phase",
    aif: InputFunction | None = None,
    keep_clean: bool = False,
) -> LesionPhantom:
    """Simulate a test object for joint estimation with lesions of 1, 2 and 4 voxels.

    On a larger grid tissues keep their share, lesions keep their size and grow in number; 64 x 64
    voxels hold 14 or more of each size. Labels and truth do not depend on the seed, so that seeds
    are repetitions.

    Parameters
    ----------
    shape
        Voxels (X, Y, Z), X and Y at least 48. Lesions lie in every fourth slice and in one slice
        each.
    model
        Name in `kety.models.MODELS`. Its parameters follow from those of the extended Tofts model,
        ``k1`` as ``ktrans / (1 - hematocrit)`` and ``k2`` as ``kep``; what the model lacks is left
        out of the curves too.
    noise
        Standard deviation of the noise, in the unit of the input.
    noise_fwhm
        Correlation of the noise in the slice, full width at half maximum in voxels; 0 is white.
    seed
        Integer of 0 or more, of the noise; each slice has its own stream.
    protocol
        Name of an acquisition protocol, or the frame times (T,) in s. The default is perfusion CT
        of the abdomen.
    aif
        Arterial input; by default a CT bolus that arrives at 10 s and peaks at 300 HU.
    keep_clean
        Keep the curves without noise too.

    Returns
    -------
    LesionPhantom

    Raises
    ------
    KetyError
        Where an argument is out of its range, the model is unknown or has a parameter without a
        value here, or the input does not cover the frames.
    """
    times = frame_times(protocol)
    size = check_shape(shape)
    check_sd(noise)
    check_range("seed", seed, 0, np.inf)
    if min(size[:2]) < SMALLEST:
        raise KetyError(
            f"found a grid of {size[0]} x {size[1]} voxels; tissues and lesions need at least "
            f"{SMALLEST} x {SMALLEST}"
        )
    record = get_model(model)
    if aif is None:
        aif = scaled_input(float(times[-1]), ARRIVAL, INJECTION, PEAK, HEMATOCRIT)
    plane, border = paint_plane(size[0], size[1])
    labels = np.repeat(plane[:, :, None], size[2], axis=2)
    lesions = tuple(
        lesion for z in range(0, size[2], BETWEEN) for lesion in place_lesions(plane, border, z)
    )
    tofts = background_maps(labels)
    for lesion in lesions:
        put_lesion(lesion, labels, tofts)
    truth = model_maps(record, tofts, aif.hematocrit)

    clean = model_curves(record, truth, times, aif)
    curves = clean.copy() if keep_clean else clean
    if noise > 0.0:
        for z, stream in enumerate(np.random.SeedSequence(seed).spawn(size[2])):
            drawn = gaussian(
                curves[:, :, z].shape, noise, seed=stream, fwhm=(noise_fwhm, noise_fwhm)
            )
            curves[:, :, z] += drawn
    return LesionPhantom(
        curves=curves,
        clean=clean if keep_clean else None,
        times=times,
        aif=aif,
        model=model,
        truth=truth,
        labels=labels,
        label_names=LABEL_NAMES,
        lesions=lesions,
        border=border,
        noise=noise,
    )


def background_maps(labels: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
    """Extended Tofts parameters (X, Y, Z) of the tissues without lesions."""
    inside = labels == LABELS["gradient"]
    where = np.nonzero(inside)
    # A half cosine: no kink at the ends.
    rise = [
        0.5 - 0.5 * np.cos(np.pi * (axis - axis.min()) / (axis.max() - axis.min()))
        for axis in where[:2]
    ]
    maps = {}
    for name, (low, high) in GRADIENT.items():
        values = np.zeros(len(LABEL_NAMES))
        for tissue, parameters in BACKGROUND.items():
            values[LABELS[tissue]] = parameters[name]
        maps[name] = values[labels]
        maps[name][inside] = low + (high - low) * rise[0 if name in ("ktrans", "vb") else 1]
    return maps


def put_lesion(
    lesion: Lesion, labels: NDArray[np.uint8], maps: Mapping[str, NDArray[np.float64]]
) -> None:
    """Write a lesion into labels and parameters (X, Y, Z)."""
    at = tuple(np.transpose(lesion.voxels))
    labels[at] = LABELS[f"{lesion.kind} lesion"]
    *factors, later = KINDS[lesion.kind]
    for name, factor in zip(("ktrans", "kep", "vb"), factors, strict=True):
        maps[name][at] *= factor
    maps["delay"][at] += later


def model_maps(
    model: Model, tofts: Mapping[str, NDArray[np.float64]], hematocrit: float
) -> dict[str, NDArray[np.float64]]:
    """Free and derived parameters of a model from those of the extended Tofts model."""
    known = {**tofts, "k1": tofts["ktrans"] / (1.0 - hematocrit), "k2": tofts["kep"]}
    missing = [name for name in model.names if name not in known]
    if missing:
        raise KetyError(
            f"the tissues have no {', '.join(missing)} for the model {model.name!r}; known are "
            f"{', '.join(known)}"
        )
    values = {name: known[name] for name in model.names}
    derived = {
        one.name: np.asarray(one.value(*(values[n] for n in one.of), hematocrit), np.float64)
        for one in model.derived
    }
    return values | derived


def model_curves(
    model: Model,
    truth: Mapping[str, NDArray[np.float64]],
    times: NDArray[np.float64],
    aif: InputFunction,
) -> NDArray[np.float32]:
    """Curves (X, Y, Z, T) of parameter maps (X, Y, Z)."""
    from kety.fitting.forward import simulate_curves

    flat = {name: truth[name].ravel() for name in model.names}
    shape = truth["delay"].shape
    curves = np.empty((truth["delay"].size, times.size), dtype=np.float32)
    for first in range(0, len(curves), VOXELS_AT_ONCE):
        part = slice(first, first + VOXELS_AT_ONCE)
        chunk = {name: values[part] for name, values in flat.items()}
        curves[part] = simulate_curves(chunk, times, aif, model.name)
    return curves.reshape(*shape, times.size)
