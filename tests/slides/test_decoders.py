"""Faulty and odd files: what can't be read is refused in one sentence, the rest looks right."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
from PIL import Image
from slide_images import PINK, noise, opened, plain, png

from morphomil.errors import SlideError
from morphomil.slides.image import open_image
from morphomil.types import ImageSource

if TYPE_CHECKING:
    from pathlib import Path


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


def test_tiff_cut_short_before_its_directory(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One sentence says so, and nobody else a word."""
    path = tmp_path / "a.tif"
    Image.fromarray(noise(200, 200)).save(path)  # Pillow writes the directory first
    moved = bytearray(path.read_bytes())
    moved[4:8] = (2 * len(moved)).to_bytes(4, "little")
    path.write_bytes(moved)
    fails(path, "ends before the list of its images; it was cut short; copy it anew")
    assert capfd.readouterr() == ("", "")


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


@pytest.mark.parametrize("scanner", ["", "Aperio Image Library v12.0\r\n640x640"])
def test_tiles_beyond_all_memory_are_refused(scanner: str, tmp_path: Path) -> None:
    """OpenSlide would end the whole process."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, noise(640, 640), tile=(64, 64), photometric="rgb", compression="deflate",
        description=scanner or None, metadata=None,
    )  # fmt: skip
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages.first.tags["TileLength"].overwrite(2**30)
    fails(path, "says its tiles have 64 x 1073741824 pixels")


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
