"""Nuclei of H&E images: StarDist with weights of our own, run in blocks so that tiling leaves no
trace."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from morphomil.nuclei.measure import measure_nuclei
from morphomil.nuclei.polygons import measure_outlines
from morphomil.segment.blocks import array_reader, block_rows, check_image, resized
from morphomil.segment.classify import classify_nuclei
from morphomil.segment.detect import find_nuclei
from morphomil.segment.outlines import Outlines, SomeOutlines, join_outlines
from morphomil.segment.plausible import parted
from morphomil.segment.polygons import render_whole
from morphomil.segment.stains import as_stained
from morphomil.slides.masks import MIN_AREA_UM2
from morphomil.types import SegmenterSettings

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from morphomil.segment.model import Segmenter

__all__ = ["MIN_AREA_UM2", "classify_nuclei", "find_labels", "segment_image"]


def segment_image(
    rgb: NDArray[np.uint8],
    *,
    mpp: float,
    settings: SegmenterSettings = SegmenterSettings(),
    **changes: Any,
) -> NDArray[np.int32]:
    """Instance labels of the nuclei of an H&E image.

    The image is brought to a resolution that the model was trained for when it is off by more than
    a factor of 1.2; the outlines are drawn at the image's own resolution.

    Args:
        rgb: uint8 (H, W, 3), of any size; it is worked in blocks.
        mpp: um per pixel.
        settings: which model, run how.
        changes: fields of the settings, as in `segment_image(rgb, mpp=0.5, accurate=True)`.

    Returns:
        int32 (H, W): 0 is background, each nucleus has one connected area with a number of its own.

    Raises:
        ValueError: not an RGB uint8 image, or an impossible pixel size.
        TypeError: the settings have no such field.
        InputError: a setting has no such value, or the model can't be loaded.
        SlideError: the model finds nuclei nearly everywhere; the image is no H&E (shipped weights);
            or its stains, always to be normalized, can't be told apart.

    References:
        Schmidt et al. 2018, Cell Detection with Star-convex Polygons; Weigert & Schmidt 2022.
    """
    from morphomil.segment.model import load_segmenter

    rgb = np.asarray(rgb)
    check_image(rgb, mpp)
    segmenter = load_segmenter(replace(settings, **changes))
    return find_labels(rgb, mpp=mpp, segmenter=segmenter)


def find_labels(rgb: NDArray[np.uint8], *, mpp: float, segmenter: Segmenter) -> NDArray[np.int32]:
    """`segment_image` with a segmenter at hand."""
    nuclei, least = _nuclei_in(rgb, mpp=mpp, segmenter=segmenter)
    return render_whole(nuclei, shape=rgb.shape[:2], min_px=least)


def find_measured(
    rgb: NDArray[np.uint8], *, mpp: float, segmenter: Segmenter
) -> tuple[NDArray[np.int32], pd.DataFrame]:
    """The labels of `find_labels`, and the features of shape of every nucleus, by label: from its
    outline where the segmenter draws them, else from its pixels."""
    nuclei, least = _nuclei_in(rgb, mpp=mpp, segmenter=segmenter)
    labels = render_whole(nuclei, shape=rgb.shape[:2], min_px=least)
    if not segmenter.maps:
        return labels, measure_nuclei(labels, mpp=mpp).set_index("label")
    shapes = measure_outlines(nuclei.vertices[:, ::-1], nuclei.ends, mpp=mpp).set_index("label")
    return labels, shapes[np.isin(shapes.index, labels)]


def _nuclei_in(
    rgb: NDArray[np.uint8], *, mpp: float, segmenter: Segmenter
) -> tuple[Outlines, float]:
    found = find_outlines(rgb, mpp=mpp, segmenter=segmenter)
    return large_enough(parted(found, mpp=mpp)[0], mpp=mpp, segmenter=segmenter)


def large_enough(
    found: SomeOutlines, *, mpp: float, segmenter: Segmenter
) -> tuple[SomeOutlines, float]:
    """The nuclei of `MIN_AREA_UM2` or more, and the least number of pixels that one may have when
    it is drawn.

    Outlines from a map are measured; star polygons cover each other, and what is left of them
    counts.
    """
    least = MIN_AREA_UM2 / mpp**2
    return (found[found.areas() >= least], 1) if segmenter.maps else (found, least)


def find_outlines(rgb: NDArray[np.uint8], *, mpp: float, segmenter: Segmenter) -> Outlines:
    """The outlines of all that is found, however small, in pixels of the image (a pixel's center at
    whole numbers)."""
    image = as_stained(rgb, mpp=mpp, segmenter=segmenter)
    factor = segmenter.network_mpp(mpp) / mpp
    if factor != 1:
        image = resized(image, factor)
    rows = block_rows(*image.shape[:2])
    found = find_nuclei(array_reader(image), rows, mpp=mpp * factor, segmenter=segmenter)
    return join_outlines(list(found)).scaled(factor)
