from __future__ import annotations

import json
import subprocess
import sys
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import shapely
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from morphomil.errors import InputError, SlideError
from morphomil.slides.annotations import read_annotation
from morphomil.slides.image import SlideImage, open_image
from morphomil.slides.patches import cut_patches
from morphomil.slides.regions import Region, find_regions, mask_polygons, regions_geojson
from morphomil.slides.tissue import tissue_mask
from morphomil.types import PATCHES, ImageSource, PatchSettings

if TYPE_CHECKING:
    from pathlib import Path

Rgb = NDArray[np.uint8]
PINK = (200, 120, 170)
GLASS = (240, 240, 240)


def noise(height: int, width: int, *, seed: int = 0) -> Rgb:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def plain(height: int, width: int, color: tuple[int, int, int]) -> Rgb:
    return np.full((height, width, 3), color, np.uint8)


def png(path: Path, rgb: Rgb) -> Path:
    Image.fromarray(rgb).save(path)
    return path


def pyramid(
    path: Path,
    rgb: Rgb,
    *,
    factors: tuple[int, ...] = (1,),
    mpp: float | None = 0.25,
    tile: int = 128,
) -> Path:
    """A tiled TIFF as scanners write it; level k holds every k-th pixel."""
    with tifffile.TiffWriter(path) as file:
        for factor in factors:
            tags: dict[str, Any] = {}
            if mpp is not None:
                tags = {"resolution": (1e4 / mpp / factor,) * 2, "resolutionunit": "CENTIMETER"}
            level = rgb[::factor, ::factor]
            file.write(
                level,
                tile=(tile, tile),
                photometric="rgb",
                compression="deflate",
                subfiletype=int(factor > 1),
                metadata=None,
                **tags,
            )
    return path


def opened(path: Path, **known: float) -> SlideImage:
    return open_image(ImageSource(path, mpp=known.get("mpp", 0.5)))


# ------------------------------------------------------------------------------------------- pixels


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


# --------------------------------------------------------------------------------------- pixel size


def test_pixel_size_is_the_manifests_else_the_files_else_the_default(tmp_path: Path) -> None:
    stated, silent = (
        pyramid(tmp_path / "a.tif", noise(99, 99)),
        png(tmp_path / "a.png", noise(99, 99)),
    )
    with open_image(ImageSource(stated)) as image:
        assert image.mpp == pytest.approx(0.25)
    with open_image(ImageSource(stated), default_mpp=0.26) as image:
        assert image.mpp == pytest.approx(0.25)
    with open_image(ImageSource(stated, mpp=0.26), default_mpp=0.5) as image:
        assert image.mpp == 0.26
    with open_image(ImageSource(silent), default_mpp=0.5) as image:
        assert image.mpp == 0.5
    with open_image(ImageSource(silent, mpp=0.3), default_mpp=0.5) as image:
        assert image.mpp == 0.3


def test_pixel_size_that_the_file_contradicts_is_refused(tmp_path: Path) -> None:
    path = pyramid(tmp_path / "a.tif", noise(99, 99))
    with pytest.raises(
        InputError,
        match=r"a\.tif: the manifest says 0\.5 um per pixel, the file "
        r"0\.25",
    ):
        open_image(ImageSource(path, mpp=0.5))
    with pytest.raises(InputError, match=r"a\.tif: --mpp says 0\.2 um per pixel, the file 0\.25"):
        open_image(ImageSource(path), default_mpp=0.2)


def test_unknown_pixel_size_names_the_ways_to_give_it(tmp_path: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"a\.png: pixel size unknown \(the file doesn't record it\).*column "
        r"mpp.*--mpp",
    ):
        open_image(ImageSource(png(tmp_path / "a.png", noise(9, 9))))


def test_72_dpi_is_no_pixel_size(tmp_path: Path) -> None:
    for name, tile in (("tiled.tif", (16, 16)), ("flat.tif", None)):
        path = tmp_path / name
        tifffile.imwrite(
            path,
            noise(64, 64),
            tile=tile,
            photometric="rgb",
            resolution=(72, 72),
            resolutionunit="INCH",
        )
        with pytest.raises(InputError, match=r"the file says 352\.8 um, which no microscope gives"):
            open_image(ImageSource(path))
        with open_image(ImageSource(path), default_mpp=0.5) as image:
            assert image.mpp == 0.5


