"""Training patches of annotated nuclei: random position, scale, rotation, stain, focus,
compression, brightness.

Pure functions of arrays and a random generator; images are float RGB in [0, 1], (H, W, 3).
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.color import hed_from_rgb, rgb_from_hed

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class AugmentSettings:
    """Strength of each augmentation; probabilities are per patch."""

    target_mpp: tuple[float, ...] = (0.25, 0.5)
    """The network learns these resolutions, um/px; one is drawn for each patch."""
    scale_jitter: float = 1.3
    """The drawn resolution is multiplied by a log-uniform factor in [1/jitter, jitter]."""
    elastic: float = 0.06
    """The nodes of a coarse grid are displaced with this SD, a share of its spacing (a fifth of the
    patch)."""
    stain_swap: float = 0.6
    """A patch gets the stains of another image of the training with this probability."""
    stain_gain: float = 0.9
    """Each stain's optical density is multiplied by exp(uniform(-gain, gain))."""
    stain_shift: float = 0.05
    """Each stain's optical density is shifted by up to this."""
    stain_tilt: float = 0.08
    """Each entry of the stain matrix is perturbed by up to this before recomposition."""
    brightness: float = 0.08
    gamma: float = 0.25
    blur_probability: float = 0.3
    blur_sigma_px: float = 1.8
    jpeg_probability: float = 0.4
    jpeg_quality: tuple[int, int] = (35, 95)
    noise_probability: float = 0.3
    noise_sd: float = 0.04


def jitter_stain(
    image: NDArray[np.float32], rng: np.random.Generator, settings: AugmentSettings
) -> NDArray[np.float32]:
    """The image with its hematoxylin and eosin made stronger, weaker and of another hue.

    Optical density is split by Ruifrok and Johnston's stain matrix (as scikit-image's `rgb2hed`),
    scaled and shifted per stain, and recomposed with a slightly tilted matrix (Tellez et al. 2018).
    """
    density = -np.log(np.clip(image, 1e-3, 1.0))
    stains = density @ hed_from_rgb.astype(np.float32)
    gain = np.exp(rng.uniform(-settings.stain_gain, settings.stain_gain, 3))
    shift = rng.uniform(-settings.stain_shift, settings.stain_shift, 3)
    tilted = rgb_from_hed + rng.uniform(-settings.stain_tilt, settings.stain_tilt, (3, 3))
    stains = stains * gain.astype(np.float32) + shift.astype(np.float32)
    return np.asarray(
        np.clip(np.exp(-(stains @ tilted.astype(np.float32))), 0, 1), dtype=np.float32
    )


def jitter_optics(
    image: NDArray[np.float32], rng: np.random.Generator, settings: AugmentSettings
) -> NDArray[np.float32]:
    """The image out of focus, compressed, noisy, brighter or darker."""
    image = image.copy()
    if rng.random() < settings.blur_probability:
        sigma = rng.uniform(0.3, settings.blur_sigma_px)
        ndimage.gaussian_filter(image, (sigma, sigma, 0), output=image)
    image **= np.float32(np.exp(rng.uniform(-settings.gamma, settings.gamma)))
    image *= np.float32(1 + rng.uniform(-settings.brightness, settings.brightness))
    image += np.float32(rng.uniform(-settings.brightness, settings.brightness) / 2)
    if rng.random() < settings.noise_probability:
        image += rng.normal(0, rng.uniform(0, settings.noise_sd), image.shape).astype(np.float32)
    np.clip(image, 0, 1, out=image)
    if rng.random() < settings.jpeg_probability:
        buffer = io.BytesIO()
        quality = int(rng.integers(*settings.jpeg_quality))
        Image.fromarray((image * 255).round().astype(np.uint8)).save(
            buffer, "JPEG", quality=quality
        )
        image[:] = np.asarray(Image.open(buffer), dtype=np.float32) / 255
    return image


