"""From the numbers in a series to concentration or enhancement."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from kety.errors import KetyError
from kety.pipeline.preparation import Region
from kety.pipeline.telling import Tell, count

if TYPE_CHECKING:
    from kety.series import Series
    from kety.signal import Frames, IodineCalibration

PathLike = str | os.PathLike[str]

RELAXIVITY: Final = 4.5
"""Relaxivity r1 in 1/(mM s) where none is given: about that of gadolinium chelates at 1.5 T."""
_WHOLE: Final = Region()


@dataclass(frozen=True)
class Conversion:
    """How a signal becomes concentration (MR) or enhancement (CT).

    Attributes
    ----------
    baseline
        Frames before contrast agent; None: found from the arrival of the input.
    flip_angle, repetition_time
        Of the dynamic MR series, degrees and s; None: from its sidecar.
    relaxivity
        r1, 1/(mM s); None for `RELAXIVITY`.
    t10
        T1 before contrast agent: a number in s or an image; None: from ``vfa``.
    vfa
        One image with a volume for each flip angle, or one image for each.
    vfa_angles
        Their flip angles, degrees; empty: ``FlipAngle`` in their sidecars.
    vfa_method
        ``"nonlinear"`` or ``"linear"``, see `kety.signal.t1_from_flip_angles`.
    vfa_repetition_time
        TR of these images, s; None: from their sidecar, else as of the series.
    b1
        Ratio of the actual to the nominal flip angle, a number or an image; None for 1.
    iodine
        Of CT: True for mg/mL of iodine in place of HU, by the tube voltage
        (`kety.signal.iodine_calibration`); a number for a scanner's own calibration, HU per mg/mL.
    """

    baseline: Frames | None = None
    flip_angle: float | None = None
    repetition_time: float | None = None
    relaxivity: float | None = None
    t10: float | PathLike | None = None
    vfa: Sequence[PathLike] = ()
    vfa_angles: Sequence[float] = ()
    vfa_method: Literal["nonlinear", "linear"] | None = None
    vfa_repetition_time: float | None = None
    b1: float | PathLike | None = None
    iodine: bool | float = False

    def check(self, quantity: str) -> None:
        """Refuse what does not apply to a series of that quantity, and T1 from two sources."""
        names = [name for name in vars(self) if name not in ("baseline", "iodine")]
        given = [name for name in names if getattr(self, name) not in (None, (), [])]
        if quantity != "signal" and given:
            raise KetyError(
                f"the series holds {quantity}, but {', '.join(given)} would convert an MR signal; "
                "leave out what does not apply"
            )
        if self.iodine and quantity not in ("hu", "enhancement"):
            raise KetyError(f"iodine is told by CT numbers, but the series holds {quantity}")
        if quantity in ("enhancement", "concentration") and self.baseline is not None:
            raise KetyError(
                f"the series holds {quantity}, whose baseline is 0 already; leave the baseline "
                "frames out"
            )
        if self.t10 is not None and self.vfa:
            raise KetyError("T1 is given and flip angles to estimate it from as well; give one")
        for name in ("vfa_angles", "vfa_method", "vfa_repetition_time"):
            if name in given and not self.vfa:
                raise KetyError(f"{name} is given, but no images of several flip angles (vfa)")

    def calibration(self, series: Series) -> IodineCalibration | None:
        """What iodine adds to the CT numbers of a series; None where that is not asked for.

        Raises
        ------
        KetyError
            If the tube voltage is needed and not known, or beyond what is tabulated.
        """
        from kety.signal import given_calibration, iodine_calibration

        if self.iodine is False:
            return None
        if self.iodine is not True:
            return given_calibration(self.iodine)
        if "kvp" not in series.acquisition:
            raise KetyError(
                f"{series.source}: the tube voltage is needed for mg/mL of iodine and is not in "
                "the header or sidecar (KVP); give the calibration, in HU per mg/mL"
            )
        return iodine_calibration(series.acquisition["kvp"])


@dataclass(frozen=True)
class Scan:
    """The acquisition of an MR series and what is known of its voxels before contrast agent."""

    repetition_time: float  # s
    flip_angle: float  # degrees
    relaxivity: float  # 1/(mM s)
    t10: float | NDArray[Any]  # s
    b1: float | NDArray[Any] | None

    def concentration(
        self,
        signal: NDArray[Any],
        baseline: NDArray[np.intp],
        *,
        mask: NDArray[np.bool_] | None = None,
        voxels: NDArray[np.bool_] | None = None,
        t10: float | None = None,
    ) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """Concentration (..., T) in mM and conversion status (...) of signals.

        ``voxels`` chooses, from maps of T10 and B1, those of the signals.
        """
        from kety.signal import concentration_from_signal

        result = concentration_from_signal(
            signal,
            t10=_chosen(self.t10, voxels) if t10 is None else t10,
            repetition_time=self.repetition_time,
            flip_angle=self.flip_angle,
            relaxivity=self.relaxivity,
            baseline=baseline,
            b1=_chosen(self.b1, voxels),
            mask=mask,
        )
        return result.values, result.status

    @property
    def facts(self) -> dict[str, Any]:
        """What a provenance record should say of it."""
        t10 = _summary(self.t10)
        b1 = {} if self.b1 is None else {"b1": _summary(self.b1)}
        return {
            "repetition_time_s": self.repetition_time,
            "flip_angle_deg": self.flip_angle,
            "relaxivity_per_mM_per_s": self.relaxivity,
            "t10_s": t10,
            **b1,
        }


def _chosen(value: Any, voxels: NDArray[np.bool_] | None) -> Any:
    return value[voxels] if voxels is not None and np.ndim(value) else value


def _summary(value: float | NDArray[Any]) -> float | str:
    if np.ndim(value) == 0:
        return float(value)
    finite = np.asarray(value)[np.isfinite(value)]
    median = f"median {np.median(finite):.3g}" if finite.size else "no finite value"
    return f"map, {median}"


def read_scan(
    conversion: Conversion,
    series: Series,
    mask: NDArray[np.bool_] | None,
    tell: Tell,
    region: Region = _WHOLE,
) -> Scan:
    """Gather the acquisition of an MR series, and read or estimate its T1 before contrast agent.

    Images lie on the grid of the series, ``mask`` and the maps of the result on the region's.

    Raises
    ------
    KetyError
        If TR, flip angle or T1 is nowhere to be found, or an image does not fit.
    """
    known = series.acquisition
    tr = _needed(conversion.repetition_time, known, "repetition_time", "TR", series)
    angle = _needed(conversion.flip_angle, known, "flip_angle", "flip angle", series)
    relaxivity = RELAXIVITY if conversion.relaxivity is None else conversion.relaxivity
    assumed = " (assumed)" if conversion.relaxivity is None else ""
    b1 = _number_or_map(conversion.b1, series, region)
    tell("signal", f"TR {1000 * tr:g} ms, flip angle {angle:g}°, r1 {relaxivity:g} /mM/s{assumed}")
    if conversion.vfa:
        t10: Any = _estimated_t1(conversion, series, tr, b1, mask, tell, region)
    else:
        t10 = _number_or_map(conversion.t10, series, region)
        if t10 is None:
            raise KetyError(
                f"{series.source}: T1 before contrast agent is needed to convert an MR signal; "
                "give it in s, as a map, or images of several flip angles"
            )
        words = f"{t10:g} s everywhere" if np.ndim(t10) == 0 else f"from {_name(conversion.t10)}"
        tell("T1", words)
    return Scan(tr, angle, relaxivity, t10, b1)


def _needed(given: float | None, known: Any, key: str, words: str, series: Series) -> float:
    if given is not None:
        return float(given)
    if key in known:
        return float(known[key])
    raise KetyError(
        f"{series.source}: no {words} given, and none in its sidecar; it is needed to convert an "
        "MR signal"
    )


def _name(value: Any) -> str:
    return Path(value).name


def _number_or_map(value: float | PathLike | None, series: Series, region: Region) -> Any:
    """A number as it is; of an image on the grid of the series the voxels of the region."""
    if value is None or isinstance(value, int | float):
        return value
    from kety.io import read_volume

    return region.positive(read_volume(value, like=series).data)


def _estimated_t1(
    conversion: Conversion,
    series: Series,
    tr: float,
    b1: Any,
    mask: NDArray[np.bool_] | None,
    tell: Tell,
    region: Region,
) -> NDArray[Any]:
    from kety.signal import T1_SENTENCES, T1Status, t1_from_flip_angles

    signals, angles, own_tr = _flip_angle_images(conversion, series)
    t1 = t1_from_flip_angles(
        region.image(signals),
        angles,
        conversion.vfa_repetition_time or own_tr or tr,
        method=conversion.vfa_method or "nonlinear",
        b1=b1,
        mask=mask,
    )
    good = t1.status == T1Status.ESTIMATED
    tried = int(np.count_nonzero(t1.status != T1Status.OUTSIDE))
    if not good.any():
        reason = T1Status(int(t1.status[t1.status != T1Status.OUTSIDE][0]))
        raise KetyError(
            f"T1 could not be estimated in any of {count(tried, 'voxel')} "
            f"({T1_SENTENCES[reason].rstrip('.').lower()} in the first); check the flip angles "
            f"{', '.join(f'{a:g}' for a in angles)} and their order"
        )
    tell(
        "T1",
        f"from flip angles {', '.join(f'{a:g}' for a in angles)}°: median "
        f"{np.median(t1.t1[good]):.3g} s; {np.count_nonzero(good):,} of {count(tried, 'voxel')}",
    )
    return t1.t1


def _flip_angle_images(
    conversion: Conversion, series: Series
) -> tuple[NDArray[Any], list[float], float | None]:
    """Signals (X, Y, Z, A), their flip angles (degrees) and TR (s) by their sidecar."""
    from kety.io import read_volume

    if len(conversion.vfa) == 1:
        stack = read_volume(conversion.vfa[0], like=series, stack=True)
        data, sidecars = stack.data, [stack.sidecar]
    else:
        volumes = [read_volume(path, like=series) for path in conversion.vfa]
        data = np.stack([volume.data for volume in volumes], axis=-1)
        sidecars = [volume.sidecar for volume in volumes]
    angles: list[float] = [float(a) for a in conversion.vfa_angles]
    if not angles:
        try:
            angles = [float(a) for s in sidecars for a in np.atleast_1d(s["FlipAngle"])]
        except (KeyError, TypeError, ValueError):
            raise KetyError(
                f"{_name(conversion.vfa[0])}: no flip angles given, and no FlipAngle in its "
                "sidecar; give one for each volume, in their order"
            ) from None
    if len(angles) != data.shape[-1]:
        raise KetyError(
            f"{_name(conversion.vfa[0])}: {count(data.shape[-1], 'volume')}, but "
            f"{count(len(angles), 'flip angle')}; give one for each, in their order"
        )
    own = {s.get("RepetitionTimeExcitation", s.get("RepetitionTime")) for s in sidecars}
    own_tr = own.pop() if len(own) == 1 else None
    if own:
        raise KetyError(
            "the flip-angle images have different repetition times by their sidecars; images of "
            "one repetition time are needed"
        )
    return data, angles, own_tr if isinstance(own_tr, int | float) else None


def unconverted(status: NDArray[np.uint8], tell: Tell) -> dict[str, int]:
    """Count the voxels that could not be converted, by reason, and say so."""
    from kety.signal import ConversionStatus

    reasons = (
        (ConversionStatus.NO_T10, "no T1"),
        (ConversionStatus.NO_BASELINE, "no baseline signal"),
        (ConversionStatus.INCOMPLETE, "frames beyond any concentration"),
    )
    counts = {word: int(np.count_nonzero(status == value)) for value, word in reasons}
    counts = {word: number for word, number in counts.items() if number}
    tried = int(np.count_nonzero(status != ConversionStatus.OUTSIDE))
    details = "; ".join(f"{number:,} {word}" for word, number in counts.items())
    good = tried - sum(counts.values())
    tell("converted", f"{good:,} of {count(tried, 'voxel')}" + (f" ({details})" if counts else ""))
    return counts