@pytest.mark.parametrize("mpp", [0.01, 50.0, float("nan")])
def test_absurd_stated_pixel_size_is_refused(tmp_path: Path, mpp: float) -> None:
    with pytest.raises(InputError, match="pixel sizes are"):
        open_image(ImageSource(png(tmp_path / "a.png", noise(9, 9)), mpp=mpp))


def test_pixel_size_of_ome_and_imagej_tiffs(tmp_path: Path) -> None:
    ome = tmp_path / "a.ome.tif"
    size = {
        "PhysicalSizeX": 250.0,
        "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 250.0,
        "PhysicalSizeYUnit": "nm",
    }
    tifffile.imwrite(
        ome,
        noise(64, 64),
        photometric="rgb",
        tile=(16, 16),
        ome=True,
        metadata={"axes": "YXS"} | size,
    )
    with open_image(ImageSource(ome)) as image:
        assert image.mpp == pytest.approx(0.25)
    imagej = tmp_path / "a.tif"
    tifffile.imwrite(imagej, noise(64, 64), imagej=True, resolution=(4, 4), metadata={"unit": "um"})
    with open_image(ImageSource(imagej)) as image:
        assert image.mpp == pytest.approx(0.25)


def test_oblong_pixels_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        noise(64, 64),
        photometric="rgb",
        resolution=(40000, 20000),
        resolutionunit="CENTIMETER",
    )
    with pytest.raises(SlideError, match=r"pixels are 0\.25 x 0\.5 um; resample"):
        open_image(ImageSource(path))


# ----------------------------------------------------------------------------- faulty and odd files


def fails(path: Path, says: str) -> None:
    """Opening, or at the latest reading, ends in one SlideError that names the file."""
    with (
        pytest.raises(SlideError, match=says) as error,
        open_image(ImageSource(path), default_mpp=0.5) as image,
    ):
        image.read(0, 0, image.width, image.height, downsample=1)
    assert str(path) in str(error.value)


def test_missing_empty_and_foreign_files(tmp_path: Path) -> None:
    (tmp_path / "empty.svs").touch()
    (tmp_path / "text.svs").write_text("no slide at all")
    (tmp_path / "stub.tif").write_bytes(b"II*\0\x08\0\0\0")
    (tmp_path / "stub.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    fails(tmp_path / "absent.svs", "No such file")
    fails(tmp_path / "empty.svs", "the file is empty")
    fails(tmp_path / "text.svs", "no image of a known format")
    fails(tmp_path / "stub.tif", "can't be read")
    fails(tmp_path / "stub.jpg", "can't be read")
    fails(tmp_path, "Is a directory|can't be read")


def test_damaged_tile_fails_where_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, noise(1024, 1024), tile=(256, 256), photometric="rgb", compression="deflate"
    )
    whole = path.read_bytes()
    path.write_bytes(whole[:-1000])
    fails(path, "Short read")
    path.write_bytes(whole[:-100_000] + bytes(100_000))
    with opened(path) as image:
        assert image.read(0, 0, 200, 200, downsample=1).std() > 50
        for _ in range(2):  # the error stays: an OpenSlide handle is dead after its first one
            with pytest.raises(SlideError, match=r"a\.tif can't be read: .*; copy it anew"):
                image.read(900, 900, 10, 10, downsample=1)


