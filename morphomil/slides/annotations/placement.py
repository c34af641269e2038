"""Where an annotation lies on its image: origin and unit by format, and whether that can be right.

Some files hold more canvas than was scanned: OpenSlide's `bounds-x` and `bounds-y` say where the
scanned part begins (MRXS, SCN). QuPath's coordinates begin there, ASAP's at the canvas's corner.
HALO's begin at that place rounded down to whole tiles of 256 pixels, as dlup found
(https://github.com/NKI-AI/dlup, `SlideAnnotations.from_halo_xml`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import shapely

from morphomil.errors import InputError, SlideError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from morphomil.slides.annotations import Annotation
    from morphomil.slides.annotations.classes import Kind
    from morphomil.types import AnnotationOrigin, ImageSource

MAX_OUTSIDE = 0.5
"""An annotation with a larger share outside the image belongs to another slide."""
MIN_ON_TISSUE = 0.1
"""An annotation with a smaller share that is anything but glass lies in the wrong place."""
POOR_FIT = 0.25
"""An annotation with a smaller share of tissue is compared with other readings of its numbers."""
GOOD_FIT = 0.8
"""Another reading must give this share of tissue to be believed."""
HALO_TILE_PX = 256
Corner = Literal["level0", "bounds", "bounds rounded down to 256 pixels"]


@dataclass(frozen=True)
class Frame:
    """What an annotation is placed on."""

    source: ImageSource
    """The image file, its annotation, and what the manifest says of both."""
    width: int
    """Of the image, level-0 pixels."""
    height: int
    """Of the image, level-0 pixels."""
    mpp: float
    """um per level-0 pixel."""
    downsamples: tuple[float, ...]
    """Of the image's levels."""
    properties: Mapping[str, str]
    """OpenSlide's, by their names there; empty where another decoder reads the file."""
    tissue: NDArray[np.bool_] | None
    """Where tissue was detected, in cells of `cell_px`; None: not known."""
    covered: NDArray[np.bool_] | None
    """Where there is anything but glass, in the same cells."""
    cell_px: float
    """Side of a cell, level-0 pixels."""

    @property
    def bounds(self) -> tuple[float, float]:
        """Where the scanned part begins, level-0 pixels; (0, 0) where it is the whole canvas."""
        x, y = (float(self.properties.get(f"openslide.bounds-{axis}", 0)) for axis in "xy")
        return x, y


def place(annotation: Annotation, kind: Kind, frame: Frame) -> Annotation:
    """The annotation with its areas in level-0 pixels; those of the kind that is analyzed must lie
    on tissue.

    Raises:
        InputError: nothing says where its coordinates begin, or they need properties that the image
            lacks.
        SlideError: it lies outside the image or the tissue, or its numbers are no level-0 pixels.
    """
    factor, x, y = _mapping(annotation, frame)
    placed = annotation.moved(factor, x, y)
    _check_unit(annotation, frame)
    wanted = tuple(area for area in annotation.areas if area.kind == kind)
    _check_place((factor, x, y), replace(annotation, areas=wanted), frame)
    return placed


def corner_of(annotation: Annotation, frame: Frame) -> Corner:
    """Which corner the coordinates of a format begin at, unless the manifest says.

    Raises:
        InputError: the image has two corners, and the format doesn't tell.
    """
    stated: AnnotationOrigin | None = frame.source.annotation_origin
    if stated is not None:
        return stated
    if annotation.from_level0 or frame.bounds == (0, 0):
        return "level0"
    if annotation.format == "GeoJSON":
        return "bounds"
    if annotation.format == "HALO XML":
        return "bounds rounded down to 256 pixels"
    if annotation.format == "ImageScope XML":
        x, y = frame.bounds
        raise InputError(
            f"annotation {frame.source.annotation}: slide {frame.source.path.name} begins at "
            f"({x:g}, {y:g}) of its canvas, and ImageScope XML doesn't say whether its coordinates "
            "begin there; write level0 or bounds in the manifest's column annotation_origin"
        )
    return "level0"


def _mapping(annotation: Annotation, frame: Frame) -> tuple[float, float, float]:
    """Factor and shift that bring the file's coordinates to level-0 pixels."""
    if annotation.format == "NDPA":
        return _from_slide_center(frame)
    x, y = frame.bounds
    corner = corner_of(annotation, frame)
    if corner == "level0":
        return 1.0, 0.0, 0.0
    if corner == "bounds":
        return 1.0, x, y
    return 1.0, x - x % HALO_TILE_PX, y - y % HALO_TILE_PX


def _from_slide_center(frame: Frame) -> tuple[float, float, float]:
    """Nanometers from the slide's center -> pixels: the image's center lies at the stated
    offsets."""
    names = [f"hamamatsu.{axis}OffsetFromSlideCentre" for axis in "XY"]
    if lacking := [name for name in names if name not in frame.properties]:
        raise InputError(
            f"annotation {frame.source.annotation} counts nanometers from the slide's center, but "
            f"slide {frame.source.path.name} doesn't say where that is ({lacking[0]} is missing); "
            "give the NDPI file, or an annotation in pixels"
        )
    x, y = (float(frame.properties[name]) for name in names)
    nm = 1000 * frame.mpp
    return 1 / nm, frame.width / 2 - x / nm, frame.height / 2 - y / nm


