"""What is done to a series before and after its conversion: crop, downsample, denoise."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from kety.errors import KetyError
from kety.pipeline.telling import Tell, count

if TYPE_CHECKING:
    from kety.preprocess import Blocks, Box
    from kety.series import Series
    from kety.signal import Frames
    from kety.voxels import AboveLevel


@dataclass(frozen=True)
class Region:
    """The part of a series that is fitted, and the blocks of voxels that are averaged in it.

    Attributes
    ----------
    box
        None for the whole image.
    blocks
        None for single voxels.
    """

    box: Box | None = None
    blocks: Blocks | None = None

    def __bool__(self) -> bool:
        return self.box is not None or self.blocks is not None

    def series(self, whole: Series, tell: Tell) -> tuple[Series, dict[str, Any]]:
        """Cut and average a series; the series itself and no facts where nothing is to be done.

        Raises
        ------
        KetyError
            As `kety.preprocess.crop` and `downsample`.
        """
        from kety.preprocess import crop, downsample

        series = whole
        facts: dict[str, Any] = {}
        if self.box is not None:
            series = crop(series, self.box)
            slices = self.box.slices(whole.shape)
            facts["crop"] = ",".join(f"{one.start}:{one.stop}" for one in slices)
            tell("crop", f"{facts['crop']}, {described(series)}")
        if self.blocks is not None:
            facts["downsample"] = list(self.blocks.sizes(series.shape))
            words = " × ".join(map(str, facts["downsample"]))
            series = downsample(series, self.blocks)
            tell("blocks", f"means of {words} voxels, {described(series)}")
        return series, facts

    def image(self, values: NDArray[Any]) -> NDArray[Any]:
        """Bring an image (X, Y, Z) or stack (X, Y, Z, N) of the whole grid to the series'."""
        if self.box is not None:
            values = values[self.box.slices(values.shape[:3])]
        return values if self.blocks is None else self.blocks.mean(values)

    def positive(self, values: NDArray[Any]) -> NDArray[Any]:
        """As `image`, of a map in which 0 or less means that nothing is known."""
        if self.blocks is not None:
            values = np.where(values > 0, values, np.nan)
        return self.image(values)

    def mask(self, inside: NDArray[np.bool_], name: str) -> NDArray[np.bool_]:
        """Bring a mask (X, Y, Z) of the whole grid to the series'.

        Raises
        ------
        KetyError
            If nothing is left of it.
        """
        if self.box is not None:
            inside = inside[self.box.slices(inside.shape)]
        if self.blocks is not None:
            inside = self.blocks.half(inside)
        if not inside.any():
            raise KetyError(f"{name}: none of its voxels lies in the part that is fitted")
        return inside


def region_of(crop: str | Box | None, downsample: str | int | Sequence[int] | None) -> Region:
    """The region of what a caller gives: a box, and block sizes as numbers or ``"2"``, ``"2,2,1"``.

    Raises
    ------
    KetyError
        If one of them is malformed.
    """
    from kety.preprocess import Blocks, Box

    box = Box.parse(crop) if isinstance(crop, str) else crop
    if downsample is None:
        return Region(box)
    factors: Any = downsample
    if isinstance(factors, str):
        try:
            factors = [int(part) for part in factors.split(",")]
        except ValueError:
            factors = ()
        if len(factors) not in (1, 3):
            raise KetyError(f"downsample {downsample!r}; expected e.g. 2, or 2,2,1 along x, y, z")
        factors = factors[0] if len(factors) == 1 else factors
    return Region(box, Blocks.of(factors))


def keep_of(denoise: str | None) -> int | Literal["auto"] | None:
    """What ``"dct"`` or ``"dct:N"`` keeps: "auto" or N coefficients; None of None.

    Raises
    ------
    KetyError
        If it is neither.
    """
    if denoise is None:
        return None
    method, colon, number = denoise.partition(":")
    if method == "dct" and not colon:
        return "auto"
    if method == "dct" and number.isascii() and number.isdecimal():
        return int(number)
    raise KetyError(f"denoise {denoise!r}; expected dct, or dct:N for N coefficients")


def denoised(
    curves: NDArray[Any] | AboveLevel,
    series: Series,
    keep: int | Literal["auto"] | None,
    facts: dict[str, Any],
    tell: Tell,
) -> NDArray[Any] | AboveLevel:
    """Denoise curves (X, Y, Z, T) where asked to; what was done is added to the facts.

    Warns that standard errors take no account of it.

    Raises
    ------
    KetyError
        As `kety.preprocess.dct_denoise`.
    """
    if keep is None:
        return curves
    from kety.preprocess import choose_keep, dct_denoise, effective_frames

    curves = np.asarray(curves)
    times, frames = series.times, series.times.size
    chosen = choose_keep(curves, times, mask=series.mask) if keep == "auto" else keep
    result = dct_denoise(curves, times, chosen, mask=series.mask)
    independent = effective_frames(chosen, frames)
    words = "chosen from the curves" if keep == "auto" else "as given"
    tell("denoised", f"{count(chosen, 'cosine')} of {frames}, {words}")
    facts["denoised"] = {"method": "dct", "keep": chosen, "frames": frames, "keep_from": words}
    if independent < frames:
        warnings.warn(
            f"of the {frames} frames of denoised curves only {independent} are independent; the "
            "standard errors take no account of it and are at least "
            f"{np.sqrt(frames / independent):.1f} times too small, and voxels that do not enhance "
            "may pass as fitted",
            stacklevel=2,
        )
    return result


