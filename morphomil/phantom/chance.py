"""Randomness by slide and purpose, and smooth random fields."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from morphomil.phantom.settings import ImageArray


def random_for(seed: tuple[int, int], purpose: str) -> np.random.Generator:
    """A generator for one purpose of one slide."""
    return np.random.default_rng([*seed, *purpose.encode()])


def smooth_field(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> ImageArray:
    """A random field of mean 0 and SD 1: white noise under a Gaussian of SD `scale` (in cells of
    the grid)."""
    step = max(scale / 1.5, 1.0)
    coarse = tuple(math.ceil(side / step) for side in shape)
    white = rng.standard_normal((coarse[0] + 2, coarse[1] + 2), dtype=np.float32)
    smooth = gaussian_filter(white, scale / step, mode="wrap") * np.float32(
        2 * math.sqrt(math.pi) * scale / step
    )
    return enlarge(smooth, shape, step)


def enlarge(grid: NDArray[np.floating[Any]], shape: tuple[int, int], factor: float) -> ImageArray:
    """The top left of a grid at `factor` times its resolution, bicubic."""
    box = (0, 0, min(shape[1] / factor, grid.shape[1]), min(shape[0] / factor, grid.shape[0]))
    image = Image.fromarray(np.ascontiguousarray(grid, np.float32))
    return np.asarray(image.resize((shape[1], shape[0]), Image.Resampling.BICUBIC, box=box))
