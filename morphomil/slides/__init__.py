"""Slide -> tumor regions -> patches: decoders, annotations, stain, quality, masks."""

from morphomil.slides.image import SlideImage, open_image
from morphomil.slides.patches import RegionPatches, cut_patches
from morphomil.slides.regions import Region, find_regions

__all__ = ["Region", "RegionPatches", "SlideImage", "cut_patches", "find_regions", "open_image"]
