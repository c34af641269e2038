"""Level lines of maps with known answers, and what happens where polygon and map disagree."""

from __future__ import annotations

import numpy as np
import pytest
import shapely

from morphomil.nuclei.polygons import measure_outlines
from morphomil.segment import contours
from morphomil.segment.contours import (
    polygon_outlines,
    trace_contours,
)
from morphomil.segment.outlines import Outlines, join_outlines
from morphomil.segment.polygons import Polygons


def discs(*circles: tuple[float, float, float]) -> Polygons:
    """Star polygons of circles (row, column, radius)."""
    rows = np.array(circles, np.float32).reshape(-1, 3)
    return Polygons(
        rows[:, :2],
        np.linspace(0.9, 0.6, len(rows), dtype=np.float32),
        np.repeat(rows[:, 2:], 32, axis=1),
    )


def depth(shape: tuple[int, int], row: float, column: float, radius: float) -> np.ndarray:
    """How deep each pixel's center lies in a disc."""
    rows, columns = np.indices(shape)
    return (radius - np.hypot(rows - row, columns - column)).astype(np.float32)


def trace(polygons: Polygons, logit: np.ndarray, near: Polygons | None = None) -> Outlines:
    return trace_contours(polygons, near or discs(), logit, corner=(0, 0), level=0.0, rim_px=4.0)


def shapes(outlines: Outlines) -> list[shapely.Polygon]:
    return [shapely.Polygon(part) for part in np.split(outlines.vertices, outlines.ends[:-1])]


@pytest.mark.parametrize("slope", [0.5, 2.0])
@pytest.mark.parametrize("corner", [(0, 0), (-300, 1000)])
def test_an_ellipse_is_measured_between_the_pixels(slope: float, corner: tuple[int, int]) -> None:
    """The polygon is a circle; the map knows better."""
    rows, columns = np.indices((80, 80))
    middle = np.array([40.3, 38.6])
    u = (rows - middle[0]) * np.cos(0.5) + (columns - middle[1]) * np.sin(0.5)
    v = (columns - middle[1]) * np.cos(0.5) - (rows - middle[0]) * np.sin(0.5)
    ratio = np.hypot(u / 9, v / 12)
    logit = (slope * (1 - ratio) * 10).astype(np.float32)
    polygons = discs((middle[0] + corner[0], middle[1] + corner[1], 10.5))
    outlines = trace_contours(polygons, discs(), logit, corner=corner, level=0.0, rim_px=4.0)
    row = measure_outlines(outlines.vertices[:, ::-1], outlines.ends, mpp=1.0).iloc[0]
    assert row["area_um2"] == pytest.approx(np.pi * 9 * 12, rel=0.005)
    assert row["major_axis_um"] == pytest.approx(24, rel=0.005)
    assert row["minor_axis_um"] == pytest.approx(18, rel=0.005)
    assert row["rectangularity"] == pytest.approx(np.pi / 4, rel=0.01)
    assert row["circularity"] == pytest.approx(0.968, rel=0.01)
    assert (row["y_px"] - corner[0], row["x_px"] - corner[1]) == pytest.approx(middle, abs=0.05)


def test_the_level_moves_the_edge() -> None:
    logit = depth((60, 60), 30, 30, 10)
    for level in (-1.5, 0.0, 2.0):
        outlines = trace_contours(
            discs((30, 30, 10)), discs(), logit, corner=(0, 0), level=level, rim_px=4.0
        )
        assert shapes(outlines)[0].area == pytest.approx(np.pi * (10 - level) ** 2, rel=0.01)


def test_touching_nuclei_part_where_their_polygons_are_equally_near() -> None:
    logit = np.maximum(depth((60, 80), 30, 30.25, 10), depth((60, 80), 30, 49.25, 10))
    both = discs((30, 30.25, 10), (30, 49.25, 10))
    first, second = shapes(trace(both, logit))
    assert first.intersection(second).area < 0.02 * first.area
    assert first.bounds[3] == pytest.approx(39.75, abs=0.5)
    assert first.area == pytest.approx(second.area, rel=0.01)
    assert first.union(second).area == pytest.approx((logit > 0).sum(), rel=0.02)
    alone = shapes(trace(both[np.array([0])], logit, near=both[np.array([1])]))
    assert alone[0].equals(first)


def test_holes_are_filled_and_other_parts_left_out() -> None:
    logit = depth((60, 60), 30, 30, 10)
    logit[29:32, 29:32] = -3
    logit[30, 37] = 2
    logit[16:18, 30] = 5  # above, within the rim, not connected
    (shape,) = shapes(trace(discs((30, 30, 10)), logit))
    assert shape.is_valid
    assert shape.area == pytest.approx(np.pi * 100, rel=0.01)