def _check_unit(annotation: Annotation, frame: Frame) -> None:
    """Refuse degrees and percent, which lie in the image's top left corner when read as pixels."""
    if annotation.format in ("NDPA", "BCNB JSON") or min(frame.width, frame.height) < 400:
        return
    shapes = [area.polygon for area in annotation.areas]
    left, top, right, bottom = shapely.total_bounds(shapes)
    if max(-left, right) > 180 or max(-top, bottom) > 90:
        return
    values = np.concatenate([shapely.get_coordinates(shape) for shape in shapes])
    fine = np.abs(values * 1000 - np.round(values * 1000)) > 1e-6
    if not (annotation.geographic or min(left, top) < -1 or fine.mean() > 0.5):
        return
    raise SlideError(
        f"slide {frame.source.path}: the coordinates of annotation {frame.source.annotation} (x "
        f"{left:.6g} to {right:.6g}, y {top:.6g} to {bottom:.6g}) look like degrees or percent, "
        f"and the image has {frame.width} x {frame.height} pixels; export it in level-0 pixels"
    )


def _check_place(mapping: tuple[float, float, float], annotation: Annotation, frame: Frame) -> None:
    shape = _union(annotation.moved(*mapping))
    name, path = frame.source.annotation, frame.source.path
    inside = shapely.intersection(shape, shapely.box(0, 0, frame.width, frame.height)).area
    if inside < (1 - MAX_OUTSIDE) * shape.area:
        raise SlideError(
            f"slide {path}: {1 - inside / shape.area:.0%} of annotation {name} lies outside the "
            f"image ({frame.width} x {frame.height} pixels); it belongs to another slide or isn't "
            f"in level-0 pixels{_other_reading(annotation, frame)}"
        )
    if frame.covered is None or frame.tissue is None or not frame.covered.any():
        return
    on_anything = share_on(shape, frame.covered, frame.cell_px)
    if on_anything < MIN_ON_TISSUE:
        left, top, right, bottom = shape.bounds
        unit = " or isn't in level-0 pixels"
        if frame.bounds != (0, 0):
            unit = (
                ", isn't in level-0 pixels, or begins at another corner (column annotation_origin: "
                "level0 or bounds)"
            )
        raise SlideError(
            f"slide {path}: only {on_anything:.0%} of annotation {name} (x {left:.0f} to "
            f"{right:.0f}, y {top:.0f} to {bottom:.0f}) lies on tissue, the rest on empty glass; "
            f"it belongs to another slide{unit}{_other_reading(annotation, frame)}"
        )
    on_tissue = share_on(shape, frame.tissue, frame.cell_px)
    if on_tissue < POOR_FIT and (reading := _other_reading(annotation, frame)):
        raise SlideError(
            f"slide {path}: only {on_tissue:.0%} of annotation {name} lies on tissue{reading}"
        )


def _union(annotation: Annotation) -> BaseGeometry:
    return shapely.union_all([area.polygon for area in annotation.areas])


def share_on(shape: BaseGeometry, mask: NDArray[np.bool_], cell_px: float) -> float:
    """The share of a shape's area that lies on a mask's cells, from 0 to 1; cells count by their
    centers."""
    left, top, right, bottom = (side / cell_px for side in shape.bounds)
    rows = np.arange(max(0, int(top)), min(mask.shape[0], int(np.ceil(bottom)) + 1))
    columns = np.arange(max(0, int(left)), min(mask.shape[1], int(np.ceil(right)) + 1))
    if shape.area < 4 * cell_px**2:
        point = shape.representative_point()
        row, column = int(point.y // cell_px), int(point.x // cell_px)
        within = 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1]
        return float(within and mask[row, column])
    if not (rows.size and columns.size):
        return 0.0
    y, x = np.meshgrid((rows + 0.5) * cell_px, (columns + 0.5) * cell_px, indexing="ij")
    shapely.prepare(shape)
    hit = shapely.contains_xy(shape, x, y)
    whole = max(int(hit.sum()), shape.area / cell_px**2)
    return float((hit & mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]).sum() / whole)


def _other_reading(annotation: Annotation, frame: Frame) -> str:
    """What the coordinates look like instead, as the end of a sentence; "" where nothing fits."""
    if frame.tissue is None or not frame.tissue.any() or annotation.format == "NDPA":
        return ""
    for looks, factor, x, y in _readings(frame):
        share = share_on(_union(annotation.moved(factor, x, y)), frame.tissue, frame.cell_px)
        if share >= GOOD_FIT:
            return f"; its coordinates look like {looks}: read so, {share:.0%} of it is tissue"
    return ""


def _readings(frame: Frame) -> Iterator[tuple[str, float, float, float]]:
    """Other meanings of coordinates: in words, factor and shift to level-0 pixels."""
    x, y = frame.bounds
    if (x, y) != (0, 0):
        yield f"those from the scanned part's corner ({x:g}, {y:g}): bounds", 1.0, x, y
        yield "those from the canvas's corner: level0", 1.0, 0.0, 0.0
    levels = [(f"pixels of level {n}", d) for n, d in enumerate(frame.downsamples) if d > 1.01]
    images = [(f"pixels of an image {2**n} times smaller", 2.0**n) for n in range(1, 8)]
    images += [(f"pixels of an image {2**n} times larger", 0.5**n) for n in range(1, 5)]
    units = [("micrometers", 1.0), ("millimeters", 1000.0), ("nanometers", 0.001)]
    known: list[tuple[str, float]] = []
    for looks, factor in levels + images:
        if not any(abs(factor / other - 1) < 0.02 for _, other in known):
            known.append((looks, factor))
    for unit, um in units:
        factor = um / frame.mpp
        same = [n for n, (_, other) in enumerate(known) if abs(factor / other - 1) < 0.02]
        if same:
            known[same[0]] = (f"{known[same[0]][0]} (or {unit})", factor)
        elif abs(factor - 1) > 0.02:
            known.append((unit, factor))
    for looks, factor in known:
        for dx, dy in dict.fromkeys([(0.0, 0.0), (x, y)]):
            yield looks, factor, dx, dy
