"""What a phantom shall look like: settings of a slide, traits of a patient, the planted effect."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from morphomil.errors import InputError

MAX_FILLED = 0.25
"""Nuclei may fill this share of the nests; a patient may have twice as much, and more than half
leaves no free place."""

FloatArray = NDArray[np.float64]
ImageArray = NDArray[np.float32]
NO_EFFECT = "none"
"""The effect of a null cohort has this name."""
TRAIT_SD = {
    "size": 0.12,
    "elongation": 0.015,
    "polarity": 0.5,
    "density": 0.15,
    "lobulation": 0.003,
    "boxiness": 0.015,
}
"""Traits differ between patients by these SDs: of log area, log axis ratio, log concentration, log
density, squared amplitude, amplitude. Density is of all nuclei, the others are of tumor nuclei."""
PLANTED_SD = {"lymphocytes": 0.3}
"""Traits that differ between patients only where an effect is planted on them: of log density of
lymphocytes."""
TRAIT_SDS = TRAIT_SD | PLANTED_SD
PLANTED_TRAIT = {
    "area_um2": ("size", 1),
    "major_axis_um": ("size", 1),
    "minor_axis_um": ("size", 1),
    "orientation_deg": ("polarity", 1),
    "circumference_um": ("size", 1),
    "density_per_mm2": ("density", 1),
    "circularity": ("lobulation", -1),
    "rectangularity": ("boxiness", 1),
    "type_lymphocyte_per_mm2": ("lymphocytes", 1),
}
"""An effect on a feature shifts this trait in this direction; area, axes and circumference stand
for size."""
NUCLEUS_CLASSES = ("tumor", "stroma", "lymphocyte")
MIN_SIDE_UM = 150.0
"""A phantom is at least this wide and high."""
MAX_PIXELS = 50_000_000
"""A phantom has at most this many pixels: it is painted in memory."""


@dataclass(frozen=True)
class PhantomSettings:
    """What a slide of an average patient looks like, and how much slides differ in stain and
    focus."""

    mpp: float = 0.5
    """um per level-0 pixel."""
    width_px: int = 2048
    height_px: int = 1536
    tumor_per_mm2: float = 4000.0
    """Nuclei per mm2 of tumor nests."""
    stroma_per_mm2: float = 1200.0
    """Nuclei per mm2 of stroma."""
    lymphocyte_share: float = 0.25
    """Of the stroma's nuclei."""
    nest_share: float = 0.65
    """Of the annotated tumor; the rest is stroma."""
    area_um2: float = 42.0
    """Median area of tumor nuclei."""
    area_spread: float = 0.28
    """SD of the logarithm of area within a slide."""
    axis_ratio: float = 1.4
    """Median ratio of the axes of tumor nuclei."""
    axis_ratio_spread: float = 0.14
    """SD of the logarithm of that ratio within a slide."""
    polarity: float = 1.0
    """Von Mises concentration of tumor nuclei's doubled angles about the neighborhood's direction;
    0: no direction."""
    lobulation: float = 0.09
    """Amplitude of the outlines' lobes over the radius; lower is rounder."""
    stain_sd: float = 0.03
    """SD between slides of each component of the stains' unit vectors."""
    intensity_sd: float = 0.12
    """SD between slides of the logarithm of each stain's amount."""
    blur_um: float = 0.3
    """Median over slides of the SD of the blur."""
    noise: float = 1.5
    """SD of the sensor's noise, in gray levels of 255."""
    jpeg_quality: int = 85

    def __post_init__(self) -> None:
        """Refuse what can't be painted."""
        limits = {
            "mpp": (0.1, 1.0),
            "width_px": (256, 100_000),
            "height_px": (256, 100_000),
            "tumor_per_mm2": (500, 8000),
            "stroma_per_mm2": (0, 6000),
            "lymphocyte_share": (0, 1),
            "nest_share": (0.1, 1),
            "area_um2": (15, 100),
            "area_spread": (0, 0.4),
            "axis_ratio": (1, 2.5),
            "axis_ratio_spread": (0, 0.3),
            "polarity": (0, 20),
            "lobulation": (0, 0.15),
            "stain_sd": (0, 0.1),
            "intensity_sd": (0, 0.5),
            "blur_um": (0, 2),
            "noise": (0, 20),
            "jpeg_quality": (30, 100),
        }
        problems = [
            f"phantom setting {name} must be {low:g} to {high:g}, got {getattr(self, name):g}"
            for name, (low, high) in limits.items()
            if not low <= getattr(self, name) <= high
        ]
        filled = self.tumor_per_mm2 * self.area_um2 / 1e6
        if filled > MAX_FILLED:
            problems.append(
                f"nuclei must fill at most {MAX_FILLED:.0%} of the nests, got {filled:.0%}: make "
                "them fewer"
            )
        size = f"{self.width_px} x {self.height_px} px of {self.mpp:g} um"
        if min(self.width_px, self.height_px) * self.mpp < MIN_SIDE_UM:
            problems.append(f"a phantom's sides must be at least {MIN_SIDE_UM:g} um, got {size}")
        if self.width_px * self.height_px > MAX_PIXELS:
            problems.append(
                f"a phantom is painted in memory and may have {MAX_PIXELS:,} pixels, got {size}"
            )
        if problems:
            raise InputError(problems)


@dataclass(frozen=True)
class Effect:
    """The feature that differs by group (or `NO_EFFECT`), and by how many SDs of its trait between
    patients.

    Group 1 minus group 0; each group moves by half of the shift.
    """

    feature: str = NO_EFFECT
    shift: float = 0.0

    def __post_init__(self) -> None:
        """Refuse an unknown feature and a shift beyond what nuclei can show."""
        if self.feature not in (NO_EFFECT, *PLANTED_TRAIT):
            raise InputError(
                f"no feature named {self.feature!r} to plant; choose {NO_EFFECT}, "
                f"{', '.join(PLANTED_TRAIT)}"
            )
        if not abs(self.shift) <= 6:
            raise InputError(f"the shift between groups must be -6 to 6 SDs, got {self.shift:g}")

    def scores(self, label: int) -> dict[str, float]:
        """What the group adds to a patient's standard scores."""
        if self.feature == NO_EFFECT:
            return {}
        trait, direction = PLANTED_TRAIT[self.feature]
        return {trait: direction * self.shift * (label - 0.5)}
