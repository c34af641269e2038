"""Where an H&E thumbnail shows tissue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_OBJECT_MM2 = 0.02


def tissue_mask(rgb: NDArray[np.uint8], *, cell_mm2: float) -> NDArray[np.bool_]:
    """Where an H&E thumbnail shows tissue, at about 8 um per pixel; `cell_mm2` is the area of its
    pixel.

    Tissue absorbs green more than the weaker of red and blue; glass, dust, shadows and black ink
    absorb all alike, blue and green ink mostly red. That difference of optical densities, relative
    to the glass's own color, is cut at Otsu's threshold, held within 0.03 to 0.06 (natural units)
    so that a blank slide has none and pale stroma stays.
    """
    from scipy import ndimage
    from skimage.filters import threshold_otsu

    smooth = ndimage.gaussian_filter(rgb.astype(np.float32), (1, 1, 0))
    density = -np.log(np.maximum(smooth, 1) / _glass(smooth))
    red, green, blue = np.moveaxis(density, -1, 0)
    stain = green - np.minimum(red, blue)
    dark = smooth.max(axis=-1) < 60
    ink = (red > 1.2 * green + 0.05) | ((red > 0.4) & (blue < 0.35 * red))
    soiled = ndimage.binary_dilation(dark | drop_small(ink, cells=9), iterations=2)
    usable = stain[~soiled]
    if usable.size == 0 or np.ptp(usable) == 0:
        return np.zeros(rgb.shape[:2], bool)
    tissue = (stain > np.clip(threshold_otsu(usable), 0.03, 0.06)) & ~soiled
    tissue = ndimage.binary_closing(np.pad(tissue, 3), iterations=3)[3:-3, 3:-3] & ~soiled
    least = least_cells(tissue, cell_mm2)
    tissue = drop_small(tissue, cells=least)
    holes = ndimage.binary_fill_holes(tissue) & ~tissue
    filled: NDArray[np.bool_] = tissue | (holes & ~drop_small(holes, cells=least))
    return filled


def is_covered(rgb: NDArray[np.uint8], *, density: float) -> NDArray[np.bool_]:
    """Where an H&E thumbnail shows anything but glass: some color is absorbed by `density` (natural
    units) or more."""
    values = rgb.astype(np.float32)
    absorbed = -np.log(np.maximum(values, 1) / _glass(values))
    covered: NDArray[np.bool_] = np.asarray(absorbed.max(axis=-1) >= density)
    return covered


def least_cells(mask: NDArray[np.bool_], cell_mm2: float) -> float:
    """Cells that an object must have: 0.02 mm2, or a twentieth of a small image."""
    return min(MIN_OBJECT_MM2 / cell_mm2, mask.size / 20)


def _glass(rgb: NDArray[np.float32]) -> NDArray[np.float32]:
    """Color of the empty glass: the median of the brightest nearly gray pixels; neutral where these
    are few."""
    low, high = rgb.min(axis=-1), rgb.max(axis=-1)
    gray = (high - low < 12) & (low > 150) & (low < 254.5)
    if gray.mean() < 0.01:
        return np.full(3, 245, np.float32)
    brightest = gray & (low > np.quantile(low[gray], 0.95) - 8)
    glass: NDArray[np.float32] = np.median(rgb[brightest], axis=0).astype(np.float32)
    return glass


def drop_small(mask: NDArray[np.bool_], *, cells: float) -> NDArray[np.bool_]:
    """The mask without its 4-connected parts of fewer cells."""
    from scipy import ndimage

    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return (sizes >= max(cells, 1))[labels]
