"""Label images of any kind, and what is refused."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from label_images import (
    SHAPES,
    blobs,
    ellipse,
)

from morphomil.nuclei.measure import measure_nuclei, measure_shapes
from morphomil.types import FEATURE_NAMES

if TYPE_CHECKING:
    from numpy.typing import NDArray


def test_empty_labels_give_an_empty_table_of_the_same_types() -> None:
    full = measure_nuclei(np.ones((4, 4), np.uint8), mpp=0.5)
    for shape in ((0, 0), (0, 5), (5, 0), (8, 8)):
        empty = measure_nuclei(np.zeros(shape, np.uint8), mpp=0.5)
        assert len(empty) == 0
        assert empty.dtypes.to_dict() == full.dtypes.to_dict()
    assert list(full) == ["label", "x_px", "y_px", *FEATURE_NAMES]
    assert [str(dtype) for dtype in full.dtypes] == ["int64"] + ["float64"] * 10


def test_touching_nuclei_stay_apart() -> None:
    labels = np.repeat(np.array([[3, 1, 2]], np.uint8), [4, 2, 6], axis=1).repeat(5, axis=0)
    table = measure_shapes(labels, mpp=1)
    assert table["label"].tolist() == [1, 2, 3]
    assert table["area_um2"].tolist() == [10, 30, 20]
    assert table["x_px"].tolist() == [4.5, 8.5, 1.5]


@pytest.mark.parametrize("far", [2**31 - 1, 2**31, 2**62])
def test_sparse_huge_ids(far: int) -> None:
    labels = blobs(3).astype(np.int64)
    moved = np.where(labels == labels.max(), far, labels)
    table, expected = measure_nuclei(moved, mpp=0.25), measure_nuclei(labels, mpp=0.25)
    assert table["label"].iloc[-1] == far
    pd.testing.assert_frame_equal(table.drop(columns="label"), expected.drop(columns="label"))


def test_more_labels_than_uint16_holds() -> None:
    side, step = 270, 4
    labels = np.zeros((side * step, side * step), np.uint32)
    ids = np.arange(1, side**2 + 1).reshape(side, side)
    for dy, dx in ((0, 0), (0, 1), (1, 0)):
        labels[dy::step, dx::step] = ids
    table = measure_nuclei(labels, mpp=0.25)  # one nucleus per um2
    assert side**2 > 70_000
    np.testing.assert_array_equal(table["label"], ids.ravel())
    assert (table["area_um2"] == 3 / 16).all()
    np.testing.assert_allclose(
        table["x_px"], np.tile(np.arange(side) * step + 1 / 3, side), rtol=1e-14
    )
    inside = table["x_px"].between(204, 875) & table["y_px"].between(204, 875)
    y, x = np.mgrid[-50:51, -50:51]
    in_disc = np.count_nonzero(np.hypot(x, y) <= 50) - 1
    np.testing.assert_allclose(
        table["density_per_mm2"][inside], 1e6 * in_disc / (math.pi * 2500), rtol=1e-9
    )


def test_moments_are_sound_far_from_the_origin() -> None:
    mask = ellipse(30, 20, 33, side=40)
    labels = np.zeros((50, 40_000), np.uint8)
    labels[7:47, -40:] = mask
    pd.testing.assert_frame_equal(
        measure_shapes(labels, mpp=0.5)[SHAPES],
        measure_shapes(mask, mpp=0.5)[SHAPES],
        check_exact=True,
    )


@pytest.mark.parametrize(
    ("labels", "arguments", "message"),
    [
        (np.full((2, 2), -1), {}, "labels must be 0 to"),
        (np.full((2, 2), 2**63, np.uint64), {}, "labels must be 0 to"),
        (np.ones((2, 2)), {}, "2-D array of integers, got float64"),
        (np.ones((2, 2), bool), {}, "2-D array of integers, got bool"),
        (np.ones(4, int), {}, r"2-D array of integers, got int64 of shape \(4,\)"),
        (np.ones((2, 2), int), {"mpp": 0.0}, "mpp must be positive, got 0"),
        (np.ones((2, 2), int), {"mpp": math.nan}, "mpp must be positive, got nan"),
        (
            np.ones((2, 2), int),
            {"tissue": np.ones((2, 3), bool)},
            r"of shape \(2, 2\), got bool "
            r"of shape \(2, 3\)",
        ),
        (np.ones((2, 2), int), {"tissue": np.ones((2, 2))}, "tissue must be bool"),
    ],
)
def test_unusable_arguments_are_refused(
    labels: NDArray[Any], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        measure_nuclei(labels, **({"mpp": 0.5} | arguments))
