"""Which stains the network sees: those of the image, or the reference's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from morphomil.errors import SlideError
from morphomil.segment.blocks import array_reader, block_rows, resized
from morphomil.segment.detect import find_nuclei
from morphomil.segment.outlines import join_outlines
from morphomil.segment.plausible import parted
from morphomil.slides.quality import ink_share
from morphomil.slides.stain import estimate_stains, fit_normalizer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from morphomil.segment.model import Segmenter
    from morphomil.slides.stain import Change

MAX_INK = 0.5
"""A larger share of ink-like pixels is no H&E image."""
USUAL_BLUE = 0.2
"""Hematoxylin usually takes more blue light than this: the third component of its unit vector of
optical density. Where it takes less, the network may know the stain badly."""
USUAL_STRENGTH = 0.9
"""And so it may where there is less hematoxylin (the 99th percentile of its amount)."""
SAMPLE_PIXELS = 2**16
"""Whether it does is told from about so many pixels."""
SAMPLE_PX = 512
"""The network is asked on at most so many of its pixels a side."""


def as_stained(rgb: NDArray[np.uint8], *, mpp: float, segmenter: Segmenter) -> NDArray[np.uint8]:
    """The image with the stains that the segmenter's settings ask for.

    Raises:
        SlideError: it has colors that H&E doesn't yield, or its stains, if they are always to be
            normalized, can't be told apart.
    """
    if segmenter.stain == "H&E" and (share := ink_share(rgb)) > MAX_INK:
        raise SlideError(
            f"{share:.0%} of the image has colors that H&E doesn't yield: is it inverted, "
            "fluorescence, or a pen mark?"
        )
    if not may_change(rgb, segmenter):
        return rgb
    side = round(SAMPLE_PX * segmenter.network_mpp(mpp) / mpp)
    top, left = ((length - min(side, length)) // 2 for length in rgb.shape[:2])
    middle = rgb[top : top + side, left : left + side]
    change = choose_change(rgb, middle, mpp=mpp, segmenter=segmenter)
    return rgb if change is None else change(rgb)


def may_change(pixels: NDArray[np.uint8], segmenter: Segmenter) -> bool:
    """Whether stains of which these pixels (..., 3) are a sample are to be normalized, or the
    network to be asked about it: always, never, or with "auto", by a model for H&E, where
    hematoxylin takes little blue light or is weak (`USUAL_BLUE`, `USUAL_STRENGTH`)."""
    asked = segmenter.settings.normalize_stain
    if asked != "auto" or segmenter.stain != "H&E":
        return asked == "always"
    some = pixels.reshape(-1, 3)
    try:
        (hematoxylin, _), (strength, _) = estimate_stains(some[:: -(-len(some) // SAMPLE_PIXELS)])
    except SlideError:
        return False
    return bool(hematoxylin[2] < USUAL_BLUE or strength < USUAL_STRENGTH)


def choose_change(
    pixels: NDArray[np.uint8], part: NDArray[np.uint8], *, mpp: float, segmenter: Segmenter
) -> Change | None:
    """What brings stains that `may_change` to the reference's; None where they stay as they are.

    With "auto" they are normalized where the network, asked both ways, is then sure of more nuclei:
    the sum of the probabilities of their types, or of the nuclei if it doesn't know types.

    Args:
        pixels: (..., 3), from which the stains are estimated.
        part: (H, W, 3), which the network is asked on.
        mpp: um per pixel of `part`.
        segmenter: says what is asked for; the network.

    Raises:
        SlideError: stains that are always to be normalized can't be told apart.
    """
    must = segmenter.settings.normalize_stain == "always"
    try:
        change = fit_normalizer(pixels)
    except SlideError:
        if must:
            raise
        return None
    if must:
        return change
    as_it_is, changed = (
        _sureness(image, mpp=mpp, segmenter=segmenter) for image in (part, change(part))
    )
    return change if changed > as_it_is else None


def _sureness(rgb: NDArray[np.uint8], *, mpp: float, segmenter: Segmenter) -> float:
    """Of how many nuclei of an image the network is sure; none where it finds them everywhere."""
    factor = segmenter.network_mpp(mpp) / mpp
    image = rgb if factor == 1 else resized(rgb, factor)
    rows = block_rows(*image.shape[:2])
    try:
        found = find_nuclei(array_reader(image), rows, mpp=mpp * factor, segmenter=segmenter)
        nuclei, _, _ = parted(join_outlines(list(found)), mpp=mpp * factor)
    except SlideError:
        return 0.0
    shares = nuclei.prob if nuclei.types is None else nuclei.types.max(axis=1)
    return float(shares.sum())
