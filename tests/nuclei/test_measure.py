"""Nuclei table: scikit-image, OpenCV and brute force as witnesses, closed forms, laws."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from scipy.spatial import ConvexHull
from skimage.io import imread
from skimage.measure import regionprops_table

from morphomil.nuclei.density import local_density
from morphomil.nuclei.measure import measure_nuclei, measure_shapes
from morphomil.nuclei.registry import FEATURES, Feature, feature
from morphomil.types import FEATURE_NAMES

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SHAPES = [name for name in FEATURE_NAMES if name != "density_per_mm2"]
WITNESS = (
    "label",
    "area",
    "axis_major_length",
    "axis_minor_length",
    "orientation",
    "perimeter_crofton",
    "centroid",
)
LAW = settings(deadline=None, max_examples=25)
IMAGES = ("Breast_TCGA-A7-A13E-01Z-00-DX1", "Kidney_TCGA-HE-7130-01Z-00-DX1")


def blobs(seed: int, shape: tuple[int, int] = (96, 64), width: float = 2) -> NDArray[np.int32]:
    """Touching, border and one-pixel nuclei under shuffled ids."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=shape), width)
    labels, count = ndimage.label(noise > 0.3 * noise.std())
    labels = np.where(
        labels > 0, 2 * labels - (rng.random(shape) < 0.02), 0
    )  # touching one-pixel neighbors
    return np.concatenate([[0], 1 + rng.permutation(2 * count)])[labels].astype(np.int32)


def confetti() -> st.SearchStrategy[NDArray[Any]]:
    """Images of few pixels in which nuclei are lines, single pixels, or in parts."""
    shapes = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)
    return hnp.arrays(np.uint8, shapes, elements=st.integers(0, 3))


def axial_difference(a: Any, b: Any) -> NDArray[np.float64]:
    return np.abs((np.asarray(a) - np.asarray(b) + 90) % 180 - 90)


def assert_equals_skimage(labels: NDArray[Any], mpp: float = 0.25) -> None:
    ours, theirs = (
        measure_shapes(labels, mpp=mpp),
        pd.DataFrame(regionprops_table(labels, properties=WITNESS)),
    )
    assert ours["label"].tolist() == theirs["label"].tolist()
    for column, name, unit in (
        ("x_px", "centroid-1", 1),
        ("y_px", "centroid-0", 1),
        ("area_um2", "area", mpp**2),
        ("major_axis_um", "axis_major_length", mpp),
        ("circumference_um", "perimeter_crofton", mpp),
    ):
        np.testing.assert_allclose(ours[column], theirs[name] * unit, rtol=1e-12, atol=1e-12)
    # A zero eigenvalue carries scikit-image's rounding, 1e-16 of the larger one, under a square
    # root.
    np.testing.assert_allclose(
        ours["minor_axis_um"], theirs["axis_minor_length"] * mpp, rtol=1e-9, atol=1e-6
    )
    oriented = ours["orientation_deg"].notna()
    ratio = theirs["axis_major_length"] - 1.1 * theirs["axis_minor_length"]
    clear = (ratio.abs() > 1e-6) | (theirs["area"] == 1)
    assert (oriented == ((ratio > 0) & (theirs["area"] > 1)))[clear].all()
    angle = (90 - np.degrees(theirs["orientation"])) % 180
    assert axial_difference(ours["orientation_deg"], angle)[oriented].max(initial=0) < 1e-6
    assert ours["orientation_deg"][oriented].between(0, 180, inclusive="left").all()


def corners(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    y, x = np.nonzero(mask)
    return np.unique(
        np.concatenate([np.column_stack([x + i, y + j]) for i in (0, 1) for j in (0, 1)]), axis=0
    )


def smallest_rectangle(points: NDArray[np.int64]) -> float:
    """Brute force: the extents of all points along and across every edge of Qhull's hull."""
    hull = points[ConvexHull(points).vertices].astype(float)
    edges = np.roll(hull, -1, axis=0) - hull
    along = edges / np.linalg.norm(edges, axis=1, keepdims=True)
    across = along[:, ::-1] * [1, -1]
    return float((np.ptp(hull @ along.T, axis=0) * np.ptp(hull @ across.T, axis=0)).min())


def ellipse(major: float, minor: float, degrees: float, side: int = 128) -> NDArray[np.uint8]:
    """Full axes in pixels, off the pixel grid."""
    y, x = np.mgrid[:side, :side] - (side / 2 + 0.3)
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (((x * c + y * s) / major) ** 2 + ((y * c - x * s) / minor) ** 2 <= 0.25).astype(
        np.uint8
    )


# Witnesses


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


# Closed forms


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


# Labels


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


# Laws


@LAW
@given(st.integers(0, 10**6), st.integers(1, 3))
def test_turning_by_90_degrees(seed: int, turns: int) -> None:
    labels = blobs(seed, shape=(240, 200))
    tissue = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=labels.shape), 30) > 0
    table = measure_nuclei(labels, mpp=0.5, tissue=tissue)
    turned = measure_nuclei(np.rot90(labels, turns), mpp=0.5, tissue=np.rot90(tissue, turns))
    rest = ["label"] + [name for name in FEATURE_NAMES if name != "orientation_deg"]
    pd.testing.assert_frame_equal(turned[rest], table[rest], rtol=1e-11, atol=1e-11)
    assert (turned["orientation_deg"].isna() == table["orientation_deg"].isna()).all()
    assert (
        np.nanmax(
            axial_difference(turned["orientation_deg"], table["orientation_deg"] + 90 * turns)
        )
        < 1e-9
    )


