"""Nuclei that other programs found: one reader for each format, behind one noun (`Nuclei`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from morphomil.errors import SlideError
from morphomil.slides.masks import MIN_AREA_UM2
from morphomil.slides.nuclei_files.hovernet import read_mat
from morphomil.slides.nuclei_files.json_files import read_json
from morphomil.slides.nuclei_files.label_image import (
    PNG_MAGIC,
    TIFF_MAGIC,
    LabelImage,
    read_types,
    types_file,
)
from morphomil.slides.nuclei_files.nuclei import Nuclei, Reading, decoding
from morphomil.slides.nuclei_files.spatialdata import SHAPES_FILE, attribute_file, read_parquet
from morphomil.slides.nuclei_files.tables import is_table, read_table
from morphomil.store import check_kind

if TYPE_CHECKING:
    from pathlib import Path

    from morphomil.slides.image import SlideImage

__all__ = ["FORMATS", "Nuclei", "Reading", "depends_on", "read_nuclei"]

MAX_OUTSIDE = 0.5
"""Nuclei of which more than this share lies outside the image belong to another slide."""
MAX_TOO_SMALL = 0.9
"""Nuclei of which more than this share is smaller than a nucleus can be aren't in level-0
pixels."""
MIN_JUDGED = 10
"""Fewer nuclei say nothing about the unit of their coordinates."""
PLAIN = Reading()
"""Nothing is said beyond what the files say themselves."""
FORMATS = (
    "a label image (PNG, TIFF), GeoJSON, CellViT's cells.json, HoVer-Net's .json or .mat, "
    "SpatialData's shapes (Parquet) or a table of outlines (CSV, TSV)"
)
_REFUSED = {
    b"\x93NUMPY": "it is NumPy's, which may hold a pickle",
    b"PK\x03\x04": "it is a ZIP archive",
    b"\x80\x02": "it is a pickle",
    b"\x80\x04": "it is a pickle",
    b"\x80\x05": "it is a pickle",
    b"\xff\x06\x00\x00sNaPpY": "it is compressed with Snappy",
    b"\x89HDF": "it is HDF5",
}


def read_nuclei(path: Path, image: SlideImage, reading: Reading = PLAIN) -> Nuclei:
    """The nuclei of a file, whose format its content tells.

    Raises:
        SlideError: the file can't be read, is of no known format, or doesn't fit the image.
    """
    with decoding(path):
        nuclei = _read(path, image, reading)
    _check_place(path, nuclei, image)
    return nuclei


def _read(path: Path, image: SlideImage, reading: Reading) -> Nuclei:
    file = path / SHAPES_FILE if path.is_dir() else path
    check_kind(file)
    with file.open("rb") as stream:
        head = stream.read(4096)
    if head.startswith((PNG_MAGIC, *TIFF_MAGIC)):
        said = read_types(types_file(file))
        return LabelImage(file, image, plane=reading.plane, said=said)
    if head.startswith(b"\x1f\x8b") or head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (
        b"{",
        b"[",
    ):
        return read_json(file, image, reading)
    if head.startswith(b"PAR1"):
        return read_parquet(file, image)
    if head.startswith(b"MATLAB"):
        return read_mat(file, image, reading)
    for magic, cause in _REFUSED.items():
        if head.startswith(magic):
            raise ValueError(f"{cause}; give {FORMATS}")
    if is_table(head):
        return read_table(file, image)
    raise ValueError(f"it is neither PNG, TIFF nor GeoJSON, nor any other known; give {FORMATS}")


def depends_on(path: Path) -> list[Path]:
    """The files that a file or folder of nuclei is read from."""
    file = path / SHAPES_FILE if path.is_dir() else path
    return [file, *filter(None, (attribute_file(file), types_file(file)))]


def _check_place(path: Path, nuclei: Nuclei, image: SlideImage) -> None:
    """Refuse what belongs to another slide or isn't in level-0 pixels."""
    if not len(nuclei.centers):
        return
    x, y = nuclei.centers.T
    outside = 1 - np.mean((x >= 0) & (y >= 0) & (x <= image.width) & (y <= image.height))
    if outside > MAX_OUTSIDE:
        raise SlideError(
            f"nuclei {path}: {outside:.0%} of them lie outside the image ({image.width} x "
            f"{image.height} pixels); they "
            "belong to another slide, or aren't in level-0 pixels"
        )
    areas_um2 = nuclei.areas_px * image.mpp**2
    small = np.mean(areas_um2 < MIN_AREA_UM2)
    if len(areas_um2) >= MIN_JUDGED and small > MAX_TOO_SMALL:
        raise SlideError(
            f"nuclei {path}: {small:.0%} of them are smaller than {MIN_AREA_UM2:g} um2 (median "
            f"{np.median(areas_um2):.3g} um2); their coordinates aren't level-0 pixels (degrees, "
            "um, shares of the width, another level), or the slide's pixel size is wrong"
        )
