"""A page of the input alone, to look at before a fit."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jinja2 import Environment, StrictUndefined
from numpy.typing import NDArray

from kety.io.atomic import Batch, output_folder
from kety.report.content import curve_axis
from kety.report.curves import input_charts
from kety.report.vessel import vessel_blocks

if TYPE_CHECKING:
    from kety.inputs import InputFunction, Vessel


@dataclass(frozen=True)
class _Heading:
    anchor: str
    title: str
    sentence: str


def write_input_page(
    path: str | os.PathLike[str],
    *,
    aif: InputFunction,
    times: NDArray[np.float64],
    vessel: Vessel | None,
    affine: NDArray[np.float64] | None,
    title: str,
    unit: str,
) -> Path:
    """Write a page of an input curve and, where it was found in the series, of its vessel.

    Parameters
    ----------
    path
        HTML file; its folder is made.
    aif, times
        The input, and the frames (T,) of the series in s.
    vessel, affine
        The artery that was found, and the affine of its grid.
    title
        Heading.
    unit
        Of the input, ``"HU"``, ``"mg/mL"`` or ``"mM"``.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    sections = [
        (
            _Heading("input", "Input curve", "The curve that would drive a model."),
            input_charts(aif, times, curve_axis(unit), unit),
        )
    ]
    if vessel is not None:
        heading = _Heading(
            "vessel", "Where it comes from", "The artery that was found in the series, and why."
        )
        sections.append((heading, vessel_blocks(vessel, affine)))
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = resources.files("kety.report").joinpath("template.html.j2").read_text("utf-8")
    page = environment.from_string(source).render(
        title=title, subtitle="Arterial input", model="", sections=sections
    )
    path = Path(path)
    output_folder(path.parent)
    with Batch() as batch:
        batch.write(path, page.encode("utf-8"))
    return path
