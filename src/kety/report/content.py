"""What a report is about: the maps of a fit, the curves behind them and what is known of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from kety.errors import KetyError
from kety.fitting.status import FITTED, Status
from kety.joint.maps import VOXELWISE
from kety.report.windows import Window, window_for
from kety.slices import slice_groups

if TYPE_CHECKING:
    import xarray

    from kety.inputs import InputFunction, Vessel
    from kety.voxels import AboveLevel


@dataclass(frozen=True)
class Study:
    """Everything a report is built from, checked; see :func:`kety.report.write_report`."""

    maps: xarray.Dataset
    curves: NDArray[Any] | AboveLevel
    times: NDArray[np.float64]
    aif: InputFunction | None
    title: str
    provenance: Mapping[str, Any]
    anatomy: NDArray[Any] | None = None
    affine: NDArray[np.float64] | None = None
    roi: NDArray[np.bool_] | None = None
    truth: Mapping[str, NDArray[Any]] | None = None
    regions: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    windows: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    curve_units: str = ""
    vessel: Vessel | None = None
    vessel_affine: NDArray[np.float64] | None = None
    portal: InputFunction | None = None
    slice_times: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        required = ("status",) if self.model_free else ("status", "r2", "cost")
        missing = [name for name in required if name not in self.maps]
        if missing:
            raise KetyError(
                f"the maps lack {', '.join(missing)} (found {', '.join(map(str, self.maps))}); "
                "give the dataset that kety.fit returns"
            )
        if self.times.ndim != 1 or self.curves.shape[-1:] != self.times.shape:
            raise KetyError(
                f"the curves have shape {self.curves.shape} and the times {self.times.shape}; "
                "the curves' last axis has to be the frames"
            )
        if self.slice_times is not None and self.slice_times.shape != self.curves.shape[-2:]:
            raise KetyError(
                f"the curves have shape {self.curves.shape} and the slice times "
                f"{self.slice_times.shape}; expected a row for each slice"
            )
        arrays: list[tuple[str, tuple[int, ...]]] = [("curves", self.curves.shape[:-1])]
        optional = {"anatomy": self.anatomy, "roi": self.roi, **(self.truth or {}), **self.regions}
        arrays += [(name, array.shape) for name, array in optional.items() if array is not None]
        for name, shape in arrays:
            if shape != self.shape:
                raise KetyError(
                    f"{name} lies on a grid of shape {shape} and the maps on {self.shape}; "
                    "give all on the same grid"
                )
        if self.affine is not None and self.affine.shape != (4, 4):
            raise KetyError(f"the affine has shape {self.affine.shape}; give a (4, 4) matrix")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of every map."""
        return tuple(self.maps["status"].shape)

    @property
    def model_free(self) -> bool:
        """Whether the maps describe the curves, with a method named in place of a model."""
        return "model" not in self.maps.attrs and "method" in self.maps.attrs

    @property
    def input(self) -> InputFunction:
        """The input; only model-free maps may lack one."""
        if self.aif is None:
            raise KetyError("these maps are of a model: give the input that it was fitted with")
        return self.aif

    @property
    def shown(self) -> tuple[str, ...]:
        """Names of the maps that are pictured and counted."""
        return self.parameters if self.model_free else (*self.parameters, "r2")

    @property
    def spatial(self) -> bool:
        """Whether the maps are volumes (three axes), which pictures can be cut from."""
        return len(self.shape) == 3

    @cached_property
    def status(self) -> NDArray[np.uint8]:
        """Status of every voxel, of the maps' shape."""
        return np.asarray(self.maps["status"].values, dtype=np.uint8)

    @cached_property
    def fitted(self) -> NDArray[np.bool_]:
        """Voxels whose maps hold values."""
        return np.isin(self.status, [int(s) for s in FITTED])

    @cached_property
    def counts(self) -> dict[Status, int]:
        """Number of voxels of each status."""
        return {s: int(np.count_nonzero(self.status == s)) for s in Status}

    @cached_property
    def inside(self) -> int:
        """Number of voxels inside the mask."""
        return self.status.size - self.counts[Status.OUTSIDE]

    @property
    def n_fitted(self) -> int:
        """Number of voxels whose maps hold values."""
        return sum(self.counts[s] for s in FITTED)

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """Names of the estimated maps: those with a standard error, and not held at a value.

        Of maps without a model all but the status.
        """
        return tuple(n for n in self._with_error if n not in self.held)

    @cached_property
    def held(self) -> dict[str, float]:
        """Parameters that the fit held at a value: known without error wherever it converged."""
        converged = self.status == Status.CONVERGED
        held: dict[str, float] = {}
        if self.model_free:
            return held
        for name in self._with_error:
            values = self.values(name)[converged]
            errors = self.values(f"{name}_se")[converged]
            if np.isfinite(values).any() and not np.isfinite(errors).any():
                held[name] = float(values[np.isfinite(values)][0])
        return held

    @property
    def _with_error(self) -> tuple[str, ...]:
        if self.model_free:
            others = (str(n) for n in self.maps.data_vars if n not in ("status", "t10"))
            return tuple(n for n in others if not n.endswith("_se"))
        names = (str(n) for n in self.maps.data_vars if f"{n}_se" in self.maps.data_vars)
        # a baseline is of the measurement, not of the tissue
        return tuple(n for n in names if n != "baseline" and not n.endswith(VOXELWISE))

    @property
    def model(self) -> str:
        """Name of the fitted model."""
        return str(self.maps.attrs.get("model", ""))

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models that were chosen from; the one that was fitted."""
        several = str(self.maps.attrs.get("models", ""))
        return tuple(several.split(", ")) if several else (self.model,)

    @property
    def choice(self) -> NDArray[np.uint8] | None:
        """Chosen model of every voxel, counted from 1 in the order of `models`; None of one."""
        return np.asarray(self.maps["chosen"].values) if "chosen" in self.maps else None

    def by_model(self, voxels: NDArray[np.intp]) -> list[tuple[str, NDArray[np.intp]]]:
        """For every model, which of the voxels (flat positions) were fitted with it."""
        if self.choice is None:
            return [(self.model, np.arange(voxels.size))]
        chosen = self.choice.reshape(-1)[voxels]
        return [(name, np.flatnonzero(chosen == i + 1)) for i, name in enumerate(self.models)]

    def by_times(
        self, voxels: NDArray[np.intp]
    ) -> list[tuple[NDArray[np.float64], NDArray[np.intp]]]:
        """Frame times (T,) and which of the voxels (flat positions) were acquired at them."""
        if self.slice_times is None:
            return [(self.times, np.arange(voxels.size))]
        slices = np.unravel_index(voxels, self.shape)[-1]
        groups = []
        for one in slice_groups(self.slice_times):
            numbers = np.arange(self.shape[-1])[one.index]
            part = np.flatnonzero(np.isin(slices, numbers))
            if part.size:
                groups.append((one.times, part))
        return groups

    @property
    def curve_axis(self) -> str:
        """Axis label of tissue and input curves."""
        return curve_axis(self.curve_units)

    def values(self, name: str) -> NDArray[Any]:
        """Return a map as an array of the maps' shape."""
        return np.asarray(self.maps[name].values)

    def units(self, name: str) -> str:
        """Return a map's unit, "" for a fraction."""
        unit = str(self.maps[name].attrs.get("units", ""))
        return "" if unit == "1" else unit

    def meaning(self, status: Status) -> str:
        """Return what a status is called in these maps."""
        attrs = self.maps["status"].attrs
        values = [int(v) for v in np.atleast_1d(attrs.get("flag_values", ()))]
        words = str(attrs.get("flag_meanings", "")).split()
        named = dict(zip(values, words, strict=False))
        return named.get(int(status), status.meaning).replace("_", " ")

    def long_name(self, name: str) -> str:
        """Return a map's name in words."""
        return str(self.maps[name].attrs.get("long_name", name))

    def finite(self, name: str, where: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Return the finite values of a map among the fitted voxels (and ``where``), flat."""
        chosen = self.fitted if where is None else self.fitted & where
        values = self.values(name)[chosen]
        return np.asarray(values[np.isfinite(values)])

    def window(self, name: str) -> Window:
        """Return the display window of a map."""
        return self._windows[name]

    @cached_property
    def _windows(self) -> dict[str, Window]:
        return {
            name: window_for(name, self.units(name), partial(self._range, name), self.windows)
            for name in self.shown
        }

    def _range(self, name: str) -> tuple[float, float]:
        values = self.finite(name)
        low, high = np.percentile(values, [2.0, 98.0]) if values.size else (0.0, 1.0)
        return float(low), float(high)


def curve_axis(unit: str) -> str:
    """Return the axis label of curves in a unit, "" where it is not known."""
    named = {"mM": "concentration", "mg/mL": "iodine concentration"}
    name = named.get(unit, "enhancement")
    return f"{name} ({unit})" if unit else name


def quantity(study: Study, name: str) -> Markup:
    """Return a quantity's symbol and its map's name as HTML."""
    return Markup("{} <span class=muted>{}</span>").format(symbol(study.window(name)), name)


def symbol(window: Window) -> Markup:
    """Return a quantity's symbol as HTML, ``_`` lowering and ``^`` raising what follows."""
    for sign, tag in (("_", "sub"), ("^", "sup")):
        letter, found, rest = window.symbol.partition(sign)
        if found and window.symbol != window.name:
            return Markup("<i>{}</i><{tag}>{}</{tag}>").format(letter, rest, tag=Markup(tag))
    return Markup("<i>{}</i>").format(window.symbol)
