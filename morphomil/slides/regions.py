"""Image -> tumor regions: annotated, white-filled crops, or detected tissue."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import shapely

from morphomil.errors import InputError, SlideError
from morphomil.slides.annotations import read_annotation
from morphomil.slides.quality import is_white
from morphomil.slides.tissue import drop_small, least_cells, tissue_mask

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from morphomil.slides.image import SlideImage
    from morphomil.types import ImageSource, PatchSettings, RegionMode
MAX_OUTSIDE = 0.5
"""An annotation with more than this share outside the image belongs to another slide."""
RegionSource = Literal["annotation", "white", "tissue", "whole"]


@dataclass(frozen=True)
class Region:
    """A connected tumor area of an image, outline in level-0 pixels; `index` counts within the
    slide."""

    image: int
    index: int
    polygon: shapely.Polygon
    name: str
    source: RegionSource


def find_regions(
    image: SlideImage,
    source: ImageSource,
    *,
    image_index: int,
    first_index: int,
    settings: PatchSettings,
) -> list[Region]:
    """The tumor regions of an image, disjoint, from the top left; none on a blank slide.

    Mode auto takes the annotation where there is one; else all that isn't white, where a twentieth
    or more of the image is pure white and more than half of the rest is tissue (a region cut out as
    in BCNB); else the tissue.

    Raises:
        InputError: the annotation can't be read, or there is none and the mode asks for it.
        SlideError: the image is damaged, or most of the annotation lies outside of it.
    """
    mode = settings.regions
    origin: RegionSource
    if mode == "annotation" and source.annotation is None:
        raise InputError(
            f"slide {source.path}: regions are to be annotated, but the manifest "
            "names no annotation"
        )
    if mode in ("auto", "annotation") and source.annotation is not None:
        named, origin = _annotated(image, source.annotation), "annotation"
    elif mode == "whole":
        named, origin = [("", shapely.box(0, 0, image.width, image.height))], "whole"
    else:
        named, origin = _detected(image, mode)
    named.sort(key=lambda pair: (pair[1].bounds[1], pair[1].bounds[0]))
    return [
        Region(
            image_index,
            first_index + number,
            polygon,
            name or f"region {first_index + number}",
            origin,
        )
        for number, (name, polygon) in enumerate(named)
    ]


def _parts(shape: shapely.Geometry) -> list[shapely.Polygon]:
    """The connected polygons of a shape, those below a pixel left out."""
    return [
        part for part in shapely.get_parts(shape) if part.geom_type == "Polygon" and part.area >= 1
    ]


def _annotated(image: SlideImage, path: Path) -> list[tuple[str, shapely.Polygon]]:
    areas = read_annotation(path)
    kind = "tumor" if any(area.kind == "tumor" for area in areas) else "unknown"
    wanted = [area for area in areas if area.kind == kind]
    if not wanted:
        names = ", ".join(sorted({area.name for area in areas}))
        raise InputError(
            f"annotation {path} marks no tumor, only: {names}; give tumor areas a "
            "class such as Tumor"
        )
    union = shapely.union_all([area.polygon for area in wanted])
    inside = shapely.intersection(union, shapely.box(0, 0, image.width, image.height))
    if inside.area < (1 - MAX_OUTSIDE) * union.area:
        raise SlideError(
            f"slide {image.path}: {1 - inside.area / union.area:.0%} of annotation {path} lies "
            "outside the image "
            f"({image.width} x {image.height} pixels); it belongs to another slide or isn't in "
            "level-0 pixels"
        )
    tumor = inside.difference(
        shapely.union_all([area.polygon for area in areas if area.kind == "other"])
    )
    parts = _parts(tumor)
    titles = [
        {area.name for area in wanted if area.name and area.polygon.intersects(part)}
        for part in parts
    ]
    return [(" + ".join(sorted(some)), part) for some, part in zip(titles, parts, strict=True)]


WHITE_SHARE = 0.05
TISSUE_SHARE_OF_CROP = 0.5
CELL_UM = 8.0
"""Tissue is detected at this many um per pixel."""


def _detected(
    image: SlideImage, mode: RegionMode
) -> tuple[list[tuple[str, shapely.Polygon]], RegionSource]:
    from scipy import ndimage

    downsample = max(1.0, CELL_UM / image.mpp)
    width, height = (math.ceil(side / downsample) for side in (image.width, image.height))
    rgb = image.read(0, 0, width, height, downsample=downsample)
    cell_mm2 = (downsample * image.mpp / 1000) ** 2
    tissue = tissue_mask(rgb, cell_mm2=cell_mm2)
    filled = rgb.min(axis=-1) < 250
    is_crop = (
        is_white(rgb).mean() >= WHITE_SHARE and tissue.sum() > TISSUE_SHARE_OF_CROP * filled.sum()
    )
    origin: RegionSource = "white" if mode == "white" or (mode == "auto" and is_crop) else "tissue"
    if origin == "white":
        solid = drop_small(filled, cells=least_cells(filled, cell_mm2))
        mask = ndimage.binary_fill_holes(ndimage.binary_dilation(solid))
    else:
        mask = tissue
    frame = shapely.box(0, 0, image.width, image.height)
    outlines = [
        shapely.intersection(outline, frame) for outline in mask_polygons(mask, cell_px=downsample)
    ]
    return [("", part) for outline in outlines for part in _parts(outline)], origin


def mask_polygons(mask: NDArray[np.bool_], *, cell_px: float) -> list[shapely.Polygon]:
    """The outlines, with holes, of a mask's 4-connected parts; a cell is a square of `cell_px`, so
    areas are exact."""
    edges = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    row, start = np.nonzero(edges == 1)
    end = np.nonzero(edges == -1)[1]
    runs = shapely.box(start * cell_px, row * cell_px, end * cell_px, (row + 1) * cell_px)
    return _parts(shapely.union_all(runs))


def regions_geojson(regions: Sequence[Region]) -> dict[str, Any]:
    """The regions as a GeoJSON FeatureCollection of QuPath annotations, level-0 pixels of each
    region's image."""
    return {"type": "FeatureCollection", "features": [_feature(region) for region in regions]}


def _feature(region: Region) -> dict[str, Any]:
    known = region.source in ("annotation", "white")
    classification = (
        {"name": "Tumor", "color": [200, 0, 0]}
        if known
        else {"name": "Tissue", "color": [0, 120, 120]}
    )
    rings = (region.polygon.exterior, *region.polygon.interiors)
    return {
        "type": "Feature",
        "geometry": {
            "type": "Polygon",
            "coordinates": [shapely.get_coordinates(ring).tolist() for ring in rings],
        },
        "properties": {
            "objectType": "annotation",
            "name": region.name,
            "classification": classification,
            "image": region.image,
            "region": region.index,
            "source": region.source,
        },
    }
