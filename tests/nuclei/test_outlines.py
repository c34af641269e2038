"""Label image -> outlines -> label image."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from morphomil.nuclei.outlines import fill_polygons, trace_outlines


@settings(max_examples=100, deadline=None)
@given(
    labels=arrays(
        np.int32, st.tuples(st.integers(1, 14), st.integers(1, 14)), elements=st.integers(0, 3)
    )
)
def test_outlines_are_valid_exact_and_lead_back(labels: np.ndarray) -> None:
    """Of any image: holes, corners that touch, parts apart, nuclei at the border."""
    again = np.zeros_like(labels)
    outlines = list(trace_outlines(labels))
    assert sorted(outline.label for outline in outlines) == sorted(set(labels.ravel()) - {0})
    for outline in outlines:
        shape = shapely.MultiPolygon([(rings[0], rings[1:]) for rings in outline.polygons])
        assert shape.is_valid, shapely.is_valid_reason(shape)
        assert shape.area == (labels == outline.label).sum()
        fill_polygons(again, outline.polygons, [outline.label] * len(outline.polygons))
    np.testing.assert_array_equal(again, labels)


def test_a_square_is_four_corners_clockwise_on_screen() -> None:
    labels = np.zeros((6, 8), np.uint16)
    labels[1:3, 2:7] = 9
    (outline,) = trace_outlines(labels)
    assert outline.label == 9
    assert outline.polygons[0][0].tolist() == [[7, 1], [7, 3], [2, 3], [2, 1], [7, 1]]


def test_polygons_agree_with_their_area() -> None:
    """Center rule: a disc has as many pixels as its area says, wherever its center lies."""
    rng = np.random.default_rng(3)
    for radius in (3.0, 8.0, 20.0):
        for _ in range(20):
            disc = shapely.Point(*rng.uniform(24, 26, 2)).buffer(radius, quad_segs=64)
            canvas = np.zeros((50, 50), np.int32)
            fill_polygons(canvas, [[shapely.get_coordinates(disc.exterior)]], [1])
            assert canvas.sum() == pytest.approx(disc.area, rel=0.4 / radius)
            rows, columns = np.nonzero(canvas)
            assert shapely.contains_xy(disc, columns + 0.5, rows + 0.5).all()


def test_the_first_polygon_keeps_what_two_claim() -> None:
    square = [np.array([[0, 0], [4, 0], [4, 4], [0, 4]], float)]
    canvas = np.zeros((5, 6), np.int32)
    fill_polygons(canvas, [square, [square[0] + 2]], [1, 2])
    assert (canvas == 1).sum() == 16
    assert (canvas == 2).sum() == 3 * 4 - 4
    fill_polygons(canvas, [[square[0] - 100]], [3])
    assert not (canvas == 3).any()


def test_what_is_no_label_image_is_refused() -> None:
    for wrong in (np.zeros((2, 2, 3), int), np.zeros((2, 2))):
        with pytest.raises(ValueError, match="2-D array of integers"):
            list(trace_outlines(wrong))
    assert list(trace_outlines(np.zeros((0, 0), np.int32))) == []
