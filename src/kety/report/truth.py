"""The blocks that compare estimates with a known truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from kety.joint.maps import VOXELWISE
from kety.joint_words import estimated_jointly
from kety.report import figures
from kety.report.blocks import Block, Cell, Chart, Charts, Maps, Table
from kety.report.content import Study, quantity, symbol
from kety.report.numbers import number, percent
from kety.report.pictures import map_panel, scene_of
from kety.report.windows import ERROR_FRACTION

_COVERED = 0.6827
Volume = NDArray[np.float64]
Volumes = Mapping[str, Volume]


def truth_blocks(study: Study) -> list[Block]:
    """Tables, calibration and error maps; none where no truth is known or nothing was fitted."""
    truth = study.truth or {}
    names = [n for n in study.parameters if n in truth]
    if not names or study.n_fitted == 0:
        return []
    differences = {name: _difference(study, name, truth[name]) for name in names}
    relative = {name: _relative(differences[name], truth[name]) for name in names}
    blocks: list[Block] = [_errors(study, differences, relative)]
    if study.regions:
        blocks.append(_regions(study, differences, relative))
    if estimated_jointly(study.maps.attrs):
        blocks.append(_against_voxelwise(study, differences, truth))
    blocks += _calibration(study, differences)
    if study.spatial:
        blocks += _pictures(study, differences)
    return blocks


def _difference(study: Study, name: str, truth: NDArray[Any], which: str = "") -> Volume:
    """Estimate minus truth, NaN where nothing was fitted, of the maps' shape."""
    difference = study.values(name + which) - truth.astype(np.float64)
    difference[~study.fitted] = np.nan
    return difference


def _relative(difference: Volume, truth: NDArray[Any]) -> Volume:
    """Absolute difference over the truth; NaN where the truth is 0."""
    scale = np.abs(truth.astype(np.float64))
    relative = np.full(scale.shape, np.nan)
    np.divide(np.abs(difference), scale, out=relative, where=scale > 0)
    return relative


def _median(values: Volume) -> float:
    values = values[np.isfinite(values)]
    return float(np.median(values)) if values.size else float("nan")


def _errors(study: Study, differences: Volumes, relative: Volumes) -> Table:
    rows: list[list[Cell]] = []
    for name, difference in differences.items():
        error = study.values(f"{name}_se").astype(np.float64)
        known = np.isfinite(difference) & np.isfinite(error)
        inside = int(np.count_nonzero(np.abs(difference[known]) <= error[known]))
        share = _median(relative[name])
        rows.append(
            [
                quantity(study, name),
                study.units(name) or "1",
                f"{np.count_nonzero(np.isfinite(difference)):,}",
                number(_median(difference)),
                number(_median(np.abs(difference))),
                "–" if study.units(name) == "s" else f"{100 * share:.2f} %",
                percent(inside, int(np.count_nonzero(known))),
            ]
        )
    return Table(
        "Estimates against truth, all fitted voxels",
        (
            "Parameter",
            "Unit",
            "Voxels",
            "Median error",
            "Median absolute error",
            "Median relative error",
            "Within one standard error",
        ),
        rows,
        text_columns=frozenset({0, 1}),
        note=f"Errors that are normal and well estimated lie within one standard error in "
        f"{100 * _COVERED:.1f} % of the voxels.",
    )


def _regions(study: Study, differences: Volumes, relative: Volumes) -> Table:
    rows: list[list[Cell]] = []
    for region, where in study.regions.items():
        cells: list[Cell] = [region, f"{np.count_nonzero(where & study.fitted):,}"]
        for name, difference in differences.items():
            if study.units(name) == "s":
                cells.append(f"{number(_median(np.abs(difference[where])))} s")
            else:
                share = _median(relative[name][where])
                cells.append(f"{100 * share:.2f} %" if np.isfinite(share) else "–")
        rows.append(cells)
    return Table(
        "Median absolute error by region",
        ("Region", "Fitted voxels", *(symbol(study.window(name)) for name in differences)),
        rows,
        note="Relative to the truth, except for times.",
    )


def _against_voxelwise(
    study: Study, differences: Volumes, truth: Mapping[str, NDArray[Any]]
) -> Table:
    """Median absolute errors of the voxels' own estimates and of the joint ones, by region."""
    everywhere = {"All fitted voxels": study.fitted, **study.regions}
    before = {n: np.abs(_difference(study, n, truth[n], VOXELWISE)) for n in differences}
    rows: list[list[Cell]] = []
    for region, where in everywhere.items():
        cells: list[Cell] = [region]
        for name, difference in differences.items():
            after = np.abs(difference)
            both = where & np.isfinite(before[name]) & np.isfinite(after)
            pair = [number(_median(error[both])) for error in (before[name], after)]
            cells.append(" → ".join(pair))
        rows.append(cells)
    return Table(
        "Median absolute error, voxelwise → joint",
        ("Region", *(_with_unit(study, name) for name in differences)),
        rows,
        note="Of the voxels that have both estimates.",
    )


def _with_unit(study: Study, name: str) -> Markup:
    unit = study.units(name)
    return Markup("{}{}").format(symbol(study.window(name)), f" ({unit})" if unit else "")


def _calibration(study: Study, differences: Volumes) -> list[Block]:
    shown, scores = [], []
    for name, difference in differences.items():
        error = study.values(f"{name}_se")
        known = np.isfinite(difference) & np.isfinite(error) & (error > 0)
        if known.any():
            shown.append(name)
            scores.append(difference[known] / error[known])
    if not shown:
        return []
    alt = "Histograms of error over standard error: " + "; ".join(
        f"{name}: {percent(int(np.count_nonzero(np.abs(s) <= 1)), s.size)} within 1"
        for name, s in zip(shown, scores, strict=True)
    )
    caption = (
        "Error divided by its standard error, against the unit normal curve. Wider than the "
        "curve: the standard errors are too small; shifted: the estimates are biased."
    )
    chart = Chart(figures.calibration(shown, scores, alt + "."), caption)
    return [Charts([chart], width=640)]


def _pictures(study: Study, differences: Volumes) -> list[Block]:
    scene = scene_of(study)
    blocks: list[Block] = []
    for name, difference in differences.items():
        window = study.window(name)
        limit = ERROR_FRACTION * window.span
        around = replace(window, lower=-limit, upper=limit)
        panel = map_panel(scene, name, difference, around, "difference", "Estimate minus truth")
        title = Markup("{} <span class=muted>error</span>").format(symbol(window))
        blocks.append(Maps(title, [panel], scene.view.aspect, scene.widest))
    return blocks
