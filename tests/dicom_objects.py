"""Headers of made-up source images, and dciodvfy, for the tests of what is written to DICOM."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid

PATIENT = "Musterfrau^Erika"
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"


def ct_headers(
    affine: Any, shape: tuple[int, int, int], phases: int = 1, **changes: Any
) -> list[Dataset]:
    """Headers of a CT series on a grid (columns, rows, slices), its phases one after the other."""
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(affine)
    sizes = np.linalg.norm(lps[:3, :3], axis=0)
    study, series, frame = (generate_uid(prefix=None) for _ in range(3))
    headers = []
    for index in range(phases * shape[2]):
        one = Dataset()
        one.SOPClassUID = CT_IMAGE
        one.SOPInstanceUID = generate_uid(prefix=None)
        one.StudyInstanceUID, one.SeriesInstanceUID, one.FrameOfReferenceUID = study, series, frame
        one.PatientName, one.PatientID = PATIENT, "ID-4711"
        one.PatientBirthDate, one.PatientSex = "19700102", "F"
        one.AccessionNumber, one.StudyID, one.StudyDate, one.StudyTime = (
            "7",
            "1",
            "20240102",
            "0930",
        )
        one.ReferringPhysicianName, one.StudyDescription = "", "perfusion"
        one.Modality, one.Manufacturer = "CT", "Scanners"
        one.Rows, one.Columns = shape[1], shape[0]
        one.SliceThickness = sizes[2]
        one.PixelSpacing = [sizes[1], sizes[0]]
        one.ImageOrientationPatient = [
            float(f"{x:.12f}") for x in (lps[:3, :2] / sizes[:2]).T.ravel()
        ]
        position = lps[:3, 3] + (index % shape[2]) * lps[:3, 2]
        one.ImagePositionPatient = [float(f"{x:.10f}") for x in position]
        for keyword, value in changes.items():
            setattr(one, keyword, value)
        headers.append(one)
    return headers


def problems(path: Path) -> list[str]:
    """What dciodvfy calls an error in a file; skips the test where it is not installed."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (Debian: dicom3tools) is not installed")
    done = subprocess.run(
        ["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False
    )
    lines = (done.stdout + done.stderr).splitlines()
    assert lines, "dciodvfy says what it read"
    return [line for line in lines if line.startswith("Error")]


def turned(seed: int, sizes: Any = (1.5, 2.0, 4.0), *, oblique: bool = True) -> Any:
    """An affine whose axes are exchanged, reversed and, if oblique, turned at random."""
    random = np.random.default_rng(seed)
    axes = np.eye(3)[random.permutation(3)] * random.choice([-1.0, 1.0], 3)
    if oblique:
        turn, _ = np.linalg.qr(random.standard_normal((3, 3)))
        axes = turn @ axes
    affine = np.eye(4)
    affine[:3, :3] = axes * np.asarray(sizes)
    affine[:3, 3] = random.uniform(-200, 200, 3)
    return affine


def by_place(data: Any, affine: Any) -> dict[tuple[int, ...], bytes]:
    """The voxels of a volume by where they are, to 0.01 mm, with their very bits."""
    indices = np.indices(data.shape).reshape(3, -1)
    at = np.asarray(affine)[:3, :3] @ indices + np.asarray(affine)[:3, 3:]
    keys = np.rint(at.T * 100).astype(int)
    return {
        tuple(map(int, key)): value.tobytes() for key, value in zip(keys, data.ravel(), strict=True)
    }
