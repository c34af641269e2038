"""Types of nuclei whose outlines are known, however they were found."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.errors import InputError
from morphomil.segment.blocks import (
    MARGIN_PX,
    array_reader,
    block_rows,
    check_image,
    resized,
)
from morphomil.segment.network import TYPE_GRID
from morphomil.segment.stains import as_stained
from morphomil.types import NUCLEUS_TYPES, SegmenterSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from morphomil.segment.model import Segmenter


def classify_nuclei(
    rgb: NDArray[np.uint8],
    labels: NDArray[np.integer],
    *,
    mpp: float,
    settings: SegmenterSettings = SegmenterSettings(),
    **changes: Any,
) -> pd.DataFrame:
    """The type of each nucleus of a label image, by the network of the segmenter.

    Args:
        rgb: uint8 (H, W, 3), H&E, of any size; it is worked in blocks.
        labels: (H, W), 0 is background; of nuclei found by whatever means.
        mpp: um per pixel.
        settings: which model, run how.
        changes: fields of the settings, as in `segment_image`.

    Returns:
        One row per label, in order: `label`, `type` (the most probable of `NUCLEUS_TYPES`),
        `p_epithelial`, `p_lymphocyte`, `p_stroma`, `p_other` (calibrated on validation images; sum
        1). A nucleus has the type that the network says at its centroid or, where that is outside
        of it, at its pixel nearest to it.

    Raises:
        ValueError: not an RGB uint8 image, labels that aren't whole numbers of its size, or an
            impossible pixel size.
        InputError: the model can't be loaded, or doesn't know types.
        SlideError: as `stains.as_stained`.

    References:
        Weigert & Schmidt 2022, Nuclei Instance Segmentation and Classification with StarDist.
    """
    from morphomil.segment.model import load_segmenter

    rgb, labels = np.asarray(rgb), np.asarray(labels)
    check_image(rgb, mpp)
    if labels.shape != rgb.shape[:2] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels are whole numbers {rgb.shape[:2]}, as the image is, got {labels.dtype} "
            f"{labels.shape}"
        )
    segmenter = load_segmenter(replace(settings, **changes))
    stained = as_stained(rgb, mpp=mpp, segmenter=segmenter)
    return type_table(stained, labels, mpp=mpp, segmenter=segmenter)


def type_table(
    rgb: NDArray[np.uint8], labels: NDArray[np.integer], *, mpp: float, segmenter: Segmenter
) -> pd.DataFrame:
    """`classify_nuclei` with a segmenter at hand, of pixels whose stains are as it wants them.

    Raises:
        InputError: the model doesn't know types.
    """
    if segmenter.types is None:
        raise InputError(
            f"model {segmenter.settings.model!r} doesn't know types of nuclei; --model default does"
        )
    names, centers = _centers(labels)
    factor = segmenter.network_mpp(mpp) / mpp
    image = rgb if factor == 1 else resized(rgb, factor)
    cells = ((centers + 0.5) / factor // TYPE_GRID).astype(int)
    logits = np.zeros((len(names), len(NUCLEUS_TYPES)), np.float32)
    read = array_reader(image)
    for block in (block for row in block_rows(*image.shape[:2]) for block in row):
        first = np.array([block.row, block.column]) // TYPE_GRID
        own = cells - first
        size = -(-np.array([block.height, block.width]) // TYPE_GRID)
        inside = ((own >= 0) & (own < size)).all(axis=1)
        if inside.any():
            padded = (
                -(-(side + 2 * MARGIN_PX) // segmenter.multiple) * segmenter.multiple
                for side in (block.height, block.width)
            )
            pixels = read(block.row - MARGIN_PX, block.column - MARGIN_PX, *padded)
            said = segmenter.predict(pixels, margin=MARGIN_PX).types
            assert said is not None
            row, column = own[inside].T
            logits[inside] = said[row, column]
    shares = segmenter.types(logits)
    table = pd.DataFrame({"label": names})
    table["type"] = np.array(NUCLEUS_TYPES)[shares.argmax(axis=1)]
    for number, name in enumerate(NUCLEUS_TYPES):
        table[f"p_{name}"] = shares[:, number]
    return table


def _centers(labels: NDArray[np.integer]) -> tuple[NDArray[np.integer], NDArray[np.intp]]:
    """The labels in order, and of each its pixel (row, column) (n, 2) that is nearest to its
    centroid."""
    places = np.argwhere(labels)
    names, own = np.unique(labels[tuple(places.T)], return_inverse=True)
    counts = np.bincount(own, minlength=len(names))
    middles = np.stack(
        [np.bincount(own, axis, minlength=len(names)) / counts for axis in places.T], axis=1
    )
    away = np.square(places - middles[own]).sum(axis=1)
    order = np.lexsort((away, own))
    first = np.cumsum(counts) - counts
    return names, places[order[first]]
