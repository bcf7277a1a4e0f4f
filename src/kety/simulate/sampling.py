"""When a dynamic study takes its frames: named acquisition protocols and a uniform grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError


@dataclass(frozen=True)
class Phase:
    """A run of evenly spaced frames: time of the first [s], spacing [s] and how many."""

    start: float
    interval: float
    samples: int


@dataclass(frozen=True)
class Protocol:
    """A named acquisition: its phases in order, and a sentence on where it comes from."""

    name: str
    description: str
    phases: tuple[Phase, ...]

    @property
    def times(self) -> NDArray[np.float64]:
        """Frame times (T,) in s, strictly increasing, the first at 0."""
        return np.concatenate(
            [phase.start + phase.interval * np.arange(phase.samples) for phase in self.phases]
        )


PROTOCOLS: Final[Mapping[str, Protocol]] = MappingProxyType(
    {
        record.name: record
        for record in (
            Protocol(
                "two_phase",
                "Abdominal perfusion CT: 2.5 s through the first pass, then 5 s and 10 s; "
                "66 frames over 300 s, the frame count, spacings and length of the multi-task "
                "estimation study of abdominal tumours.",
                (Phase(0.0, 2.5, 37), Phase(95.0, 5.0, 16), Phase(180.0, 10.0, 13)),
            ),
            # The published intervals add up to 201 s and the published duration is 209 s; the
            # 8 s left over are put where a scanner changes its mode, 4 s at each change.
            Protocol(
                "brain",
                "Brain perfusion CT: 9 frames at 2 s, 19 at 5 s, 9 at 10 s; 37 frames over 209 s "
                "(Svistoun et al., Tomography 2019, doi:10.18383/j.tom.2018.00048, table 2).",
                (Phase(0.0, 2.0, 9), Phase(25.0, 5.0, 19), Phase(129.0, 10.0, 9)),
            ),
            Protocol(
                "uniform",
                "200 frames at 1 s, data set 1 of Svistoun et al. (Tomography 2019, table 2).",
                (Phase(0.0, 1.0, 200),),
            ),
        )
    }
)


def protocol(name: str) -> NDArray[np.float64]:
    """Return the frame times of a named protocol.

    Parameters
    ----------
    name
        One of ``PROTOCOLS``: ``"two_phase"``, ``"brain"`` or ``"uniform"``.

    Returns
    -------
    ndarray, shape (T,)
        Times in s, strictly increasing, the first at 0.

    Raises
    ------
    KetyError
        Where the name is unknown; the message lists the valid ones.
    """
    try:
        return PROTOCOLS[name].times
    except KeyError:
        raise KetyError(
            f"unknown protocol {name!r}; expected one of {', '.join(sorted(PROTOCOLS))}, "
            "or pass the frame times in s"
        ) from None


def noise_of_phases(name: str, noise: Sequence[float]) -> NDArray[np.float64]:
    """Noise of every frame (T,) of a named protocol whose phases have these, one for each or all.

    Raises
    ------
    KetyError
        Where the name is unknown or the protocol has another number of phases.
    """
    frames = protocol(name).size
    phases = PROTOCOLS[name].phases
    values = list(noise)
    if len(values) == 1:
        return np.full(frames, float(values[0]))
    if len(values) != len(phases):
        raise KetyError(
            f"found {len(values)} values of noise for the {len(phases)} phases of {name}; give one "
            "for all, or one for each"
        )
    samples = [phase.samples for phase in phases]
    return np.repeat(np.asarray(values, dtype=np.float64), samples)


def uniform(interval: float, end: float) -> NDArray[np.float64]:
    """Return evenly spaced frame times from 0 to at most ``end``.

    Parameters
    ----------
    interval
        Spacing in s, positive.
    end
        Latest time in s, at least ``interval``; a frame falls on it where it is a multiple.

    Returns
    -------
    ndarray, shape (T,)
        Times in s.

    Raises
    ------
    KetyError
        Where ``interval`` or ``end`` is not finite and positive or ``end < interval``.
    """
    if not (np.isfinite([interval, end]).all() and 0.0 < interval <= end):
        raise KetyError(
            f"found interval {interval} s and end {end} s; expected finite 0 < interval <= end"
        )
    # A last frame missing by rounding alone (0.1 * 3 > 0.3) still belongs to the grid.
    steps = int(np.floor(end / interval * (1.0 + 1e-12)))
    return interval * np.arange(steps + 1, dtype=np.float64)


def frame_times(acquisition: str | ArrayLike) -> NDArray[np.float64]:
    """Return the frame times of a protocol's name, or check those given.

    Parameters
    ----------
    acquisition
        Name of a protocol, or times (T,) in s, two or more, strictly increasing from 0 or later.

    Returns
    -------
    ndarray, shape (T,)
        Times in s.

    Raises
    ------
    KetyError
        Where the name is unknown or the times are not such.
    """
    if isinstance(acquisition, str):
        return protocol(acquisition)
    times = np.array(acquisition, dtype=np.float64)
    if times.ndim != 1 or times.size < 2:
        raise KetyError(f"found frame times of shape {times.shape}; expected (T,) with T >= 2")
    if not (np.isfinite(times).all() and times[0] >= 0.0 and (np.diff(times) > 0.0).all()):
        raise KetyError(
            "found frame times that are not finite, negative or not strictly increasing; "
            "give them in s, in the order of the frames"
        )
    return times