def test_truncated_jpeg(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(noise(500, 500)).save(path)
    path.write_bytes(path.read_bytes()[:50_000])
    fails(path, "truncated")


def test_images_without_color_are_refused(tmp_path: Path) -> None:
    gray = noise(64, 64)[..., 0]
    for name, image in {
        "gray.jpg": Image.fromarray(gray),
        "gray16.png": Image.fromarray(gray.astype(np.uint16) * 200),
        "gray alpha.png": Image.merge("LA", [Image.fromarray(gray)] * 2),
        "bits.png": Image.fromarray(gray > 99),
        "gray palette.png": Image.fromarray(gray).convert("P"),
        "gray.tif": Image.fromarray(gray),
    }.items():
        image.save(tmp_path / name)
        fails(tmp_path / name, "gray.*H&E color; save it as 8-bit RGB")
    tifffile.imwrite(tmp_path / "tiled.tif", gray, tile=(16, 16))
    fails(tmp_path / "tiled.tif", "gray")
    for name in ("cmyk.jpg", "cmyk.tif"):
        Image.fromarray(noise(64, 64)).convert("CMYK").save(tmp_path / name)
        fails(tmp_path / name, "CMYK.*H&E color")
    tifffile.imwrite(tmp_path / "float.tif", noise(64, 64).astype(np.float32), photometric="rgb")
    fails(tmp_path / "float.tif", "float32 values")


def test_turned_by_exif_is_refused(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(64, 64)).save(tmp_path / "a.jpg", exif=exif)
    fails(tmp_path / "a.jpg", "EXIF tag says to turn it")


def bomb(side: int) -> bytes:
    """A PNG that says it has side x side pixels and holds none."""
    header = side.to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    packed = [
        len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")
        for kind, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def test_bomb_header_is_refused_before_decoding(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(bomb(60_000))
    fails(tmp_path / "a.png", "60000 x 60000 pixels without tiles are too many")


def test_flat_images_may_be_larger_than_pillows_own_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with opened(png(tmp_path / "a.png", plain(100, 100, PINK))) as image:
        assert (image.read(0, 0, 100, 100, downsample=1) == PINK).all()


def test_transparent_pixels_are_white_paper(tmp_path: Path) -> None:
    rgba = np.dstack([noise(64, 64), np.full((64, 64), 255, np.uint8)])
    rgba[:32, :, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "a.png")
    tifffile.imwrite(
        tmp_path / "a.tif", rgba, photometric="rgb", extrasamples=["unassalpha"], tile=(16, 16)
    )
    for name in ("a.png", "a.tif"):
        with opened(tmp_path / name) as image:
            rgb = image.read(0, 0, 64, 64, downsample=1)
        assert (rgb[:32] == 255).all()
        assert np.array_equal(rgb[32:], rgba[32:, :, :3])


def test_sixteen_bits_are_rescaled(tmp_path: Path) -> None:
    rgb = noise(64, 64)
    tifffile.imwrite(tmp_path / "flat.tif", rgb.astype(np.uint16) * 257, photometric="rgb")
    tifffile.imwrite(
        tmp_path / "tiled.tif", rgb.astype(np.uint16) * 257, photometric="rgb", tile=(32, 32)
    )
    for name in ("flat.tif", "tiled.tif"):
        with opened(tmp_path / name) as image:
            assert np.array_equal(image.read(0, 0, 64, 64, downsample=1), rgb)


def test_palette_of_colors_is_read(tmp_path: Path) -> None:
    image = Image.fromarray(noise(64, 64)).quantize(16)
    image.save(tmp_path / "a.png")
    with opened(tmp_path / "a.png") as opened_image:
        assert np.array_equal(
            opened_image.read(0, 0, 64, 64, downsample=1), np.asarray(image.convert("RGB"))
        )


# ------------------------------------------------------------------------------------------ regions


def regions_of(
    path: Path, *, annotation: Path | None = None, mpp: float = 0.5, **options: Any
) -> list[Region]:
    source = ImageSource(path, annotation, mpp)
    with open_image(source) as image:
        return find_regions(
            image, source, image_index=1, first_index=3, settings=PatchSettings(**options)
        )


def annotate(path: Path, polygons: list[Any], *, negative: list[Any] | None = None) -> Path:
    def entries(shapes: list[Any]) -> list[dict[str, Any]]:
        return [
            {"name": f"A{i}", "vertices": [list(xy) for xy in shape.exterior.coords]}
            for i, shape in enumerate(shapes)
        ]

    path.write_text(
        json.dumps({"positive": entries(polygons), "negative": entries(negative or [])})
    )
    return path


@pytest.fixture(scope="module")
def pink_png(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return png(tmp_path_factory.mktemp("pink") / "pink.png", plain(1000, 1000, PINK))


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


# ------------------------------------------------------------------------------------------ patches


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
    assert patches.tissue[:50, :75].all()
    assert patches.tissue.sum() == 50 * 75


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
    assert patches.tissue.sum() * (4 * 0.5e-3) ** 2 == pytest.approx(area, rel=0.01)


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
    tumor, tissue = read_annotation(tmp_path / "regions.geojson")
    assert tree["features"][0]["properties"]["objectType"] == "annotation"
    assert tree["features"][0]["properties"]["name"] == "core"
    assert tumor.polygon.equals(polygon)
    assert (tumor.kind, tissue.name, tissue.polygon.area) == ("tumor", "Tissue", 900)


# ----------------------------------------------------------------------------------- real and large


@pytest.mark.parametrize(
    ("name", "source", "kept"),
    [
        ("351899_0", "white", 113),
        ("351899_2", "white", 20),
        ("469387_3", "white", 19),
        ("351899", "tissue", None),
    ],
)
def test_bcnb_regions(shared_data: Path, name: str, source: str, kept: int | None) -> None:
    path = shared_data / "bcnb" / "regions" / f"{name}.jpg"
    with opened(path) as image:
        (region,) = find_regions(
            image, ImageSource(path), image_index=0, first_index=0, settings=PatchSettings()
        )
        table = cut_patches(
            image, region, slide_id=name, first_patch_id=0, settings=PatchSettings()
        ).table
    assert region.source == source
    if kept is not None:
        white = (np.asarray(Image.open(path)).min(axis=-1) == 255).mean()
        assert table["tissue_mm2"].sum() == pytest.approx(
            (1 - white) * image.width * image.height * 0.25e-6, rel=0.01
        )
        assert table["kept"].sum() == kept


LARGE = """
import sys, time
from pathlib import Path
import shapely
from morphomil.slides import cut_patches, find_regions, open_image
from morphomil.types import ImageSource, PatchSettings
source = ImageSource(Path(sys.argv[1]), Path(sys.argv[2]))
begun = time.monotonic()
kept = 0
with open_image(source) as image:
    first = {"image_index": 0, "first_index": 0}
    tissue = find_regions(image, source, **first, settings=PatchSettings(regions="tissue"))
    settings = PatchSettings()
    for region in find_regions(image, source, **first, settings=settings):
        patches = cut_patches(image, region, slide_id="s", first_patch_id=0, settings=settings)
        kept += int(patches.table["kept"].sum())
# getrusage would give the parent's peak if that is higher
status = Path("/proc/self/status").read_text()
peak = int(status.split("VmHWM:")[1].split()[0])
print(kept, sum(r.polygon.area for r in tissue), peak, time.monotonic() - begun)
"""


def write_large(path: Path, side: int = 60_000) -> None:
    """A pyramid of 1024-pixel tiles, every other one tissue; each tile is compressed once and
    written many times."""
    rng = np.random.default_rng(0)
    tissue = zlib.compress(
        np.clip(rng.normal(PINK, 12, (128, 128, 3)), 0, 255)
        .astype(np.uint8)
        .repeat(8, 0)
        .repeat(8, 1)
    )
    glass = zlib.compress(plain(1024, 1024, GLASS))
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for factor in (1, 4, 16):
            across = -(-(side // factor) // 1024)
            tiles = (
                tissue if (row * factor // 16 + column * factor // 16) % 2 == 0 else glass
                for row in range(across)
                for column in range(across)
            )
            file.write(
                tiles,
                shape=(side // factor, side // factor, 3),
                dtype=np.uint8,
                tile=(1024, 1024),
                photometric="rgb",
                compression="deflate",
                subfiletype=int(factor > 1),
                resolution=(4e4 / factor, 4e4 / factor),
                resolutionunit="CENTIMETER",
            )


def test_a_slide_of_60000_pixels_is_cut_in_bounded_memory(tmp_path: Path) -> None:
    write_large(tmp_path / "a.tif")
    regions = [
        shapely.box(100, 20_000, 59_900, 21_024),
        shapely.Point(30_000, 45_000).buffer(2_000),
    ]
    annotation = annotate(tmp_path / "a.json", regions)
    result = subprocess.run(
        [sys.executable, "-c", LARGE, tmp_path / "a.tif", annotation],
        capture_output=True,
        text=True,
        check=True,
    )
    kept, tissue_px, peak_kb, _ = map(float, result.stdout.split())
    assert 116 * 2 + 30 <= kept <= 117 * 2 + 50
    assert tissue_px == pytest.approx(60_000**2 / 2, rel=0.1)
    assert peak_kb < 1.5 * 2**20
