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
from morphomil.slides.quality import is_colored_ink

if TYPE_CHECKING:
    from numpy.typing import NDArray
GLASS = 240.0
"""Unstained glass has this brightness."""
FAINT = 0.25
"""Pixels of less optical density than this (length of the vector of three channels) tell nothing of
the stains."""
DEEP = 0.15
"""Where every channel has more than this (Macenko's published code), a glass that isn't gray hardly
shifts the color."""
LACKING = 0.15
"""A pixel is no mixture of two stains if it holds less than none of one, by so much."""
MOST_LACKING = 0.1
"""Of a slide's darker quarter no more than this is no mixture of its stains. (On annotated images
the right stains left 0 to 0.08; where stains were known and others had been found, 0.16 to 0.6.)"""
GRAY, GRAY_FROM = 0.15, 0.35
"""A pixel is gray whose channels' optical densities differ by less than this share of their mean,
if it is at least so dark."""
FEW = 0.3
"""Up to this share of the stained pixels, those of ink and gray are neither stain's; more are what
the slide's stains look like."""
Stains = tuple["NDArray[np.float64]", "NDArray[np.float64]"]
Change = Callable[["NDArray[np.uint8]"], "NDArray[np.uint8]"]
"""Brings pixels (..., 3) to other stains."""
REFERENCE = np.array([[0.6124, 0.7291, 0.3056], [0.2729, 0.8167, 0.5085]])
"""Hematoxylin and eosin have this optical density in red, green, blue: the mean of the images that
the default model was trained with (docs/decisions/0062)."""
REFERENCE_STRENGTH = np.array([1.4913, 0.7840])
"""The reference has this 99th percentile of both stains' amounts (geometric means)."""
MIN_PIXELS, MOST_PIXELS = 1000, 2**18
"""Stains are estimated from so many pixels, stained ones and all."""
MIN_SINE = 0.02
"""Of the angle between two stains: one degree."""


def estimate_stains(rgb: NDArray[np.uint8]) -> Stains:
    """Optical density of hematoxylin and eosin (2, 3), unit vectors, and the 99th percentile of
    each one's amount (2,).

    Stains are the 1st and the 99th percentile of color in the plane of two axes (Macenko et al.
    2009), found in four ways: among all stained pixels, or those that are so in every channel, in
    the plane that fits the pixels best, or their differences. Of those whose mixtures most dark
    pixels are, these are taken that change colors least when they are brought to `REFERENCE`, as
    each way alone is far from H and E on some annotated slides (docs/decisions/0062). Amounts are
    of stained pixels, as glass tells nothing of a stain.

    Args:
        rgb: pixels (..., 3) of one slide.

    Raises:
        SlideError: too few stained pixels, or all of one color.
    """
    pixels = _sample(rgb)
    density = _density(pixels[~_is_foreign(pixels)] if _has_foreign(pixels) else pixels)
    length = np.sqrt((density**2).sum(axis=1))
    stained = density[length >= FAINT]
    if len(stained) < MIN_PIXELS:
        raise SlideError(f"only {len(stained)} stained pixels, too few to tell its stains apart")
    deep = stained[(stained >= DEEP).all(axis=1)]
    ways = [
        ends
        for some in (stained, deep)
        if len(some) >= MIN_PIXELS
        for spread in (np.cov(some.T), some.T @ some)
        if np.linalg.norm(np.cross(*(ends := _ends_of_colors(some, spread)))) > MIN_SINE
    ]
    if not ways:
        raise SlideError("its tissue has one color only, so its stains can't be told apart")
    dark = density[length >= np.percentile(length[length >= FAINT], 75)]
    likely = [
        (
            (_amounts(dark, stains).min(axis=0) < -LACKING).mean() <= MOST_LACKING,
            -np.linalg.norm(np.linalg.inv(_with_rest(stains)) @ _with_rest(REFERENCE) - np.eye(3)),
        )
        for stains in ways
    ]
    best = ways[likely.index(max(likely))]
    return best, np.maximum(np.percentile(_amounts(stained, best), 99, axis=1), 1e-3)


def _sample(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    pixels = rgb.reshape(-1, 3)
    return pixels[:: max(1, -(-len(pixels) // MOST_PIXELS))]


def _is_foreign(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels (..., 3) of ink, carbon, dust: what neither stain yields."""
    density = _density(rgb)
    mean = density.mean(axis=-1)
    gray = (mean > GRAY_FROM) & (np.ptp(density, axis=-1) < GRAY * mean)
    return np.asarray(gray | is_colored_ink(rgb))


def _has_foreign(pixels: NDArray[np.uint8]) -> bool:
    """Whether there are some, and `FEW`, among the stained pixels (n, 3)."""
    stained = pixels[np.square(_density(pixels)).sum(axis=1) >= FAINT**2]
    return bool(len(stained)) and 0 < _is_foreign(stained).mean() <= FEW


def _amounts(density: NDArray[np.float64], stains: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much of each stain (2, n) pixels (n, 3) hold."""
    return np.asarray(np.linalg.pinv(stains.T) @ density.T)


def _ends_of_colors(
    density: NDArray[np.float64], spread: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The unit vectors (2, 3) between which the colors of pixels (n, 3) lie, in the plane of the
    two longest axes of their spread (3, 3); the first takes more red, as hematoxylin does."""
    axes = np.linalg.eigh(spread)[1][:, [2, 1]]
    plane = axes * np.where(axes.sum(axis=0) < 0, -1, 1)
    angles = np.arctan2(*(density @ plane)[:, ::-1].T)
    ends = [plane @ (np.cos(a), np.sin(a)) for a in np.percentile(angles, (1, 99))]
    stains = np.array(sorted(ends, key=lambda stain: -stain[0]))
    return np.asarray(stains / np.linalg.norm(stains, axis=1, keepdims=True))


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

    What neither stain yields (ink, carbon, dust) stays as it is, so that it isn't taken for tissue.
    `reference` is Macenko's or what `estimate_stains` says of another slide.

    Raises:
        SlideError: as `estimate_stains`.
    """
    change = change_of_stains(estimate_stains(sample), reference)
    keeps = _has_foreign(_sample(sample))

    def normalize(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        density = _density(rgb).astype(np.float32) @ change.astype(np.float32)
        brightness = np.clip(np.rint(GLASS * np.exp(-density) - 1), 0, 255).astype(np.uint8)
        return np.where(_is_foreign(rgb)[..., None], rgb, brightness) if keeps else brightness

    return normalize


def _density(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.asarray(_DENSITIES[rgb])


_DENSITIES = -np.log((np.arange(256) + 1) / GLASS)
