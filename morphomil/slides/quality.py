"""Slide -> tumor regions -> patches. A slide is read by area, at any resolution, and never whole
into memory.

Flat images (JPEG, PNG, TIFF without tiles) are the exception: they are decoded once, up to
`MAX_FLAT_PX`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

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
    gray = (rgb[..., 0].astype(np.float32) + rgb[..., 1] + rgb[..., 2]) / 3
    if (side := round(0.5 / mpp)) > 1:
        height, width = (length // side * side for length in gray.shape)
        cells = (height // side, side, width // side, side)
        gray = gray[:height, :width].reshape(cells).mean(axis=(1, 3))
        tissue = np.asarray(tissue[:height, :width].reshape(cells).all(axis=(1, 3)))
    laplacian = (
        4 * gray[1:-1, 1:-1] - gray[:-2, 1:-1] - gray[2:, 1:-1] - gray[1:-1, :-2] - gray[1:-1, 2:]
    )
    center = gray[1:-1, 1:-1]
    if not tissue.all():
        whole = (
            tissue[1:-1, 1:-1]
            & tissue[:-2, 1:-1]
            & tissue[2:, 1:-1]
            & tissue[1:-1, :-2]
            & tissue[1:-1, 2:]
        )
        laplacian, center = laplacian[whole], center[whole]
    if not center.size:
        return np.nan
    spread = float(center.var())
    return float(laplacian.var()) / (20 * spread) if spread > 1e-3 else 0.0


def is_ink(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels (H, W) of an image (H, W, 3) that hematoxylin and eosin don't yield: green, blue and
    black marks."""
    brightest = np.maximum(np.maximum(rgb[..., 0], rgb[..., 1]), rgb[..., 2])
    return np.asarray(is_colored_ink(rgb) | (brightest < 45))


def is_colored_ink(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Green and blue marks, without the black ones, which a very dark nucleus may look like.

    Both stains take more green than red from the light, so that red falls short of green only in
    ink, in inverted and in fluorescence images. Red ink can't be told from blood.
    """
    return np.asarray(rgb[..., 1].astype(np.int16) - rgb[..., 0] > 20)
