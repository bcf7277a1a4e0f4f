"""Where the frames of a multi-frame object lie, and how highdicom is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kety.errors import KetyError
from kety.io.dicom.frames import PARALLEL, Frames, affine_of

if TYPE_CHECKING:
    from pydicom import Dataset


@dataclass(frozen=True, eq=False)
class Placed:
    """How the frames of an object lie: their order along the normal, and the affine of that."""

    order: NDArray[np.intp]
    affine: NDArray[np.float64]


def placed_frames(dataset: Dataset, name: str) -> Placed:
    """The geometry of a multi-frame object whose frames make one volume.

    Raises
    ------
    KetyError
        If positions are missing or repeat, or frames are not parallel or not evenly spaced.
    """
    planes = planes_of(dataset, name)
    orientation = planes.orientation[0]
    if np.abs(planes.orientation - orientation).max() > PARALLEL:
        raise KetyError(f"{name}: its frames are not parallel; a volume is made of parallel ones")
    depth = planes.position @ np.cross(*orientation)
    order = np.argsort(depth, kind="stable")
    if len(order) > 1 and np.diff(depth[order]).min() <= 1e-3:
        raise KetyError(
            f"{name}: several of its {len(order)} frames lie at one place; expected one "
            "quantity in one object"
        )
    affine = affine_of(orientation, planes.spacing, planes.position[order], planes.thickness, name)
    return Placed(order, affine)


@dataclass(frozen=True, eq=False)
class Planes:
    """Where every frame of an object lies, in LPS and mm: orientation (N, 2, 3), position (N, 3);
    distances between rows and between columns, of a single frame to the next, and what the object
    says of that between frames."""

    orientation: NDArray[np.float64]
    position: NDArray[np.float64]
    spacing: tuple[float, float]
    thickness: float
    between: float | None


def planes_of(dataset: Dataset, name: str) -> Planes:
    """Where the frames of a multi-frame object lie; KetyError where it does not say."""
    shared = dataset.get("SharedFunctionalGroupsSequence") or [{}]
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or ()

    def value(group: Any, macro: str, keyword: str) -> Any:
        for holder in (group, shared[0]):
            items = holder.get(macro)
            if items and items[0].get(keyword) is not None:
                return items[0].get(keyword)
        raise KetyError(
            f"{name}: a frame has no {keyword}, so its place is not known; export it again"
        )

    if not groups:
        raise KetyError(f"{name}: holds no frames, or does not say where they lie; export it again")
    orientation = [value(g, "PlaneOrientationSequence", "ImageOrientationPatient") for g in groups]
    position = [value(g, "PlanePositionSequence", "ImagePositionPatient") for g in groups]
    spacing = value(groups[0], "PixelMeasuresSequence", "PixelSpacing")
    measures = (groups[0].get("PixelMeasuresSequence") or shared[0]["PixelMeasuresSequence"])[0]
    between = measures.get("SpacingBetweenSlices")
    thickness = between or measures.get("SliceThickness") or 1.0
    return Planes(
        np.array(orientation, dtype=np.float64).reshape(-1, 2, 3),
        np.array(position, dtype=np.float64),
        (float(spacing[0]), float(spacing[1])),
        float(thickness),
        None if between is None else float(between),
    )


def decoded_pixels(dataset: Dataset, shape: tuple[int, int, int], name: str) -> NDArray[Any]:
    """The stored values of whole numbers, (N, rows, columns); KetyError where they are damaged."""
    try:
        return np.asarray(dataset.pixel_array).reshape(shape)
    except Exception as error:
        # Decoders raise nearly anything for a damaged or missing image.
        raise KetyError(
            f"{name}: its pixels cannot be read ({str(error) or type(error).__name__}); copy it "
            "again, or convert it to an uncompressed transfer syntax"
        ) from error


def measures_of(frames: Frames) -> tuple[Any, Any, Any]:
    """Pixel measures, plane orientation and plane positions, as highdicom takes them."""
    import highdicom as hd

    measures = hd.PixelMeasuresSequence(
        pixel_spacing=frames.spacing,
        slice_thickness=frames.thickness,
        spacing_between_slices=frames.thickness,
    )
    orientation = hd.PlaneOrientationSequence("PATIENT", tuple(frames.orientation.ravel()))
    positions = [hd.PlanePositionSequence("PATIENT", tuple(at)) for at in frames.positions]
    return measures, orientation, positions
