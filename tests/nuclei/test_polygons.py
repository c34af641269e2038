"""Features of outlines: shapely and closed forms as witnesses, and masks of the same nuclei."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.draw import polygon2mask

from morphomil.nuclei.measure import measure_nuclei
from morphomil.nuclei.polygons import measure_outlines
from morphomil.types import FEATURE_NAMES

SHAPES = [name for name in FEATURE_NAMES if name != "density_per_mm2"]


def ellipse(
    a: float, b: float, turn: float, center: tuple[float, float], count: int = 2000
) -> np.ndarray:
    angle = np.arange(count) * 2 * np.pi / count
    x, y = a * np.cos(angle), b * np.sin(angle)
    cosine, sine = np.cos(turn), np.sin(turn)
    return np.stack([x * cosine - y * sine, x * sine + y * cosine], axis=1) + center


def one(ring: np.ndarray, mpp: float = 1.0) -> dict[str, float]:
    return measure_outlines(ring, np.array([len(ring)]), mpp=mpp).iloc[0].to_dict()


def star(rng: np.random.Generator) -> np.ndarray:
    """A simple ring, in general not convex."""
    count = int(rng.integers(3, 60))
    angle = np.sort(rng.uniform(0, 2 * np.pi, count))
    rho = rng.uniform(2, 20, count)
    center = rng.uniform(-50, 50, 2)
    return rho[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1) + center


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_area_length_centroid_and_rectangle_are_shapelys(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rings = [star(rng)[:: rng.choice([-1, 1])] for _ in range(5)]
    table = measure_outlines(np.concatenate(rings), np.cumsum([len(r) for r in rings]), mpp=0.5)
    assert table["label"].tolist() == [1, 2, 3, 4, 5]
    for row, ring in zip(table.to_dict("records"), rings, strict=True):
        shape = shapely.Polygon(ring)
        rectangle = shapely.minimum_rotated_rectangle(shape).area
        if not shape.is_valid or shape.area < 1e-3:
            continue
        assert row["area_um2"] == pytest.approx(shape.area / 4)
        assert row["circumference_um"] == pytest.approx(shape.length / 2)
        assert (row["x_px"], row["y_px"]) == pytest.approx(shape.centroid.coords[0])
        assert row["rectangularity"] == pytest.approx(shape.area / rectangle)
        assert row["circularity"] == pytest.approx(4 * np.pi * shape.area / shape.length**2)


@pytest.mark.parametrize("turn", [0.0, 0.4, 2.0, 3.0])
@pytest.mark.parametrize("far", [0.0, 1e5])
def test_an_ellipse_has_its_axes_direction_and_moments(turn: float, far: float) -> None:
    row = one(ellipse(12.0, 7.0, turn, (far, 3.0)), mpp=0.25)
    assert row["area_um2"] == pytest.approx(np.pi * 84 / 16, rel=1e-5)
    assert row["major_axis_um"] == pytest.approx(6.0, rel=1e-5)
    assert row["minor_axis_um"] == pytest.approx(3.5, rel=1e-5)
    off = (row["orientation_deg"] - np.degrees(turn) + 90) % 180 - 90
    assert off == pytest.approx(0, abs=1e-2)
    assert row["rectangularity"] == pytest.approx(np.pi / 4, rel=1e-4)
    h = (5 / 19) ** 2  # Ramanujan
    length = np.pi * 19 * (1 + 3 * h / (10 + np.sqrt(4 - 3 * h))) / 4
    assert row["circumference_um"] == pytest.approx(length, rel=1e-5)
    assert (row["x_px"], row["y_px"]) == pytest.approx((far, 3.0), abs=1e-6)


@settings(deadline=None, max_examples=40)
@given(st.floats(0.5, 30), st.floats(0.5, 30), st.floats(0, 7), st.integers(0, 3))
def test_a_turned_rectangle_fills_its_rectangle(a: float, b: float, turn: float, k: int) -> None:
    corners = np.array([[0, 0], [a, 0], [a, b], [0, b]])
    between = np.stack([corners, (corners + np.roll(corners, -1, 0)) / 2], axis=1).reshape(-1, 2)
    cosine, sine = np.cos(turn), np.sin(turn)
    row = one(np.roll(between, k, 0) @ np.array([[cosine, sine], [-sine, cosine]]))
    assert row["rectangularity"] == pytest.approx(1)
    assert row["area_um2"] == pytest.approx(a * b)
    assert row["major_axis_um"] == pytest.approx(4 * max(a, b) / 12**0.5)


def test_a_mask_agrees_within_its_digitization() -> None:
    rng = np.random.default_rng(0)
    for _ in range(10):
        radii, turn = rng.uniform(14, 24, 2), rng.uniform(0, np.pi)
        ring = ellipse(*radii, turn, tuple(rng.uniform(30, 31, 2)))
        mask = polygon2mask((64, 64), ring[:, ::-1]).astype(np.int32)
        drawn, exact = measure_nuclei(mask, mpp=0.5).iloc[0], one(ring, mpp=0.5)
        for name in ("area_um2", "major_axis_um", "minor_axis_um", "circumference_um"):
            assert drawn[name] == pytest.approx(exact[name], rel=0.03)
        assert drawn["rectangularity"] == pytest.approx(exact["rectangularity"], rel=0.08)
        assert (drawn["x_px"], drawn["y_px"]) == pytest.approx(
            (exact["x_px"], exact["y_px"]), abs=0.1
        )


def test_outlines_without_area_have_no_extent() -> None:
    row = one(np.array([[1.0, 2.0], [3.0, 2.0], [2.0, 2.0]]))
    assert row["area_um2"] == row["major_axis_um"] == 0
    assert (row["x_px"], row["y_px"]) == (2, 2)
    assert np.isnan(row["rectangularity"])


def test_no_outlines_are_an_empty_table() -> None:
    table = measure_outlines(np.empty((0, 2)), np.empty(0, int), mpp=0.5)
    assert len(table) == 0
    assert set(SHAPES) <= set(table.columns)


@pytest.mark.parametrize(
    ("vertices", "ends", "mpp"),
    [
        (np.zeros((4, 3)), [4], 0.5),
        (np.full((4, 2), np.nan), [4], 0.5),
        (np.zeros((4, 2)), [2, 4], 0.5),
        (np.zeros((4, 2)), [3], 0.5),
        (np.zeros((4, 2)), [4], 0.0),
    ],
)
def test_unusable_outlines_are_refused(vertices: np.ndarray, ends: list[int], mpp: float) -> None:
    with pytest.raises(ValueError, match=r"vertices|ends|mpp"):
        measure_outlines(vertices, np.array(ends), mpp=mpp)