def described(series: Series) -> str:
    """Voxels of a series, their size, and how many are in its mask, in words."""
    shape = " × ".join(map(str, series.shape))
    size = " × ".join(f"{s:.3g}" for s in np.linalg.norm(series.affine[:3, :3], axis=0))
    inside = "" if series.mask is None else f", {count(int(series.mask.sum()), 'voxel')} in mask"
    return f"{shape} voxels of {size} mm{inside}"


def kind_of(mask: str | os.PathLike[str] | None) -> str | None:
    """The kind of mask that is to be made from the series; None where a file is named, or none.

    Raises
    ------
    KetyError
        If it is neither a kind nor a file, nor named like one.
    """
    from kety.preprocess import KINDS

    if mask is None:
        return None
    name = os.fspath(mask)
    if name in KINDS:
        return name
    if not Path(name).exists() and "." not in name:
        raise KetyError(
            f"unknown mask {name!r}: there is no such file, and the kinds of mask that are made "
            f"from the series are {', '.join(KINDS)}"
        )
    return None


def without_padding(
    curves: NDArray[Any] | AboveLevel, data: NDArray[Any], padding: NDArray[np.bool_]
) -> NDArray[Any] | AboveLevel:
    """Curves that are NaN where a voxel is padding in some of the phases, but not in all.

    What is padding in all phases is constant, and does not enhance.

    Parameters
    ----------
    curves, data
        (X, Y, Z, T), converted and as read.
    padding
        (X, Y, Z), where a voxel is padding in any phase.
    """
    from kety.voxels import AboveLevel

    changes = np.zeros(padding.shape, dtype=np.bool_)
    for phase in range(1, data.shape[3]):
        changes |= data[..., phase] != data[..., 0]
    changes &= padding
    if not changes.any():
        return curves
    if isinstance(curves, AboveLevel):
        return AboveLevel(curves.data, np.where(changes, np.nan, curves.level).astype(curves.dtype))
    known = curves.astype(np.result_type(curves.dtype, np.float32))
    known[changes] = np.nan
    return known


def made_mask(
    series: Series, kind: str, quantity: str, baseline: Frames | None
) -> NDArray[np.bool_]:
    """A mask of one of `kety.preprocess.KINDS` from a series of CT numbers or MR signal.

    Raises
    ------
    KetyError
        If the series holds something else, and as `kety.preprocess.make_mask`.
    """
    from kety.preprocess import make_mask

    if quantity not in ("hu", "signal"):
        raise KetyError(
            f"{series.source}: a mask of {kind} is made from CT numbers or MR signal, but the "
            f"series holds {quantity}; give a mask file"
        )
    return make_mask(series, kind, baseline=baseline)


def weights_of(
    noise: str | os.PathLike[str] | None,
    curves: NDArray[Any] | AboveLevel,
    series: Series,
    unit: str,
    facts: dict[str, Any],
    tell: Tell,
) -> NDArray[np.float64] | None:
    """Weights (T,) of the frames by their noise, measured (``"auto"``) or from a file.

    Raises
    ------
    KetyError
        As `kety.signal.frame_noise`, and for a file without one positive number for every frame.
    """
    if noise is None:
        return None
    from kety.signal import frame_noise, noise_weights

    if str(noise) == "auto":
        # Air has noise of its own, and most of the voxels that do not enhance are air.
        inside = None
        if facts["quantity"] == "hu":
            from kety.preprocess import air_mask

            inside = ~air_mask(np.asarray(series.data[..., 0]))
        sd, words = frame_noise(curves, series.times, inside), "measured in the series"
    else:
        sd, words = _read_noise(Path(noise), series.times.size), f"from {Path(noise).name}"
    weights = noise_weights(sd)
    tell("noise", f"{sd.min():.3g} to {sd.max():.3g} {unit} in a frame, {words}; frames weighted")
    facts["frame_noise"] = {"unit": unit, "from": words, "sd": [float(f"{s:.4g}") for s in sd]}
    return weights


def _read_noise(path: Path, frames: int) -> NDArray[np.float64]:
    """A standard deviation for every frame: one number a line, or the last column of a table."""
    lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    cells = [line.replace(";", ",").replace("\t", ",").split(",")[-1] for line in lines]
    if len(cells) == frames + 1:
        cells = cells[1:]
    try:
        values = np.array([float(cell) for cell in cells])
    except ValueError as error:
        raise KetyError(f"{path}: {error}; expected one number for every frame") from error
    if values.size != frames:
        raise KetyError(f"{path}: {values.size} numbers for {frames} frames; give one for each")
    return values


def own_times_in_words(series: Series) -> str:
    """How many times the slices of a frame have, and how far apart they are."""
    from kety.slices import slice_groups

    assert series.slice_times is not None
    number = len(slice_groups(series.slice_times))
    apart = float(np.ptp(series.slice_times, axis=0).max())
    return f"{number} different times in a frame, up to {apart:.3g} s apart; each is kept"
