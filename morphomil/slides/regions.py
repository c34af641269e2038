"""Image -> tumor regions: annotated, white-filled crops, or detected tissue."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import shapely

from morphomil.errors import InputError, SlideError
from morphomil.places import local_copy
from morphomil.slides.annotations import read_annotation
from morphomil.slides.annotations.placement import Frame, place
from morphomil.slides.quality import is_white
from morphomil.slides.tissue import drop_small, is_covered, least_cells, tissue_mask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from morphomil.slides.annotations import Annotation
    from morphomil.slides.annotations.classes import Kind
    from morphomil.slides.image import SlideImage
    from morphomil.types import ImageSource, PatchSettings, RegionMode
RegionSource = Literal["annotation", "white", "tissue", "whole", "epithelium"]


@dataclass(frozen=True)
class Region:
    """A connected tumor area of an image, outline in level-0 pixels; `index` counts within the
    slide."""

    image: int
    index: int
    polygon: shapely.Polygon
    name: str
    source: RegionSource


@dataclass(frozen=True)
class Survey:
    """The regions of an image, and what its annotation holds beside them."""

    regions: list[Region]
    """Disjoint, from the top left; none on a blank slide."""
    left_out: Counter[tuple[str, str]]
    """How many annotated objects of which class are analyzed in no region, and why: (class,
    reason)."""


def find_regions(
    image: SlideImage,
    source: ImageSource,
    *,
    image_index: int,
    first_index: int,
    settings: PatchSettings,
) -> list[Region]:
    """The regions of `survey_regions`, which says how they are found and what it raises."""
    return survey_regions(
        image, source, image_index=image_index, first_index=first_index, settings=settings
    ).regions


def survey_regions(
    image: SlideImage,
    source: ImageSource,
    *,
    image_index: int,
    first_index: int,
    settings: PatchSettings,
) -> Survey:
    """The tumor regions of an image, disjoint, from the top left; none on a blank slide.

    Mode auto takes the annotation where there is one; else all that isn't white, where a twentieth
    or more of the image is pure white and more than half of the rest is tissue (a region cut out as
    in BCNB); else the tissue.

    Raises:
        InputError: the annotation can't be read, or there is none and the mode asks for it.
        SlideError: the image is damaged, or most of the annotation lies outside of it or of its
            tissue, or isn't in its pixels.
    """
    mode = settings.regions
    origin: RegionSource
    left_out: Counter[tuple[str, str]] = Counter()
    if mode == "annotation" and source.annotation is None:
        raise InputError(
            f"slide {source.path}: regions are to be annotated, but the manifest "
            "names no annotation"
        )
    if mode in ("auto", "annotation") and source.annotation is not None:
        with local_copy(source.annotation) as path:
            annotation = read_annotation(path, tumor_classes=settings.tumor_classes)
        named, left_out = _annotated(image, source, annotation, settings.tumor_classes)
        origin = "annotation"
    elif mode == "whole":
        named, origin = [("", shapely.box(0, 0, image.width, image.height))], "whole"
    else:
        named, origin = _detected(image, mode)
    named.sort(key=lambda pair: (pair[1].bounds[1], pair[1].bounds[0]))
    regions = [
        Region(
            image_index,
            first_index + number,
            polygon,
            name or f"region {first_index + number}",
            origin,
        )
        for number, (name, polygon) in enumerate(named)
    ]
    return Survey(regions, left_out)


def _parts(shape: shapely.Geometry) -> list[shapely.Polygon]:
    """The connected polygons of a shape, those below a pixel left out."""
    return [
        part for part in shapely.get_parts(shape) if part.geom_type == "Polygon" and part.area >= 1
    ]


def _annotated(
    image: SlideImage, source: ImageSource, annotation: Annotation, tumor_classes: str
) -> tuple[list[tuple[str, shapely.Polygon]], Counter[tuple[str, str]]]:
    """Named tumor areas in level-0 pixels, and what is left out."""
    kind = _wanted_kind(annotation, source, tumor_classes)
    left_out = Counter(annotation.left_out)
    for area in annotation.areas:
        if area.kind != kind:
            left_out[area.name, _REASONS[area.kind]] += 1
    areas = place(annotation, kind, _frame(image, source)).areas
    wanted = [area for area in areas if area.kind == kind]
    union = shapely.union_all([area.polygon for area in wanted])
    inside = shapely.intersection(union, shapely.box(0, 0, image.width, image.height))
    tumor = inside.difference(
        shapely.union_all([area.polygon for area in areas if area.kind == "other"])
    )
    parts = _parts(tumor)
    titles = [
        {area.name for area in wanted if area.name and area.polygon.intersects(part)}
        for part in parts
    ]
    named = [(" + ".join(sorted(some)), part) for some, part in zip(titles, parts, strict=True)]
    return named, left_out


_REASONS = {
    "other": "no tumor, cut out of it",
    "unlisted": "not among the tumor classes",
    "unknown": "without a class",
}


def _wanted_kind(annotation: Annotation, source: ImageSource, tumor_classes: str) -> Kind:
    """Tumor, or all that nobody classified where there is no tumor and no class was asked for.

    Raises:
        InputError: the annotation has neither.
    """
    kinds = {area.kind for area in annotation.areas}
    if "tumor" in kinds:
        return "tumor"
    if "unknown" in kinds and not tumor_classes:
        return "unknown"
    counts = Counter(area.name or "(no class)" for area in annotation.areas)
    names = ", ".join(
        name if count == 1 else f"{name} ({count})" for name, count in sorted(counts.items())
    )
    asked = f" of {tumor_classes}" if tumor_classes else ""
    raise InputError(
        f"annotation {source.annotation} marks no tumor{asked}, only: {names}; give tumor areas a "
        "class such as Tumor, or name the classes that are tumor with --tumor-classes"
    )


GLASS_DENSITY = 0.15
"""What absorbs less than this (natural units) of every color is empty glass."""


def _frame(image: SlideImage, source: ImageSource) -> Frame:
    """What an annotation is placed on; without tissue where the image is damaged somewhere, since
    the annotated part may be whole."""
    downsample = max(1.0, CELL_UM / image.mpp)
    tissue = covered = None
    with contextlib.suppress(SlideError):
        rgb, cell_mm2 = _overview(image, downsample)
        tissue = tissue_mask(rgb, cell_mm2=cell_mm2)
        covered = tissue | is_covered(rgb, density=GLASS_DENSITY)
    return Frame(
        source,
        image.width,
        image.height,
        image.mpp,
        image.downsamples,
        image.properties,
        tissue,
        covered,
        downsample,
    )


def _overview(image: SlideImage, downsample: float) -> tuple[NDArray[np.uint8], float]:
    """The whole image, and the area of its pixels in mm2."""
    width, height = (math.ceil(side / downsample) for side in (image.width, image.height))
    rgb = image.read(0, 0, width, height, downsample=downsample)
    return rgb, (downsample * image.mpp / 1000) ** 2


WHITE_SHARE = 0.05
TISSUE_SHARE_OF_CROP = 0.5
CELL_UM = 8.0
"""Tissue is detected at this many um per pixel."""


def _detected(
    image: SlideImage, mode: RegionMode
) -> tuple[list[tuple[str, shapely.Polygon]], RegionSource]:
    from scipy import ndimage

    downsample = max(1.0, CELL_UM / image.mpp)
    rgb, cell_mm2 = _overview(image, downsample)
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
    tumor = region.source in ("annotation", "white")
    name, color = (
        ("Tumor", [200, 0, 0])
        if tumor
        else ("Epithelium", [150, 80, 160])
        if region.source == "epithelium"
        else ("Tissue", [0, 120, 120])
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
            "classification": {"name": name, "color": color},
            "image": region.image,
            "region": region.index,
            "source": region.source,
        },
    }
