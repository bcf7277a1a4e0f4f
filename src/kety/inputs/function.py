"""The arterial input function: a sampled curve that can be evaluated at any time."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError
from kety.inputs.merging import grouped, merged
from kety.inputs.table import SITES, read_table, require_increasing, time_column, value_column

INTERPOLATIONS: Final[tuple[str, ...]] = ("cubic", "linear", "monotone")


@dataclass(frozen=True, eq=False)
class InputFunction:
    """An arterial curve, where it was measured, and how it runs between its samples.

    The curve is 0 before the first sample and keeps its last value after the last one.

    Parameters
    ----------
    times : array_like, shape (n,)
        Sample times in s, strictly increasing, at least two.
    concentration : array_like, shape (n,)
        Concentration in mM (MRI) or enhancement in HU (CT), finite, not zero everywhere.
    hematocrit
        Fraction of blood volume that is cells, in [0, 1).
    site
        ``"blood"`` for whole blood or ``"plasma"``; plasma is blood / (1 - hematocrit).
    interpolation
        ``"cubic"``: the twice continuously differentiable cubic spline with not-a-knot ends, of
        fourth order accuracy (two or three samples give a line or parabola). ``"linear"``:
        straight lines. ``"monotone"``: a cubic with continuous slope that never leaves the range
        of neighbouring samples (Fritsch and Butland, SIAM J Sci Stat Comput 1984,
        doi:10.1137/0905021).
    name
        Free text, for reports.

    Raises
    ------
    KetyError
        When an argument does not meet the above.

    Notes
    -----
    The arrays are copied and read-only.
    """

    times: NDArray[np.float64]
    concentration: NDArray[np.float64]
    _: KW_ONLY
    hematocrit: float = 0.42
    site: str = "blood"
    interpolation: str = "cubic"
    name: str = ""

    def __post_init__(self) -> None:
        times = _vector(self.times, "input times")
        concentration = _vector(self.concentration, "input concentration")
        if times.size != concentration.size:
            raise KetyError(
                f"input times and concentration must be of equal length; found {times.size} times "
                f"and {concentration.size} values"
            )
        if times.size < 2:
            raise KetyError(f"an input function needs at least 2 samples; found {times.size}")
        require_increasing(times, "input times")
        if not concentration.any():
            raise KetyError(
                "the input concentration is zero everywhere; check the curve, column or mask"
            )
        _member(self.site, SITES, "site")
        _member(self.interpolation, INTERPOLATIONS, "interpolation")
        object.__setattr__(self, "times", times)
        object.__setattr__(self, "concentration", concentration)
        object.__setattr__(self, "hematocrit", _hematocrit(self.hematocrit))

    def __call__(self, t: ArrayLike) -> NDArray[np.float64]:
        """Evaluate the curve at times ``t`` in s; any shape, NaN where ``t`` is NaN."""
        t = np.asarray(t, dtype=np.float64)
        segment = np.clip(np.searchsorted(self.times, t, side="right") - 1, 0, self.times.size - 2)
        u = np.clip(t, self.times[0], self.times[-1]) - self.times[segment]
        c0, c1, c2, c3 = np.moveaxis(self._coefficients[segment], -1, 0)
        inside = c0 + u * (c1 + u * (c2 + u * c3))
        after = np.where(t >= self.times[-1], self.concentration[-1], inside)
        return np.where(t < self.times[0], 0.0, after)

    def coefficients(self) -> NDArray[np.float64]:
        """Return the polynomial of each segment, shape (n - 1, 4), read-only.

        The curve at ``times[i] + u`` is the sum over m of ``coefficients()[i, m] * u**m`` for
        ``0 <= u <= times[i + 1] - times[i]``, with u in s.
        """
        return self._coefficients

    @cached_property
    def _coefficients(self) -> NDArray[np.float64]:
        if self.interpolation == "linear":
            table = np.zeros((self.times.size - 1, 4))
            table[:, 0] = self.concentration[:-1]
            table[:, 1] = np.diff(self.concentration) / np.diff(self.times)
        else:
            from scipy.interpolate import CubicSpline, PchipInterpolator

            kind = CubicSpline if self.interpolation == "cubic" else PchipInterpolator
            # A slope is the harmonic mean of its neighbours: 0, as it should be, where one of them
            # is so small that its inverse overflows.
            with np.errstate(over="ignore"):
                spline = kind(self.times, self.concentration)
            table = np.ascontiguousarray(spline.c[::-1].T)
        table.flags.writeable = False
        return table

    def shifted(self, delay: float) -> Self:
        """Return the curve ``delay`` s later (earlier where negative)."""
        if not np.isfinite(delay):
            raise KetyError(f"delay must be a finite time in s; found {delay}")
        return dataclasses.replace(self, times=self.times + delay)

    def plasma(self) -> Self:
        """Return the curve in plasma: blood / (1 - hematocrit), or itself where it is plasma."""
        return self if self.site == "plasma" else self._scaled(1 / (1 - self.hematocrit), "plasma")

    def blood(self) -> Self:
        """Return the curve in whole blood: plasma * (1 - hematocrit), or itself."""
        return self if self.site == "blood" else self._scaled(1 - self.hematocrit, "blood")

    def _scaled(self, factor: float, site: str) -> Self:
        return dataclasses.replace(self, concentration=self.concentration * factor, site=site)

    def fingerprint(self) -> str:
        """Return the SHA-256 hex digest of all that determines the curve (not its name)."""
        digest = hashlib.sha256()
        digest.update(f"{self.site} {self.interpolation} {self.hematocrit!r}\n".encode())
        for array in (self.times, self.concentration):
            digest.update(array.astype("<f8").tobytes())
        return digest.hexdigest()

    def to_csv(self, path: str | os.PathLike[str], *, unit: str = "") -> None:
        """Write the samples, times in s, to a CSV file that :meth:`from_csv` reads back exactly.

        The header names the site and, where given, the unit (``"HU"``, ``"mM"``); a comment line
        keeps hematocrit and interpolation. The file appears under its name only when complete.

        Raises
        ------
        OSError
            When the file cannot be written.
        """
        path = Path(path)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        rows = zip(self.times.tolist(), self.concentration.tolist(), strict=True)
        lines = [
            f"# hematocrit {self.hematocrit!r}, interpolation {self.interpolation}",
            f"time_s,{self.site}_{unit}" if unit else f"time_s,{self.site}",
            *(f"{time!r},{value!r}" for time, value in rows),
        ]
        try:
            part.write_text("\n".join(lines) + "\n", encoding="utf-8")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def from_csv(
        cls,
        path: str | os.PathLike[str],
        *,
        hematocrit: float = 0.42,
        site: str | None = None,
        column: str | None = None,
        time_unit: str | None = None,
        interpolation: str = "cubic",
        name: str | None = None,
    ) -> Self:
        """Read a curve from a CSV file whose header names columns, units and site.

        The time column is ``time_s``, ``time_min`` or ``time_ms`` (or ``t_s`` and so on). The curve
        is the one column named for blood (``cb``, ``ca``, ``blood``), plasma (``cp``, ``plasma``)
        or, with ``site`` given, just ``concentration`` or ``aif``; a unit may follow, as in
        ``aif_cp_mM`` or ``blood_HU``. Labels, frames, signals and other columns are ignored.

        Parameters
        ----------
        path
            File, delimited by commas, semicolons or tabs; lines that start with ``#`` are ignored.
        hematocrit, interpolation
            As of the class.
        site
            ``"blood"`` or ``"plasma"`` where the column's name does not say; it also chooses
            between a blood and a plasma column.
        column
            Name of the column, where several qualify or none does; its numbers are taken as mM
            or HU.
        time_unit
            ``"s"``, ``"min"`` or ``"ms"`` where the header does not say.
        name
            Name of the curve; the file's name by default.

        Raises
        ------
        OSError
            When the file is missing or cannot be read.
        KetyError
            When it is empty, truncated or not a table, a column is missing, ambiguous or unknown,
            a unit or the site is not named, a cell is not a finite number, or the curve is not
            valid.
        """
        if site is not None:
            _member(site, SITES, "site")
        table = read_table(path)
        times = time_column(table, time_unit)
        chosen, chosen_site = value_column(table, column, site)
        values = table.numbers(chosen)
        try:
            return cls(
                times,
                values,
                hematocrit=hematocrit,
                site=chosen_site,
                interpolation=interpolation,
                name=Path(path).name if name is None else name,
            )
        except KetyError as error:
            raise KetyError(f"{table.source}: {error}") from error

    @classmethod
    def from_mask(
        cls,
        data: ArrayLike,
        times: ArrayLike,
        mask: ArrayLike,
        *,
        hematocrit: float = 0.42,
        site: str = "blood",
        interpolation: str = "cubic",
        name: str = "mean over the mask",
    ) -> Self:
        """Average the curves of the voxels in a mask.

        Parameters
        ----------
        data : array_like, shape (V, T) or (X, Y, Z, T)
            Concentration in mM or enhancement in HU; a voxel with a value that is not finite is
            left out.
        times : array_like, shape (T,), or (V,) or (Z,) rows of it
            Times in s; a row for each slice, the last axis of the mask, where slices have times of
            their own: their samples are merged, see `kety.inputs.merging`.
        mask : array_like, shape (V,) or (X, Y, Z)
            Voxels to average, where not zero.
        hematocrit, site, interpolation, name
            As of the class; a vessel's voxels show whole blood.

        Raises
        ------
        KetyError
            When shapes do not agree, the mask is empty, or none of its voxels is finite.
        """
        data, mask = np.asarray(data), np.asarray(mask)
        if data.ndim < 2 or data.dtype.kind not in "iuf":
            raise KetyError(
                "the data for an input function must be real numbers of shape (V, T) or "
                f"(X, Y, Z, T); found {data.dtype} of shape {data.shape}"
            )
        if mask.shape != data.shape[:-1]:
            raise KetyError(
                f"the input mask has shape {mask.shape}, but the data have {data.shape[:-1]} "
                "voxels; draw the mask on the grid of the series"
            )
        if mask.dtype.kind not in "biuf":
            raise KetyError(f"the input mask must be boolean or numbers; found {mask.dtype}")
        seconds = np.asarray(times)
        if seconds.ndim == 2 and seconds.shape != data.shape[-2:]:
            raise KetyError(
                f"times of shape {seconds.shape} for data of shape {data.shape}; expected (T,), or "
                "a row of them for each slice, the last axis of the mask"
            )
        inside = np.nan_to_num(mask) != 0
        curves = data[inside].astype(np.float64)
        if not len(curves):
            raise KetyError("the input mask is empty; it must hold at least one voxel")
        finite = np.isfinite(curves).all(axis=1)
        if not finite.any():
            raise KetyError(
                f"none of the {len(curves)} voxels in the input mask is finite at all times"
            )
        curve = curves[finite].mean(axis=0)
        if seconds.ndim == 2:
            own = seconds[np.nonzero(inside)[-1][finite]].astype(np.float64)
            seconds, curve = merged(grouped(curves[finite], own))
        return cls(
            seconds,
            curve,
            hematocrit=hematocrit,
            site=site,
            interpolation=interpolation,
            name=name,
        )


def _vector(values: ArrayLike, what: str) -> NDArray[np.float64]:
    """Read-only float64 copy of a finite vector."""
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise KetyError(f"{what} must be a vector of numbers; found {error}") from error
    if array.ndim != 1 or array.dtype.kind not in "iuf":
        raise KetyError(
            f"{what} must be a vector of real numbers; found {array.dtype} of shape {array.shape}"
        )
    vector = array.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(vector))
    if bad.size:
        raise KetyError(
            f"{what} must be finite; found {vector[bad[0]]} at index {bad[0]} "
            f"({bad.size} of {vector.size} are not finite)"
        )
    vector.flags.writeable = False
    return vector


def _hematocrit(value: float) -> float:
    try:
        fraction = float(value)
    except (TypeError, ValueError):
        fraction = float("nan")
    if not 0 <= fraction < 1:
        raise KetyError(f"hematocrit must be a fraction in [0, 1), such as 0.42; found {value!r}")
    return fraction


def _member(value: str, valid: tuple[str, ...], what: str) -> None:
    if value not in valid:
        raise KetyError(f"unknown {what} {value!r}; the valid ones are {', '.join(valid)}")
