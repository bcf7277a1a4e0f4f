"""A folder of 20,000 DICOM slices: time and memory to look through it and to read it."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Sequence
from datetime import datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from benchmarks.common import Table, run

SLICES, PHASES, QUICK_PHASES = 50, 400, 10
SIDE = 64
UNUSED = 120
"""Elements of every header that nobody asks for, and 8 kB of a maker's own."""
SAMPLE = 500
"""Files that pydicom reads for comparison."""

CHILD = """
import json, resource, sys, time
start = time.perf_counter()
import kety.io.dicom as dicom
loaded = time.perf_counter()
worked = time.process_time()
found = dicom.find_series(sys.argv[1])
looked, worked = time.perf_counter(), time.process_time() - worked
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
series = dicom.read_series(sys.argv[1])
print(json.dumps({
    "import": loaded - start,
    "index": looked - loaded,
    "index_processor": worked,
    "read": time.perf_counter() - looked,
    "index_mib": memory / 1024,
    "read_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    "data_mib": series.data.nbytes / 2**20,
    "shape": series.data.shape,
}))
"""


def template() -> FileDataset:
    """A CT image with as long a header as scanners write."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.Modality, dataset.PatientID, dataset.PatientName = "CT", "1", "A^B"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.FrameOfReferenceUID, dataset.SeriesNumber = generate_uid(), 3
    dataset.SeriesDescription, dataset.KVP = "perfusion", 80
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness = [0.5, 0.5], 2
    dataset.Rows = dataset.Columns = SIDE
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation, dataset.RescaleSlope, dataset.RescaleIntercept = 0, 1, -1024
    dataset.PixelData = bytes(2 * SIDE * SIDE)
    for index in range(UNUSED):
        dataset.add_new(0x00190010 + 0x10000 * (index // 60) * 2 + index % 60 + 16, "LO", "unused")
    dataset.add_new(0x00290010, "LO", "MAKER")
    dataset.add_new(0x00291010, "OB", b"\x5a" * 8192)
    codes = Dataset()
    codes.CodeValue, codes.CodingSchemeDesignator, codes.CodeMeaning = "1", "DCM", "a procedure"
    dataset.ProcedureCodeSequence = [codes]
    return dataset


def write(folder: Path, phases: int, rng: np.random.Generator) -> None:
    """Write the series; what differs from file to file is put into a template's bytes."""
    dataset = template()
    uid = str(generate_uid())[:40].ljust(40, "1")
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{uid}.1000000"
    dataset.AcquisitionDate, dataset.AcquisitionTime = "20240305", "111111.111111"
    dataset.ContentDate, dataset.ContentTime = "20240305", "111111.111111"
    dataset.InstanceNumber, dataset.ImagePositionPatient = "777777", [-16, -16, "9999.5"]
    stream = BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    content = stream.getvalue()
    start = len(content) - 2 * SIDE * SIDE
    begin = datetime(2024, 3, 5, 10, 0, 0)
    for index in rng.permutation(SLICES * phases):
        t, z = divmod(int(index), SLICES)
        clock = (begin + timedelta(seconds=1.5 * t + 0.01 * z)).strftime("%H%M%S.%f").encode()
        header = (
            content[:start]
            .replace(b".1000000", b".%07d" % (1_000_001 + index))
            .replace(b"111111.111111", clock)
            .replace(b"777777", b"%06d" % (index + 1))
            .replace(b"9999.5", b"%06.1f" % (2.0 * z))
        )
        pixels = rng.integers(900, 1200, SIDE * SIDE, dtype=np.uint16)
        (folder / f"IM{index:06d}").write_bytes(header + pixels.tobytes())


def measured(path: Path) -> dict[str, Any]:
    """Figures of a process that does nothing else."""
    command = [sys.executable, "-c", CHILD, str(path)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(out))


def peer(folder: Path) -> float:
    """Seconds a file of pydicom for the headers alone."""
    files = sorted(folder.iterdir())[:SAMPLE]
    start = time.perf_counter()
    for file in files:
        dataset = dcmread(file, stop_before_pixels=True)
        _ = dataset.ImagePositionPatient, dataset.AcquisitionTime, dataset.SeriesInstanceUID
    return (time.perf_counter() - start) / len(files)


def measure(options: argparse.Namespace) -> tuple[list[Table], dict[str, Any]]:
    """Folder, zip and tar.gz of the same series."""
    phases = QUICK_PHASES if options.quick else PHASES
    count = SLICES * phases
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        folder = base / "study"
        folder.mkdir()
        write(folder, phases, np.random.default_rng(options.seed))
        files = sorted(folder.iterdir())
        with zipfile.ZipFile(base / "study.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as z:
            for file in files:
                z.write(file, file.name)
        with tarfile.open(base / "study.tar.gz", "w:gz", compresslevel=1) as tar:
            tar.add(folder, "study")
        size = sum(file.stat().st_size for file in files)
        figures = {
            kind: measured(base / place)
            for kind, place in (
                ("folder", "study"),
                ("zip", "study.zip"),
                ("tar.gz", "study.tar.gz"),
            )
        }
        pydicom = peer(folder)
    rows = [
        [
            kind,
            f"{f['index']:.1f}",
            f"{f['index_processor']:.1f}",
            f"{1e3 * f['index_processor'] / count:.2f}",
            f"{f['read']:.1f}",
            f"{f['index_mib']:.0f}",
            f"{f['read_mib']:.0f}",
        ]
        for kind, f in figures.items()
    ]
    note = (
        f"One process, one thread. {SLICES} slices of {SIDE} x {SIDE}, {phases} phases, "
        f"{size / count / 1024:.1f} KiB a file, the disk's cache warm; the data take "
        f"{figures['folder']['data_mib']:.0f} MiB in int16. pydicom reads such a header in "
        f"{1e3 * pydicom:.2f} ms."
    )
    head = [
        "series in",
        "index, s",
        "of a processor, s",
        "ms a file",
        "read, s",
        "peak MiB, index",
        "peak MiB, read",
    ]
    title = f"{count:,} DICOM files"
    return [Table(title, head, rows, note)], {**figures, "pydicom_ms": 1e3 * pydicom}


def main(argv: Sequence[str] | None = None) -> None:
    run("dicom", measure, __doc__ or "", argv)


if __name__ == "__main__":
    main()
