"""Gray stored as RGB is refused; color profiles are applied, recorded and can be left aside."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms
from slide_images import GLASS, PINK, Rgb, noise, plain

from morphomil.errors import SlideError
from morphomil.slides.image import SlideImage, how_read, open_image
from morphomil.types import ImageSource

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def opened(path: Path, **how: Any) -> SlideImage:
    return open_image(ImageSource(path), default_mpp=0.5, **how)


def pixels(path: Path, **how: Any) -> Rgb:
    with opened(path, **how) as image:
        return image.read(0, 0, image.width, image.height, downsample=1)


def swapped_profile() -> bytes:
    """sRGB with the primaries of red and blue exchanged: the strongest change that is easy to
    check."""
    content = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(content[128:132], "big")
    for place in range(132, 132 + 12 * count, 12):
        name = bytes(content[place : place + 4])
        if name in (b"rXYZ", b"bXYZ"):
            content[place : place + 4] = b"bXYZ" if name == b"rXYZ" else b"rXYZ"
    return bytes(content)


def write(path: Path, rgb: Rgb, profile: bytes | None) -> Path:
    """The picture with a color profile, in the format of the path's ending."""
    if path.suffix != ".tif":
        Image.fromarray(rgb).save(path, icc_profile=profile, quality=98)
    else:
        layout: dict[str, Any] = {"tile": (64, 64)} if "tiled" in path.name else {}
        tifffile.imwrite(path, rgb, photometric="rgb", iccprofile=profile, metadata=None, **layout)
    return path


NAMES = pytest.mark.parametrize("name", ["a.png", "a.jpg", "tiled.tif", "a.tif"])


@NAMES
def test_a_profile_other_than_srgb_is_applied(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, plain(100, 100, PINK), swapped_profile())
    assert np.abs(pixels(path).astype(int) - PINK[::-1]).max() <= 3
    assert np.abs(pixels(path, icc=False).astype(int) - PINK).max() <= 2
    with opened(path) as image:
        assert "is applied" in image.notes[-1]
    with opened(path, icc=False) as image:
        assert image.notes == ()


@NAMES
def test_srgb_changes_no_byte(tmp_path: Path, name: str) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    rgb = noise(100, 100)
    path, bare = write(tmp_path / name, rgb, srgb), write(tmp_path / f"bare {name}", rgb, None)
    assert np.array_equal(pixels(path), pixels(bare))
    assert how_read(ImageSource(path)) == ()


@NAMES
def test_profiles_that_cannot_be_applied(tmp_path: Path, name: str) -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for number, profile in enumerate((b"no profile at all" * 20, lab)):
        path = write(tmp_path / f"{number}{name}", plain(100, 100, PINK), profile)
        with pytest.raises(SlideError, match=r"color profile can't be applied.*--no-icc"):
            opened(path)
        assert np.abs(pixels(path, icc=False).astype(int) - PINK).max() <= 2


def gray_tissue(*, jpeg: int | None, tint: bool) -> Rgb:
    """Gray structures, as JPEG keeps them, or as a camera with noise in every channel."""
    small = np.random.default_rng(0).integers(60, 250, (20, 20), np.uint8)
    gray = np.asarray(Image.fromarray(small).resize((600, 600), Image.Resampling.BICUBIC))
    rgb = np.repeat(gray[..., None], 3, axis=2).astype(int)
    if tint:
        rgb = rgb + np.random.default_rng(1).integers(-2, 3, rgb.shape)
    image = Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8))
    if jpeg is not None:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=jpeg)
        image = Image.open(stream)
    return np.asarray(image)


@NAMES
@pytest.mark.parametrize("jpeg", [None, 90, 50])
@pytest.mark.parametrize("tint", [False, True])
def test_gray_stored_as_rgb_is_refused(
    tmp_path: Path, name: str, jpeg: int | None, tint: bool
) -> None:
    path = write(tmp_path / name, gray_tissue(jpeg=jpeg, tint=tint), None)
    with pytest.raises(SlideError, match=r"gray \(stored as RGB\).*H&E color"):
        pixels(path)


def faint(rgb: Rgb) -> Rgb:
    rgb[10:60, 20:90] = (232, 214, 226)
    return rgb


@NAMES
@pytest.mark.parametrize(
    "draw",
    [
        lambda: plain(600, 600, GLASS),
        lambda: plain(600, 600, (255, 255, 255)),
        lambda: plain(600, 600, (0, 0, 0)),
        lambda: faint(plain(600, 600, GLASS)),
        lambda: faint(plain(600, 600, (0, 0, 0))),
    ],
    ids=["glass", "white", "black", "faint on glass", "faint on black"],
)
def test_empty_and_faint_slides_are_not_gray(
    tmp_path: Path, name: str, draw: Callable[[], Rgb]
) -> None:
    assert pixels(write(tmp_path / name, draw(), None)).shape == (600, 600, 3)


def test_a_little_tissue_on_a_large_slide_with_pencil_is_not_gray(tmp_path: Path) -> None:
    rgb = plain(4096, 8192, GLASS)
    rgb[::7] = 90
    rgb[3000:3060, 5000:5060] = PINK
    path = write(tmp_path / "tiled.tif", rgb, None)
    assert pixels(path).shape == rgb.shape


def test_sixteen_bit_png_of_a_camera_with_fewer_bits_is_refused(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    rgb = noise(64, 64)
    for bits in (10, 12, 14):
        values = (rgb.astype(int) * (2**bits - 1) // 255).astype(np.uint16)
        cv2.imwrite(str(tmp_path / "a.png"), values[..., ::-1])
        with pytest.raises(SlideError, match=r"10, 12 or 14 bits; save it as 8-bit RGB"):
            pixels(tmp_path / "a.png")
    cv2.imwrite(str(tmp_path / "a.png"), (rgb.astype(np.uint16) * 257)[..., ::-1])
    assert np.array_equal(pixels(tmp_path / "a.png"), rgb)