def sample_patch(
    image: NDArray[np.uint8],
    labels: NDArray[np.integer],
    *,
    side: int,
    zoom: float,
    elastic: float = 0.0,
    marks: NDArray[np.uint8] | None = None,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.float32], NDArray[np.uint8]]:
    """A random window of image (H, W, 3), labels (k H, k W) and marks (H, W), rotated, mirrored and
    bent at random.

    One patch pixel covers `zoom` image pixels; `elastic` as in `AugmentSettings`. Where the window
    reaches beyond the image, the image is mirrored. Image and labels are in one frame: pixel (i, j)
    covers [i, i + 1) x [j, j + 1), in the patch too.

    Returns:
        Float RGB in [0, 1], (side, side, 3), bilinear; labels int32 (side, side), those at the
        pixels' centers; the share of each pixel that a nucleus covers, float (side, side), of
        2 x 2 points; and the marks at the pixels' centers (side, side), 0 without any.
    """
    import torch
    from torch.nn import functional

    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = zoom * turn @ np.diag([1.0, rng.choice([-1.0, 1.0])])
    shape = np.array(image.shape[:2])
    finer = labels.shape[0] // image.shape[0]
    reach = np.minimum(side * zoom / 2, shape / 2)
    center = rng.uniform(reach, shape - reach)
    places = np.indices((side, side), dtype=np.float32) - np.float32((side - 1) / 2)
    if elastic:
        nodes = torch.from_numpy(rng.normal(0, elastic * side / 5, (1, 2, 6, 6)).astype(np.float32))
        places += functional.interpolate(nodes, (side, side), mode="bicubic")[0].numpy()
    where = np.tensordot(matrix.astype(np.float32), places, axes=1) + center[:, None, None].astype(
        np.float32
    )
    low = np.clip(np.floor(where.min(axis=(1, 2))).astype(int) - 2, 0, None)
    high = np.ceil(where.max(axis=(1, 2))).astype(int) + 3
    where -= low[:, None, None].astype(np.float32)
    frame = np.s_[low[0] : high[0], low[1] : high[1]]
    turned = _interpolate(np.moveaxis(image[frame], -1, 0), where - np.float32(0.5), "bilinear")
    turned_marks = np.zeros((side, side), np.float32)
    if marks is not None:
        turned_marks = _interpolate(marks[frame][None], where - np.float32(0.5), "nearest")[0]
    low, high = low * finer, high * finer
    own = labels[low[0] : high[0], low[1] : high[1]][None]
    turned_labels = _interpolate(own, where * finer - np.float32(0.5), "nearest")[0]
    covered = np.zeros((side, side), np.float32)
    for corner in ((-0.25, -0.25), (-0.25, 0.25), (0.25, -0.25), (0.25, 0.25)):
        point = where + (matrix @ corner).astype(np.float32)[:, None, None]
        inside = _interpolate(own > 0, point * finer - np.float32(0.5), "nearest")[0]
        covered += inside / np.float32(4)
    return (
        np.ascontiguousarray(np.moveaxis(turned, 0, -1)) / np.float32(255),
        turned_labels.astype(np.int32),
        covered,
        turned_marks.astype(np.uint8),
    )


def _interpolate(
    image: NDArray[np.generic], where: NDArray[np.float32], mode: Literal["bilinear", "nearest"]
) -> NDArray[np.float32]:
    """Values of image (C, H, W) at positions (2, h, w); beyond its edges the image is mirrored."""
    import torch
    from torch.nn import functional

    size = np.array(image.shape[1:], np.float32)[:, None, None]
    grid = torch.from_numpy(((2 * where + 1) / size - 1)[::-1].copy()).permute(1, 2, 0)[None]
    values = torch.from_numpy(image.astype(np.float32))[None]
    found = functional.grid_sample(
        values, grid, mode, padding_mode="reflection", align_corners=False
    )
    return np.asarray(found[0].numpy())
