"""Segmentations: masks written as DICOM SEG, and read onto a series by where they lie."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kety.errors import KetyError
from kety.io.dicom.codes import Code, plain
from kety.io.dicom.frames import LPS, frames_of
from kety.io.dicom.identifiers import uid_of
from kety.io.dicom.multiframe import decoded_pixels, measures_of, planes_of
from kety.io.dicom.origin import MAKER, Origin, derive, equipment
from kety.io.dicom.regions import Region, choose
from kety.series import Series, Volume
from kety.version import __version__

if TYPE_CHECKING:
    from pydicom import Dataset

SOP_CLASSES: Final = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""Segmentation and Label Map Segmentation."""

DERIVATION: Final = Code("113076", "DCM", "Segmentation")
SERIES_NUMBER: Final = 6001
OFF_GRID: Final = 0.1
"""How far a pixel may lie from the voxel that it stands for, in voxels; nothing is resampled."""

BACKGROUND: Final = 0
"""What label maps number the pixels of no segment."""

_CATEGORY: Final = ("309825002", "SCT", "Spatial and Relational Concept")
_TYPE: Final = ("111030", "DCM", "Image Region")


def write(
    stream: BinaryIO,
    mask: NDArray[np.bool_],
    affine: ArrayLike,
    origin: Origin,
    *,
    label: str = "mask",
    made_at: datetime | None = None,
) -> None:
    """Write a mask as a binary Segmentation of one segment, to an open file.

    Frames without a voxel of it are left out.

    Parameters
    ----------
    stream
        Where to write.
    mask
        (X, Y, Z), at least one voxel True.
    affine
        (4, 4), from voxel indices to mm.
    origin
        The images that it was drawn or computed on.
    label
        Of the segment.
    made_at
        When it was made. Where it is given, identifiers come from a digest, so that equal masks of
        equal images give equal files. By default it is now, and identifiers are new ones.

    Raises
    ------
    KetyError
        If the mask is empty, or its grid has no right angles.
    """
    import highdicom as hd
    from highdicom.sr import CodedConcept

    if not mask.any():
        raise KetyError("the mask is empty; at least one voxel must be in")
    volume = Volume(mask.astype(np.uint8), np.asarray(affine, dtype=np.float64), label)
    frames = origin.aligned(frames_of(volume, origin.orientation))
    measures, orientation, positions = measures_of(frames)
    # Who or what drew the mask is not known here, and there is no word for that.
    algorithm = hd.AlgorithmIdentificationSequence(
        name="not stated",
        family=CodedConcept("123109", "DCM", "Manual Processing"),
        version=__version__,
    )
    segment = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label=plain(label),
        segmented_property_category=CodedConcept(*_CATEGORY),
        segmented_property_type=CodedConcept(*_TYPE),
        algorithm_type="SEMIAUTOMATIC",
        algorithm_identification=algorithm,
    )
    uid = _identifiers(mask, volume, origin, made_at)
    made = hd.seg.Segmentation(
        source_images=[origin.header],
        pixel_array=np.ascontiguousarray(frames.pixels),
        segmentation_type="BINARY",
        segment_descriptions=[segment],
        series_instance_uid=uid("series"),
        series_number=SERIES_NUMBER,
        sop_instance_uid=uid("instance"),
        instance_number=1,
        content_label="MASK",
        content_description=plain(label),
        pixel_measures=measures,
        plane_orientation=orientation,
        plane_positions=positions,
        series_description=plain(f"{MAKER} {label}"),
        **equipment(),
    )
    dimensions = uid("dimensions")
    for item in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        item.DimensionOrganizationUID = dimensions
    if made_at is not None:
        day, time = f"{made_at:%Y%m%d}", f"{made_at:%H%M%S}"
        for part in ("Content", "InstanceCreation"):
            setattr(made, f"{part}Date", day)
            setattr(made, f"{part}Time", time)
        for item in made.ContributingEquipmentSequence:
            item.add_new("ContributionDateTime", "DT", day + time)
    derive(made, frames, origin, DERIVATION)
    made.save_as(stream, enforce_file_format=True)


def _identifiers(
    mask: NDArray[np.bool_], volume: Volume, origin: Origin, made_at: datetime | None
) -> Callable[[str], str]:
    """What gives the identifier of a role: a new one, or that of this mask at this moment."""
    from pydicom.uid import generate_uid

    if made_at is None:
        return lambda role: generate_uid(prefix=None)
    digest = hashlib.sha256(repr((mask.shape, volume.source, made_at, __version__)).encode())
    digest.update(mask.tobytes() + volume.affine.tobytes())
    for frame in origin.frames:
        digest.update(frame.sop_instance.encode())
    return partial(uid_of, digest.digest())


