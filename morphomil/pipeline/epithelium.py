"""Regions of slides that nobody annotated: epithelium, outlined from the nuclei in the tissue."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import shapely

from morphomil.errors import InputError
from morphomil.pipeline.finding import RegionOfSlide, change_of_region, find_in_region
from morphomil.slides.masks import MaskFrame
from morphomil.slides.nests import outline_epithelium
from morphomil.slides.patches import cut_patches
from morphomil.slides.regions import Region, Survey, survey_regions
from morphomil.types import NUCLEUS_TYPES

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from morphomil.segment.model import Segmenter
    from morphomil.slides.image import SlideImage
    from morphomil.types import ImageSource, PatchSettings

EPITHELIAL = NUCLEUS_TYPES.index("epithelial")


def surveyor(settings: PatchSettings, segmenter: Segmenter) -> Callable[..., Survey]:
    """What finds the regions by these settings, called as `survey_regions`.

    Raises:
        InputError: epithelium is asked for, and the model doesn't know types.
    """
    if settings.regions != "epithelium":
        return survey_regions
    if segmenter.types is None:
        raise InputError(
            f"--regions epithelium needs a model that knows types of nuclei, and "
            f"{segmenter.settings.model!r} doesn't; --model default does"
        )
    return partial(survey_epithelium, segmenter=segmenter)


def survey_epithelium(
    image: SlideImage,
    source: ImageSource,
    *,
    image_index: int,
    first_index: int,
    settings: PatchSettings,
    segmenter: Segmenter,
) -> Survey:
    """The epithelium of an image, benign or not, as regions: `outline_epithelium` of the nuclei
    that the network finds in all tissue, within the tissue.

    Raises:
        SlideError: the image is damaged.
    """
    tissue = survey_regions(
        image,
        source,
        image_index=image_index,
        first_index=0,
        settings=replace(settings, regions="tissue"),
    ).regions
    found = [
        _typed_positions(image, region, settings=settings, segmenter=segmenter) for region in tissue
    ]
    if not sum(len(shares) for _, shares in found):
        return Survey([], Counter())
    outlines = outline_epithelium(
        np.concatenate([positions for positions, _ in found]) * image.mpp,
        np.concatenate([shares for _, shares in found]),
        width_um=image.width * image.mpp,
        height_um=image.height * image.mpp,
    )
    scaled = shapely.transform(outlines, lambda points: points / image.mpp)
    inside = shapely.intersection(
        shapely.union_all(scaled), shapely.union_all([region.polygon for region in tissue])
    )
    parts = [p for p in shapely.get_parts(inside) if p.geom_type == "Polygon" and p.area >= 1]
    parts.sort(key=lambda part: (part.bounds[1], part.bounds[0]))
    regions = [
        Region(image_index, first_index + k, part, f"epithelium {first_index + k}", "epithelium")
        for k, part in enumerate(parts)
    ]
    return Survey(regions, Counter())


def _typed_positions(
    image: SlideImage, region: Region, *, settings: PatchSettings, segmenter: Segmenter
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Level-0 positions (n, 2) of the nuclei of a region, and the probability of each that it is
    epithelial (n,)."""
    cut = cut_patches(image, region, slide_id="", first_patch_id=0, settings=settings)
    frame = MaskFrame.around(cut, settings, image=region.image)
    positions, shares = [np.empty((0, 2))], [np.empty(0, np.float32)]
    part = RegionOfSlide(image, region, cut, frame)
    for nuclei in find_in_region(part, segmenter, change=change_of_region(part, segmenter)):
        if nuclei.types is not None:
            positions.append(frame.to_level0(nuclei.points[:, ::-1] + 0.5))
            shares.append(nuclei.types[:, EPITHELIAL])
    return np.concatenate(positions), np.concatenate(shares)
