"""Segmented patches of a run to look at: pixels, nuclei, and a value of each nucleus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from morphomil.run.directory import Run
    from morphomil.slides.image import SlideImage
    from morphomil.slides.masks import RegionMasks
    from morphomil.types import Slide


@dataclass(frozen=True)
class PatchExample:
    """One segmented patch: uint8 (H, W, 3), labels (H, W) with 0 for background, a value or a type
    per nucleus label, and the outlines (k, 2) of objects that are no nuclei, in pixels whose
    centers are at whole numbers."""

    rgb: NDArray[np.uint8]
    labels: NDArray[np.int32]
    title: str = ""
    values: Mapping[int, float] | None = None
    types: Mapping[int, str] | None = None
    implausible: Sequence[NDArray[np.float64]] = ()


def read_example(
    image: SlideImage,
    masks: RegionMasks,
    patch: Mapping[Any, Any],
    *,
    title: str,
    values: pd.Series[float] | None = None,
    types: pd.Series[str] | None = None,
) -> PatchExample:
    """A patch with the labels of its nuclei and, where `values` or `types` (by label) are given,
    theirs.

    `masks` are those of the patch's region, `patch` is a row of PATCHES.

    Raises:
        SlideError: the image can't be read.
    """
    labels = masks.patch_labels(patch["x_px"], patch["y_px"])
    rgb = masks.frame.read_patch(image, patch["x_px"], patch["y_px"])
    others = _implausible_outlines(masks, patch)
    shown = np.unique(labels)

    def own(column: pd.Series[Any] | None) -> dict[int, Any] | None:
        if column is None:
            return None
        known = column[column.index.isin(shown)]
        return dict(zip(known.index.tolist(), known.tolist(), strict=True))

    return PatchExample(rgb, labels, title, own(values), own(types), others)


def _implausible_outlines(masks: RegionMasks, patch: Mapping[Any, Any]) -> list[NDArray[Any]]:
    """The outlines of a patch's objects that are no nuclei, as far as they touch it."""
    if masks.dropped is None:
        return []
    corner = np.array(
        [part.start for part in masks.frame.patch_window(patch["x_px"], patch["y_px"])][::-1]
    )
    rings = [ring - corner - 0.5 for ring in masks.dropped.rings()]
    side = masks.frame.patch_px
    return [ring for ring in rings if (ring.max(axis=0) > 0).all() and (ring < side).all(1).any()]


def read_slide_example(
    run: Run, slide: Slide, patch: Mapping[Any, Any], *, feature: str, title: str
) -> tuple[PatchExample, float]:
    """A segmented patch with its nuclei's values, and um per pixel."""
    masks = run.masks(slide.slide_id)[patch["region"]]
    values = run.counted_nuclei(slide.slide_id).set_index("label")[feature]
    with run.open_image(slide.slide_id, patch["image"]) as image:
        example = read_example(image, masks, patch, title=title, values=values)
    return example, masks.frame.mpp
