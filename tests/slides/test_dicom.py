"""DICOM whole-slide images: a folder, and one file of it, are the same slide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from slide_images import Rgb, noise

from morphomil.cohort.manifest import read_manifest
from morphomil.errors import SlideError
from morphomil.slides.image import open_image
from morphomil.store import fingerprint
from morphomil.types import ImageSource

if TYPE_CHECKING:
    from pathlib import Path

pydicom: Any = pytest.importorskip("pydicom")
SLIDE_IMAGE = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""The class of VL Whole Slide Microscopy Images."""


def write_dicom(path: Path, rgb: Rgb, *, series: str, mpp: float, level: int = 0) -> None:
    """A level of a slide as DICOM PS3.3 A.32.8 describes it: tiles of 64 pixels, uncompressed."""
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    height, width, _ = rgb.shape
    down, across = -(-height // 64), -(-width // 64)
    padded = np.full((down * 64, across * 64, 3), 255, np.uint8)
    padded[:height, :width] = rgb
    tiles = padded.reshape(down, 64, across, 64, 3).transpose(0, 2, 1, 3, 4)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SLIDE_IMAGE, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    measures, shared = Dataset(), Dataset()
    measures.PixelSpacing = [mpp / 1000, mpp / 1000]
    shared.PixelMeasuresSequence = [measures]
    content = {
        "SOPClassUID": SLIDE_IMAGE,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "Modality": "SM",
        "SeriesInstanceUID": series,
        "StudyInstanceUID": generate_uid(),
        "FrameOfReferenceUID": generate_uid(),
        "ImageType": ["ORIGINAL", "PRIMARY", "VOLUME", "RESAMPLED" if level else "NONE"],
        "TotalPixelMatrixColumns": width,
        "TotalPixelMatrixRows": height,
        "Columns": 64,
        "Rows": 64,
        "SamplesPerPixel": 3,
        "PhotometricInterpretation": "RGB",
        "PlanarConfiguration": 0,
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "PixelRepresentation": 0,
        "DimensionOrganizationType": "TILED_FULL",
        "TotalPixelMatrixFocalPlanes": 1,
        "NumberOfOpticalPaths": 1,
        "SharedFunctionalGroupsSequence": [shared],
        "NumberOfFrames": down * across,
        "PixelData": tiles.tobytes(),
    }
    file = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    for name, value in content.items():
        setattr(file, name, value)
    file.save_as(path, enforce_file_format=True)


def write_slide(folder: Path, rgb: Rgb) -> None:
    """A slide of two levels, the coarser first by name."""
    from pydicom.uid import generate_uid

    folder.mkdir(exist_ok=True)
    series = generate_uid()
    mark = len(list(folder.iterdir()))
    write_dicom(folder / f"{mark}-a.dcm", rgb[::4, ::4], series=series, mpp=1.0, level=1)
    write_dicom(folder / f"{mark}-b.dcm", rgb, series=series, mpp=0.25)


def test_folder_and_each_file_of_it_are_the_slide(tmp_path: Path) -> None:
    rgb = noise(300, 400)
    write_slide(tmp_path / "slide", rgb)
    for path in (tmp_path / "slide", *(tmp_path / "slide").iterdir()):
        with open_image(ImageSource(path)) as image:
            assert (image.width, image.height, image.mpp) == (400, 300, 0.25)
            assert np.array_equal(image.read(0, 0, 400, 300, downsample=1), rgb)


def test_folder_of_two_slides_is_refused(tmp_path: Path) -> None:
    write_slide(tmp_path / "slide", noise(100, 100))
    write_slide(tmp_path / "slide", noise(100, 120))
    with pytest.raises(SlideError, match=r"holds 2 DICOM slides; name one file.*0-a\.dcm, 2-a"):
        open_image(ImageSource(tmp_path / "slide"))


def test_manifest_takes_a_folder(tmp_path: Path) -> None:
    write_slide(tmp_path / "slide", noise(100, 100))
    (tmp_path / "cohort.csv").write_text("slide,patient,label\nslide,p,1\n")
    (slide,) = read_manifest(tmp_path / "cohort.csv").cohort.slides
    assert slide.slide_id == "slide"
    before = fingerprint(slide.images[0].path)
    write_slide(tmp_path / "slide", noise(100, 120))
    assert fingerprint(slide.images[0].path) != before
