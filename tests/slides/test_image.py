"""Pixels by area and resolution: whatever the tiling, the level and the position."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from time import sleep
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from slide_images import GLASS, PINK, Rgb, noise, opened, plain, png, pyramid

from morphomil.slides.flat import ArrayPixels
from morphomil.slides.image import SlideImage, open_image
from morphomil.types import ImageSource

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("kind", ["png", "flat tiff", "tiled tiff"])
def test_level_0_pixels_come_back_and_white_lies_around(tmp_path: Path, kind: str) -> None:
    rgb = noise(700, 1100)
    if kind == "png":
        path = png(tmp_path / "a.png", rgb)
    elif kind == "flat tiff":
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, rgb, photometric="rgb", compression="deflate")
    else:
        path = pyramid(tmp_path / "a.tif", rgb, factors=(1, 4), mpp=0.5)
    with opened(path) as image:
        assert (image.width, image.height, image.mpp) == (1100, 700, 0.5)
        assert np.array_equal(image.read(0, 0, 1100, 700, downsample=1), rgb)
        assert np.array_equal(image.read(500, 505, 30, 20, downsample=1), rgb[505:525, 500:530])
        beyond = image.read(-10, -20, 1130, 750, downsample=1)
    assert np.array_equal(beyond[20:720, 10:1110], rgb)
    beyond[20:720, 10:1110] = 255
    assert (beyond == 255).all()


def in_parts(
    image: SlideImage, x: float, y: float, *, downsample: float, row: int, column: int
) -> Rgb:
    """80 x 70 pixels, read as four areas."""
    parts = np.empty((70, 80, 3), np.uint8)
    for top, bottom in ((0, row), (row, 70)):
        for left, right in ((0, column), (column, 80)):
            corner = (x + left * downsample, y + top * downsample)
            parts[top:bottom, left:right] = image.read(
                *corner, right - left, bottom - top, downsample=downsample
            )
    return parts


@pytest.mark.parametrize("kind", ["png", "tiled tiff", "deflated"])
def test_threads_read_the_same_pixels_and_decode_each_cell_once(tmp_path: Path, kind: str) -> None:
    rgb = noise(1600, 2100)
    if kind == "png":
        path = png(tmp_path / "a.png", rgb)
    elif kind == "deflated":
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, rgb, photometric="rgb", compression="deflate", tile=(256, 256))
    else:
        path = pyramid(tmp_path / "a.tif", rgb, factors=(1, 4), mpp=0.5)
    decoded: Counter[tuple[int, int, int]] = Counter()
    begin = Barrier(8)
    with open_image(ImageSource(path, mpp=0.5)) as image, ThreadPoolExecutor(8) as pool:
        decode = image._pixels.cell

        def count(*cell: int) -> Rgb:
            decoded[cell] += 1
            return decode(*cell)

        image._pixels.cell = count  # type: ignore[method-assign]

        def read(number: int) -> Rgb:
            begin.wait()
            return image.read(40 * number, 0, 1700, 1600, downsample=1)

        for number, area in enumerate(pool.map(read, range(8))):
            assert np.array_equal(area, rgb[:, 40 * number : 40 * number + 1700])
    assert len(decoded) == 4 * 4
    assert set(decoded.values()) == {1}


def test_threads_decode_a_flat_image_once(tmp_path: Path) -> None:
    rgb = noise(600, 2100)
    times = []

    def load() -> Rgb:
        times.append(1)
        sleep(0.05)
        return rgb

    pixels = ArrayPixels(tmp_path / "a.png", load, width=2100, height=600)
    with ThreadPoolExecutor(8) as pool:
        cells = list(pool.map(lambda number: pixels.cell(0, number % 4, number // 4), range(8)))
    assert np.array_equal(cells[5], rgb[512:, 512:1024])
    assert len(times) == 1


rows_and_columns = {"row": st.integers(1, 69), "column": st.integers(1, 79)}


@settings(deadline=None, max_examples=25)
@given(
    x=st.integers(-60, 900),
    y=st.integers(-60, 600),
    downsample=st.sampled_from([0.5, 1.0, 2.0, 3.0, 9.0]),
    **rows_and_columns,
)
def test_whole_positions_and_scales_do_not_depend_on_tiling(
    pair_of_images: dict[str, SlideImage], x: int, y: int, downsample: float, row: int, column: int
) -> None:
    image = pair_of_images["flat"]
    whole = image.read(x, y, 80, 70, downsample=downsample)
    assert np.array_equal(
        in_parts(image, x, y, downsample=downsample, row=row, column=column), whole
    )


@settings(deadline=None, max_examples=25)
@example(x=1.75, y=1.75, downsample=0.7, kind="flat", row=1, column=1)
@example(x=0.0, y=1.75, downsample=1.3, kind="pyramid", row=1, column=1)
@given(
    x=st.floats(-60, 900),
    y=st.floats(-60, 600),
    downsample=st.sampled_from([0.7, 1.3, 2.0, 2.3, 4.0, 4.1, 5.77, 9.0]),
    kind=st.sampled_from(["flat", "pyramid"]),
    **rows_and_columns,
)
def test_other_positions_and_scales_hardly_depend_on_tiling(
    pair_of_images: dict[str, SlideImage],
    x: float,
    y: float,
    downsample: float,
    row: int,
    column: int,
    kind: str,
) -> None:
    image = pair_of_images[kind]
    whole = image.read(x, y, 80, 70, downsample=downsample).astype(int)
    change = np.abs(in_parts(image, x, y, downsample=downsample, row=row, column=column) - whole)
    assert change.max() <= 1
    assert change.any(axis=-1).mean() <= 0.01


@pytest.fixture(scope="module")
def pair_of_images(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same noise flat and as a pyramid whose levels have downsamples that aren't whole (1301 /
    326 = 3.99)."""
    folder = tmp_path_factory.mktemp("pair")
    rgb = noise(1001, 1301)
    flat = opened(png(folder / "a.png", rgb))
    levels = open_image(ImageSource(pyramid(folder / "a.tif", rgb, factors=(1, 4))))
    with flat, levels:
        yield {"flat": flat, "pyramid": levels}