def segments_in(dataset: Dataset) -> list[Region]:
    """The segments of a Segmentation."""
    return [
        Region(int(item.SegmentNumber), str(item.get("SegmentLabel") or ""))
        for item in dataset.get("SegmentSequence") or ()
        if int(item.SegmentNumber) != BACKGROUND
    ]


def read_mask(
    dataset: Dataset, like: Series | Volume, *, name: str, region: str | None = None
) -> NDArray[np.bool_]:
    """Read one segment onto the grid of a series, (X, Y, Z).

    Every pixel goes to the voxel at its place, whatever the order and direction of the frames. Of a
    fractional segmentation pixels of more than half the largest value are in.

    Parameters
    ----------
    dataset
        A Segmentation, binary, fractional or a label map.
    like
        Whose grid.
    name
        What to call the file in messages.
    region
        Label or number of the segment; may be left out where there is one.

    Raises
    ------
    KetyError
        If the segment is not there, or pixels lie between the voxels of the grid.
    """
    chosen = choose(segments_in(dataset), region, name, "segment")
    planes = planes_of(dataset, name)
    numbers = _segments_of_frames(dataset, len(planes.position))
    shape = len(planes.position), int(dataset.Rows), int(dataset.Columns)
    pixels = decoded_pixels(dataset, shape, name)
    inside = np.zeros(like.shape, dtype=np.bool_)
    to_voxel = np.linalg.inv(LPS @ like.affine)
    normal = np.cross(*planes.orientation[0])
    apart = np.abs(to_voxel[:3, :3] @ normal).max() * (planes.between or 0.0)
    if apart > 1 + OFF_GRID:
        raise KetyError(
            f"{name} lies on another grid than {like.source or 'the series'}: its frames are "
            f"{apart:.3g} slices apart; resample the segmentation onto the grid of the series, "
            "with nearest neighbours"
        )
    outside = 0
    for number, frame, orientation, position in zip(
        numbers, pixels, planes.orientation, planes.position, strict=True
    ):
        if number is None:
            member = frame == chosen.number
        elif number == chosen.number:
            member = frame > 0.5 * _largest(dataset)
        else:
            continue
        if not member.any():
            continue
        start = to_voxel[:3, :3] @ position + to_voxel[:3, 3]
        along = to_voxel[:3, :3] @ (orientation[0] * planes.spacing[1])
        down = to_voxel[:3, :3] @ (orientation[1] * planes.spacing[0])
        outside += _place(inside, member, start, along, down, name, like)
    if outside:
        warnings.warn(
            f"{name}: {outside:,} voxels of {chosen.words} lie outside "
            f"{like.source or 'the series'} and were left out",
            stacklevel=2,
        )
    return inside


def _place(
    inside: NDArray[np.bool_],
    member: NDArray[np.bool_],
    start: NDArray[np.float64],
    along: NDArray[np.float64],
    down: NDArray[np.float64],
    name: str,
    like: Series | Volume,
) -> int:
    """Add a frame's pixels to the voxels at their places; returns how many lie outside."""
    rows, columns = np.nonzero(member)
    at = start + columns[:, None] * along + rows[:, None] * down
    nearest = np.rint(at)
    off = float(np.abs(at - nearest).max())
    if off > OFF_GRID or np.abs(np.stack([along, down])).max() > 1 + OFF_GRID:
        raise KetyError(
            f"{name} lies on another grid than {like.source or 'the series'}: pixels are up to "
            f"{off:.2g} voxels away from the nearest voxel; resample the segmentation onto the "
            "grid of the series, with nearest neighbours"
        )
    voxels = nearest.astype(np.intp)
    within = ((voxels >= 0) & (voxels < inside.shape)).all(axis=1)
    inside[tuple(voxels[within].T)] = True
    return int(np.count_nonzero(~within))


def _segments_of_frames(dataset: Dataset, count: int) -> list[int | None]:
    """The segment of every frame; None for those of a label map, whose pixels say it."""
    if dataset.get("SegmentationType") == "LABELMAP":
        return [None] * count
    shared: Any = dataset.get("SharedFunctionalGroupsSequence") or [{}]
    found: list[int | None] = []
    for group in dataset.PerFrameFunctionalGroupsSequence:
        item = group.get("SegmentIdentificationSequence") or shared[0].get(
            "SegmentIdentificationSequence"
        )
        found.append(int(item[0].ReferencedSegmentNumber) if item else 1)
    return found


def _largest(dataset: Dataset) -> float:
    """The value of a pixel that is wholly in."""
    if dataset.get("SegmentationType") == "FRACTIONAL":
        return float(dataset.get("MaximumFractionalValue") or 255)
    return 1.0
