"""Masks and their frame: there and back, patches, windows, bands, and what is stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr
from slide_images import noise, opened, png

from morphomil.slides import masks
from morphomil.slides.masks import (
    PAD_PX,
    UNKNOWN_TYPE,
    DrawnNuclei,
    MaskFrame,
    RegionMasks,
    open_masks,
    outlined_types,
    store_region,
)
from morphomil.spool import Spool

FRAME = MaskFrame(
    shape=(2 * 64 + 2 * PAD_PX, 3 * 64 + 2 * PAD_PX),
    x_px=-100.0,
    y_px=40.0,
    downsample=2.5,
    mpp=0.5,
    patch_px=64,
    image=1,
)
CORNER = (FRAME.x_px + PAD_PX * 2.5, FRAME.y_px + PAD_PX * 2.5)
"""The patch grid begins at this level-0 position."""


def patches(kept: list[bool]) -> pd.DataFrame:
    """Patches of the frame, row by row, numbered from 10."""
    row, column = np.divmod(np.arange(6), 3)
    side = 64 * 2.5
    table = pd.DataFrame({"patch_id": np.arange(10, 16), "x_px": CORNER[0] + column * side})
    return table.assign(y_px=CORNER[1] + row * side, kept=kept)


def stored(folder: Path, labels: np.ndarray, *, frame: MaskFrame = FRAME) -> RegionMasks:
    group = zarr.open_group(folder / "masks.zarr", mode="w")
    tissue = np.ones((2 * 16, 3 * 16), bool)
    store_region(
        group, 0, frame, DrawnNuclei(1, [(0, 0, labels[:100]), (100, 0, labels[100:])]), tissue
    )
    return open_masks(folder / "masks.zarr")[0]


def test_positions_go_to_level_0_and_back() -> None:
    points = np.array([[0.0, 0.0], [1.0, 0.5], [64.25, 191.0]])
    level0 = FRAME.to_level0(points)
    np.testing.assert_array_equal(level0[0], [-100, 40])
    np.testing.assert_array_equal(level0[1], [-97.5, 41.25])
    np.testing.assert_allclose(FRAME.from_level0(level0), points, atol=1e-12)
    np.testing.assert_array_equal(FRAME.to_grid_um([PAD_PX, PAD_PX + 10]), [0, 5])
    assert (FRAME.level0_mpp, FRAME.halo_px) == (0.2, 240)


def test_a_patch_is_a_window_of_the_masks() -> None:
    table = patches([True] * 6)
    rows, columns = FRAME.patch_window(*table.loc[4, ["x_px", "y_px"]])
    assert (rows, columns) == (slice(128, 192), slice(128, 192))
    wide = FRAME.patch_window(*CORNER, margin_px=100)
    assert wide == (slice(0, 228), slice(0, 228))


@pytest.mark.parametrize(
    ("place", "window"),
    [
        (CORNER, (slice(54, 74), slice(54, 74))),
        ((-1e4, 1e4), (slice(236, 256), slice(0, 20))),
    ],
)
def test_a_window_around_a_point_stays_inside(
    place: tuple[float, float], window: tuple[slice, slice]
) -> None:
    assert FRAME.window_around(*place, side_px=20) == window


def test_points_fall_in_kept_patches_only() -> None:
    grid = FRAME.patch_grid(patches([True, True, False, True, True, True]))
    np.testing.assert_array_equal(grid, [[10, 11, -1], [13, 14, 15]])
    inside = np.array([[0, 0], [63.9, 63.9], [64, 0], [130, 10], [0, 64], [191.9, 127.9]]) + PAD_PX
    np.testing.assert_array_equal(FRAME.patch_at(inside, grid), [10, 10, 11, -1, 13, 15])
    outside = np.array([[-0.1, 0], [0, -60], [192, 0], [0, 128]]) + PAD_PX
    np.testing.assert_array_equal(FRAME.patch_at(outside, grid), [-1] * 4)


def test_outlines_of_nuclei_by_type(tmp_path: Path) -> None:
    """A square of one type, one of unknown type, seen in cells of mask pixels and in coarse ones
    on the image; nothing on another image."""
    labels = np.zeros(FRAME.shape, np.int32)
    labels[70:80, 90:100], labels[100:104, 90:94] = 1, 2
    group = zarr.open_group(tmp_path / "masks.zarr", mode="w")
    types = np.array([[0.1, 0.7, 0.1, 0.1], [np.nan] * 4], np.float32)
    drawn = DrawnNuclei(2, [(0, 0, labels)], types=types)
    store_region(group, 0, FRAME, drawn, np.ones((2 * 16, 3 * 16), bool))
    kept = open_masks(tmp_path / "masks.zarr")
    shape = (round((FRAME.y_px + FRAME.shape[0] * 2.5) / 2.5), 120)
    fine = outlined_types(kept, 1, shape=shape, scale=2.5)
    assert (fine == 1).sum() == 36
    assert (fine == UNKNOWN_TYPE).sum() == 12
    rows, columns = np.nonzero(fine == 1)
    assert (rows.min(), rows.max()) == (70 + 16, 79 + 16)
    assert (columns.min(), columns.max()) == (90 - 40, 99 - 40)
    coarse = outlined_types(kept, 1, shape=(24, 12), scale=25)
    assert ((coarse == 1).sum(), (coarse >= 0).sum()) == (1, 1)
    assert (outlined_types(kept, 0, shape=shape, scale=2.5) == -1).all()


def test_masks_come_back_as_they_were_stored(tmp_path: Path) -> None:
    labels = np.arange(FRAME.shape[0] * FRAME.shape[1], dtype=np.int32).reshape(FRAME.shape)
    region = stored(tmp_path, labels)
    assert region.frame == FRAME
    np.testing.assert_array_equal(region.labels[:], labels)
    np.testing.assert_array_equal(region.patch_labels(*CORNER), labels[64:128, 64:128])
    grid = FRAME.patch_grid(patches([True, False, True, True, True, True]))
    tissue, mpp = region.analyzed_tissue(grid)
    assert mpp == 2.0
    assert tissue[:16, 16:32].sum() == 0
    assert tissue.sum() == 5 * 16 * 16
    attributes = dict(zarr.open_group(tmp_path / "masks.zarr", mode="r")["0"].attrs)
    names = ["x_px", "y_px", "downsample", "mpp", "patch_px", "image"]
    assert list(attributes) == names
    assert attributes == {name: getattr(FRAME, name) for name in names}


@pytest.mark.parametrize("known", [True, False])
def test_types_lie_beside_the_labels(tmp_path: Path, known: bool) -> None:
    labels = np.zeros(FRAME.shape, np.int32)
    labels[70:80, 70:80], labels[90:99, 90:99] = 41, 42
    types = np.array([[0.7, 0.1, 0.2, 0.0], [np.nan] * 4], np.float32)
    group = zarr.open_group(tmp_path / "masks.zarr", mode="w")
    drawn = DrawnNuclei(2, [(0, 0, labels)], types=types if known else types[[1, 1]])
    store_region(group, 0, FRAME, drawn, np.ones((32, 48), bool), first_label=41)
    region = open_masks(tmp_path / "masks.zarr")[0]
    assert (region.types is None) == (not known)
    expected = types[[1, 0]] if known else types[[1, 1]]
    np.testing.assert_array_equal(region.types_of([42, 41]), expected)


def test_bands_cover_each_row_once_and_show_a_halo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = np.arange(FRAME.shape[0] * FRAME.shape[1], dtype=np.int32).reshape(FRAME.shape)
    region = stored(tmp_path, labels)
    monkeypatch.setattr(masks, "BAND_PX", 60)
    monkeypatch.setattr(masks, "HALO_UM", 10.0)
    bands = list(region.bands())
    assert [(band.top, band.bottom, band.first) for band in bands] == [
        (0, 60, 0),
        (60, 120, 40),
        (120, 180, 100),
        (180, 240, 160),
        (240, 256, 220),
    ]
    for band in bands:
        last = min(band.bottom + 20, FRAME.shape[0])
        np.testing.assert_array_equal(band.labels, labels[band.first : last])


def test_pixels_of_a_patch_lie_under_its_masks(tmp_path: Path) -> None:
    rgb = noise(400, 400)
    frame = MaskFrame((192, 192), -44.0, -24.0, downsample=1.0, mpp=0.5, patch_px=64, image=0)
    with opened(png(tmp_path / "a.png", rgb)) as image:
        read = frame.read_patch(image, 20.0, 40.0)
    np.testing.assert_array_equal(read, rgb[40:104, 20:84])


@pytest.mark.parametrize("spooled", [False, True])
def test_tissue_of_more_rows_than_a_band_is_stored_whole(tmp_path: Path, spooled: bool) -> None:
    tissue = np.random.default_rng(0).random((2 * masks.BAND_PX + 37, 5)) < 0.5
    given: np.ndarray | Spool = tissue
    if spooled:
        given = Spool(bool, held=0)
        for first in range(0, len(tissue), 100):
            given.add(tissue[first : first + 100])
    group = zarr.open_group(tmp_path / "masks.zarr", mode="w")
    store_region(group, 0, FRAME, DrawnNuclei(0, []), given)
    found = np.asarray(open_masks(tmp_path / "masks.zarr")[0].tissue[:])
    np.testing.assert_array_equal(found, tissue)
    np.testing.assert_array_equal(np.asarray(given), tissue)