def test_large_areas_are_resampled_in_blocks_without_seams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(png(tmp_path / "a.png", noise(600, 900))) as image:
        whole = image.read(3.5, 2, 290, 190, downsample=3)
        monkeypatch.setattr("morphomil.slides.image.BLOCK_PX", 64)
        assert np.array_equal(image.read(3.5, 2, 290, 190, downsample=3), whole)


def test_halving_is_close_to_the_mean_of_four_pixels(tmp_path: Path) -> None:
    smooth = np.asarray(Image.fromarray(noise(40, 40)).resize((400, 400), Image.Resampling.BICUBIC))
    with opened(png(tmp_path / "a.png", smooth)) as image:
        half = image.read(0, 0, 200, 200, downsample=2).astype(float)
    mean = smooth.reshape(200, 2, 200, 2, 3).mean(axis=(1, 3))
    assert np.abs(half - mean)[1:-1, 1:-1].max() < 5
    assert abs((half - mean)[1:-1, 1:-1].mean()) < 0.1


def test_a_constant_image_stays_constant_at_any_resolution(tmp_path: Path) -> None:
    with opened(png(tmp_path / "a.png", plain(300, 300, PINK))) as image:
        for downsample in (0.37, 1.0, 1.7, 6.0):
            assert (image.read(100, 100, 10, 10, downsample=downsample) == PINK).all()


def test_a_coarse_read_uses_the_coarse_level(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(plain(1024, 1024, PINK), tile=(128, 128), photometric="rgb")
        file.write(plain(256, 256, GLASS), tile=(128, 128), photometric="rgb", subfiletype=1)
    with opened(path) as image:
        assert (image.read(100, 100, 50, 50, downsample=2) == PINK).all()
        assert (image.read(100, 100, 50, 50, downsample=4) == GLASS).all()
        assert (image.read(100, 100, 50, 50, downsample=9)[2:-2, 2:-2] == GLASS).all()


def test_thumbnail(tmp_path: Path) -> None:
    rgb = plain(400, 1000, GLASS)
    rgb[:, 500:] = PINK
    with opened(png(tmp_path / "a.png", rgb)) as image:
        thumbnail = image.thumbnail(100)
        assert image.thumbnail(2000).shape == rgb.shape
    assert thumbnail.shape == (40, 100, 3)
    assert (thumbnail[2:-2, 2:48] == GLASS).all()
    assert (thumbnail[2:-2, 52:98] == PINK).all()


def test_read_rejects_empty_areas(tmp_path: Path) -> None:
    with opened(png(tmp_path / "a.png", noise(9, 9))) as image:
        for width, downsample in ((0, 1.0), (5, 0.0), (5, float("nan"))):
            with pytest.raises(ValueError, match="must be positive"):
                image.read(0, 0, width, 5, downsample=downsample)
