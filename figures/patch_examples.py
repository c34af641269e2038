"""Segmented patches of a run to look at: pixels, nuclei, and a value of each nucleus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from morphomil.figures.slides import PatchExample

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from morphomil.slides.image import SlideImage
    from morphomil.slides.masks import RegionMasks


def read_example(
    image: SlideImage,
    masks: RegionMasks,
    patch: Mapping[Any, Any],
    *,
    title: str,
    values: pd.Series[float] | None = None,
) -> PatchExample:
    """A patch with the labels of its nuclei and, where `values` (by label) are given, theirs.

    `masks` are those of the patch's region, `patch` is a row of PATCHES.

    Raises:
        SlideError: the image can't be read.
    """
    labels = masks.patch_labels(patch["x_px"], patch["y_px"])
    rgb = masks.frame.read_patch(image, patch["x_px"], patch["y_px"])
    if values is None:
        return PatchExample(rgb, labels, title=title)
    known = values[values.index.isin(np.unique(labels))]
    pairs = zip(known.index.tolist(), known.tolist(), strict=True)
    return PatchExample(rgb, labels, title=title, values=dict(pairs))
