"""DICOM: dynamic series and volumes of CT and MR, read from folders, archives and files."""

from kety.io.dicom.archive import Problem
from kety.io.dicom.grouping import FoundSeries
from kety.io.dicom.index import Found, find_series, without_patients
from kety.io.dicom.objects import (
    holds_mask,
    map_writer,
    maps_in,
    read_map,
    read_mask,
    write_mask,
)
from kety.io.dicom.reading import read, read_grid, read_series, source_headers

__all__ = [
    "Found",
    "FoundSeries",
    "Problem",
    "find_series",
    "holds_mask",
    "map_writer",
    "maps_in",
    "read",
    "read_grid",
    "read_map",
    "read_mask",
    "read_series",
    "source_headers",
    "without_patients",
    "write_mask",
]
