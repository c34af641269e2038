"""Whether an image holds the detail that its pixel size promises: empty magnification."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

CROP_PX = 256
"""Spectra are taken of squares of this side."""
MIN_CONTRAST = 4.0
"""A crop whose brightness (0 to 255) has a smaller SD shows nothing to judge."""
FINE_POWER = -3.6
"""Power of the finest detail (0.44 to 0.5 cycles per pixel) relative to that of coarse detail (0.06
to 0.12), as a decimal logarithm: 104 real H&E images have -3.41 to -2.0, those enlarged twice and
not compressed anew -4.9 to -3.81."""
BEND = -0.6
"""How far the spectrum lies at 0.25 cycles per pixel below the line from 0.17 to 0.34 (decimal
logarithms): there ends the detail of an image that was enlarged twice, and above it lies noise of
compression. Real H&E images have -0.57 to 0.29."""
MAX_HALVINGS = 3
"""Enlargements up to 8 times are told."""


def upsampling_factor(crops: NDArray[np.uint8]) -> float:
    """How many times crops (n, 256, 256, 3) of tissue at level 0 were enlarged: 1 (or too little to
    tell), 2, 4 or 8; NaN where they show nothing.

    An enlarged image lacks the finest detail that a photograph has, noise included; the radially
    averaged power spectrum of brightness shows that (`FINE_POWER`, `BEND`). The crops are halved
    until they have it. The pixel size times this factor is what the image resolves.
    """
    gray = crops.astype(np.float32).mean(axis=-1)
    gray = gray[gray.std(axis=(1, 2)) >= MIN_CONTRAST]
    if not len(gray):
        return float("nan")
    for halvings in range(MAX_HALVINGS):
        if not _lacks_detail(_radial_power(gray)):
            return float(2**halvings)
        count, height, width = gray.shape
        gray = gray.reshape(count, height // 2, 2, width // 2, 2).mean(axis=(2, 4))
    return float(2**MAX_HALVINGS)


def _radial_power(gray: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean power (64,) of crops (n, side, side), by frequency: 64 rings to 1 cycle per pixel."""
    side = gray.shape[1]
    window = np.outer(np.hanning(side), np.hanning(side))
    centered = gray - gray.mean(axis=(1, 2), keepdims=True)
    power = (np.abs(np.fft.rfft2(centered * window)) ** 2).mean(axis=0)
    radius = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    ring = (radius * 64).astype(int).ravel()
    sums = np.bincount(ring, power.ravel(), minlength=64)[:64]
    rings: NDArray[np.float64] = sums / np.maximum(np.bincount(ring, minlength=64)[:64], 1)
    return rings


def _lacks_detail(rings: NDArray[np.float64]) -> bool:
    frequency = (np.arange(len(rings)) + 0.5) / 64

    def level(low: float, high: float) -> float:
        return float(np.log10(rings[(frequency >= low) & (frequency < high)].mean() + 1e-12))

    fine = level(0.44, 0.5) - level(0.06, 0.12)
    bend = 2 * level(0.23, 0.27) - level(0.15, 0.18) - level(0.32, 0.36)
    return fine < FINE_POWER or bend < BEND
