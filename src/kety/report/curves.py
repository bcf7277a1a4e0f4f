"""The blocks of curves: the input, and measured against fitted voxels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from kety.fitting.status import Status
from kety.report import figures
from kety.report.blocks import Block, Cell, Chart, Charts, Facts, Paragraph, Table
from kety.report.content import Study, symbol
from kety.report.numbers import number, tick
from kety.report.summary import Residuals, at_frames, measured, simulate
from kety.report.vessel import vessel_blocks

if TYPE_CHECKING:
    from kety.inputs import InputFunction

_FINE_POINTS = 600


def input_blocks(study: Study) -> list[Block]:
    """The input curve, whole and its first pass, and, if it was found, the vessel."""
    if study.aif is None:
        return []
    blocks = input_charts(study.aif, study.times, study.curve_axis, study.curve_units)
    if study.portal is not None:
        blocks += input_charts(study.portal, study.times, study.curve_axis, study.curve_units)
    if study.vessel is not None:
        blocks += vessel_blocks(study.vessel, study.vessel_affine)
    return blocks


def input_charts(
    aif: InputFunction, frames: NDArray[np.float64], axis: str, units: str
) -> list[Block]:
    """Charts of an input, whole and its first pass, and what is known of it."""
    times = np.asarray(aif.times, dtype=np.float64)
    values = np.asarray(aif.concentration, dtype=np.float64)
    peak = int(np.argmax(values))
    unit = f" {units}" if units else ""
    whole = (
        min(float(times[0]), float(frames[0])),
        max(float(times[-1]), float(frames[-1])),
    )
    first = _first_pass(times, values, peak, whole)
    charts = []
    for span, title in ((whole, "Whole course"), (first, "First pass")):
        alt = (
            f"Input curve from {number(span[0])} s to {number(span[1])} s; its peak is "
            f"{number(values[peak])}{unit} at {number(times[peak])} s."
        )
        charts.append(Chart(figures.input_curve(aif, frames, span, axis, alt), title))
    facts = [
        ("Name", aif.name or "–"),
        ("Concentration in", "whole blood" if aif.site == "blood" else aif.site),
        ("Hematocrit", tick(float(aif.hematocrit))),
        ("Interpolation", aif.interpolation),
        ("Samples", f"{times.size:,}, {number(times[0])} s to {number(times[-1])} s"),
        ("Peak", f"{number(values[peak])}{unit} at {number(times[peak])} s"),
        (
            "Frames of the series",
            f"{frames.size:,}, {number(frames[0])} s to {number(frames[-1])} s",
        ),
    ]
    return [Charts(charts), Facts(facts)]


def _first_pass(
    times: NDArray[np.float64],
    values: NDArray[np.float64],
    peak: int,
    whole: tuple[float, float],
) -> tuple[float, float]:
    """Span from before the arrival until well after the peak."""
    early = np.flatnonzero(values[: peak + 1] <= 0.05 * values[peak])
    arrival = float(times[early[-1]]) if early.size else float(times[0])
    rise = max(float(times[peak]) - arrival, 0.02 * (whole[1] - whole[0]))
    return max(arrival - rise, whole[0]), min(float(times[peak]) + 5 * rise, whole[1])


def curve_blocks(study: Study, voxels: NDArray[np.intp], sample: Residuals | None) -> list[Block]:
    """Example voxels with their fits and estimates, and the residuals of the sample."""
    if sample is None:
        return [Paragraph("No voxel has every parameter, so there is no fitted curve to show.")]
    chosen = _representatives(study, voxels)
    unit = f" ({study.curve_units})" if study.curve_units else ""
    heads = [
        Markup("{}{}").format(symbol(study.window(n)), f" ({u})" if (u := study.units(n)) else "")
        for n in study.parameters
    ]
    positions = np.array([position for _, position in chosen])
    start, end = float(study.times[0]), float(study.times[-1])
    fine = np.linspace(start, end, _FINE_POINTS)
    data = measured(study, positions)
    fitted = at_frames(study, positions)
    between = simulate(study, positions, fine)
    times = np.empty_like(fitted)
    for own, part in study.by_times(positions):
        times[part] = own
    charts = []
    rows: list[list[Cell]] = [
        [title] for title in ("Position", *heads, f"Residual{unit}", "R²", "Status")
    ]
    for i, (title, position) in enumerate(chosen):
        index = np.unravel_index(position, study.shape)
        place = "(" + ", ".join(str(int(j)) for j in index) + ")"
        rms = float(np.sqrt(np.mean((data[i] - fitted[i]) ** 2)))
        r2 = float(study.values("r2")[index])
        words = f"{title}: voxel {place}, residual {number(rms)}, R² {number(r2)}"
        curve = figures.VoxelCurve(times[i], data[i], fitted[i], fine, between[i])
        svg = figures.voxel_curve(curve, study.curve_axis, f"Measured and fitted curve. {words}.")
        charts.append(Chart(svg, words))
        cells = [_estimate(study, name, index) for name in study.parameters]
        status = Status(int(study.status[index])).meaning.replace("_", " ")
        for row, cell in zip(rows, (place, *cells, number(rms), number(r2), status), strict=True):
            row.append(cell)
    n, total = sample.values.shape[0], voxels.size
    of = f"a random {n:,} of the {total:,}" if n < total else f"the {n:,}"
    alt = (
        f"Residuals of {of} fitted voxels against time; neighbouring frames correlate by "
        f"{_correlation(sample)}."
    )
    band = figures.residual_band(study.times, sample.values, f"residual{unit}", alt)
    caption = (
        f"Residuals of {of} fitted voxels. A mean that leaves zero, or a band that swells at some "
        f"frames, is what the model does not explain. Correlation of neighbouring frames: "
        f"{_correlation(sample)}."
    )
    if study.slice_times is not None:
        caption += (
            " Times are the frames' means over the slices; every slice was fitted at its own."
        )
    place = "" if study.roi is None else " (in the region of interest)"
    return [
        Charts(charts),
        Table(
            f"Estimates of these voxels{place} ± standard error",
            ("", *(title for title, _ in chosen)),
            rows,
        ),
        Charts([Chart(band, caption)], width=640),
    ]


def _correlation(sample: Residuals) -> str:
    return f"{sample.memory:.2f}".replace("-", "\N{MINUS SIGN}")


def _representatives(study: Study, voxels: NDArray[np.intp]) -> list[tuple[str, int]]:
    """Best, typical, poor and worst voxel by residual, each once, in the region of interest."""
    if study.roi is not None:
        inside = voxels[study.roi.reshape(-1)[voxels]]
        voxels = inside if inside.size else voxels
    ranked = voxels[np.argsort(study.values("cost").reshape(-1)[voxels], kind="stable")]
    last = ranked.size - 1
    # of few voxels one may be several of these: the name that says most stays
    names = {
        0: "Best",
        round(0.95 * last): "Poor (95th percentile)",
        last: "Worst",
        last // 2: "Typical",
    }
    return [(names[place], int(ranked[place])) for place in sorted(names)]


def _estimate(study: Study, name: str, index: tuple[Any, ...]) -> str:
    value = float(study.values(name)[index])
    error = float(study.values(f"{name}_se")[index])
    return f"{number(value)} ± {number(error, 2)}" if np.isfinite(error) else number(value)