@LAW
@given(st.integers(0, 10**6))
def test_mirror(seed: int) -> None:
    labels = blobs(seed)
    table, mirrored = (measure_nuclei(image, mpp=1) for image in (labels, labels[:, ::-1]))
    rest = ["label", "y_px"] + [name for name in FEATURE_NAMES if name != "orientation_deg"]
    pd.testing.assert_frame_equal(mirrored[rest], table[rest], rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(
        mirrored["x_px"], labels.shape[1] - 1 - table["x_px"], rtol=0, atol=1e-10
    )
    assert (
        np.nanmax(axial_difference(mirrored["orientation_deg"], -table["orientation_deg"])) < 1e-9
    )


@LAW
@given(st.integers(0, 10**6), st.floats(0.1, 4))
def test_pixel_size_scales_lengths_and_areas(seed: int, mpp: float) -> None:
    table, scaled = measure_shapes(blobs(seed), mpp=1), measure_shapes(blobs(seed), mpp=mpp)
    for name in SHAPES:
        unit = {"um2": mpp**2, "um": mpp}.get(FEATURES[name].unit, 1)
        np.testing.assert_allclose(scaled[name], table[name] * unit, rtol=1e-12)


@LAW
@given(st.integers(0, 10**6))
def test_ids_only_name_the_nuclei(seed: int) -> None:
    labels = blobs(seed)
    ids = np.random.default_rng(seed).permutation(labels.max()) + 1
    renamed = measure_nuclei(np.concatenate([[0], ids])[labels], mpp=0.5)
    table = measure_nuclei(labels, mpp=0.5)
    table["label"] = ids[table["label"] - 1]
    pd.testing.assert_frame_equal(
        renamed, table.sort_values("label", ignore_index=True), check_exact=True
    )


def test_memory_layout_and_integer_type_do_not_matter() -> None:
    labels = blobs(5)
    table = measure_nuclei(labels, mpp=0.5)
    read_only = labels.astype(np.uint64)
    read_only.flags.writeable = False
    for same in (
        np.asfortranarray(labels),
        labels.astype(np.uint16),
        read_only,
        labels.astype(">i4"),
    ):
        pd.testing.assert_frame_equal(measure_nuclei(same, mpp=0.5), table, check_exact=True)


# Density


def half_plane_area(distance: float, radius: float) -> float:
    """Part of a disc on the side of a line that holds its center, `distance` away."""
    return radius**2 * math.acos(-distance / radius) + distance * math.sqrt(radius**2 - distance**2)


def disc_areas(
    tissue: NDArray[Any], x: NDArray[np.float64], y: NDArray[np.float64], mpp: float
) -> NDArray[np.float64]:
    """The area behind `local_density` in um2: every point has all others as neighbors 1 nm away."""
    areas = []
    for i, j in zip(x, y, strict=True):
        pair = local_density(
            np.array([i, i + 1e-3]), np.array([j, j]), tissue=tissue, tissue_mpp=mpp
        )
        areas.append(1e6 / pair[0])
    return np.array(areas)


@pytest.mark.parametrize("mpp", [0.25, 0.5, 1, 2, 4])
@pytest.mark.parametrize("side", ["left", "top", "right", "bottom"])
def test_half_plane_of_tissue(mpp: float, side: str) -> None:
    tissue = np.zeros((round(160 / mpp), round(160 / mpp)), bool)
    tissue[:, round(80 / mpp) :] = True
    distances = np.array([0, 0.3, 1, 7.77, 21, 25])
    along = np.array([75, 77.7, 80, 80.1, 81, 84.9])
    x, y = (80 + distances, along) if side in ("left", "top") else (80 - distances, along)
    tissue = tissue if side in ("left", "top") else tissue[:, ::-1]
    if side in ("top", "bottom"):
        tissue, x, y = tissue.T, y, x
    expected = [half_plane_area(d, 50) for d in distances]
    np.testing.assert_allclose(disc_areas(tissue, x, y, mpp), expected, rtol=2e-3)


@pytest.mark.parametrize("block", [1, 8, 16])
def test_ragged_tissue_against_a_fine_grained_witness(block: int) -> None:
    rng = np.random.default_rng(4)
    noise = ndimage.gaussian_filter(rng.normal(size=(1008, 1008)), 25)
    fine = noise > -0.3 * noise.std()
    x, y = rng.uniform(20, 232, (2, 60))
    rows, columns = (np.mgrid[:1008, :1008] + 0.5) * 0.25
    expected = np.array(
        [fine[np.hypot(columns - i, rows - j) <= 50].sum() / 16 for i, j in zip(x, y, strict=True)]
    )
    tissue = fine.reshape(1008 // block, block, 1008 // block, block).mean(axis=(1, 3))
    clear = np.abs(expected - math.pi * 1250) > 20
    areas = disc_areas(tissue, x, y, 0.25 * block)[clear]
    expected = expected[clear]
    assert 0 < np.isnan(areas).sum() < 0.7 * len(areas)
    np.testing.assert_array_equal(np.isnan(areas), expected < math.pi * 1250)
    np.testing.assert_allclose(areas[~np.isnan(areas)], expected[~np.isnan(areas)], rtol=4e-3)


def test_lattice_of_points() -> None:
    x, y = (grid.ravel() * 10.0 for grid in np.mgrid[1:40, 1:40])
    density = local_density(x, y, tissue=np.ones((200, 200), bool), tissue_mpp=2)
    steps = np.mgrid[-5:6, -5:6]
    neighbors = np.count_nonzero(np.hypot(*steps) <= 5) - 1  # those exactly 50 um away count
    inside = (np.minimum(x, y) >= 60) & (np.maximum(x, y) <= 340)
    np.testing.assert_allclose(density[inside], 1e6 * neighbors / (math.pi * 2500), rtol=1e-12)
    corner = (x == 10) & (y == 10)
    assert np.isnan(density[corner]).all()


def test_a_nucleus_does_not_count_itself_and_coincident_ones_count() -> None:
    tissue = np.ones((100, 100), bool)
    disc_mm2 = math.pi * 2500 / 1e6
    x = np.array([60, 100, 100, 149.0])
    density = local_density(x, np.full(4, 100.0), tissue=tissue, tissue_mpp=2)
    np.testing.assert_allclose(density, np.array([2, 3, 3, 2]) / disc_mm2, rtol=1e-12)
    alone = local_density(x[:1], np.full(1, 100.0), tissue=tissue, tissue_mpp=2)
    assert alone.tolist() == [0]


def test_density_is_missing_where_less_than_half_of_the_disc_is_tissue() -> None:
    tissue = np.zeros((100, 100), bool)
    tissue[:, 50:] = True
    x = np.array([99.0, 100, 101])  # outside the tissue by 1 um, on its border, inside by 1 um
    density = local_density(x, np.full(3, 100.0), tissue=tissue, tissue_mpp=2)
    assert np.isnan(density).tolist() == [True, False, False]
    assert density[1] == pytest.approx(1e6 * 2 / (math.pi * 1250), rel=1e-9)


def test_nuclei_outside_the_tissue_are_neighbors_too() -> None:
    tissue = np.zeros((100, 100), bool)
    tissue[:, 45:] = True
    density = local_density(
        np.array([110.0, 70]), np.array([100.0, 100]), tissue=tissue, tissue_mpp=2
    )
    assert density[0] == pytest.approx(1e6 / half_plane_area(20, 50), rel=1e-3)
    assert math.isnan(density[1])


def test_radius_is_in_um() -> None:
    x, y = np.array([100, 115.0]), np.array([100, 100.0])
    tissue = np.ones((200, 200), np.float32)
    assert local_density(x, y, tissue=tissue, tissue_mpp=1, radius_um=14).tolist() == [0, 0]
    near = local_density(x, y, tissue=tissue, tissue_mpp=1, radius_um=16)
    np.testing.assert_allclose(near, 1e6 / (math.pi * 256), rtol=1e-12)


@pytest.mark.parametrize("mpp", [0.25, 0.5, 2, 3.7])
def test_measured_density_uses_the_pixel_corner_frame(mpp: float) -> None:
    labels = np.zeros((round(216 / mpp), round(216 / mpp)), np.uint16)
    labels[:: round(22 / mpp), :: round(22 / mpp)] = 1
    labels[labels > 0] = np.arange(1, labels.sum() + 1)
    table = measure_nuclei(labels, mpp=mpp)
    expected = local_density(
        ((table["x_px"] + 0.5) * mpp).to_numpy(),
        ((table["y_px"] + 0.5) * mpp).to_numpy(),
        tissue=np.ones(labels.shape, bool),
        tissue_mpp=mpp,
    )
    assert 0 < np.isnan(expected).sum() < len(expected) / 2
    np.testing.assert_allclose(table["density_per_mm2"], expected, rtol=2e-3)


def test_no_points_and_no_tissue() -> None:
    none = np.empty(0)
    assert local_density(none, none, tissue=np.ones((3, 3), bool), tissue_mpp=2).shape == (0,)
    for shape in ((0, 0), (3, 0), (3, 3)):
        density = local_density(
            np.array([1.0, 2]), np.ones(2), tissue=np.zeros(shape, bool), tissue_mpp=2
        )
        assert np.isnan(density).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_um": np.ones(3)}, r"one length, got \(2,\) and \(3,\)"),
        ({"y_um": np.array([1, math.nan])}, "must be finite"),
        ({"tissue": np.full((3, 3), 255, np.uint8)}, r"values in \[0, 1\]"),
        ({"tissue": np.full((3, 3), math.nan)}, r"values in \[0, 1\]"),
        ({"tissue": np.ones(3)}, "tissue must be 2-D"),
        ({"tissue_mpp": -1}, "tissue_mpp must be positive, got -1"),
        ({"radius_um": 0}, "radius_um must be positive, got 0"),
    ],
)
def test_unusable_points_or_tissue_are_refused(changes: dict[str, Any], message: str) -> None:
    arguments = {
        "x_um": np.ones(2),
        "y_um": np.ones(2),
        "tissue": np.ones((3, 3)),
        "tissue_mpp": 2.0,
    } | changes
    with pytest.raises(ValueError, match=message):
        local_density(**arguments)


