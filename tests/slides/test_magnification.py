"""Empty magnification: images that were enlarged are told from photographs."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.Image import Resampling

from morphomil.slides.magnification import CROP_PX, upsampling_factor

SETS = ("nuclei/monuseg_train", "nuclei/tnbc", "nuclei/consep", "nuclei/brca_m2c")


def enlarge(rgb: np.ndarray, times: int, *, kernel: Resampling, quality: int = 0) -> np.ndarray:
    """An image made coarser and enlarged again, compressed as JPEG if a quality is given."""
    image = Image.fromarray(rgb)
    small = image.resize((image.width // times, image.height // times), Resampling.BOX)
    large = small.resize((small.width * times, small.height * times), kernel)
    if quality:
        stream = io.BytesIO()
        large.save(stream, "JPEG", quality=quality)
        large = Image.open(stream)
    return np.asarray(large)


def crops_of(rgb: np.ndarray) -> np.ndarray:
    height, width = rgb.shape[:2]
    tops, lefts = (range(0, side - CROP_PX + 1, CROP_PX) for side in (height, width))
    return np.stack([rgb[y : y + CROP_PX, x : x + CROP_PX] for y in tops for x in lefts])


def synthetic() -> np.ndarray:
    """Power falls with frequency as in tissue, with the noise of a sensor."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(512)[:, None], np.fft.fftfreq(512))
    shape = 1 / np.maximum(frequency, 1 / 512) ** 1.0
    smooth = np.fft.ifft2(np.fft.fft2(rng.normal(0, 1, (512, 512))) * shape).real
    gray = 140 + 35 * smooth / smooth.std() + rng.normal(0, 1, (512, 512))
    return np.repeat(np.clip(gray, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def test_the_factor_of_a_synthetic_image() -> None:
    rgb = synthetic()
    assert upsampling_factor(crops_of(rgb)) == 1
    for times in (2, 4):
        enlarged = enlarge(rgb, times, kernel=Resampling.BICUBIC)
        assert upsampling_factor(crops_of(enlarged)) == times


def test_nothing_is_said_of_glass() -> None:
    assert np.isnan(upsampling_factor(np.full((3, CROP_PX, CROP_PX, 3), 241, np.uint8)))


def real_images(folder: Path) -> list[np.ndarray]:
    paths = [path for name in SETS for path in sorted((folder / name / "images").iterdir())[::4]]
    return [np.asarray(Image.open(path).convert("RGB")) for path in paths]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_real_images_are_not_called_enlarged_and_enlarged_ones_are(shared_data: Path) -> None:
    images = [rgb for rgb in real_images(shared_data) if min(rgb.shape[:2]) >= CROP_PX]
    assert sum(upsampling_factor(crops_of(rgb)) > 1 for rgb in images) == 0
    for kernel in (Resampling.BILINEAR, Resampling.BICUBIC, Resampling.LANCZOS):
        told = [upsampling_factor(crops_of(enlarge(rgb, 2, kernel=kernel))) for rgb in images]
        assert np.mean(np.array(told) >= 2) == 1
