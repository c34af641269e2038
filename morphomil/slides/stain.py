"""Stain normalization: the hematoxylin and eosin of an image, brought to a reference (Macenko et
al. 2009).

normalize = fit_normalizer(sample)      # pixels of the whole slide, so that tiling leaves no trace
patch = normalize(patch)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from morphomil.errors import SlideError

if TYPE_CHECKING:
    from numpy.typing import NDArray
GLASS = 240.0
"""Unstained glass has this brightness."""
FAINT = 0.25
"""Pixels of less optical density than this (length of the vector of three channels) tell nothing of
the stains."""
Stains = tuple["NDArray[np.float64]", "NDArray[np.float64]"]
Change = Callable[["NDArray[np.uint8]"], "NDArray[np.uint8]"]
"""Brings pixels (..., 3) to other stains."""
REFERENCE = np.array([[0.6427, 0.7228, 0.2539], [0.2712, 0.8022, 0.5319]])
"""Hematoxylin and eosin have this optical density in red, green, blue: the mean of the images that
the default model was trained with, from which its nuclei suffer less than from the reference of
Macenko's published code (docs/decisions/0062)."""
REFERENCE_STRENGTH = np.array([1.3577, 0.7688])
"""The reference has this 99th percentile of both stains' amounts."""
MIN_PIXELS = 1000


def estimate_stains(rgb: NDArray[np.uint8]) -> Stains:
    """Optical density of hematoxylin and eosin (2, 3), unit vectors, and the 99th percentile of
    each one's amount (2,).

    As Macenko's published code, but for the percentiles, which are of stained pixels: glass tells
    nothing of a stain.

    Args:
        rgb: pixels (..., 3) of one slide.

    Raises:
        SlideError: too few stained pixels, or all of one color.
    """
    density = _density(rgb.reshape(-1, 3))
    stained = density[(density**2).sum(axis=1) >= FAINT**2]
    if len(stained) < MIN_PIXELS:
        raise SlideError(f"only {len(stained)} stained pixels, too few to tell its stains apart")
    spread, axes = np.linalg.eigh(np.cov(stained.T))
    if spread[1] < 1e-5:
        raise SlideError("its tissue has one color only, so its stains can't be told apart")
    plane = axes[:, [2, 1]] * np.where(axes[:, [2, 1]].sum(axis=0) < 0, -1, 1)
    angles = np.arctan2(*(stained @ plane)[:, ::-1].T)
    ends = [plane @ (np.cos(a), np.sin(a)) for a in np.percentile(angles, (1, 99))]
    stains = np.array(sorted(ends, key=lambda stain: -stain[0]))  # hematoxylin takes more red
    stains /= np.linalg.norm(stains, axis=1, keepdims=True)
    amounts = np.linalg.lstsq(stains.T, stained.T, rcond=None)[
        0
    ]  # of all pixels, an image of much glass looked pale
    return stains, np.maximum(np.percentile(amounts, 99, axis=1), 1e-3)


def change_of_stains(own: Stains, other: Stains) -> NDArray[np.float64]:
    """The matrix (3, 3) that brings optical densities (..., 3) of one slide to the stains of
    another.

    What neither stain explains, along the vector at right angles to both (Ruifrok and Johnston
    2001), stays as much as it is: without it an image brought to its own stains would differ.
    """
    amounts = np.append(other[1] / own[1], 1.0)
    return np.asarray(np.linalg.inv(_with_rest(own[0])) * amounts @ _with_rest(other[0]))


def _with_rest(stains: NDArray[np.float64]) -> NDArray[np.float64]:
    """Two stains (2, 3) and the unit vector at right angles to them (3, 3)."""
    rest = np.cross(*stains)
    return np.vstack([stains, rest / np.linalg.norm(rest)])


def restain(image: NDArray[np.float32], change: NDArray[np.float64]) -> NDArray[np.float32]:
    """Pixels (..., 3) in [0, 1] after a `change_of_stains`."""
    density = -np.log((image * np.float32(255) + 1) / np.float32(GLASS)) @ change.astype(np.float32)
    brightness = (np.float32(GLASS) * np.exp(-density) - 1) / np.float32(255)
    return np.asarray(np.clip(brightness, 0, 1), dtype=np.float32)


def fit_normalizer(
    sample: NDArray[np.uint8], *, reference: Stains = (REFERENCE, REFERENCE_STRENGTH)
) -> Change:
    """A function that brings pixels (..., 3) of the slide that `sample` is from to the reference's
    stains.

    `reference` is Macenko's or what `estimate_stains` says of another slide.

    Raises:
        SlideError: as `estimate_stains`.
    """
    change = change_of_stains(estimate_stains(sample), reference)

    def normalize(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        density = _density(rgb).astype(np.float32) @ change.astype(np.float32)
        brightness = np.clip(np.rint(GLASS * np.exp(-density) - 1), 0, 255)
        return np.asarray(brightness, dtype=np.uint8)

    return normalize


def _density(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.asarray(_DENSITIES[rgb])


_DENSITIES = -np.log((np.arange(256) + 1) / GLASS)
