"""The formulas against scikit-image, brute force, OpenCV and closed forms."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from label_images import (
    IMAGES,
    LAW,
    assert_equals_skimage,
    axial_difference,
    blobs,
    confetti,
    corners,
    ellipse,
    smallest_rectangle,
)
from scipy import ndimage
from skimage.io import imread

from morphomil.nuclei.measure import measure_shapes

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


@pytest.mark.parametrize("name", IMAGES)
def test_real_nuclei_equal_scikit_image(shared_data: Path, name: str) -> None:
    assert_equals_skimage(
        imread(shared_data / "nuclei" / "monuseg_train" / "labels" / f"{name}.png")
    )


@pytest.mark.parametrize("seed", range(4))
def test_blobs_equal_scikit_image(seed: int) -> None:
    assert_equals_skimage(blobs(seed), mpp=0.5)


@LAW
@given(confetti())
def test_scattered_pixels_equal_scikit_image(labels: NDArray[Any]) -> None:
    assert_equals_skimage(labels, mpp=1)


@LAW
@given(confetti())
def test_rectangularity_equals_brute_force(labels: NDArray[Any]) -> None:
    table = measure_shapes(labels, mpp=0.5)
    for label, value in zip(table["label"], table["rectangularity"], strict=True):
        mask = labels == label
        assert value == pytest.approx(mask.sum() / smallest_rectangle(corners(mask)), rel=1e-9)
        assert 0 < value <= 1


def test_rectangularity_equals_brute_force_and_opencv(shared_data: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    labels = imread(shared_data / "nuclei" / "monuseg_train" / "labels" / f"{IMAGES[0]}.png")
    table = measure_shapes(labels, mpp=0.25)
    for row, box in zip(table.itertuples(), ndimage.find_objects(labels), strict=True):
        mask = labels[box] == row.label
        points = corners(mask)
        _, (width, height), _ = cv2.minAreaRect(points.astype(np.float32))
        assert row.rectangularity == pytest.approx(
            mask.sum() / smallest_rectangle(points), rel=1e-9
        )
        assert row.rectangularity == pytest.approx(mask.sum() / (width * height), rel=1e-4)


@pytest.mark.parametrize("radius", [5.0, 8.3, 16.0])
def test_disc(radius: float) -> None:
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:40, :40]
    masks = [np.hypot(x - 20 - i, y - 20 - j) <= radius for i, j in rng.random((200, 2))]
    mean = pd.concat([measure_shapes(mask.astype(np.uint8), mpp=0.5) for mask in masks]).mean()
    assert mean["area_um2"] == pytest.approx(math.pi * radius**2 / 4, rel=0.01)
    assert mean["circumference_um"] == pytest.approx(math.pi * radius, rel=0.02)
    assert mean["major_axis_um"] == pytest.approx(radius, rel=0.02)
    assert mean["circularity"] == pytest.approx(1, abs=0.04)


@pytest.mark.parametrize("degrees", range(0, 180, 15))
def test_ellipse(degrees: float) -> None:
    row = measure_shapes(ellipse(80, 40, degrees), mpp=0.25).iloc[0]
    assert row["major_axis_um"] == pytest.approx(20, rel=0.005)
    assert row["minor_axis_um"] == pytest.approx(10, rel=0.005)
    assert axial_difference(row["orientation_deg"], degrees) < 0.5
    assert row["area_um2"] == pytest.approx(math.pi * 50, rel=0.005)
    assert row["circumference_um"] == pytest.approx(48.442241, rel=0.02)  # 4 a E(e), a = 10, b = 5
    assert row["rectangularity"] == pytest.approx(
        math.pi / 4, rel=0.05
    )  # corners stand out by up to 0.7 px a side


@pytest.mark.parametrize("degrees", range(0, 180, 15))
def test_rectangle_at_any_angle(degrees: float) -> None:
    y, x = np.mgrid[:256, :256] - 127.8
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    labels = ((np.abs(x * c + y * s) <= 100) & (np.abs(y * c - x * s) <= 50)).astype(np.int64)
    row = measure_shapes(labels, mpp=1).iloc[0]
    assert 0.96 < row["rectangularity"] <= 1
    assert axial_difference(row["orientation_deg"], degrees) < 0.5
    assert row["major_axis_um"] == pytest.approx(4 * 200 / math.sqrt(12), rel=0.01)


@pytest.mark.parametrize("corner", [(0, 0), (3, 5), (8, 13)])
def test_upright_rectangle_counts_image_borders_as_edges(corner: tuple[int, int]) -> None:
    labels = np.zeros((12, 20), np.uint16)
    labels[corner[0] :, corner[1] :][:4, :7] = 9
    row = measure_shapes(labels, mpp=2).iloc[0]
    assert row["area_um2"] == 28 * 4
    assert row["rectangularity"] == 1
    assert row["major_axis_um"] == pytest.approx(2 * 4 * math.sqrt((7**2 - 1) / 12), rel=1e-14)
    assert row["minor_axis_um"] == pytest.approx(2 * 4 * math.sqrt((4**2 - 1) / 12), rel=1e-14)
    assert row["orientation_deg"] == 0
    # 7 + 4 upright grid lines cross it, and 7 + 4 - 1 along each diagonal.
    assert row["circumference_um"] == pytest.approx(
        2 * math.pi / 4 * (11 + 20 / math.sqrt(2)), rel=1e-14
    )
    assert (row["x_px"], row["y_px"]) == (corner[1] + 3, corner[0] + 1.5)


@pytest.mark.parametrize(
    ("step", "degrees"), [((0, 1), 0.0), ((1, 1), 45.0), ((1, 0), 90.0), ((1, -1), 135.0)], ids=str
)
def test_line_of_pixels_has_no_short_axis(step: tuple[int, int], degrees: float) -> None:
    labels = np.zeros((11, 11), np.uint8)
    for k in range(-4, 5):
        labels[5 + k * step[0], 5 + k * step[1]] = 1
    row = measure_shapes(labels, mpp=1).iloc[0]
    assert row["minor_axis_um"] == 0
    assert row["orientation_deg"] == degrees
    assert row["major_axis_um"] == pytest.approx(
        4 * math.sqrt((9**2 - 1) / 12) * math.hypot(*step), rel=1e-14
    )


def test_one_pixel() -> None:
    row = measure_shapes(np.ones((1, 1), np.int8), mpp=1).iloc[0]
    assert row[["area_um2", "major_axis_um", "minor_axis_um", "rectangularity"]].tolist() == [
        1,
        0,
        0,
        1,
    ]
    assert math.isnan(row["orientation_deg"])
    assert row["circumference_um"] == pytest.approx(math.pi / 4 * (2 + math.sqrt(2)), rel=1e-14)


def test_orientation_ends_at_an_axis_ratio_of_1_1() -> None:
    sides = [(16, 14), (17, 16)]  # axis ratios 1.144 and 1.064
    tables = [measure_shapes(np.ones(shape, np.uint8), mpp=0.5) for shape in sides]
    assert [t["orientation_deg"].iloc[0] for t in tables] == pytest.approx(
        [90, math.nan], nan_ok=True
    )
