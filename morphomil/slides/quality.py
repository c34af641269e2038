"""Slide -> tumor regions -> patches. A slide is read by area, at any resolution, and never whole
into memory.

Flat images (JPEG, PNG, TIFF without tiles) are the exception: they are decoded once, up to
`MAX_FLAT_PX`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from morphomil.compiled import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray


def is_white(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which pixels are 255 in all channels."""
    white: NDArray[np.bool_] = (rgb[..., 0] & rgb[..., 1] & rgb[..., 2]) == 255
    return white


BLURRED_BELOW = 0.0012
"""Below this sharpness at 0.5 um per pixel outlines are lost: biopsies in focus have 0.0017 to
0.25, the same images blurred by a Gaussian of 1 um SD 0.0001 to 0.003."""


def sharpness(
    rgb: NDArray[np.uint8], tissue: NDArray[np.bool_] | None = None, *, mpp: float = 0.5
) -> float:
    """Variance of the Laplacian over (20 times) the variance of brightness, of an image (H, W, 3).

    About 1 for white noise, 0 for a constant image. The variance of the Laplacian is a focus
    measure (Pech-Pacheco et al. 2000, LAPV in Pertuz et al. 2013); the ratio doesn't depend on how
    strongly the tissue is stained. `tissue` (H, W): pixels that count; NaN where there are none.
    Images finer than 0.5 um per pixel (`mpp`) are averaged to about that, so that one limit serves
    all.
    """
    tissue = np.ones(rgb.shape[:2], bool) if tissue is None else tissue
    side = max(round(0.5 / mpp), 1)
    measured = _moments(np.ascontiguousarray(rgb), np.ascontiguousarray(tissue), side)
    pixels, *sums = measured.tolist()
    if not pixels:
        return np.nan
    laplacian, brightness = (
        (pixels * squares - total**2) / (3 * side**2 * pixels) ** 2
        for total, squares in (sums[:2], sums[2:])
    )
    return laplacian / (20 * brightness) if brightness > 1e-3 else 0.0


@compiled(nogil=True)
def _moments(rgb: NDArray[np.uint8], tissue: NDArray[np.bool_], side: int) -> NDArray[np.int64]:
    """How many squares of `side` pixels are tissue, and so are those above, below, left and right
    of them; over these the sum of the Laplacian and of its square, and of the brightness and its
    square, where a square's brightness is the sum of all its values."""
    height, width = rgb.shape[0] // side, rgb.shape[1] // side
    gray, whole = np.zeros((height, width), np.int32), np.ones((height, width), np.uint8)
    for y in range(height):
        for row in range(y * side, (y + 1) * side):
            for first in range(side):
                for x in range(width):
                    red, green, blue = rgb[row, x * side + first]
                    gray[y, x] += np.int32(red) + np.int32(green) + np.int32(blue)
                    whole[y, x] &= np.uint8(tissue[row, x * side + first])
    sums = np.zeros(5, np.int64)
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            beside = whole[y - 1, x] & whole[y + 1, x] & whole[y, x - 1] & whole[y, x + 1]
            counts = np.int64(whole[y, x] & beside)
            here = np.int64(gray[y, x])
            around = gray[y - 1, x] + gray[y + 1, x] + gray[y, x - 1] + gray[y, x + 1]
            laplacian = 4 * here - around
            sums[0] += counts
            sums[1] += counts * laplacian
            sums[2] += counts * laplacian * laplacian
            sums[3] += counts * here
            sums[4] += counts * here * here
    return sums


COLORED_INK = 20
"""Ink has so much more green than red."""
BLACK_INK = 45
"""Black ink is darker than this in all channels."""


def ink_share(rgb: NDArray[np.uint8], tissue: NDArray[np.bool_] | None = None) -> float:
    """Share of the pixels of an image (H, W, 3), or of its `tissue` (H, W), that hematoxylin and
    eosin don't yield: green, blue and black marks; NaN where there are none."""
    tissue = np.ones(rgb.shape[:2], bool) if tissue is None else tissue
    counts = _count_ink(np.ascontiguousarray(rgb), np.ascontiguousarray(tissue))
    marked, pixels = counts.tolist()
    return marked / pixels if pixels else np.nan


@compiled(nogil=True)
def _count_ink(rgb: NDArray[np.uint8], tissue: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Pixels of ink in tissue, and of tissue."""
    counts = np.zeros(2, np.int64)
    for y in range(len(rgb)):
        for x in range(rgb.shape[1]):
            red, green, blue = rgb[y, x]
            colored = np.int32(green) - np.int32(red) > COLORED_INK
            black = (red < BLACK_INK) & (green < BLACK_INK) & (blue < BLACK_INK)
            counts[0] += tissue[y, x] & (colored | black)
            counts[1] += tissue[y, x]
    return counts


def is_colored_ink(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Green and blue marks among pixels (..., 3), without the black ones, which a very dark nucleus
    may look like.

    Both stains take more green than red from the light, so that red falls short of green only in
    ink, in inverted and in fluorescence images. Red ink can't be told from blood.
    """
    return np.asarray(rgb[..., 1].astype(np.int16) - rgb[..., 0] > COLORED_INK)