# The registry


def test_registry_holds_the_eight_features_in_order() -> None:
    assert tuple(FEATURES) == FEATURE_NAMES
    assert [entry.name for entry in FEATURES.values()] == list(FEATURES)
    assert [name for name, entry in FEATURES.items() if entry.axial] == ["orientation_deg"]
    assert (FEATURES["orientation_deg"].low, FEATURES["orientation_deg"].high) == (0, 90)
    assert FEATURES["orientation_deg"].fixed_edges
    assert list(measure_shapes(blobs(0), mpp=1)) == ["label", "x_px", "y_px", *SHAPES]


def test_ranges_hold_real_nuclei(shared_data: Path) -> None:
    # Three kidney images of MoNuSeg (HE-...) look like 0.5 um/px; at 0.25 their density would be
    # four times too high.
    paths = sorted((shared_data / "nuclei").glob("*/labels/*.png"))
    table = pd.concat(
        [measure_nuclei(imread(p), mpp=0.5 if "TCGA-HE" in p.name else 0.25) for p in paths]
    )
    for name in [*SHAPES, "density_per_mm2"]:
        if not FEATURES[name].axial:
            assert (
                table[name].dropna().between(FEATURES[name].low, FEATURES[name].high).mean() > 0.999
            )


def test_a_user_adds_a_feature_with_one_function(registry: dict[str, Feature]) -> None:
    @feature(
        "elongation",
        of=("major_axis_um", "minor_axis_um"),
        unit="1",
        low=1,
        high=5,
        meaning="axis ratio",
    )
    def elongation(major: Any, minor: Any) -> Any:
        return major / minor

    @feature(
        "crowding",
        of=("density_per_mm2", "area_um2"),
        unit="1",
        low=0,
        high=1,
        meaning="area per free area",
    )
    def crowding(density: Any, area: Any) -> Any:
        return density * area / 1e6

    labels = ellipse(80, 40, 10)
    labels[0, :3] = 2
    table = measure_nuclei(labels, mpp=0.5)
    assert list(table)[-2:] == ["elongation", "crowding"]
    assert table["elongation"].tolist() == pytest.approx([2, math.inf], rel=0.01)
    np.testing.assert_allclose(
        table["crowding"], table["density_per_mm2"] * table["area_um2"] / 1e6
    )
    assert list(measure_shapes(labels, mpp=0.5)) == ["label", "x_px", "y_px", *SHAPES, "elongation"]
    assert elongation(6, 3) == 2


def test_a_feature_that_can_not_work_is_refused_when_it_is_added(
    registry: dict[str, Feature],
) -> None:
    usual: dict[str, Any] = {
        "of": ("area_um2",),
        "unit": "1",
        "low": 0,
        "high": 1,
        "meaning": "test",
    }
    before = list(registry)
    for name, changes, message in (
        ("area_um2", {}, "the name area_um2 is taken"),
        ("label", {}, "the name label is taken"),
        ("odd", {"of": ("area",)}, "feature odd asks for area; there are mpp, "),
        ("odd", {"low": 1}, "feature odd needs finite low < high, got 1 and 1"),
    ):
        with pytest.raises(ValueError, match=message):
            feature(name, **(usual | changes))(np.sqrt)
    assert list(registry) == before
