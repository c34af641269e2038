"""Patches: the grid, what is blank, and which pixels belong to which region."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from slide_images import PINK, plain, png

from morphomil.slides.annotations import read_annotation
from morphomil.slides.image import open_image
from morphomil.slides.patches import FIT_STEPS, best_shift, cut_patches
from morphomil.slides.regions import Region, regions_geojson
from morphomil.types import PATCHES, ImageSource, PatchSettings

if TYPE_CHECKING:
    from pathlib import Path


def cut(path: Path, polygon: Any, *, mpp: float = 0.5, index: int = 0, **options: Any) -> Any:
    with open_image(ImageSource(path, mpp=mpp)) as image:
        region = Region(0, index, polygon, "", "annotation")
        return cut_patches(
            image, region, slide_id="S", first_patch_id=10, settings=PatchSettings(**options)
        )


def test_the_grid_starts_at_the_bounding_box_and_lists_patches_by_rows(pink_png: Path) -> None:
    patches = cut(pink_png, shapely.box(100, 50, 100 + 300, 50 + 200), patch_px=128, index=7)
    table = patches.table
    assert list(table.columns) == PATCHES.names
    assert (patches.x_px, patches.y_px, patches.rows, patches.columns, patches.downsample) == (
        100,
        50,
        2,
        3,
        1,
    )
    assert table["patch_id"].tolist() == [10, 11, 12, 13, 14, 15]
    assert table["x_px"].tolist() == [100, 228, 356] * 2
    assert table["y_px"].tolist() == [50] * 3 + [178] * 3
    assert set(table["side_px"]) == {128}
    assert (set(table["slide_id"]), set(table["region"]), set(table["image"])) == ({"S"}, {7}, {0})
    # the last column is 44 of 128 pixels wide, the last row 72 of 128 high
    blank = [0, 0, 1 - 44 / 128, 1 - 72 / 128, 1 - 72 / 128, 1 - 44 * 72 / 128**2]
    assert table["blank_fraction"].to_numpy() == pytest.approx(blank)
    assert table["tissue_mm2"].to_numpy() == pytest.approx((1 - np.array(blank)) * 0.064**2)
    assert table["kept"].tolist() == [True, True, False, False, False, False]
    assert patches.kept_cells.tolist() == [[True, True, False], [False, False, False]]
    assert patches.tissue.shape == (64, 96)
    assert patches.tissue[:50][:, :75].all()
    assert np.asarray(patches.tissue).sum() == 50 * 75


def test_the_blank_limit_itself_drops_a_patch(pink_png: Path) -> None:
    half = shapely.box(0, 0, 64, 128)
    assert cut(pink_png, half, patch_px=128, max_blank=0.5).table["kept"].tolist() == [False]
    assert cut(pink_png, half, patch_px=128, max_blank=0.51).table["kept"].tolist() == [True]


def test_pure_white_is_blank_and_nearly_white_is_not(tmp_path: Path) -> None:
    rgb = plain(128, 256, (255, 255, 254))
    rgb[:, 128:192] = 255
    table = cut(png(tmp_path / "a.png", rgb), shapely.box(0, 0, 256, 128), patch_px=128).table
    assert table["blank_fraction"].tolist() == [0, 0.5]


def test_tissue_is_marked_where_half_a_cell_of_4_x_4_pixels_or_more_is_not_blank(
    tmp_path: Path,
) -> None:
    solid = np.random.default_rng(0).random((128, 256)) < 0.5
    rgb = np.where(solid[..., None], np.array(PINK, np.uint8), np.uint8(255))
    patches = cut(
        png(tmp_path / "a.png", rgb), shapely.box(0, 0, 256, 128), patch_px=128, max_blank=0.9
    )
    shares = np.array(
        [[solid[y : y + 4, x : x + 4].mean() for x in range(0, 256, 4)] for y in range(0, 128, 4)]
    )
    assert (shares == 0.5).any()
    np.testing.assert_array_equal(patches.tissue, shares >= 0.5)
    assert patches.table["blank_fraction"].tolist() == [
        1 - solid[:, :128].mean(),
        1 - solid[:, 128:].mean(),
    ]


def test_patches_that_the_region_does_not_touch_are_no_rows(pink_png: Path) -> None:
    corner = shapely.Polygon([(0, 0), (640, 0), (640, 128), (128, 128), (128, 640), (0, 640)])
    patches = cut(pink_png, corner, patch_px=128)
    assert (patches.rows, patches.columns) == (5, 5)
    cells = [(y // 128, x // 128) for x, y in patches.table[["x_px", "y_px"]].to_numpy()]
    assert cells == [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (1, 0), (2, 0), (3, 0), (4, 0)]
    assert patches.kept_cells.sum() == 9


def test_other_pixel_sizes_scale_the_grid(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", plain(900, 900, PINK))
    patches = cut(path, shapely.box(10.7, 0, 700, 600), mpp=0.23, patch_px=128)
    side = 128 * 0.5 / 0.23
    assert patches.downsample == pytest.approx(0.5 / 0.23)
    assert patches.x_px == 10
    assert (patches.rows, patches.columns) == (3, 3)
    assert patches.table["x_px"].to_numpy()[:3] == pytest.approx([10, 10 + side, 10 + 2 * side])
    area = patches.table["tissue_mm2"].sum()
    assert area == pytest.approx(689.3 * 600 * (0.23e-3) ** 2, rel=0.01)
    assert np.asarray(patches.tissue).sum() * (4 * 0.5e-3) ** 2 == pytest.approx(area, rel=0.01)


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.tuples(st.floats(0, 999), st.floats(0, 999)), min_size=3, max_size=9),
    st.sampled_from([0.5, 0.31]),
)
def test_blank_shares_follow_the_polygon(
    pink_png: Path, points: list[tuple[float, float]], mpp: float
) -> None:
    ring = shapely.Polygon(points)
    if not ring.is_valid or ring.area < 1:
        ring = shapely.MultiPoint(points).convex_hull.buffer(20) & shapely.box(0, 0, 1000, 1000)
    polygon = ring - shapely.box(480, 480, 520, 520)
    if polygon.geom_type != "Polygon" or polygon.area < 1000:
        polygon = shapely.box(100, 100, 300, 300)
    table = cut(pink_png, polygon, mpp=mpp, patch_px=128).table
    side = 128 * 0.5 / mpp
    squares = shapely.box(table["x_px"], table["y_px"], table["x_px"] + side, table["y_px"] + side)
    inside = shapely.area(shapely.intersection(squares, polygon))
    tolerance = (polygon.length + 200) * 0.5 / mpp
    assert np.abs((1 - table["blank_fraction"]) * side**2 - inside).max() <= tolerance
    assert abs(inside.sum() - polygon.area) <= tolerance


def test_pixels_belong_to_the_region_that_holds_their_center(pink_png: Path) -> None:
    polygon = shapely.Polygon(
        [(3.1, 2.2), (120.3, 40.4), (90.7, 126.1), (20, 100)], [[(60, 50.1), (75, 52), (66, 71.3)]]
    )
    patches = cut(pink_png, polygon, patch_px=128)
    assert (patches.x_px, patches.y_px, len(patches.table)) == (3, 2, 1)
    rows, columns = np.mgrid[:128, :128] + 0.5
    truth = shapely.contains_xy(polygon, columns + 3, rows + 2)
    assert 1 - patches.table["blank_fraction"].iloc[0] == truth.mean()


def test_neighbors_share_no_pixel_and_leave_none_out(pink_png: Path) -> None:
    """Two regions on either side of a slanted line: their areas add up to the whole, pixel for
    pixel."""
    one = shapely.Polygon([(0, 0), (300, 0), (437, 512), (0, 512)])
    two = shapely.Polygon([(0, 0), (512, 0), (512, 512), (437, 512), (300, 0)])
    counts = [
        round((1 - cut(pink_png, p, patch_px=64).table["blank_fraction"]).sum() * 64**2)
        for p in (one, two)
    ]
    assert sum(counts) == 512 * 512


def test_geojson_opens_as_annotations_again(pink_png: Path, tmp_path: Path) -> None:
    polygon = shapely.Polygon(
        [(1, 2), (90, 2), (90, 80), (1, 80)], [[(10, 10), (20, 10), (20, 20)]]
    )
    regions = [
        Region(0, 0, polygon, "core", "annotation"),
        Region(0, 1, shapely.box(200, 0, 300, 9), "b", "tissue"),
    ]
    tree = regions_geojson(regions)
    (tmp_path / "regions.geojson").write_text(json.dumps(tree))
    tumor, tissue = read_annotation(tmp_path / "regions.geojson").areas
    assert tree["features"][0]["properties"]["objectType"] == "annotation"
    assert tree["features"][0]["properties"]["name"] == "core"
    assert tumor.polygon.equals(polygon)
    assert (tumor.kind, tissue.name, tissue.polygon.area) == ("tumor", "Tissue", 900)


def kept_cells(inside: Any, up: int, back: int, max_blank: float) -> int:
    """By hand: the cells in patches that are kept, of a grid that begins so many cells before."""
    rows, columns = inside.shape
    held = 0
    for top in range(-up, rows, FIT_STEPS):
        for left in range(-back, columns, FIT_STEPS):
            part = inside[max(top, 0) : top + FIT_STEPS, max(left, 0) : left + FIT_STEPS]
            blank = 1 - part.sum() / FIT_STEPS**2
            held += part.sum() if blank < max_blank else 0
    return held


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.1, 0.3, 0.7]))
@settings(max_examples=8, deadline=None)
def test_a_fitted_grid_holds_most_of_the_region(seed: int, max_blank: float) -> None:
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: rng.integers(10, 50), : rng.integers(10, 50)]
    middle, radius = rng.uniform(5, 40, 2), rng.uniform(8, 30)
    inside = (rows - middle[0]) ** 2 + (columns - middle[1]) ** 2 < radius**2
    every = np.array(
        [
            [kept_cells(inside, up, back, max_blank) for back in range(FIT_STEPS)]
            for up in range(FIT_STEPS)
        ]
    )
    up, back = best_shift(inside, max_blank=max_blank)
    assert every[up, back] == every.max()
    assert (up, back) == np.unravel_index(every.argmax(), every.shape)


def test_a_fitted_grid_keeps_more_of_a_region(pink_png: Path) -> None:
    """A region of 1.6 patches: from its corner one patch is kept, in the middle two."""
    box = shapely.box(100, 50, 100 + 205, 50 + 128)
    paper, fit = (cut(pink_png, box, patch_px=128, grid=grid) for grid in ("paper", "fit"))
    held = [part.table.loc[part.table["kept"], "tissue_mm2"].sum() for part in (paper, fit)]
    assert paper.table["kept"].sum() == 1
    assert fit.table["kept"].sum() == 2
    assert held[1] == pytest.approx(205 * 128 * 0.0005**2, rel=1e-6)
    assert held[1] > held[0]
    assert (fit.y_px, fit.x_px % 8) == (50, 100 % 8)
    assert fit.table["tissue_mm2"].sum() == pytest.approx(paper.table["tissue_mm2"].sum())
    whole = cut(pink_png, box, patch_px=128, grid="fit", max_blank=1)
    assert (whole.x_px, whole.y_px) == (100, 50)
