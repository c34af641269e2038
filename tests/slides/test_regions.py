"""Regions: annotated, white-filled, detected; nothing is analyzed twice or lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from slide_images import GLASS, PINK, Rgb, annotate, plain, png

from morphomil.errors import InputError, SlideError
from morphomil.slides.image import open_image
from morphomil.slides.regions import Region, find_regions, mask_polygons
from morphomil.slides.tissue import tissue_mask
from morphomil.types import ImageSource, PatchSettings

if TYPE_CHECKING:
    from pathlib import Path


def regions_of(
    path: Path, *, annotation: Path | None = None, mpp: float = 0.5, **options: Any
) -> list[Region]:
    source = ImageSource(path, annotation, mpp)
    with open_image(source) as image:
        return find_regions(
            image, source, image_index=1, first_index=3, settings=PatchSettings(**options)
        )


def test_overlapping_annotations_become_one_region(pink_png: Path, tmp_path: Path) -> None:
    polygons = [
        shapely.box(600, 500, 700, 600),
        shapely.box(100, 100, 300, 300),
        shapely.box(200, 200, 400, 400),
    ]
    hole = [shapely.box(120, 120, 130, 130)]
    found = regions_of(pink_png, annotation=annotate(tmp_path / "a.json", polygons, negative=hole))
    assert [(r.image, r.index, r.name, r.source) for r in found] == [
        (1, 3, "A1 + A2", "annotation"),
        (1, 4, "A0", "annotation"),
    ]
    assert [r.polygon.area for r in found] == [70_000 - 100, 10_000]


def test_annotation_of_another_slide_is_told(pink_png: Path, tmp_path: Path) -> None:
    far = annotate(tmp_path / "far.json", [shapely.box(900, 900, 1500, 1500)])
    with pytest.raises(
        SlideError,
        match=r"97% of annotation .*far\.json lies outside the image "
        r"\(1000 x 1000",
    ):
        regions_of(pink_png, annotation=far)
    edge = annotate(tmp_path / "edge.json", [shapely.box(900, -50, 1050, 400)])
    (region,) = regions_of(pink_png, annotation=edge)
    assert region.polygon.equals(shapely.box(900, 0, 1000, 400))


def test_only_other_tissue_annotated_is_told(pink_png: Path, tmp_path: Path) -> None:
    path = annotate(tmp_path / "a.json", [], negative=[shapely.box(0, 0, 99, 99)])
    with pytest.raises(InputError, match="marks no tumor, only: A0"):
        regions_of(pink_png, annotation=path)


def test_annotation_mode_needs_an_annotation(pink_png: Path) -> None:
    with pytest.raises(InputError, match="names no annotation"):
        regions_of(pink_png, regions="annotation")


def test_whole_mode(pink_png: Path) -> None:
    (region,) = regions_of(pink_png, regions="whole")
    assert region.polygon.equals(shapely.box(0, 0, 1000, 1000))
    assert (region.source, region.name) == ("whole", "region 3")


def scene(*, glass: tuple[int, int, int] = GLASS) -> Rgb:
    """2 x 2 mm of noisy glass, and on it a square of pale tissue with a hole in it, at 2 um/px."""
    rng = np.random.default_rng(0)
    rgb = plain(1000, 1000, glass).astype(float)
    rgb[256:640, 256:640] = np.array([232, 205, 220]) / 255 * np.array(glass)
    rgb[400:500, 400:500] = glass
    return np.clip(rgb + rng.normal(0, 3, rgb.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("glass", [GLASS, (185, 185, 185), (238, 236, 228)])
def test_pale_tissue_is_found_with_its_hole_on_any_glass(
    tmp_path: Path, glass: tuple[int, int, int]
) -> None:
    (region,) = regions_of(png(tmp_path / "a.png", scene(glass=glass)), mpp=2.0)
    truth = shapely.box(256, 256, 640, 640) - shapely.box(400, 400, 500, 500)
    assert region.source == "tissue"
    assert len(region.polygon.interiors) == 1
    overlap = region.polygon.intersection(truth).area / region.polygon.union(truth).area
    assert overlap > 0.9


def test_blank_slide_has_no_region(tmp_path: Path) -> None:
    rgb = np.clip(np.random.default_rng(0).normal(235, 4, (800, 800, 3)), 0, 255).astype(np.uint8)
    for name, image in {
        "noise": rgb,
        "glass": plain(800, 800, GLASS),
        "white": plain(800, 800, (255,) * 3),
    }.items():
        assert regions_of(png(tmp_path / f"{name}.png", image), mpp=2.0) == []


@pytest.mark.parametrize("ink", [(40, 60, 170), (30, 140, 80), (20, 20, 25), (50, 40, 150)])
def test_ink_and_dark_borders_are_no_tissue(tmp_path: Path, ink: tuple[int, int, int]) -> None:
    rgb = scene()
    rgb[750:780, 50:950] = ink
    rgb[:30] = (5, 5, 5)
    (region,) = regions_of(png(tmp_path / "a.png", rgb), mpp=2.0)
    assert region.polygon.bounds == pytest.approx((256, 256, 640, 640), abs=12)


def test_dust_is_no_tissue(tmp_path: Path) -> None:
    rgb = scene()
    rgb[800:820, 800:820] = PINK  # 0.0016 mm2
    rgb[100:150, 750:850] = (150, 150, 150)
    assert len(regions_of(png(tmp_path / "a.png", rgb), mpp=2.0)) == 1


def test_a_white_filled_crop_is_one_region_with_its_holes_filled(tmp_path: Path) -> None:
    rgb = plain(1600, 1600, (255, 255, 255))
    rgb[200:1400, 300:1300] = np.clip(
        np.random.default_rng(0).normal(PINK, 15, (1200, 1000, 3)), 0, 254
    )
    rgb[700:800, 700:800] = 255
    Image.fromarray(rgb).save(tmp_path / "a.jpg", quality=90)
    (region,) = regions_of(tmp_path / "a.jpg")
    assert region.source == "white"
    assert not region.polygon.interiors
    assert region.polygon.bounds == pytest.approx((300, 200, 1300, 1400), abs=33)
    assert region.polygon.contains(shapely.box(300, 200, 1300, 1400).buffer(-16))


def test_transparent_or_saturated_glass_does_not_make_a_slide_a_crop(tmp_path: Path) -> None:
    rgb = scene()
    rgb[:, 700:] = 255  # never scanned
    (region,) = regions_of(png(tmp_path / "a.png", rgb), mpp=2.0)
    assert region.source == "tissue"
    assert region.polygon.bounds == pytest.approx((256, 256, 640, 640), abs=12)


def test_tissue_mask_of_nothing() -> None:
    assert not tissue_mask(plain(20, 20, (0, 0, 0)), cell_mm2=6.4e-5).any()


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**30), st.floats(0.3, 20))
def test_mask_polygons_keep_area_parts_and_holes(
    height: int, width: int, seed: int, cell_px: float
) -> None:
    from skimage.measure import label

    mask = np.random.default_rng(seed).random((height, width)) < 0.6
    polygons = [p for p in mask_polygons(mask, cell_px=cell_px * 4) if p.area]
    assert sum(p.area for p in polygons) == pytest.approx(mask.sum() * (cell_px * 4) ** 2)
    assert len(polygons) == label(mask, connectivity=1).max()
    rows, columns = np.mgrid[:height, :width] + 0.5
    inside = shapely.contains_xy(
        shapely.union_all(polygons), columns * cell_px * 4, rows * cell_px * 4
    )
    assert np.array_equal(inside, mask)


boxes = st.lists(
    st.builds(
        lambda x, y, w, h: shapely.box(x, y, min(x + w, 1000), min(y + h, 1000)),
        st.integers(0, 900),
        st.integers(0, 900),
        st.integers(2, 300),
        st.integers(2, 300),
    ),
    min_size=1,
    max_size=5,
)


@settings(deadline=None, max_examples=25)
@given(boxes)
def test_nothing_annotated_is_analyzed_twice_or_lost(
    tmp_path_factory: pytest.TempPathFactory, pink_png: Path, polygons: list[shapely.Polygon]
) -> None:
    annotation = annotate(tmp_path_factory.mktemp("a") / "a.json", polygons)
    found = [region.polygon for region in regions_of(pink_png, annotation=annotation)]
    union = shapely.union_all(polygons)
    assert sum(polygon.area for polygon in found) == pytest.approx(union.area)
    assert shapely.union_all(found).symmetric_difference(union).area == pytest.approx(0, abs=1e-6)
