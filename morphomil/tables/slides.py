"""What the report and the pictures say of single slides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shapely.geometry import shape

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

    from morphomil.run.directory import Run


def image_regions(run: Run, slide_id: str, image: int) -> list[BaseGeometry]:
    """The regions on one of a slide's images, level-0 pixels."""
    features = run.regions(slide_id)
    return [shape(f["geometry"]) for f in features if f["properties"]["image"] == image]


def empty_patches(run: Run, slide_id: str) -> int:
    """How many of a measured slide's kept patches hold no nucleus."""
    counts = run.counts(slide_id).counts
    return int((counts.sum(axis=-1).max(axis=0, initial=0) == 0).sum())