def test_an_outline_stays_near_its_polygon() -> None:
    (shape,) = shapes(trace(discs((30, 30, 10)), np.full((60, 60), 5, np.float32)))
    assert shape.area == pytest.approx(np.pi * 14**2, rel=0.02)


@pytest.mark.parametrize(
    "logit",
    [
        np.full((60, 60), np.nan, np.float32),
        np.full((60, 60), -4, np.float32),
        depth((60, 60), 30, 36, 4),
    ],
)
def test_where_map_and_polygon_disagree_the_polygon_stays(logit: np.ndarray) -> None:
    polygons = discs((30, 30, 10))
    np.testing.assert_allclose(
        trace(polygons, logit).vertices, polygon_outlines(polygons).vertices, atol=1e-4
    )


def test_beyond_the_map_the_polygon_is_the_edge() -> None:
    logit = depth((60, 60), 30, 30, 10)
    logit[:, 33:] = np.nan
    (shape,) = shapes(trace(discs((30, 30, 10)), logit))
    assert shape.area == pytest.approx(np.pi * 100, rel=0.02)


def test_random_maps_give_simple_outlines_around_their_centers() -> None:
    """Whatever the map: valid rings, none crossing another by more than a corner's cut."""
    from scipy import ndimage

    rng = np.random.default_rng(0)
    for _ in range(10):
        logit = ndimage.gaussian_filter(rng.normal(size=(120, 120)), 1.5).astype(np.float32) * 8 + 1
        points = rng.uniform(15, 105, (20, 2)).astype(np.float32)
        polygons = Polygons(
            points,
            rng.random(20).astype(np.float32),
            rng.uniform(4, 12, (20, 32)).astype(np.float32),
        )
        found = shapes(trace(polygons, logit))
        assert len(found) == 20
        assert all(shape.is_valid and shape.area > 0 for shape in found)


def test_outlines_are_chosen_moved_and_joined() -> None:
    outlines = polygon_outlines(discs((10, 20, 3), (30, 40, 5), (50, 60, 7)))
    picked = outlines[np.array([2, 0])]
    assert [shape.bounds for shape in shapes(picked)] == [
        shapes(outlines)[2].bounds,
        shapes(outlines)[0].bounds,
    ]
    again = join_outlines([picked, outlines[np.array([False, True, False])]])
    assert len(again) == 3
    assert shapes(again)[2].equals(shapes(outlines)[1])
    doubled = shapes(outlines.scaled(2).shifted(1))[0]
    assert doubled.area == pytest.approx(4 * shapes(outlines)[0].area, rel=1e-4)
    assert doubled.centroid.coords[0] == pytest.approx((10.5 * 2 - 0.5 + 1, 20.5 * 2 - 0.5 + 1))
    assert len(join_outlines([])) == 0
    expected = [shape.area for shape in shapes(again)]
    np.testing.assert_allclose(again.shifted(1e5).areas(), expected, rtol=1e-2)
    np.testing.assert_allclose(again.areas(), expected, rtol=1e-5)
    assert len(join_outlines([]).areas()) == 0


def test_directions_of_pixels_are_those_of_the_rays() -> None:
    """Witness: numpy's arctan2; a ray's direction goes from the columns' axis to the rows'."""
    y, x = np.random.default_rng(0).normal(0, 9, (2, 500)).astype(np.float32)
    found = np.array([contours._polar(*point, np.float32(32)) for point in zip(y, x, strict=True)])
    turns = np.arctan2(y, x).astype(np.float64) / (2 * np.pi) * 32
    away = (found[:, 0] - turns + 16) % 32 - 16
    assert np.abs(away).max() < 1e-5 * 32 / (2 * np.pi) + 1e-5
    np.testing.assert_allclose(found[:, 1], np.hypot(y, x), rtol=1e-6)


def test_a_lopsided_polygon_is_its_own_outline_where_the_map_knows_nothing() -> None:
    """Its rays differ in every direction, so one that is taken for another shows."""
    angles = np.arange(32) * (2 * np.pi / 32)
    dist = (14 + 5 * np.cos(angles - 0.7) + 2 * np.sin(2 * angles)).astype(np.float32)
    polygons = Polygons(np.full((1, 2), 30, np.float32), np.ones(1, np.float32), dist[None])
    logit = depth((60, 60), 30, 30, 4)
    logit[logit < 0] = np.nan
    (found,) = shapes(trace(polygons, logit))
    (expected,) = shapes(polygon_outlines(polygons))
    assert 0.99 < found.intersection(expected).area / found.union(expected).area < 1
