"""TIFFs as people have them: each is read right, or refused in one sentence that says why."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from slide_images import Rgb, noise

from morphomil.errors import SlideError
from morphomil.slides.image import SlideImage, open_image
from morphomil.types import ImageSource

if TYPE_CHECKING:
    from pathlib import Path

TILED = {"tile": (64, 64), "photometric": "rgb", "metadata": None}
STRIPS = {"rowsperstrip": 16, "photometric": "rgb", "metadata": None}
LAYOUTS = pytest.mark.parametrize("layout", [TILED, STRIPS], ids=["tiles", "strips"])
RGB = noise(150, 170)


def tissue(height: int = 192, width: int = 256) -> Rgb:
    """Smooth pinks and purples, which lossy codecs keep."""
    small = np.random.default_rng(1).integers(0, 60, (6, 8, 3)) + np.array([170, 110, 160])
    image = Image.fromarray(small.astype(np.uint8))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def opened(path: Path) -> SlideImage:
    return open_image(ImageSource(path), default_mpp=0.5)


def pixels(path: Path) -> Rgb:
    with opened(path) as image:
        return image.read(0, 0, image.width, image.height, downsample=1)


def refused(path: Path, says: str) -> None:
    with pytest.raises(SlideError, match=says) as error:
        pixels(path)
    assert str(path).split("#")[0] in str(error.value)


@LAYOUTS
@pytest.mark.parametrize("orientation", range(2, 9))
def test_orientation_other_than_upright_is_refused(
    tmp_path: Path, layout: dict[str, Any], orientation: int
) -> None:
    tag = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "a.tif", RGB, extratags=tag, **layout)
    refused(tmp_path / "a.tif", "says to turn it.*save it upright")


@LAYOUTS
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("fourth", [0, 128, 255])
@pytest.mark.parametrize("compression", [None, "deflate"])
def test_unspecified_fourth_sample_is_no_opacity(
    tmp_path: Path,
    layout: dict[str, Any],
    bits: int,
    planar: str,
    fourth: int,
    compression: str | None,
) -> None:
    rgbx = np.dstack([RGB, np.full(RGB.shape[:2], fourth, np.uint8)])
    values = rgbx if bits == 8 else rgbx.astype(np.uint16) * 257
    if planar == "separate":
        values = np.moveaxis(values, 2, 0)
    tifffile.imwrite(
        tmp_path / "a.tif",
        values,
        planarconfig=planar,
        extrasamples=["unspecified"],
        compression=compression,
        **layout,
    )
    assert np.array_equal(pixels(tmp_path / "a.tif"), RGB)


@LAYOUTS
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("kind", ["assocalpha", "unassalpha"])
def test_both_kinds_of_opacity(
    tmp_path: Path, layout: dict[str, Any], bits: int, kind: str
) -> None:
    colors = np.array([[200, 100, 150]] * 2 + [[100, 60, 90]], np.uint8)
    stored = np.repeat(np.repeat(colors[None], 96, 0), 64, 1)
    alpha = np.full(stored.shape[:2], 255, np.uint8)
    alpha[:48] = 128
    right = np.where(
        (alpha == 255)[..., None],
        stored,
        (stored if kind == "assocalpha" else stored * (128 / 255)) + 127,
    )
    if kind == "assocalpha":
        stored = np.minimum(stored, alpha[..., None])
        right = stored + (255.0 - alpha[..., None])
    values = np.dstack([stored, alpha])
    values = values if bits == 8 else values.astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "a.tif", values, extrasamples=[kind], **layout)
    assert np.abs(pixels(tmp_path / "a.tif") - right).max() <= 2


@LAYOUTS
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("compression", [None, "deflate"])
def test_fewer_bits_than_stored_are_scaled(
    tmp_path: Path, layout: dict[str, Any], bits: int, compression: str | None
) -> None:
    values = np.rint(RGB.astype(float) * ((2**bits - 1) / 255)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", values, compression=compression, **layout)
    assert np.array_equal(pixels(tmp_path / "a.tif"), RGB)
    with opened(tmp_path / "a.tif") as image:
        said = f"{bits} of 16 bits" in " ".join(image.notes)
    assert said == (bits < 16 and "tile" in layout)


@LAYOUTS
def test_significant_bits_that_the_file_states(tmp_path: Path, layout: dict[str, Any]) -> None:
    dark = ((RGB // 8).astype(int) * 4095 // 255).astype(
        np.uint16
    )  # its values would fit into 10 bits
    tag = [(341, "H", 3, (4095,) * 3, True)]
    tifffile.imwrite(tmp_path / "a.tif", dark, extratags=tag, **layout)
    assert np.abs(pixels(tmp_path / "a.tif").astype(int) - RGB // 8).max() <= 1
    ome = layout | {"metadata": {"axes": "YXS", "SignificantBits": 12}}
    tifffile.imwrite(tmp_path / "a.ome.tif", dark, **ome)
    assert np.abs(pixels(tmp_path / "a.ome.tif").astype(int) - RGB // 8).max() <= 1


def test_significant_bits_that_are_no_number_are_not_used(tmp_path: Path) -> None:
    values = RGB.astype(np.uint16) * 257
    metadata = {"axes": "YXS", "SignificantBits": "9" * 5000}
    tifffile.imwrite(tmp_path / "a.ome.tif", values, **TILED | {"metadata": metadata})
    assert b"9" * 5000 in (tmp_path / "a.ome.tif").read_bytes()
    assert np.abs(pixels(tmp_path / "a.ome.tif").astype(int) - RGB).max() <= 1


@LAYOUTS
@pytest.mark.parametrize("dtype", ["float32", "uint32", "int16", "int8", "float16"])
def test_other_numbers_are_refused(tmp_path: Path, layout: dict[str, Any], dtype: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", (RGB // 2).astype(dtype), **layout)
    refused(tmp_path / "a.tif", f"{dtype} values.*save it as 8-bit RGB")


def jpeg_2000(tile: Rgb) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(tile).save(stream, "JPEG2000", no_jp2=True, irreversible=False)
    return stream.getvalue()


def ycc_jpeg_2000(tile: Rgb) -> bytes:
    stream = io.BytesIO()
    turned = np.asarray(Image.fromarray(tile).convert("YCbCr"))
    Image.fromarray(turned).save(stream, "JPEG2000", no_jp2=True, mct=0)
    return stream.getvalue()


def webp(tile: Rgb) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(tile).save(stream, "WEBP", lossless=True)
    return stream.getvalue()


def jpeg(tile: Rgb) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(tile).save(stream, "JPEG", quality=98, subsampling=0)
    return stream.getvalue()


def lzw(tile: Rgb) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(tile).save(stream, "TIFF", compression="tiff_lzw")
    stream.seek(0)
    with tifffile.TiffFile(stream) as file:
        page: Any = file.pages.first
        assert len(page.dataoffsets) == 1
        start, count = page.dataoffsets[0], page.databytecounts[0]
    return stream.getvalue()[start : start + count]


def write_tiles(path: Path, rgb: Rgb, encode: Any, compression: int, **tags: Any) -> None:
    """A TIFF of 64 x 64 tiles that `encode` makes; tifffile itself has few encoders."""
    tiles = [
        encode(rgb[y : y + 64, x : x + 64])
        for y in range(0, rgb.shape[0], 64)
        for x in range(0, rgb.shape[1], 64)
    ]
    photometric = tags.pop("photometric", "rgb")
    tifffile.imwrite(
        path,
        iter(tiles),
        shape=rgb.shape,
        dtype="uint8",
        tile=(64, 64),
        metadata=None,
        photometric=photometric,
        compression=8,
        **tags,
    )
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        tag = file.pages.first.tags["Compression"]
        content[tag.valueoffset : tag.valueoffset + 2] = compression.to_bytes(2, "little")
        tag = file.pages.first.tags["PhotometricInterpretation"]
        if photometric == "ycbcr":
            content[tag.valueoffset : tag.valueoffset + 2] = (6).to_bytes(2, "little")
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("encode", "compression"),
    [
        (jpeg_2000, 34712),
        (jpeg_2000, 33004),
        (jpeg_2000, 33005),
        (ycc_jpeg_2000, 33003),
        (webp, 50001),
        (lzw, 5),
    ],
)
def test_compressions(tmp_path: Path, encode: Any, compression: int) -> None:
    rgb = tissue()
    write_tiles(tmp_path / "a.tif", rgb, encode, compression)
    assert np.abs(pixels(tmp_path / "a.tif").astype(int) - rgb).max() <= 3


def test_compression_without_decoder_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("morphomil.slides.tiff_tiles.has_imagecodecs", lambda: False)
    for compression in (50002, 22610, 34887):
        write_tiles(tmp_path / "a.tif", tissue(), webp, compression)
        refused(tmp_path / "a.tif", r"compressed as .*pip install 'morphomil\[codecs\]'")


@pytest.mark.parametrize(("kind", "compression"), [("jpegxl", 50002), ("jpegxr", 22610)])
def test_compressions_of_the_extra(tmp_path: Path, kind: str, compression: int) -> None:
    codecs: Any = pytest.importorskip("imagecodecs")
    encode, lossless = getattr(codecs, f"{kind}_encode"), {"level": 100}
    rgb = tissue()
    write_tiles(
        tmp_path / "a.tif",
        rgb,
        lambda tile: encode(np.ascontiguousarray(tile), **lossless),
        compression,
    )
    assert np.abs(pixels(tmp_path / "a.tif").astype(int) - rgb).max() <= 3
